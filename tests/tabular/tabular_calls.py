"""Relational actions as the tests call them."""

from typing import Any

import pyarrow as pa

from nvisy_connectors.tabular.filter import Filter, FilterParams
from nvisy_connectors.tabular.map import Map, MapParams
from nvisy_dagster.sdk import EdgeType
from nvisy_dagster.sdk.envelope import ENVELOPE


def kept(where: str, batch: pa.RecordBatch) -> list[int]:
    """Positions of the records that `filter` keeps."""
    found = Filter(FilterParams(where=where)).transform(batch)
    return [row["_source"]["position"] for row in found.to_pylist()]


def mapped(batch: pa.RecordBatch, primitive: str = "row", **params: Any) -> pa.RecordBatch:
    """What `map` makes of a batch, which is what it promised at compile time."""
    action = Map(MapParams.model_validate(params))
    promised = action.output(EdgeType(primitive, batch.schema)).schema
    made = action.transform(batch)
    assert made.schema.equals(promised, check_metadata=True)
    assert made.schema.names[: len(ENVELOPE)] == ENVELOPE.names
    assert made.column("_id").equals(batch.column("_id"))
    return made
