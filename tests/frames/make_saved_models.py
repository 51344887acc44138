"""Writes tests/frames/saved/VERSION: small folders of each kind with random weights, as today's version saves them, and their predictions.

    PYTHONPATH=tests python tests/frames/make_saved_models.py

Run once before a release. What is there stays: later versions must go on loading it.
"""

from __future__ import annotations

from safetensors.torch import save_file
from support.saved_models import FOLDER, KINDS, make, predictions

from winwin_hf import WinWinImageProcessor, __version__


def main() -> None:
    for kind in KINDS:
        folder = FOLDER / __version__ / kind
        folder.mkdir(parents=True)  # an error where the version is kept already
        model = make(kind)
        model.save_pretrained(folder)
        WinWinImageProcessor(patch_size=model.config.patch_size).save_pretrained(folder)
        save_file(predictions(model), folder / "expected.safetensors")


if __name__ == "__main__":
    main()
