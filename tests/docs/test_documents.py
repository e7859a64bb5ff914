"""Every block of README and docs is executed, and what it prints is compared.

- `python` blocks of one file share a namespace; a `text` block right after one is its output.
- `console` blocks run their `$ ` lines in a shell; the lines below are the output, `…` stands for any text.
- a `yaml` block whose first line is `# name.yaml` becomes that file.
- blocks marked `local` need the local backend and the default model.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(document):
    return [(kind, marks.split(), body) for kind, marks, body in BLOCK.findall(document.read_text("utf-8"))]


def matches(expected, actual):
    pattern = ".*?".join(re.escape(part) for part in expected.strip().split("…"))
    return re.fullmatch(pattern, actual.strip(), re.DOTALL) is not None


def shell(command, cwd):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "110"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=cwd, capture_output=True, text=True, env=environment, timeout=300, check=False
    )
    return done.stdout + done.stderr


def run_console(body, cwd):
    commands = re.split(r"^\$ ", body, flags=re.MULTILINE)
    assert not commands[0].strip(), f"a console block starts with a command: {body!r}"
    for part in commands[1:]:
        command, _, expected = part.partition("\n")
        printed = shell(command, cwd)
        assert not expected.strip() or matches(expected, printed), f"$ {command}\n{printed}"


def run_python(body, namespace, expected):
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(body, "document", "exec"), namespace)
    assert expected is None or matches(expected, out.getvalue()), out.getvalue()


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document_runs(document, tmp_path, monkeypatch, local_ready):
    monkeypatch.chdir(tmp_path)
    found = blocks(document)
    namespace = {"__name__": "document"}
    ran = 0
    for place, (kind, marks, body) in enumerate(found):
        if "local" in marks and not local_ready:
            continue
        if kind == "yaml" and body.startswith("# ") and (name := body.split("\n", 1)[0][2:].strip()).endswith(".yaml"):
            (tmp_path / name).write_text(body, "utf-8")
        elif kind == "python":
            following = found[place + 1] if place + 1 < len(found) else ("", [], "")
            run_python(body, namespace, following[2] if following[0] == "text" else None)
            ran += 1
        elif kind == "console":
            run_console(body, tmp_path)
            ran += 1

    assert ran or not any(kind in {"python", "console"} for kind, _, _ in found)


def test_links_lead_somewhere():
    broken = [
        f"{document.name}: {link}"
        for document in DOCUMENTS
        for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", document.read_text("utf-8"))
        if not (document.parent / link).exists()
    ]

    assert [] == broken


def test_make_targets_that_are_promised_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    promised = {
        name for document in DOCUMENTS for name in re.findall(r"`make ([\w-]+)", document.read_text("utf-8"))
    }

    assert promised
    assert promised <= targets
