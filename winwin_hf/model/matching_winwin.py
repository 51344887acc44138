"""Matching: where in the second view does each position of the first one lie? Ours, not the paper's.

A plain ViT learns to match only after very long pre-training. Here two attentions between stride-s features of both views match
explicitly, and are supervised:
1. global: queries and keys carry RoPE, so the prior over displacements is learnt and relative. A wide Gaussian prior of learnt width
   keeps the many far keys of a frame larger than any training frame from adding up. Beside all keys of the second view there is one
   learnt "no match" key.
2. local: other features, and a narrow Gaussian prior centred on the first answer. It removes what a mean over several modes leaves.

Notable:
- the *values* are the keys' coordinates, so a plain memory-linear SDPA returns the expected displacement. No correlation volume is
  held, nothing is sampled from a grid, and windows that lie anywhere need no special case.
- a Gaussian prior is bilinear in (query, key): -|k - c|^2 / 2s^2 = (k.c - |k|^2/2 - |c|^2/2) / s^2, so it costs three more channels.
- squared coordinates among the values give the match's spread, for the loss and as a feature.
- coordinates up to 240 must come out exact to a hundredth: all of this runs in float32, autocast or not.
- query, key and value have the same width, or SDPA on a CPU falls back to the full matrix.
- on whole frames, keys that the priors make negligible are left out (nearby_keys_winwin.py).
- only differences of positions count. So an initial flow is used by asking for each position as if it lay where that flow leads.

Shapes: B batch, N windows, T tokens, Q K stride-s positions of the first and second view, C channels, H W pixels, h w patches,
f positions along a patch's side.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_winwin import WinWinConfig
from .heads_winwin import ConvNextBlock, LayerNorm2d
from .layers_winwin import Layout
from .losses_winwin import UNKNOWN_FLOW, check_shape
from .nearby_keys_winwin import Grid, NearbyKeys, nearby_keys, negligible_distance
from .positions_winwin import apply_rotary, rotary_embedding
from .tracing_winwin import is_traced

EXTRA_CHANNELS = 8  # beyond `matching_size`: prior and no-match channels of keys, coordinates among the values
MATCH_MASS_EPS = 1e-30  # least mass that is divided by; its inverse times squared coordinates is a finite float32
PROBABILITY_EPS = 1e-37  # least probability whose logarithm is taken; it has a gradient still
MAX_LOG_TEMPERATURE, MAX_LOG_SIGMA = 4.6, 6.0


@dataclass
class Match:
    """
    What the matching knows about each stride-s position of the first view.

    Attributes:
        flow: (B, Q, 2), refined displacement (right, down) in pixels. coarse: (B, Q, 2), the global attention's.
        mass: (B, Q), attention on real keys rather than on "no match". no_match: (B, Q), the rest of it, exact where it is tiny.
        spread: (B, Q), the global attention's variance, in positions^2.
        retrieved: (B, Q, C), the second view's features at the match. query: (B, Q, C), the first view's.
        initial: (B, Q, 2), the initial flow in pixels, zero if there was none.
    """

    flow: torch.Tensor
    coarse: torch.Tensor
    mass: torch.Tensor
    no_match: torch.Tensor
    spread: torch.Tensor
    retrieved: torch.Tensor
    query: torch.Tensor
    initial: torch.Tensor | float = 0.0

    @property
    def base(self) -> torch.Tensor:
        """The displacement that the match alone gives, (B, Q, 2) pixels. Where nothing matches, it is the initial flow, or zero."""
        return self.initial + self.mass[..., None] * (self.flow - self.initial)


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
        """tokens (B*N, D, h, w), stem (B*N, C', h*f, w*f) -> (B*N, C, h*f, w*f)."""
        x = F.pixel_shuffle(self.up(self.norm(tokens)), self.factor) + self.skip(stem)
        return self.out_norm(self.block(x))


class Matching(nn.Module):
    """The two attentions. Everything is relative, so moving both views' windows together changes nothing."""

    def __init__(self, config: WinWinConfig):
        super().__init__()
        assert config.matching_stride is not None
        size = config.matching_size
        self.size, self.stride, self.theta = size, config.matching_stride, config.rope_theta
        self.factor = config.patch_size // config.matching_stride
        self.min_log_sigma = log(config.min_matching_sigma)
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.no_match = nn.Linear(size, 1)  # the logit of "no match" for each query
        self.fine_query = nn.Linear(size, size)
        self.fine_key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.log_temperature = nn.Parameter(torch.tensor([2.5, 2.5]))  # of the global and of the local attention
        self.log_sigma = nn.Parameter(torch.tensor([2.8, 0.7]))  # of the two attentions' priors, in positions

    def forward(
        self,
        first: torch.Tensor,
        second: torch.Tensor,
        layout: Layout,
        second_layout: Layout,
        initial_flow: torch.Tensor | None = None,
    ) -> Match:
        """
        Matches every position of the first view, from both views' features alone.

        Args:
            first, second: features (B, Q, C) and (B, K, C). layout, second_layout: of the two views.
            initial_flow: (B, [N,] 2, H, W) pixels, around which the matching looks.
        """
        xy, second_xy = (
            item.positions(self.factor).flip(-1).expand(item.batch, -1, -1) for item in (layout, second_layout)
        )
        grids = None
        if layout.count == second_layout.count == 1:
            grids = self.grid(layout), self.grid(second_layout)
        if initial_flow is None:
            return self.match(first, second, xy, second_xy, grids)
        moved = self.in_positions(initial_flow, layout)
        match = self.match(first, second, xy + moved, second_xy, grids)
        initial = self.stride * moved
        match.flow, match.coarse, match.initial = match.flow + initial, match.coarse + initial, initial
        return match

    def grid(self, layout: Layout) -> Grid:
        """Rows and columns of the positions of one window."""
        return layout.rows * self.factor, layout.columns * self.factor

    def in_positions(self, flow: torch.Tensor, layout: Layout) -> torch.Tensor:
        """Flow (B, [N,] 2, H, W) in pixels -> whole stride-s positions (x, y), (B, Q, 2)."""
        side = self.factor * self.stride
        lead = (layout.batch, layout.count) if layout.windowed else (layout.batch,)
        check_shape("initial_flow", flow, (*lead, 2, layout.rows * side, layout.columns * side))
        flow = flow.flatten(0, 1) if layout.windowed else flow
        return layout.to_tokens(F.avg_pool2d(flow.float(), self.stride) / self.stride).round()

    def match(
        self,
        first: torch.Tensor,
        second: torch.Tensor,
        first_xy: torch.Tensor,
        second_xy: torch.Tensor,
        grids: tuple[Grid, Grid] | None = None,
    ) -> Match:
        """
        Matches features (B, Q, C) and (B, K, C) at (x, y) coordinates in positions, (B, Q, 2) and (B, K, 2).

        grids: rows and columns of both views' positions, where each view is one whole rectangle, row by row. Negligible keys are then
            left out, unless a gradient is wanted or the graph is traced.
        """
        if torch.is_grad_enabled() or is_traced():
            grids = None
        with torch.autocast(first.device.type, enabled=False):
            return self.match_in_float32(first.float(), second.float(), first_xy.float(), second_xy.float(), grids)

    def match_in_float32(
        self,
        first: torch.Tensor,
        second: torch.Tensor,
        first_xy: torch.Tensor,
        second_xy: torch.Tensor,
        grids: tuple[Grid, Grid] | None,
    ) -> Match:
        centre = first_xy.mean(dim=1, keepdim=True)  # small numbers: float32 is exact enough, wherever the windows lie
        first_xy, second_xy = first_xy - centre, second_xy - centre
        temperature = self.log_temperature.float().clamp(max=MAX_LOG_TEMPERATURE).exp()
        least = self.log_sigma.new_tensor([self.min_log_sigma, 0.0]).float()
        precision = torch.exp(-2 * torch.maximum(self.log_sigma.float(), least).clamp(max=MAX_LOG_SIGMA))

        def nearby(centre: torch.Tensor, which: int) -> NearbyKeys | None:
            if grids is None:
                return None
            distance = negligible_distance(temperature[which], precision[which])
            return nearby_keys(centre - second_xy[:, :1], *grids, distance)

        # 1. global
        query = F.normalize(self.project(self.query, first), dim=-1)
        key = F.normalize(self.project(self.key, second), dim=-1)
        query = apply_rotary(query, *rotary_embedding(first_xy.flip(-1), self.size, self.theta)) * temperature[0]
        key = apply_rotary(key, *rotary_embedding(second_xy.flip(-1), self.size, self.theta))
        squares = second_xy.square().sum(-1, keepdim=True)
        is_real = torch.ones_like(squares)
        out = self.attend(
            query,
            [
                # the keys' priors leave out -|c|^2/2, so "no match" gets it with the other sign
                self.project(self.no_match, first) + 0.5 * precision[0] * first_xy.square().sum(-1, keepdim=True),
                *prior_channels(first_xy, precision[0]),
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
            nearby(first_xy, 0),
        )
        mass, no_match = out[..., 3], out[..., 4]
        divisor = mass.clamp(min=MATCH_MASS_EPS)
        mean = out[..., :2] / divisor[..., None]
        spread = (out[..., 2] / divisor - mean.square().sum(-1)).clamp(min=0)

        # 2. local, around the first answer, which it doesn't teach
        query = F.normalize(self.project(self.fine_query, first), dim=-1) * temperature[1]
        key = F.normalize(self.project(self.fine_key, second), dim=-1)
        out = self.attend(
            query,
            prior_channels(mean.detach(), precision[1]),
            key,
            [second_xy, squares],
            [second_xy, self.project(self.value, second)],
            nearby(mean, 1),
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

    def project(self, layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        """A linear layer in the precision that the matching was loaded in. Its weights may be quantised, and don't say it."""
        return layer(x.to(self.log_temperature.dtype)).float()

    def attend(
        self,
        query: torch.Tensor,
        query_extra: list[torch.Tensor],
        key: torch.Tensor,
        key_extra: list[torch.Tensor],
        values: list[torch.Tensor],
        nearby: NearbyKeys | None,
    ) -> torch.Tensor:
        """
        One SDPA without heads: (B, Q, C), (B, K, C) -> (B, Q, C + 8).

        `query_extra`, `key_extra`: further channels of the logits, not normalised. `nearby`: which keys each block of queries
        needs; None: all.
        """
        width = self.size + EXTRA_CHANNELS
        parts = (torch.cat(channels, dim=-1) for channels in ([query, *query_extra], [key, *key_extra], values))
        padded_query, padded_key, padded_values = (F.pad(t, (0, width - t.shape[-1])) for t in parts)
        if nearby is not None:
            return nearby.attend(padded_query, padded_key, padded_values)
        out = F.scaled_dot_product_attention(
            padded_query[:, None], padded_key[:, None], padded_values[:, None], scale=1.0
        )
        return out[:, 0]

    def summarise(self, match: Match, layout: Layout) -> torch.Tensor:
        """The match as maps for the network, (B*N, 4, h*f, w*f), without gradient: displacement, mass, root of the spread; in patches."""
        spread = (match.spread + 1e-3).sqrt() / self.factor
        displacement = match.base / (self.stride * self.factor)
        summary = torch.cat([displacement, match.mass[..., None], spread[..., None]], dim=-1)
        return layout.to_maps(summary.detach(), self.factor)

    def summary_tokens(self, summary: torch.Tensor, layout: Layout) -> torch.Tensor:
        """The summary (B*N, 4, h*f, w*f), all positions of a patch in one token: (B, T, 4 * f^2)."""
        return layout.to_tokens(F.pixel_unshuffle(summary, self.factor))

    def head_features(self, match: Match, summary: torch.Tensor, layout: Layout) -> dict[int, list[torch.Tensor]]:
        """For a convolutional head: {stride: maps (B*N, C, h*f, w*f), float32, of both views' features and the summary}."""
        return {self.stride: [*(layout.to_maps(t, self.factor) for t in (match.query, match.retrieved)), summary]}

    def targets(self, labels: torch.Tensor, layout: Layout, second_layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
        """Flow labels (B, [N,] 2, H, W) -> `target` and `inside` of `matching_loss`."""
        labels = labels if layout.windowed else labels[:, None]
        target = layout.to_tokens(pool_flow(labels.float().flatten(0, 1), self.stride))  # (B, Q, 2)
        rows_columns = layout.positions(self.factor) + target.flip(-1) / self.stride  # of the true match, in positions
        corners = second_layout.corners * self.factor  # (B or 1, M, 2)
        size = torch.tensor([second_layout.rows, second_layout.columns], device=corners.device) * self.factor
        offset = rows_columns[:, :, None] - corners[:, None]  # (B, Q, M, 2)
        inside = ((offset > -0.5) & (offset < size - 0.5)).all(-1).any(-1)
        return target, inside


def prior_channels(centre: torch.Tensor, precision: torch.Tensor) -> list[torch.Tensor]:
    """Query channels that, with (x, y, x^2 + y^2) of a key, give a Gaussian's logits around `centre` (B, Q, 2), but for a constant."""
    return [centre * precision, (-0.5 * precision).expand(*centre.shape[:2], 1)]


# ------------------------------------------------------------------ losses


def matching_loss(
    match: Match, target: torch.Tensor, inside: torch.Tensor, stride: int, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """
    Auxiliary losses on the matching (ours), each in pixels or nats.

    - global: root of the attention's mean squared distance to the true match, which punishes spread as well as error;
    - local: L1 of the refined displacement;
    - cross-entropy of the match mass.

    Args:
        target: (B, Q, 2), the true displacement in pixels at each position; NaN is unknown.
        inside: (B, Q), whether the true match lies in the second view's windows; elsewhere only "no match" is taught.
        weights: (2,), factors of the displacements' and of the mass's loss; None: 1.
    Raises: ValueError: shapes differ.
    """
    check_shape("target", target, match.flow.shape)
    check_shape("inside", inside, match.flow.shape[:-1])
    known, visible = _known_and_visible(target, inside)
    target = torch.where(known[..., None], target, 0.0)
    count = visible.sum().clamp(min=1)
    coarse = (match.coarse - target).square().sum(-1) / stride**2 + match.spread
    coarse = stride * (coarse + 0.01).sqrt()
    fine = (match.flow - target).abs().sum(-1)
    error = torch.where(visible, coarse + fine, 0.0).sum() / count
    # 1 - mass would be 0 where "no match" is far behind, and would have no gradient there
    surprise = -torch.where(inside, match.mass, match.no_match).clamp(min=PROBABILITY_EPS).log()
    surprise = torch.where(known, surprise, 0.0).sum() / known.sum().clamp(min=1)
    return error + surprise if weights is None else weights[0] * error + weights[1] * surprise


def matching_counts(target: torch.Tensor, inside: torch.Tensor) -> list[torch.Tensor]:
    """Numbers of positions of which the two losses of `matching_loss` are the means: visible ones, known ones."""
    known, visible = _known_and_visible(target, inside)
    return [visible.sum(), known.sum()]


def _known_and_visible(target: torch.Tensor, inside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    known = torch.isfinite(target).all(-1)
    return known, known & inside


def pool_flow(flow: torch.Tensor, stride: int) -> torch.Tensor:
    """
    Mean of the known vectors of flow (..., 2, H, W) in each stride x stride cell -> (..., 2, H/s, W/s); NaN where none is known.

    Known as in the flow loss: both components finite and below `UNKNOWN_FLOW` pixels.
    """
    known = (flow.abs() < UNKNOWN_FLOW).all(dim=-3, keepdim=True)  # False for NaN
    cells = torch.where(known, flow, torch.nan)
    cells = cells.unflatten(-1, (-1, stride)).unflatten(-3, (-1, stride))  # (..., 2, H/s, s, W/s, s)
    return cells.nanmean(dim=(-3, -1))
