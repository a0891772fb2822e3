"""Two runs side by side, on records written here and on committed ones."""

import html
import re
from pathlib import Path

import mistune
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tacit.__main__ import main
from tacit.running import differences
from tacit.running.metrics import write_metrics
from tacit.running.tables import as_written, text_row

MICRO = Path(__file__).parents[3] / "outputs" / "micro"


def row(metric, value, low, high, arm="a"):
    return {"arm": arm, "metric": metric, "value": value, "low": low, "high": high, "n_seeds": 1, "n_prompts": 9}


def record(*rows, manifest=None, **changes):
    headline = {key: rows[0][key] for key in ("arm", "metric")}
    return {
        "finding": "F", "claim": "C", "claim_holds": True, "headline": headline, "results": list(rows), "paper": [],
        "figures": [], "manifest": manifest or {},
    } | changes  # fmt: skip


def test_rows_are_matched_by_arm_and_metric_and_judged_by_their_intervals():
    a = record(
        row("over", 0.5, 0.4, 0.6), row("touch", 0.5, 0.4, 0.6), row("up", 0.5, 0.4, 0.6), row("down", 0.5, 0.4, 0.6)
    )
    b = record(
        row("new", 0.1, 0.0, 0.2),
        row("down", 0.2, 0.1, 0.3999),
        row("up", 0.8, 0.6001, 0.9),
        row("touch", 0.7, 0.6, 0.8),
    )
    a["results"].append(row("over", 0.9, 0.9, 0.9, arm="other"))  # the same metric of another arm is another row
    b["results"].append(row("over", 0.45, 0.3, 0.55))
    table = differences.compare_results(a, b).set_index(["arm", "metric"])
    assert list(table.index) == [
        ("a", "over"),
        ("a", "touch"),
        ("a", "up"),
        ("a", "down"),
        ("other", "over"),
        ("a", "new"),
    ]
    assert table["beyond"].to_dict() == {key: key in {("a", "up"), ("a", "down")} for key in table.index}
    assert table.loc[("a", "up"), "difference"] == pytest.approx(0.3)
    assert table.loc[("a", "down"), "difference"] == pytest.approx(-0.3)
    assert table["difference"].isna().to_dict() == {
        key: key in {("other", "over"), ("a", "new")} for key in table.index
    }


def test_a_row_that_stands_twice_counts_once():
    twice = record(row("m", 0.5, 0.4, 0.6), row("m", 0.9, 0.8, 1.0))
    table = differences.compare_results(twice, twice)
    assert table[["value a", "value b", "difference"]].to_numpy().tolist() == [[0.5, 0.5, 0.0]]


def test_manifests_differ_in_what_they_say_and_lack():
    a = {
        "parameters": {"n": 3, "rate": 1e-5, "same": [1]},
        "commit": "c1",
        "packages": {"torch": "1", "numpy": "2"},
        "seeds": [1],
    }
    b = {
        "parameters": {"n": 4, "same": [1], "base": None},
        "commit": "c2",
        "packages": {"torch": "1", "numpy": "3"},
        "seeds": [2],
    }
    a |= {"wall_seconds": 3, "started": "now"}
    found = differences.compare_manifests(record(row("m", 0, 0, 0), manifest=a), record(row("m", 0, 0, 0), manifest=b))
    assert found == [
        ("parameter n", "3", "4"),
        ("parameter rate", "1.0e-05", "-"),
        ("parameter base", "-", "null"),
        ("package numpy", '"2"', '"3"'),
        ("commit", '"c1"', '"c2"'),
    ]


def test_the_command_shows_both_runs(tmp_path, capsys):
    a = record(row("strict", 0.5, 0.4, 0.6), row("gone", 0.5, 0.4, 0.6), manifest={"parameters": {"n": 3}})
    b = record(row("strict", 0.8, 0.7, 0.9), manifest={"parameters": {"n": 4}}, claim_holds=False, finding="G")
    for name, one in (("a", a), ("b", b)):
        write_metrics(tmp_path / f"{name}.json", one)
    assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / "b.json")]) == 0
    printed = capsys.readouterr().out
    assert "Two findings: A is 'F', B is 'G'." in printed
    assert "| parameter n | 3 | 4 |" in printed
    assert "| a | strict | 0.500 [0.400, 0.600] | 0.800 [0.700, 0.900] | +0.300 | beyond |" in printed
    assert "| a | gone | 0.500 [0.400, 0.600] |  |  | only in A |" in printed
    assert "The verdict in A: yes; in B: no." in printed
    assert "1 of 1 differences are beyond their intervals." in printed
    assert "conservative" in printed


def cells_of(markdown):
    """The tables of a page as a Markdown parser reads them: a list of rows, each a list of texts."""
    parse = mistune.create_markdown(renderer="ast", plugins=["table"])

    def rows(node):
        if node["type"] in ("table_head", "table_row"):
            return [["".join(part["raw"] for part in cell["children"]) for cell in node["children"]]]
        return [row for child in node.get("children", []) for row in rows(child)]

    return [rows(node) for node in parse(markdown) if node["type"] == "table"]


def test_bars_and_breaks_in_names_and_values_split_no_row(tmp_path):
    a = record(row("strict", 0.5, 0.4, 0.6, arm="x|y"), manifest={"parameters": {"base": "a|b", "tags": ["|", "c"]}})
    b = record(row("m|n", 0.5, 0.4, 0.6, arm="two\nlines"), manifest={"parameters": {"base": "plain", "tags": []}})
    for name, one in (("a", a), ("b", b)):
        write_metrics(tmp_path / f"{name}.json", one)
    made, results = cells_of(differences.compare_runs(tmp_path / "a.json", tmp_path / "b.json"))
    assert made[1:] == [
        ["parameter base", '"a|b"', '"plain"'],
        ["parameter tags", '["|", "c"]', "[]"],
    ]
    assert results[1:] == [
        ["x|y", "strict", "0.500 [0.400, 0.600]", "", "", "only in A"],
        ["two lines", "m|n", "", "0.500 [0.400, 0.600]", "", "only in B"],
    ]


MARKS = st.text(st.sampled_from("ab1 `*_~$|\\<>!/[]()&#;:.-+\"'\n\r\u2028é"), max_size=12)


@given(st.lists(MARKS, min_size=2, max_size=3))
@example(["`a|b`", "*a* _b_ __c__ ~~d~~", "<b>x</b> &amp; [l](http://m) ![i](j) \\| \\"])
@example(["a\\|b", "$x$ $$", "snake_case_name _a_b_"])
@settings(max_examples=300, deadline=None)
def test_a_row_of_texts_shows_them_as_written(texts):
    head = text_row("abc"[: len(texts)])
    page = f"{head}\n{'|---' * len(texts)}|\n{text_row(texts)}\n"
    shown = mistune.create_markdown(plugins=["table", "strikethrough", "math"], escape=False)(page)
    cells = [html.unescape(cell) for cell in re.findall(r"<td>(.*?)</td>", shown, flags=re.DOTALL)]
    assert cells == [" ".join(text.splitlines()).strip() for text in texts]


def test_what_is_written_outside_of_tables_is_shown_too():
    assert as_written("runs/my_run/*x*.json\nB") == r"runs/my_run/\*x\*.json B"
    assert as_written("strict, a: 0.5 [0.4, 0.6] p < 0.05 & n > 3") == "strict, a: 0.5 [0.4, 0.6] p < 0.05 & n > 3"


@pytest.mark.parametrize("path", sorted(MICRO.glob("*.json")), ids=lambda path: path.stem)
def test_a_run_does_not_differ_from_itself(path):
    text = differences.compare_runs(path, path)
    assert "made with the same parameters" in text
    assert "\n0 of " in text
    assert "only in" not in text


def test_files_that_are_no_metrics_are_said(tmp_path, capsys):
    (tmp_path / "b.json").write_text("{}")
    write_metrics(tmp_path / "a.json", record(row("m", 0.5, 0.4, 0.6)))
    for name, words in (("b.json", "is not a metrics file"), ("none.json", "cannot read metrics")):
        assert main(["compare", str(tmp_path / "a.json"), str(tmp_path / name)]) == 2
        message = capsys.readouterr().err
        assert words in message
        assert name in message
    text = differences.compare_runs(tmp_path / "a.json", tmp_path / "a.json")
    assert "Neither file says what it was made with" in text
