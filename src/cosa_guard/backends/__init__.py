"""What continues a conversation: local models and remote ones, by name or as your own object.

`backends.make("local")` takes the best local backend that is installed; `backends.make("xllamacpp:model.gguf")` and
`backends.make("openai_http:http://127.0.0.1:8000/v1#model")` name one and its model. Third parties register under the
entry-point group `cosa.backends`.
"""

from cosa_guard.backends.base import AnyBackend, AsyncBackend, Backend, Capabilities, Scorer
from cosa_guard.registry import Registry

__all__ = ["AnyBackend", "AsyncBackend", "Backend", "Capabilities", "Scorer", "make", "names", "register"]

_registry: Registry[AnyBackend] = Registry(
    "backend",
    "cosa.backends",
    {
        "llama-cpp": "cosa_guard.backends.llama_cpp:make",
        "local": "cosa_guard.backends.local:make",
        "openai_http": "cosa_guard.backends.openai_http:make",
        "transformers": "cosa_guard.backends.transformers:make",
        "xllamacpp": "cosa_guard.backends.xllamacpp:make",
    },
)
make = _registry.make
names = _registry.names
register = _registry.register
