"""The entry point of the command `winwin`. It lies beside the package, which imports torch and transformers: see winwin_hf/__init__.py."""

import atexit
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

THREADS_END_WITHIN = 1.0  # seconds, of a command that failed or was stopped

sys.modules.setdefault("winwin_command", sys.modules[__name__])  # also as `python -m winwin_command`


def app(arguments: Sequence[str] | None = None) -> None:
    """Runs the command. Until it begins, and after its end, Ctrl-C ends the process at once and without a word."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not of a shell's background job
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from winwin_hf.cli.errors import show_any_text
    from winwin_hf.cli.main import app as commands

    show_any_text()  # of --help too
    try:
        commands(arguments, prog_name="winwin")
    except SystemExit as end:
        if isinstance(end.code, int) and end.code:
            _leave_threads(end.code)
        raise


def _leave_threads(code: int) -> None:
    """Ends the process where threads still wait for a server that says nothing: Python would wait for them, a minute or more."""
    ends = time.monotonic() + THREADS_END_WITHIN
    others = [one for one in threading.enumerate() if not one.daemon and one is not threading.main_thread()]
    for thread in others:
        thread.join(max(0.0, ends - time.monotonic()))
    if any(thread.is_alive() for thread in others):
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # a full disk, or nobody reads
                stream.flush()
        os._exit(code)


if __name__ == "__main__":
    app()
