"""Whatever comes in, there is a result or one clear line: generated files, pictures, batches, configs and pairs.

A few of each run with every test, the same ones each time; `pytest -m fault` generates thousands of new ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image
from support.generated import CLEAR, LONG, clear, generated
from support.model_cases import SMALL
from support.places import FRAMES
from transformers import pipeline

from winwin_hf import (
    WinWinConfig,
    WinWinForDepthEstimation,
    WinWinForOpticalFlow,
    WinWinForSemanticSegmentation,
    WinWinImageProcessor,
)
from winwin_hf.data import formats
from winwin_hf.data.collator import SecondStrategy, WinWinCollator
from winwin_hf.data.readers import DepthReader, FlowReader, SegmentationReader
from winwin_hf.inference.loading import load_config
from winwin_hf.model.configuration_winwin import RANGES
from winwin_hf.windows import Strategy

pytestmark = pytest.mark.filterwarnings("ignore")


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


def test_the_long_run_is_long_enough():
    assert sum(LONG.values()) >= 10_000
