"""Containers of a column of values, with or without missing ones."""

from collections import deque

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import torch


def _object(values):
    return np.fromiter(values, dtype=object, count=len(values))


def _masked(values):
    gaps = [v is None for v in values]
    known = next(v for v in values if v is not None)
    return np.ma.masked_array([known if v is None else v for v in values], mask=gaps)


def _string_dtype(na_object):
    dtype = np.dtypes.StringDType(na_object=na_object)
    return lambda values: np.array([na_object if v is None else v for v in values], dtype=dtype)


def _read_only(values):
    array = _object(values)
    array.flags.writeable = False
    return array


def _without_gaps(values, dtype):
    if None in values:  # would become the string "None"
        raise TypeError("this array cannot hold a missing value")
    return np.array(values, dtype=dtype)


def _with_nan(values):
    return _object([np.nan if v is None else v for v in values])


# Any values; None becomes the container's own mark.
ANY = {
    "list": list,
    "tuple": tuple,
    "deque": deque,
    "dict values": lambda values: dict(enumerate(values)).values(),
    "generator": lambda values: (v for v in values),
    "iterator": iter,
    "object": _object,
    "object, NaN": _with_nan,
    "list, NA": lambda values: [pd.NA if v is None else v for v in values],
    "list, NaN": lambda values: _with_nan(values).tolist(),
    "object, (n, 1)": lambda values: _object(values)[:, None],
    "read-only": _read_only,
    "reversed": lambda values: _object(values[::-1])[::-1],
    "masked": _masked,
    "list of masked": lambda values: list(_masked(values)),
    "Series": lambda values: pd.Series(values, index=range(5, 5 + len(values))),
    "Series of object": lambda values: pd.Series(values, dtype=object),
    "category": lambda values: pd.Series(values, dtype="category"),
    "Categorical": pd.Categorical,
    "Index": lambda values: pd.Index(values, dtype=object),
    "DataFrame": lambda values: pd.DataFrame({"a": values}),
    "arrow Array": pa.array,
    "arrow ChunkedArray": lambda values: pa.chunked_array([values]),
    "arrow Dictionary": lambda values: pa.array(values).dictionary_encode(),
    "arrow Table": lambda values: pa.table({"a": values}),
    "polars Series": lambda values: pl.Series("a", values),
    "polars DataFrame": lambda values: pl.DataFrame({"a": values}),
}
STRINGS = ANY | {
    "array of str": lambda values: _without_gaps(values, dtype=str),
    "string": lambda values: pd.Series(values, dtype="string"),
    "string[pyarrow]": lambda values: pd.Series(values, dtype="string[pyarrow]"),
    "str": lambda values: pd.Series(values, dtype="str"),
    "polars Categorical": lambda values: pl.Series(values, dtype=pl.Categorical),
    "polars Enum": lambda values: pl.Series(
        values, dtype=pl.Enum(sorted({v for v in values if v is not None}))
    ),
    "StringDType": lambda values: _without_gaps(values, dtype=np.dtypes.StringDType()),
    "StringDType, None": _string_dtype(None),
    "StringDType, NaN": _string_dtype(np.nan),
}
INTEGERS = ANY | {
    "int64": np.array,
    "int8": lambda values: np.array(values, dtype="int8"),
    "big-endian": lambda values: np.array(values, dtype=">i4"),
    "float64": lambda values: np.array(values, dtype=float),
    "float32": lambda values: np.array(values, dtype=np.float32),
    "tensor": torch.tensor,
    "bfloat16": lambda values: torch.tensor(values, dtype=torch.bfloat16),
    "tensor with gradient": lambda values: torch.tensor(
        [np.nan if v is None else v for v in values], dtype=torch.float64, requires_grad=True
    ),
    "list of tensors": lambda values: [None if v is None else torch.tensor(v) for v in values],
    "list of arrays": lambda values: [None if v is None else np.array(v) for v in values],
    "list of NumPy scalars": lambda values: [None if v is None else np.int64(v) for v in values],
    "Int64": lambda values: pd.Series(values, dtype="Int64"),
    "Float64": lambda values: pd.Series(values, dtype="Float64"),
    "int64[pyarrow]": lambda values: pd.Series(values, dtype="int64[pyarrow]"),
    "double[pyarrow]": lambda values: pd.Series(values, dtype="double[pyarrow]"),
    "column of a tensor": lambda values: torch.tensor(values)[:, None],
}
BOOLEANS = ANY | {
    "bool": np.array,
    "boolean": lambda values: pd.Series(values, dtype="boolean"),
    "bool[pyarrow]": lambda values: pd.Series(values, dtype="bool[pyarrow]"),
    "tensor": torch.tensor,
}
_INTEGERS_ONLY = ("int64", "int8", "big-endian", "Int64", "int64[pyarrow]", "list of NumPy scalars")
FLOATS = {name: make for name, make in INTEGERS.items() if name not in _INTEGERS_ONLY} | {
    "torch.float32": lambda values: torch.tensor(values, dtype=torch.float32),
}
DATES = {
    "datetime64": lambda values: np.array(values, dtype="datetime64[s]"),
    "datetime64 in a list": lambda values: list(np.array(values, dtype="datetime64[s]")),
    "Series": lambda values: pd.Series(pd.to_datetime(values)),
    "with time zone": lambda values: pd.Series(pd.to_datetime(values)).dt.tz_localize("UTC"),
    "list of Timestamp": lambda values: pd.Series(pd.to_datetime(values)).tolist(),
    "Index": pd.to_datetime,
    "timedelta64": lambda values: pd.Series(pd.to_datetime(values)) - pd.Timestamp("2020-01-01"),
    "timestamp[pyarrow]": lambda values: pd.Series(
        pd.to_datetime(values), dtype="timestamp[ns][pyarrow]"
    ),
    "Period": lambda values: pd.Series(pd.to_datetime(values)).dt.to_period("D"),
    "arrow": lambda values: pa.array(pd.Series(pd.to_datetime(values))),
    "arrow date": lambda values: pa.array(pd.Series(pd.to_datetime(values))).cast(
        pa.date32(), safe=False
    ),
    "polars": lambda values: pl.Series(values).str.to_date(strict=False),
    "polars with time zone": lambda values: (
        pl.Series(values)
        .str.to_datetime("%Y-%m-%d", strict=False)
        .dt.replace_time_zone("Europe/Berlin")
    ),
}


def hold(make, values):
    """Make a container, or return None if it cannot hold a missing value."""
    try:
        return make(values)
    except (TypeError, ValueError, RuntimeError):
        assert None in values
        return None


def cases(**kinds):
    """Pairs of a maker and an id for `pytest.mark.parametrize`, of some kinds."""
    import pytest

    return [
        pytest.param(kind, make, id=f"{kind}-{name}")
        for kind, makers in kinds.items()
        for name, make in makers.items()
    ]
