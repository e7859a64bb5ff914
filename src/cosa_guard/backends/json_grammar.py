"""Which tokens may come next so that a reply fits a JSON schema, by llguidance. The only module that imports it.

It knows bytes and token ids, no runtime: any backend that sees its logits can use it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from cosa_sdk.errors import BackendError, MissingExtra, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["Grammar", "Matcher"]

# Overrides, so that the key `x-guidance` in a schema cannot loosen it. At most one blank between values: a small model
# would write blanks for ever. Lenient would mean: drop in silence what cannot be applied.
_OPTIONS: Final = {
    "item_separator": ",",
    "key_separator": ":",
    "whitespace_flexible": True,
    "whitespace_pattern": " ?",
    "coerce_one_of": False,
    "lenient": False,
}

_LONGEST_REASON: Final = 300


class Grammar:
    """One vocabulary, ready for any schema. Many threads may use it; takes about 0.2 to 0.5 s to make.

    Args:
        tokens: Bytes of each token, by id; empty for those that are no text, such as the end of a turn, and for ids
            that the model has and the vocabulary has not. Masks are as long as this.
        end: Ids that end a reply.
        extra: The extra that brings llguidance to the backend that asks, for the error.
        tokenize: Ids of a text, without special tokens. Text that a schema prescribes is then written in the tokens
            that the model was trained on; without it, and where it does not give back the text, longest tokens first.

    Raises (on construction):
        MissingExtra: llguidance is not installed.
        UsageError: no token ends a reply.
    """

    def __init__(
        self,
        tokens: Sequence[bytes],
        *,
        end: Collection[int],
        extra: str,
        tokenize: Callable[[str], Sequence[int]] | None = None,
    ) -> None:
        try:
            import llguidance  # noqa: PLC0415  # optional, and only replies in JSON need it
        except ImportError as error:
            raise MissingExtra("a json_schema", extra) from error
        ends = sorted(set(end))
        if not ends:
            raise UsageError("this model names no token that ends a reply, so none can be held to a json_schema.")
        self._module: Any = llguidance
        self._size = len(tokens)
        vocabulary = _Vocabulary(tokens, ends[0], tokenize)
        kind = self._module.LLTokenizer
        self._tokenizer = kind(vocabulary, eos_token=ends, slices=kind.json_slices())
        self._limits = self._module.LLParserLimits(verbose_errors=False)

    def matcher(self, schema: Mapping[str, Any]) -> Matcher:
        """A reply that has not begun, to be held to `schema`.

        Raises:
            UsageError: the schema is wrong, or has something that cannot be applied.
        """
        text = json.dumps(schema)
        grammar = self._module.LLMatcher.grammar_from_json_schema(text, overrides=_OPTIONS)
        native = self._module.LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        if native.is_error():
            raise UsageError(
                f"llguidance cannot apply this json_schema, and nothing is generated without it: "
                f"{_first(native.get_error())}. Leave that part out. It is {text[:300]}"
            )
        return Matcher(native, self._size)


class Matcher:
    """One reply and its schema. One thread at a time may use it."""

    def __init__(self, native: Any, size: int) -> None:
        self._native = native
        self._size = size

    @property
    def finished(self) -> bool:
        """Whether nothing but the end can follow."""
        return bool(self._native.is_stopped())

    def mask(self) -> npt.NDArray[np.bool_]:
        """For each token id whether it may come next; tokens that end the reply where the JSON is whole.

        Raises:
            BackendError: nothing may come next, or the schema became too large to follow.
        """
        import numpy as np  # noqa: PLC0415  # comes with whatever has logits

        bits = np.frombuffer(self._native.compute_bitmask(), np.uint8)
        allowed: npt.NDArray[np.bool_] = np.unpackbits(bits, count=self._size, bitorder="little").view(np.bool_)
        # In an error llguidance allows the end, which would pass half a document for a whole one.
        if self._native.is_error() or not allowed.any():
            raise self._stuck()
        return allowed

    def accept(self, token: int) -> None:
        """Takes note of the next token.

        Raises:
            BackendError: the mask did not allow it.
        """
        if not self._native.consume_token(token):
            raise self._stuck()

    def _stuck(self) -> BackendError:
        reason = _first(self._native.get_error()) or "no token of this model fits"
        return BackendError(f"the reply cannot go on under its json_schema: {reason}. Simplify the schema.")


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    is_tokenizer_wrapper = True
    bos_token_id = None
    special_token_ids: Sequence[int] = ()

    def __init__(
        self, tokens: Sequence[bytes], end: int, tokenize: Callable[[str], Sequence[int]] | None = None
    ) -> None:
        self.tokens = list(tokens)
        self.eos_token_id = end
        self._tokenize = tokenize
        self._ids = {token: number for number, token in reversed(list(enumerate(self.tokens))) if token}
        self._longest = max(map(len, self._ids), default=0)

    def __call__(self, text: str) -> list[int]:
        # What is given back here is all that the mask will allow, so it must be the text, byte by byte.
        raw = text.encode()
        if self._tokenize is not None:
            ids = list(self._tokenize(text))
            if b"".join(self.tokens[each] for each in ids) == raw:
                return ids
        return list(self._longest_first(raw))

    def _longest_first(self, raw: bytes) -> list[int]:
        found: list[int] = []
        at = 0
        while at < len(raw):
            sizes = range(min(self._longest, len(raw) - at), 0, -1)
            size = next((size for size in sizes if raw[at : at + size] in self._ids), 0)
            if not size:
                break
            found.append(self._ids[raw[at : at + size]])
            at += size
        return found


def _first(message: str) -> str:
    """What went wrong, on one line, without llguidance's account of its state."""
    for mark in ("<state>", "<non-verbose/>"):
        message = message.partition(mark)[0]
    return " ".join(message.split()).rstrip(".")[:_LONGEST_REASON]
