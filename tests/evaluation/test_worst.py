"""Pictures of the worst images."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
import pytest

from winwin_hf.evaluation import worst
from winwin_hf.evaluation.report import Line, folder_name
from winwin_hf.evaluation.scoring import Frame


@pytest.mark.parametrize("task", ["optical-flow", "depth-estimation", "semantic-segmentation"])
def test_picture_of_a_frame(task):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)
    target = {
        "optical-flow": rng.normal(size=(2, 80, 120)),
        "depth-estimation": rng.uniform(1, 5, (40, 60)),
        "semantic-segmentation": rng.integers(0, 11, (40, 60)),
    }[task]
    if task != "semantic-segmentation":
        target[..., :5] = np.nan
    prediction = {
        "optical-flow": np.zeros((2, 40, 60)),
        "depth-estimation": np.ones((40, 60)),
        "semantic-segmentation": np.zeros((40, 60), int),
    }[task]
    picture = worst.draw(Frame(0, "x", image, None, target), prediction, task, {"epe": 1.0})
    assert picture.dtype == np.uint8 and picture.shape[1] > 4 * 400


def test_names_are_no_html(tmp_path):
    bad = "<script>alert('x')</script>\" onload='y"
    line = Line(bad, bad, bad, "optical-flow", bad, bad, 1, 1, [], [], 0.1)
    folder = tmp_path / folder_name(bad) / folder_name(f"{bad}-{bad}") / "worst"
    folder.mkdir(parents=True)
    for name in ("<img src=x onerror=alert(1)>", "a' onerror='alert(1)", 'b" x="', "&lt;b&gt;"):
        (folder / f"00001.0000_000001_{name}.png").write_bytes(b"x")
    worst.write_page(tmp_path, [line])
    found = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            found.append((tag, sorted(name for name, _ in attrs)))

    Reader().feed((tmp_path / "worst.html").read_text())
    assert {tag for tag, _ in found} == {"meta", "title", "style", "h1", "h2", "figure", "figcaption", "img"}
    images = [names for tag, names in found if tag == "img"]
    assert images == [["loading", "src"]] * 4
