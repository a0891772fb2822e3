"""Speed as ratios: Tacit's way of doing four things against the usual ways, in one process, after a check of equality."""

from __future__ import annotations

import copy
import re
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from tacit.data.instructions import IGNORED, encode_examples
from tacit.decoding.generation import (
    MakeProcessors,
    Response,
    end_tokens,
    finish,
    generate_responses,
    pad_left,
    plain_generation,
)
from tacit.decoding.rules import make_rules
from tacit.microworld.examples import draw_examples
from tacit.microworld.world import World, read_world
from tacit.models.chat import encode_prompt
from tacit.models.experts import Experts, contrast
from tacit.models.loading import load_model, load_tokenizer
from tacit.running.tables import replace_between
from tacit.support import paths, provenance
from tacit.support.errors import TacitError
from tacit.support.files import check_schema, read_record, write_record
from tacit.training.finetuning import collate, epoch_losses, finetune, training_arguments
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForSeq2Seq,
    DynamicCache,
    LlamaConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    SuppressTokensLogitsProcessor,
    Trainer,
    set_seed,
)

Arm = Callable[[int], tuple[int, Any]]  # from the repeat's number to the useful tokens it handled, and its result
Say = Callable[[str], None]

BASE, TEACHER = "outputs/models/micro-base", "outputs/models/micro-teacher"
ALPHA, BETA = 0.1, 0.5  # of the contrastive decoding
FULL = {
    "rules": {"prompts": 64, "tokens": 100, "slice": 4, "gate": 4},
    "finetuning": {"examples": 320, "epochs": 2, "batch_size": 32, "gate": 24},
    "evaluation": {"prompts": 300, "tokens": 112, "slice": 40, "gate": 16, "examples": 600, "epochs": 2},
    "base evaluation": {"prompts": 300, "tokens": 112, "slice": 12, "gate": 16},
    "contrast": {
        "expert": TEACHER,
        "prompts": 512,
        "tokens": 112,
        "slices": [512, 24, 128, 512],
        "gate": 12,
        "gate_tokens": 32,
    }
    | {"batches": [[64, 128, 256], [1, 2, 4], [8, 16, 32, 64], [64, 128, 256]], "calibration": [256, 12, 64, 256]},
}
QUICK = {
    "rules": {"prompts": 6, "tokens": 20, "slice": 2, "gate": 3},
    "finetuning": {"examples": 16, "epochs": 1, "batch_size": 4, "gate": 4},
    "evaluation": {"prompts": 6, "tokens": 8, "slice": 2, "gate": 3, "examples": 8, "epochs": 3},
    "base evaluation": {"prompts": 6, "tokens": 8, "slice": 2, "gate": 3},
    "contrast": {"expert": None, "prompts": 6, "tokens": 8, "slices": [6, 2, 3, 6], "gate": 3, "gate_tokens": 8}
    | {"batches": [[2, 4], [2], [2, 3], [4]], "calibration": [4, 2, 3, 4]},
}
UNIFORM = {  # the paper's Table 8 by the tokens' text; four of them are no token of the micro vocabulary
    **dict.fromkeys(["<", " <", "|"], -4.0),
    **dict.fromkeys([" I", "I", "What"], -5.0),
    **{" We": -3.0, " should": -6.0},
    **dict.fromkeys([" *", " -", "   ", " #", " ##", "\n", "!"], 1.0),
}
NAMES = [
    *("rules", "finetuning", "evaluation", "base evaluation"),
    *("contrast, no cache", "contrast, two caches", "contrast, tax"),
]

ARM = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1},
        "measured": {"type": "string", "minLength": 1},
        **{key: {"type": "number", "exclusiveMinimum": 0} for key in ("seconds", "seconds_min", "seconds_max", "rate")},
    },
    "required": ["name", "measured", "seconds", "seconds_min", "seconds_max", "rate"],
    "additionalProperties": False,
}
BENCH = {
    "type": "object",
    "properties": {
        "name": {"enum": NAMES},
        "what": {"type": "string", "minLength": 1},
        "unit": {"type": "string", "minLength": 1},
        "gate": {"type": "string", "minLength": 1},
        "arms": {"type": "array", "items": ARM, "minItems": 2, "maxItems": 2},
        **{key: {"type": "number", "exclusiveMinimum": 0} for key in ("ratio", "ratio_min", "ratio_max", "target")},
        "bound": {"enum": ["at least", "at most"]},  # what the target is to the ratio
        "met": {"type": "boolean"},
        "details": {"type": "object"},
    },
    "required": [
        *("name", "what", "unit", "gate", "arms", "details"),
        *("ratio", "ratio_min", "ratio_max", "target", "bound", "met"),
    ],
    "additionalProperties": False,
}
SCHEMA = {
    "type": "object",
    "properties": {
        "device": {"type": "string", "minLength": 1},
        "threads": {"type": "integer", "minimum": 1},
        "quick": {"type": "boolean"},
        "repeats": {"type": "integer", "minimum": 1},
        "benches": {"type": "array", "items": BENCH, "minItems": 1},
        "commit": {"type": "string"},
        "dirty": {"type": ["boolean", "null"]},
        "library_sha256": {"type": "string"},
        "packages": {"type": "object"},
        "started": {"type": "string"},
        "wall_seconds": {"type": "number"},
    },
    "required": ["device", "threads", "quick", "repeats", "benches", "commit", "library_sha256", "packages", "started"],
    "additionalProperties": False,
}


@torch.inference_mode()
def generate_alone(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    instructions: Sequence[str],
    *,
    max_new_tokens: int,
    use_cache: bool,
    make_processors: MakeProcessors | None = None,
) -> list[Response]:
    """The usual way: greedy ``model.generate`` on one prompt after the other.

    Without ``use_cache`` the whole prefix is computed again for every token, as the rule adapter of Hewitt et al. was released.
    """
    ends, responses = end_tokens(model, tokenizer), []
    for instruction in instructions:
        ids = torch.tensor([encode_prompt(tokenizer, instruction)], device=model.device)
        mask = torch.ones_like(ids)
        with plain_generation(model, tokenizer):
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                use_cache=use_cache,
                logits_processor=LogitsProcessorList(make_processors(mask) if make_processors else []),
            )
        responses.append(finish(tokenizer, out[0, ids.shape[1] :].tolist(), ends=ends))
    return responses


def finetune_plainly(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Dataset,
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    batch_size: int,
) -> tuple[PreTrainedModel, list[dict[str, float]]]:
    """The usual way: transformers' Trainer with its own random order, padding collator and default attention.

    Loss, optimizer, schedule, precision and batch size are those of ``tacit.training.finetuning.finetune``, and so is what it returns.
    """
    set_seed(seed)
    encoded = encode_examples(tokenizer, examples, max_length=512)
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_arguments(
            folder,
            cpu=model.device.type == "cpu",
            num_train_epochs=epochs,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=0.1,
            seed=seed,
        )
        collator = DataCollatorForSeq2Seq(tokenizer)
        trainer = Trainer(model=model, args=arguments, train_dataset=encoded, data_collator=collator)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return model.eval(), epoch_losses(trainer.state.log_history, epochs=epochs)


class AmateurContrast(LogitsProcessor):
    """The usual way of contrastive decoding with ``generate``: the amateur runs inside a logits processor, with a cache of its own."""

    def __init__(self, amateur: PreTrainedModel, prompt_mask: torch.Tensor):
        self.amateur, self.mask, self.cache = amateur, prompt_mask, DynamicCache(config=amateur.config)

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:  # [B, time], [B, V] -> [B, V]
        grown = input_ids.shape[1] - self.mask.shape[1]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), grown)], dim=1)
        new = input_ids.shape[1] - self.cache.get_seq_length()
        out = self.amateur(
            input_ids=input_ids[:, -new:],
            attention_mask=self.mask,
            position_ids=_positions(self.mask)[:, -new:],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return contrast(scores, out.logits[:, -1], alpha=ALPHA, beta=BETA)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Each token's position in its left-padded row: [B, time]."""
    return (mask.cumsum(dim=-1) - 1).clamp(min=0)


def _padded_batches(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, instructions: Sequence[str], *, batch_size: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The prompts as they come, left-padded: ids and mask, [B, longest] each."""
    prompts = [encode_prompt(tokenizer, text) for text in instructions]
    for start in range(0, len(prompts), batch_size):
        yield pad_left(prompts[start : start + batch_size], tokenizer.pad_token_id, model.device)


@torch.inference_mode()
def contrast_by_processor(
    expert: PreTrainedModel,
    amateur: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    instructions: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    sampled: bool,
) -> list[Response]:
    """Contrastive decoding by ``expert.generate`` with ``AmateurContrast``, in batches as the instructions come."""
    ends, responses = end_tokens(expert, tokenizer), []
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sampled else {}
    for ids, mask in _padded_batches(expert, tokenizer, instructions, batch_size=batch_size):
        with plain_generation(expert, tokenizer):
            out = expert.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=max_new_tokens,
                logits_processor=LogitsProcessorList([AmateurContrast(amateur, mask)]),
                **sampling,
            )
        responses += [finish(tokenizer, row, ends=ends) for row in out[:, ids.shape[1] :].tolist()]
    return responses


@torch.inference_mode()
def contrast_without_cache(
    expert: PreTrainedModel,
    amateur: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    instructions: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int,
    sampled: bool,
) -> list[Response]:
    """Contrastive decoding by a loop that runs both models on the whole prefix for every token, in batches as they come."""
    ends, responses = end_tokens(expert, tokenizer), []
    for ids, mask in _padded_batches(expert, tokenizer, instructions, batch_size=batch_size):
        width, ended = ids.shape[1], torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        while not ended.all() and ids.shape[1] < width + max_new_tokens:
            ids, mask = grow_without_cache(expert, amateur, ids, mask, sampled=sampled)
            ended |= torch.isin(ids[:, -1], torch.tensor(ends, device=ids.device))
        responses += [finish(tokenizer, row, ends=ends) for row in ids[:, width:].tolist()]
    return responses


def grow_without_cache(
    expert: PreTrainedModel, amateur: PreTrainedModel, ids: torch.Tensor, mask: torch.Tensor, *, sampled: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """One token more for each left-padded row, from both models on the whole prefix: ids and mask, [B, time + 1] each."""
    options = {"attention_mask": mask, "position_ids": _positions(mask), "use_cache": False, "logits_to_keep": 1}
    logits = [model(input_ids=ids, **options).logits[:, -1] for model in (expert, amateur)]
    scores = contrast(*logits, alpha=ALPHA, beta=BETA)
    token = torch.multinomial(scores.softmax(dim=-1), 1) if sampled else scores.argmax(dim=-1, keepdim=True)
    return torch.cat([ids, token], dim=1), torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)


def interleave(arms: Sequence[Arm], *, repeats: int) -> tuple[list[list[float]], list[tuple[Any, ...]]]:
    """Time arms in turns, in reverse every other time; returns each arm's tokens per second and each repeat's results."""
    rates, results = [[] for _ in arms], []
    for repeat in range(repeats):
        found: dict[int, Any] = {}
        for which in range(len(arms))[:: 1 if repeat % 2 == 0 else -1]:
            _synchronize()
            started = time.perf_counter()
            tokens, found[which] = arms[which](repeat)
            _synchronize()
            rates[which].append(tokens / (time.perf_counter() - started))
        results.append(tuple(found[which] for which in range(len(arms))))
    return rates, results


def _synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _slice(rows: Sequence, size: int, repeat: int) -> list[int]:
    """The positions of the ``repeat``-th slice of ``size`` rows, from the start again after the end."""
    return [(repeat * size + i) % len(rows) for i in range(size)]


def _arm(name: str, rates: list[float], *, tokens: int, measured: str) -> dict[str, Any]:
    """An arm's record; seconds are those of the whole work of ``tokens``, scaled per token."""
    seconds = [tokens / rate for rate in rates]
    return {
        "name": name,
        "measured": measured,
        "seconds": round(statistics.median(seconds), 4),
        "seconds_min": round(min(seconds), 4),
        "seconds_max": round(max(seconds), 4),
        "rate": round(statistics.median(rates), 2),
    }


def _ratios(fast: list[float], slow: list[float], *, target: float, bound: str = "at least") -> dict[str, Any]:
    """The median of the pairwise ratios with their range, and whether it meets the target."""
    ratios = [a / b for a, b in zip(fast, slow, strict=True)]
    ratio = round(statistics.median(ratios), 3)
    return {
        "ratio": ratio,
        "ratio_min": round(min(ratios), 3),
        "ratio_max": round(max(ratios), 3),
        "target": target,
        "bound": bound,
        "met": _meets(ratio, target, bound),
    }


def _meets(ratio: float, target: float, bound: str) -> bool:
    return ratio <= target if bound == "at most" else ratio >= target


def _require_equal(name: str, fast: list[Response], slow: list[Response], prompts: Sequence[str]) -> None:
    """The gate of the generating benches: the same responses, token for token, or no timing."""
    for a, b, prompt in zip(fast, slow, prompts, strict=True):
        if a != b:
            raise TacitError(f"bench {name}: the arms answer {prompt!r} differently, so nothing was timed: {a} and {b}")


def _equal_share(results: list[tuple[list[Response], list[Response]]], size: int) -> float:
    """The share of the slow arm's timed responses that the fast arm gave too."""
    pairs = [(fast[i], slow[k]) for r, (fast, slow) in enumerate(results) for k, i in enumerate(_slice(fast, size, r))]
    return round(sum(a == b for a, b in pairs) / len(pairs), 4)


def _time_generation(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    *,
    title: str,
    arms: tuple[str, str],
    sizes: dict,
    repeats: int,
    target: float,
    use_cache: bool,
    **options,
) -> tuple[dict[str, Any], list[Response]]:
    """Time batched generation, over all prompts, against one prompt at a time, over another slice each repeat.

    Returns the record's measured parts and the batched responses of the first repeat. Raises TacitError when the arms differ
    on the first prompts.
    """
    options = {"max_new_tokens": sizes["tokens"]} | options

    def fast(repeat: int) -> tuple[int, list[Response]]:
        responses = generate_responses(model, tokenizer, prompts, **options)
        return sum(r.n_tokens for r in responses), responses

    def slow(repeat: int) -> tuple[int, list[Response]]:
        chosen = [prompts[i] for i in _slice(prompts, sizes["slice"], repeat)]
        responses = generate_alone(model, tokenizer, chosen, use_cache=use_cache, **options)
        return sum(r.n_tokens for r in responses), responses

    few = prompts[: sizes["gate"]]
    together = generate_responses(model, tokenizer, few, **options)
    _require_equal(title, together, generate_alone(model, tokenizer, few, use_cache=use_cache, **options), few)
    (fast_rates, slow_rates), results = interleave([fast, slow], repeats=repeats)
    responses = results[0][0]
    tokens, part = sum(r.n_tokens for r in responses), f"{sizes['slice']} of {len(prompts)} prompts each repeat"
    measured = {
        "arms": [
            _arm(arms[0], fast_rates, tokens=tokens, measured=f"all {len(prompts)} prompts each repeat"),
            _arm(arms[1], slow_rates, tokens=tokens, measured=f"{part}, another slice each time, scaled per token"),
        ],
        **_ratios(fast_rates, slow_rates, target=target),
        "details": {"equal_timed_responses": _equal_share(results, sizes["slice"])},
    }
    return measured, responses


def bench_rules(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, *, sizes: dict, repeats: int
) -> list[dict[str, Any]]:
    """The three rules: batched with a key-value cache against one prompt at a time without.

    A last processor, the same in both arms, forbids the end tokens, so that every response has the full length. Raises TacitError where one has not.
    """
    prompts = draw_examples(world, split="test", n=sizes["prompts"], seed=0)["instruction"]
    rules = make_rules(tokenizer, uniform_tokens=UNIFORM, allow_unresolved=True)
    forbidden = SuppressTokensLogitsProcessor(end_tokens(model, tokenizer), device=model.device)
    measured, responses = _time_generation(
        model,
        tokenizer,
        prompts,
        title="rules",
        arms=("batched, cached", "one at a time, no cache"),
        sizes=sizes,
        repeats=repeats,
        target=50.0,
        use_cache=False,
        make_processors=lambda mask: [*rules(mask), forbidden],
    )
    if any(r.n_tokens != sizes["tokens"] or r.finish_reason != "length" for r in responses):
        raise TacitError(f"bench rules: a response does not have {sizes['tokens']} tokens, so the arms do unequal work")
    record = {
        "name": "rules",
        "what": f"three rules on the base model, {len(prompts)} prompts x exactly {sizes['tokens']} new tokens, end tokens forbidden in both arms",
        "unit": "generated tokens",
        "gate": f"{sizes['gate']} prompts, float32, greedy: equal tokens in both arms",
    }
    return [record | measured]


def check_losses(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, *, training: dict[str, Any]
) -> None:
    """The gate of the finetuning bench, on one batch of ``examples``; raises TacitError when a loss is off.

    The reference is the mean over all loss-bearing tokens, example by example without any padding, float32. Both collators'
    batches must give it under either attention in float32, and both trainings' first step must log it within bf16's rounding.
    """
    rows = encode_examples(tokenizer, examples, max_length=512).to_list()
    model = copy.deepcopy(model).float()
    total, count = 0.0, 0

    def loss(batch: dict[str, torch.Tensor]) -> float:
        with torch.inference_mode():
            return float(model(**{key: value.to(model.device) for key, value in batch.items()}).loss)

    for row in rows:
        n = sum(label != IGNORED for label in row["labels"])
        total, count = total + n * loss({key: torch.tensor([row[key]]) for key in ("input_ids", "labels")}), count + n
    reference = total / count
    found = {}
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        found[f"our collator, {attention}"] = loss(collate(rows, pad_token_id=tokenizer.pad_token_id)), 1e-4
        found[f"the Trainer's collator, {attention}"] = loss(dict(DataCollatorForSeq2Seq(tokenizer)(rows))), 1e-4
    for name, train in (("our training", finetune), ("plain training", finetune_plainly)):
        options = training | {"epochs": 1, "batch_size": len(rows)}
        found[name] = train(copy.deepcopy(model), tokenizer, examples, **options)[1][0]["loss"], 2e-2
    for name, (value, tolerance) in found.items():
        if not abs(value - reference) <= tolerance * reference:
            raise TacitError(
                f"bench finetuning: {name} has loss {value:.6f} and not {reference:.6f} on one batch, so nothing was timed"
            )


def bench_finetuning(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, *, sizes: dict, repeats: int
) -> list[dict[str, Any]]:
    """``tacit.training.finetuning.finetune`` against a plain Trainer; tokenization and the Trainer's making count in both arms."""
    examples = draw_examples(world, split="train", n=sizes["examples"], seed=1)
    training = {key: sizes[key] for key in ("epochs", "batch_size")} | {"learning_rate": 1e-4, "seed": 1}
    plain = copy.deepcopy(tokenizer)
    plain.padding_side = "right"  # as one trains
    check_losses(model, plain, examples.select(range(sizes["gate"])), training=training)
    labels = encode_examples(tokenizer, examples, max_length=512)["labels"]
    tokens = sizes["epochs"] * sum(label != IGNORED for row in labels for label in row)
    fresh = [copy.deepcopy(model) for _ in range(2 * repeats)]  # made outside of the timing

    def arm(train: Callable, tokenizer: PreTrainedTokenizerBase) -> Arm:
        return lambda repeat: (tokens, train(fresh.pop(), tokenizer, examples, **training)[1][-1]["loss"])

    arms = [arm(finetune, tokenizer), arm(finetune_plainly, plain)]
    (fast_rates, slow_rates), results = interleave(arms, repeats=repeats)
    measured = "the whole training each repeat, tokenization included, model loading not"
    record = {
        "name": "finetuning",
        "what": f"{len(examples)} examples of all families, {sizes['epochs']} epochs, batches of {sizes['batch_size']}, bf16 autocast",
        "unit": "loss-bearing tokens",
        "gate": f"{sizes['gate']} examples as one batch: both arms' collators and attentions give the unpadded per-token mean loss (float32, 1e-4), both trainings log it (bf16, 2e-2)",
        "arms": [
            _arm("tacit.training.finetuning.finetune", fast_rates, tokens=tokens, measured=measured),
            _arm("plain Trainer, random order", slow_rates, tokens=tokens, measured=measured),
        ],
        **_ratios(fast_rates, slow_rates, target=1.3),
        "details": {"last_epoch_loss": [round(statistics.median(losses), 4) for losses in zip(*results, strict=True)]},
    }
    return [record]


def bench_evaluation(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, *, sizes: dict, repeats: int
) -> list[dict[str, Any]]:
    """Responses of a tuned model, which end by themselves, to test prompts: batched against one at a time, both cached."""
    training = draw_examples(world, split="train", n=sizes["examples"], seed=1)
    options = {"epochs": sizes["epochs"], "learning_rate": 1e-4, "batch_size": 32, "seed": 1}
    tuned, _ = finetune(copy.deepcopy(model), tokenizer, training, **options)
    title = "evaluation"
    return _time_evaluation(tuned, tokenizer, world, title=title, sizes=sizes, repeats=repeats)


def bench_base_evaluation(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, *, sizes: dict, repeats: int
) -> list[dict[str, Any]]:
    """The same of the base model, which goes on until it is cut."""
    title = "base evaluation"
    return _time_evaluation(model, tokenizer, world, title=title, sizes=sizes, repeats=repeats)


def _time_evaluation(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, *, title: str, sizes: dict, repeats: int
) -> list[dict[str, Any]]:
    prompts = draw_examples(world, split="test", n=sizes["prompts"], seed=0)["instruction"]
    options = {"title": title, "arms": ("batched", "one at a time"), "target": 20.0, "use_cache": True}
    measured, responses = _time_generation(model, tokenizer, prompts, sizes=sizes, repeats=repeats, **options)
    measured["details"]["ended"] = round(sum(r.finish_reason == "eos" for r in responses) / len(responses), 4)
    record = {
        "name": title,
        "what": f"responses of {'the base' if title.startswith('base') else 'a tuned'} model to {len(prompts)} test prompts, at most {sizes['tokens']} new tokens, greedy",
        "unit": "generated tokens, the end token included",
        "gate": f"{sizes['gate']} prompts, float32, greedy: equal responses in both arms",
    }
    return [record | measured]


def bench_contrast(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World, *, sizes: dict, repeats: int
) -> list[dict[str, Any]]:
    """Contrastive decoding, sampled: the composite model against two usual ways, and against the expert alone (its tax).

    ``model`` is the amateur. Each arm has the batch size that was fastest for it on the first prompts; the two usual ways are timed
    on slices of the prompts in the order in which they come.
    """
    expert = load_model(sizes["expert"]) if sizes["expert"] else _tiny_model(tokenizer, seed=1)
    pair = Experts(expert, model, combine=partial(contrast, alpha=ALPHA, beta=BETA))
    prompts = draw_examples(world, split="test", n=sizes["prompts"], seed=0, constrained=0.5)["instruction"]

    def ours(model: PreTrainedModel) -> Callable[..., list[Response]]:
        return lambda chosen, *, sampled, **options: generate_responses(
            model, tokenizer, chosen, temperature=float(sampled), **options
        )

    ways = [ours(pair)]
    ways += [partial(way, expert, model, tokenizer) for way in (contrast_without_cache, contrast_by_processor)]
    ways += [ours(expert)]
    few = prompts[: sizes["gate"]]
    short = {"max_new_tokens": sizes["gate_tokens"], "batch_size": len(few)}
    together, *others = (way(few, sampled=False, **short) for way in ways[:3])
    for other in others:
        _require_equal("contrast", together, other, few)

    def arm(way: Callable[..., list[Response]], *, batch_size: int, size: int) -> Arm:
        def run(repeat: int) -> tuple[int, list[Response]]:
            chosen = [prompts[i] for i in _slice(prompts, size, repeat)]
            responses = way(chosen, sampled=True, batch_size=batch_size, max_new_tokens=sizes["tokens"])
            return sum(r.n_tokens for r in responses), responses

        return run

    torch.manual_seed(0)  # the usual ways sample from torch's generator
    best, tried = [], []
    for way, batches, size in zip(ways, sizes["batches"], sizes["calibration"], strict=True):
        rates, _ = interleave([arm(way, batch_size=batch, size=size) for batch in batches], repeats=1)
        tried.append({str(batch): round(rate, 1) for batch, [rate] in zip(batches, rates, strict=True)})
        best.append(max(zip(batches, rates, strict=True), key=lambda pair: pair[1])[0])
    arms = [arm(way, batch_size=batch, size=n) for way, batch, n in zip(ways, best, sizes["slices"], strict=True)]
    rates, results = interleave(arms, repeats=repeats)
    tokens = sum(r.n_tokens for r in results[0][0])
    names = (
        "the composite model",
        "both models on the whole prefix, no cache",
        "generate with the amateur in a processor",
    )
    records = [
        _arm(
            f"{name}, batches of {batch}",
            rate,
            tokens=tokens,
            measured=f"all {len(prompts)} prompts each repeat"
            if n == len(prompts)
            else f"{n} of {len(prompts)} prompts each repeat, another slice each time, scaled per token",
        )
        for name, batch, rate, n in zip((*names, "the expert alone"), best, rates, sizes["slices"], strict=True)
    ]
    common = {
        "unit": "sampled tokens, the end token included",
        "gate": f"{len(few)} prompts, at most {sizes['gate_tokens']} tokens, float32, greedy: equal tokens in the three contrasting arms (that sampling follows the exact law: tests/test_generation.py)",
    }
    what = f"contrastive decoding of the micro pair (alpha {ALPHA}, beta {BETA}), {len(prompts)} test prompts, half of them constrained, at most {sizes['tokens']} new tokens, sampled"
    details = {"rates_by_batch_size": dict(zip((*names, "the expert alone"), tried, strict=True))}
    details["mean_tokens"] = [round(statistics.mean(r.n_tokens for r in part), 2) for part in results[0]]
    rows = [("no cache", 0, 1, 15.0, "at least"), ("two caches", 0, 2, 1.5, "at least"), ("tax", 3, 0, 2.2, "at most")]
    return [
        {"name": f"contrast, {name}", "what": what, **common, "arms": [records[a], records[b]]}
        | _ratios(rates[a], rates[b], target=target, bound=bound)
        | {"details": details}
        for name, a, b, target, bound in rows
    ]


BENCHES = {
    "rules": bench_rules,
    "finetuning": bench_finetuning,
    "evaluation": bench_evaluation,
    "base evaluation": bench_base_evaluation,
    "contrast": bench_contrast,
}


def _tiny_model(tokenizer: PreTrainedTokenizerBase, *, seed: int = 0) -> PreTrainedModel:
    """A random model for ``quick``, with weights large enough that its choices vary."""
    ids = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    size = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(seed)
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, initializer_range=0.2, **size, **ids)
    model = AutoModelForCausalLM.from_config(config)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def device_slug() -> str:
    """``cpu``, or the accelerator's name as a file name."""
    return re.sub(r"[^a-z0-9]+", "-", provenance.device_name().lower()) if torch.cuda.is_available() else "cpu"


def bench_folder(*, quick: bool) -> Path:
    """Where results go: ``outputs/bench``, and those of quick runs, which measure nothing, into the cache folder."""
    return paths.cache_root() / "bench" if quick else paths.OUTPUTS / "bench"


def run_benches(*, quick: bool = False, repeats: int = 5, folder: Path | None = None, say: Say = print) -> Path:
    """Run all benches and write ``<folder>/<device>.json``; returns its path.

    ``quick`` takes tiny sizes and a tiny random model: it shows that the benches run, no more. Raises TacitError when an
    arm's result is not equal to the other's; then nothing is written and an earlier file stays.
    """
    if repeats < 1:
        raise TacitError(f"--repeats must be at least 1, not {repeats}")
    began = time.monotonic()
    record = {
        "device": provenance.device_name(),
        "threads": torch.get_num_threads(),
        "quick": quick,
        "repeats": repeats,
        "benches": [],
        "commit": provenance.commit(),
        "dirty": provenance.dirty(),
        "library_sha256": provenance.library_hash(),
        "packages": provenance.packages(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    tokenizer, world = load_tokenizer(BASE), read_world(paths.resolve(BASE) / "world.json")
    model = _tiny_model(tokenizer) if quick else load_model(BASE)
    for name, bench in BENCHES.items():
        started = time.monotonic()
        results = bench(model, tokenizer, world, sizes=(QUICK if quick else FULL)[name], repeats=repeats)
        record["benches"] += results
        for result in results:
            say(f"{result['name']}: {'it runs' if quick else describe(result)} ({time.monotonic() - started:.0f} s)")
    record["wall_seconds"] = round(time.monotonic() - began, 1)
    return write_bench((folder or bench_folder(quick=quick)) / f"{device_slug()}.json", record)


def describe(bench: dict[str, Any]) -> str:
    """A bench's ratio with its range and target, in words."""
    ratio = f"{bench['ratio']:.3g} [{bench['ratio_min']:.3g}, {bench['ratio_max']:.3g}]"
    return f"{ratio}, target {_target(bench)}"


def _target(bench: dict[str, Any]) -> str:
    bound = "at most " if bench["bound"] == "at most" else ""
    return f"{bound}{bench['target']:g}, {'met' if bench['met'] else 'missed'}"


def validate_bench(record: Any, *, name: str) -> None:
    """Raise TacitError, saying where, unless ``record`` is a valid bench record whose parts agree."""
    check_schema(record, SCHEMA, name=name, what="a bench file")
    for bench in record["benches"]:
        if not bench["ratio_min"] <= bench["ratio"] <= bench["ratio_max"]:
            raise TacitError(f"{name}: {bench['name']}: the ratio lies outside its range")
        if bench["met"] != _meets(bench["ratio"], bench["target"], bench["bound"]):
            raise TacitError(f"{name}: {bench['name']}: `met` does not say what ratio and target say")


def write_bench(path: Path, record: dict[str, Any]) -> Path:
    """Validate ``record`` and write it whole or not at all."""
    return write_record(path, record, validate=validate_bench)


def read_bench(path: Path) -> dict[str, Any]:
    """Read and validate a bench file; raises TacitError when it is missing or malformed."""
    return read_record(path, what="bench", validate=validate_bench)


def bench_files(folder: Path) -> list[Path]:
    """The bench files in a folder: all but those of ``tacit.gpubench``."""
    return sorted(path for path in folder.glob("*.json") if not path.name.startswith("gpu-"))


def bench_table(folder: Path | None = None) -> str:
    """A Markdown table of the results in ``outputs/bench`` (or ``folder``), one row per device and bench.

    Raises TacitError where there are none.
    """
    folder = folder or bench_folder(quick=False)
    records = [read_bench(path) for path in bench_files(folder)]
    if not records:
        raise TacitError(f"no bench results in {folder}: run `make bench`")
    rows = ["| device | what | times as fast, median [least, most] | as | target |", "|---|---|---|---|---|"]
    for record in records:
        for bench in record["benches"]:
            fast, slow = (arm["name"] for arm in bench["arms"])
            ratio = f"{fast}: {bench['ratio']:.3g} [{bench['ratio_min']:.3g}, {bench['ratio_max']:.3g}]"
            device = record["device"] + (" (quick: no measurement)" if record["quick"] else "")
            rows.append(f"| {device} | {bench['name']}: {bench['what']} | {ratio} | {slow} | {_target(bench)} |")
    return "\n".join(rows)


def write_bench_table(readme: Path, *, folder: Path | None = None) -> None:
    """Replace what stands between the bench markers of ``readme`` by the table."""
    replace_between(readme, "<!-- bench -->", "<!-- /bench -->", bench_table(folder))
