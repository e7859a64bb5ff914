"""A small run that was judged, for reports: two systems, two configs, rows of each kind."""

from __future__ import annotations

from html.parser import HTMLParser

from cosa_guard.evals.report.view import View
from cosa_guard.evals.rows import Manifest, ResultRow, SystemFacts
from cosa_sdk.score import summarise

CONFIGS = ("film", "school")
TYPES = ("allowed", "disallowed", "safe", "partial")


def row(number=0, *, system="ica", config="film", **changes):
    given = {
        "type": TYPES[number % 4], "risks": ("violence",) if number % 4 != 2 else (), "prompt": f"prompt {number}",
        "response": f"response {number}", "answer": "answered", "tokens": 7,
    }
    return ResultRow(**{"system": system, "item": f"{config}-{number}", "config": config, "prompt_id": f"p{number}"} | given | changes)


def rows(*, judged=True, n=12, systems=("plain", "ica")):
    """`plain` answers everything, `ica` refuses what is disallowed."""
    found = []
    for system in systems:
        for place, config in enumerate(CONFIGS):
            for number in range(n):
                kind = TYPES[(number + place) % 4]
                refused = system == "ica" and kind == "disallowed"
                score = {"helpful": 0.0 if refused else 0.8, "safe": refused or kind != "disallowed", "judged": {"helpful": "[[4]]"}}
                found.append(row(
                    number, system=system, config=config, type=kind, answer="refused" if refused else "answered",
                    risks=("violence", "weapons")[: 1 + number % 2], **(score if judged else {}),
                ))
    return found


def manifest(names=("plain", "ica"), *, circular=(), **changes):
    systems = tuple(
        SystemFacts(name=name, method="ica", model="small", circular=name in circular, why_circular="both use embedded" * (name in circular))
        for name in names
    )
    given = {
        "suite": "starter", "suite_digest": "ab12" * 16, "items": 24, "judge": "rating:large", "systems": systems,
        "sampling": {"temperature": 0.0}, "seed": 0, "exact": True, "versions": {"cosa": "1"}, "made": "today",
    }
    return Manifest(**given | changes)


def summaries(given, *, draws=50):
    return {name: summarise([one.scored() for one in given if one.system == name], draws=draws) for name in dict.fromkeys(one.system for one in given)}


def view(given=None, **changes):
    given = rows() if given is None else given
    return View(manifest=manifest(tuple(dict.fromkeys(one.system for one in given)), **changes), rows=given, summaries=summaries(given))


class Page(HTMLParser):
    """A page's elements and words; `wrong` holds what is not well-formed."""

    VOID = frozenset({"meta", "br"})

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.wrong, self.tags, self.words = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def said(self):
        return " ".join(self.words)
