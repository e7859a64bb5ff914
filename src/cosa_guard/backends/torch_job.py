"""What a torch model is asked for: a reply, the odds of the next token, or no more than to have read a config."""

from __future__ import annotations

import math
from queue import SimpleQueue
from typing import Any, Final

from cosa_guard.backends.json_grammar import Matcher
from cosa_guard.backends.llama_request import Stopper
from cosa_guard.backends.torch_lora import Scales
from cosa_guard.backends.torch_runtime import torch
from cosa_guard.backends.torch_tokens import ReplyText, Vocabulary
from cosa_guard.messages import Delta, Finish, LogProbs, Sampling

__all__ = ["Job", "Odds", "Reply", "Warm"]

_GREEDY: Final = 1e-4
"""Below it a temperature leaves nothing to draw, and dividing by it overflows."""


class Job:
    """One request. The worker alone computes it; whoever asked reads `outbox`.

    Args:
        ids: The prompt.
        prefix: How many of its first tokens are constant and worth keeping.
        scales: Adapters.
    """

    def __init__(self, ids: list[int], *, prefix: int, scales: Scales) -> None:
        self.ids = ids
        self.prefix = prefix
        self.scales = scales
        self.key = scales, tuple(ids[:prefix])
        """What the states of the prefix are kept under."""
        self.outbox: SimpleQueue[Any] = SimpleQueue()
        """Results in order; an exception is the last one."""
        self.cancelled = False
        self.cache: Any = None
        self.logits: torch.Tensor | None = None
        """Both while the prompt is read."""
        self.read = 0
        """Tokens of the prompt that are in the cache."""

    @property
    def wants_logits(self) -> bool:
        """Whether the last token of the prompt has to be computed."""
        return True

    def next(self, logits: Any) -> int | None:
        """The token to go on with, from the logits behind the last one; None when the job is done."""
        raise NotImplementedError


class Warm(Job):
    """Puts None into the outbox when the prompt has been read."""

    def next(self, logits: Any) -> int | None:
        """See `Job.next`."""
        del logits
        self.outbox.put(None)
        return None

    @property
    def wants_logits(self) -> bool:
        """See `Job.wants_logits`."""
        return False


class Odds(Job):
    """Puts the likeliest next tokens into the outbox, as `LogProbs`."""

    def __init__(self, *args: Any, top: int, vocabulary: Vocabulary, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._top = top
        self._vocabulary = vocabulary

    def next(self, logits: Any) -> int | None:
        """See `Job.next`."""
        values, ids = torch.log_softmax(logits, dim=-1).topk(min(self._top, logits.shape[-1]))
        odds: dict[str, list[float]] = {}
        for value, token in zip(values.tolist(), ids.tolist(), strict=True):
            text = self._vocabulary.bytes[token].decode("utf-8", errors="replace")
            odds.setdefault(text, []).append(value)
        found: LogProbs = {text: _log_sum(values) for text, values in odds.items()}
        self.outbox.put(found)
        return None


class Reply(Job):
    """Puts a `Delta` into the outbox for each token; the last one has `finish`."""

    def __init__(
        self,
        *args: Any,
        sampling: Sampling,
        limit: int,
        vocabulary: Vocabulary,
        matcher: Matcher | None,
        device: torch.device,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._sampling = sampling
        self._left = limit
        self._ends = vocabulary.ends
        self._matcher = matcher
        self._text = ReplyText(vocabulary)
        self._stopper = Stopper(sampling.stop)
        self._random = torch.Generator(device=device)
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed % (1 << 63))

    def next(self, logits: Any) -> int | None:
        """See `Job.next`."""
        if self._matcher is not None:
            allowed = torch.from_numpy(self._matcher.mask()).to(logits.device)
            logits = logits.masked_fill(~allowed[: len(logits)], -math.inf)
        token = self._draw(logits)
        self._left -= 1
        if token in self._ends:
            self._finish("stop")
            return None
        if self._matcher is not None:
            self._matcher.accept(token)
        text, stopped = self._stopper.feed(self._text.feed(token))
        if stopped:
            self.outbox.put(Delta(text, finish="stop"))
            return None
        if self._matcher is not None and self._matcher.finished:
            self._finish("stop", text)
            return None
        if not self._left:
            self._finish("length", text)
            return None
        self.outbox.put(Delta(text))
        return token

    def _finish(self, finish: Finish, text: str = "") -> None:
        """Puts the last piece: `text`, and what was held back."""
        self.outbox.put(Delta(text + self._stopper.held, finish=finish))

    def _draw(self, logits: torch.Tensor) -> int:
        if self._sampling.temperature < _GREEDY:
            return int(logits.argmax())
        odds = torch.softmax(logits / self._sampling.temperature, dim=-1)
        if self._sampling.top_p == 1:
            return int(torch.multinomial(odds, 1, generator=self._random))
        values, order = odds.sort(descending=True)
        # The likeliest tokens that make up top_p together, one at least.
        values[1:][(values.cumsum(dim=-1) - values)[1:] >= self._sampling.top_p] = 0
        return int(order[torch.multinomial(values, 1, generator=self._random)])


def _log_sum(values: list[float]) -> float:
    high = max(values)
    return high + math.log(sum(math.exp(value - high) for value in values))
