"""New weights that no process holds whole are those of a model that is made as usual."""

import itertools
import subprocess
import sys

import pytest
import torch
from support.model_cases import SMALL, VARIANTS
from support.places import HANGS_AFTER, ROOT

from winwin_hf.model.configuration_winwin import WinWinConfig
from winwin_hf.training.build import MODELS
from winwin_hf.training.rows import Rows

# DINOv3's ViT-7B/16: facebook/dinov3-vit7b16-pretrain-lvd1689m, config.json
VIT_7B = {
    "hidden_size": 4096,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "mlp_ratio": 2.0,
    "use_gated_mlp": True,
    "qkv_bias": False,
    "num_prefix_tokens": 5,
    "layerscale_value": 1.0,
    "patch_size": 16,
}


def made(name: str, config: dict, rows: Rows | None = None):
    """A new model, and what is drawn after it."""
    torch.manual_seed(3)
    if rows is None:
        model = MODELS[name](WinWinConfig(**config))
    else:
        with rows.drawing():
            model = MODELS[name](WinWinConfig(**config))
    return model, torch.rand(2)


@pytest.mark.parametrize(
    ("name", "variant"),
    [pair for pair in itertools.product(MODELS, VARIANTS) if pair != ("WinWinForPreTraining", "vitdet")],  # refused
)
def test_rows_of_all_processes_are_the_usual_weights(name, variant):
    """Bit for bit, in three processes, which no tensor's rows are shared among evenly; the next random numbers too."""
    config = {**SMALL, **VARIANTS[variant]}
    usual, drawn = made(name, config)
    rows = [Rows(rank, 3) for rank in range(3)]
    models = [made(name, config, mine) for mine in rows]
    held = [mine.held for mine in rows]
    taken = [mine.taken(model) for mine, (model, _) in zip(rows, models, strict=True)]
    for model, after in models:
        assert torch.equal(after, drawn) and all(p.is_meta for p in model.parameters())
        assert not any(
            isinstance(value, torch.Tensor) and value.is_meta for m in model.modules() for value in vars(m).values()
        )
    for tensor_name, parameter in usual.named_parameters():
        assert torch.equal(torch.cat([part[tensor_name] for part in taken]), parameter), tensor_name
    assert sum(held) == sum(p.numel() * 4 for p in usual.parameters()) and max(held) < 0.4 * sum(held)
    assert rows[0].held == 0


def test_everything_is_as_before_afterwards():
    before = made("WinWinForDepthEstimation", {**SMALL, **VARIANTS["conv"]})[0].state_dict()
    with pytest.raises(ZeroDivisionError), Rows(0, 2).drawing():
        _ = 1 / 0
    after = made("WinWinForDepthEstimation", {**SMALL, **VARIANTS["conv"]})[0].state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert torch.nn.init.uniform_ is torch.nn.modules.linear.init.uniform_
    assert "fill_rows" not in torch.nn.init.uniform_.__name__


def test_a_tensor_that_nothing_fills_is_named():
    rows = Rows(0, 2)
    with rows.drawing():
        model = torch.nn.Linear(2, 2)
        model.register_parameter("scale", torch.nn.Parameter(torch.ones(2)))
    with pytest.raises(LookupError, match=r"^scale has no initial values"):
        rows.taken(model)


@pytest.mark.parametrize("world", [8, 64, 512])
def test_vit_7b_is_counted(world):
    """What docs/scale.md says of it: 6.7 G parameters, of which a process holds its share and one matrix at a time."""
    rows = Rows(0, world, draws=False)
    model, _ = made("WinWinForSemanticSegmentation", {**VIT_7B, "num_labels": 150}, rows)
    encoder = sum(p.numel() for p in model.winwin.parameters())
    assert encoder == 6_716_035_072 - 4096  # DINOv3's own number, less the token of its pre-training's masks
    total = 4 * sum(p.numel() for p in model.parameters())
    assert total / world <= rows.held <= 1.02 * total / world and rows.most == 4 * 4096 * 8192


PEAK = """
import torch
from winwin_hf import WinWinConfig, WinWinForDepthEstimation
from winwin_hf.training.log import peak_memory
from winwin_hf.training.rows import Rows
torch.set_num_threads(1)
config = WinWinConfig(hidden_size=768, num_hidden_layers=8, num_attention_heads=12, head_type="linear")
rows, before = Rows(1, 4), peak_memory()
with rows.drawing():
    model = WinWinForDepthEstimation(config)
size = 4 * sum(p.numel() for p in model.parameters())
print((peak_memory() - before) * 1e9 / size, (rows.held + rows.most) / size)
"""


@pytest.mark.cluster
def test_the_peak_of_memory_is_that_of_the_share():
    """As the system counts it, for 230 MB of weights in four parts: the part, a tensor at a time, and the modules themselves."""
    done = subprocess.run([sys.executable, "-c", PEAK], cwd=ROOT, capture_output=True, text=True, timeout=HANGS_AFTER)
    assert done.returncode == 0, done.stderr
    measured, counted = map(float, done.stdout.split())
    assert counted < 0.3 and measured < 0.5, done.stdout
