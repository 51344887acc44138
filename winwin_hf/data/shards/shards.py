"""A data set as a few large files that a cluster can stream: Parquet (the Hub's own form) or tar files (WebDataset).

Notable:
- A shard holds the bytes of the original files, so rows come back bit for bit. Only an entry of a file that holds many
  (`file.mat::17`) is unpacked: images and labels as PNG, flow and depth as .npy.
- Every row is decoded, from the bytes that are written, before it becomes part of a shard.
- Nothing has a final name before everything is written; `dataset.json` comes last and has each file's SHA-256, and without it
  a folder isn't opened. Shards are about equally large, since what streams them waits for the slowest.
- An interrupted run goes on where it was: a finished shard waits under a name that is the digest of its rows (names, formats,
  and each file's path, size and time of change) and is taken again only if its own SHA-256 is still the one noted then.
- The same rows make the same bytes, on any day (with the same version of pyarrow, for Parquet).

Files in the output folder:

    NAME-SPLIT-00000-of-00012.parquet (or .tar)
    README.md                  dataset card: `datasets.load_dataset(FOLDER)` reads by it
    dataset.json               what `shards_info` gives
    .NAME-SPLIT.writing/       finished shards of an unfinished run
"""

from __future__ import annotations

import glob
import hashlib
import io
import json
import math
import re
import shutil
import tarfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, TypeVar

import datasets
import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from tqdm import tqdm

from winwin_hf.data import formats
from winwin_hf.data.benchmarks.catalog import sliced
from winwin_hf.data.benchmarks.check import cells_of, paths_of, plain_reader, size_text
from winwin_hf.data.readers import examined
from winwin_hf.data.rows import COLUMNS, BrokenExample, undecoded
from winwin_hf.data.shards.card import card
from winwin_hf.task import TASKS, DataTask

Format = Literal["parquet", "webdataset"]
SUFFIXES: dict[str, str] = {"parquet": ".parquet", "webdataset": ".tar"}
SIDECAR = "dataset.json"
LAYOUT = 1  # of the shards; a change of what is written raises it
ROW_GROUP = 64 * 2**20  # bytes of files; a reader of Parquet holds one row group
OVERHEAD = 2048  # bytes a file at most: names, headers, padding
UNPACKED = 8 * 2**20  # bytes an entry of a file of many takes at most, by guess

# Suffixes that `load_dataset("webdataset")` would decode, and fail at: a Hypersim .h5 isn't an image.
NEUTRAL = {".h5": ".hdf5", ".hdf": ".hdf5", ".npz": ".zip", "": ".bin"}


# ---------------------------------------------------------------------------------------------------------------- writing


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
    Turns rows (of `rows.table`) into shards, a `dataset.json` and a dataset card.

    Args:
        output: a new or empty folder, or that of an interrupted run, which is gone on with.
        name, split: for the files' names and the card, as source (where the set comes from), terms (its licence) and labels
            (class names) are.
        format: "parquet", or "webdataset": tar files with `<key>.image1.png`, `<key>.flow.flo`, `<key>.json`.
        shard_size: bytes; shards are about equally large and on average at most this.
        multiple_of: make the number of shards a multiple of this (the number of training processes), if there are as many rows. Each
            process then reads shards of its own; else each would read all of them and keep its share of the rows.
        workers: threads that read and decode.
        progress: show a bar, on stderr.
        skip_broken: leave out rows with a missing or unreadable file, and note them in `dataset.json`.
    Returns: the shards' paths.
    Raises: BrokenExample for a missing or unreadable file; FileExistsError if the folder holds other shards; OSError if the disk
        has too little space; ValueError for rows that the format can't hold, or wrong arguments.
    """
    output = Path(output)
    _check_arguments(dataset, task, format, shard_size, multiple_of)
    stem = f"{_slug(name)}-{_slug(split)}"
    work = output / f".{stem}.writing"
    table = undecoded(dataset)
    reader = plain_reader(task, labels)
    settings = [LAYOUT, format, task, len(labels or ()), ROW_GROUP if format == "parquet" else 0]

    planned, skipped = _plan(table, task, format, skip_broken)
    parts = _cut(planned, shard_size, multiple_of)
    shards = [_Shard(_digest(settings, [row.digest for row in part]), part) for part in parts]
    _prepare(output, work)
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

    notes = [json.loads((work / f"{shard.digest}.json").read_text()) for shard in shards]
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
            key: sorted({kind for _, note in kept for kind in note["formats"][key]}) for key in kept[0][1]["formats"]
        },
        "skipped": skipped + [item for note in notes for item in note["skipped"]],
        "files": [
            {"file": file, **{key: note[key] for key in ("rows", "bytes", "sha256")}}
            for file, (_, note) in zip(names, kept, strict=True)
        ],
    }
    _commit(output, work, {file: shard.file(format) for file, (shard, _) in zip(names, kept, strict=True)}, info)
    return [output / file for file in names]


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


def _slug(text: str) -> str:
    """For file names: "train[:80%]" -> "train-80"."""
    return re.sub(r"[^A-Za-z0-9_]+", "-", text).strip("-") or "x"


@dataclass
class _Row:
    """What listing tells of a row. index: in the table. size: bytes of its files, of which there are `files`. digest: of its name,
    formats, and files."""

    index: int
    size: int
    files: int
    digest: str


@dataclass
class _Shard:
    digest: str
    rows: list[_Row]

    def file(self, format: str) -> str:
        return self.digest + SUFFIXES[format]

    def finished(self, work: Path, format: str, skip_broken: bool) -> bool:
        """Whether an earlier run has written it, of the very same rows, and nothing has changed it since."""
        path, note = work / self.file(format), work / f"{self.digest}.json"
        if not (path.is_file() and note.is_file()):
            return False
        noted = json.loads(note.read_text())
        return (skip_broken or not noted["skipped"]) and _sha256(path) == noted["sha256"]


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _plan(
    table: datasets.Dataset, task: DataTask, format: str, skip_broken: bool
) -> tuple[list[_Row], list[dict[str, str]]]:
    """What is to be written, and what is left out since a file isn't there. Looks at sizes and times only."""
    planned: list[_Row] = []
    skipped: list[dict[str, str]] = []
    layouts: dict[tuple[tuple[str, str], ...], str] = {}
    users: dict[str, int] = {}  # entries taken of a file of many
    for path in (path for row in table for path in paths_of(row, task) if "::" in path):
        users[path.partition("::")[0]] = users.get(path.partition("::")[0], 0) + 1
    for index, row in enumerate(table):
        try:
            with examined(row):
                sizes, marks = [], []
                for column in cells_of(task):
                    size, mark = _listed(row.get(column), users)
                    sizes.append(size)
                    marks.append(mark)
        except BrokenExample as error:
            if not skip_broken:
                raise
            skipped.append({"name": row["name"], "error": _private(str(error), row, task)})
            continue
        texts = [row.get(column) for column in COLUMNS[task] if column not in cells_of(task)]
        planned.append(_Row(index, sum(sizes), sum(mark is not None for mark in marks) + 1, _digest(texts, marks)))
        layout = tuple((column, _suffix(row[column], column, task)) for column in cells_of(task) if row.get(column))
        layouts.setdefault(layout, row["name"])
    if not planned:
        raise BrokenExample(f"all {len(table)} rows lack a file, such as {skipped[0]['error']}")
    if format == "webdataset" and len(layouts) > 1:
        (one, first), (other, second) = list(layouts.items())[:2]
        raise ValueError(
            f"{first} has {', '.join(map(''.join, one))} and {second} {', '.join(map(''.join, other))}: WebDataset's readers expect "
            "the same files in each example; expected rows that have, or the format parquet"
        )
    return planned, skipped


def _listed(cell: dict[str, Any] | None, users: dict[str, int]) -> tuple[int, list[Any] | None]:
    """(size in bytes, what would be different if the file were) of a cell. Raises OSError naming the file."""
    if cell is None:
        return 0, None
    if cell.get("bytes") is not None:
        return len(cell["bytes"]), [cell.get("path"), hashlib.sha256(cell["bytes"]).hexdigest()]
    path = cell.get("path")
    if not path:
        raise ValueError("an empty cell; expected a path or bytes")
    file = Path(path.partition("::")[0])
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    status = file.stat()
    size = min(status.st_size // users[str(file)], UNPACKED) if "::" in path else status.st_size
    return size, [path, status.st_size, status.st_mtime_ns]


def _suffix(cell: dict[str, Any], column: str, task: DataTask) -> str:
    """Of a tar's member, with the dot."""
    path = cell.get("path") or ""
    if "::" in path and cell.get("bytes") is None:
        return ".png" if column in (*TASKS[task].images, "label", "occluded") else ".npy"
    suffix = re.sub(r"[^a-z0-9.]", "_", PurePosixPath(path.replace("\\", "/")).suffix.lower())
    return {".jpeg": ".jpg", **NEUTRAL}.get(suffix, suffix)


def _cut(rows: list[_Row], shard_size: int, multiple_of: int) -> list[list[_Row]]:
    """Consecutive parts of about the same number of bytes, none empty."""
    ends = np.cumsum([max(row.size, 1) for row in rows])
    count = math.ceil(int(ends[-1]) / shard_size)
    count = min(-(-count // multiple_of) * multiple_of, len(rows))
    if count > multiple_of:
        count -= count % multiple_of
    middles = ends - np.diff(ends, prepend=0) / 2
    cuts = np.searchsorted(middles, ends[-1] * np.arange(1, count) / count).tolist()
    for k in range(count - 1):
        cuts[k] = max(cuts[k], cuts[k - 1] + 1 if k else 1)
    for k in reversed(range(count - 1)):
        cuts[k] = min(cuts[k], cuts[k + 1] - 1 if k + 1 < count - 1 else len(rows) - 1)
    return [rows[a:b] for a, b in zip([0, *cuts], [*cuts, len(rows)], strict=True)]


def _prepare(output: Path, work: Path) -> None:
    """Makes the folders; takes back what an earlier run had given a final name before it was interrupted. Raises FileExistsError."""
    moved = work / "commit.json"
    if moved.is_file() and not (output / SIDECAR).exists():
        for final, file in json.loads(moved.read_text()).items():
            if (output / final).is_file():
                (output / final).replace(work / file)
        (output / "README.md").unlink(missing_ok=True)
    if output.exists() and not output.is_dir():
        raise FileExistsError(f"{output} is a file; expected a folder for the shards")
    there = [output / SIDECAR, output / "README.md"] if output.is_dir() else []
    there = [path for path in there if path.exists()]
    there += sorted(path for suffix in SUFFIXES.values() for path in output.glob(f"*{suffix}"))
    if there:
        raise FileExistsError(
            f"{there[0]} is there already; expected a new or empty folder, of its own for each data set and split"
        )
    work.mkdir(parents=True, exist_ok=True)


def _check_space(output: Path, needed: int) -> None:
    free = shutil.disk_usage(output).free
    if needed > free:
        raise OSError(f"{output}: the shards need about {size_text(needed)}, its disk has {size_text(free)} free")


def _write_shard(
    shard: _Shard,
    table: datasets.Dataset,
    work: Path,
    task: DataTask,
    format: Format,
    reader: Any,
    workers: int,
    skip_broken: bool,
    bar: Any,
) -> None:
    """One shard and the note of what is in it, under their temporary names."""
    skipped: list[dict[str, str]] = []
    kinds: dict[str, set[str]] = {column: set() for column in COLUMNS[task] if column.endswith("_format")}

    def packed(row: dict[str, Any]) -> dict[str, Any] | BrokenExample:
        try:
            return _packed(row, task, reader)
        except BrokenExample as error:
            return error

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        listed = (table[row.index] for row in shard.rows)  # by this thread: a Dataset isn't made for several
        for row, result in zip(shard.rows, _in_order(packed, listed, workers), strict=True):
            bar.update(row.size)
            if isinstance(result, BrokenExample):
                if not skip_broken:
                    raise result
                original = table[row.index]
                skipped.append({"name": original["name"], "error": _private(str(result), original, task)})
                continue
            for column, seen in kinds.items():
                if result[column] is not None:
                    seen.add(result[column])
            yield row.index, result

    path = work / shard.file(format)
    with formats.write_atomic(path) as temporary:
        count = (_write_parquet if format == "parquet" else _write_tar)(temporary, rows(), task)
    note = {
        "sha256": _sha256(path),
        "bytes": path.stat().st_size,
        "rows": count,
        "formats": {column: sorted(seen) for column, seen in kinds.items()},
        "skipped": skipped,
    }
    _write_text(work / f"{shard.digest}.json", json.dumps(note))


Item = TypeVar("Item")
Made = TypeVar("Made")


def _in_order(function: Callable[[Item], Made], items: Iterable[Item], workers: int) -> Iterator[Made]:
    """map, by threads that are a few items ahead."""
    if workers < 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[Made]] = deque()
        try:
            for item in items:
                ahead.append(pool.submit(function, item))
                if len(ahead) > 2 * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _packed(row: dict[str, Any], task: DataTask, reader: Any) -> dict[str, Any]:
    """The row with all its columns, and in its cells the bytes of the files and their names without folders. Raises BrokenExample."""
    packed: dict[str, Any] = {column: row.get(column) for column in COLUMNS[task]}
    with examined(row):
        for column in cells_of(task):
            cell = row.get(column)
            if cell is None:
                packed[f"{column}_format"] = None
            elif cell.get("bytes") is None and "::" in cell["path"]:
                packed |= _unpacked(cell["path"], column, packed.get(f"{column}_format"))
            elif cell.get("bytes") is None:
                packed[column] = {"bytes": Path(cell["path"]).read_bytes(), "path": cell["path"]}
    reader.decode(packed)  # the very bytes; messages name the files by their whole paths
    for column in cells_of(task):
        if (cell := packed[column]) is not None:
            packed[column] = {
                "bytes": cell["bytes"],
                "path": PurePosixPath((cell["path"] or "").replace("\\", "/")).name or None,
            }
    return {column: packed[column] for column in COLUMNS[task]}


def _unpacked(path: str, column: str, kind: str | None) -> dict[str, Any]:
    """The columns of an entry of a file of many, as a file of its own. Lossless."""
    name = path.replace("::", "-")  # a name with :: would be taken for an entry again
    if column in ("flow", "depth"):
        values = (formats.decode_flow if column == "flow" else formats.decode_depth)(path, kind or "")
        content = io.BytesIO()
        np.save(content, values)
        return {column: {"bytes": content.getvalue(), "path": f"{name}.npy"}, f"{column}_format": "npy"}
    if column == "label":
        pixels, own = formats.decode_label(path, kind or ""), "ids"
    elif column == "occluded":
        pixels, own = formats.decode_mask(path, kind or "").astype(np.uint8) * 255, "png"
    else:
        pixels, own = formats.decode_image(path), None
    content = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(content, "png")
    columns: dict[str, Any] = {column: {"bytes": content.getvalue(), "path": f"{name}.png"}}
    return columns | ({f"{column}_format": own} if own else {})


def _private(message: str, row: dict[str, Any], task: DataTask) -> str:
    """A message without this machine's folders: it will be published with the shards."""
    for path in paths_of(row, task):
        message = message.replace(path, PurePosixPath(path.replace("\\", "/")).name)
    return message


def _write_parquet(path: Path, rows: Iterable[tuple[int, dict[str, Any]]], task: DataTask) -> int:
    """Gives the number of rows. The schema's metadata has the features, so `load_dataset` needs no help."""
    schema = COLUMNS[task].arrow_schema
    texts = [column for column in COLUMNS[task] if column not in cells_of(task)]
    count, size = 0, 0
    group: list[dict[str, Any]] = []
    options: dict[str, Any] = {"compression": "zstd", "use_dictionary": texts, "write_statistics": texts}
    with pq.ParquetWriter(path, schema, **options) as writer:
        for _, row in rows:
            extent = sum(len(row[column]["bytes"]) for column in cells_of(task) if row[column] is not None)
            if group and size + extent > ROW_GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema))
                size, group = 0, []
            group.append(row)
            size += extent
            count += 1
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema))
    return count


def _write_tar(path: Path, rows: Iterable[tuple[int, dict[str, Any]]], task: DataTask) -> int:
    """Gives the number of rows. One file a cell, and `<key>.json` with the columns of text and the files' own names."""
    count = 0
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for index, row in rows:
            key = f"{index:08d}-{_slug(row['name'])[:60]}"
            words: dict[str, Any] = {column: row[column] for column in COLUMNS[task] if column not in cells_of(task)}
            words["path"] = {column: row[column]["path"] for column in cells_of(task) if row[column] is not None}
            for column in words["path"]:
                _add_member(tar, f"{key}.{column}{_suffix(row[column], column, task)}", row[column]["bytes"])
            words = {column: value for column, value in words.items() if value is not None}
            _add_member(tar, f"{key}.json", json.dumps(words).encode())
            count += 1
    return count


def _add_member(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)  # its owner, time and mode are the same for everybody
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _write_text(path: Path, text: str) -> None:
    with formats.write_atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _commit(output: Path, work: Path, moves: dict[str, str], info: dict[str, Any]) -> None:
    """Gives everything its final name; dataset.json is the last."""
    _write_text(work / "commit.json", json.dumps(moves))
    for final, file in moves.items():
        (work / file).replace(output / final)
    _write_text(output / "README.md", card(info, SUFFIXES[info["format"]]))
    _write_text(output / SIDECAR, json.dumps(info, indent=2) + "\n")
    shutil.rmtree(work)


# ---------------------------------------------------------------------------------------------------------------- reading


def shards_info(path: str | Path) -> dict[str, Any]:
    """
    What `dataset.json` says of a folder of shards: name, task, split, format, labels (list or None), source, terms, rows, formats
    (values of each `*_format` column), skipped (name and error), files (file, rows, bytes, sha256).

    path: the folder, or an address that fsspec knows, such as hf://datasets/USER/NAME.
    Raises: FileNotFoundError where there is none; ValueError for one of another make.
    """
    try:
        with _opened(_join(path, SIDECAR)) as file:
            info = json.loads(file.read())
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path}: no {SIDECAR}; expected a folder that `winwin data shards` has finished"
        ) from None
    except ValueError as error:
        raise ValueError(f"{_join(path, SIDECAR)}: not readable ({error})") from None
    if not isinstance(info, dict) or info.get("layout") != LAYOUT or info.get("format") not in SUFFIXES:
        raise ValueError(
            f"{_join(path, SIDECAR)}: expected layout {LAYOUT} and the format {' or '.join(SUFFIXES)}; was it made by another version?"
        )
    return info


def open_shards(
    path: str | Path, streaming: bool = True, split: str | None = None
) -> datasets.Dataset | datasets.IterableDataset:
    """
    The rows of a folder of shards, as `rows.COLUMNS` has them, images undecoded; for `split_dataset_by_node` and a DataLoader.

    Shards are given to processes, then to their workers: a worker without a shard gets nothing (`datasets` warns), and processes
    that don't divide the number of shards each read all of them and keep their share of the rows.

    Args:
        streaming: False: a Dataset with random access, for which `datasets` copies everything into its cache.
        split: that of the shards, for a check; without streaming a part of it, as "train[:80%]".
    Raises: FileNotFoundError or ValueError for a folder that isn't complete, or another split.
    """
    info = shards_info(path)
    task = info["task"]
    if split is not None and split != info["split"] and split.partition("[")[0] != info["split"]:
        raise ValueError(f"{path}: holds the split {info['split']!r}, not {split!r}")
    part = split is not None and split != info["split"]
    if part and streaming:
        raise ValueError(f"split {split!r}: shards are streamed whole; expected {info['split']!r}, or streaming=False")
    files = [_join(path, file["file"]) for file in info["files"]]
    for file, noted in zip(files, info["files"], strict=True):
        if "://" not in file:
            extent = Path(file).stat().st_size if Path(file).is_file() else None
            if extent is None:
                raise FileNotFoundError(f"{file} is missing: {path} has {len(files)} files, by its {SIDECAR}")
            if extent != noted["bytes"]:
                raise ValueError(f"{file}: {extent} bytes; expected {noted['bytes']}, by the {SIDECAR} beside it")
    dataset: Any
    if info["format"] == "parquet":
        exact = [file if "://" in file else glob.escape(file) for file in files]  # `datasets` takes them for patterns
        dataset = undecoded(datasets.load_dataset("parquet", data_files=exact, split="train", streaming=streaming))
    else:
        columns = datasets.Features(
            {
                column: datasets.Image(decode=False) if isinstance(feature, datasets.Image) else feature
                for column, feature in COLUMNS[task].items()
            }
        )
        # the digests make the cache of another version of these files another one
        given = {"files": files, "digests": [file["sha256"] for file in info["files"]], "columns": tuple(columns)}
        kind = datasets.IterableDataset if streaming else datasets.Dataset
        dataset = kind.from_generator(_read_tars, features=columns, gen_kwargs=given)
    return sliced(dataset, f"train[{split.partition('[')[2]}") if part and split else dataset


def _join(path: str | Path, file: str) -> str:
    return f"{str(path).rstrip('/')}/{file}" if "://" in str(path) else str(Path(path) / file)


def _opened(path: str) -> Any:
    return fsspec.open(path, "rb") if "://" in path else Path(path).open("rb")


def _read_tars(files: list[str], digests: list[str], columns: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The rows of tar files, in order. Only reads ahead, so it serves for files that come over a network."""
    for file in files:
        with _opened(file) as opened, tarfile.open(fileobj=opened, mode="r|") as tar:
            contents: dict[str, bytes] = {}
            for member in tar:
                content = tar.extractfile(member)
                if content is None:
                    continue
                field = PurePosixPath(member.name).name.partition(".")[2]
                if field != "json":
                    contents[field.partition(".")[0]] = content.read()
                    continue
                words = json.loads(content.read())  # the last file of a row
                paths = words.pop("path")
                cells = {column: {"bytes": contents[column], "path": paths[column]} for column in paths}
                yield {column: cells.get(column, words.get(column)) for column in columns}
                contents = {}
