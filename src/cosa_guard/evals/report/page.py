"""What all reports share: one HTML file that asks the network for nothing, and whose content policy forbids it to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Final

from cosa_sdk.score import Interval

__all__ = ["SHOWN", "cut", "page", "ranged", "share", "table", "text"]

SHOWN: Final = 300
"""Characters shown of a text."""

_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c1f24; --soft: #5c6470; --page: #ffffff; --line: #d9dde3; --mark: #2456c7;
  --warn: #9a3d00; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ec; --soft: #a0a8b4; --page: #14161a; --line: #343a44;
  --mark: #7aa5ff; --warn: #ffb27a; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 62rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
h1, td, p { overflow-wrap: anywhere; }
.soft, caption { color: var(--soft); } .warn { color: var(--warn); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td.num, th.num { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-size: .85rem; padding-bottom: .3rem; }
.plots { display: flex; flex-wrap: wrap; gap: 1.5rem; } figure { margin: 0; flex: 1 1 20rem; max-width: 28rem; }
figcaption { font-size: .85rem; color: var(--soft); } svg { width: 100%; height: auto; }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
.grid { stroke: var(--line); } .even { stroke: var(--soft); stroke-dasharray: 4 4; }
details { border: 1px solid var(--line); border-radius: 6px; padding: .6rem 1rem; } summary { cursor: pointer; }
"""


def page(title: str, parts: Iterable[str], *, style: str = "") -> str:
    """A whole page.

    Args:
        title: any text; its heading as well.
        parts: HTML, one part below the other.
        style: rules that this report adds to the common ones.
    """
    return "\n".join(
        [
            '<!doctype html><html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            f"<title>{text(title)}</title><style>{_STYLE}{style}</style></head><body>",
            f"<h1>{text(title)}</h1>",
            *parts,
            "</body></html>",
        ]
    )


def text(value: str) -> str:
    """Any text as HTML that shows it, in an element or in an attribute."""
    # Half a surrogate pair is a string to Python and no text to any file; controls are no characters of HTML.
    return escape(_CONTROLS.sub("\ufffd", value.encode("utf-8", "replace").decode("utf-8")))


def cut(value: str, most: int = SHOWN) -> str:
    """As `text`, of the first `most` characters."""
    return text(value if len(value) <= most else value[:most] + "…")


def share(value: float | None) -> str:
    """A number to three places, or `n/a`."""
    return "n/a" if value is None else f"{value:.3f}"


def ranged(value: float | None, ci: Interval | None) -> str:
    """A number and its interval."""
    return share(value) if value is None or ci is None else f"{value:.3f} [{ci[0]:.2f}, {ci[1]:.2f}]"


def table(caption: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """A table of HTML cells whose first `words` columns are words, the others numbers."""

    def row(cells: Sequence[str], tag: str) -> str:
        kinds = ["" if place < words else ' class="num"' for place in range(len(cells))]
        return (
            "<tr>" + "".join(f"<{tag}{kind}>{cell}</{tag}>" for cell, kind in zip(cells, kinds, strict=True)) + "</tr>"
        )

    body = "".join(row(cells, "td") for cells in rows)
    return (
        f'<div class="wide"><table><caption>{caption}</caption><thead>{row(heads, "th")}</thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
