"""Importing a module of ours right after another package's import, so that `import winwin_hf` alone stays cheap."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType


class _ImportAfter:
    """A finder of `sys.meta_path`: finds `package` as the others do and, after its first import, imports `follower`."""

    def __init__(self, package: str, follower: str):
        self.package, self.follower = package, follower

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self.package:
            return None
        others = (finder for finder in list(sys.meta_path) if finder is not self)
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is None or spec.loader is None:
            return spec
        loader = spec.loader
        execute = loader.exec_module

        def execute_and_follow(module: ModuleType) -> None:
            execute(module)
            if self in sys.meta_path:  # a specification may be looked up more often than it is loaded
                sys.meta_path.remove(self)
                import_module(self.follower)

        # On the loader itself, so that its other methods and its type stay what they are.
        loader.exec_module = execute_and_follow  # type: ignore[method-assign]
        return spec


def import_after(package: str, follower: str) -> None:
    """Imports the module `follower` now if `package` is imported, otherwise right after its import."""
    if package in sys.modules:
        import_module(follower)
        return
    pending = [f for f in sys.meta_path if isinstance(f, _ImportAfter) and f.follower == follower]
    if not pending:  # a reload of winwin_hf
        sys.meta_path.insert(0, _ImportAfter(package, follower))
