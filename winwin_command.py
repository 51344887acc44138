"""The entry point of the command `winwin`. It lies beside the package, which imports torch and transformers: see winwin_hf/__init__.py."""

from winwin_hf.cli.main import app

__all__ = ["app"]

if __name__ == "__main__":
    app()
