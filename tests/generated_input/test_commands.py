"""Whatever is asked, there is a result or one clear line, and nothing is changed: generated recipes and command lines.

A few of each run with every test, the same ones each time; `pytest -m fault` generates thousands of new ones.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import strategies as st
from PIL import Image
from support.generated import CLEAR, clear, generated
from support.model_cases import SMALL
from support.places import FRAMES
from support.recipes import RECIPE
from typer.testing import CliRunner

from winwin_hf import (
    WinWinConfig,
    WinWinForDepthEstimation,
    WinWinForOpticalFlow,
    WinWinForSemanticSegmentation,
    WinWinImageProcessor,
)
from winwin_hf.cli.main import app
from winwin_hf.data import formats
from winwin_hf.training.build import make_model, open_parts
from winwin_hf.training.recipe import load_recipe

pytestmark = pytest.mark.filterwarnings("ignore")


# ---- recipes ----

KEYS = (
    *(
        "task",
        "data",
        "model",
        "output",
        "save_every",
        "log_every",
        "windows",
        "optimization",
        "evaluation",
        "trackers",
    ),
    *("data.name", "data.path", "data.split", "data.settings", "data.options", "data.sets", "data.settings.height"),
    *(
        "model.preset",
        "model.config",
        "model.init",
        "model.frozen",
        "model.attention",
        "model.lora",
        "model.config.hidden_size",
    ),
    *("model.config.patch_size", "model.config.num_hidden_layers", "optimization.batch_size", "optimization.betas"),
    *("optimization.learning_rate", "optimization.num_workers", "windows.kind", "windows.size", "windows.tokens"),
    *("second_windows.factor", "initial_flow.probability", "evaluation.windows", "evaluation.sets", "nothing", ""),
)
VALUES = st.sampled_from(
    (
        *(
            "",
            "null",
            "0",
            "1",
            "-1",
            "3",
            "1000000000",
            "1e400",
            ".nan",
            ".inf",
            "x",
            "[]",
            "{}",
            "[1, 2]",
            "[[1, 2]]",
            "{a: 1}",
            "{a",
        ),
        *(
            "tiny",
            "base",
            "flow",
            "optical-flow",
            "depth-estimation",
            "camvid",
            "hub",
            "shards",
            "synthetic-depth",
            "train[:0]",
        ),
        *(
            "val",
            "train[9:]",
            "folder",
            "pipe",
            "loop",
            "[winwin]",
            "[winwin, decoder, head]",
            "flex_attention",
            "eager",
        ),
        *(
            "!!python/object/apply:os.getcwd []",
            "*a",
            "&a [*a]",
            "2001-99-99",
            "{r: 4}",
            "\0",
            "ü",
            "windows",
            "tokens",
            "full",
        ),
    )
)
OVERRIDES = st.lists(st.tuples(st.sampled_from(KEYS), VALUES | st.text(max_size=8)), min_size=1, max_size=3)


@generated("recipes", 60, overrides=OVERRIDES)
def check_recipe(things: Path, overrides: list[tuple[str, str]]) -> None:
    Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    try:
        recipe = load_recipe("recipe.yaml", [f"{key}={value}" for key, value in overrides])
        make_model(recipe, open_parts(recipe)[0].source)
    except (*CLEAR, ImportError) as error:
        clear(error)


# ---- commands ----


class Hashes(dict[str, str]):
    def __repr__(self) -> str:  # short, where a test fails
        return f"{len(self)} files"


@pytest.fixture(scope="module")
def shelf(things: Path) -> Hashes:
    """Hashes of the files that no command may change, in the current folder: models, whole and damaged, and pictures."""
    torch.manual_seed(0)
    for name, kind in (
        ("flow", WinWinForOpticalFlow),
        ("depth", WinWinForDepthEstimation),
        ("seg", WinWinForSemanticSegmentation),
    ):
        kind(WinWinConfig(**SMALL)).save_pretrained(name)
        WinWinImageProcessor(patch_size=8).save_pretrained(name)
    for name in ("cut", "pickled", "null", "lacking"):
        shutil.copytree("depth", name)
    Path("cut/model.safetensors").write_bytes(Path("depth/model.safetensors").read_bytes()[:-9])
    Path("pickled/model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    Path("null/config.json").write_text("null")
    lacking = json.loads(Path("lacking/config.json").read_text())
    Path("lacking/config.json").write_text(json.dumps({**lacking, "num_hidden_layers": 9}))
    Image.new("RGB", (30, 21)).save("taller.png")
    Image.new("L", (30, 20)).save("ü grey.png")
    Image.new("RGB", (1, 1)).save("one.png")
    Path("text.png").write_text("text")
    Path("empty.png").write_bytes(b"")
    Path("frames").mkdir()
    for name in ("a.png", "one.png"):
        shutil.copy("a.png", Path("frames") / name)
    return hashes()


def hashes() -> Hashes:
    files = [path for path in Path.cwd().rglob("*") if not path.is_symlink() and path.is_file()]
    return Hashes({str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in files if "out" not in p.parts})


FILES = st.sampled_from(
    ("a.png", "a.png", "one.png", "ü grey.png", "taller.png", "text.png", "empty.png", "pipe", "loop", "folder")
)
NAMES = st.sampled_from(
    ("flow", "depth", "seg", "cut", "pickled", "null", "lacking", "folder", "a.png", "nobody/none", "pipe", "loop")
)
PLACES = st.sampled_from(
    ("out/x.flo", "out/x.npy", "out/x.png", "out/x", "a.png", "no/x.flo", "folder", "out/x.gif", "pipe", "")
)
SIZES = st.sampled_from(("16x16", "24x32", "0x3", "x", "99999x99999", "-1x2"))
MORE: dict[str, dict[str, Any]] = {
    "flow": {
        "--tile": SIZES,
        "--min-pixels": st.sampled_from(("0", "-1", "900", "x")),
        "--coarse": None,
        "--variational": None,
    },
    "depth": {},
    "segment": {},
    "video": {
        "--size": SIZES,
        "--stride": st.sampled_from(("1", "0", "9")),
        "--start": st.sampled_from(("0", "5", "-1")),
        "--backward": None,
    },
    "evaluate": {
        "--tile": SIZES,
        "--overlap": st.sampled_from(("0", "1", "nan")),
        "--length": st.sampled_from(("1", "0")),
    },
    "convert": {"--task": st.sampled_from(("optical-flow", "x")), "--to": st.sampled_from(("transformers", "x"))},
    "data check": {
        "--split": st.sampled_from(("train", "train[:1]", "train[9:]", "x")),
        "--quick": None,
        "--workers": st.just("0"),
    },
    "data shards": {"--shard-size": st.sampled_from(("1MB", "0", "x")), "--format": st.sampled_from(("parquet", "x"))},
    "export": {"--opset": st.sampled_from(("3", "x")), "--quantise": st.just("x")},
}
SETS = st.sampled_from(
    ("camvid=folder", "camvid=a.png", "x=folder", "camvid", "kitti-2015=loop", f"camvid:val={FRAMES / 'CamVid'}")
)


@st.composite
def commands(draw: Any) -> list[str]:
    command = draw(st.sampled_from(sorted(MORE)))
    words = command.split()
    words += [draw(FILES) for _ in range(2 if command == "flow" else 1 if command in ("depth", "segment") else 0)]
    words += [draw(FILES | st.just("frames"))] if command == "video" else []
    words += [draw(NAMES)] if command in ("convert", "evaluate") else []
    words += [draw(st.sampled_from(("cut", "null", "lacking", "folder", "pipe")))] if command == "export" else []
    words += ["--data", draw(SETS)] if command == "evaluate" else []
    words += [draw(SETS)] if command == "data shards" else []
    words += (
        [draw(st.sampled_from(("folder", "a.png", "loop", str(FRAMES / "CamVid"))))] if command == "data check" else []
    )
    words += [draw(PLACES)] if command == "convert" else ["-o", draw(PLACES)]
    words += ["--model", draw(NAMES)] if command in ("flow", "depth", "segment", "video") else []
    if command in ("flow", "depth", "segment") and draw(st.booleans()):
        words += ["--picture", draw(PLACES)]
    for option, values in MORE[command].items():
        if draw(st.booleans()):
            words += [option] if values is None else [option, draw(values)]
    return [*words, *draw(st.lists(st.text(max_size=4), max_size=1))] if draw(st.integers(0, 20)) == 0 else words


@generated("commands", 40, words=commands())
def check_command(shelf: Hashes, words: list[str]) -> None:
    shutil.rmtree("out", ignore_errors=True)
    Path("out").mkdir()
    result = CliRunner().invoke(app, words)
    assert isinstance(result.exception, SystemExit | None), (words, result.exception)
    assert result.exit_code in (0, 1, 2), (words, result.output)
    assert "Traceback" not in result.output
    if result.exit_code and "data check" not in " ".join(words):
        assert result.stderr.strip(), words
    made = [path for path in Path("out").rglob("*") if path.is_file()]
    for path in made:
        assert not path.name.startswith("."), (words, path)
        if path.suffix == ".flo":
            formats.read_flo(path)
        elif path.suffix == ".png":
            formats.read_image(path)
    outputs = {words[i + 1] for i, word in enumerate(words[:-1]) if word in ("-o", "--picture")}
    if "a.png" in outputs and "a.png" not in words[1:3] and not result.exit_code:  # another picture's result
        shutil.copy("frames/a.png", "a.png")
    after = hashes()
    assert {path: after.get(path) for path in shelf} == shelf, words
    new = after.keys() - shelf.keys()  # in the current folder, or another that was named
    for path in new:
        Path(path).unlink()
    assert not new or result.exit_code == 0, (words, new)
