"""The demo's modules, for tests that call them."""

from __future__ import annotations

import importlib
import sys
import types

import pytest
from support import space_server

MODULES = ("inputs", "networks", "views", "mesh", "events", "beforehand", "app")


@pytest.fixture(scope="module")
def space() -> types.SimpleNamespace:
    """The modules beside app.py. Their names are short, so they are taken out of sys.modules again."""
    sys.path.insert(0, str(space_server.SPACE))
    try:
        return types.SimpleNamespace(**{name: importlib.import_module(name) for name in MODULES})
    finally:
        sys.path.remove(str(space_server.SPACE))
        for name in MODULES:
            sys.modules.pop(name, None)
