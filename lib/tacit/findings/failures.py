"""The ways in which an answer fails, told apart by the four scores, and an example of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
from datasets import Dataset

from tacit.decoding.generation import Response
from tacit.microworld import examples, tasks
from tacit.microworld.tasks import Task
from tacit.microworld.world import World
from tacit.scoring.likelihoods import draw_others

RIGHT, RUNS_ON, SAYS_MORE = "right", "right, but does not stop", "right, but says more"
WRONG_FORM, WRONG, LOST = "right content, wrong form", "stops, but wrong content", "wrong, and does not stop"
OUTCOMES = (RIGHT, RUNS_ON, SAYS_MORE, WRONG_FORM, WRONG, LOST)
FAILURES = (RUNS_ON, WRONG, WRONG_FORM, SAYS_MORE)  # those that an example is shown of
MADE = "made for this page"


def name_outcomes(table: pd.DataFrame) -> list[str]:
    """Which of ``OUTCOMES`` each row of a score table of ``examples.score_responses`` is.

    A strict answer is right. One that is right up to some place (lenient) runs on if the model was cut, and says more
    if it stopped. Otherwise the content is right (knowledge) in a wrong form, or it is wrong.
    """
    names = []
    for row in table.itertuples():
        if row.strict:
            names.append(RIGHT)
        elif row.lenient:
            names.append(SAYS_MORE if row.ended else RUNS_ON)
        elif row.knowledge:
            names.append(WRONG_FORM)
        else:
            names.append(WRONG if row.ended else LOST)
    return names


def share_outcomes(tables: Mapping[str, Sequence[pd.DataFrame]]) -> pd.DataFrame:
    """The share of each outcome, a row per outcome and a column per arm, over its tables (one per seed)."""
    named = {arm: pd.Series([n for one in of_arm for n in name_outcomes(one)]) for arm, of_arm in tables.items()}
    shares = pd.DataFrame({arm: names.value_counts(normalize=True) for arm, names in named.items()})
    return shares.reindex(OUTCOMES).fillna(0.0)


def draw_wrong(rows: Dataset, *, seed: int) -> list[str]:
    """For each example the response to another one of its family that asks for another item.

    A few are right all the same, where two animals eat the same, say. An example whose family holds no other item
    keeps none and raises ValueError.
    """
    items = [Task.from_json(task).item for task in rows["task"]]
    every = draw_others(len(rows), n_others=len(rows) - 1, seed=seed, groups=rows["family"])
    chosen = []
    for i, others in enumerate(every):
        different = [j for j in others if items[j] != items[i]]
        if not different:
            raise ValueError(f"example {rows['id'][i]} is the only item of its family here: draw more examples")
        chosen.append(rows["response"][different[0]])
    return chosen


def make_failure(outcome: str, *, right: str, other: str) -> Response:
    """A response that fails as ``outcome`` of ``FAILURES`` says, made from a right answer and one to another item.

    Both answers are one line of a family whose form is one line. Raises ValueError for another outcome.
    """
    made = {
        RUNS_ON: Response(f"{right}\n{other}\n{other}", "length", 0),
        SAYS_MORE: Response(f"{right}\nThat is all.", "eos", 0),
        WRONG_FORM: Response(right.replace(" ", "\n", 1), "eos", 0),
        WRONG: Response(other, "eos", 0),
    }
    if outcome in made:
        return made[outcome]
    raise ValueError(f"no failure {outcome!r}: there are {', '.join(FAILURES)}")


def show_failures(world: World, rows: Dataset, answers: Mapping[str, Sequence[Response]]) -> pd.DataFrame:
    """One example of each of ``FAILURES``: the shortest answer of that outcome, of the first arm that gives one.

    ``answers`` holds an arm's response to every one of ``rows``. Where no arm fails so, a response is made, from the
    first of ``rows`` about a home and the first about food, and ``arm`` says so. Columns: ``outcome``, ``arm``,
    ``instruction``, ``right`` (a right response), ``response``, ``ended``, the scores strict, lenient, knowledge and
    following, and ``failed``, the names of the failed checks.
    """
    tables = {arm: examples.score_responses(world, rows, said) for arm, said in answers.items()}
    named = {arm: name_outcomes(table) for arm, table in tables.items()}
    shown = []
    for outcome in FAILURES:
        found = [(arm, i) for arm, names in named.items() for i, name in enumerate(names) if name == outcome]
        if found:
            arm = found[0][0]
            i = min((j for who, j in found if who == arm), key=lambda j: len(answers[arm][j].text))
            response = answers[arm][i]
        else:
            arm, i = MADE, list(rows["family"]).index("home")
            other = next(j for j, family in enumerate(rows["family"]) if family == "food")
            response = make_failure(outcome, right=rows["response"][i], other=rows["response"][other])
        shown.append({"outcome": outcome, "arm": arm} | _judge(world, rows[i], response))
    return pd.DataFrame(shown)


def _judge(world: World, row: Mapping[str, str], response: Response) -> dict:
    ended = response.finish_reason == "eos"
    verdict = tasks.judge(world, Task.from_json(row["task"]), response.text, ended=ended)
    kinds = ("strict", "lenient", "knowledge", "following")
    return {
        "instruction": row["instruction"],
        "right": row["response"],
        "response": response.text,
        "ended": ended,
        **{kind: float(getattr(verdict, kind)) for kind in kinds},
        "failed": ", ".join(check.name for check in verdict.checks if not check.passed),
    }
