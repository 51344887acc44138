"""What worlds look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from winwin_hf.checked import FORBID, check_fields, check_order
from winwin_hf.data.synthetic.settings import (
    Blur,
    BlurSigma,
    Compression,
    Count,
    FieldOfView,
    Noise,
    Photometric,
    Pixels,
    Share,
    TextureCount,
    Textures,
    TextureSeed,
    TextureSide,
    TextureSteps,
    TextureWeights,
    Unit,
)

PLACES = ("street", "land", "room", "heap")
Target = Literal["optical-flow", "depth-estimation", "semantic-segmentation"]


@dataclass(frozen=True)
class WorldSettings:
    """What worlds look like, and their cameras: the `settings` of synthetic-worlds in a recipe."""

    task: Annotated[Target, Field(description="What the network shall learn: the target of each pixel.")] = (
        "optical-flow"
    )
    height: Annotated[Pixels, Field(description="Height of the frame, pixels.")] = 480
    width: Annotated[Pixels, Field(description="Width of the frame, pixels.")] = 640
    sizes: Annotated[
        Annotated[tuple[tuple[Pixels, Pixels], ...], Field(min_length=1)] | None,
        Field(
            description="(height, width) of several kinds of frame instead of `height` and `width`; each world draws one."
        ),
    ] = None
    places: Annotated[
        Mapping[str, Share],
        Field(description='Shares of "street", "land", "room" and "heap" (things that fly about before a wall).'),
    ] = field(default_factory=lambda: {"street": 0.35, "land": 0.2, "room": 0.3, "heap": 0.15})
    field_of_view: Annotated[
        tuple[FieldOfView, FieldOfView], Field(description="Narrowest and widest horizontal field of view, degrees.")
    ] = (40.0, 90.0)
    motion: Annotated[
        float,
        Field(
            ge=0,
            le=1000,
            description="How fast everything moves, 1: as it does between frames of a video of 10 a second. Half of the worlds are slower.",
        ),
    ] = 1.0
    stereo: Annotated[
        Unit,
        Field(
            description="Share of the worlds whose frames are a stereo pair: of one moment, by cameras side by side."
        ),
    ] = 0.1
    far: Annotated[
        float, Field(ge=1, le=1e6, description="Depth beyond which it is unknown, metres; the sky's always is.")
    ] = 120.0
    blur_share: Annotated[
        Unit, Field(description="Share of the worlds with motion blur; it takes three times as long.")
    ] = 0.0
    fog: Annotated[Unit, Field(description="Share of the worlds under the sky with fog or haze.")] = 0.3
    edges: Annotated[
        bool, Field(description="Average four rays in the pixels on the edges of things, as a lens does.")
    ] = True
    mesh_count: Annotated[
        int, Field(ge=1, le=10**6, description="Number of meshes of each kind that worlds draw from at one time.")
    ] = 6
    mesh_steps: Annotated[
        int,
        Field(
            ge=0,
            le=10**9,
            description="Number of worlds, times `num_workers`, after which a new mesh of each kind replaces the oldest one; 0: never.",
        ),
    ] = 60
    own_shapes: Annotated[
        Unit, Field(description="Share of things that are of our own simple shapes although there are meshes.")
    ] = 0.15
    people: Annotated[tuple[Count, Count], Field(description="Fewest and most people and animals of a street.")] = (
        0,
        8,
    )
    subjects: Annotated[
        tuple[Count, Count],
        Field(
            description="Fewest and most people and things in the middle of the view: on the ground, on a block as on a bed, or in the air."
        ),
    ] = (0, 0)
    photometric: Photometric = 1.0
    asymmetric: Annotated[
        float, Field(ge=0, le=1, description="Share of `photometric` by which the two frames differ from each other.")
    ] = 0.3
    blur: Blur = 0.4
    blur_sigma: BlurSigma = 1.0
    noise: Noise = 4.0
    compression: Compression = 0.3
    textures: Textures = None
    texture_weights: TextureWeights = field(default_factory=lambda: {"noise": 0.4, "leaves": 0.2, "photographs": 0.4})
    texture_seed: TextureSeed = 0
    texture_count: TextureCount = 96
    texture_steps: TextureSteps = 30
    texture_side: TextureSide = 512
    cache_mb: Annotated[
        float, Field(ge=0, le=10**6, description="Memory for meshes and textures in each process, MB: half for each.")
    ] = 1024.0
    held: Annotated[bool, Field(description="Draw the meshes that training doesn't see, a tenth of them.")] = False
    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID

    def __post_init__(self) -> None:
        check_fields(self)
        check_order(self, "field_of_view", "people", "subjects")
        unknown = sorted(set(self.places) - set(PLACES))
        if unknown or not sum(self.places.values()) > 0:
            raise ValueError(f"places must be shares of {', '.join(PLACES)}, one above 0; got {dict(self.places)}")

    def held_out(self, shift: int) -> WorldSettings:
        """Other textures, and the meshes that training doesn't see."""
        return replace(self, texture_seed=self.texture_seed + shift, held=True)
