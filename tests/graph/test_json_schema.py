"""The JSON Schema accepts what the loader accepts, and offers what components take."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel

from nvisy_dagster.graph.json_schema import graph_schema
from nvisy_dagster.graph.load import load_graph
from nvisy_dagster.sdk.params import Params

PUBLISHED = Path(__file__).parent / "published"


class Inner(BaseModel):
    size: int


class ReadParams(Params):
    """How to read."""

    path: str
    """File to read."""
    inner: Inner | None = None
    """More."""


class WriteParams(Params):
    """How to write."""

    inner: Inner | None = None
    """More."""


def accepts(schema: dict[str, Any], document: Any) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(document)


def graph(**params: Any) -> dict[str, Any]:
    source = {"id": "a", "type": "source", "connector": "local", "params": params}
    return {"$schema": "x", "nodes": [source], "edges": [{"from": "a", "to": "b", "route": "r"}]}


def test_the_schema_is_valid_and_described():
    schema = graph_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["$id"]
    for name, definition in {**schema["$defs"], "Graph": schema}.items():
        assert definition["description"], name
        for key, field in definition.get("properties", {}).items():
            described = "description" in field or "const" in field
            assert described, f"{name}.{key} has no description"


def test_it_accepts_what_is_right_and_refuses_what_is_wrong():
    schema = graph_schema()
    assert accepts(schema, graph(anything=1))
    assert not accepts(schema, {"nodes": []})
    assert not accepts(schema, {**graph(), "nme": 1})
    wrong = graph()
    wrong["edges"][0]["from_"] = wrong["edges"][0].pop("from")
    assert not accepts(schema, wrong)


@pytest.mark.parametrize("file", ["rag.json", "crm.json"])
def test_it_accepts_what_a_graph_is_written_as(file):
    written = load_graph(PUBLISHED / file).model_dump_json()
    jsonschema.Draft202012Validator(graph_schema()).validate(json.loads(written))


def test_params_of_components_are_merged():
    schema = graph_schema(
        sources={"local": ReadParams.model_json_schema(by_alias=False)},
        sinks={"local": WriteParams.model_json_schema(by_alias=False)},
        actions={"chunk": {"type": "object", "additionalProperties": False}},
    )
    jsonschema.Draft202012Validator.check_schema(schema)
    assert accepts(schema, graph(path="x", inner={"size": 1}))
    assert not accepts(schema, graph(path="x", inner={"size": "s"}))
    assert not accepts(schema, graph(path=3))
    assert not accepts(schema, graph(path="x", pth=1))
    other = graph(anything=1)
    other["nodes"][0]["connector"] = "acme"
    assert accepts(schema, other), "another distribution's connector is not described"
    del other["nodes"][0]["params"]
    assert accepts(schema, other)
    other["nodes"][0]["connector"] = "local"
    assert not accepts(schema, other), "path is required"
    sink = {"id": "s", "type": "sink", "connector": "local"}
    assert accepts(schema, {"nodes": [sink]})
    assert not accepts(schema, {"nodes": [{**sink, "params": {"inner": {"size": "s"}}}]})
    chunk = {"id": "s", "type": "action", "action": "chunk", "params": {"x": 1}}
    assert not accepts(schema, {"nodes": [chunk]})
