"""Likelihoods: the models' own losses, independence of batches, the true response's rank among others."""

from functools import partial

import numpy as np
import pytest
import torch
from conftest import CONFIGS, make_model
from tacit.data.instructions import encode_example
from tacit.models.chat import encode_prompt, render_prompt
from tacit.models.experts import Experts
from tacit.scoring import likelihoods
from tacit.scoring.likelihoods import draw_others, rank_response, ranking_table, response_likelihoods, token_log_ratios
from tacit.support.errors import TacitError

PAIRS = [
    ("Where does the dirde live?", "In the north."),
    ("Hi", "Hello! What can I do?"),
    ("What is 47 + 38?", "85"),
    ("Hi", ""),
    ("", "Yes."),
    ("Spell the word moon.", "m-o-o-n"),
    ("Hi", "Hello! What can I do?"),
]
CLOSE = {"rtol": 2e-5, "atol": 2e-4}


def own_model(name, tokenizer):
    """A tiny model of one of conftest's architectures over the tiny tokenizer's vocabulary."""
    ids = {k: getattr(tokenizer, k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = CONFIGS[name].to_dict() | {"vocab_size": len(tokenizer), **ids}
    return make_model(type(CONFIGS[name]).from_dict(config), seed=0)


def reference(model, tokenizer, pairs):
    """Minus the model's own loss times the number of loss-bearing tokens, one pair at a time: [n], and [n]."""
    summed, counts = [], []
    for instruction, response in pairs:
        example = {k: torch.tensor([v]) for k, v in encode_example(tokenizer, instruction, response).items()}
        n = int((example["labels"] != -100).sum())
        with torch.no_grad():
            summed.append(-model(**example).loss.item() * n)
        counts.append(n)
    return np.array(summed), np.array(counts)


@pytest.mark.parametrize("name", CONFIGS)
def test_equals_the_models_own_loss_one_at_a_time(name, tokenizer):
    model = own_model(name, tokenizer)
    table = response_likelihoods(model, tokenizer, PAIRS)
    summed, counts = reference(model, tokenizer, PAIRS)
    assert list(table.columns) == ["summed", "mean", "n_tokens", "end"]
    assert table["n_tokens"].tolist() == counts.tolist()
    np.testing.assert_allclose(table["summed"], summed, **CLOSE)
    np.testing.assert_allclose(table["mean"], summed / counts, **CLOSE)


@pytest.mark.parametrize("name", ["gpt2", "gemma3"])
def test_a_row_does_not_depend_on_batch_or_order(name, tokenizer):
    model = own_model(name, tokenizer)
    together = response_likelihoods(model, tokenizer, PAIRS)
    for other in (
        response_likelihoods(model, tokenizer, PAIRS, batch_tokens=1),
        response_likelihoods(model, tokenizer, PAIRS, batch_tokens=60),
        response_likelihoods(model, tokenizer, PAIRS[::-1]).iloc[::-1],
    ):
        np.testing.assert_allclose(together.to_numpy(), other.to_numpy(), **CLOSE)
    assert (together.iloc[1] == together.iloc[-1]).all()  # the same pair: equal, not only close


def test_batches_keep_to_their_tokens(tiny, tokenizer, monkeypatch):
    inner, shapes = likelihoods.next_logits, []

    def watched(model, tokenizer, rows, first, **options):
        shapes.append((len(rows), max(map(len, rows))))
        return inner(model, tokenizer, rows, first, **options)

    monkeypatch.setattr(likelihoods, "next_logits", watched)
    response_likelihoods(tiny, tokenizer, PAIRS, batch_tokens=70)
    assert sum(n for n, _ in shapes) == len(set(PAIRS))
    assert all(n * longest <= 70 or n == 1 for n, longest in shapes)
    assert max(n for n, _ in shapes) > 1
    assert [longest for _, longest in shapes] == sorted((longest for _, longest in shapes), reverse=True)


def test_the_end_token_counts(tiny, tokenizer):
    table = response_likelihoods(tiny, tokenizer, [("Hi", "Hello"), ("Hi", "")])
    assert table["n_tokens"].tolist() == [len(tokenizer("Hello", add_special_tokens=False)["input_ids"]) + 1, 1]
    ids = torch.tensor([tokenizer(render_prompt(tokenizer, "Hi"), add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        expected = torch.log_softmax(tiny(ids).logits[0, -1], dim=-1)[tokenizer.eos_token_id]
    assert table["summed"][1] == pytest.approx(expected.item(), abs=1e-4)
    assert table["end"][1] == table["summed"][1]  # of an empty response there is nothing else


@pytest.mark.parametrize("name", CONFIGS)
def test_the_end_tokens_own_probability_is_that_after_the_whole_response(name, tokenizer):
    """Against one forward pass of each prompt with its response, looking at the last position alone."""
    model = own_model(name, tokenizer)
    table = response_likelihoods(model, tokenizer, PAIRS)
    for (instruction, response), end in zip(PAIRS, table["end"], strict=True):
        text = tokenizer(response, add_special_tokens=False)["input_ids"]
        ids = torch.tensor([encode_prompt(tokenizer, instruction) + text])
        with torch.no_grad():
            after = model(ids, use_cache=False).logits[0, -1].double().softmax(dim=-1)
        assert np.exp(end) == pytest.approx(after[tokenizer.eos_token_id].item(), rel=1e-3, abs=1e-9)


def test_a_composite_of_a_model_with_itself_has_its_squared_distribution(tiny, tokenizer):
    one = response_likelihoods(Experts(tiny, combine=lambda z: z), tokenizer, PAIRS)
    np.testing.assert_allclose(one["summed"], response_likelihoods(tiny, tokenizer, PAIRS)["summed"], **CLOSE)
    two = response_likelihoods(Experts(tiny, tiny, combine=torch.add), tokenizer, [("Hi", "")])
    ids = torch.tensor([tokenizer(render_prompt(tokenizer, "Hi"), add_special_tokens=False)["input_ids"]])
    with torch.no_grad():
        expected = torch.log_softmax(2 * tiny(ids).logits[0, -1], dim=-1)[tokenizer.eos_token_id]
    assert two["summed"][0] == pytest.approx(expected.item(), abs=1e-4)


def test_a_half_precision_model_is_scored_in_float32(tiny, tokenizer):
    model = tiny.to(torch.bfloat16)
    table = response_likelihoods(model, tokenizer, PAIRS, batch_tokens=1)
    for (instruction, response), summed in zip(PAIRS, table["summed"], strict=True):
        example = {k: torch.tensor(v) for k, v in encode_example(tokenizer, instruction, response).items()}
        at = example["labels"] != -100
        with torch.no_grad():
            logits = model(example["input_ids"][None, :-1]).logits[0, at[1:]].float()
        expected = torch.log_softmax(logits, dim=-1)[range(len(logits)), example["labels"][at]].sum()
        assert summed == pytest.approx(expected.item(), rel=1e-2)
    assert (table["summed"] != torch.tensor(table["summed"].to_numpy()).bfloat16().double().numpy()).all()


def test_no_pairs_give_an_empty_table(tiny, tokenizer):
    table = response_likelihoods(tiny, tokenizer, [])
    assert list(table.columns) == ["summed", "mean", "n_tokens", "end"]
    assert len(table) == 0


def test_a_batch_that_does_not_fit_is_halved(tiny, tokenizer, monkeypatch):
    expected = response_likelihoods(tiny, tokenizer, PAIRS)
    inner, sizes = likelihoods.next_logits, []

    def scarce(model, tokenizer, rows, first, **options):
        sizes.append(len(rows))
        if len(rows) > 3:
            raise torch.OutOfMemoryError
        return inner(model, tokenizer, rows, first, **options)

    monkeypatch.setattr(likelihoods, "next_logits", scarce)
    np.testing.assert_allclose(response_likelihoods(tiny, tokenizer, PAIRS), expected, **CLOSE)
    assert sizes[:2] == [6, 3]
    assert sum(sizes[1:]) == 6

    def never(*args, **options):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(likelihoods, "next_logits", never)
    with pytest.raises(TacitError, match="memory"):
        response_likelihoods(tiny, tokenizer, PAIRS)


@pytest.mark.parametrize(("n_items", "n_others"), [(50, 5), (4, 3), (2, 1)])
def test_others_are_never_the_item_itself_nor_drawn_twice(n_items, n_others):
    drawn = draw_others(n_items, n_others=n_others, seed=1)
    assert len(drawn) == n_items
    for own, row in enumerate(drawn):
        assert set(row) <= set(range(n_items)) - {own}
        assert len(set(row)) == n_others


def test_others_are_fixed_by_their_seed_and_drawn_evenly():
    drawn = draw_others(20, n_others=5, seed=1)
    assert drawn == draw_others(20, n_others=5, seed=1) != draw_others(20, n_others=5, seed=2)
    counts = sum(np.bincount(np.ravel(draw_others(20, n_others=5, seed=s)), minlength=20) for s in range(200))
    assert abs(counts / 200 - 5).max() < 0.6  # five standard errors


def test_others_of_the_same_group():
    groups = [*list("aabab"), "alone"]
    drawn = draw_others(6, n_others=2, seed=0, groups=groups)
    assert [sorted(row) for row in drawn] == [[1, 3], [0, 3], [4], [0, 1], [2], []]


@pytest.mark.parametrize("n_others", [0, 3, 4])
def test_too_many_others_are_refused(n_others):
    with pytest.raises(ValueError, match="cannot draw"):
        draw_others(3, n_others=n_others, seed=0)


def test_ranks_by_hand():
    assert rank_response(-1.0, [-2.0, -1.0, 0.0]) == pytest.approx(1.5 / 3)
    assert rank_response(-5.0, [-6.0, -7.0]) == 1.0
    assert rank_response(-np.inf, [-1.0]) == 0.0


@pytest.mark.parametrize(("true", "others"), [(1.0, []), (1.0, [np.nan]), (np.nan, [1.0]), (1.0, [[1.0]])])
def test_unusable_scores_are_refused(true, others):
    with pytest.raises(ValueError, match="cannot rank"):
        rank_response(true, others)


def test_from_texts_to_ranks(tiny, tokenizer):
    """The same prompt, the true response against other items' responses, one pair at a time."""
    items = [("Hi", "Hello!"), ("What is 47 + 38?", "85"), ("Why?", "Because it rains."), ("Spell moon.", "m-o-o-n")]
    instructions, responses = zip(*items, strict=True)
    others = [[1, 2], [0], [], [2, 1]]
    table = ranking_table(tiny, tokenizer, instructions, responses, others=others)
    assert np.isnan(table.loc[2]).all()
    for i in (0, 1, 3):
        summed, counts = reference(tiny, tokenizer, [(instructions[i], responses[j]) for j in (i, *others[i])])
        assert table["summed"][i] == np.mean(summed[0] > summed[1:])
        assert table["mean"][i] == np.mean(summed[0] / counts[0] > summed[1:] / counts[1:])
        assert table["likeliest"][i] == (i, *others[i])[np.argmax(summed / counts)]


@pytest.mark.parametrize("name", CONFIGS)
def test_log_ratios_are_those_of_a_loop_over_tokens(name, tokenizer, monkeypatch):
    expert = own_model(name, tokenizer)
    amateur = make_model(expert.config, seed=1)
    prompts = [encode_prompt(tokenizer, text) for text, _ in PAIRS]
    responses = [[*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id] for _, text in PAIRS]
    together = token_log_ratios(expert, amateur, tokenizer, prompts, responses)
    assert list(map(len, together)) == list(map(len, responses))
    for prompt, response, ratios in zip(prompts, responses, together, strict=True):
        for i, token in enumerate(response):
            ids = torch.tensor([prompt + response[:i]])
            with torch.no_grad():
                logits = [model(ids, use_cache=False).logits[0, -1].double() for model in (expert, amateur)]
            ours, theirs = (torch.log_softmax(z, dim=-1)[token].item() for z in logits)
            assert ratios[i] == pytest.approx(ours - theirs, abs=2e-4)
    monkeypatch.setattr(likelihoods, "in_batches", partial(likelihoods.in_batches, batch_tokens=1))
    alone = token_log_ratios(expert, amateur, tokenizer, prompts, responses)
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-4)
    assert token_log_ratios(expert, expert, tokenizer, prompts[:1], responses[:1])[0] == [0.0] * len(responses[0])
