"""The pages of docs/ that are made from the code: `python scripts/make_docs.py` writes them, `--check` says which are out of date.

docs/recipes.md: every key of a recipe, from the dataclasses and the descriptions beside their fields. docs/data.md: every data
set, from the catalogue. docs/cli.md: every command, from its help. A key without a description is an error.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer
import yaml
from pydantic.fields import FieldInfo

from winwin_hf.cli import main as cli
from winwin_hf.cli.errors import one_line_errors
from winwin_hf.data import rows, sources
from winwin_hf.data.augmentation import FlowAugmentation, ImageAugmentation
from winwin_hf.data.benchmarks import catalog
from winwin_hf.data.benchmarks.entry import DataSet
from winwin_hf.data.collator import SecondStrategy
from winwin_hf.data.guesses import GuessStrategy
from winwin_hf.data.synthetic.rooms import RoomSettings
from winwin_hf.data.synthetic.settings import SceneSettings
from winwin_hf.data.worlds.settings import WorldSettings
from winwin_hf.model.configuration_winwin import PRESETS, WinWinConfig
from winwin_hf.training import recipe
from winwin_hf.windows import Strategy

ROOT = Path(__file__).resolve().parents[1]
MADE = "<!-- made by scripts/make_docs.py from the code; don't edit -->\n"

UNIONS = (Union, types.UnionType)
SECTIONS: dict[str, type] = {  # key of a recipe -> what its section may hold
    "model": recipe.ModelRecipe,
    "data": recipe.DataRecipe,
    "data.sets": recipe.DataSetRecipe,
    "windows": Strategy,
    "second_windows": SecondStrategy,
    "initial_flow": GuessStrategy,
    "optimization": recipe.OptimizationRecipe,
    "evaluation": recipe.EvaluationRecipe,
    "evaluation.sets": recipe.EvaluationSet,
}
SETTINGS: dict[str, type] = {  # what the `settings` of a data set may hold, by the kind of set
    "synthetic-flow": SceneSettings,
    "synthetic-depth": RoomSettings,
    "synthetic-worlds": WorldSettings,
    "flow and stereo sets": FlowAugmentation,
    "depth and segmentation sets": ImageAugmentation,
}


def pages() -> dict[Path, str]:
    """Path below the repository -> what should stand there."""
    return {
        Path("docs/recipes.md"): recipes_page(),
        Path("docs/data.md"): data_page(),
        Path("docs/cli.md"): cli_page(),
    }


# ------------------------------------------------------------------ docstrings


def described(doc: str, names: Sequence[str]) -> dict[str, str]:
    """
    What a docstring says of each name: the text after `name:`, `name, other:` or `name (type):` at the begin of a sentence or after
    "and", up to the next such or to an empty line. "Learning rate:" counts for learning_rate.
    """
    spoken = {name.replace("_", " ").capitalize(): name for name in names if "_" in name}
    one = "|".join(re.escape(name) for name in sorted([*names, *spoken], key=len, reverse=True))
    item = rf"(?:{one})(?: \([^)]*\))?"
    heads = list(re.finditer(rf"(?:^|(?<=[.;:])\s+|\band\s+)({item}(?:, {item})*):(?=\s)", doc))
    found: dict[str, str] = {}
    for head, after in zip(heads, [*heads[1:], None], strict=True):
        text = doc[head.end() : after.start() if after else len(doc)].partition("\n\n")[0]
        text = re.sub(r",?\s+and$", "", " ".join(text.split())).rstrip(";, ")
        for name in re.findall(rf"(?<!\w)(?:{one})(?!\w)", re.sub(r"\([^)]*\)", "", head[1])):
            found.setdefault(spoken.get(name, name), text)
    return found


def mentioned(doc: str, names: Sequence[str]) -> dict[str, str]:
    """The first sentence that has each name in it, in backticks if there is one."""
    sentences = re.split(r"(?<=[.;])\s+", " ".join(doc.split()))
    hits = {name: [s for s in sentences if re.search(rf"(?<![\w.]){name}(?!\w)", s)] for name in names}
    return {name: next((s for s in found if code(name) in s), found[0]) for name, found in hits.items() if found}


# ------------------------------------------------------------------ Markdown


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    text = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in (header, ["---"] * len(header), *lines)]
    return "".join(f"| {line} |\n" for line in text)


def plain(text: str) -> str:
    """Prose of a docstring, with what Markdown would take for markup escaped."""
    return re.sub(r"<(?=\w)", "&lt;", re.sub(r"(?<!\w)\*(?![\w ]+\*)|(?<=/)\*", r"\\*", text))


def code(text: Any) -> str:
    return f"`{text}`"


# ------------------------------------------------------------------ dataclasses of a recipe


def fields(kind: type) -> list[Any]:
    """The fields that a recipe may set; of the config only its own."""
    return [f for f in dataclasses.fields(kind) if f.name in kind.__annotations__ and not f.name.startswith("_")]


def descriptions(kind: type) -> dict[str, str]:
    """The description of each field, from `pydantic.Field` beside it. Raises ValueError for a field without one."""
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        # `SetName | None` has its description one level down
        hints = [hint, *get_args(hint)] if get_origin(hint) in UNIONS else [hint]
        metadata = [note for h in hints for note in getattr(h, "__metadata__", ())]
        texts = [note.description for note in metadata if isinstance(note, FieldInfo)]
        found[name] = next(filter(None, texts), None)  # `Pixels` has a range and no description
    return checked_descriptions(kind, found)


def config_descriptions() -> dict[str, str]:
    """The description of each field of WinWinConfig, from the "Args" of its docstring, as transformers' own configs have it."""
    entries = re.findall(r"^    (\w.*\)):\n((?:        .*\n)+)", inspect.getdoc(WinWinConfig) or "", flags=re.MULTILINE)
    found = {
        name: " ".join(text.split()) for head, text in entries for name in re.sub(r" \([^)]*\)", "", head).split(", ")
    }
    return checked_descriptions(WinWinConfig, found)


def checked_descriptions(kind: type, found: dict[str, Any]) -> dict[str, str]:
    lacking = [field.name for field in fields(kind) if not found.get(field.name)]
    if lacking:
        raise ValueError(f"{kind.__name__} has no description of {', '.join(lacking)}")
    return found


def type_text(hint: Any) -> str:
    """A type in the words of YAML."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return type_text(arguments[0])
    if origin is Literal:
        return ", ".join(code(choice) for choice in arguments)
    if origin in UNIONS:
        if float in arguments:  # a whole number is a float in YAML too
            arguments = tuple(a for a in arguments if a is not int)
        if any(get_origin(a) is list for a in arguments):  # the same list as a tuple
            arguments = tuple(a for a in arguments if get_origin(a) is not tuple)
        return ", or ".join(type_text(argument) for argument in arguments)
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"pair of {type_text(arguments[0])}"
    if origin in (list, tuple):
        item = type_text(arguments[0])
        return "list" if item == "section" else f"list of {item.replace('pair', 'pairs')}"
    if origin in (dict, Mapping):
        return "mapping"
    if dataclasses.is_dataclass(hint):
        return "section"
    return {str: "text", Any: "any", type(None): "null"}.get(hint) or hint.__name__


def default_text(field: Any) -> str:
    """A field's default as YAML would have it."""
    value = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    if value is dataclasses.MISSING:
        return "required"
    if dataclasses.is_dataclass(value) or value in ({}, []):
        return ""
    return code(
        yaml.safe_dump(plain_values(value), default_flow_style=True, sort_keys=False).removesuffix("...\n").strip()
    )


def plain_values(value: Any) -> Any:
    """Tuples as lists, which YAML has."""
    return [plain_values(item) for item in value] if isinstance(value, tuple) else value


def fields_table(kind: type) -> str:
    """key, type, default and meaning of all fields of a dataclass."""
    if kind is WinWinConfig:  # the hints of its base classes don't resolve
        texts, hints = config_descriptions(), kind.__annotations__
    else:
        texts, hints = descriptions(kind), get_type_hints(kind)
    lines = []
    for field in fields(kind):
        kind_text = type_text(hints[field.name]).replace("section", f"[section](#{field.name})")
        lines.append((code(field.name), kind_text, default_text(field), plain(texts[field.name])))
    return table(("key", "type", "default", "meaning"), lines)


# ------------------------------------------------------------------ recipes


def recipes_page() -> str:
    parts = [
        "# Recipes\n",
        MADE,
        "After this page you can write a recipe: a YAML file that holds everything that decides a training.\n",
        "```bash\nwinwin recipes list\nwinwin recipes show camvid\n```\n",
        "`winwin train NAME` takes a recipe of the package, `winwin train FILE` your own. `winwin recipes show camvid > mine.yaml` gives "
        "one to start from.\n",
        "A recipe is checked before anything starts: an unknown key, a value of the wrong type or an unknown choice is an error that "
        "names it. `--set optimization.steps=100` overrides one value; `--set data.sets.0.path=FOLDER` one of a list. The recipe as it "
        "was used, with all defaults written out, is in the output folder and beside the final weights.\n",
        "## The recipe\n",
        fields_table(recipe.Recipe),
    ]
    for name, kind in SECTIONS.items():
        parts += [f"## `{name}`\n", *(["A list; each entry:\n"] if name.endswith("sets") else []), fields_table(kind)]
        if name == "model":
            parts += [
                "## `model.config`\n",
                f"Fields of `WinWinConfig`, on top of the preset ({', '.join(map(code, PRESETS))}). "
                "A segmentation network's classes come from its data.\n",
                fields_table(WinWinConfig),
                "The presets:\n",
                presets_table(),
            ]
        if name == "data.sets":
            for which, settings in SETTINGS.items():
                parts += [f"### `settings` of {which}\n", fields_table(settings)]
            parts += [
                "### `options`\n",
                "Of each data set's own, listed with it in [Data sets](data.md); of `hub`:\n",
                fields_table(sources.HubOptions),
                "Of `shards`:\n",
                fields_table(sources.ShardOptions),
            ]
    return "\n".join(parts)


def presets_table() -> str:
    keys = list(dict.fromkeys(key for preset in PRESETS.values() for key in preset))
    values = {
        name: {f.name: f.default for f in dataclasses.fields(WinWinConfig)} | preset for name, preset in PRESETS.items()
    }
    return table(
        ("", *map(code, PRESETS)), [(code(key), *(code(values[name][key]) for name in PRESETS)) for key in keys]
    )


# ------------------------------------------------------------------ data sets

INTRODUCTION = """\
After this page you can check, read and train on {count} data sets by name, or on a folder of your own.

```bash
winwin data list --layout
winwin data check /data/Sintel
```

In a recipe: `data: {{name: sintel-clean, path: /data/Sintel, split: train}}`. In Python:

```python
from winwin_hf.data.benchmarks.catalog import load

pairs = load("sintel-clean", "/data/Sintel", "train[:90%]")  # a datasets.Dataset
```

A split may be a slice, as `datasets` writes it: `train[:80%]`, `train[100:200]`. Files are decoded when an example is used.

| what | unit |
| --- | --- |
| flow | (right, down) in pixels of the first image; NaN where unknown |
| depth | metres along the optical axis; NaN where unknown |
| labels | class ids; 255 where ignored |
| images | RGB |

The terms below are those of the source when this page was written. Licences change: read the source's own.
"""
OTHER_SOURCES = """\
| name | what |
| --- | --- |
| `synthetic-flow` | endless scenes with exact flow; its `settings` are in [Recipes](recipes.md) |
| `synthetic-depth` | endless furnished rooms with exact depth; its `settings` are there too |
| `synthetic-worlds` | endless streets, landscapes and rooms of meshes with exact flow, depth or classes: [Worlds](worlds.md) |
| `shards` | a folder made by `winwin data shards`, here or [in an object store](cluster.md#shards-in-an-object-store); `options`: there. \
`split` is the one that they were made of; a part, as `train[:80%]`, needs `options: {streaming: false, cached: false}` |
| `hub` | what `datasets.load_dataset` opens, streamed or not; its `options` are in [Recipes](recipes.md) |
"""
TASKS = {
    "optical-flow": "Optical flow and stereo",
    "depth-estimation": "Depth",
    "semantic-segmentation": "Segmentation",
}


def data_page() -> str:
    entries = list(catalog.SETS.values())
    columns = inspect.getdoc(rows) or ""
    parts = ["# Data sets\n", MADE, INTRODUCTION.format(count=len(entries)), "## All of them\n"]
    parts.append(
        table(
            ("name", "task", "splits (scored by default)", "terms"),
            [(f"[{e.name}](#{e.name})", e.task, splits_text(e), e.terms) for e in entries],
        )
    )
    parts += ["Other sources of data:\n", OTHER_SOURCES, "## Columns\n"]
    parts.append(
        "Every row says how its target is stored, so one reader reads every set of a task, its shards and mixtures.\n"
        "Rows don't say what their classes are called: sets with different classes are mixed by a recipe's `data.labels`, not by "
        "`interleave_datasets`.\n"
    )
    parts.append(columns[columns.index("Columns (") :].replace("):\n", "):\n\n") + "\n")
    for task, title in TASKS.items():
        parts.append(f"## {title}\n")
        parts += [text for e in entries if e.task == task for text in set_parts(e)]
    return "\n".join(parts)


def splits_text(entry: DataSet) -> str:
    return ", ".join(f"**{split}**" if split == entry.scored else split for split in entry.splits)


def set_parts(entry: DataSet) -> Iterator[str]:
    """The paragraphs of one data set."""
    find = getattr(entry.find, "func", entry.find)
    doc = inspect.getdoc(find) or ""
    yield f"### {entry.name}\n"
    first = " ".join(doc.partition("\n\n")[0].split())
    yield plain(re.sub(r"(?<=\.) [^.]*:$", "", first)) + "\n"  # without a sentence that introduces a list
    yield f"- layout: {code(entry.layout)}"
    yield f"- splits: {splits_text(entry)}"
    yield f"- source: {f'<{entry.source}>' if re.fullmatch(r'https?://[^ ]+', entry.source) else entry.source}"
    yield f"- terms: {entry.terms}"
    if entry.labels:
        yield f"- {len(entry.labels)} classes: {', '.join(entry.labels) if len(entry.labels) < 30 else 'see class_names.py'}"
    if entry.task == "depth-estimation" and entry.depth_range[1] != float("inf"):
        low, high = entry.depth_range
        yield f"- scored: {low:g} to {high:g} m" + (f", crop `{entry.crop}`" if entry.crop else "")
    options = catalog.options_of(entry)
    if options:
        known = {**mentioned(doc, options), **described(doc, options)}
        lacking = [name for name in options if name not in known]
        if lacking:
            raise ValueError(f"the docstring of {find.__name__} says nothing of {', '.join(lacking)}")
        for name in options:
            yield f"- option `{name}`: {plain(known[name])}"
    yield ""


def cli_page() -> str:
    parts = [
        "# Command line\n",
        MADE,
        "After this page you know every command and option.\n",
        "```bash\nwinwin --help\n```\n",
        "Results go to standard output, progress to standard error. A wrong argument ends in one line (an unknown option in "
        "the usage, too) and exit code 2, work that "
        "failed in one line and exit code 1; `winwin --traceback COMMAND` shows where it comes from. Ctrl-C, SIGTERM and SIGHUP remove "
        "what is half written and end with 130, 143 and 129 (`winwin train`: see there). `winwin COMMAND --help` prints "
        "the same texts.\n",
    ]
    return "\n".join([*parts, *app_parts(cli.app, "winwin")])


def app_parts(app: typer.Typer, name: str) -> Iterator[str]:
    """The commands of an app, and of those below it, from the signatures that typer reads."""
    for info in app.registered_commands:
        function = inspect.unwrap(info.callback)  # type: ignore[arg-type]
        yield from command_parts(function, f"{name} {info.name or function.__name__.replace('_', '-')}")
    for group in app.registered_groups:
        yield from app_parts(group.typer_instance, f"{name} {group.name}")  # type: ignore[arg-type]


def command_parts(function: Any, name: str) -> Iterator[str]:
    """Heading, what it does, usage and parameters of one command."""
    usage, arguments, options = [name], [], []
    for key, parameter in inspect.signature(function, eval_str=True).parameters.items():
        hint, info = parameter.annotation.__origin__, parameter.annotation.__metadata__[0]
        text, default = info.help or "", parameter.default
        if isinstance(info, typer.models.ArgumentInfo):
            shown = info.metavar or key.upper()
            usage.append(shown if default is inspect.Parameter.empty else f"[{shown}]")
            arguments.append((code(shown), text, ""))
            continue
        flag_only = "bool" in str(hint)
        value = "" if flag_only else f" {info.metavar or value_name(hint)}"
        # in Annotated, typer takes the first name as the default and sorts that out later
        given_names = [name for name in (info.default, *(info.param_decls or ())) if isinstance(name, str)]
        flags = given_names or [f"--{key.replace('_', '-')}"]
        required = default is inspect.Parameter.empty
        given = "required" if required else "" if default is None or flag_only else code(default)
        options.append((", ".join(code(flag + value * flag.startswith("--")) for flag in flags), text, given))
    yield f"## {code(name)}\n"
    yield " ".join((inspect.getdoc(function) or "").split()) + "\n"
    yield f"```text\n{' '.join([*usage, *(['[OPTIONS]'] if options else [])])}\n```\n"
    if arguments or options:
        yield table(("", "what", "default"), [*arguments, *options])


def value_name(hint: Any) -> str:
    """What stands for an option's value."""
    names = {"Path": "PATH", "int": "NUMBER", "float": "NUMBER"}
    return next((shown for kind, shown in names.items() if kind in str(hint)), "TEXT")


# ------------------------------------------------------------------


@one_line_errors
def main(
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; exit code 1 if a page is out of date.")
    ] = False,
) -> None:
    """Write the pages of docs/ that are made from the code."""
    stale = [path for path, text in pages().items() if not (ROOT / path).is_file() or (ROOT / path).read_text() != text]
    for path in stale:
        typer.echo(f"{path}: {'out of date' if check else 'written'}")
        if not check:
            (ROOT / path).write_text(pages()[path])
    if check and stale:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
