"""The collator makes a batch: it draws the windows' positions, then asks each sample for the pixels in them.

What is notable here:
- One path for all tasks and all baselines; a `Strategy` (windows.py) decides what is kept.
- An example's windows and augmentation depend on (seed, the example's "index") alone, not on the worker, the process or the
  order, so an interrupted training resumes exactly. Where the windows' size varies, it is drawn once an optimiser step (`group`).
- For flow, second windows follow the true motion of the first ones, so they are drawn after the first ones' targets are
  known. A crop's second view is the same crop, a full frame's the full frame.

Legend: B batch, N windows of the first view, M of the second (M = N), h w a window's pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from winwin_hf.checked import FORBID, check_fields
from winwin_hf.data.guesses import GuessStrategy
from winwin_hf.data.sample import Box, Reader, Sample
from winwin_hf.data.skipping import read_batch
from winwin_hf.task import DENSE, DataTask
from winwin_hf.windows import Patches, Size, Strategy, follow, robust_mean

# The image processor's ranges.
Means = Annotated[Sequence[Annotated[float, Field(ge=-1e6, le=1e6)]], Field(min_length=3, max_length=3)]
Deviations = Annotated[Sequence[Annotated[float, Field(ge=1e-6, le=1e6)]], Field(min_length=3, max_length=3)]


@dataclass(frozen=True)
class SecondStrategy:
    """Where the second view's windows lie: one for each first window, around where its content went."""

    size: Annotated[
        tuple[Patches, Patches] | None,
        Field(description="(h, w) in patches; null: `factor` times the first windows' size, rounded."),
    ] = None
    factor: Annotated[
        float,
        Field(
            gt=0,
            le=1000,
            description="Size of a second window over the size of a first one; used where `size` is null.",
        ),
    ] = 1.5
    jitter: Annotated[
        float,
        Field(
            ge=0,
            le=10_000,
            description="Largest offset of a window from where the content went, in patches. With a small jitter and "
            "size the windows' positions give the motion away.",
        ),
    ] = 2.0
    follow_probability: Annotated[
        float, Field(ge=0, le=1, description="Share of the windows that follow the flow; the others lie anywhere.")
    ] = 1.0
    motion_share: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Share of the motion that a window follows; 0: it stays at the first window's place (an "
            "ablation).",
        ),
    ] = 1.0

    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID

    def __post_init__(self) -> None:
        check_fields(self)

    def window_size(self, first: Size, grid: Size) -> Size:
        """The second windows' size in patches, at most the (smallest) frame."""
        size = self.size or tuple(max(1, round(side * self.factor)) for side in first)
        return min(size[0], grid[0]), min(size[1], grid[1])


@dataclass
class WinWinCollator:
    """list of examples -> the tensors a model takes.

    pixel_values (B, N, 3, h, w) float32, normalised; window_positions (B, N, 2) int64, (row, col) in patches; labels:
    flow (B, N, 2, h, w) float32, segmentation (B, N, h, w) int64, depth (B, N, h, w) float32; for flow also
    second_pixel_values (B, M, 3, h2, w2) and second_window_positions (B, M, 2), and initial_flow (B, N, 2, h, w) if guesses are made.
    frame_sizes (B, 2), for flow second_frame_sizes too: rows and columns of the frames in patches, for encoders whose positions depend
    on them.

    Args:
        reader: (example, generator) -> `Sample`; all its randomness must come from the generator. A `SkippingReader` replaces
            examples that can't be read.
        strategy: which windows are kept.
        second: the second view's windows (flow only; not used by crops and full frames); None: the defaults.
        guess: how guesses of the flow are made (windows only); None: no guesses.
        group: number of examples with consecutive indices, over all processes, whose windows have one size where it varies; 1: each
            batch draws for itself, from the index of its first example.
        image_mean, image_std: the image processor's, of RGB in [0, 1].
    Raises: BrokenExample for an example that can't be read.
    """

    reader: Reader
    strategy: Strategy
    task: DataTask
    patch_size: Patches = 16
    image_mean: Means = tuple(IMAGENET_DEFAULT_MEAN)
    image_std: Deviations = tuple(IMAGENET_DEFAULT_STD)
    seed: Annotated[int, Field(ge=0)] = 0
    second: SecondStrategy | None = None
    guess: GuessStrategy | None = None
    group: Annotated[int, Field(ge=1)] = 1
    _stream: np.random.Generator | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.task not in DENSE:
            raise ValueError(f"task {self.task!r}: expected {' or '.join(DENSE)}")
        check_fields(self, "patch_size", "image_mean", "image_std", "seed", "group")
        for name, kind in (("strategy", Strategy), ("second", SecondStrategy), ("guess", GuessStrategy)):
            value = getattr(self, name)
            if not isinstance(value, kind) and (value is not None or name == "strategy"):
                raise ValueError(f"{name}: expected a {kind.__name__}, got a {type(value).__name__}")
        if not callable(self.reader):
            raise ValueError(
                f"reader: expected a function of an example and a generator, got a {type(self.reader).__name__}"
            )

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if not examples:
            raise ValueError("a batch without examples; expected at least one")
        generators = [self._generator(example) for example in examples]
        samples = read_batch(self.reader, examples, generators)
        grids = [self.grid(sample) for sample in samples]
        smallest = (min(g[0] for g in grids), min(g[1] for g in grids))
        if self.strategy.kind == "full" and len(set(grids)) > 1:
            sizes = ", ".join(sorted({f"{s.height}x{s.width}" for s in samples}))
            raise ValueError(f"full frames of one batch must have one size, got {sizes} pixels: use a batch size of 1")
        first = examples[0]
        if self.group > 1 and "index" in first:
            first = {"index": int(first["index"]) // self.group * self.group}
        size = self.strategy.draw_size(self._generator(first, purpose=1), smallest)
        windows = [self.strategy.sample(rng, grid, size) for rng, grid in zip(generators, grids, strict=True)]
        second_size = (self.second or SecondStrategy()).window_size(size, smallest)
        parts = [
            self._pixels(sample, grid, positions, shape, second_size, rng)
            for sample, grid, (positions, shape), rng in zip(samples, grids, windows, generators, strict=True)
        ]
        if self.guess is not None and self.guess.probability > 0 and self._has_second_windows:
            for part, example in zip(parts, examples, strict=True):
                part["initial_flow"] = self.guess(part["labels"], self._generator(example, purpose=2))
        return {name: self._tensor(name, np.stack([part[name] for part in parts])) for name in parts[0]}

    def grid(self, sample: Sample) -> Size:
        """The frame's size in patches; the last ones may extend beyond it."""
        return -(-sample.height // self.patch_size), -(-sample.width // self.patch_size)

    @property
    def _has_second_windows(self) -> bool:
        return self.task == "optical-flow" and self.strategy.kind == "windows"

    def _pixels(
        self,
        sample: Sample,
        grid: Size,
        positions: np.ndarray,
        size: Size,
        second_size: Size,
        rng: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        """The arrays of one example with windows of `size` patches at `positions` (N, 2): images (N, h, w, 3) uint8, targets
        (N, h, w, ...)."""
        views = [sample.first(self._box(position, size)) for position in positions]
        images, targets = [image for image, _ in views], [target for _, target in views]
        own_frame = self.strategy.kind in ("crop", "full")  # a crop is a small frame that begins at (0, 0)
        told = np.zeros_like(positions) if own_frame else positions
        arrays = {"pixel_values": np.stack(images), "window_positions": told, "labels": np.stack(targets)}
        arrays["frame_sizes"] = np.array(size if own_frame else grid)
        if self.task != "optical-flow":
            return arrays
        if own_frame:
            second, second_size, second_told = positions, size, told
        else:
            second = second_told = self._follow(positions, size, targets, second_size, grid, rng)
        arrays["second_pixel_values"] = np.stack([sample.second(self._box(p, second_size)) for p in second])
        arrays["second_window_positions"] = second_told
        arrays["second_frame_sizes"] = arrays["frame_sizes"]
        return arrays

    def _follow(
        self,
        positions: np.ndarray,
        size: Size,
        flows: list[np.ndarray],
        second_size: Size,
        grid: Size,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Positions (N, 2) of the second windows, from the flow (h, w, 2) of each first one."""
        rule = self.second or SecondStrategy()
        motion = np.stack([robust_mean(flow) for flow in flows]) / self.patch_size
        motion = rule.motion_share * motion[:, ::-1]  # (u, v) -> (row, col)
        return follow(rng, positions, size, motion, second_size, grid, rule.jitter, rule.follow_probability)

    def _box(self, position: np.ndarray, size: Size) -> Box:
        p = self.patch_size
        return int(position[0]) * p, int(position[1]) * p, size[0] * p, size[1] * p

    def _tensor(self, name: str, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if name.endswith("pixel_values"):  # float only now, when there are only the windows' pixels
            mean, std = torch.tensor(self.image_mean), torch.tensor(self.image_std)
            pixels = tensor.permute(0, 1, 4, 2, 3).to(torch.float32, memory_format=torch.contiguous_format)
            shape = (3, 1, 1)
            return pixels.mul_((1 / (255 * std)).view(shape)).sub_((mean / std).view(shape))
        if name in ("labels", "initial_flow"):
            if self.task == "optical-flow":
                return tensor.permute(0, 1, 4, 2, 3).float().contiguous()
            return tensor.long() if self.task == "semantic-segmentation" else tensor.float()
        return tensor

    def _generator(self, example: dict[str, Any], purpose: int = 0) -> np.random.Generator:
        """
        The generator of one example. Where examples have no "index", the next of this process's own, which a resumed training begins
        anew: rows of `Mixture` have one. A loader process takes its seed from torch, which draws another for each epoch.
        """
        if "index" in example:
            return np.random.default_rng([self.seed, int(example["index"]), purpose])
        if self._stream is None:
            worker = torch.utils.data.get_worker_info()
            self._stream = np.random.default_rng([self.seed, 0 if worker is None else worker.seed])
        return np.random.default_rng(self._stream.integers(2**63))


def tokens_kept(batch: dict[str, torch.Tensor], frame: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """(number of the first view's tokens that are kept, number in a whole frame of (H, W) pixels), for one example of a batch."""
    windows, height, width = batch["pixel_values"].shape[1], *batch["pixel_values"].shape[-2:]
    kept = windows * (height // patch_size) * (width // patch_size)
    return kept, -(-frame[0] // patch_size) * -(-frame[1] // patch_size)
