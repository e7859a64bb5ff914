"""`cosa models`: the model files that a local backend can use."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from cosa_guard.backends import models as library
from cosa_guard.cli import options

__all__ = ["app"]

app = typer.Typer(help="List, fetch and verify local models.", no_args_is_help=True)


@app.command("list")
def list_(json: options.JsonOption = False) -> None:
    """List the models that are found without naming a path."""
    rows = library.list_models()
    if json:
        options.print_json({"models": [row.json() for row in rows]})
        return
    if not rows:
        options.say(
            "no model found: `cosa models fetch` gets the default one (98 MB), or set COSA_MODEL to a GGUF file"
        )
        return
    table = Table("model", "MB", "architecture", "context", "licence", "path", box=None, header_style="bold")
    for row in rows:
        mark = " (default)" if row.is_default else ""
        size, context = f"{row.bytes / 1e6:.0f}", str(row.context or "?")
        path = Text(str(row.path), overflow="fold")
        table.add_row(
            Text(row.name + mark, overflow="fold"), size, row.architecture or "?", context, row.licence or "?", path
        )
    options.Console(highlight=False).print(table)


@app.command()
def fetch() -> None:
    """Fetch the default model (SmolLM2-135M-Instruct, 98 MB, Apache-2.0): no compiler, no account."""
    with options.console.status("fetching SmolLM2-135M-Instruct (98 MB)") as status:
        path = library.fetch_default(status.update)
    options.console.print(f"{path}", markup=False)


@app.command()
def verify(path: Annotated[str, typer.Argument(help="A GGUF file; nothing for the default model.")] = "") -> None:
    """Check that a file is a readable GGUF model, and the default one against its checksum."""
    found = library.resolve_model(path or None)
    options.console.print(library.verify(found), markup=False)
