"""The static site: what lies in ``outputs/`` as pages, rendered by Sphinx and myst-nb; nothing is executed.

A folder of page sources is written first, in which the repository's pages keep their paths, so that links between them
hold. ``docs/conf.py`` says how Sphinx renders them. Needs the extra ``tacit[site]``.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import nbformat

from tacit.running.metrics import read_metrics
from tacit.running.pages import card, code_span, escape, find_title, main_figure, prepare_notebook
from tacit.running.parameters import notebook_parameters, profiles, read_notebook, read_params
from tacit.running.tables import MICRO, find_metrics
from tacit.support import paths
from tacit.support.errors import TacitError

USE = ("docs/rerunning", "docs/bring_your_own", "docs/glossary", "CONTRIBUTING")
REFERENCE = ("parameters/index", "docs/speed", "ARCHITECTURE", "api/index", "docs/many_machines", "LOG")
PAGES = (
    *(f"{name}.md" for name in (*USE, "docs/speed", "ARCHITECTURE", "docs/many_machines", "LOG")),
    "params/README.md",
)
MARK = ".tacit-site"  # the file by which a folder is known as a site of ours, which may be replaced


def toctree(*entries: str, caption: str = "") -> str:
    """A hidden table of contents, which fills the sidebar."""
    head = [f":caption: {caption}"] if caption else []
    return "\n".join(["```{toctree}", ":hidden:", *head, "", *entries, "```"])


def find_executed(profile: str) -> list[tuple[Path, str]]:
    """The executed notebooks that a profile's site shows, in order, each with the mark of its card.

    They are those in ``outputs/<profile>/``. For ``full``, a finding that has no parameters there is shown as ``micro``
    has it, and marked so (``tables.find_metrics``).
    """
    folders = [paths.OUTPUTS / name for name in ((profile, "micro") if profile == "full" else (profile,))]
    shown = []
    for stem in sorted({path.stem for folder in folders for path in folder.glob("*.ipynb")}):
        path, mark = find_metrics(stem, profile=profile)
        if path.with_suffix(".ipynb").exists():
            shown.append((path.with_suffix(".ipynb"), mark))
    return shown


def write_notebooks(sources: Path, *, profile: str) -> dict[str, str]:
    """Write copies of the profile's executed notebooks and their main figures; returns the cards by notebook.

    Raises TacitError where the profile has no outputs, or where metrics or a main figure are missing or malformed.
    """
    notebooks = find_executed(profile)
    if not notebooks:
        raise TacitError(
            f"outputs/{profile} has no executed notebooks: run `python -m tacit run --profile {profile}` first"
        )
    for name in ("notebooks", "figures"):
        (sources / name).mkdir(parents=True, exist_ok=True)
    cards = {}
    for path, mark in notebooks:
        record, folder = read_metrics(path.with_suffix(".json")), path.parent
        prepared = prepare_notebook(read_notebook(path), stem=path.stem, record=record)
        nbformat.write(prepared, sources / "notebooks" / path.name)
        alt, name = f"{record['finding']}: figure", main_figure(record)
        if name:
            if not (folder / name).is_file():
                raise TacitError(
                    f"outputs/{folder.name}/{name} is missing, which {path.stem}.json names: run the notebook again"
                )
            shutil.copy(folder / name, sources / "figures" / name)
            drawn = (cell for cell in prepared.cells if cell.cell_type == "code" and name in cell.source)
            alt = next((cell.metadata["mystnb"]["image"]["alt"] for cell in drawn), alt)
        cards[path.stem] = card(path.stem, record, alt=alt, mark=mark)
    return cards


def write_front(sources: Path, *, profile: str, cards: Mapping[str, str]) -> None:
    """Write the front page: README.md up to its first section, the cards, and the table of contents of the whole site.

    README's figure and its caption are left out: the cards have the figures.
    """
    opening = (paths.ROOT / "README.md").read_text("utf-8").split("\n## ")[0]
    paragraphs = re.split(r"\n\s*\n", opening)
    about = "Each card is what a notebook measured, by the rule it states; intervals are 95%."
    if any(f"{MICRO}\n" in shown for shown in cards.values()):
        about += f" Findings marked{MICRO} are at that smaller size."
    front = [
        *(part for part in paragraphs if not part.startswith(("![", "*Figure"))),
        f"## Findings\n\nProfile {escape(profile)}. {about}",
        ":::::{container} cards\n" + "\n\n".join(cards.values()) + "\n:::::",
        toctree(*(f"notebooks/{stem}" for stem in cards), caption="Notebooks"),
        toctree(*USE, caption="Use"),
        toctree(*REFERENCE, caption="Reference"),
    ]
    (sources / "index.md").write_text("\n\n".join(front) + "\n", "utf-8")


def parameter_table(stem: str) -> str:
    """Markdown table of a notebook's parameters: meaning, type, default, and the value in each profile that has it."""
    declared = notebook_parameters(paths.NOTEBOOKS / f"{stem}.ipynb")
    shown = [name for name in profiles() if (paths.PARAMS / name / f"{stem}.yaml").exists() and name != "smoke"]
    shown.sort(key=lambda name: (name != "micro", name != "full"))  # these first; smoke holds the defaults
    values = {name: read_params(name, stem) for name in shown}
    heads = ["parameter", "meaning", "type", "default", *shown]
    rows = [f"| {' | '.join(map(escape, heads))} |", "|---" * len(heads) + "|"]
    for name, parameter in declared.items():
        annotation = f"`{parameter.annotation}`".replace("|", "\\|")
        own = [code_span(values[profile].get(name)) for profile in shown]
        cells = [f"`{name}`", escape(parameter.meaning), annotation, code_span(parameter.default), *own]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def write_parameters(sources: Path, *, stems: Sequence[str]) -> None:
    """Write a page with the parameter table of each notebook, and the page that lists them."""
    folder = sources / "parameters"
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for stem in stems:
        title = escape(find_title(read_notebook(paths.NOTEBOOKS / f"{stem}.ipynb"), default=stem))
        about = "The defaults make the notebook run in seconds and measure nothing."
        about += " The table scrolls sideways to the other profiles."
        if (sources / "notebooks" / f"{stem}.ipynb").exists():
            about += f" [The executed notebook](../notebooks/{stem}.ipynb)."
        page = [f"# {escape(stem)}", f"*{title}*", about, parameter_table(stem)]
        (folder / f"{stem}.md").write_text("\n\n".join(page) + "\n", "utf-8")
        lines.append(f"- [{escape(stem)}]({stem}.md): {title}")
    about = "What each profile is for: [params/README.md](../params/README.md)."
    page = ["# Parameter tables", about, "\n".join(lines), toctree("../params/README", *stems)]
    (folder / "index.md").write_text("\n\n".join(page) + "\n", "utf-8")


def library_rooms() -> dict[str, list[Path]]:
    """The files of the package's rooms, by the rooms' dotted names; nothing is imported."""
    rooms = sorted(path.parent for path in paths.LIBRARY.glob("*/__init__.py"))
    return {f"{paths.LIBRARY.name}.{room.name}": sorted(room.glob("*.py")) for room in rooms}


def write_api(sources: Path, *, rooms: Mapping[str, Sequence[Path]]) -> None:
    """Write a page of reStructuredText per room, which Sphinx's autodoc fills from the docstrings, and their index."""
    folder = sources / "api"
    folder.mkdir(parents=True, exist_ok=True)
    index = ["API reference", "=============", ""]
    for room, files in rooms.items():
        page = [room, "=" * len(room), ""]
        for file in files:
            own = file.stem == "__init__"
            name = room if own else f"{room}.{file.stem}"
            page += [] if own else ["", file.stem, "-" * len(file.stem), ""]
            page += [f".. automodule:: {name}", "   :members:", "   :member-order: bysource"]
            first = (ast.get_docstring(ast.parse(file.read_text("utf-8"))) or "").split("\n\n")[0]
            index += [f"- :doc:`{room} <{room}>`: {' '.join(first.split())}"] if own else []
        (folder / f"{room}.rst").write_text("\n".join(page) + "\n", "utf-8")
    index += ["", ".. toctree::", "   :hidden:", "", *(f"   {room}" for room in rooms)]
    (folder / "index.rst").write_text("\n".join(index) + "\n", "utf-8")


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
        warnings = Path(work) / "warnings.txt"
        call = [sys.executable, "-m", "sphinx", "-q", "--no-color", "-b", "html", "-c", str(paths.ROOT / "docs")]
        call += ["-d", f"{work}/doctrees", "-w", str(warnings), str(sources), str(out)]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        if done.returncode:
            raise TacitError("Sphinx could not render the site:\n" + "\n".join(done.stderr.splitlines()[-15:]))
        lines = warnings.read_text("utf-8").splitlines()
        return [line.replace(f"{sources}{os.sep}", "") for line in lines if line.strip()]


def require_packages() -> None:
    """Raise TacitError where a package of the extra ``site`` is missing."""
    wanted = ("sphinx", "myst_nb", "furo", "bleach", "markdown_it")
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise TacitError(f"the site needs {', '.join(missing)}: pip install -e '.[site]'")


def put_in_place(built: Path, out: Path, *, earlier: Path) -> None:
    """Move the folder ``built`` to ``out``; what is there goes to ``earlier``, and back if the move fails (OSError)."""
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

    A site that is there already is replaced. Raises TacitError where a package is missing, where ``out`` is a folder
    with something else in it or cannot be written, where the profile has no outputs, and where Sphinx fails. Executes
    no notebook and changes nothing in ``outputs/``.
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
        write_api(sources, rooms=library_rooms())
        write_front(sources, profile=profile, cards=cards)
        for warning in render_pages(sources, built):
            say(f"warning: {warning}")
        try:
            (built / MARK).write_text("Written by `python -m tacit site`, which replaces this folder.\n", "utf-8")
            put_in_place(built, out, earlier=Path(work) / "earlier")
        except OSError as error:
            raise TacitError(f"cannot write the site to {out}: {error}") from None
    return out / "index.html"
