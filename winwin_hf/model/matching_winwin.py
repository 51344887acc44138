"""Matching: where in the second view does each position of the first one lie? Ours, not the paper's.

A plain ViT learns to match only after very long pre-training. Here two attentions between stride-s features of both views do it
explicitly, and are supervised:
1. global: queries and keys carry RoPE, so that the prior over displacements is learnt and relative; a wide Gaussian prior (its width
   is learnt) keeps the many far keys of a frame larger than any training frame from adding up; besides all keys of the
   second view there is one learnt "no match" key.
2. local: other features, and a narrow Gaussian prior centred on the first answer, which removes what a mean over several modes
   leaves.

Notable:
- the *values* are the keys' coordinates, so a plain memory-linear SDPA returns the expected displacement; no correlation volume is
  held, nothing is sampled from a grid, and windows that lie anywhere need no special case.
- a Gaussian prior is bilinear in (query, key): -|k - c|^2 / 2s^2 = (k.c - |k|^2/2 - |c|^2/2) / s^2, so it costs three more channels.
- squared coordinates among the values give the match's spread, for the loss and as a feature.
- coordinates up to 240 must come out exact to a hundredth: all of this runs in float32, autocast or not.
- query, key and value have the same width, or SDPA on a CPU falls back to the full matrix.
- features are unit vectors, so their logits are bounded, and beyond some distance a prior's are below anything they can make up for:
  on whole frames such keys are left out, a block of queries at a time (`near`). What they would add is below float32's rounding; cost
  then grows with the pixels, not with their square.

Shapes: B batch, N windows, T tokens, Q K stride-s positions of the first and second view, C channels.
"""

from dataclasses import dataclass
from math import log

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_winwin import WinWinConfig
from .heads_winwin import ConvNextBlock, LayerNorm2d
from .losses_winwin import MAX_FLOW
from .rope_winwin import apply_rotary, rotary_embedding

EXTRA_CHANNELS = 8  # beyond `matching_size`: prior and no-match channels of keys, coordinates among the values
NEGLIGIBLE = 30.0  # nats: a million keys this far below the best one are 1e-7 of it
BLOCK = (16, 32)  # rows and columns of the queries that share their keys
FEW = 1e-30  # mass that real keys are told apart by; its inverse, times squared coordinates, is a float32 still
LEAST = 1e-37  # probability that still has a logarithm, and a gradient
WORTH_IT = 0.6  # share of all (query, key) pairs above which leaving out the others saves no time

Grid = tuple[int, int]  # rows, columns
Box = tuple[int, int, int, int]  # top, bottom, left, right


@dataclass
class Match:
    """
    What the matching knows about each stride-s position of the first view.

    flow (B, Q, 2): refined displacement (right, down), in pixels. coarse (B, Q, 2): the global attention's.
    mass (B, Q): attention on real keys rather than on "no match". no_match (B, Q): the rest of it, exact where it is tiny.
    spread (B, Q): the global attention's variance, in positions^2.
    retrieved (B, Q, C): the second view's features at the match. query (B, Q, C): the first view's.
    """

    flow: torch.Tensor
    coarse: torch.Tensor
    mass: torch.Tensor
    no_match: torch.Tensor
    spread: torch.Tensor
    retrieved: torch.Tensor
    query: torch.Tensor


class MatchingFeatures(nn.Module):
    """Tokens shuffled up to the matching's stride, plus the stem's features of that stride, plus one ConvNeXt block."""

    def __init__(self, config: WinWinConfig):
        super().__init__()
        assert config.matching_stride is not None
        size, self.factor = config.matching_size, config.patch_size // config.matching_stride
        self.norm = LayerNorm2d(config.hidden_size, eps=config.layer_norm_eps)
        self.up = nn.Conv2d(config.hidden_size, size * self.factor**2, 1)
        self.skip = nn.Conv2d(config.stem_sizes[config.matching_stride.bit_length() - 2], size, 1)
        self.block = ConvNextBlock(size, config.layer_norm_eps)
        self.out_norm = LayerNorm2d(size, eps=config.layer_norm_eps)

    def forward(self, tokens: torch.Tensor, stem: torch.Tensor) -> torch.Tensor:
        """tokens (B*N, D, h, w), stem (B*N, C', h*f, w*f) -> (B*N, C, h*f, w*f), f positions a patch's side."""
        x = F.pixel_shuffle(self.up(self.norm(tokens)), self.factor) + self.skip(stem)
        return self.out_norm(self.block(x))


class Matching(nn.Module):
    """The two attentions. Everything is relative, so moving both views' windows together changes nothing."""

    def __init__(self, config: WinWinConfig):
        super().__init__()
        assert config.matching_stride is not None
        size = config.matching_size
        self.size, self.stride, self.theta = size, config.matching_stride, config.rope_theta
        self.min_log_sigma = log(config.min_matching_sigma)
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.no_match = nn.Linear(size, 1)  # the logit of "no match" for each query
        self.fine_query = nn.Linear(size, size)
        self.fine_key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.log_temperature = nn.Parameter(torch.tensor([2.5, 2.5]))  # of the global and of the local attention
        self.log_sigma = nn.Parameter(torch.tensor([2.8, 0.7]))  # of the two attentions' priors, in positions

    def attend(self, query, query_extra, key, key_extra, values, near: "Near | None" = None):
        """
        One SDPA without heads; `*_extra` are further channels of the logits, not normalised. (B, Q, ...) -> (B, Q, C + 8).

        `near`: which keys each block of queries needs; None: all.
        """
        width = self.size + EXTRA_CHANNELS
        query, key, values = (torch.cat(parts, dim=-1) for parts in ([query, *query_extra], [key, *key_extra], values))
        query, key, values = (F.pad(t, (0, width - t.shape[-1])) for t in (query, key, values))
        if near is not None:
            return near.attend(query, key, values)
        out = F.scaled_dot_product_attention(query[:, None], key[:, None], values[:, None], scale=1.0)
        return out[:, 0]

    def forward(
        self,
        first: torch.Tensor,
        second: torch.Tensor,
        first_xy: torch.Tensor,
        second_xy: torch.Tensor,
        grids: tuple[Grid, Grid] | None = None,
    ) -> Match:
        """
        features (B, Q, C), (B, K, C) and coordinates in positions, (B, Q, 2), (B, K, 2) as (x, y), of both views -> Match.

        `grids`: rows and columns of both views' positions where each is one whole rectangle, row by row; negligible keys are then
        left out, unless a gradient is wanted or the graph is traced.
        """
        if torch.is_grad_enabled() or torch.compiler.is_compiling():
            grids = None
        with torch.autocast(first.device.type, enabled=False):
            return self.match(first.float(), second.float(), first_xy.float(), second_xy.float(), grids)

    def prior(self, centre: torch.Tensor, precision: torch.Tensor) -> list[torch.Tensor]:
        """Query channels that, with (x, y, x^2 + y^2) of a key, give a Gaussian's logits around `centre` (B, Q, 2), but for a constant."""
        return [centre * precision, (-0.5 * precision).expand(*centre.shape[:2], 1)]

    def match(self, first, second, first_xy, second_xy, grids: tuple[Grid, Grid] | None = None) -> Match:
        dtype = self.query.weight.dtype
        project = lambda layer, x: layer(x.to(dtype)).float()  # noqa: E731  weights may be in half precision
        centre = first_xy.mean(dim=1, keepdim=True)  # small numbers: float32 is exact enough, wherever the windows lie
        first_xy, second_xy = first_xy - centre, second_xy - centre
        temperature = self.log_temperature.float().clamp(max=4.6).exp()
        least = self.log_sigma.new_tensor([self.min_log_sigma, 0.0]).float()
        precision = torch.exp(-2 * torch.maximum(self.log_sigma.float(), least).clamp(max=6.0))

        def near(centre: torch.Tensor, which: int) -> Near | None:
            if grids is None:
                return None
            distance = (2 * (2 * temperature[which] + NEGLIGIBLE) / precision[which]).sqrt()
            return near_keys(centre - second_xy[:, :1], *grids, distance)

        # 1. global
        query = F.normalize(project(self.query, first), dim=-1)
        key = F.normalize(project(self.key, second), dim=-1)
        query = apply_rotary(query, *rotary_embedding(first_xy.flip(-1), self.size, self.theta)) * temperature[0]
        key = apply_rotary(key, *rotary_embedding(second_xy.flip(-1), self.size, self.theta))
        squares = second_xy.square().sum(-1, keepdim=True)
        is_real = torch.ones_like(squares)
        out = self.attend(
            query,
            [
                # the prior's -|c|^2/2 is left out for the keys, so it is added here with the other sign
                project(self.no_match, first) + 0.5 * precision[0] * first_xy.square().sum(-1, keepdim=True),
                *self.prior(first_xy, precision[0]),
            ],
            F.pad(key, (0, 0, 0, 1)),  # one more key: no features, no place, ...
            [  # ... only the query's own logit, ...
                F.pad(torch.zeros_like(squares), (0, 0, 0, 1), value=1.0),
                F.pad(torch.cat([second_xy, squares], dim=-1), (0, 0, 0, 1)),
            ],
            [  # ... and nothing to return but that it was chosen
                F.pad(torch.cat([second_xy, squares, is_real], dim=-1), (0, 0, 0, 1)),
                F.pad(torch.zeros_like(squares), (0, 0, 0, 1), value=1.0),
            ],
            near(first_xy, 0),
        )
        mass, no_match = out[..., 3], out[..., 4]
        some = mass.clamp(min=FEW)
        mean = out[..., :2] / some[..., None]
        spread = (out[..., 2] / some - mean.square().sum(-1)).clamp(min=0)

        # 2. local, around the first answer, which it doesn't teach
        query = F.normalize(project(self.fine_query, first), dim=-1) * temperature[1]
        key = F.normalize(project(self.fine_key, second), dim=-1)
        out = self.attend(
            query,
            self.prior(mean.detach(), precision[1]),
            key,
            [second_xy, squares],
            [second_xy, project(self.value, second)],
            near(mean, 1),
        )
        return Match(
            flow=(out[..., :2] - first_xy) * self.stride,
            coarse=(mean - first_xy) * self.stride,
            mass=mass,
            no_match=no_match,
            spread=spread,
            retrieved=out[..., 2 : 2 + self.size],
            query=first,
        )


# ------------------------------------------------------------------ keys that count


@dataclass
class Near:
    """Blocks of queries, as boxes of the first view's grid, and the box of the second view's grid that each needs: (sample, box, box)."""

    grid: Grid
    key_grid: Grid
    blocks: list[tuple[int, Box, Box]]

    def attend(self, query: torch.Tensor, key: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """SDPA (B, Q, W), (B, K, W), (B, K, W) -> (B, Q, W), block by block; keys beyond the grid's belong to all blocks."""
        width, (rows, columns) = query.shape[-1], self.key_grid
        queries = query.unflatten(1, self.grid)
        keys, key_values = (t[:, : rows * columns].unflatten(1, (rows, columns)) for t in (key, values))
        others, other_values = (t[:, rows * columns :] for t in (key, values))
        out = torch.empty_like(queries)
        for i, (top, bottom, left, right), (key_top, key_bottom, key_left, key_right) in self.blocks:
            box = (i, slice(key_top, key_bottom), slice(key_left, key_right))
            part = queries[i, top:bottom, left:right]
            attended = F.scaled_dot_product_attention(
                part.reshape(1, 1, -1, width),
                torch.cat([keys[box].reshape(-1, width), others[i]])[None, None],
                torch.cat([key_values[box].reshape(-1, width), other_values[i]])[None, None],
                scale=1.0,
            )
            out[i, top:bottom, left:right] = attended.view(part.shape)
        return out.flatten(1, 2)


def near_keys(centre: torch.Tensor, grid: Grid, key_grid: Grid, distance: torch.Tensor) -> Near | None:
    """
    For each block of queries, the keys that are at most `distance` further from a query's centre than the nearest key is.

    Further in the sense of a Gaussian: d^2 <= (nearest d)^2 + distance^2. A key beyond is less likely than the nearest one by more
    than the two differ in features, if `distance` is sqrt(2 (2 T + e) / precision) with temperature T: by at least e nats.

    Args:
        centre: (B, Q, 2), the priors' centres as (x, y) in steps of the keys' grid from its first key.
    Returns: None where that is nearly all of them.
    """
    at = centre.unflatten(1, grid)  # (B, h, w, 2)
    last = at.new_tensor([key_grid[1] - 1, key_grid[0] - 1])
    nearest = ((at - torch.minimum(at.clamp(min=0), last)).abs() + 0.5).square().sum(-1)
    reach = (nearest + distance**2).sqrt()[..., None]
    # the least and the greatest of a block: pooling, with what is left at the right and the bottom
    low = -F.max_pool2d((reach - at).permute(0, 3, 1, 2), BLOCK, ceil_mode=True)
    high = F.max_pool2d((reach + at).permute(0, 3, 1, 2), BLOCK, ceil_mode=True)
    bounds = torch.stack([low.floor().clamp(min=0), high.ceil() + 1], dim=-1).long().cpu()  # (B, 2, blocks, blocks, 2)
    blocks, pairs = [], 0
    for i, sample in enumerate(bounds.permute(0, 2, 3, 1, 4).tolist()):
        for row, line in enumerate(sample):
            for column, ((left, right), (top, bottom)) in enumerate(line):
                y, x = row * BLOCK[0], column * BLOCK[1]
                box = (y, min(y + BLOCK[0], grid[0]), x, min(x + BLOCK[1], grid[1]))
                key_box = (top, min(bottom, key_grid[0]), left, min(right, key_grid[1]))
                blocks.append((i, box, key_box))
                pairs += area(box) * area(key_box)
    everything = len(bounds) * grid[0] * grid[1] * key_grid[0] * key_grid[1]
    return Near(grid, key_grid, blocks) if pairs < WORTH_IT * everything else None


def area(box: Box) -> int:
    """Cells of a box."""
    return (box[1] - box[0]) * (box[3] - box[2])


# ------------------------------------------------------------------ losses


def matching_loss(match: Match, target: torch.Tensor, inside: torch.Tensor, stride: int) -> torch.Tensor:
    """
    Auxiliary losses on the matching (ours), each in pixels or nats.

    target (B, Q, 2): the true displacement at each position, NaN = unknown. inside (B, Q): whether the true match lies in the
    second view's windows; elsewhere only "no match" is taught.
    - global: root of the attention's mean squared distance to the true match, which punishes spread as well as error;
    - local: L1 of the refined displacement;
    - cross-entropy of the match mass.
    """
    known = torch.isfinite(target).all(-1)
    visible = known & inside
    target = torch.where(known[..., None], target, 0.0)
    count = visible.sum().clamp(min=1)
    coarse = (match.coarse - target).square().sum(-1) / stride**2 + match.spread
    coarse = stride * (coarse + 0.01).sqrt()
    fine = (match.flow - target).abs().sum(-1)
    error = torch.where(visible, coarse + fine, 0.0).sum() / count
    # not 1 - mass, which is 0 where "no match" is far behind, and would leave it there for ever
    surprise = -torch.where(inside, match.mass, match.no_match).clamp(min=LEAST).log()
    surprise = torch.where(known, surprise, 0.0).sum() / known.sum().clamp(min=1)
    return error + surprise


def pool_flow(flow: torch.Tensor, stride: int) -> torch.Tensor:
    """
    Mean of the known vectors of flow (..., 2, H, W) in each stride x stride cell -> (..., 2, H/s, W/s); NaN where none is.

    Known as in the flow loss: both components finite and below `MAX_FLOW` pixels.
    """
    known = (flow.abs() < MAX_FLOW).all(dim=-3, keepdim=True)  # False for NaN
    cells = torch.where(known, flow, torch.nan)
    cells = cells.unflatten(-1, (-1, stride)).unflatten(-3, (-1, stride))  # (..., 2, H/s, s, W/s, s)
    return cells.nanmean(dim=(-3, -1))
