"""What is safe: typed safety configs, and everything that is compiled from them.

    from cosa_sdk import presets, compile
    print(compile(presets.load("film-studio")).text)

Importing this package loads pydantic and the standard library; YAML and RE2 load when a file or a term needs them, and
`from cosa_sdk import score` loads what scores a model's responses.
"""

from cosa_sdk import presets
from cosa_sdk.compile import TARGETS, Compiled, compile  # noqa: A004  # users read cosa_sdk.compile(config)
from cosa_sdk.config import Default, Enforcement, Example, Refusal, Rule, SafetyConfig, Stance, Term
from cosa_sdk.decide import Decision, Evidence, decide
from cosa_sdk.errors import (
    AdapterError,
    BackendError,
    Blocked,
    ConfigError,
    CosaError,
    Finding,
    FloorViolation,
    JudgeError,
    MissingExtra,
    ModelFileError,
    OutOfMemory,
    PromptTooLong,
    UnguardedRoute,
    UnknownName,
    UnsupportedField,
    UsageError,
    WireError,
)
from cosa_sdk.files import dump, load, loads
from cosa_sdk.taxonomy import FLOOR, Risk, Taxonomy

__all__ = [
    "FLOOR",
    "TARGETS",
    "AdapterError",
    "BackendError",
    "Blocked",
    "Compiled",
    "ConfigError",
    "CosaError",
    "Decision",
    "Default",
    "Enforcement",
    "Evidence",
    "Example",
    "Finding",
    "FloorViolation",
    "JudgeError",
    "MissingExtra",
    "ModelFileError",
    "OutOfMemory",
    "PromptTooLong",
    "Refusal",
    "Risk",
    "Rule",
    "SafetyConfig",
    "Stance",
    "Taxonomy",
    "Term",
    "UnguardedRoute",
    "UnknownName",
    "UnsupportedField",
    "UsageError",
    "WireError",
    "compile",
    "decide",
    "dump",
    "load",
    "loads",
    "presets",
]
