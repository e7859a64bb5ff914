"""The proxy as an ASGI application: routes by exact path, no framework in between."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cosa_guard.server import checking, guarded, openapi, tenants
from cosa_guard.server.errors import Dialect, HttpError, body_of
from cosa_guard.server.log import RequestLog, place_of
from cosa_guard.server.metrics import CONTENT_TYPE, Metrics
from cosa_guard.server.requests import Receive, Send, authenticated, presented_key, read_headers
from cosa_guard.server.site import Runtime, Site
from cosa_guard.server.upstream import Client, reachable
from cosa_sdk.errors import CosaError

__all__ = ["App", "Route"]

READY_SECONDS = 5.0
"""How long an answer about the upstreams counts: whoever asks more often costs them nothing."""
RELOAD_SECONDS = 2.0
_ANTHROPIC = b"/v1/messages"
"""Below it Anthropic's clients read the errors."""

Handler = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]
Answer = tuple[int, str, bytes]


@dataclass(frozen=True, slots=True)
class Route:
    """One path, its one method and what answers it."""

    method: str
    answer: Handler


class App:
    """Serves one site after the other.

    Args:
        site: what is served first.
        runtime: what outlives reloads.
        client: the pool of upstream connections; opened and closed with the application.
        reload: makes the next site when a watched file changed, off the event loop.
        workers: how many processes serve; state that one process holds is refused with more than one.
    """

    def __init__(
        self,
        site: Site,
        runtime: Runtime,
        client: Client,
        *,
        reload: Callable[[], Site] | None = None,
        workers: int = 1,
        log: RequestLog | None = None,
    ) -> None:
        self.site = site
        self.runtime = runtime
        self.workers = workers
        self.metrics = Metrics()
        self.log = log or RequestLog()
        self.draining = False
        self._client = client
        self._make = reload
        self._poller: asyncio.Task[None] | None = None
        self._reloading = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._ready: tuple[float, bool] = (-READY_SECONDS, False)
        self.routes: dict[bytes, Route] = {
            **{
                f"/v1{route.path}".encode(): Route("POST", partial(guarded.serve, self, route))
                for route in guarded.ROUTES
            },
            b"/v1/cosa/check": Route("POST", partial(checking.serve, self)),
            b"/v1/models": Route("GET", self._plain(self._models)),
            b"/healthz": Route("GET", self._plain(self._health)),
            b"/readyz": Route("GET", self._plain(self._readiness)),
            b"/metrics": Route("GET", self._plain(self._metrics)),
            b"/openapi.json": Route("GET", self._plain(self._openapi)),
        }

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """ASGI's entry point."""
        if scope["type"] == "http":
            # Compared as it was sent: a path that is written differently is another path.
            route = self.routes.get(scope.get("raw_path", b""))
            if route is not None and scope["method"] == route.method:
                await route.answer(scope, receive, send)
            else:
                await self._nowhere(route, scope, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:  # WebSockets: the guard cannot see into them
            await send({"type": "websocket.close", "code": 1008})

    async def reload(self) -> bool:
        """Serve what the files say now; what was served before goes on where they are not valid."""
        if self._make is None:
            return False
        async with self._reloading:
            try:
                site = await asyncio.to_thread(self._make)
            except Exception as error:  # noqa: BLE001  # a judge's own, too: the old site and the polling must go on
                said = error if isinstance(error, CosaError | OSError) else place_of(error)
                self.metrics.reloads["failed"] += 1
                self.log.event(f"reload failed, serving what was served before: {said}")
                return False
            self.site = site
            self.runtime.retain(site)
            self.metrics.reloads["ok"] += 1
            self.log.event("reloaded")
            return True

    def drain(self) -> None:
        """Answer `/readyz` with 503 from now on."""
        self.draining = True

    async def close(self) -> None:
        """Close the connections to upstreams; again does no harm."""
        await self._client.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await self._client.open()
                if self._make is not None:
                    self._poller = asyncio.create_task(self._poll())
                await send({"type": "lifespan.startup.complete"})
            else:
                if self._poller is not None:
                    self._poller.cancel()
                self.runtime.close()
                await self._client.close()
                self.log.flush()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _poll(self) -> None:
        """Reload when a watched file is another one than before."""
        seen = _stamps(self.site)
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            now = _stamps(self.site)
            if any(seen.get(path, stamp) != stamp for path, stamp in now.items()):
                await self.reload()
            seen = {**_stamps(self.site), **now}

    def _plain(self, make: Callable[[dict[str, Any]], Awaitable[Answer]]) -> Handler:
        """A route without a body to read."""

        async def answer(scope: dict[str, Any], _: Receive, send: Send) -> None:
            try:
                status, kind, body = await make(scope)
                headers: tuple[tuple[str, str], ...] = ()
            except Exception as error:  # noqa: BLE001  # whatever it is, the caller gets an error object
                said = guarded.as_http(error)
                if not isinstance(error, HttpError):
                    self.log.event(f"{scope['path']}: {error if isinstance(error, CosaError) else place_of(error)}")
                status, kind, body, headers = said.status, "application/json", body_of(said, "openai"), said.headers
            await _send(send, status, kind, body, headers)

        return answer

    async def _nowhere(self, route: Route | None, scope: dict[str, Any], send: Send) -> None:
        if route is None:
            said = "this proxy does not guard that route, so it does not serve it: GET /openapi.json lists its routes"
            error = HttpError(404, "unguarded_route", said)
        else:
            said = f"this route takes {route.method} only"
            error = HttpError(405, "method_not_allowed", said, headers=(("allow", route.method),))
        dialect: Dialect = "anthropic" if scope.get("raw_path", b"").startswith(_ANTHROPIC) else "openai"
        body = b"" if scope["method"] == "HEAD" else body_of(error, dialect)
        await _send(send, error.status, "application/json", body, error.headers)

    async def _models(self, scope: dict[str, Any]) -> Answer:
        """Only what the key may use, in the words of both vendors."""
        binding = authenticated(read_headers(scope), self.site)
        listed = [
            {
                "id": name, "object": "model", "created": 0, "owned_by": "cosa",
                "type": "model", "display_name": name, "created_at": "1970-01-01T00:00:00Z",
            }
            for name in binding.models
        ]  # fmt: skip
        names = list(binding.models)
        page = {"object": "list", "data": listed, "has_more": False, "first_id": names[0], "last_id": names[-1]}
        return 200, "application/json", json.dumps(page).encode()

    async def _health(self, _: dict[str, Any]) -> Answer:
        return 200, "application/json", b'{"status": "ok"}'

    async def _readiness(self, _: dict[str, Any]) -> Answer:
        """Judges are made before a site is served, so the upstreams are what is left to ask."""
        if self.draining:
            return 503, "application/json", b'{"status": "draining"}'
        async with self._asking:  # who comes meanwhile gets the same answer
            if time.monotonic() - self._ready[0] >= READY_SECONDS:
                results = await asyncio.gather(*(reachable(served.settings) for served in self.site.upstreams))
                self._ready = (time.monotonic(), all(results))
        if not self._ready[1]:
            return 503, "application/json", b'{"status": "an upstream is not reachable"}'
        return 200, "application/json", b'{"status": "ready"}'

    async def _metrics(self, scope: dict[str, Any]) -> Answer:
        allowed = self.site.metrics
        if allowed is False:
            raise HttpError(404, "unguarded_route", "metrics are off: set `metrics` in the file of cosa serve")
        if isinstance(allowed, str):
            token = presented_key(read_headers(scope)) or ""
            if not hmac.compare_digest(tenants.hashed(token), allowed):
                raise HttpError(401, "invalid_api_key", "metrics ask for a token of their own")
        return 200, CONTENT_TYPE, self.metrics.page(self.runtime)

    async def _openapi(self, _: dict[str, Any]) -> Answer:
        return 200, "application/json", openapi.document()


def _stamps(site: Site) -> dict[Path, tuple[int, int, int] | None]:
    return {path: _stamp(path) for path in site.watched}


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


async def _send(send: Send, status: int, kind: str, body: bytes, headers: tuple[tuple[str, str], ...]) -> None:
    head = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
    head += [(name.encode(), value.encode()) for name, value in headers]
    await send({"type": "http.response.start", "status": status, "headers": head})
    await send({"type": "http.response.body", "body": body})
