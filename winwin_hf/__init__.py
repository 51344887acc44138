"""winwin_hf: Win-Win (ICLR 2024) on the Hugging Face stack. Importing it registers everything with the Auto classes.

The public names, torch and transformers are imported when they are needed, so that the command line starts quickly. Importing
`winwin_hf.model` registers; that happens at once where transformers is imported already, otherwise right after its import
(importing.py).
"""

from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING, Any

from winwin_hf.importing import import_after

if TYPE_CHECKING:  # the same names, for type checkers and documentation tools
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
_MODULES = {
    "OpticalFlowPipeline": "pipeline_winwin",
    "WinWinConfig": "configuration_winwin",
    "WinWinImageProcessor": "image_processing_winwin",
}
# Threads that need a name at the same time must not import transformers at the same time, which it can't stand.
_LOCK = RLock()


def __getattr__(name: str) -> Any:
    """A public name, imported at its first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with _LOCK:
        module = import_module(f"winwin_hf.model.{_MODULES.get(name, 'modeling_winwin')}")
    globals()[name] = getattr(module, name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


import_after("transformers", "winwin_hf.model")
