"""OpenTelemetry spans by the GenAI conventions: off unless asked for, and never with a text in them.

The conventions have no attributes for guards yet (open-telemetry/semantic-conventions-genai#427 proposes some), so what
a guard says is under `cosa.`; calls are named and described as for any other model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cosa_guard.verdicts import Entry, Report
from cosa_sdk.errors import MissingExtra

if TYPE_CHECKING:
    from opentelemetry.trace import Span, TracerProvider

__all__ = ["CallSpan", "Tracing"]

Record = Callable[[Entry], "Future[None] | None"]


class CallSpan:
    """The open span of one guarded call."""

    __slots__ = ("_span",)

    def __init__(self, span: Span) -> None:
        self._span = span

    def report(self, report: Report) -> None:
        """Say what the guard did in the call."""
        self._span.set_attributes(
            {
                "cosa.config": report.config,
                "cosa.outcome": report.outcome,
                "cosa.act": report.act,
                "cosa.candidates": report.candidates,
                "cosa.redacted": report.redacted,
                "cosa.late": report.late,
                "cosa.failed": report.error is not None,
                "gen_ai.usage.output_tokens": report.tokens,
            }
        )


class Tracing:
    """Makes spans with the application's OpenTelemetry; where they go is its SDK's business.

    `Guard(…, record=tracing.record(log))` gives every ruling a span, inside the span of the call if there is one:
    `with tracing.call("a-model") as call: reply = guard.reply(…); call.report(reply.report)`.

    Args:
        provider: makes the tracer; the global one by default.

    Raises:
        MissingExtra: OpenTelemetry's API is not installed.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        try:
            from opentelemetry import trace  # noqa: PLC0415
        except ImportError:
            raise MissingExtra("OpenTelemetry", "otel") from None
        self._trace = trace
        self._tracer = trace.get_tracer("cosa_guard", tracer_provider=provider)

    @contextmanager
    def call(self, model: str, *, operation: str = "chat", provider: str | None = None) -> Iterator[CallSpan]:
        """The span of one guarded call, current while it is open.

        Args:
            model: as it was asked for.
            operation: in the conventions' words.
            provider: who serves the model, in the conventions' words, such as `openai`.
        """
        attributes = {"gen_ai.operation.name": operation, "gen_ai.request.model": model}
        if provider is not None:
            attributes["gen_ai.provider.name"] = provider
        # Errors may quote texts: their type is enough.
        with self._tracer.start_as_current_span(
            f"{operation} {model}",
            kind=self._trace.SpanKind.CLIENT,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield CallSpan(span)
            except BaseException as error:
                self._failed(span, error)
                raise

    def record(self, record: Record | None = None) -> Record:
        """A record that makes a span for every ruling, as long as `record` takes to put it in safety."""

        def traced(entry: Entry) -> Future[None] | None:
            span = self._tracer.start_span(f"cosa.ruling {entry.ruling.stage}", attributes=_attributes(entry))
            try:
                kept = record(entry) if record is not None else None
            except BaseException as error:
                self._failed(span, error)
                span.end()
                raise
            if kept is None:
                span.end()
            else:
                kept.add_done_callback(lambda done: self._end(span, done))
            return kept

        return traced

    def _end(self, span: Span, done: Future[None]) -> None:
        error = None if done.cancelled() else done.exception()
        if error is not None:
            self._failed(span, error)
        span.end()

    def _failed(self, span: Span, error: BaseException) -> None:
        span.set_attribute("error.type", type(error).__name__)
        span.set_status(self._trace.StatusCode.ERROR)


def _attributes(entry: Entry) -> dict[str, str | bool | int | tuple[str, ...]]:
    ruling, decision = entry.ruling, entry.ruling.decision
    return {
        "cosa.config": entry.config,
        "cosa.tenant": entry.tenant,
        "cosa.request": entry.request,
        "cosa.stage": ruling.stage,
        "cosa.outcome": decision.outcome,
        "cosa.rules": decision.rules,
        "cosa.unexamined": decision.unexamined,
        "cosa.judges": tuple(verdict.judge for verdict in ruling.verdicts),
        "cosa.failed": ruling.error is not None,
        "cosa.start": entry.start,
        "cosa.final": entry.final,
    }
