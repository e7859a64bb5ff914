"""Spans: one for each ruling, inside the one of the call, and never a text in them."""

from __future__ import annotations

import asyncio
import sys
from concurrent.futures import Future

import pytest
from tests.guard.build import finder, risks_config

from cosa_guard import Guard
from cosa_guard.audit import AuditError
from cosa_guard.telemetry import Tracing
from cosa_guard.testing import FakeBackend, ScriptedJudge
from cosa_guard.verdicts import Entry, Ruling
from cosa_sdk.decide import Evidence, decide
from cosa_sdk.errors import JudgeError, MissingExtra

sdk = pytest.importorskip("opentelemetry.sdk.trace")
CONFIG = risks_config()


@pytest.fixture
def traced():
    """(tracing, finished spans)"""
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Tracing(provider), exporter.get_finished_spans
    provider.shutdown()


def entry():
    decision = decide(CONFIG, Evidence(examined=CONFIG.elements))
    return Entry(ruling=Ruling(stage="input", decision=decision, verdicts=()), config="d", text="secret text")


@pytest.mark.parametrize("awaited", [False, True])
def test_a_call_has_a_span_and_its_rulings_have_theirs_inside(traced, awaited):
    tracing, finished = traced
    recorded = []
    one = Guard(
        CONFIG,
        judge=finder(drugs=["pill"])(),
        backend=FakeBackend("Take a pill, Ann."),
        record=tracing.record(recorded.append),
        tenant="acme",
    )
    with tracing.call("a-model", provider="openai") as call:
        reply = asyncio.run(one.areply("Hi, Bob.")) if awaited else one.reply("Hi, Bob.")
        call.report(reply.report)
    first, second, whole = finished()

    assert 2 == len(recorded)
    assert ("cosa.ruling input", "cosa.ruling output", "chat a-model") == (first.name, second.name, whole.name)
    assert {whole.context.span_id} == {first.parent.span_id, second.parent.span_id}
    assert {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "a-model",
        "gen_ai.provider.name": "openai",
        "gen_ai.usage.output_tokens": reply.report.tokens,
        "cosa.config": CONFIG.digest,
        "cosa.outcome": "violates",
        "cosa.act": "refuse",
        "cosa.candidates": 1,
        "cosa.redacted": 0,
        "cosa.late": False,
        "cosa.failed": False,
    } == dict(whole.attributes)
    assert ("violates", ("drugs",), ("scripted/1",), "acme", "output") == tuple(
        second.attributes[f"cosa.{name}"] for name in ("outcome", "rules", "judges", "tenant", "stage")
    )
    assert not any(word in str([span.to_json() for span in finished()]) for word in ("pill", "Ann", "Bob"))


def test_an_error_says_its_kind_and_quotes_nothing(traced):
    tracing, finished = traced
    one = Guard(
        CONFIG, judge=ScriptedJudge(error=JudgeError("cannot read Bob")), backend=FakeBackend(), record=tracing.record()
    )
    with pytest.raises(ValueError), tracing.call("a-model") as call:
        call.report(one.reply("Hi, Bob.").report)
        raise ValueError("Bob")
    ruled, whole = finished()

    assert (True, True) == (ruled.attributes["cosa.failed"], whole.attributes["cosa.failed"])
    assert ("ValueError", "ERROR", ()) == (whole.attributes["error.type"], whole.status.status_code.name, whole.events)
    assert "Bob" not in ruled.to_json() + whole.to_json()


def test_a_record_that_fails_still_stops_the_call(traced):
    tracing, finished = traced

    def record(_):
        raise AuditError("no space")

    one = Guard(CONFIG, judge=finder()(), backend=FakeBackend(), record=tracing.record(record))
    with pytest.raises(AuditError, match="no space"):
        one.reply("Hi.")

    assert [("AuditError", "ERROR")] == [
        (span.attributes["error.type"], span.status.status_code.name) for span in finished()
    ]
    assert [] == one.backend.requests


@pytest.mark.parametrize("error", [None, AuditError("no space")])
def test_a_record_that_is_kept_later_ends_its_span_then(traced, error):
    tracing, finished = traced
    kept = Future()

    assert kept is tracing.record(lambda _: kept)(entry())
    assert () == finished()
    kept.set_result(None) if error is None else kept.set_exception(error)
    assert ["UNSET" if error is None else "ERROR"] == [span.status.status_code.name for span in finished()]


def test_a_record_that_was_given_up_ends_its_span_too(traced):
    tracing, finished = traced
    kept = Future()
    tracing.record(lambda _: kept)(entry())
    kept.cancel()

    assert 1 == len(finished())


def test_without_a_provider_the_application_decides():
    with Tracing().call("a-model") as call:
        assert call is not None


def test_it_needs_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry", None)

    with pytest.raises(MissingExtra, match=r"cosa\[otel\]"):
        Tracing()
