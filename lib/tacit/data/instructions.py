"""Instruction datasets, and the one function that turns an example into tokens and labels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence, Set
from numbers import Real
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from tacit.models.chat import encode_prompt, encode_text
from tacit.support.errors import TacitError
from tacit.support.files import read_text
from tacit.support.keyed import fingerprint

IGNORED = -100  # label of tokens that carry no loss
# Columns of other datasets that hold a part of what is asked or answered, which must not be left out in silence.
LEFT = {"input", "output", "context", "system", "history", "prompt", "completion", "messages", "chosen"}
LEFT |= {"question", "answer", "conversation", "conversations"}
ASKED = LEFT - {"output", "completion", "chosen", "answer"}  # those that are a part of what is asked


def _is_absent(value: Any) -> bool:
    """Is this what pandas and datasets write where a cell is empty: null, or NaN?"""
    return value is None or (isinstance(value, float) and value != value)


def name_rows(rows: Sequence[Mapping[str, Any]], *, where: str) -> list[str]:
    """The ids of instruction rows, as texts: those given, else one from the row's text.

    Whole numbers are written without a point, since pandas makes 1 into 1.0 where other ids are missing. ``-2`` is
    added to the id of a second row with the same text, and so on. Raises TacitError, calling the rows ``where``, for an
    id of another kind and for one that occurs twice.
    """
    names, repeats = [], Counter()
    for number, row in enumerate(rows):
        given = row.get("id")
        if _is_absent(given):
            response = row.get("response")
            name = fingerprint([row["instruction"], response if isinstance(response, str) else ""])[:16]
            repeats[name] += 1
            name = name if repeats[name] == 1 else f"{name}-{repeats[name]}"
        elif isinstance(given, bool) or not isinstance(given, (str, Real)):
            raise TacitError(f'{where}, row {number} (from 0): "id" must be a text or a number, not {given!r:.60}')
        else:
            name = given if isinstance(given, str) else str(int(given) if given == given // 1 else given)
        names.append(name)
    twice = next((name for name, times in Counter(names).items() if times > 1), None)
    if twice is not None:
        raise TacitError(f"{where}: id {twice!r} occurs twice; ids must be unique, they key the noise")
    return names


def check_columns(
    row: Mapping[str, Any], *, place: str, path: str | Path | None = None, columns: Set[str] = LEFT
) -> None:
    """Raise TacitError for a row with content in one of ``columns``, which would be left out.

    For a row of the file ``path`` that has the columns of another dataset, the error names its reader.
    """
    known = [(name, row[name]) for name in (*columns, "response") if name in row]
    filled = {name for name, value in known if not _is_absent(value) and (not hasattr(value, "__len__") or len(value))}
    if path is not None and "response" not in filled:
        shapes = {  # the columns that tell a shape, and the source that reads it
            "alpaca" if "input" in row else "alpaca_eval": {"input", "output"},
            "gsm8k": {"question", "answer"},
            "lmsys": {"conversation"},
            "lima": {"conversations"},
        }
        for name, told_by in shapes.items():
            if filled & told_by:
                again = f"write {name}:{path} to read it as {name}"
                raise TacitError(f"{place}: these are the columns of another dataset: {again}")
    left = sorted(filled & columns)
    if left:
        raise TacitError(
            f"{place}: the column {left[0]!r} would be left out; put all that a model is to see into 'instruction' and "
            "all that it is to say into 'response', or take the column away"
        )


def read_instructions(path: str | Path) -> Dataset:
    """Read a JSONL file of ``{"instruction": ..., "response": ...}`` rows as ``id``, ``instruction``, ``response``.

    A ``response`` that is missing or null is empty; ids are those of ``name_rows``. Other columns are left out, but
    those that hold a part of the conversation (``LEFT``) are refused. Raises TacitError, naming the line, for a file
    that is missing, empty or malformed.
    """
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):  # splitlines() would cut at U+2028 in a text
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TacitError(f"{place}: not JSON ({error})") from None
        if isinstance(row, dict):
            check_columns(row, place=place, path=path)
        if not isinstance(row, dict) or not isinstance(row.get("instruction"), str):
            raise TacitError(f'{place}: needs an object with a text under "instruction"')
        response = "" if _is_absent(row.get("response")) else row["response"]
        if not isinstance(response, str):
            raise TacitError(f'{place}: "response" must be a text')
        try:
            f"{row.get('id')}{row['instruction']}{response}".encode()
        except UnicodeEncodeError as error:
            raise TacitError(f"{place}: half of a surrogate pair is no text ({error.reason})") from None
        rows.append({"id": row.get("id"), "instruction": row["instruction"], "response": response})
    if not rows:
        raise TacitError(f"{path} holds no instructions")
    names = name_rows(rows, where=str(path))
    return Dataset.from_list([row | {"id": name} for name, row in zip(names, rows, strict=True)])


def blank_instructions(examples: Dataset) -> Dataset:
    """The same responses without their instructions, for response tuning (Hewitt et al. 2024, section 4).

    The chat tags stay: only the user's turn becomes the empty string.
    """
    return Dataset.from_list([row | {"instruction": ""} for row in examples])


def encode_example(tokenizer: PreTrainedTokenizerBase, instruction: str, response: str) -> dict[str, list[int]]:
    """Tokens of one example and its labels: loss on the response and its end token only.

    Prompt and response are tokenized apart, exactly as in generation, so that no token spans the seam. A
    special token that a text spells is read as plain characters (``encode_text``).
    Returns ``input_ids`` and ``labels``, equally long; prompt positions are labelled -100.
    """
    prompt = encode_prompt(tokenizer, instruction)
    target = [*encode_text(tokenizer, response), tokenizer.eos_token_id]
    return {"input_ids": prompt + target, "labels": [IGNORED] * len(prompt) + target}


def encode_examples(tokenizer: PreTrainedTokenizerBase, examples: Dataset, *, max_length: int) -> Dataset:
    """Encode a dataset; examples longer than ``max_length`` tokens are cut at the end.

    Raises TacitError when the cut would leave an example without any loss-bearing token, and as ``check_columns``.
    """
    rows = []
    for number, row in enumerate(examples):
        check_columns(row, place=f"example {number} (counted from 0)")
        rows.append(encode_example(tokenizer, row["instruction"], row["response"]))
    cut = [{k: v[:max_length] for k, v in row.items()} for row in rows]
    for example, row in zip(examples, cut, strict=True):
        if all(label == IGNORED for label in row["labels"]):
            raise TacitError(
                f"example {example['id']}: its prompt alone fills max_length={max_length} tokens; raise it"
            )
    return Dataset.from_list(cut)
