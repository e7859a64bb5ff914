"""Any OpenAI-compatible server as a backend: vLLM (LoRA adapters by name), llama-server, vendors.

Blocking and awaited, over httpx. The two colours share all but the loop that reads the socket.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, closing
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from ipaddress import ip_address
from types import TracebackType
from typing import Any, Final, Self, TypeVar
from weakref import WeakKeyDictionary

import httpx

from cosa_guard.backends.base import Capabilities
from cosa_guard.backends.openai_call import Broken, Call, Failure, Target
from cosa_guard.backends.openai_request import MOST_LOGPROBS, Dialect, chat_body, count_body, score_body, served_model
from cosa_guard.backends.openai_stream import JSONReader, StreamReader, logprobs_of, prompt_tokens_of
from cosa_guard.messages import Delta, LogProbs, Request
from cosa_sdk.errors import BackendError, UnknownName, UsageError

__all__ = ["OpenAIHTTP", "make"]

T = TypeVar("T")
AnyClient = TypeVar("AnyClient", httpx.Client, httpx.AsyncClient)
_Kept = tuple[AsyncGenerator[httpx.AsyncClient, None], httpx.AsyncClient]

CONNECT_S: Final = 10.0
"""Most seconds for making a connection."""
_EXAMPLE: Final = "openai_http:http://127.0.0.1:8000/v1#model-name"
_HEADERS: Final = {"content-type": "application/json", "accept-encoding": "identity"}
_SILENT: Final = (httpx.ReadTimeout, httpx.WriteTimeout)
# A pool's limits would make requests wait for each other unseen; how many run at once is the front doors' business.
_LIMITS: Final = httpx.Limits(max_connections=None, max_keepalive_connections=32, keepalive_expiry=30.0)


class OpenAIHTTP:
    """A `Backend`, an `AsyncBackend` and a `Scorer`. Many threads and event loops may use it at the same time.

    `close` or `aclose` it, or use it in a `with` or `async with` statement. What it opened in an event loop is closed
    with that loop at the latest.

    Args:
        base_url: where `/chat/completions` is, such as `http://127.0.0.1:8000/v1`.
        model: the name that the server knows it by.
        api_key: sent as a bearer token; `""` sends none. By default `OPENAI_API_KEY` of the environment, to https
            addresses and to this machine only, and never beside a client of your own.
        timeout: seconds in which at least one event must come, and in which an answer that is not streamed must be
            there. Connecting takes at most 10 s of it. There is no limit on a whole reply that goes on.
        retries: further attempts after a refused connection, one that broke, 408, 429 and 5xx, as long as no text
            came; `Retry-After` is kept to where it is at most 30 s.
        adapters: what requests call a LoRA adapter, and the model name that the server serves it under.
        logprobs: the server gives `logprobs` with `top_logprobs`, for `next_logprobs`. Not assumed, since servers
            that do not know the fields ignore them.
        json_schema: the server keeps to `response_format` schemas.
        context: tokens that a prompt and its reply may take together, if known.
        client, async_client: your own, with your proxies, certificates, headers and time-outs; they stay open. With
            only one of them, only that colour works.

    Raises:
        UsageError: a bad address, key or option.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        api_key: str | None = None,
        timeout: float = 60.0,
        retries: int = 2,
        adapters: Mapping[str, str] | None = None,
        logprobs: bool = False,
        json_schema: bool = True,
        context: int | None = None,
        client: httpx.Client | None = None,
        async_client: httpx.AsyncClient | None = None,
    ) -> None:
        address = _address(base_url)
        if not model or not isinstance(model, str):
            raise UsageError(f"model={model!r}: name the model as the server knows it, such as {_EXAMPLE!r}")
        if not timeout > 0 or isinstance(timeout, bool):
            raise UsageError(f"timeout={timeout!r}: give seconds above 0")
        if type(retries) is not int or retries < 0:
            raise UsageError(f"retries={retries!r}: give a whole number from 0 on")
        for name, given, kind in (("client", client, httpx.Client), ("async_client", async_client, httpx.AsyncClient)):
            if given is not None and not isinstance(given, kind):
                raise UsageError(f"{name}= must be an httpx.{kind.__name__}, not a {type(given).__name__}")
        self._url = f"{address}/chat/completions"
        self._model = model
        self._served = dict(adapters or {})
        self.name = f"openai_http:{model}"
        self.capabilities = Capabilities(
            logprobs=logprobs, json_schema=json_schema, adapters=tuple(self._served), context=context
        )
        owned = client is None and async_client is None
        key = _key(api_key, address, from_environment=owned)
        self._headers = httpx.Headers(_HEADERS | ({"authorization": f"Bearer {key}"} if key else {}))
        theirs = [given.headers.get("authorization", "") for given in (client, async_client) if given is not None]
        secrets = [key, *(value.rpartition(" ")[2] for value in theirs)]
        self._target = Target(
            who=f"{self.name} at {address}",
            timeout=timeout,
            retries=retries,
            secrets=tuple(secret for secret in secrets if secret),
        )
        self._own: httpx.Client | None = None
        self._loops: _Clients | None = None
        if owned:
            options: dict[str, Any] = {
                "timeout": httpx.Timeout(timeout, connect=min(timeout, CONNECT_S)),
                "limits": _LIMITS,
                "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=())),  # requests share nothing
                "verify": httpx.create_ssl_context(),  # once: it reads all certificates
            }
            client = self._own = httpx.Client(**options)
            self._loops = _Clients(partial(httpx.AsyncClient, **options))
        self._client = client
        self._async_client = async_client
        self._closed = False

    def __repr__(self) -> str:
        return f"OpenAIHTTP({self._url.removesuffix('/chat/completions')!r}, model={self._model!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.aclose()

    def close(self) -> None:
        """Closes the blocking connections. May be called again; requests made later raise BackendError."""
        self._closed = True
        if self._own is not None:
            self._own.close()

    async def aclose(self) -> None:
        """As `close`, and closes this event loop's connections."""
        self.close()
        if self._loops is not None:
            await self._loops.close()

    def stream(self, request: Request) -> Iterator[Delta]:
        """See `Backend.stream`. The request is checked at once and sent when iteration begins.

        Closing the iterator closes the connection, on which the server stops generating.
        """
        return self._exchange(self._chat(request))

    def astream(self, request: Request) -> AsyncIterator[Delta]:
        """See `AsyncBackend.astream`; as `stream`. Cancelling closes the connection too."""
        return self._aexchange(self._chat(request))

    def next_logprobs(self, request: Request, *, top: int = MOST_LOGPROBS) -> LogProbs:
        """See `Scorer.next_logprobs`. The protocol shows 20 candidates at most; more are not an error.

        Raises:
            BackendError: the server failed, or gives no log-probabilities.
        """
        if type(top) is not int or top < 1:
            raise UsageError(f"top={top!r} must be a whole number from 1 on.")
        return logprobs_of(self._one(partial(score_body, request, self._model_for(request), top=top)), top)

    def count_tokens(self, request: Request) -> int:
        """See `Scorer.count_tokens`. Costs a request: the protocol counts only what it reads."""
        return prompt_tokens_of(self._one(partial(count_body, request, self._model_for(request))))

    def _model_for(self, request: Request) -> str:
        return served_model(request.adapters, self._model, self._served)

    def _chat(self, request: Request) -> Call[Delta]:
        body = partial(chat_body, request, self._model_for(request))
        body(Dialect())  # raises what is wrong with the request
        reader = partial(StreamReader, request.sampling.max_tokens, self._target.scrub)
        return Call(self._target, body, reader)

    def _one(self, body: Callable[[Dialect], Mapping[str, Any]]) -> dict[str, Any]:
        """A whole answer that is not streamed."""
        (answer,) = self._exchange(Call(self._target, body, JSONReader))
        return answer

    def _exchange(self, call: Call[T]) -> Iterator[T]:
        while True:
            client = self._usable(self._client, "client", "stream")
            failure: Failure
            try:
                request = client.build_request("POST", self._url, content=call.content(), headers=self._headers)
                with closing(client.send(request, stream=True, follow_redirects=False)) as response:
                    call.begin(response.status_code, response.headers, time.monotonic())
                    try:
                        for chunk in response.iter_raw():
                            if call.over:
                                break
                            yield from call.feed(chunk, time.monotonic())
                    except httpx.TransportError:
                        if not call.complete:
                            raise
                yield from call.end()
            except httpx.TransportError as error:
                failure = _broken(error)
            except Failure as error:
                failure = error
            else:
                return
            # Outside the handlers: what the client said may hold what the error must not show.
            time.sleep(call.again(failure, time.time()))

    async def _aexchange(self, call: Call[T]) -> AsyncGenerator[T, None]:
        own = await self._loops.get() if self._loops is not None and not self._closed else None
        while True:
            client = self._usable(own or self._async_client, "async_client", "astream")
            failure: Failure
            try:
                request = client.build_request("POST", self._url, content=call.content(), headers=self._headers)
                response = await client.send(request, stream=True, follow_redirects=False)
                async with aclosing(response):
                    call.begin(response.status_code, response.headers, time.monotonic())
                    try:
                        async for chunk in response.aiter_raw():
                            if call.over:
                                break
                            for piece in call.feed(chunk, time.monotonic()):
                                yield piece
                    except httpx.TransportError:
                        if not call.complete:
                            raise
                for piece in call.end():
                    yield piece
            except httpx.TransportError as error:
                failure = _broken(error)
            except Failure as error:
                failure = error
            else:
                return
            await asyncio.sleep(call.again(failure, time.time()))

    def _usable(self, client: AnyClient | None, option: str, verb: str) -> AnyClient:
        if self._closed or (client is not None and client.is_closed):
            raise BackendError(f"{self!r} was closed: make another")
        if client is None:
            raise UsageError(f"{self!r} was made without {option}=, which {verb} needs: give both clients, or neither")
        return client


class _Clients:
    """An `httpx.AsyncClient` for each event loop: its connections belong to the loop they were made in."""

    def __init__(self, make: Callable[[], httpx.AsyncClient]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._kept: WeakKeyDictionary[asyncio.AbstractEventLoop, _Kept] = WeakKeyDictionary()

    async def get(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        kept = self._kept.get(loop)
        if kept is None:
            keeper = self._keep(loop)
            kept = (keeper, await anext(keeper))
            with self._lock:  # every thread has a loop of its own
                for other in list(self._kept):
                    if other.is_closed():
                        del self._kept[other]
                self._kept[loop] = kept
        return kept[1]

    async def _keep(self, loop: asyncio.AbstractEventLoop) -> AsyncGenerator[httpx.AsyncClient, None]:
        """Holds a client; `asyncio.run` and its like end all async generators before they close the loop."""
        client = self._make()
        try:
            yield client
        finally:
            with self._lock:
                self._kept.pop(loop, None)
            await client.aclose()

    async def close(self) -> None:
        kept = self._kept.get(asyncio.get_running_loop())
        if kept is not None:
            await kept[0].aclose()


def _broken(error: httpx.TransportError) -> Broken:
    """In the system's words where it has any: the client's differ between the two colours."""
    if isinstance(error, _SILENT):
        return Broken("nothing came", silent=True)
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ConnectionError) and cause.errno:
            return Broken(os.strerror(cause.errno))
        if isinstance(cause, OSError) and cause.strerror:
            return Broken(cause.strerror)
        cause = cause.__cause__ or cause.__context__
    return Broken("no connection in time" if isinstance(error, httpx.ConnectTimeout) else str(error) or "it was closed")


def _address(base_url: str) -> str:
    """The base URL, checked.

    Raises:
        UsageError: it is none, or holds what does not belong there. The message does not repeat a password or query.
    """
    try:
        url = httpx.URL(base_url)
    except (httpx.InvalidURL, TypeError):
        raise UsageError(f"the base URL cannot be read as an address; give one such as {_EXAMPLE!r}") from None
    if url.userinfo or url.query or url.fragment:
        raise UsageError(
            f"the base URL of {url.host!r} has a user, a query or a fragment; give a key as api_key=, and other "
            "headers or parameters by client= and async_client="
        )
    if url.scheme not in {"http", "https"} or not url.host:
        raise UsageError(f"base URL {base_url!r} has no http:// or https:// address; give one such as {_EXAMPLE!r}")
    return str(url).rstrip("/")


def _key(given: str | None, address: str, *, from_environment: bool) -> str:
    """The API key; empty for none.

    Raises:
        UsageError: it cannot be sent. The message does not repeat it.
    """
    key = given
    if key is None:
        url = httpx.URL(address)
        private = url.scheme == "https" or _is_here(url.host)
        key = os.environ.get("OPENAI_API_KEY", "") if from_environment and private else ""
    key = key.strip()
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise UsageError("the API key holds blanks or characters that no header may have; copy it again")
    return key


def _is_here(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def make(argument: str | None = None, **options: Any) -> OpenAIHTTP:
    """The backend for `BASE_URL#MODEL`, with arguments of `OpenAIHTTP` as options.

    Raises:
        UsageError: there is no address or no model in it.
        UnknownName: an option that is none.
    """
    base_url, _, model = (argument or "").partition("#")
    if not base_url or not (model or "model" in options):
        raise UsageError(f"the backend 'openai_http' needs an address and a model: {_EXAMPLE!r}")
    names = [name for name in inspect.signature(OpenAIHTTP).parameters if name != "base_url"]
    for name in options:
        if name not in names:
            raise UnknownName("option of the backend 'openai_http'", name, names)
    return OpenAIHTTP(base_url, **{"model": model, **options})
