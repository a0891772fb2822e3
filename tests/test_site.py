"""The site: what models say stays text, nothing is loaded from elsewhere, nothing is executed, the cards are the metrics."""

import base64
import copy
import html
import json
import re
import runpy
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree

import nbformat
import pandas as pd
import pytest
from markdown_it import MarkdownIt
from tacit import paths, runner, site
from tacit.errors import TacitError
from tacit.metrics import write_metrics

ROOT = Path(__file__).parents[1]
THEME = "https://github.com/pradyunsg/furo"  # the theme's footer names it on every page
SCRIPT = "<script>window.hacked=1</script>"
IMAGE = '<img src=x onerror="window.hacked=1">'
HOSTILE = f"{SCRIPT} {IMAGE}"
RAW = f"```{{raw}} html\n{SCRIPT}\n```"
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # one pixel
TEXTS = [HOSTILE, "a|b `c` *d* _e_ [f](http://g) $x$ {role}`y` \\ 1. # ~ ^", "*** x", "- - x", "<|user|>\n\n&amp; x"]


@pytest.mark.parametrize("text", TEXTS)
def test_escaped_text_reads_as_it_is(text):
    shown = MarkdownIt("commonmark").enable("table").render(site.escape(text))
    assert "<script" not in shown and "<img" not in shown
    assert html.unescape(shown) == f"<p>{' '.join(text.split())}</p>\n"


@pytest.mark.parametrize("value", ["", "a|b", "``x`", HOSTILE, {"k": [1, 2.5, None]}, 1e-5])
def test_a_parameters_value_stays_whole_in_a_table(value):
    table = f"| a | b |\n|---|---|\n| {site.code_span(value)} | end |\n"
    shown = MarkdownIt("commonmark").enable("table").render(table)
    cells = re.findall(r"<td>(.*?)</td>", shown)
    assert [html.unescape(cell) for cell in cells] == [f"<code>{json.dumps(value)}</code>", "end"]


def test_html_keeps_tables_and_loses_the_rest():
    frame = pd.DataFrame({"said": [HOSTILE]})
    for given in (frame.to_html(escape=True), frame.to_html(escape=False), frame.style.to_html()):
        shown = site.clean_html(given)
        assert "<td" in shown and "<table" in shown
        assert not re.search(r"<(script|img|style)|<[^>]*(onerror|style=)", shown)
        assert "window.hacked=1" in html.unescape(shown)
    shown = site.clean_html(f"<p onclick='x' style='y' class='z'>{SCRIPT}</p>")
    assert shown == '<p class="z">&lt;script&gt;window.hacked=1&lt;/script&gt;</p>'


def test_markdown_outputs_make_no_links_scripts_or_directives():
    shown = site.markdown_html(f"# A\n\n**b** {HOSTILE} [c](javascript:d) ![e](http://f)\n\n{RAW}")
    assert "<h1>A</h1>" in shown and "<strong>b</strong>" in shown
    assert not re.search(r"<(script|img|a)\b", shown)


def make_notebook():
    """A made-up executed notebook whose outputs try everything; its code would fail and leave a file if it ran."""
    v4 = nbformat.v4
    frame = pd.DataFrame({"said": [HOSTILE]})
    display = lambda data: v4.new_output("display_data", data)  # noqa: E731
    outputs = [
        v4.new_output("stream", name="stdout", text=f"stream {HOSTILE}\n"),
        display({"text/html": frame.to_html(), "text/plain": "escaped table"}),
        display({"text/html": frame.to_html(escape=False), "text/plain": "unescaped table"}),
        display({"text/markdown": f"markdown *output* {HOSTILE}\n\n{RAW}", "text/plain": "<Markdown>"}),
        display({"text/plain": f"plain {HOSTILE}"}),
        display({"application/javascript": "window.hacked=1", "text/plain": "a script"}),
        display({site.WIDGET: {"model_id": "m"}, "text/plain": "a widget"}),
        display({"image/svg+xml": f"<svg>{SCRIPT}</svg>", "text/plain": "a drawing"}),
        v4.new_output("error", ename="E", evalue=HOSTILE, traceback=[f"error {HOSTILE}"]),
    ]
    cells = [
        v4.new_markdown_cell(
            "# Finding 9. A made-up one\n\nWith a formula, $\\tfrac12 \\theta_\\text{post}$:\n$$p(v) < 1$$\nas `one_paragraph`."
        ),
        v4.new_code_cell("n: int = 1  # how many", metadata={"tags": ["parameters"]}, execution_count=1),
        v4.new_markdown_cell(
            f"## What it says\n\nA cell with {HOSTILE} in it.\n\n{RAW}\n\n<div onclick='x'>\n{SCRIPT}\n</div>"
        ),
        v4.new_code_cell("open('executed', 'w'); 1 / 0", outputs=outputs, execution_count=2),
        v4.new_raw_cell(SCRIPT, metadata={"format": "text/html"}),
        v4.new_markdown_cell("Scores of `arms`, as $\\beta$ grows."),
        v4.new_code_cell("draw('09_made.png')", outputs=[display({"image/png": PIXEL})], execution_count=3),
    ]
    metadata = {
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        "widgets": {"application/vnd.jupyter.widget-state+json": {"state": {"m": {}}, "version_major": 2}},
    }
    return v4.new_notebook(cells=cells, metadata=metadata)


def make_record():
    row = {"arm": f"arm {SCRIPT}", "metric": "win rate", "value": 0.5, "low": 0.25, "high": 0.75, "n_seeds": 1}
    headline = {"arm": row["arm"], "metric": "win rate"}
    return {
        "finding": f"9. A made-up one {IMAGE}",
        "claim": f"Nothing runs: {HOSTILE}",
        "claim_holds": False,
        "headline": headline,
        "results": [row | {"n_prompts": 8}],
        "paper": [headline | {"value": 0.625, "source": "Somebody 2024, Table 1"}],
        "figures": ["09_made.png"],
        "manifest": {"profile": "micro", "commit": "0123456789abcdef", "device": "cpu", "wall_seconds": 3.4},
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A site of the made-up notebook alone, built as ``python -m tacit site`` builds it, with one module in its reference."""
    for name in ("sphinx", "myst_nb", "furo", "bleach"):
        pytest.importorskip(name, reason=f"the site's extra is not installed: {name}")
    root, said = tmp_path_factory.mktemp("site"), []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NOTEBOOKS", "PARAMS", "OUTPUTS"):
            patch.setattr(paths, name, root / name.lower())
        patch.setattr(site, "library_modules", lambda: {"tacit.errors": "The one exception."})
        for folder in ("notebooks", "outputs/micro", "params/micro"):
            (root / folder).mkdir(parents=True)
        notebook = make_notebook()
        for folder in ("notebooks", "outputs/micro"):
            nbformat.write(notebook, root / folder / "09_made.ipynb")
        (root / "params/micro/09_made.yaml").write_text("n: 3\n")
        (root / "outputs/micro/09_made.png").write_bytes(base64.b64decode(PIXEL))
        write_metrics(root / "outputs/micro/09_made.json", make_record())
        before = {path: path.read_bytes() for path in (root / "outputs").rglob("*") if path.is_file()}
        front = site.build_site(profile="micro", out=root / "built", say=said.append)
        assert {path: path.read_bytes() for path in (root / "outputs").rglob("*") if path.is_file()} == before
    assert len(said) == 1 and '"raw" directive disabled' in said[0]  # of the made-up Markdown cell
    assert not list(root.rglob("executed")) and not Path("executed").exists()
    return front.parent


class Page(HTMLParser):
    """A page's tags with their attributes, and its text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.parts = [], []
        self.feed(path.read_text("utf-8"))
        self.text = " ".join("".join(self.parts).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.parts.append(data)


def check_local(folder, *, said):
    """Everything that a page loads is a file of the site.

    So is whatever it links to, but for links to the web that a reader may click: those that the sources' text ``said`` has, and
    the theme's name in the footer.
    """
    pages = sorted(folder.rglob("*.html"))
    assert pages
    for path in pages:
        for tag, attributes in Page(path).tags:
            assert not [name for name in attributes if name.startswith("on")], (path.name, tag, attributes)
            for name in ("src", "href", "srcset", "poster", "data", "action", "xlink:href"):
                link = attributes.get(name)
                if link is None or (tag, name) == ("form", "data"):
                    continue
                where = urlsplit(link)
                if tag == "a" and where.scheme in ("http", "https"):
                    assert link in (*re.findall(r"https?://[^\s)\"'<>`]+", said), THEME), (
                        f"{path.name} links to {link}, which no source does"
                    )
                    continue
                assert not where.scheme and not where.netloc, f"{path.name} loads {link}"
                if where.path:
                    assert (path.parent / unquote(where.path)).resolve().is_file(), f"{path.name} misses {link}"
    for path in folder.rglob("*.css"):
        for link in re.findall(r"url\(\s*['\"]?([^'\")]+)", path.read_text("utf-8")):
            assert link.startswith(("data:", "#")) or not urlsplit(link).netloc, f"{path.name} loads {link}"
        assert not re.search(r"@import\s+(url\()?['\"]?(https?:)?//", path.read_text("utf-8"))


def test_no_page_loads_anything_from_elsewhere(tiny):
    check_local(tiny, said="".join((ROOT / name).read_text() for name in ("README.md", *site.PAGES)))


def test_what_models_say_is_text(tiny):
    page = Page(tiny / "notebooks/09_made.html")
    sources = [attributes.get("src", "") for tag, attributes in page.tags if tag in ("img", "script", "iframe")]
    assert "x" not in sources
    inline = re.findall(r"<script[^>]*>(.*?)</script>", (tiny / "notebooks/09_made.html").read_text(), re.DOTALL)
    assert not [text for text in inline if "hacked" in text]
    for shown in ("stream", "A cell with", "markdown output", "plain", "error"):
        assert re.search(rf"{shown} {re.escape(SCRIPT)}", page.text), shown
    assert page.text.count(SCRIPT) >= 8  # the five above, two tables, and the cell's block of HTML
    for left_out in ("a widget", "<Markdown>"):
        assert left_out not in page.text
    front = Page(tiny / "index.html").text
    assert f"Nothing runs: {HOSTILE}" in front
    assert f"9. A made-up one {IMAGE}" in front


def test_nothing_was_executed(tiny):
    text = Page(tiny / "notebooks/09_made.html").text
    assert "executed" in text and "ZeroDivisionError" not in text
    assert "profile micro" in text and "0123456789" in text and "3 seconds" in text


def test_the_card_has_the_claim_the_verdict_and_both_numbers(tiny):
    front = Page(tiny / "index.html")
    for told in (
        "does not hold",
        f"win rate, arm {SCRIPT}",
        "0.500 [0.250, 0.750] here",
        "0.625 Somebody 2024, Table 1",
    ):
        assert told in front.text, told
    pictures = [attributes for tag, attributes in front.tags if tag == "img"]
    assert [attributes["alt"] for attributes in pictures] == ["What it says: Scores of arms, as beta grows."]
    assert (tiny / pictures[0]["src"]).read_bytes() == base64.b64decode(PIXEL)


def test_every_figure_has_an_alternative_text(tiny):
    pictures = [a for path in tiny.rglob("*.html") for tag, a in Page(path).tags if tag == "img"]
    assert all(a.get("alt") for a in pictures)
    ours = [a["alt"] for a in pictures if "_images/" in a["src"]]
    assert ours == ["What it says: Scores of arms, as beta grows."] * 2  # the card's and the notebook's


def test_parameters_formulas_and_docstrings_are_there(tiny):
    table = Page(tiny / "parameters/09_made.html").text
    assert re.search(r"parameter meaning type default micro n how many int 1 3", table)
    page = (tiny / "notebooks/09_made.html").read_text()
    assert len(re.findall(r"<math\b", page)) == 3 and len(re.findall(r'<math\b[^>]*display="block"', page)) == 1
    assert "$" not in Page(tiny / "notebooks/09_made.html").text.partition("Executed")[0]
    assert re.search(r"<mfrac[^>]*>\s*<mn>1</mn>\s*<mn>2</mn>\s*</mfrac>", page)
    assert "Something the user can mend" in Page(tiny / "api/tacit.errors.html").text
    assert "Nothing is measured yet" in Page(tiny / "speed.html").text
    assert "One page. Data flows down" in Page(tiny / "ARCHITECTURE.html").text


def test_an_earlier_site_is_replaced_and_another_folder_is_not(tiny, tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "note.txt").write_text("kept")
    with pytest.raises(TacitError, match="is no site"):
        site.build_site(profile="micro", out=mine)
    assert (mine / "note.txt").read_text() == "kept"
    old = tmp_path / "old"
    shutil.copytree(tiny, old)
    monkeypatch.setattr(paths, "OUTPUTS", tmp_path)
    with pytest.raises(TacitError, match="run `python -m tacit run --profile none`"):
        site.build_site(profile="none", out=old)
    assert (old / "index.html").read_bytes() == (tiny / "index.html").read_bytes()
    assert not list(tmp_path.glob(".site-*"))


def test_missing_packages_are_named(tmp_path, monkeypatch):
    found = site.importlib.util.find_spec
    monkeypatch.setattr(site.importlib.util, "find_spec", lambda name: None if name == "furo" else found(name))
    with pytest.raises(TacitError, match=r"the site needs .*furo.*pip install 'tacit\[site\]'"):
        site.build_site(profile="micro", out=tmp_path / "site")
    assert not list(tmp_path.iterdir())


def find_browser():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def hacked_in_browser(page, folder):
    """What ``window.hacked`` is after the page's scripts, pictures and their errors, in a headless Chromium."""
    probe = "<script>addEventListener('load', () => setTimeout(() => document.documentElement.setAttribute('data-hacked', window.hacked), 300))</script>"
    probed = page.with_name(f"probed-{page.name}")
    probed.write_text(page.read_text("utf-8").replace("</body>", probe + "</body>"), "utf-8")
    call = [find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    call += [f"--user-data-dir={folder}", "--virtual-time-budget=5000", "--dump-dom", probed.resolve().as_uri()]
    done = subprocess.run(call, capture_output=True, text=True, timeout=120, check=False)
    probed.unlink()
    return re.search(r'<html[^>]*data-hacked="(\w+)"', done.stdout).group(1)


@pytest.mark.skipif(find_browser() is None, reason="no Chromium here: Debian's package is `chromium`")
def test_nothing_runs_in_a_browser(tiny, tmp_path):
    for number, payload in enumerate((SCRIPT, IMAGE)):
        bad = tmp_path / f"bad-{number}.html"
        bad.write_text(f"<html><body>{payload}</body></html>")
        assert hacked_in_browser(bad, tmp_path / "browser") == "1"  # unescaped, both do run
    for name in ("notebooks/09_made.html", "index.html"):
        assert hacked_in_browser(tiny / name, tmp_path / "browser") == "undefined", name


def test_the_notebook_given_is_not_changed():
    notebook = make_notebook()
    before = copy.deepcopy(notebook)
    made = site.prepare_notebook(notebook, stem="09_made", record=make_record())
    assert notebook == before
    assert "widgets" not in made.metadata
    nbformat.validate(made)


def test_all_formulas_of_the_notebooks_become_mathml():
    pytest.importorskip("sphinx", reason="the site's extra is not installed")
    render = runpy.run_path(str(ROOT / "docs/conf.py"))["render_math"]
    texts = [
        cell.source
        for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
        for cell in nbformat.read(path, 4).cells
        if cell.cell_type == "markdown"
    ]
    formulas = [found for text in texts for found in re.findall(r"\$\$(.+?)\$\$|\$([^$]+)\$", text, re.DOTALL)]
    assert len(formulas) > 50
    for block, inline in formulas:
        shown = render(block or inline, block=bool(block))
        tree = ElementTree.fromstring(shown.replace("&ApplyFunction;", ""))
        assert tree.tag == "{http://www.w3.org/1998/Math/MathML}math" and len(tree)
        assert tree.get("display") == ("block" if block else None)
        assert "\\" not in shown, block or inline
    half = ElementTree.fromstring(render(r"\tfrac12 x"))
    assert [part.text for part in half[0]] == ["1", "2"]


def test_the_cards_of_the_committed_outputs_say_what_the_table_says(tmp_path):
    pytest.importorskip("bleach", reason="the site's extra is not installed")
    cards = site.write_notebooks(tmp_path, profile="micro")
    stems = [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    assert list(cards) == stems
    for stem, row in zip(stems, runner.table(stems, profile="micro").splitlines()[2:], strict=True):
        shown = html.unescape(re.sub(r"<[^>]*>", "", MarkdownIt("commonmark").render(cards[stem])))
        finding, holds, main, paper = (part.strip() for part in row.strip("|").split("|"))
        assert finding in shown
        assert re.search(r"^holds$" if holds == "yes" else r"^does not hold$", shown, re.MULTILINE)
        assert main.rsplit(": ", 1)[1] + " here" in shown and main.rsplit(": ", 1)[0] in shown
        for value, source in re.findall(r"(\d\.\d+) \((.*?)\)", paper):
            assert f"{value} {source}" in shown
        copied = nbformat.read(tmp_path / "notebooks" / f"{stem}.ipynb", as_version=4)
        for cell in copied.cells:
            if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
                assert len(cell.metadata["mystnb"]["image"]["alt"]) > 25, cell.source
