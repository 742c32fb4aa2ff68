"""Load customer-support chats with labels and real LLM scores."""

import hashlib
from importlib.resources import files

import numpy as np
from sklearn.utils import Bunch

from skpref._llm._prompts import PromptBank
from skpref._optional import import_optional

CLASSES = ["negative", "neutral", "positive"]
DEFINITIONS = {
    "negative": "annoyed, angry, disappointed, worried, sad or sarcastic",
    "neutral": "facts, questions, answers and routine politeness",
    "positive": "relieved, grateful, pleased, friendly or amused",
}
_FOLDER = files("skpref.datasets") / "data"
# The first sessions are the labelled ones; the order of the sessions is random.
N_LABELLED = 16

DESCR = """Customer-support chats

161 fictional chats between customers and the support of invented companies, written for skpref:
2317 utterances in sessions of 6 to 35, about products from broadband to pensions, with moods and
outcomes of all kinds. They have the same licence as skpref and are not a sample of any real
company's chats.

Each utterance is labelled with the mood that its speaker expresses, given the preceding utterances:

- negative: annoyance, anger, disappointment, worry, sadness, contempt, sarcasm at the other's
  expense, a complaint that expresses displeasure; an agent's curtness or real regret.
- neutral: facts, questions, answers, instructions, acknowledgements and routine politeness
  ("thanks" as a receipt, "I am sorry for the inconvenience"). A problem described without
  displeasure is neutral.
- positive: relief, sincere gratitude, delight, praise, good-natured humour, warmth beyond routine.

An utterance with two moods gets the one on which it ends or that predominates. Sarcasm is labelled
by its intended meaning. `label` is by the writer of the chat, who marked as `ambiguous` the
utterances on which careful readers could differ (113 of them). `second_label` is by a second reader
who saw only the texts and these guidelines. The two agree on 96% of the utterances (Cohen's kappa
0.93).
"""


def support_chats_bank() -> PromptBank:
    """Return the prompts of the scores: the default ones with task and definitions.

    Returns
    -------
    PromptBank
        The prompts.
    """
    return PromptBank(task="the mood of the speaker", definitions=DEFINITIONS)


def read_chats() -> tuple:
    """Read the chats without their scores.

    Returns
    -------
    frame : pandas.DataFrame
        The utterances.
    y : ndarray of object
        The labels of the labelled sessions, None for all other rows.
    """
    pandas = import_optional("pandas", "Loading data sets", "datasets")
    with (_FOLDER / "support_chats.csv.gz").open("rb") as file:
        frame = pandas.read_csv(file, compression="gzip", keep_default_na=False)
    frame["ambiguous"] = frame["ambiguous"].astype(bool)
    labelled = frame["session_id"].isin(frame["session_id"].unique()[:N_LABELLED])
    return frame, np.where(labelled, frame["label"].to_numpy(dtype=object), None)


def hash_texts(texts: list[str]) -> str:
    """Return a hash of the texts and their order.

    Parameters
    ----------
    texts : list of str
        The texts.

    Returns
    -------
    str
        SHA-256 in hexadecimal digits.
    """
    digest = hashlib.sha256()
    for text in texts:
        digest.update(hashlib.sha256(text.encode()).digest())
    return digest.hexdigest()


def load_support_chats() -> Bunch:
    """Load customer-support chats with labels, embeddings and the scores of a real LLM.

    Everything is part of skpref, so nothing is downloaded.

    Returns
    -------
    Bunch
        Dictionary-like object. The rows of a session are consecutive and in order.

        - frame : pandas.DataFrame of 2317 rows with the columns session_id, turn, speaker
          (customer, agent, bot or specialist), text, label, second_label, ambiguous, topic and
          outcome (of the session).
        - y : ndarray of object, shape (2317,), the labels of the first 16 sessions, None for all
          other rows.
        - groups : ndarray of object, shape (2317,), the session ids.
        - llm_scores : ndarray of shape (2317, 3, 3), the scores by prompt and class, NaN if the
          LLM gave none.
        - embeddings : ndarray of float32, shape (2317, 384), those of the utterances by the default
          :class:`~skpref.SentenceEncoder`, so that only new texts need to be encoded.
        - classes : list of str, the classes in the order of the last axis.
        - prompt_names : list of str, the prompts in the order of the second axis.
        - DESCR : str, a description with the labelling guidelines.

    Raises
    ------
    ImportError
        If pandas is not installed.

    See Also
    --------
    make_dialogues : Makes dialogues with known true classes and errors.
    skpref.LLMLabeler : Scores your own dialogues with an LLM.

    Notes
    -----
    The scores are from Qwen2.5-Coder-1.5B-Instruct (Apache-2.0), quantised to Q4_K_M (GGUF file of
    1,117,320,768 bytes, SHA-256 cc324af0...933bb046), served by llama.cpp (package xllamacpp
    2026.10.11549). They were requested on 2026-11-28 by ``python -m benchmarks.score_support_chats
    --base-url http://127.0.0.1:18124/v1 --model qwen2.5-coder-1.5b-instruct-q4_k_m``, which
    reproduces them: :class:`LLMLabeler` with the default prompts, ``scoring="logprobs"``,
    ``n_context_turns=1``, and examples drawn from the labels of the 16 labelled sessions. The LLM
    is small and was made for code, so its scores are noisy, and each prompt is biased towards some
    class. Other builds of the server give slightly different numbers.

    Examples
    --------
    >>> from skpref.datasets import load_support_chats
    >>> chats = load_support_chats()
    >>> for row in chats.frame[20:23].itertuples():
    ...     print(f"{row.speaker} ({row.label}): {row.text:.60}")
    agent (positive): Oh, that has made this whole desk smile. I'm sending it to h
    customer (positive): Please do! And tell him the crow lives. He was worried about
    agent (positive): I'll tell him. Enjoy every page.
    >>> chats.llm_scores.shape, chats.embeddings.shape
    ((2317, 3, 3), (2317, 384))
    """
    frame, y = read_chats()
    with (_FOLDER / "support_chats_scores.npz").open("rb") as file, np.load(file) as stored:
        llm_scores = stored["llm_scores"].astype(np.float64)
        prompt_names = stored["prompt_names"].tolist()
    llm_scores /= llm_scores.sum(axis=2, keepdims=True)  # stored as float16
    with (_FOLDER / "support_chats_embeddings.npz").open("rb") as file, np.load(file) as stored:
        embeddings = stored["embeddings"].astype(np.float32)
    return Bunch(
        frame=frame,
        y=y,
        groups=frame["session_id"].to_numpy(dtype=object),
        llm_scores=llm_scores,
        embeddings=embeddings,
        classes=CLASSES,
        prompt_names=prompt_names,
        DESCR=DESCR,
    )
