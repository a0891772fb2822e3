"""What the site shows of notebooks and results: copies that are harmless, figures with texts, a card for each finding.

Whatever models and data say stays text. Streams are shown as text, HTML and Markdown outputs lose every tag but those
of tables and prose, and Markdown cells may hold no HTML.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import nbformat

from tacit.running.metrics import describe_main, find_result, paper_beside, read_demands, verdict_of
from tacit.running.parameters import as_yaml
from tacit.running.staging import raise_links
from tacit.scoring.verdicts import HOLDS
from tacit.support import paths
from tacit.support.errors import TacitError
from tacit.synthesis import cards

TABLE = ("table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td")
PROSE = ("p", "div", "span", "br", "hr", "ul", "ol", "li", "em", "strong", "code", "pre", "blockquote")
TAGS = {*TABLE, *PROSE, "h1", "h2", "h3", "h4", "h5", "h6"}
ATTRIBUTES = ["class", "colspan", "rowspan"]
WIDGET = "application/vnd.jupyter.widget-view+json"


def escape(text: str) -> str:
    """``text`` as one line that Markdown shows as it is: a backslash before every ASCII punctuation mark."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(text.split()))


def code_span(value: Any) -> str:
    """A parameter's value (as ``-p`` takes it) as code that may stand in a cell of a Markdown table."""
    return cards.code_span(as_yaml(value))


def clean_html(html: str) -> str:
    """HTML of an output with tags of tables and prose only: bleach escapes the others, style sheets are left out."""
    import bleach

    html = re.sub(r"<style\b.*?</style\s*>", "", html, flags=re.DOTALL | re.IGNORECASE)
    return bleach.clean(html, tags=TAGS, attributes=ATTRIBUTES)


def markdown_html(text: str) -> str:
    """An output's Markdown as cleaned HTML: CommonMark with tables, without links and images; HTML in it is text."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    return clean_html(parser.render(text))


def _harmless(data: dict[str, Any]) -> dict[str, str]:
    """One form of an output's data: picture, cleaned HTML or text. Other kinds become a line that says so."""
    shown = {"text/html": clean_html, "text/markdown": markdown_html, "text/plain": str}
    for kind in ("image/png", "image/jpeg"):
        if kind in data:
            return {kind: data[kind]}
    for kind, clean in shown.items():
        if kind in data:
            return {"text/plain" if kind == "text/plain" else "text/html": clean(data[kind])}
    return {"text/plain": f"(an output of kind {', '.join(data) or 'none'} is left out)"}


def safe_outputs(outputs: Sequence[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """A code cell's outputs with one harmless form each.

    Streams and errors stay, since they are shown as text. Widgets are left out: they load programs from elsewhere.
    """
    safe = []
    for output in outputs:
        if output.output_type not in ("display_data", "execute_result"):
            safe.append(output)
        elif WIDGET not in output.data:
            safe.append(nbformat.from_dict(dict(output) | {"data": _harmless(output.data), "metadata": {}}))
    return safe


def find_title(notebook: nbformat.NotebookNode, *, default: str) -> str:
    """A notebook's first heading, without its marks; ``default`` where it has none."""
    lines = (line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    return next((line.lstrip("# ") for line in lines if re.match(r"#+ +\S", line)), default)


def describe_figure(cells: Sequence[nbformat.NotebookNode], index: int, *, title: str) -> str:
    """Alternative text of cell ``index``'s figure: ``title``, the section's heading and the last paragraph above."""
    above = "\n\n".join(cell.source for cell in cells[:index] if cell.cell_type == "markdown")
    above = re.sub(r"^(#+ .*)$", r"\n\1\n", above, flags=re.MULTILINE)  # a heading needs no empty line after it
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", above) if part.strip()]
    sections = [part.lstrip("# ") for part in paragraphs if re.match("##+ ", part)]
    prose = [part for part in paragraphs if not re.match("#+ ", part)]
    parts = [part.rstrip(" .:") for part in (title, *sections[-1:], *prose[-1:])]
    text = " ".join(part if part.endswith(("?", "!")) else f"{part}." for part in parts)
    return without_marks(text)


def without_marks(text: str) -> str:
    """Prose in Markdown as one line of text: links become their words, marks of emphasis, code and TeX are left out."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return " ".join(re.sub(r"[`*$\\{}]", "", text).split())


def provenance_line(stem: str, record: dict) -> str:
    """A line of Markdown: with which parameters, commit and device a notebook was executed, as its manifest says."""
    manifest = record["manifest"]
    parts = [f"profile {escape(str(manifest.get('profile', 'unknown')))}"]
    if (paths.NOTEBOOKS / f"{stem}.ipynb").exists():
        parts[0] += f" ([parameters](../parameters/{stem}.md))"
    if manifest.get("commit"):
        changed = " with changes that were not committed" if manifest.get("dirty") else ""
        parts.append(escape(f"commit {manifest['commit'][:10]}{changed}"))
    parts += [escape(f"started {manifest['started'][:10]}")] if manifest.get("started") else []
    parts += [escape(manifest["device"])] if manifest.get("device") else []
    if "wall_seconds" in manifest:
        parts.append(f"{manifest['wall_seconds']:.0f} seconds, less what the cache already held")
    return f"*Executed: {', '.join(parts)}.*"


def prepare_notebook(notebook: nbformat.NotebookNode, *, stem: str, record: dict) -> nbformat.NotebookNode:
    """A copy of an executed notebook for the site: harmless outputs, alternative texts of figures, how it was executed.

    Raw cells are left out. Of the metadata only the language and the cells' tags stay: the rest holds widgets, or
    settings that would go before those of ``docs/conf.py``, such as executing the notebook.
    """
    notebook = copy.deepcopy(notebook)
    for name in set(notebook.metadata) - {"kernelspec", "language_info"}:
        del notebook.metadata[name]
    cells = [cell for cell in notebook.cells if cell.cell_type != "raw"]
    for index, cell in enumerate(cells):
        tags = list(cell.metadata.get("tags", []))
        tags += ["hide-input"] if "parameters" in tags else []  # the defaults; the next cell has what the run took
        cell.metadata = nbformat.from_dict({"tags": tags})
        if cell.cell_type == "markdown":
            cell.source = raise_links(cell.source)
        if cell.cell_type == "code":
            cell.outputs = safe_outputs(cell.outputs)
            alt = describe_figure(cells, index, title=record["finding"])
            cell.metadata["mystnb"] = nbformat.from_dict({"image": {"alt": alt}})
    line = f"**Verdict, by the rule: {verdict_of(record)}.** {provenance_line(stem, record)}"
    cells.insert(1, nbformat.v4.new_markdown_cell(line, id="executed"))
    notebook.cells = cells
    return notebook


def main_figure(record: dict) -> str | None:
    """The name of a finding's first figure, or None; raises TacitError where it leads out of the outputs' folder."""
    name = next(iter(record["figures"]), None)
    if name is not None and Path(name).name != name:
        raise TacitError(f"{record['finding']}: {name!r} is no name of a figure: figures lie beside the metrics file")
    return name


def _beside(record: dict, *, arm: str, metric: str) -> list[str]:
    """The lines of a card on the papers' values, and on the parts of the claim's rule that were not met."""
    lines = []
    for known in paper_beside(record):
        same = known["metric"] == metric and known["arm"] == arm
        which = "" if same else escape(f"{known['metric']}, {known['arm']}:") + " "
        lines.append(f"{which}**{known['value']:z.3f}** {escape(known['source'])}")
    if not lines:
        measured = {known["metric"] for known in record["paper"]}
        absent = "this metric of other arms only" if metric in measured else "no value of this metric"
        lines = [f"the paper gives {absent}" if measured else "no value of a paper"]
    rule, controls = read_demands(record)
    demands = [(f"{d.metric}, {d.arm}: {d.side} {d.threshold:g}", d.verdict == HOLDS) for d in (*rule, *controls)]
    parts = demands or list(record.get("parts", {}).items())
    missed = [name for name, met in parts if not met]
    if missed:
        lines.append(f"not met: {escape('; '.join(missed))} ({len(missed)} of {len(parts)} parts of the rule)")
    return lines


def card(stem: str, record: dict, *, alt: str, mark: str = "") -> str:
    """Markdown of a finding's card: verdict, what was found (or the claim), the number that decides, papers', figure.

    ``mark`` stands behind the verdict. Raises TacitError for a figure's name that leads out of the outputs' folder.
    """
    arm, metric = record["headline"]["arm"], record["headline"]["metric"]
    row = find_result(record, arm=arm, metric=metric)
    verdict = verdict_of(record)
    style = {"holds": "holds", "yes": "holds", "undecided": "open", "instrument fails": "open"}.get(verdict, "fails")
    page, figure = f"notebooks/{stem}.ipynb", main_figure(record)
    asked = escape("".join(describe_main(record).rpartition("; asked: ")[1:])) if "rule" in record else ""
    lines = [
        "::::{container} card",
        f":::{{rubric}} [{escape(record['finding'])}]({page})",
        ":heading-level: 3",
        ":::",
        *(f":::{{container}} verdict {style}", verdict + mark, ":::"),
        *(escape(without_marks(record["answer"]["found"]) if "answer" in record else record["claim"]), ""),
        *(":::{container} numbers", escape(f"{metric}, {arm}"), ""),
        f"- **{row['value']:z.3f}** \\[{row['low']:z.3f}, {row['high']:z.3f}\\] here{asked}",
        *(f"- {line}" for line in _beside(record, arm=arm, metric=metric)),
        ":::",
        *(["", f"[![{escape(alt)}](<figures/{figure}>)]({page})"] if figure else []),
        "::::",
    ]
    return "\n".join(lines)
