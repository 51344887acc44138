"""The training loop: Accelerate, windows, and a state on disk that resumes exactly.

Notable:
- the learning rate is a function of the step, and the data of the number of examples that were read: a resumed training has the
  same weights, bit for bit on a CPU. With another number of processes it goes on at the same place of the data.
- every process and every worker reads its own share. The loader isn't wrapped by Accelerate, which would read on one process
  and send, or read everywhere and drop.
- a step's loss is the mean over the known pixels of all its batches, in all processes: the same examples make the same step in however
  many batches they come (`_loss_weights`).
- everything that the recipe names is opened before the first step, and one example of each read (rehearsal.py).
- states are written whole and checked before they are used (state.py); loader processes outlive neither the training nor a signal
  that is meant for it (batches.py).
- a state is saved before each evaluation, at the end the model too: an evaluation that fails costs nothing. A training that resumes
  from a state whose evaluation isn't logged begins with it.
- SIGTERM, SIGINT and the other STOP_SIGNALS of pools.py, to any process, save a state at the next step that can be resumed from, and
  end the training. An evaluation of one process is broken off: the state before it is saved already.
- the calling process is left as it was: random states, signal handlers, threads, environment (host_process.py).
"""

from __future__ import annotations

import contextlib
import gc
import math
import os
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import get_available_trackers
from accelerate.utils import GradientAccumulationPlugin, ProjectConfiguration, gather_object, set_seed
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel

from winwin_hf.convert.folder import check_output
from winwin_hf.data.contents import contents_of
from winwin_hf.data.formats.files import write_atomic
from winwin_hf.data.rows import BrokenExample
from winwin_hf.host_process import unchanged_process, unchanged_random_states
from winwin_hf.model.memory_winwin import explained, first_that_fits, memory_of, smaller_counts
from winwin_hf.own_files import remove_tree
from winwin_hf.pools import STOP_SIGNALS, WARNINGS
from winwin_hf.processes import LOCK, any_process, control_group, locked, lost_process_named
from winwin_hf.training.batches import EXAMPLES, Batches, StoppedWaiting
from winwin_hf.training.build import learning_rate, make_average, make_loader, make_model, make_optimizer, open_parts
from winwin_hf.training.evaluate import evaluate, open_accelerator, show
from winwin_hf.training.log import MetricsLog, introduce, is_evaluated, peak_memory, progress_bar
from winwin_hf.training.recipe import Recipe, dump_recipe, load_recipe
from winwin_hf.training.rehearsal import rehearse
from winwin_hf.training.rows import Rows
from winwin_hf.training.sharding import (
    ShardedAverage,
    Sharding,
    asked_for,
    shard,
    skeleton_of,
    tensors_of,
    whole,
)
from winwin_hf.training.soundness import fault_of
from winwin_hf.training.state import (
    Spent,
    check_same_network,
    check_same_recipe,
    clear_leftovers,
    frozen_in,
    latest_state,
    load_state,
    network_of,
    on_main_process,
    read_manifest,
    read_progress,
    recipe_fault,
    refuse_taken_names,
    save_model,
    save_state,
    warn_of_changed_data,
    whole_state,
)

NAMES_SHOWN = 16  # examples in a message


@unchanged_process()
@lost_process_named()
def train(
    recipe_path: str | Path, output: str | Path | None = None, resume: bool = False, overrides: list[str] | None = None
) -> Path:
    """
    Trains by a recipe and returns the folder of the final model. The recipe's seed decides every draw; the caller's random
    states are as before afterwards.

    Args:
        recipe_path: a YAML file, or the name of a recipe of the package.
        output: instead of the recipe's.
        resume: continue from the last state in the output folder; start where there is none.
        overrides: "section.key=value" strings on top of the recipe.
    Raises:
        ValueError: a wrong recipe or, on resuming, another one than the training was started with.
        FileExistsError: an output folder that holds a training, without `resume`, or in which another process trains.
        ConnectionError: another process of this training ended.
        FloatingPointError: the loss or its gradient is not finite; the last good state is kept.
        OSError: a state or the log can't be written; the last good state is kept. ChildProcessError: a loader process died.
        TrainingStopped: SIGTERM, Ctrl-C or a scheduler's warning ended it after a state was saved; continue with `resume`.
    """
    recipe = load_recipe(recipe_path, overrides)
    folder = Path(output or recipe.output)
    # The matching's weights of far keys are such numbers, and its gradient takes a CPU three times as long with them. Before the first
    # computation: the threads that it starts inherit this.
    torch.set_flush_denormal(True)
    sharding = asked_for()
    accelerator = make_accelerator(recipe, folder, fsdp=sharding is not None)
    new = not folder.exists()
    with locked(folder) if accelerator.is_main_process else contextlib.nullcontext():
        try:
            return run(Training(recipe, folder, resume, accelerator, sharding))
        except Exception:
            # What was refused before its first step leaves no folder. Only who holds the lock knows that nobody else trains there.
            if (
                new
                and accelerator.is_main_process
                and {path.name for path in folder.glob("*")} <= {LOCK, "recipe.yaml"}
            ):
                remove_tree(folder, ignore_errors=True)
            raise


def run(training: Training) -> Path:
    """Trains to the end, or until a signal stops it, and returns the folder of the final model."""
    recipe = training.recipe
    with StopRequest() as stop:
        with training.loading() as batches:
            # A process that isn't alone waits: the others are to stop at the same step.
            batches.gives_up = lambda: stop.requested and training.accelerator.num_processes == 1
            if training.evaluation_is_missing:
                training.evaluate(stop)
            while not (training.ended or training.stopped):
                try:
                    training.train_step(batches)
                except StoppedWaiting:
                    training.stop_waiting()
                    batches.close(at_once=True)
                    break
                if training.is_due(recipe.log_every):
                    training.report()
                if training.can_resume and not training.ended:
                    training.stopped = any_process(stop.requested, training.control)
                if training.stopped or (training.can_resume and training.should_save):
                    training.save()
                if training.is_due(recipe.evaluation.every) and not training.stopped:
                    training.evaluate(stop)
        return training.finish()


class TrainingStopped(Exception):
    """A signal ended a training. Its state is saved."""


def make_accelerator(recipe: Recipe, folder: Path, fsdp: bool = False) -> Accelerator:
    """The `Accelerator` of a training, sharded or not, that writes to `folder`. Raises ValueError for trackers that can't be used here."""
    lacking = [name for name in recipe.trackers if name != "all" and name not in map(str, get_available_trackers())]
    if lacking:  # Accelerate leaves out those that it knows without a word
        raise ValueError(
            f"trackers: {', '.join(lacking)} is unknown or not installed; expected its package, or another list"
        )
    if len(set(recipe.trackers)) < len(recipe.trackers):
        raise ValueError(f"trackers: {', '.join(recipe.trackers)}; expected each once")
    return open_accelerator(
        recipe,
        fsdp,
        # not by its number alone, before which a variable of the launcher would go
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=recipe.optimization.accumulation),
        log_with=recipe.trackers or None,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "logs")),
    )


class Training:
    """One training in one process, started or restored; `train` calls its methods in turn."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        resume: bool,
        accelerator: Accelerator,
        sharding: Sharding | None = None,
    ):
        options = recipe.optimization
        self.recipe, self.folder, self.accelerator = recipe, folder, accelerator
        self.sharding = sharding if accelerator.num_processes > 1 else None  # a single process has nobody to share with
        self.control = control_group()
        self.stopped = self._model_written = False
        state = on_main_process(self.accelerator, lambda: self._claim_folder(resume))
        self.resumed = state is not None
        if resume and state is None:
            accelerator.print(f"{folder}: no state to go on from; the training begins")
        set_seed(options.seed, device_specific=False)
        self.parts = open_parts(recipe)
        self.source = self.parts[0].source  # its labels decide the model's
        rows = None
        if self.sharding is not None:
            rows = Rows(accelerator.process_index, accelerator.num_processes)
        model, self.processor = make_model(recipe, self.source, rows)
        self.network = network_of(model, self.processor)
        rehearse(recipe, self.parts, model, self.processor, folder, self.accelerator)
        if options.gradient_checkpointing or (self.sharding is not None and self.sharding.checkpointing):
            model.gradient_checkpointing_enable()
        self._prepare(model, rows)
        if state is not None:
            claimed = state
            state = on_main_process(self.accelerator, lambda: self._sound_state(claimed))
        self.step, self.examples, self.spent = read_progress(state) if state is not None else (0, 0, Spent())
        self.contents = [contents_of(part.source) for part in self.parts] if accelerator.is_main_process else []
        if state is not None and accelerator.is_main_process:
            warn_of_changed_data(state, [part.source.name for part in self.parts], self.contents)
        self.evaluation_is_missing = state is not None and any_process(self._lacks_evaluation(), self.control)
        if state is not None:
            load_state(self.accelerator, state, self.average, options.seed, self.model, self.optimizer)
        else:  # every process has the same model by now; from here on each draws for itself
            set_seed(options.seed, device_specific=True)

    def _prepare(self, model: Any, rows: Rows | None) -> None:
        """Puts the model onto this process's device, whole or in part, with its optimiser and its average."""
        options, accelerator = self.recipe.optimization, self.accelerator
        self.average: AveragedModel | ShardedAverage | None = None
        if self.sharding is not None:
            self.skeleton = skeleton_of(model)
            self.model = accelerator.prepare_model(model, device_placement=False, evaluation_mode=True)  # without DDP
            shard(self.model, self.sharding, accelerator.device, rows)
            self.optimizer = accelerator.prepare(make_optimizer(self.model, options))
            if options.ema_decay:
                self.average = ShardedAverage(self.model, options.ema_decay)
            return
        optimizer = make_optimizer(model, options)
        if options.ema_decay:
            average = make_average(model, options.ema_decay).to(accelerator.device)
            average.n_averaged = average.n_averaged.cpu()  # read at every step; on an accelerator each read would wait
            self.average = average
        self.model, self.optimizer = accelerator.prepare(model, optimizer)

    def _claim_folder(self, resume: bool) -> Path | None:
        """Writes the recipe to the output folder and returns the state to resume from. Raises FileExistsError, ValueError."""
        if latest_state(self.folder) is not None and not resume:
            raise FileExistsError(
                f"{self.folder} holds a training: continue it with --resume, or choose another output folder"
            )
        state = whole_state(self.folder, recipe_fault)
        if state is not None:
            check_same_recipe(self.recipe, state, self.accelerator.num_processes)
        if state is None and os.path.lexists(self.folder / "model"):
            raise FileExistsError(
                f"{self.folder} holds a model, and no state of its training to go on from: it would be replaced; expected another "
                "output folder"
            )
        check_output(self.folder / "model", overwrite=True)  # else known only at the end
        step = 0 if state is None else read_manifest(state)["step"]
        refuse_taken_names(self.folder, range(step + 1, self.recipe.optimization.steps + 1))
        self.folder.mkdir(parents=True, exist_ok=True)
        clear_leftovers(self.folder)
        with write_atomic(self.folder / "recipe.yaml") as temporary:
            temporary.write_text(dump_recipe(self.recipe), encoding="utf-8")
        return state

    def _sound_state(self, claimed: Path) -> Path:
        """The newest state that holds what this training can go on from; newer ones are put aside. Raises ValueError."""
        state = whole_state(self.folder, self._fault_of, claimed)
        assert state is not None  # else it raises
        if state != claimed:
            check_same_recipe(self.recipe, state, self.accelerator.num_processes)
        check_same_network(state, self.network)
        return state

    def _fault_of(self, state: Path) -> str:
        """What a state whose checksums are right holds that isn't of this training; "" for a sound one."""
        model = self.accelerator.unwrap_model(self.model)
        frozen = frozen_in(self.average) if isinstance(self.average, AveragedModel) else ()
        found = read_manifest(state), self.recipe, self.accelerator, model, self.optimizer, self.average, frozen
        return fault_of(state, *found)

    def _lacks_evaluation(self) -> bool:
        """Whether the evaluation that is due at the step of the state isn't in the log: it failed, or the training ended in it."""
        due = self.step > 0 and self.is_due(self.recipe.evaluation.every)
        if not due or not self.recipe.scores_anything():
            return False
        return not is_evaluated(self.folder / "metrics.jsonl", self.step)

    @contextlib.contextmanager
    def loading(self) -> Iterator[Batches]:
        """The batches from the current step on, with log and progress bar open."""
        accelerator = self.accelerator
        rank, world = accelerator.process_index, accelerator.num_processes
        loader = make_loader(self.recipe, rank, world, self.examples, self.processor, self.parts)
        # A loader's seed is drawn where its processes start; a training that goes on from a state has drawn it before.
        with unchanged_random_states() if self.resumed else contextlib.nullcontext():
            batches = Batches(loader)
        with self.trackers_closed_on_failure(), closing_batches(batches):
            accelerator.init_trackers("winwin")
            self.log, self.batches = MetricsLog(accelerator, self.folder, self.step), batches
            self.idle_gb = peak_memory()
            self.model.train()
            self.introduced, self.score = False, ""
            self.restart_rate()
            with progress_bar(self.recipe, self.step, accelerator.is_main_process) as self.bar:
                yield batches

    @contextlib.contextmanager
    def trackers_closed_on_failure(self) -> Iterator[None]:
        """A tracker may write from a thread of its own, which must not outlive a training that failed."""
        try:
            yield
        except BaseException:
            for tracker in getattr(self.accelerator, "trackers", []):
                tracker.finish()
            raise

    def best(self, keeps: bool = True) -> Any:
        """
        The model that is scored and saved: the average of the weights, if there is one. All processes must ask; one that doesn't keep it
        may get None.
        """
        if self.sharding is not None:
            return whole(self.skeleton, self.model, self.average, self.accelerator.device, keeps)
        return (
            self.average.module
            if isinstance(self.average, AveragedModel)
            else self.accelerator.unwrap_model(self.model)
        )

    @property
    def ended(self) -> bool:
        return self.step == self.recipe.optimization.steps

    @property
    def can_resume(self) -> bool:
        """Whether every loader process has given equally many batches: only then a resumed training reads the same data."""
        options = self.recipe.optimization
        return self.step * options.accumulation % max(1, options.num_workers) == 0

    def is_due(self, every: int, ahead: int = 0) -> bool:
        """Whether something happens now, or `ahead` steps later, that happens every so many steps (0: never) and at the end."""
        step = self.step + ahead
        return step == self.recipe.optimization.steps or bool(every and step % every == 0)

    @property
    def should_save(self) -> bool:
        """Whether a state is due, or an evaluation before the next step that a training could be resumed from."""
        options, every = self.recipe.optimization, self.recipe.evaluation.every
        apart = math.lcm(options.accumulation, max(1, options.num_workers)) // options.accumulation
        return self.is_due(self.recipe.save_every) or any(self.is_due(every, ahead) for ahead in range(apart))

    def train_step(self, batches: Batches) -> None:
        """One optimiser step: `accumulation` batches forward and backward, then the average."""
        self.spent.start()
        options, accelerator = self.recipe.optimization, self.accelerator
        loss_sum = torch.zeros((), device=accelerator.device)
        self.rate = learning_rate(options, self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * group["scale"]
        self.names.append([])
        fetched = [self._next_batch(batches) for _ in range(options.accumulation)]
        for batch, weights in zip(fetched, self._loss_weights(fetched), strict=True):
            loss_sum += explained(partial(self._learn, batch, weights), partial(self._does_not_fit, batch))
        if self.average is not None:
            self.average.update_parameters(accelerator.unwrap_model(self.model))
        self.step += 1
        self.examples += options.examples_per_step(accelerator.num_processes)
        self.losses.append(loss_sum)
        self.bar.update()
        self.spent.stop()

    def stop_waiting(self) -> None:
        """Ends before a step whose batches don't come, with a state where there can be one: nothing of the step was computed."""
        self.names.pop()
        self.stopped = True
        if self.step and self.can_resume:
            self.save()

    def _learn(self, batch: dict[str, torch.Tensor], weights: torch.Tensor | None) -> torch.Tensor:
        """One batch forward and backward, after a step's last one the optimiser; its share of the step's loss."""
        options, accelerator = self.recipe.optimization, self.accelerator
        with accelerator.accumulate(self.model):
            loss = self.model(**batch, loss_weights=weights).loss
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(self.model.parameters(), options.clip_norm)
                self.norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
            self.optimizer.step()
            self.optimizer.zero_grad()
        return loss.detach() / options.accumulation

    def _does_not_fit(self, batch: dict[str, torch.Tensor], may_try: bool) -> str:
        """Says that a batch takes too much memory, and how many of its examples would fit."""
        options = self.recipe.optimization
        model = self.accelerator.unwrap_model(self.model)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer.zero_grad()

        def trial(count: int) -> None:
            # the moments, which the first step adds; and gradients beside `grad`, which DDP would send to other processes
            _moments = [] if self.optimizer.state else [torch.empty_like(p) for p in trained for _ in range(2)]
            loss = model(**{name: tensor[:count] for name, tensor in batch.items()}).loss
            torch.autograd.grad(loss, trained, allow_unused=True)

        # a pass of a sharded model would wait for the other processes
        may_try = may_try and self.sharding is None
        fits = first_that_fits(trial, smaller_counts(options.batch_size) if may_try else [])
        ways = "windows of fewer tokens (windows.size), optimization.mixed_precision=bf16"
        if not options.gradient_checkpointing:
            ways = f"optimization.gradient_checkpointing=true, {ways}"
        if fits:
            times = options.accumulation * options.batch_size // fits
            ways = f"optimization.batch_size={fits} and optimization.accumulation={times}, which make the same step; or {ways}"
        return (
            f"at step {self.step + 1} a batch of {options.batch_size} takes more memory than "
            f"{memory_of(self.accelerator.device)} has{f'; {fits} would fit' if fits else ''}: expected {ways} ({self._way_on()})"
        )

    def _loss_weights(self, fetched: list[dict[str, torch.Tensor]]) -> Sequence[torch.Tensor | None]:
        """
        Factors of the losses of a step's batches, so that the mean over batches and processes, which Accelerate and DDP take, is the
        loss of one batch of all their examples.
        """
        number = len(fetched) * self.accelerator.num_processes
        if number == 1:
            return [None]
        model = self.accelerator.unwrap_model(self.model)
        counts = torch.stack([model.loss_counts(**batch) for batch in fetched])  # (batches, terms)
        total = self.accelerator.reduce(counts.sum(0), "sum")
        return list(counts * number / torch.where(total > 0, total, 1))

    def _next_batch(self, batches: Batches) -> dict[str, torch.Tensor]:
        start = time.perf_counter()
        try:
            batch = next(batches)
        except ChildProcessError as error:
            raise self._kept(error) from error
        self.waited += time.perf_counter() - start
        self.names[-1] += batch.pop(EXAMPLES)
        if not self.introduced:
            model = self.accelerator.unwrap_model(self.model)
            introduce(self.accelerator.print, self.recipe, self.accelerator, model, batch, self.source, self.step)
            self.introduced = True
        if self.recipe.task == "pre-training":
            batch.pop("labels")
        return {name: tensor.to(self.accelerator.device, non_blocking=True) for name, tensor in batch.items()}

    def _kept(self, error: ChildProcessError) -> ChildProcessError:
        """The error of a loader process that died, after a state was saved if this moment can be resumed from."""
        alone = self.accelerator.num_processes == 1  # other processes wait elsewhere
        if alone and self.step and self.can_resume:
            self.names.pop()  # of the step that didn't begin
            self.save()
        return ChildProcessError(f"at step {self.step} {error}; {self._way_on()}")

    def _way_on(self) -> str:
        last = latest_state(self.folder)
        return f"continue from {last.name} with --resume" if last else "there is no state yet"

    def restart_rate(self) -> None:
        """Starts a new interval over which the next report averages."""
        self.losses: list[torch.Tensor] = []
        self.names: list[list[str]] = []  # of the examples of each step
        self.since, self.waited = time.perf_counter(), 0.0

    def report(self) -> None:
        """Logs loss, gradient, speed and memory since the last report."""
        options = self.recipe.optimization
        elapsed = time.perf_counter() - self.since
        images = options.examples_per_step(self.accelerator.num_processes) * len(self.losses)
        figures = {
            "loss": self.finite_loss(),
            "norm": float(self.norm),
            "rate": images / elapsed,
            "wait": self.waited / elapsed,
            "gb": peak_memory(),
            "idle_gb": self.idle_gb,
        }
        left_out = ""
        if self.batches.broken is not None:  # since this process started, over all processes
            count = torch.tensor(float(self.batches.broken), device=self.accelerator.device)
            figures["broken"] = int(self.accelerator.reduce(count, "sum"))
            left_out = f", {figures['broken']} left out" if figures["broken"] else ""
        self.log(self.step, {**figures, "lr": self.rate, **asdict(self.spent)})
        self.bar.set_postfix_str(
            f"loss {figures['loss']:.3f}{self.score}, {figures['rate']:.1f} images/s, {figures['gb']:.1f} GB{left_out}"
        )
        self.restart_rate()

    def evaluate(self, stop: StopRequest) -> None:
        """Scores the best model and logs the scores. At the end the model is written first. A request to stop breaks it off."""
        if self.ended:
            self._write_model()
        best = self.best()
        breaks_off = contextlib.nullcontext() if self.accelerator.num_processes > 1 else stop.breaks_off(best)
        try:
            with breaks_off, unchanged_random_states():
                results = evaluate(best, self.processor, self.recipe, self.accelerator)
        except TrainingStopped:
            self.stopped = True
            return
        except Exception as error:
            self.accelerator.print(f"the evaluation at step {self.step} failed; {self._way_on()}")
            if isinstance(error, FileNotFoundError):  # it was there at the start, so no argument is wrong
                raise BrokenExample(str(error)) from error
            raise
        if results:
            self.log(self.step, {**results, **asdict(self.spent)})
        if results and self.accelerator.is_main_process:
            show(results, f"{self.recipe.task}, step {self.step}")
            self.score = "".join(f", {k} {next(iter(v.values())):.2f}" for k, v in list(results.items())[:2])
        self.since = time.perf_counter()

    def save(self) -> None:
        """Writes a state, unless the weights are broken: it must not replace a good one."""
        if self.losses:
            self.finite_loss()
        progress = {"step": self.step, "examples": self.examples, "data": self.contents, **asdict(self.spent)}
        progress["network"] = self.network
        tensors = tensors_of(self.model, self.optimizer, self.average) if self.sharding is not None else None
        try:
            save_state(self.accelerator, self.folder, progress, self.average, self.recipe, tensors)
        except KeyboardInterrupt:  # a second Ctrl-C
            if self.accelerator.is_main_process:
                clear_leftovers(self.folder)
            raise
        self.since = time.perf_counter()

    def finite_loss(self) -> float:
        """
        The mean loss since the last report, over all processes. Raises FloatingPointError if it or the gradient isn't finite.

        In fp16 an infinite gradient is expected: the scaler skips that step and tries a smaller scale.
        """
        mean = float(self.accelerator.reduce(torch.stack(self.losses).mean(), "mean"))
        if not math.isfinite(mean) or (self.accelerator.scaler is None and not math.isfinite(float(self.norm))):
            raise FloatingPointError(self._blow_up(mean))
        return mean

    def _blow_up(self, mean: float) -> str:
        """Says where the loss or its gradient stopped being finite: the step, the examples, the state before."""
        finite = torch.stack(self.losses).isfinite().tolist()
        first = finite.index(False) if False in finite else len(finite)
        first = min(gather_object([first])) if self.accelerator.num_processes > 1 else first
        place = min(first, len(finite) - 1)  # all losses are finite: the gradient of the last step isn't
        names = self.names[place] if first == len(finite) or not finite[place] else []
        names = gather_object(names) if self.accelerator.num_processes > 1 else names
        shown = ", ".join(names[:NAMES_SHOWN]) + (
            f" and {len(names) - NAMES_SHOWN} more" if names[NAMES_SHOWN:] else ""
        )
        return (
            f"at step {self.step - len(finite) + place + 1} the loss is {mean if first < len(finite) else 'finite'} and "
            f"its gradient {float(self.norm)}, with the examples {shown}; the last good state is {latest_state(self.folder)}"
        )

    def _write_model(self) -> None:
        if self._model_written:
            return
        best = self.best(keeps=self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            save_model(best, self.folder, self.recipe, self.processor)
        self._model_written = True

    def finish(self) -> Path:
        """Writes the final model if the last step was reached; returns its folder. Raises TrainingStopped."""
        final = self.folder / "model"
        if self.ended:
            with self.trackers_closed_on_failure():
                self._write_model()
            self.accelerator.print(f"model: {final}")
        self.accelerator.wait_for_everyone()
        # DDP goes before the connections: as the last to hold them it waits for their thread, which may wait for Python's lock.
        self.model = self.accelerator.unwrap_model(self.model)
        self.accelerator.free_memory()
        gc.collect()
        self.accelerator.end_training()
        if self.stopped:
            raise TrainingStopped(f"stopped at step {self.step}; {self._way_on()}")
        return final


@contextlib.contextmanager
def closing_batches(batches: Batches) -> Iterator[None]:
    """Ends the loader's processes at the end; at once after a second Ctrl-C."""
    try:
        yield
    except BaseException as error:
        batches.close(at_once=isinstance(error, KeyboardInterrupt))
        raise
    batches.close()


class StopRequest:
    """
    While it is entered, each of STOP_SIGNALS sets `requested`, so that the loop can save first. A second Ctrl-C ends at once.

    A signal that is ignored stays so (a shell's background job, nohup), and so does a caller's own handler of a scheduler's warning.
    """

    def __init__(self) -> None:
        self.requested = False
        self.previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        for name in STOP_SIGNALS:
            # None: a handler that Python didn't set and can't set again. ValueError: not in the main thread.
            handler = signal.getsignal(name)
            if handler in (None, signal.SIG_IGN) or (name.name in WARNINGS and handler != signal.SIG_DFL):
                continue
            with contextlib.suppress(ValueError):
                self.previous[name] = signal.signal(name, self._request)
        return self

    def __exit__(self, *_: object) -> None:
        for name, handler in self.previous.items():
            signal.signal(name, handler)

    @contextlib.contextmanager
    def breaks_off(self, model: torch.nn.Module) -> Iterator[None]:
        """While it is entered, the model's next forward pass after a request raises TrainingStopped."""

        def check(*_: Any) -> None:
            if self.requested:
                raise TrainingStopped

        hook = model.register_forward_pre_hook(check)
        try:
            yield
        finally:
            hook.remove()

    def _request(self, number: int, _: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
