"""A synthesis' options: what users call and what a folder notes stays as it was when they were one long signature."""

import inspect

import pytest
from tacit.synthesis.engine import synthesize
from tacit.synthesis.settings import Settings

DEFAULTS = {
    "alpha": 0.01, "beta": 1.0, "temperature": 1.0, "top_p": 1.0, "contrast_end": True, "log_ratios": "mean", "seed": 0,
    "max_new_tokens": 256, "batch_size": 128, "shard_size": 512, "workers": 1, "ray_address": None, "dtype": "float32",
    "chat_template": None, "push_to_hub": None,
}  # fmt: skip
NOTED = [
    *("expert", "amateur", "alpha", "beta", "contrast_end", "log_ratios", "temperature", "top_p", "seed"),
    *("max_new_tokens", "dtype", "chat_template", "tokenizer", "instructions", "prompts"),
]


def test_the_public_call_shows_every_option_with_its_default():
    parameters = inspect.signature(synthesize).parameters
    assert list(parameters)[:4] == ["expert", "amateur", "instructions", "out"]
    assert {name: parameters[name].default for name in DEFAULTS} == DEFAULTS
    others = {"expert_revision", "amateur_revision", "instructions_name", "say"}
    assert set(parameters) - set(DEFAULTS) == {"expert", "amateur", "instructions", "out"} | others
    with pytest.raises(TypeError, match="alhpa"):
        synthesize("a", "b", [], out="c", alhpa=0.1)


@pytest.mark.parametrize(("dtype", "sizes"), [("float32", []), ("bfloat16", ["batch_size", "shard_size"])])
def test_what_a_folder_notes_has_its_names_and_their_order(dtype, sizes):
    hashes = {"chat_template": "c", "tokenizer": "t", "instructions": "i", "prompts": "p"}
    noted = Settings(dtype=dtype, alpha=1).identity({"expert": "e", "amateur": "a"}, **hashes)
    assert list(noted) == NOTED + sizes
    assert isinstance(noted["alpha"], float)  # 1 and 1.0 are one run
    assert noted["contrast_end"] is True
