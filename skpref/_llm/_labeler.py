"""LLM scores of utterances, from any chat completion endpoint."""

import os
import shutil
import tempfile
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from skpref._context import Columns
from skpref._llm._answers import Answer
from skpref._llm._backends import NEED, Endpoint, Function, Secret
from skpref._llm._prompts import PromptBank, Question
from skpref._llm._requests import Turns, answer_settings, draw_examples, read_turns, write_asks
from skpref._llm._runner import Ask, Runner
from skpref._llm._tables import column_names, scores_from_frame, scores_to_frame
from skpref._optional import import_optional
from skpref._sklearn import DocLinkMixin, Interval, StrOptions, _fit_context, _get_output_config
from skpref._typing import FloatArray
from skpref._validation import check_labels


class Failure(NamedTuple):
    """A missing answer, with the reason."""

    row: int
    prompt: str
    reason: str


class LLMLabeler(DocLinkMixin, TransformerMixin, BaseEstimator):
    """Score utterances by prompting a large language model.

    The labeler asks about each utterance with each prompt of a bank, through any
    OpenAI-compatible chat completion endpoint (hosted ones, vLLM, the server of llama.cpp,
    Ollama) or a callable. Each answer is kept on disk as it arrives, so that no answer of an
    interrupted run is paid for twice.

    Parameters
    ----------
    classes : array-like of shape (n_classes,)
        The classes, in sorted order, as classifiers keep them.
    prompts : PromptBank or mapping of str to str, default=None
        Templates by name; see :class:`PromptBank`, which also sets the task and the definitions
        of the classes. None is a bank of six.
    model : str
        Name of the model at the endpoint.
    base_url : str, default=None
        Address of the endpoint, such as "http://127.0.0.1:8000/v1". None is the environment
        variable OPENAI_BASE_URL, else OpenAI's.
    api_key : str, default=None
        Key of the endpoint. It is never shown, and a pickle does not hold it. None takes the
        environment variable OPENAI_API_KEY.
    client : callable, default=None
        Answers instead of an endpoint: called, possibly in several threads at once, with the
        keyword arguments of a chat completion (``model``, ``messages``, ``temperature``, ...),
        as `litellm.completion` and ``openai.OpenAI().chat.completions.create`` are. It may be a
        coroutine function. It returns the text of the answer, or a chat completion, or for
        `scoring="logprobs"` a mapping of the likeliest first tokens to their log-probabilities.
    n_context_turns : int, default=3
        Number of turns before the utterance that prompts with the field ``{context}`` show.
    scoring : {"logprobs", "verbalized", "label"}, default="logprobs"
        How answers become scores.

        - "logprobs": the probabilities of the first token of the answer. Classes are shown as
          letters or digits, so that names of several tokens do not matter.
        - "verbalized": confidences that the model writes in a JSON object.
        - "label": the share of each class in `n_samples` answers.
    n_samples : int, default=1
        Number of answers that are averaged.
    temperature : float, default=0
        Temperature of sampling; must be above 0 for several samples.
    max_concurrency : int, default=8
        Number of requests at the same time.
    cache : str or path-like, default=None
        Folder that keeps the answers. Any number of labelers and processes may share it. None
        keeps them in a temporary folder for as long as the labeler exists.
    timeout : float, default=60
        Seconds before a request to an endpoint times out. A callable must limit its own time.
    max_retries : int, default=5
        Number of retries after a transient error, with growing pauses or those that the endpoint
        asks for.
    on_error : {"nan", "raise"}, default="nan"
        How to handle requests that still fail after all retries: "nan" leaves their scores NaN
        and warns once; "raise" raises.
    top_logprobs : int, default=20
        Number of the likeliest tokens that are asked for. Some endpoints give at most 5.
    request_params : dict, default=None
        Further arguments of each chat completion; None removes one. For example
        ``{"max_tokens": None, "max_completion_tokens": 1}`` or ``{"extra_body": {...}}``.
    prices : pair of float, default=None
        Prices of a million tokens read and of a million tokens written by the model, to compute
        the cost.
    text, session, turn : str, default="text", "session_id", "turn"
        Columns of `X`, as in :class:`DialogueContext`. `turn` may be None.
    speaker : str, default=None
        Column of the speakers. None leaves them out.
    progress : bool, default=True
        Whether a progress bar is shown.
    random_state : int, RandomState instance or None, default=0
        Decides which labelled utterances are shown as examples. With an int, the cache holds the
        answers of an earlier run.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes, in the order of the last axis of the scores.
    prompt_names_ : list of str
        Names of the prompts, in the order of the second axis.
    n_examples_ : dict
        Number of examples of each class that `fit` has kept.
    usage_ : dict
        Counts of the last call of `transform`: "requests" (without the retries of openai, which
        are "retries"), "prompt_tokens" and "completion_tokens" that they took, "retries",
        "failures", "cache_hits" and, if `prices` are given, "cost".
    failures_ : list of tuples (row, prompt, reason)
        The answers that are missing after the last call of `transform`, ready for
        `pandas.DataFrame`.
    option_mass_ : ndarray of shape (n_samples, n_prompts)
        With `scoring="logprobs"`, the probability of all options together, before scores are
        made to sum to 1. The rest is that of other tokens.
    n_features_in_ : int
        Number of columns that are read, if `X` is a frame.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names.

    See Also
    --------
    PromptBank : The prompts.
    LLMScoreCalibrator : Turns the scores into one calibrated distribution.
    PairwisePreferenceClassifier : Learns from them.

    Notes
    -----
    The cache finds an answer by the address, the model, and everything that is sent: messages,
    settings, number of the sample. An entry is the response of the endpoint, compressed and with
    a checksum. Damaged entries and failed requests are asked for again; answers of no use
    (refused, or without an option) are not. The cache is an SQLite database and belongs on a
    local disk. The address of a callable is unknown: give each callable its own `model`.

    A request is retried after timeouts, broken connections, status 408, 409, 429 and 5xx, and
    after a response that is not an answer. A refused key, an unknown model, and a series of
    `max_concurrency` failures in a row raise an error at once; earlier answers are kept.

    Requests go prompt by prompt, which suits servers that cache common prefixes.

    `fit` draws the examples of prompts that show any from the labelled utterances. No example is
    of the same session as the utterance that is asked about. In cross-validation, the examples,
    and so the answers, change with the folds: score once before, and pass `llm_scores`.

    If one process is too slow, split `X` by session and let each worker call `transform` with a
    shared cache; ``examples/plot_04_llm_scores.py`` shows how with dask.

    Examples
    --------
    >>> from skpref import LLMLabeler
    >>> def client(messages, **settings):  # stands for an LLM
    ...     asked = messages[-1]["content"]
    ...     return "good" if "thank" in asked.lower() else "bad"
    >>> labeler = LLMLabeler(
    ...     ["bad", "good"], model="rule", client=client, scoring="label", progress=False
    ... )
    >>> scores = labeler.fit_transform(["Thank you!", "It broke again."])
    >>> scores.shape
    (2, 6, 2)
    >>> scores[:, 0]
    array([[0., 1.],
           [1., 0.]])
    """

    _parameter_constraints: ClassVar[dict] = {
        "classes": ["array-like"],
        "prompts": [Mapping, None],
        "model": [str],
        "base_url": [str, None],
        "api_key": [Secret, None],
        "client": [callable, None],
        "n_context_turns": [Interval(Integral, 0, None, closed="left")],
        "scoring": [StrOptions({"logprobs", "verbalized", "label"})],
        "n_samples": [Interval(Integral, 1, None, closed="left")],
        "temperature": [Interval(Real, 0, None, closed="left")],
        "max_concurrency": [Interval(Integral, 1, None, closed="left")],
        "cache": [str, os.PathLike, None],
        "timeout": [Interval(Real, 0, None, closed="neither")],
        "max_retries": [Interval(Integral, 0, None, closed="left")],
        "on_error": [StrOptions({"nan", "raise"})],
        "top_logprobs": [Interval(Integral, 1, None, closed="left")],
        "request_params": [Mapping, None],
        "prices": ["array-like", None],
        "text": [str],
        "session": [str],
        "turn": [str, None],
        "speaker": [str, None],
        "progress": ["boolean"],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        classes,
        prompts=None,
        *,
        model,
        base_url=None,
        api_key=None,
        client=None,
        n_context_turns=3,
        scoring="logprobs",
        n_samples=1,
        temperature=0,
        max_concurrency=8,
        cache=None,
        timeout=60,
        max_retries=5,
        on_error="nan",
        top_logprobs=20,
        request_params=None,
        prices=None,
        text="text",
        session="session_id",
        turn="turn",
        speaker=None,
        progress=True,
        random_state=0,
    ):
        self.classes = classes
        self.prompts = prompts
        self.model = model
        self.base_url = base_url
        self.api_key = api_key
        self.client = client
        self.n_context_turns = n_context_turns
        self.scoring = scoring
        self.n_samples = n_samples
        self.temperature = temperature
        self.max_concurrency = max_concurrency
        self.cache = cache
        self.timeout = timeout
        self.max_retries = max_retries
        self.on_error = on_error
        self.top_logprobs = top_logprobs
        self.request_params = request_params
        self.prices = prices
        self.text = text
        self.session = session
        self.turn = turn
        self.speaker = speaker
        self.progress = progress
        self.random_state = random_state

    def __setattr__(self, name, value):
        # Wrapped here, so that it is in no repr, error or pickle of any holder.
        if name == "api_key" and isinstance(value, str):
            value = Secret(value)
        super().__setattr__(name, value)

    def __getstate__(self):
        state = super().__getstate__()
        state.pop("_folder", None)
        return state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Check the parameters and draw examples, without any request.

        Parameters
        ----------
        X : DataFrame of shape (n_samples, n_columns), or array-like of str, shape (n_samples,)
            The utterances: a frame with one row per utterance, in any order, or texts, which
            have no context.
        y : array-like of shape (n_samples,), default=None
            Human labels; None, NaN or -1 marks a row without one.

        Returns
        -------
        LLMLabeler
            The labeler itself.

        Raises
        ------
        ValueError
            If parameters contradict each other, classes are not sorted, a template lacks a
            field, `X` lacks a column, or a label is not a class.
        ImportError
            If openai or diskcache is not installed.
        """
        questions = self._questions()
        self._check_settings()
        turns, used = self._turns(X)
        if used is not None:
            validate_data(self, used, skip_check_array=True)
        codes = np.full(len(turns.lines), -1)
        if y is not None:
            codes = check_labels(y, classes=self.classes, partial=True)[1]
        n = max(question.n_examples for question in questions.values())
        rng = check_random_state(self.random_state)
        self.classes_ = np.asarray(self.classes)
        self.prompt_names_ = list(questions)
        self._examples = draw_examples(turns, codes, len(self.classes_), n, rng)
        self.n_examples_ = dict(zip(self.classes_.tolist(), map(len, self._examples), strict=True))
        return self

    def transform(self, X):
        """Ask about each utterance with each prompt.

        Parameters
        ----------
        X : DataFrame of shape (n_samples, n_columns), or array-like of str, shape (n_samples,)
            The utterances, as in `fit`.

        Returns
        -------
        ndarray of shape (n_samples, n_prompts, n_classes)
            Scores that sum to 1 over classes, NaN if there is no answer. With `set_output`, a
            frame of shape (n_samples, n_prompts * n_classes), prompt by prompt, or (n_samples,
            n_prompts) with the second class of two, as :class:`LLMScoreCalibrator` takes them.

        Raises
        ------
        PermissionError
            If the endpoint refuses the key.
        LookupError
            If the endpoint does not know the model.
        ConnectionError
            If `max_concurrency` requests in a row fail.
        RuntimeError
            If a request fails and `on_error` is "raise".
        ValueError
            If `X` is not as in `fit`, or the answers come without log-probabilities.

        Warns
        -----
        UserWarning
            If answers are missing, or most of the probability is on other tokens than options.
        """
        check_is_fitted(self)
        self._validate_params()
        self._check_settings()
        questions = self._questions()
        turns = self._turns(X)[0]
        scores = np.full((len(turns.lines), len(questions), len(self.classes_)), np.nan)
        self.option_mass_ = np.full(scores.shape[:2], np.nan)
        self.failures_ = []
        total = scores.shape[0] * scores.shape[1] * self.n_samples
        tqdm = import_optional("tqdm", *NEED).tqdm
        with tqdm(total=total, desc="LLM", unit="", disable=not self.progress) as bar:
            tally = _Tally(scores, self.option_mass_, self.n_samples)
            runner = self._runner(partial(self._report, tally, bar))
            try:
                runner.run(self._asks(turns, questions))
            finally:
                self.failures_.sort()
                self.usage_ = self._price(asdict(runner.usage))
        self._warn()
        if _get_output_config("transform", self)["dense"] != "default":
            return scores[:, :, self._n_implied() :].reshape(len(scores), -1)
        return scores

    def get_feature_names_out(self, input_features=None):  # noqa: ARG002
        """Name the scores of each prompt and class.

        Parameters
        ----------
        input_features : array-like of str, default=None
            Not used.

        Returns
        -------
        ndarray of str, shape (n_prompts * n_classes,) or (n_prompts,)
            "prompt__class", in the order of the scores; of two classes the second.
        """
        return np.asarray(self._names(self._n_implied()), dtype=object)

    def _n_implied(self) -> int:
        """Count the classes that a table leaves out because the others imply them."""
        return int(len(self.classes) == 2)

    def _names(self, first: int = 0) -> list[str]:
        return column_names(list(self._bank()), np.asarray(self.classes).tolist()[first:])

    def to_frame(self, scores, X=None):
        """Write scores into a frame, for example to save it as parquet.

        Parameters
        ----------
        scores : ndarray of shape (n_samples, n_prompts, n_classes)
            The output of `transform`.
        X : DataFrame of shape (n_samples, n_columns), default=None
            The utterances, to keep their session and turn.

        Returns
        -------
        DataFrame of shape (n_samples, n_keys + n_prompts * n_classes)
            The columns of the session and the turn, then a column "prompt__class" for each
            prompt and class. Of the library of `X`, else of pandas.

        Raises
        ------
        ValueError
            If the shape does not fit the prompts and classes, or `X`.
        """
        keys = [name for name in (self.session, self.turn) if name is not None]
        classes = np.asarray(self.classes).tolist()
        return scores_to_frame(scores, list(self._bank()), classes, X, keys)

    def from_frame(self, frame):
        """Read scores from a frame that `to_frame` wrote.

        Parameters
        ----------
        frame : DataFrame of shape (n_samples, n_columns)
            Has a column "prompt__class" for each prompt and class.

        Returns
        -------
        ndarray of shape (n_samples, n_prompts, n_classes)
            The scores.

        Raises
        ------
        ValueError
            If a column is missing.
        """
        return scores_from_frame(frame, list(self._bank()), np.asarray(self.classes).tolist())

    def _bank(self) -> PromptBank:
        if self.prompts is None or isinstance(self.prompts, PromptBank):
            return PromptBank() if self.prompts is None else self.prompts
        return PromptBank(self.prompts)

    def _questions(self) -> dict[str, Question]:
        classes = np.asarray(self.classes)
        if classes.ndim != 1 or len(classes) < 2:
            raise ValueError(f"classes={self.classes!r} must name at least two classes.")
        if not np.array_equal(np.unique(classes), classes):
            raise ValueError(
                f"classes={classes.tolist()!r} must be sorted and without repetition, as "
                f"classifiers keep them: pass {np.unique(classes).tolist()!r}."
            )
        return self._bank().questions(classes.tolist(), self.scoring)

    def _check_settings(self) -> None:
        """Refuse parameters that contradict each other, before anything is asked."""
        if self.client is not None and (self.base_url or self.api_key):
            raise ValueError(
                "client answers instead of an endpoint; leave out base_url and api_key."
            )
        if self.base_url and "@" in self.base_url.partition("://")[2].partition("/")[0]:
            raise ValueError("base_url has a user or password in it; pass the key as api_key.")
        if self.n_samples > 1 and self.temperature == 0:
            raise ValueError(
                f"n_samples={self.n_samples} with temperature=0 would be the same answer again; "
                "pass temperature=1, for example."
            )
        if self.prices is not None and np.shape(self.prices) != (2,):
            raise ValueError(
                f"prices={self.prices!r} must be two numbers, the prices of a million tokens "
                "read and written."
            )
        for name in ("diskcache", "tqdm", *(["openai"] if self.client is None else [])):
            import_optional(name, *NEED)

    def _turns(self, X):
        columns = Columns(self.text, self.session, self.turn, self.speaker)
        return read_turns(X, columns, self.n_context_turns)

    def _asks(self, turns: Turns, questions: dict[str, Question]) -> Iterator[Ask]:
        names = [str(c) for c in self.classes_.tolist()]
        settings = {"model": self.model, "temperature": self.temperature}
        settings |= answer_settings(self.scoring, names, self.top_logprobs)
        return write_asks(
            turns,
            questions,
            self._examples,
            settings | dict(self.request_params or {}),
            scoring=self.scoring,
            names=names,
            n_samples=self.n_samples,
        )

    def _runner(self, report: Callable) -> Runner:
        backend: Endpoint | Function
        if self.client is None:
            backend = Endpoint(self.base_url, self.api_key, self.timeout, self.max_retries)
        else:
            backend = Function(self.client, self.max_retries, self.max_concurrency)
        return Runner(
            backend,
            self._cache_folder(),
            report,
            max_concurrency=self.max_concurrency,
            max_retries=self.max_retries,
        )

    def _cache_folder(self):
        if self.cache is not None:
            return self.cache
        if self.__dict__.get("_folder") is None:
            self._folder = tempfile.mkdtemp(prefix="skpref-")
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def _report(self, tally, bar, ask: Ask, answer: Answer) -> None:
        """Record an answer."""
        bar.update()
        tally.add(ask, answer)
        if answer.scores is None:
            prompt = self.prompt_names_[ask.prompt]
            self.failures_.append(Failure(ask.row, prompt, answer.reason))
            if self.on_error == "raise":
                raise RuntimeError(
                    f"Row {ask.row} got no score from the prompt {prompt!r}: {answer.reason}. "
                    "Earlier answers are kept."
                )

    def _price(self, usage: dict[str, int]) -> dict[str, Any]:
        """Add the cost, if the prices are given."""
        if self.prices is None:
            return usage
        tokens = [usage["prompt_tokens"], usage["completion_tokens"]]
        return usage | {"cost": float(np.dot(self.prices, tokens) / 1e6)}

    def _warn(self) -> None:
        if self.failures_:
            reasons = Counter(failure.reason for failure in self.failures_).most_common(3)
            listed = "; ".join(f"{reason} ({count})" for reason, count in reasons)
            n = self.option_mass_.size * self.n_samples
            warnings.warn(
                f"{len(self.failures_)} of {n} answers are missing: {listed}. See failures_.",
                stacklevel=3,
            )
        for name, mass in zip(self.prompt_names_, self.option_mass_.T, strict=True):
            measured = mass[np.isfinite(mass)]
            if len(measured) and measured.mean() < 0.5:
                warnings.warn(
                    f"With the prompt {name!r} only {measured.mean():.0%} of the probability is on "
                    "the options, the rest on other tokens: the model may not follow the "
                    "instructions. See option_mass_, and try another prompt or scoring.",
                    stacklevel=3,
                )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags


class _Tally:
    """The mean over the samples of each row and prompt, which arrive in any order."""

    def __init__(self, scores: FloatArray, mass: FloatArray, n_samples: int):
        self._scores = scores
        self._mass = mass
        self._n_samples = n_samples
        self._open: dict[tuple[int, int], list[Answer]] = {}

    def add(self, ask: Ask, answer: Answer) -> None:
        """Add an answer; the last one of a row and prompt sets its score."""
        place = ask.row, ask.prompt
        if self._n_samples == 1:
            if answer.scores is not None:
                self._scores[place], self._mass[place] = answer.scores, answer.mass
            return
        answers = self._open.setdefault(place, [])
        answers.append(answer)
        if len(answers) < self._n_samples:
            return
        del self._open[place]
        useful = [(*a.scores, a.mass) for a in answers if a.scores is not None]
        if useful:
            # Sorted, so that the sum is the same in each run.
            *self._scores[place], self._mass[place] = np.mean(sorted(useful), axis=0)
