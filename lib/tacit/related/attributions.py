"""Finding 17, behaviour shift (Wu et al. 2023, arXiv 2310.00492): which words of a prompt a response hangs on.

The paper's gradient score, and beside it what the score stands for, computed exactly: how much less likely the response
becomes without a token. Both are taken on *given* responses, the same for all models.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset
from scipy.stats import spearmanr
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.findings.answers import percent, tell_failing
from tacit.microworld.documents import write_documents
from tacit.microworld.tasks import FAMILIES, Task
from tacit.microworld.world import ANIMAL_ATTRIBUTES, TOWN_ATTRIBUTES, World
from tacit.models.chat import encode_prompt
from tacit.scoring.estimates import Estimate
from tacit.scoring.likelihoods import in_batches, next_logits
from tacit.scoring.verdicts import FAILS, HOLDS, REFUTED, UNDECIDED, Demand, decide

FACTS = (*ANIMAL_ATTRIBUTES, *TOWN_ATTRIBUTES)  # families whose instruction can be swapped for another's
LEVELS, LEAST = 10, 8  # a score is cut into ten levels, and those below the eighth count as none


def attribute(model: PreTrainedModel, prompt: Sequence[int], response: Sequence[int]) -> Tensor:
    """How far each prompt token pushes the probability of each response token: [N, M], float32.

    Entry (n, m) is x_n . dp(y_m)/dx_n, with x_n the embedding of prompt token n and p(y_m) the probability of response
    token m given all before it: one backward pass for each response token. Source: Wu et al. (2023, section 3).
    """
    device = model.device
    embedded = model.get_input_embeddings()(torch.tensor([[*prompt, *response]], device=device)).detach()  # [1, T, d]
    embedded.requires_grad_(True)
    first = len(prompt) - 1
    p = model(inputs_embeds=embedded, use_cache=False).logits[0, first:-1].float().softmax(-1)  # [M, V]
    chosen = p.gather(1, torch.tensor(response, device=device)[:, None]).squeeze(1)  # [M]
    columns = []
    for m in range(len(response)):
        (slope,) = torch.autograd.grad(chosen[m], embedded, retain_graph=m + 1 < len(response))
        columns.append((slope[0, : len(prompt)] * embedded.detach()[0, : len(prompt)]).sum(-1).float())  # [N]
    return torch.stack(columns, dim=1)


def densities(scores: Tensor) -> Tensor:
    """How widely each prompt token is used by the response, from 0 to 1: [N] from attributions [N, M].

    Negative scores count as 0. Each response token's are divided by their largest and cut into ten levels, of which
    those below the eighth count as 0. A prompt token's density is its L1 norm over the response tokens divided by its
    L4 norm, and all are divided by the largest. For equal values that quotient grows with the response's length, as
    M^(3/4), before the last step. Source: Wu et al. (2023), its released code.
    """
    x = scores.clamp(min=0)
    x = x / x.amax(dim=0, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    x = torch.ceil(LEVELS * x)
    x = torch.where(x >= LEAST, x, 0.0)
    raw = x.sum(dim=1) / x.norm(p=4, dim=1).clamp(min=torch.finfo(x.dtype).tiny)  # 0 where all are 0
    return raw / raw.amax().clamp(min=torch.finfo(x.dtype).tiny)


def span_score(density: Sequence[float], span: Sequence[int]) -> float:
    """The densities of the tokens at the places ``span``, summed and divided by log2(2 + how many they are)."""
    return float(sum(density[i] for i in span) / np.log2(2 + len(span)))


def find_words(tokenizer: PreTrainedTokenizerBase, task: Task) -> dict[str, list[int]]:
    """The places in a task's prompt of the tokens of its ``instruction`` words, of its ``input`` and of the ``tags``.

    The input is the item's words. An instruction is all of the phrasing but the item; punctuation at the end counts to
    it. A token that holds a character of both counts as input. The tags are all the rest, which the chat format adds.
    Raises ValueError where the text's tokens are not found in the prompt.
    """
    text, spans = "", []
    for literal, name, _, _ in string.Formatter().parse(FAMILIES[task.family].phrasings[task.phrasing]):
        text += literal
        if name is not None:
            value = str(task.item[name])
            spans.append((len(text), len(text) + len(value)))
            text += value
    own = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    prompt, ids = encode_prompt(tokenizer, text), own["input_ids"]
    starts = [i for i in range(len(prompt) - len(ids) + 1) if prompt[i : i + len(ids)] == ids]
    if not starts:
        raise ValueError(f"the tokens of {text!r} do not stand in its prompt as they do alone")
    places: dict[str, list[int]] = {"instruction": [], "input": []}
    for i, (a, b) in enumerate(own["offset_mapping"]):
        inside = any(a < end and begin < b for begin, end in spans)
        places["input" if inside else "instruction"].append(starts[0] + i)
    own_places = range(starts[0], starts[0] + len(ids))
    return places | {"tags": [i for i in range(len(prompt)) if i not in own_places]}


def without_each(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    response: Sequence[int],
    places: Sequence[int],
) -> list[float]:
    """By how much the response's log-probability falls without each of the prompt tokens at ``places``, in nats.

    This is exact, where ``densities`` uses a slope: the token is taken out and the response is scored again.
    """
    prompts = [list(prompt), *([*prompt[:i], *prompt[i + 1 :]] for i in places)]
    whole, *less = log_likelihoods(model, tokenizer, prompts, [response] * len(prompts))
    return [whole - one for one in less]


def log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Sequence[int]],
    responses: Sequence[Sequence[int]],
) -> list[float]:
    """The summed log-probability of each response's tokens after its prompt's, in nats; tokens as they are given."""
    rows = [[*prompt, *response][:-1] for prompt, response in zip(prompts, responses, strict=True)]

    def score(batch: list[int]) -> list[float]:
        first = [len(prompts[i]) - 1 for i in batch]
        logits = next_logits(model, tokenizer, [rows[i] for i in batch], first, names=batch)
        chosen = [
            torch.tensor(list(responses[i]), device=z.device)[:, None] for i, z in zip(batch, logits, strict=True)
        ]
        return [float(z.float().log_softmax(-1).gather(1, c).sum()) for z, c in zip(logits, chosen, strict=True)]

    return in_batches(rows, score, models=[model])


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: Sequence[Task],
    responses: Sequence[Sequence[int]],
    *,
    ablate: bool = True,
) -> dict[str, list[float]]:
    """What each response hangs on in its task's prompt, by name, a number per task.

    ``instruction``, ``input`` and ``tags``: the ``span_score`` of these tokens. ``instruction, words``: the same of
    densities among the words alone, as if there were no tags. With ``ablate`` also ``agreement``: Spearman's
    correlation of a token's density and what the response loses without it, over the words' tokens; NaN where one of
    the two is constant. ``responses`` are tokens, the end token included.
    """
    names = ("instruction", "input", "tags", "instruction, words", *(["agreement"] if ablate else []))
    measured: dict[str, list[float]] = {name: [] for name in names}
    for task, response in zip(tasks, responses, strict=True):
        prompt, spans = encode_prompt(tokenizer, task.instruction), find_words(tokenizer, task)
        pushes = attribute(model, prompt, response)
        density = densities(pushes).tolist()
        for name, of_span in spans.items():
            measured[name].append(span_score(density, of_span))
        places = sorted([*spans["instruction"], *spans["input"]])
        among = dict(zip(places, densities(pushes[places]).tolist(), strict=True))
        alone = [among[i] for i in spans["instruction"]]
        measured["instruction, words"].append(span_score(alone, range(len(alone))))
        if ablate:
            lost, used = without_each(model, tokenizer, prompt, response, places), [density[i] for i in places]
            constant = len(set(lost)) == 1 or len(set(used)) == 1
            measured["agreement"].append(float("nan") if constant else float(spearmanr(lost, used).statistic))
    return measured


def swap_instruction(world: World, task: Task) -> Task:
    """The question of another family about the same subject: the next in order whose fact the world holds.

    Raises ValueError for a task that is no question for a fact, or whose subject has no other.
    """
    kinds = tuple(ANIMAL_ATTRIBUTES) if task.family in ANIMAL_ATTRIBUTES else TOWN_ATTRIBUTES
    if task.family not in kinds:
        raise ValueError(f"{task.family} asks for no fact: choose among {', '.join(FACTS)}")
    at = kinds.index(task.family)
    for family in (*kinds[at + 1 :], *kinds[:at]):
        if (task.item["subject"], family) in world.held:
            return Task(family, task.item, min(task.phrasing, FAMILIES[family].n_tuning_phrasings))
    raise ValueError(f"the world holds no other fact about {task.item['subject']}")


def draw_documents(world: World, *, n: int, seed: int) -> Dataset:
    """``n`` new documents of the corpus' kind as responses to nothing, for going on with pretraining."""
    texts = (text for _, text in write_documents(world, seed=10_000 + seed))
    rows = [{"id": str(i), "instruction": "", "response": text} for i, text in zip(range(n), texts, strict=False)]
    return Dataset.from_list(rows)


def down_projections(model: PreTrainedModel) -> list[Tensor]:
    """The feed-forward layers' output weights [width, inner], from the first layer to the last.

    Raises ValueError where the names of an architecture tell none.
    """
    found = []
    for name, weight in model.named_parameters():
        if name.endswith(("mlp.down_proj.weight", "mlp.c_proj.weight")):
            found.append((weight.T if "c_proj" in name else weight).detach().float())
    if not found:
        raise ValueError(f"{type(model).__name__} has no feed-forward weights by a known name")
    return found


def subspace_overlap(a: Tensor, b: Tensor, *, k: int) -> float:
    """How far the leading ``k`` output directions of two centred matrices [width, inner] agree: 1 alike, 0 orthogonal.

    It is the mean squared cosine of the principal angles between the two subspaces; two random ones have about
    k / width.
    """
    leading = [
        torch.linalg.svd(w - w.mean(dim=1, keepdim=True), full_matrices=False).U[:, :k] for w in (a.float(), b.float())
    ]
    return float((leading[0].T @ leading[1]).square().sum() / k)


def describe_shift(
    rule: Sequence[Demand],
    controls: Sequence[Demand],
    *,
    own: Sequence[Demand],
    response_tuned: Demand,
    exact: Estimate,
) -> dict[str, str]:
    """Finding 17's answer from its rule (tuned minus base and minus continued, on common responses) and its controls.

    ``own`` are the same two differences on each model's own responses; ``response_tuned`` is instruction-tuned minus
    response-tuned; ``exact`` is by how many nats more than the base model's a right response of the instruction-tuned
    model loses if its instruction is swapped.
    """
    gaps = " and ".join(f"{one.arm} {one.estimate}" for one in rule)
    claim = "instruction tuning raises the gradient score of the instruction's words"
    verdict = decide(rule, controls)
    found = {
        HOLDS: f"{claim[0].upper()}{claim[1:]}: on the same responses, {gaps}.",
        REFUTED: f"It is not so that {claim}: on the same responses, {gaps}.",
        UNDECIDED: f"Whether {claim} is open: on the same responses, {gaps}.",
        FAILS: f"Nothing is said of the models by this score, because a control is not met: {tell_failing(controls)}.",
    }[verdict]
    told = " and ".join(f"{one.arm} {percent(one.estimate)}" for one in own)
    texts = all(one.verdict == HOLDS for one in own) and verdict in (REFUTED, UNDECIDED)
    side = {
        "above": "so there the response does depend more on its instruction",
        "below": "so by that the response depends less on its instruction",
        "not shown to differ from": "so by that no change is shown",
    }[exact.side()]
    reason = (
        f"On each model's own responses, as the paper measures it: {told}."
        f"{' So the difference is one of texts.' if texts else ''} Instruction-tuned minus response-tuned is"
        f" {percent(response_tuned.estimate)}. Measured exactly, by swapping the instruction, a right response loses"
        f" {percent(exact)} nats more in the instruction-tuned model than in the base model, {side}."
    )
    return {"found": found, "reason": reason, "caveat": "One small model, and one-line questions about single facts."}
