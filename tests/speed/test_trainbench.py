"""The training benchmark: its arithmetic by hand, its lengths, a dry run, and what it refuses."""

import json
import math
import statistics

import pytest
import torch
import trainbench
from shapes import LLAMA2_7B
from tacit.data.instructions import IGNORED
from tacit.support.errors import TacitError
from trainbench import draw_lengths, loss_tokens, make_plans, make_rows, measure_training, micro_batches, useful_flops
from transformers import AutoModelForCausalLM, LlamaConfig


def test_lengths_are_lognormal_with_the_mean_that_is_asked_for():
    lengths = draw_lengths(40_000, mean=750, sigma=0.5, longest=10**6, seed=0)
    assert statistics.mean(lengths) == pytest.approx(750, rel=0.02)
    assert statistics.stdev(map(math.log, lengths)) == pytest.approx(0.5, rel=0.02)
    assert max(draw_lengths(1_000, mean=750, sigma=0.85, longest=2_048, seed=0)) == 2_048
    assert draw_lengths(5, mean=100, sigma=0.5, longest=200, seed=1) == draw_lengths(
        5, mean=100, sigma=0.5, longest=200, seed=1
    )


def test_rows_and_batches():
    rows = make_rows([10, 4], prompt=0.25, vocabulary=50, seed=0)
    assert [row["labels"].count(IGNORED) for row in rows] == [2, 1]
    assert loss_tokens(rows) == 11
    padded, packed = (micro_batches(rows, micro=2, packed=packed, boundaries=packed) for packed in (False, True))
    assert padded[0]["input_ids"].shape == (2, 10) and packed[0]["input_ids"].shape == (1, 14)
    assert packed[0]["cu_seq_lens_q"].tolist() == [0, 10, 14]
    assert len(micro_batches(rows, micro=1, packed=False, boundaries=False)) == 2


def test_useful_flops_of_a_small_shape_and_of_llama_2_7b():
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    model = AutoModelForCausalLM.from_config(config)
    rows = [{"input_ids": [1] * 5, "labels": [IGNORED, IGNORED, 1, 1, 1]}]
    blocks = 3 * (4 * 8 * 8 + 3 * 8 * 12 + 2 * 8) + 8
    assert useful_flops(model, rows) == 6 * blocks * 5 + 6 * 11 * 8 * 3 + 12 * 3 * 8 * 5**2
    with torch.device("meta"):
        large = AutoModelForCausalLM.from_config(LlamaConfig(**LLAMA2_7B))
    assert large.num_parameters() == 6_738_415_616
    row = {"input_ids": [1] * 2_048, "labels": [1] * 2_048}
    per_token = useful_flops(large, [row]) / 2_048
    assert per_token == pytest.approx(6 * 6.607e9 + 12 * 32 * 4_096 * 2_048, rel=1e-3)


def test_a_dry_run_fills_the_record():
    lines = []
    record = measure_training(dry_run=True, budget_s=0, say=lines.append)  # one round, since no time is left
    assert json.loads(json.dumps(record)) == record
    arms = {arm["name"]: arm for arm in record["arms"]}
    assert len(arms) == 5 and sum("tokens/s" in line for line in lines) == 5
    for arm in arms.values():
        assert arm["repeats"] == 1 and arm["rate"] == arm["tokens_per_s"] > 0
        assert arm["mfu_of_measured"] > 0 and arm["mfu_of_datasheet"] is None and "peak_gib" not in arm
    padded, grouped, packed = (arms[f"LIMA-like, {name}"] for name in ("padded", "padded by length", "packed"))
    assert padded["tokens"] == grouped["tokens"] == packed["tokens"] and packed["padding"] == 0
    assert padded["padding"] > grouped["padding"] > 0
    assert [target["met"] for target in record["targets"]] == [None, None]  # a dry run judges nothing


def test_the_committed_lengths_are_drawn_again():
    lima = make_plans(trainbench.FULL, vocabulary=32_000)[-1].rows
    lengths = [len(row["input_ids"]) for row in lima]
    assert (statistics.mean(lengths), max(lengths)) == (727.375, 2_001)
    assert loss_tokens(lima) == 20_951


def test_what_it_refuses(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(TacitError, match="measured on a CUDA GPU"):
        measure_training(dry_run=False, budget_s=1)
    other = trainbench.collate_packed

    def wrong(rows, **options):
        batch = other(rows, **options)
        return batch | {
            "position_ids": torch.arange(batch["input_ids"].shape[1])[None]
        }  # one text: rows see each other

    monkeypatch.setattr(trainbench, "collate_packed", wrong)
    with pytest.raises(TacitError, match="between packed and padded rows: nothing was timed"):
        measure_training(dry_run=True, budget_s=1)
