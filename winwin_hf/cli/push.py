"""`winwin push`: upload a model, a data set or a Space to the Hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import typer

from winwin_hf.cli.arguments import check_choice
from winwin_hf.cli.errors import UsageError, misuse, one_line_errors
from winwin_hf.redaction import redact


@one_line_errors
def push(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CHECKPOINT_OR_FOLDER",
            help="A bundled name, or a folder: of a checkpoint, a training, `winwin data shards` or a Space.",
        ),
    ],
    repo_id: Annotated[str, typer.Argument(metavar="REPO_ID", help="OWNER/NAME; created if it doesn't exist.")],
    type: Annotated[str, typer.Option(help="model, dataset or space.")] = "model",
    private: Annotated[bool, typer.Option("--private", help="Create a private repository.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only list the files to upload and the state of the repository.")
    ] = False,
    overwrite_card: Annotated[
        bool, typer.Option("--overwrite-card", help="Replace a README.md that is on the Hub already.")
    ] = False,
    results: Annotated[
        list[Path] | None,
        typer.Option(help="Scores for the card: a results.json of `winwin evaluate --output`; repeatable."),
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="The branch, created if it doesn't exist. Default: main.")
    ] = None,
    pr: Annotated[bool, typer.Option("--pr", help="Propose the commit in a pull request.")] = False,
    limits: Annotated[
        str | None, typer.Option(help="For the card: what somebody who uses the model should know.")
    ] = None,
    hub_dataset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SET=OWNER/NAME[#TASK]",
            help="The Hub's benchmark of an evaluated set, for .eval_results; repeatable.",
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="Upload this file though it looks like a secret; repeatable."),
    ] = None,
    picture: Annotated[
        bool, typer.Option("--picture/--no-picture", help="Run the model for a picture in the card.")
    ] = True,
) -> None:
    """Upload a checkpoint, shards or a Space to the Hub, in one commit. The token is that of `hf auth login`, or HF_TOKEN."""
    check_choice("--type", type, ("model", "dataset", "space"))
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id) or set(repo_id.split("/")) & {".", ".."}:
        raise UsageError(f"REPO_ID {repo_id!r}: expected OWNER/NAME")
    benchmarks = {}
    for item in hub_dataset or []:
        match = re.fullmatch(r"([^=\s]+)=(\S+)", item)
        if match is None:
            raise UsageError(f"--hub-dataset {item}: expected SET=OWNER/NAME")
        benchmarks[match[1]] = match[2]
    from winwin_hf.hub import push as publish

    with misuse():
        publish.check_arguments(repo_id, type, revision, pr)
    plan = publish.push(
        source,
        repo_id,
        type,  # type: ignore[arg-type]  # checked there
        private=private,
        dry_run=dry_run,
        overwrite_card=overwrite_card,
        results=results or [],
        revision=revision,
        pr=pr,
        limits=limits,
        hub_datasets=benchmarks,
        picture=picture,
        include=include or [],
        warn=lambda text: typer.echo(redact(f"warning: {text}"), err=True),
    )
    for line in plan_lines(plan):
        typer.echo(redact(line))
    if dry_run:
        typer.echo("a dry run: nothing was uploaded")
    elif plan.url is None:
        typer.echo("nothing to upload: the Hub has all of it")
    else:
        typer.echo(redact(plan.url))


def plan_lines(plan: Any) -> list[str]:
    """A `Plan` for a person to read."""
    width, total = max(map(len, plan.files)), sum(plan.files[path][0] for path in plan.upload)
    files = sorted(plan.files.items())
    return [
        plan.title,
        *(f"  {state:8}{path:{width}}{size / 1e6:12.3f} MB" for path, (size, state) in files),
        f"{len(plan.upload)} of {len(files)} files to upload, {total / 1e6:.3f} MB",
        *(f"  deleted on the Hub, because replaced: {path}" for path in plan.deleted),
        *(f"  left out: {path} ({reason})" for path, reason in plan.left_out.items()),
    ]
