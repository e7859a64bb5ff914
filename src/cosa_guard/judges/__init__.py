"""What decides whether a text keeps a config: by name, as an object, or as a function of a case.

`judges.make("rules")`; `judges.make("model", backend=…)`. Third parties register under `cosa.judges`.
"""

from cosa_guard.judges.base import AnyJudge, AsyncJudge, Judge
from cosa_guard.registry import Registry

__all__ = ["AnyJudge", "AsyncJudge", "Judge", "default", "make", "names", "register"]

_registry: Registry[AnyJudge] = Registry(
    "judge",
    "cosa.judges",
    {
        "rules": "cosa_guard.judges.rules:make",
        "embedded": "cosa_guard.judges.embedded:make",
        "fast": "cosa_guard.judges.embedded:make_fast",
        "model": "cosa_guard.judges.model:make",
        "llama-guard": "cosa_guard.judges.guard_models:make_llama_guard",
        "llama-guard-4": "cosa_guard.judges.guard_models:make_llama_guard_4",
        "shieldgemma": "cosa_guard.judges.guard_models:make_shieldgemma",
        "granite-guardian": "cosa_guard.judges.guard_models:make_granite_guardian",
        "gpt-oss-safeguard": "cosa_guard.judges.guard_models:make_gpt_oss_safeguard",
        "nemotron-safety": "cosa_guard.judges.guard_models:make_nemotron_safety",
        "dynaguard": "cosa_guard.judges.guard_models:make_dynaguard",
        "moderation": "cosa_guard.judges.moderation:make",
        "cascade": "cosa_guard.judges.combine:make_cascade",
        "all": "cosa_guard.judges.combine:make_all",
        "any": "cosa_guard.judges.combine:make_any",
        "majority": "cosa_guard.judges.combine:make_majority",
    },
)
make = _registry.make
names = _registry.names
register = _registry.register


def default() -> tuple[str, ...]:
    """What a guard asks when nobody says: `rules`, and `embedded` where its extra is installed."""
    from cosa_guard.judges import embedded  # noqa: PLC0415  # nothing heavy: it only looks whether onnxruntime is there

    return ("rules", "embedded") if embedded.installed() else ("rules",)
