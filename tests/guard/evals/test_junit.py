from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree as ET

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.guard.evals.report_build import rows, view

from cosa_guard.evals.report import junit
from cosa_guard.evals.report.thresholds import Result, Threshold, check, parse

# What the schema of Jenkins' xUnit plugin (junit-10.xsd) requires and allows of what is written here.
CHILDREN = {
    "testsuites": {"testsuite"}, "testsuite": {"properties", "testcase", "system-out", "system-err"}, "properties": {"property"},
    "testcase": {"skipped", "error", "failure", "system-out", "system-err"}, "property": set(), "failure": set(), "system-out": set(),
}
REQUIRED = {"testsuite": {"name", "tests"}, "testcase": {"name", "classname"}, "property": {"name", "value"}}
ALLOWED = {
    "testsuites": {"name", "time", "tests", "failures", "disabled", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "time", "disabled", "skipped", "timestamp", "hostname", "id", "package"},
    "testcase": {"name", "assertions", "time", "classname", "status"}, "property": {"name", "value"}, "failure": {"type", "message"},
}


def must_be_valid(root):
    assert "testsuites" == root.tag
    for element in root.iter():
        assert {child.tag for child in element} <= CHILDREN[element.tag]
        assert REQUIRED.get(element.tag, set()) <= element.attrib.keys() <= ALLOWED.get(element.tag, set())


def test_cases_and_failures_are_counted():
    seen = view()
    results = check(parse({"ica": {"decision_score": {"min": 0.2}}, "*": {"violation_rate": {"max": 0.1}}}), seen.summaries)
    root = ET.fromstring(junit.render(seen, results))

    must_be_valid(root)
    assert {"name": "cosa eval starter", "tests": "5", "failures": "1", "errors": "0", "time": "0"} == root.attrib
    assert [("plain", "2", "1"), ("ica", "3", "0")] == [(one.get("name"), one.get("tests"), one.get("failures")) for one in root]
    [failure] = root.iter("failure")
    assert "violation_rate is 1, above 0.1" == failure.get("message") == failure.text
    assert ["rows could be read", "violation_rate at most 0.1"] == [case.get("name") for case in root[0].iter("testcase")]
    assert {"starter.plain"} == {case.get("classname") for case in root[0].iter("testcase")}


def test_system_that_could_not_be_read_fails_without_thresholds():
    seen = view([replace(one, invalid="?", helpful=None, safe=None) if i < 9 else one for i, one in enumerate(rows())])
    root = ET.fromstring(junit.render(seen, []))

    must_be_valid(root)
    assert ["inconclusive"] == [one.get("type") for one in root.iter("failure")]
    assert ("2", "1") == (root.get("tests"), root.get("failures"))


def test_what_speaks_against_the_figures_stands_beside_them():
    root = ET.fromstring(junit.render(view(circular=("ica",)), []))
    facts = {one.get("name"): one.get("value") for one in root[1].iter("property")}

    assert "both use embedded" in facts["circular"] and "rating:large" == facts["judge"]
    assert "its agreement with labels was not measured" == facts["judge_agreement"]
    assert "not to be quoted" in root[1].findtext("system-out")
    assert "no" == next(one.get("value") for one in root[0].iter("property") if one.get("name") == "circular")


@given(st.text(st.characters(), max_size=30))
@example("]]>&<\x00\ud83d\ufffe")
@settings(max_examples=60, deadline=None)
def test_any_text_makes_a_valid_file(words):
    seen = view(rows(n=1, systems=("ica",)), suite=words, judge=words)
    threshold = Threshold(system="ica", measure="contrast", least=0.1)
    text = junit.render(seen, [Result(system="ica", threshold=threshold, value=None, passed=False, why=words)])
    root = ET.fromstring(text.encode())

    must_be_valid(root)
    assert 1 == len(list(root.iter("failure")))


@pytest.mark.parametrize(("given", "written"), [("a<b&c", "a<b&c"), ("a\x00b", "a\ufffdb"), ("\ud83d", "\ufffd"), ("é🙂", "é🙂")])
def test_text_comes_back_as_far_as_xml_can_say_it(given, written):
    root = ET.fromstring(junit.render(view(suite=given), []).encode())

    assert f"cosa eval {written}" == root.get("name")
