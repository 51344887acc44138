"""Starting a training from other weights.

Notable:
- weights decide a part of the config, so a recipe that names them needs no sizes: `Start.config`.
- they also decide how images are normalised: `Start.processor` goes with the new model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig

from winwin_hf.convert.croco import load_croco
from winwin_hf.downloads import checked_downloads
from winwin_hf.inference.loading import load_network, load_processor, source_of
from winwin_hf.model.croco_files_winwin import PAIRS, read_croco
from winwin_hf.model.encoders_winwin import place_of, read_encoder
from winwin_hf.model.hub_files_winwin import processor_files
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.model.modeling_winwin import WinWinModel, WinWinPreTrainedModel
from winwin_hf.model.pretrained_winwin import PretrainedEncoder
from winwin_hf.training.recipe import in_field

# Fields of `WinWinConfig` that an encoder's weights decide, and a decoder's.
ENCODER = (
    *("patch_size", "num_channels", "patch_embedding", "stem_hidden_sizes"),
    *("hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "hidden_act", "layer_norm_eps"),
    *("qkv_bias", "key_bias", "use_gated_mlp", "layerscale_value", "num_prefix_tokens"),
    *("mlp_norm", "attention_norm", "embedding_norm", "final_norm"),
    *("position_embedding", "position_grid", "position_antialias", "rope_theta", "rope_reference", "rope_offset"),
)
DECODER = ("decoder_hidden_size", "decoder_num_hidden_layers", "decoder_num_attention_heads")


@dataclass(frozen=True)
class Start:
    """
    Weights to start from.

    Attributes:
        config: the fields of `WinWinConfig` that they decide; what may be chosen otherwise is in `free`.
        tensors: by their names under a head ("winwin.layers.0...").
        processor: how the encoder's images are normalised and padded; at no working size.
    """

    source: str
    config: dict[str, Any]
    free: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    processor: WinWinImageProcessor


def read_start(source: str | Path, pairs: bool = False) -> Start:
    """
    Reads the weights that a recipe's `model.init` names.

    Args:
        source: a folder, a bundled name or a Hub repository, of this package or as of `read_encoder`; or a public file of CroCo,
            DUSt3R or MASt3R (.pth).
        pairs: they are for a model of two views.
    Raises: ValueError, OSError: nothing is there, or no encoder that fits under our heads.
    """
    source = str(source)
    if source.endswith((".pth", ".pt")):
        with in_field("model.init"):
            if read_croco(source).kind in PAIRS:
                return _start_on(read_encoder(source), pairs)
            return _start_of(source, load_croco(source), None, pairs)
    with in_field("model.init"):
        place = source_of(place_of(source))
    if not Path(place).is_dir() and place.count("/") != 1:
        raise ValueError(
            f"model.init: {source}: no such folder, nor the name of a bundled checkpoint or of a Hub repository; if another recipe makes "
            "it, train by that one first"
        )
    with in_field("model.init"), checked_downloads(place):
        try:
            settings, _ = PreTrainedConfig.get_config_dict(place)
        except OSError:  # the reader's own error names the source
            settings = {}
        if settings.get("model_type") != "winwin":
            return _start_on(read_encoder(place), pairs)
        network = load_network(place)
        commit = getattr(network.config, "_commit_hash", None)  # None of a folder
        processor = load_processor(place, network) if processor_files(place, revision=commit) else None
        return _start_of(source, network, processor, pairs)


def _start_on(encoder: PretrainedEncoder, pairs: bool) -> Start:
    if (channels := encoder.config.get("num_channels", 3)) != 3:
        raise ValueError(f"{encoder.source}: takes {channels} channels; expected 3, as images have")
    names = ENCODER + DECODER if pairs and encoder.decoder else ENCODER
    fields = encoder.fields({}, pairs)
    tensors = {f"winwin.{name}": tensor for name, tensor in encoder.tensors.items()}
    return Start(
        encoder.source,
        config={name: value for name, value in fields.items() if name in names},
        free={name: value for name, value in fields.items() if name not in names},
        tensors=tensors | {f"decoder.{name}": tensor for name, tensor in encoder.decoder.items()},
        processor=encoder.image_processor(),
    )


def _start_of(source: str, model: Any, processor: Any, pairs: bool) -> Start:
    tensors, config = _full_names(model), model.config
    if not any(name.startswith("winwin.") for name in tensors):
        raise ValueError(f"{source}: a {type(model).__name__}; expected a model with an encoder")
    decoder = pairs and any(name.startswith("decoder.") for name in tensors)
    names = ENCODER + DECODER if decoder else ENCODER
    free: dict[str, Any] = {"apply_layernorm": config.apply_layernorm}
    if config.patch_size % 4:
        free["head_type"] = "dpt"
    if not pairs and config.head_taps is not None and config.head_taps[-1] < config.num_hidden_layers:
        free["head_taps"] = config.head_taps
    settings = {} if processor is None else {name: getattr(processor, name) for name in ("image_mean", "image_std")}
    return Start(
        source,
        config={name: getattr(config, name) for name in names},
        free=free,
        tensors=tensors,
        processor=WinWinImageProcessor(patch_size=config.patch_size, **settings),
    )


def initialise(model: WinWinPreTrainedModel, start: Start) -> list[str]:
    """
    Starts `model` from other weights: encoder and decoder, and whatever else has its name and shape.

    Unlike `from_pretrained(..., ignore_mismatched_sizes=True)` it does not pass over an encoder or decoder that doesn't fit.

    Returns: names of the model's parameters that were left as they were.
    Raises: ValueError where the encoder, or a decoder that both have, differs in depth, heads, a shape or its positions; the model is
        then as it was.
    """
    theirs, ours = start.tensors, _full_names(model)
    parts = [part for part in ("winwin.", "decoder.") if any(name.startswith(part) for name in {*ours} & {*theirs})]
    if "winwin." not in parts:
        raise ValueError(f"{start.source}: no tensor of an encoder; expected a model with an encoder")
    # What shapes don't show, and a shorter or longer stack, which would fit as far as it goes.
    options = ["position_embedding", "rope_theta", "num_hidden_layers", "num_attention_heads"]
    options += [f"decoder_{option}" for option in options[2:]] if "decoder." in parts else []
    for option in options:
        wanted = getattr(model.config, option)
        found = start.config.get(option, wanted)
        if wanted != found:
            raise ValueError(f"{start.source}: {option} is {found!r}; expected {wanted!r}, as in the model to start")
    fitting = {name for name in ours if name in theirs and theirs[name].shape == ours[name].shape}
    left = [name for name in ours if name not in fitting]
    for name in left:
        if name.startswith(tuple(parts)):
            found = f"has shape {tuple(theirs[name].shape)}" if name in theirs else "is missing"
            raise ValueError(
                f"{start.source}: {name} {found}; expected {tuple(ours[name].shape)}, as in the model to start"
            )
    with torch.no_grad():
        for name in fitting:
            ours[name].copy_(theirs[name])
    return left


def _full_names(model: WinWinPreTrainedModel) -> dict[str, torch.Tensor]:
    """A model's tensors by the names they have under a head: the bare encoder's carry its prefix too."""
    prefix = "winwin." if isinstance(model, WinWinModel) else ""
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}
