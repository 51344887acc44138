"""Images to padded tensors, and predictions back to the original size.

What is notable here:
- any size goes in: frames are padded at the bottom and right to whole patches by repeating their edge, and
  `post_process_*` crops that border off again;
- resizing is off by default (Win-Win runs at full resolution). Where it is on, `post_process_*` computes the resized size from the
  original one and this processor's options, so the caller gives `target_sizes` alone;
- a checkpoint whose predictions depend on how large things look has a working size (`do_resize`, `size`), whatever size images come in;
- small images can be enlarged to a number of pixels, which makes optical flow more precise (`min_pixels`); `quality="fast"` leaves them
  as they are;
- medians over the flow (`median_size`) take off the dots along a limb that moves, where matching went astray;
- frames of a pair are processed alike: `second_images` gives `second_pixel_values`;
- PIL and NumPy only, no torchvision.

Shapes: B batch, C channels, L classes, H W pixels (of the original image, or padded where it says so).
"""

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from transformers.dynamic_module_utils import custom_object_save
from transformers.image_processing_backends import PilBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import logging

from .image_arrays_winwin import as_label_list, as_list, image_array, label_array, resize, target_list
from .image_settings_winwin import FLAGS, NUMBERS, RESIZING, check_quality, check_resizing, check_settings
from .losses_winwin import DEPTH_ERRORS, IGNORE_LABEL, check_shape, laplacian_scale
from .pixels_winwin import check_pixels, naming, size_text, to_255, to_rgb
from .smoothing_winwin import smoothed

logger = logging.get_logger(__name__)

MAX_SCORES = 2**27  # numbers: scores of classes that are held at once at the size of a picture
MAX_ENLARGEMENT = 2.0  # by `min_pixels`, in each direction


class WinWinImageProcessorKwargs(ImagesKwargs, total=False):
    """
    patch_size (`int`): images are padded to a multiple of it, in pixels.
    min_pixels (`int`, *optional*): images with fewer pixels are enlarged to so many, at most twice in each direction.
    quality (`str`, *optional*): `"fast"`: without `min_pixels`; `"best"`: as the other options say.
    median_size (`int`, *optional*): of the median filters over a predicted flow, in pixels of the model's input: 3, 5, or 0 for none.
    do_reduce_labels (`bool`): class ids of segmentation maps are reduced by 1; 0 becomes `ignore_index`.
    ignore_index (`int`): the label of pixels that don't count, and of the padding.
    """

    patch_size: int
    min_pixels: int | None
    quality: str | None
    median_size: int | None
    do_reduce_labels: bool
    ignore_index: int


class WinWinImageProcessor(PilBackend):
    """Prepares images, pairs of frames and segmentation maps for the Win-Win models.

    Options (at construction, or for one call):
        do_resize (bool, False), size, resample: `size` is {"height", "width"}; or {"shortest_edge"} / {"longest_edge"}, which
            keep the aspect ratio; or both edges: the shorter side becomes `shortest_edge` unless the longer one would
            exceed `longest_edge`.
        min_pixels (None): without `do_resize`, images with fewer pixels are enlarged to about so many, at most twice in each
            direction; None or 0: never. Useful where an image's size carries no meaning: optical flow.
        quality (None): "fast": no image is enlarged, whatever `min_pixels` says; a working size (`do_resize`) stays, since metres
            and classes depend on it. "best" or None: as `min_pixels` says. The other part of a quality, passes and precision, is the
            pipeline's and the Predictor's.
        median_size (None): of the median filters over a predicted flow, before it goes back to the frames' size: 3 or 5 pixels of
            the model's input, and wider where the model is unsure; None or 0: no filter. Of post-processing alone: give it here or there.
        do_rescale (bool, True), rescale_factor (1/255); do_normalize (bool, True), image_mean, image_std (ImageNet's).
        do_pad (bool, True), patch_size (16): pad bottom and right to whole patches, repeating the edge.
        do_convert_rgb (bool, True): grey is repeated, alpha is laid over white.
        do_reduce_labels (bool, False): class ids are reduced by 1 and 0 becomes `ignore_index`, as for ADE20K, whose 0 is "none".
        ignore_index (255): the label of pixels that don't count: it stays as it is, and padding gets it. It is the model's
            `config.semantic_loss_ignore_index`.

    Values: unsigned 8-bit is 0..255; 16-bit integers are 0..65535; floats are 0..1 and anything outside is an error, unless
    `do_rescale=False`, which takes values as they are. An array whose layout is ambiguous (an image 1, 3 or 4 pixels wide or
    high) counts as (H, W, C) from NumPy and (C, H, W) from torch; `input_data_format` overrides.
    """

    valid_kwargs = WinWinImageProcessorKwargs
    model_input_names = ["pixel_values", "second_pixel_values"]

    do_resize = False
    size = None
    default_to_square = False
    resample = PILImageResampling.BILINEAR
    do_rescale = True
    rescale_factor = 1 / 255
    do_normalize = True
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    do_pad = True
    patch_size = 16
    min_pixels: int | None = None
    quality: str | None = None
    median_size: int | None = None
    do_convert_rgb = True
    do_reduce_labels = False
    ignore_index = IGNORE_LABEL

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> Any:
        """
        Saves as transformers does; beside a model that was published with its code, with its code.

        There config.json says which class this is: a name here would hide that from people without the package.
        """
        saved = super().save_pretrained(save_directory, *args, **kwargs)
        model, own = (Path(save_directory) / name for name in ("config.json", "preprocessor_config.json"))
        config = json.loads(model.read_text(encoding="utf-8")) if model.is_file() else {}
        if self._auto_class is None and "AutoImageProcessor" in config.get("auto_map", {}):
            custom_object_save(self, save_directory)
            values = json.loads(own.read_text(encoding="utf-8"))
            values.pop("image_processor_type", None)
            temporary = own.with_suffix(".tmp")
            temporary.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            temporary.replace(own)
        return saved

    def __init__(self, **kwargs: Unpack[WinWinImageProcessorKwargs]):
        super().__init__(**kwargs)  # type: ignore[misc]
        check_settings({name: getattr(self, name, None) for name in (*NUMBERS, *FLAGS, "quality", "median_size")})

    def preprocess(
        self,
        images: Any,
        segmentation_maps: Any = None,
        second_images: Any = None,
        **kwargs: Unpack[WinWinImageProcessorKwargs],
    ) -> BatchFeature:
        """One image or a list of images -> model inputs.

        Args:
            images: PIL image, path or URL, NumPy or torch array ((H, W), (H, W, C) or (C, H, W)), a list of these, or a 4-D
                array. A path is turned as its EXIF says; a PIL image is taken as it is held. For pairs: the first frames.
            segmentation_maps: class ids, one whole number a pixel, as many maps as `images`, each of its image's size: PIL images ("L", "P"
                whose indices are the ids, "I", "1"), paths or URLs, arrays (H, W), (H, W, 1) or (1, H, W), a list of these, or an array
                with a batch axis. `ignore_index` where a pixel doesn't count.
            second_images: the second frames, as many as `images`, each of the size of its first frame.
            kwargs: the options above for this call, and `return_tensors` ("pt", "np" or None for lists).

        Returns:
            BatchFeature with `pixel_values` (B, 3, H, W) float32 and, where given, `second_pixel_values` (same shape) and
            `labels` (B, H, W) int64; H and W are padded. Without `return_tensors`: lists of arrays, so sizes may differ.

        Raises:
            ValueError: the two frames of a pair differ in size; numbers of inputs differ; a batch to be stacked has several
                padded sizes; an image is empty, or its values or layout are not as described above.
        """
        return super().preprocess(images, segmentation_maps, second_images, **kwargs)

    def _preprocess_image_like_inputs(  # type: ignore[override]
        self,
        images: Any,
        segmentation_maps: Any,
        second_images: Any,
        return_tensors: Any = None,
        **options: Any,
    ) -> BatchFeature:
        check_settings(options)
        first = [self.process_image(image, **options) for image in as_list(images, "images")]
        data = {"pixel_values": self._preprocess(first, **options)}
        sizes = [image.shape[-2:] for image in first]

        if second_images is not None:
            second = [self.process_image(image, **options) for image in as_list(second_images, "second_images")]
            if len(second) != len(first):
                raise ValueError(
                    f"{len(first)} images but {len(second)} second_images: each first frame needs its second frame."
                )
            for index, (size, image) in enumerate(zip(sizes, second, strict=True)):
                if image.shape[-2:] != size:
                    raise ValueError(
                        f"Pair {index}: the first frame is {size_text(size)} and the second frame is "
                        f"{size_text(image.shape[-2:])} (height x width); expected two frames of the same size. "
                        "Resize or crop one of them first."
                    )
            data["second_pixel_values"] = self._preprocess(second, **options)

        if segmentation_maps is not None:
            maps = [label_array(item, index) for index, item in enumerate(as_label_list(segmentation_maps, sizes))]
            if len(maps) != len(first):
                raise ValueError(f"{len(first)} images but {len(maps)} segmentation_maps: expected one map per image.")
            for index, (size, labels) in enumerate(zip(sizes, maps, strict=True)):
                if labels.shape != size:
                    raise ValueError(
                        f"Segmentation map {index} is {size_text(labels.shape)} but its image is {size_text(size)} "
                        "(height x width); expected the same size."
                    )
            _warn_of_binary_masks(maps, **options)
            data["labels"] = [self._preprocess_labels(labels, **options) for labels in maps]

        if return_tensors is None:
            return BatchFeature(data=data)
        return BatchFeature(
            data={name: _stack(items, name) for name, items in data.items()}, tensor_type=return_tensors
        )

    def process_image(  # type: ignore[override]
        self,
        image: Any,
        do_convert_rgb: bool | None = True,
        do_rescale: bool | None = True,
        input_data_format: Any = None,
        **_: Any,
    ) -> np.ndarray:
        """One image of any kind -> (C, H, W), uint8 or float32 with values 0..255 (as given where `do_rescale` is off)."""
        with naming(image):
            array = to_255(image_array(image, input_data_format), checked=bool(do_rescale))
        # without rescaling, white is 1 for floats (only alpha needs it)
        white = 255.0 if do_rescale or array.dtype == np.uint8 else 1.0
        return to_rgb(array, white) if do_convert_rgb else array

    def _preprocess(  # type: ignore[override]
        self, images: list[np.ndarray], **options: Any
    ) -> list[np.ndarray]:
        """Resize, pad, rescale and normalise (C, H, W) arrays; the last two as one multiplication and one addition."""
        if options.get("do_center_crop") or options.get("pad_size") is not None:
            raise ValueError(
                "do_center_crop and pad_size are not supported: images are padded to multiples of patch_size."
            )
        if options.get("data_format") not in (None, "channels_first"):
            raise ValueError(f"data_format must be 'channels_first', got {options['data_format']!r}.")
        results = []
        for image in images:
            height, width = self._resized_size(image.shape[-2:], **options)
            bottom, right = self._padded_size((height, width), **options)
            check_pixels((bottom, right))
            if (height, width) != image.shape[-2:]:
                image = resize(image, (height, width), options["resample"])
            channels = image.shape[0]
            gain = np.full(channels, options["rescale_factor"] if options["do_rescale"] else 1.0)
            bias = np.zeros(channels)
            if options["do_normalize"]:
                for name in ("image_mean", "image_std"):
                    if np.size(options[name]) not in (1, channels):
                        count = np.size(options[name])
                        raise ValueError(
                            f"{name} has {count} numbers: expected 1, or one for each of {channels} channels."
                        )
                mean, std = (np.broadcast_to(options[name], (channels,)) for name in ("image_mean", "image_std"))
                gain, bias = gain / std, -mean / std
            result = np.empty((channels, bottom, right), np.float32)
            for c in range(channels):
                inside = result[c, :height, :width]
                np.multiply(image[c], np.float32(gain[c]), out=inside, dtype=np.float32)
                inside += np.float32(bias[c])
            # Repeating the edge and an affine change of values commute, so the border is copied last.
            result[:, :height, width:] = result[:, :height, width - 1 : width]
            result[:, height:] = result[:, height - 1 : height]
            results.append(result)
        return results

    def _preprocess_labels(self, labels: np.ndarray, **options: Any) -> np.ndarray:
        """(H, W) class ids -> reduced, resized by nearest neighbour and padded with `ignore_index`, int64."""
        ignored = options["ignore_index"]
        labels = labels.astype(np.int64)
        if options["do_reduce_labels"]:
            labels = np.where((labels == 0) | (labels == ignored), ignored, labels - 1)
        if labels.min() < 0 and (labels[labels < 0] != ignored).any():
            raise ValueError(
                f"A segmentation map holds the class id {labels.min()}: expected 0 or more, or {ignored} (ignore_index) where a pixel "
                "doesn't count."
            )
        height, width = self._resized_size(labels.shape, **options)
        if (height, width) != labels.shape:
            rows = ((np.arange(height) + 0.5) * (labels.shape[0] / height)).astype(np.int64)
            columns = ((np.arange(width) + 0.5) * (labels.shape[1] / width)).astype(np.int64)
            labels = labels[rows[:, None], columns]
        result = np.full(self._padded_size((height, width), **options), ignored, np.int64)
        result[:height, :width] = labels
        return result

    # ---- sizes: the one place where they are computed, for the way in and for the way back ----

    def _resized_size(self, original: tuple[int, ...], **options: Any) -> tuple[int, int]:
        """(H, W) of an image -> (H, W) after this processor's resize, before padding."""
        height, width = int(original[0]), int(original[1])
        wanted = options.get("size")
        if not options.get("do_resize"):
            if options.get("quality") == "fast":
                return height, width
            scale = min(MAX_ENLARGEMENT, math.sqrt((options.get("min_pixels") or 0) / (height * width)))
            return (round(height * scale), round(width * scale)) if scale > 1 else (height, width)
        if wanted is None:
            raise ValueError(
                "do_resize=True needs a `size`, e.g. {'shortest_edge': 384} or {'height': 384, 'width': 512}."
            )
        keys = set(dict(wanted))
        if keys == {"height", "width"}:
            return int(wanted["height"]), int(wanted["width"])
        scales = []
        if "shortest_edge" in keys:
            scales.append(wanted["shortest_edge"] / min(height, width))
        if "longest_edge" in keys:
            scales.append(wanted["longest_edge"] / max(height, width))
        if not scales or keys - {"shortest_edge", "longest_edge"}:
            raise ValueError(
                f"size must have height and width, or shortest_edge and/or longest_edge; got {sorted(keys)}."
            )
        scale = min(scales)
        return max(1, round(height * scale)), max(1, round(width * scale))

    def _padded_size(self, resized: tuple[int, int], **options: Any) -> tuple[int, int]:
        patch = options["patch_size"]
        if not isinstance(patch, int) or patch < 1:
            raise ValueError(f"patch_size must be a positive whole number of pixels, got {patch!r}.")
        if not options.get("do_pad"):
            return resized
        return math.ceil(resized[0] / patch) * patch, math.ceil(resized[1] / patch) * patch

    def input_sizes(self, original: Any, **options: Any) -> tuple[tuple[int, int], tuple[int, int]]:
        """(height, width) of an image -> that of its resized picture, and that of the model's input, which is padded.

        `options`: `do_resize`, `size`, `min_pixels`, `quality`, `do_pad`, `patch_size` where the call of the processor overrides them.
        """
        check_resizing(options)
        options = {name: getattr(self, name) for name in RESIZING} | options
        check_quality(options["quality"])
        standard = self._standardize_kwargs(size=options["size"], default_to_square=self.default_to_square)
        options["size"] = standard["size"]
        resized = self._resized_size(original, **options)
        return resized, self._padded_size(resized, **options)

    def _restore(
        self,
        maps: torch.Tensor,
        target_sizes: Any,
        overrides: dict[str, Any],
        finish: Callable[[torch.Tensor, Any], torch.Tensor] | None = None,
    ) -> list[tuple[torch.Tensor, tuple[float, float]]]:
        """
        (B, K, H, W) padded maps -> per image: the map (K, h, w) at its target size, and the resize ratios (h, w).

        finish: makes a map of its target's size of one without the padding.
        """
        if maps.ndim != 4:
            raise ValueError(
                f"Predictions of full images are expected, (batch, ..., height, width); got a shape of {tuple(maps.shape)}. "
                "Predictions in windows cannot be put back into one image."
            )
        check_resizing(overrides)
        maps, finish = maps.float(), finish or _at_size
        if target_sizes is None:
            return [(finish(item, item.shape[-2:]), (1.0, 1.0)) for item in maps]
        targets = target_list(target_sizes, len(maps))
        if len(targets) != len(maps):
            raise ValueError(
                f"{len(targets)} target_sizes for a batch of {len(maps)}: expected one (height, width) per image."
            )
        results = []
        for item, target in zip(maps, targets, strict=True):
            resized, padded = self.input_sizes(target, **overrides)
            if padded != tuple(item.shape[-2:]):
                raise ValueError(
                    f"A target size of {size_text(target)} (height x width) is padded to {size_text(padded)} by this processor, but the "
                    f"predictions are {size_text(item.shape[-2:])}. target_sizes must be the original images' sizes; options "
                    "overridden in the call (do_resize, size, min_pixels, quality) must be given here too."
                )
            item = finish(item[:, : resized[0], : resized[1]], target)
            results.append((item, (target[0] / resized[0], target[1] / resized[1])))
        return results

    # ---- the way back ----

    def post_process_optical_flow(
        self,
        outputs: Any,
        target_sizes: Any = None,
        scale_bounds: tuple[float, float] = (0.25, 4.0),
        **options: Any,
    ) -> list[dict[str, torch.Tensor]]:
        """Flow at the size of the original frames, and in their pixels.

        Args:
            outputs: with `flow` (B, 2, H, W) and optionally `log_scale` (B, H, W).
            target_sizes: one (height, width) of the original frames per pair, as a list, an array or a tensor (B, 2); a single pair
                (height, width) is every frame's; None leaves predictions at the size that the model gave them.
            scale_bounds: the model's `config.min_flow_scale` and `config.max_flow_scale`, pixels of its input.
            options: `do_resize`, `size`, `min_pixels`, `quality`, `do_pad`, `patch_size` where the call of the processor overrode them;
                `median_size` for another filter than this processor's (0: the flow as the model gave it, with its gradient).

        Returns:
            per pair: `flow` (2, H, W) float32, (u right, v down) in pixels of the original frame; with `log_scale`:
            `expected_error` (H, W), the Laplacian's scale in pixels of the original frame: by how much the model expects u and v
            to be wrong (their mean, where a resize stretched one of them);
            `confidence` (H, W) in [0, 1], which is 1 where that scale is the least that the model can say, 0 where it is the largest;
            `log_scale` (H, W), the model's raw channel c, of which both are made: confidence is 1 - sigmoid(c).

        Raises:
            ValueError: a target size cannot belong to these outputs, or their numbers differ; a median_size that isn't 0, 3 or 5.
        """
        side = options.pop("median_size", self.median_size)
        check_settings({"median_size": side})

        flow, log_scale = _field(outputs, "flow"), _field(outputs, "log_scale", required=False)
        check_shape("flow", flow, (*flow.shape[:-3], 2, *flow.shape[-2:]))
        if log_scale is not None:
            check_shape("log_scale", log_scale, (*flow.shape[:-3], *flow.shape[-2:]))
            flow = torch.cat([flow.float(), log_scale.float().unsqueeze(-3)], dim=-3)

        def finish(maps: torch.Tensor, size: Any) -> torch.Tensor:
            """Flow (2, h, w), or (3, h, w) with the raw channel, at its target's size."""
            if side:
                maps = torch.cat([smoothed(maps[:2], maps[2] if len(maps) > 2 else None, side), maps[2:]])
            return _at_size(maps, size)

        results = []
        for item, (down, right) in self._restore(flow, target_sizes, options, finish):
            result = {"flow": item[:2] * item.new_tensor([right, down])[:, None, None]}
            if log_scale is not None:
                c = item[2]
                result["log_scale"] = c
                result["expected_error"] = laplacian_scale(c, *scale_bounds) * ((down + right) / 2)
                result["confidence"] = torch.sigmoid(-c)
            results.append(result)
        return results

    def post_process_depth_estimation(
        self, outputs: Any, target_sizes: Any = None, **options: Any
    ) -> list[dict[str, torch.Tensor]]:
        """`predicted_depth` (B, H, W) -> per image {"predicted_depth": (H, W) float32, metres}. Arguments as for flow.

        With `log_scale` also `expected_error` (H, W), by how many metres the model expects to be wrong, `confidence` (H, W) in [0, 1]
        and `log_scale`, as for flow.
        """
        depth, log_scale = _field(outputs, "predicted_depth"), _field(outputs, "log_scale", required=False)
        results = [{"predicted_depth": item[0]} for item, _ in self._restore(depth[:, None], target_sizes, options)]
        if log_scale is not None:
            check_shape("log_scale", log_scale, depth.shape)
            restored = self._restore(log_scale[:, None], target_sizes, options)
            for result, (c, _) in zip(results, restored, strict=True):
                result["log_scale"] = c[0]
                result["expected_error"] = laplacian_scale(c[0], *DEPTH_ERRORS) * result["predicted_depth"]
                result["confidence"] = torch.sigmoid(-c[0])
        return results

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Any = None, return_segmentation_scores: bool = False, **options: Any
    ) -> list[Any]:
        """`logits` (B, L, H, W) -> per image the class ids (H, W) int64. Arguments as for flow.

        With `return_segmentation_scores`: per image `segmentation`, the ids, and `segmentation_scores`, the logits (L, H, W).
        """
        logits = _field(outputs, "logits")
        if not return_segmentation_scores:
            return [ids for ids, _ in self._restore(logits, target_sizes, options, _class_ids)]
        scores = [item for item, _ in self._restore(logits, target_sizes, options)]
        return [BatchFeature({"segmentation": item.argmax(dim=0), "segmentation_scores": item}) for item in scores]


# ---- what the methods above share ----


def _field(outputs: Any, name: str, required: bool = True) -> Any:
    value = outputs.get(name) if isinstance(outputs, dict) else getattr(outputs, name, None)
    if value is None and required:
        raise ValueError(
            f"These outputs ({type(outputs).__name__}) have no `{name}`: a model for another task made them."
        )
    return value


def _at_size(maps: torch.Tensor, size: Any) -> torch.Tensor:
    """(K, h, w) -> (K, *size)."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def _class_ids(scores: torch.Tensor, size: Any) -> torch.Tensor:
    """(L, h, w) -> the class of the largest score at each pixel of `size`, int64. A few classes at a time are enlarged: a photograph of 80
    megapixels with 150 classes has 48 GB of scores."""
    step = max(1, MAX_SCORES // (size[0] * size[1]))
    if len(scores) <= step or tuple(scores.shape[-2:]) == tuple(size):
        return _at_size(scores, size).argmax(dim=0)
    ids, largest = None, None
    for start in range(0, len(scores), step):
        part = _at_size(scores[start : start + step], size)
        here = part.argmax(dim=0)
        score = part.gather(0, here[None])[0]
        if ids is None or largest is None:
            ids, largest = here, score
            continue
        higher = (score > largest) | (score.isnan() & ~largest.isnan())  # as argmax has it
        ids[higher] = here[higher] + start
        largest[higher] = score[higher]
    assert ids is not None
    return ids


def _warn_of_binary_masks(maps: list[np.ndarray], **options: Any) -> None:
    """Warns once where the maps (H, W) of a call hold 0 and 255 alone, as most binary masks do."""
    if options["ignore_index"] != IGNORE_LABEL or options["do_reduce_labels"]:
        return
    if not all(((labels == 0) | (labels == IGNORE_LABEL)).all() for labels in maps):
        return
    if all(any((labels == value).any() for labels in maps) for value in (0, IGNORE_LABEL)):
        logger.warning_once(
            "The segmentation maps of a call hold only 0 and 255, and 255 means unknown (ignore_index): training sees one class, 0. "
            "If 255 is your second class, give `mask // 255` or `np.where(mask == 255, 1, mask)`."
        )


def _stack(items: list[np.ndarray], name: str) -> np.ndarray:
    sizes = sorted({item.shape[-2:] for item in items})
    if len(sizes) > 1:
        raise ValueError(
            f"{name}: cannot stack images of padded sizes {', '.join(size_text(size) for size in sizes)} (height x width) into one "
            "tensor. Pass images of one size, resize them (do_resize=True, size={'height': ..., 'width': ...}), or leave out "
            "return_tensors to get lists."
        )
    return items[0][None] if len(items) == 1 else np.stack(items)


__all__ = ["WinWinImageProcessor"]
