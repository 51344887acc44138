"""The evaluate modules under spaces/: the metrics' own figures for all sizes, batches and processes; only sums are written; the pages
score files."""

from __future__ import annotations

import doctest
import importlib.util
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import torch
import yaml
from support.places import HANGS_AFTER, ROOT
from support.two_processes import in_two_processes

from winwin_hf.data import formats
from winwin_hf.evaluation.metrics import DepthMetric, FlowMetric, SegmentationMetric, sum_rows

SPACES = ROOT / "spaces"
OPTIONS = {"optical_flow": {}, "monocular_depth": {"max_depth": 8.0}, "semantic_segmentation": {"num_labels": 6}}
METRICS = {"optical_flow": FlowMetric, "monocular_depth": DepthMetric, "semantic_segmentation": SegmentationMetric}
NAMES = list(OPTIONS)


def load(name, *configuration, **arguments):
    return evaluate.load(str(SPACES / name), *configuration, **{**OPTIONS[name], **arguments})


def images(name, count=7):
    """Pairs of different sizes whose sums of errors need rounding."""
    rng = np.random.default_rng(0)
    for i in range(count):
        size = (10 + i, 23 - i)
        if name == "optical_flow":
            pair = rng.normal(size=(2, 2, *size)) * 10
        elif name == "monocular_depth":
            pair = rng.uniform(0.3, 9, (2, *size))
        else:
            pair = rng.integers(0, 6, (2, *size))
        yield tuple(pair)


def expected(name, pairs=None):
    metric = METRICS[name](**OPTIONS[name])
    return metric.compute(sum_rows([metric.row(*pair) for pair in pairs or images(name)]))


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_those_of_the_metrics(name):
    """One by one, in batches, as tensors, all at once: the same to the last digit."""
    metric, pairs, wanted = load(name), list(images(name)), str(expected(name))
    for prediction, reference in pairs:
        metric.add(prediction=prediction, reference=reference)
    assert len(metric) == 7
    assert str(metric.compute()) == wanted
    assert len(metric) == 0
    with pytest.raises(ValueError, match="call `add` or `add_batch` at least once"):
        metric.compute()
    predictions, references = zip(*pairs, strict=True)
    metric.add_batch(predictions=predictions[:3], references=references[:3])
    metric.add_batch(predictions=[], references=[])
    tensors = [[torch.from_numpy(values) for values in column[3:6]] for column in (predictions, references)]
    metric.add_batch(predictions=tensors[0], references=tensors[1])
    assert str(metric.compute(predictions=predictions[6:], references=references[6:])) == wanted
    assert str(load(name, keep_in_memory=True).compute(predictions=predictions, references=references)) == wanted


@pytest.mark.parametrize("name", NAMES)
def test_one_tensor_is_a_batch(name):
    metric = load(name)
    prediction, reference = next(images(name))
    batch = [torch.from_numpy(values)[None].repeat(3, *[1] * values.ndim) for values in (prediction, reference)]
    assert str(metric.compute(predictions=batch[0], references=batch[1])) == str(
        expected(name, [(prediction, reference)] * 3)
    )


def score_share(cache):
    """What one of two processes does; the second has no segmented image at all."""
    rank = torch.distributed.get_rank()
    for name in NAMES:
        metric = load(name, process_id=rank, num_process=2, experiment_id="test", cache_dir=cache, timeout=HANGS_AFTER)
        pairs = list(images(name))
        share = pairs[rank::2] if name != "semantic_segmentation" else pairs if rank == 0 else []
        for prediction, reference in share:
            metric.add(prediction=prediction, reference=reference)
        scores = metric.compute()
        assert str(scores) == str(expected(name) if rank == 0 else None), (rank, name)


def test_two_processes_give_the_figures_of_one(tmp_path):
    """To the last digit, though the images are added in another order; and with a process that has none."""
    in_two_processes(score_share, str(tmp_path))


def test_only_sums_are_written(monkeypatch):
    """A pair of these maps is 8 MB."""
    metric = load("optical_flow")
    compute, sizes = metric._compute, []

    def measure(**columns):
        sizes.extend(Path(path).stat().st_size for path in metric.file_paths)
        return compute(**columns)

    monkeypatch.setattr(metric, "_compute", measure)
    for _ in range(3):
        metric.add(prediction=np.ones((2, 540, 960), np.float32), reference=np.zeros((2, 540, 960), np.float32))
    assert metric.compute()["1px"] == 100
    assert len(sizes) == 1 and 0 < sizes[0] < 10_000


def test_types_layouts_and_occlusion():
    metric = load("optical_flow")
    flow = np.zeros((4, 5, 2), np.float32)
    flow[..., 0] = 3
    occluded = np.zeros((4, 5), bool)
    occluded[0] = True
    metric.add(
        prediction=torch.zeros(2, 4, 5, dtype=torch.bfloat16, requires_grad=True), reference=flow, occluded=occluded
    )
    scores = metric.compute()
    assert (scores["epe"], scores["epe_matched"], scores["epe_unmatched"]) == (3, 3, 3)
    scores = metric.compute(predictions=[flow, flow], references=[flow, flow], occluded=[None, occluded])
    assert scores["epe_matched"] == 0
    labels = load("semantic_segmentation", names=tuple("abcdef"), ignore=0)
    scores = labels.compute(predictions=[[[1, 2, 3]]], references=[np.array([[1, 0, 2]], np.uint8)])
    assert scores["accuracy"] == 50 and scores["iou"]["a"] != scores["iou"]["a"] and scores["iou"]["b"] == 100


def test_options_and_configurations():
    flow, double = np.zeros((2, 3, 4)), np.zeros((2, 6, 8))
    double[0, ::2] = 2
    with pytest.raises(ValueError, match="twice the size"):
        load("optical_flow").add(prediction=flow, reference=double)
    assert load("optical_flow", "spring").compute(predictions=[flow], references=[double])["epe"] == 0
    assert load("optical_flow", double="mean").compute(predictions=[flow], references=[double])["epe"] == 1
    kitti = evaluate.load(str(SPACES / "monocular_depth"), "kitti", max_depth=50.0).scorer
    assert (kitti.max_depth, kitti.crop, kitti.align) == (50, "garg", None)
    nyu = evaluate.load(str(SPACES / "monocular_depth"), "nyu", align="median").scorer
    assert (nyu.max_depth, nyu.crop, nyu.align) == (10, "eigen", "median")


@pytest.mark.parametrize("name", NAMES)
def test_no_module_needs_an_option(name):
    metric = evaluate.load(str(SPACES / name))
    prediction, reference = next(images(name))
    metric.add(prediction=prediction, reference=reference)
    metric.add_batch(predictions=[prediction], references=[reference])
    once = metric.compute(predictions=[prediction], references=[reference])
    assert str(once) == str(metric.compute(predictions=[prediction] * 3, references=[reference] * 3))


def test_segmentation_as_users_of_mean_iou_know_it():
    """num_labels, ignore_index and reduce_labels at compute; figures in percent, of the definition."""
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 5, (2, 8, 9)), rng.integers(0, 4, (2, 8, 9))
    labels[0, :2] = 255
    reduced = labels - 1
    reduced[(labels == 0) | (labels == 255)] = 255
    metric = evaluate.load(str(SPACES / "semantic_segmentation"))
    given = {"predictions": predictions, "references": labels, "reduce_labels": True}
    scores = metric.compute(**given, num_labels=4, ignore_index=255)
    known = reduced != 255
    iou = [
        100 * ((predictions == k) & (reduced == k))[known].sum() / ((predictions == k) | (reduced == k))[known].sum()
        for k in range(4)
    ]
    assert scores["miou"] == pytest.approx(np.mean(iou)) and list(scores["iou"].values()) == pytest.approx(iou)
    assert scores["accuracy"] == pytest.approx(100 * (predictions == reduced)[known].mean())
    assert str(metric.compute(**given)) == str(scores)  # as many classes as occur
    assert list(metric.compute(**given, names=list("abcd"))["iou"]) == list("abcd")
    with pytest.raises(ValueError, match=r"(predictions|references) hold ids from 0 to 3; expected 0 to 1"):
        metric.compute(**given, num_labels=2)
    zero = metric.compute(predictions=predictions[1:], references=labels[1:], num_labels=5, ignore_index=0)
    assert str(zero) == str(
        load("semantic_segmentation", num_labels=5, ignore=0).compute(
            predictions=predictions[1:], references=labels[1:]
        )
    )
    minus = np.where(labels == 255, -100, labels)
    late = metric.compute(predictions=predictions, references=minus, num_labels=5, ignore_index=-100)
    assert str(late) == str(metric.compute(predictions=predictions, references=labels, num_labels=5))


def test_combined_modules_take_late_options():
    both = evaluate.combine([evaluate.load(str(SPACES / "semantic_segmentation")) for _ in range(2)], force_prefix=True)
    prediction, reference = next(images("semantic_segmentation"))
    scores = both.compute(predictions=[prediction], references=[reference], num_labels=6)
    assert len({value for name, value in scores.items() if name.endswith("miou")}) == 1 and len(scores) == 8


def test_clear_errors():
    with pytest.raises(
        ValueError, match="unknown options labels; SemanticSegmentation knows num_labels, ignore, names, ignore_index"
    ):
        load("semantic_segmentation", labels=3)
    with pytest.raises(ValueError, match="ignore=3 and ignore_index=255: expected one of both"):
        load("semantic_segmentation", ignore=3, ignore_index=255)
    for name, wrong, said in (
        ("num_labels", "6", "num_labels"),
        ("num_labels", 10**9, "num_labels"),
        ("ignore_index", "a", "ignore_index"),
        ("ignore", 1.5, "ignore_index"),
        ("reduce_labels", "no", "reduce_labels"),
    ):
        with pytest.raises(ValueError, match=f"{said} is {wrong!r}; expected"):
            load("semantic_segmentation", **{name: wrong})
    many = {"predictions": [np.full((2, 2), 10_000)], "references": [np.zeros((2, 2), int)]}
    with pytest.raises(ValueError, match="an id of 10,000; expected at most 4,096 classes"):
        load("semantic_segmentation", num_labels=None).compute(**many)
    with pytest.raises(ValueError, match="unknown configuration 'eth3d'; MonocularDepth knows default, nyu, kitti"):
        load("monocular_depth", "eth3d")
    depth = load("monocular_depth")
    with pytest.raises(ValueError, match=r"unknown arguments crops; .* Options belong to evaluate.load"):
        depth.compute(predictions=[np.ones((2, 2))], references=[np.ones((2, 2))], crops="eigen")
    with pytest.raises(ValueError, match="expected as many of each, got 1 predictions, 2 references"):
        depth.add_batch(predictions=[np.ones((2, 2))], references=[np.ones((2, 2))] * 2)
    with pytest.raises(ValueError, match="reference is a masked array"):
        depth.add(prediction=np.ones((2, 2)), reference=np.ma.masked_less(np.zeros((2, 2)), 1))
    for rows in (list, tuple):  # of masked rows
        with pytest.raises(ValueError, match="reference is a masked array"):
            depth.add(prediction=np.ones((2, 2)), reference=rows(np.ma.masked_less(np.zeros((2, 2)), 1)))
    with pytest.raises(ValueError, match="prediction is of complex128; expected an array of real numbers"):
        depth.add(prediction=[[1j, 2], [3, 4]], reference=np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"prediction has the shape \(1, 2, 2\); expected 2 axes"):
        depth.add(prediction=np.ones((1, 2, 2)), reference=np.ones((2, 2)))


def test_options_of_one_call_of_depth_and_flow():
    target = np.linspace(1, 3, 20).reshape(4, 5)
    given = {"predictions": [2 * target], "references": [target]}
    depth = load("monocular_depth", max_depth=2.5)
    assert depth.compute(**given, align="median") == load("monocular_depth", max_depth=2.5, align="median").compute(
        **given
    )
    assert depth.compute(**given) == load("monocular_depth", max_depth=2.5).compute(**given)  # of that call only
    assert depth.compute(**given, max_depth=10.0)["abs_rel"] == pytest.approx(1)
    flow, double = np.zeros((2, 2, 3)), np.zeros((2, 4, 6))
    double[:, ::2, ::2] = 1
    assert load("optical_flow").compute(predictions=[flow], references=[double], double="best")["epe"] == 0
    depth.add(prediction=target, reference=target)
    with pytest.raises(ValueError, match=r"align given to compute after images were added: give them to evaluate.load"):
        depth.compute(align="median")
    assert depth.compute()["abs_rel"] == 0


def test_a_bad_image_is_not_added():
    metric = load("monocular_depth")
    good, bad = np.ones((2, 2)), np.full((2, 2), np.nan)
    metric.add(prediction=good, reference=good)
    for arguments in ({"prediction": bad, "reference": good}, {"prediction": good, "reference": good[:1]}):
        with pytest.raises(ValueError):
            metric.add(**arguments)
    with pytest.raises(ValueError, match="isn't finite at 4 pixels"):
        metric.add_batch(predictions=[2 * good, bad], references=[good, good])
    assert len(metric) == 1 and metric.compute()["abs_rel"] == 0


def test_combined_with_another():
    both = evaluate.combine({"raw": load("monocular_depth"), "aligned": load("monocular_depth", align="median")})
    target = np.linspace(1, 3, 20).reshape(4, 5)
    both.add(prediction=2 * target, reference=target)
    both.add_batch(predictions=[2 * target], references=[target])
    scores = both.compute()
    assert scores["raw_abs_rel"] == pytest.approx(1) and scores["aligned_abs_rel"] == pytest.approx(0)


@pytest.mark.parametrize("name", NAMES)
def test_description_and_card(name, monkeypatch):
    """The examples run, every score and option is explained, and the Space's header is whole."""
    metric, module = load(name), sys.modules[type(load(name)).__module__]
    monkeypatch.chdir(SPACES.parent)
    runner = doctest.DocTestRunner()
    runner.run(doctest.DocTestParser().get_doctest(metric.inputs_description, {}, name, None, 0))
    assert runner.tries >= 3 and runner.failures == 0
    card = (SPACES / name / "README.md").read_text(encoding="utf-8")
    for score in expected(name):
        assert score in metric.inputs_description and f"`{score}`" in card, score
    for option in ("double",) if name == "optical_flow" else OPTIONS[name]:
        assert option in metric.inputs_description and f"`{option}`" in card, option
    header = yaml.safe_load(card.split("---")[1])
    assert (
        header["sdk"] == "gradio" and header["tags"] == ["evaluate", "metric"] and header["title"] and header["emoji"]
    )
    assert (SPACES / name / header["app_file"]).is_file()
    pinned = (SPACES.parent / "constraints.txt").read_text(encoding="utf-8")
    assert f"gradio=={header['sdk_version']} " in pinned
    assert "winwin-hf" in (SPACES / name / "requirements.txt").read_text(encoding="utf-8")
    assert metric.citation and metric.description and metric.add.__doc__.endswith(metric.inputs_description)
    assert metric.name == name and [k for k, v in vars(module).items() if v is type(metric)]


# ------------------------------------------------------------------------------------------------------------- their pages


@pytest.fixture
def page(request):
    """The app.py of a Space, imported."""
    pytest.importorskip("gradio", reason="the Spaces' pages need gradio (pip install 'winwin-hf[demo]')")
    path = SPACES / request.param / "app.py"
    spec = importlib.util.spec_from_file_location(f"{request.param}_page", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", NAMES, indirect=True)
def test_pages_are_built(page):
    import gradio

    built = page.PAGE.build()
    assert isinstance(built, gradio.Blocks)
    labels = [block.label for block in built.blocks.values() if isinstance(block, gradio.File)]
    assert len(labels) == 2 and labels[0].startswith("predicted") and labels[1].startswith("true")
    settings = [block.value for block in built.blocks.values() if isinstance(block, (gradio.Radio, gradio.Number))]
    with pytest.raises(gradio.Error, match="Upload both files first"):
        page.PAGE.answer(None, None, *settings)
    with pytest.raises(gradio.Error, match=r"a.txt: expected one of"):
        page.PAGE.answer("a.txt", "b.txt", *settings)


@pytest.mark.parametrize("page", ["optical_flow"], indirect=True)
def test_flow_page(page, tmp_path):
    flow = np.random.default_rng(0).normal(size=(40, 60, 2)).astype(np.float32)
    flow[:5] = np.nan
    formats.write_flo(tmp_path / "true.flo", flow)
    np.save(tmp_path / "guess.npy", np.nan_to_num(flow).transpose(2, 0, 1) + np.float32([[[0.0]], [[2.0]]]))
    rows, picture = page.score(str(tmp_path / "guess.npy"), str(tmp_path / "true.flo"))
    assert dict(rows)["epe"] == "2.0000" and dict(rows)["1px"] == "100.0000"
    assert picture.dtype == np.uint8 and picture.ndim == 3
    np.save(tmp_path / "double.npy", flow.repeat(2, 0).repeat(2, 1))
    assert dict(page.score(str(tmp_path / "guess.npy"), str(tmp_path / "double.npy"), "mean")[0])["epe"] == "2.0000"


@pytest.mark.parametrize("page", ["optical_flow"], indirect=True)
def test_flow_page_on_real_ground_truth(page, real_data, tmp_path):
    truth = next(real_data("KITTI").rglob("flow_occ/*.png"), None) or next(real_data("middlebury-flow").rglob("*.flo"))
    np.save(tmp_path / "same.npy", np.nan_to_num(page.read_map(str(truth), page.READERS)))
    assert dict(page.score(str(tmp_path / "same.npy"), str(truth))[0])["epe"] == "0.0000"


@pytest.mark.parametrize("page", ["monocular_depth"], indirect=True)
def test_depth_page(page, tmp_path):
    depth = np.linspace(1, 4, 30 * 40, dtype=np.float32).reshape(30, 40)
    depth[0] = np.nan
    formats.write_depth_png(tmp_path / "true.png", depth, 1000)
    np.save(tmp_path / "guess.npy", np.nan_to_num(depth) * 2)
    rows, picture = page.score(str(tmp_path / "guess.npy"), str(tmp_path / "true.png"))
    assert float(dict(rows)["abs_rel"]) == pytest.approx(1, abs=1e-3) and picture.ndim == 3
    rows, _ = page.score(str(tmp_path / "guess.npy"), str(tmp_path / "true.png"), "kitti", "median")
    assert float(dict(rows)["rmse"]) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("page", ["semantic_segmentation"], indirect=True)
def test_segmentation_page(page, tmp_path):
    from PIL import Image

    labels = np.zeros((20, 30), np.uint8)
    labels[:, 10:20], labels[:, 20:] = 3, 255
    Image.fromarray(labels).save(tmp_path / "true.png")
    np.save(tmp_path / "guess.npy", np.zeros((20, 30), int))
    rows, picture = page.score(str(tmp_path / "guess.npy"), str(tmp_path / "true.png"), 4, 255)
    assert dict(rows)["accuracy"] == "50.00" and dict(rows)["IoU of class 3"] == "0.00" and picture.ndim == 3
