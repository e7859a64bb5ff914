"""Whether the local model can run here; in CI it must."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest


@pytest.fixture(scope="session")
def local_ready():
    from cosa_guard.backends.models import resolve_model
    from cosa_sdk import ModelFileError

    try:
        resolve_model(None)
        found = find_spec("xllamacpp") is not None
    except ModelFileError:
        found = False
    if not found and os.environ.get("CI"):
        pytest.fail("CI needs the local backend and the default model: make demo fetches both")
    return found
