"""`kill -9` under load: every reply that a client received, whole or in part, is on record, and the record verifies."""

from __future__ import annotations

import http.client
import json
import os
import random
import signal
import threading
import time
from contextlib import closing
from dataclasses import dataclass, field

import pytest
from tests.guard.build import PATIENCE
from tests.guard.server.serving import FILM, write
from tests.guard.server.test_lifecycle import Command

from cosa_guard.audit import verify

KILLS = int(os.environ.get("COSA_KILLS", "3"))
SAID = " ".join(f"Sentence number {at} of a long and harmless story." for at in range(12))


@dataclass
class Received:
    """What one client got of one answer before the connection broke."""

    request: str
    text: str
    complete: bool


@dataclass
class Clients:
    """Asks for whole replies and streams, again and again, until the proxy is gone."""

    port: int
    received: list[Received] = field(default_factory=list)

    def __enter__(self):
        self.threads = [threading.Thread(target=self._ask, args=(place % 2 == 1,), daemon=True) for place in range(6)]
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *problem):
        for thread in self.threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def _ask(self, stream):
        body = json.dumps({"messages": [{"role": "user", "content": "Tell me a story."}], "stream": stream})
        headers = {"Authorization": f"Bearer {FILM}", "Content-Type": "application/json"}
        try:
            while True:
                with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
                    connection.request("POST", "/v1/chat/completions", body, headers)
                    with connection.getresponse() as answer:
                        self._read(answer, stream)
        except (OSError, http.client.HTTPException):
            return  # the proxy is gone


    def _read(self, answer, stream):
        got, complete = bytearray(), False
        try:
            while piece := answer.read1(65536):
                got += piece
            complete = True
        finally:
            self.received.append(Received(answer.headers["x-cosa-request"], heard(bytes(got), stream), complete))


def heard(body, stream):
    if not stream:
        try:
            return json.loads(body)["choices"][0]["message"]["content"]
        except ValueError:
            return ""  # cut off: nothing that could be read
    events = [line[6:] for line in body.decode("utf-8", "ignore").split("\n\n")[:-1] if line.startswith("data: {")]
    return "".join(json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events)


def recorded(folder):
    """By request: up to where its text is on record as let through."""
    reach = {}
    for path in folder.glob("*.jsonl"):
        for line in path.read_text("utf-8").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("stage") == "output":
                text, start = entry["text"], entry.get("start", 0)
                assert SAID[start : start + len(text)] == text
                reach[entry["request"]] = max(reach.get(entry["request"], 0), start + len(text))
    return reach


@pytest.mark.parametrize("kills", [KILLS, pytest.param(50, marks=pytest.mark.slow)])
def test_every_reply_that_was_received_is_on_record(upstream, tmp_path, kills):
    upstream.said = SAID
    folder = tmp_path / "audit"
    path = write(tmp_path, upstream, audit={"folder": str(folder), "text": "full"})
    received, draw = [], random.Random(7)
    for _ in range(kills):
        with Command(path, "--port", 0, "--no-request-log") as command, Clients(command.port()) as clients:
            time.sleep(draw.uniform(0.15, 0.5))
            command.process.send_signal(signal.SIGKILL)
            command.process.wait(PATIENCE)
        received += clients.received
    reach = recorded(folder)

    assert [] == [one for one in received if reach.get(one.request, 0) < len(one.text)]
    assert sum(one.complete for one in received) > 5 * kills
    assert {"unanchored"} == {chain.status for chain in verify(folder).chains}
