"""What quantised layers cost in accuracy: scores of the bundled checkpoints, their differences from float32, and the size of their weights.

    python scripts/research/quantisation.py --flow middlebury:other=FOLDER --segmentation camvid:val=FOLDER --depth seven-scenes:val=FOLDER

Needs `pip install torchao bitsandbytes`; ways whose package is missing are left out. On a CPU. Prints a Markdown table.
"""

from __future__ import annotations

import io
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from accelerate import Accelerator
from torch import nn
from transformers import AutoModel, BitsAndBytesConfig, TorchAoConfig

sys.path.append(str(Path(__file__).resolve().parents[1]))

from research import pages
from winwin_hf import bundled
from winwin_hf.cli.errors import UsageError, misuse, one_line_errors
from winwin_hf.data.sources import open_source
from winwin_hf.evaluation.run import check_data, parse_data
from winwin_hf.evaluation.scoring import new_metric, score
from winwin_hf.inference.loading import quiet
from winwin_hf.inference.predictor import Predictor
from winwin_hf.task import DENSE, TASKS

# bitsandbytes packs 4 bits for a CPU only where inputs are a multiple of 64 channels and outputs one of 32
NARROW = ["head", "features", "fine_features", "refinement", "matching.no_match", "embed_match"]
WAYS = {
    "float32": "PyTorch, float32",
    "dynamic": "`torch.ao.quantization.quantize_dynamic`, int8",
    "torchao-weights": "torchao, int8 weights",
    "torchao-dynamic": "torchao, int8 weights and activations",
    "bitsandbytes-8": "bitsandbytes, 8 bits",
    "bitsandbytes-4": "bitsandbytes, 4 bits (nf4); head, refinement in float32",
}


def load(name: str, way: str) -> Any:
    """The bundled checkpoint `name`, quantised."""
    if way in ("float32", "dynamic"):
        model = AutoModel.from_pretrained(bundled.resolve(name), dtype=torch.float32, trust_remote_code=False)
        return model if way == "float32" else torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, torch.qint8)
    config: Any
    if way.startswith("torchao"):
        from torchao import quantization

        kind = "Int8WeightOnlyConfig" if way.endswith("weights") else "Int8DynamicActivationInt8WeightConfig"
        config = TorchAoConfig(getattr(quantization, kind)())
    elif way == "bitsandbytes-8":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=NARROW)
    source = bundled.resolve(name)
    return AutoModel.from_pretrained(
        source, quantization_config=config, device_map="cpu", dtype=torch.float32, trust_remote_code=False
    )


def megabytes(model: nn.Module) -> float:
    """The size of a model's weights, as they would be saved."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell() / 1e6


def difference(task: str, found: np.ndarray, expected: np.ndarray) -> float:
    """Mean difference of a prediction: pixels of flow, share of pixels with another label, metres."""
    if task == "optical-flow":
        return float(np.linalg.norm(found - expected, axis=0).mean())
    return float((found != expected).mean() if task == "semantic-segmentation" else np.abs(found - expected).mean())


def measure(task: str, data: str, length: int | None, ways: list[str]) -> dict[str, dict[str, Any]]:
    """Way -> megabytes, score and difference of the task's checkpoint; or the error that it stops with."""
    name, split, path = parse_data(data)
    source = open_source(name, path, split)
    predictor = Predictor.load(str(TASKS[task].checkpoint), device="cpu")
    expected: list[np.ndarray] = []
    table: dict[str, dict[str, Any]] = {}
    for way in ways:
        try:
            with quiet(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = load(str(TASKS[task].checkpoint), way).eval()
                found: list[np.ndarray] = []
                size = megabytes(model)  # before bitsandbytes packs its weights for the processor
                result = score(
                    replace(predictor, model=model),
                    source,
                    new_metric(source, labels=predictor.labels, synonyms=predictor.synonyms),
                    Accelerator(cpu=True),
                    length,
                    on_prediction=lambda _, values, found=found: found.append(values),
                )
        except (ImportError, RuntimeError, ValueError, AssertionError) as error:
            table[way] = {"error": str(error).splitlines()[0][:120]}
            continue
        expected = expected or found
        differences = [difference(task, *pair) for pair in zip(found, expected, strict=True)]
        figure = float(result.figures[TASKS[task].figure])
        table[way] = {"megabytes": size, "score": figure, "difference": float(np.mean(differences))}
    return table


def main(
    flow: Annotated[str | None, typer.Option(help="NAME[:SPLIT]=PATH of a data set.")] = None,
    segmentation: Annotated[str | None, typer.Option(help="The same.")] = None,
    depth: Annotated[str | None, typer.Option(help="The same.")] = None,
    length: Annotated[int | None, typer.Option(min=1, help="Examples of each set; default: all.")] = None,
    way: Annotated[list[str] | None, typer.Option(help=f"{', '.join(WAYS)}; repeatable. Default: all.")] = None,
) -> None:
    """Score the bundled checkpoints with each kind of quantised layers."""
    if flow is segmentation is depth is None:
        raise UsageError("expected --flow, --segmentation or --depth with a data set")
    for name in way or ():
        if name not in WAYS:
            raise UsageError(f"--way {name}: expected one of {', '.join(WAYS)}")
    with misuse():  # of all sets, before the first one is scored
        check_data([data for data in (flow, segmentation, depth) if data is not None], {}, length)
    ways = ["float32", *(name for name in way or WAYS if name != "float32")]
    chosen = {"optical-flow": flow, "semantic-segmentation": segmentation, "depth-estimation": depth}
    results = {task: measure(task, data, length, ways) for task in DENSE if (data := chosen[task]) is not None}
    columns, rows = ["layers"], [[WAYS[name]] for name in ways]
    for task, table in results.items():
        columns += [f"`{TASKS[task].checkpoint}`: MB", TASKS[task].figure, "difference"]
        for row, name in zip(rows, ways, strict=True):
            found = table[name]
            row += [found["error"], "", ""] if "error" in found else list(found.values())
    print(pages.table(columns, rows))


if __name__ == "__main__":
    typer.run(one_line_errors(main))
