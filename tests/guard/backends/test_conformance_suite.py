"""The conformance suite itself: a right backend passes, every wrong one is found, every check finds one."""

from __future__ import annotations

import pytest
from tests.guard.backends.mutants import MUTANTS
from tests.guard.backends.toy import SPECIAL, Toy, template, tokenize

from cosa_guard.backends.base import Capabilities
from cosa_guard.testing import FakeBackend, conformance

BY_NAME = {check.name: check for check in conformance.CHECKS}


def reference(request):
    return tokenize([template([{"role": turn.role, "content": turn.content} for turn in request.messages])], True)


def subject(make, *, patience=60.0):
    names = tuple(SPECIAL.values())
    return conformance.Subject(
        make, adapters=("loud", "other"), special=SPECIAL, reference=reference, markup=names, patience=patience
    )


def test_a_backend_that_means_what_it_should_passes_every_check():
    with subject(Toy) as right:
        outcome = conformance.run(right)

    assert f"{len(conformance.CHECKS)} passed, 0 failed, 0 not applicable" == str(outcome)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_fault_is_found(mutant):
    checks = [BY_NAME[name] for name in MUTANTS[mutant]]
    with subject(mutant, patience=0.5) as wrong:
        outcome = conformance.run(wrong, checks)

    assert checks == list(outcome.failed), str(outcome)


def test_every_check_finds_a_fault():
    found = {name for names in MUTANTS.values() for name in names}

    assert [] == sorted(set(BY_NAME) - found)


def test_names_are_unique():
    assert len(conformance.CHECKS) == len(BY_NAME)


def test_what_a_backend_cannot_do_is_not_applicable_and_what_it_claims_is_checked():
    plain = conformance.Subject(lambda setup: FakeBackend(["Hello", "."]))
    claims = conformance.Subject(lambda setup: FakeBackend(["Hello", "."], capabilities=Capabilities(logprobs=True)))
    log_odds = [check for check in conformance.CHECKS if check.topic == "log-odds"]

    modest, boastful = (conformance.run(each, log_odds) for each in (plain, claims))

    assert log_odds == list(modest.not_applicable)
    assert {"capabilities.logprobs is False"} == set(modest.not_applicable.values())
    assert log_odds == list(boastful.failed)


def test_an_outcome_tells_what_failed_and_why():
    def make(setup):
        raise OSError("no such model")

    outcome = conformance.run(conformance.Subject(make), conformance.CHECKS[:1])

    assert "0 passed, 1 failed, 0 not applicable" in str(outcome)
    assert "no such model" in str(outcome)
