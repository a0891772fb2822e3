"""What a synthesis costs as it grows: the engine measured on real files."""

import json

import growth
from datasets import load_dataset
from tacit.support import paths


def test_the_engine_is_measured_on_a_dataset_that_loads(tmp_path):
    record = growth.measure_engine(1_100, folder=tmp_path / "out", shard_size=500, words=5)
    rows = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert record["rows"] == record["gathered"] == len(rows) == 1_100
    assert record["faults"] == 0
    assert rows["id"] == [str(i) for i in range(1_100)]
    assert all(record["seconds"][stage] > 0 for stage in growth.STAGES)


def test_growth_is_measured_in_processes_of_their_own():
    lines = []
    record = growth.measure_growth([200, 400], say=lines.append)
    assert [row["rows"] for row in record["sizes"]] == [200, 400]
    assert len(lines) == 2 and len(growth.growth_table(record).splitlines()) == 4


def test_the_page_shows_the_committed_measurement():
    record = json.loads((paths.OUTPUTS / "scaling" / "engine.json").read_text("utf-8"))
    assert growth.growth_table(record["growth"]) in (paths.ROOT / "docs" / "many_machines.md").read_text("utf-8")


def test_checking_shards_takes_a_time_that_grows_with_their_number(tmp_path, monkeypatch):
    """Paths are made once per shard and file, not for all shards each time (which took 78 s of a million rows)."""
    names = []
    name = growth.shards.shard_name
    monkeypatch.setattr(growth.shards, "shard_name", lambda index, n: names.append(index) or name(index, n))
    growth.measure_engine(200, folder=tmp_path / "out", shard_size=1, words=1)
    assert len(names) <= 6 * 200
