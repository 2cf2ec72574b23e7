"""How Sphinx builds the documents: `make docs` writes them to build/docs, and any warning is an error."""

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

project = "amnet-featcache"
release = metadata.version("amnet-featcache")
copyright = "the authors of amnet-featcache"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_heading_anchors = 3
default_role = "code"  # docstrings quote names in single backticks
autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": True}
autodoc_typehints = "description"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = f"amnet-featcache {release}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["cases.css"]
exclude_patterns = ["build"]
