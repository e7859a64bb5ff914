"""What a round of the benchmark asks a backend, and what it makes of the answers. The clock is the test's."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from itertools import count

import pytest

from cosa_guard import backends
from cosa_guard.backends import measure
from cosa_guard.backends.base import Capabilities
from cosa_guard.messages import Delta
from cosa_guard.testing import AsyncFakeBackend, FakeBackend
from cosa_sdk import compile as compile_config
from cosa_sdk import presets
from cosa_sdk.errors import BackendError, UsageError


@dataclass
class Use:
    cached_tokens: int = 0


@dataclass
class Scripted:
    """A backend with all that a local one has. A word is a token; the config is in memory after it was read once."""

    said: int = 64
    name: str = "scripted"
    capabilities: Capabilities = field(default_factory=Capabilities)
    prefix_use: Use = field(default_factory=Use)
    requests: list = field(default_factory=list)
    done: list = field(default_factory=list)

    def stream(self, request):
        self.requests.append(request)
        self.prefix_use.cached_tokens += 5
        try:
            for number in range(min(self.said, request.sampling.max_tokens)):
                yield Delta(f"w{number} ", 1)
            yield Delta("", 0, "stop")
        finally:
            self.done.append("stream")

    def count_tokens(self, request):
        return sum(len(message.content.split()) for message in request.messages)

    def warm(self, system):
        self.done.append(system)
        return 1

    def close(self):
        self.done.append("close")


@pytest.fixture
def measured(monkeypatch):
    """Measures a backend. Each look at the clock finds it a second later."""
    def run(backend):
        monkeypatch.setattr(backends._registry, "_added", {"scripted": lambda argument: backend})
        ticks = count()
        monkeypatch.setattr(measure.time, "perf_counter", lambda: float(next(ticks)))
        return measure.measure("scripted:a.gguf")

    return run


def test_the_same_config_twice_then_a_new_prompt_then_a_story(measured):
    backend = Scripted()
    measured(backend)
    system = compile_config(presets.load("film-studio")).text
    cold, warm, prompt, story = backend.requests

    assert [system, system] == [cold.messages[0].content, warm.messages[0].content]
    assert cold.messages[1] != warm.messages[1]
    assert ["stream", system, "stream", "stream", "stream", "close"] == backend.done
    assert [["user"], ["user"]] == [[message.role for message in one.messages] for one in (prompt, story)]
    assert [1, 1, 1, 64] == [one.sampling.max_tokens for one in backend.requests]
    assert 600 <= backend.count_tokens(prompt) < 630


def test_figures_are_what_the_clock_says(measured):
    backend = Scripted()
    found = measured(backend)
    prompt = backend.count_tokens(backend.requests[2])

    assert (1.0, 1000.0, 1000.0) == (found.load_s, found.ttft_cold_ms, found.ttft_warm_ms)
    # Less the five that were in memory.
    assert (prompt - 5, float(prompt - 5)) == (found.prompt_tokens, found.prefill_tps)
    assert 1.0 == found.generate_tps
    assert backend.count_tokens(backend.requests[0]) == found.config_tokens
    assert found.counted
    assert found.peak_mb is None or found.peak_mb > 1


def test_a_reply_of_a_few_words_says_nothing_about_speed(measured):
    assert measured(Scripted(said=8)).generate_tps is None
    assert 1.0 == measured(Scripted(said=9)).generate_tps


def test_a_backend_that_only_streams_is_measured_by_estimates(measured):
    found = measured(FakeBackend(["w "] * 20))

    assert not found.counted
    assert 600 <= found.prompt_tokens < 640


def test_a_small_context_gets_a_shorter_prompt(measured):
    backend = Scripted(capabilities=Capabilities(context=200))
    measured(backend)

    assert 100 <= backend.count_tokens(backend.requests[2]) < 130


def test_a_backend_that_answers_nothing_is_an_error_and_closed(measured):
    backend = Scripted(said=0)
    with pytest.raises(BackendError, match="answered nothing"):
        measured(backend)

    assert "close" == backend.done[-1]


def test_a_backend_that_can_only_be_awaited_is_refused(measured):
    with pytest.raises(UsageError, match="can only be awaited"):
        measured(AsyncFakeBackend())


def test_the_process_prints_one_object_whatever_goes_wrong():
    done = subprocess.run([sys.executable, "-m", "cosa_guard.backends.measure", "nosuch:x"], capture_output=True, text=True, check=True)

    assert "unknown backend 'nosuch'" in json.loads(done.stdout)["error"]
