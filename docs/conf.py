"""Configure Sphinx; build with ``sphinx-build -W -n docs docs/_build``."""

import inspect
import os
import re
import warnings
from pathlib import Path

import matplotlib
import matplotlib.pyplot
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
suppress_warnings = ["config.cache"]  # the gallery's options hold a function
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
    "icon_links": [
        {
            "name": "Repository",
            "url": "https://github.com/OWNER/skpref",
            "icon": "fa-brands fa-github",
        }
    ],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {
    page: []
    for page in ("index", "install", "getting_started", "whats_new", "contributing", "citing")
}


# sphinx-gallery runs each example in its own folder, and some examples write figures there, so it
# runs copies.
GALLERY = DOCS / "_build" / "gallery"

# Numbers of the examples of each section; others are in the first.
SECTIONS = {
    "start": ("Start here", (1, 2, 4, 13, 15, 16, 17)),
    "how": ("How it works", (5, 6, 7, 8)),
    "worth": ("Is it worth it on mine?", (9, 12)),
    "scale": ("Scale", (3, 11, 14)),
    "tools": ("Other tools", (10,)),
}


def write_if_changed(path, text):
    """Write a file, but leave one of the same content, whose example then need not run again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def copy_examples():
    """Copy the examples into the folders of their sections."""
    header = (DOCS / "gallery_header.rst").read_text(encoding="utf-8")
    copies = {GALLERY / "GALLERY_HEADER.rst": header}
    for folder, (title, _) in SECTIONS.items():
        copies[GALLERY / folder / "GALLERY_HEADER.rst"] = f"{title}\n{'-' * len(title)}\n"
    for path in (DOCS.parent / "examples").glob("plot_*.py"):
        number = int(path.name[5:7])
        places = [name for name, (_, numbers) in SECTIONS.items() if number in numbers]
        # References to an example do not name its section.
        text = path.read_text(encoding="utf-8")
        text = text.replace('"""\n', f'"""\n.. _sphx_glr_auto_examples_{path.name}:\n\n', 1)
        copies[GALLERY / (places or ["start"])[0] / path.name] = text
    for stale in set(GALLERY.rglob("*.py")) - set(copies):
        stale.unlink()
    for path, text in copies.items():
        write_if_changed(path, text)


copy_examples()


def write_pages_of_results():
    """Write a page for each table of the benchmarks that no page includes."""
    pages = DOCS / "benchmarks"
    written = [page for page in pages.glob("*.md") if not page.name.startswith("auto-")]
    shown = "".join(page.read_text(encoding="utf-8") for page in written)
    results = DOCS.parent / "benchmarks" / "results"
    missing = {path for path in results.glob("*.md") if f"results/{path.name}" not in shown}
    for page in pages.glob("auto-*.md"):
        if results / page.name.removeprefix("auto-") not in missing:
            page.unlink()
    for path in missing:
        file = f"../../benchmarks/results/{path.name}"
        text = f"```{{include}} {file}\n```\n"
        if (picture := path.with_suffix(".png")).exists():
            text += f"\n```{{image}} {file[:-2]}png\n:alt: {picture.stem}\n:width: 100%\n```\n"
        write_if_changed(pages / f"auto-{path.name}", text)


write_pages_of_results()


def use_style(gallery_conf, name):
    """Draw with the library's look."""
    matplotlib.pyplot.style.use("skpref.inspection.style")


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
    "reset_modules": ("matplotlib", use_style),
    "subsection_order": [f"_build/gallery/{name}" for name in SECTIONS],
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


def list_pages_of_results(app, docname, source):
    """Add to the contents of the benchmarks what `write_pages_of_results` has written."""
    if docname == "benchmarks/index":
        names = sorted(page.stem for page in (DOCS / "benchmarks").glob("auto-*.md"))
        source[0] = source[0].replace("\nabout\n", "\n" + "\n".join([*names, "about", ""]), 1)


def read_contents_again(app, env, added, changed, removed):
    """Read the contents of the benchmarks in every build, since they depend on the results."""
    return ["benchmarks/index"]


def mark_names(app, what, name, obj, options, lines):
    """Prevent names that end with an underscore from being parsed as links."""
    for i, line in enumerate(lines):
        if " shape (" in line:
            lines[i] = re.sub(r"(?<![`\w])(\w+_)(?=[,)])", r"`\1`", line)


# The first parameter of each group, for the pages of estimators with many.
GROUPS = {
    "PairwisePreferenceClassifier": {
        "module": "The network",
        "loss": "What stage 1 learns",
        "stage2": "Human labels and decisions",
        "calibrator": "From LLM scores to pairs",
        "max_epochs": "Training",
        "callbacks": "Running",
    },
    "PairwisePreferenceTextClassifier": {},
}
GROUPS["PairwisePreferenceTextClassifier"] = GROUPS["PairwisePreferenceClassifier"]


def group_parameters(app, what, name, obj, options, lines):
    """Put headings between the parameters of a large estimator, after numpydoc."""
    groups = GROUPS.get(name.rpartition(".")[2], {}) if what == "class" else {}
    for parameter, title in groups.items():
        for i, line in enumerate(lines):
            if line.strip().startswith((f"**{parameter}** :", f"**{parameter}**")):
                indent = line[: len(line) - len(line.lstrip())]
                lines[i:i] = [f"{indent}.. rubric:: {title}", ""]
                break


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
    app.connect("autodoc-process-docstring", group_parameters, priority=900)  # after numpydoc
    app.connect("source-read", list_pages_of_results)
    app.connect("env-get-outdated", read_contents_again)
    app.connect("build-finished", write_llms_txt)
