"""User code that must type-check under mypy --strict: the public types are a tested feature."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import assert_type

import anthropic
import httpx
import httpx2
import openai
from langchain_openai import ChatOpenAI

import cosa_sdk
from cosa_guard import Capabilities, Case, Delta, Guard, GuardStream, Reply, Report, Request, Ruling, Verdict, judges
from cosa_guard.transport import GuardTransport
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

# A guarded client has the type that it had, and so has everything that it gives.
client = guard.wrap(openai.OpenAI())
assert_type(client, openai.OpenAI)
assert_type(client.chat.completions.create(model="m", messages=[]).choices[0].message.content, str | None)
assert_type(guard.wrap(openai.AsyncOpenAI(), passthrough=["/embeddings"]), openai.AsyncOpenAI)
reports: list[Report] = []
assert_type(guard.wrap(openai.AzureOpenAI(), on_report=reports.append), openai.AzureOpenAI)
assert_type(guard.wrap(anthropic.Anthropic()), anthropic.Anthropic)
assert_type(guard.wrap(anthropic.AsyncAnthropic()), anthropic.AsyncAnthropic)
assert_type(guard.wrap(ChatOpenAI(model="m")), ChatOpenAI)
httpx.Client(transport=GuardTransport(guard, httpx.HTTPTransport()))
httpx.AsyncClient(transport=GuardTransport(guard, httpx.AsyncHTTPTransport()))
httpx2.Client(transport=GuardTransport(guard, httpx2.HTTPTransport()))
httpx2.AsyncClient(mounts={"https://": GuardTransport(guard, httpx2.AsyncHTTPTransport())})


async def main() -> None:
    """The awaited forms."""
    assert_type(await guard.acheck("hello"), Ruling)
    assert_type(await guard.areply("hello"), Reply)
    async with guard.astream("hello") as stream:
        async for piece in stream:
            assert_type(piece, Delta)
