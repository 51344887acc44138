"""What a page and a client of it may use, and sentences for those that ask for more."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

MOST = 1e9  # of a number in a request
MAX_MESSAGE = 600  # characters of a refusal, which may quote the request


@dataclass(frozen=True)
class Limits:
    """
    What a page and a client of it may use.

    Attributes:
        file_bytes: of an uploaded file. request_bytes: of any other request.
        disk_bytes: of all uploads and results. kept_seconds: of a file.
        waiting: requests in the queue, beside the one that runs; client_waiting: of one client, the one that runs included.
        connections: open at a time. client_connections: with a request of one client at a time; it may have as many more that wait.
        client_upload_bytes: in `kept_seconds`.
    """

    file_bytes: int = 32 << 20
    request_bytes: int = 1 << 20
    disk_bytes: int = 2 << 30
    kept_seconds: float = 3600
    waiting: int = 20
    client_waiting: int = 5
    connections: int = 512
    client_connections: int = 64
    client_upload_bytes: int = 256 << 20


def refuse(message: str) -> Exception:
    """A gradio.Error that is shown on the page, without a traceback in the server's log."""
    import gradio as gr

    return gr.Error(shortened(message), duration=15, print_exception=False)


def shortened(text: str, most: int = MAX_MESSAGE) -> str:
    """A text of at most `most` characters."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def file_name(path: str) -> str:
    """The last part of a path, shortened, for a message."""
    name = re.split(r"[/\\]", path)[-1]
    return name if len(name) <= 80 else f"{name[:60]}...{name[-10:]}"


def kind_of(value: Any) -> str:
    """A value of JSON in words, short."""
    if isinstance(value, int) and abs(value) >= MOST:
        return "a larger one"  # Python prints no integer of many digits
    if isinstance(value, bool | int | float | str):
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:40]}... ({len(text)} characters)"
    return "nothing" if value is None else "a list" if isinstance(value, list) else "an object"
