"""How Sphinx renders the site: `python -m tacit site` writes the page sources and calls it."""

import posixpath
import re
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx import addnodes
from sphinx.util import logging

ROOT = Path(__file__).resolve().parents[1]

project = "Tacit"
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc"]
smartquotes = False
highlight_language = "none"  # of blocks that name none; notebooks name theirs

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_dmath_double_inline = True  # notebooks have displayed formulas within paragraphs
myst_disable_syntax = ["html_block", "html_inline"]  # a page's own HTML is text: the sources need none
myst_heading_anchors = 3

autodoc_typehints_format = "short"
autodoc_default_options = {"exclude-members": "model_config"}  # pydantic's own, the same in every model

html_theme = "furo"
html_title = "Tacit"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
html_use_index = False  # a search is there, and the index is too wide for a phone
html_domain_indices = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#00588a", "color-brand-content": "#00588a"},
    "dark_css_variables": {"color-brand-primary": "#6cc0f5", "color-brand-content": "#6cc0f5"},
}


def render_math(tex, *, block=False):
    r"""LaTeX as MathML, which browsers show without a script or a font from elsewhere (docutils' converter).

    It takes the digits of ``\tfrac12`` for one number, so they get braces first, and sets ``\log p`` without a space.
    It knows ``\ldots`` and not ``\dots``.
    """
    tex = re.sub(r"\\dots(?![a-zA-Z])", r"\\ldots", tex)
    tex = re.sub(r"(\\log)\s+(?=[a-zA-Z])", r"\1\\,", tex)
    return tex2mathml(re.sub(r"(\\[dt]?frac)\s*(\d)\s*(\d)", r"\1{\2}{\3}", tex), as_block=block)


def visit_math(translator, node):
    """Write a formula; one that cannot be converted stays as its LaTeX source, with a warning."""
    block = isinstance(node, nodes.math_block)
    try:
        text = render_math(node.astext(), block=block)
    except Exception as error:  # beside its MathError the converter raises others: AttributeError on `$5 & $`
        logging.getLogger(__name__).warning("formula not rendered: %s", error, location=node)
        text = f"<code>{translator.encode(node.astext())}</code>"
    translator.body.append(f'<div class="math">{text}</div>\n' if block else text)
    raise nodes.SkipNode


def read_tables(app, what, name, thing, options, lines):
    """Turn the Markdown tables of a docstring (lines from autodoc, changed in place) into Sphinx's list tables."""
    read, inside = [], False
    for line in lines:
        if line.startswith("| "):
            first, *rest = (cell.strip() for cell in line.strip("| ").split(" | "))
            read += [] if inside else [".. list-table::", "   :header-rows: 1", ""]
            read += [f"   * - {first}", *(f"     - {cell}" for cell in rest)]
        elif not line.startswith("|---"):
            read.append(line)
        inside = line.startswith("|")
    lines[:] = read


def resolve_links(app, doctree):
    """Make links between files of the repository links of the site.

    README.md is the front page, and an executed notebook in ``outputs/`` is its page. A link to a file that has no
    page becomes its text; one to nothing is left, and Sphinx warns of it.
    """
    for node in list(doctree.findall(addnodes.pending_xref)):
        if node["reftype"] != "myst" or node["refdomain"]:
            continue
        target, _, anchor = node["reftarget"].partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(app.env.docname), target))
        page = re.sub(r"^outputs/[^/]+/", "notebooks/", path).removesuffix(".ipynb")
        page = "index" if path == "README.md" else page
        if page in app.env.found_docs:
            node.attributes.update(refdomain="doc", reftarget=page, reftargetid=anchor or None)
        elif target and not path.startswith(("..", "/")) and (ROOT / path).exists():
            node.replace_self(node.children)


def link_names(app, doctree):
    """Link each ``tacit.module`` or ``tacit.module.name`` in code font to its place in the API reference, if any."""
    for node in list(doctree.findall(nodes.literal)):
        if re.fullmatch(r"tacit(\.[A-Za-z_]\w*)+", node.astext()) and not isinstance(node.parent, nodes.reference):
            link = addnodes.pending_xref(
                "", refdomain="py", reftype="obj", reftarget=node.astext(), refexplicit=False, refwarn=False
            )
            node.replace_self(link)
            link += node


def keep_local(app, doctree):
    """Leave nothing that is loaded from elsewhere, and no link but to the web, to an address of mail or in the site.

    Pictures that are no files of the site become their alternative texts, so that opening a page requests nothing;
    other links become their texts. Files of the disk are not offered for download, and no page sets tags of its own in
    its head.
    """
    folder = Path(app.outdir).resolve().parent  # of the sources, and of the figures that myst-nb takes from notebooks
    for node in list(doctree.findall(nodes.image)):
        uri = node["uri"]
        path = Path(app.env.relfn2path(uri, app.env.docname)[1]).resolve()
        if path.is_relative_to(folder) and path.is_file():
            continue
        if "://" not in uri:
            logging.getLogger(__name__).warning("picture not in the site: %s", uri, location=node)
        outer = node.parent if isinstance(node.parent, nodes.reference) else None
        text = nodes.inline("", node.get("alt") or "(a picture is left out)")
        node.replace_self(text)
        outer = outer or text
        if not isinstance(outer.parent, nodes.TextElement):
            paragraph = nodes.paragraph()
            outer.replace_self(paragraph)
            paragraph += outer
    for node in list(doctree.findall(nodes.reference)):
        if not may_link(node.get("refuri", "")):
            node.replace_self(node.children)
    for node in doctree.findall(addnodes.toctree):
        node["entries"] = [entry for entry in node["entries"] if may_link(entry[1])]
    for node in list(doctree.findall(addnodes.download_reference)):
        node.replace_self(node.children)
    for node in list(doctree.findall(nodes.meta)):
        node.parent.remove(node)


def may_link(uri):
    """Is a link one to the web, to an address of mail, or relative? Browsers overlook blanks in its scheme."""
    scheme = re.match(r"[^/?#]*?:", re.sub(r"[\x00-\x20]", "", uri))
    return scheme is None or scheme[0].lower() in ("http:", "https:", "mailto:")


def setup(app):
    """Show formulas as MathML, read the Markdown tables of docstrings, link names of the library, keep pages local."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    app.connect("autodoc-process-docstring", read_tables)
    app.connect("doctree-read", resolve_links, priority=400)  # before Sphinx collects pictures and downloads, at 500
    app.connect("doctree-read", keep_local, priority=401)
    app.connect("doctree-read", link_names, priority=402)


html_math_renderer = "mathml"
