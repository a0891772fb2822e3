"""Arms: epochs selected by runs of their own, responses equal to those made by hand, each made once."""

from functools import partial

import pytest
import torch
from datasets import Dataset
from tacit.decoding.generation import generate_responses
from tacit.decoding.rules import make_rules
from tacit.experiments import arms
from tacit.models import identity
from tacit.models.experts import contrast
from tacit.models.loading import load_model
from tacit.training.finetuning import finetune

WORDS = ["moon", "sea", "key", "rain", "bell", "king", "boat", "hill"]
PROMPTS = Dataset.from_list(
    [{"id": w, "instruction": text} for w, text in zip("abc", ["Say moon.", "Hi", "What is 47 + 38?"], strict=True)]
)
SETTINGS = {"learning_rate": 5e-3, "batch_size": 4, "max_length": 64}
RULES = {"uniform_tokens": {"\n": 9.0, "e": -4.0}, "end_weight": 40.0, "end_horizon": 20, "diversity_weight": -3.0}


def draw(*, seed):
    """A training set of its own for each seed."""
    answers = WORDS[seed:] + WORDS[:seed]
    return Dataset.from_list(
        [{"id": w, "instruction": f"Say {w}.", "response": f"{r} {r}."} for w, r in zip(WORDS, answers, strict=True)]
    )


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def refuse(*args, **kwargs):
    raise AssertionError("this had to come from the cache, or not to be made at all")


@pytest.fixture
def base(tmp_path, tiny, tokenizer, monkeypatch):
    """A saved checkpoint, and a cache of this test alone."""
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    tiny.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def test_a_single_choice_of_epochs_needs_no_run(base, tokenizer, monkeypatch):
    monkeypatch.setattr(arms, "finetune", refuse)
    chosen = arms.select_epochs(base, tokenizer, draw(seed=0), choices=[3], validate=refuse, seed=0, **SETTINGS)
    assert chosen == (3, [])


def test_each_choice_is_a_run_of_its_own_and_the_best_validation_wins(base, tokenizer):
    """Against finetuning by hand: neither the epochs of one long run nor the training loss may decide."""
    given, seen = {1: 0.5, 2: 0.7, 3: 0.7}, {}

    def validate(model, key):
        epochs = key["settings"]["epochs"]
        seen[epochs] = weights(model)
        return given[epochs]

    options = {"seed": 5, **SETTINGS}
    epochs, rows = arms.select_epochs(base, tokenizer, draw(seed=0), choices=[3, 1, 2], validate=validate, **options)
    assert epochs == 2  # as good as three and fewer
    by_hand = {n: finetune(load_model(base), tokenizer, draw(seed=0), epochs=n, **options) for n in given}
    assert rows == [{"epochs": n, "loss": by_hand[n][1][-1]["loss"], "validation": given[n]} for n in given]
    for n, (model, _) in by_hand.items():
        assert torch.equal(seen[n], weights(model))
    assert not torch.equal(seen[1], seen[2])


def test_tuned_responses_are_those_of_finetuning_and_generating_by_hand_and_made_once(base, tokenizer, monkeypatch):
    drawn = []

    def noting(*, seed):
        drawn.append(seed)
        return draw(seed=seed)

    def respond(seeds, **changed):
        return arms.tuned_responses(
            base, tokenizer, noting, PROMPTS, seeds=seeds, choices=[2], selection_seed=0, validate=refuse,
            **({"max_new_tokens": 8, **SETTINGS} | changed),
        )  # fmt: skip

    answers, record = respond([2, 1])
    assert drawn == [0, 2, 1]
    losses = []
    for seed, responses in zip([2, 1], answers, strict=True):
        model, history = finetune(load_model(base), tokenizer, draw(seed=seed), epochs=2, seed=seed, **SETTINGS)
        assert responses == generate_responses(model, tokenizer, PROMPTS["instruction"], max_new_tokens=8)
        losses.append(history[-1]["loss"])
    assert answers[0] != answers[1]
    assert record == {"epochs": 2, "selection": [], "loss": pytest.approx(sum(losses) / 2)}

    monkeypatch.setattr(arms, "finetune", refuse)
    with monkeypatch.context() as patched:
        patched.setattr(arms, "generate_responses", refuse)
        assert respond([2, 1]) == (answers, record)
        with pytest.raises(AssertionError, match="cache"):
            respond([2], max_new_tokens=9)
    assert respond([2], max_new_tokens=9)[0] != answers[:1]  # the tuned model itself comes from the cache
    with pytest.raises(AssertionError, match="cache"):
        respond([2], learning_rate=1e-3)
    with pytest.raises(AssertionError, match="cache"):
        respond([3])


def test_the_selected_epochs_are_what_every_seed_is_tuned_for(base, tokenizer, monkeypatch):
    runs = []

    def noting(model, tokenizer, examples, *, epochs, seed, **settings):
        runs.append((seed, epochs))
        return model, [{"epoch": epochs, "loss": 1.0}]

    monkeypatch.setattr(arms, "finetune", noting)
    _, record = arms.tuned_responses(
        base, tokenizer, draw, PROMPTS, seeds=[1, 2], choices=[4, 2], selection_seed=0,
        validate=lambda model, key: key["settings"]["epochs"], max_new_tokens=1, **SETTINGS,
    )  # fmt: skip
    assert runs == [(0, 2), (0, 4), (1, 4), (2, 4)]
    assert [(row["epochs"], row["validation"]) for row in record["selection"]] == [(2, 2), (4, 4)]
    assert record["epochs"] == 4


def test_ruled_responses_are_the_rules_own_and_without_any_the_base_models(base, tokenizer):
    model, key = load_model(base), identity.weights_key(base)
    asked = {"ids": PROMPTS["id"], "max_new_tokens": 10}

    def ruled(rules):
        return arms.ruled_responses(model, key, tokenizer, PROMPTS["instruction"], rules=rules, **asked)

    own = generate_responses(model, tokenizer, PROMPTS["instruction"], **asked)
    assert ruled({"rules": []}) == own
    assert ruled(RULES | {"rules": []}) == own
    assert arms.cached_responses(model, key, tokenizer, PROMPTS["instruction"], **asked) == own
    variants = [RULES, RULES | {"rules": ["uniform"]}, RULES | {"rules": ["end", "diversity"]}]
    for rules in variants:
        expected = generate_responses(
            model, tokenizer, PROMPTS["instruction"], make_processors=make_rules(tokenizer, **rules), **asked
        )
        assert ruled(rules) == expected != own
    assert len({str(ruled(rules)) for rules in variants}) == len(variants)  # each has an entry of its own


def test_rules_and_what_names_them_go_together(base, tokenizer):
    model, key = load_model(base), identity.weights_key(base)
    for half in ({"rules_key": RULES}, {"make_processors": make_rules(tokenizer, **RULES)}):
        with pytest.raises(ValueError, match="together"):
            arms.cached_responses(model, key, tokenizer, ["Hi"], ids=["a"], **half)


def test_second_instructions_are_kept_with_their_contrast(base, tokenizer):
    model, key = load_model(base), identity.weights_key(base)
    asked = {"ids": PROMPTS["id"], "max_new_tokens": 10}
    seconds = list(reversed(PROMPTS["instruction"]))
    respond = partial(arms.cached_responses, model, key, tokenizer, PROMPTS["instruction"], against=seconds, **asked)
    made = [respond(contrasted={"alpha": 0.0, "beta": beta}) for beta in (0.3, 0.9)]
    for beta, responses in zip((0.3, 0.9), made, strict=True):
        combine = partial(contrast, alpha=0.0, beta=beta)
        options = {"against": seconds, "combine": combine, **asked}
        assert responses == generate_responses(model, tokenizer, PROMPTS["instruction"], **options)
    assert made[0] != made[1]
    for half in ({"against": seconds}, {"contrasted": {"alpha": 0.0, "beta": 0.3}}):
        with pytest.raises(ValueError, match="against and contrasted together"):
            arms.cached_responses(model, key, tokenizer, PROMPTS["instruction"], **half, **asked)
