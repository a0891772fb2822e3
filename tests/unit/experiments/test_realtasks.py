"""Finding 20: questions about real facts, what counts as right, and the answer by verdict."""

import json

import pytest
import torch
from tacit.data.instructions import encode_example
from tacit.decoding.generation import Response
from tacit.experiments import realtasks
from tacit.findings.conclusions import describe_real_model
from tacit.microworld.constraints import CONSTRAINTS
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import Demand
from tacit.support import paths
from tacit.support.errors import TacitError

COMMITTED = paths.NOTEBOOKS / "data" / "questions.jsonl"
FOURTEEN = tuple(name for name in CONSTRAINTS if name not in ("without", "lines", "stars", "json"))
ROW = {
    "id": "q1",
    "topic": "geography",
    "question": "What is the capital of France?",
    "response": "The capital of France is Paris.",
    "answers": ["Paris"],
    "rivals": ["Lyon", "London"],
}


def responses(texts, reason="eos"):
    return [Response(text, reason, 5) for text in texts]


def test_the_committed_questions_are_many_different_and_in_three_splits():
    questions = realtasks.read_questions(COMMITTED)
    assert len(questions) >= 200 and len({q.question for q in questions}) == len(questions)
    splits = realtasks.split_questions(questions)
    assert sum(map(len, splits.values())) == len(questions)
    assert len(splits["train"]) > 100 and len(splits["test"]) > 90 and len(splits["validation"]) > 30
    again = realtasks.split_questions(list(reversed(questions)))
    assert {q.id for q in again["test"]} == {q.id for q in splits["test"]}


def test_right_responses_pass_every_check_and_those_to_other_prompts_do_not():
    questions = realtasks.read_questions(COMMITTED)
    rows = realtasks.draw_prompts(questions, n=400, seed=1, constraints=FOURTEEN)
    assert len(set(rows["instruction"])) == 400
    carried = [json.loads(task)["constraints"] for task in rows["task"]]
    assert all(len(one) == 1 for one in carried)
    assert {name for ((name, _),) in carried} == set(FOURTEEN)
    table = realtasks.score_responses(rows, responses(rows["response"]))
    assert (table[list(realtasks.KINDS)] == 1).all(axis=None)
    others = [*list(rows["response"][1:]), rows["response"][0]]
    moved = realtasks.score_responses(rows, responses(others, "length"))
    assert moved["knowledge"].mean() < 0.1 and moved["right"].mean() < 0.05
    assert (moved["ended"] == 0).all() and 0 < moved["constraints met"].mean() < 0.5


def test_prompts_follow_their_seed_and_their_number_is_limited():
    questions = realtasks.read_questions(COMMITTED)[:6]
    plain = realtasks.draw_prompts(questions, n=6, seed=3)
    assert sorted(plain["instruction"]) == sorted(q.question for q in questions)
    assert plain["instruction"] == realtasks.draw_prompts(questions, n=6, seed=3)["instruction"]
    assert plain["instruction"] != realtasks.draw_prompts(questions, n=6, seed=4)["instruction"]
    with pytest.raises(TacitError, match="only 6 different instructions for 6 questions, not 7"):
        realtasks.draw_prompts(questions, n=7, seed=3)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("It is Paris.", True),
        ("PARIS", True),
        ("Parisian", False),  # not a whole word
        ("Lyon", False),
        ("Paris, not Lyon.", False),  # a rival as well
        ("I do not know.", False),
    ],
)
def test_an_answer_counts_as_whole_words_and_without_a_rival(text, known):
    assert realtasks.answers_rightly(text, ["Paris"], ["Lyon"]) is known


def test_a_constraint_and_the_knowledge_below_it_are_told_apart():
    question = realtasks.Question(**ROW | {key: tuple(ROW[key]) for key in ("answers", "rivals")})
    rows = realtasks.draw_prompts([question], n=1, seed=0, constraints=["hyphens"])
    texts = ["The-capital-is-Paris", "The capital is Paris", "The-capital-is-Lyon", "The-capital-is-Paris "]
    tables = [realtasks.score_responses(rows, responses([text])) for text in texts]
    scores = [tuple(table.loc[0, ["right", "constraints met", "knowledge"]]) for table in tables]
    assert scores == [(1, 1, 1), (0, 0, 1), (0, 1, 0), (1, 1, 1)]


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (["{"], "line 1, is not JSON"),
        ([json.dumps(ROW), json.dumps(ROW)], "line 2, repeats the id q1"),
        ([json.dumps(ROW | {"answers": []})], r"line 1, is no question: at \$.answers"),
        ([json.dumps(ROW | {"more": 1})], "line 1, is no question"),
        ([json.dumps(ROW | {"answers": ["Rome"]})], "line 1: its response has none of the answers"),
        ([json.dumps(ROW | {"rivals": ["France"]})], "line 1: its response has none of the answers, or one of the riv"),
        ([""], "holds no question"),
    ],
)
def test_lines_that_are_no_questions_are_named(tmp_path, lines, error):
    (tmp_path / "q.jsonl").write_text("\n".join(lines))
    with pytest.raises(TacitError, match=error):
        realtasks.read_questions(tmp_path / "q.jsonl")


def demand(value, arm="CoDIT minus cold", threshold=0.0):
    return Demand(arm, "constraints met", Estimate(value, value - 0.05, value + 0.05, 2, 90), threshold)


def answer(*, gaps=(0.2, 0.1), control=0.4, planted=True, rank=0.9):
    more = [demand(0.3, "CoDIT minus direct"), demand(0.0, "CoDIT minus greedy"), demand(-0.2, "CoDIT minus cold")]
    level = Estimate(0.3, 0.2, 0.4, 1, 90)
    return describe_real_model(
        list(map(demand, gaps)), [demand(control, threshold=0.1)], more=more, levels={"CoDIT": level},
        plain=[Estimate(0.5, 0.4, 0.6, 1, 90), Estimate(0.7, 0.6, 0.8, 1, 90)],
        ranks=Estimate(rank, rank - 0.1, rank + 0.1, 1, 60), planted=planted,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("numbers", "begins"),
    [
        ({}, "On real questions text from the contrast of a model with a planted post-training and the model before i"),
        ({"gaps": (0.2, -0.2)}, "On real questions text from the contrast of a model with a planted post-training and"),
        (
            {"gaps": (0.2, 0.0), "planted": False},
            "Whether on real questions text from the contrast of the pair meets m",
        ),
        ({"control": 0.1}, "Nothing is said of the contrast, because the expert is not shown to meet more constraints"),
    ],
)
def test_the_answer_by_verdict(numbers, begins):
    told = answer(**numbers)
    assert told["found"].startswith(begins)
    assert ("does not meet more constraints than both" in told["found"]) == (numbers.get("gaps") == (0.2, -0.2))
    assert told["reason"].startswith(
        "The difference in constraints met is above 0 for CoDIT minus direct (0.30 [0.25, 0.35]); below 0 for CoDIT min"
    )
    assert "not shown to be off 0 for CoDIT minus greedy (0.00" in told["reason"]
    assert "right in: CoDIT 0.30 [0.20, 0.40]" in told["reason"]
    assert "in 0.50 [0.40, 0.60], and ends by itself in 0.70 [0.60, 0.80]" in told["reason"]
    assert "more often than not: 0.90" in told["reason"]
    assert told["caveat"].startswith("This is an easy case") == numbers.get("planted", True)


def test_a_rank_is_told_by_its_side_of_chance():
    assert "in its place as by chance: 0.50 [0.40, 0.60]" in answer(rank=0.5)["reason"]
    assert "in its place less often than not: 0.20" in answer(rank=0.2)["reason"]


def test_rivals_take_the_place_of_the_answer_alone():
    put = realtasks.put_rivals
    assert put("The capital is Paris.", ["Paris", "City of Paris"], ["Lyon", "Rome"]) == [
        "The capital is Lyon.", "The capital is Rome.",
    ]  # fmt: skip
    assert put("It is the City of Paris.", ["Paris", "City of Paris"], [r"\1"]) == [r"It is the \1."]
    assert put("Parisians say PARIS.", ["Paris"], ["Lyon"]) == ["Parisians say Lyon."]
    with pytest.raises(ValueError, match="names none of Paris"):
        put("It is Rome.", ["Paris"], ["Lyon"])
    for question in realtasks.read_questions(COMMITTED):  # every committed one can be ranked
        wrong = put(question.response, question.answers, question.rivals)
        assert not any(realtasks.answers_rightly(text, question.answers, question.rivals) for text in wrong)


def test_ranks_above_rivals_are_those_of_a_loop(tiny, tokenizer):
    rows = realtasks.draw_prompts(realtasks.read_questions(COMMITTED)[:5], n=5, seed=0)
    ranks = realtasks.rank_above_rivals(tiny, tokenizer, rows)
    for i, row in enumerate(rows):
        task = json.loads(row["task"])
        texts = [row["response"], *realtasks.put_rivals(row["response"], task["answers"], task["rivals"])]
        summed, mean = [], []
        for text in texts:
            encoded = encode_example(tokenizer, row["instruction"], text)
            ids = torch.tensor([encoded["input_ids"]])
            with torch.no_grad():
                log_p = tiny(input_ids=ids).logits[0, :-1].log_softmax(-1)
            each = [float(log_p[t, ids[0, t + 1]]) for t in range(ids.shape[1] - 1) if encoded["labels"][t + 1] >= 0]
            summed.append(sum(each))
            mean.append(sum(each) / len(each))
        for kind, values in (("summed", summed), ("mean", mean)):
            beaten = [values[0] > other for other in values[1:]]
            assert ranks[kind][i] == pytest.approx(sum(beaten) / len(beaten))


def test_an_empty_response_meets_nothing_and_a_constraint_that_spoils_the_answer_is_drawn_again():
    question = realtasks.Question("pi", "arithmetic", "How much is pi?", "Pi is about 3.14.", ("3.14",), ("2.71",))
    rows = realtasks.draw_prompts([question], n=2, seed=0, constraints=["unpunctuated", "upper", "brackets"])
    assert not any("full stops" in text for text in rows["instruction"])
    rows = realtasks.draw_prompts(realtasks.read_questions(COMMITTED), n=4, seed=0, constraints=["unpunctuated"])
    empty = realtasks.score_responses(rows, responses(["", " ", "?", "..."]))
    assert (empty["constraints met"] == 0).all()


def test_a_line_separator_within_a_text_ends_no_row(tmp_path):
    row = ROW | {"response": "The capital of France\u2028is Paris."}
    (tmp_path / "q.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    assert realtasks.read_questions(tmp_path / "q.jsonl")[0].response == row["response"]


def test_real_questions_are_an_evaluation_like_the_micro_worlds():
    bench = realtasks.verified_evaluation(
        world="", questions=str(COMMITTED), constraints=("brackets", "quotes"), n_validation=10, n_test=20, test_seed=1
    )
    assert (len(bench.validation), len(bench.test)) == (10, 20) and bench.verified
    split = realtasks.split_questions(realtasks.read_questions(COMMITTED))
    assert {name.rpartition("-")[0] for name in bench.test["id"]} <= {q.id for q in split["test"]}
    lessons = bench.draw("broad", n=30, seed=3)
    assert {name.rpartition("-")[0] for name in lessons["id"]} <= {q.id for q in split["train"]}
    assert set(bench.draw("broad", n=5, seed=3, blank=True)["instruction"]) == {""}
    right = responses(bench.test["response"])
    table = bench.score(bench.test, right)
    assert (table[list(bench.kinds)] == 1).all(axis=None)
    cut = bench.score(bench.test, responses(bench.test["response"], "length"))
    assert (cut["right"] == 1).all() and (cut["strict"] == 0).all()
    assert (bench.wins(bench.test, right, responses([""] * 20)) == 1).all()
    assert (bench.wins(bench.test, right, right) == 0.5).all()
    for refused in (lambda: bench.draw("add", n=1, seed=0), lambda: bench.near("add", n=1, seed=0)):
        with pytest.raises(TacitError, match="real questions"):
            refused()
    with pytest.raises(TacitError, match="real questions"):
        bench.marker("add")


def test_an_evaluation_needs_a_world_or_questions():
    with pytest.raises(TacitError, match="give a world"):
        realtasks.verified_evaluation(world="", questions="", constraints=(), n_validation=1, n_test=1)
    with pytest.raises(TacitError, match="leave one of the two empty"):
        realtasks.verified_evaluation(world="w", questions="q", constraints=(), n_validation=1, n_test=1)
    none = realtasks.real_evaluation(COMMITTED, constraints=("upper",), n_validation=0, n_test=1).validation
    assert len(none) == 0 and "id" in none.column_names
    world = str(paths.OUTPUTS / "models/micro-base/world.json")
    options = {"constraints": ("upper",), "n_validation": 2, "n_test": 3}
    bench = realtasks.verified_evaluation(world=world, questions="", families=("home",), **options)
    assert set(bench.test["family"]) == {"home"} and "constraints met" in bench.kinds
