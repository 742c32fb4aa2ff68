"""Two variants of the pairs of stage 1, for ablations and levers."""

import numpy as np
from scipy.special import logit
from sklearn.utils import check_random_state

from skpref import PairwisePreferenceClassifier
from skpref._student import _stage1


class LogOddsClassifier(PairwisePreferenceClassifier):
    """Margins of pairs in log-odds rather than probabilities."""

    def fit(self, X, y, groups=None, llm_scores=None, sample_weight=None):
        """Fit as the classifier does, but with other margins in stage 1."""

        def train(network, rows, _watched, *, objective, pairs):
            options = self._net_options(network)
            net = _stage1.net_for(network, objective, pairs, max_epochs=self.max_epochs, **options)
            data = _stage1.as_dataset(rows)
            data.soft = logit(np.clip(data.soft, 0.02, 0.98))  # of the pairs; the rest is kept
            with net.training(data) as n_epochs:
                net.fit_loop(data, epochs=n_epochs)
            return net, _stage1.losses(net.history)

        prepared = self._prepare(X, y, groups, llm_scores, sample_weight, classes=self.classes)
        return self._fit_prepared(prepared, train)


class AcrossSessionsClassifier(PairwisePreferenceClassifier):
    """Pairs across sessions: in stage 1 alone, the rows are assigned to sessions at random."""

    def fit(self, X, y, groups=None, llm_scores=None, sample_weight=None):
        """Fit as the classifier does, but with other sessions in stage 1."""
        prepared = self._prepare(X, y, groups, llm_scores, sample_weight, classes=self.classes)
        whole = prepared.training

        def train(network, _rows, _watched, **terms):
            rng = check_random_state(self.random_state)
            rng.randint(2**31)  # draws what the fit draws before stage 1, then the order
            held_out = self._hold_out(whole, rng)
            order = rng.permutation(len(whole.codes))
            mixed, held_out = whole.take(order)._replace(session=whole.session), held_out[order]
            watched = mixed.take(held_out) if self.early_stopping else None
            return self._stage1(network, None)(network, mixed.take(~held_out), watched, **terms)

        return self._fit_prepared(prepared, train)
