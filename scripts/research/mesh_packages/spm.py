"""SuperTuxKart's SPM meshes: a header, materials by the names of their textures, vertices of a layout that flags tell."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from research.mesh_packages.model import UnusableModel

PARTITIONED, ANIMATED = 0, 1  # kinds of files in the low bits of the third byte; the other kind is static
NORMALS, COLOURS, TANGENTS = 1, 2, 4
WHITE = 128  # instead of a vertex's colour


@dataclass
class Section:
    """Triangles of one material; `texture` is a file name, or "" where there is none."""

    texture: str
    positions: np.ndarray
    normals: np.ndarray | None
    uv: np.ndarray | None
    faces: np.ndarray


def read_spm(data: bytes) -> list[Section]:
    """
    The sections of a mesh; animated ones in the pose in which they were modelled.

    Left-handed, Y up. Little-endian: "SP", version and kind, flags, bounding box (6 float32), uint16 materials (two names each), uint16
    groups, in each uint16 sections: uint32 vertices, uint32 indices, uint16 material, then the vertices and the indices.
    """
    if data[:2] != b"SP" or data[2] >> 3 != 1:
        raise UnusableModel("not an SPM file of version 1")
    kind, flags = data[2] & 7, data[3]
    if kind == PARTITIONED:
        raise UnusableModel("an SPM file that is partitioned")
    (count,) = struct.unpack_from("<H", data, 28)
    at, textures = 30, []
    for _ in range(count):
        names = []
        for _ in range(2):
            names.append(data[at + 1 : at + 1 + data[at]].decode("latin-1"))
            at += 1 + data[at]
        textures.append(names)
    sections = []
    (groups,) = struct.unpack_from("<H", data, at)
    at += 2
    for _ in range(groups):
        (number,) = struct.unpack_from("<H", data, at)
        at += 2
        for _ in range(number):
            vertices, indices, material = struct.unpack_from("<IIH", data, at)
            names = textures[material]
            section, at = read_section(data, at + 10, vertices, indices, names, flags, kind == ANIMATED)
            sections.append(section)
    return sections


def read_section(
    data: bytes, at: int, vertices: int, indices: int, textures: list[str], flags: int, animated: bool
) -> tuple[Section, int]:
    """The section and where the next one begins. A vertex that isn't white has three bytes more than the others."""
    before = 12 + 4 * bool(flags & NORMALS)
    after = 4 * sum(map(bool, textures)) + 4 * bool(flags & TANGENTS and textures[0]) + 16 * animated
    rows = []
    for _ in range(vertices):
        row = data[at : at + before]
        at += before
        if flags & COLOURS:
            at += 1 if data[at] == WHITE else 4
        rows.append(row + data[at : at + after])
        at += after
    table = np.frombuffer(b"".join(rows), np.uint8).reshape(vertices, before + after)
    positions = table[:, :12].copy().view("<f4").astype(float)
    normals = unpacked(table[:, 12:16].copy().view("<u4")[:, 0]) if flags & NORMALS else None
    uv = table[:, before : before + 4].copy().view("<f2").astype(float) if textures[0] else None
    width = 1 if vertices <= 255 else 2 if vertices <= 65535 else 4
    faces = np.frombuffer(data, f"<u{width}", indices, at).astype(np.int64).reshape(-1, 3)
    return Section(textures[0], positions, normals, uv, faces), at + width * indices


def unpacked(words: np.ndarray) -> np.ndarray:
    """Vectors (N, 3) of three signed numbers of 10 bits each."""
    parts = np.stack([(words >> shift) & 1023 for shift in (0, 10, 20)], axis=1).astype(float)
    return np.where(parts > 511, parts - 1024, parts) / 511
