"""Requests made from the served OpenAPI document, valid ones and broken ones: none of them is the proxy's fault."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.guard.server.serving import CLINIC, FILM, serving, write

schemathesis = pytest.importorskip("schemathesis")
CASES = int(os.environ.get("COSA_FUZZ", "25"))


@pytest.mark.filterwarnings("ignore")  # schemathesis has its own
def test_no_request_from_the_document_is_the_proxy_s_fault(upstream, tmp_path):
    tried, faults = [], []
    with serving(write(tmp_path, upstream)) as proxy:
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{proxy.port}/openapi.json")
        for result in schema.get_all_operations():
            operation = result.ok()

            @settings(max_examples=CASES)
            @given(case=operation.as_strategy(), key=st.sampled_from([FILM, CLINIC, "wrong"]))
            def ask(case, key, label=operation.label):
                answer = case.call(headers={"Authorization": f"Bearer {key}"}, timeout=20)
                tried.append((label, answer.status_code))
                if answer.status_code >= 500:
                    faults.append((label, answer.status_code, case.body, answer.text[:200]))

            ask()

    assert [] == faults
    assert {200, 401} <= {status for _, status in tried}
    assert len(tried) >= CASES


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ["model", "messages", "input", "max_tokens", "stream", "n", "tools", "text", "stage", "prompt", "system", "instructions", "store", "previous_response_id", "thinking"]
TURNS = st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "tool", "x"]), "content": JSON}), max_size=3)
BODIES = st.dictionaries(st.sampled_from(FIELDS), JSON | TURNS, max_size=6)


def test_no_body_at_all_is_the_proxy_s_fault(upstream, tmp_path):
    statuses = set()
    with serving(write(tmp_path, upstream)) as proxy:

        @settings(max_examples=CASES * 2)
        @given(
            path=st.sampled_from(["chat/completions", "responses", "messages", "cosa/check"]),
            body=BODIES | JSON,
            key=st.sampled_from([FILM, CLINIC]),
        )
        def ask(path, body, key):
            answer = proxy.ask(f"/v1/{path}", body, key=key)
            statuses.add(answer.status)
            assert answer.status < 500, (path, body, answer.body[:300])

        @settings(max_examples=CASES)
        @given(path=st.sampled_from(["chat/completions", "responses", "messages", "cosa/check"]), raw=st.binary(max_size=60))
        def send(path, raw):
            answer = proxy.ask(f"/v1/{path}", raw=raw, key=FILM)
            statuses.add(answer.status)
            assert 400 <= answer.status < 500, (path, raw, answer.body[:300])

        ask()
        send()

    assert 400 in statuses
