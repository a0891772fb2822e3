"""What finetuning refuses before it begins, and that a training which diverges is stopped and saved nowhere."""

import pytest
import torch
from conftest import llama_config, make_model
from datasets import Dataset
from tacit.models import loading
from tacit.support.errors import TacitError
from tacit.training import checkpoints
from tacit.training.checkpoints import tune_checkpoint
from tacit.training.finetuning import finetune
from tacit.training.limits import check_dtype, check_settings, check_weights
from transformers import AddedToken

ROWS = Dataset.from_list([{"id": str(i), "instruction": f"Say {i}.", "response": f"It is {i}."} for i in range(8)])
OPTIONS = {"epochs": 1, "learning_rate": 1e-3, "seed": 0, "batch_size": 4}


@pytest.fixture
def saved(tmp_path, tiny, tokenizer):
    tiny.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def no_weights(monkeypatch):
    """Fail where weights are loaded: what is to be refused is refused before."""
    monkeypatch.setattr(checkpoints, "load_model", lambda *args, **options: pytest.fail("weights were loaded"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in ("batch_size", "micro_batch", "epochs", "max_length") for value in (0, -1, 2.5)],
        *[("learning_rate", value) for value in (-1.0, 0.0, float("nan"), float("inf"))],
        *[
            ("seed", -1),
            ("seed", 99_999_999_999),
            ("warmup", 1.0),
            ("weight_decay", float("nan")),
            ("optimizer", "sgd"),
            ("loss_on", "ends"),
        ],
    ],
)
def test_settings_out_of_range_are_named_before_weights_are_loaded(saved, tmp_path, no_weights, name, value):
    with pytest.raises(
        TacitError, match=f"{name} .*{value}" if not isinstance(value, str) else f"unknown {name} {value!r}"
    ):
        tune_checkpoint(saved, ROWS, out=tmp_path / "out", **(OPTIONS | {name: value}))
    with pytest.raises(TacitError, match=name):
        check_settings(**{name: value})


@pytest.mark.parametrize("lora", [{"r": 0}, {"alpha": 0}, {"r": 4, "alpha": float("nan")}, {"dropout": 1.0}])
def test_adapters_out_of_range_are_named(tiny, tokenizer, lora):
    pytest.importorskip("peft", reason="the extra lora is not installed")
    with pytest.raises(TacitError, match="lora needs r"):
        finetune(tiny, tokenizer, ROWS, lora=lora, **OPTIONS)


@pytest.mark.parametrize("place", ["file/sub", "/proc/tuned", "/sys/kernel/tuned"])
def test_an_output_that_cannot_be_written_is_found_first(saved, tmp_path, no_weights, place):
    (tmp_path / "file").touch()
    with pytest.raises(TacitError, match=f"cannot write to .*{place}.*choose another folder"):
        tune_checkpoint(saved, ROWS, out=tmp_path / place, **OPTIONS)


def test_a_disk_without_room_for_the_model_is_found_first(saved, tmp_path, no_weights, monkeypatch):
    monkeypatch.setattr(checkpoints, "count_parameters", lambda config: 10**15)
    with pytest.raises(TacitError, match="GB are needed"):
        tune_checkpoint(saved, ROWS, out=tmp_path / "out", **OPTIONS)


def test_float16_weights_are_refused_as_given_and_as_saved(tmp_path, tiny, tokenizer, saved, no_weights):
    with pytest.raises(TacitError, match=r"weights in float16 are not trained here.*float32"):
        tune_checkpoint(saved, ROWS, out=tmp_path / "out", dtype="float16", **OPTIONS)
    tiny.half().save_pretrained(saved)
    with pytest.raises(TacitError, match="float16"):
        tune_checkpoint(saved, ROWS, out=tmp_path / "out", dtype="auto", **OPTIONS)
    with pytest.raises(TacitError, match="float16"):
        finetune(tiny, tokenizer, ROWS, **OPTIONS)
    with pytest.raises(TacitError, match="float8_e4m3fn"):
        check_dtype([torch.float32, torch.float8_e4m3fn])


def test_a_chat_token_beyond_the_embedding_is_found_first_and_a_pad_token_is_replaced(saved, tmp_path, no_weights):
    tokenizer = loading.load_tokenizer(saved)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(saved)
    assert loading.load_tokenizer(saved).pad_token_id == tokenizer.eos_token_id
    tokenizer.add_tokens([AddedToken("<|turn|>", special=True)])
    tokenizer.chat_template = "<|turn|>{{ messages[0]['content'] }}"
    tokenizer.save_pretrained(saved)
    with pytest.raises(TacitError, match=r"the token '<\|turn\|>' has id 701, and the model's embedding ends at 699"):
        tune_checkpoint(saved, ROWS, out=tmp_path / "out", **OPTIONS)


def test_examples_are_cut_at_the_models_context(tokenizer):
    """With learned positions a longer row is an IndexError; the loss is that of the part within the context."""
    model = make_model(llama_config(tokenizer, positions=32), seed=0)
    long = Dataset.from_list(
        [{"id": "a", "instruction": "Write.", "response": "The rain walks on the roof. " * 50}] * 4
    )
    _, losses = finetune(model, tokenizer, long, **(OPTIONS | {"max_length": 2_048}))
    _, cut = finetune(
        make_model(llama_config(tokenizer, positions=32), seed=0), tokenizer, long, **OPTIONS, max_length=32
    )
    assert losses == cut


def test_a_training_that_diverges_is_stopped_and_saves_nothing(saved, tmp_path):
    with pytest.raises(TacitError, match="the training diverged"):
        tune_checkpoint(saved, ROWS, out=tmp_path / "out", say=None, **(OPTIONS | {"learning_rate": 1e38}))
    assert not (tmp_path / "out").exists()


def test_weights_spoilt_by_the_last_step_are_found(tiny):
    check_weights(tiny)
    with torch.no_grad():
        tiny.model.norm.weight[3] = torch.inf
    with pytest.raises(TacitError, match=r"model\.norm\.weight is not finite"):
        check_weights(tiny)
