"""Bootstrap over sessions: samples and intervals."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from skpref._typing import ArrayLike, FloatArray

# With fewer sessions than this, resampling gives far too narrow intervals, so they are left NaN.
MIN_SESSIONS = 5
# With fewer than this many they are still too narrow, and the messages say so.
FEW_SESSIONS = 20


def session_weights(
    n_sessions: int, n_bootstrap: int, rng: np.random.RandomState
) -> Iterator[FloatArray]:
    """Yield, for each bootstrap sample, how often it holds each session."""
    share = np.full(n_sessions, 1 / n_sessions)
    for _ in range(n_bootstrap):
        yield rng.multinomial(n_sessions, share).astype(np.float64)


def ratio(part: Any, whole: Any) -> Any:
    """Return `part / whole`, NaN where the whole is 0."""
    return part / np.where(np.asarray(whole) > 0, whole, np.nan)


def percentile_interval(
    samples: FloatArray, level: float, enough: ArrayLike = True
) -> tuple[FloatArray, FloatArray]:
    """Return the percentile interval over the first axis.

    Parameters
    ----------
    samples : ndarray of shape (n_bootstrap, ...)
        Estimate of each bootstrap sample, NaN if undefined.
    level : float
        Share of the samples that the interval covers.
    enough : bool or array-like of bool of shape (...), default=True
        Whether an estimate rests on enough sessions for an interval.

    Returns
    -------
    low, high : ndarray of shape (...)
        Ends of the interval; NaN if the sessions are too few or half of the samples or more are
        undefined.
    """
    flat = samples.reshape(len(samples), -1)
    enough = np.broadcast_to(enough, samples.shape[1:]).ravel()
    ends = np.full((2, flat.shape[1]), np.nan)
    for k, column in enumerate(flat.T):
        values = column[~np.isnan(column)]
        if enough[k] and len(values) > len(column) / 2:
            ends[:, k] = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return ends[0].reshape(samples.shape[1:]), ends[1].reshape(samples.shape[1:])
