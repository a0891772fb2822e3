"""Speed of finetuning a 7B shape on one device: tokens a second, and the share of its arithmetic that they use.

What is measured is what ``finetune(dtype="bfloat16", optimizer="adamw-master")`` does in a step, without the
Trainer's loop around it: bf16 weights and gradients, float32 copies and moments (``MasterAdamW``; 16 bytes a weight,
100 GiB for 6.74e9), bf16 autocast, logits at labelled positions only, the gradient's norm clipped at 1, no
compilation.

Arms: rows of 2,048 tokens that all bear loss but the first, with activations recomputed (8 rows at once) and kept (1
at once), 16 rows a step; and 32 rows of LIMA-like lengths a step, 8 at once, recomputed: padded in random order,
padded among rows of like length (what ``finetune`` does), and packed. LIMA has about 750 tokens an example (750,000
in 1,000; Zhou et al. 2023, section 2). That lengths are lognormal with a log standard deviation of 0.85, and a tenth
prompt, is an assumption.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import records
import torch
from shapes import LLAMA2_7B, TINY
from tacit.data.instructions import IGNORED
from tacit.models.internals import attention
from tacit.support import provenance
from tacit.support.errors import TacitError
from tacit.training.finetuning import collate
from tacit.training.optimizers import MasterAdamW
from tacit.training.packing import VARLEN, collate_packed, has_varlen
from timing import Arm, Run, Say, measure_product, run_rounds
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

Row = dict[str, list[int]]

FULL = {"length": 2_048, "rows": 16, "lima_rows": 32, "micro": 8, "kept_micro": 1, "product": 8_192, "repeats": 5}
DRY = {"length": 96, "rows": 4, "lima_rows": 16, "micro": 4, "kept_micro": 2, "product": 256, "repeats": 2}
LIMA = {"mean": 750, "sigma": 0.85, "prompt": 0.1}
DATASHEET = {"H100 80GB HBM3": 989e12, "H200": 989e12}  # NVIDIA's dense bf16 FLOP/s of the SXM boards, by device


@dataclass
class Plan:
    """How one arm takes its step: ``micro`` rows at once, padded or packed, with activations recomputed or kept."""

    name: str
    rows: list[Row]
    micro: int
    recomputed: bool = True
    packed: bool = False


def draw_lengths(n: int, *, mean: float, sigma: float, longest: int, seed: int) -> list[int]:
    """``n`` lognormal lengths in tokens with that mean before they are cut at ``longest`` (at least 8 each)."""
    noise = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    lengths = (math.log(mean) - sigma**2 / 2 + sigma * noise).exp()
    return [min(max(round(length), 8), longest) for length in lengths.tolist()]


def make_rows(lengths: Sequence[int], *, prompt: float, vocabulary: int, seed: int = 1) -> list[Row]:
    """Rows of random tokens of these lengths, whose first share ``prompt`` bears no loss (at least one token)."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        ids = torch.randint(3, vocabulary, (length,), generator=generator).tolist()
        silent = max(1, round(prompt * length))
        rows.append({"input_ids": ids, "labels": [IGNORED] * silent + ids[silent:]})
    return rows


def make_plans(sizes: dict[str, int], *, vocabulary: int) -> list[Plan]:
    """The plans of the five arms."""
    full = make_rows([sizes["length"]] * sizes["rows"], prompt=0.0, vocabulary=vocabulary)
    mean = LIMA["mean"] * sizes["length"] / FULL["length"]
    lengths = draw_lengths(sizes["lima_rows"], mean=mean, sigma=LIMA["sigma"], longest=sizes["length"], seed=1)
    lima, micro = make_rows(lengths, prompt=LIMA["prompt"], vocabulary=vocabulary), sizes["micro"]
    return [
        Plan("full length, recomputed", full, micro),
        Plan("full length, kept", full, sizes["kept_micro"], recomputed=False),
        Plan("LIMA-like, padded", lima, micro),
        Plan("LIMA-like, padded by length", sorted(lima, key=lambda row: -len(row["input_ids"])), micro),
        Plan("LIMA-like, packed", lima, micro, packed=True),
    ]


def loss_tokens(rows: Sequence[Row]) -> int:
    """How many tokens bear loss."""
    return sum(label != IGNORED for row in rows for label in row["labels"])


def useful_flops(model: PreTrainedModel, rows: Sequence[Row]) -> float:
    """Floating-point operations that training on ``rows`` needs (Chowdhery et al. 2022, appendix B).

    For a row of T tokens, of which R bear loss: 6 (N - head) T + 6 head R + 12 L d T^2, with N all weights but the
    input embeddings, head the output embeddings and L layers of width d. Recomputed activations and padding count
    nothing; attention's masked half counts. A model's share (MFU) is these over seconds and the device's peak.
    """
    config, weights = model.config, model.num_parameters() - model.get_input_embeddings().weight.numel()
    head = model.get_output_embeddings().weight.numel()
    lengths = [len(row["input_ids"]) for row in rows]
    products = 6 * (weights - head) * sum(lengths) + 6 * head * loss_tokens(rows)
    return products + 12 * config.num_hidden_layers * config.hidden_size * sum(length**2 for length in lengths)


def micro_batches(rows: Sequence[Row], *, micro: int, packed: bool, boundaries: bool) -> list[dict[str, Tensor]]:
    """``rows`` in runs of ``micro``, each padded or packed."""
    runs = [list(rows[i : i + micro]) for i in range(0, len(rows), micro)]
    return [collate_packed(run, boundaries=boundaries) if packed else collate(run, pad_token_id=0) for run in runs]


class Training:
    """A model with random weights and its optimizer; ``kernel`` is the attention for packed rows."""

    def __init__(self, shape: dict[str, Any], *, device: str):
        torch.manual_seed(0)
        with torch.device(device):
            self.model = AutoModelForCausalLM.from_config(LlamaConfig(**shape), dtype=torch.bfloat16)
        self.model.config.use_cache = False
        self.optimizer = MasterAdamW(self.model.parameters(), lr=1e-5)
        self.padded = self.model.config._attn_implementation
        self.kernel = VARLEN if has_varlen(self.model, autocast=True) else self.padded

    def batches(self, rows: list[Row], *, micro: int, packed: bool) -> list[dict[str, Any]]:
        """The micro batches on the model's device."""
        batches = micro_batches(rows, micro=micro, packed=packed, boundaries=self.kernel == VARLEN)
        to = lambda value: value.to(self.model.device) if torch.is_tensor(value) else value  # noqa: E731
        return [{key: to(value) for key, value in batch.items()} for batch in batches]

    def check_equal(self, rows: list[Row]) -> float:
        """The largest relative difference of a token's logits, packed against padded; raises TacitError above 10%.

        Rounding in bf16 makes a few percent of it in 32 layers. A token that saw other rows would be off by about its
        own size: with random weights, what attention adds outweighs the embedding.
        """
        logits, device = [], self.model.device.type
        for packed, implementation in ((False, self.padded), (True, self.kernel)):
            (batch,) = self.batches(rows, micro=len(rows), packed=packed)
            with torch.no_grad(), attention(self.model, implementation), torch.autocast(device, torch.bfloat16):
                logits.append(self.model.eval()(**batch).logits[batch["shift_labels"] != IGNORED].float())
        difference = float(((logits[1] - logits[0]).norm(dim=1) / logits[0].norm(dim=1)).max())
        if not difference < 0.1:
            wrong = f"a token's logits differ by {difference:.0%} between packed and padded rows"
            raise TacitError(f"{wrong}: nothing was timed")
        return difference

    def take_step(self, plan: Plan) -> float:
        """One optimizer step as ``finetune`` makes it, without a schedule; returns its seconds.

        The loss is the mean over the loss-bearing tokens of all micro batches, in nats per token. Raises TacitError
        for a loss that is not finite.
        """
        model, tokens, total = self.model.train(), loss_tokens(plan.rows), 0.0
        (model.activation_checkpointing_enable if plan.recomputed else model.activation_checkpointing_disable)()
        batches = self.batches(plan.rows, micro=plan.micro, packed=plan.packed)
        began = time.perf_counter()
        with attention(model, self.kernel if plan.packed else self.padded):
            for batch in batches:
                with torch.autocast(model.device.type, torch.bfloat16):
                    loss = model(**batch, num_items_in_batch=tokens).loss
                loss.backward()
                total += loss.detach()
            clip_grad_norm_(model.parameters(), 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad()
        if not math.isfinite(float(total)):  # waits for the device
            raise TacitError(f"the loss of {plan.name} is {float(total)}: nothing can be said of its speed")
        return time.perf_counter() - began

    def run(self, plan: Plan, repeat: int) -> Run:
        """A step that reserves memory and is not measured, and one that is."""
        tokens, began = sum(len(row["input_ids"]) for row in plan.rows), time.perf_counter()
        try:
            self.take_step(plan)
            seconds = self.take_step(plan)
        except torch.OutOfMemoryError:
            self.optimizer.zero_grad()
            raise
        return Run(tokens, setup=time.perf_counter() - began - seconds)

    def to_record(self, arm: Arm, plan: Plan, *, peaks: dict[str, float | None]) -> dict[str, Any]:
        """An arm's record with the share of each of ``peaks``, in FLOP/s, that its useful operations use."""
        record = arm.to_record()
        if not arm.failed:
            tokens = arm.runs[0].tokens
            handled = sum(b["input_ids"].numel() for b in self.batches(plan.rows, micro=plan.micro, packed=plan.packed))
            rate = record["rate"] / tokens * useful_flops(self.model, plan.rows)
            shares = {f"mfu_of_{name}": rate / peak if peak else None for name, peak in peaks.items()}
            record |= {"tokens": tokens, "loss_tokens": loss_tokens(plan.rows), "padding": 1 - tokens / handled}
            record |= records.spread("tokens_per_s", arm.rates) | shares
        return record


def measure_training(*, dry_run: bool, budget_s: float, say: Say = print) -> dict[str, Any]:
    """Time optimizer steps of a Llama-2-7B shape with random weights, within about ``budget_s`` seconds.

    Arms take turns in at most five rounds; the first always runs. ``dry_run`` takes a tiny shape on the CPU: it shows
    that this runs and measures nothing. Returns a JSON-ready record: ``arms`` with tokens a second, the share of the
    measured product and of the datasheet (None where it is not known) and peak memory; ``ratios``; ``targets``, each
    met or not (None where that is not decided). Raises TacitError without a GPU unless it is a dry run, and when
    packed and padded rows have different logits.
    """
    if not dry_run and not torch.cuda.is_available():
        raise TacitError("training is measured on a CUDA GPU with about 140 GB; --dry-run shows on a CPU that it runs")
    until, device = time.perf_counter() + budget_s, "cpu" if dry_run else "cuda"
    sizes, shape = (DRY, TINY) if dry_run else (FULL, LLAMA2_7B)
    name = provenance.device_name()
    datasheet = next((peak for part, peak in DATASHEET.items() if part in name and not dry_run), None)
    peaks = {"measured": measure_product(sizes["product"], device=torch.device(device)), "datasheet": datasheet}
    say(f"bf16 product of {sizes['product']}: {peaks['measured'] / 1e12:.3g} TFLOP/s")
    training, plans = Training(shape, device=device), make_plans(sizes, vocabulary=shape["vocab_size"])
    difference = training.check_equal(plans[-1].rows[:4])
    arms = {
        plan.name: Arm(
            plan.name, partial(training.run, plan), name=plan.name, rows=len(plan.rows), rows_at_once=plan.micro
        )
        for plan in plans
    }
    run_rounds([list(arms.values())], device=torch.device(device), repeats=sizes["repeats"], until=until, say=say)
    cells = [training.to_record(arms[plan.name], plan, peaks=peaks) for plan in plans]
    packed = arms["LIMA-like, packed"].rates
    ratios = {
        f"packed / {kind}": records.ratios(packed, arms[f"LIMA-like, {kind}"].rates)
        for kind in ("padded", "padded by length")
    }
    best = max((cell.get("mfu_of_datasheet") or 0.0 for cell in cells if cell["name"].startswith("full")), default=0.0)
    values = {
        "MFU of the datasheet's peak, full length": (best or None, 0.45),
        "packed / padded, LIMA-like lengths": (None if dry_run else ratios["packed / padded"].get("ratio"), 1.5),
    }
    targets = [
        {"name": name, "value": value}
        | ({"met": None, "target": target} if value is None else records.judge(value, target))
        for name, (value, target) in values.items()
    ]
    kernels = {"padded": training.padded, "packed": training.kernel}
    made = {"shape": shape, "attention": kernels, "lengths": LIMA, "budget_s": budget_s}
    peak = {f"{kind}_tflops": value and value / 1e12 for kind, value in peaks.items()}
    gate = {"largest relative difference of a token's logits, packed and padded": difference}
    return made | {"peak": peak, "gate": gate, "arms": cells, "ratios": ratios, "targets": targets}
