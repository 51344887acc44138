"""pipeline("optical-flow"), and the stock pipelines for depth and segmentation, on tiny random models."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from support.model_cases import small_device
from transformers import AutoModel, ViTConfig, ViTImageProcessor, ViTModel, pipeline
from transformers.pipelines import PIPELINE_REGISTRY

import winwin_hf
from winwin_hf.model.flow_colours_winwin import flow_to_image
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.model.pipeline_winwin import OpticalFlowPipeline, register_pipeline

REGISTERED_BY_THE_PACKAGE = "optical-flow" in PIPELINE_REGISTRY.supported_tasks  # before a test registers it


def tiny(kind: str) -> torch.nn.Module:
    torch.manual_seed(0)
    config = winwin_hf.WinWinConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        decoder_hidden_size=32,
        decoder_num_hidden_layers=2,
        decoder_num_attention_heads=2,
        head_hidden_size=16,
        head_num_layers=1,
        num_labels=5,
    )
    return getattr(winwin_hf, kind)(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A flow checkpoint as a person would have one: a folder with weights and image processor."""
    path = tmp_path_factory.mktemp("winwin-flow")
    tiny("WinWinForOpticalFlow").save_pretrained(path)
    WinWinImageProcessor().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def flow(folder) -> OpticalFlowPipeline:
    register_pipeline()
    return pipeline("optical-flow", model=str(folder))


def frames(height: int = 37, width: int = 53, count: int = 2) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(count)]


def test_a_pair_is_what_model_and_processor_say(flow):
    first, second = frames()
    result = flow(first, second)
    inputs = flow.image_processor(images=first, second_images=second, return_tensors="pt")
    with torch.no_grad():
        outputs = flow.model(**inputs)
    expected = flow.image_processor.post_process_optical_flow(outputs, target_sizes=[(37, 53)])[0]
    assert isinstance(flow, OpticalFlowPipeline) and set(result) == {
        "flow",
        "confidence",
        "expected_error",
        "visualization",
    }
    assert result["flow"].shape == (2, 37, 53) and result["flow"].dtype == torch.float32
    assert torch.equal(result["flow"], expected["flow"]) and torch.equal(result["confidence"], expected["confidence"])
    assert torch.equal(result["expected_error"], expected["expected_error"])
    assert np.array_equal(np.asarray(result["visualization"]), flow_to_image(expected["flow"]))
    scaled = flow(first, second, max_motion=100.0)["visualization"]
    assert np.array_equal(np.asarray(scaled), flow_to_image(expected["flow"], max_motion=100.0))


def test_every_way_to_hand_over_frames(flow, tmp_path):
    first, second = frames()
    expected = flow(first, second)["flow"]
    for name, frame in (("first.png", first), ("second.png", second)):
        frame.save(tmp_path / name)
    paths = tmp_path / "first.png", tmp_path / "second.png"
    arrays = np.asarray(first), np.asarray(second)
    tensors = tuple(torch.from_numpy(array.copy()).permute(2, 0, 1) / 255 for array in arrays)
    for pair in (paths, tuple(map(str, paths)), arrays, tensors):
        torch.testing.assert_close(flow(*pair)["flow"], expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(flow(pair)["flow"], expected, atol=1e-4, rtol=1e-4)
    assert torch.equal(flow([first, second])["flow"], expected)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_several_pairs_and_batches(flow, batch_size):
    a, b, c, d = frames(count=4)
    pairs = [(a, b), (c, d), (b, a)]
    singles = [flow(*pair)["flow"] for pair in pairs]
    firsts, seconds = zip(*pairs, strict=True)
    for results in (
        flow(pairs, batch_size=batch_size),
        flow(list(firsts), list(seconds), batch_size=batch_size),
        list(flow((pair for pair in pairs), batch_size=batch_size)),
    ):
        assert len(results) == 3
        for result, single in zip(results, singles, strict=True):
            torch.testing.assert_close(result["flow"], single, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8])
def test_pairs_of_several_sizes(flow, batch_size):
    pairs = [tuple(frames(*size)) for size in ((37, 53), (20, 90), (40, 60))]  # the first and the last are padded alike
    results = flow(pairs, batch_size=batch_size)
    assert [tuple(result["flow"].shape) for result in results] == [(2, 37, 53), (2, 20, 90), (2, 40, 60)]
    for pair, result in zip(pairs, results, strict=True):
        torch.testing.assert_close(result["flow"], flow(*pair)["flow"], atol=1e-4, rtol=1e-4)


def test_exif_turns_both_ways_of_giving_a_frame(flow, tmp_path):
    first, second = frames(20, 30)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, frame in (("1.png", first), ("2.png", second)):
        frame.save(tmp_path / name, exif=exif)
    by_path = flow(tmp_path / "1.png", tmp_path / "2.png")["flow"]
    with Image.open(tmp_path / "1.png") as one, Image.open(tmp_path / "2.png") as two:
        by_image = flow(one, two)["flow"]
    assert by_path.shape == (2, 30, 20) and torch.equal(by_path, by_image)


def test_resizing_for_one_call(flow):
    result = flow(*frames(64, 96), do_resize=True, size={"height": 32, "width": 48})
    assert result["flow"].shape == (2, 64, 96)


def test_errors(flow):
    first, second = frames()
    with pytest.raises(ValueError, match="two frames"):
        flow(first)
    with pytest.raises(ValueError, match="pair"):
        flow([first, second, first])
    with pytest.raises(ValueError, match="2 first frames but 1 second"):
        flow([first, second], [first])
    with pytest.raises(ValueError, match="two lists"):
        flow([first], second)
    with pytest.raises(ValueError, match="37 x 53"):
        flow(first, frames(40, 53)[0])
    with pytest.raises(TypeError, match="max_motoin"):
        flow(first, second, max_motoin=3)
    with pytest.raises(ValueError, match="WinWinForOpticalFlow"):
        OpticalFlowPipeline(model=tiny("WinWinForDepthEstimation"), image_processor=WinWinImageProcessor())


def test_half_precision(folder):
    half = pipeline("optical-flow", model=str(folder), dtype=torch.bfloat16)
    result = half(*frames())
    assert half.model.dtype == torch.bfloat16 and result["flow"].dtype == torch.float32
    assert result["flow"].isfinite().all()


def test_importing_the_package_registers_the_task():
    assert REGISTERED_BY_THE_PACKAGE
    assert PIPELINE_REGISTRY.check_task("optical-flow")[1]["impl"] is OpticalFlowPipeline
    register_pipeline()  # once more changes nothing


def test_code_travels_with_the_pipeline(folder, tmp_path):
    # Every file that the pipeline's file imports must be copied beside it: flat files only.
    from transformers.dynamic_module_utils import custom_object_save

    copied = {path.rsplit("/", 1)[-1] for path in map(str, custom_object_save(OpticalFlowPipeline, tmp_path) or [])}
    present = {path.name for path in tmp_path.iterdir()}
    assert {"pipeline_winwin.py", "flow_colours_winwin.py", "image_arrays_winwin.py"} <= copied | present


# ---- the stock pipelines ----


def test_depth_estimation():
    depth = pipeline("depth-estimation", model=tiny("WinWinForDepthEstimation"), image_processor=WinWinImageProcessor())
    result = depth(frames()[0])
    assert result["predicted_depth"].shape == (37, 53) and result["depth"].size == (53, 37)
    assert (result["predicted_depth"] > 0).all()


def test_image_segmentation():
    model = tiny("WinWinForSemanticSegmentation")
    segment = pipeline("image-segmentation", model=model, image_processor=WinWinImageProcessor())
    result = segment(frames()[0])
    masks = np.stack([np.asarray(part["mask"]) > 0 for part in result])
    assert masks.shape[1:] == (37, 53) and (masks.sum(axis=0) == 1).all()
    assert {part["label"] for part in result} <= set(model.config.id2label.values())


def test_optical_flow_without_a_model_takes_the_bundled_one():
    pipe = pipeline("optical-flow")
    assert pipe.model.config.matching_stride is not None and type(pipe.model).__name__ == "WinWinForOpticalFlow"
    assert pipe(*frames())["flow"].shape == (2, 37, 53)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A checkpoint of each task."""
    root = tmp_path_factory.mktemp("tasks")
    classes = {"flow": "OpticalFlow", "segmentation": "SemanticSegmentation", "depth": "DepthEstimation"}
    for kind, name in classes.items():
        tiny(f"WinWinFor{name}").save_pretrained(root / kind)
        WinWinImageProcessor().save_pretrained(root / kind)
    return root


@pytest.mark.parametrize("kind", ["flow", "segmentation", "depth"])
def test_features_are_the_encoders(folders, kind):
    """It gave the logits of the head, or a TypeError for flow; transformers' own models give the encoder's last tokens."""
    pipe = pipeline("image-feature-extraction", model=str(folders / kind))
    image = frames(32, 48)[0]
    features = np.array(pipe(image))
    model = AutoModel.from_pretrained(folders / kind)
    with torch.inference_mode():
        pixels = pipe.image_processor(images=image, return_tensors="pt")["pixel_values"]
        expected = model.winwin.eval()(pixels).last_hidden_state
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert type(AutoModel.from_pretrained(folders / kind)) is type(model)  # only that pipeline goes without the head


def test_features_of_other_models_are_as_before(tmp_path):
    options = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 16,
        "image_size": 32,
    }
    ViTModel(ViTConfig(**options)).save_pretrained(tmp_path)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    pipe = pipeline("image-feature-extraction", model=str(tmp_path))
    assert type(pipe.model) is ViTModel and np.array(pipe(frames(32, 32)[0])).shape == (1, 5, 16)


def test_optical_flow_of_a_model_of_another_task_says_so(folders):
    with pytest.raises(
        ValueError, match="WinWinForDepthEstimation takes one image; optical flow needs a WinWinForOptical"
    ):
        pipeline("optical-flow", model=str(folders / "depth"))


def test_a_batch_that_does_not_fit_names_the_number_that_does(flow, monkeypatch):
    small_device(monkeypatch, type(flow.model), 2 * 48 * 64)
    pairs = [tuple(frames()) for _ in range(4)]
    message = r"^4 pairs of 48 x 64 pixels \(height x width\) take more memory than cpu has; 2 would fit: expected batch_size=2$"
    with pytest.raises(torch.OutOfMemoryError, match=message):
        flow(pairs, batch_size=4)
    assert len(flow(pairs, batch_size=2)) == 4
    small_device(monkeypatch, type(flow.model), 32 * 48)
    with pytest.raises(
        torch.OutOfMemoryError, match=r"^48 x 64 pixels .* has; 32 x 32 would fit: expected smaller frames"
    ):
        flow(*frames())
