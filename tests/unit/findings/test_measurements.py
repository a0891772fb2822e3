"""Readiness: what is fitted and chosen, and records of measurements as arrays and tables, on records made by hand."""

import json
import math
import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy import stats
from tacit.__main__ import main
from tacit.experiments import evaluation
from tacit.findings import readiness
from tacit.findings.readiness import ARMS, TUNED
from tacit.scoring.scores import difference_of_groups
from tacit.support import paths
from tacit.support.errors import TacitError
from tacit.training import pretraining

RULES = {"uniform_tokens": {"\n": 9.0}, "end_weight": 40.0, "end_horizon": 10, "diversity_weight": -4.0}
CURVE = [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0, "eval_loss": 2.5}, {"step": 40, "eval_loss": 2.25}]


def record_of(base="a", *, knows="1100", verdicts=None, n_seeds=3, **pretraining):
    """A record of four prompts, in which arms that ``verdicts`` does not name are wrong everywhere."""
    kinds = {arm: {kind: ["0000"] * (n_seeds if arm in TUNED else 1) for kind in ("strict", "lenient")} for arm in ARMS}
    kinds["base, seen format"]["lenient"] = [knows]
    for (arm, kind), texts in (verdicts or {}).items():
        kinds[arm][kind] = texts
    made = {"seed": 1, "markup_share": 0.3, "one_markup": None} | pretraining
    return {"base": base, "pretraining": made, "prompts": list("wxyz"), "knows": knows, "verdicts": kinds}


def test_settings_are_chosen_among_a_notebooks_parameters():
    values = {name: number for number, name in enumerate(readiness.SETTINGS)} | {"bases": {}, "output": "x"}
    assert readiness.choose_settings(values) == {name: values[name] for name in readiness.SETTINGS}
    del values["end_constants"]
    with pytest.raises(TacitError, match="no end_constants"):
        readiness.choose_settings(values)


def test_rules_are_fitted_on_validation_prompts_the_first_of_equals():
    prompts = {"instruction": ["a", "b"], "id": ["1", "2"]}
    bench = SimpleNamespace(validation=prompts, score=lambda _, responses: pd.DataFrame({"strict": responses}))
    given, right = [], {(5.0, 4.5): 0.5, (5.0, 9.0): 0.75, (15.0, 9.0): 0.75}

    def respond(*, instructions, ids, rules):
        given.append((instructions, ids))
        return [right.get((rules["end_weight"], rules["uniform_tokens"]["\n"]), 0.25)] * 2

    choices = readiness.vary_rules(RULES, end_weights=[1.0, 5.0, 15.0], uniform_scales=[0.5, 1.0])
    fitted = readiness.fit_rules(respond, choices, bench=bench)
    assert fitted == RULES | {"end_weight": 5.0, "uniform_tokens": {"\n": 9.0}}
    assert given == [(["a", "b"], ["1", "2"])] * 6
    assert readiness.fit_rules(respond, choices[:1], bench=bench) == choices[0]
    assert len(given) == 6  # a single choice needs no run


def test_epochs_are_one_number_a_choice_or_by_arm():
    by_arm = dict.fromkeys(TUNED, 3) | {"narrow": [1, 2]}
    assert readiness.epoch_choices(4, "narrow") == [4]
    assert readiness.epoch_choices([4, 2], "narrow") == [4, 2]
    assert readiness.epoch_choices(by_arm, "narrow") == [1, 2]
    assert readiness.epoch_choices(by_arm, "end alone") == [3]
    for wrong in ({"narrow": 1}, by_arm | {"base": 1}):
        with pytest.raises(TacitError, match="epochs by arm"):
            readiness.epoch_choices(wrong, "narrow")


def test_a_verdict_matrix_by_hand():
    record = {"verdicts": {"narrow": {"strict": ["0110", "1000"], "lenient": ["1111", "1010"]}}}
    assert readiness.verdict_matrix(record, "narrow").tolist() == [[0, 1, 1, 0], [1, 0, 0, 0]]
    assert readiness.verdict_matrix(record, "narrow", "lenient").mean() == 0.75
    assert np.issubdtype(readiness.verdict_matrix(record, "narrow").dtype, np.integer)


def test_verdicts_are_stacked_and_what_the_base_does_not_know_is_not_counted():
    one = record_of(verdicts={("narrow", "strict"): ["1010", "1000", "0001"]})
    two = record_of("b", knows="0111", verdicts={("narrow", "strict"): ["1111", "0000", "0110"]})
    stacked = readiness.stack_verdicts([one, two], "narrow")
    assert stacked.shape == (2, 3, 4)
    assert stacked[1].tolist() == [[1, 1, 1, 1], [0, 0, 0, 0], [0, 1, 1, 0]]
    known = readiness.stack_verdicts([one, two], "narrow", "strict", known=True)
    expected = [[[1, 0, None, None], [1, 0, None, None], [0, 0, None, None]]]
    expected += [[[None, 1, 1, 1], [None, 0, 0, 0], [None, 1, 1, 0]]]
    assert np.array_equal(known, np.array(expected, dtype=float), equal_nan=True)
    assert readiness.stack_verdicts([one, two], "base, seen format", "lenient", known=True).shape == (2, 1, 4)
    for other in (record_of(n_seeds=2), record_of() | {"prompts": list("wxyv")}):
        with pytest.raises(ValueError, match="same prompts and as many seeds"):
            readiness.stack_verdicts([one, other], "narrow")
    with pytest.raises(ValueError, match="to stack"):
        readiness.stack_verdicts([], "narrow")


def test_a_mean_has_students_interval_over_the_runs():
    means = np.array([0.2, 0.5, 0.4, 0.9])
    result = readiness.estimate_mean(means[:, None, None] * np.ones((4, 2, 5)))
    expected = stats.ttest_1samp(means, 0.0).confidence_interval(0.95)
    assert (result.value, result.low, result.high) == pytest.approx((0.5, expected.low, min(1, expected.high)))
    assert (result.n_seeds, result.n_prompts) == (4, 5)
    counted = np.array([[[1.0, math.nan, math.nan]], [[0.0, 1.0, math.nan]]])
    assert readiness.estimate_mean(counted).value == 0.75
    assert readiness.estimate_mean(counted).n_prompts == 2


def test_a_gain_is_paired_by_base_model():
    """Base models that differ much, each of which gains one prompt in four: the gain is certain, unlike the levels."""
    texts = [("0000", "1000"), ("0110", "0111"), ("0011", "1011"), ("0001", "0101")]
    records = [
        record_of(str(i), verdicts={("base", "lenient"): [before], ("narrow", "lenient"): [after] * 3})
        for i, (before, after) in enumerate(texts)
    ]
    gain = readiness.estimate_gain(records, "narrow", "base", "lenient")
    assert gain.value == 0.25
    pair = [readiness.stack_verdicts(records, arm, "lenient") for arm in ("narrow", "base")]
    apart = difference_of_groups(*pair)
    assert apart.value == gain.value
    assert gain.high - gain.low < apart.high - apart.low
    known = readiness.estimate_gain(records, "narrow", "base", "lenient", known=True)
    assert known.value == pytest.approx((1 / 2 + 0 + 1 / 2 + 1 / 2) / 4)  # of the two that each knows
    two = readiness.estimate_gain([record_of(verdicts={("base", "strict"): ["1111"]}), records[0]], "narrow", "base")
    assert (two.value, two.low, two.high) == (-0.5, -1.0, 1.0)  # Student's t of two runs would go further


def test_corpora_are_named_and_records_grouped_by_them():
    none, fresh = record_of(markup_share=0.0), record_of("b")
    one, unknown = record_of("c", one_markup=4), record_of("d", markup_share=None)
    assert [readiness.name_corpus(r) for r in (none, fresh, one, unknown)] == [
        "no markup",
        "30% fresh markup",
        "30% in one markup",
        "",
    ]
    more = none | {"base": "e"}
    assert readiness.group_by_corpus([fresh, none, more]) == {"30% fresh markup": [fresh], "no markup": [none, more]}


def test_levels_are_described_and_shown_by_corpus_arm_and_score():
    right = {("narrow", "strict"): ["1010", "1000", "1001"]}
    groups = {"some": [record_of(verdicts=right), record_of("b", verdicts=right)], "few": [record_of("c")]}
    levels = readiness.describe_levels(groups)
    assert len(levels) == 2 * len(ARMS) * 2
    of = levels.set_index(["corpus", "arm", "metric"])
    narrow = of.loc["some", "narrow", "strict"]
    assert narrow["value"] == pytest.approx(5 / 12)
    assert 0 <= narrow["low"] < narrow["value"] < narrow["high"] <= 1
    assert (narrow["n_seeds"], narrow["n_prompts"]) == (2, 4)
    assert of.loc["few", "base, seen format", "lenient"]["value"] == 0.5
    known = readiness.describe_levels(groups, known=True).set_index(["corpus", "arm", "metric"])
    assert known.loc["some", "narrow", "strict"]["value"] == pytest.approx(3 / 6)
    assert known.loc["few", "base, seen format", "lenient"]["value"] == 1.0
    shown = readiness.show_levels(levels)
    assert list(shown.columns) == ["some", "few"]
    assert list(shown.index[:2]) == [("base", "strict"), ("base", "lenient")]
    assert shown.loc[("narrow", "strict"), "some"] == f"0.417 [{narrow['low']:.3f}, {narrow['high']:.3f}]"


def test_bases_are_tabulated():
    first = record_of(
        seed=4, held_out_loss=0.5, seconds=90.0, verdicts={("end alone", "lenient"): ["1000", "1100", "1111"]}
    )
    table = readiness.tabulate_bases([first, record_of("b", knows="0000", seconds=None)])
    assert list(table.columns) == ["corpus", "seed", "held-out loss", "minutes", "knows", "device", *ARMS]
    assert list(table.index) == ["a", "b"]
    row = table.loc["a"]
    assert (row["corpus"], row["seed"], row["held-out loss"], row["minutes"]) == ("30% fresh markup", 4, 0.5, 1.5)
    assert (row["knows"], row["base, seen format"], row["end alone"], row["narrow"]) == (0.5, 0.5, 7 / 12, 0)
    assert math.isnan(table.loc["b", "minutes"])
    assert table.loc["b", "knows"] == 0
    assert readiness.tabulate_bases([first], "strict").loc["a", "end alone"] == 0


def test_what_differs_in_pretraining_is_named():
    same = {"width": 128, "curve": [1], "name": "x", "held_out_loss": 1.0}
    records = [record_of(**same), record_of("b", **same | {"curve": [2], "name": "y"}, seconds=4.0)]
    assert readiness.differ_in(records) == []
    assert readiness.differ_in([*records, record_of("c", **same, markup_share=0.0, seed=2)]) == ["markup_share", "seed"]
    assert readiness.differ_in([*records, record_of("c", device="other", width=9)]) == ["device", "width"]
    assert readiness.differ_in([]) == []


def test_loss_curves_hold_the_held_out_losses_of_every_record():
    records = [
        {"base": "a", "pretraining": {"curve": CURVE}},
        {"base": "b", "pretraining": {}},
        {"base": "c", "pretraining": {"curve": [{"step": 5, "eval_loss": 1.5}]}},
    ]
    table = readiness.loss_curves(records)
    assert list(table.columns) == ["base", "step", "held-out loss"]
    assert table.to_numpy().tolist() == [["a", 20, 2.5], ["a", 40, 2.25], ["c", 5, 1.5]]
    assert list(readiness.loss_curves(records[1:2]).columns) == list(table.columns)


def test_the_command_pretrains_what_is_missing_and_measures_with_the_full_settings(tmp_path, monkeypatch, capsys):
    settings = {name: number for number, name in enumerate(readiness.SETTINGS)}
    shutil.copytree(paths.PARAMS / "models", tmp_path / "params/models")
    for profile, world in (("micro", "small"), ("full", "large")):
        (tmp_path / "params" / profile).mkdir()
        values = settings | {"world": world, "n_validation": 5, "n_test": 7, "output": "x"}
        (tmp_path / "params" / profile / "06_readiness.yaml").write_text(yaml.safe_dump(values))
    (tmp_path / "outputs").mkdir()
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params")
    monkeypatch.setattr(paths, "OUTPUTS", tmp_path / "outputs")
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    there = tmp_path / "cache/readiness/markup-00-seed-6"
    there.mkdir(parents=True)
    (there / "config.json").write_text("{}")
    done = []
    monkeypatch.setattr(pretraining, "pretrain", lambda name, **_: done.append(name))
    monkeypatch.setattr(evaluation, "micro_evaluation", lambda world, **sizes: (world, sizes))
    monkeypatch.setattr(readiness, "measure_base", lambda base, *, bench, **given: [base, bench, given])
    assert main(["readiness", "markup-00-seed-6", "markup-30-one-seed-2"]) == 0
    assert done == ["markup-30-one-seed-2"]
    bench = ["large", {"n_validation": 5, "n_test": 7}]
    for name in ("markup-00-seed-6", "markup-30-one-seed-2"):
        record = json.loads((tmp_path / f"outputs/readiness/{name}.json").read_text())
        assert record == [str(tmp_path / "cache/readiness" / name), bench, settings]
    path = tmp_path / "params/full/06_readiness.yaml"
    path.write_text(path.read_text().replace("end_constants", "constants"))
    capsys.readouterr()
    assert main(["readiness"]) == 2
    assert "no end_constants" in capsys.readouterr().err
    assert len(done) == 1  # refused before hours of pretraining
