"""The parts of Win-Win's network: windows, RoPE, attention, and the blocks of encoder and decoder.

Notable:
- `as_windows` brings a whole image and a set of windows to one form. Everything after it knows only windows.
- positions are the patches' (row, column) in the full frame. In the paper's networks they enter by RoPE alone, computed once a
  forward in float32 for all blocks; the encoders that others pre-trained have further kinds (positions_winwin.py).
- attention goes through the transformers attention interface; nothing of size tokens x tokens is held outside "eager". On CPUs whose
  SDPA is slow in bf16 (`blocks_are_faster`), whole frames are attended in blocks of our own.

Shapes: B batch, N windows, T tokens of all windows, D width, C channels, H W pixels, h w patches, p patch size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import log
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs

from .configuration_winwin import WinWinConfig
from .half_products_winwin import bf16_pays
from .heads_winwin import ConvStem
from .positions_winwin import (
    apply_rotary,
    bicubic_weights,
    frame_coordinates,
    mixed_embedding,
    rotary_embedding,
    sincos_embedding,
)
from .tracing_winwin import is_traced, refuse_recording

# ------------------------------------------------------------------ windows


INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


@dataclass
class Layout:
    """Where an input's tokens lie: N windows of rows x columns patches at `corners` (B or 1, N, 2), in frames of `frame` (B, 2)."""

    batch: int
    count: int
    rows: int
    columns: int
    corners: torch.Tensor
    windowed: bool  # whether the input had an axis of windows; predictions then have one too
    frame: torch.Tensor | None = None  # in patches; None: not given, and for a whole image its own size

    def frame_size(self) -> torch.Tensor:
        """Rows and columns of the frames in patches, (B or 1, 2), float32."""
        if self.frame is not None:
            return self.frame.float()
        # tensors, so that a traced graph takes frames of any size
        sides = [torch.scalar_tensor(side, device=self.corners.device) for side in (self.rows, self.columns)]
        return torch.stack(sides)[None]

    def positions(self, scale: int = 1) -> torch.Tensor:
        """(row, column) of every token in the full frame, (B or 1, T, 2); of `scale` x `scale` positions a patch if asked."""
        device = self.corners.device
        rows = torch.arange(self.rows * scale, device=device)
        columns = torch.arange(self.columns * scale, device=device)
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1).flatten(0, 1)  # (h*w, 2)
        return (self.corners[:, :, None] * scale + grid).flatten(1, 2)

    def to_maps(self, tokens: torch.Tensor, scale: int = 1) -> torch.Tensor:
        """(B, T, D) -> one map a window, (B*N, D, h, w)."""
        shape = (self.batch * self.count, self.rows * scale, self.columns * scale, tokens.shape[-1])
        return tokens.reshape(shape).permute(0, 3, 1, 2)

    def to_tokens(self, maps: torch.Tensor) -> torch.Tensor:
        """(B*N, D, h, w) -> (B, T, D)."""
        tokens = maps.permute(0, 2, 3, 1)
        return tokens.reshape(self.batch, -1, tokens.shape[-1])

    def to_output(self, maps: torch.Tensor) -> torch.Tensor:
        """(B*N, C, H, W) -> (B, N, C, H, W) in windows, (B, C, H, W) for a whole image."""
        return maps.unflatten(0, (self.batch, self.count)) if self.windowed else maps


def as_windows(
    pixel_values: torch.Tensor,
    window_positions: torch.Tensor | None,
    config: WinWinConfig,
    name: str = "pixel_values",
    frame_sizes: torch.Tensor | None = None,
) -> tuple[torch.Tensor, Layout]:
    """
    Brings both forms of an image, (B, C, H, W) and (B, N, C, h, w) with positions (B, N, 2), to (B*N, C, h, w) and a layout.

    Raises: TypeError, naming the argument: no tensor. ValueError, naming it: another number of axes or channels, integers, positions
        that are missing or don't fit, or sides that are no multiple of the patch.
    """
    if not isinstance(pixel_values, torch.Tensor):
        raise TypeError(
            f"{name} is of type {type(pixel_values).__name__}: expected a torch.Tensor; the processor makes it."
        )
    windowed, patch_size = pixel_values.ndim == 5, config.patch_size
    positions_name = name.replace("pixel_values", "window_positions")
    if pixel_values.ndim not in (4, 5):
        raise ValueError(f"{name} has shape {tuple(pixel_values.shape)}: expected (B, C, H, W) or (B, N, C, h, w).")
    if pixel_values.shape[-3] != config.num_channels or 0 in pixel_values.shape:
        raise ValueError(
            f"{name} has shape {tuple(pixel_values.shape)}: expected {config.num_channels} channels, and nothing empty."
        )
    if not pixel_values.is_floating_point():
        raise ValueError(f"{name} is of {pixel_values.dtype}: expected normalised floats; the processor makes them.")
    if windowed != (window_positions is not None):
        wrong = "is missing" if windowed else "is given"
        raise ValueError(
            f"{positions_name} {wrong} for {name} of shape {tuple(pixel_values.shape)}: windows need both."
        )
    batch, count = pixel_values.shape[0], pixel_values.shape[1] if windowed else 1
    height, width = pixel_values.shape[-2:]
    if height % patch_size or width % patch_size:
        raise ValueError(
            f"{name} is {height} x {width} pixels: expected multiples of {patch_size}; the processor pads."
        )
    if window_positions is None:
        corners = torch.zeros(1, 1, 2, dtype=torch.long, device=pixel_values.device)
    elif window_positions.shape != (batch, count, 2):
        raise ValueError(
            f"{positions_name} has shape {tuple(window_positions.shape)}: expected {(batch, count, 2)} for {name} "
            f"of shape {tuple(pixel_values.shape)}."
        )
    elif window_positions.dtype not in INTEGERS:  # half precision would round positions of large frames
        raise ValueError(f"{positions_name} is of {window_positions.dtype}: expected integers, in patches.")
    else:
        corners = window_positions.long()  # uint8 would overflow in products
    pixels = pixel_values.flatten(0, 1) if windowed else pixel_values
    frame_name = name.replace("pixel_values", "frame_sizes")
    if frame_sizes is not None and not isinstance(frame_sizes, torch.Tensor):
        raise TypeError(f"{frame_name} is a {type(frame_sizes).__name__}: expected a torch.Tensor.")
    if frame_sizes is not None and frame_sizes.shape != (batch, 2):
        raise ValueError(f"{frame_name} has shape {tuple(frame_sizes.shape)}: expected {(batch, 2)}, rows and columns.")
    if frame_sizes is not None and frame_sizes.dtype not in INTEGERS:
        raise ValueError(f"{frame_name} is of {frame_sizes.dtype}: expected integers, in patches.")
    if frame_sizes is None and windowed and config.needs_frame_sizes:
        raise ValueError(
            f"{frame_name} is missing: with position_embedding={config.position_embedding!r}, windows need the rows and columns of "
            "their frames, in patches."
        )
    # values are read on a CPU alone: an accelerator would have to wait for them at every step
    if frame_sizes is not None and config.needs_frame_sizes and frame_sizes.device.type == "cpu" and not is_traced():
        sides = [height // patch_size, width // patch_size]
        ends = corners.amax(1) + corners.new_tensor(sides)
        if bool((corners < 0).any()) or bool(((frame_sizes < ends) if windowed else (frame_sizes != ends)).any()):
            raise ValueError(
                f"{frame_name} is {frame_sizes.tolist()} for {name} that ends at {ends.tolist()}: expected frames, in patches, that "
                "hold their windows; a whole image is its own frame."
            )
    # a whole image is its own frame, whose size a traced graph must not hold as a number
    frame = frame_sizes if windowed else None
    return pixels, Layout(batch, count, height // patch_size, width // patch_size, corners, windowed, frame)


def check_batch(layout: Layout, second_layout: Layout) -> None:
    """Raises ValueError for a second view of another batch size, which attention would broadcast."""
    if second_layout.batch != layout.batch:
        raise ValueError(
            f"second_pixel_values has a batch of {second_layout.batch}: expected {layout.batch}, as pixel_values has."
        )


def check_visible(visible: torch.Tensor, layout: Layout) -> None:
    """Raises ValueError where `visible` isn't (B, at least 1) indices of the layout's tokens."""
    count = layout.count * layout.rows * layout.columns
    if visible.ndim != 2 or visible.shape[0] != layout.batch or visible.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"visible is {visible.dtype} of shape {tuple(visible.shape)}: expected int64 of shape ({layout.batch}, visible)."
        )
    if is_traced():  # values and their number aren't known there
        return
    if visible.shape[1] == 0 or visible.min() < 0 or visible.max() >= count:
        raise ValueError(f"visible: expected at least one index an image, each from 0 to {count - 1}.")


def patchify(pixels: torch.Tensor, patch_size: int) -> torch.Tensor:
    """(B*N, C, h*p, w*p) -> the pixels of each patch, (B*N, h*w, p*p*C), channels last as in MAE and CroCo."""
    patches = pixels.unflatten(-1, (-1, patch_size)).unflatten(-3, (-1, patch_size))  # (B*N, C, h, p, w, p)
    return patches.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


# ------------------------------------------------------------------ attention


DECODER_THETA = 100.0  # of a decoder whose encoder has other positions than "rope" (CroCo v2's)


def rotary_of(
    layout: Layout, config: WinWinConfig, width: int, decoder: bool = False
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """
    cos and sin (B or 1, 1, T, width), float32, shared by all blocks whose heads are `width` wide; None without RoPE.

    With "rope_mixed", whose blocks have frequencies of their own: rows and columns (B or 1, 1, T, 1).
    """
    positions = layout.positions()
    if config.position_embedding == "sincos" or (config.position_embedding == "learned" and not decoder):
        return None
    if config.position_embedding == "rope_mixed" and not decoder:
        rows, columns = positions.float()[:, None].split(1, dim=-1)
        return rows, columns
    if config.position_embedding == "rope_frame" and not decoder:
        positions = frame_coordinates(positions, layout.frame_size(), config.rope_reference, config.rope_offset)
    # a base for coordinates in the frame is none for distances in patches
    theta = config.rope_theta if config.position_embedding == "rope" or not decoder else DECODER_THETA
    cos, sin = rotary_embedding(positions, width, theta)
    return cos[:, None], sin[:, None]


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out, (B, heads, T, width) each. It alone holds, and returns, the T x T weights."""
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    weights = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = F.dropout(weights.softmax(dim=-1), p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


BLOCK = (2, 128)  # heads and queries whose weights are held at once; with 8,000 keys they fit a core's cache
MIN_KEYS = 1024  # with fewer, the blocks' small operations cost more than they save


def block_attention_forward(
    _: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *unused: Any,
    scaling: float,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """`eager_attention_forward` block by block, so that the weights are never held whole. It rounds logits as that does."""
    heads, count = BLOCK
    output = query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1])  # (B, T, heads, width)
    with torch.autocast(query.device.type, enabled=False):  # autocast would make the softmax's result float32
        for b in range(query.shape[0]):
            keys = (key[b] * scaling).transpose(1, 2).contiguous()  # (heads, width, T)
            for h in range(0, query.shape[1], heads):
                for start in range(0, query.shape[2], count):
                    weights = torch.matmul(query[b, h : h + heads, start : start + count], keys[h : h + heads])
                    attended = torch.matmul(weights.softmax(dim=-1), value[b, h : h + heads])
                    output[b, start : start + count, h : h + heads] = attended.transpose(0, 1)
    return output, None


def blocks_are_faster(query: torch.Tensor, key: torch.Tensor) -> bool:
    """
    Whether `block_attention_forward` beats SDPA: for many keys in bf16 on a CPU with AVX-512's bf16 products, if they are fast
    (`bf16_pays`) and have no tiles (AMX).

    There SDPA computes no faster in bf16 than in float32, and plain matrix products twice as fast. In float32 it never does: SDPA reaches
    210 GFLOP/s on two cores with AVX-512 and 121 with AVX2 alone, blocks 169 and 81 (3 heads, 3,600 keys, torch 2.13).
    """
    if query.device.type != "cpu" or query.dtype != torch.bfloat16 or key.shape[-2] < MIN_KEYS:
        return False
    if torch.is_grad_enabled() or is_traced():
        return False
    has_products, has_tiles = (
        getattr(torch.cpu, f"_is_{name}_supported", lambda: False) for name in ("avx512_bf16", "amx_tile")
    )
    return has_products() and not has_tiles() and bf16_pays()


class WinWinAttention(nn.Module):
    """
    Multi-head attention of tokens to themselves or to `memory`, with queries and keys rotated by RoPE.

    `trained_tokens`: with more keys than these, logits are scaled by the ratio of the logarithms of both numbers. That keeps the share of
    attention that goes to the many unimportant keys what it was in training. None: no scaling.
    """

    def __init__(
        self,
        config: WinWinConfig,
        width: int,
        num_heads: int,
        trained_tokens: int | None = None,
        key_bias: bool = True,
        norm: bool = False,
        mixed: bool = False,
    ):
        super().__init__()
        self.config = config
        self.trained_tokens = trained_tokens
        self.num_heads = num_heads
        self.head_dim = width // num_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(width, width, bias=config.qkv_bias and key_bias)
        self.v_proj = nn.Linear(width, width, bias=config.qkv_bias)
        self.norm = nn.LayerNorm(width, eps=config.layer_norm_eps) if norm else None
        # of rows and columns, by which "rope_mixed" turns the channels of each head
        self.frequencies = nn.Parameter(torch.zeros(2, num_heads, self.head_dim // 2)) if mixed else None
        self.o_proj = nn.Linear(width, width)

    def forward(
        self,
        hidden_states: torch.Tensor,
        rotary: tuple | None,
        memory: torch.Tensor | None = None,
        memory_rotary: tuple | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """hidden_states (B, T, D), memory (B, T2, D); rotary: as of `rotary_of` -> (B, T, D), weights or None."""
        if self.frequencies is not None and rotary is not None:
            rows, columns = rotary
            rotary = mixed_embedding(rows, columns, self.frequencies)
        if memory is None:
            memory, memory_rotary = hidden_states, rotary
        query = self.q_proj(hidden_states).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key = self.k_proj(memory).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        value = self.v_proj(memory).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        if rotary is not None:
            query = apply_rotary(query, *(t.to(query.dtype) for t in rotary))
            key = apply_rotary(key, *(t.to(key.dtype) for t in memory_rotary or ()))
        if value.device.type == "cpu" and not is_traced():
            # One head after another: a CPU's attention is a tenth faster. Not the query: the output has its layout, and would be copied.
            key, value = key.contiguous(), value.contiguous()
        if self.trained_tokens is not None:
            count = torch.scalar_tensor(key.shape[2])  # a tensor: a traced graph takes any number of tokens
            query = query * (count.clamp(min=self.trained_tokens).log() / log(self.trained_tokens))
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        if self.config._attn_implementation == "sdpa" and blocks_are_faster(query, key):
            attention = block_attention_forward
        output, weights = attention(
            self,
            query,
            key,
            value,
            None,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        output = output.flatten(2)
        return self.o_proj(output if self.norm is None else self.norm(output)), weights


class WinWinMLP(nn.Module):
    """
    Two projections with an activation between them.

    `gated`: the activation multiplies a third one (SwiGLU). `norm`: a norm stands before the last.
    """

    def __init__(self, config: WinWinConfig, width: int, gated: bool = False, norm: bool = False):
        super().__init__()
        inner = round(width * config.mlp_ratio)
        self.up_proj = nn.Linear(width, inner)
        self.gate_proj = nn.Linear(width, inner) if gated else None
        self.act_fn = ACT2FN[config.hidden_act]
        self.norm = nn.LayerNorm(inner, eps=config.layer_norm_eps) if norm else None
        self.down_proj = nn.Linear(inner, width)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.gate_proj is None:
            inner = self.act_fn(self.up_proj(hidden_states))
        else:
            inner = self.act_fn(self.gate_proj(hidden_states)) * self.up_proj(hidden_states)
        return self.down_proj(inner if self.norm is None else self.norm(inner))


# ------------------------------------------------------------------ encoder


class WinWinEmbeddings(nn.Module):
    """Pixels to tokens: one linear projection a patch, or a convolutional stem; then absolute positions, if the encoder has such."""

    def __init__(self, config: WinWinConfig):
        super().__init__()
        self.config = config
        self.projection: nn.Module
        if config.patch_embedding == "conv_stem":
            self.projection = ConvStem(config)
        else:
            self.projection = nn.Conv2d(
                config.num_channels, config.hidden_size, config.patch_size, stride=config.patch_size
            )
        size, grid = config.hidden_size, config.position_grid
        self.positions = nn.Parameter(torch.zeros(*grid, size)) if grid is not None else None
        prefix = config.num_prefix_tokens
        self.prefix_tokens = nn.Parameter(torch.zeros(prefix, size)) if prefix else None
        self.norm = nn.LayerNorm(size, eps=config.layer_norm_eps) if config.embedding_norm else None

    def forward(self, pixels: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """pixels (B*N, C, h*p, w*p) -> tokens (B, T, D) and the stem's maps of strides 2, 4, ..., p/2 (none if linear)."""
        # quantised weights have the dtype of their codes
        dtypes = [p.dtype for p in self.projection.parameters() if p.is_floating_point()]
        pixels = pixels.to(dtypes[0] if dtypes else pixels.dtype)
        maps = self.projection(pixels)
        stem = []
        if self.config.patch_embedding == "conv_stem":
            *stem, maps = maps
        tokens = layout.to_tokens(maps)
        if self.config.position_embedding == "sincos":
            tokens = tokens + sincos_embedding(layout.positions(), self.config.hidden_size).to(tokens.dtype)
        elif self.positions is not None:
            # in the weights' precision: under autocast the sum, and so the residual stream, stays in float32, as in the sources
            with torch.autocast(tokens.device.type, enabled=False):
                tokens = tokens + self.learned_positions(layout).to(self.positions.dtype)
        return tokens, stem

    def learned_positions(self, layout: Layout) -> torch.Tensor:
        """The table of positions, resized to the frame, at the windows' tokens: (B or 1, T, D), float32."""
        assert self.positions is not None
        frame, table, antialias = layout.frame_size(), self.positions.float(), self.config.position_antialias
        rows, columns = (
            bicubic_weights(
                (layout.corners[..., axis, None] + torch.arange(count, device=frame.device)).flatten(1),
                frame[:, axis],
                table.shape[axis],
                antialias,
            ).unflatten(1, (-1, count))  # (B, N, h, table's rows), (B, N, w, table's columns)
            for axis, count in enumerate((layout.rows, layout.columns))
        )
        resized = torch.einsum("bnhr,rcd->bnhcd", rows, table)
        return torch.einsum("bnwc,bnhcd->bnhwd", columns, resized).flatten(1, 3)

    def add_prefix(
        self, tokens: torch.Tensor, rotary: tuple[torch.Tensor, torch.Tensor] | None
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor] | None]:
        """(B, T, D) -> (B, P + T, D), and a rotary embedding that leaves the P prefix tokens as they are; then the norm, if any."""
        if self.prefix_tokens is not None:
            prefix = self.prefix_tokens.expand(tokens.shape[0], -1, -1)
            tokens = torch.cat([prefix, tokens.to(prefix.dtype)], dim=1)  # float32 under autocast, as in the sources
            if rotary is not None:
                pad, first = (0, 0, prefix.shape[1], 0), 0.0 if self.config.position_embedding == "rope_mixed" else 1.0
                rotary = F.pad(rotary[0], pad, value=first), F.pad(rotary[1], pad)
        return tokens if self.norm is None else self.norm(tokens), rotary


class WinWinLayer(GradientCheckpointingLayer):
    """Pre-norm self-attention and MLP. Under "vitdet" most layers attend within cells of each window (Li et al. 2022)."""

    def __init__(self, config: WinWinConfig, index: int):
        super().__init__()
        size, depth = config.hidden_size, config.num_hidden_layers
        self.cell_size = None if index in config.global_blocks else config.attention_cell_size
        self.drop_path_rate = config.drop_path_rate * index / max(1, depth - 1)
        self.norm1 = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.attention = WinWinAttention(
            config,
            size,
            config.num_attention_heads,
            key_bias=config.key_bias,
            norm=config.attention_norm,
            mixed=config.position_embedding == "rope_mixed",
        )
        self.norm2 = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.mlp = WinWinMLP(config, size, gated=config.use_gated_mlp, norm=config.mlp_norm)
        scale = config.layerscale_value
        self.layer_scale1, self.layer_scale2 = (
            nn.Parameter(torch.full((size,), float(scale))) if scale is not None else None for _ in range(2)
        )

    def forward(
        self, hidden_states: torch.Tensor, rotary: tuple | None, layout: Layout, **kwargs: Unpack[TransformersKwargs]
    ) -> torch.Tensor:
        # a method of its own, so that nothing of the attention is held while the MLP runs, where a block needs most memory
        hidden_states = hidden_states + self.attend(self.norm1(hidden_states), rotary, layout, **kwargs)
        return hidden_states + self.residual(self.mlp(self.norm2(hidden_states)), self.layer_scale2)

    def attend(self, x: torch.Tensor, rotary: tuple | None, layout: Layout, **kwargs: Any) -> torch.Tensor:
        """The attention's residual of normalised tokens x (B, T, D)."""
        if self.cell_size is None:
            x, _ = self.attention(x, rotary, **kwargs)
        else:
            x = self.attend_in_cells(x, rotary, layout, **kwargs)
        return self.residual(x, self.layer_scale1)

    def residual(self, x: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
        """x (B, T, D), scaled by channel, and dropped for some images in training (Huang et al. 2016)."""
        if scale is not None:
            x = x * scale
        if self.training and self.drop_path_rate:
            keep = 1 - self.drop_path_rate
            x = x * (x.new_empty(x.shape[0], 1, 1).bernoulli_(keep) / keep)
        return x

    def attend_in_cells(self, x: torch.Tensor, rotary: tuple | None, layout: Layout, **kwargs: Any) -> torch.Tensor:
        """
        Attention within cells, without padding: whole cells in one call, then the remainders at the right, the bottom and the corner.

        ViT-Det pads instead, and its padding takes part in the attention. Inside whole cells the result is the same.
        """
        assert self.cell_size is not None
        size, rows, columns = self.cell_size, layout.rows, layout.columns
        refuse_recording("attention in cells", rows, columns)
        row_parts = [(0, rows - rows % size, size), (rows - rows % size, rows, rows % size)]
        column_parts = [(0, columns - columns % size, size), (columns - columns % size, columns, columns % size)]

        def grid(t: torch.Tensor) -> torch.Tensor:  # (B, T, D) -> (B, N, h, w, D)
            return t.reshape(t.shape[0], layout.count, rows, columns, t.shape[-1])

        def cells(  # -> (B * cells, high * wide, D)
            t: torch.Tensor, top: int, bottom: int, high: int, left: int, right: int, wide: int
        ) -> torch.Tensor:
            t = t[:, :, top:bottom, left:right].unflatten(3, (-1, wide)).unflatten(2, (-1, high))
            return t.transpose(3, 4).flatten(4, 5).flatten(0, 3)

        x_grid = grid(x)
        rotary_grids = [grid(t.squeeze(1).expand(layout.batch, -1, -1)) for t in rotary] if rotary is not None else None
        output = torch.zeros_like(x_grid)
        for top, bottom, high in row_parts:
            for left, right, wide in column_parts:
                if top == bottom or left == right:
                    continue
                part = (top, bottom, high, left, right, wide)
                part_rotary = rotary_grids and tuple(cells(t, *part)[:, None] for t in rotary_grids)
                y, _ = self.attention(cells(x_grid, *part), part_rotary, **kwargs)
                shape = (layout.batch, layout.count, (bottom - top) // high, (right - left) // wide, high, wide, -1)
                y = y.reshape(shape).transpose(3, 4)  # (B, N, cell rows, high, cell columns, wide, D)
                output[:, :, top:bottom, left:right] = y.flatten(4, 5).flatten(2, 3).to(output.dtype)
        return output.flatten(1, 3)


# ------------------------------------------------------------------ decoder


class WinWinDecoderLayer(GradientCheckpointingLayer):
    """Self-attention, cross-attention to the second view, MLP (CroCo's decoder block)."""

    def __init__(self, config: WinWinConfig):
        super().__init__()
        width, heads, eps = config.decoder_hidden_size, config.decoder_num_attention_heads, config.layer_norm_eps
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attention = WinWinAttention(config, width, heads, config.decoder_attention_tokens)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.norm_memory = nn.LayerNorm(width, eps=eps)
        self.cross_attention = WinWinAttention(config, width, heads)
        self.norm3 = nn.LayerNorm(width, eps=eps)
        self.mlp = WinWinMLP(config, width)

    def forward(
        self,
        hidden_states: torch.Tensor,
        memory: torch.Tensor,
        rotary: tuple | None,
        memory_rotary: tuple | None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        hidden_states = hidden_states + self.attention(self.norm1(hidden_states), rotary, **kwargs)[0]
        memory = self.norm_memory(memory)
        x, _ = self.cross_attention(self.norm2(hidden_states), rotary, memory, memory_rotary, **kwargs)
        hidden_states = hidden_states + x
        return hidden_states + self.mlp(self.norm3(hidden_states))
