"""The package as a person gets it: sdist and wheel are built, the wheel is installed into an empty environment, and its commands run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import yaml
from packaging.licenses import canonicalize_license_expression
from support.places import EXAMPLES, ROOT

from winwin_hf import __version__

PACKAGE = ROOT / "winwin_hf"
SUFFIXES = {".py", ".typed", ".yaml", ".json", ".safetensors", ".md", ".png", ".jpg", ".mp4", ".jinja"}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def wheel_files(built) -> dict[str, bytes]:
    """Name -> content of the wheel's small files; large ones are empty here."""
    with zipfile.ZipFile(built[1]) as wheel:
        return {i.filename: wheel.read(i) if i.file_size < 1e6 else b"" for i in wheel.infolist()}


@pytest.fixture(scope="module")
def metadata(wheel_files):
    (name,) = (name for name in wheel_files if name.endswith(".dist-info/METADATA"))
    return Parser().parsestr(wheel_files[name].decode())


# ---- what is in it ----


def test_the_wheel_holds_the_package_its_command_and_the_example_frames_only(wheel_files):
    inside = {name for name in wheel_files if ".dist-info/" not in name}
    expected = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*") if path.is_file()} | {
        "winwin_command.py"
    }
    expected |= {f"winwin_hf/examples/{path.name}" for path in EXAMPLES.iterdir()}
    assert inside == {name for name in expected if "__pycache__" not in name}
    assert {Path(name).suffix for name in inside} <= SUFFIXES, "a file of a kind that no one reads"


def test_the_wheel_holds_what_is_read_while_it_runs(wheel_files):
    for needed in (
        "winwin_hf/py.typed",
        "winwin_hf/recipes/camvid.yaml",
        "winwin_hf/hub/model_card.md.jinja",
        "winwin_hf/checkpoints/winwin-flow/model.safetensors",
        "winwin_hf/checkpoints/winwin-seg/config.json",
        "winwin_hf/checkpoints/winwin-depth/preprocessor_config.json",
        "winwin_hf/examples/bedroom_1.jpg",
    ):
        assert needed in wheel_files


def test_the_sdist_holds_no_tests_and_no_runs(built):
    with tarfile.open(built[0]) as sdist:
        folders = {name.split("/")[1] for name in sdist.getnames() if name.count("/") > 1}
    assert folders == {"winwin_hf", "spaces", "LICENSES"}


def test_the_metadata(metadata):
    assert metadata["Name"] == "winwin-hf" and metadata["Requires-Python"] == ">=3.10"
    assert metadata["Version"] == __version__
    assert {url.split(",")[0] for url in metadata.get_all("Project-URL")} >= {"Homepage", "Changelog", "Issues"}
    assert not [entry for entry in metadata.get_all("Classifier") if entry.startswith("License")], "PEP 639 forbids it"


# ---- licences ----


def card_licence(folder: Path) -> str:
    """The SPDX id that the wheel's metadata gives to the licence of a checkpoint's card."""
    head = yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])
    if head["license"] == "other":  # terms that have no SPDX id: LICENSES/ says them
        return f"LicenseRef-{folder.name}"
    return str(canonicalize_license_expression(head["license"]))


def example_licences() -> set[str]:
    """The SPDX ids of the example frames, from the table of their README."""
    cells = [
        line.split("|") for line in (EXAMPLES / "README.md").read_text(encoding="utf-8").splitlines() if "`" in line
    ]
    names = [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", row[4]).strip() for row in cells if len(row) > 5]
    ids = {"released for unrestricted usage": "LicenseRef-Kodak-Suite", "CC BY 4.0": "CC-BY-4.0"}
    return {ids.get(name, name) for name in names}


def test_the_metadata_names_every_licence_and_no_other(metadata):
    named = set(str(canonicalize_license_expression(metadata["License-Expression"])).split(" AND "))
    cards = {card_licence(path.parent) for path in (PACKAGE / "checkpoints").glob("*/README.md")}
    assert len(cards) > 1 and len(example_licences()) > 1, "nothing was read"
    assert named == {"Apache-2.0", *cards, *example_licences()}


def test_every_licence_comes_with_its_text(metadata, wheel_files):
    texts = {Path(name).name.removesuffix(".txt"): text for name, text in wheel_files.items() if "/licenses/" in name}
    named = metadata["License-Expression"].split(" AND ")
    assert set(texts) == {"LICENSE", "NOTICE", *named} - {"Apache-2.0"}
    assert b"Apache License" in texts["LICENSE"] and b"non-commercial research" in texts["LicenseRef-winwin-seg"]
    for name in named:
        assert name.encode() in texts["NOTICE"], f"NOTICE doesn't say which files have {name}"


# ---- what it does in an empty environment ----


@pytest.fixture(scope="module")
def run(built, tmp_path_factory):
    """Runs a program of an environment that has the wheel, in a folder away from the checkout; returns what it prints."""
    home = tmp_path_factory.mktemp("away")
    environment = home / "venv"
    venv.create(environment, with_pip=False)
    programs = environment / ("Scripts" if os.name == "nt" else "bin")
    python = programs / Path(sys.executable).name
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", str(built[1])], check=True, capture_output=True)
    # The dependencies are this environment's. A plain path in a .pth reads no .pth over there, so an editable install of the
    # package stays unseen.
    (site,) = environment.glob("[Ll]ib/site-packages" if os.name == "nt" else "lib/*/site-packages")
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("\n".join(sorted(paths)))
    removed = {"PYTHONPATH", "PYTHONHOME", "COV_CORE_SOURCE"}
    variables = {name: value for name, value in os.environ.items() if name not in removed}
    variables |= {"HOME": str(home), "HF_HOME": str(home / "hf"), "OMP_NUM_THREADS": "2", "COLUMNS": "200"}

    def call(*command: str) -> str:
        done = subprocess.run(
            [str(programs / command[0]), *command[1:]], cwd=home, env=variables, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stdout}\n{done.stderr}"
        return done.stdout

    call.home, call.site, call.python = home, site, python.name
    return call


@pytest.mark.slow
def test_the_package_comes_from_the_wheel(run):
    assert run(run.python, "-c", "import winwin_hf; print(winwin_hf.__file__)").startswith(str(run.site))


@pytest.mark.slow
def test_checkpoints_load_by_their_bare_names(run):
    assert run("winwin", "checkpoints", "install").count("winwin-") >= 3
    program = (
        "import winwin_hf, transformers; print(type(transformers.AutoModel.from_pretrained('winwin-depth')).__name__)"
    )
    assert run(run.python, "-c", program).strip() == "WinWinForDepthEstimation"


@pytest.mark.slow
def test_the_three_tasks(run):
    frames = run.site / "winwin_hf" / "examples"
    run("winwin", "flow", str(frames / "bedroom_1.jpg"), str(frames / "bedroom_2.jpg"), "-o", "flow.flo")
    run("winwin", "depth", str(frames / "room.jpg"), "-o", "depth.png")
    run("winwin", "segment", str(frames / "street.jpg"), "-o", "labels.png")
    assert all((run.home / name).stat().st_size > 1000 for name in ("flow.flo", "depth.png", "labels.png"))


@pytest.mark.slow
def test_two_steps_of_a_training_and_a_push(run):
    settings = ["optimization.steps=2", "optimization.batch_size=2", "optimization.num_workers=0", "evaluation.sets=[]"]
    options = [part for setting in [*settings, "evaluation.windows=1"] for part in ("--set", setting)]
    assert "flow-synthetic" in run("winwin", "recipes", "list")
    run("winwin", "train", "flow-synthetic", *options, "--output", "trained")
    assert (run.home / "trained" / "model" / "model.safetensors").is_file()
    output = run("winwin", "push", "trained", "somebody/trained", "--dry-run")
    assert "model.safetensors" in output and "modeling_winwin.py" in output
