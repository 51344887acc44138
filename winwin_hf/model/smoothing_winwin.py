"""What takes the dots off a predicted flow: medians, wider ones where the network is unsure. Ours.

The refinement changes each cell of 4 x 4 pixels by itself. Where the match is unclear, beside a limb that moves fast, it leaves a cloud of
wrong pixels there, wider than one median.
"""

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from PIL import ImageFilter

try:  # a model published with its code works without
    import cv2
except ImportError:
    cv2 = None  # type: ignore[assignment]

CELL = 4  # pixels: side of the cells that are sure or unsure
AROUND = 5  # cells: so many around an unsure one are unsure, too
WIDE = 3  # medians at half the resolution


def smoothed(flow: torch.Tensor, log_scale: torch.Tensor | None, size: int) -> torch.Tensor:
    """
    A flow after its medians; not finite values stay. Without a gradient.

    Args:
        flow: (2, H, W) float32, pixels.
        log_scale: (H, W), the model's raw channel; None: nowhere is the network unsure.
        size: of a median, 3 or 5 pixels. Where the confidence is below one half, and around there, three more at half the resolution.
    """
    found = median(flow, size)
    if log_scale is None:
        return found
    height, width = log_scale.shape
    padding = (0, -width % CELL, 0, -height % CELL)  # so that halving and doubling shift nothing
    unsure = F.max_pool2d(F.pad((log_scale > 0)[None, None].float(), padding, mode="replicate"), CELL)
    if not unsure.any():
        return found
    unsure = F.max_pool2d(unsure, AROUND, 1, AROUND // 2)
    share = F.avg_pool2d(unsure, AROUND, 1, AROUND // 2, count_include_pad=False)
    share = F.interpolate(share, scale_factor=CELL, mode="bilinear", align_corners=False)[0, :, :height, :width]
    wide = F.avg_pool2d(F.pad(found[None], padding, mode="replicate"), 2)[0]
    for _ in range(WIDE):
        wide = median(wide, size)
    wide = F.interpolate(wide[None], scale_factor=2, mode="bilinear", align_corners=False)[0, :, :height, :width]
    return torch.where(wide.isfinite() & found.isfinite(), torch.lerp(found, wide, share), found)


def median(maps: torch.Tensor, size: int) -> torch.Tensor:
    """
    (K, H, W) float32 -> the median of the `size` x `size` pixels around each, 3 or 5, as if the edge went on; not finite values stay.

    By OpenCV where it is there; Pillow gives the same in a hundred times as long. Without a gradient.
    """
    maps, filtered = maps.detach(), []
    for values in maps.cpu().numpy():
        if cv2 is not None:
            filtered.append(cv2.medianBlur(np.ascontiguousarray(values), size))
        else:
            filtered.append(np.array(PIL.Image.fromarray(values).filter(ImageFilter.MedianFilter(size))))
    return torch.where(maps.isfinite(), torch.from_numpy(np.stack(filtered)).to(maps.device), maps)
