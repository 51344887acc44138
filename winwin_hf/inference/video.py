"""Writes the flow between the frames of a clip: `winwin video`.

Notable:
- A file's name has the number of the pair's first frame in the clip, counted from 1 as in Sintel; video.json holds the settings. With
  these an interrupted run can continue, and parts of a clip can share a folder.
- Every file appears whole or not at all.
- All pictures of a video share one scale of colours. So the video is written in a second pass, from the .flo files, unless
  `max_motion` gives the scale and no .flo is wanted.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import json
import os
import re
import struct
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from winwin_hf.data import formats
from winwin_hf.data.formats.files import owner, read_json, remove_leftovers
from winwin_hf.inference.clips import Clip, missing_end, open_clip, write_video
from winwin_hf.inference.flow import FlowPair
from winwin_hf.inference.predictor import Predictor
from winwin_hf.model.flow_colours_winwin import flow_to_image
from winwin_hf.own_files import check_held, made_folder, sha256_of
from winwin_hf.processes import locked

RECORD = "video.json"
MADE = {"clip", "stride", "weights"}  # what a record of this command has among others
PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
FOLDERS = {"flow": ".", "backward": "backward", "occluded": "occlusions", "backward_occluded": "backward_occlusions"}


@dataclass
class Summary:
    """The result of a run."""

    pairs: int  # with flow in the folder
    reused: int  # of them, written by an earlier run
    seconds: float  # of the prediction, without loading the model and writing the video
    video: Path | None = None
    kind: str | None = None  # of the video, such as "H.264"
    max_motion: float | None = None  # pixels that get full colour in the video


def run(
    clip: str | Path,
    output: str | Path,
    model_name: str = "winwin-flow",
    *,
    flo: bool = True,
    video: str | Path | None = None,
    backward: bool = False,
    side_by_side: bool = False,
    max_motion: float | None = None,
    rate: float | None = None,
    start: int = 0,
    end: int | None = None,
    stride: int = 1,
    size: tuple[int, int] | None = None,
    quality: str | None = "best",
    coarse: bool | None = None,
    min_pixels: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = True,
    say: Callable[[str], Any] = print,
) -> Summary:
    """Predicts the flow from each chosen frame of a clip to the next one, and writes the files of `Results` into the folder `output`.

    After an interruption, the same call continues after the last complete pair. A video without .flo files starts again.

    Args:
        clip: a video file, a folder of images, or a pattern of images.
        model_name: a bundled name, a folder or a Hub repository.
        flo: write .flo files.
        video: path of an .mp4 of the flow in colours.
        backward: also write the flow from each frame to the one before it, and the occluded pixels of both directions.
        side_by_side: show each frame to the left of its flow in the video.
        max_motion: the length in pixels that gets full colour in the video. None: from `full_colour`; without `flo`, all flow is then
            stored in `output` until the video is done (16.6 MB a pair in Full HD).
        rate: pictures a second of the video. None: the clip's, or 10 for images.
        start, end, stride: the frames start, start + stride, ... before `end`, counted from 0.
        size: (height, width) that frames are resized to; all files have this size.
        quality, coarse, min_pixels: see `Predictor.load`; the files keep the frames' size.
        overwrite: delete the files of an earlier run in `output` and start again; replace `video`, whoever made it.

    Raises:
        FileNotFoundError: there is no such clip.
        FileExistsError: `video` exists, no run with .flo files in `output` made it, and `overwrite` is off; another process writes
            files of flow into `output`.
        ValueError: fewer than two frames, or frames of several sizes; nothing to write; `output` holds .flo files of another program or
            of other settings.
    """
    source = open_clip(clip, size, start, end, stride)
    folder, target = Path(output), Path(video) if video else None
    results = Results(folder, flo, backward)
    _check(folder, target, flo or backward, max_motion, rate)

    def check_target() -> None:
        if target and target.exists() and not overwrite and sha256_of(target) not in results.record().get("videos", []):
            raise FileExistsError(
                f"{target} exists, and was not made by this command; expected another name, or overwrite"
            )

    check_target()
    if source.is_video and end is None and (cut := missing_end(source.files[0])):
        raise ValueError(f"{source.name}: {cut}, or an end (--end) before")
    if (count := len(list(itertools.islice(source.frames(), 2)))) < 2:
        raise ValueError(f"{source.name}: {count} frame(s) from {start} on, every {stride}; expected two or more.")
    if gap := source.gap():
        say(f"warning: {gap}")
    predictor = Predictor.load(
        model_name, "optical-flow", device, quality=quality, coarse=coarse, min_pixels=min_pixels
    )

    with contextlib.ExitStack() as stack:
        stack.enter_context(made_folder(folder))
        if flo or backward:
            stack.enter_context(locked(folder, "writing flow into it", stays=False))
            settings = {"clip": source.digest(), "size": size, "stride": stride, "backward": backward}
            enlarged_to = 0 if predictor.processor.quality == "fast" else predictor.processor.min_pixels
            settings |= {"min_pixels": enlarged_to, "coarse": predictor.coarse}
            results.claim(settings | {"model": model_name, "weights": _checksum(predictor.model)}, overwrite)
        resumable = flo or not target
        done = results.complete(source) if resumable else 0
        summary = Summary(done, done, 0.0, target, max_motion=max_motion)
        places = [results]
        if target and not flo and max_motion is None:
            remove_leftovers(folder)
            temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix=f".flow-{owner()}", dir=folder))
            places.append(Results(Path(temporary), flo=True, backward=False))
        stored = places[-1] if places[-1].flo else None  # where the second pass finds the flow

        def predicted() -> Iterator[np.ndarray]:
            began = time.perf_counter()
            for pair in _predict(predictor, source, backward, done, progress):
                for place in places:
                    place.write(source.number(done + pair.index), pair)
                summary.pairs += 1
                yield pair.flow
            summary.seconds = time.perf_counter() - began

        flows: Iterable[np.ndarray] = predicted()
        try:
            if stored or not target:
                collections.deque(flows, maxlen=0)
        except KeyboardInterrupt:
            if resumable:
                say(f"{folder}: {summary.pairs} pairs are complete; the same command continues from there.")
            raise
        if target:
            if stored:
                numbers = [source.number(index) for index in range(summary.pairs)]
                summary.max_motion = max_motion or full_colour(map(stored.read, numbers))
                flows = tqdm(map(stored.read, numbers), "video", len(numbers), disable=not progress)
            frames = source.frames() if side_by_side else None

            def pictures() -> Iterator[np.ndarray]:
                check_target()
                yield from _pictures(flows, summary.max_motion, frames)
                check_target()  # somebody's that came meanwhile

            summary.kind = write_video(target, pictures(), rate or source.rate)
            if flo or backward:
                results.add_video(target)
    return summary


def full_colour(flows: Iterable[np.ndarray]) -> float:
    """The length in pixels that gets full colour in a clip: in nine pairs of ten, 99 % of the vectors are shorter (ours).

    The longest vector may come from an error or a cut, and would make all others pale.
    """
    lengths = (np.hypot(*flow[:, ::4, ::4]) for flow in flows)
    known = [length[np.isfinite(length)] for length in lengths]
    longest = [np.percentile(length, 99) for length in known if length.size]  # a file may hold unknown values alone
    return max(float(np.percentile(longest or [0.0], 90)), 1.0)


@dataclass(frozen=True)
class Results:
    """The files of a run in its folder:

    frame_0001.flo                      flow from the clip's first frame to the next chosen one (`flo`)
    backward/frame_0001.flo             flow from the next frame back to the first (`flo` and `backward`)
    occlusions/frame_0001.png           255 where a pixel of the first frame is hidden in the next one (`backward`)
    backward_occlusions/frame_0001.png  255 where a pixel of the next frame is hidden in the first one (`backward`)
    video.json                          the settings of the run, and the SHA-256 of each video that was made of it
    """

    folder: Path
    flo: bool
    backward: bool

    def files(self, number: int) -> dict[str, Path]:
        """Field of a `FlowPair` -> its file, for the pair that begins with frame `number`."""
        wanted = {"flow": self.flo, "backward": self.flo and self.backward}
        wanted |= dict.fromkeys(("occluded", "backward_occluded"), self.backward)
        suffixes = {"flow": ".flo", "backward": ".flo"}
        return {
            field: self.folder / FOLDERS[field] / f"frame_{number:04d}{suffixes.get(field, '.png')}"
            for field in FOLDERS
            if wanted[field]
        }

    def write(self, number: int, pair: FlowPair) -> None:
        for field, path in self.files(number).items():
            values = getattr(pair, field)
            check_held(path)
            path.parent.mkdir(exist_ok=True)
            if values.dtype == bool:
                formats.save_image(path, values * np.uint8(255))
            else:
                formats.write_flo(path, values.transpose(1, 2, 0))

    def read(self, number: int) -> np.ndarray:
        return formats.read_flo(self.files(number)["flow"]).transpose(2, 0, 1)

    def complete(self, clip: Clip) -> int:
        """The number of pairs with all their files, from the clip's first pair to the first incomplete one."""
        count = clip.count()
        indices = itertools.count() if count is None else range(count - 1)
        size = next((frame.shape[:2] for frame in clip.frames()), (0, 0))
        there = (all(_whole(path, size) for path in self.files(clip.number(index)).values()) for index in indices)
        return sum(1 for _ in itertools.takewhile(bool, there))

    def claim(self, settings: dict[str, Any], overwrite: bool) -> None:
        """Writes video.json, unless the folder holds results of another run.

        Raises: ValueError where the folder has results but no video.json, or one with other settings and `overwrite` is off.
        """
        settings = json.loads(json.dumps(settings))
        found = [
            path
            for name in FOLDERS.values()
            for path in (self.folder / name).glob("frame_*")
            if re.fullmatch(r"frame_\d{4,}\.(flo|png)", path.name)
        ]
        there = (self.folder / RECORD).is_file()
        if (found or there) and not self.record().keys() >= MADE:
            what = f"{RECORD} is not its own, or damaged" if there else f"there is no {RECORD}"
            path = found[0] if found else self.folder / RECORD
            raise ValueError(f"{path}: not made by this command ({what}); expected another folder.")
        if found and overwrite:
            for path in found:
                path.unlink()
        elif found:
            before = self.record()
            other = [
                f"{name} {before.get(name)}, not {value}"
                for name, value in settings.items()
                if before.get(name) != value
            ]
            if other:
                raise ValueError(
                    f"{self.folder}: an earlier run with other settings left its files there ({'; '.join(other)}); "
                    "expected another folder, or to overwrite them."
                )
            settings = {**before, **settings}
        self._write_record(settings)

    def record(self) -> dict[str, Any]:
        """What video.json holds; {} where it is missing or damaged."""
        try:
            found = read_json(self.folder / RECORD)
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return {}
        videos = found.get("videos", []) if isinstance(found, dict) else None
        return found if isinstance(videos, list) else {}

    def add_video(self, path: Path) -> None:
        """Notes that this command made a video, which it may replace later."""
        record = self.record()
        digest = sha256_of(path)
        if digest not in (videos := record.get("videos", [])):
            self._write_record({**record, "videos": [*videos, digest]})

    def _write_record(self, record: dict[str, Any]) -> None:
        with formats.write_atomic(self.folder / RECORD) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


# ------------------------------------------------------------------ what the functions above share


def _check(folder: Path, video: Path | None, files: bool, max_motion: float | None, rate: float | None) -> None:
    """Raises for arguments that are wrong whatever the clip holds."""
    if not files and video is None:
        raise ValueError("Nothing to write: expected .flo files, a video or occlusion masks (backward).")
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: a file; expected a folder to write to.")
    if video is not None and video.suffix.lower() != ".mp4":
        raise ValueError(f"{video}: expected a name that ends in .mp4.")
    if video is not None and not video.parent.is_dir() and video.parent.absolute() != folder.absolute():
        raise FileNotFoundError(f"{video}: its folder does not exist.")
    for name, value in (("max_motion", max_motion), ("rate", rate)):
        if value is not None and not value > 0:
            raise ValueError(f"{name} {value}: expected a positive number.")


def _whole(path: Path, size: tuple[int, int]) -> bool:
    """Whether a file that this command wrote is of (height, width), and there to its last byte. Nothing is decoded."""
    if not path.is_file():
        return False
    length, (height, width) = path.stat().st_size, size
    with path.open("rb") as file:
        head = file.read(24)
        if path.suffix == ".flo":
            return head[4:12] == struct.pack("<2i", width, height) and length == 12 + 8 * height * width
        file.seek(-min(length, len(PNG_END)), os.SEEK_END)
        return head[16:] == struct.pack(">2i", width, height) and file.read() == PNG_END


def _predict(predictor: Predictor, clip: Clip, backward: bool, done: int, progress: bool) -> Iterator[FlowPair]:
    """The pairs of a clip after the first `done`, under a progress bar."""
    frames = clip.frames(skip=done)
    known = list(itertools.islice(frames, 2))
    if done and len(known) < 2:
        return
    count = clip.count()
    pairs = predictor.frames(itertools.chain(known, frames), backward)
    total = None if count is None else count - 1
    yield from tqdm(pairs, "flow", total, initial=done, unit="pair", disable=not progress)


def _pictures(
    flows: Iterable[np.ndarray], max_motion: float | None, frames: Iterator[np.ndarray] | None
) -> Iterator[np.ndarray]:
    for flow in flows:
        picture = flow_to_image(flow, max_motion)
        yield picture if frames is None else np.hstack([next(frames), picture])


def _checksum(model: torch.nn.Module) -> str:
    """Tells weights apart: a checksum of all of them."""
    checksum = 0
    for tensor in model.state_dict().values():
        checksum = zlib.crc32(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy(), checksum)
    return f"{checksum:08x}"
