from __future__ import annotations

import pytest
from tests.guard.server.serving import Upstream, serving, write


@pytest.fixture(scope="session")
def upstream_server():
    one = Upstream()
    yield one
    one.stop()


@pytest.fixture
def upstream(upstream_server):
    """One for all tests, as good as new for each."""
    upstream_server.reset()
    return upstream_server


@pytest.fixture(scope="module")
def shared(upstream_server, tmp_path_factory):
    with serving(write(tmp_path_factory.mktemp("serve"), upstream_server, metrics=True)) as one:
        yield one


@pytest.fixture
def proxy(shared, upstream):
    """The tenants film and clinic, for tests that leave nothing behind."""
    return shared
