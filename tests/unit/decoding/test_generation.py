"""Generation: the analytic distribution, independence of rows, order, endings, memory back-off."""

from collections import defaultdict
from functools import partial

import pytest
import torch
from conftest import make_model
from scipy import stats
from tacit.decoding import generation
from tacit.decoding.generation import generate_responses
from tacit.decoding.rules import make_rules
from tacit.decoding.sampling import sample_tokens
from tacit.models.chat import encode_prompt
from tacit.models.experts import Experts, contrast
from tacit.support.errors import TacitError
from tacit.support.keyed import fraction

PROMPTS = [
    "Where does the dirde live?",
    "Hi",
    "What is 47 + 38?",
    "Spell the word moon.",
    "Why?",
    "List three fruits, please.",
]


def noise(n):
    return torch.tensor([fraction("test", i) for i in range(n)], dtype=torch.float64)


def test_keyed_fractions_are_uniform_and_fixed():
    assert fraction("a", 1) == fraction("a", 1) != fraction("a", 2)
    assert stats.kstest(noise(4_000).numpy(), "uniform").pvalue > 0.001


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampling_matches_the_analytic_distribution(temperature):
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -torch.inf])
    n = 20_000
    drawn = sample_tokens(logits.expand(n, -1), noise(n), temperature=temperature)
    expected = torch.softmax(logits.double() / temperature, dim=-1)[:4] * n
    counts = torch.bincount(drawn, minlength=5)
    assert counts[4] == 0
    assert stats.chisquare(counts[:4].numpy(), expected.numpy()).pvalue > 0.001


def test_nucleus_keeps_the_smallest_sufficient_set():
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(4_000, -1)
    assert set(sample_tokens(scores, noise(4_000), top_p=0.75).tolist()) == {0, 1}
    assert set(sample_tokens(scores, noise(4_000), top_p=0.1).tolist()) == {0}


def test_the_edges_of_the_noise_never_pick_an_impossible_token():
    scores = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).expand(2, -1)
    assert sample_tokens(scores, torch.tensor([0.0, 1.0 - 2**-53], dtype=torch.float64)).tolist() == [1, 1]


def test_first_sampled_tokens_follow_the_model(tiny, tokenizer):
    """End to end through ``generate``: chi-squared of the first token against the model's softmax."""
    n = 600
    ids = torch.tensor([encode_prompt(tokenizer, "Hi")])
    with torch.no_grad():
        p = torch.softmax(tiny(ids).logits[0, -1].double(), dim=-1)
    responses = generate_responses(tiny, tokenizer, ["Hi"] * n, max_new_tokens=1, temperature=1.0, batch_size=200)
    by_text = defaultdict(float)  # several tokens are no whole character and read alike
    for i, probability in enumerate(p.tolist()):
        by_text[tokenizer.decode([i], skip_special_tokens=True)] += probability
    likely = sorted(by_text, key=by_text.get)[-8:]
    counts = [sum(r.text == text for r in responses) for text in likely]
    expected = [by_text[text] * n for text in likely]
    assert stats.chisquare([*counts, n - sum(counts)], [*expected, n - sum(expected)]).pvalue > 0.001


def test_first_tokens_of_a_composite_follow_the_masked_contrast(tiny, tokenizer):
    """The same of two models: chi-squared against p / q^beta on the tokens with p >= alpha max p, normalised."""
    n, alpha, beta, amateur = 1_000, 0.1, 0.5, make_model(tiny.config, seed=1)
    ids = torch.tensor([encode_prompt(tokenizer, "Hi")])
    with torch.no_grad():
        p, q = (torch.softmax(model(ids).logits[0, -1].double(), dim=-1) for model in (tiny, amateur))
    law = torch.where(p >= alpha * p.max(), p / q**beta, 0.0)
    law = (law / law.sum()).tolist()
    pair = Experts(tiny, amateur, combine=partial(contrast, alpha=alpha, beta=beta))
    responses = generate_responses(pair, tokenizer, ["Hi"] * n, max_new_tokens=1, temperature=1.0, batch_size=300)
    counts = [sum(r.tokens == (i,) for r in responses) for i in range(len(law))]
    assert all(law[i] for i, count in enumerate(counts) if count)
    likely = sorted(range(len(law)), key=law.__getitem__)[-6:]
    rest = 1 - sum(law[i] for i in likely)
    assert rest * n >= 5
    observed = [counts[i] for i in likely]
    expected = [law[i] * n for i in likely]
    assert stats.chisquare([*observed, n - sum(observed)], [*expected, rest * n]).pvalue > 0.001


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_does_not_depend_on_batch_order_or_company(tiny, tokenizer, temperature):
    options = {"max_new_tokens": 12, "temperature": temperature, "seed": 3}
    together = generate_responses(tiny, tokenizer, PROMPTS, ids=list("abcdef"), **options)
    alone = generate_responses(tiny, tokenizer, PROMPTS, ids=list("abcdef"), batch_size=1, **options)
    backwards = generate_responses(tiny, tokenizer, PROMPTS[::-1], ids=list("fedcba"), batch_size=4, **options)
    assert together == alone == backwards[::-1]
    if temperature:
        assert together != generate_responses(tiny, tokenizer, PROMPTS, ids=list("abcdef"), **(options | {"seed": 4}))
        assert together != generate_responses(tiny, tokenizer, PROMPTS, ids=list("ghijkl"), **options)


def test_greedy_equals_transformers_one_at_a_time(tiny, tokenizer):
    for text, response in zip(PROMPTS, generate_responses(tiny, tokenizer, PROMPTS, max_new_tokens=12), strict=True):
        ids = torch.tensor([encode_prompt(tokenizer, text)])
        out = tiny.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False)[
            0, ids.shape[1] :
        ]
        assert response == generation.finish(tokenizer, out.tolist(), ends=[tokenizer.eos_token_id])


def test_finish_reasons_and_lengths(tokenizer):
    ends = [tokenizer.eos_token_id]
    hello = tokenizer("Hello", add_special_tokens=False)["input_ids"]
    ended = generation.finish(tokenizer, [*hello, tokenizer.eos_token_id, tokenizer.pad_token_id], ends=ends)
    assert (ended.text, ended.finish_reason, ended.n_tokens) == ("Hello", "eos", len(hello) + 1)
    cut = generation.finish(tokenizer, hello, ends=ends)
    assert (cut.text, cut.finish_reason, cut.n_tokens) == ("Hello", "length", len(hello))


def test_a_batch_that_does_not_fit_is_halved(tiny, tokenizer, monkeypatch):
    expected = generate_responses(tiny, tokenizer, PROMPTS, max_new_tokens=4)
    inner, sizes = generation._generate_batch, []

    def scarce(model, tokenizer, prompts, row_ids, **options):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError
        return inner(model, tokenizer, prompts, row_ids, **options)

    monkeypatch.setattr(generation, "_generate_batch", scarce)
    assert generate_responses(tiny, tokenizer, PROMPTS, max_new_tokens=4, batch_size=6) == expected
    assert sizes == [6, 3, 1, 1, 1, 1, 1, 1]


def test_a_row_that_does_not_fit_alone_is_an_error(tiny, tokenizer, monkeypatch):
    def never(*args, **kwargs):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(generation, "_generate_batch", never)
    with pytest.raises(TacitError, match="memory"):
        generate_responses(tiny, tokenizer, PROMPTS)


def test_impossible_sampling_settings_are_refused(tiny, tokenizer):
    with pytest.raises(TacitError, match="temperature"):
        generate_responses(tiny, tokenizer, PROMPTS, temperature=-1.0)
    with pytest.raises(TacitError, match="top_p"):
        generate_responses(tiny, tokenizer, PROMPTS, top_p=0.0)


def test_a_checkpoints_own_generation_settings_do_not_leak_in_but_its_end_tokens_do(tiny, tokenizer):
    plain = generate_responses(tiny, tokenizer, PROMPTS, max_new_tokens=12)
    tiny.generation_config.repetition_penalty = 5.0
    tiny.generation_config.no_repeat_ngram_size = 1
    assert generate_responses(tiny, tokenizer, PROMPTS, max_new_tokens=12) == plain
    first = tokenizer(plain[0].text, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        ids = torch.tensor([encode_prompt(tokenizer, PROMPTS[0])])
        token = int(tiny(ids).logits[0, -1].argmax())
    tiny.generation_config.eos_token_id = [tokenizer.eos_token_id, token]
    stopped = generate_responses(tiny, tokenizer, PROMPTS[:1], max_new_tokens=12)[0]
    assert first
    assert (stopped.text, stopped.finish_reason, stopped.n_tokens) == ("", "eos", 1)


@pytest.mark.parametrize(
    "settings",
    [
        {"do_sample": True, "temperature": 9.0},
        {"num_beams": 3},
        {"suppress_tokens": [40, 41, 42, 43]},
        {"bad_words_ids": [[40], [41]]},
        {"forced_eos_token_id": 50},
        {"exponential_decay_length_penalty": (1, 9.0)},
        {"encoder_repetition_penalty": 9.0},
        {"stop_strings": ["a", "e"]},
        {"min_new_tokens": 12},
        {"renormalize_logits": True, "top_k": 1, "min_p": 0.9},
    ],
    ids=lambda settings: next(iter(settings)),
)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_no_setting_of_a_checkpoint_changes_the_texts(tiny, tokenizer, settings, temperature):
    asked = {"max_new_tokens": 12, "temperature": temperature}
    plain = generate_responses(tiny, tokenizer, PROMPTS, **asked)
    for name, value in settings.items():
        setattr(tiny.generation_config, name, value)
    own = tiny.generation_config
    assert generate_responses(tiny, tokenizer, PROMPTS, **asked) == plain
    assert tiny.generation_config is own


def test_nothing_to_generate_is_refused(tiny, tokenizer):
    with pytest.raises(TacitError, match="max_new_tokens must be at least 1, not 0"):
        generate_responses(tiny, tokenizer, PROMPTS, max_new_tokens=0)


def one_at_a_time(model, tokenizer, instruction, row_id, *, ends, temperature, make_processors, max_new_tokens, seed):
    """The new tokens of one row from a loop without cache, batch, padding or segments."""
    prompt = torch.tensor([encode_prompt(tokenizer, instruction)])
    processors = make_processors(torch.ones_like(prompt)) if make_processors else []
    ids = prompt
    for step in range(max_new_tokens):
        with torch.no_grad():
            scores = model(ids, use_cache=False).logits[:, -1].float()
        for processor in processors:
            scores = processor(ids, scores)
        if temperature:
            noise = torch.tensor([fraction("sample", seed, row_id, step)], dtype=torch.float64)
            token = sample_tokens(scores, noise, temperature=temperature)
        else:
            token = scores.argmax(dim=-1)
        ids = torch.cat([ids, token[:, None]], dim=1)
        if int(token) in ends:
            break
    return ids[0, prompt.shape[1] :].tolist()


def first_end(row, ends):
    """How many tokens of the row a model says that stops at ``ends``, the end token included."""
    return next((i for i, token in enumerate(row, start=1) if token in ends), len(row))


def segments(row):
    """In which segment of two tokens the row ends."""
    return (len(row) + 1) // 2


def spread_ends(rows, *, own):
    """End tokens that make ``rows`` end in as many different segments as a greedy search finds."""
    ends = [own]
    for token in sorted({token for row in rows for token in row}):
        now, more = (len({segments(row[: first_end(row, e)]) for row in rows}) for e in (ends, [*ends, token]))
        if more > now:
            ends.append(token)
    return sorted(set(ends))


@pytest.mark.parametrize("composite", [False, True], ids=["one model", "experts"])
@pytest.mark.parametrize("ruled", [False, True], ids=["plain", "rules"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_that_end_at_different_times_are_as_one_at_a_time(
    tiny, tokenizer, monkeypatch, temperature, ruled, composite
):
    """Rows leave the batch and its cache at several segments; what stays must not notice."""
    monkeypatch.setattr(generation, "SEGMENT", 2)
    model = tiny
    if composite:
        model = Experts(tiny, make_model(tiny.config, seed=1), combine=partial(contrast, alpha=0.0, beta=0.5))
    weights = {"uniform_tokens": {"\n": 3.0, "e": -4.0}, "diversity_weight": -6.0, "diversity_scope": "prompt"}
    rules = make_rules(tokenizer, end_weight=30.0, end_horizon=20, **weights) if ruled else None
    options = {"temperature": temperature, "make_processors": rules, "max_new_tokens": 13, "seed": 3}
    names = [f"row {i}" for i in range(len(PROMPTS))]
    rows = list(zip(PROMPTS, names, strict=True))
    free = [one_at_a_time(model, tokenizer, *row, ends=[tokenizer.eos_token_id], **options) for row in rows]
    ends = spread_ends(free, own=tokenizer.eos_token_id)
    expected = [row[: first_end(row, ends)] for row in free]
    assert len(set(map(segments, expected))) >= 3  # rows leave the batch at three times at least
    assert len(set(map(str, expected))) == len(expected)
    model.generation_config.eos_token_id = ends
    responses = generate_responses(model, tokenizer, PROMPTS, ids=names, **options)
    assert responses == [generation.finish(tokenizer, row, ends=ends) for row in expected]
    assert responses == generate_responses(model, tokenizer, PROMPTS, ids=names, batch_size=1, **options)
