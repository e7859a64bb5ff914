"""Audit logs for tests, each in one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tests.guard.build import PATIENCE, risks_config

from cosa_guard.audit import AuditLog, verify
from cosa_guard.audit.signing import PublicKey, generate
from cosa_guard.verdicts import Entry, Ruling, Verdict
from cosa_sdk.decide import Evidence, decide

CONFIG = risks_config()


def ruling(*found, error=None, spans=(), examined=CONFIG.elements):
    evidence = Evidence(found=frozenset(found), examined=examined)
    verdict = Verdict(judge="test/1", evidence=evidence, reason="secret words", spans=spans)
    return Ruling(stage="output", decision=decide(CONFIG, evidence), verdicts=(verdict,), error=error)


def entry(*found, text="secret text", tenant="", request="", error=None, spans=()):
    return Entry(ruling=ruling(*found, error=error, spans=spans), config=CONFIG.digest, text=text, tenant=tenant, request=request)


class Keys:
    """A key pair in a folder."""

    def __init__(self, folder):
        self.private = Path(folder) / "key"
        self.public, self.name = generate(self.private)
        self.trusted = [PublicKey(self.public)]


def chains(folder):
    """The files of records, oldest start first."""
    started = [json.loads(line)["chain"] for line in (Path(folder) / "manifest.jsonl").read_text().splitlines()]
    return [Path(folder) / f"{chain}.jsonl" for chain in started]


def heads(folder, number=0):
    path = chains(folder)[number]
    return path.with_name(f"{path.stem}.heads.jsonl")


def records(folder, number=0):
    return [json.loads(line) for line in chains(folder)[number].read_text().splitlines()]


def written(folder, key, *counts, **options):
    """A folder with a chain for each count, closed."""
    for count in counts:
        with AuditLog(folder, key=key, **options) as log:
            for number in range(count):
                kept = log(entry(request=f"r{number}"))
                if kept is not None:
                    kept.result(PATIENCE)
    return Path(folder)


def copied(folder, place):
    shutil.rmtree(place, ignore_errors=True)
    return Path(shutil.copytree(folder, place))


def facts(folder, keys=(), kept=()):
    """(status, records, anchored, line) of every chain."""
    return [(one.status, one.records, one.anchored, one.line) for one in verify(folder, keys=keys, heads=kept).chains]


def eventually(condition):
    """Wait until it holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.005)


def script(code, *arguments):
    """Run Python code in a process of its own; what it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    line = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=100, check=False)
    assert not done.returncode, done.stderr
    return done.stdout
