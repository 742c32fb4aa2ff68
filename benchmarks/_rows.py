"""The study's rows and the settings that each tries, and the levers."""

from sklearn.model_selection import ParameterGrid

from benchmarks._pair_variants import LogOddsClassifier

# A row tries all six of these networks, or the first three with two values of something else.
NETWORKS = [
    {"module": "linear", "weight_decay": 1e-3},
    {"module": "linear", "weight_decay": 1e-4},
    {"module": "mlp", "weight_decay": 1e-3},
    {"module": "linear", "weight_decay": 3e-4},
    {"module": "mlp", "weight_decay": 1e-4},
    {"module": "mlp", "weight_decay": 1e-3, "module__dropout": 0.3},
]


def grid(networks=NETWORKS[:3], **values) -> list[dict]:
    """Combine each network with each combination of the values."""
    return [n | v for v in ParameterGrid(values) for n in networks]


# Distillation without skpref: human labels in place of soft labels, and offsets refitted.
DISTILL = {
    "pairwise_weight": [0.0],
    "class_weight": [None],
    "labels_in_stage_1": [True],
    "stage2": ["offsets"],
}
REWARD = DISTILL | {"loss": ["logistic"], "pointwise_weight": [0.0], "pairwise_weight": [1.0]}
POINTWISE = grid(NETWORKS, **DISTILL)
BALANCED = [s | {"class_weight": "balanced"} for s in POINTWISE]
GCE = [{"lr": lr, "weight_decay": w} for lr, w in ((1e-3, 1e-4), (1e-3, 1e-3), (3e-4, 1e-3))]
TREES = {"learning_rate": 0.3, "n_estimators": 30, "colsample_bytree": 0.5}
# Row -> (how it is made, settings tried on dev).
ROWS = {
    "llm": ("llm", [{"method": "mean"}]),
    "llm, calibrated": ("llm", [{}]),
    "human labels": ("human", [{"C": c} for c in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)]),
    "distillation": ("classifier", POINTWISE),
    "distillation, balanced": ("classifier", BALANCED),
    "distillation, label smoothing": ("classifier", grid(**DISTILL, label_smoothing=[0.1, 0.3])),
    "distillation, confidence-weighted": ("classifier", grid(**DISTILL, confidence=[1.0, 2.0])),
    "generalised cross-entropy": ("gce", grid(GCE, q=[0.3, 0.7])),
    "Dawid-Skene, distilled": ("classifier", [s | {"dawid_skene": True} for s in POINTWISE]),
    "CleanLearning": ("clean", [{"C": c} for c in (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)]),
    "XGBoost rank:pairwise": (
        "trees",
        [TREES | {"max_depth": d, "reg_lambda": r} for d in (3, 6) for r in (1.0, 10.0, 100.0)],
    ),
    "reward model": ("classifier", grid(NETWORKS, **REWARD | {"margin_scale": [1e-6]})),
    "reward model, margin": ("classifier", grid(**REWARD | {"margin_scale": [1.0, 4.0]})),
    "skpref, default": ("classifier", [{}]),
    "skpref, no pairs": ("classifier", [{"pairwise_weight": 0.0}]),
    "skpref": ("classifier", grid(pairwise_weight=[0.1, 1.0])),
}
OURS = ["skpref, default", "skpref, no pairs", "skpref"]
# The one of these that is best on dev is the "best-tuned distillation" of a task.
DISTILLED = [name for name in ROWS if name.startswith("distillation")]

# Ten times the default, so that the effect of a change in the pairs can be seen.
HEAVY_PAIRS = {"module": "mlp", "pairwise_weight": 1.0}
# One change each to a hidden layer trained on pairs that weigh as much as the cross-entropy, on
# dev.
LEVERS = {
    "as it is": {},
    "no pairs": {"pairwise_weight": 0.0},
    "no pairs, no class weights": {"pairwise_weight": 0.0, "class_weight": None},
    "no class weights": {"class_weight": None},
    "no pairs, labels in stage 1": {"pairwise_weight": 0.0, "labels_in_stage_1": True},
    "labels in stage 1": {"labels_in_stage_1": True},
    "pairs alone": {"pointwise_weight": 0.0},
    "pairwise_weight 0.1": {"pairwise_weight": 0.1},
    "pairwise_weight 0.3": {"pairwise_weight": 0.3},
    "pairwise_weight 3": {"pairwise_weight": 3.0},
    "pairwise_weight chosen on labelled sessions": {"pairwise_weight": "chosen"},
    "features of the utterance alone": {"n_turns": 0},
    "features of one turn before": {"n_turns": 1},
    "hinge": {"loss": "hinge"},
    "logistic": {"loss": "logistic"},
    "margin_scale 1": {"margin_scale": 1.0},
    "margin_scale 5": {"margin_scale": 5.0},
    "pairwise_weight 0.3, margin_scale 5": {"pairwise_weight": 0.3, "margin_scale": 5.0},
    "fixed margin": {"margin": "fixed", "margin_scale": 1.0},
    "margins in log-odds": {"kind": LogOddsClassifier, "margin_scale": 0.5},
    "pairs weighted by certainty": {"confidence": 1.0},
    "pairs weighted by the prompts' agreement": {"agreement": 2.0},
    "session-centred soft labels": {"centred": True},
    "virtual sessions by topic": {"virtual_sessions": True},
    "no smoothing": {"knn": False},
    "smoothing by other sessions only": {"other_sessions": True},
    "self-training, one more round": {"self_training": 1},
    "dropout 0.3, 512 units": {"module__dropout": 0.3, "module__hidden_units": 512},
    "15 epochs": {"max_epochs": 15},
    "offsets only": {"stage2": "offsets"},
    "fine-tuned": {"stage2": "finetune"},
}
