"""Speed of contrastive decoding on a GPU: two random-weight models of the papers' shapes, against the usual ways.

Arms: A0, both models on the whole prefix for every token, without a cache; A1, ``generate`` with the
amateur in a logits processor that keeps its own cache; A2, ours: ``tacit.decoding.slots.Slots`` on the composite; A5,
the same slots on the expert alone. All sample (temperature 1). Random weights end no text, so each row is given its
length, which every arm honours: A0 and A1 go on until the batch is done, as ``generate`` does; A2 and A5 put another
row in its place. Only tokens up to a row's length count. The two models are of one shape, so that the ideal tax is 2.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import records
import torch
from scipy import stats
from shapes import LLAMA2_7B, LLAMA31_8B, TINY
from tacit.decoding.capacity import cache_bytes, fitting_batch, free_memory
from tacit.decoding.slots import Slots
from tacit.models.experts import Experts, contrast, members
from tacit.support.errors import TacitError
from timing import Arm, Run, Say, device_here, measure_copy, measure_product, now, run_rounds
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel
from usual import ALPHA, BETA, PAD, Rows, contrast_by_processor, contrast_without_cache

Data = Callable[[int], tuple[Rows, list[int]]]  # from the repeat's number to prompts, and each row's new tokens

PAIRS = {"llama3.1-8b": LLAMA31_8B, "llama2-7b": LLAMA2_7B}
FULL = {
    "fixed": {"prompt": 448, "new": 128, "batches": [128, 32, 1, 256]},  # on average 512 keys are read
    "no cache": {"rows": 8, "new": 4},
    "mix": {"rows": 1024, "prompts": [32, 96], "median": 80.0, "sigma": 0.8, "limits": [4, 384]},
    "gate": {"rows": 12, "new": 24, "draws": 4000},
    "ceilings": {"copy_bytes": 4 << 30, "product": 8192},
    "repeats": 5,
}
DRY = {
    "fixed": {"prompt": 12, "new": 8, "batches": [4, 2, 1, 6]},
    "no cache": {"rows": 2, "new": 2},
    "mix": {"rows": 12, "prompts": [2, 6], "median": 5.0, "sigma": 0.8, "limits": [1, 12]},
    "gate": {"rows": 4, "new": 10, "draws": 400},
    "ceilings": {"copy_bytes": 1 << 20, "product": 128},
    "repeats": 2,
}


def draw_prompts(lengths: Sequence[int], *, vocabulary: int, seed: int) -> Rows:
    """Random tokens above the padding."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(PAD + 1, vocabulary, (n,), generator=generator).tolist() for n in lengths]


def draw_mix(sizes: dict[str, Any]) -> tuple[list[int], list[int]]:
    """Prompt lengths, uniform, and response lengths, lognormal and clipped, of the length mix."""
    generator = torch.Generator().manual_seed(0)
    low, high = sizes["prompts"]
    prompts = torch.randint(low, high + 1, (sizes["rows"],), generator=generator).tolist()
    lengths = torch.exp(math.log(sizes["median"]) + sizes["sigma"] * torch.randn(sizes["rows"], generator=generator))
    return prompts, lengths.round().clamp(*sizes["limits"]).long().tolist()


def make_pair(shape: dict[str, Any], *, device: torch.device, dtype: torch.dtype) -> Experts:
    """Two models of one shape as one, with normal weights made on the device; they know no end token."""
    models = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        with torch.device(device):
            models.append(AutoModelForCausalLM.from_config(LlamaConfig(**shape), dtype=dtype).eval())
        models[-1].generation_config.eos_token_id = None
    return Experts(*models, combine=partial(contrast, alpha=ALPHA, beta=BETA))


class TimedSlots(Slots):
    """Slots that add up the seconds of capturing graphs, and those of decoding beside them."""

    capturing = decoding = 0.0

    def capture(self, n: int, reach: int) -> torch.cuda.CUDAGraph:
        """As ``Slots`` does, timed."""
        began = now(self.device)
        graph = super().capture(n, reach)
        self.capturing += now(self.device) - began
        return graph

    def decode_segment(self, *args: Any, **kwargs: Any) -> None:
        """As ``Slots`` does, timed without what it captures."""
        began, captured = now(self.device), self.capturing
        super().decode_segment(*args, **kwargs)
        self.decoding += now(self.device) - began - (self.capturing - captured)


def run_arm(
    arm: str, pair: Experts, prompts: Rows, limits: Sequence[int], *, batch: int, sampled: bool = True, seed: int = 0
) -> Run:
    """One run of an arm on rows of ids; its result is each row's new tokens."""
    if arm in ("A0", "A1"):
        way = contrast_without_cache if arm == "A0" else contrast_by_processor
        return way(pair, prompts, limits, batch=batch, sampled=sampled)
    capacity = max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True))
    model = pair if arm == "A2" else pair.experts[0]
    slots = TimedSlots(model, slots=min(batch, len(prompts)), capacity=capacity, temperature=float(sampled))
    done = dict(slots.decode(prompts, limits=limits, row_ids=[str(i) for i in range(len(prompts))], seed=seed))
    rows = [done[i] for i in range(len(prompts))]
    return Run.of(rows, setup=slots.capturing, decoded=sum(limits), decoding=slots.decoding)


def roofline(model: PreTrainedModel, *, batch: int, length: float, copy_gb_s: float, product_tflops: float) -> float:
    """Tokens per second that the measured ceilings allow: batch / (weights + cache).

    Weights: the greater of reading them once a step (all but the input embeddings, of which a step reads a few rows)
    and the 2 x parameters x batch operations on them. Cache: reading ``batch`` x ``length`` x ``cache_bytes``.
    Nothing else counts.
    """
    reading = computing = 0.0
    for part in members(model):
        weights = part.num_parameters() - part.get_input_embeddings().weight.numel()
        reading += weights * part.dtype.itemsize / (copy_gb_s * 1e9)
        computing += 2 * batch * weights / (product_tflops * 1e12)
    return batch / (max(reading, computing) + batch * length * cache_bytes(model) / (copy_gb_s * 1e9))


def chi_squared(counts: torch.Tensor, law: torch.Tensor) -> float:
    """The p-value of ``counts`` [V] under the probabilities ``law`` [V]; 0 where an impossible token was drawn."""
    expected = law * counts.sum()
    likely = expected >= 5
    observed, wanted = (torch.cat([x[likely], x[~likely].sum()[None]]) for x in (counts, expected))
    cells = wanted > 1e-6
    if counts[law == 0].any():
        return 0.0
    return float(stats.chisquare(observed[cells].numpy(), wanted[cells].numpy()).pvalue) if cells.sum() > 1 else 1.0


def check_arms(device: torch.device, *, rows: int, new: int, draws: int) -> str:
    """The gate, on tiny float32 models: greedy tokens of A1 and A2 equal A0's, A2's first tokens follow the law.

    The law: p / q^beta on the tokens with p >= alpha max p, normalised; chi-squared at 0.001. Raises TacitError.
    """
    pair = make_pair(TINY, device=device, dtype=torch.float32)
    prompts = draw_prompts([3 + 5 * i % 17 for i in range(rows)], vocabulary=TINY["vocab_size"], seed=1)
    limits = [new - i % 5 for i in range(rows)]
    expected = run_arm("A0", pair, prompts, limits, batch=rows, sampled=False).result
    for arm, batch in (("A1", rows), ("A2", max(1, rows // 2))):
        responses = run_arm(arm, pair, prompts, limits, batch=batch, sampled=False).result
        for ours, theirs in zip(responses, expected, strict=True):
            if ours != theirs:
                raise TacitError(f"gpu bench: {arm} says {ours} where A0 says {theirs}; nothing was timed")
    with torch.inference_mode():
        ids = torch.tensor(prompts[:1], device=device)
        p, q = (part(ids).logits[0, -1].double().softmax(dim=-1).cpu() for part in pair.experts)
    law = torch.where(p >= ALPHA * p.max(), p / q**BETA, 0.0)
    first = run_arm("A2", pair, prompts[:1] * draws, [1] * draws, batch=draws).result
    counts = torch.bincount(torch.tensor(first)[:, 0], minlength=len(law)).double()
    value = chi_squared(counts, law / law.sum())
    if value < 0.001:
        raise TacitError(
            f"gpu bench: A2's first tokens do not follow the contrast (p = {value:.2g}); nothing was timed"
        )
    greedy = f"{rows} ragged prompts, float32, greedy: A1 and A2 equal A0"
    return f"{greedy}; {draws} sampled first tokens of A2: chi-squared p = {value:.2g}"


class Decoding:
    """The decoding arms of one pair, and what is needed to make more of them."""

    def __init__(self, pair: Experts, sizes: dict[str, Any], *, ceilings: dict[str, float]):
        self.pair, self.sizes, self.ceilings = pair, sizes, ceilings
        self.vocabulary = pair.experts[0].config.vocab_size

    def same(self, rows: int, prompt: int, new: int) -> Data:
        """Rows of one length."""
        draw = partial(draw_prompts, [prompt] * rows, vocabulary=self.vocabulary)
        return lambda repeat: (draw(seed=repeat), [new] * rows)

    def cell(self, arm: str, data: Data, *, batch: int, lengths: str, measured: str) -> Arm:
        """One arm at one batch size on one set of lengths."""
        work = lambda repeat: run_arm(arm, self.pair, *data(repeat), batch=batch, seed=repeat)  # noqa: E731
        record = {"arm": arm, "batch": batch, "lengths": lengths, "measured": measured}
        return Arm(f"{arm}, {lengths}, batch {batch}", work, **record)

    def fixed(self, batch: int, *, arms: Sequence[str]) -> list[Arm]:
        """Arms on rows of one length, ``batch`` of them at once."""
        prompt, new = self.sizes["fixed"]["prompt"], self.sizes["fixed"]["new"]
        measured = f"{batch} prompts of {prompt} tokens, {new} new tokens each, each repeat"
        data = self.same(batch, prompt, new)
        return [self.cell(arm, data, batch=batch, lengths="fixed", measured=measured) for arm in arms]

    def no_cache(self) -> Arm:
        """A0, on few prefixes of the length that decoding reads on average."""
        fixed, few = self.sizes["fixed"], self.sizes["no cache"]
        prefix = fixed["prompt"] + fixed["new"] // 2
        measured = f"{few['rows']} prefixes of {prefix} tokens, {few['new']} new tokens each: a slice, per token"
        data = self.same(few["rows"], prefix, few["new"])
        return self.cell("A0", data, batch=few["rows"], lengths="fixed", measured=measured)

    def largest(self) -> int:
        """A batch for what the memory takes, at most 512."""
        fixed, device = self.sizes["fixed"], self.pair.device
        if device.type != "cuda":
            return 2 * max(fixed["batches"])
        room = {"prompt_tokens": fixed["prompt"], "max_new_tokens": fixed["new"], "free_bytes": free_memory(device)}
        return min(512, fitting_batch(self.pair, **room) // 64 * 64)

    def mix(self, best: dict[str, int]) -> list[Arm]:
        """A2 on the whole length mix, and A1 on slices of it as they come, at their best batch sizes."""
        prompt_lengths, limits = draw_mix(self.sizes["mix"])
        prompts = draw_prompts(prompt_lengths, vocabulary=self.vocabulary, seed=7)
        part, n = min(best["A1"], len(prompts)), len(prompts)

        def some(repeat: int) -> tuple[Rows, list[int]]:
            places = [(repeat * part + i) % n for i in range(part)]
            return [prompts[i] for i in places], [limits[i] for i in places]

        shape = f"lognormal lengths (mean {statistics.mean(limits):.1f}, most {max(limits)})"
        measured = f"all {n} prompts each repeat, {shape}"
        sliced = f"{part} of {n} prompts as they come, one batch and another each repeat, {shape}; per token"
        whole = self.cell("A2", lambda _: (prompts, limits), batch=best["A2"], lengths="lognormal", measured=measured)
        return [whole, self.cell("A1", some, batch=best["A1"], lengths="lognormal", measured=sliced)]

    def best_batches(self, arms: Sequence[Arm]) -> dict[str, int]:
        """The batch size at which each arm was fastest; raises TacitError for one that never fit into memory."""
        best = {}
        for name in ("A1", "A2", "A5"):
            tried = {arm.rates[0]: arm.record["batch"] for arm in arms if arm.record["arm"] == name and arm.rates}
            if not tried:
                raise TacitError(f"gpu bench: {name} ran out of memory at every batch size")
            best[name] = tried[max(tried)]
        return best

    def to_record(self, arm: Arm) -> dict[str, Any]:
        """An arm's record with its share of the roofline, where it has one."""
        record, fixed = arm.to_record(), self.sizes["fixed"]
        if record["lengths"] == "fixed" and "decode_rate" in record:
            model = self.pair.experts[0] if record["arm"] == "A5" else self.pair
            length = fixed["prompt"] + fixed["new"] / 2
            ceiling = roofline(model, batch=record["batch"], length=length, **self.ceilings)
            record |= {"roofline": round(ceiling, 1), "roofline_share": round(record["decode_rate"] / ceiling, 4)}
        return record


def measure_decoding(pair: str, *, dry_run: bool, budget_s: float, say: Say = print) -> dict[str, Any]:
    """Decoding of one pair of ``PAIRS`` within about ``budget_s`` seconds; a dry run takes tiny models and sizes.

    Rates are medians over up to 5 interleaved repeats; the first round always runs, the others while time is left,
    and each cell says how many it had. Seconds of making pairs and of capturing graphs are in no rate. Raises
    TacitError for arms that fail the gate.
    """
    until, device, sizes = time.perf_counter() + budget_s, device_here(), DRY if dry_run else FULL
    if device.type == "cpu" and not dry_run:
        raise TacitError("no CUDA device is here: add --dry-run, which shows that the bench runs and measures nothing")
    ceilings = {
        "copy_gb_s": measure_copy(sizes["ceilings"]["copy_bytes"], device=device) / 1e9,
        "product_tflops": measure_product(sizes["ceilings"]["product"], device=device) / 1e12,
    }
    gate = check_arms(device, **sizes["gate"])
    say(f"copy {ceilings['copy_gb_s']:.0f} GB/s, bf16 product {ceilings['product_tflops']:.3g} TFLOP/s; {gate}")
    dtype = torch.float32 if dry_run else torch.bfloat16
    decoding = Decoding(
        make_pair(TINY if dry_run else PAIRS[pair], device=device, dtype=dtype), sizes, ceilings=ceilings
    )
    for arm in ("A0", "A1", "A2", "A5"):  # libraries set themselves up
        run_arm(arm, decoding.pair, *decoding.same(2, 4, 2)(0), batch=2)
    batches = sizes["fixed"]["batches"]
    rounds = partial(run_rounds, device=device, until=until, say=say)
    groups = [decoding.fixed(batch, arms=("A2", "A5", "A1")) for batch in batches]
    groups[0].append(decoding.no_cache())
    rounds(groups, repeats=1)
    if (largest := decoding.largest()) not in (0, *batches):
        groups.append(decoding.fixed(largest, arms=("A2", "A5")))
        rounds(groups, repeats=1)
    best = decoding.best_batches([arm for group in groups for arm in group])
    groups.insert(1, decoding.mix(best))
    rounds(groups, repeats=1)
    rounds(groups, repeats=sizes["repeats"])
    cells = [decoding.to_record(arm) for group in groups for arm in group]
    sized = {
        "pair": pair,
        "dtype": str(dtype).removeprefix("torch."),
        "sizes": sizes,
        "budget_s": budget_s,
        "best_batch": best,
    }
    return sized | ceilings | {"gate": gate, "cells": cells, "targets": compare_targets(cells, batch=batches[0])}


def compare_targets(cells: Sequence[dict[str, Any]], *, batch: int) -> list[dict[str, Any]]:
    """The three targets at the first batch size; one that has no value, because an arm failed, is left out."""
    of = {(cell["arm"], cell["lengths"], cell["batch"]): cell for cell in cells if "rate" in cell}
    mixed = {cell["arm"]: cell for cell in cells if cell["lengths"] == "lognormal" and "rate" in cell}
    ours, alone = of.get(("A2", "fixed", batch)), of.get(("A5", "fixed", batch))
    where = f"decoding, fixed lengths, batch {batch}"
    targets = []

    def add(name: str, value: float, target: float, bound: str, how: str) -> None:
        value = round(value, 4)
        targets.append({"name": name, "value": value} | records.judge(value, target, bound) | {"how": how})

    if ours:
        add("share of the roofline", ours["roofline_share"], 0.7, "at least", f"A2, {where}")
    if {"A1", "A2"} <= set(mixed):
        how = f"A2 at batch {mixed['A2']['batch']} over A1 at batch {mixed['A1']['batch']}, prompts included, medians"
        add("times A1 on the length mix", mixed["A2"]["rate"] / mixed["A1"]["rate"], 3.0, "at least", how)
    if ours and alone:
        add("tax of the contrast", alone["decode_rate"] / ours["decode_rate"], 2.15, "at most", f"A5 over A2, {where}")
    return targets
