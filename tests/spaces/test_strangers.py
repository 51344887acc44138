"""The demo and the metrics' pages under attack, by plain HTTP: the server's files, other hosts, other routes, too much of anything."""

from __future__ import annotations

import http.server
import itertools
import json
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio", reason="needs gradio (winwin-hf[demo])")

import contextlib

from support import space_server
from support.space_requests import call, events, join, request, upload

from winwin_hf.data import formats
from winwin_hf.served_page import Limits
from winwin_hf.served_page.connections import client_of
from winwin_hf.served_page.doors import DRAIN_SECONDS
from winwin_hf.served_page.files import LOCK

META = {"meta": {"_type": "gradio.FileData"}}
METRICS = ("optical_flow", "monocular_depth", "semantic_segmentation")
NOT_OURS = "is not among the files that were uploaded here"


@pytest.fixture(params=["demo", *(pytest.param(name, marks=pytest.mark.slow) for name in METRICS)])
def server(request: pytest.FixtureRequest) -> space_server.Server:
    return space_server.start() if request.param == "demo" else space_server.start_metric(request.param)


@pytest.fixture(scope="module")
def demo() -> space_server.Server:
    return space_server.start()


@pytest.fixture(scope="module")
def canary(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of the server that nobody uploaded, of each kind that a page reads: suffix -> file."""
    folder = tmp_path_factory.mktemp("elsewhere")
    Image.fromarray(np.full((64, 64, 3), 77, np.uint8)).save(folder / "canary.png")
    np.save(folder / "canary.npy", np.ones((2, 64, 64), np.float32))
    (folder / "canary.mp4").write_bytes((space_server.SPACE / "examples" / "bedroom.mp4").read_bytes())
    return {path.suffix: path for path in folder.iterdir()}


class Listener(http.server.BaseHTTPRequestHandler):
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"secret of another host")

    do_HEAD = do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def listener() -> Iterator[str]:
    """Another server of this machine, which must not be asked anything."""
    other = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=other.serve_forever, daemon=True).start()
    Listener.asked.clear()
    yield f"http://127.0.0.1:{other.server_address[1]}"
    other.shutdown()
    other.server_close()
    assert not Listener.asked


VALUES = {"slider": 0.0, "radio": "1080p", "quality": "fast", "number": 19, "dataset": 0}


def with_files(event: dict[str, Any], values: list[Any]) -> list[Any]:
    """Inputs of an event, with `values` in the places of its files."""
    files = itertools.cycle(values)
    return [next(files) if kind in ("image", "video", "file") else VALUES[kind] for kind in event["inputs"]]


def spellings(path: Path, files: Path) -> list[str]:
    up = "/".join([".."] * len(files.parts))
    return [
        str(path),
        f"{files}/{up}{path}",
        f"{files}{path}/../../{path.name}",
        f"file://{path}",
        f"file:{path}",
        urllib.parse.quote(str(path), safe=""),
        str(path).upper(),
        f"//{path}",
        path.name,
        f"~/{path.name}",
        f"\\\\?\\{path}",
        str(path).replace("/", "\\"),
        f"{path}\0.png",
        f"/proc/self/root{path}",
        f"/gradio_api/file={path}",
    ]


def test_other_files_of_the_server_are_not_read(
    server: space_server.Server, canary: dict[str, Path], listener: str
) -> None:
    with_inputs = [event for event in events(server) if {"image", "video", "file"} & set(event["inputs"])]
    assert with_inputs
    asked_before = set()  # every spelling at one event of each kind of input, some at all events
    for event in with_inputs:
        suffix = ".mp4" if "video" in event["inputs"] else ".npy" if "file" in event["inputs"] else ".png"
        path = canary[suffix]
        gone = path.with_name("nothere" + suffix)
        link = server.files / f"{uuid.uuid4().hex}{suffix}"
        link.symlink_to(path)
        asked = f"{listener}/picture{suffix}"
        pairs = [*zip(spellings(path, server.files), spellings(gone, server.files), strict=True)]
        pairs[1:1] = [pairs[0]] * 2  # with each of the metas below
        if suffix in asked_before:
            pairs = pairs[:3]
        asked_before.add(suffix)
        pairs += [(str(link), str(link.with_name(link.name[1:]))), (asked, asked), (asked.upper(), asked.upper())]
        metas = (META, {}, {**META, "is_stream": True, "url": asked})
        for number, (there, missing) in enumerate(pairs):
            meta = metas[number % 3]
            said = []
            for named in (there, missing):
                answer = join(server, event["id"], with_files(event, [{"path": named, **meta}]))
                assert not answer["success"], (event["api_name"], named)
                assert NOT_OURS in answer["output"]["error"], named
                name = named.replace("\\", "/").rpartition("/")[2]
                said.append(json.dumps(answer["output"]).replace(json.dumps(repr(name))[1:-1], "NAME"))
            assert said[0] == said[1], there
        link.unlink()
        for value in (
            {"url": asked, **META},
            {"url": asked},
            {"url": f"data:image/png;base64,{'A' * 9}", **META},
            str(path),
        ):
            answer = join(server, event["id"], with_files(event, [value]))
            assert not answer["success"] and "uploaded file" in answer["output"]["error"], value


def test_named_endpoints_are_guarded_too(demo: space_server.Server, canary: dict[str, Path]) -> None:
    for name, more in (("segment", [0.0, "1080p"]), ("depth", ["1080p"])):
        for value in ({"path": str(canary[".png"])}, {"path": str(canary[".png"]), **META}):
            answer = call(demo, name, [value, *more])
            assert answer.startswith("event: error") and NOT_OURS in answer
    status, text = request(demo, "/gradio_api/call/v2/depth", {"image": {"path": str(canary[".png"])}, "size": "1080p"})
    if status == 200:
        assert NOT_OURS in request(demo, f"/gradio_api/call/v2/depth/{json.loads(text)['event_id']}")[1]


def test_an_upload_is_read(demo: space_server.Server, canary: dict[str, Path]) -> None:
    """So that what refuses a canary isn't only that it refuses everything."""
    status, text = upload(demo, ("../../../../../canary.png", canary[".png"].read_bytes()))
    (path,) = json.loads(text)
    assert status == 200 and demo.files in Path(path).resolve().parents
    for value in ({"path": path}, {"path": path, **META}):
        assert call(demo, "segment", [value, 0.0, "1080p"]).startswith("event: complete")


@pytest.mark.parametrize(
    "name", ["..", ".", "../..", "/etc/cron.d/canary", "a\\..\\b.png", "\0.png", "%2e%2e%2fb.png", "x" * 300]
)
def test_names_of_uploads_stay_inside(demo: space_server.Server, name: str) -> None:
    # older versions of Gradio leave parts of a refused upload in the page's temporary folder, which the janitor empties
    inside = {demo.files, demo.files.with_name("temporary")}
    before = {path for path in demo.home.rglob("*") if not inside & {*path.parents}}
    status, text = upload(demo, (name, b"some bytes"))
    if status == 200:
        (path,) = json.loads(text)
        assert demo.files in Path(path).resolve().parents
    assert {path for path in demo.home.rglob("*") if not inside & {*path.parents}} == before


def test_only_own_files_are_served(server: space_server.Server, canary: dict[str, Path], listener: str) -> None:
    here = server.home / "canary.txt"  # the folder in which the page was started
    here.write_text("canary")
    link = server.files / "link.png"
    link.symlink_to(canary[".png"])
    config = json.loads(request(server, "/config")[1])
    others = [
        *spellings(canary[".png"], server.files),
        *spellings(here, server.files),
        *map(str, (link, server.files.parent / LOCK, server.files, server.files.parent)),
        str(space_server.SPACE / "app.py"),
        str(space_server.SPACE / "examples" / "README.md"),
        f"{listener}/file",
        listener.upper(),
        f"http:/{listener[7:]}",
    ]
    for path, quoted in itertools.product(others, (False, True)):
        asked = urllib.parse.quote(path, safe="" if quoted else "/:=%?\\")
        for route in ("/gradio_api/file=", "/gradio_api/file/", "/file=", "/gradio_api/proxy=", "/gradio_api/stream/"):
            status, text = request(server, route + asked)
            assert status in (403, 404), (route, path)
            assert "canary" not in text and "secret" not in text
    link.unlink()
    for route in ("/static/", "/assets/", "/svelte/"):
        for up in ("../" * 12, "%2e%2e/" * 12, "..%2f" * 12, "/"):
            assert request(server, f"{route}{up}{str(here)[1:]}")[0] in (400, 403, 404), route
    assert config["title"]  # it is well


def test_examples_are_served(demo: space_server.Server) -> None:
    assert request(demo, f"/gradio_api/file={space_server.SPACE / 'examples' / 'street.jpg'}")[0] == 200
    click = next(event for event in events(demo) if event["inputs"] == ["dataset"])
    assert request(demo, f"/gradio_api/run/{click['api_name']}", {"data": [0], "fn_index": click["id"]})[0] == 200
    for number in (-1, 99, "0", [0], {"path": "/etc/hostname"}, True, None, 0.5):
        answer = join(demo, click["id"], [number])
        assert not answer["success"] or number is None, number


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/gradio_api/process_recording"),
        ("GET", "/gradio_api/deep_link"),
        ("GET", "/monitoring"),
        ("GET", "/monitoring/summary"),
        ("POST", "/gradio_api/component_server"),
        ("POST", "/gradio_api/vibe-code"),
        ("GET", "/gradio_api/runs"),
        ("GET", "/gradio_api/token"),
        ("GET", "/gradio_api/dev/reload"),
        ("GET", "/docs"),
        ("DELETE", "/"),
        ("PUT", "/gradio_api/upload"),
    ],
)
def test_routes_that_the_page_needs_not_are_closed(demo: space_server.Server, method: str, path: str) -> None:
    asked = urllib.request.Request(demo.url + path, b"{}" if method != "GET" else None, method=method)
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(asked, timeout=60)
    assert error.value.code == 404


def test_the_queue_has_no_side_door(demo: space_server.Server) -> None:
    for event in events(demo):
        if {"image", "video"} & set(event["inputs"]):
            for route in ("run", "api"):
                status, text = request(
                    demo, f"/gradio_api/{route}/{event['api_name']}", {"data": [], "fn_index": event["id"]}
                )
                assert status == 404 and "queue" in text


WRONG = [
    7,
    "text",
    [],
    [1],
    {},
    {"path": 7},
    {"path": ""},
    {"path": None, "url": None},
    True,
    {"path": "x" * 9999},
    [{"path": "x"}],
]


def test_wrong_types_are_named(server: space_server.Server) -> None:
    with_inputs = [event for event in events(server) if {"image", "video", "file"} & set(event["inputs"])]
    for number, event in enumerate(with_inputs):
        if (event["api_name"] or "").endswith("_of_example"):
            continue
        for wrong in WRONG if number == 0 else WRONG[:3]:
            answer = join(server, event["id"], with_files(event, [wrong]))
            assert not answer["success"] and answer["output"]["error"], (event["api_name"], wrong)
        for count in (0, len(event["inputs"]) + 1):
            answer = join(server, event["id"], [None] * count)
            assert f"got {count}" in (answer["output"]["error"] or ""), event["api_name"]
        for place, kind in enumerate(event["inputs"]):
            numbers = ("text", float("nan"), float("inf"), -1e8, 10**400) if kind in ("slider", "number") else (7,)
            for wrong in ({"a": 1}, *numbers):
                values = with_files(event, [None])
                values[place] = wrong
                answer = join(server, event["id"], values)
                assert not answer["success"] and answer["output"]["error"], (event["api_name"], kind, wrong)


LONG = "x" * 5000
# Bodies that fit no event, and what POST routes say to them.
ODD_BODIES: list[Any] = [
    *(
        {"data": [], "session_hash": "abc", "fn_index": number}
        for number in (-1, 10**9, 10**300, "x", 0.5, [1], {}, LONG)
    ),
    *({"data": data, "session_hash": "abc", "fn_index": -1} for data in (5, None, LONG, {})),
    {"data": [], "session_hash": [LONG], "fn_index": -1},
    *([], 5, None, LONG, {}),
    *(b"{" + LONG.encode(), b"[" * 100_000, b"\xff\xfe", b""),
]


def test_what_a_page_hasnt_got_is_one_sentence_and_no_traceback(server: space_server.Server) -> None:
    start = server.log.stat().st_size
    asked = [
        (path, {"data": []})
        for name in ("nope", LONG)
        for path in (
            f"/gradio_api/call/{name}",
            f"/gradio_api/call/v2/{name}",
            f"/gradio_api/run/{name}",
            f"/gradio_api/api/{name}",
        )
    ]
    known = next(
        event["api_name"] for event in events(server) if event["inputs"] and event["api_visibility"] == "public"
    )
    asked += [
        (f"/gradio_api/{route}", body) for body in ODD_BODIES for route in ("queue/join", "run/predict", "api/predict")
    ]
    asked += [(f"/gradio_api/call/v2/{known}", {LONG: 1}), (f"/gradio_api/call/v2/{known}", {})]
    asked += [
        (f"/gradio_api/{route}", body) for body in ODD_BODIES[-8:] for route in (f"call/{known}", "cancel", "reset")
    ]
    for path, body in asked:
        for kind in ("application/json", "text/plain") if isinstance(body, bytes) else ("application/json",):
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            status, text = request(server, path, data, **{"Content-Type": kind})
            assert 400 <= status < 500, (path, body, status, text)
            assert isinstance(json.loads(text)["detail"], str) and len(text) < 400, (path, body, text)
    for path in (
        "/gradio_api/queue/data",
        "/gradio_api/queue/data?session_hash=nope",
        f"/gradio_api/queue/data?session_hash={LONG}",
        f"/gradio_api/call/{known}/nope",
        f"/gradio_api/call/{known}/{LONG}",
        "/gradio_api/call/nope/nope",
    ):
        status, text = request(server, path)
        assert status == 404 and len(text) < 400, (path, status, text)
    for kind in ("text/plain", "multipart/form-data", "multipart/form-data; boundary=", "application/json"):
        assert request(server, "/gradio_api/upload", b"hello", **{"Content-Type": kind})[0] == 400
    with server.log.open() as log:
        log.seek(start)
        assert "Traceback" not in log.read()


def test_refusals_are_short_and_told_once(demo: space_server.Server) -> None:
    own = upload(demo, ("room.jpg", (space_server.SPACE / "examples" / "room.jpg").read_bytes()))[1]
    picture, number = {"path": json.loads(own)[0]}, {}
    number.update((event["api_name"], event["id"]) for event in events(demo))

    def said(name: str, data: list[Any]) -> str:
        answer = join(demo, number[name], data)
        assert not answer["success"] and len(json.dumps(answer["output"])) < 400
        return answer["output"]["error"]

    assert "expected one of fast, best, got 'xxx" in said("flow", [picture, picture, "540p", LONG])
    expected = "expected one of 540p, 720p, 1080p, got 'xxx"
    assert expected in said("depth", [picture, LONG]) and expected in said("segment", [picture, 0.5, LONG])
    assert "from 0 to 1, got 7" in said("overlay", [picture, 7, "1080p"])
    assert "is not among" in said("depth", [{"path": f"/tmp/{LONG}"}, "1080p"])
    for name in ("room.jpg", "none.jpg"):  # whether or not an example lies there
        path = str(space_server.SPACE / "examples" / name)
        assert f"'{name}' is not among the files that were uploaded here" in said("depth", [{"path": path}, "1080p"])
    video = (space_server.SPACE / "examples" / "bedroom.mp4").read_bytes()
    for name, content in (
        ("head.mp4", video[:64]),
        ("empty.mp4", b""),
        ("text.mp4", b"hello"),
        (f"{LONG[:200]}.mp4", video[:64]),
    ):
        path = json.loads(upload(demo, (name, content))[1])[0]
        text = said("flow_of_video", [{"path": path}, "360p", "fast"])
        assert text.startswith(name[:60]) and text.count("Please") == 1 and "folder" not in text and "'" not in text
        assert str(demo.home) not in text
        assert str(demo.home) not in said("depth", [{"path": path}, "1080p"])


def test_too_much_in_one_request_is_refused(demo: space_server.Server) -> None:
    before = sum(path.stat().st_size for path in demo.files.rglob("*") if path.is_file())
    status, text = upload(demo, *((f"{number}.bin", bytes(1 << 20)) for number in range(40)))
    assert status == 413 and "33 MB" in text
    status, _ = request(demo, "/gradio_api/queue/join", b"[" * (2 << 20), **{"Content-Type": "application/json"})
    assert status == 413
    chunks = (bytes(1 << 20) for _ in range(40))  # no Content-Length
    asked = urllib.request.Request(
        f"{demo.url}/gradio_api/upload", chunks, {"Content-Type": "multipart/form-data; boundary=b"}
    )
    with pytest.raises((urllib.error.HTTPError, OSError)):
        urllib.request.urlopen(asked, timeout=60)
    assert sum(path.stat().st_size for path in demo.files.rglob("*") if path.is_file()) - before < 1 << 20


def send_raw(server: space_server.Server, sent: bytes) -> socket.socket:
    address = urllib.parse.urlsplit(server.url)
    connection = socket.create_connection((address.hostname, address.port), timeout=60)
    connection.sendall(sent)
    return connection


BODIES = {  # a route -> how a body begins, and its type
    "upload": (
        b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nabc',
        "multipart/form-data; boundary=b",
    ),
    **dict.fromkeys(
        ("call/depth", "call/v2/depth", "queue/join", "run/overlay", "api/overlay", "cancel", "reset"),
        (b'{"data": [', "application/json"),
    ),
}


def test_who_hangs_up_in_mid_body_leaves_nothing_in_the_log(demo: space_server.Server) -> None:
    before = demo.log.read_text()
    for route, (begun, kind) in BODIES.items():
        head = (
            f"POST /gradio_api/{route} HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: 1000000\r\n\r\n"
        )
        with send_raw(demo, head.encode() + begun) as connection:
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1000) == b"", route  # the page has noticed
    request(demo, "/config")
    assert demo.log.read_text() == before


@pytest.mark.parametrize("route", BODIES)
def test_a_body_of_any_size_is_refused_before_it_comes(demo: space_server.Server, route: str) -> None:
    head = f"POST /gradio_api/{route} HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n"
    with send_raw(demo, head.encode()) as connection:
        connection.settimeout(DRAIN_SECONDS / 2)
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")


def test_connections_that_ask_nothing_are_bounded(demo: space_server.Server) -> None:
    most = 2 * Limits().client_connections
    slow = [send_raw(demo, b"GET / HTTP/1.1\r\nHost: x\r\nX-") for _ in range(most + 10)]
    assert request(demo, "/config")[0] == 200
    for connection in slow[:10]:
        with contextlib.suppress(ConnectionResetError):
            assert connection.recv(1000) == b""
    for connection in slow:
        connection.close()


# ------------------------------------------------------------------ what one client may use, and what is kept


def test_results_of_the_server_can_be_named_again(demo: space_server.Server, canary: dict[str, Path]) -> None:
    _, text = upload(demo, ("mine.png", canary[".png"].read_bytes()))
    answer = call(demo, "depth", [{"path": json.loads(text)[0]}, "1080p"])
    depth = json.loads(answer.partition("data: ")[2])[4]
    assert request(demo, f"/gradio_api/file={depth['path']}")[0] == 200
    assert formats.read_npy(depth["path"]).shape == (64, 64)


def scope(peer: str, *forwarded: str) -> dict[str, Any]:
    return {"client": (peer, 1), "headers": [(b"x-forwarded-for", value.encode()) for value in forwarded]}


def test_clients_are_told_apart_by_what_the_proxy_saw() -> None:
    assert client_of(scope("1.1.1.1", "8.8.8.8"), behind_proxy=False) == "1.1.1.1"
    assert client_of(scope("10.0.0.1", "8.8.8.8"), behind_proxy=True) == "8.8.8.8"
    # the first is the client's invention, the last a proxy's own address
    assert client_of(scope("10.0.0.1", "9.9.9.9, 8.8.8.8, 10.2.0.7"), behind_proxy=True) == "8.8.8.8"
    assert client_of(scope("10.0.0.1", "9.9.9.9", "8.8.8.8"), behind_proxy=True) == "8.8.8.8"
    assert client_of(scope("10.0.0.1"), behind_proxy=True) == "10.0.0.1"
    one, two = (client_of(scope(f"2606:4700:1:1::{last}"), behind_proxy=False) for last in (1, 2))
    assert one == two != client_of(scope("2606:4700:1:2::1"), behind_proxy=False)
