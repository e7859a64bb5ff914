"""Every local backend passes one suite: a request means the same whoever answers it."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from tests.guard.backends.adapters import LOUD, OTHER
from tests.guard.backends.conftest import _absent as absent

from cosa_guard.backends.gguf import read_header
from cosa_guard.testing import conformance

NAMES = ("loud", "other")


@pytest.fixture(scope="module")
def gguf_adapters(write_gguf, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf-lora")
    return {name: lora.gguf(write_gguf, folder / f"{name}.gguf") for name, lora in zip(NAMES, (LOUD, OTHER), strict=True)}


@pytest.fixture(scope="module")
def special(local_model):
    types = read_header(local_model, keep=["tokenizer.ggml.token_type"]).metadata["tokenizer.ggml.token_type"]
    return [token for token, kind in enumerate(types) if kind in (3, 4)]


@pytest.fixture(scope="module")
def reference(local_backend):
    """llama.cpp's own template and tokenizer, which a conversation goes through as a whole."""

    def ids(request):
        server = local_backend._server
        turns = [{"role": turn.role, "content": turn.content} for turn in request.messages]
        prompt = server.call("/apply-template", {"messages": turns})["prompt"]
        return server.call("/tokenize", {"content": prompt, "add_special": True, "parse_special": True})["tokens"]

    return ids


@pytest.fixture(scope="module")
def subject_of(local_model, special, reference):
    """A subject around a backend class; `options` makes its options from a setup."""
    opened = []

    def of(kind, options, model=local_model):
        opened.append(
            conformance.Subject(
                lambda setup: kind(model, options=options(setup)), adapters=NAMES, special=special, reference=reference
            )
        )
        return opened[-1]

    yield of
    for subject in opened:
        subject.close()


@pytest.fixture(scope="module")
def xllamacpp(subject_of, gguf_adapters):
    from cosa_guard.backends.xllamacpp import XLlamaCpp, XLlamaCppOptions

    def options(setup):
        adapters = gguf_adapters if setup.adapters else {}
        return XLlamaCppOptions(context=setup.context, slots=setup.parallel, threads=1, adapters=adapters)

    return subject_of(XLlamaCpp, options)


@pytest.fixture(scope="module")
def llama_cpp(subject_of, gguf_adapters):
    if find_spec("llama_cpp") is None:
        absent("llama-cpp-python is not installed: pip install 'cosa[llama-cpp]'")
    from cosa_guard.backends.llama_cpp import LlamaCpp, LlamaCppOptions

    def options(setup):
        adapters = gguf_adapters if setup.adapters else {}
        return LlamaCppOptions(context=setup.context, sequences=setup.parallel, threads=1, adapters=adapters)

    return subject_of(LlamaCpp, options)


@pytest.fixture(scope="module")
def transformers(subject_of, local_model, tmp_path_factory):
    if find_spec("transformers") is None or find_spec("torch") is None:
        absent("transformers is not installed: pip install 'cosa[transformers]'")
    from cosa_guard.backends.transformers import Transformers, TransformersOptions

    folder = tmp_path_factory.mktemp("peft")
    adapters = {name: lora.peft(folder / name) for name, lora in zip(NAMES, (LOUD, OTHER), strict=True)}

    def options(setup):
        wanted = adapters if setup.adapters else {}
        return TransformersOptions(context=setup.context, parallel=setup.parallel, threads=1, adapters=wanted)

    return subject_of(Transformers, options, unpacked(local_model, tmp_path_factory.mktemp("hf")))


def unpacked(gguf, folder):
    """The model as a folder of safetensors, which loads in no time: the suite makes a backend a dozen times."""
    import transformers

    names = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    transformers.AutoTokenizer.from_pretrained(**names).save_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(**names)
    # What came from a GGUF file counts as quantized, which cannot be saved.
    del model.config.quantization_config
    plain = type(model)(model.config)
    plain.load_state_dict(model.state_dict())
    plain.save_pretrained(folder)
    return folder


@pytest.mark.local
@pytest.mark.slow
@pytest.mark.parametrize("check", conformance.CHECKS, ids=str)
def test_xllamacpp(check, xllamacpp):
    check(xllamacpp)


@pytest.mark.slow
@pytest.mark.parametrize("check", conformance.CHECKS, ids=str)
def test_llama_cpp(check, llama_cpp):
    check(llama_cpp)


@pytest.mark.slow
@pytest.mark.parametrize("check", conformance.CHECKS, ids=str)
def test_transformers(check, transformers):
    check(transformers)
