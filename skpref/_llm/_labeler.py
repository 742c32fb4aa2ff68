"""LLM scores of utterances, from any chat completion endpoint."""

import os
import shutil
import tempfile
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from numbers import Integral, Real
from typing import Any, ClassVar, NamedTuple

import narwhals.stable.v2 as nw
import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from skpref._context import DialogueContext, _check_frame
from skpref._llm._answers import Answer, read_answer
from skpref._llm._backends import NEED, Ask, Endpoint, Function, Runner, Secret
from skpref._llm._prompts import PromptBank, Question, Turn, quote_turn, write_messages
from skpref._optional import import_optional
from skpref._sklearn import DocLinkMixin, Interval, StrOptions, _fit_context, _get_output_config
from skpref._typing import FloatArray, IntArray
from skpref._validation import check_labels, check_llm_scores, check_texts


class Failure(NamedTuple):
    """An answer that is missing."""

    row: int
    prompt: str
    reason: str


class _Turns:
    """The utterances of `X` as quoted lines, with those before them and their sessions."""

    def __init__(self, X, context: DialogueContext):
        self.is_frame = hasattr(X, "columns")
        if not self.is_frame:
            texts = check_texts(X)
            self.lines = [quote_turn(text) for text in texts]
            # Each is a session by itself, and equal ones are the same.
            self.sessions = texts.tolist()
            rows: IntArray = np.arange(len(texts))
            self._order, self._position, self._stops = rows, rows, rows + 1
            return
        frame = _check_frame(X)
        self.columns = context._check_columns(frame)
        self.sessions = context._read(frame, "session").tolist()
        self._order, self._stops = context._find_windows(frame)
        self._position = np.argsort(self._order)
        texts = context._read(frame, "text")
        context._format_turns(frame, "{text}")  # refuses what is no text
        speakers: list[str | None] = [None] * len(texts)
        if context.speaker is not None:
            speakers = [str(s) for s in context._read(frame, "speaker")]
        self.lines = [quote_turn(t, s) for t, s in zip(texts, speakers, strict=True)]

    def __len__(self) -> int:
        return len(self.lines)

    def turn(self, row: int, code: int = -1) -> Turn:
        """One utterance, with the turns before it from old to new."""
        i = self._position[row]
        before = self._order[i + 1 : self._stops[i]][::-1]
        context = "\n".join([self.lines[j] for j in before]) or "(nothing)"
        return Turn(self.lines[row], context, code)


def _draw_examples(turns: _Turns, codes: IntArray, n_classes: int, n: int, rng) -> list[list]:
    """Draw labelled utterances of each class, enough for `n` whichever session is left out."""
    drawn: list[list[tuple[Any, Turn]]] = []
    for k in range(n_classes):
        kept, of_session = [], Counter[Any]()
        for row in rng.permutation(np.flatnonzero(codes == k)).tolist():
            session = turns.sessions[row]
            if of_session[session] < n:
                of_session[session] += 1
                kept.append((session, turns.turn(row, k)))
            if len(kept) - max(of_session.values(), default=0) >= n:
                break
        drawn.append(kept)
    return drawn


class LLMLabeler(DocLinkMixin, TransformerMixin, BaseEstimator):
    """Score utterances by prompting a large language model.

    Each utterance is asked about with each prompt of a bank, at any OpenAI-compatible chat
    completion endpoint (hosted ones, vLLM, the server of llama.cpp, Ollama) or by a callable.
    Each answer is kept on disk as it comes, so that no run that was cut short is paid for twice.

    Parameters
    ----------
    classes : array-like of shape (n_classes,)
        The classes, in sorted order, as classifiers keep them.
    prompts : PromptBank or mapping of str to str, default=None
        Templates by name; see :class:`PromptBank`, where what is asked and the definitions of
        the classes can be set. None is a bank of six.
    model : str
        Name of the model, as the endpoint knows it.
    base_url : str, default=None
        Address of the endpoint, such as "http://127.0.0.1:8000/v1". None is the environment
        variable OPENAI_BASE_URL, else OpenAI's.
    api_key : str, default=None
        Key of the endpoint. It is shown nowhere, and a pickle does not hold it. None takes the
        environment variable OPENAI_API_KEY.
    client : callable, default=None
        Answers instead of an endpoint: called, possibly in several threads at once, with the
        keyword arguments of a chat completion (``model``, ``messages``, ``temperature``, ...),
        as `litellm.completion` and ``openai.OpenAI().chat.completions.create`` are. It may be a
        coroutine function. It returns the text of the answer, or a chat completion, or for
        `scoring="logprobs"` a mapping of the likeliest first tokens to their log-probabilities.
    n_context_turns : int, default=3
        How many turns before the utterance are shown by prompts with the field ``{context}``.
    scoring : {"logprobs", "verbalized", "label"}, default="logprobs"
        What makes the scores.

        - "logprobs": the probabilities of the first token of the answer. Classes are shown as
          letters or digits, so that names of several tokens do not matter.
        - "verbalized": confidences that the model states in a JSON object.
        - "label": the share of each class in `n_samples` answers.
    n_samples : int, default=1
        How many answers are asked for and averaged.
    temperature : float, default=0
        Temperature of sampling; must be above 0 for several samples.
    max_concurrency : int, default=8
        How many requests are under way at once.
    cache : str or path-like, default=None
        Folder that keeps the answers. Any number of labelers and processes may share it. None
        keeps them in a temporary folder as long as the labeler lives.
    timeout : float, default=60
        Seconds after which an endpoint is asked anew. A callable has to keep its own.
    max_retries : int, default=5
        How often a request is made anew after an error that may pass, with growing pauses or
        those that the endpoint asks for.
    on_error : {"nan", "raise"}, default="nan"
        What a request does that fails for good: its score is NaN and a warning tells how many
        are, or an error.
    top_logprobs : int, default=20
        How many of the likeliest tokens are asked for. Some endpoints give 5 at most.
    request_params : dict, default=None
        Further arguments of each chat completion; None takes one out. For example
        ``{"max_tokens": None, "max_completion_tokens": 1}`` or ``{"extra_body": {...}}``.
    prices : pair of float, default=None
        Price of a million tokens that the model reads, and writes, from which the cost is
        computed.
    text, session, turn : str, default="text", "session_id", "turn"
        Columns of `X`, as in :class:`DialogueContext`. `turn` may be None.
    speaker : str, default=None
        Column of the speakers. None does not show them.
    progress : bool, default=True
        Whether a progress bar is shown.
    random_state : int, RandomState instance or None, default=0
        Which labelled utterances are shown as examples. An int finds the same answers in the
        cache again.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes, in the order of the last axis of the scores.
    prompt_names_ : list of str
        Names of the prompts, in the order of the second axis.
    n_examples_ : dict
        How many examples of each class `fit` has kept.
    usage_ : dict
        Of the last call of `transform`: "requests" that were made (without those that openai
        made anew, which are "retries"), "prompt_tokens" and "completion_tokens" they took,
        "retries", "failures", "cache_hits" and, where `prices` are given, "cost".
    failures_ : list of tuples (row, prompt, reason)
        The answers that are missing after the last call of `transform`, made to be passed to
        `pandas.DataFrame`.
    option_mass_ : ndarray of shape (n_samples, n_prompts)
        With `scoring="logprobs"`, the probability of all options together, before scores are
        made to sum to 1. The rest went to other tokens.
    n_features_in_ : int
        Number of columns that are read, where `X` is a frame.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names.

    See Also
    --------
    PromptBank : The prompts.
    LLMScoreCalibrator : Makes one calibrated distribution of the scores.
    PairwisePreferenceClassifier : Learns from them.

    Notes
    -----
    An answer in the cache is found by the address and model, and all that is sent: messages,
    settings, number of the sample. It holds what the endpoint returned, compressed and with a
    checksum, an entry that was damaged is asked for again, and so are requests that failed;
    answers that were of no use (refused, or no option in them) are not. It is an SQLite database
    and belongs on a local disk. For callables the address is unknown: give each its own `model`.

    A request is made anew after timeouts, broken connections, status 408, 409, 429 and 5xx, and
    after a response that is no answer. A refused key, a model that does not exist, and a series
    of `max_concurrency` failures in a row raise an error at once: the answers so far are kept.

    Requests go prompt by prompt, which suits servers that keep the beginning of a prompt.

    `fit` draws examples for prompts that show any from the labelled utterances. An utterance is
    never asked about with an example of its own session. In cross-validation, the examples and
    so the answers change with the folds: score once before, and pass `llm_scores` on.

    Where one process is too slow, split `X` by session and let each worker call `transform` with
    a cache that all share; ``examples/plot_04_llm_scores.py`` shows how with dask.

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
        # Wrapped where it comes in, so that no repr, error or pickle of any holder shows it.
        if name == "api_key" and isinstance(value, str):
            value = Secret(value)
        super().__setattr__(name, value)

    def __getstate__(self):
        state = super().__getstate__()
        state.pop("_folder", None)
        return state

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X, y=None):
        """Check the parameters and draw examples; asks nothing yet.

        Parameters
        ----------
        X : DataFrame of shape (n_samples, n_columns), or array-like of str, shape (n_samples,)
            The utterances: a frame with a row for each turn, in any order, or texts, which are
            taken to be without context.
        y : array-like of shape (n_samples,), default=None
            Human labels, None, NaN or -1 where there are none.

        Returns
        -------
        LLMLabeler
            The labeler itself.

        Raises
        ------
        ValueError
            If parameters contradict each other, classes are not sorted, a template lacks a
            field, `X` lacks a column, or a label is no class.
        ImportError
            If openai or diskcache is not installed.
        """
        questions = self._questions()
        self._check_settings()
        turns = self._read(X)
        if turns.is_frame:
            frame = _check_frame(X)
            validate_data(self, frame.select(turns.columns).to_native(), skip_check_array=True)
        codes = np.full(len(turns), -1)
        if y is not None:
            codes = check_labels(y, classes=self.classes, partial=True)[1]
        n = max(question.n_examples for question in questions.values())
        rng = check_random_state(self.random_state)
        self.classes_ = np.asarray(self.classes)
        self.prompt_names_ = list(questions)
        self._examples = _draw_examples(turns, codes, len(self.classes_), n, rng)
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
            Scores that sum to 1 over classes, NaN where no answer came. With `set_output`, a
            frame of shape (n_samples, n_prompts * n_classes), prompt by prompt, or (n_samples,
            n_prompts) with the second class of two, as :class:`LLMScoreCalibrator` takes them.

        Raises
        ------
        PermissionError
            If the endpoint refuses the key.
        LookupError
            If it does not know the model.
        ConnectionError
            If `max_concurrency` requests in a row fail.
        RuntimeError
            If a request fails and `on_error` is "raise".
        ValueError
            If `X` is not as in `fit`, or the answers come without log-probabilities.

        Warns
        -----
        UserWarning
            If answers are missing, or most of the probability is on tokens that are no option.
        """
        check_is_fitted(self)
        self._validate_params()
        self._check_settings()
        turns, questions = self._read(X), self._questions()
        scores = np.full((len(turns), len(questions), len(self.classes_)), np.nan)
        self.option_mass_ = np.full(scores.shape[:2], np.nan)
        self.failures_ = []
        self.usage_ = dict.fromkeys(
            ["requests", "prompt_tokens", "completion_tokens", "retries", "failures"], 0
        )
        self.usage_["cache_hits"] = 0
        total = scores.shape[0] * scores.shape[1] * self.n_samples
        tqdm = import_optional("tqdm", *NEED).tqdm
        try:
            with tqdm(total=total, desc="LLM", unit="", disable=not self.progress) as bar:
                tally = _Tally(scores, self.option_mass_, self.n_samples)
                report = partial(self._report, tally, bar)
                self._runner(report).run(self._asks(turns, questions))
        finally:
            self._add_cost()
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
        """Count the classes that a table leaves out, since the others imply them."""
        return int(len(self.classes) == 2)

    def _names(self, first: int = 0) -> list[str]:
        classes = np.asarray(self.classes).tolist()[first:]
        return [f"{prompt}__{c}" for prompt in self._bank() for c in classes]

    def to_frame(self, scores, X=None):
        """Put scores into a frame, to be saved as parquet.

        Parameters
        ----------
        scores : ndarray of shape (n_samples, n_prompts, n_classes)
            What `transform` gave.
        X : DataFrame of shape (n_samples, n_columns), default=None
            The utterances, to keep their session and turn.

        Returns
        -------
        DataFrame of shape (n_samples, n_keys + n_prompts * n_classes)
            A column "prompt__class" for each prompt and class, after those of the session and
            the turn. Of the library of `X`, else of pandas.

        Raises
        ------
        ValueError
            If the shape does not fit the prompts and classes, or `X`.
        """
        names = self._names()
        scores = check_llm_scores(scores)
        shape = (len(self._bank()), len(self.classes))
        if scores.shape[1:] != shape:
            raise ValueError(
                f"scores has shape {scores.shape}; pass (n_samples, {shape[0]}, {shape[1]}), for "
                f"{shape[0]} prompts and {shape[1]} classes."
            )
        columns = dict(zip(names, scores.reshape(len(scores), -1).T, strict=True))
        if X is None:
            return nw.from_dict(columns, backend="pandas").to_native()
        frame = _check_frame(X)
        if len(frame) != len(scores):
            raise ValueError(f"scores has {len(scores)} rows, but X has {len(frame)}.")
        series = [
            nw.new_series(name, values, backend=frame.implementation)
            for name, values in columns.items()
        ]
        keys = [name for name in (self.session, self.turn) if name is not None]
        return frame.with_columns(*series).select(*keys, *names).to_native()

    def from_frame(self, frame):
        """Take scores from a frame that `to_frame` made.

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
        names = self._names()
        frame = _check_frame(frame)
        if missing := [name for name in names if name not in frame.columns]:
            raise ValueError(
                f"frame lacks the columns {missing}; it has {list(frame.columns)}. Pass the same "
                "classes and prompts as to the labeler that made it."
            )
        columns = [frame[name].to_numpy().astype(float) for name in names]
        return np.stack(columns, axis=1).reshape(len(frame), -1, len(self.classes))

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
            raise ValueError("client answers instead of an endpoint; leave base_url and api_key.")
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

    def _read(self, X) -> _Turns:
        context = DialogueContext(
            self.n_context_turns,
            text=self.text,
            session=self.session,
            turn=self.turn,
            speaker=self.speaker,
        )
        return _Turns(X, context)

    def _asks(self, turns: _Turns, questions: dict[str, Question]) -> Iterator[Ask]:
        names = [str(c) for c in self.classes_.tolist()]
        settings = self._settings(names)
        for p, question in enumerate(questions.values()):
            read = partial(read_answer, scoring=self.scoring, names=names, answers=question.answers)
            for row in range(len(turns)):
                examples = self._pick_examples(question.n_examples, p, turns.sessions[row])
                messages = write_messages(question, turns.turn(row), examples)
                for sample in range(self.n_samples):
                    seed = {"seed": sample} if self.temperature > 0 else {}
                    payload = {"messages": messages, **seed, **settings}
                    payload = {k: v for k, v in payload.items() if v is not None}
                    yield Ask(row, p, payload, read)

    def _settings(self, names: list[str]) -> dict[str, Any]:
        settings = {"model": self.model, "temperature": self.temperature}
        if self.scoring == "logprobs":
            settings |= {"max_tokens": 1, "logprobs": True, "top_logprobs": self.top_logprobs}
        else:
            settings["max_tokens"] = 16 + 2 * sum(len(name) + 8 for name in names)
        if self.scoring == "verbalized":
            settings["response_format"] = {
                "type": "json_schema",
                "json_schema": {
                    "name": "confidences",
                    "strict": True,
                    "schema": {
                        "type": "object",
                        "properties": {name: {"type": "number"} for name in names},
                        "required": names,
                        "additionalProperties": False,
                    },
                },
            }
        return settings | dict(self.request_params or {})

    def _pick_examples(self, n: int, prompt: int, session) -> list[Turn]:
        """Take examples of all classes in turn, none of them from the session."""
        of_class = [
            [turn for other, turn in drawn if other != session][:n] for drawn in self._examples
        ]
        # No class is always the last before the question.
        of_class = of_class[prompt % len(of_class) :] + of_class[: prompt % len(of_class)]
        return [turns[i] for i in range(n) for turns in of_class if i < len(turns)]

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
            usage=self.usage_,
        )

    def _cache_folder(self):
        if self.cache is not None:
            return self.cache
        if not hasattr(self, "_folder"):
            self._folder = tempfile.mkdtemp(prefix="skpref-")
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    def _report(self, tally, bar, ask: Ask, answer: Answer) -> None:
        """Take one answer in."""
        bar.update()
        tally.add(ask, answer)
        if answer.scores is None:
            prompt = self.prompt_names_[ask.prompt]
            self.failures_.append(Failure(ask.row, prompt, answer.reason))
            if self.on_error == "raise":
                raise RuntimeError(
                    f"Row {ask.row} got no score from the prompt {prompt!r}: {answer.reason}. "
                    "What was answered is kept."
                )

    def _add_cost(self) -> None:
        self.failures_.sort()
        if self.prices is not None:
            tokens = [self.usage_["prompt_tokens"], self.usage_["completion_tokens"]]
            self.usage_["cost"] = float(np.dot(self.prices, tokens) / 1e6)

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
            known = mass[np.isfinite(mass)]
            if len(known) and known.mean() < 0.5:
                warnings.warn(
                    f"With the prompt {name!r} only {known.mean():.0%} of the probability is on "
                    "the options, the rest on other tokens: the model may not answer as it is "
                    "told. See option_mass_, and try another prompt or scoring.",
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
    """The mean over the samples of each row and prompt, in whatever order they come."""

    def __init__(self, scores: FloatArray, mass: FloatArray, n_samples: int):
        self._scores = scores
        self._mass = mass
        self._n_samples = n_samples
        self._open: dict[tuple[int, int], list[Answer]] = {}

    def add(self, ask: Ask, answer: Answer) -> None:
        """Take an answer in; the last one of a row and prompt closes it."""
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
        known = [(*a.scores, a.mass) for a in answers if a.scores is not None]
        if known:
            # In an order of their own, so that the sum is the same in each run.
            *self._scores[place], self._mass[place] = np.mean(sorted(known), axis=0)
