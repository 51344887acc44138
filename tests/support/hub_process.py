"""Another Python that is asked to push to a Hub or pull from it: huggingface_hub reads its environment once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub

from support.minihub import Hub
from support.places import HANGS_AFTER

OLD_HUB = tuple(map(int, huggingface_hub.__version__.split(".")[:2])) < (2, 2)
LABELS = {0: "road", 1: "sky", 2: "tree"}
PUSH = """
from winwin_hf.cli.push import plan_lines
from winwin_hf.hub.push import push
warnings = []
plan = push(source, repo_id, type, warn=warnings.append, **options)
states = {path: state for path, (size, state) in plan.files.items()}
result = {"states": states, "url": plan.url, "lines": plan_lines(plan), "warnings": warnings, "deleted": plan.deleted}
"""

MARK = "\x1e"
# time.sleep: huggingface_hub waits for seconds before it tries again.
LOOP = f"""
import builtins, json, sys, time, traceback
time.sleep = lambda seconds: None
asked = []
builtins.input = lambda question="": asked.append(question) or 1 / 0
for line in sys.stdin:
    wanted = json.loads(line)
    space = {{"result": None, **wanted["values"]}}
    try:
        asked.clear()
        exec(wanted["code"], space)
        assert not asked, asked  # transformers, whether foreign code may run
        answer = {{"result": space["result"]}}
    except Exception as error:
        answer = {{"error": type(error).__name__, "message": str(error), "trace": traceback.format_exc()}}
    print({MARK!r} + json.dumps(answer), flush=True)
"""


class Failed(Exception):
    """What another process raised; its type's name and message."""

    def __init__(self, answer: dict[str, Any]):
        super().__init__(f"{answer['error']}: {answer['message']}\n{answer['trace']}")
        self.kind, self.message = answer["error"], answer["message"]


class Process:
    """Another Python that runs what it is asked to; `result` is what comes back."""

    def __init__(self, hub: Hub, home: Path, preamble: str = "", token: str = "hf_writer"):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", preamble + LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=home,
        )

    def __call__(self, code: str, **values: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"code": code, "values": values}, default=str) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(MARK):
                answer = json.loads(line[1:])
                if "error" in answer:
                    raise Failed(answer)
                return answer["result"]
        raise RuntimeError("the other process has ended")

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=HANGS_AFTER)
