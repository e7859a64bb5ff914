"""THE GUARD: admit, screen the input, align, generate, screen the output, act, record. No I/O, no clock.

Every front door runs these generators; only what answers their steps differs (`drivers.py`). A whole reply and a
stream are the same flow under another release mode.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from cosa_guard.admission import screen_input, system_text
from cosa_guard.conversation import Conversation
from cosa_guard.messages import Delta, Finish, Message, Request, Sampling
from cosa_guard.recollection import Kind
from cosa_guard.screening import Channel, Mode, Policy
from cosa_guard.steps import READY, Close, Emit, Flow, Open, Pull
from cosa_guard.verdicts import Report

__all__ = ["converse"]

_PULL = Pull()  # made once: it is asked for with every token


def converse(
    policy: Policy, conversation: Conversation, sampling: Sampling, mode: Mode, report: Report
) -> Flow[Report]:
    """Answer a conversation under the policy, keeping `report` up to date."""
    guarded = _Converse(policy, conversation, sampling, mode, report)
    yield from guarded.run()
    return report


@dataclass(slots=True)
class _Converse:
    """The locals of one conversation; nothing here outlives the call."""

    policy: Policy
    conversation: Conversation
    sampling: Sampling
    mode: Mode
    report: Report
    said: str = ""
    """Everything emitted, to recognise the turn later."""
    partial: bool = False
    """A part of what the caller asks for is forbidden; every candidate is told."""

    def run(self) -> Flow[None]:
        admission = yield from screen_input(self.policy, self.conversation, self.report)
        if admission == "refuse":
            yield from self._refuse()
            return
        self.partial = admission == "partial"
        enforcement = self.policy.config.enforcement
        attempts = enforcement.attempts if enforcement.output == "regenerate" else 1
        broken: tuple[str, ...] | None = None
        for attempt in range(attempts):
            self.report.candidates += 1
            request = self._request(attempt, broken)
            finish = yield from _Candidate(self, request).run()
            if finish is not None:
                yield from self._end(finish)
                return
            if self.report.released:
                break  # what is out cannot be taken back, so no fresh candidate can replace it
            ruling = self.report.last("output")
            if ruling is not None and (ruling.decision.floor or ruling.error):
                break
            broken = ruling.decision.rules if ruling and ruling.outcome == "violates" else ()
            self.report.act = "regenerate"
        yield from self._refuse()

    def _request(self, attempt: int, broken: tuple[str, ...] | None) -> Request:
        sampling = self.sampling
        if broken is not None:
            # Greedy decoding would write much the same again.
            sampling = replace(
                sampling, temperature=max(sampling.temperature, 0.7), seed=(sampling.seed or 0) + attempt
            )
        system = system_text(self.policy, self.conversation, partial=self.partial, broken=broken)
        messages = (Message("system", system), *self.conversation.turns)
        return Request(messages=messages, sampling=sampling, adapters=self.policy.adapters, scope=self.policy.tenant)

    def emit(self, text: str) -> Flow[None]:
        self.said += text
        yield from Emit(Delta(text))

    def _refuse(self) -> Flow[None]:
        self.report.act = "refuse"
        lead = "\n\n" if self.said else ""
        kind: Kind = "refusal" if not self.said else "reply"
        yield from self.emit(lead + self.policy.config.refusal.message.strip())
        self.policy.own.remember(self.policy.tenant, self.conversation.raw, self.said, kind)
        yield from Emit(Delta("", tokens=0, finish="content_filter"))

    def _end(self, finish: Finish) -> Flow[None]:
        self.policy.own.remember(self.policy.tenant, self.conversation.raw, self.said, "reply")
        yield from Emit(Delta("", tokens=0, finish=finish))


class _Candidate:
    """One generation, judged as it is written."""

    def __init__(self, parent: _Converse, request: Request) -> None:
        self._parent = parent
        self._request = request
        self._channel = Channel(parent.policy, parent.conversation.turns, parent.mode, parent.report)
        self._finish: Finish = "stop"

    def run(self) -> Flow[Finish | None]:
        """Generate and release; how the reply ended, or None when it was stopped."""
        yield from Open(self._request)
        channel, ended = self._channel, False
        while (oldest := channel.oldest) or not ended:
            if oldest and (ended or oldest.ready or channel.crowded):
                passed = yield from channel.settle()
                if not passed:
                    yield from Close()
                    return None
            else:
                answer = yield from (Pull(oldest) if oldest else _PULL)
                if answer is READY:
                    continue
                delta = cast("Delta | None", answer)
                ended = delta is None
                if delta is not None:
                    self._finish = delta.finish or self._finish
                    self._parent.report.tokens += delta.tokens
                yield from channel.take_in(delta.text if delta is not None else None)
            text = channel.text(channel.releasable)
            if text:
                yield from self._parent.emit(text)
        yield from Close()
        return self._finish
