"""results.json read back: the scores with where they come from, and nothing of the machine's folders."""

import json
import shlex

import pytest
from support.results import results_json

from winwin_hf.evaluation.results import public_command, read_results


@pytest.mark.parametrize(
    ("command", "public"),
    [
        (
            "winwin evaluate winwin-flow --data sintel-clean:train[:10]=/data/Sintel --output /tmp/x --worst 2 --overwrite",
            "winwin evaluate MODEL --data 'sintel-clean:train[:10]=FOLDER'",
        ),
        (
            "winwin evaluate runs/mine/winwin-flow --data=spring=../s -o out --beside zero --tile 384x512",
            "winwin evaluate MODEL --data=spring=FOLDER --beside zero --tile 384x512",
        ),
        (
            "evaluate.py --data hub:test=me/set --data shards=/a=b winwin-flow --output=/x --beside /m/winwin-flow",
            "python scripts/evaluate.py --data hub:test=me/set --data shards=FOLDER MODEL --beside winwin-flow",
        ),
        (
            "winwin evaluate runs/x/winwin-flow --beside 'mean-depth@seven-scenes:all[:67%]=/data/room' --data a=b",
            "winwin evaluate MODEL --beside 'mean-depth@seven-scenes:all[:67%]=FOLDER' --data a=FOLDER",
        ),
        (
            r"/usr/bin/winwin evaluate 'C:\models\winwin-flow' --data a=b --length 3",
            "winwin evaluate winwin-flow --data a=FOLDER --length 3",
        ),
    ],
)
def test_a_command_without_its_machine(command, public):
    assert public_command(command, "winwin-flow") == public
    assert shlex.split(public)


def test_results_of_this_model(tmp_path):
    result = read_results(results_json(tmp_path, "winwin-flow", "opencv-dis"), {"winwin-flow"})
    assert result == read_results(tmp_path, {"winwin-flow", "other"}), "a folder is the file in it"
    assert "/home/me" not in json.dumps(result.lines) + result.command
    own, other = result.scores()
    assert (own.method, own.run, other.method, other.run) == ("", "one pass", "opencv-dis", "")
    assert own.metrics == {"epe": 1.53356, "1px": 56.25} and own.count == "4 (-1)"
    assert "MODEL --data middlebury=FOLDER` (2026-11-22; AMD EPYC, 1 thread; torch 2.13.0" in own.source


@pytest.mark.parametrize(
    ("options", "method", "run", "settings"),
    [
        ("--min-pixels 0", "x", "min_pixels 0", ""),
        ("--min-pixels=0", "x+coarse", "coarse, min_pixels 0", ""),
        ("--precision bf16 --length 12", "x+variational", "variational", "bf16, length 12"),
        ("--option middlebury.a=[1,2] --option other.b=1 --align median", "x", "one pass", "align median, a=[1,2]"),
    ],
)
def test_a_score_says_how_it_was_measured(tmp_path, options, method, run, settings):
    path = results_json(tmp_path, "x", method, options=options)
    score = read_results(path, {"x"}).scores()[-1]
    assert (score.run, sorted(score.options.split(", "))) == (run, sorted(settings.split(", ")))


def test_results_of_another_model(tmp_path):
    path = results_json(tmp_path, "winwin-seg", "opencv-dis")
    with pytest.raises(ValueError, match=r"scores of winwin-seg, opencv-dis; expected those of winwin-flow"):
        read_results(path, {"winwin-flow"})
    with pytest.raises(ValueError, match="expected those of"):
        read_results(results_json(tmp_path, "opencv-dis"), {"opencv-dis"})
    with pytest.raises(FileNotFoundError, match="winwin evaluate"):
        read_results(tmp_path / "none.json", {"x"})
    for content in ("", "[]", '{"results": [{}]}', '{"results": 3}'):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"results\.json: (expected the results\.json of|not readable JSON)"):
            read_results(path, {"x"})
