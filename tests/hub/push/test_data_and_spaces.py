"""Data sets and Spaces pushed, and the command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from support.hub_process import OLD_HUB, Failed
from support.shards import make_rows

from winwin_hf import (
    bundled,
)
from winwin_hf.data.rows import table
from winwin_hf.data.shards import write_shards
from winwin_hf.hub.contents import Contents
from winwin_hf.hub.push import _check_card

# ------------------------------------------------------------------ data sets and Spaces


@pytest.fixture
def shards(tmp_path) -> Path:
    dataset = table(make_rows(tmp_path / "rows", "optical-flow"), "optical-flow")
    write_shards(
        dataset,
        tmp_path / "shards",
        task="optical-flow",
        name="mine",
        split="train",
        shard_size=9000,
        terms="CC BY-NC 4.0",
    )
    return tmp_path / "shards"


def test_data_set(server, push, bare, shards):
    (shards / "left.tmp").write_text("x")
    done = push(shards, "tester/mine", "dataset")
    assert any("not for commercial use" in warning for warning in done["warnings"])
    files = server.repo("tester/mine", "dataset").files
    names = {path.name for path in shards.iterdir()} - {"left.tmp"}
    assert set(files) == {".gitattributes", *names} and sum(name.endswith(".parquet") for name in names) > 1
    rows = bare("""
import datasets
rows = datasets.load_dataset("tester/mine", split="train", streaming=True)
result = sorted((row["name"], len(row["flow"]["bytes"])) for row in rows)
""")
    assert [name for name, _ in rows] == [f"scene.{k // 3}/frame {k}" for k in range(9)]
    assert push(shards, "tester/mine", "dataset")["url"] is None


def test_other_shards_are_not_mixed_in(server, push, shards, tmp_path):
    push(shards, "tester/mine", "dataset")
    dataset = table(make_rows(tmp_path / "rows", "optical-flow"), "optical-flow")
    other = tmp_path / "val"
    write_shards(dataset, other, task="optical-flow", name="mine", split="val")
    with pytest.raises(Failed, match="one repository is for one folder of shards"):
        push(other, "tester/mine", "dataset")
    new = tmp_path / "new"
    write_shards(dataset.select(range(4)), new, task="optical-flow", name="mine", split="train")
    deleted = push(new, "tester/mine", "dataset", overwrite_card=True)["deleted"]
    assert deleted and {p for p in server.repo("tester/mine", "dataset").files if p.endswith(".parquet")} == {
        path.name for path in new.glob("*.parquet")
    }


def test_shards_that_have_changed_do_not_go(server, push, shards):
    first = sorted(shards.glob("*.parquet"))[0]
    whole = first.read_bytes()
    first.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(Failed, match="another SHA-256"):
        push(shards, "tester/mine", "dataset")
    first.write_bytes(whole[:-1])
    with pytest.raises(Failed, match="bytes; expected"):
        push(shards, "tester/mine", "dataset")
    (shards / "dataset.json").unlink()
    with pytest.raises(Failed, match=r"no dataset\.json"):
        push(shards, "tester/mine", "dataset")
    assert server.repos == {}


@pytest.fixture
def space(tmp_path) -> Path:
    folder = tmp_path / "space"
    (folder / "examples").mkdir(parents=True)
    (folder / "__pycache__").mkdir()
    for name, text in (
        ("README.md", "---\nsdk: gradio\napp_file: app.py\n---\n# mine"),
        ("app.py", "print('x')"),
        ("examples/a.txt", "a"),
        ("__pycache__/app.pyc", "x"),
        (".env", "HF_TOKEN=hf_secret"),
        ("model.pt", "x"),
    ):
        (folder / name).write_text(text)
    return folder


def test_space(server, push, space):
    server.fail_commits = 1
    with pytest.raises(Failed, match="exists now, but is empty"):
        push(space, "tester/demo", "space")
    repo = server.repo("tester/demo", "space")
    assert repo.files["README.md"] == b"---\nsdk: gradio\n---\n", "the Hub's own, which is nobody's"
    done = push(space, "tester/demo", "space")
    assert set(repo.files) == {".gitattributes", "README.md", "app.py", "examples/a.txt"}
    assert repo.files["README.md"].endswith(b"# mine")
    assert any("left out: .env (hidden)" in line for line in done["lines"])
    (space / "README.md").write_text("---\nsdk: gradio\n---\n# other")
    assert push(space, "tester/demo", "space")["states"]["README.md"] == "kept"


@pytest.mark.parametrize(
    ("version", "endpoint", "asked"),
    [
        ("1.31.0", "http://127.0.0.1:9", False),
        ("2.1.0", "http://127.0.0.1:9", False),
        ("2.2.0", "http://127.0.0.1:9", True),
        ("1.31.0", "https://huggingface.co", True),
    ],
)
def test_the_card_for_a_hub_of_ones_own_goes_to_no_other(tmp_path, monkeypatch, version, endpoint, asked):
    """huggingface_hub before 2.2 has huggingface.co check every card."""
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n")
    sent = []
    monkeypatch.setattr(huggingface_hub, "__version__", version)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(huggingface_hub.RepoCard, "validate", lambda card, kind: sent.append(kind))
    _check_card(Contents({"README.md": tmp_path / "README.md"}), "model")
    assert sent == ["model"] * asked


@pytest.mark.skipif(OLD_HUB, reason="huggingface_hub before 2.2 has only huggingface.co check a card")
def test_a_card_that_the_hub_refuses_and_a_pull_request_that_isnt_there_create_nothing(server, push, space):
    with pytest.raises(Failed, match=r"refs/pr/7: tester/demo has no such pull request"):
        push(space, "tester/demo", "space", revision="refs/pr/7")
    (space / "README.md").write_text("---\nsdk: gradio\nlicense: nobodys\n---\n# mine")
    for options in ({}, {"revision": "v1"}):
        with pytest.raises(Failed, match="metadata that no card may have") as caught:
            push(space, "tester/demo", "space", **options)
        assert caught.value.kind == "PublishError" and server.repos == {}


def test_no_space(server, push, space):
    (space / "app.py").unlink()
    with pytest.raises(Failed, match=r"app\.py: missing"):
        push(space, "tester/demo", "space")
    (space / "README.md").write_text("# no settings")
    with pytest.raises(Failed, match="begins with a Space's settings"):
        push(space, "tester/demo", "space")


# ------------------------------------------------------------------ the command

COMMAND = """
import typer
from typer.testing import CliRunner
from winwin_hf.cli.push import push
app = typer.Typer()
app.command()(push)
done = CliRunner().invoke(app, arguments)
result = [done.exit_code, done.stdout.splitlines(), done.stderr.splitlines()]
"""


def test_command(server, here, checkpoint, runs):
    def run(*arguments: Any) -> list[Any]:
        return here(COMMAND, arguments=[str(argument) for argument in arguments])

    code, out, err = run(checkpoint, "tester/small", "--dry-run", "--no-picture")
    assert (
        code == 0 and out[0] == "model tester/small: will be created" and out[-1].startswith("a dry run") and err == []
    )
    code, out, err = run(runs["seg"], "tester/seg", "--no-picture")
    assert (
        code == 0 and "/tester/seg/commit/" in out[-1] and err[0].startswith("warning: not for commercial use: CamVid")
    )
    assert run(runs["seg"], "tester/seg", "--no-picture")[1][-1] == "nothing to upload: the Hub has all of it"
    code, out, err = run(checkpoint, "somebody/small", "--no-picture")
    assert (code, out, len(err)) == (1, [], 1) and err[0].startswith(
        "winwin: the token may not write to somebody/small"
    )
    code, out, err = run("no-such", "tester/small")
    assert (code, out) == (2, []) and err == [
        f"winwin: no-such: no such folder, nor a bundled checkpoint ({', '.join(bundled.folders()) or 'none'})"
    ]
    code, out, err = run(checkpoint, "tester/small", "--hub-dataset", "x")
    assert code == 2 and err == ["winwin: --hub-dataset x: expected SET=OWNER/NAME"]
