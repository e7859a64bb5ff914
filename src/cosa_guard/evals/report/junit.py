"""Thresholds as JUnit XML, which build servers show: a suite for each system, a case for each threshold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from cosa_guard.evals.report.thresholds import Result
from cosa_guard.evals.report.view import View, judge_words

__all__ = ["render"]

_NO_CHARACTER: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot say, not even escaped."""


def render(view: View, results: Sequence[Result]) -> str:
    """The file.

    Each system has a case of its own beside its thresholds, which fails where too many rows could not be read: a run
    without thresholds is told from one that nothing came of.
    """
    suites = [_suite(view, name, [one for one in results if one.system == name]) for name in view.systems]
    root = Element("testsuites", name=_clean(f"cosa eval {view.manifest.suite}"))
    for count in ("tests", "failures", "errors"):
        root.set(count, str(sum(int(one.get(count, "0")) for one in suites)))
    root.set("time", "0")
    root.extend(suites)
    indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + tostring(root, encoding="unicode") + "\n"


def _suite(view: View, name: str, results: Sequence[Result]) -> Element:
    manifest, summary = view.manifest, view.summaries[name]
    suite = Element("testsuite", name=_clean(name))
    properties = SubElement(suite, "properties")
    facts = {
        "suite": manifest.suite,
        "suite_digest": manifest.suite_digest,
        "judge": manifest.judge,
        "judge_agreement": judge_words(manifest),
        "circular": view.circular(name) or "no",
    }
    for key, value in facts.items():
        SubElement(properties, "property", name=key, value=_clean(value))
    classname = _clean(f"{manifest.suite}.{name}".replace(" ", "_"))
    case = _case(suite, classname, "rows could be read")
    if summary.inconclusive:
        _fail(case, "inconclusive", f"too many rows could not be read (valid rate {summary.valid_rate:.1%})")
    for one in results:
        case = _case(suite, classname, str(one.threshold))
        if not one.passed:
            _fail(case, "threshold", one.why)
    if against := view.against(name):
        SubElement(suite, "system-out").text = _clean("\n".join(against))
    suite.set("tests", str(1 + len(results)))
    suite.set("failures", str(len(suite.findall("testcase/failure"))))
    suite.set("errors", "0")
    suite.set("skipped", "0")
    suite.set("time", "0")
    return suite


def _case(suite: Element, classname: str, name: str) -> Element:
    return SubElement(suite, "testcase", name=_clean(name), classname=classname, time="0")


def _fail(case: Element, kind: str, why: str) -> None:
    SubElement(case, "failure", message=_clean(why), type=kind).text = _clean(why)


def _clean(value: str) -> str:
    return _NO_CHARACTER.sub("\ufffd", value)
