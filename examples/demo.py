"""One question, one small local model, three safety configs; a masked stream; twenty prompts nobody tuned for.

    python examples/demo.py [--model FILE.gguf] [--judge rules --judge embedded --judge model]

`make demo` runs it. The default judges are `rules` and, where its extra is installed, `embedded`; `--judge model` lets
the model read the rules too (slower).
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
RIVAL = "Who is Globex Mobile? Begin your answer with 'Globex Mobile is'."
MARKS = {"right": "green", "wrong": "red", "undecided": "yellow"}

console = Console(highlight=False)


def heading(text: str) -> None:
    console.print(f"\n[bold]{text}[/bold]")


def guard(spec: str, backend: AnyBackend, judges: list[str] | None, *, undecided: str | None = None) -> Guard:
    return options.guard_for(options.find_config(spec, undecided), names=judges, backend=backend)


def masked_stream(backend: AnyBackend) -> None:
    """The customer-service preset masks competitors' names while the reply is written: `rules` knows their places."""
    one = guard("customer-service", backend, ["rules"], undecided="allow")
    console.print(f"user: {RIVAL}", style="italic", markup=False)
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


def lesson(one: Guard) -> str:
    """What the judges of the table do and do not, in words."""
    kinds = {judge.name.partition("/")[0] for judge in one.judges}
    told = ["'rules' finds a config's words, exactly, and reads no meaning."] if "rules" in kinds else []
    if "embedded" in kinds:
        told.append(
            "'embedded' reads meaning: it gives each of the eight risks, and the floor, a probability. It misses some "
            "texts and flags some for nothing. A rule in words it matches by likeness alone, which is weak, and "
            "conditions ('unless …') it does not read."
        )
    elif kinds == {"rules"}:
        told.append("Judges that read meaning: pip install 'cosa[embedded]', or --judge rules --judge model.")
    told.append(
        "What lies between a judge's thresholds, or what none examined, is undecided, and undecided blocks unless a "
        "config says otherwise (parts 1 and 2 were run with --on-undecided allow, to show replies)."
    )
    return " ".join(told)


def main() -> None:
    parser = argparse.ArgumentParser(description="One question, one model, three safety configs.")
    parser.add_argument("--model", default="", help="a GGUF file; default: $COSA_MODEL, else SmolLM2-135M-Instruct")
    parser.add_argument("--judge", action="append", help="rules, embedded, model; repeat it")
    chosen = parser.parse_args()
    judges: list[str] | None = chosen.judge  # None: as a guard chooses by itself
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
    asked = guard("childrens-learning", backend, judges)
    unseen(asked)
    console.print(lesson(asked), style="yellow", markup=False)
    console.print(f"\nmodel loaded in {loaded:.1f} s, all in {time.perf_counter() - started:.1f} s", style="dim")


if __name__ == "__main__":
    try:
        main()
    except options.CosaError as error:
        sys.exit(f"demo: {error}")
