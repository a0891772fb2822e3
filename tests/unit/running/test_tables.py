"""The table of findings: its columns for each kind of record, another profile's results beside, and the fallback."""

import json
import re

import mistune
import pytest
from tacit.running import tables
from tacit.running.metrics import write_metrics
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import Demand, conclude
from tacit.support import paths


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    for name in ("PARAMS", "OUTPUTS"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    return tmp_path


def demand(low, high, arm="a", **asked):
    return Demand(arm, "m", Estimate((low + high) / 2, low, high, 3, 20), **asked)


def make_record(*rule, controls=(), found="It *is* so.", paper=(), **changes):
    return {
        "finding": "F", "claim": "C", **conclude(rule, controls), "paper": list(paper), "figures": [],
        "answer": {"found": found, "reason": "R", "caveat": "V"},
        "results": [d.as_result() for d in (*rule, *controls)],
    } | changes  # fmt: skip


def write(profile, record, stem="01_x"):
    (paths.OUTPUTS / profile).mkdir(parents=True, exist_ok=True)
    write_metrics(paths.OUTPUTS / profile / f"{stem}.json", record)


def old(value=0.5, *, holds=True):
    row = {"arm": "a", "metric": "m", "value": value, "low": value - 0.1, "high": value + 0.1}
    return {
        "finding": "F", "claim": "A *claim*", "claim_holds": holds, "headline": {"arm": "a", "metric": "m"},
        "results": [row | {"n_seeds": 1, "n_prompts": 2}], "paper": [], "figures": [],
    }  # fmt: skip


def read_cells(*arguments, **options):
    """The table as a Markdown parser shows it: HTML of each cell, the head first."""
    shown = mistune.create_markdown(plugins=["table"])(tables.findings_table(*arguments, **options))
    rows = re.findall(r"<tr>(.*?)</tr>", shown, re.DOTALL)
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.DOTALL) for row in rows]


HEAD = ["finding", "verdict", "what was found", "the number that decides, 95% interval", "paper"]


def test_a_row_has_verdict_what_was_found_and_the_number_that_decides():
    paper = [{"arm": "b", "metric": "m", "value": 0.25, "source": "S"}]
    write("toy", make_record(demand(0.2, 0.4), demand(-0.2, 0.4, "b"), paper=paper, found="It *is*\na|`b`."))
    assert read_cells(["01_x", "02_y"], profile="toy", failed=["01_x"]) == [
        HEAD,
        [
            "F",
            "undecided (an earlier result: this run failed)",
            "It <em>is</em> a|<code>b</code>.",
            "m, b: 0.100 [-0.200, 0.400]; asked: above 0",
            "0.250",
        ],
        ["02_y", "no result yet", "", "", ""],
    ]


def test_a_row_of_a_record_without_a_rule_has_its_claim():
    write("toy", old(holds=False))
    assert read_cells(["01_x"], profile="toy")[1:] == [["F", "no", "A *claim*", "m, a: 0.500 [0.400, 0.600]", ""]]


def test_another_profile_stands_beside_and_agrees_or_not():
    cases = {
        "01_yes": (make_record(demand(0.2, 0.4)), make_record(demand(0.6, 0.8)), "yes"),
        "02_within": (make_record(demand(-0.1, 0.4)), make_record(demand(0.1, 0.3)), "within intervals"),
        "03_no": (make_record(demand(-0.3, 0.05)), make_record(demand(0.1, 0.3)), "no"),
        "04_other": (make_record(demand(-0.1, 0.4)), make_record(demand(0.1, 0.3, "b")), "no"),
        "05_old": (old(0.5), old(0.6, holds=False), "within intervals"),
    }
    for stem, (ours, theirs, _) in cases.items():
        write("micro", ours, stem)
        write("full", theirs, stem)
    write("micro", old(), "06_alone")
    write("micro", old(), "07_broken")
    (paths.OUTPUTS / "full/07_broken.json").write_text(json.dumps({"finding": "F"}))
    head, *rows = read_cells([*cases, "06_alone", "07_broken", "08_none"], profile="micro", beside="full")
    assert head == [*HEAD, "full says", "agree"]
    assert [row[-1] for row in rows] == [*(agree for *_, agree in cases.values()), "", "", ""]
    assert rows[1][-2] == "holds: m, a: 0.200 [0.100, 0.300]; asked: above 0"
    assert rows[5][-2] == "" and rows[7] == ["08_none", "no result yet", *[""] * 5]
    assert rows[6][-2].startswith("unreadable: ") and rows[6][1] == "yes"  # ours is still shown


def test_opposite_verdicts_do_not_agree_whatever_the_deciding_number_does():
    ours = make_record(demand(0.1, 0.3), demand(-0.3, -0.1, "b"))  # b refutes
    theirs = make_record(demand(0.2, 0.4), demand(0.5, 0.9, "b"))
    assert (ours["verdict"], theirs["verdict"], theirs["headline"]["arm"]) == ("refuted", "holds", "a")
    assert tables.compare_verdicts(ours, theirs) == "no"


def test_full_shows_micros_result_where_it_has_no_parameters():
    write("micro", old(0.3), "01_x")
    write("micro", old(0.3), "02_y")
    write("micro", old(0.3), "03_z")
    write("full", old(0.7), "02_y")
    write("full", old(0.7), "01_x")  # without parameters: of an earlier time
    (paths.PARAMS / "full").mkdir(parents=True)
    for stem in ("02_y", "03_z"):
        (paths.PARAMS / f"full/{stem}.yaml").write_text("n: 1")
    rows = read_cells(["01_x", "02_y", "03_z"], profile="full")[1:]
    assert [(row[1], row[3][:11]) for row in rows] == [
        ("yes (micro)", "m, a: 0.300"), ("yes", "m, a: 0.700"), ("no result yet", ""),
    ]  # fmt: skip
    assert [row[1] for row in read_cells(["01_x"], profile="micro")[1:]] == ["yes"]


def test_unreadable_metrics_are_said_in_their_row():
    (paths.OUTPUTS / "toy").mkdir(parents=True)
    (paths.OUTPUTS / "toy/01_x.json").write_text('{"a|*b*": 1}')
    [row] = read_cells(["01_x"], profile="toy")[1:]
    assert row[0] == "01_x" and row[1].startswith("unreadable: ") and "01_x.json is not a metrics file" in row[1]
    assert row[2:] == ["", "", ""]
