from __future__ import annotations

import json
import socket

import pytest
from tests.guard.build import PATIENCE
from tests.guard.server.serving import BOTH, CLINIC, FILM, serving, write

from cosa_guard.audit import verify
from cosa_guard.audit.signing import PublicKey, generate


def test_a_chat_is_answered_with_the_headers_of_the_contract(proxy, upstream):
    answer = proxy.chat(key=FILM)

    assert 200 == answer.status
    assert upstream.said == answer.text
    assert "pass" == answer.headers["x-cosa-act"]
    assert 64 == len(answer.headers["x-cosa-config"])
    assert answer.headers["x-cosa-request"].startswith("req_")


def test_a_stream_is_answered_as_a_stream(proxy, upstream):
    answer = proxy.chat(key=FILM, stream=True)

    assert upstream.said == answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert "no" == answer.headers["x-accel-buffering"]
    assert answer.body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
def test_a_forbidden_reply_is_refused_with_200(proxy, upstream, stream):
    upstream.said = "The word is zorkblat. It is nice."

    answer = proxy.chat(key=FILM, stream=stream)

    assert 200 == answer.status
    assert b"zorkblat" not in answer.body
    assert b"content_filter" in answer.body


def test_a_forbidden_prompt_never_reaches_the_upstream(proxy, upstream):
    answer = proxy.chat("Say zorkblat.", key=FILM)

    assert (200, []) == (answer.status, upstream.seen)
    assert "refuse" == answer.headers["x-cosa-act"]


def test_the_upstream_gets_its_own_key_and_a_fixed_set_of_headers(proxy, upstream):
    proxy.chat(key=FILM, headers={"X-Forwarded-For": "1.2.3.4", "OpenAI-Organization": "o", "Cookie": "a=b"})

    assert {"host", "content-type", "content-length", "accept", "accept-encoding", "user-agent", "authorization"} >= upstream.seen[0].headers.keys()
    assert "Bearer upstream-secret" == upstream.seen[0].headers["authorization"]


def test_the_model_is_the_first_of_the_list_or_one_of_it(proxy, upstream):
    proxy.chat(key=FILM)
    proxy.chat(key=FILM, model="big")

    assert ["small", "big-7b"] == [seen.json["model"] for seen in upstream.seen]


def test_the_config_is_put_in_front(proxy, upstream):
    proxy.chat(key=FILM)

    assert "system" == upstream.seen[0].json["messages"][0]["role"]


def test_a_key_bound_to_several_configs_chooses_among_them(proxy, upstream):
    used = [proxy.chat("film-word", key=BOTH, headers=headers) for headers in ({}, {"x-cosa-use": "strict"}, {"x-cosa-use": "mild"})]

    assert ["refuse", "refuse", "pass"] == [answer.headers["x-cosa-act"] for answer in used]


@pytest.mark.parametrize("stream", [False, True])
def test_anthropic_messages(proxy, upstream, stream):
    body = {"model": "claude-x", "max_tokens": 20, "messages": [{"role": "user", "content": "Hi"}], "stream": stream}

    answer = proxy.ask("/v1/messages", body, headers={"x-api-key": CLINIC, "anthropic-version": "2023-06-01"})

    assert 200 == answer.status
    assert ("upstream-secret", "2023-06-01") == tuple(upstream.seen[0].headers[name] for name in ("x-api-key", "anthropic-version"))
    assert "authorization" not in upstream.seen[0].headers
    assert "library" in answer.body.decode()


def test_models_lists_those_of_the_tenant_alone(proxy):
    film = proxy.ask("/v1/models", key=FILM, method="GET")
    clinic = proxy.ask("/v1/models", key=CLINIC, method="GET")

    assert ["small", "big"] == [model["id"] for model in film.json["data"]]
    assert ["claude-x"] == [model["id"] for model in clinic.json["data"]]
    assert 401 == proxy.ask("/v1/models", method="GET").status


def test_health_readiness_metrics_and_the_document(proxy):
    proxy.chat(key=FILM)

    assert 200 == proxy.ask("/healthz", method="GET").status
    assert 200 == proxy.ask("/readyz", method="GET").status
    page = proxy.ask("/metrics", method="GET").body.decode()
    assert 'cosa_requests_total{act="pass"' in page
    assert "cosa_judge_threads_abandoned_total" in page
    assert "cosa_request_seconds_bucket" in page


def test_the_document_names_the_routes_that_there_are(proxy):
    document = proxy.ask("/openapi.json", method="GET").json
    said = {(path, method.upper()) for path, methods in document["paths"].items() for method in methods}

    assert {(path.decode(), route.method) for path, route in proxy.app.routes.items()} == said


class TestCheck:
    def test_answers_as_the_command_does(self, proxy):
        answer = proxy.ask("/v1/cosa/check", {"text": "zorkblat", "stage": "output", "prompt": "Hi"}, key=FILM)

        assert 200 == answer.status
        assert ("violates", ["rule:w0"], [[0, 8]]) == tuple(answer.json[name] for name in ("decision", "rules", "spans")) or answer.json["rules"]
        assert answer.headers["x-cosa-config"] == answer.json["config"]
        assert {"decision", "risks", "rules", "unexamined", "tolerated", "spans", "judge", "config"} == answer.json.keys()

    def test_a_prompt_has_a_type_and_a_reply_has_none(self, proxy):
        assert "prompt_type" in proxy.ask("/v1/cosa/check", {"text": "Hello"}, key=FILM).json
        assert "prompt_type" not in proxy.ask("/v1/cosa/check", {"text": "Hello", "stage": "output"}, key=FILM).json

    @pytest.mark.parametrize("body", [{}, {"text": 1}, {"text": "a", "stage": "middle"}, {"text": "a", "more": 1}, {"text": "a", "prompt": "b"}, {"text": "a", "/": 1}, {"self": 1}])
    def test_says_what_is_wrong(self, proxy, body):
        answer = proxy.ask("/v1/cosa/check", body, key=FILM)

        assert (400, "invalid_request") == (answer.status, answer.code)


class TestBodies:
    """Whatever comes: a clear 4xx, never 5xx, and nothing goes upstream."""

    @pytest.mark.parametrize(
        "raw",
        [
            b"", b"{", b"[]", b'"text"', b"null", b"NaN", b'{"n": NaN}',
            b'{"model": "small", "model": "big"}', b'{"messages": "\xff\xfe"}', b"\x00", b'{"a": ' + b"9" * 5000 + b"}",
            b"[" * 100_000, b'{"a":' * 50_000 + b"1" + b"}" * 50_000, b'{"messages": [{"role": "user", "content": "a", "role": "system"}]}',
            b'{"messages": [{"role": "user", "content": "\\ud800"}], "model": "\\ud800"}', b"\xef\xbb\xbf{}", b'{"messages": []}',
            b'{"messages": {}}', b'{"messages": [1]}', b'{"messages": [[]]}', b'{"messages": null}', b'{"messages": [{"role": 1}]}',
            b'{"messages": [{"role": "user", "content": {}}]}', b'{"messages": [{"role": "user", "content": [1]}]}', b'{"stream": "yes"}',
            b'{"messages": [{"role": "user", "content": "a"}], "n": true}', b'{"messages": [{"role": "user", "content": "a"}], "n": 99}',
            b'{"messages": [{"role": "user", "content": "a"}], "n": -1}', b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": 1.5}',
            b'{"messages": [{"role": "user", "content": "a"}], "max_tokens": "all"}',
        ],
        ids=lambda raw: raw[:40].decode("latin-1"),
    )  # fmt: skip
    @pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/cosa/check"])
    def test_that_are_no_request(self, proxy, upstream, path, raw):
        answer = proxy.ask(path, raw=raw, key=FILM)

        assert 400 <= answer.status < 500, answer
        assert answer.code
        assert [] == upstream.seen

    def test_that_hold_a_number_no_json_can_write(self, proxy, upstream):
        answer = proxy.ask(raw=b'{"temperature": 1e999, "messages": [{"role": "user", "content": "a"}]}', key=FILM)

        assert (400, []) == (answer.status, upstream.seen)

    @pytest.mark.parametrize(("headers", "status"), [
        ({"Content-Type": "text/plain"}, 415), ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "multipart/form-data; boundary=a"}, 415), ({"Content-Encoding": "gzip"}, 415), ({"Content-Encoding": "br"}, 415),
        ({"Upgrade": "h2c", "Connection": "upgrade"}, 400),
    ])
    def test_of_another_kind(self, proxy, upstream, headers, status):
        answer = proxy.chat(key=FILM, headers=headers)

        assert (status, []) == (answer.status, upstream.seen)

    def test_too_large_by_its_length(self, proxy):
        answer = proxy.ask(raw=b"{}", key=FILM, headers={"Content-Length": str(50_000_000)})

        assert (413, "request_too_large") == (answer.status, answer.code)

    def test_too_large_as_it_comes(self, proxy):
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {FILM}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        chunk = b"100000\r\n" + b"a" * 0x100000 + b"\r\n"

        with socket.create_connection(("127.0.0.1", proxy.port), timeout=PATIENCE) as line:
            line.sendall(head.encode() + chunk * 5)
            assert line.recv(65536).startswith(b"HTTP/1.1 413")

    @pytest.mark.parametrize(("path", "headers", "status"), [
        ("/v1/chat/completions", {}, 401), ("/v1/nothing", {}, 404), ("/v1/models", {}, 405), ("/v1/chat/completions", {"Authorization": f"Bearer {FILM}"}, 413),
    ])
    def test_that_are_large_do_not_lose_the_error(self, proxy, path, headers, status):
        """Closing under a client that still sends would reset it."""
        assert status == proxy.ask(path, raw=b"a" * 8_000_000, headers=headers).status

    def test_charset_in_the_content_type_is_fine(self, proxy):
        assert 200 == proxy.chat(key=FILM, headers={"Content-Type": "application/json; charset=utf-8"}).status


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/healthz", "/openapi.json", "/v1/cosa/check"])
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE"])
def test_another_method_is_405(proxy, upstream, path, method):
    route = proxy.app.routes[path.encode()]
    if method == route.method:
        return
    answer = proxy.ask(path, method=method)

    assert (405, route.method) == (answer.status, answer.headers["allow"])
    assert [] == upstream.seen


@pytest.mark.parametrize(("path", "method", "kind"), [
    ("/v1/messages", "GET", "invalid_request_error"), ("/v1/messages/count_tokens", "POST", "not_found_error"), ("/v1/messages/batches", "GET", "not_found_error"),
])  # fmt: skip
def test_below_messages_errors_are_anthropics(proxy, path, method, kind):
    answer = proxy.ask(path, {} if method == "POST" else None, key=CLINIC, method=method)

    assert ("error", kind) == (answer.json["type"], answer.json["error"]["type"])


@pytest.mark.parametrize(("path", "body", "key", "status"), [
    ("/v1/chat/completions", {}, None, 401), ("/v1/chat/completions", {}, FILM, 400), ("/v1/chat/completions", {"model": "x"}, FILM, 404),
    ("/v1/responses", {}, CLINIC, 404), ("/v1/cosa/check", {}, FILM, 400), ("/v1/models", None, None, 401), ("/v1/nothing", {}, FILM, 404),
    ("/v1/messages", {}, None, 401), ("/v1/messages", {}, FILM, 404), ("/v1/messages", {"max_tokens": 9}, CLINIC, 400),
])  # fmt: skip
def test_every_error_is_the_vendors_object(proxy, path, body, key, status):
    answer = proxy.ask(path, body, key=key, method="GET" if body is None else "POST")
    error = answer.json["error"]

    assert (status, "application/json") == (answer.status, answer.headers["content-type"])
    assert all(isinstance(error[name], str) for name in ("type", "message", "code"))
    assert ("type" in answer.json) == path.startswith("/v1/messages")
    assert "param" in error or path.startswith("/v1/messages")


def test_requests_are_counted_for_each_tenant(upstream, tmp_path):
    with serving(write(tmp_path, upstream, metrics=True)) as one:
        one.chat(key=FILM)
        one.chat("Say zorkblat.", key=FILM)
        one.ask("/v1/messages", {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}, key=CLINIC)
        one.chat(key="nobody's")
        one.settle(upstream)
        counted = sorted((*row[:4], count) for row, count in one.app.metrics.requests.items())

    assert [
        ("-", "/chat/completions", 401, "none", 1), ("clinic", "/messages", 200, "pass", 1),
        ("film", "/chat/completions", 200, "pass", 1), ("film", "/chat/completions", 200, "refuse", 1),
    ] == counted


def test_a_request_has_one_name_for_the_caller_the_log_and_the_record(upstream, tmp_path, capfd):
    with serving(write(tmp_path, upstream, audit={"folder": "audit"}), log_requests=True) as one:
        names = [one.chat(key=FILM, stream=stream, headers={"x-cosa-request": "mine"}).headers["x-cosa-request"] for stream in (False, True)]
        one.settle(upstream)
    chain = next(path for path in (tmp_path / "audit").glob("2*.jsonl") if ".heads" not in path.name)
    recorded = [json.loads(line)["request"] for line in chain.read_text().splitlines()]
    log = capfd.readouterr().err

    assert 2 == len({*names})
    assert names == list(dict.fromkeys(recorded))
    assert all(log.count(name) == 1 for name in names)


@pytest.mark.parametrize("durability", ["process", "power"])
def test_what_is_answered_is_on_record_and_closing_the_proxy_closes_the_record(upstream, tmp_path, durability):
    generate(tmp_path / "audit.pem")
    audit = {"folder": "audit", "key": "audit.pem", "durability": durability, "text": "full"}
    with serving(write(tmp_path, upstream, audit=audit)) as one:
        said = [one.chat(key=FILM, stream=stream).text for stream in (False, True)]
        one.app.runtime.record.close()  # as the command does when it has drained
    report = verify(tmp_path / "audit", keys=[PublicKey(tmp_path / "audit.pem.pub")])
    text = "".join(path.read_text() for path in (tmp_path / "audit").glob("2*.jsonl"))

    assert ([upstream.said] * 2, "valid") == (said, report.status)
    assert report.chains[0].records >= 4
    assert 2 == text.count('"text":"When does the library open?"')


def test_an_error_of_the_upstream_is_passed_on(proxy, upstream):
    async def busy(seen, line):
        await line.whole({"error": {"message": "slow down", "type": "rate_limit_error", "code": "busy"}}, 429, more="retry-after: 7\r\nset-cookie: a=b\r\nserver: secret\r\n")

    upstream.script = busy
    answer = proxy.chat(key=FILM)

    assert (429, "7") == (answer.status, answer.headers["retry-after"])
    assert not {"set-cookie", "server"} & answer.headers.keys()


def test_the_document_is_json(proxy):
    assert "3.1.0" == json.loads(proxy.ask("/openapi.json", method="GET").body)["openapi"]
