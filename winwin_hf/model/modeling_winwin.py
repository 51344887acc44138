"""Win-Win: vision transformers for dense prediction, trained on two windows of each image, run on whole frames (ICLR 2024).

The models of the paper, from top to bottom: the RoPE ViT encoder, the binocular decoder, and a model for each task.

Notable:
- an image is a set of windows. `pixel_values` (B, C, H, W) is one window that covers the frame; (B, N, C, h, w) with
  `window_positions` (B, N, 2) is what training feeds. Tokens outside the windows do not exist: nothing is masked, nothing padded.
- labels and predictions have the layout of the input: an axis N follows B if the input came in windows.
- the second view of optical flow and pre-training may have other windows than the first.
- matching and refinement of optical flow are ours, and off by default: without them the model is the paper's.

Shapes: B batch, N windows, T tokens of all windows, D width, C channels, H W pixels, h w patches, p patch size.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from math import log
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.backbone_utils import BackboneMixin, filter_output_hidden_states
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.dynamic_module_utils import custom_object_save
from transformers.modeling_outputs import BackboneOutput, SemanticSegmenterOutput
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, auto_docstring, logging
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_winwin import WinWinConfig
from .encoders_winwin import read_encoder
from .half_products_winwin import check_precision
from .heads_winwin import ConvHead, ConvNextBlock, DPTHead, LinearHead, StdConv2d
from .hub_files_winwin import loaded_folder
from .layers_winwin import (
    Layout,
    WinWinAttention,
    WinWinDecoderLayer,
    WinWinEmbeddings,
    WinWinLayer,
    as_windows,
    check_batch,
    check_visible,
    patchify,
    rotary_of,
    sincos_embedding,
)
from .losses_winwin import (
    bounded_laplacian_loss,
    check_shape,
    depth_count,
    depth_edge_loss,
    depth_error_loss,
    flow_count,
    normalised_pixel_loss,
    scale_invariant_log_loss,
    semantic_count,
    semantic_loss,
)
from .matching_winwin import Matching, MatchingFeatures, matching_counts, matching_loss
from .outputs_winwin import (
    EncodedView,
    WinWinDecoderOutput,
    WinWinDepthOutput,
    WinWinModelOutput,
    WinWinOpticalFlowOutput,
    WinWinPreTrainingOutput,
)
from .pipeline_winwin import CUSTOM_PIPELINES
from .positions_winwin import random_frequencies
from .pretrained_winwin import HUB_OPTIONS, PretrainedEncoder
from .refinement_winwin import FineFeatures, Refinement
from .tracing_winwin import is_traced, refuse_recording
from .weights_winwin import (
    check_index,
    reason_of,
    refuse_damaged,
    refuse_larger,
    refuse_two_saves,
    stamps_of_weights,
)

logger = logging.get_logger(__name__)

# Files have `head.head`. With that as the modules' names, PEFT would wrap both where `modules_to_save` says "head". `from_pretrained`
# renames by this mapping; what loads a file's tensors as they are, such as Trainer's checkpoints, by the hook of `WinWinHead`.
register_checkpoint_conversion_mapping("winwin", [WeightRenaming(r"^head\.head\.", r"^head\.layers\.")], overwrite=True)

DENSE = ("WinWinForSemanticSegmentation", "WinWinForDepthEstimation", "WinWinForOpticalFlow")  # a head of each
ARGUMENTS = (
    "pixel_values",
    "second_pixel_values",
    "window_positions",
    "second_window_positions",
    "labels",
    "initial_flow",
    "bool_masked_pos",
    "frame_sizes",
    "second_frame_sizes",
    "loss_weights",
)


def refuse_misspelt(keywords: Mapping[str, Any]) -> None:
    """
    Raises TypeError for a keyword that is an argument of another model's forward, or nearly one's name.

    transformers passes all others on to the attention, and adds some of its own (`use_cache` in training).
    """
    for name in keywords:
        if name not in TransformersKwargs.__annotations__ and name != "use_cache":
            meant = get_close_matches(name, ARGUMENTS, n=1, cutoff=0.8)
            if meant:
                hint = "this model hasn't got it" if meant[0] == name else f"did you mean {meant[0]!r}?"
                raise TypeError(f"forward got an unexpected keyword argument {name!r}: {hint}.")


@auto_docstring
class WinWinPreTrainedModel(PreTrainedModel):
    config: WinWinConfig
    base_model_prefix = "winwin"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    # Trainer would count labels other than -100, leave it to the model to divide the loss by that number, and multiply by the number of
    # processes. Unknown pixels here are NaN, infinite or `semantic_loss_ignore_index`, so a loss is the mean over its own batch.
    accepts_loss_kwargs = False
    _no_split_modules = ["WinWinEmbeddings", "WinWinLayer", "WinWinDecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {"hidden_states": WinWinLayer, "attentions": WinWinAttention}

    def save_pretrained(
        self, save_directory: str | os.PathLike, is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """
        Saves as transformers does. A model that was published with its code is saved with its code, and so can be loaded without the
        package again. transformers copies code only if it was loaded from there; with the package it is the package's. Weights that lay
        there in one file, or in shards, go where these are saved in the other way: transformers would read the old ones.
        """
        config, copied = self.config, self._auto_class is not None
        published = not copied and getattr(config, "auto_map", None) is not None
        if published and is_main_process:
            Path(save_directory).mkdir(parents=True, exist_ok=True)
            custom_object_save(self, save_directory)
        if published and isinstance(self, WinWinForOpticalFlow):
            config.custom_pipelines = CUSTOM_PIPELINES
        before = stamps_of_weights(Path(save_directory))
        try:
            super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        finally:
            if published and hasattr(config, "custom_pipelines"):  # `pipeline` would ask whether that code may run
                del config.custom_pipelines
        after = stamps_of_weights(Path(save_directory))
        if is_main_process and before.items() ^ after.items():
            for path, _ in before.items() & after.items():  # of another number of files than now
                path.unlink()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # For code outside its own tree, transformers asks only about modules that own a parameter. A container can't decide for its
        # children, so layers that start in another way carry their own values.
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            std = module.init_std if isinstance(module, StdConv2d) else self.config.initializer_range
            if std:
                init.trunc_normal_(module.weight, std=std)
            else:
                init.zeros_(module.weight)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, ConvNextBlock):
            init.constant_(module.layer_scale, module.init_scale)
        elif isinstance(module, Matching):
            init.constant_(module.log_temperature, 2.5)
            init.copy_(module.log_sigma, torch.tensor([2.8, 0.7]))
            # Equal queries and keys: the untrained network already prefers what looks the same and lies near.
            for key, query in ((module.key, module.query), (module.fine_key, module.fine_query)):
                init.copy_(key.weight, query.weight)
        elif isinstance(module, WinWinAttention) and module.frequencies is not None:
            start = random_frequencies(module.num_heads, module.head_dim, self.config.rope_theta)
            init.copy_(module.frequencies, start)
        elif isinstance(module, WinWinEmbeddings):
            for tokens in (module.positions, module.prefix_tokens):
                if tokens is not None:
                    init.trunc_normal_(tokens, std=self.config.initializer_range)
        elif isinstance(module, WinWinLayer):
            for scale in (module.layer_scale1, module.layer_scale2):
                if scale is not None:
                    init.constant_(scale, float(self.config.layerscale_value or 0))
        elif isinstance(module, WinWinForPreTraining):
            init.trunc_normal_(module.mask_token, std=self.config.initializer_range)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, **kwargs: Any) -> Any:
        """
        Loads as transformers does: tensors that are missing are initialised, and a report names them.

        Raises: ValueError, before memory is taken, where a folder's config.json describes a far larger network than its weights, or
        the index of its weights names what isn't a file beside it. Where the end of its weights is zeros. Where the checkpoint's head
        is of another task, unless `ignore_mismatched_sizes` says that it is wanted to start from: its channels may be as many by
        chance.
        """
        source, config = pretrained_model_name_or_path, kwargs.get("config")
        kwargs.setdefault("use_safetensors", True)  # never a pickle unless it is asked for
        folder = None
        if source is not None and Path(source).is_dir() and not kwargs.get("subfolder"):
            folder = Path(source)
            check_index(folder)
            refuse_two_saves(folder)
            # of the class that the caller knows, the package's or one that came with the weights
            known: Any = (
                config if isinstance(config, PreTrainedConfig) else WinWinConfig.from_pretrained(config or folder)
            )
            refuse_larger(source, folder.glob("model*.safetensors"), known.count_parameters())
            refuse_damaged(folder)
        loaded = super().from_pretrained(source, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        if source is not None and folder is None:  # a repository's files are there only now
            places = {key: kwargs[key] for key in ("cache_dir", "revision", "subfolder") if key in kwargs}
            if folder := loaded_folder(source, getattr(model.config, "_commit_hash", None), **places):
                refuse_damaged(folder)
        found = {*(model.config.architectures or ())} & {*DENSE}
        if found and cls.__name__ in DENSE and cls.__name__ not in found and not kwargs.get("ignore_mismatched_sizes"):
            raise ValueError(
                f"{source}: a checkpoint of {', '.join(found)}, loaded as {cls.__name__}; expected one of its task, or "
                "ignore_mismatched_sizes=True to start another task's training from it"
            )
        return loaded

    @classmethod
    def from_encoder(cls, source: str, **options: Any) -> "WinWinPreTrainedModel":
        """
        A new model on an encoder that others pre-trained (DINOv3, DINOv2, MAE, ViT, SigLIP, CroCo, DUSt3R, MASt3R; timm's EVA-02,
        Perception Encoder and RoPE ViTs).

        All else is initialised; optical flow and pre-training start with the source's decoder too, if it has one.

        Args:
            source (`str`): a Hub repository or a folder; CroCo, DUSt3R and MASt3R may be their public file (.pth), timm's their name.
            options: fields of `WinWinConfig`, such as `head_type`; and `revision`, `token`, `cache_dir`, `local_files_only` of the Hub.
        Raises: OSError: nothing is there. ValueError: not an encoder of those families, or an option that contradicts it.
        """
        hub = {name: options.pop(name) for name in HUB_OPTIONS if name in options}
        return cls.on_encoder(read_encoder(source, **hub), **options)

    @classmethod
    def on_encoder(cls, encoder: PretrainedEncoder, **options: Any) -> "WinWinPreTrainedModel":
        """`from_encoder` of one that is already read."""
        pairs = issubclass(cls, (WinWinForOpticalFlow, WinWinForPreTraining))
        try:
            config = WinWinConfig(**encoder.fields(options, pairs))
        except (ValueError, StrictDataclassError) as error:
            if encoder.source in str(error):
                raise
            raise ValueError(f"{encoder.source}: {reason_of(error)}") from error
        with torch.device("meta"):  # a config that lies about the weights would take memory
            encoder.check(WinWinModel(config), WinWinDecoder(config) if pairs else None)
        model = cls(config)
        alone: nn.Module = model if isinstance(model, WinWinModel) else model.get_submodule("winwin")
        encoder.fill(alone, getattr(model, "decoder", None))
        return model

    def patches(self, tokens: torch.Tensor) -> torch.Tensor:
        """An encoder's tokens without its prefix tokens, (B, P + T, D) -> (B, T, D)."""
        return tokens[:, self.config.num_prefix_tokens :]


@auto_docstring
class WinWinModel(WinWinPreTrainedModel):
    """The monocular encoder: a plain ViT that knows positions by RoPE alone, or one that others pre-trained (`from_encoder`)."""

    def __init__(self, config: WinWinConfig):
        super().__init__(config)
        self.embeddings = WinWinEmbeddings(config)
        self.layers = nn.ModuleList(WinWinLayer(config, i) for i in range(config.num_hidden_layers))
        self.norm: nn.Module = (
            nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps) if config.final_norm else nn.Identity()
        )
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        projection: Any = self.embeddings.projection
        # transformers makes the output of this module require a gradient, so it has to be one tensor
        return projection.convs[-1] if self.config.patch_embedding == "conv_stem" else projection

    def set_input_embeddings(self, value: nn.Module) -> None:
        embeddings: Any = self.embeddings
        if self.config.patch_embedding == "conv_stem":
            embeddings.projection.convs[-1] = value
        else:
            embeddings.projection = value

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        window_positions: torch.Tensor | None = None,
        visible: torch.Tensor | None = None,
        taps: list[int] | None = None,
        frame_sizes: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> WinWinModelOutput:
        r"""
        pixel_values (`torch.FloatTensor` of shape `(batch_size, [windows,] num_channels, height, width)`):
            Whole images, or windows of them.
        window_positions (`torch.LongTensor` of shape `(batch_size, windows, 2)`, *optional*):
            (row, column) of each window's top-left patch in the full frame; with windows only.
        visible (`torch.LongTensor` of shape `(batch_size, visible)`, *optional*):
            Indices of the tokens to keep; pre-training drops the others before the first block. Not with `"vitdet"`.
        taps (`list[int]`, *optional*):
            Blocks whose tokens to return.
        frame_sizes (`torch.LongTensor` of shape `(batch_size, 2)`, *optional*):
            Rows and columns of the full frames in patches; with windows, encoders whose positions depend on the frame need them.
        """
        refuse_misspelt(kwargs)
        pixels, layout = as_windows(pixel_values, window_positions, self.config, frame_sizes=frame_sizes)
        first: Any = self.layers[0]
        check_precision(first.norm1.weight)
        tokens, stem = self.embeddings(pixels, layout)
        rotary = rotary_of(layout, self.config, self.config.hidden_size // self.config.num_attention_heads)
        if visible is not None:
            if self.config.attention_pattern != "global":
                raise ValueError("visible: dropping single tokens needs attention_pattern='global'.")
            check_visible(visible, layout)
            tokens = tokens.gather(1, visible[..., None].expand(-1, -1, tokens.shape[-1]))
            if rotary is not None:
                index = visible[:, None, :, None].expand(-1, 1, -1, rotary[0].shape[-1])
                cos, sin = (t.expand(layout.batch, -1, -1, -1).gather(2, index) for t in rotary)
                rotary = cos, sin
        if taps and not set(taps) <= set(range(len(self.layers))):
            raise ValueError(f"taps {taps}: expected blocks from 0 to {len(self.layers) - 1}.")
        tokens, rotary = self.embeddings.add_prefix(tokens, rotary)
        tapped = {}
        for i, layer in enumerate(self.layers):
            tokens = layer(tokens, rotary, layout, **kwargs)
            if taps and i in taps:
                tapped[i] = self.norm(tokens) if self.config.apply_layernorm else tokens
        tokens = self.norm(tokens)
        tapped[len(self.layers) - 1] = tokens
        return WinWinModelOutput(
            last_hidden_state=tokens,
            taps=tuple(tapped[i] for i in taps) if taps else None,
            stem=tuple(stem) or None,
        )


@auto_docstring(custom_intro="The encoder as a backbone: maps of chosen stages, one map a window.")
class WinWinBackbone(BackboneMixin, WinWinPreTrainedModel):
    def __init__(self, config: WinWinConfig):
        super().__init__(config)
        self.winwin = WinWinModel(config)
        self.num_features = [config.hidden_size] * (config.num_hidden_layers + 1)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.winwin.get_input_embeddings()

    @can_return_tuple
    @filter_output_hidden_states
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        window_positions: torch.Tensor | None = None,
        frame_sizes: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BackboneOutput:
        r"""
        window_positions (`torch.LongTensor` of shape `(batch_size, windows, 2)`, *optional*):
            With windows only; feature maps are then `(batch_size, windows, hidden_size, rows, columns)`.
        frame_sizes (`torch.LongTensor` of shape `(batch_size, 2)`, *optional*):
            Rows and columns of the full frames in patches; with windows, encoders whose positions depend on the frame need them.
        """
        kwargs["output_hidden_states"] = True
        _, layout = as_windows(pixel_values, window_positions, self.config, frame_sizes=frame_sizes)
        outputs = self.winwin(pixel_values, window_positions, frame_sizes=frame_sizes, return_dict=True, **kwargs)
        maps = []
        for name, tokens in zip(self.stage_names, outputs.hidden_states, strict=True):
            if name in self.out_features:
                # the last stage is what the heads read, so it is normalised as there
                if self.config.apply_layernorm or name == self.stage_names[-1]:
                    tokens = self.winwin.norm(tokens)
                maps.append(layout.to_output(layout.to_maps(self.patches(tokens))))
        return BackboneOutput(
            feature_maps=tuple(maps),  # type: ignore[arg-type]  # annotated there as a tuple of one
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


@dataclass
class DecoderRecorder(OutputRecorder):
    """Says where the decoder's depth stands; transformers older than 5.23 has no such field and doesn't ask."""

    num_hidden_layers_key: str = "decoder_num_hidden_layers"


class WinWinDecoder(WinWinPreTrainedModel):
    """The binocular decoder: tokens of the first view attend to those of the second (CroCo)."""

    _can_record_outputs = {
        "hidden_states": DecoderRecorder(WinWinDecoderLayer),
        "attentions": OutputRecorder(WinWinAttention, index=1, layer_name="attention"),
        "cross_attentions": OutputRecorder(WinWinAttention, index=1, layer_name="cross_attention"),
    }

    def __init__(self, config: WinWinConfig):
        super().__init__(config)
        self.embed = nn.Linear(config.hidden_size, config.decoder_hidden_size)
        self.layers = nn.ModuleList(WinWinDecoderLayer(config) for _ in range(config.decoder_num_hidden_layers))
        self.norm = nn.LayerNorm(config.decoder_hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        hidden_states: torch.Tensor,
        memory: torch.Tensor,
        layout: Layout,
        memory_layout: Layout,
        taps: list[int] | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> WinWinDecoderOutput:
        """hidden_states (B, T, D') and memory (B, T2, D') are embedded tokens of the first and the second view."""
        width = self.config.decoder_hidden_size // self.config.decoder_num_attention_heads
        rotary, memory_rotary = (rotary_of(view, self.config, width, decoder=True) for view in (layout, memory_layout))
        if rotary is None:  # absolute positions: the encoder has mixed its own away, so they are added again
            size = self.config.decoder_hidden_size
            hidden_states = hidden_states + sincos_embedding(layout.positions(), size).to(hidden_states.dtype)
            memory = memory + sincos_embedding(memory_layout.positions(), size).to(memory.dtype)
        tapped = {}
        for i, layer in enumerate(self.layers):
            hidden_states = layer(hidden_states, memory, rotary, memory_rotary, **kwargs)
            if taps and i in taps:
                tapped[i] = hidden_states
        hidden_states = self.norm(hidden_states)
        tapped[len(self.layers) - 1] = hidden_states
        return WinWinDecoderOutput(
            last_hidden_state=hidden_states, taps=tuple(tapped[i] for i in taps) if taps else None
        )


def _as_modules_are_named(_: nn.Module, state: dict[str, Any], prefix: str, *__: Any) -> None:
    """Renames a head's tensors that have their names in files."""
    for name in [name for name in state if name.startswith(f"{prefix}head.")]:
        state[f"{prefix}layers.{name.removeprefix(f'{prefix}head.')}"] = state.pop(name)


class WinWinHead(nn.Module):
    """The three kinds of head behind one call."""

    def __init__(self, config: WinWinConfig, out_channels: int, binocular: bool = False, **kwargs: Any):
        super().__init__()
        depth, size = config.num_hidden_layers, config.hidden_size
        self.kind = config.head_type  # not asked of the head itself, which adapters wrap
        self.num_prefix_tokens = config.num_prefix_tokens
        self.layers: nn.Module
        self.encoder_taps = self.decoder_taps = self.readouts = None
        if config.head_type == "dpt":
            taps = config.taps(binocular)
            self.encoder_taps = [i for i in taps if i < depth]
            self.decoder_taps = [i - depth for i in taps if i >= depth]
            sizes = [size] * len(self.encoder_taps) + [config.decoder_hidden_size] * len(self.decoder_taps)
            self.layers = DPTHead(config, sizes, out_channels)
            if config.readout_type == "project":
                self.readouts = nn.ModuleList(nn.Linear(2 * size, size) for _ in self.encoder_taps)
        else:
            in_size = config.decoder_hidden_size if binocular else size
            head_class: type = ConvHead if config.head_type == "conv" else LinearHead
            self.layers = head_class(config, in_size, out_channels, **kwargs)
        self.register_load_state_dict_pre_hook(_as_modules_are_named)

    def forward(
        self,
        layout: Layout,
        encoder: WinWinModelOutput,
        decoder: WinWinDecoderOutput | None = None,
        extra: dict[int, list[torch.Tensor]] | None = None,
    ) -> torch.Tensor:
        """-> (B*N, out, H, W), float32. `extra`: maps {stride: [(B*N, C, ...)]} for a convolutional head."""
        prefix = self.num_prefix_tokens
        if self.kind == "dpt":
            taps = [tap[:, prefix:] for tap in encoder.taps or ()]
            if self.readouts is not None:  # with the class token
                pairs = zip(self.readouts, taps, encoder.taps or (), strict=True)
                taps = [F.gelu(project(torch.cat([t, tap[:, :1].expand_as(t)], dim=-1))) for project, t, tap in pairs]
            taps += (decoder.taps or ()) if decoder is not None else ()
            return self.layers([layout.to_maps(t) for t in taps]).float()
        last = (decoder if decoder is not None else encoder).last_hidden_state
        assert last is not None
        last = last if decoder is not None else last[:, prefix:]
        tokens = layout.to_maps(last)
        if self.kind == "linear":
            return self.layers(tokens).float()
        features = {2 ** (i + 1): [stem] for i, stem in enumerate(encoder.stem or ())}
        for stride, maps in (extra or {}).items():
            features[stride] = features.get(stride, []) + maps
        return self.layers(tokens, features).float()


@auto_docstring(custom_intro="Encoder and head for semantic segmentation.")
class WinWinForSemanticSegmentation(WinWinPreTrainedModel):
    def __init__(self, config: WinWinConfig):
        super().__init__(config)
        labels, weights = len(config.id2label or ()), config.semantic_loss_weights
        if weights is not None and len(weights) != labels:
            raise ValueError(
                f"semantic_loss_weights has {len(weights)} entries: expected one for each of {labels} labels."
            )
        if 0 <= config.semantic_loss_ignore_index < labels:
            logger.warning(
                f"semantic_loss_ignore_index={config.semantic_loss_ignore_index} is one of {labels} labels: its pixels count as unknown."
            )
        self.winwin = WinWinModel(config)
        self.head = WinWinHead(config, labels)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        window_positions: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        frame_sizes: torch.Tensor | None = None,
        loss_weights: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SemanticSegmenterOutput:
        r"""
        window_positions (`torch.LongTensor` of shape `(batch_size, windows, 2)`, *optional*):
            (row, column) of each window's top-left patch in the full frame; with windows only.
        labels (`torch.LongTensor` of shape `(batch_size, [windows,] height, width)`, *optional*):
            Class of each pixel; `config.semantic_loss_ignore_index` is unknown.
        frame_sizes (`torch.LongTensor` of shape `(batch_size, 2)`, *optional*):
            Rows and columns of the full frames in patches; with windows, encoders whose positions depend on the frame need them.
        loss_weights (`torch.FloatTensor` of shape `(1,)`, *optional*):
            Factor of the loss, for a batch that is a part of a step's: its share of the `loss_counts` of all, times their number.

        Returns `logits` at full resolution, `(batch_size, num_labels, height, width)`, with windows after the batch.
        """
        _, layout = as_windows(pixel_values, window_positions, self.config, frame_sizes=frame_sizes)
        taps = self.head.encoder_taps
        outputs = self.winwin(
            pixel_values, window_positions, taps=taps, frame_sizes=frame_sizes, return_dict=True, **kwargs
        )
        logits = layout.to_output(self.head(layout, outputs))
        loss = None
        if labels is not None:
            config = self.config
            loss = semantic_loss(
                logits,
                labels,
                config.semantic_loss_ignore_index,
                config.semantic_loss_weights,
                config.semantic_label_groups,
            )
            loss = loss if loss_weights is None else loss_weights[0] * loss
        return SemanticSegmenterOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )

    def loss_counts(self, labels: torch.Tensor, **_: Any) -> torch.Tensor:
        """What the loss of a batch is divided by: the number of known pixels, or their classes' weights. (1,) float32."""
        config = self.config
        count = semantic_count(
            labels, config.semantic_loss_ignore_index, config.semantic_loss_weights, config.semantic_label_groups
        )
        return count.float()[None]


@auto_docstring(custom_intro="Encoder and head for metric depth from one image.")
class WinWinForDepthEstimation(WinWinPreTrainedModel):
    def __init__(self, config: WinWinConfig):
        super().__init__(config)
        self.winwin = WinWinModel(config)
        self.head = WinWinHead(config, 1 + config.depth_error)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        window_positions: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        frame_sizes: torch.Tensor | None = None,
        loss_weights: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> WinWinDepthOutput:
        r"""
        window_positions (`torch.LongTensor` of shape `(batch_size, windows, 2)`, *optional*):
            (row, column) of each window's top-left patch in the full frame; with windows only.
        labels (`torch.FloatTensor` of shape `(batch_size, [windows,] height, width)`, *optional*):
            Depth in metres; NaN, infinite or not positive is unknown.
        frame_sizes (`torch.LongTensor` of shape `(batch_size, 2)`, *optional*):
            Rows and columns of the full frames in patches; with windows, encoders whose positions depend on the frame need them.
        loss_weights (`torch.FloatTensor` of shape `(1,)`, *optional*):
            Factor of the loss, for a batch that is a part of a step's: its share of the `loss_counts` of all, times their number.

        Returns `predicted_depth` in metres, `(batch_size, height, width)`, with windows after the batch.
        """
        _, layout = as_windows(pixel_values, window_positions, self.config, frame_sizes=frame_sizes)
        taps = self.head.encoder_taps
        outputs = self.winwin(
            pixel_values, window_positions, taps=taps, frame_sizes=frame_sizes, return_dict=True, **kwargs
        )
        maps = layout.to_output(self.head(layout, outputs))
        share, log_scale = maps.select(-3, 0).sigmoid(), maps.select(-3, 1) if self.config.depth_error else None
        low, high = log(self.config.min_depth), log(self.config.max_depth)
        depth = torch.exp(low + (high - low) * share)
        loss = None
        if labels is not None:
            loss = scale_invariant_log_loss(depth, labels)
            if self.config.depth_edge_weight:
                loss = loss + self.config.depth_edge_weight * depth_edge_loss(depth, labels)
            if log_scale is not None:
                loss = loss + self.config.depth_error_weight * depth_error_loss(log_scale, depth, labels)
            loss = loss if loss_weights is None else loss_weights[0] * loss
        return WinWinDepthOutput(
            loss=loss,
            predicted_depth=depth,
            log_scale=log_scale,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def loss_counts(self, labels: torch.Tensor, **_: Any) -> torch.Tensor:
        """What the loss of a batch is divided by: the number of images with known pixels. (1,) float32."""
        return depth_count(labels).float()[None]


def check_compares(config: WinWinConfig) -> None:
    """Raises ValueError for a network of two views that would never see the second."""
    if config.decoder_num_hidden_layers == 0:
        raise ValueError(
            "decoder_num_hidden_layers=0: without matching, the two views meet in the decoder alone; expected one or more."
        )


@auto_docstring(
    custom_intro="Encoder, binocular decoder and head for optical flow; with matching if the config says so."
)
class WinWinForOpticalFlow(WinWinPreTrainedModel):
    def __init__(self, config: WinWinConfig):
        super().__init__(config)
        self.winwin = WinWinModel(config)
        self.decoder = WinWinDecoder(config)
        stride = config.matching_stride
        if stride is None:
            check_compares(config)
            self.head = WinWinHead(config, 3, binocular=True)
        else:
            factor = config.patch_size // stride
            self.features = MatchingFeatures(config)
            self.matching = Matching(config)
            self.embed_match = nn.Linear(4 * factor**2, config.decoder_hidden_size)
            # into the head: both views' features, displacement, mass and spread
            extra = {stride: 2 * config.matching_size + 4}
            self.head = WinWinHead(config, 3, binocular=True, extra=extra, zero_init=True)
        if config.refinement:
            self.fine_features = FineFeatures(config)
            self.refinement = Refinement(config)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        second_pixel_values: torch.Tensor,
        window_positions: torch.Tensor | None = None,
        second_window_positions: torch.Tensor | None = None,
        initial_flow: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        frame_sizes: torch.Tensor | None = None,
        second_frame_sizes: torch.Tensor | None = None,
        loss_weights: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> WinWinOpticalFlowOutput:
        r"""
        second_pixel_values (`torch.FloatTensor` of shape `(batch_size, [windows,] num_channels, height, width)`):
            The second view; its windows may differ from the first view's in number and size.
        window_positions (`torch.LongTensor` of shape `(batch_size, windows, 2)`, *optional*):
            (row, column) of each window's top-left patch in the full frame; with windows only.
        second_window_positions (`torch.LongTensor` of shape `(batch_size, second_windows, 2)`, *optional*):
            The same for the second view's windows, in its full frame.
        initial_flow (`torch.FloatTensor` of shape `(batch_size, [windows,] 2, height, width)`, *optional*):
            A first guess in pixels of the input (of the enlarged frames, where the processor enlarges), around which the matching
            looks; an error for a model without matching.
        labels (`torch.FloatTensor` of shape `(batch_size, [windows,] 2, height, width)`, *optional*):
            Flow (right, down) in pixels; NaN or infinite is unknown.
        frame_sizes (`torch.LongTensor` of shape `(batch_size, 2)`, *optional*):
            Rows and columns of the full frames in patches; with windows, encoders whose positions depend on the frame need them.
        second_frame_sizes (`torch.LongTensor` of shape `(batch_size, 2)`, *optional*):
            The same for the second view's frames.
        loss_weights (`torch.FloatTensor` of shape `(1,)` or, with matching, `(3,)`, *optional*):
            Factors of the loss's terms, for a batch that is a part of a step's: its shares of the `loss_counts` of all, times their number.
        """
        first = self.encode(pixel_values, window_positions, frame_sizes=frame_sizes, **kwargs)
        second = self.encode(
            second_pixel_values,
            second_window_positions,
            name="second_pixel_values",
            frame_sizes=second_frame_sizes,
            **kwargs,
        )
        return self.decode(first, second, labels, initial_flow, loss_weights, **kwargs)

    def encode(
        self,
        pixel_values: torch.Tensor,
        window_positions: torch.Tensor | None = None,
        name: str = "pixel_values",
        frame_sizes: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> EncodedView:
        """
        Everything about one view that doesn't depend on the other, for `decode`, as its first or its second view.

        A frame of a video is part of two flows, of four with those backward, and is encoded once. `name` is for messages.
        """
        _, layout = as_windows(pixel_values, window_positions, self.config, name, frame_sizes=frame_sizes)
        taps = self.head.encoder_taps
        encoder = self.winwin(
            pixel_values, window_positions, taps=taps, frame_sizes=frame_sizes, return_dict=True, **kwargs
        )
        last = self.patches(encoder.last_hidden_state)
        tokens = self.decoder.embed(last)
        features, fine = None, ()
        if self.config.matching_stride is not None:
            stem = encoder.stem[self.matching.stride.bit_length() - 2]
            maps = self.features(layout.to_maps(last), stem)
            features = layout.to_tokens(maps)
            fine = self.fine_features(maps, encoder.stem) if self.config.refinement else ()
        return EncodedView(layout, encoder, tokens, features, fine)

    def decode(
        self,
        first: EncodedView,
        second: EncodedView,
        labels: torch.Tensor | None = None,
        initial_flow: torch.Tensor | None = None,
        loss_weights: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> WinWinOpticalFlowOutput:
        """Flow from one encoded view to another. `labels`, `initial_flow`, `loss_weights`: see `forward`."""
        layout, tokens, features, match = first.layout, first.tokens, {}, None
        check_batch(layout, second.layout)
        if initial_flow is not None and self.config.matching_stride is None:
            raise ValueError(
                "initial_flow is given to a model without matching: expected none, or config.matching_stride."
            )
        if self.config.matching_stride is not None:
            match = self.matching(first.features, second.features, layout, second.layout, initial_flow)
            summary = self.matching.summarise(match, layout)
            tokens = tokens + self.embed_match(self.matching.summary_tokens(summary, layout).to(tokens.dtype))
            features = self.matching.head_features(match, summary, layout)
        decoded = self.decoder(
            tokens, second.tokens, layout, second.layout, taps=self.head.decoder_taps, return_dict=True, **kwargs
        )
        prediction = self.head(layout, first.encoder, decoded, features)
        flow, log_scale, base_flow = prediction[:, :2], prediction[:, 2], None
        if match is not None:
            base_flow = layout.to_maps(match.base, self.matching.factor)
            flow = flow + F.interpolate(base_flow, flow.shape[-2:], mode="bilinear", align_corners=False)
            base_flow = layout.to_output(base_flow)
        steps = [(flow, log_scale)]
        if self.config.refinement:
            steps += self.refinement(flow, log_scale, first.fine, second.fine, layout, second.layout)
        steps = [(layout.to_output(flow), layout.to_output(c[:, None]).squeeze(-3)) for flow, c in steps]
        loss = None
        if labels is not None:
            loss = self.flow_loss(steps, labels)
            loss = loss if loss_weights is None else loss_weights[0] * loss
            if match is not None and self.training:
                targets = self.matching.targets(labels, layout, second.layout)
                weights = None if loss_weights is None else loss_weights[1:]
                loss_of_matching = matching_loss(match, *targets, self.matching.stride, weights)
                loss = loss + self.config.matching_loss_weight * loss_of_matching
        return WinWinOpticalFlowOutput(
            loss=loss,
            flow=steps[-1][0],
            log_scale=steps[-1][1],
            base_flow=base_flow,
            hidden_states=first.encoder.hidden_states,
            attentions=first.encoder.attentions,
            decoder_hidden_states=decoded.hidden_states,
            decoder_attentions=decoded.attentions,
            cross_attentions=decoded.cross_attentions,
        )

    def flow_loss(self, steps: list[tuple[torch.Tensor, torch.Tensor]], labels: torch.Tensor) -> torch.Tensor:
        """Bounded Laplacian loss of the last (flow, log_scale), plus half that of the one before, a quarter of the next, and so on."""
        config = self.config
        low, high, penalty = config.min_flow_scale, config.max_flow_scale, config.flow_scale_penalty
        losses = [
            bounded_laplacian_loss(*step, labels, min_scale=low, max_scale=high, penalty=penalty) for step in steps
        ]
        return torch.stack([loss * 0.5**i for i, loss in enumerate(reversed(losses))]).sum()

    def loss_counts(self, labels: torch.Tensor, **inputs: torch.Tensor) -> torch.Tensor:
        """
        What the loss of a batch is divided by: the number of known pixels and, with matching, of matched and of known positions.

        Args: those of `forward`.
        Returns: (1,) or (3,) float32.
        """
        counts = [flow_count(labels)]
        if self.config.matching_stride is not None:
            first, second = (
                as_windows(
                    inputs[f"{view}pixel_values"],
                    inputs.get(f"{view}window_positions"),
                    self.config,
                    f"{view}pixel_values",
                    inputs.get(f"{view}frame_sizes"),
                )[1]
                for view in ("", "second_")
            )
            counts += matching_counts(*self.matching.targets(labels, first, second))
        return torch.stack(counts).float()


@auto_docstring(
    custom_intro="Cross-view completion (CroCo), on whole images or in windows, to pre-train encoder and decoder."
)
class WinWinForPreTraining(WinWinPreTrainedModel):
    def __init__(self, config: WinWinConfig):
        super().__init__(config)
        self.winwin = WinWinModel(config)
        self.decoder = WinWinDecoder(config)
        check_compares(config)
        if config.attention_pattern != "global":
            raise ValueError(
                f"attention_pattern={config.attention_pattern!r}: pre-training drops single tokens; expected 'global'."
            )
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_hidden_size))
        self.head = nn.Linear(config.decoder_hidden_size, config.patch_size**2 * config.num_channels)
        self.post_init()

    @can_return_tuple
    @auto_docstring
    def forward(
        self,
        pixel_values: torch.Tensor,
        second_pixel_values: torch.Tensor,
        window_positions: torch.Tensor | None = None,
        second_window_positions: torch.Tensor | None = None,
        bool_masked_pos: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        frame_sizes: torch.Tensor | None = None,
        second_frame_sizes: torch.Tensor | None = None,
        loss_weights: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> WinWinPreTrainingOutput:
        r"""
        second_pixel_values (`torch.FloatTensor` of shape `(batch_size, [windows,] num_channels, height, width)`):
            The second view, of which nothing is hidden.
        window_positions (`torch.LongTensor` of shape `(batch_size, windows, 2)`, *optional*):
            (row, column) of each window's top-left patch in the full frame; with windows only.
        second_window_positions (`torch.LongTensor` of shape `(batch_size, second_windows, 2)`, *optional*):
            The same for the second view's windows, in its full frame.
        bool_masked_pos (`torch.BoolTensor` of shape `(batch_size, tokens)`, *optional*):
            Tokens of the first view to hide, as many in every image: random ones, or all outside some windows. Default:
            a random share of `config.mask_ratio`.
        labels (`torch.FloatTensor` of the shape of `pixel_values`, *optional*):
            The image to paint; by default the first view itself.
        frame_sizes (`torch.LongTensor` of shape `(batch_size, 2)`, *optional*):
            Rows and columns of the full frames in patches; with windows, encoders whose positions depend on the frame need them.
        second_frame_sizes (`torch.LongTensor` of shape `(batch_size, 2)`, *optional*):
            The same for the second view's frames.
        loss_weights (`torch.FloatTensor` of shape `(1,)`, *optional*):
            Factor of the loss, for a batch that is a part of a step's: its share of the `loss_counts` of all, times their number.
        """
        pixels, layout = as_windows(pixel_values, window_positions, self.config, frame_sizes=frame_sizes)
        _, second_layout = as_windows(
            second_pixel_values,
            second_window_positions,
            self.config,
            "second_pixel_values",
            frame_sizes=second_frame_sizes,
        )
        check_batch(layout, second_layout)
        refuse_recording("pre-training, which drops as many tokens as its mask says", pixel_values.shape[-1])
        num_tokens = layout.count * layout.rows * layout.columns
        if bool_masked_pos is None:
            order = torch.rand(layout.batch, num_tokens, device=pixels.device).argsort(dim=1)
            bool_masked_pos = order < self._num_masked(num_tokens)
        check_shape("bool_masked_pos", bool_masked_pos, (layout.batch, num_tokens))
        if bool_masked_pos.is_floating_point():
            raise ValueError(f"bool_masked_pos is of {bool_masked_pos.dtype}: expected bool.")
        bool_masked_pos = bool_masked_pos.bool()
        num_visible = (~bool_masked_pos).sum(1)
        if not is_traced():
            if bool((num_visible != num_visible[0]).any()):
                raise ValueError("bool_masked_pos hides a different number of tokens in each image: expected the same.")
            if int(num_visible[0]) == 0:
                raise ValueError("bool_masked_pos hides every token: expected one to stay.")
        # Stable sort: visible tokens first, each in its place's order, without a data-dependent shape per image.
        visible = bool_masked_pos.long().argsort(dim=1, stable=True)[:, : int(num_visible[0])]

        # A convolutional stem looks beyond its patch: hidden pixels are blanked, so that they reach nothing that stays.
        keep = layout.to_maps((~bool_masked_pos)[..., None].to(pixels.dtype))
        blanked = pixels * F.interpolate(keep, scale_factor=self.config.patch_size, mode="nearest")
        first = self.winwin(
            layout.to_output(blanked),
            window_positions,
            visible=visible,
            frame_sizes=frame_sizes,
            return_dict=True,
            **kwargs,
        )
        second = self.winwin(
            second_pixel_values, second_window_positions, frame_sizes=second_frame_sizes, return_dict=True, **kwargs
        )

        tokens = self.decoder.embed(self.patches(first.last_hidden_state))
        index = visible[..., None].expand(-1, -1, tokens.shape[-1])
        canvas = self.mask_token.expand(layout.batch, num_tokens, -1).to(tokens.dtype)
        tokens = canvas.scatter(1, index, tokens)
        memory = self.decoder.embed(self.patches(second.last_hidden_state))
        decoded = self.decoder(tokens, memory, layout, second_layout, return_dict=True, **kwargs)
        logits = self.head(decoded.last_hidden_state).float()

        if labels is not None:
            check_shape("labels", labels, pixel_values.shape)
        target = pixels if labels is None else labels.flatten(0, 1) if layout.windowed else labels
        patches = patchify(target.float(), self.config.patch_size).reshape(layout.batch, num_tokens, -1)
        loss = normalised_pixel_loss(logits, patches, bool_masked_pos)
        return WinWinPreTrainingOutput(
            loss=loss if loss_weights is None else loss_weights[0] * loss,
            logits=logits,
            bool_masked_pos=bool_masked_pos,
            hidden_states=first.hidden_states,
            attentions=first.attentions,
        )

    def _num_masked(self, num_tokens: int) -> int:
        return max(1, min(round(self.config.mask_ratio * num_tokens), num_tokens - 1))  # something must stay

    def loss_counts(
        self, pixel_values: torch.Tensor, bool_masked_pos: torch.Tensor | None = None, **_: Any
    ) -> torch.Tensor:
        """What the loss of a batch is divided by: the number of hidden patches. (1,) float32."""
        if bool_masked_pos is not None:
            return bool_masked_pos.sum().float()[None]
        num_tokens = pixel_values[0].numel() // (self.config.num_channels * self.config.patch_size**2)
        count = len(pixel_values) * self._num_masked(num_tokens)
        return torch.tensor([float(count)], device=pixel_values.device)


__all__ = [
    "WinWinBackbone",
    "WinWinForDepthEstimation",
    "WinWinForOpticalFlow",
    "WinWinForPreTraining",
    "WinWinForSemanticSegmentation",
    "WinWinModel",
    "WinWinPreTrainedModel",
]
