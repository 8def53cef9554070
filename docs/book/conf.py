"""Sphinx's settings for the book, which `python -m spatialkit book` builds; nothing here asks the network."""

import re
from pathlib import Path

import spatialkit

project = "spatialkit"
author = copyright = "The spatialkit authors"
version = release = spatialkit.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
exclude_patterns = ["results", "spatialkit"]
default_role = "py:obj"  # a name in single backticks of a docstring becomes a link where there is something to link to

nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["amsmath", "dollarmath"]
myst_heading_anchors = 3
myst_update_mathjax = False
suppress_warnings = ["myst.header"]  # a heading of the third level right after the first

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Of MathJax 2, as jupyter-server-mathjax brings it.
mathjax_path = "mathjax/MathJax.js"
mathjax2_config = {
    "config": ["TeX-AMS-MML_HTMLorMML-full.js"],
    "jax": ["input/TeX", "output/HTML-CSS"],
    "extensions": ["tex2jax.js"],
    "TeX": {"extensions": ["AMSmath.js", "AMSsymbols.js", "noErrors.js", "noUndefined.js"]},
    "tex2jax": {"processClass": "math", "ignoreClass": "document"},
    "HTML-CSS": {"availableFonts": [], "webFont": "STIX-Web", "imageFont": None, "linebreaks": {"automatic": True}},
    "showMathMenu": False,
    "messageStyle": "none",
}

html_theme = "sphinx_book_theme"
html_title = "spatialkit"
html_static_path = [str(Path(__file__).parent / "_static"), "../../build/book/source/_static"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_sourcelink = False
html_last_updated_fmt = None
html_theme_options = {
    "home_page_in_toc": True,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "use_repository_button": False,
    "use_source_button": False,
}


def _escape_bars(app, what, name, obj, options, lines):
    """Docstrings mean |x| as a size and **options as Python does; reStructuredText would read marks of its own."""
    indent = None  # of the paragraph before a literal block, while inside one
    for i, line in enumerate(lines):
        own = len(line) - len(line.lstrip())
        if indent is not None and line.strip() and own <= indent:
            indent = None
        if indent is None:
            pieces = re.split(r"(``.+?``|`.+?`)", line)
            pieces[::2] = [re.sub(r"(\||\*\*(?=\w))", lambda m: "\\" + "\\".join(m[1]), piece) for piece in pieces[::2]]
            lines[i] = "".join(pieces)
            indent = own if line.rstrip().endswith("::") else None


def setup(app):
    app.connect("autodoc-process-docstring", _escape_bars, priority=100)  # before napoleon
