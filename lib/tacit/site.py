"""The static site: what lies in ``outputs/`` as pages, rendered by Sphinx and myst-nb; nothing is executed.

A folder of page sources is written first, in which the repository's pages keep their paths, so that links between them hold; ``docs/conf.py``
says how Sphinx renders them. What models and data say is text on every page: streams are shown as text, HTML and Markdown
outputs lose every tag but those of tables and prose, and Markdown cells may hold no HTML. Needs the extra ``tacit[site]``.
"""

from __future__ import annotations

import ast
import copy
import importlib.util
import json
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

from tacit import paths
from tacit.errors import TacitError
from tacit.metrics import find_result, read_metrics
from tacit.parameters import notebook_parameters, read_notebook, read_params

TABLE = ("table", "caption", "thead", "tbody", "tfoot", "tr", "th", "td")
PROSE = ("p", "div", "span", "br", "hr", "ul", "ol", "li", "em", "strong", "code", "pre", "blockquote")
TAGS = {*TABLE, *PROSE, "h1", "h2", "h3", "h4", "h5", "h6"}
ATTRIBUTES = ["class", "colspan", "rowspan"]
WIDGET = "application/vnd.jupyter.widget-view+json"
PAGES = ("ARCHITECTURE.md", "LOG.md", "docs/many_machines.md", "params/README.md")


def escape(text: str) -> str:
    """``text`` as one line that Markdown shows as it is: a backslash before every ASCII punctuation mark."""
    return re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", " ".join(text.split()))


def code_span(value: Any) -> str:
    """A parameter's value (as JSON) as code that may stand in a cell of a Markdown table."""
    text = json.dumps(value, ensure_ascii=False)
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

    Streams and errors stay, since they are shown as text. Widgets and scripts are left out: they load programs from elsewhere.
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
                continue
            output = nbformat.from_dict(dict(output) | {"data": shown, "metadata": {}})
        kept.append(output)
    return kept


def describe_figure(cells: Sequence[nbformat.NotebookNode], index: int) -> str:
    """Alternative text of the figure of cell ``index``: the section's heading and the last paragraph above it, without markup."""
    above = [cell.source for cell in cells[:index] if cell.cell_type == "markdown"]
    paragraphs = [part.strip() for source in above for part in re.split(r"\n\s*\n", source) if part.strip()]
    headings = [part.splitlines()[0].lstrip("# ") for part in paragraphs if part.startswith("#")]
    prose = [part for part in paragraphs if not part.startswith("#")]
    text = ": ".join([*headings[-1:], *prose[-1:]]) or "Figure"
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)
    return " ".join(re.sub(r"[`*$\\{}]", "", text).split())


def provenance_line(stem: str, record: dict) -> str:
    """A line of Markdown: with which parameters, commit and device a notebook was executed, as its manifest says."""
    manifest = record["manifest"]
    parts = [f"profile {escape(str(manifest.get('profile', 'unknown')))}"]
    if (paths.NOTEBOOKS / f"{stem}.ipynb").exists():
        parts[0] += f" ([parameters](../parameters/{stem}.md))"
    parts += [escape(f"{key} {manifest[key][:10]}") for key in ("commit", "started") if manifest.get(key)]
    parts += [escape(manifest["device"])] if manifest.get("device") else []
    parts += [f"{manifest['wall_seconds']:.0f} seconds"] if "wall_seconds" in manifest else []
    return f"*Executed: {', '.join(parts)}.*"


def prepare_notebook(notebook: nbformat.NotebookNode, *, stem: str, record: dict) -> nbformat.NotebookNode:
    """A copy of an executed notebook for the site: harmless outputs, alternative texts of figures, a line on how it was executed.

    Raw cells are left out, and what the notebook's metadata says of widgets. The notebook given is not changed.
    """
    notebook = copy.deepcopy(notebook)
    notebook.metadata.pop("widgets", None)
    cells = [cell for cell in notebook.cells if cell.cell_type != "raw"]
    for index, cell in enumerate(cells):
        if cell.cell_type == "code":
            cell.outputs = safe_outputs(cell.outputs)
            cell.metadata["mystnb"] = {"image": {"alt": describe_figure(cells, index)}}
            if "parameters" in cell.metadata.get("tags", []):
                cell.metadata["tags"].append("hide-input")  # the defaults; the next cell has what the run took
    cells.insert(1, nbformat.v4.new_markdown_cell(provenance_line(stem, record), id="executed"))
    notebook.cells = cells
    return notebook


def card(stem: str, record: dict, *, alt: str) -> str:
    """Markdown of a finding's card: claim, whether it holds, main number with interval beside the paper's, figure."""
    arm, metric = record["headline"]["arm"], record["headline"]["metric"]
    row = find_result(record, arm=arm, metric=metric)
    holds = record["claim_holds"]
    page = f"notebooks/{stem}.ipynb"
    here = f"**{row['value']:.3f}** \\[{row['low']:.3f}, {row['high']:.3f}\\] here"
    paper = [
        f"**{known['value']:.3f}** {escape(known['source'])}"
        for known in record["paper"]
        if (known["arm"], known["metric"]) == (arm, metric)
    ]
    lines = [
        "::::{container} card",
        f":::{{rubric}} [{escape(record['finding'])}]({page})",
        ":heading-level: 3",
        ":::",
        *(":::{container} verdict " + ("holds" if holds else "fails"), "holds" if holds else "does not hold", ":::"),
        *(escape(record["claim"]), ""),
        *(":::{container} numbers", f"{escape(f'{metric}, {arm}')}", ""),
        *(f"- {line}" for line in [here, *(paper or ["no value of a paper for it"])]),
        ":::",
    ]
    if record["figures"]:
        lines += ["", f"[![{escape(alt)}](figures/{record['figures'][0]})]({page})"]
    return "\n".join([*lines, "::::"])


def toctree(*entries: str, caption: str) -> str:
    """A hidden table of contents, which fills the sidebar."""
    return "\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *entries, "```"])


def write_notebooks(sources: Path, *, profile: str) -> dict[str, str]:
    """Write the copies of the notebooks in ``outputs/<profile>/`` and their main figures; returns the findings' cards by notebook.

    Raises TacitError where the profile has no outputs, or where a notebook's metrics or main figure are missing.
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
        alt = f"Figure of finding {record['finding']}"
        for name in record["figures"][:1]:
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
    """Write the front page: README.md up to its first section, the cards, and the table of contents of the whole site."""
    opening = (paths.ROOT / "README.md").read_text("utf-8").split("\n## ")[0]
    opening = "\n".join(line for line in opening.splitlines() if not line.startswith("!["))
    told = (
        f"Profile {escape(profile)}. Each card is what a notebook measured, by the rule it states; intervals are 95%."
    )
    front = [
        opening,
        f"## Findings\n\n{told}",
        ":::::{container} cards\n" + "\n\n".join(cards.values()) + "\n:::::",
        toctree(*(f"notebooks/{stem}" for stem in cards), caption="Notebooks"),
        toctree(
            "parameters/index", "speed", "ARCHITECTURE", "api/index", "docs/many_machines", "LOG", caption="Reference"
        ),
    ]
    (sources / "index.md").write_text("\n\n".join(front) + "\n", "utf-8")


def parameter_table(stem: str) -> str:
    """Markdown table of a notebook's parameters: meaning, type, default, and the value in each profile that has the notebook."""
    declared = notebook_parameters(paths.NOTEBOOKS / f"{stem}.ipynb")
    found = {path.parent.name for path in paths.PARAMS.glob(f"*/{stem}.yaml")}
    profiles = sorted(found - {"smoke"}, key=lambda name: (name != "micro", name))  # smoke holds the defaults
    values = {name: read_params(name, stem) for name in profiles}
    heads = ["parameter", "meaning", "type", "default", *profiles]
    rows = ["| " + " | ".join(map(escape, heads)) + " |", "|---" * len(heads) + "|"]
    for name, parameter in declared.items():
        told = [f"`{name}`", escape(parameter.meaning), f"`{parameter.annotation}`".replace("|", "\\|")]
        told += [code_span(parameter.default), *(code_span(values[profile].get(name)) for profile in profiles)]
        rows.append("| " + " | ".join(told) + " |")
    return "\n".join(rows)


def write_parameters(sources: Path, *, stems: Sequence[str]) -> None:
    """Write a page with the parameter table of each notebook, and the page that lists them."""
    folder = sources / "parameters"
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for stem in stems:
        title = escape(read_notebook(paths.NOTEBOOKS / f"{stem}.ipynb").cells[0].source.splitlines()[0].lstrip("# "))
        told = f"{title}.\n\nThe defaults make the notebook run in seconds and measure nothing."
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
    """Write the page of speed ratios from ``outputs/bench/``: the table, how each was measured, and what GPUs did."""
    from tacit import bench, gpubench

    folder = paths.OUTPUTS / "bench"
    page = [
        "# Speed",
        "Ratios measured in one process with interleaved repeats, after a check that both sides say the same.",
    ]
    files = bench.bench_files(folder)
    page.append(bench.bench_table(folder) if files else "Nothing is measured yet: `make bench`.")
    for path in files:
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
    (sources / "speed.md").write_text("\n\n".join(page) + "\n", "utf-8")


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


def build_site(*, profile: str, out: str | Path, say: Callable[[str], None] = print) -> Path:
    """Write the site of ``outputs/<profile>/`` into the folder ``out``, whole or not at all; returns its front page.

    A site that is there already is replaced. Raises TacitError where a package is missing, where ``out`` is a folder with
    something else in it, where the profile has no outputs, and where Sphinx fails. Executes no notebook and changes nothing
    in ``outputs/``.
    """
    require_packages()
    out = Path(out).resolve()
    if out.exists() and not ((out / ".buildinfo").is_file() or (out.is_dir() and not any(out.iterdir()))):
        raise TacitError(f"{out} is there and is no site: choose another --out, or take it away")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".site-", dir=out.parent) as work:
        sources, built = Path(work) / "source", Path(work) / "html"
        copy_pages(sources)
        cards = write_notebooks(sources, profile=profile)
        write_parameters(sources, stems=[path.stem for path in sorted(paths.NOTEBOOKS.glob("*.ipynb"))])
        write_speed(sources)
        write_api(sources, modules=library_modules())
        write_front(sources, profile=profile, cards=cards)
        for warning in render_pages(sources, built):
            say(f"warning: {warning}")
        if out.exists():
            shutil.rmtree(out)
        os.replace(built, out)
    return out / "index.html"
