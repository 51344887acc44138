"""States on disk: two are kept, a damaged one is found and named, and a full disk leaves the one before."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from support.forked_training import same_weights

from winwin_hf.processes import LOCK
from winwin_hf.training import loop
from winwin_hf.training.log import append_line
from winwin_hf.training.loop import train
from winwin_hf.training.state import (
    clear_leftovers,
    damage_of,
    latest_state,
    save_model,
    whole_state,
)

resource = pytest.importorskip("resource")  # POSIX

NOBODY = 65534
SAVED = {"average.safetensors", "model.safetensors", "optimizer.bin", "random_states_0.pkl", "recipe.yaml"}


def flip(path: Path, place: float = 0.5) -> None:
    """Changes one bit of a file."""
    data = bytearray(path.read_bytes())
    data[int(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def remove(path: Path) -> None:
    path.unlink()


def limit_files(size: int) -> None:
    """Files of this process can't grow above `size` bytes: writing fails as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.fixture
def unlimited():
    yield
    limit_files(resource.getrlimit(resource.RLIMIT_FSIZE)[1])


# ------------------------------------------------------------------ checksums


def test_the_two_newest_states_are_kept_and_whole(trained):
    assert sorted(path.name for path in trained.glob("state-*")) == ["state-00000003", "state-00000004"]
    for state in trained.glob("state-*"):
        assert set(json.loads((state / "state.json").read_text())["files"]) == SAVED
        assert damage_of(state) == ""


@pytest.mark.parametrize("harm", [flip, cut, empty, remove])
def test_damage_of_any_file_is_found_and_the_state_before_used(copy, tmp_path, harm, caplog):
    newest = copy / "state-00000003"
    for name in sorted([*SAVED, "state.json"]):
        output = Path(shutil.copytree(copy, tmp_path / f"harmed-{name}"))
        harm(output / newest.name / name)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "winwin_hf"):
            assert whole_state(output) == output / "state-00000002"
        (said,) = caplog.messages
        assert said.startswith(f"{output / newest.name} is damaged ({name}")
        assert said.endswith(", going on from state-00000002")
        assert (output / "state-00000003.damaged" / "model.safetensors").exists() or name == "model.safetensors"


def test_any_flipped_bit_of_the_list_of_checksums_is_found(copy):
    state = copy / "state-00000003"
    whole = (state / "state.json").read_bytes()
    for place in range(0, len(whole), 7):
        harmed = bytearray(whole)
        harmed[place] ^= 4
        (state / "state.json").write_bytes(harmed)
        text = harmed.decode("utf-8", errors="replace")
        same = False
        with contextlib.suppress(ValueError):
            same = json.loads(text) == json.loads(whole)  # a blank that became another one
        assert bool(damage_of(state)) != same, place


def test_a_state_by_another_name_is_none(copy, caplog):
    """A copy of an older state as if it were the newest."""
    newest = latest_state(copy)
    shutil.copytree(newest, copy / "state-00000099")
    assert whole_state(copy) == newest
    assert f"state.json is of step {int(newest.name[-8:])}" in caplog.text


def test_a_users_folder_like_a_state_is_none_and_stays(copy, trained, caplog):
    mine = copy / "state-00000099" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    assert latest_state(copy) == copy / "state-00000003"
    flip(copy / "state-00000003" / "average.safetensors")
    within = copy / "state-00000003" / "notes.txt"
    within.write_text("mine")
    train(trained.parent / "recipe.yaml", output=copy, resume=True)
    assert same_weights(copy, trained)
    assert mine.read_text() == "mine"
    assert (copy / "state-00000003.damaged" / "notes.txt").read_text() == "mine"


def test_a_training_goes_on_from_the_state_before_the_damaged_one_and_ends_alike(copy, trained):
    flip(copy / "state-00000003" / "average.safetensors")
    train(trained.parent / "recipe.yaml", output=copy, resume=True)
    assert same_weights(copy, trained)
    assert not list(copy.glob("*.damaged"))  # newer good ones exist
    assert sorted(path.name for path in copy.glob("state-*")) == ["state-00000003", "state-00000004"]
    assert damage_of(copy / "state-00000003") == ""


def test_without_a_whole_state_all_are_named_and_none_is_touched(copy, trained):
    flip(copy / "state-00000003" / "random_states_0.pkl")
    cut(copy / "state-00000002" / "optimizer.bin")
    found = (
        r"state-00000003 is damaged \(random_states_0.pkl .*\), state-00000002 is damaged \(optimizer.bin has \d+ of"
    )
    with pytest.raises(ValueError, match=found):
        train(trained.parent / "recipe.yaml", output=copy, resume=True)
    assert sorted(path.name for path in copy.glob("state-*")) == ["state-00000002", "state-00000003"]


def test_nothing_outside_of_the_state_blocks_resuming(copy, trained, caplog):
    """An empty recipe.yaml, and a log with garbage, half a line, and a line of something else."""
    (copy / "recipe.yaml").write_text("")
    log = copy / "metrics.jsonl"
    lines = log.read_bytes().splitlines()[:3]
    log.write_bytes(b"\n".join([lines[0], b"\xff\x00{}", b"[1]", b'{"step": "x"}', *lines[1:], b'{"step": 3, "lo']))
    train(trained.parent / "recipe.yaml", output=copy, resume=True)
    assert same_weights(copy, trained)
    assert [json.loads(line)["step"] for line in log.read_text().splitlines()] == [1, 2, 3, 4]
    assert "4 damaged lines" in caplog.text
    assert (copy / "recipe.yaml").read_text() == (trained / "recipe.yaml").read_text()


def test_what_a_killed_training_left_is_removed(copy, trained):
    for name in ("state-00000004.tmp", ".model-abc", ".model-def/old"):
        (copy / name).mkdir(parents=True)
    (copy / ".model-def" / "old" / "config.json").write_text("{}")
    for name in (".recipe.0123abcd.yaml", ".metrics.0123abcd.jsonl"):
        (copy / name).write_text("")
    (copy / "notes.tmp").write_text("the user's own")
    (copy / ".model-mine").mkdir()
    (copy / ".model-mine" / "notes").write_text("the user's own")
    (copy / ".recipe.mine.yaml").write_text("the user's own")
    clear_leftovers(copy)
    own = {"notes.tmp", ".model-mine", ".recipe.mine.yaml"}
    names = {path.name for path in copy.iterdir()} - {LOCK}
    assert names == {"metrics.jsonl", "recipe.yaml", "state-00000002", "state-00000003", "model", *own}
    assert (copy / "model" / "config.json").exists()  # it was killed between two renames


# ------------------------------------------------------------------ a disk that takes no more


@pytest.mark.usefixtures("unlimited")
@pytest.mark.parametrize("share", [0.1, 1.1])
def test_a_full_disk_while_saving_leaves_the_state_before(tmp_path, trained, monkeypatch, share):
    """In the model's file, and in the optimiser's, which another library writes."""
    size = (trained / "state-00000004" / "model.safetensors").stat().st_size
    save = loop.save_state

    def filling(accelerator, output, progress, *others):
        if progress["step"] == 2:
            limit_files(int(share * size))
        save(accelerator, output, progress, *others)

    monkeypatch.setattr(loop, "save_state", filling)
    output, reason = tmp_path / "run", os.strerror(errno.EFBIG)
    says = rf"^{output}: state-00000002 could not be written \({reason}\); the last state is state-00000001$"
    with pytest.raises(OSError, match=says):
        train(trained.parent / "recipe.yaml", output=output)
    assert [path.name for path in output.glob("state-*")] == ["state-00000001"]
    limit_files(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    monkeypatch.setattr(loop, "save_state", save)
    train(trained.parent / "recipe.yaml", output=output, resume=True)
    assert same_weights(output, trained)


@pytest.mark.parametrize(
    ("what", "make"), [("a link", lambda path: path.symlink_to(path.parent)), ("a folder", Path.mkdir)]
)
def test_what_has_the_next_state_s_name_is_said(tmp_path, trained, monkeypatch, what, make):
    """A folder there counted as the state, which was never saved."""
    save, output = loop.save_state, tmp_path / "run"

    def hindered(accelerator, folder, progress, *others):
        if progress["step"] == 2:
            make(output / "state-00000002")
        save(accelerator, folder, progress, *others)

    monkeypatch.setattr(loop, "save_state", hindered)
    says = rf"state-00000002 could not be written \({what} of that name is there, and no state\); the last state is state-00000001$"
    with pytest.raises(OSError, match=says):
        train(trained.parent / "recipe.yaml", output=output)


@pytest.mark.parametrize("when", ["at a state", "at the end"])
def test_a_training_ends_where_its_folder_is_another_one(tmp_path, trained, monkeypatch, when):
    output, old, save = tmp_path / "run", tmp_path / "old", loop.save_state

    def replaced(accelerator, folder, progress, *others):
        if progress["step"] == 3 and when == "at the end":
            save(accelerator, folder, progress, *others)
        if progress["step"] == 3:
            output.rename(old)
            shutil.copytree(trained, output)
            (output / ".lock").write_text("1 on elsewhere")
        if progress["step"] != 3 or when == "at a state":
            save(accelerator, folder, progress, *others)

    monkeypatch.setattr(loop, "save_state", replaced)
    with pytest.raises(OSError, match=rf"{output} was removed, moved or replaced since this process locked it"):
        train(trained.parent / "recipe.yaml", output=output)
    assert same_weights(output, trained)
    for path in trained.rglob("*"):
        if path.is_file() and path.name != ".lock":
            assert path.read_bytes() == (output / path.relative_to(trained)).read_bytes()
    assert latest_state(old) == old / ("state-00000002" if when == "at a state" else "state-00000003")


@pytest.mark.parametrize("name", ["state-00000002", "state-00000001.tmp"])
def test_what_will_have_a_state_s_name_is_refused_before_the_first_step(tmp_path, trained, name):
    output = tmp_path / "run"
    output.mkdir()
    (output / name).write_text("mine")
    with pytest.raises(FileExistsError, match=rf"{name} is no state of a training, and one will have its name"):
        train(trained.parent / "recipe.yaml", output=output)
    assert [path.name for path in output.iterdir() if path.name != ".lock"] == [name]
    assert (output / name).read_text() == "mine"


def test_names_of_states_before_the_resumed_one_are_free(tmp_path, trained):
    output = tmp_path / "run"
    shutil.copytree(trained, output)
    (output / "state-00000001").mkdir(exist_ok=True)
    (output / "state-00000001" / "mine").write_text("mine")
    train(trained.parent / "recipe.yaml", output=output, resume=True)
    assert (output / "state-00000001" / "mine").read_text() == "mine"


@pytest.mark.parametrize("number", [errno.ENOTDIR, errno.EACCES])
def test_a_folder_that_can_t_be_written_is_named(trained, monkeypatch, number):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)  # so that NOBODY may look at what is in it
        fails_to_write(Path(folder), trained.parent / "recipe.yaml", monkeypatch, number)


def fails_to_write(folder, recipe, monkeypatch, number) -> None:
    save, output = loop.save_state, folder / "run"

    def hindered(accelerator, output, *others):
        if number == errno.ENOTDIR:
            output.rename(folder / "moved")
            output.write_text("no folder")
        else:
            output.chmod(0o555)
            if os.geteuid() == 0:  # who may write anywhere
                os.seteuid(NOBODY)
        try:
            save(accelerator, output, *others)
        finally:
            os.seteuid(os.getuid())

    monkeypatch.setattr(loop, "save_state", hindered)
    reason = os.strerror(number) if number == errno.EACCES else f"{output} was removed, moved or replaced since .*"
    says = rf"^{output}: state-00000001 could not be written \({reason}\)"
    with pytest.raises(OSError, match=says):
        train(recipe, output=output)


@pytest.mark.usefixtures("unlimited")
def test_a_line_of_the_log_is_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "metrics.jsonl"
    append_line(path, '{"step": 1}')
    limit_files(15)
    with pytest.raises(OSError, match=rf"^{path} could not be written \({os.strerror(errno.EFBIG)}\)$"):
        append_line(path, '{"step": 2}')
    assert path.read_text() == '{"step": 1}\n'


def test_a_model_that_can_t_be_written_leaves_the_one_before(trained, monkeypatch):
    from winwin_hf import WinWinForOpticalFlow, WinWinImageProcessor
    from winwin_hf.training.recipe import load_recipe

    model = WinWinForOpticalFlow.from_pretrained(trained / "model")
    before = {path.name: path.read_bytes() for path in (trained / "model").iterdir()}

    class Full(WinWinImageProcessor):
        def save_pretrained(self, *_, **__):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError):
        save_model(model, trained, load_recipe(trained / "recipe.yaml"), Full(patch_size=16))
    assert {path.name: path.read_bytes() for path in (trained / "model").iterdir()} == before
