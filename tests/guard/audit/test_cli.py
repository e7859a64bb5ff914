"""`cosa audit`: what scripts read, exit codes, and what is done with keys."""

from __future__ import annotations

import json
import stat

import pytest
from tests.guard.audit.logs import chains, entry, heads, written

from cosa_guard.audit import AuditLog, text_tag
from cosa_guard.audit.heads import read_heads


@pytest.fixture
def log(tmp_path, keys):
    return written(tmp_path / "log", keys.private, 3)


def cut(log):
    path = chains(log)[0]
    path.write_bytes(path.read_bytes()[:-2])


def edit(log):
    path = chains(log)[0]
    path.write_bytes(path.read_bytes().replace(b"compliant", b"undecided", 1))


DONE = {
    # what was done to a log of three records: exit code, status
    "nothing": (lambda log: None, 0, "valid"),
    "cut": (cut, 1, "truncated"),
    "edited": (edit, 1, "broken"),
    "removed": (lambda log: chains(log)[0].unlink(), 1, "missing"),
    "heads removed": (lambda log: heads(log).unlink(), 3, "unanchored"),
}


@pytest.mark.parametrize("done", DONE)
@pytest.mark.parametrize("json_too", [True, False])
def test_verify_says_it_in_exit_code_and_words(cosa, log, keys, done, json_too):
    tamper, expected, status = DONE[done]
    tamper(log)
    code, out, err = cosa("audit", "verify", log, "--key", keys.public, *(["--json"] if json_too else []))

    assert (expected, "") == (code, err)
    if json_too:
        body = json.loads(out)
        assert status == body["status"] == body["folders"][0]["status"] == body["folders"][0]["chains"][0]["status"]
        assert {"chain", "status", "records", "anchored", "closed", "torn", "line", "detail"} == body["folders"][0]["chains"][0].keys()
    else:
        assert f"{log}: {status}" in out
        assert chains(log)[0].stem in out


def test_verify_without_a_key_vouches_for_nothing(cosa, log):
    assert 3 == cosa("audit", "verify", log)[0]


def test_verify_tells_of_a_broken_and_of_a_torn_manifest(cosa, log, keys):
    with open(log / "manifest.jsonl", "ab") as file:
        file.write(b"{")
    torn = cosa("audit", "verify", log, "--key", keys.public)
    (log / "manifest.jsonl").unlink()
    gone = cosa("audit", "verify", log, "--key", keys.public)

    assert (0, True) == (torn[0], "not written whole: 1" in torn[1])
    assert (1, True) == (gone[0], "the manifest is broken: it is missing" in gone[1])


def test_several_folders_are_as_good_as_the_worst(cosa, log, keys, tmp_path):
    other = written(tmp_path / "other", keys.private, 1)
    heads(other).unlink()
    code, out, _ = cosa("audit", "verify", log, other, "--key", keys.public, "--json")

    assert (3, ["valid", "unanchored"]) == (code, [folder["status"] for folder in json.loads(out)["folders"]])


def test_exported_heads_show_what_was_taken_away(cosa, log, keys, tmp_path):
    other = written(tmp_path / "other", keys.private, 2)
    with AuditLog(log, key=keys.private) as more:
        more(entry())
    kept = tmp_path / "heads"
    _, printed, _ = cosa("audit", "heads", log, other)
    assert 0 == cosa("audit", "heads", log, other, "--output", kept)[0]
    assert printed == kept.read_text()
    assert [3, 1, 2] == [head.count for head in read_heads([kept])]

    arguments = ("audit", "verify", log, other, "--key", keys.public, "--heads", kept)
    assert 0 == cosa(*arguments)[0]
    for path in (chains(log)[1], heads(log, 1)):
        path.unlink()
    first = (log / "manifest.jsonl").read_text().splitlines(keepends=True)[0]
    (log / "manifest.jsonl").write_text(first)
    code, out, _ = cosa(*arguments)

    assert 1 == code
    assert "only the heads kept elsewhere name it" in " ".join(out.split())


def test_heads_replace_no_file_unasked(cosa, log, tmp_path):
    kept = tmp_path / "heads"
    kept.write_text("mine")

    assert 2 == cosa("audit", "heads", log, "--output", kept)[0]
    assert "mine" == kept.read_text()
    assert 0 == cosa("audit", "heads", log, "--output", kept, "--force")[0]
    assert 1 == len(read_heads([kept]))


def test_a_key_that_was_made_signs_and_verifies(cosa, tmp_path):
    private = tmp_path / "audit.key"
    code, out, _ = cosa("audit", "keygen", private)
    written(tmp_path / "log", private, 2)

    assert (0, True) == (code, "audit.key (secret)" in out)
    assert 0o600 == stat.S_IMODE(private.stat().st_mode)
    assert 0 == cosa("audit", "verify", tmp_path / "log", "--key", f"{private}.pub")[0]


def test_a_text_key_that_was_made_makes_tags(cosa, tmp_path):
    secret = tmp_path / "text.key"
    assert 0 == cosa("audit", "keygen", "--text", secret)[0]
    with AuditLog(tmp_path / "log", text_key=secret) as log:
        log(entry(text="Hello."))

    assert 0o600 == stat.S_IMODE(secret.stat().st_mode)
    assert text_tag(secret.read_bytes().strip(), "", "Hello.") in chains(tmp_path / "log")[0].read_text()


def test_what_cannot_be_done_is_one_message(cosa, log, keys, tmp_path):
    bad = {
        ("verify", tmp_path / "none"): "cannot read the audit folder",
        ("verify", keys.public): "cannot read",
        ("verify", log, "--key", keys.private): "it is a private key, give its .pub",
        ("verify", log, "--key", tmp_path / "none"): "cannot read the key",
        ("verify", log, "--heads", tmp_path / "none"): "cannot read the heads",
        ("heads", tmp_path / "none"): "cannot read the audit folder",
        ("keygen", keys.private): "a key is never replaced",
        ("keygen", "--text", keys.private): "a key is never replaced",
        ("keygen", tmp_path / "none" / "key"): "cannot write",
    }
    for arguments, expected in bad.items():
        code, out, err = cosa("audit", *arguments)
        assert (2, "", True) == (code, out, err.startswith("cosa: ") and expected in err), arguments


def test_no_half_of_a_key_pair_is_left(cosa, tmp_path):
    (tmp_path / "key.pub").write_text("mine")
    code, _, _ = cosa("audit", "keygen", tmp_path / "key")

    assert (2, "mine", False) == (code, (tmp_path / "key.pub").read_text(), (tmp_path / "key").exists())
