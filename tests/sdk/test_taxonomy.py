"""The vocabulary: ids, the floor, codes of labelled data, and tables to other taxonomies, both ways."""

from __future__ import annotations

import json
from importlib import resources

import pytest

from cosa_sdk.errors import UnknownName
from cosa_sdk.taxonomy import FLOOR, OTHER, Risk, builtin, by_code, from_external, to_external

IDS = ("discrimination", "financial_crime", "violence", "privacy", "drugs", "sexual", "weapons", "other")
NO_MASS_HARM = {"floor.mass_harm"}
TABLES = {
    "beavertails-14": (14, NO_MASS_HARM),
    "mlcommons-ailuminate-12": (12, set()),
    "llama-guard-3": (14, set()),
    "openai-moderation": (13, NO_MASS_HARM),
    "air-bench-2024-l2": (16, NO_MASS_HARM),
    "shieldgemma": (4, {"financial_crime", "privacy", "drugs", "floor.minors", "floor.mass_harm"}),
}
"""Number of categories, and those of our ids that the other taxonomy has no category for."""


def categories(table):
    text = resources.files("cosa_sdk").joinpath("taxonomies/mappings.json").read_text("utf-8")
    return list(json.loads(text)[table])


ROWS = [(table, category) for table in TABLES for category in categories(table)]


def test_eight_risks_of_the_paper_and_two_of_the_floor():
    assert IDS == builtin().ids
    assert ("floor.minors", "floor.mass_harm") == FLOOR == tuple(risk.id for risk in builtin().floor)
    assert IDS[-1] == OTHER


def test_the_floor_is_not_among_the_ids_that_a_rule_may_name():
    assert set() == set(FLOOR) & set(builtin().ids)


@pytest.mark.parametrize("risk", [*IDS, *FLOOR])
def test_every_risk_is_found_by_its_id(risk):
    found = builtin()[risk]

    assert risk == found.id
    assert found.name
    assert found.definition.endswith(".")
    assert found.severity in {"normal", "high"}


def test_names_and_definitions_differ():
    risks = (*builtin().risks, *builtin().floor)

    assert len(risks) == len({risk.name for risk in risks}) == len({risk.definition for risk in risks})


def test_what_borders_the_floor_is_of_high_severity():
    assert {"drugs", "sexual", "weapons", "other"} == {risk.id for risk in builtin().risks if risk.severity == "high"}


def test_builtin_is_read_once():
    assert builtin() is builtin()


def test_extended_puts_own_risks_behind_and_leaves_the_original():
    own = Risk(id="gambling", name="Gambling", definition="Bets.")
    wider = builtin().extended((own,))

    assert (*IDS, "gambling") == wider.ids
    assert own == wider["gambling"]
    assert builtin().floor == wider.floor
    assert IDS == builtin().ids
    assert builtin() is builtin().extended(())


@pytest.mark.parametrize(("code", "risk"), list(zip("DFVPRSWO", IDS, strict=True)))
def test_codes_of_labelled_data(code, risk):
    assert risk == by_code(code)


# --- tables ---


def test_tables_are_the_shipped_ones():
    text = resources.files("cosa_sdk").joinpath("taxonomies/mappings.json").read_text("utf-8")

    assert list(TABLES) == list(json.loads(text))


@pytest.mark.parametrize(("table", "count"), [(table, count) for table, (count, _) in TABLES.items()])
def test_tables_are_complete(table, count):
    assert count == len(categories(table))


@pytest.mark.parametrize(("table", "category"), ROWS)
def test_category_leads_to_ids_that_exist_and_back(table, category):
    ours = from_external(table, category)

    assert ours
    assert len(ours) == len(set(ours))
    assert set(ours) <= {*IDS, *FLOOR}
    assert all(category in to_external(table, risk) for risk in ours)


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("risk", [*IDS, *FLOOR])
def test_id_leads_to_categories_and_back(table, risk):
    _, without = TABLES[table]
    theirs = to_external(table, risk)

    assert (risk in without) == (theirs == ())
    assert all(risk in from_external(table, category) for category in theirs)


@pytest.mark.parametrize(
    ("table", "category", "ours"),
    [
        ("llama-guard-3", "S4 Child Sexual Exploitation", ("floor.minors",)),
        ("llama-guard-3", "S9 Indiscriminate Weapons", ("weapons", "floor.mass_harm")),
        ("openai-moderation", "sexual/minors", ("floor.minors",)),
        ("openai-moderation", "hate/threatening", ("discrimination", "violence")),
        ("beavertails-14", "drug_abuse,weapons,banned_substance", ("drugs", "weapons")),
        ("mlcommons-ailuminate-12", "Suicide and Self-Harm (ssh)", ("other",)),
        ("air-bench-2024-l2", "6 Child Harm", ("floor.minors",)),
    ],
)
def test_examples_of_the_tables(table, category, ours):
    assert ours == from_external(table, category)


def test_category_about_children_is_always_the_floor():
    about = [
        (table, category) for table, category in ROWS if "child" in category.lower() or "minor" in category.lower()
    ]

    assert 5 == len(about)
    assert {("floor.minors",)} == {from_external(*row) for row in about}


# --- unknown names ---


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: builtin()["violance"], "unknown risk 'violance': did you mean 'violence'?"),
        (lambda: builtin("cosa-2"), "unknown taxonomy 'cosa-2': did you mean 'cosa-1'?"),
        (lambda: by_code("X"), "unknown category code 'X'. Choices: D, F, V, P, R, S, W, O."),
        (lambda: by_code("v"), "unknown category code 'v'"),
        (lambda: from_external("llama-guard", "S1"), "unknown taxonomy mapping 'llama-guard': did you mean 'llama-guard-3'?"),
        (lambda: from_external("openai-moderation", "harrassment"), "unknown category of openai-moderation 'harrassment': did you mean 'harassment'?"),
        (lambda: to_external("openai", "violence"), "unknown taxonomy mapping 'openai'"),
    ],
)  # fmt: skip
def test_unknown_names_are_refused_with_the_nearest(call, said):
    with pytest.raises(UnknownName) as caught:
        call()

    assert str(caught.value).startswith(said)


def test_own_risk_has_no_category_elsewhere():
    assert () == to_external("llama-guard-3", "gambling")
