"""`pipeline("optical-flow", model=...)(frame1, frame2)`: from two frames to the motion between them, and a picture of it.

The package registers the task when it is imported. Frames are PIL images, paths, URLs, or NumPy or torch arrays.
"""

import inspect
import os
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import AutoModel, Pipeline
from transformers.pipelines import PIPELINE_REGISTRY

from .coarse_winwin import coarse_flow
from .flow_colours_winwin import flow_to_image
from .half_products_winwin import fast_products
from .image_arrays_winwin import image_array, open_image
from .image_settings_winwin import check_quality
from .memory_winwin import explained, first_that_fits, memory_of, smaller_counts, smaller_sizes
from .pixels_winwin import size_text
from .weights_winwin import refuse_incomplete, refuse_infinite

TASK = "optical-flow"
# What a config.json says where this file lies beside the weights.
CUSTOM_PIPELINES = {TASK: {"impl": "pipeline_winwin.OpticalFlowPipeline", "pt": ["AutoModel"], "type": "image"}}


class OpticalFlowPipeline(Pipeline):
    """Optical flow with a WinWinForOpticalFlow and its image processor.

    ```python
    flow = pipeline("optical-flow", model="winwin-flow")
    flow("frame1.png", "frame2.png")["flow"]  # (2, H, W)
    flow([("a1.png", "a2.png"), ("b1.png", "b2.png")], batch_size=2)  # a list of results
    ```

    In a batch, pairs of one (padded) size run together, others by themselves. Call options: `max_motion` (pixels shown in full
    colour; default the longest vector), `timeout` (seconds for URLs), `quality`, and `do_resize`, `size` and `min_pixels` (as the image
    processor's). `quality="fast"`: frames at their own size, one pass, in bf16 on a CPU that is faster in it; "best": enlarged as the
    processor says, after passes at smaller sizes; by default enlarged, in one pass.
    """

    _load_processor: Any = False
    _load_image_processor: Any = True
    _load_feature_extractor: Any = False
    _load_tokenizer: Any = False
    image_processor: Any

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if "second_pixel_values" not in inspect.signature(self.model.forward).parameters:
            raise ValueError(f"{type(self.model).__name__} takes one image; optical flow needs a WinWinForOpticalFlow.")
        refuse_infinite(self.model.name_or_path, self.model.state_dict())

    def __call__(self, images: Any, second_images: Any = None, **kwargs: Any) -> Any:  # type: ignore[override]
        """Flow of one pair or of several.

        Args:
            images: the first frame(s); or, with no `second_images`, one pair (frame1, frame2), a list of pairs, or a
                generator or data set of pairs.
            second_images: the second frame(s): one, or a list as long as `images`.

        Returns:
            for a pair a dict, for a list a list of them (for a generator an iterator):
            `flow` (2, H, W) float32 tensor, (u right, v down) in pixels of the frames as given;
            `expected_error` (H, W) float32, by how many of these pixels the model expects u and v to be wrong;
            `confidence` (H, W) float32 in 0..1; `visualization` a PIL image of the flow's colours.
        """
        if isinstance(images, (list, tuple)) and not images:
            raise ValueError("images is empty: expected at least one pair of frames.")
        if second_images is not None:
            if isinstance(images, (list, tuple)) != isinstance(second_images, (list, tuple)):
                raise ValueError("Give one first and one second frame, or two lists of the same length.")
            if not isinstance(images, (list, tuple)):
                return super().__call__((images, second_images), **kwargs)
            if len(images) != len(second_images):
                raise ValueError(f"{len(images)} first frames but {len(second_images)} second frames.")
            return super().__call__(list(zip(images, second_images, strict=True)), **kwargs)
        if isinstance(images, (list, tuple)):
            if len(images) == 2 and all(_is_frame(item) for item in images):
                return super().__call__((images[0], images[1]), **kwargs)
            return super().__call__([_pair(item) for item in images], **kwargs)
        if _is_frame(images):
            raise ValueError("Optical flow needs two frames, only one was given.")
        return super().__call__(images, **kwargs)

    def _sanitize_parameters(
        self,
        max_motion: float | None = None,
        timeout: float | None = None,
        do_resize: bool | None = None,
        size: Any = None,
        min_pixels: int | None = None,
        quality: str | None = None,
        **unknown: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        if unknown:
            expected = "max_motion, timeout, do_resize, size, min_pixels or quality"
            raise TypeError(f"unexpected options {sorted(unknown)}; expected {expected}.")
        check_quality(quality)
        resize: dict[str, Any] = {"do_resize": do_resize, "size": size, "min_pixels": min_pixels}
        if not do_resize and not min_pixels:  # which are more particular
            resize["quality"] = quality
        resize = {name: value for name, value in resize.items() if value is not None}
        before = resize | ({} if timeout is None else {"timeout": timeout})
        after = resize | ({} if max_motion is None else {"max_motion": max_motion})
        return before, {} if quality is None else {"quality": quality}, after

    def preprocess(self, pair: Any, timeout: float | None = None, **resize: Any) -> dict[str, Any]:  # type: ignore[override]
        first, second = (self._frame(frame, timeout) for frame in _pair(pair))
        inputs = self.image_processor(images=first, second_images=second, return_tensors="pt", **resize)
        inputs = inputs.to(self.dtype)
        height, width = image_array(first).shape[-2:]
        # In a tuple, which transformers hands over as it is: it would try to stack bare tensors, whatever their sizes.
        return {"frames": (inputs["pixel_values"], inputs["second_pixel_values"]), "target_size": (height, width)}

    def _frame(self, frame: Any, timeout: float | None) -> Any:
        """The frame opened, and turned as its EXIF says; the image processor does the rest."""
        frame = open_image(frame, timeout)
        return ImageOps.exif_transpose(frame) if isinstance(frame, Image.Image) else frame

    def _forward(self, inputs: dict[str, Any], quality: str | None = None) -> dict[str, Any]:  # type: ignore[override]
        single = isinstance(inputs["frames"], tuple)
        pairs = [inputs["frames"]] if single else inputs["frames"]
        by_size: dict[Any, list[int]] = {}
        for index, (first, _second) in enumerate(pairs):
            by_size.setdefault(first.shape, []).append(index)
        results: list[Any] = [None] * len(pairs)
        for members in by_size.values():  # pairs of one size run together
            outputs = self._predict([pairs[index] for index in members], quality)
            if getattr(outputs, "flow", None) is None:
                raise ValueError(f"{type(self.model).__name__} predicts no flow; a WinWinForOpticalFlow is needed.")
            for row, index in enumerate(members):
                results[index] = outputs.flow[row : row + 1], outputs.log_scale[row : row + 1]
        if single:
            return {"maps": results[0], "target_size": inputs["target_size"]}
        return {"maps": results, "target_size": inputs["target_size"]}

    def _predict(self, pairs: list[Any], quality: str | None) -> Any:
        """The model's output for pairs of frames of one size. Raises torch.OutOfMemoryError, which says how many, or what size, fit."""

        def run(frames: list[torch.Tensor]) -> Any:
            guess = {}
            if quality == "best" and getattr(self.model.config, "matching_stride", None) is not None:
                guess["initial_flow"] = coarse_flow(self.model, *frames)
            with fast_products(self.model) if quality == "fast" else nullcontext():
                return self.model(pixel_values=frames[0], second_pixel_values=frames[1], **guess)

        def explain(may_try: bool) -> str:
            channels, height, width = pairs[0][0].shape[-3:]
            tried = size_text((height, width))
            tried = f"{len(pairs)} pairs of {tried}" if len(pairs) > 1 else tried
            text = f"{tried} pixels (height x width) take more memory than {memory_of(self.device)} has"
            noise = pairs[0][0].new_zeros
            counts = smaller_counts(len(pairs)) if may_try else []
            if count := first_that_fits(lambda n: run([noise(n, channels, height, width)] * 2), counts):
                return f"{text}; {count} would fit: expected batch_size={count}"
            sizes = smaller_sizes(height, width, self.model.config.patch_size) if may_try else []
            fits = first_that_fits(lambda size: run([noise(1, channels, *size)] * 2), sizes)
            known = f"; {size_text(fits)} would fit" if fits else ""
            return f"{text}{known}: expected smaller frames (size), or a Predictor with tiles"

        return explained(lambda: run([torch.cat(views) for views in zip(*pairs, strict=True)]), explain)

    def postprocess(  # type: ignore[override]
        self, outputs: dict[str, Any], max_motion: float | None = None, **resize: Any
    ) -> dict[str, Any]:
        flow, log_scale = outputs["maps"]
        result = self.image_processor.post_process_optical_flow(
            {"flow": flow, "log_scale": log_scale},
            target_sizes=[outputs["target_size"]],
            scale_bounds=(self.model.config.min_flow_scale, self.model.config.max_flow_scale),
            **resize,
        )[0]
        flow = result["flow"].cpu()
        picture = Image.fromarray(flow_to_image(flow, max_motion=max_motion))
        maps = {name: result[name].cpu() for name in ("confidence", "expected_error")}
        return {"flow": flow, **maps, "visualization": picture}


def _is_frame(item: Any) -> bool:
    return isinstance(item, (str, os.PathLike, Image.Image, np.ndarray, torch.Tensor))


def _pair(item: Any) -> tuple[Any, Any]:
    if isinstance(item, (list, tuple)) and len(item) == 2 and all(_is_frame(frame) for frame in item):
        return item[0], item[1]
    raise ValueError(f"Expected a pair (frame1, frame2) of images, paths, URLs or arrays; got {type(item).__name__}.")


class AutoWholeModel(AutoModel):
    """AutoModel for use alone: tensors that are missing or don't fit are an error."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs["output_loading_info"] = True
        model, found = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        refuse_incomplete(pretrained_model_name_or_path, model, found)
        return model


def register_pipeline(default: str | None = None) -> None:
    """Makes `pipeline("optical-flow")` known to transformers; the package calls it once. `default`: its model where none is given."""
    if TASK not in PIPELINE_REGISTRY.supported_tasks:
        chosen = {} if default is None else {"default": {"model": (default, "main")}}
        PIPELINE_REGISTRY.register_pipeline(
            TASK, pipeline_class=OpticalFlowPipeline, pt_model=AutoWholeModel, type="image", **chosen
        )


__all__ = ["OpticalFlowPipeline"]
