"""Helpers of several test files."""

import re

import numpy as np
import pytest

from skpref import PairwisePreferenceClassifier


def raises(message, error=ValueError):
    """Expect an error whose message holds `message`, which is no regular expression."""
    return pytest.raises(error, match=re.escape(message))


def fast(module="mlp", **params):
    """Make a classifier that trains in a fraction of a second."""
    options = {"max_epochs": 8, "lr": 0.01, "random_state": 0, "batch_size": 64}
    return PairwisePreferenceClassifier(module, **(options | params))


def given(data, rows=slice(None), step=None):
    """Keyword arguments of `fit` beside `X` and `y`: session ids and LLM scores of some rows.

    `step` names the step of a pipeline that they go to.
    """
    arguments = {"groups": data.groups[rows], "llm_scores": data.llm_scores[rows]}
    prefix = "" if step is None else f"{step}__"
    return {f"{prefix}{name}": value for name, value in arguments.items()}


def fit(clf, data, rows=slice(None), **changes):
    """Fit on some rows of `data`; `changes` replace arguments, and None leaves one out."""
    arguments = {"y": data.y, "groups": data.groups, "llm_scores": data.llm_scores} | changes
    arguments = {k: v if v is None else v[rows] for k, v in arguments.items()}
    return clf.fit(data.X[rows], arguments.pop("y"), **arguments)


def make_dataset(lengths, convert=np.asarray, n_scores=1):
    """Sessions of some lengths as the batches take them; a row's only feature is its number."""
    from skpref._torch._batches import SessionDataset

    session = np.repeat(np.arange(len(lengths)), lengths)
    X = convert(np.arange(len(session), dtype=np.float32)[:, None])
    soft = np.random.RandomState(0).rand(len(session), n_scores)
    return SessionDataset(X, soft, np.ones(len(session)), session)
