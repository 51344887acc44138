"""Synthetic rooms with exact depth: endless, seeded, rendered only where asked. Source: ours.

A room is a box seen from inside, furnished (furniture.py) and lit by a lamp that casts shadows; a camera at the height of a hand or a
head looks into it. Depth is that along the camera's axis, in metres.

Notable here:
- The field of view is drawn, too, as real cameras differ; so the distance of an object doesn't follow from its size in the image.
- A window equals the same crop of the full frame, bit for bit: a pixel's content depends on its place in the frame alone
  (raycast.py), and quantities of the whole frame, such as the exposure, are computed once on a coarse grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any, ClassVar

import cv2
import numpy as np
from pydantic import Field

from winwin_hf.checked import FORBID, check_fields, check_order
from winwin_hf.data.sample import Box
from winwin_hf.data.synthetic.camera import Camera
from winwin_hf.data.synthetic.furniture import Paint, furnish
from winwin_hf.data.synthetic.raycast import BOX, Pinhole, Solid, Vectors, World, take
from winwin_hf.data.synthetic.scenes import SceneReader
from winwin_hf.data.synthetic.settings import (
    Blur,
    BlurSigma,
    CacheMb,
    Compression,
    Count,
    FieldOfView,
    Length,
    Noise,
    Photometric,
    Pixels,
    SceneSettings,
    TextureCount,
    Textures,
    TextureSeed,
    TextureSide,
    TextureSteps,
    TextureWeights,
    Unit,
)
from winwin_hf.data.synthetic.textures import TextureBank, sample_at

COARSE = 16  # pixels between those that the exposure is computed from
WALL = -1  # index of the room itself among the solids
Angle = Annotated[float, Field(ge=-180, le=180)]  # degrees
Side = Annotated[float, Field(ge=1, le=1000)]  # of a floor, metres


@dataclass(frozen=True)
class RoomSettings:
    """What rooms look like, and their camera: the `settings` of synthetic-depth in a recipe."""

    height: Annotated[Pixels, Field(description="Height of the frame, pixels.")] = 480
    width: Annotated[Pixels, Field(description="Width of the frame, pixels.")] = 640
    field_of_view: Annotated[
        tuple[FieldOfView, FieldOfView], Field(description="Narrowest and widest horizontal field of view, degrees.")
    ] = (40.0, 70.0)
    eye: Annotated[
        tuple[Length, Length], Field(description="Lowest and highest position of the camera above the floor, metres.")
    ] = (0.5, 1.9)
    tilt: Annotated[
        tuple[Angle, Angle], Field(description="Range of the camera's tilt, degrees: from down (negative) to up.")
    ] = (-35.0, 10.0)
    roll: Annotated[float, Field(ge=0, le=180, description="Largest roll of the camera, degrees.")] = 6.0
    room: Annotated[tuple[Side, Side], Field(description="Shortest and longest side of the floor, metres.")] = (
        2.5,
        8.0,
    )
    ceiling: Annotated[tuple[Length, Length], Field(description="Lowest and highest ceiling, metres.")] = (2.2, 3.5)
    furniture: Annotated[
        tuple[Count, Count],
        Field(description="Fewest and most pieces of furniture; smaller things stand on and beside them."),
    ] = (5, 20)
    nearest: Annotated[
        float, Field(ge=0, le=1000, description="Least distance from the camera to a piece of furniture, metres.")
    ] = 0.5
    ambient: Annotated[
        tuple[Unit, Unit], Field(description="Least and greatest share of light that comes from everywhere.")
    ] = (0.3, 0.8)
    plain: Annotated[
        float,
        Field(
            ge=0, le=1, description="Share of the walls, floors and things that have one colour instead of a texture."
        ),
    ] = 0.3
    photometric: Photometric = 1.0
    blur: Blur = 0.5
    blur_sigma: BlurSigma = 1.2
    noise: Noise = 4.0
    compression: Compression = 0.3
    textures: Textures = None
    texture_weights: TextureWeights = field(default_factory=lambda: {"noise": 0.35, "leaves": 0.25, "photographs": 0.4})
    texture_seed: TextureSeed = 0
    texture_count: TextureCount = 128
    texture_steps: TextureSteps = 50
    texture_side: TextureSide = 768
    cache_mb: CacheMb = 256.0
    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID

    def __post_init__(self) -> None:
        check_fields(self)
        check_order(self, "field_of_view", "eye", "tilt", "room", "ceiling", "furniture", "ambient")
        if self.ceiling[0] <= self.eye[1]:
            raise ValueError(f"RoomSettings: ceiling {self.ceiling}: expected it above the eye, {self.eye}")

    def held_out(self, shift: int) -> RoomSettings:
        """Other textures."""
        return replace(self, texture_seed=self.texture_seed + shift)


class SyntheticDepth(SceneReader[RoomSettings]):
    """The reader: an example of `scene_stream` -> `SyntheticRoom`."""

    def __init__(self, settings: RoomSettings | None = None) -> None:
        super().__init__(RoomSettings() if settings is None else settings)

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator | None = None) -> SyntheticRoom:
        """The room depends on the example's `seed` (and `step`) and the settings alone; `rng` is not used."""
        return SyntheticRoom(self.settings, int(example["seed"]), self.bank, int(example.get("step", 0)))


class SyntheticRoom:
    """One room as a Sample (see `sample.py`): `first` renders one box.

    The room continues outside the frame; only the depth is NaN there.
    """

    def __init__(self, settings: RoomSettings, seed: int, bank: TextureBank, step: int = 0) -> None:
        s = self.settings = settings
        self.seed, self.bank, self.height, self.width = seed, bank, s.height, s.width
        rng = np.random.default_rng(seed)
        fresh = step // s.texture_steps if s.texture_steps else 0
        self.paints: list[Paint] = []

        def paint(room: bool) -> int:
            self.paints.append(Paint.draw(rng, fresh, s.texture_count, s.plain, room))
            return len(self.paints) - 1

        long, wide, tall = rng.uniform(*s.room), rng.uniform(*s.room), rng.uniform(*s.ceiling)
        half = np.array([wide, tall, long]) / 2
        walls = paint(True)
        sides = [walls if rng.random() < 0.6 else paint(True) for _ in range(4)]
        room = Solid(
            BOX,
            np.array([0.0, tall / 2, 0.0]),
            half,
            np.eye(3),
            (sides[0], sides[1], paint(True), paint(True), *sides[2:]),
        )
        self.view = self._place_camera(rng, wide, long)
        self.world = World(room, furnish(rng, room, self.view, s.furniture, s.nearest, paint))
        camera = SceneSettings(
            s.height,
            s.width,
            photometric=s.photometric,
            shadow=0,
            blur=s.blur,
            blur_sigma=s.blur_sigma,
            noise=s.noise,
            compression=s.compression,
        )
        self.camera = Camera(camera, rng)
        self.ambient = rng.uniform(*s.ambient)
        self.lamp = np.array(
            [rng.uniform(-0.8, 0.8) * half[0], rng.uniform(0.75, 0.97) * tall, rng.uniform(-0.8, 0.8) * half[2]]
        )
        self.brightness = rng.uniform(0.6, 1.0)

    def _place_camera(self, rng: np.random.Generator, wide: float, long: float) -> Pinhole:
        """A camera in the room that more often looks across it than at the nearest wall."""
        s = self.settings
        at = np.array([rng.uniform(-0.45, 0.45) * wide, rng.uniform(*s.eye), rng.uniform(-0.45, 0.45) * long])
        if rng.random() < 0.6:  # with its back to a wall
            axis = 2 * int(rng.integers(2))
            at[axis] = math.copysign(0.45, at[axis]) * (wide, 0, long)[axis]
        aim = np.array([rng.uniform(-0.3, 0.3) * wide, 0.0, rng.uniform(-0.3, 0.3) * long])
        yaw = math.atan2(aim[0] - at[0], aim[2] - at[2]) + rng.normal(0, 0.2)
        tilt, roll = math.radians(rng.uniform(*s.tilt)), math.radians(rng.uniform(-s.roll, s.roll))
        forward = np.array([math.sin(yaw) * math.cos(tilt), math.sin(tilt), math.cos(yaw) * math.cos(tilt)])
        right = np.array([math.cos(yaw), 0.0, -math.sin(yaw)])
        down = np.cross(right, forward)
        right, down = math.cos(roll) * right + math.sin(roll) * down, math.cos(roll) * down - math.sin(roll) * right
        focal = s.width / 2 / math.tan(math.radians(rng.uniform(*s.field_of_view)) / 2)
        return Pinhole(at, np.stack([right, down, forward]), focal, ((s.width - 1) / 2, (s.height - 1) / 2))

    @cached_property
    def exposure(self) -> float:
        """The factor that makes the frame's mean light `brightness`, from every 16th pixel."""
        rows = np.arange(min(COARSE, self.height) // 2, self.height, COARSE, dtype=np.float64)[:, None]
        columns = np.arange(min(COARSE, self.width) // 2, self.width, COARSE, dtype=np.float64)
        hits = self.world.cast(self.view, rows, columns)
        light = self._light(hits.depth, hits.solid, rows, columns)
        return self.brightness / max(float(light.mean()), 1e-3)

    def _points(self, depth: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> Vectors:
        x, y, z = self.view.rays(rows, columns)
        a, b, c = self.view.position.tolist()
        return a + x * depth, b + y * depth, c + z * depth

    def _solid(self, index: int) -> Solid:
        return self.world.room if index == WALL else self.world.solids[index]

    def _light(self, depth: np.ndarray, solid: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Light on the visible surfaces before exposure: ambient light, and the lamp's where nothing is in its way."""
        points = self._points(depth, rows, columns)
        normals = tuple(np.zeros(depth.shape, np.float32) for _ in range(3))
        for index in np.unique(solid).tolist():
            mine = solid == index
            one = self._solid(index)
            normal = one.normal(take(points, mine))
            for out, part in zip(normals, normal, strict=True):
                out[mine] = -part if index == WALL else part
        towards = tuple(to - p for to, p in zip(self.lamp.tolist(), points, strict=True))
        squared = towards[0] ** 2 + towards[1] ** 2 + towards[2] ** 2
        cosine = (normals[0] * towards[0] + normals[1] * towards[1] + normals[2] * towards[2]) / np.sqrt(squared)
        turned = cosine > 0
        lit = np.zeros(depth.shape, bool)
        lit[turned] = self.world.lit(take(points, turned), self.lamp)
        lamp = np.where(lit, cosine, 0.0) * (4.0 / (2.0 + squared))
        return self.ambient * (0.85 + 0.15 * normals[1]) + (1 - self.ambient) * lamp

    def _colours(self, points: Vectors, solid: np.ndarray) -> np.ndarray:
        """Paint of the visible surfaces, float32 (h, w, 3), 0 to 255."""
        image = np.zeros((*solid.shape, 3), np.float32)
        for index in np.unique(solid).tolist():
            one = self._solid(index)
            ys, xs = np.nonzero(solid == index)
            box = (slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1))
            mine = solid[box] == index
            sides, u, v = one.surface(take(points, box))
            for side in np.unique(sides[mine]).tolist():
                paint = self.paints[one.paints[side]]
                part = mine & (sides == side)
                if paint.texture is None:
                    image[box][part] = paint.colour
                    continue
                level = paint.level(self.distance(one), self.view.focal)
                x, y = paint.place(u, v, level)
                seen = sample_at(self.bank.levels(paint.texture)[level], x, y, cv2.BORDER_REFLECT_101)
                image[box][part] = seen[part] * paint.colour / 255
        return image

    def distance(self, solid: Solid) -> float:
        """A solid's distance from the camera, metres, for which its textures are filtered; of the room half its mean side."""
        if solid is self.world.room:
            return float(solid.half[[0, 2]].mean())
        return float(np.linalg.norm(solid.centre - self.view.position))

    def first(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """The frame in the box, uint8 RGB (h, w, 3), and its depth, float32 (h, w) metres, NaN outside the frame."""
        outer = self.camera.needs(box)
        top, left, height, width = outer
        rows = np.arange(top, top + height, dtype=np.float64)[:, None]
        columns = np.arange(left, left + width, dtype=np.float64)
        hits = self.world.cast(self.view, rows, columns, outer)
        light = self._light(hits.depth, hits.solid, rows, columns) * self.exposure
        colours = self._colours(self._points(hits.depth, rows, columns), hits.solid)
        image = np.clip(np.rint(colours * light[..., None]), 0, 255).astype(np.uint8)
        image = np.asarray(cv2.LUT(image, self.camera.curve([1.0, 1.0, 1.0], 0)), np.uint8)
        y, x = box[0] - top, box[1] - left
        depth = hits.depth[y : y + box[2], x : x + box[3]].astype(np.float32)
        depth[max(0, self.height - box[0]) :] = np.nan
        depth[:, max(0, self.width - box[1]) :] = np.nan
        depth[: max(0, -box[0])] = np.nan
        depth[:, : max(0, -box[1])] = np.nan
        return self.camera.develop(image, 0, box), depth

    def second(self, box: Box) -> np.ndarray:
        raise ValueError("a room has no second view")
