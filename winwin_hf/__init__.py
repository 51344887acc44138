"""winwin_hf: Win-Win (ICLR 2024) on the Hugging Face stack. Importing it registers everything with the Auto classes.

Only the command `winwin` (winwin_command.py) goes without: registering imports torch and transformers, which takes seconds, and `winwin
--help` needs neither. Its commands import `winwin_hf.registration` when they load a network.
"""

import sys
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
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

if TYPE_CHECKING or "winwin_command" not in sys.modules:
    import winwin_hf.registration  # noqa: F401
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
    from winwin_hf.model.pipeline_winwin import OpticalFlowPipeline
else:

    def __getattr__(name: str) -> Any:
        """What the package has where it wasn't begun by the command: registered when it is asked for."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        importlib.import_module("winwin_hf.registration")
        for module in ("configuration", "image_processing", "modeling", "pipeline"):
            found = importlib.import_module(f"winwin_hf.model.{module}_winwin")
            if hasattr(found, name):
                return getattr(found, name)
        raise AttributeError(name)
