"""The reference page of a connector or an action."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from nvisy_dagster.cli.component_description import (
    ComponentDescription,
    ConnectionDescription,
    FieldDescription,
)
from nvisy_dagster.sdk import ConfigError, Params


def component_page(
    described: Sequence[ComponentDescription], params_types: Sequence[type[Params]]
) -> str:
    """The page as Markdown.

    Args:
        described: The connector's source and sink, or the action alone.
        params_types: Their params, in the same order, to validate the examples.

    Raises:
        ConfigError: The example of a component is not valid.
    """
    first = described[0]
    lines = [f"# {first.name}", ""]
    if first.extra:
        lines += ["```sh", f"pip install 'nvisy-dagster[{first.extra}]'", "```", ""]
    for one, params_type in zip(described, params_types, strict=True):
        lines += _section(one, params_type)
    if first.connection:
        lines += _connection_section(first.connection, first.name)
    return "\n".join(lines).rstrip() + "\n"


def _section(one: ComponentDescription, params_type: type[Params]) -> Iterator[str]:
    yield f"## {one.kind.capitalize()}"
    yield ""
    yield one.summary
    yield ""
    if one.description:
        yield one.description
        yield ""
    if one.accepts:
        yield f"- Takes: {', '.join(f'`{primitive}`' for primitive in one.accepts)}"
    if one.guarantee:
        yield f"- Guarantee: **{one.guarantee}**, after a source that can be read again"
    yield from _promises(one)
    yield ""
    yield from _table("param", one.params)
    yield "```json"
    yield json.dumps(example_node(one, params_type), indent=2)
    yield "```"
    yield ""


def _promises(one: ComponentDescription) -> Iterator[str]:
    promises = one.capabilities
    if "replayable" in promises:
        again = "gives the same records" if promises["replayable"] else "may give other records"
        yield f"- Reading again from a position {again}"
    if "write_mode" in promises:
        yield f"- Writes by: `{promises['write_mode']}`"
    if promises.get("concurrency", 1) > 1:
        yield f"- Calls at once, unless a policy says otherwise: {promises['concurrency']}"
    if promises.get("expensive"):
        yield "- Its work is expensive: what it makes is kept, so that none of it is done twice"


def _connection_section(connection: ConnectionDescription, name: str) -> Iterator[str]:
    yield "## Connection"
    yield ""
    yield connection.summary
    yield ""
    need = "It needs one" if connection.required else "It may have one"
    yield (
        f'{need}, defined in `connections.json` with `"type": "{connection.type}"` and named by '
        f'`"connection"` on the node. A secret is written as a reference, such as '
        f"`${{env:{name.upper()}_SECRET}}`."
    )
    yield ""
    yield from _table("field", connection.fields)


def _table(heading: str, fields: Sequence[FieldDescription]) -> Iterator[str]:
    if not fields:
        yield f"It has no {heading}s."
        yield ""
        return
    yield f"| {heading} | type | default | meaning |"
    yield "|---|---|---|---|"
    for field in fields:
        cells = (
            f"`{field.name}`",
            field.type,
            _default(field),
            " ".join(field.description.split()),
        )
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
    yield ""


def _default(field: FieldDescription) -> str:
    if field.required:
        return "**required**"
    return "" if field.default is None else f"`{json.dumps(field.default, ensure_ascii=False)}`"


def example_node(one: ComponentDescription, params_type: type[Params]) -> dict[str, Any]:
    """A node of a graph: the params that must be given, and those with an example of their own.

    Raises:
        ConfigError: These params are refused.
    """
    fields = [field for field in one.params if not set(".[") & set(field.name)]
    params = {
        field.name: _example_value(field) for field in fields if field.required or field.examples
    }
    try:
        params_type.model_validate(params)
    except ValidationError as error:
        raise ConfigError(
            f"the example of {one.kind} {one.name!r} is not valid: {error}",
            remedy=f"give the fields of {params_type.__name__} `examples` that fit together",
        ) from error
    node: dict[str, Any] = {"id": f"my_{one.name}", "type": one.kind}
    if one.kind == "branch":
        return node | params
    node["action" if one.kind == "action" else "connector"] = one.name
    if one.connection and one.connection.required:
        node["connection"] = f"my_{one.connection.type}"
    return node | {"params": params}


def _example_value(field: FieldDescription) -> Any:  # noqa: ANN401 - any JSON
    if field.examples:
        return field.examples[0]
    return f"my_{field.name}" if field.type in {"string", "path"} else field.default
