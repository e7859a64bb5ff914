"""Hypothesis strategies for valid configs, over every field; shared by the test modules."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from cosa_sdk.config import SafetyConfig
from cosa_sdk.taxonomy import OTHER, builtin
from cosa_sdk.wording import fault_in

__all__ = ["config_fields", "configs", "lines", "names", "proses"]

RISKS = builtin().ids
OWN_RISKS = ("gambling", "spoilers", "medical_advice")

AWKWARD = (
    "off", "no", "true", "~", "null", "1.5", "12", "0x1F", "1_000", "1:30", "2024-01-01", "=", "<<", "a: b", "# x", "- x", "'",
    '"', '"""', "'''", "\\", "\\n", "C:\\new\\u0041", "{}", "[x]", "&a", "*a", "!x", "%x", "@x", "`x`", "|", ">", "? x", ": x",
    "x #y", "{braces} {0}", "Größe", "日本語", "👩‍🚀", "e\u0301", "\ufffe", "a\u00a0b",
)  # fmt: skip
"""Words that some format or reader would take for something else."""
REGEXES = (r"\bMegaFilm\w{0,10}", r"[0-9]{4}-[0-9]+", r"a\\b", "'\"#", r"caf\x{e9}", "(?i:odd) pages")

_CHARACTERS = st.characters(codec="utf-8", exclude_categories=("Cc", "Cf", "Cs", "Zl", "Zp"))


def names() -> st.SearchStrategy[str]:
    """Names of configs and rules."""
    return st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True)


def lines(*, max_size: int = 40) -> st.SearchStrategy[str]:
    """Texts of one line."""
    words = st.sampled_from(AWKWARD) | st.text(_CHARACTERS, min_size=1, max_size=max_size)
    return words.filter(lambda text: bool(text.strip()) and fault_in(text) is None)


def proses() -> st.SearchStrategy[str]:
    """Texts of several lines, with indents, tabs, blank lines and spaces at line ends."""
    parts = st.lists(lines() | st.sampled_from(["", " ", "  two", "\ttab", "end "]), min_size=1, max_size=4)
    joined = parts.map("\n".join) | parts.map(lambda some: "\n".join(some) + "\n\n")
    return joined.filter(lambda text: bool(text.strip()) and fault_in(text) is None)


def terms() -> st.SearchStrategy[Any]:
    """A phrase (as a mapping or by itself), a pattern, or a kind of personal data."""
    kinds = st.sampled_from(["email", "phone", "credit_card", "iban", "us_ssn", "ip_address"])
    phrases = lines()
    return (
        phrases
        | phrases.map(lambda phrase: {"phrase": phrase})
        | st.sampled_from(REGEXES).map(lambda regex: {"regex": regex})
        | kinds.map(lambda kind: {"pii": kind})
    )


def examples() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"prompt": proses(), "good": proses()}, optional={"bad": proses()})


@st.composite
def rule_fields(draw: st.DrawFn, risks: tuple[str, ...]) -> dict[str, Any]:
    """A rule without id. Which rules may stand together is the config's matter."""
    allowable = [risk for risk in risks if risk != OTHER]
    kind = draw(st.sampled_from(["whole", "limit", "narrow", "custom", "carve"]))
    rule: dict[str, Any] = {}
    match kind:
        case "whole":
            rule["stance"] = draw(st.sampled_from(["allow", "forbid"]))
            rule["risk"] = draw(st.sampled_from(allowable if rule["stance"] == "allow" else list(risks)))
        case "limit":
            rule |= {"stance": "limit", "risk": draw(st.sampled_from(allowable)), "text": draw(lines())}
        case "narrow":
            rule |= {"stance": "forbid", "risk": draw(st.sampled_from(risks)), "text": draw(lines())}
        case "custom":
            found: dict[str, st.SearchStrategy[Any]] = {
                "text": lines(),
                "terms": st.lists(terms(), min_size=1, max_size=3),
            }
            given = draw(st.sampled_from([("text",), ("terms",), ("text", "terms")]))
            rule |= {"stance": "forbid"} | {key: draw(found[key]) for key in given}
        case "carve":
            within = st.lists(st.sampled_from(RISKS[:-1]), min_size=1, max_size=2, unique=True)
            rule |= {"stance": "allow", "text": draw(lines()), "within": draw(within)}
    common: dict[str, st.SearchStrategy[Any]] = {
        "note": lines(),
        "examples": st.lists(examples(), max_size=2),
        "undecided": st.sampled_from(["allow", "block", None]),
        "delegable": st.booleans(),
    }
    if kind in {"limit", "narrow"}:
        common["unless"] = lines()
    return rule | draw(st.fixed_dictionaries({}, optional=common))


def _told_apart(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """At most one unconditional rule a risk, every other one with an id of its own."""
    whole: set[str] = set()
    kept = []
    for position, rule in enumerate(rules):
        if "risk" in rule and "text" not in rule and "unless" not in rule:
            if rule["risk"] in whole:
                continue
            whole.add(rule["risk"])
            kept.append(rule)
        else:
            kept.append({"id": f"{rule['stance']}-{position}", **rule})
    return kept


def _may_trail(fields: dict[str, Any]) -> bool:
    permits = [rule for rule in fields["rules"] if rule["stance"] != "forbid"]
    opened = {risk for rule in permits for risk in (rule.get("risk"), *rule.get("within", ()))} & {"sexual", "weapons"}
    return not opened and fields.get("default") == "forbid"


@st.composite
def config_fields(draw: st.DrawFn) -> dict[str, Any]:
    """What `SafetyConfig(**fields)` accepts; every field appears in some."""
    own = draw(st.lists(st.sampled_from(OWN_RISKS), max_size=2, unique=True))
    rules = _told_apart(draw(st.lists(rule_fields((*RISKS, *own)), max_size=5)))
    optional: dict[str, st.SearchStrategy[Any]] = {
        "version": st.integers(1, 10**9),
        "purpose": lines(),
        "audience": lines(),
        "guideline": proses(),
        "default": st.sampled_from(["forbid", "allow"]),
        "refusal": st.fixed_dictionaries({}, optional={"message": proses(), "explain": st.booleans()}),
        "enforcement": _enforcements(),
    }
    fields = draw(st.fixed_dictionaries({"name": names()}, optional=optional))
    fields["rules"] = rules
    fields["risks"] = [{"id": risk, "name": draw(lines()), "definition": draw(lines())} for risk in own]
    if fields.get("guideline") and draw(st.booleans()):
        fields["default"] = "guideline"
    if _may_trail(fields) and draw(st.booleans()):
        fields["enforcement"] = {**fields.get("enforcement", {}), "stream": "trail"}
    return fields


def _enforcements() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {},
        optional={
            "input": st.sampled_from(["refuse", "warn", "off"]),
            "output": st.sampled_from(["refuse", "redact", "regenerate", "warn", "off"]),
            "attempts": st.integers(1, 8),
            "stream": st.sampled_from(["hold", "whole"]),
            "on_error": st.sampled_from(["block", "allow"]),
            "on_undecided": st.sampled_from(["block", "allow"]),
            "media": st.sampled_from(["refuse", "allow"]),
        },
    )


def configs() -> st.SearchStrategy[SafetyConfig]:
    """Valid configs: rules of every stance, terms of every kind, own risks, several lines of Unicode."""
    return config_fields().map(lambda fields: SafetyConfig(**fields))
