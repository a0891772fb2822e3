"""Rules as a linear model of the log-ratio: against written-out design matrices, planted rules and work by hand."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import llama_config, make_model
from tacit.decoding.generation import Response, generate_responses
from tacit.decoding.rules import make_rules
from tacit.experiments.arms import cached_responses
from tacit.findings import logratios
from tacit.findings.linearrules import (
    LinearRules,
    LogRatios,
    agreement,
    along,
    end_curve,
    explained_by,
    explained_variance,
    fit_rules,
    join,
    log_ratios,
    mean_rules,
    pair_ratios,
    strongest,
    variance_left,
    written_rules,
)
from tacit.models.chat import encode_prompt
from tacit.scoring.likelihoods import in_batches
from tacit.support.errors import TacitError

END, WIDTH = 2, 7


def table(*, positions=40, width=WIDTH, seed=0, missing=0.0):
    """Random entries at positions of three texts, some left out, with weights that sum to about 1 per position."""
    rng = np.random.default_rng(seed)
    weight = rng.dirichlet(np.full(width, 0.5), positions)
    position, token = np.nonzero(rng.random((positions, width)) >= missing)
    return LogRatios(
        text=np.sort(rng.integers(3, size=positions)).astype(str),
        t=rng.integers(30, size=positions),
        kept=np.ones(positions),
        position=position,
        token=token,
        ratio=rng.normal(size=len(token)),
        weight=weight[position, token] + 1e-3,
        used=rng.random(len(token)) < 0.3,
        width=width,
        end=END,
    )


def design(ratios):
    """The design matrix [E, width + 2] and the ratios [E], centred by each position's mean, times sqrt(weight)."""
    rows = np.zeros((len(ratios.token), ratios.width + 2))
    for i, (p, v) in enumerate(zip(ratios.position, ratios.token, strict=True)):
        rows[i, v] = 1
        rows[i, ratios.width] = ratios.t[p] * (v == ratios.end)
        rows[i, ratios.width + 1] = ratios.used[i]
    target = ratios.ratio.copy()
    for p in range(len(ratios.t)):
        here = ratios.position == p
        if here.any():
            share = ratios.weight[here] / ratios.weight[here].sum()
            rows[here] -= share @ rows[here]
            target[here] -= share @ target[here]
    root = np.sqrt(ratios.weight)
    return rows * root[:, None], target * root


def plant(ratios, rules, *, seed=0):
    """The table with exactly these rules as its ratio, and a constant of its own at each position."""
    constants = np.random.default_rng(seed).normal(size=len(ratios.t))
    return replace(ratios, ratio=rules.predicted(ratios) + constants[ratios.position])


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("ridge", [0.01, 1.0, 20.0])
@pytest.mark.parametrize(
    ("terms", "tokens", "columns"),
    [
        (("bias", "ramp", "repetition"), None, range(WIDTH + 2)),
        (("bias",), None, range(WIDTH)),
        (("ramp", "repetition"), None, [WIDTH, WIDTH + 1]),
        (("bias", "repetition"), [1, END], [1, END, WIDTH + 1]),
    ],
)
def test_the_fit_is_that_of_the_written_out_design_matrix(missing, ridge, terms, tokens, columns):
    ratios, columns = table(missing=missing), list(columns)
    rows, target = design(ratios)
    penalty = np.diag([np.sqrt(ridge) if c < WIDTH else 0.0 for c in columns])
    expected = np.zeros(WIDTH + 2)
    stacked = np.vstack([rows[:, columns], penalty]), np.concatenate([target, np.zeros(len(columns))])
    expected[columns] = np.linalg.lstsq(*stacked)[0]
    found = fit_rules(ratios, terms=terms, ridge=ridge, tokens=tokens)
    np.testing.assert_allclose([*found.bias, found.ramp, found.repetition], expected, atol=1e-7)
    if tokens is None:
        assert found.bias.sum() == pytest.approx(0, abs=1e-7)


def test_without_a_ridge_the_predictions_are_those_of_least_squares():
    ratios = table(missing=0.2)
    rows, target = design(ratios)
    expected = rows @ np.linalg.lstsq(rows, target)[0]
    found = np.sqrt(ratios.weight) * ratios.centred(fit_rules(ratios, ridge=0.0).predicted(ratios))
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_planted_rules_are_recovered_and_explain_everything():
    bias = np.array([0.5, -4.0, 3.0, 0.0, 1.0, -0.5, 0.0])
    planted = LinearRules(bias, 0.06, -1.5)
    ratios = plant(table(positions=60, missing=0.3), planted)
    found = fit_rules(ratios, ridge=0.0)
    np.testing.assert_allclose(found.bias - found.bias.mean(), bias - bias.mean(), atol=1e-6)
    assert (found.ramp, found.repetition) == pytest.approx((0.06, -1.5), abs=1e-6)
    assert variance_left(ratios, found).sum() == pytest.approx(0, abs=1e-10)
    assert explained_by([found], [ratios]).value == pytest.approx(1)
    assert explained_by([fit_rules(ratios, terms=["bias"])], [ratios]).value < 0.99


def test_tokens_never_seen_have_no_bias_and_constants_per_position_change_nothing():
    ratios = table()
    wider = replace(ratios, width=WIDTH + 5)
    found, moved = fit_rules(wider), fit_rules(plant(wider, LinearRules(np.zeros(WIDTH + 5), 0.0, 0.0)))
    assert (found.bias[WIDTH:] == 0).all()
    np.testing.assert_allclose([*moved.bias, moved.ramp, moved.repetition], 0, atol=1e-9)
    shifted = replace(ratios, ratio=ratios.ratio + 5.0 * ratios.t[ratios.position])
    np.testing.assert_allclose(fit_rules(shifted).bias, fit_rules(ratios).bias, atol=1e-7)


def test_variance_by_text_and_its_explained_share_by_hand():
    ratios = LogRatios(
        text=np.array(["a", "b"]),
        t=np.array([0, 5]),
        kept=np.ones(2),
        position=np.array([0, 0, 1, 1]),
        token=np.array([0, 1, 0, END]),
        ratio=np.array([1.0, 3.0, 0.0, 4.0]),
        weight=np.array([0.75, 0.25, 0.5, 0.5]),
        used=np.array([False, False, False, False]),
        width=WIDTH,
        end=END,
    )
    rules = LinearRules(np.array([0.0, 1.0, 1.0, 0, 0, 0, 0]), 0.2, -9.0)
    # Text a: centred -0.5, 1.5 -> 0.75 * 0.25 + 0.25 * 2.25 = 0.75; left 1, 2: 0.75 * 0.0625 + 0.25 * 0.5625 = 0.1875.
    # Text b: centred -2, 2 -> 4; the rules give 1 + 0.2 * 5 = 2: left 0, 2: 1.
    assert variance_left(ratios).to_dict() == {"a": 0.75, "b": 4.0}
    assert variance_left(ratios, rules).to_dict() == pytest.approx({"a": 0.1875, "b": 1.0})
    found = explained_by([rules, rules], [ratios, ratios])
    assert found.value == pytest.approx(1 - 1.1875 / 4.75)
    assert (found.n_seeds, found.n_prompts) == (2, 2)
    assert (ratios.spread()[:3], ratios.seen()[END]) == (pytest.approx([0.4375, 0.1875, 0.25]), 0.5)
    assert strongest(rules, ratios, 2) == [END, 1]  # 1 x 0.25 and 1 x 0.1875
    curve = end_curve(rules, ratios, step=4)
    assert curve.to_dict("records") == [{"t": 5.5, "ratio": pytest.approx(3.0), "rules": 2.0, "weight": 0.5}]


def test_explained_variance_resamples_seeds_and_texts():
    rng = np.random.default_rng(0)
    total = rng.random((5, 200)) + 1
    same = explained_variance(total * 0.25, total)
    assert (same.value, same.low, same.high) == pytest.approx((0.75, 0.75, 0.75))
    left = total * rng.random((5, 200))
    found = explained_variance(left, total)
    assert found.low < found.value < found.high
    assert found.value == pytest.approx(np.mean(1 - left.sum(axis=1) / total.sum(axis=1)))
    # One seed and equal totals: the bootstrap of a mean.
    share = left[:1] / total[:1]
    mean = explained_variance(share, np.ones((1, 200)), n_resamples=4_000)
    assert (mean.high - mean.low) == pytest.approx(2 * 1.96 * share.std() / np.sqrt(200), rel=0.1)
    more = explained_variance(left, total, less=total * 0.9)
    assert more.value == pytest.approx(found.value - 0.1)
    for bad in (total[0], total[:, :0]):
        with pytest.raises(ValueError, match="seeds, texts"):
            explained_variance(bad, bad)
    with pytest.raises(ValueError, match="no variance"):
        explained_variance(total, total * 0)


def test_join_keeps_positions_apart_and_balances():
    a, b = table(positions=10, seed=1), table(positions=30, seed=2)
    both, even = join(a, b), join(a, b, balanced=True)
    assert variance_left(both).sum() == pytest.approx(variance_left(a).sum() + variance_left(b).sum())
    assert both.position.max() == 39 and len(both.t) == 40
    mass = np.bincount(even.position, even.weight)
    assert mass[:10].sum() == pytest.approx(20 / 10 * np.bincount(a.position, a.weight).sum())
    assert mass[10:].sum() == pytest.approx(20 / 30 * np.bincount(b.position, b.weight).sum())


def test_agreement_counts_found_tokens_and_signs_against_chance():
    ratios = table(positions=400, width=60, seed=3)
    rules = LinearRules(np.random.default_rng(4).choice([-1.0, 1.0], 60) * np.arange(1, 61), 0.0, 0.0)
    top = strongest(rules, ratios, 10)
    right = {v: float(rules.bias[v]) for v in top[:5]}
    found = agreement(rules, ratios, right, n_strongest=10)
    assert (found["written"], found["compared"], found["found"], found["same sign"]) == (5, 5, 5, 1)
    assert found["found, chance"] == pytest.approx(5 * 10 / 60, abs=0.1)
    assert found["found, p"] < 0.01
    assert found["same sign, chance"] == pytest.approx(0.5, abs=0.15)
    wrong = agreement(rules, ratios, {v: -s for v, s in right.items()}, n_strongest=10)
    assert (wrong["same sign"], wrong["same sign, p"]) == (0, 1)
    rare = agreement(
        replace(rules, bias=np.append(rules.bias, 1.0)), replace(ratios, width=61), {60: 1.0}, n_strongest=9
    )
    assert rare["compared"] == 0 and np.isnan(rare["found"])


def test_common_tokens_of_unrelated_rules_are_no_agreement():
    """Hand-written tokens are common ones, and common tokens matter most under any rules."""
    width = 200
    share = 1 / np.arange(1, width + 1)
    found = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        ratios = table(positions=300, width=width, seed=seed)
        ratios = replace(ratios, weight=share[ratios.token] * rng.uniform(0.5, 1.5, size=len(ratios.token)))
        rules = LinearRules(rng.normal(size=width), 0.0, 0.0)
        written = dict.fromkeys(np.argsort(-ratios.spread())[:30].tolist(), 1.0)
        found.append(agreement(rules, ratios, written, n_strongest=40, n_permutations=200, seed=seed)["found, p"])
    assert np.mean(np.array(found) < 0.05) <= 0.12  # 5% but for chance; nearly all, drawn from the whole vocabulary
    assert np.median(found) > 0.3


# ------------------------------------------------------------------------------------------- with models


@pytest.fixture
def pair(tokenizer):
    """Two random models over the tiny tokenizer's vocabulary and responses of the first, some of them ended."""
    post, pre = (make_model(llama_config(tokenizer), seed=seed) for seed in (0, 1))
    instructions = ["Name a thing.", "What?", "Say something longer about the old river, please."]
    responses = generate_responses(post, tokenizer, instructions, max_new_tokens=9, temperature=1.0, seed=3)
    return post, pre, instructions, [responses[0], replace(responses[1], tokens=responses[1].tokens[:2]), responses[2]]


@torch.inference_mode()
def test_log_ratios_are_those_of_full_forward_passes_and_padding_never_counts(pair, tokenizer, monkeypatch):
    post, pre, instructions, responses = pair
    ratios = log_ratios(post, pre, tokenizer, instructions, responses, ids=["a", "b", "c"], least=0.0)
    n = [len(response.tokens) for response in responses]
    assert ratios.text.tolist() == ["a"] * n[0] + ["b"] * n[1] + ["c"] * n[2]
    assert ratios.t.tolist() == [*range(n[0]), *range(n[1]), *range(n[2])]
    assert len(ratios.token) == sum(n) * ratios.width
    expected, weights, used = [], [], []
    for text, response in zip(instructions, responses, strict=True):
        prompt = encode_prompt(tokenizer, text)
        row = torch.tensor([[*prompt, *response.tokens]])
        logs = [torch.log_softmax(m(row).logits[0, len(prompt) - 1 : -1], dim=-1) for m in (post, pre)]
        expected.append(logs[0] - logs[1])
        weights.append((logs[0].exp() + logs[1].exp()) / 2)
        used += [[v in response.tokens[:t] for v in range(ratios.width)] for t in range(len(response.tokens))]
    np.testing.assert_allclose(ratios.ratio, torch.cat(expected).ravel(), atol=2e-4)
    np.testing.assert_allclose(ratios.weight, torch.cat(weights).ravel(), atol=1e-5)
    assert ratios.used.tolist() == np.ravel(used).tolist()
    alone = log_ratios(post, pre, tokenizer, instructions[1:2], responses[1:2], ids=["b"], least=0.0)
    np.testing.assert_allclose(ratios.ratio[ratios.text[ratios.position] == "b"], alone.ratio, atol=2e-4)
    monkeypatch.setattr(logratios, "in_batches", partial(in_batches, batch_tokens=30))
    fewer = log_ratios(post, pre, tokenizer, instructions, responses, ids=["a", "b", "c"], least=1e-3)
    assert fewer.weight.min() >= 1e-3 and len(fewer.token) < len(ratios.token)
    np.testing.assert_allclose(np.bincount(fewer.position, fewer.weight), fewer.kept, atol=1e-5)


def test_no_text_is_an_error(pair, tokenizer):
    post, pre, instructions, _ = pair
    empty = [Response("", "length", 0)] * 3
    with pytest.raises(TacitError, match="no text to fit on"):
        log_ratios(post, pre, tokenizer, instructions, empty, ids=["a", "b", "c"])
    with pytest.raises(TacitError, match="no text to fit on"):
        log_ratios(post, pre, tokenizer, [], [], ids=[])
    with pytest.raises(TacitError, match="unknown term 'ramps'"):
        fit_rules(table(), terms=["ramps"])


def test_rules_decode_as_those_of_make_rules(pair, tokenizer):
    _, pre, instructions, _ = pair
    options = {
        "end_weight": 5.0,
        "end_horizon": 6,
        "uniform_tokens": {"\n": -3.0, " the": 2.5},
        "diversity_weight": -2.0,
    }
    rules = written_rules(tokenizer, width=len(tokenizer), **options)
    expected = generate_responses(
        pre, tokenizer, instructions, max_new_tokens=12, make_processors=make_rules(tokenizer, **options)
    )
    found = generate_responses(
        pre, tokenizer, instructions, max_new_tokens=12, make_processors=rules.make_processors(tokenizer)
    )
    assert found == expected
    assert found != generate_responses(pre, tokenizer, instructions, max_new_tokens=12)
    none = LinearRules(np.zeros(len(tokenizer)), 0.0, 0.0)
    assert none.make_processors(tokenizer)(torch.ones(1, 3)) == []
    assert none.key() != rules.key() == written_rules(tokenizer, width=len(tokenizer), **options).key()
    halved = LinearRules(rules.bias / 2, rules.ramp / 2, rules.repetition / 2)
    assert mean_rules([none, rules]).key() == halved.key()


def test_a_model_with_planted_rules_is_measured_as_such(pair, tokenizer, tmp_path, monkeypatch):
    """The whole way: p_post is the base with a bias on its head, which is a bias per token and nothing else."""
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path))
    _, pre, instructions, _ = pair

    class Biased(torch.nn.Module):
        def __init__(self, head, bias):
            super().__init__()
            self.head, self.bias, self.weight = head, bias, head.weight

        def forward(self, x):
            return self.head(x) + self.bias

    planted = torch.zeros(len(tokenizer))
    planted[[5, tokenizer.eos_token_id, 40]] = torch.tensor([2.0, 3.0, -2.0])
    post = make_model(pre.config, seed=1)
    post.lm_head = Biased(post.lm_head, planted)
    rows = {"instruction": instructions * 4, "id": [str(i) for i in range(12)]}
    found = pair_ratios(post, {"m": 1}, pre, {"m": 2}, tokenizer, rows, max_new_tokens=8, seed=0, least=0.0)
    assert list(found) == ["tuned", "base", "mixture"]
    for ratios in found.values():
        fitted = fit_rules(ratios, ridge=1e-6)
        assert explained_by([fitted], [ratios]).value == pytest.approx(1, abs=1e-4)
        assert fitted.bias[[5, tokenizer.eos_token_id, 40]] - fitted.bias[50] == pytest.approx([2, 3, -2], abs=0.02)
    assert len(set(found["mixture"].text)) == 12
    responses = cached_responses(post, {"m": 1}, tokenizer, instructions, ids=["a", "b", "c"], max_new_tokens=8)
    one = log_ratios(post, pre, tokenizer, instructions[:1], responses[:1], ids=["a"], least=0.0)
    story = along(fitted, one, tokenizer, responses[0])
    assert len(story) == responses[0].n_tokens
    np.testing.assert_allclose(story["rules"], story["log-ratio"], atol=0.05)
    np.testing.assert_allclose(story["end: rules"], story["end: log-ratio"], atol=0.05)
    fewer = log_ratios(post, pre, tokenizer, instructions[:1], responses[:1], ids=["a"])
    with pytest.raises(ValueError, match="least=0"):
        along(fitted, fewer, tokenizer, responses[0])
