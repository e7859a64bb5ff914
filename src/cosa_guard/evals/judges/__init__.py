"""Who scores responses: evaluation judges by name. They never filter, guard or label training data.

`judges.make("refusal")`, `"rating:openai_http:http://127.0.0.1:8000/v1#model"`, `"logodds:local"`, `"embedded"`. Third
parties register under `cosa.eval_judges`: a factory of what follows the colon, and of `share`.
"""

from __future__ import annotations

from cosa_guard.evals.judges.asking import Share
from cosa_guard.evals.scoring import EvaluationJudge
from cosa_guard.registry import Registry

__all__ = ["Share", "make", "names", "register"]

_registry: Registry[EvaluationJudge] = Registry(
    "evaluation judge",
    "cosa.eval_judges",
    {
        "refusal": "cosa_guard.evals.judges.refusal:make",
        "rating": "cosa_guard.evals.judges.rating:make",
        "logodds": "cosa_guard.evals.judges.logodds:make",
        "embedded": "cosa_guard.evals.judges.embedded:make",
    },
)
names = _registry.names
register = _registry.register


def make(spec: str, *, share: Share | None = None) -> EvaluationJudge:
    """The evaluation judge for `name` or `name:argument`; of `rating` and `logodds` the argument is a backend.

    Args:
        share: puts a model's questions into a run, so that they are kept; None: the model is asked directly.

    Raises:
        UnknownName: there is no such judge.
        MissingExtra: its optional dependency is not installed.
        UsageError: the backend lacks what the judge needs.
        BackendError: its model cannot be loaded.
    """
    return _registry.make(spec, share=share)
