"""What the backend `transformers` says where torch need not be installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cosa_guard import backends
from cosa_guard.backends.transformers import TransformersOptions, make
from cosa_sdk.errors import ModelFileError, UnknownName, UsageError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"context": 3}, "context=3.*from 64 on"),
        ({"parallel": 0}, "parallel=0"),
        ({"parallel": "4"}, "parallel='4'"),
        ({"parallel": True}, "parallel=True"),
        ({"threads": 0}, "threads=0"),
        ({"batch": 8}, "batch=8.*from 32 on"),
        ({"prefix_cache_mib": -1}, "prefix_cache_mib=-1"),
    ],
)
def test_options_are_checked(options, said):
    with pytest.raises(UsageError, match=f"option {said}"):
        TransformersOptions(**options)


def test_the_backend_is_registered_and_refuses_unknown_options_and_files(tmp_path):
    assert "transformers" in backends.names()
    with pytest.raises(UnknownName, match="'contxt': did you mean 'context'"):
        make("x.gguf", contxt=3)
    with pytest.raises(ModelFileError, match="does not exist"):
        make(str(tmp_path / "gone.gguf"))


def test_looking_at_the_backend_loads_nothing_heavy():
    code = "import sys, cosa_guard.backends.transformers, cosa_guard.backends.json_grammar\nprint(*sorted({'numpy', 'torch', 'transformers', 'peft', 'llguidance'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert "" == done.stdout.strip()
