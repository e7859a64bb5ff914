"""What decides whether a text keeps a config: by name, as an object, or as a function of a case.

`judges.make("rules")`; `judges.make("model", backend=…)`. Third parties register under `cosa.judges`.
"""

from cosa_guard.judges.base import AnyJudge, AsyncJudge, Judge
from cosa_guard.registry import Registry

__all__ = ["AnyJudge", "AsyncJudge", "Judge", "make", "names", "register"]

_registry: Registry[AnyJudge] = Registry(
    "judge",
    "cosa.judges",
    {"rules": "cosa_guard.judges.rules:make", "model": "cosa_guard.judges.model:make"},
)
make = _registry.make
names = _registry.names
register = _registry.register
