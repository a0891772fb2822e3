"""Two prompts of one model: each next token by both, against a loop without cache and transformers' guidance."""

from functools import partial

import pytest
import torch
from conftest import llama_config, make_model
from scipy import stats
from tacit.decoding.generation import end_tokens, generate_responses, plain_generation
from tacit.decoding.rules import make_rules
from tacit.decoding.slots import decode_rows
from tacit.models.chat import encode_prompt
from tacit.models.experts import contrast
from tacit.support.errors import TacitError
from transformers import LogitsProcessor

PROMPTS = ["Where does the dirde live?", "Hi", "What is 47 + 38?", "Spell the word moon.", "List three fruits, please."]
SECONDS = ["moon", "Say the opposite of what you are asked.", "Why?", "Hi", "Name a town and nothing else, twice."]
EPSILON = 0.3
MINUS = partial(contrast, alpha=0.0, beta=EPSILON)


@torch.inference_mode()
def by_loop(model, tokenizer, prompt, second, n, *, combine):
    """Greedy tokens by two whole passes a token, without a cache or a batch."""
    rows, tokens = [encode_prompt(tokenizer, text) for text in (prompt, second)], []
    while len(tokens) < n:
        ours, theirs = (model(torch.tensor([row + tokens])).logits[0, -1] for row in rows)
        tokens.append(int(combine(ours, theirs).argmax()))
        if tokens[-1] in end_tokens(model, tokenizer):
            break
    return tuple(tokens)


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_greedy_tokens_are_those_of_a_loop_without_cache(tiny, tokenizer, batch_size):
    responses = generate_responses(
        tiny, tokenizer, PROMPTS, against=SECONDS, combine=MINUS, max_new_tokens=20, batch_size=batch_size
    )
    rows = zip(PROMPTS, SECONDS, strict=True)
    expected = [by_loop(tiny, tokenizer, *row, 20, combine=lambda z, zn: z - EPSILON * zn) for row in rows]
    assert [response.tokens for response in responses] == expected
    alone = generate_responses(tiny, tokenizer, PROMPTS, max_new_tokens=20)
    assert sum(a.tokens != b.tokens for a, b in zip(responses, alone, strict=True)) >= 3


def test_transformers_guidance_gives_the_same(tiny, tokenizer):
    """Guidance g takes g z - (g - 1) z'; with g = 1 / (1 - epsilon) its largest score is that of z - epsilon z'."""
    ours = generate_responses(tiny, tokenizer, PROMPTS, against=SECONDS, combine=MINUS, max_new_tokens=12)
    for prompt, second, response in zip(PROMPTS, SECONDS, ours, strict=True):
        ids, negative = (torch.tensor([encode_prompt(tokenizer, text)]) for text in (prompt, second))
        with plain_generation(tiny, tokenizer):
            out = tiny.generate(ids, negative_prompt_ids=negative, guidance_scale=1 / (1 - EPSILON), max_new_tokens=12)
        assert tuple(out[0, ids.shape[1] :].tolist()) == response.tokens


def test_the_own_instruction_leaves_greedy_text_as_it_is(tiny, tokenizer):
    alone = generate_responses(tiny, tokenizer, PROMPTS, max_new_tokens=20)
    for epsilon in (0.1, 0.5):
        combine = partial(contrast, alpha=0.0, beta=epsilon)
        own = generate_responses(tiny, tokenizer, PROMPTS, against=PROMPTS, combine=combine, max_new_tokens=20)
        assert own == alone


def test_sampled_text_depends_on_no_batch_and_follows_the_combined_law(tiny, tokenizer):
    sample = partial(generate_responses, tiny, tokenizer, against=SECONDS, combine=MINUS, temperature=1.0, seed=3)
    together, apart = (sample(PROMPTS, max_new_tokens=9, batch_size=n) for n in (5, 1))
    assert together == apart
    n = 1_000
    options = {"temperature": 0.25, "max_new_tokens": 1}
    drawn = generate_responses(tiny, tokenizer, [PROMPTS[0]] * n, against=[SECONDS[0]] * n, combine=MINUS, **options)
    with torch.inference_mode():
        ours, theirs = (
            tiny(torch.tensor([encode_prompt(tokenizer, text)])).logits[0, -1] for text in (PROMPTS[0], SECONDS[0])
        )
    likeliest = MINUS(ours, theirs).argsort(descending=True)[:8].tolist()
    counts = [sum(response.tokens[0] == token for response in drawn) for token in likeliest]

    def surprise(scores):
        """The p-value of the counts of the likeliest tokens, and of all others, under a law."""
        shares = (scores.double() / 0.25).softmax(-1)[likeliest].tolist()
        expected = [n * share for share in (*shares, 1 - sum(shares))]
        return stats.chisquare([*counts, n - sum(counts)], expected).pvalue

    assert surprise(MINUS(ours, theirs)) > 0.001 > surprise(ours)


def test_rules_come_after_the_two_prompts(tiny, tokenizer):
    """A rule that forbids the first choice is obeyed in both rows, so the second choice of both together follows."""

    class Forbid(LogitsProcessor):
        def __init__(self, token):
            self.token = token

        def __call__(self, input_ids, scores):
            return scores.index_fill(-1, torch.tensor([self.token]), -torch.inf)

    options = {"against": SECONDS[:1], "combine": MINUS, "max_new_tokens": 1}
    first = generate_responses(tiny, tokenizer, PROMPTS[:1], **options)[0].tokens[0]
    second = generate_responses(tiny, tokenizer, PROMPTS[:1], make_processors=lambda mask: [Forbid(first)], **options)[
        0
    ].tokens[0]
    with torch.inference_mode():
        pair = [tiny(torch.tensor([encode_prompt(tokenizer, text)])).logits[0, -1] for text in (PROMPTS[0], SECONDS[0])]
    assert [first, second] == MINUS(*pair).topk(2).indices.tolist()


@pytest.mark.parametrize(("slots", "temperature"), [(1, 0.0), (2, 0.0), (3, 1.0), (5, 1.0)])
def test_slots_give_the_same_rows(tokenizer, slots, temperature):
    model = make_model(llama_config(tokenizer), seed=4)
    limits = [3, 14, 9, 1, 20]
    rows = [encode_prompt(tokenizer, text) for pair in zip(PROMPTS, SECONDS, strict=True) for text in pair]
    doubled = [limit for limit in limits for _ in range(2)]
    names = [name for name in "abcde" for _ in range(2)]
    ends = end_tokens(model, tokenizer)
    got = decode_rows(
        model, rows, row_ids=names, limits=doubled, ends=ends, batch_size=slots, pairs=MINUS, temperature=temperature,
        seed=2, graphs=False,
    )  # fmt: skip
    for i, limit in enumerate(limits):
        alone = generate_responses(
            model, tokenizer, PROMPTS[i : i + 1], ids=["abcde"[i]], against=SECONDS[i : i + 1], combine=MINUS,
            temperature=temperature, seed=2, max_new_tokens=limit,
        )  # fmt: skip
        assert tuple(got[i]) == alone[0].tokens


def test_a_rule_that_looks_at_the_prompt_looks_at_the_first(tiny, tokenizer):
    """Diversity over the prompt lowers other tokens in either row: both still go on with the first row's choice."""
    rules = {"rules": ["diversity"], "diversity_weight": -20.0, "diversity_scope": "prompt"}
    make = make_rules(tokenizer, **rules)
    prompts, seconds = [*PROMPTS, " ".join(PROMPTS)] * 2, [*SECONDS, "Hi"] * 2
    options = {"against": seconds, "combine": MINUS, "max_new_tokens": 20, "make_processors": make}
    together = generate_responses(tiny, tokenizer, prompts, **options)
    for prompt, second, response in zip(prompts, seconds, together, strict=True):

        def ruled(ours, theirs, ids):
            mask = torch.ones(1, len(encode_prompt(tokenizer, prompt)), dtype=torch.long)  # noqa: B023
            scores = MINUS(ours, theirs)[None]
            for rule in make(mask):
                scores = rule(ids, scores)
            return scores[0]

        rows = [encode_prompt(tokenizer, text) for text in (prompt, second)]
        tokens = []
        while len(tokens) < response.n_tokens:
            with torch.inference_mode():
                ours, theirs = (tiny(torch.tensor([row + tokens])).logits[0, -1] for row in rows)
            tokens.append(int(ruled(ours, theirs, torch.tensor([rows[0] + tokens])).argmax()))
        assert tuple(tokens) == response.tokens


def test_pairs_in_slots_need_neighbours_of_one_limit(tiny, tokenizer):
    rows = [encode_prompt(tokenizer, text) for text in PROMPTS[:4]]
    options = {"ends": [], "batch_size": 2, "pairs": MINUS, "graphs": False}
    for some, limits in ((rows[:3], [4] * 3), (rows, [4, 5, 4, 5])):
        with pytest.raises(ValueError, match="every prompt needs a second one"):
            decode_rows(tiny, some, row_ids="abcd"[: len(some)], limits=limits, **options)


def test_a_second_instruction_beyond_the_context_is_named(tiny, tokenizer):
    with pytest.raises(TacitError, match="q7, second instruction"):
        generate_responses(tiny, tokenizer, ["Hi"], ids=["q7"], against=["word " * 400], combine=MINUS)


def test_a_second_instruction_needs_its_combiner(tiny, tokenizer):
    for wrong in (
        {"against": SECONDS},
        {"combine": MINUS},
        {"against": SECONDS[:2], "combine": MINUS},
        {"against": [], "combine": MINUS},
    ):
        with pytest.raises(ValueError, match="give combine together"):
            generate_responses(tiny, tokenizer, PROMPTS, **wrong)


def test_nothing_in_nothing_out(tiny, tokenizer):
    assert generate_responses(tiny, tokenizer, [], against=[], combine=MINUS) == []
