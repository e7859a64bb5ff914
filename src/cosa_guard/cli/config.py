"""`cosa config`: compile, show, validate and list safety configs."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

import cosa_sdk
from cosa_guard.cli import options
from cosa_sdk import compile as compile_config
from cosa_sdk import presets
from cosa_sdk.errors import ConfigError, Finding, UnknownName

__all__ = ["app"]

app = typer.Typer(help="Compile, show, validate and list safety configs.", no_args_is_help=True)
_Spec = Annotated[str, typer.Argument(metavar="CONFIG", help="A preset's name, a file, or text:<free text>.")]


@app.command("compile")
def compile_(
    config: _Spec,
    target: Annotated[str, typer.Option("--target", "-t", help=f"One of {', '.join(cosa_sdk.TARGETS)}.")] = "system",
    seed: Annotated[int, typer.Option(help="Chooses the wording of cosalign.")] = 0,
    budget: Annotated[int | None, typer.Option(help="Most tokens.", min=1)] = None,
    json: options.JsonOption = False,
) -> None:
    """Print what a model or a judge reads of a config."""
    compiled = compile_config(options.find_config(config), target, seed=seed, budget=budget)
    if json:
        body: dict[str, Any] = {
            "target": compiled.target,
            "version": compiled.version,
            "digest": compiled.digest,
            "tokens": compiled.tokens,
            "counted": compiled.counted,
        }
        if compiled.turns:
            turns = (("system", compiled.text), *compiled.turns)
            body["messages"] = [{"role": role, "content": content} for role, content in turns]
        else:
            body["text"] = compiled.text
        options.print_json(body)
        return
    options.write(compiled.text + "\n")
    for role, content in compiled.turns:
        options.write(f"\n{role}: {content}\n")
    how = "counted" if compiled.counted else "estimated"
    options.console.print(
        f"{compiled.version}, {compiled.tokens} tokens ({how}), config {compiled.digest[:12]}", style="dim"
    )


@app.command()
def show(config: _Spec, json: options.JsonOption = False) -> None:
    """Print a config, valid and complete."""
    found = options.find_config(config)
    if json:
        options.print_json({**found.model_dump(mode="json"), "digest": found.digest})
        return
    options.write(cosa_sdk.dump(found, format="yaml"))
    options.console.print(f"digest {found.digest}", style="dim")


@app.command()
def validate(
    configs: Annotated[list[str], typer.Argument(metavar="CONFIG…", help="Presets or files.")],
    json: options.JsonOption = False,
) -> None:
    """Check configs. Exit code: 0 all valid, 1 findings, 2 error."""
    findings: list[Finding] = []
    for spec in configs:
        try:
            options.find_config(spec)
        except ConfigError as error:
            findings += error.findings
        except UnknownName as error:
            findings.append(Finding(code="unknown-config", message=str(error)))
        else:
            if not json:
                options.write(f"{spec}: valid\n")
    if json:
        options.print_json({"findings": [_finding_json(finding) for finding in findings]})
    else:
        for finding in findings:
            options.write(f"{finding}\n")
    raise typer.Exit(1 if findings else 0)


def _finding_json(finding: Finding) -> dict[str, Any]:
    return {
        "code": finding.code,
        "severity": finding.severity,
        "file": finding.file,
        "line": finding.line,
        "column": finding.column,
        "where": finding.where,
        "message": finding.message,
        "fix": finding.fix,
    }


@app.command("list")
def list_(json: options.JsonOption = False) -> None:
    """List the presets."""
    rows = [(name, presets.describe(name), presets.load(name)) for name in presets.names()]
    if json:
        options.print_json({"presets": [{"name": n, "describes": d, "digest": c.digest} for n, d, c in rows]})
        return
    table = Table("preset", "for", "rules", box=None, header_style="bold")
    for name, describes, config in rows:
        table.add_row(name, describes, str(len(config.rules)))
    options.Console(highlight=False).print(table)
    options.console.print("Start from one: cosa config show NAME > my.yaml", style="dim")
