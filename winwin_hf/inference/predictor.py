"""A network by its name, ready to run: `Predictor.load("winwin-depth")("room.jpg").values`.

Notable:
- `Predictor` is the only place that loads a network for use, prepares its images and brings its predictions back to their size. The
  command line, the demo, videos and evaluations run it.
- `Method` is what it has in common with methods that have no network (evaluation/methods.py).
- What a model predicts is (2, H, W) for flow, as in the pipeline and the metrics; files and ground truth have (H, W, 2).

Images are paths, PIL images (turned as their EXIF says) or arrays with the values that the image processor takes; methods get them in
8 bits.
Shapes: H W pixels of the image as it came in.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch

from winwin_hf import bundled
from winwin_hf.data import formats
from winwin_hf.downloads import downloaded
from winwin_hf.inference.flow import FlowPair, flow_of_frames, predict_flow, predict_tiled
from winwin_hf.inference.loading import load_config, load_network, load_processor
from winwin_hf.inference.onnx import RUNTIMES, OnnxModel, is_exported
from winwin_hf.model.half_products_winwin import fast_products
from winwin_hf.model.image_settings_winwin import check_quality
from winwin_hf.model.memory_winwin import explained, first_that_fits, memory_of, smaller_sizes
from winwin_hf.model.pixels_winwin import MAX_INPUT_PIXELS, check_pixels, check_scores, rgb_image, size_text
from winwin_hf.task import ARCHITECTURES, DENSE, TASKS, DoesNotFit

Image = np.ndarray | torch.Tensor | PIL.Image.Image | str | Path  # a path is opened


@dataclass
class Prediction:
    """
    What a method predicts for one image or pair, at its size.

    Attributes:
        values: flow (2, H, W) float32, (right, down) in pixels; depth (H, W) float32, metres; class ids (H, W) uint8, or
            int32 of a network with more than 256 classes.
        confidence: of a network's flow, (H, W) float32 in 0..1; otherwise None.
        expected_error: (H, W) float32: by how many pixels a network of flow expects u and v to be wrong, or by how many metres one of depth
            that says so expects its depth to be; otherwise None.
        log_scale: of a network's flow, (H, W) float32: the raw channel that confidence is made of; it grows with the expected error.
        seconds: pre-processing, network and post-processing, without reading files.
        passes: forward passes of the network; 0 for a method without one.
        device: where it ran.
    """

    values: np.ndarray
    confidence: np.ndarray | None = None
    expected_error: np.ndarray | None = None
    log_scale: np.ndarray | None = None
    seconds: float = 0.0
    passes: int = 0
    device: str = "cpu"


class Method(ABC):
    """
    A network or another method for one task: images in, a `Prediction` out.

    Attributes:
        name: in tables and messages. task: a name of task.py.
        tile: (height, width) in pixels of a network that sees tiles, None for whole images.
    """

    name: str
    task: str
    tile: tuple[int, int] | None = None

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Class names in the order of their ids (segmentation), None for other tasks."""
        return None

    @property
    def synonyms(self) -> dict[str, list[str]] | None:
        """Class -> what data sets call it, or something that it is a part of; None without such names."""
        return None

    def __call__(self, image: Image, second: Image | None = None) -> Prediction:
        """Predicts for an image, or for a pair. Raises ValueError for a missing or unexpected second image."""
        needed = len(TASKS[self.task].images)
        if needed != 1 + (second is not None):
            raise ValueError(f"{self.name} needs {'two frames' if needed == 2 else 'a single image'}")
        image, second = _read(image), None if second is None else _read(second)
        start = time.perf_counter()
        prediction = self.predict(image, second)
        prediction.seconds = time.perf_counter() - start
        return prediction

    @abstractmethod
    def predict(self, image: np.ndarray, second: np.ndarray | None) -> Prediction:
        """The prediction for arrays, without its seconds."""


@dataclass
class Predictor(Method):
    """
    A network with its image processor. `dataclasses.replace` gives the same network with other options.

    Attributes:
        device: of the model. tile: (height, width) in pixels of the network's input, which is larger than the image where the
            processor enlarges (`min_pixels`); None: one pass over the whole image.
        overlap: of tiles, see `flow.predict_tiled`. progress: show a bar over the tiles.
        coarse: take first passes at smaller sizes (flow), see `flow.coarse_flow`.
        autocast: a context for mixed precision, such as `Accelerator.autocast`.
    """

    model: Any
    processor: Any
    task: str
    name: str = "model"
    device: str | torch.device = "cpu"
    tile: tuple[int, int] | None = None
    overlap: float = 0.5
    coarse: bool = False
    progress: bool = False
    autocast: Callable[[], AbstractContextManager[Any]] = nullcontext

    def __post_init__(self) -> None:
        if self.coarse and (self.task != "optical-flow" or self.tile is not None):
            raise DoesNotFit(f"{self.name}: coarse passes are for networks of flow, on whole frames")

    @classmethod
    def load(
        cls,
        name: str | Path,
        task: str | None = None,
        device: str | torch.device = "auto",
        *,
        tile: tuple[int, int] | None = None,
        overlap: float = 0.5,
        quality: str | None = None,
        coarse: bool | None = None,
        min_pixels: int | None = None,
        dtype: torch.dtype | None = None,
        attention: str | None = None,
        runtime: str | None = None,
        progress: bool = False,
        autocast: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> Predictor:
        """
        The network `name`.

        Args:
            name: a bundled name, a folder, a Hub repository, or what `winwin export` wrote: its folder or a .onnx file.
            task: a name of task.py that the network must have. None: any that predicts a map.
            device: "auto" (CUDA where there is one, else the CPU), "cpu", "cuda:1", "mps", ...
            tile: as above; tiles are cut from images at their own size, not at the checkpoint's working size (`size`).
            quality: of flow. "fast": frames at their own size, one pass, in bf16 on a CPU that is faster in it. "best": frames enlarged as
                the checkpoint says, after coarse passes where the network has matching and sees whole frames. None: enlarged, one pass.
                `coarse`, `min_pixels` and `autocast` override it.
            min_pixels: enlarge smaller images to so many pixels, in place of the working size; 0: images at their own size; None: as the
                checkpoint says.
            dtype: of the weights. None: float32 on a CPU, as stored elsewhere.
            attention: "sdpa" or "eager". None: as the checkpoint says.
            runtime: "onnxruntime" or "openvino": run the exported file beside the checkpoint's weights. None: PyTorch, or ONNX Runtime
                where there is nothing but exported files.

        Raises:
            OSError: nothing has that name.
            ValueError: the checkpoint is for another task, lacks tensors or has a damaged file, or the device isn't there.
        """
        name = str(name)
        if task is not None and task not in DENSE:
            raise ValueError(f"task {task!r}: expected one of {', '.join(DENSE)}")
        if min_pixels is not None and min_pixels < 0:
            raise ValueError(f"min_pixels {min_pixels}: expected 0 or more")
        check_quality(quality)
        if runtime not in (None, *RUNTIMES):
            raise ValueError(f"runtime {runtime!r}: expected one of {', '.join(RUNTIMES)}")
        if runtime is None and is_exported(name):
            runtime = "onnxruntime"
        if runtime is None:
            target = device_of(device)
            source = bundled.resolve(name)
            found = _check_task(name, (load_config(name).architectures or [""])[0], task)
            weights = dtype or (torch.float32 if target.type == "cpu" else "auto")
            options: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
            model: Any = load_network(name, dtype=weights, **options).to(target)
            title = Path(name).name
        else:
            target = device_of("cpu" if device == "auto" else device, tried=False)
            if target.type != "cpu":
                raise ValueError(f"{name}: exported files run on the CPU, not on {target}")
            model = OnnxModel(_exported(name), runtime)
            found, source = _check_task(name, model.description["architecture"], task), model.folder
            title = f"{model.folder.name}-{model.path.stem}" + (f"-{runtime}" if runtime != "onnxruntime" else "")
        predictor = cls(model, load_processor(source, model), found, title, target, tile, overlap, progress=progress)
        predictor = predictor.with_quality(quality)
        processor = predictor.processor
        if min_pixels is not None:
            processor.min_pixels, processor.quality = min_pixels, None
        if min_pixels is not None or tile is not None:
            processor.do_resize = False
        return replace(
            predictor,
            coarse=predictor.coarse if coarse is None else coarse,
            autocast=predictor.autocast if autocast is None else autocast,
        )

    def with_quality(self, quality: str | None) -> Predictor:
        """The same network at a `quality` of flow, see `load`. Raises ValueError for another task's network, or an unknown quality."""
        check_quality(quality)
        if quality is not None and self.task != "optical-flow":
            raise DoesNotFit(f"{self.name}: quality {quality!r} is for networks of flow")
        in_torch = not isinstance(self.model, OnnxModel)
        processor = copy.deepcopy(self.processor)
        processor.quality = quality
        return replace(
            self,
            processor=processor,
            coarse=quality == "best"
            and self.tile is None
            and in_torch
            and self.model.config.matching_stride is not None,
            autocast=partial(fast_products, self.model) if quality == "fast" and in_torch else nullcontext,
        )

    @property
    def labels(self) -> tuple[str, ...] | None:
        names = self.model.config.id2label
        return tuple(names[index] for index in range(len(names))) if self.task == "semantic-segmentation" else None

    @property
    def synonyms(self) -> dict[str, list[str]] | None:
        return self.model.config.label_synonyms

    def predict(self, image: np.ndarray, second: np.ndarray | None) -> Prediction:
        return self.predict_batch([image], None if second is None else [second])[0]

    @torch.inference_mode()
    def predict_batch(self, images: list[np.ndarray], seconds: list[np.ndarray] | None = None) -> list[Prediction]:
        """Predictions, without their seconds, for RGB uint8 arrays (H, W, 3) that the processor pads to one size."""
        sizes = [image.shape[:2] for image in images]
        padded = self.processor.input_sizes(sizes[0])[1]
        check_pixels(
            [min(sides) for sides in zip(padded, self.tile or padded, strict=True)],
            MAX_INPUT_PIXELS,
            "tiles (--tile), a smaller picture",
        )
        if self.task == "semantic-segmentation":
            check_scores(padded, self.model.config.num_labels)
        inputs = self.processor(images=images, second_images=seconds, return_tensors="pt")
        inputs = inputs.to(self.device, self.model.dtype)
        views = inputs["pixel_values"], inputs.get("second_pixel_values")
        outputs = explained(
            lambda: self._run(*views), lambda may_try: self._does_not_fit(padded, sizes[0], may_try, count=len(images))
        )
        for name in ("flow", "predicted_depth", "logits"):
            if (found := getattr(outputs, name, None)) is not None and not found.isfinite().all():
                raise FloatingPointError(f"{self.name}: {self.not_finite(name)}")
        made = []
        for maps in self._maps(outputs, sizes):
            arrays = {key: _array(value) for key, value in maps.items()}
            confidence, error, log_scale = map(arrays.get, ("confidence", "expected_error", "log_scale"))
            made.append(
                Prediction(
                    arrays["values"], confidence, error, log_scale, passes=outputs.passes, device=str(self.device)
                )
            )
        return made

    def _maps(self, outputs: Any, sizes: list[tuple[int, int]]) -> list[dict[str, torch.Tensor]]:
        """What was predicted for each image, at its size: `values`, and what there is beside them."""
        processor = self.processor
        if self.task == "optical-flow":
            found = processor.post_process_optical_flow(outputs, sizes, scale_bounds=self.error_bounds())
            return [{"values": maps.pop("flow").float(), **maps} for maps in found]
        if self.task == "depth-estimation":
            found = processor.post_process_depth_estimation(outputs, target_sizes=sizes)
            return [{"values": maps.pop("predicted_depth").float(), **maps} for maps in found]
        dtype = torch.uint8 if self.model.config.num_labels <= 256 else torch.int32
        found = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
        return [{"values": ids.to(dtype)} for ids in found]

    def not_finite(self, name: str) -> str:
        """Says that a map isn't finite, and what may help. Weights may be finite and too large for each other."""
        halves = "float32 weights (dtype, --dtype), or " if self.model.dtype == torch.float16 else ""
        return f"its {name} holds NaN or infinite values for this picture; expected {halves}weights that are whole"

    def _run(self, first: torch.Tensor, second: Any = None) -> Any:
        """The network's maps of an image or a pair, each (1, 3, H, W), in one pass or as the options say."""
        with self.autocast():
            if self.coarse:
                return predict_flow(self.model, first, second, coarse=True)
            tile = self.tile or (first.shape[-2], first.shape[-1])
            return predict_tiled(self.model, first, second, tile, self.overlap, progress=self.progress)

    def _does_not_fit(
        self, padded: tuple[int, int], size: tuple[int, int], may_try: bool, tiles: bool = True, count: int = 1
    ) -> str:
        """Says that `count` inputs of `padded` pixels, images of `size` before, take too much memory, and what would fit."""
        height, width = (min(sides) for sides in zip(padded, self.tile or padded, strict=True))

        def trial(size: tuple[int, int]) -> None:
            frames = [torch.zeros(1, 3, *size, device=self.device, dtype=self.model.dtype)]
            replace(self, tile=None)._run(*frames * len(TASKS[self.task].images))

        sizes = smaller_sizes(height, width, self.processor.patch_size) if may_try else []
        fits = first_that_fits(trial, sizes)
        known = f"; {size_text(fits)} would fit" if fits else ""
        options = ["a smaller picture"]
        if count > 1:
            options.insert(0, f"a batch of fewer than {count} (--batch-size)")
        if math.prod(padded) > 2 * math.prod(size):
            options.insert(0, f"the picture as it is, {size_text(size)} (min_pixels=0, --min-pixels 0)")
        if self.task == "optical-flow" and tiles:
            chosen = f" {fits[0]}x{fits[1]}" if fits else ""
            options.insert(0, f"tiles (--tile{chosen})")
        return (
            f"{f'{count} times ' * (count > 1)}{size_text((height, width))} pixels (height x width) take more memory than "
            f"{memory_of(self.device)} has{known}: expected "
            f"{', '.join(options)}"
        )

    def error_bounds(self, size: tuple[int, int] | None = None) -> tuple[float, float]:
        """The least and the largest `expected_error` of a flow: in pixels of frames of that (height, width); None: of the input."""
        config = self.model.config
        ratio = 1.0
        if size is not None:
            (height, width), _ = self.processor.input_sizes(size)
            ratio = (size[0] / height + size[1] / width) / 2
        return config.min_flow_scale * ratio, config.max_flow_scale * ratio

    def frames(self, frames: Iterable[np.ndarray], backward: bool = False) -> Iterator[FlowPair]:
        """Flow from each frame of a video to the next; each frame is encoded once. See `flow.flow_of_frames`."""
        if self.tile is not None or isinstance(self.model, OnnxModel):
            raise ValueError(f"{self.name}: a video needs a PyTorch network, without tiles")
        return self._flow_pairs(iter(frames), backward)

    def _flow_pairs(self, frames: Iterator[np.ndarray], backward: bool) -> Iterator[FlowPair]:
        """`flow_of_frames`. Raises torch.OutOfMemoryError with the size of frames that would fit."""
        first = list(itertools.islice(frames, 1))
        frames = itertools.chain(first, frames)
        pairs = flow_of_frames(self.model, self.processor, frames, backward, self.coarse, self.autocast)

        def explain(may_try: bool) -> str:
            size = first[0].shape[:2]
            return self._does_not_fit(self.processor.input_sizes(size)[1], size, may_try, tiles=False)

        while (pair := explained(lambda: next(pairs, None), explain)) is not None:
            if not np.isfinite(pair.flow).all():
                raise FloatingPointError(f"{self.name}: frame {pair.index}: {self.not_finite('flow')}")
            yield pair


# ------------------------------------------------------------------ what the functions above share


def _check_task(name: str, architecture: str, task: str | None) -> str:
    """The task of an architecture. Raises DoesNotFit where it isn't `task`, or has no map."""
    found = ARCHITECTURES.get(architecture)
    wanted = [TASKS[task]] if task is not None else list(DENSE.values())
    if found not in wanted:
        has = f"has the architecture {architecture}" if architecture else "has a config.json without architectures"
        is_for = f"is a checkpoint for {found.title}" if found else has
        raise DoesNotFit(f"{name} {is_for}; expected one for {' or '.join(item.title for item in wanted)}")
    assert found is not None
    return found.name


def _exported(name: str) -> Path:
    """The exported file or its folder: `name` itself, `onnx` in a model folder, or `onnx` downloaded from a Hub repository."""
    if is_exported(name):
        path = Path(name)
        return path / "onnx" if (path / "onnx").is_dir() else path
    folder = Path(bundled.resolve(name))
    if not folder.is_dir():
        folder = downloaded(name, ["*.json", "onnx/*"])
    return folder / "onnx"


def device_of(device: str | torch.device, tried: bool = True) -> torch.device:
    """The device of that name. Raises ValueError where this machine hasn't got it, or it can't compute."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(
            f"device {str(device)!r}: expected auto, cpu, cuda, cuda:1, ... or another of torch's"
        ) from None
    try:
        if tried:
            torch.ones(1, device=found).item()  # "meta" has no values
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, AttributeError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]  # the rest lists every device that torch knows
        raise ValueError(
            f"device {str(device)!r}: this machine can't compute there ({reason[:200].rstrip('.')})"
        ) from None
    return found


def _read(image: Image) -> np.ndarray:
    """RGB uint8 (H, W, 3) of an image of any kind. Raises ValueError, naming what it got, for anything else."""
    if isinstance(image, str | Path):
        return formats.read_image(image)
    return rgb_image(PIL.ImageOps.exif_transpose(image) if isinstance(image, PIL.Image.Image) else image)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.cpu().numpy())
