"""Ed25519 keys: the one place that knows `cryptography`."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cosa_sdk.errors import MissingExtra, UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

__all__ = ["PublicKey", "Signer", "generate", "write_secret"]


def _library() -> tuple[Any, Any]:
    try:
        from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
        from cryptography.hazmat.primitives.asymmetric import ed25519  # noqa: PLC0415
    except ImportError:
        raise MissingExtra("signing heads and checking them", "signing") from None
    return serialization, ed25519


def _read(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read the key {str(path)!r}: {error.strerror}") from None


def _named(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]


class Signer:
    """The private key of a file (PEM, PKCS #8, not encrypted).

    Raises:
        UsageError: there is no such key in the file.
    """

    def __init__(self, path: str | Path) -> None:
        serialization, ed25519 = _library()
        if not Path(path).exists():
            raise UsageError(f"cannot read the key {str(path)!r}: there is no such file; cosa audit keygen makes one")
        try:
            key = serialization.load_pem_private_key(_read(path), password=None)
        except (ValueError, TypeError):  # TypeError: it wants a password
            key = None
        if not isinstance(key, ed25519.Ed25519PrivateKey):
            raise UsageError(
                f"{str(path)!r} holds no Ed25519 private key (PEM, not encrypted): make one with cosa audit keygen FILE"
            )
        self._key: Any = key
        self.name = _named(key.public_key())
        """The first 16 digits of the SHA-256 of the public key."""

    def sign(self, data: bytes) -> str:
        """The signature, in hex."""
        signature: bytes = self._key.sign(data)
        return signature.hex()


class PublicKey:
    """The public key of a file (PEM).

    Raises:
        UsageError: there is no such key in the file.
    """

    def __init__(self, path: str | Path) -> None:
        serialization, ed25519 = _library()
        data = _read(path)
        try:
            key = serialization.load_pem_public_key(data)
        except ValueError:
            key = None
        if not isinstance(key, ed25519.Ed25519PublicKey):
            private = ": it is a private key, give its .pub" if b"PRIVATE KEY" in data else ""
            raise UsageError(f"{str(path)!r} holds no Ed25519 public key (PEM){private}")
        self._key: Any = key
        self.name = _named(key)

    def signed(self, data: bytes, signature: str) -> bool:
        """Whether this key's owner signed the data."""
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415  # there, or no key could be read

        try:
            self._key.verify(bytes.fromhex(signature), data)
        except InvalidSignature:
            return False
        return True


def generate(path: str | Path) -> tuple[Path, str]:
    """Make a key pair: the private key in a new file that its owner alone may read, the public one beside it (`.pub`).

    Returns:
        The public key's file, and the key's name.

    Raises:
        UsageError: one of the files exists or cannot be written.
    """
    serialization, ed25519 = _library()
    key = ed25519.Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    beside = Path(f"{path}.pub")
    _write_new(beside, public, 0o644)
    try:
        write_secret(Path(path), private)
    except UsageError:
        beside.unlink()
        raise
    return beside, _named(key.public_key())


def write_secret(path: Path, data: bytes) -> None:
    """Write a new file that its owner alone may read.

    Raises:
        UsageError: it exists or cannot be written.
    """
    _write_new(path, data, 0o600)


def _write_new(path: Path, data: bytes, mode: int) -> None:
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
    except FileExistsError:
        raise UsageError(f"{str(path)!r} exists, and a key is never replaced: name another file") from None
    except OSError as error:
        raise UsageError(f"cannot write {str(path)!r}: {error.strerror}") from None
