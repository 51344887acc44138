"""Writing a data set as a few large files that a cluster can stream (opening.py has the folder's layout).

Notable:
- Nothing gets its final name before everything is written; `dataset.json` comes last and has each file's SHA-256.
- Shards are about equally large, since what streams them waits for the slowest.
- An interrupted run continues where it was: its finished shards wait in `.NAME-SPLIT.writing/`.
- The same rows make the same bytes, on any day (with the same version of pyarrow, for Parquet).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import datasets
from tqdm import tqdm

from winwin_hf.data.ahead import in_order
from winwin_hf.data.formats.files import bytes_text, read_json, told_of, write_atomic
from winwin_hf.data.readers import plain_reader
from winwin_hf.data.rows import COLUMNS, BrokenExample, undecoded
from winwin_hf.data.shards.card import card
from winwin_hf.data.shards.opening import LAYOUT, SIDECAR, SUFFIXES, Format
from winwin_hf.data.shards.packing import ROW_GROUP, pack, write_parquet, write_tar
from winwin_hf.data.shards.planning import Shard, cut, digest_of, file_name_of, plan, without_folders
from winwin_hf.own_files import remove_tree, sha256_of, undisturbed
from winwin_hf.processes import locked
from winwin_hf.task import TASKS, DataTask

COMMIT = "commit.json"  # shard's last name -> its name while it is written; there while shards get their last names
OVERHEAD = 2048  # bytes a file at most: names, headers, padding


def write_shards(
    dataset: datasets.Dataset,
    output: str | Path,
    *,
    task: DataTask,
    name: str,
    split: str,
    format: Format = "parquet",
    shard_size: int = 500_000_000,
    labels: Sequence[str] | None = None,
    source: str = "",
    terms: str = "",
    multiple_of: int = 1,
    workers: int = 0,
    progress: bool = False,
    skip_broken: bool = False,
) -> list[Path]:
    """
    Writes rows (of `rows.table`) as shards, a `dataset.json` and a dataset card.

    Args:
        output: a new or empty folder, or that of an interrupted run, which is continued.
        name, split: for the files' names and the card.
        source, terms, labels: for the card: where the set comes from, its licence, its class names.
        format: "parquet", or "webdataset": tar files with `<key>.image1.png`, `<key>.flow.flo`, `<key>.json`.
        shard_size: largest mean size of a shard, bytes.
        multiple_of: make the number of shards a multiple of this (the number of training processes) if there are enough rows. Each
            process then reads its own shards; otherwise each would read all of them and keep its share of the rows.
        workers: number of threads that read and decode.
        progress: show a bar, on stderr.
        skip_broken: leave out rows with a missing or unreadable file, and list them in `dataset.json`.
    Returns: the shards' paths.
    Raises: BrokenExample for a missing or unreadable file; FileExistsError if the folder holds other shards, or another process
        writes into it; OSError if the disk has too little space; ValueError for rows that the format can't hold, or wrong arguments.
    """
    output = Path(output)
    _check_arguments(dataset, task, format, shard_size, multiple_of)
    check_shards_folder(output, name, split)
    stem, work = _names(output, name, split)
    table = undecoded(dataset)
    reader = plain_reader(task, labels)
    settings = [LAYOUT, format, task, len(labels or ()), ROW_GROUP if format == "parquet" else 0]

    planned, skipped = plan(table, task, format, skip_broken)
    parts = cut(planned, shard_size, multiple_of)
    shards = [Shard(digest_of(settings, [row.digest for row in part]), part) for part in parts]
    with _working(output, work, name, split):
        wanted = {shard.file(format) for shard in shards} | {f"{shard.digest}.json" for shard in shards}
        for path in work.iterdir():
            if path.name not in wanted:
                path.unlink()
        todo = [shard for shard in shards if not shard.finished(work, format, skip_broken)]
        _check_space(output, sum(row.size + row.files * OVERHEAD for shard in todo for row in shard.rows))

        total = sum(row.size for shard in shards for row in shard.rows)
        done = total - sum(row.size for shard in todo for row in shard.rows)
        with tqdm(total=total, initial=done, desc=stem, unit="B", unit_scale=True, disable=not progress) as bar:
            for shard in todo:
                _write_shard(shard, table, work, task, format, reader, workers, skip_broken, bar)

        notes = [read_json(work / f"{shard.digest}.json") for shard in shards]
        kept = [(shard, note) for shard, note in zip(shards, notes, strict=True) if note["rows"]]
        if not kept:
            raise BrokenExample(
                f"all {len(dataset)} rows are broken, such as {(skipped or notes[0]['skipped'])[0]['error']}"
            )
        names = [f"{stem}-{k:05d}-of-{len(kept):05d}{SUFFIXES[format]}" for k in range(len(kept))]
        info = {
            "layout": LAYOUT,
            "name": name,
            "task": task,
            "split": split,
            "format": format,
            "labels": list(labels) if labels else None,
            "source": source,
            "terms": terms,
            "rows": sum(note["rows"] for _, note in kept),
            "formats": {
                key: sorted({kind for _, note in kept for kind in note["formats"][key]})
                for key in kept[0][1]["formats"]
            },
            "skipped": skipped + [item for note in notes for item in note["skipped"]],
            "files": [
                {"file": file, **{key: note[key] for key in ("rows", "bytes", "sha256")}}
                for file, (_, note) in zip(names, kept, strict=True)
            ],
        }
        _commit(output, work, {file: shard.file(format) for file, (shard, _) in zip(names, kept, strict=True)}, info)
        return [output / file for file in names]


def check_shards_folder(output: str | Path, name: str, split: str) -> None:
    """
    Raises FileExistsError where `write_shards` can't write into the folder, before anything is read or rendered for it.

    What a run that was killed after its last shard left of its work is removed.
    """
    output = Path(output)
    work = _names(output, name, split)[1]
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is a file; expected a folder for the shards")
    if (output / SIDECAR).exists():  # comes last
        remove_tree(work, ignore_errors=True)
    elif (work / COMMIT).is_file():
        return  # an interrupted run's, which are taken back
    there = [output / SIDECAR, output / "README.md"] if output.is_dir() else []
    there = [path for path in there if path.exists()]
    there += sorted(path for suffix in SUFFIXES.values() for path in output.glob(f"*{suffix}"))
    if there:
        raise FileExistsError(
            f"{there[0]} is there already; expected a new or empty folder for each data set and split, or that of an interrupted run"
        )


def _names(output: Path, name: str, split: str) -> tuple[str, Path]:
    """What the shards' names begin with, and the folder in which they are written."""
    stem = f"{file_name_of(name)}-{file_name_of(split)}"
    return stem, output / f".{stem}.writing"


@contextmanager
def _working(output: Path, work: Path, name: str, split: str) -> Iterator[None]:
    """Prepares the folders, for this process alone; where the work fails before a shard is finished, empty ones are removed again."""
    try:
        with locked(output, "writing shards into it", stays=False):
            try:
                _prepare(output, work)
                check_shards_folder(output, name, split)
                with told_of(output, reads=True):
                    yield
            finally:
                with suppress(OSError):
                    work.rmdir()
    finally:
        with suppress(OSError):
            output.rmdir()


def _check_arguments(dataset: Any, task: str, format: str, shard_size: int, multiple_of: int) -> None:
    if task not in COLUMNS:
        raise ValueError(f"task {task!r}: expected {' or '.join(COLUMNS)}")
    if format not in SUFFIXES:
        raise ValueError(f"format {format!r}: expected {' or '.join(SUFFIXES)}")
    if shard_size < 1 or multiple_of < 1:
        raise ValueError(f"shard_size and multiple_of must be positive, got {shard_size} and {multiple_of}")
    if not isinstance(dataset, datasets.Dataset):
        raise ValueError(f"shards are made of a datasets.Dataset of rows, got a {type(dataset).__name__}")
    lacking = [column for column in ("name", *TASKS[task].images) if column not in dataset.column_names]
    if lacking or not len(dataset):
        raise ValueError(
            f"shards of {task} need rows with {', '.join(COLUMNS[task])}; got {len(dataset)} rows"
            + (f" without {', '.join(lacking)}" if lacking else "")
        )


def _prepare(output: Path, work: Path) -> None:
    """Makes the folders; moves shards back to `work` if a run was interrupted while it gave them final names."""
    moved = work / COMMIT
    if moved.is_file() and not (output / SIDECAR).exists():
        for final, file in read_json(moved).items():
            if (output / final).is_file():
                (output / final).replace(work / file)
        (output / "README.md").unlink(missing_ok=True)
        moved.unlink()
    work.mkdir(parents=True, exist_ok=True)


def _check_space(output: Path, needed: int) -> None:
    free = shutil.disk_usage(output).free
    if needed > free:
        raise OSError(f"{output}: the shards need about {bytes_text(needed)}, its disk has {bytes_text(free)} free")


def _write_shard(
    shard: Shard,
    table: datasets.Dataset,
    work: Path,
    task: DataTask,
    format: Format,
    reader: Any,
    workers: int,
    skip_broken: bool,
    bar: Any,
) -> None:
    """Writes one shard and a note of its contents, under their temporary names."""
    skipped: list[dict[str, str]] = []
    kinds: dict[str, set[str]] = {column: set() for column in COLUMNS[task] if column.endswith("_format")}

    def packed_or_error(row: dict[str, Any]) -> dict[str, Any] | BrokenExample:
        try:
            return pack(row, task, reader)
        except BrokenExample as error:
            return error

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        listed = (table[row.index] for row in shard.rows)  # in this thread: a Dataset isn't thread-safe
        for row, result in zip(shard.rows, in_order(packed_or_error, listed, workers), strict=True):
            bar.update(row.size)
            if isinstance(result, BrokenExample):
                if not skip_broken:
                    raise result
                original = table[row.index]
                skipped.append({"name": original["name"], "error": without_folders(str(result), original, task)})
                continue
            for column, seen in kinds.items():
                if result[column] is not None:
                    seen.add(result[column])
            yield row.index, result

    path = work / shard.file(format)
    with write_atomic(path) as temporary:
        count = (write_parquet if format == "parquet" else write_tar)(temporary, rows(), task)
    note = {
        "sha256": sha256_of(path),
        "bytes": path.stat().st_size,
        "rows": count,
        "formats": {column: sorted(seen) for column, seen in kinds.items()},
        "skipped": skipped,
    }
    _write_text(work / f"{shard.digest}.json", json.dumps(note))


def _write_text(path: Path, text: str) -> None:
    with write_atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _commit(output: Path, work: Path, moves: dict[str, str], info: dict[str, Any]) -> None:
    """Gives the shards their final names, then writes the card and dataset.json."""
    _write_text(work / COMMIT, json.dumps(moves))
    for final, file in moves.items():
        (work / file).replace(output / final)
    _write_text(output / "README.md", card(info, SUFFIXES[info["format"]]))
    with undisturbed():
        _write_text(output / SIDECAR, json.dumps(info, indent=2) + "\n")
        remove_tree(work)
