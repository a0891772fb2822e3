"""Pretraining of the micro world's base models with the transformers Trainer.

The corpus is written on the fly from a world and a seed; a held-out part of it, from another seed,
gives the held-out loss. Checkpoints make a killed run resumable; the result is an ordinary Hugging
Face checkpoint in bfloat16 with its tokenizer, its world and a model card.
"""

from __future__ import annotations

import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from huggingface_hub import ModelCard, ModelCardData
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)

from tacit.microworld.documents import GENRES, markup, write_documents
from tacit.microworld.tokenizer import train_tokenizer
from tacit.microworld.world import World
from tacit.models.loading import load_model
from tacit.support import files, paths, provenance
from tacit.support.errors import TacitError

# The code that the corpus depends on, as it was when this process imported it.
_CORPUS_CODE = provenance.tree_hash(paths.LIBRARY / "microworld", "*.py")
HELD_OUT_SEED = 1_000_003  # documents of this seed are never trained on


def make_config(architecture: str, tokenizer: PreTrainedTokenizerFast, *, width: int, layers: int) -> PreTrainedConfig:
    """A small causal LM's configuration: ``llama`` or ``gpt2``, heads of 64 dimensions, tied embeddings.

    Raises TacitError for another architecture.
    """
    tokens = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if architecture == "llama":
        return LlamaConfig(
            **tokens,
            hidden_size=width,
            intermediate_size=width * 11 // 4,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            num_key_value_heads=width // 64,
            max_position_embeddings=tokenizer.model_max_length,
            tie_word_embeddings=True,
        )
    if architecture == "gpt2":
        dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        size = {"n_embd": width, "n_layer": layers, "n_head": width // 64, "n_positions": tokenizer.model_max_length}
        return GPT2Config(**tokens, **size, **dropout)
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
    """Documents, each between BOS and EOS, packed end to end into rows of ``block`` token ids.

    Returns a dataset with columns ``input_ids`` and ``labels`` (the same ids), ``n_tokens // block`` rows.
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
    dataset = Dataset.from_dict({"input_ids": rows, "labels": rows})
    return dataset.with_format("torch")


class MuonAdamW(torch.optim.Optimizer):
    """Muon on the hidden matrices and AdamW on everything else, as one optimizer for the Trainer.

    Both are torch's own; Muon's step is scaled to AdamW's root mean square (``match_rms_adamw``), so
    one schedule serves both. This class only forwards to the two.
    """

    def __init__(self, model: torch.nn.Module, *, learning_rate: float, weight_decay: float):
        embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
        parameters = [p for p in model.parameters() if p.requires_grad]
        hidden = [p for p in parameters if p.ndim == 2 and id(p) not in embeddings]
        hidden_ids = {id(p) for p in hidden}
        others = [p for p in parameters if id(p) not in hidden_ids]
        self.parts = [
            torch.optim.Muon(hidden, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups = [group]  # a scheduler that sets our groups' rates sets theirs

    def step(self, closure=None):
        """One step of both optimizers."""
        for part in self.parts:
            part.step()
        return None if closure is None else closure()

    def state_dict(self) -> dict:
        """The states of both, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore both, keeping the groups that a scheduler sets shared."""
        for part, group, state in zip(self.parts, self.param_groups, state_dict["parts"], strict=True):
            part.load_state_dict(state)
            group.update({k: v for k, v in part.param_groups[0].items() if k != "params"})
            part.param_groups = [group]


def pretrain(
    name: str,
    *,
    out: Path,
    work: Path,
    side: str,
    world_seed: int = 1,
    tokenizer_from: Path | None = None,
    start_from: Path | None = None,
    architecture: str = "llama",
    width: int = 256,
    layers: int = 6,
    n_tokens: int = 10_500_000,
    block: int = 256,
    batch_size: int = 8,
    learning_rate: float = 4e-3,
    weight_decay: float = 0.05,
    markup_share: float = GENRES[markup],
    one_markup: int | None = None,
    seed: int = 1,
    save_steps: int = 500,
) -> Path:
    """Pretrain one base model on the corpus of ``World(world_seed).holding(side)`` and save it under ``out``.

    ``work`` keeps the Trainer's checkpoints: a run killed there resumes from the last one. The
    tokenizer is trained on the corpus, or taken from the checkpoint ``tokenizer_from``. The weights are drawn, or those of
    the checkpoint ``start_from``, whose pretraining then goes on with a fresh optimizer. One pass over
    ``n_tokens`` tokens in batches of ``batch_size`` x ``block``; bf16 autocast; warm-up and cosine decay.
    Returns ``out``. Raises TacitError when ``work`` holds a run with other settings, or ``start_from`` a model of another shape.
    """
    settings = {
        k: v for k, v in locals().items() if k not in ("out", "work", "tokenizer_from", "start_from", "save_steps")
    }
    settings["code"] = _CORPUS_CODE
    settings["tokenizer"] = None if tokenizer_from is None else provenance.file_hash(tokenizer_from / "tokenizer.json")
    if start_from is not None:
        weights = provenance.file_hash(start_from / "model.safetensors")
        settings["start_from"] = {"name": start_from.name, "weights": weights}
    work.mkdir(parents=True, exist_ok=True)
    marker = work / "settings.json"
    start = settings | {"commit": provenance.commit(), "dirty": provenance.dirty()}
    if marker.exists():
        start = json.loads(marker.read_text())
        if {k: v for k, v in start.items() if k not in ("commit", "dirty")} != settings:
            raise TacitError(f"{work} holds a run with other settings or other code: delete the folder to start anew")
    files.write_whole(marker, json.dumps(start))

    set_seed(seed)
    world = World.draw(seed=world_seed).holding(side)
    if tokenizer_from is None:
        sample = itertools.islice(write_documents(world, seed=seed), 20_000)
        tokenizer = train_tokenizer(text for _, text in sample)
    else:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_from)
    shape = {"block": block, "markup_share": markup_share, "one_markup": one_markup}
    corpus = pack_corpus(world, tokenizer, seed=seed, n_tokens=n_tokens, **shape)
    held_out = pack_corpus(world, tokenizer, seed=HELD_OUT_SEED, n_tokens=40_960, **shape)
    config = make_config(architecture, tokenizer, width=width, layers=layers)
    # On a CPU plain attention is about a sixth faster than torch's fused kernel at these sizes (see LOG.md).
    attention = "sdpa" if torch.cuda.is_available() else "eager"
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    if start_from is not None:
        try:
            model.load_state_dict(load_model(str(start_from), device="cpu").state_dict())
        except RuntimeError as error:
            raise TacitError(
                f"{start_from} is a model of another shape: {str(error).splitlines()[-1].strip()}"
            ) from None
    n_steps = math.ceil(len(corpus) / batch_size)
    arguments = TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=batch_size,
        per_device_eval_batch_size=batch_size,
        num_train_epochs=1,
        learning_rate=learning_rate,
        warmup_steps=min(200, n_steps // 10),
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": 0.02},
        max_grad_norm=1.0,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=50,
        eval_strategy="steps",
        eval_steps=max(1, n_steps // 20),
        save_steps=save_steps,
        save_total_limit=2,
        seed=seed,
        report_to=[],
    )
    optimizer = MuonAdamW(model, learning_rate=learning_rate, weight_decay=weight_decay)
    trainer = Trainer(
        model=model, args=arguments, train_dataset=corpus, eval_dataset=held_out, optimizers=(optimizer, None)
    )
    resumable = any(work.glob("checkpoint-*/trainer_state.json"))
    trainer.train(resume_from_checkpoint=True if resumable else None)
    held_out_loss = trainer.evaluate()["eval_loss"]
    save_base_model(
        trainer,
        tokenizer,
        world,
        out=out,
        name=name,
        settings=start,
        held_out_loss=held_out_loss,
    )
    return out


def save_base_model(
    trainer: Trainer,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    *,
    out: Path,
    name: str,
    settings: dict,
    held_out_loss: float,
) -> None:
    """Write a finished base model: bf16 safetensors, tokenizer, ``world.json``, ``pretraining.json`` and a card.

    Written beside ``out`` first and moved into place whole, so that an earlier model stays until then.
    """
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model = trainer.model.to(torch.bfloat16)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    (partial / "world.json").write_text(world.to_json(), encoding="utf-8")
    curve = [{k: r[k] for k in ("step", "loss", "eval_loss") if k in r} for r in trainer.state.log_history]
    curve = [r for r in curve if len(r) > 1]
    n_parameters = sum(p.numel() for p in model.parameters())
    record = settings | {
        "parameters": n_parameters,
        "held_out_loss": held_out_loss,
        "held_out_seed": HELD_OUT_SEED,
        "packages": provenance.packages(),
        "device": provenance.device_name(),
        "curve": curve,
    }
    (partial / "pretraining.json").write_text(json.dumps(record, indent=0))
    rows = "\n".join(f"| {r['step']} | {r['eval_loss']:.4f} |" for r in curve if "eval_loss" in r)
    start = settings.get("start_from")
    origin = f"{start['name']} pretrained on another" if start else "pretrained on"
    text = f"""
# {name}

A causal language model of {n_parameters:,} parameters ({settings["architecture"]}, width {settings["width"]},
{settings["layers"]} layers), {origin} {settings["n_tokens"]:,} tokens of synthetic English about the micro
world of seed {world.seed}. Its corpus holds {len(world.held)} of the world's {len(world.facts)} facts; they are
listed in `world.json`. It has seen no instruction tuning and no chat tags.

Made by `make pretrain` of Tacit at commit {record["commit"]} with seed {settings["seed"]}; every setting and the
loss curve are in `pretraining.json`. Held-out loss at the end: {held_out_loss:.4f} nats per token.

| step | held-out loss |
|---|---|
{rows}
"""
    data = ModelCardData(
        language="en", license="apache-2.0", library_name="transformers", tags=["tacit", "micro-world"]
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n{text}").save(partial / "README.md")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
