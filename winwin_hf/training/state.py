"""The state of a training on disk: written as a whole, resumed exactly."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel

from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.training.adapters import merged
from winwin_hf.training.recipe import Recipe, dump_recipe, load_recipe

STATE = "state-{:08d}"
# Sections that may differ between a training and its resumption; all others must be the same.
FREE = {"evaluation", "output", "save_every", "log_every", "trackers"}


@dataclass
class Spent:
    """
    Time of all steps, over every resumption, without evaluations and states.

    Attributes:
        seconds: wall-clock time.
        cpu_seconds: of this process's cores.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def start(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._started[0]
        self.cpu_seconds += time.process_time() - self._started[1]


def latest_state(output: Path) -> Path | None:
    """The newest complete state of a training."""
    states = sorted(p for p in output.glob("state-*") if p.is_dir() and p.suffix != ".tmp")
    return states[-1] if states else None


def save_state(accelerator: Accelerator, output: Path, step: int, average: AveragedModel | None, spent: Spent) -> None:
    """Writes a state beside the last one, then removes the last one: at no moment is there none."""
    final = output / STATE.format(step)
    if final.exists():
        return
    temporary = final.with_suffix(".tmp")
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary), safe_serialization=True)
    if accelerator.is_main_process:
        if average is not None:
            frozen = frozen_in(average)
            averaged = {name: tensor for name, tensor in average.state_dict().items() if name not in frozen}
            save_file(averaged, temporary / "average.safetensors")
        (temporary / "state.json").write_text(json.dumps({"step": step, **asdict(spent)}))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        temporary.replace(final)
        for old in output.glob("state-*"):
            if old != final:
                shutil.rmtree(old)
    accelerator.wait_for_everyone()


def read_progress(state: Path) -> tuple[int, Spent]:
    """The optimiser step that a state was saved after, and the time spent until then."""
    stored = json.loads((state / "state.json").read_text())
    return stored.pop("step"), Spent(**stored)


def load_state(accelerator: Accelerator, state: Path, average: AveragedModel | None) -> None:
    """Restores model, optimiser, random states and average. Accelerate unpickles none of them."""
    accelerator.load_state(str(state))
    if average is not None:
        averaged = load_file(state / "average.safetensors", device=str(accelerator.device))
        missing, unexpected = average.load_state_dict(averaged, strict=False)
        wrong = [*unexpected, *(name for name in missing if name not in frozen_in(average))]
        if wrong:
            raise ValueError(
                f"{state / 'average.safetensors'}: not an average of this model; {wrong[0]} is in one of both only"
            )


def frozen_in(average: AveragedModel) -> set[str]:
    """Names of the parameters that aren't trained, and so are the model's own."""
    return {name for name, parameter in average.named_parameters() if not parameter.requires_grad}


def save_model(model: Any, output: Path, recipe: Recipe, processor: WinWinImageProcessor) -> Path:
    """Writes output/model, which `AutoModel.from_pretrained` and `AutoImageProcessor.from_pretrained` load; returns it."""
    final, temporary = output / "model", output / "model.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    merged(model).save_pretrained(temporary)
    processor.save_pretrained(temporary)
    (temporary / "recipe.yaml").write_text(dump_recipe(recipe))
    shutil.rmtree(final, ignore_errors=True)
    temporary.replace(final)
    return final


def check_same_recipe(recipe: Recipe, output: Path) -> None:
    """Raises ValueError where the training in `output` was started with another recipe."""
    before, now = (flatten(asdict(found)) for found in (load_recipe(output / "recipe.yaml"), recipe))
    changed = [
        f"{key}: {before.get(key)!r}, now {now.get(key)!r}"
        for key in {**before, **now}
        if key.partition(".")[0] not in FREE and before.get(key) != now.get(key)
    ]
    if changed:
        raise ValueError(
            f"{output}: this training was started with another recipe ({'; '.join(changed)}); "
            "resume with the same recipe, or choose another output folder"
        )


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return flat
