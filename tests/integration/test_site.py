"""The site: what models say stays text, nothing is loaded from elsewhere or executed, the cards are the metrics."""

import base64
import copy
import html
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
import yaml
from markdown_it import MarkdownIt
from tacit.running import metrics, pages, site
from tacit.running.plan import list_shown
from tacit.running.tables import findings_table
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import Demand, conclude
from tacit.support import paths
from tacit.support.errors import TacitError

ROOT = Path(__file__).parents[2]
THEME = "https://github.com/pradyunsg/furo"  # the theme's footer names it on every page
SCRIPT = "<script>window.hacked=1</script>"
IMAGE = '<img src=x onerror="window.hacked=1">'
HOSTILE = f"{SCRIPT} {IMAGE}"
RAW = f"```{{raw}} html\n{SCRIPT}\n```"
ALT = f'"quoted" {HOSTILE}'
DISK = "../" * 20 + "etc/hostname"
LINKS = """Prose that costs $5 a month & $6, $`a & b`$ and $\\text{<img src=x onerror="window.hacked=1">}$.

![Remote](http://evil.example/x.png) ![Rooted](//evil.example/y.png) ![Of the disk]({DISK})
[![Badge](https://evil.example/z.png)](https://arxiv.org/abs/2409.14254) [A file]({DISK})
[Script link](javascript:window.hacked=1) [Words](mailto:a@b.example) [Repository](../Makefile) [Front](../README.md)
[Page](../outputs/micro/09_made.ipynb)

```{image} http://evil.example/i.png
:target: javascript:window.hacked=1
:alt: Directive
```

```{eval-rst}
.. image:: http://evil.example/j.png
   :target: JavaScript:window.hacked=1

.. meta::
   :http-equiv=refresh: 0;url=http://evil.example

.. toctree::

   Listed <javascript://evil.example/%0awindow.hacked=1>

`rst link <JAVASCRIPT:window.hacked=1>`_, `another <data:text/html,hacked>`_, :download:`got <http://evil.example/k>`
```
""".replace("{DISK}", DISK)
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="  # one pixel
SHOWN = f"9. A made-up one {IMAGE}. What it says {HOSTILE}. Scores of arms, as beta grows, {ALT}."  # the figure's alt
TEXTS = [HOSTILE, "a|b `c` *d* _e_ [f](http://g) $x$ {role}`y` \\ 1. # ~ ^", "*** x", "- - x", "<|user|>\n\n&amp; x"]


@pytest.mark.parametrize("text", TEXTS)
def test_escaped_text_reads_as_it_is(text):
    shown = MarkdownIt("commonmark").enable("table").render(pages.escape(text))
    assert "<script" not in shown and "<img" not in shown
    assert html.unescape(shown) == f"<p>{' '.join(text.split())}</p>\n"


@pytest.mark.parametrize("value", ["", "a|b", "``x`", HOSTILE, {"k": [1, 2.5, None]}, 1e-5])
def test_a_parameters_value_stays_whole_in_a_table(value):
    table = f"| a | b |\n|---|---|\n| {pages.code_span(value)} | end |\n"
    shown = MarkdownIt("commonmark").enable("table").render(table)
    cells = re.findall(r"<td>(.*?)</td>", shown)
    code, end = map(html.unescape, cells)
    read = yaml.safe_load(re.fullmatch("<code>(.*)</code>", code)[1])
    assert (read, type(read), end) == (value, type(value), "end")  # what the page shows may stand after `-p`


def test_html_keeps_tables_and_loses_the_rest():
    frame = pd.DataFrame({"said": [HOSTILE]})
    for given in (frame.to_html(escape=True), frame.to_html(escape=False), frame.style.to_html()):
        shown = pages.clean_html(given)
        assert "<td" in shown and "<table" in shown
        assert not re.search(r"<(script|img|style)|<[^>]*(onerror|style=)", shown)
        assert "window.hacked=1" in html.unescape(shown)
    shown = pages.clean_html(f"<p onclick='x' style='y' class='z'>{SCRIPT}</p>")
    assert shown == '<p class="z">&lt;script&gt;window.hacked=1&lt;/script&gt;</p>'


def test_markdown_outputs_make_no_links_scripts_or_directives():
    shown = pages.markdown_html(f"# A\n\n**b** {HOSTILE} [c](javascript:d) ![e](http://f)\n\n{RAW}")
    assert "<h1>A</h1>" in shown and "<strong>b</strong>" in shown
    assert not re.search(r"<(script|img|a)\b", shown)


def make_notebook(mark="executed"):
    """An executed notebook whose cells, outputs and metadata try everything; if its code ran, it would leave a file."""
    v4 = nbformat.v4
    frame = pd.DataFrame({"said": [HOSTILE]})
    display = lambda data: v4.new_output("display_data", data)  # noqa: E731
    outputs = [
        v4.new_output("stream", name="stdout", text=f"stream {HOSTILE}\n"),
        v4.new_output(
            "stream", name="stderr", text=f"\x1b[31mansi {SCRIPT}\x1b[0m \x1b]8;;javascript:x\x07{IMAGE}\x1b]8;;\x07\n"
        ),
        display({"text/html": frame.to_html(), "text/plain": "escaped table"}),
        display({"text/html": frame.to_html(escape=False), "text/plain": "unescaped table"}),
        display({"text/markdown": f"markdown *output* {HOSTILE}\n\n{RAW}", "text/plain": "<Markdown>"}),
        display({"text/plain": f"plain {HOSTILE}"}),
        display({"application/javascript": "window.hacked=1", "text/plain": "a script"}),
        display({pages.WIDGET: {"model_id": "m"}, "text/plain": "a widget"}),
        display({"image/svg+xml": f"<svg>{SCRIPT}</svg>", "text/plain": "a drawing"}),
        display({"image/svg+xml": f"<svg>{SCRIPT}</svg>"}),
        display({"text/latex": f"$x$ {SCRIPT}"}),
        display({"text/latex": f"$x$ {SCRIPT}", "text/plain": f"latex {SCRIPT}"}),
        v4.new_output("error", ename="E", evalue=HOSTILE, traceback=[f"error {HOSTILE}"]),
    ]
    settings = {  # each taken by myst-nb and myst-parser where it is left in the notebook
        "mystnb": {"execution_mode": "force"},
        "myst": {
            "disable_syntax": [],
            "url_schemes": ["javascript", "http"],
            "html_meta": {"http-equiv=refresh": "0;url=http://evil.example"},
        },
    }
    hostile = {"mystnb": {"image": {"alt": "another text", "width": "10px"}}, "myst": {}, "tags": ["scroll-output"]}
    cells = [
        v4.new_markdown_cell(
            "# Finding 9. A made-up one\n\nWith a formula, $\\tfrac12 \\theta_\\text{post}$:\n"
            "$$p(v) < 1$$\nas `one_paragraph`."
        ),
        v4.new_code_cell("n: int = 1  # how many", metadata={"tags": ["parameters"]}, execution_count=1),
        v4.new_markdown_cell(
            f"## What it says {HOSTILE}\nA cell with {HOSTILE} in it.\n\n{RAW}\n\n<div onclick='x'>\n{SCRIPT}\n</div>"
        ),
        v4.new_code_cell(f"open({str(mark)!r}, 'w')", outputs=outputs, metadata=hostile, execution_count=2),
        v4.new_raw_cell(SCRIPT, metadata={"format": "text/html"}),
        v4.new_markdown_cell(LINKS),
        v4.new_markdown_cell(f"Scores of `arms`, as $\\beta$ grows, {ALT}:"),
        v4.new_code_cell("draw('09_made.png')", outputs=[display({"image/png": PIXEL})], execution_count=3),
    ]
    metadata = {
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        **settings,
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
        "manifest": {
            "profile": "micro",
            "commit": "0123456789abcdef",
            "dirty": True,
            "device": "cpu",
            "wall_seconds": 3.4,
        },
    }


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A site of the made-up notebook alone, as ``python -m tacit site`` builds it, with one module in its reference."""
    for name in ("sphinx", "myst_nb", "furo", "bleach"):
        pytest.importorskip(name, reason=f"the site's extra is not installed: {name}")
    root, said = tmp_path_factory.mktemp("site"), []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("NOTEBOOKS", "PARAMS", "OUTPUTS"):
            patch.setattr(paths, name, root / name.lower())
        support = [paths.LIBRARY / "support" / name for name in ("__init__.py", "errors.py")]
        patch.setattr(site, "library_rooms", lambda: {"tacit.support": support})
        for folder in ("notebooks", "outputs/micro", "params/micro"):
            (root / folder).mkdir(parents=True)
        notebook = make_notebook(root / "executed")
        notebook.cells[1].source = f'n: int = 1  # how many "n" {HOSTILE}'
        for folder in ("notebooks", "outputs/micro"):
            nbformat.write(notebook, root / folder / "09_made.ipynb")
        (root / "params/micro/09_made.yaml").write_text("n: 3\n")
        (root / "outputs/micro/09_made.png").write_bytes(base64.b64decode(PIXEL))
        metrics.write_metrics(root / "outputs/micro/09_made.json", make_record())
        before = {path: path.read_bytes() for path in (root / "outputs").rglob("*") if path.is_file()}
        front = site.build_site(profile="micro", out=root / "built", say=said.append)
        assert {path: path.read_bytes() for path in (root / "outputs").rglob("*") if path.is_file()} == before
    assert not (root / "executed").exists()  # the made-up cell's code would have written it, wherever it ran
    assert not [line for line in said if "09_made" not in line], said
    for told in ('"raw" directive disabled', "formula not rendered", "picture not in the site"):
        assert any(told in line for line in said), (told, said)
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
    """Everything that a page loads (``src``, a style sheet's or icon's ``href``, and so on) is a file of the site.

    So is whatever it links to, but for links to the web that a reader may click, such as a paper's (``<a
    href="https:...">``): those that the sources' text ``said`` has, and the theme's name in the footer. Opening a page
    requests nothing from elsewhere.
    """
    pages = sorted(folder.rglob("*.html"))
    assert pages
    for path in pages:
        for tag, attributes in Page(path).tags:
            assert not [name for name in attributes if name.startswith("on")], (path.name, tag, attributes)
            assert attributes.get("http-equiv") is None, (path.name, attributes)
            for name in ("src", "href", "srcset", "poster", "data", "action", "xlink:href"):
                link = attributes.get(name)
                if link is None:
                    continue
                where = urlsplit(link)
                if tag == "a" and where.scheme in ("http", "https"):
                    assert link in (*re.findall(r"https?://[^\s)\"'<>`]+", said), THEME), (
                        f"{path.name} links to {link}, which no source does"
                    )
                    continue
                if tag == "a" and where.scheme == "mailto":
                    continue
                assert not where.scheme and not where.netloc, f"{path.name} loads {link}"
                if where.path:
                    assert (path.parent / unquote(where.path)).resolve().is_file(), f"{path.name} misses {link}"
    for path in folder.rglob("*.css"):
        for link in re.findall(r"url\(\s*['\"]?([^'\")]+)", path.read_text("utf-8")):
            assert link.startswith(("data:", "#")) or not urlsplit(link).netloc, f"{path.name} loads {link}"
        assert not re.search(r"@import\s+(url\()?['\"]?(https?:)?//", path.read_text("utf-8"))


def read_pages():
    """The text of the repository's own pages."""
    return "".join((ROOT / name).read_text("utf-8") for name in ("README.md", *site.PAGES))


def test_no_page_loads_anything_from_elsewhere(tiny):
    check_local(tiny, said=read_pages())


def test_hostile_links_and_pictures_become_their_texts(tiny):
    page = Page(tiny / "notebooks/09_made.html")
    for shown in (
        "Remote",
        "Rooted",
        "Of the disk",
        "Badge",
        "A file",
        "Script link",
        "Directive",
        "rst link",
        "another",
        "got",
    ):
        assert shown in page.text, shown
    links = {attributes.get("href") for tag, attributes in page.tags if tag == "a"}
    assert {"https://arxiv.org/abs/2409.14254", "mailto:a%40b.example", "../index.html", "#"} <= links
    assert not [link for link in links if link and re.search("evil|hostname|Makefile|data:", link)]
    assert not [attributes for tag, attributes in page.tags if "evil.example" in str(attributes)]
    assert not list(tiny.rglob("hostname*")) and not (tiny / "_downloads").exists()


def test_formulas_that_cannot_be_converted_stay_as_latex(tiny):
    page = (tiny / "notebooks/09_made.html").read_text("utf-8")
    assert "<code>5 a month &amp; </code>" in page
    assert "&lt;img src=x onerror=" in page.partition("Prose that costs")[2][:2000]


def test_the_real_site_is_whole_and_loads_nothing_from_elsewhere(tmp_path):
    """The site of the committed outputs: no warnings, every page local, a page and a card per notebook."""
    for name in ("sphinx", "myst_nb", "furo", "bleach"):
        pytest.importorskip(name, reason=f"the site's extra is not installed: {name}")
    said = []
    front = Page(site.build_site(profile="full", out=tmp_path / "site", say=said.append))
    assert said == []
    out, notebooks = tmp_path / "site", [path for path, _ in site.find_executed("full")]
    assert [path.stem for path in notebooks] == list_shown("full")
    cells = [cell.source for path in notebooks for cell in nbformat.read(path, 4).cells]
    code = [path.read_text("utf-8") for path in (ROOT / "lib").rglob("*.py")]
    check_local(out, said="\n".join([read_pages(), *cells, *code]))
    cards = [attributes for _, attributes in front.tags if "card" in (attributes.get("class") or "").split()]
    links = [attributes.get("href") for tag, attributes in front.tags if tag == "a"]
    assert len(cards) == len(notebooks) > 0
    for path in notebooks:
        assert (out / f"notebooks/{path.stem}.html").is_file()
        assert links.count(f"notebooks/{path.stem}.html") >= 3, path.stem  # the sidebar, the card's title, its figure
    for name in site.PAGES:
        assert f"{name.removesuffix('.md')}.html" in links or name == "params/README.md", name
    for path in out.rglob("*.html"):
        assert all(attributes.get("alt", "").strip() for tag, attributes in Page(path).tags if tag == "img"), path
    for name in ("CONTRIBUTING.html", "docs/rerunning.html"):  # their links to other pages of the repository are links
        hrefs = [attributes.get("href") for tag, attributes in Page(out / name).tags if tag == "a"]
        assert hrefs.count("LOG.html" if name == "CONTRIBUTING.html" else "../params/README.html") >= 1
    assert "How it was measured" in Page(out / "docs/speed.html").text
    rooms = {path.parent.name for path in (ROOT / "lib/tacit").glob("*/__init__.py")}
    assert {path.stem for path in (out / "api").glob("*.html")} == {"index", *(f"tacit.{room}" for room in rooms)}
    named = set(re.findall(r"`(tacit(?:\.\w+)+)`", (ROOT / "docs/glossary.md").read_text("utf-8")))
    hrefs = {attributes.get("href", "").partition("#")[2] for _, attributes in Page(out / "docs/glossary.html").tags}
    assert named and {name.replace("_", "-") for name in named} <= {
        href.replace("_", "-").removeprefix("module-") for href in hrefs
    }


def test_what_models_say_is_text(tiny):
    page = Page(tiny / "notebooks/09_made.html")
    sources = [attributes.get("src", "") for tag, attributes in page.tags if tag in ("img", "script", "iframe")]
    assert "x" not in sources
    inline = re.findall(r"<script[^>]*>(.*?)</script>", (tiny / "notebooks/09_made.html").read_text(), re.DOTALL)
    assert not [text for text in inline if "hacked" in text]
    for shown in ("stream", "A cell with", "markdown output", "plain", "error", "What it says", "ansi", "latex"):
        assert re.search(rf"{shown} {re.escape(SCRIPT)}", page.text), shown
    assert page.text.count(SCRIPT) >= 8  # the five above, two tables, and the cell's block of HTML
    for left_out in ("a widget", "<Markdown>", "another text"):
        assert left_out not in page.text
    for kind in ("image/svg+xml", "text/latex"):
        assert page.text.count(f"(an output of kind {kind} is left out)") == 1
    assert f'how many "n" {HOSTILE}' in Page(tiny / "parameters/09_made.html").text
    front = Page(tiny / "index.html").text
    assert f"Nothing runs: {HOSTILE}" in front
    assert f"9. A made-up one {IMAGE}" in front


def test_nothing_was_executed(tiny):
    text = Page(tiny / "notebooks/09_made.html").text
    assert "profile micro" in text and "3 seconds" in text
    assert "commit 0123456789 with changes that were not committed" in text


def test_the_card_has_the_claim_the_verdict_and_both_numbers(tiny):
    front = Page(tiny / "index.html")
    for told in (
        " no Nothing runs: ",
        f"win rate, arm {SCRIPT}",
        "0.500 [0.250, 0.750] here",
        "0.625 Somebody 2024, Table 1",
    ):
        assert told in front.text, told
    pictures = [attributes for tag, attributes in front.tags if tag == "img"]
    assert [attributes["alt"] for attributes in pictures] == [SHOWN]
    assert (tiny / pictures[0]["src"]).read_bytes() == base64.b64decode(PIXEL)


def test_every_figure_has_an_alternative_text(tiny):
    pictures = [a for path in tiny.rglob("*.html") for tag, a in Page(path).tags if tag == "img"]
    assert all(a.get("alt") for a in pictures)
    ours = [a["alt"] for a in pictures if "_images/" in a["src"]]
    assert ours == [SHOWN] * 2  # the card's and the notebook's


def test_parameters_formulas_and_docstrings_are_there(tiny):
    table = Page(tiny / "parameters/09_made.html").text
    assert re.search(r"parameter meaning type default micro n how many .* int 1 3", table)
    assert "Verdict, by the rule: no. Executed: " in Page(tiny / "notebooks/09_made.html").text
    page = (tiny / "notebooks/09_made.html").read_text().partition("Executed")[0]
    assert len(re.findall(r"<math\b", page)) == 2 and len(re.findall(r'<math\b[^>]*display="block"', page)) == 1
    assert "$" not in Page(tiny / "notebooks/09_made.html").text.partition("Executed")[0]
    assert re.search(r"<mfrac[^>]*>\s*<mn>1</mn>\s*<mn>2</mn>\s*</mfrac>", page)
    assert "Something the user can mend" in Page(tiny / "api/tacit.support.html").text
    assert "What every other room stands on" in Page(tiny / "api/index.html").text
    assert "This page says what lies where" in Page(tiny / "ARCHITECTURE.html").text


def test_an_earlier_site_is_replaced_and_another_folder_is_not(tiny, tmp_path, monkeypatch):
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "note.txt").write_text("kept")
    with pytest.raises(TacitError, match="is no site"):
        site.build_site(profile="micro", out=mine)
    assert (mine / "note.txt").read_text() == "kept"
    (mine / ".buildinfo").write_text("# Sphinx build info version 1")
    with pytest.raises(TacitError, match="is no site"):
        site.build_site(profile="micro", out=mine)
    with pytest.raises(TacitError, match="cannot write the site"):
        site.build_site(profile="micro", out=mine / "note.txt" / "site")
    old = tmp_path / "old"
    shutil.copytree(tiny, old)
    monkeypatch.setattr(paths, "OUTPUTS", tmp_path)
    with pytest.raises(TacitError, match="run `python -m tacit run --profile none`"):
        site.build_site(profile="none", out=old)
    assert (old / "index.html").read_bytes() == (tiny / "index.html").read_bytes()
    assert not list(tmp_path.glob(".site-*"))


def test_an_earlier_site_comes_back_where_the_new_one_cannot_be_moved(tmp_path):
    out, built, earlier = tmp_path / "out", tmp_path / "built", tmp_path / "earlier"
    for folder, text in ((out, "old"), (built, "new")):
        folder.mkdir()
        (folder / "index.html").write_text(text)
    with pytest.raises(FileNotFoundError):
        site.put_in_place(tmp_path / "missing", out, earlier=earlier)
    assert (out / "index.html").read_text() == "old" and not earlier.exists()
    site.put_in_place(built, out, earlier=earlier)
    assert (out / "index.html").read_text() == "new" and (earlier / "index.html").read_text() == "old"


def test_missing_packages_are_named(tmp_path, monkeypatch):
    found = site.importlib.util.find_spec
    monkeypatch.setattr(site.importlib.util, "find_spec", lambda name: None if name == "furo" else found(name))
    with pytest.raises(TacitError, match=r"the site needs .*furo.*pip install -e '.\[site\]'"):
        site.build_site(profile="micro", out=tmp_path / "site")
    assert not list(tmp_path.iterdir())


def find_browser():
    return next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def probe_in_browser(page, folder, value, *flags, width=0):
    """What the script ``value`` is on the page after its scripts, pictures and their errors, in a headless Chromium.

    With ``width`` the page stands in a frame of so many pixels: Chromium's own window is never narrower than 500.
    """
    tell = f"setTimeout(() => top.postMessage(String({value}), '*'), 300)"
    hear = "addEventListener('message', told => document.documentElement.setAttribute('data-told', told.data));"
    probed, frame = page.with_name(f"probed-{page.name}"), page.with_name(f"frame-{page.name}")
    script = f"<script>{'' if width else hear} addEventListener('load', () => {tell})</script>"
    probed.write_text(page.read_text("utf-8").replace("</body>", script + "</body>"), "utf-8")
    frame.write_text(
        f"<!doctype html><html><script>{hear}</script>"
        f"<iframe src='{probed.name}' width={width} height=800 frameborder=0>"
    )
    call = [find_browser(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", *flags]
    call += [f"--user-data-dir={folder}", "--virtual-time-budget=5000", "--dump-dom"]
    opened = frame if width else probed
    done = subprocess.run([*call, opened.resolve().as_uri()], capture_output=True, text=True, timeout=120, check=False)
    probed.unlink()
    frame.unlink()
    return re.search(r'<html[^>]*data-told="([^"]*)"', done.stdout).group(1)


NO_BROWSER = pytest.mark.skipif(find_browser() is None, reason="no Chromium here: Debian's package is `chromium`")


@NO_BROWSER
def test_nothing_runs_in_a_browser(tiny, tmp_path):
    for number, payload in enumerate((SCRIPT, IMAGE)):
        bad = tmp_path / f"bad-{number}.html"
        bad.write_text(f"<html><body>{payload}</body></html>")
        assert probe_in_browser(bad, tmp_path / "browser", "window.hacked") == "1"  # unescaped, both do run
    for name in ("notebooks/09_made.html", "index.html", "parameters/09_made.html"):
        assert probe_in_browser(tiny / name, tmp_path / "browser", "window.hacked") == "undefined", name


@NO_BROWSER
def test_pages_fit_a_phone(tiny, tmp_path):
    # Furo's content may scroll by itself.
    parts = "[document.documentElement, ...document.querySelectorAll('.content, article')]"
    value = f"[innerWidth, Math.max(...{parts}.map(part => part.scrollWidth))]"
    wide = tmp_path / "wide.html"
    wide.write_text("<!doctype html><html><body><div style='width: 600px'>wide</div></body></html>")
    width, needed = probe_in_browser(wide, tmp_path / "browser", value, width=375).split(",")
    assert width == "375" and int(needed) >= 600  # a page that is too wide is seen
    for name in ("index.html", "notebooks/09_made.html", "parameters/09_made.html"):
        width, needed = probe_in_browser(tiny / name, tmp_path / "browser", value, width=375).split(",")
        assert width == "375" and int(needed) <= 376, name


def luminance(colour):
    """The relative luminance of a colour such as ``rgb(19, 20, 22)``, from 0 to 1 (WCAG's weights, no gamma)."""
    red, green, blue = map(int, re.findall(r"\d+", colour)[:3])
    return (0.2126 * red + 0.7152 * green + 0.0722 * blue) / 255


@NO_BROWSER
def test_dark_mode_follows_the_system_and_the_switch(tiny, tmp_path):
    """The body and the ground of a stream's text are dark or light together, by the system or by Furo's switch."""
    ground = "getComputedStyle(document.body).backgroundColor"
    stream = "getComputedStyle(document.querySelector('.cell_output .stderr')).backgroundColor"
    for flags in ((), ("--force-dark-mode",)):
        for switched in ("auto", "light", "dark"):
            value = f"(document.body.dataset.theme = '{switched}', {ground} + ';' + {stream})"
            told = probe_in_browser(tiny / "notebooks/09_made.html", tmp_path / "browser", value, *flags)
            dark = switched == "dark" or (switched == "auto" and bool(flags))
            assert [luminance(colour) < 0.35 for colour in told.split(";")] == [dark, dark], (flags, switched, told)
    assert luminance(probe_in_browser(tiny / "index.html", tmp_path / "browser", ground, "--force-dark-mode")) < 0.2


def test_the_notebook_given_is_not_changed():
    notebook = make_notebook()
    before = copy.deepcopy(notebook)
    made = pages.prepare_notebook(notebook, stem="09_made", record=make_record())
    assert notebook == before
    assert set(made.metadata) == {"kernelspec", "language_info"}
    assert {name for cell in made.cells for name in cell.metadata} == {"tags", "mystnb"}
    assert {name for cell in made.cells for name in cell.metadata.get("mystnb", {})} == {"image"}
    nbformat.validate(made)


def test_notebooks_without_a_heading_are_named_by_their_file(tmp_path):
    v4 = nbformat.v4
    for cells in ([], [v4.new_markdown_cell("")], [v4.new_code_cell("# no heading"), v4.new_markdown_cell("prose")]):
        assert pages.find_title(v4.new_notebook(cells=cells), default="09_made") == "09_made"
    late = v4.new_notebook(cells=[v4.new_markdown_cell(""), v4.new_markdown_cell("\n# Late\n")])
    assert pages.find_title(late, default="09_made") == "Late"


@pytest.mark.parametrize("name", ["../09_made.png", "/etc/hostname", "a/b.png"])
def test_figures_outside_the_outputs_are_refused(name):
    with pytest.raises(TacitError, match="is no name of a figure"):
        pages.card("09_made", make_record() | {"figures": [name]}, alt="x")


def test_a_card_says_why_it_has_no_number_of_the_paper():
    other = {"arm": "another", "metric": "win rate", "value": 0.5, "source": "Somebody"}
    papers = {
        "no value of a paper": [],
        "the paper gives no value of this metric": [other | {"metric": "strict"}],
        "the paper gives this metric of other arms only": [other],
    }
    for told, paper in papers.items():
        shown = pages.card("09_made", make_record() | {"paper": paper}, alt="x")
        assert f"- {told}\n" in shown and [text for text in papers if f"- {text}\n" in shown] == [told]


def test_a_card_shows_the_papers_values_of_another_metric_and_the_parts_that_were_not_met():
    paper = [
        {"arm": "A", "metric": "WildBench", "value": 0.5, "source": "Somebody"},
        {"arm": "B", "metric": "WildBench", "value": 0.25, "source": "Somebody"},
        {"arm": "B", "metric": "MT-Bench", "value": 0.75, "source": "Somebody"},
    ]
    named = {"paper": paper, "beside": {"metric": "WildBench", "arms": ["B"]}}
    named["parts"] = {"more wins": True, "order <kept>": False}
    shown = pages.card("09_made", make_record() | named, alt="x")
    assert [line for line in shown.splitlines() if "Somebody" in line] == ["- WildBench\\, B\\: **0.250** Somebody"]
    assert "- not met: order \\<kept\\> (1 of 2 parts of the rule)" in shown
    assert "not met" not in pages.card("09_made", make_record() | {"parts": {"more wins": True}}, alt="x")
    assert "not met" not in pages.card("09_made", make_record(), alt="x")


def test_the_front_page_leaves_out_the_picture_and_its_caption(tmp_path, monkeypatch):
    text = "# T\n\nFirst.\n\n![Alt](a.png)\n\n*Figure: a caption.*\n\nLast, *Figure* of speech.\n\n## Section\n\nNo."
    (tmp_path / "README.md").write_text(text)
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    site.write_front(tmp_path, profile="micro", cards={})
    opening = (tmp_path / "index.md").read_text().partition("## Findings")[0]
    assert opening.strip().split("\n\n") == ["# T", "First.", "Last, *Figure* of speech."]


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


def test_full_shows_micros_notebook_where_it_has_no_parameters(tmp_path, monkeypatch):
    for name in ("PARAMS", "OUTPUTS"):
        monkeypatch.setattr(paths, name, tmp_path / name.lower())
    for stem, profiles in {
        "01_both": ("micro", "full"),
        "02_no_parameters": ("micro", "full"),
        "03_not_run": ("micro",),
        "04_full_alone": ("full",),
        "05_stray": ("full",),
    }.items():
        for profile in profiles:
            path = tmp_path / f"outputs/{profile}/{stem}.ipynb"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (tmp_path / "params/full").mkdir(parents=True)
    for stem in ("01_both", "03_not_run", "04_full_alone"):
        (tmp_path / f"params/full/{stem}.yaml").touch()
    shown = [(path.relative_to(tmp_path / "outputs").as_posix(), mark) for path, mark in site.find_executed("full")]
    assert shown == [
        ("full/01_both.ipynb", ""),
        ("micro/02_no_parameters.ipynb", " (micro)"),
        ("full/04_full_alone.ipynb", ""),
    ]
    micro = ["01_both", "02_no_parameters", "03_not_run"]
    assert [(path.stem, mark) for path, mark in site.find_executed("micro")] == [(stem, "") for stem in micro]
    assert site.find_executed("other") == []


def make_ruled(threshold, *, control=0.0):
    """A record with a rule, on the result 0.5 [0.25, 0.75], which its control reads too."""
    estimate = Estimate(0.5, 0.25, 0.75, 1, 8)
    rule, controls = Demand("a", "m", estimate, threshold), Demand("right", "m", estimate, control)
    record = {key: value for key, value in make_record().items() if key != "claim_holds"}
    answer = {"found": f"It *is* `so` [here](x.md), {SCRIPT}.", "reason": "R", "caveat": "C"}
    results = [demand.as_result() for demand in (rule, controls)]
    return record | conclude([rule], [controls]) | {"answer": answer, "results": results, "paper": []}


@pytest.mark.parametrize(
    ("record", "verdict", "style", "asked", "missed"),
    [
        (make_ruled(0.125), "holds", "holds", "above 0.125", ""),
        (make_ruled(0.5), "undecided", "open", "above 0.5", "m, a: above 0.5 (1 of 2 parts of the rule)"),
        (make_ruled(0.875), "refuted", "fails", "above 0.875", "m, a: above 0.875 (1 of 2 parts of the rule)"),
        (make_ruled(0, control=0.5), "instrument fails", "open", "above 0.5", "m, right: above 0.5 (1 of 2 parts"),
    ],
)
def test_a_card_of_each_verdict_has_its_style_what_was_found_and_what_was_asked(record, verdict, style, asked, missed):
    made = pages.card("09_made", record, alt="x", mark=" (micro)")
    assert f":::{{container}} verdict {style}\n{verdict} (micro)\n:::" in made
    css = (ROOT / "docs/static/site.css").read_text("utf-8")
    assert css.count(f".verdict.{style} {{ color: #") == 3  # light, dark by the switch, dark by the system
    shown = html.unescape(re.sub(r"<[^>]*>", "", MarkdownIt("commonmark").render(made)))
    assert f"It is so here, {SCRIPT}." in shown
    assert f"0.500 [0.250, 0.750] here; asked: {asked}" in shown
    assert (f"not met: {missed}" in shown) == ("not met" in shown) == bool(missed)


@pytest.mark.parametrize("profile", ["micro", "full"])
def test_the_cards_of_the_committed_outputs_say_what_the_table_says(tmp_path, profile):
    pytest.importorskip("bleach", reason="the site's extra is not installed")
    cards = site.write_notebooks(tmp_path, profile=profile)
    executed = {path.stem: path for path, _ in site.find_executed(profile)}
    stems = list_shown(profile)
    assert list(cards) == stems
    for stem, row in zip(stems, findings_table(stems, profile=profile).splitlines()[2:], strict=True):
        if "| no result yet |" in row:
            continue
        shown = html.unescape(re.sub(r"<[^>]*>", "", MarkdownIt("commonmark").render(cards[stem])))
        finding, verdict, _, main, paper = (part.strip() for part in re.split(r"(?<!\\)\|", row.strip("|")))
        assert finding in shown
        assert re.search(rf"^{re.escape(verdict)}$", shown, re.MULTILINE)
        number, semicolon, asked = main.partition("; asked: ")
        name, interval = number.rsplit(": ", 1)
        assert f"{interval} here{semicolon}{asked}" in shown and name in shown
        values = re.findall(r"\d\.\d{3}", paper)
        known = metrics.paper_beside(metrics.read_metrics(executed[stem].with_suffix(".json")))
        assert values == [f"{row['value']:.3f}" for row in known]
        assert all(f"{value} {row['source']}" in shown for value, row in zip(values, known, strict=True))
        copied = nbformat.read(tmp_path / "notebooks" / f"{stem}.ipynb", as_version=4)
        for cell in copied.cells:
            if any("image/png" in output.get("data", {}) for output in cell.get("outputs", [])):
                assert len(cell.metadata["mystnb"]["image"]["alt"]) > 25, cell.source
