"""Where computed configs are kept: bounded, and never anything but what was put in."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cosa_guard.backends.prefix_store import DiskTier, PrefixStore, prefix_key


def key_of(number, model="m"):
    return prefix_key(model, (), [number])


def state_of(number, size=100):
    return bytearray([number % 256]) * size


@given(st.lists(st.tuples(st.sampled_from(["put", "get", "drop"]), st.integers(0, 9), st.integers(1, 400)), max_size=60))
def test_memory_is_bounded_and_gives_what_was_put(steps):
    store, put = PrefixStore(1000), {}
    for verb, number, size in steps:
        key = key_of(number)
        if verb == "put" and key not in put:
            put[key] = state_of(number, size)
            store.put(key, put[key])
        elif verb == "drop":
            store.drop(key)
            put.pop(key, None)
        elif verb == "get":
            found = store.get(key)
            assert found in (None, put.get(key))
            if found is None:
                put.pop(key, None)
        use = store.use
        assert use.bytes <= 1000
        assert use.bytes == sum(len(state) for state in store._states.values())


def test_the_one_unused_for_longest_goes_first():
    store = PrefixStore(300)
    for number in range(3):
        store.put(key_of(number), state_of(number))
    store.get(key_of(0))
    store.put(key_of(3), state_of(3))

    assert [True, False, True, True] == [store.get(key_of(number)) is not None for number in range(4)]
    assert 1 == store.use.evicted


def test_what_is_larger_than_the_limit_is_not_kept():
    store = PrefixStore(10)
    store.put(key_of(1), state_of(1))

    assert store.get(key_of(1)) is None
    assert 0 == store.use.bytes


@pytest.mark.parametrize(
    "other",
    [("m2", (), [1, 2]), ("m", ("a", 1.0), [1, 2]), ("m", (), [1, 3]), ("m", (), [1, 2, 0]), ("m", (), [12])],
)
def test_a_key_depends_on_model_adapters_and_tokens(other):
    assert prefix_key("m", (), [1, 2]) != prefix_key(*other)


def test_disk_outlives_the_store(tmp_path):
    first = PrefixStore(1000, DiskTier(tmp_path / "p", 1000))
    first.put(key_of(1), state_of(1))
    second = PrefixStore(1000, DiskTier(tmp_path / "p", 1000))

    assert state_of(1) == second.get(key_of(1))
    assert 1 == second.use.disk_hits
    assert state_of(1) == second.get(key_of(1))
    assert (1, 1) == (second.use.disk_hits, second.use.hits)


def test_another_version_does_not_read_it(tmp_path):
    disk = DiskTier(tmp_path, 1000)
    disk.put(key_of(1, "model llama.cpp 1"), state_of(1))

    assert disk.get(key_of(1, "model llama.cpp 2")) is None


@settings(max_examples=80)
@given(st.integers(0, 179), st.integers(0, 255), st.sampled_from(["flip", "cut", "add"]))
def test_a_damaged_file_is_as_good_as_none(tmp_path_factory, place, value, how):
    folder = tmp_path_factory.mktemp("disk")
    disk = DiskTier(folder, 1000)
    disk.put(key_of(1), state_of(1))
    (file,) = folder.glob("*.kv")
    raw = bytearray(file.read_bytes())
    if how == "flip":
        raw[place] ^= value or 1
    elif how == "cut":
        del raw[place:]
    else:
        raw += bytes([value])
    file.write_bytes(raw)

    assert disk.get(key_of(1)) is None
    assert not file.exists()
    disk.put(key_of(1), state_of(1))
    assert state_of(1) == disk.get(key_of(1))


def test_a_file_under_another_name_is_refused(tmp_path):
    disk = DiskTier(tmp_path, 1000)
    disk.put(key_of(1), state_of(1))
    (file,) = tmp_path.glob("*.kv")
    file.rename(tmp_path / f"{key_of(2).hex()}.kv")

    assert disk.get(key_of(2)) is None


def test_disk_is_bounded_and_drops_the_oldest(tmp_path):
    disk = DiskTier(tmp_path, 600)
    for number in range(6):
        disk.put(key_of(number), state_of(number))
        for file in tmp_path.glob("*.kv"):
            os.utime(file, ns=(number * 10**9, file.stat().st_mtime_ns - 10**9))

    assert sum(file.stat().st_size for file in tmp_path.glob("*.kv")) <= 600
    assert disk.get(key_of(5)) is not None
    assert disk.get(key_of(0)) is None


def test_only_the_owner_can_read_it(tmp_path):
    DiskTier(tmp_path / "p", 1000).put(key_of(1), state_of(1))
    (file,) = (tmp_path / "p").glob("*.kv")

    assert 0o600 == stat.S_IMODE(file.stat().st_mode)
    assert 0o700 == stat.S_IMODE((tmp_path / "p").stat().st_mode)


def test_a_folder_that_cannot_be_written_to_costs_the_cache_only(tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    store = PrefixStore(1000, DiskTier(tmp_path / "file" / "p", 1000))
    store.put(key_of(1), state_of(1))
    store.put(key_of(2), state_of(2))

    assert state_of(1) == store.get(key_of(1))
    assert 1 == len([record for record in caplog.records if "not stored on disk" in record.message])


def test_several_writers_leave_whole_files_and_nothing_else(tmp_path):
    def write(number):
        DiskTier(tmp_path, 10**6).put(key_of(number % 5), state_of(number % 5, 5000))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(200)))

    assert 5 == len(list(tmp_path.iterdir()))
    assert all(state_of(number, 5000) == DiskTier(tmp_path, 10**6).get(key_of(number)) for number in range(5))
