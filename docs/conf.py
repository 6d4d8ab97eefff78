"""How the pages of the documentation are built: `make docs`."""

import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "clair-apo"
author = "The clair-apo developers"
version = release = installed_version("clair-apo")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "config_reference"]
exclude_patterns = ["_build", "gpu_trial.md"]  # the second is part of benchmarks.md
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
# the pages link files of the checkout, which are no pages
suppress_warnings = ["myst.xref_missing"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "exclude-members": "model_config"}
napoleon_google_docstring = True

html_theme = "furo"
html_title = "clair-apo"
html_theme_options = {"sidebar_hide_name": False}
html_show_sphinx = html_show_copyright = False
# the names of the API would fill the page's own table of contents
toc_object_entries = False


_FIELDS: dict[str, list[str]] = {}


def _before_napoleon(app, what, name, obj, options, lines) -> None:
    """Docstrings mark code with one backtick where reStructuredText has two.

    Of a module only the first paragraph is for users. Napoleon takes what stands before a colon
    in a field's docstring for its type, so it does not see those.
    """
    text = re.sub(r"(?<![`:])`([^`]+)`(?!`)", r"``\1``", "\n".join(lines))
    if what == "module":
        text = text.split("\n\n")[0]
    lines[:] = text.split("\n")
    if what in ("attribute", "property", "data"):
        _FIELDS[name] = lines[:]
        lines[:] = []


def _after_napoleon(app, what, name, obj, options, lines) -> None:
    lines[:] = _FIELDS.pop(name, lines)


def setup(app) -> None:
    """Connect what is defined above."""
    app.connect("autodoc-process-docstring", _before_napoleon, priority=400)
    app.connect("autodoc-process-docstring", _after_napoleon, priority=600)
