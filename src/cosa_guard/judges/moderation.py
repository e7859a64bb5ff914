"""The `moderation` judge: an OpenAI-compatible moderation endpoint, its categories mapped to ours.

`POST {url}/moderations` with `input` and `model`; one result must come back, with every category it flags known.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

from cosa_guard.judges.guard_models.categories import categories, coverage, evidence
from cosa_guard.judges.model import once
from cosa_guard.verdicts import Case, Verdict
from cosa_sdk.config import SafetyConfig
from cosa_sdk.errors import JudgeError, UsageError
from cosa_sdk.taxonomy import from_external

__all__ = ["Moderation", "make"]

TIMEOUT = 10.0
"""Seconds for one case; the endpoint usually takes less than one."""
REACH = 24_000
"""Most characters of a conversation that are sent."""
HOLDBACK = 40
"""Characters, about ten tokens: what makes a sentence bad may be its last word."""
_LARGEST = 1_000_000
"""Bytes of an answer; a real one has about two thousand."""
_TABLE = "openai-moderation"
_URL = "https://api.openai.com/v1"
_LOCAL = {"127.0.0.1", "::1", "localhost"}


class Moderation:
    """A moderation endpoint. Many threads and event loops may use it; `close` it when no more is to come.

    Args:
        url: where `/moderations` is, such as `http://127.0.0.1:8080/v1`; OpenAI's by default.
        model: the name that the server knows it by.
        key: sent as a bearer token, `""` sends none. By default `OPENAI_API_KEY` of the environment, to https
            addresses and to this machine only.
        timeout: seconds for one case.

    Raises:
        UsageError: a bad address, key or time-out.
    """

    inline = False
    reach = REACH

    def __init__(
        self,
        url: str = _URL,
        *,
        model: str = "omni-moderation-latest",
        key: str | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        import httpx  # noqa: PLC0415  # keeps `import cosa_guard` light

        if not timeout > 0:
            raise UsageError(f"timeout={timeout!r}: give a positive number of seconds")
        self._httpx = httpx
        self._url = f"{_address(httpx, url)}/moderations"
        self._headers = {"accept-encoding": "identity", **_authorization(httpx, url, key)}
        self._model = model
        self._client: httpx.Client = httpx.Client(timeout=timeout)
        self._verify = httpx.create_ssl_context()
        self.timeout = timeout
        self.name = f"moderation/1:{model}"

    def __repr__(self) -> str:
        return f"Moderation({self._url.removesuffix('/moderations')!r}, model={self._model!r})"

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def covers(self, config: SafetyConfig) -> frozenset[str]:
        """Five risks and the floor's minors; not privacy, not mass harm, not `other`, of which it knows little."""
        return coverage(_TABLE) & config.elements

    def holdback(self, config: SafetyConfig) -> int:  # noqa: ARG002  # the same for every config
        """About ten tokens."""
        return HOLDBACK

    def judge(self, case: Case) -> Verdict:
        """Ask the endpoint.

        Raises:
            JudgeError: it could not be reached, refused, or answered something else than a moderation result.
        """
        try:
            with self._client.stream("POST", self._url, json=self._body(case), headers=self._headers) as answer:
                return self._verdict(case, answer.status_code, _bounded(answer.iter_bytes()))
        except self._httpx.HTTPError as error:
            raise JudgeError(f"{self.name} at {self._url}: {type(error).__name__}") from None

    async def ajudge(self, case: Case) -> Verdict:
        """As `judge`, awaiting."""
        options: dict[str, Any] = {"timeout": self.timeout, "verify": self._verify}
        try:
            async with (
                self._httpx.AsyncClient(**options) as client,  # its connections belong to one event loop
                client.stream("POST", self._url, json=self._body(case), headers=self._headers) as answer,
            ):
                return self._verdict(case, answer.status_code, await _abounded(answer.aiter_bytes()))
        except self._httpx.HTTPError as error:
            raise JudgeError(f"{self.name} at {self._url}: {type(error).__name__}") from None

    def _body(self, case: Case) -> dict[str, str]:
        text = case.text
        if case.stage == "input":  # earlier turns are the caller's, and judged too
            text = "\n\n".join([*(turn.content for turn in case.turns), text])
        return {"input": text, "model": self._model}

    def _verdict(self, case: Case, status: int, body: bytes) -> Verdict:
        if status != 200:  # noqa: PLR2004  # HTTP's OK
            raise JudgeError(f"{self.name} at {self._url} answered HTTP {status}")
        flags, scores = _result(body)
        flagged = [category for category, flag in flags.items() if flag]
        unsure = [category for category in categories(_TABLE) if flags.get(category) is None]
        risks: dict[str, float] = {}
        for category, p in scores.items():
            ours = from_external(_TABLE, category) if category in flags else ()
            if len(ours) == 1:
                risks[ours[0]] = max(p, risks.get(ours[0], 0.0))
        return Verdict(
            judge=self.name,
            evidence=evidence(_TABLE, case.config, flagged, unsure=unsure),
            risks=risks,
            reason=", ".join(sorted(flagged)) or "nothing flagged",
        )


def _bounded(chunks: Iterator[bytes]) -> bytes:
    body = bytearray()
    for chunk in chunks:
        body += chunk
        if len(body) > _LARGEST:
            raise _malformed("is larger than any moderation result")
    return bytes(body)


async def _abounded(chunks: AsyncIterator[bytes]) -> bytes:
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > _LARGEST:
            raise _malformed("is larger than any moderation result")
    return bytes(body)


def _result(body: bytes) -> tuple[dict[str, bool | None], dict[str, float]]:
    """Flags by known category (None: not looked for) and scores by category."""
    try:
        parsed = json.loads(body, object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise _malformed("is not JSON") from None
    results = parsed.get("results") if isinstance(parsed, dict) else None
    if not isinstance(results, list) or len(results) != 1 or not isinstance(results[0], dict):
        raise _malformed("has not exactly one result")
    flagged, flags, scores = (results[0].get(name) for name in ("flagged", "categories", "category_scores"))
    if not isinstance(flags, dict) or not flags or any(type(flag) not in {bool, type(None)} for flag in flags.values()):
        raise _malformed("has no object of categories, true, false or null")
    if type(flagged) is not bool or flagged != any(flags.values()):
        raise _malformed("says flagged otherwise than its categories")
    known = categories(_TABLE)
    for category, flag in flags.items():
        if flag and category not in known:
            raise _malformed(f"flags the unknown category {category[:40]!r}")
    return {category: flag for category, flag in flags.items() if category in known}, _scores(scores, known)


def _scores(scores: Any, known: frozenset[str]) -> dict[str, float]:
    """Scores only inform: without them a result still counts."""
    if scores is None:
        return {}
    if not isinstance(scores, dict) or any(
        type(p) not in {int, float, type(None)} or not 0 <= (p or 0) <= 1 for p in scores.values()
    ):
        raise _malformed("has category scores that are no probabilities")
    return {category: float(p) for category, p in scores.items() if category in known and p is not None}


def _malformed(how: str) -> JudgeError:
    return JudgeError(f"the moderation endpoint's answer {how}")


def _address(httpx: Any, url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        parsed = httpx.URL("")
    if parsed.scheme not in {"http", "https"} or not parsed.host or parsed.userinfo or parsed.query or parsed.fragment:
        raise UsageError(
            "the moderation endpoint's address must be http:// or https://, with no user, query or fragment in it, "
            "such as moderation:http://127.0.0.1:8080/v1"
        )
    return str(parsed).rstrip("/").removesuffix("/moderations")


def _authorization(httpx: Any, url: str, key: str | None) -> dict[str, str]:
    parsed = httpx.URL(url)
    if key is None:
        private = parsed.scheme == "https" or parsed.host in _LOCAL
        key = os.environ.get("OPENAI_API_KEY", "") if private else ""
    key = key.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError("the API key holds blanks or characters that no header may have; copy it again")
    return {"authorization": f"Bearer {key}"} if key else {}


def make(
    argument: str | None = None,
    *,
    model: str = "omni-moderation-latest",
    key: str | None = None,
    timeout: float = TIMEOUT,
) -> Moderation:
    """The judge for the names `moderation` and `moderation:<url>`, or `moderation:<url>#<model>`."""
    url, _, named = (argument or _URL).partition("#")
    return Moderation(url, model=named or model, key=key, timeout=timeout)
