"""For every test: no network, and hypothesis runs that can be repeated."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from cosa_guard import testing

# `ci` finds the same examples on every run and machine; `fresh` looks for new ones.
slow_machine = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("ci", deadline=None, derandomize=True, database=None, suppress_health_check=slow_machine)
settings.register_profile("fresh", deadline=None, print_blob=True, suppress_health_check=slow_machine)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session", autouse=True)
def block_network():
    """Loopback alone: a test that calls a model by accident fails instead."""
    with testing.block_network():
        yield
