"""WinWinConfig: presets, derived values, and the errors that name what was wrong."""

from __future__ import annotations

import pytest
import torch
from support.model_cases import SMALL, VARIANTS
from transformers import AutoConfig

from winwin_hf import WinWinConfig, WinWinForOpticalFlow, WinWinForPreTraining, WinWinForSemanticSegmentation
from winwin_hf.model.configuration_winwin import PRESETS

SIZES = {  # millions of parameters: encoder, whole flow network; as the comment above PRESETS says
    "tiny": (1.9, 5.2),
    "small": (21.6, 37.5),
    "base": (85.6, 218.6),
    "large": (303.1, 436.2),
}


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_sizes_they_are_said_to_have(name):
    with torch.device("meta"):
        model = WinWinForOpticalFlow(WinWinConfig.from_preset(name))
    encoder, whole = (sum(p.numel() for p in m.parameters()) / 1e6 for m in (model.winwin, model))
    assert (round(encoder, 1), round(whole, 1)) == SIZES[name]
    assert name != "base" or 215 < whole < 235  # the paper's flow network has about 230 M


def test_base_and_large_are_the_published_networks():
    base, large = WinWinConfig.from_preset("base"), WinWinConfig.from_preset("large")
    assert (base.hidden_size, base.num_hidden_layers, base.num_attention_heads) == (768, 12, 12)
    assert (large.hidden_size, large.num_hidden_layers, large.num_attention_heads) == (1024, 24, 16)
    for config in (base, large):
        assert (config.decoder_hidden_size, config.decoder_num_hidden_layers) == (768, 12)
        assert config.patch_size == 16 and config.rope_theta == 100 and config.matching_stride is None
        assert config.patch_embedding == "linear" and config.position_embedding == "rope"


def test_presets_take_overrides():
    assert WinWinConfig.from_preset("tiny", patch_size=8).patch_size == 8
    with pytest.raises(ValueError, match=r"'huge': expected one of tiny, small, base, large"):
        WinWinConfig.from_preset("huge")


def test_taps():
    """CroCo-Flow's: the last decoder block, and equal steps down from it."""
    assert WinWinConfig().taps(binocular=True) == [11, 15, 19, 23]
    assert WinWinConfig.from_preset("large").taps(binocular=True) == [23, 27, 31, 35]
    assert WinWinConfig(num_hidden_layers=4, decoder_num_hidden_layers=8).taps(binocular=True) == [2, 5, 8, 11]
    assert WinWinConfig().taps(binocular=False) == [2, 5, 8, 11]
    assert WinWinConfig(head_taps=[0, 1, 2, 20]).taps(binocular=True) == [0, 1, 2, 20]


def test_global_blocks():
    assert WinWinConfig().global_blocks == set(range(12))
    assert WinWinConfig(attention_pattern="vitdet").global_blocks == {2, 5, 8, 11}
    assert WinWinConfig(attention_pattern="vitdet", global_attention_indices=[3]).global_blocks == {3}


def test_stem_sizes():
    assert WinWinConfig(hidden_size=256, num_attention_heads=4).stem_sizes == [32, 64, 128, 256]
    assert WinWinConfig(stem_hidden_sizes=[8, 16, 24]).stem_sizes == [8, 16, 24, 768]
    assert len(WinWinConfig(patch_size=8).stem_sizes) == 3


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (
            {"position_embedding": "alibi"},
            r"position_embedding='alibi': expected one of 'rope', 'rope_frame', 'rope_mixed', 'learned'",
        ),
        ({"position_embedding": "learned"}, "position_grid=None with position_embedding='learned'"),
        (
            {"position_grid": [4, 4], "position_embedding": "sincos"},
            r"position_grid=\[4, 4\] with position_embedding='sincos'",
        ),
        ({"rope_reference": [4, 4]}, r"rope_reference=\[4, 4\] with position_embedding='rope'"),
        (
            {"num_prefix_tokens": 1, "attention_pattern": "vitdet"},
            "num_prefix_tokens=1 with attention_pattern='vitdet'",
        ),
        ({"readout_type": "project", "head_type": "dpt"}, "readout_type='project' with num_prefix_tokens=0"),
        ({"drop_path_rate": 1.0}, "drop_path_rate=1.0"),
        ({"attention_dropout": 1.0}, "attention_dropout=1.0"),
        ({"label2id": {"a": 0, "b": 0}}, "label2id=.*each once"),
        ({"patch_size": 14}, "patch_size=14 with head_type='conv': expected a multiple of four"),
        ({"patch_embedding": "conv"}, r"patch_embedding='conv': expected one of 'linear', 'conv_stem'"),
        ({"attention_pattern": "swin"}, "attention_pattern='swin'"),
        ({"head_type": "fpn"}, "head_type='fpn'"),
        (
            {"patch_size": 12, "patch_embedding": "conv_stem"},
            "patch_size=12 with .*expected 4 or more, and a power of two",
        ),
        ({"patch_size": 2}, "patch_size=2"),
        ({"num_attention_heads": 7}, "hidden_size=768 with num_attention_heads=7"),
        ({"hidden_size": 24, "num_attention_heads": 4}, "hidden_size=24 with num_attention_heads=4.*multiple of four"),
        ({"decoder_num_attention_heads": 0}, "decoder_hidden_size=768 with decoder_num_attention_heads=0"),
        ({"decoder_attention_tokens": 1}, "decoder_attention_tokens=1: expected 2 or more"),
        ({"stem_hidden_sizes": [8, 16]}, "stem_hidden_sizes=.*expected 3 sizes"),
        ({"dpt_layer_sizes": [8, 16, 32]}, "dpt_layer_sizes"),
        ({"head_taps": [1, 2, 3]}, "head_taps"),
        ({"head_taps": [1, 3, 2, 4]}, "head_taps.*ascending"),
        ({"head_taps": [1, 2, 3, 24]}, "head_taps.*24 blocks"),
        ({"attention_pattern": "vitdet", "global_attention_indices": [12]}, "global_attention_indices"),
        ({"attention_pattern": "vitdet", "global_attention_indices": [3, 3]}, "global_attention_indices.*different"),
        ({"initializer_range": 0}, "initializer_range=0"),
        ({"attention_cell_size": 0}, "attention_cell_size"),
        ({"min_depth": 0.0}, "min_depth"),
        ({"min_depth": 20.0}, "min_depth"),
        ({"min_flow_scale": 5.0}, "min_flow_scale"),
        ({"mask_ratio": 1.0}, "mask_ratio"),
        ({"matching_stride": 8}, "matching_stride=8 with patch_embedding='linear'"),
        ({"matching_stride": 2, "patch_embedding": "conv_stem"}, r"expected one of \[8, 4\]"),
        ({"matching_stride": 8, "patch_embedding": "conv_stem", "head_type": "dpt"}, "matching with head_type='dpt'"),
        ({"matching_stride": 8, "patch_embedding": "conv_stem", "matching_size": 30}, "matching_size=30"),
        ({"hidden_szie": 384}, "hidden_szie.*did you mean hidden_size"),
        ({"match_stride": 8}, "match_stride.*did you mean matching_stride"),
        ({"decoder_num_layers": 8}, "decoder_num_layers.*did you mean decoder_num_hidden_layers"),
    ],
)
def test_errors_name_the_field(wrong, says):
    with pytest.raises(Exception, match=f"(?s){says}"):  # `strict` wraps what a validator raises
        WinWinConfig(**wrong)


def test_wrong_types_are_errors():
    with pytest.raises(Exception, match="hidden_size"):
        WinWinConfig(hidden_size="768")


def test_transformers_own_keywords_are_no_typos():
    config = WinWinConfig(
        num_labels=3,
        out_features=["stem"],
        output_attentions=True,
        attn_implementation="eager",
        return_dict=False,
        dtype="bfloat16",
    )
    assert config.num_labels == 3 and config.out_indices == [0]


def test_a_saved_config_comes_back(tmp_path):
    config = WinWinConfig.from_preset(
        "tiny",
        patch_embedding="conv_stem",
        matching_stride=8,
        num_labels=7,
        stem_hidden_sizes=(16, 32, 64),
        out_indices=[1, 3],
    )
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert isinstance(loaded, WinWinConfig)
    saved = {k: list(v) if isinstance(v, tuple) else v for k, v in config.to_dict().items()}
    assert {**loaded.to_dict(), "_name_or_path": ""} == saved
    assert loaded.stem_sizes == config.stem_sizes and loaded.out_features == ["stage1", "stage3"]


def test_a_config_of_another_version_loads(tmp_path):
    """A field that a later version may add, even one that looks like a typo of ours."""
    config = WinWinConfig.from_preset("tiny")
    config.head_hidden_sizes = [1, 2]
    config.save_pretrained(tmp_path)
    assert WinWinConfig.from_pretrained(tmp_path).head_hidden_sizes == [1, 2]


def test_class_weights_fit_the_labels():
    weights = {"num_labels": 3, "semantic_loss_weights": [1.0, 2.0]}
    with pytest.raises(ValueError, match="2 entries: expected one for each of 3"):
        WinWinForSemanticSegmentation(WinWinConfig.from_preset("tiny", **weights))
    with pytest.raises(Exception, match="none negative"):
        WinWinConfig(semantic_loss_weights=[1.0, -1.0])


@pytest.mark.parametrize(
    ("kind", "wrong", "says"),
    [
        (WinWinForOpticalFlow, {"decoder_num_hidden_layers": 0}, "decoder_num_hidden_layers=0: without matching"),
        (WinWinForPreTraining, {"decoder_num_hidden_layers": 0}, "decoder_num_hidden_layers=0: without matching"),
        (WinWinForPreTraining, {"attention_pattern": "vitdet"}, "attention_pattern='vitdet': pre-training drops"),
    ],
)
def test_networks_of_two_views_see_both(kind, wrong, says):
    with pytest.raises(ValueError, match=says):
        kind(WinWinConfig(**{**SMALL, **wrong}))


def test_matching_needs_no_decoder():
    WinWinForOpticalFlow(WinWinConfig(**{**SMALL, **VARIANTS["matching"], "decoder_num_hidden_layers": 0}))
