"""Ids: unique, well mixed, deterministic, and right for every kind of array."""

import time
import uuid

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvisy_dagster.sdk.errors import DataError
from nvisy_dagster.sdk.identity import (
    array_to_ids,
    child_ids,
    format_ulid,
    format_uuid,
    format_uuids,
    ids_to_array,
    key_ids,
    parse_uuid,
    root_ids,
    ulids,
)

MANY = 200_000
GOLDEN_ROOTS = ["fd46f9f7e5e8f7ea60037cf6309be495", "fe83b211ba0e1dd3b0bd423ab3d0a486"]
GOLDEN_CHILDREN = ["da176f48f2663de791b986483033376d", "bbef5a2f7efe43757530fa3962cf12e5"]
GOLDEN_KEYS = ["2d5777e6cf774f2d61466c37176634f0", "dc94308d55dcdfafa4c5eeccdf4acc8c"]


def _bits(ids):
    return np.unpackbits(np.ascontiguousarray(ids).view(np.uint8).reshape(-1, 16), axis=1)


def _distinct(ids):
    return len(np.unique(np.ascontiguousarray(ids).view("V16")))


def _children(index_bit=0, parent_bit=None):
    parents = root_ids("file:///a", np.arange(2000))
    if parent_bit is not None:
        parents[:, parent_bit // 64] ^= np.uint64(1 << (parent_bit % 64))
    indexes = np.zeros(2000, np.int64) ^ index_bit
    return child_ids(ids_to_array(parents), "chunk", indexes)


def test_ids_are_stable_across_releases():
    roots = ids_to_array(root_ids("s3://bucket/key", np.array([0, -1])))
    assert [v.hex() for v in roots.to_pylist()] == GOLDEN_ROOTS
    children = child_ids(roots, "chunk", np.array([0, 7]))
    assert [v.hex() for v in ids_to_array(children).to_pylist()] == GOLDEN_CHILDREN
    keys = ids_to_array(key_ids("postgres://h/db/t", pa.array([1, 2])))
    assert [v.hex() for v in keys.to_pylist()] == GOLDEN_KEYS


def test_ids_are_unique_over_positions_sources_and_children():
    positions = np.arange(MANY)
    one, two = root_ids("file:///a", positions), root_ids("file:///b", positions)
    children = child_ids(ids_to_array(one), "chunk", np.zeros(MANY, np.int64))
    siblings = child_ids(ids_to_array(one), "chunk", np.ones(MANY, np.int64))
    other_node = child_ids(ids_to_array(one), "embed", np.zeros(MANY, np.int64))
    assert _distinct(np.concatenate([one, two, children, siblings, other_node])) == 5 * MANY


def test_siblings_of_one_parent_are_unique_and_not_in_line_with_other_positions():
    parent = ids_to_array(root_ids("file:///a", np.array([0])))
    family = child_ids(parent.take(pa.array([0] * MANY)), "chunk", np.arange(MANY))
    assert _distinct(np.concatenate([family, root_ids("file:///a", np.arange(MANY))])) == 2 * MANY


@pytest.mark.parametrize("stride", [1, 2**20, 2**33, -1])
def test_each_half_of_an_id_is_unique_enough_for_structured_positions(stride):
    ids = root_ids("file:///a", np.arange(MANY) * np.int64(stride))
    # 64 random bits collide in 2e5 draws with probability 1e-9.
    assert len(np.unique(ids[:, 0])) == MANY
    assert len(np.unique(ids[:, 1])) == MANY


@pytest.mark.parametrize("stride", [1, 2**33])
def test_every_bit_is_set_half_of_the_time(stride):
    share = _bits(root_ids("file:///a", np.arange(MANY) * np.int64(stride))).mean(axis=0)
    # Six standard deviations of a fair coin.
    assert np.abs(share - 0.5).max() < 6 * 0.5 / np.sqrt(MANY)


def test_bits_do_not_depend_on_each_other():
    bits = _bits(root_ids("file:///a", np.arange(MANY))).astype(np.float32) * 2 - 1
    correlation = bits.T @ bits / MANY
    np.fill_diagonal(correlation, 0)
    assert np.abs(correlation).max() < 7 / np.sqrt(MANY)


def test_one_bit_of_the_position_changes_half_of_the_id():
    positions = np.random.default_rng(1).integers(0, 2**62, 2000)
    base = _bits(root_ids("file:///a", positions))
    for bit in range(64):
        flipped = positions.view(np.uint64) ^ np.uint64(1 << bit)
        changed = _bits(root_ids("file:///a", flipped.view(np.int64))) ^ base
        assert np.abs(changed.mean(axis=0) - 0.5).max() < 0.08


def test_one_bit_of_the_parent_or_the_index_changes_half_of_the_id():
    base = _bits(_children())
    changes = [_bits(_children(parent_bit=bit)) for bit in range(128)]
    changes += [_bits(_children(index_bit=1 << bit)) for bit in range(62)]
    for changed in changes:
        assert np.abs((changed ^ base).mean(axis=0) - 0.5).max() < 0.08


@given(st.text(), st.text(), st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5))
def test_ids_are_deterministic_and_independent_of_their_neighbours(one, other, positions):
    array = np.array(positions, np.int64)
    ids = root_ids(one, array)
    assert np.array_equal(root_ids(one, array), ids)
    assert np.array_equal(ids[1:], root_ids(one, array[1:]))
    children = child_ids(ids_to_array(ids), other, array)
    assert np.array_equal(children, child_ids(ids_to_array(ids), other, array))
    assert np.array_equal(children[1:], child_ids(ids_to_array(ids).slice(1), other, array[1:]))
    if one != other:
        assert not positions or not np.array_equal(ids, root_ids(other, array))


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=6), st.integers(0, 6))
def test_arrays_and_words_are_the_same_bytes_at_any_offset(values, start):
    array = pa.array(values, pa.binary(16)).slice(start)
    words = array_to_ids(array)
    assert words.shape == (len(array), 2)
    assert ids_to_array(words).to_pylist() == values[start:]
    assert ids_to_array(words[::-1]).to_pylist() == values[start:][::-1]
    assert format_uuids(array).to_pylist() == [format_uuid(value) for value in values[start:]]
    assert [parse_uuid(format_uuid(value)) for value in values] == values


def test_no_rows():
    nothing = np.array([], np.int64)
    none = ids_to_array(root_ids("a", nothing))
    assert len(none) == 0
    assert child_ids(none, "n", nothing).shape == (0, 2)
    assert key_ids("a", pa.array([], pa.string())).shape == (0, 2)
    assert ulids(0).shape == (0, 2)
    assert format_uuids(none).to_pylist() == []
    none.validate(full=True)


def test_ids_of_another_type_and_null_ids_are_refused():
    with pytest.raises(TypeError, match=r"fixed_size_binary\[16\], not binary"):
        array_to_ids(pa.array([b"x" * 16]))
    with pytest.raises(ValueError, match="1 ids are null"):
        array_to_ids(pa.array([None, b"x" * 16], pa.binary(16)))


def test_keys_give_ids_of_their_own():
    keys = pa.array(["a", "b", "ab", "", "a\0b", "é"])
    ids = np.concatenate([key_ids("t", keys), key_ids("u", keys), key_ids("t\0a", keys)])
    assert _distinct(ids) == 18
    assert np.array_equal(key_ids("t", keys.slice(2)), key_ids("t", keys)[2:])


def test_a_null_key_is_named():
    with pytest.raises(DataError, match="no key") as caught:
        key_ids("t", pa.array([1, None, 3]))
    assert caught.value.rows == {1: "the key is null"}


def test_identity_and_key_cannot_run_into_each_other():
    assert not np.array_equal(key_ids("a", pa.array(["b\0c"])), key_ids("a\0b", pa.array(["c"])))


def test_ulids_sort_by_time_and_within_a_call():
    before = time.time_ns() // 1_000_000
    first = ids_to_array(ulids(MANY)).to_pylist()
    time.sleep(0.002)
    second = ids_to_array(ulids(10)).to_pylist()
    after = time.time_ns() // 1_000_000
    both = first + second
    assert both == sorted(both)
    assert len(set(both)) == len(both)
    texts = [format_ulid(value) for value in both[-100:]]
    assert texts == sorted(texts)
    for value in (both[0], both[-1]):
        assert before <= int.from_bytes(value[:6], "big") <= after


def test_ulids_of_two_calls_share_nothing_but_the_time():
    one, two = (_bits(ulids(1))[0] for _ in range(2))
    assert np.any(one[48:64] != two[48:64]) or np.any(one[64:] != two[64:])
    random = np.concatenate([_bits(ulids(1))[:, 48:] for _ in range(2000)])
    share = random.mean(axis=0)
    # The first of the 64 low bits stays free for the steps.
    assert np.abs(np.delete(share, 16) - 0.5).max() < 6 * 0.5 / np.sqrt(2000)


@given(st.binary(min_size=16, max_size=16))
def test_ulid_text_is_that_of_the_specification(value):
    text = format_ulid(value)
    alphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
    assert len(text) == 26
    assert text[0] in "01234567"
    number = 0
    for letter in text:
        number = number * 32 + alphabet.index(letter)
    assert number.to_bytes(16, "big") == value


def test_known_ulid():
    # From the specification: 1469918176385 ms is 01ARYZ6S41.
    value = (1469918176385).to_bytes(6, "big") + b"\0" * 10
    assert format_ulid(value) == "01ARYZ6S41" + "0" * 16


@pytest.mark.parametrize("text", ["", "x", "0" * 31, "é" * 32])
def test_a_text_that_is_no_uuid_is_refused(text):
    with pytest.raises(ValueError, match="UUID"):
        parse_uuid(text)


def test_uuid_text_is_that_of_the_standard_library():
    value = uuid.uuid4()
    assert format_uuid(value.bytes) == str(value)
