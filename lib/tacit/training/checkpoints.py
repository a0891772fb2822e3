"""Checkpoints that are written whole or not at all, and one that is finetuned into another."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from huggingface_hub import ModelCardData
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.models.chat import encode_prompt
from tacit.models.limits import check_rows
from tacit.models.loading import (
    DTYPES,
    load_config,
    load_model,
    load_tokenizer,
    locate,
    split_revision,
    without_progress_bars,
)
from tacit.models.memory import count_parameters
from tacit.support import provenance
from tacit.support.errors import TacitError, first_line
from tacit.support.files import check_room, write_json, write_whole
from tacit.training.finetuning import finetune
from tacit.training.limits import check_dtype, check_settings


def made_with() -> dict[str, Any]:
    """What a checkpoint's record says of its making: the commit, the packages and the device."""
    return {"commit": provenance.commit(), "packages": provenance.packages(), "device": provenance.device_name()}


def card(text: str) -> str:
    """The card of one of the micro world's models, with ``text`` in Markdown as its body."""
    tags = ["tacit", "micro-world"]
    data = ModelCardData(language="en", license="apache-2.0", library_name="transformers", tags=tags)
    return f"---\n{data.to_yaml()}\n---\n{text}"


def save_checkpoint(
    out: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    files: dict[str, Any],
    *,
    replace: bool = True,
) -> Path:
    """Write ``model`` in its dtype, its tokenizer, and ``files``: by name a text, or a JSON value. Returns ``out``.

    All is written beside ``out`` and takes its place at the end. After an error ``out`` stays as it was. Without
    ``replace``, an ``out`` that is there by then is an error too: a TacitError that says where the model lies.
    """
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    with without_progress_bars():
        model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    for name, content in files.items():
        (write_whole if isinstance(content, str) else write_json)(partial / name, content)
    if out.exists() and not replace:
        raise TacitError(f"{out} was made by something else meanwhile; the tuned model is in {partial}")
    shutil.rmtree(out, ignore_errors=True)
    return partial.rename(out)


def _foresee(source: str, revision: str | None, tokenizer: PreTrainedTokenizerBase, *, out: Path, dtype: str) -> None:
    """Raise TacitError, before weights are loaded, for what would end a finetuning: dtype, ids beyond the embedding,
    a disk without room for the tuned model.
    """
    config = load_config(source, revision=revision)
    held = DTYPES.get(dtype, "auto")
    held = (config.dtype or torch.float32) if held == "auto" else held
    check_dtype([held])
    check_rows(tokenizer, [encode_prompt(tokenizer, "?")], names=["?"], config=config)
    try:
        n_parameters = count_parameters(config)
    except ValueError as error:
        raise TacitError(f"{source} is no causal language model: {first_line(error)}") from None
    check_room(out, n_bytes=n_parameters * held.itemsize)


def tune_checkpoint(
    model: str,
    examples: Dataset,
    *,
    out: str | Path,
    dtype: str = "float32",
    chat_template: str | None = None,
    examples_name: str = "rows given in Python",
    say: Callable[[str], None] | None = None,
    **settings,
) -> Path:
    """Finetune ``model`` (a folder, or a hub id with an optional @revision) on ``examples`` and save it in ``out``.

    ``settings`` are ``finetune``'s. ``finetuning.json`` holds them and each epoch's loss. Under ``accelerate launch``
    every process calls this with the same arguments, and the main one writes. A killed run leaves no ``out``, and
    cannot be resumed. Returns ``out``. Raises TacitError when it exists, and as ``load_model`` and ``finetune`` do.
    """
    out = Path(out)
    check_settings(**settings)
    check_room(out)
    if out.exists():
        raise TacitError(f"{out} exists already: choose another folder for the tuned model, or remove it")
    state = PartialState(cpu=not torch.cuda.is_available())
    say = say if say is not None and state.is_main_process else lambda text: None
    name, revision = split_revision(model)
    tokenizer = load_tokenizer(name, revision=revision, chat_template=chat_template)
    _foresee(locate(name), revision, tokenizer, out=out, dtype=dtype)
    loaded = load_model(name, revision=revision, dtype=dtype, device=str(state.device))
    held, cached = loaded.dtype, loaded.config.use_cache
    say(f"{len(examples):,} examples on {state.num_processes} process(es)")
    tuned, history = finetune(loaded, tokenizer, examples, **settings)
    for row in history:
        say(f"epoch {row['epoch']}: loss {row['loss']:.4f} nats per token")
    if state.is_main_process:
        tuned.config.use_cache = cached  # the Trainer turns it off
        record = {"base": model, "examples": examples_name, "rows": len(examples), "dtype": dtype, **settings}
        record |= {"processes": state.num_processes, "history": history} | made_with()
        save_checkpoint(out, tuned.to(held), tokenizer, {"finetuning.json": record}, replace=False)
    state.wait_for_everyone()
    return out
