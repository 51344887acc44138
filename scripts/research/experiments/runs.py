"""Trainings of an experiment, and what it keeps of them: several at a time, resumed where they stopped, never repeated.

Notable:
- a training is a process of its own (scripts/train.py) in a folder of its own, shared by all experiments that name it. Whatever
  is killed, this program or a training, the same command goes on from the last state.
- a folder is locked while it is trained, by the training itself: an orphan, or a second program, is waited for, not doubled.
- time is the CPU seconds of the training's process (one thread: whatever else runs here hardly changes it), seconds on an
  accelerator. Evaluations and loader processes are not in it.
- scores of a finished model are kept beside it, and results are written under a temporary name first.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from winwin_hf.data.formats import write_atomic
from winwin_hf.evaluation.report import machine
from winwin_hf.training.recipe import Recipe, load_recipe

from .pages import page
from .process import ended_by_sigterm, machine_record

ROOT = Path(__file__).resolve().parents[3]
RECIPES = ROOT / "scripts" / "research" / "recipes"
TRAIN = ROOT / "scripts" / "train.py"
FINDINGS = Path(__file__).with_name("findings.yaml")
LAST_LINES = 15  # of a failed training's log
PAUSE = 0.5  # seconds between two looks at the trainings
SAY_EVERY = 120.0  # seconds between two lines about them where there is no terminal


@dataclass(frozen=True)
class Run:
    """One training. name: its folder under the work folder. recipe: a YAML file. overrides: "section.key=value". label: its name in
    legends. Experiments that name the same run share it; they must mean the same."""

    name: str
    recipe: Path
    overrides: tuple[str, ...] = ()
    label: str = ""


@dataclass(frozen=True)
class Context:
    """What the command line says. work: trainings' folders. output: where NAME.json, NAME.md and NAME.png go. data: folders of data
    sets by name. seeds: trainings of each kind, with the seeds 0, 1, ... jobs: trainings at a time, each with `threads` threads.
    draw_only: neither train nor score, make results of what there is."""

    work: Path = Path("runs/reproduce")
    output: Path = Path("docs/results")
    data: dict[str, str] = field(default_factory=dict)
    seeds: int = 3
    jobs: int = 1
    threads: int = 1
    draw_only: bool = False
    console: Console = field(default_factory=lambda: Console(stderr=True))


@dataclass(frozen=True)
class Experiment:
    """function: trains, scores, writes results. title: one line, with the paper's figure or table. needs: data sets that must be given by
    --data. hours: of the whole of it on two cores with `--jobs 2` and three seeds."""

    function: Callable[[Context], None]
    title: str
    needs: tuple[str, ...] = ()
    hours: float = 1.0


# ------------------------------------------------------------------ what a folder tells


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The lines of a training's metrics.jsonl; a line that is being written is left out."""
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def steps_done(folder: Path) -> int:
    """The last step that the training wrote about."""
    metrics = read_metrics(folder)
    return int(metrics[-1]["step"]) if metrics else 0


def is_finished(folder: Path) -> bool:
    """Whether its training came to its end. The model's folder appears whole, at the end."""
    return (folder / "model" / "config.json").is_file()


def curve(folder: Path, label: str, figure: str) -> list[dict[str, float]]:
    """A figure of an evaluation set along the training: [{step, cpu_seconds, seconds, value}], in the order of the steps."""
    points = []
    for line in read_metrics(folder):
        scores = line.get(label)
        if isinstance(scores, dict) and figure in scores:
            spent = {key: float(line.get(key, math.nan)) for key in ("cpu_seconds", "seconds")}
            points.append({"step": line["step"], **spent, "value": float(scores[figure])})
    return points


def time_key(folder: Path) -> str:
    """Which of a curve's times is the training's: "cpu_seconds", or on an accelerator "seconds"."""
    return "seconds" if _trained_on(folder).get("accelerator") else "cpu_seconds"


def spent(folder: Path) -> float:
    """Seconds that the training's steps have taken so far, as `time_key` says."""
    times = [line[time_key(folder)] for line in read_metrics(folder) if time_key(folder) in line]
    return float(times[-1]) if times else math.nan


def memory(folder: Path) -> float:
    """GB that the training held at most: beyond the idle process where the log says what that held ("idle_gb"), else all of it. Only
    lines before the first evaluation count, which holds full frames whatever the training does."""
    held, idle = math.nan, 0.0
    for line in read_metrics(folder):
        if any(isinstance(value, dict) for value in line.values()):
            break
        idle = line.get("idle_gb", idle)
        if "gb" in line:
            held = max(line["gb"], held) if math.isfinite(held) else line["gb"]
    return held if _trained_on(folder).get("accelerator") else held - idle


def _trained_on(folder: Path) -> dict[str, Any]:
    path = folder / "machine.json"
    return json.loads(path.read_text()) if path.is_file() else {}


def check_recipe(recipe: Recipe, folder: Path) -> None:
    """Raises ValueError where the folder's training was another one. Where its data lay, and how it was scored, doesn't matter."""

    def what_counts(values: dict[str, Any]) -> dict[str, Any]:
        data = dict(values["data"], path=None, sets=[dict(part, path=None) for part in values["data"]["sets"]])
        return {key: values[key] for key in ("task", "model", "windows", "second_windows", "optimization")} | {
            "data": data
        }

    before = what_counts(asdict(load_recipe(folder / "recipe.yaml")))
    wanted = what_counts(asdict(recipe))
    changed = [key for key in wanted if wanted[key] != before[key]]
    if changed:
        raise ValueError(
            f"{folder}: trained by another recipe than the one asked for now ({', '.join(changed)} differ); "
            "delete the folder to train it again, or choose another --work"
        )


# ------------------------------------------------------------------ training


def seeds(context: Context, name: str, recipe: str, label: str, data: str, overrides: Sequence[str] = ()) -> list[Run]:
    """One kind of training with each of the seeds: runs "NAME-0", "NAME-1", ... of `RECIPES/recipe`, on the data set `data` of --data."""
    path = context.data.get(data)
    place = [f"data.path={Path(path).absolute()}"] if path else []
    return [
        Run(f"{name}-{seed}", RECIPES / recipe, (*place, *overrides, f"optimization.seed={seed}"), label)
        for seed in range(context.seeds)
    ]


def seed_by_seed(kinds: Sequence[Sequence[Run]]) -> list[Run]:
    """All kinds' first seeds, then all second ones: what is finished at any moment can be compared."""
    longest = max((len(kind) for kind in kinds), default=0)
    return [kind[i] for i in range(longest) for kind in kinds if i < len(kind)]


def train_all(runs: Sequence[Run], context: Context) -> dict[str, Path]:
    """
    Trains what is not finished, in this order, `context.jobs` at a time. Name -> folder of each finished run (`model/` in it).

    With `draw_only` nothing is trained: the runs that are finished. A training that fails doesn't keep the others from being
    trained. Ctrl-C and SIGTERM end the trainings after a state is saved.

    Raises: RuntimeError at the end, with the last lines of each training that failed; ValueError if two runs of one name differ, or a
        folder holds a training by another recipe.
    """
    wanted: dict[str, Run] = {}
    for run in runs:
        before = wanted.setdefault(run.name, run)
        if (before.recipe, set(before.overrides)) != (run.recipe, set(run.overrides)):
            raise ValueError(f"two runs are called {run.name} and differ: {before} and {run}")
    folders = {name: context.work / name for name in wanted}
    if not context.draw_only:
        jobs = []
        for name, run in wanted.items():
            recipe = load_recipe(run.recipe, list(run.overrides))
            if is_finished(folders[name]) or any(folders[name].glob("state-*")):
                check_recipe(recipe, folders[name])
            if not is_finished(folders[name]):
                jobs.append(Job(run, folders[name], recipe.optimization.steps, context.threads))
        _train(jobs, context, len(wanted))
    return {name: folder for name, folder in folders.items() if is_finished(folder)}


@dataclass
class Job:
    """A training under way. Its process holds the folder's lock, and keeps it if this program dies."""

    run: Run
    folder: Path
    steps: int
    threads: int
    process: subprocess.Popen | None = None
    began: float = 0.0
    error: str = ""

    def begin(self) -> None:
        """Starts the process, unless the folder is being trained by another: then `ended` waits for that."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.began = time.monotonic()
        with (self.folder / "lock").open("a") as lock:
            if not _locked(lock.fileno()):
                return
            with write_atomic(self.folder / "machine.json") as temporary:
                temporary.write_text(json.dumps({**machine(), "threads": self.threads, "torch": torch.__version__}))
            command = [sys.executable, str(TRAIN), str(self.run.recipe), "--resume", "--output", str(self.folder)]
            command += [word for override in self.run.overrides for word in ("--set", override)]
            threads = {name: str(self.threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
            with (self.folder / "log.txt").open("a") as log:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **threads},
                    pass_fds=[lock.fileno()],  # the lock stays while any process has it open
                    start_new_session=True,  # a terminal's Ctrl-C would reach the training's loader processes too
                )

    def ended(self) -> bool:
        """Whether nobody trains here any more."""
        if self.process is not None:
            return self.process.poll() is not None
        with (self.folder / "lock").open("a") as lock:
            return _locked(lock.fileno())

    def conclude(self) -> None:
        """After the end: why there is no model, in `error`."""
        if self.process is None or is_finished(self.folder):
            return
        code = self.process.returncode
        why = f"exit code {code}" if code else f"stopped at step {steps_done(self.folder)} of {self.steps}"
        self.error = f"{self.run.name}: {why}; {self.folder / 'log.txt'} ends with\n{last_lines(self.folder)}"

    def ask_to_end(self) -> None:
        """The training saves a state and ends; one of another program goes on."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self) -> None:
        if self.process is not None:
            self.process.wait()


def _locked(descriptor: int) -> bool:
    """Locks the file, for as long as it is open. False if someone else has it locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def last_lines(folder: Path) -> str:
    """The end of a training's log; a progress bar's many states count as one line each."""
    path = folder / "log.txt"
    text = path.read_text(errors="replace").replace("\r", "\n") if path.is_file() else ""
    return "\n".join([line for line in text.splitlines() if line.strip()][-LAST_LINES:])


def _train(jobs: list[Job], context: Context, total: int) -> None:
    """Runs the jobs; see `train_all`."""
    console, waiting = context.console, list(jobs)
    active: list[Job] = []
    failed: list[str] = []
    if not waiting:
        return
    done = total - len(waiting)
    if done:
        console.print(f"{done} of {total} trainings are finished already")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    said = time.monotonic()
    with ended_by_sigterm(), Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bars: dict[str, TaskID] = {}
        try:
            while waiting or active:
                while waiting and len(active) < context.jobs:
                    job = waiting.pop(0)
                    active.append(job)
                    job.begin()
                    start = steps_done(job.folder)
                    bars[job.run.name] = progress.add_task(job.run.name, total=job.steps, completed=start)
                    how = f"from step {start}" if start else "from the start"
                    console.print(f"{job.run.name}: {'waiting for another program' if not job.process else how}")
                time.sleep(PAUSE)
                for job in list(active):
                    progress.update(bars[job.run.name], completed=steps_done(job.folder))
                    if not job.ended():
                        continue
                    active.remove(job)
                    progress.remove_task(bars.pop(job.run.name))
                    job.conclude()
                    if is_finished(job.folder):
                        done += 1
                        minutes = (time.monotonic() - job.began) / 60
                        console.print(f"{job.run.name}: finished in {minutes:.1f} min ({done} of {total})")
                    elif job.error:
                        failed.append(job.error)
                        console.print(f"{job.run.name}: [bold red]failed[/], see {job.folder / 'log.txt'}")
                    else:  # the other program left it unfinished
                        waiting.insert(0, job)
                if not console.is_terminal and active and time.monotonic() - said > SAY_EVERY:
                    said = time.monotonic()
                    console.print(", ".join(f"{j.run.name} {steps_done(j.folder)}/{j.steps}" for j in active))
        finally:
            for job in active:
                job.ask_to_end()
            if any(job.process for job in active):
                console.print("trainings save their state and end; the same command goes on from there")
            for job in active:
                job.wait()
    if failed:
        raise RuntimeError(f"{len(failed)} of {total} trainings failed\n" + "\n\n".join(failed))


# ------------------------------------------------------------------ scores and results


@dataclass(frozen=True)
class Question:
    """What `function` finds out about the model in `folder`, kept as folder/scores/KEY.json. To be asked in a process of its own it must
    be a module's function, or a `functools.partial` of one."""

    key: str
    folder: Path
    function: Callable[[], dict[str, Any]]

    @property
    def path(self) -> Path:
        return self.folder / "scores" / f"{self.key}.json"

    def keep(self, figures: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with write_atomic(self.path) as temporary:
            temporary.write_text(json.dumps(plain(figures), allow_nan=False))

    def answer(self) -> dict[str, Any] | None:
        return json.loads(self.path.read_text()) if self.path.is_file() else None


def measured(context: Context, key: str, folder: Path, function: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """
    What `function` finds out about the model in `folder`, kept as folder/scores/KEY.json: asked once, then read.

    None with `draw_only` where it wasn't asked before. Figures that aren't finite come back as None.
    """
    return measure_all(context, [Question(key, folder, function)])[0]


def measure_all(context: Context, questions: Sequence[Question]) -> list[dict[str, Any] | None]:
    """`measured` for many questions: `context.jobs` at a time, each in a process with `context.threads` threads. More threads for one
    scoring would wait for each other longer than they work wherever something else runs too."""
    console = context.console
    open_ones = [] if context.draw_only else [question for question in questions if not question.path.is_file()]

    def keep(question: Question, figures: dict[str, Any], start: float) -> None:
        question.keep(figures)
        console.print(f"{question.folder.name}: {question.key} scored after {time.monotonic() - start:.0f} s")

    start = time.monotonic()
    if len(open_ones) < 2 or context.jobs == 1:
        torch.set_num_threads(context.threads)
        for question in open_ones:
            start = time.monotonic()
            keep(question, question.function(), start)
    else:
        console.print(f"scoring: {', '.join(f'{q.folder.name} {q.key}' for q in open_ones)}")
        spawned = get_context("spawn")  # a fork of a process whose threads have begun may hang
        with ProcessPoolExecutor(context.jobs, spawned, _be_quiet, (context.threads,)) as pool:
            futures = {pool.submit(question.function): question for question in open_ones}
            try:
                for future in as_completed(futures):
                    keep(futures[future], future.result(), start)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return [question.answer() for question in questions]


def _be_quiet(threads: int) -> None:
    """A scoring process: its threads, and no progress bars over its neighbours'. What goes wrong is raised in the program."""
    torch.set_num_threads(threads)
    sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  for as long as the process lives


def command(context: Context, name: str) -> str:
    """The command that makes an experiment's results. Data sets' folders by their last name only: where they lay is nobody's matter."""
    data = [word for key, path in context.data.items() for word in ("--data", f"{key}={Path(path).name}")]
    words = ["python", "scripts/reproduce.py", name, *data, "--seeds", str(context.seeds)]
    return shlex.join(words)


def write_result(context: Context, name: str, result: dict[str, Any]) -> Path:
    """
    OUTPUT/NAME.json, and from it OUTPUT/NAME.md: with the command, the machine, the date and the version.

    What the page shows of `result`: "title"; "about", a paragraph; "tables", a list of {"title", "columns", "rows", "note"}, cells
    being text or numbers; the picture NAME.png if it is there; the text of findings.yaml under this name.
    """
    context.output.mkdir(parents=True, exist_ok=True)
    record = {
        "name": name,
        "command": command(context, name),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": {**machine_record(), "torch": torch.__version__, "threads_of_a_training": context.threads},
        "version": version("winwin-hf"),
        **result,
    }
    path = context.output / f"{name}.json"
    record = plain(record)
    with write_atomic(path) as temporary:
        temporary.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    findings = yaml.safe_load(FINDINGS.read_text()) if FINDINGS.is_file() else None
    picture = (context.output / f"{name}.png").is_file()
    with write_atomic(path.with_suffix(".md")) as temporary:
        temporary.write_text(page(record, picture, (findings or {}).get(name)))
    context.console.print(f"{path}, {path.with_suffix('.md').name}{', ' + name + '.png' if picture else ''}")
    return path


def plain(value: Any) -> Any:
    """What JSON can hold: NumPy's numbers as Python's, paths as text, NaN and infinity as None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy, torch
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def known(values: Sequence[float | None]) -> list[float]:
    """Those that are there and finite."""
    return [value for value in values if value is not None and math.isfinite(value)]


def plus_minus(values: Sequence[float | None], digits: int = 1) -> str:
    """
    "31.2 ± 0.4": the mean and half the range of the known ones; one has no range; "-" for none.

    With three seeds a standard deviation would claim more than it knows.
    """
    found = known(values)
    if not found:
        return "-"
    text = f"{sum(found) / len(found):.{digits}f}"
    return text if len(found) == 1 else f"{text} ± {(max(found) - min(found)) / 2:.{digits}f}"


def seeds_text(counts: Sequence[int]) -> str:
    """ "3 seeds", "1 seed", or "1 to 3 seeds" where not all kinds have as many yet."""
    low, high = min(counts, default=0), max(counts, default=0)
    many = f"{low} to {high}" if low != high else str(high)
    return f"{many} seed{'' if (low, high) == (1, 1) else 's'}"
