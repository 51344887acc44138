"""Folders as a version saved them, one of each kind: what is in them, and what they predict for one picture or pair."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from support.model_cases import SMALL, TASKS, VARIANTS, randomise
from winwin_hf import WinWinBackbone, WinWinConfig, WinWinModel

FOLDER = Path(__file__).parents[1] / "frames" / "saved"
TINY = {
    **SMALL,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 1,
    "head_hidden_size": 16,
    "dpt_layer_sizes": [4, 4, 8, 8],
    "dpt_hidden_size": 8,
}
PRETRAINED = {"position_embedding": "rope_frame", "num_prefix_tokens": 5, "layerscale_value": 1.0, "key_bias": False}
TABLE = {"position_embedding": "learned", "position_grid": [3, 3], "num_prefix_tokens": 1}
KINDS: dict[str, tuple[type, dict[str, Any]]] = {
    "flow": (TASKS["optical-flow"], VARIANTS["linear"]),
    "flow-refined": (TASKS["optical-flow"], VARIANTS["refinement"]),
    "segmentation": (TASKS["semantic-segmentation"], {}),
    "segmentation-learned": (TASKS["semantic-segmentation"], TABLE),
    "depth": (TASKS["depth-estimation"], {**VARIANTS["dpt"], **PRETRAINED}),
    "pre-training": (TASKS["pre-training"], VARIANTS["linear"]),
    "encoder": (WinWinModel, PRETRAINED),
    "backbone": (WinWinBackbone, {"out_indices": [1, 2]}),
}


def make(kind: str) -> Any:
    """The model of a kind, with random weights that are the same everywhere."""
    model_class, fields = KINDS[kind]
    return randomise(model_class(WinWinConfig(**{**TINY, **fields}))).eval()


def picture(height: int, width: int, phase: float) -> torch.Tensor:
    """Waves, (1, 3, H, W): no generator, whose numbers may change with the version of torch."""
    rows, columns = torch.meshgrid(torch.arange(height) / 5, torch.arange(width) / 7, indexing="ij")
    return torch.stack([torch.sin(rows * k + columns + phase) for k in (1.0, 1.7, 2.9)])[None].float()


@torch.no_grad()
def predictions(model: Any) -> dict[str, torch.Tensor]:
    """All tensors that a model returns for two pictures of 32x48 pixels, of which most take one."""
    inputs = {"pixel_values": picture(32, 48, 0.0)}
    if type(model) in (TASKS["optical-flow"], TASKS["pre-training"]):
        inputs["second_pixel_values"] = picture(32, 48, 0.5)
    if type(model) is TASKS["pre-training"]:
        inputs["bool_masked_pos"] = torch.arange(24)[None] % 3 > 0
    found: dict[str, torch.Tensor] = {}
    for name, value in model(**inputs).items():
        if isinstance(value, torch.Tensor) and value.ndim and value.is_floating_point():  # not a loss, not a mask
            found[name] = value.contiguous()
        elif isinstance(value, tuple):
            found |= {f"{name}.{i}": tensor.contiguous() for i, tensor in enumerate(value)}
    return found
