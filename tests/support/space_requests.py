"""Plain HTTP to a page, as a stranger would send it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from typing import Any

from support import space_server


def request(server: space_server.Server, path: str, body: Any = None, **headers: str) -> tuple[int, str]:
    """Status and text. body: bytes, or what becomes JSON; None for a GET."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    kind = {} if body is None or isinstance(body, bytes) else {"Content-Type": "application/json"}
    asked = urllib.request.Request(server.url + path, data, {**kind, **headers})
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def call(server: space_server.Server, name: str, data: list[Any]) -> str:
    """What an endpoint says, by `/call`."""
    status, text = request(server, f"/gradio_api/call/{name}", {"data": data})
    assert status == 200, text
    return request(server, f"/gradio_api/call/{name}/{json.loads(text)['event_id']}")[1]


def join(server: space_server.Server, number: int, data: list[Any]) -> dict[str, Any]:
    """The last message of an event, by `/queue/join`, as a browser asks. number: of the event."""
    session = uuid.uuid4().hex
    status, text = request(
        server, "/gradio_api/queue/join", {"data": data, "fn_index": number, "session_hash": session}
    )
    assert status == 200, text
    messages = request(server, f"/gradio_api/queue/data?session_hash={session}")[1]
    parsed = [json.loads(line[6:]) for line in messages.splitlines() if line.startswith("data: ")]
    return next(message for message in parsed if message["msg"] == "process_completed")


def upload(server: space_server.Server, *files: tuple[str, bytes], **headers: str) -> tuple[int, str]:
    boundary = "b0undary"
    body = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files
    )
    kind = f"multipart/form-data; boundary={boundary}"
    return request(
        server, "/gradio_api/upload", body + f"--{boundary}--\r\n".encode(), **{"Content-Type": kind, **headers}
    )


def events(server: space_server.Server) -> list[dict[str, Any]]:
    """Each event: id, api_name, and the types of its inputs; the choice of a quality has a type of its own."""
    config = json.loads(request(server, "/config")[1])
    kinds = {block["id"]: block["type"] for block in config["components"]}
    kinds |= {block["id"]: "quality" for block in config["components"] if block["props"].get("label") == "Quality"}
    return [{**event, "inputs": [kinds[number] for number in event["inputs"]]} for event in config["dependencies"]]
