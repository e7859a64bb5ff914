"""The guard of answers on the wire: the same screening as a reply's, for every text in a protocol's answer. No I/O."""

from cosa_guard.relay.call import Call, Head, Outgoing, relay

__all__ = ["Call", "Head", "Outgoing", "relay"]
