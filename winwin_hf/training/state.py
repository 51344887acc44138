"""The states of a training on disk: the two newest are kept, checked before they are used, and resumed exactly.

Notable:
- a state is written under a temporary name, flushed to the disk and renamed. A training that is killed while saving resumes from the
  state before.
- `state.json`, written last, has the size and SHA-256 of every other file, and of itself. A state that doesn't agree with it is put
  aside, and the state before is used.
- the state of a sharded training has a file for each process instead of whole tensors (sharding.py); all else is as in any other.
- the recipe is part of the state: resuming reads no file of the output folder outside of the state.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from accelerate import Accelerator
from accelerate.checkpointing import load_accelerator_state, save_accelerator_state
from accelerate.utils import RNG_STATE_NAME, broadcast_object_list, gather_object, set_seed
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel

from winwin_hf.convert.folder import new_folder
from winwin_hf.data.formats.files import NEW, OLD, put_back, read_json
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.model.pixels_winwin import shortened
from winwin_hf.model.weights_winwin import refuse_infinite
from winwin_hf.own_files import TakenOver, check_held, remove_tree, sha256_of
from winwin_hf.processes import MOST_PROCESSES
from winwin_hf.training.adapters import merged
from winwin_hf.training.recipe import Recipe, dump_recipe, load_recipe, own_fields
from winwin_hf.training.sharding import (
    SHARD,
    ShardedAverage,
    is_sharded,
    restore,
    restore_from_whole,
    shards_in,
    write_shards,
)
from winwin_hf.training.soundness import OPTIMIZER, read_plain

STATE = "state-{:08d}"
KEPT_STATES = 2
MANIFEST = "state.json"
PROBE_BYTES = 2**20
MOST_STEPS, MOST_EXAMPLES, MOST_SECONDS = 2**40, 2**60, 10**12
# What a state is made of: Accelerate's files and ours.
FILE = re.compile(
    rf"(model|average)\.safetensors|optimizer\.bin|scaler\.pt|random_states_\d+\.pkl|recipe\.yaml|{SHARD.pattern}"
)
TEMPORARY = re.compile(r"state-\d{8,}\.tmp")
DAMAGED = re.compile(r"state-\d{8,}\.damaged")
# Sections that may differ between a training and its resumption; all others must be the same.
FREE = {"evaluation", "output", "save_every", "log_every", "trackers"}
CACHE = ("cache", "cache_gb")  # options of shards: where they are copied to. Another machine has another disk
Answer = TypeVar("Answer")
logger = logging.getLogger(__name__)


@dataclass
class Spent:
    """
    Time of all steps, over every resumption, without evaluations and states.

    Attributes:
        seconds: wall-clock time.
        cpu_seconds: of this process's cores.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def start(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.seconds += time.perf_counter() - self._started[0]
        self.cpu_seconds += time.process_time() - self._started[1]


# ------------------------------------------------------------------ which states there are


def states_in(output: Path) -> list[Path]:
    """The states of a training, the newest first; whether they are whole isn't known. A user's folder of such a name is none."""
    states = [path for path in output.glob("state-*") if re.fullmatch(r"state-\d{8,}", path.name) and path.is_dir()]
    states = [path for path in states if (path / MANIFEST).exists() or not _of_others(path)]
    return sorted(states, key=lambda path: int(path.name.partition("-")[2]), reverse=True)


def refuse_taken_names(output: Path, steps: range) -> None:
    """Raises FileExistsError where something else has the name of a state of `steps`: else known only when that one is saved."""
    states = states_in(output)
    for path in sorted(output.glob("state-*")):
        name = path.name.removesuffix(".tmp")
        if not re.fullmatch(r"state-\d{8,}", name) or int(name.partition("-")[2]) not in steps or path in states:
            continue
        if path.name == name or not (path.is_symlink() or path.is_dir()):  # half a state is removed, and a link to one
            raise FileExistsError(
                f"{path} is no state of a training, and one will have its name; expected it elsewhere"
            )


def _of_others(state: Path) -> list[str]:
    """What lies in a state's folder and is no file of a state: it mustn't be removed with it. Of a link only the link goes."""
    if state.is_symlink():
        return []
    names = [p.relative_to(state).as_posix() for p in state.rglob("*") if p.is_symlink() or not p.is_dir()]
    return [name for name in names if name != MANIFEST and not FILE.fullmatch(name)]


def latest_state(output: Path) -> Path | None:
    """The newest state of a training."""
    return next(iter(states_in(output)), None)


def whole_state(output: Path, fault: Callable[[Path], str] | None = None, whole: Path | None = None) -> Path | None:
    """
    The newest state that agrees with its checksums, None where there is no state at all. Newer ones are put aside as `NAME.damaged`.

    Args:
        fault: says what else is wrong with a state, "" if nothing. whole: a state whose checksums were compared before.
    Raises ValueError where there are states, and none is whole.
    """
    damages: dict[Path, str] = {}
    for state in states_in(output):
        damage = damage_of(state) if state != whole else ""
        if fault is not None:
            damage = damage or fault(state)
        if not damage:
            for damaged, what in damages.items():
                aside = damaged.with_name(f"{damaged.name}.damaged")
                for number in itertools.count(2):
                    if not os.path.lexists(aside) or (aside.is_dir() and not _of_others(aside)):
                        break
                    aside = damaged.with_name(f"{damaged.name}.damaged{number}")
                remove_tree(aside, ignore_errors=True)  # the same step, damaged twice
                damaged.replace(aside)
                logger.warning("%s is damaged (%s), going on from %s", damaged, what, state.name)
            return state
        damages[state] = damage
    if damages:
        found = ", ".join(f"{state.name} is damaged ({what})" for state, what in damages.items())
        raise ValueError(f"{output}: no state is whole: {found}; start again in another output folder")
    return None


def damage_of(state: Path) -> str:
    """The first file of a state that isn't as it was written, and how it differs; "" for a whole state."""
    try:
        contents = read_manifest(state)
        if STATE.format(contents["step"]) != state.name:
            return f"{MANIFEST} is of step {contents['step']}"
        for name, expected in contents["files"].items():
            path = state / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["bytes"]:
                return f"{name} has {path.stat().st_size} of {expected['bytes']} bytes"
            if sha256_of(path) != expected["sha256"]:
                return f"{name} has another checksum"
    except OSError as error:
        return f"{Path(error.filename).name}: {error.strerror}" if error.filename else _without_folder(error, state)
    except ValueError as error:
        return _without_folder(error, state)
    return ""


def _without_folder(error: Exception, state: Path) -> str:
    return str(error).removeprefix(f"{state}{os.sep}")


def read_manifest(state: Path) -> dict[str, Any]:
    """
    Step, times and files of a state.

    Raises: OSError, ValueError, naming the file: it can't be read, isn't as it was written, or has a value out of its range.
    """
    path = state / MANIFEST
    contents = read_json(path)
    if not isinstance(contents, dict) or contents.pop("sha256", None) != _digest(contents):
        raise ValueError(f"{path} has another checksum")
    for name in contents["files"] if isinstance(contents.get("files"), dict) else ():
        if not FILE.fullmatch(name):
            raise ValueError(f"{path}: {shortened(name)} is no file of a state")
    for key, (fits, expected) in VALUES.items():
        if not fits(contents.get(key)):
            raise ValueError(f"{path}: {key} is {shortened(repr(contents.get(key)))}; expected {expected}")
    return contents


def _is_count(value: Any, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _is_time(value: Any) -> bool:
    return type(value) in (int, float) and 0 <= value <= MOST_SECONDS


def _is_list_of_files(value: Any) -> bool:
    return isinstance(value, dict) and all(
        isinstance(entry, dict) and type(entry.get("bytes")) is int and "sha256" in entry for entry in value.values()
    )


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


# Key of a state.json -> whether a value fits, and what was expected.
VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "step": (lambda value: _is_count(value, 0, MOST_STEPS), f"a whole number up to {MOST_STEPS}"),
    "examples": (lambda value: _is_count(value, 0, MOST_EXAMPLES), f"a whole number up to {MOST_EXAMPLES}"),
    "processes": (lambda value: _is_count(value, 1, MOST_PROCESSES), f"a whole number from 1 to {MOST_PROCESSES}"),
    "seconds": (_is_time, f"a number from 0 to {MOST_SECONDS:g}"),
    "cpu_seconds": (_is_time, f"a number from 0 to {MOST_SECONDS:g}"),
    "data": (lambda value: value is None or _is_list_of_texts(value), "what each data set holds, as text"),
    "network": (lambda value: value is None or isinstance(value, dict), "the network's config and image processor"),
    "files": (_is_list_of_files, "names of a state's files, with bytes and sha256 of each"),
}


def _digest(contents: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


def clear_leftovers(output: Path) -> None:
    """Removes what a killed training left half done. Nothing else may write to the folder."""
    # as `new_folder` and `write_atomic` name them; what only looks alike is the user's
    models = [
        path
        for path in output.glob(".model-*")
        if path.is_dir() and not path.is_symlink() and {p.name for p in path.glob("*")} <= {NEW, OLD}
    ]
    for half in (*_named(output, TEMPORARY), *models):
        if half in models:
            put_back(half, output / "model")
        remove_tree(half, ignore_errors=True)
    for stem, suffix in (("recipe", "yaml"), ("metrics", "jsonl")):
        for path in output.glob(f".{stem}.{'[0-9a-f]' * 8}.{suffix}"):
            path.unlink(missing_ok=True)


def _named(output: Path, pattern: re.Pattern[str]) -> list[Path]:
    return [path for path in output.glob("state-*") if pattern.fullmatch(path.name)]


# ------------------------------------------------------------------ writing and reading


def save_state(
    accelerator: Accelerator,
    output: Path,
    progress: dict[str, Any],
    average: AveragedModel | ShardedAverage | None,
    recipe: Recipe,
    tensors: dict[str, Any] | None = None,
) -> None:
    """
    Writes a state, then removes all but the newest two: at no moment is there none.

    Args:
        progress: "step", "examples" and the fields of `Spent`, for `read_progress`; "data", what each set holds.
        tensors: all tensors of a sharded training, of which each process writes its part.
    Raises OSError in every process if one of them couldn't write: one sentence with the folder and the system's reason.
    """
    final = output / STATE.format(progress["step"])
    temporary = final.with_name(f"{final.name}.tmp")

    def prepare() -> None:
        check_held(final)
        if os.path.lexists(final):
            what = "a link" if final.is_symlink() else "a folder" if final.is_dir() else "a file"
            raise FileExistsError(errno.EEXIST, f"{what} of that name is there, and no state", str(final))
        remove_tree(temporary, ignore_errors=True)
        if os.path.lexists(temporary):
            raise FileExistsError(errno.EEXIST, f"{temporary.name} is there, and no folder", str(temporary))
        temporary.mkdir(parents=True)

    def write() -> None:
        if tensors is None:
            accelerator.save_state(str(temporary), safe_serialization=True)
            return
        write_shards(tensors, temporary)
        rank, batches = accelerator.process_index, accelerator.step
        save_accelerator_state(temporary, [], [], [], [], rank, batches, accelerator.scaler)

    def complete() -> None:
        if isinstance(average, AveragedModel):
            frozen = frozen_in(average)
            averaged = {name: tensor for name, tensor in average.state_dict().items() if name not in frozen}
            save_file(averaged, temporary / "average.safetensors")
        (temporary / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
        _write_manifest(temporary, {**progress, "processes": accelerator.num_processes})
        check_held(final)
        temporary.replace(final)
        _flush(output)

    main = accelerator.is_main_process
    if on_main_process(accelerator, (final / MANIFEST).is_file):
        return
    for work, takes_part in (
        (prepare, main),
        (write, True),
        (complete, main),
    ):
        failure, cause = "", None
        try:
            if takes_part:
                work()
        except Exception as error:  # torch and safetensors have errors of their own for a full disk
            failure, cause = _reason(error, temporary), error
        failures = gather_object([failure]) if accelerator.num_processes > 1 else [failure]
        if any(failures):
            if main:
                remove_tree(temporary, ignore_errors=True)
            reason = next(filter(None, failures))
            last = next((state for state in states_in(output) if state != final), None)
            kept = f"the last state is {last.name}" if last else "there is no state before it"
            message = f"{output}: {final.name} could not be written ({reason}); {kept}"
            raise (TakenOver if isinstance(cause, TakenOver) else OSError)(message) from cause
    if main:
        for old in (*states_in(output)[KEPT_STATES:], *_named(output, DAMAGED)):
            if _of_others(old):
                continue
            doomed = old.with_suffix(".tmp")  # half a state must not look like one
            remove_tree(doomed, ignore_errors=True)
            old.replace(doomed)
            remove_tree(doomed)
    accelerator.wait_for_everyone()


def _write_manifest(folder: Path, contents: dict[str, Any]) -> None:
    """Flushes all files of a state, then writes the file that says what they are, and flushes it."""
    files = {}
    for path in sorted(folder.rglob("*")):
        _flush(path)
        if path.is_file():
            name = path.relative_to(folder).as_posix()
            files[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    contents = {**contents, "files": files}
    (folder / MANIFEST).write_text(json.dumps({**contents, "sha256": _digest(contents)}, indent=1), encoding="utf-8")
    _flush(folder / MANIFEST)
    _flush(folder)


def _flush(path: Path) -> None:
    """Waits until a file or folder is on the disk: after a power cut, a rename may be there and the contents not."""
    if os.name == "nt" and path.is_dir():  # not possible there
        return
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _reason(error: Exception, folder: Path) -> str:
    """The system's reason why a file couldn't be written. Where a library hides it, another file is tried."""
    if isinstance(error, TakenOver):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    probe = folder / "probe"
    try:
        probe.write_bytes(bytes(PROBE_BYTES))
    except OSError as refused:
        return str(refused.strerror)
    finally:
        probe.unlink(missing_ok=True)
    return str(error).strip().partition("\n")[0] or type(error).__name__


def on_main_process(accelerator: Accelerator, work: Callable[[], Answer]) -> Answer:
    """What `work` returns in the main process, in every process; what it raises there is raised in every process."""
    answer: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            answer = [work(), None]
        except Exception as error:
            answer = [None, error]
    if accelerator.num_processes > 1:
        broadcast_object_list(answer)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def read_progress(state: Path) -> tuple[int, int, Spent]:
    """The optimiser step that a state was saved after, and the number of examples (of all processes) and the time until then."""
    contents = read_manifest(state)
    return contents["step"], contents["examples"], Spent(contents["seconds"], contents["cpu_seconds"])


def load_state(
    accelerator: Accelerator,
    state: Path,
    average: AveragedModel | ShardedAverage | None,
    seed: int,
    model: Any,
    optimizer: Any,
) -> None:
    """
    Restores model, optimiser, random states and average. Accelerate unpickles none of them.

    A process that the training didn't have before gets random states from `seed`, the step and its own number.
    """
    model, parts = accelerator.unwrap_model(model), shards_in(state)
    if parts or is_sharded(model):
        if parts:
            restore(state, model, optimizer, average)
        else:
            restore_from_whole(state, read_plain(state / OPTIMIZER), model, optimizer, average)
        load_accelerator_state(state, [], [], [], [], accelerator.process_index, accelerator.scaler, "cpu")
    else:
        accelerator.load_state(str(state))
    accelerator.step = (
        0  # of batches; a state lies between two optimiser steps, whose number of batches may be another now
    )
    rank = accelerator.process_index
    if not (state / f"{RNG_STATE_NAME}_{rank}.pkl").exists():
        step, *_ = read_progress(state)
        set_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1)[0]))
    if isinstance(average, AveragedModel) and not parts:
        averaged = load_file(state / "average.safetensors")  # copied to the average's own device
        missing, unexpected = average.load_state_dict(averaged, strict=False)
        wrong = [*unexpected, *(name for name in missing if name not in frozen_in(average))]
        if wrong:
            raise ValueError(
                f"{state / 'average.safetensors'}: not an average of this model; {wrong[0]} is in one of both only"
            )


def frozen_in(average: AveragedModel) -> set[str]:
    """Names of the parameters that aren't trained, and so are the model's own."""
    return {name for name, parameter in average.named_parameters() if not parameter.requires_grad}


def save_model(model: Any, output: Path, recipe: Recipe, processor: WinWinImageProcessor) -> Path:
    """
    Writes output/model, which `AutoModel.from_pretrained` and `AutoImageProcessor.from_pretrained` load; returns it.

    Raises: ValueError: weights that aren't finite.
    """
    final = output / "model"
    refuse_infinite(final, model.state_dict())
    with new_folder(final, overwrite=True) as temporary:
        merged(model).save_pretrained(temporary)
        processor.save_pretrained(temporary)
        (temporary / "recipe.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
        for path in temporary.iterdir():
            _flush(path)
    return final


# ------------------------------------------------------------------ the recipe of before


def recipe_fault(state: Path) -> str:
    """What is wrong with the recipe of a state; "" for one that can be read."""
    try:
        load_recipe(state / "recipe.yaml")
    except ValueError as error:
        return _without_folder(error, state)
    return ""


def check_same_recipe(recipe: Recipe, state: Path, processes: int) -> None:
    """
    Raises ValueError where the training of a state was started with another recipe.

    Batches may have another size where a step has as many examples as before: in another number of processes it is the same step.
    """
    stored, processes_before = load_recipe(state / "recipe.yaml"), read_manifest(state)["processes"]
    examples_before = stored.optimization.examples_per_step(processes_before)
    examples = recipe.optimization.examples_per_step(processes)
    before, now = (flatten(_without_caches(asdict(found))) for found in (stored, recipe))
    free = {f"optimization.{name}" for name in ("batch_size", "accumulation")} if examples == examples_before else set()
    changed = [
        f"{key}: {before.get(key)!r}, now {now.get(key)!r}"
        for key in {**before, **now}
        if key.partition(".")[0] not in FREE and key not in free and before.get(key) != now.get(key)
    ]
    if changed:
        raise ValueError(
            f"{state.parent}: this training was started with another recipe ({'; '.join(changed)}), says its {state.name}; "
            "resume with the same recipe, or choose another output folder"
        )
    if examples != examples_before:
        logger.warning(
            f"{state.parent}: {processes_before} process(es) trained before, and {processes} do now: a step has {examples} examples "
            f"instead of {examples_before}, with the same learning rate; another batch_size or accumulation can make them equal"
        )


def network_of(model: Any, processor: WinWinImageProcessor) -> dict[str, dict[str, Any]]:
    """
    What a state notes of the network beside its weights, as plain values: our fields of its config, and its image processor.

    Not transformers' own fields, whose defaults are another version's.
    """
    config, settings = model.config.to_dict(), processor.to_dict()
    found = {
        "config.json": {name: config[name] for name in sorted(own_fields() & config.keys())},
        "preprocessor_config.json": {key: settings[key] for key in settings if key != "transformers_version"},
    }
    plain: dict[str, dict[str, Any]] = json.loads(json.dumps(found, default=str))
    return plain


def check_same_network(state: Path, network: dict[str, dict[str, Any]]) -> None:
    """
    Raises ValueError where a network isn't the one of a state, though its weights fit: model.init was changed, or a default of ours.

    Fields that one of both lacks are another version's.
    """
    for file, before in (read_manifest(state).get("network") or {}).items():
        now = network.get(file, {})
        changed = [
            f"{key}: {shortened(repr(before[key]))}, now {shortened(repr(now[key]))}"
            for key in before
            if key in now and before[key] != now[key]
        ]
        if changed:
            raise ValueError(
                f"{state.parent}: {state.name} is of another network ({'; '.join(changed)}); expected the {file} of model.init and the "
                "version of this package unchanged"
            )


def warn_of_changed_data(state: Path, names: Sequence[str], contents: Sequence[str]) -> None:
    """Compares what `contents_of` says of each data set with what it said when a state was saved. Older versions noted nothing."""
    for name, before, now in zip(names, read_manifest(state).get("data") or [], contents, strict=False):
        if before != now:
            logger.warning(
                f"{name} has changed since {state.name} ({before or 'nothing known'}; now {now or 'nothing known'}): the training goes "
                "on with what is there now, and ends with other weights"
            )


def _without_caches(values: dict[str, Any]) -> dict[str, Any]:
    for chosen in (values["data"], *(values["data"]["sets"] or ())):
        chosen["options"] = {key: value for key, value in chosen["options"].items() if key not in CACHE}
    return values


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {prefix + key: value}
    return flat
