"""Rows to read: the worst of each system, and some of the others. A figure is as good as the rows behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from cosa_guard.evals.report import plots
from cosa_guard.evals.report.page import cut, share, text
from cosa_guard.evals.report.view import View
from cosa_guard.evals.rows import ResultRow

__all__ = ["KINDS", "MOST", "Kind", "section", "sorted_out"]

MOST: Final = 8
"""Rows shown of each kind."""
_TEXT: Final = 2_000
"""Characters shown of a prompt or a response."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """Rows that are worth reading for one reason."""

    title: str
    has: Callable[[ResultRow], bool]


def _violates(row: ResultRow) -> bool:
    if row.safe is not None:
        return not row.safe and row.helpful != 0
    return row.type in {"disallowed", "partial"} and row.answer == "answered"


KINDS: Final = (
    Kind(title="No response", has=lambda row: row.error is not None),
    Kind(title="The judge could not be read", has=lambda row: row.invalid is not None),
    Kind(title="Against the config", has=_violates),
    Kind(
        title="Disallowed and answered; the judge finds it within the config",
        has=lambda row: row.type == "disallowed" and row.answer == "answered" and row.safe is True,
    ),
    Kind(
        title="Allowed or safe, and refused",
        has=lambda row: row.type in {"allowed", "safe"} and row.answer == "refused",
    ),
    Kind(title="Degenerate", has=lambda row: row.answer == "degenerate"),
    Kind(title="Others, a sample", has=lambda _: True),
)
"""A row stands under the first that it belongs to."""


def sorted_out(rows: Iterable[ResultRow]) -> dict[str, list[ResultRow]]:
    """Rows by the title of their kind, the most helpful violations first; kinds without rows are left out."""
    found: dict[str, list[ResultRow]] = {kind.title: [] for kind in KINDS}
    for row in rows:
        found[next(kind.title for kind in KINDS if kind.has(row))].append(row)
    for kept in found.values():
        kept.sort(key=lambda row: row.helpful or 0.0, reverse=True)  # stable: else in the order of the suite
    return {title: kept for title, kept in found.items() if kept}


def section(view: View) -> str:
    """The part of the page that holds the rows."""
    parts = [
        '<h2 id="rows">Rows to read</h2>',
        '<p class="warn">Content warning: prompts and responses may be offensive or harmful.</p>',
        f'<p class="soft">At most {MOST} of each kind and system, of each text the first {_TEXT} characters.</p>',
    ]
    for place, name in enumerate(view.systems):
        rows = [row for row in view.rows if row.system == name]
        kinds = "".join(_kind(title, found) for title, found in sorted_out(rows).items())
        parts.append(
            f"<details><summary>{plots.key(place)} {place + 1} <bdi>{text(name)}</bdi> "
            f'<span class="soft">{len(rows)} rows</span></summary>{kinds}</details>'
        )
    return "".join(parts)


def _kind(title: str, rows: Sequence[ResultRow]) -> str:
    shown = rows[:MOST]
    if title == KINDS[-1].title and len(rows) > MOST:
        shown = rows[:: -(-len(rows) // MOST)]
    of = f"{len(shown)} of {len(rows)}" if len(shown) < len(rows) else str(len(rows))
    return f'<h3>{text(title)} <span class="soft">{of}</span></h3>' + "".join(map(_row, shown))


def _row(row: ResultRow) -> str:
    marks: list[str] = [row.type, row.answer or "no response"]
    if row.helpful is not None:
        marks.append(f"h {share(row.helpful)}")
    if row.safe is not None:
        marks.append("keeps the config" if row.safe else "against the config")
    parts = [
        ("Prompt", row.prompt),
        ("Response", row.response),
        ("Withheld", row.withheld),
        *((f"Judge, {question}", said) for question, said in row.judged.items()),
        ("The judge could not be read", row.invalid),
        ("No response", row.error),
    ]
    shown = "".join(_part(name, said) for name, said in parts if said)
    facts = [f"item {row.item}", f"finish {row.finish}"]
    facts += [f"risks of the prompt {', '.join(row.risks) or 'none'}"] if row.risks is not None else []
    facts += [f"risks judged {', '.join(row.judged_risks) or 'none'}"] if row.judged_risks is not None else []
    facts += [f"guard {row.act}"] if row.act else []
    facts += [f"told apart by: {row.answer_why}"] if row.answer_why else []
    return (
        f"<details><summary><bdi>{cut(row.prompt, 120)}</bdi> "
        f'<span class="soft"><bdi>{text(row.config)}</bdi>; {text("; ".join(marks))}</span></summary>'
        f'{shown}<p class="soft">{text("; ".join(facts))}</p></details>'
    )


def _part(name: str, said: str) -> str:
    return f'<h4>{text(name)}</h4><pre dir="auto">{cut(said, _TEXT)}</pre>'
