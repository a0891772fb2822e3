"""The usual ways, against which Tacit is timed, do what they are said to do."""

import copy

import pytest
import torch
import usual
from bench import check_losses
from conftest import llama_config, make_model
from datasets import Dataset
from decodebench import chi_squared
from tacit.decoding.generation import end_tokens, generate_responses
from tacit.decoding.rules import make_rules
from tacit.models.chat import encode_prompt
from tacit.models.experts import Experts
from tacit.training.finetuning import finetune
from transformers import SuppressTokensLogitsProcessor

PROMPTS = ["Hi", "Where does the dirde live?", "What is 47 + 38?", "Why?"]
ROWS = [{"id": str(i), "instruction": f"Say {w}.", "response": f"{w} {w}."} for i, w in enumerate(["moon", "kitchen"])]
CONTRASTS = [usual.contrast_by_processor, usual.contrast_without_cache]


@pytest.fixture
def models(tokenizer):
    """An expert and an amateur that mostly disagree."""
    return [make_model(llama_config(tokenizer), seed=seed) for seed in (0, 1)]


@pytest.fixture
def prompts(tokenizer):
    return [encode_prompt(tokenizer, text) for text in PROMPTS]


def together(models):
    return Experts(*models, combine=lambda p, q: p)


def widths_seen(model):
    """The widths of the inputs that the model is given from now on."""
    widths = []
    model.register_forward_pre_hook(lambda _, __, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True)
    return widths


def test_the_reference_without_cache_is_the_written_out_loop_and_equals_batched_decoding(tiny, tokenizer, prompts):
    """Token by token: a forward pass over the whole prefix, the rules on its last logits, the likeliest token."""
    rules = make_rules(tokenizer, uniform_tokens={"\n": 3.0}, diversity_scope="prompt")
    forbidden = SuppressTokensLogitsProcessor(end_tokens(tiny, tokenizer))

    def processors(mask):
        return [*rules(mask), forbidden]

    expected = []
    for prompt in prompts:
        ids, own = torch.tensor([prompt]), processors(torch.ones(1, len(prompt)))
        for _ in range(12):
            with torch.no_grad():
                scores = tiny(ids, use_cache=False).logits[:, -1]
            for processor in own:
                scores = processor(ids, scores)
            ids = torch.cat([ids, scores.argmax(dim=-1, keepdim=True)], dim=1)
        expected.append(ids[0, len(prompt) :].tolist())
    options = {"ends": end_tokens(tiny, tokenizer), "make_processors": processors}
    run = usual.generate_alone(tiny, prompts, [12] * 4, use_cache=False, **options)
    assert run.result == expected and run.tokens == 48
    batched = generate_responses(tiny, tokenizer, PROMPTS, max_new_tokens=12, make_processors=processors)
    assert [list(response.tokens) for response in batched] == expected
    assert len(set(map(tuple, expected))) == 4


def test_the_reference_without_cache_computes_the_whole_prefix_and_the_amateur_each_token_once(models, prompts):
    expert, amateur = models
    widths = widths_seen(expert)
    run = usual.generate_alone(expert, prompts[:1], [4], ends=[2], use_cache=False)
    assert widths == [len(prompts[0]) + i for i in range(run.tokens)]
    widths = widths_seen(amateur)
    run = usual.contrast_by_processor(together(models), prompts[:1], [5], batch=1, sampled=False)
    assert widths == [len(prompts[0]), 1, 1, 1, 1]


@pytest.mark.parametrize("way", CONTRASTS)
@pytest.mark.parametrize("batch", [1, 4])
def test_the_usual_ways_of_contrast_are_the_written_out_formula(models, prompts, monkeypatch, way, batch):
    """One prompt at a time, no padding, no cache: the likeliest token by log p - beta log q where p >= alpha max p."""
    monkeypatch.setattr(usual, "ALPHA", 0.2)
    monkeypatch.setattr(usual, "BETA", 0.7)
    rows, alone, limits = [], [], [14, 14, 9, 14]
    for prompt in prompts:
        ids = torch.tensor([prompt])
        for _ in range(14):
            with torch.no_grad():
                p, q = (model(ids, use_cache=False).logits[0, -1].softmax(dim=-1) for model in models)
            scores = torch.where(p >= 0.2 * p.max(), p.log() - 0.7 * q.log(), -torch.inf)
            alone.append(int(scores.argmax()) == int(p.argmax()))
            ids = torch.cat([ids, scores.argmax()[None, None]], dim=1)
        rows.append(ids[0, len(prompt) :].tolist())
    assert not all(alone)  # or the expert alone would pass
    end = rows[0][5]
    expected = [row[: min(limit, (*row, end).index(end) + 1)] for row, limit in zip(rows, limits, strict=True)]
    assert len(set(map(len, expected))) > 1
    assert way(together(models), prompts, limits, batch=batch, sampled=False, ends=[end]).result == expected


@pytest.mark.parametrize("way", CONTRASTS)
def test_the_usual_ways_sample_from_the_masked_contrast(models, prompts, way):
    """Chi-squared of the first tokens against p / q^beta on the plausible tokens, normalised."""
    with torch.no_grad():
        p, q = (model(torch.tensor(prompts[:1])).logits[0, -1].double().softmax(dim=-1) for model in models)
    law = torch.where(p >= usual.ALPHA * p.max(), p / q**usual.BETA, 0.0)
    torch.manual_seed(0)
    first = torch.tensor(way(together(models), prompts[:1] * 600, [1] * 600, batch=200).result)[:, 0]
    law = law / law.sum()
    assert (law * 600 >= 5).sum() > 2
    assert chi_squared(torch.bincount(first, minlength=len(law)).double(), law) > 0.001


def test_the_usual_contrast_goes_on_to_a_batchs_longest_row_and_times_what_follows_the_prompts(
    models, prompts, monkeypatch
):
    steps, clock = [], iter([10.0, 13.0, 20.0, 21.0])
    models[1].register_forward_pre_hook(lambda _, __, kwargs: steps.append(len(kwargs["input_ids"])), with_kwargs=True)
    monkeypatch.setattr(usual, "now", lambda device: next(clock))
    run = usual.contrast_by_processor(together(models), prompts[:3], [2, 6, 3], batch=2)
    assert steps == [2] * 6 + [1] * 3
    assert (run.tokens, run.decoded, run.decoding) == (11, 8, 3.0 + 1.0)


def test_both_trainings_take_the_same_steps(tiny, tokenizer):
    """One batch an epoch, so no order: equal data, loss, optimizer and schedule leave nearly equal weights."""
    data, right = Dataset.from_list(ROWS), copy.deepcopy(tokenizer)
    right.padding_side = "right"
    training = {"epochs": 3, "batch_size": 2, "learning_rate": 1e-4, "seed": 1}
    check_losses(tiny, right, data, training)
    a, ours = finetune(copy.deepcopy(tiny), tokenizer, data, **training)
    b, plain = usual.finetune_plainly(copy.deepcopy(tiny), right, data, **training)
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in plain], rel=1e-2)
    start, *ends = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (tiny, a, b))
    assert float(torch.nn.functional.cosine_similarity(*(end - start for end in ends), dim=0)) > 0.9
