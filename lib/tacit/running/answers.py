"""The answer of a finding in a box: Markdown made from its metrics, and put into the executed notebook.

A source holds a placeholder in the Markdown cell tagged ``answer``, the first after the title. The run replaces it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nbformat import NotebookNode

from tacit.running.metrics import describe_main, read_demands, verdict_of
from tacit.scoring.verdicts import FAILS, HOLDS, REFUTED, UNDECIDED

TAG = "answer"
MEANINGS = {
    HOLDS: "every part of the rule is met by its whole interval",
    REFUTED: "an interval lies wholly on the other side of its threshold",
    UNDECIDED: "an interval contains its threshold, so that these sizes cannot tell",
    FAILS: "the positive control did not pass, so that nothing is said of the claim",
}
MEANINGS_OF_SOME = MEANINGS | {  # where the rule asks for some of its parts
    HOLDS: "at least {needed} of the rule's {parts} parts are met by their whole intervals, as it asks; here {met} are",
    REFUTED: "fewer than {needed} of the rule's {parts} parts can be met: the intervals of the others lie wholly on"
    " the other side of their thresholds",
    UNDECIDED: "intervals contain their thresholds, so that these sizes cannot tell whether {needed} of the rule's"
    " {parts} parts are met",
}


def _code(text: str) -> str:
    """``text`` as code on one line: the names of arms and metrics may hold marks of Markdown."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    space = " " if "`" in text else ""
    return f"{fence}{space}{' '.join(text.split())}{space}{fence}"


def _explain(record: Mapping[str, Any]) -> str:
    """What the verdict of a record means, for the rule that it has."""
    rule, _ = read_demands(record)
    counts = {"needed": record.get("at_least"), "parts": len(rule), "met": sum(one.verdict == HOLDS for one in rule)}
    return (MEANINGS_OF_SOME if "at_least" in record else MEANINGS)[verdict_of(record)].format(**counts)


def write_answer(record: Mapping[str, Any]) -> str:
    """The box as Markdown: verdict and what was found, reason, caveat, deciding number, positive controls.

    ``record`` is a metrics record with a rule and an answer. Five lines, each a paragraph of a quotation.
    """
    answer, verdict = record["answer"], verdict_of(record)
    _, controls = read_demands(record)
    passed = [control for control in controls if control.verdict == HOLDS]
    lines = [
        f"**Answer: {verdict}.** {answer['found']}",
        answer["reason"],
        f"*Caveat.* {answer['caveat']}",
        f"*The number that decides.* {_code(describe_main(record))} (95% interval). *{verdict.capitalize()}* means:"
        f" {_explain(record)}.",
    ]
    if controls:
        several, which = len(controls) > 1, "; ".join(_code(control.sentence()) for control in controls)
        outcome = f"{len(passed)} of {len(controls)} pass" if several else "passes" if passed else "does not pass"
        lines.append(f"*Positive control{'s' * several}* ({outcome}): {which}.")
    return "\n>\n".join("> " + " ".join(line.split()) for line in lines)


def fill_answer(notebook: NotebookNode, record: Mapping[str, Any]) -> None:
    """Put the box of ``record`` into the notebook's Markdown cell tagged ``answer``, in place, if both are there."""
    if "answer" not in record:
        return
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and TAG in cell.metadata.get("tags", []):
            cell.source = write_answer(record)
