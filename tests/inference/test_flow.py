"""Direct and tiled prediction, and flow along a video."""

from __future__ import annotations

import itertools
import weakref
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from support.model_cases import arguments, make
from support.model_cases import frames as model_frames

from winwin_hf import WinWinForOpticalFlow, WinWinImageProcessor
from winwin_hf.bundled import examples_folder
from winwin_hf.data.formats import read_image
from winwin_hf.evaluation import methods
from winwin_hf.inference.flow import (
    DensePrediction,
    coarse_flow,
    coarse_sizes,
    consistency,
    flow_of_frames,
    predict_flow,
    predict_tiled,
    tile_positions,
)


class FakeFlow(torch.nn.Module):
    """flow is the first frame's channels 0 and 1, log_scale its channel 2: what comes out says what went in."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(patch_size=16)
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, pixel_values, second_pixel_values=None):
        assert not self.training and torch.is_inference_mode_enabled()
        self.sizes.append(tuple(pixel_values.shape))
        shift = 0 if second_pixel_values is None else (second_pixel_values - pixel_values)[:, :2]
        return {"flow": pixel_values[:, :2] + shift, "log_scale": pixel_values[:, 2]}


class PositionFlow(FakeFlow):
    """Each tile answers with a number of its own and a given c, so blending can be computed by hand."""

    def __init__(self, answers: list[tuple[float, float]]) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, pixel_values, second_pixel_values=None):
        flow, c = self.answers[len(self.sizes)]
        super().forward(pixel_values)
        return SimpleNamespace(
            flow=torch.full_like(pixel_values[:, :2], flow), log_scale=torch.full_like(pixel_values[:, 0], c)
        )


def frames(batch: int = 1, height: int = 64, width: int = 96) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(batch, 3, height, width, generator=generator) for _ in range(2))  # type: ignore[return-value]


@pytest.mark.parametrize(("overlap", "passes"), [(0.5, 54), (0.7, 135), (0.9, 1050)])
def test_number_of_tiles_of_croco_flow_on_full_hd(overlap, passes):
    assert len(tile_positions(1080, 320, overlap)) * len(tile_positions(1920, 384, overlap)) == passes


@pytest.mark.parametrize("length", [10, 11, 31, 100, 101, 1080])
@pytest.mark.parametrize("overlap", [0, 0.3, 0.5, 0.9])
def test_tile_positions(length, overlap):
    tile = 10
    starts = tile_positions(length, tile, overlap)
    assert starts[0] == 0 and starts[-1] + tile == length
    gaps = [after - before for before, after in itertools.pairwise(starts)]
    if gaps:
        assert max(gaps) - min(gaps) <= 1 and 0 < sum(gaps) / len(gaps) <= (1 - overlap) * tile + 1e-6
        # One tile fewer would overlap less than asked.
        assert len(gaps) == 1 or (length - tile) / (len(gaps) - 1) > (1 - overlap) * tile - 1e-6


def test_positions_that_make_no_sense():
    for overlap in (-0.1, 1.0):
        with pytest.raises(ValueError, match="overlap"):
            tile_positions(100, 10, overlap)
    with pytest.raises(ValueError, match="tile"):
        tile_positions(100, 0, 0.5)


def test_direct_is_one_pass_and_restores_the_mode():
    model = FakeFlow().train()
    first, second = frames(2)
    result = predict_flow(model, first, second)
    assert isinstance(result, DensePrediction) and result.passes == 1 and len(model.sizes) == 1 and model.training
    assert torch.equal(result.flow, first[:, :2] + (second - first)[:, :2])
    assert torch.equal(result.log_scale, first[:, 2])


@pytest.mark.parametrize("tile", [(64, 96), (1000, 1000)])
def test_one_tile_is_the_direct_prediction(tile):
    first, second = frames()
    direct, tiled = predict_flow(FakeFlow(), first, second), predict_flow(FakeFlow(), first, second, tile=tile)
    assert torch.equal(direct.flow, tiled.flow) and torch.equal(direct.log_scale, tiled.log_scale)


@pytest.mark.parametrize("tile_batch", [1, 4])
def test_tiles_of_a_pixelwise_model_give_the_direct_prediction(tile_batch):
    # Every tile says the same of a pixel, so any weights must give that back: positions, sums and weights are consistent.
    first, second = frames(2)
    model = FakeFlow()
    tiled = predict_flow(model, first, second, tile=(32, 48), overlap=0.6, tile_batch=tile_batch)
    direct = predict_flow(FakeFlow(), first, second)
    torch.testing.assert_close(tiled.flow, direct.flow)
    torch.testing.assert_close(tiled.log_scale, direct.log_scale)
    assert tiled.passes == len(model.sizes) and model.sizes[0] == (2 * tile_batch, 3, 32, 48)


def test_blending_by_hand():
    first, second = frames(width=96)
    model = PositionFlow([(1.0, -0.5), (5.0, 1.0)])
    result = predict_flow(model, first, second, tile=(64, 64), overlap=0.5)
    c = torch.tensor([-0.5, 1.0])
    weight = torch.exp(-2 * 15 * (torch.sigmoid(c / 3) - 0.5))
    middle = (1.0 * weight[0] + 5.0 * weight[1]) / weight.sum()
    torch.testing.assert_close(
        result.flow[0, 0, 0, [0, 40, 90]], torch.stack([torch.tensor(1.0), middle, torch.tensor(5.0)])
    )
    c_middle = (c * weight).sum() / weight.sum()
    torch.testing.assert_close(result.log_scale[0, 0, [0, 40, 90]], torch.stack([c[0], c_middle, c[1]]))
    plain = predict_flow(PositionFlow([(1.0, -0.5), (5.0, 1.0)]), first, second, tile=(64, 64), beta=0.0)
    assert plain.flow[0, 0, 0, 40].item() == pytest.approx(3.0)


def test_a_certain_tile_beats_an_uncertain_one_without_overflow():
    first, second = frames(width=96)
    result = predict_flow(PositionFlow([(1.0, -500.0), (5.0, 500.0)]), first, second, tile=(64, 64))
    assert result.flow[0, 0, 0, 40].item() == pytest.approx(1.0, abs=1e-5) and result.flow.isfinite().all()


def test_depth_and_logits_are_averaged():
    class Dense(torch.nn.Module):
        def forward(self, pixel_values):
            return {"predicted_depth": pixel_values[:, 0], "logits": pixel_values.repeat(1, 2, 1, 1)}

    first, _ = frames()
    result = predict_tiled(Dense(), first, tile=(32, 32))
    torch.testing.assert_close(result.predicted_depth, first[:, 0])
    torch.testing.assert_close(result.logits, first.repeat(1, 2, 1, 1))
    assert result.flow is None
    with pytest.raises(ValueError, match="no flow"):
        predict_flow(FakeDepthPair(), first, first)


class FakeDepthPair(torch.nn.Module):
    def forward(self, pixel_values, second_pixel_values):
        return {"predicted_depth": pixel_values[:, 0]}


def test_errors():
    first, second = frames()
    with pytest.raises(ValueError, match="same size"):
        predict_flow(FakeFlow(), first, second[..., :64])
    with pytest.raises(ValueError, match="whole patches of 16"):
        predict_flow(FakeFlow(), first, second, tile=(30, 48))
    with pytest.raises(ValueError, match="batch, channels"):
        predict_flow(FakeFlow(), first[0], second[0])
    with pytest.raises(ValueError, match="tile_batch"):
        predict_flow(FakeFlow(), first, second, tile=(32, 32), tile_batch=0)
    with pytest.raises(ValueError, match="no map"):
        predict_tiled(Nothing(), first, tile=(64, 96))


class Nothing(torch.nn.Module):
    def forward(self, pixel_values):
        return {}


def test_a_real_model():
    modeling = pytest.importorskip("winwin_hf.model.modeling_winwin")
    from winwin_hf.model.configuration_winwin import WinWinConfig

    torch.manual_seed(0)
    model = modeling.WinWinForOpticalFlow(
        WinWinConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, decoder_hidden_size=32,
            decoder_num_hidden_layers=2, decoder_num_attention_heads=2, head_hidden_size=16, head_num_layers=1,
        )
    )  # fmt: skip
    first, second = frames()
    direct = predict_flow(model, first, second)
    with torch.inference_mode():
        expected = model.eval()(pixel_values=first, second_pixel_values=second)
    assert torch.equal(direct.flow, expected.flow) and direct.log_scale.shape == (1, 64, 96)
    tiled = predict_flow(model, first, second, tile=(32, 48), tile_batch=3)
    assert tiled.flow.shape == direct.flow.shape and tiled.flow.isfinite().all() and tiled.passes > 1


# ------------------------------------------------------------------ video


def clip(count: int = 4, height: int = 30, width: int = 44, seed: int = 3) -> list[np.ndarray]:
    """Smooth random frames that drift, of a size that is no multiple of the patch."""
    generator = np.random.default_rng(seed)
    base = generator.integers(0, 256, (height // 4 + 4, width // 4 + 4, 3)).astype(np.uint8)
    large = np.kron(base, np.ones((4, 4, 1), np.uint8))
    return [np.ascontiguousarray(large[i : i + height, 2 * i : 2 * i + width]) for i in range(count)]


def one_by_one(model, processor, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Flow of a pair by the plain forward."""
    inputs = processor(images=first, second_images=second, return_tensors="pt")
    with torch.no_grad():
        outputs = model(**inputs)
    return processor.post_process_optical_flow(outputs, target_sizes=[first.shape[:2]])[0]["flow"].numpy()


@pytest.fixture
def encoded(monkeypatch):
    """What the encoders gave since the test began: their number, and how many were alive at a time."""
    seen = SimpleNamespace(count=0, alive=weakref.WeakSet(), most=0)
    encode = WinWinForOpticalFlow.encode

    def counting(self, *args, **kwargs):
        view = encode(self, *args, **kwargs)
        seen.count += 1
        seen.alive.add(Identity.of(view))
        seen.most = max(seen.most, len(seen.alive))
        return view

    monkeypatch.setattr(WinWinForOpticalFlow, "encode", counting)
    return seen


class Identity:
    """Lives as long as the encoded view that it is attached to; a dataclass with equality can't be in a set itself."""

    @classmethod
    def of(cls, view):
        view.identity = cls()
        return view.identity


@pytest.mark.parametrize("where", [None, torch.tensor([[[0, 0], [2, 3]], [[1, 4], [2, 0]]])])
@pytest.mark.parametrize("variant", ["conv", "dpt", "vitdet", "matching"])
@torch.no_grad()
def test_encode_and_decode_are_the_forward(variant, where):
    model = make("optical-flow", variant)
    inputs = arguments("optical-flow", model, model_frames(model), where)
    both = [
        model.encode(inputs[f"{view}pixel_values"], inputs.get(f"{view}window_positions")) for view in ("", "second_")
    ]
    there, back = model.decode(*both), model.decode(*reversed(both))
    plain = model(**inputs)
    assert torch.equal(there.flow, plain.flow) and torch.equal(there.log_scale, plain.log_scale)
    swapped = {
        f"second_{name}" if "second" not in name else name.removeprefix("second_"): v for name, v in inputs.items()
    }
    assert torch.equal(back.flow, model(**swapped).flow) and not torch.equal(back.flow, there.flow)


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("variant", ["conv", "dpt", "matching"])
def test_frames_are_encoded_once_and_pairs_are_as_one_by_one(variant, backward, encoded):
    model, frames_ = make("optical-flow", variant), clip(5)
    processor = WinWinImageProcessor(patch_size=model.config.patch_size)
    calls = []
    model.winwin.register_forward_hook(lambda *_: calls.append(1))
    pairs = list(flow_of_frames(model, processor, frames_, backward))
    assert len(calls) == encoded.count == 5 and encoded.most == 2
    assert [pair.index for pair in pairs] == [0, 1, 2, 3]
    for pair, first, second in zip(pairs, frames_, frames_[1:], strict=False):
        assert pair.flow.shape == (2, 30, 44) and pair.flow.dtype == np.float32
        np.testing.assert_array_equal(pair.flow, one_by_one(model, processor, first, second))
        if not backward:
            assert pair.backward is pair.occluded is pair.backward_occluded is None
            continue
        np.testing.assert_array_equal(pair.backward, one_by_one(model, processor, second, first))
        np.testing.assert_array_equal(pair.occluded, consistency(pair.flow, pair.backward))
        np.testing.assert_array_equal(pair.backward_occluded, consistency(pair.backward, pair.flow))


def test_coarse_passes_along_a_clip_are_as_pair_by_pair():
    """Each frame is encoded once at each size, for both directions."""
    model, frames_ = make("optical-flow", "matching"), clip(3)
    processor, calls = WinWinImageProcessor(patch_size=8), []
    hook = model.winwin.register_forward_hook(lambda *_: calls.append(1))
    pairs = list(flow_of_frames(model, processor, frames_, backward=True, coarse=True))
    hook.remove()
    assert len(calls) == 3 * (1 + len(coarse_sizes(32, 48, 8)))
    for pair, first, second in zip(pairs, frames_, frames_[1:], strict=False):
        for flow, one, other in ((pair.flow, first, second), (pair.backward, second, first)):
            inputs = processor(images=one, second_images=other, return_tensors="pt")
            wanted = predict_flow(model, *inputs.values(), coarse=True)
            wanted = processor.post_process_optical_flow(wanted, target_sizes=[one.shape[:2]])[0]["flow"]
            np.testing.assert_array_equal(flow, wanted.numpy())
        assert not np.array_equal(pair.flow, one_by_one(model, processor, first, second))


def test_what_is_held_does_not_grow_with_the_clip(encoded):
    model = make("optical-flow", "matching")
    given = weakref.WeakSet()  # the frames that are alive

    class Frame(np.ndarray):
        """An array that a weak set can hold."""

        __hash__ = object.__hash__
        __eq__ = object.__eq__

    def endless():
        for i in itertools.count():
            frame = clip(1, seed=i)[0].view(Frame)
            given.add(frame)
            yield frame

    alive = []
    for pair in flow_of_frames(model, WinWinImageProcessor(patch_size=8), endless(), backward=True):
        alive.append((len(encoded.alive), len(given)))
        if pair.index == 20:
            break
    assert encoded.count == 22 and encoded.most == 2
    assert alive[0] == alive[10] == alive[20] and alive[20][1] <= 2


def test_frames_are_taken_when_their_pair_is():
    model, taken = make("optical-flow", "conv").train(), []

    def source():
        for i, frame in enumerate(clip(4)):
            taken.append(i)
            yield frame

    pairs = flow_of_frames(model, WinWinImageProcessor(patch_size=8), source())
    assert taken == []
    next(pairs)
    assert taken == [0, 1]
    # between two pairs the caller finds torch and the model as they were
    assert model.training and torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
    next(pairs)
    assert taken == [0, 1, 2]


def test_a_processor_that_resizes():
    model = make("optical-flow", "conv")
    processor = WinWinImageProcessor(patch_size=8, do_resize=True, size={"height": 16, "width": 24})
    frames_ = clip(2)
    pair = next(flow_of_frames(model, processor, frames_))
    assert pair.flow.shape == (2, 30, 44)
    np.testing.assert_array_equal(pair.flow, one_by_one(model, processor, *frames_))


def test_clips_without_flow():
    model, processor = make("optical-flow", "conv"), WinWinImageProcessor(patch_size=8)
    for count in (0, 1):
        with pytest.raises(ValueError, match=f"at least two frames, got {count}"):
            list(flow_of_frames(model, processor, clip(count)))
    with pytest.raises(ValueError, match=r"Frame 2 is 30 x 40 but frame 0 is 30 x 44"):
        list(flow_of_frames(model, processor, [*clip(2), clip(1, width=40)[0]]))
    with pytest.raises(ValueError, match="predicts no flow"):
        list(flow_of_frames(make("depth-estimation", "conv"), processor, clip(2)))


# ------------------------------------------------------------------ consistency


def occluded_in(forward: np.ndarray, backward: np.ndarray, **constants: float) -> np.ndarray:
    """`consistency` of flows (H, W, 2), which are easier to write down."""
    return consistency(forward.transpose(2, 0, 1), backward.transpose(2, 0, 1), **constants)


def test_a_shifted_frame_is_occluded_where_it_leaves():
    forward = np.zeros((6, 9, 2), np.float32) + np.float32([2, -1])
    occluded = occluded_in(forward, -forward)
    expected = np.zeros((6, 9), bool)
    expected[:, 7:] = expected[0] = True  # two columns to the right, one row at the top
    np.testing.assert_array_equal(occluded, expected)
    np.testing.assert_array_equal(occluded_in(-forward, forward), expected[::-1, ::-1])


def test_a_square_covers_what_it_moves_over():
    """A square of 5 x 5 moves 4 to the right over a background that moves 1 down: both flows are exact, so is the answer."""
    forward = np.zeros((20, 24, 2), np.float32) + np.float32([0, 1])
    backward = np.zeros((20, 24, 2), np.float32) + np.float32([0, -1])
    forward[6:11, 8:13] = (4, 0)
    backward[6:11, 12:17] = (-4, 0)
    before, after = np.zeros((20, 24), bool), np.zeros((20, 24), bool)
    before[6:11, 8:13] = after[6:11, 12:17] = True
    covered = np.roll(after, -1, axis=0) & ~before  # background that lands on the square
    covered[19] = True  # leaves the frame
    uncovered = np.roll(before, 1, axis=0) & ~after
    uncovered[0] = True
    np.testing.assert_array_equal(occluded_in(forward, backward), covered)
    np.testing.assert_array_equal(occluded_in(backward, forward), uncovered)


@pytest.mark.parametrize("length", [0.0, 3.0, 10.0])
def test_the_bound_is_that_of_the_paper(length):
    """|f + b|^2 against 0.01 (|f|^2 + |b|^2) + 0.5, just below and just above, with f = (length, 0) and b = (-length, e)."""
    limit = np.sqrt((0.02 * length**2 + 0.5) / 0.99)  # e^2 = 0.01 (2 length^2 + e^2) + 0.5
    for factor, occluded in ((0.999, False), (1.001, True)):
        forward = np.zeros((3, 15, 2), np.float32) + np.float32([length, 0])
        backward = np.zeros((3, 15, 2), np.float32) + np.float32([-length, limit * factor])
        assert occluded_in(forward, backward)[1, 1] == occluded
    assert not occluded_in(forward, backward, absolute=1.0)[1, 1]  # the last ones, just above
    assert not occluded_in(forward, backward, relative=0.1)[1, 1]


def test_the_way_back_is_read_between_pixels():
    """A zoom by s about the origin: f = (s - 1) x, b = (1 / s - 1) x, which bilinear interpolation gives exactly."""
    y, x = np.mgrid[:30, :40].astype(np.float32)
    grid, scale = np.stack([x, y], axis=-1), np.float32(1.37)
    occluded = occluded_in((scale - 1) * grid, (1 / scale - 1) * grid, relative=0.0, absolute=1e-6)
    np.testing.assert_array_equal(occluded, (scale * x > 39) | (scale * y > 29))
    # read at the nearest pixel it would not come back
    rounded = (1 / scale - 1) * np.rint(scale * grid)
    assert (np.abs((scale - 1) * grid + rounded).sum(-1) > 1e-3).mean() > 0.5


def test_what_is_unknown_is_occluded():
    forward, backward = np.zeros((2, 4, 5, 2), np.float32)
    forward[1, 2, 0] = np.nan
    backward[3, 4] = np.nan
    forward[0, 0] = np.inf
    occluded = occluded_in(forward, backward)
    assert occluded[0, 0] and occluded[1, 2] and occluded[3, 4]
    near = np.zeros((4, 5), bool)  # what is read beside an unknown vector may be unknown, too
    near[2:, 3:] = near[0, 0] = near[1, 2] = True
    assert not occluded[~near].any()
    backward = backward.transpose(2, 0, 1)
    for bad in (forward[:3].transpose(2, 0, 1), forward[..., 0], forward):
        with pytest.raises(ValueError, match="one size"):
            consistency(bad, backward)


def test_a_first_pass_at_half_the_size_finds_longer_motion():
    """A real photograph moved by 160 pixels, which is beyond what one pass finds."""
    image = cv2.resize(read_image(examples_folder() / "barn.jpg"), (640, 448), interpolation=cv2.INTER_AREA)
    first, second = image[:, :480], image[:, 160:]
    found = {}
    for name in ("winwin-flow", "winwin-flow+coarse"):
        flow = methods.load(name, Accelerator(cpu=True), min_pixels=0)(first, second).values
        assert flow.shape == (2, 448, 480)
        found[name] = float(np.abs(flow[:, :, 176:] - np.array([-160.0, 0.0])[:, None, None]).sum(0).mean())
    assert found["winwin-flow+coarse"] < min(10.0, found["winwin-flow"])


def test_what_a_first_pass_needs_is_said():
    accelerator = Accelerator(cpu=True)
    for name, tile in (("winwin-seg+coarse", None), ("opencv-dis+coarse", None), ("winwin-flow+coarse", (64, 64))):
        with pytest.raises(ValueError, match="networks of flow, on whole frames"):
            methods.load(name, accelerator, tile)
    frames = torch.zeros(1, 3, 32, 32)
    with pytest.raises(ValueError, match="needs a model with matching"):
        coarse_flow(torch.nn.Identity(), frames, frames)
    with pytest.raises(ValueError, match="for whole frames"):
        predict_flow(torch.nn.Identity(), frames, frames, tile=(16, 16), coarse=True)


@pytest.mark.parametrize(
    ("frame", "sizes"),
    [
        ((64, 96), [(32, 48)]),
        ((436, 1024), [(224, 512)]),
        ((1088, 1920), [(272, 480), (544, 960)]),
        ((2160, 3840), [(272, 480), (544, 960), (1088, 1920)]),
    ],
)
def test_sizes_of_the_first_passes(frame, sizes):
    assert coarse_sizes(*frame, 16) == sizes


def test_each_pass_begins_where_the_one_before_led():
    """A network that adds (1, 0) to what it is told: its guesses grow with the frame."""
    told = []

    class Adds(torch.nn.Module):
        config = SimpleNamespace(matching_stride=8, patch_size=16)

        def forward(self, first, second, initial_flow=None):
            told.append(initial_flow)
            flow = torch.zeros(1, 2, *first.shape[-2:]) if initial_flow is None else initial_flow.clone()
            flow[:, 0] += 1
            return SimpleNamespace(flow=flow, log_scale=flow[:, 0])

    result = predict_flow(Adds(), *torch.zeros(2, 1, 3, 1088, 1920), coarse=True)
    assert result.passes == 3 and [None if f is None else float(f[0, 0].mean()) for f in told] == [None, 2.0, 6.0]
    assert result.flow is not None and (result.flow[0, 0] == 7).all() and not result.flow[0, 1].any()
