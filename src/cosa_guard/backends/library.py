"""Adds models to the ones that have names, and takes them away: files and folders of this machine, or from a hub."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Final

from cosa_guard.backends import hub
from cosa_guard.backends.gguf import missing_file, read_header
from cosa_guard.backends.gguf_model import check_model
from cosa_guard.backends.hf_folder import is_wanted, read_folder
from cosa_guard.backends.hub import HubFile, HubRepo
from cosa_guard.backends.index import NAME, Entry, cache_folder, checksum, folder_of, forget, locked, put, read_index
from cosa_guard.backends.models import DEFAULT_MODEL
from cosa_sdk.errors import ModelFileError, UnknownName, UsageError

__all__ = ["Meter", "add", "remove"]

_HUB_ID: Final = re.compile(r"(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?::(?P<file>[^@:]+))?(?:@(?P<revision>[^@:\s]+))?")
_SPLIT: Final = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
_SHOWN: Final = 12
"""Files that a message lists."""

Say = Callable[[str], None]
Meter = Callable[[int | None], hub.Progress]
"""Begins to show a download: is given its bytes, if they are known, and gives what is told of each further byte."""


def add(
    source: str,
    *,
    name: str | None = None,
    say: Say = lambda _: None,
    meter: Meter = lambda _: lambda _: None,
    endpoint: str | None = None,
) -> Entry:
    """Gives a model a name. One of this machine stays where it is; one from a hub is downloaded, checked, then listed.

    Args:
        source: A GGUF file, a folder in Hugging Face's layout with safetensors, or `owner/repo[:file.gguf][@revision]`.
        name: What to call it; by default as the file, the folder or the repository is called.
        say: Is told what happens, a line at a time: the licence before a download begins.
        meter: Shows how far a download is.
        endpoint: The hub's address; None: `HF_ENDPOINT`, else the public hub.

    Raises:
        UsageError: the source is neither a path nor the name of a repository, or the name is taken or cannot be one.
        MissingExtra: huggingface_hub is not installed, and the model is on a hub.
        ModelFileError: there is no such model, it is damaged, it is in pickles, or it cannot be fetched.
    """
    path = Path(source).expanduser()
    if path.exists():
        with _our_errors(source):
            return _add_local(path.absolute(), name, say)
    asked = _HUB_ID.fullmatch(source)
    if "://" in source:
        raise UsageError(f"{source!r} is an address: name a model of the hub as owner/repo, with :FILE and @REVISION.")
    if asked is None or asked["repo"].endswith(".gguf"):
        raise missing_file(path, "model")
    # One download at a time: two would write into the same unfinished file.
    with _our_errors(source), locked("download", wait=False):
        repo = hub.look_up(asked["repo"], asked["revision"], endpoint=endpoint)
        return _add_from_hub(repo, asked["file"], name, say=say, meter=meter, endpoint=endpoint)


def remove(name: str) -> Entry:
    """Takes a model off the list, and deletes its files if they were downloaded. The user's own files stay.

    Raises:
        UnknownName: no model of that name was added.
        UsageError: it is the default model, which pip removes.
    """
    entries = read_index()
    if name not in entries:
        if name in ("default", DEFAULT_MODEL.name):
            raise UsageError(f"{DEFAULT_MODEL.name} came with a package: run `pip uninstall {DEFAULT_MODEL.package}`.")
        file = next((one for one in cache_folder().glob("*.gguf") if name in (one.name, one.stem)), None)
        hint = f"{str(file)!r} was put there by hand: delete it yourself." if file else ""
        raise UnknownName("model that was added", name, sorted(entries), hint)
    entry = entries[name]
    # First off the list: what is half deleted is not listed.
    with _our_errors(name):
        forget(name)
        if entry.downloaded and folder_of(name).exists():
            shutil.rmtree(folder_of(name))
    return entry


def _add_local(path: Path, name: str | None, say: Say) -> Entry:
    if path.is_dir():
        folder = read_folder(path)
        files, size, licence = list(folder.files), folder.bytes, None
    else:
        header = read_header(path)
        check_model(header)
        files, size, licence = [path.name], header.size_bytes, header.licence
    name = _free_name(name or (path.name if path.is_dir() else path.stem), str(path))
    say(f"taking checksums of {path.name} ({size / 1e6:.0f} MB); licence: {licence or 'none stated'}")
    base = path if path.is_dir() else path.parent
    return _register(
        Entry(
            name=name,
            path=path,
            files={file: checksum(base / file) for file in files},
            bytes=size,
            source="local",
            licence=licence,
            added=_now(),
            downloaded=False,
        )
    )


def _add_from_hub(
    repo: HubRepo, file: str | None, name: str | None, *, say: Say, meter: Meter, endpoint: str | None
) -> Entry:
    chosen = _choose(repo, file)
    single = chosen[0].name.endswith(".gguf")
    known_as = f"{repo.name}:{chosen[0].name}" if single else repo.name
    name = _free_name(name or PurePosixPath(known_as.rpartition(":")[2]).name.removesuffix(".gguf"), known_as)
    source = f"{known_as}@{repo.commit}"
    size = None if any(one.bytes is None for one in chosen) else sum(one.bytes or 0 for one in chosen)
    files = f"{len(chosen)} file{'s' if len(chosen) > 1 else ''}"
    say(
        f"{source}: {files}, {'size unknown' if size is None else f'{size / 1e6:.0f} MB'}; licence: "
        f"{repo.licence or 'none stated'}{' (gated)' if repo.gated else ''}"
    )
    partial = cache_folder() / "partial"
    partial.mkdir(parents=True, exist_ok=True)
    parts = {PurePosixPath(one.name).name: partial / _key(repo, one) for one in chosen}
    _check_space(parts.values(), size)
    progress = meter(size)
    for one, part in zip(chosen, parts.values(), strict=True):
        hub.download(repo, one, part, progress, endpoint=endpoint)
    return _settle(name, parts, source=source, licence=repo.licence, single=single)


def _settle(name: str, parts: dict[str, Path], *, source: str, licence: str | None, single: bool) -> Entry:
    """Moves whole files to where the model stays, looks at it there, and lists it. A model that is none is deleted."""
    final = folder_of(name)
    final.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=final.parent, prefix=".draft-"))
    try:
        for file, part in parts.items():
            part.replace(draft / file)
        if single:
            header = read_header(draft / next(iter(parts)))
            check_model(header)
            size, licence = header.size_bytes, licence or header.licence
        else:
            size = read_folder(draft).bytes
        files = {file: checksum(draft / file) for file in parts}
        shutil.rmtree(final, ignore_errors=True)  # of an attempt that was stopped before it was listed, or an older one
        draft.rename(final)
    except ModelFileError as error:
        raise ModelFileError(f"what {source} gave is deleted again: {error}".replace(f"{draft}/", "")) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return _register(
        Entry(
            name=name,
            path=final / next(iter(parts)) if single else final,
            files=files,
            bytes=size,
            source=source,
            licence=licence,
            added=_now(),
            downloaded=True,
        )
    )


def _choose(repo: HubRepo, asked: str | None) -> Sequence[HubFile]:
    """The files to fetch: one GGUF, or all of a folder with safetensors."""
    hostile = [one.name for one in repo.files if _leads_out(one.name)]
    if hostile:
        raise ModelFileError(
            f"{repo.name!r} lists the file {hostile[0]!r}, whose name leads out of its folder. Nothing was downloaded; "
            "do not use that repository."
        )
    ggufs = sorted((one for one in repo.files if one.name.endswith(".gguf")), key=lambda one: one.name)
    if asked is not None:
        ggufs = [one for one in ggufs if asked in (one.name, PurePosixPath(one.name).name)] or _refuse(
            repo, asked, ggufs
        )
    if len(ggufs) > 1:
        shown = "".join(f"\n  {repo.name}:{one.name} ({(one.bytes or 0) / 1e6:.0f} MB)" for one in ggufs[:_SHOWN])
        more = f"\n  and {len(ggufs) - _SHOWN} more" if len(ggufs) > _SHOWN else ""
        raise UsageError(f"{repo.name!r} has {len(ggufs)} GGUF files; name one of them:{shown}{more}")
    if ggufs:
        if _SPLIT.search(ggufs[0].name):
            raise ModelFileError(f"{ggufs[0].name!r} is one part of a model that was split; choose a whole one.")
        return ggufs
    wanted = [one for one in repo.files if is_wanted(one.name)]
    if any(one.name.endswith(".safetensors") for one in wanted):
        return wanted
    others = ", ".join(repr(one.name) for one in repo.files[:_SHOWN]) or "none"
    raise ModelFileError(
        f"{repo.name!r} has no model in GGUF or safetensors, and nothing else is ever downloaded: pickles can run "
        f"code. Look for a repository with another format of it. Its files: {others}."
    )


def _refuse(repo: HubRepo, asked: str, ggufs: Sequence[HubFile]) -> list[HubFile]:
    if not asked.endswith(".gguf"):
        raise UsageError(
            f"{asked!r} is not a .gguf file. For a model in safetensors name the repository alone: {repo.name}"
        )
    raise UnknownName(f"file of {repo.name!r}", asked, [one.name for one in ggufs])


def _leads_out(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return (
        name != name.strip()
        or ":" in name
        or "\\" in name
        or not name.isprintable()
        or {"", ".", ".."} & {*parts} != set()
    )


def _free_name(name: str, known_as: str) -> str:
    """The name, if the model may have it: nobody else's. The same model may be added again, at another revision too."""
    if not re.fullmatch(NAME, name):
        raise UsageError(f"{name!r} cannot name a model: give --name, up to 100 of A-Z a-z 0-9 . _ - and no blanks")
    if name in ("default", DEFAULT_MODEL.name):
        raise UsageError(f"{name!r} is the default model's name: give another with --name")
    other = read_index().get(name)
    taken = other and (other.source.partition("@")[0] if other.downloaded else str(other.path))
    if taken and taken != known_as:
        raise UsageError(
            f"{name!r} is the name of {taken!r} already: give another with --name, or `cosa models remove {name}`"
        )
    return name


def _key(repo: HubRepo, file: HubFile) -> str:
    """What an unfinished file is called: by its content, so that a changed one does not go on where the old stopped."""
    known = file.sha256 or file.blob or f"{repo.name}@{repo.commit}:{file.name}"
    return blake2b(known.encode(), digest_size=16).hexdigest()


def _check_space(parts: Iterable[Path], size: int | None) -> None:
    needed = (size or 0) - sum(part.stat().st_size for part in parts if part.exists())
    free = shutil.disk_usage(cache_folder()).free
    if needed > free:
        raise ModelFileError(
            f"the model needs {needed / 1e6:,.0f} MB more in {str(cache_folder())!r}, where {free / 1e6:,.0f} MB are "
            "free. Free some space, or set XDG_CACHE_HOME to a folder on another disk."
        )


@contextmanager
def _our_errors(what: str) -> Iterator[None]:
    """What the file system says, in our words."""
    try:
        yield
    except BlockingIOError:
        raise ModelFileError(f"another download is running: add {what!r} when it is done.") from None
    except OSError as error:
        place = error.filename or cache_folder()
        raise ModelFileError(f"{what!r} failed at {str(place)!r}: {error.strerror or error}.") from error


def _register(entry: Entry) -> Entry:
    put(entry)
    return entry


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
