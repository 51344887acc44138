"""The page docs/results/cost-pretrained.md, and the table of recipes in docs/pretrained.md, from docs/results/cost-pretrained.json."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from research.pages import table
from research.planning.model import GB, Assumptions
from research.planning.page import duration, short
from research.pretrained.counting import CARDS, FRAMES, HEADS, RECIPES, counted_of, most, plan_of
from research.pretrained.encoders import SIZES

TEMPLATE = Path(__file__).with_name("page.md")
KINDS = {"windows": "two windows", "full": "full frame"}
TASK_NAMES = {"semantic-segmentation": "segmentation", "depth-estimation": "depth"}
PRECISIONS = {"fp32": "float32", "bf16": "bf16 autocast"}

# How the table of recipes describes what isn't in the recipe.
DATA = {
    "cityscapes-dinov3": "Cityscapes, 2048x1024",
    "ade20k-dinov3": "ADE20K, 896 pixels on the short side",
    "nyuv2-depth-dinov2": "NYU Depth V2, 640x480",
    "kitti-depth-dinov3": "KITTI, 1242x375",
    "spring-flow-dust3r": "Spring, 1920x1080",
    "your-folder-dinov3": "your images and masks",
}
ENCODERS = {"dinov3": "DINOv3", "dinov2": "DINOv2 with registers"}


def key_of(size: str, task: str, frame: str, kind: str) -> str:
    """The key of a count or a measurement in the JSON."""
    return f"{size}/{task}/{frame}/{kind}"


def gb(value: float) -> str:
    return short(value / GB, 2 if value < 10 * GB else 3)


def holds_table(cases: dict[str, Any], given: Assumptions) -> str:
    """Counts of every size, task and frame, and how many images each card holds."""
    rows = []
    for size in SIZES:
        for task in HEADS:
            for frame in FRAMES:
                for kind, kind_name in KINDS.items():
                    c = counted_of(cases[key_of(size, task, frame, kind)])
                    state = c.memory(0) - c.step_bytes(0)
                    held = [f"{most(c, card, given)}, {most(c, card, given, True)}" for card in CARDS.values()]
                    name = f"ViT-{size}, {TASK_NAMES[task]}, {frame}, {kind_name}"
                    rows.append([name, c.tokens[0], short(c.flops() / 1e12), gb(state), gb(c.pair), *held])
    return table(["", "tokens", "TFLOP a step", "state, GB", "an image, GB", *CARDS], rows)


def steps_table(steps: dict[str, Any]) -> str:
    """Measured steps: seconds and memory of two windows and of the full frame, and their ratios."""
    rows = []
    for size in SIZES:
        for task in HEADS:
            for frame in FRAMES:
                for precision, precision_name in PRECISIONS.items():
                    found = [steps.get(f"{key_of(size, task, frame, kind)}/{precision}") for kind in KINDS]
                    if not all(found):
                        continue
                    seconds = [statistics.median(one["step_cpu_seconds"]) for one in found]
                    memory = [one["above_gb"] for one in found]
                    name = f"ViT-{size}, {TASK_NAMES[task]}, {frame}, {precision_name}"
                    rows.append(
                        [name, *(short(value) for value in seconds), f"{seconds[1] / seconds[0]:.1f}"]
                        + [*(short(value, 2) for value in memory), f"{memory[1] / memory[0]:.1f}"]
                    )
    columns = ["", "windows, s", "full, s", "full / windows", "windows, GB", "full, GB", "full / windows"]
    return table(columns, rows)


def peer_table(peer: dict[str, Any]) -> str:
    """Seconds and memory of both classes, and ours over transformers'."""
    rows = []
    for name, found in peer.items():
        family, size, blocks = name.split("/")
        turns = [found["cpu_seconds"][side] for side in ("transformers", "ours")]
        seconds = [statistics.median(turn) for turn in turns]
        ratios = sorted(ours / theirs for theirs, ours in zip(*turns, strict=True))
        memory = [found["memory"][side]["above_gb"] for side in ("transformers", "ours")]
        rows.append(
            [
                f"{ENCODERS[family]} {size}, {blocks} blocks",
                *(short(s) for s in seconds),
                f"{statistics.median(ratios):.3f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            ]
            + [*(f"{m:.3f}" for m in memory), f"{memory[1] / memory[0]:.3f}", f"{found['difference']:.0e}"]
        )
    names = [
        "transformers, s",
        "ours, s",
        "ours / theirs",
        "transformers, GB",
        "ours, GB",
        "ours / theirs",
        "difference",
    ]
    return table(["encoder", *names], rows)


def recipes_table(recipes: dict[str, Any], given: Assumptions) -> str:
    """Encoder, data, steps, memory and hours of each recipe."""
    rows = []
    for label, values in recipes.items():
        name, encoder, _, _ = RECIPES[label]
        c, batch = counted_of(values), values["batch"]
        encoder_name = f"{ENCODERS[encoder[0]]} {encoder[1]}" if encoder else "DUSt3R L, with its decoder"
        hours = []
        for card in CARDS.values():
            found = plan_of(values, card, given)
            hours.append("-" if found is None else hours_of(found, values["steps"] * batch))
        steps = f"{values['steps']:,} x {batch}"
        rows.append(
            [f"`{name}`", encoder_name, DATA[name], steps, gb(c.memory(batch)), gb(c.memory(batch, 1, True)), *hours]
        )
    cards = [f"{card.name} {memory}" for memory, card in CARDS.items()]
    columns = ["recipe", "encoder", "data", "steps x batch", "GB", "GB, checkpointed", *cards]
    return table(columns, rows, text_columns=3)


def hours_of(found: Any, examples: int) -> str:
    """The time, and what has to be set where the batch doesn't fit."""
    time = duration(found.hours(examples), 2)
    if found.checkpointing:
        time += ", checkpointed"
    return time + (f", accumulation {found.accumulation}" if found.accumulation > 1 else "")


def summary(results: dict[str, Any], given: Assumptions) -> str:
    """The page's main figures as a list."""
    cases, lines = results["cases"], []
    for size in SIZES:
        task, frame = "semantic-segmentation", "2048x1024"
        windows, full = (counted_of(cases[key_of(size, task, frame, kind)]) for kind in KINDS)
        card = CARDS["24 GB"]
        flops, memory = short(full.flops() / windows.flops(), 2), short(full.pair / windows.pair, 2)
        held = [most(one, card, given) for one in (windows, full)]
        lines.append(
            f"- ViT-{size}, segmentation at {frame}: two windows take {flops} times fewer FLOPs and {memory} times less memory an image\n"
            f"  than a full frame. 24 GB hold {held[0]} images in windows, or {held[1]} as full frames."
        )
    return "\n".join(lines)


def lengths(lists: Iterable[list[float]]) -> str:
    """How many figures the lists have, such as "2 or 3"."""
    return " or ".join(map(str, sorted({len(one) for one in lists})))


def page(results: dict[str, Any], given: Assumptions) -> str:
    """The page."""
    record = results["record"]
    loads = [
        "{:.1f} to {:.1f}".format(*(limit(one["load"] for one in results[part].values()) for limit in (min, max)))
        for part in ("steps", "peer")
    ]
    return TEMPLATE.read_text().format(
        summary=summary(results, given),
        usable=f"{given.usable:.0%}".replace("%", " %"),
        holds=holds_table(results["cases"], given),
        measured=steps_table(results["steps"]),
        peer=peer_table(results["peer"]),
        threads="one thread" if record["threads"] == 1 else f"{record['threads']} threads",
        cpu=record["cpu"],
        torch=record["torch"],
        date=record["date"],
        load=loads[0],
        peer_load=loads[1],
        steps=lengths(one["step_seconds"] for one in results["steps"].values()),
        rounds=lengths(one["cpu_seconds"]["ours"] for one in results["peer"].values()),
    )
