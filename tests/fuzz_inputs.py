"""Random input of the fuzz: data, the containers that hold it, parameters, and what is illegal."""

import datetime
import uuid
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from scipy import sparse
from scipy.special import softmax
from sklearn.utils._param_validation import Interval, StrOptions, make_constraint

# --- data ---


class Data(NamedTuple):
    """One draw of everything that the library takes; a subject picks what it needs."""

    X: Any
    y: Any  # human labels, some rows unlabelled
    truth: np.ndarray  # the label of each row
    groups: Any
    llm_scores: Any
    sample_weight: Any
    soft: np.ndarray  # soft labels
    texts: np.ndarray
    turn: np.ndarray
    classes: list  # sorted
    score_kind: str

    def take(self, rows):
        return self._replace(**{name: getattr(self, name)[rows] for name in BY_ROW})


BY_ROW = (
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


def choose(rng, options):
    options = list(options)
    return options[rng.integers(len(options))]


def draw_data(rng, n_sessions=None, shortest=2):
    """Sessions of at least two classes, every class labelled in some row, in random row order."""
    k = int(choose(rng, [2, 2, 2, 3, 4]))
    lengths = rng.integers(shortest, 7, size=n_sessions or rng.integers(k, k + 5))
    session = np.repeat(np.arange(len(lengths)), lengths)
    n = len(session)
    codes = (np.arange(n) + rng.integers(k)) % k
    labelled = rng.permutation(len(lengths))[session] < max(len(lengths) // 2, 1)
    labelled[[np.flatnonzero(codes == c)[0] for c in range(k) if c in codes]] = True
    classes, y = _label(rng, k, codes, labelled)
    kind = choose(rng, ["probability", "probability", "votes", "log_odds", "raw"])
    data = Data(
        X=_draw_features(rng, codes),
        y=y,
        truth=np.asarray(classes)[codes],
        groups=name_sessions(rng, session),
        llm_scores=_draw_scores(rng, codes, k, kind),
        sample_weight=choose(rng, [np.ones(n), rng.uniform(0.1, 2, n), rng.integers(1, 4, n)]),
        soft=softmax(3 * np.eye(k)[codes] + rng.normal(size=(n, k)), axis=1),
        texts=as_objects([f"{choose(rng, WORDS)} {choose(rng, WORDS)} {i}" for i in range(n)]),
        turn=np.concatenate([np.sort(rng.permutation(50)[:length]) for length in lengths]),
        classes=classes,
        score_kind=kind,
    )
    return data.take(rng.permutation(n))


WORDS = ["thanks", "refund", "it broke", "{hello}", "où ça", "ok\nbye", "", "😀", "agent: hi", "no"]


def as_objects(values):
    values = list(values)
    return np.fromiter(values, dtype=object, count=len(values))


LABELS = {
    "numbers": [0, 1, 2, 3],
    "gaps": [3, 7, 11, 200],
    "negative": [-9, -4, 0, 5],
    "floats": [0.0, 1.0, 2.0, 3.0],
    "strings": ["a b", "bad", "good", "no"],
}


def _label(rng, k, codes, labelled):
    """Class labels, and the label of each row with a mark of no label."""
    if k == 2 and rng.random() < 0.15:
        return [False, True], as_objects(
            bool(c) if known else None for c, known in zip(codes, labelled, strict=True)
        )
    kind = choose(rng, LABELS)
    classes = LABELS[kind][:k]
    if kind == "strings" or rng.random() < 0.2:
        mark = choose(rng, [None, np.nan, -1] if kind != "strings" else [None, np.nan])
        return classes, as_objects(
            classes[c] if known else mark for c, known in zip(codes, labelled, strict=True)
        )
    return classes, np.where(labelled, np.asarray(classes)[codes], -1)


def _draw_features(rng, codes):
    p = rng.integers(1, 6)
    X = rng.normal(size=(len(codes), p)) + rng.normal(size=(codes.max() + 1, p))[codes]
    X = X * 10 ** rng.uniform(-2, 2)
    return X.astype(choose(rng, [np.float64, np.float64, np.float32]))


def _draw_scores(rng, codes, k, kind):
    n_prompts = rng.integers(1, 4)
    logits = 2 * np.eye(k)[codes][:, None] + rng.normal(size=(len(codes), n_prompts, k))
    scores = {
        "probability": lambda: softmax(logits, axis=2),
        "votes": lambda: np.eye(k)[logits.argmax(axis=2)],
        "log_odds": lambda: logits,
        "raw": lambda: np.clip(np.round(3 + 2 * logits), 1, 9),
    }[kind]()
    missing = rng.random(scores.shape[:2]) < choose(rng, [0, 0, 0.2])
    if missing.all(axis=1).mean() <= 0.25:  # else there might be no pair of soft labels
        scores[missing] = np.nan
    return scores[:, :, 1] if k == 2 and rng.random() < 0.5 else scores


def name_sessions(rng, codes):
    """Session ids of some type."""
    number = rng.permutation(1000)[: codes.max() + 1]
    start = datetime.datetime(2026, 1, 1)
    kinds = {
        "str": lambda i: f"s{i}",
        "int": int,
        "float": lambda i: i + 0.5,
        "tuple": lambda i: (f"s{i}", int(i)),
        "uuid": lambda i: uuid.UUID(int=int(i)),
        "mixed": lambda i: int(i) if i % 2 else f"s{i}",
        "datetime": lambda i: start + datetime.timedelta(hours=int(i)),
        "datetime64": lambda i: np.datetime64("2026-01-01") + int(i),
    }
    kind = choose(rng, kinds)
    names = [kinds[kind](i) for i in number]
    if kind in ("str", "int", "float", "datetime64"):
        return np.asarray(names)[codes]
    return as_objects(names)[codes]


# --- containers ---


def _values(column):
    return column.tolist() if column.dtype.kind != "M" else list(column)


def _is_plain(column):
    """Whether frames can hold the values: those of one plain type, with gaps."""
    kinds = {type(v) for v in _values(column) if not _is_gap(v)}
    return len(kinds) == 1 and kinds <= {int, float, str, bool}


def _is_gap(value):
    return value is None or (isinstance(value, float) and value != value)


def _with_gaps(column):
    return [None if _is_gap(v) else v for v in _values(column)]


def _masked(column):
    """The values with other ones behind a mask where there is a gap."""
    values = _values(column)
    gap = np.array([_is_gap(v) for v in values])
    known = [v for v in values if not _is_gap(v)]
    return np.ma.masked_array(
        [known[0] if g else v for v, g in zip(values, gap, strict=True)], mask=gap
    )


def _tensor(array):
    import torch

    return torch.as_tensor(np.array(array))


def _read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


COLUMNS = {
    "list": (_values, None),
    "tuple": (lambda c: tuple(_values(c)), None),
    "object array": (lambda c: as_objects(_values(c)), None),
    "read-only array": (_read_only, None),
    "negative strides": (lambda c: c[::-1].copy()[::-1], None),
    "pandas": (lambda c: pd.Series(_with_gaps(c), index=np.arange(len(c))[::-1]), "plain"),
    "pandas objects": (lambda c: pd.Series(as_objects(_values(c))), None),
    "pandas nullable": (lambda c: pd.Series(_with_gaps(c)).convert_dtypes(), "plain"),
    "pandas arrow": (
        lambda c: pd.Series(_with_gaps(c)).convert_dtypes(dtype_backend="pyarrow"),
        "plain",
    ),
    "categorical": (lambda c: pd.Series(pd.Categorical(_with_gaps(c))), "plain"),
    "polars": (lambda c: pl.Series(_with_gaps(c)), "plain"),
    "pyarrow": (lambda c: pa.array(_with_gaps(c)), "plain"),
    "pyarrow chunks": (lambda c: pa.chunked_array([pa.array(_with_gaps(c))]), "plain"),
    "pandas frame": (lambda c: pd.DataFrame({"c": _with_gaps(c)}), "plain"),
    "polars frame": (lambda c: pl.DataFrame({"c": _with_gaps(c)}), "plain"),
    "masked": (_masked, "plain"),
    "strings": (
        lambda c: np.array(_with_gaps(c), dtype=np.dtypes.StringDType(na_object=None)),
        "str",
    ),
    "tensor": (_tensor, "number"),
}

TABLES = {
    "list": (lambda t: t.tolist(), None),
    "fortran": (np.asfortranarray, None),
    "read-only array": (_read_only, None),
    "tensor": (_tensor, None),
    "pandas": (pd.DataFrame, "2-D"),
    "polars": (lambda t: pl.DataFrame(np.ascontiguousarray(t)), "2-D"),
}

# For LLM scores, where NaN is a gap.
GAPPED_TABLES = {
    **TABLES,
    "masked": (lambda t: np.ma.masked_array(np.where(np.isnan(t), 9, t), np.isnan(t)), None),
    "objects": (lambda t: np.where(np.isnan(t), None, t.astype(object)), None),
    "pandas nullable": (lambda t: pd.DataFrame(t).convert_dtypes(), "2-D"),
    "polars nulls": (lambda t: pl.DataFrame(np.ascontiguousarray(t)).fill_nan(None), "2-D"),
}


def containers_for(name, value):
    """Names of the containers that can hold an argument."""
    if name in ("X", "llm_scores", "soft"):
        tables = GAPPED_TABLES if name == "llm_scores" else TABLES
        return [c for c, (_, needs) in tables.items() if not needs or value.ndim == 2]
    plain = _is_plain(value)
    fits = {
        None: True,
        "plain": plain,
        "str": plain and isinstance(_with_gaps(value)[0], str | None.__class__),
        "number": value.dtype.kind in "iuf",
    }
    if value.dtype.kind not in "OU":
        fits["str"] = False
    elif plain:
        fits["str"] = all(v is None or isinstance(v, str) for v in _with_gaps(value))
    return [c for c, (_, needs) in COLUMNS.items() if fits[needs]]


def put_into(name, value, container):
    if name in ("X", "llm_scores", "soft"):
        return GAPPED_TABLES[container][0](value)
    return COLUMNS[container][0](value)


SPARSE = [
    sparse.csr_matrix,
    sparse.csc_matrix,
    sparse.coo_matrix,
    sparse.csr_array,
    sparse.csc_array,
    sparse.lil_matrix,
]

# --- parameters ---

# Largest values of parameters that cost time or memory in proportion.
CAPS = {
    "max_epochs": 2,
    "max_iter": 20,
    "n_iter": 3,
    "n_bootstrap": 12,
    "n_sessions": 8,
    "n_features": 8,
    "n_prompts": 5,
    "n_classes": 5,
    "n_pairs": 300,
    "n_bins": 200,
    "n_gap_bins": 60,
    "n_iter_no_change": 9,
    "encoder_epochs": 1,
    "finetune_epochs": 1,
    "n_samples": 2,
    "max_concurrency": 3,
}


def draw_value(rng, name, constraint):
    """A legal value by one constraint of scikit-learn's kind."""
    if constraint is None:
        return None
    if isinstance(constraint, StrOptions):
        return choose(rng, sorted(constraint.options))
    if isinstance(constraint, Interval):
        draw = _draw_int if constraint.type is Integral else _draw_real
        return draw(rng, name, constraint)
    if constraint == "boolean":
        return bool(rng.integers(2))
    if constraint == "random_state":
        return int(rng.integers(100))
    raise NotImplementedError(f"{name}: no draw for the constraint {constraint!r}")


def _draw_int(rng, name, interval):
    low = int(interval.left if interval.left is not None else 0)
    low += interval.closed in ("right", "neither")
    high = CAPS.get(name, low + 10**9) if interval.right is None else int(interval.right)
    small = min(high, low + 12)
    return int(choose(rng, [low, rng.integers(low, small + 1), rng.integers(low, small + 1), high]))


def _draw_real(rng, name, interval):
    low = 0.0 if interval.left is None else float(interval.left)
    high = low + 10 ** rng.uniform(-2, 1) if interval.right is None else float(interval.right)
    high = min(high, low + 10 ** rng.uniform(-2, 1))
    edges = [low] * (interval.closed in ("left", "both"))
    edges += [high] * (interval.closed in ("right", "both") and interval.right is not None)
    inside = [low + (high - low) * rng.uniform(0.01, 0.99) for _ in range(3)]
    return float(choose(rng, edges + inside))


def draw_parameters(rng, constraints, own, share=0.3):
    """Legal values of some parameters; `own` has draws of those that constraints do not tell."""
    values = {}
    for name, allowed in constraints.items():
        if rng.random() > share:
            continue
        values[name] = own[name](rng) if name in own else _draw_allowed(rng, name, allowed)
    return values


def _draw_allowed(rng, name, allowed):
    known = [c for c in allowed if _has_draw(c)]
    return draw_value(rng, name, choose(rng, known))


def _has_draw(constraint):
    return (
        constraint is None
        or isinstance(constraint, StrOptions | Interval)
        or constraint in ("boolean", "random_state")
    )


_ODD = [
    -1,
    0,
    2,
    1.5,
    -0.5,
    1e300,
    np.nan,
    np.inf,
    -np.inf,
    None,
    "nonsense",
    "",
    b"bytes",
    1j,
    [],
    {},
    (),
    object(),
    np.array([1.0, 2.0]),
    pd.NA,
    print,
]


def draw_illegal_value(rng, allowed):
    """A value that satisfies none of the constraints, or the string "none" in a tuple."""
    constraints = [make_constraint(c) for c in allowed]
    bad = [v for v in _ODD if not any(_satisfied(c, v) for c in constraints)]
    return choose(rng, bad)


def _satisfied(constraint, value):
    try:
        return bool(constraint.is_satisfied_by(value))
    except (TypeError, ValueError):
        return False


# --- arguments that must be refused ---


def _set(array, value):
    """The array with a value in one place."""
    array = np.array(array, dtype=object if not isinstance(value, float) else float)
    array.reshape(-1)[0] = value
    return array


_SPOILT_TABLE = {
    "inf": lambda t: _set(t, np.inf),
    "strings": lambda t: np.full(t.shape, "word"),
    "objects": lambda t: np.full(t.shape, object()),
    "complex": lambda t: t + 1j,
    "shorter": lambda t: t[:-1],
    "longer": lambda t: np.concatenate([t, t[:1]]),
    "no rows": lambda t: t[:0],
    "flat": lambda t: t.reshape(len(t), -1)[:, 0],
    "no columns": lambda t: t[:, :0],
    "four dimensions": lambda t: np.zeros((len(t), 2, 2, 2)),
    "a number": lambda t: 5,
    "a string": lambda t: "abc",
    "ragged": lambda t: [[0.5] * 9, *t[1:].tolist()],
}

_SPOILT_COLUMN = {
    "shorter": lambda c: c[:-1],
    "longer": lambda c: np.concatenate([c, c[:1]]),
    "two columns": lambda c: np.column_stack([c, c]),
    "a number": lambda c: 5,
    "a string": lambda c: "abc",
    "a set": lambda c: {1, 2},
    "no rows": lambda c: c[:0],
}

SPOILT = {
    "X": {
        **_SPOILT_TABLE,
        "nan": lambda X: _set(X, np.nan),
        "masked": lambda X: np.ma.masked_array(X, mask=np.arange(X.size).reshape(X.shape) < 1),
        "None": lambda X: None,
    },
    "llm_scores": {**_SPOILT_TABLE, "sparse": lambda s: sparse.csr_matrix(s.reshape(len(s), -1))},
    "y": {
        **_SPOILT_COLUMN,
        "continuous": lambda y: np.linspace(0.1, 0.9, len(y)),
        "mixed types": lambda y: as_objects([*(["a", 5] * len(y))[: len(y)]]),
        "objects": lambda y: as_objects(object() for _ in y),
        "infinite": lambda y: np.full(len(y), np.inf),
    },
    "groups": {
        **_SPOILT_COLUMN,
        "None": lambda g: _set(g, None),
        "nan": lambda g: as_objects([np.nan, *g[1:]]),
        "NA": lambda g: as_objects([pd.NA, *g[1:]]),
        "NaT": lambda g: np.array(["NaT"] * len(g), dtype="datetime64[s]"),
        "masked": lambda g: np.ma.masked_array(np.arange(len(g)), mask=np.arange(len(g)) < 2),
        "lists": lambda g: as_objects([i] for i in range(len(g))),
        "objects": lambda g: as_objects(object() for _ in g),
        "strings with None": lambda g: np.array(
            [None, *["a"] * (len(g) - 1)], dtype=np.dtypes.StringDType(na_object=None)
        ),
    },
    "sample_weight": {
        "shorter": lambda w: w[:-1],
        "longer": lambda w: np.concatenate([w, w[:1]]),
        "negative": lambda w: _set(w, -1.0),
        "nan": lambda w: _set(w, np.nan),
        "inf": lambda w: _set(w, np.inf),
        "strings": lambda w: np.full(len(w), "heavy"),
        "two columns": lambda w: np.column_stack([w, w]),
        "all zero": lambda w: np.zeros(len(w)),
        "a string": lambda w: "balanced",
    },
}
SPOILT["soft"] = {k: v for k, v in SPOILT["X"].items() if k not in ("objects", "masked")}
