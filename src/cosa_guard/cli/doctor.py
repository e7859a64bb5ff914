"""`cosa doctor`: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import typer
from rich.table import Table
from rich.text import Text

from cosa_guard.backends import models as library
from cosa_guard.backends.local import LOCAL, Choice, choose
from cosa_guard.cli import options
from cosa_sdk.errors import CosaError, MissingExtra

__all__ = ["doctor"]


@dataclass(frozen=True, slots=True)
class _Part:
    part: str
    found: bool
    what: str
    get: str
    needed: bool = False


def _package(part: str, module: str, distribution: str, get: str, what: str, *, needed: bool = False) -> _Part:
    if find_spec(module) is None:
        return _Part(part, False, what, get, needed)
    try:
        version = importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:  # another distribution brought the module
        version = "of unknown version"
    return _Part(part, True, f"{distribution} {version}: {what}", "", needed)


def _model(path: Path | CosaError) -> _Part:
    if isinstance(path, CosaError):
        return _Part("model", False, str(path), "cosa models fetch", True)
    return _Part("model", True, str(path), "", True)


def _local(choice: Choice | MissingExtra) -> _Part:
    if isinstance(choice, MissingExtra):
        return _Part("local", False, "runs models on this machine", f"pip install 'cosa[{choice.extra}]'", True)
    return _Part("local", True, f"backend 'local' is {choice.name}: {choice.why}", "", True)


def _runtimes() -> Iterator[_Part]:
    what = {
        "llama-cpp": "GGUF models, configs resident, batches; built from source (a compiler, 5 to 14 minutes)",
        "transformers": "models in safetensors, on a GPU too",
        "xllamacpp": "GGUF models, from a prebuilt wheel",
    }
    for runtime in LOCAL:
        yield _package(
            runtime.name,
            runtime.imports,
            runtime.distribution,
            f"pip install 'cosa[{runtime.extra}]'",
            what[runtime.name],
        )


def _parts(model: Path | CosaError, choice: Choice | MissingExtra) -> list[_Part]:
    return [
        _Part("cosa", True, f"{importlib.metadata.version('cosa')} on Python {platform.python_version()}", ""),
        _package("terms", "re2", "google-re2", "pip install google-re2", "linear-time patterns", needed=True),
        _local(choice),
        _model(model),
        *_runtimes(),
        _package(
            "embedded", "onnxruntime", "onnxruntime", "pip install 'cosa[embedded]'", "runs the shipped classifier"
        ),
        _package("tokens", "tiktoken", "tiktoken", "pip install 'cosa[tokens]'", "counts tokens for vendor models"),
        _package(
            "hub", "huggingface_hub", "huggingface-hub", "pip install 'cosa[hub]'", "`cosa models add owner/repo`"
        ),
        _package("plot", "matplotlib", "matplotlib", "pip install 'cosa[plot]'", "`cosa models bench --plot`"),
    ]


def doctor(json: options.JsonOption = False) -> None:
    """Show what is installed and what is missing. Exit code 1 when the local demo could not run."""
    model: Path | CosaError
    choice: Choice | MissingExtra
    try:
        model = library.resolve_model(None)
    except CosaError as error:
        model = error
    try:
        choice = choose(model if isinstance(model, Path) else None)
    except MissingExtra as error:
        choice = error
    parts = _parts(model, choice)
    missing = [part for part in parts if part.needed and not part.found]
    if json:
        chosen = asdict(choice) if isinstance(choice, Choice) else None
        options.print_json({"parts": [asdict(part) for part in parts], "ready": not missing, "local": chosen})
        raise typer.Exit(1 if missing else 0)
    table = Table("", "part", "what", "how to get it", box=None, header_style="bold")
    for part in parts:
        mark = "[green]ok[/green]" if part.found else "[red]missing[/red]" if part.needed else "[dim]optional[/dim]"
        # As text: `cosa[local]` is no markup.
        table.add_row(mark, part.part, Text(part.what, overflow="fold"), Text(part.get, overflow="fold"))
    options.Console(highlight=False).print(table)
    raise typer.Exit(1 if missing else 0)
