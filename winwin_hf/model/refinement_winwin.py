"""Refinement of the flow at finer strides than the matching's. Ours, after PWC-Net (Sun et al. 2018).

At each stride, from coarse to fine, a step is repeated: features of the second view are fetched where the flow so far leads and compared
with the first view's, there and at the places around. A small convolutional network turns that into a change of the flow and a
confidence. Its weights are the same in each repetition and its hidden state is carried on (as in RAFT, Teed and Deng 2020).

Notable:
- the second view may be windows that lie anywhere. Each is sampled and gives zero outside itself; one channel says whether any
  window had the place.
- places just outside a window's border are fetched too, with the flow of the border. Only the small network ends at the border.
- places are computed in float32, autocast or not.
- the change starts at zero, so a trained network without refinement can be given one and trained further.

Shapes: B batch, N M windows of the first and the second view, C channels, H W pixels of a window, h w its stride-s positions.
"""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_winwin import WinWinConfig
from .heads_winwin import ConvNextBlock, LayerNorm2d, StdConv2d, is_cpu_inference
from .layers_winwin import Layout
from .tracing_winwin import is_traced

RADII = (3, 2)  # positions around the one that the flow leads to: at the first stride, and at finer ones
Views = tuple[
    torch.Tensor, torch.Tensor, Layout, Layout
]  # features of the first and the second view, and where they lie
BLOCK = 8  # side of the blocks of positions that are compared together


class FineFeatures(nn.Module):
    """
    Features of one view at each of the refinement's strides.

    Each comes from the next coarser stride's features and from the stem's maps of this stride and of the next finer one (2 x 2 pixels
    folded into channels).
    """

    def __init__(self, config: WinWinConfig):
        super().__init__()
        eps, coarser = config.layer_norm_eps, config.matching_size
        self.ups, self.skips, self.blocks, self.norms = (nn.ModuleList() for _ in range(4))
        for stride, size in config.refinement:
            level = stride.bit_length() - 2  # of the stem
            folded = 4 * config.stem_sizes[level - 1] if level else 0
            self.ups.append(nn.Conv2d(coarser, 4 * size, 1))
            self.skips.append(nn.Conv2d(config.stem_sizes[level] + folded, size, 1))
            self.blocks.append(ConvNextBlock(size, eps))
            self.norms.append(LayerNorm2d(size, eps=eps))
            coarser = size
        self.strides = [stride for stride, _ in config.refinement]

    def forward(self, features: torch.Tensor, stem: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The matching's features as maps (B*N, C, ., .), the stem's maps of strides 2, 4, ... -> one map a stride."""
        found = []
        x = features
        for stride, up, skip, block, norm in zip(
            self.strides, self.ups, self.skips, self.blocks, self.norms, strict=True
        ):
            level = stride.bit_length() - 2
            maps = [stem[level]] + ([F.pixel_unshuffle(stem[level - 1], 2)] if level else [])
            x = block(F.pixel_shuffle(up(x), 2) + skip(torch.cat(maps, dim=1)))
            found.append(norm(x))
        return tuple(found)


class Refinement(nn.Module):
    """All strides, from coarse to fine."""

    def __init__(self, config: WinWinConfig):
        super().__init__()
        self.steps = nn.ModuleList(
            RefinementStep(config, stride, size, RADII[min(i, 1)]) for i, (stride, size) in enumerate(config.refinement)
        )

    def forward(
        self,
        flow: torch.Tensor,
        log_scale: torch.Tensor,
        first: tuple[torch.Tensor, ...],
        second: tuple[torch.Tensor, ...],
        layout: Layout,
        second_layout: Layout,
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """
        flow (B*N, 2, H, W), log_scale (B*N, H, W) and both views' `FineFeatures` -> (flow, log_scale) after each change.

        Gradients pass to the incoming flow through the addition alone.
        """
        found = []
        for step, one, other in zip(self.steps, first, second, strict=True):
            found += step(flow, log_scale, one, other, layout, second_layout)
            flow, log_scale = found[-1]
        return found


class RefinementStep(nn.Module):
    """One stride: compare, change the flow, repeat."""

    def __init__(self, config: WinWinConfig, stride: int, size: int, radius: int):
        super().__init__()
        self.stride, self.scale, self.radius = stride, config.patch_size // stride, radius
        self.iterations = config.refinement_iterations
        width, eps = 2 * size, config.layer_norm_eps
        # both views' features, their agreement at the places around, whether a window was there, the flow minus its neighbourhood's
        # mean, confidence
        self.embed = nn.Conv2d(2 * size + (2 * radius + 1) ** 2 + 1 + 2 + 1, width, 1)
        self.memory = nn.Conv2d(width, width, 1, bias=False) if self.iterations > 1 else None
        self.blocks = nn.Sequential(ConvNextBlock(width, eps), ConvNextBlock(width, eps))
        self.norm = LayerNorm2d(width, eps=eps)
        self.out = StdConv2d(width, 3 * stride**2, 1, init_std=0.0)

    def forward(
        self,
        flow: torch.Tensor,
        log_scale: torch.Tensor,
        first: torch.Tensor,
        second: torch.Tensor,
        layout: Layout,
        second_layout: Layout,
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """-> (flow (B*N, 2, H, W), log_scale (B*N, H, W)) after each repetition; log_scale is predicted anew, not added to."""
        found, hidden, views = [], None, (first, second, layout, second_layout)
        context = ContextRows(self, views) if ContextRows.suits(views) else None
        for _ in range(self.iterations):
            if context is not None:
                x = torch.cat([self.embed(rows) for rows in context(flow, log_scale)], dim=2)
            else:
                x = self.embed(self.gather_context(flow, log_scale, views))
            if self.memory is not None and hidden is not None:
                x = x + self.memory(hidden)
            hidden = self.norm(self.blocks(x))
            change = F.pixel_shuffle(self.out(hidden), self.stride).float()
            flow, log_scale = flow + change[:, :2], change[:, 2]
            found.append((flow, log_scale))
        return found

    def gather_context(self, flow: torch.Tensor, log_scale: torch.Tensor, views: Views) -> torch.Tensor:
        """Everything that the small network sees of one step, (B*N, C, h, w)."""
        (first, second, layout, second_layout), r = views, self.radius
        mean, motion = self.motion(flow, log_scale)
        with torch.autocast(flow.device.type, enabled=False):
            fetched = fetch(second.float(), second_layout, self.places(mean, layout), self.scale)
            agreement = compare(first.float(), fetched[:, :-1], r)
        inner = fetched[..., r:-r, r:-r]
        return torch.cat([part.to(first.dtype) for part in (first, inner, agreement, *motion)], dim=1)

    def motion(self, flow: torch.Tensor, log_scale: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The flow (B*N, 2, h, w) in pixels; what the small network sees of it, and of the confidence: (B*N, 2 and 1, h, w)."""
        with torch.no_grad():
            mean = F.avg_pool2d(flow.float(), self.stride)
            around = F.avg_pool2d(mean, 2 * self.radius + 1, 1, self.radius, count_include_pad=False)
            confidence = F.avg_pool2d(log_scale.float()[:, None], self.stride).clamp(-10, 10) / 10
        return mean, [(mean - around) / self.stride, confidence]

    def places(self, flow: torch.Tensor, layout: Layout, more: tuple[int, int] = (0, 0)) -> torch.Tensor:
        """
        Where the flow (B*N, 2, h, w) leads, as (row, column) of the second view's stride-s positions: (B, N, h + 2r, w + 2r, 2).

        more: further rows and columns, at the bottom and the right.
        """
        r, (down, right) = self.radius, more
        flow = F.pad(flow, (r, r + right, r, r + down), mode="replicate").unflatten(0, (layout.batch, layout.count))
        rows, columns = (torch.arange(-r, n - r, device=flow.device) for n in flow.shape[-2:])
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
        corners = layout.corners[:, :, None, None] * self.scale  # (B or 1, N, 1, 1, 2)
        return corners + grid + flow.permute(0, 1, 3, 4, 2).flip(-1) / self.stride


class ContextRows:
    """
    `gather_context` of whole frames on a CPU without gradients: channels last, a row of blocks at a time, which stays in the cache.

    What depends on the features alone is laid out once for all repetitions. Equal up to rounding.
    """

    @staticmethod
    def suits(views: Views) -> bool:
        first, _, layout, second_layout = views
        return layout.count == second_layout.count == 1 and is_cpu_inference(first)

    def __init__(self, step: RefinementStep, views: Views):
        first, second, self.layout, second_layout = views
        self.step, self.offset = step, second_layout.corners[:, 0] * step.scale
        self.first, self.second = (t.permute(0, 2, 3, 1).contiguous() for t in (first, second.float()))  # (B, h, w, C)
        height, width, size = self.first.shape[1:]
        self.more = -height % BLOCK, -width % BLOCK
        blocks = F.pad(self.first.float() * size**-0.5, (0, 0, 0, self.more[1], 0, self.more[0]))
        blocks = blocks.unflatten(2, (-1, BLOCK)).unflatten(1, (-1, BLOCK)).permute(1, 0, 3, 2, 4, 5)
        self.blocks = blocks.flatten(3, 4).flatten(1, 2)  # (rows of blocks, B * columns of blocks, BLOCK^2, C)

    def __call__(self, flow: torch.Tensor, log_scale: torch.Tensor) -> Iterator[torch.Tensor]:
        """flow (B, 2, H, W), log_scale (B, H, W) -> the context of one row of blocks after another, (B, C, up to BLOCK, w)."""
        mean, parts = self.step.motion(flow, log_scale)
        motion = torch.cat(parts, dim=1).permute(0, 2, 3, 1)
        places = self.step.places(mean, self.layout, self.more)[:, 0] - self.offset[:, None, None]
        features, inside = fetch_rows(self.second, places)
        r, width = self.step.radius, self.first.shape[2]
        for index, blocks in enumerate(self.blocks):
            rows = slice(index * BLOCK, (index + 1) * BLOCK)
            first = self.first[:, rows]
            inner = slice(None), slice(rows.start + r, rows.start + r + first.shape[1]), slice(r, r + width)
            agreement = compare_blocks(blocks, features[:, rows.start : rows.stop + 2 * r], r)
            parts = [
                first,
                features[inner],
                inside[inner][..., None],
                agreement[:, : first.shape[1], :width],
                motion[:, rows],
            ]
            yield torch.cat([part.to(first.dtype) for part in parts], dim=-1).permute(0, 3, 1, 2)


def compare_blocks(blocks: torch.Tensor, second: torch.Tensor, radius: int) -> torch.Tensor:
    """
    `compare` for one row of blocks.

    Args:
        blocks: (B * columns, BLOCK^2, C), of the first view, scaled. second: (B, BLOCK + 2r, columns * BLOCK + 2r, C).
    Returns: (B, BLOCK, columns * BLOCK, (2r + 1)^2).
    """
    taps, reach = 2 * radius + 1, BLOCK + 2 * radius
    around = (
        second.unfold(2, reach, BLOCK).permute(0, 2, 1, 4, 3).flatten(2, 3).flatten(0, 1)
    )  # (B * columns, reach^2, C)
    with torch.autocast(second.device.type, enabled=False):
        products = torch.bmm(blocks, around.mT).unflatten(0, (len(second), -1))
    # as in `compare`
    steps = (products.stride(0), BLOCK * reach**2 + reach, products.stride(1), reach**2 + 1, reach, 1)
    found = products.as_strided((len(second), BLOCK, products.shape[1], BLOCK, taps, taps), steps)
    return found.flatten(4).flatten(2, 3)


def fetch_rows(maps: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`fetch` from whole frames, maps (B, h, w, C), at places (B, h', w', 2): (B, h', w', C), and its last channel (B, h', w')."""
    batch, height, width, size = maps.shape
    places = places.nan_to_num(nan=-2.0).clamp(-2, max(height, width) + 1)  # what is further outside is zero as well
    corner = places.floor()
    share, (top, left) = (places - corner).unbind(-1), corner.long().unbind(-1)
    frame = torch.arange(batch, device=maps.device)[:, None, None] * (height * width)
    index, weight = [], []
    for y, x in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = top + y, left + x
        inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
        weight.append((share[0] - (1 - y)).abs() * (share[1] - (1 - x)).abs() * inside)
        index.append(frame + row.clamp(0, height - 1) * width + column.clamp(0, width - 1))
    weights = torch.stack(weight, dim=-1)
    found = F.embedding_bag(
        torch.stack(index, dim=-1).flatten(0, 2),
        maps.flatten(0, 2),
        per_sample_weights=weights.flatten(0, 2),
        mode="sum",
    )
    return found.view(*places.shape[:3], size), weights.sum(-1)


def fetch(maps: torch.Tensor, layout: Layout, places: torch.Tensor, scale: int) -> torch.Tensor:
    """
    Features at any places, by bilinear interpolation.

    Args:
        maps: (B*M, C, h, w), windows that lie as `layout` says, `scale` positions a patch.
        places: (B, N, h', w', 2), (row, column) in positions of the full frame.
    Returns: (B*N, C + 1, h', w'): zero outside all windows; the last channel is 1 inside one, and between 0 and 1 at a border.
    """
    batch, count, height = places.shape[:3]
    corners = (layout.corners * scale).to(places.dtype)  # (B or 1, M, 2)
    local = (places.flatten(1, 2)[:, None] - corners[:, :, None, None] + 0.5).flatten(0, 1)  # (B*M, N*h', w', 2)
    y, x = local[..., 0] * (2 / maps.shape[-2]) - 1, local[..., 1] * (2 / maps.shape[-1]) - 1
    grid = torch.stack([x, y], dim=-1)  # -1 to 1
    found = F.grid_sample(F.pad(maps, (0, 0, 0, 0, 0, 1), value=1.0), grid, align_corners=False)
    found = found.unflatten(0, (batch, layout.count)).sum(1)  # windows don't overlap: one of them answers
    return found.unflatten(2, (count, height)).transpose(1, 2).flatten(0, 1)


def compare(first: torch.Tensor, second: torch.Tensor, radius: int) -> torch.Tensor:
    """
    Scalar products of first (B*N, C, h, w) with second (B*N, C, h + 2r, w + 2r) at each displacement up to r: (B*N, (2r + 1)^2, h, w).

    A block of positions is multiplied with everything around the block in one matrix product. That computes several times more than is
    needed, and is still faster than one product of maps a displacement, which is bound by memory.
    """
    (height, width), taps = first.shape[-2:], 2 * radius + 1
    first = first * first.shape[1] ** -0.5
    if is_traced():  # ONNX has no views with other strides
        places = [(y, x) for y in range(taps) for x in range(taps)]
        found = [(first * second[..., y : y + height, x : x + width]).sum(1) for y, x in places]
        return torch.stack(found, dim=1)
    side, reach = BLOCK, BLOCK + 2 * radius
    down, right = -height % side, -width % side
    first, second = (F.pad(t, (0, right, 0, down)) for t in (first, second))
    blocks = first.unflatten(3, (-1, side)).unflatten(2, (-1, side))  # (B*N, C, rows, side, columns, side)
    rows, columns = blocks.shape[2], blocks.shape[4]
    blocks = blocks.permute(0, 2, 4, 3, 5, 1).flatten(3, 4)  # (B*N, rows, columns, side^2, C)
    around = second.unfold(2, reach, side).unfold(3, reach, side)  # (B*N, C, rows, columns, reach, reach)
    around = around.permute(0, 2, 3, 1, 4, 5).flatten(4)  # (B*N, rows, columns, C, reach^2)
    products = (blocks @ around).contiguous()
    # for position (i, j) of a block and displacement (a, b): the product with (i + a, j + b) of what is around the block
    steps = (side * reach**2 + reach, reach**2 + 1, reach, 1)
    size = (side, side, taps, taps)
    found = products.as_strided((*products.shape[:3], *size), (*products.stride()[:3], *steps))
    found = found.permute(0, 5, 6, 1, 3, 2, 4).reshape(-1, taps**2, rows * side, columns * side)
    return found[..., :height, :width]
