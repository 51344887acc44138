"""Checkpoints of the package and their cards.

`python scripts/make_cards.py bundle RUN NAME LIMITS` makes a bundled checkpoint of a finished training;
`python scripts/make_cards.py cards` writes the bundled checkpoints' README.md and MODEL_CARD.md again.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from transformers import AutoImageProcessor

import winwin_hf  # noqa: F401  registers the Auto classes
from winwin_hf import bundled
from winwin_hf.checked import plain_yaml
from winwin_hf.cli.arguments import read_image
from winwin_hf.cli.errors import UsageError, line_of, one_line_errors
from winwin_hf.data.formats.files import replacing_folder, told_of, write_atomic
from winwin_hf.evaluation.figures import figure_text
from winwin_hf.evaluation.results import NAMES, read_results
from winwin_hf.hub.cards import CURVE, WORST, card, licence_of
from winwin_hf.hub.facts import FACTS, Facts, read_facts, write_facts
from winwin_hf.inference.loading import load_network
from winwin_hf.task import TASKS
from winwin_hf.training.recipe import dump_recipe

ROOT = Path(__file__).resolve().parents[1]
CURVE_POINTS = 100  # the loss is averaged over 1 / CURVE_POINTS of the steps
app = typer.Typer(help="Checkpoints of the package and their cards.", no_args_is_help=True)


@app.command("bundle")
@one_line_errors
def bundle_command(
    run: Annotated[Path, typer.Argument(help="The training's output folder.")],
    name: Annotated[str, typer.Argument(help="The checkpoint's name.")],
    limits: Annotated[str, typer.Argument(help="What somebody who uses it should know.")],
    photographs: Annotated[
        str | None, typer.Option(help="Textures of synthetic scenes: whose, and their licence.")
    ] = None,
    meshes: Annotated[str | None, typer.Option(help="Meshes of synthetic worlds: whose, and their licence.")] = None,
    results: Annotated[list[Path] | None, typer.Option(help="results.json of `winwin evaluate --output`.")] = None,
    machine: Annotated[str | None, typer.Option(help="The machine that trained.")] = None,
    worst: Annotated[list[Path] | None, typer.Option(help="A picture of a worst case; repeatable.")] = None,
    worst_text: Annotated[str, typer.Option(help="What these pictures show.")] = "",
    init_licence: Annotated[str | None, typer.Option(help="Of the weights that the training started from.")] = None,
    publishable: Annotated[bool, typer.Option(help="Frames and truth of the worst cases may be shown.")] = False,
    processor: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="An option of its image processor, such as 'size={longest_edge: 640}' or min_pixels=921600; repeatable.",
        ),
    ] = None,
) -> None:
    """Make a bundled checkpoint of a finished training: half-precision weights, a card and its pictures."""
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise UsageError(f"NAME {name!r}: expected letters, digits, '-', '_' and '.', such as winwin-flow")
    shown = (worst_text, worst) if worst else None
    destination = bundled.CHECKPOINTS / name
    if destination.exists() and not (destination / "config.json").is_file():
        raise UsageError(f"{destination} is no model's folder, and is not replaced; expected another NAME")
    if wrong := [item for item in processor or [] if not re.match(r"\w+=", item)]:
        raise UsageError(f"--processor {wrong[0]}: expected KEY=VALUE")
    for picture in worst or []:
        try:
            read_image(picture)
        except (OSError, ValueError, UsageError) as error:
            raise UsageError(f"--worst {line_of(error)}") from error
    options = {
        key: plain_yaml(value, f"--processor {key}")
        for key, _, value in (item.partition("=") for item in processor or [])
    }
    bundle(run, destination, limits, photographs, results, machine, shown, publishable, init_licence, options, meshes)
    size = sum(path.stat().st_size for path in destination.iterdir())
    typer.echo(f"{destination}: {size / 1e6:.1f} MB")


@app.command("cards")
@one_line_errors
def cards_command() -> None:
    """Write the bundled checkpoints' README.md and MODEL_CARD.md again."""
    for path, text in bundled_cards().items():
        with write_atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        typer.echo(path)


def bundle(
    run: Path,
    destination: Path,
    limits: str,
    photographs: str | None = None,
    results: list[Path] | None = None,
    machine: str | None = None,
    worst: tuple[str, list[Path]] | None = None,
    publishable: bool = False,
    init_licence: str | None = None,
    processor: dict[str, Any] | None = None,
    meshes: str | None = None,
) -> Path:
    """
    Makes a bundled checkpoint of a finished training.

    Args:
        run: the training's output folder.
        destination: the new folder; its last part is the checkpoint's name. Replaced if it exists.
        results: `results.json` files of `winwin evaluate RUN/model --output`, for the card.
        worst: a sentence about the worst cases, and their pictures as `winwin evaluate --output` draws them.
        publishable: their frames and truth may be shown, not only predictions and errors.
        processor: options of the image processor beside those of the run's, such as a working size (`do_resize`, `size`).
        limits, photographs, meshes, machine, init_licence: see `Facts`.
    Raises: FileNotFoundError if the training has not ended.
    """
    if not (run / "model" / "config.json").is_file():
        raise FileNotFoundError(f"{run / 'model'}: no model there; has the training ended?")
    facts = read_facts(run / "model")
    facts.limits, facts.photographs, facts.init_licence = limits, photographs or facts.photographs, init_licence
    facts.meshes = meshes or facts.meshes
    facts.results = [read_results(path, {"model", run.name, destination.name}) for path in results or []]
    config, old = json.loads((run / "model" / "config.json").read_text()), destination / "config.json"
    if old.is_file() and (others := json.loads(old.read_text())["architectures"]) != config["architectures"]:
        raise ValueError(
            f"{destination} is a {others[0]} and {run} a {config['architectures'][0]}; expected another NAME"
        )
    known = AutoImageProcessor.from_pretrained(run / "model", trust_remote_code=False)
    if unknown := sorted(name for name in processor or {} if not hasattr(known, name)):
        raise ValueError(f"processor: unknown {', '.join(unknown)}; expected options of the image processor")
    with told_of(destination), replacing_folder(destination) as temporary:
        load_network(run / "model").to(torch.float16).save_pretrained(temporary)
        config = json.loads((temporary / "config.json").read_text())
        config["dtype"] = "float32"  # stored in half the space, loaded as float32: a CPU computes with that
        (temporary / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        AutoImageProcessor.from_pretrained(run / "model", trust_remote_code=False, **(processor or {})).save_pretrained(
            temporary
        )
        if facts.recipe is not None:
            facts.recipe.output = f"runs/{destination.name}"
            (temporary / "recipe.yaml").write_text(dump_recipe(facts.recipe))
        if (run / "metrics.jsonl").is_file():
            facts.hours, facts.machine = draw_curve(run / "metrics.jsonl", temporary / CURVE), machine
        if worst:
            facts.worst = worst[0]
            draw_worst(worst[1], temporary / WORST, publishable)
        write_facts(temporary / FACTS, facts)
        (temporary / "README.md").write_text(card(destination.name, facts))
        for path in temporary.iterdir():
            path.chmod(0o644)  # the package may be installed for other users
    return destination


# ------------------------------------------------------------------ pictures


def draw_curve(metrics: Path, target: Path) -> float | None:
    """
    Draws loss and held-out scores of a training against its hours, as a PNG.

    Args:
        metrics: a training's metrics.jsonl.
    Returns: the hours of its steps; None, and no picture, where metrics.jsonl has no times.
    """
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    steps = [line for line in lines if "loss" in line and "seconds" in line]
    if not steps:
        return None
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    hours = {line["step"]: line["seconds"] / 3600 for line in steps}
    group = max(1, len(steps) // CURVE_POINTS)
    x = [line["seconds"] / 3600 for line in steps][group - 1 :]
    y = np.convolve([line["loss"] for line in steps], np.full(group, 1 / group), "valid")
    figure, axis = plt.subplots(figsize=(6.4, 3.2), dpi=100)
    axis.plot(x, y, color="#999999")
    axis.set(xlabel="hours", ylabel="loss")
    main = [task.figure for task in TASKS.values() if task.figure]
    scored: dict[str, list[tuple[float, float]]] = {}
    label = ""
    for line in lines:
        for name, scores in line.items():
            key = next((key for key in main if isinstance(scores, dict) and scores.get(key) is not None), None)
            if key and line["step"] in hours:
                scored.setdefault(name, []).append((hours[line["step"]], scores[key]))
                label = NAMES[key]
    if any(len(points) > 1 for points in scored.values()):
        other = axis.twinx()
        for name, points in scored.items():
            other.plot(*zip(*points, strict=True), marker="o", label=name)
        other.set_ylabel(label)
        other.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(target)
    plt.close(figure)
    return x[-1]


def draw_worst(pictures: list[Path], target: Path, whole: bool = False) -> None:
    """
    Draws the worst cases, one below the other, as a JPEG.

    Args:
        pictures: those of `winwin evaluate --output`: image, truth, prediction and error side by side.
        whole: the frames may be published; else only prediction and error are shown.
    """
    rows = [np.asarray(Image.open(path).convert("RGB")) for path in pictures]
    rows = [row if whole else row[:, row.shape[1] // 2 :] for row in rows]
    width = min(row.shape[1] for row in rows)
    Image.fromarray(np.concatenate([row[:, :width] for row in rows])).save(target, quality=85)


# ------------------------------------------------------------------ cards

# Checkpoint -> pages of docs/results about it.
PAGES = {
    "winwin-depth": ("depth",),
    "winwin-flow": ("benchmarks", "large-motion", "speed"),
    "winwin-seg": ("segmentation",),
}
FAMILY = """# Model card

The checkpoints of the package: small RoPE vision transformers, trained on windows of each frame and run once on whole frames of any
size, as in Win-Win (ICLR 2024). An independent implementation.

{table}

Each name links to the card of that checkpoint: how to use it, all results and how they were measured, data, training, limits.

## Intended use

Trying the method, testing pipelines, starting other trainings. The weights carry the licence of their training data: those marked
"not commercial" are for research and private use only. The code is Apache-2.0.

## Limits

- They are far from the state of the art. Don't let them decide about people or vehicles.
- Each has seen little: {seen}.
- Many results are of a few images. The cards give the number of images of each.

## Train one again

`winwin recipes list` shows the recipes of the package, `winwin train RECIPE` trains by one. Each card has the command of its checkpoint.

This page and the cards are made by `python scripts/make_cards.py cards`, from the files beside the weights.
"""


def bundled_cards() -> dict[Path, str]:
    """Path -> text of the bundled checkpoints' cards and of MODEL_CARD.md."""
    known = {name: read_facts(folder) for name, folder in bundled.folders().items()}
    texts = {}
    for name, facts in known.items():
        pages = [f"[{page}](../../../docs/results/{page}.md)" for page in PAGES.get(name, ())]
        texts[bundled.folders()[name] / "README.md"] = card(name, facts, details=", ".join(pages))
    return {**texts, ROOT / "MODEL_CARD.md": family_card(known)}


def family_card(known: dict[str, Facts]) -> str:
    """MODEL_CARD.md: the bundled checkpoints in one table. known: name -> facts."""
    rows = ["| name | task | parameters | result | licence of the weights |", "|---|---|---|---|---|"]
    for name, facts in known.items():
        key = facts.task.figure
        score = next((score for score in facts.scores() if not score.method and key in score.metrics), None)
        metric, _, unit = NAMES[key].partition(" ") if score else ("-", "", "")
        value = f" {figure_text(score.metrics[key])} {unit}".rstrip() if score else ""
        where = f" on {score.place} ({score.images} images)" if score else ""
        link = f"[{name}](winwin_hf/checkpoints/{name}/README.md)"
        rows.append(
            f"| {link} | {facts.task.title} | {facts.parameters / 1e6:.1f} M | {metric}{value}{where} | {licence_of(facts)} |"
        )
    seen = "; ".join(f"{name} {', '.join(facts.data_sets())}" for name, facts in known.items())
    return FAMILY.format(table="\n".join(rows), seen=seen)


if __name__ == "__main__":
    app()
