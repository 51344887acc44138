"""What every reader of an encoder that others pre-trained gives, and how a model takes it over."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from .image_processing_winwin import WinWinImageProcessor

HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
# What can be chosen anew without another encoder.
FREE = ("attention_dropout", "drop_path_rate", "head_taps", "apply_layernorm")


@dataclass(frozen=True)
class PretrainedEncoder:
    """
    An encoder of another family as ours, and its decoder if it has one.

    Attributes:
        family: transformers' `model_type`, or "croco", "dust3r", "mast3r".
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

        Raises: ValueError: a tensor is missing or has another shape.
        """
        parts = [(encoder, self.tensors)]
        if decoder is not None and self.decoder:
            parts.append((decoder, self.decoder))
        for module, tensors in parts:
            for name, expected in module.state_dict().items():
                found = f"has shape {tuple(tensors[name].shape)}" if name in tensors else "is missing"
                if name not in tensors or tensors[name].shape != expected.shape:
                    raise ValueError(f"{self.source}: {name} (our name) {found}; expected {tuple(expected.shape)}")
        for module, tensors in parts:
            module.load_state_dict(tensors)
