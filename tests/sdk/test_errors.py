"""One error tree, drawn as it is, and messages that say what to do."""

from __future__ import annotations

import pickle
import re

import pytest

from cosa_sdk import errors
from cosa_sdk.errors import (
    Blocked,
    ConfigError,
    CosaError,
    Finding,
    FloorViolation,
    MissingExtra,
    PromptTooLong,
    UnknownName,
    nearest,
)


def drawn():
    """Class -> base, as the module's docstring draws them."""
    bases, stack = {}, []
    for line in errors.__doc__.splitlines():
        if entry := re.match(r"([│├└─ ]*)(\w+)(?:  .*|$)", line):
            depth, name = len(entry.group(1)) // 4, entry.group(2)
            stack[depth:] = [name]
            bases[name] = stack[depth - 1] if depth else "Exception"
    return bases


def defined():
    found = (getattr(errors, name) for name in errors.__all__)
    return {kind.__name__: kind.__base__.__name__ for kind in found if isinstance(kind, type) and kind is not Finding}


def test_tree_is_drawn_as_it_is():
    assert defined() == drawn()
    assert "Exception" == drawn()["CosaError"]
    assert 20 > len(drawn()) > 10


def test_no_error_is_left_out_of_the_public_names():
    inside = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, CosaError)}

    assert inside == set(defined())


@pytest.mark.parametrize("name", sorted(defined()))
def test_every_error_says_whose_fault_it_is(name):
    assert getattr(errors, name).__doc__


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "is wrong"),
        ({"where": "rules[2].stance"}, "rules[2].stance: is wrong"),
        ({"file": "a.yaml"}, "a.yaml: is wrong"),
        ({"file": "a.yaml", "line": 3}, "a.yaml:3: is wrong"),
        ({"file": "a.yaml", "line": 3, "column": 7, "where": "rules"}, "a.yaml:3:7: rules: is wrong"),
        ({"line": 3, "column": 7}, "3:7: is wrong"),
        ({"fix": "mend it"}, "is wrong (mend it)"),
        ({"where": "name", "fix": "mend it"}, "name: is wrong (mend it)"),
        ({"severity": "warning", "code": "other"}, "is wrong"),
    ],
)
def test_finding_says_place_fault_and_next_step(fields, said):
    assert said == str(Finding(**{"code": "c", "message": "is wrong", **fields}))


def test_config_error_says_every_fault():
    first, second = Finding(code="a", message="one"), Finding(code="b", message="two", where="name")

    assert "one" == str(ConfigError([first]))
    assert "2 faults\none\nname: two" == str(ConfigError([first, second]))
    assert (first, second) == FloorViolation([first, second]).findings


@pytest.mark.parametrize(
    ("name", "choices", "meant"),
    [
        ("violance", ["violence", "drugs"], "violence"),
        ("stanse", ("risk", "stance"), "stance"),
        ("drugs", ["drugs"], "drugs"),
        ("xyz", ["violence", "drugs"], None),
        ("x", [], None),
        ("", ["violence"], None),
    ],
)
def test_nearest(name, choices, meant):
    assert meant == nearest(name, choices)
    assert meant == nearest(name, iter(choices))


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (UnknownName("risk", "drug", ("drugs", "other")), "unknown risk 'drug': did you mean 'drugs'? Choices: drugs, other."),
        (UnknownName("risk", "xyz", ("drugs",)), "unknown risk 'xyz'. Choices: drugs."),
        (UnknownName("judge", "xyz", ()), "unknown judge 'xyz'. Choices: none."),
        (UnknownName("judge", "xyz", ("rules",), "Write your own."), "unknown judge 'xyz'. Choices: rules. Write your own."),
        (MissingExtra("The local backend", "local"), "The local backend needs an extra: pip install 'cosa[local]'"),
        (PromptTooLong("too long", tokens=9, budget=5), "too long"),
        (Blocked("refused", report=None), "refused"),
    ],
)  # fmt: skip
def test_message(error, said):
    assert said == str(error)


@pytest.mark.parametrize(
    "error",
    [
        UnknownName("risk", "drug", ("drugs", "other")),
        MissingExtra("The local backend", "local"),
        PromptTooLong("too long", tokens=9, budget=5),
        FloorViolation([Finding(code="floor", message="no", where="rules[0].risk")]),
        Blocked("refused", report=None),
        errors.JudgeError("late"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_processes(error):
    again = pickle.loads(pickle.dumps(error))

    assert (type(error), str(error), vars(error)) == (type(again), str(again), vars(again))


def test_errors_carry_what_a_program_needs():
    unknown = UnknownName("risk", "drug", ["drugs"])
    long = PromptTooLong("too long", tokens=9, budget=5)
    report = object()

    assert ("drug", ("drugs",)) == (unknown.name, unknown.choices)
    assert (9, 5) == (long.tokens, long.budget)
    assert "local" == MissingExtra("x", "local").extra
    assert report is Blocked("refused", report).report
