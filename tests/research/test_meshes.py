"""scripts/research/meshes.py: classes, readers of each format on made-up bytes, sizes, and the files that are written."""

from __future__ import annotations

import csv
import io
import json
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from research import meshes
from research.mesh_packages import classes, glb, sweethome, torcs, zeroad
from research.mesh_packages.copyrights import copyright_of, read_copyright
from research.mesh_packages.model import (
    MAX_TRIANGLES,
    Item,
    Material,
    Part,
    UnusableModel,
    above_ground,
    finish,
    simplified,
    thinned,
)
from research.mesh_packages.obj import read_mtl, read_obj
from research.mesh_packages.spm import read_spm
from rich.console import Console

OBJ = """mtllib box.mtl
v 0 0 0
v 2 0 0
v 2 1 0
v 0 1 0
v 0 0 4
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl front
f 1/1 2/2 3/3 4/4
usemtl gone
f 1/1 2/2 5/3
usemtl side
f -5 -4 -1
"""
MTL = "newmtl front\nKd 1 1 1\nmap_Kd a.png\nnewmtl side\nKd 0.5 0 2\nd 0.4\nnewmtl gone\nd 0\n"
CATALOGUE = """# comment
id=Catalogue
id#2=second
model#2=/b/two.obj
id#1=first
name#1=Caf\\u00e9 chair
category#1=Office
model#1=/a/box.obj
width#1=100
depth#1=300
height#1=50.5
creator#1=Some\\
  body
"""
AC = """AC3Db
MATERIAL "m" rgb 0.1 0.2 0.3 amb 1 1 1 emis 0 0 0 spec 0 0 0 shi 1 trans 0
OBJECT world
kids 1
OBJECT poly
name "quad"
loc 10 0 0
texture "a.png" base
texture "b.png" tiled
numvert 4
0 0 0 0 0 1
1 0 0 0 0 1
0 1 0 0 0 1
1 1 0 0 0 1
numsurf 2
SURF 0x14
mat 0
refs 4
0 0 0 9 9
1 1 0 9 9
2 0 1 9 9
3 1 1 9 9
SURF 0x22
mat 0
refs 2
0 0 0
1 0 0
kids 0
"""


def image(alpha: int | None = None, size: tuple[int, int] = (8, 8)) -> Image.Image:
    return Image.new(
        "RGB" if alpha is None else "RGBA", size, (200, 100, 50) if alpha is None else (200, 100, 50, alpha)
    )


def read_glb(data: bytes) -> tuple[dict, bytes]:
    """The JSON and the binary chunk."""
    magic, version, length = struct.unpack_from("<4sII", data)
    assert (magic, version, length) == (b"glTF", 2, len(data))
    (size,) = struct.unpack_from("<I", data, 12)
    return json.loads(data[20 : 20 + size]), data[28 + size :]


def array_of(document: dict, chunk: bytes, accessor: int) -> np.ndarray:
    entry = document["accessors"][accessor]
    view = document["bufferViews"][entry["bufferView"]]
    kind = {5126: "<f4", 5125: "<u4"}[entry["componentType"]]
    width = {"VEC3": 3, "VEC2": 2, "SCALAR": 1}[entry["type"]]
    return np.frombuffer(chunk, kind, entry["count"] * width, view["byteOffset"]).reshape(-1, width)


@pytest.mark.parametrize(
    ("name", "category", "file", "expected"),
    [
        ("Armchair", "Living room", "a.obj", "chair"),
        ("Coffee table", "Living room", "a.obj", "table"),
        ("Glass door cabinet", "Kitchen", "a.obj", "cabinet"),
        ("Sitting female", "Characters", "a.obj", "person"),
        ("Hot dog", "Kitchen", "a.obj", "thing"),
        ("Roses", "Lights", "a.obj", "lamp"),
        ("Scooter", "Vehicles", "/x/scooter.obj", "motorcycle"),
        ("Rounded type A plug", "Miscellaneous", "a.obj", None),
    ],
)
def test_class_of_furniture(name, category, file, expected):
    assert classes.furniture_class(name, category, file) == expected


def test_every_class_of_a_table_exists():
    known = {*classes.CLASSES, classes.LEFT_OUT}
    tables = (classes.FURNITURE, classes.UNITS, classes.STRUCTURES, classes.EYECANDY, classes.SCENERY)
    for table in (*tables, classes.KART_LIBRARY, classes.KART_TRACKS):
        assert {line.split(": ")[0] for line in table.strip().splitlines()} <= known
    assert set(classes.SIZES) == set(classes.CLASSES)
    assert {*classes.FURNITURE_EXCEPTIONS.values(), *classes.FURNITURE_CATEGORIES.values()} <= known


def test_words_and_sizes():
    assert classes.words_of("oldBarrel_02-a") == "old barrel a"
    assert classes.first_match("stone_pile", "left out: ground\nother: pile, statue~") == "other"
    assert classes.first_match("statues_roman", "left out: ground\nother: pile, statue~") == "other"
    assert classes.first_match("compile", "other: pile") is None
    assert classes.animal_length("elephant_african_baby") == 2.0 and classes.animal_length("unknown") == 1.5
    assert classes.usual_size("person", "x") == (None, 1.75, None) and classes.usual_size("car", "x") == 4.4


def test_properties():
    first, second = sweethome.read_properties(CATALOGUE)
    assert first["name"] == "Café chair" and first["creator"] == "Somebody" and second["model"] == "/b/two.obj"


def test_copyrights():
    text = "Format: x\n\nFiles: *\nCopyright: 2001-2003, Ann <a@b.c>\nLicense: GPL-2+\n long text\n\nFiles:\n data/a/*\n data/b.x\n"
    paragraphs = read_copyright(text + "Copyright:\n 2010 Bob\n 2011, 2012 Eve <e@f.g>\nLicense: CC-BY-3.0\n")
    assert copyright_of("src/x", paragraphs).authors == "Ann" and copyright_of("src/x", paragraphs).licence == "GPL-2+"
    assert copyright_of("data/a/b/c", paragraphs).authors == "Bob; Eve"
    assert copyright_of("data/b.x", paragraphs).licence == "CC-BY-3.0"


def test_obj_with_materials():
    materials = read_mtl(MTL, lambda name: image() if name == "a.png" else None)
    assert materials["gone"] is None and materials["side"].colour == (0.5, 0.0, 1.0)
    front, side = read_obj(OBJ, materials)
    assert len(front.faces) == 2 and len(side.faces) == 1 and side.uv is None
    assert front.uv[:, 1].tolist() == [1, 1, 0, 0]  # glTF counts from the top
    assert side.positions.tolist() == [[0, 0, 0], [2, 0, 0], [0, 0, 4]]
    with pytest.raises(UnusableModel, match="outside"):
        read_obj("v 0 0 0\nf 1 1 7\n", {})


def test_furniture_has_the_size_of_its_catalogue(tmp_path):
    with zipfile.ZipFile(tmp_path / "Scopia.sh3f", "w") as archive:
        out = io.BytesIO()
        image(size=(1024, 256)).save(out, "PNG")
        archive.writestr(
            "PluginFurnitureCatalog.properties",
            CATALOGUE.replace("two.obj", "box.obj").split("id#2")[0] + CATALOGUE.split("two.obj\n")[1],
        )
        archive.writestr("a/box.obj", OBJ)
        archive.writestr("a/box.mtl", MTL)
        archive.writestr("a/A.png", out.getvalue())
    (item,) = sweethome.items(tmp_path)
    assert (item.class_name, item.author, item.licence) == ("chair", "Somebody", "CC-BY-3.0")
    out = tmp_path / "out"
    assert list(meshes.convert("furniture", iter([item]), out, "", Console(quiet=True))) == []
    (path,) = out.glob("furniture/chair/*.glb")
    document, chunk = read_glb(path.read_bytes())
    primitives = document["meshes"][0]["primitives"]
    points = np.concatenate(
        [array_of(document, chunk, primitive["attributes"]["POSITION"]) for primitive in primitives]
    )
    np.testing.assert_allclose(points.min(0), [-0.5, 0, -1.5], atol=1e-6)
    np.testing.assert_allclose(points.max(0), [0.5, 0.505, 1.5], atol=1e-6)
    view = document["bufferViews"][document["images"][0]["bufferView"]]
    texture = Image.open(io.BytesIO(chunk[view["byteOffset"] : view["byteOffset"] + view["byteLength"]]))
    assert (texture.format, texture.size) == ("JPEG", (512, 128))
    assert document["asset"]["copyright"] == "Somebody; CC-BY-3.0"
    rows = list(meshes.read_rows(out))
    assert rows[0]["triangles"] == 3 and rows[0]["height"] == 0.505 and rows[0]["file"].endswith(".glb")


def test_broken_models_are_told_of_and_the_rest_is_written(tmp_path):
    def fails() -> list[Part]:
        raise ValueError("no such thing")

    triangle = Part(Material(), np.eye(3), np.array([[0, 1, 2]]))
    items = [Item("a", "thing", "", "", fails), Item("b c", "thing", "me", "CC0-1.0", lambda: [triangle])]
    items.append(Item("d", "thing", "", "", lambda: [triangle], 1e6))
    items.append(Item("twin", "other", "", "", lambda: [triangle]))
    problems = dict(meshes.convert("p", iter(items), tmp_path, "", Console(quiet=True)))
    assert problems == {"a": "ValueError: no such thing", "d": "1e+06 m long", "twin": "the same as another one"}
    path = tmp_path / "p" / "thing" / "b_c.glb"
    before = path.stat().st_mtime_ns
    assert dict(meshes.convert("p", iter(items[1:2]), tmp_path, "", Console(quiet=True))) == {}
    assert path.stat().st_mtime_ns == before
    rows = list(meshes.read_rows(tmp_path))
    meshes.write_csv(tmp_path / "meshes.csv", rows)
    (row,) = csv.DictReader((tmp_path / "meshes.csv").open())
    assert row["author"] == "me" and row["file"] == "p/thing/b_c.glb" and tuple(row) == meshes.COLUMNS
    assert "| p | CC0-1.0 | 1 |" in meshes.licence_table(rows)
    assert not list(tmp_path.rglob("*.tmp"))


def test_holes_need_png_and_a_mask():
    part = Part(Material(image=image(0), cut_out=True), np.eye(3), np.array([[0, 1, 2]]), np.zeros((3, 2)))
    document, _ = read_glb(glb.encode([part], "leaf", {}))
    assert document["images"][0]["mimeType"] == "image/png" and document["materials"][0]["alphaMode"] == "MASK"
    part.material = Material(image=image(0))
    document, _ = read_glb(glb.encode([part], "skin", {}))
    assert document["images"][0]["mimeType"] == "image/jpeg" and "alphaMode" not in document["materials"][0]


def test_sizes_and_places():
    def model() -> list[Part]:
        return [Part(Material(), np.array([[0.0, 5, 0], [2, 5, 0], [2, 9, 1]]), np.array([[0, 1, 2]]))]

    for size, expected in [
        (None, [2, 4, 1]),
        (8.0, [4, 8, 2]),
        ((None, 1.0, None), [0.5, 1, 0.25]),
        ((1.0, 1.0, 3.0), [1, 1, 3]),
    ]:
        (part,) = finish(model(), size)
        np.testing.assert_allclose(np.ptp(part.positions, axis=0), expected)
        np.testing.assert_allclose(part.positions.min(0) + part.positions.max(0), [0, expected[1], 0], atol=1e-9)
    with pytest.raises(UnusableModel, match="no triangles"):
        finish([Part(Material(), np.zeros((3, 3)), np.array([[0, 1, 2]]))], None)
    with pytest.raises(UnusableModel, match="a line"):
        finish([Part(Material(), np.array([[0.0, 0, 0], [9, 0, 0], [9, 0.001, 0]]), np.array([[0, 1, 2]]))], None)


def test_nothing_is_below_the_ground():
    points = np.array([[0.0, -1, 0], [4, -1, 0], [4, 3, 0], [0, 3, 0]])
    part = Part(
        Material(), points, np.array([[0, 1, 2], [0, 2, 3]]), points[:, :2].copy(), np.tile([0.0, 0, 1], (4, 1))
    )
    cut = above_ground(part)
    a, b, c = (cut.positions[cut.faces[:, corner]] for corner in range(3))
    assert cut.positions[:, 1].min() == 0 and np.cross(b - a, c - a)[:, 2].min() >= 0
    assert np.cross(b - a, c - a)[:, 2].sum() / 2 == pytest.approx(12)
    np.testing.assert_allclose(cut.uv, cut.positions[:, :2])
    assert cut.normals.tolist() == [[0, 0, 1]] * len(cut.positions)


def test_leaves_become_fewer_and_larger():
    rng = np.random.default_rng(0)
    leaves = rng.uniform(0, 100, (1000, 1, 3)) + rng.uniform(-0.1, 0.1, (1000, 3, 3))
    faces = np.arange(3000).reshape(-1, 3)
    part = Part(Material(image=image()), leaves.reshape(-1, 3), faces, rng.random((3000, 2)))
    fewer = thinned(part, 0.25)
    assert 200 < len(fewer.faces) < 300 and fewer.uv.shape == (len(fewer.positions), 2)

    def area(part: Part) -> float:
        a, b, c = (part.positions[part.faces[:, corner]] for corner in range(3))
        return float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum())

    assert area(fewer) == pytest.approx(area(part), rel=0.15)


def test_many_triangles_become_fewer():
    pytest.importorskip("fast_simplification")
    side = np.linspace(0, 1, 150)
    x, z = (axis.reshape(-1) for axis in np.meshgrid(side, side))
    index = np.arange(150 * 150).reshape(150, 150)
    a, b, c, d = (index[i : i + 149, j : j + 149].reshape(-1) for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)))
    faces = np.concatenate([np.stack([a, c, b], 1), np.stack([b, c, d], 1)])
    (part,) = simplified([Part(Material(), np.stack([x, np.sin(3 * x), z], 1), faces)])
    assert len(part.faces) <= 1.05 * MAX_TRIANGLES < len(faces)


def test_ac3d():
    (part,) = torcs.read_ac(AC, lambda name: image() if name == "a.png" else None)
    assert part.positions[:, 0].tolist() == [10, 11, 10, 11] and part.uv[:, 1].tolist() == [1, 1, 0, 0]
    assert part.faces.tolist() == [[0, 1, 2], [2, 1, 3]]  # of a strip: each turned as the first
    assert part.material.image is not None and part.normals.tolist() == [[0, 0, 1]] * 4
    (plain,) = torcs.read_ac(AC.replace('"a.png"', '"none.png"'), lambda name: None)
    assert plain.material.colour == (0.1, 0.2, 0.3) and plain.uv is None
    with pytest.raises(UnusableModel, match="AC3D"):
        torcs.read_ac("xof", lambda name: None)


def test_wheels_stand_below_the_body():
    wheel = torcs.cylinder(0.3, 0.2)
    np.testing.assert_allclose(np.ptp(wheel.positions, axis=0), [0.6, 0.6, 0.2])
    a, b, c = (wheel.positions[wheel.faces[:, corner]] for corner in range(3))
    assert np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6 == pytest.approx(0.3**2 * np.pi * 0.2, rel=0.02)


def pmd() -> bytes:
    """A triangle on a bone that is 1 above the ground, and a prop point on that bone."""
    vertices = b""
    for x, y in ((0, 1), (1, 1), (0, 2)):
        vertices += struct.pack("<3f3f2f4B4f", x, y, 0, 0, 0, 1, x, y, 0, 255, 255, 255, 1, 0, 0, 0)
    bone = struct.pack("<7f", 0, 1, 0, 0, 0, 0, 1)
    prop = struct.pack("<I", 4) + b"hand" + struct.pack("<7fB", 0.5, 0, 0, 0, 0, 0, 1, 0)
    body = struct.pack("<II", 3, 1) + vertices + struct.pack("<I3H", 1, 0, 1, 2) + struct.pack("<I", 1) + bone
    body += struct.pack("<I", 1) + prop
    return b"PSMD" + struct.pack("<II", 4, len(body)) + body


def psa(turn: float) -> bytes:
    """One frame: the bone at height 3, turned around Z by radians."""
    state = struct.pack("<7f", 0, 3, 0, 0, 0, np.sin(turn / 2), np.cos(turn / 2))
    return b"PSSA" + struct.pack("<III", 1, 0, 0) + struct.pack("<fII", 33.3, 1, 1) + state


def test_bones_move_a_mesh():
    mesh = zeroad.read_pmd(pmd())
    assert mesh.positions[:, 1].tolist() == [1, 1, 2] and mesh.uv[:, 1].tolist() == [0, 0, -1]
    np.testing.assert_allclose(zeroad.posed(mesh, mesh.rest)[0], mesh.positions, atol=1e-6)
    positions, normals = zeroad.posed(mesh, zeroad.read_psa(psa(np.pi / 2))[0])
    np.testing.assert_allclose(positions, [[0, 3, 0], [0, 4, 0], [-1, 3, 0]], atol=1e-6)
    np.testing.assert_allclose(normals, [[0, 0, 1]] * 3, atol=1e-6)
    for reader in (zeroad.read_pmd, zeroad.read_psa):
        with pytest.raises(UnusableModel):
            reader(b"XXXX" + bytes(60))


BODY = """<actor version="1"><group>
<variant frequency="1" name="Base"><mesh>body.dae</mesh><textures><texture file="skin.png" name="baseTex"/></textures>
<props><prop actor="stick.xml" attachpoint="hand"/></props></variant>
<variant name="never"><mesh>none.dae</mesh></variant></group>
<group><variant file="biped/base.xml"/></group><material>player_trans.xml</material></actor>"""
STICK = """<actor version="1"><group><variant><mesh>stick.dae</mesh><textures><texture file="skin.png" name="baseTex"/></textures>
</variant></group></actor>"""
VARIANT = '<variant frequency="1"><animations><animation file="stand.dae" name="Idle"/></animations></variant>'


def test_an_actor_with_a_prop_in_its_hand(tmp_path):
    out = io.BytesIO()
    image(0).save(out, "DDS")
    with zipfile.ZipFile(tmp_path / "public.zip", "w") as archive:
        archive.writestr("art/actors/units/x/body.xml", BODY)
        archive.writestr("art/actors/stick.xml", STICK)
        archive.writestr("art/variants/biped/base.xml", VARIANT)
        archive.writestr("art/meshes/body.dae.cached.pmd", pmd())
        archive.writestr("art/meshes/stick.dae.cached.pmd", pmd())
        archive.writestr("art/animation/stand.dae.cached.psa", psa(0))
        archive.writestr("art/textures/skins/skin.png.cached.dds", out.getvalue())
    (item,) = zeroad.items(tmp_path)
    assert (item.class_name, item.licence) == ("person", "CC-BY-SA-3.0")
    body, stick = item.load()
    assert not body.material.cut_out and body.material.image.mode == "RGB"
    np.testing.assert_allclose(body.positions[:, 1] / zeroad.PERSON, [3, 3, 4], atol=1e-5)
    np.testing.assert_allclose(stick.positions[0] / zeroad.PERSON, [0.5, 6, 0], atol=1e-5)
    assert body.faces.tolist() == [[2, 1, 0]]  # the game's space is left-handed
    with zipfile.ZipFile(tmp_path / "public.zip") as archive:
        assert zeroad.read_actor(archive, "art/actors/units/x/body.xml", random.Random(0), "never").mesh == "none.dae"


@pytest.mark.parametrize("animated", [False, True])
def test_spm(animated):
    joints = bytes(16) if animated else b""
    vertices = b""
    for x, colour in ((0.0, b"\x80"), (1.0, b"\x40\x01\x02\x03"), (2.0, b"\x80")):
        vertices += (
            struct.pack("<3fI", x, x * x, 0, 511 | (1 << 19) << 1) + colour + struct.pack("<2e", x / 4, 0.5) + joints
        )
    names = b"\x05a.png\x00" + b"\x00\x00"
    section = struct.pack("<IIH", 3, 3, 0) + vertices + bytes([0, 1, 2])
    head = b"SP" + bytes([8 | (1 if animated else 2), 3]) + struct.pack("<6f", 0, 0, 0, 2, 4, 0)
    (found,) = read_spm(head + struct.pack("<H", 2) + names + struct.pack("<HH", 1, 1) + section)
    assert found.texture == "a.png" and found.positions[:, 1].tolist() == [0, 1, 4]
    assert found.uv.tolist() == [[0, 0.5], [0.25, 0.5], [0.5, 0.5]] and found.faces.tolist() == [[0, 1, 2]]
    assert found.normals[0, 0] == 1
    with pytest.raises(UnusableModel):
        read_spm(b"XX" + bytes(100))


def test_a_package_that_is_there_is_not_downloaded(tmp_path):
    (tmp_path / "a_1.deb").touch()
    (tmp_path / "a_2.deb").touch()
    (tmp_path / "ab_3.deb").touch()
    assert meshes.find_deb("a", tmp_path, Path("nowhere")) == tmp_path / "a_2.deb"
