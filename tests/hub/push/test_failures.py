"""Pushes and pulls that are interrupted, refused or find no Hub."""

from __future__ import annotations

import hashlib

import pytest
from support.hub_process import PUSH, Failed

# ------------------------------------------------------------------ what goes wrong


def test_an_upload_is_cut_once_and_nobody_notices(server, push, checkpoint):
    server.cut_uploads = 1
    push(checkpoint, "tester/winwin-small")
    assert (
        server.repo("tester/winwin-small").files["model.safetensors"] == (checkpoint / "model.safetensors").read_bytes()
    )


def test_an_upload_that_stays_cut_leaves_nothing_and_goes_on(server, push, here, checkpoint):
    here("from winwin_hf.hub import contents; contents.MAX_WEIGHTS = 30_000")
    try:
        server.cut_uploads = 1000
        with pytest.raises(Failed, match=r"the connection to .* failed") as caught:
            push(checkpoint, "tester/winwin-small")
        assert caught.value.kind == "PublishError" and "\n" not in caught.value.message
        repo = server.repo("tester/winwin-small")
        assert set(repo.files) == {".gitattributes"} and not server.large
        server.cut_uploads = 2  # a part arrives: two of the shards are cut, and sent again at once
        push(checkpoint, "tester/winwin-small")
        assert set(server.received.values()) == {1}
    finally:
        here("from winwin_hf.hub import contents; contents.MAX_WEIGHTS = 10**9")


def test_what_has_arrived_is_not_sent_twice(server, push, checkpoint):
    server.fail_commits = 1000
    with pytest.raises(Failed, match=r"failed with 503 \(out of order\); nothing has changed"):
        push(checkpoint, "tester/winwin-small")
    assert set(server.repo("tester/winwin-small").files) == {".gitattributes"}
    assert list(server.received.values()) == [1]
    server.fail_commits = 0
    push(checkpoint, "tester/winwin-small")
    assert list(server.received.values()) == [1]
    assert "model.safetensors" in server.repo("tester/winwin-small").files


def test_a_commit_that_is_answered_with_another_address_was_made(server, push, checkpoint):
    server.odd_urls = 1
    assert push(checkpoint, "tester/winwin-small")["url"] == f"{server.url}/tester/winwin-small"
    assert "model.safetensors" in server.repo("tester/winwin-small").files


@pytest.mark.parametrize("answer", [[], {}])
def test_files_that_are_not_listed_are_not_replaced(server, push, checkpoint, answer):
    push(checkpoint, "tester/winwin-small")
    before = dict(server.repo("tester/winwin-small").files)
    (checkpoint / "README.md").write_text("another card")
    server.odd_tree = answer
    with pytest.raises(Failed, match=r"names .*README\.md.* in tester/winwin-small and doesn't list it"):
        push(checkpoint, "tester/winwin-small")
    assert server.repo("tester/winwin-small").files == before


@pytest.mark.parametrize("what", ["lose_answers", "garble_answers"])
def test_a_commit_whose_answer_is_lost_is_looked_for(server, push, checkpoint, what):
    """A Hub that took its time was said not to have changed, and one whose answer was damaged to be empty."""
    setattr(server, what, 1)
    done = push(checkpoint, "tester/winwin-small")
    assert done["url"] == f"{server.url}/tester/winwin-small"
    assert "model.safetensors" in server.repo("tester/winwin-small").files
    setattr(server, what, 1)
    (checkpoint / "README.md").unlink(missing_ok=True)
    with pytest.raises(Failed, match=r"the answer of .* to the commit was lost, and it may have been made"):
        push(checkpoint, "tester/winwin-other", pr=True)


def test_a_look_at_a_commit_that_fails_does_not_fail_the_push(server, push, checkpoint):
    server.lose_trees = True
    done = push(checkpoint, "tester/winwin-small")
    assert "/commit/" in done["url"] and "model.safetensors" in server.repo("tester/winwin-small").files
    assert server.trees == 1, "asked once, whatever the number of files"


def test_what_the_hub_does_not_take_is_said(server, push, checkpoint):
    server.ignored = (".safetensors",)
    with pytest.raises(Failed, match=r"winwin-small took no model\.safetensors; expected no \.gitignore there"):
        push(checkpoint, "tester/winwin-small")


def test_a_download_that_is_cut_goes_on_where_it_was(server, push, bare, checkpoint):
    push(checkpoint, "tester/winwin-cut")
    server.cut_downloads = 1
    digest = bare("""
import hashlib, pathlib
from huggingface_hub import constants, hf_hub_download
constants.DOWNLOAD_CHUNK_SIZE = 10_000  # bytes that are lost at most; 10 MB are more than this file has
path = hf_hub_download("tester/winwin-cut", "model.safetensors")
result = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
""")
    assert digest == hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
    assert server.cut_downloads == 0 and [asked for asked in server.ranges if asked != "bytes=0-"]


@pytest.mark.parametrize(
    ("token", "message"),
    [
        ("hf_wrong", r"refuses the token .*hf auth login"),
        ("hf_reader", r"the token of tester may only read"),
    ],
)
def test_tokens(server, push, checkpoint, token, message):
    with pytest.raises(Failed, match=message) as caught:
        push(checkpoint, "tester/winwin-small", token=token)
    assert caught.value.kind == "PublishError" and "\n" not in caught.value.message
    assert server.repos == {} and not server.large


def test_no_token(server, here, checkpoint):
    with pytest.raises(Failed, match="no token for the Hub; log in with `hf auth login`, or set HF_TOKEN"):
        here(
            "import os; del os.environ['HF_TOKEN']\ntry:\n"
            + "\n".join(f"    {line}" for line in PUSH.splitlines())
            + "\nfinally: os.environ['HF_TOKEN'] = 'hf_writer'",
            source=checkpoint,
            repo_id="tester/x",
            type="model",
            options={"picture": False},
        )


def test_somebody_elses_name(server, push, checkpoint):
    with pytest.raises(Failed, match="may not write to somebody/winwin") as caught:
        push(checkpoint, "somebody/winwin")
    assert caught.value.kind == "PublishError" and "empty" not in caught.value.message


UNREACHABLE = """
from functools import partial
from huggingface_hub import HfApi
from winwin_hf.hub import push as module
module.HfApi = partial(HfApi, endpoint="http://127.0.0.1:9")
try:
%s
finally:
    module.HfApi = HfApi
"""


def test_no_network(server, here, checkpoint):
    code = UNREACHABLE % "\n".join(f"    {line}" for line in PUSH.splitlines())
    values = {"source": checkpoint, "repo_id": "tester/x", "type": "model"}
    with pytest.raises(
        Failed, match=r"the connection to http://127.0.0.1:9 failed \(.*\); nothing has changed"
    ) as caught:
        here(code, **values, options={"picture": False})
    assert caught.value.kind == "PublishError" and "\n" not in caught.value.message
    done = here(code, **values, options={"picture": False, "dry_run": True})
    assert set(done["states"].values()) == {"?"} and "can't be reached" in done["lines"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"repo_id": "winwin-flow"}, "expected OWNER/NAME"),
        ({"repo_id": "me/--x"}, "repo"),
        ({"type": "modell"}, "expected model or dataset or space"),
        ({"options": {"pr": True, "revision": "v1"}}, "--pr is against main"),
        *(
            ({"options": {"revision": name}}, "expected the name of a branch")
            for name in (
                "../x",
                "a b",
                "a..b",
                "x.lock",
                "-x",
                "/x",
                "x/",
                "HEAD",
                "a:b",
                "a\\b",
                "",
                "a" * 40,
                "x" * 300,
                "refs/heads/x",
            )
        ),
        ({"type": "space", "options": {"results": ["x"]}}, "are for models, not for a space"),
        ({"source": "no-such-folder"}, "no such folder, nor a bundled checkpoint"),
    ],
)
def test_wrong_arguments(server, here, arguments, message):
    values = {"source": "winwin-flow", "repo_id": "tester/x", "type": "model", "options": {}, **arguments}
    with pytest.raises(Failed, match=message) as caught:
        here(PUSH, **values)
    assert (
        caught.value.kind in ("ValueError", "FileNotFoundError", "HFValidationError", "DoesNotFit")
        and server.repos == {}
    )
