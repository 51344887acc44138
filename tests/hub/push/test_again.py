"""Pushed to a repository that is there already."""

from __future__ import annotations

import pytest
from support.hub_process import Failed
from transformers import AutoModel

# ------------------------------------------------------------------ a repository that is there already


def test_again_and_a_card_that_somebody_wrote(server, push, checkpoint):
    push(checkpoint, "tester/winwin-small")
    repo = server.repo("tester/winwin-small")
    again = push(checkpoint, "tester/winwin-small")
    assert again["url"] is None and set(again["states"].values()) == {"same"} and len(repo.branches["main"]) == 2
    repo.commit("main", "by hand", {**repo.files, "README.md": b"mine", "extra.txt": b"x"})
    kept = push(checkpoint, "tester/winwin-small", limits="Other limits.")
    assert kept["states"]["README.md"] == "kept" and any("--overwrite-card" in text for text in kept["warnings"])
    assert repo.files["README.md"] == b"mine" and b"Other limits." in repo.files["card.json"]
    push(checkpoint, "tester/winwin-small", overwrite_card=True)
    assert repo.files["README.md"].startswith(b"---\n") and repo.files["extra.txt"] == b"x"


def test_scores_of_other_weights_are_pointed_at(server, push, checkpoint):
    push(checkpoint, "tester/winwin-small")
    repo = server.repo("tester/winwin-small")
    repo.commit("main", "by hand", {**repo.files, ".eval_results/old.yaml": b"[]"})
    assert push(checkpoint, "tester/winwin-small", dry_run=True)["warnings"] == []
    model = AutoModel.from_pretrained(checkpoint)
    next(model.parameters()).data.add_(1)
    model.save_pretrained(checkpoint)
    (warning,) = push(checkpoint, "tester/winwin-small")["warnings"]
    assert ".eval_results/old.yaml on the Hub stays: are these scores still true?" in warning


def test_dry_run_sends_nothing(server, push, checkpoint):
    done = push(checkpoint, "tester/winwin-small", dry_run=True)
    assert server.repos == {} and not server.large and done["url"] is None
    assert any(line.startswith("  new     config.json ") and line.endswith(" MB") for line in done["lines"])
    assert done["lines"][0] == "model tester/winwin-small: will be created" and done["states"]["config.json"] == "new"
    push(checkpoint, "tester/winwin-small")
    (checkpoint / "recipe.yaml").unlink()
    done = push(checkpoint, "tester/winwin-small", dry_run=True, overwrite_card=True)
    assert done["states"]["README.md"] == "changed" and done["states"]["model.safetensors"] == "same"
    assert len(server.repo("tester/winwin-small").branches["main"]) == 2


def test_branch_and_pull_request(server, push, checkpoint):
    push(checkpoint, "tester/winwin-small", revision="v1")
    repo = server.repo("tester/winwin-small")
    assert "config.json" in repo.branches["v1"][-1][2] and set(repo.files) == {".gitattributes"}
    done = push(checkpoint, "tester/winwin-small", pr=True)
    assert done["url"].endswith("/discussions/1") and set(repo.files) == {".gitattributes"}
    assert "config.json" in repo.branches["refs/pr/1"][-1][2]


def test_private_is_not_made_public_by_mistake(server, push, checkpoint):
    push(checkpoint, "tester/winwin-small")
    with pytest.raises(Failed, match="public") as caught:
        push(checkpoint, "tester/winwin-small", private=True)
    assert caught.value.kind == "PublishError"


def test_somebody_else_commits_meanwhile(server, push, here, checkpoint):
    push(checkpoint, "tester/winwin-small")
    here("""
from huggingface_hub import HfApi
from winwin_hf.hub import push
plan_before = push._plan
def slow(*arguments):
    HfApi().upload_file(path_or_fileobj=b"x", path_in_repo="other.txt", repo_id="tester/winwin-small")
    return plan_before(*arguments)
push._plan = slow
""")
    try:
        with pytest.raises(Failed, match="has changed in the meantime"):
            push(checkpoint, "tester/winwin-small", limits="New.")
    finally:
        here("from winwin_hf.hub import push; push._plan = push._plan.__globals__['plan_before']")
    assert b"New." not in server.repo("tester/winwin-small").files["card.json"]
