"""Exports a checkpoint to ONNX files that ONNX Runtime and OpenVINO run, for any height, width and batch.

Notable:
- The exported network is the one that `AutoModel` loads. Height and width must be multiples of the patch; the processor pads.
- Attention: in standard operators (softmax(Q K^T) V, or `Attention` of opset 23) ONNX Runtime holds all attention weights at once:
  the matching at 1080 x 1920 has 32,640 x 32,640 of them, 4.3 GB. The default, "fused", uses `com.microsoft.MultiHeadAttention`, which
  ONNX Runtime computes in blocks on a CPU and OpenVINO knows too. "standard" uses only ONNX's own operators, for other runtimes.
- Only weights are quantised (fp16, bf16, int8 with a scale for each output channel): the file shrinks, all sums stay float32. The
  bundled checkpoints are stored in half precision, so fp16 loses nothing.
- No file is written unless the float32 one agrees with PyTorch, at sizes and batches other than the traced one.

The files, written together or not at all, ready to be pushed:

    config.json, preprocessor_config.json      as `AutoConfig` and `AutoImageProcessor` read them
    onnx/model.onnx, onnx/model_int8.onnx ...  the graph, and its variants
    onnx/export.json                           names and shapes of inputs and outputs, versions, the differences from PyTorch

Shapes: B batch, L classes, H W pixels.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from winwin_hf import bundled
from winwin_hf.convert.folder import check_output
from winwin_hf.data.formats.files import check_room, remove_leftovers, replacing_folder, told_of
from winwin_hf.host_process import unchanged_process
from winwin_hf.inference.onnx import RUNTIMES, OnnxModel, is_exported, need
from winwin_hf.inference.predictor import Predictor
from winwin_hf.task import ARCHITECTURES, Task

QUANTISATIONS = ("fp16", "bf16", "int8")
ATTENTIONS = ("fused", "standard")
# (batch, rows, columns), in patches. No checked size is the traced one, but one batch is.
TRACED = (2, 4, 6)
CHECKED = ((1, 13, 21), (1, 24, 32), (1, 9, 40), (2, 10, 7))
TOLERANCE = 1e-4  # largest difference from PyTorch over the largest value, float32
# PyTorch itself computes attention in two ways (in blocks, or with all weights at once), which round differently. Sharp matching and
# refinement amplify this to more than 1e-4, so a difference of up to ROUNDINGS times theirs is allowed.
ROUNDINGS = 4
MIN_WEIGHTS = 1024  # smaller tensors are not quantised: it would save nothing


@dataclass
class Difference:
    """
    The difference of one output of one file from PyTorch's, at one size.

    Attributes:
        size: (batch, height, width). max, mean: of the absolute difference. largest: PyTorch's largest absolute value.
        rounding: the largest difference between PyTorch with fused and with plain attention.
    """

    file: str
    runtime: str
    size: tuple[int, int, int]
    output: str
    max: float
    mean: float
    largest: float
    rounding: float


@dataclass
class Exported:
    """The result of an export: the model folder, {"fp32": path, ...}, and the differences (none if it wasn't checked)."""

    folder: Path
    files: dict[str, Path]
    differences: list[Difference]


# ------------------------------------------------------------------ export


@unchanged_process()
def export(
    checkpoint: str | Path,
    output: str | Path,
    quantise: Sequence[str] = (),
    opset: int = 20,
    check: bool = True,
    attention: str = "fused",
    overwrite: bool = False,
) -> Exported:
    """
    Exports a checkpoint for optical flow, segmentation or depth to ONNX files.

    Args:
        checkpoint: a bundled name, a folder or a Hub repository.
        output: a new or empty folder, the checkpoint's own, or with `overwrite` that of an earlier export.
        quantise: items of `QUANTISATIONS` to write beside the float32 file.
        opset: of ONNX, 18 or newer. attention="standard" uses the operator `Attention` from 23 on.
        check: compare with PyTorch in ONNX Runtime and, if installed, OpenVINO, at four sizes and two batches.
        overwrite: replace the files of an earlier export in `output`.
    Raises:
        FileExistsError: `output` exists, and isn't to be or can't be replaced.
        ValueError: a checkpoint that can't be exported, or an unknown option.
        ImportError: the packages of `winwin-hf[export]` are missing.
        RuntimeError: the float32 file differs from PyTorch by more than `allowed`.
    """
    need("onnx", "onnxscript", *(["onnxruntime"] if check else []))
    check_options(quantise, opset, attention)
    output = Path(output)
    _check_output(checkpoint, output, overwrite)
    predictor = load(checkpoint)
    model, processor = predictor.model, predictor.processor
    # Of the checkpoint's own folder `onnx` alone is replaced; another one is replaced as a whole, unless a disk is mounted there.
    own = _same_folder(checkpoint, output)
    whole = not own and not os.path.ismount(output)
    with told_of(output), replacing_folder(output if whole else output / "onnx") as new:
        folder = new / "onnx" if whole else new
        folder.mkdir(exist_ok=True)
        check_room(output, sum(p.numel() for p in model.parameters()) * (4 + 2 * len(quantise)))
        files = {"fp32": "model.onnx"}
        trace(model, folder / "model.onnx", opset, attention)
        for how in dict.fromkeys(quantise):
            files[how] = f"model_{how}.onnx"
            quantise_weights(folder / "model.onnx", folder / files[how], how)
        description = describe(model, files, opset, attention)
        differences: list[Difference] = []
        _write_json(folder / "export.json", description)
        if check:
            model.config.save_pretrained(folder)  # for OnnxModel, while the folder is temporary
            for file in files.values():
                differences += compare(model, folder / file)
            (folder / "config.json").unlink()
            refuse_different(differences)
            _write_json(folder / "export.json", {**description, "check": [asdict(d) for d in differences]})
        if whole:
            _check_output(checkpoint, output, overwrite)  # another program may have made it
            _copy_others(output, new)
        if not own:
            beside = new if whole else output
            model.config.save_pretrained(beside)
            processor.save_pretrained(beside)
    return Exported(output, {how: output / "onnx" / file for how, file in files.items()}, differences)


def check_options(quantise: Sequence[str], opset: int, attention: str) -> None:
    """Raises ValueError for a value that these options can't have."""
    import onnx

    known: tuple[tuple[str, Any, tuple], ...] = tuple(("quantise", how, QUANTISATIONS) for how in quantise)
    for name, value, choices in (*known, ("attention", attention, ATTENTIONS)):
        if value not in choices:
            raise ValueError(f"{name} {value!r}: expected one of {', '.join(choices)}.")
    newest = onnx.defs.onnx_opset_version()
    if not 18 <= opset <= newest:
        raise ValueError(f"opset {opset}: expected 18 or newer, up to {newest} of this onnx.")


def load(checkpoint: str | Path) -> Predictor:
    """The network in float32, in evaluation mode, with SDPA, on the CPU. Raises ValueError for one that can't be exported."""
    if is_exported(checkpoint):
        raise ValueError(f"{checkpoint} is exported already; expected a checkpoint with PyTorch's weights.")
    predictor = Predictor.load(checkpoint, device="cpu", dtype=torch.float32, attention="sdpa")
    pattern = predictor.model.config.attention_pattern
    if pattern != "global":
        raise ValueError(
            f"{checkpoint} has attention_pattern={pattern!r}: how a frame divides into cells depends on its size, so no graph fits all "
            "sizes; expected 'global'."
        )
    return predictor


class Plain(nn.Module):
    """Wraps a model for the exporter: tensors in, a tuple of tensors out, in the order of its task's outputs."""

    def __init__(self, model: Any, fused: bool = False):
        super().__init__()
        self.model, self.fused = model, fused
        self.names = [name for name, _ in task_of(model).outputs]

    def forward(self, *views: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self.fused:
            with FusedAttention():
                outputs = self.model(*views)
        else:
            outputs = self.model(*views)
        return tuple(outputs[name] for name in self.names)


class FusedAttention(TorchFunctionMode):
    """Replaces every `scaled_dot_product_attention` in a traced graph by one `com.microsoft.MultiHeadAttention`."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        options = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention:
            return func(*args, **options)
        query, key, value = (
            args[i] if i < len(args) else options.pop(n) for i, n in enumerate(("query", "key", "value"))
        )
        scale = options.pop("scale", None)
        if len(args) > 3 or any(option not in (None, False, 0.0) for option in options.values()):
            raise NotImplementedError(f"attention with {options}: expected no mask, no dropout and not causal.")
        heads = query.shape[1]
        out = torch.onnx.ops.symbolic(
            "com.microsoft::MultiHeadAttention",
            tuple(
                x.transpose(1, 2).flatten(2) for x in (query, key, value)
            ),  # (B, heads, T, width) -> (B, T, heads * width)
            {"num_heads": heads, "scale": float(query.shape[-1] ** -0.5 if scale is None else scale)},
            dtype=query.dtype,
            shape=(query.shape[0], query.shape[2], heads * value.shape[-1]),
            version=1,
        )
        return out.unflatten(2, (heads, -1)).transpose(1, 2)


def trace(model: Any, path: Path, opset: int, attention: str) -> None:
    """Writes the graph of a model, for any batch, rows and columns of patches, to `path`."""
    import onnx

    task, patch = task_of(model), model.config.patch_size
    batch, rows, columns = TRACED
    views = tuple(torch.randn(batch, model.config.num_channels, rows * patch, columns * patch) for _ in task.inputs)
    dim = torch.export.Dim
    axes = {0: dim("batch"), 2: patch * dim("rows"), 3: patch * dim("columns")}
    with _silent(), torch.no_grad():
        program = torch.onnx.export(
            Plain(model, fused=attention == "fused").eval(),
            views,
            dynamo=True,
            verbose=False,
            opset_version=opset,
            dynamic_shapes=(tuple(axes for _ in views),),
            input_names=list(task.inputs),
            output_names=[name for name, _ in task.outputs],
        )
    assert program is not None
    program.save(path)
    # Above two gigabytes the weights lie beside the graph; they are left there.
    graph = onnx.load(path, load_external_data=False)
    for part in (graph, graph.graph, *graph.graph.node, *graph.graph.value_info, *graph.graph.initializer):
        part.ClearField("metadata_props")  # stack traces, with the paths of this machine
        part.ClearField("doc_string")
    onnx.save(graph, path)


def quantise_weights(source: Path, destination: Path, how: str) -> None:
    """
    Copies a graph with the weights of its matrix products and convolutions in fp16, bf16 or int8, cast to float32 before use.

    int8 is symmetric, with one scale for each output channel.
    """
    import ml_dtypes
    import onnx
    from onnx import helper, numpy_helper

    model = onnx.load(source)
    graph = model.graph
    weights = {w.name: w for w in graph.initializer if w.data_type == onnx.TensorProto.FLOAT}
    _fold_transposes(graph, weights)
    used_by = {}  # weight -> the axis of its output channels
    for node in graph.node:
        if len(node.input) > 1 and node.input[1] in weights:
            flags = {a.name: a.i for a in node.attribute}
            axis = {"MatMul": 1, "Conv": 0, "ConvTranspose": 1, "Gemm": 0 if flags.get("transB") else 1}.get(
                node.op_type
            )
            if axis is not None and math.prod(weights[node.input[1]].dims) >= MIN_WEIGHTS:
                used_by[node.input[1]] = axis
    nodes = []
    for name, axis in used_by.items():
        values = numpy_helper.to_array(weights[name])
        if how == "fp16" and np.abs(values).max() > np.finfo(np.float16).max:
            continue  # it would become infinite
        graph.initializer.remove(weights[name])
        stored = f"{name}.{how}"
        if how == "int8":
            others = tuple(i for i in range(values.ndim) if i != axis)
            scale = np.maximum(np.abs(values).max(axis=others), np.finfo(np.float32).tiny) / 127
            shape = [-1 if i == axis else 1 for i in range(values.ndim)]
            small = np.rint(values / scale.reshape(shape)).clip(-127, 127).astype(np.int8)
            graph.initializer.append(numpy_helper.from_array(scale.reshape(shape).astype(np.float32), f"{name}.scale"))
            # not DequantizeLinear, which ONNX Runtime computes for every input; these two it computes once, at the start
            nodes.append(helper.make_node("Cast", [stored], [f"{name}.steps"], to=onnx.TensorProto.FLOAT))
            nodes.append(helper.make_node("Mul", [f"{name}.steps", f"{name}.scale"], [name]))
        else:
            small = values.astype(np.float16 if how == "fp16" else ml_dtypes.bfloat16)
            nodes.append(helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
        graph.initializer.append(numpy_helper.from_array(small, stored))
    nodes += graph.node
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.save(model, destination)


def _fold_transposes(graph: Any, weights: dict[str, Any]) -> None:
    """Transposes the weights themselves where the graph transposes them, as it does for most linear layers."""
    from onnx import numpy_helper

    uses = [name for node in graph.node for name in node.input]
    for node in list(graph.node):
        if node.op_type == "Transpose" and node.input[0] in weights and uses.count(node.input[0]) == 1:
            old = weights.pop(node.input[0])
            order = next((list(a.ints) for a in node.attribute if a.name == "perm"), None)
            values = np.ascontiguousarray(numpy_helper.to_array(old).transpose(order))
            graph.initializer.remove(old)
            graph.node.remove(node)
            graph.initializer.append(numpy_helper.from_array(values, node.output[0]))
            weights[node.output[0]] = graph.initializer[-1]


def describe(model: Any, files: dict[str, str], opset: int, attention: str) -> dict[str, Any]:
    """The content of export.json: what a program needs to call the files."""
    task, patch, config = task_of(model), model.config.patch_size, model.config
    sides = ["batch", "height", "width"]
    shapes = {
        "flow": ["batch", 2, "height", "width"],
        "log_scale": sides,
        "predicted_depth": sides,
        "logits": ["batch", len(config.id2label or ()), "height", "width"],
    }
    packages = ("winwin-hf", "torch", "transformers", "onnx", "onnxscript", "onnxruntime", "openvino")
    return {
        "architecture": type(model).__name__,
        "task": task.name,
        "files": files,
        "inputs": {
            name: {"shape": ["batch", config.num_channels, "height", "width"], "dtype": "float32"}
            for name in task.inputs
        },
        "outputs": {name: {"shape": shapes[name], "dtype": "float32", "is": meaning} for name, meaning in task.outputs},
        "multiple_of": patch,  # height and width; the processor pads
        "opset": opset,
        "attention": attention,
        "versions": {name: found for name in packages if (found := _version(name))},
    }


# ------------------------------------------------------------------ comparing


@torch.inference_mode()
def compare(model: Any, path: Path) -> list[Difference]:
    """Differences of a file's outputs from PyTorch's, at each size of `CHECKED`, in every installed runtime."""
    patch, task = model.config.patch_size, task_of(model)
    cases = []
    for index, (batch, rows, columns) in enumerate(CHECKED):
        size = (batch, rows * patch, columns * patch)
        views = pictures(size, model.config.num_channels, seed=index)[: len(task.inputs)]
        ours = model(*views)
        with sdpa_kernel(SDPBackend.MATH):
            plain = model(*views)
        cases.append((size, views, [(name, ours[name].float(), plain[name].float()) for name, _ in task.outputs]))
    found = []
    for runtime in RUNTIMES:
        if runtime == "openvino" and not _version(runtime):
            continue
        exported = OnnxModel(path, runtime)
        for size, views, outputs in cases:
            theirs = exported(*views)
            for name, expected, plain in outputs:
                error = (getattr(theirs, name) - expected).abs()
                figures = (error.max(), error.mean(), expected.abs().max(), (plain - expected).abs().max())
                found.append(Difference(path.name, runtime, size, name, *map(float, figures)))
    return found


def allowed(difference: Difference) -> float:
    """The largest allowed difference of a float32 file's output from PyTorch's."""
    return max(TOLERANCE * max(1.0, difference.largest), ROUNDINGS * difference.rounding)


def refuse_different(differences: list[Difference]) -> None:
    """Raises RuntimeError for a float32 file with a difference above `allowed`. Quantised files may differ."""
    for d in differences:
        if d.file == "model.onnx" and not d.max <= allowed(d):
            batch, height, width = d.size
            raise RuntimeError(
                f"{d.output} by {d.runtime} differs from PyTorch by up to {d.max:.2e} (values up to {d.largest:.3g}; "
                f"{allowed(d):.2e} is allowed) at {batch} x {height} x {width}: nothing was written. --no-check writes it "
                "anyway."
            )


def pictures(size: tuple[int, int, int], channels: int = 3, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Two normalised views (B, C, H, W): a smooth random pattern with noise, and the same moved by (5, 3) pixels."""
    batch, height, width = size
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, channels, height // 8 + 1, width // 8 + 1, generator=generator)
    first = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=False)
    first = first + 0.2 * torch.randn(first.shape, generator=generator)
    return first, first.roll((3, 5), dims=(-2, -1)) + 0.05 * torch.randn(first.shape, generator=generator)


def show(exported: Exported) -> None:
    """Prints the files with their sizes, and each output's largest difference from PyTorch."""
    table = Table("file", "MB", "runtime", "output", "max diff.", "mean diff.", "up to", box=None)
    for path in exported.files.values():
        size = sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*")) / 1e6
        groups: dict[tuple[str, str], list[Difference]] = {}
        for d in exported.differences:
            if d.file == path.name:
                groups.setdefault((d.runtime, d.output), []).append(d)
        if not groups:
            table.add_row(path.name, f"{size:.1f}", *["-"] * 5)
        for (runtime, output), group in groups.items():
            worst = max(group, key=lambda d: d.max)
            mean = float(np.mean([d.mean for d in group]))
            table.add_row(
                path.name, f"{size:.1f}", runtime, output, f"{worst.max:.1e}", f"{mean:.1e}", f"{worst.largest:.3g}"
            )
    console = Console(markup=False, emoji=False)
    console.print(table)
    sizes = sorted({d.size for d in exported.differences})
    if sizes:
        console.print("batch x height x width: " + ", ".join("x".join(map(str, size)) for size in sizes))
    console.print(str(exported.folder / "onnx"), soft_wrap=True)


# ------------------------------------------------------------------ what the functions above share


def task_of(model: Any) -> Task:
    return ARCHITECTURES[type(model).__name__]


def _same_folder(checkpoint: str | Path, output: Path) -> bool:
    source = Path(bundled.resolve(str(checkpoint)))
    return source.is_dir() and source.resolve() == output.resolve()


def _check_output(checkpoint: str | Path, output: Path, overwrite: bool) -> None:
    """Raises FileExistsError where an export to `output` would replace something that isn't to be or can't be replaced."""
    if output.is_dir():
        remove_leftovers(output)  # of an export that was killed
    own = _same_folder(checkpoint, output)
    if (own and not (output / "onnx").exists()) or (output.is_dir() and not any(output.iterdir())):
        return
    check_output(output, overwrite, whole=False)
    if output.exists() and not own and any(output.glob("*.safetensors")):
        raise FileExistsError(
            f"{output} holds another model's weights, and is not overwritten; expected an export's folder"
        )


def _copy_others(output: Path, new: Path) -> None:
    """Copies what an earlier export's folder holds beside the export."""
    for path in output.iterdir() if output.is_dir() else ():
        if path.name not in ("onnx", "config.json", "preprocessor_config.json") and not path.name.startswith(".onnx-"):
            if path.is_dir() and not path.is_symlink():
                shutil.copytree(path, new / path.name, symlinks=True)
            else:
                shutil.copy2(path, new / path.name, follow_symlinks=False)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


@contextmanager
def _silent() -> Iterator[None]:
    """Hides the exporter's warnings about missing packages and axes that share a name."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
