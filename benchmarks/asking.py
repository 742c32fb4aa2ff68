"""Ways to ask a real LLM: what they cost, and how good their scores are.

    export URL=http://127.0.0.1:18124/v1
    python -m benchmarks.asking --base-url $URL --model NAME --data-dir DATA

Asks about the packaged support chats and about scenes of MELD. Writes `results/asking.json` and
`asking.md`. A run that was stopped resumes from the folder of `--cache` if the address is the same.
"""

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pandas as pd

from benchmarks._common import (
    add_data_options,
    markdown_table,
    names,
    parse_with_data,
    quiet,
    read_json,
    write_json,
    write_lines,
)
from skpref import LLMLabeler, LLMScoreCalibrator, PromptBank
from skpref.datasets import load_support_chats
from skpref.datasets._support_chats import DEFINITIONS
from skpref.inspection import performance_report, preference_noise
from skpref.inspection._bootstrap import session_weights

METRICS = ("accuracy", "macro-F1", "concordance")
CLASSES = sorted(DEFINITIONS)
MOOD = {"task": "the mood of the speaker", "definitions": DEFINITIONS}
N_LABELS = 225  # as many as the support chats have
COUNTED = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens")
BANK = "three prompts"
# Each way: the set of prompts, and the settings.
WAYS: dict[str, tuple[str, dict]] = {
    BANK: ("varied", {"n_context_turns": 1}),
    "whole sessions": ("session", {"unit": "session"}),
}
INTRODUCTION = f"""`python -m benchmarks.asking`: the mood of each utterance, by an LLM. *{BANK}*
are the default bank, with one turn of context; each is also shown alone. *Whole sessions* is
`unit="session"`, ten utterances a call of which three are shared with the next one. Tokens are
those that the server counted, per utterance; those of the bank are dealt to its prompts as
`LLMLabeler.plan` counts them.

`LLMScoreCalibrator("auto")` is fitted on about {N_LABELS} labels of whole sessions; accuracy,
macro-F1 and the order within sessions are on all other sessions, with 95% intervals by session,
and *raw* is the accuracy before calibration. *Shared* is the share of the error that a session
shares (`preference_noise`)."""


class Asked(NamedTuple):
    """Utterances to ask about."""

    frame: pd.DataFrame  # text, session_id, turn, speaker, label
    known: np.ndarray  # whether the label of a row may be used

    @property
    def y(self) -> np.ndarray:
        """Return the labels that may be used, None for the other rows."""
        return np.where(self.known, self.frame["label"].to_numpy(dtype=object), None)


def take_sessions(frame: pd.DataFrame, n_sessions: int | None) -> pd.DataFrame:
    """Return the first sessions of a frame."""
    chosen = frame["session_id"].unique()[:n_sessions]
    return frame[frame["session_id"].isin(chosen)].reset_index(drop=True)


def support_chats(args) -> Asked:
    """Return the packaged chats, whose labelled sessions come first."""
    chats = load_support_chats()
    frame = take_sessions(chats.frame, args.sessions)
    known = np.array([label is not None for label in chats.y])[: len(frame)]
    return Asked(frame, known)


def meld(args) -> Asked:
    """Return scenes of MELD's test split in random order; the first ones are labelled."""
    frame = pd.read_parquet(args.data_dir / "meld.parquet").rename(
        columns={"label": "emotion_label"}
    )
    frame = frame[frame["split"] == "test"].rename(columns={"sentiment": "label"})
    order = np.random.RandomState(0).permutation(frame["session_id"].unique())
    frame = frame.set_index("session_id").loc[order].reset_index()
    frame = take_sessions(frame, args.sessions)
    first = frame["session_id"].iloc[N_LABELS - 1]
    last = np.flatnonzero(frame["session_id"] == first)[-1]
    return Asked(frame, np.arange(len(frame)) <= last)


DATA = {"support chats": support_chats, "MELD sentiment": meld}


def make_labeler(way: str, args) -> LLMLabeler:
    """Return the labeler of a way."""
    bank, settings = WAYS[way]
    return LLMLabeler(
        CLASSES,
        PromptBank(bank, **MOOD),
        model=args.model,
        base_url=args.base_url,
        api_key="none",
        speaker="speaker",
        cache=args.cache / "asking",
        max_concurrency=args.concurrency,
        timeout=600,
        verbose=1,
        **settings,
    )


def ask(way: str, name: str, asked: Asked, args) -> tuple[np.ndarray, dict]:
    """Return the scores of a way, and its calls and tokens per utterance.

    Tokens are means over all requests that were made for it, also in former runs.
    """
    labeler = make_labeler(way, args).fit(asked.frame, asked.y)
    path = args.cache / "asking" / "usage.json"
    key = f"{name}, {way}, {args.model}"
    try:
        scores = labeler.transform(asked.frame)
    finally:
        spent = read_json(path, {})
        before = spent.get(key, {})
        spent[key] = {k: before.get(k, 0) + labeler.usage_[k] for k in COUNTED}
        write_json(path, spent)
    n_calls = labeler.usage_["requests"] + labeler.usage_["cache_hits"]
    calls = n_calls / len(asked.frame)
    per_call = {k: spent[key][k] / spent[key]["requests"] for k in COUNTED[1:]}
    return scores, {
        "calls": calls,
        "read": calls * per_call["prompt_tokens"],
        "written": calls * per_call["completion_tokens"],
        "window agreement": labeler.window_agreement_,
    }


def each_prompt(scores, costs, asked: Asked, args) -> Iterator[tuple[str, np.ndarray, dict]]:
    """Yield each prompt of the bank alone, with its share of the tokens by plan."""
    labeler = make_labeler(BANK, args).set_params(cache=None).fit(asked.frame, asked.y)
    tokens = labeler.plan(asked.frame).tokens
    equal = {cost: costs[cost] / len(tokens) for cost in ("calls", "written")}
    for p, name in enumerate(labeler.prompt_names_):
        read = costs["read"] * tokens[p] / tokens.sum()
        yield name, scores[:, [p]], costs | equal | {"read": read}


def ask_each(name: str, asked: Asked, args) -> Iterator[tuple[str, np.ndarray, dict]]:
    """Yield the ways to ask, with scores and costs."""
    for way in args.ways:
        print(f"{name}: {way}, {len(asked.frame):,} utterances", flush=True)
        scores, costs = ask(way, name, asked, args)
        yield way, scores, costs
        if way == BANK:
            yield from each_prompt(scores, costs, asked, args)


def judge(scores: np.ndarray, asked: Asked) -> tuple[dict, np.ndarray]:
    """Return the quality of scores on the sessions without labels, and which rows are right."""
    frame, test = asked.frame, ~asked.known
    sessions, truth = frame["session_id"].to_numpy(), frame["label"].to_numpy(dtype=object)
    calibrator = LLMScoreCalibrator("auto", classes=CLASSES).fit(scores, asked.y, groups=sessions)
    with quiet():  # of rows without an answer
        raw = np.nan_to_num(np.nanmean(scores, axis=1), nan=1 / 3)
    prob = np.nan_to_num(calibrator.transform(scores), nan=1 / 3)
    found = np.array(CLASSES, dtype=object)[prob.argmax(axis=1)]
    table = performance_report(
        prob[test],
        truth[test],
        sessions[test],
        classes=CLASSES,
        n_bootstrap=1000,
        random_state=0,
    ).table
    figures = {
        metric: [float(table[end][i]) for end in ("value", "low", "high")]
        for i, metric in enumerate(table.metric)
        if metric in METRICS
    }
    shared = preference_noise(scores[test], truth[test], sessions[test], random_state=0).shared
    raw_right = np.array(CLASSES, dtype=object)[raw.argmax(axis=1)] == truth
    figures |= {
        "raw": float(raw_right[test].mean()),
        "shared": [float(shared[end]) for end in ("share", "low", "high")],
        "n_test": int(test.sum()),
        "n_labels": int(asked.known.sum()),
    }
    return figures, (found == truth)[test]


def gain(right: np.ndarray, other: np.ndarray, sessions: np.ndarray) -> list[float]:
    """Return the difference of two accuracies, with its 95% interval by session."""
    _, unit = np.unique(sessions, return_inverse=True)
    sums = np.bincount(unit, weights=right.astype(float) - other)
    n_rows = np.bincount(unit)
    draws = session_weights(len(sums), 1000, np.random.RandomState(0))
    samples = np.array([weight @ sums / (weight @ n_rows) for weight in draws])
    low, high = np.quantile(samples, [0.025, 0.975])
    return [float(sums.sum() / n_rows.sum()), float(low), float(high)]


def run(args) -> list[dict]:
    """Ask in each way; return a line for each of them and data set."""
    lines = []
    for name in args.data:
        asked, first = DATA[name](args), None
        sessions = asked.frame["session_id"].to_numpy()[~asked.known]
        for way, scores, costs in ask_each(name, asked, args):
            figures, right = judge(scores, asked)
            first = right if first is None else first
            line = {
                "data": name,
                "way": way,
                **costs,
                "missing": float(np.isnan(scores).all(axis=(1, 2)).mean()),
                **figures,
                "gain": gain(right, first, sessions),
            }
            print(line, flush=True)
            lines.append(line)
    return lines


def cell(figures: list[float], form: str) -> str:
    """Write a figure and its interval."""
    value, low, high = figures
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


def page(result: dict) -> list[str]:
    """Return the lines of the page."""
    text = ["# Ways to ask an LLM", "", INTRODUCTION, "", f"The model is {result['model']}."]
    for name, some in pd.DataFrame(result["lines"]).groupby("data", sort=False):
        rows = [
            [
                line["way"],
                f"{line['calls']:.2f}",
                f"{line['read']:,.0f}",
                f"{line['written']:.1f}",
                f"{line['raw']:.3f}",
                *(cell(line[metric], ".3f") for metric in METRICS),
                cell([100 * x for x in line["gain"]], "+.1f"),
                cell(line["shared"], ".2f"),
            ]
            for line in some.to_dict("records")
        ]
        first = some.iloc[0]
        text += [
            "",
            f"## {name}, {first['n_labels']} labels, {first['n_test']:,} utterances to judge",
            "",
        ]
        text += markdown_table(
            [
                "way",
                "calls",
                "read",
                "written",
                "raw",
                *METRICS,
                f"accuracy minus that of {first['way']}, points",
                "shared",
            ],
            rows,
        )
    return text


def parse(argv=None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Ways to ask a real LLM, compared.")
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=names(), default=list(DATA))
    parser.add_argument("--ways", type=names(), default=list(WAYS))
    parser.add_argument("--sessions", type=int, help="number of sessions; default: all")
    parser.add_argument("--concurrency", type=int, default=4)
    add_data_options(parser)
    return parse_with_data(parser, argv, data=DATA, ways=WAYS)


def main(argv=None) -> None:
    """Ask, judge, and write the results."""
    args = parse(argv)
    result = {"model": args.model, "lines": run(args)}
    write_json(args.out / "asking.json", result)
    write_lines(args.out / "asking.md", page(result))


if __name__ == "__main__":
    main()
