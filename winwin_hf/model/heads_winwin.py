"""Heads: from tokens laid out as maps to one prediction a pixel, window by window.

Notable:
- every head maps (B*N, D, h, w) token maps to (B*N, out, h*p, w*p): a head never sees two windows at once.
- `ConvHead` goes from the tokens' stride to stride 4 by pixel shuffles. With a convolutional stem it adds the stem's features on the
  way, which have the edges.
- `DPTHead` is CroCo-Flow's (Ranftl et al. 2021), so that its checkpoints can be converted. Its last maps are the largest tensors of
  the network; without gradients they are computed a strip of rows at a time.

Shapes: B batch, N windows, D width, h w patches, p patch size.
"""

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_winwin import WinWinConfig
from .tracing_winwin import is_traced

STRIP_ROWS = 64  # rows of the DPT head's last maps that are computed at a time
CHUNK = 512  # positions of a ConvNeXt block's MLP that a core computes at a time: what is between its layers stays in the cache
Rows = Callable[[int, int], torch.Tensor]  # (start, stop) -> those rows of a map (B*N, C, H, W)


def is_cpu_inference(x: torch.Tensor) -> bool:
    """Whether a CPU may compute a map piece by piece, in place: no gradient is wanted, no graph is recorded."""
    return x.device.type == "cpu" and not torch.is_grad_enabled() and not is_traced()


class LayerNorm2d(nn.LayerNorm):
    """Layer norm over the channels of (B, C, H, W) maps, position by position, so that a window and a full image agree."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.permute(0, 2, 3, 1)
        if x.dtype == torch.bfloat16 and x.device.type == "cpu" and x.shape[-1] % 16:
            # channels that don't fill a CPU's vectors: bf16 takes three times as long, forward and backward
            weight, bias = self.weight.float(), self.bias.float()
            x = F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps).to(x.dtype)
        else:
            x = super().forward(x)
        return x.permute(0, 3, 1, 2)


class StdConv2d(nn.Conv2d):
    """A convolution whose weights are initialised with `init_std` instead of `config.initializer_range`."""

    def __init__(self, *args: Any, init_std: float, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.init_std: float = init_std


class ConvNextBlock(nn.Module):
    """7x7 depthwise convolution, then a channel MLP, with a scaled residual (Liu et al. 2022)."""

    def __init__(self, size: int, eps: float, init_scale: float = 1e-1):
        super().__init__()
        self.init_scale = init_scale
        self.depthwise = nn.Conv2d(size, size, 7, padding=3, groups=size)
        self.norm = nn.LayerNorm(size, eps=eps)
        self.up_proj = nn.Linear(size, 4 * size)
        self.down_proj = nn.Linear(4 * size, size)
        self.layer_scale = nn.Parameter(torch.full((size,), init_scale))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # channels last: the depthwise gradient takes a CPU half the time, and the norm needs no copy. Three axes for the linear layers:
        # bitsandbytes' 8 bits take no more.
        x = x.contiguous(memory_format=torch.channels_last)
        if x.device.type == "cpu" and torch.is_autocast_enabled("cpu") and torch.is_grad_enabled():
            # its gradient takes a CPU three times as long in bf16
            with torch.autocast("cpu", enabled=False):
                y = self.depthwise(x.float()).to(x.dtype)
        else:
            y = self.depthwise(x)
        if is_cpu_inference(x):
            return self.in_chunks(x, y.contiguous(memory_format=torch.channels_last))
        y = y.permute(0, 2, 3, 1)
        y = self.down_proj(F.gelu(self.up_proj(self.norm(y).flatten(1, 2)))).unflatten(1, y.shape[1:3])
        return x + (self.layer_scale * y).permute(0, 3, 1, 2)

    def in_chunks(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """`forward` after the depthwise convolution y of x, both channels last, some positions at a time. The result may lie in y."""
        out = y if y.dtype == x.dtype else torch.empty_like(x)
        size = CHUNK * torch.get_num_threads()
        rows = (t.permute(0, 2, 3, 1).view(-1, t.shape[1]).split(size) for t in (x, y, out))
        for before, convolved, result in zip(*rows, strict=True):
            inner = self.up_proj(self.norm(convolved))
            change = self.down_proj(F.gelu(inner, out=inner))  # type: ignore[call-arg]
            torch.addcmul(before, change, self.layer_scale, out=result)
        return out


class ConvStem(nn.Module):
    """Stacked stride-2 convolutions instead of one linear projection a patch (ours), with the features of each stride."""

    def __init__(self, config: WinWinConfig):
        super().__init__()
        sizes = [config.num_channels, *config.stem_sizes]
        self.convs = nn.ModuleList(
            # He et al. 2015: the usual 0.02 would shrink the image to nothing over several convolutions
            StdConv2d(inner, outer, 3, stride=2, padding=1, init_std=(2 / (9 * inner)) ** 0.5)
            for inner, outer in pairwise(sizes)
        )
        # no norm after the last: the encoder's first block begins with one
        self.norms = nn.ModuleList(LayerNorm2d(size, eps=config.layer_norm_eps) for size in sizes[1:-1])

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """(B*N, C, H, W) -> maps of strides 2, 4, ..., p; the last one holds the patches, (B*N, D, h, w)."""
        maps = []
        x = pixels.to(memory_format=torch.channels_last)
        for conv, norm in zip(self.convs[:-1], self.norms, strict=True):
            x = F.gelu(norm(conv(x)))
            maps.append(x)
        return [*maps, self.convs[-1](x)]


class LinearHead(nn.Module):
    """One linear projection a token."""

    def __init__(self, config: WinWinConfig, in_size: int, out_channels: int):
        super().__init__()
        self.patch_size = config.patch_size
        self.projection = nn.Linear(in_size, out_channels * config.patch_size**2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.projection(tokens.flatten(2).mT).mT.unflatten(2, tokens.shape[2:])
        return F.pixel_shuffle(x, self.patch_size)


class ConvHead(nn.Module):
    """
    ConvNeXt blocks and pixel shuffles: stride p -> p/2 -> p/4, then each position predicts its own pixels.

    `extra`: stride -> number of channels of further features that are added there (the matching's). With a convolutional stem, the
    first view's stem features of strides p/2 and p/4 are added too. `zero_init`: the output layer starts at zero, so that an untrained
    network with matching predicts the match itself.
    """

    def __init__(
        self,
        config: WinWinConfig,
        in_size: int,
        out_channels: int,
        extra: dict[int, int] | None = None,
        zero_init: bool = False,
    ):
        super().__init__()
        eps, size, extra = config.layer_norm_eps, config.head_hidden_size, extra or {}
        stem = config.stem_sizes if config.patch_embedding == "conv_stem" else []
        self.norm = LayerNorm2d(in_size, eps=eps)
        self.embed = nn.Conv2d(in_size, size, 1)
        self.blocks = nn.Sequential(*(ConvNextBlock(size, eps) for _ in range(config.head_num_layers)))
        self.ups, self.skips, self.refines = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        self.strides = [config.patch_size // 2, config.patch_size // 4]
        for stride in self.strides:
            inner, size = size, max(16, size // 2)
            self.ups.append(nn.Conv2d(inner, 4 * size, 1))
            skip = (stem[stride.bit_length() - 2] if stem and stride > 1 else 0) + extra.get(stride, 0)
            self.skips.append(nn.Conv2d(skip, size, 1) if skip else nn.Identity())
            self.refines.append(ConvNextBlock(size, eps))
        self.out_norm = LayerNorm2d(size, eps=eps)
        out_size = out_channels * self.strides[-1] ** 2
        self.out = StdConv2d(size, out_size, 1, init_std=0.0) if zero_init else nn.Conv2d(size, out_size, 1)

    def forward(self, tokens: torch.Tensor, features: dict[int, list[torch.Tensor]] | None = None) -> torch.Tensor:
        """tokens (B*N, D, h, w), features {stride: maps of that stride} -> (B*N, out, h*p, w*p)."""
        x = self.blocks(self.embed(self.norm(tokens)))
        for stride, up, skip, refine in zip(self.strides, self.ups, self.skips, self.refines, strict=True):
            x = F.pixel_shuffle(up(x), 2)
            # an adapter or a quantiser may have put another class in a convolution's place
            if not isinstance(skip, nn.Identity):
                x = x + skip(torch.cat([f.to(x.dtype) for f in (features or {})[stride]], dim=1))
            x = refine(x)
        return F.pixel_shuffle(self.out(self.out_norm(x)), self.strides[-1])


class ResidualConvUnit(nn.Module):
    """Two 3x3 convolutions with a residual (Ranftl et al. 2021)."""

    def __init__(self, size: int):
        super().__init__()
        self.conv1 = nn.Conv2d(size, size, 3, padding=1)
        self.conv2 = nn.Conv2d(size, size, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class FusionBlock(nn.Module):
    """
    Adds one level to what came from the coarser ones and doubles its resolution (Ranftl et al. 2021).

    The coarsest level has nothing to add to, so it has no `unit1`. Other implementations keep one that is never used, which distributed
    training refuses.
    """

    def __init__(self, size: int, coarsest: bool = False):
        super().__init__()
        self.unit1 = None if coarsest else ResidualConvUnit(size)
        self.unit2 = ResidualConvUnit(size)
        self.projection = nn.Conv2d(size, size, 1)

    def forward(self, coarser: torch.Tensor | None, level: torch.Tensor) -> torch.Tensor:
        return self.projection(double(self.fuse(coarser, level)))

    def fuse(self, coarser: torch.Tensor | None, level: torch.Tensor) -> torch.Tensor:
        """The sum of both, before the doubling."""
        if self.unit1 is not None and coarser is not None:
            # with an odd number of patches the coarser level is one row or column too large
            level = coarser[..., : level.shape[-2], : level.shape[-1]] + self.unit1(level)
        return self.unit2(level)


def double(x: torch.Tensor) -> torch.Tensor:
    """(B*N, C, H, W) -> (B*N, C, 2H, 2W), corners on corners."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)


def doubled_rows(x: torch.Tensor, start: int, stop: int) -> torch.Tensor:
    """Rows `start` to `stop` of `double(x)`, equal up to rounding."""
    height, width = x.shape[-2:]
    steps = torch.arange(start, stop, device=x.device) * (height - 1)  # in units of 1 / (2 height - 1) rows
    above = steps // (2 * height - 1)
    share = (steps % (2 * height - 1) / (2 * height - 1))[:, None]
    below = (above + 1).clamp(max=height - 1)
    # in float32: bf16 is too coarse for the shares
    rows = torch.lerp(x.index_select(-2, above).float(), x.index_select(-2, below).float(), share).to(x.dtype)
    return F.interpolate(rows, size=(stop - start, 2 * width), mode="bilinear", align_corners=True)


def convolved_rows(conv: nn.Conv2d, rows: Rows, height: int, start: int, stop: int) -> torch.Tensor:
    """Rows `start` to `stop` of a zero-padded 3x3 convolution. `rows` computes rows of its input, which has `height` of them."""
    top, bottom = max(0, start - 1), min(height, stop + 1)
    # The module pads the strip's edges too; what that spoils is cut off. It may be an adapter's, with more than a weight and a bias.
    return conv(rows(top, bottom))[..., start - top : stop - top, :]


def in_strips(rows: Rows, height: int) -> torch.Tensor:
    """A whole map of `height` rows, computed `STRIP_ROWS` at a time."""
    return torch.cat([rows(start, min(start + STRIP_ROWS, height)) for start in range(0, height, STRIP_ROWS)], dim=-2)


class DPTHead(nn.Module):
    """Four blocks' tokens at strides p/4, p/2, p and 2p, fused from coarse to fine (Ranftl et al. 2021; CroCo-Flow's head)."""

    def __init__(self, config: WinWinConfig, in_sizes: list[int], out_channels: int):
        super().__init__()
        sizes, size = config.dpt_layer_sizes, config.dpt_hidden_size
        self.patch_size = config.patch_size
        self.projections = nn.ModuleList(nn.Conv2d(i, o, 1) for i, o in zip(in_sizes, sizes, strict=True))
        self.resamples = nn.ModuleList(
            [
                nn.ConvTranspose2d(sizes[0], sizes[0], 4, stride=4),
                nn.ConvTranspose2d(sizes[1], sizes[1], 2, stride=2),
                nn.Identity(),
                nn.Conv2d(sizes[3], sizes[3], 3, stride=2, padding=1),
            ]
        )
        self.levels = nn.ModuleList(nn.Conv2d(s, size, 3, padding=1, bias=False) for s in sizes)
        self.fusions = nn.ModuleList(FusionBlock(size, coarsest=i == 3) for i in range(4))
        self.conv1 = nn.Conv2d(size, size // 2, 3, padding=1)
        self.conv2 = nn.Conv2d(size // 2, 32, 3, padding=1)
        self.out = nn.Conv2d(32, out_channels, 1)

    def forward(self, taps: list[torch.Tensor]) -> torch.Tensor:
        """Four token maps (B*N, D_i, h, w) -> (B*N, out, h*p, w*p)."""
        height, width = (side * self.patch_size for side in taps[0].shape[-2:])
        coarser = None
        for index in (3, 2, 1):
            coarser = self.block(index)(coarser, self.level(index, taps))
        x = self.finish(self.block(0).fuse(coarser, self.level(0, taps)))
        if x.shape[-2:] != (height, width):  # patches that aren't 16 pixels wide
            x = F.interpolate(x, size=(height, width), mode="bilinear", align_corners=True)
        return x

    def block(self, index: int) -> FusionBlock:
        return cast(FusionBlock, self.fusions[index])

    def level(self, index: int, taps: list[torch.Tensor]) -> torch.Tensor:
        """A tap at its level's resolution, with the fusion's channels."""
        return self.levels[index](self.resamples[index](self.projections[index](taps[index])))

    def finish(self, x: torch.Tensor) -> torch.Tensor:
        """From the finest level, (B*N, dpt_hidden_size, H, W), to predictions, (B*N, out, 4H, 4W)."""
        projection, height = self.block(0).projection, 2 * x.shape[-2]
        if torch.is_grad_enabled() or is_traced() or height <= STRIP_ROWS:
            return self.out(F.relu(self.conv2(double(self.conv1(projection(double(x)))))))

        def fused(start: int, stop: int) -> torch.Tensor:  # the whole map would be dpt_hidden_size x 2H x 2W
            return projection(doubled_rows(x, start, stop))

        half = in_strips(partial(convolved_rows, self.conv1, fused, height), height)

        def full(start: int, stop: int) -> torch.Tensor:
            y = convolved_rows(self.conv2, partial(doubled_rows, half), 2 * height, start, stop)
            return self.out(F.relu(y))

        return in_strips(full, 2 * height)
