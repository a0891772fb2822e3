"""What the shared figures draw: points with intervals, open marks, parity, families; and how answers are printed."""

import numpy as np
import pandas as pd
import pytest
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.cbook import is_math_text
from matplotlib.colors import to_rgba
from tacit.decoding.generation import Response
from tacit.running import figures, sweeps

RESULTS = [
    {"arm": "a", "metric": "strict", "value": 0.4, "low": 0.3, "high": 0.6},
    {"arm": "b", "metric": "strict", "value": 0.9, "low": 0.8, "high": 0.95},
    {"arm": "b", "metric": "win rate", "value": 0.7, "low": 0.6, "high": 0.8},
]
PAPER = [{"arm": "b", "metric": "win rate", "value": 0.433, "source": "Table 1"}]


@pytest.fixture
def drawn(tmp_path):
    options = {"arms": ["a", "b"], "metrics": ["strict", "win rate"], "paper": PAPER, "reference": "a"}
    figure, name = figures.compare_arms(RESULTS, path=tmp_path / "f.png", **options)
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    return figure


def points(axes):
    """Finite (x, y) of the filled marks, and of the open ones."""
    marks = [line for line in axes.lines if line.get_marker() in ("o", "D")]
    assert all((line.get_markerfacecolor() == "none") == (line.get_marker() == "D") for line in marks)
    of = {"o": [], "D": []}
    for line in marks:
        of[line.get_marker()] += [tuple(xy) for xy in line.get_xydata() if np.isfinite(xy).all()]
    return of["o"], of["D"]


def test_points_stand_at_their_values_with_their_intervals(drawn):
    strict = drawn.axes[0]
    assert points(strict) == ([(0.4, 0.0), (0.9, 1.0)], [])
    [lines] = [c for c in strict.collections if len(c.get_segments()) == 2]
    assert [segment[:, 0].round(9).tolist() for segment in lines.get_segments()] == [[0.3, 0.6], [0.8, 0.95]]
    assert [label.get_text() for label in strict.get_yticklabels()] == ["a", "b"]


def test_an_arm_without_a_result_has_no_point_and_paper_values_are_open(drawn):
    here, paper = points(drawn.axes[1])
    assert here == [(0.7, 1.0)]
    assert [x for x, _ in paper] == [0.433]


def test_the_reference_is_a_line_at_parity_named_in_the_legend(drawn):
    [line] = [line for line in drawn.axes[1].lines if line.get_linestyle() == "--"]
    assert list(line.get_xdata()) == [0.5, 0.5]
    labels = [text.get_text() for text in drawn.legends[0].get_texts()]
    assert sorted(labels) == ["here (95% interval)", "paper (7B models)", "parity with a"]


def test_the_palette_is_the_colour_blind_safe_one():
    figures.set_theme()
    cycle = [to_rgba(entry["color"]) for entry in plt.rcParams["axes.prop_cycle"]]
    assert cycle == [to_rgba(colour) for colour in sns.color_palette("colorblind")]


def test_families_run_down_a_heat_map_of_the_arms(tmp_path):
    table = pd.DataFrame({"base": [0.25, 0.5], "tuned": [1.0, 0.75]}, index=pd.Index(["sum", "poem"], name="family"))
    options = {"label": "strict score", "rotation": 25, "title": "test prompts per family: 2", "width": 6.5}
    figure, name = figures.draw_families(table, path=tmp_path / "families.png", **options)
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    axes, scale = figure.axes
    assert [text.get_text() for text in axes.texts] == ["0.25", "1.00", "0.50", "0.75"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["sum", "poem"]
    assert [(label.get_text(), label.get_rotation()) for label in axes.get_xticklabels()] == [
        ("base", 25),
        ("tuned", 25),
    ]
    assert (axes.get_title(), axes.get_ylabel(), scale.get_ylabel()) == (options["title"], "family", "strict score")
    assert figure.get_size_inches().tolist() == pytest.approx([6.5, 2.1])


def test_answers_are_printed_below_their_instruction(capsys):
    responses = [Response("It is\nred.", "eos", 4), Response("Lyon", "length", 1)]
    answers = {"tuned": responses, "gold": ["Red.", "Lille"]}
    figures.print_answers(["What colour?", "Where?"], answers, rows=np.array([1, 0]), width=6, cut=3)
    assert capsys.readouterr().out.splitlines() == [
        "INSTRUCTION 'Where?'",
        "  tuned  'Lyo' (length)",
        "  gold   'Lil'",
        "INSTRUCTION 'What colour?'",
        "  tuned  'It ' (eos)",
        "  gold   'Red'",
    ]


ODD = ["$\\frac{", "a$b$", "_x_^2", r"\$", "<b>|"]


def shown(texts):
    """Labels as matplotlib draws them: none is mathematics, and an escaped dollar sign is one."""
    labels = [text.get_text() for text in texts]
    assert not any(map(is_math_text, labels))
    return [label.replace(r"\$", "$") for label in labels]


def test_labels_are_shown_as_written(tmp_path):
    rows = [{"arm": arm, "metric": "$m$", "value": 0.5, "low": 0.4, "high": 0.6} for arm in ODD]
    rows += [row | {"metric": "win rate"} for row in rows]
    options = {"arms": ODD, "metrics": ["$m$", "win rate"], "reference": "$r$"}
    figure, _ = figures.compare_arms(rows, path=tmp_path / "arms.png", **options)
    assert shown(figure.axes[0].get_yticklabels()) == ODD
    assert shown([figure.axes[0].title]) == ["$m$"]
    assert "parity with $r$" in shown(figure.legends[0].get_texts())
    table = pd.DataFrame(0.5, index=pd.Index(ODD, name="$i$"), columns=pd.Index([*ODD, 0.5], name="$c$"))
    figure, _ = figures.draw_families(table, label="$l$", title="$t$", path=tmp_path / "families.png")
    axes, scale = figure.axes
    assert shown(axes.get_yticklabels()) == ODD and shown(axes.get_xticklabels()) == [*ODD, "0.5"]
    others = [axes.title, axes.xaxis.label, axes.yaxis.label, scale.yaxis.label]
    assert shown(others) == ["$t$", "$c$", "$i$", "$l$"]
    points = [{"parameter": arm, "arm": "a$b$", "metric": f"_{arm}"} for arm in ODD]
    points = [point | {"value": 0.5, "low": 0.4, "high": 0.6} for point in points]
    figure = sweeps.draw_curve(points, parameter="base", title="$t$")
    figures.save_figure(figure, tmp_path / "curve.png")
    [axes] = figure.axes
    assert shown(axes.get_xticklabels()) == ODD
    assert shown(axes.get_legend().get_texts()) == [f"_{arm}, a$b$" for arm in ODD]
    assert shown([axes.title]) == ["$t$"]


def test_a_matplotlibrc_changes_no_figure():
    figures.set_theme()
    before = dict(plt.rcParams)
    plt.rcParams.update({"text.usetex": True, "lines.linewidth": 9, "axes.titlesize": 40, "image.cmap": "gray"})
    figures.set_theme()
    assert dict(plt.rcParams) == before
