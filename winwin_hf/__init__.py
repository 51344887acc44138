"""winwin_hf: Win-Win (ICLR 2024) on the Hugging Face stack. Importing it registers everything with the Auto classes."""

from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForDepthEstimation,
    AutoModelForPreTraining,
    AutoModelForSemanticSegmentation,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES

from winwin_hf.model.configuration_winwin import WinWinConfig
from winwin_hf.model.image_processing_winwin import WinWinImageProcessor
from winwin_hf.model.modeling_winwin import (
    WinWinBackbone,
    WinWinForDepthEstimation,
    WinWinForOpticalFlow,
    WinWinForPreTraining,
    WinWinForSemanticSegmentation,
    WinWinModel,
    WinWinPreTrainedModel,
)
from winwin_hf.model.pipeline_winwin import OpticalFlowPipeline, register_pipeline

__version__ = "0.1.0"

AutoConfig.register("winwin", WinWinConfig, exist_ok=True)
AutoImageProcessor.register(WinWinConfig, image_processor_classes={"pil": WinWinImageProcessor}, exist_ok=True)
# With a tuple, `from_pretrained` takes the class that the checkpoint's `architectures` names, so the bare AutoModel
# returns the model for the checkpoint's task; `from_config` takes the first.
AutoModel.register(
    WinWinConfig,
    (
        WinWinModel,
        WinWinForOpticalFlow,
        WinWinForSemanticSegmentation,
        WinWinForDepthEstimation,
        WinWinForPreTraining,
    ),
    exist_ok=True,
)
AutoBackbone.register(WinWinConfig, WinWinBackbone, exist_ok=True)
AutoModelForDepthEstimation.register(WinWinConfig, WinWinForDepthEstimation, exist_ok=True)
AutoModelForSemanticSegmentation.register(WinWinConfig, WinWinForSemanticSegmentation, exist_ok=True)
AutoModelForPreTraining.register(WinWinConfig, WinWinForPreTraining, exist_ok=True)
# The image-segmentation pipeline looks for a model's name here and says "not supported" without it, though it works.
MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING_NAMES["winwin"] = "WinWinForSemanticSegmentation"
register_pipeline()

__all__ = [
    "OpticalFlowPipeline",
    "WinWinBackbone",
    "WinWinConfig",
    "WinWinForDepthEstimation",
    "WinWinForOpticalFlow",
    "WinWinForPreTraining",
    "WinWinForSemanticSegmentation",
    "WinWinImageProcessor",
    "WinWinModel",
    "WinWinPreTrainedModel",
]
