"""To the Hub: models, data sets and Spaces, as `parcels` packs them.

Notable:
- Everything goes in one commit, on top of the state that was looked at: either all of it is there or nothing, and what somebody else
  committed in between is an error and not overwritten. Large files that arrived before an interruption are not sent again.
- A README.md that somebody has on the Hub stays, unless `overwrite_card`.
- What would be loaded in the place of what is pushed (another split into shards) is removed in the same commit; nothing else is.
- What the Hub or the network says becomes one line that says what to do.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, errors
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from winwin_hf.data.formats.files import sha256_of
from winwin_hf.hub.parcels import Parcel, first_line, pack_dataset, pack_model, pack_space

Type = Literal["model", "dataset", "space"]


class PublishError(OSError):
    """What the Hub or the way to it answered, or what doesn't go together with what is there: one line that says what to do."""


@dataclass
class Plan:
    """What a push does, or would do. files: path -> (bytes, state), the state one of "new", "changed", "same", "kept" (the Hub's
    stays), "?" (the Hub was not reached). removed: on the Hub. there: what the target is today, in words. url: after a push, of the
    commit or pull request; None if nothing had to be done, or in a dry run."""

    repo_id: str
    type: Type
    revision: str
    there: str
    files: dict[str, tuple[int, str]]
    removed: list[str]
    left_out: dict[str, str]
    warnings: list[str]
    url: str | None = None

    def lines(self) -> list[str]:
        """For a person to read."""
        width = max(map(len, self.files), default=0)
        branch = "" if self.revision == "main" else f", branch {self.revision}"
        said = [f"{self.type} {self.repo_id}{branch}: {self.there}"]
        said += [f"  {state:8}{path:{width}}  {size_text(size)}" for path, (size, state) in sorted(self.files.items())]
        going = [size for size, state in self.files.values() if state not in ("same", "kept")]
        said.append(f"{len(going)} of {len(self.files)} files to send, {size_text(sum(going))}")
        said += [f"  removed on the Hub, because replaced: {path}" for path in self.removed]
        said += [f"  left out: {path} ({why})" for path, why in self.left_out.items()]
        return said


def push(
    source: str | Path,
    repo_id: str,
    type: Type = "model",
    *,
    private: bool = False,
    dry_run: bool = False,
    overwrite_card: bool = False,
    results: Sequence[str | Path] = (),
    revision: str | None = None,
    pr: bool = False,
    limits: str | None = None,
    hub_datasets: dict[str, str] | None = None,
    picture: bool = True,
    token: str | None = None,
    warn: Callable[[str], Any] = lambda text: None,
) -> Plan:
    """
    Puts a model, a data set or a Space on the Hub, in one commit.

    Args:
        source: a bundled checkpoint's name, the folder of a checkpoint or of a training; a folder of `winwin data shards`; a Space's.
        repo_id: OWNER/NAME. It is made if it isn't there.
        private: make it private. An existing public one is an error.
        dry_run: only look what would go.
        overwrite_card: replace a README.md that is on the Hub already.
        results: `results.json` files of `winwin evaluate --output`, for a model's card.
        revision: the branch, made if it isn't there. Default: main.
        pr: propose the commit in a pull request.
        limits: a sentence for a model's card, in the place of what `card.json` has.
        hub_datasets: evaluated set -> OWNER/NAME[#TASK_ID] of its benchmark on the Hub, for `.eval_results`.
        picture: run the model on the package's example frames, for a picture in its card.
        token: default that of `hf auth login` or HF_TOKEN.
        warn: called with each warning, before anything is sent.
    Returns: what was (or would be) done.
    Raises: ValueError, FileNotFoundError: wrong arguments or a folder that can't go, before the Hub is asked anything;
        PublishError: what the Hub or the network said. In both cases nothing has changed on the Hub, but that a new repository may
        be there, empty.
    """
    if type not in get_args(Type):
        raise ValueError(f"--type {type}: expected {' or '.join(get_args(Type))}")
    if not re.fullmatch(r"[^/]+/[^/]+", repo_id):
        raise ValueError(f"{repo_id}: expected OWNER/NAME, such as somebody/winwin-flow")
    validate_repo_id(repo_id)
    if pr and revision not in (None, "main"):
        raise ValueError("--pr is against main; expected no --revision with it")
    if type != "model" and (results or limits or hub_datasets):
        raise ValueError(f"--results, --limits and --hub-dataset are for models, not for a {type}")
    with tempfile.TemporaryDirectory(prefix="winwin-push-") as temporary:
        if type == "model":
            parcel = pack_model(source, repo_id, Path(temporary), list(results), limits, hub_datasets or {}, picture)
        elif type == "dataset":
            parcel = pack_dataset(Path(source))
        else:
            parcel = pack_space(Path(source))
        for warning in parcel.warnings:
            warn(warning)
        api = HfApi(token=token, library_name="winwin-hf")
        return _deliver(api, parcel, repo_id, type, private, dry_run, overwrite_card, revision or "main", pr, warn)


def size_text(size: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


# ------------------------------------------------------------------ the Hub


def _deliver(
    api: HfApi,
    parcel: Parcel,
    repo_id: str,
    type: Type,
    private: bool,
    dry_run: bool,
    overwrite_card: bool,
    revision: str,
    pr: bool,
    warn: Callable[[str], Any],
) -> Plan:
    """Looks at the target, makes the plan and, but for a dry run, carries it out."""
    with _clear_errors(api, repo_id):
        if not dry_run:
            _check_token(api)
        try:
            target = _look(api, repo_id, type, revision)
        except Exception as error:
            if not dry_run or not _unreachable(error):
                raise
            target = None
            warn(f"{api.endpoint} can't be reached: what is there already isn't known")
    plan = _plan(parcel, repo_id, type, revision, target, overwrite_card)
    if target is not None and target.exists and private and not target.private:
        raise PublishError(
            f"{repo_id} is there already and public; --private can't hide it (change it in its settings)"
        )
    for warning in plan.warnings:
        warn(warning)
    going = [path for path, (_, state) in plan.files.items() if state in ("new", "changed")]
    if dry_run or target is None or not (going or plan.removed):
        return plan
    for path, digest in parcel.digests.items():
        if path in going and sha256_of(parcel.files[path]) != digest:
            raise ValueError(
                f"{parcel.files[path]}: another SHA-256 than dataset.json says; it is not as it was written"
            )
    if not target.exists:
        with _clear_errors(api, repo_id):
            api.create_repo(repo_id, repo_type=type, private=private or None, exist_ok=True, space_sdk=parcel.sdk)
    with _clear_errors(api, repo_id, new=not target.exists):
        if revision != "main" and not target.branch:
            api.create_branch(repo_id, branch=revision, repo_type=type, exist_ok=True)
        sha = target.sha or api.repo_info(repo_id, repo_type=type, revision=revision).sha
        operations: list[Any] = [CommitOperationAdd(path, str(parcel.files[path])) for path in going]
        operations += [CommitOperationDelete(path) for path in plan.removed]
        commit = api.create_commit(
            repo_id,
            operations,
            commit_message=f"Push {Path(repo_id).name} with winwin-hf",
            repo_type=type,
            revision=None if pr else revision,
            create_pr=pr,
            parent_commit=sha,
        )
    plan.url = commit.pr_url or commit.commit_url
    return plan


@dataclass
class _Target:
    """The repository as it is. files: path -> (bytes, git digest, SHA-256 of a large file). untouched: only the Hub's own first commit."""

    exists: bool
    private: bool = False
    branch: bool = False
    sha: str | None = None
    files: dict[str, tuple[int, str, str | None]] = field(default_factory=dict)
    untouched: bool = False


def _look(api: HfApi, repo_id: str, type: Type, revision: str) -> _Target:
    try:
        info = api.repo_info(repo_id, repo_type=type)
    except errors.RepositoryNotFoundError:
        return _Target(exists=False)
    branch, start = True, revision
    try:
        sha = api.repo_info(repo_id, repo_type=type, revision=revision).sha
    except errors.RevisionNotFoundError:
        branch, start, sha = False, "main", info.sha
    files = {
        item.path: (item.size, item.blob_id, item.lfs.sha256 if item.lfs else None)
        for item in api.list_repo_tree(repo_id, repo_type=type, revision=start, recursive=True)
        if isinstance(item, RepoFile)
    }
    untouched = False
    if "README.md" in files:
        with suppress(errors.HfHubHTTPError):  # a Hub that keeps its history to itself: then somebody wrote it
            commits = api.list_repo_commits(repo_id, repo_type=type, revision=start)
            untouched = len(commits) == 1 and commits[0].title.lower().startswith("initial commit")
    return _Target(True, bool(info.private), branch, sha, files, untouched)


def _plan(
    parcel: Parcel, repo_id: str, type: Type, revision: str, target: _Target | None, overwrite_card: bool
) -> Plan:
    there = target.files if target else {}
    if target is None:
        said = "not known"
    elif not target.exists:
        said = "will be made"
    else:
        said = f"is there, {'private' if target.private else 'public'}, {len(there)} files"
        said += "" if target.branch else f"; {revision} will be made from main"
    warnings = []
    if parcel.foreign:
        foreign = sorted(path for path in there if parcel.foreign[0].fullmatch(path))
        if foreign:
            raise PublishError(f"{repo_id} {parcel.foreign[1]} ({foreign[0]})")
    files = {}
    for path, local in parcel.files.items():
        size = local.stat().st_size
        state = "?" if target is None else "new"
        if path in there:
            state = "same" if _same(local, size, there[path]) else "changed"
        if path == "README.md" and state == "changed" and target and not target.untouched and not overwrite_card:
            state = "kept"
            warnings.append("README.md on the Hub stays as it is, with its figures; --overwrite-card replaces it")
        files[path] = (size, state)
    removed = [path for path in sorted(there) if parcel.stale and parcel.stale.fullmatch(path) and path not in files]
    if removed or any(state == "changed" for path, (_, state) in files.items() if path.endswith(".safetensors")):
        figures = [path for path in sorted(there) if path.startswith(".eval_results/") and path not in files]
        if figures:
            warnings.append(
                f"the weights change, but {', '.join(figures)} on the Hub stays: are these figures still true?"
            )
    return Plan(repo_id, type, revision, said, files, removed, dict(parcel.left_out), warnings)


def _same(local: Path, size: int, remote: tuple[int, str, str | None]) -> bool:
    length, git, sha256 = remote
    if length != size:
        return False
    if sha256 is not None:
        return sha256_of(local) == sha256
    return hashlib.sha1(b"blob %d\0" % size + local.read_bytes(), usedforsecurity=False).hexdigest() == git


def _check_token(api: HfApi) -> None:
    user = api.whoami()
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise PublishError(f"the token of {user.get('name')} may only read; expected one that may write")


@contextmanager
def _clear_errors(api: HfApi, repo_id: str, new: bool = False) -> Iterator[None]:
    """Turns what huggingface_hub raises into a PublishError of one line."""
    try:
        yield
    except (PublishError, KeyboardInterrupt):
        raise
    except Exception as error:
        message = _explain(error, api.endpoint, repo_id)
        if message is None:
            raise
        if new:
            message += f" ({repo_id} is there now, but empty)"
        raise PublishError(message) from error


def _explain(error: BaseException, endpoint: str, repo_id: str) -> str | None:
    """One line for a person; None for what isn't the Hub's or the network's."""
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{endpoint} is not asked: HF_HUB_OFFLINE is set"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "no token for the Hub; log in with `hf auth login`, or set HF_TOKEN"
    if isinstance(error, errors.HfHubHTTPError):
        return _explain_status(error, endpoint, repo_id)
    if _unreachable(error):
        return (
            f"the connection to {endpoint} failed ({first_line(str(error)) or error.__class__.__name__}); nothing has "
            "changed there, and the same command goes on"
        )
    if isinstance(error, ValueError):  # of README.md's metadata, say
        return f"the Hub doesn't take this: {first_line(' '.join(str(error).split()))}"
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # a large file's upload
        inner = _explain(error.__cause__, endpoint, repo_id) or first_line(str(error.__cause__))
        return f"{first_line(str(error))} {inner}"
    if isinstance(error, RuntimeError | OSError):
        return f"the Hub or the way to it: {first_line(str(error)) or error.__class__.__name__}"
    return None


def _explain_status(error: errors.HfHubHTTPError, endpoint: str, repo_id: str) -> str:
    status = error.response.status_code
    said = error.server_message or error.response.headers.get("x-error-message") or first_line(str(error))
    said = first_line(" ".join(str(said).split()))
    if status == 401:
        return f"{endpoint} doesn't take the token ({said}); log in with `hf auth login`, or set HF_TOKEN"
    if status == 403:
        return f"the token may not write to {repo_id} ({said}); expected a token with write access of {repo_id.partition('/')[0]}"
    if status == 404:
        return f"{repo_id} is not there, or not for this token ({said})"
    if status in (409, 412):
        return f"{repo_id} has changed in the meantime ({said}); look with --dry-run and push again"
    if status == 429:
        return f"{endpoint} asks to wait ({said}); the same command goes on later"
    if status >= 500:
        return (
            f"{endpoint} failed with {status} ({said}); nothing has changed there, and the same command goes on later"
        )
    return f"{endpoint} refused with {status}: {said}"


def _unreachable(error: BaseException) -> bool:
    """Whether the network failed, and not the Hub."""
    http = errors.HTTPError  # httpx's, of whichever generation huggingface_hub has
    if isinstance(error, errors.HfHubHTTPError):
        return False
    return isinstance(error, http | ConnectionError | TimeoutError)
