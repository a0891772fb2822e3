"""Decoding in slots against ``generate`` and loops without cache; its sampling, its memory, its refusals."""

from contextlib import contextmanager, nullcontext
from functools import partial
from unittest.mock import MagicMock

import pytest
import torch
from conftest import CONFIGS, SIZE, make_model
from scipy import stats
from tacit.decoding import capacity, generation, graphs, slots
from tacit.decoding.capacity import cache_bytes, fitting_batch
from tacit.decoding.generation import finish, generate_responses
from tacit.decoding.sampling import sample_in_blocks, sample_tokens
from tacit.decoding.slots import Slots, decode_rows, obstacle
from tacit.models.chat import encode_prompt
from tacit.models.experts import Experts, contrast, contrast_lean, lean, plausible
from tacit.support.errors import TacitError
from tacit.support.keyed import fraction
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, MistralConfig, OlmoConfig, Qwen2Config

PROMPTS = ["Where does the dirde live?", "Hi", "What is 47 + 38?", "Spell the word moon.", "Why?", "List three fruits."]
KNOWN = {name: config for name, config in CONFIGS.items() if name != "gemma3"} | {
    "mistral": MistralConfig(**SIZE, sliding_window=None),
    "olmo": OlmoConfig(**SIZE),
    "qwen2": Qwen2Config(**SIZE),
}
COMBINE = partial(contrast, alpha=0.1, beta=0.7)


def make_pair(config):
    return Experts(*(make_model(config, seed=s) for s in (1, 2)), combine=COMBINE)


def draw_prompts(lengths, *, seed=0, vocabulary=SIZE["vocab_size"]):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocabulary, (n,), generator=generator).tolist() for n in lengths]


def loop(model, prompt, *, limit, ends=(), temperature=0.0, name="", seed=0):
    """One row, no cache, the combiner of the composite as it is."""
    ids = torch.tensor([prompt])
    for step in range(limit):
        with torch.no_grad():
            scores = model(ids, use_cache=False).logits[:, -1]
        noise = torch.tensor([fraction("sample", seed, name, step)], dtype=torch.float64)
        token = sample_tokens(scores, noise, temperature=temperature) if temperature else scores.argmax(dim=-1)
        ids = torch.cat([ids, token[:, None]], dim=1)
        if int(token) in ends:
            break
    return ids[0, len(prompt) :].tolist()


@pytest.mark.parametrize(("architecture", "temperature"), [("llama", 0.0), *((name, 1.0) for name in KNOWN)])
def test_slots_say_what_a_loop_without_cache_says(architecture, temperature):
    """Prompts of lengths 1 to 20, ends at any time, fewer slots than rows: they are refilled, and shrink at the end."""
    pair = make_pair(KNOWN[architecture])
    prompts, limits = draw_prompts([3, 1, 12, 7, 20, 5, 9, 2, 4]), [12, 7, 1, 14, 10, 3, 6, 18, 12]
    names = [f"row {i}" for i in range(len(prompts))]
    options = {"ends": [2, 5, 9], "temperature": temperature}
    expected = [loop(pair, p, limit=n, name=name, **options) for p, n, name in zip(prompts, limits, names, strict=True)]
    assert len({len(row) for row in expected}) >= 4
    assert expected[3] != loop(pair.experts[0], prompts[3], limit=14, name="row 3", **options)  # the amateur matters
    for batch_size in (1, 4, 9) if architecture == "llama" else (4,):
        got = decode_rows(pair, prompts, row_ids=names, limits=limits, batch_size=batch_size, **options)
        assert got == expected


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (0.7, 1.0), (0.7, 0.8)])
@pytest.mark.parametrize("composite", [False, True], ids=["one model", "experts"])
def test_slots_say_what_generate_says(tiny, tokenizer, composite, temperature, top_p):
    model = Experts(tiny, make_model(tiny.config, seed=1), combine=COMBINE) if composite else tiny
    options = {"max_new_tokens": 19, "temperature": temperature, "top_p": top_p, "seed": 3}
    expected = generate_responses(model, tokenizer, PROMPTS, **options)
    ends = sorted({tokenizer.eos_token_id, *(response.tokens[8] for response in expected[:2])})
    model.generation_config.eos_token_id = ends
    expected = generate_responses(model, tokenizer, PROMPTS, **options)
    assert len({response.n_tokens for response in expected}) > 1
    prompts, limits = [encode_prompt(tokenizer, text) for text in PROMPTS], [options.pop("max_new_tokens")] * 6
    for batch_size in (6, 2):
        rows = decode_rows(model, prompts, row_ids="012345", limits=limits, ends=ends, batch_size=batch_size, **options)
        assert [finish(tokenizer, row, ends=ends) for row in rows] == expected


@pytest.mark.parametrize("architecture", [name for name in KNOWN if name not in ("gpt2", "olmo")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_fused_norms_are_the_models_own_up_to_rounding_and_leave_no_trace(architecture, dtype):
    model = make_model(KNOWN[architecture], seed=0)
    norms = [module for module in model.modules() if type(module).__name__.endswith("RMSNorm")]
    assert len(norms) >= 5
    for norm in norms:
        torch.nn.init.normal_(norm.weight)
    model.to(dtype)
    inputs = [torch.randn(3, 2, len(norm.weight), dtype=dtype) for norm in norms]
    with torch.no_grad():
        expected = [norm(hidden) for norm, hidden in zip(norms, inputs, strict=True)]
        with graphs.fused_norms([model]):
            assert all("forward" in vars(norm) for norm in norms)
            got = [norm(hidden) for norm, hidden in zip(norms, inputs, strict=True)]
    assert not any("forward" in vars(norm) for norm in norms)
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("chunk", "attention"), [(4, "sdpa"), (7, "eager"), (33, "sdpa")])
def test_prompts_read_in_chunks_leave_the_same_cache(monkeypatch, chunk, attention):
    pair = make_pair(CONFIGS["llama"])
    for part in pair.experts:
        part.set_attn_implementation(attention)
    prompts = draw_prompts([30, 9, 18, 1])
    whole = decode_rows(pair, prompts, row_ids="abcd", limits=[9] * 4, ends=[], batch_size=4)
    assert whole == [loop(pair, prompt, limit=9) for prompt in prompts]
    widths = []
    for part in pair.experts:
        part.register_forward_pre_hook(lambda _, __, kw: widths.append(kw["input_ids"].shape), with_kwargs=True)
    monkeypatch.setattr(slots, "CHUNK", chunk)
    assert decode_rows(pair, prompts, row_ids="abcd", limits=[9] * 4, ends=[], batch_size=4) == whole
    assert max(rows * width for rows, width in widths) <= max(chunk, 4)
    assert len(widths) > 2 * 9


def test_attention_reads_further_only_when_rows_get_there(monkeypatch):
    monkeypatch.setattr(capacity, "ROUND", 8)
    monkeypatch.setattr(
        Slots,
        "run",
        lambda self, n, steps, reach, inner=Slots.run: (seen.append((n, reach)), inner(self, n, steps, reach))[1],
    )
    seen, pair = [], make_pair(CONFIGS["llama"])
    prompts, limits = draw_prompts([3, 4, 5, 2]), [5, 6, 40, 3]
    got = decode_rows(pair, prompts, row_ids="abcd", limits=limits, ends=[], batch_size=4)
    assert got == [loop(pair, p, limit=n) for p, n in zip(prompts, limits, strict=True)]
    assert seen[0] == (4, 16) and seen[1][0] == 1  # one of four is left: a quarter
    assert [reach for _, reach in seen] == sorted(reach for _, reach in seen) and seen[-1][1] == 48


class Calls(TorchDispatchMode):
    """What a step asks of the device: operators by name, and the bytes of each float32 or float64 tensor it makes."""

    def __init__(self):
        super().__init__()
        self.names, self.sizes = set(), []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        self.names.add(function.__name__)
        known = {
            t.untyped_storage().data_ptr() for t in [*args, *(kwargs or {}).values()] if isinstance(t, torch.Tensor)
        }
        is_float = isinstance(out, torch.Tensor) and out.dtype in (torch.float32, torch.float64)
        if is_float and out.untyped_storage().data_ptr() not in known:
            self.sizes.append(out.numel() * out.itemsize)
        return out


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (1.0, 0.8)])
@pytest.mark.parametrize("exempt", [(), (2, 5)])
def test_a_step_holds_nothing_that_a_graph_cannot(temperature, top_p, exempt):
    """Nothing read back to the host, nothing made from host data, no shape that depends on values."""
    pair = make_pair(CONFIGS["llama"])
    pair.combine = partial(contrast, alpha=0.1, beta=0.7, exempt=exempt)
    slots = Slots(pair, slots=3, capacity=40, temperature=temperature, top_p=top_p)
    with torch.inference_mode():
        slots.fill([0, 1, 2], draw_prompts([3, 9, 5]))
        slots.advance(3, 128)
        with Calls() as calls:
            slots.advance(3, 128)
    assert "index_copy_.default" in calls.names
    forbidden = (
        "_local_scalar_dense",
        "lift_fresh",
        "nonzero",
        "is_nonzero",
        "masked_select",
        "unique",
        "equal.",
        "item",
    )
    assert not [name for name in calls.names if name.startswith(forbidden)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_step_mixes_no_devices(temperature):
    """On torch's meta device, which computes nothing and takes no tensors of the processor beside its own."""
    with torch.device("meta"):
        pair = make_pair(LlamaConfig(**(SIZE | {"vocab_size": 128_256})))
    pair.combine = partial(contrast, alpha=0.1, beta=0.7, exempt=(2,))
    pair = pair.to(torch.bfloat16)
    slots = Slots(pair, slots=4, capacity=200, temperature=temperature)
    with torch.inference_mode():
        slots.fill([0, 2, 3], [[3] * n for n in (5, 150, 1)])
        slots.advance(4, 128)
        slots.gather([3, 1])
        slots.advance(2, 256)
    layer = slots.caches[1].layers[0]
    assert (layer.keys.device.type, layer.keys.dtype, layer.keys.shape) == ("meta", torch.bfloat16, (4, 2, 256, 8))


@pytest.mark.parametrize("exempt", [(), (3,), (0, 50, 3)])
@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 1.0), (0.0, 0.5), (0.3, 2.0), (0.1, 0.0), (1.0, 1.0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_lean_contrast_is_the_contrast_up_to_a_constant(monkeypatch, alpha, beta, dtype, exempt):
    monkeypatch.setattr("tacit.models.experts.PIECE", 16)
    torch.manual_seed(0)
    expert, amateur = (torch.randn(7, 97).mul(2).to(dtype) for _ in range(2))
    expert[0, 4] = amateur[0, 4] = amateur[1, 5] = -torch.inf
    expert[1, 5] = -20.0
    expert[2, 3] = 30.0  # nothing else is plausible
    before = expert.clone(), amateur.clone()
    options = {"alpha": alpha, "beta": beta, "exempt": exempt}
    amateur[1, 5] = before[1][1, 5] = -3.0 if not alpha else -torch.inf  # else its score is infinite in both
    expected, got = (torch.log_softmax(f(expert, amateur, **options), dim=-1) for f in (contrast, contrast_lean))
    assert torch.equal(expert, before[0]) and torch.equal(amateur, before[1])
    assert not expected.isnan().any()
    torch.testing.assert_close(got, expected, atol=2e-5, rtol=1e-4)
    if exempt:
        torch.testing.assert_close(
            contrast_lean(expert, amateur, **options), contrast(expert, amateur, **options), atol=2e-5, rtol=1e-4
        )


def test_only_the_contrast_and_its_mask_are_made_lean():
    scores = torch.randn(3, 97)
    for alpha in (0.0, 0.3):
        mask = partial(plausible, alpha=alpha)
        expected, got = (torch.log_softmax(f(scores), dim=-1) for f in (mask, lean(mask)))
        torch.testing.assert_close(got, expected)
    assert lean(COMBINE).func is contrast_lean and lean(COMBINE).keywords == COMBINE.keywords
    assert lean(contrast) is contrast_lean
    assert lean(torch.add) is torch.add


@pytest.mark.parametrize("exempt", [(), (7,)])
def test_a_large_vocabulary_is_made_in_float32_once(exempt):
    """From bfloat16 logits [B, V] to tokens: one float32 [B, V], and nothing else of its order."""
    rows, vocabulary = 4, 50_000
    torch.manual_seed(0)
    expert, amateur = (torch.randn(rows, vocabulary, dtype=torch.bfloat16) for _ in range(2))
    noise = torch.rand(rows, dtype=torch.float64)
    with Calls() as calls:
        sample_in_blocks(contrast_lean(expert, amateur, alpha=0.1, beta=1.0, exempt=exempt), noise)
    large = sorted(calls.sizes)[::-1]
    assert large[0] == rows * vocabulary * 4
    assert large[1] <= rows * vocabulary  # a quarter of it: pieces and sums of blocks
    with Calls() as calls:
        sample_tokens(contrast(expert, amateur, alpha=0.1, beta=1.0, exempt=exempt), noise)
    assert sum(size >= rows * vocabulary * 4 for size in calls.sizes) > 4  # the plain way, for comparison


@pytest.mark.parametrize("vocabulary", [5, 256, 257, 1000, 4096])
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_sampling_in_blocks_is_sampling(vocabulary, temperature):
    torch.manual_seed(0)
    scores = torch.randn(500, vocabulary) * 3
    scores[:, torch.randperm(vocabulary)[: vocabulary // 2]] = -torch.inf
    noise = torch.rand(500, dtype=torch.float64)
    noise[0] = 0.0
    expected = sample_tokens(scores, noise, temperature=temperature)
    assert torch.equal(sample_in_blocks(scores.clone(), noise, temperature=temperature), expected)


def test_sampling_in_blocks_never_picks_an_impossible_token():
    scores = torch.full((3, 1000), -torch.inf)
    scores[0, 999] = scores[1, 256] = scores[2, 3] = scores[2, 700] = 0.0
    for noise, expected in ((0.0, [999, 256, 3]), (1.0 - 2**-53, [999, 256, 700])):
        assert sample_in_blocks(scores.clone(), torch.full((3,), noise, dtype=torch.float64)).tolist() == expected


def test_first_tokens_in_slots_follow_the_masked_contrast():
    """Chi-squared against p / q^beta on the plausible tokens, normalised."""
    n, pair, [prompt] = 1500, make_pair(CONFIGS["llama"]), draw_prompts([6])
    with torch.no_grad():
        p, q = (part(torch.tensor([prompt])).logits[0, -1].double().softmax(dim=-1) for part in pair.experts)
    law = torch.where(p >= 0.1 * p.max(), p / q**0.7, 0.0)
    law = law / law.sum()
    rows = decode_rows(
        pair, [prompt] * n, row_ids=[str(i) for i in range(n)], limits=[1] * n, ends=[], batch_size=500, temperature=1.0
    )
    counts = torch.bincount(torch.tensor(rows)[:, 0], minlength=len(law))
    assert not counts[law == 0].any()
    likely = law * n >= 5
    observed, expected = counts[likely].double(), law[likely] * n
    rest = n - float(observed.sum()), n - float(expected.sum())
    if rest[1] > 1e-6:
        observed, expected = (
            torch.cat([a, torch.tensor([b]).double()]) for a, b in zip((observed, expected), rest, strict=True)
        )
    assert len(observed) > 2
    assert stats.chisquare(observed.numpy(), expected.numpy()).pvalue > 0.001


def test_models_that_slots_cannot_decode_are_refused_and_go_by_generate(tiny, tokenizer):
    gemma = make_model(CONFIGS["gemma3"], seed=0)
    assert "full attention" in obstacle(gemma)
    assert "full attention" in obstacle(make_model(MistralConfig(**SIZE, sliding_window=8), seed=0))
    with pytest.raises(TacitError, match="full attention"):
        Slots(gemma, slots=1, capacity=8)
    tiny.set_attn_implementation("flex_attention")
    assert "flex_attention" in obstacle(tiny)
    tiny.set_attn_implementation("sdpa")
    assert obstacle(tiny) is None
    tiny.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    assert "dynamic" in obstacle(tiny)
    tiny.config.model_type = "other"
    assert "other" in obstacle(tiny)


def test_a_row_longer_than_a_slot_is_refused():
    slots = Slots(make_pair(CONFIGS["llama"]), slots=1, capacity=100)
    with pytest.raises(TacitError, match="130 tokens"):
        list(slots.decode([[3] * 10], limits=[120], row_ids=["a"]))


def test_rows_that_ended_before_memory_ran_out_are_kept(monkeypatch):
    pair, prompts = make_pair(CONFIGS["llama"]), draw_prompts([3, 4, 5, 6, 7])
    limits = [4, 30, 30, 4, 30]
    options = {"row_ids": "abcde", "limits": limits, "ends": []}
    expected = decode_rows(pair, prompts, batch_size=5, **options)
    sizes, inner = [], Slots.run

    def scarce(self, n, steps, reach):
        sizes.append(self.slots)
        if self.slots > 1 and len(sizes) % 2 == 0:
            raise torch.OutOfMemoryError
        return inner(self, n, steps, reach)

    monkeypatch.setattr(Slots, "run", scarce)
    assert decode_rows(pair, prompts, batch_size=5, **options) == expected
    assert sizes[:4] == [5, 5, 2, 2] and set(sizes[4:]) == {1}
    monkeypatch.setattr(Slots, "run", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError))
    with pytest.raises(TacitError, match="memory"):
        decode_rows(pair, prompts, batch_size=5, **options)


def test_the_fitting_batch_is_what_the_parts_add_up_to():
    pair = make_pair(CONFIGS["llama"])
    assert (
        cache_bytes(pair) == 2 * cache_bytes(pair.experts[0]) == 2 * (2 * 2 * 2 * 8 * 4)
    )  # models, K and V, layers, heads, d, bytes
    layers = [layer for cache in Slots(pair, slots=3, capacity=100).caches for layer in cache.layers]
    for layer in layers:
        layer.lazy_initialization(*[torch.zeros(3, 2, 1, 8)] * 2)
    assert sum(s.nbytes for layer in layers for s in (layer.keys, layer.values)) == 3 * 128 * cache_bytes(pair)
    sizes = [
        fitting_batch(pair, prompt_tokens=100, max_new_tokens=28, free_bytes=int(free)) for free in (0, 6e7, 8e7, 1e12)
    ]
    assert sizes[0] == 1 and sizes[-1] == capacity.MOST
    row = 128 * cache_bytes(pair) + 97 * (8 + 9) + (8 * 32 + 3 * 48) * 4
    assert 0 <= (sizes[2] - sizes[1]) * row - 0.9 * 2e7 + row <= 2 * row  # what more memory buys
    assert fitting_batch(pair, prompt_tokens=1000, max_new_tokens=28, free_bytes=int(6e7)) < sizes[1] / 5


def test_a_gpu_decodes_in_slots_what_it_can_and_a_processor_by_generate(tiny, tokenizer, monkeypatch):
    """And the default batch: 128 without a GPU, with one what its memory takes."""
    seen = []

    def note(way):
        return lambda *_, batch_size, **__: seen.append((way, batch_size)) or [[5]] * 2

    monkeypatch.setattr(generation, "decode_rows", note("slots"))
    monkeypatch.setattr(generation, "decode_within_memory", note("generate"))
    generate_responses(tiny, tokenizer, PROMPTS[:2])
    monkeypatch.setattr(type(tiny), "device", property(lambda self: torch.device("cuda")))
    monkeypatch.setattr(generation, "free_memory", lambda device: int(2e8))
    generate_responses(tiny, tokenizer, PROMPTS[:2], max_new_tokens=40)
    generate_responses(tiny, tokenizer, PROMPTS[:2], max_new_tokens=40, make_processors=lambda mask: [])
    generate_responses(tiny, tokenizer, PROMPTS[:2], max_new_tokens=40, batch_size=3)
    tiny.config.model_type = "other"
    monkeypatch.setattr(generation, "check_decoding", lambda model: None)  # it would run on the device
    generate_responses(tiny, tokenizer, PROMPTS[:2], max_new_tokens=40)
    longest = max(len(encode_prompt(tokenizer, prompt)) for prompt in PROMPTS[:2])
    room = fitting_batch(tiny, prompt_tokens=longest, max_new_tokens=40, free_bytes=int(2e8))
    assert seen == [("generate", 128), ("slots", room), ("generate", room), ("slots", 3), ("generate", room)]


class MadeUpGraph:
    """A CUDA graph without CUDA: what is called while it is captured does nothing then, and is done at each replay."""

    def __init__(self):
        self.work, self.replays = [], 0

    def replay(self):
        self.replays += 1
        for work in self.work:
            work()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_capturing_a_step_changes_nothing_that_a_row_sees(monkeypatch, temperature):
    pair, prompts = make_pair(CONFIGS["llama"]), draw_prompts([3, 1, 12, 7, 20])
    limits, into, inner = [9, 40, 3, 17, 1], [], Slots.advance

    @contextmanager
    def graph(graph, pool):
        into.append(graph)
        yield
        into.pop()

    def advance(self, n, reach):
        if into:
            into[0].work.append(lambda: inner(self, n, reach))
        else:
            inner(self, n, reach)

    stream = MagicMock()
    fakes = {"CUDAGraph": MadeUpGraph, "graph": graph, "graph_pool_handle": object, "Stream": stream}
    fakes |= {"current_stream": stream, "stream": lambda side: nullcontext(), "device": lambda device: nullcontext()}
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(Slots, "advance", advance)
    monkeypatch.setattr(capacity, "ROUND", 8)
    options = {"limits": limits, "row_ids": "abcde", "seed": 5}
    expected = [
        loop(pair, p, limit=n, name=name, seed=5, temperature=temperature)
        for p, n, name in zip(prompts, limits, "abcde", strict=True)
    ]
    made_slots = Slots(pair, slots=4, capacity=41, temperature=temperature, graphs=True)
    first = dict(made_slots.decode(prompts, **options))
    captured = dict(made_slots.graphs)
    again = dict(made_slots.decode(prompts, **options))
    assert [first[i] for i in range(5)] == [again[i] for i in range(5)] == expected
    assert len(captured) >= 4 and all(made_slots.graphs[key] is graph for key, graph in captured.items())
    assert len(made_slots.graphs) == len(captured)
    assert all(len(graph.work) == 1 and graph.replays for graph in captured.values())
