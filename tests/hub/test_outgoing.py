"""What must not leave this machine."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import re
import tarfile
import zipfile
from base64 import b64encode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from winwin_hf.hub.contents import READ, model_contents, space_contents
from winwin_hf.hub.outgoing import check_names, refuse_secrets, secret_in
from winwin_hf.hub.push import push

README = "---\ntitle: x\nsdk: gradio\n---\n"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file of the system, outside every folder that is published."""
    path = tmp_path / "system" / "shadow.txt"
    path.parent.mkdir()
    path.write_text("root:canary")
    return path


@pytest.fixture
def space(tmp_path: Path) -> Path:
    folder = tmp_path / "space"
    folder.mkdir()
    (folder / "README.md").write_text(README)
    (folder / "app.py").write_text("print('x')\n")
    return folder


def test_a_link_out_of_a_space_is_refused(space: Path, secret: Path) -> None:
    (space / "within.py").symlink_to(space / "app.py")
    assert set(space_contents(space).files) == {"README.md", "app.py", "within.py"}
    (space / "data.txt").symlink_to(secret)
    with pytest.raises(ValueError, match=r"data\.txt: a link to a file outside"):
        push(space, "tester/space", "space", dry_run=True)  # before the Hub is asked
    (space / "data.txt").unlink()
    (space / "folder").symlink_to(secret.parent)
    try:
        assert not any("shadow" in name for name in space_contents(space).files)
    except ValueError as error:  # Python before 3.13 follows the link
        assert "outside" in str(error)
    (space / "folder").unlink()
    (space / "app.py").unlink()
    (space / "within.py").unlink()
    (space / "app.py").symlink_to(secret)
    with pytest.raises(ValueError, match=r"app\.py: a link"):
        space_contents(space)


@pytest.mark.parametrize("name", READ)
def test_a_link_out_of_a_checkpoint_is_refused(run: Path, tmp_path: Path, secret: Path, name: str) -> None:
    folder = run / "model"
    if (folder / name).exists():
        secret.write_bytes((folder / name).read_bytes())
        (folder / name).unlink()
    (folder / name).symlink_to(secret)
    with pytest.raises(ValueError, match=f"{name}: a link to a file outside"):
        model_contents(run, "tester/x", tmp_path, [], picture=False)


@pytest.mark.parametrize("settings", [{"patch_size": 0}, {"patch_size": 7}, {"image_mean": None}])
def test_a_checkpoint_whose_image_processor_doesnt_fit_is_refused(
    run: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    path = run / "model" / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    with pytest.raises(ValueError, match=next(iter(settings))):
        model_contents(run, "tester/x", tmp_path, [], picture=False)


def test_a_checkpoint_in_the_hubs_cache_is_made_of_links(run: Path, tmp_path: Path) -> None:
    snapshot, blobs = (tmp_path / "models--a--b" / name for name in ("snapshots/1", "blobs"))
    for folder in (snapshot, blobs, tmp_path / "out"):
        folder.mkdir(parents=True)
    for path in (run / "model").iterdir():
        path.rename(blobs / path.name)
        (snapshot / path.name).symlink_to(blobs / path.name)
    assert "config.json" in model_contents(snapshot, "tester/x", tmp_path / "out", [], picture=False).files


NAMED = (
    ".env",
    "prod.env",
    "id_rsa",
    "sub/id_ed25519.pub",
    "server.pem",
    "tls.KEY",
    ".netrc",
    "token",
    "secrets.toml",
    "kaggle.json",
    "password.txt",
    "auth.json",
)
TEXTS = {
    "notes.md": "my token is hf_" + "a1B2" * 9,
    "settings.yaml": "key: AKIA" + "ABCD1234" * 2,
    "deploy": "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n",
    "gitlab.txt": "glpat-" + "a1B2c" * 4,
    "npm.txt": "npm_" + "a1B2c" * 7,
    "pypi.txt": "pypi-AgEIcHlwaS5vcmc" + "a1B2c" * 7,
    "settings.py": 'aws_secret_access_key = "' + "a1B2/" * 8 + '"',
    "long.txt": "x " * 1_500_000 + "ghp_" + "x1" * 18,
    "google.txt": "AIza" + "a1B2c" * 7,
    "run.sh": "#!/bin/sh\nexport WANDB_API_KEY=" + "0a1b" * 10 + "\ntrue\n",
    "proxy.cfg": "proxy = https://alice:s3cretpass@example.com/x",
    "app.py": 'headers = "ghp_' + "x1" * 18 + '"',
    "environ.py": "os.environ['WANDB_API_KEY'] = '" + "0a1b" * 10 + "'",
    "default.py": 'os.environ.setdefault("WANDB_API_KEY", "' + "0a1b" * 10 + '")',
    "login.py": 'wandb.login(key="' + "0a1b" * 10 + '")',
    "signing-key.asc": "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\nlQVYBGYx\n",
    "identity": "---- BEGIN SSH2 ENCRYPTED PRIVATE KEY ----\nComment: x\n",
    "key.txt": "PuTTY-User-Key-File-3: ssh-ed25519\n",
    "machines": "machine github.com login me password s3cr3tpassw0rd\n",
    "azure.txt": "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=" + "a1B2" * 20 + "a1B2a1==",
    "mail.txt": "SG." + "a1B2" * 5 + "." + "a1B2" * 10,
    "stripe.txt": "sk_live_" + "a1B2" * 6,
    "ask.sh": "curl -H 'Authorization: Bearer " + "0a1b" * 8 + "' https://example.com",
    "docker.json": '{"auths": {"ghcr.io": {"auth": "' + b64encode(b"bob:s3cretpass").decode() + '"}}}',
    "base64.txt": "key " + b64encode(b"hf_" + b"a1B2" * 9).decode() + "\n",
    "conf.py": 'password = "hunter2hunter2X9"',
    "docker.txt": "dckr_pat_" + "a1B2c" * 6,
    "slack.py": "post('https://hooks.slack.com/services/T012/B012/" + "a1B2" * 6 + "')",
    "discord.py": "https://discord.com/api/webhooks/123456789012345678/" + "a1B2-" * 12,
    "telegram.txt": "123456789:AA" + "a1B" * 11,
    "age.txt": "AGE-SECRET-KEY-1" + "QPZRY9X8" * 6,
    "wg0.conf": "[Interface]\nPrivateKey = " + "a1B2" * 10 + "a1B=",
    "Dockerfile": "FROM python:3.11\nENV WANDB_API_KEY=" + "0a1b" * 10 + "\n",
    "compose.yaml": "environment:\n      - WANDB_API_KEY=" + "0a1b" * 10 + "\n",
    "start.sh": "WANDB_API_KEY=" + "0a1b" * 10 + " python app.py\n",
    "page.html": "<p>DB_PASSWORD=Tq7Lw2ZpX9rVb4Ns</p>",
    "note.json": '{"_note": "DB_PASSWORD=Tq7Lw2ZpX9rVb4Ns"}',
    "page.md": "Start it by `docker run -e DB_PASSWORD=Tq7Lw2ZpX9rVb4Ns x`.",
    "secret.yml": "db:\n  db_password: Tq7Lw2ZpX9rVb4Ns\n",
    "letters.py": 'os.environ["DB_PASSWORD"] = "liOlUFvBglVjtCWh"',
    "magic.ipynb": json.dumps({"cells": [{"source": ["x = 1\n", "%env WANDB_API_KEY=" + "0a1b" * 10]}]}),
    "boto.ini": "[default]\naws_secret_access_key = " + "a1B2/" * 8 + "\n",
    "model.safetensors": "\0" * 9 + "hf_" + "a1B2" * 9 + "\0" * 5_000_000,
    "book.ipynb": json.dumps({"cells": [{"source": ['x = 1\nos.environ["WANDB_API_KEY"] = "' + "0a1b" * 10 + '"']}]}),
}


@pytest.mark.parametrize("name", [*NAMED, *TEXTS])
def test_files_that_look_like_secrets_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(TEXTS.get(name, "x"))
    other = tmp_path / "fine.txt"
    other.write_text(
        "hf_transfer and HF_TOKEN are names\nexport HF_TOKEN=$OTHER_TOKEN\nTOKEN = read()\nhttps://$USER:$PASS@x.y"
    )
    files = {name: path, "fine.txt": other}
    with pytest.raises(ValueError, match="nothing was uploaded") as error:
        refuse_secrets(files)
    assert name in str(error.value) and "fine.txt" not in str(error.value) and f"--include {name}" in str(error.value)
    assert not any(text in str(error.value) for text in TEXTS.values())
    refuse_secrets(files, [name])
    with pytest.raises(ValueError, match=r"--include other\.txt"):
        refuse_secrets(files, [name, "other.txt"])


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", [name for name in TEXTS if name not in ("long.txt", "model.safetensors")])
def test_secrets_in_texts_of_other_systems_are_found(tmp_path: Path, name: str, encoding: str) -> None:
    path = tmp_path / name
    path.write_text(TEXTS[name], encoding)
    assert "holds" in str(secret_in("notes.txt", path))
    path.write_text("nothing of the kind, nor elsewhere: schön, 数", encoding)
    assert secret_in("notes.txt", path) is None


@pytest.mark.parametrize("suffix", ["zip", "gz", "bz2", "xz"])
def test_packed_files_are_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    """Also for the token in use, which has no known form. A damaged one isn't uploaded by chance."""
    path = tmp_path / f"a.{suffix}"
    monkeypatch.setenv("HF_TOKEN", "my-odd-token-7")
    for text, says in (
        (TEXTS["notes.md"], "a token or a private key"),
        ("my-odd-token-7", "environment"),
        ("x", "None"),
    ):
        if suffix == "zip":  # one within another
            inner = io.BytesIO()
            with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("deep.txt", text)
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("first.txt", "nothing " * 100)
                archive.writestr("second.zip", inner.getvalue())
        else:
            opener: Any = {"gz": gzip.open, "bz2": bz2.open, "xz": lzma.open}[suffix]
            with opener(path, "wb") as file:
                file.write(text.encode())
        assert says in str(secret_in(path.name, path))
    path.write_bytes(path.read_bytes()[:-9] + b"damaged!!")
    assert secret_in(path.name, path) in (None, "packed, and damaged or packed in a rare way")
    path.write_bytes(path.read_bytes()[:40])
    assert "damaged" in str(secret_in(path.name, path))


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("run/.env", "x", "run/.env in it is named like a secret"),
        ("run/a.txt", "MY_API_KEY=0123456789abcdef", "holds a password or a key"),
        ("run/b.7z", "7z\xbc\xaf\x27\x1c\0", "run/b.7z in it is packed in a way that can't be looked into"),
        ("run/c.txt", "API_KEY", None),
    ],
)
def test_archives_are_looked_into_by_name_and_as_texts(
    tmp_path: Path, suffix: str, name: str, content: str, reason: str | None
) -> None:
    path, data = tmp_path / f"a.{suffix}", content.encode("latin-1")
    if suffix == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr(name, data)
    else:
        with tarfile.open(path, "w:gz" if suffix == "tar.gz" else "w") as archive:
            (member := tarfile.TarInfo(name)).size = len(data)
            archive.addfile(member, io.BytesIO(data))
    assert secret_in(path.name, path) == reason


@pytest.mark.parametrize("start", [b"7z\xbc\xaf\x27\x1c", b"Rar!\x1a\x07\0", b"\x28\xb5\x2f\xfd"])
def test_what_cant_be_looked_into_is_not_uploaded_by_chance(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "frames.data"
    path.write_bytes(start + b"\0" * 99)
    with pytest.raises(ValueError, match=r"can't be looked into\): .* --include frames\.data"):
        refuse_secrets({"frames.data": path})
    refuse_secrets({"frames.data": path}, ["frames.data"])


def test_an_archive_with_a_password_is_not_uploaded_by_chance(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "text")
    content = bytearray(path.read_bytes())
    for start, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):  # its flags, in both places
        content[content.index(start) + at] |= 1
    path.write_bytes(content)
    assert secret_in(path.name, path) == "packed with a password"


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("kind", ["add_text", "add_itxt"])
def test_texts_of_a_picture_are_looked_into(tmp_path: Path, kind: str, compressed: bool) -> None:
    path = tmp_path / "a.png"
    for text, reason in (("LOGIN_TOKEN=0123456789abcdef", "holds a password or a key"), ("a bridge", None)):
        texts = PngInfo()
        getattr(texts, kind)("Comment", text, zip=compressed)
        Image.new("RGB", (40, 30)).save(path, pnginfo=texts)
        assert secret_in(path.name, path) == reason
    path.write_bytes(path.read_bytes()[:-30])
    assert secret_in(path.name, path) is None


def test_a_token_in_a_file_that_is_no_text_is_found(tmp_path: Path) -> None:
    path = tmp_path / "state.bin"
    path.write_bytes(b"\0\1\2 " + TEXTS["notes.md"].encode() + b"\0")
    assert "holds a token" in str(secret_in(path.name, path))
    np.save(path.with_suffix(".npy"), np.array([TEXTS["notes.md"], "x"]))
    assert "holds a token" in str(secret_in("a.npy", path.with_suffix(".npy")))
    np.save(path.with_suffix(".npy"), np.array([b"postgres://bob:s3cr3tPW@db.example.com/x"]))
    assert "holds a password" in str(secret_in("a.npy", path.with_suffix(".npy")))
    path.write_bytes(b"SQLite format 3\0\5namehf_" + b"a1B2" * 9 + b"\0")
    assert "holds a token" in str(secret_in("a.sqlite", path))
    rng = np.random.default_rng(0)
    path.write_bytes(rng.bytes(4_000_000))
    assert secret_in(path.name, path) is None


def test_the_token_in_use_is_found_however_it_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": "my-odd-token-7"}')
    assert secret_in("config.json", path) is None
    monkeypatch.setenv("HF_TOKEN", "my-odd-token-7")
    assert "environment" in str(secret_in("config.json", path))
    for text in (
        "my-odd-token-7".encode("utf-16"),
        b64encode(b"Bearer my-odd-token-7"),
        b"my-odd-token-7"[::-1],
        b"my-odd-token-7".hex().encode(),
    ):
        path.write_bytes(b"x " + text + b" y")
        assert "environment" in str(secret_in("config.json", path))


def test_names_are_looked_at_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("x")
    monkeypatch.setenv("HF_TOKEN", "my-odd-token-7")
    for name in ("my-odd-token-7.txt", "a/hf_" + "a1B2" * 9):
        with pytest.raises(ValueError, match="named with a token or a password") as error:
            refuse_secrets({name: path})
        assert "my-odd" not in str(error.value) and "a1B2" not in str(error.value)
    check_names(["a b/ü\u202f数.png"])
    for name in ("a\nb", "a\x7f", "\udcff.txt"):
        with pytest.raises(ValueError, match=re.escape(repr(name)) + ": a name that isn't UTF-8"):
            check_names([name])


def test_texts_of_examples_are_no_secrets(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text(
        "Authorization: Bearer $HF_TOKEN\nAuthorization: Bearer YOUR_ACCESS_TOKEN_HERE\napi_key: ${API_KEY}\n"
        "password: changeme\nAPI_KEY = get_key_from_the_user()\ntoken = os.environ1.get('X')\nuse PASSWORD=your_password_here or not\n"
        "eos_token: end_of_the_sentence\nself.token = tokenizer.decode(ids2)\nTOKEN = load1(path)\n"
        "bos_token = beginning_of_a_sentence\nmachine learning and login and password\n"
    )
    assert secret_in(path.name, path) is None


def test_a_linked_folder_is_named_as_left_out(space: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.py").write_text("x")
    (space / "sub").mkdir()
    (space / "sub" / "code").symlink_to(tmp_path / "elsewhere")
    contents = space_contents(space)
    assert contents.left_out["sub/code"] == "a link to a folder; expected the folder itself"
    assert not any("code" in file for file in contents.files)


def test_a_space_with_a_key_is_not_pushed(space: Path) -> None:
    (space / "server.pem").write_text("x")
    with pytest.raises(ValueError, match=r"server\.pem \(named like a secret\)"):
        push(space, "tester/space", "space", dry_run=True)


def test_our_own_spaces_and_checkpoints_hold_none(tmp_path: Path) -> None:
    root = Path(__file__).parents[2] / "spaces"
    for folder in root.iterdir():
        if (folder / "README.md").is_file():
            refuse_secrets(space_contents(folder).files)
    refuse_secrets(model_contents("winwin-flow", "tester/winwin-flow", tmp_path, [], picture=False).files)


def test_the_token_in_use_is_found_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "hf_" + "canary0123456789" * 2
    monkeypatch.setenv("HF_TOKEN", token)
    weights, large = tmp_path / "model.safetensors", tmp_path / "large.txt"
    save_file({"x": torch.zeros(3)}, weights)
    assert secret_in(weights.name, weights) is None
    save_file({"x": torch.zeros(3)}, weights, {"note": token})
    large.write_text("x" * 3_000_000 + token)
    (tmp_path / "empty").touch()
    assert secret_in("empty", tmp_path / "empty") is None
    for path in (weights, large):
        with pytest.raises(ValueError, match="holds a token or a password of this machine's environment"):
            refuse_secrets({path.name: path})
