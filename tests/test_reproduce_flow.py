"""The flow experiments: seams, tiles and displacements on hand-made fields, recipes as the paper has them, results of unfinished work."""

import dataclasses
import io
import json
import math
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from model_cases import make
from rich.console import Console

from winwin_hf import WinWinForOpticalFlow
from winwin_hf.data.collator import SecondStrategy, WinWinCollator
from winwin_hf.data.sample import FlowSample
from winwin_hf.data.sources import open_source
from winwin_hf.evaluation import evaluate_windows
from winwin_hf.image_processing_winwin import WinWinImageProcessor
from winwin_hf.outputs_winwin import WinWinOpticalFlowOutput
from winwin_hf.predictors import Network
from winwin_hf.recipe import dump_recipe, load_recipe
from winwin_hf.training import save_model
from winwin_hf.windows import Strategy

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "scripts"))

from experiments import fields, flow, tiles  # noqa: E402
from experiments.fields import Pair, Tally  # noqa: E402
from experiments.runs import RECIPES, Context  # noqa: E402
from experiments.tiles import FlowSet, Way  # noqa: E402


def constant(u: float, v: float, size=(16, 16)) -> np.ndarray:
    return np.tile(np.array([u, v], np.float32), (*size, 1))


def pair_of(truth: np.ndarray, occluded=None) -> Pair:
    image = np.random.default_rng(0).integers(0, 255, (*truth.shape[:2], 3), np.uint8)
    return Pair("hand-made", image, image[::-1].copy(), truth, occluded)


# ------------------------------------------------------------------ seams


def test_seams_are_where_tiles_begin_and_end():
    assert fields.seams(16, 8, 0.0) == [8]
    assert fields.seams(16, 8, 0.5) == [4, 8, 12]
    assert fields.seams(20, 8, 0.0) == [6, 8, 12, 14]  # three tiles, at 0, 6 and 12
    assert fields.seams(16, 32, 0.5) == []
    # a frame of 20x40 is padded to 32x48: two tiles of 16 along the rows, and a seam in the padding is none
    assert fields.seams_of((20, 40), (16, 48), 0.0) == ([16], [])


def test_distance_from_seams():
    assert fields.seam_distance((1, 8), [], [4])[0].tolist() == [3, 2, 1, 0, 0, 1, 2, 3]
    both = fields.seam_distance((6, 6), [3], [3])
    assert both[2].tolist() == [0] * 6 and both[0].tolist() == [2, 1, 0, 0, 1, 2]
    assert np.isinf(fields.seam_distance((2, 2), [], [])).all()


def test_a_known_jump_at_a_seam():
    truth, prediction = constant(0, 0), constant(0, 0)
    prediction[:, 8:] += (3, 4)  # 5 px to the right of column 8, nothing elsewhere
    tally = Tally()
    fields.add_seams(tally, "x", prediction, truth, [], [8])
    figures = fields.seam_figures(tally, "x")
    assert figures["jump_seam"] == 5 and figures["true_jump_seam"] == 0 and figures["excess_seam"] == 5
    assert figures["error_jump_seam"] == 5 and figures["jump_elsewhere"] == figures["excess_elsewhere"] == 0
    assert math.isnan(figures["jump_ratio"])  # nothing to compare with
    assert tally.count("x seam jump") == 16 and tally.count("x elsewhere jump") == 2 * 16 * 15 - 16
    # the error is 5 px right of the seam, on it and elsewhere alike
    assert figures["error_seam"] == figures["error_elsewhere"] == 2.5
    assert [band["epe"] for band in figures["by_distance"]][:3] == [2.5, 2.5, 2.5]


def test_the_truths_own_jump_is_no_artefact():
    truth = constant(0, 0)
    truth[:, 8:] += (3, 4)
    tally = Tally()
    fields.add_seams(tally, "x", truth.copy(), truth, [4], [8])
    figures = fields.seam_figures(tally, "x")
    assert figures["excess_seam"] == figures["error_jump_seam"] == 0
    assert (
        figures["jump_seam"] == figures["true_jump_seam"] == 2.5
    )  # half of the seams' pixels lie at row 4, where nothing jumps


def test_unknown_flow_counts_nowhere():
    truth = constant(0, 0)
    truth[4, 7] = np.nan
    prediction = constant(0, 0)
    prediction[4, 7] = 1e6
    tally = Tally()
    fields.add_seams(tally, "x", prediction, truth, [], [8])
    fields.add_errors(tally, "y", prediction, pair_of(truth), (0, 1))
    assert tally.mean("x seam error") == tally.mean("x seam jump") == tally.mean("y") == 0
    assert tally.count("x seam jump") == 15 and tally.count("y") == 255


def test_blended_tiles_have_their_seams_where_they_are_looked_for():
    """A network whose every tile says something else: all of its jumps are on the seams, and none elsewhere."""

    class Numbered(torch.nn.Module):
        calls = 0

        def forward(self, pixel_values, second_pixel_values):
            self.calls += 1
            height, width = pixel_values.shape[-2:]
            flow = torch.full((1, 2, height, width), float(self.calls))
            return {"flow": flow, "log_scale": torch.zeros(1, height, width)}

    from winwin_hf.inference import predict_flow

    pixels = torch.zeros(1, 3, 96, 80)
    for overlap in (0.0, 0.5, 0.7):
        blended = predict_flow(Numbered(), pixels, pixels, (48, 32), overlap).flow[0].permute(1, 2, 0).numpy()
        rows, columns = fields.seams_of((96, 80), (48, 32), overlap)
        tally = Tally()
        fields.add_seams(tally, "x", blended, np.zeros_like(blended), rows, columns)
        assert tally.mean("x elsewhere jump") < 1e-5 and tally.mean("x seam jump") > 0.1


# ------------------------------------------------------------------ matches, displacements


def test_what_a_tile_holds():
    holds = fields.held(constant(3, 0), (16, 8), 0.0, patch=8)
    assert holds[0].tolist() == [True] * 5 + [False] * 3 + [True] * 5 + [False] * 3
    between = fields.held(constant(3, 0), (16, 8), 0.5, patch=8)  # tiles at 0, 4 and 8
    assert between[0].tolist() == [True] * 13 + [False] * 3
    assert fields.held(constant(9, 0), (8, 8), 0.9, patch=8).sum() == 0  # further than a tile is wide
    assert fields.held(constant(9, 0), (16, 16), 0.0, patch=8)[0].tolist() == [True] * 7 + [False] * 9


def test_groups_by_what_a_tile_holds():
    truth = constant(3, 0)
    occluded = np.zeros((16, 16), bool)
    occluded[0] = True
    pair = pair_of(truth, occluded)
    assert pair.gone().sum() == 16 + 15 * 3
    tally = Tally()
    fields.add_held(tally, "x", constant(0, 0), pair, fields.held(truth, (16, 8), 0.0, patch=8))
    assert [tally.count(f"x {group}") for group in ("held", "beyond", "gone")] == [150, 45, 61]
    assert tally.mean("x beyond") == 3


def test_errors_by_displacement():
    truth = constant(0, 0)
    truth[:, 4:8] = (0, 5)
    truth[:, 8:] = (0, -20)  # all of it leaves the frame
    tally = Tally()
    fields.add_errors(tally, "x", truth + 1, pair_of(truth), (0, 5, 10))
    bands = fields.bands_of(tally, "x", (0, 5, 10))
    assert [band["share"] for band in bands] == [0.25, 0.25, 0.5]
    assert [band["epe"] for band in bands] == pytest.approx([2**0.5] * 3)
    # 5 of 16 rows of the second band leave the frame too
    assert [band["share_matched"] for band in bands] == [0.25, 0.25 * 11 / 16, 0]
    assert math.isnan(bands[2]["epe_matched"])


def test_distribution_of_displacements():
    truth = constant(1, 0, (70, 100))
    truth[:, 50:] = (40, 0)
    moves = fields.displacements([pair_of(truth)], 30, (0, 8, 32))
    assert moves["mean"] == pytest.approx(20.5, abs=0.2) and moves["p90"] == moves["most"] == 40
    assert moves["longer_than_side"] == pytest.approx(0.5, abs=0.01)
    assert moves["occluded"] == pytest.approx(0.4, abs=0.01)  # the last 40 columns
    assert moves["longer_than_side_matched"] == pytest.approx(1 / 6, abs=0.01)
    assert moves["histogram"] == pytest.approx([0.5, 0, 0.5], abs=0.01)


def test_pairs_of_scenes_know_what_is_occluded():
    settings = {"sizes": [[64, 80]], "texture_count": 2, "motion": 20.0}
    pairs = list(fields.read_pairs(open_source("synthetic-flow", split="val", settings=settings), 2))
    assert [pair.image.shape for pair in pairs] == [(64, 80, 3)] * 2 and pairs[0].name != pairs[1].name
    assert all(pair.occluded is not None and (pair.gone() >= pair.occluded).all() for pair in pairs)


def test_pairs_of_a_long_set_are_spread():
    @dataclasses.dataclass
    class Numbers:
        dataset: list
        name: str = "numbers"
        reader = staticmethod(lambda example, rng: FlowSample(IMAGE, IMAGE, FLOW))

        def __len__(self):
            return len(self.dataset)

        def examples(self, length=None):
            return ({"index": i, **self.dataset[i]} for i in range(min(length or 99, len(self.dataset))))

    class Scene(FlowSample):
        def occlusion(self, box):
            return np.zeros(box[2:], bool)

    Numbers.reader = staticmethod(lambda example, rng: Scene(IMAGE, IMAGE, FLOW))
    source = Numbers([{"name": f"n{i}"} for i in range(10)])
    assert [pair.name for pair in fields.read_pairs(source, 3)] == ["n0", "n3", "n6"]
    assert len(list(fields.read_pairs(source, None))) == 10


IMAGE, FLOW = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32, 2), np.float32)


# ------------------------------------------------------------------ one pass against tiles


def network_of(variant: str = "matching") -> Network:
    model = make("flow", variant)
    return Network(model, WinWinImageProcessor(patch_size=model.config.patch_size), Accelerator(), "flow")


def scenes(size=(48, 64), count=2) -> FlowSet:
    settings = {"sizes": [list(size)], "texture_count": 2, "motion": 30.0}
    return FlowSet("scenes", "scenes", open_source("synthetic-flow", split="val", settings=settings), count)


def test_a_tile_that_covers_the_frame_is_one_pass():
    result = tiles.compare(network_of(), scenes(), (48, 64), (0.0, 0.5))
    assert {way["passes"] for way in result["ways"].values()} == {1}
    assert len({way["epe"] for way in result["ways"].values()}) == 1
    assert result["held"]["tiled-0"]["beyond"]["share"] == 0 and result["held"]["tiled-0"]["gone"]["share"] > 0
    assert math.isnan(result["seams"]["tiled-0.5"]["tiled"]["jump_seam"])


def test_tiles_are_compared_with_one_pass_at_the_same_places():
    result = tiles.compare(network_of(), scenes(), (24, 32), (0.0, 0.5))
    assert [way["passes"] for way in result["ways"].values()] == [1, 4, 9]
    seams = result["seams"]["tiled-0"]
    assert seams["tiled"]["true_jump_seam"] == seams["direct"]["true_jump_seam"]
    assert (
        seams["tiled"]["jump_ratio"] > seams["direct"]["jump_ratio"]
    )  # a random network's tiles know nothing of one another
    shares = [group["share"] for group in result["held"]["tiled-0"].values()]
    assert sum(shares) == pytest.approx(1) and shares[1] > result["held"]["tiled-0.5"]["beyond"]["share"]
    assert sum(band["share"] for band in result["ways"]["direct"]["bands"]) == pytest.approx(1)


def test_score_is_the_mean_over_all_pixels():
    network, frames = network_of("conv"), scenes()
    found = tiles.score(network, frames.read(), Way(), (0.0, 8.0))
    errors = [fields.errors_of(tiles.predict(network, pair).flow, pair.flow)[0] for pair in frames.read()]
    assert found["epe"] == pytest.approx(float(np.mean(errors)), rel=1e-5)
    lengths = [np.hypot(pair.flow[..., 0], pair.flow[..., 1]) for pair in frames.read()]
    assert found["zero"] == pytest.approx(float(np.mean(lengths)), rel=1e-5)
    assert found["relative"] == pytest.approx(100 * found["epe"] / found["zero"])
    assert found["pairs"] == 2 and found["passes"] == 1


def test_real_sets_are_those_of_the_command_line(tmp_path, shared_data):
    sets = tiles.real_sets(Context(data={"sintel": str(shared_data / "Sintel"), "textures": "nowhere"}), 2)
    assert [one.key for one in sets] == ["sintel-clean"]
    pairs = list(sets[0].read())
    assert len(pairs) == 2 and pairs[0].size == (436, 1024) and np.isfinite(pairs[0].flow).all()


# ------------------------------------------------------------------ second windows


def second_windows(rule: SecondStrategy):
    image, truth = np.zeros((320, 320, 3), np.uint8), constant(64, 32, (320, 320))  # 4 patches right, 2 down
    strategy = Strategy("windows", count=2, size=(4, 4))
    batch = WinWinCollator(lambda example, rng: FlowSample(image, image, truth), strategy, "flow", second=rule)
    made = batch([{"index": i} for i in range(8)])
    return made["window_positions"], made["second_window_positions"]


def test_symmetric_windows_stay_where_the_first_ones_lie():
    first, second = second_windows(SecondStrategy(size=(4, 4), jitter=0.0, motion_share=0.0))
    assert torch.equal(first, second)
    first, second = second_windows(SecondStrategy(size=(4, 4), jitter=0.0))
    assert not torch.equal(first, second)
    free = (first + torch.tensor([2, 4])).clamp(max=16)
    assert torch.equal(second, free)


# ------------------------------------------------------------------ recipes


def test_recipes_have_the_papers_tokens():
    counts = {key: flow.tokens(flow.recipe_of(key)) for key in ("windows", "crops", "full", "four", "one", "symmetric")}
    assert counts == {
        "windows": (72, 200),
        "crops": (132, 132),
        "full": (768, 768),
        "four": (64, 196),
        "one": (72, 196),
        "symmetric": (72, 72),
    }
    spring = (1080, 1920)
    large = {
        name: flow.tokens(load_recipe(RECIPES / f"flow-{name}-base.yaml"), spring)
        for name in ("windows", "windows-4", "crops", "full")
    }
    assert large == {"windows": (200, 450), "windows-4": (196, 484), "crops": (480, 480), "full": (8160, 8160)}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("flow-*.yaml")), ids=lambda path: path.stem)
def test_recipes_build(path):
    recipe = load_recipe(path)
    with torch.device("meta"):
        model = WinWinForOpticalFlow(recipe.config())
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    assert 200 < millions < 240 if path.stem.endswith("-base") else 1 < millions < 4
    assert recipe.optimization.steps % recipe.evaluation.every == 0
    assert recipe.data.name == ("spring" if path.stem.endswith("-base") else "synthetic-flow")


def test_small_recipes_differ_in_what_is_compared_alone():
    recipes = {key: dataclasses.asdict(flow.recipe_of(key)) for key in flow.KINDS}
    free = {"windows", "second_windows", "output", "evaluation", "optimization"}
    first = recipes["windows"]
    for key, recipe in recipes.items():
        assert {k: v for k, v in recipe.items() if k not in free | {"model"}} == {
            k: v for k, v in first.items() if k not in free | {"model"}
        }, key
        assert recipe["model"]["config"] == first["model"]["config"]
        changed = {k for k, v in recipe["optimization"].items() if v != first["optimization"][k]}
        assert changed <= {"steps", "batch_size"}, key
        assert recipe["evaluation"]["sets"] == first["evaluation"]["sets"]
    for key in (*flow.SECOND_WINDOWS, *flow.FLOW_WINDOWS):
        if key != "windows":
            assert {
                k for k in first["optimization"] if recipes[key]["optimization"][k] != first["optimization"][k]
            } == {"steps"}


def test_tables_end_where_figure_1_is_scored():
    short, whole = load_recipe(RECIPES / flow.SHORT), flow.recipe_of("windows")
    assert short.optimization.steps < whole.optimization.steps
    assert short.optimization.steps % whole.evaluation.every == 0
    assert whole.optimization.final_share == 1.0 and whole.evaluation.windows == short.evaluation.windows > 0
    assert (short.windows, short.second_windows) == (whole.windows, whole.second_windows)


def test_a_steps_tokens_are_about_the_same():
    steps = {
        key: sum(flow.tokens(flow.recipe_of(key))) * flow.recipe_of(key).optimization.batch_size for key in flow.FIGURE1
    }
    assert max(steps.values()) < 1.6 * min(steps.values())


def test_zero_flow_is_scored_on_the_windows_of_the_evaluation():
    """As a network that says zero is, by the training's own evaluation."""

    class Still(torch.nn.Module):
        config = types.SimpleNamespace(patch_size=16)

        def forward(self, pixel_values, labels=None, **_):
            batch, count, _, height, width = pixel_values.shape
            return WinWinOpticalFlowOutput(flow=torch.zeros(batch, count, 2, height, width))

    recipe = load_recipe(RECIPES / flow.SHORT, ["evaluation.windows=3", "data.settings.texture_count=2"])
    found = evaluate_windows(Still(), recipe, Accelerator())
    assert flow.zero_on_windows(recipe)["epe"] == pytest.approx(found["epe"], rel=1e-6) and found["epe"] > 1


# ------------------------------------------------------------------ logits


def test_logits_are_scaled_and_put_back():
    network, pair = network_of(), next(iter(scenes().read()))
    recipe = flow.recipe_of("windows")
    before = tiles.predict(network, pair).flow
    ratios = flow.log_ratios(network.model, recipe, 3072)
    assert ratios["self"] == pytest.approx(math.log(3072) / math.log(72))
    assert ratios["cross"] == pytest.approx(math.log(3072) / math.log(200))
    assert ratios["encoder"] == pytest.approx(2 * math.log(3072) / (math.log(72) + math.log(200)))
    assert ratios["matching"] == pytest.approx(math.log(4 * 3072) / math.log(800))

    def change(attention: float, matching: float, ratios=ratios) -> float:
        with flow.scaled_logits(network.model, ratios, attention, matching):
            return float(np.abs(tiles.predict(network, pair).flow - before).max())

    assert change(0, 0) == 0
    assert change(1, 0) > 1e-3 and change(0, 1) > 1e-3
    ones = dict.fromkeys(ratios, 1.0)
    assert change(1, 1, ones) == 0
    # each of the parts is reached
    for name in ratios:
        assert change(1, 1, {**ones, name: 1.5}) > 1e-5, name
    assert change(0, 0) == 0  # as it was


def test_only_the_global_matching_is_scaled():
    model = make("flow", "matching")
    seen = []
    attend = model.matching.attend
    model.matching.attend = lambda query, *rest, **options: (
        seen.append(query.clone()),
        attend(query, *rest, **options),
    )[1]
    views = torch.randn(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        model(views[0], views[1])
        with flow.scaled_logits(model, dict.fromkeys(("encoder", "self", "cross"), 1.0) | {"matching": 2.0}, 1, 1):
            model(views[0], views[1])
        model(views[0], views[1])
    assert len(seen) == 6 and torch.equal(seen[4], seen[0])
    torch.testing.assert_close(seen[2], 2 * seen[0])
    assert seen[3].norm(dim=-1).mean() == pytest.approx(float(seen[1].norm(dim=-1).mean()), rel=1e-3)


# ------------------------------------------------------------------ results of what there is


@pytest.fixture
def context(tmp_path, monkeypatch) -> Context:
    """Small frames, few of them, and no training: folders are made by `finish`."""
    monkeypatch.setattr(flow, "held_out", lambda: scenes((192, 256), 1))
    monkeypatch.setattr(flow, "SIZES", ((96, 128), (192, 256)))
    monkeypatch.setattr(flow, "LOGIT_SIZES", ((64, 96),))
    for module, name in ((flow, "SIZE_PAIRS"), (flow, "LOGIT_PAIRS"), (flow, "TIMED_PAIRS")):
        monkeypatch.setattr(module, name, 1)
    monkeypatch.setattr(flow, "zero_on_windows", lambda recipe: {"epe": 20.0})
    return Context(
        tmp_path / "work", tmp_path / "results", draw_only=False, seeds=1, console=Console(file=io.StringIO())
    )


def finish(context: Context, key: str, seed: int = 0) -> Path:
    """A finished training's folder, its network random, its curve falling."""
    kind = flow.KINDS[key]
    recipe = load_recipe(RECIPES / kind.recipe, [*kind.overrides, f"optimization.seed={seed}"])
    folder = context.work / "flow" / f"{key}-{seed}"
    folder.mkdir(parents=True)
    model = WinWinForOpticalFlow(recipe.config())
    save_model(model, folder, recipe)
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    (folder / "machine.json").write_text(json.dumps({"accelerator": None, "threads": 1}))
    lines = [{"step": 1, "loss": 9.0, "gb": 1.5, "seconds": 1.0, "cpu_seconds": 1.0}]
    for step in range(recipe.evaluation.every, recipe.optimization.steps + 1, recipe.evaluation.every):
        spent = {"seconds": 0.5 * step, "cpu_seconds": 0.4 * step}
        scores = {"windows": {"epe": 20 - step / 200}, "frames": {"epe": 30 - step / 100 + seed}}
        lines.append({"step": step, **scores, **spent})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def result(context: Context, name: str) -> tuple[dict, str]:
    for suffix in (".png", ".md", ".json"):
        assert (context.output / f"{name}{suffix}").stat().st_size > 100
    return json.loads((context.output / f"{name}.json").read_text()), (context.output / f"{name}.md").read_text()


def test_figure_1(context):
    for key in flow.FIGURE1:
        finish(context, key)
    flow.figure1(context)
    found, text = result(context, "figure1-flow")
    assert set(found["kinds"]) == {"windows", "crops", "full", "crops-tiled"}
    run = found["kinds"]["full"]["runs"][0]
    options = flow.recipe_of("full").optimization
    assert run["seconds_per_pair"] == pytest.approx(0.4 / options.batch_size)
    assert run["curve"][-1] == [pytest.approx(0.4 * options.steps / 60), pytest.approx(30 - options.steps / 100)]
    assert run["frames"]["passes"] == 1 and found["kinds"]["crops-tiled"]["runs"][0]["frames"]["passes"] == 4
    assert "longer than a crop is high (176 px)" in text and "1 seed" not in text
    # asked a second time nothing is predicted, nothing trained
    flow.figure1(dataclasses.replace(context, draw_only=True))


def test_figure_1_of_what_there_is(context):
    finish(context, "windows")
    finish(context, "windows", 1)
    finish(context, "crops")
    full = finish(context, "full")
    context = dataclasses.replace(context, seeds=2)
    # a second seed of two kinds, and the third kind, are not there yet
    (full / "model" / "config.json").unlink()
    asked = dataclasses.replace(context, draw_only=True)
    flow.figure1(asked)
    assert not context.output.exists() or not list(context.output.glob("*.png"))  # nothing was scored
    monkey = flow.train_all
    try:
        flow.train_all = lambda runs, context: monkey(runs, dataclasses.replace(context, draw_only=True))
        flow.figure1(context)
    finally:
        flow.train_all = monkey
    found, text = result(context, "figure1-flow")
    assert [len(kind["runs"]) for kind in found["kinds"].values()] == [2, 1, 0, 1]
    assert "| - |" in text


def test_figure_5(context):
    for key in flow.FIGURE1:
        finish(context, key)
    flow.figure5(context)
    found, text = result(context, "figure5-flow")
    assert "192x256" in text and len(found["kinds"]["windows"]["runs"]) == 1
    tiled, crops = (found["kinds"][key]["runs"][0]["0"]["relative"] for key in ("crops-tiled", "crops"))
    assert tiled == crops  # the smallest frame fits into one tile


def test_tables_compare_with_figure_1_at_their_step(context):
    for key in flow.FLOW_WINDOWS:
        finish(context, key)
    flow.table_flow_windows(context)
    found, text = result(context, "table-flow-windows")
    step = load_recipe(RECIPES / flow.SHORT).optimization.steps
    assert found["step"] == step
    runs = {key: kind["runs"][0] for key, kind in found["kinds"].items()}
    assert runs["windows"]["frames_epe"] == runs["four"]["frames_epe"] == 30 - step / 100
    assert runs["windows"]["seconds"] == pytest.approx(0.4 * step)
    assert runs["windows"]["windows"] == pytest.approx(100 * (20 - step / 200) / 20)
    assert "2 of 6x6 (as in figure 1)" in text


def test_logit_scaling_without_trainings(context, monkeypatch):
    monkeypatch.setattr(flow, "VARIANTS", {key: flow.VARIANTS[key] for key in flow.DRAWN})
    flow.logit_scaling(context)
    found, text = result(context, "logit-scaling-flow")
    assert list(found["results"]) == [tiles.CHECKPOINT]
    one = found["results"][tiles.CHECKPOINT]["sizes"]["64x96"]
    assert one["tokens"] == 24 and set(one["variants"]) == set(flow.DRAWN)
    assert one["variants"]["both"]["epe"] != one["variants"]["none"]["epe"]
    assert "zero flow" in text


def test_figure_4(context, monkeypatch):
    monkeypatch.setattr(tiles, "SIZE", (160, 192))
    monkeypatch.setattr(tiles, "TILES", ((64, 96), (96, 96)))
    monkeypatch.setattr(tiles, "PICTURED", ((25.0, (64, 96)),))
    monkeypatch.setattr(tiles, "FIGURE4_PAIRS", 1)
    tiles.figure4(context)
    found, text = result(context, "figure4")
    assert list(found["results"]) == [f"synthetic-{m}-{t}" for m in (25, 30) for t in ("64x96", "96x96")]
    seams = found["results"]["synthetic-25-64x96"]["seams"]["tiled-0"]
    assert seams["tiled"]["excess_seam"] > seams["direct"]["excess_seam"]
    assert "no tile does" in text
    tiles.figure4(dataclasses.replace(context, draw_only=True))


def test_tiling_with_one_backbone(context, monkeypatch):
    monkeypatch.setattr(tiles, "SIZE", (160, 192))
    monkeypatch.setattr(tiles, "CROCO_TILE", (96, 128))
    monkeypatch.setattr(tiles, "CROCO_OVERLAPS", (0.5, 0.7))
    monkeypatch.setattr(tiles, "TILING_PAIRS", 1)
    tiles.tiling_backbone(context)
    found, _ = result(context, "tiling-backbone")
    ways = found["results"]["synthetic"]["ways"]
    assert [way["passes"] for way in ways.values()] == [1, 6, 12]
    assert ways["tiled-0.7"]["cpu_seconds"] > ways["direct"]["cpu_seconds"]


def test_nothing_there_is_said(context):
    asked = dataclasses.replace(context, draw_only=True)
    for experiment in (flow.figure1, flow.figure5, flow.table_second_windows, flow.logit_scaling, tiles.figure4):
        experiment(asked)
    assert not context.output.exists()
    assert "nothing is" in context.console.file.getvalue()
