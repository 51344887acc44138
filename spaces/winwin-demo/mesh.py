"""A depth map and its picture -> a surface in space, as the bytes of a binary glTF file (.glb).

Notable:
- The surface is the picture laid over a grid of points. Depth is smoothed by a median filter; the surface is cut where depth still
  jumps, so that near things aren't joined to what is behind them. The nearest and the farthest hundredth of the depths are clipped.
- It is unlit (KHR_materials_unlit): the viewer shows the picture's own colours.
- The camera is unknown. The field of view is that of the sensor of the bundled checkpoint's training data, so shapes are only roughly
  right.

Axes are glTF's: x right, y up, the camera looks along -z; units are metres.
"""

from __future__ import annotations

import io
import json
import math
import struct

import cv2
import numpy as np
from PIL import Image

FOCAL_SHARE = 585 / 640  # focal length / longer side: the Kinect of 7-Scenes, about 57 degrees across
GRID_POINTS = 40_000  # of the surface, at most: about 2 MB of geometry
JUMP = 1.08  # neighbours whose depths differ by a larger factor are not joined
TEXTURE_SIDE = 1024

# glTF's numbers
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963
FLOAT, UNSIGNED_INT = 5126, 5125
CLAMP_TO_EDGE = 33071


def surface(depth: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth (H, W) metres -> points (P, 3) float32, texture coordinates (P, 2) float32, triangles (T, 3) uint32.

    T is 0 where no triangle is left (a picture of one row, no finite depth).
    """
    height, width = depth.shape
    step = max(1.0, math.sqrt(height * width / GRID_POINTS))
    rows = np.linspace(0, height - 1, max(2, int(height / step))).round().astype(np.intp)
    columns = np.linspace(0, width - 1, max(2, int(width / step))).round().astype(np.intp)
    z = depth[np.ix_(rows, columns)].astype(np.float32)
    known = np.isfinite(z) & (z > 0)
    if known.any():  # a few extreme points would make the rest small in the viewer
        z = z.clip(*np.percentile(z[known], (1, 99)))
    z = cv2.medianBlur(np.where(known, z, np.float32(1)).astype(np.float32), 5)
    focal = FOCAL_SHARE * max(height, width)
    x = (columns[None, :] - (width - 1) / 2) / focal * z
    y = (rows[:, None] - (height - 1) / 2) / focal * z
    points = np.stack([x, -y, -z], axis=-1).reshape(-1, 3).astype(np.float32)
    u, v = np.broadcast_arrays((columns[None, :] + 0.5) / width, (rows[:, None] + 0.5) / height)
    texture = np.stack([u, v], axis=-1).reshape(-1, 2).astype(np.float32)

    index = np.arange(z.size, dtype=np.uint32).reshape(z.shape)
    corners = index[:-1, :-1], index[1:, :-1], index[:-1, 1:], index[1:, 1:]
    halves = [(0, 1, 2), (2, 1, 3)]  # counter-clockwise seen from the camera
    triangles = np.concatenate([np.stack([corners[i] for i in half], axis=-1).reshape(-1, 3) for half in halves])
    flat, good = z.reshape(-1)[triangles], known.reshape(-1)[triangles].all(axis=1)
    return points, texture, triangles[good & (flat.max(axis=1) < JUMP * flat.min(axis=1))]


def glb(image: np.ndarray, depth: np.ndarray) -> bytes:
    """The picture (H, W, 3) uint8 over its depth (H, W) metres, as a .glb file."""
    points, texture, triangles = surface(depth)
    if not len(triangles):
        raise ValueError(f"A depth map of {depth.shape} gives no surface.")
    picture = Image.fromarray(image)
    picture.thumbnail((TEXTURE_SIDE, TEXTURE_SIDE))
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=88)

    blocks = [points.tobytes(), texture.tobytes(), triangles.tobytes(), jpeg.getvalue()]
    views, binary = [], b""
    for block, target in zip(blocks, (ARRAY_BUFFER, ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER, None), strict=True):
        view = {"buffer": 0, "byteOffset": len(binary), "byteLength": len(block)}
        views.append(view | ({} if target is None else {"target": target}))
        binary += block + b"\0" * (-len(block) % 4)
    low, high = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    document = {
        "asset": {"version": "2.0", "generator": "winwin_hf demo"},
        "extensionsUsed": ["KHR_materials_unlit"],
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "depth"}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "indices": 2, "material": 0}]}],
        "materials": [
            {
                "pbrMetallicRoughness": {"baseColorTexture": {"index": 0}, "metallicFactor": 0, "roughnessFactor": 1},
                "doubleSided": True,
                "extensions": {"KHR_materials_unlit": {}},
            }
        ],
        "textures": [{"source": 0, "sampler": 0}],
        "samplers": [{"wrapS": CLAMP_TO_EDGE, "wrapT": CLAMP_TO_EDGE}],
        "images": [{"bufferView": 3, "mimeType": "image/jpeg"}],
        "accessors": [
            {"bufferView": 0, "componentType": FLOAT, "count": len(points), "type": "VEC3", "min": low, "max": high},
            {"bufferView": 1, "componentType": FLOAT, "count": len(texture), "type": "VEC2"},
            {"bufferView": 2, "componentType": UNSIGNED_INT, "count": triangles.size, "type": "SCALAR"},
        ],
        "bufferViews": views,
        "buffers": [{"byteLength": len(binary)}],
    }
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    head = struct.pack("<4sII", b"glTF", 2, total)
    return head + struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary
