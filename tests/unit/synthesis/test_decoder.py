"""Decoded rows against an independent loop over two models, and against the exact law of a token."""

import hashlib
import math

import numpy as np
import pytest
import torch
from scipy import stats
from synthesis_runs import EXACT, INSTRUCTIONS, run, whole_run
from tacit.models.chat import encode_prompt
from tacit.models.pairs import load_pair
from tacit.synthesis.decoder import Decoder
from tacit.synthesis.settings import Settings


def draw(probabilities, seed, row, step):
    digest = hashlib.sha256(f"sample\x1f{seed}\x1f{row}\x1f{step}".encode()).digest()
    noise = (int.from_bytes(digest[:8], "big") // 2**11) / 2**53
    return int(np.searchsorted(np.cumsum(probabilities), noise * probabilities.sum(), side="right"))


def softmax(scores):
    shifted = np.exp(scores - scores.max())
    return shifted / shifted.sum()


def next_probabilities(expert, amateur, *, alpha, beta, temperature, top_p, contrast_end, ends):
    """The law of one token from both models' log-probabilities, [V] each."""
    plausible = np.exp(expert) >= alpha * np.exp(expert.max())
    scores = np.where(plausible, expert - beta * amateur, -np.inf)
    if not contrast_end:
        alone = softmax(np.where(plausible, expert, -np.inf))
        others = softmax(np.where(np.isin(np.arange(len(scores)), ends), -np.inf, scores))
        law = np.where(np.isin(np.arange(len(scores)), ends), alone, others * (1 - alone[ends].sum()))
        scores = np.log(np.maximum(law, 1e-300))
    if not temperature:
        return np.eye(len(scores))[scores.argmax()]
    law = softmax(scores / temperature)
    order = np.argsort(-law, kind="stable")
    needed = 1 + int(np.searchsorted(np.cumsum(law[order]), top_p - 1e-15))
    return np.where(np.isin(np.arange(len(law)), order[:needed]), law, 0.0) if top_p < 1 else law


def respond(models, tokenizer, row, *, seed, most, ends, **rule):
    """Tokens and log-ratios of one row."""
    ids, ratios = encode_prompt(tokenizer, row["instruction"]), []
    prompt = len(ids)
    for step in range(most):
        with torch.no_grad():
            both = [m(torch.tensor([ids]), use_cache=False).logits[0, -1].double() for m in models]
        expert, amateur = (torch.log_softmax(z, dim=-1).numpy() for z in both)
        token = draw(next_probabilities(expert, amateur, ends=ends, **rule), seed, row["id"], step)
        ids.append(token)
        ratios.append(expert[token] - amateur[token])
        if token in ends:
            break
    return ids[prompt:], ratios


def decode(pair, rows, **options):
    """The dataset's rows of ``rows``, in this order, without a folder."""
    settings = Settings(**{"max_new_tokens": 6, "batch_size": 4, "log_ratios": "none"} | options)
    return Decoder(pair, settings)([(str(row["id"]), row["instruction"]) for row in rows])


DIRECT = {"alpha": 0.0, "beta": 0.0, "temperature": 1.0, "top_p": 1.0, "contrast_end": True}


@pytest.fixture(scope="module")
def whole(pair, tmp_path_factory):
    return whole_run(pair, tmp_path_factory)


@pytest.mark.parametrize(
    "rule",
    [
        {"alpha": 0.01, "beta": 1.0},
        {"alpha": 0.1, "beta": 0.5, "temperature": 0.7, "top_p": 0.8},
        {"alpha": 0.01, "beta": 1.0, "contrast_end": False},
        {"alpha": 0.0, "beta": 0.3},
        {"alpha": 0.1},
        {},
        {"alpha": 0.05, "beta": 1.0, "temperature": 0.0},
    ],
    ids=["codit", "nucleus", "end exempt", "no mask", "mask only", "direct", "greedy"],
)
def test_rows_are_those_of_a_loop_over_both_models(pair, rule):
    rule = DIRECT | rule
    expert, amateur, tokenizer = load_pair(**pair)
    ends = expert.generation_config.eos_token_id
    rows = INSTRUCTIONS[:9]
    decoded = decode(pair, rows, seed=5, log_ratios="tokens", **rule)
    for row, record in zip(rows, decoded, strict=True):
        tokens, ratios = respond((expert, amateur), tokenizer, row, seed=5, most=6, ends=ends, **rule)
        ended = tokens[-1] in ends
        assert record["tokens"] == tokens
        assert record["response"] == tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=True)
        assert record["finish_reason"] == ("eos" if ended else "length")
        assert (record["id"], record["instruction"]) == (row["id"], row["instruction"])
        assert record["response_tokens"] == len(tokens)
        assert record["prompt_tokens"] == len(encode_prompt(tokenizer, row["instruction"]))
        np.testing.assert_allclose(record["log_ratios"], ratios, atol=2e-4)
        if len(tokens) == 1 and ended:
            assert record["mean_log_ratio"] is None
        else:
            assert record["mean_log_ratio"] == pytest.approx(np.mean(ratios), abs=2e-4)
    if rule["temperature"]:
        assert len({row["finish_reason"] for row in decoded}) == 2


@pytest.mark.parametrize("contrast_end", [True, False], ids=["all contrasted", "end exempt"])
def test_first_tokens_follow_the_law(pair, contrast_end):
    """Chi-squared of sampled first tokens against the exact law in float64, end tokens among them."""
    n, rule = 1_000, {"alpha": 0.01, "beta": 1.0, "temperature": 1.0, "top_p": 1.0, "contrast_end": contrast_end}
    expert, amateur, tokenizer = load_pair(**pair)
    ends = expert.generation_config.eos_token_id
    rows = [{"id": i, "instruction": "Say moon."} for i in range(n)]
    decoded = decode(pair, rows, max_new_tokens=1, batch_size=500, log_ratios="tokens", **rule)
    ids = torch.tensor([encode_prompt(tokenizer, "Say moon.")])
    with torch.no_grad():
        both = [torch.log_softmax(m(ids).logits[0, -1].double(), dim=-1).numpy() for m in (expert, amateur)]
    law = next_probabilities(*both, ends=ends, **rule)
    counts = np.bincount([row["tokens"][0] for row in decoded], minlength=len(law))
    assert counts[law == 0].sum() == 0
    likely = np.argsort(-law)[:15]
    assert set(ends) & set(likely.tolist())
    observed, expected = (np.append(x[likely], x.sum() - x[likely].sum()) for x in (counts, law * n))
    assert expected.min() > 5
    assert stats.chisquare(observed, expected).pvalue > 0.001
    other = next_probabilities(*both, ends=ends, **(rule | {"contrast_end": not contrast_end}))
    expected = np.append(other[likely], 1 - other[likely].sum()) * n
    assert stats.chisquare(observed, expected).pvalue < 1e-6  # the other law is told apart


def test_rules_differ_from_each_other(pair):
    rules = [{}, {"beta": 0.0}, {"beta": 0.0, "alpha": 0.0}, {"contrast_end": False}, {"seed": 1}, {"temperature": 0.5}]
    texts = [tuple(row["response"] for row in decode(pair, INSTRUCTIONS[:8], **rule)) for rule in rules]
    assert len(set(texts)) == len(rules)


@pytest.mark.parametrize(("batch_size", "shard_size"), [(1, 13), (7, 4), (64, 100), (2, 1)])
def test_rows_depend_neither_on_batch_nor_on_shard_size(pair, whole, tmp_path, batch_size, shard_size):
    again = run(pair, tmp_path / "out", batch_size=batch_size, shard_size=shard_size).to_list()
    assert [[row[c] for c in EXACT] for row in again] == [[row[c] for c in EXACT] for row in whole[1]]
    ratios = [np.array([row["mean_log_ratio"] for row in rows], dtype=float) for rows in (again, whole[1])]
    np.testing.assert_allclose(*ratios, atol=1e-4)
    assert len(list((tmp_path / "out/data").iterdir())) == math.ceil(len(INSTRUCTIONS) / shard_size)


def test_rows_depend_on_their_ids_and_not_on_their_place(pair, whole, tmp_path):
    backwards = run(pair, tmp_path / "out", INSTRUCTIONS[::-1])
    assert backwards["response"] == [row["response"] for row in whole[1]][::-1]
    renamed = [row | {"id": f"other {i}"} for i, row in enumerate(INSTRUCTIONS)]
    assert run(pair, tmp_path / "renamed", renamed)["response"] != [row["response"] for row in whole[1]]
