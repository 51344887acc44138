"""CroCo's tensors as ours: the config, and where each of our parameters comes from.

The plan goes from our parameters to the source's tensors, so no parameter can stay unfilled. A tensor that the plan doesn't use must be
on a short list with a reason, or the file is refused. CroCo-Stereo predicts the disparity d of the left view, which is the flow (-d, 0):
one output row negated and one of zeros, exactly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from winwin_hf.convert.croco.checkpoint import TITLES, CrocoCheckpoint, parse_call, read_croco
from winwin_hf.model.configuration_winwin import WinWinConfig
from winwin_hf.model.modeling_winwin import WinWinForOpticalFlow, WinWinForPreTraining, WinWinPreTrainedModel

TAP_STEPS = {
    8: 3,
    12: 4,
    24: 8,
}  # number of decoder blocks -> blocks between the DPT head's taps; CroCo's head has no others
OUTPUT_CHANNELS = {"flow": 3, "stereo": 2}  # (u, v, scale) and (disparity, scale)

OUTPUT_LAYER = "head.dpt.head.4."  # CroCo's name

# Regular expressions that turn our parameters' names into CroCo's, applied in this order.
TO_CROCO_NAMES = [
    (r"^winwin\.embeddings\.projection\.", "patch_embed.proj."),
    (r"^winwin\.layers\.", "enc_blocks."),
    (r"^winwin\.norm\.", "enc_norm."),
    (r"^decoder\.embed\.", "decoder_embed."),
    (r"^decoder\.layers\.", "dec_blocks."),
    (r"^decoder\.norm\.", "dec_norm."),
    (r"^head\.(weight|bias)$", r"prediction_head.\1"),
    (r"^head\.layers\.projections\.(\d)\.", r"head.dpt.act_postprocess.\1.0."),
    (r"^head\.layers\.resamples\.(\d)\.", r"head.dpt.act_postprocess.\1.1."),
    (r"^head\.layers\.levels\.", "head.dpt.scratch.layer_rn."),
    *((rf"^head\.layers\.fusions\.{i}\.", f"head.dpt.scratch.refinenet{i + 1}.") for i in range(4)),
    (r"(refinenet\d)\.unit([12])\.", r"\1.resConfUnit\2."),
    (r"(refinenet\d)\.projection\.", r"\1.out_conv."),
    (r"^head\.layers\.conv1\.", "head.dpt.head.0."),
    (r"^head\.layers\.conv2\.", "head.dpt.head.2."),
    (r"^head\.layers\.out\.", "head.dpt.head.4."),
    (r"\.cross_attention\.([qkv])_proj\.", r".cross_attn.proj\1."),
    (r"\.cross_attention\.o_proj\.", ".cross_attn.proj."),
    (r"\.attention\.[qkv]_proj\.", ".attn.qkv."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.norm_memory\.", ".norm_y."),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
]
# The source's tensors that ours don't need: second names of used ones, which must hold the same numbers, ...
DUPLICATES = [
    (r"^head\.dpt\.act_(\d)_postprocess\.", "head.dpt.act_postprocess.{}."),
    (r"^head\.dpt\.scratch\.layer(\d)_rn\.", "head.dpt.scratch.layer_rn.{}."),
]
# ... and one unit of CroCo's head that it never calls.
UNUSED = (
    r"^head\.dpt\.scratch\.refinenet4\.resConfUnit1\.",
    "never used: the coarsest level has nothing to be added to",
)


@dataclass(frozen=True)
class Plan:
    """
    Where each of our parameters comes from.

    Attributes:
        sources: our parameter -> (tensor of the source, which third of it or None for all of it).
        dropped: tensor of the source that isn't used -> why.
    """

    sources: dict[str, tuple[str, int | None]]
    dropped: dict[str, str]


def winwin_config(checkpoint: CrocoCheckpoint) -> WinWinConfig:
    """Our config of a checkpoint: from the sizes it declares, and of the DPT head, which has none there, from the tensors' shapes."""
    sizes, path = checkpoint.sizes, checkpoint.path
    for side in ("enc", "dec"):
        blocks = {int(m[1]) for name in checkpoint.tensors if (m := re.match(rf"{side}_blocks\.(\d+)\.", name))}
        if blocks != set(range(sizes[f"{side}_depth"])):
            raise ValueError(
                f"{path}: {side}_depth is {sizes[f'{side}_depth']}, but the tensors have {len(blocks)} blocks"
            )
    fields: dict[str, Any] = {
        "patch_size": sizes["patch_size"],
        "hidden_size": sizes["enc_embed_dim"],
        "num_hidden_layers": sizes["enc_depth"],
        "num_attention_heads": sizes["enc_num_heads"],
        "decoder_hidden_size": sizes["dec_embed_dim"],
        "decoder_num_hidden_layers": sizes["dec_depth"],
        "decoder_num_attention_heads": sizes["dec_num_heads"],
        "mlp_ratio": sizes["mlp_ratio"],
        "rope_theta": float(sizes["pos_embed"].removeprefix("RoPE")),
        "mask_ratio": sizes["mask_ratio"],
    }
    if checkpoint.kind != "pretraining":
        step = TAP_STEPS.get(sizes["dec_depth"])
        if step is None:
            known = ", ".join(map(str, TAP_STEPS))
            raise ValueError(
                f"{path}: dec_depth is {sizes['dec_depth']}; expected one of {known} under CroCo's DPT head"
            )
        last = sizes["enc_depth"] + sizes["dec_depth"] - 1
        fields |= {
            "head_type": "dpt",
            "head_taps": [last - i * step for i in (3, 2, 1, 0)],
            "dpt_layer_sizes": [_channels(checkpoint, f"head.dpt.act_postprocess.{i}.0.weight") for i in range(4)],
            "dpt_hidden_size": _channels(checkpoint, "head.dpt.scratch.layer_rn.0.weight"),
        }
        criterion, bounds = parse_call(str(checkpoint.training.get("criterion", "")))
        if criterion == "LaplacianLossBounded":
            fields |= {"min_flow_scale": bounds.get("a", 0.25), "max_flow_scale": bounds.get("b", 4.0)}
    try:
        return WinWinConfig(**fields)
    except StrictDataclassError as error:
        raise ValueError(f"{path}: {error.__cause__ or error}") from error


def _channels(checkpoint: CrocoCheckpoint, name: str) -> int:
    """Number of outputs of a convolution."""
    if name not in checkpoint.tensors:
        raise ValueError(f"{checkpoint.path}: {name} is missing")
    shape = checkpoint.tensors[name].shape
    if len(shape) != 4:
        raise ValueError(f"{checkpoint.path}: {name} has shape {tuple(shape)}; expected 4 axes")
    return shape[0]


def croco_name(name: str) -> str:
    """CroCo's name of one of our parameters; query, key and value of a self-attention share one."""
    for pattern, replacement in TO_CROCO_NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def make_plan(checkpoint: CrocoCheckpoint, model: torch.nn.Module) -> Plan:
    """
    The plan of a conversion, which accounts for every tensor on both sides by name and shape.

    Args:
        model: ours; may be on the meta device.
    Raises:
        ValueError: a tensor is missing, has another shape, or is neither used nor known to be superfluous.
    """
    path, tensors = checkpoint.path, checkpoint.tensors
    sources: dict[str, tuple[str, int | None]] = {}
    for name, parameter in model.state_dict().items():
        theirs = croco_name(name)
        shape = list(parameter.shape)
        part = None
        if ".qkv." in theirs:
            part = "qkv".index(name.split(".")[-2][0])  # q_proj, k_proj, v_proj
            shape[0] *= 3
        if theirs not in tensors:
            raise ValueError(f"{path}: {theirs} is missing; expected a tensor of shape {tuple(shape)}")
        found = tuple(tensors[theirs].shape)
        if theirs.startswith(OUTPUT_LAYER):
            shape[0] = OUTPUT_CHANNELS[checkpoint.kind]
            if found[1:] == tuple(shape[1:]) and found[0] == shape[0] - 1:
                raise ValueError(
                    f"{path}: {theirs} has shape {found}: a network without a scale, which our output would have to invent; "
                    f"expected {shape[0]} channels"
                )
        if found != tuple(shape):
            raise ValueError(f"{path}: {theirs} has shape {found}; expected {tuple(shape)} by the sizes it declares")
        sources[name] = theirs, part
    used = {theirs for theirs, _ in sources.values()}
    dropped = {name: _why_dropped(checkpoint, name) for name in tensors if name not in used}
    return Plan(sources, dropped)


def _why_dropped(checkpoint: CrocoCheckpoint, name: str) -> str:
    tensors = checkpoint.tensors
    if re.match(UNUSED[0], name):
        return UNUSED[1]
    for pattern, template in DUPLICATES:
        if match := re.match(pattern, name):
            twin = template.format(int(match[1]) - 1) + name[match.end() :]
            if twin in tensors and not torch.equal(tensors[name], tensors[twin]):
                raise ValueError(f"{checkpoint.path}: {name} and {twin} differ; expected one tensor under two names")
            if twin in tensors:
                return f"the same as {twin}"
    raise ValueError(
        f"{checkpoint.path}: {name} is unexpected; expected no tensors but those of {TITLES[checkpoint.kind]}"
    )


def fill(checkpoint: CrocoCheckpoint, plan: Plan) -> dict[str, torch.Tensor]:
    """Our state dict, float32. Raises ValueError for a tensor that holds NaN or infinity."""
    state = {}
    for name, (theirs, part) in plan.sources.items():
        tensor = checkpoint.tensors[theirs]
        tensor = tensor if part is None else tensor.chunk(3)[part]
        if not tensor.isfinite().all():
            raise ValueError(f"{checkpoint.path}: {theirs} holds NaN or infinite values; expected finite ones")
        if checkpoint.kind == "stereo" and theirs.startswith(OUTPUT_LAYER):
            # (disparity, scale) -> (u, v, scale): u = -disparity, v = 0
            tensor = torch.cat([-tensor[:1], torch.zeros_like(tensor[:1]), tensor[1:]])
        state[name] = tensor.to(torch.float32, copy=True).contiguous()
    return state


def load_croco(source: str | Path) -> WinWinPreTrainedModel:
    """
    A public CroCo checkpoint as a WinWinForPreTraining or WinWinForOpticalFlow, float32, in evaluation mode.

    Raises:
        FileNotFoundError, ValueError: as `read_croco`; ValueError also where tensors don't fit the sizes that the file declares.
    """
    return to_model(read_croco(source))[0]


def to_model(checkpoint: CrocoCheckpoint) -> tuple[WinWinPreTrainedModel, Plan]:
    """Our model with the checkpoint's weights, and the plan that filled it."""
    model_class = WinWinForPreTraining if checkpoint.kind == "pretraining" else WinWinForOpticalFlow
    config = winwin_config(checkpoint)
    with torch.device("meta"):
        model = model_class(config)
    plan = make_plan(checkpoint, model)
    model.load_state_dict(fill(checkpoint, plan), strict=True, assign=True)
    return model.eval(), plan
