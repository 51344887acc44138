"""Whatever comes in, there is a result or one clear line: generated files, pictures, batches, configs, recipes and commands.

A few of each run with every test, the same ones each time; `pytest -m fault` generates thousands of new ones.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from support.model_cases import SMALL
from support.places import FRAMES
from support.recipes import RECIPE
from transformers import pipeline
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
from winwin_hf.data.collator import SecondStrategy, WinWinCollator
from winwin_hf.data.readers import DepthReader, FlowReader, SegmentationReader
from winwin_hf.inference.loading import load_config
from winwin_hf.model.configuration_winwin import RANGES
from winwin_hf.training.build import make_model, open_parts
from winwin_hf.training.recipe import load_recipe
from winwin_hf.windows import Strategy

pytestmark = pytest.mark.filterwarnings("ignore")

# name of a check -> how many inputs it gets in the fault run
LONG = {
    "readers": 6000,
    "pictures": 2500,
    "batches": 1000,
    "configs": 2500,
    "recipes": 1000,
    "pairs": 500,
    "commands": 1500,
}
CLEAR = (ValueError, OSError)  # one line, and no traceback on the command line


def generated(name: str, small: int, **strategies: Any) -> Callable[[Callable[..., None]], None]:
    """Makes two tests of a check: a few examples, the same each time; and `LONG[name]` new ones, marked `fault`."""

    def decorate(check: Callable[..., None]) -> None:
        quick = settings(max_examples=small, derandomize=True, database=None, **COMMON)
        long = settings(max_examples=LONG[name], database=None, print_blob=True, **COMMON)
        globals()[f"test_{name}"] = quick(given(**strategies)(check))
        globals()[f"test_{name}_for_longer"] = pytest.mark.fault(long(given(**strategies)(copy_of(check))))

    return decorate


COMMON: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def copy_of(check: Callable[..., None]) -> Callable[..., None]:
    def again(*args: Any, **kwargs: Any) -> None:
        check(*args, **kwargs)

    again.__wrapped__ = check  # type: ignore[attr-defined]
    return again


def clear(error: BaseException, *names: str) -> None:
    """The error is one line, not too long, and names one of `names`."""
    text = str(error)
    assert text.strip() and "\n" not in text and len(text) < 2000, repr(text)
    assert not names or any(name in text for name in names), text


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("generated")
    before = Path.cwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


# ---- files ----

DECODERS: dict[str, list[tuple[Callable[..., np.ndarray], str]]] = {
    ".flo": [(formats.decode_flow, "flo")],
    ".flo5": [(formats.decode_flow, "flo5")],
    ".dsp5": [(formats.decode_flow, "disparity-dsp5"), (formats.decode_depth, "disparity-dsp5:100")],
    ".pfm": [(formats.decode_flow, "pfm"), (formats.decode_flow, "disparity-pfm"), (formats.decode_depth, "pfm")],
    ".npy": [(formats.decode_flow, "npy"), (formats.decode_depth, "npy"), (formats.decode_mask, "npy")],
    ".npz": [(formats.decode_depth, "disparity-npz:100")],
    ".hdf5": [(formats.decode_depth, "hypersim"), (formats.decode_depth, "hdf5:dataset")],
    ".mat": [(formats.decode_depth, "nyu-mat")],
    ".png": [
        *((formats.decode_flow, kind) for kind in ("kitti", "disparity-kitti")),
        (formats.decode_depth, "png:1000"),
        *(
            (formats.decode_label, kind)
            for kind in ("ids", "minus-one", "cityscapes", "camvid-colours", "values:0,255")
        ),
        (formats.decode_mask, "png"),
        (lambda path, _: formats.decode_image(path), ""),
    ],
    ".jpg": [(lambda path, _: formats.decode_image(path), "")],
    ".ppm": [(lambda path, _: formats.decode_image(path), "")],
}
REAL = sorted(path for path in FRAMES.rglob("*") if path.suffix in DECODERS and path.stat().st_size < 200_000)


def damaged(content: bytes, other: bytes, draw: Any) -> bytes:
    """The bytes of a file, changed in one of several ways."""
    size = len(content)
    at = draw(st.integers(0, size - 1))
    kind = draw(st.sampled_from(("flip", "header", "cut", "insert", "remove", "repeat", "other", "random")))
    if kind in ("flip", "header"):
        changed = bytearray(content)
        places = st.integers(0, size - 1 if kind == "flip" else min(size, 128) - 1)
        for place in draw(st.lists(places, min_size=1, max_size=8)):
            changed[place] = draw(st.sampled_from((0, 1, 127, 128, 255)) | st.integers(0, 255))
        return bytes(changed)
    piece = draw(st.binary(max_size=64))
    return {
        "cut": content[:at],
        "insert": content[:at] + piece + content[at:],
        "remove": content[:at] + content[at + 1 + len(piece) :],
        "repeat": content + content[at:],
        "other": content[:at] + other[at:],
        "random": piece,
    }[kind]


@generated("readers", 250, data=st.data())
def check_reader(work: Path, data: st.DataObject) -> None:
    path, other = data.draw(st.sampled_from(REAL)), data.draw(st.sampled_from(REAL))
    decode, kind = data.draw(st.sampled_from(DECODERS[path.suffix]))
    copy = work / f"ü ö{path.suffix}"
    copy.write_bytes(damaged(path.read_bytes(), other.read_bytes(), data.draw))
    name = f"{copy}::0" if path.suffix == ".mat" else copy
    try:
        result = decode(name, kind)
    except CLEAR as error:
        clear(error, copy.name)
    else:
        assert isinstance(result, np.ndarray) and result.size


# ---- pictures ----

NUMBERS = st.sampled_from((0, 1, -1, 255, 256, 65535, -40000, 0.5, 1e30, float("nan"), float("inf"), float("-inf")))
DTYPES = ("u1", "i1", "u2", ">u2", "i4", "i8", "f2", "f4", ">f4", "f8", "b1", "c8", "U3", "O")
MODES = ("1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "I;16", "La", "RGBa")
SIDES = st.integers(0, 40) | st.sampled_from((1, 2, 3, 4, 16, 17))


@st.composite
def arrays(draw: Any) -> Any:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.sampled_from(((3, 4), (3, 4, 3), (17, 3, 4))) | st.lists(SIDES, max_size=5).map(tuple))
    if np.prod(shape, initial=1) > 200_000:
        shape = shape[:2]
    with np.errstate(all="ignore"):
        array = np.zeros(shape, dtype)
        if array.size and array.dtype.kind in "fui":
            value = draw(NUMBERS)
            if array.dtype.kind == "f" or np.isfinite(value):
                array.reshape(-1)[: draw(st.integers(0, 3))] = np.float64(value).astype(array.dtype)
    if draw(st.booleans()) and array.dtype.isnative and array.dtype.kind in "fuib" and array.dtype != np.uint16:
        return torch.from_numpy(array)
    return array[..., ::-1] if array.ndim and draw(st.booleans()) else array


@st.composite
def pil_images(draw: Any) -> Image.Image:
    size = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)) | st.sampled_from(((1, 1), (7680, 2), (1, 4320))))
    return Image.new(draw(st.sampled_from(MODES)), size)


TEXTS = st.sampled_from(
    ("", "/dev/zero", "nothing.png", "a.png", "pipe", "loop", "folder", "\0", "data:image/png;base64,AAAA", "QUJD")
)
PICTURES = arrays() | pil_images() | TEXTS | st.text(max_size=20)
IMAGES = PICTURES | st.lists(PICTURES, max_size=3) | st.none() | st.integers() | st.binary(max_size=9)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "do_resize": st.booleans(),
        "size": st.sampled_from(
            (
                {"height": 3, "width": 5},
                {"longest_edge": 20},
                {"shortest_edge": 0},
                {"height": 10**9, "width": 1},
                {},
                {"x": 1},
            )
        ),
        "min_pixels": st.sampled_from((0, 500, -3, 10**12)),
        "patch_size": st.sampled_from((1, 8, 16, 0, -1, 10**6)),
        "do_rescale": st.booleans(),
        "do_normalize": st.booleans(),
        "do_pad": st.booleans(),
        "do_convert_rgb": st.booleans(),
        "image_mean": st.sampled_from(([0.5, 0.5, 0.5], [0.5], [], [float("nan")] * 3)),
        "image_std": st.sampled_from(([0.5, 0.5, 0.5], [0.0, 1.0, 1.0], [1e-30] * 3)),
        "return_tensors": st.sampled_from(("pt", "np")),
    },
)


@pytest.fixture(scope="module")
def things(work: Path) -> Path:
    """A folder with a picture, a pipe, a loop of links and an empty folder, which is the current one."""
    Image.fromarray(np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)).save("a.png")
    os.mkfifo("pipe")
    Path("loop").symlink_to("loop")
    Path("folder").mkdir()
    return work


@generated("pictures", 200, images=IMAGES, second=IMAGES, maps=IMAGES, options=OPTIONS)
def check_pictures(things: Path, images: Any, second: Any, maps: Any, options: dict[str, Any]) -> None:
    for further in ({}, {"second_images": second}, {"segmentation_maps": maps}):
        try:
            made = WinWinImageProcessor()(images, **further, **options)
        except CLEAR as error:
            clear(error)
            continue
        for picture in made["pixel_values"]:
            assert picture.ndim == 3 and 0 not in picture.shape


# ---- batches ----

STRATEGIES = (
    *(Strategy("windows", size=(2, 2)), Strategy("windows", tokens=12), Strategy("windows", size=(40, 1))),
    *(
        Strategy("tokens", tokens=5),
        Strategy("crop", size=(3, 3)),
        Strategy("full"),
        Strategy("windows", sizes=((1, 2), (2, 1))),
    ),
)
READERS: dict[str, tuple[Any, str]] = {
    "optical-flow": (FlowReader(), "flow"),
    "depth-estimation": (DepthReader(), "depth"),
    "semantic-segmentation": (SegmentationReader(3), "label"),
}


@st.composite
def examples(draw: Any, task: str) -> dict[str, Any]:
    """A row with arrays, most of them right."""
    height, width = draw(st.sampled_from(((48, 64), (32, 32), (1, 1), (33, 47))))
    picture = np.zeros((height, width, 3), np.uint8)
    pictures = st.just(picture) | st.just(picture) | arrays() | pil_images()
    value = draw(NUMBERS)
    shape = {"optical-flow": (height, width, 2)}.get(task, (height, width))
    with np.errstate(all="ignore"):
        target = np.full(shape, 1 if task == "semantic-segmentation" and not 0 <= value < 256 else value)
        target = target.astype(np.uint8 if task == "semantic-segmentation" else np.float32)
    targets = st.just(target) | st.just(target) | arrays() | st.none()
    images = ("image1", "image2") if task == "optical-flow" else ("image",)
    return {"name": "x", **{name: draw(pictures) for name in images}, READERS[task][1]: draw(targets)}


@generated("batches", 60, data=st.data(), task=st.sampled_from(sorted(READERS)), windows=st.sampled_from(STRATEGIES))
def check_batch(data: st.DataObject, task: Any, windows: Strategy) -> None:
    rows = data.draw(st.lists(examples(task), min_size=0, max_size=3))
    collator = WinWinCollator(READERS[task][0], windows, task, patch_size=8, second=SecondStrategy())
    try:
        batch = collator([{**row, "index": i} for i, row in enumerate(rows)])
    except CLEAR as error:
        clear(error)
    else:
        assert len(batch["pixel_values"]) == len(rows) and batch["pixel_values"].isfinite().all()


# ---- configs ----

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
SENSIBLE = st.sampled_from(
    (0, 1, 2, 3, 4, 16, 64, 1000, 10**6, 10**9, -1, 0.5, "gelu", "conv", [1, 2], [2, 3, 4, 5], None)
)
FIELDS = sorted(
    {*RANGES, "hidden_act", "head_type", "patch_embedding", "position_embedding", "num_labels", "id2label", "dtype"}
)


@generated("configs", 120, fields=st.dictionaries(st.sampled_from(FIELDS), SENSIBLE | JSON, min_size=1, max_size=3))
def check_config(work: Path, fields: dict[str, Any]) -> None:
    folder = work / "config"
    WinWinConfig(**SMALL).save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    try:
        config = load_config(folder)
    except CLEAR as error:
        clear(error, str(folder))
        return
    assert config.count_parameters() < 10**11
    with torch.device("meta"):
        for kind in (WinWinForOpticalFlow, WinWinForDepthEstimation, WinWinForSemanticSegmentation):
            try:
                kind(config)
            except ValueError as error:  # weights that don't fit the labels
                clear(error)


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


# ---- the pipeline ----


@pytest.fixture(scope="module")
def flow_pipeline(things: Path) -> Any:
    torch.manual_seed(0)
    model = WinWinForOpticalFlow(WinWinConfig(**SMALL))
    return pipeline("optical-flow", model=model, image_processor=WinWinImageProcessor(patch_size=8))


@generated("pairs", 40, first=IMAGES, second=IMAGES, one=st.booleans())
def check_pair(flow_pipeline: Any, first: Any, second: Any, one: bool) -> None:
    try:
        found = flow_pipeline(first) if one else flow_pipeline(first, second)
        results = found if isinstance(found, list) else [found]
    except (*CLEAR, TypeError) as error:
        clear(error)
    else:
        assert all(result["flow"].isfinite().all() for result in results)


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


def test_the_long_run_is_long_enough():
    assert sum(LONG.values()) >= 10_000
