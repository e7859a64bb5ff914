from __future__ import annotations

import pytest


@pytest.fixture(scope="session", autouse=True)
def no_certificates(tmp_path_factory):
    """Every HTTP client would read the machine's, which takes as long as the rest of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SSL_CERT_FILE", raising=False)
        patch.setenv("SSL_CERT_DIR", str(tmp_path_factory.mktemp("certificates")))
        yield
