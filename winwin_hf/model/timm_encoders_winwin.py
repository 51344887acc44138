"""timm's encoders that know positions by RoPE, as ours: EVA-02, Perception Encoder, RoPE ViTs and DINOv3.

Notable:
- neither timm nor torchvision is needed. Sizes and options are read from the tensors. What tensors don't show, such as heads and how RoPE
  counts, is in `ARCHITECTURES` by timm's name, and in `model_args` of config.json where the network was made otherwise.
- timm turns neighbouring channels, we those a quarter of a head apart, and most of its encoders count (column, row): queries and keys are
  reordered within each head, which leaves their products as they are.
- EVA-02's classifiers normalise the mean of the tokens (`fc_norm`), as their pre-training did each token. It is our final norm.
"""

import re
from pathlib import Path
from typing import Any

import torch
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from .pretrained_winwin import DINO_TAPS, PretrainedEncoder, colours, load_weights, permute_heads, place_tokens

# timm's arguments that tensors don't show, with its defaults. ref_feat_shape: the grid to which RoPE scales every frame; "own": of the
# image and patch in the architecture's name. num_heads None: heads are 64 wide.
DEFAULTS: dict[str, Any] = {
    "num_heads": None,
    "eps": 1e-6,
    "rope_type": "cat",
    "rope_temperature": 10000.0,
    "rope_grid_indexing": "ij",
    "rope_grid_offset": 0.0,
    "rope_rotate_half": False,
    "ref_feat_shape": None,
}
PERCEPTION = {"ref_feat_shape": "own", "rope_grid_indexing": "xy", "eps": 1e-5}
DINOV3 = {"rope_type": "dinov3", "rope_temperature": 100.0, "rope_rotate_half": True, "eps": 1e-5}
# (timm's architecture, what differs from `DEFAULTS`); the first that matches.
ARCHITECTURES: tuple[tuple[str, dict[str, Any]], ...] = (
    (r"eva02_(tiny|small|base|large)_patch\d+(_clip)?_\d+", {"ref_feat_shape": 16}),
    (r"vit_\w+_patch16_rope_reg\d_gap_256", {"ref_feat_shape": 16}),
    (r"vit_pe_(core|lang|spatial)_gigantic_patch14_448", {**PERCEPTION, "num_heads": 16}),
    (r"vit_pe_(core|lang|spatial)_\w+_patch\d+_\d+", {**PERCEPTION, "rope_grid_offset": 1.0}),
    (r"vit_\w+_patch16_rope(_ape)?_224", {"rope_temperature": 100.0, "rope_grid_indexing": "xy"}),
    (
        r"vit_\w+_patch16_rope_mixed(_ape)?_224",
        {"rope_type": "mixed", "rope_grid_indexing": "xy"},
    ),
    (r"vit_7b_patch16_dinov3", {**DINOV3, "num_heads": 32}),
    (r"vit_\w+_patch16_dinov3(_qkvb)?", DINOV3),
)
EXPECTED = (
    "expected eva02_* (but enormous), vit_pe_*, vit_*_rope_* or vit_*_dinov3*; ViT, MAE, DINOv2 and SigLIP are read from "
    "transformers' own repositories"
)
# Further arguments that tensors show, or that say nothing of the encoder.
SHOWN = (
    *("img_size", "patch_size", "in_chans", "embed_dim", "depth", "mlp_ratio", "qkv_bias", "qkv_fused"),
    *("swiglu_mlp", "swiglu_align_to", "scale_mlp", "scale_attn_inner", "attn_type", "init_values"),
    *("class_token", "num_reg_tokens", "no_embed_class", "use_abs_pos_emb", "use_rot_pos_emb"),
    *("use_pre_transformer_norm", "use_post_transformer_norm", "use_fc_norm"),
    *("num_classes", "global_pool", "attn_pool_num_heads", "attn_pool_mlp_ratio", "head_init_scale"),
    *("drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"),
    *("rope_shift_coords", "rope_jitter_coords", "rope_rescale_coords", "dynamic_img_size", "dynamic_img_pad"),
)

BLOCK = r"blocks\.(\d+)\."
# (their name, ours); the first that matches
NAMES = (
    (r"patch_embed\.proj\.(\w+)", r"embeddings.projection.\1"),
    (r"norm_pre\.(\w+)", r"embeddings.norm.\1"),
    (r"norm\.(\w+)", r"norm.\1"),
    (BLOCK + r"(norm[12])\.(\w+)", r"layers.\1.\2.\3"),
    (BLOCK + r"attn\.([qkv])_proj\.(\w+)", r"layers.\1.attention.\2_proj.\3"),
    (BLOCK + r"attn\.([qv])_bias", r"layers.\1.attention.\2_proj.bias"),
    (BLOCK + r"attn\.norm\.(\w+)", r"layers.\1.attention.norm.\2"),
    (BLOCK + r"attn\.proj\.(\w+)", r"layers.\1.attention.o_proj.\2"),
    (BLOCK + r"gamma_([12])", r"layers.\1.layer_scale\2"),
    (BLOCK + r"mlp\.fc1(?:_x)?\.(\w+)", r"layers.\1.mlp.up_proj.\2"),
    (BLOCK + r"mlp\.fc1_g\.(\w+)", r"layers.\1.mlp.gate_proj.\2"),
    (BLOCK + r"mlp\.fc2\.(\w+)", r"layers.\1.mlp.down_proj.\2"),
    (BLOCK + r"mlp\.norm\.(\w+)", r"layers.\1.mlp.norm.\2"),
)
LEFT_OUT = {
    "head.": "a head",
    "attn_pool.": "a head",
    "fc_norm.": "a head",
    "lm_head.": "pre-training only",
    "mask_token": "pre-training only",
    "rope.bands": "fixed, and computed",
    "rope.periods": "fixed, and computed",
    "rope.pos_embed": "fixed, and computed",
}


def is_timm(settings: dict[str, Any]) -> bool:
    """Whether these are a config.json of timm."""
    return "architecture" in settings and "pretrained_cfg" in settings


def timm_repository(source: str) -> str:
    """The Hub's name of one of timm's: of "hf-hub:timm/NAME", and of a bare NAME of `ARCHITECTURES`; others, and folders, as they are."""
    if Path(source).exists():
        return source
    source = re.sub(r"^hf[-_]hub:", "", source)
    architecture = source.partition(".")[0]
    known = any(re.fullmatch(pattern, architecture) for pattern, _ in ARCHITECTURES)
    return f"timm/{source}" if known and "/" not in source else source


def arguments_of(source: str, settings: dict[str, Any]) -> dict[str, Any]:
    """timm's arguments of `DEFAULTS`. Raises ValueError for an architecture, or an argument of it, that isn't known."""
    architecture, changed = str(settings["architecture"]), settings.get("model_args") or {}
    row = next((row for pattern, row in ARCHITECTURES if re.fullmatch(pattern, architecture)), None)
    if row is None:
        raise ValueError(f"{source}: timm's {architecture}; {EXPECTED}")
    unknown = sorted(set(changed) - set(DEFAULTS) - set(SHOWN))
    if unknown:
        raise ValueError(
            f"{source}: model_args of config.json have {', '.join(unknown)}; expected only known arguments"
        )
    arguments = {**DEFAULTS, **row, **changed}
    if arguments["rope_type"] not in ("cat", "dinov3", "mixed"):
        raise ValueError(f"{source}: rope_type is {arguments['rope_type']!r}; expected 'cat', 'dinov3' or 'mixed'")
    reference = arguments["ref_feat_shape"]
    if reference == "own":
        patch, image = re.findall(r"patch(\d+)_(\d+)", architecture)[0]
        reference = int(image) // int(patch)
    arguments["ref_feat_shape"] = [reference] * 2 if isinstance(reference, int) else reference
    return arguments


def read_timm(source: str, settings: dict[str, Any], **options: Any) -> PretrainedEncoder:
    """
    An encoder of timm's.

    Args:
        source: a Hub repository or a folder with model.safetensors.
        settings: its config.json. options: as of `read_encoder`.
    Raises: OSError: there is no model.safetensors. ValueError: as `read_encoder`.
    """
    arguments = arguments_of(source, settings)
    theirs = load_weights(source, **options)
    tensors, left_out = rename(theirs, arguments, source)
    if not {"embeddings.projection.weight", "layers.0.attention.q_proj.weight"} <= tensors.keys():
        raise ValueError(
            f"{source}: tensors such as {next(iter(theirs), 'none')}; expected timm's patch_embed and blocks of {settings['architecture']}"
        )
    fields = fields_of(tensors, arguments)
    width, heads = fields["hidden_size"], fields["num_attention_heads"]
    if heads < 1 or width % heads or width // heads % 4:
        raise ValueError(
            f"{source}: {width} channels and {heads} heads; expected heads of equal width, a multiple of four"
        )
    known = settings["pretrained_cfg"]
    return PretrainedEncoder(
        source=source,
        family="timm",
        config=fields,
        tensors=permute_heads(tensors, heads, lambda channels: our_order(channels, arguments)),
        names=[name for name in theirs if name not in left_out],
        left_out=left_out,
        image_mean=colours(known.get("mean") or IMAGENET_DEFAULT_MEAN, "pretrained_cfg's mean", source),
        image_std=colours(known.get("std") or IMAGENET_DEFAULT_STD, "pretrained_cfg's std", source),
        licence=known.get("license"),
    )


def rename(
    theirs: dict[str, torch.Tensor], arguments: dict[str, Any], source: str
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Their tensors under our names in float32, and why the others are left out. Raises ValueError for one that has no place."""
    tensors, left_out, prefix = {}, {}, []
    pooled = "norm.weight" not in theirs and "fc_norm.weight" in theirs
    for name, tensor in theirs.items():
        tensor = tensor.float()
        inner = re.sub(r"^fc_norm\.", "norm.", name) if pooled else name
        ours = next((re.sub(old, new, inner) for old, new in NAMES if re.fullmatch(old, inner)), None)
        fused = re.fullmatch(BLOCK + r"attn\.qkv\.(\w+)", name)
        if ours is not None:
            tensors[ours] = tensor
        elif fused:
            for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                tensors[f"layers.{fused[1]}.attention.{part}_proj.{fused[2]}"] = rows
        elif name == "rope.freqs" and arguments["rope_type"] == "mixed":
            axes = tensor.flip(0) if arguments["rope_grid_indexing"] == "xy" else tensor  # rows first
            tensors |= {f"layers.{i}.attention.frequencies": pair for i, pair in enumerate(axes.unbind(1))}
        elif reason := next((why for start, why in LEFT_OUT.items() if name.startswith(start)), None):
            left_out[name] = reason
        elif name not in ("cls_token", "reg_token", "pos_embed"):
            raise ValueError(f"{source}: {name} has no place in our encoder")
    prefix = [theirs[name][0].float() for name in ("cls_token", "reg_token") if name in theirs]
    positions = theirs["pos_embed"][0].float() if "pos_embed" in theirs else None
    tensors |= place_tokens(prefix, positions, source)
    for name in [name for name in tensors if re.fullmatch(r"layers\.\d+\.mlp\.up_proj\.\w+", name)]:
        down = tensors.get(re.sub(r"up_proj\.\w+", "down_proj.weight", name))
        if down is not None and tensors[name].shape[0] == 2 * down.shape[1]:  # gate and MLP in one
            tensors[name.replace("up_proj", "gate_proj")], tensors[name] = tensors[name].chunk(2)
    if "embeddings.norm.weight" in tensors and "embeddings.projection.weight" in tensors:  # Perception Encoder has none
        width = tensors["embeddings.projection.weight"].shape[0]
        tensors.setdefault("embeddings.projection.bias", torch.zeros(width))
    return tensors, left_out


def fields_of(tensors: dict[str, torch.Tensor], arguments: dict[str, Any]) -> dict[str, Any]:
    """The fields of `WinWinConfig`, from our tensors and timm's arguments."""
    width, channels, patch = tensors["embeddings.projection.weight"].shape[:3]
    inner = tensors["layers.0.mlp.down_proj.weight"].shape[1] if "layers.0.mlp.down_proj.weight" in tensors else width
    gated, biased = "layers.0.mlp.gate_proj.weight" in tensors, "layers.0.attention.q_proj.bias" in tensors
    depth = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("layers."))
    positions, reference = tensors.get("embeddings.positions"), arguments["ref_feat_shape"]
    dinov3, mixed = (arguments["rope_type"] == kind for kind in ("dinov3", "mixed"))
    fields = {
        "patch_size": patch,
        "num_channels": channels,
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": arguments["num_heads"] or width // 64,
        "mlp_ratio": inner / width,
        "hidden_act": "silu" if gated else "gelu",
        "layer_norm_eps": arguments["eps"],
        "patch_embedding": "linear",
        "attention_pattern": "global",
        "qkv_bias": biased,
        "key_bias": not biased or "layers.0.attention.k_proj.bias" in tensors,
        "use_gated_mlp": gated,
        "mlp_norm": "layers.0.mlp.norm.weight" in tensors,
        "attention_norm": "layers.0.attention.norm.weight" in tensors,
        "embedding_norm": "embeddings.norm.weight" in tensors,
        "final_norm": "norm.weight" in tensors,
        "layerscale_value": 1e-5 if "layers.0.layer_scale1" in tensors else None,
        "num_prefix_tokens": len(tensors.get("embeddings.prefix_tokens", ())),
        "position_embedding": "rope_mixed" if mixed else "rope_frame" if dinov3 or reference is not None else "rope",
        "position_grid": None if positions is None else list(positions.shape[:2]),
        "position_antialias": positions is not None,
        # mixed: of the frequencies' start, which are learnt by now; of a decoder 100, as in CroCo
        "rope_theta": 100.0 if mixed else float(arguments["rope_temperature"]),
        "rope_reference": None if dinov3 or mixed else reference,
        "rope_offset": float(arguments["rope_grid_offset"]),
    }
    if dinov3:
        taps = DINO_TAPS.get(depth)
        fields |= {"apply_layernorm": True, **({"head_taps": taps} if taps else {})}
    return fields


def our_order(channels: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    """A head's channels in the order of our RoPE: both of each pair by rows, then both by columns; mixed, the pairs in their order."""
    if arguments["rope_rotate_half"]:  # half a head apart
        axes = channels.unflatten(0, (2, 2, -1)).transpose(0, 1)  # axis, one of the pair, frequency
    else:  # neighbours
        axes = channels.unflatten(0, (2, -1, 2)).transpose(1, 2)
    swapped = arguments["rope_grid_indexing"] == "xy" and arguments["rope_type"] != "mixed"
    return (axes.flip(0) if swapped else axes).flatten()
