"""Registers the package's classes with transformers' Auto classes and pipelines: imported by whatever loads a network by its name."""

from collections import OrderedDict
from pathlib import Path

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForDepthEstimation,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
)
from transformers.models.auto.auto_factory import _BaseAutoModelClass, _LazyAutoMapping
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES
from transformers.pipelines import PIPELINE_REGISTRY

from winwin_hf.model import modeling_winwin as models
from winwin_hf.model.configuration_winwin import WinWinConfig
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.model.pipeline_winwin import register_pipeline

AutoConfig.register("winwin", WinWinConfig, exist_ok=True)
AutoImageProcessor.register(WinWinConfig, image_processor_classes={"pil": WinWinImageProcessor}, exist_ok=True)
# With a tuple, `from_pretrained` takes the class that the checkpoint's `architectures` names, so the bare AutoModel
# returns the model for the checkpoint's task; `from_config` takes the first.
AutoModel.register(
    WinWinConfig,
    (
        models.WinWinModel,
        models.WinWinForOpticalFlow,
        models.WinWinForSemanticSegmentation,
        models.WinWinForDepthEstimation,
        models.WinWinForPreTraining,
    ),
    exist_ok=True,
)
AutoBackbone.register(WinWinConfig, models.WinWinBackbone, exist_ok=True)
AutoModelForDepthEstimation.register(WinWinConfig, models.WinWinForDepthEstimation, exist_ok=True)
AutoModelForSemanticSegmentation.register(WinWinConfig, models.WinWinForSemanticSegmentation, exist_ok=True)
AutoModelForPreTraining.register(WinWinConfig, models.WinWinForPreTraining, exist_ok=True)
# The image-segmentation pipeline looks for a model's name here and says "not supported" without it, though it works.
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES["winwin"] = "WinWinForSemanticSegmentation"


class AutoEncoder(_BaseAutoModelClass):
    """The encoder of a checkpoint of any task. With AutoModel, which has heads here, image features would be its predictions."""

    _model_mapping = _LazyAutoMapping(OrderedDict(), OrderedDict())  # type: ignore[assignment]  # None in the base class


AutoEncoder.register(WinWinConfig, models.WinWinModel)
FEATURES = PIPELINE_REGISTRY.supported_tasks["image-feature-extraction"]
if not any(cls.__name__ == AutoEncoder.__name__ for cls in FEATURES["pt"]):
    FEATURES["pt"] = (AutoEncoder, *FEATURES["pt"])  # the pipeline takes the first that knows a checkpoint's config
# The folder, not the name: it works without `winwin checkpoints install`, and offline.
DEFAULT_FLOW = Path(__file__).with_name("checkpoints") / "winwin-flow"
register_pipeline(str(DEFAULT_FLOW) if DEFAULT_FLOW.is_dir() else None)
