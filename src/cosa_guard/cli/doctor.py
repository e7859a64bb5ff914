"""`cosa doctor`: what is installed, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import platform
from dataclasses import asdict, dataclass
from importlib.util import find_spec

import typer
from rich.table import Table
from rich.text import Text

from cosa_guard.backends import models as library
from cosa_guard.cli import options
from cosa_sdk.errors import CosaError

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
    return _Part(part, True, f"{distribution} {importlib.metadata.version(distribution)}: {what}", "", needed)


def _model() -> _Part:
    try:
        path = library.resolve_model(None)
    except CosaError as error:
        return _Part("model", False, str(error), "cosa models fetch", True)
    return _Part("model", True, str(path), "", True)


def _parts() -> list[_Part]:
    return [
        _Part("cosa", True, f"{importlib.metadata.version('cosa')} on Python {platform.python_version()}", ""),
        _package("terms", "re2", "google-re2", "pip install google-re2", "linear-time patterns", needed=True),
        _package(
            "local",
            "xllamacpp",
            "xllamacpp",
            "pip install 'cosa[local]'",
            "runs GGUF models; backend 'local'",
            needed=True,
        ),
        _model(),
        _package(
            "embedded", "onnxruntime", "onnxruntime", "pip install 'cosa[embedded]'", "runs the shipped classifier"
        ),
        _package("tokens", "tiktoken", "tiktoken", "pip install 'cosa[tokens]'", "counts tokens for vendor models"),
    ]


def doctor(json: options.JsonOption = False) -> None:
    """Show what is installed and what is missing. Exit code 1 when the local demo could not run."""
    parts = _parts()
    missing = [part for part in parts if part.needed and not part.found]
    if json:
        options.print_json({"parts": [asdict(part) for part in parts], "ready": not missing})
        raise typer.Exit(1 if missing else 0)
    table = Table("", "part", "what", "how to get it", box=None, header_style="bold")
    for part in parts:
        mark = "[green]ok[/green]" if part.found else "[red]missing[/red]" if part.needed else "[dim]optional[/dim]"
        # As text: `cosa[local]` is no markup.
        table.add_row(mark, part.part, Text(part.what, overflow="fold"), Text(part.get, overflow="fold"))
    options.Console(highlight=False).print(table)
    raise typer.Exit(1 if missing else 0)
