"""CoDIT's synthesis: instructions in, a dataset of responses decoded from the contrast of two models out.

A run is made in shards (``tacit.synthesis.shards``), which a killed run leaves intact, and Ray Data may spread them
over workers (``tacit.synthesis.workers``). Nothing is filtered or judged.

**The same rows.** Every row's noise is keyed by (seed, row id, step), and a shard is decoded from its start or not at
all, always in the same batches. Interruption therefore changes nothing, nor do workers with as many threads each.
``batch_size`` and ``shard_size`` change the shapes that logits are computed in, and so their rounding. In float32 on a
CPU no row of 1,500 differed between batches of 7, 64 and 128; the rounding measured would change one token in two
million. In bfloat16 one row in eight differed (24 of 200, on a CPU), so that both sizes are parameters unless ``dtype``
is float32. Other devices were not measured. Log-ratios are equal up to rounding.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from inspect import Parameter, signature
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from huggingface_hub import HfApi
from transformers import PreTrainedTokenizerBase

from tacit.models.chat import encode_prompt, render_prompt
from tacit.models.identity import tokenizer_key, weights_key
from tacit.models.limits import check_rows
from tacit.models.loading import load_config, load_tokenizer, locate, model_folder, split_revision
from tacit.support.errors import TacitError, first_line
from tacit.support.files import check_room
from tacit.support.keyed import fingerprint
from tacit.synthesis.cards import UNFINISHED, dataset_card
from tacit.synthesis.decoder import Decoder
from tacit.synthesis.rows import Instructions, Row, environment, read_rows, write_rows
from tacit.synthesis.settings import Settings
from tacit.synthesis.shards import HIDDEN, Shards, cover, covered, hold, note_environments, row_keys, settle, uncover
from tacit.synthesis.workers import decode_in_parallel

Say = Callable[[str], None]


def other_environments(noted: Iterable[Mapping[str, str]], ours: Mapping[str, str]) -> Iterator[str]:
    """How each of the ``noted`` environments differs from ``ours`` (in what ours has), in words, where it does."""
    for one in noted:
        differ = [(name, one.get(name, "unknown"), value) for name, value in ours.items() if one.get(name) != value]
        if differ:
            yield ", ".join(f"{name} {theirs:.40} then, {value:.40} now" for name, theirs, value in differ)


def progress(say: Say, *, total: int, every: float = 5.0) -> Callable[[int, int], None]:
    """A function that is called with the rows and response tokens just made, and now and then says how far the run is.

    Tokens per second are of responses, the end token included: no padding and nothing after the end.
    """
    start = last = time.monotonic()
    rows = tokens = 0

    def tick(more_rows: int, more_tokens: int) -> None:
        nonlocal last, rows, tokens
        rows, tokens = rows + more_rows, tokens + more_tokens
        now = time.monotonic()
        if now - last >= every or rows == total:
            last = now
            left = (now - start) / rows * (total - rows)
            speed = tokens / max(now - start, 1e-9)
            say(f"{rows}/{total} rows, {speed:.0f} tokens/s, {left / 60:.0f} min {left % 60:.0f} s left")

    return tick


def prepare(
    pair: Mapping[str, tuple[str, str | None]], rows: Sequence[Row], settings: Settings
) -> tuple[dict[str, Any], dict[str, Any], PreTrainedTokenizerBase]:
    """The parameters that identify a run, the options of ``load_pair`` for its models, and the expert's tokenizer.

    ``pair`` is role -> (model as given, revision as given or None). A local model is identified by its folder's hash;
    one of the hub by its id and commit, at which it is then loaded. Raises TacitError for a model or tokenizer that
    is not there.
    """
    weights: dict[str, str] = {}
    models: dict[str, Any] = {"dtype": settings.dtype, "chat_template": settings.chat_template}
    for role, (model, given) in pair.items():
        name, revision = split_revision(model)
        revision = given or revision
        try:
            key = weights_key(name, revision)
        except (OSError, ValueError) as error:
            raise TacitError(f"cannot load {name}: {first_line(error)}") from error
        local = "weights" in key
        weights[role] = key["weights"] if local else f"{key['name']}@{key['commit']}"
        models |= {role: locate(name), f"{role}_revision": revision if local else key["commit"]}
    options = {"revision": models["expert_revision"], "chat_template": settings.chat_template}
    tokenizer = load_tokenizer(models["expert"], **options)
    prompts = fingerprint([render_prompt(tokenizer, text) for _, text in rows])
    hashes = {"tokenizer": tokenizer_key(tokenizer), "instructions": fingerprint(rows), "prompts": prompts}
    return settings.identity(weights, chat_template=tokenizer.chat_template, **hashes), models, tokenizer


def plan(
    out: Path, rows: Sequence[Row], *, parameters: dict[str, Any], shard_size: int, say: Say
) -> tuple[Shards, dict[int, Sequence[Row]]]:
    """The shards of an open folder, and the rows of those that are still to be made; says which are made again."""
    size = settle(out, parameters, shard_size=shard_size, card=UNFINISHED, made_with=environment())
    if size != shard_size:
        say(f"{out} has {size} rows per shard, which stay (shard_size {shard_size} is ignored)")
    shards = Shards(out, row_keys(rows, size=size), fingerprint(parameters))
    faults = shards.faults()
    for index, fault in faults.items():
        if fault:
            say(f"{shards.name(index)} {fault}: it is made again")
    return shards, {index: rows[index * size : (index + 1) * size] for index in faults}


def check_prompts(
    tokenizer: PreTrainedTokenizerBase, rows: Sequence[Row], *, out: Path, settings: Settings, models: Mapping[str, Any]
) -> None:
    """Raise TacitError, before weights are loaded, for a prompt that a model cannot take, and for a disk without room.

    A prompt needs ids within each model's embedding, and room for ``max_new_tokens`` in its context. The rows are
    taken to need 12 bytes for each token of the longest responses.
    """
    names, prompts = [name for name, _ in rows], [encode_prompt(tokenizer, text) for _, text in rows]
    for role in ("expert", "amateur"):
        config = load_config(models[role], revision=models[f"{role}_revision"])
        new = settings.max_new_tokens
        check_rows(tokenizer, prompts, names=names, config=config, new_tokens=new, role=role)
    check_room(out, n_bytes=12 * settings.max_new_tokens * len(rows))


def make_shards(
    todo: Mapping[int, Sequence[Row]], *, shards: Shards, settings: Settings, models: Mapping[str, Any], say: Say
) -> None:
    """Decode and write the shards ``todo`` (index -> rows) in an open folder.

    Says where intact shards are of another environment. Raises TacitError where a shard that was just written is not
    whole.
    """
    intact = [index for index in range(len(shards.keys)) if index not in todo]
    ours = environment()
    if settings.workers > 1:  # the process that starts the workers does not decode
        del ours["device"]
    for differences in other_environments(shards.environments(intact), ours):
        say(f"{shards.out} has shards of another environment, which stay, and rows may differ by it: {differences}")
    cover(shards.out, UNFINISHED)
    shards.reopen()
    tick = progress(say, total=sum(map(len, todo.values())))
    if settings.workers == 1:
        decode = Decoder(models, settings, on_batch=tick)
        for index, rows in todo.items():
            write_rows(shards, index, decode(rows))
    else:
        decode_in_parallel(todo, models=models, settings=settings, shards=shards, tick=tick)
    for index, fault in shards.faults().items():
        raise TacitError(f"{shards.name(index)} {fault or 'is missing'}, although it was just written")


def finish(
    shards: Shards, *, parameters: Mapping[str, Any], models: Mapping[str, Any], instructions: str, say: Say
) -> Dataset:
    """Show a whole dataset, write its card unless a finished one is there, and return its rows."""
    shards.show()
    dataset = Dataset(pa.concat_tables([pq.read_table(path) for path in shards.files()]))
    made_with = shards.environments(range(len(shards.keys)))
    note_environments(shards.out, made_with)
    card = shards.out / "README.md"
    if not card.exists() or card.read_bytes() == UNFINISHED.encode():
        places = {role: models[role] for role in ("expert", "amateur")}
        names = {role: Path(locate(name)).name if model_folder(name) else name for role, name in places.items()}
        facts = {"names": names, "parameters": parameters, "made_with": made_with, "instructions": instructions}
        old = covered(shards.out)
        text = dataset_card(dataset, **facts, old=old)
        uncover(shards.out, text)
        if old not in (None, text):
            place = shards.out / HIDDEN / "card.md"
            say(f"the card is made anew with the front matter of the old one, which is in {place}")
    say(f"{len(dataset)} rows are in {shards.out}")
    return dataset


def push(out: Path, repo: str) -> None:
    """Upload a finished folder as the hub's dataset ``repo``, private if it is new. Raises TacitError if that fails."""
    try:
        api = HfApi()
        api.create_repo(repo, repo_type="dataset", private=True, exist_ok=True)
        api.upload_folder(repo_id=repo, repo_type="dataset", folder_path=out, ignore_patterns=[f"{HIDDEN}/**"])
    except Exception as error:  # offline, no token, no right to write, no such owner
        raise TacitError(
            f"cannot upload to {repo} ({type(error).__name__}: {first_line(error)}): run `hf auth login`, check the "
            f"name and the network (HF_HUB_OFFLINE); the dataset is whole in {out}"
        ) from error


def synthesize(
    expert: str,
    amateur: str,
    instructions: Instructions,
    *,
    out: str | Path,
    expert_revision: str | None = None,
    amateur_revision: str | None = None,
    instructions_name: str | None = None,
    say: Say | None = print,
    **options: Any,
) -> Dataset:
    """Respond to instructions by contrastive decoding and write the result as a dataset; resumes a run that was killed.

    Every token is drawn from softmax((log p_expert - beta log p_amateur) / temperature) over the tokens with p_expert
    >= alpha max p_expert (CoDIT, Ichinose et al. 2026). Models are folders or hub ids, which may end in
    ``@revision``; ``instructions`` have the columns ``id`` (unique) and ``instruction``, and the card calls them
    ``instructions_name``. ``options`` are those of ``synthesis.settings.Settings``. ``say`` gets progress, a line
    every few seconds.

    Returns the dataset (columns: ``synthesis.rows``), in memory; a larger one loads from the finished folder with
    ``datasets.load_dataset(out)``. ``log_ratios`` "none" saves a second reading of every text, about half of the time.

    A second run with equal parameters goes on where the first ended, checks every finished shard's SHA-256, and says
    which it makes again. Options that are no part of its identity (``Settings``) may differ then; the folder's own
    ``shard_size`` stays. Versions, tacit's source and the device are noted with each shard and on the card.

    Raises TacitError for options out of range, a pair that cannot be decoded together, prompts that exceed a context,
    and a folder that cannot be written, holds something else, or was made with other parameters, of which it names
    one.
    """
    settings = Settings(**options)
    say, out, rows = say or (lambda text: None), Path(out).absolute(), read_rows(instructions)
    pair = {"expert": (expert, expert_revision), "amateur": (amateur, amateur_revision)}
    parameters, models, tokenizer = prepare(pair, rows, settings)
    with hold(out):
        shards, todo = plan(out, rows, parameters=parameters, shard_size=settings.shard_size, say=say)
        if todo:
            asked = [*chain.from_iterable(todo.values())]
            check_prompts(tokenizer, asked, out=out, settings=settings, models=models)
            make_shards(todo, shards=shards, settings=settings, models=models, say=say)
        named = instructions_name or "given in Python"
        dataset = finish(shards, parameters=parameters, models=models, instructions=named, say=say)
    if settings.push_to_hub:
        push(out, settings.push_to_hub)
        say(f"uploaded to https://huggingface.co/datasets/{settings.push_to_hub}: fill in its licence")
    return dataset


# What help() and a notebook's completion show: the options by their names.
_named = [p for p in signature(synthesize).parameters.values() if p.kind is not Parameter.VAR_KEYWORD]
synthesize.__signature__ = signature(synthesize).replace(parameters=[*_named, *signature(Settings).parameters.values()])
