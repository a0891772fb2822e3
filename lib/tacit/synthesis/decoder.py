"""The decoding of a row: a response from the contrast of two models, and how much likelier the expert found it.

Source: CoDIT (Ichinose et al. 2026) and its released decoder: the next token comes from p_expert / p_amateur^beta,
normalised over the tokens with p_expert >= alpha max p_expert. Prompts are single turns without a system message.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from tacit.decoding.generation import Response, end_tokens, generate_responses
from tacit.models.chat import encode_prompt
from tacit.models.experts import Experts, contrast, plausible
from tacit.models.pairs import load_pair
from tacit.scoring.likelihoods import token_log_ratios
from tacit.synthesis.rows import Row
from tacit.synthesis.settings import Settings


class Decoder:
    """A loaded pair; called with (id, instruction) rows, it returns the dataset's rows in their order.

    ``models`` are the options of ``load_pair``. ``on_batch`` is called with each batch's rows and response tokens.
    With beta 0 only the expert decodes; the amateur gives the log-ratios, in a second reading, where they are wanted.

    Raises TacitError as ``load_pair`` does and ValueError as ``experts.experts_config`` does; a call raises
    TacitError as ``generate_responses`` and ``token_log_ratios`` do.
    """

    def __init__(
        self,
        models: Mapping[str, Any],
        settings: Settings,
        *,
        on_batch: Callable[[int, int], None] = lambda rows, tokens: None,
    ):
        self.settings, self.on_batch = settings, on_batch
        self.expert, self.amateur, self.tokenizer = load_pair(**models)
        exempt = () if settings.contrast_end else end_tokens(self.expert, self.tokenizer)
        if settings.beta:
            combine = partial(contrast, alpha=settings.alpha, beta=settings.beta, exempt=exempt)
            self.model = Experts(self.expert, self.amateur, combine=combine)
        else:
            self.model = Experts(self.expert, combine=partial(plausible, alpha=settings.alpha))

    def __call__(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        prompts = [encode_prompt(self.tokenizer, text) for _, text in rows]
        order = sorted(range(len(rows)), key=lambda i: len(prompts[i]))
        # A GPU's slots are refilled from the whole shard.
        size = len(rows) if self.expert.device.type == "cuda" else self.settings.batch_size
        decoded: dict[int, dict[str, Any]] = {}
        for start in range(0, len(rows), size):
            batch = order[start : start + size]
            records = self._decode_batch([rows[i] for i in batch], [prompts[i] for i in batch])
            decoded.update(zip(batch, records, strict=True))
        return [decoded[i] for i in range(len(rows))]

    def _decode_batch(self, rows: Sequence[Row], prompts: Sequence[list[int]]) -> list[dict[str, Any]]:
        settings = self.settings
        ids, texts = zip(*rows, strict=True)
        sampling = {"batch_size": settings.batch_size, **settings.sampling()}
        responses = generate_responses(self.model, self.tokenizer, texts, ids=ids, **sampling)
        tokens = [list(response.tokens) for response in responses]
        ratios: list[list[float]] = [[]] * len(rows)
        if settings.log_ratios != "none":
            ratios = token_log_ratios(self.expert, self.amateur, self.tokenizer, prompts, tokens)
        self.on_batch(len(rows), sum(response.n_tokens for response in responses))
        return [self._record(*row) for row in zip(rows, prompts, responses, ratios, strict=True)]

    def _record(self, row: Row, prompt: list[int], response: Response, ratios: list[float]) -> dict[str, Any]:
        """One row of the dataset; the mean log-ratio of a response that is nothing but its end is null."""
        more_than_end = len(ratios) > (response.finish_reason == "eos")
        record = {
            "id": row[0],
            "instruction": row[1],
            "response": response.text,
            "finish_reason": response.finish_reason,
            "prompt_tokens": len(prompt),
            "response_tokens": response.n_tokens,
            "mean_log_ratio": sum(ratios) / len(ratios) if more_than_end else None,
        }
        if self.settings.log_ratios == "tokens":
            record |= {"tokens": list(response.tokens), "log_ratios": ratios}
        return record
