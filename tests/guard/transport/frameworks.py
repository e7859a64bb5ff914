"""LangChain's and pydantic-ai's models with the face of the SDKs' protocols, so that the same scenarios run on them."""

from __future__ import annotations

import asyncio
import functools
import operator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest
from tests.guard.transport.clients import Chat, Messages, Responses, Said, every, major, needs, settled


@dataclass
class Opened:
    """A framework's model, and how it is called."""

    model: Any
    awaited: bool
    run: Any = None
    """Calls a blocking function where no event loop runs."""


def family():
    """The HTTP clients of the installed openai."""
    return pytest.importorskip("httpx2" if major("openai") >= 3 else "httpx")


class _LangChain:
    """`ChatOpenAI`."""

    framework = True

    @asynccontextmanager
    async def opened(self, awaited, url, wrap=lambda client: client, **options):
        from langchain_openai import ChatOpenAI

        # Its own clients are shared by all models with one address, and live as long as the process.
        blocking, awaiting = family().Client(), family().AsyncClient()
        settings = {"model": "m", "api_key": "sk-mine", "max_retries": 0, "use_responses_api": self.path == "/responses"}
        model = ChatOpenAI(base_url=url, http_client=blocking, http_async_client=awaiting, **{**settings, **options})
        try:
            yield Opened(wrap(model), awaited)
        finally:
            blocking.close()
            await awaiting.aclose()

    async def whole(self, client, text="Hi.", **fields):
        model = self.with_tools(client.model, fields)
        return self.read(await settled((model.ainvoke if client.awaited else model.invoke)(text, **fields)))

    async def streamed(self, client, text="Hi.", **fields):
        model = self.with_tools(client.model, fields)
        chunks = await every((model.astream if client.awaited else model.stream)(text, **fields))
        return self.read(functools.reduce(operator.add, chunks), chunks)

    @staticmethod
    def with_tools(model, fields):
        return model.bind_tools(fields.pop("tools")) if "tools" in fields else model

    @staticmethod
    def read(message, raw=None):
        metadata = message.response_metadata
        why = (metadata.get("incomplete_details") or {}).get("reason") or metadata.get("finish_reason") or metadata.get("status")
        return Said(message.text, why, raw or message, [(call["name"], call["args"]) for call in message.tool_calls])


class LangChainChat(_LangChain, Chat):
    name, sdk = "langchain-chat", "langchain_openai"


class LangChainResponses(_LangChain, Responses):
    name, sdk = "langchain-responses", "langchain_openai"


class _PydanticAI:
    """An agent."""

    framework = True

    @asynccontextmanager
    async def opened(self, awaited, url, wrap=lambda client: client, model="m", **options):
        client = wrap(self.client(True, url, **options))
        if awaited:
            async with client:
                yield Opened(self.model(client, model), awaited)
            return
        with ThreadPoolExecutor(1) as thread:
            run = functools.partial(asyncio.get_running_loop().run_in_executor, thread)
            runner = asyncio.Runner()
            await run(runner.get_loop)
            try:
                yield Opened(self.model(client, model), awaited, run)
            finally:
                await run(runner.run, client.close())
                await run(runner.close)

    async def whole(self, client, text="Hi.", **options):
        agent, calls = self.agent(client.model, **options)
        result = await self.run(client, agent, text)
        return Said(result.output, result.response.finish_reason, result, calls)

    async def streamed(self, client, text="Hi.", **options):
        agent, calls = self.agent(client.model, **options)
        if client.awaited:
            async with agent.run_stream(text) as result:
                pieces = await every(result.stream_text(delta=True, debounce_by=None))
        else:
            result, pieces = await client.run(self.streamed_blocking, agent, text)
        return Said("".join(pieces), result.response.finish_reason, result, calls)

    @staticmethod
    def run(client, agent, text, **options):
        if client.awaited:
            return agent.run(text, **options)
        return client.run(functools.partial(agent.run_sync, text, **options))

    @staticmethod
    def streamed_blocking(agent, text):
        result = agent.run_stream_sync(text)
        return result, [*result.stream_text(delta=True, debounce_by=None)]

    @staticmethod
    def agent(model, tools=(), found="Nothing.", **options):
        """An agent, with the tool `look` where tools are given, and the list of its calls."""
        from pydantic_ai import Agent

        calls = []

        async def look(q: str) -> str:  # a plain function would run in a thread that outlives the call
            calls.append(("look", {"q": q}))
            return found

        return Agent(model, tools=[look] if tools else [], **options), calls


class PydanticChat(_PydanticAI, Chat):
    name, sdk = "pydantic-chat", "pydantic_ai"

    @staticmethod
    def model(client, name):
        from pydantic_ai.models.openai import OpenAIChatModel
        from pydantic_ai.providers.openai import OpenAIProvider

        return OpenAIChatModel(name, provider=OpenAIProvider(openai_client=client))


class PydanticResponses(_PydanticAI, Responses):
    name, sdk = "pydantic-responses", "pydantic_ai"

    @property
    def refused_stream(self):
        """Version 1 does not read why a streamed response is incomplete."""
        from pydantic_ai import __version__

        return None if __version__.startswith("1.") else self.refused

    @staticmethod
    def model(client, name):
        from pydantic_ai.models.openai import OpenAIResponsesModel
        from pydantic_ai.providers.openai import OpenAIProvider

        return OpenAIResponsesModel(name, provider=OpenAIProvider(openai_client=client))


class PydanticMessages(_PydanticAI, Messages):
    name, sdk = "pydantic-messages", "pydantic_ai"
    refused = "content_filter"

    @staticmethod
    def model(client, name):
        from pydantic_ai.models.anthropic import AnthropicModel
        from pydantic_ai.providers.anthropic import AnthropicProvider

        return AnthropicModel(name, provider=AnthropicProvider(anthropic_client=client))


def params(*faces):
    return [pytest.param(one, id=one.name, marks=needs(one.sdk)) for one in faces]


LANGCHAIN_CHAT = LangChainChat()
LANGCHAIN = params(LANGCHAIN_CHAT, LangChainResponses())
PYDANTIC = params(PydanticChat(), PydanticResponses(), PydanticMessages())
FRAMEWORKS = [*LANGCHAIN, *PYDANTIC]
every_framework = pytest.mark.parametrize("protocol", FRAMEWORKS)
