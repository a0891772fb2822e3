"""The command line with odd files, templates, numbers and places: a whole result, or one line and exit code 2."""

import json
import math
import os

import pytest
from datasets import Dataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tacit.__main__ import main

ROWS = [{"instruction": f"Say {word}.", "response": f"{word}!"} for word in ("moon", "sea", "key")]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
FILES = {
    "plain": LINES.encode(),
    "mark": b"\xef\xbb\xbf" + LINES.encode(),
    "crlf": LINES.replace("\n", "\r\n").encode(),
    "utf16": LINES.encode("utf-16"),
    "latin1": '{"instruction": "é", "response": "è"}'.encode("latin-1"),
    "empty": b"",
    "blank": b"\n \n",
    "deep": b"[" * 100_000,
    "number": b"3\n",
    "null": b'{"id": null, "instruction": "a", "response": "b"}',
    "no response": b'{"instruction": "a", "response": null}',
    "nan id": b'{"id": NaN, "instruction": "a", "response": "b"}',
    "ids": b'{"id": 1, "instruction": "a", "response": "b"}\n{"id": "x", "instruction": "c", "response": "d"}',
    "same id": b'{"id": 1, "instruction": "a", "response": "b"}\n{"id": "1", "instruction": "c", "response": "d"}',
    "alpaca": b'{"instruction": "Sum up.", "input": "The Ebro.", "output": "A river."}',
    "dolly": b'{"instruction": "Who?", "context": "He ran.", "response": "He."}',
    "chat": b'{"messages": [{"role": "user", "content": "Hi"}]}',
    "mixed": b'{"instruction": "a", "response": "b", "m": 1}\n{"instruction": "c", "response": "d", "m": "x"}',
    "tags": b'{"instruction": "What is </s>?", "response": "</s> ends <s>"}',
    "surrogate": b'{"instruction": "\\ud800", "response": "b"}',
    "long": json.dumps({"instruction": "word " * 400, "response": "word " * 400}).encode(),
    "silent": b'{"instruction": "", "response": "b"}',
    "pipe": b'{"id": "a|b\\n# c", "instruction": "`a` | <b> $x_1$", "response": "b"}',
}
TEMPLATES = {
    "own": "{{ bos_token }}Q: {{ messages[0]['content'] }}\nA:",
    "mark": "\ufeff{{ messages[0]['content'] }}:",
    "raises": "{{ raise_exception('no') }}",
    "open": "{% for m in messages %}",
    "drops": "{{ bos_token }}",
    "parts": "{% for c in messages[0]['content'] %}{{ c.text }}{% endfor %}",
    "random": "{{ range(100000) | random }}{{ messages[0]['content'] }}",
    "clock": "{{ strftime_now('%d %b %Y') }} {{ messages[0]['content'] }}",
    "bare": "{{ messages[0]['content'] }}",
    "cut": "{{ messages[0]['content'][:9] }}",
}
NUMBERS = ["0", "-1", "1", "3", "0.5", "nan", "inf", "-inf", "1e-320", "1e300", "99999999999", "x", "", "1_0", "０"]
NUMERIC = {
    "synthesize": "alpha beta temperature top-p seed max-new-tokens batch-size shard-size".split(),
    "finetune": "epochs learning-rate batch-size micro-batch max-length seed lora-r lora-alpha".split(),
}
WORDS = {
    "workers": ["0", "-1", "x", "nan"],  # two would start Ray
    "dtype": ["float32", "bfloat16", "float16", "auto", "int8", ""],
    "log-ratios": ["none", "mean", "tokens", "all"],
    "optimizer": ["adamw", "adamw-master", "sgd"],
}
PLACES = ["out", "a|b `c` <d>", "é", "file/sub", "/proc/out", "full", "", "x" * 300, "new\nline"]
MODELS = ["{0}", "{0}/", "./expert", "nothing", "./nothing", "a/b@c", "", "file", "{0}/config.json", "\0"]


@st.composite
def commands(draw):
    """A command, its source, template, place and models, and other options with their values: at most two are odd."""
    command = draw(st.sampled_from(sorted(NUMERIC)))
    known = [*NUMERIC[command], "dtype", *(["log-ratios", "workers"] if command == "synthesize" else ["optimizer"])]
    odd = draw(st.lists(st.sampled_from(["file", "template", "place", "model", *known]), min_size=1, max_size=2))
    pick = lambda what, usual, all_of: draw(st.sampled_from(all_of)) if what in odd else usual  # noqa: E731
    options = {name: draw(st.sampled_from(WORDS.get(name, NUMBERS))) for name in odd if name in known}
    file, template = pick("file", "plain", sorted(FILES)), pick("template", "", ["tulu", "none", *sorted(TEMPLATES)])
    return command, file, template, pick("place", "out", PLACES), pick("model", "{0}", MODELS), options


@pytest.fixture(scope="module")
def folder(pair, tmp_path_factory):
    root = tmp_path_factory.mktemp("fuzz")
    for name, content in FILES.items():
        (root / f"{name}.jsonl").write_bytes(content)
    for name, text in TEMPLATES.items():
        (root / f"{name}.jinja").write_text(text)
    (root / "file").touch()
    os.symlink(pair["expert"], root / "expert")
    return root


@settings(max_examples=300, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(commands())
def test_a_command_gives_a_whole_result_or_one_line(folder, pair, tmp_path_factory, capsys, drawn):
    command, file, template, place, model, options = drawn
    work = tmp_path_factory.mktemp("try")
    (work / "full").mkdir()
    (work / "full" / "other").touch()
    (work / "file").touch()
    os.symlink(folder / "expert", work / "expert")
    model, source = model.format(pair["expert"]), str(folder / f"{file}.jsonl")
    words = [command, f"--out={place}"]
    if command == "synthesize":
        words += [f"--expert={model}", f"--amateur={pair['amateur']}", f"--instructions={source}"]
        options = {"max-new-tokens": "2"} | options
    else:
        words += [f"--model={model}", f"--examples={source}"]
        options = {"epochs": "1", "batch-size": "2"} | options
    words += [f"--{name}={value}" for name, value in options.items()]
    if template:
        words += [f"--chat-template={template if template == 'tulu' else folder / f'{template}.jinja'}"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(work)
        try:
            status = main(words)
        except SystemExit as error:  # argparse's own
            status = error.code
    said = capsys.readouterr()
    assert status in (0, 2), (words, said)
    if status == 2:
        last = said.err.rstrip("\n").splitlines()[-1]
        assert "error: " in last and "Traceback" not in said.err, (words, said.err)
        return
    if command == "finetune":
        record = json.loads((work / place / "finetuning.json").read_text())
        assert all(math.isfinite(row["loss"]) and row["loss"] > 0 for row in record["history"]), words
        return
    rows = Dataset.from_parquet([str(path) for path in sorted((work / place / "data").glob("*"))], cache_dir=work / "c")
    asked = [json.loads(line) for line in FILES[file].decode("utf-8-sig").splitlines() if line.strip()]
    assert [row["instruction"] for row in rows] == [row["instruction"] for row in asked], words
    ratios = [row["mean_log_ratio"] for row in rows if row["mean_log_ratio"] is not None]
    assert all(map(math.isfinite, ratios)), words
    assert all(row["prompt_tokens"] > 0 and row["finish_reason"] in ("eos", "length") for row in rows), words
