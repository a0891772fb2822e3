"""AdamW with float32 copies of the weights: what bfloat16 drops, and torch's AdamW as the reference."""

import copy

import pytest
import torch
from datasets import Dataset
from tacit.support.errors import TacitError
from tacit.training.finetuning import finetune
from tacit.training.optimizers import Float32Muon, MasterAdamW, orthogonalize


def descend(kind, weight, gradients, **options):
    weight = torch.nn.Parameter(weight.clone())
    optimizer = kind([weight], **options)
    for gradient in gradients:
        weight.grad = gradient.to(weight.dtype)
        optimizer.step()
    return weight.detach()


def test_an_update_below_bfloat16s_resolution_is_dropped_by_adamw_and_kept_by_the_copy():
    start, gradients = torch.tensor([1.0, -3.0]), [torch.ones(2)] * 100
    options = {
        "lr": 1e-4,
        "weight_decay": 0.0,
    }  # each step moves a weight by 1e-4; bfloat16 steps at 1 are 2^-8 and more
    exact = descend(torch.optim.AdamW, start, gradients, **options)
    assert exact.tolist() == pytest.approx([0.99, -3.01], rel=1e-5)
    assert torch.equal(descend(torch.optim.AdamW, start.bfloat16(), gradients, **options), start.bfloat16())
    assert torch.equal(descend(MasterAdamW, start.bfloat16(), gradients, **options), exact.bfloat16())
    assert not torch.equal(exact.bfloat16(), start.bfloat16())


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_on_float32_weights_it_is_torchs_adamw(decay):
    torch.manual_seed(0)
    start, gradients = torch.randn(5, 3), [torch.randn(5, 3) for _ in range(7)]
    options = {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-7, "weight_decay": decay}
    torch.testing.assert_close(
        descend(MasterAdamW, start, gradients, **options), descend(torch.optim.AdamW, start, gradients, **options)
    )


def test_finetuning_bfloat16_weights_with_copies_is_nearer_to_float32(tiny, tokenizer):
    rows = [
        {"id": str(i), "instruction": f"Say {w}.", "response": f"{w} {w}."}
        for i, w in enumerate(["moon", "sea", "key", "rain"])
    ]
    options = {"epochs": 12, "learning_rate": 3e-4, "seed": 0, "batch_size": 4, "max_length": 64}
    tiny = tiny.bfloat16().float()  # the same start for all
    exact, plain, master = (
        torch.cat(
            [
                p.detach().float().flatten()
                for p in finetune(model, tokenizer, Dataset.from_list(rows), **options, optimizer=name)[0].parameters()
            ]
        )
        for model, name in (
            (copy.deepcopy(tiny), "adamw"),
            (copy.deepcopy(tiny).bfloat16(), "adamw"),
            (copy.deepcopy(tiny).bfloat16(), "adamw-master"),
        )
    )
    assert (master - exact).abs().mean() < 0.5 * (plain - exact).abs().mean()
    with pytest.raises(TacitError, match="unknown optimizer 'adam': choose one of adamw, adamw-master"):
        finetune(tiny, tokenizer, Dataset.from_list(rows), **options, optimizer="adam")


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (5, 5)])
def test_muon_in_float32_is_torchs_within_bfloat16(shape):
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), [torch.randn(shape) for _ in range(5)]
    options = {"lr": 0.1, "weight_decay": 0.1, "adjust_lr_fn": "match_rms_adamw"}
    ours, theirs = (descend(kind, start, gradients, **options) for kind in (Float32Muon, torch.optim.Muon))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=4e-3)
    assert (theirs - start).abs().max() > 4e-2  # the steps themselves are ten times as long


def test_an_orthogonalized_matrix_keeps_its_singular_vectors_and_has_values_near_one():
    torch.manual_seed(0)
    matrix = torch.randn(7, 4)
    made = orthogonalize(matrix, coefficients=(3.4445, -4.775, 2.0315), steps=5, eps=1e-7)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    inside = left.T @ made @ right.T
    torch.testing.assert_close(inside, torch.diag(inside.diagonal()), rtol=0, atol=1e-4)
    assert ((inside.diagonal() > 0.6) & (inside.diagonal() < 1.3)).all()
