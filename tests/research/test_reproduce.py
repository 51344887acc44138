"""The harness of the experiments (trainings are begun, resumed, never doubled) and the segmentation experiments, on tiny runs."""

import json
import math
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import reproduce
import torch
import yaml
from PIL import Image
from research.experiments import draw, runs, segmentation, segmentation_logits
from research.experiments.runs import Context, Job, Run, measured, read_metrics, train_all, write_result
from rich.console import Console
from support.places import FRAMES, ROOT

from winwin_hf import WinWinForSemanticSegmentation
from winwin_hf.cli.errors import UsageError
from winwin_hf.data.benchmarks import catalog
from winwin_hf.model.layers_winwin import WinWinAttention
from winwin_hf.training.recipe import load_recipe

CAMVID = FRAMES / "CamVid"
TINY = {
    "task": "semantic-segmentation",
    "model": {"config": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "head_hidden_size": 32}},
    "data": {"name": "camvid", "path": str(CAMVID), "settings": {"scale": [1.0, 1.0]}},
    "windows": {"kind": "windows", "count": 2, "size": [2, 2]},
    "optimization": {"steps": 4, "batch_size": 2, "warmup_steps": 1, "final_share": 1.0, "num_workers": 0},
    "evaluation": {"every": 2, "windows": 0, "sets": [{"label": "frames"}]},
    "save_every": 2,
    "log_every": 1,
    "trackers": [],
}

# Behaves as scripts/train.py does, but learns nothing: a step is a fiftieth of a second. A folder whose name has "broken" fails.
FAKE = """
import json, os, signal, sys, time, yaml
from pathlib import Path

out = Path(sys.argv[sys.argv.index("--output") + 1])
recipe = yaml.safe_load(Path(sys.argv[1]).read_text())
for word, value in zip(sys.argv, sys.argv[1:]):
    if word == "--set":
        key, _, text = value.partition("=")
        *sections, name = key.split(".")
        target = recipe
        for section in sections:
            target = target.setdefault(section, {})
        target[name] = yaml.safe_load(text)
(out / "recipe.yaml").write_text(yaml.safe_dump(recipe))
with (out.parent / "began.txt").open("a") as file:
    file.write(f"{out.name} {time.time()} {os.environ['OMP_NUM_THREADS']}\\n")
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
if "broken" in out.name:
    print("step 1\\rstep 2\\rsomething is wrong")
    sys.exit(3)
states = sorted(out.glob("state-*"))
step = int(states[-1].name[6:]) if states else 0
steps = recipe["optimization"]["steps"]
with (out / "metrics.jsonl").open("a") as log:
    while step < steps and not asked:
        time.sleep(0.02)
        step += 1
        log.write(json.dumps({"step": step, "loss": 1 / step, "gb": 1.0, "seconds": step, "cpu_seconds": 2 * step}) + "\\n")
        log.flush()
        if step == steps:
            line = {"step": step, "frames": {"miou": 30.0}, "seconds": step, "cpu_seconds": 2 * step}
            log.write(json.dumps(line) + "\\n")
(out / f"state-{step:08d}").mkdir(exist_ok=True)
if step == steps:
    (out / "model").mkdir()
    (out / "model" / "config.json").write_text("{}")
with (out.parent / "ended.txt").open("a") as file:
    file.write(f"{out.name} {time.time()} {step}\\n")
"""


@pytest.fixture
def fake(tmp_path, monkeypatch) -> Path:
    """A recipe whose trainings only pretend, and that nobody waits long for."""
    script = tmp_path / "fake_train.py"
    script.write_text(FAKE)
    monkeypatch.setattr(runs, "TRAIN", script)
    monkeypatch.setattr(runs, "PAUSE", 0.02)
    return recipe(tmp_path)


def recipe(folder: Path, **changes) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**json.loads(json.dumps(TINY)), **changes}))
    return path


def context(folder: Path, **options) -> Context:
    quiet = Console(file=(folder / "console.txt").open("a"), width=200)
    options = {"data": {"camvid": str(CAMVID)}, "seeds": 1, **options}
    return Context(work=folder / "work", output=folder / "results", console=quiet, **options)


def notes(folder: Path, name: str) -> list[list[str]]:
    """What the fake trainings noted: [folder, time, something]."""
    path = folder / "work" / "t" / name
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


# ------------------------------------------------------------------ trainings


def test_trains_as_many_at_a_time_as_told_and_each_once(fake, tmp_path):
    wanted = [Run(f"t/{name}", fake, ("optimization.steps=20",)) for name in "abcd"]
    here = context(tmp_path, jobs=2, threads=3)
    folders = train_all([*wanted, wanted[0]], here)
    assert folders == {f"t/{name}": tmp_path / "work" / "t" / name for name in "abcd"}
    assert all((folder / "model" / "config.json").is_file() for folder in folders.values())
    began, ended = notes(tmp_path, "began.txt"), notes(tmp_path, "ended.txt")
    assert [{line[0] for line in part} for part in (began[:2], began[2:])] == [{"a", "b"}, {"c", "d"}]
    assert {line[2] for line in began} == {"3"}  # threads
    events = sorted([(float(t), 1) for _, t, _ in began] + [(float(t), -1) for _, t, _ in ended])
    at_a_time = [sum(change for _, change in events[: i + 1]) for i in range(len(events))]
    assert max(at_a_time) == 2
    assert train_all(wanted, here) == folders
    assert len(notes(tmp_path, "began.txt")) == 4  # nothing was begun again


def test_sigterm_ends_the_trainings_and_the_next_call_goes_on(fake, tmp_path):
    run = Run("t/a", fake, ("optimization.steps=80",))
    here = context(tmp_path)

    def ask_once_it_trains():
        while runs.steps_done(tmp_path / "work" / "t" / "a") < 3:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask_once_it_trains).start()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        train_all([run], here)
    assert signal.getsignal(signal.SIGTERM) == before
    [[_, _, stopped_at]] = notes(
        tmp_path, "ended.txt"
    )  # it ended by itself, with a state, and before this call returned
    assert 3 <= int(stopped_at) < 80
    folder = train_all([run], here)["t/a"]
    steps = [line["step"] for line in read_metrics(folder) if "loss" in line]
    assert steps == list(range(1, 81))  # no step twice
    assert f"from step {stopped_at}" in (tmp_path / "console.txt").read_text()


def test_an_orphan_is_waited_for_not_doubled(fake, tmp_path):
    run = Run("t/a", fake, ("optimization.steps=40",))
    folder = tmp_path / "work" / "t" / "a"
    orphan = Job(run, folder, 40, 1)
    orphan.begin()  # as by a program that was then killed: nobody waits for it
    folders = train_all([run], context(tmp_path))
    assert folders == {"t/a": folder}
    assert len(notes(tmp_path, "began.txt")) == 1
    orphan.wait()


def test_an_orphan_that_dies_is_taken_over(fake, tmp_path):
    run = Run("t/a", fake, ("optimization.steps=60",))
    folder = tmp_path / "work" / "t" / "a"
    orphan = Job(run, folder, 60, 1)
    orphan.begin()

    def kill_once_it_trains():
        while runs.steps_done(folder) < 3:
            time.sleep(0.01)
        orphan.process.kill()
        orphan.wait()

    threading.Thread(target=kill_once_it_trains).start()
    assert train_all([run], context(tmp_path)) == {"t/a": folder}
    assert len(notes(tmp_path, "began.txt")) == 2


def test_a_failure_ends_with_its_last_lines_after_the_others(fake, tmp_path):
    wanted = [Run("t/broken", fake), Run("t/a", fake)]
    with pytest.raises(
        RuntimeError, match=r"1 of 2 trainings failed\nt/broken: exit code 3; (.|\n)*something is wrong"
    ):
        train_all(wanted, context(tmp_path))
    assert list(train_all(wanted, context(tmp_path, draw_only=True))) == ["t/a"]


def test_a_folder_of_another_recipe_is_no_result(fake, tmp_path):
    train_all([Run("t/a", fake)], context(tmp_path))
    with pytest.raises(ValueError, match=r"a: trained by another recipe .*\(optimization differ\)"):
        train_all([Run("t/a", fake, ("optimization.learning_rate=0.5",))], context(tmp_path))
    moved = Run("t/a", fake, ("data.path=elsewhere", "evaluation.every=1", "log_every=7"))
    assert train_all([moved], context(tmp_path))  # the same training


def test_one_name_means_one_run(fake, tmp_path):
    with pytest.raises(ValueError, match="two runs are called t/a"):
        train_all([Run("t/a", fake), Run("t/a", fake, ("optimization.seed=1",))], context(tmp_path))


def test_seeds_come_in_turns(tmp_path):
    here = context(tmp_path, seeds=2)
    kinds = [runs.seeds(here, f"t/{key}", "seg-full.yaml", key, "camvid", ("save_every=1",)) for key in "ab"]
    ordered = runs.seed_by_seed(kinds)
    assert [run.name for run in ordered] == ["t/a-0", "t/b-0", "t/a-1", "t/b-1"]
    assert ordered[2].overrides == (f"data.path={CAMVID}", "save_every=1", "optimization.seed=1")
    assert ordered[0].recipe.is_file()


# ------------------------------------------------------------------ what a folder tells


def write_metrics(folder: Path, lines: list[dict], end: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + end)
    return folder


LINES = [
    {"step": 1, "loss": 2.0, "gb": 0.9, "cpu_seconds": 10.0, "seconds": 11.0},
    {"step": 2, "loss": 1.5, "gb": 1.1, "cpu_seconds": 20.0, "seconds": 22.0},
    {"step": 2, "frames": {"miou": 12.5}, "tiles": {"miou": 14.0}, "cpu_seconds": 20.0, "seconds": 22.0},
    {"step": 4, "loss": 1.0, "gb": 3.0, "cpu_seconds": 40.0, "seconds": 44.0},
    {"step": 4, "frames": {"miou": 25.0}, "cpu_seconds": 40.0, "seconds": 44.0},
]


def test_curve_time_and_memory_of_a_log(tmp_path):
    folder = write_metrics(tmp_path, LINES, end='{"step": 5, "loss":')  # the last line is being written
    assert runs.steps_done(folder) == 4
    assert runs.curve(folder, "frames", "miou") == [
        {"step": 2, "cpu_seconds": 20.0, "seconds": 22.0, "value": 12.5},
        {"step": 4, "cpu_seconds": 40.0, "seconds": 44.0, "value": 25.0},
    ]
    assert [point["value"] for point in runs.curve(folder, "tiles", "miou")] == [14.0]
    assert runs.spent(folder) == 40.0
    assert runs.memory(folder) == 1.1  # not that of the evaluations
    (folder / "machine.json").write_text(json.dumps({"accelerator": "a GPU"}))
    assert runs.spent(folder) == 44.0


def test_memory_is_beyond_the_idle_process_where_that_is_known(tmp_path):
    folder = write_metrics(tmp_path, [{**LINES[0], "idle_gb": 0.5}, *LINES[1:]])
    assert runs.memory(folder) == pytest.approx(0.6)
    (folder / "machine.json").write_text(json.dumps({"accelerator": "a GPU"}))
    assert runs.memory(folder) == 1.1  # there the weights would be subtracted too


def test_a_training_that_said_nothing_yet(tmp_path):
    assert runs.curve(tmp_path, "frames", "miou") == []
    assert math.isnan(runs.memory(tmp_path)) and math.isnan(runs.spent(tmp_path))


def test_measured_asks_once(tmp_path):
    asked = []

    def ask():
        asked.append(1)
        return {"miou": torch.tensor(3.5), "gone": math.nan}

    here, folder = context(tmp_path), tmp_path / "work" / "a-0"
    assert measured(context(tmp_path, draw_only=True), "scale-2", folder, ask) is None
    for _ in range(2):
        assert measured(here, "scale-2", folder, ask) == {"miou": 3.5, "gone": None}
    assert asked == [1]
    with pytest.raises(KeyError):  # what fails leaves nothing behind
        measured(here, "other", folder, lambda: {}["x"])
    assert [path.name for path in (folder / "scores").iterdir()] == ["scale-2.json"]


def test_plus_minus_and_seeds():
    assert runs.plus_minus([30.0, None, 32.0, 30.4]) == "30.8 ± 1.0"
    assert (runs.plus_minus([30.0]), runs.plus_minus([None])) == ("30.0", "-")
    assert [runs.seeds_text(c) for c in ([3, 3], [1, 1], [1, 2], [0])] == [
        "3 seeds",
        "1 seed",
        "1 to 2 seeds",
        "0 seeds",
    ]


def test_a_result_says_where_it_comes_from(tmp_path, monkeypatch):
    findings = tmp_path / "findings.yaml"
    findings.write_text("thing: Windows are as good as full frames.\n")
    monkeypatch.setattr(runs, "FINDINGS", findings)
    shown = {"columns": ["training", "mIoU"], "rows": [["a | b", 31.26], ["c", math.nan]], "note": "In percent."}
    here = context(tmp_path, data={"camvid": "/secret/place/CamVid"}, seeds=2)
    path = write_result(here, "thing", {"title": "A thing", "about": "About it.", "tables": [shown], "value": math.inf})
    record = json.loads(path.read_text())
    assert record["command"] == "python scripts/reproduce.py thing --data camvid=CamVid --seeds 2"
    assert record["value"] is None and record["machine"]["cores"] == os.cpu_count() and record["version"]
    text = path.with_suffix(".md").read_text()
    assert "secret" not in text + path.read_text()
    assert text.startswith("# A thing\n\n```bash\npython scripts/reproduce.py thing")
    assert "| a \\| b | 31.3 |\n| c | - |\n\nIn percent." in text
    assert text.endswith("doesn't\n\nWindows are as good as full frames.\n")
    assert "thing.png" not in text
    (here.output / "thing.png").touch()
    write_result(here, "thing", {"title": "A thing"})
    assert "![A thing](thing.png)" in path.with_suffix(".md").read_text()


# ------------------------------------------------------------------ recipes


@pytest.mark.parametrize("path", sorted(runs.RECIPES.glob("seg-*.yaml")), ids=lambda path: path.stem)
def test_recipes_load_and_build(path):
    loaded = load_recipe(path)
    entry = catalog.entry_of(loaded.data.name)
    with torch.device("meta"):
        model = WinWinForSemanticSegmentation(loaded.config(id2label=dict(enumerate(entry.labels))))
    base = path.stem.endswith("-base")
    parameters = sum(p.numel() for p in model.parameters())
    assert (85e6 < parameters < 95e6) if base else (4e6 < parameters < 5e6)
    assert len(model.config.global_blocks) == (4 if "vitdet" in path.stem else model.config.num_hidden_layers)
    options = loaded.optimization
    assert options.steps % loaded.evaluation.every == 0 and 5 <= options.steps / loaded.evaluation.every <= 6
    assert learning_rates(loaded) == {options.learning_rate}
    assert loaded.data.settings == {"scale": [1.0, 1.0]}


def learning_rates(loaded) -> set[float]:
    from winwin_hf.training.build import learning_rate

    steps = range(loaded.optimization.warmup_steps, loaded.optimization.steps, 7)
    return {learning_rate(loaded.optimization, step) for step in steps}


def test_token_counts_are_the_papers():
    grid = segmentation.grid_of(720, 1280)
    counts = {
        path.stem: segmentation.tokens(load_recipe(path).windows, grid) for path in runs.RECIPES.glob("seg-*-base.yaml")
    }
    assert counts == {
        "seg-windows-base": 968,
        "seg-full-base": 3600,
        "seg-vitdet-base": 3600,
        "seg-crops-base": 961,
    }


def test_token_counts_here_are_nearly_equal():
    grid = segmentation.grid_of(*segmentation.FRAME)
    counts = {key: segmentation.tokens(segmentation.recipe_of(key).windows, grid) for key in segmentation.KINDS}
    assert {counts.pop(key) for key in ("full", "full-small", "vitdet")} == {690}
    assert counts.pop("windows") == 162
    assert all(156 <= count <= 168 for count in counts.values())


def test_methods_of_figure_1_differ_in_nothing_else():
    loaded = {key: segmentation.recipe_of(key) for key in ("windows", "crops", "full", "full-small", "vitdet")}
    for one in loaded.values():
        one.output, one.windows, one.save_every, one.evaluation.every = "", None, 0, 0
        one.optimization.steps = 0
    loaded["full-small"].optimization.batch_size = 4
    for key in ("attention_pattern", "attention_cell_size"):
        del loaded["vitdet"].model.config[key]
    assert all(one == loaded["windows"] for one in loaded.values())


# ------------------------------------------------------------------ experiments on fabricated trainings


def fabricate(here: Context, keys, seeds: int = 1) -> None:
    """Finished trainings that never were, with scores that grow along the training."""
    for key in keys:
        for seed in range(seeds):
            folder = here.work / "segmentation" / f"{key}-{seed}"
            lines = []
            for i in range(1, 6):
                step = 100 * i
                times = {"cpu_seconds": 76.0 * i, "seconds": 80.0 * i}
                lines.append({"step": step, "loss": 1 / i, "gb": 0.8, **times})
                lines.append({"step": step, "frames": {"miou": 6.0 * i + seed + len(key) / 4}, **times})
            write_metrics(folder, lines)
            (folder / "model").mkdir(exist_ok=True)
            (folder / "model" / "config.json").write_text("{}")
            for name in (
                "tiled",
                *(f"scale-{s:g}" for s in segmentation.SCALES),
                *(f"scale-{s:g}-logits" for s in (1, 1.5, 2)),
            ):
                (folder / "scores").mkdir(exist_ok=True)
                (folder / "scores" / f"{name}.json").write_text(json.dumps({"miou": 20.0 + seed + len(name)}))


SEGMENTATION = {**segmentation.EXPERIMENTS, **segmentation_logits.EXPERIMENTS}


@pytest.mark.parametrize("name", SEGMENTATION)
def test_experiments_are_drawn_from_what_there_is(name, tmp_path):
    here = context(tmp_path, draw_only=True, seeds=3, data={})
    SEGMENTATION[name].function(here)  # nothing at all yet
    assert "| - |" in (here.output / f"{name}.md").read_text() and not (here.output / f"{name}.png").exists()
    fabricate(here, ["windows", "crops"])
    SEGMENTATION[name].function(here)  # two kinds, one seed
    with Image.open(here.output / f"{name}.png") as picture:
        assert min(picture.size) > 300
        assert picture.convert("RGB").getpixel((1, 1)) == (255, 255, 255)
    fabricate(here, segmentation.KINDS, seeds=2)
    SEGMENTATION[name].function(here)
    text = (here.output / f"{name}.md").read_text()
    assert f"![{json.loads((here.output / f'{name}.json').read_text())['title']}]({name}.png)" in text
    assert "± 0.5" in text  # of two seeds that differ by 1
    assert "| - |" not in text
    assert not (here.work / "t").exists()


def test_figure_1_gives_each_curve_and_the_tiled_point(tmp_path):
    here = context(tmp_path, draw_only=True, seeds=2)
    fabricate(here, segmentation.KINDS, seeds=2)
    segmentation.figure1(here)
    record = json.loads((here.output / "figure1-segmentation.json").read_text())
    kinds = {kind["key"]: kind for kind in record["kinds"]}
    assert [point["cpu_seconds"] for point in kinds["full"]["runs"][1]["curve"]] == [76.0 * i for i in range(1, 6)]
    assert [run["tiled_miou"] for run in kinds["crops"]["runs"]] == [25.0, 26.0]
    [tiled] = [row for row in record["tables"][0]["rows"] if "tiles" in row[0]]
    assert tiled[1:] == [156, segmentation.recipe_of("crops").optimization.steps, "6.3", "0.80", 2, "25.5 ± 0.5"]


def test_seeds_without_all_scales_are_no_curve():
    found = {1.0: [30.0, 31.0, 32.0], 2.0: [25.0, None, 27.0]}
    assert segmentation.across(found) == [[(1.0, 30.0), (2.0, 25.0)], [(1.0, 32.0), (2.0, 27.0)]]


def test_colours_tell_kinds_apart():
    assert draw.colour_of("crops-tiled") != draw.colour_of("crops") != draw.colour_of("windows")
    taken = []
    for key in ("windows", "x", "y", "full", "z"):
        taken.append(draw.colour_of(key, taken))
    assert len(set(taken)) == 5


# ------------------------------------------------------------------ the real thing, tiny


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Two real trainings of four steps, by the harness."""
    folder = tmp_path_factory.mktemp("trained")
    path = recipe(folder)
    wanted = [
        Run("segmentation/windows-0", path),
        Run("segmentation/crops-0", path, ("windows={kind: crop, size: [3, 3]}",)),
    ]
    here = context(folder, jobs=2)
    train_all(wanted, here)
    return folder / "work" / "segmentation"


def test_a_real_training_has_a_curve_and_a_model(trained):
    points = runs.curve(trained / "windows-0", "frames", "miou")
    assert [point["step"] for point in points] == [2, 4]
    assert 0 < points[0]["cpu_seconds"] < points[1]["cpu_seconds"] == runs.spent(trained / "windows-0")
    assert 0.005 < runs.memory(trained / "windows-0") < 1  # of a few steps on tiny frames, beyond the idle process
    where = json.loads((trained / "windows-0" / "machine.json").read_text())
    assert where["threads"] == 1 and where["torch"] == torch.__version__
    assert "tokens kept of a 90 x 120 frame: 8 of 48" in (trained / "windows-0" / "log.txt").read_text()


def test_scores_of_a_real_model(trained):
    folder = trained / "windows-0"
    plain = segmentation.score(folder, CAMVID)
    assert plain["miou"] == pytest.approx(segmentation.final(folder), abs=1e-6)  # the training's own score
    assert (plain["tokens"], plain["images"]) == (6 * 8, 2)
    assert segmentation.score(folder, CAMVID, scale=2.0)["tokens"] == 12 * 15
    whole = segmentation.score(folder, CAMVID, tile=(96, 128))
    assert whole["miou"] == pytest.approx(plain["miou"])  # one tile is the whole frame


@pytest.mark.parametrize("jobs", [1, pytest.param(2, marks=pytest.mark.slow)])  # 2: each process imports everything
def test_scores_are_asked_once(trained, tmp_path, jobs):
    shutil.copytree(trained, tmp_path / "here", ignore=shutil.ignore_patterns("scores"))
    here = context(tmp_path, jobs=jobs)
    folders = {key: [tmp_path / "here" / f"{key}-0"] for key in ("windows", "crops")}
    found = segmentation.scores(here, folders, (1.0, 2.0))
    for key, [folder] in folders.items():
        plain = segmentation.score(folder, CAMVID, scale=2.0)
        assert json.loads((folder / "scores" / "scale-2.json").read_text())["miou"] == plain["miou"]
        assert found[key] == {1.0: [segmentation.final(folder)], 2.0: [plain["miou"]]}
    assert (tmp_path / "console.txt").read_text().count("scored after") == 2
    assert segmentation.scores(here, folders, (1.0, 2.0)) == found
    assert (tmp_path / "console.txt").read_text().count("scored after") == 2  # not asked again


def test_logits_are_scaled_by_the_tokens_logarithms(trained, monkeypatch):
    factors = []
    real = segmentation.scale_logits
    monkeypatch.setattr(
        segmentation, "scale_logits", lambda model, factor: (factors.append(factor), real(model, factor))
    )
    segmentation.score(trained / "windows-0", CAMVID, scale=2.0, logits=True)
    assert set(factors) == {math.log(180) / math.log(8)}
    from transformers import AutoModel

    model = AutoModel.from_pretrained(trained / "windows-0" / "model")
    for _ in range(2):  # not twice
        segmentation.scale_logits(model, 1.5)
    modules = [module for module in model.modules() if isinstance(module, WinWinAttention)]
    assert [module.scaling for module in modules] == [1.5 * 16**-0.5] * 2
    # what the setting does is what is said: queries times the factor
    x = torch.randn(1, 5, 32)
    scaled = modules[0](x, None)[0]
    segmentation.scale_logits(model, 1.0)
    modules[0].q_proj.weight.data *= 1.5
    modules[0].q_proj.bias.data *= 1.5
    assert torch.allclose(scaled, modules[0](x, None)[0], atol=1e-6)


# ------------------------------------------------------------------ the command


def test_the_command_knows_the_experiments(capsys, monkeypatch):
    monkeypatch.setattr(reproduce, "MODULES", ("segmentation",))
    experiments = reproduce.known()
    assert reproduce.choose(["all"], experiments) == list(segmentation.EXPERIMENTS)
    assert reproduce.choose(["table-heads", "table-heads"], experiments) == ["table-heads"]
    with pytest.raises(UsageError, match="did you mean figure1-segmentation"):
        reproduce.choose(["figure1-segmentaton"], experiments)
    reproduce.main(["list"])
    assert "figure5-segmentation" in capsys.readouterr().out


def test_the_command_looks_into_every_module_of_experiments():
    modules = (ROOT / "scripts" / "experiments").glob("*.py")
    assert sorted(reproduce.MODULES) == sorted(path.stem for path in modules if "\nEXPERIMENTS" in path.read_text())
    assert len(reproduce.known()) == 14


def test_the_command_asks_for_its_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "MODULES", ("segmentation",))
    import typer

    with pytest.raises(typer.Exit):
        reproduce.main(["table-heads"])
    assert "table-heads needs --data camvid=FOLDER" in capsys.readouterr().err
    assert reproduce.parse_data([f"camvid={tmp_path}"]) == {"camvid": str(tmp_path)}
    for wrong in ("camvid", f"camvid={tmp_path / 'nothing'}"):
        with pytest.raises(UsageError, match="--data camvid"):
            reproduce.parse_data([wrong])


def test_the_command_goes_on_after_a_failure(tmp_path, monkeypatch, capsys):
    done = []

    def fail(_):
        raise RuntimeError("2 of 2 trainings failed\nlast lines")

    experiments = {"bad": runs.Experiment(fail, "bad"), "good": runs.Experiment(lambda c: done.append(c.seeds), "good")}
    monkeypatch.setattr(reproduce, "known", lambda: experiments)
    with pytest.raises(SystemExit):
        reproduce.main(["all"], work=tmp_path, output=tmp_path, seeds=2, jobs=1, threads=1)
    assert done == [2]
    assert "last lines" in capsys.readouterr().err
