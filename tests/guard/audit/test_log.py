"""The audit log while it is written: what a line says, who may share a folder, and what happens when a disk fails."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from tests.guard.audit.logs import CONFIG, chains, entry, eventually, facts, heads, records, script, written
from tests.guard.build import PATIENCE, answered, finder

from cosa_guard import Guard
from cosa_guard.audit import AuditError, AuditLog, verify
from cosa_guard.audit.chain import Keeper
from cosa_guard.audit.files import OwnFile
from cosa_guard.testing import FakeBackend, ScriptedJudge
from cosa_sdk.errors import MissingExtra, UnknownName, UsageError


def test_a_line_says_what_was_decided_and_never_what_was_said(tmp_path, keys):
    with AuditLog(tmp_path / "log", key=keys.private) as log:
        Guard(CONFIG, judge=finder(drugs=["pill"])(), backend=FakeBackend("Take a pill, Ann."), record=log, tenant="acme").reply("Hi, Bob.")
    first, second = records(tmp_path / "log")

    assert (1, 2) == (first["seq"], second["seq"])
    assert ["input", "output"] == [first["stage"], second["stage"]]
    assert ["compliant", "violates"] == [first["outcome"], second["outcome"]]
    assert (["drugs"], ["scripted/1"], None) == (second["rules"], second["judges"], second["error"])
    assert ("acme", CONFIG.digest, True, 0, 17) == tuple(second[name] for name in ("tenant", "config", "final", "start", "length"))
    assert first["hash"] == second["prev"]
    assert not {"pill", "Ann", "Bob"} & set(chains(tmp_path / "log")[0].read_text("utf-8").replace('"', " ").replace(".", " ").split())
    assert [("valid", 2, 2, None)] == facts(tmp_path / "log", keys.trusted)


@pytest.mark.parametrize("durability", ["process", "power"])
def test_records_are_in_step_with_the_report_of_a_stream(tmp_path, durability):
    made = []

    def record():
        made.append(AuditLog(tmp_path / str(len(made)), durability=durability))
        return made[-1]

    try:
        transcript = answered(CONFIG, ["A sentence of words. "] * 5, judge=lambda: ScriptedJudge({"drugs": ["pill"]}), record=record, accept_unexamined=False)
        expected = [(ruling.stage, ruling.outcome) for ruling in transcript.report.rulings]
        assert [expected] * 2 == [[(line["stage"], line["outcome"]) for line in records(log.folder)] for log in made]
    finally:
        for log in made:
            log.close()


def test_only_its_owner_may_read_it(tmp_path, keys):
    written(tmp_path / "log", keys.private, 1)

    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "log").iterdir()}
    assert 0o700 == stat.S_IMODE((tmp_path / "log").stat().st_mode)


def test_the_manifest_says_how_a_chain_was_written(tmp_path, keys):
    written(tmp_path, keys.private, 0, text="full", durability="power")
    said = json.loads((tmp_path / "manifest.jsonl").read_text())

    assert {"text": "full", "text_key": "drawn", "durability": "power", "key": keys.name}.items() <= said.items()


def test_heads_are_signed_at_the_start_every_so_often_and_at_the_end(tmp_path, keys):
    with AuditLog(tmp_path, key=keys.private, every=3, seconds=1000) as log:
        for wanted in (3, 6):
            for _ in range(3):
                log(entry())
            eventually(lambda wanted=wanted: f'"count":{wanted},' in heads(tmp_path).read_text())
        log(entry())
    said = [json.loads(line) for line in heads(tmp_path).read_text().splitlines()]

    assert [(0, False), (3, False), (6, False), (7, True)] == [(head["count"], head["closed"]) for head in said]


def test_a_head_is_signed_when_its_time_has_come(tmp_path, keys):
    with AuditLog(tmp_path, key=keys.private, seconds=0.01) as log:
        log(entry())
        eventually(lambda: '"count":1,' in heads(tmp_path).read_text())

        assert [("unanchored", 1, 1, None)] == facts(tmp_path, keys.trusted)


def test_many_threads_make_one_chain(tmp_path, keys):
    with AuditLog(tmp_path, key=keys.private, every=50) as log, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: log(entry("drugs")), range(400), timeout=PATIENCE))

    assert [("valid", 400, 400, None)] == facts(tmp_path, keys.trusted)


def test_two_logs_of_one_process_share_a_folder(tmp_path, keys):
    with AuditLog(tmp_path, key=keys.private) as one, AuditLog(tmp_path, key=keys.private) as other:
        for log in (one, other, one):
            log(entry())

    assert [("valid", 2, 2, None), ("valid", 1, 1, None)] == facts(tmp_path, keys.trusted)


WORKERS = """
import os, sys
from cosa_guard.audit import AuditLog
from tests.guard.audit.logs import entry
workers = []
for number in range(4):  # forks that start at the same time: the import is paid once
    child = os.fork()
    if not child:
        with AuditLog(sys.argv[1], key=sys.argv[2], every=7) as log:
            for _ in range(100):
                log(entry())
        os._exit(0)
    workers.append(child)
assert all(os.waitpid(child, 0)[1] == 0 for child in workers)
"""


def test_several_workers_share_a_folder(tmp_path, keys):
    script(WORKERS, tmp_path, keys.private)

    assert [("valid", 100, 100, None)] * 4 == facts(tmp_path, keys.trusted)


FORK = """
import os, sys, warnings
from cosa_guard.audit import AuditLog
from tests.guard.audit.logs import entry
warnings.simplefilter("ignore", DeprecationWarning)  # forking beside a thread is what is tried here
log = AuditLog(sys.argv[1], key=sys.argv[2], durability=sys.argv[3])
def record():
    kept = log(entry())
    kept and kept.result(20)
record()
child = os.fork()
if not child:
    assert log.chain is None
    record()
    record()
    assert log.chain is not None
    log.close()
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
record()
log.close()
"""


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_fork_starts_a_chain_of_its_own(tmp_path, keys, durability):
    script(FORK, tmp_path, keys.private, durability)

    assert [("valid", 2, 2, None)] * 2 == facts(tmp_path, keys.trusted)


FULL = """
import resource, sys
from cosa_guard.audit import AuditError, AuditLog
from tests.guard.audit.logs import entry
log = AuditLog(sys.argv[1], key=sys.argv[2])
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
taken = refused = 0
for _ in range(40):
    try:
        log(entry())
        taken += 1
    except AuditError as error:
        assert "audit record" in str(error), error
        refused += 1
assert taken and refused, (taken, refused)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
for _ in range(3):
    log(entry())
log.close()
print(taken + 3)
"""


def test_a_full_disk_blocks_and_the_chain_goes_on_when_there_is_room_again(tmp_path, keys):
    taken = int(script(FULL, tmp_path, keys.private))

    assert [("valid", taken, taken, None)] == facts(tmp_path, keys.trusted)


def no_space(*arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_releases_nothing(tmp_path, monkeypatch):
    with AuditLog(tmp_path) as log:
        one = Guard(CONFIG, judge=finder()(), backend=FakeBackend("Hello."), record=log)
        with monkeypatch.context() as patch:
            patch.setattr("cosa_guard.audit.files.os.write", no_space)
            with pytest.raises(AuditError, match="No space left"):
                next(one.stream("Hi."))

    assert [] == one.backend.requests
    assert b"" == chains(tmp_path)[0].read_bytes()


def later(monkeypatch):
    """Files are looked for once a second: let one go by."""
    real = time.time
    monkeypatch.setattr("cosa_guard.audit.chain.time.time", lambda: real() + 2)


def test_a_file_that_was_removed_releases_nothing(tmp_path, monkeypatch):
    with AuditLog(tmp_path) as log:
        one = Guard(CONFIG, judge=finder()(), backend=FakeBackend("Hello."), record=log)
        chains(tmp_path)[0].unlink()
        later(monkeypatch)
        for _ in range(2):
            with pytest.raises(AuditError, match="was removed"):
                next(one.stream("Hi."))

    assert [] == one.backend.requests


@pytest.mark.parametrize("back", [10, 10**10])
def test_a_clock_that_goes_backwards_breaks_no_chain(tmp_path, keys, monkeypatch, back):
    real = time.time
    with AuditLog(tmp_path, key=keys.private, every=1) as log:
        log(entry())
        monkeypatch.setattr("cosa_guard.audit.chain.time.time", lambda: real() - back)
        log(entry())
    with AuditLog(tmp_path, key=keys.private) as log:
        log(entry())
    times = [record["time"] for record in records(tmp_path)]

    assert [("valid", 2, 2, None), ("valid", 1, 1, None)] == facts(tmp_path, keys.trusted)
    assert times[1] < times[0]


def test_a_line_that_cannot_be_taken_back_blocks_for_good(tmp_path, monkeypatch):
    real = os.write
    with AuditLog(tmp_path) as log:
        log(entry())
        with monkeypatch.context() as patch:
            patch.setattr("cosa_guard.audit.files.os.write", lambda file, data: real(file, data[:50]))
            patch.setattr("cosa_guard.audit.files.os.ftruncate", no_space)
            for expected in ("took only 50", "cannot mend"):
                with pytest.raises(AuditError, match=expected):
                    log(entry())
        half = verify(tmp_path).chains[0]
        log(entry())

    assert (1, True) == (half.records, half.torn)
    assert [("unanchored", 2, 0, None)] == facts(tmp_path)


@pytest.mark.parametrize("place", ["append", "taken"])
def test_an_interrupt_at_a_bad_moment_breaks_no_chain(tmp_path, keys, monkeypatch, place):
    real = getattr(OwnFile, place)

    def interrupted(self, *arguments):
        if place == "append":
            real(self, *arguments)
        raise KeyboardInterrupt

    with AuditLog(tmp_path, key=keys.private) as log:
        log(entry())
        with monkeypatch.context() as patch:
            patch.setattr(OwnFile, place, interrupted)
            with pytest.raises(KeyboardInterrupt):
                log(entry(request="written and not released"))
        log(entry())

    assert [("valid", 3, 3, None)] == facts(tmp_path, keys.trusted)


def test_closing_after_an_interrupt_signs_what_is_there(tmp_path, keys, monkeypatch):
    def interrupted(self):
        raise KeyboardInterrupt

    with AuditLog(tmp_path, key=keys.private) as log, monkeypatch.context() as patch:
        patch.setattr(OwnFile, "taken", interrupted)
        with pytest.raises(KeyboardInterrupt):
            log(entry())
        patch.undo()

    assert [("valid", 1, 1, None)] == facts(tmp_path, keys.trusted)


def test_a_disk_that_fails_at_the_end_leaves_no_thread_behind(tmp_path, keys, monkeypatch):
    log = AuditLog(tmp_path, key=keys.private)
    keeper = log._started[1]
    with monkeypatch.context() as patch:
        patch.setattr("cosa_guard.audit.files.os.write", no_space)
        patch.setattr("cosa_guard.audit.files.os.fstat", no_space)
        with pytest.raises(AuditError):
            log(entry())
        with pytest.raises(AuditError):
            log.close()

    assert not keeper._thread.is_alive()
    assert [("unanchored", 0, 0, None)] == facts(tmp_path, keys.trusted)


def test_a_head_that_cannot_be_written_blocks_until_it_can(tmp_path, keys, monkeypatch):
    real = OwnFile.append

    def append(self, data):
        if ".heads" in self.path.name:
            raise AuditError("no space for heads")
        real(self, data)

    with AuditLog(tmp_path, key=keys.private, every=1, seconds=1000) as log:
        with monkeypatch.context() as patch:
            patch.setattr(OwnFile, "append", append)
            log(entry())
            refused = []

            def is_refused():
                try:
                    log(entry())
                except AuditError as error:
                    refused.append(str(error))
                return refused

            eventually(is_refused)

        def goes_on():
            try:
                log(entry())
            except AuditError:
                return False
            return True

        eventually(goes_on)

    assert "no space for heads" in refused[0]
    assert {"valid"} == {status for status, *_ in facts(tmp_path, keys.trusted)}


class Disk:
    """An `os.fsync` that waits to be let through, and remembers what it saw of one file."""

    def __init__(self, path, fails=False):
        self.path, self.fails = path, fails
        self.real, self.entered, self.open = os.fsync, threading.Event(), threading.Event()
        self.syncs = []

    def __call__(self, file):
        inode = os.fstat(file)
        if inode.st_ino != self.path.stat().st_ino:
            return self.real(file)
        lines = self.path.read_bytes().count(b"\n")
        self.entered.set()
        assert self.open.wait(PATIENCE)
        if self.fails:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.real(file)
        self.syncs.append(lines)
        return None


def test_power_acknowledges_after_the_sync_and_one_sync_does_for_many(tmp_path, monkeypatch):
    with AuditLog(tmp_path, durability="power") as log:
        disk = Disk(chains(tmp_path)[0])
        monkeypatch.setattr("cosa_guard.audit.files.os.fsync", disk)
        first = log(entry())
        assert disk.entered.wait(PATIENCE)
        rest = [log(entry()) for _ in range(20)]

        assert not any(kept.done() for kept in [first, *rest])
        disk.open.set()
        for kept in [first, *rest]:
            assert kept.result(PATIENCE) is None

    assert [1, 21] == disk.syncs


def test_a_disk_that_fails_acknowledges_nothing_ever_again(tmp_path, monkeypatch):
    log = AuditLog(tmp_path, durability="power")
    disk = Disk(chains(tmp_path)[0], fails=True)
    with monkeypatch.context() as patch:
        patch.setattr("cosa_guard.audit.files.os.fsync", disk)
        first = log(entry())
        assert disk.entered.wait(PATIENCE)
        second = log(entry())
        disk.open.set()
        for kept in (first, second):
            assert "Input/output error" in str(kept.exception(PATIENCE))
    with pytest.raises(AuditError, match="Input/output error"):
        log(entry())
    with pytest.raises(AuditError, match="Input/output error"):
        log.close()


def test_whoever_gives_up_waiting_takes_nobodys_record_back(tmp_path, keys):
    async def impatient(log):
        waiting = asyncio.ensure_future(asyncio.wait_for(asyncio.wrap_future(log(entry())), PATIENCE))
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wrap_future(log(entry()))

    with AuditLog(tmp_path, key=keys.private, durability="power") as log:
        asyncio.run(impatient(log))

    assert [("valid", 2, 2, None)] == facts(tmp_path, keys.trusted)


def test_closing_acknowledges_what_was_written(tmp_path):
    log = AuditLog(tmp_path, durability="power")
    kept = [log(entry()) for _ in range(50)]
    log.close()

    assert all(one.done() and one.exception() is None for one in kept)


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_closed_log_takes_nothing(tmp_path, keys, durability):
    log = AuditLog(tmp_path, key=keys.private, durability=durability)
    log.close()
    log.close()
    with open(tmp_path / "other", "wb"), pytest.raises(AuditError, match="is closed"):  # maybe under its old number
        log(entry())

    assert b"" == (tmp_path / "other").read_bytes()
    assert log.chain is None


def test_a_record_that_comes_while_the_log_closes_is_refused(tmp_path):
    log = AuditLog(tmp_path)
    chain = log._started[0]
    log.close()

    with pytest.raises(AuditError, match="is closed"):
        chain.append(b"")


def test_a_start_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("cosa_guard.audit.files.os.write", lambda file, data: 7)
        with pytest.raises(AuditError, match="took only 7"):
            AuditLog(tmp_path)

    assert [("manifest.jsonl", 0)] == [(path.name, path.stat().st_size) for path in tmp_path.iterdir()]


def test_a_start_without_its_first_head_fails(tmp_path, keys, monkeypatch):
    monkeypatch.setattr(Keeper, "_sign", lambda *_, **__: no_space())

    with pytest.raises(OSError):
        AuditLog(tmp_path, key=keys.private)


def test_a_half_written_manifest_is_left_and_vouched_for(tmp_path, keys):
    written(tmp_path, keys.private, 1)
    with open(tmp_path / "manifest.jsonl", "ab") as file:
        file.write(b'{"v":1,"prev":"12')
    before = verify(tmp_path, keys=keys.trusted)
    with AuditLog(tmp_path, key=keys.private) as log:
        log(entry())
    after = verify(tmp_path, keys=keys.trusted)

    assert [("valid", 1, 1), ("valid", 2, 1)] == [(one.status, one.starts, one.torn) for one in (before, after)]


def test_a_locked_manifest_is_not_waited_for_for_ever(tmp_path, monkeypatch):
    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr("cosa_guard.audit.manifest._PATIENCE", 0.02)
    with open(tmp_path / "manifest.jsonl", "wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(AuditError, match="stays locked"):
            AuditLog(tmp_path)


def test_arguments_that_make_no_log(tmp_path, keys):
    (tmp_path / "file").write_text("x")
    bad = {
        "choices: hmac, redacted, full": (UnknownName, {"text": "plain"}),
        "choices: process, power": (UnknownName, {"durability": "disk"}),
        "at least 1 record": (UsageError, {"every": 0}),
        "more than 0 seconds": (UsageError, {"seconds": 0}),
        "holds no ed25519 private key": (UsageError, {"key": keys.public}),
        "cannot read the key": (UsageError, {"key": tmp_path / "none"}),
        "at least 32 bytes, this one 5": (UsageError, {"text_key": b"short"}),
        "cannot read the text key": (UsageError, {"text_key": tmp_path / "none"}),
    }
    for expected, (kind, options) in bad.items():
        with pytest.raises(kind) as caught:
            AuditLog(tmp_path / "log", **options)
        assert expected in str(caught.value).lower()
    with pytest.raises(AuditError, match="cannot make the audit folder"):
        AuditLog(tmp_path / "file")


def test_signing_needs_its_extra(tmp_path, keys, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)

    with pytest.raises(MissingExtra, match=r"cosa\[signing\]"):
        AuditLog(tmp_path, key=keys.private)


KILL = """
import os, signal, sys
from pathlib import Path
from random import Random
from cosa_guard.audit import AuditLog, verify
from cosa_guard.audit.signing import PublicKey
from tests.guard.audit.logs import entry
place, key, rounds, durability = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
keys = [PublicKey(key + ".pub")]
drawn = Random(rounds)
for round in range(rounds):
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        log = AuditLog(place / str(round), key=key, every=20, durability=durability, text="full")
        while True:
            kept = log(entry(text="A sentence of words. " * drawn.randrange(1, 200)))
            if kept is not None:
                kept.result()
            os.write(theirs, b"x")
    os.close(theirs)
    wanted = drawn.randrange(1, 150 if durability == "process" else 30)
    acknowledged = 0
    while acknowledged < wanted:
        acknowledged += len(os.read(ours, 1000))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while rest := os.read(ours, 65536):
        acknowledged += len(rest)
    os.close(ours)
    report = verify(place / str(round), keys=keys)
    chain, = report.chains
    assert (report.status, report.broken, chain.detail[:2]) in {("unanchored", "", "no"), ("unanchored", "", "it")}, report
    assert acknowledged <= chain.records <= acknowledged + 1, (acknowledged, report)
    with AuditLog(place / str(round), key=key) as log:  # the next start
        log(entry())
    report = verify(place / str(round), keys=keys)
    assert [one.status for one in report.chains] == ["unanchored", "valid"], report
print(rounds)
"""


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("rounds", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_whatever_was_acknowledged_survives_kill_9_and_verifies(tmp_path, keys, rounds, durability):
    assert f"{rounds}\n" == script(KILL, tmp_path, keys.private, rounds, durability)
