"""How a command ends when something is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
import typer
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from support.command_line import refused, run
from support.http_library import http_library

from winwin_hf.cli.errors import one_line_errors
from winwin_hf.data.formats import write_atomic
from winwin_hf.task import DoesNotFit


def test_what_fails_to_import_is_not_imported_again(monkeypatch, capsys):
    """As with NumPy 1.26 and PyArrow 26: the readers can't be imported, and this is what the command says."""
    monkeypatch.delitem(sys.modules, "winwin_hf.data.rows", raising=False)
    monkeypatch.setitem(sys.modules, "datasets", None)  # its import raises ImportError

    @one_line_errors
    def command() -> None:
        from winwin_hf.data.rows import BrokenExample  # noqa: F401

    with pytest.raises(typer.Exit) as end:
        command()
    assert end.value.exit_code == 1
    assert capsys.readouterr().err == "winwin: import of datasets halted; None in sys.modules\n"


def refusal() -> HfHubHTTPError:
    request = http_library.Request("GET", "https://hub/x")
    return HfHubHTTPError("x", response=http_library.Response(503, request=request))


@pytest.mark.parametrize("kind", [FileNotFoundError, DoesNotFit, NotADirectoryError])
def test_a_hub_that_fails_is_no_misuse(kind):
    @one_line_errors
    def command(cause: Exception | None) -> None:
        raise kind("a/b: nothing is there") from cause

    gated = ValueError("Dataset 'a/b' is a gated dataset on the Hub.")
    for cause, code in ((None, 2), (refusal(), 1), (OSError("x"), 2), (LocalEntryNotFoundError("x"), 1), (gated, 1)):
        with pytest.raises(typer.Exit) as end:
            command(cause)
        assert end.value.exit_code == code


def test_a_setting_whose_hub_fails_is_no_misuse(monkeypatch, tmp_path):
    for cause, code in ((None, 2), (refusal(), 1)):

        def fails(*_, cause=cause, **__):
            raise ValueError("model.init: a/b: nothing is there") from cause

        monkeypatch.setattr("winwin_hf.training.loop.train", fails)
        result = run("train", "flow-synthetic", "--output", tmp_path / "x", "--set", "model.init=a/b")
        refused(result, code, "model.init: a/b: nothing is there")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGINT"])
def test_a_signal_unwinds_and_is_named(name, tmp_path, capsys):
    number = signal.Signals[name]

    @one_line_errors
    def command() -> None:
        with write_atomic(tmp_path / "flow.flo") as temporary:
            temporary.write_text("half")
            os.kill(os.getpid(), number)
            Path(temporary).read_text()  # not reached

    before = signal.getsignal(number)
    with pytest.raises(typer.Exit) as end:
        command()
    assert end.value.exit_code == 128 + number and not list(tmp_path.iterdir())
    assert capsys.readouterr().err == f"winwin: stopped by {name}; what was half written is removed\n"
    assert signal.getsignal(number) == before


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_where_nothing_can_be_raised_comes_again(name, capsys):
    """A callback of a weak reference, as importlib has one for each module's lock."""
    number = signal.Signals[name]
    ended = []

    @one_line_errors
    def command() -> None:
        referent = set()
        reference = weakref.ref(referent, lambda _: [os.kill(os.getpid(), number), time.sleep(0)])
        del referent
        assert reference() is None
        time.sleep(10)
        ended.append(True)

    before = sys.unraisablehook
    with pytest.raises(typer.Exit) as end:
        command()
    assert end.value.exit_code == 128 + number and not ended and sys.unraisablehook == before
    assert capsys.readouterr().err == f"winwin: stopped by {name}; what was half written is removed\n"


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_ctrl_c_while_the_command_is_imported_is_silent():
    code = """
import os, signal, sys
import winwin_command
class Finder:
    def find_spec(self, name, *_):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Finder())
winwin_command.app(["--help"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="Windows has no SIGHUP")
def test_nohup_stays_and_train_keeps_its_own():
    seen = {}

    def look() -> None:
        seen[len(seen)] = [signal.getsignal(signal.Signals[name]) for name in ("SIGTERM", "SIGHUP")]

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        one_line_errors(look)()
    finally:
        signal.signal(signal.SIGHUP, before)
    look.__name__, look.__module__ = "train", "winwin_hf.cli.train"
    one_line_errors(look)()
    assert seen[0][0] != signal.SIG_DFL and seen[0][1] == signal.SIG_IGN and seen[1] == [signal.SIG_DFL] * 2


THREADS = """
import sys, threading, types, winwin_command
main = types.ModuleType("winwin_hf.cli.main")
def app(arguments, prog_name):
    threading.Thread(target=threading.Event().wait, args=({seconds},)).start()
    print("said")
    raise SystemExit({code})
main.app = app
sys.modules["winwin_hf.cli.main"] = main
winwin_command.app([])
"""


@pytest.mark.parametrize(("code", "seconds"), [(143, 600), (1, 600), (0, 0.1)])
def test_a_command_that_failed_does_not_wait_for_threads(code: int, seconds: float):
    text = THREADS.format(code=code, seconds=seconds)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=300)
    assert done.returncode == code and done.stdout == "said\n", done.stderr
