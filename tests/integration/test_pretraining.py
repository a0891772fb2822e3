"""Pretraining at toy size: packing, Muon with AdamW, the saved checkpoint."""

import json

import pytest
import torch
from tacit.microworld.world import read_world
from tacit.support.errors import TacitError
from tacit.support.provenance import file_hash
from tacit.training import pretraining
from tacit.training.optimizers import MuonAdamW
from tacit.training.pretraining import make_config, pack_corpus, pretrain
from transformers import AutoModelForCausalLM, AutoTokenizer

TOY = {"side": "student", "width": 64, "layers": 1, "n_tokens": 24_576, "block": 64, "batch_size": 8, "save_steps": 10}


def test_packing_keeps_documents_whole_between_their_marks(world, tokenizer):
    rows = pack_corpus(world, tokenizer, seed=1, n_tokens=2_000, block=64)
    assert len(rows) == 2_000 // 64
    ids = torch.cat(list(rows["input_ids"]))
    assert torch.equal(ids, torch.cat(list(rows["labels"])))
    ends = (ids == tokenizer.eos_token_id).nonzero().flatten()
    assert ids[0] == tokenizer.bos_token_id
    assert len(ends) > 3
    assert all(ids[i + 1] == tokenizer.bos_token_id for i in ends if i + 1 < len(ids))
    from tacit.microworld.documents import write_documents

    first = next(write_documents(world, seed=1))[1]
    assert tokenizer.decode(ids[1 : ends[0]]) == first


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_every_parameter_is_trained_by_one_of_the_two_optimizers(tokenizer, architecture):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(make_config(architecture, tokenizer, width=64, layers=1))
    optimizer = MuonAdamW(model, learning_rate=1e-2, weight_decay=0.0)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    ids = torch.arange(3, 43)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    assert all(not torch.equal(before[n], p) for n, p in model.named_parameters())
    by_muon = {id(p) for p in optimizer.parts[0].param_groups[0]["params"]}
    assert all(
        (id(p) in by_muon) == (p.ndim == 2 and "emb" not in n and "wte" not in n and "wpe" not in n)
        for n, p in model.named_parameters()
    )


def test_optimizer_state_survives_saving(tokenizer):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(make_config("llama", tokenizer, width=64, layers=1))
    ids = torch.arange(3, 43)[None]

    def step(optimizer):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    one = MuonAdamW(model, learning_rate=1e-2, weight_decay=0.0)
    step(one)
    weights, state = {k: v.clone() for k, v in model.state_dict().items()}, one.state_dict()
    torch.save(state, buffer := __import__("io").BytesIO())
    step(one)
    expected = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(weights)
    two = MuonAdamW(model, learning_rate=5.0, weight_decay=0.0)
    buffer.seek(0)
    two.load_state_dict(torch.load(buffer, weights_only=True))
    for group in two.param_groups:
        assert group["lr"] == 1e-2
    step(two)
    assert all(torch.equal(expected[k], v) for k, v in model.state_dict().items())


@pytest.fixture(autouse=True)
def few_held_out(monkeypatch):
    """Measure the held-out loss on fewer tokens than in earnest."""
    monkeypatch.setattr(pretraining, "N_HELD_OUT", 2_048)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The folders of a toy model and of its run, with a tokenizer trained on its corpus."""
    folder = tmp_path_factory.mktemp("pretrained")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(pretraining, "N_HELD_OUT", 2_048)
        return pretrain("toy", out=folder / "toy", work=folder / "work", **TOY), folder / "work"


@pytest.mark.slow
def test_the_result_is_an_ordinary_checkpoint_with_world_and_card(toy):
    out, work = toy
    model, tokenizer = AutoModelForCausalLM.from_pretrained(out), AutoTokenizer.from_pretrained(out)
    assert model.dtype == torch.bfloat16
    assert tokenizer.chat_template
    record = json.loads((out / "pretraining.json").read_text())
    assert record["held_out_loss"] < 7.5
    assert 0 < record["seconds"] < 600
    assert sum("eval_loss" in row for row in record["curve"]) >= 10
    world = read_world(out / "world.json")
    assert 0 < len(world.held) < len(world.facts)
    card = (out / "README.md").read_text()
    assert f"{len(world.held)} of the world's {len(world.facts)} facts" in card
    with pytest.raises(TacitError, match="other settings"):
        pretrain("toy", out=out, work=work, **(TOY | {"seed": 9}))


@pytest.mark.slow
def test_pretraining_goes_on_from_another_models_weights(toy, tmp_path):
    """At hardly any learning rate the weights stay, at a usual one they move; record and card name the start."""
    first, _ = toy
    on = TOY | {"side": "base", "seed": 5, "n_tokens": 4_096, "tokenizer_from": first, "start_from": first}
    still = pretrain("still", out=tmp_path / "still", work=tmp_path / "work 2", **on, learning_rate=1e-12)
    further = pretrain("further", out=tmp_path / "further", work=tmp_path / "work 3", **on)
    a, b, c = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (first, still, further))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not any(torch.equal(a[k], c[k]) for k in a)
    record = json.loads((further / "pretraining.json").read_text())
    assert record["start_from"] == {"name": "toy", "weights": file_hash(first / "model.safetensors")}
    assert record["held_out_loss"] < json.loads((still / "pretraining.json").read_text())["held_out_loss"]
    assert "toy pretrained on another 4,096 tokens" in (further / "README.md").read_text()
    with pytest.raises(TacitError, match="other settings"):
        pretrain("further", out=further, work=tmp_path / "work 3", **on | {"start_from": still})
    with pytest.raises(TacitError, match="another shape"):
        pretrain("wide", out=tmp_path / "wide", work=tmp_path / "work 4", **on | {"layers": 2})
    assert not (tmp_path / "wide").exists()
