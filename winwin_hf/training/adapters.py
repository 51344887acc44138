"""LoRA of the encoder in a training by a recipe, by PEFT. The saved model is merged, so it is one like any other."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from typing import Any

from winwin_hf.model.weights_winwin import is_number

# Linear layers of the encoder's blocks.
TARGETS = r"winwin\.layers\.\d+\.(?:attention|mlp)\.\w+_proj"
# Options of `LoraConfig` whose result isn't a change of weights that are there.
UNMERGED = ("modules_to_save", "lora_bias", "trainable_token_indices", "target_parameters")


# What PEFT raises for options that it doesn't take, or that need another package.
REFUSED = (
    ImportError, TypeError, ValueError, AttributeError, LookupError, NotImplementedError, AssertionError, re.error,
)  # fmt: skip
FLAG = (lambda value: isinstance(value, bool), "true or false")
# Options of `LoraConfig` that it doesn't look at -> whether a value fits, and what was expected.
VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "lora_alpha": (lambda value: is_number(value) and value > 0, "a number above 0"),
    "lora_dropout": (lambda value: is_number(value) and 0 <= value < 1, "a number from 0, below 1"),
    "bias": (lambda value: value in ("none", "all", "lora_only"), "none, all or lora_only"),
    **dict.fromkeys(("use_rslora", "use_dora", "fan_in_fan_out"), FLAG),
}


def add_adapters(model: Any, options: dict[str, Any]) -> None:
    """
    Puts LoRA into the encoder, whose own weights are frozen. What was trained outside of the encoder still is.

    Args:
        options: arguments of PEFT's `LoraConfig`; by default all linear layers of the encoder's blocks have an adapter.
    Raises: ImportError: PEFT isn't there. ValueError: an option that PEFT doesn't have or that can't be merged, or layers that the model
        doesn't have.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ImportError(f"model.lora needs PEFT ({error}): pip install 'winwin-hf[lora]'") from error
    if wrong := [name for name in UNMERGED if options.get(name)]:
        raise ValueError(
            f"model.lora: {', '.join(wrong)} can't be merged into the saved model; what isn't the encoder's is trained anyway"
        )
    if options.get("inference_mode"):
        raise ValueError("model.lora: inference_mode would train nothing; expected none")
    for name, value in options.items():
        fits, expected = VALUES.get(name, (lambda _: True, ""))
        if not fits(value):
            raise ValueError(f"model.lora: {name} is {str(value)[:80]!r}; expected {expected}")
    ranks = options.get("rank_pattern")
    width = model.config.hidden_size
    for rank in (options.get("r", 1), *(ranks.values() if isinstance(ranks, dict) else ())):
        if type(rank) is not int or not 1 <= rank <= width:
            raise ValueError(
                f"model.lora: r is {str(rank)[:80]!r}; expected a whole number from 1 to the width, {width}"
            )
    others = [p for name, p in model.named_parameters() if p.requires_grad and not name.startswith("winwin.")]
    try:
        inject_adapter_in_model(LoraConfig(**{"target_modules": TARGETS, **options}), model)
    except REFUSED as error:
        raise ValueError(f"model.lora: {error}") from error
    # PEFT freezes all but its own; the weights under an adapter stay so
    adapted = {id(p) for name, p in model.named_parameters() if ".base_layer." in name}
    for parameter in others:
        parameter.requires_grad_(id(parameter) not in adapted)


def merged(model: Any) -> Any:
    """The model itself, or a copy with its adapters added into the weights."""
    try:
        from peft.tuners.tuners_utils import BaseTunerLayer
    except ImportError:
        return model
    if not any(isinstance(layer, BaseTunerLayer) for layer in model.modules()):
        return model
    model = copy.deepcopy(model)
    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge(safe_merge=True)
            model.set_submodule(name, layer.get_base_layer())
    del model.peft_config
    return model
