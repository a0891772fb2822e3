"""AlpacaEval's files; with the package its annotators, its cache and its own length-controlled rate, all offline."""

import json
import os
import sys

import numpy as np
import pandas as pd
import pytest
import sklearn
from tacit.scoring import alpacaeval
from tacit.support.errors import TacitError

INSTRUCTIONS = [f"Say {word}." for word in ("moon", "grün 😀", "{braces}", "four\nlines")]
OURS = ["Moon.", "Grün.", "{}", "a\nb"]
THEIRS = ["No.", "Grün.", "What?", "x" * 30]


def annotation(**columns):
    return {
        "instruction": "Say moon.", "output_1": "No.", "output_2": "Moon.",
        "generator_1": "theirs", "generator_2": "ours", "annotator": "a", "preference": 2.0, "raw": [{"token": "m"}],
    } | columns  # fmt: skip


# ---------------------------------------------------------------------------------------------------- files, no package


def test_outputs_are_alpaca_evals_rows(tmp_path):
    rows = alpacaeval.output_rows(INSTRUCTIONS, OURS, generator="ours")
    assert rows[0] == {"instruction": "Say moon.", "output": "Moon.", "generator": "ours"}
    alpacaeval.write_outputs(tmp_path / "outputs.json", INSTRUCTIONS, OURS, generator="ours")
    assert json.loads((tmp_path / "outputs.json").read_text("utf-8")) == rows
    assert pd.read_json(tmp_path / "outputs.json")["output"].tolist() == OURS  # as alpaca_eval reads it
    with pytest.raises(ValueError, match="shorter"):
        alpacaeval.output_rows(INSTRUCTIONS, OURS[:1], generator="ours")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot read"),
        ("{}", "JSON array"),
        ("[]", "JSON array"),
        ('[{"instruction": "x"}]', "row 0: .* 'output_1'"),
    ],
)
def test_other_files_are_refused(tmp_path, text, message):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(TacitError, match=message):
        alpacaeval.read_annotations(tmp_path / "a.json")
    with pytest.raises(TacitError, match="cannot read"):
        alpacaeval.read_annotations(tmp_path / "none.json")


def test_annotations_are_read_whole_and_their_preferences_are_ours(tmp_path):
    rows = [annotation(preference=p) for p in (2.0, 1, 1.5, 0, 1.2, None, -1)]
    (tmp_path / "annotations.json").write_text(json.dumps(rows))
    found = alpacaeval.read_annotations(tmp_path / "annotations.json")
    assert found["raw"].tolist() == [row["raw"] for row in rows]
    np.testing.assert_allclose(alpacaeval.preferences(found), [1, 0, 0.5, 0.5, 0.2, np.nan, np.nan])
    for wrong in (3.0, 0.7, "both"):
        with pytest.raises(TacitError, match="row 1 of the annotations"):
            alpacaeval.preferences(pd.DataFrame([annotation(), annotation(preference=wrong)]))
    (tmp_path / "annotations.json").write_text(json.dumps([{k: v for k, v in rows[0].items() if k != "preference"}]))
    with pytest.raises(TacitError, match="'preference'"):
        alpacaeval.read_annotations(tmp_path / "annotations.json")


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "alpaca_eval", None)
    with pytest.raises(TacitError, match=r"pip install -e '.\[alpaca\]'"):
        alpacaeval.judge_pairs(INSTRUCTIONS, OURS, THEIRS, annotator="weighted_alpaca_eval_gpt4_turbo")
    with pytest.raises(ValueError, match="shorter"):
        alpacaeval.annotate(INSTRUCTIONS, OURS[:1], THEIRS, annotator="a")
    with pytest.raises(TacitError, match="805 prompts, not 1"):
        alpacaeval.length_controlled_preferences(pd.DataFrame([annotation()]))


# ------------------------------------------------------------ with the package, nothing fetched


@pytest.fixture
def annotator(tmp_path):
    """A local annotator of alpaca_eval's that answers every prompt with m, the first place, whatever it shows there."""
    pytest.importorskip("alpaca_eval", exc_type=ImportError)
    folder = tmp_path / "first_place"
    folder.mkdir()
    template = "<|im_start|>user\n{instruction}\n# m\n{output_1}\n# M\n{output_2}\n<|im_end|>"
    (folder / "prompt.txt").write_text(template)
    (folder / "configs.yaml").write_text(
        "first_place:\n  prompt_template: first_place/prompt.txt\n  fn_completions: test_completions\n"
        "  completions_kwargs: {value: m}\n  fn_completion_parser: regex_parser\n"
        "  completion_parser_kwargs: {outputs_to_match: {1: '^m', 2: '^M'}}\n"
    )
    return folder


def test_an_annotator_of_the_package_judges(annotator):
    instructions = [f"Say {i}." for i in range(40)]
    ours, theirs = [f"ours {i}" for i in range(40)], [f"theirs {i}" for i in range(40)]
    ours[3] = theirs[3]
    found = alpacaeval.judge_pairs(instructions, ours, theirs, annotator=str(annotator))
    assert found[3] == 0.5
    rest = np.delete(found, 3)
    assert set(rest) == {0.0, 1.0}  # the places are drawn, so that the first is ours about half of the time
    assert 0.2 < rest.mean() < 0.8
    table = alpacaeval.annotate(instructions, ours, theirs, annotator=str(annotator))
    assert table["output_2"].tolist() == ours
    assert table["output_1"].tolist() == theirs
    np.testing.assert_array_equal(alpacaeval.preferences(table), found)


def test_the_packages_cache_is_asked_first(annotator):
    """Its file, beside the annotator, is what a second call reads: an edited verdict comes back."""
    given = (INSTRUCTIONS, OURS, THEIRS)
    first = alpacaeval.judge_pairs(*given, annotator=str(annotator))
    [cache] = annotator.glob("annotations_*.json")
    rows = json.loads(cache.read_text())
    for row in rows:
        row["preference"] = 1.25
    cache.write_text(json.dumps(rows))
    again = alpacaeval.judge_pairs(*given, annotator=str(annotator))
    assert first[1] == again[1] == 0.5  # equal outputs are not asked
    np.testing.assert_allclose(np.delete(again, 1), 0.25)


def test_the_packages_export_is_read_back(annotator, tmp_path):
    """``alpaca_eval``'s own files, from the files that we write."""
    import alpaca_eval

    for name, side in (("ours", OURS), ("theirs", THEIRS)):
        alpacaeval.write_outputs(tmp_path / f"{name}.json", INSTRUCTIONS, side, generator=name)
    alpaca_eval.evaluate(
        model_outputs=tmp_path / "ours.json",
        reference_outputs=tmp_path / "theirs.json",
        annotators_config=str(annotator),
        output_path=tmp_path / "files",
        precomputed_leaderboard=None,
        fn_metric="get_winrate",
        sort_by="win_rate",
    )
    [written] = (tmp_path / "files").rglob("annotations.json")
    preferences = alpacaeval.preferences(alpacaeval.read_annotations(written))
    judged = alpacaeval.judge_pairs(INSTRUCTIONS, OURS, THEIRS, annotator=str(annotator))
    np.testing.assert_array_equal(preferences, judged)
    board = pd.read_csv(written.parent / "leaderboard.csv", index_col=0)
    assert board.loc["ours", "win_rate"] == pytest.approx(100 * preferences.mean())


def test_no_verdict_is_a_tie_with_a_warning_or_an_error(annotator):
    config = annotator / "configs.yaml"
    config.write_text(config.read_text().replace("value: m}", "value: neither}"))
    with pytest.warns(UserWarning, match="no verdict for 3 of 4"):
        assert alpacaeval.judge_pairs(INSTRUCTIONS, OURS, THEIRS, annotator=str(annotator)).tolist() == [0.5] * 4
    with pytest.raises(TacitError, match="no verdict for any pair"):
        alpacaeval.judge_pairs(INSTRUCTIONS[:1], OURS[:1], THEIRS[:1], annotator=str(annotator))


def test_an_unknown_annotator_and_a_missing_key_are_named(annotator, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_API_KEYS", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(TacitError, match="weighted_alpaca_eval_gpt4_turbo"):
        alpacaeval.find_annotator("no_such_annotator")
    for name, variable in (("weighted_alpaca_eval_gpt4_turbo", "OPENAI_API_KEY"), ("claude", "ANTHROPIC_API_KEY")):
        with pytest.raises(TacitError, match=variable):
            alpacaeval.judge_pairs(INSTRUCTIONS, OURS, THEIRS, annotator=name)
    monkeypatch.setitem(os.environ, "OPENAI_API_KEY", "not a key")
    assert alpacaeval.find_annotator("weighted_alpaca_eval_gpt4_turbo").name == "configs.yaml"


def simulated(n, *, longer, bias, seed):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(100, 400, size=n)
    ours = np.maximum(lengths + rng.normal(longer, 100, size=n).astype(int), 1)
    chance = 1 / (1 + np.exp(-bias * np.tanh((ours - lengths) / (ours - lengths).std())))
    rows = [
        annotation(instruction=f"Say {i}.", output_1="x" * a, output_2="y" * b, preference=1.0 + p)
        for i, (a, b, p) in enumerate(zip(lengths, ours, chance, strict=True))
    ]
    return pd.DataFrame(rows)


def test_the_packages_own_length_control_sees_through_a_length_bias(annotator, monkeypatch, tmp_path):
    """Its regression, on a stand-in for the table that it fetches: difficulties, and two lengthened baselines."""
    from alpaca_eval.metrics import glm_winrate

    rng = np.random.default_rng(0)
    gamed = pd.DataFrame(
        {"index": np.tile(np.arange(805), 2), "instruction_difficulty": np.tile(rng.normal(size=805), 2)}
    )
    gamed["std_delta_len"] = np.repeat([-1.0, 1.0], 805) * rng.random(1610)
    gamed["preference"] = 1 / (1 + np.exp(2 * np.tanh(gamed["std_delta_len"])))  # length of theirs minus ours
    gamed["not_gamed_baseline"], gamed["model"] = False, "gamed"
    gamed.to_csv(tmp_path / "df_gamed.csv", index=False)
    monkeypatch.setattr(glm_winrate, "hf_hub_download", lambda **_: str(tmp_path / "df_gamed.csv"))
    table = simulated(805, longer=100, bias=2.0, seed=1)
    before = sklearn.get_config()
    found = alpacaeval.length_controlled_preferences(table)
    assert sklearn.get_config() == before
    assert "glm_preference" not in table
    assert found.shape == (805,)
    assert alpacaeval.preferences(table).mean() > 0.65
    assert abs(found.mean() - 0.5) < 0.05
    monkeypatch.setattr(glm_winrate, "hf_hub_download", lambda **_: (_ for _ in ()).throw(ConnectionError("offline")))
    with pytest.raises(TacitError, match=r"df_gamed\.csv"):
        alpacaeval.length_controlled_preferences(table)
