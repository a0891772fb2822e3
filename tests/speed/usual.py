"""The usual ways of doing what Tacit does, against which it is timed."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import torch
from datasets import Dataset
from tacit.data.instructions import encode_examples
from tacit.decoding.generation import MakeProcessors, pad_left
from tacit.models.experts import Experts, contrast
from tacit.training.finetuning import epoch_losses, training_arguments
from timing import Run, now
from torch import Tensor
from transformers import (
    DataCollatorForSeq2Seq,
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    Trainer,
    set_seed,
)

Rows = list[list[int]]
PAD = 0  # whatever token it is: padding is masked, and what follows a row's end is cut
ALPHA, BETA = 0.1, 0.5  # of the contrastive decoding


def _cut(rows: Rows, limits: Sequence[int], ends: Sequence[int]) -> Rows:
    """Each row up to its first end token, which stays, and to its limit."""
    stops = [next((i + 1 for i, token in enumerate(row) if token in ends), len(row)) for row in rows]
    return [row[: min(stop, limit)] for row, stop, limit in zip(rows, stops, limits, strict=True)]


@torch.inference_mode()
def generate_alone(
    model: PreTrainedModel,
    prompts: Rows,
    limits: Sequence[int],
    *,
    ends: Sequence[int],
    use_cache: bool = True,
    make_processors: MakeProcessors = lambda mask: [],
) -> Run:
    """Greedy ``model.generate`` on one prompt after the other.

    Row i gets at most ``limits[i]`` new tokens, and none after one of ``ends``. Without ``use_cache`` the whole
    prefix is computed for every token, as the rule adapter of Hewitt et al. was released.
    """
    rows = []
    options = {"do_sample": False, "eos_token_id": list(ends), "pad_token_id": PAD, "use_cache": use_cache}
    for prompt, limit in zip(prompts, limits, strict=True):
        ids, mask = pad_left([prompt], PAD, model.device)
        options |= {"attention_mask": mask, "logits_processor": LogitsProcessorList(make_processors(mask))}
        out = model.generate(input_ids=ids, max_new_tokens=limit, **options)
        rows += _cut(out[:, len(prompt) :].tolist(), [limit], ends)
    return Run.of(rows)


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
    """transformers' Trainer with its own random order, padding collator and default attention.

    Loss, optimizer, schedule, precision and batch size are those of ``tacit.training.finetuning.finetune``, and so is
    what it returns.
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


def _positions(mask: Tensor) -> Tensor:
    """Each token's position in its left-padded row: [B, time]."""
    return (mask.cumsum(dim=-1) - 1).clamp(min=0)


class AmateurContrast(LogitsProcessor):
    """Runs the amateur inside a logits processor, with a cache of its own; ``began``: it has read the prompts."""

    def __init__(self, amateur: PreTrainedModel, prompt_mask: Tensor):
        self.amateur, self.mask, self.cache = amateur, prompt_mask, DynamicCache(config=amateur.config)
        self.began = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # [B, time], [B, V] -> [B, V]
        grown = input_ids.shape[1] - self.mask.shape[1]
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), grown)], dim=1)
        new = input_ids.shape[1] - self.cache.get_seq_length()
        logits = self.amateur(
            input_ids=input_ids[:, -new:],
            attention_mask=self.mask,
            position_ids=_positions(self.mask)[:, -new:],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        scores = contrast(scores, logits[:, -1], alpha=ALPHA, beta=BETA)
        self.began = self.began or now(scores.device)
        return scores


@torch.inference_mode()
def contrast_by_processor(
    pair: Experts, prompts: Rows, limits: Sequence[int], *, batch: int, sampled: bool = True, ends: Sequence[int] = ()
) -> Run:
    """``generate`` on the expert with ``AmateurContrast``, in batches as the prompts come.

    All rows of a batch go on until the longest is done. The tokens after the first of each row count as decoded, in the
    seconds that follow the reading of the prompts.
    """
    expert, amateur = pair.experts
    rows, seconds = [], 0.0
    sampling = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0} if sampled else {"do_sample": False}
    for start in range(0, len(prompts), batch):
        ids, mask = pad_left(prompts[start : start + batch], PAD, expert.device)
        wanted = limits[start : start + batch]
        processor = AmateurContrast(amateur, mask)
        out = expert.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max(wanted),
            eos_token_id=list(ends) or None,
            pad_token_id=PAD,
            logits_processor=LogitsProcessorList([processor]),
            **sampling,
        )
        seconds += now(ids.device) - processor.began
        rows += _cut(out[:, ids.shape[1] :].tolist(), wanted, ends)
    run = Run.of(rows, decoding=seconds)
    run.decoded = run.tokens - len(rows)
    return run


@torch.inference_mode()
def contrast_without_cache(
    pair: Experts, prompts: Rows, limits: Sequence[int], *, batch: int, sampled: bool = True, ends: Sequence[int] = ()
) -> Run:
    """A loop that runs both models on the whole prefix for every token, in batches as the prompts come."""
    rows = []
    for start in range(0, len(prompts), batch):
        ids, mask = pad_left(prompts[start : start + batch], PAD, pair.experts[0].device)
        wanted, width = limits[start : start + batch], ids.shape[1]
        ended = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        while ids.shape[1] < width + max(wanted) and not (ends and ended.all()):
            options = {"attention_mask": mask, "position_ids": _positions(mask), "use_cache": False}
            logits = [model(input_ids=ids, logits_to_keep=1, **options).logits[:, -1] for model in pair.experts]
            scores = contrast(*logits, alpha=ALPHA, beta=BETA)  # [B, V]
            token = torch.multinomial(scores.softmax(dim=-1), 1) if sampled else scores.argmax(dim=-1, keepdim=True)
            ids, mask = torch.cat([ids, token], dim=1), torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
            ended |= torch.isin(token[:, 0], torch.tensor(ends, device=ids.device)) if ends else False
        rows += _cut(ids[:, width:].tolist(), wanted, ends)
    return Run.of(rows)
