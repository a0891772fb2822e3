"""Speed on this machine as ratios: Tacit's way of doing four things against the usual ways, after a check of equality.

``python tests/speed/bench.py`` writes ``outputs/bench/<device>.json``, in about five minutes on two idle cores.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import records
import torch
from datasets import Dataset
from shapes import TINY
from tacit.data.instructions import IGNORED, encode_examples
from tacit.decoding.generation import end_tokens, generate_responses
from tacit.decoding.rules import make_rules
from tacit.microworld.examples import draw_examples
from tacit.microworld.world import World, read_world
from tacit.models.chat import encode_prompt
from tacit.models.experts import Experts, contrast
from tacit.models.loading import load_model, load_tokenizer
from tacit.support import paths
from tacit.support.errors import TacitError
from tacit.training.finetuning import collate, finetune
from timing import Arm, Run, Say, device_here, run_rounds
from transformers import (
    AutoModelForCausalLM,
    DataCollatorForSeq2Seq,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SuppressTokensLogitsProcessor,
)
from usual import ALPHA, BETA, contrast_by_processor, contrast_without_cache, finetune_plainly, generate_alone

Way = Callable[[list[str]], Run]  # the result is the tokens of each prompt's response

BASE, TEACHER = "outputs/models/micro-base", "outputs/models/micro-teacher"
FULL = {
    "rules": {"prompts": 64, "tokens": 100, "slice": 4, "gate": 4},
    "finetuning": {"examples": 320, "epochs": 2, "batch_size": 32, "gate": 24},
    "evaluation": {"prompts": 300, "tokens": 112, "slice": 40, "gate": 16, "examples": 600, "epochs": 2},
    "base evaluation": {"prompts": 300, "tokens": 112, "slice": 12, "gate": 16},
    "contrast": {"prompts": 512, "tokens": 112, "gate": 12, "gate_tokens": 32, "slices": [512, 24, 128, 512]}
    | {"batches": [[64, 128, 256], [1, 2, 4], [8, 16, 32, 64], [64, 128, 256]], "calibration": [256, 12, 64, 256]},
}
QUICK = {
    "rules": {"prompts": 6, "tokens": 20, "slice": 2, "gate": 3},
    "finetuning": {"examples": 16, "epochs": 1, "batch_size": 4, "gate": 4},
    "evaluation": {"prompts": 6, "tokens": 8, "slice": 2, "gate": 3, "examples": 8, "epochs": 3},
    "base evaluation": {"prompts": 6, "tokens": 8, "slice": 2, "gate": 3},
    "contrast": {"prompts": 6, "tokens": 8, "gate": 3, "gate_tokens": 8, "slices": [6, 2, 3, 6]}
    | {"batches": [[2, 4], [2], [2, 3], [4]], "calibration": [4, 2, 3, 4]},
}
UNIFORM = {  # the paper's Table 8 by the tokens' text; four of them are no token of the micro vocabulary
    **dict.fromkeys(["<", " <", "|"], -4.0),
    **dict.fromkeys([" I", "I", "What"], -5.0),
    **{" We": -3.0, " should": -6.0},
    **dict.fromkeys([" *", " -", "   ", " #", " ##", "\n", "!"], 1.0),
}


@dataclass
class Setting:
    """What every bench is given: models, the world, sizes by bench, and how often to repeat."""

    base: PreTrainedModel  # the amateur of the contrast
    expert: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    world: World
    sizes: dict[str, dict[str, Any]]
    repeats: int

    def run(self, arms: Sequence[Arm], *, repeats: int | None = None) -> None:
        """Time arms in turns."""
        run_rounds([arms], device=self.base.device, repeats=repeats or self.repeats, say=lambda line: None)

    def prompts(self, name: str, **options: Any) -> list[str]:
        """The test prompts of a bench."""
        rows = draw_examples(self.world, split="test", n=self.sizes[name]["prompts"], seed=0, **options)
        return list(rows["instruction"])

    def ours(self, model: PreTrainedModel, *, tokens: int, sampled: bool = False, **options: Any) -> Way:
        """Batched generation."""
        options |= {"max_new_tokens": tokens, "temperature": float(sampled)}
        generate = partial(generate_responses, model, self.tokenizer, **options)
        return lambda texts: Run.of([list(response.tokens) for response in generate(texts)])

    def theirs(self, generate: Callable[..., Run], model: PreTrainedModel, *, tokens: int, **options: Any) -> Way:
        """One of the usual ways."""
        options["ends"] = end_tokens(self.expert, self.tokenizer)

        def way(texts: list[str]) -> Run:
            prompts = [encode_prompt(self.tokenizer, text) for text in texts]
            return generate(model, prompts, [tokens] * len(prompts), **options)

        return way


def take(rows: Sequence, size: int, repeat: int) -> list:
    """The ``repeat``-th slice of ``size`` rows, from the start again after the end."""
    return [rows[(repeat * size + i) % len(rows)] for i in range(size)]


def generating_arm(name: str, way: Way, prompts: Sequence[str], *, size: int) -> Arm:
    """An arm that answers ``size`` of the prompts, others each time."""
    which = "all" if size == len(prompts) else f"{size} others of"
    measured = f"{which} {len(prompts)} prompts each repeat"
    return Arm(name, lambda repeat: way(take(prompts, size, repeat)), measured=measured)


def require_equal(name: str, fast: Way, slow: Way, prompts: list[str]) -> None:
    """The gate of the benches that generate: equal responses, token for token, or no timing."""
    for a, b, prompt in zip(fast(prompts).result, slow(prompts).result, prompts, strict=True):
        if a != b:
            raise TacitError(f"bench {name}: the arms answer {prompt!r} differently, so nothing was timed: {a} and {b}")


def compare(name: str, fast: Arm, slow: Arm, *, target: float, bound: str = "at least", **more: Any) -> dict[str, Any]:
    """A bench's record: the ratios of the two arms' rates, run by run, and whether their median meets the target."""
    ratios = records.ratios(fast.rates, slow.rates)
    arms = [{"name": arm.name} | arm.to_record() for arm in (fast, slow)]
    return {"name": name, **more, "arms": arms, **ratios, **records.judge(ratios["ratio"], target, bound)}


def time_generation(at: Setting, name: str, fast: Way, slow: Way, *, names: tuple[str, str], **more: Any) -> dict:
    """Time batched generation over all prompts against one prompt at a time, over another slice each repeat."""
    prompts, size, few = at.prompts(name), at.sizes[name]["slice"], at.sizes[name]["gate"]
    require_equal(name, fast, slow, prompts[:few])
    batched = generating_arm(names[0], fast, prompts, size=len(prompts))
    alone = generating_arm(names[1], slow, prompts, size=size)
    at.run([batched, alone])
    equal = []
    for repeat, (ours, theirs) in enumerate(zip(batched.runs, alone.runs, strict=True)):
        equal += [a == b for a, b in zip(take(ours.result, size, repeat), theirs.result, strict=True)]
    tokens = batched.runs[0].tokens / len(prompts)
    details = {"equal_timed_responses": round(statistics.mean(equal), 4), "mean_tokens": round(tokens, 2)}
    gate = f"{few} prompts, float32, greedy: equal tokens in both arms"
    return compare(name, batched, alone, gate=gate, details=details, **more)


def bench_rules(at: Setting) -> list[dict[str, Any]]:
    """The three rules: batched with a cache of keys and values against one prompt at a time without.

    A last processor, the same in both arms, forbids the end tokens. Raises TacitError unless every response is full.
    """
    sizes, model = at.sizes["rules"], at.base
    rules = make_rules(at.tokenizer, uniform_tokens=UNIFORM, allow_unresolved=True)
    forbidden = SuppressTokensLogitsProcessor(end_tokens(model, at.tokenizer), device=model.device)
    options = {"tokens": sizes["tokens"], "make_processors": lambda mask: [*rules(mask), forbidden]}
    fast, slow = at.ours(model, **options), at.theirs(generate_alone, model, use_cache=False, **options)
    work = f"{sizes['prompts']} prompts x exactly {sizes['tokens']} new tokens"
    what = f"three rules on the base model, {work}, end tokens forbidden in both arms"
    names = ("batched, cached", "one at a time, no cache")
    record = time_generation(at, "rules", fast, slow, names=names, what=what, target=50.0)
    if record["details"]["mean_tokens"] != sizes["tokens"]:
        raise TacitError(f"bench rules: a response does not have {sizes['tokens']} tokens, so the arms do unequal work")
    return [record]


def bench_evaluation(at: Setting, name: str) -> list[dict[str, Any]]:
    """Responses to test prompts, both arms cached: of a tuned model, which ends by itself, or of the base model."""
    sizes, model = at.sizes[name], at.base
    if "epochs" in sizes:
        examples = draw_examples(at.world, split="train", n=sizes["examples"], seed=1)
        options = {"epochs": sizes["epochs"], "learning_rate": 1e-4, "batch_size": 32, "seed": 1}
        model, _ = finetune(copy.deepcopy(model), at.tokenizer, examples, **options)
    which = f"responses of {'a tuned' if 'epochs' in sizes else 'the base'} model to {sizes['prompts']} test prompts"
    ways = at.ours(model, tokens=sizes["tokens"]), at.theirs(generate_alone, model, tokens=sizes["tokens"])
    what, names = f"{which}, at most {sizes['tokens']} new tokens, greedy", ("batched", "one at a time")
    return [time_generation(at, name, *ways, names=names, what=what, target=20.0)]


def check_losses(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, examples: Dataset, training: dict) -> None:
    """The gate of the finetuning bench, on one batch of ``examples``; raises TacitError when a loss is off.

    The reference is the mean over all loss-bearing tokens, example by example without padding, in float32. Both
    collators' batches must give it in float32, and both trainings' first step must log it within bf16's rounding.
    """
    rows = encode_examples(tokenizer, examples, max_length=512).to_list()
    model = copy.deepcopy(model).float()

    def loss(batch: dict[str, torch.Tensor], attention: str = "eager") -> float:
        model.set_attn_implementation(attention)
        with torch.inference_mode():
            return float(model(**{key: value.to(model.device) for key, value in batch.items()}).loss)

    counts = [sum(label != IGNORED for label in row["labels"]) for row in rows]
    alone = [loss({key: torch.tensor([row[key]]) for key in ("input_ids", "labels")}) for row in rows]
    reference = sum(n * value for n, value in zip(counts, alone, strict=True)) / sum(counts)
    losses = {
        "our collator": (loss(collate(rows, pad_token_id=tokenizer.pad_token_id)), 1e-4),
        "the Trainer's collator": (loss(dict(DataCollatorForSeq2Seq(tokenizer)(rows)), "sdpa"), 1e-4),
    }
    options = training | {"epochs": 1, "batch_size": len(rows)}
    for name, train in (("our training", finetune), ("plain training", finetune_plainly)):
        losses[name] = train(copy.deepcopy(model), tokenizer, examples, **options)[1][0]["loss"], 2e-2
    for name, (value, tolerance) in losses.items():
        if not abs(value - reference) <= tolerance * reference:
            wrong = f"{name} has loss {value:.6f} and not {reference:.6f} on one batch"
            raise TacitError(f"bench finetuning: {wrong}, so nothing was timed")


def bench_finetuning(at: Setting) -> list[dict[str, Any]]:
    """``tacit.training.finetuning.finetune`` against a plain Trainer; tokenization counts in both arms."""
    sizes = at.sizes["finetuning"]
    examples = draw_examples(at.world, split="train", n=sizes["examples"], seed=1)
    training = {key: sizes[key] for key in ("epochs", "batch_size")} | {"learning_rate": 1e-4, "seed": 1}
    plain = copy.deepcopy(at.tokenizer)
    plain.padding_side = "right"  # as one trains
    check_losses(at.base, plain, examples.select(range(sizes["gate"])), training)
    labels = encode_examples(at.tokenizer, examples, max_length=512)["labels"]
    tokens = sizes["epochs"] * sum(label != IGNORED for row in labels for label in row)
    fresh = [copy.deepcopy(at.base) for _ in range(2 * at.repeats)]  # outside of the timing

    def arm(name: str, train: Callable, tokenizer: PreTrainedTokenizerBase) -> Arm:
        work = lambda _: Run(tokens, train(fresh.pop(), tokenizer, examples, **training)[1][-1]["loss"])  # noqa: E731
        return Arm(name, work, measured="the whole training each repeat; loss-bearing tokens count")

    arms = [arm("tacit.training.finetuning.finetune", finetune, at.tokenizer)]
    arms += [arm("plain Trainer, random order", finetune_plainly, plain)]
    at.run(arms)
    size = f"{len(examples)} examples of all families, {sizes['epochs']} epochs, batches of {sizes['batch_size']}"
    reference = "the unpadded per-token mean loss (float32, 1e-4), both trainings log it (bf16, 2e-2)"
    gate = f"{sizes['gate']} examples as one batch: both arms' collators give {reference}"
    losses = [round(statistics.median(run.result for run in arm.runs), 4) for arm in arms]
    more = {"what": f"{size}, bf16 autocast", "gate": gate, "details": {"last_epoch_loss": losses}}
    return [compare("finetuning", *arms, target=1.3, **more)]


def contrasting_ways(at: Setting, *, tokens: int, batch: int, sampled: bool) -> dict[str, Way]:
    """The arms of the contrast, the expert alone last."""
    pair = Experts(at.expert, at.base, combine=partial(contrast, alpha=ALPHA, beta=BETA))
    options = {"tokens": tokens, "sampled": sampled}
    return {
        "the composite model": at.ours(pair, batch_size=batch, **options),
        "both models on the whole prefix, no cache": at.theirs(contrast_without_cache, pair, batch=batch, **options),
        "generate with the amateur in a processor": at.theirs(contrast_by_processor, pair, batch=batch, **options),
        "the expert alone": at.ours(at.expert, batch_size=batch, **options),
    }


def bench_contrast(at: Setting) -> list[dict[str, Any]]:
    """Contrastive decoding, sampled: the composite model against two usual ways and the expert alone (its tax).

    Each arm has the batch size that was fastest for it on the first prompts. The two usual ways are timed on slices of
    the prompts in the order in which they come.
    """
    sizes, prompts = at.sizes["contrast"], at.prompts("contrast", constrained=0.5)
    few, short = prompts[: sizes["gate"]], sizes["gate_tokens"]
    ours, *usual, alone = contrasting_ways(at, tokens=short, batch=len(few), sampled=False).values()
    for way in usual:
        require_equal("contrast", ours, way, few)
    torch.manual_seed(0)  # the usual ways sample from torch's generator
    arms, tried = [], {}
    names = list(contrasting_ways(at, tokens=1, batch=1, sampled=True))
    for name, batches, n, size in zip(names, sizes["batches"], sizes["calibration"], sizes["slices"], strict=True):
        ways = {b: contrasting_ways(at, tokens=sizes["tokens"], batch=b, sampled=True)[name] for b in batches}
        trials = {b: generating_arm(name, way, prompts, size=n) for b, way in ways.items()}
        at.run(list(trials.values()), repeats=1)
        tried[name] = {str(b): round(trial.rates[0], 1) for b, trial in trials.items()}
        best = max(trials, key=lambda b: trials[b].rates[0])
        arms.append(generating_arm(f"{name}, batches of {best}", ways[best], prompts, size=size))
    at.run(arms)
    work = f"(alpha {ALPHA}, beta {BETA}), {len(prompts)} test prompts, half of them constrained"
    what = f"contrastive decoding of the micro pair {work}, at most {sizes['tokens']} new tokens, sampled"
    gate = f"{len(few)} prompts, at most {short} tokens, float32, greedy: equal tokens in three arms"
    means = [round(arm.runs[0].tokens / len(arm.runs[0].result), 2) for arm in arms]
    more = {"what": what, "gate": gate, "details": {"rates_by_batch_size": tried, "mean_tokens": means}}
    composite, no_cache, two_caches, alone = arms
    return [
        compare("contrast, no cache", composite, no_cache, target=15.0, **more),
        compare("contrast, two caches", composite, two_caches, target=1.5, **more),
        compare("contrast, tax", alone, composite, target=2.2, bound="at most", **more),
    ]


BENCHES = {
    "rules": bench_rules,
    "finetuning": bench_finetuning,
    "evaluation": partial(bench_evaluation, name="evaluation"),
    "base evaluation": partial(bench_evaluation, name="base evaluation"),
    "contrast": bench_contrast,
}


def tiny_model(tokenizer: PreTrainedTokenizerBase, *, seed: int) -> PreTrainedModel:
    """A random model for quick runs, with weights large enough that its choices vary."""
    ids = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(seed)
    config = LlamaConfig(**TINY | ids | {"vocab_size": len(tokenizer)})
    return AutoModelForCausalLM.from_config(config).to(device_here()).eval()


def run_benches(*, quick: bool, repeats: int, folder: Path | None = None, say: Say = print) -> Path:
    """Run all benches and write ``<folder>/<device>.json``; returns its path.

    ``quick`` takes tiny sizes and random models: it shows that the benches run and measures nothing. Raises TacitError
    when an arm's result is not equal to the other's; then nothing is written and an earlier file stays.
    """
    if repeats < 1:
        raise TacitError(f"--repeats must be at least 1, not {repeats}")
    record = records.heading(threads=torch.get_num_threads(), quick=quick, repeats=repeats) | {"benches": []}
    tokenizer, world = load_tokenizer(BASE), read_world(paths.resolve(BASE) / "world.json")
    models = [tiny_model(tokenizer, seed=i) for i in (0, 1)] if quick else [load_model(BASE), load_model(TEACHER)]
    at = Setting(*models, tokenizer, world, QUICK if quick else FULL, repeats)
    for bench in BENCHES.values():
        began = time.monotonic()
        for result in bench(at):
            record["benches"].append(result)
            ratio = f"{result['ratio']:.3g}, target {result['bound']} {result['target']:g}"
            say(f"{result['name']}: {ratio} ({time.monotonic() - began:.0f} s)")
    return records.write((folder or records.folder(dry=quick)) / f"{records.device_slug()}.json", record)


def main(arguments: list[str] | None = None) -> int:
    """Run the benches with the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes, into the cache folder: measures nothing")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved repeats; their median counts (default: 5)")
    options = parser.parse_args(arguments)
    work = partial(run_benches, quick=options.quick, repeats=options.repeats)
    return records.run_script(work, dry=options.quick)


if __name__ == "__main__":
    sys.exit(main())
