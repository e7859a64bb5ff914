"""`cosa chat`: talk to a local model under a config."""

from __future__ import annotations

from typing import Annotated

import typer

from cosa_guard.cli import options
from cosa_guard.cli.running import run, verdict_line
from cosa_guard.conversation import MessageLike
from cosa_guard.guard import Guard
from cosa_guard.messages import Message, Sampling
from cosa_sdk.errors import PromptTooLong, UsageError

__all__ = ["chat"]


def chat(
    name: Annotated[str | None, typer.Argument(metavar="[CONFIG]", help="As --config.")] = None,
    config: Annotated[
        str | None, typer.Option("--config", "-c", help="A preset's name, a file, or text:<free text>.")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Ask once and leave.")] = None,
    judge: options.JudgeOption = None,
    model: options.ModelOption = "",
    adapter: options.AdapterOption = None,
    on_undecided: options.UndecidedOption = None,
    temperature: options.TemperatureOption = 0.0,
    seed: options.SeedOption = None,
    max_tokens: options.MaxTokensOption = 256,
    context: options.ContextOption = 4096,
    json: options.JsonOption = False,
) -> None:
    """Chat with a local model under a config. With --prompt, exit code 1 means blocked."""
    if name and config:
        raise UsageError(f"two configs, {name!r} and {config!r}: give one")
    asked = options.require_text(prompt) if prompt is not None or json else None
    if asked is not None and not asked.strip():
        raise UsageError("the prompt is empty: give --prompt some words")
    settings = options.find_config(config or name or "customer-service", on_undecided)
    backend = options.open_backend(model, adapter or [], context=context)
    guard = options.guard_for(settings, names=judge, backend=backend, adapters=adapter or [])
    sampling = Sampling(temperature=temperature, seed=seed, max_tokens=max_tokens)
    if asked is None:
        _talk(guard, sampling)
        return
    done = run(guard, asked, sampling, None if json else options.write)
    if json:
        options.print_json(done.json())
    else:
        options.write("\n")
        options.console.print(verdict_line(done.report), style="dim", markup=False)
        _explain(guard, undecided=done.report.blocked and bool(guard.unexamined))
    raise typer.Exit(1 if done.report.blocked else 0)


def _talk(guard: Guard, sampling: Sampling) -> None:
    console = options.console
    name = guard.backend.name if guard.backend else "no model"
    console.print(f"[bold]{guard.config.name}[/bold] on {name}; Ctrl-D ends, Ctrl-C stops a reply")
    for line in options.judge_facts(guard):
        console.print(f"  judge {line}", style="dim", markup=False)
    _explain(guard, undecided=bool(guard.unexamined))
    turns: list[MessageLike] = []
    while True:
        try:
            asked = console.input("[bold cyan]> [/bold cyan]").strip()
        except (EOFError, KeyboardInterrupt, RuntimeError):  # RuntimeError: there is no standard input at all
            options.write("\n")
            return
        if not asked:
            continue
        try:
            done = run(guard, [*turns, Message("user", asked)], sampling, options.write)
        except KeyboardInterrupt:
            console.print("\nstopped", style="dim")
            continue
        except PromptTooLong as error:
            console.print(f"{error}", style="red", markup=False)
            continue
        options.write("\n")
        console.print(verdict_line(done.report), style="dim", markup=False)
        turns += [Message("user", asked), Message("assistant", done.reply)]


def _explain(guard: Guard, *, undecided: bool) -> None:
    if not undecided:
        return
    setting = guard.config.enforcement.on_undecided
    options.console.print(
        f"No judge given can decide everything this config says; on_undecided: {setting}. "
        "Let the model read the rules with --judge rules --judge model"
        + (", or see undecided replies with --on-undecided allow." if setting == "block" else "."),
        style="yellow",
        markup=False,
    )
