"""The rows of a synthesis: instructions as they are read, and the dataset's columns as a shard holds them.

| column | what |
|---|---|
| id, instruction | as given |
| response | the text, without its end token |
| finish_reason | eos or length |
| prompt_tokens, response_tokens | counts; the end token is one |
| mean_log_ratio | mean of log p_expert - log p_amateur of the full distributions over these tokens, in nats |
| tokens, log_ratios | only with ``log_ratios`` "tokens": token ids and each one's log-ratio, [response_tokens] |

``mean_log_ratio`` is null with ``log_ratios`` "none", and for a response that is nothing but its end.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value

from tacit.data.instructions import ASKED, check_columns, name_rows
from tacit.support import provenance
from tacit.support.errors import TacitError
from tacit.synthesis.shards import Shards

Instructions = Dataset | Iterable[Mapping[str, Any]]
Row = tuple[str, str]  # id, instruction

COLUMNS = Features(
    {
        "id": Value("string"),
        "instruction": Value("string"),
        "response": Value("string"),
        "finish_reason": Value("string"),
        "prompt_tokens": Value("int32"),
        "response_tokens": Value("int32"),
        "mean_log_ratio": Value("float64"),
    }
)
PER_TOKEN = Features({"tokens": List(Value("int32")), "log_ratios": List(Value("float32"))})


def environment() -> dict[str, str]:
    """What this process makes rows with: versions, the device, the hash of tacit's source."""
    return provenance.packages() | {"device": provenance.device_name(), "tacit": provenance.method_hash()}


def read_rows(instructions: Instructions) -> list[Row]:
    """The ids and instructions of a dataset or of a list of rows; a row without an id gets one from its text.

    Raises TacitError as ``name_rows`` and ``check_columns`` do, and where there are no rows.
    """
    rows = []
    for number, row in enumerate(instructions):
        if not isinstance(row.get("instruction"), str):
            raise TacitError(f"instructions, row {number} (counted from 0): needs a text under 'instruction'")
        check_columns(row, place=f"instructions, row {number} (counted from 0)", columns=ASKED)
        rows.append({"id": row.get("id"), "instruction": row["instruction"], "response": row.get("response")})
    if not rows:
        raise TacitError("there are no instructions: give one at least")
    return list(zip(name_rows(rows, where="instructions"), (row["instruction"] for row in rows), strict=True))


def write_rows(shards: Shards, index: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the dataset's ``rows`` of one shard as Parquet, and note what this process made them with."""
    columns = Features(COLUMNS | PER_TOKEN) if "tokens" in rows[0] else COLUMNS
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=columns.arrow_schema), buffer)
    shards.write(index, buffer.getvalue(), made_with=environment())
