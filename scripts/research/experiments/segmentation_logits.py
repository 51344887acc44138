"""Segmentation on CamVid with attention logits scaled by the number of tokens at test."""

from __future__ import annotations

import math

from research import drawing
from research.experiments.context import Context, Experiment
from research.experiments.results import write_result
from research.experiments.segmentation_kinds import FRAME, KINDS, across, recipe_of, scores, setting, tokens, train
from research.experiments.summaries import plus_minus, seeds_text
from research.sizes import grid_of

LOGIT_SCALES = (1.0, 1.5, 2.0)


def logit_scaling(context: Context) -> None:
    """Attention logits times log(tokens at test) / log(tokens in training)."""
    name = "logit-scaling-segmentation"
    keys = ["windows", "crops"]
    folders = train(context, keys)
    rows, kinds, lines = [], [], []
    as_trained, with_factor = (scores(context, folders, LOGIT_SCALES, logits) for logits in (False, True))
    for key in keys:
        kept = tokens(recipe_of(key).windows, grid_of(*FRAME))
        plain, scaled = as_trained[key], with_factor[key]
        for scale in LOGIT_SCALES:
            height, width = grid_of(*(round(side * scale) for side in FRAME))
            factor = math.log(height * width) / math.log(kept)
            pairs = zip(plain[scale], scaled[scale], strict=True)
            gains = [b - a for a, b in pairs if a is not None and b is not None]
            without, with_ = plus_minus(plain[scale]), plus_minus(scaled[scale])
            rows.append(
                [KINDS[key].label, f"{scale:g}x", kept, height * width, f"{factor:.2f}", len(gains), without, with_]
                + [plus_minus(gains, 2)]
            )
            kinds.append({"key": key, "scale": scale, "factor": factor, "plain": plain[scale], "scaled": scaled[scale]})
        for label, values in (("as trained", plain), ("logits scaled", scaled)):
            lines.append(drawing.Line(key, f"{KINDS[key].label}, {label}", across(values), dashed=values is scaled))
    if any(line.points for line in lines):
        drawing.curves(
            context.output / f"{name}.png",
            lines,
            "test resolution, of 360x480",
            "mIoU of val, %",
            "Attention logits scaled with the number of tokens at test",
            f"CamVid, one pass, {seeds_text([len(line.points) for line in lines])}",
            ticks=LOGIT_SCALES,
        )
    columns = ["training", "test at", "tokens in training", "tokens at test", "factor", "seeds"]
    result = {
        "title": "Attention logits scaled with the number of tokens at test",
        "about": setting(
            "Softmax over more keys is flatter. Multiplying the logits by log(tokens at test) / log(tokens in training) can "
            "compensate for that. The factor is applied to all blocks of finished models, without training."
        ),
        "kinds": kinds,
        "tables": [
            {
                "columns": [*columns, "mIoU as trained", "mIoU, logits scaled", "gain"],
                "rows": rows,
                "note": "mIoU in percent, mean over the seeds ± half their range; the gain is the mean of the seeds' gains.",
            }
        ],
    }
    write_result(context, name, result)


EXPERIMENTS: dict[str, Experiment] = {
    "logit-scaling-segmentation": Experiment(
        logit_scaling, "Attention logits scaled with the token count at test", ("camvid",), 0.1
    ),
}
