"""Reads public checkpoints of CroCo, DUSt3R and MASt3R, without running anything they hold.

`torch.load(weights_only=True)`, with `argparse.Namespace` as the only class allowed besides torch's own: all but CroCo v2 keep their
arguments in one.

The public layouts and their defaults are those of naver/croco (Weinzaepfel et al. 2022, 2023), naver/dust3r (Wang et al. 2024) and
naver/mast3r (Leroy et al. 2024); no code of them is used here.
"""

import argparse
import ast
import re
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .pixels_winwin import shortened

# The network's arguments that a file doesn't give; files of CroCo v1 give none.
CROCO_DEFAULTS: dict[str, Any] = {
    "img_size": 224,
    "patch_size": 16,
    "mask_ratio": 0.9,
    "enc_embed_dim": 768,
    "enc_depth": 12,
    "enc_num_heads": 12,
    "dec_embed_dim": 512,
    "dec_depth": 8,
    "dec_num_heads": 16,
    "mlp_ratio": 4,
    "norm_im2_in_dec": True,
    "pos_embed": "cosine",
}
POSITIVE_INTEGERS = (
    "patch_size",
    *(f"{side}_{what}" for side in ("enc", "dec") for what in ("embed_dim", "depth", "num_heads")),
)
TITLES = {
    "pretraining": "CroCo v2",
    "flow": "CroCo-Flow",
    "stereo": "CroCo-Stereo",
    "dust3r": "DUSt3R",
    "mast3r": "MASt3R",
}
PAIRS = ("dust3r", "mast3r")  # with a decoder and a head for each view
# The class whose call `args.model` is, and its further arguments, which say nothing of encoder and decoder.
DUST3R_ARGUMENTS = (
    "output_mode",
    "head_type",
    "depth_mode",
    "conf_mode",
    "freeze",
    "landscape_only",
    "patch_embed_cls",
)
CALLS: dict[str, tuple[str, tuple[str, ...]]] = {
    "pretraining": ("CroCoNet", ()),
    "dust3r": ("AsymmetricCroCo3DStereo", DUST3R_ARGUMENTS),
    "mast3r": ("AsymmetricMASt3R", (*DUST3R_ARGUMENTS, "desc_mode", "two_confs", "desc_conf_mode")),
}
EXPECTED = (
    "expected a checkpoint of CroCo v2, CroCo-Flow, CroCo-Stereo, DUSt3R or MASt3R: a dictionary with 'model' and its sizes "
    "('croco_kwargs' or 'args')"
)
MOST_COPIES = 4  # CroCo's heads have some tensors under two names
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # torch.save before version 1.6


@dataclass(frozen=True)
class CrocoCheckpoint:
    """
    The content of a public checkpoint.

    Attributes:
        kind: a key of `TITLES`.
        sizes: CroCo's arguments, with its defaults.
        training: crop, criterion and tile_conf_mode, if the file has them.
        tensors: floating-point, by CroCo's names.
    """

    path: Path
    kind: str
    sizes: dict[str, Any]
    training: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    def crop(self) -> tuple[int, int]:
        """Height and width of the crops that the network was trained on, in pixels."""
        for crop in (self.training.get("crop"), self.sizes["img_size"]):
            if isinstance(crop, list | tuple) and len(crop) == 2 and all(isinstance(side, int) for side in crop):
                return crop[0], crop[1]
            if isinstance(crop, int):
                return crop, crop
        raise ValueError(f"{self.path}: img_size is {self.sizes['img_size']!r}; expected (height, width) in pixels")


def read_croco(source: str | Path) -> CrocoCheckpoint:
    """
    Reads a public checkpoint of CroCo, DUSt3R or MASt3R; nothing that it holds is run.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it isn't a file of torch.save, is cut off, holds other Python objects, is another project's, or has absolute
            positions (CroCo v1). The message names the file and what was expected.
    """
    path = Path(source)
    content = load_tensors(path)
    if not isinstance(content, Mapping) or not isinstance(content.get("model"), Mapping):
        raise ValueError(f"{path}: another project's checkpoint, with {_summary(content)}; {EXPECTED}")
    tensors = check_tensors(path, content["model"])
    args = content.get("args")
    args = vars(args) if isinstance(args, argparse.Namespace) else {} if args is None else args
    if not isinstance(args, Mapping):
        raise ValueError(f"{path}: args is a {type(args).__name__}; expected argparse's namespace or a dictionary")
    call, arguments = parse_call(str(args.get("model", "")))
    pair = next((kind for kind in PAIRS if CALLS[kind][0] == call), None)
    if pair is not None:
        return CrocoCheckpoint(path, pair, sizes_of(path, {"args.model": arguments}, pair), {}, tensors)
    if any(name.startswith("dec_blocks2.") for name in tensors):
        raise ValueError(
            f"{path}: two decoders (dec_blocks2), but args.model is {str(args.get('model'))[:60]!r}; expected "
            f"{' or '.join(f'{CALLS[kind][0]}(...)' for kind in PAIRS)} of plain values"
        )
    task = args.get("task")
    if task not in ("flow", "stereo", None):
        raise ValueError(f"{path}: args.task is {task!r}; expected 'flow' or 'stereo'")
    if task is None and any(name.startswith("head.") for name in tensors):
        raise ValueError(f"{path}: a head but no args.task; expected 'flow' or 'stereo', which say what it predicts")
    training = {key: args[key] for key in ("crop", "criterion", "tile_conf_mode") if args.get(key) is not None}
    sizes = _sizes(path, content, args)
    return CrocoCheckpoint(path, task or "pretraining", sizes, training, tensors)


def check_tensors(path: Path, model: Mapping) -> dict[str, torch.Tensor]:
    """The tensors of a network. Raises ValueError where there is another thing among them, or no encoder of CroCo's."""
    tensors = {str(name): tensor for name, tensor in model.items()}
    if not any(name.startswith("enc_blocks.") for name in tensors):
        raise ValueError(f"{path}: another project's checkpoint, whose model has {_summary(tensors)}; {EXPECTED}")
    for name, tensor in tensors.items():
        if not is_plain(tensor):
            raise ValueError(f"{path}: {shortened(name)} is {_kind_of(tensor)}; expected floating-point tensors only")
    check_held(path, tensors)
    return tensors


def is_plain(tensor: Any) -> bool:
    """Whether it is a tensor of floating-point numbers of 16 bits or more, one after the other in memory."""
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)
        and tensor.layout == torch.strided
        and not (tensor.is_nested or tensor.is_meta)
    )


def check_held(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Raises ValueError where tensors are views that repeat what a file holds: copied, they would take far more memory."""
    total = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        total += size
        if size > tensor.untyped_storage().nbytes():
            raise ValueError(
                f"{path}: {shortened(name)} has shape {tuple(tensor.shape)}, and the file holds less; expected all its numbers"
            )
    held = path.stat().st_size if path.is_file() else total  # a repository's file was counted by its header
    if total > MOST_COPIES * held:
        raise ValueError(
            f"{path}: its tensors have {total} bytes and the file {held}; expected few tensors under two names"
        )


def load_tensors(path: Path) -> Any:
    """What a file of torch.save holds, without running anything. Raises FileNotFoundError, ValueError: as `read_croco`."""
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise FileNotFoundError(f"{path}: {what}; expected a checkpoint of CroCo, DUSt3R or MASt3R (.pth)")
    zipped = zipfile.is_zipfile(path)
    if zipped:
        _check_sums(path)
    with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of pickles that it then refuses
        try:
            # mmap: the optimiser's state in a training's file, twice the weights, is never read
            return torch.load(path, map_location="cpu", weights_only=True, mmap=True if zipped else None)
        except OSError:
            raise
        except Exception as error:  # other bytes raise UnpicklingError, RuntimeError, EOFError, KeyError, ...
            raise ValueError(f"{path}: {_why_unreadable(path, zipped, error)}") from error


def _check_sums(path: Path) -> None:
    """Raises ValueError where a part of a file of torch.save isn't what was written, by its CRC-32: torch doesn't compare it."""
    try:
        with zipfile.ZipFile(path) as archive:
            for part in archive.infolist():
                if part.CRC:  # 0 where it was written without
                    with archive.open(part) as file:
                        while file.read(2**20):
                            pass
    except zipfile.BadZipFile as error:
        if "CRC" not in str(error):
            return  # torch says what it is
        raise ValueError(f"{path}: damaged ({error}); expected a whole file of torch.save") from error
    except (RuntimeError, ValueError, EOFError, zlib.error):
        return  # packed or encrypted, as no file of torch.save is: torch says what is wrong


def _why_unreadable(path: Path, zipped: bool, error: Exception) -> str:
    try:
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
    except Exception:  # a zip file, but not torch.save's
        foreign = []
    foreign = foreign or re.findall(r"(?:GLOBAL|Unsupported class) ([\w.]+\.\w+)", str(error))
    if foreign:
        return (
            f"holds Python objects that are not read, since reading them can run code: {', '.join(foreign[:5])}; "
            "expected tensors, plain values and argparse.Namespace only"
        )
    with path.open("rb") as file:
        start = file.read(len(LEGACY_START))
    if not zipped and (start.startswith(b"PK\x03\x04") or start == LEGACY_START):
        return "truncated or damaged, its end is missing; expected a whole file of torch.save"
    if zipped and _is_torch_archive(path):
        return f"damaged ({str(error).splitlines()[0][:120]}); expected a whole file of torch.save"
    return "not a file of torch.save; expected a checkpoint of CroCo, DUSt3R or MASt3R (.pth)"


def _is_torch_archive(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


def _sizes(path: Path, content: Mapping, args: Mapping) -> dict[str, Any]:
    """CroCo's arguments, from whichever place the file keeps them in, with its defaults."""
    call = args.get("model")  # pre-training by the public code keeps "CroCoNet(enc_depth=24, ...)"
    if call is not None:
        name, arguments = parse_call(str(call))
        if name != "CroCoNet":
            raise ValueError(f"{path}: args.model is {str(call)[:60]!r}; expected 'CroCoNet(...)'. {EXPECTED}")
        call = arguments
    places = {
        "croco_kwargs": content.get("croco_kwargs"),
        "croco_args": content.get("croco_args"),
        "args.croco_args": args.get("croco_args"),
        "args.model": call,
    }
    return sizes_of(path, {place: value for place, value in places.items() if value is not None})


def sizes_of(path: Path, places: Mapping[str, Any], kind: str = "pretraining") -> dict[str, Any]:
    """
    CroCo's arguments with its defaults.

    Args:
        places: where the file keeps them -> what it has there.
        kind: in `CALLS`; its further arguments are left out.
    Raises: ValueError: an argument that is unknown, places that disagree, a network that ours can't be.
    """
    further, found = CALLS[kind][1], []
    for place, value in places.items():
        if not isinstance(value, Mapping):
            raise ValueError(f"{path}: {place} is a {type(value).__name__}; expected a dictionary of sizes")
        unknown = sorted(set(value) - set(CROCO_DEFAULTS) - set(further))
        if unknown:
            known = ", ".join([*CROCO_DEFAULTS, *further])
            raise ValueError(f"{path}: {place} has {', '.join(map(str, unknown))}; expected only {known}")
        found.append({**CROCO_DEFAULTS, **{key: size for key, size in value.items() if key not in further}})
    for other in found[1:]:
        if other != found[0]:
            raise ValueError(f"{path}: {' and '.join(places)} disagree; expected the same sizes in both")
    sizes = found[0] if found else CROCO_DEFAULTS
    _check_sizes(path, sizes, declared=bool(found))
    return sizes


def _check_sizes(path: Path, sizes: dict[str, Any], declared: bool) -> None:
    """Raises ValueError for a network that ours can't be. declared: the file gives sizes."""
    for name in POSITIVE_INTEGERS:
        value = sizes[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{path}: {name} is {value!r}; expected a positive integer")
    positions = sizes["pos_embed"]
    if not re.fullmatch(r"RoPE\d+(\.\d+)?", str(positions)):
        default = "" if declared else ", CroCo v1's, since the file declares no sizes"
        raise ValueError(
            f"{path}: absolute positions (pos_embed={positions!r}{default}); expected rotary ones such as 'RoPE100', because "
            "windows anywhere and frames of any size need relative positions"
        )
    if not sizes["norm_im2_in_dec"]:
        raise ValueError(f"{path}: norm_im2_in_dec is off; expected a decoder that normalises the second view, as ours")


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """ "Name(key=1)" -> ("Name", {"key": 1}), of literals and infinity only; ("", {}) for anything else."""
    try:
        node = ast.parse(re.sub(r"\binf\b", "1e999", text.strip()), mode="eval").body
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            return node.func.id, {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
    except (SyntaxError, ValueError):
        pass
    return "", {}


def _summary(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    names = [shortened(str(name)) for name in content]
    return f"{', '.join(names[:5])}{', ...' if len(names) > 5 else ''}" or "nothing in it"


def _kind_of(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        return f"a {type(value).__name__}"
    plain = value.layout == torch.strided and not (value.is_nested or value.is_meta)
    return f"of type {value.dtype}" if plain else f"{'without values' if value.is_meta else 'sparse or nested'}"
