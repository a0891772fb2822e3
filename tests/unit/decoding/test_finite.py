"""Scores that are no finite numbers, prompts that a model cannot take, and architectures that decode otherwise."""

import pytest
import torch
from conftest import SIZE, llama_config, make_model
from tacit.decoding.generation import generate_responses
from tacit.decoding.probes import check_decoding
from tacit.decoding.rules import token_changes
from tacit.decoding.slots import Slots
from tacit.models.experts import Experts, contrast
from tacit.models.limits import check_rows
from tacit.scoring.judges import judge_pairs
from tacit.scoring.likelihoods import response_likelihoods, token_log_ratios
from tacit.support.errors import TacitError
from tacit.support.ranges import COLDEST, HEAT, check_range
from transformers import Lfm2Config, MambaConfig, MistralConfig, MixtralConfig, RwkvConfig

ASKED, NAMES = ["Hi", "Why?", "What is 47 + 38?"], ["a", "b", "c"]
RECURRENT = {
    "mamba": MambaConfig(
        vocab_size=97, hidden_size=32, num_hidden_layers=2, state_size=4, eos_token_id=2, pad_token_id=0
    ),
    "rwkv": RwkvConfig(vocab_size=97, hidden_size=32, attention_hidden_size=32, num_hidden_layers=2, context_length=64),
    "lfm2": Lfm2Config(**SIZE, layer_types=["conv", "full_attention"]),
}


def spoil(model, tokenizer, value):
    """Let every row that holds a question mark, and no other, have scores of ``value``."""
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer.convert_tokens_to_ids("?")] = value
    return model


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("composite", [False, True])
def test_generation_stops_at_scores_that_are_not_finite_and_names_row_model_and_dtype(
    tiny, tokenizer, temperature, composite
):
    broken = spoil(make_model(tiny.config, seed=1), tokenizer, torch.nan)
    model = Experts(tiny, broken, combine=contrast) if composite else broken
    options = {"ids": NAMES, "max_new_tokens": 3, "temperature": temperature}
    assert generate_responses(model, tokenizer, ASKED[:1], ids=NAMES[:1], max_new_tokens=3)
    with pytest.raises(TacitError, match=r"row 'b': .*not finite numbers .* in float32.*: use"):
        generate_responses(model, tokenizer, ASKED, **options)


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (1.0, 0.9)])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_slots_stop_too(tiny, tokenizer, temperature, top_p, value):
    prompts = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in ASKED]
    decoder = Slots(
        spoil(tiny, tokenizer, value), slots=2, capacity=64, temperature=temperature, top_p=top_p, graphs=False
    )
    assert dict(decoder.decode(prompts[:1], limits=[3], row_ids=NAMES[:1]))
    with pytest.raises(TacitError, match=r"row '[bc]'.*not finite"):
        list(decoder.decode(prompts, limits=[3] * 3, row_ids=NAMES))


def test_rules_that_leave_no_token_are_named(tiny, tokenizer):
    def nothing(mask):
        return [lambda ids, scores: torch.full_like(scores, -torch.inf)]

    with pytest.raises(TacitError, match=r"row '0'.*-inf"):
        generate_responses(tiny, tokenizer, ASKED, max_new_tokens=2, make_processors=nothing)
    with pytest.raises(TacitError, match="'Hi'"):
        token_changes(tiny, tokenizer, "Hi", make_processors=nothing, max_new_tokens=2)


def test_likelihoods_log_ratios_and_judges_stop(tokenizer):
    config = llama_config(tokenizer, positions=1_024)
    fine, broken = make_model(config, seed=0), spoil(make_model(config, seed=1), tokenizer, torch.nan)
    with pytest.raises(TacitError, match=r"row '1'.*float32"):
        response_likelihoods(broken, tokenizer, [("Hi", "Yes"), ("Why?", "No")])
    with pytest.raises(TacitError, match=r"row '0'"):
        token_log_ratios(fine, broken, tokenizer, [tokenizer("?")["input_ids"]], [[5, 6]])
    with pytest.raises(TacitError, match="not finite"):
        judge_pairs(broken, tokenizer, ["Hi"], ["a"], ["b"])


@pytest.mark.parametrize("temperature", [torch.nan, torch.inf, -1.0, 1e-320, COLDEST / 2])
def test_temperatures_that_would_make_scores_infinite_are_refused(tiny, tokenizer, temperature):
    with pytest.raises(TacitError, match="temperature must be 0"):
        generate_responses(tiny, tokenizer, ["Hi"], temperature=temperature)
    assert not HEAT[1](temperature)
    check_range("temperature", COLDEST, HEAT)
    assert HEAT[1](COLDEST)


@pytest.mark.parametrize("kind", sorted(RECURRENT))
def test_a_composite_refuses_what_is_no_cache_of_keys_and_values(kind):
    model = make_model(RECURRENT[kind], seed=0)
    with pytest.raises(TacitError, match=f"{type(model).__name__} keeps its past in something else"):
        Experts(model, model, combine=contrast)


def test_a_composite_refuses_windows_of_different_widths():
    pair = [make_model(MistralConfig(**SIZE, sliding_window=n), seed=0) for n in (8, 16)]
    with pytest.raises(TacitError, match=r"windows \[8, 16\]"):
        Experts(*pair, combine=contrast)


def test_a_recurrent_model_that_takes_in_the_padding_is_refused_alone_too():
    with pytest.raises(TacitError, match=r"RwkvForCausalLM (answers otherwise|cannot be decoded)"):
        check_decoding(make_model(RECURRENT["rwkv"], seed=0))


@pytest.mark.parametrize("kind", ["mamba", "mixtral"])
def test_unknown_architectures_that_decode_rightly_are_let_through(tokenizer, kind):
    """The batch says what a loop without cache says, row by row."""
    sized = {"vocab_size": len(tokenizer), "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0}
    config = (
        MambaConfig(**sized, hidden_size=32, num_hidden_layers=2, state_size=4)
        if kind == "mamba"
        else MixtralConfig(**(SIZE | sized | {"max_position_embeddings": 256}), num_local_experts=3)
    )
    model = make_model(config, seed=0)
    responses = generate_responses(model, tokenizer, ASKED, max_new_tokens=10)
    for text, response in zip(ASKED, responses, strict=True):
        ids = torch.tensor([tokenizer(f"<s><|user|>\n{text}\n<|assistant|>\n", add_special_tokens=False)["input_ids"]])
        start = ids.shape[1]
        for _ in response.tokens:
            with torch.no_grad():
                ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        assert tuple(ids[0, start:].tolist()) == response.tokens


def test_prompts_beyond_the_context_the_embedding_or_of_nothing_are_named(tiny, tokenizer):
    with pytest.raises(TacitError, match=r"row '1' has .* context of 256"):
        generate_responses(tiny, tokenizer, ["Hi", "word " * 300], max_new_tokens=2)
    with pytest.raises(TacitError, match=r"row 1 has .* context of 256"):
        response_likelihoods(tiny, tokenizer, [("Hi", "Yes"), ("q", "word " * 300)])
    with pytest.raises(TacitError, match=r"row 'x': the token '.+' has id 699, .* ends at 96"):
        check_rows(tokenizer, [[5], [699]], names=["w", "x"], config=make_model(RECURRENT["rwkv"], seed=0).config)
    with pytest.raises(TacitError, match=r"row 'empty' is an empty prompt"):
        check_rows(tokenizer, [[]], names=["empty"], config=tiny.config)
