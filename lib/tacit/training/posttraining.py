"""The micro teacher: a base model post-trained on response constraints, stopped at partial competence.

Contrastive decoding amplifies what post-training has taught, so the teacher's must teach something that its base lacks and does
not yet do always. Its base has never seen a response constraint.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from huggingface_hub import ModelCard, ModelCardData

from tacit.decoding.generation import generate_responses
from tacit.microworld.examples import draw_examples, score_responses
from tacit.microworld.world import read_world
from tacit.models.loading import load_model, load_tokenizer, model_folder
from tacit.support import provenance
from tacit.support.errors import TacitError
from tacit.support.files import write_json
from tacit.training.finetuning import finetune


def post_train(
    *,
    base: str,
    out: Path,
    families: Sequence[str],
    constraints: Sequence[str],
    sizes: Sequence[int],
    least: float,
    most: float,
    n_validation: int,
    epochs: int,
    learning_rate: float,
    batch_size: int,
    max_new_tokens: int,
    seed: int,
) -> Path:
    """Finetune ``base`` on right answers to constrained tasks and save it under ``out`` with its tokenizer and world.

    Of the training set ``sizes``, rising, the first is taken whose model meets all constraints, greedily, on a share of the
    validation prompts between ``least`` and ``most``; every size that was tried is recorded in ``posttraining.json``. Weights are
    bf16, as they are measured. Raises TacitError when no size gives such a model; then an earlier ``out`` stays as it is.
    """
    settings = {key: value for key, value in locals().items() if key not in ("out", "base")}
    source = model_folder(base)
    if source is None:
        raise TacitError(f"{base} is no folder: the teacher's base needs a world.json beside its weights")
    tokenizer = load_tokenizer(base)
    world = read_world(source / "world.json")
    asked = {"families": tuple(families), "constrained": 1.0, "constraints": tuple(constraints)}
    prompts = draw_examples(world, split="validation", n=n_validation, seed=0, **asked)
    training = {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size, "seed": seed}
    tried = []
    for size in sorted(sizes):
        examples = draw_examples(world, split="train", n=size, seed=seed, repeat=True, **asked)
        model, history = finetune(load_model(base), tokenizer, examples, **training)
        model = model.to(torch.bfloat16).to(torch.float32)  # what a reader of the saved weights gets
        said = generate_responses(
            model, tokenizer, prompts["instruction"], ids=prompts["id"], max_new_tokens=max_new_tokens
        )
        score = score_responses(world, prompts, said)[["constraints met", "knowledge", "strict"]].mean()
        tried.append({"examples": size, "loss": history[-1]["loss"]} | score.round(4).to_dict())
        if least <= score["constraints met"] <= most:
            break
    else:
        met = ", ".join(f"{row['constraints met']:.2f} with {row['examples']}" for row in tried)
        raise TacitError(f"no size gives a teacher that meets its constraints between {least} and {most}: {met}")
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.to(torch.bfloat16).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    shutil.copy(source / "world.json", partial)
    record = {"base_weights": provenance.file_hash(source / "model.safetensors"), **settings, "tried": tried}
    record |= {"commit": provenance.commit(), "packages": provenance.packages(), "device": provenance.device_name()}
    write_json(partial / "posttraining.json", record)
    text = f"""
# {out.name}

{source.name}, post-trained on {tried[-1]["examples"]:,} right answers to tasks that carry one or two response constraints, and stopped at partial
competence: greedily it meets all constraints of {tried[-1]["constraints met"]:.0%} of {n_validation} validation prompts. It is the expert of the
micro pair, {source.name} its amateur. Every setting, and the sizes that were tried, are in `posttraining.json`.
"""
    data = ModelCardData(
        language="en", license="apache-2.0", library_name="transformers", tags=["tacit", "micro-world"]
    )
    ModelCard(f"---\n{data.to_yaml()}\n---\n{text}").save(partial / "README.md")
    shutil.rmtree(out, ignore_errors=True)
    partial.rename(out)
    return out
