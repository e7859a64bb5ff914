"""`POST /v1/cosa/check`: what `cosa check` prints, over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from cosa_guard.guard import Guard
from cosa_guard.server.errors import HttpError
from cosa_guard.server.guarded import Call, as_http
from cosa_guard.server.log import place_of, trouble
from cosa_guard.server.openapi import CheckRequest
from cosa_guard.server.requests import ClientGone, Receive, Send, read_headers
from cosa_guard.server.watch import Watch
from cosa_guard.verdicts import Ruling
from cosa_sdk.errors import ConfigError, CosaError

if TYPE_CHECKING:
    from cosa_guard.server.app import App

__all__ = ["serve"]


async def serve(app: App, scope: dict[str, Any], receive: Receive, send: Send) -> None:
    """Answer one request."""
    call = Call(app, "/cosa/check", send)
    watch = Watch(receive)
    try:
        headers = read_headers(scope)
        binding, guard, body = await call.admitted(headers, receive)
        asked = _asked(body)
        watch.answering(binding.limits.seconds)
        gate = binding.state.gate
        if not gate.try_enter(binding.limits):
            await gate.enter(binding.limits)
        try:
            ruling = await guard.acheck(asked.text, stage=asked.stage, prompt=asked.prompt)
        finally:
            gate.leave(binding.limits)
        call.outcome = ruling.outcome
        if ruling.error:
            app.metrics.judge_errors[binding.tenant] += 1
            app.log.event(f"{call.name} {trouble(ruling.error)}")
        answer = json.dumps(ruling_object(guard, ruling)).encode()
        length = str(len(answer)).encode()
        await call.start(
            200, [(b"content-type", b"application/json"), (b"content-length", length)], guard.config.digest
        )
        await call.body(answer)
    except ClientGone:
        app.metrics.gone += 1
    except asyncio.CancelledError:
        if not watch.settle():
            raise
        if watch.ended != "gone":
            await call.refuse(
                HttpError(408, "request_timeout", "the check took longer than this key allows", close=True)
            )
    except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets an error object
        said = as_http(error)
        if said.status >= 500:  # noqa: PLR2004  # HTTP's own line
            detail = f"{type(error).__name__}: {error}" if isinstance(error, CosaError) else place_of(error)
            app.log.event(f"{call.name} {detail}")
        await call.refuse(said)
    finally:
        watch.stop()
        call.done()


def _asked(body: dict[str, Any]) -> CheckRequest:
    try:
        asked = CheckRequest(**body)
    except (ConfigError, TypeError) as error:  # TypeError: a name that no argument can have
        findings = getattr(error, "findings", ())
        param = findings[0].where if findings else None
        said = "; ".join(str(finding) for finding in findings[:3]) or "the body has a name that no field has"
        raise HttpError(400, "invalid_request", said[:500], param=param) from None
    if asked.prompt is not None and asked.stage != "output":
        raise HttpError(
            400, "invalid_request", "prompt is what a reply answers: it needs stage: output", param="prompt"
        )
    return asked


def ruling_object(guard: Guard, ruling: Ruling) -> dict[str, Any]:
    """The object of `cosa check --json`; `error` says that a judge failed, never why."""
    body: dict[str, Any] = {"decision": ruling.outcome}
    if ruling.stage == "input":
        body["prompt_type"] = ruling.decision.prompt_type
    body |= {
        "risks": {risk: p for verdict in ruling.verdicts for risk, p in verdict.risks.items()},
        "rules": list(ruling.decision.rules),
        "unexamined": list(ruling.decision.unexamined),
        "tolerated": list(ruling.decision.tolerated),
        "spans": sorted({span for verdict in ruling.verdicts for span, _ in verdict.spans}),
        "judge": ruling.decided_by,
        "config": guard.config.digest,
    }
    if ruling.error:
        body["error"] = "a judge failed"
    return body
