"""Runs trainings: several at a time, resumed where they stopped, none twice.

- A training is a process of scripts/train.py in a folder of its own. All experiments that name the folder share it.
- The training itself locks its folder. A training that another program left running is waited for, not started again.
- Whatever was killed, the same command goes on from the last state.
"""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from research.experiments.context import RECIPES, ROOT, Context
from research.experiments.logs import check_recipe, is_finished, last_lines, steps_done
from research.files import write_json
from research.processes import LAST_LINES, sigterm_as_exit, with_threads
from winwin_hf.evaluation.report import machine
from winwin_hf.training.recipe import load_recipe

TRAIN = ROOT / "scripts" / "train.py"
POLL_SECONDS = 0.5
REPORT_SECONDS = 120.0  # between two lines of progress where there is no terminal


@dataclass(frozen=True)
class Run:
    """
    One training. Experiments that name the same run share it.

    Attributes:
        name: its folder under the work folder.
        recipe: a YAML file. overrides: "section.key=value".
    """

    name: str
    recipe: Path
    overrides: tuple[str, ...] = ()


def seeds(context: Context, name: str, recipe: str, data: str, overrides: Sequence[str] = ()) -> list[Run]:
    """Runs NAME-0, NAME-1, ... of `RECIPES/recipe`, one for each seed, on the data set `data` of --data."""
    path = context.data.get(data)
    place = [f"data.path={Path(path).absolute()}"] if path else []
    return [
        Run(f"{name}-{seed}", RECIPES / recipe, (*place, *overrides, f"optimization.seed={seed}"))
        for seed in range(context.seeds)
    ]


def seed_by_seed(kinds: Sequence[Sequence[Run]]) -> list[Run]:
    """All kinds' first seeds, then all second ones, so that what is finished can be compared at any moment."""
    longest = max((len(kind) for kind in kinds), default=0)
    return [kind[i] for i in range(longest) for kind in kinds if i < len(kind)]


def train_all(runs: Sequence[Run], context: Context) -> dict[str, Path]:
    """
    Trains what is not finished, in this order, `context.jobs` at a time.

    With `context.draw_only` nothing is trained. The others go on after a training fails. Ctrl-C and SIGTERM let the trainings save
    a state and end them.

    Returns: name -> folder of each finished run, with `model/` in it.

    Raises:
        RuntimeError: at the end, with the last lines of each training that failed.
        ValueError: two runs of one name differ, or a folder holds a training by another recipe.
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
    """A training under way. Its process holds the folder's lock, also after this program has died."""

    run: Run
    folder: Path
    steps: int
    threads: int
    process: subprocess.Popen | None = None
    started_at: float = 0.0
    error: str = ""

    def start(self) -> None:
        """Starts the process. Where another program trains the folder, no process is started and `ended` waits for the other."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.started_at = time.monotonic()
        with (self.folder / "lock").open("a") as lock:
            if not _try_lock(lock.fileno()):
                return
            write_json(
                self.folder / "machine.json",
                {**machine(), "threads": self.threads, "torch": torch.__version__},
            )
            command = [sys.executable, str(TRAIN), str(self.run.recipe), "--resume", "--output", str(self.folder)]
            command += [word for override in self.run.overrides for word in ("--set", override)]
            with (self.folder / "log.txt").open("a") as log:
                self.process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=with_threads(self.threads),
                    pass_fds=[lock.fileno()],  # the lock stays while any process has it open
                    start_new_session=True,  # a terminal's Ctrl-C would reach the training's loader processes too
                )

    def ended(self) -> bool:
        """Whether no process trains in the folder any more."""
        if self.process is not None:
            return self.process.poll() is not None
        with (self.folder / "lock").open("a") as lock:
            return _try_lock(lock.fileno())

    def find_error(self) -> None:
        """Sets `error` where this job's process ended without a model."""
        if self.process is None or is_finished(self.folder):
            return
        code = self.process.returncode
        reason = f"exit code {code}" if code else f"stopped at step {steps_done(self.folder)} of {self.steps}"
        log = self.folder / "log.txt"
        self.error = f"{self.run.name}: {reason}; {log} ends with\n{last_lines(self.folder, LAST_LINES)}"

    def terminate(self) -> None:
        """Lets this job's process save a state and end. Another program's training goes on."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self) -> None:
        if self.process is not None:
            self.process.wait()


def _try_lock(descriptor: int) -> bool:
    """Locks the file for as long as it is open. False if another process has locked it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _train(jobs: list[Job], context: Context, total: int) -> None:
    """Runs the jobs; see `train_all`."""
    console, waiting = context.console, list(jobs)
    active: list[Job] = []
    failed: list[str] = []
    if not waiting:
        return
    finished = total - len(waiting)
    if finished:
        console.print(f"{finished} of {total} trainings are finished already")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    reported_at = time.monotonic()
    with sigterm_as_exit(), Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bars: dict[str, TaskID] = {}
        try:
            while waiting or active:
                while waiting and len(active) < context.jobs:
                    job = waiting.pop(0)
                    active.append(job)
                    job.start()
                    step = steps_done(job.folder)
                    bars[job.run.name] = progress.add_task(job.run.name, total=job.steps, completed=step)
                    how = f"from step {step}" if step else "from the start"
                    console.print(f"{job.run.name}: {'waiting for another program' if not job.process else how}")
                time.sleep(POLL_SECONDS)
                for job in list(active):
                    progress.update(bars[job.run.name], completed=steps_done(job.folder))
                    if not job.ended():
                        continue
                    active.remove(job)
                    progress.remove_task(bars.pop(job.run.name))
                    job.find_error()
                    if is_finished(job.folder):
                        finished += 1
                        minutes = (time.monotonic() - job.started_at) / 60
                        console.print(f"{job.run.name}: finished in {minutes:.1f} min ({finished} of {total})")
                    elif job.error:
                        failed.append(job.error)
                        console.print(f"{job.run.name}: [bold red]failed[/], see {job.folder / 'log.txt'}")
                    else:  # the other program left it unfinished
                        waiting.insert(0, job)
                if not console.is_terminal and active and time.monotonic() - reported_at > REPORT_SECONDS:
                    reported_at = time.monotonic()
                    console.print(", ".join(f"{j.run.name} {steps_done(j.folder)}/{j.steps}" for j in active))
        finally:
            for job in active:
                job.terminate()
            if any(job.process for job in active):
                console.print("trainings save their state and end; the same command goes on from there")
            for job in active:
                job.wait()
    if failed:
        raise RuntimeError(f"{len(failed)} of {total} trainings failed\n" + "\n\n".join(failed))
