"""Starting a training from other weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoModel

import winwin_hf.registration  # noqa: F401 - the Auto classes know the package's models
from winwin_hf import bundled
from winwin_hf.convert.croco import load_croco
from winwin_hf.model.modeling_winwin import WinWinModel, WinWinPreTrainedModel
from winwin_hf.training.recipe import in_field


def initialise(model: WinWinPreTrainedModel, source: str | Path) -> list[str]:
    """
    Starts `model` from other weights, such as a converted CroCo v2: encoder and decoder, and whatever else has its name and shape.

    Unlike `from_pretrained(..., ignore_mismatched_sizes=True)` it does not pass over an encoder or decoder that doesn't fit.

    Args:
        source: a folder, a bundled name, a Hub repository, or a public CroCo checkpoint (.pth).
    Returns: names of the model's parameters that were left as they were.
    Raises: ValueError where the encoder, or a decoder that both have, differs in depth, heads, a shape or its positions; the model is
        then as it was.
    """
    if str(source).endswith((".pth", ".pt")):
        other = load_croco(source)
    else:
        place = bundled.resolve(str(source))
        if not Path(place).is_dir() and place.count("/") != 1:
            raise ValueError(
                f"model.init {source}: no such folder, nor the name of a bundled checkpoint or of a Hub repository; if another recipe "
                "makes it, train by that one first"
            )
        with in_field(f"model.init {source}"):
            other = AutoModel.from_pretrained(place)
    theirs, ours = _full_names(other), _full_names(model)
    parts = [part for part in ("winwin.", "decoder.") if any(name.startswith(part) for name in {*ours} & {*theirs})]
    if "winwin." not in parts:
        raise ValueError(f"{source}: a {type(other).__name__}; expected a model with an encoder")
    # What shapes don't show, and a shorter or longer stack, which would fit as far as it goes.
    options = ["position_embedding", "rope_theta", "num_hidden_layers", "num_attention_heads"]
    options += [f"decoder_{option}" for option in options[2:]] if "decoder." in parts else []
    for option in options:
        wanted, found = getattr(model.config, option), getattr(other.config, option, None)
        if wanted != found:
            raise ValueError(f"{source}: {option} is {found!r}; expected {wanted!r}, as in the model to start")
    fitting = {name for name in ours if name in theirs and theirs[name].shape == ours[name].shape}
    left = [name for name in ours if name not in fitting]
    for name in left:
        if name.startswith(tuple(parts)):
            found = f"has shape {tuple(theirs[name].shape)}" if name in theirs else "is missing"
            raise ValueError(f"{source}: {name} {found}; expected {tuple(ours[name].shape)}, as in the model to start")
    with torch.no_grad():
        for name in fitting:
            ours[name].copy_(theirs[name])
    return left


def _full_names(model: WinWinPreTrainedModel) -> dict[str, torch.Tensor]:
    """A model's tensors by the names they have under a head: the bare encoder's carry its prefix too."""
    prefix = "winwin." if isinstance(model, WinWinModel) else ""
    return {prefix + name: tensor for name, tensor in model.state_dict().items()}
