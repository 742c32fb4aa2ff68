"""Measure what each way to install skpref downloads on Linux; uv resolves, without downloading.

``python -m benchmarks.downloads`` needs ``uv`` and ``packaging``, and Python 3.11 or newer. The CPU
build of torch, which is not on PyPI, is left out of the sums; pip prints its size.
"""

import argparse
import subprocess
import tempfile
import tomllib
from pathlib import Path

from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from benchmarks._common import add_out_option, markdown_table, write_lines

ROOT = Path(__file__).parents[1]
EXTRAS = ["", "text", "llm", "datasets", "plot", "onnx", "approximate", "accelerate", "all"]
PLATFORM = "x86_64-manylinux_2_28"
PYTHON = (3, 13)
# With torch come the libraries of CUDA, and the compiler of its kernels.
OF_CUDA = ("cuda", "nvidia-", "triton")


def wheel_size(package: dict) -> int:
    """Return the bytes of the file that pip would take on this platform."""
    platforms = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)]
    platforms += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]
    tags = [*cpython_tags(PYTHON, platforms=platforms)]
    tags += compatible_tags(PYTHON, f"cp{PYTHON[0]}{PYTHON[1]}", platforms)
    rank = {tag: k for k, tag in reversed(list(enumerate(tags)))}
    found = {}
    for wheel in package.get("wheels", []):
        fits = parse_wheel_filename(wheel["url"].rpartition("/")[2])[3] & rank.keys()
        if fits:
            found[min(rank[tag] for tag in fits)] = wheel["size"]
    return found[min(found)] if found else package["sdist"]["size"]


def resolve(extra: str) -> dict[str, int]:
    """Return the bytes of each package that an extra needs."""
    with tempfile.TemporaryDirectory() as folder:
        lock = Path(folder, "pylock.toml")
        command = ["uv", "pip", "compile", "pyproject.toml", "-q", "--python-platform", PLATFORM]
        command += ["--python-version", f"{PYTHON[0]}.{PYTHON[1]}", "-o", str(lock)]
        command += ["--extra", extra] if extra else []
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        packages = tomllib.loads(lock.read_text())["packages"]
    return {p["name"]: wheel_size(p) for p in packages if "directory" not in p}


def main(argv=None) -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_out_option(parser)
    args = parser.parse_args(argv)
    rows = []
    for extra in EXTRAS:
        sizes = resolve(extra)
        cuda = sum(size for name, size in sizes.items() if name.startswith(OF_CUDA))
        torch = sizes["torch"]
        rest = sum(sizes.values()) - cuda - torch
        megabytes = [f"{size / 1e6:,.0f}" for size in (rest, torch, cuda)]
        rows.append([f"skpref[{extra}]" if extra else "skpref", len(sizes), *megabytes])
    header = ["install", "packages", "without torch, MB", "torch, MB", "CUDA for torch, MB"]
    lines = [
        "# Downloads",
        "",
        f"`python -m benchmarks.downloads`: what pip downloads on Linux ({PLATFORM}) for Python "
        f"{PYTHON[0]}.{PYTHON[1]}. If the CPU build of torch is installed first, the last two "
        "columns are not downloaded.",
        "",
        *markdown_table(header, rows),
    ]
    write_lines(args.out / "downloads.md", lines)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
