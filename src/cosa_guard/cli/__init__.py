"""The `cosa` command."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated

import typer

from cosa_guard.cli import audit, chat, check, compare, config, doctor, eval, judge, models, serve  # noqa: A004  # the command's name
from cosa_guard.cli.options import say
from cosa_sdk.errors import CosaError

__all__ = ["app", "main"]

app = typer.Typer(
    name="cosa",
    help="Your safety rules, not your vendor's: one config tells the model what is safe, and enforces it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"cosa {importlib.metadata.version('cosa')}")
        raise typer.Exit


@app.callback()
def cosa(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Your safety rules, not your vendor's: one config tells the model what is safe, and enforces it."""


app.command("chat")(chat.chat)
app.command("compare")(compare.compare)
app.command("check")(check.check)
app.add_typer(config.app, name="config")
app.add_typer(judge.app, name="judge")
app.add_typer(eval.app, name="eval")
app.add_typer(models.app, name="models")
app.add_typer(audit.app, name="audit")
app.add_typer(serve.app, name="serve")
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Run the command. Errors that Cosa raises on purpose are one message and exit code 2, never a traceback."""
    try:
        app()
    except CosaError as error:
        say(f"cosa: {error}")
        sys.exit(2)
    except KeyboardInterrupt:
        say("cosa: stopped")
        sys.exit(130)
    except OSError as error:
        say(f"cosa: {error}")
        sys.exit(2)
