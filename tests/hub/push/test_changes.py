"""Files that change while they are pushed: what was looked at is what is published, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.hub_process import PUSH, Failed

# Changes files when the Hub is asked how to send them, or when it has the large ones.
CHANGED = """
import os
from huggingface_hub import HfApi
real = HfApi.preupload_lfs_files

def hooked(self, *args, **kwargs):
    if not late:
        os.system(change)
    real(self, *args, **kwargs)
    if late:
        os.system(change)

HfApi.preupload_lfs_files = hooked
try:
    exec(PUSH)
finally:
    HfApi.preupload_lfs_files = real
"""
CHANGES = {
    "grown": "echo hf_{token} >> {file}",
    "cut": "truncate -s 10 {file}",
    "zeros": "size=$(stat -c %s {file}); truncate -s 0 {file}; truncate -s $size {file}",
    "another": "cp {file} {file}.new; mv {file}.new {file}",
    "a link": "rm {file}; ln -s /etc/passwd {file}",
    "gone": "rm {file}",
}


@pytest.fixture
def push_changed(here):
    def call(change: str, file: Path, source: Path, repo_id: str, type: str, late: bool = False) -> None:
        command = CHANGES[change].format(file=file, token="a1B2" * 9)
        values = {"source": source, "repo_id": repo_id, "type": type, "options": {"picture": False}}
        here(CHANGED, change=command, late=late, PUSH=PUSH, **values)

    return call


@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_change_are_not_published(server, push_changed, checkpoint, change: str):
    says = "model.safetensors" if change == "gone" else r"model\.safetensors: changed while it was pushed, and nothing"
    with pytest.raises(Failed, match=says):
        push_changed(change, checkpoint / "model.safetensors", checkpoint, "tester/x", "model")
    assert set(server.repo("tester/x").files) == {".gitattributes"}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("change", ["grown", "a link"])
def test_a_spaces_text_that_changes_is_not_published(server, push_changed, tmp_path: Path, change: str, late: bool):
    folder = tmp_path / "space"
    folder.mkdir()
    (folder / "README.md").write_text("---\ntitle: x\nsdk: static\n---\n")
    (folder / "notes.txt").write_text("hello")
    with pytest.raises(Failed, match=r"notes\.txt: changed while it was pushed"):
        push_changed(change, folder / "notes.txt", folder, "tester/demo", "space", late)
    assert "notes.txt" not in server.repo("tester/demo", "space").files
