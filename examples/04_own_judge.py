"""Your own judge is a function of a case. It says what it found, and what it looked for."""

from cosa_guard import Case, Guard, Verdict
from cosa_guard.testing import FakeBackend
from cosa_sdk import Evidence, Rule, SafetyConfig

config = SafetyConfig(
    name="short-answers",
    default="allow",
    rules=[Rule(id="long", stance="forbid", text="replies of more than twenty words")],
    enforcement={"on_undecided": "allow"},
)


def counts_words(case: Case) -> Verdict:
    long = case.stage == "output" and len(case.text.split()) > 20
    found = frozenset({"rule:long"} if long else ())
    return Verdict(judge="counts-words/1", evidence=Evidence(found=found, examined=frozenset({"rule:long"})))


for said in ("Yes.", "Well, " + "and so on " * 10):
    guard = Guard(config, judge=counts_words, backend=FakeBackend(said))
    reply = guard.reply("Is it raining?")
    print(f"{reply.finish}: {reply.text}")
