"""LLM scores of utterances, from any chat completion endpoint."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Mapping
from numbers import Integral, Real
from typing import ClassVar

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from skpref._llm._backends import NEED, identity_of, make_backend
from skpref._llm._base import BaseLabeler, count_answers, n_implied
from skpref._llm._batches import BatchApi, collect_batches
from skpref._llm._checks import check_rows
from skpref._llm._costs import Budget
from skpref._llm._limits import Limiter
from skpref._llm._preview import Usage
from skpref._llm._record import Record, warn_of_failures, warn_of_low_mass
from skpref._llm._requests import draw_examples, write_probe
from skpref._llm._runner import Runner
from skpref._llm._secrets import Secret, wrap_secrets
from skpref._llm._store import Store
from skpref._optional import import_optional
from skpref._progress import progress_bar
from skpref._sklearn import Interval, StrOptions, _fit_context, _get_output_config
from skpref._validation import check_labels

_CONSTRAINTS: dict = {
    "classes": ["array-like"],
    "prompts": [Mapping, StrOptions({"varied", "short", "session", "multilabel"}), None],
    "model": [str],
    "base_url": [str, None],
    "api_key": [Secret, None],
    "client": [callable, None],
    "n_context_turns": [Interval(Integral, 0, None, closed="left")],
    "scoring": [StrOptions({"logprobs", "verbalized", "label"})],
    "n_samples": [Interval(Integral, 1, None, closed="left")],
    "option_orders": [
        Interval(Integral, 1, None, closed="left"),
        StrOptions({"balanced"}),
    ],
    "multilabel": ["boolean"],
    "unit": [StrOptions({"utterance", "session"})],
    "n_utterances_per_call": [Interval(Integral, 1, None, closed="left")],
    "temperature": [Interval(Real, 0, None, closed="left")],
    "max_concurrency": [Interval(Integral, 1, None, closed="left")],
    "requests_per_minute": [Interval(Real, 0, None, closed="neither"), None],
    "tokens_per_minute": [Interval(Real, 0, None, closed="neither"), None],
    "cache": [str, os.PathLike, None],
    "timeout": [Interval(Real, 0, None, closed="neither")],
    "max_retries": [Interval(Integral, 0, None, closed="left")],
    "on_error": [StrOptions({"nan", "raise"})],
    "top_logprobs": [Interval(Integral, 1, None, closed="left")],
    "request_params": [Mapping, None],
    "reasoning_effort": [str, None],
    "prices": ["array-like", None],
    "max_cost": [Interval(Real, 0, None, closed="left"), None],
    "batch": ["boolean", Interval(Real, 0, None, closed="left")],
    "text": [str],
    "session": [str, list, tuple],
    "turn": [str, None],
    "speaker": [str, None],
    "verbose": [StrOptions({"auto"}), "verbose"],
    "random_state": ["random_state"],
}


class LLMLabeler(BaseLabeler):
    """Score utterances by prompting a large language model.

    The labeler asks about each utterance with each prompt of a bank, through any
    OpenAI-compatible chat completion endpoint (hosted ones, vLLM, the server of llama.cpp,
    Ollama) or a callable. Each answer is kept on disk as it arrives, so that no answer of an
    interrupted run is paid for twice.

    Parameters
    ----------
    classes : array-like of shape (n_classes,)
        The classes, in sorted order, as classifiers keep them; with `multilabel`, the labels in
        any order.
    prompts : PromptBank, mapping of str to str or \
            {"varied", "short", "session", "multilabel"}, default=None
        Templates by name; see :class:`PromptBank`, which also sets the task and the definitions
        of the classes. None is "varied"; with `multilabel` it is "multilabel", and with
        ``unit="session"`` "session".
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
        Number of turns before the utterance that prompts with the field ``{context}`` show. With
        ``unit="session"``, the number of utterances that two windows of a session share.
    scoring : {"logprobs", "verbalized", "label"}, default="logprobs"
        How answers become scores.

        - "logprobs": the probabilities of the first token of the answer. Classes are answered by
          name if the first three letters, all Latin, tell the names apart, else by the letter or
          digit that the prompt gives them.
        - "verbalized": confidences that the model writes in a JSON object.
        - "label": the share of each class in `n_samples` answers.
    n_samples : int, default=1
        Number of answers that are averaged. With an endpoint that takes no `seed`, pass
        ``request_params={"seed": None}``; the answers are still asked for separately.
    option_orders : int or "balanced", default=1
        Number of orders of the options in which each prompt is asked; the answers are averaged. A
        preference for the first option cancels in the mean over prompts if the number of prompts
        times this number is a multiple of the number of classes. "balanced" is the smallest such
        number: with three prompts 1 for three classes, 2 for two, 4 for four.
    multilabel : bool, default=False
        Whether any number of the classes may apply to an utterance. One answer then says of each
        whether it does: "logprobs" reads the probability of yes against no in its line,
        "verbalized" the probabilities and "label" the yes or no in a JSON object. Needs prompts
        without ``{examples}``. With ``unit="session"`` each line is answered by its labels
        ("label") or the probability of each ("verbalized").
    unit : {"utterance", "session"}, default="utterance"
        What one call asks about. "session" lists the utterances of a session in order and asks
        for a label of each line, for a fraction of the tokens. Errors are then shared within a
        session: see :func:`skpref.inspection.preference_noise`.
    n_utterances_per_call : int, default=10
        Longest list of a session; longer sessions are cut into windows. What several windows say
        about an utterance is averaged.
    temperature : float, default=0
        Temperature of sampling; must be above 0 for several samples.
    max_concurrency : int, default=8
        Number of requests at the same time.
    requests_per_minute, tokens_per_minute : float, default=None
        Quotas of the endpoint, kept by spacing requests evenly. None learns from refusals (status
        429): each pauses all requests and lowers their number at the same time.
    cache : str or path-like, default=None
        Folder that keeps the answers. Any number of labelers and processes may share it. None
        keeps them in a temporary folder for as long as the labeler exists.
    timeout : float, default=60
        Seconds before a request to an endpoint times out, however it spends them. A callable must
        limit its own time.
    max_retries : int, default=5
        Number of retries after a transient error, with growing pauses or those that the endpoint
        asks for.
    on_error : {"nan", "raise"}, default="nan"
        How to handle requests that still fail after all retries: "nan" leaves their scores NaN
        and warns once; "raise" raises.
    top_logprobs : int, default=20
        Number of the likeliest tokens that are asked for. Some endpoints give at most 5.
    reasoning_effort : str, default=None
        For models that reason before they answer, how much: "low", "medium", "high", or what the
        endpoint takes. Requests then have `reasoning_effort` and `max_completion_tokens`, with
        room for reasoning, in place of `temperature` and `max_tokens`. Needs another `scoring`
        than "logprobs".
    request_params : dict, default=None
        Further arguments of each chat completion; None removes one. For example
        ``{"max_tokens": None, "max_completion_tokens": 1}`` or ``{"extra_body": {...}}``. Keys in
        it, such as those in ``extra_headers``, are treated like `api_key`.
    prices : two or three floats, default=None
        Prices of a million tokens read and of a million written by the model, to compute the
        cost. The third is that of tokens read from the prefix cache of the endpoint.
    max_cost : float, default=None
        Highest cost of a call of `transform`, which ends with an error before it is exceeded. All
        answers are kept.
    batch : bool or float, default=False
        Whether to use the batches of an endpoint that has OpenAI's batch API. They are often half
        the price and may take a day. True waits for them; a number waits at most so many seconds,
        and then a TimeoutError says what is pending. The same call at any time, in any process
        with the same `cache`, takes up where the last one was.
    text, session, turn, speaker : str, default="text", "session_id", "turn", None
        Columns of `X`, as in :class:`DialogueContext`. `turn` and `speaker` may be None, and
        `session` a list of columns.
    verbose : "auto", bool or int, default="auto"
        Whether to show a progress bar. "auto" shows it after three seconds, and only in a terminal
        or a notebook.
    random_state : int, RandomState instance or None, default=0
        Decides which labelled utterances are shown as examples. An int reuses cached answers.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The classes, in the order of the last axis of the scores.
    prompt_names_ : list of str
        Names of the prompts, in the order of the second axis.
    n_examples_ : dict
        Number of examples of each class that `fit` has kept.
    usage_ : dict
        Counts of the last call of `transform`: "requests", and "retries" of them;
        "prompt_tokens" and "completion_tokens" that they took, also for answers of no use;
        "cached_tokens", those of the prompt that the endpoint had in its prefix cache;
        "failures", the length of `failures_`; "cache_hits"; and, if `prices` are given, "cost".
    failures_ : list of tuples (row, prompt, reason)
        The answers that are missing after the last call of `transform`, ready for
        `pandas.DataFrame`.
    option_mass_ : ndarray of shape (n_samples, n_prompts)
        With `scoring="logprobs"`, the probability of all options together, before scores are
        made to sum to 1. The rest is that of other tokens. With `multilabel`, that of yes and no,
        the mean over labels.
    window_agreement_ : float
        With ``unit="session"``, how often two windows that share an utterance agree in its
        likeliest class, or with `multilabel` in all its labels. NaN if no windows do.
    n_features_in_ : int
        Number of columns that are read, if `X` is a frame.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Their names.

    See Also
    --------
    PromptBank : The prompts.
    LLMScoreCalibrator : Turns the scores into one calibrated distribution.

    Notes
    -----
    The cache finds an answer by the address, the model, and everything that is sent and changes
    the answer: messages, settings, number of the sample; not headers, timeouts or keys. An entry
    is the response of the endpoint, compressed and with a checksum. Damaged entries and failed
    requests are asked for again; answers of no use (refused, cut off, or without an option) are
    not. The cache is an SQLite database and belongs on a local disk. Processes that share it ask
    each question once. The address of a callable is unknown: give each callable its own `model`.

    A request is retried after timeouts, broken connections, status 408, 409, 425, 429 and 5xx,
    and after a response that is not an answer. A question that fails does not end a run: one
    harmless question shows whether the endpoint fails or only that question. The user guide says
    what counts as an answer, and how quotas are kept.

    `fit` draws the examples of prompts that show any from the labelled utterances. No example is
    of the same session as the utterance that is asked about. In cross-validation, the examples,
    and so the answers, change with the folds: score once before, and pass `llm_scores`.

    Examples
    --------
    >>> from skpref import LLMLabeler
    >>> def client(messages, **settings):  # stands for an LLM
    ...     asked = messages[-1]["content"]
    ...     return "good" if "thank" in asked.lower() else "bad"
    >>> labeler = LLMLabeler(
    ...     ["bad", "good"], model="rule", client=client, scoring="label", verbose=False
    ... )
    >>> scores = labeler.fit_transform(["Thank you!", "It broke again."])
    >>> scores.shape
    (2, 3, 2)
    >>> scores[:, 0]
    array([[0., 1.],
           [1., 0.]])
    """

    _parameter_constraints: ClassVar[dict] = _CONSTRAINTS

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
        option_orders=1,
        multilabel=False,
        unit="utterance",
        n_utterances_per_call=10,
        temperature=0,
        max_concurrency=8,
        requests_per_minute=None,
        tokens_per_minute=None,
        cache=None,
        timeout=60,
        max_retries=5,
        on_error="nan",
        top_logprobs=20,
        reasoning_effort=None,
        request_params=None,
        prices=None,
        max_cost=None,
        batch=False,
        text="text",
        session="session_id",
        turn="turn",
        speaker=None,
        verbose="auto",
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
        self.option_orders = option_orders
        self.multilabel = multilabel
        self.unit = unit
        self.n_utterances_per_call = n_utterances_per_call
        self.temperature = temperature
        self.max_concurrency = max_concurrency
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self.cache = cache
        self.timeout = timeout
        self.max_retries = max_retries
        self.on_error = on_error
        self.top_logprobs = top_logprobs
        self.reasoning_effort = reasoning_effort
        self.request_params = request_params
        self.prices = prices
        self.max_cost = max_cost
        self.batch = batch
        self.text = text
        self.session = session
        self.turn = turn
        self.speaker = speaker
        self.verbose = verbose
        self.random_state = random_state

    def __setattr__(self, name, value):
        # Wrapped here, so that no key is in a repr, error or pickle of any holder.
        if name == "api_key" and isinstance(value, str):
            value = Secret(value)
        if name == "request_params" and isinstance(value, Mapping):
            value = wrap_secrets(value)
        super().__setattr__(name, value)

    def __getstate__(self):
        state = super().__getstate__()
        for name in ("_folder", "_unsaved"):
            state.pop(name, None)
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
            Human labels; None, NaN or -1 marks a row without one. With `multilabel`, not used.

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
            If openai is not installed.
        """
        questions = self._questions()
        self._check_settings()
        turns, used = self._turns(X)
        if used is not None:
            validate_data(self, used, skip_check_array=True)
        codes = np.full(len(turns.lines), -1)
        if y is not None and not self.multilabel:
            codes = check_labels(y, classes=self.classes, partial=True)[1]
        n = max(question.n_examples for question in questions[0].values())
        rng = check_random_state(self.random_state)
        self.classes_ = np.asarray(self.classes)
        self.prompt_names_ = list(questions[0])
        self._examples = draw_examples(turns, codes, len(self.classes_), n, rng)
        self.n_examples_ = dict(zip(self.classes_.tolist(), map(len, self._examples), strict=True))
        return self

    def transform(self, X, rows=None):
        """Ask about each utterance with each prompt.

        Parameters
        ----------
        X : DataFrame of shape (n_samples, n_columns), or array-like of str, shape (n_samples,)
            The utterances, as in `fit`.
        rows : array-like of bool, shape (n_samples,), default=None
            Utterances to ask about; None is all. The scores of others are NaN.

        Returns
        -------
        ndarray of shape (n_samples, n_prompts, n_classes)
            Scores that sum to 1 over classes, NaN if there is no answer; with `multilabel`, the
            probability that each label applies, NaN if it is not answered. With `set_output`, a
            frame of shape (n_samples, n_prompts * n_classes), prompt by prompt, or (n_samples,
            n_prompts) with the second class of two that exclude each other, as
            :class:`LLMScoreCalibrator` takes them.

        Raises
        ------
        PermissionError
            If the endpoint refuses the key.
        LookupError
            If the endpoint does not know the model.
        ConnectionError
            If `max_concurrency` requests in a row fail.
        OSError
            If the folder of the cache cannot be used.
        RuntimeError
            If `max_cost` would be exceeded, a batch was cancelled, or a request fails and
            `on_error` is "raise".
        ValueError
            If `X` or `rows` is not as above, or the answers come without log-probabilities.

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
        units = self._units(turns, check_rows(rows, len(turns.lines)))
        n_answers = self.n_samples * len(questions) * count_answers(units, len(turns.lines))
        record = Record(
            n_answers, self.prompt_names_, len(self.classes_), self.on_error, self.multilabel
        )
        n_total = record.n_left
        with progress_bar(n_total, "Asking the LLM", self.verbose) as bar:
            budget = Budget(self.prices, self.max_cost, lambda: record.n_left)
            runner = self._runner(lambda *answered: bar.update(record.add(*answered)), budget)
            try:
                if self.batch is not False:
                    self._run_batches(lambda: self._asks(turns, questions, units), runner, bar)
                runner.run(self._asks(turns, questions, units))
                runner.run(ask() for ask in record.again)
            finally:
                self.option_mass_ = record.mass
                self.failures_ = sorted(record.failures)
                self.usage_ = Usage(budget.counts(), failures=len(record.failures))
                self.window_agreement_ = record.mean_agreement()
        warn_of_failures(self.failures_, n_total)
        warn_of_low_mass(self.prompt_names_, self.option_mass_)
        scores = record.scores
        if _get_output_config("transform", self)["dense"] != "default":
            return scores[:, :, n_implied(self.classes_, self.multilabel) :].reshape(
                len(scores), -1
            )
        return scores

    def _runner(self, report: Callable, budget: Budget) -> Runner:
        question = next(iter(self._questions()[0].values()))
        return Runner(
            make_backend(
                self.client, self.base_url, self.api_key, self.timeout, self.max_concurrency
            ),
            Store(self._cache_folder(), self.__dict__.setdefault("_unsaved", {})),
            Limiter(self.requests_per_minute, self.tokens_per_minute, self.max_concurrency),
            report,
            budget=budget,
            failed={},
            probe=write_probe(question, self._settings(), self._form()),
            max_concurrency=self.max_concurrency,
            max_retries=self.max_retries,
        )

    def _run_batches(self, write_asks: Callable, runner: Runner, bar) -> None:
        """Bring the answers into the cache, from which the run then takes them."""
        identity = identity_of(None, self.base_url)
        api = BatchApi(
            import_optional("openai", *NEED),
            self.base_url,
            self.api_key,
            identity,
            dict(self.request_params or {}),
            timeout=self.timeout,
            max_retries=self.max_retries,
        )
        collect_batches(api, identity, runner, write_asks, self.batch, bar.set_postfix_str)

    def _cache_folder(self):
        if self.cache is None and self.__dict__.get("_folder") is None:
            self._folder = _temporary_folder(self)
        return self._folder if self.cache is None else self.cache

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        return tags


def _temporary_folder(owner) -> str:
    """Make a folder that is removed with its owner."""
    folder = tempfile.mkdtemp(prefix="skpref-")
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder
