"""What the tests of flow and stereo sets share: decoding a row, and whether its flow leads from one picture to the other."""

from __future__ import annotations

import cv2
import numpy as np

from support.places import FRAMES
from winwin_hf.data import formats

DATA = FRAMES / "flow"
COLUMNS = {"name", "image1", "image2", "flow", "flow_format", "occluded", "occluded_format"}


def decoded(row):
    """image1, image2 and flow, at the images' size: of a doubled one, the mean of a pixel's four."""
    image1, image2 = (formats.decode_image(row[column]["path"]) for column in ("image1", "image2"))
    flow = formats.decode_flow(row["flow"]["path"], row["flow_format"])
    assert image1.shape == image2.shape and flow.dtype == np.float32 and flow.shape[2] == 2
    height, width = image1.shape[:2]
    if flow.shape[0] != height:
        assert flow.shape[:2] == (2 * height, 2 * width)
        flow = flow.reshape(height, 2, width, 2, 2).mean(axis=(1, 3))
    assert flow.shape[:2] == (height, width)
    return image1, image2, flow


def check_occluded(row):
    """In the scenes of make_flow_frames.py, just those pixels are occluded that leave the picture."""
    flow = decoded(row)[2]
    occluded = formats.decode_mask(row["occluded"]["path"], row["occluded_format"])
    assert occluded.dtype == bool and occluded.shape == flow.shape[:2]
    known = np.isfinite(flow).all(axis=2)
    assert (occluded == leaves(flow))[known].all() and 0 < occluded[known].sum() < 0.5 * known.sum(), row["name"]


def leaves(flow):
    """Pixels (H, W) whose match is outside (one just on the edge is inside); False where the flow is unknown."""
    height, width = flow.shape[:2]
    y, x = np.indices((height, width))
    x, y = x + flow[..., 0], y + flow[..., 1]
    return (x < -0.01) | (x > width - 0.99) | (y < -0.01) | (y > height - 0.99)


def difference(image1, image2, flow):
    """Mean absolute difference of the first picture and the second one warped to it, where a match is known and in the picture."""
    height, width = flow.shape[:2]
    y, x = np.indices((height, width), np.float32)
    known = np.isfinite(flow).all(axis=2) & ~leaves(flow)
    at = np.nan_to_num(np.stack([x + flow[..., 0], y + flow[..., 1]], axis=-1)).astype(np.float32)
    warped = cv2.remap(
        image2.astype(np.float32), at[..., 0], at[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
    assert known.mean() > 0.2
    return np.abs(warped - image1)[known].mean()


def wrong(flow):
    """What a wrong reading of the file would give."""
    nothing = np.where(np.isfinite(flow), np.float32(0), flow)
    return {
        "none": nothing,
        "sign": -flow,
        "twice": 2 * flow,
        "half": flow / 2,
        "u for v": flow[..., ::-1],
        "upside down": flow[::-1],
        "mirrored": flow[:, ::-1],
    }
