"""Readiness: one measurement against finetuning and scoring by hand, and its record on the disk."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import llama_config, make_model
from tacit.decoding.generation import generate_responses
from tacit.decoding.rules import make_rules
from tacit.experiments.evaluation import VerifiedEvaluation, micro_evaluation
from tacit.findings.readiness import ARMS, fit_rules, loss_curves, measure_base, read_measurement, verdict_matrix
from tacit.models import chat
from tacit.models.loading import load_model, load_tokenizer
from tacit.support.errors import TacitError
from tacit.training.finetuning import finetune

RULES = {"uniform_tokens": {"\n": 9.0}, "end_weight": 40.0, "end_horizon": 10, "diversity_weight": -4.0}
SETTINGS = {"learning_rate": 1e-2, "batch_size": 8}
SIZES = {
    "narrow": "poem", "rules": RULES, "end_weights": [10.0, 40.0], "uniform_scales": [0.25, 1.0], "seeds": [1, 2],
    "selection_seed": 0, "n_train": 16, "epochs": [1, 2], "max_new_tokens": 6, **SETTINGS,
}  # fmt: skip
PRETRAINING = {
    "name": "tiny", "packages": {"torch": "2"}, "code": "abc", "markup_share": 0.3, "seed": 4,
    "curve": [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0, "eval_loss": 2.5}, {"step": 40, "eval_loss": 2.25}],
}  # fmt: skip


class OddEvaluation(VerifiedEvaluation):
    """Verdicts that a random model can meet: texts of odd length are strictly right, those without an e leniently."""

    def score(self, examples, responses):
        strict = [float(len(r.text) % 2) for r in responses]
        lenient = [float("e" not in r.text) for r in responses]
        return pd.DataFrame({"id": examples["id"], "strict": strict, "lenient": lenient})


class GivenEvaluation(VerifiedEvaluation):
    """Responses that are their own strict scores."""

    def score(self, examples, responses):
        return pd.DataFrame({"strict": responses})


@pytest.fixture(scope="module")
def measured(world, tokenizer, tmp_path_factory):
    """A tiny saved checkpoint with the record of its pretraining, the bench, and its measurement."""
    folder = tmp_path_factory.mktemp("readiness")
    base = folder / "a-base"
    make_model(llama_config(tokenizer), seed=0).save_pretrained(base)
    tokenizer.save_pretrained(base)
    (base / "pretraining.json").write_text(json.dumps(PRETRAINING))
    (folder / "world.json").write_text(world.to_json())
    bench = OddEvaluation(**vars(micro_evaluation(str(folder / "world.json"), n_validation=9, n_test=12)))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TACIT_CACHE", str(folder / "cache"))
        record = measure_base(str(base), bench=bench, **SIZES)
    return str(base), bench, record


def test_a_record_says_what_was_measured_and_how(measured):
    _, bench, record = measured
    assert record == json.loads(json.dumps(record))
    assert record["base"] == "a-base"
    assert record["settings"] == SIZES
    assert record["prompts"] == list(bench.test["id"])
    assert record["families"] == list(bench.test["family"])
    assert record["pretraining"] == PRETRAINING
    assert {"library", "commit", "packages"} <= set(record["made_with"])
    assert set(record["fitted"]["epochs"]) == {"response-tuned", "narrow", "instruction-tuned"}
    assert tuple(record["verdicts"]) == ARMS
    for arm, kinds in record["verdicts"].items():
        n_seeds = 2 if arm in ("response-tuned", "narrow", "instruction-tuned") else 1
        assert set(kinds) == {"strict", "lenient"}
        for texts in kinds.values():
            assert len(texts) == n_seeds
            assert all(len(text) == 12 and set(text) <= {"0", "1"} for text in texts)


def test_every_arms_verdicts_are_those_of_the_steps_by_hand(measured):
    base, bench, record = measured
    tokenizer = load_tokenizer(base, chat_template=chat.tulu_template())
    seen = load_tokenizer(base, chat_template=chat.faq_template())

    def say(model, rows, tokenizer=tokenizer, **options):
        return generate_responses(model, tokenizer, rows["instruction"], max_new_tokens=6, **options)

    def tuned(name, *, epochs, seed, **options):
        rows = bench.draw(name, n=16, seed=seed, **options)
        return finetune(load_model(base), tokenizer, rows, epochs=epochs, seed=seed, **SETTINGS)[0]

    def rate(responses):
        return sum(len(r.text) % 2 for r in responses) / len(responses)

    def validated(epochs):
        return rate(say(tuned("poem", epochs=epochs, seed=0), bench.validation))

    model = load_model(base)
    weights = [
        RULES | {"end_weight": weight, "uniform_tokens": {"\n": 9.0 * scale}}
        for weight in (10.0, 40.0)
        for scale in (0.25, 1.0)
    ]
    rules = [make_rules(tokenizer, **options) for options in weights]
    rates = [rate(say(model, bench.validation, make_processors=make)) for make in rules]
    best = rates.index(max(rates))
    assert len(set(rates)) > 1
    assert record["fitted"]["rules"] == weights[best]
    epochs = record["fitted"]["epochs"]
    assert epochs["narrow"] == max([1, 2], key=validated)
    responses = {
        "base": [say(model, bench.test)],
        "base, seen format": [say(model, bench.test, seen)],
        "three rules": [say(model, bench.test, make_processors=rules[best])],
    }
    for arm, name, blank in (
        ("response-tuned", "broad", True),
        ("narrow", "poem", False),
        ("instruction-tuned", "broad", False),
    ):
        options = {"epochs": epochs[arm], "blank": blank}
        responses[arm] = [say(tuned(name, seed=seed, **options), bench.test) for seed in (1, 2)]
    for arm, per_seed in responses.items():
        strict = [[len(r.text) % 2 for r in one] for one in per_seed]
        lenient = [[int("e" not in r.text) for r in one] for one in per_seed]
        assert verdict_matrix(record, arm).tolist() == strict, arm
        assert verdict_matrix(record, arm, "lenient").tolist() == lenient, arm
    assert len({str(kinds) for kinds in record["verdicts"].values()}) == len(ARMS)  # or agreement would mean little


def test_rules_are_fitted_on_validation_prompts_the_first_of_equals(measured):
    _, bench, _ = measured
    bench, given = GivenEvaluation(**vars(bench)), []

    def respond(*, instructions, ids, rules):
        given.append((list(instructions), list(ids)))
        right = {(5.0, 4.5): 0.5, (5.0, 9.0): 0.75, (15.0, 9.0): 0.75}
        return [right.get((rules["end_weight"], rules["uniform_tokens"]["\n"]), 0.25)] * 9

    fitted = fit_rules(respond, bench=bench, rules=RULES, end_weights=[1.0, 5.0, 15.0], uniform_scales=[0.5, 1.0])
    assert fitted == RULES | {"end_weight": 5.0, "uniform_tokens": {"\n": 9.0}}
    assert given == [(list(bench.validation["instruction"]), list(bench.validation["id"]))] * 6


def test_a_bench_without_verifiers_is_refused(measured):
    base, bench, _ = measured
    with pytest.raises(TacitError, match="verifiers"):
        measure_base(base, bench=replace(bench, kinds=("ended",)), **SIZES)


def test_a_measurement_is_read_as_it_was_written(measured, tmp_path):
    path = tmp_path / "a-base.json"
    path.write_text(json.dumps(measured[2]), encoding="utf-8")
    assert read_measurement(path) == read_measurement(str(path)) == measured[2]


def test_what_is_no_measurement_is_refused(measured, tmp_path):
    path = tmp_path / "record.json"
    with pytest.raises(TacitError, match=r"cannot read the measurement .*record\.json"):
        read_measurement(path)
    verdicts = measured[2]["verdicts"]
    less = measured[2] | {"verdicts": {arm: verdicts[arm] for arm in ARMS[:-1]}}
    halved = {kind: [text[:6] for text in texts] for kind, texts in verdicts["narrow"].items()}
    spoilt = {kind: [text.replace(text[0], "x") for text in texts] for kind, texts in verdicts["narrow"].items()}
    damaged = [measured[2] | {"verdicts": verdicts | {"narrow": kinds}} for kinds in (halved, spoilt, {})]
    for content, message in (
        ("{", "cannot read"),
        ("[]", "not a readiness measurement"),
        ("{}", "not a readiness measurement"),
        (json.dumps(less), f"verdicts of the arms .*{ARMS[-1]}"),
        *((json.dumps(record), "damaged") for record in damaged),
    ):
        path.write_text(content)
        with pytest.raises(TacitError, match=message) as caught:
            read_measurement(path)
        assert "record.json" in str(caught.value)


def test_a_verdict_matrix_by_hand():
    record = {"verdicts": {"narrow": {"strict": ["0110", "1000"], "lenient": ["1111", "1010"]}}}
    assert verdict_matrix(record, "narrow").tolist() == [[0, 1, 1, 0], [1, 0, 0, 0]]
    assert verdict_matrix(record, "narrow", "lenient").mean() == 0.75
    assert np.issubdtype(verdict_matrix(record, "narrow").dtype, np.integer)


def test_loss_curves_hold_the_held_out_losses_of_every_record():
    records = [
        {"base": "a", "pretraining": PRETRAINING},
        {"base": "b", "pretraining": {}},
        {"base": "c", "pretraining": {"curve": [{"step": 5, "eval_loss": 1.5}]}},
    ]
    table = loss_curves(records)
    assert list(table.columns) == ["base", "step", "held-out loss"]
    assert table.to_numpy().tolist() == [["a", 20, 2.5], ["a", 40, 2.25], ["c", 5, 1.5]]
    assert list(loss_curves(records[1:2]).columns) == list(table.columns)
