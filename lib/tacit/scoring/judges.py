"""A local causal language model as a pairwise judge, for instructions that no verifier can check."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.models.chat import encode_prompt, render_prompt, render_turns
from tacit.models.limits import check_scores
from tacit.scoring.likelihoods import in_batches, next_logits
from tacit.support.errors import TacitError

VERDICTS = ("m", "M")  # the labels of the first and of the second output shown, as in alpaca_eval's weighted judge


def judge_prompt(instruction: str, first: str, second: str) -> str:
    """What the judge is asked: which of two outputs, each under its one-letter label, answers better."""
    a, b = VERDICTS
    return (
        "You compare the outputs of two language models for the same instruction and choose the one that a person "
        "would find the better answer: right, relevant and helpful.\n\n"
        f"## Instruction\n\n{instruction}\n\n"
        f"## Outputs\n\n### Output ({a})\n\n{first}\n\n### Output ({b})\n\n{second}\n\n"
        f"## Task\n\nWhich output is better? Answer with its label only, {a} or {b}: one letter, no quotes and no "
        "explanation."
    )


def verdict_tokens(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token with which the judge would begin each verdict, leading space included where its template has one.

    Read off the tokens of a whole conversation in the judge's chat format, just after its prompt. Raises TacitError
    unless the two differ and each is the whole verdict.
    """
    prompt, before = render_prompt(tokenizer, "?"), encode_prompt(tokenizer, "?")
    tokens = []
    for verdict in VERDICTS:
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": verdict}]
        text = render_turns(tokenizer, turns)
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not text.startswith(prompt) or ids[: len(before)] != before:
            raise TacitError("the judge's chat template does not put its answer right after the prompt: use another")
        tokens.append(ids[len(before)])
    starts = tokenizer.batch_decode([[token] for token in tokens])
    if tokens[0] == tokens[1]:
        raise TacitError(
            f"the judge's verdicts {VERDICTS[0]!r} and {VERDICTS[1]!r} begin with the same token, {starts[0]!r}: "
            "choose a judge that answers without thinking first"
        )
    for start, verdict in zip(starts, VERDICTS, strict=True):
        if start.strip() != verdict:
            raise TacitError(
                f"the verdict {verdict!r} is not a single token for the judge's tokenizer (it begins with {start!r}): "
                "choose another judge"
            )
    return tokens


def judge_pairs(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    instructions: Sequence[str],
    ours: Sequence[str],
    theirs: Sequence[str],
) -> np.ndarray:
    """The judge's preference for each of ``ours`` over the same place in ``theirs``: [n], from 0 to 1, 0.5 parity.

    An order's preference is the probability of the verdict for ours as the next token, renormalised over the two
    verdicts. The mean of both orders is returned, so that a leaning to a place cancels. Equal prompts are scored once:
    identical responses give exactly 0.5.

    After alpaca_eval's ``weighted_alpaca_eval_gpt4_turbo``, with our wording. It does not correct for length, let the
    judge think, cut long outputs, or defend against outputs that imitate the prompt's headings or special tokens.
    Raises TacitError as ``verdict_tokens`` and ``in_batches`` do, ValueError for unequal lengths.
    """
    if not len(instructions) == len(ours) == len(theirs):
        raise ValueError(
            f"{len(instructions)} instructions, {len(ours)} and {len(theirs)} responses: need as many each"
        )
    verdicts = verdict_tokens(tokenizer)
    shown = [list(map(judge_prompt, instructions, *sides)) for sides in ((ours, theirs), (theirs, ours))]
    distinct = list(dict.fromkeys(shown[0] + shown[1]))
    rows = [encode_prompt(tokenizer, text) for text in distinct]

    def score(batch: list[int]) -> list[float]:  # probability of the first place
        prompts = [rows[i] for i in batch]
        last = [len(row) - 1 for row in prompts]
        logits = torch.cat(next_logits(model, tokenizer, prompts, last, names=batch))  # [B, V]
        check_scores(logits[:, verdicts].amax(dim=-1), rows=batch, model=model)
        return torch.softmax(logits[:, verdicts].float(), dim=-1)[:, 0].tolist()

    first = dict(zip(distinct, in_batches(rows, score, models=[model]), strict=True))
    ours_first, theirs_first = (np.array([first[text] for text in texts], dtype=float) for texts in shown)
    return 0.5 + (ours_first - theirs_first) / 2
