"""Pure codecs between the bytes of a protocol and what the guard works with."""

from cosa_guard.wire.anthropic_messages import AnthropicMessages
from cosa_guard.wire.openai_chat import ChatCompletions
from cosa_guard.wire.openai_responses import Responses
from cosa_guard.wire.protocol import Codec

__all__ = ["protocols"]

protocols: dict[str, Codec] = {codec.path: codec for codec in (ChatCompletions(), Responses(), AnthropicMessages())}
"""By path below the base URL."""
