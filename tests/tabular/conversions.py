"""What `convert` makes of a batch, and what it refuses."""

from typing import Any

import pyarrow as pa
import pytest

from nvisy_connectors.tabular.convert import Convert, ConvertParams
from nvisy_dagster.sdk import DataError, EdgeType
from nvisy_dagster.sdk.validation import validate


def convert(batch: pa.RecordBatch, primitive: str = "row", **params: Any) -> pa.RecordBatch:
    """What `convert` makes of a batch, which is what it promised when the graph was compiled."""
    action = Convert(ConvertParams.model_validate(params), node_id="convert")
    promised = action.output(EdgeType(primitive, batch.schema))
    assert action.output(EdgeType(primitive)).primitive in {promised.primitive, "row"}
    made = action.transform(batch)
    assert made.schema.equals(promised.schema, check_metadata=True)
    made.validate(full=True)
    if promised.primitive != primitive or "to" in params:
        validate(made, promised.primitive)
    return made


def refused_rows(batch: pa.RecordBatch, **params: Any) -> dict[int, str]:
    with pytest.raises(DataError) as refused:
        convert(batch, **params)
    assert isinstance(refused.value.result, pa.RecordBatch)
    assert refused.value.result.num_rows == batch.num_rows - len(refused.value.rows)
    return refused.value.rows
