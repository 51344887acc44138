"""Trainings that start from an encoder that others pre-trained: the config follows, and so does how images are normalised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file
from support.croco_files import PAIRS as CONSTRUCTORS
from support.croco_files import SIZES as CROCO
from support.croco_files import pair, pair_tensors, public_tensors, save
from support.places import FRAMES
from support.timm_encoders import ARCHITECTURES
from transformers import AutoImageProcessor, AutoModel

from winwin_hf import WinWinConfig, WinWinForOpticalFlow, WinWinForSemanticSegmentation, downloads
from winwin_hf.checked import build
from winwin_hf.convert.encoder import convert_encoder
from winwin_hf.model.encoders_winwin import FAMILIES, read_encoder
from winwin_hf.model.pretrained_winwin import FREE
from winwin_hf.training import initialise, loop
from winwin_hf.training.build import make_average, make_loader, make_model, make_optimizer, open_parts
from winwin_hf.training.initialise import ENCODER, read_start
from winwin_hf.training.loop import train
from winwin_hf.training.recipe import OptimizationRecipe, Recipe

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SOURCES = {
    "dinov3": ("DINOv3ViT", {"patch_size": 16, "intermediate_size": 64}),
    "dinov2": ("Dinov2", {"patch_size": 14, "image_size": 56, "mlp_ratio": 2}),
    "mae": ("ViTMAE", {"patch_size": 16, "image_size": 64, "intermediate_size": 64}),
    "siglip": ("SiglipVision", {"patch_size": 16, "image_size": 64, "intermediate_size": 64}),
}
HEAD = {"dpt_layer_sizes": [8, 8, 8, 8], "dpt_hidden_size": 8, "head_hidden_size": 16}
DECODER = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 2, "decoder_num_attention_heads": 2}


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    """Folders of transformers' own models with random weights."""
    folders = {}
    for name, (family, options) in SOURCES.items():
        torch.manual_seed(0)
        model = getattr(transformers, f"{family}Model")(
            getattr(transformers, f"{family}Config")(**{**SIZES, **options})
        )
        folders[name] = str(tmp_path_factory.mktemp(name))
        model.save_pretrained(folders[name])
    return folders


def recipe_of(init: str | Path, task: str = "semantic-segmentation", **changes) -> dict:
    flow = task == "optical-flow"
    recipe = {
        "task": task,
        "data": {"name": "synthetic-flow", "settings": {"height": 64, "width": 96, "texture_count": 2}}
        if flow
        else {"name": "camvid", "path": str(FRAMES / "CamVid")},
        "model": {"init": str(init), "config": {**HEAD, **(DECODER if flow else {})}},
        "windows": {"kind": "windows", "size": [2, 2]},
        "optimization": {"steps": 4, "batch_size": 2, "warmup_steps": 1, "num_workers": 0},
        "evaluation": {"every": 0, "windows": 2, "sets": [{"label": "frames", "length": 1}]},
        "save_every": 2,
        "log_every": 1,
        "trackers": [],
    }
    for section, values in changes.items():
        recipe[section] = {**recipe[section], **values}
    return recipe


def network(values: dict):
    recipe = build(Recipe, values, "test")
    return make_model(recipe, open_parts(recipe)[0].source)


def run(values: dict, folder: Path, resume: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "recipe-of-the-test.yaml").write_text(yaml.safe_dump(values))
    return train(folder / "recipe-of-the-test.yaml", folder / "run", resume)


def interrupted(values: dict, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A training that dies after its first state and is resumed."""
    save = loop.save_state

    def die(*arguments):
        save(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "save_state", die)
        run(values, folder)
    return run(values, folder, resume=True)


@pytest.mark.parametrize("name", SOURCES)
def test_the_config_follows_from_the_encoder(sources, name):
    model, processor = network(recipe_of(sources[name]))
    encoder = read_encoder(sources[name])
    for field, value in encoder.config.items():
        assert getattr(model.config, field) == value, field
    arrived = model.winwin.state_dict()
    assert arrived.keys() == encoder.tensors.keys()
    assert all(torch.equal(tensor, encoder.tensors[key]) for key, tensor in arrived.items())
    assert (processor.patch_size, list(processor.image_mean)) == (encoder.config["patch_size"], encoder.image_mean)
    assert model.config.head_type == ("dpt" if name == "dinov2" else "conv")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_field_that_an_encoder_decides_is_known(family):
    fields = FAMILIES[family](transformers.CONFIG_MAPPING[family](), family)
    assert set(fields) <= {*ENCODER, *FREE, "attention_pattern"}


@pytest.mark.parametrize(("name", "task"), [("dinov2", "semantic-segmentation"), ("dinov3", "optical-flow")])
def test_a_training_by_a_recipe_ends_with_the_encoder_s_own_processor(sources, name, task, tmp_path):
    folder = run(recipe_of(sources[name], task), tmp_path)
    model, processor = AutoModel.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    encoder = read_encoder(sources[name])
    assert model.config.position_embedding == encoder.config["position_embedding"]
    assert processor.patch_size == encoder.config["patch_size"] == model.config.patch_size
    assert list(processor.image_mean) == encoder.image_mean
    scores = json.loads((folder.parent / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"windows", "frames"} <= scores.keys()


def test_windows_are_normalised_as_the_encoder_s_images_were(sources):
    """SigLIP's mean is a half. What the collator makes of a whole frame is what the image processor makes of it."""
    recipe = build(Recipe, recipe_of(sources["siglip"]), "test")
    recipe.windows = type(recipe.windows)("full")
    parts = open_parts(recipe)
    _, processor = make_model(recipe, parts[0].source)
    loader = make_loader(recipe, 0, 1, 0, processor, parts)
    loader.collate_fn.reader.augmentation = None
    example = {"index": 0, **parts[0].source.dataset[0]}
    made = loader.collate_fn([example])["pixel_values"][0, 0]
    image, _ = parts[0].source.reader.decode(example)
    expected = processor(image, return_tensors="pt")["pixel_values"][0]
    assert list(processor.image_mean) == [0.5] * 3
    height, width = image.shape[:2]
    torch.testing.assert_close(made[:, :height, :width], expected[:, :height, :width], rtol=1e-5, atol=1e-5)


def test_a_converted_folder_decides_the_same(sources, tmp_path):
    """`winwin convert`, then a recipe, is a recipe alone."""
    convert_encoder(sources["siglip"], tmp_path / "converted")
    direct, first = network(recipe_of(sources["siglip"]))
    through, second = network(recipe_of(tmp_path / "converted"))
    assert direct.config.to_diff_dict() == through.config.to_diff_dict()
    assert all(torch.equal(a, b) for a, b in zip(direct.winwin.parameters(), through.winwin.parameters(), strict=True))
    for processor in (first, second):
        assert (list(processor.image_mean), processor.patch_size) == ([0.5] * 3, 16)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_timm_s_encoders_start_a_recipe(name, file):
    encoder = read_encoder(str(FRAMES / "timm" / name))
    assert set(encoder.config) <= {*ENCODER, *FREE, "attention_pattern"}
    model, processor = network(recipe_of(FRAMES / "timm" / name / file))
    assert {field: getattr(model.config, field) for field in encoder.config} == encoder.config
    arrived = model.winwin.state_dict()
    assert all(torch.equal(arrived[key], tensor) for key, tensor in encoder.tensors.items())
    assert (processor.patch_size, list(processor.image_mean)) == (4, encoder.image_mean)


@pytest.mark.parametrize("kind", CONSTRUCTORS)
def test_a_dust3r_starts_optical_flow_with_its_decoder(kind, tmp_path):
    """By its file, and by its folder, whose config.json has no model_type."""
    tensors = pair_tensors(public_tensors(CROCO, "pretraining"))
    file, folder = save(pair(kind, tensors, CROCO), tmp_path / "pair.pth"), tmp_path / "pair"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CROCO | CONSTRUCTORS[kind][1]))
    save_file(tensors, folder / "model.safetensors")
    for init in (file, folder):
        values = recipe_of(init, "optical-flow")
        values["model"]["config"] = HEAD
        model, processor = network(values)
        assert model.config.decoder_num_hidden_layers == CROCO["dec_depth"]
        assert torch.equal(model.decoder.layers[1].norm_memory.bias, tensors["dec_blocks.1.norm_y.bias"])
        assert torch.equal(model.winwin.norm.weight, tensors["enc_norm.weight"])
        assert list(processor.image_mean) == [0.5] * 3
    model, _ = network(recipe_of(file))
    assert torch.equal(model.winwin.norm.weight, tensors["enc_norm.weight"])


def test_a_converted_folder_has_the_encoder_s_head_too(sources, tmp_path):
    config = transformers.DINOv3ViTConfig(
        hidden_size=16, num_hidden_layers=24, num_attention_heads=2, intermediate_size=32
    )
    transformers.DINOv3ViTModel(config).save_pretrained(tmp_path / "deep")
    convert_encoder(str(tmp_path / "deep"), tmp_path / "deep-ours")
    convert_encoder(sources["dinov2"], tmp_path / "dino-ours")
    for source in (sources["dinov2"], tmp_path / "dino-ours"):
        assert read_start(source).free["head_type"] == "dpt"
    for source in (tmp_path / "deep", tmp_path / "deep-ours"):
        assert read_start(source).free["head_taps"] == [4, 11, 17, 23]
        assert read_start(source, pairs=True).free.get("head_taps") is None


def test_options_of_the_hub_are_not_the_config_s(sources, tmp_path):
    convert_encoder(sources["siglip"], tmp_path / "out", revision="main")
    assert "revision" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_a_decoder_decides_its_sizes_too(tmp_path):
    config = WinWinConfig(**SIZES, **DECODER, head_hidden_size=16)
    WinWinForOpticalFlow(config).save_pretrained(tmp_path)
    values = recipe_of(tmp_path, "optical-flow")
    values["model"]["config"] = {"head_hidden_size": 16}
    model, _ = network(values)
    assert {name: getattr(model.config, name) for name in DECODER} == DECODER
    # segmentation has none, so a preset's may differ
    assert not set(DECODER) & set(read_start(tmp_path).config)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"config": {"hidden_size": 64}}, r"model\.config\.hidden_size is 64, and .* has 32; leave it out"),
        (
            {"config": {"position_embedding": "rope"}},
            r"model\.config\.position_embedding is 'rope', and .* 'rope_frame'",
        ),
        ({"preset": "small"}, r"model\.preset small has hidden_size=384, and .* has 32; leave the preset out"),
    ],
)
def test_what_contradicts_the_encoder_is_refused(sources, model, message):
    with pytest.raises(ValueError, match=message):
        network(recipe_of(sources["dinov3"], model=model))


def test_what_an_encoder_leaves_open_can_be_chosen(sources):
    model, _ = network(recipe_of(sources["dinov3"], model={"config": {**HEAD, "drop_path_rate": 0.3}}))
    assert model.config.drop_path_rate == 0.3


def test_a_head_for_pairs_reads_the_decoder_too(tmp_path):
    """DINO's own heads of 24 blocks read four of the encoder's; flow from the encoder alone would see one view only."""
    config = transformers.Dinov2Config(hidden_size=16, num_hidden_layers=24, num_attention_heads=2, image_size=56)
    transformers.Dinov2Model(config).save_pretrained(tmp_path)
    options = {"head_type": "dpt", **DECODER, **HEAD}
    flow = WinWinForOpticalFlow.from_encoder(str(tmp_path), **options)
    segmentation = WinWinForSemanticSegmentation.from_encoder(str(tmp_path), **options)
    assert segmentation.config.taps(False) == [4, 11, 17, 23]
    assert flow.config.taps(True)[-1] == 25  # the decoder's last block
    values = recipe_of(tmp_path, "optical-flow", model={"config": options})
    assert network(values)[0].config.taps(True) == flow.config.taps(True)


# ------------------------------------------------------------------ fine-tuning


def test_layers_learn_the_more_slowly_the_deeper(sources):
    model, _ = network(recipe_of(sources["dinov2"]))
    groups = make_optimizer(model, OptimizationRecipe(layer_decay=0.5, learning_rate=1.0)).param_groups
    scale = {id(p): group["scale"] for group in groups for p in group["params"]}
    expected = {"winwin.embeddings.": 0.125, "winwin.layers.0.": 0.25, "winwin.layers.1.": 0.5}
    names = dict(model.named_parameters())
    assert len(scale) == len(names)
    for name, parameter in names.items():
        assert scale[id(parameter)] == next((s for start, s in expected.items() if name.startswith(start)), 1.0), name
    undecayed = {id(p) for group in groups for p in group["params"] if not group["weight_decay"]}
    assert {id(names["winwin.embeddings.prefix_tokens"]), id(names["winwin.embeddings.positions"])} <= undecayed


def test_the_learning_rate_of_each_group_follows_the_schedule(sources, tmp_path, monkeypatch):
    rates, step = [], torch.optim.AdamW.step

    def spy(self, *arguments, **options):
        rates.append({group["scale"]: group["lr"] for group in self.param_groups})
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    run(recipe_of(sources["mae"], optimization={"layer_decay": 0.5, "learning_rate": 1e-3}), tmp_path)
    assert len(rates) == 4 and rates[0][1.0] == 1e-3
    assert all(rate[scale] == pytest.approx(scale * rate[1.0]) for rate in rates for scale in rate)
    assert rates[-1][1.0] < rates[1][1.0]


def test_frozen_parts_have_no_average(sources, tmp_path, monkeypatch):
    values = recipe_of(sources["dinov3"], model={"frozen": ["winwin"], "config": {**HEAD, "drop_path_rate": 0.5}})
    model, _ = network(values)
    average = make_average(model, 0.9)
    with torch.no_grad():
        for parameter in model.head.parameters():
            parameter.add_(1)
    for _ in range(2):
        average.update_parameters(model)
    averaged, own = dict(average.module.named_parameters()), dict(model.named_parameters())
    assert all((averaged[name] is own[name]) == name.startswith("winwin.") for name in own)

    whole = load_file(run(values, tmp_path / "whole") / "model.safetensors")
    stored = load_file(next((tmp_path / "whole" / "run").glob("state-*")) / "average.safetensors")
    assert stored and not any(name.startswith("module.winwin.") for name in stored)
    resumed = load_file(interrupted(values, tmp_path / "resumed", monkeypatch) / "model.safetensors")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    start = read_encoder(sources["dinov3"]).tensors
    assert all(torch.equal(whole[f"winwin.{name}"], tensor) for name, tensor in start.items())


def test_lora_in_a_recipe(sources, tmp_path, monkeypatch):
    """Only adapters and head are trained; it resumes exactly; what is saved needs no PEFT."""
    pytest.importorskip("peft", reason="needs peft (winwin-hf[lora])")
    lora, config = {"r": 2, "lora_dropout": 0.5}, {**HEAD, "drop_path_rate": 0.5}
    values = recipe_of(sources["dinov3"], model={"lora": lora, "config": config}, optimization={"learning_rate": 1e-2})
    model, _ = network(values)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trained if name.startswith("winwin.")} == {
        name for name, _ in model.named_parameters() if "lora_" in name
    }
    assert {name for name, _ in model.named_parameters() if name.startswith("head.")} <= trained

    whole = run(values, tmp_path / "whole")
    tensors = load_file(whole / "model.safetensors")
    assert not any("lora" in name or "base_layer" in name for name in tensors)
    moved = {
        name
        for name, tensor in read_encoder(sources["dinov3"]).tensors.items()
        if not torch.equal(tensors[f"winwin.{name}"], tensor)
    }
    assert moved == {
        f"layers.{i}.{layer}.weight"
        for i in range(2)
        for layer in (*(f"attention.{x}_proj" for x in "qkvo"), "mlp.up_proj", "mlp.down_proj")
    }
    assert type(AutoModel.from_pretrained(whole)).__name__ == "WinWinForSemanticSegmentation"
    resumed = load_file(interrupted(values, tmp_path / "resumed", monkeypatch) / "model.safetensors")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"modules_to_save": ["head"]}, r"model\.lora: modules_to_save can't be merged"),
        ({"lora_bias": True}, r"model\.lora: lora_bias can't be merged"),
        ({"rank": 4}, r"model\.lora: .*rank"),
        ({"target_modules": ["nothing"]}, r"model\.lora: .*nothing"),
    ],
)
def test_lora_options_are_peft_s(sources, lora, message):
    pytest.importorskip("peft", reason="needs peft (winwin-hf[lora])")
    with pytest.raises(ValueError, match=message):
        network(recipe_of(sources["dinov3"], model={"lora": lora}))


# ------------------------------------------------------------------ what users get wrong


def test_lora_and_a_frozen_encoder_exclude_each_other(sources):
    with pytest.raises(ValueError, match=r"lora and frozen: \[winwin\] exclude each other"):
        network(recipe_of(sources["dinov3"], model={"lora": {"r": 2}, "frozen": ["winwin"]}))


def test_an_encoder_of_other_channels_is_refused_before_the_first_step(tmp_path):
    config = transformers.ViTConfig(**SIZES, image_size=32, num_channels=4)
    transformers.ViTModel(config).save_pretrained(tmp_path / "four")
    for start in (
        lambda: network(recipe_of(tmp_path / "four")),
        lambda: convert_encoder(str(tmp_path / "four"), tmp_path / "x"),
    ):
        with pytest.raises(ValueError, match=r"four: takes 4 channels; expected 3"):
            start()


def test_a_value_that_the_config_refuses_is_one_sentence(sources):
    with pytest.raises(ValueError, match=r"^model\.config: drop_path_rate=1\.5: expected 0 to 1\.$"):
        network(recipe_of(sources["dinov3"], model={"config": {"drop_path_rate": 1.5}}))
    with pytest.raises(ValueError, match=r"^model\.config: patch_size=14 with head_type='conv'"):
        network(recipe_of(sources["dinov2"], model={"config": {"head_type": "conv"}}))


def test_resuming_with_another_recipe_names_the_key_and_both_values(sources, tmp_path):
    run(recipe_of(sources["dinov3"]), tmp_path)
    with pytest.raises(
        ValueError, match=r"another recipe \(optimization\.learning_rate: 0\.0003, now 0\.001\), says its state-"
    ):
        run(recipe_of(sources["dinov3"], optimization={"learning_rate": 1e-3}), tmp_path, resume=True)


def test_the_config_of_a_repository_is_compared_too(monkeypatch, tmp_path):
    """It is read before the weights, and decides what network they are for."""
    monkeypatch.setattr(downloads.constants, "HF_HUB_CACHE", str(tmp_path))
    blob = tmp_path / "models--a--b" / "blobs" / ("0" * 40)

    def fetched(*_: object) -> tuple[dict, dict]:
        blob.parent.mkdir(parents=True)
        blob.write_text('{"model_type": "winwin", "rope_theta": 900.0}')
        return {"model_type": "winwin"}, {}

    monkeypatch.setattr(initialise.PreTrainedConfig, "get_config_dict", fetched)
    monkeypatch.setattr(initialise, "load_network", lambda *_: None)
    monkeypatch.setattr(initialise, "load_processor", lambda *_: None)
    monkeypatch.setattr(initialise, "_start_of", lambda *_: "a start")
    with pytest.raises(ValueError, match=r"^model\.init: a/b: .* isn't what the Hub announced"):
        initialise.read_start("a/b")
    assert not blob.exists()


def test_a_processor_that_does_not_come_is_an_error(monkeypatch, tmp_path):
    """Its means and deviations were taken for the usual ones, and another network was trained."""

    def fails(*_: object, **__: object) -> None:
        raise OSError("a/b: preprocessor_config.json could not be downloaded (500)")

    monkeypatch.setattr(downloads.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(initialise.PreTrainedConfig, "get_config_dict", lambda *_: ({"model_type": "winwin"}, {}))
    monkeypatch.setattr(
        initialise, "load_network", lambda *_: SimpleNamespace(config=SimpleNamespace(_commit_hash="c"))
    )
    monkeypatch.setattr(initialise, "processor_files", fails)
    with pytest.raises(ValueError, match=r"^model\.init: a/b: preprocessor_config\.json could not be downloaded"):
        initialise.read_start("a/b")


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("config.json", '"layer_norm_eps": 1e-05', '"layer_norm_eps": 0.01', r"layer_norm_eps: 1e-05, now 0\.01"),
        ("preprocessor_config.json", "0.4", "0.5", r"image_mean: \[0\.4, 0\.4, 0\.4\], now \[0\.5, 0\.5, 0\.5\]"),
    ],
)
def test_a_start_that_changed_between_a_stop_and_its_resume_is_refused(sources, tmp_path, file, old, new, says):
    """Its tensors come from the state, and the rest made another network in silence."""
    start = Path(shutil.copytree(sources["dinov3"], tmp_path / "start"))
    (start / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.4] * 3, "image_std": [0.2] * 3}))
    values = recipe_of(start)
    run(values, tmp_path)
    shutil.rmtree(tmp_path / "run" / "state-00000004")
    content = (start / file).read_text()
    assert old in content
    (start / file).write_text(content.replace(old, new))
    with pytest.raises(
        ValueError, match=rf"state-00000002 is of another network \({says}\); expected the {file} of model\.init"
    ):
        run(values, tmp_path, resume=True)
    (start / file).write_text(content)
    run(values, tmp_path, resume=True)
