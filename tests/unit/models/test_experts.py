"""The composite against a two-model loop without cache, and the combiners against hand-made logits."""

from functools import partial

import pytest
import torch
from conftest import CONFIGS, VOCABULARY, make_model
from tacit.models.experts import Experts, contrast, plausible
from transformers import LlamaConfig

CONTRAST = partial(contrast, alpha=0.1, beta=1.0)


def greedy_reference(models, combine, prompt, n):
    """One row, no cache, every model from the start at every step."""
    ids = prompt[None]
    for _ in range(n):
        with torch.no_grad():
            logits = [m(ids, use_cache=False).logits[:, -1] for m in models]
        ids = torch.cat([ids, combine(*logits).argmax(-1, keepdim=True)], dim=1)
        if ids[0, -1] == 2:
            break
    return ids[0, len(prompt) :].tolist()


def left_pad(prompts):
    width = max(map(len, prompts))
    ids = torch.stack([torch.cat([torch.zeros(width - len(p), dtype=torch.long), p]) for p in prompts])
    return ids, (ids != 0).long()


def decode(model, prompts, n, **options):
    ids, mask = left_pad(prompts)
    out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=n, do_sample=False, **options)
    return out[:, ids.shape[1] :].tolist()


@pytest.fixture
def prompts():
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(3, VOCABULARY, (n,), generator=generator) for n in (3, 7, 12)]


@pytest.mark.parametrize("architecture", CONFIGS)
def test_greedy_equals_the_loop_without_cache(architecture, prompts):
    """With transformers' dynamic cache and with its static one."""
    pair = [make_model(CONFIGS[architecture], seed=s) for s in (1, 2)]
    expected = [greedy_reference(pair, CONTRAST, p, 20) for p in prompts]
    alone = [greedy_reference(pair[:1], lambda z: z, p, 20) for p in prompts]
    assert expected != alone  # the amateur matters, so agreement below means something
    for cache in ({}, {"cache_implementation": "static"}):
        got = decode(Experts(*pair, combine=CONTRAST), prompts, 20, **cache)
        assert [row[: len(e)] for row, e in zip(got, expected, strict=True)] == expected


def test_three_models_of_different_depth_decode_as_one(prompts):
    deep = LlamaConfig(**(CONFIGS["llama"].to_dict() | {"num_hidden_layers": 3}))
    models = [make_model(c, seed=s) for s, c in enumerate((CONFIGS["llama"], deep, CONFIGS["llama"]))]

    def proxy(large, tuned, small):
        """Proxy-tuning (Liu et al. 2024)."""
        return large + tuned - small

    expected = [greedy_reference(models, proxy, p, 12) for p in prompts]
    got = decode(Experts(*models, combine=proxy), prompts, 12)
    assert [row[: len(e)] for row, e in zip(got, expected, strict=True)] == expected


def test_without_mask_and_contrast_the_expert_is_left(prompts):
    expert, amateur = (make_model(CONFIGS["llama"], seed=s) for s in (1, 2))
    composite = Experts(expert, amateur, combine=partial(contrast, alpha=0.0, beta=0.0))
    assert decode(composite, prompts, 20) == decode(expert, prompts, 20)
    ids, mask = left_pad(prompts)
    with torch.no_grad():
        ours, alone = (m(input_ids=ids, attention_mask=mask, use_cache=False).logits for m in (composite, expert))
    torch.testing.assert_close(ours, torch.log_softmax(alone, dim=-1))


def test_a_uniform_second_expert_changes_nothing(prompts):
    expert, uniform = (make_model(CONFIGS["llama"], seed=s) for s in (1, 2))
    with torch.no_grad():
        uniform.lm_head.weight.zero_()
    assert decode(Experts(expert, uniform, combine=CONTRAST), prompts, 20) == decode(expert, prompts, 20)


def test_contrast_by_hand():
    expert = torch.tensor([0.5, 0.4, 0.06, 0.04]).log()
    amateur = torch.tensor([0.8, 0.1, 0.05, 0.05]).log()
    scores = contrast(expert, amateur, alpha=0.1, beta=1.0)  # plausible: p >= 0.05
    expected = torch.tensor([0.5 / 0.8, 0.4 / 0.1, 0.06 / 0.05]).log()
    torch.testing.assert_close(scores[:3], expected)
    assert scores[3] == -torch.inf
    half = contrast(expert, amateur, alpha=0.0, beta=0.5)
    torch.testing.assert_close(half, expert - 0.5 * amateur)
    torch.testing.assert_close(contrast(expert + 3, amateur - 5, alpha=0.1, beta=1.0), scores)  # shifts cancel


def test_plausible_tokens_by_hand():
    p = torch.tensor([0.5, 0.3, 0.15, 0.05])
    torch.testing.assert_close(plausible(p.log() + 2, alpha=0.0), p.log())
    scores = plausible(p.log(), alpha=0.3)  # p >= 0.15, its edge up to rounding
    torch.testing.assert_close(scores[:2], p[:2].log())  # not normalised again
    assert scores[3] == -torch.inf
    assert plausible(p.log(), alpha=1.0).isfinite().tolist() == [True, False, False, False]
    assert plausible(torch.zeros(3), alpha=1.0).isfinite().all()  # equals of the likeliest stay
    assert plausible(torch.tensor([[0.0, -torch.inf]]), alpha=0.0).tolist() == [[0.0, -torch.inf]]
    assert plausible(torch.zeros(4, dtype=torch.bfloat16), alpha=0.1).dtype == torch.float32


def contrast_law(expert, amateur, *, alpha, beta, exempt):
    """Probabilities of the next token by the definition, one token at a time, from probabilities as lists."""
    likely = [i for i, p in enumerate(expert) if p >= alpha * max(expert)]
    total = sum(expert[i] for i in likely)
    law = [expert[i] / total if i in likely and i in exempt else 0.0 for i in range(len(expert))]
    left, ratio = 1 - sum(law), {i: expert[i] / amateur[i] ** beta for i in likely if i not in exempt}
    for i, value in ratio.items():
        law[i] = left * value / sum(ratio.values())
    return torch.tensor(law)


@pytest.mark.parametrize("exempt", [[1], [3], [1, 2, 2], [0, 1], [4], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 1.0), (0.0, 0.5), (0.3, 2.0), (0.1, 0.0)])
def test_exempt_tokens_keep_the_experts_probability(exempt, alpha, beta):
    expert, amateur = [0.4, 0.3, 0.2, 0.08, 0.02], [0.7, 0.05, 0.1, 0.1, 0.05]
    logits = [torch.tensor(p).log() + shift for p, shift in ((expert, 3.0), (amateur, -2.0))]
    scores = contrast(*logits, alpha=alpha, beta=beta, exempt=exempt)
    assert not scores.isnan().any()
    expected = contrast_law(expert, amateur, alpha=alpha, beta=beta, exempt=exempt)
    torch.testing.assert_close(torch.softmax(scores, dim=-1), expected)
    both = contrast(*(z.expand(2, 3, -1) for z in logits), alpha=alpha, beta=beta, exempt=exempt)
    assert torch.equal(both, scores.expand(2, 3, -1))


def test_exempt_tokens_at_the_edges():
    sure = torch.tensor([0.98, 0.01, 0.01]).log()
    amateur = torch.tensor([0.98, 0.001, 0.019]).log()
    alone = contrast(sure, amateur, alpha=0.5, exempt=[0])  # nothing else is plausible
    torch.testing.assert_close(alone, torch.tensor([0.0, -torch.inf, -torch.inf]))
    implausible = contrast(sure, amateur, alpha=0.5, exempt=[1])
    torch.testing.assert_close(implausible, torch.tensor([0.0, -torch.inf, -torch.inf]))
    certain = contrast(torch.tensor([0.0, -200.0]), torch.zeros(2), alpha=0.0, exempt=[0])  # probability 1 in float32
    assert certain[0] == 0.0 and not certain.isnan().any()


def test_half_precision_logits_are_combined_in_float32():
    logits = torch.tensor([4.0, 1.0, 0.5], dtype=torch.bfloat16)
    assert contrast(logits, logits, alpha=0.1, beta=1.0).dtype == torch.float32


def test_a_cache_of_the_wrong_size_is_refused(prompts):
    from transformers import DynamicCache

    expert, amateur = (make_model(CONFIGS["llama"], seed=s) for s in (1, 2))
    with pytest.raises(ValueError, match="layers"):
        Experts(expert, amateur, combine=CONTRAST)(
            prompts[0][None], past_key_values=DynamicCache(config=expert.config), use_cache=True
        )
