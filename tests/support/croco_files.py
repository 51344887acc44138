"""Files of CroCo, DUSt3R and MASt3R with random tensors: the public layouts, written down once more."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

SIZES = {
    "pos_embed": "RoPE100",
    "enc_embed_dim": 32,
    "enc_depth": 2,
    "enc_num_heads": 2,
    "dec_embed_dim": 16,
    "dec_depth": 8,
    "dec_num_heads": 2,
}
LEVELS = (8, 12, 16, 20)  # channels of the DPT head's four levels; 96, 192, 384, 768 in public
FUSED = 24  # 256 in public
TAKEN = {8: 3, 12: 4}  # decoder blocks between the DPT head's taps


def block_shapes(width: int) -> dict[str, tuple[int, ...]]:
    return {
        "norm1.weight": (width,),
        "norm1.bias": (width,),
        "attn.qkv.weight": (3 * width, width),
        "attn.qkv.bias": (3 * width,),
        "attn.proj.weight": (width, width),
        "attn.proj.bias": (width,),
        "norm2.weight": (width,),
        "norm2.bias": (width,),
        "mlp.fc1.weight": (4 * width, width),
        "mlp.fc1.bias": (4 * width,),
        "mlp.fc2.weight": (width, 4 * width),
        "mlp.fc2.bias": (width,),
    }


def decoder_block_shapes(width: int) -> dict[str, tuple[int, ...]]:
    shapes = block_shapes(width)
    for name in ("norm3", "norm_y"):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    for name in ("projq", "projk", "projv", "proj"):
        shapes |= {f"cross_attn.{name}.weight": (width, width), f"cross_attn.{name}.bias": (width,)}
    return shapes


def head_shapes(widths: list[int], levels, fused: int, channels: int) -> dict[str, tuple[int, ...]]:
    """CroCo's DPT head with the second names that some of its tensors have; `widths`: of the four tapped blocks."""
    shapes: dict[str, tuple[int, ...]] = {}
    resampled = [(levels[0], levels[0], 4, 4), (levels[1], levels[1], 2, 2), None, (levels[3], levels[3], 3, 3)]
    for i, (width, level, extra) in enumerate(zip(widths, levels, resampled, strict=True)):
        for prefix in (f"act_{i + 1}_postprocess", f"act_postprocess.{i}"):
            shapes |= {f"{prefix}.0.weight": (level, width, 1, 1), f"{prefix}.0.bias": (level,)}
            if extra:
                shapes |= {f"{prefix}.1.weight": extra, f"{prefix}.1.bias": (level,)}
        for prefix in (f"scratch.layer{i + 1}_rn", f"scratch.layer_rn.{i}"):
            shapes[f"{prefix}.weight"] = (fused, level, 3, 3)
        net = f"scratch.refinenet{i + 1}"
        shapes |= {f"{net}.out_conv.weight": (fused, fused, 1, 1), f"{net}.out_conv.bias": (fused,)}
        for unit in ("resConfUnit1", "resConfUnit2"):
            for conv in ("conv1", "conv2"):
                shapes |= {f"{net}.{unit}.{conv}.weight": (fused, fused, 3, 3), f"{net}.{unit}.{conv}.bias": (fused,)}
    for name, outer, inner, side in (("0", fused // 2, fused, 3), ("2", 32, fused // 2, 3), ("4", channels, 32, 1)):
        shapes |= {f"head.{name}.weight": (outer, inner, side, side), f"head.{name}.bias": (outer,)}
    return {f"head.dpt.{name}": shape for name, shape in shapes.items()}


def public_shapes(sizes: dict, kind: str, levels=LEVELS, fused: int = FUSED) -> dict[str, tuple[int, ...]]:
    enc, dec = sizes["enc_embed_dim"], sizes["dec_embed_dim"]
    shapes = {"patch_embed.proj.weight": (enc, 3, 16, 16), "patch_embed.proj.bias": (enc,)}
    for i in range(sizes["enc_depth"]):
        shapes |= {f"enc_blocks.{i}.{name}": shape for name, shape in block_shapes(enc).items()}
    for i in range(sizes["dec_depth"]):
        shapes |= {f"dec_blocks.{i}.{name}": shape for name, shape in decoder_block_shapes(dec).items()}
    for name, width in (("enc_norm", enc), ("dec_norm", dec)):
        shapes |= {f"{name}.weight": (width,), f"{name}.bias": (width,)}
    shapes |= {"decoder_embed.weight": (dec, enc), "decoder_embed.bias": (dec,)}
    if kind == "pretraining":
        return shapes | {
            "mask_token": (1, 1, dec),
            "prediction_head.weight": (768, dec),
            "prediction_head.bias": (768,),
        }
    step = TAKEN[sizes["dec_depth"]]
    taps = [sizes["enc_depth"] + sizes["dec_depth"] - 1 - i * step for i in (3, 2, 1, 0)]
    widths = [enc if tap < sizes["enc_depth"] else dec for tap in taps]
    return shapes | head_shapes(widths, levels, fused, {"flow": 3, "stereo": 2}[kind])


def public_tensors(sizes: dict, kind: str) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = public_shapes(sizes, kind)
    tensors = {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in shapes.items()}
    for i in range(4):
        for name in tensors:
            for second, first in (
                (f"act_{i + 1}_postprocess.", f"act_postprocess.{i}."),
                (f"r{i + 1}_rn.", f"r_rn.{i}."),
            ):
                if second in name:
                    tensors[name] = tensors[name.replace(second, first)]
    return tensors


def public(kind: str, sizes: dict | None = None) -> dict:
    """A checkpoint's content as published: pre-training keeps croco_kwargs, the other two everything in a namespace."""
    sizes = SIZES if sizes is None else sizes
    if kind == "pretraining":
        return {"croco_kwargs": dict(sizes), "model": public_tensors(sizes, kind)}
    args = {
        "flow": {"crop": [320, 384], "criterion": "LaplacianLossBounded()", "tile_conf_mode": "conf_expsigmoid_10_5"},
        "stereo": {
            "crop": [352, 704],
            "criterion": "LaplacianLossBounded2()",
            "tile_conf_mode": "conf_expsigmoid_15_3",
        },
    }[kind]
    croco_args = {**sizes, "img_size": tuple(args["crop"])}
    args = argparse.Namespace(task=kind, lr=2e-5, output_dir="xps", croco_args=croco_args, **args)
    return {"args": args, "model": public_tensors(sizes, kind)}


def save(content, path: Path) -> Path:
    torch.save(content, path)
    return path


DUST3R = {  # arguments of DUSt3R's that say nothing of encoder and decoder, as its public files have them
    "patch_embed_cls": "ManyAR_PatchEmbed",
    "img_size": (512, 512),
    "head_type": "dpt",
    "output_mode": "pts3d",
    "depth_mode": ("exp", -float("inf"), float("inf")),
    "conf_mode": ("exp", 1, float("inf")),
}
MAST3R = {**DUST3R, "head_type": "catmlp+dpt", "output_mode": "pts3d+desc24", "two_confs": True}
PAIRS = {"dust3r": ("AsymmetricCroCo3DStereo", DUST3R), "mast3r": ("AsymmetricMASt3R", MAST3R)}


def pair_tensors(croco: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """CroCo v2's tensors as DUSt3R has them: a second decoder, and a head for each view instead of the prediction."""
    tensors = {name: tensor for name, tensor in croco.items() if not name.startswith("prediction_head.")}
    second = {
        name.replace("dec_blocks.", "dec_blocks2."): tensor * 2 - 1
        for name, tensor in croco.items()
        if name.startswith("dec_blocks.")
    }
    heads = {f"downstream_head{view}.dpt.scratch.layer1_rn.weight": torch.ones(4, 4, 3, 3) for view in (1, 2)}
    return {**tensors, **second, **heads}


def pair(kind: str, tensors: dict[str, torch.Tensor], sizes: dict) -> dict:
    """The content of a public file of DUSt3R or MASt3R."""
    name, further = PAIRS[kind]
    call = f"{name}({', '.join(f'{key}={value!r}' for key, value in (sizes | further).items())})"
    return {"args": argparse.Namespace(model=call, lr=1e-4, amp=1), "model": tensors}
