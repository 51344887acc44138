"""
The mean of two checkpoints, one of which was fine-tuned from the other: what was learnt anew, with less of the old forgotten.

`python scripts/research/blend.py BEFORE AFTER OUT --share 0.5` writes (1 - share) BEFORE + share AFTER (Wortsman et al. 2022, robust
fine-tuning). The configuration and the image processor are BEFORE's. Choose the share on data that isn't scored afterwards.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from winwin_hf import WinWinPreTrainedModel
from winwin_hf.cli.arguments import check_output_folder
from winwin_hf.cli.errors import UsageError, one_line_errors
from winwin_hf.data.formats.files import replacing_folder
from winwin_hf.inference.loading import load_network, load_processor

# Fields of a configuration that the weights' meaning doesn't depend on: of training, and of records.
FREE = {
    "_name_or_path",
    "attention_dropout",
    "auto_map",
    "depth_edge_weight",
    "depth_error_weight",
    "drop_path_rate",
    "dtype",
    "flow_scale_penalty",
    "initializer_range",
    "label_synonyms",
    "mask_ratio",
    "matching_loss_weight",
    "semantic_label_groups",
    "semantic_loss_ignore_index",
    "semantic_loss_weights",
    "transformers_version",
}


def blended(before: WinWinPreTrainedModel, after: WinWinPreTrainedModel, share: float) -> dict[str, torch.Tensor]:
    """
    Weights by name, computed in float32 and in BEFORE's precision.

    Raises: ValueError: the networks' tensors differ in name or shape, or their configurations in what the weights mean.
    """
    old, new = before.state_dict(), after.state_dict()
    if differing := sorted(
        name
        for name in old.keys() | new.keys()
        if name not in old or name not in new or old[name].shape != new[name].shape
    ):
        raise ValueError(
            f"{differing[0]} is in one of both alone, or in another shape; expected networks of one architecture"
        )
    one, two = (model.config.to_diff_dict() for model in (before, after))
    for name in sorted(one.keys() | two.keys()):
        if name not in FREE and one.get(name) != two.get(name):
            raise ValueError(f"{name} is {one.get(name)} in one and {two.get(name)} in the other; expected the same")
    return {name: torch.lerp(old[name].float(), new[name].float(), share).to(old[name].dtype) for name in old}


def main(
    before: Annotated[str, typer.Argument(metavar="BEFORE", help="A network: folder, bundled name or repository.")],
    after: Annotated[str, typer.Argument(metavar="AFTER", help="The network fine-tuned from it.")],
    output: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    share: Annotated[float, typer.Option(min=0, max=1, help="AFTER's part of the mean.")] = 0.5,
) -> None:
    """Write the mean of BEFORE and AFTER to OUT."""
    check_output_folder("OUT", output)
    if output.exists():
        raise UsageError(f"{output}: exists; expected a new folder")
    old, new = (load_network(name, dtype="auto") for name in (before, after))
    if type(old) is not type(new):
        raise UsageError(f"{after}: a {type(new).__name__}; expected a {type(old).__name__}, as {before} is")
    try:
        old.load_state_dict(blended(old, new, share))
    except ValueError as error:
        raise UsageError(f"{before}, {after}: {error}") from None
    processor = load_processor(before)
    with replacing_folder(output) as staged:
        old.save_pretrained(staged)
        processor.save_pretrained(staged)


if __name__ == "__main__":
    typer.run(one_line_errors(main))
