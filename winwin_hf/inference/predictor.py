"""A network by its name, ready to run."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from winwin_hf.inference import flow as inference
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor


class Network:
    """A model of ours with its processor. tile: (height, width) in pixels, or None for one pass over the whole frame.

    labels: class names of a segmentation model, in the order of its ids. uncertainty: of the last flow that was predicted, (H, W): the
    raw channel of its scale, which grows with it.
    """

    uncertainty: np.ndarray | None = None
    coarse = False  # flow: a first pass at half the size, see inference.coarse_flow

    def __init__(
        self,
        model: Any,
        processor: WinWinImageProcessor,
        accelerator: Accelerator,
        task: str,
        name: str = "model",
        tile: tuple[int, int] | None = None,
        overlap: float = 0.5,
    ):
        self.model, self.processor, self.accelerator = model, processor, accelerator
        self.task, self.name = task, name
        self.tile, self.overlap = tile, overlap
        names = model.config.id2label
        self.labels = tuple(names[i] for i in range(len(names))) if task == "semantic-segmentation" else None

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, second: np.ndarray | None = None) -> np.ndarray:
        size = (image.shape[0], image.shape[1])
        inputs = self.processor.preprocess(image, second, return_tensors="pt").to(self.accelerator.device)
        with self.accelerator.autocast():
            if self.coarse:
                outputs = inference.predict_flow(
                    self.model, inputs["pixel_values"], inputs["second_pixel_values"], self.tile, coarse=True
                )
            elif self.tile is None:
                outputs = self.model(**inputs)
            else:
                outputs = inference.predict_tiled(
                    self.model, inputs["pixel_values"], inputs.get("second_pixel_values"), self.tile, self.overlap
                )
        return self._finish(outputs, size)

    def _finish(self, outputs: Any, size: tuple[int, int]) -> np.ndarray:
        """The prediction at the image's size, without the padding."""
        sizes, processor = [size], self.processor
        if self.task == "optical-flow":
            restored = processor.post_process_optical_flow(outputs, target_sizes=sizes)[0]
            result = restored["flow"]
            self.uncertainty = restored["log_scale"].float().cpu().numpy() if "log_scale" in restored else None
        elif self.task == "depth-estimation":
            result = processor.post_process_depth_estimation(outputs, target_sizes=sizes)[0]["predicted_depth"]
        else:
            return processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)[0].cpu().numpy()
        return result.float().cpu().numpy()
