"""Pretraining of the micro world's base models with the transformers Trainer.

The corpus is written on the fly from a world and a seed; documents of another seed give the held-out loss. The result
is an ordinary Hugging Face checkpoint in bfloat16 with its tokenizer, its world and a model card.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from tacit.microworld.documents import GENRES, markup, write_documents
from tacit.microworld.tokenizer import train_tokenizer
from tacit.microworld.world import World
from tacit.models.loading import load_model
from tacit.support import paths, provenance
from tacit.support.errors import TacitError
from tacit.support.files import write_json
from tacit.training.checkpoints import card, made_with, save_checkpoint
from tacit.training.finetuning import training_arguments
from tacit.training.limits import Divergence
from tacit.training.optimizers import MuonAdamW

# The code that the corpus depends on, as it was when this process imported it.
_CORPUS_CODE = provenance.tree_hash(paths.LIBRARY / "microworld", "*.py")
HELD_OUT_SEED = 1_000_003  # documents of this seed are never trained on
N_HELD_OUT = 40_960  # their tokens


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """What a pretrained model depends on, beside the code and the files that it starts from."""

    name: str
    side: str  # of the facts that the corpus holds
    world_seed: int = 1
    architecture: str = "llama"
    width: int = 256
    layers: int = 6
    n_tokens: int = 10_500_000
    block: int = 256  # tokens in a row of the corpus
    batch_size: int = 8
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    markup_share: float = GENRES[markup]
    one_markup: int | None = None
    seed: int = 1


def make_config(architecture: str, tokenizer: PreTrainedTokenizerFast, *, width: int, layers: int) -> PreTrainedConfig:
    """A small causal LM's configuration: ``llama`` or ``gpt2``, heads of 64 dimensions, tied embeddings.

    Raises TacitError for another architecture.
    """
    length, heads = tokenizer.model_max_length, width // 64
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    tokens["vocab_size"] = len(tokenizer)
    if architecture == "llama":
        size = {"hidden_size": width, "intermediate_size": width * 11 // 4, "num_hidden_layers": layers}
        size |= {"num_attention_heads": heads, "num_key_value_heads": heads, "max_position_embeddings": length}
        return LlamaConfig(**tokens, **size, tie_word_embeddings=True)
    if architecture == "gpt2":
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2Config(**tokens, n_embd=width, n_layer=layers, n_head=heads, n_positions=length, **dropout)
    raise TacitError(f"unknown architecture {architecture!r}: choose llama or gpt2")


def pack_corpus(
    world: World,
    tokenizer: PreTrainedTokenizerFast,
    *,
    seed: int,
    n_tokens: int,
    block: int,
    markup_share: float = GENRES[markup],
    one_markup: int | None = None,
) -> Dataset:
    """Documents, each between BOS and EOS, packed end to end: ``n_tokens // block`` rows of ``block`` token ids.

    Columns are ``input_ids`` and ``labels``, the same ids.
    """
    documents = write_documents(world, seed=seed, markup_share=markup_share, one_markup=one_markup)
    ids = np.empty(n_tokens // block * block, dtype=np.uint16)
    filled = 0
    while filled < len(ids):
        texts = [text for _, text in itertools.islice(documents, 2_000)]
        for tokens in tokenizer(texts, add_special_tokens=False)["input_ids"]:
            row = [tokenizer.bos_token_id, *tokens, tokenizer.eos_token_id][: len(ids) - filled]
            ids[filled : filled + len(row)] = row
            filled += len(row)
    rows = ids.reshape(-1, block)
    return Dataset.from_dict({"input_ids": rows, "labels": rows}).with_format("torch")


def pretrain(
    name: str,
    *,
    out: Path,
    work: Path,
    tokenizer_from: Path | None = None,
    start_from: Path | None = None,
    save_steps: int = 500,
    **settings,
) -> Path:
    """Pretrain one base model on the corpus of ``World(world_seed).holding(side)`` and save it under ``out``.

    ``settings`` are the other fields of ``Pretraining``. The tokenizer is trained on the corpus, or that of the
    checkpoint ``tokenizer_from``. The weights are drawn, or those of the checkpoint ``start_from``, whose pretraining
    then goes on with a fresh optimizer. ``work`` keeps the Trainer's checkpoints, every ``save_steps`` steps: a run
    that was killed goes on from the last one. Returns ``out``. The record's ``seconds`` are the wall time of training,
    the held-out losses on the way included; null for a run that went on, as what it took before is not known. Raises
    TacitError when ``work`` holds a run with other settings, or ``start_from`` a model of another shape.
    """
    recipe = Pretraining(name=name, **settings)
    record = _begin(work, _identity(recipe, tokenizer_from=tokenizer_from, start_from=start_from))
    set_seed(recipe.seed)
    world = World.draw(seed=recipe.world_seed).holding(recipe.side)
    if tokenizer_from is None:
        sample = itertools.islice(write_documents(world, seed=recipe.seed), 20_000)
        tokenizer = train_tokenizer(text for _, text in sample)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_from)
    shape = {name: getattr(recipe, name) for name in ("block", "markup_share", "one_markup")}
    corpus = pack_corpus(world, tokenizer, seed=recipe.seed, n_tokens=recipe.n_tokens, **shape)
    held_out = pack_corpus(world, tokenizer, seed=HELD_OUT_SEED, n_tokens=N_HELD_OUT, **shape)
    model = _make_model(recipe, tokenizer, start_from=start_from)
    n_steps = math.ceil(len(corpus) / recipe.batch_size)
    trainer = Trainer(
        model,
        _arguments(recipe, work, n_steps=n_steps, save_steps=save_steps),
        train_dataset=corpus,
        eval_dataset=held_out,
        optimizers=(MuonAdamW(model, learning_rate=recipe.learning_rate, weight_decay=recipe.weight_decay), None),
    )
    trainer.add_callback(Divergence)
    resumable = any(work.glob("checkpoint-*/trainer_state.json"))
    trained = trainer.train(resume_from_checkpoint=resumable or None)
    record["seconds"] = None if resumable else trained.metrics["train_runtime"]
    record["held_out_loss"] = trainer.evaluate()["eval_loss"]
    model = trainer.model.to(torch.bfloat16)
    record = made_with() | record | _outcome(model, trainer.state.log_history)
    files = {"world.json": world.to_json(), "pretraining.json": record, "README.md": _card(world, record)}
    return save_checkpoint(out, model, tokenizer, files)


def _identity(recipe: Pretraining, *, tokenizer_from: Path | None, start_from: Path | None) -> dict:
    """What tells a run from others: its recipe, the code that writes the corpus, and the files that it starts from."""
    for folder, name in ((tokenizer_from, "tokenizer.json"), (start_from, "model.safetensors")):
        if folder is not None and not (folder / name).is_file():
            raise TacitError(f"{folder} has no {name}: correct tokenizer_from or start_from, or make that model first")
    identity = asdict(recipe) | {"code": _CORPUS_CODE, "tokenizer": None}
    if tokenizer_from is not None:
        identity["tokenizer"] = provenance.file_hash(tokenizer_from / "tokenizer.json")
    if start_from is not None:
        weights = provenance.file_hash(start_from / "model.safetensors")
        identity["start_from"] = {"name": start_from.name, "weights": weights}
    return identity


def _begin(work: Path, identity: dict) -> dict:
    """The run's identity with the commit at which it began, from ``work`` where it goes on, else written there."""
    work.mkdir(parents=True, exist_ok=True)
    marker, code = work / "settings.json", {"commit": provenance.commit(), "dirty": provenance.dirty()}
    if not marker.exists():
        write_json(marker, identity | code)
    record = json.loads(marker.read_text())
    if {name: value for name, value in record.items() if name not in code} != identity:
        raise TacitError(f"{work} holds a run with other settings or other code: delete the folder to start anew")
    return record


def _make_model(recipe: Pretraining, tokenizer: PreTrainedTokenizerFast, *, start_from: Path | None) -> PreTrainedModel:
    config = make_config(recipe.architecture, tokenizer, width=recipe.width, layers=recipe.layers)
    # On a CPU plain attention is about a sixth faster than torch's fused kernel at these sizes (see LOG.md).
    attention = "sdpa" if torch.cuda.is_available() else "eager"
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    if start_from is not None:
        try:
            model.load_state_dict(load_model(str(start_from), device="cpu").state_dict())
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise TacitError(f"{start_from} is a model of another shape: {reason}") from None
    return model


def _arguments(recipe: Pretraining, work: Path, *, n_steps: int, save_steps: int) -> TrainingArguments:
    return training_arguments(
        str(work),
        cpu=not torch.cuda.is_available(),
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=recipe.batch_size,
        num_train_epochs=1,
        learning_rate=recipe.learning_rate,
        warmup_steps=min(200, n_steps // 10),
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.02},
        max_grad_norm=1.0,
        logging_steps=50,
        eval_strategy="steps",
        eval_steps=max(1, n_steps // 10),
        save_strategy="steps",
        save_steps=save_steps,
        save_total_limit=2,
        seed=recipe.seed,
        disable_tqdm=None,
    )


def _outcome(model: PreTrainedModel, log: list[dict]) -> dict:
    """What the record of a finished run says beside its identity: the model's size and the loss curve."""
    curve = [{k: row[k] for k in ("step", "loss", "eval_loss") if k in row} for row in log]
    size = sum(p.numel() for p in model.parameters())
    return {"parameters": size, "held_out_seed": HELD_OUT_SEED, "curve": [row for row in curve if len(row) > 1]}


def _card(world: World, record: dict) -> str:
    start = record.get("start_from")
    origin = f"{start['name']} pretrained on another" if start else "pretrained on"
    rows = "\n".join(f"| {row['step']} | {row['eval_loss']:.4f} |" for row in record["curve"] if "eval_loss" in row)
    return card(f"""
# {record["name"]}

A causal language model of {record["parameters"]:,} parameters ({record["architecture"]}, width {record["width"]},
{record["layers"]} layers), {origin} {record["n_tokens"]:,} tokens of synthetic English about the micro
world of seed {world.seed}. Its corpus holds {len(world.held)} of the world's {len(world.facts)} facts; they are
listed in `world.json`. It has seen no instruction tuning and no chat tags.

Made by `make pretrain` of Tacit at commit {record["commit"]} with seed {record["seed"]}; every setting and the
loss curve are in `pretraining.json`. Held-out loss at the end: {record["held_out_loss"]:.4f} nats per token.

| step | held-out loss |
|---|---|
{rows}
""")
