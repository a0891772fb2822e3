"""A dataset's files: damage is named and mended, strangers stay, a full disk and a second process are survived."""

import os
import shutil

import pytest
from synthesis_runs import check_mended, damage, run, whole_run
from tacit.support.errors import TacitError
from tacit.synthesis import shards

KINDS = ["corrupt", "truncated", "deleted", "swapped", "swapped with its record", "no record", "bad record"]


@pytest.fixture(scope="module")
def whole(pair, tmp_path_factory):
    return whole_run(pair, tmp_path_factory)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_shards_are_named_and_made_again(pair, whole, tmp_path, kind):
    out = tmp_path / "out"
    shutil.copytree(whole[0], out)
    before = {p.name: p.stat().st_mtime_ns for p in (out / "data").iterdir()}
    names, lines = damage(out, kind), []
    check_mended(pair, out, whole, say=lines.append)
    assert [text.split()[0] for text in lines if "made again" in text] == sorted(names)
    touched = {p.name for p in (out / "data").iterdir() if p.stat().st_mtime_ns != before[p.name]}
    assert touched == set(names)


def test_leftovers_of_a_killed_run_are_removed_and_strangers_are_not(pair, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole[0], out)
    (out / ".synthesis/abc.tmp").write_text("half a file")
    check_mended(pair, out, whole)
    (out / "data/train-00003-of-00004.parquet").write_text("not ours")
    with pytest.raises(TacitError, match=r"train-00003-of-00004\.parquet is no part of this synthesis"):
        run(pair, out)


def test_foreign_and_unwritable_folders_are_refused(pair, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(TacitError, match="not empty and no synthesis made it here"):
        run(pair, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(TacitError, match="cannot write to"):
        run(pair, tmp_path / "mine/thesis.txt")
    with pytest.raises(TacitError, match="cannot write to"):
        run(pair, tmp_path / "mine/thesis.txt/out")


def test_a_full_disk_is_explained_and_survived(pair, whole, tmp_path, monkeypatch):
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) == 12:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TacitError, match="No space left on device"):
            run(pair, tmp_path / "out")
    check_mended(pair, tmp_path / "out", whole)


def test_a_second_run_is_refused_while_the_first_is_at_work(pair, whole, tmp_path):
    out = tmp_path / "out"
    with shards.hold(out), pytest.raises(TacitError, match="another process is at work in"):
        run(pair, out)
    check_mended(pair, out, whole)
