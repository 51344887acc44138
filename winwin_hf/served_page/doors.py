"""ASGI middleware before Gradio: which requests get there, and how their answers are sent."""

from __future__ import annotations

import json
import os
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import parse_qs

from winwin_hf.served_page.connections import CLIENT, Scope, client_of
from winwin_hf.served_page.files import LEAST_BYTES, Janitor, own_file, remove_parts
from winwin_hf.served_page.limits import Limits, kind_of, shortened

BODY_SECONDS = 30  # in which the next bytes of its body have to
DRAIN_SECONDS = 10  # in which what is left of a refused body is taken
KNOWN_CLIENTS = 10_000  # whose uploads are counted

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
PART = b"content-disposition"  # of each file of an upload, in its headers
CLOCK_SECONDS = 0.05  # by which a file may seem older than it is
LISTENER_SECONDS = 2  # in which the stream of a session's answers before has to end

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Send: TypeAlias = Callable[[Message], Awaitable[None]]


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
            return f"There is no endpoint {kind_of(name)}."
        if event and not waits:
            return f"There is no event {kind_of(event)} of {name}, or its answer was taken already."
    if path == QUEUE_DATA and not waits:
        return f"session_hash: no request of the session {kind_of(session)} waits for an answer."
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
        self._uploading: dict[object, float] = {}  # uploads that go on -> their beginnings, in seconds since the epoch
        self._parts_left = False  # by one that broke off

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
        listens = False
        self._open[client] = self._open.get(client, 0) + 1
        try:
            listens = bool(session) and await self._begin_to_listen(str(session))
            if session and not listens:
                # two streams would share the answers between them, and the one that doesn't get the last never ends
                await _answer(send, 409, "The answers of this session are being sent to another request already.")
                return
            if session and (unknown := unknown_in(self.page, scope)):  # the stream before sent the last answer
                await _answer(send, 404, unknown)
                return
            await self._pass_on(_with_one_range(scope), receive, send, client)
        finally:
            if listens:  # else it is another's
                self._listened.discard(str(session))
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
        parts, end = 0, b""  # of an upload
        status = 0  # of the answer
        left = False  # the client, or its body stays away
        beside_the_queue = scope["path"].startswith(BESIDE_THE_QUEUE)
        upload = object()
        if scope["path"] == UPLOAD:
            self._uploading[upload] = time.time()

        async def counted() -> Message:
            nonlocal taken, more, left, parts, end
            message: Message = {"type": "http.disconnect"}
            with anyio.move_on_after(BODY_SECONDS if more else None):
                message = await receive()
            left = left or (more and message["type"] == "http.disconnect")
            more = message.get("more_body", False)
            body = message.get("body", b"")
            taken += len(body)
            if taken > most:
                raise _TooLarge
            if scope["path"] == UPLOAD:
                body = end + body.lower()
                parts, end = parts + body.count(PART), body[1 - len(PART) :]
            return message

        async def sending(message: Message) -> None:
            nonlocal started, status
            started, status = True, message.get("status", status)
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
                del self._uploading[upload]
                self._parts_left = self._parts_left or status != 200
                taken += LEAST_BYTES * parts
                self._uploaded(client, taken)
                self._since_sweep += taken
                if self._since_sweep > self.limits.disk_bytes // 8:
                    self._since_sweep = 0
                    await anyio.to_thread.run_sync(partial(self.janitor.sweep))
                if self._parts_left:
                    self._parts_left = bool(self._uploading)
                    await anyio.to_thread.run_sync(partial(self._remove_parts, time.time()))

    def _remove_parts(self, now: float) -> None:
        time.sleep(2 * CLOCK_SECONDS)  # so that an upload that begins meanwhile is newer for certain
        begun = min(self._uploading.values(), default=now + 2 * CLOCK_SECONDS)
        remove_parts(self.files, min(begun - CLOCK_SECONDS, now + CLOCK_SECONDS))


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
