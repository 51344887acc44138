"""Triangle meshes as arrays: what one is, and how several become one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from winwin_hf.data.worlds.kinds import UNNAMED

EXTRA = "worlds need trimesh and embreex: pip install 'winwin-hf[worlds]'"

OPEN = 0.5  # of the time between the frames: no shutter opens earlier before a frame, nor closes later behind it
WHITE = np.full((1, 1, 4), 255, np.uint8)


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
        try:
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore_scene import EmbreeScene
        except ImportError as error:
            raise ImportError(EXTRA) from error

        key = 0.0 if self.moved is None else time
        if key not in self._trees:
            scene = EmbreeScene(robust=True)
            TriangleMesh(scene, self.at(time).astype(np.float32), self.faces)
            self._trees[key] = scene
        return self._trees[key]

    @cached_property
    def bounds(self) -> np.ndarray:
        """(2, 3) lowest and highest coordinates, over the whole time that a shutter may be open."""
        ends = [self.vertices] if self.moved is None else [self.at(-OPEN), self.at(1 + OPEN)]
        return np.stack([np.min([end.min(0) for end in ends], 0), np.max([end.max(0) for end in ends], 0)])

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


def tint_of(colour: np.ndarray) -> tuple[float, float, float]:
    """A colour that is neither black nor beyond white, as factors."""
    r, g, b = np.clip(colour, 0.02, 1.0).tolist()
    return r, g, b


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
