"""`sample`: a share of the records, always the same ones."""

from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tabular_batches import articles, batch_of

from nvisy_connectors.tabular.sample import Sample, SampleParams
from nvisy_dagster.sdk import EdgeType
from nvisy_dagster.sdk.envelope import derive
from nvisy_dagster.sdk.testing import ActionConformance


class TestSample(ActionConformance):
    component = Sample

    @pytest.fixture
    def params(self):
        return SampleParams(fraction=0.6)

    @pytest.fixture
    def rows(self):
        return articles()


def sample(batch: pa.RecordBatch, fraction: float, seed: int = 0, by: str = "record"):
    params = SampleParams.model_validate({"fraction": fraction, "seed": seed, "by": by})
    action = Sample(params)
    assert action.output(EdgeType("row", batch.schema)).schema == batch.schema
    return action.transform(batch)


def numbers(rows: int) -> pa.RecordBatch:
    return batch_of({"n": np.arange(rows)})


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.5, 0.999])
@pytest.mark.parametrize("seed", [0, 7])
def test_about_the_fraction_is_kept(fraction, seed):
    rows = 100_000
    kept = sample(numbers(rows), fraction, seed).num_rows
    spread = (rows * fraction * (1 - fraction)) ** 0.5
    assert abs(kept - rows * fraction) < 5 * spread


def test_the_ends():
    batch = numbers(1000)
    assert sample(batch, 1.0).equals(batch)
    assert sample(batch, 5e-324).num_rows == 0
    for refused in (0, -0.1, 1.1):
        with pytest.raises(ValidationError):
            SampleParams(fraction=refused)


@given(
    st.lists(st.integers(0, 500), max_size=8),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
    st.integers(0, 2**63 - 1),
)
@settings(max_examples=50, deadline=None)
def test_what_is_chosen_depends_on_the_record_alone(cuts, one, other, seed):
    batch = numbers(500)
    chosen = sample(batch, one, seed).column("n").to_pylist()
    edges = [0, *sorted(cuts), 500]
    parts = [batch.slice(a, b - a) for a, b in pairwise(edges)]
    assert [n for part in parts for n in sample(part, one, seed)["n"].to_pylist()] == chosen
    shuffled = batch.take(pa.array(np.random.default_rng(0).permutation(500)))
    assert sorted(sample(shuffled, one, seed)["n"].to_pylist()) == chosen
    # The smaller share is a part of the larger one.
    small, large = sorted((one, other))
    assert set(sample(batch, small, seed)["n"].to_pylist()) <= set(
        sample(batch, large, seed)["n"].to_pylist()
    )


def test_seeds_choose_apart_from_each_other():
    batch = numbers(20_000)
    again = sample(sample(batch, 0.5, 1), 0.5, 2).num_rows
    assert abs(again - 5000) < 5 * (20_000 * 0.25 * 0.75) ** 0.5


def test_records_of_one_root_are_chosen_together():
    documents = numbers(300)
    owners = np.repeat(np.arange(300), 4)
    text = pa.record_batch({"text": [f"{i}" for i in range(1200)]})
    places = np.tile(np.arange(4), 300)
    chunks = derive(documents, owners, text, node_id="chunk", indexes=places)
    kept = sample(chunks, 0.3, by="root")
    roots, counts = np.unique(kept["_root_id"].to_numpy(zero_copy_only=False), return_counts=True)
    assert set(counts.tolist()) == {4}
    assert kept["_root_id"].unique().equals(sample(documents, 0.3)["_root_id"])
    assert len(roots) < 300
    alone = sample(chunks, 0.3)
    assert alone["_root_id"].value_counts().field("counts").to_numpy().min() < 4
