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

import atexit
import contextlib
import ctypes
import ipaddress
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from filelock import FileLock, Timeout

LOCK = ".running"  # held while the process of a work folder lives
NEW_FOLDER_SECONDS = 60  # a younger folder may be about to be filled
SWEEP_SECONDS = 30
HEAD_SECONDS = 10  # in which the head of a request has to arrive
BODY_SECONDS = 30  # in which the next bytes of its body have to
DRAIN_SECONDS = 10  # in which what is left of a refused body is taken
HANDLES = 4096  # asyncio takes all connections that wait, up to uvicorn's 2048, before the first of them can be closed
KNOWN_CLIENTS = 10_000  # whose uploads are counted
MAX_PATH = 4096  # characters
MOST = 1e9  # of a number in a request
MAX_MESSAGE = 600  # characters of a refusal, which may quote the request
CLIENT = "winwin_hf.client"  # key of the client's address in a connection's scope

# What the page and gradio_client ask for. Gradio has more routes: it fetches URLs for others, keeps recordings, and stores pages.
ROUTES = {
    "GET": re.compile(
        r"/|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/pwa_icon(/\d+)?|/(static|assets|svelte)/.*"
        r"|/gradio_api/(info/?|openapi\.json|theme\.css|startup-events|app_id/?|heartbeat/[^/]+|queue/data|upload_progress"
        r"|call/(v2/)?[^/]+/[^/]+|file=.+)"
    ),
    "POST": re.compile(r"/gradio_api/(upload|queue/join|call/(v2/)?[^/]+/?|run/[^/]+/?|api/[^/]+/?|cancel|reset/?)"),
}
ROUTES["HEAD"] = ROUTES["GET"]
FILE, UPLOAD = "/gradio_api/file=", "/gradio_api/upload"
CALL = re.compile(r"/gradio_api/call(?:/v2)?/([^/]+?)(?:/([^/]*))?")  # an endpoint's name, and an event's id
BESIDE_THE_QUEUE = ("/gradio_api/run/", "/gradio_api/api/")
QUEUE_DATA = "/gradio_api/queue/data"
ONE_RANGE = re.compile(rb"bytes=(?:(\d+)-(\d*)|-\d+)")  # of a file's bytes
LISTENER_SECONDS = 2  # in which the stream of a session's answers before has to end

Scope: TypeAlias = MutableMapping[str, Any]
Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


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


def serve(page: Any, folder: WorkFolder, limits: Limits, examples: Collection[Path] = (), **options: Any) -> None:
    """
    Serves a page until Ctrl-C or SIGTERM; then its files are deleted.

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
    guard_inputs(page, folder.files, examples)
    janitor = Janitor(folder, limits, page.temp_file_sets)
    threading.Thread(target=janitor.run, daemon=True, name="janitor").start()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
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


# ------------------------------------------------------------------ files


class WorkFolder:
    """A folder for all files of this process's page, below GRADIO_TEMP_DIR or the system's temporary folder; a context manager.

    Attributes:
        path: the folder. files: what Gradio serves, below it: uploads and results.
    """

    def __init__(self, name: str) -> None:
        base = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir()).resolve()
        base.mkdir(parents=True, exist_ok=True)
        for left in base.glob(f"{name}-*"):
            if not _in_use(left):
                shutil.rmtree(left, ignore_errors=True)
        self.path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=base))
        self._lock = FileLock(self.path / LOCK)
        self._lock.acquire()
        self.files = self.path / "files"
        temporary = self.path / "temporary"
        for folder in (self.files, temporary):
            folder.mkdir()
        os.environ["GRADIO_TEMP_DIR"] = str(self.files)
        for name in ("gradio.routes", "gradio.route_utils"):  # which read the variable when they were imported
            if name in sys.modules:
                sys.modules[name].DEFAULT_TEMP_DIR = str(self.files)  # type: ignore[attr-defined]
        tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)  # parts of uploads, and what decoders write
        atexit.register(self.remove)

    def remove(self) -> None:
        self._lock.release()
        shutil.rmtree(self.path, ignore_errors=True)

    def __enter__(self) -> WorkFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()


def _in_use(folder: Path) -> bool:
    """True while the process that made the folder lives, and for another user's folder."""
    if folder.is_symlink():
        return True
    lock = FileLock(folder / LOCK)
    try:
        if time.time() - folder.stat().st_ctime < NEW_FOLDER_SECONDS and not (folder / LOCK).exists():
            return True  # a process that starts at this moment
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return True
    lock.release()
    return False


class Janitor:
    """Deletes old files, then the oldest until the rest is within the limit, then empty folders. What lies there at the start stays.

    Args:
        known: sets of paths that Gradio keeps; deleted files leave them.
    """

    def __init__(self, folder: WorkFolder, limits: Limits, known: Collection[set[str]] = ()) -> None:
        self.folder, self.limits, self.known = folder.path, limits, known
        self.kept = {entry.path for entry in _files(self.folder)}
        self._one = threading.Lock()

    def run(self) -> None:
        while self.folder.exists():
            time.sleep(SWEEP_SECONDS)
            self.sweep()
            return_memory()

    def sweep(self, now: float | None = None) -> int:
        """Bytes on the disk that are left. now: seconds since the epoch."""
        now = time.time() if now is None else now
        with self._one:
            found = []
            for entry in _files(self.folder):
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                # a small file takes a block, and its folder another
                found.append((status.st_ctime, max(status.st_size, 8192), entry.path))
            total = sum(size for _, size, _ in found)
            for changed, size, path in sorted(found):
                if now - changed <= self.limits.kept_seconds and total <= self.limits.disk_bytes:
                    break
                if path not in self.kept:
                    Path(path).unlink(missing_ok=True)
                    total -= size
            for root, folders, _ in os.walk(self.folder, topdown=False):
                for name in folders:
                    _remove_empty(Path(root, name), now, self.folder)
            for names in self.known:
                names.difference_update([name for name in list(names) if not os.path.exists(name)])  # noqa: PTH110
            return total


def return_memory() -> None:
    """Gives freed memory back to the system. glibc keeps what each of the server's threads once used for a picture."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


def _files(folder: Path) -> list[os.DirEntry[str]]:
    """All files below a folder, links included; links aren't followed."""
    found, waiting = [], [str(folder)]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    else:
                        found.append(entry)
        except FileNotFoundError:
            continue
    return found


def _remove_empty(folder: Path, now: float, top: Path) -> None:
    """Removes a folder that is empty and isn't new. Those right below `top` stay."""
    with contextlib.suppress(OSError):  # it isn't empty
        if folder.parent != top and now - folder.stat().st_ctime > NEW_FOLDER_SECONDS:
            folder.rmdir()


def own_file(path: str, files: Path, examples: Collection[Path] = ()) -> Path | None:
    """The file, if it lies in `files` or is one of `examples`; else None, and no other folder was looked into.

    Args:
        path: what a client says. files: a folder without links in its path.
    """
    if len(path) > MAX_PATH or "\0" in path or not os.path.isabs(path):  # noqa: PTH117
        return None
    plain = Path(os.path.normpath(path))
    if plain in examples:
        return plain
    if files not in plain.parents:
        return None
    found = plain.resolve()
    return found if files in found.parents and found.is_file() else None


# ------------------------------------------------------------------ inputs


def guard_inputs(page: Any, files: Path, examples: Collection[Path]) -> None:
    """Makes `page` check the values of each request before Gradio touches them."""
    preprocess = page.preprocess_data

    async def checked(block_fn: Any, inputs: list[Any], *more: Any, **options: Any) -> list[Any]:
        import gradio as gr

        if len(inputs) != len(block_fn.inputs):
            raise refuse(f"Expected {len(block_fn.inputs)} values, got {len(inputs)}.")
        values = [_value(block, value, files, examples) for block, value in zip(block_fn.inputs, inputs, strict=True)]
        try:
            return await preprocess(block_fn, values, *more, **options)
        except gr.Error as error:
            raise refuse(error.message) from None
        except Exception as error:  # whatever a component raises on another type
            raise refuse(f"A value of the request can't be used ({type(error).__name__}).") from None

    page.preprocess_data = checked


def _value(block: Any, value: Any, files: Path, examples: Collection[Path]) -> Any:
    """The value, with nothing of a file's description left but its path. Raises gradio.Error for one that `block` can't have."""
    import gradio as gr

    label = getattr(block, "label", None) or type(block).__name__
    if value is None and not isinstance(
        block, gr.Dataset | gr.Slider | gr.Radio
    ):  # which always have a value on the page
        return None
    if isinstance(block, gr.Image | gr.Video | gr.File):
        if not isinstance(value, dict):
            raise refuse(f"{label}: expected an uploaded file, got {_kind(value)}.")
        path = value.get("path")
        if not isinstance(path, str) or not path:
            raise refuse(f"{label}: send an uploaded file; pictures inside the request (data: URLs) are not taken.")
        found = own_file(path, files, examples)
        if found is None:
            raise refuse(
                f"{label}: {file_name(path)!r} is not among the files that were uploaded here. Please upload it (again)."
            )
        return {"path": str(found), "orig_name": found.name, "meta": {"_type": "gradio.FileData"}}
    if isinstance(block, gr.Dataset):
        count = len(block.samples or ())
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
            raise refuse(f"{label}: expected the number of an example, 0 to {count - 1}, got {_kind(value)}.")
    elif isinstance(block, gr.Slider | gr.Number):
        low, high = block.minimum, block.maximum
        low, high = -MOST if low is None else low, MOST if high is None else high
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:  # nor NaN
            raise refuse(f"{label}: expected a number from {low:g} to {high:g}, got {_kind(value)}.")
    elif isinstance(block, gr.Radio | gr.Dropdown):
        choices = [choice for _, choice in block.choices]
        if not isinstance(value, str | int | float) or value not in choices:
            raise refuse(f"{label}: expected one of {', '.join(map(str, choices))}, got {_kind(value)}.")
    elif not isinstance(value, str):
        raise refuse(f"{label}: expected a text, got {_kind(value)}.")
    return value


def _kind(value: Any) -> str:
    """A value of JSON in words, short."""
    if isinstance(value, int) and abs(value) >= MOST:
        return "a larger one"  # Python prints no integer of many digits
    if isinstance(value, bool | int | float | str):
        text = repr(value)
        return text if len(text) <= 40 else f"{text[:40]}... ({len(text)} characters)"
    return "nothing" if value is None else "a list" if isinstance(value, list) else "an object"


# ------------------------------------------------------------------ clients


def bound_client(page: Any, limits: Limits) -> None:
    """
    Makes `page` take at most `limits.client_waiting` requests of one client at a time; further ones get the answer of a full queue.
    A request for an event that the page hasn't got is refused, too.
    """
    queue, push = page._queue, page._queue.push

    async def bounded(body: Any, request: Any, *more: Any, **options: Any) -> Any:
        client = request.scope.get(CLIENT)
        waiting = sum(event.request.scope.get(CLIENT) == client for event in list(queue.event_ids_to_events.values()))
        if client is not None and waiting >= limits.client_waiting:
            return (
                False,
                f"Queue is full: {waiting} of your requests wait or run. Please wait for an answer.",
                "queue_full",
            )
        if body.session_hash == "":
            return False, "session_hash: expected a text that isn't empty, or none.", "error"
        if body.fn_index not in page.fns:
            return (
                False,
                f"fn_index: expected the number of an event of this page, got {_kind(body.fn_index)}.",
                "error",
            )
        return await push(body, request, *more, **options)

    queue.push = bounded


def bounded_connections(limits: Limits, behind_proxy: bool | None = None) -> type[Any]:
    """
    uvicorn's protocol, with a bounded number of connections, in all and of each client, and `HEAD_SECONDS` for the head of a request.
    Where there are too many, the one that has waited longest for its request is closed.

    Args:
        behind_proxy: all connections come from there, so those of a client aren't known. Default: in a Hugging Face Space.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    proxied = bool(os.environ.get("SPACE_ID")) if behind_proxy is None else behind_proxy

    class Connection(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        _clock: Any = None  # runs while the head of a request is waited for
        peer = ""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.peer = client_of({"client": self.client, "headers": []}, behind_proxy=False)
            self._watch()
            everybody = [other for other in self.connections if isinstance(other, Connection)]
            mine = [other for other in everybody if other.peer == self.peer]
            if len(mine) > 2 * limits.client_connections and not proxied:
                self._make_room(mine)
            elif len(everybody) > limits.connections:
                self._make_room(everybody)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def connection_lost(self, exc: Exception | None) -> None:
            if self._clock:
                self._clock.cancel()
            super().connection_lost(exc)

        def _watch(self) -> None:
            waits = self.cycle is None or self.cycle.response_complete
            if waits and not self._clock:
                self._clock = self.loop.call_later(HEAD_SECONDS, self._drop)
            elif not waits and self._clock:
                self._clock.cancel()
                self._clock = None

        @staticmethod
        def _make_room(crowd: list[Any]) -> None:
            min((other for other in crowd if other._clock), key=lambda other: other._clock.when())._drop()

        def _drop(self) -> None:
            self.connections.discard(self)  # now, since more may come before the loop says that it is lost
            self.transport.abort()

    return Connection


def raise_handles(most: int = HANDLES) -> None:
    """Lets this process open `most` files and connections, or as many as the system allows; often 1024 are the default."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        if resource.RLIM_INFINITY != soft < allowed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def client_of(scope: Scope, behind_proxy: bool) -> str:
    """The client's address. An IPv6 address stands for its network, which belongs to one customer."""
    peer = (scope.get("client") or ("unknown",))[0]
    if behind_proxy:
        headers = [value.decode("latin-1") for key, value in scope["headers"] if key == b"x-forwarded-for"]
        # A client can write anything in front; the proxies append, themselves by private addresses.
        for address in reversed([part.strip() for value in headers for part in value.split(",")]):
            peer = address
            try:
                if ipaddress.ip_address(address).is_global:
                    break
            except ValueError:
                break
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return peer[:100]
    return str(address if address.version == 4 else ipaddress.ip_network((address, 64), strict=False))


def listened_session(page: Any, scope: Scope) -> str | None:
    """The session whose answers a request's address asks for as a stream; "" where it names none that is known, None for other requests."""
    queue, path = page._queue, scope["path"]
    if path == QUEUE_DATA:
        return parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
    match = CALL.fullmatch(path)
    if not match or not match[2]:
        return None
    if match[2] in queue.event_ids_to_events:
        return str(queue.event_ids_to_events[match[2]].session_hash)
    return next((session for session, ids in queue.pending_event_ids_session.items() if match[2] in ids), "")


def unknown_in(page: Any, scope: Scope) -> str:
    """A sentence on the endpoint, event or session that a request's address names and a page hasn't got; "" where it has them."""
    queue, path = page._queue, scope["path"]
    session = listened_session(page, scope)
    # Gradio keeps the queue of a session whose answers were all taken; who listens to it waits for good.
    waits = bool(session) and bool(
        queue.pending_event_ids_session.get(session)
        or (session in queue.pending_messages_per_session and not queue.pending_messages_per_session[session].empty())
    )
    if match := CALL.fullmatch(path):
        name, event = match.groups()
        if name not in {function.api_name for function in page.fns.values()}:
            return f"There is no endpoint {_kind(name)}."
        if event and not waits:
            return f"There is no event {_kind(event)} of {name}, or its answer was taken already."
    if path == QUEUE_DATA and not waits:
        return f"session_hash: no request of the session {_kind(session)} waits for an answer."
    return ""


class _TooLarge(Exception):
    """The body of a request is longer than it may be."""


class Doors:
    """
    ASGI middleware: known routes, endpoints and sessions only, own files only, bounded bodies, and bounded connections and uploads of
    each client.

    Args:
        page: a gradio.Blocks; None: endpoints and sessions aren't looked up.
    """

    def __init__(
        self,
        app: Any,
        files: Path,
        examples: Collection[Path],
        limits: Limits,
        janitor: Janitor,
        page: Any = None,
    ) -> None:
        self.page = page
        self.app, self.files, self.examples, self.limits, self.janitor = app, files, examples, limits, janitor
        self.behind_proxy = bool(os.environ.get("SPACE_ID"))
        self._open: dict[str, int] = {}  # client -> connections
        self._listened: set[str] = set()  # sessions whose answers are being sent
        self._uploads: OrderedDict[str, tuple[float, float]] = OrderedDict()  # client -> bytes at a time
        self._since_sweep = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return  # Gradio has no web sockets
        client = scope[CLIENT] = client_of(scope, self.behind_proxy)
        refused = self._refused(scope, client)
        if refused:
            await _answer(send, *refused, receive, 4 * self._body_bytes(scope["path"]) if refused[0] == 413 else 0)
            return
        session = listened_session(self.page, scope) if self.page is not None and scope["method"] == "GET" else None
        if session and not await self._begin_to_listen(session):
            # two streams would share the answers between them, and the one that doesn't get the last never ends
            await _answer(send, 409, "The answers of this session are being sent to another request already.")
            return
        self._open[client] = self._open.get(client, 0) + 1
        try:
            if session and (unknown := unknown_in(self.page, scope)):  # the stream before sent the last answer
                await _answer(send, 404, unknown)
                return
            await self._pass_on(_with_one_range(scope), receive, send, client)
        finally:
            if session:
                self._listened.discard(session)
            self._open[client] -= 1
            if not self._open[client]:
                del self._open[client]

    async def _begin_to_listen(self, session: str) -> bool:
        """Whether no other request listens to a session, which is this one's from then on; a page opens a stream right after the last."""
        import anyio

        with anyio.move_on_after(LISTENER_SECONDS):
            while session in self._listened:
                await anyio.sleep(0.02)
        if session in self._listened:
            return False
        self._listened.add(session)
        return True

    def _refused(self, scope: Scope, client: str) -> tuple[int, str] | None:
        """Status and reason, if this request isn't taken."""
        path, route = scope["path"], ROUTES.get(scope["method"])
        if route is None or not route.fullmatch(path):
            return 404, "Not found."
        if path.startswith(FILE) and own_file(path[len(FILE) :], self.files, self.examples) is None:
            return 403, "File not allowed."
        if self.page is not None and (unknown := unknown_in(self.page, scope)):
            return 404, unknown
        if self._open.get(client, 0) >= self.limits.client_connections:
            return 429, f"More than {self.limits.client_connections} connections at a time."
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self._body_bytes(path):
            return 413, f"The request is larger than the maximum of {self._body_bytes(path) >> 20} MB."
        if path == UPLOAD and self._uploaded(client) + int(length) > self.limits.client_upload_bytes:
            most, minutes = self.limits.client_upload_bytes >> 20, self.limits.kept_seconds / 60
            return 429, f"More than {most} MB of uploads in {minutes:.0f} minutes. Please wait."
        return None

    def _body_bytes(self, path: str) -> int:
        return self.limits.request_bytes + (self.limits.file_bytes if path == UPLOAD else 0)

    def _uploaded(self, client: str, more: int = 0) -> float:
        """Bytes that a client has uploaded lately; they are forgotten evenly over `kept_seconds`."""
        now = time.monotonic()
        total, then = self._uploads.pop(client, (0.0, now))
        rate = self.limits.client_upload_bytes / self.limits.kept_seconds
        total = max(0.0, total - rate * (now - then)) + more
        if total:
            self._uploads[client] = total, now
        while len(self._uploads) > KNOWN_CLIENTS:
            self._uploads.popitem(last=False)
        return total

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, client: str) -> None:
        import anyio

        taken, started, more, most = 0, False, True, self._body_bytes(scope["path"])
        left = False  # the client, or its body stays away
        beside_the_queue = scope["path"].startswith(BESIDE_THE_QUEUE)

        async def counted() -> Message:
            nonlocal taken, more, left
            message: Message = {"type": "http.disconnect"}
            with anyio.move_on_after(BODY_SECONDS if more else None):
                message = await receive()
            left = left or (more and message["type"] == "http.disconnect")
            more = message.get("more_body", False)
            taken += len(message.get("body", b""))
            if taken > most:
                raise _TooLarge
            return message

        async def sending(message: Message) -> None:
            nonlocal started
            started = True
            if beside_the_queue and message.get("status") == 500:
                # Gradio's status for whatever is raised there; these events, which run no network, raise refusals alone.
                message = {**message, "status": 400}
            await send(message)

        try:
            await self.app(scope, counted, sending)
        except _TooLarge:
            if not started:
                reason = f"The request is larger than the maximum of {most >> 20} MB."
                await _answer(send, 413, reason, receive, 4 * most if more else 0)
        except Exception as error:
            if left:  # which is no fault of the page's, so nothing of it is logged
                if not started:
                    await _answer(send, 408, f"The rest of the request didn't arrive in {BODY_SECONDS} seconds.")
                return
            known = isinstance(error, LookupError | TypeError | ValueError | AttributeError)
            missing = isinstance(error, KeyError) or type(error).__name__ == "FnIndexInferError"
            if started or scope["method"] != "POST" or not (known or missing):
                raise
            # Gradio looks things up by what a request says.
            if missing:
                await _answer(send, 404, "The request names an endpoint or event that this page hasn't got.")
            else:
                await _answer(send, 400, f"The request isn't understood: {shortened(str(error), 200)}")
        finally:
            if scope["path"] == UPLOAD:
                self._uploaded(client, taken)
                self._since_sweep += taken
                if self._since_sweep > self.limits.disk_bytes // 8:
                    self._since_sweep = 0
                    await anyio.to_thread.run_sync(partial(self.janitor.sweep))


def _with_one_range(scope: Scope) -> Scope:
    """The request without a `Range` that isn't one range of bytes: Gradio fails on it, and a server may send the whole file instead."""
    headers = []
    for key, value in scope["headers"]:
        found = ONE_RANGE.fullmatch(value.strip())
        if key == b"range" and not (found and not (found[2] and int(found[1]) > int(found[2]))):
            continue
        headers.append((key, value))
    return {**scope, "headers": headers}


async def _answer(send: Send, status: int, reason: str, receive: Receive | None = None, most: int = 0) -> None:
    """Sends all of an answer, then takes what is left of the body, at most about `most` bytes, and drops it: many clients read nothing
    before they have sent all, and an answer is lost where the connection is closed on what comes."""
    import anyio

    body = json.dumps({"detail": reason}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": bool(receive and most)})
    if receive and most:
        with anyio.move_on_after(DRAIN_SECONDS):
            while most > 0:
                message = await receive()
                most -= len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    break
        await send({"type": "http.response.body", "body": b""})
