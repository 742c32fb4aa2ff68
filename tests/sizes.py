"""Sizes of the package that must not grow: ``python tests/sizes.py [folder of the repository]``.

Each size has a limit, and `tests/test_sizes.py` fails when one is past it:

* **Largest module**: lines of a file.
* **Largest class**: lines from ``class`` to its end.
* **Parameters** of `PairwisePreferenceClassifier`.
* **Own imports in functions**: import statements of skpref inside functions and methods.
* **Import circles**: groups of modules that import each other, directly or through others. An
  import inside a function counts as much as one at the top, since it hides a circle and does not
  remove it. That Python runs the ``__init__.py`` of a package before a module in it is no import
  here; importing a name from that ``__init__.py`` is.
* **Frames from fit to the loss**: calls on the stack from `fit` down to `pair_loss`, both counted,
  where the loss of pairs is computed while Adam trains the default network on short sessions. A
  call of a torch module is one frame, although torch takes two.
* **Lines of a function**, without its docstring: the median, and how many percent have over 40.
"""

import ast
import sys
import warnings
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LONG = 40


class Size(NamedTuple):
    """A size of the package and its limit."""

    name: str
    limit: float
    value: float
    where: str = ""


class Module(NamedTuple):
    """A module of the package, parsed."""

    name: str
    n_lines: int
    tree: ast.Module
    is_package: bool


def read_modules(root):
    """Parse the modules of the package, by their dotted names."""
    modules = {}
    for path in sorted((root / "skpref").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules[name] = Module(name, len(text.splitlines()), ast.parse(text), is_package)
    return modules


def n_lines(node):
    return node.end_lineno - node.lineno + 1


def n_lines_of_code(function):
    """Lines of a function without its docstring."""
    documented = ast.get_docstring(function, clean=False) is not None
    return n_lines(function) - (n_lines(function.body[0]) if documented else 0)


def nodes(modules, kinds):
    """Nodes of some kinds, each with the name of its module."""
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, kinds):
                yield node, module.name


def imported(node, modules):
    """Modules of the package that an import statement names."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names} & set(modules)
    inner = {f"{node.module}.{alias.name}" for alias in node.names}
    # A name that is no module comes from the module itself.
    found = {node.module} if inner - set(modules) else set()
    return (inner | found) & set(modules)


def late_imports(modules):
    """Import statements of the package in functions; one in a nested function counts once."""
    late = {}
    for function, name in nodes(modules, FUNCTIONS):
        for node in ast.walk(function):
            if isinstance(node, ast.Import | ast.ImportFrom) and imported(node, modules):
                late[name, node.lineno] = f"{name}:{node.lineno}"
    return list(late.values())


def import_circles(modules):
    """Groups of modules each of which reaches the others by imports, the ones in functions too."""
    edges = defaultdict(set)
    for node, name in nodes(modules, (ast.Import, ast.ImportFrom)):
        edges[name] |= imported(node, modules) - {name}

    def reach(start):
        seen, waiting = set(), [start]
        while waiting:
            new = edges[waiting.pop()] - seen
            seen |= new
            waiting += new
        return seen

    reached = {name: reach(name) for name in modules}
    circles = {
        tuple(sorted(other for other in found if name in reached[other]))
        for name, found in reached.items()
        if name in found
    }
    return sorted(circles)


def parameters():
    from skpref import PairwisePreferenceClassifier

    return list(PairwisePreferenceClassifier().get_params(deep=False))


def frames_to_the_loss():
    """Names of the functions on the stack from `fit` to the first call of `pair_loss`."""
    import torch

    from skpref import PairwisePreferenceClassifier
    from skpref.datasets import make_dialogues

    data = make_dialogues(n_sessions=10, session_length=(4, 8), random_state=0)
    clf = PairwisePreferenceClassifier("mlp", max_epochs=1, random_state=0)
    fit = type(clf).fit.__code__
    while hasattr(wrapped := type(clf).fit, "__wrapped__") and fit is wrapped.__code__:
        fit = wrapped.__wrapped__.__code__
    stack = []

    def look(frame, event, _):
        if event != "call" or frame.f_code.co_name != "pair_loss" or stack:
            return
        while frame is not None:
            if frame.f_code is not torch.nn.Module._wrapped_call_impl.__code__:
                stack.append(frame.f_code.co_qualname)
            if frame.f_code is fit:
                return
            frame = frame.f_back
        raise RuntimeError("pair_loss was called outside fit.")

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = sys.getprofile()
        sys.setprofile(look)
        try:
            clf.fit(data.X, data.y, groups=data.groups, llm_scores=data.llm_scores)
        finally:
            sys.setprofile(before)
    if not stack:
        raise RuntimeError("fit does not call pair_loss; name the function that took its place.")
    return stack[::-1]


def measure(root=ROOT):
    """Measure the package in the folder of a repository; skpref must be imported from there."""
    modules = read_modules(root)
    largest = max(modules.values(), key=lambda module: module.n_lines)
    large, its_module = max(nodes(modules, ast.ClassDef), key=lambda found: n_lines(found[0]))
    lengths = {
        f"{name}.{function.name}": n_lines_of_code(function)
        for function, name in nodes(modules, FUNCTIONS)
    }
    all_lengths = [n_lines_of_code(function) for function, _ in nodes(modules, FUNCTIONS)]
    long = [name for name, length in lengths.items() if length > LONG]
    share = 100 * sum(length > LONG for length in all_lengths) / len(all_lengths)
    late, circles, frames = late_imports(modules), import_circles(modules), frames_to_the_loss()
    in_words = "; ".join(" <-> ".join(circle) for circle in circles)
    return [
        Size("lines of the largest module", 700, largest.n_lines, largest.name),
        Size("lines of the largest class", 450, n_lines(large), f"{its_module}.{large.name}"),
        Size("parameters of PairwisePreferenceClassifier", 30, len(parameters())),
        Size("own imports in functions", 6, len(late), ", ".join(late)),
        Size("import circles", 0, len(circles), in_words),
        Size("frames from fit to the loss", 12, len(frames), " > ".join(frames)),
        Size("median lines of a function", 8, median(all_lengths)),
        Size("% of functions over 40 lines", 3, round(share, 2), ", ".join(long)),
    ]


def table(sizes):
    """Format the sizes, and below them where those past their limit come from."""
    width = max(len(size.name) for size in sizes)
    lines = [f"{'size':{width}}  {'limit':>6}  {'value':>6}"]
    for size in sizes:
        past = "  past its limit" if size.value > size.limit else ""
        lines.append(f"{size.name:{width}}  {size.limit:>6g}  {size.value:>6g}{past}")
    lines += [f"\n{size.name}: {size.where}" for size in sizes if size.value > size.limit]
    return "\n".join(lines)


if __name__ == "__main__":
    folder = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else ROOT
    sys.path.insert(0, str(folder))
    print(table(measure(folder)))
