"""The rows that instructions are read into, from files, sources and datasets."""

import json

import pytest
from datasets import Dataset
from synthesis_runs import INSTRUCTIONS, instructions_file
from tacit.data import sources
from tacit.support.errors import TacitError
from tacit.support.keyed import fingerprint
from tacit.synthesis.rows import read_rows


def test_instructions_come_from_files_and_sources(tmp_path):
    path = instructions_file(tmp_path, INSTRUCTIONS)
    assert sources.load_instructions(str(path))["id"] == [row["id"] for row in INSTRUCTIONS]
    assert len(sources.load_instructions(f"jsonl:{path}[:3]")) == 3
    assert read_rows(Dataset.from_list(INSTRUCTIONS))[2] == ("row-2", INSTRUCTIONS[2]["instruction"])


def test_repeated_rows_get_ids_of_their_own_and_given_ids_stay_unique(tmp_path):
    def read(*rows):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return sources.load_instructions(str(tmp_path / "rows.jsonl"))["id"][:]

    hi, ho = {"instruction": "Hi"}, {"instruction": "Ho"}
    alone, other = read(hi, ho)
    assert alone == fingerprint(["Hi", ""])[:16]
    assert read(hi, ho, hi, hi) == [alone, other, f"{alone}-2", f"{alone}-3"]
    for given in ("x", alone, f"{alone}-2"):
        with pytest.raises(TacitError, match=f"id '{given}' occurs twice"):
            read(hi, hi, hi | {"id": given}, hi | {"id": given})
    with pytest.raises(TacitError, match="occurs twice"):
        read(hi, hi, ho | {"id": f"{alone}-2"})
