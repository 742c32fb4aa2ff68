"""Speed of drawing pairs, of smoothing and of calibrating."""

import itertools
from importlib.util import find_spec

import numpy as np

from benchmarks._timing import alternate, measure_in_a_process, once

METHODS = ["batch", "isotonic", "log_pool"]


def itertools_pairs(scores, groups):
    """List the pairs of each session in a loop."""
    sessions: dict = {}
    for row, group in enumerate(groups):
        sessions.setdefault(group, []).append(row)
    winners, losers, margins = [], [], []
    for rows in sessions.values():
        for i, j in itertools.combinations(rows, 2):
            margin = scores[i] - scores[j]
            if margin < 0:
                i, j, margin = j, i, -margin
            if margin:
                winners.append(i)
                losers.append(j)
                margins.append(margin)
    return np.array(winners), np.array(losers), np.array(margins)


def sampling_data(n, length):
    """Draw scores of sessions of one length."""
    rng = np.random.RandomState(0)
    return rng.rand(n), np.arange(n) // length


def prepare_sampling(strategy, n, length, n_pairs):
    """Prepare drawing pairs by skpref."""
    from skpref import IntraSessionPairSampler

    scores, groups = sampling_data(n, length)
    sampler = IntraSessionPairSampler(strategy, n_pairs=n_pairs, random_state=0)
    return lambda: sampler.sample(scores, groups)


def pair_sampling(quick):
    """Draw pairs within sessions. "itertools" lists all pairs of each session in a Python loop."""
    rows = []
    n = 10**5 if quick else 10**6
    for length in (20, 200):
        scores, groups = sampling_data(n, length)
        total = n * (length - 1) // 2
        # The loop lists a tenth of the longer sessions, and its time is scaled up.
        some = slice(n if length == 20 else n // 10)
        share = len(scores[some]) / n
        lists = scores[some].tolist(), groups[some].tolist()
        loop = once(lambda lists=lists: itertools_pairs(*lists)) / share
        for strategy in ("all", "uniform"):
            n_pairs = total if length == 20 else n
            if strategy == "all" and length > 20:
                continue
            ours = alternate({"ours": prepare_sampling(strategy, n, length, n_pairs)}, 3)["ours"]
            peak = measure_in_a_process(prepare_sampling, strategy, n, length, n_pairs)[1]
            row = {"rows": n, "session length": length, "ours": strategy, "pairs": n_pairs}
            row |= {"ours s": ours, "ours MB": peak, "itertools s": loop}
            rows.append(row | {"itertools / ours": loop / ours})
    if find_spec("pytorch_metric_learning"):
        rows.append(metric_learning_pairs())
    return rows


def metric_learning_pairs():
    """List the pairs by pytorch-metric-learning, which gets the sessions as labels."""
    import torch
    from pytorch_metric_learning.utils.loss_and_miner_utils import get_all_pairs_indices

    n = 5000  # all rows are compared with all; 10^4 take more than 10 GB
    scores, groups = sampling_data(n, 20)
    labels = torch.from_numpy(groups)

    def rival():
        first, second, *_ = get_all_pairs_indices(labels)
        return first[scores[first] > scores[second]]

    seconds = alternate({"ours": prepare_sampling("all", n, 20, None), "rival": rival}, 5)
    return {
        "rows": n,
        "session length": 20,
        "ours": "all",
        "pairs": n * 19 // 2,
        "ours s": seconds["ours"],
        "metric-learning s": seconds["rival"],
        "metric-learning / ours": seconds["rival"] / seconds["ours"],
    }


def clustered_rows(n, n_features=384, seed=0):
    """Draw rows like embeddings: 200 clusters in 25 dimensions, projected; a tenth are copies."""
    rng = np.random.default_rng(seed)
    latent = rng.standard_normal((200, 25), dtype=np.float32)[rng.integers(200, size=n)]
    latent += 0.6 * rng.standard_normal((n, 25), dtype=np.float32)
    X = latent @ rng.standard_normal((25, n_features), dtype=np.float32) / 5
    for start in range(0, n, 10**5):
        some = X[start : start + 10**5]
        some += 0.05 * rng.standard_normal(some.shape, dtype=np.float32)
    copies = rng.choice(n, n // 10, replace=False)
    X[copies] = X[rng.integers(n, size=len(copies))]
    return X, rng.dirichlet(np.ones(3), size=n)


def prepare_smoothing(algorithm, n):
    """Prepare smoothing by skpref."""
    from skpref import KNNLabelSmoother

    X, y = clustered_rows(n)
    smoother = KNNLabelSmoother(algorithm=algorithm, random_state=0)
    return lambda: smoother.fit_transform(X, y)


def prepare_sklearn_smoothing(X, y):
    """Prepare smoothing by scikit-learn's brute force."""
    from sklearn.neighbors import KNeighborsRegressor

    model = KNeighborsRegressor(10, algorithm="brute", metric="cosine").fit(X, y)
    return lambda: model.predict(X)


def prepare_faiss_smoothing(X, y):
    """Prepare smoothing by faiss's exact search."""
    import faiss

    def run():
        unit = X / np.linalg.norm(X, axis=1, keepdims=True)
        index = faiss.IndexFlatIP(X.shape[1])
        index.add(unit)
        return y[index.search(unit, 11)[1][:, 1:]].mean(axis=1)

    return run


def smoothing(quick):
    """Smooth labels over 10 cosine neighbours of rows of 384 features, `fit_transform`."""
    from skpref import KNNLabelSmoother

    n = 2 * 10**4
    X, y = clustered_rows(n)
    approximate = KNNLabelSmoother(algorithm="approximate", random_state=0)
    rivals = {
        "exact": lambda: KNNLabelSmoother(algorithm="exact").fit_transform(X, y),
        "approximate": lambda: approximate.fit_transform(X, y),
        "scikit-learn brute": prepare_sklearn_smoothing(X, y),
        "faiss flat": prepare_faiss_smoothing(X, y),
    }
    seconds = alternate(rivals, 3)
    rows = [{"rows": n} | {f"{k} s": v for k, v in seconds.items()}]
    rows[0]["scikit-learn / exact"] = seconds["scikit-learn brute"] / seconds["exact"]
    rows[0]["exact / approximate"] = seconds["exact"] / seconds["approximate"]
    rows[0]["recall"] = approximate.recall_
    if quick:
        return rows
    n = 10**5
    more = clustered_rows(n)
    exact = once(lambda: KNNLabelSmoother(algorithm="exact").fit_transform(*more))
    row = {"rows": n, "exact s": exact}
    row |= alternate({"approximate s": lambda: approximate.fit_transform(*more)}, 3)
    row["exact / approximate"] = exact / row["approximate s"]
    row["recall"] = approximate.recall_
    row["approximate MB"] = measure_in_a_process(prepare_smoothing, "approximate", n)[1]
    return [*rows, row]


def smoothing_at_scale(quick):
    """Smooth labels of a million rows of 384 features approximately."""
    n = 10**5 if quick else 10**6
    seconds, peak = measure_in_a_process(prepare_smoothing, "approximate", n)
    return [{"rows": n, "approximate s": seconds, "approximate MB": peak}]


def prepare_calibration(method, step, dtype, n):
    """Prepare fitting or applying a calibrator."""
    from skpref import LLMScoreCalibrator

    rng = np.random.default_rng(0)
    scores = rng.random((n, 6, 5), dtype=np.float32).astype(dtype)
    y = np.where(rng.random(n) < 0.05, rng.integers(5, size=n), -1)
    calibrator = LLMScoreCalibrator(method, classes=range(5))
    if step == "fit":
        return lambda: calibrator.fit(scores, y)
    calibrator.fit(scores[:1000], y[:1000])
    return lambda: calibrator.transform(scores)


def calibration(quick):
    """Calibrate 6 prompts and 5 classes, 5% of the rows labelled; memory relative to the input."""
    n = 10**5 if quick else 10**6
    rows = []
    for dtype, method in itertools.product(["float32", "float64"], METHODS):
        size = n * 30 * np.dtype(dtype).itemsize / 2**20
        row = {"rows": n, "dtype": dtype, "method": method}
        for step in ("fit", "transform"):
            seconds, peak = measure_in_a_process(prepare_calibration, method, step, dtype, n)
            row |= {f"{step} s": seconds, f"{step} MB / input": peak / size}
        rows.append(row)
    return rows
