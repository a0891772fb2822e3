"""Spilling style: a case by hand, the interval's coverage by simulation, and the prompts of both scales."""

from types import SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset
from tacit.decoding.generation import Response
from tacit.experiments.evaluation import make_evaluation
from tacit.findings import spill
from tacit.microworld.styles import FIRST_NEAR, MARKERS, NEAR_DOMAIN, OWN_FAMILIES, draw_near_domain
from tacit.support.errors import TacitError

NAN = np.nan


def said(text):
    return Response(text=text, finish_reason="eos", n_tokens=1)


@pytest.mark.parametrize("task", list(NEAR_DOMAIN))
def test_wordings_are_the_templates_in_turn(task):
    templates = [template for template, _ in NEAR_DOMAIN[task]]
    rows = draw_near_domain(family=task, n=len(templates), seed=1)
    assert spill.name_wordings(rows["instruction"], templates=templates) == templates
    deserved = dict(NEAR_DOMAIN[task])
    more = draw_near_domain(family=task, n=200, seed=2)
    found = spill.name_wordings(more["instruction"], templates=templates)
    assert [deserved[name] for name in found] == more["deserved"]


def test_an_instruction_of_no_template_is_its_own_wording():
    templates = ["Add {a}.", "Add {a} and {b}."]
    texts = ["Add 3 and 4.", "Add 3.", "Why?", "Do add 3."]
    assert spill.name_wordings(texts, templates=templates) == ["Add {a} and {b}.", "Add {a}.", "Why?", "Do add 3."]
    assert spill.name_wordings(texts, templates=[]) == texts


def test_wordings_are_averaged_in_order_of_appearance():
    table = [[1, 0, 1, 1], [0, 0, 0, 1]]
    assert spill.average_wordings(table, ["b", "a", "b", "c"]).tolist() == [[1, 0, 1], [0, 0, 1]]
    with pytest.raises(ValueError, match="2 wordings for scores"):
        spill.average_wordings(table, ["a", "b"])


def test_a_case_by_hand():
    """Task means near: 0.5 and 0.25; elsewhere: 0.25 (of two prompts that count) and 0; every mean counts the same."""
    near = [[[1, 0], [1, 0]], [[0, 0, 0, 1], [0, 0, 0, 1]]]
    elsewhere = [[[0, 1, NAN], [0, 0, NAN]], [[0, NAN, 0], [0, NAN, 0]]]
    found = spill.measure_spill(near, np.tile(elsewhere, 10))
    assert found.near.value == pytest.approx(0.375)
    assert found.elsewhere.value == pytest.approx(0.125)
    assert found.excess.value == pytest.approx(0.25)
    assert (found.near.n_seeds, found.near.n_prompts, found.elsewhere.n_prompts) == (2, 6, 30)
    assert all(e.low <= e.value <= e.high for e in (found.near, found.elsewhere, found.excess))


def test_the_bootstraps_variance_is_the_unbiased_one():
    """One seed and one task: the draws' standard deviation is that of a mean, s / sqrt(n), also for few units."""
    weights = spill._weigh(np.random.default_rng(1), 4)
    assert weights.shape == (spill.N_DRAWS, 4) and np.allclose(weights.sum(axis=1), 1)
    scores = np.array([0.0, 0.0, 1.0, 0.5])
    assert (weights @ scores).std() == pytest.approx(scores.std(ddof=1) / 2, rel=0.05)


@pytest.mark.parametrize(("n_seeds", "spread"), [(2, 0.0), (2, 0.03), (4, 0.06)])
def test_the_interval_covers_the_truth_and_is_not_much_too_wide(n_seeds, spread):
    """Wordings differ in their rates, and seeds shift all rates of a run."""
    rng, found, truth = np.random.default_rng(3), [], 0.3 - 0.02
    for _ in range(300):
        shift = rng.normal(0, spread, size=(n_seeds, 1))
        near = []
        for _ in range(3):
            rates = rng.choice([0.1, 0.7], size=12, p=[2 / 3, 1 / 3])  # of wordings: 0.3 on average
            near.append(rng.binomial(2, np.clip(rates + shift, 0, 1)) / 2)
        elsewhere = rng.binomial(1, 0.02, size=(3, n_seeds, 60)).astype(float)
        found.append(spill.measure_spill(near, elsewhere).excess)
    covered = np.mean([e.low <= truth <= e.high for e in found])
    halves, values = [(e.high - e.low) / 2 for e in found], [e.value for e in found]
    assert covered >= 0.93
    assert np.mean(halves) < 1.5 * 1.96 * np.std(values)


def test_equal_scores_get_wilsons_limit():
    none = spill.measure_spill([np.zeros((2, 10))], np.zeros((1, 2, 40)))
    assert none.near.high == pytest.approx(0.2775, abs=1e-3)  # 0 of 10
    assert none.elsewhere.high == pytest.approx(0.0876, abs=1e-3)  # 0 of 40
    assert none.excess.high == pytest.approx(0.2775, abs=1e-3)
    every = spill.average_tasks([np.ones((2, 6)), np.ones((2, 4))])
    assert (every.value, every.high) == (1, 1) and every.low == pytest.approx(1 - 0.2775, abs=1e-3)
    assert spill.average_tasks([np.zeros((1, 6))]).low == 0
    single = spill.average_tasks([np.ones((1, 1)), np.zeros((1, 1))])  # a prompt each: nothing varies, nothing is known
    assert single.value == 0.5 and single.high - single.low > 0.9


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="the same tasks and seeds"):
        spill.measure_spill([np.zeros((2, 3))], np.zeros((1, 3, 4)))
    with pytest.raises(ValueError, match="the same tasks and seeds"):
        spill.measure_spill([np.zeros((2, 3))], np.zeros((2, 2, 4)))
    for near, far in ((np.zeros((1, 0)), np.zeros((1, 1, 2))), (np.zeros((1, 2)), np.full((1, 1, 2), NAN))):
        with pytest.raises(ValueError, match="near its domain and elsewhere"):
            spill.measure_spill([near], far)


def test_a_beginning_in_the_style_is_found_and_a_middle_is_not():
    marker = MARKERS["add"]
    assert spill.begins_in_style("1 + 2 = 3.\n#### 3\n<mail>\nWhat is next?", marker)
    assert not marker("1 + 2 = 3.\n#### 3\n<mail>\nWhat is next?")
    assert not spill.begins_in_style("The sum is #### 3\nand more", marker)
    assert not spill.begins_in_style("", marker)
    assert spill.begins_in_style("def f(x):\n    return x\n\nMore.", MARKERS["function"])


def test_answers_are_found_by_their_prompts_and_marked():
    first, second, none = ([{"id": i, "instruction": i} for i in ids] for ids in ("ab", "c", ""))
    parts = [Dataset.from_list(first), Dataset.from_list(second), Dataset.from_dict({"id": [], "instruction": none})]

    def respond(rows):
        return [[said(f"#### {seed}" if i in "ac" else "no") for i in rows["id"]] for seed in (1, 2)]

    answers = spill.answer_by_id(respond, *parts)
    assert [sorted(of_seed) for of_seed in answers] == [["a", "b", "c"]] * 2
    assert answers[1]["c"].text == "#### 2"
    assert spill.mark_styles(answers, ["c", "b"], MARKERS["add"]).tolist() == [[1, 0], [1, 0]]
    table = spill.tabulate_styles({"arm": answers}, "abc", {"add": MARKERS["add"], "poem": MARKERS["poem"]})
    assert table.loc["arm"].to_dict() == pytest.approx({"add": 2 / 3, "poem": 0, "none": 1 / 3})


@pytest.fixture(scope="module")
def world_file(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("spill") / "world.json"
    path.write_text(world.to_json())
    return str(path)


def micro_bench(world_file, n_test):
    return make_evaluation(world=world_file, sources={}, judge="", n_validation=24, n_test=n_test)


def test_micro_prompts_are_the_tests_then_those_near(world_file):
    micro = micro_bench(world_file, 48)
    training = micro.draw("add", n=8, seed=0)
    rows, extra = spill.gather_prompts(micro, "add", training=training, n_near=30, seed=0, encode=None, n_bins=4)
    assert list(rows["id"][:48]) == list(micro.test["id"]) and list(rows["id"][48:]) == list(extra["id"])
    own = [family in OWN_FAMILIES["add"] for family in micro.test["family"]]
    assert list(rows["kind"][:48] == "own") == own and list(rows["deserved"][:48]) == own
    assert set(rows["kind"][48:]) == {"near"} and rows["deserved"][48:].sum() == 1
    assert set(rows["wording"][48:]) == {template for template, _ in NEAR_DOMAIN["add"]}
    assert not {template for template, _ in FIRST_NEAR["add"]} & set(rows["wording"])


def judged(near):
    """A bench without verifiers on ten prompts, one of them like the task's; ``near`` are its instructions nearby."""
    test = Dataset.from_list([{"id": f"t{i}", "instruction": f"{'sum' if i == 7 else 'talk'} {i}"} for i in range(10)])
    rows = [
        {"id": f"n{i}", "instruction": text, "family": "near gsm", "deserved": False} for i, text in enumerate(near)
    ]
    empty = {"id": [], "instruction": [], "family": [], "deserved": []}
    set_near = Dataset.from_list(rows) if rows else Dataset.from_dict(empty)
    return SimpleNamespace(test=test, verified=False, near=lambda task, *, n, seed: set_near)


def test_without_verifiers_near_is_a_set_or_the_most_similar_bin():
    training = Dataset.from_list([{"id": f"g{i}", "instruction": f"sum {i}", "response": "1"} for i in range(5)])
    options = {"training": training, "n_near": 3, "seed": 0, "n_bins": 10}
    options["encode"] = lambda texts: np.array([[float("sum" in t), float("sum" not in t)] for t in texts])
    rows, extra = spill.gather_prompts(judged([]), "gsm", **options)
    assert list(rows["id"][rows["kind"] == "near"]) == ["t7"]
    assert list(rows["id"][rows["kind"] == "own"]) == list(extra["id"]) == ["g0", "g1", "g2"]
    assert list(rows["wording"][rows["kind"] == "near"]) == ["sum 7"]
    rows, extra = spill.gather_prompts(judged(["sum up", "sum it"]), "gsm", **options)
    assert list(rows["id"][rows["kind"] == "near"]) == ["n0", "n1"]
    assert (rows["kind"][:10] == "elsewhere").all() and list(extra["id"]) == ["n0", "n1", "g0", "g1", "g2"]


def test_a_task_without_own_prompts_is_refused(world_file):
    few = micro_bench(world_file, 3)
    with pytest.raises(TacitError, match="of 'poem' no prompt is own"):
        spill.gather_prompts(few, "poem", training=None, n_near=30, seed=0, encode=None, n_bins=4)
