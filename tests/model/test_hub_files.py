"""A file that the Hub doesn't deliver isn't taken for one that isn't there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError
from support.minihub import Hub, Repo

from winwin_hf.model.encoders_winwin import processor_settings
from winwin_hf.model.hub_files_winwin import check_hub_index, optional_file, processor_files, refuse_adapter

NAME = "me/vit"
PROCESSOR = "preprocessor_config.json"
FAULTS = (500, 503, 429, 403, "silent", "bare")


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    hub = Hub()
    files = {PROCESSOR: json.dumps({"image_mean": [0.4, 0.4, 0.4]}).encode(), "sub/x.json": b"{}"}
    hub.repos["model", NAME] = Repo()
    hub.repos["model", NAME].commit("main", "files", files)
    yield hub
    hub.close()


@pytest.fixture
def options(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # before it tries again
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield {"endpoint": hub.url, "cache_dir": tmp_path}
    hub.faults.clear()


def test_a_file_that_is_there_and_one_that_is_not(options, tmp_path):
    found = optional_file(NAME, PROCESSOR, **options, revision=None)
    assert found is not None and json.loads(found.read_text()) == {"image_mean": [0.4, 0.4, 0.4]}
    assert optional_file(NAME, "x.json", **options) is None
    assert optional_file(NAME, "x.json", **options, subfolder="sub") is not None
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "x.json").write_text("{}")
    assert optional_file(folder, "x.json") is None
    assert optional_file(folder, "x.json", subfolder="sub") == folder / "sub" / "x.json"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_does_not_come_is_an_error(hub, options, fault):
    hub.faults = {PROCESSOR: fault, "adapter_config.json": fault, "model.safetensors.index.json": fault}
    for name in hub.faults:  # they are there: what isn't, is answered before
        hub.repo(NAME).files.setdefault(name, b"{}")
    for call in (processor_files, check_hub_index, refuse_adapter):
        with pytest.raises(OSError, match=rf"^{NAME}: \w+[\w.]+\.json could not be downloaded \(.+\)$"):
            call(NAME, **options)
    with pytest.raises(OSError, match=rf"^{NAME}: {PROCESSOR} could not be downloaded"):
        processor_settings(NAME, options)


def test_what_came_before_serves_while_the_hub_fails(hub, options):
    before = processor_settings(NAME, options)
    assert before == {"image_mean": [0.4, 0.4, 0.4]}
    assert optional_file(NAME, "x.json", **options) is None
    hub.faults = {PROCESSOR: 500, "processor_config.json": "silent", "x.json": 500}
    assert processor_settings(NAME, options) == before
    assert optional_file(NAME, "x.json", **options) is None


def test_a_mirror_says_404_alone(hub, options):
    hub.faults = {"x.json": 404}
    assert optional_file(NAME, "x.json", **options) is None


def test_offline_a_processor_is_there_or_known_not_to_be(hub, options):
    offline = {**options, "local_files_only": True}
    assert optional_file(NAME, "adapter_config.json", **offline) is None
    with pytest.raises(OSError, match=rf"^{NAME}: {PROCESSOR} isn't in the cache, and the Hub isn't asked offline"):
        processor_files(NAME, **offline)
    assert processor_files(NAME, **options)
    assert [file.name for file in processor_files(NAME, **offline)] == [PROCESSOR]
    hub.repos["model", "me/bare"] = Repo()
    hub.repos["model", "me/bare"].commit("main", "files", {"config.json": b"{}"})
    assert processor_files("me/bare", **options) == processor_files("me/bare", **offline) == []


def test_no_repository_and_no_revision_are_said(options):
    with pytest.raises(RepositoryNotFoundError):
        optional_file("me/none", PROCESSOR, **options)
    with pytest.raises(RevisionNotFoundError):
        optional_file(NAME, PROCESSOR, **options, revision="none")
    with pytest.raises(HFValidationError):
        optional_file("no/such/folder", PROCESSOR, **options)
