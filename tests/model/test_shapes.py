"""Inputs of a wrong shape or type are refused: what broadcasts would give a result too, but another one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from support.model_cases import BINOCULAR, TASKS, arguments, frames, hidden, make

from winwin_hf import WinWinImageProcessor
from winwin_hf.model import losses_winwin as losses
from winwin_hf.model.matching_winwin import Match, matching_loss

H, W = 16, 24
APART = torch.tensor([[[0, 0], [1, 1]], [[1, 0], [0, 1]]])  # two windows of 1x2 patches in each frame of 2x3
each_task = pytest.mark.parametrize("task", TASKS)
# of a whole frame, and of windows
LABELS = {
    "semantic-segmentation": ((2, H, W), (2, 2, 8, 16)),
    "depth-estimation": ((2, H, W), (2, 2, 8, 16)),
    "optical-flow": ((2, 2, H, W), (2, 2, 2, 8, 16)),
    "pre-training": ((2, 3, H, W), (2, 2, 3, 8, 16)),
}


def inputs_for(task: str, windowed: bool = False, variant: str = "linear"):
    """A model and its arguments for a batch of two."""
    model = make(task, variant)
    views = frames(model, rows=2, columns=3)
    return model, arguments(task, model, views, APART if windowed else None, (1, 2))


def wrong_shapes(right: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes that aren't `right`; nearly all of them broadcast to it, or have as many values."""
    return {
        "a batch of one": (1, *right[1:]),
        "no batch": right[1:],
        "an axis more": (right[0], 1, *right[1:]),
        "an axis before": (1, *right),
        "one channel or window": (right[0], 1, *right[2:]),
        "one row": (*right[:-2], 1, right[-1]),
        "one column": (*right[:-1], 1),
        "one value": (1,) * len(right),
        "turned": (*right[:-2], right[-1], right[-2]),
        "twice the batch": (2 * right[0], *right[1:]),
    }


@pytest.mark.parametrize("windowed", [False, True])
@each_task
def test_labels_of_another_shape_than_the_prediction(task, windowed):
    model, inputs = inputs_for(task, windowed)
    right = LABELS[task][windowed]
    dtype = torch.int64 if task == "semantic-segmentation" else torch.float32
    with torch.no_grad():
        assert torch.isfinite(model(**inputs, labels=torch.ones(right, dtype=dtype)).loss)
        for name, shape in wrong_shapes(right).items():
            if shape == right:
                continue
            with pytest.raises(ValueError) as error:
                model(**inputs, labels=torch.ones(shape, dtype=dtype))
            assert f"labels has shape {shape}: expected {right}" in str(error.value), name


@pytest.mark.parametrize("windowed", [False, True])
def test_guesses_of_another_shape_than_the_flow(windowed):
    model, inputs = inputs_for("optical-flow", windowed, "matching")
    right = LABELS["optical-flow"][windowed]
    with torch.no_grad():
        assert torch.isfinite(model(**inputs, initial_flow=torch.ones(right)).flow).all()
        for name, shape in wrong_shapes(right).items():
            if shape == right:
                continue
            with pytest.raises(ValueError) as error:
                model(**inputs, initial_flow=torch.ones(shape))
            assert f"initial_flow has shape {shape}: expected {right}" in str(error.value), name
        model, inputs = inputs_for("optical-flow", windowed)
        with pytest.raises(ValueError, match="initial_flow is given to a model without matching"):
            model(**inputs, initial_flow=torch.ones(right))


@pytest.mark.parametrize(
    ("make_image", "says"),
    [
        (lambda image: image[0], r"has shape \(3, 16, 24\): expected \(B, C, H, W\)"),
        (lambda image: image[:, :1], r"has shape \(2, 1, 16, 24\): expected 3 channels"),
        (lambda image: torch.cat([image, image[:, :1]], dim=1), r"has shape \(2, 4, 16, 24\): expected 3 channels"),
        (lambda image: image[:0], r"has shape \(0, 3, 16, 24\): expected .* nothing empty"),
        (lambda image: image[..., :0], r"has shape \(2, 3, 16, 0\): expected .* nothing empty"),
        (lambda image: image[..., :20], "is 16 x 20 pixels: expected multiples of 8"),
        (lambda image: image.to(torch.uint8), "is of torch.uint8: expected normalised floats"),
        (lambda image: image.numpy(), "is of type ndarray: expected a torch.Tensor; the processor makes it"),
        (lambda image: image.long(), "is of torch.int64: expected normalised floats"),
        (lambda image: image > 0, "is of torch.bool: expected normalised floats"),
    ],
)
@each_task
def test_images_that_no_processor_made(task, make_image, says):
    model, inputs = inputs_for(task)
    for name in [name for name in inputs if name.endswith("pixel_values")]:
        with pytest.raises((TypeError, ValueError), match=f"^{name} {says}"):
            model(**{**inputs, name: make_image(inputs[name])})


@pytest.mark.parametrize("variant", ["linear", "matching"])
@pytest.mark.parametrize("task", BINOCULAR)
def test_second_views_of_another_batch_size(task, variant):
    if task == "pre-training" and variant == "matching":
        return
    model, inputs = inputs_for(task, variant=variant)
    second = inputs.pop("second_pixel_values")
    for other in (second[:1], second.repeat(2, 1, 1, 1)):
        with pytest.raises(ValueError, match=f"second_pixel_values has a batch of {len(other)}: expected 2"):
            model(**inputs, second_pixel_values=other)
    if task == "optical-flow":
        with pytest.raises(ValueError, match="second_pixel_values has a batch of 1"):
            model.decode(model.encode(inputs["pixel_values"]), model.encode(second[:1]))


@each_task
def test_window_positions(task):
    model, inputs = inputs_for(task, windowed=True)
    places = [name for name in inputs if name.endswith("window_positions")]
    with torch.no_grad():
        expected = list(model(**inputs).values())
        for dtype in (torch.uint8, torch.int16, torch.int32):
            found = model(**{**inputs, **{name: inputs[name].to(dtype) for name in places}})
            assert all(torch.equal(a, b) for a, b in zip(found.values(), expected, strict=True))
    for name in places:
        for dtype in (torch.float32, torch.bfloat16, torch.bool):
            with pytest.raises(ValueError, match=f"{name} is of {dtype}: expected integers"):
                model(**{**inputs, name: inputs[name].to(dtype)})
        for shape in ((1, 2, 2), (2, 1, 2), (2, 2), (2, 2, 3), (2, 2, 1)):
            with pytest.raises(ValueError) as error:
                model(**{**inputs, name: torch.zeros(shape, dtype=torch.long)})
            assert f"{name} has shape {shape}: expected (2, 2, 2)" in str(error.value)


def test_small_integers_of_positions_do_not_overflow():
    """Patch 130 is position 260 of the matching's finer grid, which uint8 doesn't hold."""
    model = make("optical-flow", "refinement")
    views = frames(model, rows=2, columns=3)
    inputs = arguments("optical-flow", model, views, APART, (1, 2), shift=130)
    small = {name: value.to(torch.uint8) if "positions" in name else value for name, value in inputs.items()}
    with torch.no_grad():
        assert torch.equal(model(**small).flow, model(**inputs).flow)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda mask: mask[:1], r"has shape \(1, 6\): expected \(2, 6\)"),
        (lambda mask: mask.reshape(2, 2, 3), r"has shape \(2, 2, 3\): expected \(2, 6\)"),
        (lambda mask: mask.mT.reshape(3, 4), r"has shape \(3, 4\): expected \(2, 6\)"),
        (lambda mask: 0.5 * mask, "is of torch.float32: expected bool"),
        (lambda mask: mask | True, "hides every token"),
    ],
)
def test_masks_of_pre_training(change, says):
    model, inputs = inputs_for("pre-training")
    mask = hidden(inputs["pixel_values"], 8).flatten(1)
    with torch.no_grad():
        expected = model(**{**inputs, "bool_masked_pos": mask})
        assert torch.equal(model(**{**inputs, "bool_masked_pos": mask.long()}).logits, expected.logits)
    with pytest.raises(ValueError, match=f"bool_masked_pos {says}"):
        model(**{**inputs, "bool_masked_pos": change(mask)})


def test_visible_tokens_and_taps():
    model, inputs = inputs_for("pre-training")
    encoder, image, right = model.winwin, inputs["pixel_values"], torch.tensor([[0, 2, 5], [1, 2, 3]])
    assert encoder(image, visible=right).last_hidden_state.shape == (2, 3, 32)
    for wrong in (right[:1], right[0], right[None], right.float(), right > 1, right.repeat(2, 1)):
        with pytest.raises(ValueError, match=r"visible is .*: expected int64 of shape \(2, visible\)"):
            encoder(image, visible=wrong)
    for wrong in (right + 1, -right, right[:, :0]):
        with pytest.raises(ValueError, match="visible: expected at least one index an image, each from 0 to 5"):
            encoder(image, visible=wrong)
    assert len(encoder(image, taps=[0, 3]).taps) == 2
    for taps in ([4], [-1], [0, 7]):
        with pytest.raises(ValueError, match=r"taps .*: expected blocks from 0 to 3"):
            encoder(image, taps=taps)


# ------------------------------------------------------------------ losses and results, called directly

FLOW = torch.zeros(2, 2, 4, 6)
LOSSES = {
    "flow": (losses.bounded_laplacian_loss, [FLOW, FLOW[:, 0], FLOW]),
    "segmentation": (losses.semantic_loss, [torch.zeros(2, 5, 4, 6), torch.zeros(2, 4, 6).long()]),
    "depth": (losses.scale_invariant_log_loss, [torch.ones(2, 4, 6), torch.ones(2, 4, 6)]),
    "pixels": (losses.normalised_pixel_loss, [torch.ones(2, 4, 6), torch.ones(2, 4, 6), torch.ones(2, 4).bool()]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_compare_shapes(name):
    loss, right = LOSSES[name]
    assert torch.isfinite(loss(*right))
    for index in range(1, len(right)):
        for what, shape in wrong_shapes(tuple(right[index].shape)).items():
            if shape == right[index].shape:
                continue
            wrong = torch.ones(shape, dtype=right[index].dtype)
            with pytest.raises(ValueError, match=r"has shape .*: expected"):
                loss(*right[:index], wrong, *right[index + 1 :])
                pytest.fail(what)


def test_classes_are_integers():
    with pytest.raises(ValueError, match=r"labels are of torch.float32: expected integers"):
        losses.semantic_loss(torch.zeros(2, 5, 4, 6), torch.full((2, 4, 6), 0.7))


@pytest.mark.parametrize("name", LOSSES)
def test_arrays_of_numpy_are_refused_by_name(name):
    loss, right = LOSSES[name]
    with pytest.raises(TypeError, match=r"is a ndarray: expected a torch\.Tensor"):
        loss(right[0], right[1].numpy(), *right[2:])


def test_the_matching_loss_compares_shapes():
    vectors, values = torch.zeros(2, 6, 2), torch.ones(2, 6)
    match = Match(vectors, vectors, values, values, values, vectors, vectors)
    assert torch.isfinite(matching_loss(match, vectors, values > 0, 4))
    for target, inside in ((vectors[:1], values > 0), (vectors[:, :, :1], values > 0), (vectors, values[:1] > 0)):
        with pytest.raises(ValueError, match=r"has shape .*: expected"):
            matching_loss(match, target, inside, 4)


def test_results_compare_shapes():
    processor = WinWinImageProcessor(patch_size=2)
    flow, log_scale = FLOW, FLOW[:, 0]
    assert len(processor.post_process_optical_flow(SimpleNamespace(flow=flow, log_scale=log_scale))) == 2
    for wrong in (flow[:, :1], torch.cat([flow, flow], dim=1)):
        with pytest.raises(ValueError, match=r"flow has shape .*: expected \(2, 2, 4, 6\)"):
            processor.post_process_optical_flow(SimpleNamespace(flow=wrong))
    for wrong in (log_scale[:1], log_scale[..., :1], log_scale[:, None]):
        with pytest.raises(ValueError, match=r"log_scale has shape .*: expected \(2, 4, 6\)"):
            processor.post_process_optical_flow(SimpleNamespace(flow=flow, log_scale=wrong))
