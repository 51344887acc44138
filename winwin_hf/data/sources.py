"""Opens a recipe's data set with its reader and labels: local folders, shards, the Hub and synthetic scenes behind one interface."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import datasets
from huggingface_hub import HfApi, constants
from huggingface_hub.file_download import repo_folder_name
from pydantic import Field

from winwin_hf.checked import build, plain_yaml
from winwin_hf.data.augmentation import FlowAugmentation, ImageAugmentation
from winwin_hf.data.benchmarks import catalog
from winwin_hf.data.benchmarks.entry import DataSet
from winwin_hf.data.formats.files import read_text
from winwin_hf.data.merging import Classes, merge_table
from winwin_hf.data.readers import DepthReader, FlowReader, SegmentationReader
from winwin_hf.data.rows import COLUMNS, own_files_only, undecoded
from winwin_hf.data.sample import Reader
from winwin_hf.data.shards import CACHE_GB, MOST_TRACKS, TRACKS, CachedShards, open_shards, shards_info
from winwin_hf.data.synthetic.rooms import RoomSettings, SyntheticDepth
from winwin_hf.data.synthetic.scenes import SyntheticFlow, scene_seed, scene_stream
from winwin_hf.data.synthetic.settings import SceneSettings
from winwin_hf.data.worlds.kinds import CLASSES
from winwin_hf.data.worlds.reader import SyntheticWorlds
from winwin_hf.data.worlds.settings import WorldSettings
from winwin_hf.downloads import checked_downloads
from winwin_hf.model.hub_files_winwin import optional_file
from winwin_hf.model.weights_winwin import reason_of
from winwin_hf.task import TASKS, DataTask

WORLDS = "synthetic-worlds"
HELD_OUT = 1_000_003  # added to the seeds of held-out scenes and textures
SYNTHETIC: dict[str, tuple[DataTask, Any, Any]] = {  # task, settings and reader
    "synthetic-flow": ("optical-flow", SceneSettings, SyntheticFlow),
    "synthetic-depth": ("depth-estimation", RoomSettings, SyntheticDepth),
    WORLDS: ("optical-flow", WorldSettings, SyntheticWorlds),  # or what its settings say
}
OTHERS = (*SYNTHETIC, "shards", "hub")


@dataclass
class Source:
    """
    dataset: examples, undecoded. reader: example -> Sample. labels: class names (segmentation only).
    entry: the catalogue's, of a catalogued set. missing: paths of files that left-out examples lack.
    at: number -> example, of endless sets. groups: of merged classes, see merging.py.
    """

    name: str
    task: DataTask
    dataset: datasets.Dataset | datasets.IterableDataset | CachedShards
    reader: Reader
    labels: tuple[str, ...] | None = None
    entry: DataSet | None = None
    missing: tuple[str, ...] = ()
    at: Callable[[int], dict[str, Any]] | None = None
    groups: list[tuple[int, ...]] = field(default_factory=list)

    def merge(self, labels: list[str], classes: Classes, groups: list[tuple[int, ...]]) -> None:
        """Takes other classes for its own, see `merge_table`, which raises ValueError."""
        if self.labels is None:
            raise ValueError(f"{self.name} has no classes to merge; expected sets for semantic segmentation")
        self.reader.table = merge_table(self.labels, labels, classes, groups)  # type: ignore[attr-defined]
        self.labels = tuple(labels)

    def examples(self, length: int | None = None, rank: int = 0, world: int = 1) -> Iterator[dict[str, Any]]:
        """Every `world`-th example from `rank` on, of the first `length`; each with its "index"."""
        if not isinstance(self.dataset, datasets.IterableDataset):
            for index in range(rank, min(len(self.dataset), length or len(self.dataset)), world):
                yield {"index": index, **self.dataset[index]}
            return
        for index, example in enumerate(self.dataset):
            if length is not None and index >= length:
                return
            if index % world == rank:
                yield {"index": index, **example}

    def __len__(self) -> int:
        return len(self.dataset)


@dataclass
class HubOptions:
    """How a data set of the Hub, or any that `load_dataset` opens, becomes rows: the `options` of "hub" in a recipe."""

    task: Annotated[DataTask, Field(description="What its targets are.")]
    columns: Annotated[
        dict[str, str] | None,
        Field(
            description='Our column -> its column, where the names differ ("image1", "image2", "flow", "image", '
            '"depth", "label").'
        ),
    ] = None
    format: Annotated[
        str | None,
        Field(description='How the target is stored, as in `*_format` of the rows ("flo", "png:1000", "ids", ...).'),
    ] = None
    names: Annotated[list[str] | None, Field(description="Class names.")] = None
    config: Annotated[str | None, Field(description="`name` of `load_dataset`.")] = None
    revision: Annotated[str | None, Field(description="`revision` of `load_dataset`.")] = None
    data_files: Annotated[Any, Field(description="`data_files` of `load_dataset`.")] = None
    streaming: Annotated[
        bool, Field(description="Read examples as they are needed instead of downloading the set first.")
    ] = True


@dataclass
class ShardOptions:
    """How shards are read: the `options` of "shards" in a recipe, see `open_shards`."""

    streaming: Annotated[
        bool,
        Field(
            description="Read shards as they are needed instead of copying the whole set into the cache of `datasets`."
        ),
    ] = True
    cached: Annotated[
        bool | None,
        Field(
            description="Copy shards to this machine's disk as they are needed, and read them in an order that resumes exactly without "
            "skipping. Default: where the path is an address."
        ),
    ] = None
    cache: Annotated[
        str | None,
        Field(description="Folder of the copies, for all processes of a machine. Default: in the cache of `datasets`."),
    ] = None
    cache_gb: Annotated[float, Field(description="What the copies may take of the disk.", gt=0, le=1e9)] = CACHE_GB
    tracks: Annotated[
        int,
        Field(
            description="Shards that are read at the same time: more mix an epoch better. A multiple of the number of processes, so that "
            "each shard comes to one machine.",
            ge=1,
            le=MOST_TRACKS,
        ),
    ] = TRACKS
    split: Annotated[str | None, Field(description="The shards' own, to check it.")] = None


def check_set(
    name: str,
    split: str | None = None,
    settings: dict[str, Any] | None = None,
    options: dict[str, Any] | None = None,
) -> None:
    """Raises ValueError for arguments of `open_source` that are wrong whatever the set's files hold; none is looked at."""
    settings, options = settings or {}, options or {}
    if name in SYNTHETIC:
        if split not in (None, "train", "val", "test"):
            raise ValueError(f"split {split!r} of {name}, whose scenes have no end; expected train, val or test")
        if options:
            raise ValueError(f"options of {name}: unknown {', '.join(options)}; expected none, but settings")
        build(SYNTHETIC[name][1], settings, f"settings of {name}")
    elif name == "shards":
        build(ShardOptions, options, "options of shards")
    elif name == "hub":
        build(HubOptions, options, "options of hub")
    else:
        entry = catalog.entry_of(name)
        catalog.check_split(name, split or entry.scored)
        catalog.check_options(name, options)
        _augmentation(entry.task, settings)


def files_of_scenes(path: str | None) -> str | None:
    """The folder of a synthetic set's photographs or meshes: None also for "none", since a command line can't leave it out."""
    return None if path == "none" else path


def open_source(
    name: str,
    path: str | None = None,
    split: str = "train",
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    length: int | None = None,
    num_shards: int = 1,
    options: dict[str, Any] | None = None,
    augment: bool = False,
    skip_broken: bool = False,
) -> Source:
    """
    Opens one data set.

    Args:
        name: a catalogued set (`winwin data list`), one of `SYNTHETIC`, "shards" (made by `winwin data shards`) or "hub".
        path: its folder; for the Hub the repository; for synthetic scenes a folder of photographs, for worlds of meshes, or None or
            "none".
        split: "train" or a held-out one; "train[:80%]" is a part. Of shards: the one that they were made of.
        settings: fields of SceneSettings, RoomSettings, WorldSettings, FlowAugmentation or ImageAugmentation.
        seed, length, num_shards: of the synthetic stream alone; see `scene_stream`.
        options: fields of `HubOptions` or `ShardOptions`, or the keywords of a catalogued set's function.
        augment: augment with the default settings where none are given.
        skip_broken: leave out examples that lack a file.
    Raises: ValueError for an unknown name, split or option; FileNotFoundError for a folder without the expected files.
    """
    options = options or {}
    check_set(name, split, settings, options)
    if name in SYNTHETIC:
        task, kind, scenes = SYNTHETIC[name]
        path = files_of_scenes(path)
        photographs = {"textures": path} if path and name != WORLDS else {}
        scene = build(kind, {**photographs, **(settings or {})}, f"settings of {name}")
        if split != "train":
            seed, scene = seed + HELD_OUT, scene.held_out(HELD_OUT)
        stream = scene_stream(seed, num_shards, length)
        if name == WORLDS:
            classes = CLASSES if scene.task == "semantic-segmentation" else None
            worlds = SyntheticWorlds(scene, path)
            return Source(name, scene.task, stream, worlds, classes, at=partial(_scene, seed, num_shards))
        return Source(name, task, stream, scenes(scene), at=partial(_scene, seed, num_shards))
    if length is not None:
        raise ValueError(
            f"length={length}: for synthetic scenes; {name} has examples of its own, of which 'train[:100]' is a part"
        )
    if path is None:
        raise ValueError(f"data set {name!r} needs a path: the folder it was unpacked to, or the Hub's repository")
    if name == "hub":
        return _hub(path, split, settings, augment, build(HubOptions, options, "options of hub"))
    if name == "shards":
        info = shards_info(path)
        dataset = open_shards(path, **vars(build(ShardOptions, {"split": split, **options}, "options of shards")))
        labels = tuple(info["labels"]) if info.get("labels") else None
        entry = catalog.SETS.get(info["name"])
        return Source(
            info["name"],
            info["task"],
            dataset,
            make_reader(path, info["task"], settings, augment, labels),
            labels,
            entry,
        )
    entry = catalog.entry_of(name)
    found = catalog.find(name, path, split, **options)
    dataset = undecoded(catalog.table_of(found, name, path, split, skip_broken))
    labels = catalog.labels_of(name, path)
    reader = make_reader(path, entry.task, settings, augment, labels)
    return Source(name, entry.task, dataset, reader, labels, entry, tuple(found.missing))


def make_reader(
    path: str | Path,
    task: DataTask,
    settings: dict[str, Any] | None,
    augment: bool,
    labels: tuple[str, ...] | None,
    format: str | None = None,
) -> Reader:
    """The task's reader; with an augmentation if there are settings, or by the default ones if `augment`."""
    augmentation: Any = _augmentation(task, settings or {}) if settings or augment else None
    if task == "optical-flow":
        return FlowReader(augmentation, format)
    if task == "depth-estimation":
        return DepthReader(augmentation, format=format)
    if not labels:
        raise ValueError(
            f"{path}: segmentation needs its class names: a catalogued set's, a names.txt, or the option names"
        )
    return SegmentationReader(len(labels), augmentation, format or "ids")


def _augmentation(task: DataTask, settings: dict[str, Any]) -> FlowAugmentation | ImageAugmentation:
    kind: Any = FlowAugmentation if task == "optical-flow" else ImageAugmentation
    return build(kind, settings, f"settings of {task}")


def _scene(seed: int, num_shards: int, n: int) -> dict[str, Any]:
    return {"index": n, "seed": scene_seed(seed, n), "step": n // num_shards}


MAX_METADATA = 2 * 10**6  # characters, which `datasets` reads in some 20 seconds


def check_metadata(path: str, revision: str | None) -> None:
    """
    Raises ValueError where metadata of a data set has aliases that multiply, since reading it takes minutes; OSError where the Hub has
    the data set and doesn't deliver them: `datasets` would go on without, with other files.
    """
    for name in ("README.md", ".huggingface.yaml"):
        try:
            file = optional_file(path, name, repo_type="dataset", revision=revision)
        except (OSError, ValueError):
            if _answers(path, revision):
                raise
            continue  # no such data set, of which `load_dataset` tells, or it is looked for in the cache
        if file is None:
            continue
        text = read_text(file)
        if name == "README.md":
            found = re.match(r"\s*---\s*\n(.*?)\n---", text, re.DOTALL)
            text = found[1] if found else ""
        if len(text) > MAX_METADATA:
            raise ValueError(
                f"{path}: {name} has {len(text):,} characters of metadata; expected at most {MAX_METADATA:,}"
            )
        if re.search(
            r"&\w|!!", text
        ):  # an anchor or a tag; honest cards of many configurations are long, and have neither
            plain_yaml(text, f"{path}: {name}")


def _answers(path: str, revision: str | None) -> bool:
    try:
        HfApi().dataset_info(path, revision=revision)
    except Exception:  # whatever its connections raise
        return False
    return True


def _hub(path: str, split: str, settings: dict[str, Any] | None, augment: bool, options: HubOptions) -> Source:
    """A data set that `load_dataset` opens, its columns under our names."""
    check_metadata(path, options.revision)
    try:
        with checked_downloads(path, "dataset"):
            # with streaming, `datasets` accepts no slice in `split`
            dataset = datasets.load_dataset(
                path,
                options.config,
                split=split,
                revision=options.revision,
                data_files=options.data_files,
                streaming=options.streaming,
            )
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # of libraries below `datasets`, and messages that hold all of a README.md
        reason = reason_of(error.__cause__ or error)
        kind = OSError if isinstance(error, OSError) else ValueError
        cached = f"; if it could be before, delete its copy in {datasets.config.HF_DATASETS_CACHE}"
        raise kind(
            f"{path}: can't be read as a data set ({reason[:300]}){'' if options.streaming else cached}"
        ) from error
    theirs = dataset.column_names or list(next(iter(dataset)))
    wanted = {ours: (options.columns or {}).get(ours, ours) for ours in COLUMNS[options.task]}
    needed = [*TASKS[options.task].images, TASKS[options.task].target]
    lacking = [f"{ours} (as {wanted[ours]})" for ours in needed if wanted[ours] not in theirs]
    unknown = sorted(set(options.columns or {}) - set(wanted))
    if unknown:
        raise ValueError(f"options of hub: columns maps the unknown {', '.join(unknown)}; expected {', '.join(wanted)}")
    if lacking:
        raise ValueError(
            f"{path}: no column {', '.join(lacking)}; it has {', '.join(theirs)}, and {options.task} needs "
            f"{', '.join(needed)} (option columns: ours -> theirs)"
        )
    kept = {ours: name for ours, name in wanted.items() if name in theirs}
    dataset = dataset.select_columns(list(kept.values()))
    dataset = dataset.rename_columns({name: ours for ours, name in kept.items() if name != ours})
    labels = tuple(options.names) if options.names else None
    reader = make_reader(path, options.task, settings, augment, labels, options.format)
    dataset = undecoded(dataset)
    if not Path(path).is_dir():  # a stranger's; rows of a folder may name any of one's files
        downloaded = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=path, repo_type="dataset")
        roots = [downloaded, datasets.config.DOWNLOADED_DATASETS_PATH]
        dataset = own_files_only(dataset, options.task, roots)
    return Source(path, options.task, dataset, reader, labels)
