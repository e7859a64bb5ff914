"""The shipped judge, loaded once, and a calibration file in plain numbers."""

from __future__ import annotations

import pytest
from tests.guard.judges.embedded.build import written

from cosa_guard.judges.embedded.judge import Embedded


@pytest.fixture(scope="session")
def shipped():
    return Embedded()


@pytest.fixture
def plain(tmp_path):
    """A calibration file that changes nothing."""
    return written(tmp_path / "plain.json")
