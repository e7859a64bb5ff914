"""Figures as a picture. The only importer of matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from cosa_guard.cli.writing import must_be_writable
from cosa_sdk.errors import MissingExtra, UsageError

__all__ = ["check_plot", "save_bars"]

_FORMATS: Final = (".png", ".svg")
_COLUMNS: Final = 2


def check_plot(path: Path) -> None:
    """Finds out before a long run that there can be a picture.

    Raises:
        MissingExtra: matplotlib is not installed.
        UsageError: the file is no .png or .svg, or cannot be written.
    """
    if path.suffix not in _FORMATS:
        raise UsageError(f"--plot {str(path)!r}: name a file that ends in {' or '.join(_FORMATS)}")
    if find_spec("matplotlib") is None:
        raise MissingExtra("--plot", "plot")
    must_be_writable(path, force=True)


def save_bars(path: Path, title: str, figures: Mapping[str, Mapping[str, float]]) -> None:
    """Draws one group of bars for each figure, and a bar for each name in it."""
    from matplotlib.figure import Figure  # noqa: PLC0415  # an extra

    rows = -(-len(figures) // _COLUMNS)
    picture = Figure(figsize=(5.5 * _COLUMNS, 1.2 + 1.7 * rows), layout="constrained")
    picture.suptitle(title)
    for place, (heading, bars) in enumerate(figures.items(), 1):
        axes = picture.add_subplot(rows, _COLUMNS, place)
        drawn = axes.barh(list(bars), list(bars.values()), color=[f"C{index}" for index in range(len(bars))])
        axes.bar_label(drawn, fmt="{:,.4g}", padding=3)
        axes.set_title(heading, fontsize="medium", loc="left")
        axes.margins(x=0.2)
        axes.invert_yaxis()
    picture.savefig(path, format=path.suffix[1:])
