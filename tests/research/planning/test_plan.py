"""scripts/research/plan.py: FLOPs and memory as counted by hand and as measured; docs/scale.md is up to date."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from research.planning.count import Kept, MemoryCounter, batch_of, count_flops, count_memory, counted, kept_by
from research.planning.model import GPUS, Assumptions, frame_bytes, gpu_of, plan
from research.planning.page import CASES, cost_table, counts_of, duration, page, short
from support.places import ROOT
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from winwin_hf import WinWinConfig, WinWinForOpticalFlow
from winwin_hf.cli.errors import one_line_errors
from winwin_hf.training.recipe import load_recipe

TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "head_type": "linear",
}
WINDOWS = Kept((2, 3, 4), (2, 4, 5))


@pytest.fixture(scope="module")
def results():
    return json.loads((ROOT / "docs/results/scale.json").read_text())


@pytest.fixture(scope="module")
def tiny():
    """A small network whose activations are larger than its weights."""
    return counted(WinWinConfig(**TINY), WINDOWS, (8, 16))


# ------------------------------------------------------------------ FLOPs


def by_hand(c: WinWinConfig, first: int, second: int) -> tuple[int, int]:
    """Forward and backward FLOPs of a pair: 2 x rows x inner x columns for each product, twice that backwards, attention 2.5 times."""
    width, inner, mlp = c.hidden_size, c.decoder_hidden_size, int(c.mlp_ratio)
    patches = 2 * (first + second) * 3 * c.patch_size**2 * width
    products = sum(c.num_hidden_layers * 2 * t * width**2 * (4 + 2 * mlp) for t in (first, second))
    products += 2 * (first + second) * width * inner  # into the decoder
    block = 2 * first * inner**2 * (4 + 2 + 2 * mlp) + 2 * second * inner**2 * 2  # self, cross, MLP; keys and values
    products += c.decoder_num_hidden_layers * block
    products += 2 * first * inner * 3 * c.patch_size**2
    attention = sum(c.num_hidden_layers * 4 * t**2 * width for t in (first, second))
    attention += c.decoder_num_hidden_layers * 4 * first * (first + second) * inner
    # the pixels need no gradient
    return patches + products + attention, patches + 2 * products + attention * 5 // 2


@pytest.mark.parametrize("kept", [WINDOWS, Kept((1, 3, 4), (1, 3, 4), whole=True)])
def test_flops_by_hand(kept):
    config = WinWinConfig(**TINY)
    assert count_flops(config, kept) == by_hand(config, *kept.tokens)
    assert count_flops(config, kept, precision="no") == by_hand(config, *kept.tokens)


def test_flops_of_written_out_attention():
    """The counter doesn't know the CPU's attention kernel, but it does know the two products of which attention consists."""
    config = WinWinConfig(**TINY)
    model = WinWinForOpticalFlow(config)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**batch_of(WINDOWS, 1))
    assert counter.get_total_flops() == count_flops(config, WINDOWS)[0]


def test_checkpointing_computes_blocks_again():
    """All of a block's products but the last, whose result nothing needs."""
    config = WinWinConfig(**TINY)
    forward, backward = count_flops(config, WINDOWS)
    again = count_flops(config, WINDOWS, checkpointing=True)
    last = 2 * 4 * (3 * sum(WINDOWS.tokens) * 32**2 + 2 * WINDOWS.tokens[0] * 16**2)
    outside = by_hand(
        WinWinConfig(**{**TINY, "num_hidden_layers": 1, "decoder_num_hidden_layers": 1}), *WINDOWS.tokens
    )[0]
    one = by_hand(WinWinConfig(**{**TINY, "num_hidden_layers": 2, "decoder_num_hidden_layers": 1}), *WINDOWS.tokens)[0]
    two = by_hand(WinWinConfig(**{**TINY, "num_hidden_layers": 1, "decoder_num_hidden_layers": 2}), *WINDOWS.tokens)[0]
    blocks = 3 * (one - outside) + 2 * (two - outside)
    assert again == (forward, backward + blocks - last)


def test_counts_are_of_this_network(results):
    """A plan needs no more than two digits. If they changed: python scripts/research/plan.py --count --page docs/scale.md"""
    case = results["cases"]["base/windows"]
    found = count_flops(WinWinConfig.from_preset("base"), Kept(**CASES["windows"]))
    assert found == pytest.approx((case["forward"], case["backward"]), rel=0.02)


# ------------------------------------------------------------------ memory


def test_bytes_that_are_alive():
    weight = torch.zeros(10)
    with MemoryCounter([weight]) as alive:
        first = torch.ones(100)  # 400 bytes
        view = first[:50].view(5, 10) + 0  # 200
        assert alive.now == 600
        del first
        assert alive.now == 200
        weight.view(2, 5)
        weight.add_(1)
        assert alive.now == 200
        view.half()
    assert (alive.now, alive.peak) == (200, 600)
    assert alive.launches == 4  # ones, +, add_, half


def test_memory_model_is_what_is_counted(tiny):
    """The line through two batch sizes meets the count of a third, with and without checkpointing."""
    config = WinWinConfig(**TINY)
    for checkpointing in (False, True):
        expected = count_memory(config, WINDOWS, 12, checkpointing=checkpointing).peak
        found = tiny.step_bytes(12, checkpointing) - 2 * tiny.inputs * 12
        assert found == pytest.approx(expected, rel=0.02)


def test_memory_is_monotone(tiny):
    for options in ({}, {"gpus": 8}, {"checkpointing": True}, {"gpus": 8, "sharded": True}):
        sizes = [tiny.memory(batch, **options) for batch in (1, 2, 8, 100)]
        assert sizes == sorted(sizes) and sizes[0] < sizes[-1]
    assert tiny.memory(64, checkpointing=True) < tiny.memory(64) < tiny.memory(64, gpus=8)
    assert tiny.memory(1, 64, sharded=True) < tiny.memory(1, 8, sharded=True) < tiny.memory(1, 8)
    room = tiny.memory(37)
    assert tiny.most(room) == 37 and tiny.most(room - 1) == 36


def test_layer_norms_as_on_a_gpu():
    """float32 there: a copy of each block's input more than on a CPU."""
    config = WinWinConfig(**TINY)
    assert count_memory(config, WINDOWS, 8).held > count_memory(config, WINDOWS, 8, gpu=False).held
    with pytest.raises(ValueError, match="precision 'fp8'"):
        count_memory(config, WINDOWS, 1, precision="fp8")


def test_errors_of_the_checks_are_small(results):
    for p in results["peaks"]:
        assert p["counted"] == pytest.approx(p["measured"], rel=0.05), p
    assert results["h100"]["counted"] == pytest.approx(results["h100"]["memory"], rel=0.05)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_measured_peak():
    """A real step's growth of a process is what was counted for it."""
    from research.planning import measure

    command = [sys.executable, measure.__file__, "tiny", "16", "no", "0"]
    environment = {**os.environ, **measure.MALLOC, "OMP_NUM_THREADS": "1"}
    measured = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout)
    expected = count_memory(WinWinConfig.from_preset("tiny"), measure.WINDOWS, 16, "no", gpu=False).peak
    assert measured == pytest.approx(expected, rel=0.05)


# ------------------------------------------------------------------ tokens


@pytest.mark.parametrize(
    ("name", "case", "tokens"),
    [
        ("flow-windows-base", "larger", (200, 450)),
        ("flow-crops-base", "crops", (480, 480)),
        ("flow-full-base", "full", (8160, 8160)),
    ],
)
def test_tokens_of_the_recipes(name, case, tokens):
    kept = kept_by(load_recipe(ROOT / f"scripts/research/recipes/{name}.yaml"), (1080, 1920))
    assert kept == Kept(**CASES[case])
    assert kept.tokens == tokens


def test_tokens_of_the_batch():
    assert Kept(**CASES["windows"]).tokens == (200, 200)
    batch = batch_of(Kept((2, 3, 4), (2, 5, 6)), 7)
    assert batch["pixel_values"].shape == (7, 2, 3, 48, 64)
    assert batch["second_pixel_values"].shape == (7, 2, 3, 80, 96)
    assert batch["labels"].shape == (7, 2, 2, 48, 64)


# ------------------------------------------------------------------ plans


def test_a_plan(results):
    gpu, given = GPUS["h100"], Assumptions()
    case = counts_of(results)["base/windows"]
    one, eight, many = (plan(case, n, 64, gpu, given) for n in (1, 8, 512))
    assert one.compute == pytest.approx(64 * (case.forward + case.backward) / 989e12 / 0.2)
    assert one.communication == 0 and eight.communication == pytest.approx(2 * 7 / 8 * 4 * case.parameters / 238e9)
    assert one.rate < eight.rate <= 8 * one.rate < many.rate
    assert one.hours(5 * 3600 * one.rate) == pytest.approx(5) and one.rate == pytest.approx(64 / one.seconds)
    assert one.steps(6400) == 100
    few = plan(case, 8, 1, gpu, given)
    assert (
        few.launch > few.compute and few.seconds >= few.launch + few.update
    )  # a step is never faster than its operations
    thin = plan(case, 64, 64, replace(gpu, between=1), given)
    assert thin.exposed > 0 and thin.seconds == pytest.approx(thin.compute + thin.exposed + thin.update)


def test_a_plan_divides_what_does_not_fit(results):
    case, given = counts_of(results)["base/full"], Assumptions()
    p = plan(case, 1, 8, gpu_of("h100"), given)
    assert (p.accumulation, p.checkpointing) == (2, False) and p.memory < 72e9
    p = plan(case, 1, 8, gpu_of("h100", tflops=165, memory=15), given)
    assert p.checkpointing and p.accumulation > 1 and p.memory < 13.5e9
    with pytest.raises(ValueError, match="not even one pair"):
        plan(case, 1, 1, gpu_of("h100", memory=5), given)
    with pytest.raises(ValueError, match="--gpu k80: expected one of"):
        gpu_of("k80")


def test_bytes_of_a_pair():
    size = frame_bytes({"first": (2, 10, 10), "second": (2, 10, 10)})
    assert size["frames"] == pytest.approx(2 * 1080 * 1920 * 3 / 1e6 + 1080 * 1920 * 8 / 1e6)
    assert size["windows"] == pytest.approx(2 * 160 * 160 * (3 + 8 + 3) / 1e6)
    assert size["files"] == pytest.approx(2 * 2.68 + 9.51, rel=0.01)


def test_numbers_for_people():
    assert [short(x) for x in (0, 0.01234, 5.678, 98.76, 123.4, 12345.6)] == [
        "0",
        "0.0123",
        "5.68",
        "98.8",
        "123",
        "12,300",
    ]
    assert [duration(x) for x in (2.5, 0.5, 0.001)] == ["2.5 h", "30 min", "3.6 s"]


# ------------------------------------------------------------------ the page and the command


def test_page_is_up_to_date(results):
    """If it isn't: python scripts/research/plan.py --page docs/scale.md"""
    cost = ROOT / "docs/results/cost.json"
    made = page(results, json.loads(cost.read_text()) if cost.is_file() else None)
    assert made == (ROOT / "docs/scale.md").read_text()


def test_measured_steps_stand_on_the_page(results):
    step = {"seconds": 9.0, "network_seconds": 8.0, "tokens": 1600.0, "gflops": 123.4, "ceiling_share": 0.5}
    cost = {"train_step_flow_1080p": {"fp32": {"windows-batch-4": step, "full_over_windows": {"time_ratio": 50.0}}}}
    text = cost_table(cost)
    assert "| flow, 1080p, windows, batch 4, fp32 | 1600 | 8 | 5,000 | 123 | 50 % |\n" in text
    assert text.count("\n") == 3
    assert text in page(results, cost) and "Measured training steps" not in page(results)
    assert cost_table({"train_step_720p": {"time_ratio": 5.0}}) == ""


def test_a_recipe(tmp_path):
    from research import plan as command

    path = tmp_path / "mine.yaml"
    recipe = yaml.safe_load((ROOT / "scripts/research/recipes/flow-windows-base.yaml").read_text())
    recipe["model"] = {"config": TINY}
    recipe["windows"]["size"], recipe["second_windows"]["size"] = [3, 4], [4, 5]
    path.write_text(yaml.safe_dump(recipe))
    cli = command.typer.Typer()
    cli.command()(one_line_errors(command.main))
    result = CliRunner().invoke(cli, [str(path), "--gpus", "1,4", "--gpu", "a100"])
    assert result.exit_code == 0, result.output
    assert "| mine | 24 + 40 |" in result.output and "800,000 pairs" in result.output
    lines = [line.split(" | ") for line in result.output.splitlines() if line.startswith("| mine")]
    assert [line[1:4] for line in lines[-2:]] == [["1", "8", "8"], ["4", "8", "32"]]
    result = CliRunner().invoke(cli, [str(path), "--gpu", "k80"])
    assert result.exit_code == 2 and "k80" in result.output
    result = CliRunner().invoke(cli, [str(ROOT / "winwin_hf/recipes/camvid.yaml")])
    assert result.exit_code == 2 and "optical-flow" in result.output
