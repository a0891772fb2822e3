"""Instruction datasets, and the one function that turns an example into tokens and labels."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from tacit.models.chat import encode_prompt
from tacit.support.errors import TacitError
from tacit.support.keyed import fingerprint

IGNORED = -100  # label of tokens that carry no loss


def read_instructions(path: Path) -> Dataset:
    """Read a JSONL file of ``{"instruction": ..., "response": ...}`` rows. Further columns are kept.

    A missing ``response`` is empty. A row without an ``id`` gets one from its text; ``-2`` is added to that of the
    second row with the same text, and so on. Raises TacitError, naming the line, for a file that is missing, empty or
    malformed.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")  # splitlines() would cut at U+2028 in a text
    except (OSError, UnicodeDecodeError) as error:
        raise TacitError(f"cannot read {path}: {error}") from None
    rows, repeats = [], Counter()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TacitError(f"{path}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict) or not isinstance(row.get("instruction"), str):
            raise TacitError(f'{path}, line {number}: needs an object with a text under "instruction"')
        if not isinstance(row.setdefault("response", ""), str):
            raise TacitError(f'{path}, line {number}: "response" must be a text')
        try:
            (row["instruction"] + row["response"]).encode("utf-8")
        except UnicodeEncodeError as error:
            raise TacitError(f"{path}, line {number}: half of a surrogate pair is no text ({error.reason})") from None
        if "id" not in row:
            name = fingerprint([row["instruction"], row["response"]])[:16]
            repeats[name] += 1
            row["id"] = name if repeats[name] == 1 else f"{name}-{repeats[name]}"
        elif isinstance(row["id"], bool) or not isinstance(row["id"], (str, int)):
            raise TacitError(f'{path}, line {number}: "id" must be a text or a whole number')
        rows.append(row)
    if not rows:
        raise TacitError(f"{path} holds no instructions")
    twice = next((name for name, times in Counter(row["id"] for row in rows).items() if times > 1), None)
    if twice is not None:
        raise TacitError(f"{path}: id {twice!r} occurs twice; ids must be unique")
    try:
        return Dataset.from_list(rows)
    except (ValueError, TypeError, OverflowError, RecursionError, pyarrow.ArrowException) as error:
        raise TacitError(f"{path}: its rows do not make a table (is a column of two kinds?): {error}") from None


def blank_instructions(examples: Dataset) -> Dataset:
    """The same responses without their instructions, for response tuning (Hewitt et al. 2024, section 4).

    The chat tags stay: only the user's turn becomes the empty string.
    """
    return Dataset.from_list([row | {"instruction": ""} for row in examples])


def encode_example(tokenizer: PreTrainedTokenizerBase, instruction: str, response: str) -> dict[str, list[int]]:
    """Tokens of one example and its labels: loss on the response and its end token only.

    Prompt and response are tokenized apart, exactly as in generation, so that no token spans the seam.
    Returns ``input_ids`` and ``labels``, equally long; prompt positions are labelled -100.
    """
    prompt = encode_prompt(tokenizer, instruction)
    target = [*tokenizer(response, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    return {"input_ids": prompt + target, "labels": [IGNORED] * len(prompt) + target}


def encode_examples(tokenizer: PreTrainedTokenizerBase, examples: Dataset, *, max_length: int) -> Dataset:
    """Encode a dataset; examples longer than ``max_length`` tokens are cut at the end.

    Raises TacitError when the cut would leave an example without any loss-bearing token.
    """
    rows = [encode_example(tokenizer, r["instruction"], r["response"]) for r in examples]
    cut = [{k: v[:max_length] for k, v in row.items()} for row in rows]
    for example, row in zip(examples, cut, strict=True):
        if all(label == IGNORED for label in row["labels"]):
            raise TacitError(
                f"example {example['id']}: its prompt alone fills max_length={max_length} tokens; raise it"
            )
    return Dataset.from_list(cut)
