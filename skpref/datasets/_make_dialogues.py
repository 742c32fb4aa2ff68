"""Make synthetic dialogues with LLM scores whose errors are known."""

from numbers import Integral, Real

import numpy as np
from scipy.special import softmax
from sklearn.utils import Bunch, check_random_state

from skpref._sklearn import Interval, validate_params
from skpref._typing import FloatArray, IntArray

DESCR = """Synthetic dialogues

Utterances of sessions, with features that determine the class up to chance, and with the scores of
several LLM prompts that are wrong in known ways: a bias of each prompt, a bias of each session, and
noise. Human labels are given for a few whole sessions only. Made by
`skpref.datasets.make_dialogues`, whose documentation describes the model.
"""


def _check_session_length(session_length: int | tuple[int, int]) -> tuple[int, int]:
    """Check `session_length` and return the shortest and the longest length."""
    if isinstance(session_length, int | np.integer):
        session_length = (session_length, session_length)
    is_pair = len(session_length) == 2 and all(isinstance(b, Integral) for b in session_length)
    if not (is_pair and 1 <= session_length[0] <= session_length[1]):
        raise ValueError(
            f"session_length={session_length!r} must be an int of at least 1 or a pair "
            "(shortest, longest) of such ints in ascending order."
        )
    return session_length


def _centred_normal(rng: np.random.RandomState, scale: float, size: tuple[int, ...]) -> FloatArray:
    """Draw normal values that sum to 0 over the last axis; a softmax ignores a common shift."""
    draws = scale * rng.standard_normal(size)
    return draws - draws.mean(axis=-1, keepdims=True)


def _draw_coefficients(
    rng: np.random.RandomState, shape: tuple[int, int], n_informative: int, class_sep: float
) -> FloatArray:
    """Draw coefficients of logits with root mean square `class_sep`, 0 if uninformative."""
    coef = np.zeros(shape)
    coef[:n_informative] = _centred_normal(rng, 1.0, (n_informative, shape[1]))
    return coef * class_sep / np.sqrt((coef**2).sum(axis=0).mean())


def _draw_classes(rng: np.random.RandomState, proba: FloatArray) -> IntArray:
    """Draw one class per row according to the row's probabilities."""
    below = proba.cumsum(axis=1)[:, :-1] <= rng.uniform(size=(len(proba), 1))
    return below.sum(axis=1)


def _number(name: str, count: int) -> np.ndarray:
    """Return numbered names that sort in numerical order."""
    width = len(str(count - 1))
    return np.array([f"{name}{i:0{width}d}" for i in range(count)])


@validate_params(
    {
        "n_sessions": [Interval(Integral, 1, None, closed="left")],
        "session_length": [Interval(Integral, 1, None, closed="left"), tuple, list],
        "n_features": [Interval(Integral, 1, None, closed="left")],
        "n_informative": [Interval(Integral, 1, None, closed="left")],
        "n_classes": [Interval(Integral, 2, None, closed="left")],
        "n_prompts": [Interval(Integral, 1, None, closed="left")],
        "class_sep": [Interval(Real, 0, None, closed="left")],
        "sharpness": [Interval(Real, 0, None, closed="left")],
        "prompt_bias": [Interval(Real, 0, None, closed="left")],
        "session_bias": [Interval(Real, 0, None, closed="left")],
        "noise": [Interval(Real, 0, None, closed="left")],
        "missing_rate": [Interval(Real, 0, 1, closed="both")],
        "labelled_fraction": [Interval(Real, 0, 1, closed="both")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def make_dialogues(
    n_sessions: int = 100,
    *,
    session_length: int | tuple[int, int] = (5, 30),
    n_features: int = 20,
    n_informative: int = 5,
    n_classes: int = 2,
    n_prompts: int = 3,
    class_sep: float = 3.0,
    sharpness: float = 1.0,
    prompt_bias: float = 1.0,
    session_bias: float = 1.0,
    noise: float = 1.0,
    missing_rate: float = 0.0,
    labelled_fraction: float = 0.1,
    random_state: int | np.random.RandomState | None = None,
) -> Bunch:
    """Make dialogues with noisy LLM scores, few human labels, and the true values behind them.

    Features ``x`` are standard normal, the logits are ``z = x @ coef``, and the true class is
    drawn from ``softmax(z)``. Prompt ``p`` scores row ``i`` of session ``s`` by
    ``softmax(sharpness * z[i] + prompt_bias[p] + session_bias[s] + e)``, where the error ``e``
    is independent for each row, prompt and class. Pairs within a session cancel the session bias.

    Parameters
    ----------
    n_sessions : int, default=100
        Number of sessions.
    session_length : int or pair of int, default=(5, 30)
        Number of utterances per session, or the shortest and the longest length, between which
        lengths are drawn uniformly, both included.
    n_features : int, default=20
        Number of features.
    n_informative : int, default=5
        Number of features, the first ones, on which the class depends.
    n_classes : int, default=2
        Number of classes.
    n_prompts : int, default=3
        Number of prompts that score each utterance.
    class_sep : float, default=3.0
        Root mean square of the logits. The larger it is, the more certain the true class.
    sharpness : float, default=1.0
        Factor of the logits in the LLM's scores. Above 1, the LLM is overconfident.
    prompt_bias : float, default=1.0
        Scale of the bias of each prompt towards each class.
    session_bias : float, default=1.0
        Scale of the bias of all prompts towards each class within a session.
    noise : float, default=1.0
        Scale of the error of each score.
    missing_rate : float, default=0.0
        Probability that a prompt gives no score for an utterance.
    labelled_fraction : float, default=0.1
        Share of the sessions that are labelled. Sessions are labelled as a whole, and at least one
        session is labelled unless the share is 0.
    random_state : int, RandomState instance or None, default=None
        Seed of the draws. Pass an int to get the same data in each call.

    Returns
    -------
    Bunch
        Dictionary-like object. The rows of a session are consecutive and in order.

        - X : ndarray of shape (n_samples, n_features), the features.
        - y : ndarray of int, shape (n_samples,), the human labels, -1 for unlabelled rows.
        - y_true : ndarray of int, shape (n_samples,), the true class of every row.
        - llm_scores : ndarray of shape (n_samples, n_prompts, n_classes), probabilities that sum
          to 1 over classes, NaN where a prompt gave no score.
        - groups : ndarray of str, shape (n_samples,), the session ids, whose sorted order is
          their order of appearance.
        - true_proba : ndarray of shape (n_samples, n_classes), ``softmax(logits)``.
        - logits : ndarray of shape (n_samples, n_classes), which sum to 0 over classes.
        - coef : ndarray of shape (n_features, n_classes), the coefficients of the logits.
        - prompt_bias : ndarray of shape (n_prompts, n_classes), which sums to 0 over classes.
        - session_bias : ndarray of shape (n_sessions, n_classes), which sums to 0 over classes.
        - feature_names : list of str.
        - DESCR : str, a description.

    Raises
    ------
    ValueError
        If a parameter is out of range.

    Examples
    --------
    >>> from skpref.datasets import make_dialogues
    >>> data = make_dialogues(n_sessions=10, session_length=4, random_state=0)
    >>> data.X.shape, data.llm_scores.shape
    ((40, 20), (40, 3, 2))
    >>> data.groups[:5].tolist()
    ['session-0', 'session-0', 'session-0', 'session-0', 'session-1']
    >>> int((data.y >= 0).sum())
    4
    """
    low, high = _check_session_length(session_length)
    if n_informative > n_features:
        raise ValueError(f"n_informative={n_informative} must not exceed n_features={n_features}.")
    rng = check_random_state(random_state)
    session = np.repeat(np.arange(n_sessions), rng.randint(low, high + 1, size=n_sessions))
    n_samples = len(session)

    X = rng.standard_normal((n_samples, n_features))
    coef = _draw_coefficients(rng, (n_features, n_classes), n_informative, class_sep)
    logits = X @ coef
    true_proba = softmax(logits, axis=1)
    y_true = _draw_classes(rng, true_proba)

    bias_of_prompt = _centred_normal(rng, prompt_bias, (n_prompts, n_classes))
    bias_of_session = _centred_normal(rng, session_bias, (n_sessions, n_classes))
    error = noise * rng.standard_normal((n_samples, n_prompts, n_classes))
    shared = sharpness * logits + bias_of_session[session]
    llm_scores = softmax(shared[:, None, :] + bias_of_prompt + error, axis=2)
    llm_scores[rng.uniform(size=(n_samples, n_prompts)) < missing_rate] = np.nan

    n_labelled = max(round(labelled_fraction * n_sessions), int(labelled_fraction > 0))
    labelled = np.isin(session, rng.permutation(n_sessions)[:n_labelled])
    return Bunch(
        X=X,
        y=np.where(labelled, y_true, -1),
        y_true=y_true,
        llm_scores=llm_scores,
        groups=_number("session-", n_sessions)[session],
        true_proba=true_proba,
        logits=logits,
        coef=coef,
        prompt_bias=bias_of_prompt,
        session_bias=bias_of_session,
        feature_names=_number("x", n_features).tolist(),
        DESCR=DESCR,
    )
