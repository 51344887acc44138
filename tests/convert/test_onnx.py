"""Exported files are the network: any size and batch, both runtimes, quantised weights within half a step, nothing half written."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from support.model_cases import make
from support.places import ROOT
from torch.nn.attention import SDPBackend, sdpa_kernel

import winwin_hf
from winwin_hf import WinWinImageProcessor, bundled, downloads
from winwin_hf.convert import onnx as export
from winwin_hf.convert.folder import check_output
from winwin_hf.data.formats.files import owner
from winwin_hf.inference import flow as inference
from winwin_hf.inference import onnx as inference_onnx
from winwin_hf.inference.predictor import Predictor
from winwin_hf.task import TASKS

onnx = pytest.importorskip("onnx", reason="needs the packages of winwin-hf[export]")
pytest.importorskip("onnxscript", reason="needs the packages of winwin-hf[export]")
pytest.importorskip("onnxruntime", reason="needs the packages of winwin-hf[export]")
RUNTIMES = [
    "onnxruntime",
    pytest.param(
        "openvino",
        marks=pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed"),
    ),
]
DEPTH = 2  # of the small network


def save(folder: Path, task: str, variant: str, **overrides) -> Path:
    """A small random checkpoint with its processor."""
    model = make(task, variant, **overrides)
    model.save_pretrained(folder)
    WinWinImageProcessor(patch_size=model.config.patch_size).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """(checkpoint, its export in all variants): depth, one pass of the exporter for the whole module."""
    folder = tmp_path_factory.mktemp("export")
    checkpoint = save(folder / "checkpoint", "depth-estimation", "linear", num_hidden_layers=DEPTH)
    return checkpoint, export.export(checkpoint, folder / "exported", quantise=export.QUANTISATIONS)


@pytest.fixture
def traced(small, monkeypatch):
    """Exports need no exporter: they take the graph that is there."""
    monkeypatch.setattr(export, "trace", lambda model, path, *_: shutil.copy(small[1].files["fp32"], path))


def image(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


# ------------------------------------------------------------------ the folder


def spoiled(value: float):
    """A change of the file's first weight matrix."""

    def change(path: Path) -> None:
        model = onnx.load(path)
        weight = next(w for w in model.graph.initializer if w.data_type == onnx.TensorProto.FLOAT and len(w.dims) > 1)
        array = onnx.numpy_helper.to_array(weight).copy()
        array.flat[0] = value
        weight.CopyFrom(onnx.numpy_helper.from_array(array, weight.name))
        onnx.save(model, path)

    return change


def looped(path: Path) -> None:
    model = onnx.load(path)
    model.graph.node.append(onnx.helper.make_node("Loop", ["", "", ""], []))
    onnx.save(model, path)


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("model.onnx", lambda path: path.write_bytes(path.read_bytes()[:-500]), "model.onnx: not a readable ONNX file"),
        ("model.onnx", lambda path: path.write_bytes(b""), "model.onnx: "),
        ("model.onnx", lambda path: path.write_bytes(b"text"), "model.onnx: not a readable ONNX file"),
        ("model.onnx", looped, "model.onnx: holds a Loop, which may have no end"),
        ("model.onnx", spoiled(np.nan), "holds NaN or infinite values"),
        ("model.onnx", spoiled(-np.inf), "holds NaN or infinite values"),
        ("export.json", lambda path: path.write_bytes(b"{"), r"export\.json: not readable JSON"),
        ("export.json", lambda path: path.write_bytes(b"\xaf"), r"export\.json: not a text in UTF-8"),
        ("export.json", lambda path: path.write_text("[]"), r"export\.json: expected architecture, inputs and outputs"),
        (
            "export.json",
            lambda path: path.write_text(path.read_text().replace('"predicted_depth": {', '"other": {')),
            r"export\.json: inputs .* and outputs \['other'\]; expected",
        ),
        (
            "export.json",
            lambda path: path.write_text(path.read_text().replace('"pixel_values": {', '"other": {')),
            "model.onnx: not a readable ONNX file",
        ),
        ("../config.json", lambda path: path.write_text("null"), r"config\.json: expected a JSON object"),
    ],
)
def test_a_damaged_export_is_refused_in_one_line(small, tmp_path, file, change, says):
    folder = tmp_path / "exported"
    shutil.copytree(small[1].folder, folder)
    change(folder / "onnx" / file)
    with pytest.raises(ValueError, match=says) as error:
        Predictor.load(folder)
    assert "\n" not in str(error.value)


def test_the_folder_says_what_it_is(small):
    exported = small[1]
    names = {path.name for path in (exported.folder / "onnx").iterdir()}
    assert names == {"model.onnx", "model_fp16.onnx", "model_bf16.onnx", "model_int8.onnx", "export.json"}
    assert {path.name for path in exported.folder.iterdir()} == {"config.json", "preprocessor_config.json", "onnx"}
    description = json.loads((exported.folder / "onnx" / "export.json").read_text())
    assert description["task"] == "depth-estimation" and description["architecture"] == "WinWinForDepthEstimation"
    assert description["inputs"] == {"pixel_values": {"shape": ["batch", 3, "height", "width"], "dtype": "float32"}}
    assert list(description["outputs"]) == ["predicted_depth"] and description["multiple_of"] == 8
    assert description["files"] == {how: path.name for how, path in exported.files.items()}
    assert len(description["check"]) == len(exported.differences) > 0


def test_a_graph_of_any_size_with_fused_attention_and_no_paths(small):
    path = small[1].files["fp32"]
    graph = onnx.load(path).graph
    shape = [d.dim_param or d.dim_value for d in graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 3, "8*rows", "8*columns"]
    assert [n.domain for n in graph.node if n.op_type == "MultiHeadAttention"] == ["com.microsoft"] * DEPTH
    assert not any(n.op_type == "Softmax" for n in graph.node)
    content = path.read_bytes()
    assert str(ROOT).encode() not in content and b"stack_trace" not in content


def test_the_check_covers_other_sizes_batches_and_runtimes(small):
    differences = [d for d in small[1].differences if d.file == "model.onnx"]
    traced = tuple(side * 8 for side in export.TRACED[1:])
    assert len({d.size[1:] for d in differences} - {traced}) >= 3
    assert {d.size[0] for d in differences} == {1, 2}
    expected = {"onnxruntime", *(["openvino"] if importlib.util.find_spec("openvino") else [])}
    assert {d.runtime for d in differences} == expected
    assert all(d.max <= export.TOLERANCE * d.largest for d in differences)  # depth: no looser bound
    assert all(
        0 < d.rounding <= export.TOLERANCE * d.largest for d in differences
    )  # attention was computed in two ways


@pytest.mark.parametrize(("largest", "rounding", "bound"), [(20, 1e-5, 2e-3), (20, 1e-3, 4e-3), (0.1, 0, 1e-4)])
def test_what_is_allowed(largest, rounding, bound):
    """A ten-thousandth of the values, or some times what PyTorch's own attentions differ by; a file beyond it is refused."""
    make = lambda error: export.Difference("model.onnx", "r", (1, 8, 8), "flow", error, 0.0, largest, rounding)  # noqa: E731
    assert export.allowed(make(0.0)) == pytest.approx(bound)
    export.refuse_different([make(0.99 * bound)])
    with pytest.raises(RuntimeError, match=f"up to .* {bound:.2e} is allowed"):
        export.refuse_different([make(1.01 * bound)])


# ------------------------------------------------------------------ running it


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 5, 3), (3, 2, 7)], ids=str)
def test_it_is_the_network_at_any_size(small, runtime, size):
    checkpoint, exported = small
    batch, rows, columns = size
    views, _ = export.pictures((batch, rows * 8, columns * 8), seed=7)
    model = export.load(checkpoint).model
    with torch.inference_mode():
        expected = model(views).predicted_depth
    found = inference_onnx.OnnxModel(exported.files["fp32"], runtime)(views).predicted_depth
    assert found.shape == expected.shape
    assert (found - expected).abs().max() < 1e-5 * expected.max()


@pytest.mark.parametrize("tile", [None, (16, 24)], ids=["whole", "tiles"])
def test_a_predictor_takes_images_of_any_size(small, tile):
    checkpoint, exported = small
    loaded = Predictor.load(exported.folder / "onnx", tile=tile)
    expected = Predictor.load(checkpoint, tile=tile, device="cpu")(image(37, 50)).values
    assert loaded.task == "depth-estimation" and loaded.labels is None and loaded.name == "exported-model"
    found = loaded(image(37, 50)).values
    assert found.shape == (37, 50) and expected.std() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_exported_files_of_a_hub_repository(small, monkeypatch):
    asked = []
    download = lambda name, allow_patterns: asked.append((name, allow_patterns)) or str(small[1].folder)  # noqa: E731
    monkeypatch.setattr(downloads, "snapshot_download", download)
    found = Predictor.load("somebody/depth", "depth-estimation", runtime="onnxruntime")
    assert isinstance(found.model, inference_onnx.OnnxModel) and asked == [("somebody/depth", ["*.json", "onnx/*"])]
    with pytest.raises(ValueError, match="exported files run on the CPU, not on meta"):
        Predictor.load(small[1].folder, device="meta")
    with pytest.raises(ValueError, match="needs a PyTorch network"):
        found.frames([])


def test_names_of_exported_files(small, tmp_path):
    checkpoint, exported = small
    assert inference_onnx.is_exported(exported.files["int8"]) and inference_onnx.is_exported(exported.folder / "onnx")
    assert inference_onnx.is_exported(exported.folder) and not inference_onnx.is_exported(checkpoint)
    assert Predictor.load(exported.files["int8"]).name == "exported-model_int8"
    assert Predictor.load(exported.folder).name == "exported-model"
    with pytest.raises(ValueError, match="for depth estimation; expected one for optical flow"):
        Predictor.load(exported.folder, "optical-flow")
    with pytest.raises(ValueError, match="exported already"):
        export.load(exported.folder)
    copy = shutil.copytree(exported.folder / "onnx", tmp_path / "loose")
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        inference_onnx.OnnxModel(copy / "model.onnx")
    (copy / "export.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"export\.json"):
        inference_onnx.OnnxModel(copy / "model.onnx")


def test_wrong_inputs_are_named(small):
    model = inference_onnx.OnnxModel(small[1].files["fp32"])
    with pytest.raises(ValueError, match="multiples of 8"):
        model(torch.zeros(1, 3, 20, 16))
    with pytest.raises(ValueError, match=r"pixel_values has shape .*expected whole images"):
        model(torch.zeros(1, 2, 3, 16, 16))
    with pytest.raises(ValueError, match=r"shape \(1, 4, 16, 16\): expected 3 channels"):
        model(torch.zeros(1, 4, 16, 16))
    with pytest.raises(ValueError, match=r"pixel_values is of torch.uint8: expected normalised floats"):
        model(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match="got 2 of them"):
        model(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="'tensorrt': expected one of onnxruntime"):
        inference_onnx.OnnxModel(small[1].files["fp32"], "tensorrt")


# ------------------------------------------------------------------ quantisation


def test_quantised_weights_shrink_and_stay_near(small):
    exported = small[1]
    sizes = {how: path.stat().st_size for how, path in exported.files.items()}
    assert sizes["int8"] < sizes["fp16"] < sizes["fp32"] and sizes["fp16"] == sizes["bf16"]
    worst = {path.name: 0.0 for path in exported.files.values()}
    for d in exported.differences:
        worst[d.file] = max(worst[d.file], d.max / d.largest)
    assert worst["model.onnx"] < worst["model_fp16.onnx"] < worst["model_bf16.onnx"] < worst["model_int8.onnx"] < 0.05


@pytest.mark.parametrize("how", export.QUANTISATIONS)
def test_a_product_by_hand(tmp_path, how):
    """One scale a column: the error of a weight is at most half its own column's step, however large the others are."""
    weights = np.random.default_rng(0).standard_normal((48, 32)) * 10.0 ** np.arange(-16, 16)
    weights[:, 5] = 0
    weights = weights.clip(-6e4, 6e4).astype(np.float32) if how == "fp16" else weights.astype(np.float32)
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        # turned in the graph, as the exporter leaves a linear layer
        [helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]), helper.make_node("MatMul", ["x", "wt"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", kind, [None, 48])],
        [helper.make_tensor_value_info("y", kind, [None, 32])],
        [onnx.numpy_helper.from_array(np.ascontiguousarray(weights.T), "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    export.quantise_weights(tmp_path / "model.onnx", tmp_path / "small.onnx", how)
    onnx.checker.check_model(onnx.load(tmp_path / "small.onnx"), full_check=True)
    import onnxruntime

    session = onnxruntime.InferenceSession(str(tmp_path / "small.onnx"), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.eye(48, dtype=np.float32)})
    error, largest = np.abs(found - weights), np.abs(weights).max(axis=0)
    if how == "int8":
        assert np.all(error <= largest / 127 * 0.5001)
        assert len(np.unique(found[:, 0])) > 10
    elif how == "bf16":
        assert np.all(error <= np.abs(weights) * 2**-8)
    else:
        inside = (np.abs(weights) > 1e-4) & (np.abs(weights) < 6e4)
        assert inside.sum() > 100 and np.all(error[inside] <= np.abs(weights[inside]) * 2**-11)
    assert np.all(found[:, 5] == 0)


# ------------------------------------------------------------------ nothing half written


def test_a_difference_ends_the_export_and_leaves_what_was_there(small, traced, tmp_path, monkeypatch):
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_text("an earlier one")
    (tmp_path / "config.json").write_text('{"model_type": "winwin"}')
    monkeypatch.setattr(export, "TOLERANCE", 0.0)
    monkeypatch.setattr(export, "ROUNDINGS", 0)
    with pytest.raises(RuntimeError, match=r"predicted_depth by onnxruntime differs .* nothing was written"):
        export.export(small[0], tmp_path, overwrite=True)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "onnx"}
    assert (tmp_path / "onnx" / "model.onnx").read_text() == "an earlier one"
    exported = export.export(small[0], tmp_path, check=False, overwrite=True)
    assert exported.differences == [] and exported.files["fp32"].stat().st_size > 10_000


@pytest.mark.parametrize("place", ["WinWinConfig", "WinWinImageProcessor"])
def test_an_interrupted_export_leaves_the_old_one_whole(small, traced, tmp_path, monkeypatch, place):
    """Configuration and network are of one checkpoint, wherever it ends."""

    def stopped(*_, **__):
        raise KeyboardInterrupt

    def contents():
        return {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    with monkeypatch.context() as patch:
        patch.setattr(getattr(winwin_hf, place), "save_pretrained", stopped)
        with pytest.raises(KeyboardInterrupt):
            export.export(small[0], tmp_path / "out", check=False)
        assert not list(tmp_path.iterdir())
    (tmp_path / "out" / "onnx").mkdir(parents=True)
    (tmp_path / "out" / "onnx" / "model.onnx").write_text("an earlier one")
    (tmp_path / "out" / "config.json").write_text('{"model_type": "winwin"}')
    before = contents()
    with monkeypatch.context() as patch:
        patch.setattr(getattr(winwin_hf, place), "save_pretrained", stopped)
        with pytest.raises(KeyboardInterrupt):
            export.export(small[0], tmp_path / "out", check=False, overwrite=True)
        assert contents() == before
    export.export(small[0], tmp_path / "out", check=False, overwrite=True)
    assert not before.items() & contents().items() and not list(tmp_path.glob(".*"))


def test_into_the_checkpoints_own_folder(small, traced, tmp_path):
    folder = shutil.copytree(small[0], tmp_path / "own")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    export.export(folder, folder, check=False)
    after = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    assert after == before and (folder / "onnx" / "model.onnx").is_file()
    with pytest.raises(FileExistsError, match=r"own exists; expected a new folder, or overwrite"):
        export.export(folder, folder, check=False)
    export.export(folder, folder, check=False, overwrite=True)


def test_nothing_that_was_there_is_replaced_unasked(small, traced, tmp_path):
    earlier, empty = tmp_path / "earlier", tmp_path / "empty"
    empty.mkdir()
    for folder in (earlier, empty):
        export.export(small[0], folder, check=False)
    mark = earlier / "onnx" / "model_int8.onnx"
    mark.touch()
    with pytest.raises(FileExistsError, match=r"earlier exists; expected a new folder, or overwrite"):
        export.export(small[0], earlier, check=False)
    assert mark.exists()
    export.export(small[0], earlier, check=False, overwrite=True)
    assert not mark.exists()
    (earlier / "mine.txt").touch()  # stays, since only the export is replaced
    export.export(small[0], earlier, check=False, overwrite=True)
    assert (earlier / "mine.txt").exists()
    (earlier / "onnx" / "mine.txt").touch()
    with pytest.raises(FileExistsError, match=r"mine\.txt is no file of a model's folder, and would be deleted"):
        export.export(small[0], earlier, check=False, overwrite=True)
    other = shutil.copytree(small[0], tmp_path / "other")
    with pytest.raises(FileExistsError, match="holds another model's weights"):
        export.export(small[0], other, check=False, overwrite=True)
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    (stranger / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="is no model's folder"):
        export.export(small[0], stranger, check=False, overwrite=True)


def test_what_cannot_be_exported_is_refused(small, tmp_path, monkeypatch):
    target = tmp_path / "exported"
    with pytest.raises(ValueError, match="quantise 'int4': expected one of fp16"):
        export.export(small[0], target, quantise=["int4"])
    with pytest.raises(ValueError, match="attention 'flash': expected one of fused"):
        export.export(small[0], target, attention="flash")
    with pytest.raises(ValueError, match="opset 17"):
        export.export(small[0], target, opset=17)
    with pytest.raises(ValueError, match="for pre-training; expected one for optical flow"):
        export.export(save(tmp_path / "painter", "pre-training", "linear"), target)
    with pytest.raises(ValueError, match="attention_pattern='vitdet'"):
        export.export(save(tmp_path / "cells", "depth-estimation", "vitdet"), target)

    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(inference_onnx.importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"onnx is missing: pip install 'winwin-hf\[export\]'"):
        export.export(small[0], target)
    assert not target.exists()


# ------------------------------------------------------------------ the other networks


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "variant", "opset", "attention"),
    [
        ("optical-flow", "matching", 20, "fused"),
        ("optical-flow", "refinement", 20, "fused"),
        ("optical-flow", "dpt", 20, "fused"),
        ("semantic-segmentation", "stem", 18, "fused"),
        ("semantic-segmentation", "dpt", 20, "fused"),
        ("depth-estimation", "sincos", 20, "standard"),
        ("depth-estimation", "conv", 23, "standard"),
    ],
)
def test_every_kind_of_network(tmp_path, task, variant, opset, attention):
    """`export` itself refuses what differs from PyTorch; what is left to see is that it looked at every output."""
    checkpoint = save(tmp_path / "checkpoint", task, variant)
    exported = export.export(checkpoint, tmp_path / "exported", opset=opset, attention=attention)
    assert {d.output for d in exported.differences} == {name for name, _ in TASKS[task].outputs}
    model = onnx.load(exported.files["fp32"])
    assert next(o.version for o in model.opset_import if o.domain == "") == opset
    fused = any(n.op_type == "MultiHeadAttention" for n in model.graph.node)
    assert fused == (attention == "fused")
    assert any(n.op_type == "Attention" for n in model.graph.node) == (opset >= 23)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["winwin-flow", "winwin-seg", "winwin-depth"])
def test_bundled_checkpoints(tmp_path, name):
    """Stored in half precision, so fp16 is the same to the last bit."""
    exported = export.export(name, tmp_path, quantise=["fp16"])
    model = export.load(name).model
    task = export.task_of(model)
    views = export.pictures((2, 80, 112), seed=3)[: len(task.inputs)]
    fp32, fp16 = (inference_onnx.OnnxModel(exported.files[how])(*views) for how in ("fp32", "fp16"))
    for output, _ in task.outputs:
        assert torch.equal(getattr(fp32, output), getattr(fp16, output))
    with torch.inference_mode():
        tiled = inference.predict_tiled(model, *views, tile=(48, 64))
        with sdpa_kernel(SDPBackend.MATH):
            plain = inference.predict_tiled(model, *views, tile=(48, 64))
    ours = inference.predict_tiled(inference_onnx.OnnxModel(exported.files["fp32"]), *views, tile=(48, 64))
    for output, _ in task.outputs:
        expected = getattr(tiled, output)
        error, rounding = (float((getattr(o, output) - expected).abs().max()) for o in (ours, plain))
        bound = export.Difference("f", "r", (2, 80, 112), output, error, 0.0, float(expected.abs().max()), rounding)
        assert error <= export.allowed(bound)


@pytest.mark.slow
def test_int8_costs_little_on_real_frames(tmp_path, real_data):
    """End-point error on Middlebury, through the evaluation that `winwin evaluate` runs."""
    from accelerate import Accelerator

    from winwin_hf.data.sources import open_source
    from winwin_hf.evaluation.scoring import new_metric, score

    exported = export.export("winwin-flow", tmp_path, quantise=["int8"], check=False)
    source = open_source("middlebury", str(real_data("middlebury-flow")), "train")
    predictors = {how: Predictor.load(path) for how, path in exported.files.items()}
    predictors["pytorch"] = export.load("winwin-flow")
    errors = {}
    for how, method in predictors.items():
        errors[how] = score(method, source, new_metric(source), Accelerator(cpu=True)).figures["epe"]
    assert errors["fp32"] == pytest.approx(errors["pytorch"], abs=1e-3)
    assert abs(errors["int8"] - errors["fp32"]) < 0.02


def test_a_bundled_name_is_the_bundled_folder():
    loaded = export.load("winwin-depth")
    model = loaded.model
    assert type(model).__name__ == "WinWinForDepthEstimation" and loaded.processor.patch_size == 16
    assert bundled.resolve("winwin-depth") == str(bundled.CHECKPOINTS / "winwin-depth")
    assert model.config._attn_implementation == "sdpa" and not model.training


def test_what_a_killed_export_left_is_no_output(small, traced, tmp_path):
    """A folder with `.onnx-...` alone, an earlier export that had been put aside, and a model's folder that was exported into."""
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    dead = owner().replace(f"p{os.getpid()}-", f"p{int(ended.stdout)}-")

    def left(folder: Path) -> Path:
        (folder / f".onnx-{dead}abc" / "new").mkdir(parents=True)
        return folder

    export.export(small[0], left(tmp_path / "new"), check=False)
    put_aside = left(tmp_path / "aside")
    (put_aside / f".onnx-{dead}abc" / "old").mkdir()
    shutil.copy(small[0] / "config.json", put_aside)
    with pytest.raises(FileExistsError, match="aside exists; expected a new folder, or overwrite"):
        export.export(small[0], put_aside, check=False)
    export.export(small[0], put_aside, check=False, overwrite=True)
    check_output(left(shutil.copytree(small[0], tmp_path / "model")), overwrite=True)
    for folder in ("new", "aside", "model"):
        assert not list((tmp_path / folder).glob(".*"))
    alive = tmp_path / "alive" / f".onnx-{owner()}abc"
    alive.mkdir(parents=True)
    with pytest.raises(FileExistsError):
        export.export(small[0], alive.parent, check=False)
    assert alive.exists()
