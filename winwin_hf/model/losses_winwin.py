"""Training losses: one pure function a loss, none knows of windows.

What is notable here:
- Every function takes any leading axes, so a batch of images and a batch of windows go through the same line.
- Unknown targets (NaN, inf, out of range, ignored labels) are replaced *before* any arithmetic: a NaN that is only masked
  afterwards still gives NaN gradients. Where nothing is known the loss is 0 and its gradients are 0.
- Everything is computed in float32, under autocast too.
- Shapes must agree in full. What broadcasts would give a loss too, but another one.
- Beside each loss stands the number that its sum is divided by. A step's batches, of every process, weigh by it: their losses are
  together the loss of one batch (`loss_weights` of the models).

Legend: B batch, L labels, T tokens, P pixel values of a patch, H W pixels, h w cells of a coarser grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

FREE_SCALE = 4.0  # the raw channel of the Laplacian's scale may go so far without a penalty
UNKNOWN_FLOW = 10_000.0  # px; flow that is not below counts as unknown (Middlebury writes values above 1e9)
IGNORE_LABEL = 255  # class of pixels that are unknown


def check_shape(name: str, tensor: Tensor, expected: Sequence[int]) -> None:
    """Raises ValueError, with both shapes, where `tensor` has another shape than `expected`; TypeError where it isn't a tensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} is a {type(tensor).__name__}: expected a torch.Tensor.")
    if tuple(tensor.shape) != tuple(expected):
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}: expected {tuple(expected)}.")
    if tensor.is_complex():
        raise ValueError(f"{name} is of {tensor.dtype}: expected real numbers.")


def _mean_where(values: Tensor, valid: Tensor) -> Tensor:
    """Mean of `values` where `valid`; 0, still attached to the graph, where nothing is."""
    kept = torch.where(valid, values, torch.zeros((), dtype=values.dtype, device=values.device))
    return kept.sum() / valid.sum().clamp(min=1)


def _known_flow(target: Tensor, max_flow: float) -> tuple[Tensor, Tensor]:
    """Flow (..., 2, H, W) -> the same in float32 with 0 where it is unknown, and which pixels are known (..., H, W)."""
    target = target.float()
    known = (target.isfinite() & (target.abs() < max_flow)).all(dim=-3)
    return torch.where(known.unsqueeze(-3), target, torch.zeros_like(target)), known


def laplacian_scale(log_scale: Tensor, min_scale: float = 0.25, max_scale: float = 4.0) -> Tensor:
    """The network's raw third channel c -> the Laplacian's scale in pixels, between `min_scale` and `max_scale`."""
    return (max_scale - min_scale) * torch.sigmoid(log_scale.float()) + min_scale


def bounded_laplacian_loss(
    flow: Tensor,
    log_scale: Tensor,
    labels: Tensor,
    max_flow: float = UNKNOWN_FLOW,
    min_scale: float = 0.25,
    max_scale: float = 4.0,
    penalty: float = 0.0,
) -> Tensor:
    """Negative log-likelihood of a Laplacian whose scale the network chooses within bounds (as CroCo-Flow; ours for Win-Win).

    (|du| + |dv|) / scale + log(scale), averaged over the known pixels; constants are left out, so it can be negative.
    The bounds keep the network from declaring every pixel hopeless, or certain. But where they are reached the raw channel has no
    gradient any more: while errors are large it is driven to the upper bound, and then nothing brings it back. `penalty` does (ours):
    it is the weight of (|c| - 4)^2 beyond 4, where the scale is within 2 % of a bound.

    Args:
        flow: predicted flow (..., 2, H, W) in pixels.
        log_scale: raw channel c (..., H, W), see `laplacian_scale`.
        labels: true flow (..., 2, H, W) in pixels; NaN, inf and values of `max_flow` pixels or more are unknown.
    Raises: ValueError: shapes differ.
    """
    check_shape("labels", labels, flow.shape)
    check_shape("log_scale", log_scale, (*flow.shape[:-3], *flow.shape[-2:]))
    target, known = _known_flow(labels, max_flow)
    scale = laplacian_scale(log_scale, min_scale, max_scale)
    error = (flow.float() - target).abs().sum(dim=-3)  # (..., H, W)
    loss = error / scale + scale.log()
    if penalty:
        loss = loss + penalty * (log_scale.float().abs() - FREE_SCALE).clamp(min=0).square()
    return _mean_where(loss, known)


def flow_count(labels: Tensor, max_flow: float = UNKNOWN_FLOW) -> Tensor:
    """Number of known pixels, of which `bounded_laplacian_loss` is the mean."""
    return _known_flow(labels, max_flow)[1].sum()


def semantic_loss(
    logits: Tensor,
    labels: Tensor,
    ignore_index: int = IGNORE_LABEL,
    weights: Sequence[float] | None = None,
    groups: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """Cross-entropy, averaged over the pixels that are not `ignore_index`.

    Args:
        logits: (..., L, H, W): the class axis is the third from the end, as in (B, L, H, W) and (B, N, L, h, w).
        labels: integers (..., H, W).
        weights: of each class, L numbers; the average is then a weighted one. None: all alike.
        groups: label L + n means any of the classes groups[n]: the loss is that of the sum of their probabilities, and the weight that of
            the first (ours).
    Raises: ValueError: shapes differ, or labels aren't integers, or (on a CPU; a GPU would have to wait for its answer) one is no class.
    """
    check_shape("labels", labels, (*logits.shape[:-3], *logits.shape[-2:]))
    if labels.is_floating_point():
        raise ValueError(f"labels are of {labels.dtype}: expected integers, the classes.")
    labels = labels.long()
    weight = _class_weights(weights, logits.device, groups)
    scores = logits.float().reshape(-1, *logits.shape[-3:])
    compute: Callable[..., Tensor] = F.cross_entropy
    if groups:  # log-probabilities of the groups beside those of the classes: no softmax may run over both
        one = scores.log_softmax(1)
        scores = torch.cat([one, *(one[:, list(group)].logsumexp(1, keepdim=True) for group in groups)], dim=1)
        compute = F.nll_loss
    try:
        per_pixel = compute(
            scores,
            labels.reshape(-1, *labels.shape[-2:]),
            weight=weight,
            ignore_index=ignore_index,
            reduction="none",
        )  # 0 where ignored
    except IndexError as error:  # PyTorch's own check of the classes, on a CPU outside recorded graphs
        classes = scores.shape[1]
        wrong = labels[(labels != ignore_index) & ((labels < 0) | (labels >= classes))].unique().tolist()
        raise ValueError(
            f"labels hold the class ids {', '.join(map(str, wrong[:8]))}, and there are {classes} labels: expected 0 to {classes - 1}, or "
            f"{ignore_index} (semantic_loss_ignore_index) where a pixel doesn't count."
        ) from error
    total = semantic_count(labels, ignore_index, weights, groups)
    return per_pixel.sum() / torch.where(total > 0, total, 1)  # weights may be far below 1


def semantic_count(
    labels: Tensor,
    ignore_index: int = IGNORE_LABEL,
    weights: Sequence[float] | None = None,
    groups: Sequence[Sequence[int]] | None = None,
) -> Tensor:
    """Number of known pixels, or the sum of their classes' weights: what `semantic_loss` divides by."""
    labels, weight = labels.long(), _class_weights(weights, labels.device, groups)
    known = labels != ignore_index
    return known.sum() if weight is None else (weight[torch.where(known, labels, 0)] * known).sum()


def _class_weights(
    weights: Sequence[float] | None, device: torch.device, groups: Sequence[Sequence[int]] | None = None
) -> Tensor | None:
    if weights is None:
        return None
    return torch.tensor([*weights, *(weights[group[0]] for group in groups or ())], dtype=torch.float32, device=device)


def scale_invariant_log_loss(
    depth: Tensor, labels: Tensor, variance_focus: float = 0.85, eps: float = 1e-6, max_depth: float | None = None
) -> Tensor:
    """Scale-invariant error of log depth (Eigen et al. 2014, eq. 4, with the square root that BTS and AdaBins take).

    With g = log(depth) - log(target) over the known pixels of an image:
    sqrt(mean(g^2) - variance_focus * mean(g)^2), averaged over the images that have known pixels.
    `variance_focus` 1 forgives a wrong overall scale, 0 is the plain RMSE of the log. The root keeps the gradient from
    fading as the fit improves, and lets each image weigh alike. It is written as
    sqrt(var(g) + (1 - variance_focus) * mean(g)^2 + eps) - sqrt(eps): never negative inside the root, smooth at 0.

    Args:
        depth: predicted depth (B, ..., H, W) in metres, positive. Axis 0 tells images apart; all other axes (windows,
            rows, columns) belong to one image.
        labels: true depth, same shape; known where finite, above 0 and, if given, at most `max_depth`.
    Raises: ValueError: shapes differ.
    """
    check_shape("labels", labels, depth.shape)
    target = labels.float()
    known = _known_depth(target, max_depth)
    one = torch.ones((), device=target.device)
    g = depth.float().clamp(min=1e-6).log() - torch.where(known, target, one).log()
    g = torch.where(known, g, torch.zeros_like(g)).flatten(1)  # (B, pixels)
    known = known.flatten(1)
    count = known.sum(dim=1).clamp(min=1)
    mean = g.sum(dim=1) / count
    deviation = torch.where(known, g - mean.unsqueeze(1), torch.zeros_like(g))
    variance = deviation.square().sum(dim=1) / count
    inner = variance + (1 - variance_focus) * mean.square()
    return _mean_where((inner + eps).sqrt() - eps**0.5, known.any(dim=1))


DEPTH_ERRORS = (0.01, 1.0)  # least and largest relative error of depth that a network can say
EDGE_STEPS = (1, 2, 4, 8)  # pixels between those whose difference of log depth is compared


def depth_edge_loss(depth: Tensor, labels: Tensor) -> Tensor:
    """
    Mean error of the differences of log depth between pixels that are 1, 2, 4 and 8 apart, right and down (after Li and Snavely 2018).

    It makes edges sharp, where the other term is content with a mean. Arguments and errors of `scale_invariant_log_loss`; averaged over
    the same images.
    """
    check_shape("labels", labels, depth.shape)
    target = labels.float()
    known = _known_depth(target, None)
    one = torch.ones((), device=target.device)
    g = depth.float().clamp(min=1e-6).log() - torch.where(known, target, one).log()
    total, count = (torch.zeros(len(g), device=g.device) for _ in range(2))
    for step in EDGE_STEPS:
        for axis in (-1, -2):
            size = g.shape[axis] - step
            if size <= 0:
                continue
            both = known.narrow(axis, 0, size) & known.narrow(axis, step, size)
            change = (g.narrow(axis, step, size) - g.narrow(axis, 0, size)).abs()
            total = total + torch.where(both, change, 0).flatten(1).sum(1)
            count = count + both.flatten(1).sum(1)
    return _mean_where(total / count.clamp(min=1), known.flatten(1).any(dim=1))


def depth_error_loss(log_scale: Tensor, depth: Tensor, labels: Tensor) -> Tensor:
    """
    Negative log-likelihood of the errors of log depth under Laplacians of the predicted scales (ours). No gradient reaches the depth.

    log_scale: (B, ..., H, W) raw channel, see `laplacian_scale`, between `DEPTH_ERRORS`. Other arguments and errors of
    `scale_invariant_log_loss`; averaged over the same images.
    """
    check_shape("labels", labels, depth.shape)
    check_shape("log_scale", log_scale, depth.shape)
    target = labels.float()
    known = _known_depth(target, None)
    one = torch.ones((), device=target.device)
    error = (depth.detach().float().clamp(min=1e-6).log() - torch.where(known, target, one).log()).abs()
    scale = laplacian_scale(log_scale, *DEPTH_ERRORS)
    each = torch.where(known, error / scale + scale.log(), 0).flatten(1)
    known = known.flatten(1)
    return _mean_where(each.sum(1) / known.sum(1).clamp(min=1), known.any(dim=1))


def depth_count(labels: Tensor, max_depth: float | None = None) -> Tensor:
    """Number of images with known pixels, of which `scale_invariant_log_loss` is the mean."""
    return _known_depth(labels.float(), max_depth).flatten(1).any(dim=1).sum()


def _known_depth(target: Tensor, max_depth: float | None) -> Tensor:
    known = target.isfinite() & (target > 0)
    return known if max_depth is None else known & (target <= max_depth)


def normalised_pixel_loss(prediction: Tensor, patches: Tensor, mask: Tensor, eps: float = 1e-6) -> Tensor:
    """Mean squared error over hidden patches, each target patch brought to mean 0 and variance 1 (as MAE and CroCo).

    Args:
        prediction: (..., T, P).
        patches: true pixel values (..., T, P).
        mask: bool (..., T), True where the patch was hidden from the network and so counts.
    Raises: ValueError: shapes differ.
    """
    check_shape("patches", patches, prediction.shape)
    check_shape("mask", mask, prediction.shape[:-1])
    patches = patches.float()
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)  # unbiased variance, as in MAE
    target = (patches - mean) / (variance + eps).sqrt()
    return _mean_where((prediction.float() - target).square().mean(dim=-1), mask.bool())
