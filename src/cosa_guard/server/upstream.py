"""Talking to an upstream over HTTP, through aiohttp: the only place that imports it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cosa_guard.backends.base import Capabilities
from cosa_guard.exchange import Head, Outgoing
from cosa_guard.server.tenants import Upstream
from cosa_sdk.errors import BackendError, MissingExtra

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Client", "HttpUpstream", "UpstreamError", "listed", "reachable"]

_STREAMED = 16
"""How many times larger a stream may be than a whole answer: most of it is wrapping."""
ANTHROPIC_VERSION = "2023-06-01"


class UpstreamError(Exception):
    """An upstream failed before or during its answer. No `CosaError`: it passes through the guard untouched.

    Args:
        status: 502, or 504 where it took too long.
    """

    def __init__(self, message: str, status: int = 502) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """One pool of connections for all upstreams. Open it in the event loop that uses it.

    Raises:
        MissingExtra: aiohttp is not installed.
    """

    def __init__(self) -> None:
        if find_spec("aiohttp") is None:
            raise MissingExtra("the proxy", "serve")
        self._session: aiohttp.ClientSession | None = None

    @property
    def session(self) -> aiohttp.ClientSession:
        """The open session."""
        assert self._session is not None, "the client is not open"
        return self._session

    async def open(self) -> None:
        """Start the pool."""
        import aiohttp  # noqa: PLC0415  # an extra

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60),
            cookie_jar=aiohttp.DummyCookieJar(),  # one tenant's cookies would go out with another's requests
            trust_env=False,
            auto_decompress=False,  # nothing compressed is asked for, and unpacking has no bound
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            await asyncio.sleep(0)  # the sockets close in the next round of the loop


def _fixed_headers(settings: Upstream, secret: str | None) -> dict[str, str]:
    """All that an upstream is told in headers: nothing of a client's request, and the upstream's own key."""
    headers = {"content-type": "application/json", "accept-encoding": "identity", "user-agent": "cosa"}
    if settings.kind == "anthropic":
        headers["anthropic-version"] = ANTHROPIC_VERSION
    if secret is not None and settings.kind == "anthropic":
        headers["x-api-key"] = secret
    elif secret is not None:
        headers["authorization"] = f"Bearer {secret}"
    return headers


class HttpUpstream:
    """An upstream as the guard's backend: `astream(outgoing)`.

    Sends a fixed set of headers with the upstream's own key: nothing of a client's request but the body that the guard
    wrote anew. Follows no redirects, keeps no cookies, reads no proxy settings.
    """

    capabilities = Capabilities()

    def __init__(self, settings: Upstream, secret: str | None, client: Client) -> None:
        self.name = f"{settings.kind}:{settings.name}"
        self._settings = settings
        self._client = client
        self._base = str(settings.url).rstrip("/")
        # Compressed answers could grow beyond all measure when unpacked.
        self._headers = _fixed_headers(settings, secret)
        self._timeout: aiohttp.ClientTimeout | None = None

    async def astream(self, outgoing: Outgoing) -> AsyncGenerator[Head | bytes, None]:
        """Send it; the head of the answer, then its body as it comes. Closing this closes the connection.

        Raises:
            UpstreamError: there is no connection, it broke, or the next piece takes too long.
        """
        import aiohttp  # noqa: PLC0415  # as above

        if self._timeout is None:
            connect, read = self._settings.connect_seconds, self._settings.read_seconds
            self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=connect, sock_read=read)
        try:
            async with self._client.session.post(
                self._base + outgoing.path, data=outgoing.body, headers=self._headers, allow_redirects=False,
                timeout=self._timeout,
            ) as answer:  # fmt: skip
                yield Head(answer.status, tuple(answer.headers.items()))
                most = self._settings.answer_bytes * (_STREAMED if outgoing.stream else 1)
                if (answer.content_length or 0) > most:
                    raise self._too_large()
                if answer.content_length is not None and not outgoing.stream:
                    yield await answer.read()
                    return
                async for piece in answer.content.iter_any():
                    most -= len(piece)
                    if most < 0:
                        raise self._too_large()
                    yield piece
        except TimeoutError:  # aiohttp's own are subclasses
            raise UpstreamError(f"upstream {self._settings.name!r} was silent for too long", 504) from None
        except (aiohttp.ClientError, OSError) as error:
            # Their texts name addresses, and may quote what could not be read.
            raise UpstreamError(f"upstream {self._settings.name!r} failed: {type(error).__name__}") from None

    def _too_large(self) -> UpstreamError:
        return UpstreamError(f"upstream {self._settings.name!r} sent more than its answer_bytes allow")


async def reachable(settings: Upstream, seconds: float = 2.0) -> bool:
    """Somebody listens at the upstream's address."""
    if settings.url is None:
        return True
    parts = urlsplit(settings.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()
    return True


async def listed(settings: Upstream, secret: str | None) -> tuple[str, ...]:
    """Names of the models that an OpenAI-compatible upstream has.

    Raises:
        BackendError: it does not say.
    """
    client = Client()
    await client.open()
    try:
        headers = {"authorization": f"Bearer {secret}"} if secret else {}
        url = f"{str(settings.url).rstrip('/')}/models"
        async with client.session.get(url, headers=headers, allow_redirects=False) as answer:
            body: Any = await answer.json(content_type=None)
        return tuple(str(model["id"]) for model in body["data"])
    except Exception as error:  # noqa: BLE001  # whatever it answered, it is no list of models
        said = f"upstream {settings.url!r} does not list its models ({type(error).__name__}): name them with --model"
        raise BackendError(said) from None
    finally:
        await client.close()
