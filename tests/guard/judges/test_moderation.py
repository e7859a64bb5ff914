"""The moderation judge against a real server on this machine, and against answers that are none."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.guard.build import PATIENCE, guard
from tests.guard.judges.said import CONFIG, HELLO, input_case, output_case

from cosa_guard import judges
from cosa_guard.judges.combine import any_of
from cosa_guard.judges.guard_models.categories import categories
from cosa_guard.judges.moderation import Moderation, _result
from cosa_guard.messages import Message
from cosa_sdk import SafetyConfig
from cosa_sdk.decide import decide
from cosa_sdk.errors import JudgeError, UsageError

NAMES = sorted(categories("openai-moderation"))
COVERED = {"discrimination", "financial_crime", "violence", "drugs", "sexual", "weapons", "floor.minors"}


def result(*flagged, scores=True, **changes):
    """A result of the shape that the API reference shows."""
    body = {
        "flagged": bool(flagged),
        "categories": {name: name in flagged for name in NAMES},
        "category_scores": {name: 0.9 if name in flagged else 0.01 for name in NAMES},
        "category_applied_input_types": {name: ["text"] for name in NAMES},
        **changes,
    }
    if not scores:
        del body["category_scores"]
    return {"id": "modr-1", "model": "omni-moderation-latest", "results": [body]}


class Server(ThreadingHTTPServer):
    """Answers every request as told, and remembers what it was asked."""

    daemon_threads = True
    request_queue_size = 64  # the default of 5 resets connections when sixteen come at once

    def __init__(self, answer, status=200):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.status, self.asked, self.release = answer, status, [], threading.Event()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *problem):
        self.release.set()
        self.shutdown()
        self.server_close()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *parts):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.asked.append((self.path, dict(self.headers), json.loads(body)))
        if self.server.answer == "hang":
            self.server.release.wait(PATIENCE)
            self.close_connection = True
            return
        if self.server.answer == "reset":
            self.close_connection = True
            return
        data = self.server.answer if isinstance(self.server.answer, bytes) else json.dumps(self.server.answer).encode()
        self.send_response(self.server.status)
        self.send_header("content-type", "application/json")
        if self.server.status == 302:
            self.send_header("location", "http://127.0.0.1:1/")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(autouse=True)
def _no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def both(url, case, **options):
    """The verdict, called and awaited, which must be the same."""
    with closing(Moderation(url, **options)) as judge:
        called = judge.judge(case)
        assert called == asyncio.run(judge.ajudge(case))
    return called


def failure(url, case=None, **options):
    """What went wrong, called and awaited, which must be the same."""
    said = []
    with closing(Moderation(url, **options)) as judge:
        for call in (lambda: judge.judge(case or input_case()), lambda: asyncio.run(judge.ajudge(case or input_case()))):
            with pytest.raises(JudgeError) as caught:
                call()
            said.append(str(caught.value))
    assert said[0] == said[1]
    return said[0]


def test_what_is_asked():
    turns = (Message("user", "Which knives?"), Message("assistant", "Several."))
    with Server(result()) as server:
        both(server.url, input_case(turns=turns), model="own-model", key="sesame")
        path, headers, body = server.asked[0]

        assert [server.asked[0][::2]] * 2 == [one[::2] for one in server.asked]
    assert "/v1/moderations" == path
    assert {"input": f"Which knives?\n\nSeveral.\n\n{HELLO}", "model": "own-model"} == body
    assert "Bearer sesame" == headers["authorization"]


def test_of_a_reply_only_the_reply_is_sent():
    with Server(result()) as server:
        both(server.url, output_case("Use a whetstone."))

        assert "Use a whetstone." == server.asked[0][2]["input"]


def test_nothing_flagged_rules_out_what_the_endpoint_covers():
    with Server(result()) as server:
        found = both(server.url, input_case())

    assert COVERED == found.evidence.examined
    assert set() == found.evidence.found
    assert "undecided" == decide(CONFIG, found.evidence).outcome
    assert 0.01 == found.risks["sexual"]
    assert "nothing flagged" == found.reason


@pytest.mark.parametrize(
    ("flagged", "found", "open_", "violates"),
    [
        (["harassment"], {"discrimination"}, set(), False),
        (["sexual", "sexual/minors"], {"sexual", "floor.minors"}, set(), False),
        (["violence"], {"violence"}, set(), False),
        (["self-harm/intent"], {"other"}, set(), False),
        (["illicit"], set(), {"financial_crime", "drugs"}, True),
        (["illicit/violent"], set(), {"violence", "weapons"}, False),
        (["violence", "illicit/violent"], {"violence"}, {"weapons"}, False),
    ],
)
def test_categories_are_mapped(flagged, found, open_, violates):
    with Server(result(*flagged)) as server:
        evidence = both(server.url, input_case()).evidence

    assert frozenset(found) == evidence.found
    assert (COVERED - open_) | found == evidence.examined
    assert violates == evidence.violates


def test_a_category_that_was_not_looked_for_is_not_ruled_out():
    answer = result()
    answer["results"][0]["categories"]["illicit"] = None
    del answer["results"][0]["categories"]["sexual/minors"]
    with Server(answer) as server:
        evidence = both(server.url, input_case()).evidence

    assert COVERED - {"financial_crime", "drugs", "floor.minors"} == evidence.examined


def test_a_result_without_scores_counts():
    with Server(result("violence", scores=False)) as server:
        found = both(server.url, input_case())

    assert ({"violence"}, {}) == (found.evidence.found, found.risks)


MALFORMED = [
    (b"", "is not JSON"),
    (b"safe", "is not JSON"),
    (b'{"results": [', "is not JSON"),
    (b"[" * 100_000, "is not JSON"),
    (b"\xff\xfe", "is not JSON"),
    (b'{"results": [{"flagged": false, "categories": {"violence": true, "violence": false}}]}', "is not JSON"),
    ([], "not exactly one result"),
    (None, "not exactly one result"),
    ({}, "not exactly one result"),
    ({"error": {"message": "no"}}, "not exactly one result"),
    ({"results": []}, "not exactly one result"),
    ({"results": [None]}, "not exactly one result"),
    ({"results": [*result()["results"], *result()["results"]]}, "not exactly one result"),
    (result(categories={}), "no object of categories"),
    (result(categories=None), "no object of categories"),
    (result(categories=["violence"]), "no object of categories"),
    (result(categories={"violence": "false"}), "no object of categories"),
    (result(categories={"violence": 0}), "no object of categories"),
    (result(flagged=True), "says flagged otherwise"),
    (result("violence", flagged=False), "says flagged otherwise"),
    (result(flagged=None), "says flagged otherwise"),
    (result(flagged=0), "says flagged otherwise"),
    (result(flagged=True, categories={"new/harm": True}), "unknown category 'new/harm'"),
    (result(category_scores={"violence": 2}), "no probabilities"),
    (result(category_scores={"violence": "0.1"}), "no probabilities"),
    (result(category_scores={"violence": float("nan")}), "no probabilities"),
    (result(category_scores=[0.1]), "no probabilities"),
    (b" " * 2_000_000, "is larger than any"),
]


@pytest.mark.parametrize(("answer", "said"), MALFORMED, ids=[str(i) for i in range(len(MALFORMED))])
def test_an_answer_of_another_form_is_no_verdict(answer, said):
    with Server(answer) as server:
        assert said.removeprefix("not ") in failure(server.url)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=5), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["results", "flagged", "categories", "category_scores", "violence"]), inner, max_size=4), max_leaves=12))
def test_arbitrary_json_is_read_or_refused(value):
    try:
        flags, _ = _result(json.dumps(value).encode())
    except JudgeError:
        return

    body = value["results"][0]
    assert any(flags.values()) == body["flagged"]


@pytest.mark.parametrize("status", [201, 302, 400, 401, 404, 429, 500, 503])
def test_another_status_is_no_verdict(status):
    with Server(result(), status) as server:
        assert f"answered HTTP {status}" in failure(server.url, key="sesame")
        assert "sesame" not in failure(server.url, key="sesame")


def test_a_connection_that_breaks_is_no_verdict():
    with Server("reset") as server:
        assert "RemoteProtocolError" in failure(server.url)


def test_an_address_where_nobody_listens_is_no_verdict():
    with Server(result()) as server:
        url = server.url

    assert "ConnectError" in failure(url)


def test_an_endpoint_that_hangs_costs_the_timeout_and_blocks():
    with Server("hang") as server, closing(Moderation(server.url, timeout=0.1)) as judge:
        for own in (guard(CONFIG, judge=judge), guard(CONFIG, judge=any_of(judge, judges.make("rules")))):
            for ruling in (own.check(HELLO), asyncio.run(own.acheck(HELLO))):
                assert "undecided" == ruling.outcome
                assert ruling.error


def test_sixteen_threads_and_tasks_may_share_it():
    from concurrent.futures import ThreadPoolExecutor

    with Server(result("violence")) as server, closing(Moderation(server.url)) as judge:
        with ThreadPoolExecutor(16) as pool:
            verdicts = list(pool.map(lambda i: judge.judge(input_case(str(i))), range(48)))

        async def run():
            return await asyncio.gather(*(judge.ajudge(input_case(str(i))) for i in range(16)))

        verdicts += asyncio.run(run())

    assert [{"violence"}] * 64 == [verdict.evidence.found for verdict in verdicts]


# --- keys and addresses ---


def sent_key(monkeypatch, url, environment="from-env", **options):
    monkeypatch.setenv("OPENAI_API_KEY", environment)
    judge = Moderation(url, **options)
    judge.close()
    return judge._headers.get("authorization")


@pytest.mark.parametrize(
    ("url", "options", "expected"),
    [
        ("https://api.openai.com/v1", {}, "Bearer from-env"),
        ("http://127.0.0.1:8080/v1", {}, "Bearer from-env"),
        ("http://moderation.example/v1", {}, None),
        ("http://moderation.example/v1", {"key": "own"}, "Bearer own"),
        ("https://api.openai.com/v1", {"key": ""}, None),
        ("https://api.openai.com/v1", {"key": " own\n"}, "Bearer own"),
    ],
)
def test_the_key_of_the_environment_goes_only_where_nobody_can_read_it(monkeypatch, url, options, expected):
    assert expected == sent_key(monkeypatch, url, **options)


@pytest.mark.parametrize("key", ["two words", "line\nbreak", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_refused_and_not_repeated(key):
    with pytest.raises(UsageError) as caught:
        Moderation(key=key)

    assert key not in str(caught.value)


def test_nothing_shows_the_key():
    judge = Moderation(key="sesame")
    judge.close()

    assert "sesame" not in repr(judge) + judge.name
    assert "Moderation('https://api.openai.com/v1', model='omni-moderation-latest')" == repr(judge)


@pytest.mark.parametrize("url", ["", "ftp://host/v1", "host:80", "http://", "http://user:secret@host/v1", "http://host/v1?key=secret", None])
def test_an_address_that_is_none_is_refused_and_not_repeated(url):
    with pytest.raises(UsageError, match="must be http") as caught:
        Moderation(url)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_that_is_none_is_refused(timeout):
    with pytest.raises(UsageError, match="positive"):
        Moderation(timeout=timeout)


def test_made_by_name():
    judge = judges.make("moderation:http://127.0.0.1:8080/v1#text-moderation", timeout=4)
    default = judges.make("moderation")
    judge.close(), default.close()

    assert ("moderation/1:text-moderation", 4) == (judge.name, judge.timeout)
    assert "moderation/1:omni-moderation-latest" == default.name
    assert "Moderation('http://127.0.0.1:8080/v1', model='text-moderation')" == repr(judge)


def test_importing_the_guard_does_not_import_httpx():
    import subprocess
    import sys

    code = "import sys, cosa_guard.judges.moderation; sys.exit('httpx' in sys.modules)"
    assert 0 == subprocess.run([sys.executable, "-c", code], timeout=PATIENCE, check=False).returncode


def test_it_covers_neither_privacy_nor_mass_harm_nor_other_harms():
    judge = Moderation()
    judge.close()

    assert COVERED == judge.covers(CONFIG)
    assert COVERED == judge.covers(SafetyConfig(name="empty"))
