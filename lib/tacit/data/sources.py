"""The papers' real datasets (Hewitt et al. 2024, sections 4, 5.1; CoDIT), mapped to ``instruction`` and ``response``.

| name | on the hub | columns read | instruction -> response |
|---|---|---|---|
| lima | GAIR/lima (gated) | conversations | first turn -> second turn |
| mbpp | google-research-datasets/mbpp | text (sanitized: prompt), code | as is |
| gsm8k | openai/gsm8k | question, answer | as is, with calculator annotations ``<<48/2=24>>`` |
| recipes | Hieu-Pham/kaggle_food_recipes | Title, Cleaned_Ingredients, Instructions | ``Recipe for X`` -> list, steps |
| poetry | merve/poetry | poem name, content | ``Write a poem called X`` -> poem |
| chess | patrickfrank1/chess-pgn-games | text, a line of a PGN file per row | both Elo lines -> moves |
| alpaca | tatsu-lab/alpaca | instruction, input, output | instruction, blank line, input -> output |
| alpaca_eval | tatsu-lab/alpaca_eval | instruction, output | as is |
| dolly | databricks/databricks-dolly-15k | instruction, context, response | as alpaca, with the context as input |
| lmsys | lmsys/lmsys-chat-1m (gated) | conversation, language | first user turn -> the answer to it, English only |
| wildchat | allenai/WildChat-1M | conversation, language | first user turn -> the answer to it, English only |

The last two are CoDIT's (Ichinose et al. 2026): its instructions, and a dataset that it is compared with. ``dolly`` is
in neither paper: people wrote it, it is not gated, and in the small profiles it stands in for LIMA. Its rows of more
than 2,000 characters before the response are skipped, so that 1,024 tokens leave room for a response. The texts of the
rest are those that Hewitt et al. trained on, as their released ``make_*.py`` write them. Recipes list the *cleaned*
ingredients and leave two blank lines before the steps. Chess keeps the header lines ``[WhiteElo "..."]`` and
any comments among the moves. Both ends of a text are stripped, as their ``finetune.py`` strips every message, so that a
recipe's list starts with its first dash and every later dash has a space before it.

Three things differ on purpose. LIMA's 30 rows of several turns keep their first exchange only. CRLF in MBPP's code
becomes LF. Alpaca's input always follows a blank line, where the converter that the paper forked draws a template at
random. This module shuffles nothing, removes no duplicates and knows no tokens or splits.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from datasets import Dataset, load_dataset
from huggingface_hub import hf_hub_download

from tacit.data.instructions import read_instructions
from tacit.support import paths
from tacit.support.errors import TacitError, first_line
from tacit.support.files import read_text

HUB_ID = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(@(?P<revision>[0-9a-f]{40}))?")
DOLLY_MOST = 2000  # characters of instruction and context; some contexts are whole articles
SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
Row = dict[str, Any]
Pair = tuple[str, str]


def _value(row: Row, *names: str) -> Any:
    """The first of these columns that the row has."""
    for name in names:
        if name in row:
            return row[name]
    raise TacitError(f"there is no column {' or '.join(map(repr, names))}; the columns are {', '.join(row) or 'none'}")


def _text(row: Row, *names: str) -> str:
    """A text column; null reads as the empty text."""
    value = _value(row, *names)
    if value is not None and not isinstance(value, str):
        raise TacitError(f"column {names[0]!r} must hold texts, this is {value!r:.60}")
    return value or ""


def _texts(value: Any, what: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise TacitError(f"{what} must be a list of texts, this is {value!r:.60}")
    return value


def _columns(instruction: str, response: str) -> Callable[[Row], Pair]:
    return lambda row: (_text(row, instruction), _text(row, response))


def _lima(row: Row) -> Pair | None:
    turns = _texts(_value(row, "conversations"), "column 'conversations'")
    return (turns[0], turns[1]) if len(turns) > 1 else None


def _mbpp(row: Row) -> Pair:
    return _text(row, "text", "prompt"), _text(row, "code").replace("\r\n", "\n")


def _recipe(row: Row) -> Pair | None:
    title, steps = _text(row, "Title"), _text(row, "Instructions")
    items = _value(row, "Cleaned_Ingredients", "Ingredients")
    if not title.strip() or not steps.strip() or items is None:
        return None
    if isinstance(items, str):  # the CSV holds a Python literal; the released code runs eval on it
        try:
            items = ast.literal_eval(items)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            raise TacitError(f"the ingredients of {title!r} do not parse as a list: {items!r:.60}") from None
    lines = "".join(f" - {item}\n" for item in _texts(items, f"the ingredients of {title!r}"))
    return f"Recipe for {title}", f"{lines}\n\n{steps}"


def _poem(row: Row) -> Pair | None:
    name = _text(row, "poem name")
    return (f"Write a poem called {name}", _text(row, "content")) if name.strip() else None


def _games(rows: Iterable[Row]) -> Iterator[Row]:
    """One row per game of PGN lines: its Elo lines (blank when missing) and the line of its moves."""
    elo: dict[str, str] = {}
    for row in rows:
        for line in _text(row, "text").split("\n"):
            if line.startswith("[Event "):
                elo = {}
            elif line.startswith(("[WhiteElo ", "[BlackElo ")):
                elo[line[1:6]] = line.strip()
            elif line.startswith("1. "):
                yield {"White": "", "Black": "", **elo, "moves": line}


def _game(row: Row) -> Pair | None:
    return (f"{row['White']}\n{row['Black']}", row["moves"]) if row["White"] and row["Black"] else None


def _alpaca(row: Row) -> Pair:
    return f"{_text(row, 'instruction').strip()}\n\n{_text(row, 'input').strip()}", _text(row, "output")


def _dolly(row: Row) -> Pair | None:
    asked = f"{_text(row, 'instruction').strip()}\n\n{_text(row, 'context').strip()}"
    return (asked, _text(row, "response")) if len(asked) <= DOLLY_MOST else None


def _conversation(row: Row) -> Pair | None:
    """The first user turn of a conversation in English and the assistant's answer to it."""
    turns = _value(row, "conversation")
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise TacitError(f"column 'conversation' must be a list of turns, this is {turns!r:.60}")
    messages = [(_text(turn, "role"), _text(turn, "content")) for turn in turns]
    if _text(row, "language") != "English":
        return None
    exchanges = ((text, answer, by) for (role, text), (by, answer) in pairwise(messages) if role == "user")
    instruction, response, by = next(exchanges, ("", "", ""))
    return (instruction, response) if by == "assistant" else None


class Source(NamedTuple):
    """How a dataset's rows are mapped (to None: skipped), and how it lies on the hub."""

    pair: Callable[[Row], Pair | None]
    config: str | None = None
    file: str | None = None  # read alone: the one file, or where a script is needed, which datasets no longer runs
    gather: Callable[[Iterable[Row]], Iterable[Row]] = iter


SOURCES = {
    "lima": Source(_lima, file="train.jsonl"),
    "mbpp": Source(_mbpp, config="full"),
    "gsm8k": Source(_columns("question", "answer"), config="main"),
    "recipes": Source(_recipe),
    "poetry": Source(_poem),
    "chess": Source(_game, gather=_games),
    "alpaca": Source(_alpaca),
    "alpaca_eval": Source(_columns("instruction", "output"), file="alpaca_eval.json"),
    "dolly": Source(_dolly, file="databricks-dolly-15k.jsonl"),
    "lmsys": Source(_conversation),
    "wildchat": Source(_conversation),
}


def _read_file(path: Path, where: str) -> Iterable[Row]:
    try:
        match path.suffix:
            case ".csv":  # by pandas, so that the same cells are null as in the hub's CSV
                return Dataset.from_pandas(pd.read_csv(path, dtype=str), preserve_index=False)
            case ".parquet":
                return Dataset.from_pandas(pd.read_parquet(path), preserve_index=False)
            case ".jsonl":  # not by splitlines(), which also cuts at U+2028 within a text
                rows = [json.loads(line) for line in read_text(path).split("\n") if line.strip()]
            case ".json":
                rows = json.loads(read_text(path))
            case _:
                raise TacitError(f"cannot read {where}: give a file that ends in {', '.join(SUFFIXES)}")
    except (OSError, ValueError, RecursionError) as error:
        raise TacitError(f"cannot read {where}: {type(error).__name__}: {error}") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TacitError(f"cannot read {where}: it must hold a list of JSON objects")
    return rows


def _read_hub(source: Source, where: str, name: str, revision: str | None) -> Iterable[Row]:
    try:
        if source.file:
            path = hf_hub_download(name, source.file, repo_type="dataset", revision=revision)
        else:
            rows = load_dataset(name, source.config, split="train", revision=revision, keep_in_memory=False)
    except Exception as error:  # a dozen kinds: offline, gated, no such id, revision, config or file
        raise TacitError(
            f"cannot load {where} from the hub ({type(error).__name__}: {first_line(error)}): check the id, the "
            "revision and the network (HF_HUB_OFFLINE); if it is gated, accept its licence at "
            f"https://huggingface.co/datasets/{name} and run `hf auth login`; or give a local file"
        ) from error
    if source.file:
        return _read_file(Path(path), f"{where}, {source.file}")
    # out of the hub's reach, datasets takes whatever revision its cache holds (huggingface/datasets#7928)
    if revision and not any(revision in Path(file["filename"]).parts for file in rows.cache_files):
        raise TacitError(f"cannot load {where}: datasets' cache holds another revision, and the hub is out of reach")
    return rows


def _read(source: Source, where: str) -> Iterable[Row]:
    path, hub = paths.resolve(where), HUB_ID.fullmatch(where)
    if path.exists():
        return _read_file(path, where)
    if hub is None or path.suffix in SUFFIXES:
        raise TacitError(
            f"no file {where}, looked for as {paths.searched(where)}, and no hub id either (owner/name, or owner/name@ "
            "and 40 hex digits)"
        )
    return _read_hub(source, where, hub["id"], hub["revision"])


def load_source(name: str, *, where: str, n: int | None = None) -> Dataset:
    """Load one of the papers' datasets as ``id``, ``instruction`` and ``response``, in the source's order.

    ``name`` is a key of ``SOURCES``, or ``jsonl`` for a file as ``read_instructions`` reads it. ``where`` is a local
    file (.json with an array, .jsonl, .csv, .parquet; found by ``paths.resolve``) or a hub id,
    best pinned as ``owner/name@<40 hex digits>``, whose training set is read (of alpaca_eval, its only set). Rows whose
    instruction or response is null or blank are skipped. ``n`` keeps the first ``n`` of the others, or all if they are
    fewer. An id is the name and the row's number in the source, counted from 0 (for chess, the game's number).

    Raises TacitError for an unknown name, a file or hub dataset that cannot be read, a missing column or malformed
    value (with its row), and a source without a usable row. Never runs a dataset's code or evaluates its texts.
    """
    if name not in SOURCES and name != "jsonl":
        raise TacitError(f"unknown source {name!r}: choose one of {', '.join(SOURCES)}, jsonl")
    if n is not None and n < 1:
        raise TacitError(f"n must be at least 1, or null for all rows of {where}; it is {n}")
    if name == "jsonl":
        rows = read_instructions(where)
        return rows if n is None else rows.select(range(min(n, len(rows))))
    source, examples, number = SOURCES[name], [], 0
    rows = _read(source, where)
    try:
        for number, row in enumerate(source.gather(rows)):
            instruction, response = (text.strip() for text in source.pair(row) or ("", ""))
            if instruction and response:
                examples.append({"id": f"{name}-{number}", "instruction": instruction, "response": response})
            if len(examples) == n:
                break
    except TacitError as error:
        raise TacitError(f"{where}, row {number} (counted from 0): {error}") from None
    if not examples:
        raise TacitError(f"{where} holds no row that is usable as {name}")
    return Dataset.from_list(examples)


def split_source(text: str) -> tuple[str, str, int | None]:
    """The name, place and number of rows of ``name:place[:rows]``, as a parameters file writes a source.

    Such as ``gsm8k:openai/gsm8k@<revision>[:1000]`` or ``jsonl:mine.jsonl``. Raises TacitError for another form.
    """
    match = re.fullmatch(r"(?P<name>\w+):(?P<where>.+?)(\[:(?P<rows>\d+)\])?", text)
    if match is None:
        raise TacitError(f"a source is written name:place or name:place[:rows], such as jsonl:mine.jsonl, not {text!r}")
    return match["name"], match["where"], int(match["rows"]) if match["rows"] else None


def load_instructions(text: str) -> Dataset:
    """Instructions from the command line: a JSONL file for ``read_instructions``, or a source for ``split_source``.

    Such as ``mine.jsonl`` or ``alpaca:tatsu-lab/alpaca@<revision>[:1000]``. Raises TacitError for anything else.
    """
    hub = HUB_ID.fullmatch(text)
    if hub and not paths.resolve(text).exists() and not text.endswith(SUFFIXES):
        likely = hub["id"].split("/")[-1].lower()
        written = f"{likely if likely in SOURCES else 'NAME'}:{text}"
        raise TacitError(
            f"there is no file {text}; a dataset of the hub is written name:place, here {written}, and the name says "
            f"how its rows are read: {', '.join(SOURCES)}"
        )
    if ":" not in text or paths.resolve(text).is_file():
        return read_instructions(text)
    name, where, n = split_source(text)
    return load_source(name, where=where, n=n)


def source_name(text: str) -> str:
    """The text given to ``load_instructions`` without the folders of an absolute path, for a dataset's card."""
    return re.sub(r"(^|:)/(?:.*/)?", r"\1", text)
