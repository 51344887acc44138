"""The doors of a guarded page, without Gradio."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from winwin_hf.served_page import Limits, connections
from winwin_hf.served_page import doors as door_rules
from winwin_hf.served_page.doors import Doors
from winwin_hf.served_page.files import Janitor, WorkFolder


class Page:
    """Stands for Gradio: reads the whole body, and answers when it is let."""

    def __init__(self) -> None:
        self.read = 0
        self.go = anyio.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        more = True
        while more:
            message = await receive()
            self.read += len(message.get("body", b""))
            more = message.get("more_body", False)
        await self.go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})


async def ask(
    doors: Doors, path: str = "/", bodies: tuple[bytes, ...] = (b"",), peer: str = "1.1.1.1", length: int = 0
) -> int:
    """The status."""
    waiting, statuses = list(bodies), []

    async def receive() -> dict[str, Any]:
        body = waiting.pop(0)
        return {"type": "http.request", "body": body, "more_body": bool(waiting)}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"content-length", str(length).encode())] if length else []
    method = "GET" if path == "/" else "POST"
    await doors(
        {"type": "http", "path": path, "method": method, "headers": headers, "client": (peer, 1)}, receive, send
    )
    return statuses[0]


def doors(folder: WorkFolder, page: Any, **limits: Any) -> Doors:
    bounds = Limits(**limits)
    return Doors(page, folder.files, (), bounds, Janitor(folder, bounds))


def test_connections_of_a_client_are_bounded(folder: WorkFolder) -> None:
    async def run() -> None:
        page = Page()
        guarded = doors(folder, page, client_connections=2)
        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(ask, guarded)
            await anyio.wait_all_tasks_blocked()
            assert await ask(guarded) == 429
            page.go.set()
            assert await ask(guarded, peer="2.2.2.2") == 200
        assert await ask(guarded) == 200 and not guarded._open

    anyio.run(run)


def test_bodies_are_bounded(folder: WorkFolder) -> None:
    async def run() -> None:
        page = Page()
        page.go.set()
        guarded = doors(folder, page, file_bytes=4000, request_bytes=1000)
        join, upload = "/gradio_api/queue/join", "/gradio_api/upload"
        assert await ask(guarded, join, (b"x" * 1000,), length=1000) == 200
        page.read = 0
        assert await ask(guarded, join, (b"x" * 1001,), length=1001) == 413 and page.read == 0
        assert await ask(guarded, join, (b"x" * 500,) * 9) == 413 and page.read == 1000  # without a length
        assert await ask(guarded, upload, (b"x" * 5000,), length=5000) == 200
        assert await ask(guarded, upload, (b"x" * 3000,) * 2) == 413

    anyio.run(run)


def test_uploads_of_a_client_are_bounded(folder: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(door_rules.time, "monotonic", lambda: now)

    async def run() -> None:
        nonlocal now
        page = Page()
        page.go.set()
        guarded = doors(folder, page, client_upload_bytes=10_000, kept_seconds=100)

        async def upload(peer: str = "1.1.1.1") -> int:
            return await ask(guarded, "/gradio_api/upload", (b"x" * 4000,), peer=peer, length=4000)

        assert [await upload() for _ in range(3)] == [200, 200, 429]
        assert await upload("2.2.2.2") == 200
        now += 30  # 3,000 bytes are forgotten
        assert [await upload() for _ in range(2)] == [200, 429]
        monkeypatch.setattr(door_rules, "KNOWN_CLIENTS", 5)
        for number in range(20):
            await upload(f"3.3.3.{number}")
        assert len(guarded._uploads) <= 5

    anyio.run(run)


def test_each_file_of_an_upload_counts(folder: WorkFolder) -> None:
    """A thousand files of a byte take as much of the disk as a thousand blocks; a header may be cut by the pieces that arrive."""

    async def run() -> None:
        page = Page()
        page.go.set()
        guarded = doors(folder, page, client_upload_bytes=100_000)
        header = b'--x\r\nCONTENT-disposition: form-data; name="files"; filename="a"\r\n\r\n1\r\n'
        whole = 10 * header
        for length in (7, len(header), len(whole)):
            pieces = tuple(whole[start : start + length] for start in range(0, len(whole), length))
            peer = f"1.1.1.{length}"
            statuses = [
                await ask(guarded, "/gradio_api/upload", pieces, peer=peer, length=len(whole)) for _ in range(3)
            ]
            assert statuses == [200, 200, 429], length

    anyio.run(run)


def test_what_broken_uploads_left_goes_at_once(folder: WorkFolder) -> None:
    """It stayed for an hour. What an upload that goes on has written stays."""

    async def receives(scope: Any, receive: Any, send: Any) -> None:  # as Gradio does
        part = folder.files / f"tmp{scope['headers'][0][1].decode()}"
        part.touch()
        while (message := await receive())["type"] == "http.request" and message["more_body"]:
            pass
        if message["type"] == "http.disconnect":
            raise GoneError
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def run() -> None:
        guarded = doors(folder, receives)

        async def upload(name: str, ended: anyio.Event, *end: Any) -> None:
            messages = iter([{"type": "http.request", "body": b"x", "more_body": True}, *end])

            async def receive() -> Any:
                message = next(messages)
                if message["type"] != "http.request" or not message["more_body"]:
                    await ended.wait()
                return message

            async def send(message: Any) -> None:
                pass

            headers = [(b"x", name.encode())]
            peer = ("1.1.1.1", 1)
            scope = {"type": "http", "path": "/gradio_api/upload", "method": "POST", "headers": headers, "client": peer}
            await guarded(scope, receive, send)

        gone = {"type": "http.disconnect"}
        whole = {"type": "http.request", "body": b"", "more_body": False}
        mine = folder.files / "a" / "tmp.png"
        mine.parent.mkdir()
        mine.write_bytes(bytes(10))
        early, late, now = anyio.Event(), anyio.Event(), anyio.Event()
        now.set()
        async with anyio.create_task_group() as group:
            await upload("broken", now, gone)
            assert not (folder.files / "tmpbroken").exists()
            group.start_soon(upload, "early", early, whole)
            await anyio.sleep(0.2)
            await upload("second", now, gone)
            assert (folder.files / "tmpearly").exists()
            group.start_soon(upload, "late", late, gone)
            await anyio.sleep(0.2)
            early.set()
            await anyio.sleep(0.5)
            assert not (folder.files / "tmpsecond").exists() and (folder.files / "tmplate").exists()
            late.set()
        assert not list(folder.files.glob("tmp*")) and mine.exists()

    anyio.run(run)


class GoneError(Exception):
    """Stands for starlette's ClientDisconnect."""


async def reads_all(scope: Any, receive: Any, send: Any) -> None:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise GoneError
        more = message["more_body"]
    await receive()
    raise GoneError


def test_a_body_that_stays_away_is_no_fault_of_the_page(folder: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_rules, "BODY_SECONDS", 0.01)
    part = {"type": "http.request", "body": b"x", "more_body": True}
    whole, gone = {**part, "more_body": False}, {"type": "http.disconnect"}

    async def status(*messages: Any) -> int:
        waiting, sent = list(messages), []

        async def receive() -> Any:
            if not waiting:
                await anyio.sleep_forever()
            return waiting.pop(0)

        async def send(message: Any) -> None:
            sent.append(message)

        guarded = doors(folder, reads_all)
        scope = {
            "type": "http",
            "path": "/gradio_api/upload",
            "method": "POST",
            "headers": [],
            "client": ("1.1.1.1", 1),
        }
        await guarded(scope, receive, send)
        assert not guarded._open
        return sent[0]["status"]

    assert anyio.run(status, part, gone) == anyio.run(status, part, part) == 408
    with pytest.raises(GoneError):  # all of the body was there, so this is a fault
        anyio.run(status, part, whole, gone)


def test_a_refusal_is_sent_before_the_body_comes(folder: WorkFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_rules, "DRAIN_SECONDS", 0.01)
    done: list[str] = []

    async def receive() -> Any:
        done.append("receive")
        await anyio.sleep_forever()

    async def send(message: Any) -> None:
        done.append(message["type"] + " " + message.get("body", b"").decode())

    scope = {"type": "http", "path": "/gradio_api/call/depth", "method": "POST", "client": ("1.1.1.1", 1)}
    anyio.run(doors(folder, Page()), {**scope, "headers": [(b"content-length", b"9" * 14)]}, receive, send)
    start, told, drained, end = done
    assert (
        "larger than the maximum of 1 MB" in told
        and drained == "receive"
        and start + end == ("http.response.start http.response.body ")
    )


@pytest.mark.parametrize(
    ("limits", "proxied", "kept"),
    [
        (Limits(client_connections=2), False, 4),
        (Limits(client_connections=2), True, 6),
        (Limits(connections=3), False, 3),
        (Limits(connections=3), True, 3),
    ],
)
def test_connections_without_a_request_are_bounded_and_closed(
    limits: Limits, proxied: bool, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    uvicorn = pytest.importorskip("uvicorn", reason="needs gradio (winwin-hf[demo])")
    from uvicorn.server import ServerState

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await go.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    async def run() -> None:
        nonlocal go
        go = asyncio.Event()
        config, state = uvicorn.Config(app), ServerState()
        config.load()
        kind = connections.bounded_connections(limits, proxied)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: kind(config=config, server_state=state, app_state={}), "127.0.0.1", 0)
        address = server.sockets[0].getsockname()[:2]

        asks, answer = await asyncio.open_connection(*address)  # its request is being answered all the time
        answer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        while not any(other.cycle for other in state.connections):
            await asyncio.sleep(0.001)
        slow = []
        for _ in range(5):
            slow.append(await asyncio.open_connection(*address))
            slow[-1][1].write(b"GET / HTTP/1.1\r\nHost: x\r\nX-")
            while not any(other.client == slow[-1][1].get_extra_info("sockname") for other in state.connections):
                await asyncio.sleep(0.001)
        assert len(state.connections) == kept
        for number, (reader, _) in enumerate(slow[: 6 - kept]):  # the oldest are closed
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b"", number
        assert not any(reader.at_eof() for reader, _ in slow[6 - kept :])
        monkeypatch.setattr(connections, "HEAD_SECONDS", 0.01)
        late = await asyncio.open_connection(*address)
        for byte in b"GET / HTTP":  # comes one by one, which doesn't help
            late[1].write(bytes([byte]))
            await asyncio.sleep(0.005)
        with contextlib.suppress(ConnectionError):
            assert await late[0].read() == b""
        go.set()
        assert (await asks.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        with contextlib.suppress(ConnectionError):
            assert await asks.read() == b""  # it asks nothing more
        for _, writer in [(asks, answer), late, *slow]:
            writer.close()
        server.close()

    go: Any = None
    asyncio.run(run())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such limit")
def test_handles_are_raised_as_far_as_they_may_be() -> None:
    code = """
import resource
from winwin_hf.served_page.connections import raise_handles
for soft, most in ((256, 300), (256, 200), (256, 2**62)):
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, 512))
    raise_handles(most)
    print(*resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    light = "import sys; sys.modules['winwin_command'] = None\n"  # else the package imports torch
    done = subprocess.run([sys.executable, "-c", light + code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n") == ["300 512", "256 512", "512 512", ""]


def test_requests_of_a_client_are_bounded() -> None:
    class Request:
        def __init__(self, client: str) -> None:
            self.scope = {connections.CLIENT: client}

    class Queue:
        def __init__(self) -> None:
            self.event_ids_to_events: dict[int, Any] = {}

        async def push(self, body: Any, request: Any, username: str | None) -> Any:
            self.event_ids_to_events[len(self.event_ids_to_events)] = type("Event", (), {"request": request})
            return True, "id", "success"

    class Blocks:
        _queue, fns = Queue(), {0: None}

    connections.bound_client(Blocks, Limits(client_waiting=3))

    async def push(client: str, event: int = 0, session: str | None = None) -> str:
        body = SimpleNamespace(fn_index=event, session_hash=session)
        return (await Blocks._queue.push(body=body, request=Request(client), username=None))[2]

    async def run() -> None:
        assert [await push("a") for _ in range(4)] == ["success"] * 3 + ["queue_full"]
        assert [await push("b", event) for event in (0, 1)] == ["success", "error"]
        Blocks._queue.event_ids_to_events.pop(0)
        assert await push("a") == "success"
        assert [await push("c", session=session) for session in ("", "mine")] == ["error", "success"]

    anyio.run(run)
