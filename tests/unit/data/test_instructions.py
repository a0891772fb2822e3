"""Chat format, tokenizer and labels; TRL's completion mask is the oracle."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset
from tacit.data.instructions import IGNORED, blank_instructions, encode_example, encode_examples, read_instructions
from tacit.models.chat import encode_prompt, render_prompt, tulu_template
from tacit.support.errors import TacitError
from tacit.support.keyed import fingerprint
from tacit.synthesis.rows import read_rows
from trl import SFTConfig, SFTTrainer

EXAMPLE = {"id": "1", "instruction": "Where does the dirde live?", "response": " - In the desert.\n#### 59"}


def test_prompt_is_the_papers_format(tokenizer):
    assert render_prompt(tokenizer, "Hello?") == "<s><|user|>\nHello?\n<|assistant|>\n"
    turns = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
    assert tokenizer.apply_chat_template(turns, tokenize=False) == "<s><|user|>\nA\n<|assistant|>\nB</s>"
    tokenizer_ids = tokenizer.apply_chat_template(turns[:1], add_generation_prompt=True, return_dict=False)
    assert encode_prompt(tokenizer, "A") == tokenizer_ids
    other = tulu_template(user_tag="<|A|>", assistant_tag="<|B|>")
    assert tokenizer.apply_chat_template(turns, tokenize=False, chat_template=other) == "<s><|A|>\nA\n<|B|>\nB</s>"


@pytest.mark.parametrize("text", ["The dirde.", "größer 😀 <s>x", " - a\n\n  b\t#### 12", "ÀÉ\u0000\u200b"])
def test_any_text_round_trips_through_the_tokenizer(tokenizer, text):
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text


def test_labels_cover_the_response_and_its_end_only(tokenizer):
    encoded = encode_example(tokenizer, EXAMPLE["instruction"], EXAMPLE["response"])
    n = len(encode_prompt(tokenizer, EXAMPLE["instruction"]))
    assert encoded["labels"][:n] == [IGNORED] * n
    assert tokenizer.decode(encoded["labels"][n:]) == EXAMPLE["response"] + "</s>"
    assert encoded["input_ids"][n:] == encoded["labels"][n:]


def test_labels_agree_with_trl(tokenizer, tiny, tmp_path):
    row = {
        "prompt": [{"role": "user", "content": EXAMPLE["instruction"]}],
        "completion": [{"role": "assistant", "content": EXAMPLE["response"]}],
    }
    arguments = SFTConfig(
        output_dir=str(tmp_path),
        completion_only_loss=True,
        report_to=[],
        use_cpu=True,
        bf16=False,
        per_device_train_batch_size=1,
    )
    trainer = SFTTrainer(model=tiny, args=arguments, train_dataset=Dataset.from_list([row]), processing_class=tokenizer)
    batch = next(iter(trainer.get_train_dataloader()))
    ours = encode_example(tokenizer, EXAMPLE["instruction"], EXAMPLE["response"])
    assert batch["input_ids"][0].tolist() == ours["input_ids"]
    assert batch["labels"][0].tolist() == ours["labels"]


def test_masked_labels_give_zero_gradient(tokenizer, tiny):
    """The loss's gradient by the logits vanishes wherever the next label is masked, and nowhere else."""
    encoded = encode_example(tokenizer, EXAMPLE["instruction"], EXAMPLE["response"])
    ids, labels = (torch.tensor([encoded[k]]) for k in ("input_ids", "labels"))
    out = tiny(input_ids=ids, labels=labels)
    (gradient,) = torch.autograd.grad(out.loss, out.logits)
    touched = gradient[0].abs().sum(-1) > 0
    assert touched[:-1].tolist() == (labels[0, 1:] != IGNORED).tolist()
    assert not touched[-1]


def test_blank_instructions_keep_tags_and_responses(tokenizer):
    blank = blank_instructions(Dataset.from_list([EXAMPLE]))
    assert blank["response"] == [EXAMPLE["response"]]
    encoded = encode_example(tokenizer, blank[0]["instruction"], blank[0]["response"])
    assert tokenizer.decode(encoded["input_ids"]).startswith("<s><|user|>\n\n<|assistant|>\n - In")


def test_an_example_without_room_for_its_response_is_refused(tokenizer):
    with pytest.raises(TacitError, match="max_length=5"):
        encode_examples(tokenizer, Dataset.from_list([EXAMPLE]), max_length=5)


def test_reading_jsonl(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(
        json.dumps({"instruction": "A", "response": "B", "source": "x"}) + "\n\n" + '{"instruction": "C"}\n'
    )
    rows = read_instructions(path)
    assert rows["instruction"] == ["A", "C"]
    assert rows["response"] == ["B", ""]
    assert len(set(rows["id"])) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no instructions"),
        ("{", "line 1: not JSON"),
        ('{"instruction": "A"}\n[1]', "line 2"),
        ('{"text": "A"}', '"instruction"'),
        ('{"instruction": "A", "response": 3}', '"response"'),
        ('{"instruction": "A", "id": "x"}\n{"instruction": "B", "id": "x"}', "occurs twice"),
    ],
)
def test_malformed_jsonl_is_named(tmp_path, content, message):
    path = tmp_path / "data.jsonl"
    path.write_text(content)
    with pytest.raises(TacitError, match=message) as caught:
        read_instructions(path)
    assert "data.jsonl" in str(caught.value)


def test_missing_jsonl_is_named(tmp_path):
    with pytest.raises(TacitError, match=r"nothing\.jsonl"):
        read_instructions(tmp_path / "nothing.jsonl")


def test_a_line_separator_within_a_text_is_no_line(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"instruction": "a\u2028b", "response": "c"}\n', encoding="utf-8")
    assert read_instructions(path)["instruction"][:] == ["a\u2028b"]


def test_models_that_can_think_first_are_told_not_to(tokenizer):
    """As Qwen3's template: by default it lets the model think, told not to it closes an empty thought."""
    import copy

    thinker = copy.deepcopy(tokenizer)
    thinker.chat_template = (
        "{{ messages[0]['content'] }}:{% if enable_thinking is defined and enable_thinking is false %}<no>{% endif %}"
    )
    assert render_prompt(thinker, "Why?") == "Why?:<no>"


def read(tmp_path, *rows, start=""):
    path = tmp_path / "rows.jsonl"
    path.write_text(start + "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return read_instructions(path).to_list()


def test_what_pandas_and_datasets_write_is_read(tmp_path):
    """Null and NaN are absent; numbers as ids become texts, 1.0 is 1; other columns may be of any kinds."""
    rows = read(
        tmp_path,
        {"id": 1.0, "instruction": "a", "response": None, "meta": {"k": 1}},
        {"id": None, "instruction": "b", "response": float("nan"), "meta": "web"},
        {"id": "x", "instruction": "c", "response": "d", "input": "", "context": None, "history": []},
        {"id": 2, "instruction": "e"},
        {"id": 0.5, "instruction": "f", "meta": [1, "a"]},
        start="\ufeff",
    )
    assert [row["id"] for row in rows] == ["1", fingerprint(["b", ""])[:16], "x", "2", "0.5"]
    assert [row["response"] for row in rows] == ["", "", "d", "", ""]
    assert set(rows[0]) == {"id", "instruction", "response"}
    with pytest.raises(TacitError, match="'1' occurs twice"):
        read(tmp_path, {"id": 1, "instruction": "a"}, {"id": "1", "instruction": "b"})
    with pytest.raises(TacitError, match="must be a text or a number, not True"):
        read(tmp_path, {"id": True, "instruction": "a"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "Sum up.", "input": "The Ebro.", "output": "A river."}, "write alpaca:.*rows.jsonl"),
        ({"instruction": "Sum up.", "output": "A river."}, "write alpaca_eval:"),
        ({"question": "1 + 1?", "answer": "2"}, "write gsm8k:"),
        ({"conversations": ["Hi", "Hello"]}, "write lima:"),
        ({"instruction": "Who?", "context": "He ran.", "response": "He."}, "the column 'context' would be left out"),
        ({"instruction": "Who?", "input": "He ran.", "response": "He."}, "the column 'input' would be left out"),
        ({"messages": [{"role": "user", "content": "Hi"}]}, "the column 'messages' would be left out"),
        ({"conversations": [{"from": "human", "value": "Hi"}], "response": "a"}, "the column 'conversations' would be"),
        ({"prompt": "Hi", "completion": "Hello"}, "would be left out"),
        ({"instruction": "Hi", "system": "Be brief."}, "the column 'system' would be left out"),
    ],
)
def test_other_datasets_columns_are_named_and_not_left_out(tmp_path, row, message):
    with pytest.raises(TacitError, match=f"line 1.*{message}"):
        read(tmp_path, row)


def test_rows_given_in_python_are_looked_at_too(tokenizer):
    row = {"id": "a", "instruction": "Sum up.", "input": "The Ebro.", "response": "A river."}
    with pytest.raises(TacitError, match=r"row 0 .*the column 'input' would be left out"):
        read_rows([row])
    with pytest.raises(TacitError, match=r"example 0 .*the column 'input' would be left out"):
        encode_examples(tokenizer, Dataset.from_list([row]), max_length=64)
    assert read_rows([row | {"input": None}, {"instruction": "b", "id": np.int64(3)}]) == [("a", "Sum up."), ("3", "b")]
