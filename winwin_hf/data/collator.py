"""The collator makes the batch: it places the windows first, then asks each sample for what they show.

What is notable here:
- One path for all tasks and for all baselines; what is kept is the `Strategy`'s business (windows.py).
- Which windows an example gets, and how it is augmented, depends on (seed, the example's "index") alone: not on the
  worker, the process or the order, so an interrupted training resumes exactly. The size of windows of varying size is
  drawn once a batch, from the index of its first example.
- For flow, second windows follow the true motion of the first ones, and so come after them; a crop's second view is the
  same crop, a full frame's the full frame.

Legend: B batch, N windows of the first view, M of the second (M = N), h w a window's pixels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field

from winwin_hf.data.guesses import GuessStrategy
from winwin_hf.data.rows import BrokenExample
from winwin_hf.data.sample import Box, Sample
from winwin_hf.task import DENSE, DataTask
from winwin_hf.windows import Size, Strategy, follow, robust_mean

logger = logging.getLogger(__name__)
MOST_WORKERS = 256  # each counts in a place of its own, so no two write the same number

Reader = Callable[[dict[str, Any], np.random.Generator], Sample]


@dataclass(frozen=True)
class SecondStrategy:
    """Where the second view's windows lie: one for each first window, around where its content went."""

    size: Annotated[
        tuple[int, int] | None,
        Field(description="(h, w) in patches; null: `factor` times the first windows' size, rounded."),
    ] = None
    factor: Annotated[
        float, Field(description="Size of a second window over the size of a first one; used where `size` is null.")
    ] = 1.5
    jitter: Annotated[
        float,
        Field(
            description="Largest offset of a window from where the content went, in patches. With a small jitter and "
            "size the windows' positions give the motion away."
        ),
    ] = 2.0
    follow_probability: Annotated[
        float, Field(description="Share of the windows that follow the flow; the others lie anywhere.")
    ] = 1.0
    motion_share: Annotated[
        float,
        Field(
            description="Share of the motion that a window follows; 0: it stays at the first window's place (an "
            "ablation)."
        ),
    ] = 1.0

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    def __post_init__(self) -> None:
        if self.size is not None:
            object.__setattr__(self, "size", tuple(self.size))
        if self.factor <= 0 or self.jitter < 0 or not 0 <= self.follow_probability <= 1:
            raise ValueError(f"expected factor > 0, jitter >= 0 and 0 <= follow_probability <= 1, got {self}")

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

    Args:
        reader: (example, generator) -> `Sample`. What is random in it must come from the generator.
        strategy: which windows are kept.
        second: the second view's windows (flow only; not used by crops and full frames); None: the defaults.
        guess: how guesses of the flow are made (windows only); None: not.
        skip_broken: in the place of an example whose files can't be read, another of its batch is taken once more (with
            windows of its own), which is logged; `broken` counts them, over all loader processes. A batch without any readable
            example is an error all the same. Otherwise the first one is: BrokenExample, with its name.
        image_mean, image_std: of RGB in [0, 1], the image processor's.
    """

    reader: Reader
    strategy: Strategy
    task: DataTask
    patch_size: int = 16
    image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    image_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    seed: int = 0
    second: SecondStrategy | None = None
    guess: GuessStrategy | None = None
    skip_broken: bool = False
    _broken: torch.Tensor = field(
        default_factory=lambda: torch.zeros(MOST_WORKERS, dtype=torch.int64).share_memory_(), init=False, repr=False
    )
    _named: set[str] = field(default_factory=set, init=False, repr=False)
    _stream: np.random.Generator | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.task not in DENSE:
            raise ValueError(f"task {self.task!r}: expected {' or '.join(DENSE)}")

    @property
    def broken(self) -> int:
        """Examples left out so far, by all loader processes of this training process."""
        return int(self._broken.sum())

    def __call__(self, examples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        generators = [self._generator(example) for example in examples]
        samples = self._samples(examples, generators)
        grids = [self.grid(sample) for sample in samples]
        smallest = (min(g[0] for g in grids), min(g[1] for g in grids))
        if self.strategy.kind == "full" and len(set(grids)) > 1:
            sizes = ", ".join(sorted({f"{s.height}x{s.width}" for s in samples}))
            raise ValueError(f"full frames of one batch must have one size, got {sizes} pixels: use a batch size of 1")
        size = self.strategy.draw_size(self._generator(examples[0], purpose=1), smallest)
        second = self.second or SecondStrategy()
        parts = [
            self._windows(sample, grid, size, second, second.window_size(size, smallest), generator)
            for sample, grid, generator in zip(samples, grids, generators, strict=True)
        ]
        if (
            self.task == "optical-flow"
            and self.guess is not None
            and self.guess.probability > 0
            and self.strategy.kind == "windows"
        ):
            for part, example in zip(parts, examples, strict=True):
                part["initial_flow"] = self.guess(part["labels"], self._generator(example, purpose=2))
        return {name: self._tensor(name, np.stack([part[name] for part in parts])) for name in parts[0]}

    def _samples(self, examples: list[dict[str, Any]], generators: list[np.random.Generator]) -> list[Sample]:
        """Each example read; with `skip_broken` a broken one's place is taken by the next readable of the batch."""
        if not self.skip_broken:
            return [self.reader(e, g) for e, g in zip(examples, generators, strict=True)]
        samples: list[Sample | None] = []
        for example, generator in zip(examples, generators, strict=True):
            try:
                samples.append(self.reader(example, generator))
            except BrokenExample as error:
                worker = torch.utils.data.get_worker_info()
                self._broken[0 if worker is None else worker.id % MOST_WORKERS] += 1
                if str(error) not in self._named:  # once a worker, not once an epoch
                    self._named.add(str(error))
                    logger.warning("left out: %s", error)
                samples.append(None)
        good = [i for i, sample in enumerate(samples) if sample is not None]
        if not good:
            raise BrokenExample(f"no example of a batch of {len(examples)} could be read")
        for i in range(len(samples)):
            if samples[i] is None:
                other = min((j for j in good), key=lambda j: (j - i) % len(samples))
                samples[i] = self.reader(examples[other], generators[i])
        return [sample for sample in samples if sample is not None]

    def grid(self, sample: Sample) -> Size:
        """The frame's size in patches, the last ones possibly sticking out."""
        return -(-sample.height // self.patch_size), -(-sample.width // self.patch_size)

    def _windows(
        self,
        sample: Sample,
        grid: Size,
        size: Size,
        rule: SecondStrategy,
        second_size: Size,
        rng: np.random.Generator,
    ) -> dict[str, np.ndarray]:
        """Everything of one example, as arrays: images (N, h, w, 3) uint8, targets (N, h, w, ...)."""
        positions, size = self.strategy.sample(rng, grid, size)
        views = [sample.first(self._box(position, size)) for position in positions]
        images, targets = [image for image, _ in views], [target for _, target in views]
        own_frame = self.strategy.kind in ("crop", "full")  # a crop is a little frame of its own, beginning at (0, 0)
        shown = np.zeros_like(positions) if own_frame else positions
        arrays = {"pixel_values": np.stack(images), "window_positions": shown, "labels": np.stack(targets)}
        if self.task != "optical-flow":
            return arrays
        if own_frame:
            second, second_size, second_shown = positions, size, shown
        else:
            motion = np.stack([robust_mean(target) for target in targets]) / self.patch_size
            motion = rule.motion_share * motion[:, ::-1]  # (u, v) -> (row, col)
            second = follow(rng, positions, size, motion, second_size, grid, rule.jitter, rule.follow_probability)
            second_shown = second
        arrays["second_pixel_values"] = np.stack([sample.second(self._box(p, second_size)) for p in second])
        arrays["second_window_positions"] = second_shown
        return arrays

    def _box(self, position: np.ndarray, size: Size) -> Box:
        p = self.patch_size
        return int(position[0]) * p, int(position[1]) * p, size[0] * p, size[1] * p

    def _tensor(self, name: str, array: np.ndarray) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        if name.endswith("pixel_values"):  # only here, on the windows' pixels, do images become float
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
        """The randomness of one example; of a stream of this worker's own where examples carry no "index"."""
        if "index" in example:
            return np.random.default_rng([self.seed, int(example["index"]), purpose])
        if self._stream is None:
            worker = torch.utils.data.get_worker_info()
            self._stream = np.random.default_rng([self.seed, 0 if worker is None else worker.id + 1])
        return np.random.default_rng(self._stream.integers(2**63))


def tokens_kept(batch: dict[str, torch.Tensor], frame: tuple[int, int], patch_size: int) -> tuple[int, int]:
    """(tokens of the first view kept, tokens of the whole frame of (H, W) pixels), for one example of a batch."""
    windows, height, width = batch["pixel_values"].shape[1], *batch["pixel_values"].shape[-2:]
    kept = windows * (height // patch_size) * (width // patch_size)
    return kept, -(-frame[0] // patch_size) * -(-frame[1] // patch_size)
