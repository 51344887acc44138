"""
A checkpoint with more encoder layers that gives the same answers, to go on training from.

`python scripts/research/deepen.py MODEL OUT --layers 8` puts copies behind the layers of MODEL, evenly spread. Both branches of a copy
end in zeros, so at first it adds nothing (as in LLaMA Pro, Wu et al. 2024); training wakes it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from winwin_hf import WinWinConfig
from winwin_hf.cli.arguments import check_output_folder
from winwin_hf.cli.errors import UsageError, one_line_errors
from winwin_hf.data.formats.files import replacing_folder
from winwin_hf.inference.loading import load_network, load_processor

ENCODER = "winwin.layers."
ENDS = ("attention.o_proj.", "mlp.down_proj.")  # of a layer's branches
BY_NUMBER = ("head_taps", "global_attention_indices")  # fields that name layers
DERIVED = ("stage_names", "out_features", "out_indices")  # from the number of layers


def origins(old: int, new: int) -> list[tuple[int, bool]]:
    """For each of `new` layers: which of the `old` ones it is made of, and whether it is a copy, which adds nothing yet."""
    layers = [n * old // new for n in range(new)]
    return [(layer, n > 0 and layers[n - 1] == layer) for n, layer in enumerate(layers)]


def deepened(weights: dict[str, torch.Tensor], old: int, new: int) -> dict[str, torch.Tensor]:
    """Weights by name of a network with `old` layers, as those of one with `new` layers."""
    found = {name: tensor for name, tensor in weights.items() if not name.startswith(ENCODER)}
    for layer, (origin, copy) in enumerate(origins(old, new)):
        prefix = f"{ENCODER}{origin}."
        for name, tensor in weights.items():
            if name.startswith(prefix):
                rest = name.removeprefix(prefix)
                found[f"{ENCODER}{layer}.{rest}"] = (
                    torch.zeros_like(tensor) if copy and rest.startswith(ENDS) else tensor.clone()
                )
    return found


def main(
    checkpoint: Annotated[
        str, typer.Argument(metavar="MODEL", help="A network for a task: folder, bundled name or repository.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    layers: Annotated[int, typer.Option(min=1, help="Encoder layers of the result; more than MODEL has.")],
) -> None:
    """Write MODEL with more encoder layers to OUT."""
    check_output_folder("OUT", output)
    model = load_network(checkpoint, dtype="auto")
    if not any(name.startswith(ENCODER) for name in model.state_dict()):
        raise UsageError(
            f"{checkpoint}: a {type(model).__name__}; expected a network for a task of this package, such as winwin-depth"
        )
    old, fields = model.config.num_hidden_layers, model.config.to_dict()
    if layers <= old or output.exists():
        raise UsageError(
            f"{output}: exists; expected a new folder"
            if output.exists()
            else f"--layers {layers}: expected more than {old}"
        )
    if named := [name for name in BY_NUMBER if fields.get(name) is not None]:
        raise UsageError(f"{checkpoint}: its {named[0]} names layers by number; expected a network without")
    fields = {name: value for name, value in fields.items() if name not in DERIVED}
    result = type(model)(WinWinConfig(**{**fields, "num_hidden_layers": layers})).to(model.dtype)
    result.load_state_dict(deepened(model.state_dict(), old, layers))
    processor = load_processor(checkpoint)
    with replacing_folder(output) as staged:
        result.save_pretrained(staged)
        processor.save_pretrained(staged)


if __name__ == "__main__":
    typer.run(one_line_errors(main))
