"""Soft prompts: responses and losses equal to hand-made ones, only the vectors learn, the second loss does its work."""

import math

import pytest
import torch
from datasets import Dataset
from tacit.data.instructions import encode_example
from tacit.models.chat import encode_prompt
from tacit.support.errors import TacitError
from tacit.training import softprompts

ROWS = [
    {"id": str(i), "instruction": f"Say where the {word} lives.", "response": f"The {word} lives in the cave."}
    for i, word in enumerate(("molka", "tarbi", "river", "moon", "boat", "lamp"))
]
OTHERS = [f"The {row['instruction'].split()[3]}: where is it?" for row in ROWS]
SETTINGS = {"n_vectors": 3, "epochs": 2, "learning_rate": 0.05, "seed": 1, "batch_size": 4}


def test_greedy_responses_are_those_of_a_loop_over_embeddings(tiny, tokenizer):
    prompted = softprompts.add_prompt(tiny, n_vectors=3, seed=2)
    instructions = ["Where does the molka live?", "Name three fruits.", "Hi"]
    given = softprompts.respond_after(prompted, tokenizer, instructions, max_new_tokens=8)
    table, vectors = tiny.get_input_embeddings(), softprompts.vectors_of(prompted).detach()
    for text, response in zip(instructions, given, strict=True):
        x = torch.cat([vectors, table(torch.tensor(encode_prompt(tokenizer, text)))])[None]
        tokens = []
        while len(tokens) < 8 and tokenizer.eos_token_id not in tokens:
            with torch.no_grad():
                tokens.append(int(tiny(inputs_embeds=x).logits[0, -1].argmax()))
            x = torch.cat([x, table(torch.tensor([[tokens[-1]]]))], dim=1)
        assert list(response.tokens) == tokens
        assert response.finish_reason == ("eos" if tokens[-1] == tokenizer.eos_token_id else "length")


def test_vectors_begin_as_embeddings_of_tokens_and_follow_their_seed(tiny, tokenizer):
    prompted = softprompts.add_prompt(tiny, n_vectors=4, seed=0)
    table = tiny.get_input_embeddings().weight
    vectors = softprompts.vectors_of(prompted)
    assert vectors.shape == (4, 32)
    assert all(any(torch.equal(vector, row) for row in table) for vector in vectors)
    assert [name for name, weight in prompted.named_parameters() if weight.requires_grad] == [
        "prompt_encoder.default.embedding.weight"
    ]
    with pytest.raises(TacitError, match="at least one vector, not 0"):
        softprompts.add_prompt(tiny, n_vectors=0, seed=0)


def test_logits_of_responses_are_those_of_each_row_alone(tiny, tokenizer):
    pairs = [(row["instruction"], row["response"]) for row in ROWS[:3]] + [("Hi", "Yes.")]
    logits, targets = softprompts.response_logits(tiny, tokenizer, pairs)
    for pair, z, tokens in zip(pairs, logits, targets, strict=True):
        encoded = encode_example(tokenizer, *pair)
        assert tokens.tolist() == [label for label in encoded["labels"] if label >= 0]
        alone = tiny(input_ids=torch.tensor([encoded["input_ids"]])).logits[0, -len(tokens) - 1 : -1]
        torch.testing.assert_close(z, alone, rtol=1e-4, atol=1e-4)


def test_the_consistency_is_a_mean_of_divergences_and_moves_one_side_only():
    a, b = torch.randn(5, 7, requires_grad=True), torch.randn(5, 7, requires_grad=True)
    p, q = a.detach().softmax(-1), b.detach().softmax(-1)
    expected = sum(float((p[t] * (p[t] / q[t]).log()).sum()) for t in range(5)) / 5
    value = softprompts.consistency([a[:2], a[2:]], [b[:2], b[2:]])
    assert float(value) == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert a.grad is None and b.grad.abs().sum() > 0
    assert float(softprompts.consistency([a], [a])) == pytest.approx(0, abs=1e-6)


def test_only_the_vectors_learn_and_the_loss_falls(tiny, tokenizer):
    before = {name: weight.detach().clone() for name, weight in tiny.named_parameters()}
    settings = SETTINGS | {"epochs": 6}
    prompted, history = softprompts.train_prompt(tiny, tokenizer, Dataset.from_list(ROWS), **settings)
    assert [row["epoch"] for row in history] == list(range(1, 7))
    assert history[-1]["loss"] < history[0]["loss"] and history[0]["divergence"] == 0
    for name, weight in prompted.get_base_model().named_parameters():
        assert torch.equal(weight, before[name])


def test_the_second_loss_brings_wordings_together(tiny, tokenizer):
    import copy

    rows = Dataset.from_list(ROWS)
    settings = SETTINGS | {"epochs": 8}
    divergence = {}
    for weight in (0.0, 20.0):
        model = copy.deepcopy(tiny)
        prompted, _ = softprompts.train_prompt(model, tokenizer, rows, others=OTHERS, weight=weight, **settings)
        with torch.no_grad():
            sides = [
                softprompts.response_logits(prompted, tokenizer, list(zip(texts, rows["response"], strict=True)))[0]
                for texts in (rows["instruction"], OTHERS)
            ]
        divergence[weight] = float(softprompts.consistency(*sides))
    assert divergence[20.0] < 0.9 * divergence[0.0]


def test_one_step_is_adamw_on_the_sum_of_both_losses(tiny, tokenizer):
    import copy

    rows, settings = Dataset.from_list(ROWS[:4]), SETTINGS | {"epochs": 1, "batch_size": 4}
    model = copy.deepcopy(tiny)
    prompted, history = softprompts.train_prompt(model, tokenizer, rows, others=OTHERS[:4], weight=0.5, **settings)
    own = softprompts.add_prompt(tiny, n_vectors=3, seed=1)
    vectors = softprompts.vectors_of(own)
    start, (gradient, loss, second) = vectors.detach().clone(), _gradient(own, tokenizer, rows)
    step = start - 0.05 * gradient / (gradient.abs() + 1e-8)  # AdamW's first step is the gradient's sign
    torch.testing.assert_close(softprompts.vectors_of(prompted).detach(), step, rtol=1e-3, atol=1e-4)
    assert history[0]["loss"] == pytest.approx(loss, rel=1e-4)
    assert history[0]["divergence"] == pytest.approx(second, rel=1e-3)


def _gradient(prompted, tokenizer, rows):
    taught, targets = softprompts.response_logits(
        prompted, tokenizer, list(zip(rows["instruction"], rows["response"], strict=True))
    )
    other, _ = softprompts.response_logits(prompted, tokenizer, list(zip(OTHERS[:4], rows["response"], strict=True)))
    log_p = torch.cat(taught).log_softmax(-1)
    loss = -log_p.gather(1, torch.cat(targets)[:, None]).mean()
    fixed = torch.cat(taught).detach().softmax(-1)
    second = (fixed * (fixed.log() - torch.cat(other).log_softmax(-1))).sum(-1).mean()
    (gradient,) = torch.autograd.grad(loss + 0.5 * second, softprompts.vectors_of(prompted))
    return gradient, float(loss), float(second)


def test_impossible_settings_and_divergence_are_told(tiny, tokenizer):
    rows = Dataset.from_list(ROWS)
    with pytest.raises(TacitError, match="epochs"):
        softprompts.train_prompt(tiny, tokenizer, rows, **SETTINGS | {"epochs": 0})
    with pytest.raises(ValueError, match="1 other instructions for 6 examples"):
        softprompts.train_prompt(tiny, tokenizer, rows, others=["x"], weight=1.0, **SETTINGS)
    with torch.no_grad():
        tiny.get_output_embeddings().weight.fill_(math.nan)
    with pytest.raises(TacitError, match="diverged in epoch 1"):
        softprompts.train_prompt(tiny, tokenizer, rows, **SETTINGS)
