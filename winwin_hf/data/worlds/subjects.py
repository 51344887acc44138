"""Who is before the camera: people and things in the middle of the view, as in photographs of somebody. Source: ours.

A street or a room has its people anywhere, on the ground, and few of them near. People in photographs stand before the camera, on a bed or
a bench, or jump; then their feet don't tell how far away they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from winwin_hf.data.worlds.builder import Builder
from winwin_hf.data.worlds.casting import Pose, View, still, turned
from winwin_hf.data.worlds.kinds import KINDS
from winwin_hf.data.worlds.library import swung
from winwin_hf.data.worlds.meshes import Mesh
from winwin_hf.data.worlds.solids import box, yawed

TRIES = 6


def add_subjects(b: Builder, view: View, kinds: Mapping[str, float], reach: float, walls: tuple[float, float]) -> None:
    """
    Puts as many as the settings' `subjects` into the middle of a view.

    Args:
        kinds: shares of kinds.
        reach: metres to the farthest.
        walls: what |x| and |z| stay within, metres.
    """
    if b.s.subjects[1] == 0:  # no number is drawn: worlds without subjects stay what they are
        return
    rng = b.rng
    shares = np.array(list(kinds.values()), np.float64)
    for _ in range(int(rng.integers(b.s.subjects[0], b.s.subjects[1] + 1))):
        kind = str(rng.choice(list(kinds), p=shares / shares.sum()))
        mesh = b.mesh(kind)
        low, high = mesh.bounds
        child = kind == "person" and rng.random() < 0.4
        scale = float(rng.uniform(0.5, 0.8) if child else rng.uniform(0.9, 1.1))
        size = scale * (high - low)
        broad = float(np.hypot(size[0], size[2]))
        nearest = 0.6 + 0.6 * broad
        if nearest >= reach:
            continue
        for _ in range(TRIES):
            distance = math.exp(rng.uniform(math.log(nearest), math.log(reach)))
            aside = rng.uniform(-0.6, 0.6) * view.centre[0] / view.focal
            spot = view.pose.place + distance * (view.pose.axes @ [aside, 0.0, 1.0])
            x, z = float(spot[0]), float(spot[2])
            if max(abs(x) - walls[0], abs(z) - walls[1]) + broad / 2 < 0 and b.free(x, z, 0.3 * broad):
                b.moving += _posed(b, kind, mesh, np.array([x, b.height(x, z), z]), scale)
                break


def _posed(b: Builder, kind: str, mesh: Mesh, foot: np.ndarray, scale: float) -> list[tuple[Mesh, Pose]]:
    """A thing on the ground at a place, on something there, or above it, and what it is on."""
    rng = b.rng
    low, high = mesh.bounds
    middle = (low + high) / 2
    size = scale * (high - low)
    how = str(rng.choice(["ground", "on", "air"], p=[0.5, 0.25, 0.25]))
    under: list[tuple[Mesh, Pose]] = []
    lift = 0.0
    if how == "on":  # a bed, a bench, a box, a wall
        lift = float(rng.uniform(0.25, 0.9))
        sides = np.maximum(size[[0, 2]], 0.3) * rng.uniform(1.0, 2.5, 2)
        block = box((float(sides[0]), lift, float(sides[1])), b.coat(0.4), lid=b.coat(0.4))
        under.append((block, still(foot, yawed(rng.uniform(-math.pi, math.pi)))))
    elif how == "air":
        lift = float(rng.uniform(0.05, 1.2))
    axes = yawed(rng.uniform(-math.pi, math.pi))
    if how == "air" or rng.random() < 0.3:
        axes = turned(rng.normal(0, 0.35, 3)) @ axes
    elif kind in ("person", "animal") and rng.random() < 0.15:  # lies
        axes = axes @ turned(np.array([math.pi / 2, 0, 0]))
    # its lowest point as it is turned now is on the ground, on the block, or so high above
    bottom = float((scale * (mesh.vertices - middle) @ axes.T)[:, 1].min())
    if how != "air":
        bottom += 0.02  # it sinks in a little, and doesn't float
    place = foot + [0.0, lift - bottom, 0.0] - scale * axes @ middle
    move = rng.normal(0, 0.8, 3) * [1, how == "air", 1] * b.seconds
    spin = rng.normal(0, 0.3, 3) * [how == "air", 1, how == "air"] * min(b.seconds, 0.3)
    if KINDS[kind].walks and rng.random() < 0.6:
        mesh = swung(mesh, float(rng.normal(0, 3.0) * min(b.seconds, 0.3)))
    return [*under, (mesh, Pose(place, axes, move, spin, middle, scale))]
