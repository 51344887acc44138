"""What is drawn: shares and ranges, seeds, errors; and colours, blur and noise."""

from __future__ import annotations

import numpy as np
import pytest

from winwin_hf.checked import build
from winwin_hf.data.augmentation import FlowAugmentation, ImageAugmentation, Recolour, Sensor
from winwin_hf.data.resampling import Placement, place

STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "gamma": 0.0}


def rng(seed=0):
    return np.random.default_rng(seed)


def noise(height=60, width=80, seed=0):
    return rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --------------------------------------------------------------------------------------------------------- single images


def test_geometry_options_that_are_off_do_not_change_the_others():
    for seed in range(5):
        plain = ImageAugmentation(hue=0.1).draw(rng(seed), 60, 80)
        everything = ImageAugmentation(stretch=0.2, rotate=5, hue=0.1, blur=1, noise=3).draw(rng(seed), 60, 80)
        assert plain[1] == everything[1] and plain[3] == pytest.approx(everything[3])
        assert plain[2] is None and everything[2] is not None
        stretched = ImageAugmentation(stretch=0.2, hue=0.1).draw(rng(seed), 60, 80)
        assert (everything[0].height, everything[0].width) == (stretched[0].height, stretched[0].width)


def test_image_views_are_within_their_ranges():
    augmentation = ImageAugmentation(
        flip=0.3, scale=(0.5, 2.0), stretch=0.25, rotate=10, hue=0.05, blur=0.4, blur_sigma=(0.5, 2.0), noise=6
    )
    aspects, turns, blurs, noises, hues, mirrored = [], [], [], [], [], []
    for seed in range(400):
        placement, recolour, sensor, scale = augmentation.draw(rng(seed), 600, 800)
        assert scale == pytest.approx(np.sqrt(placement.height * placement.width / (600 * 800)), rel=3e-3)
        assert 0.5 <= scale <= 2
        aspects.append(placement.width / placement.height / (800 / 600))
        a, b, _, d, e, _ = placement.matrix
        turns.append(np.degrees(np.arctan2(d, e)))
        mirrored.append(a * e - b * d < 0)
        assert sensor is not None
        blurs.append(sensor.blur)
        noises.append(sensor.noise)
        hues.append(recolour.hue)
    assert 1 / 1.26 < min(aspects) < 0.83 and 1.2 < max(aspects) < 1.26
    assert 9 < np.abs(turns).max() < 10 * 1.26 and np.mean(np.sign(turns)) == pytest.approx(0, abs=0.15)
    assert np.mean(mirrored) == pytest.approx(0.3, abs=0.08)
    blurs = np.array(blurs)
    assert (blurs > 0).mean() == pytest.approx(0.4, abs=0.08) and 0.5 <= blurs[blurs > 0].min() <= blurs.max() <= 2
    assert 0 <= min(noises) < 0.5 and 5.5 < max(noises) <= 6
    assert 0.045 < np.abs(hues).max() <= 0.05


def test_frames_have_at_least_so_many_pixels():
    least = (160, 224)
    for height, width, always in ((100, 300, True), (300, 100, True), (500, 500, False)):
        augmentation = ImageAugmentation(scale=(0.3, 1.2), stretch=0.3, least=least)
        pair = FlowAugmentation(scale=(-1.5, 0.2), least=least)
        floor = max(160 / height, 224 / width)
        raised = set()
        for seed in range(40):
            placement, _, _, scale = augmentation.draw(rng(seed), height, width)
            for placed in (placement, pair.draw(rng(seed), height, width).first):
                assert placed.height >= least[0] and placed.width >= least[1]
            raised.add(scale == pytest.approx(floor))
            assert scale == pytest.approx(np.sqrt(placement.height * placement.width / height / width), rel=1e-2)
        assert raised == ({True} if always else {True, False})
    # a frame that is large enough is as if nothing had been asked
    for seed in range(5):
        assert FlowAugmentation(least=(8, 8)).draw(rng(seed), 90, 90) == FlowAugmentation().draw(rng(seed), 90, 90)


# ------------------------------------------------------------------------------------------------------ pairs of frames


def test_flow_views_are_seeded():
    augmentation = FlowAugmentation(shift=3, turn=1, gamma=0.2)
    views = [augmentation.draw(rng(seed), 436, 1024) for seed in range(6)]
    assert views == [augmentation.draw(rng(seed), 436, 1024) for seed in range(6)]
    assert len({view.second for view in views}) == len({view.colours for view in views}) == 6


def test_flow_shares_and_ranges():
    augmentation = FlowAugmentation(scale=(-0.5, 0.5), stretch=0.3, shift=4, turn=2)
    height, width, count = 400, 1000, 1500
    scales, mirrored, flipped, asymmetric, erased, moved = [], [], [], [], [], []
    for seed in range(count):
        view = augmentation.draw(rng(seed), height, width)
        first, second = view.first, view.second
        assert (first.height, first.width) == (second.height, second.width)
        scales.append((np.log2(first.height / height), np.log2(first.width / width)))
        a, b, _, d, e, _ = first.matrix
        assert b == d == 0
        mirrored.append(a < 0)
        flipped.append(e < 0)
        asymmetric.append(view.colours[0] != view.colours[1])
        erased.append(len(view.erased))
        for top, left, h, w in view.erased:
            inside = top + h < first.height and left + w < first.width
            assert top + h <= first.height and left + w <= first.width and 1 <= h <= 100 and 1 <= w <= 100
            assert not inside or min(h, w) >= 50
        moved.append(second.matrix != first.matrix)
        for colour in view.colours:
            assert 1 / 1.4 <= colour.brightness <= 1.4 and abs(colour.hue) <= 0.16 and colour.gamma == 1
    scales = np.array(scales)
    own = scales - scales.mean(axis=1, keepdims=True)
    plain = (scales == 0).all(axis=1)
    stretched = np.abs(own[:, 0]) > 0.003  # sizes are rounded
    share = lambda flags: pytest.approx(np.mean(flags), abs=0.04)  # noqa: E731
    assert share(plain) == 0.2 and share(stretched) == 0.64
    assert share(mirrored) == 0.5 and share(flipped) == 0.1 and share(asymmetric) == 0.2
    assert share(np.equal(erased, 0)) == 0.5 and share(np.equal(erased, 1)) == 0.25 and all(moved)
    assert -0.81 < scales.min() < -0.65 and 0.65 < scales.max() < 0.81 and np.abs(own).max() < 0.31


def test_flow_options_off():
    off = FlowAugmentation(
        scale_probability=0, flip=0, flip_vertical=0, saturation=0, brightness=0, contrast=0, hue=0, erase=0
    )
    view = off.draw(rng(), 50, 70)
    assert view.first == view.second == Placement(50, 70)
    assert view.colours == (Recolour(), Recolour()) and view.erased == ()


def test_colour_settings_do_not_change_the_geometry():
    for seed in range(8):
        one = FlowAugmentation().draw(rng(seed), 100, 120)
        other = FlowAugmentation(brightness=1, contrast=0, saturation=0.1, gamma=0.5).draw(rng(seed), 100, 120)
        assert one.first == other.first and one.second == other.second and one.colours != other.colours
        mild, wild = (ImageAugmentation(stretch=0.1, contrast=c).draw(rng(seed), 100, 120) for c in (0.0, 1.0))
        assert mild[0] == wild[0] and mild[3] == wild[3] and mild[1] != wild[1]


# ------------------------------------------------------------------------------------------------- recipes and their errors


def test_from_recipes():
    made = build(FlowAugmentation, {"scale": [-0.4, 0.8], "erase_size": [10, 20], "least": [64, 96]}, "settings")
    assert made == FlowAugmentation(scale=(-0.4, 0.8), erase_size=(10, 20), least=(64, 96))
    assert FlowAugmentation(least=[64, 96]) == FlowAugmentation(least=(64, 96))
    assert build(ImageAugmentation, {"scale": [0.8, 1.6], "least": [64, 96]}, "settings").least == (64, 96)
    for kind in (FlowAugmentation, ImageAugmentation):
        with pytest.raises(ValueError, match=r"settings: unknown stretsh"):
            build(kind, {"stretsh": 0.1}, "settings")


@pytest.mark.parametrize(
    ("kind", "settings", "named"),
    [
        (
            FlowAugmentation,
            {"scale": (0.5, -0.2)},
            r"FlowAugmentation: scale: expected \(least, greatest\), got \(0\.5, -0\.2\)",
        ),
        (FlowAugmentation, {"flip": 1.5}, r"flip: .*equal to 1, got 1\.5"),
        (FlowAugmentation, {"erase": -0.1}, "erase: .*got -0.1"),
        (FlowAugmentation, {"hue": 0.6}, r"hue: .*equal to 0\.5, got 0\.6"),
        (FlowAugmentation, {"contrast": -1}, "contrast: .*got -1"),
        (FlowAugmentation, {"shift": float("nan")}, "shift: .*finite number, got nan"),
        (FlowAugmentation, {"erase_size": (20, 10)}, r"erase_size: expected \(least, greatest\)"),
        (FlowAugmentation, {"erase_count": (0, 2)}, "erase_count.0: .*got 0"),
        (FlowAugmentation, {"least": (64,)}, r"least.1: Field required, got \(64,\)"),
        (ImageAugmentation, {"least": (64, 0)}, "ImageAugmentation: least.1: .*got 0"),
        (ImageAugmentation, {"rotate": -5}, "rotate: .*got -5"),
        (ImageAugmentation, {"blur": 2}, "blur: .*got 2"),
        (ImageAugmentation, {"blur_sigma": (0, 1)}, "blur_sigma.0: .*greater than 0, got 0"),
        (ImageAugmentation, {"scale": (2.0, 1.0)}, r"scale"),
    ],
)
def test_errors(kind, settings, named):
    with pytest.raises(ValueError, match=named):
        kind(**settings)


# --------------------------------------------------------------------------------------------------- colours, blur, noise


def test_hue():
    image = noise()
    grey = np.repeat(image[..., :1], 3, axis=2)
    for turns in (0.05, 0.3, -0.5):
        assert (Recolour(hue=turns)(grey) == grey).all()
    calm = (96 + image // 4).astype(np.uint8)  # nothing is clipped
    turned = Recolour(hue=0.25)(calm)
    luma = np.array([0.299, 0.587, 0.114])
    assert np.abs(turned @ luma - calm @ luma).max() <= 1.5 and np.abs(turned.astype(int) - calm).mean() > 5
    assert np.abs(Recolour(hue=-0.25)(turned).astype(int) - calm).max() <= 3  # and back
    red = np.full((1, 1, 3), (180, 90, 90), np.uint8)
    third = Recolour(hue=1 / 3)(red)[0, 0].astype(int)
    assert len({int(third.argmax()), int(Recolour(hue=-1 / 3)(red)[0, 0].argmax()), 0}) == 3  # red, green, blue


def test_noise_and_blur():
    flat, frame = np.full((200, 210, 3), 128, np.uint8), (0, 0, 200, 210)
    cut = lambda image: lambda box: image[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]  # noqa: E731
    noisy = Sensor(noise=8.0, seed=5)(cut(flat), frame, 200, 210).astype(float) - 128
    assert noisy.std() == pytest.approx(8, rel=0.02) and noisy.mean() == pytest.approx(0, abs=0.1)
    shifts = [(0, 64), (64, 0), (64, 64), (1, 0), (0, 1)]  # blocks don't repeat, pixels don't resemble one another
    assert max(abs(np.mean(noisy[y:, x:] * noisy[: 200 - y, : 210 - x])) for y, x in shifts) < 1.5
    assert abs(np.mean(noisy[..., 0] * noisy[..., 1])) < 1.5
    other = Sensor(noise=8.0, seed=6)(cut(flat), frame, 200, 210).astype(float) - 128
    assert abs(np.mean(noisy * other)) < 1
    assert Sensor(noise=40.0)(cut(np.full_like(flat, 255)), frame, 200, 210).max() == 255  # clipped, not wrapped
    point = np.zeros((41, 41, 3), np.uint8)
    point[20, 20] = 255
    blurred = Sensor(blur=1.5)(cut(point), (0, 0, 41, 41), 41, 41)[..., 0].astype(float)
    offsets = np.arange(41) - 20
    spread = np.sqrt((blurred.sum(axis=0) * offsets**2).sum() / blurred.sum())
    assert blurred.sum() == pytest.approx(255, rel=0.05) and spread == pytest.approx(1.5, abs=0.1)
    # at the frame's edge its pixels are repeated, not darkened
    assert (Sensor(blur=2.0)(cut(flat), (0, 0, 10, 210), 200, 210) == 128).all()


def test_a_stretched_view_of_known_size():
    """The drawn placement is the one of these sizes, mirrored or not."""
    seen = set()
    for seed in range(10):
        placement = ImageAugmentation(stretch=0.3).draw(rng(seed), 60, 80)[0]
        mirror = placement.matrix[0] < 0
        assert placement == place((60, 80), (placement.height, placement.width), mirror)
        seen.add(mirror)
    assert seen == {True, False}
