"""What can be said of the fields of connections where some secrets may not be set."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from nvisy_dagster.graph.connections import Connections, ResolvedConnection, resolve_what_is_set
from nvisy_dagster.graph.errors import GraphError
from nvisy_dagster.graph.explain import explain
from nvisy_dagster.graph.redaction import Redactor
from nvisy_dagster.graph.salvage import without_echoes
from nvisy_dagster.registry import Registry, installed
from nvisy_dagster.sdk import Connection


@dataclass(frozen=True)
class FieldCheck:
    """What was found.

    Args:
        wrong: Mistakes in the file.
        unset: References to what is not there now; the machine that runs the graph may have it.
    """

    wrong: list[GraphError]
    unset: list[GraphError]


def check_fields(
    connections: Connections,
    names: Iterable[str],
    environ: Mapping[str, str],
    *,
    folder: Path | None = None,
    registry: Registry | None = None,
) -> FieldCheck:
    """Check the fields of some connections; those that cannot be known now are left out.

    Args:
        connections: What is defined.
        names: Those that are used.
        environ: Where `${env:NAME}` looks.
        folder: Folder that relative paths are resolved against.
        registry: What is installed.
    """
    resolved, unset = resolve_what_is_set(connections, environ, sorted(set(names)))
    kinds = (registry or installed()).connection_types() if resolved else {}
    wrong: list[GraphError] = []
    for one in resolved.values():
        kind = kinds.get(one.type)
        if kind is not None:
            wrong += _wrong(one, kind, connections, unset, folder)
    return FieldCheck(wrong, unset)


def _wrong(
    one: ResolvedConnection,
    kind: type[Connection],
    connections: Connections,
    unset: list[GraphError],
    folder: Path | None,
) -> list[GraphError]:
    try:
        kind.model_validate(dict(one.fields), context={"folder": folder})
    except ValidationError as error:
        whole = not any(found["loc"] for found in error.errors(include_url=False))
        own = connections.path(one.name)
        if whole and any(known.path.startswith((own + ".", own + "[")) for known in unset):
            # About fields together, one of which is not known.
            return []
        scrub = Redactor(one.secrets).scrub
        return [
            GraphError(found.path, scrub(found.message), found.remedy)
            for found in without_echoes(
                explain(error, kind, connections.places, (one.name,)), unset
            )
        ]
    return []
