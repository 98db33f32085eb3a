"""Components whose extra is not installed, and components that work in bulk."""

from collections.abc import Sequence
from importlib.metadata import EntryPoint
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest

from nvisy_dagster.compiler import compile_document
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.registry import Registry
from nvisy_dagster.sdk import EdgeType, KernelAction, Params

ROWS = {
    "id": "rows",
    "type": "source",
    "connector": "local",
    "params": {"path": "r.jsonl", "format": "jsonl", "columns": {"n": "int64"}},
}
OUT = {
    "id": "out",
    "type": "sink",
    "connector": "local",
    "params": {"path": "out", "format": "parquet"},
}


class NoParams(Params):
    pass


class Heavy(KernelAction[NoParams]):
    """Needs something."""

    name = "heavy"
    requires = ("a_module_that_is_not_here",)
    extra = "heavy"

    @classmethod
    def prepare(cls, params: Sequence[NoParams]) -> None:
        raise AssertionError("prepared without its modules")

    def output(self, incoming: EdgeType) -> EdgeType:
        raise AssertionError("asked without its modules")

    def transform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch


def graph(*actions: dict[str, Any]) -> dict[str, Any]:
    ids = ["rows", *(f"a{i}" for i in range(len(actions))), "out"]
    nodes = [ROWS, *({**a, "id": f"a{i}", "type": "action"} for i, a in enumerate(actions)), OUT]
    edges = [{"from": a, "to": b} for a, b in pairwise(ids)]
    return {"name": "g", "nodes": nodes, "edges": edges}


def test_a_missing_extra_is_told_with_the_command_that_installs_it() -> None:
    local = {"local": EntryPoint("local", "nvisy_connectors.object.local", "nvisy.connectors")}
    registry = Registry(local, {"heavy": EntryPoint("heavy", __name__, "nvisy.actions")})
    with pytest.raises(GraphErrors) as caught:
        compile_document(graph({"action": "heavy"}), registry=registry)
    [error] = caught.value.errors
    assert error.path == "$.nodes[1]"
    assert error.message == '"heavy" needs a_module_that_is_not_here, not installed here'
    assert error.remedy == "pip install 'nvisy-dagster[heavy]'"


def test_of_many_expressions_typed_together_the_wrong_ones_are_named() -> None:
    actions = [{"action": "filter", "params": {"where": f"n <> {i}"}} for i in range(300)]
    actions[41] = {"action": "filter", "params": {"where": "m > 1"}}
    actions[299] = {"action": "filter", "params": {"where": "n > "}}
    with pytest.raises(GraphErrors) as caught:
        compile_document(graph(*actions))
    found = {error.path: error.message for error in caught.value.errors}
    assert list(found) == ["$.nodes[42].params.where", "$.nodes[300].params.where"]
    assert "'m'" in found["$.nodes[42].params.where"]


def test_typed_together_or_alone_gives_the_same_schema() -> None:
    many = [{"action": "map", "params": {"set": {"n": f"n + {i}", "t": "'a'"}}} for i in range(40)]
    together = compile_document(graph(*many)).nodes["a39"].output
    alone = compile_document(graph(many[0])).nodes["a0"].output
    assert together is not None
    assert alone is not None
    assert together.schema == alone.schema
