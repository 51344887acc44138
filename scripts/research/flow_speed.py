"""CPU seconds and memory of a flow checkpoint, in this checkout and in an older one, in turns.

    git worktree add ../before 974c2fb
    python scripts/research/flow_speed.py ../before

- Each checkout has one process (and one more for each memory figure), which measures whatever this one asks for. Seconds are CPU time of
  that process: other work on the machine isn't counted, though it takes cache and memory from it.
- `video` and `both directions` compare this checkout with itself: flow of a clip against its pairs one by one.
"""

import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

sys.path.append(str(Path(__file__).resolve().parents[1]))

from research import pages
from research.files import machine_record, write_json
from research.machine import resident
from research.processes import with_threads
from research.sizes import parse_size
from winwin_hf.cli.arguments import check_output
from winwin_hf.cli.errors import UsageError, one_line_errors

ROOT = Path(__file__).resolve().parents[2]
CLIP = 4  # frames
# what is measured -> (options of `Predictor.load`, whether the older checkout has them)
WAYS: dict[str, tuple[dict[str, Any], bool]] = {
    "one pass": ({"min_pixels": 0}, True),
    "fast": ({"quality": "fast"}, False),
}


def answer(checkpoint: str) -> None:
    """Measures what each line of the input asks for, in JSON; the answer is a line of JSON."""
    import numpy as np
    import torch
    from PIL import Image

    from winwin_hf.bundled import examples_folder
    from winwin_hf.inference.predictor import Predictor

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    pictures = [Image.open(path).convert("RGB") for path in sorted(examples_folder().glob("bedroom_*.jpg"))]
    known: dict[str, Any] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        options = WAYS[asked["way"]][0]
        if asked["way"] not in known:
            known[asked["way"]] = Predictor.load(checkpoint, "optical-flow", "cpu", **options)
        predictor = known[asked["way"]]
        height, width = asked["size"]
        frames = [np.asarray(picture.resize((width, height))) for picture in (pictures * CLIP)[:CLIP]]
        start = time.process_time()
        if asked["what"] == "pair":
            flow = predictor(*frames[:2]).values
            np.save(asked["file"], flow)
        elif asked["what"] == "pairs":
            for first, second in itertools.pairwise(frames):
                predictor(first, second)
        elif asked["what"] == "video":
            list(predictor.frames(frames))
        elif asked["what"] == "two passes":
            predictor(*frames[:2]), predictor(*frames[1::-1])
        else:
            list(predictor.frames(frames[:2], backward=True))
        seconds = time.process_time() - start
        print("\n" + json.dumps({"seconds": seconds, "peak_gb": resident("VmHWM") / 1e9}), flush=True)


class Checkout:
    """A process that measures in one checkout."""

    def __init__(self, root: Path, checkpoint: str, threads: int, stack: ExitStack):
        environment = with_threads(threads, {"PYTHONPATH": str(root)})
        command = [sys.executable, __file__, "--answer", checkpoint]
        self.process = subprocess.Popen(command, stdin=-1, stdout=-1, env=environment, text=True)
        stack.callback(self.process.wait)
        stack.callback(self.process.terminate)

    def ask(self, **what: Any) -> dict[str, float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise RuntimeError(f"{what}: the process ended without an answer")


def command_seconds(root: Path, folder: Path, threads: int) -> float:
    """CPU seconds of `winwin flow` on two frames of 192x320, imports included."""
    from PIL import Image

    from winwin_hf.bundled import examples_folder

    for number in (1, 2):
        Image.open(examples_folder() / f"bedroom_{number}.jpg").resize((320, 192)).save(folder / f"{number}.png")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    words = ["-m", "winwin_command", "flow", f"{folder}/1.png", f"{folder}/2.png", "-o", f"{folder}/flow.flo"]
    environment = with_threads(threads, {"PYTHONPATH": str(root)})
    subprocess.run([sys.executable, *words], env=environment, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(
    before: Annotated[Path, typer.Argument(help="An older checkout.")],
    checkpoint: Annotated[str, typer.Option()] = "winwin-flow",
    size: Annotated[list[str] | None, typer.Option(help="HEIGHTxWIDTH; repeatable.")] = None,
    threads: Annotated[int, typer.Option(min=1)] = 1,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each; figures are medians.")] = 5,
    memory: Annotated[bool, typer.Option(help="Measure peak memory too.")] = True,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write all figures (.json).")] = None,
) -> None:
    """Compare the flow of this checkout with that of BEFORE."""
    import numpy as np

    if output is not None:
        check_output("--output", output, (".json",))
    if not (before / "winwin_hf").is_dir():
        raise UsageError(f"{before}: expected a checkout of this repository")
    sizes = [parse_size("--size", text) for text in size or ["540x960", "720x1280", "1080x1920"]]
    found: dict[str, list[float]] = {}
    rows, shared, peaks = [], [], {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        roots = {"before": before.resolve(), "after": ROOT}
        checkouts = {name: Checkout(root, checkpoint, threads, stack) for name, root in roots.items()}

        def measure(name: str, way: str, what: str, sides: tuple[int, int]) -> None:
            key = f"{sides[0]}x{sides[1]}, {what}, {way}, {name}"
            file = str(folder / f"{name}-{way}.npy")
            found.setdefault(key, []).append(checkouts[name].ask(way=way, what=what, size=sides, file=file)["seconds"])

        cases = [(name, way) for way, (_, old) in WAYS.items() for name in roots if old or name == "after"]
        for sides in sizes:
            for _ in range(rounds):
                for name, way in cases:
                    measure(name, way, "pair", sides)
            reference = np.load(folder / "before-one pass.npy")
            for name, way in cases:
                if memory:
                    asked = {"way": way, "what": "pair", "size": sides, "file": str(folder / "memory.npy")}
                    with ExitStack() as one:
                        peaks[name, way] = Checkout(roots[name], checkpoint, threads, one).ask(**asked)["peak_gb"]
                seconds = found[f"{sides[0]}x{sides[1]}, pair, {way}, {name}"]
                first = statistics.median(found[f"{sides[0]}x{sides[1]}, pair, one pass, before"])
                distance = np.linalg.norm(np.load(folder / f"{name}-{way}.npy") - reference, axis=0)
                rows.append(
                    [
                        f"{sides[0]}x{sides[1]}",
                        f"{name}, {way}",
                        statistics.median(seconds),
                        f"{min(seconds):.2f} - {max(seconds):.2f}",
                        first / statistics.median(seconds),
                        peaks.get((name, way)),
                        float(distance.mean()) if name == "after" else None,
                    ]
                )
        for way in WAYS:
            for _ in range(rounds):
                for what in ("pairs", "video", "two passes", "both directions"):
                    measure("after", way, what, sizes[0])
            label = f"{sizes[0][0]}x{sizes[0][1]}"
            for apart, together in (("pairs", "video"), ("two passes", "both directions")):
                middle = [statistics.median(found[f"{label}, {what}, {way}, after"]) for what in (apart, together)]
                shared.append([f"{label}, {together}, {way}", *middle, middle[0] / middle[1]])
        for _ in range(rounds):
            for name, root in roots.items():
                found.setdefault(f"command, {name}", []).append(command_seconds(root, folder, threads))
    print(f"\n{machine_record()['cpu']}, {threads} thread(s), medians of {rounds}, load {os.getloadavg()[0]:.1f}\n")
    columns = ["size", "way", "CPU s", "from - to", "times as fast", "peak GB", "mean difference, px"]
    print(pages.table(columns, rows, 2) + "\n")
    print(pages.table(["clip of 4 frames, or a pair", "one by one, CPU s", "together, CPU s", "times as fast"], shared))
    commands = [[name, statistics.median(found[f"command, {name}"])] for name in roots]
    print("\n" + pages.table(["`winwin flow` on 192x320", "CPU s"], commands))
    if output is not None:
        write_json(output, {"machine": machine_record(), "threads": threads, "seconds": found})


if __name__ == "__main__":
    if sys.argv[1:2] == ["--answer"]:
        answer(sys.argv[2])
    else:
        typer.run(one_line_errors(main))
