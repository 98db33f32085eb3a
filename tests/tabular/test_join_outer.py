"""What `right` and `full` joins promise of records that have nothing of the left."""

import pyarrow as pa
import pytest
from tabular_batches import batch_of
from test_join import of_right

from nvisy_connectors.tabular.join import Join, JoinParams
from nvisy_dagster.sdk import ConfigError, EdgeType
from nvisy_dagster.sdk.arrow_schema import schema_of
from nvisy_dagster.sdk.envelope import payload_schema

RIGHT = EdgeType("row", of_right({"text": ["a"], "index": [0], "note": ["b"]}).schema)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(
    ("how", "primitive"),
    [("inner", "chunk"), ("left", "chunk"), ("right", "row"), ("full", "row"), ("anti", "chunk")],
)
def test_what_may_lack_the_columns_of_its_primitive_is_a_row(how, primitive, known):
    left = EdgeType("chunk", schema_of("chunk") if known else None)
    made = Join(
        JoinParams(on=["text"], how=how, **({} if how == "anti" else {"columns": ["note"]}))
    )
    assert made.output_of({"left": left, "right": RIGHT}).primitive == primitive


@pytest.mark.parametrize("how", ["right", "full"])
def test_only_what_may_be_missing_is_nullable(how):
    whole = pa.schema([
        pa.field(name, pa.int64(), nullable=False) for name in ("k", "x", "y", "own")
    ])
    batch = pa.record_batch([pa.array([1])] * 4, schema=whole)
    sides = {"left": batch_of(batch.select(["k", "x"])), "right": of_right(batch)}
    made = Join(JoinParams(on=["k"], how=how, suffix="_r")).output_of({
        name: EdgeType("row", side.schema) for name, side in sides.items()
    })
    nullable = {field.name: field.nullable for field in payload_schema(made.schema)}
    of_the_right = how == "full"
    assert nullable == {
        "k": False,
        "x": True,
        "x_r": of_the_right,
        "y": of_the_right,
        "own": of_the_right,
    }


def test_a_column_that_is_not_there_is_told_though_the_left_is_empty(tmp_path):
    join = Join(JoinParams(on=["key", "k"], how="right", columns=["notes"]), node_id="j")
    with pytest.raises(ConfigError, match="the right input has no column 'key'"):
        list(join.gather({"left": [], "right": [of_right({"k": [1], "note": [2]})]}, tmp_path))
    join = Join(JoinParams(on=["k"], how="right", columns=["notes"]), node_id="j")
    with pytest.raises(ConfigError, match="the right input has no column 'notes'"):
        list(join.gather({"left": [], "right": [of_right({"k": [1], "note": [2]})]}, tmp_path))
