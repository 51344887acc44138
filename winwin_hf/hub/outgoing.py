"""What must not leave this machine: files outside the folder that is published, and files that look like secrets."""

from __future__ import annotations

import base64
import bz2
import codecs
import fnmatch
import gzip
import io
import lzma
import mmap
import os
import re
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from winwin_hf.model.pixels_winwin import check_regular
from winwin_hf.redaction import SHORTEST, TOKENS, own_secrets, redact, spellings
from winwin_hf.task import DoesNotFit

SECRET_NAMES = (
    ".env*", "*.env", ".netrc", "_netrc", ".git-credentials", ".htpasswd", ".pypirc", "*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.kdbx",
    "*.keystore", "*.ppk", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "token", "token.txt", "tokens.txt", "*.token", "stored_tokens",
    "netrc", "password", "password.*", "passwords", "passwords.*", "auth.json",
    "credentials", "credentials.*", "secret", "secrets", "secret.*", "secrets.*", "service_account*.json", "kaggle.json",
)  # fmt: skip
WORD = r"(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|API_?KEY|ACCESS_KEY|PRIVATE_KEY)"  # in the name of a variable that holds a secret
# Of a value: letters and digits, or capitals within. Not "$TOKEN", "***", "your_key_here" or the start of a call.
RANDOM = r"(?=[^\s'\"]{0,80}?\d|(?:[^\s'\"]{0,40}?[a-z][A-Z]){3})(?=[^\s'\"]{0,80}?[A-Za-z])"
END = r"(?![\w.~+/=(\[{-])"
ADDRESS = re.compile(r"\b[a-z][a-z0-9+.-]{0,20}://[^/\s:@'\"<>{}$*]+:[^/\s@'\"<>{}$*]{4,}@")  # with a password
ASSIGNED = [
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        # a variable alone on its line, and one that stands anywhere: in a Dockerfile, before a command, in a page
        rf"^[ \t]*(?:export[ \t]+)?[A-Z0-9_]*{WORD}[ \t]*[=:][ \t]*['\"]?[\w.~+/-]{{12,}}['\"]?[ \t]*$",
        rf"(?<![A-Za-z0-9_$])[A-Z0-9_]*{WORD}[ \t]*[=:][ \t]*['\"]?{RANDOM}[\w.~+/=-]{{12,}}{END}",
        # of a program or JSON, in quotes
        rf"\b\w*(?i:{WORD})['\"]?\]?\s*[=:]\s*(['\"])[\w.~+/=-]{{20,}}\1",
        rf"\b\w*(?i:{WORD})['\"]?\]?\s*[=:]\s*['\"]{RANDOM}[^\s'\"<>{{}}$*]{{12,}}['\"]",
        r"\b(?:setdefault|setenv|putenv)\(\s*['\"]\w*(?:TOKEN|SECRET|PASSWORD|KEY)['\"]\s*,\s*(['\"])[\w.~+/=-]{20,}\1",
        r"\blogin\([^)\n'\"]{0,40}(['\"])[\w.~+/=-]{20,}\1",
        # of an .ini or .yaml file, without quotes
        rf"^[ \t-]*[\w.-]*(?i:{WORD})[ \t]*[=:][ \t]*{RANDOM}[\w.~+/=-]{{12,}}[ \t]*$",
        # a login of Docker, a key of Azure, a line of netrc, a header
        r"\"auth\":\s*\"[A-Za-z0-9+/]{12,}=*\"",
        r"\bAccountKey=[\w+/]{40,}",
        r"\bmachine\s+\S+\s+login\s+\S+\s+password\s+\S{4,}",
        r"\b(?i:authorization)['\"]?\s*[:=]\s*['\"]?(?:Bearer|Basic|Token|token)\s+(?=\S*\d)[\w.~+/=-]{16,}",
    )
]
HF_TOKEN = re.compile(r"hf_[A-Za-z0-9]{34,}")  # also after a letter
BASE64 = re.compile(r"[A-Za-z0-9+/]{28,}")
PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
# 7z, RAR, zstd, LZ4, compress
CLOSED = (b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"\x1f\x9d")
# What reading raises where a packed file is damaged.
DAMAGED = (
    OSError, EOFError, ValueError, struct.error, zlib.error, lzma.LZMAError, tarfile.TarError, zipfile.BadZipFile,
)  # fmt: skip
PNG = b"\x89PNG"
HEAD_BYTES = 512  # that tell how a file is packed
UNPACKED_BYTES = 1 << 26  # of an archive
READ_BYTES = 1 << 22  # of a file: a stranger's token stands in a small text
TEXT_BYTES = 8192  # that tell what a file is


def check_inside(files: Iterable[Path], folder: Path) -> None:
    """
    Raises ValueError for a file that is a link to somewhere else, OSError for what is no file. Into the Hub's cache, links may lead: it is
    made of them.
    """
    inside = [folder.resolve()]
    if folder.resolve().parent.name == "snapshots":
        inside.append(folder.resolve().parents[1] / "blobs")
    for path in files:
        if os.path.lexists(path):
            check_regular(path)
        if not any(path.resolve().is_relative_to(place) for place in inside):
            raise ValueError(
                f"{path}: a link to a file outside {folder}, which is never uploaded; expected the file itself, or none"
            )


def identity(path: Path) -> tuple[int, ...]:
    """What another content, and another file of the same name, change: device, inode, bytes, times of change in nanoseconds."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def refuse_changed(seen: dict[Path, tuple[int, ...]]) -> None:
    """Raises ValueError for a file that isn't what it was. seen: file -> `identity` when it was looked at."""
    for path, before in seen.items():
        if not path.is_file() or identity(path) != before:
            raise ValueError(
                f"{path}: changed while it was pushed, and nothing was committed; push again when it is whole"
            )


def check_names(names: Iterable[str]) -> None:
    """Raises ValueError for names that no repository takes."""
    for name in names:
        if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", name):  # the last: bytes that aren't UTF-8, as Python holds them
            raise ValueError(
                f"{name!r}: a name that isn't UTF-8, or has control characters; expected another, which a repository takes"
            )


def refuse_secrets(files: dict[str, Path], include: Sequence[str] = ()) -> None:
    """
    Raises ValueError that names each file to upload that looks like a secret, DoesNotFit for a name that isn't uploaded.

    Args:
        files: path in the repository -> file here.
        include: paths in the repository that may look like one.
    """
    unknown = [name for name in include if name not in files]
    if unknown:
        raise DoesNotFit(f"--include {unknown[0]}: no file of this name would be uploaded")
    found = {name: reason for name, path in files.items() if name not in include and (reason := secret_in(name, path))}
    if found:
        listed = ", ".join(f"{redact(name)} ({reason})" for name, reason in sorted(found.items()))
        raise ValueError(
            f"{listed}: nothing was uploaded; remove it, or upload it on purpose with --include {redact(min(found))}"
        )


def encoding_of(head: bytes) -> str | None:
    """Of a text that begins so; None of other files. PowerShell and Notepad write UTF-16, some programs without a mark."""
    if head.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" not in head:
        return "utf-8"
    even, odd = head[::2].count(0), head[1::2].count(0)
    if min(even, odd) * 20 <= max(even, odd) and max(even, odd) * 4 >= len(head):  # half of its letters are Latin
        return "utf-16-le" if odd > even else "utf-16-be"
    return None


def secret_in(name: str, path: Path) -> str | None:
    """Why a file looks like a secret; None if it doesn't. Packed files (zip, tar, gz, bz2, xz) and a PNG's texts are looked into."""
    if reason := _named(name):
        return reason
    if path.stat().st_size == 0:
        return None
    own = [secret.encode(form) for secret in spellings(own_secrets()) for form in ("utf-8", "utf-16-le", "utf-16-be")]
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _secret_in(data, own) or _packed_secret(file, own)


def _named(name: str) -> str | None:
    last = PurePosixPath(name).name.lower()
    if TOKENS.search(name) or any(secret in name for secret in own_secrets() if len(secret) >= SHORTEST):
        return "named with a token or a password"
    return "named like a secret" if any(fnmatch.fnmatchcase(last, pattern) for pattern in SECRET_NAMES) else None


def _secret_in(data: mmap.mmap | bytes, own: list[bytes]) -> str | None:
    if any(data.find(secret) >= 0 for secret in own):
        return "holds a token or a password of this machine's environment"
    encoding = encoding_of(data[:TEXT_BYTES])
    text = data[:READ_BYTES].decode(encoding or "latin-1", "replace")
    if not encoding:  # a database, an array of texts in UTF-32: words stand side by side, or their letters apart
        text = text.replace("\0", "")
        if HF_TOKEN.search(text):
            return "holds a token or a private key"
    if encoding and any(TOKENS.search(_decoded(match[0])) for match in BASE64.finditer(text)):
        return "holds a token or a private key in base64"
    texts = [text, _unescaped(text)] if encoding and "\\" in text else [text]  # a notebook's code is text within JSON
    patterns = [ADDRESS, *ASSIGNED] if encoding else [ADDRESS]
    if any(pattern.search(one) for one in texts for pattern in patterns):
        return "holds a password or a key"
    return "holds a token or a private key" if TOKENS.search(text) else None


def _decoded(text: str) -> str:
    return base64.b64decode(text[: len(text) // 4 * 4]).decode("latin-1")


def _unescaped(text: str) -> str:
    return text.replace('\\"', '"').replace("\\n", "\n")


def _packed_secret(packed: BinaryIO, own: list[bytes], depth: int = 3) -> str | None:
    """As `secret_in`, of what is within a packed file, and within that, `depth` deep."""
    head = packed.read(HEAD_BYTES)
    packed.seek(0)
    if head.startswith(CLOSED):
        return "packed in a way that can't be looked into"
    try:
        for name, content in _unpacked(packed, head):
            reason = _named(name) or _secret_in(content, own)
            if not reason and depth > 1:
                reason = _packed_secret(io.BytesIO(content), own, depth - 1)
            if reason:
                return f"{redact(name)} in it is {reason}" if reason.startswith(("named", "packed")) else reason
    except RuntimeError:  # how zipfile says that a password is needed
        return "packed with a password"
    except DAMAGED:
        return None if head.startswith(PNG) else "packed, and damaged or packed in a rare way"
    return None


def _unpacked(packed: BinaryIO, head: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files within a packed one, up to READ_BYTES of each and UNPACKED_BYTES of all."""
    if opener := next((opener for start, opener in PACKED.items() if head.startswith(start)), None):
        with opener(packed) as file:
            yield "", file.read(READ_BYTES)
    elif head.startswith(b"PK\3\4"):
        with zipfile.ZipFile(packed) as archive:
            yield from _within((member.filename, partial(archive.open, member)) for member in archive.infolist())
    elif head[257:262] == b"ustar":
        with tarfile.open(fileobj=packed, mode="r:") as archive:
            yield from _within(
                (member.name, partial(archive.extractfile, member)) for member in archive if member.isfile()
            )
    elif head.startswith(PNG):
        yield from (("", text) for text in _png_texts(packed))


def _within(members: Iterable[tuple[str, Callable[[], Any]]]) -> Iterator[tuple[str, bytes]]:
    left = UNPACKED_BYTES
    for name, open_member in members:
        with open_member() as file:
            content = file.read(min(READ_BYTES, left))
        yield name, content
        left -= len(content)
        if left <= 0:
            return


def _png_texts(file: BinaryIO) -> Iterator[bytes]:
    """A PNG's texts, which editors fill with what they know; Pillow gives them only with all pixels decoded."""
    file.seek(8)
    while len(start := file.read(8)) == 8:
        size, kind = struct.unpack(">I4s", start)
        after = file.tell() + size + 4
        if kind in (b"tEXt", b"zTXt", b"iTXt"):
            _, _, text = file.read(min(size, READ_BYTES)).partition(b"\0")
            packed = kind == b"zTXt" or (kind == b"iTXt" and text.startswith(b"\1"))
            if kind == b"iTXt":  # two bytes, a language, a translated keyword
                text = text[2:].split(b"\0", 2)[-1]
            elif packed:
                text = text[1:]
            yield zlib.decompressobj().decompress(text, READ_BYTES) if packed else text
        file.seek(after)
