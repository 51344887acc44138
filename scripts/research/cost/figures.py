"""From measurements to the figures at the top of cost.json: medians, ratios, shares of the machine's ceiling.

A figure without its measurements is left out, and so is a case without figures.
"""

from __future__ import annotations

import statistics
from typing import Any

from research.cost.cases import PRECISIONS, Geometry, cases
from winwin_hf.inference.flow import tile_positions

Figures = dict[str, Any]
# Not measured by this command, and on another machine.
CROCO_FLOW = {
    "source": "an earlier run on another machine, in fp32 with random ViT-B weights; this command doesn't measure it",
    "size": [1088, 1920],
    "seconds": 279.0,
    "peak_gb": 14.6,
    "tile_seconds": 2.8,
    "tile_peak_gb": 1.4,
    "ceiling_gflops_fp32": 229.0,
}


def summary(runs: list[Figures]) -> Figures:
    """Each figure's median over all turns; a list holds the repetitions within a turn. Other values are the last turn's."""
    found: Figures = {}
    for key in runs[-1]:
        values = [run[key] for run in runs if key in run]
        if isinstance(values[0], list):
            values = [value for part in values for value in part]
        numbers = all(isinstance(value, (int, float)) for value in values) and values
        found[key] = statistics.median(values) if numbers else values[-1] if values else None
    return found


def summaries(measurements: dict[str, Figures]) -> dict[str, Figures]:
    """Name -> summary of each measurement that has a turn. The ceiling is the best of all turns."""
    found = {name: summary(entry["runs"]) for name, entry in measurements.items() if entry.get("runs")}
    if "ceiling" in found:
        runs = measurements["ceiling"]["runs"]
        found["ceiling"] |= {key: max(run[key] for run in runs) for key in ("fp32_gflops", "bf16_gflops")}
    return found


def figures(measurements: dict[str, Figures], geometry: Geometry) -> Figures:
    """Name of a case -> its figures."""
    found = summaries(measurements)
    made = {
        "train_step_720p": train_step_720p(found),
        "train_step_flow_1080p": train_step_flow_1080p(found),
        "flow_1080p": flow_1080p(found, geometry),
        "memory_curve": memory_curve(found, geometry),
        "arithmetic": arithmetic(found),
        "small_flow": small_flow(found, geometry),
        "scaling": scaling(found, geometry),
        "profile": profile(found),
    }
    return {name: part for name, part in made.items() if part}


def ratio(above: float | None, below: float | None) -> float | None:
    return above / below if above and below else None


def present(values: Figures) -> Figures:
    """The values that are not None."""
    return {key: value for key, value in values.items() if value is not None}


def gflop(found: dict[str, Figures], name: str) -> float | None:
    return found.get("counts", {}).get("gflop", {}).get(name)


def best_ceiling(found: dict[str, Figures], precision: str) -> float | None:
    """GFLOP/s of matrix products, the best shape in the best turn. For weights in bf16 it is bf16's."""
    return found.get("ceiling", {}).get(f"{precision.split('-')[0]}_gflops")


def reached(found: dict[str, Figures], work: float | None, seconds: float | None, precision: str) -> Figures:
    """A time's GFLOP/s and their share of the ceiling."""
    rate = ratio(work, seconds)
    return present({"gflop": work, "gflops": rate, "ceiling_share": ratio(rate, best_ceiling(found, precision))})


# ------------------------------------------------------------------ training


def steps(found: dict[str, Figures], case: str) -> dict[str, dict[str, Figures]]:
    """precision -> kind -> figures of its training step."""
    table: dict[str, dict[str, Figures]] = {}
    for name, f in found.items():
        if not name.startswith(case + "/"):
            continue
        _, kind, precision = name.split("/")
        kind_only, _, batch = kind.partition("-batch-")
        work = gflop(found, f"{case}/{kind_only}")
        work = work * int(batch or 1) if work else None
        table.setdefault(precision, {})[kind] = {
            **present(
                {
                    "seconds": f["step_seconds"],
                    "cpu_seconds": f["step_cpu_seconds"],
                    "network_seconds": f["network_seconds"],
                    "optimizer_seconds": f["optimizer_seconds"],
                    "loading_seconds": f.get("loading_seconds"),
                    "above_idle_gb": f["above_gb"],
                    "peak_gb": f["peak_gb"],
                    "loader_gb": f["loader_gb"],
                    "tokens": f["tokens"],
                }
            ),
            **reached(found, work, f["network_seconds"], precision),
        }
    return table


def against(table: dict[str, Figures], one: str, other: str) -> Figures:
    """How many times as long a step of kind `one` takes as one of kind `other`, and what share of its memory `other` needs."""
    if one not in table or other not in table:
        return {}
    a, b = table[one], table[other]
    return present(
        {
            "time_ratio": ratio(a["seconds"], b["seconds"]),
            "network_ratio": ratio(a["network_seconds"], b["network_seconds"]),
            "memory_ratio": ratio(b["above_idle_gb"], a["above_idle_gb"]),
            "arithmetic_ratio": ratio(a.get("gflop"), b.get("gflop")),
        }
    )


def train_step_720p(found: dict[str, Figures]) -> Figures:
    """time_ratio: full / windows; memory_ratio: windows / full, beyond the idle process. At the top level the worse of the precisions."""
    table = steps(found, "train_step_720p")
    ratios = {precision: against(kinds, "full", "windows") for precision, kinds in table.items()}
    complete = [r for r in ratios.values() if r]
    made: Figures = {}
    if complete:
        made["time_ratio"] = min(r["time_ratio"] for r in complete)
        made["memory_ratio"] = max(r["memory_ratio"] for r in complete)
    return made | {precision: {**kinds, **ratios[precision]} for precision, kinds in table.items()}


def train_step_flow_1080p(found: dict[str, Figures]) -> Figures:
    """The windows' step against crops of a tile's size, and against full frames."""
    made: Figures = {}
    for precision, kinds in steps(found, "train_step_flow_1080p").items():
        against_others = {
            "full_over_windows": against(kinds, "full", "windows"),
            "crops_over_windows": against(kinds, "crops", "windows"),
            "crops_over_windows_batch_4": against(kinds, "crops-batch-4", "windows-batch-4"),
        }
        made[precision] = {**kinds, **{name: ratios for name, ratios in against_others.items() if ratios}}
    return made


# ------------------------------------------------------------------ whole frames


def passes(geometry: Geometry, overlap: float) -> int:
    """Number of tiles of a 1080p frame."""
    sides = zip(geometry.flow_frame, geometry.tile, strict=True)
    rows, columns = (len(tile_positions(length, tile, overlap)) for length, tile in sides)
    return rows * columns


def flow_1080p(found: dict[str, Figures], geometry: Geometry) -> Figures:
    made: Figures = {}
    for precision in (*PRECISIONS, "bf16-weights"):
        whole = found.get(f"direct/1080p/{precision}")
        if whole:
            made[f"direct_seconds_{precision}"] = whole["seconds"]
            made[f"direct_cpu_seconds_{precision}"] = whole["cpu_seconds"]
            made["peak_memory_gb" if precision == "fp32" else f"peak_memory_gb_{precision}"] = whole["peak_gb"]
            share = reached(found, gflop(found, "1080p"), whole["seconds"], precision)
            made |= {f"{key}_{precision}": value for key, value in share.items() if key != "gflop"}
        tile = found.get(f"tiled/{precision}")
        if not tile:
            continue
        suffix = "" if precision == "fp32" else f"_{precision}"
        made[f"tile_seconds_{precision}"] = tile["pass_seconds"]
        share = reached(found, gflop(found, "tile"), tile["pass_seconds"], precision)
        made |= {f"tile_{key}_{precision}": value for key, value in share.items() if key != "gflop"}
        for overlap in (0.5, 0.7, 0.9):
            seconds = tile["pass_seconds"] * passes(geometry, overlap)
            made[f"tiled_{overlap}_seconds_{precision}"] = seconds
            if whole:
                made[f"tiled_{overlap}_over_direct{suffix}"] = seconds / whole["seconds"]
    for precision in PRECISIONS:
        if best_ceiling(found, precision):
            made[f"ceiling_gflops_{precision}"] = best_ceiling(found, precision)
    if not any(key.startswith(("direct", "tile")) for key in made):
        return {}
    work = {name: gflop(found, name) for name in ("1080p", "tile")}
    made["passes"] = {str(overlap): passes(geometry, overlap) for overlap in (0.5, 0.7, 0.9)}
    made["tflop"] = present(
        {
            "direct": work["1080p"] and work["1080p"] / 1e3,
            **{f"tiled_{o}": work["tile"] and work["tile"] * passes(geometry, o) / 1e3 for o in (0.5, 0.7, 0.9)},
        }
    )
    tiles = found.get("tiled/fp32", {}).get("tiles")
    if tiles:
        fastest = round(found["tiled/fp32"]["tile_batch"])
        made["tiled_extrapolated"] = (
            f"Measured are {tiles:.0f} passes of a tile in a strip as wide as the frame, with blending; the frame's time is the time of a "
            f"pass times its number of passes. In fp32 batches of {fastest} were fastest."
        )
    if "direct_seconds_fp32" in made and not geometry.quick:
        ours = made.get("ceiling_gflops_fp32")
        # at the same share of the ceiling on both machines
        scaled = CROCO_FLOW["seconds"] * CROCO_FLOW["ceiling_gflops_fp32"] / ours if ours else None
        made["croco_flow"] = CROCO_FLOW | present(
            {
                "over_direct": CROCO_FLOW["seconds"] / made["direct_seconds_fp32"],
                "over_direct_at_our_ceiling": ratio(scaled, made["direct_seconds_fp32"]),
            }
        )
    return made


def memory_curve(found: dict[str, Figures], geometry: Geometry) -> Figures:
    """precision -> a line for each measured size of frames, the smallest first."""
    made: Figures = {}
    heads = 12 if not geometry.quick else 3
    for precision in PRECISIONS:
        lines = []
        for size, (height, width) in geometry.frames.items():
            f = found.get(f"direct/{size}/{precision}")
            if f:
                line = {key: f[key] for key in ("seconds", "cpu_seconds", "idle_gb", "peak_gb", "above_gb", "tokens")}
                # the attention weights of all heads of one layer, which are never held
                line["tokens_x_tokens_gb"] = heads * f["tokens"] ** 2 * 4 / 1e9
                work = reached(found, gflop(found, size), f["seconds"], precision)
                lines.append({"size": size, "pixels": height * width, **line, **work})
        if lines:
            made[precision] = lines
    return made


def arithmetic(found: dict[str, Figures]) -> Figures:
    return present({"gflop": found.get("counts", {}).get("gflop"), "ceiling": found.get("ceiling", {}).get("all")})


def profile(found: dict[str, Figures]) -> Figures:
    """SIZE/PRECISION -> seconds by kind of operator and by part, and the FLOPs of the kinds that have any."""
    made = {}
    for name, f in found.items():
        if name.startswith("profile/"):
            size = name.split("/")[1]
            work = found.get("counts", {}).get("gflop_kinds", {}).get(size, {})
            # if attention is computed by plain products, their kind holds both
            known = work if all(kind in f["kinds"] for kind in work) else {}
            made[name.removeprefix("profile/")] = {**f, "gflop": known}
    return made


# ------------------------------------------------------------------ the small checkpoint; scaling


def small_flow(found: dict[str, Figures], geometry: Geometry) -> Figures:
    made: Figures = {}
    for name in [m.name for m in cases(geometry)["small_flow"] if m.name in found]:
        _, method, size = name.split("/")
        f = found[name]
        keys = ("seconds", "cpu_seconds", "peak_gb", "above_gb", "not_measured")
        made.setdefault(size, {})[method] = {key: f[key] for key in keys if key in f}
    return made


def scaling(found: dict[str, Figures], geometry: Geometry) -> Figures:
    made: Figures = {}
    for name, f in found.items():
        if not name.startswith("scaling/"):
            continue
        _, kind, which = name.split("/")
        seconds = f["step_seconds"]
        line = {"seconds": seconds, "above_idle_gb": f["above_gb"], "tokens": f["tokens"]}
        if kind == "processes":
            line["images_per_second"] = 4 * f["processes"] / seconds
        made.setdefault(kind, {})[which] = {**line, "network_seconds": f["network_seconds"]}
    one = made.get("tokens", {}).get(str(2 * geometry.kept_windows[1] ** 2))
    if one and "batch" in made:
        made["batch"] = {"1": one, **made["batch"]}
    return made
