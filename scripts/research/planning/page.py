"""The tables of a plan, and docs/scale.md from the template page.md."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from research import pages
from research.planning.model import (
    AVERAGE,
    BUCKETS,
    FRAME,
    GB,
    GPUS,
    GRADIENT,
    MOMENTS,
    PAIRS,
    REQUEST_MB,
    S3,
    SCHEDULES,
    SHARD_GB,
    UPDATE,
    WEIGHTS,
    Assumptions,
    Counted,
    Gpu,
    frame_bytes,
    plan,
)

NUMBERS = (1, 8, 64, 512)
MODELS = {"base": "ViT-B", "large": "ViT-L"}
# Windows of each view: count, rows and columns in patches.
CASES: dict[str, dict[str, Any]] = {
    "windows": {"first": (2, 10, 10), "second": (2, 10, 10)},
    "larger": {"first": (2, 10, 10), "second": (2, 15, 15)},
    "crops": {"first": (1, 20, 24), "second": (1, 20, 24)},
    "full": {"first": (1, 68, 120), "second": (1, 68, 120), "whole": True},
}
NAMES = {
    "windows": "two windows of 10x10",
    "larger": "the same, 15x15 in the second view",
    "crops": "crops of 320x384",
    "full": "full frames",
}
# Batches at which memory is counted.
BATCHES = {"windows": (32, 64), "larger": (32, 64), "crops": (16, 32), "full": (1, 2)}
BATCH, TOGETHER = 8, 512  # pairs of a step: for each GPU, for all of them
TIMED_STEPS = {"train_step_flow_1080p": "flow, 1080p", "train_step_720p": "segmentation, 720p"}
MAIN = ("base/windows", "base/full", "large/windows", "large/full")
TEMPLATE = Path(__file__).with_name("page.md")
STATE = WEIGHTS + GRADIENT + MOMENTS + AVERAGE + BUCKETS


def table(head: Sequence[str], lines: Iterable[Sequence[Any]], text_columns: int = 1) -> str:
    """A Markdown table that ends its line."""
    return pages.table(head, lines, text_columns) + "\n"


def title(key: str) -> str:
    """The name of a model and case such as "base/windows"."""
    model, _, case = key.partition("/")
    return f"{MODELS[model]}, {NAMES[case]}"


def counts_of(results: dict[str, Any]) -> dict[str, Counted]:
    """Key of a model and case -> its counts in scale.json."""
    return {name: Counted(**{**values, "tokens": tuple(values["tokens"])}) for name, values in results["cases"].items()}


# ------------------------------------------------------------------ tables


def short(value: float, digits: int = 3) -> str:
    """Three significant digits, with commas between thousands."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:,.{digits}g}"


def duration(hours: float, digits: int = 3) -> str:
    """Hours, minutes or seconds, whichever is the largest unit with at least one."""
    size, unit = next(((size, unit) for size, unit in ((1, "h"), (60, "min")) if hours * size >= 1), (3600, "s"))
    return f"{short(hours * size, digits)} {unit}"


def step_table(cases: dict[str, tuple[str, Counted]], full: str | None = None) -> str:
    """TFLOP of one pair. cases: key -> (name, counts). full: the key of full frames, to compare with."""
    lines = []
    for name, c in cases.values():
        tokens = f"{c.tokens[0]} + {c.tokens[1]}"
        saved = short(cases[full][1].flops() / c.flops()) if full else ""
        lines.append(
            [name, tokens, short(c.forward / 1e12), short(c.flops() / 1e12), short(c.flops(True) / 1e12), saved]
        )
    head = ["", "tokens, views 1 + 2", "forward", "step", "step, checkpointed", "less than full"]
    return table(head if full else head[:-1], [line if full else line[:-1] for line in lines])


def memory_table(cases: dict[str, tuple[str, Counted]], gpu: Gpu, given: Assumptions, batch: int) -> str:
    """GB of one GPU with `batch` pairs in one pass, and how many pairs fit."""
    lines = []
    room = gpu.memory * GB * given.usable
    for name, c in cases.values():
        bytes = [
            c.memory(batch),
            c.memory(batch, checkpointing=True),
            c.memory(batch, 8),
            c.memory(batch, 8, sharded=True),
            c.memory(batch, 64, sharded=True),
        ]
        lines.append(
            [
                name,
                short(c.pair / GB, 2),
                short(c.pair_checkpointed / GB, 2),
                *[short(value / GB) for value in bytes],
                f"{c.most(room):,}",
                f"{c.most(room, checkpointing=True):,}",
            ]
        )
    many = f"{batch} pairs"
    head = ["", "a pair", "checkpointed", many, f"{many}, checkpointed", f"{many}, DDP", f"{many}, FSDP on 8", "on 64"]
    return table([*head, f"fit in {gpu.memory:g} GB", "checkpointed"], lines)


def training_table(
    cases: dict[str, tuple[str, Counted]],
    numbers: Sequence[int],
    gpu: Gpu,
    given: Assumptions,
    schedules: Mapping[str, float],
    batch: int | None = None,
    together: int | None = None,
) -> str:
    """A line for each case and number of GPUs, with `batch` pairs for each GPU or `together` for all."""
    lines = []
    for name, c in cases.values():
        for n in numbers:
            each = batch if batch is not None else max(1, (together or 0) // n)
            p = plan(c, n, each, gpu, given)
            how = f"{each}" + (f" = {p.accumulation} x {each // p.accumulation}" if p.accumulation > 1 else "")
            how += ", checkpointed" if p.checkpointing else ""
            lines.append(
                [
                    name,
                    n,
                    how,
                    f"{n * each:,}",
                    short(1e3 * p.compute),
                    short(1e3 * p.launch),
                    short(1e3 * p.update),
                    f"{short(1e3 * p.communication)} ({short(1e3 * p.exposed)})",
                    short(1e3 * p.seconds),
                    short(p.rate),
                    *[f"{duration(p.hours(pairs))}, {p.steps(pairs):,} steps" for pairs in schedules.values()],
                ]
            )
    head = [
        "",
        "GPUs",
        "pairs a GPU",
        "pairs a step",
        "FLOPs, ms",
        "launch, ms",
        "update, ms",
        "all-reduce, ms (not hidden)",
    ]
    return table([*head, "step, ms", "pairs/s", *schedules], lines)


def data_table(
    cases: dict[str, Counted], numbers: Sequence[int], gpu: Gpu, given: Assumptions, decoding: dict[str, float]
) -> str:
    """Bytes to read each second and cores to decode them, at the rates of `training_table`."""
    lines = []
    for key in MAIN:
        case = key.partition("/")[2]
        size = frame_bytes(CASES[case])
        for n in numbers:
            rate = plan(cases[key], n, BATCH, gpu, given).rate
            kept = size["frames"] if case == "full" else size["windows"]
            lines.append(
                [
                    title(key),
                    n,
                    short(rate),
                    short(rate * size["files"] / 1e3),
                    short(rate * size["frames"] / 1e3),
                    short(rate * kept / 1e3),
                    short(rate * decoding["pair_seconds"] / n, 2),
                    short(rate * decoding["plain_seconds"] / n, 2),
                ]
            )
    head = ["", "GPUs", "pairs/s", "files, GB/s", "decoded frames, GB/s", "kept pixels, GB/s"]
    return table([*head, "cores a GPU: Spring's files", "unpacked files"], lines)


def share_table(cases: dict[str, Counted], gpu: Gpu, given: Assumptions, slowest: float) -> str:
    """Hours of the longest schedule by the share of the peak, and with `slowest` seconds to send an operation."""
    lines = []
    pairs = max(SCHEDULES.values())
    others = [replace(given, share=share) for share in (0.1, 0.2, 0.4)] + [replace(given, launch=slowest)]
    for key in MAIN:
        for n in (1, 8, 64):
            plans = [plan(cases[key], n, BATCH, gpu, other) for other in others]
            lines.append([title(key), n, *[duration(p.hours(pairs)) for p in plans]])
    head = [f"{100 * other.share:.0f} %, {1e6 * other.launch:.0f} µs" for other in others]
    return table(["", "GPUs", *head], lines)


def check_table(results: dict[str, Any]) -> str:
    """Counted and measured peak memory."""
    lines = []
    for p in results["peaks"]:
        what = f"`{p['preset']}`, {p['batch']} pairs, {'bf16' if p['precision'] == 'bf16' else 'float32'}"
        what += ", checkpointed" if p["checkpointing"] else ""
        lines.append([f"CPU: {what}", p["counted"], p["measured"]])
    h = results["h100"]
    lines.append([f"H100: `{Path(h['recipe']).name}`, {h['batch']} pairs, bf16", h["counted"], h["memory"]])
    cells = [
        [what, short(counted / GB), short(measured / GB), f"{100 * (counted / measured - 1):+.1f} %"]
        for what, counted, measured in lines
    ]
    return table(["", "counted, GB", "measured, GB", "error"], cells)


def cost_table(cost: dict[str, Any]) -> str:
    """The training steps of cost.json. "" if it has none."""
    lines = []
    for case, name in TIMED_STEPS.items():
        for precision, kinds in cost.get(case, {}).items():
            steps = kinds.items() if isinstance(kinds, dict) else ()
            for kind, f in steps:
                if not isinstance(f, dict) or not {"seconds", "tokens", "gflops"} <= f.keys():
                    continue
                seconds = f.get("network_seconds") or f["seconds"]
                share = f"{100 * f['ceiling_share']:.0f} %" if "ceiling_share" in f else ""
                what = f"{name}, {kind.replace('-batch-', ', batch ')}, {precision}"
                cells = [seconds, 1e6 * seconds / f["tokens"], f["gflops"]]
                lines.append([what, f"{f['tokens']:.0f}", *[short(cell) for cell in cells], share])
    if not lines:
        return ""
    return table(["", "tokens", "s", "µs a token", "GFLOP/s", "share of the machine's ceiling"], lines)


# ------------------------------------------------------------------ the page


def page(results: dict[str, Any], cost: dict[str, Any] | None = None) -> str:
    """docs/scale.md from scale.json and, if there is one, cost.json."""
    gpu, given, cases = GPUS["h100"], Assumptions(), counts_of(results)
    shown = {key: (title(key), cases[key]) for key in cases}
    main = {key: shown[key] for key in MAIN}
    few, long = SCHEDULES.values()
    decoding, h100 = results["decoding"], results["h100"]
    base, large, frames = (cases[key] for key in ("base/windows", "large/windows", "base/full"))
    one, many = (plan(base, n, BATCH, gpu, given) for n in (1, 512))
    spread, held = (plan(base, n, TOGETHER // n, gpu, given) for n in (512, 64))
    h100_step = h100["batch"] / h100["pairs_per_second"]
    slowest = h100_step / h100["launches"]
    slow = plan(base, 1, BATCH, gpu, replace(given, launch=slowest))
    reached = h100["flops"] * h100["pairs_per_second"] / 1e12
    timed = cost_table(cost or {})
    size = frame_bytes(CASES["windows"])
    buffer = 256 * size["files"] / 1e3
    pixels = FRAME[0] * FRAME[1]
    numbers = {
        "made": MADE,
        "steps": "\n".join(step_table(of_model(shown, model), f"{model}/full") for model in MODELS),
        "memory": memory_table(shown, gpu, given, BATCH),
        "weak": training_table(main, NUMBERS, gpu, given, SCHEDULES, batch=BATCH),
        "strong": training_table(windows_of(main), NUMBERS, gpu, given, SCHEDULES, together=TOGETHER),
        "data": data_table(cases, NUMBERS, gpu, given, decoding),
        "shares": share_table(cases, gpu, given, slowest),
        "checks": check_table(results),
        "timed": TIMED.format(table=timed) if timed else "",
        "assumptions": assumptions(gpu, given),
        "counted_with": results["counted_with"],
        "measured_on": results["measured_on"],
        "batch": BATCH,
        "together": TOGETHER,
        "gpu": gpu.name,
        "percent": f"{100 * given.share:.0f}",
        "ratio": f"{frames.flops() / base.flops():.0f}",
        "tokens_ratio": f"{frames.tokens[0] / base.tokens[0]:.0f}",
        "head": f"{100 * (1 - blocks_forward(base) / base.forward):.0f}",
        "few": duration(one.hours(few), 2),
        "long": duration(one.hours(long), 2),
        "slow_few": duration(slow.hours(few), 2),
        "slow_long": duration(slow.hours(long), 2),
        "slowest": f"{1e6 * slowest:.0f}",
        "fed_few": duration(few / (16 / decoding["pair_seconds"]) / 3600, 2),
        "fed_long": duration(long / (16 / decoding["pair_seconds"]) / 3600, 2),
        "full_long": duration(plan(frames, 8, BATCH, gpu, given).hours(long)),
        "base_state": short(STATE * base.parameters / GB, 2),
        "large_state": short(STATE * large.parameters / GB, 2),
        "sharded": short((base.memory(BATCH, 8) - base.memory(BATCH, 8, sharded=True)) / GB, 2),
        "fill": f"{given.launch * base.launches * gpu.tflops * 1e12 * given.share / base.flops():.0f}",
        "launches": f"{base.launches:,}",
        "launch_us": f"{1e6 * given.launch:.0f}",
        "launch_ms": f"{1e3 * one.launch:.0f}",
        "one_compute": f"{1e3 * one.compute:.0f}",
        "gradients": f"{1e3 * many.communication:.0f}",
        "thin": f"{gpu.between / 12.5:.0f}",
        "spread_compute": f"{1e3 * spread.compute:.1f}",
        "spread_step": f"{1e3 * spread.seconds:.0f}",
        "spread_gain": f"{spread.rate / held.rate:.1f}",
        "many_steps": f"{many.steps(long):,}",
        "many_few": f"{many.steps(few):,}",
        "pair_mb": short(size["files"]),
        "frames_mb": short(size["frames"]),
        "windows_mb": short(size["windows"], 2),
        "decode_ms": short(1e3 * decoding["pair_seconds"], 2),
        "flo5_ms": short(1e3 * decoding["flo5_seconds"], 2),
        "plain_ms": short(1e3 * decoding["plain_seconds"], 2),
        "png_mb": short(decoding["png_bytes"] / 1e6, 2),
        "flo5_mb": short(decoding["flo5_bytes"] / 1e6, 2),
        "synthetic_ms": short(1e3 * h100["loader_seconds"], 2),
        "cores": f"{one.rate * decoding['pair_seconds']:.0f}",
        "plain_cores": f"{one.rate * decoding['plain_seconds']:.0f}",
        "fed": f"{16 / decoding['pair_seconds']:.0f}",
        "store": store_table({"Spring, all pairs": size["files"] * PAIRS / 1e3, "100 M pictures of 0.5 MB": 50e3}, 64),
        "store_streams": f"{many.rate / 512 * size['files'] / 85:.0f}",
        "store_rate": f"{S3.rate:,.0f}",
        "store_requests": short(many.rate * size["files"] / REQUEST_MB),
        "node_rate": short(8 * many.rate / 512 * size["files"] / 1e3),
        "shards_gb": short(size["files"] * PAIRS / 1e3),
        "unpacked_gb": short(pixels * (10_000 * 3 + PAIRS * 8) / GB),
        "buffer_gb": short(buffer, 2),
        "node_gb": short(64 * buffer, 2),
        "streamed": short(many.rate * size["files"] / 1e6, 2),
        "reached": short(reached, 2),
        "reached_percent": short(100 * reached / gpu.tflops, 1),
        "h100_pairs": h100["pairs_per_second"],
        "h100_batch": h100["batch"],
        "h100_step": f"{1e3 * h100_step:.0f}",
        "h100_launch": f"{1e3 * given.launch * h100['launches']:.0f}",
        "h100_flops": short(h100["flops"] / 1e9, 2),
    }
    return TEMPLATE.read_text().format(**numbers)


def store_table(sets: Mapping[str, float], tracks: int) -> str:
    """What an epoch over shards in an object store costs. sets: name -> GB."""
    lines = []
    for name, size in sets.items():
        read = size + (tracks - 1) * SHARD_GB  # shards that a cut divides are read twice
        requests = read * 1e3 / REQUEST_MB
        prices = [S3.month * size, S3.request * requests / 1e3, S3.region * read, S3.internet * read]
        dollars = [f"{price:,.2f}" if price < 100 else short(price) for price in prices]
        lines.append([name, short(size), f"{size / SHARD_GB:,.0f}", short(read), short(requests), *dollars])
    head = [
        "",
        "GB",
        f"shards of {SHARD_GB:g} GB",
        "read an epoch, GB",
        "requests",
        "a month's storage, $",
        "requests, $",
    ]
    return table([*head, "out of another region, $", "out over the internet, $"], lines)


def of_model(shown: dict[str, tuple[str, Counted]], model: str) -> dict[str, tuple[str, Counted]]:
    return {key: value for key, value in shown.items() if key.startswith(model + "/")}


def windows_of(shown: dict[str, tuple[str, Counted]]) -> dict[str, tuple[str, Counted]]:
    return {key: value for key, value in shown.items() if key.endswith("/windows")}


def blocks_forward(c: Counted) -> float:
    """FLOPs of ViT-B's encoder and decoder blocks in a forward pass, by formula."""
    first, second = c.tokens
    width = 768
    encoder = sum(12 * (24 * width**2 * t + 4 * t**2 * width) for t in c.tokens)
    decoder = 12 * (28 * width**2 * first + 4 * width**2 * second + 4 * first * (first + second) * width)
    return encoder + decoder


def assumptions(gpu: Gpu, given: Assumptions) -> str:
    lines = [
        ["bf16 products", f"{gpu.tflops:g} TFLOP/s", "data sheet, dense"],
        [
            "share of it that a long step reaches",
            f"{given.share:.0%}",
            "our estimate; a GPT-2 on four H100s reached 23 % ([torchtitan#533](https://github.com/pytorch/torchtitan/pull/533))",
        ],
        [
            "sending one operation",
            f"{1e6 * given.launch:g} µs",
            "our estimate for PyTorch without compilation; not measured",
        ],
        [
            "memory",
            f"{gpu.memory:g} GB, {given.usable:.0%} of it usable",
            "data sheet; the rest is for CUDA, NCCL and the allocator's waste",
        ],
        [
            "memory's bandwidth",
            f"{gpu.bandwidth / 1e3:g} TB/s, {given.stream:.0%} of it reached",
            "data sheet; our estimate",
        ],
        [
            "an update",
            f"{UPDATE} bytes a parameter read or written",
            "clipping 12, AdamW 28, the average 12, all float32",
        ],
        [
            "all-reduce, bus bandwidth",
            f"{gpu.inside:g} GB/s in a node of {given.node}, {gpu.between:g} GB/s across",
            "half of what large messages reach: 476, and 46 for each of 8 cards of 400 Gb/s "
            "([nccl-tests#290](https://github.com/NVIDIA/nccl-tests/issues/290))",
        ],
        [
            "what is reduced",
            "4 bytes a parameter",
            "gradients stay float32 under autocast; the backward pass hides the all-reduce while it lasts",
        ],
        [
            "Spring",
            f"{PAIRS:,} pairs with flow; 13.4 GB for 5,000 frames, 47.2 GB for 4,963 flow fields",
            "[its archives](https://doi.org/10.18419/darus-3376), sizes as users of them report",
        ],
        [
            "an object store",
            f"$ {S3.month} a GB and month, {S3.request} a thousand requests, {S3.region} a GB to another region, {S3.internet} to the "
            f"internet; {S3.rate:,.0f} requests a second, 85 MB/s each",
            "S3's list prices in us-east-1 as [reported in 2026](https://cloudburn.io/blog/amazon-s3-pricing) and its documented rate of "
            "a prefix; the speed of a request is our estimate",
        ],
        [
            "schedules",
            f"{SCHEDULES['12 epochs of Spring']:,} and {SCHEDULES['240 x 30,000 pairs']:,} pairs",
            "CroCo-Flow's [commands](https://github.com/naver/croco/blob/master/stereoflow/README.MD), 8 pairs a step: "
            "240 epochs of 30,000 pairs of other sets, then 12 epochs of Spring (here all its pairs). Win-Win's are unknown",
        ],
    ]
    return table(["", "value", "from"], lines, text_columns=3)


MADE = "<!-- made by scripts/research/plan.py --page docs/scale.md; don't edit -->"
TIMED = """
Measured training steps of ViT-B on two CPU cores (`docs/results/cost.json`). Windows reach at least the share of the ceiling that full
frames reach, so the plan has one share for both:

{table}"""
