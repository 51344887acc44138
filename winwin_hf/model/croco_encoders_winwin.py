"""CroCo's encoder and decoder as ours: those of CroCo itself, and of DUSt3R and MASt3R, which go on from its weights.

Notable:
- both views share the encoder, whose numbers stay theirs.
- DUSt3R and MASt3R have a decoder for each view. Ours predicts for the first view, so it takes the first's, `dec_blocks`.
- their decoders run side by side: block i attends to what block i - 1 of the other view's decoder made. Ours, as CroCo's, attends to the
  other view's encoder in every block. So their decoder's weights are a start for training, and give other numbers than theirs.
"""

import re
from pathlib import Path
from typing import Any

import torch
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
)

from .croco_files_winwin import PAIRS, CrocoCheckpoint, check_tensors, read_croco, sizes_of
from .pixels_winwin import shortened
from .pretrained_winwin import PretrainedEncoder, load_weights

# (part of CroCo's name, ours), applied in this order. An `attn.qkv` is three of ours.
NAMES = (
    (r"^patch_embed\.proj\.", "winwin.embeddings.projection."),
    (r"^enc_blocks\.", "winwin.layers."),
    (r"^enc_norm\.", "winwin.norm."),
    (r"^decoder_embed\.", "decoder.embed."),
    (r"^dec_blocks\.", "decoder.layers."),
    (r"^dec_norm\.", "decoder.norm."),
    (r"\.cross_attn\.proj([qkv])\.", r".cross_attention.\1_proj."),
    (r"\.cross_attn\.proj\.", ".cross_attention.o_proj."),
    (r"\.attn\.proj\.", ".attention.o_proj."),
    (r"\.attn\.qkv\.", ".attention.qkv_proj."),
    (r"\.norm_y\.", ".norm_memory."),
    (r"\.mlp\.fc1\.", ".mlp.up_proj."),
    (r"\.mlp\.fc2\.", ".mlp.down_proj."),
)
# What neither our encoder nor our decoder has.
LEFT_OUT = {
    "mask_token": "pre-training only",
    "prediction_head.": "a head",
    "head.": "a head",
    "downstream_head": "a head",
    "dec_blocks2.": "the second view's decoder; ours predicts for the first view",
}


def our_names(name: str) -> list[str]:
    """Our name of one of CroCo's tensors; three for queries, keys and values, which it has in one."""
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return [name.replace(".qkv_proj.", f".{part}_proj.") for part in ("qkv" if ".qkv_proj." in name else "q")]


def encoder_fields(checkpoint: CrocoCheckpoint) -> dict[str, Any]:
    """
    Fields of `WinWinConfig` of a checkpoint's encoder and decoder, by the sizes that it declares.

    Raises: ValueError: the tensors have another number of blocks.
    """
    sizes = checkpoint.sizes
    for side in ("enc", "dec"):
        blocks = {int(m[1]) for name in checkpoint.tensors if (m := re.match(rf"{side}_blocks\.(\d{{1,6}})\.", name))}
        if len(blocks) != sizes[f"{side}_depth"] or max(blocks, default=0) >= len(blocks):
            depth = shortened(str(min(sizes[f"{side}_depth"], 10**30)))
            raise ValueError(f"{checkpoint.path}: {side}_depth is {depth}, but the tensors have {len(blocks)} blocks")
    return {
        "patch_size": sizes["patch_size"],
        "hidden_size": sizes["enc_embed_dim"],
        "num_hidden_layers": sizes["enc_depth"],
        "num_attention_heads": sizes["enc_num_heads"],
        "decoder_hidden_size": sizes["dec_embed_dim"],
        "decoder_num_hidden_layers": sizes["dec_depth"],
        "decoder_num_attention_heads": sizes["dec_num_heads"],
        "mlp_ratio": sizes["mlp_ratio"],
        "position_embedding": "rope",
        "rope_theta": float(sizes["pos_embed"].removeprefix("RoPE")),
    }


def finite(checkpoint: CrocoCheckpoint, name: str) -> torch.Tensor:
    """A tensor of a checkpoint in float32. Raises ValueError where it holds NaN or infinity, or a number that float32 doesn't."""
    tensor = checkpoint.tensors[name].to(torch.float32)
    if not tensor.isfinite().all():
        raise ValueError(f"{checkpoint.path}: {name} holds NaN or infinite values; expected finite ones, in float32")
    return tensor


def read_croco_encoder(source: str, settings: dict[str, Any] | None = None, **options: Any) -> PretrainedEncoder:
    """
    The encoder and the decoder of a CroCo, DUSt3R or MASt3R.

    Args:
        source: a public file (.pth); or, with `settings`, a folder or a Hub repository with model.safetensors.
        settings: its config.json, which holds the arguments of DUSt3R's or MASt3R's constructor.
        options: as of `read_encoder`.
    Raises: OSError, ValueError: as `read_croco`; ValueError also for a tensor that has no place.
    """
    checkpoint = read_croco(source) if settings is None else read_hub(source, settings, options)
    fields = encoder_fields(checkpoint)
    parts: dict[str, dict[str, torch.Tensor]] = {"winwin": {}, "decoder": {}}
    names: dict[str, list[str]] = {"winwin": [], "decoder": []}
    left_out = {}
    for name in checkpoint.tensors:
        if reason := next((why for start, why in LEFT_OUT.items() if name.startswith(start)), None):
            left_out[name] = reason
            continue
        ours = our_names(name)
        part = ours[0].partition(".")[0]
        if part not in parts:
            raise ValueError(f"{checkpoint.path}: {shortened(name)} has no place in our encoder or decoder")
        names[part].append(name)
        for our_name, tensor in zip(ours, finite(checkpoint, name).chunk(len(ours)), strict=True):
            parts[part][our_name.removeprefix(part + ".")] = tensor.to(torch.float32, copy=True).contiguous()
    pair = checkpoint.kind in PAIRS
    mean, std = (
        (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD) if pair else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    )
    return PretrainedEncoder(
        source=source,
        family=checkpoint.kind if pair else "croco",
        config=fields,
        tensors=parts["winwin"],
        names=names["winwin"],
        left_out=left_out,
        image_mean=list(mean),
        image_std=list(std),
        decoder=parts["decoder"],
        decoder_names=names["decoder"],
        licence="cc-by-nc-sa-4.0",
    )


def read_hub(source: str, settings: dict[str, Any], options: dict[str, Any]) -> CrocoCheckpoint:
    """DUSt3R or MASt3R as `huggingface_hub` saves a network: its constructor's arguments, and safetensors."""
    path, place = Path(source), "config.json"
    kind = "mast3r" if {"desc_mode", "two_confs", "desc_conf_mode"} & settings.keys() else "dust3r"
    sizes = sizes_of(path, {place: settings}, kind)
    tensors = load_weights(source, **options)
    return CrocoCheckpoint(path, kind, sizes, {}, check_tensors(path, tensors))
