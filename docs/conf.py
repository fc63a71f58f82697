"""Sphinx's settings. HTML and PDF come from the same pages; neither needs TeX."""

import sys
import tomllib
from pathlib import Path

from docutils import nodes

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))
_meta = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]

project = "coldmem"
author = "the coldmem authors"
copyright = "the coldmem authors; BSD-3-Clause"
version = release = _meta["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "numpydoc",
    "rst2pdf.pdfbuilder",
    "contract",
    "results",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
default_role = "py:obj"
nitpicky = False

autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_class_signature = "mixed"
autodoc_typehints = "none"
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

html_theme = "alabaster"
html_title = f"coldmem {release}"
html_theme_options = {
    "description": _meta["description"],
    "fixed_sidebar": True,
    "page_width": "1100px",
    "sidebar_width": "240px",
}
html_show_sourcelink = False

pdf_documents = [("index", "coldmem", f"coldmem {release}", author)]
pdf_stylesheets = ["sphinx", "a4", "pdf.yaml"]
pdf_style_path = [str(HERE)]
pdf_use_index = False
pdf_use_modindex = False
pdf_domain_indices = False
pdf_break_level = 1
pdf_use_coverpage = True
pdf_fit_background_mode = "scale"


def plain_separators(app, doctree, docname):
    """rst2pdf does not know the node that Sphinx makes of a bare ``*`` in a signature."""
    if app.builder.name == "pdf":
        for node in list(doctree.findall(nodes.abbreviation)):
            node.replace_self(nodes.inline("", node.astext()))


def setup(app):
    app.connect("doctree-resolved", plain_separators)
