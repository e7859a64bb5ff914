"""One key pair for all: making them takes longer than using them."""

import pytest
from tests.guard.audit.logs import Keys
from tests.guard.cli.conftest import cosa

__all__ = ["cosa", "keys", "strangers"]


@pytest.fixture(scope="session")
def keys(tmp_path_factory):
    return Keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="session")
def strangers(tmp_path_factory):
    return Keys(tmp_path_factory.mktemp("strangers"))
