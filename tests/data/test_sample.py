"""Augmented frames as views: a box is a crop of the whole, and what belongs together stays together."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
import pytest

from winwin_hf.data import resampling
from winwin_hf.data.augmentation import FlowAugmentation, FlowView, ImageAugmentation, Recolour, Sensor
from winwin_hf.data.collator import SecondStrategy, WinWinCollator
from winwin_hf.data.resampling import Placement, place
from winwin_hf.data.sample import FlowSample, ImageSample, augmented_pair, augmented_view
from winwin_hf.windows import Strategy

HEIGHT, WIDTH = 150, 211
STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "gamma": 0.0, "hue": 0.0}
OFF = {**STILL, "scale_probability": 0.0, "flip": 0.0, "flip_vertical": 0.0, "erase": 0.0}
# one augmentation each, and all at once; every one is certain to do something
FLOWS = {
    "larger": {"scale_probability": 1, "scale": (0.4, 0.4), "stretch": 0},
    "smaller": {"scale_probability": 1, "scale": (-0.8, -0.8), "stretch": 0},
    "much smaller": {"scale_probability": 1, "scale": (-1.7, -1.7), "stretch": 0},
    "stretch": {"scale_probability": 1, "scale": (0, 0), "stretch": 0.5, "stretch_probability": 1},
    "flip": {"flip": 1},
    "flip vertical": {"flip_vertical": 1},
    "both flips": {"flip": 1, "flip_vertical": 1},
    "shift": {"shift": 5},
    "turn": {"turn": 4},
    "erase": {"erase": 1},
    "colours": dict.fromkeys(STILL, 0.3),
    "asymmetric": {**dict.fromkeys(STILL, 0.3), "asymmetric": 1},
    "least": {"least": (200, 200)},
}
FLOWS["all"] = {**FLOWS["stretch"], "scale": (-0.4, 0.4), "flip": 0.5, "flip_vertical": 0.5, **FLOWS["asymmetric"]}
FLOWS["all"] |= {"shift": 4, "turn": 2, "erase": 1}
IMAGES = {
    "stretch": {"stretch": 0.4},
    "rotate": {"rotate": 15.0},
    "hue": {"hue": 0.3},
    "blur": {"blur": 1.0, "blur_sigma": (0.5, 3.0)},
    "noise": {"noise": 20.0},
    "least": {"least": (200, 200)},
}
IMAGES["all"] = {name: value for settings in IMAGES.values() for name, value in settings.items()}


def rng(seed=0):
    return np.random.default_rng(seed)


def whole(sample):
    return 0, 0, sample.height, sample.width


def cut(array, box):
    top, left, h, w = box
    return array[top : top + h, left : left + w]


def boxes(sample, count=12):
    """Boxes of all sizes inside the frame, a single pixel and the corners among them."""
    generator = rng(1)
    yield from ((0, 0, 1, 1), (sample.height - 1, sample.width - 1, 1, 1), (sample.height - 9, 0, 9, 13))
    for _ in range(count):
        h, w = (int(generator.integers(1, side)) for side in (sample.height, sample.width))
        yield int(generator.integers(sample.height - h + 1)), int(generator.integers(sample.width - w + 1)), h, w


def same(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and np.array_equal(one, other, equal_nan=True)


@lru_cache
def rough_pair():
    """Noise, and a flow with jumps, smooth parts and unknown ones: nothing in it is easy to interpolate."""
    generator = rng(0)
    frames = generator.integers(0, 256, (2, HEIGHT, WIDTH, 3), dtype=np.uint8)
    flow = cv2.GaussianBlur(generator.normal(0, 40, (HEIGHT, WIDTH, 2)).astype(np.float32), (0, 0), 7)
    flow[40:80, 30:90] += 25
    flow[generator.random((HEIGHT, WIDTH)) < 0.1] = np.nan
    flow[:, 120:140] = np.nan
    arrays = frames[0], frames[1], flow, generator.random((HEIGHT, WIDTH)) < 0.3
    for array in arrays:  # a sample must not write into what it was given
        array.flags.writeable = False
    return arrays


# ---------------------------------------------------------------------------------------------- a box is a crop of the whole


@pytest.mark.parametrize("name", FLOWS)
def test_a_box_of_a_pair_is_a_crop_of_the_whole(name):
    """Bit for bit: image, flow, second frame, occlusion."""
    image1, image2, flow, occluded = rough_pair()
    augmentation = FlowAugmentation(**{**OFF, **FLOWS[name]})
    for seed in range(3):
        sample = augmented_pair(image1, image2, flow, augmentation, rng(seed), occluded)
        image, target = sample.first(whole(sample))
        second, hidden = sample.second(whole(sample)), sample.occlusion(whole(sample))
        assert image.shape == second.shape == (*target.shape[:2], 3) and hidden.shape == target.shape[:2]
        for box in boxes(sample):
            part, part_target = sample.first(box)
            assert same(part, cut(image, box)) and same(part_target, cut(target, box))
            assert same(sample.second(box), cut(second, box)) and same(sample.occlusion(box), cut(hidden, box))
        plain = FlowSample(image1, image2, flow)  # and it does something
        assert target.shape != flow.shape or any(
            not same(a, b)
            for a, b in ((image, image1), (second, image2), (target, plain.first(whole(plain))[1]), (hidden, occluded))
        )


@pytest.mark.parametrize("name", IMAGES)
def test_a_box_of_an_image_is_a_crop_of_the_whole(name):
    image, _, flow, _ = rough_pair()
    for seed in range(3):
        sample, _ = augmented_view(image, flow[..., 0], ImageAugmentation(**IMAGES[name]), rng(seed))
        shown, target = sample.first(whole(sample))
        for box in boxes(sample):
            part, part_target = sample.first(box)
            assert same(part, cut(shown, box)) and same(part_target, cut(target, box))


def test_a_box_may_stick_out_of_the_frame():
    image1, image2, flow, occluded = rough_pair()
    sample = augmented_pair(image1, image2, flow, FlowAugmentation(**{**OFF, **FLOWS["all"]}), rng(), occluded)
    box = (sample.height - 10, sample.width - 20, 16, 32)
    image, target = sample.first(box)
    part, part_target = sample.first((*box[:2], 10, 20))
    assert same(image, np.pad(part, ((0, 6), (0, 12), (0, 0)), mode="edge"))
    assert same(target[:10, :20], part_target) and np.isnan(target[10:]).all() and np.isnan(target[:, 20:]).all()
    hidden = sample.occlusion(box)
    assert hidden.dtype == bool and hidden[10:].all() and hidden[:, 20:].all() and not hidden[:10, :20].all()
    assert sample.second(box).shape == (16, 32, 3)
    with pytest.raises(ValueError, match="does not begin in the frame"):
        sample.first((sample.height, 0, 8, 8))


@pytest.mark.parametrize("name", ["smaller", "all"])
def test_work_is_in_proportion_to_the_box(name, monkeypatch):
    """Pixels that OpenCV is asked to interpolate, however large the frame is."""
    asked = []
    remap = cv2.remap
    monkeypatch.setattr(resampling.cv2, "remap", lambda *a, **k: asked.append(a[1].size) or remap(*a, **k))
    frame = np.zeros((1200, 1600, 3), np.uint8)
    sample = augmented_pair(
        frame, frame, np.zeros((1200, 1600, 2), np.float32), FlowAugmentation(**{**OFF, **FLOWS[name]}), rng()
    )
    sample.first((64, 96, 64, 48))
    sample.second((64, 96, 64, 48))
    assert len(asked) == 2 and max(asked) <= 64 * 48 * 2 * 2


# -------------------------------------------------------------------------------------------------------------- identities


def test_without_augmentation_pixels_are_exact():
    image1, image2, flow, occluded = rough_pair()
    for view in (None, FlowAugmentation(**OFF).draw(rng(), HEIGHT, WIDTH)):
        sample = FlowSample(image1, image2, flow, occluded, view)
        for box in boxes(sample):
            image, target = sample.first(box)
            assert same(image, cut(image1, box)) and same(target, cut(flow, box))
            assert same(sample.second(box), cut(image2, box)) and same(sample.occlusion(box), cut(occluded, box))
    # the general path gives the same where it need not be taken: a shift that is no shift
    aside = place((HEIGHT, WIDTH), (HEIGHT, WIDTH), shift=(1e-12, 0.0))
    sample = FlowSample(image1, image2, flow, view=FlowView(aside, aside))
    assert same(sample.first(whole(sample))[0], image1)


@pytest.mark.parametrize("name", ["flip", "flip vertical", "both flips"])
def test_flipped_twice_is_the_pair(name):
    image1, image2, flow, occluded = rough_pair()
    augmentation = FlowAugmentation(**{**OFF, **FLOWS[name]})
    once = augmented_pair(image1, image2, flow, augmentation, rng(), occluded)
    turned, target = once.first(whole(once))
    assert not same(turned, image1)
    twice = augmented_pair(
        turned, once.second(whole(once)), target, augmentation, rng(), once.occlusion(whole(once)).copy()
    )
    assert same(twice.first(whole(twice))[0], image1) and same(twice.first(whole(twice))[1], flow)
    assert same(twice.second(whole(twice)), image2) and same(twice.occlusion(whole(twice)), occluded)


def test_flow_of_twice_the_size():
    """Spring's ground truth: every second pixel, values as they are."""
    image1, image2, _, _ = rough_pair()
    double = rng().normal(0, 9, (2 * HEIGHT, 2 * WIDTH, 2)).astype(np.float32)
    hidden = rng().random((2 * HEIGHT, 2 * WIDTH)) < 0.5
    sample = FlowSample(image1, image2, double, hidden.astype(np.uint8))
    assert same(sample.first(whole(sample))[1], double[::2, ::2])
    assert same(sample.occlusion(whole(sample)), hidden[::2, ::2])
    augmentation = FlowAugmentation(**{**OFF, **FLOWS["all"]})
    one, other = (augmented_pair(image1, image2, f, augmentation, rng(3)) for f in (double, double[::2, ::2]))
    assert same(one.first(whole(one))[1], other.first(whole(other))[1])


def test_errors():
    image1, image2, flow, occluded = rough_pair()
    with pytest.raises(ValueError, match="the two frames and the flow differ in size: 150x211, 150x211, 75x211"):
        FlowSample(image1, image2, flow[:75])
    with pytest.raises(ValueError, match=r"and the occlusion differ in size: .*, 150x211, 150x210"):
        FlowSample(image1, image2, flow, occluded[:, 1:])
    with pytest.raises(ValueError, match="differ in size"):
        FlowSample(image1, image2[:, 1:], flow)
    with pytest.raises(ValueError, match="no occlusion mask"):
        FlowSample(image1, image2, flow).occlusion((0, 0, 8, 8))


# ----------------------------------------------------------------------------------------------- flow is still a flow


def texture(x, y):
    """A smooth texture at any points, float32 (h, w, 3) in 0 to 255; no two neighbourhoods of it are alike."""
    generator = rng(5)
    values = np.zeros((*np.shape(x), 3))
    for _ in range(12):
        kx, ky = generator.uniform(-0.35, 0.35, 2)
        values += np.sin(kx * x + ky * y + generator.uniform(0, 6))[..., None] * generator.uniform(-1, 1, 3)
    return np.clip(127 + 40 * values, 0, 255).astype(np.float32)


@lru_cache
def smooth_pair():
    """(image1, image2, flow): the second frame is a texture, the first shows at p what that has at p + flow(p)."""
    x, y = np.meshgrid(np.arange(WIDTH, dtype=float), np.arange(HEIGHT, dtype=float))
    u = 6 + 0.06 * (x - 100) - 0.04 * (y - 70) + 1.5 * np.sin(y / 25)
    v = -4 + 0.05 * (x - 100) + 0.03 * (y - 70) + 1.5 * np.cos(x / 30)
    images = (np.rint(texture(*at)).astype(np.uint8) for at in ((x + u, y + v), (x, y)))
    return *images, np.stack([u, v], axis=-1).astype(np.float32)


def mismatch(image1, image2, flow):
    """Mean difference of frame 1 from what flow points to in frame 2, grey levels, where that is well inside."""
    height, width = flow.shape[:2]
    x, y = np.meshgrid(np.arange(width, dtype=np.float32), np.arange(height, dtype=np.float32))
    x, y = x + flow[..., 0], y + flow[..., 1]
    found = cv2.remap(image2.astype(np.float32), x, y, cv2.INTER_LINEAR)
    inside = (np.abs(x / width - 0.5) < 0.4) & (np.abs(y / height - 0.5) < 0.4)
    assert inside.mean() > 0.3
    return np.abs(found - image1)[inside].mean()


@pytest.mark.parametrize("name", [n for n in FLOWS if n not in ("much smaller", "erase", "colours", "asymmetric")])
def test_the_warped_pair_still_matches(name):
    image1, image2, flow = smooth_pair()
    assert mismatch(image1, image2, flow) < 1.5  # before
    settings = {**OFF, **FLOWS[name], **STILL, "erase": 0}
    for seed in range(3):
        sample = augmented_pair(image1, image2, flow, FlowAugmentation(**settings), rng(seed))
        (first, target), second = sample.first(whole(sample)), sample.second(whole(sample))
        assert mismatch(first, second, target) < 1.5
        # controls: a wrong sign, a wrong scale and the flow of another pixel would be seen
        for wrong in (target * (-1, 1), target * (1, -1), target * 1.3, target / 1.3, np.roll(target, 30, axis=1)):
            assert mismatch(first, second, wrong.astype(np.float32)) > 8
        resized = cv2.resize(flow, (sample.width, sample.height))  # neither flipped nor scaled nor moved along
        assert mismatch(first, second, resized) > 8


def test_two_motions_are_never_mixed():
    """An object whose flow the image encodes: red is what moves."""
    image, flow = np.zeros((HEIGHT, WIDTH, 3), np.uint8), np.zeros((HEIGHT, WIDTH, 2), np.float32)
    image[40:90, 60:150] = (200, 100, 0)
    flow[40:90, 60:150] = (40, -8)
    for seed in range(6):
        augmentation = FlowAugmentation(**{**OFF, **FLOWS["stretch"], "scale": (-0.7, 0.7), "flip": 0.5})
        sample = augmented_pair(image, image, flow, augmentation, rng(seed))
        shown, target = sample.first(whole(sample))
        u, v = 40 * sample.width / WIDTH, -8 * sample.height / HEIGHT
        sign = np.sign(sample.view.first.matrix[0])
        values = np.unique(target.reshape(-1, 2), axis=0)
        assert np.sort(values, axis=0) == pytest.approx(np.sort([[0, 0], [sign * u, v]], axis=0), rel=1e-6)
        moves, red = target[..., 1] < 0, shown[..., 0] > 100
        assert (moves != red).mean() < 0.015  # at most the pixels across the edge


def test_unknown_flow_moves_with_the_image():
    image, flow = np.full((HEIGHT, WIDTH, 3), 255, np.uint8), np.ones((HEIGHT, WIDTH, 2), np.float32)
    hole = (slice(30, 80), slice(20, 70))
    image[hole], flow[hole] = 0, np.nan
    for name in ("larger", "smaller", "flip", "flip vertical", "all"):
        settings = {**OFF, **FLOWS[name], **STILL}
        sample = augmented_pair(image, image, flow, FlowAugmentation(**settings), rng(2))
        shown, target = sample.first(whole(sample))
        unknown = np.isnan(target)
        assert (unknown[..., 0] == unknown[..., 1]).all() and 0.05 < unknown.mean() < 0.15
        assert (unknown[..., 0] != (shown[..., 0] < 128)).mean() < 0.012


@pytest.mark.parametrize("name", IMAGES)
def test_image_and_target_stay_together(name):
    """An image that encodes its target: blue is depth; outside the image nothing is known, and its edge is repeated."""
    x, y = np.meshgrid(np.arange(WIDTH), np.arange(HEIGHT))
    depth = (40 + 0.5 * x + 0.4 * y).astype(np.float32)
    depth[60:90, 100:160] = 30
    image = np.repeat(np.rint(depth).astype(np.uint8)[..., None], 3, axis=2)
    settings = {**STILL, **IMAGES[name], "noise": 0, "blur": 0}
    outside = []
    for seed in range(4):
        sample, _ = augmented_view(image, depth, ImageAugmentation(**settings), rng(seed))
        shown, target = sample.first(whole(sample))
        known = ~np.isnan(target)
        assert (np.abs(shown[..., 2] - target)[known] > 3).mean() < 0.03
        if name != "all":
            assert np.abs(shown[..., 2] - target[:, ::-1])[known & known[:, ::-1]].mean() > 5  # a control
        outside.append(1 - known.mean())
        assert shown.min() >= 29
    assert (max(outside) > 0.02) == (name in ("rotate", "all"))


def test_a_right_angle_is_a_turned_array():
    """Of a square: clockwise, image and labels alike, nothing lost."""
    image = rng().integers(0, 256, (64, 64, 3), dtype=np.uint8)
    placement = place((64, 64), (64, 64), degrees=90)
    shown, target = ImageSample(image, image[..., 0], placement).first((0, 0, 64, 64))
    assert (target == np.rot90(image[..., 0], -1)).all()
    assert np.abs(shown.astype(int) - np.rot90(image, -1)).max() <= 1


def test_depth_and_scale():
    """The scale by which depth is to be divided is the one of areas, so a stretch alone changes it hardly."""
    depth = np.ones((HEIGHT, WIDTH), np.float32)
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for seed in range(6):
        sample, scale = augmented_view(image, depth, ImageAugmentation(scale=(1.5, 1.5), stretch=0.3), rng(seed))
        assert scale == pytest.approx(1.5) and sample.width / sample.height != pytest.approx(WIDTH / HEIGHT, rel=1e-3)
        assert (sample.first((3, 3, 20, 20))[1] == 1).all()
    sample, scale = augmented_view(image, depth, ImageAugmentation(scale=(0.5, 0.5), least=(HEIGHT, 1)), rng())
    assert (sample.height, sample.width, scale) == (HEIGHT, WIDTH, 1.0)


# -------------------------------------------------------------------------------------------------- eraser and colours


def test_the_eraser_hides_the_second_frame_only():
    image1, image2, flow, occluded = rough_pair()
    for seed in range(4):
        for settings in ({**OFF, "erase": 1}, {**OFF, **FLOWS["all"]}):
            view = FlowAugmentation(**settings).draw(rng(seed), HEIGHT, WIDTH)
            erased = FlowSample(image1, image2, flow, occluded, view)
            plain = FlowSample(image1, image2, flow, occluded, replace(view, erased=()))
            frame = whole(erased)
            assert all(same(*pair) for pair in zip(erased.first(frame), plain.first(frame), strict=True))
            mask = np.zeros(frame[2:], bool)
            for box in view.erased:
                cut(mask, box)[:] = True
            assert 0 < mask.mean() < 1
            shown, target = erased.second(frame), erased.first(frame)[1]
            assert same(shown[~mask], plain.second(frame)[~mask])
            mean = np.rint(image2.reshape(-1, 3).mean(axis=0)).astype(np.uint8)
            assert (shown[mask] == view.colours[1](mean[None, None])).all()
            # what was erased is occluded: where flow points into it
            x, y = np.meshgrid(np.arange(erased.width), np.arange(erased.height))
            to_x, to_y = np.rint(x + np.nan_to_num(target[..., 0], nan=-1e9)), np.rint(y + target[..., 1])
            valid = (to_x >= 0) & (to_x < erased.width) & (to_y >= 0) & (to_y < erased.height)
            hit = np.zeros_like(mask)
            hit[valid] = mask[to_y[valid].astype(int), to_x[valid].astype(int)]
            new = erased.occlusion(frame) & ~plain.occlusion(frame)
            assert (new != (hit & ~plain.occlusion(frame))).mean() < 1e-3 and new.any()


def test_what_leaves_the_second_view_is_occluded():
    image1, image2, _, _ = rough_pair()
    still, seen = np.zeros((HEIGHT, WIDTH, 2), np.float32), np.zeros((HEIGHT, WIDTH), bool)
    moved = FlowView(Placement(HEIGHT, WIDTH), place((HEIGHT, WIDTH), (HEIGHT, WIDTH), shift=(5.0, -3.0)))
    hidden = FlowSample(image1, image2, still, seen, moved).occlusion((0, 0, HEIGHT, WIDTH))
    assert hidden[:3].all() and hidden[:, -5:].all() and not hidden[3:, :-5].any()


def test_colours_leave_geometry_and_are_the_same_everywhere():
    """A recoloured view is the view, recoloured; one map a frame, so windows agree (and see the boxes' test above)."""
    image1, image2, flow, _ = rough_pair()
    for seed in range(5):
        view = FlowAugmentation(gamma=0.3, asymmetric=1).draw(rng(seed), HEIGHT, WIDTH)
        view = replace(view, erased=())
        coloured = FlowSample(image1, image2, flow, view=view)
        grey = FlowSample(image1, image2, flow, view=replace(view, colours=(None, None)))
        frame = whole(coloured)
        (image, target), (plain, plain_target) = coloured.first(frame), grey.first(frame)
        assert same(target, plain_target) and not same(image, plain)
        assert same(image, view.colours[0](np.ascontiguousarray(plain)))
        assert same(coloured.second(frame), view.colours[1](np.ascontiguousarray(grey.second(frame))))


def test_blur_and_noise_come_after_colours_and_windows_agree():
    image = rough_pair()[0]
    sensor, recolour = Sensor(1.2, 9.0, 4), Recolour(1.1, 0.8, 0.5, 1.2, 0.1)
    placement = place((HEIGHT, WIDTH), (100, 190), mirror=True)
    sample = ImageSample(image, image[..., 0], placement, recolour, sensor)
    crisp = ImageSample(image, image[..., 0], placement, recolour)
    shown, plain = sample.first((0, 0, 100, 190))[0], crisp.first((0, 0, 100, 190))[0]
    blurred = cv2.GaussianBlur(plain, (9, 9), 1.2, borderType=cv2.BORDER_REPLICATE).astype(float)
    assert (shown - blurred).std() == pytest.approx(9, rel=0.05) and np.abs((shown - blurred).mean()) < 0.3


# ------------------------------------------------------------------------------------------------- with the collator, real frames


def test_windows_fit_into_small_frames():
    image1, image2, flow, _ = rough_pair()
    augmentation = FlowAugmentation(scale=(-2.0, -1.0), least=(160, 224))
    strategy, second = Strategy("windows", size=(4, 6)), SecondStrategy(size=(8, 10))

    def read(example, generator):
        return augmented_pair(image1, image2, flow, augmentation, generator)

    collator = WinWinCollator(read, strategy, "optical-flow", second=second)
    batch = collator([{"index": i} for i in range(4)])
    again = collator([{"index": i} for i in (3, 1)])
    assert batch["labels"].shape == (4, 2, 2, 64, 96) and batch["second_pixel_values"].shape == (4, 2, 3, 128, 160)
    for name in batch:
        pair = (batch[name][[3, 1]], again[name])
        assert pair[0].nan_to_num(7.0).equal(pair[1].nan_to_num(7.0))  # seeds repeat


def test_real_frames_still_match(real_data):
    """Sintel's dense flow and KITTI's sparse one explain their second frames after augmentation as well as before."""
    sintel, kitti = real_data("Sintel") / "training", real_data("KITTI") / "training"
    stored = cv2.imread(str(kitti / "flow_occ" / "000000_10.png"), cv2.IMREAD_UNCHANGED)[..., ::-1].astype(np.float32)
    sparse = np.where(stored[..., 2:] > 0, (stored[..., :2] - 2**15) / 64, np.nan).astype(np.float32)
    frames = [sintel / "clean" / "alley_1" / f"frame_000{i}.png" for i in (1, 2)]
    pairs = [(*frames, cv2.readOpticalFlow(str(sintel / "flow" / "alley_1" / "frame_0001.flo")))]
    folder = next(f for f in ("image_2", "colored_0") if (kitti / f).is_dir())
    pairs += [(*(kitti / folder / f"000000_1{i}.png" for i in (0, 1)), sparse)]
    for path1, path2, flow in pairs:
        image1, image2 = (cv2.cvtColor(cv2.imread(str(p)), cv2.COLOR_BGR2RGB)[40:360, 256:768] for p in (path1, path2))
        flow = np.ascontiguousarray(flow[40:360, 256:768])
        before = difference(FlowSample(image1, image2, flow))
        for seed in range(2):
            settings = {**OFF, **FLOWS["all"], **STILL, "scale": (0.0, 0.4), "turn": 0.5, "erase": 0}
            sample = augmented_pair(image1, image2, flow, FlowAugmentation(**settings), rng(seed))
            after, wrong = difference(sample), difference(sample, factor=-1)
            assert after < 1.3 * before + 1 and wrong > after + 3


def difference(sample, factor=1.0):
    """Median difference between the first frame and where flow leads, grey levels, of the known pixels."""
    frame = whole(sample)
    (image, flow), second = sample.first(frame), sample.second(frame)
    x, y = np.meshgrid(np.arange(sample.width), np.arange(sample.height))
    to = (np.stack([x, y], axis=-1) + factor * flow).astype(np.float32)
    known = ~np.isnan(flow[..., 0]) & (to > 30).all(-1) & (to < np.array([sample.width, sample.height]) - 30).all(-1)
    found = cv2.remap(second.astype(np.float32), np.nan_to_num(to), None, cv2.INTER_LINEAR)
    return np.abs(found - image)[known].mean()
