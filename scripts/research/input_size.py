"""
How a network of depth or segmentation depends on the size of its input: scores and metres at several longest edges.

`python scripts/research/input_size.py winwin-depth --data middlebury-depth=FOLDER --edge 480 --edge 640` finds the working size for a
checkpoint's processor (`size`). `--saved` also resizes each frame first, as users save their photographs.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

sys.path.append(str(Path(__file__).resolve().parents[1]))

from research.files import write_json
from winwin_hf.cli.arguments import check_output
from winwin_hf.cli.errors import UsageError, misuse, one_line_errors
from winwin_hf.data.sources import open_source
from winwin_hf.evaluation.figures import figure_text
from winwin_hf.evaluation.run import OTHERS, catalog, check_data, parse_data
from winwin_hf.evaluation.scoring import new_metric, read_frame
from winwin_hf.inference.predictor import Predictor
from winwin_hf.task import TASKS


def main(
    checkpoint: Annotated[str, typer.Argument(help="A bundled name, a folder or a Hub repository.")],
    data: Annotated[list[str], typer.Option(metavar="NAME[:SPLIT]=PATH", help="As of `winwin evaluate`; repeatable.")],
    edge: Annotated[
        list[int] | None,
        typer.Option(min=0, max=8192, help="Longest edge of the network's input; 0: the frame's own. Repeatable."),
    ] = None,
    saved: Annotated[
        list[int] | None,
        typer.Option(
            min=0,
            max=8192,
            help="Longest edge at which each frame is saved before; 0: its own. Repeatable. Default: 0.",
        ),
    ] = None,
    length: Annotated[int | None, typer.Option(min=1, help="Use the first N examples of each set.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write all figures (.json).")] = None,
) -> None:
    """Score CHECKPOINT at each input size. Default: as its processor says."""
    if output is not None:
        check_output("--output", output, (".json",))
    with misuse():  # of all sets, before the first one is scored
        check_data(data, {}, length)
    predictor, rows = Predictor.load(checkpoint), []
    if predictor.task == "optical-flow":
        raise UsageError(f"{checkpoint}: a network of flow; expected one of depth or segmentation")
    for item in data:
        name, split, path = parse_data(item)
        split = split or ("val" if name in OTHERS else catalog.entry_of(name).scored)
        source = open_source(name, path, split)
        for before in saved or [0]:
            for wanted in edge or [None]:
                if wanted is not None:
                    predictor.processor.do_resize = wanted > 0
                    if wanted:
                        predictor.processor.size = {"longest_edge": wanted}
                rows.append(
                    {
                        "data": item.partition("=")[0],
                        "saved": before,
                        "edge": wanted,
                        **measure(predictor, source, before, length),
                    }
                )
    show(rows, TASKS[predictor.task].figure)
    if output is not None:
        write_json(output, {"command": " ".join(["python", *sys.argv]), "rows": rows})


def measure(predictor: Predictor, source: Any, saved: int, length: int | None) -> dict[str, Any]:
    """The metric's figures; for depth also the mean over frames of the predicted median, in metres and over the true one."""
    metric = new_metric(source, labels=predictor.labels, synonyms=predictor.synonyms)
    medians, scales = [], []
    for example in tqdm(source.examples(length), source.name, leave=False, mininterval=1):
        frame = read_frame(source, example)
        height, width = frame.image.shape[:2]
        prediction = predictor(with_longest_edge(frame.image, saved)).values
        if prediction.shape != (height, width):
            shape = (width, height)
            how = cv2.INTER_LINEAR if predictor.task == "depth-estimation" else cv2.INTER_NEAREST
            prediction = cv2.resize(prediction, shape, interpolation=how)
        metric.update(metric.fitted(prediction), frame.target)
        if predictor.task == "depth-estimation":
            known = np.isfinite(frame.target) & (frame.target > 0)
            medians.append(np.median(prediction))
            scales.append(np.median(prediction[known]) / np.median(frame.target[known]))
    means = {"median_m": np.mean(medians), "scale": np.mean(scales)} if medians else {}
    return {**metric.compute(), **means}


def with_longest_edge(image: np.ndarray, edge: int) -> np.ndarray:
    """The image (H, W, 3) resized to that longest edge in pixels; as it is for 0."""
    factor = edge / max(image.shape[:2])
    if not edge or factor == 1:
        return image
    size = round(image.shape[1] * factor), round(image.shape[0] * factor)
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC)


def show(rows: list[dict[str, Any]], figure: str) -> None:
    keys = [key for key in (figure, "delta1", "accuracy", "median_m", "scale") if key in rows[0]]
    table = Table("set", "saved at", "longest edge", *keys)
    for row in rows:
        edge = "as the processor says" if row["edge"] is None else str(row["edge"] or "own")
        table.add_row(row["data"], str(row["saved"] or "own"), edge, *(figure_text(row[key]) for key in keys))
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(one_line_errors(main))
