"""The cache: hits, misses, damage, races."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tacit.experiments import cache
from tacit.experiments.cache import cached_folder, cached_json, cached_model
from tacit.support import provenance


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "a cache"))


class Maker:
    def __init__(self, value="made"):
        self.calls, self.value = 0, value

    def __call__(self):
        self.calls += 1
        return self.value


def entries(tmp_path):
    return sorted((tmp_path / "a cache" / "entries").iterdir())


def test_equal_keys_hit_and_other_keys_miss(tmp_path):
    make = Maker()
    assert cached_json({"a": 1}, make) == cached_json({"a": 1}, make) == "made"
    assert make.calls == 1
    cached_json({"a": 2}, make)
    assert make.calls == 2
    assert len(entries(tmp_path)) == 2


@pytest.mark.parametrize("part", ["method_hash", "packages", "device_name"])
def test_other_code_packages_or_device_miss(monkeypatch, part):
    make = Maker()
    cached_json({"a": 1}, make)
    monkeypatch.setattr(provenance, part, lambda: "another")
    cached_json({"a": 1}, make)
    assert make.calls == 2


@pytest.mark.parametrize("damage", ["content", "key", "absent"])
def test_a_damaged_entry_is_made_anew(tmp_path, damage):
    make = Maker()
    cached_json({"a": 1}, make)
    (entry,) = entries(tmp_path)
    if damage == "content":
        (entry / "content" / "value.json").write_text('"forged"')
    elif damage == "key":
        (entry / "entry.json").write_text(json.dumps({"key": {"a": 3}, "content": "x"}))
    else:
        (entry / "entry.json").unlink()
    assert cached_json({"a": 1}, make) == "made"
    assert make.calls == 2
    assert cached_json({"a": 1}, make) == "made"
    assert make.calls == 2


def test_a_failure_leaves_nothing(tmp_path):
    def fail(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        cached_folder({"a": 1}, fail)
    assert entries(tmp_path) == []


def test_of_two_that_want_one_entry_one_makes_it_and_the_other_waits(tmp_path):
    begun, make = threading.Event(), Maker("made")

    def slow():
        begun.set()
        time.sleep(0.3)
        return make()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cached_json, {"a": 1}, slow)
        begun.wait()
        second = pool.submit(cached_json, {"a": 1}, slow)
        assert first.result() == second.result() == "made"
    assert make.calls == 1
    assert len(entries(tmp_path)) == 1


def test_models_come_back_with_their_weights_and_record(tiny):
    make = Maker((tiny, [{"epoch": 1}]))
    first, _ = cached_model({"m": 1}, make)
    again, record = cached_model({"m": 1}, make)
    assert make.calls == 1
    assert first is tiny
    assert record == [{"epoch": 1}]
    assert not again.training
    for a, b in zip(tiny.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert cache.full_key({})["library"] == provenance.method_hash()
