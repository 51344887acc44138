"""What every reader of an encoder that others pre-trained gives, and how a model takes it over."""

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import isqrt
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from transformers.utils.hub import cached_file

from .image_processing_winwin import WinWinImageProcessor
from .pixels_winwin import check_regular, shortened
from .weights_winwin import is_number, refuse_infinite, refuse_other_numbers

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
# What can be chosen anew without another encoder.
FREE = ("attention_dropout", "drop_path_rate", "head_taps", "apply_layernorm")
# Blocks that DINOv2's and DINOv3's own dense heads read, by the number of blocks; 12 blocks have our default.
DINO_TAPS = {24: [4, 11, 17, 23], 40: [9, 19, 29, 39]}


@dataclass(frozen=True)
class PretrainedEncoder:
    """
    An encoder of another family as ours, and its decoder if it has one.

    Attributes:
        family: transformers' `model_type`, or "timm", "croco", "dust3r", "mast3r".
        config: the fields of `WinWinConfig` that it decides.
        tensors: name in `WinWinModel` -> tensor, float32. names: the source's names of what went into them.
        left_out: the source's name of each tensor that isn't used -> why.
        image_mean, image_std: of RGB in [0, 1], by which its images are normalised.
        decoder: name in `WinWinDecoder` -> tensor, float32. decoder_names: the source's names. Empty without a decoder.
        licence: of its project's weights, in the Hub's spelling, where it is known without the source's own card.
    """

    source: str
    family: str
    config: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    names: list[str]
    left_out: dict[str, str]
    image_mean: list[float]
    image_std: list[float]
    decoder: dict[str, torch.Tensor] = field(default_factory=dict)
    decoder_names: list[str] = field(default_factory=list)
    licence: str | None = None

    def fields(self, options: dict[str, Any], pairs: bool = False) -> dict[str, Any]:
        """
        `config` with `options` on top.

        Args:
            pairs: for a model of two views, whose head reads blocks of the decoder too.
        Raises: ValueError: an option that is another encoder's.
        """
        for name, value in options.items():
            if name in self.config and name not in FREE and value != self.config[name]:
                raise ValueError(f"{name}={value!r}: {self.source} has {self.config[name]!r}")
        # patches of 14 pixels can't be halved twice, as the convolutional head does
        head = "dpt" if self.config["patch_size"] % 4 else "conv"
        return {"head_type": head, **self.config, **({"head_taps": None} if pairs else {}), **options}

    def image_processor(self) -> WinWinImageProcessor:
        """The image processor that goes with it."""
        return WinWinImageProcessor(
            patch_size=self.config["patch_size"], image_mean=self.image_mean, image_std=self.image_std
        )

    def without_decoder(self) -> "PretrainedEncoder":
        """The same for a model that has no decoder."""
        left_out = dict.fromkeys(self.decoder_names, "the decoder, which optical flow and pre-training have")
        return replace(self, decoder={}, decoder_names=[], left_out={**left_out, **self.left_out})

    def fill(self, encoder: nn.Module, decoder: nn.Module | None) -> None:
        """
        Brings the weights into a `WinWinModel`, and into a `WinWinDecoder` if both sides have one.

        Raises: ValueError: as `check`, and for values that aren't finite.
        """
        for module, tensors in self.check(encoder, decoder):
            refuse_infinite(self.source, tensors)
            module.load_state_dict(tensors)

    def check(self, encoder: nn.Module, decoder: nn.Module | None) -> list[tuple[nn.Module, dict[str, torch.Tensor]]]:
        """
        Each module with its tensors; the modules may be on the meta device.

        Raises: ValueError: a tensor is missing, has another shape or no place.
        """
        parts = [(encoder, self.tensors)]
        if decoder is not None and self.decoder:
            parts.append((decoder, self.decoder))
        for module, tensors in parts:
            ours = module.state_dict()
            unknown = [name for name in tensors if name not in ours]
            if unknown:
                raise ValueError(f"{self.source}: {unknown[0]} (our name) has no place in an encoder by this config")
            for name, expected in ours.items():
                found = f"has shape {tuple(tensors[name].shape)}" if name in tensors else "is missing"
                if name not in tensors or tensors[name].shape != expected.shape:
                    raise ValueError(f"{self.source}: {name} (our name) {found}; expected {tuple(expected.shape)}")
        return parts


def load_weights(source: str, **options: Any) -> dict[str, torch.Tensor]:
    """
    The tensors in the model.safetensors of a Hub repository or a folder.

    Args:
        options: as of `read_encoder`.
    Raises: OSError: there is none. ValueError: it is damaged, or another file.
    """
    path = Path(str(cached_file(source, "model.safetensors", **options)))
    check_regular(path)
    refuse_other_numbers(path)
    return load_file(path)


def colours(value: Any, name: str, source: str) -> list[float]:
    """Three numbers, of the channels, from three or one. Raises ValueError for anything else, and for a deviation of zero."""
    values = list(value) if isinstance(value, list | tuple) else [value] * 3
    numbers = all(map(is_number, values))
    if len(values) != 3 or not numbers or (name.endswith("std") and min(values) <= 0):
        least = " above zero" if name.endswith("std") else ""
        raise ValueError(f"{source}: {name} is {shortened(str(value))}; expected three numbers{least}")
    return [float(one) for one in values]


def place_tokens(prefix: list[torch.Tensor], positions: torch.Tensor | None, source: str) -> dict[str, torch.Tensor]:
    """
    Tokens before the patches and a square table of positions, under our names.

    Args:
        prefix: (tokens, D) each, in their order. positions: (tokens + patches, D), of the first prefix tokens and of the patches.
    Raises: ValueError: positions that are of no square grid.
    """
    tokens = torch.cat(prefix) if prefix else None
    placed = {}
    if positions is not None:
        side = isqrt(len(positions))
        own = len(positions) - side * side  # prefix tokens that have a position
        if side == 0 or own > (0 if tokens is None else len(tokens)):
            raise ValueError(f"{source}: {len(positions)} positions; expected those of a square grid")
        if tokens is not None and own:
            tokens = torch.cat([tokens[:own] + positions[:own], tokens[own:]])
        placed["embeddings.positions"] = positions[own:].unflatten(0, (side, side))
    return placed if tokens is None else {**placed, "embeddings.prefix_tokens": tokens}


def permute_heads(
    tensors: dict[str, torch.Tensor], heads: int, order: Callable[[torch.Tensor], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Tensors of an encoder, its queries and keys with the channels of each head as `order` puts (0, 1, ... width - 1)."""
    rotated = re.compile(r"layers\.\d+\.attention\.[qk]_proj\.\w+")

    def permute(tensor: torch.Tensor) -> torch.Tensor:
        of_heads = tensor.unflatten(0, (heads, -1))
        return of_heads[:, order(torch.arange(of_heads.shape[1], device=tensor.device))].flatten(0, 1)

    return {name: permute(tensor) if rotated.fullmatch(name) else tensor for name, tensor in tensors.items()}
