"""Exported files, run by ONNX Runtime or OpenVINO and called like the model that they were made of."""

from __future__ import annotations

import importlib
import importlib.util
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from winwin_hf.data.formats.files import decoding, read_json
from winwin_hf.inference.flow import MAPS, DensePrediction
from winwin_hf.inference.loading import load_config
from winwin_hf.model.layers_winwin import as_windows
from winwin_hf.model.losses_winwin import check_shape

RUNTIMES = ("onnxruntime", "openvino")
PROBED = 4  # sides, in patches, of the picture that a file is tried with


def is_exported(name: str | Path) -> bool:
    """Whether `name` is an ONNX file, a folder of such, or a model folder with no other weights."""
    path = Path(name)
    if path.suffix == ".onnx" or (path / "export.json").is_file():
        return True
    return (path / "onnx" / "export.json").is_file() and not any(path.glob("*.safetensors"))


class OnnxModel(nn.Module):
    """
    An exported file, called like the model that it was made of: pixels in, `DensePrediction` out, any size, on the CPU.

    Args:
        path: a .onnx file, or its folder, of which the float32 file is taken.
        runtime: "onnxruntime" or "openvino".
        threads: None: as many as PyTorch uses.
        precision: of OpenVINO: "f32", or "bf16" where the processor has it.
    Raises: FileNotFoundError: the file, its export.json or config.json is missing. ImportError: the runtime is missing.
    """

    def __init__(
        self, path: str | Path, runtime: str = "onnxruntime", threads: int | None = None, precision: str = "f32"
    ):
        super().__init__()
        path = Path(path)
        if path.is_dir():
            path = path / "model.onnx"
        for needed in (path, path.parent / "export.json"):
            if not needed.is_file():
                raise FileNotFoundError(f"{needed}: no such file; expected what `winwin export` writes.")
        if runtime not in RUNTIMES:
            raise ValueError(f"runtime {runtime!r}: expected one of {', '.join(RUNTIMES)}.")
        need(runtime)
        self.path, self.folder = path, _beside(path, "config.json")
        self.description = _description(path.parent / "export.json")
        self.config = load_config(self.folder)
        self.inputs, self.outputs = list(self.description["inputs"]), list(self.description["outputs"])
        threads = threads or torch.get_num_threads()
        start = _start_onnxruntime if runtime == "onnxruntime" else _start_openvino
        refuse_loops(path)
        with decoding(path, "ONNX file"):
            self.session = start(path, threads, precision)
        self.eval()
        self._check()

    def _check(self) -> None:
        """Raises ValueError where weights aren't finite, the file can't be run as export.json says, or makes NaN of a grey picture."""
        for name in infinite_weights(self.path):
            raise ValueError(f"{self.path}: {name} holds NaN or infinite values; expected finite ones")
        side = PROBED * self.config.patch_size
        grey = torch.zeros(1, self.config.num_channels, side, side)
        with decoding(self.path, "ONNX file"):
            maps = self(*[grey] * len(self.inputs))
        for name in self.outputs:
            if not getattr(maps, name).isfinite().all():
                raise ValueError(f"{self.path}: its {name} of a grey picture is not finite; expected finite weights")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def forward(self, pixel_values: torch.Tensor, second_pixel_values: torch.Tensor | None = None) -> DensePrediction:
        """(B, 3, H, W) float32 each, sides multiples of the patch."""
        views = [view for view in (pixel_values, second_pixel_values) if view is not None]
        if len(views) != len(self.inputs):
            raise ValueError(f"{self.path.name} takes {' and '.join(self.inputs)}; got {len(views)} of them.")
        for name, view in zip(self.inputs, views, strict=True):
            if view.ndim != 4:
                raise ValueError(f"{name} has shape {tuple(view.shape)}: expected whole images (B, C, H, W).")
            as_windows(view, None, self.config, name)  # raises for what the model itself would refuse
            check_shape(name, view, pixel_values.shape)
        feed = {name: view.detach().cpu().float().numpy() for name, view in zip(self.inputs, views, strict=True)}
        results = self.session(feed, self.outputs)
        maps: dict[str, Any] = {
            name: torch.from_numpy(np.array(value)) for name, value in zip(self.outputs, results, strict=True)
        }
        return DensePrediction(**maps)


def refuse_loops(path: Path) -> None:
    """Raises ValueError for an exported file with a node that may run without end; ours have none."""
    if not path.stat().st_size:
        return
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as graph:
        for kind in (b"Loop", b"Scan"):
            if graph.find(b'"' + bytes([len(kind)]) + kind) >= 0:  # a node's type, as protocol buffers write it
                raise ValueError(f"{path}: holds a {kind.decode()}, which may have no end; expected a graph without")


def infinite_weights(path: Path) -> Iterator[str]:
    """Names of an exported file's weights that hold NaN or infinity; none where `onnx` isn't installed."""
    if importlib.util.find_spec("onnx") is None:
        return
    import onnx
    from onnx import numpy_helper

    kinds = {getattr(onnx.TensorProto, kind) for kind in ("FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE")}
    with decoding(path, "ONNX file"):
        weights = [weight for weight in onnx.load(path).graph.initializer if weight.data_type in kinds]
        wrong = [w.name for w in weights if not np.isfinite(numpy_helper.to_array(w).astype(np.float32)).all()]
    yield from wrong


def _description(path: Path) -> dict[str, Any]:
    """The content of an export.json. Raises ValueError for another file."""
    description = read_json(path)
    if not (isinstance(description, dict) and {"architecture", "inputs", "outputs"} <= description.keys()):
        raise ValueError(f"{path}: expected architecture, inputs and outputs, as `winwin export` writes them")
    unknown = [name for name in description["outputs"] if name not in MAPS]
    if unknown or not description["inputs"]:
        raise ValueError(
            f"{path}: inputs {list(description['inputs'])} and outputs {list(description['outputs'])}; expected {list(MAPS)}"
        )
    return description


def _start_onnxruntime(path: Path, threads: int, precision: str) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = False  # it plans memory by the first size, and sizes change
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda feed, outputs: session.run(outputs, feed)


def _start_openvino(path: Path, threads: int, precision: str) -> Any:
    import openvino

    options = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # otherwise the inputs of int8 weights are quantised too
    }
    compiled = openvino.Core().compile_model(str(path), "CPU", options)

    def run(feed: dict[str, np.ndarray], outputs: list[str]) -> list[np.ndarray]:
        results = compiled(feed)
        return [results[name] for name in outputs]

    return run


def _beside(path: Path, name: str) -> Path:
    """The folder that holds `name` for an exported file: the model folder, or the file's own."""
    for folder in (path.parent.parent, path.parent):
        if (folder / name).is_file() and (folder != path.parent.parent or path.parent.name == "onnx"):
            return folder.resolve()
    raise FileNotFoundError(
        f"{path.parent.parent / name}: no such file; expected the model folder that `winwin export` wrote."
    )


def need(*packages: str) -> None:
    """Raises ImportError with the command that installs them where a package is missing."""
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(f"{package} is missing: pip install 'winwin-hf[export]' ({error}).") from None
