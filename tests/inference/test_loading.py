"""A network is loaded for use with all its weights, or not at all, and the line says which file is wrong."""

from __future__ import annotations

import json
import os
import pickle
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.http_library import http_library
from support.model_cases import SMALL

from winwin_hf import WinWinConfig, WinWinForDepthEstimation, WinWinImageProcessor
from winwin_hf.cli.errors import line_of
from winwin_hf.inference import loading
from winwin_hf.inference.loading import load_config, load_network, load_processor
from winwin_hf.inference.predictor import Predictor
from winwin_hf.model.encoders_winwin import read_encoder, read_transformers


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    WinWinForDepthEstimation(WinWinConfig(**SMALL)).save_pretrained(folder)
    WinWinImageProcessor(patch_size=8).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A model's folder, to be damaged."""
    copy = tmp_path / "model"
    copy.mkdir()
    for path in saved.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})

    return damage


def half(weights: dict[str, torch.Tensor]) -> None:
    for name in sorted(weights)[::2]:
        del weights[name]


def config(**fields: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return damage


def content(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def processor(**fields: object) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        path = folder / "preprocessor_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return damage


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-5])


def pipe(folder: Path) -> None:
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "half of the tensors": (tensors(half), r"tensors are missing, such as"),
    "no tensor": (tensors(dict.clear), r"tensors are missing, such as"),
    "one shape": (
        tensors(lambda w: w.update({"winwin.norm.weight": torch.ones(5)})),
        r"winwin\.norm\.weight has shape \(5,\); expected \(32,\)",
    ),
    "NaN": (tensors(lambda w: w["winwin.norm.weight"].fill_(torch.nan)), r"winwin\.norm\.weight holds NaN"),
    "integers": (
        tensors(lambda w: w.update({"winwin.norm.weight": torch.ones(32, dtype=torch.int64)})),
        r"winwin\.norm\.weight is stored as I64; expected F64, F32, F16, BF16",
    ),
    "infinity": (
        tensors(lambda w: w["winwin.norm.bias"].view(-1)[:1].fill_(torch.inf)),
        r"winwin\.norm\.bias holds NaN",
    ),
    "cut": (cut, "not a readable model"),
    "a pickle": (content("model.safetensors", pickle.dumps({"a": 1})), "not a readable model|no safetensors file"),
    "empty weights": (content("model.safetensors", b""), "not a readable model|no safetensors file"),
    "another kind of model, without end": (
        content("config.json", b'{"model_type": "dinov2", "num_hidden_layers": 1000000000}'),
        r"num_hidden_layers in config.json is 1000000000; expected at most 1000000",
    ),
    "config null": (content("config.json", b"null"), r"config\.json: expected a JSON object"),
    "config list": (content("config.json", b"[1]"), r"config\.json: expected a JSON object"),
    "config cut": (content("config.json", b'{"a": '), r"config\.json: not readable JSON"),
    "config bytes": (content("config.json", b"\xaf\xfe"), r"config\.json: not a text in UTF-8"),
    "config deep": (content("config.json", b"[" * 100_000), r"config\.json: not readable JSON"),
    "config pipe": (pipe, r"config\.json: a pipe; expected a file"),
    "text for a number": (config(hidden_size="192"), "hidden_size"),
    "activation": (config(hidden_act="nope"), "hidden_act='nope': expected one of"),
    "channels": (config(num_channels=0), "num_channels=0: expected 1 to 4,096"),
    "blocks": (config(num_hidden_layers=10**9), "num_hidden_layers=1000000000: expected 1 to 1,000"),
    "decoder's blocks": (config(decoder_num_hidden_layers=10**8), "decoder_num_hidden_layers=100000000: expected"),
    "width": (config(hidden_size=10**6), "hidden_size=1000000: expected 1 to 65,536"),
    "wide": (config(hidden_size=65536, num_attention_heads=64), "billion parameters"),
    "labels": (config(num_labels=10**9), "num_labels=1000000000: expected 1 to 100,000"),
    "infinite": (config(mlp_ratio=float("inf")), "mlp_ratio=inf: expected"),
    "not a number": (config(min_depth=float("nan")), "min_depth=nan: expected"),
    "another type": (config(model_type="winloss"), "winloss"),
    "labels of lists": (config(id2label={"0": [1], "1": [2]}), "id2label="),
    "mean": (processor(image_mean="x"), "image_mean=x: expected numbers"),
    "deviation": (processor(image_std=[0.0, 1.0, 1.0]), r"image_std=\(0\.0, 1\.0, 1\.0\): expected numbers from 1e-06"),
    "pixels": (processor(min_pixels=-5), "min_pixels=-5: expected whole numbers from 0"),
    "size": (processor(do_resize=True, size={"height": 10**9, "width": 3}), "size="),
    "processor null": (
        content("preprocessor_config.json", b"null"),
        r"preprocessor_config\.json: expected a JSON object",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_line(folder: Path, damage: str):
    change, says = DAMAGES[damage]
    change(folder)
    with pytest.raises((ValueError, OSError), match=says) as error:
        Predictor.load(folder)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)


def test_a_whole_folder_is_loaded(folder: Path, capsys):
    assert not load_network(folder).training
    assert load_config(folder).model_type == "winwin"
    assert load_processor(folder).patch_size == 8
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kind", ["file", "pipe", "loop", "device", "dangling"])
def test_what_is_no_folder_is_no_model(tmp_path: Path, kind: str):
    path = tmp_path / "model"
    {
        "file": lambda: path.write_text("x"),
        "pipe": lambda: os.mkfifo(path),
        "loop": lambda: path.symlink_to(path),
        "device": lambda: path.symlink_to("/dev/zero"),
        "dangling": lambda: path.symlink_to(tmp_path / "nothing"),
    }[kind]()
    with pytest.raises(ValueError, match=r"model: not a folder; expected a model's folder, a bundled name"):
        Predictor.load(path)


def test_more_tensors_than_needed_are_told_of(folder: Path, caplog: pytest.LogCaptureFixture):
    tensors(lambda weights: weights.update({"another": torch.zeros(3)}))(folder)
    load_network(folder)
    assert "1 tensors of its files are not used, such as another" in caplog.text


@pytest.mark.parametrize("target", ["../private.safetensors", "/dev/zero", "pipe", "/etc/passwd", 3])
def test_an_index_of_weights_names_files_beside_it(folder: Path, target: object):
    """Through every door, plain `from_pretrained` too: a device was read without end, a pipe waited for, a file elsewhere loaded."""
    (folder / "model.safetensors").rename(folder.parent / "private.safetensors")
    os.mkfifo(folder.parent / "pipe")
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(("head.weight", "head.bias"), target)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for load in (load_network, WinWinForDepthEstimation.from_pretrained):
        with pytest.raises(ValueError, match=r"index\.json: names .*; expected files such as model-00001-of-00002"):
            load(folder)


def test_split_weights_are_loaded(folder: Path):
    expected = load_network(folder)
    expected.save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    found = load_network(folder).state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.state_dict().items())
    sorted(folder.glob("model-*.safetensors"))[0].unlink()
    with pytest.raises(OSError, match=r"model-00001.*missing, though the index names it"):
        load_network(folder)


def test_the_weights_of_the_last_save_are_loaded(folder: Path):
    """transformers leaves one file beside later shards, and reads that."""
    network = load_network(folder)
    for size in ("40KB", "50GB", "40KB"):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(1)
        network.save_pretrained(folder, max_shard_size=size)
        assert (folder / "model.safetensors").is_file() != (folder / "model.safetensors.index.json").is_file()
        found = WinWinForDepthEstimation.from_pretrained(folder).state_dict()
        assert all(torch.equal(tensor, found[name]) for name, tensor in network.state_dict().items())


def test_weights_of_two_saves_are_refused(folder: Path):
    one = (folder / "model.safetensors").read_bytes()
    load_network(folder).save_pretrained(folder, max_shard_size="40KB")
    (folder / "model.safetensors").write_bytes(one)
    for load in (load_network, WinWinForDepthEstimation.from_pretrained):
        with pytest.raises(
            ValueError, match=r"holds model\.safetensors, and the shards of model\.safetensors\.index\.json"
        ):
            load(folder)
    for shard in folder.glob("model-*"):  # then nothing but the index is of the earlier save
        shard.unlink()
    load_network(folder)


def test_two_tensors_of_one_name_are_refused(folder: Path):
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.startswith("winwin."))
    save_file({**weights, name.removeprefix("winwin."): weights[name] + 1}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=rf"holds {name.removeprefix('winwin.')} and {name}; expected one of both"):
        load_network(folder)


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation"])
def test_a_folder_chooses_no_kernel_of_the_hub(folder: Path, field: str):
    config(**{field: "kernels-community/anything:forward"})(folder)
    for load in (load_network, WinWinForDepthEstimation.from_pretrained):
        with pytest.raises(ValueError, match="expected none of the Hub's kernels"):
            load(folder)


@pytest.mark.parametrize(
    ("content", "missing"),
    [
        ({}, "do_resize, do_rescale, rescale_factor, do_normalize, image_mean, image_std, patch_size"),
        ({"do_rescale": None}, "do_rescale"),
        ({"do_resize": None}, "do_resize"),
    ],
)
def test_a_processor_without_what_a_network_learnt_from_is_refused(folder: Path, content: dict[str, Any], missing: str):
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **content} if content else {}))
    with pytest.raises(
        ValueError, match=rf"preprocessor_config\.json has no {missing}; expected what `save_pretrained`"
    ):
        load_processor(folder)


def test_a_processor_of_other_patches_is_refused(folder: Path):
    network = load_network(folder)
    for patch, fits in ((16, True), (7, False), (4, False)):
        processor(patch_size=patch)(folder)
        if fits:
            assert load_processor(folder, network).patch_size == patch
        else:
            with pytest.raises(
                ValueError, match=rf"preprocessor_config\.json has patch_size={patch}, and its network 8"
            ):
                load_processor(folder, network)


def test_the_processor_of_another_package_is_named(folder: Path):
    processor(image_processor_type="CLIPImageProcessor")(folder)
    with pytest.raises(
        ValueError, match=r"preprocessor_config\.json is of a CLIP.*; expected a WinWinImageProcessor's"
    ):
        load_processor(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("architectures", 5),
        ("architectures", "WinWinForDepthEstimation"),
        ("architectures", [1]),
        ("model_type", []),
        ("quantization_config", "x"),
        ("quantization_config", []),
        ("quantization_config", {}),
        ("quantization_config", {"quant_method": 5}),
        ("auto_map", {"AutoModel": 5}),
        ("dtype", "nope"),
        ("dtype", []),
        ("dtype", "tensor"),
        ("id2label", 5),
        ("label2id", "x" * 1000),
        ("attn_implementation", 5),
    ],
)
def test_a_key_of_another_type_is_named_with_its_file(folder: Path, key: str, value: object):
    config(**{key: value})(folder)
    for load in (load_config, load_network, Predictor.load):
        with pytest.raises(ValueError, match=rf"^{folder / 'config.json'}: {key} is .*; expected ") as error:
            load(folder)
        assert len(str(error.value)) < 400 and "\n" not in str(error.value)


def test_a_config_without_architectures_says_so(folder: Path):
    for value in ([], None):
        config(architectures=value)(folder)
        with pytest.raises(ValueError, match=r"has a config.json without architectures; expected one for depth"):
            Predictor.load(folder, "depth-estimation", "cpu")


def test_outputs_are_read_by_name_whatever_the_config_says(folder: Path) -> None:
    config(return_dict=False)(folder)
    assert Predictor.load(str(folder), device="cpu")(np.zeros((16, 16, 3), np.uint8)).values.shape == (16, 16)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"_attn_implementation": "flash_attention_2"}, "flash|Flash"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "bitsandbytes"),
    ],
)
def test_what_a_config_asks_for_and_is_not_installed(folder: Path, fields: dict, message: str) -> None:
    config(**fields)(folder)
    with pytest.raises((ImportError, ValueError), match=message) as error:
        load_network(folder)
    assert str(error.value).startswith(f"{folder}: ")


@pytest.mark.parametrize("kind", ["winwin", "nobody-knows"])
def test_code_of_a_folder_is_not_run_and_nobody_is_asked(folder: Path, kind: str, monkeypatch) -> None:
    """transformers asks whether it may, and an answer may stand in a pipe."""
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("was asked"))
    ran = folder / "ran"
    (folder / "evil.py").write_text(f"open({str(ran)!r}, 'w')\n")
    config(model_type=kind, auto_map={"AutoConfig": "evil.C", "AutoModel": "evil.M"})(folder)
    if kind == "winwin":  # of the network, our own class is taken
        (folder / "preprocessor_config.json").write_text(
            json.dumps({"image_processor_type": "Evil", "auto_map": {"AutoImageProcessor": "evil.P"}})
        )
    loads = {"winwin": [load_processor], "nobody-knows": [load_network, load_config, read_encoder]}[kind]
    for load in loads:
        with pytest.raises(ValueError, match="it needs code of its own, which is not run") as error:
            load(str(folder))
        assert str(error.value).startswith(f"{folder}: ")
    assert not ran.exists()


def test_an_adapter_beside_a_network_is_refused(folder: Path) -> None:
    """Commands used it and `push` left it out; and its config may ask PEFT for hours and gigabytes."""
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 20000000, "target_modules": ".*"}')
    for load in (load_network, lambda source: read_transformers(source, {})):
        with pytest.raises(ValueError, match=r"holds an adapter \(adapter_config\.json\)"):
            load(str(folder))


def test_an_adapter_alone_is_said_to_be_one(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")
    (folder / "config.json").unlink()
    with pytest.raises(ValueError, match=r"holds an adapter \(adapter_config\.json\)"):
        load_network(folder)


def test_the_processor_is_of_the_commit_of_the_network(folder: Path, monkeypatch) -> None:
    """A push between the two would mix them."""
    asked = []
    load = loading.AutoImageProcessor.from_pretrained
    monkeypatch.setattr(
        loading.AutoImageProcessor,
        "from_pretrained",
        lambda *a, **k: asked.append(k.pop("revision", None)) or load(*a, **k),
    )
    model = loading.load_network(folder)
    loading.load_processor(folder, model)
    model.config._commit_hash = "1" * 40
    loading.load_processor(folder, model)
    assert asked == [None, "1" * 40]


def answer_of(status: int, **headers: str) -> Any:
    request = http_library.Request("HEAD", "http://hub/a/b/model.safetensors")
    return http_library.Response(status, headers=headers, request=request)


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (answer_of(500), "http://hub/a/b/model.safetensors answered 500; nothing of it is in the cache"),
        (answer_of(404), "http://hub/a/b/model.safetensors answered 404; nothing of it is in the cache"),
        (answer_of(200), "isn't what a Hub sends; nothing of it is in the cache"),
        (answer_of(200, etag='"1"'), "does not appear to have a file named model.safetensors"),
    ],
    ids=["500", "404", "no ETag", "there"],
)
def test_what_the_hub_answers_is_said(monkeypatch, answer, says):
    """Of weights that a Hub refuses, transformers says that they aren't there, or nothing."""
    session = types.SimpleNamespace(head=lambda *_, **__: answer)
    monkeypatch.setattr(loading, "get_session", lambda: session)
    monkeypatch.setattr(loading.constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(OSError, match="no model could be loaded from 'a/b'") as error, loading.reading("a/b"):
        raise OSError("a/b does not appear to have a file named model.safetensors or model.safetensors.index.json and")
    assert says in line_of(error.value)
