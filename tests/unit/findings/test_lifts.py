"""Finding 10 without sampling: what tokens are there for, what a contrast does to them, and the answer by verdict."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import llama_config, make_model
from scipy import stats
from tacit.findings import factprobes
from tacit.microworld.examples import make_row
from tacit.microworld.tasks import Task
from tacit.models.chat import render_prompt
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import Demand


def marked(world, tokenizer, constraints):
    """The pieces of a right response under ``constraints``, with their marks."""
    subject = next(s for (s, a) in sorted(world.facts) if a == "home")
    row = make_row(world, Task("home", {"subject": subject}, 0, tuple(constraints)), seed=3, short=False)
    pieces = tokenizer(row["response"], add_special_tokens=False)["input_ids"]
    marks = factprobes.mark_tokens(world, tokenizer, row)
    assert len(marks) == len(pieces) + 1 and marks[-1] == "end"
    by_mark = {}
    for piece, mark in zip(pieces, marks, strict=False):
        by_mark.setdefault(mark, []).append(tokenizer.decode([piece]))
    return row["response"], world.facts[subject, "home"], {mark: "".join(p).strip() for mark, p in by_mark.items()}


def test_tokens_are_told_apart_by_what_they_are_there_for(world, tokenizer):
    text, value, marks = marked(world, tokenizer, [("brackets", "")])
    assert marks["constraint"] == "[]" and marks["fact"] == value
    assert value not in marks["other"] and text.startswith("[")
    _, value, marks = marked(world, tokenizer, [("title", "Note")])
    assert "".join(marks["constraint"].split()) == "<<Note>>" and marks["fact"] == value
    text, value, marks = marked(world, tokenizer, [("twice", "")])
    assert text.count(value) == 2 and marks["fact"] == value  # the second time it is a copy
    assert value in marks["constraint"]
    text, value, marks = marked(world, tokenizer, [("upper", ""), ("bullets", "")])
    assert value.upper() in text and "fact" not in marks  # a word in capitals carries both
    assert marks["constraint"] == "*"
    _, value, marks = marked(world, tokenizer, [])
    assert set(marks) == {"fact", "other"} and marks["fact"] == value


def test_changes_are_those_of_two_softmaxes_by_hand(world, tokenizer):
    pair = [make_model(llama_config(tokenizer), seed=seed) for seed in (0, 1)]
    rows = factprobes.draw_facts(world, sides=["both"], split="test", n=3, seed=0, constraints=["brackets", "quotes"])
    marks = [factprobes.mark_tokens(world, tokenizer, row) for row in rows]
    alpha, masked = 1e-3, 0
    lifts = factprobes.measure_lifts(*pair, tokenizer, rows, marks=marks, alpha=alpha, betas=[0.25, 0.5])
    expected = []
    for number, (row, of_row) in enumerate(zip(rows, marks, strict=True)):
        prompt = tokenizer(render_prompt(tokenizer, row["instruction"]), add_special_tokens=False)["input_ids"]
        right = [*tokenizer(row["response"], add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        by_mark = {}
        for t, (token, mark) in enumerate(zip(right, of_row, strict=True)):
            with torch.inference_mode():
                p, base = (
                    m(input_ids=torch.tensor([prompt + right[:t]])).logits[0, -1].double().softmax(-1) for m in pair
                )
            keep = p >= alpha * p.max()
            by_mark.setdefault(mark, [])
            if not keep[token]:
                masked += 1
                by_mark[mark].append((0.0, True, keep.sum() > 1, 0.0, 0.0))
                continue
            before, after = (torch.where(keep, p / base**beta, 0.0) for beta in (0.0, 0.5))
            before, after = (before / before.sum())[token].item(), (after / after.sum())[token].item()
            by_mark[mark].append((np.log(after / before), False, keep.sum() > 1, before, after))
        for mark in sorted(by_mark):
            changes, hidden, several, before, after = np.array(by_mark[mark], dtype=float).T
            gain = after.prod() - before.prod()
            expected.append((number, mark, changes.sum(), hidden.mean(), several.mean(), gain))
    assert 0 < masked < sum(map(len, marks))  # the case shows both
    of_half = lifts[lifts["beta"] == 0.5].sort_values(["example", "mark"])
    assert [tuple(row) for row in of_half[["example", "mark"]].to_numpy()] == [row[:2] for row in expected]
    assert of_half["change"].tolist() == pytest.approx([row[2] for row in expected], abs=1e-4)
    assert of_half["masked"].tolist() == pytest.approx([row[3] for row in expected])
    assert of_half["open"].tolist() == pytest.approx([row[4] for row in expected])
    assert of_half["gain"].tolist() == pytest.approx([row[5] for row in expected], abs=1e-6)
    assert any(gain for *_, gain in expected)
    assert of_half["fact"].nunique() == len(factprobes.asked_about(rows))
    assert len(lifts) == 2 * len(expected)


def make_lifts():
    """Thirty facts of two questions each; the second question of a fact changes as the first does."""
    rows = []
    for i in range(60):
        for beta in (0.5, 1.0):
            change = float(i // 2) * beta
            rows.append((i, "fact", beta, -change, i % 3 > 0, str(i // 2)))
            rows.append((i, "constraint", beta, change, True, str(i // 2)))
    return pd.DataFrame(rows, columns=["example", "mark", "beta", "gain", "open", "fact"]).assign(change=1.0)


def test_the_mean_change_is_over_facts_and_not_over_questions():
    lifts = make_lifts()
    result = factprobes.average_lifts(lifts, "fact", 1.0)
    assert (result.value, result.n_prompts) == (-14.5, 30)
    known = stats.t.interval(0.95, 29, loc=-14.5, scale=stats.sem(range(30)))
    assert (result.low, result.high) == pytest.approx(known, abs=0.5)
    gap = factprobes.average_lifts(lifts, "constraint", 0.5, minus="fact")
    assert gap.value == pytest.approx(14.5)
    assert factprobes.average_lifts(lifts, "fact", 1.0, column="change").value == 1.0
    with pytest.raises(ValueError, match="no question has end tokens"):
        factprobes.average_lifts(lifts, "end", 1.0)


def test_gains_by_constraint_count_a_question_with_two_in_both(world):
    options = {"sides": ["both"], "split": "test", "n": 24, "seed": 0}
    rows = factprobes.draw_facts(world, **options, constraints=["brackets", "quotes", "upper"])
    carried = [{name for name, _ in Task.from_json(task).constraints} for task in rows["task"]]
    gains = [number / 24 for number in range(24)]
    columns = {"example": range(24), "mark": "constraint", "beta": 0.5, "gain": gains}
    lifts = pd.concat([pd.DataFrame(columns), pd.DataFrame(columns | {"beta": 1.0, "gain": 9.0})])
    table = factprobes.split_by_constraint(lifts, rows, 0.5)
    assert table["gain"].is_monotonic_increasing and set(table.index) == set().union(*carried)
    assert table["questions"].sum() > 24  # some carry two
    for name, row in table.iterrows():
        of_name = [gain for gain, names in zip(gains, carried, strict=True) if name in names]
        assert (row["questions"], row["gain"]) == (len(of_name), pytest.approx(np.mean(of_name)))


def demand(value, arm="x", threshold=0.0):
    return Demand(arm, "nats", Estimate(value, value - 0.05, value + 0.05, 1, 90), threshold)


def answer(*, following=0.4, knowledge=0.01, control=0.3, **more):
    rule = [demand(following), demand(knowledge, threshold=-0.05)]
    doses = {0.25: (Estimate(0.1, 0.0, 0.2, 1, 9), Estimate(0.0, -0.1, 0.1, 1, 9))}
    options = {"doses": doses, "data": {}, "students": {}} | more
    return factprobes.describe_knowledge(rule, [demand(control)], **options)


@pytest.mark.parametrize(
    ("numbers", "begins"),
    [
        ({}, "The contrast amplifies following and costs known facts less than 0.05: "),
        ({"knowledge": -0.3}, "It is not so that the contrast amplifies following and costs known"),
        ({"following": 0.01}, "Whether the contrast amplifies following and costs known facts less than 0.05 is"),
        ({"control": 0.0}, "Nothing is said of knowledge, because the measure misses facts that were taught: nats, x:"),
    ],
)
def test_the_answer_by_verdict(numbers, begins):
    assert answer(**numbers)["found"].startswith(begins)


def test_the_answer_tells_what_text_and_students_show():
    told = answer(data={"data, following": demand(0.1)}, students={"student, knowledge": demand(-0.2)})
    assert told["reason"] == (
        "By part: holds for following, holds for knowledge. By dose, constraint and fact tokens: beta 0.25: 0.10 [0.00,"
        " 0.20] and 0.00 [-0.10, 0.10]. In sampled text and its students, CoDIT minus the mask alone: data,"
        " following 0.10 [0.05, 0.15] (met); student, knowledge -0.20 [-0.25, -0.15] (the other side)."
    )
    assert "a right token that the mask removes counts with no change" in told["caveat"]
    assert answer()["reason"].endswith("0.00 [-0.10, 0.10].")
