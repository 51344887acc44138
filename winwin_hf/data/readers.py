"""From a row to a sample: decode, check, augment. One reader a task, for every data set (rows.py).

Notable:
- A reader is (example, generator) -> `Sample`. All its randomness comes from the generator.
- Any fault in an example's files is one `BrokenExample` with the example's name and the file's. `SkippingReader`
  (skipping.py) puts another example of the batch in its place.
- Rows of the Hub and your own rows need no `*_format` column: the reader's `format` applies to all of them. Images may be
  PIL images or arrays instead of cells, targets arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from winwin_hf.data import formats
from winwin_hf.data.augmentation import FlowAugmentation, ImageAugmentation
from winwin_hf.data.formats import IGNORE
from winwin_hf.data.formats.files import to_numpy
from winwin_hf.data.rows import BrokenExample
from winwin_hf.data.sample import FlowSample, ImageSample, augmented_pair, augmented_view
from winwin_hf.model.pixels_winwin import rgb_image
from winwin_hf.task import DataTask

WHAT_255_MEANS = (
    "255 means unknown here; if it is a class, give every class its stored value in names.txt, such as `background = 0` and "
    "`lesion = 255` (a set of the Hub: option format, 'values:0,255')"
)


@contextmanager
def examined(example: dict[str, Any]) -> Iterator[str]:
    """Yields the example's name; raises errors of files as `BrokenExample` with that name."""
    name = str(example.get("name") or example.get("path") or f"example {example.get('index', '')}".strip())
    try:
        yield name
    except BrokenExample:
        raise
    except (ValueError, OSError) as error:
        raise BrokenExample(f"{name}: {error}") from error


def source_of(cell: dict[str, Any], name: str) -> Any:
    """The source for `formats`: the cell's bytes with a name for messages, or its path."""
    if cell.get("bytes") is not None:
        if not isinstance(cell["bytes"], bytes):
            raise ValueError(f"a cell whose bytes are of type {type(cell['bytes']).__name__}")
        return formats.Blob(cell["bytes"], cell.get("path") or name)
    if not cell.get("path"):
        raise ValueError("an empty cell; expected a path or bytes")
    return cell["path"]


def image_of(value: Any, name: str) -> np.ndarray:
    """A cell, a PIL image or an array -> uint8 RGB (H, W, 3). A PIL image is turned as its EXIF says, as a cell is."""
    if isinstance(value, dict):
        return formats.decode_image(source_of(value, name))
    if isinstance(value, Image.Image):
        return rgb_image(ImageOps.exif_transpose(value))
    return rgb_image(np.asarray(to_numpy(value)))


def target_of(
    example: dict[str, Any], column: str, fallback: str | None, decode: Callable[[Any, str], np.ndarray], name: str
) -> np.ndarray | None:
    """The decoded cell of a column, by the format beside it or else `fallback`; None where the cell is empty."""
    value = example.get(column)
    if value is None:
        return None
    if not isinstance(value, dict):  # already decoded: an array, or a PIL image
        return np.asarray(value)
    kind = example.get(f"{column}_format") or fallback
    if not kind:
        raise ValueError(f"no format is known for its {column}: expected a column {column}_format or the option format")
    return decode(source_of(value, name), kind)


def same_size(image: np.ndarray, other: np.ndarray, what: str) -> None:
    if other.shape[:2] != image.shape[:2]:
        sizes = f"{image.shape[0]}x{image.shape[1]} pixels and its {what} {other.shape[0]}x{other.shape[1]}"
        raise ValueError(f"the image has {sizes}")


@dataclass
class FlowFrames:
    """A decoded row: images uint8 (H, W, 3); flow float32 (H, W, 2) pixels, NaN unknown, or (2H, 2W, 2) as in Spring; occluded
    bool of the flow's size. None: the row has none."""

    image1: np.ndarray
    image2: np.ndarray
    flow: np.ndarray | None
    occluded: np.ndarray | None


@dataclass
class FlowReader:
    """Row of `rows.COLUMNS["optical-flow"]` -> `FlowSample`. format: of the flow, where rows have no `flow_format`."""

    augmentation: FlowAugmentation | None = None
    format: str | None = None

    def decode(self, example: dict[str, Any]) -> FlowFrames:
        """The row as it is stored. Raises BrokenExample."""
        with examined(example) as name:
            image1, image2 = (image_of(example[column], name) for column in ("image1", "image2"))
            same_size(image1, image2, "second image")
            flow = target_of(example, "flow", self.format, formats.decode_flow, name)
            if flow is not None:
                if flow.ndim == 3 and flow.shape[0] == 2 != flow.shape[2]:  # channels first, as tensors are stored
                    flow = flow.transpose(1, 2, 0)
                if flow.ndim != 3 or flow.shape[2] != 2:
                    raise ValueError(f"its flow has the shape {flow.shape}; expected (H, W, 2)")
                flow = flow.astype(np.float32, copy=False)
                if (flow.shape[0], flow.shape[1]) != (2 * image1.shape[0], 2 * image1.shape[1]):
                    same_size(image1, flow, "flow")
            occluded = target_of(example, "occluded", None, formats.decode_mask, name)
            if occluded is not None and occluded.ndim != 2:
                raise ValueError(f"its mask of occluded pixels has the shape {occluded.shape}; expected (H, W)")
            if occluded is not None and flow is not None and occluded.shape != flow.shape[:2]:
                if occluded.shape == image1.shape[:2]:  # of the image, where the flow is twice as large (Spring's maps)
                    occluded = occluded.repeat(2, axis=0).repeat(2, axis=1)
                same_size(flow, occluded, "mask of occluded pixels")
            return FlowFrames(image1, image2, flow, occluded)

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> FlowSample:
        frames = self.decode(example)
        if frames.flow is None:
            with examined(example):
                raise ValueError("it has no flow; expected a split with ground truth")
        return augmented_pair(frames.image1, frames.image2, frames.flow, self.augmentation, rng, frames.occluded)


@dataclass
class DepthReader:
    """Row of `rows.COLUMNS["depth-estimation"]` -> a sample with depth in metres.

    Scaling an image by s divides its depth by s: the network sees the same focal length in pixels, and an object that appears
    s times as large through one camera is s times as near. (Its relief is then too flat by s; keeping the depth would make
    metric depth ambiguous.)

    max_depth: metres; greater depth counts as unknown.
    format: of the depth, where rows have no `depth_format`.
    """

    augmentation: ImageAugmentation | None = None
    max_depth: float = float("inf")
    format: str | None = None

    def decode(self, example: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
        """Image uint8 (H, W, 3) and depth float32 (H, W) metres, NaN unknown. Raises BrokenExample."""
        with examined(example) as name:
            image = image_of(example["image"], name)
            depth = target_of(example, "depth", self.format, formats.decode_depth, name)
            if depth is not None:
                if depth.ndim != 2:
                    raise ValueError(f"its depth has the shape {depth.shape}; expected (H, W)")
                same_size(image, depth, "depth")
                depth = depth.astype(np.float32)
                depth[depth > self.max_depth] = np.nan
            return image, depth

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> ImageSample:
        image, depth = self.decode(example)
        if depth is None:
            with examined(example):
                raise ValueError("it has no depth; expected a split with ground truth")
        sample, scale = augmented_view(image, depth, self.augmentation, rng)
        sample.target = depth / np.float32(scale)
        return sample


@dataclass
class SegmentationReader:
    """Row of `rows.COLUMNS["semantic-segmentation"]` -> a sample with labels, 255 where ignored.

    num_labels: ids below it are classes. format: of the labels, where rows have no `label_format`. table: uint8 (256,), label of the
    set -> label to learn (merging.py).
    """

    num_labels: int
    augmentation: ImageAugmentation | None = None
    format: str | None = "ids"
    table: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.num_labels > IGNORE:
            raise ValueError(
                f"{self.num_labels} classes; labels have 8 bits and {IGNORE} is ignored: expected up to {IGNORE} classes"
            )

    def decode(self, example: dict[str, Any]) -> tuple[np.ndarray, np.ndarray | None]:
        """Image uint8 (H, W, 3) and labels uint8 (H, W). Raises BrokenExample."""
        with examined(example) as name:
            image = image_of(example["image"], name)
            label = target_of(example, "label", self.format, formats.decode_label, name)
            if label is not None:
                if label.ndim != 2:
                    raise ValueError(f"its annotation has the shape {label.shape}; expected class ids (H, W)")
                same_size(image, label, "annotation")
                unknown = (label >= self.num_labels) & (label != IGNORE)
                if unknown.any():
                    ids = sorted(np.unique(label[unknown]).tolist())
                    raise ValueError(
                        f"its annotation holds the ids {ids}; expected 0 to {self.num_labels - 1}, or {IGNORE} where ignored"
                    )
                label = label.astype(np.uint8) if self.table is None else self.table[label]
            return image, label

    def __call__(self, example: dict[str, Any], rng: np.random.Generator) -> ImageSample:
        image, label = self.decode(example)
        if label is None:
            with examined(example):
                raise ValueError("it has no labels; expected a split with ground truth")
        return augmented_view(image, label, self.augmentation, rng)[0]


def plain_reader(task: DataTask, labels: Sequence[str] | None) -> FlowReader | DepthReader | SegmentationReader:
    """The task's reader, without augmentation. Without class names, every id is a class."""
    if task == "optical-flow":
        return FlowReader()
    return DepthReader() if task == "depth-estimation" else SegmentationReader(len(labels) if labels else IGNORE)
