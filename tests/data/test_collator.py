"""The collator on frames whose pixels say where they are, so windows, positions and motion can be checked exactly."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from winwin_hf.data.augmentation import ImageAugmentation, Recolour
from winwin_hf.data.collator import SecondStrategy, WinWinCollator, tokens_kept
from winwin_hf.data.guesses import GuessStrategy
from winwin_hf.data.resampling import place
from winwin_hf.data.sample import FlowSample, ImageSample, augmented_view
from winwin_hf.windows import Strategy

P = 8
RAW = {"image_mean": (0.0, 0.0, 0.0), "image_std": (1 / 255, 1 / 255, 1 / 255)}  # normalised values are the raw ones


def coordinates(height=96, width=128):
    """An image whose red is the row and green the column."""
    image = np.zeros((height, width, 3), np.uint8)
    image[..., 0], image[..., 1] = np.mgrid[:height, :width]
    return image


def flow_reader(u, v, height=96, width=128):
    """The second frame shows (row - v, col - u): the first one moved by (u, v)."""

    def read(example, rng):
        image = coordinates(height, width)
        flow = np.broadcast_to(np.array([u, v], np.float32), (height, width, 2))
        return FlowSample(image, np.roll(image, (v, u), axis=(0, 1)), flow)

    return read


def image_reader(height=96, width=128, target=None):
    def read(example, rng):
        image = coordinates(height, width)
        return ImageSample(image, image[..., 0] // 10 if target is None else target)

    return read


def collate(reader, strategy, task="optical-flow", indices=(0, 1, 2), **options):
    collator = WinWinCollator(reader, strategy, task, patch_size=P, **{**RAW, **options})
    return collator([{"index": i} for i in indices])


def check_pixels_are_at(pixels, positions):
    """pixels (B, N, 3, h, w) say their own place; it must be the window's."""
    h, w = pixels.shape[-2:]
    rows = positions[..., 0, None, None] * P + torch.arange(h)[:, None]
    columns = positions[..., 1, None, None] * P + torch.arange(w)[None, :]
    torch.testing.assert_close(pixels[:, :, 0], rows.expand(*pixels.shape[:2], h, w).float())
    torch.testing.assert_close(pixels[:, :, 1], columns.expand(*pixels.shape[:2], h, w).float())


def test_flow_batch():
    second = SecondStrategy(size=(4, 5), jitter=0.0)
    batch = collate(flow_reader(16, -8), Strategy("windows", size=(2, 3)), second=second)
    shapes = {name: tuple(tensor.shape) for name, tensor in batch.items()}
    assert shapes == {
        "pixel_values": (3, 2, 3, 16, 24),
        "window_positions": (3, 2, 2),
        "labels": (3, 2, 2, 16, 24),
        "second_pixel_values": (3, 2, 3, 32, 40),
        "second_window_positions": (3, 2, 2),
        "frame_sizes": (3, 2),
        "second_frame_sizes": (3, 2),
    }
    assert (batch["frame_sizes"] == torch.tensor([12, 16])).all(), "of the whole frame, in patches"
    assert all(tensor.is_contiguous() for tensor in batch.values())
    check_pixels_are_at(batch["pixel_values"], batch["window_positions"])
    assert (batch["labels"][:, :, 0] == 16).all() and (batch["labels"][:, :, 1] == -8).all()
    # 16 px right and 8 up are 2 patches and -1; the larger window has the same centre, and stays in the 12x16 frame
    expected = batch["window_positions"] + torch.tensor([-1, 2]) - 1
    expected = expected.clamp(min=0).minimum(torch.tensor([12 - 4, 16 - 5]))
    assert (batch["second_window_positions"] == expected).all()
    # every first pixel that did not leave the frame is in the second window
    for b in range(3):
        for n in range(2):
            first, moved = batch["pixel_values"][b, n], batch["second_pixel_values"][b, n]
            seen = {tuple(p) for p in moved[:2].flatten(1).T.int().tolist()}
            for row, col in first[:2].flatten(1).T.int().tolist():
                if row - 8 >= 0 and col + 16 < 128:
                    assert (row, col) in seen


def test_guesses_come_with_the_batch():
    exact = GuessStrategy(probability=1, blur=0, miss=(0.01, 0.01), lost=0)
    plain, guessed = (collate(flow_reader(16, -8), Strategy("windows", size=(2, 3)), guess=g) for g in (None, exact))
    guess = guessed.pop("initial_flow")
    assert guess.shape == plain["labels"].shape and (guess - plain["labels"]).abs().max() < 0.1
    assert all(torch.equal(guessed[name], plain[name]) for name in plain), "guesses draw numbers of their own"
    again = collate(flow_reader(16, -8), Strategy("windows", size=(2, 3)), guess=exact)["initial_flow"]
    assert torch.equal(guess, again)
    assert "initial_flow" not in collate(flow_reader(16, -8), Strategy("full"), guess=exact)
    assert "initial_flow" not in collate(
        image_reader(), Strategy("windows", size=(2, 3)), "semantic-segmentation", guess=exact
    )


def test_unknown_flow_stays():
    def read(example, rng):
        image = coordinates()
        return FlowSample(image, image, np.full((96, 128, 2), np.nan, np.float32))

    batch = collate(read, Strategy("windows", size=(3, 3)), second=SecondStrategy(factor=1.0, jitter=0.0))
    assert (batch["second_window_positions"] == batch["window_positions"]).all()
    assert batch["labels"].isnan().all()


def test_crop_is_its_own_frame():
    batch = collate(flow_reader(16, -8), Strategy("crop", size=(5, 6)), indices=range(8))
    assert batch["pixel_values"].shape == batch["second_pixel_values"].shape == (8, 1, 3, 40, 48)
    assert (batch["window_positions"] == 0).all() and (batch["second_window_positions"] == 0).all()
    assert (batch["frame_sizes"] == torch.tensor([5, 6])).all()
    # the same box in both: what moved by (16, -8) shows, at one place, a content that lies 16 left and 8 lower
    first, second = batch["pixel_values"], batch["second_pixel_values"]
    rows = (first - second)[:, 0, 0] % 96
    assert (rows == 96 - 8).all()
    assert len({tuple(v) for v in first[:, 0, :2, 0, 0].tolist()}) > 4  # crops lie in many places


def test_full_frame():
    batch = collate(flow_reader(3, 1, 90, 127), Strategy("full"), indices=(0, 1))
    assert batch["pixel_values"].shape == batch["second_pixel_values"].shape == (2, 1, 3, 96, 128)
    assert (batch["window_positions"] == 0).all() and (batch["second_window_positions"] == 0).all()
    assert (batch["frame_sizes"] == torch.tensor([12, 16])).all(), "with the patches that reach beyond it"
    pixels, labels = batch["pixel_values"][0, 0], batch["labels"][0, 0]
    assert (pixels[0, 90:] == 89).all() and (pixels[1, :, 127:] == 126).all()  # the edge is repeated
    assert labels[:, 90:].isnan().all() and labels[:, :, 127:].isnan().all() and labels[:, :90, :127].isfinite().all()


def test_full_frames_of_two_sizes_are_an_error():
    def read(example, rng):
        return image_reader(96, 128 - 32 * example["index"])(example, rng)

    with pytest.raises(ValueError, match="one size, got 96x128, 96x96"):
        collate(read, Strategy("full"), task="semantic-segmentation", indices=(0, 1))
    assert (
        collate(read, Strategy("windows", size=(2, 2)), task="semantic-segmentation", indices=(0, 1))["labels"].shape[0]
        == 2
    )


def test_segmentation_and_depth():
    batch = collate(image_reader(90, 120), Strategy("windows", size=(4, 4)), "semantic-segmentation", indices=range(20))
    assert set(batch) == {"pixel_values", "window_positions", "labels", "frame_sizes"}
    assert batch["labels"].dtype == torch.int64 and batch["labels"].shape == (20, 2, 32, 32)
    pixels, labels = batch["pixel_values"], batch["labels"]
    known = labels != 255
    assert (labels[known] == pixels[:, :, 0][known].long() // 10).all()
    rows = batch["window_positions"][..., 0, None, None] * P + torch.arange(32)[:, None]
    assert (known == (rows < 90).expand_as(known)).all() and not known.all()
    depth = np.full((96, 128), 2.5, np.float32)
    depth[:48] = np.nan
    batch = collate(image_reader(target=depth), Strategy("full"), "depth-estimation", indices=(0,))
    assert batch["labels"].dtype == torch.float32 and batch["labels"].shape == (1, 1, 96, 128)
    assert batch["labels"][..., :48, :].isnan().all() and (batch["labels"][..., 48:, :] == 2.5).all()


def test_single_tokens_and_tiles():
    batch = collate(flow_reader(8, 8), Strategy("tokens", tokens=20), second=SecondStrategy(size=(2, 2), jitter=0))
    assert batch["pixel_values"].shape == (3, 20, 3, P, P)
    check_pixels_are_at(batch["pixel_values"], batch["window_positions"])
    batch = collate(image_reader(), Strategy("windows", sizes=((4, 4), (2, 6))), "semantic-segmentation")
    assert batch["pixel_values"].shape == (3, 4 + 3, 3, 16, 16)
    check_pixels_are_at(batch["pixel_values"], batch["window_positions"])


def test_varying_sizes():
    strategy = Strategy("windows", tokens=48, min_side=2)
    sizes = {
        tuple(collate(image_reader(), strategy, "semantic-segmentation", indices=(i, 1))["labels"].shape)
        for i in range(20)
    }
    assert len(sizes) > 3  # one size for each batch, not always the same


def test_depends_on_seed_and_index_only():
    def read(example, rng):
        image = coordinates()
        return augmented_view(image, image[..., 0], ImageAugmentation(), rng)[0]

    strategy = Strategy("windows", size=(3, 4))
    a, b = (collate(read, strategy, "semantic-segmentation", indices=i) for i in ((5, 6, 7), (7, 9, 5)))
    for name in a:
        assert (a[name][0] == b[name][2]).all() and (a[name][2] == b[name][0]).all()
    other = collate(read, strategy, "semantic-segmentation", indices=(5, 6, 7), seed=1)
    assert (a["window_positions"] != other["window_positions"]).any()


def test_without_an_index_a_stream_of_its_own():
    make = lambda: WinWinCollator(image_reader(), Strategy("windows", size=(2, 2)), "semantic-segmentation", P, seed=3)  # noqa: E731
    one, two = make(), make()
    first, second = one([{}, {}]), one([{}, {}])
    assert (first["window_positions"] != second["window_positions"]).any()
    assert (first["window_positions"] == two([{}, {}])["window_positions"]).all()


def test_without_an_index_each_epoch_and_loader_process_draws_anew():
    collator = WinWinCollator(image_reader(), Strategy("windows", size=(2, 2)), "semantic-segmentation", P)
    torch.manual_seed(0)
    loader = DataLoader([{}] * 8, batch_size=4, num_workers=2, collate_fn=collator)
    drawn = [batch["window_positions"] for _ in range(2) for batch in loader]
    assert all((one != other).any() for one, other in itertools.combinations(drawn, 2))
    torch.manual_seed(0)
    assert all((one == again["window_positions"]).all() for one, again in zip(drawn[:2], loader, strict=True))


def test_normalisation():
    mean, std = (0.5, 0.25, 0.1), (0.5, 0.2, 1.0)
    raw = collate(image_reader(), Strategy("full"), "semantic-segmentation", (0,))["pixel_values"]
    scaled = collate(image_reader(), Strategy("full"), "semantic-segmentation", (0,), image_mean=mean, image_std=std)
    expected = (raw / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    torch.testing.assert_close(scaled["pixel_values"], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"image_std": [0, 0, 0]}, r"image_std.0: .*got 0"),
        ({"image_std": [1e-320] * 3}, "image_std.0"),
        ({"image_std": [float("nan")] * 3}, "image_std.0: .*finite"),
        ({"image_mean": [float("inf")] * 3}, "image_mean.0"),
        ({"image_mean": [0.5]}, "image_mean: .*at least 3 items"),
        ({"image_mean": None}, "image_mean: .*got None"),
        ({"patch_size": 0}, "patch_size: .*got 0"),
        ({"patch_size": 16.5}, "patch_size: .*got 16.5"),
        ({"patch_size": True}, "patch_size: expected numbers"),
        ({"seed": -1}, "seed: .*got -1"),
        ({"group": 0}, "group: .*got 0"),
        ({"strategy": None}, "strategy: expected a Strategy, got a NoneType"),
        ({"second": {}}, "second: expected a SecondStrategy, got a dict"),
        ({"reader": 3}, "reader: expected a function"),
    ],
)
def test_arguments_are_checked(wrong, said):
    with pytest.raises(ValueError, match=said):
        WinWinCollator(
            **{"reader": image_reader(), "strategy": Strategy("full"), "task": "semantic-segmentation", **wrong}
        )


def test_numbers_of_numpy_and_torch_are_taken():
    whole = collate(image_reader(), Strategy("windows", size=(3, 4)), "semantic-segmentation")
    eight = Strategy("windows", size=np.array([3, 4], np.uint8), count=np.uint8(2))
    mean = {"image_mean": torch.tensor(RAW["image_mean"]), "image_std": np.array(RAW["image_std"])}
    other = WinWinCollator(image_reader(), eight, "semantic-segmentation", np.uint8(P), seed=np.int64(0), **mean)
    for name, tensor in other([{"index": i} for i in range(3)]).items():
        assert tensor.dtype == whole[name].dtype and torch.allclose(tensor.float(), whole[name].float())


def test_errors():
    with pytest.raises(ValueError, match="a batch without examples"):
        collate(image_reader(), Strategy("full"), "semantic-segmentation", ())
    with pytest.raises(ValueError, match=r"SecondStrategy: factor: .*got 0"):
        SecondStrategy(factor=0)
    with pytest.raises(ValueError, match="task 'flows'"):
        WinWinCollator(image_reader(), Strategy("full"), "flows")
    with pytest.raises(ValueError, match="2 windows of 9x9 patches do not fit into 12x16"):
        collate(image_reader(), Strategy("windows", size=(9, 9)), "semantic-segmentation")
    with pytest.raises(ValueError, match="follow_probability"):
        SecondStrategy(follow_probability=1.5)
    with pytest.raises(ValueError, match="96x128, 96x128, 90x128"):
        FlowSample(coordinates(), coordinates(), np.zeros((90, 128, 2), np.float32))
    with pytest.raises(ValueError, match="does not begin in the frame"):
        FlowSample(coordinates(), coordinates(), np.zeros((96, 128, 2), np.float32)).second((96, 0, 8, 8))
    with pytest.raises(ValueError, match="scale"):
        ImageAugmentation(scale=(2.0, 1.0))


def test_tokens_kept():
    batch = collate(image_reader(90, 120), Strategy("windows", size=(3, 4)), "semantic-segmentation")
    assert tokens_kept(batch, (90, 120), P) == (24, 12 * 15)


# ----------------------------------------------------------------------------------------- the augmented frame as a view


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("size", [(96, 128), (144, 192), (60, 80), (33, 150), (191, 257)])
def test_a_window_is_a_piece_of_the_whole_view(size, mirror):
    """Rendering only a box gives the same pixels as rendering the frame and cutting the box out."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
    image = np.repeat(np.repeat(image[::4, ::4], 4, 0), 4, 1)
    target = rng.random((96, 128)).astype(np.float32)
    view = ImageSample(image, target, place((96, 128), size, mirror), Recolour(1.2, 0.9, 0.5, 1.1))
    whole, whole_target = view.first((0, 0, *size))
    top, left = size[0] // 3, size[1] // 4
    part, part_target = view.first((top, left, size[0] // 2, size[1] // 2))
    cut = (slice(top, top + size[0] // 2), slice(left, left + size[1] // 2))
    assert (part == whole[cut]).all() and (part_target == whole_target[cut]).all()


@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.5, 2.0])
def test_image_and_target_stay_together(scale):
    """A ramp has the same value in image and target wherever it is looked at, mirrored or not."""
    ramp = np.broadcast_to(np.arange(128, dtype=np.uint8) * 2, (96, 128))
    image = np.repeat(ramp[..., None], 3, axis=2)
    size = (round(96 * scale), round(128 * scale))
    for mirror in (False, True):
        shown, target = ImageSample(image, ramp, place((96, 128), size, mirror)).first((16, 8, 24, 40))
        assert np.abs(shown[..., 0].astype(int) - target).max() <= 2 / min(scale, 1)
        assert (np.diff(target.astype(int)[0]) <= 0).all() if mirror else (np.diff(target.astype(int)[0]) >= 0).all()
    plain, _ = ImageSample(image, ramp, place((96, 128), size)).first((0, 0, *size))
    turned, _ = ImageSample(image, ramp, place((96, 128), size, True)).first((0, 0, *size))
    assert np.abs(plain[:, ::-1].astype(int) - turned).max() <= 1


def test_shrinking_averages():
    """A checkerboard shrunk by 4 is grey, not aliased; NaN in depth is neither spread nor lost."""
    board = ((np.indices((96, 128)).sum(axis=0) % 2) * 255).astype(np.uint8)
    depth = np.where(np.indices((96, 128))[1] < 64, np.nan, 3.0).astype(np.float32)
    shown, target = ImageSample(np.repeat(board[..., None], 3, 2), depth, place((96, 128), (24, 32))).first(
        (0, 0, 24, 32)
    )
    assert np.abs(shown.astype(int) - 127).max() <= 2
    assert np.isnan(target[:, :16]).all() and (target[:, 16:] == 3).all()


def test_recolour():
    image = coordinates()
    assert (Recolour()(image) == image).all()
    assert np.ptp(Recolour(saturation=0.0)(image).astype(int), axis=2).max() == 0
    assert Recolour(brightness=1.2)(image).mean() > image.mean() > Recolour(gamma=1.5)(image).mean()
