"""The entry point of the command `winwin`. It lies beside the package, which imports torch and transformers: see winwin_hf/__init__.py."""

import sys

sys.modules.setdefault("winwin_command", sys.modules[__name__])  # also as `python -m winwin_command`

from winwin_hf.cli.main import app  # noqa: E402

__all__ = ["app"]

if __name__ == "__main__":
    app()
