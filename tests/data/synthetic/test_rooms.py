"""Synthetic rooms: exact depth, windows that are crops, settings that are checked."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

from winwin_hf.data.sources import open_source
from winwin_hf.data.synthetic.furniture import PIECES, Builder
from winwin_hf.data.synthetic.rooms import RoomSettings, SyntheticDepth
from winwin_hf.data.synthetic.scenes import scene_seed

SMALL = RoomSettings(height=96, width=128, texture_count=4)
WHOLE = (0, 0, 96, 128)


READERS: dict[str, SyntheticDepth] = {}  # textures are made once


def room(number: int, settings: RoomSettings = SMALL):
    reader = READERS.setdefault(repr(settings), SyntheticDepth(settings))
    return reader({"seed": scene_seed(0, number)})


@pytest.mark.parametrize("settings", [SMALL, replace(SMALL, compression=1.0, blur=1.0, noise=8.0)])
def test_a_window_is_the_crop_of_the_frame(settings):
    for number in range(4):
        image, depth = room(number, settings).first(WHOLE)
        part, part_depth = room(number, settings).first((32, 48, 40, 64))
        assert np.array_equal(part, image[32:72, 48:112]) and np.array_equal(part_depth, depth[32:72, 48:112])


def test_a_seed_is_a_room():
    images = [room(number).first(WHOLE)[0] for number in (1, 1, 2)]
    assert np.array_equal(images[0], images[1]) and not np.array_equal(images[0], images[2])
    assert images[0].dtype == np.uint8 and images[0].std() > 3


def test_depth_ends_on_a_surface():
    """Just before it there is air, just behind it is the inside of something, or the outside of the room."""
    rows, columns = np.arange(0.0, 96, 5)[:, None], np.arange(0.0, 128, 5)
    solids = 0
    for number in range(6):
        r = room(number)
        _, depth = r.first(WHOLE)
        depth = depth[::5, ::5].astype(np.float64)
        rays = r.view.rays(rows, columns)

        def filled(share, r=r, depth=depth, rays=rays):
            points = tuple(at + v * depth * share for at, v in zip(r.view.position.tolist(), rays, strict=True))
            found = np.max(np.abs(r.world.room.at(points)), axis=0) > 1
            for solid in r.world.solids:
                x, y, z = np.abs(solid.at(points))
                sizes = (np.maximum(np.maximum(x, y), z), np.sqrt(x * x + y * y + z * z), np.maximum(np.hypot(x, z), y))
                found |= sizes[solid.kind] < 1
            return found

        assert not filled(1 - 1e-4).any()
        assert filled(1 + 1e-4).mean() > 0.99  # some rays only graze an edge
        solids += len(r.world.solids)
    assert solids > 60


def test_outside_the_frame_nothing_is_known():
    image, depth = room(0).first((-16, 96, 128, 64))
    assert image.shape == (128, 64, 3)
    inside = np.zeros((128, 64), bool)
    inside[16:112, :32] = True
    assert np.array_equal(np.isfinite(depth), inside)


def test_tiny_frames():
    image, depth = room(0, replace(SMALL, height=5, width=7)).first((0, 0, 5, 7))
    assert image.shape == (5, 7, 3) and image.max() > 0 and np.isfinite(depth).all()


def test_no_second_view():
    with pytest.raises(ValueError, match="no second view"):
        room(0).second(WHOLE)


def test_things_keep_their_distance():
    for number in range(8):
        r = room(number, replace(SMALL, nearest=1.0))
        for solid in r.world.solids:
            nearest = np.linalg.norm((solid.corners - r.view.position)[:, [0, 2]], axis=1).min()
            assert nearest > 0.9


@pytest.mark.parametrize("name", PIECES)
def test_furniture_stands_on_the_floor(name):
    """Every piece is made of solids of furniture's size, and none goes far below the floor."""
    builder = Builder(np.random.default_rng(0), lambda room: 0)
    for _ in range(20):
        builder.parts = []
        getattr(builder, name)()
        assert builder.parts
        corners = np.concatenate([part.corners for part in builder.put(np.array([1.0, 0.0, 2.0]), 0.7)])
        assert corners[:, 1].max() < 2.7 and corners[:, 1].min() > -0.35
        assert np.ptp(corners[:, [0, 2]], axis=0).max() < 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eye": (2.0, 1.0)}, r"eye: expected \(least, greatest\)"),
        ({"field_of_view": (2, 60)}, r"field_of_view.0: .*or equal to 5"),
        ({"ceiling": (1.5, 3.0)}, "above the eye"),
        ({"height": 0}, "height: .*got 0"),
        ({"noise": -1}, "noise: .*got -1"),
        ({"plain": 2}, "plain: .*got 2"),
        ({"textures": "/nowhere"}, "is not a folder"),
    ],
)
def test_settings_are_checked(change, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        SyntheticDepth(replace(SMALL, **change))


def test_as_a_data_set():
    settings = {"height": 96, "width": 128, "texture_count": 4}
    train, val = (
        open_source("synthetic-depth", split=split, settings=settings, length=3) for split in ("train", "val")
    )
    assert train.task == "depth-estimation" and train.labels is None
    examples = [list(source.examples()) for source in (train, val)]
    assert [e["index"] for e in examples[0]] == [0, 1, 2] and not {e["seed"] for e in examples[0]} & {
        e["seed"] for e in examples[1]
    }
    assert train.at(2) == examples[0][2]
    assert val.reader.settings.texture_seed != train.reader.settings.texture_seed
    copy = pickle.loads(pickle.dumps(train.reader))
    images = [reader(examples[0][0]).first(WHOLE)[0] for reader in (train.reader, copy)]
    assert np.array_equal(*images)
    with pytest.raises(ValueError, match="unknown heigth"):
        open_source("synthetic-depth", settings={"heigth": 3})
