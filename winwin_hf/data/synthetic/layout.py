"""Draws the layers of a synthetic scene: their places, textures, shapes and motions. Source: ours."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from winwin_hf.data.synthetic.motions import Motion, draw_bending, in_perspective, magnitude
from winwin_hf.data.synthetic.settings import SceneSettings
from winwin_hf.data.synthetic.shapes import MASK_REACH, Layer, flat_image, hang
from winwin_hf.data.synthetic.textures import LEVELS, SIDE, about, rotation

_CALM = 0.15  # share of the scenes with hardly any motion
_GAIN = 0.98  # makes the mean of |flow| equal `motion`: 1.02 +- 0.02 of it over 1,500 scenes of 384 x 512
_PERSPECTIVE_GAIN, _BENDING_GAIN = 0.24, 0.06  # relative growth of |flow| where all layers have it, measured likewise


@dataclass(frozen=True)
class _Texture:
    """A texture of the bank on a layer. number, level: in the bank. linear: 2 x 2, from the frame to the texture's pixels. place: of
    the layer's centre in it. tint: factors of its colours."""

    number: int
    level: int
    linear: np.ndarray
    place: tuple[float, float]
    tint: list[float]


def draw_layers(settings: SceneSettings, rng: np.random.Generator, step: int = 0) -> list[Layer]:
    """The background and the objects in front of it, the last one foremost.

    step: the example's; it decides which textures are used and, with a curriculum, how large the motion is.
    """
    s = settings
    calm = rng.uniform(0, 0.1) if rng.random() < _CALM else 1.0
    unit = s.motion_at(step) * _gain(s) * calm
    fresh = step // s.texture_steps if s.texture_steps else 0
    centre = (rng.uniform(0.2, 0.8) * s.width, rng.uniform(0.2, 0.8) * s.height)
    affine = _placed(*_draw_affine(rng, unit), centre)
    reach, shorter = math.hypot(s.height, s.width) / 2, min(s.height, s.width)
    camera = _draw_motion(s, rng, affine, reach, centre, unit, (s.height, s.width))
    layers = [_make_layer(s, rng, _draw_texture(s, rng, fresh), centre, camera, reach)]
    for _ in range(int(rng.integers(s.objects[0], s.objects[1], endpoint=True))):
        centre = (rng.uniform(-0.05, 1.05) * s.width, rng.uniform(-0.05, 1.05) * s.height)
        # A share of the camera's motion (parallax) and, three times in four, a motion of its own.
        share = rng.uniform(0.4, 1.6) if rng.random() < 0.7 else 0.0
        own_unit = unit * (0.8 if rng.random() < 0.75 else 0.05)
        own_linear, own = _draw_affine(rng, own_unit)
        x, y = camera.point(*centre)
        linear = own_linear + share * (camera.jacobian(*centre) - np.eye(2))
        move = (own[0] + share * (x - centre[0]), own[1] + share * (y - centre[1]))
        texture = _draw_texture(s, rng, fresh)
        radius = shorter * math.exp(rng.uniform(*np.log(s.object_size)))
        aspect = math.exp(0.5 * rng.uniform(-1, 1) * math.log(4))
        angle, seed = rng.uniform(0, 2 * math.pi), int(rng.integers(2**62))
        radii = (radius * aspect, radius / aspect)
        parent = layers[-1] if len(layers) > 1 else None
        limb = hang(rng, parent, unit) if parent is not None and rng.random() < s.articulated else None
        if parent is not None and limb is not None:
            centre, radii, angle, motion = limb
            if rng.random() < 0.5:  # the limb has its body's texture
                texture = replace(texture, number=parent.texture, tint=parent.tint)
        else:
            affine = _placed(linear, move, centre)
            motion = _draw_motion(s, rng, affine, MASK_REACH * max(radii), centre, own_unit)
        layer = _make_layer(s, rng, texture, centre, motion, max(radii))
        layer.give_shape(seed, centre, radii, angle, thin=bool(rng.random() < s.thin))
        layers.append(layer)
    return layers


def _gain(s: SceneSettings) -> float:
    """The factor that makes the mean of |flow| equal `motion`."""
    return _GAIN / (1 + _PERSPECTIVE_GAIN * s.perspective + _BENDING_GAIN * s.bending)


def _placed(linear: np.ndarray, move: tuple[float, float], centre: tuple[float, float]) -> np.ndarray:
    return about(linear, centre, (centre[0] + move[0], centre[1] + move[1]))


def _draw_affine(rng: np.random.Generator, unit: float) -> tuple[np.ndarray, tuple[float, float]]:
    """A random 2 x 2 part near the identity (rotation, scale, shear) and a displacement in pixels."""
    length, angle = unit * magnitude(rng), rng.uniform(0, 2 * math.pi)
    strength = unit / 10 * math.sqrt(magnitude(rng))
    turn, size, shear_x, shear_y = np.clip(strength * rng.standard_normal(4) * (0.02, 0.02, 0.01, 0.01), -0.25, 0.25)
    linear = rotation(turn) * math.exp(size) @ np.array([[1, shear_x], [shear_y, 1]])
    return linear, (length * math.cos(angle), length * math.sin(angle))


def _draw_motion(
    s: SceneSettings,
    rng: np.random.Generator,
    affine: np.ndarray,
    reach: float,
    centre: tuple[float, float],
    unit: float,
    frame: tuple[int, int] | None = None,
) -> Motion:
    """The affine motion, with perspective for a share of the layers and with bending for another; see `in_perspective`."""
    outer = affine
    if rng.random() < s.perspective:
        outer = in_perspective(rng, affine, centre, unit, reach, frame)
    return Motion(outer, draw_bending(rng, unit) if rng.random() < s.bending else None)


def _draw_texture(s: SceneSettings, rng: np.random.Generator, fresh: int) -> _Texture:
    scale = math.exp(rng.uniform(*np.log(s.texture_scale)))  # frame pixels per texture pixel
    level = 0 if scale * 1.3 > 1 else min(LEVELS - 1, max(1, round(-math.log2(scale))))
    turn = rotation(rng.uniform(0, 2 * math.pi))
    if rng.random() < 0.5:
        turn = turn * (-1, 1)
    place = rng.uniform(0.25, 0.75, 2) * SIDE / 2**level
    number = fresh + int(rng.integers(s.texture_count))
    tint = np.exp(rng.normal(0, 0.12, 3)).tolist()
    return _Texture(number, level, turn / (scale * 2**level), (place[0], place[1]), tint)


def _make_layer(
    s: SceneSettings,
    rng: np.random.Generator,
    texture: _Texture,
    centre: tuple[float, float],
    motion: Motion,
    reach: float,
) -> Layer:
    layer = Layer(texture.number, about(texture.linear, centre, texture.place), texture.level, motion, texture.tint)
    if rng.random() < s.flat:
        layer.paint(flat_image(rng), centre, reach)
    return layer
