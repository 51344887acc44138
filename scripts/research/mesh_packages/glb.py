"""Binary glTF 2.0: one mesh with a primitive for each material, textures embedded, facts about the model in `asset.extras`."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from research.mesh_packages.model import Material, Part

TEXTURE_EDGE = 512  # the longest, pixels
JPEG_QUALITY = 88
FLOAT, UNSIGNED_INT = 5126, 5125
ARRAY_BUFFER, ELEMENT_ARRAY_BUFFER = 34962, 34963


class Buffer:
    """The binary chunk, its views and accessors."""

    def __init__(self) -> None:
        self.data, self.views, self.accessors = bytearray(), [], []

    def add(self, data: bytes, target: int | None = None) -> int:
        """The index of a new view of the bytes."""
        self.data += bytes(-len(self.data) % 4)
        view = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        self.views.append(view if target is None else {**view, "target": target})
        self.data += data
        return len(self.views) - 1

    def add_array(self, array: np.ndarray, kind: str, target: int) -> int:
        """The index of a new accessor of the float32 or uint32 array."""
        floats = target == ARRAY_BUFFER
        array = np.ascontiguousarray(array, np.float32 if floats else np.uint32)
        accessor: dict[str, Any] = {
            "bufferView": self.add(array.tobytes(), target),
            "componentType": FLOAT if floats else UNSIGNED_INT,
            "count": len(array),
            "type": kind,
        }
        if kind == "VEC3":
            accessor |= {"min": array.min(0).tolist(), "max": array.max(0).tolist()}
        self.accessors.append(accessor)
        return len(self.accessors) - 1


def encode(parts: list[Part], name: str, extras: dict[str, Any]) -> bytes:
    """The file. Parts with the same material share one entry, parts with the same image one image."""
    buffer, materials, images = Buffer(), [], []
    material_index: dict[int, int] = {}
    image_index: dict[tuple[int, bool], int] = {}
    primitives = []
    for part in parts:
        key = id(part.material)
        if key not in material_index:
            material_index[key] = len(materials)
            materials.append(material_entry(part.material, buffer, images, image_index))
        attributes = {"POSITION": buffer.add_array(part.positions, "VEC3", ARRAY_BUFFER)}
        if part.normals is not None:
            attributes["NORMAL"] = buffer.add_array(part.normals, "VEC3", ARRAY_BUFFER)
        if part.uv is not None and part.material.image is not None:
            attributes["TEXCOORD_0"] = buffer.add_array(part.uv, "VEC2", ARRAY_BUFFER)
        indices = buffer.add_array(part.faces.reshape(-1), "SCALAR", ELEMENT_ARRAY_BUFFER)
        primitives.append({"attributes": attributes, "indices": indices, "material": material_index[key]})
    document: dict[str, Any] = {
        "asset": {
            "version": "2.0",
            "generator": "winwin_hf scripts/research/meshes.py",
            "copyright": f"{extras.get('author', '')}; {extras.get('licence', '')}",
            "extras": extras,
        },
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": name}],
        "meshes": [{"name": name, "primitives": primitives}],
        "materials": materials,
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    if images:
        document |= {
            "images": images,
            "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 10497, "wrapT": 10497}],
            "textures": [{"source": index, "sampler": 0} for index in range(len(images))],
        }
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    data = bytes(buffer.data) + bytes(-len(buffer.data) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def material_entry(
    material: Material, buffer: Buffer, images: list[dict[str, Any]], index: dict[tuple[int, bool], int]
) -> dict[str, Any]:
    """glTF's material. Colours are linear there, so sRGB ones are converted."""
    surface: dict[str, Any] = {"metallicFactor": 0, "roughnessFactor": 0.8}
    if material.image is None:
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in material.colour]
        surface["baseColorFactor"] = [*linear, 1]
    else:
        key = id(material.image), material.cut_out
        if key not in index:
            index[key] = len(images)
            data, kind = encoded_image(material.image, material.cut_out)
            images.append({"bufferView": buffer.add(data), "mimeType": kind})
        surface["baseColorTexture"] = {"index": index[key]}
    entry = {"pbrMetallicRoughness": surface, "doubleSided": True}
    return {**entry, "alphaMode": "MASK", "alphaCutoff": 0.5} if material.cut_out else entry


def encoded_image(image: Image.Image, alpha: bool) -> tuple[bytes, str]:
    """The image at most TEXTURE_EDGE long, with its media type: PNG with alpha, JPEG without."""
    image = image.convert("RGBA" if alpha else "RGB")
    factor = TEXTURE_EDGE / max(image.size)
    if factor < 1:
        image = image.resize([max(1, round(edge * factor)) for edge in image.size], Image.Resampling.BOX)
    out = io.BytesIO()
    if alpha:
        image.save(out, "PNG")
    else:
        image.save(out, "JPEG", quality=JPEG_QUALITY)
    return out.getvalue(), "image/png" if alpha else "image/jpeg"


def extras_of(path: Path) -> dict[str, Any]:
    """The facts that `encode` wrote into a file, without reading its meshes."""
    with path.open("rb") as file:
        magic, _, _, length, _ = struct.unpack("<4sIII4s", file.read(20))
        if magic != b"glTF":
            raise ValueError(f"{path} isn't a GLB file")
        return json.loads(file.read(length))["asset"]["extras"]
