"""Public CroCo checkpoints (CroCo v2, CroCo-Flow, CroCo-Stereo) as Win-Win folders for `from_pretrained`.

checkpoint.py reads a file, tensors.py turns it into a model, folder.py writes the folder and its card.
"""

from winwin_hf.convert.croco.checkpoint import CrocoCheckpoint, read_croco
from winwin_hf.convert.croco.folder import Conversion, convert_croco
from winwin_hf.convert.croco.tensors import load_croco

__all__ = ["Conversion", "CrocoCheckpoint", "convert_croco", "load_croco", "read_croco"]
