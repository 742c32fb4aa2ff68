"""A fuzz of every public estimator, function and parser, from a seed.

Legal input works as promised; illegal input raises a ValueError or TypeError that names an
argument; the order of rows, prompts and classes, names of sessions, containers, clones, pickles
and threads change nothing; no warning of NumPy escapes.

    python -m tests.fuzz --cases 2000            # of seed 0
    python -m tests.fuzz --seed 0 --case 17      # one case again, with its traceback
    python -m tests.fuzz --cases 100000 --start 40000
"""

import argparse
import pickle
import re
import sys
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import sklearn
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

from tests.fuzz_inputs import (
    SPARSE,
    SPOILT,
    choose,
    containers_for,
    draw_data,
    draw_illegal_value,
    name_sessions,
    put_into,
)
from tests.fuzz_judges import JUDGES
from tests.fuzz_parsers import PARSERS
from tests.fuzz_subjects import LENGTHS, SUBJECTS, Broken, ensure
from tests.fuzz_texts import TEXTS

REFUSALS = (ValueError, TypeError)  # NotFittedError is a ValueError

# What scikit-learn says of X without naming it. X is the one array that it checks.
_SAYS_OF_X = (
    "Found array with",
    "Expected 2D array",
    "Expected 2-dimensional",
    "Reshape your data",
    "Complex data not supported",
    "could not convert string to float",
    "is not compatible with arrays of bytes/strings",
    "a float is required",
    "must be a string or a real number",
    "setting an array element with a sequence",
    "inhomogeneous",
    "features, but",
    "sparse",
)


class Report(NamedTuple):
    """One case."""

    number: int
    target: str
    mode: str
    outcome: str  # "works", "refused" or "FAILED"
    notes: list
    error: BaseException | None = None


# --- messages ---


def names_argument(error, names):
    """Return whether a message names one of the arguments."""
    message = str(error)
    if any(re.search(rf"(?<![\w.]){re.escape(name)}(?![\w(])", message) for name in names):
        return True
    return "X" in names and any(part in message for part in _SAYS_OF_X)


def ensure_named(error, names):
    ensure(
        names_argument(error, names),
        f"a message that names one of {list(names)[:8]}: {type(error).__name__}: {error}",
    )


# --- running a subject ---


def run(subject, setting, data):
    """Fit and use a new model; return its output."""
    model = subject.build(setting)
    subject.fit(model, data, setting)
    return model, subject.use(model, data, setting)


def run_legally(subject, setting, data):
    """As `run`; None for a refusal that the documentation announces."""
    try:
        return run(subject, setting, data)
    except REFUSALS as error:
        allowed = [words for holds, words in subject.refusals(setting, data) if holds]
        if any(words in str(error) for words in allowed):
            return None
        raise


def ensure_same(first, second, subject, what, rows=slice(None)):
    """Compare outputs; those by row after bringing the first to the order of the second."""
    for name, value in first.items():
        value = value[rows] if name in subject.by_row else value
        other = second[name]
        ensure(value.shape == other.shape, f"{what}: {name} of the same shape")
        if value.dtype.kind in "fc":
            same = np.allclose(
                value, other, rtol=subject.tolerance, atol=subject.tolerance, equal_nan=True
            )
            gap = np.nanmax(np.abs(value - other), initial=0)
            ensure(same, f"{what}: the same {name}; largest difference {gap:.3g}")
        elif name != "predict":  # follows from the probabilities, up to ties
            ensure((value == other).all(), f"{what}: the same {name}")


def draw_legal(subject, rng, notes):
    data = draw_data(rng)
    setting = subject.draw(rng, data)
    notes.append(f"{setting.params} {setting.options}")
    shape = getattr(data.llm_scores, "shape", None)
    notes.append(
        f"{len(data.truth)} rows, classes {data.classes}, scores {data.score_kind} {shape}"
    )
    return setting, subject.adapt(data, setting)


# --- modes: what a case tries ---


def try_legal(subject, rng, notes):
    setting, data = draw_legal(subject, rng, notes)
    found = run_legally(subject, setting, data)
    if found is None:
        return "refused"
    subject.check(found[0], data, setting, found[1])
    return "works"


def try_illegal_parameter(subject, rng, notes):
    setting, data = draw_legal(subject, rng, notes)
    name = choose(rng, subject.constraints)
    value = draw_illegal_value(rng, subject.constraints[name])
    notes.append(f"illegal {name}={value!r}")
    setting = setting._replace(params=setting.params | {name: value})
    return _expect_refusal(subject, setting, data, (name,))


def try_illegal_data(subject, rng, notes):
    setting, data = draw_legal(subject, rng, notes)
    data, what, names = subject.spoil(rng, data, setting)
    notes.append(f"illegal {what}")
    return _expect_refusal(subject, setting, data, names)


def _expect_refusal(subject, setting, data, names):
    try:
        run(subject, setting, data)
    except REFUSALS as error:
        allowed = [words for holds, words in _refusals(subject, setting, data) if holds]
        if not any(words in str(error) for words in allowed):
            ensure_named(error, names)
        return "refused"
    raise Broken(f"a refusal that names {names}, but it works")


def _refusals(subject, setting, data):
    """The refusals of other things than what was spoilt, which may come first."""
    try:
        return [(bool(holds), words) for holds, words in subject.refusals(setting, data)]
    except Exception:  # of data that no longer have the form that is looked at
        return []


def _edge_one_row(data, rng):
    return data.take(np.arange(1))


def _edge_one_session(data, rng):
    return data._replace(groups=np.zeros(len(data.truth), int))


def _edge_session_per_row(data, rng):
    return data._replace(groups=np.arange(len(data.truth)))


def _edge_one_class(data, rng):
    one = np.full(len(data.truth), data.classes[0])
    return data._replace(y=one, truth=one)


def _edge_no_label(data, rng):
    return data._replace(y=np.full(len(data.truth), -1))


def _edge_equal_rows(data, rng):
    return data._replace(X=np.ones_like(data.X))


def _edge_zero_rows(data, rng):
    return data._replace(X=np.zeros_like(data.X))


def _edge_no_scores(data, rng):
    return data._replace(llm_scores=np.full_like(data.llm_scores, np.nan))


def _edge_few_scores(data, rng):
    scores = data.llm_scores.copy()
    scores[rng.random(len(scores)) < 0.9] = np.nan
    return data._replace(llm_scores=scores)


def _edge_silent_prompt(data, rng):
    scores = data.llm_scores.copy()
    scores[:, 0] = np.nan
    return data._replace(llm_scores=scores)


def _edge_constant_scores(data, rng):
    return data._replace(llm_scores=np.full_like(data.llm_scores, 0.5))


def _edge_zero_scores(data, rng):
    return data._replace(llm_scores=np.zeros_like(data.llm_scores))


def _edge_few_weights(data, rng):
    return data._replace(sample_weight=np.eye(len(data.truth))[0])


def _edge_repeated_rows(data, rng):
    return data.take(rng.integers(len(data.truth), size=len(data.truth)))


EDGES = {name[6:]: value for name, value in list(globals().items()) if name.startswith("_edge_")}


def try_edge(subject, rng, notes):
    """Input at the edge works, with finite results, or is refused by name."""
    data = draw_data(rng, shortest=1)
    setting = subject.draw(rng, data)
    kind = choose(rng, EDGES)
    notes += [f"{setting.params} {setting.options}", f"edge: {kind}"]
    data = subject.adapt(EDGES[kind](data, rng), setting)
    return _works_or_refuses(subject, setting, data)


def _works_or_refuses(subject, setting, data):
    try:
        _, out = run(subject, setting, data)
    except REFUSALS as error:
        ensure_named(error, subject.all_names())
        return "refused"
    for name, value in out.items():
        ensure(value.dtype.kind not in "fc" or not np.isinf(value).any(), f"no infinite {name}")
        if name in ("proba", "decision"):
            ensure(np.isfinite(value).all(), f"finite {name}")
    return "works"


def try_extreme(subject, rng, notes):
    """Units of any size work, with finite results, or are refused by name."""
    setting, data = draw_legal(subject, rng, notes)
    present = [a for a in subject.extremes if getattr(data, a) is not None]
    if not present:
        return "works"
    argument, power = choose(rng, present), int(choose(rng, POWERS))
    with np.errstate(over="ignore"):
        value = np.asarray(getattr(data, argument), dtype=np.float64) * 10.0**power
    value = np.clip(value, -1e308, 1e308)
    if rng.random() < 0.3:  # one outlier among ordinary numbers
        ordinary = np.asarray(getattr(data, argument), dtype=np.float64).copy()
        ordinary.reshape(-1)[0] = value.reshape(-1)[0]
        value = ordinary
    notes.append(f"extreme: {argument} 1e{power}")
    return _works_or_refuses(subject, setting, data._replace(**{argument: value}))


# Beyond 1e300 the sum with which scikit-learn checks X overflows.
POWERS = [-320, -300, -200, -150, -40, -20, -9, 9, 20, 36, 40, 100, 150, 160, 200, 300]


def try_illegal_use(subject, rng, notes):
    """What is illegal after the fit, or without one, is refused as well."""
    setting, data = draw_legal(subject, rng, notes)
    if not subject.uses:
        return "works"
    _ensure_not_fitted(subject, setting, data)
    found = run_legally(subject, setting, data)
    if found is None:
        return "refused"
    argument = choose(rng, subject.uses)
    kinds = {**SPOILT[argument], "wider": lambda table: np.concatenate([table, table], axis=1)}
    taken = (*subject.takes_anyway(argument, data), *LENGTHS[:2])
    kind = choose(rng, [k for k in kinds if k not in taken])
    notes.append(f"after the fit, {argument}: {kind}")
    if getattr(data, argument) is None:
        return "works"
    spoilt = data._replace(**{argument: kinds[kind](getattr(data, argument))})
    try:
        subject.use(found[0], spoilt, setting)
    except REFUSALS as error:
        ensure_named(error, subject.names_of(argument))
        return "refused"
    raise Broken(f"a refusal that names {argument}, but it works")


def _ensure_not_fitted(subject, setting, data):
    try:
        subject.use(subject.build(setting), data, setting)
    except NotFittedError:
        return
    except Exception as error:
        raise Broken(f"NotFittedError before the fit, not {error!r}") from error
    raise Broken("NotFittedError before the fit, but it works")


def try_property(subject, rng, notes):
    if not subject.properties:
        return try_legal(subject, rng, notes)
    setting, data = draw_legal(subject, rng, notes)
    name = choose(rng, subject.properties)
    notes.append(f"property: {name}")
    found = run_legally(subject, setting, data)
    if found is None:
        return "refused"
    PROPERTIES[name](subject, setting, data, rng, notes, *found)
    return "works"


# --- properties ---


def _row_order(subject, setting, data, rng, notes, model, out):
    keeps = getattr(subject, "keeps_row_order", lambda setting, data: True)
    if not keeps(setting, data):
        return
    order = rng.permutation(len(data.truth))
    moved = data._replace(
        **{k: v[order] for k, v in data._asdict().items() if k in _ROWS and v is not None}
    )
    ensure_same(out, run(subject, setting, moved)[1], subject, "row order", order)


_ROWS = (
    "X",
    "y",
    "truth",
    "groups",
    "llm_scores",
    "sample_weight",
    "soft",
    "texts",
    "turn",
)


def _session_names(subject, setting, data, rng, notes, model, out):
    _, codes = np.unique(np.array([str(g) for g in data.groups]), return_inverse=True)
    names = name_sessions(rng, codes)
    if setting.options.get("polars"):
        names = np.array([f"n{c}" for c in codes])
    notes.append(f"sessions renamed to {names[0]!r}, ...")
    renamed = data._replace(groups=names)
    ensure_same(out, run(subject, setting, renamed)[1], subject, "session names")


def _prompt_order(subject, setting, data, rng, notes, model, out):
    if data.llm_scores is None:
        return
    order = rng.permutation(data.llm_scores.shape[1])
    moved = data._replace(llm_scores=data.llm_scores[:, order])
    ensure_same(out, run(subject, setting, moved)[1], subject, "prompt order")


def _class_order(subject, setting, data, rng, notes, model, out):
    order = rng.permutation(len(data.classes))
    if data.llm_scores is None or data.llm_scores.ndim == 2 or data.soft.ndim == 1:
        return
    if "max_pairs" in setting.params:  # then other pairs are drawn
        return
    classes = [data.classes[i] for i in order]
    moved = data._replace(llm_scores=data.llm_scores[:, :, order], soft=data.soft[:, order])
    changed = setting._replace(params=setting.params | {subject.classes_parameter: classes})
    if subject.name == "CalibrationError" and _has_ties(data.soft):
        return
    notes.append(f"classes={classes}")
    ensure_same(out, run(subject, changed, moved)[1], subject, "class order")


def _has_ties(rows):
    ordered = np.sort(rows, axis=1)
    return bool((ordered[:, -1] == ordered[:, -2]).any())


def _sparse(subject, setting, data, rng, notes, model, out):
    kind = choose(rng, SPARSE)
    if not getattr(subject, "keeps_row_order", lambda *_: True)(setting, data):
        return  # many rows are equally far, and which comes first depends on the form
    notes.append(kind.__name__)
    X = data.X.copy()
    if X.shape[1] > 2:  # rows of one number are equally far from each other by their cosine
        X[:, 0] = np.where(rng.random(len(X)) < 0.7, 0, X[:, 0])
    dense = run(subject, setting, data._replace(X=X))[1]
    found = run_legally(subject, setting, data._replace(X=kind(X)))
    if found is not None:
        ensure_same(dense, found[1], subject, "sparse")


def _containers(subject, setting, data, rng, notes, model, out):
    given = [a for a in subject.used(setting) if getattr(data, a) is not None]
    argument = choose(rng, given)
    value = getattr(data, argument)
    if value.ndim > 1 and argument not in ("X", "llm_scores", "soft"):
        return
    if argument == "soft" and value.ndim == 1:
        return
    container = choose(rng, containers_for(argument, value))
    notes.append(f"{argument} in {container}")
    held = data._replace(**{argument: put_into(argument, value, container)})
    ensure_same(out, run(subject, setting, held)[1], subject, f"{argument} in {container}")


def _clone(subject, setting, data, rng, notes, model, out):
    again = clone(model)
    subject.fit(again, data, setting)
    ensure_same(out, subject.use(again, data, setting), subject, "clone")


def _pickle(subject, setting, data, rng, notes, model, out):
    again = pickle.loads(pickle.dumps(model))
    ensure_same(out, subject.use(again, data, setting), subject, "pickle")


def _threads(subject, setting, data, rng, notes, model, out):
    kind = type(subject)
    with ThreadPoolExecutor(2) as pool:
        tasks = [pool.submit(run, kind(), setting, data) for _ in range(3)]
    for task in tasks:
        ensure_same(out, task.result()[1], subject, "threads")


def _output(subject, setting, data, rng, notes, model, out):
    with sklearn.config_context(transform_output=choose(rng, ["pandas", "polars"])):
        ensure_same(out, run(subject, setting, data)[1], subject, "set_config")


def _refit(subject, setting, data, rng, notes, model, out):
    if setting.params.get("warm_start") or setting.options.get("partial_fit"):
        return
    subject.fit(model, draw_data_like(rng, data, subject, setting), setting)
    subject.fit(model, data, setting)
    ensure_same(out, subject.use(model, data, setting), subject, "refit")


def draw_data_like(rng, data, subject, setting):
    """Other rows of the same classes, width and form."""
    return data._replace(**{k: v[::-1] for k, v in data._asdict().items() if _is_rows(k, v)})


def _is_rows(name, value):
    return name in _ROWS and value is not None


def _continue(subject, setting, data, rng, notes, model, out):
    """Training continues with the same kind of data in another precision, and no other kind."""
    model.set_params(warm_start=True)
    other = np.float32 if data.X.dtype == np.float64 else np.float64
    for X in (data.X, data.X.astype(other)):
        again = data._replace(X=X)
        subject.fit(model, again, setting)
        subject.check(model, again, setting, subject.use(model, again, setting))
    before = subject.use(model, data, setting)
    try:
        subject.fit(model, data._replace(X=np.hstack([data.X, data.X])), setting)
    except REFUSALS as error:
        ensure_named(error, ("X",))
        ensure_same(before, subject.use(model, data, setting), subject, "after a refused fit")
        return
    raise Broken("a refusal of more features, but training goes on")


def _scoring(subject, setting, data, rng, notes, model, out):
    """`score` refuses what `fit` refuses."""
    kind = choose(rng, [k for k in SPOILT["y"] if k != "continuous"])
    spoilt = SPOILT["y"][kind](data.truth)
    notes.append(f"score with y: {kind}")
    try:
        model.score(data.X, spoilt)
    except REFUSALS as error:
        ensure_named(error, ("y", "X"))
        return
    raise Broken("a refusal that names y, but it is scored")


def _state(subject, setting, data, rng, notes, model, out):
    """A refused fit leaves a fitted model as it was, and a new one plainly unfitted."""
    spoilt, what, _ = subject.spoil(rng, data, setting)
    notes.append(f"state after {what}")
    try:
        subject.fit(model, spoilt, setting)
    except REFUSALS:
        again = type(subject)()
        again.__dict__.update(subject.__dict__)
        used = again.use(model, data, setting)
        kept = {k: v for k, v in used.items() if k != "fit_transform"}
        ensure_same({k: out[k] for k in kept}, kept, subject, "after a refused fit")
    new = subject.build(setting)
    try:
        subject.fit(new, spoilt, setting)
    except REFUSALS:
        try:
            subject.use(new, data, setting)
        except NotFittedError:
            return
        except Exception as error:
            raise Broken(f"NotFittedError after a refused fit, not {error!r}") from error
        raise Broken("NotFittedError after a refused fit, but it predicts") from None


PROPERTIES = {
    "row order": _row_order,
    "session names": _session_names,
    "prompt order": _prompt_order,
    "class order": _class_order,
    "sparse": _sparse,
    "containers": _containers,
    "clone": _clone,
    "pickle": _pickle,
    "threads": _threads,
    "output": _output,
    "refit": _refit,
    "state": _state,
    "continue": _continue,
    "scoring": _scoring,
}

MODES = {
    "legal": (try_legal, 4),
    "illegal parameter": (try_illegal_parameter, 3),
    "illegal data": (try_illegal_data, 5),
    "illegal use": (try_illegal_use, 2),
    "edge": (try_edge, 3),
    "extreme": (try_extreme, 2),
    "property": (try_property, 6),
}


# --- cases ---


def _pick(rng, weights):
    names = list(weights)
    p = np.array([weights[n] for n in names], dtype=float)
    return names[rng.choice(len(names), p=p / p.sum())]


_BY_NAME = {s.name: s for s in SUBJECTS + JUDGES}
_OTHERS = PARSERS | TEXTS
_WEIGHTS = {name: s.weight for name, s in _BY_NAME.items()} | {
    n: w for n, (_, w) in _OTHERS.items()
}


def run_case(seed, number, only=None):
    """Run one case and report it."""
    rng = np.random.default_rng((seed, number))
    target = _pick(rng, _WEIGHTS if only is None else {only: 1})
    notes: list = []
    mode = "legal"
    before = _global_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", RuntimeWarning)
        try:
            if target in _OTHERS:
                outcome = _OTHERS[target][0](rng, notes)
            else:
                mode = _pick(rng, {name: weight for name, (_, weight) in MODES.items()})
                outcome = MODES[mode][0](type(_BY_NAME[target])(), rng, notes)
            ensure(_global_state() == before, "global random generators as before")
        except (Exception, RuntimeWarning) as error:
            return Report(number, target, mode, "FAILED", notes, error)
    return Report(number, target, mode, outcome, notes)


def _global_state():
    numpy_state = np.random.get_state()  # noqa: NPY002
    torch = sys.modules.get("torch")
    # Before torch is imported its generator is in the state of the import.
    return numpy_state[1].tobytes(), torch and torch.get_rng_state().numpy().tobytes()


def show_failure(report, seed):
    error = report.error
    print(
        f"\nFAILED {report.target}, {report.mode}: python -m tests.fuzz --seed {seed} "
        f"--case {report.number}"
    )
    print(f"  {type(error).__name__}: {str(error)[:400]}")
    where = [f for f in traceback.extract_tb(error.__traceback__) if "skpref" in f.filename]
    if where:
        print(f"  at {where[-1].filename.rpartition('skpref/')[2]}:{where[-1].lineno}")
    for note in report.notes:
        print(f"  {note[:300]}")


def run_cases(seed, numbers, only=None, every=1000):
    """Run cases, print failures and progress, and return all reports' counts and failures."""
    import torch  # noqa: F401  (so that the first fit does not change what is compared)

    counts: Counter = Counter()
    failures = []
    started = time.perf_counter()
    for done, number in enumerate(numbers, 1):
        report = run_case(seed, number, only)
        counts[report.target, report.mode, report.outcome] += 1
        if report.error is not None:
            failures.append(report)
            show_failure(report, seed)
        if done % every == 0:
            pace = (time.perf_counter() - started) / done
            print(
                f"{done:,} cases, {len(failures)} failures, {1e3 * pace:.0f} ms each; "
                f"resume with --start {number + 1}",
                flush=True,
            )
    return counts, failures


def table(counts):
    """The counts by target and outcome, and by mode."""
    outcomes = ["works", "refused", "FAILED"]
    lines = [f"{'':24}" + "".join(f"{o:>9}" for o in outcomes)]
    for position in (0, 1):
        for name in sorted({key[position] for key in counts}):
            row = [
                sum(n for k, n in counts.items() if k[position] == name and k[2] == o)
                for o in outcomes
            ]
            lines.append(f"{name:24}" + "".join(f"{n:9,}" for n in row))
        lines.append("")
    total = [sum(n for k, n in counts.items() if k[2] == o) for o in outcomes]
    return "\n".join([*lines, f"{'all':24}" + "".join(f"{n:9,}" for n in total)])


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cases", type=int, default=2000, help="number of the last case, plus 1")
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--case", type=int, help="run this case alone, with its traceback")
    parser.add_argument("--target", choices=sorted(_WEIGHTS), help="one target in every case")
    options = parser.parse_args(arguments)
    if options.case is not None:
        counts, failures = run_cases(options.seed, [options.case], options.target)
        for report in failures:
            traceback.print_exception(report.error)
    else:
        numbers = range(options.start, options.cases)
        counts, failures = run_cases(options.seed, numbers, options.target)
    print(f"\n{table(counts)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
