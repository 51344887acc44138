"""Each test of training begins as a process of its own would: without the Accelerator of the test before."""

import pytest
from accelerate.state import AcceleratorState, GradientState


@pytest.fixture(autouse=True)
def no_accelerator_yet() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
