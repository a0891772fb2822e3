"""Speed on a GPU: contrastive decoding of two random-weight models of the papers' shapes, against the usual ways.

Arms: A0, both models on the whole prefix for every token, without a cache (``tacit.bench``); A1, ``generate`` with the amateur
in a logits processor that keeps its own cache (``bench.AmateurContrast``); A2, ours: ``tacit.decoding.slots.Slots`` on the
composite; A5, the same slots on the expert alone. There is no A3, ``generate_batch`` on the composite: in transformers 5.23 its
requests fail (``tacit.decoding.slots`` says why).

All arms sample (temperature 1). Random weights end no text, so each row is given its length, which every arm honours:
A0 and A1 stop a row's counting there and go on until the batch is done, as ``generate`` does; A2 and A5 put another row in
its place. Only tokens up to a row's length count. The two models are of one shape, so that the ideal tax is 2.
"""

from __future__ import annotations

import gc
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch
from bench import ALPHA, BETA, AmateurContrast, Say, bench_folder, device_slug, grow_without_cache
from devices import LLAMA2_7B, LLAMA31_8B, measure_copy, measure_product, now
from scipy import stats
from tacit.decoding.generation import pad_left
from tacit.decoding.slots import Slots, cache_bytes, fitting_batch, free_memory, members
from tacit.models.experts import Experts, contrast
from tacit.support import paths, provenance
from tacit.support.errors import TacitError
from tacit.support.files import check_schema, read_record, write_record
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LogitsProcessorList, PreTrainedModel, StoppingCriteria

Rows = list[list[int]]
PAD = 0
PAIRS = {"llama3.1-8b": LlamaConfig(**LLAMA31_8B), "llama2-7b": LlamaConfig(**LLAMA2_7B)}  # weights are drawn
TINY = LlamaConfig(
    vocab_size=307,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.3,
)
FULL = {
    "fixed": {"prompt": 448, "new": 128, "batches": [128, 32, 1, 256]},  # on average 512 keys are read
    "no cache": {"rows": 8, "new": 4},
    "mix": {"rows": 1024, "prompts": [32, 96], "median": 80.0, "sigma": 0.8, "limits": [4, 384]},
    "gate": {"rows": 12, "new": 24, "draws": 4000},
    "copy_bytes": 4 << 30,
    "product": 8192,
}
DRY = {
    "fixed": {"prompt": 12, "new": 8, "batches": [4, 2, 1, 6]},
    "no cache": {"rows": 2, "new": 2},
    "mix": {"rows": 12, "prompts": [2, 6], "median": 5.0, "sigma": 0.8, "limits": [1, 12]},
    "gate": {"rows": 4, "new": 10, "draws": 400},
    "copy_bytes": 1 << 20,
    "product": 128,
}
REPEATS, DRY_REPEATS = 5, 2
TARGETS = {
    "share of the roofline": (0.70, "at least"),
    "times A1 on the length mix": (3.0, "at least"),
    "tax of the contrast": (2.15, "at most"),
}

POSITIVE = {"type": "number", "exclusiveMinimum": 0}
CELL = {
    "type": "object",
    "properties": {
        "arm": {"enum": ["A0", "A1", "A2", "A5"]},
        "lengths": {"enum": ["fixed", "lognormal"]},
        "batch": {"type": "integer", "minimum": 1},
        "measured": {"type": "string", "minLength": 1},
        "repeats": {"type": "integer", "minimum": 0},
        "fewer_repeats_than_planned": {"type": "boolean"},
        "compile_seconds": {"type": "number", "minimum": 0},
        "peak_gib": {"type": ["number", "null"]},
        "failed": {"type": "string", "minLength": 1},
        **dict.fromkeys(["rate", "rate_min", "rate_max"], POSITIVE),  # useful tokens per second, prompts included
        **dict.fromkeys(["decode_rate", "decode_rate_min", "decode_rate_max"], POSITIVE),  # the same after the prompts
        **dict.fromkeys(["roofline", "roofline_share"], POSITIVE),
    },
    "required": ["arm", "lengths", "batch", "measured", "repeats", "fewer_repeats_than_planned"],
    "additionalProperties": False,
}
TARGET = {
    "type": "object",
    "properties": {
        "name": {"enum": list(TARGETS)},
        "value": POSITIVE,
        "target": POSITIVE,
        "bound": {"enum": ["at least", "at most"]},
        "met": {"type": "boolean"},
        "how": {"type": "string", "minLength": 1},
    },
    "required": ["name", "value", "target", "bound", "met", "how"],
    "additionalProperties": False,
}
DECODING = {
    "type": "object",
    "properties": {
        "pair": {"type": "string", "minLength": 1},
        "dtype": {"type": "string", "minLength": 1},
        "sizes": {"type": "object"},
        "gate": {"type": "string", "minLength": 1},
        "copy_gb_s": POSITIVE,
        "product_tflops": POSITIVE,
        "budget_s": POSITIVE,
        "repeats_planned": {"type": "integer", "minimum": 1},
        "cells": {"type": "array", "items": CELL, "minItems": 4},
        "best_batch": {"type": "object"},
        "targets": {"type": "array", "items": TARGET},
        "wall_seconds": {"type": "number"},
    },
    "required": [
        *("pair", "dtype", "sizes", "gate", "copy_gb_s", "product_tflops", "budget_s", "repeats_planned"),
        *("cells", "best_batch", "targets", "wall_seconds"),
    ],
    "additionalProperties": False,
}
SCHEMA = {
    "type": "object",
    "properties": {
        "device": {"type": "string", "minLength": 1},
        "dry_run": {"type": "boolean"},
        "commit": {"type": "string"},
        "dirty": {"type": ["boolean", "null"]},
        "library_sha256": {"type": "string"},
        "packages": {"type": "object"},
        "started": {"type": "string"},
        "decoding": {"type": "object", "additionalProperties": DECODING},
        "training": {"type": "object"},
        "tests": {"type": "object"},
    },
    "required": ["device", "dry_run", "commit", "library_sha256", "packages", "started"],
    "additionalProperties": False,
}


class RowLimits(StoppingCriteria):
    """Ends row i of a ``generate`` after ``limits[i]`` new tokens; notes when the first and the last token were there."""

    def __init__(self, limits: Sequence[int], *, width: int, device: torch.device):
        self.limits, self.width = torch.tensor(limits, device=device), width
        self.longest, self.first, self.last = max(limits), 0.0, 0.0

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs) -> Tensor:  # [B, time] -> [B]
        new = input_ids.shape[1] - self.width
        if new == 1:
            self.first = now(input_ids.device)
        if new == self.longest:
            self.last = now(input_ids.device)
        return self.limits <= new


def draw_model(config: LlamaConfig, *, device: torch.device, dtype: torch.dtype, seed: int) -> PreTrainedModel:
    """A model of normal weights (std: the config's ``initializer_range``), made on the device, that knows no end token."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    return model


def draw_prompts(lengths: Sequence[int], *, vocabulary: int, seed: int) -> Rows:
    """Random tokens above the padding."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(PAD + 1, vocabulary, (n,), generator=generator).tolist() for n in lengths]


def draw_mix(sizes: dict) -> tuple[list[int], list[int]]:
    """Prompt lengths, uniform, and response lengths, lognormal and clipped, of the length mix."""
    generator = torch.Generator().manual_seed(0)
    low, high = sizes["prompts"]
    prompts = torch.randint(low, high + 1, (sizes["rows"],), generator=generator).tolist()
    lengths = torch.exp(math.log(sizes["median"]) + sizes["sigma"] * torch.randn(sizes["rows"], generator=generator))
    return prompts, lengths.round().clamp(*sizes["limits"]).long().tolist()


@torch.inference_mode()
def by_processor(
    pair: Experts, prompts: Rows, limits: Sequence[int], *, batch_size: int, sampled: bool = True
) -> tuple[Rows, float, float]:
    """A1 on ids: the new tokens, the seconds after each batch's first token, and the tokens made in them."""
    expert, amateur = pair.experts
    rows, seconds, tokens = [], 0.0, 0
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sampled else {"do_sample": False}
    for start in range(0, len(prompts), batch_size):
        ids, mask = pad_left(prompts[start : start + batch_size], PAD, expert.device)
        wanted = limits[start : start + batch_size]
        stop = RowLimits(wanted, width=ids.shape[1], device=ids.device)
        out = expert.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max(wanted),
            logits_processor=LogitsProcessorList([AmateurContrast(amateur, mask)]),
            stopping_criteria=[stop],
            **sampling,
        )
        new = out[:, ids.shape[1] :].tolist()
        rows += [row[:limit] for row, limit in zip(new, wanted, strict=True)]
        seconds, tokens = seconds + stop.last - stop.first, tokens + sum(wanted) - len(wanted)
    return rows, seconds, tokens


@torch.inference_mode()
def without_cache(pair: Experts, prompts: Rows, limits: Sequence[int], *, sampled: bool = True) -> Rows:
    """A0 on ids, one batch: both models on the whole prefix for every token."""
    ids, mask = pad_left(prompts, PAD, pair.experts[0].device)
    width = ids.shape[1]
    for _ in range(max(limits)):
        ids, mask = grow_without_cache(*pair.experts, ids, mask, sampled=sampled)
    return [row[:limit] for row, limit in zip(ids[:, width:].tolist(), limits, strict=True)]


def in_slots(
    model: PreTrainedModel,
    prompts: Rows,
    limits: Sequence[int],
    *,
    batch_size: int,
    sampled: bool = True,
    seed: int = 0,
) -> tuple[Rows, dict[str, float]]:
    """A2 and A5 on ids: the new tokens, and the seconds of ``Slots``."""
    capacity = max(len(prompt) + limit for prompt, limit in zip(prompts, limits, strict=True))
    slots = Slots(model, slots=min(batch_size, len(prompts)), capacity=capacity, temperature=float(sampled))
    done = slots.decode(prompts, limits=limits, row_ids=[str(i) for i in range(len(prompts))], seed=seed)
    return [done[i] for i in range(len(prompts))], slots.seconds


def roofline(model: PreTrainedModel, *, batch: int, length: float, copy_gb_s: float, product_tflops: float) -> float:
    """Tokens per second that the measured ceilings allow: batch / (weights + cache).

    Weights: the greater of reading them once a step (all but the input embedding, of which a step reads a few rows) and the
    2 x parameters x batch operations on them. Cache: reading ``batch`` x ``length`` x ``decoding.cache_bytes``. Nothing else counts.
    """
    parts = members(model)
    weights = [
        (sum(p.numel() for p in part.parameters()) - part.get_input_embeddings().weight.numel(), part.dtype.itemsize)
        for part in parts
    ]
    reading = sum(n * size for n, size in weights) / (copy_gb_s * 1e9)
    computing = 2 * batch * sum(n for n, _ in weights) / (product_tflops * 1e12)
    return batch / (max(reading, computing) + batch * length * cache_bytes(model) / (copy_gb_s * 1e9))


def check_arms(device: torch.device, *, rows: int, new: int, draws: int) -> str:
    """The gate, on tiny float32 models: greedy tokens of A1 and A2 equal A0's, A2's sampled first tokens follow the law.

    The law: p / q^beta on the tokens with p >= alpha max p, normalised; chi-squared at 0.001. Raises TacitError.
    """
    pair = make_pair(TINY, device=device, dtype=torch.float32)
    prompts = draw_prompts([3 + 5 * i % 17 for i in range(rows)], vocabulary=TINY.vocab_size, seed=1)
    limits = [new - i % 5 for i in range(rows)]
    expected = without_cache(pair, prompts, limits, sampled=False)
    found = {
        "A1": by_processor(pair, prompts, limits, batch_size=rows, sampled=False)[0],
        "A2": in_slots(pair, prompts, limits, batch_size=max(1, rows // 2), sampled=False)[0],
    }
    for arm, said in found.items():
        if said != expected:
            wrong = next(i for i in range(rows) if said[i] != expected[i])
            raise TacitError(f"gpu bench: {arm} says {said[wrong]} where A0 says {expected[wrong]}; nothing was timed")
    with torch.inference_mode():
        ids = torch.tensor(prompts[:1], device=device)
        p, q = (part(ids).logits[0, -1].double().softmax(dim=-1).cpu() for part in pair.experts)
    law = torch.where(p >= ALPHA * p.max(), p / q**BETA, 0.0)
    law = law / law.sum()
    said, _ = in_slots(pair, prompts[:1] * draws, [1] * draws, batch_size=draws)
    counts = torch.bincount(torch.tensor(said)[:, 0], minlength=len(law)).double()
    likely = law * draws >= 5
    observed = torch.cat([counts[likely], counts[~likely].sum()[None]])
    wanted = torch.cat([law[likely] * draws, law[~likely].sum()[None] * draws])
    kept = wanted > 1e-6
    value = float(stats.chisquare(observed[kept].numpy(), wanted[kept].numpy()).pvalue) if kept.sum() > 1 else 1.0
    if counts[law == 0].any() or value < 0.001:
        raise TacitError(
            f"gpu bench: A2's first tokens do not follow the contrast (p = {value:.2g}); nothing was timed"
        )
    return f"{rows} ragged prompts, float32, greedy: A1 and A2 equal A0; {draws} sampled first tokens of A2: chi-squared p = {value:.2g}"


def make_pair(config: LlamaConfig, *, device: torch.device, dtype: torch.dtype) -> Experts:
    """Two drawn models as one, with the contrast that ``tacit.bench`` measures."""
    models = [draw_model(config, device=device, dtype=dtype, seed=seed) for seed in (1, 2)]
    return Experts(*models, combine=partial(contrast, alpha=ALPHA, beta=BETA))


class Cell:
    """One arm at one batch size on one set of lengths: its runs so far."""

    def __init__(self, arm: str, run: Callable[[int], dict[str, float]], **record: Any):
        self.arm, self.run, self.record = arm, run, {"arm": arm} | record
        self.rates, self.decode_rates, self.seconds, self.compiled, self.peak = [], [], 0.0, 0.0, None

    def measure(self, device: torch.device) -> None:
        """One run; running out of memory ends the cell, and is recorded."""
        began = now(device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        try:
            found = self.run(len(self.rates))
        except torch.OutOfMemoryError:
            found = None
            if not self.rates:  # later it is one repeat less
                self.record["failed"] = "out of memory"
        if found is not None:
            self.rates.append(found["tokens"] / (now(device) - began - found.get("compile", 0.0)))
            if found.get("decoding"):
                self.decode_rates.append(found["decoded"] / found["decoding"])
            self.compiled = max(self.compiled, found.get("compile", 0.0))
        if device.type == "cuda":
            self.peak = max(self.peak or 0.0, torch.cuda.max_memory_allocated(device) / 2**30)
            gc.collect()
            torch.cuda.empty_cache()
        self.seconds = now(device) - began

    def to_record(self, *, planned: int, ceiling: float | None) -> dict[str, Any]:
        """The cell as it is written; ``ceiling`` is the roofline at its batch and length."""
        record = self.record | {"repeats": len(self.rates), "fewer_repeats_than_planned": len(self.rates) < planned}
        if self.rates:
            record |= {"compile_seconds": round(self.compiled, 2), "peak_gib": self.peak and round(self.peak, 2)}
            for name, rates in (("rate", self.rates), ("decode_rate", self.decode_rates)):
                if rates:
                    record |= {name: statistics.median(rates), f"{name}_min": min(rates), f"{name}_max": max(rates)}
            if ceiling and self.decode_rates:
                record |= {"roofline": ceiling, "roofline_share": record["decode_rate"] / ceiling}
        return {key: float(f"{value:.5g}") if isinstance(value, float) else value for key, value in record.items()}


def run_cells(
    groups: Sequence[Sequence[Cell]], *, device: torch.device, repeats: int, until: float, must: bool, say: Say
) -> None:
    """Rounds over the groups, the arms of each in turns and in reverse every other time, while time is left.

    A group whose last round would not fit before ``until`` (of ``time.perf_counter``) is left out; the first round always runs
    with ``must``. Earlier groups come first, so that they get the repeats.
    """
    for repeat in range(repeats):
        for group in groups:
            live = [cell for cell in group if "failed" not in cell.record and len(cell.rates) <= repeat]
            needed = sum(cell.seconds for cell in live)
            if not live or (time.perf_counter() + needed > until and not (must and repeat == 0)):
                continue
            for cell in live[:: 1 if repeat % 2 == 0 else -1]:
                cell.measure(device)
                what = f"{cell.rates[-1]:.4g} tokens/s" if cell.rates else cell.record["failed"]
                say(
                    f"{cell.arm}, {cell.record['lengths']}, batch {cell.record['batch']}: {what} ({cell.seconds:.1f} s)"
                )


def measure_decoding(pair: str, *, dry_run: bool, budget_s: float, say: Say = print) -> dict[str, Any]:
    """The decoding part of one pair of ``PAIRS`` within about ``budget_s`` seconds; a dry run takes tiny models and sizes.

    Rates are medians over up to 5 interleaved repeats; the first round always runs, the others while time is left, and each
    cell says how many it had. Seconds of making pairs and of capturing graphs are not in any rate. Raises TacitError for an
    unknown pair and for arms that fail the gate.
    """
    if pair not in PAIRS:
        raise TacitError(f"unknown pair {pair!r}: choose among {', '.join(PAIRS)}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not dry_run:
        raise TacitError("no CUDA device is here: add --dry-run, which shows that the bench runs and measures nothing")
    began = time.perf_counter()
    sizes, planned = (DRY, DRY_REPEATS) if dry_run else (FULL, REPEATS)
    copy_gb_s = measure_copy(sizes["copy_bytes"], device=device) / 1e9
    product_tflops = measure_product(sizes["product"], device=device) / 1e12
    say(f"copy {copy_gb_s:.0f} GB/s, bf16 product {product_tflops:.3g} TFLOP/s")
    gate = check_arms(device, **sizes["gate"])
    say(gate)
    config = TINY if dry_run else PAIRS[pair]
    dtype = torch.float32 if dry_run else torch.bfloat16
    model = make_pair(config, device=device, dtype=dtype)
    expert, vocabulary = model.experts[0], config.vocab_size
    fixed, few = sizes["fixed"], sizes["no cache"]

    def slots(arm: str, which: PreTrainedModel, *, batch: int, data: Callable[[int], tuple[Rows, list[int]]], **record):
        def run(repeat: int) -> dict[str, float]:
            prompts, limits = data(repeat)
            rows, seconds = in_slots(which, prompts, limits, batch_size=batch, seed=repeat)
            tokens = sum(map(len, rows))
            return {"tokens": tokens, "decoded": tokens} | {
                "decoding": seconds["decoding"],
                "compile": seconds["capture"],
            }

        return Cell(arm, run, batch=batch, **record)

    def processor(*, batch: int, data: Callable[[int], tuple[Rows, list[int]]], **record) -> Cell:
        def run(repeat: int) -> dict[str, float]:
            rows, seconds, decoded = by_processor(model, *data(repeat), batch_size=batch)
            return {"tokens": sum(map(len, rows)), "decoded": decoded, "decoding": seconds}

        return Cell("A1", run, batch=batch, **record)

    def same(rows: int, prompt: int, new: int) -> Callable[[int], tuple[Rows, list[int]]]:
        return lambda repeat: (draw_prompts([prompt] * rows, vocabulary=vocabulary, seed=repeat), [new] * rows)

    def fixed_cells(batch: int, *, usual: bool) -> list[Cell]:
        work = {"batch": batch, "data": same(batch, fixed["prompt"], fixed["new"]), "lengths": "fixed"}
        work["measured"] = f"{batch} prompts of {fixed['prompt']} tokens, {fixed['new']} new tokens each, each repeat"
        cells = [slots("A2", model, **work), slots("A5", expert, **work)]
        return [*cells, processor(**work)] if usual else cells

    def no_cache(repeat: int) -> dict[str, float]:
        data = same(few["rows"], fixed["prompt"] + fixed["new"] // 2, few["new"])
        return {"tokens": sum(map(len, without_cache(model, *data(repeat))))}

    slow = f"{few['rows']} prefixes of {fixed['prompt'] + fixed['new'] // 2} tokens, {few['new']} new tokens each: a slice, per token"
    groups = [fixed_cells(batch, usual=True) for batch in fixed["batches"]]
    groups[0].append(Cell("A0", no_cache, batch=few["rows"], lengths="fixed", measured=slow))
    for work in (  # libraries set themselves up
        partial(in_slots, model, batch_size=2),
        partial(in_slots, expert, batch_size=2),
        partial(by_processor, model, batch_size=2),
        partial(without_cache, model),
    ):
        work(*same(2, 4, 2)(0))
    until = began + budget_s
    run_cells(groups, device=device, repeats=1, until=until, must=True, say=say)
    if device.type == "cuda":
        fitting = fitting_batch(
            model, prompt_tokens=fixed["prompt"], max_new_tokens=fixed["new"], free_bytes=free_memory(device)
        )
        more = min(512, fitting // 64 * 64)
    else:
        more = 2 * max(fixed["batches"])
    if more not in fixed["batches"] and more > 1:
        groups.append(fixed_cells(more, usual=False))
        run_cells(groups[-1:], device=device, repeats=1, until=until, must=True, say=say)
    best = {}
    for arm in ("A1", "A2", "A5"):
        tried = [cell for group in groups for cell in group if cell.arm == arm and cell.rates]
        if not tried:
            raise TacitError(f"gpu bench: {arm} ran out of memory at every batch size on {provenance.device_name()}")
        best[arm] = max(tried, key=lambda cell: cell.rates[0]).record["batch"]

    prompt_lengths, limits = draw_mix(sizes["mix"])
    prompts = draw_prompts(prompt_lengths, vocabulary=vocabulary, seed=7)
    part = min(best["A1"], len(prompts))

    def slice_of_mix(repeat: int) -> tuple[Rows, list[int]]:
        places = [(repeat * part + i) % len(prompts) for i in range(part)]
        return [prompts[i] for i in places], [limits[i] for i in places]

    shape = f"lognormal lengths (mean {statistics.mean(limits):.1f}, most {max(limits)})"
    whole = {
        "data": lambda repeat: (prompts, limits),
        "lengths": "lognormal",
        "measured": f"all {len(prompts)} prompts each repeat, {shape}",
    }
    sliced = f"{part} of {len(prompts)} prompts as they come, one batch and another each repeat, {shape}; per token"
    mix = [
        slots("A2", model, batch=best["A2"], **whole),
        processor(batch=best["A1"], data=slice_of_mix, lengths="lognormal", measured=sliced),
    ]
    groups.insert(1, mix)
    run_cells([mix], device=device, repeats=1, until=until, must=True, say=say)
    run_cells(groups, device=device, repeats=planned, until=until, must=False, say=say)

    def ceiling(cell: Cell) -> float | None:
        if cell.record["lengths"] != "fixed" or cell.arm == "A0":
            return None
        which = expert if cell.arm == "A5" else model
        read = fixed["prompt"] + fixed["new"] / 2
        rates = {"copy_gb_s": copy_gb_s, "product_tflops": product_tflops}
        return roofline(which, batch=cell.record["batch"], length=read, **rates)

    cells = [cell.to_record(planned=planned, ceiling=ceiling(cell)) for group in groups for cell in group]
    return {
        "pair": pair,
        "dtype": str(dtype).removeprefix("torch."),
        "sizes": sizes,
        "gate": gate,
        "copy_gb_s": copy_gb_s,
        "product_tflops": product_tflops,
        "budget_s": budget_s,
        "repeats_planned": planned,
        "cells": cells,
        "best_batch": best,
        "targets": compare_targets(cells, batch=fixed["batches"][0]),
        "wall_seconds": round(time.perf_counter() - began, 1),
    }


def compare_targets(cells: Sequence[dict[str, Any]], *, batch: int) -> list[dict[str, Any]]:
    """What ``TARGETS`` say of the cells; one that has no value, because an arm failed, is left out."""
    of = {(cell["arm"], cell["lengths"], cell["batch"]): cell for cell in cells if "rate" in cell}
    mixed = {cell["arm"]: cell for cell in cells if cell["lengths"] == "lognormal" and "rate" in cell}
    ours, alone = of.get(("A2", "fixed", batch), {}), of.get(("A5", "fixed", batch), {})
    found = {}
    if "roofline_share" in ours:
        found["share of the roofline"] = ours["roofline_share"], f"A2, decoding, fixed lengths, batch {batch}"
    if {"A1", "A2"} <= set(mixed):
        how = f"A2 at batch {mixed['A2']['batch']} over A1 at batch {mixed['A1']['batch']}, prompts included, medians"
        found["times A1 on the length mix"] = mixed["A2"]["rate"] / mixed["A1"]["rate"], how
    if "decode_rate" in ours and "decode_rate" in alone:
        how = f"A5 over A2, decoding, fixed lengths, batch {batch}, medians"
        found["tax of the contrast"] = alone["decode_rate"] / ours["decode_rate"], how
    return [
        {"name": name, "value": round(value, 4), "target": target, "bound": bound, "how": how}
        | {"met": round(value, 4) <= target if bound == "at most" else round(value, 4) >= target}
        for name, (value, how) in found.items()
        for target, bound in [TARGETS[name]]
    ]


def run_tests() -> dict[str, Any]:
    """Run the tests marked ``gpu``; how many passed, failed and were skipped. Raises TacitError when one failed."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}"]
        done = subprocess.run([*command, "tests/test_gpu.py"], cwd=paths.ROOT, check=False)
        if done.returncode:
            raise TacitError(f"the tests marked gpu failed (pytest ended with {done.returncode}): see above")
        suite = ElementTree.parse(report).getroot().find("testsuite")
    counts = {key: int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")}
    return counts | {"seconds": round(time.monotonic() - began, 1)}


def measure_training(*, dry_run: bool, budget_s: float, say: Say) -> dict[str, Any]:
    """The training part, by ``tacit.trainbench``; raises TacitError where that is not there."""
    try:
        import trainbench
    except ImportError as error:
        raise TacitError(f"--part training needs tacit.trainbench: {error}") from None
    return trainbench.measure_training(dry_run=dry_run, budget_s=budget_s, say=say)


def result_file(*, dry_run: bool) -> Path:
    """``outputs/bench/gpu-<device>.json``; a dry run's, which measures nothing, in the cache folder."""
    return bench_folder(quick=dry_run) / f"gpu-{device_slug()}.json"


def run_part(
    part: str,
    *,
    pair: str = "llama3.1-8b",
    dry_run: bool = False,
    budget_s: float = 420.0,
    out: Path | None = None,
    say: Say = print,
) -> Path:
    """Run one part (tests, decoding or training) and add it to the result file, whose path it returns.

    Parts of the same commit, source and device stay; a file of another is begun anew. A part that fails writes nothing.
    """
    out = result_file(dry_run=dry_run) if out is None else Path(out)
    earlier = read_results(out) if out.exists() else None  # before the measurement: an unreadable one would cost it
    record = {
        "device": provenance.device_name(),
        "dry_run": dry_run,
        "commit": provenance.commit(),
        "dirty": provenance.dirty(),
        "library_sha256": provenance.library_hash(),
        "packages": provenance.packages(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    if part == "tests":
        found = {"tests": run_tests()}
    elif part == "training":
        found = {"training": measure_training(dry_run=dry_run, budget_s=budget_s, say=say)}
    else:
        found = {"decoding": {pair: measure_decoding(pair, dry_run=dry_run, budget_s=budget_s, say=say)}}
    if earlier is not None:
        if all(earlier[key] == record[key] for key in ("device", "dry_run", "commit", "library_sha256")):
            found = {key: earlier[key] for key in ("decoding", "training", "tests") if key in earlier} | (
                {"decoding": earlier.get("decoding", {}) | found["decoding"]} if "decoding" in found else found
            )
            record["started"] = earlier["started"]
        else:
            say(f"{out.name} is of another commit or device: begun anew")
    return write_results(out, record | found)


def validate_results(record: Any, *, name: str) -> None:
    """Raise TacitError, saying where, unless ``record`` is a valid result file whose parts agree."""
    check_schema(record, SCHEMA, name=name, what="a gpu bench file")
    for pair, part in record.get("decoding", {}).items():
        for cell in part["cells"]:
            where = f"{name}: {pair}: {cell['arm']}, batch {cell['batch']}"
            if ("rate" in cell) != (cell["repeats"] > 0) or ("rate" not in cell) != ("failed" in cell):
                raise TacitError(f"{where}: a cell has a rate or says why it failed")
            if "rate" in cell and not cell["rate_min"] <= cell["rate"] <= cell["rate_max"]:
                raise TacitError(f"{where}: the rate lies outside its range")
        batch = part["sizes"]["fixed"]["batches"][0]
        if [t["met"] for t in part["targets"]] != [t["met"] for t in compare_targets(part["cells"], batch=batch)]:
            raise TacitError(f"{name}: {pair}: `met` does not say what the cells say")


def write_results(path: Path, record: dict[str, Any]) -> Path:
    """Validate ``record`` and write it whole or not at all."""
    return write_record(path, record, validate=validate_results)


def read_results(path: Path) -> dict[str, Any]:
    """Read and validate a result file; raises TacitError when it is missing or malformed."""
    return read_record(path, validate=validate_results)


def describe(record: dict[str, Any]) -> str:
    """The result file in a few lines."""
    lines = [record["device"]]
    if record["dry_run"]:
        return (
            f"{lines[0]}: a dry run of {', '.join(key for key in ('tests', 'decoding', 'training') if key in record)}"
        )
    for pair, part in record.get("decoding", {}).items():
        for cell in part["cells"]:
            told = cell.get("failed") or f"{cell['rate']:.5g} tokens/s"
            if "roofline_share" in cell:
                told += f", decoding {cell['decode_rate']:.5g}, {cell['roofline_share']:.0%} of the roofline"
            lines.append(
                f"  {pair} {cell['arm']} {cell['lengths']} batch {cell['batch']}: {told} (n = {cell['repeats']})"
            )
        for target in part["targets"]:
            verdict = "met" if target["met"] else "missed"
            lines.append(
                f"  {pair} {target['name']}: {target['value']:.3g}, {target['bound']} {target['target']:g}: {verdict}"
            )
    for target in record.get("training", {}).get("targets", []):
        value, verdict = target["value"], {True: "met", False: "missed", None: "not decided"}[target["met"]]
        lines.append(f"  training {target['name']}: {value}, at least {target['target']}: {verdict}")
    return "\n".join(lines)
