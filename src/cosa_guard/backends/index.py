"""What `cosa models add` registered: one small file, always whole, beside the models that were downloaded."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cosa_sdk.errors import ModelFileError

__all__ = ["NAME", "Entry", "cache_folder", "checksum", "folder_of", "forget", "locked", "put", "read_index"]

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""What a model may be called: the name of a folder on every system, and no path."""
_FILE: Final = "models.json"


class Entry(BaseModel):
    """One registered model."""

    model_config = ConfigDict(frozen=True)

    name: Annotated[str, Field(pattern=NAME)]
    path: Path
    """The GGUF file, or the folder in Hugging Face's layout."""
    files: dict[str, str]
    """SHA-256 of each file by its name in the model's folder; of a GGUF model there is one."""
    bytes: int
    source: str
    """`local`, or `owner/repo:file@commit` of a hub."""
    licence: str | None
    """What the source says of it, in its own words; None where it says nothing."""
    added: str
    """When, in UTC, as ISO 8601."""
    downloaded: bool
    """The files are ours to delete; else the model lies where the user put it."""

    @property
    def sha256(self) -> str:
        """The file's checksum; of several files that of their list as `sha256sum` prints it, sorted by name."""
        if len(self.files) == 1:
            return next(iter(self.files.values()))
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(self.files.items()))
        return sha256(lines.encode()).hexdigest()


def cache_folder() -> Path:
    """Where further model files may be put: `$XDG_CACHE_HOME/cosa/models`. It need not exist."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # The XDG specification: a relative path there is to be ignored.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "cosa" / "models"


def folder_of(name: str) -> Path:
    """Where the files of a downloaded model lie, and no others."""
    return cache_folder() / "added" / name


def read_index() -> dict[str, Entry]:
    """The registered models by name; none where nothing was ever added.

    Raises:
        ModelFileError: the index cannot be read.
    """
    path = cache_folder() / _FILE
    try:
        rows = json.loads(path.read_bytes())["models"]
        entries = [Entry.model_validate(row) for row in rows]
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelFileError(f"the list of models {str(path)!r} cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError, ValidationError, RecursionError) as error:
        raise ModelFileError(
            f"the list of models {str(path)!r} is damaged ({type(error).__name__}). Delete it, then `cosa models add` "
            "your models again."
        ) from error
    return {entry.name: entry for entry in entries}


def put(entry: Entry) -> None:
    """Registers a model, in place of one of the same name."""
    with locked("models"):
        _write(read_index() | {entry.name: entry})


def forget(name: str) -> None:
    """Takes a model off the list; its files stay."""
    with locked("models"):
        entries = read_index()
        entries.pop(name, None)
        _write(entries)


def checksum(path: Path) -> str:
    """A file's SHA-256."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


@contextmanager
def locked(name: str, *, wait: bool = True) -> Iterator[None]:
    """One process at a time, by a lock that ends with its process. Windows has no such lock: there it does nothing.

    Raises:
        BlockingIOError: another process holds it, and `wait` is off.
    """
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl  # noqa: PLC0415  # Windows has none
    except ImportError:
        yield
        return
    with (folder / f".{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def _write(entries: dict[str, Entry]) -> None:
    """The whole list or what was there before: the draft takes its place once it is on the disk."""
    text = json.dumps({"models": [entry.model_dump(mode="json") for entry in entries.values()]}, indent=1)
    number, name = tempfile.mkstemp(dir=cache_folder(), prefix=".models-")
    try:
        with os.fdopen(number, "w", encoding="utf-8") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(cache_folder() / _FILE)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
