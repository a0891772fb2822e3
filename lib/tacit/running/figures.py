"""One look for all figures: a colour-blind-safe seaborn theme, intervals drawn, paper values as open marks."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from tacit.scoring.verdicts import HOLDS, REFUTED, UNDECIDED, Demand

if TYPE_CHECKING:  # the process that starts the kernels draws too, and does without torch
    from tacit.decoding.generation import Response


def set_theme() -> None:
    """The theme of every figure, whatever a ``matplotlibrc`` says."""
    matplotlib.rcdefaults()
    sns.set_theme(style="whitegrid", palette="colorblind", context="notebook", font="DejaVu Sans")
    matplotlib.rcParams.update(
        {"figure.dpi": 110, "savefig.dpi": 110, "savefig.bbox": "tight", "svg.hashsalt": "tacit"}
    )


def as_written(text: Any) -> Any:
    """A text as a label that shows it as it is: matplotlib reads what stands between two ``$`` as mathematics."""
    return text.replace("$", r"\$") if isinstance(text, str) else text


def plot_intervals(axes: Axes, results: pd.DataFrame, *, arms: Sequence[str], paper: Sequence[dict] = ()) -> None:
    """Draw one point with its interval per arm, and paper values as open diamonds beside.

    ``results`` has columns arm, value, low, high; ``paper`` rows have arm and value. Arms run down the axis.
    """
    rows = results.set_index("arm").reindex(list(arms))
    places = range(len(arms))
    errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
    axes.errorbar(rows["value"], places, xerr=errors, fmt="o", capsize=3, color="C0", label="here (95% interval)")
    shown = [(row["value"], list(arms).index(row["arm"]) - 0.22) for row in paper if row["arm"] in arms]
    if shown:
        axes.plot(*zip(*shown, strict=True), "D", mfc="none", mec="C3", ms=7, ls="", label="paper (7B models)")
    axes.set_yticks(list(places), list(map(as_written, arms)))
    axes.set_ylim(len(arms) - 0.5, -0.6)


def compare_arms(
    results: Sequence[dict],
    *,
    arms: Sequence[str],
    metrics: Sequence[str],
    path: str | Path,
    paper: Sequence[dict] = (),
    reference: str | None = None,
) -> tuple[Figure, str]:
    """One panel of points with intervals per metric, arms down the side; returns the figure and its file's name.

    ``reference`` is the arm that the win rates are against. It has none itself: a dashed line at parity stands for it.
    """
    frame = pd.DataFrame(results)
    size = (4.2 * len(metrics) + 1.5, 1.2 + 0.38 * len(arms))
    figure, panels = plt.subplots(1, len(metrics), figsize=size, sharey=True, squeeze=False)
    for axes, metric in zip(panels[0], metrics, strict=True):
        rows = frame[(frame["metric"] == metric) & frame["arm"].isin(arms)]
        known = [row for row in paper if row["metric"] == metric]
        plot_intervals(axes, rows, arms=arms, paper=known)
        axes.set(xlim=(min(-0.03, rows["low"].min() - 0.03), 1.03))
        axes.set(title=as_written(metric), xlabel="mean over prompts and seeds")
        if metric == "win rate":
            parity = "parity" if reference is None else as_written(f"parity with {reference}")
            axes.axvline(0.5, color="grey", ls="--", lw=1, label=parity)
    named = {}
    for axes in panels[0]:
        named |= dict(reversed(pair) for pair in zip(*axes.get_legend_handles_labels(), strict=True))
    figure.legend(named.values(), named.keys(), loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=3)
    figure.tight_layout()
    return figure, save_figure(figure, path)


MARKS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*")  # told apart in greyscale too
STATES = {  # how a demand of each verdict is drawn: colour, filling (told apart in greyscale too), words
    HOLDS: ("C0", "full", "met: the whole interval on the asked side"),
    UNDECIDED: ("0.45", "none", "undecided: the interval contains the threshold"),
    REFUTED: ("C3", "left", "refuted: the whole interval on the other side"),
}


def draw_demands(
    rule: Sequence[Demand],
    *,
    path: str | Path,
    controls: Sequence[Demand] = (),
    more: Sequence[Demand] = (),
    xlabel: str = "paired difference, mean over prompts and seeds",
    title: str = "",
) -> tuple[Figure, str]:
    """A forest plot: each demand's value and interval, its threshold as a bar; returns the figure and its file's name.

    Demands of the rule are circles, positive controls squares, ``more`` (which the rule does not read) diamonds, with a
    line between the groups. What is met is filled, what is refuted half filled. A label ends with the side and
    threshold that are asked for, such as ``(> 0.5)``.
    """
    groups = (("the rule", "o", rule), ("positive control", "s", controls), ("beside the rule", "D", more))
    rows = [(group, mark, demand) for group, mark, demands in groups for demand in demands]
    figure, axes = plt.subplots(figsize=(8.5, 1.3 + 0.5 * len(rows)))
    seen: dict[str, Any] = {}
    for place, (group, mark, demand) in enumerate(rows):
        colour, filling, words = STATES[demand.verdict]
        value, low, high = demand.estimate.value, demand.estimate.low, demand.estimate.high
        axes.hlines(place, low, high, color=colour)
        look = {"color": colour, "fillstyle": filling, "markerfacecoloralt": "white", "ms": 9, "ls": ""}
        [point] = axes.plot([value], [place], mark, **look)
        seen.setdefault(words, point)
        [line] = axes.plot([demand.threshold] * 2, [place - 0.38, place + 0.38], color="black", lw=2)
        seen.setdefault("threshold", line)
        if place and group != rows[place - 1][0]:
            axes.axhline(place - 0.5, color="black", lw=0.8, ls=":")
    for group, mark, demands in groups:
        if demands:
            seen[group] = Line2D([], [], marker=mark, color="black", fillstyle="none", ls="", ms=8)
    signs = {"above": ">", "below": "<"}
    asked = [f"({signs[demand.side]}\u00a0{demand.threshold:g})" for *_, demand in rows]
    labels = [
        "\n".join(textwrap.wrap(f"{demand.metric}, {demand.arm} {side}", 46))
        for (*_, demand), side in zip(rows, asked, strict=True)
    ]
    axes.set_yticks(range(len(rows)), list(map(as_written, labels)), fontsize=9)
    axes.set(ylim=(len(rows) - 0.5, -0.6), xlabel=as_written(xlabel), title=as_written(title))
    figure.legend(seen.values(), seen.keys(), loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=2, fontsize=9)
    figure.tight_layout()
    return figure, save_figure(figure, path)


def draw_levels(
    results: Sequence[dict],
    *,
    arms: Sequence[str],
    metrics: Sequence[str],
    path: str | Path,
    chance: float | None = None,
    xlabel: str = "mean over prompts and seeds, 95% interval",
    paper: Sequence[dict] = (),
) -> tuple[Figure, str]:
    """Metrics down the side, a mark with its interval per arm, so that arms stand above each other; figure and name.

    A value of 0 or 1 is a mark like any other. ``chance`` is the level of guessing, a dotted line; the ``paper``'s
    values are open diamonds.
    """
    frame = pd.DataFrame(results)
    figure, axes = plt.subplots(figsize=(8.5, 1.4 + 0.17 * len(metrics) * (len(arms) + 1)))
    for i, arm in enumerate(arms):
        rows = frame[frame["arm"] == arm].set_index("metric").reindex(list(metrics))
        places = [place + 0.26 * (i - (len(arms) - 1) / 2) for place in range(len(metrics))]
        errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
        axes.errorbar(
            rows["value"], places, xerr=errors, fmt=MARKS[i % 10], color=f"C{i % 10}", capsize=3, label=as_written(arm)
        )
        known = [(row["value"], places[metrics.index(row["metric"])]) for row in paper if row["arm"] == arm]
        if known:
            axes.plot(*zip(*known, strict=True), "D", mfc="none", mec=f"C{i % 10}", ms=9, ls="", label=f"paper, {arm}")
    axes.set_yticks(range(len(metrics)), list(map(as_written, metrics)), fontsize=10)
    axes.set(ylim=(len(metrics) - 0.5, -0.5), xlim=(-0.03, 1.03), xlabel=as_written(xlabel))
    if chance is not None:
        axes.axvline(chance, color="black", ls=":", lw=1.5, label=f"chance ({chance:g})")
    figure.legend(
        *axes.get_legend_handles_labels(), loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=3, fontsize=10
    )
    figure.tight_layout()
    return figure, save_figure(figure, path)


def draw_curves(
    table: pd.DataFrame,
    *,
    x: str,
    metrics: Sequence[str],
    path: str | Path,
    xlabel: str,
    levels: Mapping[str, float] | None = None,
) -> tuple[Figure, str]:
    """Scores against ``x``: a panel per metric, a line and a mark per arm; returns the figure and its file's name.

    ``table`` has the columns ``arm``, ``seed``, ``x`` and the metrics: each seed is a thin line, their mean a thick
    one. ``levels`` are dashed lines by name, in the first panel only.
    """
    figure, panels = plt.subplots(1, len(metrics), figsize=(4.6 * len(metrics), 4.4), squeeze=False)
    arms = list(dict.fromkeys(table["arm"]))
    for axes, metric in zip(panels[0], metrics, strict=True):
        for i, arm in enumerate(arms):
            of_arm = table[table["arm"] == arm]
            colour = f"C{i % 10}"
            for _, of_seed in of_arm.groupby("seed"):
                axes.plot(of_seed[x], of_seed[metric], color=colour, lw=0.6, alpha=0.5)
            mean = of_arm.groupby(x)[metric].mean()
            axes.plot(mean.index, mean.to_numpy(), color=colour, marker=MARKS[i % 10], lw=1.8, label=as_written(arm))
        axes.set(xlabel=as_written(xlabel), ylabel=as_written(f"{metric} (mean over prompts)"), ylim=(-0.03, 1.03))
    for name, level in (levels or {}).items():
        panels[0][0].axhline(level, color="black", ls="--", lw=1, label=as_written(name))
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", bbox_to_anchor=(0.5, 0.98), ncols=3, fontsize=9)
    figure.tight_layout()
    return figure, save_figure(figure, path)


def heat_map(axes: Axes, table: pd.DataFrame, *, label: str, whole: bool = True) -> None:
    """A table of rates as an annotated heat map; the names of its index and columns label the axes.

    The colours run from 0 to 1 or, without ``whole``, over the table's own values.
    """
    limits = {"vmin": 0, "vmax": 1} if whole else {}
    sns.heatmap(
        table.rename(index=as_written, columns=as_written),
        **limits,
        cmap="viridis",
        annot=True,
        fmt=".2f",
        ax=axes,
        cbar_kws={"label": as_written(label)},
        annot_kws={"size": 8},
    )
    axes.set(xlabel=as_written(table.columns.name or ""), ylabel=as_written(table.index.name or ""))
    axes.tick_params(axis="y", rotation=0)


def draw_families(
    by_family: pd.DataFrame,
    *,
    label: str,
    path: str | Path,
    width: float = 8.5,
    rotation: float | None = None,
    title: str | None = None,
) -> tuple[Figure, str]:
    """A heat map with a row per family and a column per arm; returns the figure and its file's name.

    ``width`` is the figure's in inches; ``rotation`` turns the arms' names, in degrees.
    """
    figure, axes = plt.subplots(figsize=(width, 1.5 + 0.3 * len(by_family)))
    heat_map(axes, by_family, label=label)
    if rotation is not None:
        plt.setp(axes.get_xticklabels(), rotation=rotation, ha="right")
    if title is not None:
        axes.set_title(as_written(title))
    return figure, save_figure(figure, path)


def print_answers(
    instructions: Sequence[str],
    answers: Mapping[str, Sequence[Response | str]],
    *,
    rows: Iterable[int],
    width: int,
    cut: int = 120,
    right: Sequence[str] | None = None,
    passed: Mapping[str, Sequence[float]] | None = None,
) -> None:
    """Print the instructions numbered ``rows``, and below each what every arm answers, cut after ``cut`` characters.

    ``answers`` holds an answer to every instruction for each arm: a response, printed with the reason for its end, or
    a text. The arms' names take ``width`` characters. ``right`` may hold a right response to every instruction, and
    ``passed`` each arm's score on every instruction: 1 is marked ``+``, 0 ``-``, else ``~``.
    """
    for i in map(int, rows):
        print("INSTRUCTION", repr(instructions[i]))
        if right is not None:
            print(f"  {'a right response':{width}}", f"{'' if passed is None else '  '}{right[i][:cut]!r}")
        for arm, of_arm in answers.items():
            answer, mark = of_arm[i], ""
            if passed is not None:
                mark = {1.0: "+ ", 0.0: "- "}.get(float(passed[arm][i]), "~ ") if arm in passed else "  "
            text, end = (answer, "") if isinstance(answer, str) else (answer.text, f" ({answer.finish_reason})")
            print(f"  {arm:{width}}", f"{mark}{text[:cut]!r}{end}")


def save_figure(figure: Figure, path: str | Path) -> str:
    """Write a figure as PNG without time stamps; returns the file's name."""
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
    return Path(path).name
