"""Where tests find things."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
FRAMES = TESTS / "frames"  # tiny frames in each benchmark's real layout
EXAMPLES = ROOT / "spaces" / "winwin-demo" / "examples"
RECIPES = ROOT / "winwin_hf" / "recipes"
# Real data sets, which a checkout doesn't have; tests that need them are skipped where they are missing.
TEST_DATA = Path(os.environ.get("WINWIN_TEST_DATA") or ROOT.parent / "shared" / "data")
NO_REAL_DATA = "no real data"  # how the reason of a skipped test begins, before the path that is missing
HANGS_AFTER = (
    500  # seconds; a guard only, below pytest's faulthandler_timeout: a busy machine takes minutes for an import
)
REFERENCE = TEST_DATA.parent / "reference"  # numeric references of other implementations
