"""Guard models: other people's safety classifiers, each asked as its model card says, on any backend.

`judges.make("llama-guard:openai_http:http://127.0.0.1:8080/v1#model")`: what follows the first colon names the backend.
`judges.make("llama-guard", backend=…)` takes one.
"""

from __future__ import annotations

from typing import Literal

from cosa_guard.backends.base import AnyBackend
from cosa_guard.judges.guard_models.base import Format, GuardModel
from cosa_guard.judges.guard_models.dynaguard import DynaGuard
from cosa_guard.judges.guard_models.gpt_oss_safeguard import GptOssSafeguard
from cosa_guard.judges.guard_models.granite_guardian import GraniteGuardian
from cosa_guard.judges.guard_models.llama_guard import LlamaGuard
from cosa_guard.judges.guard_models.nemotron_safety import NemotronSafety
from cosa_guard.judges.guard_models.shieldgemma import ShieldGemma
from cosa_sdk.errors import UsageError

__all__ = [
    "DynaGuard",
    "Format",
    "GptOssSafeguard",
    "GraniteGuardian",
    "GuardModel",
    "LlamaGuard",
    "NemotronSafety",
    "ShieldGemma",
    "make_dynaguard",
    "make_gpt_oss_safeguard",
    "make_granite_guardian",
    "make_llama_guard",
    "make_llama_guard_4",
    "make_nemotron_safety",
    "make_shieldgemma",
]


def make_llama_guard(
    argument: str | None = None,
    *,
    backend: AnyBackend | None = None,
    timeout: float | None = None,
    template: Literal["server", "card"] = "server",
) -> GuardModel:
    """The judge for `llama-guard`: Llama Guard 3."""
    return _made(LlamaGuard(3, _template(template)), "llama-guard", argument, backend, timeout)


def make_llama_guard_4(
    argument: str | None = None,
    *,
    backend: AnyBackend | None = None,
    timeout: float | None = None,
    template: Literal["server", "card"] = "server",
) -> GuardModel:
    """The judge for `llama-guard-4`."""
    return _made(LlamaGuard(4, _template(template)), "llama-guard-4", argument, backend, timeout)


def make_shieldgemma(
    argument: str | None = None, *, backend: AnyBackend | None = None, timeout: float | None = None
) -> GuardModel:
    """The judge for `shieldgemma`."""
    return _made(ShieldGemma(), "shieldgemma", argument, backend, timeout)


def make_granite_guardian(
    argument: str | None = None, *, backend: AnyBackend | None = None, timeout: float | None = None
) -> GuardModel:
    """The judge for `granite-guardian`."""
    return _made(GraniteGuardian(), "granite-guardian", argument, backend, timeout)


def make_gpt_oss_safeguard(
    argument: str | None = None, *, backend: AnyBackend | None = None, timeout: float | None = None
) -> GuardModel:
    """The judge for `gpt-oss-safeguard`."""
    return _made(GptOssSafeguard(), "gpt-oss-safeguard", argument, backend, timeout)


def make_nemotron_safety(
    argument: str | None = None, *, backend: AnyBackend | None = None, timeout: float | None = None
) -> GuardModel:
    """The judge for `nemotron-safety`."""
    return _made(NemotronSafety(), "nemotron-safety", argument, backend, timeout)


def make_dynaguard(
    argument: str | None = None, *, backend: AnyBackend | None = None, timeout: float | None = None
) -> GuardModel:
    """The judge for `dynaguard`."""
    return _made(DynaGuard(), "dynaguard", argument, backend, timeout)


def _made(
    format_: Format, name: str, argument: str | None, backend: AnyBackend | None, timeout: float | None
) -> GuardModel:
    if (backend is None) == (argument is None):
        how = f"{name}:openai_http:http://127.0.0.1:8080/v1#model, or backend=…"
        raise UsageError(f"judge {name!r} needs one backend that serves its model: {how}")
    if backend is None:
        from cosa_guard import backends  # noqa: PLC0415  # names of backends, needed only here

        backend = backends.make(str(argument))
    return GuardModel(format_, backend, timeout=timeout)


def _template(value: str) -> Literal["server", "card"]:
    if value == "server":
        return "server"
    if value == "card":
        return "card"
    raise UsageError(f"template={value!r}: 'server' (the model's own chat template) or 'card' (a plain one)")
