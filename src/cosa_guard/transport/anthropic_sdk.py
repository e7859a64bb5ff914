"""What is particular to clients of the `anthropic` package."""

from __future__ import annotations

from typing import Any

__all__ = ["http_client", "with_http_client"]


def http_client(client: Any) -> Any:
    """The HTTP client that an SDK client sends with: its one private attribute that is used."""
    return client._client  # noqa: SLF001  # there is no public name; pinned by a test for each supported version


def with_http_client(client: Any, outer: Any) -> Any:
    """The same client over another HTTP client."""
    return client.with_options(http_client=outer)
