"""Reading `results.json` of `winwin evaluate`: the scores with where they come from, fit to be published.

Folders and file names of the evaluating machine are removed: folders become FOLDER, missing and broken files a number.
"""

from __future__ import annotations

import itertools
import math
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from winwin_hf.data.formats.files import read_json
from winwin_hf.evaluation.depth_baselines import METHODS
from winwin_hf.evaluation.figures import FIGURE_LABELS, figure_text
from winwin_hf.evaluation.methods import BASELINES

NAMES = {**FIGURE_LABELS, "loss": "loss"}  # metric -> how a table names it; the loss is that of pre-training
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # of the Hub
# Metrics that a card shows; results.json and card.json have all.
SHOWN = ("epe", "1px", "fl", "miou", "accuracy", "mean_accuracy", "abs_rel", "rmse", "delta1", "loss")
ONE_PASS = "one pass"
WINDOWS = "windows as in training"  # how a training also scores itself
# Options of `winwin evaluate` that change scores, and how they are named beside a score.
OPTIONS = {
    "--min-pixels": "min_pixels ",
    "--quality": "quality ",
    "--precision": "",
    "--length": "length ",
    "--align": "align ",
    "--double": "double ",
}


OF_OUTPUT = ("--output", "-o", "--worst")  # options that a published command is without, with their values


@dataclass(frozen=True)
class Score:
    """
    Metrics of one method on one set.

    Attributes:
        data, split: the set; on_hub: `data` is its repository.
        options: how the set was scored, such as "align median" or "length 12".
        run: how the model ran, such as "one pass" or "coarse"; "" for another method.
        method: "" for the model itself. One method has one score by data, split, options and run.
        images, left_out: numbers of examples. seconds: median of a prediction.
        metrics: name -> value, finite.
        date, source: of an evaluation: when, and its command, machine and versions.
    """

    data: str
    split: str
    options: str
    run: str
    method: str
    images: int
    metrics: dict[str, float]
    left_out: int = 0
    seconds: float | None = None
    on_hub: bool = False
    date: str = ""
    source: str = ""

    @property
    def place(self) -> str:
        """The set, its split and the options in words."""
        return ", ".join(filter(None, (f"{self.data}:{self.split}", self.options)))

    @property
    def count(self) -> str:
        """Images, and how many more were left out, such as "4 (-2)"."""
        return f"{self.images} (-{self.left_out})" if self.left_out else str(self.images)

    @property
    def time(self) -> str:
        return f"{self.seconds:.2f}" if self.seconds is not None else "-"

    def label(self, model: str) -> str:
        """The method, or the model's name and how it ran."""
        return self.method or f"**{model}**, {self.run}"


@dataclass
class Results:
    """
    One `results.json`, fit to be published.

    Attributes:
        method: which one of `lines` is the model's own; METHOD+coarse and METHOD+variational are too.
        lines: those of `report.Line`, with `hub`, the data set's repository or None, in the place of `path`, and `left_out`, a number,
            in the place of the names of missing and broken examples.
    """

    method: str
    command: str
    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    lines: list[dict[str, Any]]

    def scores(self) -> list[Score]:
        threads = f"{self.machine.get('threads')} thread{'' if self.machine.get('threads') == 1 else 's'}"
        device = self.machine.get("accelerator") or f"{self.machine.get('cpu')}, {threads}"
        versions = ", ".join(f"{key} {self.versions[key]}" for key in ("torch", "transformers") if key in self.versions)
        source = f"`{self.command}` ({self.date[:10]}; {device}; {versions})"
        found = []
        for line in self.lines:
            method, _, variant = line["method"].partition("+")
            own = method == self.method
            options = _options(self.command, line["data"])
            run = [
                variant or line["inference"],
                *(text for text in options if text.startswith(("min_pixels", "quality"))),
            ]
            if len(run) > 1 and run[0] == ONE_PASS:
                run = run[1:]
            found.append(
                Score(
                    data=line["hub"] or line["data"],
                    split=line["split"],
                    options=", ".join(text for text in options if text not in run),
                    run=", ".join(run) if own else "",
                    method="" if own else line["method"],
                    images=line["images"],
                    metrics=finite(line["figures"]),
                    left_out=line["left_out"],
                    seconds=line["seconds"],
                    on_hub=bool(line["hub"]),
                    date=self.date,
                    source=source,
                )
            )
        return found


def finite(metrics: dict[str, Any]) -> dict[str, float]:
    """The metrics of `NAMES` that have a value, in its order."""
    return {key: metrics[key] for key in NAMES if metrics.get(key) is not None and math.isfinite(metrics[key])}


def _options(command: str, data: str) -> list[str]:
    """The options of a public command that change the scores on the set `data`, in words."""
    words = [part for word in shlex.split(command) for part in (word.split("=", 1) if word[:2] == "--" else [word])]
    found = []
    for option, value in itertools.pairwise(words):
        if option in OPTIONS:
            found.append(OPTIONS[option] + value)
        elif option == "--option" and value.startswith(f"{data}."):
            found.append(value.removeprefix(f"{data}."))
    return found


def read_results(path: str | Path, names: set[str]) -> Results:
    """
    Reads a `results.json` of `winwin evaluate --output`, or the folder that holds one.

    Args:
        names: what the model may be called there; exactly one of them must have scores.
    Raises: FileNotFoundError; ValueError if it is another file or has no scores of this model.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; `winwin evaluate CHECKPOINT --data ... --output FOLDER` writes one"
        )
    try:
        record = read_json(path)
        methods = list(dict.fromkeys(line["method"] for line in record["results"]))
        command, date, machine, versions = (record[key] for key in ("command", "date", "machine", "versions"))
        lines = [_published(line) for line in record["results"]]
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path}: expected the results.json of `winwin evaluate --output`; {type(error).__name__}: {error}"
        ) from None
    named = [method for method in methods if method not in BASELINES and method in names]
    if len(named) != 1:
        raise ValueError(
            f"{path}: has scores of {', '.join(methods) or 'nothing'}; expected those of {' or '.join(sorted(names))}"
        )
    return Results(named[0], public_command(command, named[0]), date, machine, versions, lines)


def _published(line: dict[str, Any]) -> dict[str, Any]:
    kept = ("data", "split", "task", "method", "inference", "images", "scored", "seconds", "figures")
    left_out = len(line["missing"]) + len(line["broken"])
    on_hub = line["data"] == "hub" and REPOSITORY.fullmatch(line["path"])
    return {**{key: line[key] for key in kept}, "left_out": left_out, "hub": line["path"] if on_hub else None}


def public_command(command: str, method: str) -> str:
    """A command of `results.json` without folders of its machine; MODEL stands for the model, FOLDER for a data set."""
    program, *words = shlex.split(command)
    shown = ["python", f"scripts/{program}"] if program.endswith(".py") else [Path(program).name]
    option = ""  # the one whose value comes next
    for word in words:
        name, equals, value = word.partition("=")
        if option in OF_OUTPUT:
            option = ""
            continue
        if name in OF_OUTPUT:
            option = "" if equals else name
            continue
        if word in ("--overwrite", "--submission"):
            continue
        if option == "--data" or (name == "--data" and equals):
            place = value if option == "--data" else value.partition("=")[2]
            head = word[: len(word) - len(place)]
            on_hub = re.search(r"(?:^|=)hub(?::[^=]*)?=$", head) and REPOSITORY.fullmatch(place)
            shown.append(word if on_hub else f"{head}FOLDER")
        elif name.partition("@")[0] in METHODS and equals:
            shown.append(f"{name}=FOLDER")
        elif option != "--beside" and not word.startswith("-") and Path(word).name == method:
            shown.append("MODEL")
        elif "/" in word or "\\" in word or word.startswith("~"):
            shown.append(re.split(r"[/\\]", word.rstrip("/\\"))[-1])
        else:
            shown.append(word)
        option = word if word.startswith("--") and not equals else ""
    return shlex.join(shown)


def results_markdown(scores: list[Score], key: str, place: str) -> str:
    """
    Tables of scores: the model's own by metric; the metric `key` of other methods and other ways to run it; the commands.

    Args:
        key: the task's main metric.
        place: the model's name in tables and commands.
    """
    own = [score for score in scores if score.run in (ONE_PASS, WINDOWS)]
    shown = [name for name in SHOWN if any(name in score.metrics for score in own)]
    rows = [[s.place, s.count, *(figure_text(s.metrics.get(name)) for name in shown), s.time] for s in own]
    parts = [_table(["set", "images", *(NAMES[name] for name in shown), "s / image"], rows)] if rows else []
    measured = [score for score in scores if score.date and key in score.metrics]
    methods = dict.fromkeys(score.label(place) for score in sorted(measured, key=lambda score: score.method != ""))
    if len(methods) > 1:
        found = {(score.place, score.label(place)): figure_text(score.metrics[key]) for score in measured}
        places = dict.fromkeys(row for row, _ in found)
        rows = [[row, *(found.get((row, method), "-") for method in methods)] for row in places]
        parts.append(f"{NAMES[key]} of other settings and methods:\n\n{_table(['set', *methods], rows)}")
    sources = [re.sub(r"\bMODEL\b", place, text, count=1) for text in dict.fromkeys(s.source for s in scores) if text]
    if sources:
        head = "<details><summary>Commands, machines, versions</summary>\n"
        parts.append("\n".join([head, *(f"- {source}" for source in sources), "\n</details>"]))
    return "\n\n".join(parts)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows))
