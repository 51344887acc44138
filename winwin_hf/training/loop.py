"""The training loop: Accelerate, windows, and a state on disk that resumes exactly.

Notable:
- the data's position and the learning rate are functions of the step, so neither has to be saved. `--resume` goes on with the
  same weights, bit for bit on a CPU.
- every process and every worker reads its own share; the loader isn't wrapped by Accelerate, which would read on one process
  and send, or read everywhere and drop.
- a state is written to a temporary folder and renamed: a training that is killed while saving resumes from the state before.
- SIGTERM and SIGINT save a state at the next step that can be resumed from, and end.
"""

from __future__ import annotations

import contextlib
import json
import math
import resource
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration, set_seed
from tqdm import tqdm

from winwin_hf.data.collator import tokens_kept
from winwin_hf.data.rows import BrokenExample
from winwin_hf.data.skipping import SkippingReader
from winwin_hf.data.sources import Source
from winwin_hf.training.build import learning_rate, make_average, make_loader, make_model, make_optimizer, open_parts
from winwin_hf.training.evaluate import evaluate, show
from winwin_hf.training.recipe import Recipe, dump_recipe, load_recipe
from winwin_hf.training.state import (
    Spent,
    check_same_recipe,
    latest_state,
    load_state,
    read_spent,
    read_step,
    save_model,
    save_state,
)

# ------------------------------------------------------------------ data


# ------------------------------------------------------------------ model and optimiser


# ------------------------------------------------------------------ states


class Log:
    """Figures into `metrics.jsonl` (one JSON object a line) and the trackers."""

    def __init__(self, accelerator: Accelerator, output: Path, step: int):
        self.accelerator, self.path = accelerator, output / "metrics.jsonl"
        if accelerator.is_main_process:  # what an interrupted training logged after its last state will be logged again
            lines = self.path.read_text().splitlines() if step and self.path.exists() else []
            kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
            self.path.write_text("".join(line + "\n" for line in kept))

    def __call__(self, step: int, figures: dict[str, Any]) -> None:
        if not self.accelerator.is_main_process:
            return
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        scalars = {key: value for key, value in figures.items() if isinstance(value, (int, float))}
        for name, scores in figures.items():
            if isinstance(scores, dict):
                scalars |= {f"{name}/{key}": v for key, v in scores.items() if isinstance(v, (int, float))}
        self.accelerator.log(scalars, step=step)


def peak_memory() -> float:
    """Most memory held so far, GB: the accelerator's if there is one, else this process's."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    status = Path("/proc/self/status")
    if status.exists():  # Linux's ru_maxrss also counts what the parent held when it started this process
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9


# ------------------------------------------------------------------ the loop


def train(
    recipe_path: str | Path, output: str | Path | None = None, resume: bool = False, overrides: list[str] | None = None
) -> Path:
    """
    Trains by a recipe and returns the folder of the final model.

    Args:
        output: instead of the recipe's.
        resume: go on from the last state in the output folder; without one, begin.
        overrides: "section.key=value" strings on top of the recipe.
    Raises: ValueError for a recipe that is wrong or, on resuming, another one; FileExistsError for an output folder in use.
    """
    recipe = load_recipe(recipe_path, overrides)
    folder = Path(output or recipe.output)
    options = recipe.optimization
    accelerator = Accelerator(
        mixed_precision=options.mixed_precision,
        gradient_accumulation_steps=options.accumulation,
        log_with=recipe.trackers or None,
        project_config=ProjectConfiguration(project_dir=str(folder), logging_dir=str(folder / "logs")),
    )
    state = latest_state(folder)
    if state is not None and not resume:
        raise FileExistsError(f"{folder} holds a training: go on with --resume, or choose another output folder")
    if state is not None:
        check_same_recipe(recipe, folder)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    set_seed(options.seed, device_specific=False)

    step, spent = (read_step(state), read_spent(state)) if state is not None else (0, Spent())
    parts = open_parts(recipe, accelerator.num_processes, step)
    source = parts[0].source  # its labels decide the model's
    model = make_model(recipe, source)
    if options.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    optimizer = make_optimizer(model, options)
    average = make_average(model, options.ema_decay).to(accelerator.device) if options.ema_decay else None
    if average is not None:
        average.n_averaged = average.n_averaged.cpu()  # it is read at every step, which would wait for an accelerator
    patch_size = model.config.patch_size
    model, optimizer = accelerator.prepare(model, optimizer)
    if state is not None:
        load_state(accelerator, state, average)
    else:  # the same model everywhere by now; from here on each process draws for itself
        set_seed(options.seed, device_specific=True)

    say = accelerator.print
    loader = make_loader(recipe, accelerator.process_index, accelerator.num_processes, step, patch_size, parts)
    collator: Any = loader.collate_fn
    batches = iter(loader)
    accelerator.init_trackers("winwin")
    log = Log(accelerator, folder, step)
    best: Any = average.module if average else accelerator.unwrap_model(model)
    stop = Stop()
    idle = peak_memory()
    model.train()
    bar = tqdm(
        total=options.steps,
        initial=step,
        disable=not accelerator.is_main_process,
        mininterval=0.1 if sys.stderr.isatty() else 30,
        desc=recipe.task,
    )
    per_step = options.batch_size * options.accumulation * accelerator.num_processes
    losses: list[torch.Tensor] = []
    score, since, waited = "", time.perf_counter(), 0.0
    introduced = False
    while step < options.steps:
        spent.begin()
        loss_sum = torch.zeros((), device=accelerator.device)
        rate_now = learning_rate(options, step)
        for group in optimizer.param_groups:
            group["lr"] = rate_now
        for _ in range(options.accumulation):
            before = time.perf_counter()
            batch = next_batch(batches)
            waited += time.perf_counter() - before
            if not introduced:
                introduce(say, recipe, accelerator, accelerator.unwrap_model(model), batch, source, step)
                introduced = True
            if recipe.task == "pre-training":
                batch.pop("labels")
            batch = {name: tensor.to(accelerator.device, non_blocking=True) for name, tensor in batch.items()}
            with accelerator.accumulate(model):
                loss = model(**batch).loss
                accelerator.backward(loss)
                loss_sum += loss.detach() / options.accumulation
                if accelerator.sync_gradients:
                    norm = accelerator.clip_grad_norm_(model.parameters(), options.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
        if average:
            average.update_parameters(accelerator.unwrap_model(model))
        step += 1
        losses.append(loss_sum)
        bar.update()
        spent.end()

        last = step == options.steps
        if step % recipe.log_every == 0 or last:
            elapsed = time.perf_counter() - since
            mean = finite_mean(accelerator, losses, norm, step, folder)
            rate = per_step * len(losses) / elapsed
            figures = {
                "loss": mean,
                "norm": float(norm),
                "rate": rate,
                "wait": waited / elapsed,
                "gb": peak_memory(),
                "idle_gb": idle,
            }
            if isinstance(collator.reader, SkippingReader):  # left out since this process began, over all processes
                count = torch.tensor(float(collator.reader.broken), device=accelerator.device)
                figures["broken"] = int(accelerator.reduce(count, "sum"))
            log(step, {**figures, "lr": rate_now, **asdict(spent)})
            left_out = f", {figures['broken']} left out" if figures.get("broken") else ""
            bar.set_postfix_str(f"loss {mean:.3f}{score}, {rate:.1f} images/s, {figures['gb']:.1f} GB{left_out}")
            losses, since, waited = [], time.perf_counter(), 0.0
        if last or (recipe.evaluation.every and step % recipe.evaluation.every == 0):
            results = evaluate(best, recipe, accelerator)
            log(step, {**results, **asdict(spent)} if results else results)
            if accelerator.is_main_process and results:
                show(results, f"{recipe.task}, step {step}")
                score = "".join(f", {k} {next(iter(v.values())):.2f}" for k, v in list(results.items())[:2])
            since = time.perf_counter()
        aligned = step * options.accumulation % max(1, options.num_workers) == 0
        if aligned and (step % recipe.save_every == 0 or stop.wanted or last):
            if losses:  # a state that can't be gone on from must not replace one that can
                finite_mean(accelerator, losses, norm, step, folder)
            save_state(accelerator, folder, step, average, spent)
            since = time.perf_counter()
            if stop.wanted and not last:
                say(f"stopped at step {step}; go on with --resume")
                break
    bar.close()
    final = folder / "model"
    if accelerator.is_main_process and step == options.steps:
        final = save_model(best, folder, recipe)
        say(f"model: {final}")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return final


def next_batch(batches: Iterator[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The loader's next batch. A broken example found in a loader process is raised as if it had been found here."""
    try:
        return next(batches)
    except BrokenExample as error:  # torch wraps its message into the other process's traceback
        raise BrokenExample(str(error).strip().splitlines()[-1].rpartition("BrokenExample: ")[2]) from error


def finite_mean(accelerator: Accelerator, losses: list[torch.Tensor], norm: Any, step: int, folder: Path) -> float:
    """
    The mean loss of the last steps, over all processes. Raises FloatingPointError if it, or the last gradient, is not finite.

    In fp16 an infinite gradient is no accident: the scaler skips that step and looks for a smaller scale.
    """
    mean = float(accelerator.reduce(torch.stack(losses).mean(), "mean"))
    if not math.isfinite(mean) or (accelerator.scaler is None and not math.isfinite(float(norm))):
        raise FloatingPointError(
            f"at step {step} the loss is {mean} and its gradient {float(norm)}; the last good state is {latest_state(folder)}"
        )
    return mean


class Stop:
    """Remembers that the process was asked to end, so that the loop can save first. A second Ctrl-C ends at once."""

    def __init__(self) -> None:
        self.wanted = False
        for name in (signal.SIGTERM, signal.SIGINT):
            with contextlib.suppress(ValueError):  # not in the main thread, as in a notebook's executor
                signal.signal(name, self.ask)

    def ask(self, number: int, _: Any) -> None:
        if self.wanted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.wanted = True


def first_sample(source: Source) -> Any:
    """The first readable example of a source. Whoever got here has read a batch, so there is one."""
    for example in source.examples():
        with contextlib.suppress(BrokenExample):
            return source.reader(example, np.random.default_rng(0))
    raise BrokenExample(f"{source.name}: no example could be read")


def introduce(
    say: Any, recipe: Recipe, accelerator: Accelerator, model: Any, batch: Any, source: Source, step: int
) -> None:
    """Says what this training is, before its first step."""
    options, patch = recipe.optimization, model.config.patch_size
    parameters = sum(p.numel() for p in model.parameters())
    sample = first_sample(source)
    kept, total = tokens_kept(batch, (sample.height, sample.width), patch)
    tokens = f"{kept} of {total} ({100 * kept / total:.0f} %)"
    if "second_pixel_values" in batch:
        second = {"pixel_values": batch["second_pixel_values"]}
        tokens += f", of the second view {tokens_kept(second, (sample.height, sample.width), patch)[0]}"
    say(
        f"{recipe.task}: {parameters / 1e6:.1f} M parameters on {accelerator.device}, "
        f"{accelerator.num_processes} process(es) of {torch.get_num_threads()} threads, {options.mixed_precision} "
        f"precision, batch {options.batch_size} x {options.accumulation} x {accelerator.num_processes}\n"
        f"tokens kept of a {sample.height} x {sample.width} frame: {tokens}; steps {step} to {options.steps}"
    )
