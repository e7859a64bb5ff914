"""One question, one small local model, three safety configs; a masked stream; twenty prompts nobody tuned for.

    python examples/demo.py [--model FILE.gguf] [--judge rules --judge model]

`make demo` runs it. The default judge is `rules`; `--judge model` lets the model read the rules too (slower).
"""

from __future__ import annotations

import argparse
import sys
import time
import tomllib
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cosa_guard.backends.base import AnyBackend
from cosa_guard.cli import options
from cosa_guard.cli.compare import show
from cosa_guard.cli.running import run, verdict_line
from cosa_guard.guard import Guard
from cosa_guard.messages import Sampling
from cosa_sdk import SafetyConfig

QUESTION = "Write two sentences about a man who hides a pistol in a bar."
CONFIGS = ("film-studio", "childrens-learning", "customer-service")
RIVAL = "Complete this sentence in your own words: Compared with Globex Mobile, our network"
MARKS = {"right": "green", "wrong": "red", "undecided": "yellow"}

console = Console(highlight=False)


def heading(text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def guard(spec: str, backend: AnyBackend, judges: list[str], *, undecided: str | None = None) -> Guard:
    return options.guard_for(options.find_config(spec, undecided), names=judges, backend=backend)


def masked_stream(backend: AnyBackend) -> None:
    """The customer-service preset masks competitors' names while the reply is written."""
    one = guard("customer-service", backend, ["rules"], undecided="allow")
    console.print(f"user: {RIVAL} …", style="italic", markup=False)
    done = run(one, RIVAL, Sampling(max_tokens=32), lambda text: console.print(text, end="", markup=False))
    console.print(f"\n{verdict_line(done.report)}", style="dim", markup=False)


def judged(one: Guard, prompt: str, *, disallowed: bool) -> tuple[str, str]:
    ruling = one.check(prompt)
    if ruling.outcome == "undecided":
        return "undecided", ruling.outcome
    return ("right" if (ruling.outcome == "violates") is disallowed else "wrong"), ruling.outcome


def unseen(one: Guard) -> None:
    """The table as it is."""
    prompts = tomllib.loads((Path(__file__).parent / "unseen_prompts.toml").read_text("utf-8"))
    table = Table("", "decision", "prompt", box=None, header_style="bold")
    counts: dict[str, dict[str, int]] = {}
    for group in ("disallowed", "benign"):
        counts[group] = dict.fromkeys(MARKS, 0)
        for prompt in prompts[group]:
            mark, outcome = judged(one, prompt, disallowed=group == "disallowed")
            counts[group][mark] += 1
            table.add_row(f"[{MARKS[mark]}]{mark}[/]", outcome, prompt)
    console.print(table)
    for group, found in counts.items():
        console.print(f"{group}: " + ", ".join(f"{number} {mark}" for mark, number in found.items()))
    for line in options.judge_facts(one):
        console.print(f"judge {line}", style="dim", markup=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="One question, one model, three safety configs.")
    parser.add_argument("--model", default="", help="a GGUF file; default: $COSA_MODEL, else SmolLM2-135M-Instruct")
    parser.add_argument("--judge", action="append", help="rules, model; repeat it")
    chosen = parser.parse_args()
    judges: list[str] = chosen.judge or ["rules"]
    started = time.perf_counter()
    backend = options.open_backend(chosen.model)
    loaded = time.perf_counter() - started

    heading("1. One question, three configs")
    configs: list[SafetyConfig] = [options.find_config(name, "allow") for name in CONFIGS]
    guards = [options.guard_for(config, names=judges, backend=backend) for config in configs]
    show(QUESTION, guards, Sampling(max_tokens=48), console)

    heading("2. A forbidden name is masked in the stream, before anybody sees it")
    masked_stream(backend)

    heading("3. Twenty prompts that no preset was written for, under childrens-learning")
    unseen(guard("childrens-learning", backend, judges))
    console.print(
        "'rules' finds words and reads no meaning: what it does not find stays undecided, and undecided blocks unless "
        "a config says otherwise (parts 1 and 2 were run with --on-undecided allow, to show replies). A semantic judge "
        "that ships with Cosa comes later; until then try --judge rules --judge model, with a stronger --model.",
        style="yellow",
    )
    console.print(f"\nmodel loaded in {loaded:.1f} s, all in {time.perf_counter() - started:.1f} s", style="dim")


if __name__ == "__main__":
    try:
        main()
    except options.CosaError as error:
        sys.exit(f"demo: {error}")
