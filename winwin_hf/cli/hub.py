"""What a command waits for and reads into memory when it talks to a Hub, which may be slow, broken or hostile.

Notable:
- huggingface_hub has no limits of its own. A command gives it a client with limits, once; importing the package changes nothing.
- a `BadAnswer` isn't an error of the network, so huggingface_hub neither repeats the request nor goes on without an answer.
- files are streamed to the disk: they are as large as was announced, by the answer or the one before, and fit on the disk.
- the token goes to the Hub's own hosts alone, whatever addresses its answers name.
- huggingface_hub names files in its cache after what a header says (ETag, X-Repo-Commit): anything but a checksum is refused.
"""

from __future__ import annotations

import contextvars
import os
import queue
import re
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from winwin_hf.data.formats.files import bytes_text
from winwin_hf.redaction import own_secrets, redact

# Seconds. SILENCE: between two pieces of an answer. WHOLE: a request that asks. SENDING: a request that sends, and its answer to a commit.
CONNECT, SILENCE, WHOLE, SENDING = 10.0, 30.0, 120.0, 600.0
SLOWEST = 20_000  # bytes a second, of what is sent, and of a part that is asked for
LOST = 60.0  # seconds that one host may have let pass in vain before it isn't asked again
LARGEST_ANSWER = 100_000_000  # bytes that are read into memory; a list of 100,000 files has about 20 MB
MOST_PAGES = 1000  # of one list; a page of files has a thousand
NAMING = ("etag", "x-linked-etag", "x-repo-commit", "x-xet-hash")  # headers that become names of files
CHECKSUM = re.compile(r"[\w+=:-]{1,128}")
SLOWEST_FILE = 10_000, 60.0  # bytes in so many seconds
ASKING = re.compile(r"/(repos/create|validate-yaml|objects/batch)$|/(preupload|paths-info)/")  # POSTs that only ask
LONGEST_PAUSE = 300.0  # seconds that a Hub may tell us to wait; its own limits count requests in five minutes


class BadAnswer(OSError):
    """A Hub's answer was too slow or too large, or not what a Hub sends: one line that names the address and the limit."""


def limit_hub() -> None:
    """Makes huggingface_hub use a client with the limits above, for the rest of this process."""
    from huggingface_hub import get_session, set_client_factory

    # else transformers tells a Space at huggingface.co, whatever HF_ENDPOINT says, of a repository without safetensors
    os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "true")

    plain = get_session()
    if getattr(plain, "limited", False):
        return
    kind, hooks = _client_class(type(plain)), plain.event_hooks
    set_client_factory(
        lambda: kind(
            headers={"Accept-Encoding": "identity"},
            follow_redirects=True,
            timeout=None,  # httpx's own, of 5 s, would win over the limits above
            event_hooks={"request": hooks["request"], "response": [*hooks["response"], _check]},
        )
    )


def _client_class(base: type) -> type:
    lost: dict[str, float] = {}  # host -> seconds
    pages: Counter[str] = Counter()  # address -> how often it was asked with a query, of parts of a list
    announced: dict[str, int] = {}  # address -> bytes, as the answer to a HEAD said

    class Client(base):
        limited = True

        def send(self, request: Any, *, stream: bool = False, **options: Any) -> Any:
            """As httpx's, within the limits."""
            asks = request.method in ("GET", "HEAD") or bool(ASKING.search(request.url.path))
            given = request.extensions.get("timeout", {})
            silence = SILENCE if asks else SENDING  # a commit may take its time
            waits = dict(connect=CONNECT, read=silence, write=silence, pool=silence)  # noqa: C408
            waits |= {name: value for name, value in given.items() if value is not None}
            request.extensions = {**request.extensions, "timeout": waits, "winwin_stream": stream}
            address = _address(request)
            # a redirected request has these of the first one
            request.extensions.setdefault("winwin_size", announced.get(address))
            host = address.split("/")[2]
            given_token = request.headers.get("authorization", "")
            if not _is_the_hubs(host) and redact(given_token) != given_token:  # of an address that an answer named
                del request.headers["authorization"]
            if lost.get(host, 0) >= LOST:
                raise BadAnswer(f"{address}: {host} let {lost[host]:.0f} s pass without an answer")
            if asks and request.url.query and "range" not in request.headers:
                pages[address] += 1
                if pages[address] > MOST_PAGES:
                    raise BadAnswer(f"{address}: a list of more than {MOST_PAGES:,} pages")
            sent = int(request.headers.get("content-length", 0))
            seconds = WHOLE + (_part(request) or 0) / SLOWEST if asks else SENDING + sent / SLOWEST
            began = time.monotonic()
            try:
                answer = _within(seconds, request, lambda: super(Client, self).send(request, stream=stream, **options))
                if request.method == "HEAD" and (size := _size(answer, "x-linked-size", "content-length")) is not None:
                    announced[address] = size
                return answer
            except Exception as error:
                if "Timeout" in type(error).__name__ or isinstance(error, BadAnswer):
                    lost[host] = lost.get(host, 0) + time.monotonic() - began
                raise

    return Client


def _within(seconds: float, request: Any, work: Any) -> Any:
    """The result of `work`, which a thread does, since nothing else ends a header that comes byte by byte. Raises BadAnswer."""
    done: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            done.put((True, context.run(work)))
        except BaseException as error:
            done.put((False, error))

    threading.Thread(target=run, name="winwin-hub", daemon=True).start()
    try:
        good, result = done.get(timeout=seconds)
    except queue.Empty:
        raise BadAnswer(f"{_address(request)}: no whole answer in {seconds:.0f} s") from None
    if good:
        return result
    raise result


def _check(response: Any) -> None:
    """Called with every answer before its body is read: puts limits on the body, and on the pause that it asks for."""
    request = response.request
    encoding = response.headers.get("content-encoding", "identity").lower()
    if encoding not in ("", "identity") and request.method != "HEAD":  # a few bytes may become gigabytes
        raise BadAnswer(
            f"{_address(request)}: an answer packed as {encoding[:20]}; expected a plain one, as was asked for"
        )
    for name in ("retry-after", "ratelimit"):
        seconds = response.headers.get(name, "").rpartition("=")[2].strip()
        if seconds.isdecimal() and (len(seconds) > 9 or int(seconds) > LONGEST_PAUSE):
            del response.headers[name]
    for name in NAMING:
        value = response.headers.get(name, "").removeprefix("W/").strip('"')
        if value and (not CHECKSUM.fullmatch(value) or redact(value) != value):
            raise BadAnswer(
                f"{_address(request)}: its {name} is no checksum, and would name a file; expected letters and digits"
            )
    largest = _part(request) if response.status_code == 206 else None
    if request.extensions.get("winwin_stream", False) and response.is_success:
        largest = _size(response, "content-length")
        if largest is None:  # sent in chunks, without a length
            largest = request.extensions.get("winwin_size") or LARGEST_ANSWER
        if (free := _free()) is not None and largest > free:
            raise BadAnswer(
                f"{_address(request)}: a file of {bytes_text(largest)}; the disk of the Hub's cache has {bytes_text(free)} (HF_HOME)"
            )
    told = own_secrets() if response.is_success and largest is None and "/api/" in request.url.path else ()
    response.stream = _limited(response.stream, _address(request), largest, tuple(secret.encode() for secret in told))


def _is_the_hubs(host: str) -> bool:
    """Whether a host (with its port) is that of HF_ENDPOINT or below it (datasets-server.huggingface.co): only they get the token."""
    from huggingface_hub import constants

    own = constants.ENDPOINT.partition("//")[2].partition("/")[0].rpartition("@")[2].lower()
    return host.lower() == own or host.lower().endswith(f".{own}")


def _part(request: Any) -> int | None:
    """Bytes of a part of a file that a request asks for; None where it asks for no part, or for one without an end."""
    found = re.fullmatch(r"bytes=(\d{1,18})-(\d{1,18})", request.headers.get("range", ""))
    return int(found[2]) - int(found[1]) + 1 if found else None


def _size(response: Any, *headers: str) -> int | None:
    """The first of these headers that is there, as a number; None without one."""
    for name in headers:
        value = response.headers.get(name, "")
        if value.isdecimal() and len(value) < 20:
            return int(value)
    return None


def _free() -> int | None:
    """Free bytes where huggingface_hub keeps what it downloads; None where that isn't known."""
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE).absolute()
    try:
        return shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.is_dir())).free
    except (OSError, StopIteration):
        return None


def _limited(stream: Any, address: str, largest: int | None, secrets: tuple[bytes, ...]) -> Any:
    """
    The stream of an answer's bytes, which raises BadAnswer where it is too slow or too large, or holds one of `secrets`: what it calls a
    commit becomes text in the cache.

    largest: bytes of a file, which may take any time; None: another answer.
    """
    # httpx takes only streams of its own base class
    base = next(kind for kind in type(stream).__mro__ if kind.__name__ == "SyncByteStream")

    class Limited(base):  # type: ignore[misc, valid-type]
        def __iter__(self) -> Iterator[bytes]:
            size, before, began, (least, seconds) = 0, 0, time.monotonic(), SLOWEST_FILE
            most = LARGEST_ANSWER if largest is None else largest
            longest, end = max(map(len, secrets), default=0), b""
            for chunk in stream:
                size += len(chunk)
                if any(secret in end + chunk for secret in secrets):
                    raise BadAnswer(f"{address}: its answer holds the token, or a password, that it was sent")
                end = (end + chunk)[-longest:] if longest else b""
                now = time.monotonic()
                if size > most:
                    raise BadAnswer(f"{address}: an answer of more than {bytes_text(most)}, which is too large")
                if largest is not None and now - began > seconds:
                    if size - before < least:
                        raise BadAnswer(
                            f"{address}: {size - before} bytes in {now - began:.0f} s; expected {least} or more"
                        )
                    before, began = size, now
                elif largest is None and now - began > WHOLE:
                    raise BadAnswer(f"{address}: no whole answer in {WHOLE:.0f} s")
                yield chunk

        def close(self) -> None:
            stream.close()

    return Limited()


def _address(request: Any) -> str:
    """A request's address without its query and without a password."""
    url = request.url
    return f"{url.scheme}://{url.netloc.decode('ascii', 'replace').rpartition('@')[2]}{url.path}"


NO_ANSWER = {"TransportError", "OfflineModeIsEnabled"}  # httpx's for a failed connection; huggingface_hub's


# What requests, httpx and huggingface_hub raise where a Hub refuses, or answers otherwise than a Hub does.
REFUSALS = {"HTTPError", "HfHubHTTPError", "LocalEntryNotFoundError", "FileMetadataError"}
IN_WORDS = re.compile(r"is a gated dataset|LocalEntryNotFoundError: ")  # of datasets, which keeps no cause


def of_hub(error: BaseException | None) -> bool:
    """Whether the cause of an error is a Hub that refused or failed, or can't be reached."""
    while error is not None:
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if isinstance(error, BadAnswer) or kinds & {*NO_ANSWER, *REFUSALS} or IN_WORDS.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def answer_in(error: BaseException | None, said: str = "") -> str | None:
    """What a Hub sent, in words, where that is the cause of an error; None elsewhere. said: transformers' words of it."""
    while error is not None:
        if type(error).__name__ == "RemoteProtocolError":
            return f"{_address(error.request)}: {error}".splitlines()[0]  # type: ignore[attr-defined]
        kinds = {kind.__name__ for kind in type(error).__mro__}
        # these words advise to look for a folder of that name
        if "TransportError" in kinds and said.startswith("Can't load"):
            return f"the connection to {os.environ.get('HF_ENDPOINT') or 'https://huggingface.co'} failed"
        if kinds & NO_ANSWER:
            return None
        status = getattr(getattr(error, "response", None), "status_code", None)
        if isinstance(error, BadAnswer):
            return str(error)
        if status is not None:
            return f"{_address(error.response.request)} answered {status}"  # type: ignore[attr-defined]
        if type(error).__name__ == "FileMetadataError" or isinstance(
            error, AttributeError | LookupError | NameError | TypeError
        ):
            place = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
            return f"the answer of {place} isn't what a Hub sends"
        error = error.__cause__ or error.__context__
    return None
