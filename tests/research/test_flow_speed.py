"""scripts/research/flow_speed.py: a checkout is measured by its own code, and its answers name what was asked."""

from __future__ import annotations

import shutil
from contextlib import ExitStack

import numpy as np
import pytest
from research.flow_speed import Checkout
from support.model_cases import make
from support.places import ROOT

from winwin_hf import WinWinImageProcessor


def test_a_checkout_is_measured_by_its_own_code(tmp_path):
    folder, other = tmp_path / "flow", tmp_path / "other"
    model = make("optical-flow", "refinement")
    model.save_pretrained(folder)
    WinWinImageProcessor(patch_size=model.config.patch_size).save_pretrained(folder)
    shutil.copytree(
        ROOT / "winwin_hf", other / "winwin_hf", ignore=shutil.ignore_patterns("checkpoints", "__pycache__")
    )
    shutil.copytree(ROOT / "spaces" / "winwin-demo" / "examples", other / "winwin_hf" / "examples", dirs_exist_ok=True)
    code = other / "winwin_hf" / "inference" / "predictor.py"
    before, after = (f'maps.pop("flow").float(){more}' for more in ("", " + 1"))
    assert before in code.read_text()
    code.write_text(code.read_text().replace(before, after))
    with ExitStack() as stack:
        flows = []
        for root in (ROOT, other):
            asked = {"way": "one pass", "size": [24, 40], "file": str(tmp_path / "flow.npy")}
            found = Checkout(root, str(folder), 1, stack).ask(what="pair", **asked)
            assert found["seconds"] > 0 and found["peak_gb"] > 0.1
            flows.append(np.load(asked["file"]))
    assert flows[0].shape == (2, 24, 40) and flows[1] - flows[0] == pytest.approx(1, abs=1e-4)
