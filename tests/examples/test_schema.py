"""Editors check the examples against the JSON Schema that they name."""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

EXAMPLES = Path(__file__).parents[2] / "examples"
GRAPHS = [
    path
    for path in sorted(EXAMPLES.rglob("*.json"))
    if path.name != "connections.json" and ".nvisy" not in path.parts
]


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_example_fits_its_schema(path):
    graph = json.loads(path.read_text("utf-8"))
    schema = json.loads((path.parent / graph["$schema"]).read_text("utf-8"))
    assert [error.message for error in Draft202012Validator(schema).iter_errors(graph)] == []
