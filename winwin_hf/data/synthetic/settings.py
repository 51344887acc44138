"""What synthetic scenes look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar

from pydantic import Field

from winwin_hf.checked import FORBID, check_fields, check_order

Pixels = Annotated[int, Field(ge=1, le=8192)]  # a side
Count = Annotated[int, Field(ge=0, le=1000)]
Length = Annotated[float, Field(ge=0, le=1000)]
Radius = Annotated[float, Field(ge=1e-4, le=1000)]
FieldOfView = Annotated[float, Field(ge=5, le=120)]
Unit = Annotated[float, Field(ge=0, le=1)]
Magnification = Annotated[float, Field(ge=0.2, le=1000)]  # smaller textures alias
# Fields that synthetic rooms have too.
Photometric = Annotated[
    float, Field(ge=0, le=100, description="Strength of changes of brightness, contrast, gamma and colour; 0: none.")
]
Blur = Annotated[float, Field(ge=0, le=1, description="Probability of a Gaussian blur.")]
BlurSigma = Annotated[float, Field(ge=0, le=100, description="Largest standard deviation of the blur, pixels.")]
Noise = Annotated[
    float,
    Field(
        ge=0,
        le=255,
        description="Largest standard deviation of sensor noise, in grey levels of 255; drawn uniformly from 0.",
    ),
]
Compression = Annotated[
    float, Field(ge=0, le=1, description="Probability that a scene's frames are compressed as JPEG, quality 30 to 95.")
]
Textures = Annotated[
    str | None, Field(description="Folder of photographs, searched recursively; null: procedural textures only.")
]
Share = Annotated[float, Field(ge=0, le=1e6)]
TextureWeights = Annotated[Mapping[str, Share], Field(description='Shares of "noise", "leaves" and "photographs".')]
TextureSeed = Annotated[
    int, Field(ge=0, lt=2**31, description="Seed of the texture bank. Give a held-out set another one.")
]
TextureCount = Annotated[
    int, Field(ge=1, le=10**6, description="Number of textures of the bank that scenes draw from at one time.")
]
TextureSteps = Annotated[
    int,
    Field(
        ge=0,
        le=10**9,
        description="Number of scenes, times `num_workers`, after which a new texture replaces the oldest one; 0: never.",
    ),
]
TextureSide = Annotated[int, Field(ge=1, le=16_384, description="Longest side of a photograph, pixels.")]
CacheMb = Annotated[
    float, Field(ge=0, le=10**6, description="Memory for textures in each process, MB. The default holds 128 textures.")
]


@dataclass(frozen=True)
class SceneSettings:
    """What scenes look like: the `settings` of synthetic-flow in a recipe."""

    height: Annotated[Pixels, Field(description="Height of the frame, pixels.")] = 384
    width: Annotated[Pixels, Field(description="Width of the frame, pixels.")] = 512
    sizes: Annotated[
        Annotated[tuple[tuple[Pixels, Pixels], ...], Field(min_length=1)] | None,
        Field(
            description="(height, width) of several kinds of frame instead of `height` and `width`; each scene draws "
            "one."
        ),
    ] = None
    motion: Annotated[
        float,
        Field(
            ge=0,
            le=10_000,
            description="Mean of |flow| over the pixels of a 384 x 512 frame. Magnitudes are heavy-tailed: many "
            "below a pixel, some six times the mean. Motion doesn't scale with the frame: translations keep their "
            "pixels and rotations their degrees, so the corners of a larger frame move further.",
        ),
    ] = 10.0
    objects: Annotated[
        tuple[Count, Count], Field(description="Fewest and most objects in front of the background.")
    ] = (
        1,
        8,
    )
    object_size: Annotated[
        tuple[Radius, Radius],
        Field(description="Smallest and largest radius of an object, as a share of the frame's shorter side."),
    ] = (0.05, 0.4)
    texture_scale: Annotated[
        tuple[Magnification, Magnification],
        Field(description="Smallest and largest size of a texture's pixel, in pixels of the frame."),
    ] = (0.5, 2.0)
    photometric: Photometric = 1.0
    asymmetric: Annotated[
        float, Field(ge=0, le=1, description="Share of `photometric` by which the two frames differ from each other.")
    ] = 0.3
    shadow: Annotated[
        float, Field(ge=0, le=1, description="Probability of a soft shadow over a part of one frame.")
    ] = 0.25
    blur: Blur = 0.3
    blur_sigma: BlurSigma = 1.2
    noise: Noise = 4.0
    textures: Textures = None
    texture_weights: TextureWeights = field(default_factory=lambda: {"noise": 0.25, "leaves": 0.35, "photographs": 0.4})
    texture_seed: TextureSeed = 0
    texture_count: TextureCount = 128
    texture_steps: TextureSteps = 50
    texture_side: TextureSide = 768
    cache_mb: CacheMb = 256.0
    perspective: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Share of the layers (the background among them) that move as a plane seen in perspective.",
        ),
    ] = 0.0
    bending: Annotated[
        float, Field(ge=0, le=1, description="Share of the layers whose motion is also bent by a few smooth waves.")
    ] = 0.0
    articulated: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Probability that an object hangs on the previous one by a joint: it moves with it and turns "
            "about the joint.",
        ),
    ] = 0.0
    thin: Annotated[
        float, Field(ge=0, le=1, description="Share of the objects that are bars, strands or nets, a few pixels wide.")
    ] = 0.0
    flat: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Share of the layers that have one colour or a gentle gradient instead of a texture.",
        ),
    ] = 0.0
    motion_blur: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="Probability that the layers are blurred along their motion, over a tenth to half of the "
            "time between the frames. The flow is between the middles of the exposures.",
        ),
    ] = 0.0
    compression: Compression = 0.0
    motion_start: Annotated[
        float,
        Field(ge=0, le=10_000, description="Curriculum: `motion` of the first scenes; it grows linearly from there."),
    ] = 0.0
    motion_steps: Annotated[
        int,
        Field(
            ge=0,
            le=10**9,
            description="Curriculum: number of scenes, times `num_workers`, over which `motion` grows; 0: no curriculum. "
            "Held-out sets have none.",
        ),
    ] = 0
    __pydantic_config__: ClassVar[dict[str, Any]] = FORBID

    def __post_init__(self) -> None:
        check_fields(self)
        check_order(self, "objects", "object_size", "texture_scale")

    def held_out(self, shift: int) -> SceneSettings:
        """Other textures, and no curriculum: its steps are the training's."""
        return replace(self, texture_seed=self.texture_seed + shift, motion_steps=0)

    def motion_at(self, step: int) -> float:
        """Mean of |flow|, pixels, of the scenes of this step."""
        if step >= self.motion_steps:
            return self.motion
        return self.motion_start + (self.motion - self.motion_start) * step / self.motion_steps
