"""`winwin video`: what a run leaves, what an interrupted one goes on with, and what it refuses. A small random checkpoint does it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
from support.locks import holding
from support.model_cases import make

from winwin_hf import WinWinForOpticalFlow, WinWinImageProcessor
from winwin_hf.data import formats
from winwin_hf.inference import clips, video
from winwin_hf.inference import flow as inference
from winwin_hf.inference.clips import open_clip, write_video
from winwin_hf.inference.figures import photometric_errors
from winwin_hf.inference.predictor import Predictor
from winwin_hf.inference.video import RECORD, Results, full_colour, run
from winwin_hf.model.flow_colours_winwin import flow_to_image
from winwin_hf.processes import LOCK

HEIGHT, WIDTH = 26, 38


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoint")
    make("optical-flow", "matching").save_pretrained(folder)
    WinWinImageProcessor(patch_size=8).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    """Seven frames of noise as images."""
    folder = tmp_path_factory.mktemp("clip")
    for i in range(7):
        frame = np.random.default_rng(i).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        formats.save_image(folder / f"{i}.png", frame)
    return folder


@pytest.fixture(scope="module")
def whole_run(clip, checkpoint, tmp_path_factory) -> Path:
    """What a plain run over the whole clip leaves."""
    folder = tmp_path_factory.mktemp("whole")
    run(clip, folder, checkpoint, progress=False)
    return folder


@pytest.fixture
def encoded(monkeypatch) -> list[int]:
    """The width of each frame that is encoded at its own size or, of a larger clip, at another; coarse passes encode a smaller copy too."""
    calls, encode = [], WinWinForOpticalFlow.encode

    def counted(self, pixels, *args, **kwargs):
        calls.extend([pixels.shape[-1]] * (pixels.shape[-1] >= WIDTH))
        return encode(self, pixels, *args, **kwargs)

    monkeypatch.setattr(WinWinForOpticalFlow, "encode", counted)
    return calls


def left(folder: Path) -> dict[str, bytes]:
    """Every file below the folder, by name."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def flos(*numbers: int) -> set[str]:
    return {f"frame_{number:04d}.flo" for number in numbers}


def test_a_file_for_each_pair(clip, checkpoint, tmp_path, encoded, capsys):
    summary = run(clip, tmp_path / "out", checkpoint)
    assert (summary.pairs, summary.reused, summary.video) == (6, 0, None) and summary.seconds > 0
    assert len(encoded) == 7
    assert set(left(tmp_path / "out")) == flos(*range(1, 7)) | {"video.json"}
    assert "6/6" in capsys.readouterr().err  # the bar
    predictor = Predictor.load(checkpoint, "optical-flow", "cpu", quality="best")
    for number in range(1, 7):
        pair = [formats.read_image(clip / f"{i}.png") for i in (number - 1, number)]
        expected = predictor(*pair).values.transpose(1, 2, 0)
        np.testing.assert_array_equal(formats.read_flo(tmp_path / "out" / f"frame_{number:04d}.flo"), expected)


def test_both_directions(clip, checkpoint, tmp_path, encoded):
    run(clip, tmp_path, checkpoint, backward=True, end=3, progress=False)
    assert len(encoded) == 3
    names = {"", "backward/"}
    masks = {"occlusions/", "backward_occlusions/"}
    assert set(left(tmp_path)) == {"video.json"} | {f"{n}frame_000{i}.flo" for n in names for i in (1, 2)} | {
        f"{n}frame_000{i}.png" for n in masks for i in (1, 2)
    }
    for i in (1, 2):
        forward, back = (
            formats.read_flo(tmp_path / name / f"frame_000{i}.flo").transpose(2, 0, 1) for name in (".", "backward")
        )
        for name, expected in (
            ("occlusions", inference.consistency(forward, back)),
            ("backward_occlusions", inference.consistency(back, forward)),
        ):
            mask = formats.read_mask(tmp_path / name / f"frame_000{i}.png")
            np.testing.assert_array_equal(mask, expected)
            assert 0 < mask.mean() < 1
            assert set(np.unique(formats.read_labels(tmp_path / name / f"frame_000{i}.png"))) == {0, 255}


def test_a_number_is_that_of_the_frame(clip, checkpoint, whole_run, tmp_path):
    """Parts of a clip share a folder, and make what one run makes."""
    assert run(clip, tmp_path / "parts", checkpoint, start=3, progress=False).pairs == 3
    assert set(left(tmp_path / "parts")) == flos(4, 5, 6) | {"video.json"}
    assert run(clip, tmp_path / "parts", checkpoint, end=4, progress=False).reused == 0
    assert left(tmp_path / "parts") == left(whole_run)
    run(clip, tmp_path / "strides", checkpoint, start=1, stride=2, progress=False)
    assert set(left(tmp_path / "strides")) == flos(2, 4) | {"video.json"}


# ------------------------------------------------------------------ interrupted


@pytest.mark.parametrize(("whole", "backward"), [(0, False), (3, True), (5, False)])
def test_an_interrupted_run_goes_on(clip, checkpoint, tmp_path, monkeypatch, encoded, whole, backward):
    settings = {"backward": backward, "progress": False}
    run(clip, tmp_path / "once", checkpoint, **settings)
    write, messages = formats.write_flo, []

    def interrupted(path, flow):
        # within the files of a pair: what is whole is those before
        if Path(path).name == f"frame_{whole + 1:04d}.flo" and (Path(path).parent.name == "backward") == backward:
            raise KeyboardInterrupt
        write(path, flow)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(formats, "write_flo", interrupted)
        run(clip, tmp_path / "out", checkpoint, say=messages.append, **settings)
    assert f"{whole} pairs are complete" in messages[0]
    encoded.clear()
    summary = run(clip, tmp_path / "out", checkpoint, **settings)
    assert (summary.pairs, summary.reused) == (6, whole) and len(encoded) == 7 - whole
    assert left(tmp_path / "out") == left(tmp_path / "once")


def test_a_finished_run_encodes_nothing(clip, checkpoint, tmp_path, encoded):
    first = run(clip, tmp_path / "out", checkpoint, video=tmp_path / "a.mp4", progress=False)
    assert len(encoded) == 7
    again = run(clip, tmp_path / "out", checkpoint, video=tmp_path / "b.mp4", progress=False)
    assert len(encoded) == 7 and again.reused == again.pairs == 6 and again.max_motion == first.max_motion
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    part = run(clip, tmp_path / "out", checkpoint, video=tmp_path / "c.mp4", start=1, end=4, progress=False)
    assert len(encoded) == 7 and part.pairs == part.reused == 2 and open_clip(tmp_path / "c.mp4").length == 2


def test_other_settings_are_refused(clip, checkpoint, tmp_path, encoded):
    run(clip, tmp_path / "out", checkpoint, progress=False)
    before = left(tmp_path / "out")
    other = tmp_path / "other"
    make("optical-flow", "matching", num_hidden_layers=2).save_pretrained(other)
    WinWinImageProcessor(patch_size=8).save_pretrained(other)
    shorter = tmp_path / "shorter"
    shorter.mkdir()
    for i in (3, 4):
        (shorter / f"{i}.png").write_bytes((clip / f"{i}.png").read_bytes())
    for arguments, options, name in [
        ((clip, checkpoint), {"stride": 2}, "stride 1, not 2"),
        ((clip, checkpoint), {"size": (16, 24)}, r"size None, not \[16, 24\]"),
        ((clip, checkpoint), {"backward": True}, "backward False, not True"),
        ((clip, str(other)), {}, "model .*weights"),
        ((shorter, checkpoint), {}, "clip"),
    ]:
        with pytest.raises(ValueError, match=rf"other settings .*{name}"):
            run(arguments[0], tmp_path / "out", arguments[1], progress=False, **options)
        assert left(tmp_path / "out") == before
    run(clip, tmp_path / "out", checkpoint, stride=2, overwrite=True, progress=False)
    assert set(left(tmp_path / "out")) == flos(1, 3, 5) | {"video.json"}
    encoded.clear()
    run(clip, tmp_path / "out", checkpoint, stride=2, overwrite=True, progress=False)
    assert len(encoded) == 4  # begins again


def test_a_model_that_was_trained_on_is_another_one(clip, checkpoint, tmp_path):
    model = make("optical-flow", "conv")
    folder = tmp_path / "model"
    WinWinImageProcessor(patch_size=8).save_pretrained(folder)
    model.save_pretrained(folder)
    run(clip, tmp_path / "out", str(folder), end=2, progress=False)
    model.decoder.norm.bias.data[3] += 1e-6
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match=r"other settings .*weights"):
        run(clip, tmp_path / "out", str(folder), end=2, progress=False)


def test_files_of_others_are_safe(clip, checkpoint, tmp_path):
    truth = np.ones((HEIGHT, WIDTH, 2), np.float32)
    formats.write_flo(tmp_path / "frame_0001.flo", truth)
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=r"frame_0001\.flo: not made by this command"):
            run(clip, tmp_path, checkpoint, overwrite=overwrite, progress=False)
    np.testing.assert_array_equal(formats.read_flo(tmp_path / "frame_0001.flo"), truth)
    assert len(left(tmp_path)) == 1
    # a video alone touches none of them
    run(clip, tmp_path, checkpoint, flo=False, video=tmp_path / "flow.mp4", max_motion=5, end=3, progress=False)
    assert set(left(tmp_path)) == {"frame_0001.flo", "flow.mp4"}


def test_damaged_files_are_computed_again(clip, checkpoint, tmp_path):
    options = {"backward": True, "end": 3, "progress": False}
    run(clip, tmp_path, checkpoint, **options)
    before = left(tmp_path)
    for name, length in [
        ("frame_0002.flo", 0),
        ("frame_0001.flo", 4),
        ("backward/frame_0001.flo", 100),
        ("frame_0002.flo", -1),
        ("occlusions/frame_0002.png", -1),
    ]:
        (tmp_path / name).write_bytes(before[name][:length])
        assert run(clip, tmp_path, checkpoint, **options).reused == ("2" in name)
        assert left(tmp_path) == before
    # whole, of another size: of as many values, and of fewer
    height, width = formats.read_flo(tmp_path / "frame_0002.flo").shape[:2]
    for shape in ((width, height, 2), (10, 10, 2)):
        formats.write_flo(tmp_path / "frame_0002.flo", np.zeros(shape, np.float32))
        assert run(clip, tmp_path, checkpoint, **options).reused == 1
        assert left(tmp_path) == before
    assert run(clip, tmp_path, checkpoint, **options).reused == 2


def test_a_frame_that_comes_back_is_another_clip(clip, checkpoint, tmp_path):
    """Pairs are numbered by their place, so those of before belong to other frames."""
    frames, said = tmp_path / "frames", []
    shutil.copytree(clip, frames)
    (frames / "2.png").unlink()
    run(frames, tmp_path / "out", checkpoint, end=3, progress=False, say=said.append)
    shown = f"warning: {frames}: no frame 2 after 1; flow goes from each frame to the next one that is there"
    assert said == [shown]
    shutil.copy(clip / "2.png", frames)
    with pytest.raises(ValueError, match=r"other settings .*clip"):
        run(frames, tmp_path / "out", checkpoint, end=3, progress=False, say=said.append)
    assert said == [shown]


@pytest.mark.parametrize("record", ["[]", "null", '{"videos": 1}', '{"title": "holiday"}', "{", "[" * 100_000])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_record_of_another_program(clip, checkpoint, tmp_path, record, overwrite):
    """Nothing of it is touched, with --overwrite neither."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "video.json").write_text(record)
    with pytest.raises(ValueError, match=r"not made by this command \(video\.json is not its own, or damaged\)"):
        run(clip, out, checkpoint, overwrite=overwrite, progress=False)
    for name in ("frame_0001.flo", "backward/frame_0077.flo"):
        (out / name).parent.mkdir(exist_ok=True)
        formats.write_flo(out / name, np.ones((HEIGHT, WIDTH, 2), np.float32))
    before = left(out)
    with pytest.raises(ValueError, match="not made by this command"):
        run(clip, out, checkpoint, overwrite=overwrite, progress=False)
    assert left(out) == before


def test_a_video_of_somebody_else_stays(clip, checkpoint, tmp_path):
    mine, options = tmp_path / "my.mp4", {"end": 3, "progress": False}
    mine.write_bytes(b"holidays")
    with pytest.raises(FileExistsError, match=r"my\.mp4 exists, and was not made by this command"):
        run(clip, tmp_path / "out", checkpoint, video=mine, **options)
    assert left(tmp_path) == {"my.mp4": b"holidays"}
    run(clip, tmp_path / "out", checkpoint, video=mine, overwrite=True, **options)
    made = mine.read_bytes()
    again = run(clip, tmp_path / "out", checkpoint, video=mine, max_motion=1, **options)
    assert again.reused == 2 and mine.read_bytes() != made  # its own


def test_a_video_of_somebody_else_that_comes_meanwhile_stays(clip, checkpoint, tmp_path, monkeypatch):
    mine, encoded = tmp_path / "my.mp4", clips._encodable

    def late(picture):
        mine.write_bytes(b"holidays")
        return encoded(picture)

    monkeypatch.setattr(clips, "_encodable", late)
    with pytest.raises(FileExistsError, match=r"my\.mp4 exists, and was not made by this command"):
        run(clip, tmp_path / "out", checkpoint, video=mine, end=3, progress=False)
    assert mine.read_bytes() == b"holidays" and set(left(tmp_path / "out")) == {"video.json"} | flos(1, 2)


# ------------------------------------------------------------------ the video


@pytest.mark.parametrize(
    ("flo", "max_motion", "side_by_side"),
    [(True, None, True), (True, 7.0, False), (False, None, False), (False, 7.0, True)],
)
def test_the_flow_in_colours(clip, checkpoint, whole_run, tmp_path, encoded, flo, max_motion, side_by_side):
    target = tmp_path / "out" / "flow.mp4"
    settings = {"max_motion": max_motion, "side_by_side": side_by_side, "progress": False}
    summary = run(clip, tmp_path / "out", checkpoint, flo=flo, video=target, **settings)
    assert len(encoded) == 7 and summary.pairs == 6 and summary.kind == "H.264" and summary.video == target
    assert set(left(tmp_path / "out")) == ({"video.json"} | flos(*range(1, 7)) if flo else set()) | {"flow.mp4"}
    assert not list((tmp_path / "out").glob(".*"))
    flows = [formats.read_flo(path).transpose(2, 0, 1) for path in sorted(whole_run.glob("*.flo"))]
    scale = max_motion or full_colour(flows)
    assert summary.max_motion == pytest.approx(scale)
    made = open_clip(target)
    assert made.rate == 10 and made.length == 6
    for i, (picture, flow) in enumerate(zip(made.frames(), flows, strict=True)):
        colours = flow_to_image(flow, scale)
        frame = formats.read_image(clip / f"{i}.png")
        expected = np.hstack([frame, colours]) if side_by_side else colours
        # of noise, half the resolution in colour keeps the brightness
        grey = [p.astype(np.float32) @ [0.2126, 0.7152, 0.0722] for p in (picture, expected)]
        assert grey[0].shape == grey[1].shape and np.abs(grey[0] - grey[1]).mean() < 8


@pytest.mark.parametrize(("stride", "rate", "expected"), [(2, None, 6), (2, 29.97, 29.97)])
def test_pictures_a_second(clip, checkpoint, tmp_path, stride, rate, expected):
    from winwin_hf.inference.clips import write_video

    write_video(tmp_path / "clip.mp4", open_clip(clip).frames(), 12)
    options = {"stride": stride, "rate": rate, "max_motion": 5, "progress": False}
    run(tmp_path / "clip.mp4", tmp_path, checkpoint, flo=False, video=tmp_path / "flow.mp4", **options)
    assert float(open_clip(tmp_path / "flow.mp4").rate) == pytest.approx(expected, rel=1e-3)


def test_a_broken_off_video_leaves_nothing(clip, checkpoint, tmp_path, monkeypatch):
    for target, max_motion in (("a.mp4", None), ("b.mp4", 5.0)):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

            def interrupted(flow, max_motion):
                raise KeyboardInterrupt

            patch.setattr(video, "flow_to_image", interrupted)
            settings = {"max_motion": max_motion, "flo": False, "progress": False}
            run(clip, tmp_path, checkpoint, video=tmp_path / target, **settings)
        assert list(tmp_path.iterdir()) == []


def test_full_colour():
    still, fast = np.zeros((2, 40, 40), np.float32), np.full((2, 40, 40), 30.0, np.float32)
    assert full_colour([still]) == 1.0  # noise below a pixel stays pale
    assert full_colour([fast]) == pytest.approx(30 * math.sqrt(2))
    assert full_colour([still + 2] * 19 + [fast]) == pytest.approx(2 * math.sqrt(2))  # one cut among 20 pairs
    spotted = np.full((2, 80, 80), 2.0, np.float32)
    spotted[:, 0, :9] = 1000  # 3 errors among the 400 vectors that are looked at
    assert full_colour([spotted]) == pytest.approx(2 * math.sqrt(2))


# ------------------------------------------------------------------ what is refused


def test_what_makes_no_sense(clip, checkpoint, tmp_path):
    out = tmp_path / "out"
    for options, message in [
        ({"flo": False}, "Nothing to write"),
        ({"video": tmp_path / "flow.avi"}, r"flow\.avi: expected a name that ends in \.mp4"),
        ({"max_motion": 0}, "max_motion 0: expected a positive"),
        ({"max_motion": float("nan")}, "max_motion nan: expected a positive"),
        ({"rate": -1}, "rate -1: expected a positive"),
        ({"stride": 0}, "stride 0"),
        ({"start": 6}, r"1 frame\(s\) from 6 on"),
        ({"start": 70}, r"0 frame\(s\) from 70 on"),
        ({"stride": 7}, r"1 frame\(s\) from 0 on, every 7"),
        ({"device": "nonsense"}, "nonsense"),
        ({"model_name": "winwin-seg"}, "expected one for optical flow"),
    ]:
        with pytest.raises(ValueError, match=message):
            run(clip, out, **{"model_name": checkpoint, "progress": False, **options})
        assert not out.exists()
    with pytest.raises(FileNotFoundError, match="folder does not exist"):
        run(clip, out, checkpoint, video=tmp_path / "none" / "flow.mp4")
    with pytest.raises(FileNotFoundError, match="no such video"):
        run(tmp_path / "none.mp4", out, checkpoint)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="file: a file; expected a folder"):
        run(clip, tmp_path / "file", checkpoint)


def test_what_is_whole_stays_when_a_frame_is_broken(clip, checkpoint, tmp_path):
    broken = tmp_path / "clip"
    broken.mkdir()
    for path in clip.iterdir():
        (broken / path.name).write_bytes(path.read_bytes()[: 100 if path.stem == "4" else None])
    with pytest.raises(ValueError, match=r"4\.png: not a readable image"):
        run(broken, tmp_path / "out", checkpoint, progress=False)
    assert set(left(tmp_path / "out")) == flos(1, 2, 3) | {"video.json"}
    (broken / "4.png").write_bytes((clip / "4.png").read_bytes())
    assert run(broken, tmp_path / "out", checkpoint, progress=False).reused == 3


def test_a_video_that_was_cut_is_not_taken_for_a_whole_one(tmp_path, checkpoint):
    """Its two pairs were the whole result, with exit code 0."""
    frames = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), np.uint8) for i in range(8)]
    write_video(tmp_path / "whole.mp4", frames, 10)
    with av.open(str(tmp_path / "whole.mp4")) as source, av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                container.mux(packet)
    content = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.mkv: it has .* expected a whole video, or an end \(--end\) before"):
        run(tmp_path / "a.mkv", tmp_path / "out", checkpoint, progress=False)
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "a.mkv", tmp_path / "out", checkpoint, end=2, progress=False).pairs == 1
    with pytest.raises(ValueError, match=r"a\.mkv: .*(expected a whole video|can't be decoded)"):
        run(tmp_path / "a.mkv", tmp_path / "more", checkpoint, end=8, progress=False)


# ------------------------------------------------------------------ a real clip


@pytest.mark.parametrize("end", [4, pytest.param(None, marks=pytest.mark.slow)])
def test_a_real_clip(real_data, tmp_path, encoded, end):
    settings = {"size": (192, 336), "backward": True, "end": end, "progress": False}
    bedroom = real_data("video/bedroom")
    summary = run(bedroom, tmp_path / "out", video=tmp_path / "flow.mp4", side_by_side=True, **settings)
    count = end or 24
    assert encoded.count(336) == count and summary.pairs == count - 1
    assert 1 < summary.max_motion < 40
    record = json.loads((tmp_path / "out" / "video.json").read_text())
    assert record["model"] == "winwin-flow" and record["size"] == [192, 336]
    frames, made = list(open_clip(bedroom, size=(192, 336), end=end).frames()), open_clip(tmp_path / "flow.mp4")
    assert len(frames) == count and [p.shape for p in made.frames()] == [(192, 672, 3)] * (count - 1)
    flows = [formats.read_flo(path).transpose(2, 0, 1) for path in sorted((tmp_path / "out").glob("*.flo"))]
    errors = [photometric_errors(a, b, flow) for a, b, flow in zip(frames, frames[1:], flows, strict=False)]
    assert np.mean([e["warped"] for e in errors]) < 0.9 * np.mean([e["unwarped"] for e in errors])


def test_a_record_of_gigabytes_is_not_read(tmp_path):
    with (tmp_path / RECORD).open("wb") as file:
        file.truncate(3 * 10**9)  # a hole: it takes no room
    assert Results(tmp_path, flo=True, backward=False).record() == {}


def test_unknown_values_have_no_part_in_the_colours():
    unknown = np.full((2, 8, 8), np.nan, np.float32)
    moved = np.full((2, 8, 8), 3, np.float32)
    assert full_colour([unknown]) == 1.0
    assert full_colour([unknown, moved]) == pytest.approx(np.hypot(3, 3))


def test_two_processes_do_not_mix_their_files(clip, checkpoint, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with holding(out / LOCK) as process:
        with pytest.raises(FileExistsError, match=rf"process {process} on .* is writing flow into it"):
            run(clip, out, checkpoint, overwrite=True, progress=False)
        assert set(left(out)) == {LOCK}
        run(
            clip, out, checkpoint, flo=False, video=tmp_path / "flow.mp4", progress=False
        )  # none of its files are there
    run(clip, out, checkpoint, progress=False)
    assert set(left(out)) == flos(*range(1, 7)) | {"video.json"}
