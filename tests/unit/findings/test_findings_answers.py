"""The answers in sentences: every branch of the verdicts, with numbers by hand."""

import pandas as pd
import pytest
from tacit.experiments.stopping import GainSplit
from tacit.findings import answers, outcomes
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import Demand


def estimated(value, half=0.02):
    return Estimate(value, value - half, value + half, 2, 100)


def tuned_rule(gain=0.8, win=0.47):
    return [
        Demand("response-tuned minus base", "strict", estimated(gain), 0.1),
        Demand("response-tuned", "win rate", estimated(win), 0.1),
    ]


def taught(value=0.9):
    return [Demand("instruction-tuned minus base", "strict", estimated(value), 0.1)]


def parity(value=-0.1, side="below"):
    return {"parity": Demand("response-tuned minus instruction-tuned", "strict", estimated(value), 0.0, side)}


@pytest.mark.parametrize(
    ("gain", "win", "control", "beginning", "told"),
    [
        (0.8, 0.47, 0.9, "A model tuned on responses alone follows", "0.47 [0.45, 0.49], below parity."),
        (0.8, 0.55, 0.9, "A model tuned on responses alone follows", "0.55 [0.53, 0.57], above parity."),
        (0.8, 0.49, 0.9, "A model tuned on responses alone follows", "[0.47, 0.51], not shown to be off parity."),
        (0.0, 0.47, 0.9, "A model tuned on responses alone does not", "base model's is 0.00 [-0.02, 0.02], and"),
        (0.11, 0.47, 0.9, "Whether a model tuned on responses alone", "base model's is 0.11 [0.09, 0.13], and"),
        (0.8, 0.47, 0.1, "Nothing is said of responses alone", "minus base: 0.100 [0.080, 0.120]; asked: above 0.1."),
    ],
)
def test_response_tuning_is_told_for_every_verdict(gain, win, control, beginning, told):
    answer = answers.describe_response_tuning(tuned_rule(gain, win), taught(control), asked=parity())
    assert answer["found"].startswith(beginning)
    assert told in answer["found"]
    assert answer["reason"] == "Without verifiers the gain cannot be split into stopping and answering."
    assert (
        answer["caveat"] == "Response tuning falls short of instruction tuning (strict, paired: -0.10 [-0.12, -0.08])."
    )


@pytest.mark.parametrize(
    ("revealed", "pairs", "alone", "words"),
    [
        (0.2, 0.5, 0.0, ["response tuning adds right answers (0.20", "do not teach what is not already"]),
        (-0.2, 0.5, 0.3, ["response tuning loses right answers (-0.20", "teach something that was not there"]),
        (
            0.0,
            0.5,
            0.1,
            [
                "response tuning is not shown to add any (0.00",
                "Whether responses alone teach what is not already there is not",
            ],
        ),
        (
            0.2,
            0.1,
            0.0,
            ["; training all weights on when to stop is not shown to add any", "the boundary is not tested"],
        ),
    ],
)
def test_the_reason_for_response_tuning_says_stopping_revealing_and_boundary(revealed, pairs, alone, words):
    asked = parity() | {
        "stopping": Demand("end alone minus base", "strict", estimated(0.6), 0.1),
        "revealed": Demand("less ready: response-tuned minus base", "lenient", estimated(revealed)),
        "ended": Demand("less ready: end alone minus base", "lenient", estimated(0.01)),
        "pairs": Demand("constrained: pairs minus base", "constraints met", estimated(pairs), 0.1),
        "responses alone": Demand(
            "constrained: responses alone minus base", "constraints met", estimated(alone), 0.1, "below"
        ),
    }
    parts = [estimated(value) for value in (0.8, 0.9, -0.1, -0.1)]
    split = GainSplit(**dict(zip(("gain", "stopping", "beyond", "lenient_gain"), parts, strict=True)))
    reason = answers.describe_response_tuning(tuned_rule(), taught(), asked=asked, split=split)["reason"]
    assert "would already gain 0.90 [0.88, 0.92]. Response tuning differs from that by -0.10 [-0.12, -0.08]" in reason
    assert "so a perfect stop would have gained more. An arm that learns only when to stop gains 0.60" in reason
    for word in words:
        assert word in reason
    asked["kept"] = Demand("constrained: responses alone minus base", "knowledge", estimated(-0.7), -0.2)
    lost = answers.describe_response_tuning(tuned_rule(), taught(), asked=asked, split=split)["reason"]
    assert ("not shown to have kept its answers" in lost) == (pairs == 0.5)


@pytest.mark.parametrize(
    ("value", "words"),
    [(-0.1, "falls short of"), (0.0, "is not shown to differ from"), (0.1, "is ahead of")],
)
def test_the_caveat_of_response_tuning_names_the_worst_family(value, words):
    rows = [("list", -0.6, -0.8, -0.4, 8), ("game", -0.2, -0.4, 0.1, 8), ("home", 0.0, 0.0, 0.0, 8)]
    families = pd.DataFrame(rows, columns=["family", "value", "low", "high", "n_prompts"])
    options = {"asked": parity(value), "families": families}
    caveat = answers.describe_response_tuning(tuned_rule(), taught(), **options)["caveat"]
    assert words in caveat
    assert "in 1 of 3 task families" in caveat
    assert caveat.endswith("furthest behind in `list`: -0.60 [-0.80, -0.40].")


NARROW = ("add", "poem", "recipe", "game", "function")


def narrow_rule(*gains):
    pairs = zip(NARROW, gains, strict=True)
    return [Demand(f"{task} minus base", "strict elsewhere", estimated(gain), 0.1) for task, gain in pairs]


def told_of_narrow(gains=(0.9, 0.8, 0.85, 0.05, 0.88), control=0.9, **known):
    empty = {"splits": {}, "stoppers": {}, "revealed": {}, "odd": {}, "odd_one": "game"}
    return outcomes.describe_single_task(narrow_rule(*gains), taught(control), needed=4, **(empty | known))


@pytest.mark.parametrize(
    ("gains", "control", "beginning", "told"),
    [
        ((0.9, 0.8, 0.85, 0.05, 0.88), 0.9, "A model tuned on one narrow task follows", "4 of 5"),
        ((0.9, 0.8, 0.06, 0.05, 0.88), 0.9, "A model tuned on one narrow task does not follow", "3 of 5"),
        ((0.9, 0.8, 0.11, 0.05, 0.88), 0.9, "Whether a model tuned on one narrow task follows", "3 of 5"),
        ((0.9, 0.8, 0.85, 0.05, 0.88), 0.05, "Nothing is said of narrow tuning", "0.050 [0.030, 0.070]; asked: above"),
    ],
)
def test_single_tasks_answer_follows_the_verdict(gains, control, beginning, told):
    found = told_of_narrow(gains, control)["found"]
    assert found.startswith(beginning)
    assert told in found
    if control == 0.9:
        assert "from 0.05 [0.03, 0.07] (game) to 0.90 [0.88, 0.92] (add)." in found


def split_of(beyond):
    return GainSplit(estimated(0.8), estimated(0.8), estimated(beyond), estimated(beyond))


def test_single_tasks_reason_splits_the_gain():
    stoppers = {"constant end": taught(0.85)[0]}
    splits = {"add": split_of(0.01), "poem": split_of(0.0), "game": split_of(0.1)}
    reason = told_of_narrow(splits=splits, stoppers=stoppers)["reason"]
    assert "gain by themselves: constant end 0.85 [0.83, 0.87]." in reason
    assert (
        "1 of 3 gains are above 0 (0.10 to 0.10) and 2 of 3 gains are not shown to differ from 0 (0.00 to 0.01)."
        in reason
    )
    assert "less ready" not in reason
    revealed = {"poem": Demand("a", "lenient", estimated(0.2)), "end alone": Demand("b", "lenient", estimated(0.01))}
    reason = told_of_narrow(revealed=revealed)["reason"]
    assert (
        "more answers are right after poem (0.20 [0.18, 0.22]); no change is shown for end alone (0.01 [-0.01, 0.03])."
        in reason
    )
    assert "Without verifiers" in reason


@pytest.mark.parametrize(
    ("gaps", "told"),
    [
        (
            {1: -0.2, 2: -0.1, 3: 0.0},
            "below the other tasks: by -0.20 after 1, -0.10 after 2 epochs of training; after 3 it is not shown to.",
        ),
        ({1: -0.2}, "lies below the other tasks: by -0.20 after 1 epochs of training."),
        ({1: 0.0, 2: 0.1}, "is not shown to lie below the other tasks."),
        ({}, "that was not looked at."),
    ],
)
def test_the_odd_one_is_told_by_epochs(gaps, told):
    odd = {epochs: Demand("game", "strict", estimated(gap), side="below") for epochs, gap in gaps.items()}
    assert told in told_of_narrow(odd=odd)["caveat"]


def told_of_rules(gain=0.8, win=0.4, control=0.9, beyond=None, **known):
    rule = [
        Demand("all rules minus base", "strict", estimated(gain), 0.1),
        Demand("all rules", "win rate", estimated(win), 0.1),
    ]
    empty = {"stopping": {}, "revealed": {}, "printed": Demand("Table 8", "strict", estimated(0.3), 0.1)}
    held = None if beyond is None else Demand("all rules minus constant end", "strict", estimated(beyond))
    return outcomes.describe_three_rules(rule, taught(control), beyond=held, **(empty | known))


@pytest.mark.parametrize(
    ("known", "beginning"),
    [
        ({}, "A base model under three hand-written rules follows"),
        ({"win": 0.05}, "A base model under three hand-written rules does not"),
        ({"gain": 0.1}, "Whether a base model under three hand-written rules follows"),
        ({"control": 0.05}, "Nothing is said of the rules"),
    ],
)
def test_the_rules_answer_follows_the_verdict(known, beginning):
    told = told_of_rules(**known)
    assert told["found"].startswith(beginning)
    assert ("0.80 [0.78, 0.82]" in told["found"]) == ("gain" not in known and "control" not in known)
    assert "the gain is 0.30 [0.28, 0.32]: the same test is met." in told["caveat"]


@pytest.mark.parametrize(
    ("beyond", "told"),
    [
        (0.1, "0.10 [0.08, 0.12], so they do more than make the model stop."),
        (0.0, "so they are not shown to do more than one constant that makes the model stop."),
        (-0.1, "so one constant that makes the model stop does better."),
        (None, "Without verifiers it is not measured"),
    ],
)
def test_the_rules_are_held_against_one_constant(beyond, told):
    assert told in told_of_rules(beyond=beyond)["reason"]


def world_rule(rise=0.9, runs_on=0.8):
    return [
        Demand("tuned minus base", "strict", estimated(rise), 0.5),
        Demand("base", "lenient minus strict", estimated(runs_on), 0.3),
    ]


def judged(right=0.999, wrong=0.03):
    return [
        Demand("right responses", "strict", Estimate(right, right - 0.001, right, 1, 500), 0.99),
        Demand("wrong responses", "strict", estimated(wrong), 0.1, "below"),
    ]


@pytest.mark.parametrize(
    ("rise", "runs_on", "wrong", "beginning"),
    [
        (
            0.9,
            0.8,
            0.03,
            "The base model knows the answers and does not stop, and tuned models answer strictly: tuning",
        ),
        (0.9, 0.1, 0.03, "It is not so here that the base model knows"),
        (0.5, 0.8, 0.03, "It is not decided that the base model knows"),
        (0.9, 0.8, 0.2, "Nothing is said of the models, because the verifier fails its own check: strict, wrong resp"),
    ],
)
def test_the_micro_world_is_told_for_every_verdict(rise, runs_on, wrong, beginning):
    options = {"beyond": estimated(0.1), "won": estimated(0.97)}
    answer = answers.describe_micro_world(world_rule(rise, runs_on), judged(wrong=wrong), **options)
    assert answer["found"].startswith(beginning)
    if wrong < 0.1:
        assert f"its strict score by {rise:.2f} [{rise - 0.02:.2f}, {rise + 0.02:.2f}], and" in answer["found"]
    else:
        assert "right responses" not in answer["found"]  # that control passes
    assert "differ from that by 0.10 [0.08, 0.12], so more answers are right than stopping alone" in answer["reason"]
    assert answer["reason"].endswith("win rate against the base model is 0.97 [0.95, 0.99].")
    assert "2 tuned models," in answer["caveat"]


def ranking_rule(mean=0.9, summed=0.8, arm="base", kind="free words, same family"):
    return [
        Demand(arm, f"mean, {kind}", estimated(mean), 0.5),
        Demand(arm, f"summed, {kind}", estimated(summed), 0.5),
    ]


def worded(**changed):
    """The estimates of a run with free words."""
    values = {"behind": 0.0, "templates": 0.97, "lost": 0.3, "swapped": 0.7} | changed
    return {name: estimated(value) for name, value in values.items()}


@pytest.mark.parametrize(
    ("summed", "control", "beginning"),
    [
        (0.8, 0.9, "Before any tuning the base model finds a right response in words that its corpus never uses like"),
        (0.4, 0.9, "The base model does not find a right response in words"),
        (0.51, 0.9, "Whether the base model finds a right response in words"),
        (0.8, 0.5, "Nothing is said of the base model, because even the instruction-tuned model is not shown to rank"),
    ],
)
def test_ranking_is_told_for_every_verdict(summed, control, beginning):
    rule, controls = ranking_rule(summed=summed), ranking_rule(mean=control, arm="instruction-tuned")
    answer = answers.describe_ranking(rule, controls, **worded())
    assert answer["found"].startswith(beginning)
    numbers = f"is 0.90 [0.88, 0.92] (mean) and {summed:.2f} [{summed - 0.02:.2f}, {summed + 0.02:.2f}] (summed) by"
    assert (numbers in answer["found"]) == (control == 0.9)
    assert "the right one beats 0.70 [0.68, 0.72] of the wrong ones, so it tells right answers" in answer["reason"]
    assert answer["reason"].endswith("ranks neither better nor worse, as far as seen (0.00 [-0.02, 0.02]).")
    assert answer["reason"].startswith("In its corpus' own templates a right response beats 0.97 [0.95, 0.99] of the o")
    assert (
        "others, 0.30 [0.28, 0.32] more than in free words, so much of that is the wording and near" in answer["reason"]
    )


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"swapped": 0.5}, "is not shown to tell"),
        ({"swapped": 0.3}, "it prefers wrong answers"),
        ({"behind": -0.1}, "it ranks worse (-0.10 [-0.12, -0.08])."),
        ({"templates": 0.9}, "so much of that is the wording."),
        ({"lost": 0.0}, "not shown to differ from free words (0.00 [-0.02, 0.02]) and near the ceiling of 1."),
        ({"lost": -0.2}, "less than in free words (-0.20 [-0.22, -0.18]) and near the ceiling of 1."),
    ],
)
def test_words_templates_and_tuning_are_told_as_they_are(changed, words):
    rule, controls = ranking_rule(), ranking_rule(arm="instruction-tuned")
    assert words in answers.describe_ranking(rule, controls, **worded(**changed))["reason"]


def test_without_a_world_ranking_says_nothing_of_free_words():
    rule, controls = (ranking_rule(arm=arm, kind="any other") for arm in ("base", "instruction-tuned"))
    answer = answers.describe_ranking(rule, controls, behind=estimated(0.1))
    assert "the right response likelier" in answer["found"] and "other instructions" in answer["found"]
    assert answer["reason"] == "After instruction tuning it ranks better (0.10 [0.08, 0.12])."
    assert "wording" not in answer["caveat"] and "corpus" not in answer["found"]


def narrow_style(near, far=0.0, own=0.95, control=0.8):
    rule = [
        Demand("narrow tasks together", "near minus elsewhere", estimated(near), 0.05),
        Demand("narrow tasks together", "elsewhere", estimated(far), 0.1, "below"),
    ]
    controls = [Demand("narrow", "style", estimated(own), 0.8), Demand("control", "style", estimated(control), 0.6)]
    by_task = {
        task: Demand(task, "near minus elsewhere", estimated(value), 0.05)
        for task, value in {"add": 0.22, "poem": -0.27, "game": 0.01}.items()
    }
    columns = {"base": [0.2, 0.7, 0.1], "instruction-tuned": [0.4, 0.72, 0.3], "narrow": [0.6, 0.45, 0.3]}
    levels = pd.DataFrame(columns, index=["add", "poem", "game"])
    base = Demand("narrow tasks together", "against base", estimated(0.11), 0.05)
    return outcomes.describe_narrow_style(rule, controls, by_task=by_task, levels=levels, against_base=base)


@pytest.mark.parametrize(
    ("numbers", "beginning", "told"),
    [
        ({"near": 0.1}, "A narrowly tuned model's style spills over near", "elsewhere by 0.10 [0.08, 0.12], and"),
        ({"near": 0.0}, "A narrowly tuned model's style does not spill", "elsewhere by 0.00 [-0.02, 0.02], and"),
        ({"near": 0.1, "far": 0.2}, "A narrowly tuned model's style does not spill", "it is 0.20 [0.18, 0.22]."),
        ({"near": 0.06}, "Whether a narrowly tuned model's style", "elsewhere it is 0.00 [-0.02, 0.02]."),
        ({"near": 0.1, "own": 0.5}, "Nothing is said of narrow styles", "style, narrow: 0.500 [0.480, 0.520]"),
        ({"near": 0.1, "control": 0.5}, "Nothing is said of narrow styles", "style, control: 0.500 [0.480, 0.520]"),
    ],
)
def test_narrow_style_by_verdict(numbers, beginning, told):
    answer = narrow_style(**numbers)
    assert answer["found"].startswith(beginning) and told in answer["found"] and answer["found"].endswith(".")
    assert "above 0 for 1 of 3 (add) and below 0 for poem." in answer["reason"]
    assert "in 0.33, the instruction-tuned model in 0.47, the narrow models in 0.45; measured" in answer["reason"]


def test_a_task_that_runs_backwards_is_told_by_its_base_model():
    text = "For poem (base 0.70, instruction-tuned 0.72, narrow 0.45) the base model has this style by itself, and"
    assert text in narrow_style(0.1)["reason"]
    levels = pd.Series({"base": 0.1, "instruction-tuned": 0.7, "narrow": 0.4})
    assert "both kinds of tuning raise the wrong style, and broad" in outcomes._tell_backwards("poem", levels)


def readiness_answer(*, none=0.5, one=0.6, taught=0.7, knows=0.8, revealed=0.1, n_bases=(6, 6, 6)):
    rule = [
        Demand(f"response-tuned, fresh minus {what}", "strict", estimated(value), 0.1)
        for what, value in {"none": none, "one": one}.items()
    ]
    controls = [
        Demand(f"instruction-tuned, {corpus}", "strict", estimated(value), 0.4)
        for corpus, value in {"none": taught, "fresh": 0.75, "one": 0.6}.items()
    ]
    controls += [
        Demand(f"seen format, {corpus}", "lenient", estimated(value), 0.6)
        for corpus, value in {"none": knows, "fresh": 0.82, "one": 0.77}.items()
    ]
    narrow = [Demand("narrow, fresh minus none", "strict", estimated(0.55), 0.1)]
    narrow.append(Demand("narrow, fresh minus one", "strict", estimated(0.66), 0.1))
    return outcomes.describe_readiness(
        rule,
        controls,
        narrow=narrow,
        revealed=Demand("response-tuned minus three rules", "lenient", estimated(revealed)),
        n_bases=dict(zip(("none", "fresh", "one"), n_bases, strict=True)),
    )


@pytest.mark.parametrize(
    ("numbers", "beginning", "told"),
    [
        ({}, "Questions and answers in many fresh formats make", "is 0.50 [0.48, 0.52], and minus"),
        ({"one": 0.0}, "Questions and answers in many fresh formats do not make", "it is 0.00 [-0.02, 0.02]."),
        ({"none": 0.11}, "Whether questions and answers in many", "is 0.11 [0.09, 0.13], and minus"),
        ({"taught": 0.3}, "Nothing is said of formats", ": strict, instruction-tuned, none: 0.300 [0.280, 0.320]"),
        ({"knows": 0.61}, "Nothing is said of formats", ": lenient, seen format, none: 0.610 [0.590, 0.630]"),
    ],
)
def test_readiness_by_verdict(numbers, beginning, told):
    answer = readiness_answer(**numbers)
    assert answer["found"].startswith(beginning) and told in answer["found"] and answer["found"].endswith(".")
    assert "After narrow tuning the two differences are 0.55 [0.53, 0.57] and 0.66 [0.64, 0.68]." in answer["reason"]


def test_readiness_says_what_the_controls_and_the_other_routes_show():
    reason = readiness_answer()["reason"]
    assert reason.startswith("By corpus, the base models answer 0.77 to 0.82 of the prompts in a format that they have")
    assert "and 0.60 to 0.75 after instruction tuning (strict)." in reason
    assert reason.endswith("0.10 [0.08, 0.12], so tuning reveals answers that the rules do not.")
    assert "so it is not shown that tuning reveals" in readiness_answer(revealed=0.0)["reason"]
    assert readiness_answer(revealed=-0.1)["reason"].endswith("so the rules give more right answers than tuning.")


@pytest.mark.parametrize(
    ("n_bases", "caveat"),
    [
        ((6, 7, 6), "There are 6 to 7 base models a corpus, all of one size and one length of pretraining."),
        ((2, 2, 2), "There are 2 base models a corpus, too few for narrow intervals; `make readiness`"),
        ((1, 1, 1), "There is 1 base model a corpus, too few"),
    ],
)
def test_readiness_counts_its_base_models(n_bases, caveat):
    assert readiness_answer(n_bases=n_bases)["caveat"].startswith(caveat)
