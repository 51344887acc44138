"""Workers' imports, which take as long as a hundred small pictures, begin while the command makes its own. Imports nothing heavy itself."""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver

from winwin_hf.pools import blocked_signals


def start_method() -> str:
    """How worker processes begin: as copies of one that has imported what they need; where the system can't, by importing it each."""
    return "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"


def import_early() -> None:
    """Starts that process. Without effect where this one has it already."""
    if start_method() == "forkserver":
        multiprocessing.get_context("forkserver").set_forkserver_preload(["winwin_hf.inference.bulk.work"])
        with blocked_signals():  # this command alone ends it, and its copies
            multiprocessing.forkserver.ensure_running()
