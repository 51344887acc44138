"""Files that a folder or a Hub repository may lack.

transformers takes a file that the Hub didn't deliver for one that isn't there, and goes on without it: with other means and deviations,
without an adapter. Here only what the Hub says isn't there is missing.
"""

import os
from pathlib import Path
from typing import Any

from huggingface_hub import _CACHED_NO_EXIST, constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from .weights_winwin import INDEXES, files_of_index, reason_of


def optional_file(source: str | Path, name: str, **options: Any) -> Path | None:
    """
    A file of a folder or a Hub repository, which is downloaded; None where there is none.

    Args:
        options: of `hf_hub_download`, such as `revision`, `token`, `cache_dir`, `subfolder`, `repo_type`, `local_files_only`.
    Raises: OSError: no such repository or revision; or, naming the file, the Hub didn't say whether there is one, or didn't deliver it.
        ValueError: no name of a repository. Offline, what isn't in the cache is missing.
    """
    folder = Path(source)
    if folder.is_dir():
        file = folder / (options.get("subfolder") or "") / name
        return file if file.is_file() else None
    options = {key: value for key, value in options.items() if value is not None}
    try:
        return Path(hf_hub_download(str(source), name, **options))
    except (RepositoryNotFoundError, RevisionNotFoundError, HFValidationError):  # their own messages say so
        raise
    except Exception as error:  # of huggingface_hub, and whatever its connections raise
        if _is_missing(error, str(source), name, options):
            return None
        raise OSError(f"{source}: {name} could not be downloaded ({reason_of(_cause(error))})") from error


def loaded_folder(source: str | os.PathLike, commit: str | None, **options: Any) -> Path | None:
    """
    Where the files lie that were loaded: a folder, or that of a commit in the Hub's cache. None where nothing tells.

    Args:
        commit: of a repository. options: `cache_dir`, `revision` and `subfolder`, as of `optional_file`.
    """
    inside = options.get("subfolder") or ""
    if Path(source).is_dir():
        return Path(source) / inside
    for name in ("config.json", "model.safetensors", INDEXES[0]):
        where = {"cache_dir": options.get("cache_dir"), "revision": commit or options.get("revision")}
        found = try_to_load_from_cache(str(source), (Path(inside) / name).as_posix(), **where)
        if isinstance(found, str):
            return Path(found).parent
    return None


def _is_missing(error: Exception, source: str, name: str, options: dict[str, Any]) -> bool:
    if isinstance(error, LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE or options.get("local_files_only"):
            return True
        cause = error.__cause__
        # of a mirror, without the Hub's own header
        refused = isinstance(cause, HfHubHTTPError) and cause.response.status_code == 404
        return refused or _is_known_to_lack(source, name, options)
    return isinstance(error, EntryNotFoundError)


def _is_known_to_lack(source: str, name: str, options: dict[str, Any]) -> bool:
    """Whether the Hub said before that a repository doesn't have a file."""
    known = {key: options[key] for key in ("revision", "cache_dir", "repo_type") if options.get(key) is not None}
    path = (Path(options.get("subfolder") or "") / name).as_posix()
    return try_to_load_from_cache(source, path, **known) is _CACHED_NO_EXIST


def _cause(error: Exception) -> BaseException:
    """What huggingface_hub's advice to check the connection came from."""
    return error.__cause__ or error if isinstance(error, LocalEntryNotFoundError) else error


def processor_files(source: str, **options: Any) -> list[Path]:
    """
    The files of a source's image processor: in the first its settings lie within others', where they lie there at all.

    Raises: OSError: as `optional_file`; also offline, where none is in the cache and it isn't known whether there is one.
    """
    names = ("processor_config.json", "preprocessor_config.json")
    files = [file for name in names if (file := optional_file(source, name, **options))]
    offline = constants.HF_HUB_OFFLINE or options.get("local_files_only")
    if not files and offline and not Path(source).is_dir() and not _is_known_to_lack(source, names[1], options):
        raise OSError(
            f"{source}: {names[1]} isn't in the cache, and the Hub isn't asked offline whether there is one; expected it to be downloaded "
            "before, or a folder of all files"
        )
    return files


def check_hub_index(source: str, **options: Any) -> None:
    """Raises ValueError where the index of a Hub repository is none, leads elsewhere or has no end; folders have `check_folder`."""
    if not Path(source).exists() and (index := optional_file(source, INDEXES[0], **options)):
        files_of_index(index)


def refuse_adapter(source: str, **options: Any) -> None:
    """
    Raises ValueError where an adapter lies beside a network: transformers would load it with PEFT, and without it leave it out.

    Args:
        source: a folder or a Hub repository. options: as of `optional_file`.
    """
    if optional_file(source, "adapter_config.json", **options):
        raise ValueError(
            f"{source}: holds an adapter (adapter_config.json); expected a network that it was merged into, by PEFT's merge_and_unload, "
            "or a network without one"
        )
