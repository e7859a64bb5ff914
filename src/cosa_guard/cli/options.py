"""What several commands share: options, and how their words become configs, models and guards."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console

import cosa_sdk
from cosa_guard import backends, judges
from cosa_guard.backends.base import AnyBackend
from cosa_guard.guard import Guard
from cosa_guard.judges.base import AnyJudge
from cosa_guard.judges.model import ModelJudge
from cosa_sdk import SafetyConfig, presets
from cosa_sdk.errors import CosaError, UnknownName, UsageError

__all__ = [
    "AdapterOption",
    "ConfigOption",
    "Console",
    "ContextOption",
    "CosaError",
    "JsonOption",
    "JudgeOption",
    "MaxTokensOption",
    "ModelOption",
    "SeedOption",
    "TemperatureOption",
    "UndecidedOption",
    "console",
    "find_config",
    "guard_for",
    "judge_facts",
    "make_judges",
    "open_backend",
    "print_json",
    "require_text",
    "say",
    "write",
]

console = Console(stderr=True, highlight=False)
"""For people: progress, verdicts, errors. What scripts read goes to stdout."""

ConfigOption = Annotated[str, typer.Option("--config", "-c", help="A preset's name, a file, or text:<free text>.")]
ModelOption = Annotated[
    str,
    typer.Option(
        "--model", "-m", help="A model's name, a GGUF file or a folder. Default: $COSA_MODEL, else SmolLM2-135M."
    ),
]
AdapterOption = Annotated[
    list[str] | None, typer.Option("--adapter", help="A LoRA adapter (GGUF), as FILE or FILE:SCALE. Repeatable.")
]
JudgeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        "-j",
        help="Who decides, asked in order: rules, embedded, fast, model, a guard model such as llama-guard:BACKEND, "
        "moderation:URL, or a plugin's name. Repeatable. "
        "Default: rules, and embedded where its extra is installed.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else there.")]
UndecidedOption = Annotated[
    Literal["allow", "block"] | None,
    typer.Option(
        "--on-undecided", help="What happens to text that no judge could decide. Default: as the config says."
    ),
]
TemperatureOption = Annotated[float, typer.Option(min=0.0, max=2.0, help="0 always takes the likeliest token.")]
SeedOption = Annotated[int | None, typer.Option(help="Makes a run with a temperature repeatable.")]
ContextOption = Annotated[int, typer.Option(min=64, help="Tokens that a prompt and its reply may take together.")]
MaxTokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest reply, in tokens.")]

_SUFFIXES = {".yaml", ".yml", ".toml", ".json"}


def say(text: str) -> None:
    """A line on stderr, as it is: no markup, no wrapping."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def write(text: str) -> None:
    """Text on stdout, at once. A reader that went away (`cosa … | head`) ends the command, as a signal would.

    Raises:
        UsageError: standard output takes no more.
    """
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or flushing at exit fails again
        sys.exit(141)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise UsageError(f"cannot write to standard output: {error.strerror}") from None


def print_json(value: dict[str, Any]) -> None:
    """The one object on stdout."""
    write(json.dumps(value, ensure_ascii=False) + "\n")


def find_config(spec: str, undecided: str | None = None) -> SafetyConfig:
    """The config behind a preset's name, a file's path, or `text:…`.

    Raises:
        UnknownName: it is none of these.
        ConfigError: the file or text is not valid.
    """
    if spec.startswith("text:"):
        config = SafetyConfig.from_text(spec.removeprefix("text:"))
    elif spec in presets.names():
        config = presets.load(spec)
    elif Path(spec).suffix in _SUFFIXES or Path(spec).exists():
        config = cosa_sdk.load(spec)
    else:
        raise UnknownName("config", spec, presets.names(), "Or give a .yaml, .toml or .json file, or text:<free text>.")
    if undecided is None:
        return config
    return config.replace(enforcement={**config.enforcement.model_dump(), "on_undecided": undecided})


def open_backend(model: str, adapters: Sequence[str] = (), *, context: int = 4096) -> AnyBackend:
    """A local backend for a model file (empty: the default one) with its adapters loaded."""
    loaded: dict[str, str] = {}
    for spec in adapters:
        path, _ = _adapter(spec)
        loaded[Path(path).stem] = path
    with console.status("loading the model"):
        return backends.make(f"local:{model}" if model else "local", adapters=loaded, context=context)


def _adapter(spec: str) -> tuple[str, float]:
    path, colon, scale = spec.rpartition(":")
    if not colon:
        return spec, 1.0
    try:
        return path, float(scale)
    except ValueError:
        return spec, 1.0  # a colon inside the path


def make_judges(names: Sequence[str] | None, backend: AnyBackend | None) -> list[AnyJudge]:
    """Judges by name; `model` without an argument reads with the model that also answers.

    Raises:
        UnknownName: there is no such judge.
    """
    return [
        judges.make(name, backend=backend) if name == "model" and backend else judges.make(name)
        for name in names or judges.default()
    ]


def guard_for(
    config: SafetyConfig,
    *,
    names: Sequence[str] | None,
    backend: AnyBackend | None = None,
    adapters: Sequence[str] = (),
) -> Guard:
    """A guard as the command line asks for it; what its judges leave unexamined is shown, not refused."""
    from cosa_guard.messages import Adapter  # noqa: PLC0415  # small, and only where adapters are given

    used = [Adapter(name=Path(path).stem, scale=scale) for path, scale in map(_adapter, adapters)]
    return Guard(config, judge=make_judges(names, backend), backend=backend, accept_unexamined=True, adapters=used)


def judge_facts(guard: Guard) -> list[str]:
    """A line for each judge: what it is and how far it may be believed."""
    lines = []
    for judge in guard.judges:
        if isinstance(judge, ModelJudge):
            lines.append(f"{judge.name}: input {judge.calibration('input')}; output {judge.calibration('output')}")
        elif judge.name.startswith("rules/"):
            lines.append(f"{judge.name}: exact for the config's terms; reads no meaning")
        elif hasattr(judge, "calibrated"):
            lines.append(f"{judge.name}: {judge.calibrated}")
        else:
            lines.append(f"{judge.name}: accuracy not measured")
    return lines


def require_text(text: str | None) -> str:
    """The argument, or standard input for `-` and for a pipe.

    Raises:
        UsageError: there is neither.
    """
    if text is not None and text != "-":
        return text
    if sys.stdin is None or (text is None and sys.stdin.isatty()):
        raise UsageError("no text: give it as an argument, or - to read it from standard input")
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"standard input is not UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
        ) from None
