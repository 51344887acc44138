"""What a command waits for and reads when a Hub is slow, broken or hostile."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
from typing import Any

import pytest
from huggingface_hub import HfApi, constants, get_session, hf_hub_download, set_client_factory
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils._http import default_client_factory
from support.http_library import http_library

from winwin_hf.cli import hub
from winwin_hf.cli.errors import line_of
from winwin_hf.hub.push import PublishError, _clear_errors


class Hub(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def start(self, **headers: str) -> None:
        self.send_response(200)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def drip(self, piece: bytes, pause: float) -> None:
        try:
            while not self.server.over.wait(pause):
                self.wfile.write(piece)
                self.wfile.flush()
        except OSError:
            pass

    def do_HEAD(self) -> None:
        tag = {"/climbing": "../../../../climbed", "/token": "hf_" + "canary01" * 4}.get(
            self.path[self.path.rfind("/") :], "1"
        )
        size = "40000000000" if self.path.endswith("/vast") else "1000000"
        self.start(ETag=f'"{tag}"', X_Repo_Commit="0" * 40, Content_Length=size)

    def do_GET(self) -> None:
        kind = self.path.rpartition("/")[2]
        if "/resolve/" in self.path and kind in ("endless", "vast"):
            self.start(Connection="close", **({"Content_Length": "40000000000"} if kind == "vast" else {}))
            self.drip(b"[" * 300_000, 0.001)
        elif "/resolve/" in self.path:
            self.start(Content_Length="1000000")
            self.drip(b"x", 0.05)
        elif kind in ("part", "part-and-more"):
            more = kind == "part-and-more"
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            self.send_response(206)
            self.send_header("Content-Length", str(last - first + 1 + more))
            self.end_headers()
            self.wfile.write(b"x" * (last - first + 1 + more))
        elif kind == "headers":
            body = json.dumps({"authorization": self.headers.get("Authorization")}).encode()
            self.start(Content_Length=str(len(body)))
            self.wfile.write(body)
        elif kind == "silent":
            self.server.over.wait(60)
        elif kind == "drip":
            self.start(Content_Length="1000000")
            self.drip(b" ", 0.05)
        elif kind == "header":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX-A: ")
            self.drip(b"x", 0.05)
        elif kind == "endless":
            self.start(Connection="close")
            self.drip(b"[" * 30_000, 0.001)
        elif kind == "bomb":
            body = gzip.compress(b" " * 1_000_000)
            self.start(Content_Length=str(len(body)), Content_Encoding="gzip")
            self.wfile.write(body)
        elif kind.startswith("pages"):
            page = f"http://127.0.0.1:{self.server.server_port}/api/models/a/b/tree/pages?n=1"
            self.start(Content_Length="2", Link=f'<{page}>; rel="next"')
            self.wfile.write(b"[]")
        else:
            body = json.dumps({"id": "a/b", "sha": "0" * 40, "siblings": []}).encode()
            self.start(Content_Length=str(len(body)))
            self.wfile.write(body)


@pytest.fixture
def place(monkeypatch):
    """The address of a server, of which a command's limits are small."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads, server.over = True, threading.Event()
    server.handle_error = lambda *_: None  # clients that hang up
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    limits = {"SILENCE": 0.3, "WHOLE": 0.6, "LOST": 0.9, "LARGEST_ANSWER": 100_000, "SLOWEST_FILE": (1000, 0.3)}
    for name, value in limits.items():
        monkeypatch.setattr(hub, name, value)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hub.limit_hub()
    hub.limit_hub()  # of a second command in one process
    yield f"http://127.0.0.1:{server.server_port}"
    server.over.set()
    server.shutdown()
    set_client_factory(default_client_factory)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("drip", "no whole answer in 1 s"),
        ("header", "no whole answer in 1 s"),
        ("endless", "an answer of more than 100 kB, which is too large"),
        ("bomb", "an answer packed as gzip; expected a plain one, as was asked for"),
    ],
)
def test_slow_and_large_answers_end(place, kind, message):
    with pytest.raises(hub.BadAnswer) as error:
        HfApi(endpoint=place).model_info(f"a/{kind}")
    assert str(error.value) == f"{place}/api/models/a/{kind}: {message}"
    assert HfApi(endpoint=place).model_info("a/right").sha == "0" * 40


def test_a_silent_host_is_not_asked_for_ever(place):
    for error, message in [*[("ReadTimeout", "timed out")] * 3, ("BadAnswer", "let 1 s pass without an answer")]:
        with pytest.raises(Exception, match=message) as found:
            HfApi(endpoint=place).model_info("a/silent")
        assert type(found.value).__name__ == error


def test_a_slow_file_ends(place, tmp_path):
    with pytest.raises(hub.BadAnswer, match=r"/a/b/resolve/main/x\.bin: \d+ bytes in 0 s; expected 1000 or more"):
        hf_hub_download("a/b", "x.bin", cache_dir=tmp_path, endpoint=place)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("endless", r"endless: an answer of more than 1 MB, which is too large"),  # written until the disk was full
        ("vast", r"vast: a file of 40(.0)? GB; the disk of the Hub's cache has 1(.0)? GB \(HF_HOME\)"),
        ("climbing", "climbing: its etag is no checksum, and would name a file"),
        ("token", "token: its etag is no checksum"),
    ],
)
def test_a_file_is_as_large_as_announced_and_stays_in_the_cache(place, tmp_path, monkeypatch, name, message):
    cache = tmp_path / "a" / "b" / "c"
    monkeypatch.setattr(hub, "_free", lambda: 10**9)
    with pytest.raises(hub.BadAnswer, match=message) as error:
        hf_hub_download("a/b", name, cache_dir=cache, endpoint=place)
    assert "canary" not in str(error.value)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(cache) and path.stat().st_size <= 1_000_000 for path in files)
    assert not any("climbed" in path.name or "canary" in path.name for path in files)


def test_a_part_of_a_file_is_as_large_as_was_asked_for(place):
    """Streamed data sets read parts of any size into memory."""
    asked = {"Range": "bytes=5-1000004"}
    assert len(get_session().get(f"{place}/part", headers=asked).content) == 1_000_000 > hub.LARGEST_ANSWER
    with pytest.raises(hub.BadAnswer, match="an answer of more than 1 MB"):
        get_session().get(f"{place}/part-and-more", headers=asked)


def test_the_token_goes_to_the_hubs_own_host_alone(place, monkeypatch):
    token = "hf_" + "canary01" * 4
    monkeypatch.setenv("HF_TOKEN", token)
    for endpoint, expected in ((place, f"Bearer {token}"), ("https://hub.example", None)):
        monkeypatch.setattr(constants, "ENDPOINT", endpoint)
        got = get_session().get(f"{place}/headers", headers={"Authorization": f"Bearer {token}"}).json()
        assert got == {"authorization": expected}


def test_an_answer_that_holds_the_token_is_not_used(place, monkeypatch):
    """What a Hub calls a commit, huggingface_hub writes into its cache."""
    token = "hf_" + "canary01" * 4
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setattr(constants, "ENDPOINT", place)
    with pytest.raises(hub.BadAnswer, match="/api/headers: its answer holds the token") as caught:
        get_session().get(f"{place}/api/headers", headers={"Authorization": f"Bearer {token}"})
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("hub.example", True),
        ("HUB.example", True),
        ("data.hub.example", True),
        ("hub.example:81", False),
        ("nothub.example", False),
        ("hub.example.org", False),
    ],
)
def test_hosts_of_the_hub(monkeypatch, host, own):
    monkeypatch.setattr(constants, "ENDPOINT", "https://me:secret@Hub.example/path")
    assert hub._is_the_hubs(host) is own


def test_a_commit_may_take_its_time(place):
    """httpx's own 5 s won over the limits, and a commit that was made counted as failed."""
    assert get_session().timeout.read is None and hub.SENDING >= 300


@pytest.mark.parametrize("value", ["99999999", "1e9", "60"])
def test_a_hub_may_ask_for_a_pause_of_minutes(value):
    response = httpx_response({"retry-after": value, "ratelimit": '"api";r=0;t=4000'})
    hub._check(response)
    assert response.headers.get("retry-after") == (None if value == "99999999" else value)
    assert "ratelimit" not in response.headers


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (LocalEntryNotFoundError("x"), None),
        (hub.BadAnswer("http://hub/x: no whole answer in 120 s"), "http://hub/x: no whole answer in 120 s"),
        (KeyError("sha"), "the answer of https://hub.example isn't what a Hub sends"),
    ],
)
def test_the_line_says_what_was_answered(error, expected, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    shown = OSError(
        "no model could be loaded from 'a/b' (bundled: none): We couldn't connect to 'https://hub.example' to load"
    )
    shown.__cause__ = LocalEntryNotFoundError("y")
    shown.__cause__.__cause__ = error
    start = "no model could be loaded from 'a/b' (bundled: none): "
    assert line_of(shown) == (f"{start}{expected}; nothing of it is in the cache" if expected else str(shown))


def test_the_line_says_the_status(monkeypatch):
    error = HfHubHTTPError("403", response=httpx_response({}, 403))
    for text in (
        "We couldn't connect to 'http://hub' to load the files, and couldn't find them in the cached files.",
        "Can't load the configuration of 'a/b'. If you were trying to load it from ... containing a config.json file",
        "Can't load the model for 'a/b'. If you were trying to load it from ... containing a file named model.ckpt",
        "Can't load image processor for 'a/b'. If you were trying to load it from ... a preprocessor_config.json file",
    ):
        shown = OSError(f"a/b: no model ({text})")
        shown.__cause__ = error
        assert line_of(shown) == "a/b: no model (http://hub/a/b answered 403; nothing of it is in the cache)"
        shown.__cause__ = ConnectionError("a handled KeyError before it says nothing")
        shown.__cause__.__context__ = OfflineModeIsEnabled("offline")
        shown.__cause__.__context__.__context__ = KeyError("x")
        assert line_of(shown) == str(shown)


def test_the_line_says_that_a_file_broke_off():
    broken = http_library.RemoteProtocolError(
        "peer closed connection without sending complete message body (received 3 bytes, expected 9)",
        request=http_library.Request("GET", "http://hub/a/b/model.safetensors"),
    )
    shown = OSError("no model could be loaded from 'a/b': Can't load the model for 'a/b'. If you were trying to")
    shown.__context__ = broken
    assert line_of(shown) == (
        "no model could be loaded from 'a/b': http://hub/a/b/model.safetensors: peer closed connection without sending complete "
        "message body (received 3 bytes, expected 9); nothing of it is in the cache"
    )


def test_the_line_says_that_a_connection_was_lost(monkeypatch):
    """In the place of transformers' advice about a folder of that name."""
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example")
    shown = OSError("no model could be loaded from 'a/b': Can't load the model for 'a/b'. If you were trying to")
    shown.__context__ = http_library.ReadTimeout("slow", request=http_library.Request("GET", "http://hub/a/b"))
    assert line_of(shown) == (
        "no model could be loaded from 'a/b': the connection to https://hub.example failed; nothing of it is in the cache"
    )


@pytest.mark.parametrize("answer", ['{"sha": 3', "[1, 2]", '"x"', "null", "[" * 100_000])
def test_a_push_names_an_odd_answer(answer):
    api, message = (
        HfApi(endpoint="http://me:password@hub"),
        r"^the answer of http://\*\*\*@hub isn't what a Hub sends \(",
    )
    with pytest.raises(PublishError, match=message), _clear_errors(api, "a/b"):
        json.loads(answer)["name"].upper()


def httpx_response(headers: dict[str, str], status: int = 200) -> Any:
    request = http_library.Request("GET", "http://user:password@hub/a/b?token=x")
    return http_library.Response(status, headers=headers, request=request, content=b"")


def test_a_list_whose_pages_do_not_end(place, monkeypatch):
    monkeypatch.setattr(hub, "MOST_PAGES", 20)
    with pytest.raises(hub.BadAnswer, match="tree/pages: a list of more than 20 pages"):
        list(HfApi(place).list_repo_tree("a/b", revision="pages", recursive=True))
