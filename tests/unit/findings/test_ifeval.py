"""IFEval's files, tables and intervals; with lm-evaluation-harness its own verifiers and its run of a model."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tacit.decoding.generation import generate_responses
from tacit.findings import ifeval
from tacit.scoring import scores
from tacit.support.errors import TacitError

PROMPTS = [
    {"key": 1, "prompt": "No commas.", "instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]},
    {
        "key": 2,
        "prompt": "Few words, all small.",
        "instruction_id_list": ["length_constraints:number_words", "change_case:english_lowercase"],
        "kwargs": [{"relation": "less than", "num_words": 5}, {}],
    },
    {
        "key": 7,
        "prompt": "Two sentences.",
        "instruction_id_list": ["length_constraints:number_sentences"],
        "kwargs": [{"relation": "at least", "num_sentences": 2}],
    },
]
REAL = Path(__file__).parents[4] / "shared/data/ifeval_head.jsonl"


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_prompts_are_read_as_they_are(tmp_path):
    assert ifeval.read_prompts(write(tmp_path / "a.jsonl", PROMPTS)) == PROMPTS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2, is not JSON"),
        ("[]", "line 2, is not a prompt"),
        (json.dumps(PROMPTS[0] | {"prompt": None}), r"line 2, is not a prompt .* at \$\.prompt: None"),
        (json.dumps({k: v for k, v in PROMPTS[0].items() if k != "kwargs"}), "'kwargs' is a required"),
        (json.dumps(PROMPTS[1] | {"kwargs": [{}]}), "line 2, needs as many kwargs as instructions"),
    ],
)
def test_a_malformed_line_is_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(PROMPTS[0]) + "\n" + line + "\n")
    with pytest.raises(TacitError, match=message):
        ifeval.read_prompts(path)


def test_no_file_and_no_prompt(tmp_path):
    with pytest.raises(TacitError, match="cannot read IFEval's prompts"):
        ifeval.read_prompts(tmp_path / "none.jsonl")
    with pytest.raises(TacitError, match="holds no prompt"):
        ifeval.read_prompts(write(tmp_path / "a.jsonl", []))


def table(verdicts):
    rows = [{"prompt_level_strict_acc": all(v), "prompt_level_loose_acc": True} for v in verdicts]
    more = [
        {"key": i, "inst_level_strict_acc": v, "inst_level_loose_acc": [True] * len(v)} for i, v in enumerate(verdicts)
    ]
    return pd.DataFrame([a | b for a, b in zip(rows, more, strict=True)])


def test_accuracies_by_hand():
    """Prompts: 1 of 3 and 2 of 3. Instructions: (1 + 1 + 0) + (1 + 2 + 0) of 2 x 5, not the mean of prompts' shares."""
    first, second = table([[True], [True, False], [False, False]]), table([[True], [True, True], [False, False]])
    found = ifeval.accuracies([first, second])
    assert list(found) == list(ifeval.METRICS)
    assert found["prompt_level_strict_acc"].value == pytest.approx(1 / 2)
    assert found["inst_level_strict_acc"].value == pytest.approx(5 / 10)
    assert found["prompt_level_strict_acc"] == scores.estimate([[1, 0, 0], [1, 1, 0]])
    assert found["inst_level_loose_acc"] == scores.estimate(np.ones((2, 3)))
    assert (found["inst_level_strict_acc"].n_seeds, found["inst_level_strict_acc"].n_prompts) == (2, 3)


def test_instructions_of_a_prompt_are_drawn_together():
    """Three equal verdicts per prompt say no more than one: the interval is that of the prompts."""
    passed = np.random.default_rng(0).binomial(1, 0.4, size=200).astype(bool)
    found = ifeval.accuracies([table([[bool(p)] * 3 for p in passed])])
    half = 1.96 * passed.std() / np.sqrt(200)
    ours = found["inst_level_strict_acc"]
    assert ours.value == pytest.approx(passed.mean())
    assert ours.high - ours.low == pytest.approx(2 * half, rel=0.15)


def test_seeds_must_answer_the_same_prompts():
    with pytest.raises(ValueError, match="same prompts"):
        ifeval.accuracies([table([[True]]), table([[True], [False]])])
    with pytest.raises(ValueError, match="same prompts"):
        ifeval.accuracies([])


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setitem(sys.modules, "langdetect", None)
    with pytest.raises(TacitError, match=r"pip install -e '.\[ifeval\]'"):
        ifeval.score_responses(PROMPTS[:1], ["Yes"])
    with pytest.raises(ValueError, match="need as many"):
        ifeval.score_responses(PROMPTS, ["Yes"])


class ByHand:
    """Stands in for the harness: an instruction is followed where the response's number of letters is even."""

    @staticmethod
    def process_results(row, texts):
        even = len(texts[0]) % 2 == 0
        verdicts = [even] * len(row["instruction_id_list"])
        return {name: verdicts if name.startswith("inst") else even for name in ifeval.METRICS}


def test_a_model_is_measured_by_one_command(tmp_path, tiny, tokenizer, monkeypatch, capsys):
    known = {name: None for prompt in PROMPTS for name in prompt["instruction_id_list"]}
    monkeypatch.setattr(ifeval, "_verifiers", lambda: (ByHand, known))
    monkeypatch.setattr(ifeval, "version", lambda package: "0.4")
    checkpoint, prompts, out = tmp_path / "model", write(tmp_path / "prompts.jsonl", PROMPTS), tmp_path / "out.json"
    tiny.save_pretrained(checkpoint)
    tokenizer.save_pretrained(checkpoint)
    options = ["--model", str(checkpoint), "--prompts", str(prompts), "--out", str(out), "--max-new-tokens", "7"]
    assert ifeval.main(options) == 0
    record = json.loads(out.read_text())
    texts = [r.text for r in generate_responses(tiny, tokenizer, [p["prompt"] for p in PROMPTS], max_new_tokens=7)]
    even = [len(text) % 2 == 0 for text in texts]
    values = {row["metric"]: row["value"] for row in record["results"]}
    assert values["prompt_level_strict_acc"] == pytest.approx(np.mean(even))
    assert values["inst_level_loose_acc"] == pytest.approx((even[0] + 2 * even[1] + even[2]) / 4)
    assert (record["prompts"], record["max_new_tokens"], record["dtype"]) == (3, 7, "float32")
    assert "prompt_level_strict_acc: " in capsys.readouterr().out
    before = out.read_text()
    assert ifeval.main([*options[:3], str(tmp_path / "none.jsonl"), *options[4:]]) == 2
    assert "cannot read IFEval's prompts" in capsys.readouterr().err and out.read_text() == before


# ------------------------------------------------------------ with the package: its verifiers


@pytest.fixture(scope="module")
def harness(tmp_path_factory):
    """lm_eval offline, with a sentence model trained here where NLTK's is not installed."""
    lm_eval = pytest.importorskip("lm_eval")
    nltk = pytest.importorskip("nltk")
    pytest.importorskip("langdetect")
    from nltk.tokenize import punkt

    root = tmp_path_factory.mktemp("nltk_data")
    folder = root / "tokenizers/punkt_tab/english"
    folder.mkdir(parents=True)
    trainer = punkt.PunktTrainer()
    trainer.train("Mr. Smith saw Mr. Jones. It rained. Mr. Smith left. " * 5, finalize=True)
    nltk.data.path.insert(0, str(root))
    punkt.save_punkt_params(trainer.get_params(), str(folder))
    yield lm_eval
    nltk.data.path.remove(str(root))


def test_responses_are_verified_by_hand(harness):
    responses = ["Yes, no.\nYes", "Four small words here", "It rained. Mr. Smith left."]
    found = ifeval.score_responses(PROMPTS, responses)
    assert found["key"].tolist() == [1, 2, 7]
    assert found["inst_level_strict_acc"].tolist() == [[False], [True, False], [True]]
    assert found["prompt_level_strict_acc"].tolist() == [False, False, True]
    assert found["prompt_level_loose_acc"].tolist() == [True, False, True]  # without the first line, no comma
    assert ifeval.score_responses(PROMPTS[2:], ["Mr. Smith left"])["prompt_level_strict_acc"].tolist() == [False]


def test_an_unknown_instruction_is_named(harness):
    with pytest.raises(TacitError, match="'no:such'"):
        ifeval.score_responses([PROMPTS[0] | {"instruction_id_list": ["no:such"]}], ["Yes"])


def test_the_real_rows_have_verifiers(harness):
    if not REAL.exists():
        pytest.skip("no rows of IFEval's at ../shared/data")
    prompts = ifeval.read_prompts(REAL)
    found = ifeval.score_responses(prompts, ["hello [name]\nbye"] * len(prompts))
    assert 0 < ifeval.accuracies([found])["inst_level_loose_acc"].value < 1
    assert found["inst_level_strict_acc"].map(len).tolist() == [len(p["kwargs"]) for p in prompts]


def test_a_missing_sentence_model_is_said_before_any_download(harness, monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setattr(nltk, "download", lambda *a, **k: pytest.fail("tried to download"))
    with pytest.raises(TacitError, match="NLTK_DATA"):
        ifeval.score_responses(PROMPTS, ["Yes"] * 3)


def test_a_models_responses_are_scored(harness, tiny, tokenizer):
    responses = generate_responses(tiny, tokenizer, [p["prompt"] for p in PROMPTS], max_new_tokens=12)
    verdicts = ifeval.score_responses(PROMPTS, [response.text for response in responses])
    assert list(verdicts) == ["key", *ifeval.METRICS]
    assert set(ifeval.accuracies([verdicts])) == set(ifeval.METRICS)
