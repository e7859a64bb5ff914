"""Loads a model with what was found best for this machine, and frees it in order."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cosa_guard.backends.llama_engine import Engine
from cosa_guard.backends.llama_native import ContextSettings, NativeModel, library_version
from cosa_guard.backends.llama_tuning import Tuning, quick_copy, recall_tuning, tune
from cosa_guard.backends.models import cache_folder, find_default
from cosa_guard.backends.prefix_store import DiskTier, PrefixStore
from cosa_guard.backends.settings import default_threads, in_ci
from cosa_sdk import compile as compile_config
from cosa_sdk import presets
from cosa_sdk.errors import BackendError

__all__ = ["Core", "Running", "Wanted", "load"]

_DEFAULT_BATCH = 128
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """How a model is to be run; see `LlamaCppOptions`. Sizes are bytes."""

    context: int
    sequences: int
    threads: int | None
    batch: int | None
    calibrate: bool
    requantize: bool | None
    gpu_layers: int
    prefix_ram: int
    prefix_disk: int
    prefix_folder: str | Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How a model is run."""

    threads: int
    batch: int
    measured: bool
    """Threads and batch are what was quickest here, not a rule of thumb."""
    file: Path
    """What was loaded: the model's file, or its Q8_0 copy."""
    plain: bool = False
    """The library's faster kernels crash on this processor, so plain ones are used: build the library again."""


class Core:
    """The model and its engine: what must be freed, in order, whoever lets go of the backend."""

    engine: Engine
    store: PrefixStore
    running: Running

    def __init__(self, name: str, model: NativeModel, identities: Sequence[str]) -> None:
        self._name, self.model = name, model
        self.identity, self.identities = identities[0], identities[1:]
        """Names that no other model, and no other adapters, have."""
        self._idle = threading.Condition()
        self._users = 0
        self._closed = False

    @contextlib.contextmanager
    def using(self) -> Iterator[None]:
        """The vocabulary is not freed in here.

        Raises:
            BackendError: the backend was closed.
        """
        with self._idle:
            if self._closed:
                raise BackendError(f"the model {self._name!r} was closed; make a new backend.")
            self._users += 1
        try:
            yield
        finally:
            with self._idle:
                self._users -= 1
                self._idle.notify_all()

    def free(self) -> None:
        """Frees the model, when nobody uses its vocabulary any more."""
        with self._idle:
            self._closed = True
            self._idle.wait_for(lambda: not self._users)
        self.model.free()

    def close(self) -> None:
        """Stops the engine, which frees the rest."""
        with self._idle:
            self._closed = True
        self.engine.stop()


def load(name: str, path: Path, adapters: Sequence[tuple[str, Path]], wanted: Wanted) -> Core:
    """The model, computing.

    Raises:
        ModelFileError: llama.cpp cannot load the file.
        AdapterError: llama.cpp cannot load an adapter.
        OutOfMemory: there is no memory for its context.
    """
    file = _quickest(path, wanted)
    files = [file, *(adapter for _, adapter in adapters)]
    identities = _identities(files, by_content=wanted.prefix_disk > 0)
    model = NativeModel(file, adapters=adapters, gpu_layers=wanted.gpu_layers)
    core = Core(name, model, identities)
    try:
        tuning = _tuning(model, identities[0], wanted)
        threads = wanted.threads or (tuning.threads if tuning else default_threads())
        batch = min(wanted.batch or (tuning.batch if tuning else _DEFAULT_BATCH), wanted.context)
        context = model.context(
            ContextSettings(context=wanted.context, sequences=wanted.sequences, threads=threads, batch=batch)
        )
    except BaseException:
        model.free()
        raise
    core.running = Running(threads=threads, batch=batch, measured=tuning is not None, file=file, plain=model.plain)
    core.store = PrefixStore(wanted.prefix_ram, _disk(wanted))
    core.engine = Engine(context, wanted.sequences, core.store, name=name, free=core.free)
    return core


def _quickest(path: Path, wanted: Wanted) -> Path:
    default = find_default()
    usual = default is not None and path.resolve() == default.resolve() and not in_ci()
    if not (usual if wanted.requantize is None else wanted.requantize):
        return path
    text = compile_config(presets.load("film-studio")).text
    try:
        made = quick_copy(path, f"{_file_name(path)} {library_version()}", text)
    except (BackendError, OSError) as error:
        if wanted.requantize:
            raise BackendError(f"no Q8_0 copy of {path.name!r} can be made: {error}") from error
        _log.warning("no Q8_0 copy of %s can be made: %s", path.name, error)
        return path
    return made.path or path


def _tuning(model: NativeModel, identity: str, wanted: Wanted) -> Tuning | None:
    if wanted.threads or not wanted.calibrate or in_ci() or os.environ.get("COSA_THREADS"):
        return None
    return recall_tuning(identity) or tune(model, identity)


def _disk(wanted: Wanted) -> DiskTier | None:
    if not wanted.prefix_disk:
        return None
    return DiskTier(Path(wanted.prefix_folder or cache_folder().parent / "prefixes").expanduser(), wanted.prefix_disk)


def _identities(files: Sequence[Path], *, by_content: bool) -> list[str]:
    """Names of the model and of its adapters that no other file has; the first with what computes it."""
    names = [_file_digest(path) if by_content else _file_name(path) for path in files]
    return [f"{names[0]} {library_version()}", *names[1:]]


def _file_name(path: Path) -> str:
    status = path.stat()
    return f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
