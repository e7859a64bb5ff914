"""What every part of a config is made of: frozen models with one kind of error, and text without markup."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from cosa_sdk.errors import ConfigError, FloorViolation
from cosa_sdk.validation import fault, findings_of
from cosa_sdk.wording import fault_in

__all__ = ["Line", "Model", "Name", "Pattern", "Prose"]


def _clean(text: str, *, markers: bool = True) -> str:
    found = fault_in(text, markers=markers)
    if found:
        position, what = found
        raise fault("markup", f"{what} at character {position + 1} is not allowed in a config", fix="remove it")
    return text


def _visible(text: str) -> str:
    return _clean(text, markers=False)


def _filled(text: str) -> str:
    if not text.strip():
        raise fault("empty", "is empty or only spaces", fix="write a sentence, or leave the key out")
    return text


def _one_line(text: str) -> str:
    # Rules become list items of a prompt: a line break inside one could start an item of its own.
    return " ".join(text.split())


Line = Annotated[
    str, AfterValidator(_clean), AfterValidator(_filled), AfterValidator(_one_line), Field(max_length=2000)
]
"""Text of one line: line breaks and runs of spaces become single spaces."""
Prose = Annotated[str, AfterValidator(_clean), AfterValidator(_filled), Field(max_length=20_000)]
"""Text of several lines, kept word for word."""
Pattern = Annotated[str, AfterValidator(_visible), Field(max_length=500)]
"""A regular expression: nothing hidden, but `[text]` is a character class."""
Name = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=64)]

_inside: ContextVar[bool] = ContextVar("cosa_sdk.model.inside", default=False)


class Model(BaseModel):
    """A frozen model whose faults are one `ConfigError` with a finding for each.

    Raises:
        ConfigError: the values are not valid.
        FloorViolation: a rule names a floor id.
    """

    # A part made by `model_copy` was never validated: it is when it becomes part of something larger.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, revalidate_instances="always")

    def __init__(self, /, **data: Any) -> None:
        if _inside.get():
            # A part of a larger model: pydantic adds the place and goes on to find the other faults.
            super().__init__(**data)
            return
        token = _inside.set(True)
        try:
            super().__init__(**data)
        except ValidationError as error:
            findings = findings_of(error, type(self))
            floor = any(finding.code == "floor" for finding in findings)
            raise (FloorViolation if floor else ConfigError)(findings) from None
        finally:
            _inside.reset(token)
