"""The options of a synthesis, with their defaults, ranges and meanings, and which of them are a run's identity."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from math import inf
from typing import Any

from tacit.support.errors import TacitError
from tacit.support.ranges import HEAT, NUCLEUS, Range, check_range

SAMPLING = ("temperature", "top_p", "seed", "max_new_tokens")
RULE = ("alpha", "beta", "contrast_end", "log_ratios", *SAMPLING)  # in the order in which synthesis.json notes them

ANY: Range = ("anything", lambda x: True)
WEIGHT: Range = ("from 0 to 1000", lambda x: 0 <= x <= 1000)
COUNT: Range = ("an integer of at least 1", lambda x: 1 <= x < inf and x == int(x))
MASK: Range = ("from 0 (no mask) to 1", lambda x: 0 <= x <= 1)
DTYPE: Range = ("float32, bfloat16, float16 or auto", lambda x: x in ("float32", "bfloat16", "float16", "auto"))
RATIOS: Range = ("none, mean or tokens", lambda x: x in ("none", "mean", "tokens"))


def _option(default: Any, meaning: str, values: Range = ANY, *, metavar: str | None = None) -> Any:
    """A field: its default, its meaning, its range, and what the command line's help calls a value of it."""
    return field(default=default, metadata={"meaning": meaning, "range": values, "metavar": metavar})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options of ``tacit.synthesize`` that the command line offers under the same names.

    ``RULE``, ``dtype`` and the chat template decide what the rows are and are part of a run's identity. The batch's
    and the shards' sizes change how logits are rounded; they are part of it unless ``dtype`` is float32. The others
    only decide where and how fast rows are made. Raises TacitError for a value that is out of its range.
    """

    alpha: float = _option(0.01, "only tokens with p >= ALPHA max p of the expert", MASK)
    beta: float = _option(1.0, "weight of the amateur; 0 samples the expert directly", WEIGHT)
    temperature: float = _option(1.0, "0 is greedy", HEAT)
    top_p: float = _option(1.0, "nucleus of the sampled distribution; 1 is all of it", NUCLEUS)
    contrast_end: bool = _option(True, "end tokens keep the expert's (masked) probability at temperature 1")
    log_ratios: str = _option("mean", "of log p_expert - log p_amateur: none (saves time), mean or tokens", RATIOS)
    seed: int = _option(0, "of the noise, together with a row's id and the step")
    max_new_tokens: int = _option(256, "most tokens of a response", COUNT)
    batch_size: int = _option(128, "rows decoded together", COUNT)
    shard_size: int = _option(512, "rows per file, which is made whole or again", COUNT)
    workers: int = _option(1, "processes by Ray Data, each with the pair; 1 needs no Ray", COUNT)
    ray_address: str | None = _option(
        None, "a Ray cluster, whose machines share the file system of DIR, models and this package", metavar="ADDRESS"
    )
    dtype: str = _option("float32", "float32, bfloat16, float16 or auto", DTYPE)
    chat_template: str | None = _option(  # in Python the template itself
        None, "a Jinja file that replaces the expert's chat template, or tulu for the papers' format", metavar="FILE"
    )
    push_to_hub: str | None = _option(None, "upload the finished dataset; a new one is private", metavar="REPO")

    def __post_init__(self) -> None:
        for option in fields(self):
            value = getattr(self, option.name)
            check_range(option.name, value, option.metadata["range"])
            if option.type == "float":  # so that 1 and 1.0 are one run
                object.__setattr__(self, option.name, float(value))
        if self.temperature == 0 and self.top_p < 1:
            raise TacitError(f"top_p {self.top_p} has no effect at temperature 0, which is greedy: leave one out")
        if self.ray_address is not None and self.workers == 1:
            raise TacitError(
                f"ray_address ({self.ray_address}) needs workers above 1, and workers is 1, which makes no use of Ray: "
                "give --workers or leave --ray-address out"
            )

    def sampling(self) -> dict[str, Any]:
        """The options of ``generate_responses`` that decide what is sampled."""
        return {name: getattr(self, name) for name in SAMPLING}

    def identity(
        self, weights: dict[str, str], *, chat_template: str, tokenizer: str, instructions: str, prompts: str
    ) -> dict[str, Any]:
        """All that decides the rows of a run, under the names that ``synthesis.json`` notes.

        ``weights`` identify expert and amateur; ``chat_template`` is the expert's, given or its own; ``tokenizer``,
        ``instructions`` and ``prompts`` (as the template renders the instructions) are hashes.
        """
        parameters = weights | {name: getattr(self, name) for name in (*RULE, "dtype")}
        parameters |= {"chat_template": chat_template, "tokenizer": tokenizer, "instructions": instructions}
        parameters["prompts"] = prompts
        if self.dtype != "float32":  # then shapes change texts
            parameters |= {"batch_size": self.batch_size, "shard_size": self.shard_size}
        return parameters
