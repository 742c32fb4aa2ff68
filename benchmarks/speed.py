"""Speed of every part of skpref, as ratios to what a user would otherwise pick.

    python -m benchmarks.speed

Runs each part on the same work for all rivals, which take turns, prints medians and ratios, and
writes results/speed.json and results/speed.md. A part that is in the JSON is not run again without
--fresh; name parts to run only these. Rivals that are not installed are left out.
"""

import argparse
import inspect
from collections.abc import Callable

from benchmarks import _speed_loss, _speed_stages, _speed_training
from benchmarks._common import add_out_option, read_json, show, table, write_json, write_lines
from benchmarks._timing import environment

PARTS: dict[str, Callable] = {
    part.__name__: part
    for part in (
        _speed_loss.loss_of_one_session,
        _speed_loss.loss_of_many_sessions,
        _speed_loss.pair_by_pair_or_by_halves,
        _speed_stages.pair_sampling,
        _speed_stages.smoothing,
        _speed_stages.smoothing_at_scale,
        _speed_stages.calibration,
        _speed_training.training,
        _speed_training.epoch_cost,
        _speed_training.prediction,
        _speed_training.growth,
    )
}
PAIRS_SHOWN = [("all", 20), ("uniform", 20), ("uniform", 200)]
NOTE = [
    "Medians of runs in one process, in which the rivals take turns. MB are the peak of one run in",
    "a fresh process beyond what it had before. Ratios rival / ours are in our favour above 1.",
]


def page(result) -> list[str]:
    """Return the results as the lines of a Markdown page."""
    lines = ["# Speed", "", "`python -m benchmarks.speed`", ""]
    lines += [", ".join(f"{k} {v}" for k, v in result["environment"].items()) + "."]
    lines += ["", *NOTE, ""]
    for name, function in PARTS.items():
        if name in result["parts"]:
            lines += [f"## {name.replace('_', ' ')}", "", inspect.getdoc(function) or "", ""]
            lines += [*table(result["parts"][name]), ""]
    return lines


def headline(parts) -> str:
    """Return the table of the README: one line for each part, including those that we lose."""

    def find(name, **wanted):
        return next(r for r in parts[name] if all(r.get(k) == v for k, v in wanted.items()))

    def line(what, ours, *rivals):
        against = "; ".join(f"{name} {show(ratio)}" for name, ratio in rivals)
        return f"| {what} | {ours} | {against} |"

    one = {n: find("loss_of_one_session", rows=n) for n in (10**4, 10**6)}
    many = find("loss_of_many_sessions", sessions="50 of 2000")
    pairs = [find("pair_sampling", ours=o, **{"session length": n}) for o, n in PAIRS_SHOWN]
    exact, approximate = (find("smoothing", rows=n) for n in (2 * 10**4, 10**5))
    lines = [
        "| work | skpref | time of others, by ours |",
        "| --- | --- | --- |",
        line(
            "loss and gradient over all pairs, one session of 10,000",
            f"{one[10**4]['ours s'] * 1000:.1f} ms",
            ("dense torch", one[10**4]["dense / ours"]),
        ),
        line(
            "the same, one session of a million",
            f"{show(one[10**6]['ours s'])} s, {show(one[10**6]['ours MB'])} MB",
        ),
        line(
            "the same, 50 sessions of 2,000",
            f"{many['ours s'] * 1000:.0f} ms",
            ("dense torch", many["dense / ours"]),
            ("list of pairs", many["pair list / ours"]),
        ),
    ]
    for row in pairs:
        what = f"{show(row['pairs'])} pairs, {row['ours']}, sessions of {row['session length']}"
        rival = ("`itertools` loop over all pairs", row["itertools / ours"])
        lines.append(line(what, f"{show(row['ours s'])} s", rival))
    brute = ("scikit-learn brute force", exact["scikit-learn / exact"])
    flat = ("faiss flat", exact["faiss flat s"] / exact["exact s"])
    own = ("skpref exact", approximate["exact / approximate"])
    recall = f"recall {approximate['recall']:.3f}"
    lines += [
        line("smoothing 20,000 x 384, exact", f"{show(exact['exact s'])} s", brute, flat),
        line(
            "smoothing 100,000 x 384, approximate",
            f"{show(approximate['approximate s'])} s, {recall}",
            own,
        ),
    ]
    for kind, truth in (("embedding", "spread over all features"), ("table", "in steps of eight")):
        races = {name: find("training", data=kind, rival=name) for name in ("xgboost", "lightgbm")}
        ratios = [(f"{n} to its best", r["its / ours, adam"] or "never") for n, r in races.items()]
        lines.append(line(f"training on 20,000 x 384, truth {truth}", "", *ratios))
    for n_scores in (1, 3):
        shape = {"hidden units": 128, "batch": 256, "scores per row": n_scores}
        row = find("epoch_cost", device="cpu", **shape)
        what = f"an epoch with pairs, {n_scores} score{'s' * (n_scores > 1)} per row"
        seconds = f"{show(row['pairs s per epoch'])} s"
        lines.append(line(what, seconds, ("without pairs", 1 / row["pairs / pointwise"])))
    row = find("prediction", module="mlp", rows=1)
    regression = ("LogisticRegression", 1 / row["ours / LogisticRegression"])
    lines.append(line("`predict_proba` of one row", f"{show(row['ours ms'])} ms", regression))
    return "\n".join(lines)


def main(argv=None):
    """Run the parts, and write the page after each one."""
    parser = argparse.ArgumentParser(description="Speed of every part of skpref.")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes only, to try it out")
    parser.add_argument("--fresh", action="store_true", help="run again what is in the JSON")
    add_out_option(parser)
    args = parser.parse_args(argv)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown parts {sorted(unknown)}; choose from {list(PARTS)}")
    path = args.out / "speed.json"
    result = {"environment": environment(), "parts": read_json(path, {"parts": {}})["parts"]}
    for name in args.parts or PARTS:
        if name not in result["parts"] or args.fresh:
            result["parts"][name] = PARTS[name](args.quick)
            write_json(path, result)
        write_lines(args.out / "speed.md", page(result))
        print("\n".join([f"## {name}", *table(result["parts"][name]), ""]), flush=True)


if __name__ == "__main__":
    main()
