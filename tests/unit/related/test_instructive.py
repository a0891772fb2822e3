"""Finding 12: noisy instructions, their correlation, and the answer by verdict."""

import itertools

import numpy as np
import pytest
from scipy import stats
from tacit.experiments import realtasks
from tacit.microworld.examples import draw_examples
from tacit.related import instructive
from tacit.related.instructive import NOISES, OPPOSITE, OWN, Parts
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import Demand
from tacit.support import paths

PARTS = [
    Parts("Name a fruit.", "Use no capitals at all."),
    Parts("What is 2 + 2?", "End your answer with three dots."),
    Parts("Spell moon.", "Use no capitals at all."),
]


def test_instructions_divide_into_question_and_clause_at_both_scales(world):
    rows = draw_examples(world, split="test", n=30, seed=0, families=("home", "opposite"), constrained=1.0)
    for part, row in zip(instructive.divide_instructions(rows), rows, strict=True):
        assert f"{part.question} {part.clause}" == row["instruction"]
        assert part.question.endswith(("?", "."))
    questions = realtasks.read_questions(paths.NOTEBOOKS / "data" / "questions.jsonl")
    rows = realtasks.draw_prompts(questions, n=30, seed=0, constraints=("brackets", "opening"))
    asked = {question.question for question in questions}
    for part in instructive.divide_instructions(rows):
        assert part.question in asked
        assert part.clause == "Put your whole answer in square brackets." or part.clause.startswith("Begin your")


def test_an_instruction_without_a_clause_is_refused(world):
    rows = draw_examples(world, split="test", n=2, seed=0, families=("home",))
    with pytest.raises(ValueError, match="does not end with the clause"):
        instructive.divide_instructions(rows)


def test_the_noises_leave_what_they_say():
    made = {noise: instructive.make_noisy(PARTS, noise, seed=0) for noise in NOISES}
    assert made["null"] == [part.question for part in PARTS]
    assert made["no question"] == [part.clause for part in PARTS]
    assert made["nothing"] == ["", "", ""]
    assert made["opposite alone"] == [f"{part.question} {OPPOSITE}" for part in PARTS]
    assert made["opposite added"] == [f"{part.question} {part.clause} {OPPOSITE}" for part in PARTS]
    assert made["another clause"][1].endswith("Use no capitals at all.")
    assert made["another clause"][0] == "Name a fruit. End your answer with three dots."
    for part, shuffled, drawn in zip(PARTS, made["shuffled"], made["random words"], strict=True):
        words = part.clause.split()
        kept = shuffled.removeprefix(f"{part.question} ").split()
        assert len(kept) == round(0.6 * len(words)) and set(kept) <= set(words)
        assert len(drawn.removeprefix(f"{part.question} ").split()) == len(words)
    assert instructive.make_noisy(PARTS, OWN, seed=0) == [" ".join(part) for part in PARTS]


def test_noises_follow_their_seed_and_unknown_ones_are_refused():
    for noise in ("shuffled", "random words"):
        one, again, other = (instructive.make_noisy(PARTS, noise, seed=seed) for seed in (1, 1, 2))
        assert one == again != other
    with pytest.raises(ValueError, match="unknown noise 'loud'"):
        instructive.make_noisy(PARTS, "loud", seed=0)
    with pytest.raises(ValueError, match="all prompts carry the same clause"):
        instructive.make_noisy(PARTS[:1], "another clause", seed=0)


def test_the_correlation_over_noises_is_scipys_and_its_interval_widens_with_noise():
    rng = np.random.default_rng(0)
    plain = np.full((2, 400), 0.5)
    harms, gains = [0.05, 0.1, 0.2, 0.3, 0.4], [0.0, 0.02, 0.05, 0.04, 0.1]
    blurred = {str(i): plain - harm for i, harm in enumerate(harms)}
    decoded = {str(i): plain + gain for i, gain in enumerate(gains)}
    exact = instructive.correlate_noises(plain, blurred, decoded)
    assert exact.value == pytest.approx(stats.spearmanr(harms, gains).statistic)
    assert exact.low == exact.high == exact.value and (exact.n_seeds, exact.n_prompts) == (2, 400)
    loud = {noise: scores + rng.normal(0, 1.0, plain.shape) for noise, scores in decoded.items()}
    noisy = instructive.correlate_noises(plain, blurred, loud, n_resamples=200)
    assert noisy.low < noisy.high
    same = dict.fromkeys(decoded, plain)
    assert instructive.correlate_noises(plain, same, decoded, n_resamples=10).value == 0.0


def demand(arm, value, *, width=0.01, threshold=0.0, metric="strict"):
    return Demand(arm, metric, Estimate(value, value - width, value + width, 2, 100), threshold)


@pytest.mark.parametrize(
    ("value", "control", "begins"),
    [
        (0.1, 0.3, "Decoding against the opposite scores more than 0.02 higher"),
        (-0.1, 0.3, "It is not so that decoding"),
        (0.02, 0.3, "Whether decoding against"),
        (0.1, 0.0, "Nothing is said of the contrast"),
    ],
)
def test_the_answer_follows_the_verdict(value, control, begins):
    rule = [demand(f"opposite alone minus {other}", value, threshold=0.02) for other in ("greedy", "null", "nothing")]
    controls = [demand("tuned on more minus greedy", control, threshold=0.1)]
    answer = instructive.describe_instructive_decoding(
        rule,
        controls,
        clauses=demand("opposite", 0.06),
        knowledge=demand("opposite", -0.09),
        harms=[0.1, 0.2, 0.37, 0.36, 0.35],
        ranked=Estimate(0.5, 0.1, 0.8, 2, 100),
    )
    assert answer["found"].startswith(begins)
    if control > 0.1:
        assert f"opposite alone minus null {value:.3f} [" in answer["found"]
        assert f"({rule[0].verdict})." in answer["found"]
    assert "met by 0.06 [0.05, 0.07] and the share of right answers by -0.09 [-0.10, -0.08]" in answer["reason"]
    assert "correlation is 0.50 [0.10, 0.80], but 3 of the 5 noises harm about alike" in answer["reason"]
    assert "  " not in "".join(itertools.chain(*answer.values()))
