"""Public CroCo checkpoints (CroCo v2, CroCo-Flow, CroCo-Stereo) as Win-Win folders for `from_pretrained`.

tensors.py turns a file into a model, folder.py writes the folder and its card. model/croco_files_winwin.py reads the file.
"""

from winwin_hf.convert.croco.folder import Conversion, convert_croco
from winwin_hf.convert.croco.tensors import load_croco
from winwin_hf.model.croco_files_winwin import CrocoCheckpoint, read_croco

__all__ = ["Conversion", "CrocoCheckpoint", "convert_croco", "load_croco", "read_croco"]
