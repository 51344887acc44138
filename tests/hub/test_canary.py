"""A server that sends back what it was sent, and an address with a password: neither token nor password is printed or written."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.places import HANGS_AFTER
from support.shards import make_rows

from winwin_hf.data.rows import table
from winwin_hf.data.shards import write_shards

TOKEN, PASSWORD = "hf_canaryCanaryCanaryCanaryCanary12345", "canary-Password-77"
STATUSES = (401, 403, 404, 429, 500)

CHILD = """
import json, os, sys, time
time.sleep = lambda seconds: None  # huggingface_hub waits before it tries again
from huggingface_hub import constants
from winwin_hf.cli.main import app
commands, with_password, without = json.loads(sys.argv[1])
for endpoint in (with_password, without):  # httpx sends a password in place of the token
    os.environ["HF_ENDPOINT"] = constants.ENDPOINT = endpoint
    constants.HUGGINGFACE_CO_URL_TEMPLATE = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    for arguments in commands:
        print("##", arguments[:2], flush=True)
        os.environ.pop("WINWIN_TRACEBACK", None)
        try:
            app(arguments)
        except SystemExit as end:
            print("## ended with", end.code, flush=True)
"""


class Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    asked = 0
    sent_tokens = 0

    def do_GET(self) -> None:
        Echo.asked += 1
        Echo.sent_tokens += TOKEN in str(self.headers)
        length = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(length)
        said = f"{self.headers.get('Authorization')} was sent to {self.path} of {self.server.url}"  # type: ignore[attr-defined]
        body = json.dumps({"error": said}).encode()
        self.send_response(STATUSES[Echo.asked // 3 % len(STATUSES)])
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Error-Message", said)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_POST = do_PUT = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echo() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    server.url = f"http://somebody:{PASSWORD}@127.0.0.1:{server.server_address[1]}"  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.url  # type: ignore[attr-defined]
    server.shutdown()
    server.server_close()


@pytest.mark.fault
def test_no_command_prints_a_secret(echo: str, run: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)).save(tmp_path / name)
    rows = table(make_rows(tmp_path / "rows", "optical-flow", 2), "optical-flow")
    write_shards(rows, tmp_path / "shards", task="optical-flow", name="toy", split="train")
    space = Path(__file__).parents[2] / "spaces" / "optical_flow"
    recipe = str(run / "model" / "recipe.yaml")
    commands = [
        ["push", str(run), "tester/model", "--no-picture"],
        ["push", str(run), "tester/model", "--no-picture", "--dry-run"],
        ["push", str(tmp_path / "shards"), "tester/data", "--type", "dataset"],
        ["push", str(space), "tester/space", "--type", "space", "--pr"],
        ["flow", "a.png", "b.png", "--model", "tester/model"],
        ["depth", "a.png", "--model", "tester/model"],
        ["segment", "a.png", "--model", f"{echo}/tester/model"],
        ["export", "tester/model", "out.onnx"],
        ["train", recipe, "--set", "model.init=tester/model", "--output", "trained"],
        ["evaluate", "tester/model", "--data", "sintel-clean=hf://datasets/tester/data", "--output", "scores"],
    ]
    # each command meets several statuses, since the server turns them over
    asked = [[*before, *command] for command in commands for before in ([], ["--traceback"])]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "WINWIN_"))}
    environment |= {
        "HF_ENDPOINT": echo,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    environment |= {"HF_HUB_VERBOSITY": "debug", "HF_HUB_DISABLE_TELEMETRY": "1", "no_proxy": "*"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps([asked, echo, echo.replace(f"somebody:{PASSWORD}@", "")])],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        timeout=HANGS_AFTER,
    )
    said = done.stdout + done.stderr
    assert done.stdout.count("## ended with") == 2 * len(asked), said
    assert Echo.sent_tokens > len(commands), said  # the server knew the token and said it
    for secret in (TOKEN, PASSWORD):
        places = [line for line in said.splitlines() if secret in line]
        assert not places, "\n".join(places[:5])
        for path in tmp_path.rglob("*"):
            if path.is_file() and path.name not in ("token", "stored_tokens"):
                assert secret.encode() not in path.read_bytes(), path
    assert "***" in said and "Traceback" in said
