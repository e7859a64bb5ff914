"""Suites: prompts under safety configs. The names that ship or are known, and files of your own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cosa_guard.evals.suite import Suite
from cosa_guard.evals.suites import cosalign_test, cosapien
from cosa_guard.evals.suites.files import load_file
from cosa_guard.evals.suites.reading import SUFFIXES
from cosa_sdk.errors import UnknownName, UsageError

__all__ = ["load", "names"]

_STARTER = Path(__file__).parent / "starter" / "suite.yaml"


def names() -> tuple[str, ...]:
    """Suites that `load` knows by name."""
    return ("starter", "cosapien", "cosalign-test")


def load(spec: str | Path, *, shots: str | Path | None = None) -> Suite:
    """The suite that `spec` names.

    Args:
        spec: `starter`; `cosapien` or `cosalign-test`, from the hub, or from files as `cosapien:PATH`; or the path of a
            suite of your own. `cosapien:PATH,shots=FILE` gives few-shot turns too.
        shots: few-shot turns for `cosapien`: a JSON list of `{scenario, prompt, response}`.

    Raises:
        UnknownName: no such suite, and no such file.
        UsageError: its rows are wrong, or it cannot be read or fetched.
        MissingExtra: what reads it is not installed.
    """
    text = str(spec)
    name, _, rest = text.partition(":")
    where, _, turns = rest.partition(",shots=")
    shots = shots or turns or None
    if name == "cosapien":
        return cosapien.load(where or None, shots=shots)
    if shots is not None:
        raise UsageError(f"suite {text!r} takes no shots from outside: put `shots` into its file; cosapien takes them")
    if name == "cosalign-test":
        return cosalign_test.load(where or None)
    if text == "starter":
        return replace(load_file(_STARTER), source="the package")
    if Path(text).is_file():
        return load_file(text)
    if text.lower().endswith(SUFFIXES) or "/" in text:
        raise UsageError(f"there is no suite file {text!r}: give a path, or one of {', '.join(names())}")
    raise UnknownName("suite", text, names(), f"Or give a file: {', '.join(SUFFIXES)}.")
