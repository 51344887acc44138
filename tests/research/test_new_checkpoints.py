"""Scripts that make a checkpoint of another: what is damaged is one line, and nothing is written."""

from __future__ import annotations

import pytest
import torch
import typer
from research import blend, deepen
from safetensors.torch import load_file, save_file
from support.model_cases import make
from typer.testing import CliRunner

from winwin_hf import WinWinImageProcessor
from winwin_hf.cli.errors import one_line_errors

SCRIPTS = {
    "deepen": (deepen.main, ["DAMAGED", "OUT", "--layers", "6"]),
    "blend, before": (blend.main, ["DAMAGED", "WHOLE", "OUT"]),
    "blend, after": (blend.main, ["WHOLE", "DAMAGED", "OUT"]),
}


@pytest.fixture
def whole(tmp_path):
    model = make("semantic-segmentation", "linear")
    model.save_pretrained(tmp_path / "whole")
    WinWinImageProcessor(patch_size=model.config.patch_size).save_pretrained(tmp_path / "whole")
    return tmp_path / "whole"


def damaged(whole, how):
    """A copy of the folder with one tensor that is missing, or isn't finite."""
    folder = whole.parent / "damaged"
    folder.mkdir()
    for path in whole.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith("o_proj.weight"))
    if how == "missing":
        del weights[name]
    else:
        weights[name][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize("how", ["missing", "nan"])
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_damaged_network_is_refused(script, how, whole):
    main, arguments = SCRIPTS[script]
    folders = {"DAMAGED": str(damaged(whole, how)), "WHOLE": str(whole), "OUT": str(whole.parent / "out")}
    app = typer.Typer()
    app.command()(one_line_errors(main))
    result = CliRunner().invoke(app, [folders.get(argument, argument) for argument in arguments])
    assert result.exit_code == 1 and "damaged" in result.stderr and "o_proj.weight" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert sorted(path.name for path in whole.parent.iterdir()) == ["damaged", "whole"]
