"""`deduplicate`: one of the records that are the same, over all of them."""

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tabular_batches import articles, batch_of, edge

from nvisy_connectors.tabular.deduplicate import Deduplicate, DeduplicateParams
from nvisy_dagster.sdk import ConfigError, EdgeType
from nvisy_dagster.sdk.errors import mistakes_in
from nvisy_dagster.sdk.testing import BlockingActionConformance


class TestDeduplicate(BlockingActionConformance):
    component = Deduplicate

    @pytest.fixture
    def params(self):
        return DeduplicateParams(by=["lang"], keep="last", order_by=["score"])

    @pytest.fixture
    def rows(self):
        return articles()

    def refused(self, rows):
        return [edge({"lang": ["a"]}), edge({"score": [1.0]})]


def places(batches, folder, **params) -> list[int]:
    """The places, as told by a column, of the records that stay."""
    action = Deduplicate(DeduplicateParams.model_validate(params))
    incoming = EdgeType("row", batches[0].schema)
    assert action.output(incoming) == incoming
    return [n for batch in action.gather(batches, folder) for n in batch["place"].to_pylist()]


def cut(batch, place):
    return [batch.slice(0, place), batch.slice(place)]


values = st.lists(
    st.tuples(
        st.none() | st.integers(0, 3),
        st.none() | st.sampled_from(["", "a", "A"]),
        st.none() | st.integers(0, 2),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(
    rows=values,
    keep=st.sampled_from(["first", "last"]),
    ordered=st.booleans(),
    descending=st.booleans(),
    place=st.integers(0, 30),
)
def test_the_first_or_last_of_each_group_stays(
    tmp_path_factory, rows, keep, ordered, descending, place
):
    batch = batch_of({
        "n": pa.array([row[0] for row in rows], pa.int32()),
        "t": pa.array([row[1] for row in rows], pa.string()),
        "at": pa.array([row[2] for row in rows], pa.int64()),
        "place": list(range(len(rows))),
    })
    groups: dict = {}
    for number, row in enumerate(rows):
        groups.setdefault(row[:2], []).append(number)

    def rank(number):
        at = rows[number][2]
        key = (at is None, -at if descending and at is not None else at or 0)
        return (*key, number) if ordered else number

    choose = min if keep == "first" else max
    wanted = sorted(choose(group, key=rank) for group in groups.values())
    order = [{"column": "at", "descending": descending}] if ordered else []
    found = places(
        cut(batch, place), tmp_path_factory.mktemp("s"), by=["n", "t"], keep=keep, order_by=order
    )
    assert found == wanted


def test_by_default_the_content_makes_records_the_same(tmp_path):
    columns = {
        "text": ["a", "a", "b", None, None, "a"],
        "vector": pa.array([[1.0], [1.0], [1.0], None, None, [2.0]], pa.list_(pa.float32())),
        "in": pa.array([{"x": [1]}] * 5 + [{"x": [2]}]),
    }
    batch = batch_of(columns)  # the envelopes are all different
    action = Deduplicate(DeduplicateParams())
    made = list(action.gather(cut(batch, 1), tmp_path))
    assert [row["_source"]["position"] for b in made for row in b.to_pylist()] == [0, 2, 3, 5]
    assert all(part.schema.equals(batch.schema) for part in made)


def test_columns_of_any_type_come_along(tmp_path):
    """Only keys go through DuckDB."""
    odd = pa.array([1, 2, 3, 4], pa.duration("ns"))
    batch = batch_of({"k": ["a", "b", "a", "c"], "odd": odd, "place": [0, 1, 2, 3]})
    assert places([batch], tmp_path, by=["k"]) == [0, 1, 3]


def test_nan_is_nan_and_zero_is_zero(tmp_path):
    numbers = [float("nan"), float("nan"), 0.0, -0.0]
    batch = batch_of({"k": numbers, "place": list(range(4))})
    assert places([batch], tmp_path, by=["k"]) == [0, 2]


@pytest.mark.parametrize("names", [("a", "A"), ("__nvisy_row__", "b"), ("key_1", "key_0")])
def test_columns_are_told_apart_as_they_are_written(tmp_path, names):
    columns = {names[0]: [1, 1, 2, 1], names[1]: [1, 2, 2, 2], "place": [0, 1, 2, 3]}
    assert places([batch_of(columns)], tmp_path, by=list(names)) == [0, 1, 2]
    last = {"by": [names[0]], "order_by": [names[1]], "keep": "last"}
    assert places([batch_of(columns)], tmp_path, **last) == [2, 3]


@pytest.mark.parametrize("kind", [pa.duration("ns"), pa.timestamp("ns", "UTC"), pa.time64("ns")])
def test_times_that_differ_by_a_nanosecond_are_not_the_same(tmp_path, kind):
    columns = {"k": pa.array([1, 2, 1], kind), "place": [0, 1, 0]}
    for by in (["k"], None):
        assert places([batch_of(columns)], tmp_path, by=by) == [0, 1]


def test_columns_that_only_the_records_tell(tmp_path):
    params = DeduplicateParams(by=["k"], order_by=["x"])
    with pytest.raises(ConfigError) as refused:
        list(Deduplicate(params).gather([batch_of({"n": [1]})], tmp_path))
    assert [one.place for one in mistakes_in(refused.value)] == [("by", 0), ("order_by", 0)]


def test_more_keys_than_its_memory(tmp_path):
    draw = np.random.default_rng(5)
    count, most = 600_000, 400_000
    numbers = draw.integers(0, most, count)
    table = pa.table({"k": [f"key {n:040d}" for n in numbers], "place": np.arange(count)})
    batches = [batch_of(batch) for batch in table.to_batches(50_000)]
    params = DeduplicateParams.model_construct(by=["k"], memory_limit="48MB")
    action = Deduplicate(params)
    stay = np.concatenate([b["place"].to_numpy() for b in action.gather(batches, tmp_path)])
    _, first = np.unique(numbers, return_index=True)
    assert np.array_equal(stay, np.sort(first))


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"by": ["k", "k"]}, {("by", 1): "'k' is named twice"}),
        (
            {"by": ["key"], "order_by": [{"column": "plac"}]},
            {("by", 0): "there is no column 'key'", ("order_by", 0): "there is no column 'plac'"},
        ),
        ({"by": ["m"]}, {("by", 0): r"'m' is of type map<.*>, which has no order"}),
    ],
)
def test_refusals_name_the_place(params, told):
    maps = pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))
    incoming = edge(pa.record_batch({"k": ["a"], "place": [1], "m": maps}))
    with pytest.raises(ConfigError) as refused:
        Deduplicate(DeduplicateParams.model_validate(params)).output(incoming)
    found = {one.place: one.message for one in mistakes_in(refused.value)}
    assert found.keys() == told.keys()
    assert all(re.match(message, found[place]) for place, message in told.items())
