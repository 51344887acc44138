"""Each test of training begins as a process of its own would: without the Accelerator of the test before."""

import shutil
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState, GradientState
from support.forked_training import write_recipe
from support.recipes import RECIPE

from winwin_hf.training import loop
from winwin_hf.training.loop import train
from winwin_hf.training.state import latest_state

# Drop path grows from 0 in the first layer: with one layer nothing would be drawn.
DRAWING = {"config": {**RECIPE["model"]["config"], "num_hidden_layers": 2, "drop_path_rate": 0.5}}


@pytest.fixture(autouse=True)
def no_accelerator_yet() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """An uninterrupted training. Its recipe stands beside it, and all of its states, as it wrote them."""
    folder = tmp_path_factory.mktemp("trained")
    save = loop.save_state

    def keeping(accelerator, output, progress, *others):
        save(accelerator, output, progress, *others)
        shutil.copytree(latest_state(output), folder / "states" / latest_state(output).name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save_state", keeping)
        train(write_recipe(folder, model=DRAWING), output=folder / "run")
    return folder / "run"


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """A copy of it that was killed before the last step."""
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    shutil.rmtree(tmp_path / "run" / "state-00000004")
    kept = trained.parent / "states"
    for step in (2, 3):
        shutil.copytree(kept / f"state-{step:08d}", tmp_path / "run" / f"state-{step:08d}", dirs_exist_ok=True)
    return tmp_path / "run"
