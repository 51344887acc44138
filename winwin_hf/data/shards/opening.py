"""Opening a folder of shards, streamed or with random access.

Files in the folder:

    NAME-SPLIT-00000-of-00012.parquet (or .tar)
    README.md                  dataset card, by which `datasets.load_dataset(FOLDER)` reads
    dataset.json               what `shards_info` returns; it is written last, and without it a folder isn't opened
    .NAME-SPLIT.writing/       finished shards of an unfinished run
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Literal

import datasets

from winwin_hf.data.benchmarks.catalog import sliced
from winwin_hf.data.formats.files import read_bounded
from winwin_hf.data.places import is_remote, joined, open_binary, plain
from winwin_hf.data.rows import COLUMNS, BrokenExample, own_files_only
from winwin_hf.data.shards.cached import CACHE_GB, TRACKS, CachedShards
from winwin_hf.data.shards.reading import read_shards
from winwin_hf.redaction import redact

Format = Literal["parquet", "webdataset"]
SUFFIXES: dict[str, str] = {"parquet": ".parquet", "webdataset": ".tar"}
SIDECAR = "dataset.json"
MAX_ROWS = 10**8  # of a shard
LAYOUT = 1  # version of what is written


def shards_info(path: str | Path) -> dict[str, Any]:
    """
    The contents of a folder's `dataset.json`: name, task, split, format, labels (list or None), source, terms, rows, formats
    (values of each `*_format` column), skipped (name and error), files (file, rows, bytes, sha256).

    Args:
        path: the folder, or an address that fsspec knows, such as hf://datasets/USER/NAME.
    Raises: FileNotFoundError where there is none; ValueError for another layout.
    """
    path = plain(str(path))
    if not is_remote(path) and Path(path).is_file():
        raise NotADirectoryError(f"{path}: a file; expected a folder that `winwin data shards` has finished")
    try:
        with open_binary(joined(str(path), SIDECAR)) as file:
            info = json.loads(read_bounded(file))
    except FileNotFoundError as error:  # fsspec raises it too where a server can't be reached
        reason = f" ({error})" if is_remote(str(path)) else ""
        raise FileNotFoundError(
            f"{redact(str(path))}: no {SIDECAR}{reason}; expected a folder that `winwin data shards` has finished"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{joined(str(path), SIDECAR)}: not readable ({error})") from None
    if not isinstance(info, dict) or info.get("layout") != LAYOUT or str(info.get("format")) not in SUFFIXES:
        raise ValueError(
            f"{joined(str(path), SIDECAR)}: expected layout {LAYOUT} and the format {' or '.join(SUFFIXES)}; was it made by another "
            "version?"
        )
    _check_described(info, joined(str(path), SIDECAR))
    return info


def _check_described(info: dict[str, Any], where: str) -> None:
    """Raises ValueError, naming the field, for a description that `winwin data shards` can't have written."""

    def is_text(value: Any) -> bool:
        return isinstance(value, str)

    def is_file(value: Any) -> bool:
        if not isinstance(value, dict) or not all(is_text(value.get(key)) for key in ("file", "sha256")):
            return False
        numbers = [value.get("rows"), value.get("bytes")]
        counted = all(
            type(number) is int and 0 < number <= most for number, most in zip(numbers, (MAX_ROWS, 2**50), strict=True)
        )
        plain = not re.search(r"[/\\]", value["file"]) and value["file"] not in ("", ".", "..")
        return counted and plain and re.fullmatch("[0-9a-f]{64}", value["sha256"]) is not None

    def are_different(files: list[dict[str, Any]]) -> bool:
        return len({file["file"] for file in files}) == len(files)

    def total(files: Any) -> int:
        return sum(file["rows"] for file in files if is_file(file)) if isinstance(files, list) else 0

    labels, files = info.get("labels"), info.get("files")
    expected = {
        "name": (is_text(info.get("name")), "a text"),
        "split": (is_text(info.get("split")), "a text"),
        "task": (is_text(info.get("task")) and info["task"] in COLUMNS, " or ".join(COLUMNS)),
        "labels": (labels is None or (isinstance(labels, list) and all(map(is_text, labels))), "class names, or null"),
        "files": (
            isinstance(files, list) and bool(files) and all(map(is_file, files)) and are_different(files),
            "file, rows, bytes and sha256 of each shard, once",
        ),
        "rows": (type(info.get("rows")) is int and info["rows"] == total(files), "as many as its files have"),
    }
    for field, (right, what) in expected.items():
        if not right:
            wrong = info.get(field)
            if field == "files" and isinstance(files, list):
                wrong = next((file for file in files if not is_file(file)), files)
            raise ValueError(
                f"{where}: {field} has {str(wrong)[:200]}; expected {what}, as `winwin data shards` writes it"
            )


def check_shards(path: str | Path, info: dict[str, Any]) -> None:
    """
    Raises FileNotFoundError where a shard of the folder `path` is missing; BrokenExample where one isn't as long as `info` says, or
    where there is another one.
    """
    for noted in info["files"]:
        file = Path(path) / noted["file"]
        if file.parent != Path(path) or not file.is_file():
            raise FileNotFoundError(f"{file} is missing: {path} has {len(info['files'])} files, by its {SIDECAR}")
        if file.stat().st_size != noted["bytes"]:
            raise BrokenExample(
                f"{file}: {file.stat().st_size} bytes; expected {noted['bytes']}, by the {SIDECAR} beside it"
            )
    known = {noted["file"] for noted in info["files"]}
    for file in sorted(Path(path).glob(f"*{SUFFIXES[info['format']]}")):
        if file.name not in known and not file.name.startswith("."):
            raise BrokenExample(f"{file}: isn't in the {SIDECAR} beside it; expected the shards alone that it names")


def open_shards(
    path: str | Path,
    streaming: bool = True,
    split: str | None = None,
    cached: bool | None = None,
    cache: str | None = None,
    cache_gb: float = CACHE_GB,
    tracks: int = TRACKS,
) -> datasets.Dataset | datasets.IterableDataset | CachedShards:
    """
    The rows of a folder of shards, as `rows.COLUMNS` has them, images undecoded; for `split_dataset_by_node` and a DataLoader.

    Streamed without a cache, shards are divided among processes, then among their workers. A worker without a shard reads nothing
    (`datasets` warns). If the number of processes doesn't divide the number of shards, each process reads all shards and keeps its share
    of the rows.

    Args:
        path: as in `shards_info`.
        streaming: False: a Dataset with random access, for which `datasets` copies everything into its cache.
        split: the shards' own, to check it; without streaming and cache also a part of it, as "train[:80%]".
        cached: shards are copied as they are needed, and read by the numbers of their rows, whatever `streaming` says. None: where
            `path` is an address that would be streamed.
        cache, cache_gb: the folder of copies, which all processes of a machine may share, and its size. Default folder: in the cache of
            `datasets`.
        tracks: see `CachedShards`.
    Raises: FileNotFoundError or ValueError for an incomplete folder, another split or no track.
    """
    path = plain(str(path))
    info = shards_info(path)
    own = info["split"]
    part = split if split not in (None, own, own.partition("[")[0]) else None
    if part is not None and part.partition("[")[0] != own:
        raise ValueError(f"{redact(path)}: holds the split {own!r}, not {split!r}; expected split {own}")
    if cached is None:
        cached = streaming and is_remote(path)
    if part is not None and (streaming or cached):
        raise ValueError(
            f"{redact(path)}: split {split!r}: shards are streamed and cached whole; expected {own!r}, or the options streaming: false "
            "and cached: false"
        )
    if not is_remote(path):
        check_shards(path, info)
    if cached:
        folder = Path(cache).expanduser() if cache else Path(datasets.config.HF_DATASETS_CACHE) / "winwin-shards"
        return CachedShards(str(path), info, folder, cache_gb, tracks)
    columns = datasets.Features(
        {
            column: datasets.Image(decode=False) if isinstance(feature, datasets.Image) else feature
            for column, feature in COLUMNS[info["task"]].items()
        }
    )
    given = {
        "files": [joined(str(path), file["file"]) for file in info["files"]],
        "digests": [file["sha256"] for file in info["files"]],
        "counts": [file["rows"] for file in info["files"]],
        "columns": tuple(columns),
        "format": info["format"],
    }
    # `datasets`' own reader of Parquet names no file, compares nothing, and waits 5 s at the end of each epoch.
    kind: Any = datasets.IterableDataset if streaming else datasets.Dataset
    try:
        dataset = kind.from_generator(read_shards, features=columns, gen_kwargs=given)
    except datasets.exceptions.DatasetGenerationError as error:  # which says nothing of what it comes from
        raise (error.__cause__ or error) from error
    dataset = own_files_only(dataset, info["task"], ())
    return sliced(dataset, f"train[{part.partition('[')[2]}") if part else dataset
