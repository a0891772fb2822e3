"""Finding 7: how a teacher's text is decoded, where a contrast helps or harms, and what its students learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from numpy.typing import ArrayLike
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.data.instructions import encode_example
from tacit.experiments.cache import cached_folder
from tacit.findings.answers import name_score, percent, tell_failing, tell_sides
from tacit.findings.factprobes import FACT_FAMILIES, mark_tokens
from tacit.microworld.world import read_world
from tacit.models import experts
from tacit.models.chat import encode_prompt
from tacit.models.identity import weights_key
from tacit.scoring.estimates import Estimate, from_draws
from tacit.scoring.likelihoods import next_logits
from tacit.scoring.verdicts import FAILS, HOLDS, REFUTED, UNDECIDED, Demand, decide
from tacit.training.posttraining import post_train
from tacit.training.recipes import teacher_recipe

DIRECT = {"alpha": 0.0, "beta": 0.0, "temperature": 1.0}  # ordinary sampling: the papers' baseline
PAPER_CELL = (0.01, 1.0)  # alpha and beta of every released script of CoDIT
COLD = ("direct, cold", "direct, nucleus", "greedy")  # arms of the teacher alone that leave unlikely tokens out


def list_recipes(alpha: float, beta: float, *, temperature: float, top_p: float) -> dict[str, dict[str, Any]]:
    """The options of ``synthesize`` for each arm of a teacher's text, by its name.

    ``alpha`` and ``beta`` are those of the CoDIT arm and its controls, ``temperature`` is that of the cold arm and
    ``top_p`` that of the nucleus. The paper's own cell is left out where it is the CoDIT arm itself.
    """
    recipes: dict[str, dict[str, Any]] = {
        "direct": dict(DIRECT),
        "direct, cold": DIRECT | {"temperature": temperature},
        "direct, nucleus": DIRECT | {"top_p": top_p},
        "greedy": DIRECT | {"temperature": 0.0},
        "mask only": DIRECT | {"alpha": alpha},
        "CoDIT": DIRECT | {"alpha": alpha, "beta": beta},
        "CoDIT, end exempt": DIRECT | {"alpha": alpha, "beta": beta, "contrast_end": False},
    }
    if (alpha, beta) != PAPER_CELL:
        recipes["CoDIT, paper's cell"] = DIRECT | dict(zip(("alpha", "beta"), PAPER_CELL, strict=True))
    return recipes


def choose_cell(surface: pd.DataFrame) -> tuple[float, float]:
    """The alpha and beta whose student scored best, among the cells with a contrast; the first of equals.

    ``surface`` has the columns ``alpha``, ``beta`` and ``student``. Raises ValueError where no beta is above 0.
    """
    cells = surface[surface["beta"] > 0]
    if not len(cells):
        raise ValueError("no cell has a contrast: give a beta above 0")
    best = cells.loc[cells["student"].idxmax()]
    return float(best["alpha"]), float(best["beta"])


def train_teacher(n_examples: int) -> str:
    """The folder of a micro teacher post-trained on ``n_examples``, from the cache or made now.

    All else is the recipe of the committed teacher; no bound on its competence is asked. Raises TacitError as
    ``post_train`` does.
    """
    recipe = teacher_recipe() | {"sizes": [n_examples], "least": 0.0, "most": 1.0}
    base, _ = recipe.pop("base"), recipe.pop("out")
    key = {"what": "teacher", "base": weights_key(base), "recipe": recipe}

    def make(folder: Path) -> None:
        post_train(base=base, out=folder / f"teacher-{n_examples}", **recipe)

    return str(cached_folder(key, make) / f"teacher-{n_examples}")


def pick_examples(examples: Dataset, *, most: int) -> list[dict[str, Any]]:
    """Examples whose right responses can be read token by token: the first ``most`` about facts, if there are any.

    A fact has one right word, unlike a list or a rhyme.
    """
    rows = examples.to_list()
    return [row for row in rows if row.get("family") in FACT_FAMILIES][:most] or rows[:most]


def name_tokens(world: str, tokenizer: PreTrainedTokenizerBase, example: Mapping[str, str], *, n: int) -> list[str]:
    """What each of the ``n`` tokens of a right response is there for (``mark_tokens``); ``other`` where nobody knows.

    That is so without a ``world`` (a file), and for tasks that are not about a fact.
    """
    if not world or example.get("family") not in FACT_FAMILIES:
        return ["other"] * n
    return mark_tokens(read_world(world), tokenizer, example)


def read_positions(
    post: PreTrainedModel,
    pre: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    example: Mapping[str, str],
    *,
    alpha: float,
    beta: float,
) -> tuple[pd.DataFrame, Tensor]:
    """What the contrast makes of the right token at each position of an example's response, the end token included.

    Both models read the ``example``'s instruction and right response. Returns a table with a row per position and the
    columns ``position``, ``token`` (the right one's id), ``post``, ``pre`` and ``q`` (its probability for the teacher,
    for its base and in the contrast), ``lift`` (q minus post) and ``plausible`` (how many tokens the mask leaves); and
    the logits of both models [2, positions, V]. Raises TacitError for logits that are not finite.
    """
    start = len(encode_prompt(tokenizer, example["instruction"]))
    row = encode_example(tokenizer, example["instruction"], example["response"])["input_ids"]
    rows = [next_logits(model, tokenizer, [row[:-1]], [start - 1])[0].float() for model in (post, pre)]
    logits = torch.stack([side.cpu() for side in rows])  # [2, T, V]
    right = torch.tensor(row[start:])  # [T]
    contrast = experts.contrast(*logits, alpha=alpha, beta=beta).softmax(dim=-1)  # [T, V]
    p = torch.stack([*logits.softmax(dim=-1), contrast])  # [3, T, V]
    of_right = p[:, torch.arange(len(right)), right]  # [3, T]
    table = pd.DataFrame(of_right.T.tolist(), columns=["post", "pre", "q"])
    table["lift"] = table["q"] - table["post"]
    table["plausible"] = experts.plausible(logits[0], alpha=alpha).isfinite().sum(dim=-1).tolist()
    table.insert(0, "token", right.tolist())
    table.insert(0, "position", range(len(right)))
    return table, logits


def tabulate_choices(
    logits: Tensor, right: int, tokenizer: PreTrainedTokenizerBase, *, alpha: float, betas: Sequence[float], n: int = 6
) -> pd.DataFrame:
    """The teacher's ``n`` likeliest tokens at one position, and the right one: a row per token, as one reads it.

    ``logits`` [2, V] are the teacher's and its base's. The columns are ``p post``, ``p pre`` and, for each beta, ``q``:
    the contrast's probability, or ``masked`` for a token that the mask excludes. ``right`` marks the right token.
    """
    post, pre = logits.softmax(dim=-1)
    chosen = post.topk(min(n, len(post))).indices.tolist()
    chosen += [right] if right not in chosen else []
    kept = experts.plausible(logits[0], alpha=alpha).isfinite()
    columns: dict[str, list[Any]] = {"right": ["<- right" if token == right else "" for token in chosen]}
    columns |= {name: [f"{p[token]:.2g}" for token in chosen] for name, p in (("p post", post), ("p pre", pre))}
    for beta in betas:
        q = experts.contrast(*logits, alpha=alpha, beta=beta).softmax(dim=-1)
        columns[f"q, beta {beta:g}"] = [f"{q[token]:.2g}" if kept[token] else "masked" for token in chosen]
    return pd.DataFrame(columns, index=[repr(tokenizer.decode([token])) for token in chosen])


def share_of_gain(
    ours: ArrayLike, direct: ArrayLike, right: ArrayLike, *, n_resamples: int = 2_000, seed: int = 0
) -> Estimate | None:
    """The gain of ``ours`` over ``direct`` as a share of the gain of ``right``: 0 is direct text, 1 right responses.

    Scores [seeds, prompts] of the same seeds and prompts, which are resampled together for the three arms. None where
    the interval of the gain of right responses reaches 0: a share of it would have no meaning. The few resamples in
    which it does not gain are left out. Raises ValueError for different shapes.
    """
    a, floor, ceiling = (np.asarray(scores, dtype=float) for scores in (ours, direct, right))
    if not a.shape == floor.shape == ceiling.shape or a.ndim != 2 or not a.size:
        raise ValueError(f"three arms of the same seeds and prompts: {a.shape}, {floor.shape}, {ceiling.shape}")
    rng = np.random.default_rng(seed)
    sides = [rng.multinomial(n, [1 / n] * n, size=n_resamples) / n for n in a.shape]  # [draws, seeds], [draws, prompts]
    gains, wholes = (np.einsum("ns,sp,np->n", sides[0], gap, sides[1]) for gap in (a - floor, ceiling - floor))
    if np.quantile(wholes, 0.025) <= 0:
        return None
    gains, wholes = gains[wholes > 0], wholes[wholes > 0]
    value = float((a - floor).mean() / (ceiling - floor).mean())
    return from_draws(value, (gains / wholes).tolist(), n_seeds=a.shape[0], n_prompts=a.shape[1])


def describe_codit(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    shares: Mapping[str, Estimate],
    beyond: Sequence[Demand],
    cold: Mapping[str, Demand],
    parts: Mapping[tuple[str, str], Estimate],
    dial: Mapping[str, Demand],
    room: Mapping[str, Estimate],
) -> dict[str, str]:
    """Finding 7's answer from its rule (CoDIT minus direct, for each student) and controls (right responses likewise).

    ``shares`` holds the first student's shares of the gain of right responses by arm; ``beyond`` CoDIT minus the mask
    alone for each student; ``cold`` CoDIT minus each arm of the teacher alone; ``parts`` CoDIT minus an arm of the
    teacher alone, by that arm and a score; ``dial`` CoDIT minus direct by teacher, and ``room`` right responses minus
    direct. All but the first two may be empty.
    """
    gains = " and ".join(percent(demand.estimate) for demand in rule)
    score = name_score(rule[0].metric)
    numbers = f"the {score} of a student of CoDIT text minus that of the same student of direct text is {gains}"
    if "rate" in score:
        numbers = f"the {score} of a student of CoDIT text against the same student of direct text is {gains}"
    numbers += {1: "", 2: " for the two students"}.get(len(rule), " for the students")
    found = {
        HOLDS: f"Text decoded from the contrast teaches more than text sampled from the teacher: {numbers}.",
        REFUTED: f"Text decoded from the contrast does not teach more than text sampled from the teacher: {numbers}.",
        UNDECIDED: "Whether text decoded from the contrast teaches more than text sampled from the teacher is open:"
        f" {numbers}.",
        FAILS: "Nothing is said of the contrast, because right responses themselves are not shown to teach more than"
        f" direct text: {tell_failing(controls)}.",
    }[decide(rule, controls)]
    reason = [_tell_shares(shares, controls), _tell_beyond_mask(beyond), _tell_cold(cold)]
    caveat = [_tell_parts(parts, shares), _tell_dial(dial, room), "One micro world, and one base for every teacher."]
    return {"found": found, "reason": " ".join(filter(None, reason)), "caveat": " ".join(filter(None, caveat))}


def _pick_cold(shares: Mapping[str, Estimate]) -> str:
    """The arm of the teacher alone, without unlikely tokens, whose student gains most; empty where there is none."""
    return max((arm for arm in COLD if arm in shares), key=lambda arm: shares[arm].value, default="")


def _tell_shares(shares: Mapping[str, Estimate], controls: Sequence[Demand]) -> str:
    """How much of the gain of right responses some arms bring."""
    if not controls:
        return "Without verifiers it is not measured how far right responses would come."
    if not shares:
        return "Right responses are not shown to gain over direct text, so there is no share of their gain."
    arms = ("CoDIT", "mask only", _pick_cold(shares), "CoDIT, paper's cell")
    told = "; ".join(f"{arm} {percent(shares[arm])}" for arm in arms if arm in shares)
    return (
        f"Right responses raise the first student's score by {percent(controls[0].estimate)} over direct text. As a"
        f" share of that gain, other texts bring: {told}."
    )


def _tell_beyond_mask(beyond: Sequence[Demand]) -> str:
    """Whether the contrast adds to its own plausibility mask."""
    words = {HOLDS: "the contrast adds", UNDECIDED: "nothing is shown", REFUTED: "the contrast costs"}
    told = "; ".join(f"{one.arm.split(':')[0]} {percent(one.estimate)}, {words[one.verdict]}" for one in beyond)
    return f"CoDIT minus its mask alone: {told}." if beyond else ""


def _tell_cold(cold: Mapping[str, Demand]) -> str:
    """How CoDIT compares with text of the same teacher that leaves unlikely tokens out and needs no second model."""
    words = {
        HOLDS: "CoDIT teaches more than",
        REFUTED: "CoDIT teaches less than",
        UNDECIDED: "no difference is shown to",
    }
    return f"Compared with simpler ways to leave unlikely tokens out: {tell_sides(cold, words)}." if cold else ""


def _tell_parts(parts: Mapping[tuple[str, str], Estimate], shares: Mapping[str, Estimate]) -> str:
    """Which scores the difference to direct text is made of, and that to the best cold text."""
    told = []
    for arm in ("direct", _pick_cold(shares)):
        of_arm = ", ".join(f"{kind} {percent(one)}" for (other, kind), one in parts.items() if other == arm)
        told += [f"CoDIT minus {arm}: {of_arm}"] if of_arm else []
    return f"By score, {'; '.join(told)}." if told else ""


def _tell_dial(dial: Mapping[str, Demand], room: Mapping[str, Estimate]) -> str:
    """For which teachers the contrast pays, and how much could be gained there."""
    if not dial:
        return ""
    words = {HOLDS: "it pays", REFUTED: "it costs", UNDECIDED: "not decided"}
    told = "; ".join(
        f"{teacher} {percent(one.estimate)}, {words[one.verdict]} (right responses gain {room[teacher].value:z.2f})"
        for teacher, one in dial.items()
    )
    return f"By teacher, from the least to the most often right, CoDIT minus direct: {told}."
