"""The meshes that worlds draw from: files of a folder, read when they are needed, and shapes of our own. Source: ours."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import OrderedDict
from dataclasses import replace
from pathlib import Path

import numpy as np

from winwin_hf.data.rows import BrokenExample
from winwin_hf.data.worlds.mesh_files import find_meshes, read_mesh
from winwin_hf.data.worlds.meshes import Material, Mesh
from winwin_hf.data.worlds.solids import Paints, own_shape

logger = logging.getLogger(__name__)
HELD = 10  # one file of so many is for held-out worlds alone


class Library:
    """
    Meshes by kind.

    Args:
        folder: of meshes; None: shapes of our own alone.
        seed: another seed is another order of the files.
        held: the held-out files, or the others.
        limit: bytes of vertices and textures that are kept.
    """

    def __init__(self, folder: str | Path | None, seed: int, held: bool, limit: int):
        self.seed, self.limit, self.held_bytes = seed, limit, 0
        self.files: dict[str, list[Path]] = {}
        if folder is not None:
            for kind, paths in find_meshes(folder).items():
                mine = [p for p in paths if _is_held(p) == held] or paths  # of few files all are seen
                self.files[kind] = mine
        self.kept: OrderedDict[Path, tuple[Mesh, int]] = OrderedDict()
        self.broken: set[Path] = set()

    def draw(
        self, kind: str, rng: np.random.Generator, fresh: int, count: int, own: float, paint: Paints, leaves: Material
    ) -> Mesh:
        """
        A mesh of a kind: number `fresh` to `fresh` + `count` of an endless series of its files. With the probability `own`, or where
        there is no file, a shape of our own.
        """
        number, by_us, seed = fresh + int(rng.integers(count)), rng.random() < own, int(rng.integers(2**62))
        paths = self.files.get(kind, [])
        if paths and not by_us:
            picked = np.random.default_rng((self.seed, number, len(kind))).integers(len(paths))
            mesh = self._read(paths[int(picked)], kind)
            if mesh is not None:
                return mesh
        return own_shape(kind, np.random.default_rng(seed), paint, leaves)

    def _read(self, path: Path, kind: str) -> Mesh | None:
        """A file's mesh; None if it can't be read, which is told once. Raises BrokenExample where the file or its disk is gone."""
        if path in self.broken:
            return None
        if path in self.kept:
            self.kept.move_to_end(path)
            return self.kept[path][0]
        try:
            mesh = read_mesh(path, kind)
        except (ValueError, PermissionError) as error:
            self.broken.add(path)
            if self.broken.issuperset(files := self.files[kind]):
                raise BrokenExample(
                    f"none of the {len(files)} meshes of kind {kind!r} can be read; the last: {error}"
                ) from error
            logger.warning(f"{error}; a shape of our own stands in its place")
            return None
        except OSError as error:
            raise BrokenExample(f"{path}: {error.strerror or error}; expected the mesh that was listed") from error
        size = _size(mesh)
        self.kept[path] = (mesh, size)
        self.held_bytes += size
        while self.held_bytes > self.limit and len(self.kept) > 1:
            self.held_bytes -= self.kept.popitem(last=False)[1][1]
        return mesh


def _is_held(path: Path) -> bool:
    return hashlib.blake2b(os.fsencode(path.name), digest_size=4).digest()[0] % HELD == 0


def _size(mesh: Mesh) -> int:
    textures = {id(m.texture): m.texture for m in mesh.materials if not isinstance(m.texture, int)}
    # Embree's tree takes about 200 bytes a triangle
    return mesh.vertices.nbytes * 2 + len(mesh.faces) * 220 + sum(t.nbytes for t in textures.values())


# ------------------------------------------------------------------------------------------------------------- bending


def swung(mesh: Mesh, angle: float) -> Mesh:
    """A person or an animal whose limbs swing by an angle, radians, until frame 2: legs about the hips, arms about the shoulders."""
    low, high = mesh.bounds
    _, y, z = mesh.vertices.T
    tall, wide = high[1] - low[1], max(high[0] - low[0], high[2] - low[2])
    across, along = 0, 2
    side = np.tanh(mesh.vertices[:, across] / (0.02 * max(wide, 1e-6)))
    if mesh.kind == "animal":  # fore and hind legs of one side move against each other
        side = side * np.tanh(mesh.vertices[:, along] / (0.1 * max(wide, 1e-6)))
    hip, shoulder = low[1] + 0.5 * tall, low[1] + 0.8 * tall
    leg = np.clip((hip - y) / (0.1 * tall), 0, 1)
    arm = np.clip((np.abs(mesh.vertices[:, across]) / tall - 0.12) / 0.03, 0, 1) * (y > low[1] + 0.3 * tall)
    arm = np.zeros_like(arm) if mesh.kind == "animal" else arm * np.clip((shoulder - y) / (0.05 * tall), 0, 1)
    moved = np.zeros_like(mesh.vertices)
    for weight, pivot, sign in ((leg, hip, 1.0), (arm, shoulder, -1.0)):
        turn = angle * sign * side * weight
        c, s = np.cos(turn) - 1, np.sin(turn)
        moved[:, 1] += c * (y - pivot) - s * z
        moved[:, 2] += s * (y - pivot) + c * z
    return _bent(mesh, moved)


def swayed(mesh: Mesh, lean: np.ndarray) -> Mesh:
    """A plant that the wind bends: its top moves by `lean` (x, z) metres until frame 2, its foot not at all."""
    low, high = mesh.bounds
    share = ((mesh.vertices[:, 1] - low[1]) / max(high[1] - low[1], 1e-6)) ** 2
    ripple = 1 + 0.5 * np.sin(mesh.vertices @ np.array([3.0, 2.0, 4.0]))
    moved = np.zeros_like(mesh.vertices)
    moved[:, 0], moved[:, 2] = share * lean[0] * ripple, share * lean[1] * ripple
    return _bent(mesh, moved)


def _bent(mesh: Mesh, moved: np.ndarray) -> Mesh:
    """The mesh with a motion of its vertices; the tree of frame 1 stays the same."""
    return replace(mesh, moved=moved, _trees={0.0: mesh.tree(0.0)})
