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
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import Demand

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


def test_right_responses_and_marks_stand_beside_the_answers(capsys):
    answers = {"tuned": [Response("Red.", "eos", 4), Response("Lyon", "length", 1)], "gold": ["Red.", "Lille"]}
    options = {"rows": [1], "width": 16, "right": ["Blue.", "Lille."]}
    figures.print_answers(["What colour?", "Where?"], answers, **options)
    assert capsys.readouterr().out.splitlines() == [
        "INSTRUCTION 'Where?'",
        "  a right response 'Lille.'",
        "  tuned            'Lyon' (length)",
        "  gold             'Lille'",
    ]
    for score, mark in ((1, "+"), (0.0, "-"), (0.5, "~"), (np.float64(1), "+"), (True, "+")):
        figures.print_answers(["What colour?", "Where?"], answers, **options, passed={"tuned": [0.25, score]})
        assert capsys.readouterr().out.splitlines() == [
            "INSTRUCTION 'Where?'",
            "  a right response   'Lille.'",
            f"  tuned            {mark} 'Lyon' (length)",
            "  gold               'Lille'",
        ]


def demand(arm, low, high, **asked):
    return Demand(arm, "m", Estimate((low + high) / 2, low, high, 3, 20), **asked)


def test_demands_are_drawn_with_interval_threshold_and_state(tmp_path):
    rule = [
        demand("met", 0.25, 0.75),
        demand("open", -0.25, 0.75, threshold=0.5, side="below"),
        demand("missed", 0.5, 0.625, threshold=0.25, side="below"),
    ]
    controls, more = [demand("right", 0.75, 1.0, threshold=0.5)], [demand("$extra$", -0.5, -0.25)]
    options = {"controls": controls, "more": more, "title": "$t$", "xlabel": "$x$"}
    figure, name = figures.draw_demands(rule, path=tmp_path / "demands.png", **options)
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    [axes] = figure.axes
    marks = [line for line in axes.lines if line.get_marker() in ("o", "s", "D")]
    assert [line.get_marker() for line in marks] == ["o", "o", "o", "s", "D"]
    assert [tuple(line.get_xydata()[0]) for line in marks] == [
        (0.5, 0), (0.25, 1), (0.5625, 2), (0.875, 3), (-0.375, 4),
    ]  # fmt: skip
    colours = [to_rgba(line.get_color()) for line in marks]
    assert colours == [to_rgba(colour) for colour in ("C0", "0.45", "C3", "C0", "C3")]
    assert [line.get_fillstyle() for line in marks] == ["full", "none", "left", "full", "left"]
    bars = [segment for lines in axes.collections for segment in lines.get_segments()]
    assert [(*bar[:, 0], *bar[:, 1]) for bar in bars] == [
        (d.estimate.low, d.estimate.high, i, i) for i, d in enumerate([*rule, *controls, *more])
    ]
    thresholds = [line for line in axes.lines if line.get_marker() in ("None", "") and line.get_linestyle() == "-"]
    assert [set(line.get_xdata()) for line in thresholds] == [{0.0}, {0.5}, {0.25}, {0.5}, {0.0}]
    assert [np.mean(line.get_ydata()) for line in thresholds] == pytest.approx([0, 1, 2, 3, 4])
    assert shown(axes.get_yticklabels()) == [
        "m, met (>\u00a00)",
        "m, open (<\u00a00.5)",
        "m, missed (<\u00a00.25)",
        "m, right (>\u00a00.5)",
        "m, $extra$ (>\u00a00)",
    ]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # the first on top
    assert shown([axes.title, axes.xaxis.label]) == ["$t$", "$x$"]
    words = [text.get_text().partition(":")[0] for text in figure.legends[0].get_texts()]
    assert words == ["met", "threshold", "undecided", "refuted", "the rule", "positive control", "beside the rule"]
    assert [line.get_ydata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [2.5, 3.5]


def test_levels_have_a_mark_per_arm_and_show_zero(tmp_path):
    rows = [*RESULTS, {"arm": "a", "metric": "win rate", "value": 0.0, "low": 0.0, "high": 0.02}]
    options = {"arms": ["a", "b"], "metrics": ["strict", "win rate"], "chance": 0.5, "paper": PAPER}
    figure, name = figures.draw_levels(rows, path=tmp_path / "l.png", **options)
    assert name == "l.png"
    [axes] = figure.axes
    shown = {}
    for line in axes.lines:
        if line.get_marker() in ("o", "s", "D"):
            shown[line.get_marker()] = [x for x, _ in line.get_xydata().tolist()]
    assert shown == {"o": [0.4, 0.0], "s": [0.9, 0.7], "D": [0.433]}
    assert axes.get_xlim()[0] < 0
    assert [label.get_text() for label in axes.get_yticklabels()] == ["strict", "win rate"]
    [line] = [line for line in axes.lines if line.get_linestyle() == ":"]
    assert list(line.get_xdata()) == [0.5, 0.5]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert sorted(labels) == ["a", "b", "chance (0.5)", "paper, b"]


def test_curves_have_a_thin_line_per_seed_and_a_thick_one_for_their_mean(tmp_path):
    rows = [("a", 1, 2, 0.25, 1.0), ("a", 1, 8, 0.5, 1.0), ("a", 2, 2, 0.75, 0.0), ("a", 2, 8, 1.0, 0.5)]
    rows += [("$b$", 1, 2, 0.0, 0.125), ("$b$", 1, 8, 0.125, 0.25)]
    table = pd.DataFrame(rows, columns=["arm", "seed", "step", "strict", "p(end)"])
    options = {"x": "step", "metrics": ["strict", "p(end)"], "xlabel": "steps", "levels": {"base": 0.375}}
    figure, name = figures.draw_curves(table, path=tmp_path / "curves.png", **options)
    assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    means = {"strict": {"a": [0.5, 0.75], "$b$": [0.0, 0.125]}, "p(end)": {"a": [0.5, 0.75], "$b$": [0.125, 0.25]}}
    for axes, metric in zip(figure.axes, options["metrics"], strict=True):
        thin = [line for line in axes.lines if line.get_linewidth() < 1]
        assert [line.get_ydata().tolist() for line in thin] == [
            table[(table["arm"] == arm) & (table["seed"] == seed)][metric].tolist()
            for arm, seed in (("a", 1), ("a", 2), ("$b$", 1))
        ]
        thick = [line for line in axes.lines if line.get_linewidth() > 1]
        assert [line.get_ydata().tolist() for line in thick] == list(means[metric].values())
        assert all(line.get_xdata().tolist() == [2, 8] for line in thick)
        assert len({line.get_marker() for line in thick}) == len({line.get_color() for line in thick}) == 2
        assert axes.get_ylabel() == f"{metric} (mean over prompts)"
        levels = [set(line.get_ydata()) for line in axes.lines if line.get_linestyle() == "--"]
        assert levels == ([{0.375}] if metric == "strict" else [])
    assert shown(figure.legends[0].get_texts()) == ["a", "$b$", "base"]


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
