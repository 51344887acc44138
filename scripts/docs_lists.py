"""A griffe extension for mkdocs.yml: lists in docstrings get the empty line before them that Markdown needs."""

import re
from typing import Any

try:
    import griffe
except ModuleNotFoundError:
    raise SystemExit("docs_lists.py: for mkdocs, which loads it; expected griffe, as `make docs` installs it") from None


class Lists(griffe.Extension):
    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = re.sub(
                r"^(?! *- )(.*\S.*)\n(?=- )", r"\1\n\n", obj.docstring.value, flags=re.MULTILINE
            )
