"""A checkpoint finetuned into another: in one process, or in several that accelerate launched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset

from tacit.models.loading import load_model, load_tokenizer, split_revision, without_progress_bars
from tacit.support import provenance
from tacit.support.errors import TacitError
from tacit.support.files import write_json
from tacit.training.finetuning import finetune


def tune_checkpoint(
    model: str,
    examples: Dataset,
    *,
    out: str | Path,
    epochs: int,
    learning_rate: float,
    seed: int,
    batch_size: int,
    dtype: str = "float32",
    chat_template: str | None = None,
    examples_name: str = "rows given in Python",
    say: Callable[[str], None] | None = None,
    **settings,
) -> Path:
    """Finetune the checkpoint ``model`` (a folder, or a hub id with an optional @revision) on ``examples`` and save it in ``out``.

    ``settings`` are ``finetune``'s others. ``out`` gets safetensors in ``dtype``, the tokenizer with its chat template, and
    ``finetuning.json``: the settings, each epoch's loss, what it was made with. Under ``accelerate launch`` every process calls this with
    the same arguments; the main one writes, beside ``out``, and renames when all is there, so that a killed run leaves no half of a model.
    There is no resuming within a run.

    Raises TacitError when ``out`` exists, and as ``load_model`` and ``finetune`` do. Returns ``out``.
    """
    out = Path(out)
    if out.exists():
        raise TacitError(f"{out} exists already: choose another folder for the tuned model, or remove it")
    cpu = not torch.cuda.is_available()
    state = PartialState(cpu=cpu)
    say = say if say is not None and state.is_main_process else lambda text: None
    name, revision = split_revision(model)
    tokenizer = load_tokenizer(name, revision=revision, chat_template=chat_template)
    loaded = load_model(name, revision=revision, dtype=dtype, device=str(state.device))
    held, cached = loaded.dtype, loaded.config.use_cache
    say(f"{len(examples):,} examples, {epochs} epochs, batches of {batch_size} on {state.num_processes} process(es)")
    options = {"epochs": epochs, "learning_rate": learning_rate, "seed": seed, "batch_size": batch_size, **settings}
    tuned, history = finetune(loaded, tokenizer, examples, **options)
    for row in history:
        say(f"epoch {row['epoch']}: loss {row['loss']:.4f} nats per token")
    if state.is_main_process:
        tuned.config.use_cache = cached  # the Trainer turns it off
        partial = out.with_name(out.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        with without_progress_bars():
            tuned.to(held).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        record = {"base": model, "examples": examples_name, "rows": len(examples), "dtype": dtype, **options}
        record |= {"processes": state.num_processes, "history": history}
        record |= {"commit": provenance.commit(), "packages": provenance.packages(), "device": provenance.device_name()}
        write_json(partial / "finetuning.json", record)
        partial.rename(out)
    state.wait_for_everyone()
    return out
