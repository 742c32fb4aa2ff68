"""Speed of training and of prediction, and how both grow with the data."""

import itertools
import multiprocessing
import time
from importlib.util import find_spec

import numpy as np

from benchmarks._timing import alternate, devices, exponent, measure_in_a_process, to_the_end


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
