"""Networks pushed to a Hub and loaded from it, with the package and without."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.hub_process import LABELS
from support.results import results_json
from transformers import AutoImageProcessor, AutoModel

from winwin_hf import (
    bundled,
)

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
