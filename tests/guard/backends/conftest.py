"""A real local model for the tests that need one, and a writer of small GGUF files for those that do not."""

from __future__ import annotations

import os
import struct
from array import array
from importlib.util import find_spec
from pathlib import Path

import pytest

from cosa_guard.backends import probe
from cosa_guard.backends.models import find_default

STRING, ARRAY, ALIGNMENT = 8, 9, 32
FORMS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}


def _kind(value):
    return {bool: 7, int: 4, float: 6, str: STRING, list: ARRAY}[type(value)]


def _string(text):
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value, kind):
    if kind == STRING:
        return _string(value)
    if kind == ARRAY:
        item = 5 if value and type(value[0]) is int else _kind(value[0]) if value else 4
        return struct.pack("<IQ", item, len(value)) + b"".join(_value(one, item) for one in value)
    return struct.pack(FORMS[kind], value)


def _write(path, metadata=(), tensors=(), *, version=3, magic=b"GGUF", keys=None, count=None):
    """Writes a GGUF file; `tensors` is name -> (shape, floats). `keys` and `count` lie about how many there are."""
    metadata, tensors = dict(metadata), dict(tensors)
    keys, count = len(metadata) if keys is None else keys, len(tensors) if count is None else count
    head = magic + struct.pack("<IQQ", version, count, keys)
    for key, value in metadata.items():
        head += _string(key) + struct.pack("<I", _kind(value)) + _value(value, _kind(value))
    body = b""
    for name, (shape, floats) in tensors.items():
        head += _string(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", 0, len(body))
        raw = array("f", floats).tobytes()
        body += raw + bytes(-len(raw) % ALIGNMENT)
    Path(path).write_bytes(head + bytes(-len(head) % ALIGNMENT) + body)
    return Path(path)


@pytest.fixture(scope="session")
def write_gguf():
    return _write


@pytest.fixture(scope="session", autouse=True)
def own_memory_of_checked_files(tmp_path_factory):
    """Files of tests do not push what the user loads out of the memory of `probe`."""
    file = tmp_path_factory.mktemp("probe") / "checked.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "_memory_file", lambda: file)
        yield


def _absent(reason):
    if os.environ.get("CI") or os.environ.get("COSA_REQUIRE_LOCAL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def local_model():
    """The default model's file. Without it tests are skipped, but fail where they must run."""
    if find_spec("xllamacpp") is None:
        _absent("xllamacpp is not installed: pip install 'cosa[local]'")
    found = find_default()
    if found is None:
        _absent("the default model is not installed: cosa models fetch")
    return found


@pytest.fixture(scope="session")
def local_backend(local_model):
    from cosa_guard.backends.xllamacpp import XLlamaCpp, XLlamaCppOptions

    options = XLlamaCppOptions(context=512, slots=4, threads=1)
    with XLlamaCpp(local_model, options=options) as backend:
        yield backend


@pytest.fixture(scope="session")
def torch_installed():
    """What the extra `transformers` brings. Without it tests are skipped, but fail where they must run."""
    for name in ("torch", "transformers", "peft", "llguidance", "gguf"):
        if find_spec(name) is None:
            _absent(f"{name} is not installed: pip install 'cosa[transformers]'")


@pytest.fixture(scope="session")
def torch_backend(torch_installed, local_model):
    from cosa_guard.backends.transformers import Transformers, TransformersOptions

    with Transformers(local_model, options=TransformersOptions(context=512, threads=1)) as backend:
        yield backend
