"""WinWinConfig: every architectural choice of the Win-Win models, its meaning beside it.

Notable:
- one config for all tasks. A task ignores the fields that it doesn't use (the decoder in segmentation, the depth range in flow).
- `WinWinConfig.from_preset("base")` gives the sizes of the paper; `PRESETS` lists them.
- what the paper does not say is ours and marked so.
"""

import math
import re
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.backbone_utils import BackboneConfigMixin
from transformers.utils import logging

logger = logging.get_logger(__name__)

VERSION = "0.1.0"  # of the package, whose modules this one must not import: it travels with the weights

# Encoder parameters / parameters of the whole flow network (tests/model/test_configuration.py counts them):
# tiny 1.9 M / 5.2 M, small 21.6 M / 37.5 M, base 85.6 M / 218.6 M (the paper's flow network), large 303.1 M / 436.2 M (CroCo v2's).
PRESETS: dict[str, dict] = {
    "tiny": {
        "hidden_size": 192,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "decoder_hidden_size": 192,
        "decoder_num_hidden_layers": 4,
        "decoder_num_attention_heads": 3,
        "head_hidden_size": 192,
    },
    "small": {
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "decoder_hidden_size": 384,
        "decoder_num_hidden_layers": 6,
        "decoder_num_attention_heads": 6,
    },
    "base": {"head_type": "dpt"},
    "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "head_type": "dpt"},
}


# Lowest and highest value of every number, of a list for each of its numbers. The highest are far beyond any network that was trained.
# A config may come from anybody, so they are checked before anything as large as a value is made.
RANGES: dict[str, tuple[float, float]] = {
    "patch_size": (1, 512),
    "num_channels": (1, 4096),
    "hidden_size": (1, 65_536),
    "num_hidden_layers": (1, 1000),
    "num_attention_heads": (0, 4096),
    "decoder_hidden_size": (1, 65_536),
    "decoder_num_hidden_layers": (0, 1000),
    "decoder_num_attention_heads": (0, 4096),
    "decoder_attention_tokens": (1, 10**9),
    "mlp_ratio": (0.001, 10_000),
    "layer_norm_eps": (0, 1),
    "layerscale_value": (-1e6, 1e6),
    "drop_path_rate": (0, 1),
    "num_prefix_tokens": (0, 4096),
    "attention_dropout": (0, 1),
    "initializer_range": (1e-9, 100),
    "position_grid": (1, 4096),
    "rope_reference": (1, 65_536),
    "rope_offset": (-65_536, 65_536),
    "rope_theta": (1e-3, 1e12),
    "stem_hidden_sizes": (1, 65_536),
    "attention_cell_size": (0, 65_536),
    "global_attention_indices": (0, 1000),
    "head_hidden_size": (1, 65_536),
    "head_num_layers": (0, 1000),
    "dpt_layer_sizes": (1, 65_536),
    "dpt_hidden_size": (2, 65_536),
    "head_taps": (0, 2000),
    "matching_stride": (1, 512),
    "matching_size": (1, 4096),
    "min_matching_sigma": (0, 1e6),
    "matching_loss_weight": (0, 1e6),
    "refinement_sizes": (1, 4096),
    "refinement_iterations": (0, 1000),
    "min_depth": (1e-6, 1e9),
    "max_depth": (1e-6, 1e9),
    "depth_error_weight": (0, 1e9),
    "depth_edge_weight": (0, 1e9),
    "min_flow_scale": (0, 1e9),
    "max_flow_scale": (0, 1e9),
    "flow_scale_penalty": (0, 1e6),
    "semantic_loss_ignore_index": (-(2**31), 2**31),
    "semantic_loss_weights": (-1, 1e9),
    "semantic_label_groups": (0, 100_000),
    "mask_ratio": (0, 1),
}
MAX_LABELS = 100_000  # ImageNet-21k has 21,841
MAX_LIST = 100_000  # values of one field
MAX_PARAMETERS = 30 * 10**9  # of the whole network; the largest ViT that was trained has 22 billion


def in_range(field: str, value: Any, low: float, high: float) -> None:
    """Raises ValueError for a number outside, NaN among them."""
    if not low <= value <= high:
        shown = repr(value) if isinstance(value, float) or abs(value) < 10**30 else "a number of more than 30 digits"
        raise ValueError(f"{field}={shown}: expected {low:,} to {high:,}.")


def _by_id(field: str, labels: dict, name_first: bool = False) -> dict[int, Any]:
    """id2label, or label2id (`name_first`), as name by id."""
    pairs = [(key, name) for name, key in labels.items()] if name_first else list(labels.items())
    try:
        named = {int(key): name for key, name in pairs}
        if len(named) < len(pairs):
            raise ValueError
    except (TypeError, ValueError, OverflowError):
        named = None
    if named is None or not all(isinstance(name, str) for name in named.values()):
        raise ValueError(f"{field}={str(labels)[:80]}: expected whole numbers as ids, each once, and text as names.")
    return named


def agreed_labels(
    num_labels: int | None = None, id2label: dict | None = None, label2id: dict | None = None
) -> dict[int, str]:
    """
    Name of each class by its id, in the order of the ids, from those of the three that are given. Without any: two classes.

    Raises: ValueError where they disagree, an id is left out or a name stands twice.
    """
    for field, value in (("id2label", id2label), ("label2id", label2id)):
        if not isinstance(value, dict | None):
            raise ValueError(f"{field}={value!r}: expected a dict.")
    if num_labels is not None:
        in_range("num_labels", num_labels, 1, MAX_LABELS)
    # JSON has strings for the ids, and so have many scripts, in both directions.
    named = None if id2label is None else _by_id("id2label", id2label)
    by_name = None if label2id is None else _by_id("label2id", label2id, name_first=True)
    names = named if named is not None else by_name
    if names is None:
        names = {i: f"LABEL_{i}" for i in range(2 if num_labels is None else num_labels)}
    if num_labels is not None and num_labels != len(names):
        given = "id2label" if named is not None else "label2id"
        raise ValueError(f"num_labels={num_labels} with {given} of {len(names)} classes: expected the same number.")
    if not names or sorted(names) != list(range(len(names))):
        raise ValueError(f"labels with the ids {sorted(names)}: expected 0, 1, and so on, at least one.")
    if len(set(names.values())) < len(names):
        twice = next(name for i, name in names.items() if name in list(names.values())[:i])
        raise ValueError(f"id2label names {twice!r} twice: expected one name a class.")
    if by_name is not None and by_name != names:
        raise ValueError(f"id2label={id2label} and label2id={label2id} disagree: one of them is enough.")
    return dict(sorted(names.items()))


def numbers(version: Any) -> list[int]:
    """ "0.2.0rc1" -> [0, 2, 0]; nothing of what isn't a version."""
    return [int(number) for number in re.findall(r"\d+", str(version))[:3]]


@strict
class WinWinConfig(BackboneConfigMixin, PreTrainedConfig):
    r"""
    Configuration of every Win-Win model. The defaults are the paper's ViT-Base sizes with a convolutional head.

    Args:
        patch_size (`int`, defaults to 16):
            Side of a patch in pixels; with `head_type="conv"` a multiple of four, with a convolutional stem a power of two.
        num_channels (`int`, defaults to 3):
            Channels of an image.
        hidden_size, num_hidden_layers, num_attention_heads (`int`, default to 768, 12, 12):
            Width, blocks and heads of the encoder. A head's width must be a multiple of four (RoPE turns pairs in two halves).
        decoder_hidden_size, decoder_num_hidden_layers, decoder_num_attention_heads (`int`, default to 768, 12, 12):
            The same of the binocular decoder (optical flow and pre-training).
        decoder_attention_tokens (`int`, *optional*):
            Number of tokens that the decoder's self-attention was trained on. With more, as in a whole frame, attention would spread over
            everything far away; its logits are then multiplied by the ratio of the logarithms of both numbers (ours for Win-Win, as Su 2021
            and Chiang & Cholak 2022 do for text). `None`: no scaling.
        mlp_ratio (`float`, defaults to 4.0):
            Width of a block's MLP over the block's width, in encoder and decoder.
        hidden_act (`str`, defaults to `"gelu"`):
            Activation of the MLPs.
        layer_norm_eps (`float`, defaults to 1e-6):
            Epsilon of every layer norm.
        qkv_bias (`bool`, defaults to `True`):
            Whether query, key and value projections have a bias.
        key_bias (`bool`, defaults to `True`):
            With `qkv_bias`: whether the encoder's key projections have one too. DINOv3's have none.
        use_gated_mlp (`bool`, defaults to `False`):
            Whether the encoder's MLPs are gated (SwiGLU): DINOv2 giant, DINOv3's plus sizes, EVA-02.
        mlp_norm, attention_norm (`bool`, default to `False`):
            Whether a norm stands before the last projection of the encoder's MLPs (EVA-02 base and large) and of its attention
            (EVA-02 CLIP).
        embedding_norm, final_norm (`bool`, default to `False` and `True`):
            Whether a norm stands before the encoder's first block (Perception Encoder) and after its last (all but Perception Encoder's
            spatial and lang).
        layerscale_value (`float`, *optional*):
            First value of a learnt scale for each channel of the encoder blocks' residuals (DINOv2, DINOv3). `None`: no scale.
        drop_path_rate (`float`, defaults to 0.0):
            Probability in training that the last encoder block's residuals are dropped; it grows linearly from zero at the first.
        num_prefix_tokens (`int`, defaults to 0):
            Learnt tokens before the patches, which have no position: a class token, then registers. They attend with the tokens of
            all windows. ViT, MAE and DINOv2 have 1, DINOv2 with registers and DINOv3 5.
        attention_dropout (`float`, defaults to 0.0):
            Dropout of the attention weights in training.
        initializer_range (`float`, defaults to 0.02):
            Standard deviation of the truncated normal that initialises linear and convolution weights.
        position_embedding (`str`, defaults to `"rope"`):
            `"rope"`: rotary embedding of (row, column), relative. `"rope_frame"`: of coordinates from -1 to 1 over the frame
            (DINOv3), or scaled to `rope_reference`. `"rope_mixed"`: relative, by frequencies of row and column together that each head
            of each block learns (RoPE-mixed, Heo et al. 2024). `"learned"`: a table of `position_grid` cells, resized to the frame and
            added to the patches (ViT, MAE, DINOv2, SigLIP). `"sincos"`: a fixed absolute embedding added to the patches, the paper's
            counter-example. With `"rope_frame"` and with a table, windows need `frame_sizes`. A decoder has `"rope"`, or `"sincos"` if
            the encoder has.
        position_grid (`list[int]`, *optional*):
            Rows and columns of the learnt table of positions; beside RoPE too (EVA-02, Perception Encoder).
        position_antialias (`bool`, defaults to `False`):
            Whether the table is resized with torch's `antialias` (DINOv2 with registers, timm's encoders).
        rope_reference (`list[int]`, *optional*), rope_offset (`float`, defaults to 0.0):
            With `"rope_frame"`: the patch p of a frame of n patches turns by (p + `rope_offset`) / n * `rope_reference`, for rows and
            columns each (EVA-02, Perception Encoder). `None`: as in DINOv3.
        rope_theta (`float`, defaults to 100.0):
            Base of the rotary frequencies; with `"rope_mixed"` of the first ones. A decoder has it where the encoder's positions are
            `"rope"`, else 100.
        patch_embedding (`str`, defaults to `"linear"`):
            `"linear"`: one projection a patch, as in the paper. `"conv_stem"`: stacked stride-2 convolutions, within each
            window (ours).
        stem_hidden_sizes (`list[int]`, *optional*):
            Channels after each stride-2 convolution of the stem but the last, which has `hidden_size`. Default: `hidden_size` halved
            at each step towards the image.
        attention_pattern (`str`, defaults to `"global"`):
            `"global"`: every token sees all tokens. `"vitdet"`: most encoder blocks attend within cells of
            `attention_cell_size` patches, the baseline of the paper's figure 1 (Li et al. 2022).
        attention_cell_size (`int`, defaults to 14):
            Side of those cells in patches, counted from each window's own corner.
        global_attention_indices (`list[int]`, *optional*):
            Encoder blocks that stay global under `"vitdet"`. Default: the last of each quarter of the blocks.
        head_type (`str`, defaults to `"conv"`):
            `"conv"`: ConvNeXt blocks and pixel shuffles. `"linear"`: one projection a token. `"dpt"`: Ranftl et al. 2021, four
            blocks' tokens fused, CroCo-Flow's head.
        head_hidden_size (`int`, defaults to 256):
            Channels of the convolutional head at the tokens' stride; halved at each of its two up-samplings.
        head_num_layers (`int`, defaults to 2):
            ConvNeXt blocks of the convolutional head at the tokens' stride.
        dpt_layer_sizes (`list[int]`, defaults to `[96, 192, 384, 768]`), dpt_hidden_size (`int`, defaults to 256):
            Channels of the DPT head's four levels and of their fusion.
        readout_type (`str`, defaults to `"ignore"`):
            `"project"`: the DPT head projects each encoder token together with the class token, the first prefix token (Ranftl et al.
            2021). `"ignore"`: it reads the patches alone.
        apply_layernorm (`bool`, defaults to `False`):
            Whether the encoder's final norm applies to all blocks that the DPT head or the backbone reads, as in DINOv2's and DINOv3's
            heads; else to the last block only.
        head_taps (`list[int]`, *optional*):
            The four blocks the DPT head reads, counted through encoder and then decoder. Default: for flow the last encoder block and
            three equally spaced decoder blocks, else the last of each quarter of the encoder.
        matching_stride (`int`, *optional*):
            Pixels between the positions that are matched across the two frames by an explicit attention (ours). `None`: no matching,
            as in the paper. Needs `patch_embedding="conv_stem"`.
        matching_size (`int`, defaults to 64):
            Channels of the features that are matched; a multiple of four.
        min_matching_sigma (`float`, defaults to 1.0):
            Least width of the global matching's learnt prior over displacements, in positions of its stride. A narrower prior is learnt
            quickly from small motions and can't see large ones.
        matching_loss_weight (`float`, defaults to 0.5):
            Weight of the auxiliary losses on the matching, in training.
        refinement_sizes (`list[int]`, defaults to `[]`):
            With matching: channels of the features by which the flow is refined, at half the matching's stride, a quarter of it, and so on
            (ours). Empty: no refinement.
        refinement_iterations (`int`, defaults to 1):
            Number of times that the flow is refined at each of those strides, with the same weights.
        min_depth, max_depth (`float`, default to 0.1 and 10.0):
            Range of the predicted depth in metres; the network's output is linear in the logarithm of depth.
        depth_error (`bool`, defaults to `False`):
            Whether the depth head also predicts the relative error that it expects at each pixel (ours).
        depth_error_weight (`float`, defaults to 0.1):
            Weight of that in the loss; no gradient of it reaches the depth itself.
        depth_edge_weight (`float`, defaults to 0.0):
            Weight in the depth loss of differences between neighbours, which makes edges sharp.
        min_flow_scale, max_flow_scale (`float`, default to 0.25 and 4.0):
            Bounds in pixels of the Laplacian's scale in the flow loss (CroCo-Flow).
        flow_scale_penalty (`float`, defaults to 0.0):
            Weight in the flow loss of a penalty that brings the raw channel of the scale back from its bounds, where the loss has no
            gradient (ours).
        semantic_loss_ignore_index (`int`, defaults to 255):
            Label of pixels that the segmentation loss leaves out.
        semantic_loss_weights (`list[float]`, *optional*):
            Weight of each class in the segmentation loss, in the order of the labels. Default: all alike. Other labels drop the weights
            of those before, with a warning.
        semantic_label_groups (`list[list[int]]`, *optional*):
            Classes of which any is right, for pixels that a data set doesn't tell apart: the label `num_labels + n` is the group n (ours).
        label_synonyms (`dict[str, list[str]]`, *optional*):
            What data sets call a class, or something that it is a part of; by these names the network is scored on their classes (ours).
        num_labels (`int`, *optional*), id2label (`dict[int, str]`, *optional*), label2id (`dict[str, int]`, *optional*):
            The classes of segmentation. One of them is enough; `id2label` and `label2id` always agree.
        mask_ratio (`float`, defaults to 0.9):
            Share of the first view's tokens that pre-training hides if no mask is given (CroCo v2).
        out_features (`list[str]`, *optional*), out_indices (`list[int]`, *optional*):
            What `WinWinBackbone` returns: names among `"stem"`, `"stage1"`, ... or their indices.

    Example:

    ```python
    >>> from winwin_hf import WinWinConfig, WinWinForOpticalFlow

    >>> model = WinWinForOpticalFlow(WinWinConfig.from_preset("tiny"))
    ```"""

    model_type = "winwin"

    patch_size: int = 16
    num_channels: int = 3
    hidden_size: int = 768
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    decoder_hidden_size: int = 768
    decoder_num_hidden_layers: int = 12
    decoder_num_attention_heads: int = 12
    decoder_attention_tokens: int | None = None
    mlp_ratio: float | int = 4.0
    hidden_act: str = "gelu"
    layer_norm_eps: float | int = 1e-6
    qkv_bias: bool = True
    key_bias: bool = True
    use_gated_mlp: bool = False
    mlp_norm: bool = False
    attention_norm: bool = False
    embedding_norm: bool = False
    final_norm: bool = True
    layerscale_value: float | int | None = None
    drop_path_rate: float | int = 0.0
    num_prefix_tokens: int = 0
    attention_dropout: float | int = 0.0
    initializer_range: float | int = 0.02
    position_embedding: str = "rope"
    position_grid: list[int] | tuple[int, ...] | None = None
    position_antialias: bool = False
    rope_reference: list[int] | tuple[int, ...] | None = None
    rope_offset: float | int = 0.0
    rope_theta: float | int = 100.0
    patch_embedding: str = "linear"
    stem_hidden_sizes: list[int] | tuple[int, ...] | None = None
    attention_pattern: str = "global"
    attention_cell_size: int = 14
    global_attention_indices: list[int] | tuple[int, ...] | None = None
    head_type: str = "conv"
    head_hidden_size: int = 256
    head_num_layers: int = 2
    dpt_layer_sizes: list[int] | tuple[int, ...] = (96, 192, 384, 768)
    dpt_hidden_size: int = 256
    readout_type: str = "ignore"
    apply_layernorm: bool = False
    head_taps: list[int] | tuple[int, ...] | None = None
    matching_stride: int | None = None
    matching_size: int = 64
    min_matching_sigma: float | int = 1.0
    matching_loss_weight: float | int = 0.5
    refinement_sizes: list[int] | tuple[int, ...] = ()
    refinement_iterations: int = 1
    min_depth: float | int = 0.1
    max_depth: float | int = 10.0
    depth_error: bool = False
    depth_error_weight: float | int = 0.1
    depth_edge_weight: float | int = 0.0
    min_flow_scale: float | int = 0.25
    max_flow_scale: float | int = 4.0
    flow_scale_penalty: float | int = 0.0
    semantic_loss_ignore_index: int = 255
    semantic_loss_weights: list[float | int] | tuple[float | int, ...] | None = None
    semantic_label_groups: list[list[int] | tuple[int, ...]] | tuple[list[int] | tuple[int, ...], ...] | None = None
    label_synonyms: dict[str, list[str] | tuple[str, ...]] | None = None
    mask_ratio: float | int = 0.9
    _out_features: list[str] | None = None
    _out_indices: list[int] | None = None

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """
        The config of saved values with `kwargs` over them, checked as a whole, as `from_pretrained` makes it.

        transformers sets `kwargs` one by one and unchecked. Here what was saved for other labels or other blocks also gives way.
        """
        saved = dict(config_dict)
        cls.note_newer_version(saved, saved.pop("winwin_version", None))
        for name in ("attn_implementation", "_attn_implementation"):
            if "/" in str(saved.get(name)):  # transformers would fetch it from the Hub and run it
                raise ValueError(
                    f"{name}={saved[name]!r}: expected none of the Hub's kernels, such as 'sdpa'; the caller may choose one by "
                    "`from_pretrained(..., attn_implementation=...)`."
                )
        if saved.get("model_type", cls.model_type) != cls.model_type:
            raise ValueError(
                f"a config of type {saved['model_type']!r}: `from_encoder` takes such weights, `from_pretrained` doesn't."
            )
        own = {field for field in cls.__annotations__ if not field.startswith("_")}
        given = {name: kwargs.pop(name) for name in own & kwargs.keys()}
        labels = {name: kwargs.pop(name, None) for name in ("num_labels", "id2label", "label2id")}
        if saved.get("id2label") is not None:
            saved.pop("label2id", None)  # in files of others it may be of a default of before
        if given.get("num_hidden_layers", saved.get("num_hidden_layers")) != saved.get("num_hidden_layers"):
            for name in ("out_features", "out_indices"):  # names of stages that may not be there any more
                saved.pop(name, None)
        for name in ("min_depth", "max_depth"):
            if name in saved and name in given and given[name] != saved[name]:
                logger.warning(
                    f"{name}={given[name]} instead of the saved {saved[name]}: weights of a depth head were trained for the saved "
                    "range, and give wrong metres until they are trained again."
                )
        new_weights = "semantic_loss_weights" in given
        weights = given.pop("semantic_loss_weights", None)
        if new_weights:
            saved.pop("semantic_loss_weights", None)
        made = super().from_dict({**saved, **given}, **kwargs)
        config = made[0] if isinstance(made, tuple) else made  # with the unused `kwargs`
        if labels["id2label"] is not None or labels["label2id"] is not None:
            config.id2label = agreed_labels(**labels)
        elif labels["num_labels"] is not None:
            in_range("num_labels", labels["num_labels"], 1, MAX_LABELS)
            config.num_labels = labels["num_labels"]  # as many as before keep their names
        if new_weights:
            config.semantic_loss_weights = weights
            config.validate()
        return made

    def __setattr__(self, key: str, value: Any) -> None:
        if key not in ("id2label", "label2id") or value is None or "stage_names" not in self.__dict__:
            # Before `stage_names` is set the config isn't whole; `__post_init__` then compares both.
            super().__setattr__(key, value)
            return
        before, names = self.id2label or {}, agreed_labels(**{key: value})
        super().__setattr__("id2label", names)
        super().__setattr__("label2id", {name: i for i, name in names.items()})
        if names != before:
            self.semantic_label_groups = self.label_synonyms = None
        if self.semantic_loss_weights is not None and names != before:
            logger.warning(
                f"semantic_loss_weights={list(self.semantic_loss_weights)} belong to the labels {', '.join(map(str, before.values()))}: "
                "with other labels they are dropped, and all classes weigh alike."
            )
            self.semantic_loss_weights = None

    def __post_init__(self, **kwargs: Any) -> None:
        self.id2label = agreed_labels(kwargs.pop("num_labels", None), self.id2label, self.label2id)
        self.label2id = {name: i for i, name in self.id2label.items()}
        self.refuse_absurd()
        kwargs.pop("stage_names", None)  # in saved configs, and so is the version
        kwargs.pop("winwin_version", None)
        self.stage_names = ["stem"] + [f"stage{i}" for i in range(1, self.num_hidden_layers + 1)]
        self.set_output_features_output_indices(
            out_indices=kwargs.pop("out_indices", None), out_features=kwargs.pop("out_features", None)
        )
        self.refuse_typos(kwargs)
        if not __name__.startswith("transformers_modules"):
            # Published weights come with a copy of the pipeline for people without the package. In the package, transformers must not
            # see that entry, or it asks whether to trust the copy.
            kwargs.pop("custom_pipelines", None)
        super().__post_init__(**kwargs)

    def to_dict(self) -> dict[str, Any]:
        """All fields, and the package's version, by which an older one notices that it reads a newer one's file."""
        return {**super().to_dict(), "winwin_version": VERSION}

    @classmethod
    def note_newer_version(cls, saved: dict[str, Any], version: Any) -> None:
        """Warns of a config that a newer version saved, with the names of the fields that this one doesn't know and ignores."""
        if numbers(version) <= numbers(VERSION):
            return
        known = {field for base in cls.__mro__ for field in getattr(base, "__annotations__", {})}
        known |= cls().to_dict().keys() | {"auto_map", "custom_pipelines", "quantization_config"}
        unknown = [name for name in saved if name not in known and not name.startswith("_")]
        ignored = (
            f"{', '.join(unknown)}: this version doesn't know and ignores that" if unknown else "all fields are known"
        )
        logger.warning(f"saved by winwin-hf {version}, read by {VERSION}; {ignored}.")

    def refuse_absurd(self) -> None:
        """Raises ValueError for a number outside of `RANGES`, and for a network of more than `MAX_PARAMETERS`."""
        for field, (low, high) in RANGES.items():
            value = getattr(self, field)
            values = () if value is None else value if isinstance(value, list | tuple) else (value,)
            if field == "semantic_label_groups":
                values = [number for group in values for number in group]
            if len(values) > MAX_LIST:
                raise ValueError(f"{field} of {len(values)} values: expected at most {MAX_LIST:,}.")
            for number in values:
                in_range(field, number, low, high)
        if (count := self.count_parameters()) > MAX_PARAMETERS:
            raise ValueError(
                f"these sizes make about {count / 1e9:,.0f} billion parameters (hidden_size={self.hidden_size}, "
                f"num_hidden_layers={self.num_hidden_layers} and others): expected at most {MAX_PARAMETERS / 1e9:,.0f} billion."
            )

    def count_parameters(self) -> int:
        """About the number of parameters of the largest network of this config, which has decoder, head and matching. Makes nothing."""
        size, wide, patch = self.hidden_size, self.decoder_hidden_size, self.patch_size
        labels = len(self.id2label or ())
        most, out = max(size, wide), max(3, labels)
        mlp = (3 if self.use_gated_mlp else 2) * size * round(size * self.mlp_ratio)
        encoder = self.num_hidden_layers * (4 * size**2 + mlp)
        decoder = self.decoder_num_hidden_layers * (8 * wide**2 + 2 * wide * round(wide * self.mlp_ratio)) + size * wide
        table = math.prod(self.position_grid or ()) if self.position_grid else 0
        stem = [self.num_channels, *(self.stem_hidden_sizes or ()), size]
        embeddings = (
            sum(9 * a * b for a, b in pairwise(stem))
            if self.patch_embedding == "conv_stem"
            else self.num_channels * size * patch**2
        )
        embeddings += (table + self.num_prefix_tokens) * size
        if self.head_type == "conv":
            width = self.head_hidden_size
            head = most * width + (8 * self.head_num_layers + 8) * width**2 + out * width * patch**2 // 64
        elif self.head_type == "dpt":
            width, sizes = self.dpt_hidden_size, self.dpt_layer_sizes
            head = sum(most * s + 16 * s**2 + 9 * s * width for s in sizes) + 150 * width**2
        else:
            head = most * out * patch**2
        matching = 0
        if self.matching_stride is not None:
            factor = max(1, patch // self.matching_stride)
            matching = self.matching_size * (size * factor**2 + 6 * self.matching_size) + 4 * factor**2 * wide
            matching += sum(40 * (s + self.matching_size) * s for s in self.refinement_sizes)
        return encoder + decoder + embeddings + head + matching

    @classmethod
    def refuse_typos(cls, kwargs: dict[str, Any]) -> None:
        """
        Raises ValueError for a keyword that is nearly a field of this class; transformers would keep it as an attribute.

        Other keywords pass, and so does everything in a saved config, which may come from another version.
        """
        if "model_type" in kwargs:
            return
        inherited = {field for base in cls.__mro__[1:] for field in getattr(base, "__annotations__", {})}
        own = [field for field in cls.__annotations__ if not field.startswith("_")]
        for name in kwargs.keys() - inherited:
            close = get_close_matches(name, own, n=1, cutoff=0.8)
            if close and not hasattr(cls, name):
                raise ValueError(f"{name}: no such option of {cls.__name__}; did you mean {close[0]}?")

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "WinWinConfig":
        """The config of a preset, `"tiny"`, `"small"`, `"base"` or `"large"`, with `overrides` on top."""
        if name not in PRESETS:
            raise ValueError(f"Unknown preset {name!r}: expected one of {', '.join(PRESETS)}.")
        return cls(**{**PRESETS[name], **overrides})

    # Derived values, so that no two fields can disagree.

    @property
    def intermediate_size(self) -> int:
        """Width of an encoder block's MLP."""
        return round(self.hidden_size * self.mlp_ratio)

    @property
    def needs_frame_sizes(self) -> bool:
        """Whether a token's position depends on the size of its frame."""
        return self.position_embedding == "rope_frame" or self.position_grid is not None

    @property
    def stem_sizes(self) -> list[int]:
        """Channels after each stride-2 convolution of the stem; strides 2, 4, ..., `patch_size`."""
        steps = int(math.log2(self.patch_size))
        if self.stem_hidden_sizes is not None:
            return [*self.stem_hidden_sizes, self.hidden_size]
        return [max(8, self.hidden_size >> (steps - 1 - i)) for i in range(steps)]

    @property
    def global_blocks(self) -> set[int]:
        """Indices of the encoder blocks with global attention."""
        depth = self.num_hidden_layers
        if self.attention_pattern == "global":
            return set(range(depth))
        if self.global_attention_indices is not None:
            return set(self.global_attention_indices)
        return {max(0, math.ceil(depth * (i + 1) / 4) - 1) for i in range(4)}

    def taps(self, binocular: bool) -> list[int]:
        """The four blocks that the DPT head reads, counted through the encoder and, if `binocular`, on through the decoder."""
        if self.head_taps is not None:
            return list(self.head_taps)
        if (
            binocular
        ):  # the last decoder block and, at equal steps before it, two more and (nearly) the last encoder block
            step = math.ceil(self.decoder_num_hidden_layers / 3)
            last = self.num_hidden_layers + self.decoder_num_hidden_layers - 1
            return [max(0, last - i * step) for i in (3, 2, 1, 0)]
        return [max(0, math.ceil(self.num_hidden_layers * (i + 1) / 4) - 1) for i in range(4)]

    @property
    def refinement(self) -> list[tuple[int, int]]:
        """(stride, channels) of each step of the refinement."""
        stride = self.matching_stride or 0
        return [(stride // 2 ** (i + 1), size) for i, size in enumerate(self.refinement_sizes)]

    # Checks: run by `strict` when a config is made, and by `from_pretrained`.

    def validate_choices(self) -> None:
        for field, allowed in (
            ("position_embedding", ("rope", "rope_frame", "rope_mixed", "learned", "sincos")),
            ("readout_type", ("ignore", "project")),
            ("patch_embedding", ("linear", "conv_stem")),
            ("attention_pattern", ("global", "vitdet")),
            ("head_type", ("conv", "linear", "dpt")),
        ):
            if getattr(self, field) not in allowed:
                raise ValueError(f"{field}={getattr(self, field)!r}: expected one of {', '.join(map(repr, allowed))}.")
        if self.hidden_act not in ACT2FN:
            raise ValueError(f"hidden_act={self.hidden_act!r}: expected one of {', '.join(sorted(ACT2FN))}.")

    def validate_sizes(self) -> None:
        power_of_two = not self.patch_size & (self.patch_size - 1)
        if self.patch_size < 4 or (self.patch_embedding == "conv_stem" and not power_of_two):
            raise ValueError(
                f"patch_size={self.patch_size} with patch_embedding={self.patch_embedding!r}: expected 4 or more, and a power of two "
                "for 'conv_stem'."
            )
        if self.patch_size % 4 and self.head_type == "conv":
            raise ValueError(
                f"patch_size={self.patch_size} with head_type='conv': expected a multiple of four, or head_type 'dpt' or 'linear'."
            )
        for prefix in ("", "decoder_"):
            width, heads = getattr(self, prefix + "hidden_size"), getattr(self, prefix + "num_attention_heads")
            if heads < 1 or width % heads or (width // heads) % 4:
                raise ValueError(
                    f"{prefix}hidden_size={width} with {prefix}num_attention_heads={heads}: "
                    "expected heads of equal width, a multiple of four."
                )
        grid = self.position_grid
        allowed = {"learned": grid is not None, "sincos": grid is None}.get(self.position_embedding, True)
        if not allowed or (grid is not None and (len(grid) != 2 or min(grid) < 1)):
            raise ValueError(
                f"position_grid={grid} with position_embedding={self.position_embedding!r}: expected rows and columns with "
                "'learned', None with 'sincos', else either."
            )
        reference = self.rope_reference
        if reference is not None and (
            self.position_embedding != "rope_frame" or len(reference) != 2 or min(reference) < 1
        ):
            raise ValueError(
                f"rope_reference={reference} with position_embedding={self.position_embedding!r}: expected rows and columns with "
                "'rope_frame', else None."
            )
        if self.num_prefix_tokens < 0 or (self.num_prefix_tokens and self.attention_pattern == "vitdet"):
            raise ValueError(
                f"num_prefix_tokens={self.num_prefix_tokens} with attention_pattern={self.attention_pattern!r}: expected 0 or more, "
                "and none with 'vitdet', whose cells they have no place in."
            )
        if self.readout_type == "project" and (not self.num_prefix_tokens or self.head_type != "dpt"):
            raise ValueError(
                f"readout_type='project' with num_prefix_tokens={self.num_prefix_tokens} and head_type={self.head_type!r}: expected a "
                "class token and 'dpt'."
            )
        for name in ("drop_path_rate", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more, below 1.")
        if self.decoder_attention_tokens is not None and self.decoder_attention_tokens < 2:
            raise ValueError(f"decoder_attention_tokens={self.decoder_attention_tokens}: expected 2 or more.")
        if self.stem_hidden_sizes is not None and len(self.stem_hidden_sizes) != int(math.log2(self.patch_size)) - 1:
            raise ValueError(
                f"stem_hidden_sizes={self.stem_hidden_sizes}: expected {int(math.log2(self.patch_size)) - 1} sizes "
                f"for patch_size={self.patch_size}."
            )
        if len(self.dpt_layer_sizes) != 4:
            raise ValueError(f"dpt_layer_sizes={self.dpt_layer_sizes}: expected four.")
        depth = self.num_hidden_layers + self.decoder_num_hidden_layers
        taps = self.head_taps
        if taps is not None and (len(taps) != 4 or sorted(taps) != list(taps) or not 0 <= taps[0] <= taps[-1] < depth):
            raise ValueError(f"head_taps={taps}: expected four ascending indices of {depth} blocks, encoder first.")
        indices = self.global_attention_indices or ()
        if not set(indices) <= set(range(self.num_hidden_layers)) or len(set(indices)) < len(indices):
            raise ValueError(
                f"global_attention_indices={self.global_attention_indices}: "
                f"expected different indices of the {self.num_hidden_layers} encoder blocks."
            )
        if self.attention_cell_size < 1:
            raise ValueError(f"attention_cell_size={self.attention_cell_size}: expected 1 or more.")
        if not 0 < self.min_depth < self.max_depth:
            raise ValueError(f"min_depth={self.min_depth}, max_depth={self.max_depth}: expected 0 < min < max.")
        if not 0 < self.min_flow_scale < self.max_flow_scale:
            raise ValueError(
                f"min_flow_scale={self.min_flow_scale}, max_flow_scale={self.max_flow_scale}: expected 0 < min < max."
            )
        if self.flow_scale_penalty < 0:
            raise ValueError(f"flow_scale_penalty={self.flow_scale_penalty}: expected 0 or more.")
        if self.refinement_iterations < 1 or self.min_matching_sigma <= 0:
            raise ValueError(
                f"refinement_iterations={self.refinement_iterations}, min_matching_sigma={self.min_matching_sigma}: "
                "expected 1 or more, and a positive width."
            )
        weights = self.semantic_loss_weights
        if weights is not None and (min(weights, default=-1) < 0 or not 0 < sum(weights) < math.inf):
            raise ValueError(f"semantic_loss_weights={list(weights)}: expected one for each label, none negative.")
        groups, labels = self.semantic_label_groups or (), len(self.id2label or ())
        if any(not len(group) == len(set(group)) > 1 or not all(0 <= i < labels for i in group) for group in groups):
            raise ValueError(
                f"semantic_label_groups={groups}: expected lists of two different classes or more, below {labels}."
            )
        if labels <= self.semantic_loss_ignore_index < labels + len(groups):
            raise ValueError(
                f"semantic_loss_ignore_index={self.semantic_loss_ignore_index}: is the label of a group of semantic_label_groups; "
                f"expected one below 0 or above {labels + len(groups) - 1}."
            )
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"mask_ratio={self.mask_ratio}: expected a share between 0 and 1.")

    def validate_matching(self) -> None:
        if self.matching_stride is None:
            if self.refinement_sizes:
                raise ValueError(f"refinement_sizes={list(self.refinement_sizes)}: refinement needs matching_stride.")
            return
        if self.matching_stride >> len(self.refinement_sizes) < 2 or min(self.refinement_sizes, default=1) < 1:
            raise ValueError(
                f"refinement_sizes={list(self.refinement_sizes)} with matching_stride={self.matching_stride}: "
                "expected positive numbers, one for each halving of the stride, down to 2."
            )
        # strides at which the head takes features
        strides = [s for s in (self.patch_size // 2, self.patch_size // 4) if s > 1]
        if self.patch_embedding != "conv_stem" or self.matching_stride not in strides:
            raise ValueError(
                f"matching_stride={self.matching_stride} with patch_embedding={self.patch_embedding!r}: "
                f"expected one of {strides} and patch_embedding='conv_stem', whose features of that stride are matched."
            )
        if self.head_type != "conv":
            raise ValueError(f"matching with head_type={self.head_type!r}: expected 'conv', which refines the match.")
        if self.matching_size % 4:
            raise ValueError(f"matching_size={self.matching_size}: expected a multiple of four.")


__all__ = ["WinWinConfig"]
