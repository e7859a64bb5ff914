"""What is particular to clients of the `openai` package, 2.x and later."""

from __future__ import annotations

from typing import Any, NoReturn

from cosa_sdk.errors import UnguardedRoute

__all__ = ["http_client", "with_http_client"]


class _NoWebSocket(str):
    """The base URL of WebSocket connections: looked at, it refuses. They do not use the HTTP client."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return True  # a client's copies keep it

    def __len__(self) -> NoReturn:
        raise UnguardedRoute(
            "this client is guarded, and a WebSocket connection (realtime, live, responses.connect) would go past the "
            "guard. Use chat.completions or responses with stream=True, or an unguarded client"
        )


def http_client(client: Any) -> Any:
    """The HTTP client that an SDK client sends with: its one private attribute that is used."""
    return client._client  # noqa: SLF001  # there is no public name; pinned by a test for each supported version


def with_http_client(client: Any, outer: Any) -> Any:
    """The same client over another HTTP client."""
    return _without_websockets(client.with_options(http_client=outer))


def _without_websockets(client: Any) -> Any:
    """The client, and whatever is copied from it: `data_residency=` would give a copy another WebSocket address."""
    copy = client.copy
    client.websocket_base_url = _NoWebSocket("wss://guarded.invalid")
    client.copy = client.with_options = lambda **options: _without_websockets(copy(**options))
    return client
