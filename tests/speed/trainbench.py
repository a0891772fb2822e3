"""Speed of finetuning a 7B shape on one device: tokens a second, and the share of the device's arithmetic that they use."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial

import torch
from devices import LLAMA2_7B, measure_product
from tacit.data.instructions import IGNORED
from tacit.models.loading import attention
from tacit.support import provenance
from tacit.support.errors import TacitError
from tacit.training.finetuning import collate
from tacit.training.optimizers import MasterAdamW
from tacit.training.packing import VARLEN, collate_packed, has_varlen
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

Row = dict[str, list[int]]

TINY = LLAMA2_7B | {
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
}
FULL_SIZES = {"length": 2_048, "rows": 16, "lima_rows": 32, "micro": 8, "kept_micro": 1, "product": 8_192}
DRY_SIZES = {"length": 96, "rows": 4, "lima_rows": 16, "micro": 4, "kept_micro": 2, "product": 256}
DATASHEET = {
    "H100 80GB HBM3": 989e12,
    "H200": 989e12,
}  # NVIDIA's dense bf16 tensor-core FLOP/s of the SXM boards, by a part of the device's name
LIMA = {"mean": 750, "sigma": 0.85, "prompt": 0.1}
REPEATS = 5
FORMULA = (
    "useful FLOPs of a row of T tokens, of which R bear loss = 6 (N - head) T + 6 head R + 12 L d T^2, with N all weights but the input "
    "embeddings, head the output embeddings, L layers of width d; recomputed activations and padding count nothing, and attention's "
    "masked half counts (Chowdhery et al. 2022, appendix B). MFU = useful FLOPs / seconds / peak"
)


def draw_lengths(n: int, *, mean: float, sigma: float, longest: int, seed: int) -> list[int]:
    """``n`` lognormal lengths in tokens with that mean before they are cut at ``longest`` (at least 8 each)."""
    noise = torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    lengths = (math.log(mean) - sigma**2 / 2 + sigma * noise).exp()
    return [min(max(round(length), 8), longest) for length in lengths.tolist()]


def make_rows(lengths: Sequence[int], *, prompt: float, vocabulary: int, seed: int) -> list[Row]:
    """Rows of random tokens of these lengths, whose first share ``prompt`` bears no loss (at least one token)."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for length in lengths:
        ids = torch.randint(3, vocabulary, (length,), generator=generator).tolist()
        silent = max(1, round(prompt * length))
        rows.append({"input_ids": ids, "labels": [IGNORED] * silent + ids[silent:]})
    return rows


def loss_tokens(rows: Sequence[Row]) -> int:
    """How many tokens bear loss."""
    return sum(label != IGNORED for row in rows for label in row["labels"])


def useful_flops(model: PreTrainedModel, rows: Sequence[Row]) -> float:
    """Floating-point operations that training on ``rows`` needs, by ``FORMULA``."""
    config, weights = model.config, model.num_parameters() - model.get_input_embeddings().weight.numel()
    head = model.get_output_embeddings().weight.numel()
    lengths = [len(row["input_ids"]) for row in rows]
    products = 6 * (weights - head) * sum(lengths) + 6 * head * loss_tokens(rows)
    return products + 12 * config.num_hidden_layers * config.hidden_size * sum(length**2 for length in lengths)


def take_step(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, batches: Sequence[dict[str, Tensor]], *, tokens: int
) -> float:
    """One optimizer step as ``finetune`` makes it, over micro ``batches`` with ``tokens`` loss-bearing tokens; returns the loss.

    ``batches`` are those of ``micro_batches``: tokens [rows, longest] padded, [1, sum of lengths] packed. The loss is the mean over
    ``tokens`` of all batches, in nats per token. bf16 autocast, the gradient's norm clipped at 1, gradients cleared afterwards; no
    schedule of the learning rate. It waits for the device.
    """
    total = torch.zeros((), device=model.device)
    for batch in batches:
        inputs = {key: value.to(model.device) if torch.is_tensor(value) else value for key, value in batch.items()}
        with torch.autocast(model.device.type, torch.bfloat16):
            loss = model(**inputs, num_items_in_batch=tokens).loss
        loss.backward()
        total += loss.detach()
    clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return float(total)  # waits for the device


def micro_batches(rows: Sequence[Row], *, micro: int, packed: bool, boundaries: bool) -> list[dict[str, Tensor]]:
    """``rows`` in runs of ``micro``, each padded or packed."""
    runs = [list(rows[i : i + micro]) for i in range(0, len(rows), micro)]
    return [collate_packed(run, boundaries=boundaries) if packed else collate(run, pad_token_id=0) for run in runs]


def _release(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _check_equal(model: PreTrainedModel, rows: list[Row], *, kernel: str) -> float:
    """The largest relative difference of a token's logits, packed against padded; raises TacitError above 10%.

    Rounding in bf16 makes a few percent of it in 32 layers. A token that saw other rows would be off by about its own size: with random
    weights, what attention adds outweighs the embedding.
    """
    logits = []
    for packed, implementation in ((False, model.config._attn_implementation), (True, kernel)):
        (batch,) = micro_batches(rows, micro=len(rows), packed=packed, boundaries=kernel == VARLEN)
        inputs = {key: value.to(model.device) if torch.is_tensor(value) else value for key, value in batch.items()}
        with torch.no_grad(), attention(model, implementation), torch.autocast(model.device.type, torch.bfloat16):
            logits.append(
                model(**inputs).logits[inputs["shift_labels"] != IGNORED].float()
            )  # [loss-bearing, vocabulary]
    difference = float(((logits[1] - logits[0]).norm(dim=1) / logits[0].norm(dim=1)).max())
    if not difference < 0.1:
        raise TacitError(
            f"a token's logits differ by {difference:.0%} between packed and padded rows: nothing was timed"
        )
    return difference


def measure_training(*, dry_run: bool, budget_s: float, say: Callable[[str], None] | None = None) -> dict:
    """Time optimizer steps of a Llama-2-7B shape with random weights, in rounds through all arms until ``budget_s`` seconds are spent.

    What is measured is what ``finetune(dtype="bfloat16", optimizer="adamw-master")`` does in a step, without the Trainer's loop around it: bf16
    weights and gradients, float32 copies and moments (``MasterAdamW``; 16 bytes a weight, 100 GiB for 6.74e9), bf16 autocast, logits at
    labelled positions only, the gradient's norm clipped at 1. Arms: rows of 2,048 tokens that all bear loss but the first, with activations
    recomputed (8 rows at once) and kept (1 at once), 16 rows a step; and 32 rows of LIMA-like lengths a step, 8 at once, recomputed:
    padded in random order, padded among rows of like length (what ``finetune`` does), and packed. LIMA has about 750 tokens an example (750,000
    in 1,000; Zhou et al. 2023, section 2); that lengths are lognormal with a log standard deviation of 0.85, cut at 2,048, and a
    tenth of them prompt, is an assumption. No compilation; one device.

    Each arm runs once unmeasured, then in interleaved rounds, at most five, in which each takes one step unmeasured and one measured; a round
    is begun only when the last one's duration is left, and at least one is made. An arm that does not fit the memory is left out and named. ``dry_run`` takes a tiny shape on the CPU: it shows
    that this runs and measures nothing. Returns a JSON-ready record: ``arms`` with median, least and most seconds, tokens and loss-bearing
    tokens a second, ``mfu`` against the measured product and the datasheet (None where it is not known), peak memory in GiB;
    ``ratios``; ``targets``, each met or not (or None). Raises TacitError without a GPU unless it is a dry run, and when packed and
    padded rows have different logits.
    """
    say = say or (lambda text: None)
    if not dry_run and not torch.cuda.is_available():
        raise TacitError("training is measured on a CUDA GPU with about 140 GB; --dry-run shows on a CPU that it runs")
    began = time.perf_counter()
    device = "cpu" if dry_run else "cuda"
    sizes, config = (DRY_SIZES, TINY) if dry_run else (FULL_SIZES, LLAMA2_7B)
    peak = measure_product(sizes["product"], device=torch.device(device))
    named = "" if dry_run else torch.cuda.get_device_name()
    datasheet = next((value for word, value in DATASHEET.items() if word in named), None)
    say(f"bf16 product of {sizes['product']}: {peak / 1e12:.1f} TFLOP/s")
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**config), dtype=torch.bfloat16)
    model.config.use_cache = False
    optimizer = MasterAdamW(model.parameters(), lr=1e-5)
    kernel = VARLEN if has_varlen(model, autocast=True) else model.config._attn_implementation

    rows = partial(make_rows, vocabulary=config["vocab_size"], seed=1)
    full = rows([sizes["length"]] * sizes["rows"], prompt=0.0)
    mean = LIMA["mean"] * sizes["length"] / FULL_SIZES["length"]
    lengths = draw_lengths(sizes["lima_rows"], mean=mean, sigma=LIMA["sigma"], longest=sizes["length"], seed=1)
    lima = rows(lengths, prompt=LIMA["prompt"])
    grouped = sorted(lima, key=lambda row: -len(row["input_ids"]))
    plans = {  # rows of a step, rows at once, activations recomputed, packed
        "full length, recomputed": (full, sizes["micro"], True, False),
        "full length, kept": (full, sizes["kept_micro"], False, False),
        "LIMA-like, padded": (lima, sizes["micro"], True, False),
        "LIMA-like, padded by length": (grouped, sizes["micro"], True, False),
        "LIMA-like, packed": (lima, sizes["micro"], True, True),
    }
    model.eval()
    difference = _check_equal(model, rows(lengths[:4], prompt=0.0), kernel=kernel)
    model.train()

    batches = {
        name: micro_batches(step, micro=micro, packed=packed, boundaries=kernel == VARLEN)
        for name, (step, micro, _, packed) in plans.items()
    }

    def run(name: str) -> float:
        step, _, recompute, packed = plans[name]
        (model.activation_checkpointing_enable if recompute else model.activation_checkpointing_disable)()
        with attention(model, kernel if packed else model.config._attn_implementation):
            start = time.perf_counter()
            loss = take_step(model, optimizer, batches[name], tokens=loss_tokens(step))
        if not math.isfinite(loss):
            raise TacitError(f"the loss of {name} is {loss}: nothing can be said of its speed")
        return time.perf_counter() - start

    seconds: dict[str, list[float]] = {name: [] for name in plans}
    memory: dict[str, float | None] = {}
    left_out = []
    for name in plans:  # once unmeasured: kernels are chosen, memory is reserved
        _release(device)
        try:
            run(name)
        except torch.cuda.OutOfMemoryError:
            optimizer.zero_grad()
            left_out.append(name)
            seconds.pop(name)
            say(f"{name}: does not fit the memory")
    last, rounds = 0.0, 0
    while rounds < (2 if dry_run else REPEATS) and (not rounds or time.perf_counter() - began + last < budget_s):
        start = time.perf_counter()
        for name in seconds:
            _release(device)  # or one arm's fragments of memory are the next one's
            run(name)  # reserves memory again, unmeasured
            seconds[name].append(run(name))
            memory[name] = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else None
        last, rounds = time.perf_counter() - start, rounds + 1
        say(f"round {rounds}: {last:.1f} s")

    arms = []
    for name, taken in seconds.items():
        step, micro, recompute, packed = plans[name]
        median, flops = statistics.median(taken), useful_flops(model, step)
        tokens = sum(len(row["input_ids"]) for row in step)
        handled = sum(batch["input_ids"].numel() for batch in batches[name])
        arms.append(
            {
                "name": name,
                "rows": len(step),
                "rows_at_once": micro,
                "recomputed": recompute,
                "packed": packed,
                "tokens": tokens,
                "loss_tokens": loss_tokens(step),
                "padding": 1 - tokens / handled,
                "seconds": median,
                "seconds_min": min(taken),
                "seconds_max": max(taken),
                "tokens_per_s": tokens / median,
                "loss_tokens_per_s": loss_tokens(step) / median,
                "useful_tflops_per_s": flops / median / 1e12,
                "mfu_of_measured": flops / median / peak,
                "mfu_of_datasheet": flops / median / datasheet if datasheet else None,
                "peak_gib": memory[name],
            }
        )
        say(f"{name}: {tokens / median:,.0f} tokens/s, {flops / median / peak:.1%} of the measured product")

    def ratio(slow: str, fast: str) -> dict | None:
        """How many times as fast ``fast`` is, round by round (both handle the same tokens)."""
        if slow not in seconds or fast not in seconds:
            return None
        each = [a / b for a, b in zip(seconds[slow], seconds[fast], strict=True)]
        return {"median": statistics.median(each), "least": min(each), "most": max(each)}

    ratios = {
        "packed / padded": ratio("LIMA-like, padded", "LIMA-like, packed"),
        "packed / padded by length": ratio("LIMA-like, padded by length", "LIMA-like, packed"),
    }
    best = max((arm["mfu_of_datasheet"] or 0 for arm in arms if arm["name"].startswith("full")), default=0)
    gained = ratios["packed / padded"]
    judged = not dry_run
    return {
        "what": "finetuning a Llama-2-7B shape, random weights"
        if not dry_run
        else "a dry run of a tiny shape: it measures nothing",
        "dry_run": dry_run,
        "device": provenance.device_name(),
        "configuration": {
            "shape": config,
            "parameters": model.num_parameters(),
            "held": "bf16 weights and gradients, float32 weight copies and AdamW moments (16 bytes a weight); bf16 autocast; no compilation",
            "attention": {"padded": model.config._attn_implementation, "packed": kernel},
        },
        "formula": FORMULA,
        "peak": {
            "product": sizes["product"],
            "measured_tflops": peak / 1e12,
            "datasheet_tflops": datasheet and datasheet / 1e12,
        },
        "lengths": {
            **LIMA,
            "mean": mean,
            "longest": sizes["length"],
            "drawn_mean": statistics.mean(lengths),
            "drawn_most": max(lengths),
            "source": "mean: 750,000 tokens in 1,000 examples (Zhou et al. 2023, section 2); lognormal, sigma and the prompts' share are assumed",
        },
        "gate": {"largest relative difference of a token's logits, packed and padded": difference},
        "arms": arms,
        "left_out": left_out,
        "ratios": ratios,
        "targets": [
            {
                "name": "MFU of the datasheet's peak, full length",
                "value": best,
                "target": 0.45,
                "met": best >= 0.45 if judged and datasheet else None,
            },
            {
                "name": "packed / padded, LIMA-like lengths",
                "value": gained and gained["median"],
                "target": 1.5,
                "met": gained["median"] >= 1.5 if judged and gained else None,
            },
        ],
        "rounds": rounds,
        "budget_s": budget_s,
        "seconds": time.perf_counter() - began,
    }
