"""A fast tokenizer of transformers: prompts into ids so that contents stay text, ids into bytes. Loads no torch."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from cosa_guard.backends.chat_template import Tokens
from cosa_sdk.errors import ModelFileError

__all__ = ["ReplyText", "Vocabulary"]

_BLANK: Final = "\u2581"
_BLANKS: Final = " \t\r\n\u2581"
_BYTE_TOKEN: Final = 6
"""Length of `<0x0A>`."""
# A model's settings often name one end only, where it was trained on more. llama.cpp knows these by name too.
_ENDS: Final = frozenset(
    (
        *("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<|eot|>", "<|return|>", "<|call|>"),
        *("<end_of_turn>", "<turn|>", "<end_of_utterance>", "</s>", "<eos>", "<EOT>", "<|END_OF_TURN_TOKEN|>"),
    )
)


class Vocabulary:
    """What a tokenizer does with text and with ids. Many threads may use it.

    Args:
        tokenizer: A tokenizer of transformers, of the fast kind.
        size: How many ids the model has.
        ends: Ids that the model's settings name as ends of a reply.
        adds_bos: Whether a prompt begins with BOS; None: as the tokenizer does it.
        markers: Texts of further tokens that a content must not become.
        forbidden: Their ids, and those of further special tokens.

    Raises (on construction):
        ModelFileError: it is not of the fast kind, or it does not say how tokens make up text.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        size: int,
        ends: Sequence[int],
        adds_bos: bool | None = None,
        markers: Sequence[str] = (),
        forbidden: frozenset[int] = frozenset(),
    ) -> None:
        native = getattr(tokenizer, "backend_tokenizer", None)
        if native is None:
            raise ModelFileError(
                f"the tokenizer {type(tokenizer).__name__} is not of the fast kind, which alone can leave markup as "
                "text. Save the model with a tokenizer.json."
            )
        # Whether special tokens are parsed is a state of a tokenizer, so there are two of them.
        kind, saved = type(native), native.to_str()
        self._parsing, self._plain = kind.from_str(saved), kind.from_str(saved)
        for each in (self._parsing, self._plain):
            each.no_padding()
            each.no_truncation()
        self._plain.encode_special_tokens = True
        added = self._plain.get_added_tokens_decoder()
        special = {number for number, token in added.items() if token.special}
        marked = {number: token.content for number, token in added.items() if _marks(token)}
        self.special: frozenset[int] = forbidden.union(special, marked)
        """Ids that no content becomes."""
        texts = {number: text for text, number in self._plain.get_vocab(with_added_tokens=True).items()}
        count = max(size, max(texts, default=-1) + 1)
        decode = _decoder(json.loads(saved).get("decoder"))
        silent = special | {number for number in forbidden if number not in marked}
        self.bytes: tuple[bytes, ...] = tuple(
            b"" if number in silent or number not in texts else decode(texts[number]) for number in range(count)
        )
        """Bytes of each token; none for special ones."""
        self.ends: frozenset[int] = frozenset(ends).union(
            number for number, token in added.items() if number in silent and token.content in _ENDS
        )
        """Ids that end a reply."""
        self.drops_first_blank = _drops_first_blank(json.loads(saved).get("decoder"))
        bos = tokenizer.bos_token_id
        if adds_bos is None:
            adds_bos = bos is not None and tokenizer("")["input_ids"][:1] == [bos]
        self.tokens = Tokens(
            self._encode_all,
            bos=bos if adds_bos else None,
            markers=(*marked.values(), *markers),
            forbidden=self.special,
        )
        """Makes ids of the segments of a prompt."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which nothing is special."""
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def _encode_all(self, texts: Sequence[str], special: bool) -> list[int]:
        native = self._parsing if special else self._plain
        return [number for text in texts for number in native.encode(text, add_special_tokens=False).ids]


class ReplyText:
    """The text of one reply, token by token, never half a character: what is not whole at the end is left out."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._bytes = vocabulary.bytes
        self._drop = vocabulary.drops_first_blank
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, token: int) -> str:
        """What can be read after this token and could not before it."""
        piece = self._bytes[token]
        if self._drop and piece:
            piece, self._drop = piece.removeprefix(b" "), False
        return self._decoder.decode(piece)


def _marks(token: Any) -> bool:
    """As in GGUF files: a token that is always parsed and is markup, not a run of blanks."""
    return not token.special and len(token.content) > 1 and bool(token.content.strip(_BLANKS))


def _parts(decoder: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(decoder, Mapping):
        if decoder.get("type") == "Sequence":
            for part in decoder.get("decoders", ()):
                yield from _parts(part)
        else:
            yield decoder


def _drops_first_blank(decoder: Any) -> bool:
    """Whether the blank is dropped that these tokenizers put in front of every text."""
    return any(
        (part.get("type") == "Strip" and part.get("start"))
        or (part.get("type") == "Metaspace" and part.get("prepend_scheme", "always") != "never")
        for part in _parts(decoder)
    )


def _decoder(decoder: Any) -> Any:
    kinds = {part.get("type") for part in _parts(decoder)}
    if "ByteLevel" in kinds:
        return _byte_level()
    if kinds.intersection(("ByteFallback", "Metaspace")):
        return _with_byte_tokens
    raise ModelFileError(
        f"this tokenizer joins tokens by {', '.join(map(str, kinds)) or 'nothing'}, which cannot be done token by "
        "token. Byte-level tokenizers and those with byte fallback can be used."
    )


def _byte_level() -> Any:
    """As GPT-2 writes bytes: printable ones as themselves, others as the letters from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in printable}
    letters |= {chr(0x100 + index): byte for index, byte in enumerate(sorted(set(range(0x100)) - set(printable)))}

    def decode(text: str) -> bytes:
        # An added token with any other letter is written as it is.
        return bytes(letters[letter] for letter in text) if all(map(letters.__contains__, text)) else text.encode()

    return decode


def _with_byte_tokens(text: str) -> bytes:
    if len(text) == _BYTE_TOKEN and text.startswith("<0x") and text.endswith(">"):
        return bytes.fromhex(text[3:5])
    return text.replace(_BLANK, " ").encode()
