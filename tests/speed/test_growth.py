"""What a synthesis costs as it grows: the engine measured on real files, and the fleet against cases worked out by hand."""

import growth
import numpy as np
import pytest
from datasets import load_dataset

RATE = {"tokens_per_row": 100.0, "tokens_per_second": 1000.0}


def test_the_engine_is_measured_on_a_dataset_that_loads(tmp_path):
    found = growth.measure_engine(1_100, folder=tmp_path / "out", shard_size=500, words=5)
    rows = load_dataset(str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache"))
    assert found["rows"] == found["gathered"] == len(rows) == 1_100
    assert found["faults"] == 0
    assert rows["id"] == [str(i) for i in range(1_100)]
    assert all(found["seconds"][stage] > 0 for stage in growth.STAGES)


def test_growth_is_measured_in_processes_of_their_own():
    said = []
    found = growth.measure_growth([200, 400], say=said.append)
    assert [row["rows"] for row in found["sizes"]] == [200, 400]
    assert len(said) == 2
    last = found["sizes"][-1]
    assert found["per_row"]["seconds"]["write"] == pytest.approx(last["seconds"]["write"] / 400)


def test_without_deaths_a_fleet_takes_its_share_of_the_shards():
    # 10 shards of 100 rows, 10 s each, 3 workers: the last begins its fourth when three each are done
    found = growth.simulate_fleet(rows=1_000, workers=3, shard_size=100, restart_seconds=60.0, **RATE)
    assert found["hours"] == pytest.approx((60 + 40) / 3600)
    assert found["decoding_hours"] == pytest.approx(100 / 3600)
    assert found["worker_hours"] == pytest.approx(3 * 100 / 3600)
    assert found["lost"] == 0.0


def test_what_is_left_over_is_a_smaller_shard():
    found = growth.simulate_fleet(rows=150, workers=1, shard_size=100, restart_seconds=0.0, **RATE)
    assert found["hours"] == pytest.approx(15 / 3600)


def test_lost_decoding_is_what_the_law_of_restarts_says():
    """A task of length t, begun again at each death of rate r, costs (exp(r t) - 1) / r in all (a textbook's result)."""
    rate, shard = 36.0, 100  # deaths per hour: one in 100 s; shards of 10 s, so that r t = 0.1
    found = growth.simulate_fleet(
        rows=400_000, workers=8, shard_size=shard, deaths_per_hour=rate, restart_seconds=0.0, **RATE
    )
    expected = 1 - 0.1 / np.expm1(0.1)
    assert found["lost"] == pytest.approx(expected, rel=0.08)
    assert found["worker_hours"] == pytest.approx(found["decoding_hours"] / (1 - expected), rel=0.02)


def test_smaller_shards_lose_less_and_hopeless_ones_are_refused():
    lost = [
        growth.simulate_fleet(rows=100_000, workers=4, shard_size=size, deaths_per_hour=10.0, **RATE)["lost"]
        for size in (50, 500, 2_000)
    ]
    assert lost == sorted(lost) and lost[0] < lost[-1]
    with pytest.raises(ValueError, match="use smaller shards"):
        growth.simulate_fleet(rows=10**6, workers=4, shard_size=10**6, deaths_per_hour=10.0, **RATE)


def test_checking_shards_takes_a_time_that_grows_with_their_number(tmp_path, monkeypatch):
    """Paths are made once per shard and file, not for all shards each time (which took 78 s of a million rows)."""
    made = []
    name = growth.shards.shard_name
    monkeypatch.setattr(growth.shards, "shard_name", lambda index, n: made.append(index) or name(index, n))
    growth.measure_engine(200, folder=tmp_path / "out", shard_size=1, words=1)
    assert len(made) <= 6 * 200
