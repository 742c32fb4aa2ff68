"""Time and memory: rivals in turns, fresh processes, the machine."""

import multiprocessing
import platform
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np


def devices() -> list[str]:
    """Return the devices that torch can use."""
    import torch

    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def to_the_end(step: Callable, device: str) -> Callable:
    """Return a function that runs a step and waits until the device has finished it."""
    import torch

    def run():
        result = step()
        if device == "cuda":
            torch.cuda.synchronize()
        return result

    return run


def alternate(rivals: dict[str, Callable], repeats: int) -> dict[str, float]:
    """Return the median seconds of each rival; they take turns, after a round that is left out."""
    seconds: dict[str, list] = {name: [] for name in rivals}
    for number in range(repeats + 1):
        for name, run in rivals.items():
            start = time.perf_counter()
            run()
            if number or not repeats:
                seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def once(run: Callable) -> float:
    """Return the seconds of one run of what takes too long to repeat."""
    return alternate({"once": run}, 0)["once"]


def memory(entry: str) -> float:
    """Return the MB of this process by an entry of Linux's /proc/self/status."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(entry + ":")[1].split()[0]) / 1024


def measure(run: Callable) -> tuple[float, float]:
    """Return the seconds of one run, and the MB at its peak beyond those before it."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before, start = memory("VmRSS"), time.perf_counter()
    run()
    seconds = time.perf_counter() - start
    return seconds, memory("VmHWM") - before


def _send(pipe, function, arguments):
    pipe.send(function(*arguments))


def call_in_a_process(function: Callable, *arguments):
    """Return what a function returns when a fresh process calls it."""
    context = multiprocessing.get_context("spawn")
    pipe, end = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(end, function, arguments))
    process.start()
    end.close()  # so that a process that died is an EOFError here
    try:
        return pipe.recv()
    finally:
        process.join()


def _make_and_measure(make, *arguments):
    return measure(make(*arguments))


def measure_in_a_process(make: Callable, *arguments) -> tuple[float, float]:
    """Return the seconds and MB, as of `measure`, of ``make(*arguments)()`` in a fresh process."""
    return call_in_a_process(_make_and_measure, make, *arguments)


def exponent(sizes, values) -> float:
    """Return the slope of a straight line through the logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def environment() -> dict:
    """Return the machine and the versions of the libraries."""
    import torch

    names = ["skpref", "numpy", "scipy", "scikit-learn", "torch", "skorch", "faiss-cpu"]
    names += ["xgboost", "lightgbm", "pytorch-metric-learning"]
    versions = {}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    cpu = f"{multiprocessing.cpu_count()} cores of {platform.machine()}"
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {"python": platform.python_version(), "CPU": cpu, "GPU": gpu} | versions
