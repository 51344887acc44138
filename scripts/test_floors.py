#!/usr/bin/env python3
"""Runs the tests with the oldest and the newest versions that pyproject.toml allows, each set in an environment of its own.

`make test-floors` and CI's workflow run this file. It needs nothing but Python; the interpreter that runs it is the one tested.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import venv
from pathlib import Path

from research.plain_options import Parser, output_folder
from research.processes import sigterm_as_exit

ROOT = Path(__file__).resolve().parents[1]
SETS = {
    "oldest": ["--resolution", "lowest-direct"],
    "newest": ["--resolution", "highest"],
    "pinned": ["--constraint", "constraints.txt"],
}
# Prints the interpreter's version, then those of the packages that pyproject.toml names.
VERSIONS = """
import platform, re
from importlib.metadata import distribution, version
needs = [need for need in distribution("winwin-hf").requires if "extra ==" not in need]
names = [re.match("[A-Za-z0-9_.-]+", need)[0] for need in needs]
print("Python " + platform.python_version(), *(f"{name} {version(name)}" for name in names), sep=", ")
"""


def install(name: str, folder: Path, torch_index: str | None) -> Path:
    """A set's environment in `folder`, made anew -> its interpreter."""
    # pip can't resolve the lowest versions, so uv does.
    uv = folder / "uv/bin/uv"
    if not uv.exists():
        venv.create(folder / "uv", with_pip=True)
        subprocess.run([folder / "uv/bin/python", "-m", "pip", "install", "-q", "uv"], check=True)
    subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, folder / name], check=True)
    python = folder / name / "bin/python"
    ways = [*SETS[name], "--python", python]
    # torch first and alone: an index of its builds has some releases of other packages too, mostly old ones.
    resolve = [uv, "pip", "compile", "-q", *ways, "--extra", "test", "pyproject.toml"]
    found = subprocess.run(resolve, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    torch = re.findall(r"^torch==[\w.]+", found, re.MULTILINE)[0]
    if torch_index:
        from_index = ["--python", python, "--no-deps", "--default-index", torch_index]
        subprocess.run([uv, "pip", "install", "-q", *from_index, torch], check=True)
    subprocess.run([uv, "pip", "install", "-q", *ways, "-e", ".[test]", torch], check=True, cwd=ROOT)
    return python


def test(python: Path, arguments: list[str]) -> str:
    """Runs pytest -> its last line, which counts what passed, failed and was skipped."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    command = [python, "-m", "pytest", "-n", "auto", "--dist", "loadfile", *arguments]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        line = ""
        try:
            for line in process.stdout or []:
                print(line, end="", flush=True)
        except BaseException:  # an interruption, after which the block waits for the process
            process.terminate()
            raise
    return line.strip(" =\n") + ("" if process.returncode == 0 else f" (exit status {process.returncode})")


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", help=f"{', '.join(SETS)}; by default oldest and newest")
    parser.add_argument("--pytest-args", default="", help='arguments of pytest in one string: --pytest-args="-k flow"')
    parser.add_argument("--folder", type=output_folder, default=ROOT / ".floors", help="where the environments lie")
    parser.add_argument("--torch-index", default=os.environ.get("TORCH_INDEX"), help="take torch from this index")
    options = parser.parse_args()
    for name in options.sets:  # before the first one is installed
        if name not in SETS:
            parser.error(f"SET {name}: expected {', '.join(SETS)}")
    try:
        pytest_arguments = shlex.split(options.pytest_args)
    except ValueError as error:
        parser.error(f"--pytest-args {options.pytest_args}: {error}")
    results = {}
    for name in options.sets or ["oldest", "newest"]:
        with sigterm_as_exit():
            python = install(name, options.folder.resolve(), options.torch_index)
            versions = subprocess.run([python, "-c", VERSIONS], check=True, capture_output=True, text=True).stdout
            results[name] = (versions.strip(), test(python, pytest_arguments))
    for name, (versions, result) in results.items():
        print(f"\n== {name}: {result}\n{versions}")
    sys.exit(any("exit status" in result for _, result in results.values()))


if __name__ == "__main__":
    main()
