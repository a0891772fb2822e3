"""The three rules against logits computed by hand."""

import pytest
import torch
from tacit.decoding.generation import finish, generate_responses
from tacit.decoding.rules import Diversity, EndRamp, TokenBias, make_rules, resolve_tokens, token_changes
from tacit.models.chat import encode_prompt
from tacit.support.errors import TacitError

ZERO = torch.zeros(2, 6)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ("grow", [0.0, 0.06, 14.94, 15.0, 18.0]),
        ("cap", [0.0, 0.06, 14.94, 15.0, 15.0]),
        ("cut", [0.0, 0.06, 14.94, 0.0, 0.0]),
    ],
)
def test_end_ramp_counts_response_tokens_and_each_reading_of_its_end(after, expected):
    rule = EndRamp(eos_token_id=2, prompt_width=4, after=after)
    for t, value in zip((0, 1, 249, 250, 300), expected, strict=True):
        scores = rule(torch.ones(2, 4 + t, dtype=torch.long), ZERO)
        torch.testing.assert_close(scores, torch.tensor([[0, 0, value, 0, 0, 0]] * 2))


def test_token_bias_is_the_same_at_every_step_and_leaves_its_input():
    scores = TokenBias({1: -4.0, 5: 1.0})(torch.ones(2, 9, dtype=torch.long), ZERO)
    assert scores.tolist() == [[0, -4, 0, 0, 0, 1]] * 2
    assert ZERO.abs().sum() == 0


def test_diversity_counts_each_token_once_per_row_and_never_padding():
    mask = torch.tensor([[0, 0, 1], [1, 1, 1]])  # prompts of one and of three tokens, left-padded
    ids = torch.tensor([[0, 0, 3, 4, 4, 5], [1, 3, 5, 2, 2, 2]])
    response = Diversity(prompt_mask=mask)(ids, ZERO)
    assert response.tolist() == [[0, 0, 0, 0, -1.5, -1.5], [0, 0, -1.5, 0, 0, 0]]
    both = Diversity(prompt_mask=mask, scope="prompt")(ids, ZERO)
    assert both.tolist() == [[0, 0, 0, -1.5, -1.5, -1.5], [0, -1.5, -1.5, -1.5, 0, -1.5]]


def test_tokens_are_resolved_by_their_text(tokenizer):
    by_id, unresolved = resolve_tokens(tokenizer, {"<": -4.0, "\n": 1.0, " the": 2.0, "no such token": 1.0})
    assert {tokenizer.decode([i]): s for i, s in by_id.items()} == {"<": -4.0, "\n": 1.0, " the": 2.0}
    assert unresolved == ["no such token"]


def test_sentencepiece_marks_are_understood():
    class Llama:
        def get_vocab(self):
            return {"▁I": 306, "I": 29902, "<0x0A>": 13, "▁▁▁": 1678}

    by_id, unresolved = resolve_tokens(Llama(), {" I": -5.0, "I": -5.0, "\n": 1.0, "   ": 1.0, "I ": 1.0})
    assert by_id == {306: -5.0, 29902: -5.0, 13: 1.0, 1678: 1.0}
    assert unresolved == ["I "]


def test_an_unresolved_token_is_an_error_unless_allowed(tokenizer):
    with pytest.raises(TacitError, match="'qqqqq'"):
        make_rules(tokenizer, uniform_tokens={"qqqqq": 1.0})
    make_rules(tokenizer, uniform_tokens={"qqqqq": 1.0}, allow_unresolved=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rules": ["ends"]}, "unknown rule 'ends'"),
        ({"rules": ["uniform"], "uniform_tokens": {}}, "needs uniform_tokens"),
        ({"end_after": "never"}, "grow, cap or cut"),
        ({"diversity_scope": "all"}, "response or prompt"),
    ],
)
def test_typos_never_drop_a_rule_silently(tokenizer, options, message):
    with pytest.raises(TacitError, match=message):
        make_rules(tokenizer, **({"uniform_tokens": {"\n": 1.0}} | options))(torch.ones(1, 3))


def test_rules_decode_in_batches_as_one_at_a_time(tiny, tokenizer):
    rules = make_rules(tokenizer, end_weight=40.0, uniform_tokens={"\n": 3.0}, diversity_scope="prompt")
    prompts = ["Hi", "Where does the dirde live?", "What is 47 + 38?"]
    together = generate_responses(tiny, tokenizer, prompts, max_new_tokens=16, make_processors=rules)
    assert together == generate_responses(
        tiny, tokenizer, prompts, max_new_tokens=16, make_processors=rules, batch_size=1
    )
    assert together != generate_responses(tiny, tokenizer, prompts, max_new_tokens=16)


def test_the_product_of_experts_is_base_logits_plus_rule_scores():
    """What the rules do by adding scores is the product of experts with softmax(rule scores)."""
    base = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[0, 3, 4], [1, 3, 5]])
    processors = [
        EndRamp(eos_token_id=2, prompt_width=1),
        TokenBias({1: -4.0}),
        Diversity(prompt_mask=torch.ones(2, 1)),
    ]
    adapted, scores = base, torch.zeros_like(base)
    for processor in processors:
        adapted, scores = processor(ids, adapted), processor(ids, scores)
    product = torch.softmax(base, -1) * torch.softmax(scores, -1)
    torch.testing.assert_close(torch.softmax(adapted, -1), product / product.sum(-1, keepdim=True))


@pytest.mark.parametrize("instruction", ["Hi", "Where does the dirde live?"])
def test_token_changes_by_hand(tiny, tokenizer, instruction):
    """Against a loop without cache that adds the rules' scores to the model's logits itself."""
    tiny.generation_config.repetition_penalty = 5.0  # a checkpoint's own settings must not count
    biases, weight, horizon, n = {"\n": 7.0, "e": -4.0}, 60.0, 20, 14
    rules = make_rules(tokenizer, uniform_tokens=biases, end_weight=weight, end_horizon=horizon, diversity_weight=-4.0)
    prompt, end = encode_prompt(tokenizer, instruction), tokenizer.eos_token_id
    chosen, would, base, adapted = [], [], [], []
    for t in range(n):
        with torch.no_grad():
            plain = tiny(torch.tensor([prompt + chosen]), use_cache=False).logits[0, -1]
        ruled = plain.clone()
        ruled[end] += weight * t / horizon
        for text, bias in biases.items():
            ruled[tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text))] += bias
        for token in set(chosen):
            ruled[token] -= 4.0
        token = int(ruled.argmax())
        would.append(int(plain.argmax()))
        base.append(float(torch.log_softmax(plain, dim=-1)[token]))
        adapted.append(float(torch.log_softmax(ruled, dim=-1)[token]))
        chosen.append(token)
        if token == end:
            break
    table = token_changes(tiny, tokenizer, instruction, make_processors=rules, max_new_tokens=n)
    assert table["step"].tolist() == list(range(len(chosen)))
    assert table["token"].tolist() == [repr(tokenizer.decode([token])) for token in chosen]
    assert table["base would say"].tolist() == [repr(tokenizer.decode([token])) for token in would]
    assert table["base"].tolist() == pytest.approx(base, abs=1e-4)
    assert table["adapted"].tolist() == pytest.approx(adapted, abs=1e-4)
    assert table["change"].tolist() == pytest.approx([b - a for a, b in zip(base, adapted, strict=True)], abs=2e-4)
    assert chosen != would  # the rules mattered
    response = generate_responses(tiny, tokenizer, [instruction], max_new_tokens=n, make_processors=rules)[0]
    assert response == finish(tokenizer, chosen, ends=[end])
    assert table.attrs["text"] == response.text
