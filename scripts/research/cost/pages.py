"""cost.md, made from cost.json alone: the goals, then a section for each case."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from research.experiments.pages import table
from winwin_hf.data.formats import write_atomic

from .cases import METHODS, NAMES, PRECISIONS, Geometry
from .pictures import draw_curve, draw_ratios

Figures = dict[str, Any]
KINDS = {
    "full": "full frame",
    "windows": "two windows",
    "crops": "crops of a tile's size",
    "windows-batch-4": "two windows, 4 pairs",
    "crops-batch-4": "crops, 4 pairs",
}


def goals(made: Figures) -> list[list[str]]:
    """What was asked for: [what, goal, measured, whether it is met]; only what is measured."""
    training, flow = made.get("train_step_720p", {}), made.get("flow_1080p", {})
    croco = flow.get("croco_flow", {})
    lines = [
        ("training step, 1280x720: full frame over two windows, time", training.get("time_ratio"), ">=", 4.5, "x"),
        ("... two windows over full frame, memory", training.get("memory_ratio"), "<=", 0.45, "x"),
        ("1080p pair: tiled at overlap 0.9 over direct, time", flow.get("tiled_0.9_over_direct"), ">=", 20, "x"),
        ("... tiled at overlap 0.7 over direct", flow.get("tiled_0.7_over_direct"), ">=", 2.8, "x"),
        ("... the public CroCo-Flow code (279 s, given) over direct", croco.get("over_direct"), ">=", 4, "x"),
        ("... peak memory, fp32", flow.get("peak_memory_gb"), "<", 3, " GB"),
        ("... share of the fp32 ceiling", flow.get("ceiling_share_fp32"), ">=", 0.7, ""),
        ("... share of the bf16 ceiling", flow.get("ceiling_share_bf16"), ">=", 0.5, ""),
    ]
    found = []
    for what, value, sign, goal, unit in lines:
        if value is not None:
            met = value >= goal if sign == ">=" else value < goal or (sign == "<=" and value == goal)
            found.append([what, f"{sign} {goal}{unit}", f"{value:.3g}{unit}", "yes" if met else "no"])
    return found


def write(
    about: Figures, made: Figures, measurements: Figures, not_measured: dict[str, str], folder: Path, geometry: Geometry
) -> None:
    """FOLDER/cost.md, cost-curve.png and cost-ratios.png; a picture only if there is something to draw."""
    pictures = [name for name, draw in (("cost-ratios", draw_ratios), ("cost-curve", draw_curve)) if draw(made, folder)]
    parts = [heading(about, measurements)]
    lines = goals(made)
    if lines:
        parts.append("## Goals\n\n" + table(["", "goal", "measured", "met"], lines))
    if "cost-ratios" in pictures:
        parts.append("![How many times as long the alternatives take](cost-ratios.png)")
    sections = {
        "train_step_720p": segmentation_section,
        "train_step_flow_1080p": flow_training_section,
        "flow_1080p": flow_section,
        "memory_curve": curve_section,
        "arithmetic": arithmetic_section,
        "profile": profile_section,
        "small_flow": small_flow_section,
        "scaling": scaling_section,
    }
    for name, section in sections.items():
        if name in made:
            parts.append(section(made[name], geometry))
    if not_measured:
        lines = [[name, reason] for name, reason in not_measured.items()]
        parts.append("## Not measured\n\n" + "\n".join(f"- `{name}`: {reason}" for name, reason in lines))
    with write_atomic(folder / "cost.md") as temporary:
        temporary.write_text("\n\n".join(parts) + "\n")


def heading(about: Figures, measurements: Figures) -> str:
    where, versions = about["machine"], about["versions"]
    device = where["accelerator"] or f"{where['cpu']}, {about['threads']} threads on {where['cores']} cores"
    dates = sorted({entry["date"] for entry in measurements.values()})
    days = " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else about["date"][:10]
    codes = {entry["code"] for entry in measurements.values()}
    mixed = (
        f" **Measured with {len(codes)} versions of the code: ratios between them don't hold.**"
        if len(codes) > 1
        else ""
    )
    quick = " **A trial with a tiny network and tiny frames: no figure here means anything.**" if about["quick"] else ""
    return (
        f"# What Win-Win costs\n\n```bash\n{about['command']}\n```\n\n"
        f"{days}, winwin-hf {versions['winwin-hf']}, torch {versions['torch']}, {device}; load average before: "
        f"{about['load_before'] or 0:.1f}.{mixed}{quick}\n\n"
        "The base preset (ViT-B, 12 + 12 blocks, DPT head for flow) with random weights. Each figure is the median of several, from "
        "processes that did nothing else and took turns. Memory is what the process holds resident at most, all of it (`peak`), or "
        "beyond what it held idle, after imports and with the model built (`above idle`); on a GPU what torch has allocated there. "
        "A multiplication with an addition is two FLOPs, counted by `torch.utils.flop_counter` on the meta device; the ceiling is "
        "the best matrix product of all turns, of a large square or of the network's own shapes, measured in the same run."
    )


# ------------------------------------------------------------------ sections


STEP_COLUMNS = [
    "",
    "s / step",
    "forward and backward, s",
    "optimiser, s",
    "loading a batch, s",
    "above idle, GB",
    "TFLOP",
    "of the ceiling",
]


def step_lines(kinds: Figures, precision: str) -> list[list[Any]]:
    lines = []
    for kind, name in KINDS.items():
        if kind in kinds:
            f = kinds[kind]
            times = [f.get(key) for key in ("network_seconds", "optimizer_seconds", "loading_seconds")]
            work = f["gflop"] / 1e3 if "gflop" in f else None
            lines.append(
                [
                    f"{name}, {NAMES[precision]}",
                    f["seconds"],
                    *times,
                    f["above_idle_gb"],
                    work,
                    percent(f.get("ceiling_share")),
                ]
            )
    return lines


def ratio_lines(precision: str, named: dict[str, Figures]) -> list[list[Any]]:
    return [
        [f"{name}, {NAMES[precision]}", *(r.get(f"{key}_ratio") for key in ("time", "network", "arithmetic", "memory"))]
        for name, r in named.items()
        if r
    ]


RATIO_COLUMNS = ["", "step", "forward and backward", "arithmetic", "memory, the other way round"]


def segmentation_section(made: Figures, geometry: Geometry) -> str:
    lines, ratios = [], []
    for precision in PRECISIONS:
        kinds = made.get(precision, {})
        lines += step_lines(kinds, precision)
        if "time_ratio" in kinds:
            ratios += ratio_lines(precision, {"full frame / two windows": kinds})
    (height, width), (rows, columns) = geometry.segmentation_frame, geometry.segmentation_window
    total = -(-height // 16) * -(-width // 16)
    return (
        f"## Training step, segmentation at {width}x{height}\n\nConvolutional head, batch 2: the full frame ({total} tokens) against "
        f"two windows of {rows}x{columns} ({2 * rows * columns} tokens). A step holds the recipe's loader (one process, JPEG decoded, "
        "mirrors and colours), forward, backward, clipping and AdamW; no average of the weights.\n\n"
        + table(STEP_COLUMNS, lines)
        + ("\n\n" + table(RATIO_COLUMNS, ratios) if ratios else "")
    )


def flow_training_section(made: Figures, geometry: Geometry) -> str:
    lines, ratios = [], []
    for precision in PRECISIONS:
        kinds = made.get(precision, {})
        lines += step_lines(kinds, precision)
        named = {
            "full frame / two windows": kinds.get("full_over_windows", {}),
            "crops / two windows": kinds.get("crops_over_windows", {}),
            "crops / two windows, 4 pairs": kinds.get("crops_over_windows_batch_4", {}),
        }
        ratios += ratio_lines(precision, named)
    (rows, columns), (height, width) = geometry.flow_window, geometry.tile
    return (
        f"## Training step, flow at 1920x1080\n\nDPT head, no matching; one pair, or four. Two windows of {rows}x{columns} in each view "
        f"({2 * rows * columns} tokens), crops of {height}x{width} pixels ({height * width // 256} tokens) and the full frame, that "
        "one with gradient checkpoints and measured once, without a warm-up. Frames are Spring's in size and format: their flow has four "
        "values for a pixel, and is read whole whatever is kept.\n\n"
        + table(STEP_COLUMNS, lines)
        + ("\n\n" + table(RATIO_COLUMNS, ratios) if ratios else "")
    )


def flow_section(made: Figures, geometry: Geometry) -> str:
    lines = []
    for precision in (*PRECISIONS, "bf16-weights"):
        key = f"direct_seconds_{precision}"
        if key in made:
            memory = made["peak_memory_gb" if precision == "fp32" else f"peak_memory_gb_{precision}"]
            work = made["tflop"].get("direct")
            shares = percent(made.get(f"ceiling_share_{precision}"))
            lines.append([f"direct, {NAMES[precision]}", 1, made[key], 1.0, work, shares, memory])
        suffix = "" if precision == "fp32" else f"_{precision}"
        for overlap, passes in made["passes"].items():
            if f"tiled_{overlap}_seconds_{precision}" in made:
                shares = percent(made.get(f"tile_ceiling_share_{precision}"))
                over = made.get(f"tiled_{overlap}_over_direct{suffix}")
                work = made["tflop"].get(f"tiled_{overlap}")
                seconds = made[f"tiled_{overlap}_seconds_{precision}"]
                lines.append(
                    [f"tiles, overlap {overlap}, {NAMES[precision]}", passes, seconds, over, work, shares, None]
                )
    croco = made.get("croco_flow")
    if croco:
        over = croco["over_direct"]
        lines.append(
            ["public CroCo-Flow code, direct, fp32 (given)", 1, croco["seconds"], over, None, None, croco["peak_gb"]]
        )
    columns = ["", "passes", "s", "times direct", "TFLOP", "of the ceiling", "peak, GB"]
    text = "## One pair at 1920x1080\n\n" + table(columns, lines)
    if "tiled_extrapolated" in made:
        text += f"\n\nTiles are of {geometry.tile[0]}x{geometry.tile[1]} pixels. {made['tiled_extrapolated']}"
    if croco:
        text += (
            f"\n\nThe public code's figures: {croco['source']}. Its tile of 320x384 took {croco['tile_seconds']} s and "
            f"{croco['tile_peak_gb']} GB, beside a ceiling of {croco['ceiling_gflops_fp32']:.0f} GFLOP/s"
        )
        if "over_direct_at_our_ceiling" in croco:
            text += f" (at this run's ceiling it would be {croco['over_direct_at_our_ceiling']:.1f} times direct)"
        text += "."
        work, ceiling = made["tflop"].get("direct"), made.get("ceiling_gflops_fp32")
        if work and ceiling and 4 * 1e3 * work / croco["seconds"] > ceiling:
            text += (
                f" Four times as fast as it, in fp32, is out of reach here: a pass of {work:.1f} TFLOP would need "
                f"{4 * 1e3 * work / croco['seconds']:.0f} GFLOP/s, and the machine's ceiling is {ceiling:.0f}."
            )
    return text


def curve_section(made: Figures, geometry: Geometry) -> str:
    columns = [
        "",
        "pixels",
        "tokens",
        "s",
        "peak, GB",
        "above idle, GB",
        "above idle, GB / megapixel",
        "one tokens x tokens, GB",
        "TFLOP",
        "of the ceiling",
    ]
    lines = []
    for precision, found in made.items():
        for f in found:
            work = f["gflop"] / 1e3 if "gflop" in f else None
            figures = [
                f"{f['pixels'] / 1e6:.2f} M",
                f["tokens"],
                f["seconds"],
                f["peak_gb"],
                f["above_gb"],
                f["above_gb"] * 1e6 / f["pixels"],
                f["tokens_x_tokens_gb"],
            ]
            lines.append([f"{f['size']}, {NAMES[precision]}", *figures, work, percent(f.get("ceiling_share"))])
    return (
        "## Time and memory against pixels, direct\n\n![Time and memory against pixels](cost-curve.png)\n\n"
        + table(columns, lines)
        + "\n\n`one tokens x tokens`: what the attention weights of one layer, all heads, would take in fp32. They are never held."
    )


def arithmetic_section(made: Figures, geometry: Geometry) -> str:
    parts = ["## The machine's ceiling, and the arithmetic"]
    if "ceiling" in made:
        shapes = list(made["ceiling"]["fp32"]["products"])
        lines = [[f"product {shape}", *(made["ceiling"][p]["products"][shape] for p in PRECISIONS)] for shape in shapes]
        lines.append(["attention (SDPA) at 1080p", *(made["ceiling"][p]["attention"] for p in PRECISIONS)])
        lines.append(["3x3 convolution, 256 channels", *(made["ceiling"][p]["convolution"] for p in PRECISIONS)])
        parts.append(table(["GFLOP/s, last turn", "fp32", "bf16"], lines))
    if "gflop" in made:
        lines = [[f"`{name}`", value / 1e3] for name, value in made["gflop"].items()]
        parts.append(table(["", "TFLOP"], lines))
        parts.append(
            "Of frames and tiles: a forward pass over a pair. Of training steps: forward and backward of the batch."
        )
    return "\n\n".join(parts)


def profile_section(made: Figures, geometry: Geometry) -> str:
    parts = ["## Where a direct pass spends its time"]
    for name, f in made.items():
        size, precision = name.split("/")
        total, kinds = f["seconds"], f["kinds"]
        lines = [
            [kind, seconds, percent(seconds / total), f["gflop"][kind] / seconds if kind in f["gflop"] else None]
            for kind, seconds in kinds.items()
            if seconds > 0.002 * total
        ]
        parts.append(
            f"{size}, {NAMES[precision]}, {total:.3g} s:\n\n" + table(["operators", "s", "share", "GFLOP/s"], lines)
        )
        lines = [[f"`{part}`", s, percent(s / total)] for part, s in f["parts"].items() if s > 0.01 * total]
        parts.append(table(["part, without the parts in it", "s", "share"], lines))
    return "\n\n".join(parts)


def small_flow_section(made: Figures, geometry: Geometry) -> str:
    sizes, lines = list(made), []
    for method in METHODS:
        figures: list[Any] = []
        for size in sizes:
            f = made[size].get(method, {})
            figures += [f.get("seconds"), f.get("cpu_seconds"), f.get("peak_gb"), f.get("above_gb")]
        if any(figures):
            lines.append([method, *figures])
    columns = [f"{size}: {what}" for size in sizes for what in ("s", "CPU s", "peak, GB", "above idle, GB")]
    return (
        "## The bundled flow checkpoint and other methods\n\nTwo photographs in, flow out, on the same frames; all processes import torch, "
        "which is most of what they hold idle. RAFT is torchvision's with random weights (its time doesn't depend on them).\n\n"
        + table(["", *columns], lines)
    )


def scaling_section(made: Figures, geometry: Geometry) -> str:
    parts = [
        "## Scaling of a training step\n\nSegmentation in bf16, forward, backward and AdamW on a batch that is there already. Against "
        "pixels: the table of whole frames above."
    ]
    titles = {
        "tokens": "tokens kept, batch 1",
        "batch": f"batch, two windows of {geometry.kept_windows[1]}x{geometry.kept_windows[1]}",
        "processes": f"processes (gloo), batch 4 each, `{geometry.small_preset}` preset",
    }
    for kind, title in titles.items():
        if kind in made:
            lines = [
                [
                    which,
                    f["tokens"],
                    f["seconds"],
                    1e3 * f["seconds"] / f["tokens"],
                    f["above_idle_gb"],
                    f.get("images_per_second"),
                ]
                for which, f in made[kind].items()
            ]
            columns = [title, "tokens of the batch", "s / step", "ms / token", "above idle, GB", "images / s"]
            keep = [i for i in range(6) if i < 5 or kind == "processes"]
            parts.append(table([columns[i] for i in keep], [[line[i] for i in keep] for line in lines]))
    return "\n\n".join(parts)


def percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.0f} %" if share >= 0.1 else f"{100 * share:.1f} %"
