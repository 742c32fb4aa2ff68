"""The fuzz of what needs a language model: one of 32 dimensions, and rarely, since it is slow."""

import pickle
import tempfile
from functools import lru_cache

import numpy as np

from skpref import PairwisePreferenceTextClassifier, SentenceEncoder
from tests.fuzz_inputs import as_objects, choose, draw_data, draw_illegal_value, draw_parameters
from tests.fuzz_subjects import Broken, check_distributions, ensure
from tests.tiny_model import write_tiny_model


@lru_cache
def _model():
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return write_tiny_model(tempfile.mkdtemp())


_BAD_TEXTS = {
    "missing": lambda t: as_objects([None, *t[1:]]),
    "numbers": lambda t: np.arange(len(t)),
    "one string": lambda t: "hello",
    "no rows": lambda t: t[:0],
    "two columns": lambda t: np.column_stack([t, t]),
}


def _refuses(call, names):
    try:
        call()
    except (ValueError, TypeError) as error:
        ensure(any(name in str(error) for name in names), f"one of {names} in: {error}")
        return "refused"
    raise Broken(f"a refusal that names one of {names}, but it works")


def try_encoder(rng, notes):
    """Embeddings do not depend on the order of the texts, nor on the batch."""
    own = {
        "model_name": lambda rng: _model(),
        "device": lambda rng: "cpu",
        "cache": lambda rng: None,
        "prompt": lambda rng: choose(rng, [None, "query: "]),
        "truncate_dim": lambda rng: choose(rng, [None, 8]),
        "revision": lambda rng: None,
        "verbose": lambda rng: False,
        "batch_size": lambda rng: int(rng.integers(1, 9)),
        "precision": lambda rng: "float32",
    }
    constraints = SentenceEncoder._parameter_constraints
    params = draw_parameters(rng, constraints, own, 0.4) | {"model_name": _model()}
    texts = draw_data(rng).texts
    notes.append(f"{params} {len(texts)} texts")
    if rng.random() < 0.3:
        name = choose(rng, constraints)
        params[name] = draw_illegal_value(rng, constraints[name])
        notes.append(f"illegal {name}={params[name]!r}")
        return _refuses(lambda: SentenceEncoder(**params).fit(texts), (name,))
    encoder = SentenceEncoder(**params).fit(texts)
    if rng.random() < 0.3:
        kind = choose(rng, _BAD_TEXTS)
        notes.append(f"illegal texts: {kind}")
        return _refuses(lambda: encoder.transform(_BAD_TEXTS[kind](texts)), ("X", "text"))
    found, order = encoder.transform(texts), rng.permutation(len(texts))
    ensure(found.shape == (len(texts), encoder.n_features_out_), "a row for each text")
    ensure(np.isfinite(found).all(), "finite embeddings")
    ensure(np.allclose(found[order], encoder.transform(texts[order]), atol=1e-5), "row order")
    again = pickle.loads(pickle.dumps(encoder))
    ensure(np.allclose(found, again.transform(texts), atol=1e-6), "pickle")
    return "works"


def try_text_classifier(rng, notes):
    data = draw_data(rng)
    scores = data.llm_scores
    if data.score_kind in ("log_odds", "raw"):
        scores = np.where(np.isnan(scores), np.nan, (scores > 0).astype(float))
    clf = PairwisePreferenceTextClassifier(
        _model(), max_epochs=1, random_state=0, classes=data.classes, device="cpu"
    )
    notes.append(f"{len(data.texts)} texts, classes {data.classes}")
    given = {"groups": data.groups, "llm_scores": scores}
    try:
        return _fit_texts(rng, notes, clf, data, given)
    except ValueError as error:
        if "leave no valid pair" in str(error):  # rows of any session may have the same scores
            return "refused"
        raise


def _fit_texts(rng, notes, clf, data, given):
    if rng.random() < 0.5:
        kind = choose(rng, _BAD_TEXTS)
        notes.append(f"illegal texts: {kind}")
        bad = _BAD_TEXTS[kind](data.texts)
        return _refuses(lambda: clf.fit(bad, data.y, **given), ("X", "text", "y", "groups"))
    clf.fit(data.texts, data.y, **given)
    proba = clf.predict_proba(data.texts)
    check_distributions(proba, len(data.texts), len(data.classes))
    order = rng.permutation(len(data.texts))
    ensure(np.allclose(proba[order], clf.predict_proba(data.texts[order]), atol=1e-4), "row order")
    again = pickle.loads(pickle.dumps(clf))
    ensure(np.allclose(proba, again.predict_proba(data.texts), atol=1e-6), "pickle")
    return "works"


TEXTS = {
    "SentenceEncoder": (try_encoder, 0.15),
    "PairwisePreferenceTextClassifier": (try_text_classifier, 0.05),
}
