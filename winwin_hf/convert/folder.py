"""A converted checkpoint's folder, which appears whole or not at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from winwin_hf.data.formats.files import read_json, remove_leftovers, replacing_folder, told_of

# What a model's folder holds, of this package's writing or of transformers'. Nothing else is deleted with a folder that is replaced.
FILES = re.compile(
    r"(config|generation_config|preprocessor_config|processor_config|card)\.json|recipe\.yaml|README\.md|\.gitattributes|curve\.png"
    r"|worst\.jpg|model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json|\w+_winwin\.py|__pycache__|\.(cache|huggingface)"
)
EXPORTS = re.compile(r"model(_\w+)?\.onnx(\.data|_data)?|export\.json|config\.json|openvino\w*\.(xml|bin)")


@contextmanager
def new_folder(output: Path, overwrite: bool) -> Iterator[Path]:
    """
    A temporary folder beside `output` to write to; at the end it is renamed to `output`.

    Args:
        overwrite: replace `output` if it exists and has a config.json.
    Raises: FileExistsError: `output` exists, and isn't to be or can't be replaced.
    """
    check_output(output, overwrite)
    with replacing_folder(output) as new:
        with told_of(output):
            yield new
        for path in new.iterdir():
            path.chmod(0o644)  # save_pretrained writes weights that only their owner may read
        check_output(output, overwrite)  # another program may have made it


def check_output(output: Path, overwrite: bool, source: str | Path | None = None, whole: bool = True) -> None:
    """
    Raises FileExistsError where `output` exists, and isn't to be or can't be replaced.

    Args:
        source: what is read: ValueError where it lies in `output`, and would be replaced with it.
        whole: whether everything in it is replaced, or only the export in its folder onnx.
    """
    if not os.path.lexists(output):
        return
    if not overwrite:
        raise FileExistsError(f"{output} exists; expected a new folder, or overwrite")
    if source is not None and Path(source).exists():
        read, replaced = Path(source).resolve(), output.resolve()
        if read == replaced or replaced in read.parents:
            raise ValueError(f"{source} lies in {output}, which would be replaced; expected another folder")
    if output.is_dir() and not output.is_symlink():
        remove_leftovers(output)  # of an export into it that was killed
    if output.is_symlink():
        raise FileExistsError(
            f"{output}: a link, which is not replaced; expected {output.resolve()}, or another folder"
        )
    if not _is_config(output / "config.json"):
        raise FileExistsError(f"{output} is no model's folder, and is not overwritten; expected one with a config.json")
    other = _foreign(output) if whole else _foreign_export(output / "onnx")
    if other:
        raise FileExistsError(f"{other} is no file of a model's folder, and would be deleted; expected another folder")


def _is_config(file: Path) -> bool:
    """Whether it is a config.json of a model, and not another program's."""
    try:
        values = read_json(file)
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and bool({"model_type", "architectures"} & values.keys())


def _foreign(folder: Path) -> Path | None:
    """Something in a model's folder that no model's folder has; None without."""
    for inside in sorted(folder.iterdir()):
        if inside.name == "onnx" and inside.is_dir() and not inside.is_symlink():
            if other := _foreign_export(inside):
                return other
        elif not FILES.fullmatch(inside.name):
            return inside
    return None


def _foreign_export(folder: Path) -> Path | None:
    """Something in an export's folder `onnx` that no export has; None without, and where there is no such folder."""
    if not folder.is_dir():
        return None
    return next((inside for inside in sorted(folder.iterdir()) if not EXPORTS.fullmatch(inside.name)), None)
