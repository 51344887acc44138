"""Seams, what tiles hold, errors and displacements, on hand-made fields."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from research.experiments import fields
from research.experiments.fields import Tally
from support.experiment_cases import constant, pair_of

from winwin_hf.data.sample import FlowSample
from winwin_hf.data.sources import open_source

# ------------------------------------------------------------------ seams


def test_seams_are_where_tiles_begin_and_end():
    assert fields.seams(16, 8, 0.0) == [8]
    assert fields.seams(16, 8, 0.5) == [4, 8, 12]
    assert fields.seams(20, 8, 0.0) == [6, 8, 12, 14]  # three tiles, at 0, 6 and 12
    assert fields.seams(16, 32, 0.5) == []
    # a frame of 20x40 is padded to 32x48: two tiles of 16 along the rows, and a seam in the padding is none
    assert fields.seams_of((20, 40), (16, 48), 0.0) == ([16], [])


def test_distance_from_seams():
    assert fields.seam_distance((1, 8), [], [4])[0].tolist() == [3, 2, 1, 0, 0, 1, 2, 3]
    both = fields.seam_distance((6, 6), [3], [3])
    assert both[2].tolist() == [0] * 6 and both[0].tolist() == [2, 1, 0, 0, 1, 2]
    assert np.isinf(fields.seam_distance((2, 2), [], [])).all()


def test_a_known_jump_at_a_seam():
    truth, prediction = constant(0, 0), constant(0, 0)
    prediction[:, 8:] += (3, 4)  # 5 px to the right of column 8, nothing elsewhere
    tally = Tally()
    fields.add_seams(tally, "x", prediction, truth, [], [8])
    figures = fields.seam_figures(tally, "x")
    assert figures["jump_seam"] == 5 and figures["true_jump_seam"] == 0 and figures["excess_seam"] == 5
    assert figures["error_jump_seam"] == 5 and figures["jump_elsewhere"] == figures["excess_elsewhere"] == 0
    assert math.isnan(figures["jump_ratio"])  # nothing to compare with
    assert tally.count("x seam jump") == 16 and tally.count("x elsewhere jump") == 2 * 16 * 15 - 16
    # the error is 5 px right of the seam, on it and elsewhere alike
    assert figures["error_seam"] == figures["error_elsewhere"] == 2.5
    assert [band["epe"] for band in figures["by_distance"]][:3] == [2.5, 2.5, 2.5]


def test_the_truths_own_jump_is_no_artefact():
    truth = constant(0, 0)
    truth[:, 8:] += (3, 4)
    tally = Tally()
    fields.add_seams(tally, "x", truth.copy(), truth, [4], [8])
    figures = fields.seam_figures(tally, "x")
    assert figures["excess_seam"] == figures["error_jump_seam"] == 0
    assert (
        figures["jump_seam"] == figures["true_jump_seam"] == 2.5
    )  # half of the seams' pixels lie at row 4, where nothing jumps


def test_unknown_flow_counts_nowhere():
    truth = constant(0, 0)
    truth[4, 7] = np.nan
    prediction = constant(0, 0)
    prediction[4, 7] = 1e6
    tally = Tally()
    fields.add_seams(tally, "x", prediction, truth, [], [8])
    fields.add_errors(tally, "y", prediction, pair_of(truth), (0, 1))
    assert tally.mean("x seam error") == tally.mean("x seam jump") == tally.mean("y") == 0
    assert tally.count("x seam jump") == 15 and tally.count("y") == 255


def test_blended_tiles_have_their_seams_where_they_are_looked_for():
    """A network whose every tile says something else: all of its jumps are on the seams, and none elsewhere."""

    class Numbered(torch.nn.Module):
        calls = 0

        def forward(self, pixel_values, second_pixel_values):
            self.calls += 1
            height, width = pixel_values.shape[-2:]
            flow = torch.full((1, 2, height, width), float(self.calls))
            return {"flow": flow, "log_scale": torch.zeros(1, height, width)}

    from winwin_hf.inference.flow import predict_flow

    pixels = torch.zeros(1, 3, 96, 80)
    for overlap in (0.0, 0.5, 0.7):
        blended = predict_flow(Numbered(), pixels, pixels, (48, 32), overlap).flow[0].permute(1, 2, 0).numpy()
        rows, columns = fields.seams_of((96, 80), (48, 32), overlap)
        tally = Tally()
        fields.add_seams(tally, "x", blended, np.zeros_like(blended), rows, columns)
        assert tally.mean("x elsewhere jump") < 1e-5 and tally.mean("x seam jump") > 0.1


# ------------------------------------------------------------------ matches, displacements


def test_what_a_tile_holds():
    holds = fields.held(constant(3, 0), (16, 8), 0.0, patch=8)
    assert holds[0].tolist() == [True] * 5 + [False] * 3 + [True] * 5 + [False] * 3
    between = fields.held(constant(3, 0), (16, 8), 0.5, patch=8)  # tiles at 0, 4 and 8
    assert between[0].tolist() == [True] * 13 + [False] * 3
    assert fields.held(constant(9, 0), (8, 8), 0.9, patch=8).sum() == 0  # further than a tile is wide
    assert fields.held(constant(9, 0), (16, 16), 0.0, patch=8)[0].tolist() == [True] * 7 + [False] * 9


def test_groups_by_what_a_tile_holds():
    truth = constant(3, 0)
    occluded = np.zeros((16, 16), bool)
    occluded[0] = True
    pair = pair_of(truth, occluded)
    assert pair.unmatched().sum() == 16 + 15 * 3
    tally = Tally()
    fields.add_held(tally, "x", constant(0, 0), pair, fields.held(truth, (16, 8), 0.0, patch=8))
    assert [tally.count(f"x {group}") for group in ("held", "beyond", "gone")] == [150, 45, 61]
    assert tally.mean("x beyond") == 3


def test_errors_by_displacement():
    truth = constant(0, 0)
    truth[:, 4:8] = (0, 5)
    truth[:, 8:] = (0, -20)  # all of it leaves the frame
    tally = Tally()
    fields.add_errors(tally, "x", truth + 1, pair_of(truth), (0, 5, 10))
    bands = fields.bands_of(tally, "x", (0, 5, 10))
    assert [band["share"] for band in bands] == [0.25, 0.25, 0.5]
    assert [band["epe"] for band in bands] == pytest.approx([2**0.5] * 3)
    # 5 of 16 rows of the second band leave the frame too
    assert [band["share_matched"] for band in bands] == [0.25, 0.25 * 11 / 16, 0]
    assert math.isnan(bands[2]["epe_matched"])


def test_distribution_of_displacements():
    truth = constant(1, 0, (70, 100))
    truth[:, 50:] = (40, 0)
    moves = fields.displacements([pair_of(truth)], 30, (0, 8, 32))
    assert moves["mean"] == pytest.approx(20.5, abs=0.2) and moves["p90"] == moves["most"] == 40
    assert moves["longer_than_side"] == pytest.approx(0.5, abs=0.01)
    assert moves["occluded"] == pytest.approx(0.4, abs=0.01)  # the last 40 columns
    assert moves["longer_than_side_matched"] == pytest.approx(1 / 6, abs=0.01)
    assert moves["histogram"] == pytest.approx([0.5, 0, 0.5], abs=0.01)


def test_pairs_of_scenes_know_what_is_occluded():
    settings = {"sizes": [[64, 80]], "texture_count": 2, "motion": 20.0}
    pairs = list(fields.read_pairs(open_source("synthetic-flow", split="val", settings=settings), 2))
    assert [pair.image.shape for pair in pairs] == [(64, 80, 3)] * 2 and pairs[0].name != pairs[1].name
    assert all(pair.occluded is not None and (pair.unmatched() >= pair.occluded).all() for pair in pairs)


def test_pairs_of_a_long_set_are_spread():
    @dataclasses.dataclass
    class Numbers:
        dataset: list
        name: str = "numbers"
        reader = staticmethod(lambda example, rng: FlowSample(IMAGE, IMAGE, FLOW))

        def __len__(self):
            return len(self.dataset)

        def examples(self, length=None):
            return ({"index": i, **self.dataset[i]} for i in range(min(length or 99, len(self.dataset))))

    class Scene(FlowSample):
        def occlusion(self, box):
            return np.zeros(box[2:], bool)

    Numbers.reader = staticmethod(lambda example, rng: Scene(IMAGE, IMAGE, FLOW))
    source = Numbers([{"name": f"n{i}"} for i in range(10)])
    assert [pair.name for pair in fields.read_pairs(source, 3)] == ["n0", "n3", "n6"]
    assert len(list(fields.read_pairs(source, None))) == 10


IMAGE, FLOW = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32, 2), np.float32)
