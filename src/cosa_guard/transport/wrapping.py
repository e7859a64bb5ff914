"""`wrap`: an SDK's client, guarded, with the type that it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from cosa_guard.exchange import Guarded
from cosa_guard.transport import anthropic_sdk, langchain_sdk, openai_sdk
from cosa_guard.transport.families import AUTH, family_of, senders
from cosa_guard.transport.guarded import GuardTransport
from cosa_guard.verdicts import Report
from cosa_sdk.errors import UsageError

__all__ = ["wrap"]

ClientT = TypeVar("ClientT")
_SDKS = {"openai": openai_sdk, "anthropic": anthropic_sdk}
_LANGCHAIN = "langchain_openai"


def wrap(
    guard: Guarded,
    client: ClientT,
    *,
    passthrough: Sequence[str] = (),
    on_report: Callable[[Report], None] | None = None,
) -> ClientT:
    """A client of the same class whose requests go through the guard and then through the given client.

    The caller's proxies, TLS, limits, hooks, time-outs and retries stay: the given client's own HTTP client sends.
    Closing the wrapped client closes it. Of a LangChain chat model all its clients are guarded.

    Args:
        passthrough: ends of paths that go through unguarded, such as `/embeddings`.
        on_report: called with the report of each call when it has ended.

    Raises:
        UsageError: it is neither a client of the openai or anthropic package nor a LangChain chat model around one.
    """
    named = [kind.__module__.partition(".")[0] for kind in type(client).__mro__]
    if _LANGCHAIN in named:
        guarded_model: ClientT = langchain_sdk.with_guarded_clients(
            client, lambda one: wrap(guard, one, passthrough=passthrough, on_report=on_report)
        )
        return guarded_model
    sdk = next((_SDKS[name] for name in named if name in _SDKS), None)
    if sdk is None or isinstance(client, type):
        shown = client if isinstance(client, type) else type(client)
        raise UsageError(
            f"wrap({shown.__module__}.{shown.__qualname__}): give a client of the openai or anthropic package, "
            "such as OpenAI(), or LangChain's ChatOpenAI(). For another HTTP client there is GuardTransport"
        )
    http = sdk.http_client(client)
    awaits, around = senders(family_of(http))
    inner: Any = _AsyncSender(http) if isinstance(http, awaits) else _Sender(http)
    transport = GuardTransport(guard, inner, passthrough=passthrough, on_report=on_report)
    guarded: ClientT = sdk.with_http_client(client, around(http, transport))
    return guarded


class _Sender:
    """An HTTP client as a transport: what it is set up to do with a request, it does."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def handle_request(self, request: Any) -> Any:
        return self._client.send(request, stream=True, follow_redirects=False, **_auth(request))


class _AsyncSender:
    """As `_Sender`, awaiting."""

    def __init__(self, client: Any) -> None:
        self._client = client

    async def handle_async_request(self, request: Any) -> Any:
        return await self._client.send(request, stream=True, follow_redirects=False, **_auth(request))


def _auth(request: Any) -> dict[str, Any]:
    return {"auth": request.extensions.pop(AUTH)} if AUTH in request.extensions else {}
