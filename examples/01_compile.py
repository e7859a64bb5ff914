"""One config, three readers: the model, an adapter that was trained on configs, and a judge."""

import cosa_sdk
from cosa_sdk import Rule, SafetyConfig

config = SafetyConfig(
    name="film-studio",
    purpose="Script assistant for a film studio",
    audience="professional writers, adults",
    rules=[
        Rule(stance="allow", risk="violence", note="stage fights, war scenes"),
        Rule(
            id="heists",
            stance="limit",
            risk="financial_crime",
            text="crimes that drive the story",
            unless="usable as real-world instructions",
        ),
        Rule(id="rivals", stance="forbid", terms=["Acme Pictures"], note="names of competing studios"),
    ],
)

for target in ("system", "cosalign", "judge"):
    compiled = cosa_sdk.compile(config, target)
    print(f"--- {compiled.version}: {compiled.tokens} tokens, estimated: {not compiled.counted}")
    print(compiled.text)
print(f"--- version id of this config: {config.digest[:12]}")
