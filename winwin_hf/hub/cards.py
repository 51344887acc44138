"""Model cards, made of what is known; and from a training's folder to a bundled checkpoint.

Notable:
- no figure in a card is typed: they come from the training's `metrics.jsonl` and from `results.json` files of `winwin evaluate`;
  sizes come from `config.json`, data and windows from `recipe.yaml`; see card_facts.py and card_figures.py.
- `python scripts/make_cards.py` makes those of the bundled checkpoints and `MODEL_CARD.md` again.
"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from transformers import AutoModel

from winwin_hf import bundled
from winwin_hf.data.formats.files import write_atomic
from winwin_hf.evaluation.figures import FIGURE_LABELS, figure_text
from winwin_hf.hub.card_facts import FACTS, UNITS, Facts, Terms, base_model, datasets_of, read_facts, write_facts
from winwin_hf.hub.card_figures import METRICS, PLACE, SOURCE, finite, model_index, read_results, tables
from winwin_hf.hub.card_pictures import CURVE, WORST, draw_curve, draw_worst
from winwin_hf.task import Task
from winwin_hf.training.recipe import dump_recipe

# ------------------------------------------------------------------ the card


def card(name: str, facts: Facts, repo_id: str | None = None, picture: tuple[str, str] | None = None) -> str:
    """
    A checkpoint's README.md.

    Args:
        name: its title.
        repo_id: OWNER/NAME on the Hub. Without, the card is of a bundled checkpoint, which is used by its bare name.
        picture: file name and caption of an example.
    """
    task, terms = facts.task, facts.terms
    place = repo_id or name
    keys = dict.fromkeys(key for line in _figure_rows(facts) for key in line)
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag=task.tag,
        license=terms.licence if terms else None,
        license_name=terms.licence_name if terms else None,
        license_link=terms.licence_link if terms else None,
        tags=["winwin", task.tag, *(["custom_code"] if repo_id else [])],
        datasets=datasets_of(facts.recipe) or None,
        base_model=base_model(facts.recipe),
        metrics=[METRICS.get(key, key) for key in keys if key != "loss"] or None,
        model_name=name,
        eval_results=(_training_index(facts, repo_id) + model_index(facts.results, repo_id)) or None,
    )
    if not metadata.eval_results:
        metadata.pop("model_name")
    parts = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {name}",
        f"{task.headline}, by a {facts.parameters / 1e6:.1f} M parameter Win-Win network (ICLR 2024, arXiv 2310.00632; an independent "
        "implementation): trained on windows of each frame, run once on whole frames of any size.",
    ]
    if picture:
        parts.append(f"![{picture[1].partition('. ')[0]}]({picture[0]})\n\n{picture[1]}")
    parts += [
        _use(task, place, repo_id),
        f"## Architecture\n\n{architecture(facts)}",
        f"## Training\n\n{_training(facts)}",
        f"## Figures\n\n{_figures(facts, place)}",
        *([f"## Worst cases\n\n![Predictions and their errors]({WORST})\n\n{facts.worst}"] if facts.worst else []),
        f"## Limits\n\n{limits_of(facts)}",
        f"## Licence\n\n{_licence(terms, repo_id)}",
    ]
    return "\n\n".join(parts) + "\n"


def with_figures(text: str, name: str, facts: Facts, repo_id: str) -> str:
    """A card that came with the checkpoint, as of converted weights, with the figures of `facts.results` in metadata and at its end."""
    if not facts.results:
        return text
    own = ModelCard(text, ignore_metadata_errors=True)
    data: Any = own.data
    data.model_name = data.model_name or name
    data.eval_results = [*(data.eval_results or []), *model_index(facts.results, repo_id)]
    return f"{str(own).rstrip()}\n\n## Figures\n\n{tables(facts.results, repo_id)}\n"


def limits_of(facts: Facts) -> str:
    """What a person wrote, or what follows from the recipe."""
    if facts.limits:
        return facts.limits
    seen = ", ".join(datasets_of(facts.recipe)) or "data that nobody noted"
    return (
        f"It has only seen {seen}. How it does on other pictures than those of the figures above, nobody has measured."
    )


def architecture(facts: Facts) -> str:
    """Encoder, decoder and head in a few lines, from the config."""
    config = facts.config
    positions = (
        f"RoPE (base {config.rope_theta:g})" if config.position_embedding == "rope" else "a fixed absolute embedding"
    )
    lines = [
        f"- encoder: {config.num_hidden_layers} blocks of width {config.hidden_size}, {config.num_attention_heads} heads, {positions}; "
        f"patches of {config.patch_size}x{config.patch_size} by "
        + ("one projection" if config.patch_embedding == "linear" else "a stem of convolutions"),
    ]
    if config.attention_pattern != "global":
        lines.append(f"- attention: within cells of {config.attention_cell_size} patches, global in some blocks")
    if facts.architecture in ("WinWinForOpticalFlow", "WinWinForPreTraining"):
        lines.append(
            f"- decoder: {config.decoder_num_hidden_layers} blocks of width {config.decoder_hidden_size}, "
            f"{config.decoder_num_attention_heads} heads, with cross-attention to the second view"
        )
    if facts.architecture == "WinWinForOpticalFlow" and config.matching_stride:
        lines.append(
            f"- explicit matching of positions every {config.matching_stride} pixels, {config.matching_size} channels"
        )
    if facts.architecture.startswith("WinWinFor") and facts.architecture != "WinWinForPreTraining":
        head = {"conv": "ConvNeXt blocks and pixel shuffles", "linear": "one projection a token", "dpt": "DPT"}
        lines.append(f"- head: {head.get(config.head_type, config.head_type)}")
    if facts.architecture == "WinWinForDepthEstimation":
        lines.append(f"- depth from {config.min_depth:g} to {config.max_depth:g} m")
    if facts.architecture == "WinWinForSemanticSegmentation":
        labels: dict[Any, str] = config.id2label or {}
        names = [labels[k] for k in sorted(labels)]
        lines.append(f"- {len(names)} classes: {', '.join(names)}")
    return "\n".join(lines)


def _use(task: Task, place: str, repo_id: str | None) -> str:
    install = "" if repo_id else "; `winwin checkpoints install` once makes the bare name work"
    lines = [f"import winwin_hf  # registers the model{install}"]
    if task.example:
        lines += ["from transformers import pipeline", "", task.example.format(name=place, options="")]
    else:
        lines += ["from transformers import AutoModel", "", f'model = AutoModel.from_pretrained("{place}")']
    text = "```python\n" + "\n".join(lines) + "\n```"
    if repo_id:
        bare = (
            [
                "from transformers import pipeline",
                "",
                task.example.format(name=place, options=", trust_remote_code=True"),
            ]
            if task.example
            else [
                "from transformers import AutoModel",
                "",
                f'model = AutoModel.from_pretrained("{place}", trust_remote_code=True)',
            ]
        )
        text += "\n\nWithout `winwin_hf`, by the code beside the weights:\n\n```python\n" + "\n".join(bare) + "\n```"
    return text


def _training(facts: Facts) -> str:
    recipe, terms = facts.recipe, facts.terms
    if recipe is None or terms is None:
        return "No recipe came with these weights: what they were trained on is not known."
    windows, options = recipe.windows, recipe.optimization
    shape = f"{windows.count} windows of {windows.size[0]}x{windows.size[1]} patches" if windows.size else windows.kind
    if recipe.task == "optical-flow" and windows.kind == "windows":
        second = recipe.second_windows
        size = f"{second.size[0]}x{second.size[1]} patches" if second.size else f"{second.factor} times that size"
        shape += f"; second view: {size}, following the true flow with a jitter of {second.jitter} patches"
        if recipe.initial_flow.probability > 0:
            shape += f"; {100 * recipe.initial_flow.probability:g} % with a guess of the flow, made from the truth and spoilt"
    per_step = options.batch_size * options.accumulation
    step = facts.step or options.steps
    folders = "--set data.path=FOLDER"
    if recipe.data.sets:
        folders = " ".join(f"--set data.sets.{k}.path=FOLDER" for k in range(len(recipe.data.sets)))
    lines = [
        f"- data: {terms.text}",
        f"- tokens kept: {shape}, patch {facts.config.patch_size}",
        f"- {step} steps of {per_step} examples ({per_step * step} in all), {options.mixed_precision} precision",
    ]
    if facts.hours is not None:
        lines.append(f"- {facts.hours:.2f} hours" + (f" on {facts.machine}" if facts.machine else ""))
    if recipe.model.init:
        terms_go_on = "whose terms go on" if facts.init_licence is None else facts.init_licence
        lines.append(f"- started from `{recipe.model.init}`, {terms_go_on}")
    lines += [
        "- everything else is in `recipe.yaml` beside this file",
        f"- command: `accelerate launch scripts/train.py recipe.yaml {folders}`",
    ]
    curve = f"\n\n![Loss and held-out scores by hours of training]({CURVE})" if facts.hours is not None else ""
    return "\n".join(lines) + curve


def _figure_rows(facts: Facts) -> list[dict[str, float]]:
    """The figures of the model in this card: those of its training's end, then those of its results."""
    ends = [
        {key: value for key, value in scores.items() if key in UNITS and value is not None and math.isfinite(value)}
        for scores in facts.evaluation.values()
    ]
    return ends + [finite(line["figures"]) for result in facts.results for line in result.own()]


def _figures(facts: Facts, place: str) -> str:
    parts = []
    if facts.evaluation and facts.recipe:
        folders = "--set data.path=FOLDER"
        if facts.recipe.data.sets:
            folders = " ".join(f"--set data.sets.{k}.path=FOLDER" for k in range(len(facts.recipe.data.sets)))
        parts.append(
            "Printed by the training at its end, on held-out data; full frames in one pass. The same again:\n"
            f"`winwin evaluate {place} --recipe recipe.yaml {folders}`.\n\n{training_table(facts)}"
        )
    if facts.results:
        parts.append(tables(facts.results, place))
    return "\n\n".join(parts) or "None were given."


def training_table(facts: Facts) -> str:
    """Markdown: the scores of the training's last evaluation, one row a set."""
    sets = facts.evaluation
    known = dict.fromkeys(key for scores in sets.values() for key in scores if key in UNITS)
    keys = [key for key in known if any(figure_text(scores.get(key)) != "-" for scores in sets.values())]
    rows = [
        f"| {label} | {' x '.join(map(str, s['size'])) if 'size' in s else 'windows, as in training'} | {s['images']} | "
        + " | ".join(_said(s.get(k)) for k in keys)
        + " |"
        for label, s in sets.items()
    ]
    head = [f"| set | size | images | {' | '.join(UNITS[k] for k in keys)} |", f"|---|---|---|{'---|' * len(keys)}"]
    return "\n".join([*head, *rows])


def _said(value: Any) -> str:
    """As `figures.figure_text`, but no digit more than was noted of figures that were noted with two."""
    return f"{value:.2f}" if value is not None and round(value, 2) == value else figure_text(value)


def _training_index(facts: Facts, repo_id: str | None) -> list[EvalResult]:
    """The training's own scores on full frames, for the metadata."""
    if facts.recipe is None:
        return []
    url = f"{PLACE}/{repo_id}" if repo_id else None
    first = facts.recipe.data.parts()[0].name
    sets = {chosen.label: chosen for chosen in facts.recipe.evaluation.sets}
    return [
        EvalResult(
            task_type=facts.task.tag,
            dataset_type=sets[label].name or first or "?",
            dataset_name=f"{sets[label].name or first}, {label}",
            dataset_config=label,
            dataset_split=sets[label].split,
            metric_type=METRICS.get(key, key),
            metric_name=FIGURE_LABELS[key],
            metric_value=round(value, 4),
            source_name=SOURCE if url else None,
            source_url=url,
        )
        for label, scores in facts.evaluation.items()
        if label in sets
        for key, value in finite(scores).items()
    ]


def _licence(terms: Terms | None, repo_id: str | None) -> str:
    if terms is None:
        weights = "Nobody noted what the weights were trained on, so nobody knows their terms."
    elif terms.licence == "other":
        weights = f"The weights carry the terms of their training data ({terms.licence_name}); see above."
    else:
        weights = f"The weights: {terms.licence}, as their training data."
    if terms is not None and terms.restricted:
        weights += " Not for commercial use."
    code = "The Python files beside them are those of `winwin_hf`" if repo_id else "The code of `winwin_hf`"
    return f"{weights} {code}: Apache-2.0. The method is the paper's: Leroy, Revaud, Lucas, Weinzaepfel, ICLR 2024."


# ------------------------------------------------------------------ bundled checkpoints


def bundle(
    run: str | Path,
    destination: str | Path,
    limits: str,
    photographs: str | None = None,
    results: list[str] | None = None,
    machine: str | None = None,
    worst: tuple[str, list[Path]] | None = None,
    publishable: bool = False,
    init_licence: str | None = None,
) -> Path:
    """
    Makes a bundled checkpoint of a finished training.

    Args:
        run: the training's output folder.
        destination: the new folder; its last part is the checkpoint's name. Replaced if it exists.
        limits: what somebody who uses it should know, in a sentence or two.
        photographs: of synthetic scenes with photographs as textures: whose they are, and their terms.
        results: `results.json` files of `winwin evaluate RUN/model --output`, for the card.
        machine: what it was trained on.
        worst: a sentence about the worst cases, and their pictures as `winwin evaluate --output` draws them; publishable: frames and
            truth may be shown, not only predictions and errors.
        init_licence: of the weights that the training started from.
    Raises: FileNotFoundError if the training has not ended.
    """
    run, destination = Path(run), Path(destination)
    if not (run / "model" / "config.json").is_file():
        raise FileNotFoundError(f"{run / 'model'}: no model there; has the training ended?")
    read = [read_results(path, {"model", run.name, destination.name}) for path in results or []]
    facts = read_facts(run / "model", limits, photographs, read)
    facts.init_licence = init_licence
    temporary = destination.with_name(destination.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    model = AutoModel.from_pretrained(run / "model")
    model.to(torch.float16).save_pretrained(temporary)
    config = json.loads((temporary / "config.json").read_text())
    config["dtype"] = "float32"  # stored in half the space, loaded as float32: a CPU computes with that
    (temporary / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    shutil.copy(run / "model" / "preprocessor_config.json", temporary)
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
        path.chmod(0o644)  # a package is read by others than who made it
    shutil.rmtree(destination, ignore_errors=True)
    temporary.replace(destination)
    return destination


def make_bundled_cards(family: Path) -> list[Path]:
    """Makes the README.md of each bundled checkpoint, and the family's card at `family`, again from what is known."""
    known = {name: read_facts(folder) for name, folder in bundled.folders().items()}
    written = {folder / "README.md": card(name, known[name]) for name, folder in bundled.folders().items()}
    written[family] = family_card(known)
    for path, text in written.items():
        with write_atomic(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return list(written)


def family_card(known: dict[str, Facts]) -> str:
    """MODEL_CARD.md: the bundled checkpoints side by side. known: name -> facts."""
    rows, parts = [], []
    for name, facts in known.items():
        terms = facts.terms
        licence = (terms.licence_name or terms.licence) if terms else "not known"
        use = "; not for commercial use" if terms and terms.restricted else ""
        rows.append(
            f"| `{name}` | {facts.task.headline[0].lower() + facts.task.headline[1:]} | {facts.parameters / 1e6:.1f} M | "
            f"{', '.join(datasets_of(facts.recipe))} | {licence}{use} |"
        )
        parts.append(
            f"## {name}\n\n{architecture(facts)}\n- data: {terms.text if terms else 'not known'}\n\n"
            f"{_figures(facts, name)}\n\n**Limits.** {limits_of(facts)}"
        )
    table = "\n".join(
        ["| name | task | parameters | trained on | terms of the weights |", "|---|---|---|---|---|", *rows]
    )
    return f"""# Model card of the family

The bundled checkpoints. Each has a card of its own (`winwin_hf/checkpoints/*/README.md`); all are made from the trainings and
evaluations by `python scripts/make_cards.py`.

{table}

**What they are.** RoPE vision transformers (Win-Win, ICLR 2024; an independent implementation), trained on windows of each frame and run
once on whole frames of any size.

**What they are for.** Trying the method, testing pipelines, starting points for training. They are not state of the art, and not for
decisions about people or vehicles.

**Reproduce.** `winwin_hf/recipes/*.yaml`; each checkpoint holds the recipe it was trained by.

{(chr(10) * 2).join(parts)}
"""
