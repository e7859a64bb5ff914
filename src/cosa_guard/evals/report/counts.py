"""Counts behind the figures: what each config's prompts were met with, and violations by risk."""

from __future__ import annotations

from collections import Counter
from typing import Final

from cosa_guard.evals import metrics
from cosa_guard.evals.report import plots
from cosa_guard.evals.report.page import text
from cosa_guard.evals.report.view import ANSWERS, TYPES, View
from cosa_sdk.score import PromptType
from cosa_sdk.score.means import MEASURES

__all__ = ["STYLE", "answers", "violations"]

STYLE: Final = """
td.right, td.wrong, td.heat { text-align: right; white-space: nowrap; min-width: 4.5rem;
  font-variant-numeric: tabular-nums; }
td.right { background: color-mix(in srgb, var(--good) calc(var(--p) * 1%), transparent); }
td.wrong, td.heat { background: color-mix(in srgb, var(--bad) calc(var(--p) * 1%), transparent); }
"""
_RIGHT: Final[dict[PromptType, str]] = {
    "allowed": "answered",
    "partial": "partial",
    "disallowed": "refused",
    "safe": "answered",
}
_ANSWERS: Final = (
    "Rows of each config by type of prompt and by what the response was, told without judging its content. Green is "
    "what the config asks for, red is not; the deeper, the more."
)
_DEEPEST: Final = 55
"""Percent of colour behind a cell that holds all: the figure on it stays readable."""


def answers(view: View) -> str:
    """A table for each config: types of prompts, system by system, against what the responses were."""
    parts = [
        '<h2 id="answers">Prompts and answers</h2>',
        f"<p class='soft'>{_ANSWERS}</p>",
    ]
    for place, config in enumerate(view.configs):
        opened = " open" if place == 0 else ""
        parts.append(f"<details{opened}><summary><bdi>{text(config)}</bdi></summary>{_config(view, config)}</details>")
    return "".join(parts)


def _config(view: View, config: str) -> str:
    found: Counter[tuple[str, str, str]] = Counter(
        (row.system, row.type, row.answer or "none") for row in view.rows if row.config == config
    )
    columns = [name for name in ANSWERS if name != "none" or any(key[2] == "none" for key in found)]
    body = []
    for kind in TYPES:
        for place, system in enumerate(view.systems):
            counts = [found[system, kind, answer] for answer in columns]
            if not (n := sum(counts)):
                continue
            cells = "".join(
                _cell("right" if _RIGHT[kind] == answer else "wrong", count, n, str(count))
                for answer, count in zip(columns, counts, strict=True)
            )
            body.append(
                f'<tr><td class="kind">{kind}</td><td class="name">{plots.key(place)} {place + 1} '
                f"<bdi>{text(system)}</bdi></td>{cells}</tr>"
            )
    heads = "".join(f'<th class="num">{name}</th>' for name in columns)
    return (
        f'<div class="wide"><table><thead><tr><th>prompt</th><th>system</th>{heads}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(kind: str, count: int, n: int, shown: str) -> str:
    return f'<td class="{kind}" style="--p: {round(_DEEPEST * count / n)}">{shown}</td>'


def violations(view: View) -> str:
    """Of disallowed prompts, the share that was violated, by risk of the prompt and system."""
    measure = MEASURES["violation_rate"]
    n: Counter[tuple[str, str]] = Counter()
    wrong: Counter[tuple[str, str]] = Counter()
    for row in view.rows:
        value = measure(row.scored())
        if value is None:
            continue
        for risk in ("not told",) if row.risks is None else row.risks or ("no risk",):
            n[risk, row.system] += 1
            wrong[risk, row.system] += int(value)
    head = '<h2 id="violations">Violations by risk</h2>'
    if not n:
        return f"{head}<p>None to count: no disallowed prompt has a response.</p>"
    systems = "".join(
        f'<th class="num">{plots.key(place)} {place + 1} <bdi>{text(name)}</bdi></th>'
        for place, name in enumerate(view.systems)
    )
    body = []
    for risk in sorted({risk for risk, _ in n}, key=lambda one: (-sum(wrong[one, name] for name in view.systems), one)):
        cells = "".join(_share(wrong[risk, name], n[risk, name]) for name in view.systems)
        body.append(f"<tr><td>{text(risk)}</td>{cells}</tr>")
    return (
        f"{head}<p class='soft'>Of disallowed prompts with the risk: how many were violated, and the share's 95 % "
        "interval (Wilson). By the judge's word where there is one, else by whether they were answered.</p>"
        f'<div class="wide"><table><thead><tr><th>risk of the prompt</th>{systems}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _share(wrong: int, n: int) -> str:
    if not n:
        return '<td class="num">n/a</td>'
    low, high = metrics.wilson(wrong, n)
    return _cell("heat", wrong, n, f'{wrong} of {n}<br><span class="soft">{low:.2f}–{high:.2f}</span>')
