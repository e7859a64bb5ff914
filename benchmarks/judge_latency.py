"""What does a verdict by a local model cost: log-odds against JSON, at texts of 20, 60 and 300 tokens?

Baseline: prefill alone, the same prompt with one decoded token thrown away. The policy's prefix is warm in all arms.
Aim: log-odds at most 1.05 × prefill alone.
"""

from __future__ import annotations

from _measure import interleaved, median, ratio, row

from cosa_guard import backends
from cosa_guard.judges.model import ModelJudge
from cosa_guard.messages import Message, Request, Sampling
from cosa_guard.verdicts import Case
from cosa_sdk import presets
from cosa_sdk.compile import compile as compile_config
from cosa_sdk.compile import judge_question

WORDS = "The detective follows the suspect through the market and writes down what she sees in a small blue book. "


def main() -> None:
    backend = backends.make("local")
    config = presets.load("film-studio")
    policy = Message("system", compile_config(config, "judge").text)
    odds, written = ModelJudge(backend), ModelJudge(backend, method="json")
    fresh = iter(range(10_000_000))

    def text(tokens: int) -> str:
        # A number in front, so that no text shares more than the policy with an earlier one.
        return f"{next(fresh)} " + " ".join((WORDS * 20).split()[: int(tokens * 0.8)])

    def prefill(tokens: int) -> None:
        question = Message("user", judge_question("input", text(tokens)))
        for _ in backend.stream(Request(messages=(policy, question), sampling=Sampling(max_tokens=1))):
            pass

    print(backend.name)
    row("text tokens", "prefill ms", "log-odds ms", "json ms", "log-odds ÷ prefill", "json ÷ prefill")
    for tokens in (20, 60, 300):
        seconds = interleaved(
            {
                "prefill": lambda tokens=tokens: prefill(tokens),
                "log-odds": lambda tokens=tokens: odds.judge(Case(config=config, stage="input", text=text(tokens))),
                "json": lambda tokens=tokens: _maybe(written, Case(config=config, stage="input", text=text(tokens))),
            },
            rounds=7,
        )
        row(
            str(tokens),
            *(f"{median(values) * 1e3:.0f}" for values in seconds.values()),
            f"{ratio(seconds, 'log-odds', 'prefill'):.2f}",
            f"{ratio(seconds, 'json', 'prefill'):.2f}",
        )


def _maybe(judge: ModelJudge, case: Case) -> None:
    """A JSON verdict; a small model may not finish one, which costs the same."""
    from cosa_sdk.errors import JudgeError

    try:
        judge.judge(case)
    except JudgeError:
        return


if __name__ == "__main__":
    main()
