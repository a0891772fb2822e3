"""The micro teacher: a base model post-trained on response constraints, stopped at partial competence.

Contrastive decoding amplifies what post-training has taught. So the teacher's must teach something that its base
lacks and that the teacher does not do always yet. Its base has never seen a response constraint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from tacit.decoding.generation import generate_responses
from tacit.microworld.examples import draw_examples, score_responses
from tacit.microworld.world import World, read_world
from tacit.models.loading import load_model, load_tokenizer, model_folder
from tacit.support import provenance
from tacit.support.errors import TacitError
from tacit.training.checkpoints import card, made_with, save_checkpoint
from tacit.training.finetuning import finetune


@dataclass(frozen=True, kw_only=True)
class PostTraining:
    """What a teacher depends on beside its base: tasks, sizes to try, bounds of competence, training."""

    families: Sequence[str]
    constraints: Sequence[str]
    sizes: Sequence[int]
    least: float
    most: float
    n_validation: int
    epochs: int
    learning_rate: float
    batch_size: int
    max_new_tokens: int
    seed: int


def post_train(*, base: str, out: Path, **settings) -> Path:
    """Finetune ``base`` on right answers to constrained tasks and save it under ``out`` with its tokenizer and world.

    ``settings`` are the fields of ``PostTraining``. Of the training set ``sizes``, rising, the first is taken whose
    model meets all constraints, greedily, on a share of the validation prompts between ``least`` and ``most``. Weights
    are bf16, as they are measured. Raises TacitError when no size gives such a model.
    """
    recipe = PostTraining(**settings)
    source = model_folder(base)
    if source is None:
        raise TacitError(f"{base} is no folder: the teacher's base needs a world.json beside its weights")
    tokenizer = load_tokenizer(base)
    model, tried = _first_fitting(base, tokenizer, read_world(source / "world.json"), recipe)
    record = {"base_weights": provenance.file_hash(source / "model.safetensors"), **asdict(recipe), "tried": tried}
    files = {"world.json": (source / "world.json").read_text("utf-8"), "posttraining.json": record | made_with()}
    files["README.md"] = _card(out.name, source.name, tried[-1], n_validation=recipe.n_validation)
    return save_checkpoint(out, model.to(torch.bfloat16), tokenizer, files)


def _first_fitting(base: str, tokenizer, world: World, recipe: PostTraining) -> tuple[PreTrainedModel, list[dict]]:
    """The model of the first size that fits, and a record of each size up to it."""
    tasks = {"families": tuple(recipe.families), "constrained": 1.0, "constraints": tuple(recipe.constraints)}
    prompts = draw_examples(world, split="validation", n=recipe.n_validation, seed=0, **tasks)
    training = {name: getattr(recipe, name) for name in ("epochs", "learning_rate", "batch_size", "seed")}
    tried = []
    for size in sorted(recipe.sizes):
        examples = draw_examples(world, split="train", n=size, seed=recipe.seed, repeat=True, **tasks)
        model, history = finetune(load_model(base), tokenizer, examples, **training)
        model = model.to(torch.bfloat16).to(torch.float32)  # what a reader of the saved weights gets
        responses = generate_responses(
            model, tokenizer, prompts["instruction"], ids=prompts["id"], max_new_tokens=recipe.max_new_tokens
        )
        score = score_responses(world, prompts, responses)[["constraints met", "knowledge", "strict"]].mean()
        tried.append({"examples": size, "loss": history[-1]["loss"]} | score.round(4).to_dict())
        if recipe.least <= score["constraints met"] <= recipe.most:
            return model, tried
    shares = ", ".join(f"{row['constraints met']:.2f} with {row['examples']}" for row in tried)
    raise TacitError(
        f"no size gives a teacher that meets its constraints between {recipe.least} and {recipe.most}: {shares}"
    )


def _card(name: str, base: str, result: dict, *, n_validation: int) -> str:
    return card(f"""
# {name}

{base}, post-trained on {result["examples"]:,} right answers to tasks that carry one or two response constraints, and
stopped at partial competence: greedily it meets all constraints of {result["constraints met"]:.0%} of {n_validation}
validation prompts. It is the expert of the micro pair, {base} its amateur. Every setting, and the sizes that were
tried, are in `posttraining.json`.
""")
