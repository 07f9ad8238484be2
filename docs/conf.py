"""The settings of Sphinx, which `make docs` runs. Docstrings are read from the package, which is imported."""

from __future__ import annotations

import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ["TORCHEXT_DISABLE_NATIVE"] = "1"  # docstrings do not depend on the compiled libraries

import torchext  # noqa: E402  # found on the path set above

project = "torchext"
version = release = torchext.__version__
copyright = "the torchext authors. Licence: BSD-3-Clause"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["_build"]
default_role = "py:obj"  # `torchext.fold` in a docstring is a link
add_module_names = False
maximum_signature_line_length = 80
python_use_unqualified_type_names = True
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autosummary_generate = False
napoleon_use_ivar = True
napoleon_use_rtype = False
myst_heading_anchors = 4
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = f"torchext {version}"
html_static_path = ["_static"]
html_css_files = ["torchext.css"]
html_show_sourcelink = False
html_copy_source = False
html_use_index = False
# The workflow of GitHub knows the repository. No other place in the sources does.
repository = os.environ.get("GITHUB_REPOSITORY")
html_theme_options: dict[str, Any] = {
    "logo": {"text": html_title},
    "icon_links": [{"name": "Repository", "url": f"https://github.com/{repository}", "icon": "fa-brands fa-github"}]
    if repository
    else [],
    "navbar_align": "left",
    "header_links_before_dropdown": 8,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
    "back_to_top_button": False,
}

# The objects that pages name without their module, by the name that they have in the text.
PUBLIC = {name: f"torchext.{name}" for name in torchext.__all__}
PUBLIC |= {
    f"{module}.{name}": f"torchext.{module}.{name}"
    for module in ("nn", "metrics")
    for name in getattr(torchext, module).__all__
}
del PUBLIC["nn"], PUBLIC["metrics"], PUBLIC["reference"]


def documented(names: list[str]) -> str:
    """Directives for a list of public names: a table with their summaries, then their docstrings."""
    lines = [
        ".. currentmodule:: torchext",
        "",
        ".. autosummary::",
        "   :nosignatures:",
        "",
        *(f"   {name}" for name in names),
        "",
    ]
    for name in names:
        found: Any = torchext
        for part in name.split("."):
            found = getattr(found, part)
        if not inspect.isclass(found):
            lines += [f".. autofunction:: {PUBLIC[name]}", ""]
        elif name.startswith("nn."):
            lines += [f".. autoclass:: {PUBLIC[name]}", "   :members: forward", ""]
        else:
            lines += [f".. autoclass:: {PUBLIC[name]}", "   :members:", "   :special-members: __call__", ""]
    return "\n".join(["```{eval-rst}", *lines, "```"])


def on_source_read(app: Sphinx, page: str, source: list[str]) -> None:
    """Insert docstrings for ``<!-- api: names -->``, and link to the results inside of the site.

    The empty line that ends an example for doctest is left out.
    """
    text = re.sub(r"<!-- api:(.*?)-->", lambda match: documented(match[1].split()), source[0], flags=re.DOTALL)
    text = text.replace("\n\n```\n", "\n```\n")
    source[0] = re.sub(r"\.\./benchmarks/results/([\w-]+\.md)", r"results/\1", text)


class LinkNames(SphinxTransform):
    """Links public names in the code of a sentence to their docstrings, such as ``fold`` and ``fold(x, …)``."""

    default_priority = 5

    def apply(self, **_: Any) -> None:
        """Wrap each literal that is a public name or a call of one in a reference."""
        for literal in list(self.document.findall(nodes.literal)):
            found = re.fullmatch(r"(?:torchext\.)?([\w.]+)(\(.*\))?", literal.astext(), re.DOTALL)
            ancestors = (nodes.title, nodes.reference, pending_xref)
            if found is None or found[1] not in PUBLIC or isinstance(literal.parent, ancestors):
                continue
            reference = pending_xref(
                "", refdomain="py", reftype="obj", reftarget=PUBLIC[found[1]], refwarn=True, refexplicit=True
            )
            reference["py:module"] = reference["py:class"] = None
            literal.replace_self(reference)
            reference += literal


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", on_source_read)
    app.add_transform(LinkNames)
