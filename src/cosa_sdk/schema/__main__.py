"""Print the schema: `python -m cosa_sdk.schema > src/cosa_sdk/schema/safety_config.schema.json`."""

from __future__ import annotations

import sys

from cosa_sdk.schema import generate

sys.stdout.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]  # the same bytes on every system
sys.stdout.write(generate())
