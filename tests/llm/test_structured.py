"""Answers that a server holds to the options, and models that reason before they answer."""

import json
import re

import numpy as np
import pytest

from skpref import LLMLabeler
from tests.llm.stub import StubLLM, completion

CLASSES = ["bad", "good"]
PROMPTS = {"p": "{options} {answer} {utterance}"}
TEXTS = [f"text {i}" for i in range(6)]


class Server(StubLLM):
    """A server whose models have an owner, and that refuses some arguments."""

    def __init__(self, owner, refused=()):
        super().__init__(self.reply)
        self.refused, self.looks = refused, []
        stub = self

        def do_GET(handler):
            stub.looks.append(handler.path)
            content = json.dumps({"object": "list", "data": [{"id": "m", "owned_by": owner}]})
            handler.send_response(200)
            handler.send_header("Content-Length", str(len(content)))
            handler.end_headers()
            handler.wfile.write(content.encode())

        self.server.RequestHandlerClass.do_GET = do_GET

    def reply(self, request):
        for name in self.refused:
            if name in request:
                return 400, f"{name} is not supported"
        if "response_format" in request:
            return completion('{"label": "good"}', finish_reason="stop")
        return completion("good", finish_reason="stop")


@pytest.fixture(params=["vllm", "llamacpp", "openai"])
def server(request):
    server = Server(request.param)
    server.owner = request.param
    yield server
    server.stop()


def make(server, **params):
    params = {"model": "m", "verbose": False, "scoring": "label", "max_retries": 1} | params
    return LLMLabeler(CLASSES, PROMPTS, base_url=server.url, **params)


def test_a_label_is_one_of_the_choices_in_the_way_of_the_server(server):
    labeler = make(server)
    np.testing.assert_array_equal(labeler.fit_transform(TEXTS)[:, 0, 1], 1)
    for request in server.requests:
        if server.owner == "vllm":
            assert request["structured_outputs"] == {"choice": CLASSES}
            assert request["guided_choice"] == CLASSES
        elif server.owner == "llamacpp":
            assert request["grammar"] == 'root ::= "bad" | "good"'
        else:
            schema = request["response_format"]["json_schema"]["schema"]
            assert schema["properties"]["label"]["enum"] == CLASSES
        assert "choices" not in request


@pytest.mark.slow
def test_the_server_is_looked_at_once_and_the_cache_keeps_what_was_found(server, tmp_path):
    make(server, cache=tmp_path).fit_transform(TEXTS)
    make(server, cache=tmp_path).fit_transform([f"other {text}" for text in TEXTS])
    assert server.looks == ["/v1/models"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("owner", "refused"),
    [("vllm", ["guided_choice"]), ("llamacpp", ["grammar"]), ("x", ["response_format"])],
)
def test_a_server_that_refuses_is_asked_without_from_then_on(owner, refused, tmp_path):
    server = Server(owner, refused)
    labeler = make(server, cache=tmp_path, max_concurrency=1)
    assert np.isfinite(labeler.fit_transform(TEXTS)).all()
    assert len(server.requests) == 7
    make(server, cache=tmp_path).fit_transform([f"other {text}" for text in TEXTS])
    assert len(server.requests) == 13
    server.stop()


@pytest.mark.slow
def test_answers_are_the_same_in_the_cache_whatever_the_server_can(server, tmp_path):
    expected = make(server, cache=tmp_path).fit_transform(TEXTS)
    server.requests.clear()
    labeler = make(server, cache=tmp_path, request_params={"choices": None})
    np.testing.assert_array_equal(labeler.fit_transform(TEXTS), expected)
    assert server.requests == []


def test_choices_can_be_left_out(server):
    make(server, request_params={"choices": None}).fit_transform(TEXTS)
    assert server.looks == []
    assert not {"grammar", "guided_choice", "response_format"} & set(server.requests[0])


def test_further_arguments_stay_beside_the_choices():
    server = Server("vllm")
    make(server, request_params={"extra_body": {"top_k": 3}}).fit_transform(TEXTS)
    assert server.requests[0]["top_k"] == 3
    assert server.requests[0]["guided_choice"] == CLASSES
    server.stop()


def test_a_model_that_reasons_is_asked_in_its_own_way(server):
    labeler = make(server, reasoning_effort="low", n_samples=2)
    assert np.isfinite(labeler.fit_transform(TEXTS)).all()
    for request in server.requests:
        assert request["reasoning_effort"] == "low"
        assert request["max_completion_tokens"] > 4000
        assert not {"temperature", "max_tokens", "logprobs", "top_logprobs", "seed"} & set(request)
    assert len(server.requests) == 12
    assert "at most" in labeler.plan([*TEXTS, "new"]).message


def test_a_model_that_reasons_has_no_log_probabilities(server):
    message = "reasoning_effort='low' with scoring='logprobs'"
    with pytest.raises(ValueError, match=re.escape(message)):
        make(server, reasoning_effort="low", scoring="logprobs").fit(TEXTS)
