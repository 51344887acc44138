"""Encoders that others pre-trained, read as ours: the config from theirs, and every tensor under our name.

Notable:
- a family is a transformers `model_type`. transformers reads the weights, so all its formats and names work.
- the numbers stay theirs: tests compare every block with transformers' own classes.
- DINOv3 turns channel i with channel i + width / 2, we with i + width / 4, so queries and keys are reordered within each head.
- an absolute position of the class token is added to the token itself: one sum, two names.
"""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.image_processing_base import ImageProcessingMixin
from transformers.image_utils import (
    IMAGENET_DEFAULT_MEAN,
    IMAGENET_DEFAULT_STD,
    IMAGENET_STANDARD_MEAN,
    IMAGENET_STANDARD_STD,
)
from transformers.utils.hub import cached_file

from .configuration_winwin import WinWinConfig
from .croco_encoders_winwin import read_croco_encoder
from .croco_files_winwin import check_held, is_plain, load_tensors
from .hub_files_winwin import check_hub_index, processor_files, refuse_adapter
from .pixels_winwin import shortened
from .pretrained_winwin import DINO_TAPS, PretrainedEncoder, colours, permute_heads, place_tokens
from .timm_encoders_winwin import is_timm, read_timm, timm_repository
from .weights_winwin import (
    check_folder,
    reason_of,
    refuse_huge_integers,
    refuse_larger,
    refuse_other_numbers,
)

# (their name, ours); the first that matches. Both spellings of attention are transformers' own, before and after 5.22.
NAMES = (
    (r"embeddings\.patch_embeddings?\.(?:projection\.)?(weight|bias)", r"embeddings.projection.\1"),
    (r"(?:layernorm|post_layernorm|norm)\.(weight|bias)", r"norm.\1"),
    (r"(?:model\.|encoder\.)?layers?\.(\d+)\.(?:layernorm_before|layer_norm1|norm1)\.(\w+)", r"layers.\1.norm1.\2"),
    (r"(?:model\.|encoder\.)?layers?\.(\d+)\.(?:layernorm_after|layer_norm2|norm2)\.(\w+)", r"layers.\1.norm2.\2"),
    (
        r"(?:model\.|encoder\.)?layers?\.(\d+)\.(?:self_attn|attention(?:\.attention)?)\.([qkv])(?:_proj|uery|ey|alue)\.(\w+)",
        r"layers.\1.attention.\2_proj.\3",
    ),
    (
        r"(?:model\.|encoder\.)?layers?\.(\d+)\.(?:self_attn|attention)\.(?:o_proj|out_proj|output\.dense)\.(\w+)",
        r"layers.\1.attention.o_proj.\2",
    ),
    (r"(?:model\.|encoder\.)?layers?\.(\d+)\.layer_scale(\d)\.lambda1", r"layers.\1.layer_scale\2"),
    (
        r"(?:model\.|encoder\.)?layers?\.(\d+)\.(?:mlp\.(?:fc1|up_proj)|intermediate\.dense)\.(\w+)",
        r"layers.\1.mlp.up_proj.\2",
    ),
    (
        r"(?:model\.|encoder\.)?layers?\.(\d+)\.(?:mlp\.(?:fc2|down_proj)|output\.dense)\.(\w+)",
        r"layers.\1.mlp.down_proj.\2",
    ),
    (r"(?:model\.|encoder\.)?layers?\.(\d+)\.mlp\.gate_proj\.(\w+)", r"layers.\1.mlp.gate_proj.\2"),
)
# Of an encoder's block, under whatever its model calls the encoder.
BLOCK = re.compile(r"(?:(?!text_|decoder)\w+\.)?(?:encoder\.|model\.)?layers?\.\d+\.")
# What no dense prediction reads.
LEFT_OUT = {"embeddings.mask_token": "pre-training only", "pooler.": "a head", "head.": "a head"}
PREFIX = ("embeddings.cls_token", "embeddings.register_tokens")
POSITIONS = ("embeddings.position_embeddings", "embeddings.position_embedding.weight")
OTHERS = "or a CroCo, DUSt3R or MASt3R, or timm's EVA-02, Perception Encoder, RoPE ViT or DINOv3"


def read_encoder(source: str, **options: Any) -> PretrainedEncoder:
    """
    Reads an encoder of one of `FAMILIES`, of CroCo, DUSt3R or MASt3R, or of timm.

    Args:
        source: a Hub repository, a folder or the model.safetensors in it; CroCo, DUSt3R and MASt3R may be their public file (.pth),
            timm's a name such as "eva02_base_patch14_448.mim_in22k_ft_in22k_in1k".
        options: of `from_pretrained`, such as `revision`, `token`, `cache_dir`, `local_files_only`.
    Raises:
        OSError: nothing is there. ValueError: another family, an option that our encoder doesn't have, tensors that are missing or
            have no place.
    """
    try:
        return _read(source, options)
    except (OSError, ImportError, MemoryError):
        raise
    except ValueError as error:
        named = source in str(error) or place_of(source) in str(error)
        if named and "trust_remote_code" not in str(error):  # of which transformers' own message advises to run it
            raise
        raise ValueError(f"{source}: {reason_of(error)}") from error
    except (
        Exception
    ) as error:  # of a damaged folder: SafetensorError, KeyError, TypeError, errors of transformers' configs, ...
        raise ValueError(f"{source}: not a readable encoder ({reason_of(error)})") from error


def _read(source: str, options: dict[str, Any]) -> PretrainedEncoder:
    if source.endswith((".pth", ".pt")):
        return read_croco_encoder(source)
    source = place_of(source)
    if Path(source).is_file():
        raise ValueError(f"{source}: a file; expected its folder, a model.safetensors or a .pth")
    check_folder(Path(source))
    try:
        settings, _ = PreTrainedConfig.get_config_dict(source, **options)
    except OSError as error:
        raise OSError(
            f"{source}: no folder or Hub repository with a config.json ({str(error).splitlines()[0]})"
        ) from error
    refuse_huge_integers(source, settings)
    if settings.get("quantization_config"):
        raise ValueError(f"{source}: quantised (quantization_config); expected the weights that it was made from")
    if settings.get("model_type") == "winwin":
        raise ValueError(f"{source}: this package's own; `from_pretrained` takes it, or a recipe's model.init")
    if is_timm(settings):
        return read_timm(source, settings, **options)
    if "model_type" not in settings and "enc_embed_dim" in settings:
        return read_croco_encoder(source, settings, **options)
    if "model_type" not in settings:
        raise ValueError(
            f"{source}: no config.json with a model_type; expected an encoder of {', '.join(FAMILIES)}, {OTHERS}"
        )
    return read_transformers(source, options)


def place_of(source: str) -> str:
    """The folder or Hub repository that `source` names: a model.safetensors is its folder's, and timm's names are completed."""
    return str(Path(source).parent) if Path(source).name == "model.safetensors" else timm_repository(source)


def read_transformers(source: str, options: dict[str, Any]) -> PretrainedEncoder:
    """An encoder of transformers' own format."""
    refuse_adapter(source, **options)
    theirs = AutoConfig.from_pretrained(source, trust_remote_code=False, **options)
    theirs = getattr(theirs, "vision_config", theirs)
    family = theirs.model_type
    if family not in FAMILIES:
        raise ValueError(f"{source}: an encoder of type {family!r}; expected one of {', '.join(FAMILIES)}, {OTHERS}")
    fields = FAMILIES[family](theirs, source)
    alone = WinWinConfig(**{**fields, "head_type": "linear", "decoder_num_hidden_layers": 0})
    check_hub_index(source, **options)
    if Path(source).is_dir():
        check_numbers(Path(source))
    files = Path(source).glob("model*.safetensors") if Path(source).is_dir() else ()
    refuse_larger(source, files, alone.count_parameters())
    try:
        model, found = AutoModel.from_pretrained(
            source,
            config=theirs,
            dtype=torch.float32,
            output_loading_info=True,
            trust_remote_code=False,
            **options,
        )
    except RuntimeError as error:
        raise ValueError(f"{source}: its tensors have other shapes than its config.json says") from error
    except (ValueError, OSError, ImportError, MemoryError):
        raise
    except Exception as error:
        if not (pickled := next(Path(source).glob("pytorch_model*.bin"), None)):
            raise
        # torch's own message advises to run what the file says
        raise ValueError(f"{pickled}: not readable as tensors, and nothing else is read") from error
    if not Path(source).is_dir():  # of the Hub, whose files are there only now
        check_numbers(Path(str(cached_file(source, "config.json", **options))).parent)
    missing = [name for name in found["missing_keys"] if not name.startswith(tuple(LEFT_OUT))]
    if missing:
        raise ValueError(f"{source}: {len(missing)} tensors of the encoder are missing, such as {sorted(missing)[0]}")
    beyond = [name for name in found["unexpected_keys"] if BLOCK.match(name)]
    if beyond:
        raise ValueError(
            f"{source}: {len(beyond)} tensors are of blocks that its config.json doesn't have, such as {sorted(beyond)[0]}"
        )
    state = model.state_dict()
    tensors, left_out = rename(state, source)
    names = [name for name in state if name not in left_out]
    left_out |= dict.fromkeys(found["unexpected_keys"], "not the encoder's")
    mean, std = normalisation(source, family, options)
    return PretrainedEncoder(source, family, fields, reorder(tensors, fields), names, left_out, mean, std)


def normalisation(source: str, family: str, options: dict[str, Any]) -> tuple[list[float], list[float]]:
    """The mean and deviation of the source's image processor; without one, its family's."""
    settings = processor_settings(source, options)
    half = family in ("vit", "siglip_vision_model")
    usual = (IMAGENET_STANDARD_MEAN, IMAGENET_STANDARD_STD) if half else (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    mean, std = (
        colours(settings.get(name) or default, name, source)
        for name, default in zip(("image_mean", "image_std"), usual, strict=True)
    )
    if settings.get("do_normalize") is False:
        mean, std = [0.0] * 3, [1.0] * 3
    # (x * factor - mean) / std of pixels x in 0..255 is (x / 255 - mean / scale) / (std / scale)
    factor = settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1.0
    if not isinstance(factor, int | float) or not 1e-6 <= factor <= 1e6:
        raise ValueError(f"{source}: rescale_factor is {str(factor)[:80]}; expected a number above zero")
    scale = 255 * factor
    if math.isclose(scale, 1.0, rel_tol=1e-6):
        return mean, std
    return [value / scale for value in mean], [value / scale for value in std]


def processor_settings(source: str, options: dict[str, Any]) -> dict[str, Any]:
    """
    What the source's image processor was saved with; {} where it has none.

    Raises: OSError: a file could not be downloaded. ValueError: one is no JSON object.
    """
    files = processor_files(source, **options)
    if not files:
        return {}
    try:
        settings, _ = ImageProcessingMixin.get_image_processor_dict(str(files[0].parent))
    except OSError as error:
        what = "is not readable JSON" if "not a valid JSON" in str(error) else "has no settings of an image processor"
        raise ValueError(f"{source}: its {files[-1].name} {what}") from error
    return settings


def check_numbers(folder: Path) -> None:
    """Raises ValueError where weights aren't floating-point numbers: transformers makes float32 of integers, too."""
    files = sorted(folder.glob("model*.safetensors"))
    for file in files:
        refuse_other_numbers(file)
    for file in () if files else sorted(folder.glob("pytorch_model*.bin")):
        check_pickled(file)


def check_pickled(file: Path) -> None:
    """Raises ValueError where a file of torch.save holds other things than tensors of weights, or views that repeat numbers."""
    try:
        content = load_tensors(file)
    except ValueError:
        content = None
    if not isinstance(content, dict) or not content:
        raise ValueError(f"{file}: not readable as tensors, and nothing else is read")
    for name, tensor in content.items():
        known = str(name).endswith(("position_ids", "num_batches_tracked")) and isinstance(tensor, torch.Tensor)
        if not known and not is_plain(tensor):
            raise ValueError(f"{file}: {shortened(str(name))} is no tensor of floating-point numbers; expected weights")
    check_held(file, {name: tensor for name, tensor in content.items() if is_plain(tensor)})


def rename(theirs: dict[str, torch.Tensor], source: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Their tensors under our names, and why the others are left out. Raises ValueError for one that has no place."""
    tensors, left_out, prefix, positions = {}, {}, {}, None
    for name, tensor in theirs.items():
        ours = next((re.sub(old, new, name) for old, new in NAMES if re.fullmatch(old, name)), None)
        if ours is not None:
            tensors[ours] = tensor
        elif name in PREFIX:
            prefix[name] = tensor.reshape(-1, tensor.shape[-1])
        elif name in POSITIONS:
            positions = tensor.reshape(-1, tensor.shape[-1])
        elif reason := next((why for start, why in LEFT_OUT.items() if name.startswith(start)), None):
            left_out[name] = reason
        else:
            raise ValueError(f"{source}: {name} has no place in our encoder")
    tokens = [prefix[name] for name in PREFIX if name in prefix]
    return {**tensors, **place_tokens(tokens, positions, source)}, left_out


def reorder(tensors: dict[str, torch.Tensor], fields: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Queries and keys with the channels of each head in the order of our RoPE; the same again brings them back."""
    if fields["position_embedding"] != "rope_frame":
        return tensors
    # quarters of a head: (row, column), (row, column) -> twice row, twice column
    return permute_heads(
        tensors,
        fields["num_attention_heads"],
        lambda channels: channels.unflatten(0, (2, 2, -1)).transpose(0, 1).flatten(),
    )


# ------------------------------------------------------------------ their configs


def side_of(value: Any, name: str, source: str) -> int:
    """A size given as one number or as two equal ones."""
    sides = set(value) if isinstance(value, list | tuple) else {value}
    if len(sides) > 1:
        raise ValueError(f"{source}: {name} is {value}; expected a square")
    return sides.pop()


def common(theirs: Any, source: str, intermediate_size: int) -> dict[str, Any]:
    """The fields that all families have."""
    patch = side_of(theirs.patch_size, "patch_size", source)
    if theirs.hidden_size % (4 * theirs.num_attention_heads):
        heads, width = theirs.num_attention_heads, theirs.hidden_size
        raise ValueError(
            f"{source}: {heads} heads in {width} channels; expected heads of equal width, a multiple of four"
        )
    dropout = getattr(theirs, "attention_dropout", getattr(theirs, "attention_probs_dropout_prob", 0.0))
    return {
        "patch_size": patch,
        "num_channels": theirs.num_channels,
        "hidden_size": theirs.hidden_size,
        "num_hidden_layers": theirs.num_hidden_layers,
        "num_attention_heads": theirs.num_attention_heads,
        "mlp_ratio": intermediate_size / theirs.hidden_size,
        "hidden_act": theirs.hidden_act,
        "layer_norm_eps": theirs.layer_norm_eps,
        "attention_dropout": dropout,
        "patch_embedding": "linear",
        "attention_pattern": "global",
        "qkv_bias": getattr(theirs, "qkv_bias", True),
    }


def learned(theirs: Any, source: str, patch: int) -> dict[str, Any]:
    """A table of positions, of the images that it was trained on."""
    side = side_of(theirs.image_size, "image_size", source) // patch
    return {"position_embedding": "learned", "position_grid": [side, side]}


def dino(theirs: Any) -> dict[str, Any]:
    """What DINOv2 and DINOv3 share."""
    fields = {
        "layerscale_value": theirs.layerscale_value,
        "apply_layernorm": True,
        "num_prefix_tokens": 1 + getattr(theirs, "num_register_tokens", 0),
    }
    taps = DINO_TAPS.get(theirs.num_hidden_layers)
    return {**fields, "head_taps": taps} if taps else fields


def dinov3(theirs: Any, source: str) -> dict[str, Any]:
    for name, expected in (("value_bias", theirs.query_bias), ("proj_bias", True), ("mlp_bias", True)):
        if getattr(theirs, name) != expected:
            raise ValueError(f"{source}: {name} is {getattr(theirs, name)}; expected {expected}")
    return {
        **common(theirs, source, theirs.intermediate_size),
        **dino(theirs),
        "position_embedding": "rope_frame",
        "rope_theta": theirs.rope_theta,
        "qkv_bias": theirs.query_bias,
        "key_bias": theirs.key_bias,
        "use_gated_mlp": theirs.use_gated_mlp,
    }


def dinov2(theirs: Any, source: str) -> dict[str, Any]:
    fields = common(theirs, source, dinov2_width(theirs.hidden_size, theirs.mlp_ratio, theirs.use_swiglu_ffn))
    return {
        **fields,
        **dino(theirs),
        **learned(theirs, source, fields["patch_size"]),
        "position_antialias": theirs.model_type == "dinov2_with_registers",
        "use_gated_mlp": theirs.use_swiglu_ffn,
        "hidden_act": "silu" if theirs.use_swiglu_ffn else theirs.hidden_act,
    }


def dinov2_width(hidden_size: int, ratio: float, gated: bool) -> int:
    """The MLP's width."""
    inner = int(hidden_size * ratio)
    return (int(inner * 2 / 3) + 7) // 8 * 8 if gated else inner


def vit(theirs: Any, source: str) -> dict[str, Any]:
    fields = common(theirs, source, theirs.intermediate_size)
    return {**fields, **learned(theirs, source, fields["patch_size"]), "num_prefix_tokens": 1}


def siglip(theirs: Any, source: str) -> dict[str, Any]:
    fields = common(theirs, source, theirs.intermediate_size)
    return {**fields, **learned(theirs, source, fields["patch_size"])}


FAMILIES: dict[str, Callable[[Any, str], dict[str, Any]]] = {
    "dinov3_vit": dinov3,
    "dinov2": dinov2,
    "dinov2_with_registers": dinov2,
    "vit": vit,
    "vit_mae": vit,
    "siglip_vision_model": siglip,
}


# ------------------------------------------------------------------ and back


def to_transformers(model: PreTrainedModel) -> PreTrainedModel:
    """
    Our encoder as transformers' own class of its family, with equal numbers: a fine-tuned encoder goes back into other tools.

    Args:
        model: a `WinWinModel`, or a task's model, of which only the encoder goes.
    Raises: ValueError: an encoder that no family has, such as one with relative RoPE.
    """
    encoder = getattr(model, "winwin", model)
    config, tensors = encoder.config, reorder(encoder.state_dict(), encoder.config.to_dict())
    family, fields = their_config(config)
    check_way_back(config, FAMILIES[family](CONFIG_MAPPING[family](**fields), family), family)
    theirs = AutoModel.from_config(
        CONFIG_MAPPING[family](**fields), **({"add_pooling_layer": False} if family == "vit" else {})
    )
    prefix, positions = tensors.get("embeddings.prefix_tokens"), tensors.get("embeddings.positions")
    state = theirs.state_dict()
    for name, tensor in state.items():
        ours = next((re.sub(old, new, name) for old, new in NAMES if re.fullmatch(old, name)), None)
        if ours is not None:
            value = tensors[ours]
        elif name in PREFIX and prefix is not None:
            value = prefix[:1] if name == PREFIX[0] else prefix[1:]
        elif name in POSITIONS and positions is not None:  # the class token holds its own position already
            value = positions.flatten(0, 1)
            value = value if prefix is None else torch.cat([torch.zeros_like(value[:1]), value])
        else:
            continue
        state[name] = value.reshape(tensor.shape).to(torch.float32)
    theirs.load_state_dict(state)
    return theirs.eval()


def check_way_back(config: Any, fields: dict[str, Any], family: str) -> None:
    """Raises ValueError where `fields`, which a family's config says about our encoder, aren't those of `config`."""
    again = type(config)(head_type="linear", **fields)
    names = ["hidden_act", "qkv_bias", "use_gated_mlp", "position_embedding", "position_antialias", "num_prefix_tokens"]
    names += ["intermediate_size", "patch_embedding", "global_blocks", "position_grid", "rope_reference"]
    names += ["mlp_norm", "attention_norm", "embedding_norm", "final_norm"]
    wrong = [name for name in names if getattr(config, name) != getattr(again, name)]
    if (config.layerscale_value is None) != (again.layerscale_value is None):
        wrong.append("layerscale_value")
    if wrong:
        values = ", ".join(f"{name}={getattr(config, name)!r}" for name in wrong)
        raise ValueError(f"an encoder with {values}: {family}, which is nearest, has no such encoders")


def their_config(config: Any) -> tuple[str, dict[str, Any]]:
    """The family of an encoder, and the fields of its config."""
    fields = {
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "patch_size": config.patch_size,
        "num_channels": config.num_channels,
        "hidden_act": config.hidden_act,
        "layer_norm_eps": config.layer_norm_eps,
    }
    dino, prefix = config.layerscale_value is not None, config.num_prefix_tokens
    if config.position_embedding == "rope_frame" and dino and prefix:
        return "dinov3_vit", {
            **fields,
            "intermediate_size": config.intermediate_size,
            "rope_theta": float(config.rope_theta),
            "query_bias": config.qkv_bias,
            "key_bias": config.qkv_bias and config.key_bias,
            "value_bias": config.qkv_bias,
            "layerscale_value": config.layerscale_value,
            "use_gated_mlp": config.use_gated_mlp,
            "num_register_tokens": prefix - 1,
        }
    grid = config.position_grid
    if grid is None or config.position_embedding != "learned" or grid[0] != grid[1] or not config.key_bias:
        raise ValueError(
            f"an encoder with position_embedding={config.position_embedding!r} and position_grid={grid}: expected one of "
            f"{', '.join(FAMILIES)}"
        )
    fields["image_size"] = grid[0] * config.patch_size
    if dino and prefix:
        fields |= {"qkv_bias": config.qkv_bias, "layerscale_value": config.layerscale_value}
        fields |= {"use_swiglu_ffn": config.use_gated_mlp, "mlp_ratio": dinov2_ratio(config)}
        return (
            ("dinov2", fields)
            if prefix == 1 and not config.position_antialias
            else ("dinov2_with_registers", {**fields, "num_register_tokens": prefix - 1})
        )
    if prefix > 1 or config.use_gated_mlp or config.position_antialias:
        raise ValueError(
            f"num_prefix_tokens={prefix}, use_gated_mlp={config.use_gated_mlp}: no family has such an encoder"
        )
    fields["intermediate_size"] = config.intermediate_size
    if prefix:
        return "vit", {**fields, "qkv_bias": config.qkv_bias}
    return "siglip_vision_model", {**fields, "vision_use_head": False}


def dinov2_ratio(config: Any) -> int:
    """DINOv2's `mlp_ratio`, from which it computes the MLP's width. Raises ValueError where none gives ours."""
    for ratio in range(1, 17):
        if dinov2_width(config.hidden_size, ratio, config.use_gated_mlp) == config.intermediate_size:
            return ratio
    raise ValueError(
        f"an MLP of width {config.intermediate_size}: DINOv2 has none for hidden_size={config.hidden_size}"
    )
