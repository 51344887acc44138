"""The drawing of README.md and docs/index.md: `python scripts/research/draw_idea.py docs/images/idea.jpg`.

Two example frames with the windows that a training would keep: those of frame 2 follow the flow that the bundled network predicts.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from PIL import Image, ImageDraw, ImageFont
from transformers import AutoImageProcessor, AutoModel

from winwin_hf import bundled
from winwin_hf.cli.arguments import check_output
from winwin_hf.cli.errors import one_line_errors
from winwin_hf.data.formats import write_atomic

EXAMPLES = Path(__file__).resolve().parents[2] / "spaces/winwin-demo/examples"
PATCH = 16
WINDOW, SECOND_WINDOW = 8, 12  # sides in patches
CORNERS = ((2, 20), (20, 43))  # (row, column) of each window's top-left patch in frame 1
COLOURS = ((230, 97, 1), (0, 114, 178))
SCALE = 0.6  # of the frames in the drawing
GAP, TOP, BOTTOM = 24, 46, 74


def patches(frame: Image.Image, colour: tuple[int, int, int] = (255, 255, 255)) -> Image.Image:
    """The frame with lines between its patches."""
    lined = frame.copy()
    draw = ImageDraw.Draw(lined)
    for x in range(0, frame.width, PATCH):
        draw.line([(x, 0), (x, frame.height)], fill=colour)
    for y in range(0, frame.height, PATCH):
        draw.line([(0, y), (frame.width, y)], fill=colour)
    return lined


def dropped(frame: Image.Image) -> Image.Image:
    """The frame as training sees it outside the windows: pale, with its patches."""
    grey = frame.convert("L").convert("RGB")
    return patches(Image.blend(grey, Image.new("RGB", frame.size, "white"), 0.6), (205, 205, 205))


def with_windows(frame: Image.Image, corners: list[tuple[int, int]], side: int) -> Image.Image:
    """The frame with windows of `side` patches in colour and all else dropped."""
    picture = dropped(frame)
    draw = ImageDraw.Draw(picture)
    for (row, column), colour in zip(corners, COLOURS, strict=True):
        box = tuple(PATCH * v for v in (column, row, column + side, row + side))
        picture.paste(patches(frame.crop(box)), box[:2])
        draw.rectangle(box, outline=colour, width=6)
    return picture


def predict(first: Image.Image, second: Image.Image) -> np.ndarray:
    """Flow (H, W, 2) in pixels, by the bundled network in one pass."""
    folder = bundled.CHECKPOINTS / "winwin-flow"
    model, processor = (
        AutoModel.from_pretrained(folder, trust_remote_code=False),
        AutoImageProcessor.from_pretrained(folder, trust_remote_code=False),
    )
    inputs = processor(images=first, second_images=second, return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    size = (first.height, first.width)
    flow = processor.post_process_optical_flow(outputs, target_sizes=[size])[0]["flow"]
    return flow.permute(1, 2, 0).float().numpy()


def follow(flow: np.ndarray) -> list[tuple[int, int]]:
    """Corners of frame 2's windows: centred where the median flow of each window of frame 1 leads."""
    rows, columns = flow.shape[0] // PATCH, flow.shape[1] // PATCH
    found = []
    for row, column in CORNERS:
        inside = flow[row * PATCH : (row + WINDOW) * PATCH, column * PATCH : (column + WINDOW) * PATCH]
        right, down = np.median(inside.reshape(-1, 2), axis=0) / PATCH
        margin = (SECOND_WINDOW - WINDOW) / 2
        corner = (round(row + down - margin), round(column + right - margin))
        found.append((min(max(corner[0], 0), rows - SECOND_WINDOW), min(max(corner[1], 0), columns - SECOND_WINDOW)))
    return found


def main(output: Annotated[Path, typer.Argument(help="The picture (.jpg).")]) -> None:
    """Draw the idea of the paper on two example frames."""
    check_output("OUTPUT", output, (".jpg",))
    first, second = (Image.open(EXAMPLES / f"bedroom_{k}.jpg").convert("RGB") for k in (1, 3))
    flow = predict(first, second)
    height = first.height // PATCH * PATCH
    kept = 2 * WINDOW**2
    total = (height // PATCH) * (first.width // PATCH)
    panels = [
        (with_windows(first, list(CORNERS), WINDOW), "Training, frame 1", f"2 windows: {kept} of {total:,} tokens"),
        (with_windows(second, follow(flow), SECOND_WINDOW), "Training, frame 2", "its windows follow the motion"),
        (patches(first), "Use, both frames", f"one pass over all {total:,} tokens, no tiles"),
    ]
    width, height = round(first.width * SCALE), round(height * SCALE)
    sheet = Image.new("RGB", (3 * width + 4 * GAP, height + TOP + BOTTOM), "white")
    draw = ImageDraw.Draw(sheet)
    bold, plain = ImageFont.truetype("DejaVuSans-Bold.ttf", 26), ImageFont.truetype("DejaVuSans.ttf", 23)
    for k, (picture, title, text) in enumerate(panels):
        x = GAP + k * (width + GAP)
        shown = picture.crop((0, 0, first.width, first.height // PATCH * PATCH))
        sheet.paste(shown.resize((width, height), Image.Resampling.LANCZOS), (x, TOP + 8))
        draw.text((x + width / 2, TOP / 2 + 2), title, font=bold, fill=(30, 30, 30), anchor="mm")
        draw.text((x + width / 2, TOP + height + 36), text, font=plain, fill=(60, 60, 60), anchor="mm")
    with write_atomic(output) as temporary:
        sheet.save(temporary, quality=82)


if __name__ == "__main__":
    typer.run(one_line_errors(main))
