"""Model cards: the facts of a checkpoint through one template, `model_card.md.jinja`, and its scores as the Hub's metadata.

No figure of a card is typed: scores come from evaluations, sizes from `config.json`, data and windows from `recipe.yaml`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from winwin_hf import bundled
from winwin_hf.data.sources import SYNTHETIC
from winwin_hf.evaluation.report import folder_name
from winwin_hf.evaluation.results import NAMES, ONE_PASS, SHOWN, WINDOWS, results_markdown
from winwin_hf.hub.facts import Facts
from winwin_hf.task import DoesNotFit
from winwin_hf.training.published import REPOSITORY, base_model, package_recipe

TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
CURVE, WORST, EXAMPLE = "curve.png", "worst.jpg", "example.jpg"  # pictures beside a card, as the template names them
HUB_METRICS = {"miou": "mean_iou"}  # names of hf.co/metrics that differ from ours
SOURCE, HUB = "winwin evaluate", "https://huggingface.co"


def card(
    name: str, facts: Facts, repo_id: str | None = None, picture: tuple[str, str] | None = None, details: str = ""
) -> str:
    """
    A checkpoint's README.md.

    Args:
        name: its title.
        repo_id: OWNER/NAME on the Hub; None for a bundled checkpoint, which is used by its bare name.
        picture: file name and caption of an example. details: links to pages about the results.
    """
    terms, task, recipe, place = facts.terms, facts.task, facts.recipe, repo_id or name
    scores, index = facts.scores(), model_index(facts, repo_id)
    shown = [key for key in SHOWN if any(key in score.metrics for score in scores if not score.method)]
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag=task.tag,
        license=terms.licence if terms else None,
        license_name=terms.licence_name if terms else None,
        license_link=terms.licence_link if terms else None,
        tags=["winwin", task.tag, *(["custom_code"] if repo_id else [])],
        datasets=facts.data_sets() or None,
        base_model=base_model(recipe),
        metrics=[HUB_METRICS.get(key, key) for key in shown if key != "loss"] or None,
        model_name=name if index else None,
        eval_results=index or None,
    )
    sets = recipe.data.sets if recipe else []
    folders = [f"--set data.sets.{k}.path=FOLDER" for k in range(len(sets))] or ["--set data.path=FOLDER"]
    scored = enumerate(recipe.evaluation.sets if recipe else [])
    folders += [
        f"--set evaluation.sets.{k}.path=FOLDER" for k, part in scored if part.name and part.name not in SYNTHETIC
    ]
    made = ModelCard.from_template(
        data,
        str(TEMPLATE),
        name=name,
        place=place,
        bundled=repo_id is None,
        facts=facts,
        picture=picture,
        licence=licence_of(facts),
        results=results_markdown(scores, task.figure, place),
        training=" ".join(["winwin train", (recipe and package_recipe(recipe)) or "recipe.yaml", *folders]),
        details=details,
    )
    return f"{str(made).rstrip()}\n"


def with_scores(text: str, name: str, facts: Facts, repo_id: str) -> str:
    """A card that came with converted weights, with the scores of `facts.results` in its metadata and at its end."""
    if not facts.results:
        return text
    made = ModelCard(text, ignore_metadata_errors=True)
    data: Any = made.data
    data.model_name = data.model_name or name
    data.eval_results = [*(data.eval_results or []), *model_index(facts, repo_id)]
    return f"{str(made).rstrip()}\n\n## Results\n\n{results_markdown(facts.scores(), facts.task.figure, repo_id)}\n"


def licence_of(facts: Facts) -> str:
    """The weights' licence in words."""
    terms = facts.terms
    return bundled.licence_label(terms.licence, terms.licence_name) if terms else "unknown"


def model_index(facts: Facts, repo_id: str | None) -> list[EvalResult]:
    """The model's own scores on full frames as metadata: one value for each set, split, setting and metric."""
    url = f"{HUB}/{repo_id}" if repo_id else None
    return [
        EvalResult(
            task_type=facts.task.tag,
            dataset_type=score.data,
            dataset_name=", ".join(filter(None, (score.data, score.options))),
            dataset_config=score.options or None,
            dataset_split=score.split,
            metric_type=HUB_METRICS.get(key, key),
            metric_name=NAMES[key],
            metric_config=score.run,
            metric_value=round(score.metrics[key], 4),
            source_name=SOURCE if url else None,
            source_url=url,
        )
        for score in facts.scores()
        if not score.method and score.run != WINDOWS
        for key in (SHOWN if score.run == ONE_PASS else (facts.task.figure,))
        if key in score.metrics
    ]


def eval_results(facts: Facts, repo_id: str, hub_datasets: dict[str, str]) -> dict[str, list[dict[str, Any]]]:
    """
    The Hub's newer form: file below `.eval_results/` -> its content. One value of the task's first metric for each set of the Hub.

    Args:
        hub_datasets: set -> its repository on the Hub, "OWNER/NAME" or "OWNER/NAME#TASK_ID" (a task of its eval.yaml;
            "default" without).
    Raises: DoesNotFit for a repository that isn't one, and a set that wasn't scored.
    """
    for name, repository in hub_datasets.items():
        if not re.fullmatch(REPOSITORY.pattern + r"(#[\w.-]+)?", repository):
            raise DoesNotFit(f"--hub-dataset {name}={repository}: expected OWNER/NAME or OWNER/NAME#TASK_ID")
    scored = {score.data for score in facts.scores()}
    if unknown := sorted(set(hub_datasets) - scored):
        raise DoesNotFit(
            f"--hub-dataset {', '.join(unknown)}: no such set among the scores; expected some of {', '.join(sorted(scored)) or '--results'}"
        )
    files: dict[str, list[dict[str, Any]]] = {}
    key = facts.task.figure
    for score in facts.scores():
        place = hub_datasets.get(score.data) or (score.data if score.on_hub else None)
        file = f"{folder_name(score.data.rpartition('/')[2])}.yaml"
        if place is None or not score.run or not score.date or key not in score.metrics or file in files:
            continue
        dataset, _, task = place.partition("#")
        entry = EvalResultEntry(
            dataset_id=dataset,
            task_id=task or "default",
            value=round(score.metrics[key], 4),
            date=score.date,
            source_url=f"{HUB}/{repo_id}",
            source_name=SOURCE,
            notes=f"{NAMES[key]}, {score.place}, {score.run}, {score.images} images",
        )
        files[file] = eval_result_entries_to_yaml([entry])
    return files
