"""Risk categories as data: the vocabulary that configs, judges and suites share.

The built-in taxonomy `cosa-1` has the paper's eight categories (CoSA, section 4.1) and the two floor ids. Users add
risks of their own in a config; tables map the categories of other taxonomies to ours.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from cosa_sdk.errors import UnknownName
from cosa_sdk.model import Line, Model

__all__ = [
    "FLOOR",
    "OTHER",
    "Risk",
    "RiskId",
    "Severity",
    "Taxonomy",
    "builtin",
    "by_code",
    "from_external",
    "to_external",
]

RiskId = Annotated[str, StringConstraints(pattern=r"^(floor\.)?[a-z][a-z0-9_]*$", max_length=64)]
Severity = Literal["normal", "high"]

FLOOR = ("floor.minors", "floor.mass_harm")
"""Ids that no config may allow, limit or re-state: refused under every config."""
OTHER = "other"
"""The residual category: never allowed, as in the paper."""


class Risk(Model):
    """One risk category."""

    id: RiskId
    """Name used in rules, such as `violence`."""
    name: Annotated[Line, Field(max_length=120)]
    """Name for people and prompts."""
    definition: Annotated[Line, Field(max_length=1000)]
    """What belongs to the category, in one or two sentences."""
    severity: Severity = "normal"
    """`high` makes an unlimited allow worth a warning."""


class Taxonomy(Model):
    """A closed list of risks. Build one with `builtin()` and `.extended()`."""

    id: str
    risks: tuple[Risk, ...]
    floor: tuple[Risk, ...]

    def __getitem__(self, risk: str) -> Risk:
        for known in (*self.risks, *self.floor):
            if known.id == risk:
                return known
        raise UnknownName("risk", risk, self.ids)

    @property
    def ids(self) -> tuple[str, ...]:
        """Ids that a rule may name, plus `other`; the floor is not among them."""
        return tuple(risk.id for risk in self.risks)

    def extended(self, extra: tuple[Risk, ...]) -> Taxonomy:
        """This taxonomy with a user's own risks behind the built-in ones."""
        return self.model_copy(update={"risks": (*self.risks, *extra)}) if extra else self


def _data(name: str) -> str:
    return (Path(__file__).parent / "taxonomies" / name).read_text("utf-8")


@cache
def _source(name: str) -> dict[str, Any]:
    return dict(json.loads(_data(f"{name}.json")))


@cache
def builtin(name: str = "cosa-1") -> Taxonomy:
    """A taxonomy that ships with Cosa.

    Raises:
        UnknownName: there is no such taxonomy.
    """
    if name != "cosa-1":
        raise UnknownName("taxonomy", name, ("cosa-1",))
    return Taxonomy.model_validate({key: _source(name)[key] for key in ("id", "risks", "floor")})


def by_code(code: str) -> str:
    """The risk behind a one-letter category code of labelled data, such as `V`.

    Raises:
        UnknownName: no such code.
    """
    codes: dict[str, str] = _source("cosa-1")["codes"]
    if code not in codes:
        raise UnknownName("category code", code, tuple(codes))
    return codes[code]


@cache
def _mappings() -> dict[str, dict[str, tuple[str, ...]]]:
    tables = json.loads(_data("mappings.json"))
    return {name: {key: tuple(row["risks"]) for key, row in table.items()} for name, table in tables.items()}


def _table(name: str) -> dict[str, tuple[str, ...]]:
    tables = _mappings()
    if name not in tables:
        raise UnknownName("taxonomy mapping", name, tuple(tables))
    return tables[name]


def from_external(table: str, category: str) -> tuple[str, ...]:
    """Our risk ids for a category of another taxonomy.

    More than one id means that the category spans several of ours and the item itself must decide.

    Raises:
        UnknownName: no such table or category.
    """
    rows = _table(table)
    if category not in rows:
        raise UnknownName(f"category of {table}", category, tuple(rows))
    return rows[category]


def to_external(table: str, risk: str) -> tuple[str, ...]:
    """Categories of another taxonomy that may hold our `risk`; empty when it has none."""
    return tuple(category for category, risks in _table(table).items() if risk in risks)
