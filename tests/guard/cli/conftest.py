"""Running commands as the shell would."""

import sys

import pytest
from tests.guard.backends.conftest import local_model, write_gguf  # noqa: F401  # fixtures

from cosa_guard.cli import main


@pytest.fixture
def cosa(monkeypatch, capsys):
    """Run the command as the shell would: (exit code, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["cosa", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run
