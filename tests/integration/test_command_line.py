"""The command line on real files: what it refuses in one line, what a card says of its sources, how light it starts."""

import sys
from pathlib import Path

import processes
import pytest
import tacit
import torch
from synthesis_runs import INSTRUCTIONS, command, instructions_file
from tacit.__main__ import main
from tacit.data import sources
from tacit.support import provenance
from tacit.synthesis.engine import synthesize


@pytest.fixture
def rows_file(tmp_path):
    return instructions_file(tmp_path, INSTRUCTIONS)


def test_the_command_explains_and_exits_with_2(pair, tmp_path, rows_file, capsys):
    def refused(*arguments):
        assert main([*arguments]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ") and captured.out == ""
        return captured.err

    assert "nothing.jsonl" in refused(*command(pair, tmp_path / "out", tmp_path / "nothing.jsonl"))
    assert "alpha" in refused(*command(pair, tmp_path / "out", rows_file, "--alpha", "2"))
    assert "unknown source" in refused(*command(pair, tmp_path / "out", "nowhere:at/all"))
    assert "name:place, here alpaca:tatsu-lab/alpaca," in refused(*command(pair, tmp_path / "out", "tatsu-lab/alpaca"))
    assert "here NAME:me/mine@" in refused(*command(pair, tmp_path / "out", f"me/mine@{'0' * 40}"))
    assert "cannot read me/mine.jsonl" in refused(*command(pair, tmp_path / "out", "me/mine.jsonl"))
    assert "--ray-address" in refused(*command(pair, tmp_path / "out", rows_file, "--ray-address", "far:6379"))
    assert "--chat-template" in refused(*command(pair, tmp_path / "out", rows_file, "--chat-template", "no.jinja"))
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    assert "holds no instructions" in refused(*command(pair, tmp_path / "out", empty))
    assert not (tmp_path / "out").exists()


def test_the_card_names_sources_and_no_absolute_path(pair, tmp_path, rows_file):
    assert main([*command(pair, tmp_path / "out", rows_file), "--no-contrast-end", "--quiet"]) == 0
    card = (tmp_path / "out/README.md").read_text()
    assert "| instructions | `instructions.jsonl` (`" in card
    assert f"| expert | `{Path(pair['expert']).name}` (`" in card and str(tmp_path.parent) not in card
    assert "at temperature 1, among the plausible tokens" in card
    assert f"torch {torch.__version__.split('+')[0]}" in card and f"device {provenance.device_name()}" in card
    assert sources.source_name("jsonl:/somewhere/deep/x.jsonl[:9]") == "jsonl:x.jsonl[:9]"
    assert sources.source_name("alpaca:tatsu-lab/alpaca[:9]") == "alpaca:tatsu-lab/alpaca[:9]"


def test_importing_tacit_stays_light():
    code = "import sys, tacit; print(*sorted({'torch', 'transformers', 'datasets', 'ray'} & set(sys.modules)))"
    done = processes.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert tacit.synthesize is synthesize
    with pytest.raises(AttributeError, match="no attribute 'synthesise'"):
        tacit.synthesise  # noqa: B018
