"""The three networks, one prediction at a time, with the last predictions kept.

Notable:
- One prediction runs at a time, always in the same thread: each uses every core, and memory is that of one. From one thread
  after another, torch and the allocator would keep buffers and helper threads for each of them.
- Results are kept by the content of their frames, up to KEPT_BYTES: moving a slider, comparing with tiles or choosing an example
  doesn't run a network again. There is no state per visitor.
- A picture is the same for the bundled checkpoint, a folder and a Hub repository: `winwin_hf.inference.tasks.load` takes any name.
"""

from __future__ import annotations

import contextvars
import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch

from winwin_hf.inference import flow as inference
from winwin_hf.inference import tasks
from winwin_hf.model import losses_winwin as losses

TILE = (384, 512)  # height, width: what `winwin flow --tile` takes
KEPT_BYTES = 256 << 20


@dataclass(frozen=True)
class Flow:
    flow: np.ndarray  # (H, W, 2) float32, (right, down) in pixels
    error: np.ndarray  # (H, W) float32: by how many pixels the network expects to be off, from its log_scale
    seconds: float
    passes: int  # of the network: 1 directly, one a tile otherwise


@dataclass(frozen=True)
class Depth:
    depth: np.ndarray  # (H, W) float32, metres
    seconds: float


@dataclass(frozen=True)
class Labels:
    labels: np.ndarray  # (H, W) uint8
    seconds: float


class Networks:
    """The checkpoints by their names, loaded at once: a wrong name is an error before anybody is served."""

    def __init__(self, flow: str, depth: str, segmentation: str, device: str = "auto") -> None:
        self.names = {"flow": flow, "depth": depth, "segmentation": segmentation}
        self._flow = tasks.load(flow, "optical-flow", device)
        self._depth = tasks.load(depth, "depth-estimation", device)
        self._segmentation = tasks.load(segmentation, "semantic-segmentation", device)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._kept: OrderedDict[str, Any] = OrderedDict()
        self._keeping = threading.Lock()

    @property
    def label_names(self) -> list[str]:
        return self._segmentation.label_names

    @property
    def error_bounds(self) -> tuple[float, float]:
        """The least and the largest error in pixels that the flow network can expect."""
        return self._flow.model.config.min_flow_scale, self._flow.model.config.max_flow_scale

    def flow(self, frame1: np.ndarray, frame2: np.ndarray, tiled: bool = False) -> Flow:
        """Flow from `frame1` to `frame2` in one pass, or in overlapping tiles of TILE pixels."""
        key = _key("tiled" if tiled else "direct", frame1, frame2)
        return self._once(key, lambda: self._predict_flow(frame1, frame2, TILE if tiled else None))

    def flow_of_frames(self, frames: list[np.ndarray]) -> Iterator[np.ndarray]:
        """Flow (H, W, 2) from each frame to the next; each frame is encoded once."""
        pairs = inference.flow_of_frames(self._flow.model, self._flow.processor, frames)
        while True:
            pair = self._run(lambda: next(pairs, None))  # pair by pair: whoever waits doesn't wait for the whole clip
            if pair is None:
                return
            yield pair.flow

    def depth(self, image: np.ndarray) -> Depth:
        def run() -> Depth:
            result = tasks.predict_depth(self._depth, image)
            return Depth(result.values, result.seconds)

        return self._once(_key("depth", image), run)

    def segment(self, image: np.ndarray) -> Labels:
        def run() -> Labels:
            result = tasks.predict_segmentation(self._segmentation, image)
            return Labels(result.values, result.seconds)

        return self._once(_key("segmentation", image), run)

    @torch.inference_mode()
    def _predict_flow(self, frame1: np.ndarray, frame2: np.ndarray, tile: tuple[int, int] | None) -> Flow:
        # As tasks.predict_flow, which leaves the confidence out.
        start = time.perf_counter()
        model, processor = self._flow.model, self._flow.processor
        batch = processor(images=frame1, second_images=frame2, return_tensors="pt")
        inputs = {name: value.to(self._flow.device, model.dtype) for name, value in batch.items()}
        outputs = inference.predict_flow(
            model, inputs["pixel_values"], inputs["second_pixel_values"], tile=tile, progress=tile is not None
        )
        done = processor.post_process_optical_flow(outputs, target_sizes=[frame1.shape[:2]])[0]
        flow = np.ascontiguousarray(done["flow"].permute(1, 2, 0).float().cpu().numpy())
        error = losses.laplacian_scale(done["log_scale"], *self.error_bounds).cpu().numpy()
        return Flow(flow, error, time.perf_counter() - start, outputs.passes)

    def _once(self, key: str, run: Callable[[], Any]) -> Any:
        kept = self._recall(key)
        if kept is not None:
            return kept

        def unless_kept() -> Any:
            result = self._recall(key)  # somebody who asked for the same may have been first
            if result is None:
                result = run()
                self._keep(key, result)
            return result

        return self._run(unless_kept)

    def _run(self, work: Callable[[], Any]) -> Any:
        """In the one thread, in the caller's context: Gradio finds the request there whose progress it shows."""
        return self._worker.submit(contextvars.copy_context().run, work).result()

    def _recall(self, key: str) -> Any:
        with self._keeping:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: str, result: Any) -> None:
        with self._keeping:
            self._kept[key] = result
            while len(self._kept) > 1 and sum(map(_bytes, self._kept.values())) > KEPT_BYTES:
                self._kept.popitem(last=False)


def _key(kind: str, *images: np.ndarray) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for image in images:
        digest.update(str(image.shape).encode())
        digest.update(np.ascontiguousarray(image))
    return f"{kind} {digest.hexdigest()}"


def _bytes(result: Any) -> int:
    values = (getattr(result, field.name) for field in fields(result))
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray))
