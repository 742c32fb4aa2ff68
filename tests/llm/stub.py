"""A chat completion server on loopback that misbehaves on demand."""

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(content="A", tokens=None, *, finish_reason=None, logprobs=None, **message):
    """A chat completion; `tokens` are the likeliest first ones with their log-probabilities."""
    if tokens:
        top = [{"token": t, "logprob": p} for t, p in tokens.items()]
        logprobs = {"content": [{**top[0], "top_logprobs": top}]}
    choice = {"message": {"role": "assistant", "content": content, **message}}
    choice |= {"finish_reason": finish_reason, "logprobs": logprobs}
    usage = {"prompt_tokens": 10, "completion_tokens": 1}
    return {"choices": [choice], "usage": usage}


def by_places(places, **message):
    """A completion whose tokens are given, each with its likeliest ones."""
    content = [
        {
            "token": token,
            "logprob": -0.1,
            "top_logprobs": [{"token": t, "logprob": p} for t, p in likeliest.items()],
        }
        for token, likeliest in places
    ]
    text = "".join(token for token, _ in places)
    return completion(text, finish_reason="stop", logprobs={"content": content}, **message)


def options_of(request):
    """The options of the question, in order, each as an answer has it: a letter or the name."""
    head = "\n".join(message["content"] for message in request["messages"])
    found = re.findall(r"(?:^|\s)(?:([A-Z])\.|-) (\w+)", head)
    return [letter or name for letter, name in found]


def by_option(request):
    """Answer with log-probabilities that depend on the question alone."""
    asked = request["messages"][-1]["content"]
    seed = sum(map(ord, asked)) % 7
    first, second = (options_of(request) or ["A", "B"])[:2]
    return completion(first, {first: -0.5 - 0.1 * seed, f" {second}": -1.5, "The": -3.0})


class StubLLM:
    """Answers by a list of faults first, then by `answer`.

    A fault is an int (a status), a tuple (status, headers), "reset", "truncated", "hang" or a
    dict (the response). `answer` returns a response, a status, or a tuple of a status and the
    words of an error or its whole body.
    """

    def __init__(self, answer=by_option, faults=(), port=0):
        self.answer = answer
        self.faults = list(faults)
        self.requests, self.keys, self.headers = [], [], []
        self.now = self.most = 0
        self.delay = 0.0
        self.drip = 0.0  # seconds between the first bytes of a response
        self.stopped = False
        lock = threading.Lock()
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with lock:
                    stub.requests.append(json.loads(body))
                    stub.keys.append(self.headers.get("Authorization"))
                    stub.headers.append({k.lower(): v for k, v in self.headers.items()})
                    fault = stub.faults.pop(0) if stub.faults else None
                    stub.now += 1
                    stub.most = max(stub.most, stub.now)
                time.sleep(stub.delay)
                try:
                    self.respond(fault, json.loads(body))
                finally:
                    with lock:
                        stub.now -= 1

            def respond(self, fault, request):
                status, headers = 200, {}
                if fault == "reset" or stub.stopped:
                    self.close_connection = True
                    self.connection.close()
                    return
                if fault == "hang":
                    time.sleep(1.5)
                if isinstance(fault, int):
                    status = fault
                if isinstance(fault, tuple):
                    status, headers = fault
                answer = stub.answer(request)
                words = f"no, not with {self.headers.get('Authorization')}"
                if isinstance(answer, int):
                    status = answer
                if isinstance(answer, tuple):
                    status, words = answer
                if isinstance(fault, dict):
                    answer = fault
                if status != 200:
                    answer = {"error": {"message": words}} if isinstance(words, str) else words
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                if fault == "truncated":
                    content = content[: len(content) // 2]
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Type", "application/json")
                content = b"\n" * 20 * bool(stub.drip) + content
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                while stub.drip and content.startswith(b"\n"):
                    self.wfile.write(content[:1])
                    content = content[1:]
                    time.sleep(stub.drip)
                self.wfile.write(content)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *args):
                pass

        self.server = Server(("127.0.0.1", port), Handler)
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def stop(self):
        self.stopped = True  # for the connections that are open
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
