"""A server on loopback that speaks OpenAI's batch protocol and misbehaves on demand."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.llm.stub import by_option


class BatchStub:
    """Answers chat completions, directly and in batches.

    `states` are those that a look at a batch shows in turn; the last one stays. `answer` gives the
    response to a request, or an int, the status of a line that failed. `unanswered(i)` says which
    lines of a batch are not reached before it ends. `cut` shortens that many downloads, and
    `lose` drops that many responses to the making of a batch.
    """

    def __init__(self):
        self.answer = by_option
        self.states = ["validating", "in_progress", "finalizing", "completed"]
        self.unanswered = lambda i: False
        self.cut = self.lose = 0
        self.broken = lambda line: line
        self.files, self.batches, self.direct, self.calls = {}, {}, [], []
        stub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                stub.calls.append(("GET", self.path))
                path = self.path.partition("?")[0].removeprefix("/v1/")
                if path == "batches":
                    data = [stub.show(name) for name in reversed(stub.batches)]
                    self.reply({"object": "list", "data": data, "has_more": False})
                elif path.startswith("batches/"):
                    name = path.removeprefix("batches/")
                    self.reply(stub.advance(name) if name in stub.batches else None)
                elif match := re.fullmatch("files/(.*)/content", path):
                    content = stub.files[match[1]]
                    if stub.cut:
                        stub.cut -= 1
                        content = content[: len(content) * 2 // 3]
                    self.reply(content)
                else:
                    self.reply(None)

            def do_POST(self):
                stub.calls.append(("POST", self.path))
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/v1/files":
                    name = f"file-{len(stub.files)}"
                    start, end = body.index(b'{"custom_id'), body.rindex(b"}") + 1
                    stub.files[name] = body[start:end]
                    self.reply({"id": name, "object": "file"})
                elif self.path == "/v1/batches":
                    batch = stub.make(json.loads(body))
                    if stub.lose:
                        stub.lose -= 1
                        self.close_connection = True
                        self.connection.close()
                        return
                    self.reply(batch)
                else:
                    stub.direct.append(json.loads(body))
                    self.reply(stub.answer(json.loads(body)))

            def reply(self, answer):
                content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(404 if answer is None else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args):
                pass

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def make(self, request):
        name = f"batch_{len(self.batches)}"
        self.batches[name] = {"file": request["input_file_id"], "states": list(self.states)}
        assert request["endpoint"] == "/v1/chat/completions"
        return self.show(name)

    def advance(self, name):
        states = self.batches[name]["states"]
        shown = self.show(name)
        if len(states) > 1:
            states.pop(0)
        return shown

    def lines(self, name):
        return [json.loads(line) for line in self.files[self.batches[name]["file"]].splitlines()]

    def show(self, name):
        """The state of a batch; the first time that it has ended, its files are written."""
        batch = self.batches[name]
        status, lines = batch["states"][0], self.lines(name)
        shown = {
            "id": name,
            "object": "batch",
            "status": status,
            "endpoint": "/v1/chat/completions",
            "input_file_id": batch["file"],
            "completion_window": "24h",
            "created_at": 0,
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }
        if status == "failed":
            return shown | {"errors": {"object": "list", "data": [{"message": "quota of tokens"}]}}
        if status not in ("completed", "expired", "cancelled"):
            return shown
        if "results" not in batch:
            batch["results"] = self.write_results(name, lines, status)
        output, errors, n_done = batch["results"]
        shown["request_counts"] |= {"completed": n_done, "failed": len(lines) - n_done}
        return shown | {"output_file_id": output, "error_file_id": errors}

    def write_results(self, name, lines, status):
        done, failed = [], []
        for i, line in enumerate(lines):
            result = {
                "id": f"r{i}",
                "custom_id": line["custom_id"],
                "response": None,
                "error": None,
            }
            answer = self.answer(line["body"])
            if status != "completed" and self.unanswered(i):
                result["error"] = {"code": f"batch_{status}", "message": f"it {status}"}
                failed.append(result)
            elif isinstance(answer, int):
                body = {"error": {"message": "no"}}
                failed.append(result | {"response": {"status_code": answer, "body": body}})
            else:
                done.append(result | {"response": {"status_code": 200, "body": answer}})
        names = []
        for results in (done, failed):
            names.append(f"file-{len(self.files)}" if results else None)
            if results:
                text = "\n".join(self.broken(json.dumps(result)) for result in reversed(results))
                self.files[names[-1]] = text.encode() + b"\n"
        return *names, len(done)

    def stop(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
