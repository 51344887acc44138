"""A dataclass from plain values, such as a recipe's YAML: unknown keys and wrong types are errors that say where they stand."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

FORBID: dict[str, Any] = {
    "extra": "forbid"
}  # as `__pydantic_config__`: an unknown key of a nested dataclass is an error too
T = TypeVar("T")


def build(kind: type[T], values: dict[str, Any], where: str) -> T:
    """A dataclass from plain values; unknown keys and wrong types raise one ValueError that says where they stand."""
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = [str(key) for key in values if key not in known]
    if unknown:
        raise ValueError(f"{where}: unknown {', '.join(unknown)}; expected some of {', '.join(sorted(known))}")
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc'])) or kind.__name__}: {e['msg']}" for e in error.errors()]
        raise ValueError(f"{where}: " + "; ".join(lines)) from None
