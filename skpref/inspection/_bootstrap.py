"""Resample sessions, for intervals."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from skpref._typing import ArrayLike, FloatArray

# Resampling fewer sessions than this gives intervals that are far too narrow, so none is given.
MIN_SESSIONS = 5
# From fewer than this many they are too narrow still, which messages say.
FEW_SESSIONS = 20


def session_weights(
    n_sessions: int, n_bootstrap: int, rng: np.random.RandomState
) -> Iterator[FloatArray]:
    """How often each session is in a sample, for one sample after the other."""
    share = np.full(n_sessions, 1 / n_sessions)
    for _ in range(n_bootstrap):
        yield rng.multinomial(n_sessions, share).astype(np.float64)


def ratio(part: Any, whole: Any) -> Any:
    """`part / whole`, NaN where the whole is 0."""
    return part / np.where(np.asarray(whole) > 0, whole, np.nan)


def percentile_interval(
    samples: FloatArray, level: float, told: ArrayLike = True
) -> tuple[FloatArray, FloatArray]:
    """Percentile interval over the first axis; NaN where not `told` or mostly undefined."""
    flat = samples.reshape(len(samples), -1)
    told = np.broadcast_to(told, samples.shape[1:]).ravel()
    ends = np.full((2, flat.shape[1]), np.nan)
    for k, column in enumerate(flat.T):
        values = column[~np.isnan(column)]
        if told[k] and len(values) > len(column) / 2:
            ends[:, k] = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return ends[0].reshape(samples.shape[1:]), ends[1].reshape(samples.shape[1:])
