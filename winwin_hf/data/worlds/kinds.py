"""What stands in a world: kinds of things, their real sizes, where they are found, and the class that segmentation calls them.

The classes are those of CamVid (Brostow et al. 2008), and the doors and windows of LabelMeFacade (Froehlich et al. 2010). Sizes: ours.
"""

from __future__ import annotations

from dataclasses import dataclass

CLASSES = (
    "sky",
    "building",
    "pole",
    "road",
    "pavement",
    "tree",
    "sign symbol",
    "fence",
    "car",
    "pedestrian",
    "bicyclist",
    "door",
    "window",
)
UNNAMED = 255  # of what has none of these names: its pixels are not scored, nor learnt


def label_of(name: str | None) -> int:
    """The number of a class; None: `UNNAMED`."""
    return UNNAMED if name is None else CLASSES.index(name)


@dataclass(frozen=True)
class Kind:
    """
    A kind of thing.

    Attributes:
        size: shortest and longest it is, in metres: upwards, or along its longer side on the ground where `lies`.
        label: its class for segmentation, None for none.
        places: where it is found: "street", "land", "room"; "top": on tables and shelves.
        speed: the fastest that it moves, metres a second; 0: it stands.
        walks: whether its limbs swing as it moves. sways: whether the wind bends it.
    """

    size: tuple[float, float]
    label: str | None
    places: tuple[str, ...]
    lies: bool = False
    speed: float = 0.0
    walks: bool = False
    sways: bool = False


KINDS: dict[str, Kind] = {
    "person": Kind((1.1, 1.95), "pedestrian", ("street", "land", "room"), speed=2.0, walks=True),
    "animal": Kind((0.4, 2.4), None, ("land", "street"), lies=True, speed=3.0, walks=True),
    "car": Kind((3.4, 5.2), "car", ("street",), lies=True, speed=16.0),
    "truck": Kind((5.0, 12.0), "car", ("street",), lies=True, speed=12.0),
    "motorcycle": Kind((1.7, 2.4), "bicyclist", ("street",), lies=True, speed=14.0),
    "bicycle": Kind((1.5, 1.9), "bicyclist", ("street",), lies=True, speed=6.0),
    "tree": Kind((2.5, 16.0), "tree", ("street", "land"), sways=True),
    "bush": Kind((0.4, 2.2), "tree", ("street", "land"), sways=True),
    "building": Kind((3.0, 25.0), "building", ("land", "street")),
    "pole": Kind((2.5, 9.0), "pole", ("street",)),
    "sign": Kind((1.5, 3.5), "sign symbol", ("street",)),
    "fence": Kind((0.7, 2.2), "fence", ("street", "land")),
    "bench": Kind((0.7, 1.2), None, ("street", "land")),
    "rock": Kind((0.3, 3.0), None, ("land",)),
    "boat": Kind((2.0, 14.0), None, ("land",), lies=True),
    "plane": Kind((1.0, 12.0), None, ("land",), lies=True, speed=30.0),
    "chair": Kind((0.6, 1.25), None, ("room",)),
    "table": Kind((0.35, 1.1), None, ("room",)),
    "sofa": Kind((0.6, 1.1), None, ("room",)),
    "bed": Kind((0.4, 1.4), None, ("room",)),
    "cabinet": Kind((0.4, 2.4), None, ("room",)),
    "lamp": Kind((0.25, 2.0), None, ("room", "top")),
    "appliance": Kind((0.25, 2.0), None, ("room",)),
    "plant": Kind((0.2, 2.0), None, ("room", "top")),
    "door": Kind((1.9, 2.3), "door", ("room",)),
    "window": Kind((0.6, 1.8), "window", ()),
    "carpet": Kind((0.01, 0.05), None, ()),
    "thing": Kind((0.05, 0.6), None, ("top", "room")),
    "other": Kind((0.2, 2.0), None, ()),
}
