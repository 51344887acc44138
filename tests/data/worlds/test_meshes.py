"""Files of meshes: formats, sizes, kinds, and what can't be read."""

import base64
import io
import json
import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

trimesh = pytest.importorskip("trimesh", reason="needs winwin-hf[worlds]")

from winwin_hf.data.rows import BrokenExample
from winwin_hf.data.worlds.kinds import CLASSES
from winwin_hf.data.worlds.library import Library
from winwin_hf.data.worlds.mesh_files import MAX_TRIANGLES, find_meshes, kind_of, read_mesh
from winwin_hf.data.worlds.meshes import WHITE, Material

GREY = Material(WHITE)


def textured(size=(1.0, 2.0, 0.5)):
    """A box with a red and blue texture."""
    mesh = trimesh.creation.box(size)
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[:, :4, 0], pixels[:, 4:, 2] = 255, 255
    uv = mesh.vertices[:, :2] - mesh.vertices[:, :2].min(0)
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(pixels))
    mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return mesh


@pytest.mark.parametrize("suffix", [".glb", ".gltf", ".obj", ".ply", ".stl", ".off", ".dae"])
def test_formats(tmp_path, suffix):
    if suffix == ".dae":
        pytest.importorskip("collada", reason="DAE needs pycollada")
    path = tmp_path / f"box{suffix}"
    trimesh.Scene([trimesh.creation.box((1.0, 1.5, 0.5))]).export(
        str(path)
    ) if suffix == ".gltf" else trimesh.creation.box((1.0, 1.5, 0.5)).export(str(path))
    if not path.exists():
        pytest.skip("trimesh writes this one as several files")
    mesh = read_mesh(path)
    assert mesh.faces.shape == (12, 3)
    assert mesh.bounds == pytest.approx(np.array([[-0.5, 0, -0.25], [0.5, 1.5, 0.25]]))
    assert np.abs(np.linalg.norm(mesh.normals, axis=1) - 1).max() < 1e-5


def test_a_texture_comes_with_its_mesh(tmp_path):
    textured().export(tmp_path / "box.glb")
    mesh = read_mesh(tmp_path / "box.glb")
    texture = mesh.materials[0].texture
    assert texture.shape == (8, 8, 4)
    assert not mesh.materials[0].cut
    assert {tuple(c) for c in texture.reshape(-1, 4)} == {(255, 0, 0, 255), (0, 0, 255, 255)}
    assert mesh.uv.min() >= 0


def test_a_mesh_in_millimetres_or_of_a_toy_gets_the_size_of_its_kind(tmp_path):
    for kind, size, expected in (
        ("person", 1750.0, (1.1, 1.95)),
        ("car", 0.08, (3.4, 5.2)),
        ("chair", 0.9, (0.9, 0.9)),
    ):
        trimesh.creation.box((size / 2, size, size / 2) if kind != "car" else (size, size / 3, size / 2)).export(
            tmp_path / "a.glb"
        )
        mesh = read_mesh(tmp_path / "a.glb", kind)
        extent = mesh.bounds[1] - mesh.bounds[0]
        length = extent[2] if kind == "car" else extent[1]
        assert expected[0] - 1e-6 <= length <= expected[1] + 1e-6
        assert mesh.bounds[0, 1] == pytest.approx(0)
    assert CLASSES[mesh.materials[0].label] if mesh.materials[0].label < len(CLASSES) else True


def test_what_a_mesh_is_called_gives_its_class(tmp_path):
    trimesh.creation.box((1, 1, 1)).export(tmp_path / "a.glb")
    assert CLASSES[read_mesh(tmp_path / "a.glb", "car").materials[0].label] == "car"
    assert CLASSES[read_mesh(tmp_path / "a.glb", "person").materials[0].label] == "pedestrian"


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("car/red.glb", "car"),
        ("Cars/red.glb", "car"),
        ("pack/tree/summer/oak.glb", "tree"),
        ("tree_12.obj", "tree"),
        ("old-chair3.ply", "chair"),
        ("thing.glb", "thing"),
        ("carpet.glb", "carpet"),
        ("scarf.glb", "other"),
    ],
)
def test_kinds_by_folder_and_name(path, kind):
    assert kind_of(Path(path)) == kind


def test_folders_without_meshes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a folder"):
        find_meshes(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("no mesh")
    with pytest.raises(FileNotFoundError, match="has no mesh"):
        find_meshes(tmp_path)


def test_broken_files_are_named(tmp_path):
    bad = tmp_path / "bad.glb"
    for content in (b"", b"not a mesh", b"glTF\x02\x00\x00\x00\xff\xff\xff\x7f"):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.glb"):
            read_mesh(bad)
    far = trimesh.creation.box((1, 1, 1))
    far.vertices[0] = np.nan
    far.export(tmp_path / "nan.ply")
    with pytest.raises(ValueError, match=r"nan\.ply"):
        read_mesh(tmp_path / "nan.ply")
    flat = trimesh.Trimesh(np.zeros((3, 3)), [[0, 1, 2]], process=False)
    flat.export(tmp_path / "point.ply")
    with pytest.raises(ValueError, match=r"point\.ply"):
        read_mesh(tmp_path / "point.ply")


def test_too_many_triangles_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("winwin_hf.data.worlds.mesh_files.MAX_TRIANGLES", 100)
    trimesh.creation.icosphere(3).export(tmp_path / "ball.ply")
    with pytest.raises(ValueError, match=r"ball\.ply: 1,280 triangles"):
        read_mesh(tmp_path / "ball.ply")
    assert MAX_TRIANGLES == 200_000


def test_an_unreadable_file_gives_way_to_a_shape_of_our_own_and_is_told_once(tmp_path, caplog):
    (tmp_path / "car").mkdir()
    (tmp_path / "car" / "bad.glb").write_bytes(b"bad")
    trimesh.creation.box((1, 1, 1)).export(tmp_path / "car" / "good.glb")
    library = Library(tmp_path, 0, False, 10**8)
    rng = np.random.default_rng(0)
    with caplog.at_level(logging.WARNING):
        meshes = [library.draw("car", rng, 0, 5, 0.0, [GREY], GREY) for _ in range(12)]
    assert [mesh.kind for mesh in meshes] == ["car"] * 12
    assert sum("bad.glb" in record.message for record in caplog.records) == 1


def test_a_file_that_is_gone_ends_the_training(tmp_path):
    """A mesh that can't be read is left out; a disk that is gone mustn't turn all worlds into shapes of our own."""
    (tmp_path / "car").mkdir()
    trimesh.creation.box((1, 1, 1)).export(tmp_path / "car" / "a.glb")
    library = Library(tmp_path, 0, False, 10**8)
    (tmp_path / "car" / "a.glb").unlink()
    with pytest.raises(BrokenExample, match=r"a\.glb: No such file"):
        library.draw("car", np.random.default_rng(0), 0, 5, 0.0, [GREY], GREY)


def test_textures_that_cannot_be_had_are_told(tmp_path):
    """A picture that isn't there, one that is none, and one outside the folder; what is whole isn't told."""
    (tmp_path / "box.obj").write_text(
        "mtllib box.mtl\nv 0 0 0\nv 1 0 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 0 1\nusemtl a\nf 1/1 2/2 3/3\n"
    )
    reasons = {"gone.png": "No such file", "text.png": "cannot identify", "../up.png": "folder"}
    for name, side in (("large.png", 9000), ("bomb.png", 30_000)):  # beyond our limit, and beyond Pillow's
        data = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunk = struct.pack(">I", 13) + b"IHDR" + data + struct.pack(">I", zlib.crc32(b"IHDR" + data))
        end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
        (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + end)
        reasons[name] = "pixels"
    for name, reason in reasons.items():
        (tmp_path / "box.mtl").write_text(f"newmtl a\nmap_Kd {name}\n")
        (tmp_path / "text.png").write_text("no picture")
        left_out: list[str] = []
        assert len(read_mesh(tmp_path / "box.obj", left_out=left_out).faces) == 1
        assert len(left_out) == 1
        assert f"box.obj: names '{name}'" in left_out[0]
        assert reason in left_out[0]
    Image.new("RGB", (4, 4)).save(tmp_path / "fine.png")
    (tmp_path / "box.mtl").write_text("newmtl a\nmap_Kd fine.png\n")
    left_out = []
    read_mesh(tmp_path / "box.obj", left_out=left_out)
    assert not left_out


def test_pipes_and_lost_links_are_told(tmp_path):
    (tmp_path / "box.ply").symlink_to(tmp_path / "gone.ply")
    os.mkfifo(tmp_path / "car.glb")
    (tmp_path / "folder.glb").mkdir()
    with pytest.raises(FileNotFoundError, match="has no mesh"):
        find_meshes(tmp_path)
    paths = [path for found in find_meshes(tmp_path, unusable=True).values() for path in found]
    assert sorted(path.name for path in paths) == ["box.ply", "car.glb"]
    with pytest.raises(OSError, match=r"box\.ply"):
        read_mesh(tmp_path / "box.ply")
    with pytest.raises(ValueError, match=r"car\.glb: no file"):
        read_mesh(tmp_path / "car.glb")


def test_a_kind_of_which_nothing_can_be_read_ends_the_training(tmp_path):
    (tmp_path / "car").mkdir()
    for name in "ab":
        (tmp_path / "car" / f"{name}.glb").write_bytes(b"bad")
    library, rng = Library(tmp_path, 0, False, 10**8), np.random.default_rng(0)
    with pytest.raises(BrokenExample, match=r"none of the \d meshes of kind 'car' can be read; the last: .*\.glb"):
        for _ in range(20):
            library.draw("car", rng, 0, 5, 0.0, [GREY], GREY)


def test_held_out_worlds_see_other_files(tmp_path):
    for i in range(60):
        trimesh.creation.box((1, 1, 1)).export(tmp_path / f"thing_{i}.ply")
    training, held = (set(Library(tmp_path, 0, held, 10**8).files["thing"]) for held in (False, True))
    assert held and training
    assert not held & training
    assert len(held | training) == 60


def glb(tree, binary=b""):
    """A GLB file of this JSON."""
    text = json.dumps(tree).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text
    if binary:
        chunks += struct.pack("<II", len(binary), 0x004E4942) + binary
    return b"glTF" + struct.pack("<II", 2, 12 + len(chunks)) + chunks


NODES = {"asset": {"version": "2.0"}, "scene": 0, "scenes": [{"nodes": [0]}], "nodes": [{"mesh": 0}]}


def test_what_a_file_declares_is_not_taken_on_its_word(tmp_path):
    """Accessors without data, a mesh in thousands of nodes, thousands of parts: refused before memory is taken."""
    many = {
        **NODES,
        "accessors": [{"componentType": 5126, "type": "VEC3", "count": 4 * 10**8}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
    }
    nodes = {
        **NODES,
        "nodes": [{"mesh": 0}] * 5000,
        "scenes": [{"nodes": list(range(5000))}],
        "meshes": [{"primitives": []}],
    }
    parts = {**NODES, "meshes": [{"primitives": [{"attributes": {}}] * 40_000}]}
    for name, tree in (("many", many), ("nodes", nodes), ("parts", parts)):
        (tmp_path / f"{name}.glb").write_bytes(glb(tree))
        with pytest.raises(ValueError, match=rf"{name}\.glb.*declares"):
            read_mesh(tmp_path / f"{name}.glb")


def test_triangles_are_counted_before_they_are_copied(tmp_path, monkeypatch):
    monkeypatch.setattr("winwin_hf.data.worlds.mesh_files.MAX_TRIANGLES", 2000)
    ball = trimesh.creation.icosphere(3)
    scene = trimesh.Scene()
    for i in range(3):
        scene.add_geometry(ball, geom_name="ball", node_name=f"n{i}")
    scene.export(tmp_path / "three.glb")
    with pytest.raises(ValueError, match=r"3,840 triangles"):
        read_mesh(tmp_path / "three.glb")


def test_a_large_texture_is_left_out_before_it_is_decoded(tmp_path, monkeypatch):
    textured().export(tmp_path / "box.glb")
    textured().export(tmp_path / "box.gltf")
    data = io.BytesIO()
    Image.new("RGB", (8, 8)).save(data, "PNG")
    tree = json.loads((tmp_path / "box.gltf").read_text())
    tree["images"] = [{"uri": "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()}]
    (tmp_path / "box.gltf").write_text(json.dumps(tree))
    monkeypatch.setattr(Image.Image, "convert", None)  # what decodes
    for limit in (60, 64):
        monkeypatch.setattr("winwin_hf.data.worlds.mesh_files.MAX_TEXTURE", limit)
        for suffix in ("glb", "gltf"):
            left_out: list[str] = []
            if limit == 64:
                with pytest.raises(ValueError, match="NoneType"):
                    read_mesh(tmp_path / f"box.{suffix}", left_out=left_out)
                assert not left_out
            else:
                (material,) = read_mesh(tmp_path / f"box.{suffix}", left_out=left_out).materials
                assert material.texture.shape == (1, 1, 4)
                assert left_out == [
                    f"{tmp_path / f'box.{suffix}'}: its picture 0 (a texture of 8x8 pixels; expected at most 60)"
                ]


@pytest.mark.parametrize("outside", ["../secret.bin", "/etc/passwd", "pipe.bin", "huge.bin"])
def test_other_files_of_a_mesh_lie_beside_it_and_are_files(tmp_path, outside):
    folder = tmp_path / "meshes"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(72))
    os.mkfifo(folder / "pipe.bin")
    with (folder / "huge.bin").open("wb") as file:
        file.truncate(2**30)
    tree = {
        **NODES,
        "buffers": [{"uri": outside, "byteLength": 72}],
        "bufferViews": [{"buffer": 0, "byteLength": 72}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "type": "VEC3", "count": 6}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
    }
    (folder / "a.gltf").write_text(json.dumps(tree))
    with pytest.raises(ValueError, match=r"a\.gltf"):
        read_mesh(folder / "a.gltf")


def test_texture_coordinates_without_sense_do_no_harm(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0\nv 1 0 0\nv 0 1 0\nvt 1e300 0\nvt 0 nan\nvt 1 1\nf 1/1 2/2 3/3\n")
    assert np.abs(read_mesh(tmp_path / "a.obj").uv).max() < 200


def test_a_flat_mesh_keeps_a_plausible_width(tmp_path):
    trimesh.creation.box((1.0, 1e-9, 1.0)).export(tmp_path / "flat.glb")
    mesh = read_mesh(tmp_path / "flat.glb", "tree")
    assert (mesh.bounds[1] - mesh.bounds[0]).max() < 40


@pytest.mark.skipif(os.name == "nt", reason="Windows' names are Unicode")
def test_a_name_that_is_no_text(tmp_path):
    trimesh.creation.box((1, 1, 1)).export(tmp_path / "a.glb")
    (tmp_path / "a.glb").rename(tmp_path / os.fsdecode(b"thing\xff.glb"))
    assert len(Library(tmp_path, 0, False, 10**8).files["thing"]) == 1
