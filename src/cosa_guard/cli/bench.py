"""`cosa models bench`: how fast each installed backend runs a model on this machine."""

from __future__ import annotations

import json
import os
import platform
import signal
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.bar import Bar
from rich.table import Table
from rich.text import Text

from cosa_guard import backends
from cosa_guard.backends.local import LOCAL
from cosa_guard.backends.models import resolve_model
from cosa_guard.backends.settings import default_threads
from cosa_guard.cli import options
from cosa_guard.cli.plot import check_plot, save_bars
from cosa_guard.cli.writing import plain
from cosa_sdk.errors import UnknownName

__all__ = ["bench"]

_FIGURES: Final = {
    "load_s": ("load, s", "less is better"),
    "prefill_tps": ("reads, tokens/s", "more is better"),
    "generate_tps": ("writes, tokens/s", "more is better"),
    "ttft_cold_ms": ("first text, cold, ms", "less is better"),
    "ttft_warm_ms": ("first text, warm, ms", "less is better"),
    "peak_mb": ("peak memory, MB", "less is better"),
}
_BAR: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What came of one backend."""

    backend: str
    figures: dict[str, float | None] = field(default_factory=dict)
    """Medians of the rounds."""
    problem: str | None = None
    """Why there are no figures."""

    def json(self) -> dict[str, Any]:
        """The entry for `--json`."""
        return {"backend": self.backend, **dict.fromkeys(_FIGURES), **self.figures, "problem": self.problem}


def bench(
    model: Annotated[
        str, typer.Argument(help="A model's name, a GGUF file or a folder; nothing for the default model.")
    ] = "",
    backend: Annotated[
        list[str] | None, typer.Option("--backend", "-b", help="Which backend. Repeatable. Default: all local ones.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds, each in a new process; medians are shown.")] = 3,
    plot: Annotated[Path | None, typer.Option("--plot", help="Draw the figures too: FILE.png or FILE.svg.")] = None,
    json: options.JsonOption = False,
) -> None:
    """Measure each local backend: loading, tokens/s, time to first text, memory. Exit code 1: none could run."""
    for name in backend or ():
        if name not in backends.names():
            raise UnknownName("backend", name, backends.names())
    if plot is not None:
        check_plot(plot)
    path = resolve_model(model or None)
    rows = [_row(name, path, rounds) for name in backend or [runtime.name for runtime in LOCAL]]
    measured = [row for row in rows if row.problem is None]
    if json:
        machine = {"processor": platform.machine(), "cores": os.cpu_count(), "threads": default_threads()}
        found = [row.json() for row in rows]
        options.print_json({"model": str(path), "machine": machine, "rounds": rounds, "backends": found})
    else:
        _show(path, rows, measured)
    if plot is not None and measured:
        headings = {f"{what} ({better})": _values(measured, key) for key, (what, better) in _FIGURES.items()}
        save_bars(plot, path.name, headings)
        options.say(f"drawn in {plot}")
    raise typer.Exit(0 if measured else 1)


def _row(name: str, model: Path, rounds: int) -> Row:
    runtime = next((one for one in LOCAL if one.name == name), None)
    if runtime and not runtime.installed:
        return Row(backend=name, problem=f"not installed: pip install 'cosa[{runtime.extra}]'")
    if runtime and model.is_dir() and not runtime.folders:
        return Row(backend=name, problem="runs GGUF files only, and this is a folder")
    done: list[dict[str, Any]] = []
    for number in range(1, rounds + 1):
        options.say(f"{name}: round {number} of {rounds}")
        answer = _in_a_child(f"{name}:{model}")
        if "error" in answer:
            return Row(backend=name, problem=plain(answer["error"]))
        done.append(answer)
    counted = done[0].pop("counted")
    figures = {key: _median([one[key] for one in done]) for key in done[0]}
    return Row(backend=name, figures=figures | {"counted": counted})


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _in_a_child(spec: str) -> dict[str, Any]:
    """The figures of one round, or the `error` that kept them away."""
    command = [sys.executable, "-m", "cosa_guard.backends.measure", spec]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)  # noqa: S603  # ours
    if done.returncode == 0 and done.stdout.startswith("{"):
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer
    how = f"exit code {done.returncode}"
    if done.returncode < 0:
        how = signal.Signals(-done.returncode).name
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    return {"error": f"its process ended with {how}; the last it said: {said[-1] if said else 'nothing'}"}


def _values(rows: Sequence[Row], key: str) -> dict[str, float]:
    return {row.backend: value for row in rows if (value := row.figures.get(key)) is not None}


def _show(path: Path, rows: Sequence[Row], measured: Sequence[Row]) -> None:
    console = options.Console(highlight=False)
    console.print(Text(plain(path.name), style="bold"))
    table = Table("backend", *(what for what, _ in _FIGURES.values()), box=None, header_style="bold")
    for row in measured:
        table.add_row(row.backend, *(_shown(row.figures.get(key)) for key in _FIGURES))
    if measured:
        console.print(table)
    for row in rows:
        if row.problem is not None:
            console.print(Text(f"{row.backend}: {row.problem}", style="dim"))
    for key, (what, better) in _FIGURES.items():
        values = _values(measured, key)
        if not values:
            continue
        bars = Table("", "", "", box=None, show_header=False)
        for name, value in values.items():
            bars.add_row(name, Bar(max(values.values()), 0, value, width=_BAR), _shown(value))
        console.print(Text(f"\n{what} ({better})", style="bold"), bars)


def _shown(value: float | None) -> str:
    return "?" if value is None else f"{value:,.2f}" if value < 10 else f"{value:,.0f}"  # noqa: PLR2004
