"""Common parts of the commands: their options, files, tables, plots and processes."""

import argparse
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
CACHE = Path(__file__).parent / ".cache"


# --- the command line ---------------------------------------------------------------------------


def add_out_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the folder of the results."""
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Add the options for the folders of data, cache and results, and the number of processes."""
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=os.environ.get("SKPREF_DATA"),
        help="folder of the parquet files (default: environment variable SKPREF_DATA)",
    )
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder kept between runs")
    parser.add_argument("--jobs", type=int, default=2, help="number of processes")
    add_out_option(parser)


def parse_with_data(parser: argparse.ArgumentParser, argv, **choices: Iterable[str]):
    """Parse the command line; the data folder and the choices of each listed option are checked."""
    args = parser.parse_args(argv)
    if args.data_dir is None:
        parser.error(
            "no data directory; give --data-dir or set SKPREF_DATA to the folder of the parquets"
        )
    for name, known in choices.items():
        if unknown := set(getattr(args, name)) - set(known):
            parser.error(f"--{name}: unknown {sorted(unknown)}; choose from {list(known)}")
    return args


def names(separator: str = ",") -> Callable[[str], list[str]]:
    """Return a reader of a list of names for `add_argument(type=...)`."""
    return lambda text: text.split(separator)


def numbers(text: str) -> list[int]:
    """Read a list of whole numbers, separated by commas."""
    return [int(n) for n in text.split(",")]


# --- files --------------------------------------------------------------------------------------


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file under another name and rename it, so that it is never there in part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".part{path.suffix}")
    write(part)
    part.replace(path)


def write_json(path: Path, value) -> None:
    """Write a JSON file."""
    write_whole(path, lambda part: part.write_text(json.dumps(value, indent=1) + "\n"))


def read_json(path: Path, default):
    """Read a JSON file; return the default if there is none."""
    return json.loads(path.read_text()) if path.is_file() else default


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a text file that ends with one line break."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines).rstrip("\n") + "\n")


def write_section(path: Path, title: str, lines: Iterable[str]) -> None:
    """Write a section of a Markdown file, in place of the one of that title if there is one."""
    text = path.read_text() if path.is_file() else f"# {path.stem.capitalize()}\n"
    head, *sections = text.split("\n## ")
    kept = {section.partition("\n")[0]: section.rstrip("\n") for section in sections}
    kept[title] = "\n".join([title, "", *lines])
    write_lines(path, [head.rstrip("\n"), *(f"\n## {section}" for section in kept.values())])


# --- tables -------------------------------------------------------------------------------------


def markdown_table(header: Iterable, rows: Iterable[Iterable]) -> list[str]:
    """Return the lines of a Markdown table."""
    header = list(header)
    lines = ["| " + " | ".join(map(str, header)) + " |", "| --- " * len(header) + "|"]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def table(rows: Iterable[dict]) -> list[str]:
    """Return the lines of a Markdown table; the rows need not have the same columns."""
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    return markdown_table(columns, [[show(row.get(name, "")) for name in columns] for row in rows])


def show(value) -> str:
    """Return a value as it appears in a table."""
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


# --- plots --------------------------------------------------------------------------------------


def subplots(n_columns: int, figsize: tuple[float, float]):
    """Return a figure and a row of axes, drawn without a screen."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt.subplots(1, n_columns, figsize=figsize, layout="constrained")


def save_figure(figure, axis, path: Path, n_columns: int) -> None:
    """Write a figure with the legend of one axis below it, and close it."""
    import matplotlib.pyplot as plt

    handles = axis.get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=n_columns, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)


# --- many runs at once --------------------------------------------------------------------------


def limit_threads() -> None:
    """Use one core in this process, so that the other processes have the other cores."""
    import torch

    torch.set_num_threads(1)


def run_parallel(
    function: Callable, arguments: Iterable[tuple], n_jobs: int, title: str, *, ordered: bool = True
) -> Iterator:
    """Call a function with each tuple of arguments, in several processes, and show the progress.

    Yields what the calls return as they end, in the order of the arguments if `ordered`.
    """
    from sklearn.utils.parallel import Parallel, delayed
    from tqdm import tqdm

    jobs = [delayed(function)(*some) for some in arguments]
    parallel = Parallel(n_jobs, return_as="generator" if ordered else "generator_unordered")
    yield from tqdm(parallel(jobs), total=len(jobs), desc=title, mininterval=10)


def run_and_keep(
    function: Callable, units: Iterable[tuple], lines: list, path: Path, n_jobs: int, title: str
) -> list:
    """Add what the calls return to the lines, and write them to a file after each call."""
    for found in run_parallel(function, units, n_jobs, title, ordered=False):
        lines += found
        write_json(path, lines)
    return lines


def quiet(category: type[Warning] = Warning):
    """Return a context in which warnings of a category are not shown."""
    return warnings.catch_warnings(action="ignore", category=category)
