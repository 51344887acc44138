"""The three networks, one prediction at a time, with the last predictions kept.

Notable:
- One prediction runs at a time, always in the same thread: each uses every core, and memory is that of one. With a new thread for
  each, torch and the allocator would keep buffers and helper threads for all of them.
- Results are kept by the content of their pictures, up to KEPT_BYTES: moving a slider, comparing with tiles or choosing an example
  doesn't run a network again. There is no state per visitor.
"""

from __future__ import annotations

import contextvars
import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import numpy as np

from winwin_hf.inference.flow import tile_positions
from winwin_hf.inference.predictor import Prediction, Predictor
from winwin_hf.model.image_settings_winwin import QUALITIES
from winwin_hf.served_page import refuse

TILE = (384, 512)  # height, width in pixels of the network's input: what `winwin flow --tile` takes
KEPT_BYTES = 128 << 20  # three flows of 1080p
STOPPED = "This page is being stopped. Please try again in a minute."


class Networks:
    """The three checkpoints, all loaded at the start, so that a wrong name is an error before the page opens."""

    def __init__(self, flow: str, depth: str, segmentation: str, device: str = "auto") -> None:
        self.names = {"flow": flow, "depth": depth, "segmentation": segmentation}
        self._flow = Predictor.load(flow, "optical-flow", device)  # enlarged, one pass: what tiles are compared with
        self._tiled = replace(self._flow, tile=TILE, progress=True)  # the page shows the bar over the tiles
        self._flows = {quality: self._flow.with_quality(quality) for quality in QUALITIES}
        self._depth = Predictor.load(depth, "depth-estimation", device)
        self._segmentation = Predictor.load(segmentation, "semantic-segmentation", device)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="network")
        self._kept: OrderedDict[str, Prediction] = OrderedDict()
        self._keeping = threading.Lock()

    @property
    def label_names(self) -> tuple[str, ...]:
        return self._segmentation.labels or ()

    def error_bounds(self, frame: np.ndarray, quality: str = "best") -> tuple[float, float]:
        """The smallest and the largest error that the flow network can expect, in pixels of the frame."""
        return self._flows[quality].error_bounds(frame.shape[:2])

    def tiles(self, frame: np.ndarray) -> tuple[list[int], list[int], tuple[int, int]]:
        """Where tiles of TILE pixels lie in a frame that the network sees enlarged: starts of the rows and of the columns, and the
        tiles' (height, width), all in pixels of the frame."""
        resized, padded = self._flow.processor.input_sizes(frame.shape[:2])
        ratios = [side / larger for side, larger in zip(frame.shape[:2], resized, strict=True)]
        starts = [
            [round(start * ratio) for start in tile_positions(length, min(tile, length), self._tiled.overlap)]
            for length, tile, ratio in zip(padded, TILE, ratios, strict=True)
        ]
        return starts[0], starts[1], (round(TILE[0] * ratios[0]), round(TILE[1] * ratios[1]))

    def flow(self, frame1: np.ndarray, frame2: np.ndarray, quality: str = "best") -> Prediction:
        """Flow from `frame1` to `frame2`."""
        return self._once(f"flow {quality}", self._flows[quality], frame1, frame2)

    def one_pass(self, frame1: np.ndarray, frame2: np.ndarray) -> Prediction:
        """Flow in one pass over frames enlarged as the checkpoint says."""
        return self._once("one pass", self._flow, frame1, frame2)

    def tiled(self, frame1: np.ndarray, frame2: np.ndarray) -> Prediction:
        """The same in overlapping tiles of TILE pixels."""
        return self._once("tiled", self._tiled, frame1, frame2)

    def flow_of_frames(self, frames: list[np.ndarray], quality: str = "fast") -> Iterator[np.ndarray]:
        """Flow (2, H, W) from each frame to the next; each frame is encoded once."""
        pairs = self._flows[quality].frames(frames)
        while True:
            pair = self._run(lambda: next(pairs, None))  # pair by pair: other requests run in between
            if pair is None:
                return
            yield pair.flow

    def depth(self, image: np.ndarray) -> Prediction:
        return self._once("depth", self._depth, image)

    def segment(self, image: np.ndarray) -> Prediction:
        return self._once("segmentation", self._segmentation, image)

    def close(self) -> None:
        """Drops predictions that haven't begun, so that the process ends after the one that runs."""
        self._worker.shutdown(wait=False, cancel_futures=True)

    def _once(self, kind: str, predictor: Predictor, *images: np.ndarray) -> Prediction:
        key = _key(kind, *images)

        def unless_kept() -> Prediction:
            result = self._recall(key)  # another request for the same may have been first
            if result is None:
                result = predictor(*images)
                self._keep(key, result)
            return result

        kept = self._recall(key)
        return self._run(unless_kept) if kept is None else kept

    def _run(self, work: Callable[[], Any]) -> Any:
        """In the one thread, in the caller's context, where Gradio finds the request whose progress it shows."""
        try:
            running = self._worker.submit(contextvars.copy_context().run, work)
        except RuntimeError:  # `close`, or the process ends
            raise refuse(STOPPED) from None
        try:
            return running.result()
        except CancelledError:
            raise refuse(STOPPED) from None

    def _recall(self, key: str) -> Prediction | None:
        with self._keeping:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: str, result: Prediction) -> None:
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


def _bytes(result: Prediction) -> int:
    values = (getattr(result, field.name) for field in fields(result))
    return sum(value.nbytes for value in values if isinstance(value, np.ndarray))
