"""timm's encoders at small sizes, made by timm's own classes; and the tokens that they compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
ARCHITECTURES = {
    "eva02-tiny": "eva02_tiny_patch14_224",
    "eva02-base": "eva02_base_patch14_448",
    "eva02-clip": "eva02_base_patch16_clip_224",
    "perception-core": "vit_pe_core_base_patch16_224",
    "perception-spatial": "vit_pe_spatial_small_patch16_512",
    "perception-lang": "vit_pe_lang_gigantic_patch14_448",
    "rope-registers": "vit_betwixt_patch16_rope_reg4_gap_256",
    "rope-axial": "vit_small_patch16_rope_224",
    "rope-axial-absolute": "vit_base_patch16_rope_ape_224",
    "rope-mixed": "vit_small_patch16_rope_mixed_224",
    "rope-mixed-absolute": "vit_base_patch16_rope_mixed_ape_224",
    "dinov3": "vit_small_plus_patch16_dinov3",
}
FRAMES = {"training's": (4, 4), "wide": (3, 7), "large": (6, 5)}  # in patches


def make(name: str) -> Any:
    """One of `ARCHITECTURES` with random weights, none of them zero or one by its initialisation. Needs timm."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(ARCHITECTURES[name], **SMALL, dynamic_img_size=True).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def save(model: Any, folder: Path) -> None:
    """Writes it as timm's repositories on the Hub are. Needs timm."""
    from timm.models import save_for_hf

    save_for_hf(model, folder, safe_serialization=True)


@torch.no_grad()
def tokens_of(model: Any, pixels: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """timm's tokens after every block, and normalised: by the norm of pooled features where there is no other."""
    prefix = bool(model.num_prefix_tokens)
    last, blocks = model.forward_intermediates(pixels, output_fmt="NLC", return_prefix_tokens=prefix)
    if prefix:
        blocks = [torch.cat([prefix, patches], dim=1) for patches, prefix in blocks]
    return blocks, model.fc_norm(last)
