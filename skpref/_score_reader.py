"""Read rows of a table of raw LLM scores as distributions."""

import numpy as np

from skpref._pools import (
    Model,
    PromptScores,
    from_log_odds,
    from_probabilities,
    mean_over_rows,
    pieces,
    predict_rows,
)
from skpref._typing import FloatArray, IntArray


class ScoreReader:
    """Turns rows of a table of scores into distributions over the classes.

    It learns the location and scale by which ratings are standardised, and which prompts have a
    score.

    Parameters
    ----------
    n_prompts : int
        Number of prompts.
    columns : ndarray of int, shape (n_classes,)
        Position of each class among the columns of a prompt.
    n_columns : int
        Columns per prompt: one for each class, or one for two classes.
    score_type : {"probability", "log_odds", "raw"}
        Type of the scores.
    table : ndarray of shape (n_rows, n_prompts * n_columns)
        The scores to learn from.
    """

    def __init__(self, n_prompts, columns: IntArray, n_columns, score_type, table: FloatArray):
        self.n_prompts = n_prompts
        self.columns = columns
        self.n_columns = n_columns
        self.score_type = score_type
        self._exponent = np.zeros((n_prompts, 1), dtype=np.int64)
        self._seen = np.ones(n_prompts, dtype=bool)
        if score_type == "raw":
            self._set_scale(table)
        offsets = self.mean_log(table)
        self._seen = ~np.isnan(offsets[:, 0])
        if not self._seen.any():
            raise ValueError("llm_scores has no row with a score; pass at least one.")

    def mean_log(self, table: FloatArray, rows: IntArray | None = None) -> FloatArray:
        """Return the mean log-scores of all or the given rows, (n_prompts, n_classes)."""
        return mean_over_rows(self.read(part).log for part in pieces(table, rows))

    def read(self, table: FloatArray) -> PromptScores:
        """Turn rows of the table into distributions."""
        scores = self._as_scores(table)
        if self.score_type == "probability":
            if ((scores < 0) | (scores > 1)).any():
                raise ValueError(
                    "llm_scores has values outside [0, 1] but score_type_='probability'; "
                    "pass score_type='log_odds' or 'raw', or rescale the scores."
                )
            return from_probabilities(scores).sort_classes(self.columns)
        if self.score_type == "raw":
            scores = (scores - self._centre) / self._spread
        return from_log_odds(scores).sort_classes(self.columns)

    def predict(self, model: Model, table: FloatArray, rows: IntArray | None = None) -> FloatArray:
        """Return a model's distributions of all or the given rows, in the table's float type."""
        n_rows = len(table) if rows is None else len(rows)
        prob = np.empty((n_rows, len(self.columns)), dtype=table.dtype)
        done = 0
        for piece in pieces(table, rows):
            prob[done : done + len(piece)] = predict_rows(model, self.read(piece))
            done += len(piece)
        return prob

    def _set_scale(self, table: FloatArray) -> None:
        """Learn the location and scale by which ratings are standardised."""
        # Powers of 2 change no digit, and the squares of what remains neither overflow nor vanish.
        largest = np.fmax.reduce(np.abs(table), axis=0).reshape(self.n_prompts, -1)
        largest = np.fmax.reduce(largest.astype(np.float64), axis=1)
        self._exponent = np.frexp(np.where(np.isnan(largest), 1.0, largest))[1][:, None]
        # The classes of a prompt are missing together, so their means have equal weight.
        scores = (self._as_scores(rows) for rows in pieces(table))
        centre = mean_over_rows(scores).mean(axis=1, keepdims=True)
        squares = ((self._as_scores(rows) - centre) ** 2 for rows in pieces(table))
        spread = np.sqrt(mean_over_rows(squares).mean(axis=1, keepdims=True))
        self._centre, self._spread = centre, np.where(spread > 0, spread, 1.0)

    def _as_scores(self, table: FloatArray) -> FloatArray:
        """Copy rows of the table as float64 of (n, n_prompts, n_columns), NaN if missing."""
        scores = table.reshape(len(table), self.n_prompts, self.n_columns).astype(np.float64)
        # An incomplete distribution cannot be used, so the prompt is treated as missing there.
        scores[np.isnan(scores).any(axis=2)] = np.nan
        scores[:, ~self._seen] = np.nan
        return np.ldexp(scores, -self._exponent) if self.score_type == "raw" else scores
