"""`cosa check`: does a text keep a config? The exit code answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from cosa_guard.cli import options
from cosa_guard.guard import Guard
from cosa_guard.verdicts import Ruling
from cosa_sdk.errors import UsageError

__all__ = ["check", "ruling_json"]

EXIT = {"compliant": 0, "violates": 1, "undecided": 3}


def check(
    text: Annotated[str | None, typer.Argument(help="The text; - or nothing reads standard input.")] = None,
    config: options.ConfigOption = ...,  # type: ignore[assignment]  # typer's mark of a required option
    stage: Annotated[
        Literal["input", "output"], typer.Option(help="What a user asks, or what a model answered.")
    ] = "input",
    prompt: Annotated[str | None, typer.Option(help="For a reply: the prompt that it answers.")] = None,
    judge: options.JudgeOption = None,
    model: options.ModelOption = "",
    json: options.JsonOption = False,
) -> None:
    """Check a text against a config. Exit code: 0 compliant, 1 violates, 3 undecided, 2 error."""
    if prompt is not None and stage != "output":
        raise UsageError("--prompt is what a reply answers: it needs --stage output")
    if model and "model" not in (judge or []):
        raise UsageError("--model is the model that judges: it needs --judge model")
    given = options.require_text(text)
    settings = options.find_config(config)
    backend = options.open_backend(model) if "model" in (judge or []) else None
    guard = options.guard_for(settings, names=judge, backend=backend)
    ruling = guard.check(given, stage=stage, prompt=prompt)
    if json:
        options.print_json(ruling_json(guard, ruling))
    else:
        _print(guard, ruling)
    if ruling.error:
        options.say(f"cosa: a judge failed: {ruling.error}")
        raise typer.Exit(2)
    raise typer.Exit(EXIT[ruling.outcome])


def ruling_json(guard: Guard, ruling: Ruling) -> dict[str, Any]:
    """The object that `cosa check --json` prints."""
    body: dict[str, Any] = {"decision": ruling.outcome}
    if ruling.stage == "input":
        body["prompt_type"] = ruling.decision.prompt_type
    return {
        **body,
        "risks": {risk: p for verdict in ruling.verdicts for risk, p in verdict.risks.items()},
        "rules": list(ruling.decision.rules),
        "unexamined": list(ruling.decision.unexamined),
        "tolerated": list(ruling.decision.tolerated),
        "spans": sorted({span for verdict in ruling.verdicts for span, _ in verdict.spans}),
        "judge": ruling.decided_by,
        "config": guard.config.digest,
    }


def _print(guard: Guard, ruling: Ruling) -> None:
    console = options.Console(highlight=False)  # the answer: on stdout
    colour = {"compliant": "green", "violates": "red", "undecided": "yellow"}[ruling.outcome]
    rests = f" ({', '.join(ruling.decision.rules)})" if ruling.decision.rules else ""
    console.print(f"[{colour}]{ruling.outcome}[/{colour}]{rests}  decided by {ruling.decided_by}")
    for verdict in ruling.verdicts:
        if verdict.reason:
            console.print(f"  {verdict.judge}: {verdict.reason}", markup=False)
    if ruling.decision.unexamined:
        console.print(f"  nobody examined: {', '.join(ruling.decision.unexamined)}", markup=False)
        if guard.unexamined:
            console.print(
                "  a judge that reads the policy covers them: --judge rules --judge embedded --judge model",
                markup=False,
            )
