"""How the files of an evaluation come into its folder: whatever happens on the way, the old evaluation's are there or the new one's."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from support.locks import holding
from support.places import FRAMES

from winwin_hf.data.formats.files import remove_leftovers
from winwin_hf.evaluation import publishing
from winwin_hf.evaluation.run import Settings, evaluate_data
from winwin_hf.processes import LOCK

DATA = [f"middlebury={FRAMES / 'flow' / 'Middlebury-flow'}"]
MOVES = (1, 3, 5, 6, 8, 10)
DEAD = publishing.owner().replace(f"p{os.getpid()}-", f"p{2**22 + 1}-")  # of a process that isn't there


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory):
    """Folders of two evaluations: of one method, with a file of the user's; of two."""
    old, new = (tmp_path_factory.mktemp(name) for name in ("old", "new"))
    evaluate_data(["zero"], DATA, old, Settings(worst=2))
    (old / "zero" / "notes.txt").write_text("mine")
    evaluate_data(["zero", "opencv-dis"], DATA, new, Settings(worst=1))
    return old, new


@pytest.fixture
def stage(evaluations, tmp_path):
    """Makes a folder with the old evaluation, beside it the new one as a process leaves it before it moves its files: (folder, new)."""

    def make(name: str, owner: str) -> tuple[Path, Path]:
        folder = shutil.copytree(evaluations[0], tmp_path / name)
        return folder, shutil.copytree(evaluations[1], folder / f".evaluation-{owner}x" / "new")

    return make


def in_child(new: Path, n: int, fault) -> int:
    """How a process ended that published, and met `fault` in the place of its n-th move."""
    child = os.fork()
    if child == 0:
        replace, moves = Path.replace, iter(range(1, 1000))

        def counted(path, target):
            if next(moves) == n:
                fault()
            return replace(path, target)

        signal.signal(signal.SIGTERM, lambda *_: os._exit(3))
        Path.replace = counted
        try:
            publishing.publish(new)
            os._exit(0)
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_killed_evaluation_is_finished_by_the_next(stage, evaluations):
    whole = files(evaluations[1]) | {"zero/notes.txt": b"mine"}
    for n in MOVES:
        folder, new = stage(f"killed-{n}", DEAD)
        assert in_child(new, n, lambda: os.kill(os.getpid(), signal.SIGKILL)) == -signal.SIGKILL
        remove_leftovers(folder)  # as another command that writes there does
        assert new.is_dir()
        with pytest.raises(FileExistsError, match="of an earlier evaluation"):
            evaluate_data(["zero"], DATA, folder, Settings())
        assert files(folder) == whole and not list(folder.glob(".*"))
        assert not [path for path in folder.rglob("*") if path.is_dir() and not any(path.iterdir())]


def test_a_killed_evaluation_is_finished_where_methods_went(stage, evaluations):
    """The old evaluation's method and set aren't in the new one; the process is killed at last, while it tidies up."""
    for n in MOVES:
        folder, new = stage(f"other-{n}", DEAD)
        (folder / "zero" / "middlebury-train").rename(folder / "zero" / "sintel-final-train")
        record = (folder / "results.json").read_text().replace('"middlebury"', '"sintel-final"')
        (folder / "results.json").write_text(record)
        in_child(new, n, lambda: os.kill(os.getpid(), signal.SIGKILL))
        with pytest.raises(FileExistsError, match="of an earlier evaluation"):
            evaluate_data(["zero"], DATA, folder, Settings())
        assert files(folder) == files(evaluations[1]) | {"zero/notes.txt": b"mine"}
        assert not (folder / "zero" / "sintel-final-train").exists()
    folder, new = stage("tidying", DEAD)
    assert in_child(new, 10**6, lambda: None) == 0
    assert new.parent.is_dir()
    evaluate_data(["zero"], DATA, folder, Settings(worst=1, overwrite=True))
    assert not list(folder.glob(".*"))


def test_a_failing_disk_leaves_the_old_evaluation(stage, evaluations):
    def full():
        raise OSError(28, "No space left on device")

    for n in MOVES:
        folder, new = stage(f"full-{n}", publishing.owner())
        assert in_child(new, n, full) == 1
        assert files(new) == files(evaluations[1])
        shutil.rmtree(new.parent)  # as `staged` does
        assert files(folder) == files(evaluations[0])


def test_signals_wait_until_all_files_are_moved(stage, evaluations):
    for n in MOVES:
        folder, new = stage(f"signal-{n}", publishing.owner())
        assert in_child(new, n, lambda: os.kill(os.getpid(), signal.SIGTERM)) == 3
        shutil.rmtree(new.parent)
        assert files(folder) == files(evaluations[1]) | {"zero/notes.txt": b"mine"}


def test_of_a_link_only_the_link_goes(evaluations, tmp_path):
    mine, folder = tmp_path / "mine", shutil.copytree(evaluations[0], tmp_path / "out")
    pictures = folder / "zero" / "middlebury-train" / "worst"
    pictures.rename(mine)
    pictures.symlink_to(mine)
    before = files(mine)
    evaluate_data(["zero"], DATA, folder, Settings(worst=1, overwrite=True))
    assert files(mine) == before
    assert len(list(pictures.glob("*.png"))) == 1 and not pictures.is_symlink()


def test_two_processes_do_not_evaluate_into_one_folder(evaluations, tmp_path):
    folder = shutil.copytree(evaluations[0], tmp_path / "out")
    before = files(folder)
    with (
        holding(folder / LOCK) as process,
        pytest.raises(FileExistsError, match=rf"process {process} .*evaluating into"),
    ):
        evaluate_data(["zero"], DATA, folder, Settings(overwrite=True))
    assert files(folder) == before | {LOCK: files(folder)[LOCK]}
    evaluate_data(["zero"], DATA, folder, Settings(overwrite=True))
    assert not (folder / LOCK).exists()
