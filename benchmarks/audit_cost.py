"""What does a record cost? Microseconds each, beside the plain `JsonlRecord` and a bare `os.write` of the same bytes.

Aim: at most 15 µs in `process` mode. All arms take turns in one process; the text is a stream's unit of 200 characters.
`power` waits for the disk: many records at once share a sync, and one at a time pays it alone.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import wait
from pathlib import Path

from _measure import added, interleaved, median, row

from cosa_guard.audit import AuditLog, JsonlRecord
from cosa_guard.audit.signing import PublicKey, generate
from cosa_guard.audit.verifying import verify
from cosa_guard.verdicts import Entry, Ruling, Verdict
from cosa_sdk import presets
from cosa_sdk.decide import Evidence, decide

RECORDS, SYNCED = 2000, 200
CONFIG = presets.load("customer-service")
TEXT = "The crew meets at the harbour, and the plan is drawn on a napkin. " * 3


def entry() -> Entry:
    evidence = Evidence(examined=frozenset(element for element in CONFIG.elements if element.startswith("rule:")))
    verdicts = tuple(Verdict(judge=judge, evidence=evidence) for judge in ("rules/1", "embedded/1:balanced"))
    ruling = Ruling(stage="output", decision=decide(CONFIG, evidence), verdicts=verdicts)
    return Entry(
        ruling=ruling,
        config=CONFIG.digest,
        text=TEXT,
        start=120,
        final=False,
        tenant="acme",
        request="4f1c2a9e7b3d5806",
    )


def main() -> None:
    one = entry()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        public, _ = generate(folder / "key")
        plain = JsonlRecord(folder / "plain.jsonl")
        unsigned = AuditLog(folder / "unsigned")
        signed = AuditLog(folder / "signed", key=folder / "key")
        full = AuditLog(folder / "full", key=folder / "key", text="full")
        power = AuditLog(folder / "power", key=folder / "key", durability="power")
        unsigned(one)
        line = next((folder / "unsigned").glob("2*.jsonl")).read_bytes()
        bare = os.open(folder / "bare", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

        arms = {
            f"os.write of the same {len(line)} bytes": lambda: [os.write(bare, line) for _ in range(RECORDS)],
            "JsonlRecord": lambda: [plain(one) for _ in range(RECORDS)],
            "AuditLog": lambda: [unsigned(one) for _ in range(RECORDS)],
            "AuditLog, signed": lambda: [signed(one) for _ in range(RECORDS)],
            "AuditLog, signed, text=full": lambda: [full(one) for _ in range(RECORDS)],
        }
        seconds = interleaved(arms, rounds=15)
        row("process: survives kill -9", "µs a record", "over os.write")
        first = next(iter(arms))
        for arm in arms:
            over = added(seconds, arm, first) / RECORDS * 1e6
            row(arm, f"{median(seconds[arm]) / RECORDS * 1e6:.1f}", f"{over:.1f}")
        waits = interleaved(
            {
                "power, 200 at once": lambda: wait([power(one) for _ in range(SYNCED)]),
                "power, one after the other": lambda: [power(one).result() for _ in range(SYNCED)],
            },
            rounds=7,
        )
        row("power: survives a power cut", "µs a record")
        for arm, taken in waits.items():
            row(arm, f"{median(taken) / SYNCED * 1e6:.1f}")
        for log in (unsigned, signed, full, power):
            log.close()
        trusted = [PublicKey(public)]
        records = verify(folder / "signed", keys=trusted).chains[0].records
        checking = interleaved({"verify": lambda: verify(folder / "signed", keys=trusted)}, rounds=5)["verify"]
        row("verify", f"{median(checking) / records * 1e6:.1f}")


if __name__ == "__main__":
    main()
