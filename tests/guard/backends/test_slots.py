"""Which slot a request goes to."""

from __future__ import annotations

from cosa_guard.backends.slots import SlotTable, chain_of
from cosa_guard.messages import Adapter, Message


def chain(config, *turns, adapters=()):
    return chain_of((Message("system", config), *(Message("user", turn) for turn in turns)), adapters)


def use(table, one):
    """The slot of a request that has come and gone."""
    slot = table.take(one)
    table.give(slot)
    return slot


def test_each_config_keeps_a_slot():
    table = SlotTable(3)

    rounds = [[use(table, chain(config, str(turn))) for config in "abc"] for turn in range(3)]

    assert [[0, 1, 2]] * 3 == rounds


def test_the_config_unused_for_longest_makes_room():
    table = SlotTable(2)
    for config in "aba":
        use(table, chain(config, "x"))

    assert 1 == use(table, chain("c", "x"))
    assert 0 == use(table, chain("a", "x"))


def test_requests_of_one_config_run_side_by_side_and_then_give_way_first():
    table = SlotTable(3)
    other = use(table, chain("b", "x"))
    slots = [table.take(chain("a", str(turn))) for turn in range(2)]
    for slot in slots:
        table.give(slot)

    assert {0, 1, 2} == {other, *slots}
    assert use(table, chain("c", "x")) in slots
    assert other == use(table, chain("b", "y"))


def test_a_conversation_goes_on_where_it_was():
    table = SlotTable(2)
    slots = [table.take(chain("a", "hello")), table.take(chain("a", "good day"))]
    for slot in slots:
        table.give(slot)

    assert slots == [use(table, chain("a", "hello", "more")), use(table, chain("a", "good day", "more"))]


def test_no_slot_is_left():
    table = SlotTable(1)
    table.take(chain("a"))

    assert table.take(chain("b")) is None
    table.give(None)
    table.give(0)
    assert 0 == table.take(chain("b"))


def test_what_the_server_chose_is_remembered():
    table = SlotTable(2)
    table.record(1, chain("a"))
    table.record(-1, chain("b"))

    assert 1 == use(table, chain("a"))


def test_adapters_and_their_scales_are_part_of_the_prefix():
    one, half = (Adapter(name="x"),), (Adapter(name="x", scale=0.5),)

    assert 3 == len({chain("a", adapters=adapters)[0] for adapters in ((), one, half)})
    assert chain("a", "t", adapters=one)[0] == chain("a", adapters=one)[0]


def test_scopes_share_a_config_and_no_turn():
    turns = (Message("system", "a"), Message("user", "x"), Message("assistant", "y"))
    one, other = chain_of(turns, scope="one"), chain_of(turns, scope="other")

    assert one == chain_of(turns, scope="one")
    assert one[0] == other[0]
    assert not {*one[1:]} & {*other[1:]}


def test_a_missing_config_is_not_an_empty_one():
    assert chain_of((Message("system", ""),))[0] != chain_of((Message("user", "x"),))[0]
    assert 2 == len(chain_of((Message("user", "\ud800"),)))
