"""What synthetic scenes look like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class SceneSettings:
    """What scenes look like. Lengths in pixels.

    Attributes:
        height, width: of the frame.
        sizes: (height, width) of several kinds of frame, of which each scene draws one; instead of `height` and `width`.
        motion: mean of |flow| over the pixels of a 384 x 512 frame. Magnitudes are heavy-tailed: many below a pixel,
            some six times the mean. Nothing scales with the frame's size: translations keep their pixels, rotations their
            degrees, so the corners of a larger frame move further.
        objects: fewest and most objects in front of the background.
        object_size: smallest and largest radius of an object as a share of the frame's shorter side.
        texture_scale: smallest and largest size of a texture's pixel, in pixels of the frame.
        photometric: strength of brightness, contrast, gamma and colour changes; 0 is none.
        asymmetric: share of `photometric` by which the two frames differ from each other.
        shadow: probability of a soft shadow over a part of one frame.
        blur: probability of a gaussian blur; blur_sigma: its largest standard deviation.
        noise: largest standard deviation of the sensor's noise, in grey levels of 255 (uniform from 0).
        textures: a folder of photographs, searched recursively; None: procedural textures only.
        texture_weights: share of "noise", "leaves" and "photographs".
        texture_seed: of the texture bank; a held-out set should have another.
        texture_count: a scene draws its textures from this many of the bank.
        texture_steps: after so many scenes of a shard the oldest of these textures is replaced by a new one, so that an
            endless training never stops seeing new ones; 0: never.
        texture_side: longest side of a photograph.
        cache_mb: memory for textures per process, MB; the default holds all 128 of them.
        perspective: share of the layers (the background among them) that move as a plane seen in perspective. With this and
            all that follows off, as by default, a seed gives the scene that it gave before there was any of it.
        bending: share of the layers whose motion is also bent by a few smooth waves.
        articulated: probability that an object hangs on the one before it by a joint, and moves with it but for a turn.
        thin: share of the objects that are bars, strands or nets, a few pixels wide.
        flat: share of the layers that have one colour or a gentle gradient instead of a texture.
        motion_blur: probability that the layers are blurred along their motion, over a tenth to half of the time between the
            frames; the flow is between the middles of the exposures.
        compression: probability that both frames went through JPEG, of a quality from 30 to 95.
        motion_start: the first scenes' `motion`, which grows linearly from there (a curriculum).
        motion_steps: over so many scenes of a shard it grows; 0: no curriculum. Held-out sets have none.
    """

    height: int = 384
    width: int = 512
    sizes: tuple[tuple[int, int], ...] | None = None
    motion: float = 10.0
    objects: tuple[int, int] = (1, 8)
    object_size: tuple[float, float] = (0.05, 0.4)
    texture_scale: tuple[float, float] = (0.5, 2.0)
    photometric: float = 1.0
    asymmetric: float = 0.3
    shadow: float = 0.25
    blur: float = 0.3
    blur_sigma: float = 1.2
    noise: float = 4.0
    textures: str | None = None
    texture_weights: Mapping[str, float] = field(
        default_factory=lambda: {"noise": 0.25, "leaves": 0.35, "photographs": 0.4}
    )
    texture_seed: int = 0
    texture_count: int = 128
    texture_steps: int = 50
    texture_side: int = 768
    cache_mb: float = 256.0
    perspective: float = 0.0
    bending: float = 0.0
    articulated: float = 0.0
    thin: float = 0.0
    flat: float = 0.0
    motion_blur: float = 0.0
    compression: float = 0.0
    motion_start: float = 0.0
    motion_steps: int = 0

    def __post_init__(self) -> None:
        for name in ("objects", "object_size", "texture_scale"):  # lists in a recipe
            value = tuple(getattr(self, name))
            if len(value) != 2 or value[0] > value[1] or value[0] < 0:
                raise ValueError(f"{name} must be (smallest, largest), both >= 0; got {getattr(self, name)!r}")
            object.__setattr__(self, name, value)
        if self.sizes is not None:
            object.__setattr__(self, "sizes", tuple((int(height), int(width)) for height, width in self.sizes))
            if not self.sizes or min(side for size in self.sizes for side in size) < 1:
                raise ValueError(f"sizes must be pairs of positive (height, width); got {self.sizes}")
        for name in ("height", "width", "texture_count", "texture_side"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1; got {getattr(self, name)}")
        at_least_none = (
            "motion",
            "photometric",
            "asymmetric",
            "shadow",
            "blur",
            "blur_sigma",
            "noise",
            "texture_steps",
        )
        for name in (*at_least_none, "motion_start", "motion_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative; got {getattr(self, name)}")
        for name in ("perspective", "bending", "articulated", "thin", "flat", "motion_blur", "compression"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1]; got {getattr(self, name)}")
        if self.texture_scale[0] < 0.2:
            raise ValueError(f"texture_scale must be at least 0.2, or textures alias; got {self.texture_scale}")

    def held_out(self, shift: int) -> SceneSettings:
        """Other textures, and no curriculum: its steps are the training's."""
        return replace(self, texture_seed=self.texture_seed + shift, motion_steps=0)

    def motion_at(self, step: int) -> float:
        """Mean of |flow|, pixels, of the scenes of this step."""
        if step >= self.motion_steps:
            return self.motion
        return self.motion_start + (self.motion - self.motion_start) * step / self.motion_steps
