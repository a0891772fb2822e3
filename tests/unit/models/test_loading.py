"""Loading models and pairs, and what is said when they cannot be loaded."""

import re

import pytest
import torch
from conftest import CONFIGS, make_model
from tacit.microworld.tokenizer import train_tokenizer
from tacit.models.loading import load_model, load_tokenizer, locate
from tacit.models.pairs import check_pair, load_pair
from tacit.support.errors import TacitError


@pytest.fixture
def saved(tmp_path, tiny, tokenizer):
    folder = tmp_path / "a model"
    tiny.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_saved_model_comes_back(saved, tiny, tokenizer):
    model, ours = load_model(str(saved)), load_tokenizer(str(saved))
    assert not model.training
    for a, b in zip(tiny.parameters(), model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert ours.get_vocab() == tokenizer.get_vocab()
    assert ours.chat_template == tokenizer.chat_template
    assert ours.padding_side == "left"
    assert load_model(str(saved), dtype="bfloat16").dtype == torch.bfloat16


def test_missing_checkpoint_is_named(tmp_path):
    for name in (str(tmp_path / "nothing"), "outputs/models/nothing"):
        with pytest.raises(TacitError, match=re.escape(name)):
            load_model(name)
    assert locate("owner/name") == "owner/name"


def test_corrupt_weights_are_named(saved):
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(TacitError, match="cannot load"):
        load_model(str(saved))


def test_incomplete_weights_are_named(saved):
    from safetensors.torch import load_file, save_file

    state = load_file(saved / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TacitError, match=r"model\.norm\.weight"):
        load_model(str(saved))


def test_pickled_weights_are_refused(saved):
    state = load_model(str(saved)).state_dict()
    (saved / "model.safetensors").unlink()
    torch.save(state, saved / "pytorch_model.bin")
    with pytest.raises(TacitError, match="cannot load"):
        load_model(str(saved))


def test_a_tokenizer_needs_a_template(saved, tokenizer):
    (saved / "chat_template.jinja").unlink()
    with pytest.raises(TacitError, match="chat template"):
        load_tokenizer(str(saved))
    other = "{{ messages[0]['content'] }}:"
    assert load_tokenizer(str(saved), chat_template=other).chat_template == other


def test_unknown_dtype_is_named(saved):
    with pytest.raises(TacitError, match="float8"):
        load_model(str(saved), dtype="float8")


def test_a_pair_of_equals_passes_and_loads(saved, tiny, tokenizer):
    check_pair(tiny, tiny, tokenizer, tokenizer)
    expert, amateur, ours = load_pair(str(saved), str(saved))
    assert expert is not amateur
    assert ours.get_vocab() == tokenizer.get_vocab()


def test_a_pair_with_other_vocabularies_names_the_token(tiny, tokenizer):
    other = train_tokenizer(["zzzz yyyy zzzz"] * 50, vocabulary_size=700)
    with pytest.raises(TacitError, match=r"token '.+' has id \d+ in the expert and"):
        check_pair(tiny, tiny, tokenizer, other)


def test_a_pair_with_other_beginnings_or_widths_is_refused(tiny, tokenizer):
    import copy

    other = copy.deepcopy(tokenizer)
    other.bos_token = "<pad>"
    with pytest.raises(TacitError, match="bos_token_id"):
        check_pair(tiny, tiny, tokenizer, other)
    with pytest.raises(TacitError, match="width"):
        check_pair(tiny, make_model(CONFIGS["llama"], seed=0), tokenizer, tokenizer)


def test_a_pair_may_end_differently(saved, tmp_path, tiny, tokenizer):
    """The expert's end counts: Llama 3.1's chat model ends with <|eot_id|>, its base with <|end_of_text|>."""
    import copy

    other = copy.deepcopy(tokenizer)
    other.eos_token = "<pad>"
    check_pair(tiny, tiny, tokenizer, other)
    tiny.save_pretrained(tmp_path / "base")
    other.save_pretrained(tmp_path / "base")
    *_, ours = load_pair(str(saved), str(tmp_path / "base"))
    assert ours.eos_token_id == tokenizer.eos_token_id != other.eos_token_id


def test_a_byte_order_mark_of_a_templates_file_is_no_part_of_the_prompt(saved):
    (saved / "chat_template.jinja").write_text("\ufeff{{ messages[0]['content'] }}:", encoding="utf-8")
    assert load_tokenizer(str(saved)).chat_template == "{{ messages[0]['content'] }}:"


def test_a_folder_without_a_tokenizer_is_named_with_what_is_missing(saved):
    for path in saved.glob("*token*"):
        path.unlink()
    with pytest.raises(TacitError, match=r"no tokenizer\.json"):
        load_tokenizer(str(saved))
