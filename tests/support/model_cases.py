"""What the model tests share: small random models of every task and variant, and one way to run them on windows of a frame.

All parameters are drawn at random, those that start at zero too: with a silent output layer no identity could fail.
"""

from __future__ import annotations

import functools

import pytest
import torch

from support.accelerator import IS_CUDA
from winwin_hf import (
    WinWinConfig,
    WinWinForDepthEstimation,
    WinWinForOpticalFlow,
    WinWinForPreTraining,
    WinWinForSemanticSegmentation,
)

TASKS = {
    "semantic-segmentation": WinWinForSemanticSegmentation,
    "depth-estimation": WinWinForDepthEstimation,
    "optical-flow": WinWinForOpticalFlow,
    "pre-training": WinWinForPreTraining,
}
DEVICE = "cpu"  # of `make`; the fixture `device` sets it
SMALL = {
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "decoder_hidden_size": 24,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "head_hidden_size": 32,
    "head_num_layers": 1,
    "dpt_layer_sizes": [8, 8, 16, 16],
    "dpt_hidden_size": 16,
    "matching_size": 16,
    "attention_cell_size": 2,
    "num_labels": 5,
}
VARIANTS: dict[str, dict] = {
    "linear": {"head_type": "linear"},
    "conv": {},
    "dpt": {"head_type": "dpt", "patch_size": 16},
    "stem": {"patch_embedding": "conv_stem"},
    "vitdet": {"head_type": "linear", "attention_pattern": "vitdet", "global_attention_indices": [2]},
    "sincos": {"head_type": "linear", "position_embedding": "sincos"},
    "matching": {"patch_embedding": "conv_stem", "matching_stride": 4},
    "refinement": {"patch_embedding": "conv_stem", "matching_stride": 4, "refinement_sizes": [8]},
}
# Pre-training has no head of these kinds and drops single tokens, which cells of tokens can't; only flow matches.
CASES = [
    (task, variant)
    for task in TASKS
    for variant in VARIANTS
    if not (task == "pre-training" and variant in ("conv", "dpt", "vitdet"))
    and (variant not in ("matching", "refinement") or task == "optical-flow")
]
RELATIVE = [case for case in CASES if case[1] != "sincos"]
# No convolution anywhere, so a window's border is not felt. Matching needs a convolutional stem and can't be among them.
BORDERLESS = [case for case in CASES if case[1] in ("linear", "vitdet", "sincos")]
BINOCULAR = ("optical-flow", "pre-training")
APART = torch.tensor([[[0, 0], [2, 3]], [[1, 4], [2, 0]]])  # two windows of 2x2 patches in each frame of 4x6


def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draws every parameter anew: weights so that activations keep their size, louder in attention; vectors about 0.3."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator) * (2 if "attention" in name else 1)
            parameter.copy_(noise / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.3 + 0.3 * noise)
    return model


def make(task: str, variant: str = "conv", **overrides):
    """A small random model in evaluation mode."""
    config = WinWinConfig(**{**SMALL, **VARIANTS[variant], **overrides})
    return randomise(TASKS[task](config)).eval().to(DEVICE)


def small_device(monkeypatch: pytest.MonkeyPatch, kind: type, pixels: int) -> None:
    """The CPU as an accelerator on which models of a class take at most so many pixels in one pass."""
    forward = kind.forward

    @functools.wraps(forward)
    def limited(self, pixel_values, *args, **kwargs):
        if pixel_values.numel() > 3 * pixels:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return forward(self, pixel_values, *args, **kwargs)

    monkeypatch.setattr(kind, "forward", limited)


def frames(model, batch: int = 2, rows: int = 4, columns: int = 6, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Two random views of rows x columns patches, (B, 3, H, W) each, where the model is."""
    p, generator = model.config.patch_size, torch.Generator().manual_seed(seed)
    return tuple(torch.randn(batch, 3, rows * p, columns * p, generator=generator).to(model.device) for _ in range(2))


def crop(frame: torch.Tensor, where: torch.Tensor, size: tuple[int, int], patch: int) -> torch.Tensor:
    """Windows of size (rows, columns) patches at `where` (B, N, 2), out of (B, C, H, W) -> (B, N, C, h, w)."""
    return torch.stack(
        [
            torch.stack([f[..., r * patch : (r + size[0]) * patch, c * patch : (c + size[1]) * patch] for r, c in w])
            for f, w in zip(frame, where.tolist(), strict=True)
        ]
    )


def hidden(frame: torch.Tensor, patch: int) -> torch.Tensor:
    """Which patches pre-training hides here: those of one colour of a chess board, (B, 1, rows, columns)."""
    rows, columns = (torch.arange(side // patch, device=frame.device) for side in frame.shape[-2:])
    return ((rows[:, None] + columns) % 2 == 0).expand(len(frame), 1, -1, -1)


def view(model, frame, where=None, size=(2, 2), shift=0, prefix="") -> dict[str, torch.Tensor]:
    """One view's arguments: the plain frame, or windows of it that are said to lie `shift` further than they do."""
    if where is None:
        return {f"{prefix}pixel_values": frame}
    pixels = crop(frame, where, size, model.config.patch_size)
    return {f"{prefix}pixel_values": pixels, f"{prefix}window_positions": (where + shift).to(frame.device)}


def arguments(task, model, views, where=None, size=(2, 2), second_where=None, second_size=None, shift=0) -> dict:
    """Arguments of a forward; the second view has the first one's windows unless its own are given."""
    inputs = view(model, views[0], where, size, shift)
    if task in BINOCULAR:
        second_where = where if second_where is None else second_where
        inputs |= view(model, views[1], second_where, second_size or size, shift, "second_")
    if task == "pre-training":
        mask = hidden(views[0], model.config.patch_size)
        inputs["bool_masked_pos"] = (mask if where is None else crop(mask, where, size, 1)).flatten(1)
    return inputs


def as_maps(task: str, outputs, shape: tuple[int, int, int]) -> torch.Tensor:
    """Everything a model predicts as maps (B, N, C, h, w), for windows of shape (N, rows, columns) patches."""
    if task == "optical-flow":
        maps = torch.cat([outputs.flow, outputs.log_scale.unsqueeze(-3)], dim=-3)
    elif task == "depth-estimation":
        maps = outputs.predicted_depth.unsqueeze(-3)
    elif task == "pre-training":
        maps = outputs.logits.unflatten(1, shape).movedim(-1, 2)
    else:
        maps = outputs.logits
    return maps.reshape(maps.shape[0], shape[0], *maps.shape[-3:])


def labels_for(task, model, kind: str, seed: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels for APART windows and which of them are unknown, where the model is."""
    p, generator = model.config.patch_size, torch.Generator().manual_seed(seed)
    unknown = (torch.rand(2, 2, 2 * p, 2 * p, generator=generator) < (1.1 if kind == "all" else 0.3)).to(model.device)
    if task == "semantic-segmentation":
        labels = torch.randint(0, 5, unknown.shape, generator=generator).to(model.device)
        return labels.masked_fill(unknown, 255), unknown
    values = (torch.rand(unknown.shape, generator=generator) * 5 + 1).to(model.device)
    if task == "optical-flow":
        values, unknown = values[:, :, None].repeat(1, 1, 2, 1, 1), unknown[:, :, None].expand(-1, -1, 2, -1, -1)
    if kind == "huge":  # what Middlebury writes for "unknown"; no depth camera does
        return values.masked_fill(unknown, 1.67e9 if task == "optical-flow" else 0.0), unknown
    return values.masked_fill(unknown, float("inf") if kind == "inf" else float("nan")), unknown


@torch.no_grad()
def predict(task, model, views, where=None, size=(2, 2), **kwargs) -> torch.Tensor:
    """Runs a model on whole views, or on windows of them -> maps (B, N, C, h, w)."""
    p = model.config.patch_size
    shape = (1, views[0].shape[-2] // p, views[0].shape[-1] // p) if where is None else (where.shape[1], *size)
    return as_maps(task, model(**arguments(task, model, views, where, size, **kwargs)), shape)


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the values' own size."""
    a, b = a.cpu(), b.cpu()
    assert a.shape == b.shape, (a.shape, b.shape)
    assert b.std() > 1e-3, "a constant prediction proves nothing"
    return ((a - b).abs().max() / (1 + b.abs().max())).item()


# Of `distance`, float32. One network on CPUs with AVX-512 and without AVX differs by up to 5e-6; a GPU's kernels sum in other orders.
TOLERANCE = 2e-5 if IS_CUDA and torch.cuda.is_available() else 1e-5
VISIBLE = 2e-4  # a distance that is no rounding
