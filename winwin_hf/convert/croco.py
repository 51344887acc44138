"""Public CroCo checkpoints (CroCo v2, CroCo-Flow, CroCo-Stereo) as Win-Win folders for `from_pretrained`.

Notable:
- a checkpoint is read without running anything it holds: `torch.load(weights_only=True)`, with `argparse.Namespace` (a bag of values
  that CroCo-Flow and CroCo-Stereo keep their arguments in) as the only class allowed beside torch's own.
- the plan goes from our parameters to the source's tensors, so no parameter can stay unfilled; what the plan doesn't use must be on
  a short list with a reason, or the file is refused.
- sizes come from what the file declares, and every tensor's shape is checked against them.
- CroCo-Stereo predicts the disparity d of the left view, which is the flow (-d, 0): one output row negated, one of zeros, exactly.
- the output folder appears whole or not at all.

The public layout and its defaults are those of naver/croco (Weinzaepfel et al. 2022, 2023); no code of it is used here.
"""

from __future__ import annotations

import argparse
import ast
import os
import re
import shutil
import tempfile
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCardData
from huggingface_hub.errors import StrictDataclassError

from winwin_hf import __version__
from winwin_hf.data.formats.files import sha256_of
from winwin_hf.model.configuration_winwin import WinWinConfig
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.model.modeling_winwin import WinWinForOpticalFlow, WinWinForPreTraining, WinWinPreTrainedModel

# What CroCo's network is when a file does not say otherwise; CroCo v1 files say nothing.
CROCO_DEFAULTS: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "mask_ratio": 0.9,
    "enc_embed_dim": 768,
    "enc_depth": 12,
    "enc_num_heads": 12,
    "dec_embed_dim": 512,
    "dec_depth": 8,
    "dec_num_heads": 16,
    "mlp_ratio": 4,
    "norm_im2_in_dec": True,
    "pos_embed": "cosine",
}
COUNTS = ("patch_size", *(f"{side}_{what}" for side in ("enc", "dec") for what in ("embed_dim", "depth", "num_heads")))
TAP_STEPS = {8: 3, 12: 4, 24: 8}  # decoder blocks -> blocks between the DPT head's taps; CroCo's head knows no others
CHANNELS = {"flow": 3, "stereo": 2}  # of the head: (u, v, scale) and (disparity, scale)

# Our parameters' names -> the public checkpoints', applied in this order.
NAMES = [
    (r"^winwin\.embeddings\.projection\.", "patch_embed.proj."),
    (r"^winwin\.layers\.", "enc_blocks."),
    (r"^winwin\.norm\.", "enc_norm."),
    (r"^decoder\.embed\.", "decoder_embed."),
    (r"^decoder\.layers\.", "dec_blocks."),
    (r"^decoder\.norm\.", "dec_norm."),
    (r"^head\.(weight|bias)$", r"prediction_head.\1"),
    (r"^head\.head\.projections\.(\d)\.", r"head.dpt.act_postprocess.\1.0."),
    (r"^head\.head\.resamples\.(\d)\.", r"head.dpt.act_postprocess.\1.1."),
    (r"^head\.head\.levels\.", "head.dpt.scratch.layer_rn."),
    *((rf"^head\.head\.fusions\.{i}\.", f"head.dpt.scratch.refinenet{i + 1}.") for i in range(4)),
    (r"(refinenet\d)\.unit([12])\.", r"\1.resConfUnit\2."),
    (r"(refinenet\d)\.projection\.", r"\1.out_conv."),
    (r"^head\.head\.conv1\.", "head.dpt.head.0."),
    (r"^head\.head\.conv2\.", "head.dpt.head.2."),
    (r"^head\.head\.out\.", "head.dpt.head.4."),
    (r"\.cross_attention\.([qkv])_proj\.", r".cross_attn.proj\1."),
    (r"\.cross_attention\.o_proj\.", ".cross_attn.proj."),
    (r"\.attention\.[qkv]_proj\.", ".attn.qkv."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.norm_memory\.", ".norm_y."),
    (r"\.mlp\.up_proj\.", ".mlp.fc1."),
    (r"\.mlp\.down_proj\.", ".mlp.fc2."),
]
# Tensors of the source that have no place in ours: the second name of one that is used, which must hold the same numbers, ...
DUPLICATES = [
    (r"^head\.dpt\.act_(\d)_postprocess\.", "head.dpt.act_postprocess.{}."),
    (r"^head\.dpt\.scratch\.layer(\d)_rn\.", "head.dpt.scratch.layer_rn.{}."),
]
# ... and one unit that CroCo's head owns and never calls.
UNUSED = (
    r"^head\.dpt\.scratch\.refinenet4\.resConfUnit1\.",
    "never used: the coarsest level has nothing to be added to",
)

EXPECTED = (
    "expected a CroCo v2, CroCo-Flow or CroCo-Stereo checkpoint: a dictionary with 'model' and its sizes "
    "('croco_kwargs' or 'args')"
)
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before version 1.6


@dataclass(frozen=True)
class CrocoCheckpoint:
    """What a public checkpoint holds, checked as far as it goes without our model."""

    path: Path
    kind: str  # "pretraining", "flow" or "stereo"
    sizes: dict[str, Any]  # CroCo's arguments, with its defaults
    training: dict[str, Any]  # what else the file says: crop, criterion, tile_conf_mode
    tensors: dict[str, torch.Tensor]


@dataclass(frozen=True)
class Plan:
    """Where each of our parameters comes from: (name of the source's tensor, which third of it or None for all of it)."""

    sources: dict[str, tuple[str, int | None]]
    dropped: dict[str, str]  # a tensor of the source that isn't used -> why


@dataclass(frozen=True)
class Conversion:
    """What `convert_croco` did."""

    folder: Path
    kind: str  # "pretraining", "flow" or "stereo"
    architecture: str  # the class that `AutoModel.from_pretrained` gives
    parameters: int
    used: int  # tensors of the source
    dropped: dict[str, str] = field(repr=False)  # the other tensors of the source -> why


# ------------------------------------------------------------------ the source


def read_croco(source: str | Path) -> CrocoCheckpoint:
    """
    Reads a public CroCo checkpoint; nothing that it holds is run.

    Raises: FileNotFoundError; ValueError that names the file and what was expected, for one that isn't a torch file, is cut off,
    holds other Python objects, is another project's, or whose positions are absolute (CroCo v1).
    """
    path = Path(source)
    content = _load(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise ValueError(f"{path}: another project's checkpoint, with {_summary(content)}; {EXPECTED}")
    tensors = {str(name): tensor for name, tensor in content["model"].items()}
    if not any(name.startswith("enc_blocks.") for name in tensors):
        raise ValueError(f"{path}: another project's checkpoint, whose model has {_summary(tensors)}; {EXPECTED}")
    if any(name.startswith("dec_blocks2.") for name in tensors):
        raise ValueError(f"{path}: a checkpoint of DUSt3R's family, with a second decoder (dec_blocks2); {EXPECTED}")
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor) or not tensor.is_floating_point():
            raise ValueError(f"{path}: {name} is {_kind_of(tensor)}; expected floating-point tensors only")
    args = content.get("args")
    args = vars(args) if isinstance(args, argparse.Namespace) else {} if args is None else args
    if not isinstance(args, Mapping):
        raise ValueError(f"{path}: args is a {type(args).__name__}; expected argparse's namespace or a dictionary")
    task = args.get("task")
    if task not in ("flow", "stereo", None):
        raise ValueError(f"{path}: args.task is {task!r}; expected 'flow' or 'stereo'")
    if task is None and any(name.startswith("head.") for name in tensors):
        raise ValueError(f"{path}: a head but no args.task; expected 'flow' or 'stereo', which say what it predicts")
    training = {key: args[key] for key in ("crop", "criterion", "tile_conf_mode") if args.get(key) is not None}
    sizes = _sizes(path, content, args)
    return CrocoCheckpoint(path, task or "pretraining", sizes, training, tensors)


def _load(path: Path) -> Any:
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {what}; expected a CroCo checkpoint (.pth)")
    zipped = zipfile.is_zipfile(path)
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles that are refused in the next moment
        try:
            # mmap: a training's optimiser state, twice the weights, is never read
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True if zipped else None)
        except OSError:
            raise
        except Exception as error:  # foreign bytes: UnpicklingError, RuntimeError, EOFError, KeyError, ...
            raise ValueError(f"{path}: {_why_unreadable(path, zipped, error)}") from error


def _why_unreadable(path: Path, zipped: bool, error: Exception) -> str:
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
    except Exception:  # it isn't torch.save's zip file
        foreign = []
    foreign = foreign or re.findall(r"(?:GLOBAL|Unsupported class) ([\w.]+\.\w+)", str(error))
    if foreign:
        return (
            f"holds Python objects that are not read, since reading them can run code: {', '.join(foreign[:5])}; "
            "expected tensors, plain values and argparse.Namespace only"
        )
    with path.open("rb") as file:
        start = file.read(len(LEGACY_START))
    if not zipped and (start.startswith(b"PK\x03\x04") or start == LEGACY_START):
        return "truncated or damaged, its end is missing; expected a whole file of torch.save"
    if zipped and any(name.endswith("/data.pkl") for name in zipfile.ZipFile(path).namelist()):
        return f"damaged ({str(error).splitlines()[0][:120]}); expected a whole file of torch.save"
    return "not a file of torch.save; expected a CroCo checkpoint (.pth)"


def _sizes(path: Path, content: Mapping, args: Mapping) -> dict[str, Any]:
    """CroCo's arguments, from wherever the file keeps them."""
    call = args.get("model")  # pre-training by the public code keeps "CroCoNet(enc_depth=24, ...)"
    if call is not None:
        name, arguments = _call(str(call))
        if name != "CroCoNet":
            raise ValueError(f"{path}: args.model is {str(call)[:60]!r}; expected 'CroCoNet(...)'. {EXPECTED}")
        call = arguments
    places = {
        "croco_kwargs": content.get("croco_kwargs"),
        "croco_args": content.get("croco_args"),
        "args.croco_args": args.get("croco_args"),
        "args.model": call,
    }
    found = {place: value for place, value in places.items() if value is not None}
    for place, value in found.items():
        if not isinstance(value, Mapping):
            raise ValueError(f"{path}: {place} is a {type(value).__name__}; expected a dictionary of sizes")
        unknown = sorted(set(value) - set(CROCO_DEFAULTS))
        if unknown:
            raise ValueError(
                f"{path}: {place} has {', '.join(map(str, unknown))}; expected only {', '.join(CROCO_DEFAULTS)}"
            )
    sizes = [{**CROCO_DEFAULTS, **value} for value in found.values()] or [CROCO_DEFAULTS]
    for other in sizes[1:]:
        if other != sizes[0]:
            raise ValueError(f"{path}: {' and '.join(found)} disagree; expected the same sizes in both")
    for name in COUNTS:
        value = sizes[0][name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{path}: {name} is {value!r}; expected a positive integer")
    positions = sizes[0]["pos_embed"]
    if not re.fullmatch(r"RoPE\d+(\.\d+)?", str(positions)):
        default = "" if found else ", CroCo v1's, since the file declares no sizes"
        raise ValueError(
            f"{path}: absolute positions (pos_embed={positions!r}{default}); expected rotary ones such as 'RoPE100', because "
            "windows of any place and frames of any size need relative positions"
        )
    if not sizes[0]["norm_im2_in_dec"]:
        raise ValueError(f"{path}: norm_im2_in_dec is off; expected a decoder that normalises the second view, as ours")
    return sizes[0]


def _call(text: str) -> tuple[str, dict[str, Any]]:
    """ "Name(key=1)" -> ("Name", {"key": 1}), of literals only; ("", {}) for anything else."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            return node.func.id, {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
    except (SyntaxError, ValueError):
        pass
    return "", {}


def _summary(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    names = [str(name) for name in content]
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" or "nothing in it"


def _kind_of(value: Any) -> str:
    return f"of type {value.dtype}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"


# ------------------------------------------------------------------ ours


def winwin_config(checkpoint: CrocoCheckpoint) -> WinWinConfig:
    """Our config of a checkpoint: from the sizes it declares and, for the DPT head, which declares none, from its shapes."""
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
            "dpt_layer_sizes": [_shape(checkpoint, f"head.dpt.act_postprocess.{i}.0.weight", 4)[0] for i in range(4)],
            "dpt_hidden_size": _shape(checkpoint, "head.dpt.scratch.layer_rn.0.weight", 4)[0],
        }
        criterion, bounds = _call(str(checkpoint.training.get("criterion", "")))
        if criterion == "LaplacianLossBounded":
            fields |= {"min_flow_scale": bounds.get("a", 0.25), "max_flow_scale": bounds.get("b", 4.0)}
    try:
        return WinWinConfig(**fields)
    except StrictDataclassError as error:
        raise ValueError(f"{path}: {error.__cause__ or error}") from error


def _shape(checkpoint: CrocoCheckpoint, name: str, axes: int) -> torch.Size:
    if name not in checkpoint.tensors:
        raise ValueError(f"{checkpoint.path}: {name} is missing")
    shape = checkpoint.tensors[name].shape
    if len(shape) != axes:
        raise ValueError(f"{checkpoint.path}: {name} has shape {tuple(shape)}; expected {axes} axes")
    return shape


def croco_name(name: str) -> str:
    """The public checkpoints' name for one of our parameters; query, key and value of a self-attention share one."""
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name


def make_plan(checkpoint: CrocoCheckpoint, model: torch.nn.Module) -> Plan:
    """
    Accounts for every tensor on both sides, by names and shapes. `model` may be on the meta device.

    Raises ValueError for a tensor that is missing, of another shape, or neither used nor known to be dropped.
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
        if theirs.startswith("head.dpt.head.4."):
            shape[0] = CHANNELS[checkpoint.kind]
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
        f"{checkpoint.path}: {name} is unexpected; expected no tensors but those of {_title(checkpoint.kind)}"
    )


def fill(checkpoint: CrocoCheckpoint, plan: Plan) -> dict[str, torch.Tensor]:
    """Our state dict, float32. Raises ValueError for a tensor that holds NaN or infinity."""
    state = {}
    for name, (theirs, part) in plan.sources.items():
        tensor = checkpoint.tensors[theirs]
        tensor = tensor if part is None else tensor.chunk(3)[part]
        if not tensor.isfinite().all():
            raise ValueError(f"{checkpoint.path}: {theirs} holds NaN or infinite values; expected finite ones")
        if checkpoint.kind == "stereo" and theirs.startswith("head.dpt.head.4."):
            # (disparity, scale) -> (u, v, scale): u = -disparity, v = 0
            tensor = torch.cat([-tensor[:1], torch.zeros_like(tensor[:1]), tensor[1:]])
        state[name] = tensor.to(torch.float32, copy=True).contiguous()
    return state


def load_croco(source: str | Path) -> WinWinPreTrainedModel:
    """
    A public CroCo checkpoint as our model, float32, in evaluation mode; `WinWinForPreTraining` or `WinWinForOpticalFlow`.

    Raises as `read_croco` does, and ValueError where the tensors are not those of the sizes that the file declares.
    """
    return _to_model(read_croco(source))[0]


def _to_model(checkpoint: CrocoCheckpoint) -> tuple[WinWinPreTrainedModel, Plan]:
    model_class = WinWinForPreTraining if checkpoint.kind == "pretraining" else WinWinForOpticalFlow
    config = winwin_config(checkpoint)
    with torch.device("meta"):
        model = model_class(config)
    plan = make_plan(checkpoint, model)
    model.load_state_dict(fill(checkpoint, plan), strict=True, assign=True)
    return model.eval(), plan


# ------------------------------------------------------------------ the folder


def convert_croco(
    source: str | Path, output: str | Path, overwrite: bool = False, max_shard_size: int | str = "5GB"
) -> Conversion:
    """
    Converts a public CroCo checkpoint into a folder for `from_pretrained`: config, weights (float32), processor, card.

    Args:
        source: the .pth file.
        output: the new folder. It is written under another name beside it and renamed at the end.
        overwrite: replace `output` if it is there; only a folder with a config.json is replaced.
        max_shard_size: weights beyond it go into several files.
    Raises: FileExistsError for an `output` that is there; otherwise as `load_croco`.
    """
    source, output = Path(source), Path(output)
    _check_output(output, overwrite)
    if output.resolve() in source.resolve().parents:
        raise ValueError(f"{source} lies in {output}, which would be replaced; expected another folder")
    checkpoint = read_croco(source)
    model, plan = _to_model(checkpoint)
    conversion = Conversion(
        folder=output,
        kind=checkpoint.kind,
        architecture=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        used=len(checkpoint.tensors) - len(plan.dropped),
        dropped=plan.dropped,
    )
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.absolute().parent))
    try:
        new = temporary / "new"
        new.mkdir()  # not the temporary folder itself, which only its owner may read
        model.save_pretrained(new, max_shard_size=max_shard_size)
        WinWinImageProcessor(patch_size=model.config.patch_size).save_pretrained(new)
        (new / "README.md").write_text(_card(checkpoint, conversion, model.config), encoding="utf-8")
        for path in new.iterdir():
            path.chmod(0o644)  # weights are written for their owner alone
        if output.exists():
            _check_output(output, overwrite)
            output.rename(temporary / "old")
        new.rename(output)
    finally:
        if (temporary / "old").exists() and not output.exists():
            (temporary / "old").rename(output)
        shutil.rmtree(temporary, ignore_errors=True)
    return conversion


def _check_output(output: Path, overwrite: bool) -> None:
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise FileExistsError(f"{output} exists; expected a new folder, or overwrite")
    if output.is_symlink() or not (output / "config.json").is_file():
        raise FileExistsError(f"{output} is no model's folder, and is not overwritten; expected one with a config.json")


def _title(kind: str) -> str:
    return {"pretraining": "CroCo v2", "flow": "CroCo-Flow", "stereo": "CroCo-Stereo"}[kind]


def _card(checkpoint: CrocoCheckpoint, conversion: Conversion, config: WinWinConfig) -> str:
    kind, title, name = checkpoint.kind, _title(checkpoint.kind), conversion.folder.name
    tags = {"pretraining": ["pre-training"], "flow": ["optical-flow-estimation"], "stereo": ["stereo-matching"]}[kind]
    metadata = ModelCardData(
        library_name="transformers",
        license="cc-by-nc-sa-4.0",
        pipeline_tag="optical-flow-estimation" if kind == "flow" else None,
        tags=["winwin", "croco", *tags],
    )
    use = {
        "pretraining": f"""model = AutoModel.from_pretrained("{name}")  # a WinWinForPreTraining: cross-view completion
encoder = WinWinModel.from_pretrained("{name}")  # the encoder alone
flow = WinWinForOpticalFlow.from_pretrained("{name}", head_type="dpt")  # encoder and decoder; the head is new""",
        "flow": f"""model = AutoModel.from_pretrained("{name}")  # a WinWinForOpticalFlow
outputs = model(**inputs)  # flow (B, 2, H, W): (right, down) in pixels; log_scale (B, H, W)""",
        "stereo": f"""model = AutoModel.from_pretrained("{name}")  # a WinWinForOpticalFlow
outputs = model(**inputs)  # images: the left views, second_images: the right ones, rectified
disparity = -outputs.flow[:, 0]  # (B, H, W) pixels; outputs.flow[:, 1] is exactly 0""",
    }[kind]
    reasons: dict[str, list[str]] = {}
    for tensor, why in conversion.dropped.items():
        reasons.setdefault("the same as another" if why.startswith("the same as") else why, []).append(f"`{tensor}`")
    dropped = "".join(f"- {why}: {', '.join(names)}\n" for why, names in reasons.items())
    height, width = _crop(checkpoint)
    return f"""---
{metadata.to_yaml()}
---

# {name}

{title} in the layout of winwin_hf: {conversion.architecture}, {conversion.parameters / 1e6:.1f} M parameters.
The weights are CroCo's own under other names; nothing was trained.

```python
import winwin_hf  # registers the models
from transformers import AutoImageProcessor, AutoModel{_more_imports(kind)}

processor = AutoImageProcessor.from_pretrained("{name}")
inputs = processor(images=first, second_images=second, return_tensors="pt")
{use}
```

## Origin and licence

- converted from `{checkpoint.path.name}`, sha256 `{sha256_of(checkpoint.path)}`
- by winwin_hf {__version__}: `winwin convert {checkpoint.path.name} {name}`
- by Philippe Weinzaepfel et al., NAVER LABS Europe (https://github.com/naver/croco): "CroCo: Self-Supervised Pre-training for 3D Vision
  Tasks by Cross-View Completion", NeurIPS 2022; "CroCo v2: Improved Cross-view Completion Pre-training for Stereo Matching and Optical
  Flow", ICCV 2023
- licence: [CC BY-NC-SA 4.0](https://creativecommons.org/licenses/by-nc-sa/4.0/), CroCo's: not for commercial use, and what is made of these
  weights carries it on. Its training data have terms of their own.

## What is in it

- encoder: {config.num_hidden_layers} blocks, width {config.hidden_size}, {config.num_attention_heads} heads
- decoder: {config.decoder_num_hidden_layers} blocks, width {config.decoder_hidden_size}, {config.decoder_num_attention_heads} heads
- positions: rotary, base {config.rope_theta:g}; patches of {config.patch_size} pixels; images normalised by ImageNet's mean and deviation
- trained on crops of {height} x {width} pixels
{_notes(checkpoint, config)}
## Tensors

{conversion.used} of the source's {conversion.used + len(conversion.dropped)} tensors are used and fill every parameter.
Left out: {"" if dropped else "none."}

{dropped}"""


def _more_imports(kind: str) -> str:
    return "\nfrom winwin_hf import WinWinForOpticalFlow, WinWinModel" if kind == "pretraining" else ""


def _crop(checkpoint: CrocoCheckpoint) -> tuple[int, int]:
    """Height and width of the crops it was trained on."""
    for crop in (checkpoint.training.get("crop"), checkpoint.sizes["img_size"]):
        if isinstance(crop, list | tuple) and len(crop) == 2 and all(isinstance(side, int) for side in crop):
            return crop[0], crop[1]
        if isinstance(crop, int):
            return crop, crop
    raise ValueError(
        f"{checkpoint.path}: img_size is {checkpoint.sizes['img_size']!r}; expected (height, width) in pixels"
    )


def _notes(checkpoint: CrocoCheckpoint, config: WinWinConfig) -> str:
    """What differs from our own networks: how it is to be tiled, and what its scale means."""
    if checkpoint.kind == "pretraining":
        return ""
    lines = []
    mode = str(checkpoint.training.get("tile_conf_mode", ""))
    tiles = f"tile={_crop(checkpoint)}, overlap=0.9"
    if match := re.fullmatch(r"conf_expsigmoid_([\d.]+)_([\d.]+)", mode):
        tiles += f", beta={match[1]}, beta_sigmoid={match[2]}"
    lines.append(
        f"larger frames in tiles of that size, as its authors do: `winwin_hf.inference.flow.predict_flow(model, first, second, {tiles})`"
    )
    if mode and not match:
        lines.append(f"its tiles are weighted by `{mode}`, which `predict_flow` does not have: blends differ a little")
    criterion = str(checkpoint.training.get("criterion", "unknown"))
    if _call(criterion)[0] == "LaplacianLossBounded":
        lines.append(
            f"trained by `{criterion}`: its scale is between {config.min_flow_scale:g} and {config.max_flow_scale:g} pixels, as ours"
        )
    else:
        lines.append(
            f"trained by `{criterion}`, which makes another scale in pixels of `log_scale` than our loss does: `loss` has no meaning "
            "before training on"
        )
    if checkpoint.kind == "stereo":
        lines.append(
            "the disparity d of the left view is given as the flow (-d, 0) from the left to the right view, exactly"
        )
    return "".join(f"- {line}\n" for line in lines)


# ------------------------------------------------------------------ as a start


__all__ = [
    "Conversion",
    "CrocoCheckpoint",
    "convert_croco",
    "load_croco",
    "read_croco",
]
