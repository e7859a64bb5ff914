"""From pydantic's errors to findings that a person can act on: the value, the place, the choices, the next step."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from cosa_sdk.errors import Finding, nearest

__all__ = ["Path", "fault", "findings_of", "path_text"]

_SHOWN = 60
Path = tuple[str | int, ...]
"""Where in a config: keys and list positions."""


def fault(code: str, message: str, fix: str | None = None, at: str | None = None) -> PydanticCustomError:
    """An error for a validator to raise; pydantic collects it with the place, `findings_of` reads it back.

    Args:
        at: path below the validated value, where the place is not the value itself.
    """
    # Pydantic formats its template, so the message travels as a value: braces in a user's text stay as they are.
    return PydanticCustomError("cosa", "{message}", {"message": message, "code": code, "fix": fix, "at": at})


def path_text(path: Path) -> str:
    """`("rules", 2, "stance")` as `rules[2].stance`."""
    out = ""
    for part in path:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out


def findings_of(error: ValidationError, model: type[BaseModel]) -> list[Finding]:
    """One finding for each error of a validation of `model`, in the order of the source."""
    return [_finding(detail, model) for detail in error.errors(include_url=False)]


def _finding(detail: ErrorDetails, model: type[BaseModel]) -> Finding:
    path: Path = tuple(part for part in detail["loc"])
    context = detail.get("ctx", {})
    if detail["type"] == "cosa":
        where = path_text(path) + (f".{context['at']}" if context["at"] and path else context["at"] or "")
        return Finding(code=context["code"], message=context["message"], where=where, fix=context["fix"])
    where = path_text(path)
    value = _shown(detail["input"])
    match detail["type"]:
        case "extra_forbidden":
            return _unknown_key(path, model, where)
        case "missing":
            return Finding(code="missing-key", message=f"the key {path[-1]!r} is required", where=where)
        case "literal_error":
            choices = [choice.strip(" '") for choice in context["expected"].replace(" or ", ", ").split(",")]
            meant = nearest(str(detail["input"]), choices)
            hint = f"did you mean {meant!r}?" if meant else None
            return Finding(code="choice", message=f"{value} is not one of {', '.join(choices)}", where=where, fix=hint)
        case "string_pattern_mismatch":
            message = f"{value} is not a name: lower-case letters, digits, '.', '_' and '-', a letter or digit first"
            return Finding(code="name", message=message, where=where)
        case "too_long" | "string_too_long":
            most, what = context["max_length"], "characters" if isinstance(detail["input"], str) else "items"
            size = context.get("actual_length") or len(detail["input"])
            return Finding(code="too-long", message=f"{size} {what}, at most {most}", where=where)
        case "tuple_type" | "model_type" | "model_attributes_type" | "dict_type":
            wanted = "a list" if detail["type"] == "tuple_type" else "keys and values"
            return Finding(code=detail["type"].replace("_", "-"), message=f"{value}: should be {wanted}", where=where)
        case kind:
            said = detail["msg"][:1].lower() + detail["msg"][1:]
            return Finding(code=kind.replace("_", "-"), message=f"{value}: {said}", where=where)


def _unknown_key(path: Path, model: type[BaseModel], where: str) -> Finding:
    fields = _fields_at(path[:-1], model)
    key = str(path[-1])
    meant = nearest(key, fields)
    fix = f"did you mean {meant!r}?" if meant else None
    message = f"unknown key {key!r}; known here: {', '.join(fields)}"
    return Finding(code="unknown-key", message=message, where=where, fix=fix)


def _fields_at(path: Path, model: type[BaseModel]) -> list[str]:
    """Names that the model at `path` has."""
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _model_in(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside an annotation such as `tuple[Annotated[Rule, …], ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"
