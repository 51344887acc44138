"""
Files of meshes, by `trimesh`, in one form: y up, metres, the middle of the base at the origin. Source: ours.

A stranger's file may ask for anything. So its own words are read first: how many numbers, nodes and triangles it declares, and what other
files it names. These lie in its folder, are files (no pipes), and have a size that is known before they are read.
"""

from __future__ import annotations

import base64
import io
import json
import math
import stat
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from winwin_hf.data.worlds.kinds import KINDS, label_of
from winwin_hf.data.worlds.meshes import EXTRA, WHITE, Material, Mesh, joined, make_mesh, tint_of

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".dae", ".stl", ".off")
TEXTURE_SIDE = 256  # pixels; larger textures are reduced: a world shows a hundred of them
MAX_TRIANGLES = 200_000
MAX_BYTES = 2**28  # of a file
MAX_ENTRIES = 5 * 10**6  # that a glTF declares: vertices, indices and the like
MAX_PARTS = 2000  # nodes, and meshes with a material of their own
MAX_TEXTURE = 4096 * 4096  # pixels
MAX_COPIES = 100.0  # of a texture side by side on one mesh


def find_meshes(folder: str | Path, unusable: bool = False) -> dict[str, list[Path]]:
    """
    Kind -> files of meshes below a folder, sorted. A file's kind is the nearest folder above it, or else the first word of its
    name, that is one; "other" without.

    Args:
        unusable: also what has a mesh's name and is no file, such as a link that leads nowhere. `read_mesh` says what is wrong with it.
    Raises: FileNotFoundError if there is no folder, or no mesh in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"meshes folder {str(root)!r} is not a folder")
    found: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in SUFFIXES and (path.is_file() or (unusable and not path.is_dir())):
            found.setdefault(kind_of(path.relative_to(root)), []).append(path)
    if not found:
        raise FileNotFoundError(f"meshes folder {str(root)!r} has no mesh: expected {', '.join(SUFFIXES)}")
    return found


def kind_of(path: Path) -> str:
    """The kind of thing that a file of this path is."""
    for name in reversed(path.parts[:-1]):
        for kind in (name.lower(), name.lower().removesuffix("s")):
            if kind in KINDS:
                return kind
    words = "".join(c if c.isalpha() else " " for c in path.stem.lower()).split()
    return next((word for word in words if word in KINDS), "other")


def read_mesh(path: str | Path, kind: str = "other", left_out: list[str] | None = None) -> Mesh:
    """
    A file as a mesh of a plausible size: metres as the file says, or if its kind is never so small or so large, brought to the middle of
    its kind's sizes.

    Args:
        left_out: gets the names of the textures and materials that can't be had, with the reason. The mesh is read without them.
    Raises ValueError for a file that can't be read, or has no triangle or too many; the message names it.
    """
    path = Path(path)
    check_file(path)
    try:
        import trimesh
    except ImportError as error:
        raise ImportError(EXTRA) from error
    try:
        check_declared(path, left_out)
        with path.open("rb") as file:
            scene = trimesh.load_scene(
                file, file_type=path.suffix[1:].lower(), resolver=_neighbours(path, left_out), process=False
            )
        copies = [scene.geometry[scene.graph[node][1]] for node in scene.graph.nodes_geometry]
    except Exception as error:  # of any of its readers
        raise ValueError(f"{path}: can't be read as a mesh ({type(error).__name__}: {str(error)[:200]})") from error
    count = sum(len(getattr(copy, "faces", ())) for copy in copies)  # before each is copied
    if not 0 < count <= MAX_TRIANGLES or len(copies) > MAX_PARTS:
        raise ValueError(
            f"{path}: {count:,} triangles in {len(copies):,} parts; expected 1 to {MAX_TRIANGLES:,} in {MAX_PARTS:,}"
        )
    label = label_of(KINDS[kind].label)
    try:
        parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
        mesh = joined([_part(part, label) for part in parts], kind)
    except Exception as error:
        raise ValueError(f"{path}: can't be used as a mesh ({type(error).__name__}: {str(error)[:200]})") from error
    return _placed(mesh, path)


def check_file(path: Path) -> None:
    """Raises ValueError for a pipe, a device or a folder, and for a file that is too large; OSError if there is none."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path}: no file, but a pipe, device or folder; expected a mesh or what belongs to one")
    if found.st_size > MAX_BYTES:
        raise ValueError(f"{path}: {found.st_size / 2**20:.0f} MB; expected at most {MAX_BYTES >> 20}")


def _neighbours(path: Path, left_out: list[str] | None) -> Any:
    """What trimesh asks for the other files that a mesh names: those in its folder alone. `left_out`: see `read_mesh`."""
    from trimesh.resolvers import Resolver

    folder = path.parent.resolve()

    class Neighbours(Resolver):
        def __init__(self) -> None:
            pass

        def get(self, name: str) -> bytes:
            try:
                return self.read(str(name).strip())
            except Exception as error:  # Pillow's of a bomb is of no other class
                if left_out is not None:
                    left_out.append(f"{path}: names {str(name)[:80]!r} ({str(error)[:200]})")
                raise

        def read(self, name: str) -> bytes:
            wanted = (folder / name).resolve()
            if not wanted.is_relative_to(folder):
                raise ValueError(f"{name[:80]!r} isn't in its folder")
            check_file(wanted)
            if wanted.suffix.lower() in Image.registered_extensions():
                with Image.open(wanted) as image:
                    check_texture(image)
                    image.verify()
            return wanted.read_bytes()

        def write(self, name: str, data: Any) -> None:
            raise ValueError("a mesh is only read")

        def keys(self) -> list[str]:
            return [str(file.relative_to(folder)) for file in sorted(folder.iterdir()) if file.is_file()]

        def namespaced(self, namespace: str) -> Any:
            raise ValueError("folders of a mesh's own aren't read")

    return Neighbours()


def check_texture(image: Any) -> None:
    """Raises ValueError for a picture that is too large for a texture."""
    if image.width * image.height > MAX_TEXTURE:
        raise ValueError(f"a texture of {image.width}x{image.height} pixels; expected at most {MAX_TEXTURE:,}")


def check_declared(path: Path, left_out: list[str] | None = None) -> None:
    """
    Raises ValueError for a glTF or GLB that declares more numbers or nodes than a mesh has, before any is made.

    Args:
        left_out: gets the pictures in the file that can't be had, see `read_mesh`.
    """
    if path.suffix.lower() not in (".glb", ".gltf"):
        return
    data, body = path.read_bytes(), b""
    if path.suffix.lower() == ".glb":
        if len(data) < 20 or data[:4] != b"glTF" or data[16:20] != b"JSON":
            raise ValueError("no GLB")
        end = 20 + struct.unpack("<I", data[12:16])[0]
        data, body = data[20:end], data[end + 8 :]
    tree = json.loads(data.decode("utf-8"))
    if not isinstance(tree, dict):
        raise ValueError("its JSON is no object")
    entries = sum(int(one.get("count", 0)) for one in tree.get("accessors", ()))
    nodes = len(tree.get("nodes", ()))
    if not 0 <= entries <= MAX_ENTRIES or nodes > MAX_PARTS:
        raise ValueError(
            f"declares {entries:,} entries and {nodes:,} nodes; expected at most {MAX_ENTRIES:,} and {MAX_PARTS:,}"
        )
    primitives = [len(mesh.get("primitives", ())) for mesh in tree.get("meshes", ())]
    if sum(primitives) > MAX_PARTS:
        raise ValueError(f"declares {sum(primitives):,} parts; expected at most {MAX_PARTS:,}")
    for number, declared in enumerate(tree.get("images", ())):
        try:
            if embedded := _embedded_picture(declared, tree, body):
                with Image.open(io.BytesIO(embedded)) as image:
                    check_texture(image)
        except Exception as error:  # trimesh leaves it out, and is silent
            if left_out is not None:
                left_out.append(f"{path}: its picture {number} ({str(error)[:200]})")


def _embedded_picture(declared: dict[str, Any], tree: dict[str, Any], body: bytes) -> bytes:
    """A picture of a glTF that lies in the file itself; b"" for another one. body: what follows a GLB's JSON."""
    uri, view = str(declared.get("uri", "")), declared.get("bufferView")
    if uri.startswith("data:"):
        return base64.b64decode(uri.partition(",")[2])
    if view is None:
        return b""
    start, length = (int(tree["bufferViews"][view].get(key, 0)) for key in ("byteOffset", "byteLength"))
    return body[start : start + length]


def _part(part: Any, label: int) -> Mesh:
    """One of trimesh's meshes."""
    vertices, faces = np.asarray(part.vertices, np.float64), np.asarray(part.faces, np.int32)
    visual = part.visual
    uv = getattr(visual, "uv", None)
    material = _material(visual, label, textured=uv is not None)
    # trimesh computes normals where a file has none; then a flat triangle is better
    normals = np.asarray(part.vertex_normals, np.float32) if "vertex_normals" in part._cache else None
    uv = None if uv is None or len(uv) != len(vertices) else np.asarray(uv, np.float64)
    if uv is not None:
        uv = np.where(np.isfinite(uv), uv, 0.0)
        uv = uv - np.floor(uv.min(0))
        uv = np.zeros_like(uv) if uv.max(initial=0) > MAX_COPIES else uv
    return make_mesh(vertices, faces, (material,), uv=uv, normals=normals)


def _material(visual: Any, label: int, textured: bool) -> Material:
    """The look of one of trimesh's meshes; colours of vertices become their mean."""
    source = getattr(visual, "material", None)
    image = getattr(source, "baseColorTexture", None)
    image = getattr(source, "image", None) if image is None else image
    factor = getattr(source, "baseColorFactor", None)
    if factor is None and source is not None:
        factor = getattr(source, "main_color", None)
    elif source is None and getattr(visual, "defined", False):
        factor = visual.to_color().vertex_colors.mean(0)
    tint = np.ones(4) if factor is None else np.asarray(factor, np.float64).reshape(-1)
    tint = tint / 255 if tint.max(initial=0) > 1 else tint
    if getattr(source, "baseColorFactor", None) is not None:  # glTF's is linear light
        tint = tint ** (1 / 2.2)
    if image is None or not textured or image.width * image.height > MAX_TEXTURE:  # which `left_out` names
        return Material(WHITE, tint_of(tint[:3]), label, gloss=0.15)
    pixels = np.array(image.convert("RGBA"))
    scale = TEXTURE_SIDE / max(pixels.shape[:2])
    if scale < 1:
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    mode = getattr(source, "alphaMode", None)
    cut = mode != "OPAQUE" and bool((pixels[..., 3] < 128).mean() > 0.005)
    return Material(pixels, tint_of(tint[:3]), label, gloss=0.1, cut=cut)


def _placed(mesh: Mesh, path: Path) -> Mesh:
    """The middle of its base at the origin, and a plausible size."""
    vertices = mesh.vertices
    if not np.isfinite(vertices).all() or np.abs(vertices).max() > 1e6:
        raise ValueError(f"{path}: coordinates that aren't finite, or beyond 1e6")
    if mesh.faces.min() < 0 or mesh.faces.max() >= len(vertices):
        raise ValueError(f"{path}: triangles of vertices that aren't there")
    low, high = vertices.min(0), vertices.max(0)
    extent = high - low
    if extent.max() <= 1e-5:
        raise ValueError(f"{path}: all its vertices lie in one point")
    mesh = replace(mesh, vertices=vertices - [(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    kind = KINDS[mesh.kind]
    if kind.lies and extent[0] > extent[2]:  # its longer side towards z
        turn = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
        mesh = replace(mesh, vertices=mesh.vertices @ turn.T, normals=(mesh.normals @ turn.T).astype(np.float32))
    size = max(extent[0], extent[2]) if kind.lies else max(extent[1], 0.2 * extent.max())
    smallest, largest = kind.size
    return mesh if 0.7 * smallest <= size <= 1.4 * largest else mesh.scaled(math.sqrt(smallest * largest) / size)
