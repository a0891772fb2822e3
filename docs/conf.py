"""How Sphinx renders the site: `python -m tacit site` writes the page sources and calls it."""

import re

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging

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

html_theme = "furo"
html_title = "Tacit"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#00588a", "color-brand-content": "#00588a"},
    "dark_css_variables": {"color-brand-primary": "#6cc0f5", "color-brand-content": "#6cc0f5"},
}


def render_math(tex, *, block=False):
    r"""LaTeX as MathML, which browsers show without a script or a font from elsewhere (docutils' converter).

    It takes the digits of ``\tfrac12`` for one number, so they get braces first.
    """
    return tex2mathml(re.sub(r"(\\[dt]?frac)\s*(\d)\s*(\d)", r"\1{\2}{\3}", tex), as_block=block)


def visit_math(translator, node):
    """Write a formula; one that cannot be converted stays as its LaTeX source, with a warning."""
    block = isinstance(node, nodes.math_block)
    try:
        text = render_math(node.astext(), block=block)
    except MathError as error:
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


def setup(app):
    """Make MathML the way of formulas, and read the Markdown tables of docstrings."""
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))
    app.connect("autodoc-process-docstring", read_tables)


html_math_renderer = "mathml"
