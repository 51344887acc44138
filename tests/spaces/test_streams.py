"""Answers and files of the demo that a stranger asks for twice, in odd parts or under no name; and where it can't be served."""

from __future__ import annotations

import concurrent.futures
import json
import os
import socket
import subprocess
import sys
import threading
import time
import types
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gradio", reason="needs gradio (winwin-hf[demo])")

import gradio as gr
from support import space_server
from support.space_requests import events, join, request, upload

from winwin_hf import served_page

PICTURE = space_server.SPACE / "examples" / "street.jpg"


@pytest.fixture(scope="module")
def demo() -> space_server.Server:
    return space_server.start()


@pytest.fixture(autouse=True)
def quiet_log(demo: space_server.Server) -> Iterator[None]:
    """No test here may leave a traceback in the server's log."""
    start = demo.log.stat().st_size
    yield
    with demo.log.open() as log:
        log.seek(start)
        assert "Traceback" not in log.read()


@pytest.fixture(scope="module")
def picture(demo: space_server.Server) -> dict[str, str]:
    """An uploaded picture, as a request names it."""
    return {"path": json.loads(upload(demo, ("street.jpg", PICTURE.read_bytes()))[1])[0]}


def asked(demo: space_server.Server, picture: dict[str, str], **more: str) -> str:
    """The id of an event that measures a depth."""
    status, text = request(demo, "/gradio_api/call/depth", {"data": [picture, "540p"], **more})
    assert status == 200, text
    return str(json.loads(text)["event_id"])


@pytest.mark.parametrize("session", [None, "mine"])
def test_an_answer_is_given_once(demo: space_server.Server, picture: dict[str, str], session: str | None) -> None:
    more = {} if session is None else {"session_hash": session + uuid.uuid4().hex}
    event = asked(demo, picture, **more)
    status, text = request(demo, f"/gradio_api/call/depth/{event}")
    assert status == 200 and "event: complete" in text
    status, text = request(demo, f"/gradio_api/call/depth/{event}")
    assert status == 404 and "taken already" in text
    if more:
        status, text = request(demo, f"/gradio_api/queue/data?session_hash={more['session_hash']}")
        assert status == 404 and "waits for an answer" in text


def test_two_cannot_listen_to_one_session(demo: space_server.Server, picture: dict[str, str]) -> None:
    """Each gets its own answer or a refusal; none waits for good."""
    session = uuid.uuid4().hex
    number = next(event["id"] for event in events(demo) if event["api_name"] == "depth")
    joined = {"data": [picture, "540p"], "fn_index": number, "session_hash": session}
    assert request(demo, "/gradio_api/queue/join", joined)[0] == 200
    answers: list[tuple[int, str]] = []

    def listen() -> None:
        answers.append(request(demo, f"/gradio_api/queue/data?session_hash={session}"))

    threads = [threading.Thread(target=listen) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
        assert not thread.is_alive()
    assert sorted(status for status, _ in answers)[0] == 200
    assert sum("process_completed" in text for _, text in answers) == 1
    assert all(status in (200, 404, 409) for status, _ in answers)


def test_a_session_without_a_name_is_refused(demo: space_server.Server) -> None:
    joined = {"data": [], "fn_index": 0, "session_hash": ""}
    status, text = request(demo, "/gradio_api/queue/join", joined)
    assert 400 <= status < 500 and "session_hash" in text
    assert request(demo, "/gradio_api/queue/data?session_hash=")[0] == 404


def test_what_always_has_a_value_may_not_be_empty(demo: space_server.Server, picture: dict[str, str]) -> None:
    """The number of an example, a size, an opacity: null is named and what was expected is said."""
    good = {"image": picture, "dataset": 0, "slider": 0.0, "radio": "540p", "quality": "fast", "video": None}
    found = set()
    for event in events(demo):
        kinds = event["inputs"]
        for place, kind in enumerate(kinds):
            if kind in ("dataset", "slider", "radio", "quality"):
                values = [None if other == place else good[name] for other, name in enumerate(kinds)]
                answer = join(demo, event["id"], values)
                assert not answer["success"] and "got nothing" in (answer["output"]["error"] or ""), (event, kind)
                found.add(kind)
    assert found == {"dataset", "slider", "radio", "quality"}


RANGES = [
    "bytes=0-1,3-4",
    "bytes=0-0,-1",
    "bytes=0-0-0",
    "bytes=5-1",
    "bytes=9999-,0-1",
    "bytes=a-b",
    "lines=1-2",
    "bytes=",
    "",
]


@pytest.mark.parametrize("odd", RANGES)
def test_an_odd_range_of_a_file_is_the_whole_file(demo: space_server.Server, odd: str) -> None:
    ask = urllib.request.Request(f"{demo.url}/gradio_api/file={PICTURE}", headers={"Range": odd})
    with urllib.request.urlopen(ask, timeout=60) as answer:
        assert answer.status == 200 and answer.read() == PICTURE.read_bytes()


@pytest.mark.parametrize(("plain", "part"), [("bytes=2-5", slice(2, 6)), ("bytes=100-", slice(100, None))])
def test_a_range_of_a_file_is_sent(demo: space_server.Server, plain: str, part: slice) -> None:
    ask = urllib.request.Request(f"{demo.url}/gradio_api/file={PICTURE}", headers={"Range": plain})
    with urllib.request.urlopen(ask, timeout=60) as answer:
        assert answer.status == 206 and answer.read() == PICTURE.read_bytes()[part]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--port", "99999"], 2, "1 to 65535"),
        (["--port", "TAKEN"], 1, "port that is free"),
    ],
)
def test_where_it_cannot_be_served_is_one_line(options: list[str], code: int, said: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        options = [str(taken.getsockname()[1]) if option == "TAKEN" else option for option in options]
        ended = subprocess.run(
            [sys.executable, str(space_server.SPACE / "app.py"), *options],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env={**os.environ, "GRADIO_TEMP_DIR": str(tmp_path)},
        )
    assert ended.returncode == code and said in ended.stderr, ended.stderr
    assert "Traceback" not in ended.stderr
    assert len([line for line in ended.stderr.splitlines() if "error: " in line]) == 1
    assert not list(tmp_path.iterdir())


def test_a_page_that_stops_says_so(space: types.SimpleNamespace, demo: space_server.Server) -> None:
    """What waits and what comes later is refused; what runs goes on to its end."""
    networks = space.networks.Networks(**demo.checkpoints)
    image, begun, may_end = np.zeros((32, 32, 3), np.uint8), threading.Event(), threading.Event()

    def slow() -> str:
        begun.set()
        may_end.wait(60)
        return "ended"

    with concurrent.futures.ThreadPoolExecutor(2) as clients:
        running = clients.submit(networks._run, slow)
        assert begun.wait(60)
        waiting = clients.submit(networks.depth, image)
        while not networks._worker._work_queue.qsize():
            time.sleep(0.01)
        networks.close()
        may_end.set()
        assert running.result(60) == "ended"
        with pytest.raises(gr.Error, match="being stopped"):
            waiting.result(60)
    with pytest.raises(gr.Error, match="being stopped"):
        networks.segment(image)


def test_an_address_in_the_environment_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_SERVER_NAME", "nope.invalid")
    with pytest.raises(ValueError, match=r"host nope\.invalid"):
        served_page.check_address(None, None)
    for host in ("a" * 300, "203.0.113.1", "a..b"):
        with pytest.raises(ValueError, match="expected an address of this machine"):
            served_page.check_address(host, None)
