"""Task vectors against references of another make: finite differences, reverse mode, closed forms, numpy, scipy."""

import numpy as np
import pytest
import torch
from conftest import CONFIGS, SIZE, make_model
from datasets import Dataset
from scipy import stats
from tacit.experiments import arms, distillation
from tacit.findings import taskvectors
from tacit.scoring.likelihoods import token_log_ratios
from tacit.support.errors import TacitError
from torch import nn
from transformers import LlamaConfig, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

ROWS = [([1, 5, 9, 30], [7, 8, 2]), ([1, 4], [6, 2]), ([1, 11, 12, 13, 14, 15], [3, 3, 40, 2])]
PROMPTS, RESPONSES = [prompt for prompt, _ in ROWS], [response for _, response in ROWS]


def pair(architecture, *, distance=0.02):
    """Two models of one architecture, close to each other."""
    pre, post = (make_model(CONFIGS[architecture], seed=0) for _ in range(2))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in post.parameters():
            parameter.add_(distance * torch.randn_like(parameter))
    return post, pre


def flat(rows):
    return np.concatenate([np.asarray(row) for row in rows])


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_whole_vector_leads_from_one_model_to_the_other(architecture):
    post, pre = pair(architecture)
    before = {name: p.clone() for name, p in pre.named_parameters()}
    there = taskvectors.moved(pre, taskvectors.task_vector(post, pre), 1.0)
    ids = torch.arange(3, 23)[None]
    with torch.no_grad():
        torch.testing.assert_close(there(ids).logits, post(ids).logits, atol=1e-4, rtol=1e-4)
        assert not torch.allclose(pre(ids).logits, post(ids).logits, atol=1e-2)
    assert all(torch.equal(before[name], p) for name, p in pre.named_parameters())


def test_a_move_goes_in_proportion_and_keeps_the_dtype():
    post, pre = pair("llama")
    tau = taskvectors.task_vector(post, pre)
    far, back = taskvectors.moved(pre, tau, 2.5), taskvectors.moved(post, tau, -1.0)
    name = "model.layers.1.mlp.up_proj.weight"
    torch.testing.assert_close(far.get_parameter(name), pre.get_parameter(name) + 2.5 * tau[name])
    torch.testing.assert_close(back.get_parameter(name), pre.get_parameter(name))
    half = pre.to(torch.bfloat16)
    assert taskvectors.moved(half, tau).dtype == torch.bfloat16
    assert {t.dtype for t in taskvectors.task_vector(half, half).values()} == {torch.float32}


def test_tied_embeddings_are_one_parameter_and_stay_tied():
    config = LlamaConfig(**SIZE, tie_word_embeddings=True)
    pre, post = make_model(config, seed=0), make_model(config, seed=1)
    tau = taskvectors.task_vector(post, pre)
    assert "lm_head.weight" not in tau
    assert "model.embed_tokens.weight" in tau
    there = taskvectors.moved(pre, tau)
    assert there.lm_head.weight is there.model.embed_tokens.weight
    torch.testing.assert_close(there.lm_head.weight, post.lm_head.weight)
    untied = make_model(LlamaConfig(**SIZE), seed=0)
    with pytest.raises(TacitError, match=r"lm_head\.weight has shape \[97, 32\] in one and is missing in the other"):
        taskvectors.task_vector(untied, pre)


def test_another_architecture_is_refused_by_the_name_of_a_parameter():
    llama, gpt2 = (make_model(CONFIGS[name], seed=0) for name in ("llama", "gpt2"))
    with pytest.raises(
        TacitError, match=r"parameter transformer\.wte\.weight has shape .* and is missing in the other"
    ):
        taskvectors.task_vector(gpt2, llama)
    tau = taskvectors.task_vector(llama, llama)
    for refused in (
        lambda: taskvectors.moved(gpt2, tau),
        lambda: taskvectors.predicted_changes(gpt2, tau, None, PROMPTS, RESPONSES),
    ):
        with pytest.raises(TacitError, match="architectures differ"):
            refused()
    wider = make_model(LlamaConfig(**SIZE | {"vocab_size": 98}), seed=0)
    with pytest.raises(TacitError, match=r"embed_tokens\.weight has shape \[98, 32\] in one and has shape \[97, 32\]"):
        taskvectors.task_vector(wider, llama)
    deeper = make_model(LlamaConfig(**SIZE | {"num_hidden_layers": 3}), seed=0)
    with pytest.raises(TacitError, match=r"model\.layers\.2\.\S+ is missing in one"):
        taskvectors.task_vector(llama, deeper)


def log_probabilities(model, prompt, response):
    """Of the response's tokens, one row alone, without padding: [T]."""
    ids = torch.tensor([[*prompt, *response]])
    log_p = torch.log_softmax(model(ids[:, :-1]).logits[0], dim=-1)
    return log_p[torch.arange(len(prompt) - 1, ids.shape[1] - 1), ids[0, len(prompt) :]]


@pytest.mark.parametrize("architecture", CONFIGS)
def test_predicted_changes_are_gradients_times_the_vector(architecture, tokenizer):
    """Against reverse mode, row by row and token by token; embeddings that a model ties count once."""
    post, pre = pair(architecture)
    tau = taskvectors.task_vector(post, pre)
    before = pre.config._attn_implementation
    found = taskvectors.predicted_changes(pre, tau, tokenizer, PROMPTS, RESPONSES)
    assert pre.config._attn_implementation == before
    names, weights = zip(*pre.named_parameters(), strict=True)
    for prompt, response, row in zip(PROMPTS, RESPONSES, found, strict=True):
        expected = []
        for value in log_probabilities(pre, prompt, response):
            gradients = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
            named = [(n, g) for n, g in zip(names, gradients, strict=True) if g is not None]
            expected.append(sum(float((g * tau[n]).sum()) for n, g in named))
        np.testing.assert_allclose(row, expected, atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("tied", [False, True])
def test_predicted_changes_are_finite_differences_of_true_ones(tied, tokenizer):
    config = LlamaConfig(**SIZE, tie_word_embeddings=tied)
    pre, other = make_model(config, seed=0), make_model(config, seed=1)
    tau = {name: 0.1 * t for name, t in taskvectors.task_vector(other, pre).items()}
    found = taskvectors.predicted_changes(pre, tau, tokenizer, PROMPTS, RESPONSES)
    step = 2e-3
    ahead, behind = (taskvectors.moved(pre, tau, s) for s in (step, -step))
    true = token_log_ratios(ahead, behind, tokenizer, PROMPTS, RESPONSES)
    np.testing.assert_allclose(flat(found), flat(true) / (2 * step), atol=2e-3, rtol=2e-2)
    assert np.abs(flat(found)).max() > 0.1


def test_predicted_changes_do_not_depend_on_the_batch(tokenizer, monkeypatch):
    post, pre = pair("llama")
    tau = taskvectors.task_vector(post, pre)
    all_ = taskvectors.predicted_changes(pre, tau, tokenizer, PROMPTS, RESPONSES)
    monkeypatch.setattr(taskvectors, "BATCH_TOKENS", 1)
    one = taskvectors.predicted_changes(pre, tau, tokenizer, PROMPTS, RESPONSES)
    assert [len(row) for row in all_] == [len(response) for response in RESPONSES]
    np.testing.assert_allclose(flat(one), flat(all_), atol=1e-5)


class BigramConfig(PreTrainedConfig):
    model_type = "tacit_test_bigram"


class Bigram(PreTrainedModel):
    """Logits linear in the weights: those of the token after v are row v of one matrix."""

    config_class = BigramConfig

    def __init__(self, weights):
        super().__init__(BigramConfig())
        self.table = nn.Embedding.from_pretrained(weights, freeze=False)

    def forward(self, input_ids, **kwargs):
        return CausalLMOutputWithPast(logits=self.table(input_ids))

    def set_attn_implementation(self, attn_implementation):
        """It has no attention."""


def test_a_bigram_model_gives_the_closed_form(tokenizer):
    """d log p(y|x) = V[x, y] - sum_u p(u|x) V[x, u] for a step V of the table."""
    rng = np.random.default_rng(0)
    weights, step = rng.normal(size=(2, 50, 50)).astype(np.float32)
    found = taskvectors.predicted_changes(
        Bigram(torch.tensor(weights)), {"table.weight": torch.tensor(step)}, tokenizer, PROMPTS, RESPONSES
    )
    p = np.exp(weights) / np.exp(weights).sum(axis=1, keepdims=True)
    for prompt, response, row in zip(PROMPTS, RESPONSES, found, strict=True):
        last = [prompt[-1], *response[:-1]]
        expected = [step[x, y] - p[x] @ step[x] for x, y in zip(last, response, strict=True)]
        np.testing.assert_allclose(row, expected, atol=1e-5)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_every_parameter_belongs_to_a_part(architecture):
    model = make_model(CONFIGS[architecture], seed=0)
    names = [name for name, _ in model.named_parameters()]
    groups = {
        group: [n for n in names if taskvectors.group_of(n) == group] for group in map(taskvectors.group_of, names)
    }
    expected = {"embeddings", "norms", *(f"layer {i} {part}" for i in (0, 1) for part in ("attention", "mlp"))}
    assert set(groups) - {"head"} == expected
    assert all("norm" in n or "ln_" in n for n in groups["norms"])
    assert all(p.ndim == 1 for n, p in model.named_parameters() if n in groups["norms"])
    assert ("head" in groups) == (not model.config.tie_word_embeddings)
    assert taskvectors.group_of("model.vision_tower.encoder.layers.0.mlp.fc1.weight") == "other"


def test_cosines_are_numpys():
    post, pre = pair("llama", distance=0.5)
    other = make_model(CONFIGS["llama"], seed=7)
    a, b = taskvectors.task_vector(post, pre), taskvectors.task_vector(other, pre)
    b = {name: t + a[name] for name, t in b.items()}

    def cosine(names):
        x, y = (np.concatenate([v[n].numpy().ravel().astype(float) for n in names]) for v in (a, b))
        return x @ y / np.linalg.norm(x) / np.linalg.norm(y)

    found = taskvectors.cosines(a, b)
    assert next(iter(found)) == "all"
    for group, value in found.items():
        assert value == pytest.approx(cosine([n for n in a if group in ("all", taskvectors.group_of(n))]), abs=1e-6)
    assert taskvectors.cosines(a, {name: -3 * t for name, t in a.items()})["all"] == pytest.approx(-1)
    zero = {name: torch.zeros_like(t) for name, t in a.items()}
    assert set(taskvectors.cosines(a, zero).values()) == {0.0}


def test_alignment_is_cosine_times_length():
    post, pre = pair("llama")
    tau = taskvectors.task_vector(post, pre)
    assert taskvectors.alignment({n: 0.25 * t for n, t in tau.items()}, tau) == pytest.approx(
        dict.fromkeys(taskvectors.cosines(tau, tau), 1.0) | {"along": 0.25, "length": 0.25}
    )
    other = taskvectors.task_vector(make_model(CONFIGS["llama"], seed=5), pre)
    found = taskvectors.alignment(other, tau)
    assert found["along"] == pytest.approx(found["all"] * found["length"])


def ragged(rng, *, n):
    lengths = rng.integers(1, 9, size=n)
    x = [rng.normal(size=k) for k in lengths]
    return x, [row + rng.normal(scale=0.7, size=len(row)) + rng.normal() for row in x]


def test_correlations_are_numpys_with_rows_resampled():
    rng = np.random.default_rng(3)
    x, y = ragged(rng, n=60)
    found = taskvectors.correlation(x, y)
    assert found.value == pytest.approx(np.corrcoef(flat(x), flat(y))[0, 1])
    assert found.low < found.value < found.high
    assert (found.n_seeds, found.n_prompts) == (1, 60)
    drawn = []
    for _ in range(1_500):
        rows = rng.integers(60, size=60)
        drawn.append(np.corrcoef(flat([x[i] for i in rows]), flat([y[i] for i in rows]))[0, 1])
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.02)
    far = taskvectors.correlation([row + 1e6 for row in x], [2 * row - 1e6 for row in y])
    assert far.value == pytest.approx(found.value, abs=1e-6)


def test_resamples_without_variation_correlate_0():
    """Four rows of a token each: some resamples hold one row four times, which has no correlation."""
    x, y = [[1.0], [2.0], [3.0], [5.0]], [[1.0], [2.0], [4.0], [1.0]]
    found = taskvectors.correlation(x, y)
    assert found.value == pytest.approx(np.corrcoef(flat(x), flat(y))[0, 1])
    assert found.low == pytest.approx(-1) and found.high == pytest.approx(1)
    assert taskvectors.correlation([[0.1, 0.1]] * 9, [[0.3, 0.7]] * 9).value == 0


def test_responses_correlate_by_their_sums_given_their_lengths():
    """Against a regression of both sums on the length, and a bootstrap by hand."""
    rng = np.random.default_rng(5)
    lengths = rng.integers(2, 30, size=80)
    shared = rng.normal(size=80)
    x, y = ([1.0 + (shared[i] + rng.normal()) / n + np.zeros(n) for i, n in enumerate(lengths)] for _ in range(2))
    sums = np.array([[row.sum() for row in side] for side in (x, y)])

    def by_hand(rows):
        left = [stats.linregress(lengths[rows], of[rows]) for of in sums]
        apart = [of[rows] - fit.intercept - fit.slope * lengths[rows] for of, fit in zip(sums, left, strict=True)]
        return np.corrcoef(*apart)[0, 1]

    found = taskvectors.correlate_responses(x, y)
    assert found.value == pytest.approx(by_hand(np.arange(80)))
    drawn = [by_hand(rng.integers(80, size=80)) for _ in range(1_500)]
    assert (found.low, found.high) == pytest.approx(np.quantile(drawn, [0.025, 0.975]), abs=0.03)
    plain = taskvectors.correlate_responses(x, y, partial_out=False)
    assert plain.value == pytest.approx(np.corrcoef(*sums)[0, 1])
    assert plain.value > 0.95 > found.value  # length alone makes them agree
    same = [np.ones(n) for n in lengths]
    assert taskvectors.correlate_responses(same, y).value == 0  # nothing is left beyond length


def test_the_parts_of_a_vector_are_measured_beside_the_weights():
    post, pre = pair("llama", distance=0.05)
    tau = taskvectors.task_vector(post, pre)
    table = taskvectors.measure_parts(tau, pre)
    whole = [torch.cat([v.detach().flatten() for v in side]).norm().item() for side in (tau.values(), pre.parameters())]
    assert table.loc["all", ["vector", "weights"]].tolist() == pytest.approx(whole, rel=1e-5)
    assert table["share"].tolist() == pytest.approx((table["vector"] / table["weights"]).tolist())
    assert (table.drop("all")["vector"] ** 2).sum() == pytest.approx(whole[0] ** 2, rel=1e-4)
    assert set(table.index) == {"all", *(taskvectors.group_of(name) for name in tau)}


def test_seeds_give_students_interval():
    values = [0.31, 0.34, 0.29, 0.36, 0.33]
    found = taskvectors.over_seeds(values)
    reference = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high))
    assert (found.value, found.n_seeds, found.n_prompts) == (pytest.approx(np.mean(values)), 5, 1)
    single = taskvectors.over_seeds([0.4])
    assert (single.low, single.value, single.high) == (0.4, 0.4, 0.4)
    alone = taskvectors.over_seeds([0.4], widest=2)
    assert (alone.low, alone.value, alone.high) == (-2, 0.4, 2)
    assert taskvectors.over_seeds(values, widest=2) == found


def test_an_update_is_that_of_the_student_that_teach_makes(tiny, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "student"
    tiny.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    rows = [{"id": str(i), "instruction": f"Say {w}.", "response": w, "more": i} for i, w in enumerate("abcdefgh")]
    data, tuning = Dataset.from_list(rows), {"epochs": 1, "seed": 1, "learning_rate": 1e-2, "batch_size": 4}
    update = taskvectors.tuned_update(str(folder), data, **tuning)
    assert taskvectors.dot(update, update) > 0

    def refuse(*_, **__):
        raise AssertionError("another model than the update's")

    monkeypatch.setattr(arms, "finetune", refuse)
    taught = distillation.teach(str(folder), data, data, max_new_tokens=4, **tuning)
    there = taskvectors.moved(tiny, update)
    again = arms.generate_responses(
        there, distillation.student_tokenizer(str(folder)), data["instruction"], ids=data["id"], max_new_tokens=4
    )
    assert [r.tokens for r in again] == [r.tokens for r in taught]
