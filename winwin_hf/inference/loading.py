"""Loads a network and its image processor by their name: every command, the demo page and evaluations load here.

Notable:
- a network has all its weights, of the right shapes and finite, or none is returned. transformers fills up with random ones.
- code that came with a network isn't run, and nobody is asked whether it may: transformers asks where it isn't told.
- only fine-tuning takes a part of a checkpoint: `from_encoder`, or `from_pretrained` with options.
- whatever a library raises for a damaged file is one ValueError that names the model.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants, get_session, hf_hub_url
from huggingface_hub.errors import FileMetadataError, HFValidationError
from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, validate_repo_id
from transformers import AutoConfig, AutoImageProcessor, AutoModel, ImageProcessingMixin, PreTrainedConfig
from transformers.utils import logging as transformers_logging

import winwin_hf.registration  # noqa: F401 - the Auto classes know the package's models
from winwin_hf import bundled
from winwin_hf.data.formats.files import read_json
from winwin_hf.downloads import checked_downloads
from winwin_hf.model.hub_files_winwin import check_hub_index, loaded_folder, refuse_adapter
from winwin_hf.model.pixels_winwin import check_regular, shortened
from winwin_hf.model.weights_winwin import (
    reason_of,
    refuse_huge_integers,
    refuse_incomplete,
    refuse_other_numbers,
)

logger = logging.getLogger(__name__)
# Settings of an image processor by which a network sees what it learnt from; all versions have written them.
NEEDED = ("do_resize", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "patch_size")


def load_network(name: str | Path, **options: Any) -> Any:
    """
    The network `name` with all its weights, in evaluation mode.

    Args:
        name: a bundled name, a folder or a Hub repository. options: of `from_pretrained`, such as `dtype`.
    Raises: OSError: nothing has that name. ValueError: a damaged file, or tensors that are missing, of another shape or not finite.
    """
    source = source_of(name)
    with reading(name), quiet():
        if Path(source).is_dir():  # first: an adapter alone has no config.json
            refuse_adapter(source)
        check_config(source)
        check_hub_index(source)
        refuse_integers(Path(source))
        if not Path(source).is_dir():
            refuse_adapter(source)
        # mismatched sizes are told of below; transformers would print a table, and then raise
        model, found = AutoModel.from_pretrained(
            source,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            trust_remote_code=False,
            **options,
        )
    if not Path(source).is_dir() and (folder := loaded_folder(source, getattr(model.config, "_commit_hash", None))):
        with reading(name):
            refuse_integers(folder)
    refuse_incomplete(name, model, found)
    model.config.return_dict = True  # outputs are read by name, whatever a config.json says of tuples
    if unexpected := sorted(found["unexpected_keys"]):
        logger.warning(f"{name}: {len(unexpected)} tensors of its files are not used, such as {unexpected[0]}.")
    return model


def refuse_integers(folder: Path) -> None:
    """Raises ValueError where a folder's weights are integers, which would be rounded numbers; those of quantised layers may be."""
    if not (folder / "config.json").is_file() or read_json(folder / "config.json").get("quantization_config"):
        return
    for file in sorted(folder.glob("model*.safetensors")):
        refuse_other_numbers(file)


def load_processor(name: str | Path, model: Any = None) -> Any:
    """
    The image processor of the network `name`; of a repository that of the commit which `model` came from, if it is given.

    Raises: OSError, ValueError: as `load_network`.
    """
    source, pinned = source_of(name), {}
    if commit := getattr(getattr(model, "config", None), "_commit_hash", None):  # None of a folder
        pinned = {"revision": commit}
    with reading(name, "image processor"):
        processor = AutoImageProcessor.from_pretrained(source, trust_remote_code=False, **pinned)
        settings, _ = ImageProcessingMixin.get_image_processor_dict(source, **pinned)
    if (
        type(processor).__name__ != "WinWinImageProcessor"
    ):  # by name: code that came with the weights has a class of its own
        raise ValueError(
            f"{name}: its preprocessor_config.json is of a {type(processor).__name__}; expected a WinWinImageProcessor's"
        )
    if missing := [key for key in NEEDED if settings.get(key) is None]:
        raise ValueError(
            f"{name}: its preprocessor_config.json has no {', '.join(missing)}; expected what `save_pretrained` wrote beside the weights"
        )
    patch = getattr(getattr(model, "config", None), "patch_size", 1)
    if processor.do_pad and processor.patch_size % patch:
        raise ValueError(
            f"{name}: its preprocessor_config.json has patch_size={processor.patch_size}, and its network {patch}; expected the same"
        )
    return processor


def load_config(name: str | Path) -> Any:
    """The config of the network `name`. Raises: OSError, ValueError: as `load_network`."""
    source = source_of(name)
    with reading(name):
        check_config(source)
        return AutoConfig.from_pretrained(source, trust_remote_code=False)


def check_config(source: str) -> None:
    """Raises ValueError for a config.json with numbers of which other kinds of models make lists, before one is made."""
    settings, _ = PreTrainedConfig.get_config_dict(source)
    if settings.get("model_type") != "winwin":
        refuse_huge_integers(source, settings)


def source_of(name: str | Path) -> str:
    """
    What to hand to `from_pretrained`: a bundled checkpoint's folder, or `name` itself.

    Raises:
        OSError: a folder with a pipe or a device in it, which would block.
        ValueError: a file, a device or another thing that is no folder; a config that is no JSON object.
    """
    source = bundled.resolve(str(name))
    path = Path(source)
    if path.is_dir():
        for inside in sorted(path.iterdir()):
            if inside.suffix in (".json", ".safetensors"):
                check_regular(inside)
            if inside.name in ("config.json", "preprocessor_config.json"):
                values = read_json(inside)
                if not isinstance(values, dict):
                    raise ValueError(f"{inside}: expected a JSON object, with a value for each field")
                if inside.name == "config.json":
                    check_keys(inside, values)
    elif path.is_symlink() or path.exists():
        raise ValueError(f"{name}: not a folder; expected a model's folder, a bundled name or a Hub repository")
    return source


def check_keys(file: Path, config: dict[str, Any]) -> None:
    """Raises ValueError, naming file and key, for a value of transformers' own that isn't of its type. Our fields check themselves."""
    for key, (fits, expected) in KEYS.items():
        value = config.get(key)
        if value is not None and not fits(value):
            raise ValueError(f"{file}: {key} is {shortened(json.dumps(value))}; expected {expected}")


def _is_quantisation(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    method = value.get("quant_method")  # bitsandbytes had none, but flags
    return isinstance(method, str) or (method is None and any(key.startswith("load_in_") for key in value))


def _is_dtype(value: Any) -> bool:
    names = value.values() if isinstance(value, dict) else [value]
    return all(isinstance(name, str) and isinstance(getattr(torch, name, None), torch.dtype) for name in names)


# Key of a config.json -> whether a value fits, and what was expected. None is no value.
KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "architectures": (
        lambda value: isinstance(value, list) and all(isinstance(name, str) for name in value),
        "a list of names, such as WinWinForOpticalFlow",
    ),
    "model_type": (lambda value: isinstance(value, str), "a name, such as winwin"),
    "quantization_config": (_is_quantisation, "an object with a quant_method, or none"),
    "auto_map": (
        lambda value: (
            isinstance(value, dict) and all(isinstance(name, str | list | type(None)) for name in value.values())
        ),
        "an object of names",
    ),
    "dtype": (_is_dtype, "the name of a torch.dtype, such as float32"),
    "id2label": (lambda value: isinstance(value, dict), "an object of names"),
    "label2id": (lambda value: isinstance(value, dict), "an object of numbers"),
    "attn_implementation": (lambda value: isinstance(value, str | dict), "a name, such as sdpa"),
    "_attn_implementation": (lambda value: isinstance(value, str | dict), "a name, such as sdpa"),
}


@contextmanager
def reading(name: str | Path, what: str = "model") -> Iterator[None]:
    """
    Turns what libraries raise for a damaged folder into one ValueError, or one OSError where nothing is there, that names it.

    Raises: OSError also for a download that isn't what the Hub announced.
    """
    with checked_downloads(name), _told(name, what):
        yield


@contextmanager
def _told(name: str | Path, what: str) -> Iterator[None]:
    try:
        yield
    except MemoryError:
        raise
    except ImportError as error:  # what its config asks for, such as a quantisation's library
        raise ImportError(f"{name}: this {what} can't be loaded here ({reason_of(error)})") from error
    except OSError as error:
        known = ", ".join(bundled.folders()) or "none"
        meant = "".join(f"; did you mean {near}?" for near in get_close_matches(str(name), bundled.folders(), 1))
        raise OSError(
            f"no {what} could be loaded from {str(name)!r} (bundled: {known}{meant}): {reason_of(error)}"
        ) from (_refusal(name, what) or error)
    except (
        Exception
    ) as error:  # SafetensorError, StrictDataclassError, KeyError, TypeError, AttributeError, RecursionError, ...
        inside = Path(name) / "model"  # of a training's output
        lies = (inside / "config.json").exists() and not (Path(name) / "config.json").exists()
        raise ValueError(
            f"{name}: not a readable {what} ({reason_of(error)}){f'; did you mean {inside}?' if lies else ''}"
        ) from error


def _refusal(name: str | Path, what: str) -> Exception | None:
    """The Hub's answer to who asks for a network's file, where it is an error. Of all but "isn't there", transformers says nothing."""
    if Path(name).exists() or constants.HF_HUB_OFFLINE or str(name) in bundled.folders():
        return None
    file = "model.safetensors" if what == "model" else "preprocessor_config.json"
    try:
        validate_repo_id(str(name))
        address = hf_hub_url(str(name), file)
        answer = get_session().head(address, headers=build_hf_headers(), follow_redirects=False)
        hf_raise_for_status(answer)
        if not (answer.headers.get("x-linked-etag") or answer.headers.get("etag")):
            raise FileMetadataError(f"{address}: no ETag")
    except HFValidationError:  # no name of a repository: it is a path, which the Hub isn't asked for
        return None
    except Exception as error:  # whatever a Hub's answer makes a library raise
        return error
    return None


@contextmanager
def quiet() -> Iterator[None]:
    """Hides transformers' progress bar for loading weights, which is over at once, and its table of tensors; downloads keep theirs."""
    before = transformers_logging.set_tqdm_hook(lambda bar, args, options: bar(*args, **{**options, "disable": True}))
    reports = transformers_logging.get_logger("transformers.modeling_utils")
    reports.addFilter(NO_REPORT)
    try:
        yield
    finally:
        reports.removeFilter(NO_REPORT)
        transformers_logging.set_tqdm_hook(before)


class _NoReport(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()


NO_REPORT = _NoReport()
