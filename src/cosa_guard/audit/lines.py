"""What one line of an audit log says, byte for byte.

`{"seq":7,"time":…,"prev":"<hash of line 6>",<the ruling>,"hash":"<SHA-256 of this line up to here>"}`
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import secrets
from typing import Final, Literal

from cosa_guard.release import MASK
from cosa_guard.verdicts import Entry, Ruling
from cosa_sdk.decide import Decision

__all__ = ["LINE", "TextMode", "Texts", "chained", "digest", "text_tag"]

TextMode = Literal["hmac", "redacted", "full"]

LINE: Final = re.compile(
    rb'(\{"seq":([1-9][0-9]{0,17}),"time":-?[0-9]+\.[0-9]{6},"prev":"([0-9a-f]{64})",.*),"hash":"([0-9a-f]{64})"\}'
)
"""Groups: what is hashed, number, hash of the line before, hash."""
_ERROR = 500
"""Most characters of a judge's error."""
_QUOTE = 12
"""So many characters in a row that an error shares with the text are a quotation."""
_REMEMBERED = 1024
"""Most tenants, and most decisions, that are kept ready."""

# One encoder for all: ASCII, so that half a character or a line separator in a name cannot end or spoil a line.
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


def digest(data: bytes) -> str:
    """SHA-256, in hex."""
    return hashlib.sha256(data).hexdigest()


def chained(seq: int, time: float, prev: str, body: bytes) -> tuple[bytes, str]:
    """A whole line, and its hash."""
    said = b'{"seq":%d,"time":%.6f,"prev":"%s",%s' % (seq, time, prev.encode("ascii"), body)
    own = hashlib.sha256(said).hexdigest()
    return b'%s,"hash":"%s"}\n' % (said, own.encode("ascii")), own


def text_tag(key: bytes, tenant: str, text: str) -> str:
    """What a log made with this text key says instead of a text: HMAC-SHA-256 under the tenant's own key.

    Equal texts of one tenant have equal tags; without the key nobody can try out texts, and the tags of two tenants
    say nothing about each other.
    """
    return hmac.digest(_tenant_key(key, tenant), text.encode("utf-8", "surrogatepass"), "sha256").hex()


def _tenant_key(master: bytes, tenant: str) -> bytes:
    return hmac.digest(master, b"cosa-audit-text/1\0" + tenant.encode("utf-8", "surrogatepass"), "sha256")


class Texts:
    """Turns entries into the bodies of lines, keeping as much of their texts as was asked for."""

    __slots__ = ("_decided", "_keys", "_master", "mode", "name")

    def __init__(self, mode: TextMode, key: bytes | None) -> None:
        self.mode: TextMode = mode
        self.name = digest(b"cosa-audit-text-key/1\0" + key)[:16] if key else None
        """Says which key was used without giving it away; None for a key that was drawn and is kept nowhere."""
        self._master = key or secrets.token_bytes(32)
        self._keys: dict[str, hmac.HMAC] = {}
        self._decided: dict[tuple[str, str, Decision, tuple[str, ...]], str] = {}

    def body(self, entry: Entry) -> bytes:
        """The part of the line that is about the ruling, without braces."""
        ruling, text = entry.ruling, entry.text
        about = entry.config, ruling.stage, ruling.decision, tuple([verdict.judge for verdict in ruling.verdicts])
        error = ruling.error if ruling.error is None else self._error(ruling.error, text)
        tag = (self._keys.get(entry.tenant) or self._key(entry.tenant)).copy()
        tag.update(text.encode("utf-8", "surrogatepass"))
        said = (
            f'"request":{_encode(entry.request)},"tenant":{_encode(entry.tenant)},'
            f'{self._decided.get(about) or self._say(about)},"error":{_encode(error)},"start":{entry.start:d},'
            f'"final":{"true" if entry.final else "false"},"length":{len(text)},"tag":"{tag.hexdigest()}"'
        )
        if self.mode != "hmac":
            said += f',"text":{_encode(text if self.mode == "full" else _redacted(ruling, text))}'
        return said.encode("ascii")

    def _say(self, about: tuple[str, str, Decision, tuple[str, ...]]) -> str:
        """What one config decides again and again is written out once."""
        config, stage, decision, judges = about
        if len(self._decided) >= _REMEMBERED:
            self._decided.clear()
        said = {
            "config": config,
            "stage": stage,
            "outcome": decision.outcome,
            "prompt_type": decision.prompt_type,
            "rules": decision.rules,
            "unexamined": decision.unexamined,
            "tolerated": decision.tolerated,
            "judges": judges,
        }
        line = self._decided[about] = _encode(said)[1:-1]
        return line

    def _key(self, tenant: str) -> hmac.HMAC:
        if len(self._keys) >= _REMEMBERED:
            self._keys.clear()
        key = self._keys[tenant] = hmac.new(_tenant_key(self._master, tenant), digestmod="sha256")
        return key

    def _error(self, error: str, text: str) -> str:
        """A judge's error, which may quote what the judge could not read."""
        if self.mode != "full" and _quotes(error, text):
            return f"withheld: {len(error)} characters that quote the text (text='full' keeps them)"
        return error if len(error) <= _ERROR else f"{error[:_ERROR]}…"


def _quotes(error: str, text: str) -> bool:
    size = min(_QUOTE, len(text))
    runs = {text[at : at + size] for at in range(len(text) - size + 1)} if size else set()
    return any(error[at : at + size] in runs for at in range(len(error) - size + 1))


def _redacted(ruling: Ruling, text: str) -> str | None:
    """The text with everything masked that judges found in it; None where they cannot say where it stands."""
    broken = ruling.outcome != "compliant"
    for verdict in ruling.verdicts:
        unplaced = verdict.evidence.found - {element for _, element in verdict.spans}
        if broken and (unplaced or verdict.evidence.violates):
            return None
    if ruling.error is not None:
        return None
    kept: list[str] = []
    at = 0
    for low, high in sorted(span for verdict in ruling.verdicts for span, _ in verdict.spans):
        if high > at:
            if low > at or not kept:
                kept += [text[at:low], MASK]
            at = high
    return "".join([*kept, text[at:]])
