"""Two variants of the pairs, and labels in place of soft labels: what lies inside the library.

The two classes override private methods of the classifier. They are to call the functions of stage
1 once these take a training set and return a network.
"""

import numpy as np
from scipy.special import logit

from skpref import PairwisePreferenceClassifier
from skpref.inspection import _labels_in_place as labels_in_place

__all__ = ["AcrossSessionsClassifier", "LogOddsClassifier", "labels_in_place"]


class LogOddsClassifier(PairwisePreferenceClassifier):
    """Margins of pairs in log-odds rather than probabilities."""

    def _dataset(self, rows):
        dataset = super()._dataset(rows)
        dataset.teacher = logit(np.clip(dataset.teacher, 0.02, 0.98))
        return dataset


class AcrossSessionsClassifier(PairwisePreferenceClassifier):
    """Pairs across sessions: for stage 1 alone, the rows are dealt to other sessions at random."""

    def _train(self, rows, held_out, rng, module, checkpoint):
        order = rng.permutation(len(rows.codes))
        dealt = rows.take(order)._replace(session=rows.session)
        super()._train(dealt, held_out[order], rng, module, checkpoint)
