"""Figures for a model card: of what `winwin evaluate --output` wrote, as tables, as `model-index` and as `.eval_results/*.yaml`.

Notable:
- a figure never stands without the command, the machine and the versions that it came from.
- nothing of the evaluating machine's folders gets into a card: paths of a command become FOLDER, names of files are only counted.
- `.eval_results` are about data sets of the Hub. A set on disk has an entry only where its caller names its repository there.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml

from winwin_hf.evaluation.depth_baselines import METHODS
from winwin_hf.evaluation.figures import FIGURE_LABELS, figure_text
from winwin_hf.evaluation.methods import BASELINES
from winwin_hf.evaluation.report import folder_name
from winwin_hf.task import TASKS

# Names that hf.co/metrics has for ours; the others keep their own.
METRICS = {"miou": "mean_iou"}
SOURCE = "winwin evaluate"
PLACE = "https://huggingface.co"
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass
class Results:
    """One `results.json`, fit to be published. lines: those of `report.Line`, with `hub`, the data set's repository or None, in the
    place of `path`, and counts in the place of the names of missing and broken examples."""

    method: str  # the one of `lines` that is the model's own; the others stand beside it
    command: str
    date: str
    machine: dict[str, Any]
    versions: dict[str, str]
    lines: list[dict[str, Any]]

    def record(self) -> dict[str, Any]:
        """For `card.json`."""
        return asdict(self)

    def own(self) -> list[dict[str, Any]]:
        """The model's own lines."""
        return [line for line in self.lines if line["method"] == self.method]


def read_results(path: str | Path, names: set[str]) -> Results:
    """
    Reads a `results.json` (or the folder that holds one).

    Args:
        names: what the model may be called there; needed where several models were scored side by side.
    Raises: FileNotFoundError; ValueError if it is no such file or has no figures of this model.
    """
    path = Path(path)
    path = path / "results.json" if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such file; `winwin evaluate CHECKPOINT --data ... --output FOLDER` writes one"
        )
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        methods = list(dict.fromkeys(line["method"] for line in record["results"]))
        command, date = record["command"], record["date"]
        machine, versions = record["machine"], record["versions"]
        lines = [_published(line) for line in record["results"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path}: expected the results.json of `winwin evaluate --output`; {type(error).__name__}: {error}"
        ) from None
    networks = [method for method in methods if method not in BASELINES]
    named = [method for method in networks if method in names]
    if len(named) != 1:
        raise ValueError(
            f"{path}: has figures of {', '.join(methods) or 'nothing'}; expected those of {' or '.join(sorted(names))}"
        )
    return Results(named[0], public_command(command, named[0]), date, machine, versions, lines)


def _published(line: dict[str, Any]) -> dict[str, Any]:
    path = line["path"]
    of_hub = line["data"] == "hub" and REPOSITORY.fullmatch(path)
    kept = ("data", "split", "task", "method", "inference", "images", "scored", "seconds", "figures")
    return {
        **{key: line[key] for key in kept},
        "left_out": len(line["missing"]) + len(line["broken"]),
        "hub": path if of_hub else None,
    }


def public_command(command: str, method: str) -> str:
    """The command of a `results.json` without its machine's folders; MODEL stands for the model's own place."""
    program, *words = shlex.split(command)
    done = ["python", f"scripts/{program}"] if program.endswith(".py") else [Path(program).name]
    option = ""
    for word in words:
        if option in ("--output", "-o"):
            option = ""
            continue
        name, equals, value = word.partition("=")
        if word in ("--output", "-o"):
            option = word
            continue
        if name == "--output" and equals:
            continue
        if option == "--data" or (name == "--data" and equals):
            place = value if option == "--data" else value.partition("=")[2]
            head = word[: len(word) - len(place)]
            of_hub = re.search(r"(?:^|=)hub(?::[^=]*)?=$", head) and REPOSITORY.fullmatch(place)
            done.append(word if of_hub else f"{head}FOLDER")
        elif name.partition("@")[0] in METHODS and equals:
            done.append(f"{name}=FOLDER")
        elif option != "--beside" and not word.startswith("-") and Path(word).name == method:
            done.append("MODEL")
        elif "/" in word or "\\" in word or word.startswith("~"):
            done.append(re.split(r"[/\\]", word.rstrip("/\\"))[-1])
        else:
            done.append(word)
        option = word if word.startswith("--") and not equals else ""
    return shlex.join(done)


def finite(figures: dict[str, Any]) -> dict[str, float]:
    """The figures that have a unit and a value, in the order of `FIGURE_LABELS`."""
    return {key: figures[key] for key in FIGURE_LABELS if figures.get(key) is not None and math.isfinite(figures[key])}


def tables(results: list[Results], name: str) -> str:
    """Markdown: for each of `results` where it comes from, and a table."""
    parts = []
    for result in results:
        keys = [key for key in FIGURE_LABELS if any(key in finite(line["figures"]) for line in result.lines)]
        rows = [
            "| " + " | ".join(["set", "method", "images", *(FIGURE_LABELS[key] for key in keys), "s / image"]) + " |",
            "|---|---|---|" + "---|" * (len(keys) + 1),
        ]
        for line in result.lines:
            method = f"**{name}**" if line["method"] == result.method else line["method"]
            if line["inference"] != "one pass":
                method += f" ({line['inference']})"
            images = str(line["images"]) + (f" (-{line['left_out']})" if line["left_out"] else "")
            values = [figure_text(line["figures"].get(key)) for key in keys]
            place = f"{line['data']}:{line['split']}" + (f" ({line['hub']})" if line["hub"] else "")
            rows.append("| " + " | ".join([place, method, images, *values, f"{line['seconds']:.2f}"]) + " |")
        machine = result.machine
        threads = machine.get("threads")
        device = machine.get("accelerator") or f"{machine.get('cpu')}, {threads} thread{'' if threads == 1 else 's'}"
        versions = ", ".join(
            f"{key} {result.versions[key]}" for key in ("torch", "transformers") if key in result.versions
        )
        command = re.sub(r"\bMODEL\b", name, result.command, count=1)
        parts.append(f"`{command}` ({result.date[:10]}; {device}; {versions}):\n\n" + "\n".join(rows))
    return "\n\n".join(parts)


def model_index(results: list[Results], repo_id: str | None) -> list[EvalResult]:
    """The figures of the model's own lines as the Hub's older metadata has them."""
    url = f"{PLACE}/{repo_id}" if repo_id else None
    return [
        EvalResult(
            task_type=TASKS[line["task"]].tag,
            dataset_type=line["hub"] or line["data"],
            dataset_name=line["data"],
            dataset_split=line["split"],
            dataset_config=None if line["inference"] == "one pass" else line["inference"],
            metric_type=METRICS.get(key, key),
            metric_name=FIGURE_LABELS[key],
            metric_value=round(value, 4),
            source_name=SOURCE if url else None,
            source_url=url,
        )
        for result in results
        for line in result.own()
        for key, value in finite(line["figures"]).items()
    ]


def eval_results(results: list[Results], repo_id: str, hub_datasets: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """
    The Hub's present form: file below `.eval_results/` -> what it holds. One value a set, by which its task is ranked.

    Args:
        hub_datasets: set -> its repository on the Hub, "OWNER/NAME" or "OWNER/NAME#TASK_ID" (a task of its eval.yaml;
            "default" without).
    Raises: ValueError for a repository that isn't one.
    """
    files: dict[str, list[dict[str, Any]]] = {}
    for name, repository in hub_datasets.items():
        if not re.fullmatch(REPOSITORY.pattern + r"(#[\w.-]+)?", repository):
            raise ValueError(f"--hub-dataset {name}={repository}: expected OWNER/NAME or OWNER/NAME#TASK_ID")
    for result in results:
        for line in result.own():
            key = TASKS[line["task"]].figure
            place = hub_datasets.get(line["data"]) or line["hub"]
            value = finite(line["figures"]).get(key)
            if place is None or value is None:
                continue
            dataset, _, task = place.partition("#")
            entry = EvalResultEntry(
                dataset_id=dataset,
                task_id=task or "default",
                value=round(value, 4),
                date=result.date,
                source_url=f"{PLACE}/{repo_id}",
                source_name=SOURCE,
                notes=f"{FIGURE_LABELS[key]}, split {line['split']}, {line['inference']}, {line['images']} images",
            )
            file = f"{folder_name(line['data'] if line['data'] != 'hub' else dataset.partition('/')[2])}.yaml"
            files.setdefault(file, []).extend(eval_result_entries_to_yaml([entry]))
    return files
