"""The loss of the end token alone: by hand, against a loop, its gradient, and a model tuned with it."""

import copy
import itertools
from functools import partial
from math import log

import pytest
import torch
from datasets import Dataset
from tacit.data.instructions import IGNORED, encode_example
from tacit.support import provenance
from tacit.support.errors import TacitError
from tacit.training.finetuning import collate, finetune
from tacit.training.losses import ending_loss, make_ending_loss
from tacit.training.packing import collate_packed

END = 2
ROWS = [
    {"id": str(i), "instruction": f"Say {word}.", "response": f"{word} {word}." * (1 + i % 3)}
    for i, word in enumerate(["moon", "sea", "key", "rain", "bell", "king", "boat", "hill"])
]
OPTIONS = {"learning_rate": 1e-2, "seed": 0, "batch_size": 4, "max_length": 64, "loss_on": "end"}


def by_loop(logits, labels):
    """One position after another, from ``torch.log_softmax``; log(1 - p) as the sum of the others' probabilities."""
    losses = []
    for row, row_labels in zip(logits.double(), labels.tolist(), strict=True):
        for z, label in zip(row, row_labels, strict=True):
            if label != IGNORED:
                p = torch.log_softmax(z, dim=-1).exp()
                others = sum(value for token, value in enumerate(p) if token != END)
                losses.append(-(p[END] if label == END else others).log())
    return float(sum(losses)) / len(losses)


def drawn(*, scale=1.0, seed=0):
    """Logits [2, 5, 7], and labels with three positions that bear no loss."""
    logits = scale * torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(seed))
    labels = torch.tensor([[IGNORED, 4, 5, END, IGNORED], [0, 6, 1, END, IGNORED]])
    return logits, labels


def test_by_hand():
    """The end token has a half, a third and four fifths: stay, stay, stop. Which other token comes is not read."""
    p = torch.tensor([[0.25, 0.25, 0.5], [1 / 3, 1 / 3, 1 / 3], [0.1, 0.1, 0.8], [0.9, 0.05, 0.05]])
    expected = -(log(0.5) + log(2 / 3) + log(0.8)) / 3
    for first in (0, 1):
        labels = torch.tensor([[first, 1 - first, END, IGNORED]])
        assert ending_loss(p.log()[None], labels, end_token_id=END).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_equals_a_loop_over_positions(scale):
    logits, labels = drawn(scale=scale)
    assert ending_loss(logits, labels, end_token_id=END).item() == pytest.approx(by_loop(logits, labels), rel=1e-5)
    of_trainer = make_ending_loss(END)({"logits": logits}, labels, num_items_in_batch=torch.tensor(70))
    assert of_trainer.item() == pytest.approx(by_loop(logits, labels) / 10, rel=1e-5)  # seven positions bear loss


def test_stays_finite_and_exact_where_probabilities_are_near_0_and_1():
    logits = torch.zeros(1, 4, 5)
    logits[0, :, END] = torch.tensor([80.0, -80.0, 80.0, -80.0])
    logits.requires_grad_(True)
    loss = ending_loss(logits, torch.tensor([[1, 1, END, END]]), end_token_id=END, n_items=1)
    loss.backward()
    assert loss.item() == pytest.approx((80 - log(4)) + (80 + log(4)))  # what is likely costs nothing
    assert logits.grad.isfinite().all()
    assert logits.grad[0, :, END].tolist() == pytest.approx([1, 0, 0, -1], abs=1e-6)


def test_no_labels_cost_nothing():
    logits = torch.zeros(1, 2, 5, requires_grad=True)
    loss = ending_loss(logits, torch.full((1, 2), IGNORED), end_token_id=END)
    loss.backward()
    assert loss.item() == 0.0
    assert logits.grad.abs().max() == 0.0


def test_other_tokens_get_gradients_in_proportion_to_their_probability_alone():
    logits, labels = drawn(scale=2.0)
    logits.requires_grad_(True)
    (grad,) = torch.autograd.grad(ending_loss(logits, labels, end_token_id=END, n_items=1), logits)
    others = [token for token in range(logits.shape[-1]) if token != END]
    p = logits.detach().softmax(dim=-1)
    for b, t in itertools.product(range(2), range(5)):
        label = int(labels[b, t])
        if label == IGNORED:
            assert grad[b, t].abs().max() == 0
            continue
        toward_end = float(label == END) - p[b, t, END]  # what a step adds to the end token's logit
        share = p[b, t, others] / p[b, t, others].sum()
        assert torch.allclose(-grad[b, t, others], -toward_end * share, atol=1e-6)
        assert -grad[b, t, END].item() == pytest.approx(toward_end.item(), abs=1e-6)
    stepped = logits.detach() - 0.9 * grad
    assert torch.equal(stepped[..., others].argsort(dim=-1), logits.detach()[..., others].argsort(dim=-1))


def p_end(model, tokenizer):
    """The end token's probability where it is right, and the mean of it where it is not, over ``ROWS``."""
    batch = collate(
        [encode_example(tokenizer, r["instruction"], r["response"]) for r in ROWS], pad_token_id=tokenizer.pad_token_id
    )
    with torch.no_grad():
        p = model(**batch).logits.softmax(dim=-1)[..., tokenizer.eos_token_id]
    labels = batch["shift_labels"]
    ends = labels == tokenizer.eos_token_id
    return p[ends].mean().item(), p[~ends & (labels != IGNORED)].mean().item()


def test_a_model_tuned_on_ends_stops_where_responses_end_and_nowhere_else(tiny, tokenizer):
    before = p_end(tiny, tokenizer)
    tuned, history = finetune(tiny, tokenizer, Dataset.from_list(ROWS), epochs=8, **OPTIONS)
    after = p_end(tuned, tokenizer)
    assert before[0] < 0.2
    assert after[0] > 0.6
    assert after[1] < 0.2
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]


def test_the_trainers_first_loss_is_that_of_its_batch(tiny, tokenizer):
    """With one step an epoch, the history's first loss is that of all rows before anything is learned."""
    batch = collate(
        [encode_example(tokenizer, r["instruction"], r["response"]) for r in ROWS], pad_token_id=tokenizer.pad_token_id
    )
    with torch.no_grad():
        logits = tiny(**batch).logits
    expected = ending_loss(logits, batch["shift_labels"], end_token_id=tokenizer.eos_token_id).item()
    for micro in (8, 2):
        options = OPTIONS | {"batch_size": 8, "micro_batch": micro, "autocast": False}
        _, history = finetune(copy.deepcopy(tiny), tokenizer, Dataset.from_list(ROWS), epochs=1, **options)
        assert history[0]["loss"] == pytest.approx(expected, rel=1e-4)


def test_accumulated_micro_batches_and_packed_rows_are_as_the_whole_batch(tiny, tokenizer, monkeypatch):
    """Responses are of unequal length: a mean of the micro batches' means would differ."""
    monkeypatch.setattr(provenance, "cpu_multiplies_bf16", lambda: False)  # its rounding would hide the difference
    rows = [encode_example(tokenizer, r["instruction"], r["response"]) for r in ROWS]
    make_batch, loss = partial(collate, pad_token_id=tokenizer.pad_token_id), make_ending_loss(tokenizer.eos_token_id)

    def gradient(*batches):
        n_items = sum(batch["shift_labels"].ne(IGNORED).sum() for batch in batches)
        total = sum(loss(tiny(**batch), batch["labels"], num_items_in_batch=n_items) for batch in batches)
        return total, torch.cat([g.flatten() for g in torch.autograd.grad(total, list(tiny.parameters()))])

    whole, expected = gradient(make_batch(rows))
    for batches in ([make_batch(rows[i : i + 3]) for i in (0, 3, 6)], [collate_packed(rows)]):
        total, found = gradient(*batches)
        assert total.item() == pytest.approx(whole.item(), rel=1e-5)
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-5)
    means = [loss(tiny(**batch), batch["labels"]).item() for batch in (make_batch(rows[i : i + 3]) for i in (0, 3, 6))]
    assert sum(means) / 3 != pytest.approx(whole.item(), rel=1e-3)

    runs = {}
    for name, changed in {"whole": {}, "micro": {"micro_batch": 1}, "packed": {"packing": True}}.items():
        model, history = finetune(
            copy.deepcopy(tiny), tokenizer, Dataset.from_list(ROWS), epochs=2, **OPTIONS, **changed
        )
        runs[name] = (torch.cat([p.detach().flatten() for p in model.parameters()]), [row["loss"] for row in history])
    for name in ("micro", "packed"):
        assert runs[name][1] == pytest.approx(runs["whole"][1], rel=2e-3)
        assert (runs[name][0] - runs["whole"][0]).abs().mean() < 2e-4


def test_an_unknown_loss_is_refused(tiny, tokenizer):
    with pytest.raises(TacitError, match="unknown loss_on 'ends': choose one of response, end, end row"):
        finetune(tiny, tokenizer, Dataset.from_list(ROWS), epochs=1, **(OPTIONS | {"loss_on": "ends"}))


def test_with_the_end_row_alone_the_other_tokens_keep_their_relative_probabilities(tiny, tokenizer):
    """Only the end token's row moves, p(end) rises where a response ends, and the others' order and ratios stay."""
    options = OPTIONS | {"loss_on": "end row", "learning_rate": 0.1, "micro_batch": 2, "autocast": False}
    tuned, history = finetune(copy.deepcopy(tiny), tokenizer, Dataset.from_list(ROWS), epochs=8, **options)
    end = tokenizer.eos_token_id
    for (name, before), after in zip(tiny.named_parameters(), tuned.parameters(), strict=True):
        moved = (before != after).any(dim=-1).nonzero().flatten().tolist()
        assert moved == ([end] if before is tiny.get_output_embeddings().weight else []), name
        assert after.requires_grad
    assert history[-1]["loss"] < history[0]["loss"]
    ids = torch.tensor([encode_example(tokenizer, ROWS[0]["instruction"], ROWS[0]["response"])["input_ids"][:-1]])
    with torch.no_grad():
        logits = torch.stack([model(ids).logits[0] for model in (tiny, tuned)]).log_softmax(-1)  # [2, T, V]
    assert logits[1, -1, end] > logits[0, -1, end]
    logits[:, :, end] = -torch.inf
    torch.testing.assert_close(*logits.log_softmax(-1).exp(), rtol=1e-4, atol=1e-6)


def test_the_end_row_takes_neither_adapters_nor_weight_decay(tiny, tokenizer):
    with pytest.raises(TacitError, match="trains one row of one matrix"):
        finetune(
            tiny, tokenizer, Dataset.from_list(ROWS), epochs=1, **(OPTIONS | {"loss_on": "end row"}), weight_decay=0.1
        )
