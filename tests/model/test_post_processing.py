"""The image processor's way back: predictions at the original size."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.model_cases import SMALL

from winwin_hf import WinWinConfig, WinWinForSemanticSegmentation
from winwin_hf.inference.predictor import Predictor
from winwin_hf.model import image_processing_winwin, smoothing_winwin
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor


def picture(height: int = 37, width: int = 53, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def processor() -> WinWinImageProcessor:
    return WinWinImageProcessor()


@pytest.mark.parametrize("size", [(1, 1), (37, 53), (48, 64), (33, 64)])
def test_padding_is_cropped_off(processor, size):
    values = processor(images=picture(*size), return_tensors="pt").pixel_values
    outputs = SimpleNamespace(flow=values[:, :2], log_scale=values[:, 0], predicted_depth=values[:, 1], logits=values)
    unpadded = processor(images=picture(*size), do_pad=False, return_tensors="pt").pixel_values[0]
    flow = processor.post_process_optical_flow(outputs, target_sizes=[size])[0]
    assert torch.equal(flow["flow"], unpadded[:2]) and torch.equal(flow["log_scale"], unpadded[0])
    depth = processor.post_process_depth_estimation(outputs, target_sizes=torch.tensor([size]))[0]["predicted_depth"]
    assert torch.equal(depth, unpadded[1])
    labels = processor.post_process_semantic_segmentation(outputs, target_sizes=[size])[0]
    assert torch.equal(labels, unpadded.argmax(0)) and labels.dtype == torch.int64


def test_without_target_sizes_predictions_stay(processor):
    flow = torch.randn(2, 2, 48, 64)
    results = processor.post_process_optical_flow({"flow": flow})
    assert torch.equal(torch.stack([result["flow"] for result in results]), flow)
    assert set(results[0]) == {"flow"}


def test_confidence_is_one_where_the_scale_is_least(processor):
    c = torch.tensor([-50.0, 0.0, 50.0]).view(1, 1, 3)
    result = processor.post_process_optical_flow({"flow": torch.zeros(1, 2, 1, 3), "log_scale": c})[0]
    torch.testing.assert_close(result["confidence"], torch.tensor([[1.0, 0.5, 0.0]]))
    scale = 3.75 * torch.sigmoid(c[0]) + 0.25
    torch.testing.assert_close(result["confidence"], 1 - (scale - 0.25) / 3.75)


def test_resized_flow_is_in_pixels_of_the_original(processor):
    # 37 x 53 is resized to 74 x 159, so the model sees motions 2 and 3 times as long.
    processor = WinWinImageProcessor(do_resize=True, size={"height": 74, "width": 159})
    flow = torch.empty(1, 2, 80, 160)
    flow[:, 0], flow[:, 1] = 30.0, 10.0
    flow[..., 74:, :], flow[..., 159:] = 1e6, 1e6  # the padding must not leak in
    result = processor.post_process_optical_flow({"flow": flow}, target_sizes=[(37, 53)])[0]["flow"]
    assert result.shape == (2, 37, 53)
    torch.testing.assert_close(result[0], torch.full((37, 53), 10.0))
    torch.testing.assert_close(result[1], torch.full((37, 53), 5.0))


@pytest.mark.parametrize(("resized", "ratio"), [((74, 106), 1 / 2), ((74, 159), (1 / 2 + 1 / 3) / 2), ((37, 53), 1)])
def test_the_expected_error_is_in_pixels_of_the_original(resized, ratio):
    processor = WinWinImageProcessor(do_resize=True, size=dict(zip(("height", "width"), resized, strict=True)))
    padded = processor.input_sizes((37, 53))[1]
    c = torch.full((1, *padded), 0.7)
    outputs = {"flow": torch.zeros(1, 2, *padded), "log_scale": c}
    for bounds in ((0.25, 4.0), (0.5, 10.0)):
        result = processor.post_process_optical_flow(outputs, target_sizes=[(37, 53)], scale_bounds=bounds)[0]
        expected = (bounds[0] + (bounds[1] - bounds[0]) / (1 + np.exp(-0.7))) * ratio
        torch.testing.assert_close(result["expected_error"], torch.full((37, 53), expected))
        torch.testing.assert_close(result["confidence"], torch.sigmoid(-c[0, :37, :53]))  # a share, of no unit
    unscaled = processor.post_process_optical_flow(outputs)[0]["expected_error"]
    assert unscaled.shape == padded and unscaled[0, 0] == pytest.approx(expected / ratio * 4 / 10, rel=0.1)


def test_input_sizes(processor):
    assert processor.input_sizes((37, 53)) == ((37, 53), (48, 64))
    assert processor.input_sizes((37, 53), min_pixels=10**6, patch_size=8) == ((74, 106), (80, 112))
    assert processor.input_sizes((37, 53), min_pixels=10**6, patch_size=8, quality="fast") == ((37, 53), (40, 56))
    working = {"do_resize": True, "size": {"longest_edge": 106}}  # metres and classes depend on it
    assert processor.input_sizes((37, 53), quality="fast", **working) == ((74, 106), (80, 112))
    with pytest.raises(ValueError, match=r"image_mean=\(0, 0\): expected one number, or three"):
        WinWinImageProcessor(image_mean=[0, 0])
    for factor in (0, -1):  # all pictures black, or as negatives
        with pytest.raises(ValueError, match=rf"rescale_factor={factor}: expected numbers from 1e-09"):
            WinWinImageProcessor(rescale_factor=factor)(images=picture())
    for flag in ("", "false", 0):
        with pytest.raises(ValueError, match=r"do_normalize=.*: expected true or false"):
            WinWinImageProcessor(do_normalize=flag)(images=picture())
    assert processor.input_sizes((37, 53), do_resize=True, size=74, do_pad=False) == ((74, 106), (74, 106))
    with pytest.raises(TypeError, match="sise"):
        processor.input_sizes((37, 53), sise=74)


def test_options_of_the_call_are_given_again(processor):
    values = processor(images=picture(), do_resize=True, size=74, return_tensors="pt").pixel_values
    depth = {"predicted_depth": torch.ones_like(values[:, 0])}
    with pytest.raises(ValueError, match=r"48 x 64.*80 x 112"):
        processor.post_process_depth_estimation(depth, target_sizes=[(37, 53)])
    result = processor.post_process_depth_estimation(depth, target_sizes=[(37, 53)], do_resize=True, size=74)
    assert result[0]["predicted_depth"].shape == (37, 53)
    with pytest.raises(TypeError, match="sise"):
        processor.post_process_depth_estimation(depth, target_sizes=[(37, 53)], sise=74)


def test_half_precision_predictions_become_float32(processor):
    outputs = {"flow": torch.ones(1, 2, 48, 64, dtype=torch.bfloat16)}
    assert processor.post_process_optical_flow(outputs, target_sizes=[(37, 53)])[0]["flow"].dtype == torch.float32


@pytest.mark.parametrize("kind", ["tuples", "lists", "tensor", "array", "torch.Size", "numpy numbers", "one for all"])
def test_target_sizes_of_every_kind(processor, kind):
    sizes = {
        "tuples": [(37, 53)] * 2,
        "lists": [[37, 53]] * 2,
        "tensor": torch.tensor([[37, 53]] * 2),
        "array": np.array([[37, 53]] * 2),
        "torch.Size": (torch.Size([37, 53]),) * 2,
        "numpy numbers": [(np.int64(37), np.int32(53))] * 2,
        "one for all": (37, 53),
    }[kind]
    maps = torch.randn(2, 5, 48, 64)
    found = [
        *processor.post_process_semantic_segmentation({"logits": maps}, target_sizes=sizes),
        *(item["flow"][0] for item in processor.post_process_optical_flow({"flow": maps[:, :2]}, target_sizes=sizes)),
        *(
            item["predicted_depth"]
            for item in processor.post_process_depth_estimation({"predicted_depth": maps[:, 0]}, target_sizes=sizes)
        ),
    ]
    assert {tuple(item.shape) for item in found} == {(37, 53)} and len(found) == 6


@pytest.mark.parametrize(
    "sizes",
    [
        [(37, 53, 3)] * 2,
        [37.5, 53.0],
        [(37.5, 53)] * 2,
        [37],
        37,
        [None, None],
        "37x53",
        [[]],
        [(0, 53)] * 2,
        (-37, 53),
    ],
)
def test_target_sizes_that_are_none(processor, sizes):
    for name, maps in (
        ("semantic_segmentation", "logits"),
        ("optical_flow", "flow"),
        ("depth_estimation", "predicted_depth"),
    ):
        shape = (2, 48, 64) if maps == "predicted_depth" else (2, 2, 48, 64)
        with pytest.raises(ValueError, match=r"target_sizes must be one \(height, width\)"):
            getattr(processor, f"post_process_{name}")({maps: torch.zeros(shape)}, target_sizes=sizes)


def test_segmentation_scores(processor):
    logits = torch.randn(1, 5, 48, 64)
    found = processor.post_process_semantic_segmentation(
        {"logits": logits}, [(37, 53)], return_segmentation_scores=True
    )
    assert torch.equal(found[0].segmentation_scores, logits[0, :, :37, :53])
    assert torch.equal(found[0].segmentation, logits[0, :, :37, :53].argmax(0))


def test_post_processing_refuses_what_does_not_belong(processor):
    flow = torch.zeros(1, 2, 48, 64)
    with pytest.raises(ValueError, match=r"37 x 80.*48 x 80.*48 x 64"):
        processor.post_process_optical_flow({"flow": flow}, target_sizes=[(37, 80)])
    with pytest.raises(ValueError, match=r"2 target_sizes for a batch of 1"):
        processor.post_process_optical_flow({"flow": flow}, target_sizes=[(37, 53)] * 2)
    with pytest.raises(ValueError, match="no `flow`"):
        processor.post_process_optical_flow({"logits": flow})
    with pytest.raises(ValueError, match="windows"):
        processor.post_process_optical_flow({"flow": flow[None]}, target_sizes=[(37, 53)])


def test_class_ids_of_many_classes_are_found_without_holding_all_scores(monkeypatch):
    """A few classes at a time, with the ids of all at once: also where scores are equal, infinite or NaN."""
    processor, (height, width) = WinWinImageProcessor(patch_size=8, do_resize=True, size=32), (100, 150)
    resized, padded = processor.input_sizes((height, width))
    logits = torch.randn(1, 23, *padded, generator=torch.Generator().manual_seed(0))
    logits[:, 5], logits[:, 9, :9], logits[0, 7, 20:, 20:], logits[0, 11, :, 30:] = (
        logits[:, 3],
        torch.inf,
        8,
        torch.nan,
    )
    expected = torch.nn.functional.interpolate(
        logits[:, :, : resized[0], : resized[1]], (height, width), mode="bilinear"
    ).argmax(1)[0]
    held, interpolate = [], torch.nn.functional.interpolate

    def noting(maps, *more, **options):
        held.append(maps.shape[1])
        return interpolate(maps, *more, **options)

    monkeypatch.setattr(torch.nn.functional, "interpolate", noting)
    for at_once, parts in ((10**9, [23]), (4 * height * width, [4, 4, 4, 4, 4, 3]), (1, [1] * 23)):
        held.clear()
        monkeypatch.setattr(image_processing_winwin, "MAX_SCORES", at_once)
        found = processor.post_process_semantic_segmentation({"logits": logits}, [(height, width)])[0]
        assert torch.equal(found, expected) and found.dtype == torch.int64 and held == parts


def test_scores_of_too_many_classes_are_refused_before_the_network(monkeypatch):
    config = WinWinConfig(**{**SMALL, "num_labels": 300})
    network = Predictor(
        WinWinForSemanticSegmentation(config).eval(), WinWinImageProcessor(patch_size=8), "semantic-segmentation"
    )
    picture = np.zeros((20, 30, 3), np.uint8)
    monkeypatch.setenv("WINWIN_MAX_PIXELS", str(24 * 32 * 300 // 64))
    assert network(picture).values.dtype == np.int32
    monkeypatch.setenv("WINWIN_MAX_PIXELS", str(24 * 32 * 300 // 64 - 1))
    monkeypatch.setattr(WinWinForSemanticSegmentation, "forward", None)
    with pytest.raises(
        ValueError, match=r"24 x 32 pixels .* with 300 classes have 230,400 scores, more than the limit of 230,336"
    ):
        network(picture)


def by_hand(values: np.ndarray, size: int) -> np.ndarray:
    """The median of the size x size numbers around each of (H, W), where the edge goes on."""
    padded = np.pad(values, size // 2, mode="edge")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, (size, size)), axis=(-2, -1))


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (37, 53)])
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("with_opencv", [True, False])
def test_the_flow_gets_a_median_before_its_size(monkeypatch, size, shape, with_opencv):
    if not with_opencv:
        monkeypatch.setattr(smoothing_winwin, "cv2", None)
    flow = torch.randn(1, 2, 48, 64) * 20
    processor = WinWinImageProcessor(median_size=size)
    padded = processor.input_sizes(shape)[1]
    flow = flow[..., : padded[0], : padded[1]]
    filtered = processor.post_process_optical_flow({"flow": flow}, target_sizes=[shape])[0]["flow"]
    inside = flow[0, :, : shape[0], : shape[1]].numpy()  # the padding must not leak in
    np.testing.assert_array_equal(filtered.numpy(), [by_hand(values, size) for values in inside])


def test_the_median_comes_before_the_resize():
    processor = WinWinImageProcessor(do_resize=True, size={"height": 74, "width": 106}, median_size=5)
    flow = torch.randn(1, 2, 80, 112)
    filtered = np.stack([by_hand(values[:74, :106], 5) for values in flow[0].numpy()])
    found = processor.post_process_optical_flow({"flow": flow}, target_sizes=[(37, 53)])[0]["flow"]
    plain = WinWinImageProcessor(do_resize=True, size={"height": 74, "width": 106}, do_pad=False)
    expected = plain.post_process_optical_flow({"flow": torch.tensor(filtered)[None]}, target_sizes=[(37, 53)])[0]
    assert torch.equal(found, expected["flow"])


def test_the_median_of_a_call_and_what_it_leaves_alone(tmp_path):
    flow, c = torch.randn(1, 2, 32, 48), torch.randn(1, 32, 48)
    processor = WinWinImageProcessor(median_size=5)
    flow.requires_grad_()  # as without torch.no_grad()
    plain = processor.post_process_optical_flow({"flow": flow, "log_scale": c}, median_size=0)[0]
    assert torch.equal(plain["flow"], flow[0])
    processor.save_pretrained(tmp_path)
    again = WinWinImageProcessor.from_pretrained(tmp_path)
    found = again.post_process_optical_flow({"flow": flow, "log_scale": c}, target_sizes=[(32, 48)])[0]
    assert not torch.equal(found["flow"], flow[0])
    with pytest.raises(TypeError, match=r"unexpected options \['median'\]"):
        again.post_process_optical_flow({"flow": flow}, median=3)
    assert torch.equal(found["log_scale"], c[0])
    depth = processor.post_process_depth_estimation({"predicted_depth": c}, target_sizes=[(32, 48)])[0]
    assert torch.equal(depth["predicted_depth"], c[0])


def test_where_the_network_is_unsure_a_cloud_of_wrong_pixels_goes():
    """Three of five pixels are wrong over 24 x 24 pixels, which one median of 5 x 5 only thins."""
    flow = torch.full((1, 2, 64, 96), 3.0)
    wrong = torch.zeros(64, 96, dtype=torch.bool)
    generator = torch.Generator().manual_seed(0)
    wrong[20:44, 30:54] = torch.rand(24, 24, generator=generator) < 0.6
    flow[:, 0, wrong] += torch.randn(int(wrong.sum()), generator=generator) * 20
    c = torch.full((1, 64, 96), -3.0)
    processor = WinWinImageProcessor(median_size=5)
    sure, unsure = (
        processor.post_process_optical_flow({"flow": flow, "log_scale": scale})[0]["flow"][0]
        for scale in (c, torch.where(wrong, 3.0, c))
    )
    assert torch.equal(sure, processor.post_process_optical_flow({"flow": flow})[0]["flow"][0])
    assert (unsure - 3).abs().max() < 0.5 * (sure - 3).abs().max()
    far = torch.ones_like(wrong)
    far[:64, 10:74] = False
    assert torch.equal(unsure[far], sure[far])


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (16, 17)])
def test_an_unsure_flow_of_any_size_keeps_its_size_and_its_mean(shape):
    flow, c = torch.full((2, *shape), 7.0), torch.full(shape, 5.0)
    assert torch.allclose(smoothing_winwin.smoothed(flow, c, 5), flow)


@pytest.mark.parametrize("shape", [(64, 96), (65, 97), (66, 99), (67, 101)])
def test_wide_medians_move_nothing(shape):
    """A flow that grows evenly stays, but near the borders."""
    rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in shape), indexing="ij")
    flow = torch.stack([0.2 * columns, 0.3 * rows - 0.1 * columns])
    found = smoothing_winwin.smoothed(flow, torch.full(shape, 5.0), 5)
    inner = (slice(None), slice(16, -16), slice(16, -16))
    torch.testing.assert_close(found[inner], flow[inner], atol=1e-4, rtol=0)


def test_a_median_hides_no_number_that_is_none():
    flow = torch.zeros(1, 2, 16, 16)
    flow[0, 0, 3, 4], flow[0, 1, 5, 6] = torch.nan, torch.inf
    for c in (None, torch.ones(1, 16, 16)):
        outputs = {"flow": flow} if c is None else {"flow": flow, "log_scale": c}
        found = WinWinImageProcessor(median_size=5).post_process_optical_flow(outputs)[0]["flow"]
        assert found[0, 3, 4].isnan() and found[1, 5, 6].isinf()
        assert found.isfinite().sum() == 2 * 16 * 16 - 2


@pytest.mark.parametrize("size", [1, 4, 7, 5.0, "5", True, -3, np.int64(4)])
def test_other_medians_are_refused(size):
    with pytest.raises(ValueError, match=r"median_size=.*expected 0 \(no filter\), 3 or 5"):
        WinWinImageProcessor(median_size=size)
    with pytest.raises(ValueError, match="median_size"):
        WinWinImageProcessor().post_process_optical_flow({"flow": torch.zeros(1, 2, 16, 16)}, median_size=size)
