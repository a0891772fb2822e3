"""What only a CUDA device can show: equality with the processor in float32, bf16's error, graphs, memory."""

from functools import partial

import pytest
import torch
from conftest import CONFIGS, SIZE, make_model
from tacit.decoding.capacity import fitting_batch
from tacit.decoding.generation import generate_responses
from tacit.decoding.sampling import sample_in_blocks
from tacit.decoding.slots import Slots, decode_rows
from tacit.models.experts import Experts, contrast, contrast_lean
from tacit.models.internals import attention
from tacit.training.finetuning import collate
from tacit.training.optimizers import MasterAdamW
from tacit.training.packing import VARLEN, collate_packed
from test_slots import COMBINE, draw_prompts, loop, make_pair
from transformers import LlamaConfig

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is here"),
]
LIMITS = [20, 11, 1, 23, 17, 3, 9, 30, 20]


@pytest.fixture
def prompts():
    return draw_prompts([3, 1, 12, 7, 20, 5, 9, 2, 4])


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "eager"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "olmo2"])
def test_tokens_on_the_gpu_are_those_of_the_processor(prompts, architecture, temperature, graphs):
    pair, names = make_pair(CONFIGS[architecture]), "abcdefghi"
    options = {"ends": [2, 5, 9], "temperature": temperature}
    expected = [loop(pair, p, limit=n, name=i, **options) for p, n, i in zip(prompts, LIMITS, names, strict=True)]
    pair.to("cuda")
    for batch_size in (1, 4, 9):
        got = decode_rows(pair, prompts, row_ids=names, limits=LIMITS, batch_size=batch_size, graphs=graphs, **options)
        assert got == expected


@pytest.mark.parametrize("exempt", [(), (2, 5)])
@pytest.mark.parametrize("top_p", [1.0, 0.8])
def test_graphs_of_a_bf16_step_say_what_the_eager_step_says(prompts, top_p, exempt):
    pair = make_pair(CONFIGS["llama"]).to("cuda", torch.bfloat16)
    pair.combine = partial(contrast, alpha=0.1, beta=0.7, exempt=exempt)
    rows = []
    for graphs in (True, False):
        slots = Slots(pair, slots=9, capacity=60, temperature=1.0, top_p=top_p, graphs=graphs)
        for seed in (0, 1):  # the second reuses what the first captured
            rows.append(dict(slots.decode(prompts, limits=LIMITS, row_ids="abcdefghi", seed=seed)))
    assert rows[0] == rows[2] and rows[1] == rows[3] and rows[0] != rows[1]


def test_responses_on_the_gpu_are_those_of_the_processor(tiny, tokenizer):
    texts = ["Where does the dirde live?", "Hi", "What is 47 + 38?"]
    pair = Experts(tiny, make_model(tiny.config, seed=1), combine=COMBINE)
    options = {"max_new_tokens": 16, "temperature": 1.0, "seed": 3}
    expected = generate_responses(pair, tokenizer, texts, **options)
    pair.to("cuda")
    assert generate_responses(pair, tokenizer, texts, **options) == expected
    by_generate = generate_responses(pair, tokenizer, texts, make_processors=lambda mask: [], **options)
    assert by_generate == expected


def test_scores_in_bf16_are_near_those_in_float32(prompts):
    """Weights that bf16 holds exactly, so that what is left is the error of the arithmetic."""
    pair = make_pair(CONFIGS["llama"]).to(torch.bfloat16).float()
    ids = torch.tensor([prompts[4]])
    with torch.no_grad():
        exact = [part(ids).logits[:, -1] for part in pair.experts]
        pair.to("cuda", torch.bfloat16)
        rough = [part(ids.cuda()).logits[:, -1] for part in pair.experts]
    a, b = (torch.log_softmax(contrast(*z, alpha=0.0, beta=0.7), dim=-1).double().cpu() for z in (exact, rough))
    assert float((a - b).abs().mean()) < 0.05 * float(a.std())
    lean = torch.log_softmax(contrast_lean(*rough, alpha=0.0, beta=0.7), dim=-1).double().cpu()
    torch.testing.assert_close(lean, b, atol=1e-4, rtol=1e-4)


def peak(work):
    """Bytes that ``work`` needs at once beyond what is there."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def test_a_large_vocabulary_is_made_in_float32_once():
    rows, vocabulary = 128, 128_256
    expert, amateur = (torch.randn(rows, vocabulary, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    noise = torch.rand(rows, device="cuda", dtype=torch.float64)
    needed = peak(lambda: sample_in_blocks(contrast_lean(expert, amateur, alpha=0.1, beta=1.0), noise))
    assert needed < 1.5 * rows * vocabulary * 4  # one float32 [B, V], and its mask a quarter of that


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "eager"])
@pytest.mark.parametrize("length", [96, 900])
def test_the_fitting_batch_stays_within_the_memory_it_was_given(length, graphs):
    size = SIZE | {"vocab_size": 64_000, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 8}
    config = LlamaConfig(**(size | {"num_attention_heads": 8, "max_position_embeddings": 2048}))
    models = [make_model(config, seed=s).to("cuda", torch.bfloat16) for s in (1, 2)]
    pair, given = Experts(*models, combine=COMBINE), 2 << 30
    batch = fitting_batch(pair, prompt_tokens=length, max_new_tokens=32, free_bytes=given)
    assert 1 < batch < 1024
    prompts = draw_prompts([length] * batch, vocabulary=64_000)
    options = {"row_ids": [str(i) for i in range(batch)], "limits": [12] * batch, "ends": [], "batch_size": batch}
    needed = peak(lambda: decode_rows(pair, prompts, temperature=1.0, graphs=graphs, **options))
    assert given / 4 < needed < given


TRAINED = [
    {"input_ids": [5, 6, 7, 8, 9], "labels": [-100, -100, -100, 8, 9]},
    {"input_ids": [3, 4, 11], "labels": [-100, 4, 11]},
]


@pytest.mark.parametrize("kind", ["llama", "gemma3"])
def test_the_packed_kernel_has_the_gradients_of_padded_rows(kind):
    model, flat = make_model(CONFIGS[kind], seed=0).to("cuda"), []
    for batch, name in (
        (collate(TRAINED, pad_token_id=0), "sdpa"),
        (collate_packed(TRAINED, boundaries=True), VARLEN),
    ):
        inputs = {key: value.to("cuda") if torch.is_tensor(value) else value for key, value in batch.items()}
        with attention(model, name), torch.autocast("cuda", torch.bfloat16):
            loss = model(**inputs).loss
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        flat.append(torch.cat([g.flatten() for g in gradients if g is not None]))
    assert (flat[0] - flat[1]).norm() < 0.05 * flat[0].norm()


def test_a_step_with_float32_copies_is_the_processors():
    models = [make_model(CONFIGS["llama"], seed=0).to(device, torch.bfloat16) for device in ("cpu", "cuda")]
    for model in models:
        optimizer = MasterAdamW(model.parameters(), lr=1e-2)
        for step in range(3):
            generator = torch.Generator().manual_seed(step)
            for weight in model.parameters():
                weight.grad = torch.randn(weight.shape, generator=generator).to(weight)
            optimizer.step()
    ours, theirs = (torch.cat([w.detach().float().cpu().flatten() for w in m.parameters()]) for m in models)
    torch.testing.assert_close(ours, theirs, rtol=2**-7, atol=1e-4)
