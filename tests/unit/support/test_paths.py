"""One rule for relative paths: from where the command was given, then from the repository; and files read."""

import pytest
from tacit.data.sources import load_instructions
from tacit.models.loading import locate
from tacit.running.staging import stage
from tacit.support import files, paths
from tacit.support.errors import TacitError


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """The command is given in one folder; the repository is another."""
    here, root = tmp_path / "here", tmp_path / "root"
    for folder in (here, root):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(paths, "ROOT", root)
    monkeypatch.setattr(paths, "OUTPUTS", root / "outputs")
    return here, root


def make_checkpoint(folder):
    folder.mkdir()
    (folder / "config.json").write_text("{}")


def test_what_is_read_is_looked_for_here_first_and_then_in_the_repository(elsewhere):
    here, root = elsewhere
    make_checkpoint(root / "mine")
    for name in ("mine", "./mine"):
        assert locate(name) == str(root / name)
    make_checkpoint(here / "mine")
    for name in ("mine", "./mine"):
        assert locate(name) == str(here / name)
    assert locate("owner/name") == "owner/name"
    with pytest.raises(TacitError, match=r"no GGUF file in .*here/nothing and .*root/nothing"):
        locate("./nothing")


def test_a_source_with_and_without_its_name_is_the_same_file(elsewhere):
    here, root = elsewhere
    (here / "ask.jsonl").write_text('{"instruction": "here"}')
    (root / "ask.jsonl").write_text('{"instruction": "in the repository"}')
    for text in ("ask.jsonl", "jsonl:ask.jsonl", "jsonl:./ask.jsonl"):
        assert load_instructions(text)["instruction"][:] == ["here"]
    (here / "ask.jsonl").unlink()
    assert load_instructions("jsonl:ask.jsonl")["instruction"][:] == ["in the repository"]
    with pytest.raises(TacitError, match=r"looked for as .*here/alpaca.json and .*root/alpaca.json"):
        load_instructions("alpaca:alpaca.json")


def test_a_kernel_counts_paths_from_where_the_run_was_started(elsewhere, monkeypatch):
    """The cache as well: its variable may be relative, and a kernel's own folder is that of the notebook."""
    here, root = elsewhere
    monkeypatch.setenv("TACIT_CACHE", "kept")
    make_checkpoint(here / "mine")
    (root / "notebooks").mkdir()
    assert paths.cache_root() == here / "kept"
    with stage("smoke"):
        monkeypatch.chdir(root / "notebooks")
        assert locate("mine") == str(here / "mine")
        assert paths.cache_root() == here / "kept"
    monkeypatch.setenv("TACIT_CACHE", str(root / "kept"))
    assert paths.cache_root() == root / "kept"


def test_texts_are_read_without_a_byte_order_mark(tmp_path):
    (tmp_path / "t").write_bytes("\ufeffÄ".encode())
    assert files.read_text(tmp_path / "t") == "Ä"
    (tmp_path / "t").write_bytes(b"\xff\xfeA\x00")
    with pytest.raises(TacitError, match=r"cannot read the template .*t: "):
        files.read_text(tmp_path / "t", what="the template")


def test_room_is_looked_for_in_the_nearest_folder_that_is_there(tmp_path):
    files.check_room(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    with pytest.raises(TacitError, match=r"GB free, and 1000000\.0 GB are needed"):
        files.check_room(tmp_path / "a", n_bytes=10**15)
