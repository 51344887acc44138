"""Upload models, data sets and Spaces to the Hub.

Notable:
- all files go in one commit on top of the state that was looked at: either all of them are on the Hub afterwards or none, and a
  commit of somebody else in the meantime is an error. Large files that arrived before an interruption are not sent again.
  `HfApi.upload_folder` is no way to this: with hf_xet installed it makes several commits of many files.
- a README.md that somebody wrote on the Hub stays, unless `overwrite_card`.
- a file that looks like a secret is an error, unless the caller names it.
- files that would be loaded in the place of the uploaded ones (other shards) are deleted in the same commit; no others are.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, errors
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.repocard import RepoCard
from huggingface_hub.utils import validate_repo_id
from huggingface_hub.utils.sha import git_hash

from winwin_hf.hub.contents import Contents, dataset_contents, model_contents, space_contents
from winwin_hf.hub.outgoing import check_names, identity, refuse_changed, refuse_secrets
from winwin_hf.model.pixels_winwin import shortened
from winwin_hf.own_files import sha256_of
from winwin_hf.redaction import redact
from winwin_hf.task import DoesNotFit

Type = Literal["model", "dataset", "space"]
# What git takes for no name of a branch (git-check-ref-format), what the Hub keeps for itself (refs/...), and any longer name.
BAD_BRANCH = re.compile(
    r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//|(^|/)\.|(\.lock|\.)(/|$)|^[-/]|/$|^@$|^HEAD$|^refs/(?!pr/\d+$)|^$|.{201}",
    re.DOTALL,
)
WITHIN_COMMIT = 10**7  # bytes; the Hub takes no larger file within a commit
COMMIT = re.compile(r"[0-9a-f]{40}")  # the Hub takes it for a commit, on top of which nothing can be pushed
# What huggingface_hub raises where an answer's JSON is none, or holds other things than it expects.
ODD = (json.JSONDecodeError, RecursionError, AttributeError, KeyError, NameError, TypeError, IndexError, AssertionError)
WILL_BE_CREATED, UNKNOWN = "will be created", "not known, since the Hub can't be reached"


class PublishError(OSError):
    """An answer of the Hub, a failure of the network, or a conflict with the files on the Hub: one line that says what to do."""


@dataclass
class Plan:
    """
    What a push does, or would do.

    Attributes:
        title: the repository and its state in words.
        files: path -> (bytes, state). States: "new", "changed", "same", "kept" (the Hub's stays), "?" (the Hub was not reached).
        deleted: files on the Hub that the uploaded ones replace. left_out: files here -> why.
        url: of the commit or pull request; None if there was nothing to do, or in a dry run.
    """

    title: str = ""
    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    deleted: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    url: str | None = None

    @property
    def upload(self) -> list[str]:
        """Files to upload."""
        return [path for path, (_, state) in self.files.items() if state not in ("same", "kept")]


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
    include: Sequence[str] = (),
    token: str | None = None,
    warn: Callable[[str], Any] = lambda text: None,
) -> Plan:
    """
    Uploads a model, a data set or a Space to the Hub, in one commit.

    Args:
        source: a bundled checkpoint's name, the folder of a checkpoint or of a training; a folder of `winwin data shards`; a Space's.
        repo_id: OWNER/NAME. Created if it doesn't exist.
        private: create it as a private one. An existing public one is an error.
        dry_run: only say what would be uploaded.
        overwrite_card: replace a README.md that is on the Hub already.
        results: `results.json` files of `winwin evaluate --output`, for a model's card.
        revision: the branch, created if it doesn't exist. Default: main.
        pr: propose the commit in a pull request.
        limits: for a model's card, in the place of what `card.json` has.
        hub_datasets: evaluated set -> OWNER/NAME[#TASK_ID] of its benchmark on the Hub, for `.eval_results`.
        picture: run the model on the package's example frames, for a picture in its card.
        include: files, by their paths in the repository, that may look like a secret (a private key, a file that holds a token).
        token: default that of `hf auth login` or HF_TOKEN.
        warn: called with each warning, before anything is uploaded.
    Raises: ValueError, FileNotFoundError: wrong arguments or files that can't be uploaded, before the Hub is asked anything;
        PublishError: see there. The Hub is unchanged then, but a new repository may exist, empty.
    """
    check_arguments(repo_id, type, revision, pr)
    if type != "model" and (results or limits or hub_datasets):
        raise DoesNotFit(f"--results, --limits and --hub-dataset are for models, not for a {type}")
    api, revision = HfApi(token=token, library_name="winwin-hf"), revision or "main"
    with tempfile.TemporaryDirectory(prefix="winwin-push-") as temporary:
        if type == "model":
            contents = model_contents(source, repo_id, Path(temporary), list(results), limits, hub_datasets, picture)
        else:
            contents = (dataset_contents if type == "dataset" else space_contents)(Path(source))
        check_names(contents.files)
        seen = {path: identity(path) for path in contents.files.values()} | contents.seen
        refuse_secrets(contents.files, include)
        with _clear_errors(api, repo_id):
            target = _look(api, repo_id, type, revision, dry_run)
        plan = _plan(contents, target, overwrite_card)
        branch = "" if revision == "main" else f", branch {revision}"
        plan.title = f"{type} {repo_id}{branch}: {target.state}"
        if revision.startswith("refs/") and not target.branch and target.state != UNKNOWN:
            raise PublishError(f"--revision {revision}: {repo_id} has no such pull request; --pr opens one")
        if private and target.state.startswith("exists, public"):
            raise PublishError(f"{repo_id} exists and is public; --private can't hide it (change it in its settings)")
        for warning in plan.warnings:
            warn(warning)
        if not dry_run and (plan.upload or plan.deleted):
            for path in contents.digests.keys() & set(plan.upload):
                if sha256_of(contents.files[path]) != contents.digests[path]:
                    raise ValueError(f"{contents.files[path]}: another SHA-256 than dataset.json says")
            # checks its path in the repository, and opens the file
            added = [CommitOperationAdd(path, str(contents.files[path])) for path in plan.upload]
            refuse_changed(seen)
            new = target.state == WILL_BE_CREATED
            if "README.md" in plan.upload:  # before large files are sent for nothing
                with _clear_errors(api, repo_id):
                    _check_card(contents, type)
            if new:
                with _clear_errors(api, repo_id):
                    api.create_repo(repo_id, repo_type=type, private=private or None, space_sdk=contents.sdk)
            with _clear_errors(api, repo_id, new):
                if revision != "main" and not target.branch:
                    api.create_branch(repo_id, branch=revision, repo_type=type)
                parent = target.sha or api.repo_info(repo_id, repo_type=type, revision=revision).sha
                _upload_large(api, repo_id, added, repo_type=type, revision=None if pr else revision, create_pr=pr)
                refuse_changed(seen)
                try:
                    commit = api.create_commit(
                        repo_id,
                        [*added, *(CommitOperationDelete(path) for path in plan.deleted)],
                        commit_message=f"Push {repo_id.partition('/')[2]} with winwin-hf",
                        repo_type=type,
                        revision=None if pr else revision,
                        create_pr=pr,
                        parent_commit=parent,
                    )
                except Exception as error:
                    if not _answer_lost(error) or not _arrived(api, repo_id, type, revision, pr, plan, contents, error):
                        raise
                    plan.url = redact(f"{api.endpoint}/{constants.REPO_TYPES_URL_PREFIXES.get(type, '')}{repo_id}")
                else:
                    plan.url = redact(commit.pr_url or commit.commit_url)
                    try:
                        there = set(_tree(api, repo_id, type, commit.pr_revision or revision))
                    except Exception:  # the commit was made; only a look at it failed
                        there = set(contents.files)
                    if absent := [path for path in plan.upload if path not in there]:
                        raise PublishError(
                            f"{repo_id} took no {', '.join(absent[:8])}; expected no .gitignore there that names it ({plan.url})"
                        )
    return plan


def _upload_large(api: HfApi, repo_id: str, added: list[CommitOperationAdd], **options: Any) -> None:
    """Uploads what isn't sent within the commit, and reads what is: a file that changes after this changes nothing."""
    api.preupload_lfs_files(repo_id, added, **options)  # which empties each that it uploaded
    for addition in added:
        file = addition.path_or_fileobj
        if isinstance(file, str) and Path(file).stat().st_size <= WITHIN_COMMIT:
            addition.path_or_fileobj = Path(file).read_bytes()


def check_arguments(repo_id: str, type: str = "model", revision: str | None = None, pr: bool = False) -> None:
    """Raises ValueError for names that no Hub takes, and for options that exclude each other. The Hub isn't asked."""
    if type not in get_args(Type):
        raise ValueError(f"--type {type}: expected {' or '.join(get_args(Type))}")
    if not re.fullmatch(r"[^/]+/[^/]+", repo_id):
        raise ValueError(f"{repo_id}: expected OWNER/NAME, such as somebody/winwin-flow")
    validate_repo_id(repo_id)
    if revision is not None and (BAD_BRANCH.search(revision) or COMMIT.fullmatch(revision)):
        raise ValueError(f"--revision {shortened(revision)!r}: expected the name of a branch, such as v1 or my-change")
    if pr and revision not in (None, "main"):
        raise ValueError("--pr is against main; expected no --revision with it")


def _check_card(contents: Contents, type: Type) -> None:
    """Has the Hub look at a README.md before anything is sent. Raises ValueError for metadata that it refuses."""
    card = contents.files["README.md"].read_text(encoding="utf-8")
    # huggingface_hub before 2.2 would send the card of a Hub of one's own to huggingface.co. There, creating the repository is the check.
    old = tuple(map(int, huggingface_hub.__version__.split(".")[:2])) < (2, 2)
    if card.startswith("---") and not (old and constants.ENDPOINT != "https://huggingface.co"):
        RepoCard(card).validate(type)


# ------------------------------------------------------------------ the repository


@dataclass
class _Target:
    """The repository before the push. state: in words. files: path -> file. untouched: there is only the Hub's own first commit."""

    state: str
    branch: bool = False
    sha: str | None = None
    files: dict[str, RepoFile] = field(default_factory=dict)
    untouched: bool = False


def _look(api: HfApi, repo_id: str, type: Type, revision: str, dry_run: bool) -> _Target:
    if not dry_run:
        user = api.whoami()
        if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
            raise PublishError(f"the token of {user.get('name')} may only read; expected one that may write")
    try:
        info = api.repo_info(repo_id, repo_type=type)
    except errors.GatedRepoError:  # which is there
        raise
    except errors.RepositoryNotFoundError:
        return _Target(WILL_BE_CREATED)
    except Exception as error:
        if dry_run and _unreachable(error):
            return _Target(UNKNOWN)
        raise
    state, branch = f"exists, {'private' if info.private else 'public'}", revision
    try:
        info = api.repo_info(repo_id, repo_type=type, revision=revision)
    except errors.RevisionNotFoundError:
        state, branch = f"{state}; the branch will be created from main", "main"
    target = _Target(state, branch == revision, info.sha, _tree(api, repo_id, type, branch))
    if lost := sorted(
        {item.rfilename for item in getattr(info, "siblings", None) or ()} - set(target.files)
    ):  # a card would be replaced, say
        raise PublishError(
            f"{redact(api.endpoint)} names {', '.join(lost[:8])} in {repo_id} and doesn't list it; push again"
        )
    with suppress(errors.HfHubHTTPError):  # a Hub without a history: somebody may have written its README.md
        commits = api.list_repo_commits(repo_id, repo_type=type, revision=branch)
        target.untouched = len(commits) == 1 and commits[0].title.lower().startswith("initial commit")
    return target


def _tree(api: HfApi, repo_id: str, type: Type, revision: str) -> dict[str, RepoFile]:
    """Path -> file of a repository."""
    tree = api.list_repo_tree(repo_id, repo_type=type, revision=revision, recursive=True)
    return {item.path: item for item in tree if isinstance(item, RepoFile)}


def _answer_lost(error: BaseException) -> bool:
    """True where a commit may have been made, though no answer says so."""
    failed = isinstance(error, errors.HfHubHTTPError) and error.response.status_code >= 500
    odd = isinstance(error, (*ODD, ValueError)) or (isinstance(error, OSError) and type(error).__name__ == "BadAnswer")
    return failed or odd or _unreachable(error)


def _arrived(
    api: HfApi, repo_id: str, type: Type, revision: str, pr: bool, plan: Plan, contents: Contents, cause: BaseException
) -> bool:
    """Whether a commit was made whose answer was lost. Raises PublishError where the Hub doesn't tell."""
    if pr and isinstance(cause, ValueError) and not isinstance(cause, ODD):
        return False  # of what was to be sent
    try:
        if pr:
            raise LookupError("the number of its pull request isn't known")
        there = _tree(api, repo_id, type, revision)
    except Exception as error:
        raise PublishError(
            f"the answer of {redact(api.endpoint)} to the commit was lost, and it may have been made: expected a look at {repo_id}, or "
            "--dry-run, before the next push"
        ) from (error if isinstance(error, errors.HfHubHTTPError) else cause)
    return all(path in there and _same(contents.files[path], there[path]) for path in plan.upload)


def _plan(contents: Contents, target: _Target, overwrite_card: bool) -> Plan:
    plan, there = Plan(left_out=contents.left_out, warnings=contents.warnings), target.files
    if contents.conflicts and (found := sorted(filter(contents.conflicts[0].fullmatch, there))):
        raise PublishError(f"the repository {contents.conflicts[1]} ({found[0]})")
    for path, local in contents.files.items():
        state = "?" if target.state == UNKNOWN else "new"
        if path in there:
            state = "same" if _same(local, there[path]) else "changed"
        if path == "README.md" and state == "changed" and not target.untouched and not overwrite_card:
            state = "kept"
            plan.warnings.append("README.md on the Hub stays as it is, with its scores; --overwrite-card replaces it")
        plan.files[path] = (local.stat().st_size, state)
    gone = [path for path in sorted(there) if path not in plan.files]
    plan.deleted = [path for path in gone if contents.replaces and contents.replaces.fullmatch(path)]
    scores = [path for path in gone if path.startswith(".eval_results/")]
    if scores and (plan.deleted or any(path.endswith(".safetensors") and path in there for path in plan.upload)):
        stays = f"{', '.join(scores)} on the Hub stays: are these scores still true?"
        plan.warnings.append(f"the weights change, but {stays}")
    return plan


def _same(local: Path, remote: RepoFile) -> bool:
    if local.stat().st_size != remote.size:
        return False
    return sha256_of(local) == remote.lfs.sha256 if remote.lfs else git_hash(local.read_bytes()) == remote.blob_id


# ------------------------------------------------------------------ errors


@contextmanager
def _clear_errors(api: HfApi, repo_id: str, new: bool = False) -> Iterator[None]:
    """Turns errors of huggingface_hub into a PublishError of one line. new: the repository was created just before."""
    empty = f" ({repo_id} exists now, but is empty)" if new else ""
    try:
        yield
    except PublishError:
        raise
    except ODD as error:
        what = f"{type(error).__name__}: {shortened(str(error))}"
        raise PublishError(f"the answer of {redact(api.endpoint)} isn't what a Hub sends ({what}){empty}") from error
    except (errors.HfHubHTTPError, errors.HTTPError, ValueError, RuntimeError, OSError) as error:
        message = _explain(error, api.endpoint, repo_id)
        raise PublishError(message + empty) from error


def _explain(error: BaseException, endpoint: str, repo_id: str) -> str:
    """One line for a person."""
    endpoint = redact(endpoint)
    # A server may send back what it was sent, the token in its headers too.
    text = redact(" ".join(str(getattr(error, "server_message", None) or error).split()))
    text = (text if len(text) <= 300 else text[:297] + "...") or type(error).__name__
    later = "nothing has changed there; the same command goes on later"
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        changed = f"{repo_id} has changed in the meantime ({text}); look with --dry-run and push again"
        known = {
            401: f"{endpoint} refuses the token ({text}); log in with `hf auth login`, or set HF_TOKEN",
            403: f"the token may not write to {repo_id} ({text}); expected one with write access",
            404: f"{repo_id} doesn't exist, or not for this token ({text})",
            **dict.fromkeys((409, 412), changed),
            429: f"{endpoint} asks to wait ({text}); {later}",
        }
        failed = f"{endpoint} failed with {status} ({text}); {later}"
        return known.get(status, failed if status >= 500 else f"{endpoint} refused with {status}: {text}")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return f"{endpoint} is not asked: HF_HUB_OFFLINE is set"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return "no token for the Hub; log in with `hf auth login`, or set HF_TOKEN"
    if _unreachable(error) or "client has been closed" in text:  # by another thread, whose connection failed
        return f"the connection to {endpoint} failed ({text}); {later}"
    if isinstance(error, RuntimeError) and error.__cause__ is not None:  # the upload of a large file
        return f"{text} {_explain(error.__cause__, endpoint, repo_id)}"
    return f"the upload to {endpoint} failed: {text}"  # such as metadata of README.md that the Hub refuses


def _unreachable(error: BaseException) -> bool:
    """True where the network failed, and not the Hub."""
    return isinstance(error, errors.HTTPError | ConnectionError | TimeoutError) and not isinstance(
        error, errors.HfHubHTTPError
    )
