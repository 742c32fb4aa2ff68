"""LLMLabeler against a real LLM behind llama.cpp's server."""

import warnings

import numpy as np
import openai
import pandas as pd
import pytest
from sklearn.pipeline import make_pipeline

from skpref import LLMLabeler, LLMScoreCalibrator, PromptBank

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:With the prompt:UserWarning"),
]

CLASSES = ["negative", "positive"]
SOUNDS = {"sounds": "{answer}\n\nMessage: {utterance}\n\nThe speaker sounds\n{options}"}
TEXTS = {
    "negative": [
        "This is the worst service I have ever had.",
        "I am so angry, it broke again.",
        "Terrible. I want my money back.",
        "I am very disappointed and sad.",
    ],
    "positive": [
        "Thank you so much, you are wonderful!",
        "It works perfectly, I love it.",
        "Great, that made my day!",
        "What a lovely surprise, thanks.",
    ],
}
FRAME = pd.DataFrame(
    [
        {"session_id": f"{label}-{i % 2}", "turn": i // 2, "text": text, "label": label}
        for label, texts in TEXTS.items()
        for i, text in enumerate(texts)
    ]
)


def make(url, prompts=None, **params):
    params = {"model": "smollm2", "base_url": url, "verbose": False, "max_concurrency": 4} | params
    return LLMLabeler(CLASSES, prompts, **params)


def test_log_probabilities_tell_classes_apart(real_llm, tmp_path):
    bank = PromptBank(SOUNDS, task="the mood")
    # So small a model does not begin with the name of a class: of many tokens some are names.
    labeler = make(real_llm, bank, cache=tmp_path, top_logprobs=2000)
    scores = labeler.fit_transform(FRAME)
    np.testing.assert_allclose(scores.sum(axis=2), 1)
    assert (labeler.option_mass_ > 0).all()
    assert labeler.usage_["prompt_tokens"] > 200
    # What the server says when it is asked without the labeler.
    turns = labeler._turns(FRAME)[0]
    ask = next(labeler._asks(turns, labeler._questions(), labeler._units(turns)))
    with openai.OpenAI(base_url=real_llm, api_key="none") as client:
        choice = client.chat.completions.create(**ask.payload).choices[0]
    top = [(t.token.strip().lower(), t.logprob) for t in choice.logprobs.content[0].top_logprobs]
    begins = [[np.exp(p) for t, p in top if len(t) > 2 and name.startswith(t)] for name in CLASSES]
    said = [sum(probabilities) for probabilities in begins]
    assert scores[0, 0, 0] == pytest.approx(said[0] / sum(said), abs=0.1)
    np.testing.assert_array_equal(labeler.transform(FRAME), scores)
    assert labeler.usage_["requests"] == 0


@pytest.mark.filterwarnings("ignore:.*answers are missing:UserWarning")
def test_the_default_bank_with_context_and_examples_goes_before_a_calibrator(real_llm):
    # The likeliest tokens of so small a model may have no class among them.
    pipe = make_pipeline(make(real_llm), LLMScoreCalibrator(classes=CLASSES))
    few = FRAME[FRAME.turn == 0].iloc[::2]
    soft = pipe.fit_transform(few, few.label)
    assert soft.shape == (2, 2)
    np.testing.assert_allclose(soft.sum(axis=1), 1)


@pytest.mark.filterwarnings("ignore:.*answers are missing:UserWarning")
def test_the_server_s_structured_output_gives_confidences(real_llm):
    labeler = make(real_llm, {"p": SOUNDS["sounds"]}, scoring="verbalized")
    scores = labeler.fit_transform(FRAME.text[:2].tolist())
    answered = ~np.isnan(scores).any(axis=(1, 2))
    assert answered.sum() + len(labeler.failures_) == 2
    # By the schema no answer can lack a class; all zeros is what a small model may say.
    assert all("do not add up" in failure.reason for failure in labeler.failures_)
    np.testing.assert_allclose(scores[answered].sum(axis=2), 1)


@pytest.mark.filterwarnings("ignore:.*answers are missing:UserWarning")
def test_votes_are_sampled(real_llm):
    labeler = make(real_llm, {"p": SOUNDS["sounds"]}, scoring="label", n_samples=3, temperature=1)
    scores = labeler.fit_transform(FRAME.text[:3].tolist())
    assert labeler.usage_["requests"] == 9
    voted = scores[~np.isnan(scores)]
    assert np.isin(np.round(voted * 6, 9), [0, 2, 3, 4, 6]).all()


def test_several_labels_are_answered_line_by_line(real_llm):
    labels = ["angry", "glad"]
    claims = [f'"{i}. {name}: " claim' for i, name in enumerate(labels, 1)]
    grammar = f'root ::= {" ".join(claims)}\nclaim ::= ("yes" | "no") "\\n"'
    params = {"multilabel": True, "model": "smollm2", "base_url": real_llm, "verbose": False}
    bank = {"p": "Mood.\n{options}\n\n{answer}\n\nMessage: {utterance}"}
    # Of the likeliest tokens, as many as are needed to have yes and no among them.
    params |= {"top_logprobs": 2000, "request_params": {"extra_body": {"grammar": grammar}}}
    labeler = LLMLabeler(labels, bank, **params)
    scores = labeler.fit_transform(FRAME.text[:3].tolist())
    assert scores.shape == (3, 1, 2)
    assert ((scores > 0) & (scores < 1)).all()
    assert (labeler.option_mass_ > 0).all()


def test_the_server_s_structured_output_says_yes_or_no_of_each_label(real_llm):
    bank = {"p": "Mood.\n{options}\n\n{answer}\n\nMessage: {utterance}"}
    params = {"multilabel": True, "model": "smollm2", "base_url": real_llm, "verbose": False}
    labeler = LLMLabeler(["angry", "glad"], bank, scoring="label", **params)
    scores = labeler.fit_transform(FRAME.text[:3].tolist())
    # By the schema no answer can lack a label, or say anything but yes and no.
    assert np.isin(scores, [0, 1]).all()


def test_the_lines_of_a_session_are_answered_by_any_number_of_labels(real_llm):
    params = {"multilabel": True, "model": "smollm2", "base_url": real_llm, "verbose": False}
    labeler = LLMLabeler(["angry", "glad"], unit="session", scoring="label", **params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of lines that a small model leaves out
        scores = labeler.fit_transform(FRAME)
    answered = ~np.isnan(scores).any(axis=(1, 2))
    assert answered.sum() + len(labeler.failures_) == len(FRAME)
    assert np.isin(scores[answered], [0, 1]).all()
