"""The entry point of the command `winwin`. It lies beside the package, which imports torch and transformers: see winwin_hf/__init__.py."""

import signal
import sys
from collections.abc import Sequence

sys.modules.setdefault("winwin_command", sys.modules[__name__])  # also as `python -m winwin_command`


def app(arguments: Sequence[str] | None = None) -> None:
    """Runs the command. Until it begins, and after its end, Ctrl-C ends the process at once and without a word."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # not of a shell's background job
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from winwin_hf.cli.main import app as commands

    commands(arguments, prog_name="winwin")


if __name__ == "__main__":
    app()
