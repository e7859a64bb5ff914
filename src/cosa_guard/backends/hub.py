"""Models on a Hugging Face hub: what a repository holds, and one file of it. The only importer of huggingface_hub.

`hf_hub_download` is not used: it fetches every interrupted file from its beginning again. `http_get` below it takes
the number of bytes that are there already.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NoReturn, Self

from cosa_sdk.errors import MissingExtra, ModelFileError, UsageError

__all__ = ["HubFile", "HubRepo", "Progress", "download", "is_installed", "look_up"]

_TIMEOUT_S: Final = 30.0
_FORBIDDEN, _MISSING, _BUSY, _FAULT = (401, 403), 404, 429, 500
_CHUNK: Final = 1 << 20
_COMMIT, _SHA256, _ANY = re.compile("[0-9a-f]{40}"), re.compile("[0-9a-f]{64}"), re.compile(".+", re.DOTALL)
_MOST: Final = 50_000_000_000
"""Bytes of one file; the client refuses more over HTTP."""

Progress = Callable[[int], None]
"""Is told of every so many further bytes of a file that are there; of fewer than none when it begins again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubFile:
    """A file of a repository, as the hub lists it."""

    name: str
    """With the folders it lies in."""
    bytes: int | None
    sha256: str | None
    """Of large files; of small ones the hub knows `blob`."""
    blob: str | None
    """Git's own checksum: SHA-1 over the length and the content."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HubRepo:
    """A repository at one commit."""

    name: str
    commit: str
    licence: str | None
    """The identifier in the model's card, or the name that the card gives a licence of its own."""
    gated: bool
    """Its owner grants access one by one."""
    files: tuple[HubFile, ...]


def is_installed() -> bool:
    """The client is there; nothing is imported."""
    return find_spec("huggingface_hub") is not None


def look_up(repo: str, revision: str | None = None, *, endpoint: str | None = None) -> HubRepo:
    """What a repository holds, at a branch, tag or commit; None is its main branch.

    Args:
        endpoint: The hub's address; None: `HF_ENDPOINT`, else the public hub.

    Raises:
        MissingExtra: huggingface_hub is not installed.
        UsageError: that cannot be the name of a repository.
        ModelFileError: the hub has none of that name, shows it to nobody else, or cannot be reached.
    """
    _require()
    from huggingface_hub import HfApi  # noqa: PLC0415  # an extra

    with _translated(repo, revision):
        found = HfApi(endpoint=endpoint).model_info(repo, revision=revision, files_metadata=True, timeout=_TIMEOUT_S)
        card: Any = found.card_data or {}
        licence = card.get("license")
        named = card.get("license_name") if licence in (None, "other") else None
        return HubRepo(
            name=repo,
            commit=_text(found.sha, _COMMIT),
            licence=str(named or licence) if named or licence else None,
            gated=bool(found.gated),
            files=tuple(_file(one) for one in found.siblings or ()),
        )


def _file(sibling: Any) -> HubFile:
    return HubFile(
        name=_text(sibling.rfilename, _ANY),
        bytes=None if sibling.size is None else int(sibling.size),
        sha256=_text(sibling.lfs.sha256, _SHA256) if sibling.lfs else None,
        blob=_text(sibling.blob_id, _COMMIT) if sibling.blob_id and not sibling.lfs else None,
    )


def _text(value: Any, form: re.Pattern[str]) -> str:
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError
    return value


def download(repo: HubRepo, file: HubFile, to: Path, progress: Progress, *, endpoint: str | None = None) -> None:
    """Fetches a file, from where an earlier attempt stopped, and checks it. What `to` holds is whole when this returns.

    Raises:
        ModelFileError: the connection broke, the hub refuses, the disk is full (what came stays, to go on with), or
            what came is not what the hub lists (it is deleted).
    """
    _require()
    from huggingface_hub import hf_hub_url  # noqa: PLC0415  # an extra
    from huggingface_hub.file_download import http_get  # noqa: PLC0415
    from huggingface_hub.utils import build_hf_headers  # noqa: PLC0415

    if file.bytes is not None and file.bytes > _MOST:
        raise ModelFileError(
            f"{file.name!r} of {repo.name!r} has {file.bytes / 1e9:.0f} GB, more than can be fetched in one piece: get "
            "it with `hf download`, then add the file."
        )
    url = hf_hub_url(repo.name, file.name, revision=repo.commit, endpoint=endpoint)
    to.touch()
    if file.bytes is not None and to.stat().st_size > file.bytes:
        to.unlink()
        to.touch()
    there = to.stat().st_size
    progress(there)
    # Not in append mode: http_get goes back to the start where a server begins again.
    with _translated(repo.name, repo.commit), to.open("r+b") as target:
        target.seek(there)
        http_get(
            url,
            target,
            resume_size=there,
            # On the way to another host or port the client drops the token. Compressed text could not be resumed.
            headers={**build_hf_headers(), "Accept-Encoding": "identity"},
            expected_size=file.bytes,
            displayed_filename=file.name,
            tqdm_class=_bar(progress, None if file.bytes is None else file.bytes - there),
        )
    _check(repo, file, to)


def _check(repo: HubRepo, file: HubFile, path: Path) -> None:
    expected = file.sha256 or file.blob
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(usedforsecurity=False)
    if not file.sha256:
        digest.update(f"blob {path.stat().st_size}\0".encode())
    with path.open("rb") as data:
        while chunk := data.read(_CHUNK):
            digest.update(chunk)
    if expected is not None and digest.hexdigest() != expected:
        path.unlink()
        raise ModelFileError(
            f"{file.name!r} of {repo.name!r} came with the checksum {digest.hexdigest()}; the hub lists {expected}. It "
            "was deleted. Run the command again; if that goes on, something between you and the hub changes files."
        )


def _bar(progress: Progress, most: int | None) -> Any:
    """What http_get takes for a progress bar: it hands the bytes on, and stops a server that never ends."""

    class Bar:
        def __init__(self, *_: Any, **__: Any) -> None:
            self.came = 0

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def update(self, count: float) -> None:
            self.came += int(count)
            if most is not None and self.came > most:
                raise OSError
            progress(int(count))

    return Bar


def _require() -> None:
    if not is_installed():
        raise MissingExtra("a model from the hub", "hub")


@contextmanager
def _translated(repo: str, revision: str | None) -> Iterator[None]:
    """The client's errors in ours. Its own words are left out: they hold addresses, and those hold signatures.

    Meanwhile it tells the hub nothing of what else is installed, and asks it for nothing else.
    """
    from huggingface_hub import constants  # noqa: PLC0415  # an extra
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled  # noqa: PLC0415  # an extra

    # The client's HTTP library, whichever its version has: httpx, or httpx2.
    transport: Any = HfHubHTTPError.__mro__[1]
    # Read from the environment when the client was imported, perhaps by somebody else.
    telemetry, constants.HF_HUB_DISABLE_TELEMETRY = constants.HF_HUB_DISABLE_TELEMETRY, True
    try:
        yield
    except HfHubHTTPError as error:
        _refused(repo, revision, error)
    except OfflineModeIsEnabled as error:
        raise ModelFileError(
            f"{repo!r} cannot be fetched: HF_HUB_OFFLINE is set. Unset it, or give a file on this machine."
        ) from error
    except transport as error:
        raise ModelFileError(
            f"the connection to the hub failed while it was asked for {repo!r} ({type(error).__name__}). Check the "
            "network and run the command again: it goes on where this one stopped."
        ) from error
    except OSError as error:
        _not_written(repo, error)
    except HFValidationError as error:
        raise UsageError(f"{repo!r} cannot be the name of a model on a hub: give it as owner/repo") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelFileError(
            f"what answers for the hub says nothing that can be understood of {repo!r} ({type(error).__name__}). Is "
            "HF_ENDPOINT a hub's address?"
        ) from error
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = telemetry


def _refused(repo: str, revision: str | None, error: Any) -> NoReturn:
    from huggingface_hub.errors import GatedRepoError, RevisionNotFoundError  # noqa: PLC0415  # an extra

    status = error.response.status_code
    at = f" at {revision!r}" if revision else ""
    if isinstance(error, GatedRepoError):
        said = (
            f"{repo!r} is gated: its owner grants access one by one. Ask for it on the model's page, then set HF_TOKEN "
            "to a token of that account."
        )
    elif isinstance(error, RevisionNotFoundError):
        said = f"{repo!r} has no revision {revision!r}. Name a branch, tag or commit of it after the @."
    elif status in _FORBIDDEN:
        said = (
            f"the hub shows {repo!r} to nobody without the right token ({status}): there is no such model, or it is "
            "private. Check its name; for a private one set HF_TOKEN."
        )
    elif status == _MISSING:
        said = f"the hub has no {repo!r}{at} (404), and no such path is here. Check the name."
    elif status == _BUSY:
        said = f"the hub asks for patience (429) before it gives {repo!r}. Wait some minutes, or set HF_TOKEN."
    elif status >= _FAULT:
        said = f"the hub fails ({status}) when it is asked for {repo!r}{at}. Try again later."
    else:
        said = f"the hub refuses {repo!r}{at} with status {status}."
    raise ModelFileError(said) from error


def _not_written(repo: str, error: OSError) -> NoReturn:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):  # Windows has no quota
        said = (
            f"the disk is full: {repo!r} came only in part. Free some space and run the command again: it goes on "
            "where this one stopped."
        )
    elif error.errno is None:  # the client's own: fewer or more bytes than were announced
        said = f"{repo!r} came with another length than the hub lists. Run the command again."
    else:
        said = f"{repo!r} cannot be written: {error.strerror}."
    raise ModelFileError(said) from error
