"""Connections, resolved just before a run: the only moment at which secrets are in memory."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import ValidationError

from nvisy_dagster.compiler import Plan
from nvisy_dagster.graph.connections import Connections, NamedConnection, resolve_secrets
from nvisy_dagster.graph.errors import GraphError, GraphErrors
from nvisy_dagster.graph.explain import explain
from nvisy_dagster.graph.places import Places
from nvisy_dagster.graph.redaction import Redactor
from nvisy_dagster.sdk import Connection


@dataclass(frozen=True)
class OpenConnections:
    """The connections of a run, and what must never be shown of them."""

    by_name: Mapping[str, Connection] = field(repr=False)
    redactor: Redactor


def open_connections(
    plan: Plan, defined: Mapping[str, NamedConnection], environ: Mapping[str, str]
) -> OpenConnections:
    """The connections that the plan's nodes use, references replaced, validated.

    Args:
        plan: The compiled graph.
        defined: Connections as they are written.
        environ: Where `${env:NAME}` looks.

    Raises:
        GraphErrors: A variable is missing or a field is wrong; never with a value.
    """
    kinds = {
        node.connection: node.component.connection_type
        for node in plan.nodes.values()
        if node.connection is not None and node.component.connection_type is not None
    }
    given = defined if isinstance(defined, Connections) else Connections(defined.values())
    resolved = resolve_secrets(given, environ, kinds)
    built: dict[str, Connection] = {}
    errors = [
        GraphError(name, f"connection {name!r} is not defined")
        for name in kinds
        if name not in resolved
    ]
    for name, one in resolved.items():
        kind = kinds[name]
        try:
            built[name] = kind.model_validate(dict(one.fields), context={"folder": plan.folder})
        except ValidationError as error:
            errors.extend(explain(error, kind, Places(), (name,)))
    if errors:
        raise GraphErrors(errors, what="connections", file=given.file)
    secrets = {value for one in resolved.values() for value in one.secrets}
    return OpenConnections(built, Redactor(secrets))
