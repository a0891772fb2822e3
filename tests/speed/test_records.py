"""Timing in turns, the records and the tables that are made from them."""

import pytest
import records
import tables
import timing
import torch
from tacit.support.errors import TacitError
from timing import Arm, Run, run_rounds

CPU = torch.device("cpu")


def scripted(name, seconds, *, clock, order=None, fails=()):
    """An arm whose runs take ``seconds`` of a made clock and make 10 tokens; those in ``fails`` run out of memory."""
    attempts = []

    def work(repeat):
        clock[0] += seconds
        attempts.append(repeat)
        if order is not None:
            order.append((repeat, name))
        if len(attempts) - 1 in fails:
            raise torch.OutOfMemoryError
        return Run(10, decoded=8, decoding=seconds / 2, setup=seconds / 5)

    return Arm(name, work, name=name)


@pytest.fixture
def clock(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: seconds[0])
    return seconds


def quiet(line):
    pass


def test_arms_take_turns_and_every_other_round_goes_back(clock):
    order = []
    fast, slow = (scripted(name, s, clock=clock, order=order) for name, s in (("fast", 2.0), ("slow", 20.0)))
    run_rounds([[fast, slow]], device=CPU, repeats=2, say=quiet)
    assert order == [(0, "fast"), (0, "slow"), (1, "slow"), (1, "fast")]
    assert records.ratios(fast.rates, slow.rates) == {"ratio": 10.0, "ratio_min": 10.0, "ratio_max": 10.0}


def test_repeats_shrink_to_the_budget_and_the_record_says_so(clock):
    first = [scripted("A2", 10.0, clock=clock), scripted("A1", 20.0, clock=clock)]
    second = [scripted("A5", 40.0, clock=clock)]
    options = {"device": CPU, "until": 135.0, "say": quiet}
    run_rounds([first, second], repeats=1, **options)
    assert clock == [70.0]
    run_rounds([first, second], repeats=5, **options)
    assert [len(arm.runs) for arm in (*first, *second)] == [3, 3, 1]
    record = first[0].to_record()
    assert (record["repeats"], record["rate"], record["decode_rate"], record["setup_seconds"]) == (
        3,
        10 / 8,
        8 / 5,
        2.0,
    )


def test_an_arm_without_memory_is_recorded_and_not_tried_again_but_later_it_keeps_its_runs(clock):
    never, later = scripted("A1", 1.0, clock=clock, fails=(0,)), scripted("A2", 1.0, clock=clock, fails=(1,))
    run_rounds([[never, later]], device=CPU, repeats=3, say=quiet)
    assert never.to_record() == {"name": "A1", "repeats": 0, "failed": "out of memory"}
    assert later.to_record()["repeats"] == 2 and not later.failed


def test_targets_are_met_at_the_bound():
    assert [records.judge(value, 2.0)["met"] for value in (1.9, 2.0, 2.1)] == [False, True, True]
    assert [records.judge(value, 2.0, "at most")["met"] for value in (1.9, 2.0, 2.1)] == [True, True, False]


def hand_made(**changes):
    arms = [{"name": name, "measured": "all", "rate": 10.0} for name in ("batched", "one at a time")]
    result = {"name": "rules", "what": "three rules", "gate": "equal", "arms": arms, "ratio": 61.5}
    result |= {"ratio_min": 58.25, "ratio_max": 70.0, "target": 50.0, "bound": "at least", "met": True}
    return records.heading(quick=False) | {"device": "a cpu", "benches": [result | changes]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"met": False}, "`met` does not say"),
        ({"bound": "at most"}, "`met` does not say"),
        ({"ratio": 5.0}, "outside its range"),
        ({"ratio": -1.0, "ratio_min": -2.0}, "outside its range"),
    ],
)
def test_a_record_that_contradicts_itself_is_neither_written_nor_read(tmp_path, changes, message):
    with pytest.raises(TacitError, match=message):
        records.write(tmp_path / "cpu.json", hand_made(**changes))
    assert not list(tmp_path.iterdir())
    (tmp_path / "cpu.json").write_text("{}")
    with pytest.raises(TacitError, match="no record of a benchmark"):
        records.read(tmp_path / "cpu.json")


def test_the_tables_are_written_between_the_markers(tmp_path, capsys):
    assert tables.main(["--folder", str(tmp_path)]) == 2
    records.write(tmp_path / "cpu.json", hand_made())
    page = tmp_path / "page.md"
    empty = "".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in ("gpu", "peer"))
    page.write_text(f"before\n<!-- bench -->\nold\n<!-- /bench -->\n{empty}after\n")
    assert tables.main(["--folder", str(tmp_path), "--write", str(page)]) == 0
    text = page.read_text()
    assert "| a cpu | rules: three rules | batched: 61.5 [58.2, 70] | one at a time | 50, met |" in text
    assert text.startswith("before") and text.endswith("after\n") and "old" not in text
    records.write(tmp_path / "cpu.json", hand_made(target=60.0, bound="at most", met=False) | {"quick": True})
    assert tables.main(["--folder", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "| at most 60, missed |" in printed and "quick: no measurement" in printed


def test_a_peers_record_is_a_table_of_its_own(tmp_path):
    arm = {"name": "ours, float32, one at a time", "threads": 2, "equal_texts": 1.0}
    arm |= records.spread("rate", [14.0, 15.0, 17.0]) | records.spread("peak_gb", [1.2, 1.1, 1.3])
    about = {"model": "m", "prompts": 16, "tokens": 40, "repeats": 3, "llama-cpp-python": "0.3"}
    records.write(tmp_path / "peer-cpu.json", records.heading(**about) | {"arms": [arm]})
    records.write(tmp_path / "cpu.json", hand_made())
    made = tables.make_tables(tmp_path)
    assert "| ours, float32, one at a time | 2 | 15 [14, 17] | 1.2 | 100% |" in made["peer"]
    assert "llama-cpp-python 0.3, compiled for this processor. Runs: 3, in turns." in made["peer"]
    assert "one at a time" not in made["gpu"] and "m on" not in made["bench"]
