"""Two variants of the pairs of stage 1, for ablations and levers."""

import numpy as np
from scipy.special import logit

from skpref import PairwisePreferenceClassifier

__all__ = ["AcrossSessionsClassifier", "LogOddsClassifier"]


class LogOddsClassifier(PairwisePreferenceClassifier):
    """Margins of pairs in log-odds rather than probabilities."""

    def fit(self, X, y, groups=None, llm_scores=None):
        """Fit as the classifier does, but with other margins in stage 1."""
        from skpref._student import _stage1

        def train(network, rows, _watched, *, objective, pairs):
            options = self._net_options(network)
            net = _stage1.net_for(network, objective, pairs, max_epochs=self.max_epochs, **options)
            data = _stage1.as_dataset(rows)
            data.soft = logit(np.clip(data.soft, 0.02, 0.98))  # the pairs' labels
            with net.training(data) as n_epochs:
                net.fit_loop(data, epochs=n_epochs)
            return net, _stage1.losses(net.history)

        prepared = self._prepare(X, y, groups, llm_scores, None, classes=self.classes)
        return self._fit_prepared(prepared, train)


class AcrossSessionsClassifier(PairwisePreferenceClassifier):
    """Pairs across sessions: in stage 1 alone, the rows are assigned to sessions at random."""

    def fit(self, X, y, groups=None, llm_scores=None):
        """Fit as the classifier does, but with other sessions in stage 1."""

        def train(network, rows, watched, **terms):
            order = np.random.RandomState(self.random_state).permutation(len(rows.codes))
            mixed = rows.take(order)._replace(session=rows.session)
            return self._stage1(network, None)(network, mixed, watched, **terms)

        prepared = self._prepare(X, y, groups, llm_scores, None, classes=self.classes)
        return self._fit_prepared(prepared, train)
