"""Wrong files, folders and outputs: one line that says what lies there, before the network runs, and nothing is changed."""

from __future__ import annotations

import errno
import json
import os
import pickle
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from support.command_line import refused, run
from support.places import FRAMES
from tqdm import tqdm

from winwin_hf.cli.errors import line_of, one_line_errors
from winwin_hf.data import formats
from winwin_hf.data.formats import files
from winwin_hf.inference import predictor

THINGS = {
    "missing.png": "missing.png: no such file",
    "folder": "folder: a folder; expected a file",
    "pipe": "pipe: a pipe; expected a file",
    "loop": "loop: links that lead in a circle",
    "dangling": "dangling: a link to a file that doesn't exist",
    "/dev/zero": "/dev/zero: a device; expected a file",
    "a.png/b.png": "a.png/b.png: not a directory",
    "x" * 300: "file name too long",
}


@pytest.mark.parametrize("thing", THINGS, ids=lambda thing: thing[:12])
def test_what_is_no_file_has_its_own_word(here: Path, thing: str):
    refused(run("depth", thing), 2, THINGS[thing])
    refused(run("flow", "a.png", thing), 2, THINGS[thing])
    refused(run("segment", thing), 2, THINGS[thing])


def test_what_is_no_recipe_has_its_own_word(here: Path):
    refused(run("train", "folder"), 2, "folder: a folder; expected a YAML file")
    refused(run("train", "pipe"), 2, "pipe: a device or a pipe; expected a YAML file")
    refused(run("recipes", "show", "loop"), 2, "loop: a link to nothing, or in a circle; expected a YAML file")
    refused(run("train", "missing.yaml"), 2, "missing.yaml: no such file, and no recipe of this name")


def test_what_is_no_clip_has_its_own_word(here: Path):
    for thing in ("pipe", "loop", "dangling", "/dev/zero"):
        words = THINGS[thing].replace("; expected a file", "")
        result = run("video", thing, "-o", "flow")
        refused(result, 2 if thing == "dangling" else 1, words)
    refused(run("video", "a.png", "-o", "flow"), 1, "a.png")
    assert not (here / "flow").exists()


OUTPUTS = {
    "out.gif": "expected a name that ends in .npy or .png",
    "nowhere/out.npy": "the folder nowhere does not exist",
    "a.png/out.npy": "the folder a.png is no folder",
    "made.npy": "a folder; expected the name of a file",
    "pipe.npy": "a device or a pipe; expected the name of a file",
    "a.png": "would overwrite a.png",
    "linked.png": "would overwrite a.png",
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_an_output_that_cant_be_written_is_found_before_the_network_is_loaded(here: Path, monkeypatch, output: str):
    monkeypatch.setattr(predictor, "load_network", None)
    Path("made.npy").mkdir()
    os.mkfifo("pipe.npy")
    Path("linked.png").symlink_to("a.png")
    before = Path("a.png").read_bytes()
    refused(run("depth", "a.png", "-o", output), 2, f"--output {output}: {OUTPUTS[output]}")
    assert Path("a.png").read_bytes() == before


def test_a_folder_that_may_not_be_written_to_and_a_full_disk_are_found_before(here: Path, monkeypatch):
    monkeypatch.setattr(predictor, "load_network", None)
    with monkeypatch.context() as patch:  # the tests may run as root, who may write everywhere
        patch.setattr("winwin_hf.cli.arguments.os.access", lambda path, mode, **_: not mode & os.W_OK)
        is_dir = Path.is_dir

        def closed(path: Path) -> bool:
            """As in a folder that nobody else may look into."""
            if path.name == "depth.npy":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return is_dir(path)

        patch.setattr(Path, "is_dir", closed)
        refused(run("depth", "a.png"), 2, "--output depth.npy: the folder", "may not be written to")
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, mode: False)
        for command in (("export", "winwin-depth", "-o"), ("convert", "winwin-depth"), ("predict", "folder")):
            refused(run(*command, "folder/out"), 2, "folder/out: the folder", "folder may not be written to")
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: usage)
    refused(run("depth", "a.png"), 1, "depth.npy: 100 B free on its disk; expected 2.4 kB")


def test_two_outputs_are_two_files(here: Path):
    refused(run("segment", "a.png", "-o", "x.png", "--picture", "x.png"), 2, "--picture x.png: would overwrite x.png")
    Path("there").mkdir()
    Path("link").symlink_to("there")
    for one in ("there/../x.png", "link/x.png"):  # of a file that isn't there yet
        other = "x.png" if ".." in one else "there/x.png"
        refused(run("segment", "a.png", "-o", other, "--picture", one), 2, f"--picture {one}: would overwrite {other}")


def test_a_split_or_an_option_that_a_set_does_not_have_is_misuse(here: Path):
    for arguments in (
        ("data", "shards", "camvid:foo=nowhere", "-o", "out"),
        ("data", "shards", "synthetic-flow:foo=none", "-o", "out", "--length", 1),
        ("data", "check", ".", "--name", "camvid", "--split", "foo"),
        ("evaluate", "winwin-seg", "--data", "camvid:foo=nowhere"),
    ):
        refused(run(*arguments), 2, "split 'foo'", "expected train")
    refused(run("data", "check", ".", "--name", "camvid", "--option", "foo=1"), 2, "options of camvid: unknown foo")


@pytest.mark.parametrize(
    "command",
    [
        ("video", "folder", "-o", "a.png"),
        ("demo", "--output", "a.png"),
        ("train", "demo", "--output", "a.png"),
        ("evaluate", "zero", "--data", "kitti-2015=folder", "-o", "a.png"),
        ("data", "shards", "camvid=folder", "-o", "a.png"),
    ],
    ids=lambda command: command[0],
)
def test_a_file_in_the_place_of_a_folder_is_found_at_once(here: Path, command: tuple[str, ...]):
    before = Path("a.png").read_bytes()
    command = tuple("synthetic-depth" if word == "demo" and command[0] == "train" else word for word in command)
    if command[0] == "train":
        command = ("train", bundled_recipe(), *command[2:])
    refused(run(*command), 2, "--output a.png: a file; expected a folder")
    assert Path("a.png").read_bytes() == before


def bundled_recipe() -> str:
    from winwin_hf.recipes import recipe_names

    return recipe_names()[0]


def test_a_disk_that_fills_up_is_named(here: Path, monkeypatch):
    def full(self: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self), None, str(target))

    monkeypatch.setattr(Path, "replace", full)
    refused(run("depth", "a.png"), 1, "winwin: depth.npy: no space left on device")
    assert sorted(path.name for path in here.iterdir()) == ["a.png", "dangling", "folder", "loop", "pipe"]


def test_errors_without_a_number_name_the_file(tmp_path: Path, monkeypatch):
    """As numpy's "6144 requested and 4064 written"."""
    says = r"x\.npy: could not be written \(6144 requested and 4064 written\)"
    with pytest.raises(OSError, match=says), files.write_atomic(tmp_path / "x.npy"):
        raise OSError("6144 requested and 4064 written")
    usage = type("Usage", (), {"free": 100})
    with monkeypatch.context() as patch:
        patch.setattr(files.shutil, "disk_usage", lambda folder: usage)
        with (
            pytest.raises(OSError, match=r"No space left on device: '.*x\.npy'"),
            files.write_atomic(tmp_path / "x.npy"),
        ):
            raise OSError("6144 requested and 4064 written")
    with pytest.raises(FileNotFoundError, match="another"), files.write_atomic(tmp_path / "x.npy"):
        raise FileNotFoundError(errno.ENOENT, "No such file", "another")


def test_a_device_without_values_is_no_device(here: Path):
    refused(run("depth", "a.png", "--device", "meta"), 2, "--device 'meta': ")
    refused(run("depth", "a.png", "--device", "xyz"), 2, "--device 'xyz': expected auto, cpu, cuda")
    result = run("depth", "a.png", "--device", "vulkan")
    refused(result, 2, "--device 'vulkan': this machine can't compute there")
    assert len(result.output) < 400  # torch lists all that it knows


def test_frames_of_two_sizes_are_named(here: Path):
    Image.new("RGB", (40, 30)).save("other.png")
    refused(run("flow", "a.png", "other.png"), 2, "a.png is 20 x 30 and other.png is 30 x 40 (height x width)")


@pytest.mark.parametrize("arguments", [("x",), ("a/b/c",), ("../x",), ("",), ("a/b", "--type", "nope")])
def test_push_knows_its_arguments(here: Path, arguments):
    refused(run("push", ".", *arguments), 2, "expected")


def test_a_picture_is_bounded_before_it_is_decoded_and_before_the_network(here: Path, monkeypatch):
    refused_line = "20 x 30 pixels (height x width) are more than the limit of 500"
    monkeypatch.setenv("WINWIN_MAX_PIXELS", "500")
    refused(run("depth", "a.png"), 1, "a.png: ", refused_line, "WINWIN_MAX_PIXELS")
    monkeypatch.setenv("WINWIN_MAX_PIXELS", "many")
    refused(run("depth", "a.png"), 1, "WINWIN_MAX_PIXELS=many: expected a whole number of pixels")
    monkeypatch.delenv("WINWIN_MAX_PIXELS")
    monkeypatch.setattr(predictor, "MAX_INPUT_PIXELS", 700)
    refused(run("depth", "a.png"), 1, "24 x 32 pixels (height x width) are more than the limit of 700", "--tile")
    assert run("flow", "a.png", "a.png", "--tile", "16x16").exit_code == 0
    assert not list(here.glob("depth*"))


@pytest.mark.parametrize("suffix", ["png", "tif", "gif", "webp", "bmp", "ppm", "jp2", "tga"])
def test_a_small_file_of_many_pixels_is_refused_by_its_header(here: Path, suffix: str, monkeypatch):
    """A decompression bomb, in every format; the limit is lower so that the test is quick."""
    Image.new("L", (2000, 1500)).save(f"bomb.{suffix}")
    assert run("depth", f"bomb.{suffix}", "-o", "out.txt").exit_code == 2
    monkeypatch.setenv("WINWIN_MAX_PIXELS", "2999999")
    Image.init()
    monkeypatch.setattr(Image.Image, "load", None)  # nothing may be decoded
    refused(run("depth", f"bomb.{suffix}"), 1, f"bomb.{suffix}: ", "1500 x 2000 pixels (height x width) are more than")


@pytest.mark.fault
@pytest.mark.parametrize("suffix", ["png", "tif", "webp"])
def test_real_bombs_take_no_memory(here: Path, suffix: str):
    """100 megapixels in some kilobytes; then 8K, which is read."""
    name, options = f"bomb.{suffix}", {"compression": "tiff_adobe_deflate"} if suffix == "tif" else {}
    Image.new("RGB" if suffix == "webp" else "1", (16_000, 6_250)).save(name, **options)
    before = psutil.Process().memory_info().rss
    refused(run("depth", name), 1, name, "80,000,000")
    assert psutil.Process().memory_info().rss - before < 2**26
    Image.new("RGB", (7680, 4320)).save("8k.png")
    assert formats.read_image("8k.png").shape == (4320, 7680, 3)
    with pytest.raises(ValueError, match=r"40,000,000; expected tiles \(--tile\)"):
        predictor.Predictor.load("winwin-depth")(np.zeros((6400, 6400, 3), np.uint8))


def test_conversions_of_damaged_files_are_one_line(here: Path, bundle: Path):
    config = bundle / "winwin-depth" / "config.json"
    refused(run("convert", str(config), "new"), 1, f"{config}: a file; expected its folder")
    Path("x").mkdir()
    Path("x/config.json").write_text(json.dumps({"model_type": "dinov2", "hidden_size": "192"}))
    refused(run("convert", "x", "new"), 1, "x", "hidden_size")
    for text in ("null", "[]", "{", "3"):
        Path("x/config.json").write_text(text)
        refused(run("convert", "x", "new"), 1, "x")
    Path("x.pth").write_bytes(pickle.dumps(os.getcwd))
    refused(run("convert", "x.pth", "new"), 1, "x.pth: ")
    assert not Path("new").exists()


def test_a_dust3r_that_lies_about_its_size_is_refused_before_it_is_built(here: Path, monkeypatch):
    from safetensors.torch import save_file

    from winwin_hf.model.modeling_winwin import WinWinModel

    Path("x").mkdir()
    sizes = {"enc_embed_dim": 16384, "enc_depth": 1, "enc_num_heads": 64, "dec_embed_dim": 64, "dec_depth": 1}
    names = ("enc_blocks.0.norm1.weight", "dec_blocks.0.norm1.weight", "enc_norm.weight")
    save_file({name: torch.ones(8) for name in names}, "x/model.safetensors")
    Path("x/config.json").write_text(json.dumps({**sizes, "dec_num_heads": 4, "pos_embed": "RoPE100"}))
    built = WinWinModel.__init__

    def meta_only(self, config):
        assert torch.empty(0).device.type == "meta"
        built(self, config)

    monkeypatch.setattr(WinWinModel, "__init__", meta_only)
    refused(run("convert", "x", "new"), 1, "x: ", "(our name)", "expected")


def test_checks_are_of_the_asked_slice(tmp_path: Path, monkeypatch):
    import shutil

    shutil.copytree(FRAMES / "CamVid", tmp_path / "CamVid")
    monkeypatch.chdir(tmp_path)
    pictures = sorted((tmp_path / "CamVid" / "train").iterdir())
    check = ("data", "check", "CamVid", "--name", "camvid", "--workers", "0", "--split")
    assert run(*check, "train").exit_code == 0
    pictures[-1].write_bytes(b"broken")
    pictures[1].unlink()
    assert run(*check, "train").exit_code == 1
    assert run(*check, "train[:1]").exit_code == 0
    result = run(*check, "train[1:2]")
    assert result.exit_code == 1 and pictures[1].name in result.stdout
    result = run(*check, f"train[{len(pictures) - 1}:]")
    assert result.exit_code == 1 and pictures[-1].name in result.stdout
    refused(run(*check, "train[50:]"), 2, "split 'train[50:]'", f"{len(pictures)} examples")


def test_no_message_is_glued_to_a_progress_bar(capsys):
    @one_line_errors
    def command() -> None:
        for _ in tqdm(range(3), mininterval=0):
            raise ValueError("a.png: wrong")

    with pytest.raises(Exception, match="1"):
        command()
    assert "\nwinwin: a.png: wrong\n" in capsys.readouterr().err


def test_every_error_is_one_line_and_a_fault_of_ours_is_told_of(monkeypatch, capsys):
    @one_line_errors
    def command(error: Exception) -> None:
        raise error

    for error, says in (
        (KeyError("x"), "KeyError: 'x' (--traceback shows where)"),
        (RuntimeError("a\nb"), "RuntimeError: a (--traceback shows where)"),
        (MemoryError(), "not enough memory"),
        (torch.OutOfMemoryError("8 x 8 pixels take more"), "not enough memory: 8 x 8 pixels take more"),
        (PermissionError(13, "Permission denied", "a.png"), "a.png: permission denied"),
        (RecursionError(), "RecursionError (--traceback shows where)"),
    ):
        with pytest.raises(Exception, match="1"):
            command(error)
        assert capsys.readouterr().err == f"winwin: {says}\n"
        monkeypatch.setenv("WINWIN_TRACEBACK", "1")
        with pytest.raises(Exception, match="1"):
            command(error)
        assert "Traceback (most recent call last)" in capsys.readouterr().err
        monkeypatch.delenv("WINWIN_TRACEBACK")
    assert line_of(OSError(errno.ENOSPC, "x")).startswith("no space left on device; standard output, the output")
    monkeypatch.setattr(sys, "argv", ["winwin", "a\nb", "set=/nope\nz"])
    assert line_of(ValueError("/nope\nz: not there\nmore")) == r"/nope\nz: not there"
    assert line_of(FileNotFoundError(errno.ENOENT, "no such file", "a\nb")) == r"a\nb: no such file or directory"
    assert line_of(RuntimeError("could not create a primitive")).startswith("not enough memory for a layer's products")
    unmapped = ImportError("libavcodec-1.so.60: failed to map segment from shared object")
    assert line_of(unmapped) == "not enough memory to load libavcodec-1.so.60"
    assert line_of(OSError(f"{'a' * 10**7}: not there")).startswith("aaa")  # not for hours


def test_a_later_run_removes_what_a_killed_one_left(tmp_path: Path, monkeypatch):
    ours = files.owner()
    dead = ours.replace(f"p{os.getpid()}-", "p4194305-")  # above the highest number of a process
    elsewhere = dead.replace(dead[:5], "wffff" if dead[1:5] != "ffff" else "w0000")
    for owner in (ours, dead, elsewhere):
        (tmp_path / f".flow.{owner}12345678.flo").write_text("x")
        (tmp_path / f".model-{owner}abcd").mkdir()
    (tmp_path / ".hidden").write_text("x")
    monkeypatch.setattr(files, "_cleaned", set())
    with files.write_atomic(tmp_path / "new.flo") as temporary:
        temporary.write_text("x")
    left = {path.name for path in tmp_path.iterdir()}
    assert not [name for name in left if dead in name]
    assert len(left) == 6 and {".hidden", "new.flo"} <= left


def crashed_at(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, this process "dies" where something is renamed to `target`: nothing after that happens, no clean-up either."""
    rename = Path.rename

    def dying(self: Path, to: Path) -> Path:
        if Path(to).name == target and self.name == files.NEW:
            raise KeyboardInterrupt
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", dying)
    monkeypatch.setattr(files, "put_back", lambda *_: None)
    monkeypatch.setattr(files.shutil, "rmtree", lambda *_, **__: None)


def test_a_kill_between_two_renames_loses_no_folder(tmp_path: Path, monkeypatch):
    """As `winwin export` and `convert` replace theirs. The next one that writes there puts the old one back."""
    old = tmp_path / "onnx"
    old.mkdir()
    (old / "model.onnx").write_text("old")
    with monkeypatch.context() as patch:
        dead = files.owner().replace(f"p{os.getpid()}-", "p4194305-")  # above the highest number of a process
        patch.setattr(files, "owner", lambda: dead)
        crashed_at("onnx", patch)
        with pytest.raises(KeyboardInterrupt), files.replacing_folder(old) as new:
            (new / "model.onnx").write_text("new")
    assert not old.exists() and len(list(tmp_path.iterdir())) == 1
    monkeypatch.setattr(files, "_cleaned", set())
    with files.write_atomic(tmp_path / "anything") as temporary:
        temporary.write_text("x")
    assert (old / "model.onnx").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"onnx", "anything"}
    with pytest.raises(ValueError, match="on the way"), files.replacing_folder(old) as new:
        raise ValueError("on the way")
    assert (old / "model.onnx").read_text() == "old"
    with files.replacing_folder(old) as new:
        (new / "model.onnx").write_text("new")
    assert (old / "model.onnx").read_text() == "new" and len(list(tmp_path.iterdir())) == 2
