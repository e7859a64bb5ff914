"""JSON Schema of config files, for editors: `safety_config.schema.json` beside this file.

It is generated from the models by `python -m cosa_sdk.schema`, and a test fails when it is stale. It accepts every
config that `cosa_sdk.load` accepts; what holds between keys (a limit needs `text`) only `load` knows.
"""

from __future__ import annotations

import json

from cosa_sdk.config import SCHEMA_VERSION, SafetyConfig

__all__ = ["FILE", "generate"]

FILE = "safety_config.schema.json"
"""Name of the generated file in this package."""


def generate() -> str:
    """The schema as text, with the attribute docstrings as descriptions."""
    schema = SafetyConfig.model_json_schema()
    terms = schema["$defs"]["Rule"]["properties"]["terms"]
    # A bare string is a phrase: a validator before the model turns it into one, which pydantic's schema cannot see.
    terms["items"] = {"anyOf": [{"type": "string"}, terms["items"]]}
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:cosa:schema:safety-config:{SCHEMA_VERSION}",
    }
    return json.dumps({**head, **schema, "title": "Cosa safety config"}, indent=2, ensure_ascii=False) + "\n"
