"""Draw the quality of a cascade by the share of utterances that the LLM is asked about."""

from typing import Any, NamedTuple

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skpref._indicator import read_indicator
from skpref._student._cascade import LLMCascadeClassifier
from skpref._typing import ArrayLike, FloatArray, IntArray, SessionIds
from skpref._validation import check_groups, check_same_length, read_truth
from skpref.inspection._bootstrap import MIN_SESSIONS, percentile_interval, session_weights
from skpref.inspection._counts import CLASS_METRICS, count_by_session
from skpref.inspection._plot._style import BLUE, GREEN, ORANGE, add_legend, get_axes, style_axes

_SHARES = np.linspace(0, 1, 21)


class CascadeCurve(NamedTuple):
    """Quality by the share of utterances asked about.

    Parameters
    ----------
    share : ndarray of shape (n_shares,)
        Share of the utterances.
    quality, low, high : ndarray of shape (n_shares,)
        The metric, and its interval over sessions; NaN for fewer than five.
    llm : float
        The metric of the LLM alone, asked about all.
    """

    share: FloatArray
    quality: FloatArray
    low: FloatArray
    high: FloatArray
    llm: float


class CascadeCurveDisplay:
    """Quality of a cascade by the share of utterances that the LLM is asked about.

    Use `from_estimator` to make a display.

    Parameters
    ----------
    curve : CascadeCurve
        The curve.
    metric : {"macro_f1", "accuracy"}, default="macro_f1"
        What it shows.
    llm_share : float, default=None
        Share that is marked as that of the cascade.
    price : float, default=None
        Price of asking the LLM about an utterance; adds an axis of the cost of 1,000 utterances.

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes.
    figure_ : matplotlib Figure
        The figure.
    line_, network_line_, llm_line_ : matplotlib Line2D
        The curve, the classifier alone and the LLM alone.
    band_ : matplotlib PolyCollection
        The intervals.
    cost_ax_ : matplotlib SecondaryAxis or None
        The axis of the cost.

    See Also
    --------
    LLMCascadeClassifier : The cascade.
    """

    def __init__(
        self,
        curve: CascadeCurve,
        *,
        metric: str = "macro_f1",
        llm_share: float | None = None,
        price: float | None = None,
    ) -> None:
        self.curve = curve
        self.metric = metric
        self.llm_share = llm_share
        self.price = price

    def plot(self, ax: Any = None, **kwargs: Any) -> "CascadeCurveDisplay":
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a figure.
        **kwargs : dict
            Arguments of `matplotlib.axes.Axes.plot` for the curve.

        Returns
        -------
        CascadeCurveDisplay
            The display.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        ax, is_new = get_axes(ax, type(self).__name__, (6.4, 4.4))
        curve, percent = self.curve, 100 * self.curve.share
        style = {"color": BLUE, "linewidth": 2, "label": "classifier, pooled with the LLM"}
        (self.line_,) = ax.plot(percent, curve.quality, **(style | kwargs))
        self.band_ = ax.fill_between(
            percent, curve.low, curve.high, color=self.line_.get_color(), alpha=0.18, linewidth=0
        )
        self.network_line_ = ax.axhline(
            curve.quality[0], color=ORANGE, linestyle="--", label="classifier alone"
        )
        self.llm_line_ = ax.axhline(curve.llm, color=GREEN, linestyle="-.", label="LLM alone")
        if self.llm_share is not None:
            height = np.interp(self.llm_share, curve.share, curve.quality)
            ax.plot([100 * self.llm_share], [height], "o", color=self.line_.get_color())
        ax.set(xlabel="utterances that the LLM is asked about (%)", xlim=(0, 100))
        ax.set_ylabel(CLASS_METRICS[self.metric])
        style_axes(ax)
        self.cost_ax_ = None
        if self.price is not None:
            factor = 10 * self.price  # per cent of 1,000 utterances
            self.cost_ax_ = ax.secondary_xaxis(
                "top", functions=(lambda x: x * factor, lambda cost: cost / factor)
            )
            self.cost_ax_.set_xlabel("cost of 1,000 utterances")
        add_legend(ax, is_new, [self.line_, self.network_line_, self.llm_line_], n_columns=3)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator: LLMCascadeClassifier,
        X: Any,
        y: ArrayLike,
        groups: SessionIds,
        llm_scores: ArrayLike,
        *,
        metric: str = "macro_f1",
        price: float | None = None,
        n_bootstrap: int = 200,
        confidence_level: float = 0.95,
        random_state: int | np.random.RandomState | None = None,
        ax: Any = None,
        **kwargs: Any,
    ) -> "CascadeCurveDisplay":
        """Draw the curve of a fitted cascade on sessions that it has not seen.

        Parameters
        ----------
        estimator : LLMCascadeClassifier
            Fitted cascade.
        X : {array-like, sparse matrix, frame} of shape (n_samples, n_features) or list of str
            Input of the cascade, of sessions that it was not fitted on.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Human labels; -1 (numbers), None or NaN marks an unlabelled row. Of several labels per
            row, "macro_f1" is the mean over labels and "accuracy" the share of right labels.
        groups : array-like of shape (n_samples,)
            Session id of each row.
        llm_scores : array-like of shape (n_samples, n_prompts, n_classes) or (n_samples, n_prompts)
            Raw LLM scores of all rows, NaN if missing.
        metric : {"macro_f1", "accuracy"}, default="macro_f1"
            What to draw.
        price : float, default=None
            Price of asking the LLM about an utterance; adds an axis of the cost.
        n_bootstrap : int, default=200
            Number of bootstrap samples of the sessions.
        confidence_level : float, default=0.95
            Share of the bootstrap samples that an interval covers.
        random_state : int, RandomState instance or None, default=None
            Seed of the bootstrap.
        ax : matplotlib Axes, default=None
            Axes to draw on. None makes a figure.
        **kwargs : dict
            Arguments of `matplotlib.axes.Axes.plot` for the curve.

        Returns
        -------
        CascadeCurveDisplay
            The display.

        Raises
        ------
        ValueError
            If the estimator is no cascade, an argument has another number of rows, no row is
            labelled, or `metric` or `price` is not as above.
        sklearn.exceptions.NotFittedError
            If the cascade is not fitted.
        """
        if not isinstance(estimator, LLMCascadeClassifier):
            raise ValueError(
                f"estimator must be an LLMCascadeClassifier, but is a {type(estimator).__name__}."
            )
        if metric not in CLASS_METRICS:
            raise ValueError(f"metric={metric!r} must be one of {sorted(CLASS_METRICS)}.")
        if price is not None and not price > 0:
            raise ValueError(f"price={price!r} must be above 0, or None.")
        check_is_fitted(estimator)
        codes, session, choices, llm = _choices(estimator, X, y, groups, llm_scores)
        rng = check_random_state(random_state)
        position, n_sessions = list(CLASS_METRICS).index(metric), int(session.max()) + 1
        weights = [np.ones(n_sessions), *session_weights(n_sessions, n_bootstrap, rng)]

        def quality(chosen):
            prob = chosen if estimator.multilabel_ else np.eye(len(estimator.classes_))[chosen]
            counts = count_by_session(prob, codes, session, n_sessions, chosen)
            return [counts.metrics(weight)[position] for weight in weights]

        found = np.array([quality(chosen) for chosen in choices])
        low, high = percentile_interval(
            found[:, 1:].T, confidence_level, n_sessions >= MIN_SESSIONS
        )
        curve = CascadeCurve(_SHARES, found[:, 0], low, high, quality(llm)[0])
        display = cls(curve, metric=metric, llm_share=estimator.llm_share_, price=price)
        return display.plot(ax=ax, **kwargs)


def _choices(
    cascade: LLMCascadeClassifier, X: Any, y: Any, groups: Any, llm_scores: Any
) -> tuple[IntArray, IntArray, list[IntArray], IntArray]:
    """Return labels and sessions of the labelled rows, and the classes chosen at each share."""
    alone, network = cascade._answer_alone(X)
    n_rows = len(network)
    several = cascade.multilabel_
    codes = read_indicator(y, cascade.classes_)[1] if several else read_truth(y, cascade.classes_)
    check_same_length(len(codes), "y", n_rows, "X")
    session = check_groups(groups, n_rows)
    known = codes.max(axis=1) >= 0 if several else codes >= 0
    if not known.any():
        raise ValueError("y has no labelled row to judge the cascade by.")
    llm, of_network = cascade._answer_llm(llm_scores, n_rows), alone.choose()
    pooled = cascade._answer_pooled(alone, network, llm.prob)[1]
    silent = np.isnan(llm.prob) if several else np.isnan(llm.prob[:, 0])
    of_llm = np.where(silent, of_network, llm.choose())
    by_gain = np.argsort(-cascade._expect_gain(alone), kind="stable")
    rank = np.empty(n_rows)
    rank[by_gain] = (np.arange(n_rows) + 0.5) / n_rows
    choices = []
    for share in _SHARES:
        chosen, ask = of_network.copy(), rank < share
        chosen[ask] = pooled[ask]
        choices.append(chosen[known])
    _, session = np.unique(session[known], return_inverse=True)
    return codes[known], session, choices, of_llm[known]
