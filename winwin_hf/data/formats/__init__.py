"""Reads and writes files of images, flow, depth, labels and masks; the rest of the package imports them from here.

Notable:
- A source is a path or a `Blob`. images.py, arrays.py and hdf5.py have the readers and writers of each format.
- `read_*` return what is stored. `decode_*` (decode.py) choose a reader by a row's `*_format` and return the package's own
  conventions: flow float32 (H, W, 2), (u right, v down) in pixels, NaN unknown; depth float32 (H, W), metres along the optical
  axis, NaN unknown; labels uint8 (H, W), 255 ignored; images uint8 RGB (H, W, 3); masks bool (H, W).
- A malformed file is one ValueError that names it, a missing one FileNotFoundError. Before an array is allocated, the size in the
  file's header is checked against the file's size.
- A file that is written holds what was read, bit for bit; each writer says what its format can't hold exactly.
"""

from winwin_hf.data.formats.arrays import (
    FLO_LIMIT,
    FLO_MAGIC,
    FLO_UNKNOWN,
    read_flo,
    read_npy,
    read_npz,
    read_pfm,
    write_flo,
    write_npy,
    write_npz,
    write_pfm,
)
from winwin_hf.data.formats.decode import (
    IGNORE,
    decode_depth,
    decode_flow,
    decode_image,
    decode_label,
    decode_mask,
)
from winwin_hf.data.formats.files import Blob, PathLike, Source, name_of, write_atomic
from winwin_hf.data.formats.hdf5 import (
    is_mat_entry,
    read_dsp5,
    read_flo5,
    read_hdf5,
    read_hypersim,
    read_nyu_depth,
    read_nyu_image,
    write_dsp5,
    write_flo5,
    write_hdf5,
    write_hypersim,
    write_nyu_mat,
)
from winwin_hf.data.formats.images import (
    MOST_METRES,
    read_depth_png,
    read_image,
    read_kitti_disparity,
    read_kitti_flow,
    read_labels,
    read_mask,
    save_image,
    write_depth,
    write_depth_png,
    write_kitti_disparity,
    write_kitti_flow,
    write_labels,
)

__all__ = [
    "FLO_LIMIT",
    "FLO_MAGIC",
    "FLO_UNKNOWN",
    "IGNORE",
    "MOST_METRES",
    "Blob",
    "PathLike",
    "Source",
    "decode_depth",
    "decode_flow",
    "decode_image",
    "decode_label",
    "decode_mask",
    "is_mat_entry",
    "name_of",
    "read_depth_png",
    "read_dsp5",
    "read_flo",
    "read_flo5",
    "read_hdf5",
    "read_hypersim",
    "read_image",
    "read_kitti_disparity",
    "read_kitti_flow",
    "read_labels",
    "read_mask",
    "read_npy",
    "read_npz",
    "read_nyu_depth",
    "read_nyu_image",
    "read_pfm",
    "save_image",
    "write_atomic",
    "write_depth",
    "write_depth_png",
    "write_dsp5",
    "write_flo",
    "write_flo5",
    "write_hdf5",
    "write_hypersim",
    "write_kitti_disparity",
    "write_kitti_flow",
    "write_labels",
    "write_npy",
    "write_npz",
    "write_nyu_mat",
    "write_pfm",
]
