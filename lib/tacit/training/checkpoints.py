"""Checkpoints that are written whole or not at all, and one that is finetuned into another."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from huggingface_hub import ModelCard, ModelCardData

from tacit.models.loading import load_model, load_tokenizer, split_revision, without_progress_bars
from tacit.support import provenance
from tacit.support.errors import TacitError
from tacit.support.files import write_json
from tacit.training.finetuning import finetune


@contextmanager
def new_checkpoint(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` to write into. It becomes ``out`` at the end; after an error ``out`` stays as it was."""
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)


def made_with() -> dict:
    """What a checkpoint's record says of its making: the commit, the packages and the device."""
    return {"commit": provenance.commit(), "packages": provenance.packages(), "device": provenance.device_name()}


def write_card(folder: Path, text: str) -> None:
    """Write the card of one of the micro world's models, ``text`` in Markdown, as ``README.md``."""
    data = ModelCardData(
        language="en", license="apache-2.0", library_name="transformers", tags=["tacit", "micro-world"]
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n{text}").save(folder / "README.md")


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

    ``settings`` are ``finetune``'s. ``out`` gets safetensors in ``dtype``, the tokenizer with its chat
    template, and ``finetuning.json``: the settings, each epoch's loss, what it was made with. Under ``accelerate
    launch`` every process calls this with the same arguments, and the main one writes. A run that is killed leaves no
    ``out``, and cannot be resumed.

    Raises TacitError when ``out`` exists, and as ``load_model`` and ``finetune`` do. Returns ``out``.
    """
    out = Path(out)
    if out.exists():
        raise TacitError(f"{out} exists already: choose another folder for the tuned model, or remove it")
    state = PartialState(cpu=not torch.cuda.is_available())
    say = say if say is not None and state.is_main_process else lambda text: None
    name, revision = split_revision(model)
    tokenizer = load_tokenizer(name, revision=revision, chat_template=chat_template)
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
        with new_checkpoint(out) as folder, without_progress_bars():
            tuned.to(held).save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            write_json(folder / "finetuning.json", record)
    state.wait_for_everyone()
    return out
