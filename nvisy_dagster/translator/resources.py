"""Connections of an existing Dagster deployment, given as a resource instead of a file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from nvisy_dagster.graph.connections import (
    NamedConnection,
    build_connections,
    load_connections,
)
from nvisy_dagster.graph.errors import GraphError, GraphErrors
from nvisy_dagster.graph.secret_references import is_secret, references, texts, url_passwords

ConnectionSource = Mapping[str, "NamedConnection | NvisyConnection"] | Path


class NvisyConnection(dg.ConfigurableResource[Any]):
    """Access to a system, as one entry of `connections.json`, for `build_definitions`.

    Secrets are given as `dg.EnvVar("NAME")` or `"${env:NAME}"`; Dagster's pages show that text,
    never a value, and the variable is read when a run begins. It is read where it is defined: run
    config cannot change it.
    """

    type: str = Field(description="Name of the connector or model provider it is for.")
    fields: dict[str, Any] = Field(
        default={}, description="What that connector's connection takes."
    )

    def __init__(self, **data: Any) -> None:  # noqa: ANN401 - Dagster's own signature
        # Dagster takes an `EnvVar` inside of a dict for a plain text: the variable's name.
        super().__init__(**{name: _as_references(value) for name, value in data.items()})


def named_connections(
    given: "ConnectionSource | None",
) -> tuple[dict[str, NamedConnection], dict[str, NvisyConnection]]:
    """The connections by name, and those of them that are Dagster resources.

    Args:
        given: A connections file, or connections by name.

    Raises:
        GraphErrors: The file is wrong, or a resource holds a secret as a literal.
    """
    if given is None:
        return {}, {}
    if isinstance(given, Path):
        return dict(load_connections(given)), {}
    resources = {name: one for name, one in given.items() if isinstance(one, NvisyConnection)}
    document = {name: {"type": one.type, **one.fields} for name, one in resources.items()}
    named = dict(build_connections(document)) | {
        name: one for name, one in given.items() if isinstance(one, NamedConnection)
    }
    errors = [
        GraphError(
            f"$.{name}.{'.'.join(map(str, steps))}",
            "a resource's values are shown in Dagster; this one is a secret",
            'use dg.EnvVar("NAME")',
        )
        for name, one in resources.items()
        for steps, text in texts(dict(one.fields))
        if (is_secret(steps) or url_passwords(text)) and not any(references(text))
    ]
    if errors:
        raise GraphErrors(errors, what="connections")
    return named, resources


def _as_references(value: Any) -> Any:  # noqa: ANN401 - JSON with EnvVars in it
    if isinstance(value, dg.EnvVar):
        return f"${{env:{value.env_var_name}}}"
    if isinstance(value, dict):
        return {key: _as_references(child) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_as_references(child) for child in value]
    return value
