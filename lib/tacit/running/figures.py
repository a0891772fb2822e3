"""One look for all figures: a colour-blind-safe seaborn theme, intervals drawn, paper values as open marks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

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
        rows = frame[frame["metric"] == metric]
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


def heat_map(axes: Axes, table: pd.DataFrame, *, label: str) -> None:
    """A table of rates (0 to 1) as an annotated heat map; the names of its index and columns label the axes."""
    sns.heatmap(
        table.rename(index=as_written, columns=as_written),
        vmin=0,
        vmax=1,
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
) -> None:
    """Print the instructions numbered ``rows``, and below each what every arm answers, cut after ``cut`` characters.

    ``answers`` holds an answer to every instruction for each arm: a response, printed with the reason for its end, or
    a text. The arms' names take ``width`` characters.
    """
    for i in rows:
        print("INSTRUCTION", repr(instructions[int(i)]))
        for arm, of_arm in answers.items():
            answer = of_arm[int(i)]
            if isinstance(answer, str):
                print(f"  {arm:{width}}", repr(answer[:cut]))
            else:
                print(f"  {arm:{width}}", repr(answer.text[:cut]), f"({answer.finish_reason})")


def save_figure(figure: Figure, path: str | Path) -> str:
    """Write a figure as PNG without time stamps; returns the file's name."""
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)
    return Path(path).name
