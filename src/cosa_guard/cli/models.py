"""`cosa models`: the models that a local backend can use."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table
from rich.text import Text

from cosa_guard.backends import index, library, models
from cosa_guard.backends.hub import Progress as Bytes
from cosa_guard.cli import bench, options
from cosa_guard.cli.writing import plain
from cosa_sdk.errors import UsageError

__all__ = ["app"]

app = typer.Typer(help="List, add, verify, measure and remove local models.", no_args_is_help=True)
app.command("bench")(bench.bench)


@app.command("list")
def list_(json: options.JsonOption = False) -> None:
    """List the models that are found without naming a path."""
    rows = models.list_models()
    if json:
        options.print_json({"models": [row.json() for row in rows]})
        return
    if not rows:
        options.say(
            "no model found: `cosa models fetch` gets the default one (98 MB), or set COSA_MODEL to a GGUF file"
        )
        return
    table = Table("model", "MB", "architecture", "context", "licence", "from", "path", box=None, header_style="bold")
    for row in rows:
        mark = " (default)" if row.is_default else ""
        size, context = f"{row.bytes / 1e6:.0f}", str(row.context or "?")
        cells = (
            row.name + mark,
            size,
            row.architecture or "?",
            context,
            row.licence or "?",
            _short(row.source),
            str(row.path),
        )
        table.add_row(*(Text(plain(cell), overflow="fold") for cell in cells))
    console = options.Console(highlight=False)
    console.print(table)
    for row in rows:
        if row.problem:
            console.print(Text(plain(f"{row.name} cannot be used: {row.problem}"), style="red"))


def _short(source: str) -> str:
    """With the first digits of a commit."""
    place, at, commit = source.partition("@")
    return f"{place}{at}{commit[:7]}"


@app.command()
def add(
    source: Annotated[
        str,
        typer.Argument(
            help="A GGUF file, a folder with safetensors, or a hub's owner/repo[:FILE.gguf][@REVISION] (extra: hub)."
        ),
    ],
    name: Annotated[str | None, typer.Option("--name", "-n", help="What to call it. Default: as the file.")] = None,
    json: options.JsonOption = False,
) -> None:
    """Give a model a name. One on this machine stays where it is; one of a hub is downloaded and checked."""
    with ExitStack() as stack:

        def meter(size: int | None) -> Bytes:
            columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            shown = stack.enter_context(Progress(*columns, console=options.console))
            task = shown.add_task("download", total=size)
            return lambda count: shown.advance(task, count)

        try:
            entry = library.add(source, name=name, say=lambda line: options.say(plain(line)), meter=meter)
        except KeyboardInterrupt:
            options.say("stopped; the same command goes on from here")
            raise
    if json:
        options.print_json(entry.model_dump(mode="json") | {"sha256": entry.sha256})
    else:
        options.say(plain(f"added {entry.name}: {entry.path} (SHA-256 {entry.sha256})"))


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="A model that was added.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before files are deleted.")] = False,
) -> None:
    """Take a model off the list. What `add` downloaded is deleted; your own files stay."""
    entry = index.read_index().get(name)
    if entry is not None and entry.downloaded and not yes:
        size = f"{entry.bytes / 1e6:.0f} MB"
        if not sys.stdin or not sys.stdin.isatty():
            raise UsageError(f"{name!r} was downloaded ({size}): to delete its files say --yes")
        if not typer.confirm(f"delete {name} ({size})?", err=True):
            raise typer.Exit(1)
    entry = library.remove(name)
    options.say(f"deleted {name}" if entry.downloaded else plain(f"removed {name} from the list; {entry.path} stays"))


@app.command()
def fetch() -> None:
    """Fetch the default model (SmolLM2-135M-Instruct, 98 MB, Apache-2.0): no compiler, no account."""
    with options.console.status("fetching SmolLM2-135M-Instruct (98 MB)") as status:
        path = models.fetch_default(status.update)
    options.say(plain(f"{path}"))


@app.command()
def verify(
    path: Annotated[
        str, typer.Argument(help="A model's name, a file or a folder; nothing for the default model.")
    ] = "",
) -> None:
    """Check that a model is whole, and against its checksums if it was added or is the default one."""
    found = models.resolve_model(path or None)
    options.say(plain(models.verify(found)))
