"""README.md and docs/: every block of code runs as it stands there, on tiny data under the names that the page uses.

What a page may say to these tests, in an HTML comment on the line before a block:
- `<!-- not run: REASON -->`: it can't run here (uploads, a server, an installation). SKIPPED counts these, so none slips in.
- `<!-- file: NAME -->`: the page tells the reader to save this block as NAME.

`winwin ...` runs in this process, and so does `accelerate launch scripts/X.py ...`, which is the same; the slow test runs the same
lines in a shell, a process each. SHORTER makes trainings short, by replacing text that must be there.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import nbclient
import nbformat
import numpy as np
import pytest
import yaml
from accelerate.state import AcceleratorState
from markdown.extensions.toc import slugify
from PIL import Image
from support.places import FRAMES, ROOT
from typer.testing import CliRunner

import winwin_hf
from winwin_hf import bundled
from winwin_hf.cli.main import app
from winwin_hf.data import formats
from winwin_hf.inference import clips

DATA = FRAMES
DOCS = ROOT / "docs"
PAGES = [
    "README.md",
    *(path.relative_to(ROOT).as_posix() for pattern in ("*.md", "api/*.md") for path in sorted(DOCS.glob(pattern))),
]
FIGURES = sorted((DOCS / "results").glob("*.md"))  # not run: they need data, hours, or a GPU
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
LANGUAGES = ("python", "bash", "yaml", "text", "bibtex")
README_BYTES = 13_000

ALONE = "docs/troubleshooting.md"  # people copy one block of it, so each runs in a namespace of its own
SLOW = {"docs/export.md", "docs/tutorial-flow.md"}  # pages that take more than a few seconds in either test
# Blocks marked `not run`. A number that grows is a block that nothing checks any more.
SKIPPED = {
    "README.md": 1,
    "docs/index.md": 1,
    "docs/notebooks.md": 1,
    "docs/pretrained.md": 2,
    "docs/publishing.md": 1,
    "docs/demo.md": 2,
    "docs/cluster.md": 1,
    "docs/inference-speed.md": 4,
    "docs/performance.md": 2,
    "docs/predict.md": 3,
    "docs/worlds.md": 4,
    "docs/scale.md": 2,
    "docs/troubleshooting.md": 2,
    "docs/api/hub.md": 1,
    "docs/api/training.md": 1,
}

_FEW = "--set optimization.steps=2 --set optimization.batch_size=1 --set optimization.num_workers=0 --set evaluation.windows=1"
SHORTER: dict[str, dict[str, str]] = {
    "README.md": {"--set data.path=CamVid": f"--set data.path=CamVid {_FEW} --set evaluation.sets.1.length=1"},
    "docs/data.md": {"/data/": "data/", "data check data/Sintel": "data check data/Sintel --workers 0"},
    "docs/tutorial.md": {
        "data check my-data": "data check my-data --workers 0",
        "steps: 1000": "steps: 2",
        "every: 500": "every: 2",
        "windows: 32": "windows: 1",
    },
    "docs/tutorial-flow.md": {
        "data check my-clips": "data check my-clips --workers 0",
        "steps: 500": "steps: 2",
        "every: 250": "every: 2",
        "windows: 16": "windows: 1",
    },
    "docs/publishing.md": {"--dry-run\n": "--dry-run --no-picture\n"},
    "docs/export.md": {
        'quantise=["int8"]': 'quantise=["int8"], check=False',
        "--quantise int8": "--quantise int8 --no-check",
    },
}


# ------------------------------------------------------------------ blocks


@dataclass
class Block:
    """line: of its first line of code. skipped: why it isn't run. file: what to save it as."""

    page: str
    line: int
    language: str
    text: str
    skipped: str | None = None
    file: str | None = None


def blocks(page: str, text: str) -> list[Block]:
    """All fenced blocks of a page. Raises ValueError for one without a language, or a comment that belongs to no block."""
    found, lines, start = [], text.splitlines(), None
    for i, line in enumerate(lines):
        if not line.lstrip().startswith("```"):
            continue
        if start is None:
            start = i
            continue
        language = lines[start].strip().removeprefix("```")
        if language not in LANGUAGES:
            raise ValueError(f"{page}:{start + 1}: a block of {language!r}; expected one of {', '.join(LANGUAGES)}")
        block = Block(page, start + 2, language, "\n".join(lines[start + 1 : i]) + "\n")
        note = re.fullmatch(r"<!-- (not run|file): (\S.*) -->", lines[start - 1]) if start else None
        if note:
            setattr(block, "skipped" if note[1] == "not run" else "file", note[2])
        found.append(block)
        start = None
    notes = len(re.findall(r"^<!-- (?:not run|file)\b", text, flags=re.MULTILINE))
    if start is not None or notes != sum(bool(block.skipped or block.file) for block in found):
        raise ValueError(f"{page}: a block without an end, or a comment that is not on the line before a block")
    return found


def shorter(page: str, text: str) -> str:
    """The page with SHORTER's replacements. Raises ValueError for one whose text is no longer there."""
    for old, new in SHORTER.get(page, {}).items():
        if old not in text:
            raise ValueError(f"{page}: {old!r} isn't there any more; SHORTER is out of date")
        text = text.replace(old, new)
    return text


def commands(text: str) -> list[list[str]]:
    """The commands of a bash block, without comments."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


# ------------------------------------------------------------------ running them


def in_process(words: list[str], where: str) -> None:
    """One command of the package, here; a script of ours is the command of the same name."""
    if words[:2] == ["accelerate", "launch"]:
        words = ["winwin", Path(words[2]).stem, *words[3:]]
    assert words[0] == "winwin", f"{where}: {shlex.join(words)}: not one of our commands; mark the block as not run"
    AcceleratorState._reset_state(True)  # each command makes an Accelerator of its own, as its process would
    try:
        result = CliRunner().invoke(app, words[1:])
    finally:
        AcceleratorState._reset_state(True)
    assert result.exit_code == 0, f"{where}: {shlex.join(words)}\n{result.output}\n{result.exception!r}"


def in_shell(words: list[str], where: str) -> None:
    """One command in a process of its own, as a person runs it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shlex.join(words)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{where}: {shlex.join(words)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def run_page(page: str, namespace: dict[str, Any], execute: Callable[[list[str], str], None]) -> int:
    """Runs a page's blocks in their order, in the current folder; how many it ran."""
    count = 0
    for block in blocks(page, shorter(page, (ROOT / page).read_text())):
        where = f"{block.page}:{block.line}"
        if block.skipped:
            continue
        if block.file:
            Path(block.file).write_text(block.text)
        if block.language == "yaml":
            yaml.safe_load(block.text)
        elif block.language == "python":
            own = {"__name__": "page"} if page == ALONE else namespace
            exec(compile("\n" * (block.line - 1) + block.text, str(ROOT / page), "exec"), own)
        elif block.language == "bash":
            for words in commands(block.text):
                execute(words, where)
        else:
            continue
        count += 1
    return count


# ------------------------------------------------------------------ what the pages speak of


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with tiny data under the names that the pages use, and the repository's scripts and spaces."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.delenv("WINWIN_TRACEBACK", raising=False)
    bundled.install()
    for kind in (winwin_hf.WinWinConfig, winwin_hf.WinWinForSemanticSegmentation, winwin_hf.WinWinImageProcessor):
        monkeypatch.setattr(kind, "_auto_class", None)  # pages register them; it is put back after the test
    for name in ("scripts", "spaces", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def variables() -> dict[str, Any]:
    """What pages take as given: frame1, frame2 and image (PIL), height and width of them, frames (arrays), true_flow."""
    frame1, frame2 = frames = still_frames(2, 64, 96)
    images = {"frame1": Image.fromarray(frame1), "frame2": Image.fromarray(frame2), "image": Image.fromarray(frame1)}
    true_flow = np.zeros((2, 64, 96), np.float32)
    return {"__name__": "page", "frames": frames, "height": 64, "width": 96, "true_flow": true_flow, **images}


def still_frames(count: int, height: int, width: int) -> list[np.ndarray]:
    """A smooth random picture that moves to the right, 2 pixels a frame."""
    noise = np.random.default_rng(0).integers(0, 255, (height // 8, (width + 2 * count) // 8 + 1, 3), dtype=np.uint8)
    wide = cv2.resize(noise, (width + 2 * count, height), interpolation=cv2.INTER_CUBIC)
    return [np.ascontiguousarray(wide[:, 2 * (count - i) : 2 * (count - i) + width]) for i in range(count)]


def prepare_frames() -> None:
    for name in ("frame1", "frame2", "image"):
        variables()[name].save(f"{name}.png")


def prepare_readme() -> None:
    examples = Path("spaces/winwin-demo/examples")
    Path("spaces").unlink()  # small pictures instead of the repository's
    examples.mkdir(parents=True)
    for name, frame in zip(("bedroom_1", "bedroom_2", "street", "room"), still_frames(4, 64, 96), strict=True):
        Image.fromarray(frame).save(examples / f"{name}.jpg")
    clips.write_video(examples / "bedroom.mp4", iter(still_frames(3, 64, 96)), 10)
    for path in (DATA / "CamVid").rglob("*.png"):
        target = "CamVid" / path.relative_to(DATA / "CamVid")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:  # 90x120, too small for the recipes' windows
            picture.resize((480, 360), Image.Resampling.NEAREST).save(target)


def prepare_data() -> None:
    shutil.copytree(DATA / "flow" / "Sintel", "data/Sintel")


def prepare_masks() -> None:
    generator = np.random.default_rng(0)
    for split, names in (("train", ["street/0001", "street/0002", "0003", "0004"]), ("val", ["0101", "0102"])):
        for name in names:
            image, mask = (
                Path("my-data", kind, split, f"{name}{end}") for kind, end in (("images", ".jpg"), ("masks", ".png"))
            )
            for path in (image, mask):
                path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(still_frames(1, 288, 384)[0]).save(image)
            labels = generator.choice(np.uint8([0, 1, 2, 11]), (18, 24))
            Image.fromarray(labels.repeat(16, axis=0).repeat(16, axis=1)).save(mask)
    Path("my-data/names.txt").write_text("road\nsky\nthing\n")


def prepare_clips() -> None:
    for split in ("train", "val"):
        frames, flows = Path("my-clips", split, "frames/walk"), Path("my-clips", split, "flow/walk")
        frames.mkdir(parents=True)
        flows.mkdir(parents=True)
        for i, frame in enumerate(still_frames(3, 192, 256), start=1):
            Image.fromarray(frame).save(frames / f"{i:04d}.png")
            if i < 3:
                formats.write_flo(flows / f"{i:04d}.flo", np.full((192, 256, 2), (2, 0), np.float32))


def prepare_video() -> None:
    clips.write_video("clip.mp4", iter(still_frames(3, 64, 96)), 10)


def prepare_training() -> None:
    shutil.copytree(bundled.CHECKPOINTS / "winwin-seg", "runs/my-masks")


PREPARE: dict[str, Callable[[], None]] = {
    "README.md": prepare_readme,
    "docs/api/inference.md": prepare_frames,
    "docs/data.md": prepare_data,
    "docs/tutorial.md": prepare_masks,
    "docs/tutorial-flow.md": prepare_clips,
    "docs/video.md": prepare_video,
    "docs/publishing.md": prepare_training,
}


def runnable() -> list[str]:
    """The pages with something to run."""
    kinds = ("python", "bash", "yaml")
    every = {page: blocks(page, (ROOT / page).read_text()) for page in PAGES}
    return [page for page in PAGES if any(b.language in kinds and not b.skipped for b in every[page])]


# ------------------------------------------------------------------ tests


@pytest.mark.parametrize("page", [pytest.param(p, marks=[pytest.mark.slow] * (p in SLOW)) for p in runnable()])
def test_a_page_runs(page: str, here: Path):
    PREPARE.get(page, lambda: None)()
    assert run_page(page, variables(), in_process) > 0


@pytest.mark.slow
@pytest.mark.parametrize("page", runnable())
def test_a_page_runs_in_a_shell(page: str, here: Path):
    PREPARE.get(page, lambda: None)()
    assert run_page(page, variables(), in_shell) > 0


def test_blocks_that_are_copied_alone_register_the_models():
    """In this process they are registered already, so running the blocks doesn't show it."""
    loading = [
        b for b in blocks(ALONE, (ROOT / ALONE).read_text()) if re.search(r"\bfrom_pretrained\(|\bpipeline\(", b.text)
    ]
    assert loading and not [
        b.line for b in loading if not re.search(r"^(import|from) winwin_hf\b", b.text, re.MULTILINE)
    ]


def test_the_first_page_links_to_every_page():
    listed = {(DOCS / link.partition("#")[0]).resolve() for link in links(DOCS / "index.md")}
    pages = {ROOT / page for page in PAGES[1:]} - {DOCS / "index.md"}
    assert not [path.name for path in sorted(pages - listed)]


def test_no_block_is_skipped_silently():
    skipped = {page: [b.skipped for b in blocks(page, (ROOT / page).read_text()) if b.skipped] for page in PAGES}
    assert {page: len(reasons) for page, reasons in skipped.items() if reasons} == SKIPPED


def test_replacements_and_preparations_are_of_pages_that_are_there():
    assert {*SHORTER, *PREPARE, *SKIPPED} <= {*PAGES}
    for page in PAGES:
        shorter(page, (ROOT / page).read_text())
    with pytest.raises(ValueError, match="out of date"):
        shorter("docs/tutorial.md", "steps: 3\n")


def test_blocks_are_found_with_their_notes():
    page = "\n\n<!-- not run: no reason to -->\n```bash\nls  # x\nwinwin \\\n  flow 'a b'\n```\n<!-- file: r.yaml -->\n```yaml\na: 1\n```\n"
    first, second = blocks("p", page)
    assert (first.skipped, first.line, first.language) == ("no reason to", 5, "bash")
    assert commands(first.text) == [["ls"], ["winwin", "flow", "a b"]]
    assert (second.file, second.text, second.skipped) == ("r.yaml", "a: 1\n", None)
    for wrong in (
        "```\nx\n```\n",
        "```bash\nx\n",
        "<!-- not run: x -->\n\n```bash\nx\n```\n",
        "<!-- not run:  -->\n```bash\nx\n```\n",
    ):
        with pytest.raises(ValueError):
            blocks("p", wrong)


def test_a_failing_block_is_named(here: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", here)
    Path("p.md").write_text("\n```bash\nwinwin flow a.png b.png\n```\n")
    with pytest.raises(AssertionError, match=r"p\.md:3: winwin flow a\.png b\.png"):
        run_page("p.md", {}, in_process)
    Path("p.md").write_text("\n```bash\nrm -r x\n```\n")
    with pytest.raises(AssertionError, match="not one of our commands"):
        run_page("p.md", {}, in_process)


# ------------------------------------------------------------------ links and figures


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as Markdown's toc makes them."""
    return {
        slugify(re.sub(r"[`*]|\[|\]\([^)]*\)", "", title), "-")
        for title in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    }


def links(page: Path) -> list[str]:
    """Targets of a page's links and pictures, without those to other sites and those in blocks of code."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", text))
    return [target for target in targets if not re.match(r"https?://|mailto:", target)]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))], ids=lambda path: path.relative_to(ROOT).as_posix()
)
def test_links_lead_somewhere(page: Path):
    for target in links(page):
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{page}: {target}"
        assert not anchor or anchor in anchors(path.read_text()), f"{page}: {target} has no such heading"


def test_links_and_anchors_are_found(tmp_path: Path):
    page = tmp_path / "p.md"
    page.write_text("# `winwin x`, y\n[a](b.md#c) ![d](e.png) [f](https://g) `[h](i)`\n```text\n[j](k)\n```\n")
    assert links(page) == ["b.md#c", "e.png"]
    assert anchors(page.read_text()) == {"winwin-x-y"}


def test_the_readme_fits():
    assert (ROOT / "README.md").stat().st_size <= README_BYTES


def test_every_page_of_figures_names_its_command():
    assert FIGURES
    for page in FIGURES:
        commands = [b.text for b in blocks(page.name, page.read_text()) if b.language == "bash"]
        assert any(re.search(r"^(winwin|python scripts/)", text, flags=re.MULTILINE) for text in commands), page


@pytest.mark.parametrize("page", [ROOT / "README.md", DOCS / "results" / "paper.md"], ids=lambda path: path.stem)
def test_figures_of_an_overview_stand_in_the_page_that_the_row_links_to(page: Path):
    rows = [row for row in page.read_text().splitlines() if row.startswith("|") and ".md)" in row]
    checked = 0
    for row in rows:
        targets = [(page.parent / target).resolve() for target in re.findall(r"\(([\w/-]+\.md)\)", row)]
        known = "".join(path.read_text() for path in targets if path.parent == DOCS / "results")
        shown = re.sub(r"\([\w/-]+\.md\)", "", row).replace("CC BY-NC 4.0", "") if known else ""
        figures = re.findall(r"(?<![\w.-])\d+\.\d+(?![\w.]| M)", shown)
        assert not (missing := [figure for figure in figures if figure not in known]), f"{row}: {missing}"
        checked += len(figures)
    assert checked > 10


# ------------------------------------------------------------------ notebooks


def test_notebooks_are_small_and_listed():
    listed = (DOCS / "notebooks.md").read_text()
    for path in NOTEBOOKS:
        outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
        assert all(len(str(output)) < 100_000 for output in outputs), f"{path}: a picture of more than 100 kB"
        assert f"(notebooks/{path.name})" in listed


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, here: Path):
    notebook = nbformat.read(path, as_version=4)
    nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(here)}}).execute()


# ------------------------------------------------------------------ recipes and the site


def test_recipes_shown_in_pages_are_recipes(tmp_path: Path):
    from winwin_hf.training.recipe import load_recipe

    shown = [b for page in PAGES for b in blocks(page, (ROOT / page).read_text()) if b.language == "yaml"]
    assert shown
    for block in shown:
        (tmp_path / "r.yaml").write_text(block.text)
        load_recipe(tmp_path / "r.yaml").config()


@pytest.mark.slow
def test_the_site_can_be_built(tmp_path: Path):
    pytest.importorskip("mkdocs", reason="needs the packages of the extra docs: mkdocs-material, mkdocstrings")
    pytest.importorskip(
        "mkdocstrings_handlers.python", reason="needs the packages of the extra docs: mkdocstrings[python]"
    )
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    for page in [*PAGES[1:], *(path.relative_to(ROOT).as_posix() for path in FIGURES)]:
        name = page.removeprefix("docs/").removesuffix(".md")
        assert (tmp_path / "site" / name.removesuffix("index") / "index.html").is_file()
