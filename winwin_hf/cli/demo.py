"""`make demo`: every bundled checkpoint on real frames, as pictures to look at and figures to check.

Notable: there is no ground truth for the example frames, so the figures are such as need none: the size of the motion, and
how much nearer frame 2 comes to frame 1 when it is warped by the predicted flow.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from winwin_hf import bundled
from winwin_hf.data import formats
from winwin_hf.data.formats.files import read_json
from winwin_hf.inference import drawing, figures, sheets
from winwin_hf.inference.predictor import Predictor
from winwin_hf.own_files import made_folder
from winwin_hf.processes import locked

FIGURES = "figures.json"


def run(
    output: str | Path,
    frames: str | Path | None = None,
    device: str = "auto",
    quality: str = "best",
    say: Callable[[str], Any] = print,
) -> dict[str, Any]:
    """Writes pictures, flow.flo and friends, figures.json and figures.md below `output`; returns the figures.

    `frames` is the folder of example frames (default: the package's own). A checkpoint that didn't come with the package is
    left out and `say` tells. `quality` of flow: see `Predictor.load`. Raises FileNotFoundError where the frames are missing.
    """
    output = Path(output)
    folder = Path(frames) if frames is not None else bundled.examples_folder()
    wanted = sorted({name for pair in bundled.PAIRS for name in pair} | set(bundled.SEGMENTED) | set(bundled.MEASURED))
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(f"{folder}: the example frames {', '.join(missing)} are missing")
    with made_folder(output), locked(output, "writing a demo into it", stays=False):
        results: dict[str, Any] = {"machine": _machine()}
        _refuse_others(output)
        _write(output / FIGURES, json.dumps(results))  # whose folder it is, also where this is interrupted
        present = bundled.folders()
        flow = partial(_flow, quality=quality)
        for name, show in (("winwin-flow", flow), ("winwin-seg", _segment), ("winwin-depth", _depth)):
            if name not in present:
                say(f"{name}: not in this package, left out")
                results[name] = None
                continue
            say(f"{name}: running")
            results[name] = show(name, folder, output, device, say)

        _write(output / FIGURES, json.dumps(results, indent=2) + "\n")
        _write(output / "figures.md", _markdown(results))
        say(f"pictures and figures: {output.absolute()}")
    return results


def _refuse_others(output: Path) -> None:
    """Raises FileExistsError for a folder with files that no demo wrote: some of them may have the names of a demo's."""
    try:
        ours = "machine" in read_json(output / FIGURES)
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours and any(not path.name.startswith(".") for path in output.iterdir()):
        raise FileExistsError(f"{output}: holds files, and no {FIGURES} of a demo; expected a new folder, or a demo's")


def _flow(
    name: str, folder: Path, output: Path, device: str, say: Callable[[str], Any], quality: str
) -> list[dict[str, Any]]:
    predictor = Predictor.load(name, "optical-flow", device, quality=quality)
    say(f"  quality {quality}, the other is {'best' if quality == 'fast' else 'fast'} (--quality)")
    rows = []
    for number, (file1, file2) in enumerate(bundled.PAIRS, start=1):
        frame1, frame2 = formats.read_image(folder / file1), formats.read_image(folder / file2)
        result = predictor(frame1, frame2)
        flow = result.values
        # The first pair is what a person looks for: it has the plain name.
        stem = "flow" if number == 1 else f"flow_{number}"
        formats.write_flo(output / f"{stem}.flo", flow.transpose(1, 2, 0))
        before, after = (_difference(frame1, picture) for picture in (frame2, drawing.warp(frame2, flow)))
        errors = figures.photometric_errors(frame1, frame2, flow)
        sheet = sheets.panel(
            [
                ("frame 1", frame1),
                (f"flow (full colour: {np.hypot(*flow).max():.1f} px)", sheets.flow_picture(flow)),
                ("frame 2", frame2),
                ("frame 2 warped to frame 1 by the flow", drawing.warp(frame2, flow)),
                (f"|frame 1 - frame 2| (times 3), mean {errors['unwarped']:.2f}", before),
                (f"|frame 1 - warped frame 2| (times 3), mean {errors['warped']:.2f}", after),
            ]
        )
        formats.save_image(output / f"{stem}.png", sheet)
        rows.append(
            {
                "frames": [file1, file2],
                "quality": quality,
                "size": _size(frame1),
                "seconds": round(result.seconds, 3),
                "mean_flow_px": round(figures.mean_magnitude(flow), 3),
                "largest_flow_px": round(float(np.hypot(*flow).max()), 3),
                "photometric_error": {key: round(value, 4) for key, value in errors.items()},
                "files": [f"{stem}.flo", f"{stem}.png"],
            }
        )
        say(
            f"  {file1} -> {file2}: {frame1.shape[1]} x {frame1.shape[0]}, {result.seconds:.2f} s, mean |flow| "
            f"{rows[-1]['mean_flow_px']:.2f} px, |frame 1 - frame 2| {errors['unwarped']:.2f} -> {errors['warped']:.2f} warped"
        )
    return rows


def _segment(name: str, folder: Path, output: Path, device: str, say: Callable[[str], Any]) -> list[dict[str, Any]]:
    predictor = Predictor.load(name, "semantic-segmentation", device)
    names = predictor.labels or ()
    rows = []
    for file in bundled.SEGMENTED:
        image = formats.read_image(folder / file)
        result = predictor(image)
        stem = f"segmentation_{Path(file).stem}"
        formats.write_labels(output / f"{stem}_labels.png", result.values)
        formats.save_image(output / f"{stem}.png", sheets.panel(sheets.segmentation_pair(image, result.values, names)))
        shares = figures.label_shares(result.values, names)
        rows.append(
            {
                "image": file,
                "size": _size(image),
                "seconds": round(result.seconds, 3),
                "shares": {key: round(value, 4) for key, value in shares.items()},
                "files": [f"{stem}_labels.png", f"{stem}.png"],
            }
        )
        top = ", ".join(f"{key} {value:.0%}" for key, value in list(shares.items())[:4])
        say(f"  {file}: {image.shape[1]} x {image.shape[0]}, {result.seconds:.2f} s, {top}")
    return rows


def _depth(name: str, folder: Path, output: Path, device: str, say: Callable[[str], Any]) -> list[dict[str, Any]]:
    predictor = Predictor.load(name, "depth-estimation", device)
    rows = []
    for file in bundled.MEASURED:
        image = formats.read_image(folder / file)
        result = predictor(image)
        low, middle, high = (float(value) for value in np.percentile(result.values, (1, 50, 99)))
        stem = f"depth_{Path(file).stem}"
        formats.write_depth(output / f"{stem}_mm.png", result.values)
        titled = [
            ("image", image),
            (f"depth, {low:.2f} m (pale) to {high:.2f} m (dark)", sheets.depth_picture(result.values)),
        ]
        formats.save_image(output / f"{stem}.png", sheets.panel(titled))
        rows.append(
            {
                "image": file,
                "size": _size(image),
                "seconds": round(result.seconds, 3),
                "depth_m": {"1 %": round(low, 3), "median": round(middle, 3), "99 %": round(high, 3)},
                "files": [f"{stem}_mm.png", f"{stem}.png"],
            }
        )
        say(
            f"  {file}: {image.shape[1]} x {image.shape[0]}, {result.seconds:.2f} s, median {middle:.2f} m ({low:.2f} to {high:.2f})"
        )
    return rows


def _markdown(results: dict[str, Any]) -> str:
    lines = ["# What the bundled checkpoints do on the example frames", "", results["machine"], ""]
    lines += ["Seconds are of a single run; the first of each table includes warming up.", ""]
    if results["winwin-flow"]:
        lines += [
            "## winwin-flow",
            "",
            f"`--quality {results['winwin-flow'][0]['quality']}`.",
            "",
            "Photometric error: mean |frame 1 - frame 2| (0 to 255) where the match lies inside frame 2, before and after warping.",
            "",
            "| frames | size | seconds | mean flow | largest | photometric error | warped |",
            "|---|---|---|---|---|---|---|",
        ]
        for row in results["winwin-flow"]:
            error = row["photometric_error"]
            lines.append(
                f"| {' -> '.join(row['frames'])} | {row['size'][0]}x{row['size'][1]} | {row['seconds']:.2f} | "
                f"{row['mean_flow_px']:.2f} px | {row['largest_flow_px']:.1f} px | {error['unwarped']:.2f} | {error['warped']:.2f} |"
            )
        lines.append("")
    if results["winwin-seg"]:
        lines += ["## winwin-seg", "", "| image | size | seconds | classes |", "|---|---|---|---|"]
        for row in results["winwin-seg"]:
            shares = ", ".join(f"{key} {value:.0%}" for key, value in row["shares"].items() if value >= 0.005)
            lines.append(f"| {row['image']} | {row['size'][0]}x{row['size'][1]} | {row['seconds']:.2f} | {shares} |")
        lines.append("")
    if results["winwin-depth"]:
        lines += [
            "## winwin-depth",
            "",
            "| image | size | seconds | 1 % | median | 99 % |",
            "|---|---|---|---|---|---|",
        ]
        for row in results["winwin-depth"]:
            depths = " | ".join(f"{value:.2f} m" for value in row["depth_m"].values())
            lines.append(f"| {row['image']} | {row['size'][0]}x{row['size'][1]} | {row['seconds']:.2f} | {depths} |")
        lines.append("")
    for name in ("winwin-flow", "winwin-seg", "winwin-depth"):
        if results[name] is None:
            lines += [f"{name}: not in this package.", ""]
    return "\n".join(lines)


def _machine() -> str:
    accelerator = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    )
    return f"{accelerator}; torch {torch.__version__}, transformers {transformers.__version__}, {platform.system()}"


def _difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """|first - second|, three times as bright, so that small differences show."""
    difference = np.abs(first.astype(np.float32) - second.astype(np.float32))
    return np.minimum(3 * difference, 255).astype(np.uint8)


def _write(path: Path, text: str) -> None:
    with formats.write_atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _size(image: np.ndarray) -> list[int]:
    """[width, height]"""
    return [image.shape[1], image.shape[0]]
