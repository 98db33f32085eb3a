"""The JSON Schema of a graph, for editors and for those who write graphs by program."""

from collections.abc import Mapping
from typing import Any, cast

from nvisy_dagster.graph.model import Graph

SCHEMA_ID = "urn:nvisy-dagster:graph"
DIALECT = "https://json-schema.org/draft/2020-12/schema"

Schema = dict[str, Any]
Schemas = Mapping[str, Mapping[str, Any]]
"""By component's name, the JSON Schema of its params."""

_REF = "#/$defs/"


def graph_schema(
    sources: Schemas | None = None, sinks: Schemas | None = None, actions: Schemas | None = None
) -> Schema:
    """JSON Schema (draft 2020-12) of a graph, in our snake_case.

    The loader also takes camelCase and published Nvisy graphs; the schema does not describe those.

    Args:
        sources: Params of the connectors that read; their nodes' `params` are described too.
        sinks: Params of the connectors that write.
        actions: Params of the actions.
    """
    schema = Graph.model_json_schema(by_alias=False)
    definitions = cast("Schema", schema["$defs"])
    definitions["JsonValue"] = {"title": "JsonValue", "description": "Any JSON value."}
    _respell(schema, "schema_", "$schema")
    _respell(definitions["Edge"], "from_", "from")
    _describe(definitions, "SourceNode", "connector", sources or {})
    _describe(definitions, "SinkNode", "connector", sinks or {})
    _describe(definitions, "ActionNode", "action", actions or {})
    # Sorted definitions keep the committed file's diffs small.
    schema["$defs"] = dict(sorted(definitions.items()))
    return {"$schema": DIALECT, "$id": SCHEMA_ID, **schema}


def _respell(schema: Schema, name: str, key: str) -> None:
    schema["properties"] = {
        key if said == name else said: value for said, value in schema["properties"].items()
    }
    if "required" in schema:
        schema["required"] = [key if said == name else said for said in schema["required"]]


def _describe(definitions: Schema, node: str, key: str, schemas: Schemas) -> None:
    """Describe the params of each component that a type of node may name."""
    if not schemas:
        return
    names = sorted(schemas)
    named = cast("Schema", definitions[node]["properties"][key])
    # Editors offer the names; another distribution may bring more.
    constraints = {word: named.pop(word) for word in ("minLength", "maxLength") if word in named}
    named["anyOf"] = [{"enum": names}, {"type": named.pop("type", "string"), **constraints}]
    cases: list[Schema] = []
    for name in names:
        title = f"{node}.{name}"
        own = cast("Schema", _moved(dict(schemas[name]), f"{title}."))
        for inner, definition in own.pop("$defs", {}).items():
            definitions[f"{title}.{inner}"] = definition
        definitions[title] = own
        cases.append({
            "if": {"properties": {key: {"const": name}}},
            "then": {"properties": {"params": {"$ref": _REF + title}}, **_demand(own)},
        })
    definitions[node]["allOf"] = cases


def _demand(params: Mapping[str, Any]) -> Schema:
    return {"required": ["params"]} if params.get("required") else {}


def _moved(schema: Any, prefix: str) -> Any:  # noqa: ANN401 - any JSON
    """The schema, its references to definitions pointing at their new names."""
    if isinstance(schema, dict):
        entries = cast("Schema", schema).items()
        return {
            key: _REF + prefix + value.removeprefix(_REF)
            if key == "$ref" and isinstance(value, str)
            else _moved(value, prefix)
            for key, value in entries
        }
    if isinstance(schema, list):
        return [_moved(entry, prefix) for entry in cast("list[Any]", schema)]
    return schema
