"""The windows' identities: what must hold between a frame, its windows, their order and their place, for every model.

Each is shown with something close to it that must not hold, so that a model which ignores its input can't pass.
"""

from __future__ import annotations

import pytest
import torch
from support.model_cases import (
    APART,
    BINOCULAR,
    BORDERLESS,
    CASES,
    RELATIVE,
    TASKS,
    TOLERANCE,
    VISIBLE,
    arguments,
    crop,
    distance,
    frames,
    make,
    predict,
)

pytestmark = pytest.mark.usefixtures("device")
COVER = torch.tensor([[2, 4], [0, 2], [0, 0], [2, 0], [0, 4], [2, 2]]).expand(2, 6, 2)  # six that cover it, shuffled
each = pytest.mark.parametrize(("task", "variant"), CASES)


def stitch(maps: torch.Tensor, where: torch.Tensor, shape: tuple[int, int]) -> torch.Tensor:
    """Predictions (B, N, C, h, w) of windows of 2x2 patches put back -> (B, 1, C, H, W); NaN outside them."""
    scale = maps.shape[-1] // 2
    frame = maps.new_full((len(maps), 1, maps.shape[2], shape[0] * scale, shape[1] * scale), torch.nan)
    for target, source, corners in zip(frame, maps, where.tolist(), strict=True):
        for window, (row, column) in zip(source, corners, strict=True):
            top, left = row * scale, column * scale
            target[0, :, top : top + window.shape[-2], left : left + window.shape[-1]] = window
    return frame


@each
def test_whole_frame_as_one_window_is_the_plain_image(task, variant):
    model = make(task, variant)
    views, origin = frames(model), torch.zeros(2, 1, 2, dtype=torch.long)
    assert distance(predict(task, model, views, origin, (4, 6)), predict(task, model, views)) < TOLERANCE


@pytest.mark.parametrize(("task", "variant"), BORDERLESS)
def test_windows_that_cover_the_frame_are_the_plain_image(task, variant):
    model = make(task, variant)
    views = frames(model)
    plain = predict(task, model, views)
    assert distance(stitch(predict(task, model, views, COVER), COVER, (4, 6)), plain) < TOLERANCE
    wrong = COVER.flip(1)  # the same windows, said to lie elsewhere: positions do matter
    moved = predict(task, model, views, COVER, shift=wrong - COVER)
    assert distance(stitch(moved, COVER, (4, 6)), plain) > VISIBLE


def test_only_the_second_view_in_windows_that_cover_it():
    """The first view keeps its borders, so any head does; with linear patches the second view's cut is not felt."""
    for variant in ("conv", "dpt"):
        model = make("optical-flow", variant)
        views = frames(model)
        cut = crop(views[1], COVER, (2, 2), model.config.patch_size)
        with torch.no_grad():
            plain = model(*views).flow
            flow = model(views[0], cut, second_window_positions=COVER.to(model.device)).flow
            assert distance(flow, plain) < TOLERANCE


@pytest.mark.parametrize(("task", "variant"), RELATIVE)
def test_moving_all_windows_together_changes_nothing(task, variant):
    model = make(task, variant)
    views = frames(model)
    still = predict(task, model, views, APART)
    assert distance(predict(task, model, views, APART, shift=torch.tensor([7, 40])), still) < 2 * TOLERANCE
    # Moving one of two windows alone does change the other's prediction.
    one = torch.tensor([[0, 0], [2, 1]])
    assert distance(predict(task, model, views, APART, shift=one)[:, 0], still[:, 0]) > VISIBLE


@pytest.mark.parametrize("task", TASKS)
def test_absolute_positions_feel_the_move(task):
    model = make(task, "sincos")
    views = frames(model)
    moved = predict(task, model, views, APART, shift=torch.tensor([7, 40]))
    assert distance(moved, predict(task, model, views, APART)) > VISIBLE


@each
def test_order_of_windows_does_not_matter(task, variant):
    model = make(task, variant)
    views = frames(model)
    straight = predict(task, model, views, APART, second_where=APART)
    turned = predict(task, model, views, APART.flip(1), second_where=APART)
    assert distance(turned.flip(1), straight) < TOLERANCE
    if task in BINOCULAR:
        turned = predict(task, model, views, APART, second_where=APART.flip(1))
        assert distance(turned, straight) < TOLERANCE


@pytest.mark.parametrize(("task", "variant"), RELATIVE)
def test_one_window_alone_is_the_crop_as_its_own_image(task, variant):
    model = make(task, variant)
    views, p = frames(model), model.config.patch_size
    where = torch.tensor(
        [[[2, 3]], [[2, 3]]]
    )  # odd: the chess board of hidden patches differs from the one at the origin
    inputs = arguments(task, model, views, where)
    crops = [crop(v, where, (2, 2), p)[:, 0] for v in views]
    plain = arguments(task, model, crops)
    if "bool_masked_pos" in inputs:
        plain["bool_masked_pos"] = inputs["bool_masked_pos"]
    with torch.no_grad():
        window, image = (next(v for k, v in model(**i).items() if k != "loss") for i in (inputs, plain))
    assert distance(window.reshape(image.shape), image) < TOLERANCE


@each
def test_sdpa_is_eager(task, variant):
    model = make(task, variant)
    views = frames(model)
    model.set_attn_implementation("sdpa")
    sdpa = predict(task, model, views, APART)
    model.set_attn_implementation("eager")
    assert distance(predict(task, model, views, APART), sdpa) < TOLERANCE


@each
def test_a_batch_is_one_by_one(task, variant):
    model = make(task, variant)
    views = frames(model)
    together = predict(task, model, views, APART)
    single = [predict(task, model, [v[i : i + 1] for v in views], APART[i : i + 1]) for i in range(2)]
    assert distance(torch.cat(single), together) < TOLERANCE


@pytest.mark.parametrize("variant", [v for t, v in CASES if t == "optical-flow"])
def test_second_view_with_other_windows(variant):
    """Three windows of 2x4 patches against two of 2x2; the second view's place and pixels both reach the prediction."""
    model = make("optical-flow", variant)
    views = frames(model)
    second = torch.tensor([[0, 2], [2, 0], [2, 2]]).expand(2, 3, 2)
    flow = predict("optical-flow", model, views, APART, second_where=second, second_size=(2, 4))
    assert flow.shape[:2] == (2, 2)
    elsewhere = predict("optical-flow", model, views, APART, second_where=second.flip(1), second_size=(2, 4))
    assert distance(elsewhere, flow) < TOLERANCE
    other = predict(
        "optical-flow", model, (views[0], views[1].flip(-1)), APART, second_where=second, second_size=(2, 4)
    )
    assert distance(other, flow) > VISIBLE


@each
def test_windows_see_each_other(task, variant):
    """What the second window shows changes the first one's prediction: two windows are more than two crops."""
    model = make(task, variant)
    first, second = frames(model)
    p = model.config.patch_size
    changed = first.clone()
    noise = torch.randn(changed[:, :, 2 * p :].shape, generator=torch.Generator().manual_seed(3))
    changed[:, :, 2 * p :] += noise.to(model.device)
    where = torch.tensor([[0, 0], [2, 3]]).expand(2, 2, 2)
    before, after = (predict(task, model, (f, second), where) for f in (first, changed))
    assert distance(after[:, 0], before[:, 0]) > VISIBLE
