"""The answer's box: its Markdown for each verdict as a parser reads it, and the cell that a run fills with it."""

import copy
import html
import re

import nbformat
import pytest
from markdown_it import MarkdownIt
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from tacit.running.answers import fill_answer, write_answer
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import FAILS, HOLDS, REFUTED, UNDECIDED, Demand, conclude

ANSWER = {"found": "It is *so*.", "reason": "Because\nof `this`.", "caveat": "Only\n\nhere."}


def demand(arm, low, high, metric="strict", **asked):
    return Demand(arm, metric, Estimate((low + high) / 2, low, high, 3, 20), **asked)


def make_record(rule, controls=(), **some):
    rows = [d.as_result() for d in (*rule, *controls)]
    return {**conclude(rule, controls, **some), "answer": ANSWER, "results": rows}


def paragraphs(markdown):
    """The paragraphs of the page's one quotation as HTML without ``<p>``; nothing may stand outside of it."""
    shown = MarkdownIt("commonmark").render(markdown)
    (inside,) = re.fullmatch(r"<blockquote>\n(.*)\n</blockquote>\n", shown, re.DOTALL).groups()
    assert "<blockquote>" not in inside
    lines = re.findall(r"<p>(.*?)</p>", inside, re.DOTALL)
    assert "\n".join(f"<p>{line}</p>" for line in lines) == inside
    return lines


GOOD, OPEN, BAD = demand("a", 0.2, 0.4), demand("b", -0.1, 0.3), demand("c", 0.1, 0.2, threshold=0.5)
RIGHT, WRONG = demand("right", 0.7, 0.9), demand("right", 0.7, 0.9, threshold=0.8)
BOXES = {
    HOLDS: (
        make_record([GOOD], [RIGHT]),
        "strict, a: 0.300 [0.200, 0.400]; asked: above 0",
        "every part of the rule is met by its whole interval",
        "passes",
    ),
    UNDECIDED: (
        make_record([GOOD, OPEN], [RIGHT]),
        "strict, b: 0.100 [-0.100, 0.300]; asked: above 0",
        "an interval contains its threshold, so that these sizes cannot tell",
        "passes",
    ),
    REFUTED: (
        make_record([GOOD, OPEN, BAD], [RIGHT]),
        "strict, c: 0.150 [0.100, 0.200]; asked: above 0.5",
        "an interval lies wholly on the other side of its threshold",
        "passes",
    ),
    FAILS: (
        make_record([GOOD], [WRONG]),
        "strict, right: 0.800 [0.700, 0.900]; asked: above 0.8",
        "the positive control did not pass, so that nothing is said of the claim",
        "does not pass",
    ),
}


@pytest.mark.parametrize("verdict", BOXES)
def test_the_box_is_five_paragraphs_of_one_quotation(verdict):
    record, main, meaning, passes = BOXES[verdict]
    asked = "0.8" if verdict == FAILS else "0"
    assert paragraphs(write_answer(record)) == [
        f"<strong>Answer: {verdict}.</strong> It is <em>so</em>.",
        "Because of <code>this</code>.",
        "<em>Caveat.</em> Only here.",
        f"<em>The number that decides.</em> <code>{main}</code> (95% interval). <em>{verdict.capitalize()}</em> means:"
        f" {meaning}.",
        f"<em>Positive control</em> ({passes}):"
        f" <code>strict, right: 0.800 [0.700, 0.900]; asked: above {asked}</code>.",
    ]


def test_without_controls_there_is_no_line_on_them_and_several_are_counted():
    assert len(paragraphs(write_answer(make_record([GOOD])))) == 4
    last = paragraphs(write_answer(make_record([GOOD], [RIGHT, demand("none", -0.1, 0.1)])))[-1]
    assert last.startswith("<em>Positive controls</em> (1 of 2 pass): <code>strict, right: ")
    assert last.count("<code>") == 2


@pytest.mark.parametrize(
    ("rule", "at_least", "meaning"),
    [
        (
            [GOOD, OPEN, BAD],
            1,
            "at least 1 of the rule's 3 parts are met by their whole intervals, as it asks; here 1 are",
        ),
        ([GOOD, OPEN, BAD], 2, "cannot tell whether 2 of the rule's 3 parts are met"),
        ([GOOD, BAD, BAD], 2, "fewer than 2 of the rule's 3 parts can be met"),
    ],
)
def test_a_rule_that_asks_for_some_of_its_parts_says_so(rule, at_least, meaning):
    assert meaning in html.unescape(paragraphs(write_answer(make_record(rule, at_least=at_least)))[3])


ODD = [
    "a`b",
    "``x``",
    "`",
    "*a* _b_ <b>c</b> &amp; [d](e) $f$ \\",
    "two\nlines",
    "a\n\n> b\n\n# c",
    "x \u2028 y",
    "a|b",
]


@pytest.mark.parametrize("name", ODD)
def test_names_are_shown_as_they_are_on_one_line(name):
    record = make_record([demand(name, 0.2, 0.4, metric=name)], [demand(name + "2", 0.2, 0.4)])
    fourth, fifth = paragraphs(write_answer(record))[3:]
    flat = " ".join(f"{name}, {name}: 0.300 [0.200, 0.400]; asked: above 0".split())
    control = " ".join(f"strict, {name}2: 0.300 [0.200, 0.400]; asked: above 0".split())
    for line, expected in ((fourth, flat), (fifth, control)):
        (code,) = re.findall(r"<code>(.*?)</code>", line)
        assert html.unescape(code) == expected


def make_notebook(*tagged):
    cells = [new_markdown_cell("# T"), *tagged, new_code_cell("1", metadata={"tags": ["parameters"]})]
    return new_notebook(cells=cells)


def test_the_cell_tagged_answer_is_filled_and_no_other_changes():
    record, *_ = BOXES[HOLDS]
    notebook = make_notebook(
        new_markdown_cell("*The run puts it here.*", metadata={"tags": ["answer", "other"]}),
        new_code_cell("answer = 1", metadata={"tags": ["answer"]}),
    )
    before = copy.deepcopy(notebook)
    fill_answer(notebook, record)
    assert notebook.cells[1].source == write_answer(record)
    notebook.cells[1].source = before.cells[1].source
    assert notebook == before
    fill_answer(notebook, record)
    nbformat.validate(notebook)


def test_without_the_cell_or_the_answer_nothing_changes():
    record, *_ = BOXES[HOLDS]
    plain = make_notebook()
    before = copy.deepcopy(plain)
    fill_answer(plain, record)
    assert plain == before
    waiting = make_notebook(new_markdown_cell("Later.", metadata={"tags": ["answer"]}))
    fill_answer(waiting, {"claim_holds": True})
    assert waiting.cells[1].source == "Later."
