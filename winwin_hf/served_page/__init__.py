"""A Gradio page for strangers: what it takes from a request, what it hands out and what it keeps. Of the demo and of the metrics' pages.

Notable:
- By default Gradio reads a picture that comes without `meta` from any path, downloads a URL for whoever asks, takes 1,000 files in one
  request, and lets anybody run an event beside the queue. Here an input file is one that was uploaded to this page, or one of its examples;
  every other path gets the same answer, whether or not a file is there. Nothing is fetched.
- All files of a page lie in one folder of its own. They are deleted when they are old, the oldest first when they are too many, all of them
  with the process, and those of a process that was killed when the next one starts.
- Whatever a request names or holds that this page doesn't know is one sentence with a status of 4xx, and no traceback in the log.
- Clients are told apart by their address: that of the connection, or behind the proxy of a Hugging Face Space the one that the proxy saw.
- uvicorn waits for a request for good, and takes as many connections as there are handles. Here both are bounded.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

from winwin_hf.served_page.connections import bound_client, bounded_connections, raise_handles
from winwin_hf.served_page.doors import Doors
from winwin_hf.served_page.files import Janitor, WorkFolder
from winwin_hf.served_page.inputs import guard_inputs
from winwin_hf.served_page.limits import Limits, file_name, refuse, shortened

__all__ = ["Limits", "WorkFolder", "check_address", "file_name", "refuse", "serve"]


def serve(page: Any, folder: WorkFolder, limits: Limits, examples: Collection[Path] = (), **options: Any) -> None:
    """
    Serves a page until Ctrl-C, SIGTERM or SIGHUP; then its files are deleted.

    Args:
        page: a gradio.Blocks that was built in `folder`.
        examples: files that the page hands out beside those in `folder`.
        options: of `gradio.Blocks.launch`.

    Raises: ValueError: as `check_address`.
    """
    check_address(options.get("server_name"), options.get("server_port"))
    import uvicorn.config
    from fastapi.exceptions import RequestValidationError
    from starlette.middleware import Middleware

    raise_handles()
    # Gradio makes the server, and none of its options gets there. An imported class may stand in the place of its name.
    uvicorn.config.HTTP_PROTOCOLS["auto"] = bounded_connections(limits)  # type: ignore[assignment]
    examples = {path.resolve() for path in examples}
    page.queue(max_size=limits.waiting, default_concurrency_limit=1, api_open=False)
    bound_client(page, limits)
    guard_inputs(page, folder.files)
    janitor = Janitor(folder, limits, page.temp_file_sets)
    threading.Thread(target=janitor.run, daemon=True, name="janitor").start()
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGTERM", "SIGHUP"):  # no SIGHUP on Windows
            number = getattr(signal, name, None)
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:  # nohup's
                signal.signal(number, _interrupt)
    with contextlib.suppress(KeyboardInterrupt):  # one that comes before Gradio waits for it
        page.launch(
            app_kwargs={
                "middleware": [
                    Middleware(Doors, files=folder.files, examples=examples, limits=limits, janitor=janitor, page=page)
                ],
                "exception_handlers": {RequestValidationError: _misunderstood},
            },
            allowed_paths=[str(path) for path in sorted(examples)],
            max_file_size=limits.file_bytes,
            # Gradio keeps a copy of the page's settings for each visitor, 0.2 MB; nothing of ours is in it.
            state_session_capacity=2 * (1 + limits.waiting),
            ssr_mode=False,
            **options,
        )


def check_address(host: str | None, port: int | None) -> None:
    """
    Args:
        host, port: where a page is to be served; None: Gradio's defaults.

    Raises: ValueError: nothing can be served there, and why. Gradio's own errors are tracebacks after everything was loaded.
    """
    host, port = host or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1", port or 0
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as trial:
            trial.setsockopt(
                socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
            )  # else it is taken for a minute after each server
            trial.bind(address)
    except (OSError, OverflowError, UnicodeError) as error:  # of a name's parts, too
        reason = getattr(error, "strerror", None) or str(error)
        place = f"host {host}, port {port}" if port else f"host {host}"
        raise ValueError(f"{place}: {reason}; expected an address of this machine, and a port that is free") from None


async def _misunderstood(_: Any, error: Any) -> Any:
    """The answer to a body of another form. FastAPI's own sends all of the body back."""
    from starlette.responses import JSONResponse

    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    reason = shortened(f"{place}: {first['msg']}", 200)
    return JSONResponse({"detail": f"The request isn't understood: {reason}."}, 422)


def _interrupt(*_: Any) -> None:
    raise KeyboardInterrupt  # which Gradio ends at
