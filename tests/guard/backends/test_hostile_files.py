"""Files that are damaged or written to do harm give a clear error, and the process lives."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.guard.backends import hostile, hostile_hf, tiny
from tests.guard.backends.conftest import _absent as absent
from tests.guard.backends.conftest import _write

from cosa_guard.backends import probe
from cosa_sdk.errors import AdapterError, ModelFileError

OURS = ("ModelFileError", "AdapterError", "OutOfMemory", "BackendError")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The folder, and the cases: a damaged model, or a whole one with a damaged adapter."""
    folder = tmp_path_factory.mktemp("hostile")
    good = _write(folder / "good.gguf", tiny.metadata(), tiny.tensors())
    cases = []
    for place, (name, raw) in enumerate(hostile.models(_write, folder).items()):
        path = folder / f"model-{place}.gguf"
        path.write_bytes(raw)
        cases.append({"name": name, "model": str(path), "adapter": None})
    for place, (name, raw) in enumerate(hostile.adapters(_write, folder).items()):
        path = folder / f"adapter-{place}.gguf"
        path.write_bytes(raw)
        cases.append({"name": f"adapter: {name}", "model": str(good), "adapter": str(path)})
    return folder, [*cases, {"name": "whole", "model": str(good), "adapter": None}]


def wrong(found, cases):
    """What did not end as it should: in an error of our tree that names the file, or in use."""
    odd = []
    for case in cases:
        kind, message = found[case["name"]]
        if case["name"].removeprefix("adapter: ") in hostile.HARMLESS | {"whole"}:
            fits = kind == "works"
        elif case["name"] in hostile.EITHER:
            fits = kind in {"works", *OURS}
        else:
            file = Path(case["adapter"] or case["model"]).name
            fits = kind in OURS and (file in message or "chat template of this model" in message or "mine" in message)
        if not fits:
            odd.append((case["name"], kind, message))
    return odd


@pytest.mark.local
@pytest.mark.slow
def test_gguf_files_that_would_harm_xllamacpp(local_model, files):
    folder, cases = files
    quick = [case for case in cases if case["name"] not in hostile.ENDLESS_CASES]

    assert 100 < len(quick)
    assert [] == wrong(hostile.outcomes("xllamacpp", quick, folder), quick)


@pytest.mark.slow
def test_gguf_files_that_would_harm_llama_cpp(files):
    if find_spec("llama_cpp") is None:
        absent("llama-cpp-python is not installed: pip install 'cosa[llama-cpp]'")
    folder, cases = files
    quick = [case for case in cases if case["name"] not in hostile.ENDLESS_CASES]

    assert [] == wrong(hostile.outcomes("llama_cpp", quick, folder), quick)


@pytest.mark.slow
@pytest.mark.parametrize("library", ["xllamacpp", "llama_cpp"])
def test_templates_without_an_end(files, library):
    if find_spec(library) is None:
        absent(f"{library} is not installed")
    folder, cases = files
    endless = [case for case in cases if case["name"] in hostile.ENDLESS_CASES]

    found = hostile.outcomes(library, endless, folder, patience=5.0)

    assert len(hostile.ENDLESS_CASES) == len(endless)
    assert [] == wrong(found, endless)


@pytest.mark.slow
def test_folders_that_would_harm_transformers(tmp_path):
    if find_spec("transformers") is None:
        absent("transformers is not installed: pip install 'cosa[transformers]'")
    good, trap = hostile_hf.good_model(tmp_path / "good"), tmp_path / "trap"
    cases = [
        {"name": name, "model": str(path), "adapter": None}
        for name, path in hostile_hf.models(good, tmp_path, trap).items()
    ]
    cases += [
        {"name": name, "model": str(good), "adapter": str(path)}
        for name, path in hostile_hf.adapters(tmp_path, trap).items()
    ]
    cases.append({"name": "whole", "model": str(good), "adapter": None})

    found = hostile.outcomes("transformers", cases, tmp_path)

    assert [] == wrong(found, cases)
    assert not trap.exists()  # nothing was unpickled


# --- the check itself -------------------------------------------------------------------------------------------------


@pytest.fixture
def whole(local_model, tmp_path, monkeypatch):
    """A model that nobody has checked, and an empty memory."""
    monkeypatch.setattr(probe, "_memory_file", lambda: tmp_path / "memory" / "checked.json")
    monkeypatch.setattr(probe, "_passed", set())
    return _write(tmp_path / "whole.gguf", tiny.metadata(), tiny.tensors())


@pytest.fixture
def children(monkeypatch):
    """How many children were asked."""
    asked = []
    real = probe._Child.fault
    monkeypatch.setattr(probe._Child, "fault", lambda self, *files, **how: asked.append(files) or real(self, *files, **how))
    return asked


@pytest.mark.local
def test_a_file_that_passed_is_not_loaded_again_until_it_changes(whole, children, monkeypatch):
    for _ in range(2):
        probe.check_loads("xllamacpp", whole)
    monkeypatch.setattr(probe, "_passed", set())  # another process
    probe.check_loads("xllamacpp", whole)
    assert 1 == len(children)

    whole.write_bytes(whole.read_bytes()[:-64])
    with pytest.raises(ModelFileError, match="not within the file bounds"):
        probe.check_loads("xllamacpp", whole)
    with pytest.raises(ModelFileError):
        probe.check_loads("xllamacpp", whole)
    assert 3 == len(children)


@pytest.mark.local
@pytest.mark.parametrize("memory", [b"", b"{", b"[[[", b'{"a": 1}', b"[1, null]", b"\xff\xfe"])
def test_a_damaged_memory_is_an_empty_one(whole, children, memory):
    file = probe._memory_file()
    file.parent.mkdir()
    file.write_bytes(memory)

    probe.check_loads("xllamacpp", whole)

    assert 1 == len(children)
    assert 1 <= len(json.loads(file.read_bytes()))
    assert [file] == list(file.parent.iterdir())


@pytest.mark.local
def test_a_memory_that_cannot_be_written_costs_time_only(whole, children, tmp_path):
    (tmp_path / "memory").write_bytes(b"a file where the folder should be")

    probe.check_loads("xllamacpp", whole)

    assert 1 == len(children)


@pytest.mark.local
def test_the_memory_does_not_grow_for_ever(whole, monkeypatch):
    monkeypatch.setattr(probe, "_REMEMBERED", 3)

    for number in range(5):
        probe._remember(str(number))

    assert ["2", "3", "4"] == json.loads(probe._memory_file().read_bytes())


@pytest.mark.local
def test_of_several_adapters_the_faulty_one_is_named(whole, write_gguf, tmp_path):
    good = write_gguf(tmp_path / "good-lora.gguf", hostile.LORA, tiny.lora())
    bad = write_gguf(tmp_path / "bad-lora.gguf", hostile.LORA | {"adapter.type": "dora"}, tiny.lora())

    with pytest.raises(AdapterError, match=r"bad-lora.gguf' to 'whole.gguf'.*expect adapter.type") as caught:
        probe.check_loads("xllamacpp", whole, [good, bad])

    assert "good-lora" not in str(caught.value)


@pytest.mark.local
def test_the_published_model_needs_no_child(local_model, whole, children):
    probe.check_loads("xllamacpp", local_model)

    assert [] == children


class Compiled:
    """llama-cpp-python's place among the packages, with a child that says what the test wants."""

    def __init__(self, monkeypatch, tmp_path, *faults):
        built = tmp_path / "llama_cpp" / "__init__.py"
        built.parent.mkdir()
        built.touch()
        self.built, self.asked, self.faults = built, [], list(faults)
        monkeypatch.setattr(probe.importlib.util, "find_spec", lambda name: SimpleNamespace(origin=str(built)))
        monkeypatch.setattr(probe._Child, "fault", self.fault)

    def fault(self, model, adapters=(), *, plain=False):
        self.asked.append(plain)
        return self.faults.pop(0)


CRASHED = "it was ended by SIGSEGV while computing; its last words: sched_reserve"


@pytest.mark.local
def test_kernels_that_crash_on_this_processor_are_not_used(whole, monkeypatch, tmp_path, caplog):
    compiled = Compiled(monkeypatch, tmp_path, CRASHED, None)

    assert ["plain"] * 2 == [probe.check_loads("llama_cpp", whole) for _ in range(2)]
    assert [False, True] == compiled.asked
    assert "crashes on this processor" in caplog.text and "SIGSEGV" in caplog.text


@pytest.mark.local
def test_a_library_that_was_built_again_is_tried_again(whole, monkeypatch, tmp_path):
    compiled = Compiled(monkeypatch, tmp_path, CRASHED, None, None)
    before = probe.check_loads("llama_cpp", whole)
    compiled.built.write_text("built again")

    assert ("plain", "all") == (before, probe.check_loads("llama_cpp", whole))


@pytest.mark.local
@pytest.mark.parametrize("fault", ["it was ended by SIGSEGV while loading", "it did not come to an end within 60 s of computing", "what it computes are no numbers (while computing)"])
def test_what_is_the_files_fault_is_not_tried_with_plain_kernels(fault, whole, monkeypatch, tmp_path):
    compiled = Compiled(monkeypatch, tmp_path, fault)

    with pytest.raises(ModelFileError, match=re.escape(fault)):
        probe.check_loads("llama_cpp", whole)
    assert [False] == compiled.asked


@pytest.mark.local
def test_a_file_that_crashes_with_any_kernels_is_refused(whole, monkeypatch, tmp_path):
    Compiled(monkeypatch, tmp_path, CRASHED, CRASHED)

    with pytest.raises(ModelFileError, match="SIGSEGV"):
        probe.check_loads("llama_cpp", whole)


@pytest.mark.local
def test_the_published_model_too_is_tried_with_kernels_that_were_compiled_here(local_model, whole, monkeypatch, tmp_path):
    assert "plain" == (Compiled(monkeypatch, tmp_path, CRASHED, None) and probe.check_loads("llama_cpp", local_model))


def test_without_the_library_nothing_is_checked(tmp_path, monkeypatch):
    monkeypatch.setattr(probe.importlib.util, "find_spec", lambda name: None)

    probe.check_loads("llama_cpp", tmp_path / "missing.gguf")


@pytest.mark.local
def test_where_no_process_can_be_started_the_file_is_loaded_unchecked(whole, monkeypatch):
    def fail(*args, **options):
        raise PermissionError("no processes here")

    monkeypatch.setattr(probe.subprocess, "run", fail)

    probe.check_loads("xllamacpp", whole)


# The child's contents are shorter than the words that contents are rendered as.
ENDLESS_LATER = "{% if messages[0]['content'] | length > 30 %}" + hostile.ENDLESS + "{% endif %}" + tiny.TEMPLATE
LATER = """
    import sys
    from cosa_guard.backends import llama_server
    from cosa_guard.backends.xllamacpp import XLlamaCpp, XLlamaCppOptions
    from cosa_guard.messages import Message, Request
    from cosa_sdk.errors import ModelFileError

    llama_server._TEMPLATE_S = 1.0
    with XLlamaCpp(sys.argv[1], options=XLlamaCppOptions(context=256, slots=1, threads=1)) as backend:
        try:
            backend.render(Request(messages=(Message("user", "Hello."),)))
        except ModelFileError as error:
            assert "did not come to an end within 1 s" in str(error), error
        else:
            raise AssertionError("it came to an end")
"""


@pytest.mark.local
@pytest.mark.slow
def test_a_template_that_hangs_later_on_neither_stops_the_process_nor_its_end(whole, write_gguf):
    """llama.cpp's server waits for its handlers when it is destroyed, holding the interpreter's lock."""
    write_gguf(whole, tiny.metadata(**{"tokenizer.chat_template": ENDLESS_LATER}), tiny.tensors())

    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LATER), str(whole)], capture_output=True, text=True, timeout=100, check=False
    )

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
