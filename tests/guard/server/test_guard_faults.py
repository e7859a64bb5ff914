"""What goes wrong inside: judges, the record, the proxy itself. Blocked or an error, counted, logged without texts, and nothing left behind."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import re
import threading

import pytest
from tests.guard.build import PATIENCE
from tests.guard.server.serving import FILM, chat, film, serving, wait_until, write

from cosa_guard.audit import AuditError
from cosa_guard.audit.files import OwnFile
from cosa_guard.exchange import Exchange
from cosa_guard.testing import ScriptedJudge
from cosa_guard.verdicts import Verdict
from cosa_sdk.decide import Evidence
from cosa_sdk.errors import JudgeError

ASKED = "When does the library open?"


@pytest.fixture(params=[False, True], ids=["whole", "stream"])
def stream(request):
    return request.param


class Failing(ScriptedJudge):
    """Fails at one stage, and lets everything through at the other."""

    def __init__(self, stage, fail, *, inline=True):
        super().__init__({}, name="failing/1", inline=inline)
        self.stage, self.fail = stage, fail

    def judge(self, case):
        return self.fail(case) if case.stage == self.stage else super().judge(case)


class Awaited:
    """As `Failing`, to be awaited only."""

    name, inline = "failing/1", False

    def __init__(self, stage, fail):
        self.inner, self.fail = Failing(stage, None), fail
        self.covers, self.holdback = self.inner.covers, self.inner.holdback

    async def ajudge(self, case):
        return await self.fail(case) if case.stage == self.inner.stage else self.inner.judge(case)


class Hung:
    """Hangs until it is let go, and counts those who came: of a stream, units that are judged while the next is written."""

    def __init__(self):
        self.free, self.came, self.calls = threading.Event(), threading.Event(), 0

    def __call__(self, case):
        self.calls += 1
        self.came.set()
        assert self.free.wait(PATIENCE)
        return Verdict(judge="failing/1", evidence=Evidence(examined=case.config.elements))


def raises(error):
    def fail(case):
        raise error

    return fail


async def hangs(case):
    await asyncio.Event().wait()


async def raises_later(case):
    raise ValueError(case.text)


NONSENSE = {
    "raises": (raises(ValueError(ASKED)), "judge 'failing/1' raised ValueError"),
    "raises what is no Exception": (raises(SystemExit(ASKED)), "judge 'failing/1' raised SystemExit"),
    "says that it failed": (raises(JudgeError(f"I read {ASKED!r}")), "a judge failed"),
    "returns nothing": (lambda case: None, "judge 'failing/1' answered NoneType, not a Verdict"),
    "returns a text": (lambda case: "safe", "judge 'failing/1' answered str, not a Verdict"),
    "returns the case": (lambda case: case, "judge 'failing/1' answered Case, not a Verdict"),
    "finds what no config has": (lambda case: Verdict(judge="x", evidence=Evidence(found=frozenset({"rule:no-such"}))), "a judge failed"),
}


@pytest.fixture
def served(upstream, tmp_path, monkeypatch):
    """The proxy with one judge, whose time is short."""
    running = []

    def start(judge):
        monkeypatch.setattr("cosa_guard.judges.make", lambda name: judge)
        one = serving(write(tmp_path, upstream, tenants=[film(judges=["failing"])], metrics=True))
        proxy = one.__enter__()
        running.append(one)
        for guard in proxy.app.site.find(FILM).guards.values():
            guard.ports = dataclasses.replace(guard.ports, timeout=0.05)
        return proxy

    yield start
    for one in running:
        one.__exit__(None, None, None)


def refused(proxy, upstream, stage, stream, said, capfd):
    """Ask once; the caller gets the refusal, and nothing else happened."""
    answer = proxy.chat(ASKED, key=FILM, stream=stream)

    assert (200, True, False) == (answer.status, b"content_filter" in answer.body, b"library opens" in answer.body)
    assert (stage == "output") == bool(upstream.seen)
    wait_until(lambda: proxy.app.metrics.judge_errors["film"] == 1)
    proxy.settle(upstream)
    log = capfd.readouterr().err
    assert f"{answer.headers['x-cosa-request']} {said}" in log
    assert "library" not in log


@pytest.mark.parametrize("stage", ["input", "output"])
@pytest.mark.parametrize("how", NONSENSE)
@pytest.mark.parametrize("inline", [True, False])
def test_a_judge_that_gives_no_verdict_blocks(served, upstream, stage, how, inline, stream, capfd):
    fail, said = NONSENSE[how]

    refused(served(Failing(stage, fail, inline=inline)), upstream, stage, stream, said, capfd)


@pytest.mark.parametrize("stage", ["input", "output"])
@pytest.mark.parametrize(("fail", "said"), [(hangs, "gave no verdict within 0.05 s"), (raises_later, "raised ValueError")], ids=["hangs", "raises"])
def test_a_judge_that_is_awaited_blocks(served, upstream, stage, fail, said, stream, capfd):
    refused(served(Awaited(stage, fail)), upstream, stage, stream, f"judge 'failing/1' {said}", capfd)


@pytest.mark.parametrize("stage", ["input", "output"])
def test_a_judge_that_hangs_keeps_its_thread_and_nothing_else(served, upstream, stage, stream, capfd):
    hung = Hung()
    proxy = served(Failing(stage, hung, inline=False))
    try:
        refused(proxy, upstream, stage, stream, "judge 'failing/1' gave no verdict within 0.05 s", capfd)
        page = proxy.ask("/metrics", method="GET").body.decode()
        calls = float(hung.calls)
    finally:
        hung.free.set()
    wait_until(lambda: proxy.app.runtime.pool.held == 0, "the thread's return")

    assert calls == 1 or stage == "output"
    assert [calls, calls] == [float(line.rpartition(" ")[2]) for line in page.splitlines() if line.startswith("cosa_judge_threads_")]


def test_a_client_that_goes_away_while_a_judge_hangs_leaves_its_thread_alone(served, upstream):
    hung = Hung()
    proxy = served(Failing("input", hung, inline=False))
    for guard in proxy.app.site.find(FILM).guards.values():
        guard.ports = dataclasses.replace(guard.ports, timeout=PATIENCE)
    try:
        with proxy.opened({"messages": [{"role": "user", "content": ASKED}]}, key=FILM):
            assert hung.came.wait(PATIENCE)
        proxy.settle(upstream)
        assert (1, 1) == (proxy.app.metrics.gone, proxy.app.runtime.pool.held)
    finally:
        hung.free.set()
    wait_until(lambda: proxy.app.runtime.pool.held == 0, "the thread's return")

    assert [] == upstream.seen


def test_judges_that_hang_on_every_thread_block_and_do_not_queue(served, upstream, capfd):
    hung = Hung()
    proxy = served(Failing("input", hung, inline=False))
    proxy.app.runtime.pool._size = 1
    try:
        assert b"content_filter" in proxy.chat("Something else.", key=FILM).body
        proxy.settle(upstream)
        proxy.app.metrics.judge_errors.clear()
        refused(proxy, upstream, "input", False, "all 1 judge threads are busy", capfd)
    finally:
        hung.free.set()


def test_a_judge_that_fails_is_told_to_who_checks(served, capfd):
    proxy = served(Failing("input", raises(ValueError(ASKED))))
    answer = proxy.ask("/v1/cosa/check", {"text": ASKED}, key=FILM)
    log = capfd.readouterr().err

    assert (200, "undecided", "a judge failed") == (answer.status, answer.json["decision"], answer.json["error"])
    assert f"{answer.headers['x-cosa-request']} judge 'failing/1' raised ValueError" in log
    assert "library" not in answer.body.decode() + log
    assert 1 == proxy.app.metrics.judge_errors["film"]


def full(self, data):
    raise AuditError("cannot write the audit record 'audit': No space left on device")


@pytest.fixture
def recording(upstream, tmp_path):
    with serving(write(tmp_path, upstream, audit={"folder": "audit", "text": "full"}, metrics=True)) as one:
        yield one


def test_a_record_that_cannot_be_written_blocks_and_is_told_in_log_and_metrics(recording, upstream, monkeypatch, stream, capfd):
    monkeypatch.setattr(OwnFile, "append", full)
    answer = recording.chat(ASKED, key=FILM, stream=stream)
    check = recording.ask("/v1/cosa/check", {"text": ASKED}, key=FILM)
    recording.settle(upstream)

    assert (424, "guard_failure", "false") == (answer.status, answer.code, answer.headers["x-should-retry"])
    assert (503, "audit_unavailable", []) == (check.status, check.code, upstream.seen)
    assert "No space left on device" in capfd.readouterr().err
    assert 'cosa_guard_errors_total{kind="AuditError",tenant="film"' in recording.ask("/metrics", method="GET").body.decode()
    monkeypatch.undo()
    assert upstream.said == recording.chat(ASKED, key=FILM, stream=stream).text


def test_a_record_that_cannot_be_written_in_the_middle_of_a_stream_ends_it(recording, upstream, monkeypatch, tmp_path):
    _, events = chat(" ".join(f"Sentence number {at} is here." for at in range(40)), "small")
    half, go_on = len(events) // 2, threading.Event()

    async def script(seen, line):
        await line.head(kind="text/event-stream")
        for event in events[:half]:
            await line.chunk(event)
        while not go_on.is_set():
            await asyncio.sleep(0.01)
        for event in events[half:]:
            await line.chunk(event)
        await line.end()

    upstream.script = script
    with recording.opened({"messages": [{"role": "user", "content": ASKED}], "stream": True}, key=FILM) as line:
        came = b""
        while b"number" not in came:
            came += line.recv(65536)
        monkeypatch.setattr(OwnFile, "append", full)
        go_on.set()
        while not came.endswith(b"0\r\n\r\n"):
            came += line.recv(65536)
    recording.settle(upstream)
    chain = next(path for path in (tmp_path / "audit").glob("2*.jsonl") if ".heads" not in path.name)
    lines = [json.loads(line) for line in chain.read_text().splitlines()]
    released = "".join(json.loads(piece) for piece in re.findall(rb'"content":("[^"]*")', came.replace(b'": "', b'":"')))

    assert b"guard_failure" in came
    assert b"[DONE]" not in came
    assert b"number 39" not in came
    assert 0 < len(released) <= max(line["start"] + len(line["text"]) for line in lines if line["stage"] == "output")


def test_what_the_proxy_itself_gets_wrong_is_an_error_object_and_no_text(proxy, upstream, monkeypatch, capfd, stream):
    def broken(*_, **__):
        raise RuntimeError(ASKED)

    monkeypatch.setattr("cosa_guard.server.guarded.Exchange", broken)
    answer = proxy.chat(ASKED, key=FILM, stream=stream)
    log = capfd.readouterr().err

    assert (500, "internal_error") == (answer.status, answer.code)
    assert f"{answer.headers['x-cosa-request']} RuntimeError at test_guard_faults.py:" in log
    assert "library" not in answer.body.decode() + log
    proxy.settle(upstream)


def test_what_the_proxy_gets_wrong_in_the_middle_of_a_stream_ends_it(proxy, upstream, monkeypatch, capfd):
    real = Exchange.astream

    async def broken(self, upstream):
        pieces = real(self, upstream)
        for _ in range(2):
            yield await anext(pieces)
        await pieces.aclose()
        raise RuntimeError(ASKED)

    monkeypatch.setattr(Exchange, "astream", broken)
    answer = proxy.chat(ASKED, key=FILM, stream=True)
    proxy.settle(upstream)

    assert (200, "internal_error") == (answer.status, answer.events[-1]["error"]["code"])
    assert b"[DONE]" not in answer.body
    assert "RuntimeError at test_guard_faults.py:" in capfd.readouterr().err


def test_a_page_that_fails_is_an_error_object_too(proxy, monkeypatch, capfd):
    def broken(*_):
        raise RuntimeError(ASKED)

    monkeypatch.setattr("cosa_guard.server.metrics.Metrics.page", broken)
    answer = proxy.ask("/metrics", method="GET")

    assert (500, "internal_error") == (answer.status, answer.code)
    assert "/metrics: RuntimeError at test_guard_faults.py:" in capfd.readouterr().err
