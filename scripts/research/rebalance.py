"""
A segmentation checkpoint that gives its classes' weights back: no training, only other biases of the last layer.

Weights of classes in the loss (`semantic_loss_weights`) make a network find more of what is rare, and also find it where it isn't: its
probabilities are those of a world in which a class of weight w comes w times as often. `python scripts/research/rebalance.py MODEL OUT
--share 0.6` takes 0.6 log w from each class's logit (logit adjustment, Menon et al. 2021): 0 changes nothing, 1 is the world as the
training data shows it. Choose the share on frames that aren't scored afterwards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from winwin_hf import WinWinForSemanticSegmentation
from winwin_hf.cli.arguments import check_output_folder
from winwin_hf.cli.errors import one_line_errors
from winwin_hf.data.formats.files import replacing_folder
from winwin_hf.inference.loading import load_network, load_processor


def rebalance(model: WinWinForSemanticSegmentation, share: float) -> None:
    """
    Take `share` x log w from the logit of each class, in place.

    Raises: ValueError: the configuration has no `semantic_loss_weights`, or one of them is zero.
    """
    weights = model.config.semantic_loss_weights
    if not weights or min(weights) <= 0:
        raise ValueError(f"semantic_loss_weights={weights}: expected a weight above 0 of each class")
    head = model.head.layers
    last = head.projection if model.config.head_type == "linear" else head.out
    with torch.no_grad():  # a class has one channel for each pixel of a position, one class after the other
        last.bias.unflatten(0, (len(weights), -1)).sub_(share * torch.tensor(weights).log().to(last.bias)[:, None])


def main(
    checkpoint: Annotated[
        str, typer.Argument(metavar="MODEL", help="A network for segmentation: folder, bundled name or repository.")
    ],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    share: Annotated[float, typer.Option(min=-2, max=2, help="How much of the weights to give back.")],
) -> None:
    """Write MODEL with rebalanced classes to OUT."""
    check_output_folder("OUT", output)
    if output.exists():
        raise typer.BadParameter(f"{output}: exists; expected a new folder")
    model = load_network(checkpoint, dtype="auto")
    if not isinstance(model, WinWinForSemanticSegmentation):
        raise typer.BadParameter(f"{checkpoint}: a {type(model).__name__}; expected a WinWinForSemanticSegmentation")
    try:
        rebalance(model, share)
    except ValueError as error:
        raise typer.BadParameter(f"{checkpoint}: {error}") from None
    processor = load_processor(checkpoint)
    with replacing_folder(output) as staged:
        model.save_pretrained(staged)
        processor.save_pretrained(staged)


if __name__ == "__main__":
    typer.run(one_line_errors(main))
