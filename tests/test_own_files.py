"""What the package removes and reads is its own, or small: links are not followed, and no file fills memory."""

import os
import signal
import time

import pytest

from winwin_hf.data.formats import files
from winwin_hf.model.weights_winwin import files_of_index
from winwin_hf.own_files import remove_tree, undisturbed


def test_tidying_up_is_not_interrupted():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda number, _: seen.append(number))
    try:
        with undisturbed():
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            assert not seen
        time.sleep(0.01)
        assert seen == [signal.SIGTERM]
        with pytest.raises(KeyboardInterrupt):  # noqa: SIM117
            with undisturbed():
                os.kill(os.getpid(), signal.SIGINT)
                seen.append("tidied")
        assert seen[-1] == "tidied"
    finally:
        signal.signal(signal.SIGTERM, before)


def test_of_a_link_only_the_link_is_removed(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis").write_text("precious")
    for name in ("link", "dangling"):
        (tmp_path / name).symlink_to("mine" if name == "link" else "nowhere")
        remove_tree(tmp_path / name)
    remove_tree(tmp_path / "nothing", ignore_errors=True)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"] and (tmp_path / "mine" / "thesis").exists()


def test_a_text_is_read_to_a_bound(tmp_path):
    path = tmp_path / "config.json"
    with path.open("wb") as file:
        file.truncate(3 * 10**9)
    for read in (files.read_text, files.read_json):
        with pytest.raises(ValueError, match=r"config\.json: 3 GB; expected a text of at most 100 MB"):
            read(path)
    with pytest.raises(ValueError, match=r"config\.json: names nothing"):
        files_of_index(path)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(OSError, match="a pipe; expected a file"):
        files.read_json(path)
