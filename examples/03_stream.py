"""Stream a local model's reply. Text is held until it was judged; what the config forbids is masked on the way."""

from cosa_guard import Guard, Sampling
from cosa_sdk import Rule, SafetyConfig

config = SafetyConfig(
    name="shop",
    purpose="Assistant of a book shop",
    default="allow",
    rules=[Rule(id="rivals", stance="forbid", terms=["Globex Books"], note="competitors")],
    enforcement={"input": "warn", "output": "redact", "on_undecided": "allow"},
)
guard = Guard(config, backend="local", accept_unexamined=True)

with guard.stream(
    "Write one sentence that says that Globex Books is far away.", sampling=Sampling(max_tokens=40)
) as stream:
    for piece in stream:
        print(piece.text, end="", flush=True)
print(f"\nact: {stream.report.act}, masks: {stream.report.redacted}, tokens: {stream.report.tokens}")
