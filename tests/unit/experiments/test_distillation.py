"""Synthetic data through the cache, students, and the measures of data."""

import itertools

import pytest
from datasets import Dataset
from tacit.decoding.generation import Response, generate_responses
from tacit.experiments import cache, distillation
from tacit.models.chat import tulu_template
from tacit.models.experts import Experts, plausible
from tacit.models.loading import load_model, load_tokenizer


@pytest.fixture
def saved(tiny, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "model"
    tiny.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def asked():
    rows = [("a", "Where does the brado live?"), ("b", "Name two gems."), ("c", "What is the opposite of big?")]
    return Dataset.from_list([{"id": i, "instruction": text, "response": "gold", "family": "f"} for i, text in rows])


def test_synthetic_data_is_what_generation_says_and_comes_from_the_cache_again(saved, asked, monkeypatch):
    options = {"alpha": 0.1, "beta": 0.0, "temperature": 1.0, "seed": 3, "max_new_tokens": 8, "dtype": "float32"}
    data = distillation.synthetic_data(saved, saved, asked, **options)
    model = Experts(load_model(saved), combine=lambda logits: plausible(logits, alpha=0.1))
    tokenizer = load_tokenizer(saved)
    sampled = {"temperature": 1.0, "seed": 3, "max_new_tokens": 8}
    expected = generate_responses(model, tokenizer, asked["instruction"], ids=asked["id"], **sampled)
    assert data["id"] == asked["id"]
    assert data["response"] == [r.text for r in expected]
    assert [(r.text, r.finish_reason, r.n_tokens) for r in distillation.as_responses(data)] == [
        (r.text, r.finish_reason, r.n_tokens) for r in expected
    ]
    monkeypatch.setattr(distillation, "synthesize", None)  # a second call that made anything would fail
    again = distillation.synthetic_data(saved, saved, asked.remove_columns("family"), **options)
    assert again.to_list() == data.to_list()
    with pytest.raises(TypeError):
        distillation.synthetic_data(saved, saved, asked, **options | {"seed": 4})


def test_a_student_is_tuned_in_the_papers_format_and_its_answers_are_kept(saved, asked, monkeypatch):
    settings = {"epochs": 2, "learning_rate": 1e-2, "batch_size": 3, "seed": 1, "max_new_tokens": 6, "dtype": "float32"}
    before = generate_responses(
        load_model(saved), distillation.student_tokenizer(saved), asked["instruction"], max_new_tokens=6
    )
    responses = distillation.teach(saved, asked, asked, **settings)
    assert [r.tokens for r in responses] != [r.tokens for r in before]
    assert distillation.student_tokenizer(saved).chat_template == tulu_template()

    def none(*args, **kwargs):
        raise AssertionError("made again")

    monkeypatch.setattr(cache, "shutil", None)  # what a miss needs
    assert distillation.teach(saved, asked, asked, **settings) == responses


def test_distinct_ngrams_by_hand():
    assert distillation.distinct_ngrams(["a b a b", "a b"], n=2) == 2 / 4  # ab, ba, ab, ab
    assert distillation.distinct_ngrams(["a b", "c d"], n=2) == 1.0
    assert distillation.distinct_ngrams(["one", ""], n=2) == 0.0


def test_matched_lengths_are_the_best_choice_among_all():
    lengths, targets = [3, 9, 4, 4, 20, 7], [5, 8, 4]
    chosen = distillation.match_lengths(lengths, targets)
    costs = {
        picked: sum(abs(lengths[i] - t) for i, t in zip(picked, targets, strict=True))
        for picked in itertools.permutations(range(len(lengths)), len(targets))
    }
    assert len(set(chosen)) == len(targets)
    assert costs[tuple(chosen)] == min(costs.values())
    with pytest.raises(ValueError, match="cannot choose 2 of 1"):
        distillation.match_lengths([1], [1, 2])


def test_empty_responses_count_as_empty_texts():
    rows = Dataset.from_list([{"response": "", "finish_reason": "eos", "response_tokens": 1}])
    assert distillation.as_responses(rows) == [Response("", "eos", 1)]
