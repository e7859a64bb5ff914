"""Print the schema: `python -m cosa_sdk.schema > src/cosa_sdk/schema/safety_config.schema.json`."""

from __future__ import annotations

import sys

from cosa_sdk.schema import generate

__all__: list[str] = []

sys.stdout.buffer.write(generate().encode("utf-8"))  # the same bytes on every system
