"""Readiness: one measurement against finetuning and scoring by hand, and its record on the disk."""

import json
from dataclasses import replace

import pandas as pd
import pytest
from conftest import llama_config, make_model
from tacit.decoding.generation import generate_responses
from tacit.decoding.rules import make_rules
from tacit.experiments.evaluation import VerifiedEvaluation, micro_evaluation
from tacit.findings.readiness import ARMS, SETTINGS, TUNED, measure_base, read_measurement, verdict_matrix
from tacit.models import chat
from tacit.models.loading import load_model, load_tokenizer
from tacit.support.errors import TacitError
from tacit.training.finetuning import finetune
from transformers import LogitsProcessor

RULES = {"uniform_tokens": {"\n": 9.0}, "end_weight": 40.0, "end_horizon": 10, "diversity_weight": -4.0}
TUNING = {"learning_rate": 1e-2, "batch_size": 8}
SIZES = {
    "narrow": "poem", "rules": RULES, "end_constants": [1.0, 2.0, 3.0], "end_weights": [10.0, 40.0],
    "uniform_scales": [0.25, 1.0], "seeds": [1, 2], "selection_seed": 0, "n_train": 16, "max_new_tokens": 6,
    "epochs": {"end alone": [1], "response-tuned": 2, "narrow": [1, 2], "instruction-tuned": 1}, "end_rate": 3e-2,
    **TUNING,
}  # fmt: skip
PRETRAINING = {
    "name": "tiny", "packages": {"torch": "2"}, "code": "abc", "markup_share": 0.3, "seed": 4,
    "curve": [{"step": 10, "loss": 3.0}, {"step": 20, "loss": 2.0, "eval_loss": 2.5}, {"step": 40, "eval_loss": 2.25}],
}  # fmt: skip


class OddEvaluation(VerifiedEvaluation):
    """Verdicts that a random model can meet: texts of odd length are strictly right, those without an e leniently.

    What has an a shows knowledge.
    """

    def score(self, examples, responses):
        strict = [float(len(r.text) % 2) for r in responses]
        lenient = [float("e" not in r.text) for r in responses]
        knowledge = [float("a" in r.text) for r in responses]
        return pd.DataFrame({"id": examples["id"], "strict": strict, "lenient": lenient, "knowledge": knowledge})


class EndConstant(LogitsProcessor):
    """A constant added to one token's logit."""

    def __init__(self, token, constant):
        self.token, self.constant = token, constant

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[:, self.token] += self.constant
        return scores


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
    assert set(record["settings"]) == set(SETTINGS)
    assert record["prompts"] == list(bench.test["id"])
    assert record["families"] == list(bench.test["family"])
    assert record["pretraining"] == PRETRAINING
    assert set(record["made_with"]) == {"library", "commit", "packages", "device"}
    assert tuple(record["fitted"]["epochs"]) == TUNED
    assert record["knows"] == record["verdicts"]["base, seen format"]["lenient"][0]
    assert tuple(record["verdicts"]) == ARMS
    for arm, kinds in record["verdicts"].items():
        n_seeds = 2 if arm in TUNED else 1
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

    def tuned(name, *, epochs, seed, blank=False, **loss):
        rows, given = bench.draw(name, n=16, seed=seed, blank=blank), TUNING | loss
        return finetune(load_model(base), tokenizer, rows, epochs=epochs, seed=seed, **given)[0]

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
    constants = {c: lambda _, c=c: [EndConstant(tokenizer.eos_token_id, c)] for c in (1.0, 2.0, 3.0)}
    fits = {"rules": list(zip(weights, [make_rules(tokenizer, **options) for options in weights], strict=True))}
    fits["end constant"] = list(constants.items())
    best = {}
    for name, pairs in fits.items():
        rates = [rate(say(model, bench.validation, make_processors=make)) for _, make in pairs]
        value, best[name] = pairs[rates.index(max(rates))]
        assert len(set(rates)) > 1
        assert record["fitted"][name] == value
    epochs = record["fitted"]["epochs"]
    assert epochs["narrow"] == max([1, 2], key=validated)
    assert [epochs[arm] for arm in TUNED if arm != "narrow"] == [1, 2, 1]
    seen_format = say(model, bench.test, seen)
    responses = {
        "base": [say(model, bench.test)],
        "base, seen format": [seen_format],
        "constant end": [say(model, bench.test, make_processors=best["end constant"])],
        "three rules": [say(model, bench.test, make_processors=best["rules"])],
    }
    for arm, name, blank, loss in (
        ("end alone", "broad", False, {"loss_on": "end row", "learning_rate": 3e-2}),
        ("response-tuned", "broad", True, {}),
        ("narrow", "poem", False, {}),
        ("instruction-tuned", "broad", False, {}),
    ):
        options = {"epochs": epochs[arm], "blank": blank, **loss}
        responses[arm] = [say(tuned(name, seed=seed, **options), bench.test) for seed in (1, 2)]
    for arm, per_seed in responses.items():
        strict = [[len(r.text) % 2 for r in one] for one in per_seed]
        lenient = [[int("e" not in r.text) for r in one] for one in per_seed]
        assert verdict_matrix(record, arm).tolist() == strict, arm
        assert verdict_matrix(record, arm, "lenient").tolist() == lenient, arm
    assert record["knowledge"] == pytest.approx(sum("a" in r.text for r in seen_format) / 12)
    assert len({str(kinds) for kinds in record["verdicts"].values()}) == len(ARMS)  # or agreement would mean little


def test_a_bench_without_verifiers_and_epochs_of_some_arms_alone_are_refused(measured):
    base, bench, _ = measured
    with pytest.raises(TacitError, match="verifiers"):
        measure_base(base, bench=replace(bench, kinds=("ended",)), **SIZES)
    with pytest.raises(TacitError, match=r"epochs by arm must name the tuned arms end alone, .*, not narrow"):
        measure_base(base, bench=bench, **SIZES | {"epochs": {"narrow": 1}})


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
    damaged.append(measured[2] | {"knows": "1" * 12})
    assert measured[2]["knows"] != "1" * 12
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
