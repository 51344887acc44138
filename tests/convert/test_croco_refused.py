"""Converting CroCo's checkpoints: what is refused, and what a file is never allowed to do."""

from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from support.croco_files import SIZES, public, public_tensors, save

from winwin_hf.convert.croco import convert_croco, load_croco, read_croco


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("croco")
    return {kind: save(public(kind), folder / f"{kind}.pth") for kind in ("pretraining", "flow", "stereo")}


def changed(kind: str, change) -> dict:
    content = public(kind)
    change(content)
    return content


def without(name: str):
    return lambda content: content["model"].pop(name)


def with_tensor(name: str, tensor: torch.Tensor):
    return lambda content: content["model"].update({name: tensor})


def with_sizes(**sizes):
    def change(content):
        args = content["croco_kwargs"] if "croco_kwargs" in content else content["args"].croco_args
        args.update(sizes)

    return change


def without_scale(content):
    for name in ("weight", "bias"):
        content["model"][f"head.dpt.head.4.{name}"] = content["model"][f"head.dpt.head.4.{name}"][:2]


REFUSED = {
    "another project's dictionary": (
        lambda: {"state_dict": {}, "epoch": 1},
        r"another project's.*state_dict, epoch.*'croco_kwargs'",
    ),
    "bare tensors": (lambda: public_tensors(SIZES, "pretraining"), r"another project's checkpoint, with patch_embed"),
    "a tensor": (lambda: torch.zeros(3), r"another project's checkpoint, with a Tensor"),
    "another ViT": (lambda: {"model": {"blocks.0.norm1.weight": torch.zeros(3)}}, r"another project's.*blocks.0.norm1"),
    "DUSt3R": (
        lambda: changed("flow", with_tensor("dec_blocks2.0.norm1.weight", torch.zeros(16))),
        r"two decoders \(dec_blocks2\), but args.model is 'None'; expected AsymmetricCroCo3DStereo",
    ),
    "its own pre-training call": (
        lambda: {
            "args": argparse.Namespace(model="AnotherNet(enc_depth=2)"),
            "model": public_tensors(SIZES, "pretraining"),
        },
        r"expected 'CroCoNet\(\.\.\.\)'",
    ),
    "CroCo v1": (lambda: {"model": public_tensors(SIZES, "pretraining")}, r"absolute positions.*CroCo v1.*relative"),
    "cosine": (lambda: changed("pretraining", with_sizes(pos_embed="cosine")), r"pos_embed='cosine'.*RoPE100"),
    "unnormalised memory": (lambda: changed("flow", with_sizes(norm_im2_in_dec=False)), r"norm_im2_in_dec"),
    "an unknown size": (lambda: changed("flow", with_sizes(window=7)), r"args.croco_args has window; expected only"),
    "a size of another type": (lambda: changed("flow", with_sizes(enc_depth="2")), r"enc_depth is '2'.*integer"),
    "two disagreeing sizes": (
        lambda: {**public("flow"), "croco_args": {**SIZES, "enc_num_heads": 4}},
        r"croco_args and args.croco_args disagree",
    ),
    "heads that don't fit": (lambda: changed("flow", with_sizes(enc_num_heads=3)), r"num_attention_heads=3"),
    "declared depth": (lambda: changed("pretraining", with_sizes(enc_depth=3)), r"enc_depth is 3.*have 2 blocks"),
    "declared width": (
        lambda: changed("pretraining", with_sizes(enc_embed_dim=48)),
        r"patch_embed.proj.weight has shape \(32, 3, 16, 16\); expected \(48, 3, 16, 16\)",
    ),
    "declared ratio": (
        lambda: changed("flow", with_sizes(mlp_ratio=3)),
        r"mlp.fc1.weight has shape.*expected \(96, 32\)",
    ),
    "another decoder depth": (lambda: changed("flow", with_sizes(dec_depth=7)), r"dec_depth is 7, but.*8 blocks"),
    "no head's task": (lambda: changed("flow", lambda c: vars(c["args"]).pop("task")), r"no args.task"),
    "another task": (lambda: changed("flow", lambda c: setattr(c["args"], "task", "depth")), r"args.task is 'depth'"),
    "missing tensor": (
        lambda: changed("pretraining", without("dec_blocks.4.norm_y.bias")),
        r"decoder.layers.4.norm_memory.bias \(our name\) is missing; expected a tensor of shape \(16,\)",
    ),
    "missing level": (
        lambda: changed("flow", without("head.dpt.scratch.layer_rn.0.weight")),
        r"layer_rn.0.weight is missing",
    ),
    "unexpected tensor": (
        lambda: changed("flow", with_tensor("mask_token", torch.zeros(1, 1, 16))),
        r"mask_token is unexpected.*CroCo-Flow",
    ),
    "wrong shape": (
        lambda: changed("pretraining", with_tensor("dec_norm.bias", torch.zeros(17))),
        r"dec_norm.bias has shape \(17,\); expected \(16,\)",
    ),
    "two copies that differ": (
        lambda: changed("flow", with_tensor("head.dpt.act_3_postprocess.0.bias", torch.zeros(16))),
        r"act_3_postprocess.0.bias and head.dpt.act_postprocess.2.0.bias differ",
    ),
    "no scale": (lambda: changed("flow", without_scale), r"without a scale.*expected 3 channels"),
    "flow called stereo": (
        lambda: changed("flow", lambda c: setattr(c["args"], "task", "stereo")),
        r"expected \(2, 32, 1, 1\)",
    ),
    "NaN": (
        lambda: changed("flow", with_tensor("dec_norm.bias", torch.full((16,), torch.nan))),
        r"dec_norm.bias holds NaN",
    ),
    "integers": (
        lambda: changed("flow", with_tensor("dec_norm.bias", torch.zeros(16, dtype=torch.int8))),
        r"dec_norm.bias is of type torch.int8",
    ),
    "numbers of 8 bits": (
        lambda: changed("flow", with_tensor("dec_norm.bias", torch.zeros(16).to(torch.float8_e4m3fn))),
        r"dec_norm.bias is of type torch.float8_e4m3fn",
    ),
    "sparse": (
        lambda: changed("flow", with_tensor("dec_norm.bias", torch.zeros(16).to_sparse())),
        r"dec_norm.bias is sparse or nested",
    ),
    "nested": (
        lambda: changed("flow", with_tensor("dec_norm.bias", torch.nested.nested_tensor([torch.zeros(16)]))),
        r"(dec_norm.bias is sparse or nested|holds .*_rebuild_nested_tensor)",
    ),
    "no values": (
        lambda: changed("flow", with_tensor("dec_norm.bias", torch.zeros(16, device="meta"))),
        r"dec_norm.bias is without values",
    ),
    "beyond float32": (
        lambda: changed("flow", with_tensor("dec_norm.bias", torch.full((16,), 1e300, dtype=torch.float64))),
        r"dec_norm.bias holds NaN or infinite values; expected finite ones, in float32",
    ),
    "a depth that nothing has": (
        lambda: changed("flow", with_sizes(enc_depth=10**400)),
        r"enc_depth is 1000000000000000000000000000000, but the tensors have 2 blocks",
    ),
    "views that repeat a number": (
        lambda: changed("flow", with_tensor("dec_norm.bias", torch.zeros(1).expand(16))),
        r"dec_norm.bias has shape \(16,\), and the file holds less",
    ),
    "one tensor under many names": (
        lambda: changed(
            "flow", lambda c: c["model"].update(dict.fromkeys(map("x{}".format, range(99)), torch.zeros(9999)))
        ),
        r"expected few tensors under two names",
    ),
    "a name of two lines": (
        lambda: changed("flow", with_tensor("a\nb" * 99, torch.zeros(3))),
        r"'a\\nb.{70,80}\.\.\.' is unexpected",
    ),
    "a mask of more than all": (lambda: changed("pretraining", with_sizes(mask_ratio=2.0)), r"mask_ratio"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case, tmp_path):
    """Each in one line that names the file, and nothing is written."""
    make, message = REFUSED[case]
    path = save(make(), tmp_path / "given.pth")
    with pytest.raises(ValueError, match=r"^\S*given\.pth: .*" + message) as caught:
        convert_croco(path, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert [item.name for item in tmp_path.iterdir()] == ["given.pth"]


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no tensors")


def write_truncated(path: Path) -> None:
    data = save(public("pretraining"), path).read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def write_flipped(path: Path) -> None:
    """One bit of a tensor, which torch reads as another number."""
    save(public("pretraining"), path)
    with zipfile.ZipFile(path) as archive:
        part = max(archive.infolist(), key=lambda part: part.file_size)
    content = bytearray(path.read_bytes())
    content[part.header_offset + 200 + part.file_size // 2] ^= 64
    path.write_bytes(content)


def write_truncated_legacy(path: Path) -> None:
    torch.save(public("pretraining"), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:3000])


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b""), "not a file of torch.save"),
        (lambda path: path.write_text("<html>404 Not Found</html>"), "not a file of torch.save"),
        (lambda path: path.write_bytes(os.urandom(5000)), "not a file of torch.save"),
        (write_zip, "not a file of torch.save"),
        (lambda path: path.write_bytes(pickle.dumps(Path("x"))), "not a file of torch.save"),
        (lambda path: path.write_bytes(pickle.dumps(Path("x"), protocol=2)), "Python objects.*pathlib"),
        (write_truncated, "truncated or damaged"),
        (write_truncated_legacy, "truncated or damaged"),
        (write_flipped, "damaged .*CRC"),
    ],
    ids=["empty", "page", "noise", "zip", "pickle", "pickle-2", "truncated", "truncated-legacy", "flipped"],
)
def test_files_that_are_no_checkpoints(write, message, tmp_path):
    path = tmp_path / "given.pth"
    write(path)
    with pytest.raises(ValueError, match=rf"^\S*given\.pth: .*{message}") as caught:
        read_croco(path)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.pth: no such file; expected"):
        read_croco(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="a folder; expected"):
        read_croco(tmp_path)


class Bomb:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_nothing_that_a_file_holds_is_run(new, tmp_path):
    content = public("flow")
    content["args"].hook = Bomb(tmp_path / "ran")
    torch.save(content, tmp_path / "given.pth", _use_new_zipfile_serialization=new)
    with pytest.raises(ValueError, match=r"given\.pth: holds Python objects.*posix\.mkdir"):
        read_croco(tmp_path / "given.pth")
    assert not (tmp_path / "ran").exists()


def test_legacy_files_and_plain_dictionaries_are_read_too(files, tmp_path):
    content = public("flow")
    content["args"] = vars(content["args"])
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    ours, theirs = load_croco(tmp_path / "old.pth"), load_croco(files["flow"])
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
