"""Debian's copyright files (DEP-5): author and licence of a file in a package."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fnmatch import fnmatch


@dataclass
class Copyright:
    """A paragraph: patterns of paths ("*" matches "/" too), authors, the licence's short name."""

    patterns: list[str]
    authors: str
    licence: str


def read_copyright(text: str) -> list[Copyright]:
    """The paragraphs that begin with Files, in their order."""
    found = []
    for paragraph in re.split(r"\n[ \t]*\n", text):
        fields: dict[str, list[str]] = {}
        key = ""
        for line in paragraph.splitlines():
            match = re.match(r"([A-Za-z-]+):[ \t]*(.*)", line)
            if match:
                key = match[1].lower()
                fields[key] = [match[2]]
            elif key:
                fields[key].append(line.strip())
        if "files" in fields:
            holders = [re.sub(r"^[\d, -]+(by )?|\s*<[^>]*>", "", line).strip() for line in fields.get("copyright", [])]
            licence = fields.get("license", [""])[0].strip()
            found.append(Copyright(" ".join(fields["files"]).split(), "; ".join(filter(None, holders)), licence))
    return found


def copyright_of(path: str, paragraphs: list[Copyright]) -> Copyright:
    """The last paragraph that has the path."""
    for paragraph in reversed(paragraphs):
        if any(fnmatch(path, pattern) for pattern in paragraph.patterns):
            return paragraph
    return Copyright([], "", "")
