"""Tokens and passwords leave a text; everything else stays."""

from __future__ import annotations

import logging
import sys
import types
from base64 import b64encode
from urllib.parse import quote

import pytest

from winwin_hf import redaction
from winwin_hf.redaction import redact

TOKEN = "hf_" + "CanaryCanaryCanaryCanaryCanary1234"  # as long as a real one
USER = "somebody:canary"  # of an address


@pytest.mark.parametrize(
    "text",
    [
        TOKEN,
        f"Authorization: Bearer {TOKEN}",
        '{"authorization": "Bearer canary-secret"}',
        "got header authorization=canary-secret",
        "Basic Y2FuYXJ5OmNhbmFyeQ==",
        "https://somebody:canary-secret@hub.example.org/api/models",
        "https://canary-secret@hub.example.org",
        "https://user:p@ss-canary@host:80/x",
        "s3://key:canary@bucket/x",
        "GET https://x.org/file?a=1&X-Amz-Signature=canary&b=2",
        "https://x.org/?access_token=canary#x",
        "x-api-key: canary",
        "ghp_canarycanarycanarycanarycanary",
        "AKIACANARYCANARY0000",
        "eyJjYW5hcnk.eyJjYW5hcnkiOjF9.canarysignature",
        "-----BEGIN RSA PRIVATE KEY-----\ncanary\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_secrets_leave_a_text(text: str) -> None:
    clean = redact(f"before {text} after")
    assert "canary" not in clean.lower() and "Y2FuYXJ5" not in clean and "eyJ" not in clean
    assert clean.startswith("before ") and clean.endswith("after") and "***" in clean
    assert redact(clean) == clean


@pytest.mark.parametrize(
    "text",
    [
        "no token for the Hub; log in with `hf auth login`, or set HF_TOKEN",
        "the token of tester may only read; expected one that may write",
        "https://huggingface.co/tester/winwin-flow/commit/0123456789abcdef",
        "hf_transfer, hf_hub_download and HF_HUB_OFFLINE",
        "somebody@example.org wrote a basic model; a@b",
        "winwin_hf/model/half_products_winwin.py",
        "a.png: 50 x 70 pixels; expected 51 x 70",
        "SHA-256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        "https://x.org/?page=2&key_points=7",
    ],
)
def test_other_texts_stay(text: str) -> None:
    assert redact(text) == text


def test_secrets_of_this_process_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "plain-looking-9")
    monkeypatch.setenv("DATABASE_PASSWORD", "letters")  # a word: would be found everywhere
    monkeypatch.setenv("HF_TOKEN_PATH", "/home/me/token")
    monkeypatch.setenv("GOOGLE_CREDENTIALS", "/home/me/key.json")
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(get_token=lambda: "odd-token-7"))
    text = "a plain-looking-9 b odd-token-7 c letters d /home/me/key.json"
    assert redact(text) == "a *** b *** c letters d /home/me/key.json"

    def broken() -> str:
        raise OSError

    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(get_token=broken))
    assert redact("odd-token-7") == "odd-token-7"


def test_logs_and_tracebacks_lose_them(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogRecordFactory()
    handler = logging.StreamHandler(sys.stdout)
    logger = logging.getLogger("somebody.else")
    monkeypatch.setattr(logger, "handlers", [handler])
    try:
        redaction.redact_logs()
        redaction.redact_logs()
        logger.warning("sent %s to %s", TOKEN, f"https://{USER}@h")
        try:
            try:
                raise ValueError(f"cause {TOKEN}")
            except ValueError as error:
                raise RuntimeError(f"https://{USER}@h") from error
        except RuntimeError as error:
            logger.exception("failed")
            shown = redaction.traceback_text(error)
    finally:
        logging.setLogRecordFactory(before)
    logged = capsys.readouterr().out
    assert "sent *** to https://***@h" in logged and "cause ***" in logged and "Traceback" in shown
    assert "canary" not in (logged + shown).lower()


@pytest.mark.parametrize("before", [b"", b"B", b"Be", b"Bearer "])
def test_other_spellings_of_a_secret_are_known(monkeypatch: pytest.MonkeyPatch, before: bytes) -> None:
    """A server that says no may send back what it got, packed."""
    secret = "my-odd~token/0123456789"
    monkeypatch.setenv("HF_TOKEN", secret)
    packed = b64encode(before + secret.encode() + b"xy").decode()
    hidden = redact(f"{packed} {secret[::-1]} {quote(secret, safe='')} {secret.encode().hex('%')}")
    assert not any(packed[i : i + 12] in hidden for i in range(8, len(packed) - 14))
    assert secret[::-1] not in hidden and quote(secret, safe="") not in hidden
