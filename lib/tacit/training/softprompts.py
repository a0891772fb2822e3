"""Soft prompts: vectors before a frozen model's input that are trained in the weights' place (extra ``lora``).

Beside the usual loss a second one can pull the predictions for another wording of an instruction to those for the
wording that was taught. Sources: prompt tuning, Lester et al. (2021, arXiv 2104.08691); the second loss, Sun et al.
(2023, arXiv 2306.11270), whose code for it is not released.
"""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from tacit.data.instructions import IGNORED, encode_example
from tacit.decoding.generation import Response, end_tokens, finish, pad_left, plain_generation
from tacit.models.chat import encode_prompt
from tacit.support.errors import TacitError
from tacit.training.limits import check_settings


def add_prompt(model: PreTrainedModel, *, n_vectors: int, seed: int) -> Any:
    """``model``, frozen, with ``n_vectors`` before its input; they begin as the embeddings of tokens drawn by ``seed``.

    Returns peft's model, whose only trainable weights they are. The model given is changed: its weights do not train
    until ``requires_grad_`` says so. Raises TacitError without peft, and for less than one vector.
    """
    try:
        from peft import PromptTuningConfig, get_peft_model
    except ImportError:
        raise TacitError("soft prompts need peft: pip install -e '.[lora]'") from None
    if n_vectors < 1:
        raise TacitError(f"a soft prompt needs at least one vector, not {n_vectors}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of a name in transformers that peft still uses
        prompted = get_peft_model(model, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=n_vectors))
    table = model.get_input_embeddings().weight
    drawn = torch.randint(len(table), (n_vectors,), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        vectors_of(prompted).copy_(table[drawn.to(table.device)])
    return prompted


def vectors_of(prompted: Any) -> Tensor:
    """The vectors [N, width] of a model of ``add_prompt``: the parameter itself."""
    return prompted.prompt_encoder["default"].embedding.weight


def response_logits(
    prompted: Any, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> tuple[list[Tensor], list[Tensor]]:
    """For each (instruction, response) the logits [T, V] that predict its T response tokens, and these tokens [T].

    The end token is one of them. Rows are padded on the right; works for a model of ``add_prompt`` and for any other.
    """
    rows = [encode_example(tokenizer, *pair) for pair in pairs]
    width, pad = max(len(row["input_ids"]) for row in rows), tokenizer.pad_token_id
    padded = [row["input_ids"] + [pad] * (width - len(row["input_ids"])) for row in rows]
    mask = [[1] * len(row["input_ids"]) + [0] * (width - len(row["input_ids"])) for row in rows]
    ids, mask = (torch.tensor(values, device=prompted.device) for values in (padded, mask))  # [B, W] each
    logits = prompted(input_ids=ids, attention_mask=mask).logits[:, -width:]  # [B, W, V], without the vectors' own
    targets = [torch.tensor([t for t in row["labels"] if t != IGNORED], device=ids.device) for row in rows]
    ends = [len(row["input_ids"]) - 1 for row in rows]  # nothing is predicted from the last token
    return [z[end - len(t) : end] for z, end, t in zip(logits, ends, targets, strict=True)], targets


def consistency(taught: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """The mean KL divergence of the predictions ``other`` from those ``taught``, in nats per token; a scalar, float32.

    Both hold logits [T, V] of the same responses' tokens. No gradient reaches ``taught``: only the other wording moves.
    Source: Sun et al. (2023), as its abstract and reviews describe it.
    """
    fixed = torch.cat(list(taught)).detach().float().log_softmax(-1)  # [all T, V]
    moved = torch.cat(list(other)).float().log_softmax(-1)
    return kl_div(moved, fixed, log_target=True, reduction="sum") / len(fixed)


def train_prompt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Dataset,
    *,
    n_vectors: int,
    epochs: int,
    learning_rate: float,
    seed: int,
    batch_size: int = 8,
    others: Sequence[str] | None = None,
    weight: float = 0.0,
) -> tuple[Any, list[dict[str, float]]]:
    """Train a soft prompt for ``model`` on ``examples`` by AdamW with a cosine schedule; the model itself stays.

    The loss is the responses' cross-entropy per token. With ``others``, another instruction for each example,
    ``weight`` times ``consistency`` is added: the predictions of the example's response under the other instruction are
    pulled to those under its own. Returns the model of ``add_prompt`` and a record per epoch: ``epoch``, ``loss`` and
    ``divergence``, in nats per token. Raises TacitError for settings that ``check_settings`` refuses and a loss that
    is not finite, ValueError for another number of ``others`` than of examples.
    """
    check_settings(epochs=epochs, learning_rate=learning_rate, seed=seed, batch_size=batch_size)
    if others is not None and len(others) != len(examples):
        raise ValueError(f"{len(others)} other instructions for {len(examples)} examples")
    set_seed(seed)
    prompted = add_prompt(model, n_vectors=n_vectors, seed=seed).eval()  # no dropout: the model is frozen
    optimizer = torch.optim.AdamW([vectors_of(prompted)], lr=learning_rate, weight_decay=0.0)
    n_steps = epochs * math.ceil(len(examples) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    rows, history = examples.to_list(), []
    for epoch in range(1, epochs + 1):
        order, sums = random.Random(f"soft prompt-{seed}-{epoch}").sample(range(len(rows)), len(rows)), [0.0, 0.0, 0.0]
        for start in range(0, len(order), batch_size):
            batch = order[start : start + batch_size]
            pairs = [(rows[i]["instruction"], rows[i]["response"]) for i in batch]
            taught, targets = response_logits(prompted, tokenizer, pairs)
            loss = cross_entropy(torch.cat(taught).float(), torch.cat(targets))
            divergence = loss.new_zeros(())
            if others is not None and weight:
                texts = [(others[i], rows[i]["response"]) for i in batch]
                divergence = consistency(taught, response_logits(prompted, tokenizer, texts)[0])
            told = [loss.detach().item(), divergence.detach().item()]
            if not all(map(math.isfinite, told)):
                raise TacitError(f"the soft prompt diverged in epoch {epoch}: lower learning_rate {learning_rate}")
            optimizer.zero_grad()
            (loss + weight * divergence).backward()
            optimizer.step()
            schedule.step()
            count = sum(map(len, targets))
            sums = [a + b for a, b in zip(sums, (told[0] * count, told[1] * count, count), strict=True)]
        history.append({"epoch": epoch, "loss": sums[0] / sums[2], "divergence": sums[1] / sums[2]})
    return prompted, history


@torch.inference_mode()
def respond_after(
    prompted: Any,
    tokenizer: PreTrainedTokenizerBase,
    instructions: Sequence[str],
    *,
    max_new_tokens: int,
    batch_size: int = 128,
) -> list[Response]:
    """Greedy responses of a model of ``add_prompt``, one per instruction, in order, by transformers' ``generate``.

    The vectors stand between a row's padding and its tokens. (peft's own ``generate`` puts them before the padding,
    and so moves them away from the tokens of a padded row.) There are no slots, no rules and no sampling.
    """
    model, vectors = prompted.get_base_model(), vectors_of(prompted)
    prompts = [encode_prompt(tokenizer, text) for text in instructions]
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    responses: dict[int, Response] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        rows = [[tokenizer.pad_token_id] * len(vectors) + prompts[i] for i in batch]  # room for the vectors
        ids, mask = pad_left(rows, tokenizer.pad_token_id, model.device)
        embedded = model.get_input_embeddings()(ids)  # [B, W, width]
        for row, values in zip(mask, embedded, strict=True):
            begin = int(row.argmax())
            values[begin : begin + len(vectors)] = vectors.to(values)
        with plain_generation(model, tokenizer):
            out = model.generate(inputs_embeds=embedded, attention_mask=mask, max_new_tokens=max_new_tokens)
        for i, row in zip(batch, out.tolist(), strict=True):
            responses[i] = finish(tokenizer, row, ends=end_tokens(model, tokenizer))
    return [responses[i] for i in range(len(prompts))]
