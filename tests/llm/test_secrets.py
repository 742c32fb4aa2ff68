import pickle

import pytest

from skpref._llm._secrets import Secret, find_secrets, redact, reveal_secrets, wrap_secrets

KEY = "sk-proj-AbCdEfGhIjKlMnOpQrStUvWxYz0123456789"


@pytest.mark.parametrize(
    "params",
    [
        {"extra_headers": {"api-key": KEY}},
        {"extra_headers": {"X-Whatever": KEY}},
        {"extra_headers": {"Authorization": f"Bearer {KEY}"}},
        {"extra_body": {"provider": {"api_key": KEY}}},
        {"extra_query": {"key": KEY}},
        {"api_key": KEY},
    ],
)
def test_keys_in_request_params_are_wrapped_and_revealed(params):
    wrapped = wrap_secrets(params)
    assert KEY not in repr(wrapped)
    assert KEY.encode() not in pickle.dumps(wrapped)
    assert reveal_secrets(wrapped) == params
    assert KEY in find_secrets(wrapped)[0]
    assert wrap_secrets(wrapped) is wrapped


def test_what_is_no_key_is_left_as_it_is():
    params = {
        "max_tokens": 5,
        "stop": "key",
        "extra_headers": {"X-Title": "study", "User-Agent": "me"},
        "extra_body": {"top_k": 1, "guided_choice": ["a"]},
    }
    assert wrap_secrets(params) is params


@pytest.mark.parametrize("cut", [None, 20, 300])
def test_keys_and_parts_of_them_are_removed_before_a_message_is_cut(cut):
    for n in (0, 100, 255, 280, 295):
        text = "x" * n + f" {KEY[:cut]} is not valid"
        shown = redact(text, [KEY])
        assert "sk-proj-" not in shown
        assert "AbCdEfGh" not in shown
        assert "***" in shown or n > 290


def test_a_header_is_removed_with_the_key_in_it():
    assert redact(f"no, {KEY}", [f"Bearer {KEY}"]) == "no, ***"
    assert redact("nothing to hide", [KEY, "none"]) == "nothing to hide"


def test_a_secret_is_not_shown():
    assert KEY not in f"{Secret(KEY)} {Secret(KEY)!r}"
    assert pickle.loads(pickle.dumps(Secret(KEY))) is None
