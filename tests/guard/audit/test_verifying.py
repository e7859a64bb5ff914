"""Whatever is done to an audit log afterwards, verifying it never says that an altered record is as it was."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.guard.audit.logs import chains, copied, entry, facts, heads, written

from cosa_guard.audit import AuditError, AuditLog, verify
from cosa_guard.audit.heads import head_line, parse_head, read_heads
from cosa_guard.audit.lines import chained
from cosa_guard.audit.manifest import add_start, read_manifest
from cosa_guard.audit.signing import Signer
from cosa_guard.audit.verifying import last_heads

COUNT = 12


@pytest.fixture(scope="module")
def whole(tmp_path_factory, keys):
    """Two closed chains of 12 records with heads at 0 and 12; nobody writes into it."""
    return written(tmp_path_factory.mktemp("whole") / "log", keys.private, COUNT, COUNT, seconds=1000)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("tampered") / "log"


@pytest.fixture
def log(whole, tmp_path):
    """A copy to tamper with."""
    return copied(whole, tmp_path / "log")


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


def put(path, given):
    path.write_bytes(b"".join(given))


def rewritten(path, first, change):
    """The chain as somebody writes it who can write the file and knows the format, and has no key."""
    kept, previous = lines(path), None
    for place in range(first - 1, len(kept)):
        said = json.loads(kept[place])
        previous = previous or said["prev"]
        body = {name: value for name, value in said.items() if name not in {"seq", "time", "prev", "hash"}}
        if place == first - 1:
            change(body)
        text = json.dumps(body, separators=(",", ":"))[1:-1].encode()
        kept[place], previous = chained(said["seq"], said["time"], previous, text)
    put(path, kept)


def edit(log):
    kept = lines(chains(log)[0])
    kept[6] = kept[6].replace(b'"compliant"', b'"undecided"', 1)
    put(chains(log)[0], kept)


def change_line(change):
    def tamper(log):
        kept = lines(chains(log)[0])
        put(chains(log)[0], change(kept))

    return tamper


def swap_chains(log):
    one, other = chains(log)
    aside = one.with_suffix(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def rewrite(log):
    rewritten(chains(log)[0], 4, lambda body: body.update(outcome="undecided"))


def rewrite_without_heads(log):
    rewrite(log)
    heads(log).unlink()


def wrong_start(log):
    kept = lines(log / "manifest.jsonl")
    kept[0] = kept[0].replace(b'"hmac"', b'"full"')
    put(log / "manifest.jsonl", kept)


TAMPER = {
    # what was done: (what the first chain is then, records that hold, anchored, line)
    "edited": (edit, ("broken", 6, 0, 7)),
    "deleted": (change_line(lambda kept: kept[:4] + kept[5:]), ("broken", 4, 0, 5)),
    "the first deleted": (change_line(lambda kept: kept[1:]), ("broken", 0, 0, 1)),
    "inserted": (change_line(lambda kept: [*kept[:4], kept[3], *kept[4:]]), ("broken", 4, 0, 5)),
    "an empty line": (change_line(lambda kept: [*kept[:4], b"\n", *kept[4:]]), ("broken", 4, 0, 5)),
    "two swapped": (change_line(lambda kept: [*kept[:4], kept[5], kept[4], *kept[6:]]), ("broken", 4, 0, 5)),
    "cut in the middle of a line": (change_line(lambda kept: [*kept[:4], kept[4][:70]]), ("truncated", 4, 0, None)),
    "cut after a line": (change_line(lambda kept: kept[:4]), ("truncated", 4, 0, None)),
    "the last newline gone": (change_line(lambda kept: [*kept[:-1], kept[-1][:-1]]), ("truncated", 11, 0, None)),
    "emptied": (change_line(lambda kept: []), ("truncated", 0, 0, None)),
    "something appended": (change_line(lambda kept: [*kept, b"{}\n"]), ("broken", 12, 12, 13)),
    "half a line appended": (change_line(lambda kept: [*kept, b'{"seq":13']), ("broken", 12, 12, 13)),
    "removed": (lambda log: chains(log)[0].unlink(), ("missing", 0, 0, None)),
    "a folder in its place": (lambda log: (chains(log)[0].unlink(), chains(log)[0].mkdir()), ("missing", 0, 0, None)),
    "files swapped": (swap_chains, ("broken", 0, 0, 1)),
    "written anew": (rewrite, ("broken", 12, 0, 12)),
    "written anew, heads removed": (rewrite_without_heads, ("unanchored", 12, 0, None)),
    "heads removed": (lambda log: heads(log).unlink(), ("unanchored", 12, 0, None)),
    "last head removed": (lambda log: put(heads(log), lines(heads(log))[:-1]), ("unanchored", 12, 0, None)),
    "heads swapped": (lambda log: put(heads(log), reversed(lines(heads(log)))), ("broken", 0, 0, None)),
    "heads of the other chain": (lambda log: shutil.copy(heads(log, 1), heads(log, 0)), ("broken", 0, 0, None)),
    "its start in the manifest edited": (wrong_start, ("broken", 0, 0, None)),
}


@pytest.mark.parametrize("done", TAMPER)
def test_tampering_is_seen_and_its_place_is_named(log, keys, done):
    # Heads are at 0 and 12: what is anchored is all or nothing here.
    tamper, expected = TAMPER[done]
    assert [("valid", COUNT, COUNT, None)] * 2 == facts(log, keys.trusted)
    tamper(log)

    assert expected == facts(log, keys.trusted)[0]


def test_what_a_head_covers_stays_anchored_when_a_later_line_is_altered(tmp_path, keys):
    with AuditLog(tmp_path, key=keys.private) as log:
        for number in range(9):
            log(entry())
            if number == 4:
                log._started[1]._sign(log._started[0].state, closed=False)
    kept = lines(chains(tmp_path)[0])
    kept[7] = kept[7].replace(b"compliant", b"undecided")
    put(chains(tmp_path)[0], kept)

    assert [("broken", 7, 5, 8)] == facts(tmp_path, keys.trusted)


def test_an_older_copy_put_back_is_not_valid_and_exported_heads_say_why(tmp_path, keys):
    with AuditLog(tmp_path / "log", key=keys.private, every=1000, seconds=1000) as log:
        log(entry())
        old = copied(tmp_path / "log", tmp_path / "old")
        log(entry())
    (tmp_path / "heads").write_bytes(b"".join(line + b"\n" for line in last_heads(tmp_path / "log")))
    kept = read_heads([tmp_path / "heads"])

    assert [("unanchored", 1, 0, None)] == facts(old, keys.trusted)
    assert [("truncated", 1, 0, None)] == facts(old, keys.trusted, kept)
    assert [("valid", 2, 2, None)] == facts(tmp_path / "log", keys.trusted, kept)


def test_a_chain_taken_out_of_the_manifest_too_is_missed_by_exported_heads(log, keys):
    kept = [parse_head(line) for line in last_heads(log)]
    last = chains(log)[1]
    for path in (last, heads(log, 1)):
        path.unlink()
    put(log / "manifest.jsonl", lines(log / "manifest.jsonl")[:1])

    assert [("valid", COUNT, COUNT, None)] == facts(log, keys.trusted)
    assert [("valid", COUNT, COUNT, None), ("missing", 0, 0, None)] == facts(log, keys.trusted, kept)


def test_the_first_start_taken_out_of_the_manifest_breaks_it(log, keys):
    put(log / "manifest.jsonl", lines(log / "manifest.jsonl")[1:])
    report = verify(log, keys=keys.trusted)

    assert ("broken", "line 1 does not follow the line before it: one was altered, removed, inserted or moved") == (report.status, report.broken)


def test_a_manifest_that_is_gone_is_no_empty_log(log, keys):
    (log / "manifest.jsonl").unlink()
    report = verify(log, keys=keys.trusted)

    assert ("broken", "it is missing") == (report.status, report.broken)
    assert {"broken"} == {chain.status for chain in report.chains}


def test_a_chain_that_the_manifest_does_not_name(log, keys):
    (log / "20200101T000000Z-1-00.jsonl").write_bytes(chains(log)[0].read_bytes())

    assert [("valid", COUNT, COUNT, None)] * 2 + [("broken", 0, 0, None)] == facts(log, keys.trusted)


@pytest.mark.parametrize("chain", ["../log/x", "", None, "twice"])
def test_a_manifest_that_names_no_chain_of_its_own(log, keys, chain):
    name = read_manifest(log).starts[0].chain if chain == "twice" else chain
    add_start(log, {"chain": name})
    report = verify(log, keys=keys.trusted)

    assert ("broken", "line 3 names no chain, or one that was named before") == (report.status, report.broken)


def test_a_start_that_crashed_before_it_was_named_is_nothing(log, keys):
    (log / "20200101T000000Z-1-00.jsonl").touch()

    assert "valid" == verify(log, keys=keys.trusted).status


def test_a_key_of_somebody_else_vouches_for_nothing(log, keys, strangers):
    report = verify(log, keys=strangers.trusted)

    assert {"broken"} == {chain.status for chain in report.chains}
    assert f"signed by another key ({keys.name})" in report.chains[0].detail
    assert "valid" == verify(log, keys=[*strangers.trusted, *keys.trusted]).status


def test_a_head_signed_by_somebody_else_in_our_name_is_forged(log, keys, strangers):
    signer = Signer(strangers.private)
    signer.name = keys.name
    chain = chains(log)[0].stem
    last = json.loads(lines(heads(log))[-1])
    forged = head_line(signer, chain=chain, count=last["count"], hash=last["hash"], time=last["time"], closed=True)
    put(heads(log), [*lines(heads(log))[:-1], forged])

    assert ("broken", 0, 0, None) == facts(log, keys.trusted)[0]


@pytest.mark.parametrize("counts", [(0,), (3,)])
def test_without_a_key_nothing_is_anchored(tmp_path, keys, counts):
    signed = written(tmp_path / "signed", keys.private, *counts)
    unsigned = written(tmp_path / "unsigned", None, *counts)

    assert [[("unanchored", *counts, 0, None)]] * 3 == [facts(signed), facts(unsigned), facts(unsigned, keys.trusted)]


def test_without_a_key_heads_still_show_what_is_gone(log):
    put(chains(log)[0], lines(chains(log)[0])[:3])

    assert ("truncated", 3, 0, None) == facts(log)[0]


def test_a_live_log_can_be_verified_and_is_not_called_complete(tmp_path, keys):
    with AuditLog(tmp_path, key=keys.private) as log:
        report = verify(tmp_path, keys=keys.trusted)
        log(entry())

    assert ("unanchored", "it was not closed: later records may be missing") == (report.status, report.chains[0].detail)


def test_a_torn_last_line_is_told(tmp_path, keys):
    with AuditLog(tmp_path / "log", key=keys.private) as log:
        log(entry())
        killed = copied(tmp_path / "log", tmp_path / "killed")
    with open(chains(killed)[0], "ab") as file:
        file.write(b'{"seq":2,"ti')
    report = verify(killed, keys=keys.trusted).chains[0]

    assert ("unanchored", 1, True) == (report.status, report.records, report.torn)
    assert report.detail.endswith("its last line was not written whole")


def test_a_file_without_line_ends_does_not_fill_the_memory(log, keys, monkeypatch):
    monkeypatch.setattr("cosa_guard.audit.verifying._LONGEST", 2000)
    chains(log)[0].write_bytes(b"x" * 5000)

    assert ("broken", 0, 0, 1) == facts(log, keys.trusted)[0]


@pytest.mark.skipif(os.geteuid() == 0 if hasattr(os, "geteuid") else True, reason="root may read everything")
def test_a_chain_that_cannot_be_read_is_broken(log, keys):
    chains(log)[0].chmod(0)

    assert "broken" == facts(log, keys.trusted)[0][0]


def test_what_is_no_log(tmp_path):
    (tmp_path / "empty").mkdir()
    for path, expected in {"none": "No such file", "empty": "holds no audit log"}.items():
        with pytest.raises(AuditError, match=expected):
            verify(tmp_path / path)
    with pytest.raises(AuditError, match="cannot read"):
        list(last_heads(tmp_path / "empty"))
    (tmp_path / "heads").write_text("{}\n")
    for path, expected in {"nowhere": "cannot read the heads", "heads": "line 1 is no head"}.items():
        with pytest.raises(AuditError, match=expected):
            read_heads([tmp_path / path])


FILES = {
    "chain": lambda log: chains(log)[0],
    "other chain": lambda log: chains(log)[1],
    "heads": lambda log: heads(log, 0),
    "manifest": lambda log: log / "manifest.jsonl",
}


@settings(max_examples=int(os.environ.get("COSA_FLIPS", "400")))
@given(name=st.sampled_from(sorted(FILES)), share=st.floats(0, 1, exclude_max=True), byte=st.integers(1, 255))
def test_no_byte_can_be_changed_in_a_valid_log(whole, place, keys, name, share, byte):
    log = copied(whole, place)
    path = FILES[name](whole)
    data = bytearray(path.read_bytes())
    at = int(share * len(data))
    data[at] ^= byte
    (log / path.name).write_bytes(data)
    report = verify(log, keys=keys.trusted)

    assert "valid" != report.status
    if "chain" in name:
        altered = next(one for one in report.chains if one.chain == path.stem)
        line = bytes(data[:at]).count(b"\n") + 1
        assert "valid" != altered.status
        assert altered.records < line
        assert altered.anchored < line


@pytest.mark.parametrize("name", sorted(FILES))
def test_no_file_of_a_valid_log_can_be_cut(whole, place, keys, name):
    log = copied(whole, place)
    data = FILES[name](whole).read_bytes()
    statuses = set()
    for size in {*range(0, len(data), 1 + len(data) // 60), len(data) - 1}:
        (log / FILES[name](whole).name).write_bytes(data[:size])
        statuses.add(verify(log, keys=keys.trusted).status)

    assert {{"manifest": "broken", "heads": "unanchored"}.get(name, "truncated")} == statuses


@settings(max_examples=100)
@given(order=st.lists(st.integers(0, COUNT - 1), max_size=COUNT + 2))
def test_no_other_order_or_choice_of_lines_is_valid(whole, place, keys, order):
    log = copied(whole, place)
    kept = lines(chains(whole)[0])
    put(chains(log)[0], [kept[at] for at in order])
    same = next((place for place, at in enumerate(order) if place != at), len(order))
    status, held, anchored, _ = facts(log, keys.trusted)[0]

    assert (status == "valid") == (order == list(range(COUNT)))
    assert (same, True) == (held, anchored <= held)
