"""Speed of every part of skpref, as ratios to what a user would otherwise pick.

    python -m benchmarks.speed

Runs each part on the same work for all rivals, which take turns, prints medians and ratios, and
writes results/speed.json and results/speed.md. A part that is in the JSON is not run again without
--fresh; name parts to run only these. Rivals that are not installed are left out.
"""

import argparse
import inspect
import itertools
import multiprocessing
import time
from collections.abc import Callable
from importlib.util import find_spec

import numpy as np

from benchmarks._common import add_out_option, read_json, show, table, write_json, write_lines
from benchmarks._timing import (
    alternate,
    devices,
    environment,
    exponent,
    measure_in_a_process,
    once,
    to_the_end,
)

PARTS: dict[str, Callable] = {}
METHODS = ["batch", "isotonic", "log_pool"]
PAIRS_SHOWN = [("all", 20), ("uniform", 20), ("uniform", 200)]
NOTE = [
    "Medians of runs in one process, in which the rivals take turns. MB are the peak of one run in",
    "a fresh process beyond what it had before. Ratios rival / ours are in our favour above 1.",
]


def part(function):
    """Register a part of the benchmark under its name."""
    PARTS[function.__name__] = function
    return function


# --- the loss over all pairs --------------------------------------------------------------------


def loss_batch(lengths, device="cpu", seed=0):
    """Return scores and soft labels of sessions of given lengths, as the loss gets them."""
    import torch

    from skpref._torch._batches import SessionBatches, SessionDataset

    rng = np.random.RandomState(seed)
    session = np.repeat(np.arange(len(lengths)), lengths)
    soft = rng.rand(len(session), 1)
    scores = rng.randn(len(session), 1).astype(np.float32)
    dataset = SessionDataset(scores, soft, np.ones(len(session)), session)
    batches = SessionBatches(dataset, len(session), session_weight="pairs")
    [target] = batches.targets()
    move = torch.device(device)
    target["blocks"] = [{k: v.to(move) for k, v in b.items()} for b in target["blocks"]]
    scores = torch.from_numpy(scores).to(device).requires_grad_()
    return scores, torch.from_numpy(soft[:, 0].astype(np.float32)).to(device), target


def exact_loss(lengths, device="cpu"):
    """Prepare the sum over all pairs by skpref's own loss."""
    import torch

    from skpref._torch._losses import PreferenceLoss

    scores, _, target = loss_batch(lengths, device)
    criterion = PreferenceLoss(
        loss="squared_hinge",
        margin="adaptive",
        margin_scale=2.0,
        pairwise_weight=1.0,
        pointwise_weight=0.0,
        min_margin=0.0,
        class_weight=torch.ones(2),
    )
    return to_the_end(lambda: torch.autograd.grad(criterion(scores, target), scores)[0], device)


def dense_loss(lengths, device="cpu"):
    """Prepare the sum by broadcasting over sessions of one length, as plain torch would do it."""
    import torch

    scores, soft, _ = loss_batch(lengths, device)
    length = lengths[0]
    at_once = max(1, 2**26 // length**2)  # sessions, so that memory stays bounded

    def step():
        gradient = torch.zeros_like(scores)
        f = scores.view(-1, length)
        for f_some, t in zip(f.split(at_once), soft.view(-1, length).split(at_once), strict=True):
            gap = t.unsqueeze(2) - t.unsqueeze(1)
            short = (2.0 * gap - (f_some.unsqueeze(2) - f_some.unsqueeze(1))).clamp(min=0)
            loss = (short.square() * (gap > 0)).sum()
            gradient += torch.autograd.grad(loss, scores, retain_graph=True)[0]
        return gradient

    return to_the_end(step, device)


def pair_list_loss(lengths, device="cpu"):
    """Prepare the sum over a list of all pairs, as reward models are trained; the list is ready."""
    import torch

    scores, soft, _ = loss_batch(lengths, device)
    start = np.cumsum(lengths) - lengths
    pairs = [
        torch.combinations(torch.arange(s, s + n)) for s, n in zip(start, lengths, strict=True)
    ]
    first, second = (column.to(device) for column in torch.cat(pairs).T)
    up = soft[first] > soft[second]
    winner, loser = torch.where(up, first, second), torch.where(up, second, first)

    def step():
        f = scores[:, 0]
        short = 2.0 * (soft[winner] - soft[loser]) - (f[winner] - f[loser])
        return torch.autograd.grad(short.clamp(min=0).square().sum(), scores)[0]

    return to_the_end(step, device)


@part
def loss_of_one_session(quick):
    """Sum over all pairs of one session, loss and gradient (squared hinge)."""
    rows, ours = [], []
    sizes = [10**3, 10**4, 10**5] if quick else [10**3, 10**4, 10**5, 10**6]
    for device, n in itertools.product(devices(), sizes):
        repeats = 15 if n <= 10**4 else 5
        rivals = {"ours": exact_loss([n], device)}
        seconds = alternate(rivals, repeats)
        peak = measure_in_a_process(exact_loss, [n], device)[1]
        row = {"device": device, "rows": n, "ours s": seconds["ours"], "ours MB": peak}
        if n <= 10**4:
            both = rivals | {"dense": dense_loss([n], device)}
            seconds = alternate(both, 9 if n <= 10**3 else 3)
            row |= {"ours s": seconds["ours"], "dense s": seconds["dense"]}
            row["dense / ours"] = seconds["dense"] / seconds["ours"]
            row["dense MB"] = measure_in_a_process(dense_loss, [n], device)[1]
        rows.append(row)
        if device == "cpu":
            ours.append(row["ours s"])
    cost = exponent(sizes[1:], ours[1:])
    rows.append({"device": "cpu", "rows": "exponent from 10^4 on", "ours s": cost})
    return rows


@part
def loss_of_many_sessions(quick):
    """Sum over all pairs of many sessions, loss and gradient."""
    rows = []
    shapes = [[20] * 5000, [200] * 500] + ([] if quick else [[2000] * 50])
    for device, lengths in itertools.product(devices(), shapes):
        rivals = {
            "ours": exact_loss(lengths, device),
            "dense": dense_loss(lengths, device),
            "pair list": pair_list_loss(lengths, device),
        }
        seconds = alternate(rivals, 9 if lengths[0] <= 200 else 1)
        rows.append(
            {"device": device, "sessions": f"{len(lengths)} of {lengths[0]}"}
            | {f"{name} s": value for name, value in seconds.items()}
            | {f"{name} / ours": seconds[name] / seconds["ours"] for name in list(rivals)[1:]}
        )
    return rows


@part
def pair_by_pair_or_by_halves(quick):
    """Sum over sessions of one length both ways, to see from which length on halves are faster."""
    import torch

    from skpref._torch._dominance import dominance_sums, pair_sums
    from skpref._torch._losses import MAX_DENSE

    rows = []
    sizes = [1, 2**15 if quick else 2**17]  # rows in all, at least one session
    lengths = [32, 64, 128, 256, 512, 1024]
    for device, n, length in itertools.product(devices(), sizes, lengths):
        shape = max(1, n // length), length
        generator = torch.Generator().manual_seed(0)
        residual = torch.randn(shape, generator=generator, dtype=torch.float64).to(device)
        n_losers = torch.arange(length, device=device).expand(shape).contiguous()
        single = residual.float()
        sides = residual, residual, torch.ones_like(residual), n_losers
        single = single, single, torch.ones_like(single), n_losers
        rivals = {
            "pair by pair": to_the_end(lambda s=single: pair_sums(*s, "squared_hinge"), device),
            "by halves": to_the_end(lambda s=sides: dominance_sums(*s, 2, strict=True), device),
        }
        seconds = alternate(rivals, 7 if n > 1 else 101)
        row = {"device": device, "sessions": shape[0], "length": length}
        row |= {f"{name} s": value for name, value in seconds.items()}
        row["pair by pair / by halves"] = seconds["pair by pair"] / seconds["by halves"]
        rows.append(row | {"used": "pair by pair" if length <= MAX_DENSE else "by halves"})
    return rows


# --- pairs, neighbours, calibration ---------------------------------------------------------------


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


@part
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


@part
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


@part
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


@part
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


# --- training ---------------------------------------------------------------------------------


def training_data(n=20_000, length=20, n_features=384, seed=0, *, kind="embedding"):
    """Draw noisy soft labels of sessions that differ in level, and clean labels to test on.

    The truth of an "embedding" is spread over all features, and two thirds of it are linear; the
    truth of a "table" is in steps of eight features, as trees cut them.
    """
    rng = np.random.RandomState(seed)
    X = rng.randn(n, n_features).astype(np.float32)
    if kind == "embedding":
        hidden = np.sin(2 * X @ rng.randn(n_features, 16) / np.sqrt(n_features))
        truth = X @ rng.randn(n_features) / np.sqrt(n_features) + hidden @ rng.randn(16) / 4
    else:
        truth = ((X[:, :8] > rng.randn(8) / 2) * rng.choice([-1, 1], 8)).sum(axis=1) / 1.4
    groups = np.arange(n) // length
    level = rng.randn(groups.max() + 1)[groups]
    noisy = truth + 0.7 * level + 0.7 * rng.randn(n)
    return X, 1 / (1 + np.exp(-noisy)), (truth > np.median(truth)).astype(int), groups


class Race:
    """Clock for rounds of training, stopped while the held-out sessions are scored."""

    def __init__(self, X, y, groups):
        self.X, self.y, self.groups = X, y, groups
        self.path = []

    def start(self):
        """Start the clock."""
        self.spent, self.since = 0.0, time.perf_counter()

    def lap(self, score):
        """Stop the clock, note time and concordance, and start the clock again."""
        from skpref.metrics import within_session_concordance

        self.spent += time.perf_counter() - self.since
        concordance = within_session_concordance(self.y, score(self.X), groups=self.groups)
        self.path.append((self.spent, concordance))
        self.since = time.perf_counter()

    def best(self) -> float:
        """Return the best concordance."""
        return max(c for _, c in self.path)

    def reaches(self, concordance) -> float:
        """Return the seconds until a concordance is reached; infinite if it is not."""
        return next((s for s, c in self.path if c >= concordance), np.inf)


def race_ours(solver, X, soft, groups, race):
    """Train our classifier on the soft labels alone."""
    from skorch.callbacks import Callback

    from skpref import PairwisePreferenceClassifier
    from skpref._torch._scoring import predict_scores

    class Lap(Callback):
        def on_epoch_end(self, net, **_):
            race.lap(lambda rows: predict_scores(net.module_, rows)[:, 0])

    only_pairs = {"calibrator": "passthrough", "smoother": "passthrough", "stage2": None}
    only_pairs |= {"pointwise_weight": 0.0, "device": race.device, "random_state": 0}
    module = "linear" if solver == "lbfgs" else "mlp"
    clf = PairwisePreferenceClassifier(module, solver=solver, callbacks=[Lap()], **only_pairs)
    race.start()
    clf.fit(X, None, groups=groups, llm_scores=soft[:, None])
    if solver == "lbfgs":
        race.lap(clf.decision_function)


def race_explicit(X, soft, groups, race):
    """Train the same network on a list of all pairs; both rows are encoded for each pair."""
    import torch

    from skpref import IntraSessionPairSampler
    from skpref._torch._modules import MLP
    from skpref._torch._scoring import predict_scores

    torch.manual_seed(0)
    race.start()
    module = MLP(X.shape[1], 1).to(race.device)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-3, weight_decay=1e-3)
    pairs = IntraSessionPairSampler().sample(soft, groups)
    rows, margins = torch.from_numpy(X).to(race.device), torch.from_numpy(pairs.margin).float()
    winner, loser = torch.from_numpy(pairs.winner), torch.from_numpy(pairs.loser)
    for _ in range(3):
        for batch in torch.randperm(len(pairs)).split(256):
            short = 2.0 * margins[batch].to(race.device)
            short = short - (module(rows[winner[batch]]) - module(rows[loser[batch]]))[:, 0]
            optimizer.zero_grad()
            short.clamp(min=0).square().mean().backward()
            optimizer.step()
        race.lap(lambda rows: predict_scores(module, rows)[:, 0])


def race_xgboost(X, soft, groups, race):
    """Train XGBoost's pairwise ranker."""
    import xgboost

    race.start()
    data = xgboost.DMatrix(X, soft, qid=groups)
    options = {"objective": "rank:pairwise", "eta": 0.1, "max_depth": 6, "device": race.device}
    booster = xgboost.Booster(options | {"nthread": multiprocessing.cpu_count()}, [data])
    for number in range(150):
        booster.update(data, number)
        if number % 10 == 9:
            race.lap(lambda rows: booster.predict(xgboost.DMatrix(rows)))


def race_lightgbm(X, soft, groups, race):
    """Train LightGBM's LambdaRank on the soft labels cut into 16 levels, as it needs them."""
    import lightgbm

    race.start()
    levels = np.minimum(soft * 16, 15).astype(int)
    data = lightgbm.Dataset(X, levels, group=np.bincount(groups))
    options = {"objective": "lambdarank", "learning_rate": 0.1, "verbose": -1}
    options |= {"label_gain": list(range(16)), "num_threads": multiprocessing.cpu_count()}
    booster = lightgbm.Booster(options, data)
    for number in range(150):
        booster.update()
        if number % 10 == 9:
            race.lap(booster.predict)


@part
def training(quick):
    """Train to equal concordance within held-out sessions; 20,000 x 384, sessions of 20.

    Each rival trains for its rounds; our time is the time to its best concordance. inf: never.
    """
    n = 4000 if quick else 20_000
    rivals = {
        "ours, adam": lambda *a: race_ours("adam", *a),
        "ours, linear lbfgs": lambda *a: race_ours("lbfgs", *a),
        "explicit pairs": race_explicit,
    }
    rivals |= {"xgboost": race_xgboost} if find_spec("xgboost") else {}
    rivals |= {"lightgbm": race_lightgbm} if find_spec("lightgbm") else {}
    rows = []
    for device, kind in itertools.product(devices(), ["embedding", "table"]):
        X, soft, y, groups = training_data(n + n // 4, kind=kind)
        races = {}
        # A first lap on a few rows, which is left out, does the loading that happens once.
        for (name, rival), size in itertools.product(rivals.items(), (400, n)):
            races[name] = Race(X[n:], y[n:], groups[n:])
            races[name].device = device
            rival(X[:size], soft[:size], groups[:size], races[name])
        for name, race in races.items():
            best = race.best()
            row = {"device": device, "data": kind, "rival": name, "its best": best}
            row["its s to that"] = race.reaches(best)
            for ours in ("ours, adam", "ours, linear lbfgs"):
                row[f"{ours}, s"] = races[ours].reaches(best)
                row[f"its / {ours}"] = race.reaches(best) / races[ours].reaches(best)
            rows.append(row)
    return rows


def prepare_epochs(n_scores, hidden, batch_size, pairs, device, n=20_000):
    """Prepare five epochs of the same network on the same rows, with pairs or without."""
    import torch

    from skpref._torch._batches import SessionDataset
    from skpref._torch._modules import MLP
    from skpref._torch._net import make_net

    rng = np.random.RandomState(0)
    X = rng.randn(n, 384).astype(np.float32)
    soft = rng.dirichlet(np.ones(n_scores), n) if n_scores > 1 else rng.rand(n, 1)
    dataset = SessionDataset(X, soft, np.ones(n), np.arange(n) // 20)
    torch.manual_seed(0)
    net = make_net(
        MLP(384, n_scores, hidden),
        criterion={
            "loss": "squared_hinge",
            "margin": "adaptive",
            "margin_scale": 2.0,
            "pairwise_weight": float(pairs),
            "pointwise_weight": 1.0,
            "min_margin": 0.0,
            "class_weight": torch.ones(max(2, n_scores)),
        },
        pairs="all" if pairs else None,
        batch_size=batch_size,
        lr=1e-3,
        optimizer__weight_decay=1e-3,
        max_epochs=5,
        device=device,
        verbose=0,
    )
    return to_the_end(lambda: net.partial_fit(dataset), device)


@part
def epoch_cost(quick):
    """Train an epoch with pairs, and with cross-entropy alone; 20,000 x 384, sessions of 20."""
    rows = []
    shapes = [(128, 256), (128, 1024), (1024, 256)]
    for device, (hidden, size), n_scores in itertools.product(devices(), shapes, [1, 3]):
        rivals = {
            "pairs": prepare_epochs(n_scores, hidden, size, True, device),
            "pointwise": prepare_epochs(n_scores, hidden, size, False, device),
        }
        seconds = alternate(rivals, 3 if quick else 9)
        row = {"device": device, "hidden units": hidden, "batch": size, "scores per row": n_scores}
        row |= {f"{k} s per epoch": v / 5 for k, v in seconds.items()}
        rows.append(row | {"pairs / pointwise": seconds["pairs"] / seconds["pointwise"]})
    return rows


# --- prediction -------------------------------------------------------------------------------


def prepare_prediction(n):
    """Prepare predicting many rows."""
    from skpref import PairwisePreferenceClassifier

    X, _, y, groups = training_data(2000)
    clf = PairwisePreferenceClassifier("mlp", max_epochs=1, smoother="passthrough", random_state=0)
    clf.fit(X, y, groups=groups)
    rows = training_data(n)[0]
    clf.predict_proba(rows[:10])
    return lambda: clf.predict_proba(rows)


@part
def prediction(quick):
    """Predict the probabilities of one row and of 10^5 rows of 384 features."""
    import torch
    from sklearn.linear_model import LogisticRegression

    from skpref import PairwisePreferenceClassifier

    X, _, y, groups = training_data(2000)
    regression = LogisticRegression(max_iter=1000).fit(X, y)
    rows = []
    for module in ("linear", "mlp"):
        clf = PairwisePreferenceClassifier(module, max_epochs=1, smoother="passthrough")
        clf.set_params(device="cpu", random_state=0).fit(X, y, groups=groups)
        bare = clf.net_.module_
        for n in (1, 10**5):
            some = training_data(n)[0]

            def forward(some=some, bare=bare):
                with torch.inference_mode():
                    return torch.sigmoid(bare(torch.from_numpy(some)))

            rivals = {
                "ours": lambda some=some, clf=clf: clf.predict_proba(some),
                "LogisticRegression": lambda some=some: regression.predict_proba(some),
                "bare module": forward,
            }
            seconds = alternate(rivals, 5 if n > 1 else 300 if quick else 3000)
            row = {"module": module, "rows": n}
            row |= {f"{k} ms": 1000 * v for k, v in seconds.items()}
            row["ours / LogisticRegression"] = seconds["ours"] / seconds["LogisticRegression"]
            row["ours / bare"] = seconds["ours"] / seconds["bare module"]
            if n > 1 and module == "mlp":
                row["ours MB"] = measure_in_a_process(prepare_prediction, n)[1]
                row["input MB"] = some.nbytes / 2**20
            rows.append(row)
    return rows


# --- growth -----------------------------------------------------------------------------------


def prepare_fit(n, length, solver):
    """Prepare fitting the classifier."""
    from skpref import PairwisePreferenceClassifier

    X, soft, _, groups = training_data(n, length, n_features=64)
    clf = PairwisePreferenceClassifier(
        "linear" if solver == "lbfgs" else "mlp",
        solver=solver,
        max_epochs=2,
        max_iter=20,
        calibrator="passthrough",
        smoother="passthrough",
        device="cpu",
        random_state=0,
    )
    clf.fit(X[:200], None, groups=groups[:200], llm_scores=soft[:200, None])  # loads torch
    return lambda: clf.fit(X, None, groups=groups, llm_scores=soft[:, None])


@part
def growth(quick):
    """Fit on rows of 64 features: 2 epochs of Adam, or 20 iterations of L-BFGS."""
    rows = []
    most = 5 if quick else 6
    for solver in ("adam", "lbfgs"):
        sizes = [10**k for k in range(3, most + 1)]
        runs = [measure_in_a_process(prepare_fit, n, 20, solver) for n in sizes]
        for n, (seconds, peak) in zip(sizes, runs, strict=True):
            rows.append({"solver": solver, "rows": n, "length": 20, "s": seconds, "MB": peak})
        last = slice(1, None)
        slope = [exponent(sizes[last], [r[k] for r in runs[last]]) for k in (0, 1)]
        rows.append({"solver": solver, "rows": "exponent", "s": slope[0], "MB": slope[1]})
        lengths = [10**k for k in range(1, 6)]
        runs = [measure_in_a_process(prepare_fit, 10**5, length, solver) for length in lengths]
        for length, (seconds, peak) in zip(lengths, runs, strict=True):
            row = {"solver": solver, "rows": 10**5, "length": length, "s": seconds, "MB": peak}
            rows.append(row)
        slope = [exponent(lengths, [r[k] for r in runs]) for k in (0, 1)]
        rows.append({"solver": solver, "length": "exponent", "s": slope[0], "MB": slope[1]})
    return rows


# --- the page ---------------------------------------------------------------------------------


def page(result) -> list[str]:
    """Return the results as the lines of a Markdown page."""
    lines = ["# Speed", "", "`python -m benchmarks.speed`", ""]
    lines += [", ".join(f"{k} {v}" for k, v in result["environment"].items()) + "."]
    lines += ["", *NOTE, ""]
    for name, function in PARTS.items():
        if name in result["parts"]:
            lines += [f"## {name.replace('_', ' ')}", "", inspect.getdoc(function) or "", ""]
            lines += [*table(result["parts"][name]), ""]
    return lines


def headline(parts) -> str:
    """Return the table of the README: one line for each part, including those that we lose."""

    def find(name, **wanted):
        return next(r for r in parts[name] if all(r.get(k) == v for k, v in wanted.items()))

    def line(what, ours, *rivals):
        against = "; ".join(f"{name} {show(ratio)}" for name, ratio in rivals)
        return f"| {what} | {ours} | {against} |"

    one = {n: find("loss_of_one_session", rows=n) for n in (10**4, 10**6)}
    many = find("loss_of_many_sessions", sessions="50 of 2000")
    pairs = [find("pair_sampling", ours=o, **{"session length": n}) for o, n in PAIRS_SHOWN]
    exact, approximate = (find("smoothing", rows=n) for n in (2 * 10**4, 10**5))
    lines = [
        "| work | skpref | time of others, by ours |",
        "| --- | --- | --- |",
        line(
            "loss and gradient over all pairs, one session of 10,000",
            f"{one[10**4]['ours s'] * 1000:.1f} ms",
            ("dense torch", one[10**4]["dense / ours"]),
        ),
        line(
            "the same, one session of a million",
            f"{show(one[10**6]['ours s'])} s, {show(one[10**6]['ours MB'])} MB",
        ),
        line(
            "the same, 50 sessions of 2,000",
            f"{many['ours s'] * 1000:.0f} ms",
            ("dense torch", many["dense / ours"]),
            ("list of pairs", many["pair list / ours"]),
        ),
    ]
    for row in pairs:
        what = f"{show(row['pairs'])} pairs, {row['ours']}, sessions of {row['session length']}"
        rival = ("`itertools` loop over all pairs", row["itertools / ours"])
        lines.append(line(what, f"{show(row['ours s'])} s", rival))
    brute = ("scikit-learn brute force", exact["scikit-learn / exact"])
    flat = ("faiss flat", exact["faiss flat s"] / exact["exact s"])
    own = ("skpref exact", approximate["exact / approximate"])
    recall = f"recall {approximate['recall']:.3f}"
    lines += [
        line("smoothing 20,000 x 384, exact", f"{show(exact['exact s'])} s", brute, flat),
        line(
            "smoothing 100,000 x 384, approximate",
            f"{show(approximate['approximate s'])} s, {recall}",
            own,
        ),
    ]
    for kind, truth in (("embedding", "spread over all features"), ("table", "in steps of eight")):
        races = {name: find("training", data=kind, rival=name) for name in ("xgboost", "lightgbm")}
        ratios = [(f"{n} to its best", r["its / ours, adam"] or "never") for n, r in races.items()]
        lines.append(line(f"training on 20,000 x 384, truth {truth}", "", *ratios))
    for n_scores in (1, 3):
        shape = {"hidden units": 128, "batch": 256, "scores per row": n_scores}
        row = find("epoch_cost", device="cpu", **shape)
        what = f"an epoch with pairs, {n_scores} score{'s' * (n_scores > 1)} per row"
        seconds = f"{show(row['pairs s per epoch'])} s"
        lines.append(line(what, seconds, ("without pairs", 1 / row["pairs / pointwise"])))
    row = find("prediction", module="mlp", rows=1)
    regression = ("LogisticRegression", 1 / row["ours / LogisticRegression"])
    lines.append(line("`predict_proba` of one row", f"{show(row['ours ms'])} ms", regression))
    return "\n".join(lines)


def main(argv=None):
    """Run the parts, and write the page after each one."""
    parser = argparse.ArgumentParser(description="Speed of every part of skpref.")
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--quick", action="store_true", help="small sizes only, to try it out")
    parser.add_argument("--fresh", action="store_true", help="run again what is in the JSON")
    add_out_option(parser)
    args = parser.parse_args(argv)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown parts {sorted(unknown)}; choose from {list(PARTS)}")
    path = args.out / "speed.json"
    result = {"environment": environment(), "parts": read_json(path, {"parts": {}})["parts"]}
    for name in args.parts or PARTS:
        if name not in result["parts"] or args.fresh:
            result["parts"][name] = PARTS[name](args.quick)
            write_json(path, result)
        write_lines(args.out / "speed.md", page(result))
        print("\n".join([f"## {name}", *table(result["parts"][name]), ""]), flush=True)


if __name__ == "__main__":
    main()
