"""Ceilings that keep the code readable; raising one is a decision, not an accident."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "src").rglob("*.py"))
LINES, FUNCTION = 400, 60


def functions(path):
    tree = ast.parse(path.read_text("utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_module_is_small(path):
    lines = path.read_text("utf-8").count("\n")

    assert lines <= LINES


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_functions_are_small(path):
    long = {node.name: size for node in functions(path) if (size := node.end_lineno - node.lineno + 1) > FUNCTION}

    assert {} == long


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "src")))
def test_module_says_what_is_public(path):
    assert path.name.startswith("_") or "__all__" in path.read_text("utf-8")


def test_no_machine_paths_anywhere():
    pattern = re.compile(r"(?<![\w.])/(?:work|root|home)/[\w.-]+")
    files = [path for folder in ("src", "docs", "examples", "benchmarks", "tests") for path in (ROOT / folder).rglob("*")]
    files += [path for path in ROOT.iterdir() if path.suffix in {".md", ".toml"}]
    named = [
        str(path.relative_to(ROOT))
        for path in files
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".json", ".txt"} and pattern.search(path.read_text("utf-8"))
    ]

    assert [] == named


def test_one_version_literal():
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE).group(1)
    again = [str(path) for path in MODULES if f'"{version}"' in path.read_text("utf-8")]

    assert [] == again
