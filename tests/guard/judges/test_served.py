"""A guard model behind a real OpenAI-compatible server on this machine, by the name that a user types."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tests.guard.build import guard
from tests.guard.judges.said import CONFIG, HELLO, input_case

from cosa_guard import judges


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *parts):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.asked.append(body["messages"])
        said = self.server.answer(body["messages"])
        chunks = [{"delta": {"role": "assistant", "content": ""}}, *({"delta": {"content": part}} for part in said), {"delta": {}, "finish_reason": "stop"}]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        for chunk in chunks:
            event = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": body["model"], "choices": [{"index": 0, "finish_reason": None, **chunk}]}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")


class Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):
        """A stopped guard hangs up on the judge's model; that is no error here."""


@pytest.fixture
def server():
    with Server(("127.0.0.1", 0), Handler) as server:
        server.asked, server.answer = [], lambda messages: ["sa", "fe"]
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def by_name(server, name):
    return judges.make(f"{name}:openai_http:http://127.0.0.1:{server.server_port}/v1#own-model")


def test_a_guard_model_by_name_answers_called_and_awaited(server):
    judge = by_name(server, "llama-guard")
    with closing(judge.backend):
        called, awaited = judge.judge(input_case()), asyncio.run(judge.ajudge(input_case()))

    assert called == awaited
    assert "llama-guard-3/1:own-model" == called.judge
    assert judge.covers(CONFIG) == called.evidence.examined
    assert [[{"role": "user", "content": HELLO}]] * 2 == server.asked


def test_a_guard_streams_behind_a_guard_model(server):
    server.answer = lambda messages: ["<answer>", "PASS" if "rival" not in messages[-1]["content"].rpartition("<transcript>")[2] else "FAIL", "</answer>"]
    judge = by_name(server, "dynaguard")
    with closing(judge.backend):
        own = guard(CONFIG, "A knife, a stone. Then the rival kitchen. And more.", judge=judge)
        passed, stopped = guard(CONFIG, "A knife, and a stone.", judge=judge).reply(HELLO), own.reply(HELLO)

    assert ("A knife, and a stone.", "stop") == (passed.text, passed.finish)
    assert ("content_filter", "refuse") == (stopped.finish, stopped.report.act)
