"""The site, made by `make docs`: the pages, the reference from docstrings, the tutorials, run."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))
os.environ.setdefault("OMP_NUM_THREADS", "1")
# It looks at whole paths: in a clone whose folder has a space every link still arrives.
logging.getLogger("sphinx.sphinx-gallery").addFilter(
    lambda record: "with spaces found" not in record.getMessage()
)
logging.getLogger("fontTools").setLevel(logging.WARNING)  # of figures that are saved as pdf

import hesscope  # noqa: E402

project = "hesscope"
author = "the authors of hesscope"
release = version = hesscope.__version__
language = "en"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "docstrings",
]
exclude_patterns = ["_build", "tutorials"]

# Links among the pages are the same in a clone and on the site; anchors are those of the headings.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

# Whatever a page refers to has to exist: `make docs` turns warnings into errors.
nitpicky = True
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"hesscope {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_search_summary = False  # it is fetched, which a site opened from files cannot
html_show_copyright = False
html_copy_source = html_show_sourcelink = False
html_theme_options = {"navigation_with_keys": True}
templates_path = []
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

# The tutorials are run; a script that fails, or whose output no longer is what its text says, ends
# the build.
sphinx_gallery_conf = {
    "examples_dirs": "tutorials",
    "gallery_dirs": "learn",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "docstrings.Tutorials",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
    "min_reported_time": 1e9,  # seconds differ from build to build
    "write_computation_times": False,
    "capture_repr": (),
    "notebook_extensions": set(),
    "image_srcset": ["2x"],
}

OUTSIDE = {  # files beside docs/ that have a page on the site
    "benchmarks/README.md": "benchmarks.md",
    "papers/data/README.md": "papers/data.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}


def as_on_the_site(_app: object, docname: str, source: list[str]) -> None:
    """Links out of docs/ go to the pages made of those files, tutorials to what they printed."""
    up = "../" * docname.count("/")
    for file, page in OUTSIDE.items():
        source[0] = source[0].replace(f"]({up}../{file}", f"]({up}{page}")
    source[0] = re.sub(r"\]\(((?:\.\./)*)tutorials/(\w+)\.py", r"](\1learn/\2.rst", source[0])
    source[0] = re.sub(r'^<a id="([\w-]+)"></a>$', r"(\1)=", source[0], flags=re.MULTILINE)


def setup(app) -> None:
    app.connect("source-read", as_on_the_site)
