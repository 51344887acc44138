"""An object store on this machine: moto's S3 server, behind a proxy that fails as it is told to."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

FAULTS = ("busy", "stall", "half", "reset")
STALL = 6.0  # seconds


class ObjectStore:
    """
    Attributes:
        environment: variables by which s3fs finds it.
        sent: bytes of each object that were sent whole. failed: kinds of faults that happened.
        every: each so-manieth request of an object's content fails, by the kinds in turn; 0: none.
    """

    def __init__(self) -> None:
        from moto.server import ThreadedMotoServer

        self.server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        self.server.start()
        self.behind = self.server.get_host_and_port()
        self.sent: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.every, self.requests, self.lock = 0, 0, threading.Lock()
        self.proxy = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Proxy,), {"store": self}))
        self.proxy.daemon_threads = True
        threading.Thread(target=self.proxy.serve_forever, daemon=True).start()
        self.environment = {
            "FSSPEC_S3_ENDPOINT_URL": f"http://127.0.0.1:{self.proxy.server_address[1]}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def fault(self) -> str | None:
        """The fault of the next request of an object's content."""
        with self.lock:
            self.requests += 1
            if not self.every or self.requests % self.every:
                return None
            kind = FAULTS[self.requests // self.every % len(FAULTS)]
            self.failed[kind] += 1
            return kind

    def close(self) -> None:
        self.proxy.shutdown()
        self.proxy.server_close()
        self.server.stop()


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: ObjectStore

    def log_message(self, *_: Any) -> None: ...

    def answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        content = self.command == "GET" and "Range" in self.headers
        fault = self.store.fault() if content else None
        if fault == "stall":
            time.sleep(STALL)
        if fault in ("stall", "reset"):
            self.close_connection = True
            return
        if fault == "busy":
            self.send_response(503)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        behind = http.client.HTTPConnection(*self.store.behind, timeout=30)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        behind.request(self.command, self.path, body, headers)
        found = behind.getresponse()
        data = found.read()
        behind.close()
        self.send_response(found.status)
        for name, value in found.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length", "server", "date"):
                self.send_header(name, value)
        sized = found.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
        self.send_header("Content-Length", sized or "0")
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "half":
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        self.wfile.write(data)
        if content:
            with self.store.lock:
                self.store.sent[self.path.partition("?")[0].rpartition("/")[2]] += len(data)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer
