"""CroCo's tensors as ours: the config, and where each of our parameters comes from.

Every parameter of ours must be filled, and a tensor of the source that isn't used must be on a short list with a reason; else the file
is refused. CroCo-Stereo predicts the disparity d of the left view, which is the flow (-d, 0):
one output row negated and one of zeros, exactly.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError

from winwin_hf.model import croco_encoders_winwin
from winwin_hf.model.configuration_winwin import WinWinConfig
from winwin_hf.model.croco_encoders_winwin import encoder_fields, finite
from winwin_hf.model.croco_files_winwin import PAIRS, TITLES, CrocoCheckpoint, parse_call, read_croco
from winwin_hf.model.modeling_winwin import WinWinForOpticalFlow, WinWinForPreTraining, WinWinPreTrainedModel
from winwin_hf.model.pixels_winwin import shortened

TAP_STEPS = {
    8: 3,
    12: 4,
    24: 8,
}  # number of decoder blocks -> blocks between the DPT head's taps; CroCo's head has no others
OUTPUT_CHANNELS = {"flow": 3, "stereo": 2}  # (u, v, scale) and (disparity, scale)

OUTPUT_LAYER = "head.dpt.head.4."  # CroCo's name

# (part of a head's name in CroCo, ours), applied in this order.
HEAD_NAMES = (
    (r"^prediction_head\.", "head."),
    (r"^head\.dpt\.act_postprocess\.(\d)\.0\.", r"head.layers.projections.\1."),
    (r"^head\.dpt\.act_postprocess\.(\d)\.1\.", r"head.layers.resamples.\1."),
    (r"^head\.dpt\.scratch\.layer_rn\.", "head.layers.levels."),
    *((rf"^head\.dpt\.scratch\.refinenet{i + 1}\.", f"head.layers.fusions.{i}.") for i in range(4)),
    (r"\.resConfUnit([12])\.", r".unit\1."),
    (r"\.out_conv\.", ".projection."),
    (r"^head\.dpt\.head\.0\.", "head.layers.conv1."),
    (r"^head\.dpt\.head\.2\.", "head.layers.conv2."),
    (r"^head\.dpt\.head\.4\.", "head.layers.out."),
)
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
    fields = {**encoder_fields(checkpoint), "mask_ratio": sizes["mask_ratio"]}
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
    except (StrictDataclassError, ValueError) as error:
        raise ValueError(f"{path}: {error.__cause__ or error}") from error


def _channels(checkpoint: CrocoCheckpoint, name: str) -> int:
    """Number of outputs of a convolution."""
    if name not in checkpoint.tensors:
        raise ValueError(f"{checkpoint.path}: {name} is missing")
    shape = checkpoint.tensors[name].shape
    if len(shape) != 4:
        raise ValueError(f"{checkpoint.path}: {name} has shape {tuple(shape)}; expected 4 axes")
    return shape[0]


def our_names(name: str) -> list[str]:
    """Our name of one of CroCo's tensors; three for queries, keys and values, which it has in one."""
    for pattern, replacement in HEAD_NAMES:
        name = re.sub(pattern, replacement, name)
    return croco_encoders_winwin.our_names(name)


def make_plan(checkpoint: CrocoCheckpoint, model: torch.nn.Module) -> Plan:
    """
    The plan of a conversion, which accounts for every tensor on both sides by name and shape.

    Args:
        model: ours; may be on the meta device.
    Raises:
        ValueError: a tensor is missing, has another shape, or is neither used nor known to be superfluous.
    """
    path, sources, dropped = checkpoint.path, {}, {}
    expected = {name: list(parameter.shape) for name, parameter in model.state_dict().items()}
    for theirs, tensor in checkpoint.tensors.items():
        ours = our_names(theirs)
        if ours[0] not in expected:
            dropped[theirs] = _why_dropped(checkpoint, theirs)
            continue
        rows, *rest = expected[ours[0]]
        shape, found = (rows * len(ours), *rest), tuple(tensor.shape)
        if theirs.startswith(OUTPUT_LAYER):
            shape = (OUTPUT_CHANNELS[checkpoint.kind], *rest)
            if found == (shape[0] - 1, *rest):
                raise ValueError(
                    f"{path}: {theirs} has shape {found}: a network without a scale, which our output would have to invent; "
                    f"expected {shape[0]} channels"
                )
        if found != shape:
            raise ValueError(f"{path}: {theirs} has shape {found}; expected {shape} by the sizes it declares")
        for part, name in enumerate(ours):
            sources[name] = theirs, part if len(ours) > 1 else None
    for name, sides in expected.items():
        if name not in sources:
            raise ValueError(f"{path}: {name} (our name) is missing; expected a tensor of shape {tuple(sides)}")
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
        f"{checkpoint.path}: {shortened(name)} is unexpected; expected no tensors but those of {TITLES[checkpoint.kind]}"
    )


def fill(checkpoint: CrocoCheckpoint, plan: Plan) -> dict[str, torch.Tensor]:
    """Our state dict, float32. Raises ValueError for a tensor that holds NaN or infinity."""
    state = {}
    for name, (theirs, part) in plan.sources.items():
        tensor = finite(checkpoint, theirs)
        tensor = tensor if part is None else tensor.chunk(3)[part]
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
    """Our model with the checkpoint's weights, and the plan that filled it. Raises ValueError for DUSt3R and MASt3R."""
    if checkpoint.kind in PAIRS:
        raise ValueError(
            f"{checkpoint.path}: a {TITLES[checkpoint.kind]}, whose heads ours don't have; expected a CroCo, or a model that takes its "
            "encoder and decoder (from_encoder, winwin convert)"
        )
    model_class = WinWinForPreTraining if checkpoint.kind == "pretraining" else WinWinForOpticalFlow
    config = winwin_config(checkpoint)
    with torch.device("meta"):
        model = model_class(config)
    plan = make_plan(checkpoint, model)
    model.load_state_dict(fill(checkpoint, plan), strict=True, assign=True)
    return model.eval(), plan
