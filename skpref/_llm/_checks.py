"""Checks of the parameters of a run, before anything is paid."""

import os
from collections.abc import Mapping

import numpy as np

from skpref._columns import read_column
from skpref._llm._backends import find_key
from skpref._llm._prompts import PromptBank, class_names, is_list, shows_examples
from skpref._typing import BoolArray
from skpref._validation import is_missing


def check_classes(classes, multilabel: bool = False) -> np.ndarray:
    """Check that the classes have different names and are sorted.

    Parameters
    ----------
    classes : array-like of shape (n_classes,)
        The parameter of that name.
    multilabel : bool, default=False
        Whether they are labels, of which any number may apply; they are in any order then, and
        may be one.

    Returns
    -------
    ndarray of shape (n_classes,)
        The classes.
    """
    given, classes = classes, np.asarray(classes)
    least = "one label" if multilabel else "two classes"
    if classes.ndim != 1 or len(classes) < (1 if multilabel else 2):
        raise ValueError(f"classes={given!r} must name at least {least}.")
    if is_missing(classes).any():
        raise ValueError(f"classes={classes.tolist()!r} has None or NaN; name each class.")
    try:
        in_order = np.unique(classes)
    except TypeError:
        kinds = sorted({type(c).__name__ for c in classes.tolist()})
        raise ValueError(
            f"classes={classes.tolist()!r} mixes the types {', '.join(kinds)}; pass one type."
        ) from None
    if multilabel and len(in_order) < len(classes):
        raise ValueError(f"classes={classes.tolist()!r} names a label twice; name each once.")
    if not multilabel and not np.array_equal(in_order, classes):
        raise ValueError(
            f"classes={classes.tolist()!r} must be sorted and without repetition, as "
            f"classifiers keep them: pass {in_order.tolist()!r}."
        )
    names = class_names(classes.tolist())
    if "" in names or len(set(names)) < len(names):
        raise ValueError(
            f"classes={classes.tolist()!r} has names that are empty, or that differ only in "
            "blanks or in the form of accents, so no answer can distinguish them; rename them."
        )
    return classes


def check_endpoint(client, base_url: str | None, api_key) -> None:
    """Check the address and the key of an endpoint, if no callable replaces it.

    Parameters
    ----------
    client : callable or None
        The parameter of that name.
    base_url : str or None
        The parameter of that name.
    api_key : Secret or None
        The parameter of that name.
    """
    if client is not None:
        if base_url or api_key:
            raise ValueError(
                "client answers instead of an endpoint; leave out base_url and api_key."
            )
        return
    check_address("base_url", base_url)
    check_address("OPENAI_BASE_URL", os.environ.get("OPENAI_BASE_URL"))
    if api_key is not None or base_url is not None:
        find_key(base_url, api_key)


def check_address(name: str, address: str | None) -> None:
    """Refuse an address that cannot work, or that holds a key, which would be shown.

    Parameters
    ----------
    name : str
        The parameter or variable that holds it.
    address : str or None
        The address.
    """
    if not address:
        return
    scheme, _, rest = address.partition("://")
    if "@" in rest.partition("/")[0]:
        raise ValueError(f"{name} has a user or password in it; pass the key as api_key.")
    if "?" in address:
        raise ValueError(
            f"{name} has a query in it; pass request_params={{'extra_query': {{...}}}} instead."
        )
    if scheme not in ("http", "https") or not rest:
        raise ValueError(
            f"{name}={address!r} must begin with http:// or https://, as in "
            "'http://127.0.0.1:8000/v1'."
        )


def check_request_params(params: Mapping) -> None:
    """Refuse arguments that would break how answers are read or counted.

    Parameters
    ----------
    params : mapping
        Further arguments of each chat completion.
    """
    if params.get("stream"):
        raise ValueError(
            "request_params has stream=True, but answers are read whole; leave it out."
        )
    if params.get("n") not in (None, 1):
        raise ValueError(
            f"request_params has n={params['n']!r}, of which one answer would be read; pass "
            "n_samples instead."
        )
    if "messages" in params:
        raise ValueError("request_params has messages, which prompts write; leave them out.")
    headers = params.get("extra_headers")
    if isinstance(headers, Mapping) and (lost := [k for k, v in headers.items() if v is None]):
        raise ValueError(
            f"request_params has no value for the headers {lost}, since a pickle holds no keys; "
            "set request_params again."
        )


def check_numbers(n_samples: int, sampled: bool, prices, max_cost: float | None) -> None:
    """Refuse numbers that contradict each other.

    Parameters
    ----------
    n_samples : int
        The parameter of that name.
    sampled : bool
        Whether two answers to a question may differ.
    prices : sequence of float or None
        The parameter of that name.
    max_cost : float or None
        The parameter of that name.
    """
    if n_samples > 1 and not sampled:
        raise ValueError(
            f"n_samples={n_samples} with temperature=0 would be the same answer again; "
            "pass temperature=1, for example."
        )
    if prices is not None and np.shape(prices) not in ((2,), (3,)):
        raise ValueError(
            f"prices={prices!r} must be two numbers, the prices of a million tokens "
            "read and written, or three, with that of a million read from the endpoint's cache."
        )
    if max_cost is not None and prices is None:
        raise ValueError(f"max_cost={max_cost!r} needs prices; pass prices=(read, written).")


def check_reasoning(reasoning_effort: str | None, scoring: str) -> None:
    """Refuse to read log-probabilities of a model that reasons before it answers.

    Parameters
    ----------
    reasoning_effort : str or None
        The parameter of that name.
    scoring : str
        The parameter of that name.
    """
    if reasoning_effort is not None and scoring == "logprobs":
        raise ValueError(
            f"reasoning_effort={reasoning_effort!r} with scoring='logprobs': reasoning models give "
            "no log-probabilities. Pass scoring='label' or 'verbalized'."
        )


def check_unit(unit: str, bank: PromptBank, n_utterances_per_call: int, n_shared: int) -> None:
    """Check that the prompts ask about what one call is about.

    Parameters
    ----------
    unit : {"utterance", "session"}
        The parameter of that name.
    bank : PromptBank
        The prompts.
    n_utterances_per_call : int
        The parameter of that name.
    n_shared : int
        The parameter n_context_turns.
    """
    wrong = [name for name, template in bank.items() if is_list(template) != (unit == "session")]
    if wrong and unit == "session":
        raise ValueError(
            f"unit='session' lists utterances, but the prompts {wrong} have no field {{lines}}; "
            "pass PromptBank('session', task=...), or templates with {lines}."
        )
    if wrong:
        raise ValueError(
            f"The prompts {wrong} have the field {{lines}}, which lists a session; pass "
            "unit='session'."
        )
    if unit == "session" and n_utterances_per_call <= n_shared:
        raise ValueError(
            f"n_utterances_per_call={n_utterances_per_call} must be above "
            f"n_context_turns={n_shared}, the number that two calls share."
        )


def check_multilabel(unit: str, scoring: str, bank: PromptBank) -> None:
    """Refuse what cannot be asked of several labels at once.

    Parameters
    ----------
    unit : {"utterance", "session"}
        The parameter of that name.
    scoring : {"logprobs", "verbalized", "label"}
        The parameter of that name.
    bank : PromptBank
        The prompts.
    """
    if unit == "session" and scoring == "logprobs":
        raise ValueError(
            "scoring='logprobs' reads one label for each line of a session; pass scoring='label' "
            "or 'verbalized' with unit='session' and multilabel=True, or unit='utterance'."
        )
    if wrong := [name for name, template in bank.items() if shows_examples(template)]:
        raise ValueError(
            f"The prompts {wrong} have the field {{examples}}, which show one class each; pass "
            "PromptBank('multilabel', task=...), or templates without it, with multilabel=True."
        )


def check_rows(rows, n_rows: int) -> BoolArray:
    """Read which utterances to ask about.

    Parameters
    ----------
    rows : array-like of bool, shape (n_rows,), or None
        Whether to ask about each; None is all.
    n_rows : int
        Number of utterances.

    Returns
    -------
    ndarray of bool, shape (n_rows,)
        Whether to ask about each.

    Raises
    ------
    ValueError
        If `rows` holds something else than True and False, or has another length.
    """
    if rows is None:
        return np.ones(n_rows, dtype=bool)
    wanted = read_column(rows, "rows")
    if wanted.dtype != bool or len(wanted) != n_rows:
        raise ValueError(
            f"rows has {len(wanted)} entries of type {wanted.dtype} but there are {n_rows} "
            "utterances; pass True or False for each, as LLMCascadeClassifier.defer returns them."
        )
    return wanted
