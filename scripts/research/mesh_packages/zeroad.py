"""
0ad-data: actors (XML) put together meshes (.pmd), textures, poses (.psa) and props; all of them lie in one ZIP file.

An actor has groups of variants; one variant of each group is drawn, with a generator seeded by the actor's name. People and animals are
posed by a frame of one of their animations. The game's space is left-handed with Y up, so Z changes its sign.
"""

from __future__ import annotations

import random
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from research.mesh_packages.classes import ANIMALS, EYECANDY, LEFT_OUT, STRUCTURES, UNITS, animal_length, first_match
from research.mesh_packages.images import cached, has_holes
from research.mesh_packages.model import Item, Material, Part, UnusableModel, above_ground

AUTHOR, LICENCE = "Wildfire Games", "CC-BY-SA-3.0"
PERSON = 1.75 / 4.2  # metres in a unit of the game: people are 4.2 units high
SCENERY = 0.6  # the same for buildings and trees, which the game draws smaller beside people
ANIMATIONS = (
    "idle",
    "walk",
    "run",
    "attack_melee",
    "attack_ranged",
    "attack_slaughter",
    "feeding",
    "promotion",
    "build",
)
ANIMATIONS += ("gather_tree", "gather_grain", "gather_fruit", "gather_rock", "gather_praise")
PLAYER_COLOURS = (
    (46, 70, 140),
    (150, 35, 30),
    (70, 115, 45),
    (200, 165, 60),
    (215, 205, 185),
    (110, 60, 110),
    (60, 60, 62),
)
ATTACHED_TO_RIDERS = ("rider", "driver", "mount")
UNWANTED_TEXTURES = re.compile(
    "maur_shield_curved_b|blanket_maur|naked|topless"
)  # an old Indian sign, misread today; nudes
IDENTITY = np.eye(4)


def items(root: Path) -> Iterator[Item]:
    """People, animals, trees, rocks, buildings and things of the game."""
    archive = zipfile.ZipFile(next(root.rglob("public.zip")))
    for file in sorted(name for name in archive.namelist() if name.startswith("art/actors/") and name.endswith(".xml")):
        folder, _, stem = file.removeprefix("art/actors/").removesuffix(".xml").rpartition("/")
        class_name, size, poses = kind_of(folder, stem)
        if class_name is None or class_name == LEFT_OUT:
            continue
        for pose in range(poses):
            name = f"{folder}/{stem}".replace("/", "-") + (f"-{pose}" if poses > 1 else "")
            load = partial(load_actor, archive, file, f"{class_name}/{name}", pose, class_name)
            yield Item(name, class_name, AUTHOR, LICENCE, load, size)


def kind_of(folder: str, stem: str) -> tuple[str | None, float | None, int]:
    """Class, longest side in metres (None: the loader's own scale) and number of poses of an actor; class None: left out."""
    if folder == "fauna":
        return first_match(stem, UNITS) or "animal", animal_length(stem), 3
    if folder.startswith("units/"):
        class_name = first_match(stem, UNITS) or "person"
        many = re.search(r"citizen|hero|healer|support|champion|trader", stem)
        size = animal_length(stem, ANIMALS["horse"]) if class_name == "animal" else None
        return class_name, size, 2 if many else 1
    if folder.startswith("flora") or folder == "props/flora":
        return first_match(stem, EYECANDY) or ("tree" if folder.endswith("trees") else "bush"), None, 1
    if folder == "geology":
        return first_match(stem, EYECANDY) or "rock", None, 1
    if folder.startswith("structures"):
        return first_match(stem, STRUCTURES) or "building", None, 1
    if folder == "props/special/eyecandy":
        return first_match(stem, EYECANDY), None, 1
    return None, None, 1


@dataclass
class Mesh:
    """A .pmd file: vertices with up to four bones each, and points where props are attached."""

    positions: np.ndarray
    normals: np.ndarray
    uv: np.ndarray
    bones: np.ndarray  # (N, 4); numbers beyond `rest` mean none
    weights: np.ndarray
    faces: np.ndarray
    rest: np.ndarray  # (bones, 4, 4)
    props: dict[str, tuple[np.ndarray, int]]  # place relative to the bone, and the bone; 255: the mesh itself


def read_pmd(data: bytes) -> Mesh:
    """A mesh. Little-endian; header, vertices, faces, bones, prop points."""
    magic, version, _, count = struct.unpack_from("<4sIII", data)
    if magic != b"PSMD":
        raise UnusableModel("not a PMD file")
    at, layers = 16, 1
    if version >= 4:
        (layers,) = struct.unpack_from("<I", data, at)
        at += 4
    fields = [
        ("position", "<f4", 3),
        ("normal", "<f4", 3),
        ("uv", "<f4", (layers, 2)),
        ("bones", "u1", 4),
        ("weights", "<f4", 4),
    ]
    vertices = np.frombuffer(data, np.dtype(fields), count, at)
    at += vertices.nbytes
    (count,) = struct.unpack_from("<I", data, at)
    faces = np.frombuffer(data, "<u2", 3 * count, at + 4).reshape(-1, 3)
    at += 4 + faces.nbytes
    (count,) = struct.unpack_from("<I", data, at)
    rest = matrices(np.frombuffer(data, "<f4", 7 * count, at + 4).reshape(-1, 7))
    at += 4 + 28 * count
    props = {}
    (count,) = struct.unpack_from("<I", data, at) if len(data) >= at + 4 else (0,)
    at += 4
    for _ in range(count):
        (length,) = struct.unpack_from("<I", data, at)
        name = data[at + 4 : at + 4 + length].decode("latin-1")
        at += 4 + length
        props[name] = matrices(np.frombuffer(data, "<f4", 7, at).reshape(1, 7))[0], data[at + 28]
        at += 29
    uv = vertices["uv"][:, 0] if layers else np.zeros((len(vertices), 2))
    return Mesh(
        vertices["position"].astype(float),
        vertices["normal"].astype(float),
        np.stack([uv[:, 0], 1 - uv[:, 1]], axis=1).astype(float),
        vertices["bones"].astype(int),
        vertices["weights"].astype(float),
        faces.astype(np.int64),
        rest,
        props,
    )


def read_psa(data: bytes) -> np.ndarray:
    """The bones' matrices of an animation: (frames, bones, 4, 4)."""
    magic, _, _, length = struct.unpack_from("<4sIII", data)
    if magic != b"PSSA":
        raise UnusableModel("not a PSA file")
    _, bones, frames = struct.unpack_from("<fII", data, 16 + length)
    states = np.frombuffer(data, "<f4", 7 * bones * frames, 28 + length)
    return matrices(states.reshape(-1, 7)).reshape(frames, bones, 4, 4)


def matrices(states: np.ndarray) -> np.ndarray:
    """Matrices (N, 4, 4) of translations and quaternions (N, 7): x, y, z, qx, qy, qz, qw."""
    quaternion = states[:, 3:].astype(float)
    x, y, z, w = (quaternion / np.maximum(np.linalg.norm(quaternion, axis=1, keepdims=True), 1e-9)).T
    out = np.tile(IDENTITY, (len(states), 1, 1))
    out[:, 0, :3] = np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], 1)
    out[:, 1, :3] = np.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], 1)
    out[:, 2, :3] = np.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], 1)
    out[:, :3, 3] = states[:, :3]
    return out


def posed(mesh: Mesh, pose: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions and normals with the bones at `pose` (bones, 4, 4)."""
    moved = pose @ np.linalg.inv(mesh.rest)
    moved = np.concatenate([moved, IDENTITY[None]])
    weights = np.where(mesh.bones == 255, 0, mesh.weights)
    bones = np.minimum(mesh.bones, len(moved) - 1)
    total = weights.sum(1, keepdims=True)
    weights, bones = (
        np.where(total > 0, weights / np.maximum(total, 1e-9), [1, 0, 0, 0]),
        np.where(total > 0, bones, -1),
    )
    blend = np.einsum("nk,nkij->nij", weights, moved[bones])
    positions = np.einsum("nij,nj->ni", blend[:, :3, :3], mesh.positions) + blend[:, :3, 3]
    return positions, np.einsum("nij,nj->ni", blend[:, :3, :3], mesh.normals)


@dataclass
class Actor:
    """One variant of each group, joined."""

    mesh: str = ""
    texture: str = ""
    material: str = ""
    colour: tuple[float, float, float] = (1.0, 1.0, 1.0)
    props: dict[str, list[str]] = field(default_factory=dict)
    animations: dict[str, list[str]] = field(default_factory=dict)


@lru_cache(maxsize=4096)
def read_xml(archive: zipfile.ZipFile, file: str) -> ElementTree.Element:
    return ElementTree.fromstring(archive.read(file).decode("utf-8-sig").strip())  # noqa: S314


def read_actor(archive: zipfile.ZipFile, file: str, rng: random.Random, selection: str = "") -> Actor:
    """The actor with variants drawn by their frequencies; a variant with the name of the selection comes first."""
    root, actor = read_xml(archive, file), Actor()
    actor.material = (root.findtext("material") or "").strip()
    for group in root.iter("group"):
        chains = [variant_chain(archive, variant) for variant in group.findall("variant")]
        chains = [chain for chain in chains if not any(map(is_unwanted, chain))]
        if not chains:
            continue
        frequencies = [
            next((float(v.get("frequency", 0)) for v in chain if v.get("frequency")), 0.0) for chain in chains
        ]
        named = [
            chain for chain in chains if selection and any((v.get("name") or "").lower() == selection for v in chain)
        ]
        weights = frequencies if sum(frequencies) > 0 else [1.0] * len(chains)
        for variant in reversed(named[0] if named else rng.choices(chains, weights)[0]):
            add_variant(actor, variant)
    return actor


def is_unwanted(variant: ElementTree.Element) -> bool:
    return any(UNWANTED_TEXTURES.search(texture.get("file", "")) for texture in variant.iter("texture"))


def variant_chain(archive: zipfile.ZipFile, variant: ElementTree.Element) -> list[ElementTree.Element]:
    """The variant and those it is derived from, itself first."""
    chain = [variant]
    while (file := chain[-1].get("file")) and len(chain) < 8:
        try:
            chain.append(read_xml(archive, f"art/variants/{file}"))
        except KeyError:
            break
    return chain


def add_variant(actor: Actor, variant: ElementTree.Element) -> None:
    """What the variant says replaces what earlier ones said of the same texture, attach point or animation."""
    actor.mesh = (variant.findtext("mesh") or actor.mesh).strip()
    for texture in variant.iter("texture"):
        if texture.get("name") == "baseTex":
            actor.texture = texture.get("file", "")
    if colour := variant.findtext("color"):
        red, green, blue = (min(float(word) / 255, 1.0) for word in colour.split()[:3])
        actor.colour = red, green, blue
    props = list(variant.iter("prop"))
    for prop in props:
        actor.props.pop(prop.get("attachpoint", ""), None)
    for prop in props:
        if prop.get("actor"):
            actor.props.setdefault(prop.get("attachpoint", ""), []).append(prop.get("actor", ""))
    names = {(animation.get("name") or "").lower() for animation in variant.iter("animation")}
    for name in names:
        actor.animations.pop(name, None)
    for animation in variant.iter("animation"):
        if animation.get("file"):
            actor.animations.setdefault((animation.get("name") or "").lower(), []).append(animation.get("file", ""))


def load_actor(archive: zipfile.ZipFile, file: str, seed: str, pose: int, class_name: str) -> list[Part]:
    """The parts of an actor with its props; pose 0 stands still, others move."""
    rng = random.Random(zlib.crc32(seed.encode()))
    if class_name in ("person", "animal"):
        still = pose == 0 and rng.random() < 0.5
        wanted = "idle" if still else rng.choice(ANIMATIONS[1:6] if class_name == "animal" else ANIMATIONS)
    else:
        wanted = "idle"
    colour = rng.choice(PLAYER_COLOURS)
    parts = actor_parts(archive, file, rng, wanted, rng.random(), "", colour, IDENTITY, 0, class_name == "animal")
    if not parts:
        raise UnusableModel("an actor without a mesh: a decal or particles")
    scale = SCENERY if re.match(r"art/actors/(structures|flora|geology|props/flora)", file) else PERSON
    if scale == SCENERY and class_name != "boat":
        parts = [above_ground(part) for part in parts]
    for part in parts:
        part.positions = part.positions * [scale, scale, -scale]
        part.normals = None if part.normals is None else part.normals * [1, 1, -1]
        part.faces = part.faces[:, ::-1]
    return parts


def actor_parts(
    archive: zipfile.ZipFile,
    file: str,
    rng: random.Random,
    wanted: str,
    moment: float,
    parent_animation: str,
    colour: tuple[int, int, int],
    place: np.ndarray,
    depth: int,
    riderless: bool,
) -> list[Part]:
    """The actor's own part and those of its props, in the game's space. Props move with their parent's animation where they can."""
    actor = read_actor(archive, file, rng, wanted)
    try:
        mesh = read_mesh(archive, actor.mesh) if actor.mesh else None
    except KeyError:
        raise UnusableModel("a mesh that the package lacks") from None
    parts, pose, animation = [], None, ""
    if mesh is not None:
        pose = mesh.rest
        animation = (
            parent_animation
            if fits(archive, parent_animation, mesh)
            else choice(actor, wanted, rng) or parent_animation
        )
        if fits(archive, animation, mesh):
            frames = read_animation(archive, animation)
            pose = frames[min(int(moment * len(frames)), len(frames) - 1)]
        positions, normals = posed(mesh, pose) if len(mesh.rest) else (mesh.positions, mesh.normals)
        positions, normals = positions @ place[:3, :3].T + place[:3, 3], normals @ place[:3, :3].T
        material = material_of(archive, actor, colour)
        if material is None and depth == 0 and len(mesh.rest):
            raise UnusableModel("a body without a texture")
        if material is not None:
            parts.append(Part(material, positions, mesh.faces, mesh.uv if material.image else None, normals))
    for point, files in actor.props.items():
        if riderless and any(word in point.lower() for word in ATTACHED_TO_RIDERS):
            continue
        local = IDENTITY
        if mesh is not None and pose is not None and point in mesh.props:
            local, bone = mesh.props[point]
            local = pose[bone] @ local if bone < len(pose) else local
        elif point != "root" and not (mesh is not None and point == "hair"):
            continue  # the game doesn't draw a prop whose point the mesh lacks
        for prop in files if depth < 4 else ():
            try:
                parts += actor_parts(
                    archive,
                    f"art/actors/{prop}",
                    rng,
                    wanted,
                    moment,
                    animation,
                    colour,
                    place @ local,
                    depth + 1,
                    riderless,
                )
            except (KeyError, UnusableModel):
                continue  # particles, decals and files that the package lacks
    return parts


def fits(archive: zipfile.ZipFile, animation: str, mesh: Mesh) -> bool:
    """Whether the animation moves as many bones as the mesh has."""
    frames = read_animation(archive, animation) if animation and len(mesh.rest) else None
    return frames is not None and frames.shape[1] == len(mesh.rest)


def choice(actor: Actor, wanted: str, rng: random.Random) -> str:
    """One of the actor's animations of that name, else of standing still, else its first."""
    for name in (wanted, "idle"):
        if actor.animations.get(name):
            return rng.choice(actor.animations[name])
    return next((file for files in actor.animations.values() for file in files), "")


@lru_cache(maxsize=512)
def read_mesh(archive: zipfile.ZipFile, name: str) -> Mesh:
    return read_pmd(
        archive.read(f"art/meshes/{name.removesuffix('.pmd')}{'.pmd' if name.endswith('.pmd') else '.cached.pmd'}")
    )


@lru_cache(maxsize=512)
def read_animation(archive: zipfile.ZipFile, name: str) -> np.ndarray | None:
    for file in (f"art/animation/{name}.cached.psa", f"art/animation/{name}"):
        try:
            return read_psa(archive.read(file))
        except (KeyError, UnusableModel):
            continue
    return None


@lru_cache(maxsize=256)
def material_of_texture(
    archive: zipfile.ZipFile, texture: str, kind: str, colour: tuple[int, int, int]
) -> Material | None:
    """The texture's alpha is a hole, or where the player's colour shows, or of no meaning."""
    if UNWANTED_TEXTURES.search(texture):
        return None
    stem = texture.rpartition(".")[0]
    for name in (texture, f"{stem}.png", f"{stem}.dds", f"{stem}.tga"):
        try:
            image = cached(archive.read, f"art/textures/skins/{name}.cached.dds")
            break
        except KeyError:
            continue
    else:
        return None
    if kind == "trans" and has_holes(image):
        return Material(image=image, cut_out=True)
    if kind in ("player", "object") and image.mode == "RGBA":
        pixels = np.asarray(image, np.float32) / 255
        alpha = pixels[..., 3:]
        tinted = pixels[..., :3] * (alpha + (1 - alpha) * np.array(colour, np.float32) / 255)
        image = Image.fromarray((tinted * 255).astype(np.uint8))
    return Material(image=image.convert("RGB"))


def material_of(archive: zipfile.ZipFile, actor: Actor, player: tuple[int, int, int]) -> Material | None:
    """The actor's material; None where it is water or a decal."""
    name = actor.material
    if re.match(r"terrain|waterfall|player_water|aura|basic_glow", name):
        return None
    if name.startswith("player"):
        return material_of_texture(archive, actor.texture, "player", player)
    if name.startswith("objectcolor"):
        red, green, blue = (round(255 * part) for part in actor.colour)
        return material_of_texture(archive, actor.texture, "object", (red, green, blue))
    kind = "trans" if re.match(r"basic_trans|trans|blend", name) else "opaque"
    return material_of_texture(archive, actor.texture, kind, (0, 0, 0))
