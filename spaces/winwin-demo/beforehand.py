"""What the page opens with: results of the first examples, computed beforehand, so that it is served at once.

    python beforehand.py     # writes them anew into beforehand/; after a change of the bundled checkpoints or of a picture's drawing

Notable:
- Results belong to weights: results.json has their SHA-256, and with other weights the page opens without results.
- Seconds leave the lines of figures: they are of the machine and the minute.
- Pictures are WebP. Files to download aren't kept, but for the depth, of half the size, from which the surface in space is made.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import mesh
import numpy as np
from events import Demo, new_folder
from networks import Networks
from PIL import Image

from winwin_hf import bundled, served_page
from winwin_hf.data import formats
from winwin_hf.own_files import sha256_of

HERE = Path(__file__).resolve().parent
FOLDER = HERE / "beforehand"
# event -> the network, and the example files that the tab opens with
FIRST = {
    "flow": ("flow", ("bedroom_1.jpg", "bedroom_2.jpg")),
    "compare_with_tiles": ("flow", ("bedroom_1.jpg", "bedroom_2.jpg")),
    "depth": ("depth", ("bedroom_1.jpg",)),
    "segment": ("segmentation", ("street.jpg",)),
}
FIGURES = {"flow": 7, "compare_with_tiles": 3, "depth": 3, "segment": 2}  # event -> which output is its line of figures
SURFACE = 2  # output of `depth`
NOTE = '<p class="ww-note">Computed beforehand. Press the button to run it here and to get the files.</p>'
SECONDS = re.compile(r"[:,] [\d.]+ s(?=<)")


def examples(event: str) -> list[str]:
    """The files that the event's tab opens with."""
    return [str(HERE / "examples" / name) for name in FIRST[event][1]]


def digests(names: dict[str, str]) -> dict[str, str | None]:
    """Network -> SHA-256 of its weights; None where they aren't one file on this machine."""
    files = {task: Path(bundled.resolve(name)) / "model.safetensors" for task, name in names.items()}
    return {task: sha256_of(file) if file.is_file() else None for task, file in files.items()}


def load(networks: Networks) -> dict[str, tuple]:
    """Event -> its outputs, None for files to download. Events whose network has other weights are left out."""
    kept = json.loads((FOLDER / "results.json").read_text(encoding="utf-8"))
    now = digests(networks.names)
    return {
        event: _loaded(event, outputs)
        for event, outputs in kept["outputs"].items()
        if now[FIRST[event][0]] == kept["weights"][FIRST[event][0]]
    }


def _loaded(event: str, outputs: list[Any]) -> tuple:
    values: list[Any] = [_picture(value) for value in outputs]
    values[FIGURES[event]] += NOTE
    if event == "depth":
        path = new_folder() / "surface.glb"
        image = formats.read_image(examples(event)[0])
        path.write_bytes(mesh.glb(image, formats.read_depth_png(FOLDER / "depth.png", 1000)))
        values[SURFACE] = str(path)
    return tuple(values)


def _picture(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(map(_picture, value))
    return str(FOLDER / value) if isinstance(value, str) and value.endswith(".webp") else value


def main() -> None:
    networks = Networks("winwin-flow", "winwin-depth", "winwin-seg")
    demo = Demo(networks)
    FOLDER.mkdir(exist_ok=True)
    for old in FOLDER.iterdir():
        old.unlink()
    kept: dict[str, Any] = {"weights": digests(networks.names), "outputs": {}}
    for event in FIRST:
        outputs = getattr(demo, event)(*examples(event), progress=lambda *_, **__: None)
        kept["outputs"][event] = [_keep(f"{event}_{number}", value) for number, value in enumerate(outputs)]
    depth = networks.depth(formats.read_image(examples("depth")[0])).values
    formats.write_depth(FOLDER / "depth.png", np.ascontiguousarray(depth[::2, ::2]))
    (FOLDER / "results.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    networks.close()


def _keep(name: str, value: Any) -> Any:
    """Writes pictures; returns what results.json says of an output."""
    if isinstance(value, np.ndarray):
        Image.fromarray(value).save(FOLDER / f"{name}.webp", quality=85, method=6)
        return f"{name}.webp"
    if isinstance(value, tuple):
        return [_keep(f"{name}_{side}", picture) for side, picture in enumerate(value)]
    return None if Path(value[:4000]).is_absolute() else SECONDS.sub("", value)


if __name__ == "__main__":
    with served_page.WorkFolder("winwin-demo"):
        main()
