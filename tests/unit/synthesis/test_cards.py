"""The card: it counts the rows, names what made them, and keeps a licence that was filled in."""

import html
import json
import re
import shutil

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard
from markdown_it import MarkdownIt
from synthesis_runs import EXACT, INSTRUCTIONS, OPTIONS, damage, run, whole_run
from tacit.support import provenance
from tacit.synthesis import engine
from tacit.synthesis.cards import UNFINISHED, dataset_card
from tacit.synthesis.engine import synthesize


@pytest.fixture(scope="module")
def whole(pair, tmp_path_factory):
    return whole_run(pair, tmp_path_factory)


def test_the_folder_loads_as_it_is_and_its_card_counts(pair, whole):
    out, rows = whole
    loaded = load_dataset(str(out), cache_dir=f"{out}.cache")
    assert list(loaded) == ["train"]
    assert loaded["train"].to_list() == rows
    assert loaded["train"].column_names == [*EXACT, "mean_log_ratio"]
    assert [row["id"] for row in rows] == [row["id"] for row in INSTRUCTIONS]
    card = DatasetCard.load(out / "README.md")
    assert card.data.license_name == "to-be-filled-in"
    ended = sum(row["finish_reason"] == "eos" for row in rows)
    for name, value in {"rows": 13, "ended by an end token": ended, "alpha": "`0.01`", "beta": "`1.0`"}.items():
        assert f"| {name} | {value} |" in card.text
    mean = np.mean([row["response_tokens"] for row in rows])
    assert f"| mean response tokens | {mean:.2f} |" in card.text
    assert "p_expert >= 0.01 max p_expert" in card.text and "licence governs its outputs" in card.text
    parameters = json.loads((out / "synthesis.json").read_text())["parameters"]
    assert parameters["expert"] in card.text and parameters["expert"] != parameters["amateur"]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same rows", "other environment"])
def test_a_licence_filled_in_stays_when_a_shard_is_made_again(pair, whole, tmp_path, monkeypatch, elsewhere):
    out, lines = tmp_path / "out", []
    shutil.copytree(whole[0], out)
    card = (out / "README.md").read_text().replace("license: other", "license: cc-by-4.0\npretty_name: Moons")
    card = card.replace("license_name: to-be-filled-in\n", "") + "\nBy hand.\n"
    (out / "README.md").write_text(card)
    damage(out, "deleted")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "Decoder", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(pair, out)
    assert (out / "README.md").read_text() == UNFINISHED
    if elsewhere:
        monkeypatch.setattr(provenance, "device_name", lambda: "abacus")
    run(pair, out, say=lines.append)
    if elsewhere:
        new = DatasetCard.load(out / "README.md")
        assert new.data.license == "cc-by-4.0" and "license_name" not in new.data
        assert new.data.pretty_name == "Moons" and new.data.configs[0]["data_files"][0]["path"] == "data/train-*"
        assert "filled in" not in new.text and "abacus" in new.text and "By hand" not in new.text
        assert (out / ".synthesis/card.md").read_text() == card
        assert any(str(out / ".synthesis/card.md") in text for text in lines)
    else:
        assert (out / "README.md").read_text() == card
        assert not (out / ".synthesis/card.md").exists()


def test_a_first_card_is_written_without_a_warning(pair, tmp_path, monkeypatch):
    from huggingface_hub import repocard

    lines = []
    monkeypatch.setattr(repocard.logger, "warning", lines.append)
    synthesize(**pair, instructions=INSTRUCTIONS[:2], out=tmp_path / "new", **OPTIONS)
    assert lines == []


def test_the_card_says_that_instructions_were_given_in_python_unless_named(pair, whole, tmp_path):
    assert "| instructions | `given in Python` (`" in (whole[0] / "README.md").read_text()
    run(pair, tmp_path / "out", INSTRUCTIONS[:2], instructions_name="two of mine")
    assert "| instructions | `two of mine` (`" in (tmp_path / "out/README.md").read_text()


@pytest.mark.parametrize("name", ["a: b #c | <x>", "`c` ``d``", "--- *e* _f_ $g$ &amp; [h](i)", "two\nlines", "\udcff"])
def test_names_are_shown_as_written(whole, name):
    out, rows = whole
    parameters = json.loads((out / "synthesis.json").read_text())["parameters"]
    parameters["chat_template"] = f"~~~\n{name.replace(chr(0xDCFF), '')}~~~~"
    facts = {"names": {"expert": name, "amateur": name}, "parameters": parameters, "made_with": [{"torch": "1"}]}
    card = dataset_card(Dataset.from_list(rows), **facts, instructions=f"jsonl:{name}.jsonl[:9]")
    card.encode("utf-8")
    assert DatasetCard(card).data.to_dict() == DatasetCard(UNFINISHED).data.to_dict() | {
        "license": "other", "license_name": "to-be-filled-in", "task_categories": ["text-generation"],
        "tags": ["synthetic", "codit", "contrastive-decoding"],
    }  # fmt: skip
    shown = MarkdownIt("commonmark").enable("table").render(card.split("---\n", 2)[2])
    cells = re.findall(r"<td><code>(.*?)</code> \(<code>(.*?)</code>\)</td>", shown)
    plain = name.replace("\n", " ").replace("\udcff", r"\udcff")
    assert [html.unescape(cell) for cell, _ in cells] == [plain, plain, f"jsonl:{plain}.jsonl[:9]"]
    assert [key for _, key in cells] == [parameters[role] for role in ("expert", "amateur", "instructions")]
    assert "<h2>Contents</h2>" in shown  # the template's fence ends where the template does
