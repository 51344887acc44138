"""The checkpoints that come with the package, and how they get their bare names.

Notable:
- A bundled checkpoint is a folder `winwin_hf/checkpoints/<name>` with config.json, model.safetensors and friends.
- `install` copies it into the Hub cache as a download would (`models--<name>/refs/main`, `snapshots/<commit>/...`), after
  which `AutoModel.from_pretrained("<name>")` works anywhere on the machine, offline too.
- The "commit" is a hash of the folder's contents, so installing again is free, a changed checkpoint replaces the old one,
  and a damaged snapshot is noticed.
- A snapshot appears whole or not at all: it is copied under a temporary name, renamed, and only then does refs/main point to it.
- Nothing here imports torch or transformers: the command line starts with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winwin_hf.model.weights_winwin import count_parameters
from winwin_hf.own_files import made_folder, remove_tree
from winwin_hf.task import ARCHITECTURES

# transformers looks for this file first. Where it is missing and the Hub says that it knows no such repository, as it must of a bare
# name, transformers gives up. So an installed checkpoint has it: the same settings as preprocessor_config.json.
PROCESSOR = "processor_config.json"
MAX_CARD = 2**20  # bytes of a card that are looked at: its metadata comes first
CHECKPOINTS = Path(__file__).resolve().parent / "checkpoints"


@dataclass(frozen=True)
class Checkpoint:
    """A bundled checkpoint, as `winwin checkpoints list` shows it."""

    name: str
    task: str
    parameters: int  # numbers in the safetensors files
    size: int  # bytes of the whole folder
    licence: str  # of the weights, as `licence_label` writes it
    installed: bool  # the Hub cache holds exactly this version


def folders() -> dict[str, Path]:
    """Name -> folder of every bundled checkpoint, sorted by name. Empty where the package came without any."""
    if not CHECKPOINTS.is_dir():
        return {}
    return {path.parent.name: path.parent for path in sorted(CHECKPOINTS.glob("*/config.json"))}


def resolve(name: str) -> str:
    """What to hand to `from_pretrained` for `name`: an existing folder, a bundled checkpoint's folder, else `name` itself.

    A bundled name never needs `install` this way, and never meets an outdated copy in the cache.
    """
    if Path(name).is_dir():
        return name
    folder = folders().get(name)
    return str(folder) if folder is not None else name


def install(names: list[str] | None = None, cache_dir: str | Path | None = None) -> dict[str, Path]:
    """Copies bundled checkpoints (all of them where `names` is None) into the Hub cache and returns name -> snapshot folder.

    `cache_dir` defaults to huggingface_hub's cache, so `HF_HOME` and `HF_HUB_CACHE` count. Other versions of the same name
    are removed from the cache. Raises ValueError for a name that isn't bundled, OSError where the cache can't be written.
    """
    known = folders()
    wanted = list(known) if names is None else names
    check_names(wanted)
    return {name: _install_one(known[name], _repository(name, cache_dir)) for name in wanted}


def check_names(names: list[str]) -> None:
    """Raises ValueError for a name that isn't bundled."""
    known = folders()
    for name in names:
        if name not in known:
            raise ValueError(f"no bundled checkpoint is called {name!r}; there are: {', '.join(known) or 'none'}")


def checkpoints(cache_dir: str | Path | None = None) -> list[Checkpoint]:
    """Every bundled checkpoint with its task, parameters, size, licence and whether the cache holds this version."""
    found = []
    for name, folder in folders().items():
        architectures = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or ["?"]
        commit = _commit(folder)
        repository = _repository(name, cache_dir)
        snapshot = repository / "snapshots" / commit
        card = card_metadata(folder / "README.md")
        found.append(
            Checkpoint(
                name=name,
                task=ARCHITECTURES[architectures[0]].title if architectures[0] in ARCHITECTURES else architectures[0],
                parameters=sum(count_parameters(path) for path in folder.glob("*.safetensors")),
                size=sum(path.stat().st_size for path in _files(folder)),
                licence=licence_label(card.get("license"), card.get("license_name")),
                installed=_read_ref(repository) == commit and _is_whole(snapshot, commit),
            )
        )
    return found


def card_metadata(path: Path) -> dict[str, Any]:
    """The YAML at the head of a card; {} where there is none, or no file. Raises ValueError, naming the file, for broken YAML."""
    import yaml  # here: the command line imports this module whenever it starts

    text = ""
    if path.is_file():
        with path.open("rb") as file:
            text = file.read(MAX_CARD).decode("utf-8", "replace").replace("\r\n", "\n")
    head = re.match(r"---\s*\n(.*?)\n---", text, re.S)
    try:
        values = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: expected YAML between two lines of ---; {reason}") from None
    return values if isinstance(values, dict) else {}


def licence_label(licence: Any, name: Any = None) -> str:
    """
    A licence for a person to read, such as "Apache-2.0" or "CC BY-NC 4.0, not commercial".

    Args:
        licence, name: `license` and `license_name` of a card's metadata. Our cards have "-nc" or "non-commercial" in one of them
            where commercial use is excluded.
    """
    if isinstance(licence, list) and licence:  # cards of others may name several
        return " and ".join(map(licence_label, licence))
    if not licence or not isinstance(licence, str):
        return "unknown"
    known = name if licence == "other" and name and isinstance(name, str) else licence
    restricted = re.search(r"(^|-)nc(-|$)|non-commercial", known)
    if known.startswith("cc-"):
        kind, _, version = known.upper().removeprefix("CC-").rpartition("-")
        label = f"CC {kind} {version}"
    else:
        label = {"apache-2.0": "Apache-2.0", "mit": "MIT"}.get(known, known.removesuffix("-non-commercial"))
    return f"{label}, not commercial" if restricted else label


def _install_one(folder: Path, repository: Path) -> Path:
    commit = _commit(folder)
    snapshots = repository / "snapshots"
    snapshot = snapshots / commit
    for place in (repository, snapshots, repository / "refs", repository / ".no_exist"):
        if place.is_symlink() or (place.exists() and not place.is_dir()):
            raise ValueError(f"{place}: a link or a file; expected a folder of the Hub's cache")
    if (repository / "refs" / "main").is_dir():
        raise ValueError(f"{repository / 'refs' / 'main'}: a folder; expected a file of the Hub's cache")
    if not _is_whole(snapshot, commit):
        with made_folder(snapshots):
            # Beside snapshots/, not in it: huggingface_hub takes every folder in there for a revision.
            temporary = Path(tempfile.mkdtemp(prefix=".installing-", dir=repository))
            try:
                for path in _files(folder):
                    target = temporary / "snapshot" / path.relative_to(folder)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, target)
                _write_processor(temporary / "snapshot")
                if snapshot.exists():  # damaged: out of the way, and removed with the temporary folder
                    snapshot.rename(temporary / "damaged")
                try:
                    (temporary / "snapshot").rename(snapshot)
                except OSError:
                    # Another process may have installed the same version in the meantime: that is as good.
                    if not _is_whole(snapshot, commit):
                        raise
            finally:
                remove_tree(temporary, ignore_errors=True)
    # What the cache knows of a downloaded model that is no adapter: with peft installed, transformers asks for that file first.
    missing = repository / ".no_exist" / commit / "adapter_config.json"
    if not missing.exists():
        missing.parent.mkdir(parents=True, exist_ok=True)
        missing.touch()
    _write_ref(repository, commit)
    for other in snapshots.iterdir():
        if other.name != commit and _is_ours(other):
            remove_tree(other, ignore_errors=True)
            remove_tree(repository / ".no_exist" / other.name, ignore_errors=True)
    return snapshot


def _is_ours(snapshot: Path) -> bool:
    """Whether it is an earlier version as it was installed: whatever somebody else put there, or changed, stays."""
    named = re.fullmatch(r"[0-9a-f]{40}", snapshot.name) is not None
    return named and snapshot.is_dir() and not snapshot.is_symlink() and _commit(snapshot) == snapshot.name


def _is_whole(snapshot: Path, commit: str) -> bool:
    """True for a snapshot with all files of this version."""
    has_processor = (snapshot / PROCESSOR).is_file() == (snapshot / "preprocessor_config.json").is_file()
    return snapshot.is_dir() and has_processor and _commit(snapshot) == commit


def _write_processor(snapshot: Path) -> None:
    settings = snapshot / "preprocessor_config.json"
    if settings.is_file():
        text = json.dumps({"image_processor": json.loads(settings.read_text(encoding="utf-8"))}, indent=2)
        (snapshot / PROCESSOR).write_text(text + "\n", encoding="utf-8")


def _repository(name: str, cache_dir: str | Path | None) -> Path:
    """The cache folder that huggingface_hub reads for the bare name."""
    # At call time: tests and programs may point the cache elsewhere after this module was imported.
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    cache = Path(cache_dir) if cache_dir is not None else Path(constants.HF_HUB_CACHE)
    return cache.expanduser() / repo_folder_name(repo_id=name, repo_type="model")


def _files(folder: Path) -> list[Path]:
    """The files that a checkpoint brings along, in a fixed order: no hidden ones, no byte code, not `PROCESSOR`."""
    inside = (path for path in folder.rglob("*") if path.is_file())
    skip = ("__pycache__", PROCESSOR)
    return sorted(p for p in inside if not any(s.startswith(".") or s in skip for s in p.relative_to(folder).parts))


def _commit(folder: Path) -> str:
    """40 hexadecimal digits from the names and contents of the checkpoint's files."""
    digest = hashlib.sha1(usedforsecurity=False)
    for path in _files(folder):
        digest.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def _read_ref(repository: Path) -> str | None:
    ref = repository / "refs" / "main"
    return ref.read_text(encoding="utf-8", errors="replace").strip() if ref.is_file() else None


def _write_ref(repository: Path, commit: str) -> None:
    if _read_ref(repository) == commit:
        return
    refs = repository / "refs"
    refs.mkdir(parents=True, exist_ok=True)
    temporary = repository / f".main-{os.getpid()}"  # beside refs/, where every file counts as a branch
    temporary.write_text(commit, encoding="utf-8")  # no newline: huggingface_hub takes the whole file as the commit
    temporary.replace(refs / "main")


def examples_folder() -> Path:
    """The example frames: inside an installed package, or in the checkout that the package is imported from."""
    package = Path(__file__).resolve().parent
    inside = package / "examples"
    return inside if inside.is_dir() else package.parent / "spaces" / "winwin-demo" / "examples"


# Files of the examples folder that each bundled checkpoint runs on.
PAIRS = (("bedroom_1.jpg", "bedroom_2.jpg"), ("bedroom_2.jpg", "bedroom_3.jpg"))
SEGMENTED = ("street.jpg", "barn.jpg")
MEASURED = ("room.jpg", "bedroom_1.jpg")
# Task -> the image or pair of a card's picture.
SHOWN = {
    "optical-flow": PAIRS[0],
    "semantic-segmentation": SEGMENTED[:1],
    "depth-estimation": MEASURED[:1],
}


def example_credit(name: str) -> str:
    """Author, licence and changes of an example frame, from the README.md beside the frames."""
    for line in (examples_folder() / "README.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if f"`{name}`" in cells[0] and len(cells) == 5:
            return f"{cells[2]}; {cells[3]}; changes: {cells[4]}"
    return name
