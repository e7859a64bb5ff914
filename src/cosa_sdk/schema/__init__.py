"""JSON Schema of config files, for editors: `safety_config.schema.json` beside this file.

It is generated from the models by `python -m cosa_sdk.schema`, and a test fails when it is stale. It accepts every
config that `cosa_sdk.dump` writes; what holds between keys (a limit needs `text`) only `cosa_sdk.load` checks.
"""

from __future__ import annotations

import ast
import inspect
import json
from typing import Any

from pydantic import BaseModel

from cosa_sdk.config import SCHEMA_VERSION, Enforcement, Example, Refusal, Rule, SafetyConfig, Term
from cosa_sdk.taxonomy import Risk

__all__ = ["FILE", "generate"]

FILE = "safety_config.schema.json"
"""Name of the generated file in this package."""


def generate() -> str:
    """The schema as text, with the attribute docstrings as descriptions."""
    schema = SafetyConfig.model_json_schema()
    for model in (Enforcement, Example, Refusal, Rule, Term, Risk):
        _describe(schema["$defs"][model.__name__]["properties"], model)
    _describe(schema["properties"], SafetyConfig)
    terms = schema["$defs"]["Rule"]["properties"]["terms"]
    # A bare string is a phrase: a validator before the model turns it into one, which pydantic's schema cannot see.
    terms["items"] = {"anyOf": [{"type": "string"}, terms["items"]]}
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:cosa:schema:safety-config:{SCHEMA_VERSION}",
    }
    return json.dumps({**head, **schema, "title": "Cosa safety config"}, indent=2, ensure_ascii=False) + "\n"


def _describe(properties: dict[str, Any], model: type[BaseModel]) -> None:
    """Add the docstring under each attribute. Pydantic could, but reads the source at every import: 80 ms."""
    (body,) = ast.parse(inspect.getsource(model)).body
    assert isinstance(body, ast.ClassDef)
    for field, following in zip(body.body, body.body[1:], strict=False):
        match field, following:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(said))):
                properties[name]["description"] = inspect.cleandoc(said)
            case _:
                pass
