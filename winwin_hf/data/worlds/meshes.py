"""Triangle meshes: what one is, and how files of them are read.

`trimesh` reads GLB, glTF, OBJ, PLY, DAE, STL and OFF; here they become arrays in one form: y up, metres, the middle of the base at the
origin.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from winwin_hf.data.worlds.kinds import KINDS, UNNAMED, label_of

SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".dae", ".stl", ".off")
TEXTURE_SIDE = 256  # pixels; larger textures are reduced: a world shows a hundred of them
MAX_TRIANGLES = 200_000
MAX_BYTES = 2**28  # of a file
WHITE = np.full((1, 1, 4), 255, np.uint8)
EXTRA = "worlds need trimesh and embreex: pip install 'winwin-hf[worlds]'"


@dataclass(frozen=True, eq=False)
class Material:
    """
    How a part of a mesh looks.

    Attributes:
        texture: uint8 RGBA (h, w, 4), or the number of a texture of the bank.
        tint: (3,) factors of its colours.
        label: class of the part, `UNNAMED` for none.
        gloss: share of light that it mirrors towards the eye at most.
        cut: whether what has an alpha below a half isn't there.
    """

    texture: np.ndarray | int
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    label: int = UNNAMED
    gloss: float = 0.0
    cut: bool = False


@dataclass(frozen=True, eq=False)
class Mesh:
    """
    Triangles.

    Attributes:
        vertices: float64 (V, 3) metres, y up. faces: int32 (F, 3). normals: float32 (V, 3) unit. uv: float32 (V, 2), v up.
        material: int16 (F,) index of `materials`.
        kind: name of `KINDS`.
        moved: float64 (V, 3) by which vertices move from frame 1 to frame 2 in the mesh's own coordinates; None: it is rigid.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    material: np.ndarray
    materials: tuple[Material, ...]
    kind: str = "other"
    moved: np.ndarray | None = None
    _trees: dict[float, Any] = field(default_factory=dict, repr=False)

    def at(self, time: float) -> np.ndarray:
        """Vertices at a time; 0 is frame 1, 1 is frame 2."""
        return self.vertices if self.moved is None else self.vertices + time * self.moved

    def tree(self, time: float) -> Any:
        """Embree's tree over the triangles at a time, made at first use."""
        from embreex.mesh_construction import TriangleMesh
        from embreex.rtcore_scene import EmbreeScene

        key = 0.0 if self.moved is None else time
        if key not in self._trees:
            scene = EmbreeScene(robust=True)
            TriangleMesh(scene, self.at(time).astype(np.float32), self.faces)
            self._trees[key] = scene
        return self._trees[key]

    @cached_property
    def bounds(self) -> np.ndarray:
        """(2, 3) lowest and highest coordinates, over the whole time."""
        both = self.vertices if self.moved is None else np.concatenate([self.vertices, self.vertices + self.moved])
        return np.stack([both.min(0), both.max(0)])

    @cached_property
    def cut(self) -> np.ndarray:
        """bool (F,): faces with a material that has holes."""
        return np.array([m.cut for m in self.materials], bool)[self.material]

    @cached_property
    def density(self) -> np.ndarray:
        """float32 (F,): side of a texture, in its own units, per metre of the surface."""
        a, b, c = (self.vertices[self.faces[:, i]] for i in range(3))
        area = np.linalg.norm(np.cross(b - a, c - a), axis=1)
        p, q, r = (self.uv[self.faces[:, i]].astype(np.float64) for i in range(3))
        e, g = q - p, r - p
        return np.sqrt(np.abs(e[:, 0] * g[:, 1] - e[:, 1] * g[:, 0]) / np.maximum(area, 1e-12)).astype(np.float32)

    def scaled(self, factors: float | np.ndarray) -> Mesh:
        """Larger by a factor, or by one for each axis."""
        normals = self.normals / np.broadcast_to(np.asarray(factors, np.float32), (3,))
        return replace(
            self,
            vertices=self.vertices * factors,
            normals=_unit(normals),
            moved=None if self.moved is None else self.moved * factors,
            _trees={},
        )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)).astype(np.float32)


def make_mesh(
    vertices: np.ndarray,
    faces: np.ndarray,
    materials: tuple[Material, ...],
    material: np.ndarray | None = None,
    uv: np.ndarray | None = None,
    normals: np.ndarray | None = None,
    kind: str = "other",
) -> Mesh:
    """A mesh from arrays; without normals each triangle is flat, with vertices of its own."""
    vertices, faces = np.asarray(vertices, np.float64), np.asarray(faces, np.int32)
    uv = np.zeros((len(vertices), 2), np.float32) if uv is None else np.asarray(uv, np.float32)
    if normals is None:
        vertices, uv = vertices[faces].reshape(-1, 3), uv[faces].reshape(-1, 2)
        faces = np.arange(len(vertices), dtype=np.int32).reshape(-1, 3)
        a, b, c = (vertices[i::3] for i in range(3))
        across = np.cross(b - a, c - a)
        normals = np.repeat(_unit(np.where((across**2).sum(1, keepdims=True) > 0, across, [0.0, 1.0, 0.0])), 3, axis=0)
    material = np.zeros(len(faces), np.int16) if material is None else np.asarray(material, np.int16)
    return Mesh(vertices, faces, np.asarray(normals, np.float32), uv, material, tuple(materials), kind)


def joined(meshes: list[Mesh], kind: str = "other") -> Mesh:
    """One mesh of several; equal materials are not merged."""
    vertices = np.cumsum([0, *(len(m.vertices) for m in meshes[:-1])])
    materials = np.cumsum([0, *(len(m.materials) for m in meshes[:-1])])
    return Mesh(
        np.concatenate([m.vertices for m in meshes]),
        np.concatenate([m.faces + np.int32(n) for m, n in zip(meshes, vertices, strict=True)]),
        np.concatenate([m.normals for m in meshes]),
        np.concatenate([m.uv for m in meshes]),
        np.concatenate([m.material + np.int16(n) for m, n in zip(meshes, materials, strict=True)]),
        tuple(material for m in meshes for material in m.materials),
        kind,
    )


# ---------------------------------------------------------------------------------------------------------------- files


def find_meshes(folder: str | Path) -> dict[str, list[Path]]:
    """
    Kind -> files of meshes below a folder, sorted. A file's kind is the nearest folder above it, or else the first word of its
    name, that is one; "other" without.

    Raises: FileNotFoundError if there is no folder, or no mesh in it.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"meshes folder {str(root)!r} is not a folder")
    found: dict[str, list[Path]] = {}
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file():
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


def read_mesh(path: str | Path, kind: str = "other") -> Mesh:
    """
    A file as a mesh of a plausible size: metres as the file says, or if its kind is never so small or so large, brought to the middle of
    its kind's sizes.

    Raises ValueError for a file that can't be read, or has no triangle or too many; the message names it.
    """
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size / 2**20:.0f} MB; expected a mesh of at most {MAX_BYTES >> 20}")
    try:
        import trimesh
    except ImportError as error:
        raise ImportError(EXTRA) from error
    try:
        scene = trimesh.load_scene(path, process=False)
        parts = [part for part in scene.dump() if isinstance(part, trimesh.Trimesh) and len(part.faces)]
    except Exception as error:  # of any of its readers
        raise ValueError(f"{path}: can't be read as a mesh ({type(error).__name__}: {str(error)[:200]})") from error
    count = sum(len(part.faces) for part in parts)
    if not 0 < count <= MAX_TRIANGLES:
        raise ValueError(f"{path}: {count:,} triangles; expected 1 to {MAX_TRIANGLES:,}")
    label = label_of(KINDS[kind].label)
    try:
        mesh = joined([_part(part, label) for part in parts], kind)
    except Exception as error:
        raise ValueError(f"{path}: can't be used as a mesh ({type(error).__name__}: {str(error)[:200]})") from error
    return _placed(mesh, path)


def _part(part: Any, label: int) -> Mesh:
    """One of trimesh's meshes."""
    vertices, faces = np.asarray(part.vertices, np.float64), np.asarray(part.faces, np.int32)
    visual = part.visual
    uv = getattr(visual, "uv", None)
    material = _material(visual, label, textured=uv is not None)
    given = part.metadata.get("has_normals", True) and "vertex_normals" in part._cache
    normals = np.asarray(part.vertex_normals, np.float32) if given else None
    uv = None if uv is None or len(uv) != len(vertices) else np.asarray(uv, np.float64)
    uv = None if uv is None or not np.isfinite(uv).all() else uv - np.floor(uv.min(0))
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
    if image is None or not textured:
        return Material(WHITE, _tint(tint[:3]), label, gloss=0.15)
    pixels = np.array(image.convert("RGBA"))
    scale = TEXTURE_SIDE / max(pixels.shape[:2])
    if scale < 1:
        size = (max(1, round(pixels.shape[1] * scale)), max(1, round(pixels.shape[0] * scale)))
        pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    mode = getattr(source, "alphaMode", None)
    cut = mode != "OPAQUE" and bool((pixels[..., 3] < 128).mean() > 0.005)
    return Material(pixels, _tint(tint[:3]), label, gloss=0.1, cut=cut)


def _tint(colour: np.ndarray) -> tuple[float, float, float]:
    r, g, b = np.clip(colour, 0.02, 1.0).tolist()
    return r, g, b


def _placed(mesh: Mesh, path: Path) -> Mesh:
    """The middle of its base at the origin, and a plausible size."""
    vertices = mesh.vertices
    if not np.isfinite(vertices).all() or np.abs(vertices).max() > 1e6:
        raise ValueError(f"{path}: coordinates that aren't finite, or beyond 1e6")
    low, high = vertices.min(0), vertices.max(0)
    extent = high - low
    if extent.max() <= 0:
        raise ValueError(f"{path}: all its vertices lie in one point")
    mesh = replace(mesh, vertices=vertices - [(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    kind = KINDS[mesh.kind]
    if kind.lies and extent[0] > extent[2]:  # its longer side towards z
        turn = np.array([[0.0, 0.0, -1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
        mesh = replace(mesh, vertices=mesh.vertices @ turn.T, normals=(mesh.normals @ turn.T).astype(np.float32))
    size = max(extent[0], extent[2]) if kind.lies else max(extent[1], 0.01 * extent.max())
    smallest, largest = kind.size
    if not 0.7 * smallest <= size <= 1.4 * largest:
        mesh = mesh.scaled(float(np.sqrt(smallest * largest) / size))
    return mesh
