"""User code that must type-check under mypy --strict: the public types are a tested feature."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import cosa_sdk
from cosa_guard import Capabilities, Case, Delta, Guard, GuardStream, Reply, Report, Request, Ruling, Verdict, judges
from cosa_sdk import Compiled, Decision, Evidence, Rule, SafetyConfig, Term, presets

config = SafetyConfig(
    name="typed",
    rules=(Rule(stance="allow", risk="violence"), Rule(id="names", stance="forbid", terms=(Term(phrase="Acme"),))),
)
assert_type(config.digest, str)
assert_type(config.replace(version=2), SafetyConfig)
assert_type(presets.load("film-studio"), SafetyConfig)
assert_type(cosa_sdk.compile(config, "judge"), Compiled)
assert_type(cosa_sdk.decide(config, Evidence()), Decision)


class Echo:
    """A user's backend."""

    name = "echo"
    capabilities = Capabilities()

    def stream(self, request: Request) -> Iterator[Delta]:
        yield Delta(request.messages[-1].content, finish="stop")


class AsyncEcho:
    """A user's backend that is awaited."""

    name = "aecho"
    capabilities = Capabilities()

    async def astream(self, request: Request) -> AsyncIterator[Delta]:
        yield Delta(request.messages[-1].content, finish="stop")


def silent(case: Case) -> Verdict:
    """A user's judge."""
    return Verdict(judge="silent/1", evidence=Evidence(examined=case.config.elements))


guard = Guard(config, judge=["rules", silent], backend=Echo())
Guard(config, judge=judges.make("rules"), backend=AsyncEcho(), accept_unexamined=True)
assert_type(guard.check("hello"), Ruling)
assert_type(guard.reply([{"role": "user", "content": "hello"}]), Reply)
assert_type(guard.stream("hello"), GuardStream)
assert_type(guard.reply("hello").report, Report)


async def main() -> None:
    """The awaited forms."""
    assert_type(await guard.acheck("hello"), Ruling)
    assert_type(await guard.areply("hello"), Reply)
    async with guard.astream("hello") as stream:
        async for piece in stream:
            assert_type(piece, Delta)
