"""The library that huggingface_hub sends requests with: httpx, or a successor of it."""

from __future__ import annotations

import importlib
from typing import Any

from huggingface_hub import get_session

http_library: Any = importlib.import_module(type(get_session()).__mro__[-2].__module__.partition(".")[0])
