"""The guard inside an HTTP client: a transport around any httpx or httpx2 transport, and wrapped SDK clients."""

from cosa_guard.transport.guarded import GuardTransport
from cosa_guard.transport.wrapping import wrap

__all__ = ["GuardTransport", "wrap"]
