"""Read columns and tables, whatever holds them, into NumPy arrays that show what is missing."""

from collections.abc import Iterable, Mapping, Set
from typing import Any

import narwhals as nw
import numpy as np
from scipy import sparse
from sklearn.utils import indexable

from skpref._sklearn import _num_samples
from skpref._typing import BoolArray, FloatArray

_MASKED = type(np.ma.masked)


def is_missing(values: np.ndarray) -> BoolArray:
    """Return which entries are None, NaN, NaT or masked, whatever the dtype.

    Parameters
    ----------
    values : ndarray
        Numbers, dates, strings or objects.

    Returns
    -------
    ndarray of bool, same shape
        True where an entry, or a part of a tuple, is None, NaN, NaT, pandas' NA or NumPy's
        masked.
    """
    if values.dtype.kind in "fc":
        return np.isnan(values)
    if values.dtype.kind in "mM":
        return np.isnat(values)
    if values.dtype.kind not in "OT":
        return np.zeros(values.shape, dtype=bool)
    flat = values.astype(object).ravel().tolist()
    found = np.fromiter(map(_is_missing_value, flat), dtype=bool, count=len(flat))
    return found.reshape(values.shape)


def _is_missing_value(value: Any) -> bool:
    if value is None or value is np.ma.masked:
        return True
    if isinstance(value, tuple):
        return any(map(_is_missing_value, value))
    try:
        # An entry that does not equal itself is NaN or NaT.
        return bool(value != value)
    except TypeError:  # pandas' NA has no truth value
        return True
    except (ValueError, RuntimeError):  # nor has an array or a tensor, which is not missing
        return False


def read_column(values: Any, name: str, *, entry: str = "value") -> np.ndarray:
    """Read one value per row.

    Parameters
    ----------
    values : array-like of shape (n_samples,) or (n_samples, 1), or iterable
        A list, range or generator; an array, masked array or tensor; a column, or a frame of one
        column, of pandas, polars, pyarrow or another library.
    name : str
        The argument, for errors.
    entry : str, default="value"
        One of the values, for errors.

    Returns
    -------
    ndarray of shape (n_samples,)
        Numbers, strings or dates; objects if these have no common type, if they are tuples, or
        None if masked.

    Raises
    ------
    ValueError
        If there is not one value per row.
    """
    is_iterable = isinstance(values, Iterable) or hasattr(values, "__array__")
    if not is_iterable or isinstance(values, str | bytes | Mapping | Set):
        raise ValueError(
            f"{name} is {values!r:.60} of type {type(values).__name__}; pass a list or an array "
            f"with one {entry} per row."
        )
    if sparse.issparse(values):
        raise ValueError(f"{name} is sparse; pass a dense array with one {entry} per row.")
    try:
        column = _to_array(values)
    except (TypeError, ValueError, RuntimeError) as error:
        # scikit-learn wants a TypeError for an array with other objects in it, such as dicts.
        of_array = isinstance(error, TypeError) and isinstance(values, np.ndarray)
        kind = TypeError if of_array else ValueError
        raise kind(
            f"{name} cannot be read ({error}); pass a list or an array with one {entry} per row."
        ) from error
    if column.ndim == 2 and column.shape[1] == 1:
        column = column[:, 0]
    if column.ndim != 1:
        raise ValueError(f"{name} has shape {column.shape}; pass one {entry} per row.")
    if column.dtype.kind in "VT":  # records become tuples
        column = _as_objects(column.tolist())
    return _by_value(column) if column.dtype.kind == "O" else column


def is_table(values: Any) -> bool:
    """Return whether a container has rows of several columns.

    Parameters
    ----------
    values : array-like
        As for `read_column` and `read_numbers`.

    Returns
    -------
    bool
        False for one value per row, also in a frame or array of one column.
    """
    if isinstance(values, list | tuple):
        return len(values) > 0 and np.ndim(values[0]) > 0 and len(values[0]) != 1
    shape = getattr(values, "shape", ())
    return len(shape) > 1 and tuple(shape[1:]) != (1,)


def read_rows(X: Any) -> tuple[Any, int]:
    """Return input of a classifier in a form that rows can be taken of.

    Parameters
    ----------
    X : {array-like, sparse matrix, frame} or list of str
        One row per utterance.

    Returns
    -------
    X : {ndarray, CSR matrix, frame, list}
        The same rows.
    n_rows : int
        How many they are.

    Raises
    ------
    TypeError
        If `X` has no rows.
    """
    try:
        if isinstance(X, str | bytes):
            raise TypeError
        (rows,) = indexable(X)
        return rows, _num_samples(rows)
    except TypeError:
        raise TypeError(
            f"X must hold a row per utterance, but it is {X!r:.80}; pass an array, a sparse "
            "matrix, a frame or a list."
        ) from None


def read_numbers(values: Any, name: str) -> FloatArray:
    """Read an array of real numbers, of any shape.

    Parameters
    ----------
    values : array-like
        Lists, an array, a masked array or tensor, or a column or frame of any library.
    name : str
        The argument, for errors.

    Returns
    -------
    ndarray of float32 or float64
        The numbers, NaN where one is missing or masked; float32 if they were, else float64.

    Raises
    ------
    TypeError
        If an entry of an array is neither a number nor a string.
    ValueError
        If an entry is not a number, or rows differ in length.
    """
    if sparse.issparse(values):
        raise ValueError(f"{name} is sparse; pass a dense array of numbers.")
    try:
        array = _to_array(values, rows_are_entries=False)
        if array.dtype.kind in "OT":
            array = _as_floats(array)
    except (TypeError, ValueError, RuntimeError) as error:
        # scikit-learn wants a TypeError for an array with other objects in it, such as dicts.
        of_array = isinstance(error, TypeError) and isinstance(values, np.ndarray)
        kind = TypeError if of_array else ValueError
        raise kind(
            f"{name} cannot be read as numbers ({error}); pass an array of numbers, NaN if missing."
        ) from error
    if array.dtype.kind == "c":
        raise ValueError(f"{name}: Complex data not supported; pass real numbers.")
    if array.dtype.kind in "mMV":
        raise ValueError(f"{name} has the dtype {array.dtype}; pass numbers.")
    if array.dtype in (np.float32, np.float64):
        return array
    try:
        return array.astype(np.float64)
    except ValueError as error:
        raise ValueError(
            f"{name} cannot be read as numbers ({error}); pass an array of numbers, NaN if missing."
        ) from error


def _as_floats(objects: np.ndarray) -> np.ndarray:
    """Turn objects into float64, NaN where one is missing; complex if one is."""
    floats = np.full(objects.shape, np.nan)
    known = ~is_missing(objects)
    values = objects[known].tolist()
    if any(isinstance(value, complex) for value in values):
        return objects.astype(complex)
    floats[known] = list(map(float, values))
    return floats


def _to_array(values: Any, *, rows_are_entries: bool = True) -> np.ndarray:
    """Return an array of what a container holds; one of objects, None if masked, if need be.

    With `rows_are_entries` a tuple in a list is one entry, otherwise a row.
    """
    if np.ma.isMaskedArray(values):
        return _unmask(values)
    if isinstance(values, np.ndarray):
        return np.asarray(values)
    if hasattr(values, "detach"):  # a tensor, perhaps on a device and with a gradient
        return _tensor_to_array(values)
    if hasattr(values, "iloc") and values.ndim == 2:  # names need not be distinct, nor strings
        columns = [_to_array(values.iloc[:, k]) for k in range(values.shape[1])]
        return _join_columns(columns, len(values))
    if hasattr(values, "to_pylist") and hasattr(values, "null_count"):
        return _arrow_to_array(values)
    frame = nw.from_native(values, pass_through=True, allow_series=True)
    if isinstance(frame, nw.LazyFrame):
        raise TypeError("a lazy frame holds no values yet, call collect() first")
    if isinstance(frame, nw.Series):
        return _series_to_array(frame)
    if isinstance(frame, nw.DataFrame):
        return _join_columns(list(map(_series_to_array, frame.iter_columns())), len(frame))
    if hasattr(values, "to_numpy"):
        return np.asarray(values.to_numpy())
    if hasattr(values, "__array__"):
        return np.asarray(values)
    if isinstance(values, memoryview) or type(values).__module__ == "array":
        return np.asarray(values)
    values = list(values)
    return _list_to_array(values) if rows_are_entries else _rows_to_array(values)


def _unmask(values: np.ma.MaskedArray) -> np.ndarray:
    """Return a masked array with NaN, or None unless it is of floats, behind the mask."""
    if not np.ma.getmaskarray(values).any():
        return np.asarray(values)
    if values.dtype.kind == "f":
        return values.filled(np.nan)
    objects = values.data.astype(object)
    objects[np.ma.getmaskarray(values)] = None
    return objects


def _tensor_to_array(tensor: Any) -> np.ndarray:
    tensor = tensor.detach().cpu()
    try:
        return np.asarray(tensor.numpy())
    except TypeError:  # NumPy has no bfloat16
        return np.asarray(tensor.float().numpy())


def _arrow_to_array(values: Any) -> np.ndarray:
    """Read an array or chunked array of pyarrow."""
    if hasattr(values, "dictionary_decode"):
        values = values.dictionary_decode()
    # Integers with gaps would become floats, which hold fewer digits.
    if values.null_count and str(values.type).startswith(("int", "uint")):
        return _as_objects(values.to_pylist())
    if hasattr(values, "chunks"):
        return np.asarray(values.to_numpy())
    return np.asarray(values.to_numpy(zero_copy_only=False))


def _series_to_array(series: nw.Series) -> np.ndarray:
    if series.dtype.is_integer() and series.null_count():
        return _as_objects(series.to_list())
    if type(series.to_native()).__module__.startswith("pandas"):
        return np.asarray(series.to_native().to_numpy())  # keeps time zones
    return np.asarray(series.to_numpy())


def _join_columns(columns: list[np.ndarray], n_rows: int) -> np.ndarray:
    """Return columns as one array; of objects if they are not all numbers."""
    if not columns:
        return np.empty((n_rows, 0))
    kinds = {column.dtype.kind for column in columns}
    if len(kinds) > 1 and not kinds <= set("fiub"):
        columns = [column.astype(object) for column in columns]
    return np.column_stack(columns)


def _as_objects(values: list) -> np.ndarray:
    return np.fromiter(values, dtype=object, count=len(values))


def _list_to_array(values: list) -> np.ndarray:
    """Return an array of entries; those that are lists are rows of a table."""
    kinds = set(map(type, values))
    if kinds == {list}:
        return np.array(values, dtype=object) if len(set(map(len, values))) == 1 else _ragged()
    if len(kinds) == 1 and kinds <= {int, float, bool}:
        array = np.asarray(values)
        # Large integers of both signs become floats, which merge those that are close.
        if kinds != {int} or array.dtype.kind in "iu":
            return array
    return _as_objects(values)


def _ragged() -> np.ndarray:
    raise ValueError("its rows differ in length")


def _rows_to_array(values: list) -> np.ndarray:
    """Return an array of nested lists, or of arrays in a list."""
    if any(hasattr(value, "__array__") and np.ndim(value) for value in values):
        return np.stack([_to_array(value, rows_are_entries=False) for value in values])
    array = np.array(values, dtype=object)
    if any(isinstance(entry, list | tuple) for entry in array.ravel().tolist()):
        return _ragged()
    return array


def _by_value(column: np.ndarray) -> np.ndarray:
    """Replace arrays and tensors of one number by the number, and masked entries by None.

    Tensors compare by identity, and masked entries have no hash.
    """
    entries = column.tolist()
    kinds = set(map(type, entries))
    if not any(_is_array_type(kind) or kind is _MASKED for kind in kinds):
        return column

    def to_value(entry):
        if entry is np.ma.masked:
            return None
        return entry.item() if _is_array_type(type(entry)) and _size(entry) == 1 else entry

    return _as_objects(list(map(to_value, entries)))


def _is_array_type(kind: type) -> bool:
    """Return whether objects of a type are arrays or tensors; NumPy's scalars are not."""
    is_array = hasattr(kind, "__array__") and hasattr(kind, "item")
    return is_array and not issubclass(kind, np.generic) and kind is not _MASKED


def _size(value: Any) -> int:
    return int(np.prod(value.shape))


def compares_by_identity(value: Any) -> bool:
    """Return whether a value, or a part of a tuple, equals only itself.

    Parameters
    ----------
    value : object
        A value.

    Returns
    -------
    bool
        True for arrays, tensors, functions, and objects of a class without equality.
    """
    if isinstance(value, tuple):
        return any(map(compares_by_identity, value))
    return type(value).__hash__ is object.__hash__ or _is_array_type(type(value))
