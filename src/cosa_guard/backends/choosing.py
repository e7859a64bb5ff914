"""How the next token is drawn from logits, with numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cosa_guard.messages import LogProbs, Sampling
from cosa_sdk.errors import BackendError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from cosa_guard.backends.json_grammar import Matcher

__all__ = ["Capture", "Sampler", "logprobs"]


class Sampler:
    """Draws the tokens of one reply.

    Args:
        sampling: How; its limits and stop strings are not looked at.
        ends: Whether a token ends the reply.
        matcher: What the reply is held to, if anything.
    """

    def __init__(self, sampling: Sampling, ends: Callable[[int], bool], matcher: Matcher | None = None) -> None:
        import numpy as np  # noqa: PLC0415  # optional; comes with whatever has logits

        self._np = np
        self._temperature, self._top_p = sampling.temperature, sampling.top_p
        seed = None if sampling.seed is None else sampling.seed % (1 << 64)  # any whole number is a seed
        self._draws = np.random.default_rng(seed) if self._temperature > 0 else None
        self._ends, self._matcher = ends, matcher

    def choose(self, logits: npt.NDArray[np.float32]) -> tuple[int | None, bool]:
        """See `llama_engine.Chooser`.

        Raises:
            BackendError: the logits are no numbers, or nothing fits the schema.
        """
        if self._matcher is not None:
            logits = self._np.where(self._matcher.mask(), logits, -self._np.inf)
        token = int(logits.argmax())
        if not self._np.isfinite(logits[token]):
            raise BackendError("the model computed no numbers. Its file may be damaged.")
        if self._draws is not None:
            token = self._draw(logits, self._draws)
        if self._ends(token):
            return None, True
        if self._matcher is None:
            return token, False
        self._matcher.accept(token)
        return token, self._matcher.finished

    def _draw(self, logits: npt.NDArray[np.float32], draws: np.random.Generator) -> int:
        np = self._np
        shares = np.exp((logits - logits.max()) / self._temperature, dtype=np.float64)
        if self._top_p < 1:
            order = np.argsort(shares)[::-1]
            sums = np.cumsum(shares[order])
            # The fewest likeliest tokens that reach top_p together, one at least.
            count = int(np.searchsorted(sums, self._top_p * sums[-1])) + 1
            return int(order[np.searchsorted(sums[:count], draws.random() * sums[count - 1], side="right")])
        sums = np.cumsum(shares)
        return int(np.searchsorted(sums, draws.random() * sums[-1], side="right"))


class Capture:
    """Draws nothing: keeps the logits behind a prompt."""

    logits: npt.NDArray[np.float32]

    def choose(self, logits: npt.NDArray[np.float32]) -> tuple[int | None, bool]:
        """See `llama_engine.Chooser`."""
        self.logits = logits.copy()
        return None, True


def logprobs(logits: npt.NDArray[np.float32], top: int, text: Callable[[int], str]) -> LogProbs:
    """The `top` likeliest tokens by text, with natural-log probabilities over all; those of one text count together."""
    import numpy as np  # noqa: PLC0415  # as above

    wide = logits.astype(np.float64)
    wide -= wide.max()
    wide -= np.log(np.exp(wide).sum())
    top = min(top, len(wide))
    likeliest = np.argpartition(wide, -top)[-top:]
    found: dict[str, float] = {}
    for token in likeliest[np.argsort(-wide[likeliest], kind="stable")]:
        key, value = text(int(token)), float(wide[token])
        found[key] = float(np.logaddexp(found[key], value)) if key in found else value
    return found
