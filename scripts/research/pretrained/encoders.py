"""Architectures of encoders by their names on the Hub, as transformers' configs. Nothing is downloaded; weights are random."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers

SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16)}  # width, blocks, heads
HUB = {"dinov3": "facebook/dinov3-vit{}16-pretrain-lvd1689m", "dinov2": "facebook/dinov2-with-registers-{}"}
DUST3R = "naver/DUSt3R_ViTLarge_BaseDecoder_512_dpt"


def hub_name(family: str, size: str) -> str:
    """The name on the Hub of a family's encoder of size S, B or L."""
    words = {"S": "small", "B": "base", "L": "large"}
    return HUB[family].format(size.lower() if family == "dinov3" else words[size])


def config_of(family: str, size: str, blocks: int | None = None) -> Any:
    """transformers' config of that encoder: patches of 16 (DINOv3) or 14 (DINOv2) pixels, four registers. blocks: so many only."""
    width, depth, heads = SIZES[size]
    common = {
        "hidden_size": width,
        "num_hidden_layers": blocks or depth,
        "num_attention_heads": heads,
        "num_register_tokens": 4,
    }
    if family == "dinov3":
        return transformers.DINOv3ViTConfig(**common, patch_size=16, intermediate_size=4 * width)
    return transformers.Dinov2WithRegistersConfig(**common, patch_size=14, mlp_ratio=4, image_size=518)


def random_encoder(family: str, size: str, blocks: int | None = None) -> Any:
    """transformers' own model of that encoder with random weights; `blocks`: with only so many blocks."""
    torch.manual_seed(0)
    return transformers.AutoModel.from_config(config_of(family, size, blocks)).eval()


def save_random(family: str, size: str, folder: Path, blocks: int | None = None) -> Path:
    """`random_encoder` in a folder that `from_encoder` and a recipe's `model.init` take."""
    random_encoder(family, size, blocks).save_pretrained(folder)
    return folder
