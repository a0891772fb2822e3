"""CoDIT's synthesis: instructions in, a dataset of responses decoded from the contrast of two models out.

Source: CoDIT (Ichinose et al. 2026) and its released decoder: the next token comes from p_expert / p_amateur^beta, normalised
over the tokens with p_expert >= alpha max p_expert. Here every row's noise is keyed by (seed, row id, step), the run is made in
shards (``tacit.synthesis.shards``) that a killed run leaves intact, and Ray Data spreads the shards over workers (``tacit.synthesis.workers``).
Nothing is filtered or judged, and prompts are single turns without a system message.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset, Features, List, Value
from huggingface_hub import HfApi
from transformers import AutoConfig, PreTrainedTokenizerBase

from tacit.decoding.generation import end_tokens, generate_responses
from tacit.models.chat import encode_prompt
from tacit.models.experts import Experts, contrast, plausible
from tacit.models.identity import tokenizer_key, weights_key
from tacit.models.loading import load_tokenizer, locate, model_folder, split_revision
from tacit.models.pairs import load_pair
from tacit.scoring.likelihoods import token_log_ratios
from tacit.support import provenance
from tacit.support.errors import TacitError
from tacit.support.keyed import fingerprint
from tacit.synthesis import shards
from tacit.synthesis.cards import UNFINISHED, dataset_card

Instructions = Dataset | Iterable[Mapping[str, Any]]
Row = tuple[str, str]  # id, instruction
Decode = Callable[[Sequence[Row]], list[dict[str, Any]]]

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


def other_environments(noted: Iterable[Mapping[str, str]], ours: Mapping[str, str]) -> Iterator[str]:
    """How each of the ``noted`` environments differs from ``ours`` (in what ours has), in words, where it does."""
    for one in noted:
        differ = [(name, one.get(name, "unknown"), value) for name, value in ours.items() if one.get(name) != value]
        if differ:
            yield ", ".join(f"{name} {theirs:.40} then, {value:.40} now" for name, theirs, value in differ)


def read_rows(instructions: Instructions) -> list[Row]:
    """The ids and instructions of a dataset or of a list of rows. Raises TacitError unless ids are there and unique."""
    rows, seen = [], set()
    for number, row in enumerate(instructions):
        absent = [name for name in ("id", "instruction") if row.get(name) is None]
        if absent or not isinstance(row["instruction"], str):
            raise TacitError(
                f"instructions, row {number} (counted from 0): needs {' and '.join(map(repr, absent)) or 'a text under instruction'}"
            )
        name = str(row["id"])
        if name in seen:
            raise TacitError(f"instructions: id {name!r} occurs twice; ids must be unique, they key the noise")
        seen.add(name)
        rows.append((name, row["instruction"]))
    if not rows:
        raise TacitError("there are no instructions: give one at least")
    return rows


def make_decoder(
    *,
    models: Mapping[str, Any],
    alpha: float,
    beta: float,
    contrast_end: bool,
    log_ratios: str,
    batch_size: int,
    on_batch: Callable[[int, int], None] = lambda rows, tokens: None,
    **sampling,
) -> Decode:
    """Load a pair (``models``: the options of ``load_pair``) and return what makes the dataset's rows of (id, instruction) rows.

    ``sampling`` are options of ``generate_responses``; ``on_batch`` is called with each batch's rows and response tokens. With
    ``beta`` 0 only the expert decodes; the amateur gives the log-ratios, in a second reading, where they are wanted. Numbers are not
    checked here (``synthesize`` does). Raises TacitError as ``load_pair`` does, ValueError as ``experts.experts_config`` does; what it
    returns raises TacitError as ``generate_responses`` and ``token_log_ratios`` do.
    """
    expert, amateur, tokenizer = load_pair(**models)
    exempt = () if contrast_end else end_tokens(expert, tokenizer)
    if beta:
        model = Experts(expert, amateur, combine=partial(contrast, alpha=alpha, beta=beta, exempt=exempt))
    else:
        model = Experts(expert, combine=partial(plausible, alpha=alpha))

    def decode(rows: Sequence[Row]) -> list[dict[str, Any]]:
        prompts = [encode_prompt(tokenizer, text) for _, text in rows]
        order = sorted(range(len(rows)), key=lambda i: len(prompts[i]))
        made: dict[int, dict[str, Any]] = {}
        size = (
            len(rows) if expert.device.type == "cuda" else batch_size
        )  # a GPU's slots are refilled from the whole shard
        for start in range(0, len(rows), size):
            batch = order[start : start + size]
            ids, texts = zip(*(rows[i] for i in batch), strict=True)
            responses = generate_responses(model, tokenizer, texts, ids=ids, batch_size=batch_size, **sampling)
            tokens = [list(response.tokens) for response in responses]
            ratios = [[]] * len(batch)
            if log_ratios != "none":
                ratios = token_log_ratios(expert, amateur, tokenizer, [prompts[i] for i in batch], tokens)
            for i, response, ratio in zip(batch, responses, ratios, strict=True):
                said = len(ratio) > (response.finish_reason == "eos")
                made[i] = {
                    "id": rows[i][0],
                    "instruction": rows[i][1],
                    "response": response.text,
                    "finish_reason": response.finish_reason,
                    "prompt_tokens": len(prompts[i]),
                    "response_tokens": response.n_tokens,
                    "mean_log_ratio": sum(ratio) / len(ratio) if said else None,
                }
                if log_ratios == "tokens":
                    made[i] |= {"tokens": list(response.tokens), "log_ratios": ratio}
            on_batch(len(batch), sum(response.n_tokens for response in responses))
        return [made[i] for i in range(len(rows))]

    return decode


def write_rows(out: Path, index: int, made: list[dict[str, Any]], *, keys: Sequence[str], run: str) -> None:
    """Write one shard of the dataset's rows as Parquet."""
    columns = Features(COLUMNS | PER_TOKEN) if "tokens" in made[0] else COLUMNS
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(made, schema=columns.arrow_schema), buffer)
    shards.write_shard(out, index, rows=keys, run=run, content=buffer.getvalue(), made_with=environment())


def progress(say: Callable[[str], None], *, total: int, every: float = 5.0) -> Callable[[int, int], None]:
    """A function to be called with the rows and response tokens just made; it says how far the run is every ``every`` seconds.

    Tokens per second are of responses, the end token included: no padding and nothing after the end.
    """
    start = said = time.monotonic()
    rows = tokens = 0

    def tick(more_rows: int, more_tokens: int) -> None:
        nonlocal said, rows, tokens
        rows, tokens = rows + more_rows, tokens + more_tokens
        now = time.monotonic()
        if now - said >= every or rows == total:
            said = now
            left = (now - start) / rows * (total - rows)
            speed = tokens / max(now - start, 1e-9)
            say(f"{rows}/{total} rows, {speed:.0f} tokens/s, {left / 60:.0f} min {left % 60:.0f} s left")

    return tick


def _check_options(**given: float) -> None:
    ranges = {
        "alpha": (lambda x: 0 <= x <= 1, "from 0 (no mask) to 1"),
        "beta": (lambda x: x >= 0, "at least 0"),
        "temperature": (lambda x: x >= 0, "at least 0 (greedy)"),
        "top_p": (lambda x: 0 < x <= 1, "above 0 and at most 1"),
    }
    for name, value in given.items():
        holds, what = ranges.get(name, (lambda x: x >= 1 and x == int(x), "an integer of at least 1"))
        if not (holds(value) and abs(value) < float("inf")):
            raise TacitError(f"{name} must be {what}; it is {value}")


def _weights(name: str, revision: str | None) -> tuple[str, str | None]:
    """A checkpoint's identity in words, the hash of its folder or its hub id and commit; and the revision to load: that commit."""
    try:
        key = weights_key(name, revision)
    except (OSError, ValueError) as error:
        raise TacitError(f"cannot load {name}: {(str(error) or 'no message').splitlines()[0]}") from error
    return (key["weights"], revision) if "weights" in key else (f"{key['name']}@{key['commit']}", key["commit"])


def _check_lengths(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], *, max_new_tokens: int, models: Mapping[str, Any]
) -> None:
    """Raise TacitError for a prompt that leaves no room for ``max_new_tokens`` in a model's context."""
    longest, row = max((len(encode_prompt(tokenizer, text)), name) for name, text in rows)
    for role in ("expert", "amateur"):
        revision = models[f"{role}_revision"]
        config = AutoConfig.from_pretrained(locate(models[role]), revision=revision, trust_remote_code=False)
        room = getattr(config.get_text_config(decoder=True), "max_position_embeddings", None)
        if room is not None and longest + max_new_tokens > room:
            raise TacitError(
                f"the prompt of row {row!r} has {longest} tokens, and with max_new_tokens {max_new_tokens} that exceeds the "
                f"{role}'s context of {room}: lower max_new_tokens or leave the row out"
            )


def push(out: Path, repo: str) -> None:
    """Upload a finished folder as the hub's dataset ``repo``, which is private if it is new. Raises TacitError if that fails."""
    try:
        api = HfApi()
        api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=out, ignore_patterns=[f"{shards.HIDDEN}/**"])
    except Exception as error:  # offline, no token, no right to write, no such owner
        raise TacitError(
            f"cannot upload to {repo} ({type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}): run "
            f"`hf auth login`, check the name and the network (HF_HUB_OFFLINE); the dataset is whole in {out}"
        ) from error


def synthesize(
    expert: str,
    amateur: str,
    instructions: Instructions,
    *,
    out: str | Path,
    alpha: float = 0.01,
    beta: float = 1.0,
    temperature: float = 1.0,
    top_p: float = 1.0,
    contrast_end: bool = True,
    log_ratios: str = "mean",
    seed: int = 0,
    max_new_tokens: int = 256,
    batch_size: int = 128,
    shard_size: int = 512,
    workers: int = 1,
    ray_address: str | None = None,
    expert_revision: str | None = None,
    amateur_revision: str | None = None,
    dtype: str = "float32",
    chat_template: str | None = None,
    push_to_hub: str | None = None,
    instructions_name: str | None = None,
    say: Callable[[str], None] | None = print,
) -> Dataset:
    """Respond to instructions by contrastive decoding and write the result as a dataset; resumes a run that was killed.

    Every token is drawn from softmax((log p_expert - beta log p_amateur) / temperature) over the tokens with
    p_expert >= alpha max p_expert. ``beta`` 0 samples from the expert alone, ``alpha`` 0 leaves the mask off. With
    ``contrast_end`` False the end tokens keep the expert's (masked) probability, at temperature 1 (see ``experts.contrast``).
    Models are folders or hub ids, which may end in ``@revision``. ``instructions`` have the columns ``id`` (unique) and
    ``instruction``.

    Columns of the dataset: ``id``, ``instruction``, ``response``, ``finish_reason`` (eos or length), ``prompt_tokens``,
    ``response_tokens`` (the end token is one), ``mean_log_ratio``: the mean of log p_expert - log p_amateur over those tokens, in
    nats, of the full distributions (null if there is none but the end). ``log_ratios`` "tokens" adds ``tokens`` and ``log_ratios``,
    [tokens] each; "none" leaves the means null and saves reading every text again with both models, about half of the time. The folder (see ``tacit.synthesis.shards``) loads with ``datasets.load_dataset(out)`` as it is, once it is complete. A set
    beyond this machine's memory is better loaded so than taken from the value returned, which is in memory.

    **The same rows.** Interruption changes nothing: a shard is decoded from the start or not at all, always in the same
    batches. Nor do ``workers`` with as many threads each. ``batch_size`` and ``shard_size`` change the shapes that logits are
    computed in, and so their rounding. In float32 on a CPU no row of 1,500 differed between batches of 7, 64 and 128 (micro-teacher
    and micro-base, 24,046 tokens; micro-base with itself, beta 0.5, 53,089); the rounding measured moves the limits between
    tokens by 5e-7 of the noise's range at most, so that one token in two million may differ. In bfloat16 it is one row in eight (24 of
    200, on a CPU), so that both sizes are parameters unless ``dtype`` is float32. Other devices were not measured. Log-ratios are
    equal up to rounding.

    A second run with equal parameters goes on where the first ended, checks every finished shard's SHA-256, and says which it
    makes again. ``workers`` and ``say`` may differ then, in float32 ``batch_size`` too; the folder's own ``shard_size`` stays. Versions,
    tacit's source and the device are noted with each shard and on the card; a run that goes on with others says which. The card's
    front matter (the licence) stays when a shard is made again. It names the instructions ``instructions_name``. A model of the hub
    is loaded at the commit that was noted, also if its branch moves meanwhile. ``workers`` above 1 need Ray
    (``pip install 'ray[data]'``): each loads the pair and makes whole shards; on a cluster (``ray_address``) ``out``, local models and this package must be on a
    shared file system. ``push_to_hub`` names a dataset to upload to at the end. ``say`` gets progress, a line every few seconds.

    Raises TacitError for parameters out of range, ``ray_address`` without ``workers`` above 1, a pair that cannot be decoded
    together, prompts that exceed a context, and a folder that cannot be written, holds something else, or was made with other
    parameters, of which it names one.
    """
    _check_options(alpha=alpha, beta=beta, temperature=temperature, top_p=top_p)
    _check_options(max_new_tokens=max_new_tokens, batch_size=batch_size, shard_size=shard_size, workers=workers)
    if log_ratios not in ("none", "mean", "tokens"):
        raise TacitError(f"log_ratios must be none, mean or tokens; it is {log_ratios!r}")
    if ray_address is not None and workers == 1:
        raise TacitError(
            f"ray_address ({ray_address}) needs workers above 1, and workers is 1, which makes no use of Ray: give --workers or leave "
            "--ray-address out"
        )
    say, out, rows = say or (lambda text: None), Path(out).absolute(), read_rows(instructions)
    names = {"expert": split_revision(expert), "amateur": split_revision(amateur)}
    models = {role: name for role, (name, _) in names.items()}
    given = {"expert": expert_revision, "amateur": amateur_revision}
    weights = {}
    for role, (name, revision) in names.items():
        weights[role], models[f"{role}_revision"] = _weights(name, given[role] or revision)
    models |= {"dtype": dtype, "chat_template": chat_template}
    tokenizer = load_tokenizer(models["expert"], revision=models["expert_revision"], chat_template=chat_template)
    sampling = {
        "temperature": float(temperature),
        "top_p": float(top_p),
        "seed": seed,
        "max_new_tokens": max_new_tokens,
    }
    rule = {
        "alpha": float(alpha),
        "beta": float(beta),
        "contrast_end": contrast_end,
        "log_ratios": log_ratios,
        **sampling,
    }
    parameters = {
        **weights,
        **rule,
        "dtype": dtype,
        "chat_template": tokenizer.chat_template,
        "tokenizer": tokenizer_key(tokenizer),
        "instructions": fingerprint(rows),
    }
    if dtype != "float32":  # then shapes change texts
        parameters |= {"batch_size": batch_size, "shard_size": shard_size}
    made_with = environment()
    run = fingerprint(parameters)
    with shards.hold(out):
        size = shards.settle(out, parameters, shard_size=shard_size, card=UNFINISHED, made_with=made_with)
        if size != shard_size:
            say(f"{out} has {size} rows per shard, which stay (shard_size {shard_size} is ignored)")
        keys = shards.row_keys(rows, size=size)
        parts = [rows[start : start + size] for start in range(0, len(rows), size)]
        faults = shards.find_faults(out, rows=keys, run=run)
        for index, fault in faults.items():
            if fault:
                say(f"{shards.shard_name(index, len(keys))} {fault}: it is made again")
        if faults:
            kept = shards.environments(out, [index for index in range(len(keys)) if index not in faults])
            # who starts workers decodes nothing, so that its device says nothing
            ours = made_with if workers == 1 else {k: v for k, v in made_with.items() if k != "device"}
            for differences in other_environments(kept, ours):
                say(f"{out} has shards of another environment, which stay, and rows may differ by it: {differences}")
            todo = {index: parts[index] for index in faults}
            _check_lengths(tokenizer, list(chain(*todo.values())), max_new_tokens=max_new_tokens, models=models)
            shards.cover(out, UNFINISHED)
            shards.reopen(out)
            tick = progress(say, total=sum(map(len, todo.values())))
            write = partial(write_rows, out, keys=keys, run=run)
            options = {"models": models, "batch_size": batch_size, **rule}
            if workers == 1:
                decode = make_decoder(**options, on_batch=tick)
                for index, part in todo.items():
                    write(index, decode(part))
            else:
                from tacit.synthesis.workers import decode_in_parallel

                cluster = {"workers": workers, "address": ray_address}
                decode_in_parallel(todo, write, options, **cluster, out=out, n=len(keys), tick=tick)
            left = shards.find_faults(out, rows=keys, run=run)
            for index, fault in left.items():
                raise TacitError(
                    f"{shards.shard_name(index, len(keys))} {fault or 'is missing'}, although it was just written"
                )
        shards.show(out)
        found = Dataset(pa.concat_tables([pq.read_table(path) for path in shards.shard_files(out, len(keys))]))
        made = shards.environments(out, range(len(keys)))
        shards.note_environments(out, made)
        card = out / "README.md"
        if not card.exists() or card.read_bytes() == UNFINISHED.encode():
            called = {
                role: Path(locate(name)).name if model_folder(name) else name for role, (name, _) in names.items()
            }
            facts = {"names": called, "parameters": parameters, "made_with": made}
            facts |= {"instructions": instructions_name or "given in Python", "old": (old := shards.covered(out))}
            shards.uncover(out, text := dataset_card(found, **facts))
            if old not in (None, text):
                say(
                    f"the card is made anew with the front matter of the old one, which is in {out / shards.HIDDEN / 'card.md'}"
                )
        say(f"{len(found)} rows are in {out}")
    if push_to_hub:
        push(out, push_to_hub)
        say(f"uploaded to https://huggingface.co/datasets/{push_to_hub}: fill in its licence")
    return found
