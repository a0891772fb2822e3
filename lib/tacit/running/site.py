"""The static site: what lies in ``outputs/`` as pages, rendered by Sphinx and myst-nb; nothing is executed.

A folder of page sources is written first, in which the repository's pages keep their paths, so that links between them hold; ``docs/conf.py``
says how Sphinx renders them. What models and data say is text on every page: streams are shown as text, HTML and Markdown
outputs lose every tag but those of tables and prose, and Markdown cells may hold no HTML. Needs the extra ``tacit[site]``.
"""

from __future__ import annotations

import ast
import copy
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat

from tacit.running.metrics import find_result, paper_beside, read_metrics
from tacit.running.parameters import as_yaml, notebook_parameters, profiles, read_notebook, read_params
from tacit.support import paths
from tacit.support.errors import TacitError

TABLE = ("table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td")
PROSE = ("p", "div", "span", "br", "hr", "ul", "ol", "li", "em", "strong", "code", "pre", "blockquote")
TAGS = {*TABLE, *PROSE, "h1", "h2", "h3", "h4", "h5", "h6"}
ATTRIBUTES = ["class", "colspan", "rowspan"]
WIDGET = "application/vnd.jupyter.widget-view+json"
USE = ("docs/rerunning", "docs/bring_your_own", "docs/glossary", "CONTRIBUTING")
REFERENCE = ("parameters/index", "docs/speed", "ARCHITECTURE", "api/index", "docs/many_machines", "LOG")
PAGES = (
    *(f"{name}.md" for name in (*USE, "docs/speed", "ARCHITECTURE", "docs/many_machines", "LOG")),
    "params/README.md",
)
MARK = ".tacit-site"  # the file by which a folder is known as a site of ours, which may be replaced


def escape(text: str) -> str:
    """``text`` as one line that Markdown shows as it is: a backslash before every ASCII punctuation mark."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(text.split()))


def code_span(value: Any) -> str:
    """A parameter's value (as ``-p`` takes it) as code that may stand in a cell of a Markdown table."""
    text = as_yaml(value)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence} {text} {fence}".replace("|", "\\|")


def clean_html(html: str) -> str:
    """HTML of an output with tags of tables and prose only: every other tag is escaped, style sheets are left out (bleach)."""
    import bleach

    html = re.sub(r"<style\b.*?</style\s*>", "", html, flags=re.DOTALL | re.IGNORECASE)
    return bleach.clean(html, tags=TAGS, attributes=ATTRIBUTES)


def markdown_html(text: str) -> str:
    """An output's Markdown as cleaned HTML: CommonMark with tables; HTML in it is text, links and images are not made."""
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"html": False}).enable("table").disable(["link", "image", "autolink"])
    return clean_html(parser.render(text))


def safe_outputs(outputs: Sequence[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """A code cell's outputs with one harmless form each: picture, cleaned HTML or text.

    Streams and errors stay, since they are shown as text. Widgets are left out: they load programs from elsewhere. An output of
    other kinds only, such as a script or SVG, becomes a line that says so.
    """
    kept = []
    for output in outputs:
        if output.output_type in ("display_data", "execute_result"):
            data = output.data
            if WIDGET in data:
                continue
            picture = next((kind for kind in ("image/png", "image/jpeg") if kind in data), None)
            if picture:
                shown = {picture: data[picture]}
            elif "text/html" in data:
                shown = {"text/html": clean_html(data["text/html"])}
            elif "text/markdown" in data:
                shown = {"text/html": markdown_html(data["text/markdown"])}
            elif "text/plain" in data:
                shown = {"text/plain": data["text/plain"]}
            else:
                shown = {"text/plain": f"(an output of kind {', '.join(data) or 'none'} is left out)"}
            output = nbformat.from_dict(dict(output) | {"data": shown, "metadata": {}})
        kept.append(output)
    return kept


def find_title(notebook: nbformat.NotebookNode, *, default: str) -> str:
    """A notebook's first heading, without its marks; ``default`` where it has none."""
    lines = (line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines())
    return next((line.lstrip("# ") for line in lines if re.match(r"#+ +\S", line)), default)


def describe_figure(cells: Sequence[nbformat.NotebookNode], index: int, *, title: str) -> str:
    """Alternative text of the figure of cell ``index``: ``title``, the section's heading and the last paragraph above, no markup."""
    above = "\n\n".join(cell.source for cell in cells[:index] if cell.cell_type == "markdown")
    above = re.sub(r"^(#+ .*)$", r"\n\1\n", above, flags=re.MULTILINE)  # a heading needs no empty line after it
    paragraphs = [part.strip() for part in re.split(r"\n\s*\n", above) if part.strip()]
    sections = [part.lstrip("# ") for part in paragraphs if re.match("##+ ", part)]
    prose = [part for part in paragraphs if not re.match("#+ ", part)]
    parts = [part.rstrip(" .:") for part in (title, *sections[-1:], *prose[-1:])]
    text = " ".join(part if part.endswith(("?", "!")) else f"{part}." for part in parts)
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
    """A copy of an executed notebook for the site: harmless outputs, alternative texts of figures, a line on how it was executed.

    Raw cells are left out. Of the metadata only the language and the cells' tags stay: the rest holds widgets, or settings that
    would go before those of ``docs/conf.py``, such as executing the notebook. The notebook given is not changed.
    """
    notebook = copy.deepcopy(notebook)
    for name in set(notebook.metadata) - {"kernelspec", "language_info"}:
        del notebook.metadata[name]
    cells = [cell for cell in notebook.cells if cell.cell_type != "raw"]
    for index, cell in enumerate(cells):
        tags = list(cell.metadata.get("tags", []))
        tags += ["hide-input"] if "parameters" in tags else []  # the defaults; the next cell has what the run took
        cell.metadata = nbformat.from_dict({"tags": tags})
        if cell.cell_type == "code":
            cell.outputs = safe_outputs(cell.outputs)
            alt = describe_figure(cells, index, title=record["finding"])
            cell.metadata["mystnb"] = nbformat.from_dict({"image": {"alt": alt}})
    verdict = f"**The claim {'holds' if record['claim_holds'] else 'does not hold'} here, by its rule.**"
    told = f"{verdict} {provenance_line(stem, record)}"
    cells.insert(1, nbformat.v4.new_markdown_cell(told, id="executed"))
    notebook.cells = cells
    return notebook


def main_figure(record: dict) -> str | None:
    """The name of a finding's first figure, or None; raises TacitError for a name that leads out of the outputs' folder."""
    name = next(iter(record["figures"]), None)
    if name is not None and Path(name).name != name:
        raise TacitError(f"{record['finding']}: {name!r} is no name of a figure: figures lie beside the metrics file")
    return name


def rule_line(record: dict) -> list[str]:
    """Lines of a list that say which parts of the claim's rule were not met; none where the record has no parts or met all."""
    parts = record.get("parts", {})
    missed = [name for name, met in parts.items() if not met]
    return (
        [f"- not met: {escape('; '.join(missed))} ({len(missed)} of {len(parts)} parts of the rule)"] if missed else []
    )


def card(stem: str, record: dict, *, alt: str) -> str:
    """Markdown of a finding's card: claim, whether it holds, main number with interval beside the paper's, figure.

    Raises TacitError for a figure's name that leads out of the outputs' folder.
    """
    arm, metric = record["headline"]["arm"], record["headline"]["metric"]
    row = find_result(record, arm=arm, metric=metric)
    holds = record["claim_holds"]
    page = f"notebooks/{stem}.ipynb"
    here = f"**{row['value']:.3f}** \\[{row['low']:.3f}, {row['high']:.3f}\\] here"
    paper = []
    for known in paper_beside(record):
        same = known["metric"] == metric and known["arm"] == arm
        which = "" if same else escape(f"{known['metric']}, {known['arm']}:") + " "
        paper.append(f"{which}**{known['value']:.3f}** {escape(known['source'])}")
    if not paper:
        measured = {known["metric"] for known in record["paper"]}
        absent = "this metric of other arms only" if metric in measured else "no value of this metric"
        paper = [f"the paper gives {absent}" if measured else "no value of a paper"]
    lines = [
        "::::{container} card",
        f":::{{rubric}} [{escape(record['finding'])}]({page})",
        ":heading-level: 3",
        ":::",
        *(":::{container} verdict " + ("holds" if holds else "fails"), "holds" if holds else "does not hold", ":::"),
        *(escape(record["claim"]), ""),
        *(":::{container} numbers", f"{escape(f'{metric}, {arm}')}", ""),
        *(f"- {line}" for line in [here, *paper]),
        *rule_line(record),
        ":::",
    ]
    figure = main_figure(record)
    if figure:
        lines += ["", f"[![{escape(alt)}](<figures/{figure}>)]({page})"]
    return "\n".join([*lines, "::::"])


def toctree(*entries: str, caption: str) -> str:
    """A hidden table of contents, which fills the sidebar."""
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```"])


def write_notebooks(sources: Path, *, profile: str) -> dict[str, str]:
    """Write the copies of the notebooks in ``outputs/<profile>/`` and their main figures; returns the findings' cards by notebook.

    Raises TacitError where the profile has no outputs, or where a notebook's metrics or main figure are missing or malformed.
    """
    folder = paths.OUTPUTS / profile
    notebooks = sorted(folder.glob("*.ipynb"))
    if not notebooks:
        raise TacitError(
            f"outputs/{profile} has no executed notebooks: run `python -m tacit run --profile {profile}` first"
        )
    for name in ("notebooks", "figures"):
        (sources / name).mkdir(parents=True, exist_ok=True)
    cards = {}
    for path in notebooks:
        record = read_metrics(path.with_suffix(".json"))
        prepared = prepare_notebook(read_notebook(path), stem=path.stem, record=record)
        nbformat.write(prepared, sources / "notebooks" / path.name)
        alt, name = f"{record['finding']}: figure", main_figure(record)
        if name:
            if not (folder / name).is_file():
                raise TacitError(
                    f"outputs/{profile}/{name} is missing, which {path.stem}.json names: run the notebook again"
                )
            shutil.copy(folder / name, sources / "figures" / name)
            drawn = (cell for cell in prepared.cells if cell.cell_type == "code" and name in cell.source)
            alt = next((cell.metadata["mystnb"]["image"]["alt"] for cell in drawn), alt)
        cards[path.stem] = card(path.stem, record, alt=alt)
    return cards


def write_front(sources: Path, *, profile: str, cards: dict[str, str]) -> None:
    """Write the front page: README.md up to its first section, the cards, and the table of contents of the whole site.

    README's figure and its caption are left out: the cards have the figures.
    """
    opening = (paths.ROOT / "README.md").read_text("utf-8").split("\n## ")[0]
    paragraphs = re.split(r"\n\s*\n", opening)
    opening = "\n\n".join(part for part in paragraphs if not part.startswith(("![", "*Figure")))
    told = (
        f"Profile {escape(profile)}. Each card is what a notebook measured, by the rule it states; intervals are 95%."
    )
    front = [
        opening,
        f"## Findings\n\n{told}",
        ":::::{container} cards\n" + "\n\n".join(cards.values()) + "\n:::::",
        toctree(*(f"notebooks/{stem}" for stem in cards), caption="Notebooks"),
        toctree(*USE, caption="Use"),
        toctree(*REFERENCE, caption="Reference"),
    ]
    (sources / "index.md").write_text("\n\n".join(front) + "\n", "utf-8")


def parameter_table(stem: str) -> str:
    """Markdown table of a notebook's parameters: meaning, type, default, and the value in each profile that has the notebook."""
    declared = notebook_parameters(paths.NOTEBOOKS / f"{stem}.ipynb")
    found = [name for name in profiles() if (paths.PARAMS / name / f"{stem}.yaml").exists() and name != "smoke"]
    found.sort(key=lambda name: name != "micro")  # first; smoke holds the defaults
    values = {name: read_params(name, stem) for name in found}
    heads = ["parameter", "meaning", "type", "default", *found]
    rows = ["| " + " | ".join(map(escape, heads)) + " |", "|---" * len(heads) + "|"]
    for name, parameter in declared.items():
        told = [f"`{name}`", escape(parameter.meaning), f"`{parameter.annotation}`".replace("|", "\\|")]
        told += [code_span(parameter.default), *(code_span(values[profile].get(name)) for profile in found)]
        rows.append("| " + " | ".join(told) + " |")
    return "\n".join(rows)


def write_parameters(sources: Path, *, stems: Sequence[str]) -> None:
    """Write a page with the parameter table of each notebook, and the page that lists them."""
    folder = sources / "parameters"
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for stem in stems:
        title = escape(find_title(read_notebook(paths.NOTEBOOKS / f"{stem}.ipynb"), default=stem))
        told = f"*{title}*\n\nThe defaults make the notebook run in seconds and measure nothing. The table scrolls sideways to the other profiles."
        if (sources / "notebooks" / f"{stem}.ipynb").exists():
            told += f" [The executed notebook](../notebooks/{stem}.ipynb)."
        (folder / f"{stem}.md").write_text(f"# {escape(stem)}\n\n{told}\n\n{parameter_table(stem)}\n", "utf-8")
        listed.append(f"- [{escape(stem)}]({stem}.md): {title}")
    order = "\n".join(["```{toctree}", ":hidden:", "", "../params/README", *stems, "```"])
    about = "What each profile is for: [params/README.md](../params/README.md)."
    page = "\n\n".join(["# Parameter tables", about, "\n".join(listed), order])
    (folder / "index.md").write_text(page + "\n", "utf-8")


def library_modules() -> dict[str, str]:
    """The package's modules by dotted name, with the first line of their docstrings; nothing is imported."""
    found = {}
    for path in sorted(paths.LIBRARY.rglob("*.py")):
        parts = path.relative_to(paths.LIBRARY.parent).with_suffix("").parts
        if parts[-1] == "__main__":
            continue
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
        found[name] = text.split("\n\n")[0]
    return found


def write_api(sources: Path, *, modules: dict[str, str]) -> None:
    """Write a page of reStructuredText per module, which Sphinx's autodoc fills from the docstrings, and the page that lists them."""
    folder = sources / "api"
    folder.mkdir(parents=True, exist_ok=True)
    for name in modules:
        page = [name, "=" * len(name), "", f".. automodule:: {name}", "   :members:", "   :member-order: bysource", ""]
        (folder / f"{name}.rst").write_text("\n".join(page), "utf-8")
    listed = [f"- :doc:`{name} <{name}>`: {' '.join(text.split())}" for name, text in modules.items()]
    page = [
        "API reference",
        "=============",
        "",
        *listed,
        "",
        ".. toctree::",
        "   :hidden:",
        "",
        *(f"   {n}" for n in modules),
    ]
    (folder / "index.rst").write_text("\n".join(page) + "\n", "utf-8")


def write_speed(sources: Path) -> None:
    """Add to the copy of ``docs/speed.md`` how each ratio of ``outputs/bench/`` was measured, and what GPUs did."""
    import bench
    import gpubench

    folder = paths.OUTPUTS / "bench"
    target = sources / "docs/speed.md"
    page = [target.read_text("utf-8")]
    for path in bench.bench_files(folder):
        record = bench.read_bench(path)
        page.append(f"## How it was measured: {escape(record['device'])}")
        for row in record["benches"]:
            arms = [
                f"- {escape(arm['name'])}: {arm['seconds']:.3g} s \\[{arm['seconds_min']:.3g}, {arm['seconds_max']:.3g}\\], "
                f"{arm['rate']:,.0f} {escape(row['unit'])} per second; {escape(arm['measured'])}"
                for arm in row["arms"]
            ]
            page.append(f"**{escape(row['name'])}.** Check: {escape(row['gate'])}.\n\n" + "\n".join(arms))
    for path in sorted(folder.glob("gpu-*.json")):
        told = gpubench.describe(gpubench.read_results(path)).splitlines()
        page.append(f"## {escape(told[0])}\n\n" + "\n".join(f"    {line}" for line in told[1:]))
    target.write_text("\n\n".join(page) + "\n", "utf-8")


def copy_pages(sources: Path) -> None:
    """Copy the repository's own pages, without their comments, which are marks for programs."""
    for name in PAGES:
        target = sources / name
        target.parent.mkdir(parents=True, exist_ok=True)
        text = re.sub(r"^<!--.*?-->\n", "", (paths.ROOT / name).read_text("utf-8"), flags=re.MULTILINE)
        target.write_text(text, "utf-8")


def render_pages(sources: Path, out: Path) -> list[str]:
    """Render a folder of page sources to HTML with Sphinx, in a process of its own; returns Sphinx's warnings.

    Raises TacitError where Sphinx fails, with the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="tacit-site-") as work:
        said = Path(work) / "warnings.txt"
        call = [sys.executable, "-m", "sphinx", "-q", "--no-color", "-b", "html", "-c", str(paths.ROOT / "docs")]
        call += ["-d", f"{work}/doctrees", "-w", str(said), str(sources), str(out)]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode:
            raise TacitError("Sphinx could not render the site:\n" + "\n".join(done.stderr.splitlines()[-15:]))
        return [line.replace(f"{sources}{os.sep}", "") for line in said.read_text("utf-8").splitlines() if line.strip()]


def require_packages() -> None:
    """Raise TacitError where a package of the extra ``site`` is missing."""
    wanted = ("sphinx", "myst_nb", "furo", "bleach", "markdown_it")
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise TacitError(f"the site needs {', '.join(missing)}: pip install 'tacit[site]'")


def put_in_place(built: Path, out: Path, *, earlier: Path) -> None:
    """Move the folder ``built`` to ``out``; what is there goes to ``earlier``, and back again where the move fails (OSError)."""
    if out.exists():
        os.replace(out, earlier)
    try:
        os.replace(built, out)
    except OSError:
        if earlier.exists():
            os.replace(earlier, out)
        raise


def build_site(*, profile: str, out: str | Path, say: Callable[[str], None] = print) -> Path:
    """Write the site of ``outputs/<profile>/`` into the folder ``out``, whole or not at all; returns its front page.

    A site that is there already is replaced. Raises TacitError where a package is missing, where ``out`` is a folder with
    something else in it or cannot be written, where the profile has no outputs, and where Sphinx fails. Executes no notebook
    and changes nothing in ``outputs/``.
    """
    require_packages()
    out = Path(out).resolve()
    if out.exists() and not ((out / MARK).is_file() or (out.is_dir() and not any(out.iterdir()))):
        raise TacitError(f"{out} is there and is no site: choose another --out, or take it away")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".site-", dir=out.parent)
    except OSError as error:
        raise TacitError(f"cannot write the site to {out}: {error}") from None
    with folder as work:
        sources, built = Path(work) / "source", Path(work) / "html"
        copy_pages(sources)
        cards = write_notebooks(sources, profile=profile)
        write_parameters(sources, stems=[path.stem for path in sorted(paths.NOTEBOOKS.glob("*.ipynb"))])
        write_speed(sources)
        write_api(sources, modules=library_modules())
        write_front(sources, profile=profile, cards=cards)
        for warning in render_pages(sources, built):
            say(f"warning: {warning}")
        try:
            (built / MARK).write_text("Written by `python -m tacit site`, which replaces this folder.\n", "utf-8")
            put_in_place(built, out, earlier=Path(work) / "earlier")
        except OSError as error:
            raise TacitError(f"cannot write the site to {out}: {error}") from None
    return out / "index.html"
