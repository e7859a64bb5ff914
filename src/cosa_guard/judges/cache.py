"""A bounded memory of verdicts, so that the same question is not paid for twice.

The key is a hash of everything that a verdict depends on: who judges, with which thresholds and wording, under which
config, for whom, and the whole case. 'Yes, that works.' is not one verdict for all questions.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from cosa_guard.judges.base import AnyJudge, AsyncJudge, blocks
from cosa_guard.verdicts import Case, Stage, Verdict
from cosa_sdk.compile import VERSION
from cosa_sdk.config import SafetyConfig
from cosa_sdk.decide import decide
from cosa_sdk.errors import UsageError

__all__ = ["Cached", "key"]

_FORM = "cosa-verdict/1"


def key(judge: AnyJudge, case: Case, *, tenant: str = "") -> bytes:
    """SHA-256 of what a verdict depends on; every part stands behind its length, so no two cases share an encoding."""
    own: Callable[[Stage], str] | None = getattr(judge, "fingerprint", None)
    parts: list[str] = [
        _FORM,
        tenant,
        judge.name,
        own(case.stage) if own else str(getattr(judge, "operating_point", "")),
        f"judge/{VERSION}",
        case.config.digest,
        case.stage,
        case.text,
        str(case.start),
        str(case.final),
        str(len(case.turns)),
    ]
    for turn in case.turns:
        parts += [turn.role, turn.content, str(len(turn.media)), *turn.media]
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.digest()


class Cached:
    """A judge that remembers its verdicts; the least recently used ones are forgotten first.

    Only settled verdicts are kept: a violation, or all that the judge covers examined. What is undecided or failed is
    asked again. Threads and tasks may share it. It has `judge`, `ajudge` or both, as the judge inside has.

    Args:
        judge: asked where nothing is remembered.
        size: most verdicts kept.
        tenant: part of every key. Give each tenant its own, so that none learns by time what another asked.

    Raises:
        UsageError: the size is not a positive whole number.
    """

    judge: Callable[[Case], Verdict]
    """The verdict, remembered or new."""
    ajudge: Callable[[Case], Coroutine[Any, Any, Verdict]]
    """As `judge`, awaiting."""

    def __init__(self, judge: AnyJudge, *, size: int = 10_000, tenant: str = "") -> None:
        if type(size) is not int or size < 1:
            raise UsageError(f"size={size!r}: give the most verdicts to keep, from 1 on")
        self._inner = judge
        self._size = size
        self._tenant = tenant
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, Verdict] = OrderedDict()
        self.hits = 0
        self.misses = 0
        self.evictions = 0
        self.name = judge.name
        self.inline = judge.inline
        self.reach: int | None = getattr(judge, "reach", None)
        self.windowed: bool = getattr(judge, "windowed", False)
        self.timeout: float | None = getattr(judge, "timeout", None)
        if blocks(judge):
            self.judge = lambda case: self._judge(judge.judge, case)
        if isinstance(judge, AsyncJudge):
            self.ajudge = lambda case: self._ajudge(judge.ajudge, case)

    def __len__(self) -> int:
        return len(self._kept)

    def covers(self, config: SafetyConfig) -> frozenset[str]:
        """As the judge inside."""
        return self._inner.covers(config)

    def holdback(self, config: SafetyConfig) -> int:
        """As the judge inside."""
        return self._inner.holdback(config)

    def fingerprint(self, stage: Stage) -> str:
        """As the judge inside."""
        own: Callable[[Stage], str] | None = getattr(self._inner, "fingerprint", None)
        return own(stage) if own else str(getattr(self._inner, "operating_point", ""))

    def _judge(self, ask: Callable[[Case], Verdict], case: Case) -> Verdict:
        place = key(self, case, tenant=self._tenant)
        return self._found(place) or self._keep(place, case, ask(case))

    async def _ajudge(self, ask: Callable[[Case], Coroutine[Any, Any, Verdict]], case: Case) -> Verdict:
        place = key(self, case, tenant=self._tenant)
        return self._found(place) or self._keep(place, case, await ask(case))

    def _found(self, place: bytes) -> Verdict | None:
        with self._lock:
            verdict = self._kept.get(place)
            if verdict is None:
                self.misses += 1
                return None
            self.hits += 1
            self._kept.move_to_end(place)
        return replace(verdict, tokens=0)  # this time it cost none

    def _keep(self, place: bytes, case: Case, verdict: Verdict) -> Verdict:
        if self._settled(case, verdict):
            with self._lock:
                self._kept[place] = verdict
                self._kept.move_to_end(place)
                while len(self._kept) > self._size:
                    self._kept.popitem(last=False)
                    self.evictions += 1
        return verdict

    def _settled(self, case: Case, verdict: Verdict) -> bool:
        """Sound, and nothing in it is open. Nonsense is for the asker to refuse, not to remember."""
        if not isinstance(verdict, Verdict):
            return False
        evidence, known = verdict.evidence, case.config.elements
        said = evidence.found | evidence.examined
        settled = self.covers(case.config) <= said or decide(case.config, evidence).outcome == "violates"
        return said <= known and settled
