"""Which edits of the library change the keys of the cache, and where a commit's hashes come from."""

import shutil
import subprocess

import pytest
import torch
from tacit.experiments import cache
from tacit.support import paths, provenance
from tacit.support.provenance import METHOD_ROOMS, source_hash, tree_hash
from tacit.training.finetuning import training_arguments


@pytest.fixture
def library(tmp_path):
    """A copy of the library's source, to be edited."""
    return shutil.copytree(paths.LIBRARY, tmp_path / "tacit", ignore=shutil.ignore_patterns("__pycache__"))


def edit(path):
    path.write_text(path.read_text(encoding="utf-8") + "# an edit\n", encoding="utf-8")


@pytest.fixture
def ask(library, tmp_path, monkeypatch):
    """Ask the cache for a value as a process does that imports the library as it stands in the copy: was it a miss?"""
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))

    def ask():
        calls = []
        monkeypatch.setattr(provenance, "_METHOD_HASH", source_hash(library, METHOD_ROOMS))
        cache.cached_json({"what": "a trained model"}, lambda: calls.append("made"))
        return bool(calls)

    return ask


def test_an_edit_of_the_running_or_of_the_command_line_keeps_the_cache(library, ask):
    before, whole = source_hash(library, METHOD_ROOMS), tree_hash(library, "*.py")
    assert ask() and not ask()
    for path in [*(library / "running").glob("*.py"), library / "__main__.py", library / "__init__.py"]:
        edit(path)
    (library / "running" / "new.py").write_text("x = 1\n")
    assert source_hash(library, METHOD_ROOMS) == before and tree_hash(library, "*.py") != whole
    assert not ask()


@pytest.mark.parametrize("room", METHOD_ROOMS)
def test_an_edit_of_any_room_that_can_change_a_result_misses(library, ask, room):
    assert ask()
    edit(sorted((library / room).glob("*.py"))[-1])
    assert ask() and not ask()
    (library / room / "new.py").write_text("x = 1\n")
    assert ask()


def test_the_hashes_are_those_of_the_source_that_was_imported():
    assert provenance.method_hash() == provenance._METHOD_HASH != provenance.library_hash()
    assert {path.parent.name for path in paths.LIBRARY.glob("*/__init__.py")} == {*METHOD_ROOMS, "running"}


def test_a_commits_library_has_the_hash_of_its_checkout(tmp_path, monkeypatch):
    """In a repository of its own, edited after the commit."""
    library = tmp_path / "lib" / "tacit"
    (library / "room").mkdir(parents=True)
    for name in ("a.py", "room/b.py", "room-2.py", "notes.md"):
        (library / name).write_text(f"{name}: größer\n", encoding="utf-8")
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *command], cwd=tmp_path, check=True)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    monkeypatch.setattr(paths, "LIBRARY", library)
    committed, commit = tree_hash(library, "*.py"), provenance.commit()
    edit(library / "a.py")
    assert provenance.library_hash_at(commit) == committed != tree_hash(library, "*.py")
    assert provenance.library_hash_at("HEAD") == committed
    assert provenance.library_hash_at("0" * 40) is None
    assert provenance.known_commit(commit) and not provenance.known_commit("0" * 40)
    assert provenance.dirty()


@pytest.mark.parametrize(
    ("machine", "capability", "fast"),
    [("x86_64", "AVX512", True), ("x86_64", "AVX2", False), ("AMD64", "NO AVX", False), ("arm64", "DEFAULT", True)],
)
def test_a_processor_without_fast_bf16_trains_in_float32_and_says_so(machine, capability, fast, tmp_path, monkeypatch):
    monkeypatch.setattr(provenance.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    threads = torch.get_num_threads()
    assert provenance.device_name() == f"cpu ({machine}, {threads} threads{'' if fast else ', no bf16'})"
    assert training_arguments(str(tmp_path), cpu=True).bf16 is fast
    assert training_arguments(str(tmp_path), cpu=True, bf16=False).bf16 is False
