"""Writes tests/frames/timm: timm's encoders at small sizes with random weights, and the tokens that timm computes with them.

    PYTHONPATH=tests python tests/frames/make_timm_encoders.py

Needs timm (1.0.31 made these files), which the tests don't. Nothing in them comes from weights that somebody trained.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from support.timm_encoders import ARCHITECTURES, FRAMES, SMALL, make, save, tokens_of


def main() -> None:
    for name in ARCHITECTURES:
        folder = Path(__file__).with_name("timm") / name
        model = make(name)
        save(model, folder)
        tensors = {}
        for frame, (rows, columns) in FRAMES.items():
            pixels = torch.randn(1, 3, rows * SMALL["patch_size"], columns * SMALL["patch_size"])
            blocks, last = tokens_of(model, pixels)
            tensors |= {f"{frame}.pixels": pixels, f"{frame}.last": last}
            tensors |= {f"{frame}.block{i}": tokens.clone() for i, tokens in enumerate(blocks)}
        save_file(tensors, folder / "expected.safetensors")


if __name__ == "__main__":
    main()
