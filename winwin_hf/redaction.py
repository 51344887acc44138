"""Tokens and passwords in a text -> `***`. For what is printed or written and may hold an address, a header or an answer.

Notable: a token is found by its value where this process has it (HF_TOKEN, `hf auth login`, variables named like secrets), and by its look.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import os
import re
import sys
import traceback
from pathlib import Path
from typing import Any
from urllib.parse import quote

HIDDEN = "***"
SHORTEST = 8  # characters; a shorter value of a variable would be found within words
# The values of these variables are secrets.
VARIABLES = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|PRIVATE_KEY|CREDENTIALS?)(_ID)?$", re.I)
# Tokens by their look: Hugging Face, GitHub, GitLab, npm, PyPI, AWS, Google, OpenAI and its like, Slack, Stripe, SendGrid,
# DigitalOcean, Databricks, Replicate, Docker, webhooks of Slack and Discord, Telegram, age, WireGuard, JSON web tokens, and
# private keys (of OpenSSL, OpenSSH, PGP, SSH2 and PuTTY).
TOKENS = re.compile(
    r"\b(?:hf|api_org|hf_oauth|hf_jwt)_[A-Za-z0-9._-]{20,}|\bgh[pousr]_\w{20,}|\bgithub_pat_\w{20,}|\bAKIA[0-9A-Z]{16}\b"
    r"|\bgl(?:pat|oat|dt|rt|cbt|ptt|ft|imt|agent|soat)-[\w.-]{16,}|\bAIza[\w-]{30,}|\bya29\.[\w.-]{20,}|\bnpm_\w{30,}|\bpypi-[\w-]{16,}"
    r"|\bsk-[\w-]{20,}|\bxox[abeprs]-[\w-]{10,}|\beyJ[\w-]{6,}\.[\w-]{4,}\.[\w-]*"
    r"|\b[sr]k_live_\w{16,}|\bSG\.[\w-]{16,}\.[\w-]{16,}|\bdop_v1_\w{32,}|\bdapi[0-9a-f]{32}\b|\br8_\w{30,}"
    r"|\bdckr_(?:pat|oat)_[\w-]{20,}|\bhooks\.slack\.com/services/\w+/\w+/\w{16,}|\bdiscord(?:app)?\.com/api/webhooks/\d+/[\w-]{32,}"
    r"|\b\d{8,10}:AA[\w-]{33}\b|\bAGE-SECRET-KEY-1\w{40,}|\bPrivateKey\s*=\s*[\w+/]{43}="
    r"|-----BEGIN [A-Z ]*PRIVATE KEY(?: BLOCK)?-----(?:[^-]*-----END [A-Z ]*PRIVATE KEY(?: BLOCK)?-----)?"
    r"|---- BEGIN SSH2 [A-Z ]*PRIVATE KEY ----|\bPuTTY-User-Key-File-\d"
)
_PATTERNS: list[tuple[re.Pattern[str], str]] = [
    (TOKENS, HIDDEN),
    (
        re.compile(
            r"(authorization|x-api-key|cookie)(['\"]?\s*[:=]\s*['\"]?)(?:(?:bearer|basic|digest|token)\s+)?[^\s'\",;}]+",
            re.I,
        ),
        rf"\1\2{HIDDEN}",
    ),
    (re.compile(r"\b(bearer(?:\s+|%20|\+))[\w.~+/=-]{8,}", re.I), rf"\1{HIDDEN}"),
    (re.compile(r"\b(basic(?:\s+|%20|\+))[\w.~+/-]{12,}=*", re.I), rf"\1{HIDDEN}"),
    (re.compile(r"\b([a-z][a-z0-9+.-]*://)[^/\s'\"<>]*@", re.I), rf"\1{HIDDEN}@"),
    (
        re.compile(
            r"([?&;](?:[\w-]*(?:token|secret|password|signature|credential|api[_-]?key)|sig|key)=)[^&\s'\"<>]+", re.I
        ),
        rf"\1{HIDDEN}",
    ),
]


def redact(text: str) -> str:
    """The text without tokens and passwords."""
    for secret in sorted(spellings(own_secrets()), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def spellings(secrets: set[str]) -> set[str]:
    """Secrets, and what they look like reversed, in a URL, as hex, and in base64, where three neighbours each make another text of it."""
    found = set(secrets)
    for secret in secrets:
        found |= {secret[::-1], quote(secret, safe=""), "".join(f"%{byte:02x}" for byte in secret.encode())}
        found |= {secret.encode().hex(), secret.encode().hex().upper()}
        for before in range(3):
            text = base64.b64encode(bytes(before) + secret.encode()).decode().rstrip("=")
            # without the characters in which the neighbours' bits are
            found.add(text[-(-before * 8 // 6) : len(text) - 1])
    return {text for text in found if len(text) >= SHORTEST}


def own_secrets() -> set[str]:
    """The tokens and passwords that this process has."""
    found = {value for name, value in os.environ.items() if VARIABLES.search(name)}
    for value in os.environ.values():  # such as HF_ENDPOINT and proxies
        found.update(re.findall(r"://[^/\s:@]*:([^/\s]+)@", value))
    # Without huggingface_hub, nothing has read its files. It may be what can't be imported.
    if "huggingface_hub" in sys.modules:
        with contextlib.suppress(Exception):  # an unreadable file of tokens
            found.add(sys.modules["huggingface_hub"].get_token() or "")
    # A path isn't a secret, and a word would be found everywhere.
    return {
        value for value in found if len(value) >= SHORTEST and not value.isalpha() and not Path(value).is_absolute()
    }


def traceback_text(error: BaseException) -> str:
    """The traceback, as Python prints it, without secrets."""
    return redact("".join(traceback.format_exception(error)))


def redact_logs() -> None:
    """Makes every log record of this process lose its secrets, those of other libraries too."""
    make = logging.getLogRecordFactory()
    if getattr(make, "redacts", False):
        return

    def record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        made = make(*args, **kwargs)
        try:
            said = made.getMessage()
        except Exception:  # a wrong format, of which logging complains itself
            return made
        clean = redact(said)
        if clean != said:
            made.msg, made.args = clean, ()
        if made.exc_info and made.exc_info[1] is not None:
            made.exc_text = traceback_text(made.exc_info[1])
        return made

    record.redacts = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(record)
