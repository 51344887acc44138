"""Are numbers unchanged? Losses and weights of three short trainings, and the bundled checkpoints' outputs, as a JSON of two commits.

    git worktree add ../before COMMIT
    PYTHONPATH=../before python scripts/research/fingerprint.py before.json DATA
    python scripts/research/fingerprint.py after.json DATA --compare before.json

DATA stands for `--textures FOLDER --camvid FOLDER --room FOLDER`. A training whose data isn't named is left out. The package that
PYTHONPATH names is measured. On a CPU with the same number of threads the same code gives the same bits; two machines may differ.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoImageProcessor, AutoModel

import winwin_hf
from winwin_hf import bundled
from winwin_hf.cli.arguments import check_output
from winwin_hf.cli.errors import UsageError, one_line_errors
from winwin_hf.data.formats.files import read_json, write_atomic
from winwin_hf.training.loop import train

PACKAGE = Path(winwin_hf.__file__).resolve().parent
SHORT = [
    "optimization.steps=6",
    "optimization.warmup_steps=2",
    "save_every=6",
    "log_every=1",
    "evaluation.sets=[]",
    "evaluation.windows=4",
    "trackers=[]",
]


def digest(tensor: torch.Tensor) -> str:
    """SHA-256 of a tensor's kind, shape and values."""
    found = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    found.update(
        np.ascontiguousarray(tensor.float().numpy())
    )  # NumPy has no bfloat16; all of its values are exact in float32
    return found.hexdigest()


def training(recipe: str, overrides: list[str]) -> dict[str, Any]:
    """Losses and gradient norms of six steps, the windows' scores, and the SHA-256 of the weights."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = train(PACKAGE / "recipes" / f"{recipe}.yaml", f"{temporary}/run", False, [*SHORT, *overrides])
        lines = [json.loads(line) for line in (Path(temporary) / "run" / "metrics.jsonl").read_text().splitlines()]
        weights = load_file(folder / "model.safetensors")
    steps = [line for line in lines if "loss" in line and "norm" in line]
    scores = [line["windows"] for line in lines if "windows" in line]
    return {
        "losses": [step["loss"] for step in steps],
        "norms": [step["norm"] for step in steps],
        "windows": [{key: value for key, value in score.items() if key != "seconds"} for score in scores],
        "weights": {name: digest(weights[name]) for name in sorted(weights)},
    }


def outputs() -> dict[str, Any]:
    """Checkpoint -> frame -> SHA-256 of what the network returns for the demo's example frames."""
    folder = bundled.examples_folder()
    found: dict[str, Any] = {}
    for name, checkpoint in bundled.folders().items():
        model, processor = (
            AutoModel.from_pretrained(checkpoint, trust_remote_code=False).eval(),
            AutoImageProcessor.from_pretrained(checkpoint, trust_remote_code=False),
        )
        pairs = type(model).__name__ == "WinWinForOpticalFlow"
        frames = bundled.PAIRS if pairs else [(path.name,) for path in sorted(folder.glob("*.jpg"))]
        found[name] = {}
        for names in frames:
            first, *second = [Image.open(folder / file) for file in names]
            others = {"second_images": second[0]} if second else {}
            with torch.inference_mode():
                result = model(**processor(images=first, **others, return_tensors="pt"))
            tensors = {key: value for key, value in result.items() if isinstance(value, torch.Tensor)}
            found[name][" ".join(names)] = {key: digest(value) for key, value in tensors.items()}
    return found


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """One line for each value that isn't the same in both."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            if key in before and key in after:
                yield from differences(before[key], after[key], f"{where}/{key}")
            else:
                yield f"{where}/{key}: only {'before' if key in before else 'after'}"
    elif before != after:
        yield f"{where}: {before} before, {after} after"


def main(
    output: Annotated[Path, typer.Argument(help="The JSON file to write.")],
    textures: Annotated[Path | None, typer.Option(exists=True, help="Photographs, for `flow-synthetic`.")] = None,
    camvid: Annotated[Path | None, typer.Option(exists=True, help="CamVid, for `camvid`.")] = None,
    room: Annotated[Path | None, typer.Option(exists=True, help="A room of 7-Scenes, for `depth-rooms`.")] = None,
    compare: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="An earlier file: print what differs, exit 1 if anything does."),
    ] = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Another number sums in another order, so compare equal ones only.")
    ] = 2,
) -> None:
    """Writes what the package computes, and compares it with an earlier file."""
    check_output("OUTPUT", output)
    if room is not None and textures is None:
        raise UsageError("--room: `depth-rooms` needs photographs too; expected --textures with it")
    earlier = None if compare is None else read_json(compare)
    torch.set_num_threads(threads)
    found: dict[str, Any] = {"threads": threads, "outputs": outputs()}
    if textures is not None:
        found["flow"] = training("flow-synthetic", [f"data.path={textures}"])
    if camvid is not None:
        found["camvid"] = training("camvid", [f"data.path={camvid}", "optimization.batch_size=4"])
    if textures is not None and room is not None:
        found["depth"] = training("depth-rooms", [f"data.sets.0.path={room}", f"data.sets.1.path={textures}"])
    with write_atomic(output) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(f"{output}: {', '.join(found)} of {PACKAGE}")
    if compare is not None:
        lines = list(differences(earlier, found))
        print("\n".join(lines) or f"the same as {compare}")
        raise typer.Exit(bool(lines))


if __name__ == "__main__":
    typer.run(one_line_errors(main))
