"""A component, described from what it declares: for people, for programs, for the reference."""

import inspect
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

from pydantic import BaseModel

from nvisy_dagster.registry import Connector, missing_modules
from nvisy_dagster.sdk import (
    PRIMITIVES,
    BaseAction,
    Capabilities,
    Component,
    Connection,
    Router,
    Sink,
    Source,
)
from nvisy_dagster.sdk.capabilities import guarantee

Schema = Mapping[str, Any]


@dataclass(frozen=True)
class FieldDescription:
    """One param, or one field of a connection."""

    name: str
    """`a.b` and `a[].b` for fields inside of `a`."""
    type: str
    required: bool
    default: Any
    description: str
    examples: Sequence[Any] = ()


@dataclass(frozen=True)
class ConnectionDescription:
    """The connection of a component."""

    type: str
    required: bool
    summary: str
    fields: Sequence[FieldDescription]


@dataclass(frozen=True)
class ComponentDescription:
    """A source, an action, a branch or a sink."""

    name: str
    kind: str
    summary: str
    """First paragraph of its docstring."""
    description: str
    """The rest of it."""
    params: Sequence[FieldDescription]
    connection: ConnectionDescription | None
    accepts: Sequence[str]
    """Primitives that it takes; none for a source."""
    capabilities: Mapping[str, Any]
    guarantee: str | None
    """Of a sink: delivery guarantee behind a source that can be read again."""
    extra: str | None
    missing: Sequence[str]
    """Modules that it needs and that are not installed here."""

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        return asdict(self)


def describe_connector(connector: Connector) -> list[ComponentDescription]:
    """The connector's source and sink, those that it has."""
    components = (connector.source, connector.sink)
    return [describe_component(component) for component in components if component is not None]


def describe_component(component: type[Component[Any]]) -> ComponentDescription:
    """Describe one component."""
    summary, description = split_docstring(component)
    capabilities = component.capabilities
    promise = None
    if issubclass(component, Sink):
        promise = guarantee(Capabilities(), capabilities)
    return ComponentDescription(
        name=component.name,
        kind=_kind(component),
        summary=summary,
        description=description,
        params=describe_fields(component.params_type),
        connection=_describe_connection(component),
        accepts=_accepts(component),
        capabilities=_capabilities(component),
        guarantee=promise,
        extra=component.extra,
        missing=missing_modules(component),
    )


def split_docstring(documented: type) -> tuple[str, str]:
    """First paragraph of a docstring as one line, and the rest."""
    head, _, rest = (inspect.getdoc(documented) or "").partition("\n\n")
    return " ".join(head.split()), rest.strip()


def _kind(component: type[Component[Any]]) -> str:
    for kind, name in (
        (Source, "source"),
        (BaseAction, "action"),
        (Router, "branch"),
        (Sink, "sink"),
    ):
        if issubclass(component, kind):
            return name
    raise TypeError(f"{component} is no component")


def _accepts(component: type[Component[Any]]) -> list[str]:
    if not issubclass(component, BaseAction | Router | Sink):
        return []
    return [primitive for primitive in PRIMITIVES if primitive in component.accepts]


def _capabilities(component: type[Component[Any]]) -> dict[str, Any]:
    """The capabilities that mean something for this kind of component."""
    capabilities = component.capabilities
    if issubclass(component, Source):
        return {"replayable": capabilities.replayable}
    common = {"concurrency": capabilities.concurrency, "max_rows": capabilities.max_rows}
    if issubclass(component, Sink):
        return {"write_mode": capabilities.write_mode, **common}
    return {**common, "row_wise": capabilities.row_wise, "expensive": capabilities.expensive}


def _describe_connection(component: type[Component[Any]]) -> ConnectionDescription | None:
    kind: type[Connection] | None = component.connection_type
    if kind is None:
        return None
    return ConnectionDescription(
        type=kind.type,
        required=component.connection_required,
        summary=" ".join(split_docstring(kind)).strip(),
        fields=describe_fields(kind),
    )


def describe_fields(model: type[BaseModel]) -> list[FieldDescription]:
    """The fields of a model and, after each, those inside of it."""
    schema = model.model_json_schema(by_alias=False)
    definitions: Schema = schema.get("$defs", {})
    return list(_fields(schema, definitions, "", frozenset()))


def _fields(
    schema: Schema, definitions: Schema, prefix: str, seen: frozenset[str]
) -> Iterator[FieldDescription]:
    required = schema.get("required", [])
    properties = cast("Schema", schema.get("properties", {}))
    # What must be given comes first; the rest as its author ordered it.
    for name in sorted(properties, key=lambda name: name not in required):
        field = properties[name]
        yield FieldDescription(
            name=prefix + name,
            type=_declared_type(field),
            required=name in required,
            default=field.get("default"),
            description=field.get("description", ""),
            examples=field.get("examples", ()),
        )
        for reference, mark in _references(field):
            if reference not in seen:
                inner = definitions[reference]
                below = f"{prefix}{name}{mark}."
                yield from _fields(inner, definitions, below, seen | {reference})


def _references(field: Schema, mark: str = "") -> Iterator[tuple[str, str]]:
    """Names of the models in a field's type, each with `[]` for every list around it."""
    if "$ref" in field:
        yield field["$ref"].rpartition("/")[2], mark
    for word in ("anyOf", "oneOf", "allOf"):
        for choice in field.get(word, ()):
            yield from _references(choice, mark)
    if isinstance(field.get("items"), Mapping):
        yield from _references(field["items"], f"{mark}[]")


def _declared_type(field: Schema) -> str:
    """The type; that a field which defaults to nothing may be null goes without saying."""
    choices = field.get("anyOf")
    if choices and field.get("default", choices) is None:
        return type_text({"anyOf": [one for one in choices if one.get("type") != "null"]})
    return type_text(field)


def type_text(field: Schema) -> str:
    """A JSON Schema type in a few words."""
    for word in ("anyOf", "oneOf", "allOf"):
        if word in field:
            texts = (type_text(choice) for choice in field[word])
            return " or ".join(dict.fromkeys(texts))
    values = field.get("enum", [field["const"]] if "const" in field else [])
    if values:
        return " or ".join(json.dumps(value) for value in values)
    return "object" if "$ref" in field else _plain_type_text(field)


def _plain_type_text(field: Schema) -> str:
    kind = field.get("type", "any")
    match kind:
        case "array":
            text = f"list of {type_text(field.get('items', {}))}"
        case "object":
            text = _mapping_text(field)
        case "string":
            text = {"password": "secret", "path": "path"}.get(field.get("format", ""), "string")
        case _:
            text = f"{kind}{_limits(field)}"
    return text


def _mapping_text(field: Schema) -> str:
    patterns = list(cast("Schema", field.get("patternProperties", {})).values())
    further = field.get("additionalProperties")
    value = patterns[0] if patterns else further
    return f"object of {type_text(value)}" if isinstance(value, Mapping) else "object"


def _limits(field: Schema) -> str:
    words = (
        ("minimum", "at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "at most"),
        ("exclusiveMaximum", "below"),
    )
    limits = [f"{word} {field[key]:,}" for key, word in words if key in field]
    return f" ({', '.join(limits)})" if limits else ""
