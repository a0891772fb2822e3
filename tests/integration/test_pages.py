"""The pages of docs/: their commands run as they stand, and what they name is there."""

import argparse
import importlib
import json
import re

import pytest
from conftest import llama_config, make_model
from datasets import load_dataset
from pages import NAME, ROOT, blocks, commands, copy_repository, find_row, free_name, perform
from safetensors.torch import load_file
from tacit.__main__ import make_parser
from tacit.models.chat import tulu_template
from tacit.running import templates
from tacit.running.metrics import read_metrics
from tacit.scoring.verdicts import VERDICTS

NAMES = ("CONTRIBUTING.md", "ARCHITECTURE.md", "README.md", "params/README.md")
PAGES = [*(ROOT / name for name in NAMES), *sorted((ROOT / "docs").glob("*.md"))]


@pytest.fixture
def copy(tmp_path):
    return copy_repository(tmp_path / "a copy")


def save_pair(folder, tokenizer):
    """Two tiny random models with one vocabulary: a chat model, and a base model without a chat template."""
    for seed, role in enumerate(("expert", "amateur")):
        make_model(llama_config(tokenizer, positions=2048), seed=seed).save_pretrained(folder / role)
        tokenizer.chat_template = tulu_template() if role == "expert" else None
        tokenizer.save_pretrained(folder / role)


@pytest.mark.slow
def test_bring_your_own(copy, tokenizer):
    mine, name, page = copy / "outputs/mine-custom", free_name(copy), copy / "docs/bring_your_own.md"
    template = tokenizer.chat_template
    save_pair(mine, tokenizer)
    tokenizer.chat_template = template  # the tokenizer is the session's
    instructions, pair, tuned, report, rules, notebook = (block.replace(NAME, name) for block in blocks(page, "sh"))
    perform(copy, instructions)
    asked = [json.loads(line) for line in (mine / "train.jsonl").read_text().splitlines()]
    perform(copy, pair)
    made = load_dataset("parquet", data_files=str(mine / "dataset/data/*.parquet"), split="train", cache_dir=copy / "c")
    assert [row["instruction"] for row in made] == [row["instruction"] for row in asked]
    perform(copy, tuned)
    before, after = (load_file(mine / folder / "model.safetensors") for folder in ("amateur", "tuned"))
    assert set(after) == set(before)
    assert any((after[key].float() != before[key].float()).any() for key in after)
    perform(copy, report)
    record = read_metrics(copy / "outputs/smoke-custom/20_real_model.json")
    assert record["manifest"]["parameters"]["amateur"] == "outputs/mine-custom/amateur"
    perform(copy, rules)
    record = read_metrics(copy / "outputs/smoke-custom/05_three_rules.json")
    assert record["manifest"]["parameters"]["uniform_tokens"] == {"I": -5.0, " the": -1.0}
    assert record["manifest"]["parameters"]["base"] == "outputs/mine-custom/amateur"
    [code] = blocks(page, "python")
    (copy / "own_rule.py").write_text(code)
    said = perform(copy, ".venv/bin/python own_rule.py")
    assert said.strip("-\n ")
    assert said == said.lower()
    (copy / "own_rule.py").write_text(code.replace("-= 10.0", "-= 0.0"))  # without the rule it does write capitals
    unruled = perform(copy, ".venv/bin/python own_rule.py")
    assert unruled != unruled.lower()
    perform(copy, notebook)
    record = read_metrics(copy / f"outputs/smoke-custom/{name}.json")
    assert {row["n_prompts"] for row in record["results"]} == {4}
    assert record["manifest"]["parameters"]["training_set"] == "broad"


@pytest.mark.slow
def test_rerunning(copy, session_cache):
    page = copy / "docs/rerunning.md"
    parameters, other, sweep, compare = (perform(copy, block, cache=session_cache) for block in blocks(page, "sh"))
    assert "n_train: int = 96\n    examples to tune on\n" in parameters
    assert find_row(other, "0. The micro world")[0] in VERDICTS
    curve = json.loads((copy / "outputs/smoke-custom/00_micro_world-sweep-n_train.json").read_text())
    assert [point["parameter"] for point in curve["points"]] == [32, 96]
    for point in curve["points"]:
        record = read_metrics(copy / point["folder"] / "00_micro_world.json")
        assert record["manifest"]["parameters"]["n_train"] == point["parameter"]
        assert f"| {point['parameter']} |" in sweep
    records = [read_metrics(copy / f"outputs/{profile}/00_micro_world.json") for profile in ("micro", "smoke-custom")]
    tuned_on = [record["manifest"]["parameters"]["n_train"] for record in records]
    assert tuned_on[0] > tuned_on[1] == 64
    assert "| parameter n_train | {} | {} |".format(*tuned_on) in compare
    rows, others = ({(row["arm"], row["metric"]) for row in record["results"]} for record in records)
    assert re.search(rf"\d+ of {len(rows & others)} differences are beyond their intervals", compare)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_names_is_there(page):
    """Links to files, and what is written `tacit.module` or `tacit.module.name`."""
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", text):
        assert (page.parent / link).exists(), link
    for dotted in re.findall(r"`(tacit(?:\.\w+)+)`", text):
        parts = dotted.split(".")
        if (ROOT / "lib" / "/".join(parts[:-1])).is_dir() and parts[-1] != "synthesize":
            importlib.import_module(dotted)
        else:
            assert hasattr(importlib.import_module(".".join(parts[:-1])), parts[-1]), dotted


@pytest.mark.parametrize("path", [*ROOT.glob("notebooks/*.ipynb"), *ROOT.glob("outputs/*/*.ipynb")], ids=str)
def test_what_a_notebook_links_to_is_there(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", "\n".join(texts)):
        assert (path.parent / link).is_file(), link


def test_the_page_of_parameters_explains_the_words_of_its_table():
    text = (ROOT / "params/README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d\d_\w+ \|(.+)\|$", text, re.MULTILINE)
    used = {cell.strip() for row in rows for cell in row.split("|")} - {"yes"}
    assert len(used) > 3
    assert used | {templates.ELSEWHERE} <= set(re.findall(r"^- \*\*(.+?)\*\*:", text, re.MULTILINE))


def test_the_glossary_is_in_order():
    terms = re.findall(r"^\*\*(.+?)\.\*\* ", (ROOT / "docs/glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(terms) > 40
    assert terms == sorted(terms, key=str.lower)


def exact_parser():
    """The command line's own parser, without abbreviated options; with the parsers of its commands by name."""
    parser = make_parser()
    [known] = [action.choices for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    for command in known.values():
        command.allow_abbrev = False
    return parser, known


def check_commands(text):
    """Parse every command of a page, as the command line does; one that is named without arguments must exist."""
    parser, known = exact_parser()
    calls = commands(text)
    for words in calls:
        if len(words) != 1 or words[0] not in known:
            parser.parse_args(words)
    return {words[0] for words in calls}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_the_commands_that_pages_name_exist(page):
    """The command line takes every `python -m tacit COMMAND` with its arguments, and every `--option` in the text."""
    text = page.read_text(encoding="utf-8")
    used = check_commands(text)
    assert len(re.findall(r"-m tacit\b(?!\.)", text)) == len(commands(text))  # none is outside of code, unseen
    assert page.name != "rerunning.md" or {"run", "params", "compare", "check", "finetune", "verify"} <= used
    options = {option for command in exact_parser()[1].values() for option in command._option_string_actions}
    assert set(re.findall(r"`(--[a-z][\w-]*)", text)) <= options


@pytest.mark.parametrize(
    "command",
    [
        "run --jobz 2",
        "run --prof smoke",
        "run --jobs two",
        "run -p beta",
        "rum",
        "params --profile smoke",
        "compare a.json",
        "gpu --part nothing",
    ],
)
def test_a_command_that_does_not_exist_is_found(command, capsys):
    for text in (f"`python -m tacit {command}`", f"```sh\nx && .venv/bin/python -m tacit {command} | tail\n```\n"):
        with pytest.raises(SystemExit, match="2"):
            check_commands(text)
    assert "error: " in capsys.readouterr().err
