"""The three rules of Hewitt et al. (2024, section 6) as logits processors, for any tokenizer.

The rule-adapted model is the product of the base model and a model whose logits are the rules' scores;
both normalisers are constant in the next token, so its logits are the base model's plus the scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from tacit.decoding.generation import FiniteScores, MakeProcessors, plain_generation
from tacit.models.chat import encode_prompt
from tacit.support.errors import TacitError


def surface(token: str) -> str:
    """A vocabulary entry as text: SentencePiece's and byte-level BPE's marks for space and newline undone."""
    return {"<0x0A>": "\n"}.get(token, token.replace("▁", " ").replace("Ġ", " ").replace("Ċ", "\n"))


def resolve_tokens(
    tokenizer: PreTrainedTokenizerBase, scores: Mapping[str, float]
) -> tuple[dict[int, float], list[str]]:
    """Map rule tokens, given as strings (a leading space counts), to token ids with their scores.

    Returns the scores by id and the strings that are no single token of this vocabulary.
    """
    ids: dict[str, list[int]] = {}
    for token, index in tokenizer.get_vocab().items():
        ids.setdefault(surface(token), []).append(index)
    by_id = {index: score for text, score in scores.items() for index in ids.get(text, [])}
    return by_id, [text for text in scores if text not in ids]


class EndRamp(LogitsProcessor):
    """Rule 1: add ``weight`` * t / ``horizon`` to the end token, t being the response's tokens so far.

    ``after`` says what happens past the horizon: ``grow`` (the paper states no end), ``cap`` (stays at
    ``weight``) or ``cut`` (0 from t = horizon on: what the released code does).
    """

    def __init__(
        self, *, eos_token_id: int, prompt_width: int, weight: float = 15.0, horizon: int = 250, after: str = "grow"
    ):
        if after not in ("grow", "cap", "cut"):
            raise TacitError(f"the end ramp's `after` must be grow, cap or cut, not {after!r}")
        self.eos_token_id, self.prompt_width = eos_token_id, prompt_width
        self.weight, self.horizon, self.after = weight, horizon, after

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # [B, time], [B, V] -> [B, V]
        t = input_ids.shape[1] - self.prompt_width
        if t >= self.horizon:
            t = {"grow": t, "cap": self.horizon, "cut": 0}[self.after]
        scores = scores.clone()
        scores[:, self.eos_token_id] += self.weight * t / self.horizon
        return scores


class TokenBias(LogitsProcessor):
    """Rule 2: add a constant to each of a few tokens at every step, ``scores_by_id``, in nats.

    ``resolve_tokens`` makes the ids from strings. Source: Hewitt et al. (2024, section 6; its tokens and scores for
    Llama-2 are in Table 8).
    """

    def __init__(self, scores_by_id: Mapping[int, float]):
        self.ids, self.values = list(scores_by_id), list(scores_by_id.values())

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # [B, time], [B, V] -> [B, V]
        scores = scores.clone()
        scores[:, self.ids] += torch.tensor(self.values, device=scores.device, dtype=scores.dtype)
        return scores


class Diversity(LogitsProcessor):
    """Rule 3: add ``weight`` once to every distinct token already used.

    ``scope`` is ``response`` (the paper's text) or ``prompt`` (prompt and response: the released code).
    Padding never counts as used: ``prompt_mask`` is the prompts' attention mask, [B, prompt width].
    """

    def __init__(self, *, prompt_mask: Tensor, weight: float = -1.5, scope: str = "response"):
        if scope not in ("response", "prompt"):
            raise TacitError(f"the diversity rule's `scope` must be response or prompt, not {scope!r}")
        self.prompt_mask, self.weight, self.scope = prompt_mask.bool(), weight, scope

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # [B, time], [B, V] -> [B, V]
        width = self.prompt_mask.shape[1]
        counted = torch.ones_like(input_ids, dtype=torch.bool)
        counted[:, :width] = self.prompt_mask if self.scope == "prompt" else False
        used = torch.zeros_like(scores).scatter_add_(1, input_ids, counted.to(scores.dtype))
        return scores + self.weight * (used > 0)


def make_rules(
    tokenizer: PreTrainedTokenizerBase,
    *,
    rules: Sequence[str] = ("end", "uniform", "diversity"),
    end_weight: float = 15.0,
    end_horizon: int = 250,
    end_after: str = "grow",
    uniform_tokens: Mapping[str, float] | None = None,
    diversity_weight: float = -1.5,
    diversity_scope: str = "response",
    allow_unresolved: bool = False,
) -> MakeProcessors:
    """The chosen ``rules`` for ``generate_responses``: a function from a batch's prompt mask to processors.

    The weights' defaults are the paper's (Table 8). The uniform rule's tokens belong to a vocabulary and must be given.
    Raises TacitError for an unknown rule, for a uniform rule without tokens, and, unless ``allow_unresolved``, for rule
    tokens that are no token of this vocabulary.
    """
    unknown = set(rules) - {"end", "uniform", "diversity"}
    if unknown:
        raise TacitError(f"unknown rule {sorted(unknown)[0]!r}: the rules are end, uniform and diversity")
    if "uniform" in rules and not uniform_tokens:
        raise TacitError("the uniform rule needs uniform_tokens: token strings with their scores")
    biases, unresolved = resolve_tokens(tokenizer, uniform_tokens or {})
    if unresolved and not allow_unresolved:
        tokens = ", ".join(map(repr, unresolved))
        raise TacitError(f"rule tokens that are no single token of this tokenizer: {tokens}; drop or respell them")

    def make(prompt_mask: Tensor) -> list[LogitsProcessor]:
        processors: list[LogitsProcessor] = []
        if "end" in rules:
            ramp = {"weight": end_weight, "horizon": end_horizon, "after": end_after}
            processors.append(EndRamp(eos_token_id=tokenizer.eos_token_id, prompt_width=prompt_mask.shape[1], **ramp))
        if "uniform" in rules and biases:
            processors.append(TokenBias(biases))
        if "diversity" in rules:
            processors.append(Diversity(prompt_mask=prompt_mask, weight=diversity_weight, scope=diversity_scope))
        return processors

    return make


@torch.inference_mode()
def token_changes(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    instruction: str,
    *,
    make_processors: MakeProcessors,
    max_new_tokens: int,
) -> pd.DataFrame:
    """What the rules change while the adapted model responds greedily to ``instruction``: one row per token.

    Columns: ``step``; ``token``, the one chosen; ``base would say``, the base model's own choice after the same tokens;
    ``base`` and ``adapted``, the chosen token's log-probability (nats) without and with the rules; ``change``, their
    difference. The response's text is in the table's ``attrs``.
    """
    ids = torch.tensor([encode_prompt(tokenizer, instruction)], device=model.device)  # [1, W]
    mask = torch.ones_like(ids)
    with plain_generation(model, tokenizer):
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            logits_processor=LogitsProcessorList([*make_processors(mask), FiniteScores(model, [instruction])]),
            output_logits=True,
            output_scores=True,
            return_dict_in_generate=True,
        )
    chosen = out.sequences[0, ids.shape[1] :]  # [T]
    plain, ruled = (torch.log_softmax(torch.cat(steps).float(), dim=-1) for steps in (out.logits, out.scores))  # [T, V]
    base, adapted = (z.gather(1, chosen[:, None]).squeeze(1).tolist() for z in (plain, ruled))
    spelled, likeliest = ([repr(tokenizer.decode([i])) for i in row.tolist()] for row in (chosen, plain.argmax(dim=-1)))
    columns = {"step": range(len(chosen)), "token": spelled, "base would say": likeliest}
    table = pd.DataFrame(columns | {"base": base, "adapted": adapted})
    table = table.assign(change=table["adapted"] - table["base"])
    table.attrs["text"] = tokenizer.decode(chosen, skip_special_tokens=True)
    return table
