"""
Turns Debian packages of game and furniture models into a folder of GLB meshes, sorted by class, for rendering training data.

`python scripts/research/meshes.py OUT` needs `apt-get`, `dpkg-deb` and `pip install fast-simplification`. It writes
OUT/PACKAGE/CLASS/NAME.glb (Y up, metres, the origin at the middle of the base, base colours embedded), OUT/meshes.csv with size, author and
licence of each, and OUT/LICENCES.md. Meshes that exist are kept, so a stopped run goes on where it was.
"""

from __future__ import annotations

import csv
import hashlib
import importlib.util
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

sys.path.append(str(Path(__file__).resolve().parents[1]))

from research.mesh_packages import supertuxkart, sweethome, torcs, zeroad
from research.mesh_packages.glb import encode, extras_of
from research.mesh_packages.model import Item, UnusableModel, finish
from winwin_hf.cli.arguments import check_output_folder
from winwin_hf.cli.errors import UsageError, one_line_errors

PACKAGES: dict[str, Callable[[Path], Iterator[Item]]] = {
    "sweethome3d-furniture": sweethome.items,
    "torcs-data": torcs.items,
    "0ad-data": zeroad.items,
    "supertuxkart-data": supertuxkart.items,
}
COLUMNS = ("file", "class", "name", "package", "author", "licence", "triangles", "width", "height", "depth")
LARGEST, SMALLEST = 80.0, 0.01  # metres of the longest side of a plausible object


def main(
    out: Annotated[Path, typer.Argument(help="Where to write the meshes.")],
    package: Annotated[
        list[str] | None, typer.Option(help=f"Of {', '.join(PACKAGES)}; repeatable. Default: all.")
    ] = None,
    debs: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="Folder with .deb files that needn't be downloaded."),
    ] = None,
    only: Annotated[
        str, typer.Option(help="Convert the models whose class/name matches this regular expression.")
    ] = "",
) -> None:
    """Convert the packages' models into OUT."""
    check_output_folder("OUT", out)
    if importlib.util.find_spec("fast_simplification") is None:
        raise UsageError("large models are simplified: expected `pip install fast-simplification` before")
    console, failed = Console(width=140), Counter[tuple[str, str]]()
    try:
        re.compile(only)
    except re.error as error:
        raise UsageError(f"--only {only}: expected a regular expression ({error})") from None
    for name in package or PACKAGES:
        if name not in PACKAGES:
            raise UsageError(f"no package {name}; there are {', '.join(PACKAGES)}")
    for name in package or PACKAGES:
        with tempfile.TemporaryDirectory(prefix="meshes-") as temporary:
            root = Path(temporary)
            console.print(f"unpacking {name}")
            subprocess.run(["dpkg-deb", "-x", find_deb(name, debs, root), root / "content"], check=True)
            for model, reason in convert(name, PACKAGES[name](root / "content"), out, only, console):
                failed[name, re.sub(r"[\d,.]+", "N", reason)] += 1
                console.print(f"{name}: {model}: {reason}", highlight=False)
    rows = list(read_rows(out))
    write_csv(out / "meshes.csv", rows)
    write_text(out / "LICENCES.md", licence_table(rows))
    show(rows, failed, console)


def find_deb(package: str, folder: Path | None, temporary: Path) -> Path:
    """The package's file in the folder, or downloaded from the archive that apt-get knows."""
    found = sorted(folder.glob(f"{package}_*.deb")) if folder else []
    if not found:
        subprocess.run(["apt-get", "download", package], cwd=temporary, check=True)
        found = sorted(temporary.glob(f"{package}_*.deb"))
    return found[-1].resolve()


def convert(package: str, items: Iterator[Item], out: Path, only: str, console: Console) -> Iterator[tuple[str, str]]:
    """Write each model that isn't there; yields the names of those that couldn't be written, and why."""
    chosen = [item for item in items if re.search(only, f"{item.class_name}/{item.name}")]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    known = {digest(path.read_bytes()) for path in (out / package).glob("*/*.glb")}
    with Progress(*columns, console=console) as progress:
        for item in progress.track(chosen, description=package):
            path = out / package / item.class_name / f"{file_name(item.name)}.glb"
            if path.exists():
                continue
            try:
                data = converted(item, package)
                if digest(data) in known:
                    raise UnusableModel("the same as another one")
            except UnusableModel as error:
                yield item.name, str(error)
            except Exception as error:  # a broken model must not stop the others
                yield item.name, f"{type(error).__name__}: {error}"
            else:
                write_bytes(path, data)
                known.add(digest(data))


def digest(data: bytes) -> bytes:
    """Of a GLB file's meshes and textures, not of its name and author."""
    length = int.from_bytes(data[12:16], "little")
    return hashlib.sha256(data[20 + length :]).digest()


def file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("_")


def converted(item: Item, package: str) -> bytes:
    """The GLB file of a model."""
    parts = finish(item.load(), item.size)
    points = np.concatenate([part.positions for part in parts])
    width, height, depth = (round(float(edge), 4) for edge in np.ptp(points, axis=0))
    if not SMALLEST <= max(width, height, depth) <= LARGEST:
        raise UnusableModel(f"{max(width, height, depth):.3g} m long")
    extras = {
        "class": item.class_name,
        "name": item.name,
        "package": package,
        "author": item.author,
        "licence": item.licence,
        "triangles": sum(len(part.faces) for part in parts),
        "width": width,
        "height": height,
        "depth": depth,
    }
    return encode(parts, item.name, extras)


def read_rows(out: Path) -> Iterator[dict[str, Any]]:
    """A row of meshes.csv for each mesh below OUT, whichever run wrote it."""
    for path in sorted(out.glob("*/*/*.glb")):
        yield {"file": path.relative_to(out).as_posix(), **extras_of(path)}


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def licence_table(rows: list[dict[str, Any]]) -> str:
    """LICENCES.md: packages, licences and numbers of meshes."""
    counts = Counter((row["package"], row["licence"]) for row in rows)
    lines = [
        "# Licences",
        "",
        "`meshes.csv` says author and licence of each mesh; so does `asset.copyright` in each file.",
        "The meshes were scaled, joined and, where large, simplified.",
        "",
        "| Debian package | licence | meshes |",
        "|---|---|---|",
        *(f"| {package} | {licence} | {count} |" for (package, licence), count in sorted(counts.items())),
    ]
    return "\n".join(lines) + "\n"


def show(rows: list[dict[str, Any]], failed: Counter[tuple[str, str]], console: Console) -> None:
    packages = sorted({row["package"] for row in rows})
    counts = Counter((row["class"], row["package"]) for row in rows)
    table = Table("class", *packages)
    for class_name in sorted({row["class"] for row in rows}):
        table.add_row(class_name, *(str(counts[class_name, package] or "") for package in packages))
    console.print(table)
    if failed:
        table = Table("package", "could not be used", "models")
        for (package, reason), count in failed.most_common():
            table.add_row(package, reason, str(count))
        console.print(table)


if __name__ == "__main__":
    typer.run(one_line_errors(main))
