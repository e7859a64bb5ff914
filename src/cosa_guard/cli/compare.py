"""`cosa compare`: one prompt, one model, several configs, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer
from rich.columns import Columns
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from cosa_guard.cli import options
from cosa_guard.cli.running import Run, counter_of, run, verdict_line
from cosa_guard.guard import Guard
from cosa_guard.messages import Sampling
from cosa_sdk import compile as compile_config
from cosa_sdk.errors import UsageError

__all__ = ["compare", "show"]

NARROWEST = 36
"""Columns of one panel; a narrower terminal shows the panels below each other."""
_COLOURS = {"compliant": "green", "violates": "red", "undecided": "yellow"}


def compare(
    prompt: Annotated[str, typer.Argument(help="What to ask.")],
    config: Annotated[
        list[str], typer.Option("--config", "-c", help="A preset, a file, or text:<free text>. Repeat it.")
    ],
    judge: options.JudgeOption = None,
    model: options.ModelOption = "",
    adapter: options.AdapterOption = None,
    on_undecided: options.UndecidedOption = None,
    temperature: options.TemperatureOption = 0.0,
    seed: options.SeedOption = None,
    max_tokens: options.MaxTokensOption = 96,
    context: options.ContextOption = 4096,
    json: options.JsonOption = False,
) -> None:
    """Ask one model the same thing under several configs."""
    if not prompt.strip():
        raise UsageError("the prompt is empty: say what to ask")
    settings = [options.find_config(spec, on_undecided) for spec in config]
    backend = options.open_backend(model, adapter or [], context=context)
    guards = [options.guard_for(one, names=judge, backend=backend, adapters=adapter or []) for one in settings]
    sampling = Sampling(temperature=temperature, seed=seed, max_tokens=max_tokens)
    if json:
        options.print_json({"results": [run(guard, prompt, sampling).json() for guard in guards]})
        return
    console = Console(highlight=False)
    show(prompt, guards, sampling, console)


def show(prompt: str, guards: Sequence[Guard], sampling: Sampling, console: Console) -> list[Run]:
    """Ask, and show the replies as they stream: side by side on a terminal, one after the other elsewhere."""
    backend = guards[0].backend
    console.print(Text.assemble((backend.name if backend else "no model", "bold"), " is asked: ", (prompt, "italic")))
    runs = _side_by_side if console.is_terminal else _in_turn
    done = runs(prompt, guards, sampling, console)
    for line in options.judge_facts(guards[0]):
        console.print(f"judge {line}", style="dim", markup=False)
    _explain(console, guards)
    return done


def _side_by_side(prompt: str, guards: Sequence[Guard], sampling: Sampling, console: Console) -> list[Run]:
    board = _Board(console, guards)
    done: list[Run] = []
    with Live(console=console, refresh_per_second=12) as live:
        for place, guard in enumerate(guards):

            def add(text: str, place: int = place) -> None:
                live.update(board.add(place, text))

            done.append(run(guard, prompt, sampling, add))
            live.update(board.finish(place, done[-1]))
    return done


def _in_turn(prompt: str, guards: Sequence[Guard], sampling: Sampling, console: Console) -> list[Run]:
    done: list[Run] = []
    for guard in guards:
        console.print(f"--- {guard.config.name} · {_size(guard)}", markup=False)
        done.append(run(guard, prompt, sampling, lambda text: console.print(text, end="", markup=False)))
        console.print(f"\n{verdict_line(done[-1].report)}\n{_pace(done[-1])}", markup=False)
    return done


class _Board:
    """The panels, as they fill."""

    def __init__(self, console: Console, guards: Sequence[Guard]) -> None:
        self._width = max(NARROWEST, (console.width - 1) // len(guards))
        self._titles = [f"{guard.config.name} · {_size(guard)}" for guard in guards]
        self._texts = [""] * len(guards)
        self._done: list[Run | None] = [None] * len(guards)

    def add(self, place: int, text: str) -> Columns:
        self._texts[place] += text
        return self.render()

    def finish(self, place: int, done: Run) -> Columns:
        self._done[place] = done
        return self.render()

    def render(self) -> Columns:
        return Columns([self._panel(place) for place in range(len(self._titles))], padding=0)

    def _panel(self, place: int) -> Panel:
        done = self._done[place]
        body = Text(self._texts[place].strip() or "…")
        colour = "dim"
        if done:
            colour = _COLOURS[done.report.outcome]
            body.append(f"\n\n{verdict_line(done.report)}", style=colour)
            body.append(f"\n{_pace(done)}", style="dim")
        return Panel(body, title=self._titles[place], border_style=colour, width=self._width)


def _pace(done: Run) -> str:
    first = f"{done.ttft_ms:.0f} ms to first text, " if done.ttft_ms is not None else ""
    return f"{first}{done.report.tokens} tokens in {done.seconds:.1f} s"


def _size(guard: Guard) -> str:
    compiled = compile_config(guard.config, counter=counter_of(guard))
    return f"{compiled.tokens} tokens" + ("" if compiled.counted else " (estimated)")


def _explain(console: Console, guards: Sequence[Guard]) -> None:
    uncovered = sorted({name for guard in guards for name in guard.unexamined})
    if uncovered:
        shown = ", ".join(uncovered[:3]) + (f" and {len(uncovered) - 3} more" if len(uncovered) > 3 else "")  # noqa: PLR2004
        console.print(
            f"undecided: no judge here examines {shown}; "
            f"on_undecided: {guards[0].config.enforcement.on_undecided} says what happens to such text. "
            "Let the model judge too: --judge rules --judge embedded --judge model.",
            style="yellow",
            markup=False,
        )
