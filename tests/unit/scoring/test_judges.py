"""The pairwise judge: both orders, ties, texts with braces, verdicts that a tokenizer cannot say."""

from functools import partial

import numpy as np
import pytest
import torch
from conftest import llama_config, make_model
from tacit.scoring import judges
from tacit.scoring.judges import judge_pairs, judge_prompt, verdict_tokens
from tacit.scoring.likelihoods import in_batches
from tacit.support.errors import TacitError
from transformers import LlamaConfig
from transformers.modeling_outputs import CausalLMOutput

INSTRUCTIONS = ["What is 47 + 38?", "Hi", "Spell the word moon, with {braces} in it."]
OURS = ["85", "Hello! What can I do?", "{m-o-o-n} {0} {first} {{"]
THEIRS = ["It is 58, I believe.", "Go away.", "m"]


class Stub(torch.nn.Module):
    """A causal language model whose logits of the verdicts are made by hand from the prompt's text."""

    device, config = torch.device("cpu"), LlamaConfig()

    def __init__(self, tokenizer, decide):
        super().__init__()
        self.tokenizer, self.decide = tokenizer, decide
        self.tokens = verdict_tokens(tokenizer)

    def forward(self, input_ids, attention_mask, use_cache, logits_to_keep):
        logits = torch.zeros(*input_ids.shape, len(self.tokenizer))
        for row, ids, mask in zip(logits, input_ids, attention_mask, strict=True):
            text = self.tokenizer.decode(ids[mask.bool()], skip_special_tokens=False)
            before, rest = text.split("### Output (m)\n\n", 1)
            first, second = rest.split("\n\n### Output (M)\n\n", 1)
            second = second.split("\n\n## Task\n\n")[0]
            row[int(mask.sum()) - 1, self.tokens] = torch.tensor(self.decide(before, first, second)).float()
        return CausalLMOutput(logits=logits[:, -logits_to_keep:])


def test_a_judge_that_always_prefers_the_first_place_is_at_parity(tokenizer):
    stub = Stub(tokenizer, lambda x, a, b: [6.0, 0.0])
    assert judge_pairs(stub, tokenizer, INSTRUCTIONS, OURS, THEIRS).tolist() == [0.5] * 3


@pytest.fixture
def one_at_a_time(monkeypatch):
    """Let the judge see each prompt in a batch of its own."""
    return lambda: monkeypatch.setattr(judges, "in_batches", partial(in_batches, batch_tokens=1))


@pytest.mark.parametrize("alone", [True, False])
def test_a_judge_that_prefers_a_word_gives_the_pair_with_it_all(tokenizer, alone, one_at_a_time):
    if alone:
        one_at_a_time()
    stub = Stub(tokenizer, lambda x, a, b: [20.0 * ("85" in a), 20.0 * ("85" in b)])
    ours, theirs = ["85", "58", "no", "85!"], ["58", "It is 85.", "neither", "85?"]
    preferences = judge_pairs(stub, tokenizer, ["What is 47 + 38?"] * 4, ours, theirs)
    np.testing.assert_allclose(preferences, [1.0, 0.0, 0.5, 0.5], atol=1e-6)


def test_the_two_orders_are_averaged_over_the_verdicts_alone(tokenizer):
    """By hand: ours first is preferred with 3/4, ours second with 1/2; the other tokens' share does not matter."""
    stub = Stub(tokenizer, lambda x, a, b: [np.log(3.0), 0.0] if a == "85" else [-4.0, -4.0])
    assert judge_pairs(stub, tokenizer, ["Hi"], ["85"], ["58"]).item() == pytest.approx((3 / 4 + 1 / 2) / 2)


def test_the_judge_sees_every_text_as_it_is(tokenizer):
    seen = set()

    def note(before, first, second):
        seen.add((before.split("## Instruction\n\n")[1].removesuffix("\n\n## Outputs\n\n"), first, second))
        return [0.0, 0.0]

    judge_pairs(Stub(tokenizer, note), tokenizer, INSTRUCTIONS, OURS, THEIRS)
    rows = list(zip(INSTRUCTIONS, OURS, THEIRS, strict=True))
    assert seen == {(x, a, b) for x, a, b in rows} | {(x, b, a) for x, a, b in rows}


@pytest.fixture
def tiny(tokenizer):
    """A random model with a context that the judge's prompts fit into."""
    return make_model(llama_config(tokenizer, positions=1_024), seed=0)


def test_identical_responses_are_exactly_at_parity(tiny, tokenizer, one_at_a_time):
    one_at_a_time()
    assert judge_pairs(tiny, tokenizer, INSTRUCTIONS, OURS, OURS).tolist() == [0.5] * 3


def test_a_real_model_gives_preferences_whatever_the_batch(tiny, tokenizer, one_at_a_time):
    preferences = judge_pairs(tiny, tokenizer, INSTRUCTIONS, OURS, THEIRS)
    assert preferences.shape == (3,)
    assert ((preferences >= 0) & (preferences <= 1)).all()
    assert (preferences != 0.5).all()
    np.testing.assert_allclose(preferences, 1 - judge_pairs(tiny, tokenizer, INSTRUCTIONS, THEIRS, OURS), atol=1e-5)
    one_at_a_time()
    alone = judge_pairs(tiny, tokenizer, INSTRUCTIONS, OURS, THEIRS)
    np.testing.assert_allclose(preferences, alone, atol=1e-5)


def test_no_pairs_and_unequal_lengths(tiny, tokenizer):
    assert judge_pairs(tiny, tokenizer, [], [], []).shape == (0,)
    with pytest.raises(ValueError, match="as many"):
        judge_pairs(tiny, tokenizer, ["Hi"], ["Hello"], [])


def test_verdicts_are_read_off_the_judges_own_format(tokenizer, monkeypatch):
    assert verdict_tokens(tokenizer) == tokenizer.convert_tokens_to_ids(["m", "M"])
    turn = "'<|assistant|>\\n' + message"
    spaced = tokenizer.chat_template.replace(turn, "'[/INST] ' + message").replace("<|assistant|>\\n'", "[/INST]'")
    monkeypatch.setattr(tokenizer, "chat_template", spaced)
    monkeypatch.setattr(judges, "VERDICTS", ("a", "A"))
    assert tokenizer.batch_decode([[token] for token in verdict_tokens(tokenizer)]) == [" a", " A"]


@pytest.mark.parametrize(("verdicts", "message"), [(("Qx9", "Zx9"), "single token"), (("7a", "7b"), "same token")])
def test_verdicts_that_the_judge_cannot_say_are_refused(tiny, tokenizer, monkeypatch, verdicts, message):
    monkeypatch.setattr(judges, "VERDICTS", verdicts)
    with pytest.raises(TacitError, match=message):
        judge_pairs(tiny, tokenizer, ["Hi"], ["a"], ["b"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("message['content'] + eos_token", "'<think>' + message['content'] + eos_token", "same token"),
        ("{{ bos_token }}", "{{ messages | length }}", "right after"),
    ],
)
def test_templates_without_a_place_for_the_verdict_are_refused(tokenizer, monkeypatch, old, new, message):
    assert old in tokenizer.chat_template
    monkeypatch.setattr(tokenizer, "chat_template", tokenizer.chat_template.replace(old, new))
    with pytest.raises(TacitError, match=message):
        verdict_tokens(tokenizer)


def test_the_prompt_names_both_verdicts():
    text = judge_prompt("Hi", "one", "two")
    assert text.index("Output (m)\n\none") < text.index("Output (M)\n\ntwo") < text.index("m or M")
