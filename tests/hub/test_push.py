"""Pushing to a Hub and pulling from it, over HTTP: with the package and without, interrupted and resumed, refused and unreachable.

huggingface_hub reads its environment once, so pushes and pulls run in two other processes, one of which can't import winwin_hf.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from support.minihub import Hub
from support.places import HANGS_AFTER
from support.recipes import RECIPE
from support.results import results_json
from support.shards import make_rows
from transformers import AutoImageProcessor, AutoModel

from winwin_hf import (
    WinWinConfig,
    WinWinForDepthEstimation,
    WinWinForOpticalFlow,
    WinWinForSemanticSegmentation,
    WinWinImageProcessor,
    bundled,
)
from winwin_hf.checked import build
from winwin_hf.data.rows import table
from winwin_hf.data.shards import write_shards
from winwin_hf.hub.contents import Contents
from winwin_hf.hub.push import _check_card
from winwin_hf.training.recipe import Recipe
from winwin_hf.training.state import save_model

OLD_HUB = tuple(map(int, huggingface_hub.__version__.split(".")[:2])) < (2, 2)
MARK = "\x1e"
# time.sleep: huggingface_hub waits for seconds before it tries again.
LOOP = f"""
import builtins, json, sys, time, traceback
time.sleep = lambda seconds: None
asked = []
builtins.input = lambda question="": asked.append(question) or 1 / 0
for line in sys.stdin:
    wanted = json.loads(line)
    space = {{"result": None, **wanted["values"]}}
    try:
        asked.clear()
        exec(wanted["code"], space)
        assert not asked, asked  # transformers, whether foreign code may run
        answer = {{"result": space["result"]}}
    except Exception as error:
        answer = {{"error": type(error).__name__, "message": str(error), "trace": traceback.format_exc()}}
    print({MARK!r} + json.dumps(answer), flush=True)
"""


class Failed(Exception):
    """What another process raised; its type's name and message."""

    def __init__(self, answer: dict[str, Any]):
        super().__init__(f"{answer['error']}: {answer['message']}\n{answer['trace']}")
        self.kind, self.message = answer["error"], answer["message"]


class Process:
    """Another Python that runs what it is asked to; `result` is what comes back."""

    def __init__(self, hub: Hub, home: Path, preamble: str = "", token: str = "hf_writer"):
        environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", preamble + LOOP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=home,
        )

    def __call__(self, code: str, **values: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps({"code": code, "values": values}, default=str) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith(MARK):
                answer = json.loads(line[1:])
                if "error" in answer:
                    raise Failed(answer)
                return answer["result"]
        raise RuntimeError("the other process has ended")

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(timeout=HANGS_AFTER)


@pytest.fixture(scope="module")
def hub_server():
    server = Hub()
    yield server
    server.close()
    assert server.unknown == [], "what huggingface_hub asked for and the little Hub doesn't know"


@pytest.fixture
def server(hub_server):
    hub_server.repos.clear()
    hub_server.large.clear()
    hub_server.received.clear()
    hub_server.ranges.clear()
    hub_server.cut_uploads = hub_server.cut_downloads = hub_server.fail_commits = 0
    hub_server.trees = 0
    hub_server.lose_answers, hub_server.lose_trees, hub_server.ignored = 0, False, ()
    return hub_server


@pytest.fixture(scope="module")
def here(hub_server, tmp_path_factory):
    """A process with the package."""
    process = Process(hub_server, tmp_path_factory.mktemp("here"))
    yield process
    process.close()


@pytest.fixture(scope="module")
def bare(hub_server, tmp_path_factory):
    """A process that can't import the package, and has no token."""
    blocked = "import sys; sys.modules['winwin_hf'] = None\n"
    process = Process(hub_server, tmp_path_factory.mktemp("bare"), blocked, token="")
    with pytest.raises(Failed, match="ModuleNotFoundError"):
        process("import winwin_hf")
    yield process
    process.close()


PUSH = """
from winwin_hf.cli.push import plan_lines
from winwin_hf.hub.push import push
warnings = []
plan = push(source, repo_id, type, warn=warnings.append, **options)
states = {path: state for path, (size, state) in plan.files.items()}
result = {"states": states, "url": plan.url, "lines": plan_lines(plan), "warnings": warnings, "deleted": plan.deleted}
"""


@pytest.fixture
def push(here):
    def call(source: Path | str, repo_id: str, type: str = "model", **options: Any) -> dict[str, Any]:
        if type == "model":
            options = {"picture": False, **options}
        return here(PUSH, source=source, repo_id=repo_id, type=type, options=options)

    return call


SMALL = {**RECIPE["model"]["config"], "num_hidden_layers": 2}
LABELS = {0: "road", 1: "sky", 2: "tree"}


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, Path]:
    """A folder as a training leaves it, of each task."""
    root = tmp_path_factory.mktemp("runs")
    torch.manual_seed(0)
    recipe = build(Recipe, RECIPE, "test")
    save_model(WinWinForOpticalFlow(recipe.config()), root / "flow", recipe, WinWinImageProcessor())
    scores = {"epe": 3.14159, "1px": 50.0, "images": 7, "seconds": 0.1}
    (root / "flow" / "metrics.jsonl").write_text(json.dumps({"step": 8, "a": {**scores, "size": [90, 130]}}) + "\n")
    for name, model, data in (
        ("depth", WinWinForDepthEstimation(WinWinConfig(**SMALL)), "seven-scenes"),
        ("seg", WinWinForSemanticSegmentation(WinWinConfig(**SMALL, id2label=LABELS)), "camvid"),
    ):
        task = {"depth": "depth-estimation", "seg": "semantic-segmentation"}[name]
        values = {"task": task, "data": {"name": data}, "model": {"config": SMALL}}
        save_model(model, root / name, build(Recipe, values, "test"), WinWinImageProcessor())
    return root_of(root)


def root_of(root: Path) -> dict[str, Path]:
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def checkpoint(runs, tmp_path) -> Path:
    """A flow checkpoint of one's own to spoil."""
    return Path(shutil.copytree(runs["flow"] / "model", tmp_path / "winwin-small"))


@pytest.fixture(scope="module")
def frames(tmp_path_factory) -> list[str]:
    from winwin_hf.data.formats import save_image

    folder, rng = tmp_path_factory.mktemp("frames"), np.random.default_rng(0)
    paths = [folder / f"{k}.png" for k in range(2)]
    for path in paths:
        save_image(path, rng.integers(0, 255, (45, 70, 3), np.uint8))
    return [str(path) for path in paths]


# ------------------------------------------------------------------ models, with the package and without

BARE_FLOW = """
from transformers import AutoConfig, AutoImageProcessor, AutoModel, pipeline
model, info = AutoModel.from_pretrained(repo_id, trust_remote_code=True, output_loading_info=True)
processor = AutoImageProcessor.from_pretrained(repo_id, trust_remote_code=True)
flow = pipeline("optical-flow", model=repo_id, trust_remote_code=True)
result = {
    "classes": [type(x).__name__ for x in (model, processor, flow)],
    "modules": [type(x).__module__.split(".")[0] for x in (model, processor, flow)],
    "wrong": [sorted(info["missing_keys"]), sorted(info["unexpected_keys"])],
    "flow": flow(*frames)["flow"].tolist(),
    "again": processor.post_process_optical_flow(
        model(**processor(images=flow._frame(frames[0], None), second_images=flow._frame(frames[1], None), return_tensors="pt")),
        target_sizes=[(45, 70)],
    )[0]["flow"].tolist(),
}
"""


def own_flow(folder: Path, frames: list[str]) -> torch.Tensor:
    from transformers import pipeline

    return pipeline("optical-flow", model=str(folder))(*frames)["flow"]


@pytest.mark.slow  # a fresh process imports everything
def test_flow_without_the_package(server, push, bare, runs, frames):
    done = push(runs["flow"], "tester/winwin-small")
    assert done["url"].startswith(f"{server.url}/tester/winwin-small/commit/")
    there = bare(BARE_FLOW, repo_id="tester/winwin-small", frames=frames)
    assert there["classes"] == ["WinWinForOpticalFlow", "WinWinImageProcessor", "OpticalFlowPipeline"]
    assert there["modules"] == ["transformers_modules"] * 3
    assert there["wrong"] == [[], []]
    expected = own_flow(runs["flow"] / "model", frames)
    torch.testing.assert_close(torch.tensor(there["flow"]), expected)
    torch.testing.assert_close(torch.tensor(there["again"]), expected)


SAVE_AGAIN = """
import torch
from transformers import AutoImageProcessor, AutoModel, Trainer, TrainingArguments, pipeline
if "package" in way:
    import winwin_hf
if "pipeline" in way:
    pipeline("optical-flow", model="tester/first", trust_remote_code=True).save_pretrained(folder)
else:
    model = AutoModel.from_pretrained("tester/first", trust_remote_code=True)
    processor = AutoImageProcessor.from_pretrained("tester/first", trust_remote_code=True)
    if "merged" in way:
        from peft import LoraConfig, get_peft_model
        model = get_peft_model(model, LoraConfig(target_modules=["q_proj"])).merge_and_unload()
    if "trained" in way:
        trainer = Trainer(model, TrainingArguments(folder, use_cpu=True, report_to=[]), processing_class=processor)
        assert not trainer.model_accepts_loss_kwargs
        trainer.save_model(folder)
    else:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "way", ["model", "pipeline", "merged", "trained", "model by the package", "pipeline by the package"]
)
def test_what_was_loaded_by_its_code_and_saved_again_keeps_working(request, server, push, runs, frames, tmp_path, way):
    """In a process without the package, from a folder that nothing was downloaded into."""
    push(runs["flow"], "tester/first")
    second = tmp_path / "second"
    process = request.getfixturevalue("here" if "package" in way else "bare")
    process(SAVE_AGAIN + "result = None", way=way, folder=second)
    there = request.getfixturevalue("bare")(BARE_FLOW, repo_id=str(second), frames=frames)
    assert there["modules"] == ["transformers_modules"] * 3
    assert there["wrong"] == [[], []]
    torch.testing.assert_close(torch.tensor(there["flow"]), own_flow(runs["flow"] / "model", frames))


@pytest.mark.slow
def test_a_model_loaded_by_its_code_can_be_pushed_again(server, push, bare, runs, frames):
    push(runs["flow"], "tester/first")
    code = """
from transformers import AutoImageProcessor, AutoModel
for auto in (AutoModel, AutoImageProcessor):
    auto.from_pretrained("tester/first", trust_remote_code=True).push_to_hub("tester/second", token="hf_writer")
result = None
"""
    bare(code)
    there = bare(BARE_FLOW, repo_id="tester/second", frames=frames)
    torch.testing.assert_close(torch.tensor(there["flow"]), own_flow(runs["flow"] / "model", frames))


@pytest.mark.slow
def test_depth_and_segmentation_without_the_package(server, push, bare, runs, frames):
    for name in ("depth", "seg"):
        warnings = push(runs[name], f"tester/{name}")["warnings"]
        assert any("not for commercial use" in warning for warning in warnings)
    there = bare(
        """
from transformers import AutoModelForDepthEstimation, AutoModelForSemanticSegmentation, pipeline
AutoModelForDepthEstimation.from_pretrained("tester/depth", trust_remote_code=True)
AutoModelForSemanticSegmentation.from_pretrained("tester/seg", trust_remote_code=True)
depth = pipeline("depth-estimation", model="tester/depth", trust_remote_code=True)(frames[0])
classes = pipeline("image-segmentation", model="tester/seg", trust_remote_code=True)(frames[0])
result = {"depth": depth["predicted_depth"].tolist(), "labels": sorted(item["label"] for item in classes)}
""",
        frames=frames,
    )
    model, processor = (auto.from_pretrained(runs["depth"] / "model") for auto in (AutoModel, AutoImageProcessor))
    from winwin_hf.data.formats import read_image

    with torch.no_grad():
        outputs = model.eval()(**processor(images=read_image(frames[0]), return_tensors="pt"))
    expected = processor.post_process_depth_estimation(outputs, target_sizes=[(45, 70)])[0]["predicted_depth"]
    torch.testing.assert_close(torch.tensor(there["depth"]), expected)
    assert there["labels"] and set(there["labels"]) <= set(LABELS.values())


def test_with_the_package_nothing_has_to_be_trusted(server, push, here, runs, frames):
    push(runs["flow"], "tester/winwin-small")
    there = here(
        """
import winwin_hf
from transformers import AutoImageProcessor, AutoModel, pipeline
flow = pipeline("optical-flow", model=repo_id)
parts = (AutoModel.from_pretrained(repo_id), AutoImageProcessor.from_pretrained(repo_id), flow)
result = {"modules": [type(x).__module__.split(".")[0] for x in parts], "flow": flow(*frames)["flow"].tolist()}
""",
        repo_id="tester/winwin-small",
        frames=frames,
    )
    assert there["modules"] == ["winwin_hf"] * 3
    torch.testing.assert_close(torch.tensor(there["flow"]), own_flow(runs["flow"] / "model", frames))


def test_what_lies_there(server, push, checkpoint):
    for name in ("optimizer.pt", "pytorch_model.bin", "half.tmp", "random_states_0.pkl", "notes.txt", ".hidden"):
        (checkpoint / name).write_bytes(b"x")
    done = push(checkpoint, "tester/winwin-small")
    files = set(server.repo("tester/winwin-small").files)
    code = {path for path in files if path.endswith(".py")}
    assert {"modeling_winwin.py", "configuration_winwin.py", "image_processing_winwin.py", "pipeline_winwin.py"} <= code
    assert files - code == {
        ".gitattributes",
        "README.md",
        "card.json",
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "recipe.yaml",
    }
    assert {"  left out: optimizer.pt (state of a training)", "  left out: half.tmp (temporary)"} <= set(done["lines"])
    assert any("pytorch_model.bin (may be a pickle" in line for line in done["lines"])


def test_card_with_scores_and_picture(server, push, runs, tmp_path):
    options = {
        "results": [results_json(tmp_path, "model", "opencv-dis")],
        "picture": True,
        "hub_datasets": {"middlebury": "somebody/middlebury#flow"},
    }
    push(runs["flow"], "tester/winwin-small", **options)
    files = server.repo("tester/winwin-small").files
    card = files["README.md"].decode()
    assert (
        "| middlebury:train | 4 (-1) | 1.53 | 56.25 | 1.53 |" in card and "| middlebury:train | 1.53 | 0.534 |" in card
    )
    assert "winwin evaluate tester/winwin-small --data middlebury=FOLDER" in card
    assert "3.14" in card and "trust_remote_code=True" in card and "![Optical flow by this model" in card
    assert files["example.jpg"].startswith(b"\xff\xd8") and "Apache-2.0" in card
    import yaml
    from huggingface_hub import parse_eval_result_entries

    (entry,) = parse_eval_result_entries(yaml.safe_load(files[".eval_results/middlebury.yaml"]))
    assert (entry.dataset_id, entry.task_id, entry.value) == ("somebody/middlebury", "flow", 1.5336)


def test_a_bundled_checkpoint_by_its_name(server, push):
    name = "winwin-flow"
    if name not in bundled.folders():
        pytest.skip(f"{name} is not bundled")
    done = push(name, "tester/flow", private=True)
    assert server.repo("tester/flow").private and done["warnings"] == []
    assert (
        server.repo("tester/flow").files["model.safetensors"]
        == (bundled.folders()[name] / "model.safetensors").read_bytes()
    )


@pytest.mark.slow
def test_shards_and_back(server, push, here, bare, checkpoint):
    here("from winwin_hf.hub import contents; contents.MAX_WEIGHTS = 30_000")
    try:
        push(checkpoint, "tester/winwin-small")
    finally:
        here("from winwin_hf.hub import contents; contents.MAX_WEIGHTS = 10**9")
    shards = {path for path in server.repo("tester/winwin-small").files if path.startswith(("model-", "model."))}
    assert len(shards) > 2 and "model.safetensors.index.json" in shards and "model.safetensors" not in shards
    load = """
from transformers import AutoModel
model = AutoModel.from_pretrained("tester/winwin-small", trust_remote_code=True)
result = {name: float(tensor.double().sum()) for name, tensor in model.state_dict().items()}
"""
    expected = {
        name: float(tensor.double().sum())
        for name, tensor in AutoModel.from_pretrained(checkpoint).state_dict().items()
    }
    assert bare(load) == expected
    done = push(checkpoint, "tester/winwin-small")
    assert set(done["deleted"]) == shards, "else the old ones would lie beside the new"
    assert {
        path for path in server.repo("tester/winwin-small").files if path.startswith("model.") or "-of-" in path
    } == {"model.safetensors"}
    assert bare(load) == expected


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


def test_a_commit_whose_answer_is_lost_is_looked_for(server, push, checkpoint):
    """A Hub that took its time was said not to have changed."""
    server.lose_answers = 1
    done = push(checkpoint, "tester/winwin-small")
    assert done["url"] == f"{server.url}/tester/winwin-small"
    assert "model.safetensors" in server.repo("tester/winwin-small").files
    server.lose_answers = 1
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
    assert caught.value.kind in ("ValueError", "FileNotFoundError", "HFValidationError") and server.repos == {}


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
