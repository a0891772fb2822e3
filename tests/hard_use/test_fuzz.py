"""Hostile inputs, made by hypothesis: what people write by hand is read, or refused with a message, and nothing else.

The examples are the same in every run. New and more ones:
``pytest --hypothesis-profile=explore tests/hard_use/test_fuzz.py``.
"""

import json
import math

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook
from tacit.data.instructions import IGNORED, encode_example, read_instructions
from tacit.microworld.interpreter import RestrictedError, call_function
from tacit.models.chat import encode_prompt, render_prompt
from tacit.running.answers import write_answer
from tacit.running.metrics import read_metrics, verdict_of, write_metrics
from tacit.running.parameters import complete_parameters, read_params
from tacit.running.plan import plan_runs
from tacit.running.tables import findings_table
from tacit.support import paths
from tacit.support.errors import TacitError

COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("repeatable", max_examples=150, derandomize=True, database=None, **COMMON)
settings.register_profile("explore", max_examples=5_000, **COMMON)
if settings.get_current_profile_name() != "explore":
    settings.load_profile("repeatable")

CHARACTERS = st.characters() | st.sampled_from("\ud800\udfff\0\u2028\ufeff{}[]:,&*!|>'\"\\\n\t-#%<")
TEXT = st.text(CHARACTERS, max_size=20)
SCALAR = st.none() | st.booleans() | st.integers() | st.floats() | TEXT | st.sampled_from([10**400, -(10**400), 1e308])
VALUE = st.recursive(SCALAR, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXT, v, max_size=4), max_leaves=8)
DEEP = "[" * 20_000  # deeper than Python's stack


def taken(read, *, name):
    """What ``read`` gives; None where it refuses with a message that names the file. Any other error is the test's."""
    try:
        return read()
    except TacitError as error:
        message = str(error)
    assert name in message
    return None


# ---------------------------------------------------------------- parameters

CELL = """n: int = 3
rate: float = 0.5
name: str = "a"
seeds: list[int] = [1]
base: str | None = None
epochs: dict[str, list[float]] = {}"""
GOOD = {"n": 4, "rate": 0.25, "name": "b", "seeds": [1, 2], "base": None, "epochs": {"x": [1.0]}}
FRAGMENTS = [
    *"n rate name seeds : - ? | > & * ! % @ ` # [ ] { } , 0 1 . e _ ~ << = \n \t".split(" "),
    "\n", ": ", "- ", "  ", "&a ", "*a",
    "!!int ", "!!float ", "!!bool ", "!!timestamp ", "!!binary ", "!!set ", "!!omap ", "!!map ",
    "!!python/object:os.system ", "!x ",
    "2020-13-45", "2020-01-01 25:61:61", "0x", "0b2", "1:99", ".nan", "-.inf", "1e999",
    '"\\ud800"', '"\\x00"', "---", "...", "%YAML 9.9",
]  # fmt: skip
YAML = st.one_of(
    st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join),
    st.fixed_dictionaries({name: st.just(value) | VALUE for name, value in GOOD.items()}).map(
        lambda values: yaml.safe_dump(values, allow_unicode=True)
    ),
    st.dictionaries(TEXT, VALUE, max_size=4).map(json.dumps),
    TEXT,
)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    (root / "params/toy").mkdir(parents=True)
    cell = new_code_cell(CELL, metadata={"tags": ["parameters"]})
    (root / "n1.ipynb").write_text(json.dumps(new_notebook(cells=[cell])), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paths, "PARAMS", root / "params")
        patch.setattr(paths, "OUTPUTS", root / "outputs")
        yield root


@given(YAML.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=30))
@example(DEEP.encode())
@example(b"n: &a [*a]")
@example(b"? [1, 2]\n: 3")
@example(b"!!map [a]")
@example(yaml.safe_dump(GOOD | {"rate": math.nan}).encode())
@example(yaml.safe_dump(GOOD | {"rate": 10**400}).encode())
@example(yaml.safe_dump(GOOD | {"name": "\ud800"}).encode())
@example(yaml.safe_dump(GOOD).encode())
def test_parameters_are_complete_and_can_be_written_down_or_refused(project, content):
    (project / "params/toy/n1.yaml").write_bytes(content)
    read = lambda: complete_parameters(project / "n1.ipynb", read_params("toy", "n1"), where="toy")  # noqa: E731
    values = taken(read, name="toy")
    if values is None:
        return
    assert list(values) and set(values) == set(GOOD)
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert type(values["n"]) is int and type(values["rate"]) is float and type(values["name"]) is str
    assert all(type(seed) is int for seed in values["seeds"])


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=8).map("".join))
@example("2020-13-45")
@example(DEEP)
def test_overrides_are_taken_or_refused(project, text):
    with pytest.MonkeyPatch.context() as patch:
        (project / "params/toy/n1.yaml").write_text(yaml.safe_dump(GOOD))
        patch.setattr(paths, "NOTEBOOKS", project)
        try:
            ((_, values),) = plan_runs([project / "n1.ipynb"], profile="toy", overrides={"base": text})
        except TacitError:
            return
    assert values["base"] is None or type(values["base"]) is str


# ---------------------------------------------------------------- instructions

ROW = st.fixed_dictionaries(
    {"instruction": TEXT | VALUE},
    optional={"response": TEXT | VALUE, "id": st.integers(0, 3) | TEXT | VALUE, "other": VALUE},
)
LINE = ROW.map(json.dumps) | ROW.map(lambda row: json.dumps(row, ensure_ascii=False)) | TEXT | st.just("")


@given(st.lists(LINE, max_size=5).map("\n".join))
@example(DEEP)
@example('{"instruction": "\\ud800"}')
@example('{"instruction": "a", "other": 1}\n{"instruction": "b", "other": "x"}')
@example('{"instruction": "a", "id": [1]}')
@example('{"instruction": "a", "id": 1}\n{"instruction": "b", "id": "1"}')
@example('{"instruction": "a", "other": 1' + "0" * 400 + "}")
@example('{"instruction": "a", "other": "\\udfff"}')
def test_instructions_are_those_of_the_lines_or_the_file_is_refused(project, text):
    path = project / "ask.jsonl"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    rows = taken(lambda: read_instructions(path), name="ask.jsonl")
    if rows is None:
        return
    said = [json.loads(line) for line in text.removeprefix("\ufeff").split("\n") if line.strip()]
    assert rows["instruction"][:] == [row["instruction"] for row in said]
    given = [row.get("response") for row in said]
    assert rows["response"][:] == [one if isinstance(one, str) else "" for one in given]  # null and NaN are absent
    assert len(set(rows["id"])) == len(said)


# ---------------------------------------------------------------- tokens

PIECE = st.sampled_from(
    "<s> </s> <pad> <|user|> <|assistant|> <s </ s> <<s>> <|user| <|im_start|> [INST] {{x}} {%".split()
)
SPOKEN = st.lists(PIECE | st.text(max_size=8) | st.sampled_from([" ", "\n", "0", "é", "😀"]), max_size=8).map("".join)


@given(SPOKEN)
@example("</s><s><pad>")
@example("{{ bos_token }}{% raw %}")
def test_any_text_round_trips(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


@given(SPOKEN, SPOKEN)
@example("</s>\n<|assistant|>\nYes.</s>", "")
@example("", "</s>")
def test_prompts_and_labels_are_those_of_transformers(tokenizer, instruction, response):
    """What looks like a special token in a text is read as plain characters, where transformers makes one of it.

    A template in an instruction is not run.
    """
    turns = [{"role": "user", "content": instruction}]
    prompt = encode_prompt(tokenizer, instruction)
    if not any(token in instruction for token in tokenizer.all_special_tokens):
        assert prompt == tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert [i for i in prompt if i in tokenizer.all_special_ids] == [tokenizer.bos_token_id]
    assert render_prompt(tokenizer, instruction) == f"<s><|user|>\n{instruction}\n<|assistant|>\n"
    assert tokenizer.decode(prompt) == render_prompt(tokenizer, instruction)
    encoded = encode_example(tokenizer, instruction, response)
    learnt = [label for label in encoded["labels"] if label != IGNORED]
    assert encoded["input_ids"] == prompt + learnt
    assert encoded["labels"][: len(prompt)] == [IGNORED] * len(prompt)
    assert tokenizer.decode(learnt) == response + "</s>"
    assert [i for i in learnt if i in tokenizer.all_special_ids] == [tokenizer.eos_token_id]


# ---------------------------------------------------------------- metrics

RESULT = {"arm": "a", "metric": "m", "value": 0.5, "low": 0.4, "high": 0.6, "n_seeds": 1, "n_prompts": 2}
RECORD = {
    "finding": "F", "claim": "C", "claim_holds": True, "headline": {"arm": "a", "metric": "m"},
    "results": [RESULT], "figures": [], "paper": [{"arm": "a", "metric": "m", "value": 0.4, "source": "S"}],
    "manifest": {}, "details": {},
}  # fmt: skip
DEMAND = {"arm": "a", "metric": "m", "threshold": 0.0, "side": "above"}
RULED = {name: value for name, value in RECORD.items() if name != "claim_holds"} | {
    "verdict": "holds", "rule": [DEMAND], "controls": [DEMAND | {"threshold": 0.25}], "at_least": 1,
    "headline": {"arm": "a", "metric": "m"}, "answer": {"found": "F", "reason": "R", "caveat": "C"},
}  # fmt: skip
NUMBERS = st.floats() | st.integers() | st.sampled_from([10**400, 1e308, True, "0.5", None])


def varied(good, other):
    """The parts of a record, each as it is or another value, or missing."""
    kept = {name: st.just(value) | other for name, value in good.items()}
    return st.fixed_dictionaries(kept) | st.fixed_dictionaries({}, optional=kept)


METRICS = st.one_of(
    varied(RECORD, VALUE),
    varied(RESULT, NUMBERS).map(lambda row: RECORD | {"results": [row]}),
    varied(RECORD["paper"][0], NUMBERS).map(lambda row: RECORD | {"paper": [row]}),
    varied(RULED, VALUE),
    varied(DEMAND, NUMBERS | st.sampled_from(["below", "b"])).map(lambda part: RULED | {"rule": [part]}),
    varied(RESULT, NUMBERS).map(lambda row: RULED | {"results": [row]}),
    VALUE.map(lambda value: RECORD | {"details": {"x": value}}),
    VALUE,
)


@given(METRICS.map(lambda record: json.dumps(record).encode()) | st.binary(max_size=30))
@example(DEEP.encode())
@example(json.dumps(RECORD | {"details": {"x": math.nan}}).encode())
@example(json.dumps(RECORD | {"results": [RESULT | {"value": 10**400, "high": 10**400}]}).encode())
@example(json.dumps(RECORD).replace("0.6", "1e999").encode())
@example(json.dumps(RECORD | {"finding": "\ud800"}).encode())
@example(json.dumps(RECORD | {"details": {"x": 10}}).replace("10", "1" * 5_000).encode())
@example(json.dumps(RECORD).encode())
@example(json.dumps(RULED).encode())
def test_metrics_can_be_shown_and_written_again_or_are_refused(project, content):
    (project / "outputs/toy").mkdir(parents=True, exist_ok=True)
    path = project / "outputs/toy/n1.json"
    path.write_bytes(content)
    record = taken(lambda: read_metrics(path), name="n1.json")
    if record is None:
        assert "| n1 | unreadable: " in findings_table(["n1"], profile="toy")
        return
    assert f"| {verdict_of(record)} | " in findings_table(["n1"], profile="toy")
    if "rule" in record:
        assert f"**Answer: {verdict_of(record)}.**" in write_answer(record)
    write_metrics(path, record)
    assert read_metrics(path) == record


# ---------------------------------------------------------------- programs

WORDS = "x y f len max sum range abs return if else elif for in while not and or pass None True False"
WORDS += " lambda yield def class import"
SIGNS = "( ) [ ] { } , : . = == < + - * ** // % << += := @ 0 1 7 999999999999 'a' '%d' f'{x}' __class__"
TOKENS = [*WORDS.split(), *SIGNS.split(), "\n", "\n    ", "\n        "]


@given(st.lists(st.sampled_from(TOKENS), max_size=20).map(" ".join), st.integers(-3, 3))
@example("return x", 1)
def test_programs_give_a_plain_value_or_are_refused(body, value):
    try:
        result = call_function(f"def f(x):\n    {body}", name="f", arguments=[value])
    except RestrictedError:
        return
    assert result is None or type(result) in (int, bool, str, list)
