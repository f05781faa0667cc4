"""Configuration of the documentation site: ``make docs`` builds it into ``build/docs``."""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.inspect import safe_getattr

import ortho_lightning
from ortho_lightning.callbacks.base import LightningCallback

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "Ortho Lightning"
author = "Ortho Lightning contributors"
copyright = author
version = release = ortho_lightning.__version__
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "mathml",  # in _extensions
]
root_doc = "index"
exclude_patterns = ["results"]
nitpicky = True
smartquotes = False  # "ledoit-wolf" in a docstring is what to type

# ------------------------------------------------------------------------------------------------------------ Markdown

myst_heading_anchors = 3  # links such as layers.md#parts-of-a-module, as code hosts resolve them

# ----------------------------------------------------------------------------------------------------------------- API

add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True  # LSH(), not all of its options
autosummary_generate = False  # the pages of api/ list what they document
napoleon_numpy_docstring = False
python_use_unqualified_type_names = True
# of optional extras: their pages are the same without them
autodoc_mock_imports = [name for name in ("faiss", "sentence_transformers", "sklearn") if find_spec(name) is None]

nitpick_ignore_regex = [
    # Other packages' names: their inventories could only be fetched over a network.
    (r"py:.*", r"(torch|numpy|np|pytorch_lightning|collections|pathlib|sklearn|faiss|os|typing)(\..*)?"),
    # Type variables, which have no entry.
    (r"py:class", r"ortho_lightning\.[\w.]*\.[A-Z]"),
    # Aliases of types, whose values the text names.
    (r"py:class", r"Tensor|Vectors|Shrinkage|ScheduleFunction|Kind|Method|OrthogonalMap"),
]

# ---------------------------------------------------------------------------------------------------------------- HTML

html_theme = "furo"
pygments_dark_style = "a11y-dark"  # the theme's own underlines the names of modules as if they were links
html_title = "Ortho Lightning"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_math_renderer = "mathml"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1b5e9b", "color-brand-content": "#1b5e9b"},
    "dark_css_variables": {"color-brand-primary": "#7db9ee", "color-brand-content": "#7db9ee"},
}


def _attribute(owner: type, name: str, *default: Any) -> Any:
    """Return an attribute for autodoc, which shows ``__new__`` of the callbacks, not the options, otherwise."""
    if name == "__new__" and issubclass(owner, LightningCallback):
        return None
    return safe_getattr(owner, name, *default)


def setup(app: Sphinx) -> None:
    """Show the options of the callbacks in their signatures."""
    app.add_autodoc_attrgetter(type, _attribute)
