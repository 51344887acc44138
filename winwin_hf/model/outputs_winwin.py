"""What the Win-Win models return. Shapes: B batch, N windows (an axis only if the input came in windows), T tokens, H W pixels."""

from dataclasses import dataclass

import torch
from transformers.modeling_outputs import DepthEstimatorOutput
from transformers.utils import ModelOutput, auto_docstring

from .layers_winwin import Layout


@auto_docstring(custom_intro="The encoder's output for one view.")
@dataclass
class WinWinModelOutput(ModelOutput):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(batch_size, tokens, hidden_size)`):
        Tokens of all windows, window by window, after the final norm.
    taps (`tuple(torch.FloatTensor)`, *optional*):
        Tokens after the blocks that were asked for by `taps`, the last block's normalised.
    stem (`tuple(torch.FloatTensor)`, *optional*):
        With a convolutional stem: its maps of strides 2, 4, ..., half a patch, one a window.
    """

    last_hidden_state: torch.Tensor | None = None
    taps: tuple[torch.Tensor, ...] | None = None
    stem: tuple[torch.Tensor, ...] | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class EncodedView:
    """
    One view as `WinWinForOpticalFlow.decode` takes it.

    Attributes:
        encoder: the encoder's output; the head reads its taps or stem. tokens: (B, T, D'), its last tokens at the decoder's width.
        features: (B, Q, C), with matching, of the stride-s positions. fine: with refinement, maps (B*N, C, h, w) of its strides.
    """

    layout: Layout
    encoder: WinWinModelOutput
    tokens: torch.Tensor
    features: torch.Tensor | None
    fine: tuple[torch.Tensor, ...] = ()


@auto_docstring(custom_intro="The decoder's output for the first view, given the second.")
@dataclass
class WinWinDecoderOutput(ModelOutput):
    r"""
    last_hidden_state (`torch.FloatTensor` of shape `(batch_size, tokens, decoder_hidden_size)`):
        Tokens of the first view after the final norm.
    taps (`tuple(torch.FloatTensor)`, *optional*):
        Tokens after the blocks that were asked for by `taps`, the last block's normalised.
    hidden_states (`tuple(torch.FloatTensor)`, *optional*):
        The decoder's input and the output of each block.
    attentions (`tuple(torch.FloatTensor)`, *optional*):
        Self-attention weights of each block.
    cross_attentions (`tuple(torch.FloatTensor)`, *optional*):
        Attention weights of each block to the second view.
    """

    last_hidden_state: torch.Tensor | None = None
    taps: tuple[torch.Tensor, ...] | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


@auto_docstring(custom_intro="Optical flow from the first to the second view.")
@dataclass
class WinWinOpticalFlowOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor`, *optional*, returned when `labels` is given):
        Bounded Laplacian loss, plus the matching's auxiliary losses in training.
    flow (`torch.FloatTensor` of shape `(batch_size, 2, height, width)`, or `(batch_size, windows, 2, height, width)`):
        Displacement (right, down) of each pixel of the first view, in pixels of the input.
    log_scale (`torch.FloatTensor` of shape `(batch_size, height, width)`, or with windows after the batch):
        Uncertainty as a raw channel c. The Laplacian's scale is (max - min) * sigmoid(c) + min pixels.
    base_flow (`torch.FloatTensor` of shape `(batch_size, 2, height / stride, width / stride)`, *optional*):
        With matching: the displacement that the match alone gives, in pixels of the input. Where nothing matches, the initial flow,
        or zero.
    hidden_states (`tuple(torch.FloatTensor)`, *optional*):
        The first view's tokens after the embedding and each encoder block.
    attentions (`tuple(torch.FloatTensor)`, *optional*):
        Encoder attention weights of the first view, for each block.
    decoder_hidden_states (`tuple(torch.FloatTensor)`, *optional*):
        The decoder's input and the output of each of its blocks.
    decoder_attentions (`tuple(torch.FloatTensor)`, *optional*):
        Self-attention weights of each decoder block.
    cross_attentions (`tuple(torch.FloatTensor)`, *optional*):
        Attention weights of each decoder block to the second view.
    """

    loss: torch.Tensor | None = None
    flow: torch.Tensor | None = None
    log_scale: torch.Tensor | None = None
    base_flow: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None
    cross_attentions: tuple[torch.Tensor, ...] | None = None


@auto_docstring(custom_intro="Metric depth of one view.")
@dataclass
class WinWinDepthOutput(DepthEstimatorOutput):
    r"""
    loss (`torch.FloatTensor`, *optional*, returned when `labels` is given):
        Scale-invariant error of log depth, plus the terms that the config asks for.
    predicted_depth (`torch.FloatTensor` of shape `(batch_size, height, width)`, or with windows after the batch):
        Depth in metres.
    log_scale (`torch.FloatTensor` of the same shape, *optional*, with `config.depth_error`):
        Uncertainty as a raw channel c: the relative error that the network expects is 0.99 * sigmoid(c) + 0.01.
    hidden_states (`tuple(torch.FloatTensor)`, *optional*):
        Tokens after the embedding and each encoder block.
    attentions (`tuple(torch.FloatTensor)`, *optional*):
        Encoder attention weights, for each block.
    """

    log_scale: torch.Tensor | None = None


@auto_docstring(
    custom_intro="Cross-view completion: the first view's hidden patches, predicted from its visible ones and the second view."
)
@dataclass
class WinWinPreTrainingOutput(ModelOutput):
    r"""
    loss (`torch.FloatTensor`):
        Mean squared error of the hidden patches' normalised pixels.
    logits (`torch.FloatTensor` of shape `(batch_size, tokens, patch_size ** 2 * num_channels)`):
        Predicted pixels of every patch, normalised by the patch's mean and deviation.
    bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, tokens)`):
        Which tokens were hidden.
    hidden_states (`tuple(torch.FloatTensor)`, *optional*):
        The first view's visible tokens after the embedding and each encoder block.
    attentions (`tuple(torch.FloatTensor)`, *optional*):
        Encoder attention weights of the first view, for each block.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    bool_masked_pos: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
