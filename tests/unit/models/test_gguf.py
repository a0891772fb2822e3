"""GGUF folders as checkpoints: a tiny file written here and read back, and files that cannot be read."""

import pytest
import torch
from conftest import llama_config, make_model
from gguf_files import write_gguf
from tacit.models import gguf as reading
from tacit.models import loading
from tacit.support.errors import TacitError

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")


@pytest.fixture
def model(tokenizer):
    return make_model(llama_config(tokenizer), seed=3)


@pytest.fixture
def folder(model, tokenizer, tmp_path):
    write_gguf(tmp_path / "tiny.gguf", model, tokenizer)
    return tmp_path


def test_a_gguf_folder_gives_the_model_and_the_tokenizer_that_were_written(folder, model, tokenizer):
    read = loading.load_model(str(folder), device="cpu")
    ids = torch.tensor([[1, 5, 9, 200, 42, 7]])
    with torch.inference_mode():
        torch.testing.assert_close(read(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-4)
    assert loading.load_config(str(folder)).hidden_size == model.config.hidden_size
    its_own = loading.load_tokenizer(str(folder))
    for text in ("Where does the bear live?", "* one\n* two, three"):
        assert (
            its_own(text, add_special_tokens=False)["input_ids"] == tokenizer(text, add_special_tokens=False).input_ids
        )
    assert its_own.chat_template == tokenizer.chat_template
    assert its_own.eos_token_id == tokenizer.eos_token_id


def test_a_checkpoint_or_a_folder_without_a_gguf_file_is_none(folder, tmp_path):
    assert reading.find_gguf(folder).name == "tiny.gguf"
    (folder / "config.json").write_text("{}")
    assert reading.find_gguf(folder) is None
    assert reading.find_gguf(tmp_path / "not there") is None
    assert reading.gguf_options(str(folder)) == {}


def test_two_files_in_a_folder_are_refused(folder):
    (folder / "another.gguf").write_bytes(b"GGUF")
    with pytest.raises(TacitError, match=r"several GGUF files \(another.gguf, tiny.gguf\)"):
        loading.locate(str(folder))


@pytest.mark.parametrize("keep", [3, 20, 400, -2_000])
def test_a_file_that_is_cut_off_is_one_line(folder, keep):
    path = folder / "tiny.gguf"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(TacitError, match=r"no GGUF file|damaged or cut off") as caught:
        loading.load_model(str(folder))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_noise_a_missing_tokenizer_and_an_unknown_quantization_are_named(model, tokenizer, tmp_path):
    (tmp_path / "noise.gguf").write_bytes(bytes(range(256)) * 8)
    with pytest.raises(TacitError, match="does not begin with the letters GGUF"):
        loading.load_model(str(tmp_path))
    (tmp_path / "noise.gguf").write_bytes(b"GGUF" + bytes(range(256)) * 8)
    with pytest.raises(TacitError, match="damaged or cut off"):
        loading.load_tokenizer(str(tmp_path))
    write_gguf(tmp_path / "noise.gguf", model, tokenizer, tokens=False)
    with pytest.raises(TacitError, match="has no tokenizer"):
        loading.load_tokenizer(str(tmp_path))
    write_gguf(tmp_path / "noise.gguf", model, tokenizer, quantization=gguf.GGMLQuantizationType.I8)
    with pytest.raises(TacitError, match=r"the quantization I8 \(tensor extra.weight\) cannot be read"):
        loading.load_model(str(tmp_path))


def test_without_the_package_the_error_says_how_to_install_it(folder, monkeypatch):
    monkeypatch.setattr(reading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(TacitError, match=r"needs the package gguf: pip install -e '.\[smollm2\]'"):
        loading.load_model(str(folder))
