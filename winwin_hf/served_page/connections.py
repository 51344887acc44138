"""Connections and clients: how many there may be, for how long, and whose they are."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import MutableMapping
from typing import Any, TypeAlias

from winwin_hf.served_page.limits import Limits, kind_of

HEAD_SECONDS = 10  # in which the head of a request has to arrive
HANDLES = 4096  # asyncio takes all connections that wait, up to uvicorn's 2048, before the first of them can be closed
CLIENT = "winwin_hf.client"  # key of the client's address in a connection's scope

Scope: TypeAlias = MutableMapping[str, Any]


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
                f"fn_index: expected the number of an event of this page, got {kind_of(body.fn_index)}.",
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
