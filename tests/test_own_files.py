"""What the package removes and reads is its own, or small: links are not followed, and no file fills memory."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from winwin_hf.data.formats import files
from winwin_hf.model.weights_winwin import files_of_index
from winwin_hf.own_files import TakenOver, check_held, open_own, remove_tree, undisturbed
from winwin_hf.processes import LOCK, locked


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("old"))


def moved_and_made_again(folder: Path) -> None:
    moved(folder)
    folder.mkdir()


def taken(folder: Path) -> None:
    (folder / LOCK).unlink()
    (folder / LOCK).write_text("1 on elsewhere")


def made_a_pipe(folder: Path) -> None:
    (folder / LOCK).unlink()
    os.mkfifo(folder / LOCK)


@pytest.mark.parametrize("change", [moved, shutil.rmtree, moved_and_made_again, taken, made_a_pipe])
@pytest.mark.parametrize("stays", [True, False])
def test_nothing_is_written_into_a_folder_that_is_another_one_now(tmp_path: Path, change, stays):
    """Two trainings ran in one folder, and the second's model replaced the first's."""
    folder = tmp_path / "run"
    says = f"^{folder} was removed, moved or replaced since this process locked it, or another process took it"
    with locked(folder, stays=stays):
        with files.write_atomic(folder / "a.txt") as temporary:
            temporary.write_text("a")
        change(folder)
        for write in (files.write_atomic, files.replacing_folder):
            with pytest.raises(TakenOver, match=says), write(folder / "b"):
                raise AssertionError("written")
        with pytest.raises(TakenOver, match=says):
            open_own(folder / "c", os.O_RDWR)
        if folder.exists():
            (folder / "theirs").mkdir()
            remove_tree(folder / "theirs", ignore_errors=True)
            with pytest.raises(TakenOver, match=says):
                remove_tree(folder / "theirs")
            assert (folder / "theirs").is_dir()
        check_held(tmp_path / "run-2")
    assert not (folder / "b").exists() and not (folder / "c").exists()
    assert os.path.lexists(folder / LOCK) == (change in (taken, made_a_pipe))  # never another process's lock
    check_held(folder)


def test_another_error_of_a_folder_that_is_gone_says_so(tmp_path: Path):
    folder = tmp_path / "run"
    with pytest.raises(TakenOver), locked(folder):
        moved(folder)
        (folder / "a.txt").read_text()
    with pytest.raises(FileNotFoundError), locked(folder):
        (folder / "a.txt").read_text()


@pytest.mark.parametrize("removed", ["run", "."])
def test_a_folder_that_this_process_removed_is_not_taken(tmp_path: Path, removed: str):
    """The error that ended the work is told, not that its folder is gone."""
    folder = tmp_path / "all" / "run"
    with pytest.raises(FileNotFoundError, match="data"), locked(folder):
        try:
            (tmp_path / "data").read_text()
        finally:
            remove_tree(tmp_path / "all" / removed)
    assert not folder.exists()


def test_a_folder_whose_lock_was_deleted_or_numbered_anew_is_the_same(tmp_path: Path):
    with locked(tmp_path):
        text = (tmp_path / LOCK).read_text()
        (tmp_path / LOCK).unlink()
        check_held(tmp_path / "a")
        (tmp_path / LOCK).write_text(text)
        check_held(tmp_path / "a")


def test_a_folder_that_is_replaced_while_a_file_is_written_keeps_the_other_ones(tmp_path: Path):
    folder = tmp_path / "run"
    with locked(folder), pytest.raises(TakenOver), files.write_atomic(folder / "a.txt") as temporary:
        temporary.write_text("first")
        taken(folder)
        (folder / "a.txt").write_text("second")
    assert (folder / "a.txt").read_text() == "second"
    assert sorted(path.name for path in folder.iterdir()) == [LOCK, "a.txt"]


def test_tidying_up_is_not_interrupted():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with undisturbed():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            assert not seen
        time.sleep(0.01)
        assert seen == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
            with undisturbed():
                os.kill(os.getpid(), signal.SIGINT)
                seen.append("tidied")
        assert seen[-1] == "tidied"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_of_a_link_only_the_link_is_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("precious")
    for name in ("link", "dangling"):
        (tmp_path / name).symlink_to("mine" if name == "link" else "nowhere")
        remove_tree(tmp_path / name)
    remove_tree(tmp_path / "nothing", ignore_errors=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"] and (tmp_path / "mine" / "thesis").exists()


def test_a_text_is_read_to_a_bound(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(3 * 10**9)
    for read in (files.read_text, files.read_json):
        with pytest.raises(ValueError, match=r"config\.json: 3 GB; expected a text of at most 100 MB"):
            read(path)
    with pytest.raises(ValueError, match=r"config\.json: names nothing"):
        files_of_index(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="a pipe; expected a file"):
        files.read_json(path)
