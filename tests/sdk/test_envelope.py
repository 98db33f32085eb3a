"""The envelope: of roots, of children, on slices, on nothing, and where it would be hidden."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvisy_dagster.sdk.edge_type import EdgeType
from nvisy_dagster.sdk.envelope import (
    ENVELOPE,
    derive,
    payload,
    payload_schema,
    with_envelope,
)
from nvisy_dagster.sdk.errors import ConfigError
from nvisy_dagster.sdk.identity import child_ids, ids_to_array, root_ids
from nvisy_dagster.sdk.validation import validate


def _roots(count, **arguments):
    places = np.arange(count)
    return with_envelope(
        pa.record_batch({"n": pa.array(places)}),
        ids=root_ids("file:///a", places),
        uri="file:///a",
        positions=places,
        **arguments,
    )


@pytest.mark.parametrize("count", [0, 1, 5])
def test_roots_are_valid_rows(count):
    moment = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
    batch = _roots(count, created_at=moment, metadata=pa.array(["{}"] * count, pa.string()))
    batch.validate(full=True)
    validate(batch, "row")
    assert pa.schema(list(batch.schema)[: len(ENVELOPE)]) == ENVELOPE
    assert batch.column("_id").equals(batch.column("_root_id"))
    assert batch.column("_parent_ids").to_pylist() == [[]] * count
    assert batch.column("_tags").to_pylist() == [[]] * count
    assert batch.column("_created_at").to_pylist() == [moment] * count
    assert batch.column("_source").to_pylist() == [
        {"uri": "file:///a", "position": i} for i in range(count)
    ]


def test_what_is_not_known_is_null():
    batch = with_envelope(pa.record_batch({"a": [1]}), ids=root_ids("x", np.arange(1)), uri="x")
    row = batch.to_pylist()[0]
    assert row["_source"] == {"uri": "x", "position": None}
    assert row["_created_at"] is None
    assert row["_metadata"] is None


@given(st.lists(st.integers(0, 3), max_size=8), st.integers(0, 2))
def test_children_come_from_their_parent(parent_rows, start):
    parents = _roots(6).slice(start)
    rows = np.array(parent_rows, np.int64)
    indexes = np.arange(len(rows))
    columns = pa.record_batch({"c": pa.array(indexes)})
    children = derive(parents, rows, columns, node_id="chunk", indexes=indexes)
    children.validate(full=True)
    validate(children, "row")
    taken = parents.column("_id").take(pa.array(rows))
    assert [ids for [ids] in children.column("_parent_ids").to_pylist()] == taken.to_pylist()
    for name in ("_root_id", "_source", "_created_at", "_tags", "_metadata"):
        assert children.column(name).equals(parents.column(name).take(pa.array(rows)))
    expected = ids_to_array(child_ids(taken, "chunk", indexes))
    assert children.column("_id").equals(expected)
    assert len(set(expected.to_pylist())) == len(rows)
    assert payload(children).equals(columns)


def test_a_child_of_its_own_has_another_id_per_node_and_keeps_the_root():
    parents = _roots(3)
    everyone = np.arange(3)
    one = derive(parents, everyone, payload(parents), node_id="a")
    two = derive(one, everyone, payload(parents), node_id="b")
    ids = [batch.column("_id").to_pylist() for batch in (parents, one, two)]
    assert len({value for column in ids for value in column}) == 9
    assert two.column("_root_id").equals(parents.column("_id"))
    assert two.column("_parent_ids").to_pylist() == [[value] for value in ids[1]]


def test_children_are_the_same_however_the_batch_is_cut():
    parents = _roots(6)
    columns = payload(parents)
    whole = derive(parents, np.arange(6), columns, node_id="a")
    parts = [
        derive(parents.slice(s, 2), np.arange(2), columns.slice(s, 2), node_id="a")
        for s in (0, 2, 4)
    ]
    assert pa.Table.from_batches(parts).combine_chunks().to_batches()[0].equals(whole)


def test_a_payload_named_like_the_envelope_is_refused():
    columns = pa.record_batch({"_id": [1], "_tags": [2], "fine": [3]})
    with pytest.raises(ConfigError, match="_id, _tags") as caught:
        with_envelope(columns, ids=root_ids("x", np.arange(1)), uri="x")
    assert caught.value.remedy
    with pytest.raises(ConfigError, match="named like the envelope's"):
        derive(_roots(1), np.arange(1), columns, node_id="n")


def test_ids_and_rows_must_be_as_many():
    with pytest.raises(ValueError, match="same length"):
        with_envelope(pa.record_batch({"a": [1, 2]}), ids=root_ids("x", np.arange(1)), uri="x")


def test_the_payload_is_what_is_left():
    batch = _roots(2)
    assert payload(batch).schema.names == ["n"]
    assert payload_schema(batch.schema) == payload(batch).schema
    assert payload(batch.select(ENVELOPE.names)).num_rows == 2


def test_metadata_of_the_schema_is_kept():
    columns = pa.record_batch({"a": [1]}).replace_schema_metadata({"k": "v"})
    batch = with_envelope(columns, ids=root_ids("x", np.arange(1)), uri="x")
    assert batch.schema.metadata == {b"k": b"v"}


def test_an_edge_carries_a_known_primitive():
    assert EdgeType("chunk").schema is None
    with pytest.raises(ValueError, match="unknown primitive 'chunks'"):
        EdgeType("chunks")
