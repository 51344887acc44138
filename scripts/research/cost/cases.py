"""All measurements: names, arguments, number of turns, and about how long a turn takes.

Names are CASE/WHAT/PRECISION. `FULL` has the paper's sizes. `QUICK` has the same measurements with a tiny network and tiny frames,
which take a minute, for tests.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

PRECISIONS = ("fp32", "bf16")
CLASSES = 19  # of BDD100K
NAMES = {"fp32": "fp32", "bf16": "bf16 autocast", "bf16-weights": "bf16 weights"}


@dataclass(frozen=True)
class Measurement:
    """
    One measurement.

    Attributes:
        probe: a key of `probes.PROBES`. arguments: of the probe.
        turns: number of processes that measure it, one after another.
        seconds: about how long a turn takes on two cores without a GPU.
        processes: that work together in a turn. threads: of each; None: as many as the command says.
        long: only with --long.
    """

    name: str
    probe: str
    arguments: dict[str, Any]
    turns: int = 1
    seconds: float = 10.0
    processes: int = 1
    threads: int | None = None
    long: bool = False


@dataclass(frozen=True)
class Geometry:
    """Sizes as (height, width) in pixels, windows in patches of 16 pixels."""

    quick: bool = False
    model: dict[str, Any] = field(default_factory=lambda: {"preset": "base"})
    segmentation_frame: tuple[int, int] = (720, 1280)
    segmentation_window: tuple[int, int] = (22, 22)
    flow_frame: tuple[int, int] = (1080, 1920)
    flow_window: tuple[int, int] = (10, 10)
    tile: tuple[int, int] = (320, 384)
    frames: dict[str, tuple[int, int]] = field(
        default_factory=lambda: {"540p": (544, 960), "1080p": (1088, 1920), "1440p": (1440, 2560), "4K": (2160, 3840)}
    )  # padded to patches
    small_frames: dict[str, tuple[int, int]] = field(
        default_factory=lambda: {"540p": (540, 960), "1080p": (1080, 1920)}
    )
    square: int = 4096  # side of the ceiling's largest product
    width: int = 768
    kept_windows: tuple[int, ...] = (8, 16, 22, 32)  # sides of the windows of `scaling`
    small_preset: str = "small"  # for trainings in one and two processes

    @property
    def crop(self) -> tuple[int, int]:
        """A tile in patches."""
        return self.tile[0] // 16, self.tile[1] // 16


FULL = Geometry()
QUICK = Geometry(
    quick=True,
    model={"preset": "tiny", "config": {"head_type": "dpt"}},
    segmentation_frame=(96, 160),
    segmentation_window=(2, 2),
    flow_frame=(120, 192),
    flow_window=(2, 2),
    tile=(64, 64),
    frames={"540p": (64, 96), "1080p": (128, 192), "1440p": (160, 256), "4K": (256, 384)},
    small_frames={"540p": (256, 272), "1080p": (264, 280)},  # the smallest for RAFT, which warms up on half the size
    square=256,
    width=192,
    kept_windows=(1, 2),
    small_preset="tiny",
)
METHODS = {  # method -> timed passes
    "winwin-flow": 2,
    "winwin-flow-bf16": 2,
    "opencv-dis": 5,
    "opencv-farneback": 5,
    "opencv-tvl1": 1,
    "raft-small": 1,
    "raft-large": 1,
}


def cases(geometry: Geometry) -> dict[str, list[Measurement]]:
    """The measurements of each case in their order. A measurement may belong to several cases."""
    return {
        "arithmetic": arithmetic(geometry),
        "train_step_720p": train_step_720p(geometry),
        "flow_1080p": flow_1080p(geometry),
        "memory_curve": memory_curve(geometry),
        "train_step_flow_1080p": train_step_flow_1080p(geometry),
        "small_flow": small_flow(geometry),
        "scaling": scaling(geometry),
    }


# ------------------------------------------------------------------ training


def segmentation_model(geometry: Geometry) -> dict[str, Any]:
    """The geometry's network with a convolutional head."""
    return {**geometry.model, "config": {**geometry.model.get("config", {}), "head_type": "conv"}}


def train_step_720p(geometry: Geometry) -> list[Measurement]:
    kinds = {
        "full": ({"kind": "full"}, 1, {"fp32": 120, "bf16": 76}),
        "windows": (windows(geometry.segmentation_window), 3, {"fp32": 41, "bf16": 22}),
    }
    return [
        Measurement(
            f"train_step_720p/{name}/{precision}",
            "train",
            {
                "task": "semantic-segmentation",
                "frame": geometry.segmentation_frame,
                "windows": kept,
                "precision": precision,
                "batch": 2,
                "model": segmentation_model(geometry),
                "steps": steps,
                "loader": True,
            },
            turns=1 if geometry.quick else 2,
            seconds=seconds[precision],
        )
        for precision in PRECISIONS
        for name, (kept, steps, seconds) in kinds.items()
    ]


def train_step_flow_1080p(geometry: Geometry) -> list[Measurement]:
    """Batches of one pair, the most that fits with a full frame; in bf16 also four pairs in windows and in crops."""
    kept = {
        "windows": windows(geometry.flow_window),
        "crops": {"kind": "crop", "size": list(geometry.crop)},
        "full": {"kind": "full"},
    }

    def step(
        name: str, precision: str, batch: int, seconds: float, turns: int, long: bool = False, **more: Any
    ) -> Measurement:
        arguments = {
            "task": "optical-flow",
            "frame": geometry.flow_frame,
            "windows": kept[name.split("-")[0]],
            "second_windows": {"size": list(geometry.flow_window), "jitter": 2.0},
            "precision": precision,
            "batch": batch,
            "model": geometry.model,
            "loader": True,
            **more,
        }
        name = f"train_step_flow_1080p/{name}/{precision}"
        return Measurement(name, "train", arguments, turns=turns, seconds=seconds, long=long)

    found, turns = [], 1 if geometry.quick else 2
    for precision in PRECISIONS:
        found.append(step("windows", precision, 1, 20, turns, steps=3))
        found.append(step("crops", precision, 1, 30, turns, steps=3))
        once = {"steps": 1, "warmup": 0, "loading": 1, "checkpointing": True}
        full = step("full", precision, 1, 380 if precision == "fp32" else 300, 1, precision == "fp32", **once)
        found.append(full)
    found.append(step("windows-batch-4", "bf16", 4, 25, 1, steps=2))
    found.append(step("crops-batch-4", "bf16", 4, 60, 1, steps=2))
    return found


def windows(size: tuple[int, int], count: int = 2) -> dict[str, Any]:
    return {"kind": "windows", "count": count, "size": list(size)}


# ------------------------------------------------------------------ whole frames


def direct(geometry: Geometry, size: str, precision: str, seconds: float, **more: Any) -> Measurement:
    arguments = {
        "model": geometry.model,
        "size": geometry.frames[size],
        "precision": precision,
        "warmup": geometry.tile,
    }
    return Measurement(f"direct/{size}/{precision}", "direct", arguments, seconds=seconds, **more)


def ceiling(geometry: Geometry) -> Measurement:
    height, width = geometry.frames["1080p"]
    sizes = {
        "square": geometry.square,
        "tokens": height * width // 256,
        "width": geometry.width,
        "conv": (height // 4, width // 4),
    }
    return Measurement("ceiling", "ceiling", sizes, turns=1 if geometry.quick else 3, seconds=32)


def flow_1080p(geometry: Geometry) -> list[Measurement]:
    """Several turns of whatever enters a ratio. Tiles are measured in a strip as wide as the frame."""
    strip = (geometry.tile[0], geometry.flow_frame[1])
    found = [ceiling(geometry)]
    for precision, direct_seconds, tiled_seconds in (("fp32", 110, 52), ("bf16", 70, 32)):
        turns = 1 if geometry.quick else 3 if precision == "fp32" else 2
        found.append(direct(geometry, "1080p", precision, direct_seconds, turns=turns))
        arguments = {
            "model": geometry.model,
            "strip": strip,
            "tile": geometry.tile,
            "precision": precision,
            "tile_batches": [1, 3],
        }
        found.append(Measurement(f"tiled/{precision}", "tiled", arguments, turns=turns, seconds=tiled_seconds))
    found.append(direct(geometry, "1080p", "bf16-weights", 70, long=True))
    found.append(counts(geometry))
    return found


def memory_curve(geometry: Geometry) -> list[Measurement]:
    """Whole frames of all sizes; 1080p's measurements are those of flow_1080p."""
    found = [m for m in flow_1080p(geometry) if m.name in ("direct/1080p/fp32", "direct/1080p/bf16")]
    for size, precision, seconds, long in (
        ("540p", "fp32", 15, False),
        ("540p", "bf16", 12, False),
        ("1440p", "fp32", 290, False),
        ("1440p", "bf16", 190, True),
        ("4K", "fp32", 1150, False),
        ("4K", "bf16", 900, True),
    ):
        found.append(direct(geometry, size, precision, seconds, long=long))
    return found


# ------------------------------------------------------------------ arithmetic


def counts(geometry: Geometry) -> Measurement:
    """FLOPs of all passes and training steps that are timed."""
    passes: dict[str, Any] = {}
    for name, (height, width) in {**geometry.frames, "tile": geometry.tile}.items():
        passes[name] = {"task": "optical-flow", "model": geometry.model, "views": [[1, 3, height, width]] * 2}

    def training(task: str, views: list[list[int]]) -> dict[str, Any]:
        model = segmentation_model(geometry) if task == "semantic-segmentation" else geometry.model
        return {"task": task, "model": model, "views": views, "backward": True}

    height, width = (-(-side // 16) * 16 for side in geometry.segmentation_frame)
    rows, columns = geometry.segmentation_window
    passes["train_step_720p/full"] = training("semantic-segmentation", [[2, 3, height, width]])
    passes["train_step_720p/windows"] = training("semantic-segmentation", [[2, 2, 3, rows * 16, columns * 16]])
    rows, columns = geometry.flow_window
    flow_views = {
        "full": [1, 3, *geometry.frames["1080p"]],
        "windows": [1, 2, 3, rows * 16, columns * 16],
        "crops": [1, 1, 3, *geometry.tile],
    }
    for name, shape in flow_views.items():
        passes[f"train_step_flow_1080p/{name}"] = training("optical-flow", [shape] * 2)
    return Measurement("counts", "count", {"passes": passes}, seconds=15)


def arithmetic(geometry: Geometry) -> list[Measurement]:
    return [ceiling(geometry), counts(geometry)]


def profiles(geometry: Geometry, size: str, precisions: list[str]) -> list[Measurement]:
    """Measurements of --profile, which belong to no case."""
    seconds = {"540p": 25, "1080p": 110, "1440p": 270, "4K": 1000}
    arguments = {"model": geometry.model, "size": geometry.frames[size], "warmup": geometry.tile}
    return [
        Measurement(f"profile/{size}/{p}", "profile", {**arguments, "precision": p}, seconds=seconds[size])
        for p in precisions
    ]


# ------------------------------------------------------------------ the small checkpoint; scaling


def small_flow(geometry: Geometry) -> list[Measurement]:
    return [
        Measurement(
            f"small_flow/{method}/{size}",
            "small-flow",
            {"method": method, "size": pixels, "runs": 1 if geometry.quick else runs},
            seconds=40 if method == "raft-large" else 12,
        )
        for size, pixels in geometry.small_frames.items()
        for method, runs in METHODS.items()
    ]


def scaling(geometry: Geometry) -> list[Measurement]:
    """Training steps of segmentation in bf16 without loading: by tokens, by batch, and by processes with a smaller network."""

    def step(name: str, kept: dict[str, Any], batch: int, seconds: float, **more: Any) -> Measurement:
        arguments = {
            "task": "semantic-segmentation",
            "frame": geometry.segmentation_frame,
            "windows": kept,
            "precision": "bf16",
            "batch": batch,
            "model": more.pop("model", segmentation_model(geometry)),
            "steps": 2,
            "loader": False,
        }
        return Measurement(f"scaling/{name}", "train", arguments, seconds=seconds, **more)

    found = [step(f"tokens/{2 * side * side}", windows((side, side)), 1, 12) for side in geometry.kept_windows]
    found.append(step("tokens/full", {"kind": "full"}, 1, 35))
    middle = geometry.kept_windows[1]
    # a batch of one image is among the tokens above
    found += [step(f"batch/{batch}", windows((middle, middle)), batch, 10 + 3 * batch) for batch in (2, 4)]
    small = {"preset": geometry.small_preset, "config": {"head_type": "conv"}}
    for processes, threads in ((1, 1), (1, 2), (2, 1)):
        name = f"processes/{processes} x {threads} threads"
        kept = windows((middle, middle))
        found.append(step(name, kept, 4, 20, model=small, processes=processes, threads=threads))
    return found
