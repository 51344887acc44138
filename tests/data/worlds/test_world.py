"""Worlds against geometry by hand: planes, balls, cameras that turn; windows against full frames."""

import pickle
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("embreex", reason="needs winwin-hf[worlds]")
pytest.importorskip("trimesh", reason="needs winwin-hf[worlds]")

from winwin_hf.data.synthetic.textures import TextureBank
from winwin_hf.data.worlds.atlas import Atlas, Pyramid, Pyramids
from winwin_hf.data.worlds.builder import Light, Scene
from winwin_hf.data.worlds.casting import Body, Pose, View, still, turned
from winwin_hf.data.worlds.kinds import CLASSES, KINDS, UNNAMED
from winwin_hf.data.worlds.library import Library, swayed, swung
from winwin_hf.data.worlds.meshes import WHITE, Material
from winwin_hf.data.worlds.places import build
from winwin_hf.data.worlds.reader import SyntheticWorlds
from winwin_hf.data.worlds.settings import PLACES, WorldSettings
from winwin_hf.data.worlds.solids import ball, box, own_shape, quad
from winwin_hf.data.worlds.world import World

HEIGHT, WIDTH, FOCAL = 60, 80, 70.0
CENTRE = ((WIDTH - 1) / 2, (HEIGHT - 1) / 2)
CAMERA = np.array([[-1.0, 0, 0], [0, -1.0, 0], [0, 0, 1.0]])  # looks along z; its right is -x, its down -y
GREY = Material(WHITE, (0.5, 0.5, 0.5), CLASSES.index("road"))
FULL = (0, 0, HEIGHT, WIDTH)


def plain(**options):
    quiet = {
        "photometric": 0.0,
        "blur": 0.0,
        "noise": 0.0,
        "compression": 0.0,
        "texture_count": 4,
        "texture_weights": {"noise": 1},
    }
    return WorldSettings(height=HEIGHT, width=WIDTH, **{**quiet, **options})


def world_of(bodies, move=(0, 0, 0), spin=(0, 0, 0), task="optical-flow", **options):
    """A world of (mesh, pose), seen by a camera at the origin."""
    first, placed = 0, []
    for mesh, pose in bodies:
        placed.append(Body(mesh, pose, first))
        first += len(mesh.materials)
    materials = [m for mesh, _ in bodies for m in mesh.materials]
    view = View(Pose(np.zeros(3), CAMERA, np.array(move, float), np.array(spin, float), np.zeros(3)), FOCAL, CENTRE)
    scene = Scene(placed, materials, view, Light(0.5, np.array([0.0, 1.0, 0.0])))
    settings = plain(task=task, **options)
    return World(scene, settings, np.random.default_rng(0), Pyramids(TextureBank(), 2**24))


def wall(depth, size=100.0):
    corners = np.array([[size, -size, depth], [-size, -size, depth], [-size, size, depth], [size, size, depth]], float)
    return quad(corners, GREY)


def rays():
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(float)
    return (x - CENTRE[0]) / FOCAL, (y - CENTRE[1]) / FOCAL


def test_depth_of_a_plane_that_leans():
    """z = 5 + 0.5 x_right, by its equation."""
    corners = np.array([[-8.0, -9, 1], [8, -9, 9], [8, 9, 9], [-8, 9, 1]]) * [-1, 1, 1]
    _, depth = world_of([(quad(corners, GREY), still((0, 0, 0)))], task="depth-estimation").first(FULL)
    x, _ = rays()
    expected = 5 / (1 - 0.5 * x)
    seen = np.isfinite(depth)
    assert seen.mean() > 0.9
    assert np.abs(depth - expected)[seen].max() < 1e-4


def test_depth_of_a_ball_lies_on_its_flat_faces():
    """A ball of radius 1 whose triangles lie within it by less than 1 - cos(half of their angle)."""
    mesh = ball(1.0, GREY, around=400)
    _, depth = world_of([(mesh, still((0, -1, 4)))], task="depth-estimation").first(FULL)
    x, y = rays()
    a, b, c = x * x + y * y + 1, -4.0, 15.0
    root = b * b - a * c
    inner = root > 0.3
    expected = (4 - np.sqrt(np.maximum(root, 0))) / a
    assert np.isfinite(depth[inner]).all()
    assert np.abs(depth - expected)[inner].max() < 5e-4


def test_flow_of_a_wall_as_the_camera_comes_nearer():
    world = world_of([(wall(10.0), still((0, 0, 0)))], move=(0, 0, 2.0))
    _, flow = world.first(FULL)
    x, y = rays()
    expected = FOCAL * np.stack([x, y], -1) * (10 / 8 - 1)
    assert np.abs(flow - expected).max() < 1e-3


def test_flow_of_a_camera_that_turns_does_not_depend_on_depth():
    """x' ~ R x for any depth, and for the sky."""
    spin = np.array([0.02, -0.03, 0.05])
    near = world_of([(wall(3.0, 1.0), still((0, 0, 0)))], spin=spin)
    _, flow = near.first(FULL)
    x, y = rays()
    direction = np.stack([x, y, np.ones_like(x)], -1) @ CAMERA.T
    seen = direction @ (turned(spin) @ CAMERA)
    expected = FOCAL * (seen[..., :2] / seen[..., 2:] - np.stack([x, y], -1))
    assert np.abs(flow - expected).max() < 1e-3
    assert near._labels(near._cast(0.0, *near._grid(FULL))).min() == CLASSES.index("sky")


def test_flow_of_a_body_that_moves_and_spins():
    spin, move = np.array([0.0, 0.0, 0.3]), np.array([0.2, 0.1, 0.0])
    pose = Pose(np.array([0.0, 0, 5]), np.eye(3), move, spin, np.zeros(3))
    disc = box((4.0, 4.0, 0.01), GREY)
    world = world_of([(disc, replace(pose, middle=np.array([0.0, 2.0, 0.0]), place=np.array([0.0, -2.0, 5])))])
    _, flow = world.first(FULL)
    hits = world._cast(0.0, *world._grid(FULL))
    on = (hits.body == 0).reshape(HEIGHT, WIDTH)
    x, y = rays()
    z = 5 - 0.005
    place = np.stack([-x * z, -y * z, np.full_like(x, z)], -1)
    later = (place - [0, 0, 5]) @ turned(spin).T + [0, 0, 5] + move
    expected = np.stack([-later[..., 0] / later[..., 2] - x, -later[..., 1] / later[..., 2] - y], -1) * FOCAL
    assert on.any()
    assert np.abs(flow - expected)[on].max() < 1e-3


def test_a_body_that_is_larger_than_its_mesh():
    """A card of 1 x 1 m enlarged three times, as far away as its own size says, and the same card at its true size."""
    small, large = box((1.0, 1.0, 0.01), GREY), box((3.0, 3.0, 0.03), GREY)
    motion = {"axes": turned(np.array([0, 0.3, 0])), "move": np.array([0.1, 0, 0]), "spin": np.array([0, 0, 0.2])}
    place = np.array([0.2, -1.0, 5.0])
    poses = [
        Pose(place, middle=m, scale=k, **motion)
        for m, k in ((np.array([0, 0.5, 0]), 3.0), (np.array([0, 1.5, 0]), 1.0))
    ]
    (_, a), (_, b) = (world_of([(m, p)]).first(FULL) for m, p in zip((small, large), poses, strict=True))
    assert np.abs(a - b).max() < 1e-6
    one, two = (
        world_of([(m, p)], task="depth-estimation").first(FULL)[1] for m, p in zip((small, large), poses, strict=True)
    )
    assert np.array_equal(np.isnan(one), np.isnan(two))
    assert np.nanmax(np.abs(one - two)) < 1e-5


def test_stereo_flow_is_focal_times_baseline_over_depth():
    world = world_of([(wall(8.0), still((0, 0, 0)))], move=(-0.5, 0, 0))  # the camera moves to its right
    _, flow = world.first(FULL)
    assert np.abs(flow[..., 0] + FOCAL * 0.5 / 8).max() < 1e-3
    assert np.abs(flow[..., 1]).max() < 1e-3


def test_occlusion_is_what_a_nearer_thing_covers_and_what_leaves_the_frame():
    card = box((1.0, 1.0, 0.01), GREY)
    moving = Pose(np.array([1.0, -0.5, 4.0]), np.eye(3), np.array([-1.0, 0, 0]), np.zeros(3), np.zeros(3))
    world = world_of([(wall(8.0), still((0, 0, 0))), (card, moving)])
    hidden = world.occlusion(FULL)
    after = world._cast(1.0, *world._grid(FULL)).body.reshape(HEIGHT, WIDTH) == 1
    before = world._cast(0.0, *world._grid(FULL)).body.reshape(HEIGHT, WIDTH) == 1
    assert (hidden == (after & ~before)).mean() > 0.995  # but for the card's edge
    gone = world_of([(wall(8.0), still((0, 0, 0)))], move=(-1.0, 0, 0)).occlusion(FULL)
    assert gone[:, :8].all()
    assert not gone[:, 9:].any()


def test_everything_is_hidden_where_a_fast_camera_leaves_nothing_in_the_frame():
    world = world_of([(wall(8.0), still((0, 0, 0)))], move=(-1000.0, 0, 0))
    assert world.occlusion(FULL).all()
    assert world.first(FULL)[1].shape == (HEIGHT, WIDTH, 2)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("task", ["optical-flow", "depth-estimation", "semantic-segmentation"])
def test_a_window_is_the_crop_of_the_full_frame_bit_for_bit(place, task):
    settings = WorldSettings(
        height=96, width=128, places={place: 1.0}, task=task, texture_count=4, compression=1.0, blur=1.0
    )
    settings = replace(settings, texture_weights={"noise": 1.0})
    read = SyntheticWorlds(settings)
    for seed in range(2):
        world = read({"seed": seed})
        image, target = world.first((0, 0, 96, 128))
        second = world.second((0, 0, 96, 128))
        for top, left, height, width in ((16, 32, 48, 64), (0, 0, 16, 16), (81, 100, 15, 28)):
            part = (slice(top, top + height), slice(left, left + width))
            window, truth = world.first((top, left, height, width))
            assert np.array_equal(window, image[part])
            assert np.array_equal(truth, target[part], equal_nan=truth.dtype.kind == "f")
            assert np.array_equal(world.second((top, left, height, width)), second[part])


def test_many_rays_are_cast_in_parts(monkeypatch):
    read = SyntheticWorlds(plain(places={"street": 1.0}))
    image, flow = read({"seed": 2}).first(FULL)
    monkeypatch.setattr("winwin_hf.data.worlds.world.RAYS", 500)
    again, same = read({"seed": 2}).first(FULL)
    assert np.array_equal(image, again)
    assert np.array_equal(flow, same, equal_nan=True)


def test_beyond_the_frame_nothing_is_known():
    for task, unknown in (
        ("optical-flow", np.isnan),
        ("depth-estimation", np.isnan),
        ("semantic-segmentation", lambda t: t == UNNAMED),
    ):
        world = world_of([(wall(5.0), still((0, 0, 0)))], task=task)
        image, target = world.first((HEIGHT - 8, WIDTH - 8, 16, 16))
        assert image.shape == (16, 16, 3)
        assert unknown(target[8:]).all() and unknown(target[:, 8:]).all()
        assert not unknown(target[:8, :8]).any()


def test_depth_is_unknown_in_the_sky_and_beyond_far():
    _, depth = world_of([(wall(30.0, 4.0), still((0, 0, 0)))], task="depth-estimation", far=50.0).first(FULL)
    assert np.nanmax(depth) == pytest.approx(30, abs=1e-4)
    assert np.isnan(depth[0, 0])
    _, depth = world_of([(wall(30.0), still((0, 0, 0)))], task="depth-estimation", far=20.0).first(FULL)
    assert np.isnan(depth).all()


def test_holes_are_seen_through_and_let_light_pass():
    texture = np.full((4, 4, 4), 255, np.uint8)
    texture[:, 2:, 3] = 0
    card = replace(quad(np.array([[1.0, -1, 2], [-1, -1, 2], [-1, 1, 2], [1, 1, 2]]), Material(texture, cut=True)))
    card = replace(card, uv=np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]], np.float32))
    _, depth = world_of([(wall(6.0), still((0, 0, 0))), (card, still((0, 0, 0)))], task="depth-estimation").first(FULL)
    row = depth[HEIGHT // 2]
    assert row[WIDTH // 2 - 10] == pytest.approx(2, abs=1e-4)
    assert row[WIDTH // 2 + 10] == pytest.approx(6, abs=1e-4)


def test_shadows_fall_away_from_the_sun():
    floor = quad(np.array([[9.0, -1, 1], [-9, -1, 1], [-9, -1, 20], [9, -1, 20]]), GREY)
    roof = box((2.0, 0.1, 2.0), GREY)
    bare = world_of([(floor, still((0, 0, 0)))], edges=False)
    shaded = world_of([(floor, still((0, 0, 0))), (roof, still((0, 0.8, 5)))], edges=False)
    shaded.exposure = bare.exposure
    y, x = 52, 40  # about 5 m away on the floor
    y = round(CENTRE[1] + FOCAL / 5)
    assert int(shaded.first(FULL)[0][y, x].max()) < 0.8 * int(bare.first(FULL)[0][y, x].min())
    assert np.array_equal(shaded.first(FULL)[0][y, 2], bare.first(FULL)[0][y, 2])


def test_edges_are_means_of_four_rays():
    card = box((1.0, 1.0, 0.01), Material(WHITE))
    scene = [(card, still((0.013, -0.511, 4.0), turned(np.array([0, 0, 0.3]))))]
    soft, hard = (world_of(scene, edges=edges) for edges in (True, False))
    soft.exposure = hard.exposure = 1.0
    a, b = soft.first(FULL)[0].astype(int), hard.first(FULL)[0].astype(int)
    changed = np.abs(a - b).max(-1) > 0
    assert 0 < changed.mean() < 0.1
    assert len(np.unique(a[changed][:, 0])) > len(np.unique(b[..., 0]))


def test_what_is_drawn_follows_from_the_seed():
    read = SyntheticWorlds(plain(places={"street": 1.0}))
    first, again, other = read({"seed": 5}), pickle.loads(pickle.dumps(read))({"seed": 5}), read({"seed": 6})
    assert np.array_equal(first.first(FULL)[0], again.first(FULL)[0])
    assert not np.array_equal(first.first(FULL)[0], other.first(FULL)[0])


def test_stereo_pairs_have_disparity_alone():
    for place in ("street", "room"):
        world = SyntheticWorlds(plain(places={place: 1.0}, stereo=1.0))({"seed": 4})
        _, flow = world.first(FULL)
        assert np.nanmax(np.abs(flow[..., 1])) < 1e-3
        near = np.isfinite(world._cast(0.0, *world._grid(FULL)).depth).reshape(HEIGHT, WIDTH)
        assert (flow[..., 0][near] < 0).all()


def test_the_task_changes_the_target_alone():
    images = [
        SyntheticWorlds(plain(task=t))({"seed": 3}).first(FULL)[0]
        for t in ("depth-estimation", "semantic-segmentation")
    ]
    assert np.array_equal(*images)


def test_streets_have_roads_houses_and_sky_and_labels_are_classes():
    read = SyntheticWorlds(plain(task="semantic-segmentation", places={"street": 1.0}, people=(3, 6)))
    seen = set()
    for seed in range(12):
        seen |= set(np.unique(read({"seed": seed}).first(FULL)[1]).tolist())
    assert {CLASSES.index(n) for n in ("sky", "building", "road", "pavement", "window")} <= seen
    assert max(seen - {UNNAMED}) < len(CLASSES)


def test_the_camera_of_a_room_stays_in_it():
    read = SyntheticWorlds(plain(places={"room": 1.0}, motion=10.0))
    for seed in range(20):
        world = read({"seed": seed})
        for time in (0.0, 1.0):
            hits = world._cast(time, *world._grid((0, 0, 8, 8)))
            assert (hits.body >= 0).all()


def test_limbs_swing_about_their_joints_and_trees_bend_above_their_foot():
    rng = np.random.default_rng(0)
    person = own_shape("person", rng, [GREY], GREY)
    moved = swung(person, 0.4).moved
    tall = person.bounds[1, 1]
    head = person.vertices[:, 1] > 0.85 * tall
    feet = person.vertices[:, 1] < 0.05 * tall
    assert np.abs(moved[head]).max() == 0
    assert np.abs(moved[feet]).max() > 0.1
    tree = own_shape("tree", rng, [GREY], GREY)
    bent = swayed(tree, np.array([0.3, 0.0]))
    assert np.abs(bent.moved[tree.vertices[:, 1] < 0.01]).max() < 1e-3
    assert np.abs(bent.moved).max() > 0.1
    assert bent.at(1.0) == pytest.approx(tree.vertices + bent.moved)


def test_every_kind_has_a_shape_of_its_own_size():
    rng = np.random.default_rng(0)
    for kind in KINDS:
        mesh = own_shape(kind, rng, [GREY], GREY)
        low, high = mesh.bounds
        assert mesh.kind in (kind, "bush", "tree")
        assert low[1] > -0.05, kind
        assert 0 < (high - low).max() < 13, kind
        assert np.abs(np.linalg.norm(mesh.normals, axis=1) - 1).max() < 1e-3, kind


def test_a_pyramid_halves_and_a_sample_lies_between_pixels():
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (8, 8, 4), dtype=np.uint8)
    texture[..., 3] = 255
    pyramid = Pyramid.of(texture)
    assert pyramid.sizes == [(8, 8), (4, 4), (2, 2), (1, 1)]
    atlas = Atlas([Material(texture)], Pyramids(TextureBank(), 2**20))
    zero, one = np.zeros(1, np.int32), np.ones(1, np.float32)
    at_pixel = atlas.sample(zero, np.array([2.5 / 8]), np.array([1 - 3.5 / 8]), one)
    assert np.allclose(at_pixel[0], texture[3, 2])
    between = atlas.sample(zero, np.array([3.0 / 8]), np.array([1 - 3.5 / 8]), one)
    assert np.allclose(between[0], texture[3, 2:4].mean(0))
    around = atlas.sample(zero, np.array([2.5 / 8 + 3]), np.array([1 - 3.5 / 8 - 2]), one)
    assert np.allclose(around, at_pixel, atol=1e-3)
    smallest = atlas.sample(zero, np.array([0.3]), np.array([0.7]), np.full(1, 1e6, np.float32))
    assert np.abs(smallest[0] - texture.reshape(-1, 4).mean(0)).max() < 2


def test_caches_keep_to_their_limits(tmp_path):
    import trimesh

    for i in range(6):
        trimesh.creation.icosphere(3).export(tmp_path / f"thing_{i}.ply")
    library = Library(tmp_path, 0, False, 400_000)
    rng = np.random.default_rng(0)
    for _ in range(40):
        library.draw("thing", rng, 0, 50, 0.0, [GREY], GREY)
        assert library.held_bytes <= 400_000 or len(library.kept) == 1
    pyramids = Pyramids(TextureBank(weights={"noise": 1.0}), 3_000_000)
    first = Atlas([Material(0)], pyramids)
    place = (np.zeros(1, np.int32), np.array([0.3]), np.array([0.2]), np.ones(1, np.float32))
    before = first.sample(*place)
    for i in range(6):
        Atlas([Material(i)], pyramids)
        assert pyramids.pixels.nbytes <= 3_000_000
    assert np.array_equal(first.sample(*place), before)  # although the array has begun anew
    Atlas([Material(i) for i in range(6)], pyramids)  # a world that needs more
    assert len(pyramids.kept) == 6


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"places": {"moon": 1.0}}, "places"),
        ({"places": {"street": 0.0}}, "places"),
        ({"field_of_view": (90.0, 40.0)}, "field_of_view"),
        ({"field_of_view": (1.0, 40.0)}, "field_of_view"),
        ({"people": (4, 1)}, "people"),
        ({"sizes": ((1, 2, 3),)}, "sizes"),
    ],
)
def test_settings_without_sense_are_named(fields, named):
    with pytest.raises(ValueError, match=named):
        WorldSettings(**fields)


def scene_of(place, number, **options):
    """The same world for the same number, but for what the options add."""
    settings = WorldSettings(
        height=HEIGHT, width=WIDTH, places={place: 1}, texture_count=4, texture_weights={"noise": 1}, **options
    )
    return build(settings, np.random.default_rng(number), Library(None, 0, False, 2**24), 0)


@pytest.mark.parametrize("place", ["street", "land", "room"])
def test_subjects_are_in_the_middle_of_the_view(place):
    found = 0
    for number in range(12):
        without, scene = scene_of(place, number), scene_of(place, number, subjects=[1, 3])
        assert len(without.bodies) <= len(scene.bodies) <= len(without.bodies) + 6
        for body, same in zip(scene.bodies[: len(without.bodies)], without.bodies, strict=True):
            assert np.array_equal(body.mesh.vertices, same.mesh.vertices)
        for body in scene.bodies[len(without.bodies) :]:
            low, high = body.mesh.bounds
            centre = tuple(
                np.atleast_1d(v) for v in body.pose.scale * body.pose.axes @ ((low + high) / 2) + body.pose.place
            )
            _, column, depth = scene.view.project(0.0, centre)
            assert 0 < depth[0] < 12
            assert -0.3 * WIDTH < column[0] < 1.3 * WIDTH
            found += 1
    assert found >= 6


def test_subjects_of_a_room_are_between_its_walls():
    for number in range(12):
        first = len(scene_of("room", number).bodies)
        scene = scene_of("room", number, subjects=[2, 4])
        walls = scene.bodies[0].mesh.bounds
        for body in scene.bodies[first:]:
            axes, place = body.pose.at(0.0)
            points = body.pose.scale * body.mesh.vertices @ axes.T + place
            assert (points[:, [0, 2]].mean(0) > walls[0, [0, 2]]).all()
            assert (points[:, [0, 2]].mean(0) < walls[1, [0, 2]]).all()
            assert points[:, 1].min() > -0.05  # nothing under the floor
            assert points[:, 1].min() < 1.25  # nor above the highest jump
