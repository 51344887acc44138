"""How the files of an evaluation come into its folder: all of them or none, in the place of an earlier evaluation's.

Notable:
- results.json lies in the folder only while all other files there are those of one evaluation: it goes first and comes last.
- a process that is killed while it moves files leaves the rest under a temporary name; the next evaluation of the folder moves them first
  (`finish_killed`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from winwin_hf.data.formats.files import (
    NEW,
    REPLACED,
    leftovers,
    owner,
    read_text,
    remove_leftovers,
    told_of,
)
from winwin_hf.evaluation import report, worst
from winwin_hf.evaluation.report import RESULTS
from winwin_hf.own_files import check_held, made_folder, remove_tree, undisturbed
from winwin_hf.processes import locked

CLEARED = "cleared"  # in the temporary folder: an empty file, once all of the earlier evaluation's are in REPLACED


def refuse_others(folder: Path, overwrite: bool) -> None:
    """Raises FileExistsError where a file that an evaluation writes is there, and no evaluation's, or one's that isn't to be replaced."""
    results, page = folder / RESULTS, folder / worst.PAGE
    if results.is_file() and not report.is_ours(results):
        raise FileExistsError(f"{results} is of another program, and would be replaced; expected another folder")
    if results.is_file() and not overwrite:
        raise FileExistsError(f"{results} is of an earlier evaluation; expected another folder, or --overwrite")
    if page.is_file() and not read_text(page, "replace").startswith(worst.HEAD):
        raise FileExistsError(f"{page} is of another program, and would be replaced; expected another folder")


@contextmanager
def staged(folder: Path | None, accelerator: Accelerator) -> Iterator[Path | None]:
    """Yields a new folder within `folder` to write to, the same in all processes; removes it at the end, and `folder` if it is empty
    and wasn't there."""
    if folder is None:
        yield None
        return
    names: list[str | None] = [None]
    with ExitStack() as stack:
        try:
            with told_of(folder, reads=True):
                if accelerator.is_main_process:
                    stack.enter_context(made_folder(folder))
                    stack.enter_context(locked(folder, "evaluating into it", stays=False))
                    remove_leftovers(folder)
                    names = [tempfile.mkdtemp(prefix=f".evaluation-{owner()}", dir=folder)]
                    (Path(str(names[0])) / NEW).mkdir()
                broadcast_object_list(names)
                yield Path(str(names[0])) / NEW
        finally:
            with undisturbed():
                if accelerator.is_main_process and names[0] is not None:
                    remove_tree(Path(names[0]), ignore_errors=True)
                stack.close()


def finish_killed(folder: Path) -> None:
    """Moves what an evaluation that was killed while it moved its files had still to move."""
    for temporary, _ in leftovers(folder):
        if (temporary / REPLACED).is_dir():
            refuse_others(folder, overwrite=True)
            with locked(folder, "evaluating into it", stays=False):
                if (temporary / NEW / RESULTS).is_file():  # which is moved last
                    publish(temporary / NEW)
                remove_tree(temporary, ignore_errors=True)


def publish(new: Path) -> None:
    """
    Moves all files of a folder of `staged` to the evaluation's; where that fails, the earlier evaluation's files lie where they were.

    What an earlier evaluation wrote goes, submissions excepted; other files stay, and a link in the place of a folder goes, not what it
    leads to. Signals wait until the end.
    """
    temporary, folder = new.parent, new.parent.parent
    check_held(folder)
    replaced, cleared = temporary / REPLACED, temporary / CLEARED
    moved: list[tuple[Path, Path]] = []

    def move(source: Path, target: Path) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        moved.append((source, target))

    with undisturbed():
        try:
            replaced.mkdir(exist_ok=True)
            if not cleared.exists():
                for path in _earlier_files(folder, replaced, new):
                    move(path, replaced / path.relative_to(folder))
                cleared.touch()
            files = [path for path in new.rglob("*") if path.is_file()]
            for path in sorted(files, key=lambda path: path == new / RESULTS):
                move(path, folder / path.relative_to(new))
        except BaseException:
            for source, target in reversed(moved):
                source.parent.mkdir(parents=True, exist_ok=True)
                target.replace(source)
            raise
        finally:
            cleared_folders = [
                path for path in replaced.rglob("*") if path.is_dir()
            ]  # by this process or by a killed one
            places = {folder / path.relative_to(replaced) for path in cleared_folders}
            places |= {place for pair in moved for path in pair for place in path.parents if folder in place.parents}
            for place in sorted(places, key=lambda place: -len(place.parts)):
                with suppress(OSError):  # not empty, or not there
                    place.rmdir()


def _earlier_files(folder: Path, replaced: Path, new: Path) -> Iterator[Path]:
    """results.json and all other files of an earlier evaluation, and links where folders of the new one come."""
    results, page = folder / RESULTS, folder / worst.PAGE
    written = report.lines_of(new / RESULTS)
    earlier = {line for path in (replaced / RESULTS, results) if path.is_file() for line in report.lines_of(path)}
    yield from (path for path in (results, page) if path.is_file())
    for method, data, split in earlier | written:
        place = folder / report.folder_name(method) / report.folder_name(f"{data}-{split}")
        chain = (place.parent, place, place / "worst")
        if links := [part for part in chain if part.is_symlink()]:
            if (method, data, split) in written:
                yield links[0]
            continue
        for file in (place / "images.csv", *chain[-1].glob("*.png")):
            if file.is_file() and (file.suffix == ".csv" or worst.NAME.fullmatch(file.name)):
                yield file
