"""Configure Sphinx; build with ``sphinx-build -W -n docs docs/_build``."""

import inspect
import os
import re
import shutil
import warnings
from pathlib import Path

import matplotlib
from docutils import nodes
from docutils.utils.math import latex2mathml

import skpref

DOCS = Path(__file__).parent

# Examples run offline with the packaged model. Their links to the pages of estimators are relative
# to the gallery's folder.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["SKPREF_DOCS"] = ".."
matplotlib.use("Agg")

project = "skpref"
author = "The skpref developers"
project_copyright = "skpref developers, BSD-3-Clause"
version = release = skpref.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "gallery_header.rst", "_templates", "auto_examples/*.ipynb"]
templates_path = ["_templates"]
default_role = "literal"
myst_heading_anchors = 2
# Built offline, so that no build depends on other projects' servers.
intersphinx_mapping = {}
# Ignore names of other projects and types given in words. Names of skpref must resolve.
nitpick_ignore_regex = [(r"py:.*", r"(?!skpref).*")]

autosummary_generate = True
autodoc_default_options = {"member-order": "bysource"}
autodoc_typehints = "none"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

html_theme = "pydata_sphinx_theme"
html_title = "skpref"
html_math_renderer = "mathml"
html_logo = "_static/logo.svg"
html_favicon = "_static/favicon.svg"
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_show_sourcelink = False
html_theme_options = {
    "logo": {"text": "skpref", "alt_text": "skpref, first page"},
    "navbar_align": "left",
    "header_links_before_dropdown": 6,
    "secondary_sidebar_items": ["page-toc"],
    "show_nav_level": 1,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {
    page: [] for page in ("install", "getting_started", "whats_new", "contributing", "citing")
}


# sphinx-gallery runs each example in its own folder, and some examples write figures there, so it
# runs copies.
GALLERY = DOCS / "_build" / "gallery"
GALLERY.mkdir(parents=True, exist_ok=True)
shutil.copy2(DOCS / "gallery_header.rst", GALLERY / "GALLERY_HEADER.rst")
for stale in set(GALLERY.glob("*.py")):
    if not (DOCS.parent / "examples" / stale.name).exists():
        stale.unlink()
for path in (DOCS.parent / "examples").glob("*.py"):
    shutil.copy2(path, GALLERY)

sphinx_gallery_conf = {
    "examples_dirs": str(GALLERY),
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"plot_\d\d_",
    "ignore_pattern": r"(^|[\\/])_",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "backreferences_dir": "api/backreferences",
    "doc_module": ("skpref",),
    "reference_url": {"skpref": None},
    "reset_modules": ("matplotlib",),
    "matplotlib_animations": False,
    "remove_config_comments": True,
    "min_reported_time": 0,
    "write_computation_times": False,
    "show_memory": False,
    "download_all_examples": False,
    "plot_gallery": os.environ.get("SKPREF_GALLERY", "1") == "1",
}

# Agg cannot show a figure, but sphinx-gallery still captures it.
warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")


def write_mathml(self, node):
    """Write a formula as MathML, which browsers display without external scripts."""
    block = isinstance(node, nodes.math_block)
    mathml = latex2mathml.tex2mathml(node.astext(), as_block=block)
    tag = "div" if block else "span"
    self.body.append(f'<{tag} class="math">{mathml}</{tag}>')
    raise nodes.SkipNode


def skip_inherited(app, what, name, member, skip, options):
    """Skip the setters of metadata requests, which scikit-learn generates and documents."""
    return True if re.fullmatch(r"set_\w+_request", name) else None


def mark_names(app, what, name, obj, options, lines):
    """Prevent names that end with an underscore from being parsed as links."""
    for i, line in enumerate(lines):
        if " shape (" in line:
            lines[i] = re.sub(r"(?<![`\w])(\w+_)(?=[,)])", r"`\1`", line)


def write_llms_txt(app, exception):
    """Write a list of the pages for programs that read the site."""
    if exception or app.builder.name != "html":
        return
    lines = [f"# {project} {release}", "", f"> {inspect.getdoc(skpref)}", ""]
    for name in sorted(app.env.found_docs, key=lambda name: (name.count("/"), name)):
        if name in app.env.titles:
            lines.append(f"- [{app.env.titles[name].astext()}]({name}.html)")
    Path(app.outdir, "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def setup(app):
    """Connect the hooks."""
    app.add_html_math_renderer("mathml", (write_mathml, None), (write_mathml, None))
    app.connect("autodoc-skip-member", skip_inherited)
    app.connect("autodoc-process-docstring", mark_names, priority=400)  # before numpydoc
    app.connect("build-finished", write_llms_txt)
