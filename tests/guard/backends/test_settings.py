"""What a local backend takes from the machine."""

from __future__ import annotations

import pytest

from cosa_guard.backends import settings
from cosa_sdk.errors import OutOfMemory, UsageError


def test_free_memory_is_read_or_unknown(tmp_path, monkeypatch):
    assert (settings.free_memory() or 1) > 0
    monkeypatch.setattr(settings, "Path", lambda name: tmp_path / "none")
    assert settings.free_memory() is None


def test_unknown_memory_is_no_objection():
    settings.check_memory(1 << 40, 1 << 40, model="m", what="w", free=lambda: None)
    with pytest.raises(OutOfMemory):
        settings.check_memory(1 << 40, 1 << 40, model="m", what="w", free=lambda: 1 << 40)


def test_threads(monkeypatch):
    monkeypatch.delenv("COSA_THREADS", raising=False)
    monkeypatch.setenv("CI", "true")
    assert 1 == settings.default_threads()
    monkeypatch.setenv("COSA_THREADS", "3")
    assert 3 == settings.default_threads()
    monkeypatch.setenv("COSA_THREADS", "many")
    with pytest.raises(UsageError, match="COSA_THREADS='many'"):
        settings.default_threads()
    monkeypatch.setenv("COSA_THREADS", "")
    monkeypatch.delenv("CI")
    monkeypatch.setattr(settings.os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    assert 3 == settings.default_threads()
