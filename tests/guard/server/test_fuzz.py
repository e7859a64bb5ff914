"""Requests made from the served OpenAPI document, valid ones and broken ones: none of them is the proxy's fault."""

from __future__ import annotations

import copy
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.guard.server.serving import CLINIC, FILM, serving, write
from tests.guard.server.test_places import REQUESTS

schemathesis = pytest.importorskip("schemathesis")
CASES = int(os.environ.get("COSA_FUZZ", "25"))


def trying(operation, tried, faults):
    """A property of one operation: whatever is asked, the answer is one that the document names, and no 5xx."""
    keys = [CLINIC, FILM] if operation.label.endswith("/messages") else [FILM, CLINIC]
    said = set(operation.definition.raw["responses"])

    @settings(max_examples=CASES)
    @given(case=operation.as_strategy(), key=st.sampled_from([*keys, "wrong"]))
    def ask(case, key):
        if isinstance(case.body, dict):
            case.body.pop("model", None)  # no drawn name is one that the key may use
        answer = case.call(headers={"Authorization": f"Bearer {key}"}, timeout=20)
        tried.append((operation.label, answer.status_code))
        if answer.status_code >= 500 or str(answer.status_code) not in said:
            faults.append((operation.label, answer.status_code, case.body, answer.text[:200]))

    return ask


@pytest.mark.filterwarnings("ignore")  # schemathesis has its own
def test_no_request_from_the_document_is_the_proxy_s_fault(upstream, tmp_path):
    tried, faults = [], []
    with serving(write(tmp_path, upstream, metrics=True)) as proxy:
        schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{proxy.port}/openapi.json")
        for result in schema.get_all_operations():
            trying(result.ok(), tried, faults)()

    assert [] == faults
    assert {200, 401} <= {status for _, status in tried}
    assert len(tried) >= CASES


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
PATHS = [*sorted(REQUESTS), "/v1/cosa/check"]


def altered(body, steps, given):
    """A real request with something else at one place; where that is, `steps` say."""
    changed = copy.deepcopy(body)
    holder, key, value = None, None, changed
    for step in steps:
        if not isinstance(value, dict | list) or not value:
            break
        key = sorted(value)[step % len(value)] if isinstance(value, dict) else step % len(value)
        holder, value = value, value[key]
    if holder is None:
        return given
    holder[key] = given
    return changed


def test_no_body_at_all_is_the_proxy_s_fault(upstream, tmp_path):
    statuses = set()
    with serving(write(tmp_path, upstream)) as proxy:

        @settings(max_examples=CASES * 4)
        @given(path=st.sampled_from(sorted(REQUESTS)), steps=st.lists(st.integers(0, 30), min_size=1, max_size=7), given_=JSON)
        def alter(path, steps, given_):
            key, body = REQUESTS[path]
            answer = proxy.ask(path, altered(body, steps, given_), key=key)
            statuses.add(answer.status)
            assert answer.status < 500, (path, steps, given_, answer.body[:300])

        @settings(max_examples=CASES)
        @given(path=st.sampled_from(PATHS), body=JSON, key=st.sampled_from([FILM, CLINIC]))
        def ask(path, body, key):
            answer = proxy.ask(path, body, key=key)
            statuses.add(answer.status)
            assert answer.status < 500, (path, body, answer.body[:300])

        @settings(max_examples=CASES)
        @given(path=st.sampled_from(PATHS), raw=st.binary(max_size=60))
        def send(path, raw):
            answer = proxy.ask(path, raw=raw, key=FILM)
            assert 400 <= answer.status < 500, (path, raw, answer.body[:300])

        alter()
        ask()
        send()

    assert {200, 400} <= statuses
