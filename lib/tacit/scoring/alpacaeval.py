"""AlpacaEval: its files as they are, its annotators as judges, and its own length-controlled rate (extra ``alpaca``).

Its ``output_1`` is the reference (theirs), its ``output_2`` the model (ours), its ``preference`` runs from 1 to 2 for ours.
"""

from __future__ import annotations

import json
import logging
import os
import shlex
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import sklearn
import yaml

from tacit.support import paths
from tacit.support.errors import TacitError

METRIC = "length-controlled win rate (alpaca_eval)"  # its own regression, in metrics files
N_PROMPTS = 805  # its evaluation set, the only one for which it knows each instruction's difficulty
KEYS = {"openai_completions": "OPENAI_API_KEY", "anthropic_completions": "ANTHROPIC_API_KEY"}
COLUMNS = ("instruction", "output")
ANNOTATED = ("instruction", "output_1", "output_2", "generator_1", "generator_2", "annotator", "preference")


def output_rows(
    instructions: Sequence[str], outputs: Sequence[str], *, generator: str, dataset: str = ""
) -> list[dict[str, str]]:
    """One side of a comparison as AlpacaEval's rows: instruction, output, generator and, if given, the name of its dataset."""
    more = {"generator": generator} | ({"dataset": dataset} if dataset else {})
    return [{"instruction": x, "output": y, **more} for x, y in zip(instructions, outputs, strict=True)]


def write_outputs(path: Path | str, rows: Sequence[dict[str, str]]) -> None:
    """``rows`` as a ``model_outputs`` file: a JSON array, as ``alpaca_eval --model_outputs`` reads it."""
    Path(path).write_text(json.dumps(list(rows), ensure_ascii=False, indent=2), encoding="utf-8")


def _read_rows(path: Path | str, columns: Sequence[str]) -> list[dict[str, Any]]:
    try:
        rows = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise TacitError(f"cannot read {path}: {type(error).__name__}: {error}") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise TacitError(f"{path} must hold a JSON array of objects, as alpaca_eval writes it")
    for number, row in enumerate(rows):
        missing = [name for name in columns if name not in row]
        if missing:
            raise TacitError(f"{path}, row {number}: there is no {missing[0]!r}")
    return rows


def read_outputs(path: Path | str) -> list[dict[str, Any]]:
    """The rows of a ``model_outputs.json``, every column kept. Raises TacitError for another kind of file."""
    return _read_rows(path, COLUMNS)


def read_annotations(path: Path | str) -> pd.DataFrame:
    """``annotations.json`` as alpaca_eval writes it, every column kept, in the file's order.

    Raises TacitError for another kind of file.
    """
    return pd.DataFrame(_read_rows(path, ANNOTATED))


def read_leaderboard(path: Path | str) -> pd.DataFrame:
    """``leaderboard.csv`` as alpaca_eval writes it, a row per model, its rates in percent. Raises TacitError without rates."""
    try:
        table = pd.read_csv(path, index_col=0)
    except (OSError, ValueError) as error:
        raise TacitError(f"cannot read {path}: {type(error).__name__}: {error}") from None
    if "win_rate" not in table:
        raise TacitError(f"{path} has no column win_rate: it is not a leaderboard of alpaca_eval's")
    return table


def preferences(annotations: pd.DataFrame) -> np.ndarray:
    """How far the second output is preferred, [rows], 0 to 1, 0.5 a tie (alpaca_eval's older 0 too).

    NaN where the annotator gave no verdict (alpaca_eval's stored -1 too), which alpaca_eval leaves out of its rates.
    Raises TacitError for any other value.
    """
    given = pd.to_numeric(annotations["preference"], errors="coerce").to_numpy(dtype=float)
    lost = annotations["preference"].notna().to_numpy() & np.isnan(given)
    given = np.where(given == -1, np.nan, np.where(given == 0, 1.5, given))
    wrong = lost | (given < 1) | (given > 2)
    if wrong.any():
        row = int(wrong.argmax())
        raise TacitError(
            f"row {row} of the annotations has preference {annotations['preference'].iloc[row]!r}, not 1 to 2"
        )
    return given - 1


def write_comparison(folder: Path | str, ours: Sequence[dict], theirs: Sequence[dict], *, annotator: str) -> str:
    """Write both sides into ``folder`` and return the command that compares them in an environment of alpaca_eval's own.

    For when the package cannot be installed beside this one. Afterwards ``read_annotations`` and ``read_leaderboard`` read
    ``folder``'s ``annotations.json`` and ``leaderboard.csv``. Other than with the 805 prompts, add ``--fn_metric get_winrate --sort_by win_rate``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    files = {"model_outputs": ours, "reference_outputs": theirs}
    for name, rows in files.items():
        write_outputs(folder / f"{name}.json", rows)
    options = {name: folder / f"{name}.json" for name in files} | {
        "annotators_config": annotator,
        "output_path": folder,
    }
    words = ["alpaca_eval", *(word for key, value in options.items() for word in (f"--{key}", str(value)))]
    return shlex.join([*words, "--precomputed_leaderboard", "None"])


def _package():
    """alpaca_eval, whose import turns on the logging of everything: undone."""
    level = logging.getLogger().level
    try:
        import alpaca_eval
        import alpaca_eval.annotators
        import alpaca_eval.metrics
    except ImportError as error:
        if error.name == "pkg_resources":
            raise TacitError("alpaca_eval needs pkg_resources: pip install 'setuptools>=77,<82'") from None
        raise TacitError(f"judging by alpaca_eval needs its package: pip install 'tacit[alpaca]' ({error})") from None
    finally:
        logging.getLogger().setLevel(level)
    return alpaca_eval


def find_annotator(annotator: str) -> Path:
    """The configuration file of an annotator: a folder (from the repository's root) or one of alpaca_eval's names.

    Raises TacitError for an unknown one, and for one that asks a service whose key is not in the environment.
    """
    constants = _package().constants
    folder = next(
        (p for p in (paths.resolve(annotator), constants.EVALUATORS_CONFIG_DIR / annotator) if p.exists()), None
    )
    config = folder / "configs.yaml" if folder is not None and folder.is_dir() else folder
    if config is None or not config.exists():
        known = sorted(path.parent.name for path in constants.EVALUATORS_CONFIG_DIR.glob("*/configs.yaml"))
        raise TacitError(
            f"alpaca_eval has no annotator {annotator!r}: give a folder with configs.yaml, or {', '.join(known)}"
        )
    clients = Path(constants.OPENAI_CLIENT_CONFIG_PATH)
    for settings in yaml.safe_load(config.read_text("utf-8")).values():
        service = settings.get("fn_completions", "openai_completions")
        variable = KEYS.get(service)
        known = service == "openai_completions" and (clients.exists() or "OPENAI_API_KEYS" in os.environ)
        if variable and not os.environ.get(variable) and not known:
            raise TacitError(
                f"the annotator {annotator} asks a service: put your key into the environment as {variable}"
            )
    return config


def annotate(
    instructions: Sequence[str], ours: Sequence[str], theirs: Sequence[str], *, annotator: str
) -> pd.DataFrame:
    """alpaca_eval's annotations of pairs of responses, a row per instruction, in their order.

    By its ``PairwiseAnnotator``: its prompts, its parsing, one order of each pair drawn by its seed, and its own cache beside the
    annotator's configuration, so that the same pairs are not asked twice. Raises TacitError without the package (extra
    ``alpaca``) and as ``find_annotator`` does, ValueError for unequal lengths.
    """
    if not len(instructions) == len(ours) == len(theirs):
        raise ValueError(
            f"{len(instructions)} instructions, {len(ours)} and {len(theirs)} responses: need as many each"
        )
    config = find_annotator(annotator)
    judge = _package().annotators.PairwiseAnnotator(annotators_config=str(config))
    sides = [output_rows(instructions, side, generator=name) for side, name in ((theirs, "theirs"), (ours, "ours"))]
    table = pd.DataFrame(judge.annotate_head2head(outputs_1=sides[0], outputs_2=sides[1], is_ordered=True))
    if len(table) != len(instructions) or list(table["instruction"]) != list(instructions):
        raise TacitError(f"alpaca_eval returned {len(table)} rows for {len(instructions)} prompts, or in another order")
    return table


def judge_pairs(
    instructions: Sequence[str], ours: Sequence[str], theirs: Sequence[str], *, annotator: str
) -> np.ndarray:
    """An alpaca_eval annotator's preference for each of ``ours``: [n], from 0 to 1, as ``judges.judge_pairs`` has it.

    A pair without a verdict counts as a tie, with a warning of how many there are (alpaca_eval would leave it out). Raises
    TacitError where there is no verdict at all, and as ``annotate`` does.
    """
    found = preferences(annotate(instructions, ours, theirs, annotator=annotator))
    missing = int(np.isnan(found).sum())
    if missing and missing == len(found):
        raise TacitError(
            f"the annotator {annotator} gave no verdict for any pair: look at its log, its key and its quota"
        )
    if missing:
        warnings.warn(
            f"{annotator} gave no verdict for {missing} of {len(found)} pairs: they count as ties", stacklevel=2
        )
    return np.nan_to_num(found, nan=0.5)


def length_controlled_preferences(annotations: pd.DataFrame) -> np.ndarray:
    """What alpaca_eval's own regression predicts for each prompt at equal lengths, [805]; its mean is its length-controlled rate.

    By its ``get_length_controlled_winrate`` (Dubois et al. 2024, arXiv 2404.04475), whose weights are not saved. Only for its 805
    prompts in their order, as it looks up each instruction's difficulty by its row; it reads that from the hub
    (``tatsu-lab/alpaca_eval``, ``df_gamed.csv``). A pair without a verdict counts as a tie, as in ``judge_pairs``, so that both rates are
    of the same data. Raises TacitError for another number of prompts, and where the table cannot be had.
    """
    if len(annotations) != N_PROMPTS:
        raise TacitError(
            f"alpaca_eval's own length-controlled rate is for its {N_PROMPTS} prompts, not {len(annotations)}: use tacit.scoring.lengths"
        )
    table = annotations.copy().reset_index(drop=True)
    table["preference"] = np.nan_to_num(preferences(annotations), nan=0.5) + 1
    measure = _package().metrics.get_length_controlled_winrate
    try:
        with sklearn.config_context():  # it switches metadata routing on for good
            measure(table, save_weights_dir=None)
    except OSError as error:
        raise TacitError(
            "alpaca_eval's own length-controlled rate needs df_gamed.csv of the hub's dataset tatsu-lab/alpaca_eval: "
            f"fetch it once where the hub is in reach ({type(error).__name__})"
        ) from None
    return table["glm_preference"].to_numpy(dtype=float)
