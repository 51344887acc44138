"""A dataclass from plain values, such as a recipe's YAML: unknown keys and wrong types are errors that say where they stand."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from difflib import get_close_matches
from functools import cache
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import ConfigDict, TypeAdapter, ValidationError

# As `__pydantic_config__`: an unknown key of a nested dataclass is an error too, and so are NaN and infinity.
FORBID: dict[str, Any] = {"extra": "forbid", "allow_inf_nan": False}
T = TypeVar("T")
MAX_TEXT = 200_000  # characters of a YAML text, which is parsed in seconds, and values that it stands for


def build(kind: type[T], values: dict[str, Any], where: str) -> T:
    """A dataclass from plain values; unknown keys and wrong types raise one ValueError that says where they stand."""
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = [str(key) for key in values if key not in known]
    if unknown:
        raise ValueError(f"{where}: unknown {few(unknown)}; expected some of {', '.join(sorted(known))}")
    try:
        built = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        found = error.errors(include_url=False)
        lines = [
            f"{'.'.join(map(str, e['loc'])) or kind.__name__}: {_message(kind, e)}{_given(e['input'])}"
            for e in found[:8]
        ]
        more = f"; {len(found) - 8} more" if len(found) > 8 else ""
        raise ValueError(f"{where}: {'; '.join(lines)}{more}") from None
    if place := truth_as_number(values, built):
        raise ValueError(f"{where}: {place}: expected a number, got true or false")
    return built


@cache
def _field_adapter(kind: Any, name: str) -> TypeAdapter[Any]:
    """What checks a dataclass's field; made once, since settings are made anew for each scene."""
    return _adapter(get_type_hints(kind, include_extras=True)[name])


def _adapter(hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False))


def check_fields(values: Any, *names: str) -> None:
    """
    Makes the fields of a dataclass, or those that are named, plain values of their annotated types: numbers of NumPy would wrap around.

    Raises: ValueError, which names the field, where one isn't what its annotation says.
    """
    kind: Any = type(values)
    for name in names or [field.name for field in dataclasses.fields(kind)]:
        made = _checked(_field_adapter(kind, name), getattr(values, name), f"{kind.__name__}: {name}")
        object.__setattr__(values, name, made)


def checked_value(hint: Any, value: Any, where: str) -> Any:
    """A value as its type is. Raises ValueError, which says where it stands, for another."""
    return _checked(_adapter(hint), value, where)


def _checked(adapter: TypeAdapter[Any], value: Any, where: str) -> Any:
    given = value.tolist() if hasattr(value, "tolist") else value
    try:
        made = adapter.validate_python(given)
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        place = ".".join(map(str, (where, *found["loc"])))
        raise ValueError(f"{place}: {found['msg']}{_given(found['input'])}") from None
    if truth_as_number(given, made):
        raise ValueError(f"{where}: expected numbers, got true or false")
    return made


def check_order(values: Any, *names: str) -> None:
    """Raises ValueError where a pair isn't (least, greatest)."""
    for name in names:
        least, greatest = getattr(values, name)
        if least > greatest:
            raise ValueError(
                f"{type(values).__name__}: {name}: expected (least, greatest), got ({least:g}, {greatest:g})"
            )


def few(names: list[str]) -> str:
    """The first of many names, none of them long."""
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(name if len(name) <= 60 else f"{name[:60]}..." for name in names[:8]) + more


def truth_as_number(given: Any, built: Any) -> str:
    """Where a number was made of true or false, which pydantic takes for 1 and 0: "optimization.steps"; "" if nowhere."""
    if isinstance(given, bool):
        return "value" if isinstance(built, int | float) and not isinstance(built, bool) else ""
    pairs: Any = ()
    if isinstance(given, dict) and dataclasses.is_dataclass(built):
        pairs = ((name, value, getattr(built, name)) for name, value in given.items())
    elif isinstance(given, list) and isinstance(built, list | tuple):
        pairs = ((str(i), *pair) for i, pair in enumerate(zip(given, built, strict=False)))
    for name, value, made in pairs:
        if place := truth_as_number(value, made):
            return name if place == "value" else f"{name}.{place}"
    return ""


def _message(kind: Any, error: Any) -> str:
    """What pydantic says, without its own prefix and the name that `check_order` begins with."""
    if error["type"] == "unexpected_keyword_argument":
        near = get_close_matches(str(error["loc"][-1]), _fields_at(kind, error["loc"][:-1]), 1)
        return f"no such setting{'; did you mean ' + near[0] + '?' if near else ''}"
    return str(error["msg"]).removeprefix("Value error, ").removeprefix(f"{kind.__name__}: ")


def _fields_at(kind: Any, place: tuple[Any, ...]) -> list[str]:
    """The names of the fields of the dataclass that stands at a place within a dataclass; [] for what is none."""
    for name in place:
        if not isinstance(name, str):  # of a list
            continue
        kinds = [get_type_hints(kind).get(name)] if dataclasses.is_dataclass(kind) else []
        while kinds and not dataclasses.is_dataclass(kinds[0]):
            kinds = [*get_args(kinds[0]), *kinds[1:]]
        kind = kinds[0] if kinds else None
    return [field.name for field in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


def _given(value: Any) -> str:
    """What stood there, where it is short."""
    text = repr(value)
    return f", got {text}" if len(text) <= 60 and not isinstance(value, dict) else ""


class _Loader(yaml.SafeLoader):
    """Reads 1e-6 as a number, as YAML 1.2 does; for YAML 1.1 it is text without a point and a sign of the exponent."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$"), list("-+.0123456789")
)


def plain_yaml(text: str, where: Any) -> Any:
    """The plain values of a YAML text. Raises ValueError, naming `where`, for other text, tags of Python, and aliases that multiply."""
    if len(text) > MAX_TEXT:
        raise ValueError(f"{where}: {len(text):,} characters; expected at most {MAX_TEXT:,}")
    if re.search(r"(?:[\[{]\s*){50}", text):  # the parser takes seconds for these
        raise ValueError(f"{where}: expected YAML; its values are nested too deeply")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        count = count_values(node, {})
        if count > MAX_TEXT:
            raise ValueError(f"aliases (*name) that make {count:.3g} values of {len(text):,} characters")
        return None if node is None else loader.construct_document(node)
    except RecursionError:
        raise ValueError(f"{where}: expected YAML; its values are nested too deeply") from None
    except (yaml.YAMLError, ValueError, TypeError, ArithmeticError, LookupError) as error:  # of a date or a number, too
        reason = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise ValueError(f"{where}: expected YAML; {reason}") from None


def count_values(node: yaml.Node | None, known: dict[int, int]) -> int:
    """
    The number of values that a YAML node stands for: an alias repeats all that its anchor holds. known: of the nodes before, by id.

    Raises: ValueError for a key that stands twice, of which YAML would take the last.
    """
    if not isinstance(node, yaml.CollectionNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MAX_TEXT + 1  # while it is counted: of one that holds itself
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
            key, times = next(iter(Counter(keys).most_common(1)), ("", 0))
            if times > 1:
                raise ValueError(f"{key!r} stands twice in one section")
        children = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        known[id(node)] = 1 + sum(count_values(child, known) for child in children)
    return known[id(node)]
