"""How a command of `winwin` ends when something is wrong: one line on standard error and an exit code.

Notable: every error of a command passes here, so this is where tokens and passwords leave its text.
"""

from __future__ import annotations

import errno
import functools
import io
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import typer
from typer.core import TyperGroup

from winwin_hf.cli.hub import answer_in, limit_hub, of_hub
from winwin_hf.model.weights_winwin import reason_of
from winwin_hf.redaction import redact, redact_logs, traceback_text
from winwin_hf.task import DoesNotFit


class UsageError(Exception):
    """A wrong argument: one line that names it and says what was expected; exit code 2."""


class Commands(TyperGroup):
    """
    A command with subcommands. Its help and version, too, end in one line where standard output can't be written; and an empty argument,
    as of a variable that isn't set, is misuse: as a path it would be the working folder.
    """

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        words = sys.argv[1:] if args is None else [str(word) for word in args]
        for before, word in zip(["", *words], words, strict=False):
            if word == "" or re.fullmatch(r"--[\w-]+=", word):
                name = word.rstrip("=") or (before if before.startswith("-") else "an argument")
                typer.echo(f"winwin: {name} is empty; expected a value", err=True)
                raise SystemExit(2)
        try:
            return super().main(args, *more, **options)
        except OSError as error:  # the subcommands' own errors ended in `one_line_errors`
            typer.echo(f"winwin: standard output can't be written: {line_of(error).partition(';')[0]}", err=True)
            raise SystemExit(1) from None


@contextmanager
def misuse() -> Iterator[None]:
    """A ValueError of what checks arguments, and does nothing else yet, is misuse."""
    try:
        yield
    except ValueError as error:
        raise UsageError(line_of(error)) from error


class Stopped(KeyboardInterrupt):
    """SIGTERM or SIGHUP came. As after Ctrl-C, everything unwinds, so that temporary files are removed."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number)
        self.number = number


@contextmanager
def stop_signals(own: bool = False) -> Iterator[None]:
    """
    SIGTERM and SIGHUP raise `Stopped`, once, where they would end the process at once. own: the command has handlers of its own.

    What these and Ctrl-C raise where Python can't pass it on (a finaliser, a weak reference's callback, as in imports) is raised again.
    """
    process = os.getpid()
    before: dict[signal.Signals, Any] = {}
    unraisable_before = sys.unraisablehook
    stopping = False

    def stop(number: int, _: Any) -> None:
        nonlocal stopping
        if os.getpid() != process:  # a child, which inherits this handler, ends by the signal as it would have
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif not stopping:  # unwinding isn't disturbed by a second one
            stopping = True
            raise Stopped(signal.Signals(number))

    def unraisable(lost: Any) -> None:
        nonlocal stopping
        if not isinstance(lost.exc_value, KeyboardInterrupt) or os.getpid() != process:
            unraisable_before(lost)
            return
        stopping = False
        number = lost.exc_value.number if isinstance(lost.exc_value, Stopped) else signal.SIGINT
        again = threading.Timer(0.1, os.kill, (process, number))  # when the callback has ended
        again.daemon = True
        again.start()

    if signal.getsignal(signal.SIGINT) == signal.SIG_DFL:  # see winwin_command.py
        with suppress(ValueError):  # not in the main thread
            before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    names = [] if own else [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]  # no SIGHUP on Windows
    for name in names:
        number = signal.Signals[name]
        if signal.getsignal(number) == signal.SIG_DFL:
            with suppress(ValueError):  # not in the main thread
                before[number] = signal.signal(number, stop)
    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        sys.unraisablehook = unraisable_before
        for number, handler in before.items():
            signal.signal(number, handler)


# What transformers says of every answer but a right one.
NOT_THERE = re.compile(
    r"We couldn't connect to .*?(cached files\.?|$)|Can't load the configuration of .*?(config\.json file|$)"
    r"|There was a specific connection error when trying to load [^)\n]*"
    r"|Can't load (the model|image processor) for [^)\n]*|\S+ does not appear to have a file named [^)\n]*",
    re.DOTALL,
)
# What the dynamic linker says where the address space is limited.
UNMAPPED = re.compile(
    r"([^\s:]+): (failed to map segment from shared object|cannot allocate memory in static TLS block)"
)
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # which a terminal obeys, in what a server said, say
LONGEST = 2000  # characters of a line: a library may name every file that it missed
MISUSE = (UsageError, DoesNotFit, FileNotFoundError, IsADirectoryError, NotADirectoryError)  # exit code 2


def show_any_text() -> None:
    """Letters that the terminal's encoding hasn't got are printed as \\u1234, where they would end the command after its work."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (
            stream.errors == "strict" or not stream.encoding.startswith("utf")
        ):
            stream.reconfigure(errors="backslashreplace")


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Whatever `command` raises ends in one line and an exit code; with `--traceback` in a traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        redact_logs()
        show_any_text()
        try:
            with (
                stop_signals(own=command.__module__ == "winwin_hf.cli.train" and command.__name__ == "train"),
                warnings.catch_warnings(),
            ):
                warnings.filterwarnings(
                    "ignore", message=r"Image size \(\d+ pixels\) exceeds limit"
                )  # we have one of our own
                warnings.showwarning = _show_warning
                if not command.__module__.endswith(".recipes"):  # which needs no Hub, and is to be quick
                    limit_hub()
                command(*args, **kwargs)
        except KeyboardInterrupt as stop:
            number = stop.number if isinstance(stop, Stopped) else signal.SIGINT
            end_progress_bars()
            typer.echo(f"winwin: stopped by {number.name}; what was half written is removed", err=True)
            raise typer.Exit(128 + number) from None
        except BrokenPipeError:  # nobody reads on, as in `winwin data list | head`
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123 - for what Python flushes at its end
            raise typer.Exit(1) from None
        except Exception as error:
            if type(error).__module__.startswith(("click.", "typer.")):
                raise
            end_progress_bars()
            code = 2 if isinstance(error, MISUSE) and (isinstance(error, UsageError) or not of_hub(error)) else 1
            if os.environ.get("WINWIN_TRACEBACK"):
                typer.echo(traceback_text(error), err=True, nl=False)
                raise typer.Exit(code) from None
            line = line_of(error)
            line = redact(f"winwin: {line if len(line) <= LONGEST else f'{line[:LONGEST]} ...'}")
            typer.echo(CONTROLS.sub("", line), err=True)
            raise typer.Exit(code) from None

    return wrapped


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line, without the line of code that it came from."""
    line = redact(f"winwin: {' '.join(str(message).split())}"[:LONGEST])
    if "tqdm.std" in sys.modules:  # above a progress bar, not glued to it
        sys.modules["tqdm.std"].tqdm.write(line, file=sys.stderr)
    else:
        typer.echo(line, err=True)


def unbroken(text: str) -> str:
    """The text with the line breaks within arguments written as \\n: only the first line of an error's text is shown."""
    for word in sys.argv[1:]:
        for part in (word, word.partition("=")[2]):
            if "\n" in part:
                text = text.replace(part, repr(part)[1:-1])
    return text


def line_of(error: Exception) -> str:
    """One line of an error: what is wrong, and where."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's is another
        return f"not enough memory{': ' if str(error) else ''}{error}".splitlines()[0]
    if "alloc_cpu" in str(error):
        return "not enough memory"
    if isinstance(error, OSError) and error.errno == errno.EAGAIN and error.filename is None:
        return "not enough memory, or too many processes, for another thread"
    if isinstance(error, OSError) and error.strerror:
        # "[Errno 28] No space left on device: 'flow.flo'" -> "flow.flo: no space left on device"
        text = error.strerror if error.errno is None else os.strerror(error.errno)
        names = [unbroken(str(name)) for name in (error.filename, error.filename2) if name is not None]
        what = text[:1].lower() + text[1:]
        if error.errno == errno.EEXIST:
            what = "exists, and is no folder"
        if error.errno == errno.ENOSPC and not names:
            what += "; standard output, the output, or the folder for temporary files (TMPDIR)"
        if error.errno == errno.ENOENT and not names:
            what += "; is the working folder gone?"
        return ": ".join((*names[-1:], what))
    if isinstance(error, ImportError | OSError) and (unmapped := UNMAPPED.search(str(error)[:LONGEST])):
        return f"not enough memory to load {unmapped[1]}"
    if "could not create a primitive" in str(error):  # oneDNN's, where memory is short
        return f"not enough memory for a layer's products ({error})".splitlines()[0]
    if (said := unbroken(str(error))) != str(error):
        error = UsageError(said)
    # these say what was wrong; of others, which are faults of ours or of a library, the type is told too
    if isinstance(error, UsageError | FloatingPointError) or type(error).__name__ == "PublishError":
        text = str(error)
    else:
        text = reason_of(error)
    text = text[: 10 * LONGEST]  # the expressions take time with the square of a word's length
    if (found := NOT_THERE.search(text)) and (answer := answer_in(error, found[0])):
        text = NOT_THERE.sub(lambda _: f"{answer}; nothing of it is in the cache", text)
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()] or [type(error).__name__]
    known = isinstance(error, UsageError | ValueError | OSError | ImportError | ArithmeticError)
    return lines[0] if known or type(error).__name__ == "SafetensorError" else f"{lines[0]} (--traceback shows where)"


def end_progress_bars() -> None:
    """Ends the line of every progress bar that is still open, so that no message is glued to it."""
    tqdm = sys.modules.get("tqdm.std")
    for bar in list(getattr(getattr(tqdm, "tqdm", None), "_instances", ())):
        bar.leave = True  # a bar that is left ends with a new line
        bar.close()


def parse_size(option: str, text: str | None) -> tuple[int, int] | None:
    """ "384x512" -> (384, 512): height and width in pixels."""
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,5})[xX]([1-9]\d{0,5})", text)
    if match is None:
        raise UsageError(f"{option} {text}: expected HEIGHTxWIDTH in pixels, such as 384x512")
    return int(match[1]), int(match[2])
