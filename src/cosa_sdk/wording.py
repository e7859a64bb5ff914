"""What a string inside a config may hold: text, never markup.

A config's words end up in prompts. A control character, a bidirectional override or a chat-template marker there
could fake a role or hide a sentence from its reviewer, so they are refused with their position, not repaired.
"""

from __future__ import annotations

import re
import unicodedata

__all__ = ["FENCES", "defused", "fault_in", "neutralised"]

FENCES = ("guideline", "application", "text", "conversation")
"""Names of the sections that templates fence as `[name]` … `[/name]`."""

_MARKER = re.compile(
    r"<\|[^|<>\n]{0,64}\|?>"  # ChatML, Llama 3, Phi, harmony: <|im_end|>
    r"|<｜[^｜\n]{0,64}｜>"  # DeepSeek writes the bars full-width
    r"|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS)\]|<</?SYS>>"  # Llama 2, Mistral
    r"|</?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn|think)>"  # sentence and turn marks
    r"|\[/?(?:" + "|".join(FENCES) + r")\]",
    re.IGNORECASE,
)
_ALLOWED_CONTROLS = "\n\t"
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
# Zero-width joiners build emoji and Indic ligatures; the other invisible ones only hide text.
_VISIBLE_FORMAT = frozenset("\u200c\u200d")


def fault_in(text: str, *, markers: bool = True) -> tuple[int, str] | None:
    """The first thing in `text` that a config may not hold: (0-based position, what it is), or None.

    Args:
        markers: also look for chat-template markers; off for patterns, where `[text]` is a character class.
    """
    marker = _MARKER.search(text) if markers else None
    best = (marker.start(), f"the chat-template marker {marker.group()!r}") if marker else None
    if text.isascii() and text.isprintable():
        return best
    for position, char in enumerate(text):
        if best and position >= best[0]:
            break
        if char in _BIDI:
            return position, f"the bidirectional control U+{ord(char):04X}"
        category = unicodedata.category(char)
        if (category == "Cc" and char not in _ALLOWED_CONTROLS) or category == "Cs":
            return position, f"the control character U+{ord(char):04X}"
        if category in {"Cf", "Zl", "Zp"} and char not in _VISIBLE_FORMAT:
            return position, f"the invisible character U+{ord(char):04X}"
    return best


def neutralised(text: str) -> str:
    """Text from outside a config, made unable to close its section: `[/text]` becomes `(/text)`.

    Backends tokenise contents with special tokens off, so role markers are inert already; only our own fences are
    plain text to the model and need this.
    """
    return _FENCE.sub(r"(\1\2)", text)


def defused(text: str) -> str:
    """Text from outside for a server that may read special tokens in it: a zero-width space breaks each marker.

    Servers that apply a chat template to text tokenise it with special tokens on, so `<|im_end|>` typed by a user
    would end the turn.
    """
    if "<" not in text and "[" not in text:
        return text
    return _MARKER.sub(lambda found: f"{found.group()[0]}\u200b{found.group()[1:]}", text)


_FENCE = re.compile(r"\[(/?)(" + "|".join(FENCES) + r")\]", re.IGNORECASE)
