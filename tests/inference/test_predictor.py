"""`Predictor`: loading by name, task and file; what a prediction holds; what it leaves alone."""

from __future__ import annotations

import copy
import os
import random
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from huggingface_hub.utils import are_progress_bars_disabled
from PIL import Image
from support.model_cases import TASKS, make, small_device
from transformers import pipeline
from transformers.utils import logging

from winwin_hf import WinWinImageProcessor
from winwin_hf.data import formats
from winwin_hf.inference.flow import consistency
from winwin_hf.inference.predictor import Method, Prediction, Predictor
from winwin_hf.inference.variational import Refined
from winwin_hf.model import half_products_winwin


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    """Small random checkpoints by task."""
    found = {}
    for task in ("optical-flow", "semantic-segmentation", "depth-estimation", "pre-training"):
        folder = tmp_path_factory.mktemp(task)
        model = make(task, "matching" if task == "optical-flow" else "linear")
        model.save_pretrained(folder)
        WinWinImageProcessor(patch_size=model.config.patch_size).save_pretrained(folder)
        found[task] = str(folder)
    return found


def image(seed: int = 0, height: int = 37, width: int = 50) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def test_flow_has_confidence(folders):
    predictor = Predictor.load(folders["optical-flow"], device="cpu")
    found = predictor(image(0), image(1))
    assert (predictor.task, predictor.labels) == ("optical-flow", None)
    assert found.values.shape == (2, 37, 50) and found.values.dtype == np.float32 and found.values.flags.c_contiguous
    np.testing.assert_allclose(found.confidence, 1 / (1 + np.exp(found.log_scale)), atol=1e-6)
    assert found.log_scale.shape == (37, 50) and found.log_scale.std() > 0
    assert found.seconds > 0 and found.passes == 1 and found.device == "cpu"


def test_flow_is_what_model_and_processor_give(folders):
    predictor = Predictor.load(folders["optical-flow"], device="cpu")
    inputs = predictor.processor(images=image(0), second_images=image(1), return_tensors="pt")
    with torch.no_grad():
        outputs = predictor.model(**inputs)
    expected = predictor.processor.post_process_optical_flow(outputs, target_sizes=[(37, 50)])[0]
    np.testing.assert_array_equal(predictor(image(0), image(1)).values, expected["flow"].numpy())


@pytest.mark.parametrize("options", [{}, {"coarse": True}, {"tile": (48, 64)}], ids=str)
def test_what_is_in_pixels_is_in_those_of_the_given_frames(folders, options):
    """Frames that the processor enlarges give what the same frames, enlarged before, give: scaled back, exactly."""
    frames = [np.asarray(Image.fromarray(image(seed)).resize((30, 20), 2).resize((50, 37), 2)) for seed in (0, 1)]
    larger = [np.asarray(Image.fromarray(frame).resize((100, 74), Image.Resampling.BILINEAR)) for frame in frames]
    enlarging = Predictor.load(folders["optical-flow"], device="cpu", min_pixels=4 * 37 * 50, **options)
    plain = Predictor.load(folders["optical-flow"], device="cpu", min_pixels=0, **options)
    found, outside = enlarging(*frames), plain(*larger)

    def smaller(values: np.ndarray) -> torch.Tensor:
        values = torch.from_numpy(values).reshape(1, -1, 74, 100)
        return torch.nn.functional.interpolate(values, size=(37, 50), mode="bilinear")[0].squeeze(0)

    assert found.passes == outside.passes and outside.log_scale.std() > 0
    np.testing.assert_allclose(found.values, smaller(outside.values) / 2, rtol=1e-5, atol=1e-6)
    low, high = plain.error_bounds()
    assert plain.error_bounds((74, 100)) == (low, high) and enlarging.error_bounds((37, 50)) == (low / 2, high / 2)
    expected = (high - low) * torch.sigmoid(smaller(outside.log_scale)) + low
    np.testing.assert_allclose(found.expected_error, expected / 2, rtol=1e-5)
    assert found.expected_error.mean() == pytest.approx(outside.expected_error.mean() / 2, rel=0.02)
    np.testing.assert_allclose(found.confidence, (expected - high) / (low - high), rtol=1e-4, atol=1e-6)  # of no unit


def test_occlusion_is_judged_in_pixels_of_the_given_frames(folders):
    frames = [image(seed) for seed in (0, 1, 2)]
    enlarging = Predictor.load(folders["optical-flow"], device="cpu", min_pixels=4 * 37 * 50)
    for index, pair in enumerate(enlarging.frames(frames, backward=True)):
        forward = enlarging(frames[index], frames[index + 1]).values
        backward = enlarging(frames[index + 1], frames[index]).values
        np.testing.assert_array_equal(pair.flow, forward)
        np.testing.assert_array_equal(pair.occluded, consistency(forward, backward))


def test_depth_and_classes(folders):
    depth = Predictor.load(folders["depth-estimation"], device="cpu")(image())
    assert depth.values.shape == (37, 50) and depth.values.dtype == np.float32 and (depth.values > 0).all()
    assert depth.confidence is None and depth.log_scale is None
    predictor = Predictor.load(folders["semantic-segmentation"], device="cpu")
    classes = predictor(image()).values
    assert classes.shape == (37, 50) and classes.dtype == np.uint8 and classes.max() < len(predictor.labels)


def test_ids_above_255_do_not_wrap(tmp_path):
    model = make("semantic-segmentation", num_labels=300, semantic_loss_ignore_index=-100)
    predictor = Predictor(model, WinWinImageProcessor(patch_size=8), "semantic-segmentation")
    with torch.no_grad():
        logits = model(**predictor.processor(images=image(), return_tensors="pt")).logits
    expected = logits[0, :, :37, :50].argmax(0).numpy()
    values = predictor(image()).values
    assert expected.max() > 255 and values.dtype == np.int32
    np.testing.assert_array_equal(values, expected)
    formats.write_labels(tmp_path / "ids.png", values)
    np.testing.assert_array_equal(formats.read_labels(tmp_path / "ids.png"), expected)


def test_paths_and_pil_images_are_read(folders, tmp_path):
    predictor = Predictor.load(folders["depth-estimation"], device="cpu")
    formats.save_image(tmp_path / "image.png", image())
    for given in (tmp_path / "image.png", str(tmp_path / "image.png"), Image.open(tmp_path / "image.png")):
        np.testing.assert_array_equal(predictor(given).values, predictor(image()).values)
    with pytest.raises(ValueError, match="got list"):
        predictor([image()])


def test_another_way_with_the_same_network(folders):
    predictor = Predictor.load(folders["optical-flow"], device="cpu", min_pixels=0)
    tiled, coarse = replace(predictor, tile=(16, 24)), replace(predictor, coarse=True)
    assert tiled.model is coarse.model is predictor.model
    plain, tiles, passes = (p(image(0), image(1)) for p in (predictor, tiled, coarse))
    assert plain.passes == 1 and tiles.passes > 4 and passes.passes == 2
    assert not np.array_equal(plain.values, tiles.values) and not np.array_equal(plain.values, passes.values)


def test_frames_are_the_pairs(folders):
    predictor = Predictor.load(folders["optical-flow"], device="cpu")
    frames = [image(seed) for seed in range(3)]
    pairs = list(predictor.frames(frames))
    for pair, first, second in zip(pairs, frames, frames[1:], strict=False):
        np.testing.assert_array_equal(pair.flow, predictor(first, second).values)
    with pytest.raises(ValueError, match="without tiles"):
        replace(predictor, tile=(16, 24)).frames(frames)


def test_min_pixels(folders):
    assert Predictor.load(folders["depth-estimation"], min_pixels=4000).processor.min_pixels == 4000


def test_quality_is_one_knob_that_options_override(folders, tmp_path, monkeypatch):
    shutil.copytree(folders["optical-flow"], tmp_path / "flow")
    WinWinImageProcessor(patch_size=8, min_pixels=4000).save_pretrained(tmp_path / "flow")
    found = {}
    for quality, options in (
        (None, {}),
        ("fast", {}),
        ("best", {}),
        ("fast", {"coarse": True, "min_pixels": 3000}),
        ("best", {"coarse": False}),
        ("best", {"tile": (16, 24)}),
    ):
        predictor = Predictor.load(tmp_path / "flow", device="cpu", quality=quality, **options)
        found[(quality, *options)] = predictor.processor.input_sizes((40, 40))[0][0], predictor.coarse
    assert found == {
        (None,): (63, False),
        ("fast",): (40, False),
        ("best",): (63, True),
        ("fast", "coarse", "min_pixels"): (55, True),
        ("best", "coarse"): (63, False),
        ("best", "tile"): (63, False),
    }
    one = Predictor.load(tmp_path / "flow", device="cpu", quality="fast")
    assert one.with_quality("best").processor.input_sizes((40, 40))[0] == (63, 63) and one.with_quality("best").coarse
    assert one.with_quality("best").model is one.model and one.processor.input_sizes((40, 40))[0] == (40, 40)
    for faster in (True, False):  # whether this CPU multiplies faster in bf16
        monkeypatch.setattr(half_products_winwin, "bf16_pays", lambda faster=faster: faster)
        contexts = [Predictor.load(tmp_path / "flow", device="cpu", quality=q).autocast() for q in ("fast", "best")]
        assert [isinstance(context, torch.autocast) for context in contexts] == [faster, False]
    monkeypatch.undo()
    best = Predictor.load(tmp_path / "flow", device="cpu", quality="best")(image(0), image(1))
    piped = pipeline("optical-flow", model=str(tmp_path / "flow"), device="cpu")
    assert best.passes > 1
    torch.testing.assert_close(piped(image(0), image(1), quality="best")["flow"], torch.from_numpy(best.values))
    fast = Predictor.load(tmp_path / "flow", device="cpu", quality="fast")(image(0), image(1))
    torch.testing.assert_close(piped(image(0), image(1), quality="fast")["flow"], torch.from_numpy(fast.values))
    with pytest.raises(ValueError, match="quality 'good': expected fast or best"):
        Predictor.load(tmp_path / "flow", quality="good")
    with pytest.raises(ValueError, match="quality 'good': expected fast or best"):
        piped(image(0), image(1), quality="good")
    with pytest.raises(ValueError, match="quality 'fast' is for networks of flow"):
        Predictor.load(folders["depth-estimation"], quality="fast")


def test_a_working_size_is_obeyed_unless_another_is_asked_for(folders, tmp_path):
    shutil.copytree(folders["depth-estimation"], tmp_path / "depth")
    WinWinImageProcessor(patch_size=8, do_resize=True, size={"longest_edge": 24}).save_pretrained(tmp_path / "depth")
    seen = []
    for options in ({}, {"min_pixels": 0}, {"min_pixels": 4 * 37 * 50}, {"tile": (16, 24)}):
        predictor = Predictor.load(tmp_path / "depth", device="cpu", **options)
        hook = predictor.model.winwin.register_forward_pre_hook(
            lambda _, args, kwargs: seen.append(tuple((*args, *kwargs.values())[0].shape[-2:])), with_kwargs=True
        )
        prediction = predictor(image())
        hook.remove()
        assert prediction.values.shape == (37, 50)
    assert seen[:3] == [(24, 24), (40, 56), (80, 104)] and set(seen[3:]) == {(16, 24)} and len(seen) > 8


@pytest.mark.parametrize(
    ("task", "wanted", "message"),
    [
        ("depth-estimation", "optical-flow", "is a checkpoint for depth estimation; expected one for optical flow$"),
        ("pre-training", None, "for pre-training; expected one for optical flow or semantic segmentation or depth"),
    ],
)
def test_a_wrong_task_is_named(folders, task, wanted, message):
    with pytest.raises(ValueError, match=message):
        Predictor.load(folders[task], wanted)


def test_what_else_is_wrong_is_named(folders, tmp_path):
    with pytest.raises(OSError, match="winwin-seg; did you mean winwin-flow"):
        Predictor.load("winwin-flo")
    with pytest.raises(OSError, match=r"'nobody-has-this' \(bundled: .*winwin-flow"):
        Predictor.load("nobody-has-this")
    with pytest.raises(ValueError, match=r"device .abacus.: expected auto, cpu"):
        Predictor.load(folders["depth-estimation"], device="abacus")
    with pytest.raises(ValueError, match="on whole frames"):
        Predictor.load(folders["depth-estimation"], coarse=True)
    with pytest.raises(ValueError, match="on whole frames"):
        Predictor.load(folders["optical-flow"], coarse=True, tile=(16, 16))
    with pytest.raises(ValueError, match="needs two frames"):
        Predictor.load(folders["optical-flow"])(image())
    with pytest.raises(ValueError, match="needs a single image"):
        Predictor.load(folders["depth-estimation"])(image(), image())
    with pytest.raises(FileNotFoundError, match=r"missing\.onnx"):
        Predictor.load(tmp_path / "missing.onnx")
    with pytest.raises(FileNotFoundError, match=r"missing\.png"):
        Predictor.load(folders["depth-estimation"])(tmp_path / "missing.png")


def test_half_precision_by_autocast(folders):
    predictor = Predictor.load(folders["depth-estimation"], device="cpu")
    half = replace(predictor, autocast=lambda: torch.autocast("cpu", torch.bfloat16))
    full, rounded = predictor(image()).values, half(image()).values
    assert rounded.dtype == np.float32 and not np.array_equal(full, rounded)
    np.testing.assert_allclose(rounded, full, rtol=0.1)


def test_any_method_has_this_face():
    class Still(Method):
        name, task = "still", "optical-flow"

        def predict(self, image, second):
            return Prediction(np.zeros((2, *image.shape[:2]), np.float32))

    for method in (Still(), Refined(Still())):
        found = method(image(0), image(1))
        assert found.values.shape == (2, 37, 50) and found.seconds > 0 and method.tile is None


def host_state() -> dict[str, object]:
    """What a library must leave as it finds it."""
    return {
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "random": (random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()),  # noqa: NPY002
        "filters": list(warnings.filters),
        "environment": dict(os.environ),
        "bars": (logging.is_progress_bar_enabled(), are_progress_bars_disabled(), logging.set_tqdm_hook(None)),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
        "type": torch.get_default_dtype(),
    }


@pytest.mark.parametrize("shown", [True, False])
def test_the_host_process_is_left_as_it_was(folders, shown, capfd):
    was_shown = logging.is_progress_bar_enabled()
    (logging.enable_progress_bar if shown else logging.disable_progress_bar)()
    try:
        before = host_state()
        predictor = Predictor.load(folders["optical-flow"], device="cpu")
        predictor(image(0), image(1))
        list(predictor.frames([image(0), image(1)]))
        with pytest.raises(OSError, match="no-such-name"):
            Predictor.load("no-such-name")
        assert host_state() == before
    finally:
        (logging.enable_progress_bar if was_shown else logging.disable_progress_bar)()
    assert "it/s" not in capfd.readouterr().err  # no bar for loading weights


# ------------------------------------------------------------------ memory


@pytest.mark.parametrize("task", ["optical-flow", "semantic-segmentation"])
def test_a_picture_that_does_not_fit_names_the_size_that_does(folders, task, monkeypatch):
    predictor = Predictor.load(folders[task], device="cpu")
    frames = [image(seed, 90, 120) for seed in range(2 if task == "optical-flow" else 1)]
    small_device(monkeypatch, TASKS[task], 64 * 96)  # it sees 96 x 120 pixels
    with pytest.raises(torch.OutOfMemoryError) as found:
        predictor(*frames)
    assert str(found.value).startswith(
        "96 x 120 pixels (height x width) take more memory than cpu has; 64 x 80 would fit: "
    )
    if task == "optical-flow":
        assert "tiles (--tile 64x80)" in str(found.value)
    assert np.isfinite(replace(predictor, tile=(64, 80))(*frames).values).all()


def test_a_tile_and_an_enlarged_picture_that_do_not_fit(folders, monkeypatch):
    predictor = Predictor.load(folders["optical-flow"], device="cpu", min_pixels=96 * 128)
    small_device(monkeypatch, TASKS["optical-flow"], 64)
    with pytest.raises(torch.OutOfMemoryError, match=r"the picture as it is, 24 x 32 \(min_pixels=0, --min-pixels 0\)"):
        predictor(image(0, 24, 32), image(1, 24, 32))
    with pytest.raises(
        torch.OutOfMemoryError, match=r"^16 x 24 pixels .* has; 8 x 8 would fit: expected tiles \(--tile 8x8\)"
    ):
        replace(predictor, tile=(16, 24))(image(0, 24, 32), image(1, 24, 32))
    small_device(monkeypatch, TASKS["optical-flow"], 1)
    with pytest.raises(
        torch.OutOfMemoryError, match=r"cpu has: expected tiles \(--tile\), the picture as it is, 37 x 50 "
    ):
        replace(predictor, coarse=True)(image(0), image(1))


def test_frames_of_a_video_that_do_not_fit(folders, monkeypatch):
    predictor = Predictor.load(folders["optical-flow"], device="cpu", min_pixels=0)
    assert len(list(predictor.frames(image(seed) for seed in range(3)))) == 2

    encode = type(predictor.model).encode

    def limited(self, pixel_values, *args, **kwargs):
        if pixel_values.numel() > 3 * 24 * 32:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(self, pixel_values, *args, **kwargs)

    monkeypatch.setattr(type(predictor.model), "encode", limited)
    says = r"^40 x 56 pixels \(height x width\) take more memory than cpu has; 24 x 32 would fit: expected a smaller picture$"
    with pytest.raises(torch.OutOfMemoryError, match=says):
        next(predictor.frames(image(seed) for seed in range(3)))


@pytest.mark.parametrize("task", ["optical-flow", "semantic-segmentation", "depth-estimation"])
def test_a_prediction_that_is_not_finite_is_an_error(folders, task):
    """Weights may be finite and too large for each other; flow of NaN was written, and the command ended well."""
    predictor = Predictor.load(folders[task], device="cpu")
    model = copy.deepcopy(predictor.model)
    for name, weight in model.named_parameters():
        if task != "optical-flow" or "head" in name:
            weight.data *= 1e30
    broken = replace(predictor, model=model, name="huge")
    frames = [image(seed) for seed in range(2)]
    with pytest.raises(FloatingPointError, match=r"huge: its .* holds NaN or infinite values"):
        broken(*frames[: 1 + (task == "optical-flow")])
    if task == "optical-flow":
        with pytest.raises(FloatingPointError, match="huge: frame 0: its flow holds NaN"):
            list(broken.frames(frames))
