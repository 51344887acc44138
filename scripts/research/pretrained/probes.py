"""Measurements of pre-trained encoders' architectures, each in a process of its own.

python scripts/research/pretrained/probes.py '{"probe": "peer", "family": "dinov3", "size": "S", ...}'
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).resolve().parents[2]))

from research.cost.meter import Meter
from research.cost.training import train_step
from research.pretrained.encoders import random_encoder, save_random
from winwin_hf import WinWinModel

SIDES = ("transformers", "ours")


def network(side: str, family: str, size: str, blocks: int | None = None) -> Any:
    """The encoder as transformers' class or as ours, with the same random weights and SDPA."""
    if side == "transformers":
        theirs = random_encoder(family, size, blocks)
        theirs.set_attn_implementation("sdpa")
        return theirs
    with tempfile.TemporaryDirectory() as folder:
        ours: Any = WinWinModel.from_encoder(str(save_random(family, size, Path(folder), blocks))).eval()
    ours.set_attn_implementation("sdpa")
    return ours


def frame_of(patch: int, height: int, width: int) -> torch.Tensor:
    """A frame of noise, padded to whole patches."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, 3, -(-height // patch) * patch, -(-width // patch) * patch, generator=generator)


@torch.inference_mode()
def peer(family: str, size: str, height: int, width: int, rounds: int, blocks: int | None) -> dict[str, Any]:
    """CPU seconds of a pass over a frame, transformers' and ours in turns, and how far the last hidden states differ."""
    models, meter, last = {side: network(side, family, size, blocks) for side in SIDES}, Meter(), {}
    patch = models["ours"].config.patch_size
    frame = frame_of(patch, height, width)
    for model in models.values():
        model(frame_of(patch, 8 * patch, 8 * patch))
    for turn in range(rounds):
        for side in SIDES if turn % 2 else SIDES[::-1]:
            with meter.timed(side):
                last[side] = models[side](frame).last_hidden_state
    difference = (last["ours"] - last["transformers"]).abs().max() / last["transformers"].abs().max()
    return {"cpu_seconds": meter.cpu_seconds, "difference": float(difference)}


@torch.inference_mode()
def memory(family: str, size: str, height: int, width: int, blocks: int | None, side: str) -> dict[str, Any]:
    """Memory of a pass over a frame beyond the idle process with the model, after a pass over a small one."""
    model, meter = network(side, family, size, blocks), Meter()
    patch = model.config.patch_size
    model(frame_of(patch, 8 * patch, 8 * patch))
    frame = frame_of(patch, height, width)
    meter.start_memory()
    model(frame)
    return meter.memory()


def step(family: str, size: str, head: str, **arguments: Any) -> Any:
    """Training steps on a batch of noise; arguments of `train_step`."""
    with tempfile.TemporaryDirectory() as folder:
        init = str(save_random(family, size, Path(folder)))
        model = {"init": init, "config": {"head_type": head}}
        return train_step(Path(folder), model=model, loader=False, **arguments)


PROBES = {"peer": peer, "memory": memory, "step": step}


def main(request: str) -> None:
    """Runs the measurement of a JSON request and prints its figures as the last line."""
    options = json.loads(request)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    print(json.dumps(PROBES[options.pop("probe")](**options)))


if __name__ == "__main__":
    main(sys.argv[1])
