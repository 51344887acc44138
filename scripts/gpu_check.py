"""What a GPU can do with this checkout: runs the parts of research/gpu one after another and writes OUT/gpu.json and OUT/gpu.md.

    scripts/gpu_check.sh OUT

- Each part is a process of its own, with a time by which it ends. One that fails, or runs out of time, is reported with what it measured
  until then, and the rest goes on. What a part leaves over is the next one's.
- Both files are written anew whenever a part has a new result.
- This file needs the standard library alone; a part that lacks a package is skipped with its name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from research.machine import is_installed
from research.pages import table
from research.plain_options import Parser, input_folder, output_folder, positive_seconds
from research.processes import sigterm_as_exit

ROOT = Path(__file__).resolve().parents[1]
PARTS = ROOT / "scripts" / "research" / "gpu" / "parts.py"
# Share of the whole time by which each part has ended; the figures that nobody has come first.
UNTIL = {"machine": 0.08, "cost": 0.36, "tests": 0.7, "throughput": 0.97}
LOOK_EVERY = 2.0  # seconds
LAST_LINES = 12  # of a failed part's output


class Check:
    """One run: its options, what its parts found, and the two files."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.start = options, time.monotonic()
        self.folder = options.out.absolute()
        (self.folder / "parts").mkdir(parents=True, exist_ok=True)
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.about = {"command": " ".join(["scripts/gpu_check.sh", *sys.argv[1:]]), "date": date, "commit": commit()}
        self.about |= {"device": options.device, "small": options.small}
        self.parts: dict[str, dict[str, Any]] = {}

    def run(self) -> bool:
        """Runs all parts. Returns whether there was a device and none failed."""
        environment = self.environment()
        for name in self.options.part or UNTIL:
            if self.has_device():
                self.run_part(name, environment)
            else:  # a CPU would take hours
                self.parts[name] = {"state": "skipped", "error": "torch finds no CUDA GPU", "results": {}}
        self.about["seconds"] = round(time.monotonic() - self.start)
        self.write()
        return self.has_device() and not any(part["state"] == "failed" for part in self.parts.values())

    def has_device(self) -> bool:
        """Whether the device is there, as far as the first part has told."""
        found = self.parts.get("machine", {}).get("results", {}).get("gpu", "not looked for")
        return self.options.device == "cpu" or not found.startswith("none")

    def environment(self) -> dict[str, str]:
        """The parts' variables: this checkout, packages from wheels, no network, the device."""
        paths = [str(ROOT)]  # not scripts/, whose evaluate.py would stand in for the package of that name
        if self.options.wheels:
            paths.append(str(unpack(self.options.wheels, self.folder / "packages")))
        paths += [path for path in [os.environ.get("PYTHONPATH")] if path]
        found = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
        if self.options.device == "cpu":  # also where there is a GPU
            found |= {"CUDA_VISIBLE_DEVICES": "", "WINWIN_TEST_DEVICE": "cpu", "ACCELERATE_USE_CPU": "true"}
        return found

    def run_part(self, name: str, environment: dict[str, str]) -> None:
        file, log = (self.folder / "parts" / f"{name}.{kind}" for kind in ("json", "txt"))
        file.unlink(missing_ok=True)
        begin = time.monotonic()
        end = self.start + self.options.deadline * UNTIL[name]
        part = self.parts[name] = {"state": "runs", "error": None, "results": {}}
        request = {"file": str(file), "small": self.options.small, "end": end}
        print(f"{name}: at most {end - begin:.0f} s", flush=True)
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, str(PARTS), name, json.dumps(request)],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=ROOT,
                start_new_session=True,
            )
            try:
                seen = 0
                while process.poll() is None and time.monotonic() < end:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(min(LOOK_EVERY, max(0.1, end - time.monotonic())))
                    changed = file.stat().st_mtime_ns if file.exists() else 0
                    if changed != seen:
                        seen = changed
                        self.read(part, file)
                        self.write()
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)  # also the processes that it left
                code = process.wait()
        self.read(part, file)
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        part["seconds"] = round(time.monotonic() - begin, 1)
        if code == -signal.SIGKILL and time.monotonic() >= end:
            part |= {"state": "out of time", "error": f"ended after {part['seconds']:.0f} s"}
        elif code and lines and lines[-1].startswith("ModuleNotFoundError"):
            part |= {"state": "skipped", "error": lines[-1].partition(": ")[2]}
        elif code:
            part |= {"state": "failed", "error": "\n".join([f"exit code {code}", *lines[-LAST_LINES:]])}
        else:
            part["state"] = "done"
        self.write()
        print(f"{name}: {part['state']} after {part['seconds']:.0f} s", flush=True)

    def read(self, part: dict[str, Any], file: Path) -> None:
        if file.exists():
            part["results"] = json.loads(file.read_text())

    def write(self) -> None:
        replace_text(self.folder / "gpu.json", json.dumps({"about": self.about, "parts": self.parts}, indent=1) + "\n")
        replace_text(self.folder / "gpu.md", page(self.about, self.parts))


def page(about: dict[str, Any], parts: dict[str, dict[str, Any]]) -> str:
    """gpu.md: the run, the state of each part, and what each says of itself."""
    small = " **Tiny sizes, to try the command: these figures mean nothing.**" if about["small"] else ""
    stand_in = " **The CPU stands in the GPU's place.**" if about["device"] == "cpu" else ""
    reasons = {name: (part["error"] or "").strip().split("\n")[-1][:200] for name, part in parts.items()}
    rows = [[name, part["state"], reasons[name], part.get("seconds")] for name, part in parts.items()]
    text = [
        "# What this GPU does",
        f"```bash\n{about['command']}\n```",
        f"{about['date'][:16]}, commit {about['commit']}.{stand_in}{small}",
        table(["part", "state", "why", "s"], rows, text_columns=3),
    ]
    text += [part["results"]["markdown"] for part in parts.values() if part["results"].get("markdown")]
    failed = {name: part["error"] for name, part in parts.items() if part["state"] == "failed"}
    text += [f"## {name} failed\n\n```text\n{error}\n```" for name, error in failed.items()]
    return "\n\n".join(text) + "\n"


def unpack(wheels: Path, target: Path) -> Path:
    """Installs the wheels of packages that aren't there yet into a folder."""
    chosen = [wheel for wheel in sorted(wheels.glob("*.whl")) if not is_installed(wheel.name.split("-")[0])]
    if chosen:
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-index",
            "--no-deps",
            "--target",
            str(target),
        ]
        try:
            subprocess.run([*command, *map(str, chosen)], check=True, timeout=120)
        except (OSError, subprocess.SubprocessError) as error:
            print(f"{wheels}: nothing is installed from there ({error})", flush=True)
    return target


def commit() -> str:
    """The checkout's commit, with "+" where it was changed; "unknown" without git."""
    try:
        words = ["git", "-C", str(ROOT), "describe", "--always", "--dirty=+"]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=20).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def replace_text(path: Path, text: str) -> None:
    """Written under a temporary name and renamed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> None:
    parser = Parser(prog="gpu_check.sh", description=__doc__.splitlines()[0])
    parser.add_argument(
        "out", metavar="OUT", type=output_folder, help="folder for gpu.json, gpu.md and the parts' output"
    )
    parser.add_argument(
        "--deadline", type=positive_seconds, default=480, metavar="SECONDS", help="of all parts; default: 480"
    )
    parser.add_argument("--wheels", type=input_folder, metavar="FOLDER", help="packages that this machine may lack")
    parser.add_argument("--part", action="append", choices=list(UNTIL), help="repeatable; default: all")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: in the GPU's place")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to try the command")
    options = parser.parse_args()
    try:
        with sigterm_as_exit():
            ok = Check(options).run()
    except OSError as error:  # a full disk, say
        sys.exit(f"gpu_check.sh: {error.filename or options.out}: {error.strerror or error}")
    print(options.out / "gpu.md")
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
