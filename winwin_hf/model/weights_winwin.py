"""Whether files of weights are whole, and give a network all that it needs.

Files are looked at by their headers alone: neither torch nor safetensors is imported, and nothing is allocated on a header's word.
"""

import json
import math
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .pixels_winwin import check_regular, shortened

SHARD = re.compile(r"[\w.-]+\.safetensors")
MAX_HEADER = 10**8  # bytes, as of safetensors itself
# More than a file holds, and a model may still be loaded from it: for a task of its own it has a decoder and a head more.
NEW_PARAMETERS = 10**9
FLOATS = (
    "F64",
    "F32",
    "F16",
    "BF16",
)  # dtypes of weights in safetensors files; numbers of 8 bits have scales beside them
MAX_TENSORS = 100_000  # of one file; a ViT of 7 billion parameters has 700
MAX_SHARDS = 5_000
ZERO_END = 4096  # bytes of a file's end: weights are hardly ever zero
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
MAX_INTEGER = 10**6  # of a config: transformers makes lists of such lengths before anybody counts


def is_number(value: Any) -> bool:
    """Whether it is a finite number that a float holds. A file's JSON may have an integer of any length."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def tensors_of(path: Path) -> dict[str, dict[str, Any]]:
    """
    Name -> dtype, shape, data_offsets of the tensors in a safetensors file, from its header (8 bytes of length, then JSON).

    Raises: ValueError for another file, or one of another length than its header says.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length if length < min(size, MAX_HEADER) else 0))
            tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
            expected = 8 + length + max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
        except (ValueError, AttributeError, LookupError, TypeError, RecursionError):
            raise ValueError(f"{path}: no safetensors file, or only a part of one") from None
    if len(tensors) > MAX_TENSORS:
        raise ValueError(f"{path}: {len(tensors)} tensors; expected at most {MAX_TENSORS}")
    if size != expected:
        raise ValueError(f"{path}: {size} bytes, expected {expected}; it was not written to its end")
    return tensors


def files_of_index(index: Path, pattern: re.Pattern[str] = SHARD) -> list[str]:
    """
    Names of the files that an index of weights names.

    Args:
        pattern: of the names.
    Raises: ValueError for another file, and for names that could lead out of the folder or to what is no safetensors file.
    """
    try:
        if index.stat().st_size > MAX_HEADER:
            raise ValueError
        names = sorted({str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()})
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        names = []
    if len(names) > MAX_SHARDS:
        raise ValueError(f"{index}: names {len(names)} files; expected at most {MAX_SHARDS}")
    if not names or not all(pattern.fullmatch(name) for name in names):
        shown = ", ".join(map(repr, names[:3])) or "nothing"
        suffix = pattern.pattern.rpartition(".")[2]
        raise ValueError(f"{index}: names {shown[:200]}; expected files such as model-00001-of-00002.{suffix}")
    return names


def check_folder(folder: Path) -> None:
    """
    Raises for a folder of weights that others may have made: pipes and devices, texts of more than MAX_HEADER bytes, and an index that
    leads out of it. Does nothing where it is no folder.

    Raises: OSError, FileNotFoundError, ValueError; each names the file.
    """
    if not folder.is_dir():
        return
    for inside in sorted(folder.iterdir()):
        if inside.suffix in (".json", ".safetensors", ".bin", ".md"):
            check_regular(inside)
            if inside.suffix in (".json", ".md") and inside.stat().st_size > MAX_HEADER:
                raise ValueError(f"{inside}: {inside.stat().st_size} bytes; expected a text of at most {MAX_HEADER}")
    check_index(folder)
    pickled = folder / INDEXES[1]
    if pickled.is_file() and not any((folder / name).is_file() for name in ("model.safetensors", INDEXES[0])):
        files_of_index(pickled, re.compile(r"[\w.-]+\.bin"))


def refuse_huge_integers(source: Any, config: Any, name: str = "config.json") -> None:
    """Raises ValueError for a whole number of more than MAX_INTEGER anywhere in a config.json. `source`: in the message."""
    parts = config.items() if isinstance(config, dict) else enumerate(config)
    for key, value in parts:
        if isinstance(value, dict | list):
            refuse_huge_integers(source, value, f"{key} of {name}" if isinstance(config, dict) else name)
        elif isinstance(value, int) and value > MAX_INTEGER and "theta" not in str(key):
            shown = value if value < 10**20 else f"a number of {len(str(value)[:5000])} digits or more"
            raise ValueError(f"{source}: {key} in {name} is {shown}; expected at most {MAX_INTEGER}")


def refuse_other_numbers(file: Path) -> None:
    """Raises ValueError where a safetensors file holds other weights than floating-point numbers of 16 bits or more, and as
    `refuse_zero_end`."""
    for tensor, entry in tensors_of(file).items():
        if entry["dtype"] not in FLOATS and not tensor.endswith(("position_ids", "num_batches_tracked")):
            raise ValueError(f"{file}: {tensor} is stored as {entry['dtype']}; expected {', '.join(FLOATS)}")
    refuse_zero_end(file)


def refuse_damaged(folder: Path) -> None:
    """What safetensors doesn't notice of a folder's weights: as `refuse_doubles` and `refuse_zero_end`."""
    refuse_doubles(folder)
    for file in sorted(folder.glob("model*.safetensors")):
        refuse_zero_end(file)


def refuse_zero_end(file: Path) -> None:
    """
    Raises ValueError where a safetensors file of weights ends in zeros as a download leaves it that broke off in a file that was made as
    large as it should become: they begin within a tensor, or are a norm's weights, or two matrices or more. Its format has no checksum.
    """
    tensors, end = tensors_of(file), file.stat().st_size
    start = end - max((entry["data_offsets"][1] for entry in tensors.values()), default=0)
    first = end  # of the zeros
    with file.open("rb") as stream:
        while first > start:
            step = ZERO_END if first == end else 1 << 20
            stream.seek(max(start, first - step))
            block = stream.read(first - max(start, first - step)).rstrip(b"\0")
            first = max(start, first - step) + len(block)
            if block:
                break
    if end - first < ZERO_END:
        return
    within, zero = False, []
    for name, entry in tensors.items():
        begin, last = (start + offset for offset in entry["data_offsets"])
        within = within or (begin < first and last - first >= ZERO_END)
        zero += [name] if first <= begin < last else []
    norms = any(re.search(r"norm\w*\.weight$", name) for name in zero)
    if within or norms or sum(len(tensors[name]["shape"]) > 1 for name in zero) > 1:
        raise ValueError(f"{file}: its last {end - first} bytes are zeros; it was not written to its end")


def check_index(folder: Path) -> None:
    """Raises ValueError, FileNotFoundError where the index of a folder's weights names what isn't a file beside it, or lacks a part."""
    index = folder / INDEXES[0]
    if index.is_file() and not (folder / "model.safetensors").is_file():
        for name in files_of_index(index):
            if not (folder / name).is_file():
                raise FileNotFoundError(f"{folder / name}: missing, though the index names it")
        if not isinstance(json.loads(index.read_text(encoding="utf-8")).get("metadata"), dict):  # transformers reads it
            raise ValueError(f'{index}: no "metadata"; expected an object, which holds the weights\' total_size')


def refuse_two_saves(folder: Path) -> None:
    """Raises ValueError where weights lie in one file and in shards: transformers reads the one file, whichever was saved later."""
    index, single = folder / INDEXES[0], folder / "model.safetensors"
    if index.is_file() and single.is_file() and any((folder / name).is_file() for name in files_of_index(index)):
        raise ValueError(
            f"{folder}: holds {single.name}, and the shards of {index.name}; expected one of both, since one is of an earlier save"
        )


def refuse_doubles(folder: Path) -> None:
    """Raises ValueError where a file has a tensor with and without the name of the part that it is of: either would be read."""
    for file in sorted(folder.glob("model*.safetensors")):
        names = tensors_of(file).keys()
        if double := next((name for name in sorted(names) if f"winwin.{name}" in names), None):
            raise ValueError(f"{file}: holds {shortened(double)} and winwin.{shortened(double)}; expected one of both")


def stamps_of_weights(folder: Path) -> dict[Path, int]:
    """The file and the index that weights may be read by -> when they were written."""
    paths = (folder / "model.safetensors", folder / INDEXES[0])
    return {path: path.stat().st_mtime_ns for path in paths if path.is_file()}


def count_parameters(path: Path) -> int:
    """The numbers in a safetensors file, from its header alone."""
    try:
        return sum(math.prod(entry["shape"]) for entry in tensors_of(path).values())
    except (LookupError, TypeError):
        raise ValueError(f"{path}: no safetensors file, or only a part of one") from None


def reason_of(error: BaseException) -> str:
    """The line of an error's message that says what is wrong; with the error's type where it is no ValueError or OSError."""
    if (
        type(error).__name__.startswith("StrictDataclass") and error.__cause__
    ):  # of a config: the field's own error is its cause
        error = error.__cause__
    if "weights_only" in str(error):  # torch advises to run what a pickle says
        return "it holds pickled Python objects, which are not read: only tensors are"
    if "trust_remote_code" in str(error):  # transformers advises to run it
        return "it needs code of its own, which is not run; expected a kind of model that is known here"
    # transformers' messages run over many lines
    lines = [" ".join(line.split()) for line in str(error).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].endswith(":"):
        lines[:2] = [f"{lines[0]} {lines[1]}"]
    text = lines[0] if lines else ""
    clear = isinstance(error, ValueError | OSError | ImportError) or type(error).__name__ == "SafetensorError"
    return text if text and clear else f"{type(error).__name__}{': ' if text else ''}{text}"


def refuse_larger(source: Any, files: Iterable[Path], parameters: int) -> None:
    """
    Raises ValueError where a network is far larger than the weights for it, before it is built.

    Args:
        source: in the message. files: its safetensors files. parameters: of the network, by its config.
    """
    files = list(files)
    held = sum(map(count_parameters, files))
    if files and parameters > 2 * held + NEW_PARAMETERS:
        raise ValueError(
            f"{source}: its config.json describes {parameters / 1e6:.0f} M parameters, and its weights are {held / 1e6:.0f} M; expected "
            "a config.json that belongs to the weights"
        )


def refuse_incomplete(source: Any, model: Any, found: dict[str, Any]) -> None:
    """
    Raises ValueError where tensors of a loaded model weren't in its files, have another shape there, or aren't finite.

    Args:
        source: in the message. found: what `from_pretrained(..., output_loading_info=True)` gives beside the model.
    """
    mismatched = sorted((name, tuple(theirs), tuple(ours)) for name, theirs, ours in found["mismatched_keys"])
    if mismatched:
        name, theirs, ours = mismatched[0]
        more = f" (and {len(mismatched) - 1} more tensors)" if len(mismatched) > 1 else ""
        raise ValueError(f"{source}: {name} has shape {theirs}{more}; expected {ours} by its config.json")
    tensors = model.state_dict()
    if missing := sorted(found["missing_keys"]):
        raise ValueError(
            f"{source}: {len(missing)} of {len(tensors)} tensors are missing, such as {missing[0]}; expected all that a "
            f"{type(model).__name__} by its config.json has"
        )
    refuse_infinite(source, tensors)


def refuse_infinite(source: Any, tensors: dict[str, Any]) -> None:
    """Raises ValueError for the first tensor that holds NaN or infinity. `source`: in the message."""
    for name, tensor in tensors.items():
        known = tensor.is_floating_point() and tensor.device.type != "meta"  # weights left on a disk are on "meta"
        if known and not tensor.isfinite().all():
            raise ValueError(f"{source}: {name} holds NaN or infinite values; expected finite ones")
