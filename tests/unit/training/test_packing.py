"""Packing: the loss and gradient of padding, no token that sees another row, architectures that it would harm."""

import copy

import pytest
import torch
from conftest import CONFIGS, SIZE, VOCABULARY, make_model
from datasets import Dataset
from tacit.data.instructions import IGNORED
from tacit.models.internals import attention
from tacit.support.errors import TacitError
from tacit.training import packing
from tacit.training.finetuning import collate, finetune
from tacit.training.packing import VARLEN, check_packing, collate_packed
from transformers import BloomConfig, LlamaConfig, LlamaForCausalLM, MambaConfig

ROWS = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [IGNORED, IGNORED, IGNORED, 8, 9]},
    {"input_ids": [3, 4, 11], "labels": [IGNORED, 4, 11]},
    {"input_ids": list(range(20, 34)), "labels": [IGNORED] * 2 + list(range(22, 34))},  # beyond Gemma's window of eight
]
TEXTS = [
    {"id": str(i), "instruction": f"Say {word}.", "response": " ".join([word] * (1 + 3 * (i % 3)))}
    for i, word in enumerate(["moon", "sea", "key", "rain", "bell", "king", "boat"])
]


def test_packed_rows_by_hand():
    batch = collate_packed(ROWS[:2])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 3, 4, 11]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2]]
    assert batch["logits_to_keep"].tolist() == [2, 3, 5, 6]  # not 4: what follows it is another row's first token
    assert batch["labels"].tolist() == batch["shift_labels"].tolist() == [[8, 9, 4, 11]]
    assert "cu_seq_lens_q" not in batch and batch["use_cache"] is False
    assert collate_packed(ROWS[:2], boundaries=True)["cu_seq_lens_q"].tolist() == [0, 5, 8]
    silent = [{"input_ids": [5, 6], "labels": [IGNORED, IGNORED]}]
    for batch in (collate_packed(silent), collate(silent, pad_token_id=0)):
        assert batch["shift_labels"].tolist() == [[IGNORED]] and batch["logits_to_keep"].tolist() == [0]


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_loss_and_gradient_are_those_of_padded_rows(kind, implementation):
    model = make_model(CONFIGS[kind], seed=0)
    model.set_attn_implementation(implementation)
    parameters = list(model.parameters())
    padded = model(**collate(ROWS, pad_token_id=0)).loss
    packed = model(**collate_packed(ROWS)).loss
    assert packed.item() == pytest.approx(padded.item(), rel=1e-5)
    for a, b in zip(*(torch.autograd.grad(loss, parameters) for loss in (packed, padded)), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", sorted(CONFIGS))
def test_no_token_sees_another_row(kind):
    model = make_model(CONFIGS[kind], seed=0)
    other = copy.deepcopy(ROWS)
    other[1]["input_ids"] = [40, 41, 42]
    with torch.no_grad():
        one, two = (model(**collate_packed(rows)).logits[0] for rows in (ROWS, other))
    assert torch.equal(one[:2], two[:2]) and torch.equal(one[4:], two[4:])
    assert not torch.allclose(one[2:4], two[2:4])
    check_packing(model, ROWS[:2])


def test_finetuning_packed_is_finetuning_padded(tiny, tokenizer):
    runs = {}
    for name, settings in {
        "padded": {},
        "packed": {"packing": True},
        "by two": {"packing": True, "micro_batch": 2},
    }.items():
        options = {"epochs": 2, "learning_rate": 1e-3, "seed": 0, "batch_size": 4, "max_length": 64, "autocast": False}
        model, history = finetune(copy.deepcopy(tiny), tokenizer, Dataset.from_list(TEXTS), **options, **settings)
        runs[name] = (torch.cat([p.detach().flatten() for p in model.parameters()]), [row["loss"] for row in history])
    for name in ("packed", "by two"):
        assert runs[name][1] == pytest.approx(runs["padded"][1], rel=1e-5)
        assert (runs[name][0] - runs["padded"][0]).abs().mean() < 1e-6
    before = torch.cat([p.detach().flatten() for p in tiny.parameters()])
    assert (runs["padded"][0] - before).abs().mean() > 5e-4


class SeesAll(LlamaForCausalLM):
    """Packed rows come as one text: what a model does that has no use for positions that begin anew."""

    def forward(self, input_ids, position_ids=None, **kwargs):
        return super().forward(input_ids, **kwargs)


class CountsOn(LlamaForCausalLM):
    """Rows are apart, but something of where a row stands in the batch gets into its logits."""

    def forward(self, input_ids, position_ids=None, **kwargs):
        out = super().forward(input_ids, position_ids=position_ids, **kwargs)
        out.logits = out.logits * (1 + torch.arange(out.logits.shape[1])[None, :, None])
        return out


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SeesAll(LlamaConfig(**SIZE)), "a token sees other rows"),
        (lambda: CountsOn(LlamaConfig(**SIZE)), "depend on where it stands"),
        (
            lambda: make_model(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4), seed=0),
            "position_ids",
        ),
        (
            lambda: make_model(MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2), seed=0),
            "position_ids",
        ),
    ],
    ids=["one text", "place in batch", "bloom", "mamba"],
)
def test_architectures_on_which_packing_is_wrong_are_refused(make, message):
    with pytest.raises(TacitError, match=message):
        check_packing(make(), ROWS[:2])


def test_finetuning_refuses_before_it_changes_anything(tiny, tokenizer):
    tiny.__class__ = SeesAll
    before = copy.deepcopy(tiny.state_dict())
    with pytest.raises(TacitError, match="SeesAll cannot be tuned with packing"):
        finetune(tiny, tokenizer, Dataset.from_list(TEXTS), epochs=1, learning_rate=1.0, seed=0, packing=True)
    assert all(torch.equal(value, before[name]) for name, value in tiny.state_dict().items())


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma3"])
def test_the_kernels_call_row_by_row(kind, older, monkeypatch):
    """A loop over the rows stands in for torch's kernel, which needs CUDA: with windows and shared keys it agrees.

    The older kernel, torch 2.11's, cannot share keys among heads of queries.
    """

    def naive(query, key, value, starts, starts_k, longest, longest_k, *, scale, window_size, enable_gqa=False):
        assert enable_gqa == (query.shape[1] != key.shape[1]) and (starts == starts_k).all()
        outs, left = [], window_size[0]
        for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            assert b - a <= longest == longest_k
            q, k, v = (x[a:b].transpose(0, 1) for x in (query, key, value))
            i = torch.arange(b - a)
            mask = (i[:, None] >= i) & ((i[:, None] - i <= left) | (left < 0))
            out = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=scale, enable_gqa=enable_gqa)
            outs.append(out.transpose(0, 1))
        assert window_size[1] == 0
        return torch.cat(outs)

    def naive_2_11(query, key, value, starts, starts_k, longest, longest_k, *, scale, window_size):
        assert query.shape == key.shape == value.shape
        return naive(query, key, value, starts, starts_k, longest, longest_k, scale=scale, window_size=window_size)

    monkeypatch.setattr(packing, "varlen_attn", naive_2_11 if older else naive)
    model = make_model(CONFIGS[kind], seed=0)
    with torch.no_grad():
        expected = model(**collate_packed(ROWS)).logits
        with attention(model, VARLEN):
            assert torch.allclose(model(**collate_packed(ROWS, boundaries=True)).logits, expected, atol=1e-4)
            with pytest.raises(TacitError, match="needs the boundaries"):
                model(**collate_packed(ROWS))
    assert not packing.has_varlen(model, autocast=True)  # on a CPU
