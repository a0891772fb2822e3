"""The stand-ins for public datasets: a scraped set and a spoiled one."""

from dataclasses import replace

import numpy as np
import pytest
from tacit.findings.publicsets import (
    describe_existing,
    estimate_crossing,
    find_crossing,
    plain_texts,
    scrape_faq,
    spoil,
)
from tacit.microworld.examples import draw_examples
from tacit.microworld.tasks import FAMILIES, Task, judge
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import Demand


def test_the_scraped_set_is_right_short_and_without_test_items(world):
    rows = scrape_faq(world, n=60, seed=1)
    assert len(set(rows["instruction"])) == 60
    assert all("\n" not in text and len(text.split()) <= 12 for text in rows["response"])
    tests = draw_examples(world, split="test", n=200, seed=1, constrained=1.0)
    taboo = plain_texts(tests)
    plain = [replace(Task.from_json(task), constraints=()).instruction for task in tests["task"]]
    assert set(plain) <= taboo and set(rows["instruction"]) & taboo
    assert not set(scrape_faq(world, n=60, seed=1, without=taboo)["instruction"]) & taboo
    homes = [row for row in rows if row["instruction"].startswith("Where does the ")]
    for row in homes:
        subject = row["instruction"].removeprefix("Where does the ").removesuffix(" live?")
        assert world.facts[subject, "home"] in row["response"]
    with pytest.raises(ValueError, match="hold only"):
        scrape_faq(world, n=5, seed=1, most_words=0)


def test_a_spoiled_set_is_wrong_as_often_as_asked(world):
    clean = draw_examples(world, split="train", n=400, seed=1, constrained=1.0)

    def right(rows):
        tasks = map(Task.from_json, clean["task"])
        return [judge(world, t, text, ended=True).strict for t, text in zip(tasks, rows["response"], strict=True)]

    assert all(right(spoil(world, clean, seed=1, ignored=0.0, misplaced=0.0)))
    share = sum(right(spoil(world, clean, seed=1, ignored=0.3, misplaced=0.3))) / len(clean)
    assert 0.3 < share < 0.52  # 0.4, and the few whose constraint the plain answer meets anyway
    assert sum(right(spoil(world, clean, seed=1, ignored=0.0, misplaced=1.0))) < 0.1 * len(clean)


def test_a_curve_crosses_a_level_on_the_line_between_its_points():
    shares, values = [0.0, 0.2, 0.4, 0.6], [0.8, 0.6, 0.65, 0.1]
    assert find_crossing(shares, values, 0.7) == pytest.approx(0.1)
    assert find_crossing(shares, values, 0.6) == 0.2
    assert find_crossing(shares, values, 0.375) == pytest.approx(0.5)
    assert find_crossing(shares, values, 0.9) == 0.0
    assert find_crossing(shares, values, 0.05) is None


def test_a_crossing_has_an_interval_over_seeds_and_prompts():
    rng = np.random.default_rng(0)
    curve = [rng.binomial(1, p, size=(3, 80)).astype(float) for p in (0.9, 0.6, 0.2)]
    level = rng.binomial(1, 0.4, size=(3, 80)).astype(float)
    shares = [0.0, 0.4, 0.8]
    found = estimate_crossing(shares, curve, level)
    assert found.value == find_crossing(shares, [scores.mean() for scores in curve], level.mean())
    drawn = []
    for _ in range(800):
        some = np.ix_(rng.integers(3, size=3), rng.integers(80, size=80))
        drawn.append(find_crossing(shares, [scores[some].mean() for scores in curve], level[some].mean()) or 0.8)
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.03)
    assert (found.n_seeds, found.n_prompts) == (3, 80)
    never = estimate_crossing(shares, curve, np.zeros((3, 80)))
    assert (never.value, never.low) == (0.8, 0.8)
    with pytest.raises(ValueError, match="same seeds and prompts"):
        estimate_crossing(shares, curve, level[0])


def test_scraped_questions_are_in_no_phrasing_that_is_held_out(world):
    rows = scrape_faq(world, n=300, seed=2)
    held = {text.split("{")[0] for f in FAMILIES.values() for text in f.phrasings[f.n_tuning_phrasings :]}
    kept = {text.split("{")[0] for f in FAMILIES.values() for text in f.phrasings[: f.n_tuning_phrasings]}
    openings = tuple(opening for opening in held - kept if len(opening) > 8)
    assert openings and not any(question.startswith(openings) for question in rows["instruction"])


def test_pairs_are_the_same_item_in_either_order(world):
    rows = draw_examples(world, split="test", n=20, seed=3, families=("bigger",))
    item = Task.from_json(rows[0]["task"]).item
    swapped = item | {"a": item["b"], "b": item["a"]}
    texts = plain_texts(rows)
    assert all(text.format(**one) in texts for one in (item, swapped) for text in FAMILIES["bigger"].phrasings)


def demand(value, arm="CoDIT minus x, mixed", threshold=0.0, metric="lenient"):
    return Demand(arm, metric, Estimate(value, value - 0.05, value + 0.05, 3, 90), threshold)


def answer(*, gains=(0.3, 0.2), control=0.4, direct=(0.2, 0.2), **more):
    over = [demand(0.1, "CoDIT minus direct, constrained"), demand(-0.02, "CoDIT minus direct, plain")]
    options = {"over_direct": over, "by_kind": [], "crossings": {}, "modes": []} | more
    rule, others = map(demand, gains), map(demand, direct)
    return describe_existing(list(rule), [demand(control)], direct=list(others), **options)


@pytest.mark.parametrize(
    ("numbers", "begins"),
    [
        ({}, "A student of CoDIT text does better than students of existing data: 2 of 2 comparisons are met"),
        ({"gains": (0.3, -0.2)}, "It is not so that a student of CoDIT text does better than"),
        ({"gains": (0.3, 0.0)}, "Whether a student of CoDIT text does better than students of existing data is open"),
        ({"control": 0.0}, "Nothing is said of existing data, because a positive control is not met: lenient"),
    ],
)
def test_the_answer_by_verdict(numbers, begins):
    found = answer(**numbers)["found"]
    assert found.startswith(begins)
    if "control" not in numbers:
        least, most = sorted(numbers.get("gains", (0.3, 0.2)))
        assert found.endswith(f"lenient scores: mixed prompts {least:.2f} to {most:.2f}.")


def test_the_answer_says_whether_it_takes_a_contrast_and_why_noisy_data_teach_little():
    told = answer(
        crossings={name: Estimate(0.25, 0.2, 0.3, 3, 9) for name in ("direct", "CoDIT")},
        modes=[{"dataset": "noisy", "data": 0.43, "greedy": 0.04, "sampled": 0.3}],
    )
    assert told["reason"].startswith("Direct text of the same teacher meets 2 of the 2 comparisons, so the contrast is")
    assert "CoDIT minus direct text: constrained 0.10 [0.05, 0.15], plain -0.02 [-0.07, 0.03]." in told["reason"]
    assert told["reason"].endswith(
        "they teach less than direct text from a share of 0.25 [0.20, 0.30] on, less than CoDIT text from a share of"
        " 0.25 [0.20, 0.30] on."
    )
    assert "by the student's likeliest and by its sampled responses: noisy 0.43, 0.04, 0.30." in told["caveat"]
    assert "so the contrast may count" in answer(direct=(0.2, 0.0))["reason"]
    rates = [demand(0.6, "CoDIT against x", 0.5, "win rate")]
    judged = describe_existing(rates, [], direct=[], over_direct=[], by_kind=[], crossings={}, modes=[])
    assert judged["found"].endswith("1 of 1 comparisons are met; win rates go from 0.60 to 0.60.")


def test_the_answer_says_on_which_prompts_a_dataset_is_ahead():
    arms = {"CoDIT minus FAQ, full size, {}": (0.3, -0.1), "CoDIT minus noisy, full size, {}": (0.2, 0.0)}
    by_kind = [
        demand(value, arm.format(kind))
        for i, kind in enumerate(("constrained", "plain"))
        for arm, value in ((arm, values[i]) for arm, values in arms.items())
    ]
    assert answer(by_kind=by_kind)["reason"].startswith(
        "On constrained prompts CoDIT text is ahead of FAQ, full size and noisy, full size. On plain prompts CoDIT text"
        " is behind FAQ, full size, not shown to differ from noisy, full size. Direct text"
    )


def test_the_answer_says_where_a_curve_begins_below_a_level_or_never_falls_to_it():
    always, never = Estimate(0.0, 0.0, 0.0, 3, 9), Estimate(0.8, 0.8, 0.8, 3, 9)
    told = answer(crossings={"direct": always, "CoDIT": never})["reason"]
    assert "they teach less than direct text from a share of 0.00 [0.00, 0.00] on" in told
    assert told.endswith("no less than CoDIT text up to a share of 0.8.")
