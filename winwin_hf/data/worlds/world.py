"""A world as a Sample: its frames and their truth, rendered only where asked. Source: ours.

Notable:
- A window equals the same crop of the full frame, bit for bit: rays depend on a pixel's place alone, and what needs a pixel's
  surroundings (edges, blur, compression) gets a larger box.
- A ray's triangle and its place in it, carried to frame 2, give exact flow; so does a ray back from frame 2, occlusion.
- Pixels where things meet are the mean of four rays, as in a lens.
"""

from __future__ import annotations

from functools import cached_property

import cv2
import numpy as np

from winwin_hf.data.formats import IGNORE
from winwin_hf.data.sample import Box
from winwin_hf.data.synthetic.camera import Camera
from winwin_hf.data.synthetic.raycast import Vectors, take
from winwin_hf.data.synthetic.settings import SceneSettings
from winwin_hf.data.worlds.atlas import Atlas, Pyramids
from winwin_hf.data.worlds.builder import Scene
from winwin_hf.data.worlds.casting import (
    NOTHING,
    Hits,
    cast,
    hidden,
    hits_at,
    joined_hits,
    points_of,
    surfaces_of,
    vectors,
)
from winwin_hf.data.worlds.kinds import CLASSES
from winwin_hf.data.worlds.meshes import Material
from winwin_hf.data.worlds.settings import WorldSettings

COARSE = 16  # pixels between those that the exposure is computed from
SPREAD = ((-0.25, -0.25), (-0.25, 0.25), (0.25, -0.25), (0.25, 0.25))  # of the rays of a pixel on an edge
SHUTTER = (-0.5, 0.0, 0.5)  # times of the pictures that motion blur is the mean of, in exposures
RAYS = 2**18  # that are cast and shaded at a time: what is between takes some 400 bytes each
LIFT = 2e-3  # metres from a surface at which rays to the light begin, and share of the depth
TOLERANCE = 5e-3  # metres, and share of the depth, by which a surface in frame 2 may be off and still be the same one
STEPS = 4096  # of brightness
GAMMA = np.rint(255 * (np.arange(STEPS) / (STEPS - 1)) ** (1 / 2.2)).astype(np.uint8)
LINEAR = ((np.arange(256) / 255) ** 2.2).astype(np.float32)


class World:
    """
    One world: `first`, `second` and `occlusion` each render one box.

    The target of `first` is the settings': flow float32 (h, w, 2) in pixels, that of what is infinitely far in the sky, NaN where it ends
    behind the camera; depth float32 (h, w) in metres, NaN in the sky and beyond `far`; or classes uint8 (h, w), 255 for things without.
    """

    def __init__(
        self,
        scene: Scene,
        settings: WorldSettings,
        rng: np.random.Generator,
        pyramids: Pyramids,
        table: np.ndarray | None = None,
    ):
        """table: class -> label to learn, uint8 (256,)."""
        s = self.settings = settings
        self.table = table
        self.height, self.width = s.height, s.width
        self.scene, self.view = scene, scene.view
        sky = [] if scene.light.clouds is None else [Material(scene.light.clouds)]
        self.atlas = Atlas([*scene.materials, *sky], pyramids)
        camera = SceneSettings(
            s.height,
            s.width,
            photometric=s.photometric,
            asymmetric=s.asymmetric,
            shadow=0,
            blur=s.blur,
            blur_sigma=s.blur_sigma,
            noise=s.noise,
            compression=s.compression,
        )
        self.camera = Camera(camera, rng)
        self.exposure_time = rng.uniform(0.1, 0.6) if rng.random() < s.blur_share else 0.0
        self.brightness = rng.uniform(0.1, 0.32)

    # ---------------------------------------------------------------------------------------------------------- geometry

    def _grid(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns (h * w,) float64 of a box's pixels."""
        rows = np.arange(box[0], box[0] + box[2], dtype=np.float64)
        columns = np.arange(box[1], box[1] + box[3], dtype=np.float64)
        grid = np.broadcast_arrays(rows[:, None], columns)
        return grid[0].ravel(), grid[1].ravel()

    def _cast(self, time: float, rows: np.ndarray, columns: np.ndarray, exact: bool = True) -> Hits:
        return cast(self.scene.bodies, self.view, time, rows, columns, self.atlas, exact)

    def outside(self, box: Box) -> np.ndarray:
        """bool (h, w): pixels beyond the frame."""
        rows, columns = self._grid(box)
        out = (rows < 0) | (rows >= self.height) | (columns < 0) | (columns >= self.width)
        return out.reshape(box[2:])

    def _target(self, box: Box, hits: Hits) -> np.ndarray:
        """The truth at the pixels of a box, whose rays ended in `hits`."""
        shape, outside, task = box[2:], self.outside(box), self.settings.task
        if task == "depth-estimation":
            depth = np.where(hits.depth <= self.settings.far, hits.depth, np.nan).astype(np.float32).reshape(shape)
            depth[outside] = np.nan
            return depth
        if task == "semantic-segmentation":
            labels = self._labels(hits).reshape(shape)
            labels = labels if self.table is None else self.table[labels]
            labels[outside] = IGNORE
            return labels
        flow = self._flow(box, hits)[0]
        flow[outside] = np.nan
        return flow

    def _labels(self, hits: Hits) -> np.ndarray:
        labels = np.full(len(hits.body), CLASSES.index("sky"), np.uint8)
        for index in np.unique(hits.body[hits.body != NOTHING]).tolist():
            mine, one = np.flatnonzero(hits.body == index), self.scene.bodies[index]
            labels[mine] = self.atlas.label[one.first + one.mesh.material[hits.face[mine]].astype(np.int32)]
        return labels

    def _flow(self, box: Box, hits: Hits) -> tuple[np.ndarray, np.ndarray]:
        """(flow float32 (h, w, 2), depth at frame 2 (h * w,)) of what a box's pixels show; NaN of what ends behind the camera."""
        rows, columns = self._grid(box)
        points = points_of(self.scene.bodies, hits, 1.0, self.view, self.view.rays(0.0, rows, columns))
        y, x, depth = self.view.project(1.0, points)
        flow = np.stack([x - columns, y - rows], -1)
        flow[(depth <= 0) | (np.abs(flow).max(-1) > 1e4)] = np.nan
        return flow.astype(np.float32).reshape(*box[2:], 2), depth

    # ------------------------------------------------------------------------------------------------------------- light

    @cached_property
    def exposure(self) -> float:
        """The factor that makes the mean light of frame 1 `brightness`, from every 16th pixel."""
        rows = np.arange(min(COARSE, self.height) // 2, self.height, COARSE, dtype=np.float64)
        columns = np.arange(min(COARSE, self.width) // 2, self.width, COARSE, dtype=np.float64)
        grid = np.broadcast_arrays(rows[:, None], columns)
        light, _ = self._shade(0.0, grid[0].ravel(), grid[1].ravel())
        return self.brightness / max(float(np.minimum(light, np.quantile(light, 0.98)).mean()), 1e-4)

    def _shade(
        self, time: float, rows: np.ndarray, columns: np.ndarray, exact: bool = False
    ) -> tuple[np.ndarray, Hits]:
        """(light float32 (n, 3) that comes from each pixel, what is seen there)."""
        parts = [
            self._shade_part(time, rows[i : i + RAYS], columns[i : i + RAYS], exact) for i in range(0, len(rows), RAYS)
        ]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate([light for light, _ in parts]), joined_hits([hits for _, hits in parts])

    def _shade_part(self, time: float, rows: np.ndarray, columns: np.ndarray, exact: bool) -> tuple[np.ndarray, Hits]:
        hits = self._cast(time, rows, columns, exact)
        direction = self.view.rays(time, rows, columns)
        light = np.empty((len(rows), 3), np.float32)
        seen = np.flatnonzero(hits.body != NOTHING)
        above = np.flatnonzero(hits.body == NOTHING)
        light[above] = self._sky(take(direction, above))
        if len(seen):
            light[seen] = self._surfaces(time, hits_at(hits, seen), take(direction, seen))
        return light, hits

    def _sky(self, direction: Vectors) -> np.ndarray:
        x, y, z = (np.asarray(d, np.float32) for d in direction)
        lit = self.scene.light
        length = np.sqrt(x * x + y * y + z * z)
        up = np.clip(y / length, 0, 1)[:, None]
        sky = lit.sky.astype(np.float32) + np.sqrt(up) * (lit.zenith - lit.sky).astype(np.float32)
        if lit.clouds is not None and len(x):
            flat = np.maximum(y / length, 0.03) * length
            material = np.full(len(x), len(self.atlas.side) - 1, np.int32)
            footprint = (4.0 * length / np.maximum(y / length, 0.03) / self.view.focal * 40).astype(np.float32)
            cloud = LINEAR[
                self.atlas.sample(material, 0.15 * x / flat, 0.15 * z / flat, footprint)[:, :3]
                .mean(-1)
                .astype(np.int32)
            ]
            share = np.clip(2.2 * cloud - 0.25, 0, 1)[:, None] * np.minimum(1, 4 * up)
            sky = sky + share * (1.0 - sky)
        if lit.sun is not None:
            a, b, c = lit.sun.tolist()
            near = np.clip((x * a + y * b + z * c) / length, 0, 1)[:, None]
            sky = sky + (0.5 * near**64).astype(np.float32) * lit.sunlight.astype(np.float32)
        return sky * np.float32(0.9)

    def _surfaces(self, time: float, hits: Hits, direction: Vectors) -> np.ndarray:
        """Light (n, 3) from surfaces: what is painted there, times what falls on it, and some that they mirror; fog before it."""
        lit, bodies = self.scene.light, self.scene.bodies
        found = surfaces_of(bodies, hits, time, direction, self.view.focal, self.atlas)
        texel = self.atlas.sample(found.material, found.u, found.v, found.footprint)[:, :3]
        albedo = LINEAR[texel.astype(np.int32)] * self.atlas.tint[found.material] ** np.float32(2.2)
        gloss = self.atlas.gloss[found.material]
        points = points_of(bodies, hits, time, self.view, direction)
        ray = vectors(np.asarray(d, np.float32) for d in direction)
        reach = np.sqrt(ray[0] ** 2 + ray[1] ** 2 + ray[2] ** 2)
        nx, ny, nz = found.normal
        lift = LIFT * (1 + hits.depth)
        start = vectors(p + lift * n for p, n in zip(points, found.normal, strict=True))
        around = np.float32(lit.ambient) * (0.7 + 0.3 * ny)
        if lit.sun is not None:
            falling = self._sun(start, found.normal, time)
            light = around[:, None] * (0.5 + 0.5 * lit.zenith).astype(np.float32)
            light = light + ((1 - lit.ambient) * 2.0 * falling)[:, None] * lit.sunlight.astype(np.float32)
        else:
            light = (around + (1 - np.float32(lit.ambient)) * self._lamps(start, found.normal, time))[:, None]
        shine = gloss * np.clip(-(ray[0] * nx + ray[1] * ny + ray[2] * nz) / reach, 0, 1) ** 4
        colour = albedo * light + (0.25 * shine * light.mean(-1))[:, None]
        mirror = gloss * (1 - np.clip(-(ray[0] * nx + ray[1] * ny + ray[2] * nz) / reach, 0, 1)) ** 3
        colour = colour + mirror[:, None] * (lit.sky.astype(np.float32) - colour) * np.float32(0.6)
        if lit.fog:
            clear = np.exp(-np.float32(lit.fog) * (hits.depth * reach).astype(np.float32))[:, None]
            colour = colour * clear + lit.sky.astype(np.float32) * np.float32(0.8) * (1 - clear)
        return colour.astype(np.float32)

    def _sun(self, start: Vectors, normal: Vectors, time: float) -> np.ndarray:
        """Share of the sun's light that falls on each surface."""
        sun = self.scene.light.sun
        assert sun is not None
        a, b, c = sun.tolist()
        falling = np.maximum(normal[0] * a + normal[1] * b + normal[2] * c, 0).astype(np.float32)
        facing = np.flatnonzero(falling > 0)
        towards = vectors(np.full(len(facing), value) for value in (a, b, c))
        dark = hidden(self.scene.bodies, time, take(start, facing), towards, self.atlas, np.inf, np.inf)
        falling[facing[dark]] = 0
        return falling

    def _lamps(self, start: Vectors, normal: Vectors, time: float) -> np.ndarray:
        lamps = self.scene.light.lamps
        assert lamps is not None
        total = np.zeros(len(start[0]), np.float32)
        for i, lamp in enumerate(lamps.tolist()):
            towards = vectors(to - p for to, p in zip(lamp, start, strict=True))
            square = towards[0] ** 2 + towards[1] ** 2 + towards[2] ** 2
            cosine = (normal[0] * towards[0] + normal[1] * towards[1] + normal[2] * towards[2]) / np.sqrt(square)
            falling = (np.maximum(cosine, 0) * (3.0 / (1.0 + square))).astype(np.float32)
            if i == 0:  # the others are softer, and throw no shadow
                facing = np.flatnonzero(falling > 0)
                dark = hidden(
                    self.scene.bodies, time, take(start, facing), take(towards, facing), self.atlas, np.inf, 1.0
                )
                falling[facing[dark]] *= np.float32(0.25)
            total += falling * np.float32(1.0 if i == 0 else 0.5)
        return total

    # ------------------------------------------------------------------------------------------------------------- boxes

    def _picture(self, time: float, box: Box) -> tuple[np.ndarray, Hits]:
        """(light float32 (h, w, 3) in a box, what the rays through the pixels' middles hit, in the box and one pixel around it)."""
        top, left, height, width = box
        wider = (top - 1, left - 1, height + 2, width + 2)
        rows, columns = self._grid(wider)
        light, hits = self._shade(time, rows, columns, exact=time == 0)
        light = light.reshape(height + 2, width + 2, 3)
        if self.settings.edges:
            y, x = np.nonzero(self._edges(hits, (height + 2, width + 2)))
            if len(y):
                around = np.concatenate([y + (wider[0] + down) for down, _ in SPREAD])
                beside = np.concatenate([x + (wider[1] + right) for _, right in SPREAD])
                a, b, c, d = np.split(self._shade(time, around, beside)[0], len(SPREAD))
                light[y, x] = (a + b + c + d) / len(SPREAD)
        return light[1:-1, 1:-1], hits

    def _edges(self, hits: Hits, shape: tuple[int, int]) -> np.ndarray:
        """bool: pixels next to one that shows something else, or the same thing at another depth; the outermost pixels are left out."""
        body = hits.body.reshape(shape)
        depth = np.where(np.isinf(hits.depth), 1e6, hits.depth).reshape(shape)
        edge = np.zeros(shape, bool)
        middle = (slice(1, -1), slice(1, -1))
        for other in (
            (slice(0, -2), slice(1, -1)),
            (slice(2, None), slice(1, -1)),
            (slice(1, -1), slice(0, -2)),
            (slice(1, -1), slice(2, None)),
        ):
            apart = np.abs(depth[other] - depth[middle]) > 0.05 * np.minimum(depth[other], depth[middle])
            edge[middle] |= (body[other] != body[middle]) | apart
        return edge

    def _frame(self, frame: int, box: Box) -> tuple[np.ndarray, Hits, Box]:
        """(the frame's uint8 RGB (h, w, 3) in a box, the rays' ends of a larger box, that box)."""
        outer = self.camera.needs(box)
        if self.exposure_time:
            pictures = [self._picture(frame + self.exposure_time * shift, outer) for shift in SHUTTER]
            light = sum((light for light, _ in pictures), np.zeros((1, 1, 3), np.float32)) / len(SHUTTER)
            hits = pictures[1][1]
        else:
            light, hits = self._picture(frame, outer)
        value = np.clip(light * np.float32(self.exposure), 0, 1)
        image = GAMMA[(value * np.float32(STEPS - 1)).astype(np.int32)]
        image = np.asarray(cv2.LUT(image, self.camera.curve([1.0, 1.0, 1.0], frame)), np.uint8)
        wider = (outer[0] - 1, outer[1] - 1, outer[2] + 2, outer[3] + 2)
        return self.camera.develop(image, frame, box), hits, wider

    def first(self, box: Box) -> tuple[np.ndarray, np.ndarray]:
        """Frame 1 in the box, uint8 RGB (h, w, 3), and its target; unknown outside the frame."""
        image, hits, wider = self._frame(0, box)
        y, x = box[0] - wider[0], box[1] - wider[1]
        index = np.arange(wider[2] * wider[3]).reshape(wider[2:])[y : y + box[2], x : x + box[3]].ravel()
        return image, self._target(box, hits_at(hits, index))

    def second(self, box: Box) -> np.ndarray:
        """Frame 2 in the box, uint8 RGB (h, w, 3)."""
        return self._frame(1, box)[0]

    def occlusion(self, box: Box) -> np.ndarray:
        """bool (h, w): True where the content of frame 1 is behind something in frame 2, or outside it."""
        rows, columns = self._grid(box)
        hits = self._cast(0.0, rows, columns)
        flow, depth = self._flow(box, hits)
        y, x = rows + flow[..., 1].ravel(), columns + flow[..., 0].ravel()
        gone = ~((x >= -0.5) & (x <= self.width - 0.5) & (y >= -0.5) & (y <= self.height - 0.5))
        inside = np.flatnonzero(~gone)
        if len(inside):  # a fast camera may leave nothing of the box in frame 2
            seen = self._cast(1.0, y[inside].astype(np.float64), x[inside].astype(np.float64))
            at, before = depth[inside], seen.depth
            gone[inside] = before < at - TOLERANCE * (1 + np.minimum(at, 1e4))
        return gone.reshape(box[2:]) | self.outside(box)
