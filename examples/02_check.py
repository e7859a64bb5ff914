"""Check texts against a config without any model. 'Undecided' means that nobody looked, and says at what."""

from cosa_guard import Guard
from cosa_sdk import presets

config = presets.load("customer-service")
guard = Guard(config, judge="rules", accept_unexamined=True)

for text in (
    "Is Acme Telecom cheaper abroad?",
    "Is A\u200bcme Telec\u043em cheaper abroad?",  # an invisible character, a Cyrillic letter
    "How do I reset my router?",
):
    ruling = guard.check(text)
    print(f"{text!r}: {ruling.outcome} {ruling.decision.rules or ''}")

print("nobody examined:", ", ".join(ruling.decision.unexamined))
