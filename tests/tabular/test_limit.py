"""`limit` and `batch`: which records go on, and in which batches."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tabular_batches import articles, batch_of

from nvisy_connectors.tabular.batch import Batch, BatchParams
from nvisy_connectors.tabular.limit import Limit, LimitParams
from nvisy_dagster.compiler import compile_document
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.sdk.testing import SequentialActionConformance


class TestLimit(SequentialActionConformance):
    component = Limit

    @pytest.fixture
    def params(self):
        return LimitParams(count=2, offset=1)

    @pytest.fixture
    def rows(self):
        return articles()


class TestBatch(SequentialActionConformance):
    component = Batch

    @pytest.fixture
    def params(self):
        return BatchParams(batch_rows=2)

    @pytest.fixture
    def rows(self):
        return articles()


def texts(sizes: list[int]) -> pa.RecordBatch:
    return batch_of({"t": ["x" * size for size in sizes], "place": np.arange(len(sizes))})


@given(
    sizes=st.lists(st.integers(0, 3000), max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    rows=st.none() | st.integers(1, 12),
    most=st.integers(1, 5000),
)
@settings(max_examples=80, deadline=None)
def test_batches_are_as_full_as_they_may_be(sizes, cuts, rows, most):
    whole = texts(sizes)
    action = Batch(BatchParams(batch_rows=rows, batch_bytes=most))
    edges = [0, *sorted(min(cut, len(sizes)) for cut in cuts), len(sizes)]
    made = [
        made
        for start, end in pairwise(edges)
        for made in action.take(whole.slice(start, end - start))
    ]
    made += action.flush()
    assert [n for batch in made for n in batch["place"].to_pylist()] == list(range(len(sizes)))
    assert all(batch.num_rows for batch in made)
    for place, batch in enumerate(made):
        assert batch.num_rows == 1 or batch.nbytes <= most + 64  # masks have whole bytes
        assert rows is None or batch.num_rows <= rows
        if place + 1 < len(made) and batch.num_rows != rows:
            together = pa.concat_batches([batch, made[place + 1].slice(0, 1)])
            assert together.nbytes > most - 64, "the next record would have fitted"


def test_what_makes_a_batch_must_be_said():
    with pytest.raises(ValidationError, match='say "batch_rows", "batch_bytes" or "wait_seconds"'):
        BatchParams()
    for wrong in ({"count": 0}, {"count": 3, "offset": -1}, {"count": 2.5}, {}):
        with pytest.raises(ValidationError):
            LimitParams.model_validate(wrong)


def test_what_an_incremental_source_leaves_out_would_not_come_again():
    node = {"id": "docs", "type": "source", "connector": "local", "incremental": True}
    document = {
        "name": "g",
        "nodes": [
            {**node, "params": {"path": "docs", "format": "jsonl"}, "on_removed": "ignore"},
            {"id": "some", "type": "action", "action": "batch", "params": {"batch_rows": 5}},
            {"id": "few", "type": "action", "action": "limit", "params": {"count": 5}},
            {"id": "out", "type": "sink", "connector": "local",
             "params": {"path": "out", "mode": "append"}},
        ],
        "edges": [{"from": a, "to": b} for a, b in pairwise(["docs", "some", "few", "out"])],
    }  # fmt: skip
    with pytest.raises(GraphErrors) as refused:
        compile_document(document)
    [problem] = refused.value.errors
    assert problem.path == "$.nodes[2]"
    assert '"docs" reads only what changed' in problem.message
    assert problem.remedy == 'remove "incremental" from "docs"'


def test_dictionaries_of_several_batches_become_one():
    batches = [
        batch_of({"kind": pa.array(kinds).dictionary_encode()}) for kinds in (["a", "b"], ["c"])
    ]
    action = Batch(BatchParams(batch_rows=10))
    assert not [made for batch in batches for made in action.take(batch)]
    [made] = action.flush()
    assert made["kind"].to_pylist() == ["a", "b", "c"]
