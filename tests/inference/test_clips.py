"""Clips: videos and folders of images, read and written. The videos are written here, by PyAV; OpenCV says how others read them."""

from __future__ import annotations

import wave
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from winwin_hf.data import formats
from winwin_hf.inference import clips
from winwin_hf.inference.clips import open_clip, write_video

# suffix -> codec, pixel format, largest mean difference that its compression may make
KINDS = {
    ".mkv": ("ffv1", "bgr0", 0.0),
    ".mp4": ("libx264", "yuv420p", 4.0),
    ".mov": ("libx264", "yuv420p", 4.0),
    ".avi": ("mjpeg", "yuvj420p", 6.0),
    ".webm": ("libvpx-vp9", "yuv420p", 6.0),
    ".gif": ("gif", "rgb8", 25.0),
}


def pictures(count: int = 6, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Smooth colours that differ from frame to frame, and from corner to corner."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    ramps = [np.stack([255 * x / width, 255 * y / height, np.full_like(x, 40 * i)], axis=-1) for i in range(count)]
    return [ramp.astype(np.uint8) for ramp in ramps]


def write(path: Path, frames: list[np.ndarray], rate: int = 12) -> Path:
    codec, pixels, _ = KINDS[path.suffix]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width, stream.pix_fmt = *frames[0].shape[:2], pixels
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Gives an .mp4 the rotation of a phone's: a, b, c, d of the matrix in its track header (ISO 14496-12, tkhd version 0)."""
    content = bytearray(path.read_bytes())
    start = content.index(b"tkhd") + 4 + 40
    for place, value in zip((0, 4, 12, 16), matrix, strict=True):
        content[start + place : start + place + 4] = (value * 65536).to_bytes(4, "big", signed=True)
    path.write_bytes(content)


def opencv_frames(path: Path) -> list[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    found = []
    while (frame := video.read())[0]:
        found.append(frame[1][..., ::-1])
    return found


def difference(a: np.ndarray, b: np.ndarray) -> float:
    assert a.shape == b.shape
    return float(np.abs(a.astype(np.float32) - b).mean())


# ------------------------------------------------------------------ reading


@pytest.mark.parametrize("suffix", KINDS)
def test_videos(tmp_path, suffix):
    frames = pictures()
    clip = open_clip(write(tmp_path / f"clip{suffix}", frames))
    found = list(clip.frames())
    assert len(found) == 6 == clip.count() == clip.length and clip.is_video
    assert float(clip.rate) == pytest.approx(
        12.5 if suffix == ".gif" else 12, rel=0.01
    )  # GIFs count hundredths of a second
    for frame, original in zip(found, frames, strict=True):
        assert frame.dtype == np.uint8 and frame.flags.c_contiguous
        assert difference(frame, original) <= KINDS[suffix][2]
    assert difference(found[0], found[5]) > 30  # the order can be told


def test_lossless_is_exact_at_odd_sizes(tmp_path):
    frames = [np.random.default_rng(i).integers(0, 256, (33, 51, 3), np.uint8) for i in range(3)]
    for frame, original in zip(open_clip(write(tmp_path / "a.mkv", frames)).frames(), frames, strict=True):
        np.testing.assert_array_equal(frame, original)


@pytest.mark.parametrize(
    ("start", "end", "stride"), [(0, None, 1), (2, None, 1), (0, 5, 2), (1, 6, 3), (3, 99, 2), (5, 6, 1)]
)
@pytest.mark.parametrize("kind", ["video", "images"])
def test_chosen_frames(tmp_path, kind, start, end, stride):
    frames = pictures(7)
    if kind == "video":
        path = write(tmp_path / "a.mkv", frames)
    else:
        path = tmp_path
        for i, frame in enumerate(frames):
            formats.save_image(tmp_path / f"{i}.png", frame)
    clip = open_clip(path, start=start, end=end, stride=stride)
    expected = frames[start:end:stride]
    assert clip.count() == len(expected)
    assert [clip.number(i) for i in range(len(expected))] == [i + 1 for i in range(7)][start:end:stride]
    assert clip.rate == Fraction(12, stride) if kind == "video" else clip.rate == 10
    for skip in range(len(expected) + 2):
        found = list(clip.frames(skip))
        assert len(found) == len(expected[skip:])
        assert all(np.array_equal(a, b) for a, b in zip(found, expected[skip:], strict=True))


def test_frames_that_are_not_chosen_are_not_converted(tmp_path, monkeypatch):
    path, converted = write(tmp_path / "a.mkv", pictures(7)), []
    picture = clips.Clip._picture
    monkeypatch.setattr(clips.Clip, "_picture", lambda *given: converted.append(1) or picture(*given))
    frames = open_clip(path, start=2, stride=2).frames()
    assert converted == []
    next(frames)
    assert len(converted) == 1
    assert len(list(frames)) == 2 and len(converted) == 3


# of the track header's matrix, which turns clockwise -> how often rot90, which turns the other way
@pytest.mark.parametrize(("matrix", "turns"), [((0, 1, -1, 0), 3), ((-1, 0, 0, -1), 2), ((0, -1, 1, 0), 1)])
def test_a_phone_held_sideways(tmp_path, matrix, turns):
    frames = pictures(2)
    path = write(tmp_path / "a.mp4", frames)
    turn(path, matrix)
    found = list(open_clip(path).frames())
    for frame, original, other in zip(found, frames, opencv_frames(path), strict=True):
        assert difference(frame, np.rot90(original, turns)) < 4
        assert difference(frame, other) < 4  # which is how others show it
        assert frame.flags.c_contiguous


def test_images_in_the_order_people_count(tmp_path):
    names = ["shot2.png", "shot10.PNG", "shot1.jpg", "notes.txt", ".shot0.png"]
    for i, name in enumerate(names[:3]):
        formats.save_image(tmp_path / name, np.full((8, 8, 3), 20 * i, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".shot0.png").write_bytes(b"what macOS leaves")
    clip = open_clip(tmp_path)
    assert [path.name for path in clip.files] == ["shot1.jpg", "shot2.png", "shot10.PNG"] and not clip.is_video
    assert [round(frame.mean()) for frame in clip.frames()] == [40, 0, 20]
    assert [path.name for path in open_clip(f"{tmp_path}/*.png").files] == ["shot2.png"]
    assert [path.name for path in open_clip(tmp_path / "shot?.*").files] == ["shot1.jpg", "shot2.png"]


def test_resized_frames(tmp_path):
    frames = pictures(2)
    path = write(tmp_path / "a.mkv", frames)
    for size in ((24, 32), (96, 100)):
        found = list(open_clip(path, size=size).frames())
        assert [frame.shape for frame in found] == [(*size, 3)] * 2
        assert difference(cv2.resize(found[1], (64, 48)), frames[1]) < 2


def test_clips_are_told_apart(tmp_path):
    a, b = (write(tmp_path / name, pictures(count)) for name, count in (("a.mkv", 3), ("b.mkv", 4)))
    assert open_clip(a).digest() == open_clip(a, start=1, size=(8, 8)).digest() != open_clip(b).digest()


def test_nothing_to_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.mp4: no such video, folder"):
        open_clip(tmp_path / "none.mp4")
    with pytest.raises(FileNotFoundError, match=r"\*\.png: no such video, folder"):
        open_clip(f"{tmp_path}/*.png")
    with pytest.raises(FileNotFoundError, match=r"no images in this folder.*\.png"):
        open_clip(tmp_path)
    text = tmp_path / "text.mp4"
    text.write_text("not a video " * 100)
    with pytest.raises(ValueError, match=r"text\.mp4: not a readable video \(.+\)"):
        open_clip(text)
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(ValueError, match=r"empty\.mp4: not a readable video"):
        open_clip(tmp_path / "empty.mp4")
    with wave.open(str(tmp_path / "sound.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(16000))
    with pytest.raises(ValueError, match=r"sound\.wav: holds no video"):
        open_clip(tmp_path / "sound.wav")


def test_choices_that_make_no_sense(tmp_path):
    path = write(tmp_path / "a.mkv", pictures(2))
    for wrong in ({"start": -1}, {"stride": 0}, {"start": 3, "end": 3}):
        with pytest.raises(ValueError, match="0 <= start < end and stride >= 1"):
            open_clip(path, **wrong)
    with pytest.raises(ValueError, match="at least one pixel"):
        open_clip(path, size=(0, 10))


def test_frames_of_several_sizes(tmp_path):
    for i, height in enumerate((16, 16, 18)):
        formats.save_image(tmp_path / f"{i}.png", np.zeros((height, 20, 3), np.uint8))
    for size in (None, (8, 8)):
        frames = open_clip(tmp_path, size=size).frames()
        next(frames), next(frames)
        with pytest.raises(ValueError, match=r"2\.png is 18 x 20 \(height x width\), after frames of 16 x 20"):
            next(frames)
    assert len(list(open_clip(tmp_path, end=2).frames())) == 2


def test_a_video_whose_header_is_cut(tmp_path):
    """One sentence: PyAV 17 ends the process where it decodes a stream without a codec."""
    write_video(tmp_path / "a.mp4", pictures(3), 10)
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "a.mp4").read_bytes()[:400])
    with pytest.raises(ValueError, match=r"cut\.mp4: frame 0 can't be decoded"):
        next(open_clip(tmp_path / "cut.mp4").frames())


def test_a_video_that_breaks_off(tmp_path):
    """Frames up to the damage come; then one line says where it is broken, or that it was cut."""
    path = write(
        tmp_path / "a.avi", [np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8) for i in range(8)]
    )
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    found = []
    with pytest.raises(ValueError, match=r"a\.avi: (frame \d can't be decoded|it has .* expected a whole video)"):
        for frame in open_clip(path).frames():
            found.append(frame)
    assert 2 <= len(found) < 8
    assert len(list(open_clip(path, end=2).frames())) == 2


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
@pytest.mark.parametrize("flags", ["", "+faststart", "frag_keyframe+empty_moov"])
def test_no_cut_of_a_video_is_a_shorter_one(tmp_path, suffix, flags):
    """Its index before its frames, behind them, and in fragments: wherever it was cut, all frames come, or a sentence."""
    path = tmp_path / f"a{suffix}"
    with av.open(str(path), "w", options={"movflags": flags} if flags else {}) as container:
        stream = container.add_stream("libx264", rate=12)
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for frame in pictures(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    content = path.read_bytes()
    assert clips.missing_end(path) is None and len(list(open_clip(path).frames())) == 12
    for cut in (*range(1, 40), *range(40, len(content), 37)):
        path.write_bytes(content[:-cut])
        try:
            found = len(list(open_clip(path).frames()))
        except ValueError as error:
            assert str(error).startswith(str(path))
        else:
            assert found == 12, cut


def test_a_cut_gif(tmp_path):
    path = write(tmp_path / "a.gif", pictures(6))
    assert clips.missing_end(path) is None and len(list(open_clip(path).frames())) == 6
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"a\.gif: (its end is missing|frame \d (can't be decoded|is damaged))"):
        list(open_clip(path).frames())


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".webm", ".mp4", ".gif"])
def test_a_video_whose_end_is_zeros(tmp_path, suffix):
    """A download that broke off in a file that was made as large as it should become."""
    rng = np.random.default_rng(0)
    path = write(tmp_path / f"a{suffix}", [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(12)])
    content = path.read_bytes()
    for share in (0.5, 0.8):
        path.write_bytes(content[: int(len(content) * share)].ljust(len(content), b"\0"))
        with pytest.raises(ValueError, match=rf"^\S+a\{suffix}: "):
            list(open_clip(path).frames())


def test_a_damaged_frame_is_not_used(tmp_path):
    """The decoder fills it with what it has, and marks it. Before it, and without it, frames come."""
    path = tmp_path / "a.mp4"
    rng = np.random.default_rng(0)
    write(path, [rng.integers(0, 256, (48, 64, 3), np.uint8) for _ in range(12)])
    with av.open(str(path)) as container:
        entry = container.streams.video[0].index_entries[6]
    content = bytearray(path.read_bytes())
    content[entry.pos + entry.size // 2 : entry.pos + entry.size] = bytes(entry.size - entry.size // 2)
    path.write_bytes(content)
    with av.open(str(path)) as container:
        marked = [frame.is_corrupt for frame in container.decode(video=0)]
    first, last = marked.index(True), len(marked) - marked[::-1].index(True)
    assert len(list(open_clip(path, end=first).frames())) == first
    with pytest.raises(ValueError, match=rf"a\.mp4: frame {first} is damaged; expected a whole video, or a range"):
        list(open_clip(path).frames())
    assert len(list(open_clip(path, start=last).frames())) == 12 - last


# ------------------------------------------------------------------ writing


@pytest.mark.parametrize("size", [(48, 64), (47, 63)])
def test_a_written_video(tmp_path, size):
    frames, path = pictures(5, *size), tmp_path / "flow.mp4"
    assert write_video(path, iter(frames), Fraction(30000, 1001)) == "H.264"
    content = path.read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")  # so that a browser can begin before it has all
    with av.open(str(path)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
    clip = open_clip(path)
    assert clip.rate == Fraction(30000, 1001) and clip.length == 5
    for frame, original, other in zip(clip.frames(), frames, opencv_frames(path), strict=True):
        assert frame.shape == (48, 64, 3)
        assert difference(frame[: size[0], : size[1]], original) < 4
        assert difference(other[: size[0], : size[1]], original) < 4
    assert list(tmp_path.iterdir()) == [path]


def test_a_written_video_keeps_its_colours(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (200, 120, 40)]
    write_video(tmp_path / "a.mp4", [np.full((32, 32, 3), colour, np.uint8) for colour in colours], 10)
    for colour, frame in zip(colours, open_clip(tmp_path / "a.mp4").frames(), strict=True):
        assert np.abs(frame.reshape(-1, 3).astype(int) - colour).max() <= 3


def test_no_video_is_left_half_written(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, pictures(2), 10)
    before = path.read_bytes()

    def breaks():
        yield from pictures(2)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_video(path, breaks(), 10)
    with pytest.raises(ValueError, match="at least one picture"):
        write_video(path, [], 10)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_where_a_video_cannot_be_written(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"ends in \.mp4"):
        write_video(tmp_path / "a.avi", pictures(1), 10)
    with pytest.raises(FileNotFoundError, match="folder does not exist"):
        write_video(tmp_path / "none" / "a.mp4", pictures(1), 10)
    monkeypatch.setattr(av, "codecs_available", {"libvpx-vp9"})
    assert write_video(tmp_path / "a.mp4", pictures(3), 10) == "VP9"
    assert len(list(open_clip(tmp_path / "a.mp4").frames())) == 3
    monkeypatch.setattr(av, "codecs_available", set())
    with pytest.raises(ValueError, match="can write none of libx264"):
        write_video(tmp_path / "a.mp4", pictures(1), 10)
