"""Importing a package loads no optional dependency, and the SDK loads nothing that it may never need, nor the guard."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("yaml", "re2", "httpx", "typer", "rich", "torch", "xllamacpp")
SDK = (*HEAVY, "cosa_guard")
OPTIONAL = (
    *HEAVY,
    "transformers",
    "llama_cpp",
    "openai",
    "anthropic",
    "httpx2",
    "starlette",
    "aiohttp",
    "tiktoken",
    "numpy",
    "onnxruntime",
)


def loaded_by(code):
    """Top-level modules in a fresh process after `code`."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    ("code", "none_of"),
    [
        ("from cosa_sdk import *; compile(SafetyConfig(name='c', rules=[Rule(stance='forbid', risk='drugs')]))", SDK),
        ("import cosa_guard, cosa_guard.testing", OPTIONAL),
        ("import cosa_guard.cli", ("torch", "xllamacpp", "openai", "tiktoken", "numpy", "onnxruntime")),
    ],
    ids=["sdk", "guard", "cli"],
)
def test_import_loads_no_optional_dependency(code, none_of):
    assert set() == loaded_by(code) & set(none_of)


def test_what_a_config_needs_is_loaded_with_it():
    """The other way round, so that this test can fail: YAML comes with the first file, RE2 with the first pattern."""
    loaded = loaded_by("import cosa_sdk; cosa_sdk.loads('name: c', format='yaml'); cosa_sdk.Term(regex='a')")

    assert {"yaml", "re2"} <= loaded
