"""Writes a converted checkpoint: config, weights, image processor and card."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from winwin_hf import __version__
from winwin_hf.convert.croco.tensors import to_model
from winwin_hf.convert.folder import check_output, new_folder
from winwin_hf.model.configuration_winwin import WinWinConfig
from winwin_hf.model.croco_files_winwin import TITLES, CrocoCheckpoint, parse_call, read_croco
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.own_files import sha256_of

CARD = Path(__file__).with_name("card.md.jinja")
TAGS = {"pretraining": "pre-training", "flow": "optical-flow-estimation", "stereo": "stereo-matching"}


@dataclass(frozen=True)
class Conversion:
    """
    What `convert_croco` wrote.

    Attributes:
        kind: "pretraining", "flow" or "stereo".
        architecture: the class that `AutoModel.from_pretrained` returns.
        parameters: number of the model's parameters.
        used: number of the source's tensors that are in the model. dropped: each other tensor -> why it isn't.
    """

    folder: Path
    kind: str
    architecture: str
    parameters: int
    used: int
    dropped: dict[str, str] = field(repr=False)


def convert_croco(
    source: str | Path, output: str | Path, overwrite: bool = False, max_shard_size: int | str = "5GB"
) -> Conversion:
    """
    Converts a public CroCo checkpoint into a folder for `from_pretrained`, in float32.

    Args:
        source: the .pth file.
        output: the new folder. It is written under a temporary name beside it and renamed at the end.
        overwrite: replace `output` if it exists and has a config.json.
        max_shard_size: larger weights are split into files of at most this size.
    Raises:
        FileExistsError: `output` exists, and isn't to be or can't be replaced.
        FileNotFoundError, ValueError: as `load_croco`.
    """
    source, output = Path(source), Path(output)
    check_output(output, overwrite, source)
    checkpoint = read_croco(source)
    model, plan = to_model(checkpoint)
    conversion = Conversion(
        folder=output,
        kind=checkpoint.kind,
        architecture=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        used=len(checkpoint.tensors) - len(plan.dropped),
        dropped=plan.dropped,
    )
    with new_folder(output, overwrite) as folder:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        WinWinImageProcessor(patch_size=model.config.patch_size).save_pretrained(folder)
        make_card(checkpoint, conversion, model.config).save(folder / "README.md")
    return conversion


def make_card(checkpoint: CrocoCheckpoint, conversion: Conversion, config: WinWinConfig) -> ModelCard:
    """The model card: how to load it, where the weights come from, their licence, and which tensors aren't used."""
    kind = checkpoint.kind
    metadata = ModelCardData(
        library_name="transformers",
        license="cc-by-nc-sa-4.0",
        pipeline_tag="optical-flow-estimation" if kind == "flow" else None,
        tags=["winwin", "croco", TAGS[kind]],
    )
    reasons: dict[str, list[str]] = {}
    for tensor, why in conversion.dropped.items():
        reasons.setdefault("the same as another" if why.startswith("the same as") else why, []).append(f"`{tensor}`")
    weighting, tiles = _tiling(checkpoint)
    criterion = str(checkpoint.training.get("criterion", "unknown"))
    variables: dict[str, Any] = {
        "kind": kind,
        "title": TITLES[kind],
        "name": conversion.folder.name,
        "conversion": conversion,
        "config": config,
        "file": checkpoint.path.name,
        "sha256": sha256_of(checkpoint.path),
        "version": __version__,
        "crop": checkpoint.crop(),
        "tiles": tiles,
        "other_weighting": weighting,
        "criterion": criterion,
        "same_scale": parse_call(criterion)[0] == "LaplacianLossBounded",
        "dropped": reasons,
    }
    return ModelCard.from_template(metadata, template_path=str(CARD), **variables)


def _tiling(checkpoint: CrocoCheckpoint) -> tuple[str | None, str]:
    """The weighting of the authors' tiles if `predict_flow` doesn't have it, and arguments of `predict_flow` for their tiles."""
    weighting = str(checkpoint.training.get("tile_conf_mode", ""))
    tiles = f"tile={checkpoint.crop()}, overlap=0.9"
    if match := re.fullmatch(r"conf_expsigmoid_([\d.]+)_([\d.]+)", weighting):
        return None, f"{tiles}, beta={match[1]}, beta_sigmoid={match[2]}"
    return (weighting if re.fullmatch(r"[\w.-]{1,60}", weighting) else "of its own" if weighting else None), tiles
