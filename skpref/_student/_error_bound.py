"""Bound the error rate of rows that come in sessions."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.stats import beta, t

from skpref._typing import IntArray

# Looked for at most this many times the sessions at hand.
_MOST_TIMES = 1000


class ClusteredRate(NamedTuple):
    """An error rate, and what limits how well it is known.

    Parameters
    ----------
    rate : float
        Share of the rows that are wrong, an imaginary session included.
    n_effective : float
        Number of independent rows that would know the rate as well.
    n_rows : float
        Number of rows.
    n_sessions : float
        Number of sessions.
    """

    rate: float
    n_effective: float
    n_rows: float
    n_sessions: float

    def upper(self, confidence: float) -> float:
        """Return the upper confidence bound.

        Parameters
        ----------
        confidence : float
            Probability with which the bound holds.

        Returns
        -------
        float
            The bound: Clopper and Pearson's for the effective number of rows.
        """
        # Sessions, not rows, are what the variance was estimated from.
        shrink = t.ppf(confidence, self.n_rows - 1) / t.ppf(confidence, self.n_sessions - 1)
        n = self.n_effective * shrink**2
        wrong = self.rate * n
        return float(beta.ppf(confidence, wrong + 1, n - wrong)) if wrong < n else 1.0

    def times(self, factor: float) -> "ClusteredRate":
        """Return the same rate as if known from a multiple of the sessions."""
        return ClusteredRate(self.rate, *(factor * n for n in self[1:]))


def clustered_rate(wrong: np.ndarray, session: IntArray) -> ClusteredRate:
    """Estimate an error rate from rows of sessions, whose errors need not be independent.

    After Korn and Graubard 1998, "Confidence intervals for proportions with small expected number
    of positive counts estimated from survey data", Survey Methodology 24: the bound of Clopper and
    Pearson for as many independent rows as would give the variance between the sessions. With few
    sessions that variance is often too small by chance, so an imaginary session of mean length is
    added, half of whose rows are wrong. `benchmarks.coverage` counts how often the
    bound is too low.

    Parameters
    ----------
    wrong : ndarray of bool, shape (n_rows,)
        Whether each row is wrong.
    session : ndarray of int, shape (n_rows,)
        Session code of each row.

    Returns
    -------
    ClusteredRate
        The estimate.
    """
    _, session = np.unique(session, return_inverse=True)
    n_of_session = np.bincount(session)
    n_wrong = np.bincount(session, weights=wrong)
    n_of_session = np.append(n_of_session, n_of_session.mean())
    n_wrong = np.append(n_wrong, n_of_session[-1] / 2)
    n_rows, n_sessions = n_of_session.sum(), len(n_of_session)
    rate = n_wrong.sum() / n_rows
    excess = n_wrong - rate * n_of_session
    variance = (excess @ excess) / n_rows**2 * n_sessions / (n_sessions - 1)
    # Errors that spread more evenly than by chance do so by chance, too.
    design_effect = max(variance * n_rows / (rate * (1 - rate)), 1.0)
    return ClusteredRate(float(rate), n_rows / design_effect, n_rows, n_sessions)


def sessions_needed(rate: ClusteredRate, target: float, confidence: float) -> int | None:
    """Return from how many sessions the bound would reach a target, if the rate stays as it is.

    Parameters
    ----------
    rate : ClusteredRate
        The estimate.
    target : float
        Largest error rate.
    confidence : float
        Probability with which the bound holds.

    Returns
    -------
    int or None
        Number of sessions, the imaginary one not counted; None if the rate itself is above the
        target, or very close to it.
    """

    def excess(factor):
        return rate.times(factor).upper(confidence) - target

    if excess(1) <= 0:
        return round(rate.n_sessions) - 1
    if excess(_MOST_TIMES) > 0:
        return None
    return int(np.ceil(brentq(excess, 1, _MOST_TIMES) * rate.n_sessions)) - 1
