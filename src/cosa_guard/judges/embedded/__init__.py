"""The shipped classifier: a static tier and a small encoder, offline, in milliseconds. Needs the `embedded` extra.

`judges.make("embedded")`, `"embedded:strict"`, `"embedded:my-rows.json"`; `"fast"` is the static tier alone. What it
can and cannot do is measured in `weights/MODEL_CARD.md`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cosa_guard.judges.embedded.judge import Embedded

__all__ = ["installed", "make", "make_fast"]


def installed() -> bool:
    """The extra that runs the networks is there."""
    return find_spec("onnxruntime") is not None and find_spec("numpy") is not None


def make(argument: str | None = None) -> Embedded:
    """The judge for `embedded` and `embedded:<operating point or calibration file>`.

    Raises:
        MissingExtra: onnxruntime is not installed.
        UsageError: the argument is neither an operating point nor a calibration file.
    """
    from cosa_guard.judges.embedded.judge import Embedded  # noqa: PLC0415  # numpy and onnxruntime, only when used

    return Embedded(argument)


def make_fast(argument: str | None = None) -> Embedded:
    """The judge for `fast`: the static tier alone."""
    from cosa_guard.judges.embedded.judge import Embedded  # noqa: PLC0415

    return Embedded(argument, tier="fast")
