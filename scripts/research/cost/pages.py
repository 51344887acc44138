"""cost.md, made from cost.json: the main figures, then a section for each case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from research.cost.cases import METHODS, NAMES, PRECISIONS, Geometry
from research.cost.pictures import draw_curve, draw_ratios
from research.files import write_text
from research.pages import percent, table

Figures = dict[str, Any]
KINDS = {
    "full": "full frame",
    "windows": "two windows",
    "crops": "crops of a tile's size",
    "windows-batch-4": "two windows, 4 pairs",
    "crops-batch-4": "crops, 4 pairs",
}


def headlines(made: Figures) -> list[list[str]]:
    """The main figures that are measured: [what, figure]."""
    training, flow = made.get("train_step_720p", {}), made.get("flow_1080p", {})
    croco = flow.get("croco_flow", {})
    lines = [
        ("training step, 1280x720: time of a full frame over two windows, fp32", training.get("time_ratio"), "x"),
        ("training step, 1280x720: memory of two windows over a full frame, bf16", training.get("memory_ratio"), "x"),
        ("1080p pair: time of tiles at overlap 0.9 over one pass", flow.get("tiled_0.9_over_direct"), "x"),
        ("1080p pair: time of tiles at overlap 0.7 over one pass", flow.get("tiled_0.7_over_direct"), "x"),
        ("1080p pair: time of the public CroCo-Flow code over one pass", croco.get("over_direct"), "x"),
        ("1080p pair: peak memory, fp32", flow.get("peak_memory_gb"), " GB"),
        ("1080p pair: share of the fp32 ceiling", flow.get("ceiling_share_fp32"), ""),
        ("1080p pair: share of the bf16 ceiling", flow.get("ceiling_share_bf16"), ""),
    ]
    return [[what, f"{value:.3g}{unit}"] for what, value, unit in lines if value is not None]


def write(
    about: Figures, made: Figures, measurements: Figures, not_measured: dict[str, str], folder: Path, geometry: Geometry
) -> None:
    """Writes FOLDER/cost.md, and cost-curve.png and cost-ratios.png where there is something to draw."""
    pictures = [name for name, draw in (("cost-ratios", draw_ratios), ("cost-curve", draw_curve)) if draw(made, folder)]
    parts = [heading(about, measurements)]
    lines = headlines(made)
    if lines:
        parts.append("## Main figures\n\n" + table(["", "measured"], lines))
    if "cost-ratios" in pictures:
        parts.append("![How many times as long the alternatives take](cost-ratios.png)")
    sections = {
        "train_step_720p": segmentation_section,
        "train_step_flow_1080p": flow_training_section,
        "flow_1080p": flow_section,
        "memory_curve": curve_section,
        "arithmetic": arithmetic_section,
        "profile": profile_section,
        "small_flow": small_flow_section,
        "scaling": scaling_section,
    }
    for name, section in sections.items():
        if name in made:
            parts.append(section(made[name], geometry))
    if not_measured:
        lines = [[name, reason] for name, reason in not_measured.items()]
        parts.append("## Not measured\n\n" + "\n".join(f"- `{name}`: {reason}" for name, reason in lines))
    write_text(folder / "cost.md", "\n\n".join(parts) + "\n")


def heading(about: Figures, measurements: Figures) -> str:
    """Title, command, machine and definitions."""
    where, versions = about["machine"], about["versions"]
    device = where["accelerator"] or f"{where['cpu']}, {about['threads']} threads on {where['cores']} cores"
    dates = sorted({entry["date"] for entry in measurements.values()})
    days = " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else about["date"][:10]
    codes = {entry["code"] for entry in measurements.values()}
    mixed = (
        f" **Measured with {len(codes)} versions of the code: do not compare figures of different versions.**"
        if len(codes) > 1
        else ""
    )
    quick = " **A trial with a tiny network and tiny frames: these figures mean nothing.**" if about["quick"] else ""
    return (
        f"# What Win-Win costs\n\n```bash\n{about['command']}\n```\n\n"
        f"{days}, winwin-hf {versions['winwin-hf']}, torch {versions['torch']}, {device}; load average before: "
        f"{about['load_before'] or 0:.1f}.{mixed}{quick}\n\n"
        "The network is the base preset (ViT-B, 12 + 12 blocks, DPT head for flow) with random weights. Each figure is the median of "
        "several turns; each turn is a process of its own. `peak` is the most memory that the process holds resident, `above idle` the "
        "part of it beyond the idle process, after imports and with the model built. On a GPU both are what torch has allocated. "
        "A multiplication with an addition is two FLOPs, counted by `torch.utils.flop_counter` on the meta device. The ceiling is "
        "the fastest matrix product of all turns, a large square one or one of the network's shapes, measured in the same run."
    )


# ------------------------------------------------------------------ sections


STEP_COLUMNS = [
    "",
    "s / step",
    "forward and backward, s",
    "optimiser, s",
    "loading a batch, s",
    "above idle, GB",
    "TFLOP",
    "of the ceiling",
]


def step_lines(kinds: Figures, precision: str) -> list[list[Any]]:
    lines = []
    for kind, name in KINDS.items():
        if kind in kinds:
            f = kinds[kind]
            times = [f.get(key) for key in ("network_seconds", "optimizer_seconds", "loading_seconds")]
            work = f["gflop"] / 1e3 if "gflop" in f else None
            lines.append(
                [
                    f"{name}, {NAMES[precision]}",
                    f["seconds"],
                    *times,
                    f["above_idle_gb"],
                    work,
                    percent(f.get("ceiling_share")),
                ]
            )
    return lines


def ratio_lines(precision: str, named: dict[str, Figures]) -> list[list[Any]]:
    return [
        [f"{name}, {NAMES[precision]}", *(r.get(f"{key}_ratio") for key in ("time", "network", "arithmetic", "memory"))]
        for name, r in named.items()
        if r
    ]


RATIO_COLUMNS = ["", "step", "forward and backward", "arithmetic", "memory, the other way round"]


def segmentation_section(made: Figures, geometry: Geometry) -> str:
    lines, ratios = [], []
    for precision in PRECISIONS:
        kinds = made.get(precision, {})
        lines += step_lines(kinds, precision)
        if "time_ratio" in kinds:
            ratios += ratio_lines(precision, {"full frame / two windows": kinds})
    (height, width), (rows, columns) = geometry.segmentation_frame, geometry.segmentation_window
    total = -(-height // 16) * -(-width // 16)
    return (
        f"## Training step, segmentation at {width}x{height}\n\nConvolutional head, batch 2: the full frame ({total} tokens) against "
        f"two windows of {rows}x{columns} ({2 * rows * columns} tokens). A step includes the loader (one process that "
        "decodes JPEG, mirrors and changes colours), forward, backward, clipping and AdamW, but no average of the weights.\n\n"
        + table(STEP_COLUMNS, lines)
        + ("\n\n" + table(RATIO_COLUMNS, ratios) if ratios else "")
    )


def flow_training_section(made: Figures, geometry: Geometry) -> str:
    lines, ratios = [], []
    for precision in PRECISIONS:
        kinds = made.get(precision, {})
        lines += step_lines(kinds, precision)
        named = {
            "full frame / two windows": kinds.get("full_over_windows", {}),
            "crops / two windows": kinds.get("crops_over_windows", {}),
            "crops / two windows, 4 pairs": kinds.get("crops_over_windows_batch_4", {}),
        }
        ratios += ratio_lines(precision, named)
    (rows, columns), (height, width) = geometry.flow_window, geometry.tile
    return (
        f"## Training step, flow at 1920x1080\n\nDPT head without matching; one pair, or four. Two windows of {rows}x{columns} "
        f"in each view ({2 * rows * columns} tokens), crops of {height}x{width} pixels ({height * width // 256} tokens) and the full "
        "frame. The full frame has gradient checkpoints and was measured once, without a warm-up. Frames have Spring's size and format: "
        "its flow has four vectors for each pixel, and each pair's whole file is read.\n\n"
        + table(STEP_COLUMNS, lines)
        + ("\n\n" + table(RATIO_COLUMNS, ratios) if ratios else "")
    )


def flow_section(made: Figures, geometry: Geometry) -> str:
    lines = []
    for precision in (*PRECISIONS, "bf16-weights"):
        key = f"direct_seconds_{precision}"
        if key in made:
            memory = made["peak_memory_gb" if precision == "fp32" else f"peak_memory_gb_{precision}"]
            work = made["tflop"].get("direct")
            shares = percent(made.get(f"ceiling_share_{precision}"))
            lines.append([f"direct, {NAMES[precision]}", 1, made[key], 1.0, work, shares, memory])
        suffix = "" if precision == "fp32" else f"_{precision}"
        for overlap, passes in made["passes"].items():
            if f"tiled_{overlap}_seconds_{precision}" in made:
                shares = percent(made.get(f"tile_ceiling_share_{precision}"))
                over = made.get(f"tiled_{overlap}_over_direct{suffix}")
                work = made["tflop"].get(f"tiled_{overlap}")
                seconds = made[f"tiled_{overlap}_seconds_{precision}"]
                lines.append(
                    [f"tiles, overlap {overlap}, {NAMES[precision]}", passes, seconds, over, work, shares, None]
                )
    croco = made.get("croco_flow")
    if croco:
        over = croco["over_direct"]
        lines.append(
            [
                "public CroCo-Flow code, direct, fp32 (another machine)",
                1,
                croco["seconds"],
                over,
                None,
                None,
                croco["peak_gb"],
            ]
        )
    columns = ["", "passes", "s", "times direct", "TFLOP", "of the ceiling", "peak, GB"]
    text = "## One pair at 1920x1080\n\n" + table(columns, lines)
    if "tiled_extrapolated" in made:
        text += f"\n\nTiles are of {geometry.tile[0]}x{geometry.tile[1]} pixels. {made['tiled_extrapolated']}"
    if croco:
        text += (
            f"\n\nThe public CroCo-Flow code: {croco['source']}. Its tile of 320x384 took {croco['tile_seconds']} s and "
            f"{croco['tile_peak_gb']} GB; that machine's ceiling is {croco['ceiling_gflops_fp32']:.0f} GFLOP/s"
        )
        if "over_direct_at_our_ceiling" in croco:
            text += f". Scaled to this machine's ceiling it takes {croco['over_direct_at_our_ceiling']:.1f} times as long as one pass here"
        text += "."
    return text


def curve_section(made: Figures, geometry: Geometry) -> str:
    columns = [
        "",
        "pixels",
        "tokens",
        "s",
        "peak, GB",
        "above idle, GB",
        "above idle, GB / megapixel",
        "one tokens x tokens, GB",
        "TFLOP",
        "of the ceiling",
    ]
    lines = []
    for precision, found in made.items():
        for f in found:
            work = f["gflop"] / 1e3 if "gflop" in f else None
            figures = [
                f"{f['pixels'] / 1e6:.2f} M",
                f["tokens"],
                f["seconds"],
                f["peak_gb"],
                f["above_gb"],
                f["above_gb"] * 1e6 / f["pixels"],
                f["tokens_x_tokens_gb"],
            ]
            lines.append([f"{f['size']}, {NAMES[precision]}", *figures, work, percent(f.get("ceiling_share"))])
    return (
        "## Time and memory against pixels, direct\n\n![Time and memory against pixels](cost-curve.png)\n\n"
        + table(columns, lines)
        + "\n\n`one tokens x tokens`: the size of the attention weights of one layer, all heads, in fp32. They are never held."
    )


def arithmetic_section(made: Figures, geometry: Geometry) -> str:
    parts = ["## The machine's ceiling, and the arithmetic"]
    if "ceiling" in made:
        shapes = list(made["ceiling"]["fp32"]["products"])
        lines = [[f"product {shape}", *(made["ceiling"][p]["products"][shape] for p in PRECISIONS)] for shape in shapes]
        lines.append(["attention (SDPA) at 1080p", *(made["ceiling"][p]["attention"] for p in PRECISIONS)])
        lines.append(["3x3 convolution, 256 channels", *(made["ceiling"][p]["convolution"] for p in PRECISIONS)])
        parts.append(table(["GFLOP/s, last turn", "fp32", "bf16"], lines))
    if "gflop" in made:
        lines = [[f"`{name}`", value / 1e3] for name, value in made["gflop"].items()]
        parts.append(table(["", "TFLOP"], lines))
        parts.append(
            "Frames and tiles: a forward pass over a pair. Training steps: forward and backward pass of the batch."
        )
    return "\n\n".join(parts)


def profile_section(made: Figures, geometry: Geometry) -> str:
    parts = ["## Where a direct pass spends its time"]
    for name, f in made.items():
        size, precision = name.split("/")
        total, kinds = f["seconds"], f["kinds"]
        lines = [
            [kind, seconds, percent(seconds / total), f["gflop"][kind] / seconds if kind in f["gflop"] else None]
            for kind, seconds in kinds.items()
            if seconds > 0.002 * total
        ]
        parts.append(
            f"{size}, {NAMES[precision]}, {total:.3g} s:\n\n" + table(["operators", "s", "share", "GFLOP/s"], lines)
        )
        lines = [[f"`{part}`", s, percent(s / total)] for part, s in f["parts"].items() if s > 0.01 * total]
        parts.append(table(["part, without the parts in it", "s", "share"], lines))
    return "\n\n".join(parts)


def small_flow_section(made: Figures, geometry: Geometry) -> str:
    sizes, lines = list(made), []
    for method in METHODS:
        figures: list[Any] = []
        for size in sizes:
            f = made[size].get(method, {})
            figures += [f.get("seconds"), f.get("cpu_seconds"), f.get("peak_gb"), f.get("above_gb")]
        if any(figures):
            lines.append([method, *figures])
    columns = [f"{size}: {what}" for size in sizes for what in ("s", "CPU s", "peak, GB", "above idle, GB")]
    return (
        "## The bundled flow checkpoint and other methods\n\nFrom two photographs to flow, the same frames for all methods. All "
        "processes import torch, which is most of their idle memory. RAFT is torchvision's with random weights, which do not "
        "change its time.\n\n" + table(["", *columns], lines)
    )


def scaling_section(made: Figures, geometry: Geometry) -> str:
    parts = [
        "## Scaling of a training step\n\nSegmentation in bf16: forward, backward and AdamW on a batch in memory. The table of "
        "whole frames above shows the scaling with pixels."
    ]
    titles = {
        "tokens": "tokens kept, batch 1",
        "batch": f"batch, two windows of {geometry.kept_windows[1]}x{geometry.kept_windows[1]}",
        "processes": f"processes (gloo), batch 4 each, `{geometry.small_preset}` preset",
    }
    for kind, title in titles.items():
        if kind in made:
            lines = [
                [
                    which,
                    f["tokens"],
                    f["seconds"],
                    1e3 * f["seconds"] / f["tokens"],
                    f["above_idle_gb"],
                    f.get("images_per_second"),
                ]
                for which, f in made[kind].items()
            ]
            columns = [title, "tokens of the batch", "s / step", "ms / token", "above idle, GB", "images / s"]
            keep = [i for i in range(6) if i < 5 or kind == "processes"]
            parts.append(table([columns[i] for i in keep], [[line[i] for i in keep] for line in lines]))
    return "\n\n".join(parts)
