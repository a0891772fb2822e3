"""AlpacaEval (extra ``alpaca``): its annotators as judges, its own length-controlled rate, its files.

Its ``output_1`` is the reference (theirs), its ``output_2`` the model (ours), its ``preference`` runs from 1 to 2 for
ours.
"""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import sklearn
import yaml

from tacit.support import paths
from tacit.support.errors import TacitError
from tacit.support.files import read_text, write_json

METRIC = "length-controlled win rate (alpaca_eval)"  # its own regression, in metrics files
N_PROMPTS = 805  # its evaluation set, the only one for which it knows each instruction's difficulty
KEYS = {"openai_completions": "OPENAI_API_KEY", "anthropic_completions": "ANTHROPIC_API_KEY"}
ANNOTATED = ("instruction", "output_1", "output_2", "generator_1", "generator_2", "annotator", "preference")


def output_rows(instructions: Sequence[str], outputs: Sequence[str], *, generator: str) -> list[dict[str, str]]:
    """One side of a comparison as AlpacaEval's rows: instruction, output and generator."""
    pairs = zip(instructions, outputs, strict=True)
    return [{"instruction": x, "output": y, "generator": generator} for x, y in pairs]


def write_outputs(path: Path | str, instructions: Sequence[str], outputs: Sequence[str], *, generator: str) -> None:
    """Write the file that ``alpaca_eval --model_outputs`` reads, to compare in an environment of alpaca_eval's own."""
    write_json(path, output_rows(instructions, outputs, generator=generator))


def read_annotations(path: Path | str) -> pd.DataFrame:
    """``annotations.json`` as alpaca_eval writes it, every column kept, in the file's order.

    Raises TacitError for another kind of file.
    """
    try:
        rows = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise TacitError(f"cannot read {path}: {type(error).__name__}: {error}") from None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise TacitError(f"{path} must hold a JSON array of objects, as alpaca_eval writes it")
    for number, row in enumerate(rows):
        missing = [name for name in ANNOTATED if name not in row]
        if missing:
            raise TacitError(f"{path}, row {number}: there is no {missing[0]!r}")
    return pd.DataFrame(rows)


def preferences(annotations: pd.DataFrame) -> np.ndarray:
    """How far the second output is preferred, [rows], 0 to 1, 0.5 a tie; NaN where the annotator gave no verdict.

    alpaca_eval's older ways are read too: 0 for a tie, -1 for none. Raises TacitError for any other value.
    """
    values = pd.to_numeric(annotations["preference"], errors="coerce").to_numpy(dtype=float)
    lost = annotations["preference"].notna().to_numpy() & np.isnan(values)
    values = np.where(values == -1, np.nan, np.where(values == 0, 1.5, values))
    wrong = lost | (values < 1) | (values > 2)
    if wrong.any():
        row = int(wrong.argmax())
        value = annotations["preference"].iloc[row]
        raise TacitError(f"row {row} of the annotations has preference {value!r}, not 1 to 2")
    return values - 1


def _package():
    """alpaca_eval. Its import turns on the logging of everything, which is undone."""
    level = logging.getLogger().level
    try:
        import alpaca_eval
        import alpaca_eval.annotators
        import alpaca_eval.metrics
    except ImportError as error:
        if error.name == "pkg_resources":
            raise TacitError("alpaca_eval needs pkg_resources: pip install 'setuptools>=77,<82'") from None
        raise TacitError(f"judging by alpaca_eval needs its package: pip install -e '.[alpaca]' ({error})") from None
    finally:
        logging.getLogger().setLevel(level)
    return alpaca_eval


def find_annotator(annotator: str) -> Path:
    """The configuration file of an annotator: a folder or a file (from the repository's root), or a name of theirs.

    Raises TacitError for an unknown one, and for one that asks a service whose key is not in the environment.
    """
    constants = _package().constants
    folders = (paths.resolve(annotator), constants.EVALUATORS_CONFIG_DIR / annotator)
    candidates = (path for folder in folders for path in (folder / "configs.yaml", folder))
    config = next((path for path in candidates if path.is_file()), None)
    if config is None:
        known = sorted(path.parent.name for path in constants.EVALUATORS_CONFIG_DIR.glob("*/configs.yaml"))
        raise TacitError(
            f"alpaca_eval has no annotator {annotator!r}: give a folder with configs.yaml, or {', '.join(known)}"
        )
    clients = Path(constants.OPENAI_CLIENT_CONFIG_PATH).exists() or "OPENAI_API_KEYS" in os.environ
    for settings in yaml.safe_load(config.read_text("utf-8")).values():
        service = settings.get("fn_completions", "openai_completions")
        variable = KEYS.get(service)
        if variable and not os.environ.get(variable) and not (service == "openai_completions" and clients):
            raise TacitError(
                f"the annotator {annotator} asks a service: put your key into the environment as {variable}"
            )
    return config


def annotate(
    instructions: Sequence[str], ours: Sequence[str], theirs: Sequence[str], *, annotator: str
) -> pd.DataFrame:
    """alpaca_eval's annotations of pairs of responses, a row per instruction, in their order.

    By its ``PairwiseAnnotator``, which draws one order of each pair by its seed, and keeps its own cache beside the
    annotator's configuration. Raises TacitError as ``find_annotator`` does, ValueError for unequal lengths.
    """
    sides = [output_rows(instructions, side, generator=name) for name, side in (("theirs", theirs), ("ours", ours))]
    config = find_annotator(annotator)
    judge = _package().annotators.PairwiseAnnotator(annotators_config=str(config))
    table = pd.DataFrame(judge.annotate_head2head(outputs_1=sides[0], outputs_2=sides[1], is_ordered=True))
    if len(table) != len(instructions) or list(table["instruction"]) != list(instructions):
        raise TacitError(f"alpaca_eval returned {len(table)} rows for {len(instructions)} prompts, or in another order")
    return table


def judge_pairs(
    instructions: Sequence[str], ours: Sequence[str], theirs: Sequence[str], *, annotator: str
) -> np.ndarray:
    """An alpaca_eval annotator's preference for each of ``ours``: [n], from 0 to 1, as ``judges.judge_pairs`` has it.

    A pair without a verdict counts as a tie, with a warning of how many there are (alpaca_eval would leave it out).
    Raises TacitError where there is no verdict at all, and as ``annotate`` does.
    """
    verdicts = preferences(annotate(instructions, ours, theirs, annotator=annotator))
    missing = int(np.isnan(verdicts).sum())
    if missing and missing == len(verdicts):
        raise TacitError(
            f"the annotator {annotator} gave no verdict for any pair: look at its log, its key and its quota"
        )
    if missing:
        warnings.warn(
            f"{annotator} gave no verdict for {missing} of {len(verdicts)} pairs: they count as ties", stacklevel=2
        )
    return np.nan_to_num(verdicts, nan=0.5)


def length_controlled_preferences(annotations: pd.DataFrame) -> np.ndarray:
    """What alpaca_eval's own regression predicts for each prompt at equal lengths, [805]; their mean is its rate.

    Source: Dubois et al. 2024 (arXiv 2404.04475). It looks up each instruction's difficulty by its row, in a table that
    it reads from the hub: so it is for its 805 prompts in their order only. A pair without a verdict counts as a tie.
    Raises TacitError for another number of prompts, and where the table cannot be had.
    """
    if len(annotations) != N_PROMPTS:
        raise TacitError(
            f"alpaca_eval's own length-controlled rate is for its {N_PROMPTS} prompts, not {len(annotations)}: "
            "use tacit.scoring.lengths"
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
