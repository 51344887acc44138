"""What worlds are built with: paints, things that stand, move or fly, a camera and the light. Source: ours.

Lengths are metres and those of real things, so that depth can be told from one image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import cv2
import numpy as np

from winwin_hf.data.synthetic.textures import desaturate
from winwin_hf.data.worlds.casting import Body, Pose, View, still, turned
from winwin_hf.data.worlds.kinds import KINDS, label_of
from winwin_hf.data.worlds.library import Library, swayed, swung
from winwin_hf.data.worlds.meshes import WHITE, Material, Mesh, joined, tint_of
from winwin_hf.data.worlds.settings import WorldSettings
from winwin_hf.data.worlds.solids import yawed


@dataclass
class Light:
    """
    What lights a world.

    sun: (3,) unit direction towards it, None indoors. lamps: (n, 3) places indoors. ambient: share of light that comes from
    everywhere. sunlight, sky: (3,) colours, sky also that of the horizon; zenith: (3,). fog: 1 / metres. clouds: number of the texture
    of the sky, None without.
    """

    ambient: float
    sun: np.ndarray | None = None
    lamps: np.ndarray | None = None
    sunlight: np.ndarray = field(default_factory=lambda: np.ones(3))
    sky: np.ndarray = field(default_factory=lambda: np.ones(3))
    zenith: np.ndarray = field(default_factory=lambda: np.ones(3))
    fog: float = 0.0
    clouds: int | None = None


@dataclass
class Scene:
    """Everything in a world. bodies: numbered; materials: of all, in their order."""

    bodies: list[Body]
    materials: list[Material]
    view: View
    light: Light


class Builder:
    """
    A world that is being built.

    seconds: between the frames, drawn; speeds are metres a second. fixed: meshes that stand still, joined in the end.
    """

    def __init__(self, settings: WorldSettings, rng: np.random.Generator, library: Library, step: int):
        self.s, self.rng, self.library = settings, rng, library
        self.fresh_mesh = step // settings.mesh_steps if settings.mesh_steps else 0
        self.fresh_texture = step // settings.texture_steps if settings.texture_steps else 0
        self.seconds = 0.1 * settings.motion * math.exp(rng.normal(0, 0.8))
        self.stereo = bool(rng.random() < settings.stereo)
        if self.stereo:  # both frames of one moment
            self.seconds = 0.0
        self.fixed: list[Mesh] = []
        self.moving: list[tuple[Mesh, Pose]] = []
        self.taken: list[tuple[float, float, float]] = []  # x, z and radius of what stands on the ground
        self.height: Callable[[float, float], float] = lambda x, z: 0.0
        self.curve = 0.0  # of a road along z: its middle is at x = curve * z^2
        self.paint = [self.coat() for _ in range(10)]
        self.leaves = Material(foliage(rng), (1.0, 1.0, 1.0), cut=True)

    # ------------------------------------------------------------------------------------------------------------ paints

    def coat(self, plain: float = 0.4, label: str | None = None, bright: tuple[float, float] = (0.15, 0.9)) -> Material:
        """A colour, or a texture of the bank."""
        rng = self.rng
        colour = desaturate(np.clip(rng.uniform(*bright) + rng.normal(0, 0.2, 3), 0.03, 1), rng)
        gloss = float(rng.choice([0.0, 0.1, 0.5], p=[0.6, 0.3, 0.1]))
        number = label_of(label)
        if rng.random() < plain:
            return Material(WHITE, tint_of(colour), number, gloss)
        texture = self.fresh_texture + int(rng.integers(self.s.texture_count))
        return Material(texture, tint_of(0.5 + 0.5 * colour / max(colour.max(), 1e-3)), number, gloss)

    # ----------------------------------------------------------------------------------------------------------- placing

    def mesh(self, kind: str) -> Mesh:
        s = self.s
        return self.library.draw(kind, self.rng, self.fresh_mesh, s.mesh_count, s.own_shapes, self.paint, self.leaves)

    def free(self, x: float, z: float, radius: float) -> bool:
        """Whether nothing stands within a radius of a place; if so, the place is taken."""
        if any((x - a) ** 2 + (z - b) ** 2 < (radius + r) ** 2 for a, b, r in self.taken):
            return False
        self.taken.append((x, z, radius))
        return True

    def stand(
        self, kind: str, x: float, z: float, yaw: float | None = None, speed: float = 0.0, mesh: Mesh | None = None
    ) -> bool:
        """Puts a thing on the ground, turned and moving ahead; False if there is no room for it."""
        rng = self.rng
        mesh, scale = self.mesh(kind) if mesh is None else mesh, float(rng.uniform(0.9, 1.1))
        yaw = rng.uniform(-math.pi, math.pi) if yaw is None else yaw
        low, high = mesh.bounds
        if not self.free(x, z, 0.45 * scale * float(np.hypot(high[0] - low[0], high[2] - low[2]))):
            return False
        nature, axes = KINDS[kind], yawed(yaw)
        ahead = speed * self.seconds * (axes @ [0, 0, 1.0])
        rise = self.height(x + ahead[0], z + ahead[2]) - self.height(x, z)
        place = self.along(np.array([[x, self.height(x, z), z]]))[0]
        turn = yawed(self.heading(z))
        axes, ahead = turn @ axes, turn @ ahead
        if nature.walks and speed > 0:
            mesh = swung(mesh, float(rng.normal(0, 3.0) * min(self.seconds, 0.3)))
        elif nature.sways and rng.random() < 0.3:
            mesh = swayed(mesh, rng.normal(0, 0.1, 2) * min(self.seconds * 10, 3.0))
        if speed == 0 and mesh.moved is None:
            self.moving.append((mesh, still(place, axes, scale)))
            return True
        spin = np.array([0.0, rng.normal(0, 0.3) * self.seconds, 0.0]) if speed > 0 else np.zeros(3)
        self.moving.append((mesh, Pose(place, axes, ahead + [0, rise, 0], spin, (low + high) / 2, scale)))
        return True

    def heading(self, z: float) -> float:
        """The road's direction, as a yaw in radians."""
        return math.atan(2 * self.curve * z)

    def along(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 3) beside a straight road, beside the curved one."""
        x, y, z = points.T
        turn = np.arctan(2 * self.curve * z)
        return np.stack([self.curve * z * z + x * np.cos(turn), y, z - x * np.sin(turn)], 1)

    def strip(self, mesh: Mesh) -> None:
        """A part of the road, or beside it, that is bent as the road is."""
        self.fixed.append(replace(mesh, vertices=self.along(mesh.vertices), _trees={}))

    def fly(self, mesh: Mesh, place: np.ndarray, reach: float, scale: float = 1.0) -> None:
        """Puts a thing anywhere in the air, turned at random and so much larger, with a motion of about `reach` metres."""
        rng = self.rng
        axes = turned(rng.normal(size=3) * rng.uniform(0, 2))
        low, high = mesh.bounds
        middle = (low + high) / 2
        move = rng.normal(0, reach, 3) * np.exp(rng.normal(0, 0.7))
        spin = rng.normal(0, 0.15, 3) * np.exp(rng.normal(0, 0.7)) * min(self.seconds * 10, 4)
        self.moving.append((mesh, Pose(place - scale * axes @ middle, axes, move, spin, middle, scale)))

    def look(self, place: np.ndarray, aim: np.ndarray, roll: float, move: np.ndarray, spin: np.ndarray) -> View:
        """A camera at a place that looks at a point."""
        s, rng = self.s, self.rng
        forward = (aim - place) / np.linalg.norm(aim - place)
        right = np.cross(forward, [0.0, 1.0, 0.0])
        right /= np.linalg.norm(right)
        down = np.cross(forward, right)
        right, down = math.cos(roll) * right + math.sin(roll) * down, math.cos(roll) * down - math.sin(roll) * right
        focal = s.width / 2 / math.tan(math.radians(rng.uniform(*s.field_of_view)) / 2)
        axes = np.stack([right, down, forward], 1)
        if self.stereo:  # the second camera stands beside the first
            move, spin = right * rng.uniform(0.03, 0.6) * s.motion, np.zeros(3)
        return View(Pose(place, axes, move, spin, np.zeros(3)), focal, ((s.width - 1) / 2, (s.height - 1) / 2))

    def hand(self, strength: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
        """(move, spin) of a camera that is held by hand, or pans."""
        rng, t = self.rng, min(self.seconds * 10, 6.0)
        move, spin = rng.normal(0, 0.03, 3) * t * strength, rng.normal(0, 0.012, 3) * t * strength
        if rng.random() < 0.3:
            spin = spin + np.array([0.0, rng.normal(0, 0.08) * t, 0.0])
        if rng.random() < 0.3:
            move = move + rng.normal(0, 0.15, 3) * [1, 0.3, 1] * t * strength
        return move, spin

    def scene(self, view: View, light: Light) -> Scene:
        fixed = [(joined(self.fixed), still(np.zeros(3)))] if self.fixed else []
        bodies: list[Body] = []
        materials: list[Material] = []
        for mesh, pose in (*fixed, *self.moving):
            bodies.append(Body(mesh, pose, len(materials)))
            materials += mesh.materials
        return Scene(bodies, materials, view, light)

    def daylight(self) -> Light:
        """Sun, or clouds."""
        rng = self.rng
        up = math.radians(rng.uniform(8, 80))
        around = rng.uniform(0, 2 * math.pi)
        sun = np.array([math.cos(up) * math.cos(around), math.sin(up), math.cos(up) * math.sin(around)])
        overcast = rng.random() < 0.35
        warm = np.array([1.0, 0.95, 0.85]) ** rng.uniform(0, 3)
        blue = (
            np.array([0.45, 0.65, 1.0]) ** rng.uniform(0.3, 1.2) if not overcast else np.ones(3) * rng.uniform(0.6, 1)
        )
        horizon = 0.4 * blue + 0.6 * rng.uniform(0.7, 1.0)
        fog = math.exp(rng.uniform(math.log(0.002), math.log(0.04))) if rng.random() < self.s.fog else 0.0
        clouds = self.fresh_texture + int(rng.integers(self.s.texture_count)) if rng.random() < 0.6 else None
        ambient = rng.uniform(0.7, 0.95) if overcast else rng.uniform(0.2, 0.5)
        return Light(ambient, sun, None, warm, horizon, blue * rng.uniform(0.5, 1.0), fog, clouds)


def foliage(rng: np.random.Generator) -> np.ndarray:
    """A card of leaves, uint8 RGBA (128, 128, 4): what is between them has no alpha."""
    card = np.zeros((128, 128, 4), np.uint8)
    green = np.array([rng.uniform(40, 110), rng.uniform(70, 150), rng.uniform(20, 60)])
    if rng.random() < 0.15:  # autumn
        green = np.array([rng.uniform(120, 200), rng.uniform(70, 130), rng.uniform(20, 50)])
    for _ in range(int(rng.integers(120, 300))):
        centre = rng.uniform(10, 118, 2)
        if np.hypot(*(centre - 64)) > 56:
            continue
        colour = np.clip(green * rng.uniform(0.5, 1.3) + rng.normal(0, 8, 3), 0, 255)
        axes = (int(rng.integers(3, 9)), int(rng.integers(2, 5)))
        paint = (*colour.tolist(), 255)
        cv2.ellipse(card, (int(centre[0]), int(centre[1])), axes, rng.uniform(0, 360), 0, 360, paint, -1)
    card[..., :3][card[..., 3] == 0] = green.astype(np.uint8)  # what halved sizes mix in
    return card
