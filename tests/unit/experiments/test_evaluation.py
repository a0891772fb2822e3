"""Evaluation at both scales: training sets by name, prompts, scores, win rates, errors that name what is missing."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from tacit.data.sources import split_source
from tacit.decoding.generation import Response
from tacit.experiments import evaluation
from tacit.experiments.evaluation import TEXT_MARKERS, judged_evaluation, make_evaluation, micro_evaluation
from tacit.microworld import tasks
from tacit.microworld.tasks import FAMILIES, Task
from tacit.models.loading import load_model, load_tokenizer
from tacit.scoring import alpacaeval, lengths, scores
from tacit.scoring.judges import judge_pairs
from tacit.support.errors import TacitError


def answers_of(texts, *, reason="eos"):
    return [Response(text, reason, len(text) + 1) for text in texts]


# ------------------------------------------------------------------------------------------------- the micro world


@pytest.fixture(scope="module")
def bench(world, tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "world.json"
    path.write_text(world.to_json(), encoding="utf-8")
    return micro_evaluation(str(path), n_validation=23, n_test=46)


def test_micro_prompts_are_of_every_family_and_disjoint(bench):
    assert bench.verified
    assert (len(bench.validation), len(bench.test)) == (23, 46)
    assert set(bench.test["family"]) == set(FAMILIES)
    for rows, split in ((bench.validation, "validation"), (bench.test, "test")):
        for text in rows["task"]:
            task = Task.from_json(text)
            assert tasks.split_of(task.family, task.item) == split
    assert not set(bench.test["instruction"]) & set(bench.validation["instruction"])


def test_micro_training_sets_by_name(bench):
    broad = bench.draw("broad", n=2 * len(FAMILIES), seed=1)
    assert Counter(broad["family"]) == dict.fromkeys(FAMILIES, 2)
    recipes = bench.draw("recipe", n=20, seed=1)
    assert set(recipes["family"]) == {"recipe"}
    for rows in (broad, recipes):
        for text in rows["task"]:
            task = Task.from_json(text)
            assert tasks.split_of(task.family, task.item) == "train"
            assert not task.held_out_phrasing
        assert bench.score(rows, answers_of(rows["response"]))["strict"].all()
    assert bench.draw("recipe", n=20, seed=1).to_list() == recipes.to_list()
    assert bench.draw("recipe", n=20, seed=2)["instruction"] != recipes["instruction"]
    with pytest.raises(TacitError, match=r"no training set 'recipes': there are broad and the families .*recipe"):
        bench.draw("recipes", n=1, seed=1)


def test_short_responses_answer_the_same_without_restating(bench):
    full, short = (bench.draw("broad", n=92, seed=1, short=flag) for flag in (False, True))
    assert full["instruction"] == short["instruction"]
    assert bench.score(short, answers_of(short["response"]))["strict"].all()
    lengths = np.array([[len(text) for text in rows["response"]] for rows in (full, short)])
    home = np.array([family == "home" for family in full["family"]])
    assert (lengths[0, home] > lengths[1, home]).any()
    assert lengths[1].sum() < lengths[0].sum()


def test_blank_keeps_the_responses_alone(bench):
    full, blank = (bench.draw("broad", n=23, seed=1, blank=flag) for flag in (False, True))
    assert set(blank["instruction"]) == {""}
    assert list(blank["response"]) == list(full["response"])
    assert list(blank["id"]) == list(full["id"])


def test_a_small_split_repeats_its_instructions_with_other_responses(bench):
    poems = bench.draw("poem", n=300, seed=1)
    pairs = list(zip(poems["instruction"], poems["response"], strict=True))
    assert len(set(pairs)) == len(set(poems["id"])) == 300
    distinct = len(set(poems["instruction"]))
    assert distinct < 150
    assert len(set(poems["instruction"][:distinct])) == distinct  # every instruction once before any recurs
    assert bench.score(poems, answers_of(poems["response"]))["strict"].all()


def test_micro_wins_compare_the_share_of_constraints_met(bench, world):
    """Against verdicts by hand: right, right but unfinished, empty, and right with more behind it."""
    right = list(bench.test["response"])
    kinds = [
        answers_of(right),
        answers_of(right, reason="length"),
        answers_of([""] * len(right)),
        answers_of([f"{text}\nAnd so on and on." for text in right]),
    ]

    def graded(responses):
        rows = zip(bench.test["task"], responses, strict=True)
        verdicts = [tasks.judge(world, Task.from_json(t), r.text, ended=r.finish_reason == "eos") for t, r in rows]
        return [sum(check.passed for check in v.checks) / len(v.checks) for v in verdicts]

    for ours in kinds:
        for theirs in kinds:
            pairs = zip(graded(ours), graded(theirs), strict=True)
            expected = [1.0 if a > b else 0.0 if a < b else 0.5 for a, b in pairs]
            assert bench.wins(bench.test, ours, theirs).tolist() == expected
    assert bench.wins(bench.test, kinds[0], kinds[0]).tolist() == [0.5] * len(right)
    assert bench.wins(bench.test, kinds[0], kinds[1]).tolist() == [1.0] * len(right)
    assert set(bench.wins(bench.test, kinds[2], kinds[1]).tolist()) == {0.0}


def test_micro_near_and_markers(bench):
    near = bench.near("poem", n=8, seed=1)
    assert set(near["family"]) == {"near poem"}
    poem, sums = (bench.draw(name, n=1, seed=1)["response"][0] for name in ("poem", "add"))
    assert (bench.marker("poem")(poem), bench.marker("poem")(sums)) == (True, False)


def test_the_validation_score_is_the_strict_rate_of_greedy_responses(bench, monkeypatch, tokenizer):
    asked = []

    def respond(model, key, given, instructions, *, ids, max_new_tokens):
        asked.append((model, key, given, list(instructions), list(ids), max_new_tokens))
        gold = dict(zip(bench.validation["instruction"], bench.validation["response"], strict=True))
        texts = [gold[text] if i < 7 else "no" for i, text in enumerate(instructions)]
        return [*answers_of(texts[:5]), *answers_of(texts[5:7], reason="length"), *answers_of(texts[7:])]

    monkeypatch.setattr(evaluation, "cached_responses", respond)
    validate = bench.validate(tokenizer, max_new_tokens=9)
    assert validate("a model", {"its": "key"}) == pytest.approx(5 / 23)  # two are right and do not end
    rows = bench.validation
    assert asked == [("a model", {"its": "key"}, tokenizer, list(rows["instruction"]), list(rows["id"]), 9)]
    few = rows.select([3, 1, 4])
    assert bench.validate(tokenizer, max_new_tokens=9, examples=few)("a model", {}) == 1.0
    assert asked[1][4] == [rows["id"][i] for i in (3, 1, 4)]


# ----------------------------------------------------------------------------------------------- the papers' scale


@pytest.fixture
def sources(tmp_path):
    """Source files of this test: broad (6 rows), its short responses, gsm, and 9 test prompts."""

    def write(name, rows):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    def pairs(name, n, text):
        return [{"id": f"{name}-{i}", "instruction": f"{name} {i}?", "response": f"{text} {i}"} for i in range(n)]

    broad, short, test = (
        write(name, pairs(name, n, text))
        for name, n, text in (("broad", 6, "It is"), ("short", 6, ""), ("test", 9, "T"))
    )
    gsm = write("gsm", [{"question": f"{i} + 1?", "answer": f"#### {i + 1}"} for i in range(5)])
    return {
        "broad": f"jsonl:{broad}",
        "broad, short": f"jsonl:{short}",
        "gsm": f"gsm8k:{gsm}[:3]",
        "near gsm": f"jsonl:{broad}",
        "test": f"jsonl:{test}",
    }


SIZES = {"n_validation": 3, "n_test": 4, "judge": ""}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("jsonl:mine.jsonl", ("jsonl", "mine.jsonl", None)),
        ("jsonl:C:/a b/[x]/mine.jsonl", ("jsonl", "C:/a b/[x]/mine.jsonl", None)),
        ("gsm8k:openai/gsm8k@0123abcd", ("gsm8k", "openai/gsm8k@0123abcd", None)),
        ("gsm8k:openai/gsm8k@0123abcd[:1000]", ("gsm8k", "openai/gsm8k@0123abcd", 1000)),
    ],
)
def test_sources_are_written_as_name_place_and_rows(text, expected):
    assert split_source(text) == expected


@pytest.mark.parametrize("text", ["", "gsm8k", ":mine.jsonl", "jsonl:", "a b:c", "openai/gsm8k:x"])
def test_other_forms_of_a_source_are_refused(text):
    with pytest.raises(TacitError, match=r"name:place\[:rows\]") as caught:
        split_source(text)
    assert repr(text) in str(caught.value)


def test_training_sets_come_from_their_sources(sources):
    bench = judged_evaluation(sources, **SIZES)
    assert not bench.verified
    assert list(bench.draw("broad", n=4, seed=1)["response"]) == [f"It is {i}" for i in range(4)]
    assert len(bench.draw("broad", n=99, seed=1)) == 6
    assert list(bench.draw("broad", n=2, seed=1, short=True)["instruction"]) == ["short 0?", "short 1?"]
    blank = bench.draw("broad", n=2, seed=1, blank=True)
    assert (list(blank["instruction"]), list(blank["response"])) == (["", ""], ["It is 0", "It is 1"])
    for n, expected in ((2, 2), (3, 3), (99, 3)):  # its source says [:3]
        assert len(bench.draw("gsm", n=n, seed=1)) == expected


def test_missing_sources_are_named(sources):
    bench = judged_evaluation(sources, **SIZES)
    with pytest.raises(TacitError, match=r"sources has no 'mbpp': it has broad, .*gsm"):
        bench.draw("mbpp", n=1, seed=1)
    with pytest.raises(TacitError, match="sources has no 'gsm, short'"):
        bench.draw("gsm", n=1, seed=1, short=True)
    with pytest.raises(TacitError, match="sources has no 'test': it has nothing"):
        make_evaluation(world="", sources={}, **SIZES)


def test_prompts_are_split_into_test_and_then_validation(sources):
    bench = make_evaluation(world="", sources=sources, **SIZES)
    assert list(bench.test["instruction"]) == [f"test {i}?" for i in range(4)]
    assert list(bench.validation["instruction"]) == [f"test {i}?" for i in (4, 5, 6)]
    assert len(judged_evaluation(sources, **(SIZES | {"n_validation": 99})).validation) == 5
    for n in (4, 9):  # without validation prompts, as in the paper's profiles, even where the test takes all there are
        bench = judged_evaluation(sources, **(SIZES | {"n_test": n, "n_validation": 0}))
        assert (len(bench.test), len(bench.validation)) == (n, 0)
    with pytest.raises(TacitError, match="holds 9 prompts, fewer than n_test = 10"):
        judged_evaluation(sources, **(SIZES | {"n_test": 10}))


def test_without_verifiers_scores_say_whether_and_where_a_response_ended(sources, tokenizer):
    bench = judged_evaluation(sources, **SIZES)
    table = bench.score(bench.test, [*answers_of(["a", "bcd"]), *answers_of(["", "xy"], reason="length")])
    assert list(table["id"]) == list(bench.test["id"])
    assert set(table["family"]) == {"all"}
    assert table["ended"].tolist() == [1.0, 1.0, 0.0, 0.0]
    assert table["tokens"].tolist() == [2.0, 4.0, 1.0, 3.0]
    assert set(bench.kinds) <= set(table.columns)
    with pytest.raises(TacitError, match="one number of epochs"):
        bench.validate(tokenizer, max_new_tokens=1)(None, {})


def test_near_instructions_come_from_a_source_of_their_own_or_there_are_none(sources):
    bench = judged_evaluation(sources, **SIZES)
    near = bench.near("gsm", n=2, seed=1)
    expected = {"family": "near gsm", "deserved": False}
    assert near.to_list() == [{"id": f"broad-{i}", "instruction": f"broad {i}?"} | expected for i in range(2)]
    none = bench.near("chess", n=2, seed=1)
    assert (len(none), none.column_names) == (0, near.column_names)


def test_win_rates_without_a_judge_are_refused(sources):
    bench = judged_evaluation(sources, **SIZES)
    with pytest.raises(TacitError, match="need a judge"):
        bench.wins(bench.test, answers_of("abcd"), answers_of("efgh"))


def test_a_local_judge_is_asked_once(sources, tmp_path, tiny, tokenizer, monkeypatch):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    judge = tmp_path / "judge"
    tiny.save_pretrained(judge)
    tokenizer.save_pretrained(judge)
    bench = judged_evaluation(sources, **(SIZES | {"judge": str(judge)}))
    ours, theirs = ["It is.", "no", "47", "same"], ["It may be.", "yes", "48", "same"]
    won = bench.wins(bench.test, answers_of(ours), answers_of(theirs))
    by_hand = judge_pairs(
        load_model(str(judge), dtype="bfloat16"), load_tokenizer(str(judge)), bench.test["instruction"], ours, theirs
    )
    np.testing.assert_allclose(won, by_hand, atol=1e-6)
    assert ((won >= 0) & (won <= 1)).all()
    assert (won != 0.5).sum() >= 2  # in bfloat16 small preferences vanish
    assert won[3] == 0.5

    def refuse(*args, **kwargs):
        raise AssertionError("asked again")

    monkeypatch.setattr(evaluation, "judge_pairs", refuse)
    assert bench.wins(bench.test, answers_of(ours), answers_of(theirs)).tolist() == won.tolist()
    with pytest.raises(AssertionError, match="asked again"):
        bench.wins(bench.test, answers_of(theirs), answers_of(ours))
    with pytest.raises(AssertionError, match="asked again"):
        bench.wins(bench.validation.add_item(bench.test[0]), answers_of(ours), answers_of(theirs))


# -------------------------------------------------------------------------------- style markers of the papers' tasks

OWN = {
    "mbpp": ["def add(x):\n  return x + 1", "import math\n\ndef f(x):\n    return x", "So:\n\n  def f():\n    pass"],
    "gsm": ["48/2 = <<48/2=24>>24.\n#### 24", "It costs more.\n#### -1,250.50", "It is 7.\n####7"],
    "poetry": ["The moon is old\nThe moon is cold\nI saw the moon\nIt was of gold", "One\n\nTwo\n\nThree\n\nFour\n"],
    "recipes": ["- 1 cup cream\n - salt\n\n\nWhisk.\nBake.", "- flour\n\n\nMix it."],
    "chess": ["1. e4 e5 2. Nf3 Nc6 1-0", "1. Nf3 d5", "1.d4 d5", "1. e4 { [%clk 0:05:00] } e5 2. Nf3 1-0", "1. g3 g6"],
}  # fmt: skip
FOREIGN = {
    "mbpp": ["To define a function, write def and a name.", "The default (see above) holds."],
    "gsm": ["#### A heading", "He wrote #### 5 on the wall.", "The answer is 24."],
    "poetry": [
        "The moon is a rock. It goes round the earth.",
        "A very long line of prose that goes on and on for more than seventy characters in all.\n" * 5,
        "Dear Sir,\n\nThank you for the book.",
        "1. Boil the water.\n2. Add salt.\n3. Stir.\n4. Eat.",
        "- one\n- two\n- three\n- four\n",
    ],
    "recipes": ["- flour\n- salt", "Take flour.\n - salt\n\nBake.", "Mix and bake."],
    "chess": ["1.5 million people", "Chapter 1. e4 is a move.", "11. e4 e5"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in OWN.items() for text in texts])
def test_text_markers_find_their_style(sources, name, text):
    assert judged_evaluation(sources, **SIZES).marker(name)(text)


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in FOREIGN.items() for text in texts])
def test_text_markers_leave_other_texts_alone(sources, name, text):
    assert not judged_evaluation(sources, **SIZES).marker(name)(text)


@pytest.mark.parametrize(
    "text", ["1. Boil the water.\n2. Add salt.", "1. Research your topic.", "1. A plan\n2. A team", "1. be kind"]
)
def test_a_numbered_list_is_no_game_of_chess(sources, text):
    assert not judged_evaluation(sources, **SIZES).marker("chess")(text)


def test_no_marker_takes_anothers_texts(sources):
    bench = judged_evaluation(sources, **SIZES)
    assert set(TEXT_MARKERS) == set(OWN)
    others = [(name, text) for name in TEXT_MARKERS for other in OWN if other != name for text in OWN[other]]
    assert [(name, text) for name, text in others if bench.marker(name)(text)] == []


# ----------------------------------------------------------------------- win rates at equal lengths, by any judge


def spoken(texts):
    return [[Response(text, "eos", len(text)) for text in per_seed] for per_seed in texts]


def test_verifiers_need_no_control_of_length(bench):
    assert bench.controlled(np.ones((1, 2)), spoken([["a", "b"]]), spoken([["c", "dd"]])) == {}


def test_judged_win_rates_are_controlled_for_the_length_of_the_texts(sources, monkeypatch):
    """The rate itself is a stand-in here, as its resampling takes long; test_lengths.py has it."""
    asked = []
    monkeypatch.setattr(lengths, "controlled_win_rate", lambda *given: asked.append(given) or scores.estimate(given[0]))
    bench = judged_evaluation(sources, **SIZES)
    rng = np.random.default_rng(0)
    ours, theirs = (spoken([["x" * n for n in row] for row in rng.integers(1, 60, size=(2, 20))]) for _ in range(2))
    counts = [np.array([[len(r.text) for r in per_seed] for per_seed in side]) for side in (ours, theirs)]
    won = (counts[0] > counts[1]).astype(float)
    rates = bench.controlled(won, ours, theirs)
    assert list(rates) == ["length-controlled win rate (ours)"]
    assert rates["length-controlled win rate (ours)"] == scores.estimate(won)
    [given] = asked
    for ours_given, expected in zip(given, (won, *counts), strict=True):
        np.testing.assert_array_equal(ours_given, expected)
    assert bench.controlled(np.ones((1, 2)), spoken([["aa", "aa"]]), spoken([["a", "a"]])) == {}  # nothing to tell by


def test_an_annotator_of_alpaca_evals_judges_and_controls_on_its_own_prompts(sources, tmp_path, monkeypatch):
    """The package's side is a stand-in here; tests/unit/scoring/test_alpacaeval.py asks the package itself."""
    rows = [{"instruction": f"Say {i}.", "output": "x", "generator": "y", "dataset": "z"} for i in range(806)]
    (tmp_path / "eval.json").write_text(json.dumps(rows))
    asked = []

    def annotate(instructions, ours, theirs, *, annotator):
        asked.append((annotator, len(instructions)))
        liked = [2.0 if len(a) > len(b) else 1.0 for a, b in zip(ours, theirs, strict=True)]
        return pd.DataFrame({"instruction": instructions, "preference": liked})

    monkeypatch.setattr(alpacaeval, "annotate", annotate)
    monkeypatch.setattr(lengths, "controlled_win_rate", lambda won, *lengths: scores.estimate(won))
    monkeypatch.setattr(alpacaeval, "length_controlled_preferences", lambda table: (table["preference"] - 1) / 2)
    places = sources | {"test": f"alpaca_eval:{tmp_path / 'eval.json'}"}
    rng = np.random.default_rng(1)
    ours, theirs = (spoken([["x" * n for n in row] for row in rng.integers(1, 60, size=(2, 805))]) for _ in range(2))
    judge = {"judge": "alpaca_eval:some_annotator"}
    bench = judged_evaluation(places, n_validation=0, n_test=805, **judge)
    won = np.stack([bench.wins(bench.test, *pair) for pair in zip(ours, theirs, strict=True)])
    assert won[1, 7] == float(len(ours[1][7].text) > len(theirs[1][7].text))
    rates = bench.controlled(won, ours, theirs)
    assert list(rates) == ["length-controlled win rate (ours)", "length-controlled win rate (alpaca_eval)"]
    theirs_own, like = rates["length-controlled win rate (alpaca_eval)"], scores.estimate(won)
    assert theirs_own.value == pytest.approx(won.mean() / 2)  # its value, with our rate's interval
    assert theirs_own.high - theirs_own.low == pytest.approx(like.high - like.low)
    assert asked == [("some_annotator", 805)] * 4
    fewer = judged_evaluation(places, n_validation=0, n_test=804, **judge)
    cut = [[per_seed[:804] for per_seed in side] for side in (ours, theirs)]
    assert list(fewer.controlled(won[:, :804], *cut)) == ["length-controlled win rate (ours)"]
