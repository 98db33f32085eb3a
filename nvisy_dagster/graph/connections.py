"""`connections.json`: the systems a graph talks to, defined beside it."""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError

from nvisy_dagster.graph.errors import GraphError, GraphErrors, shown
from nvisy_dagster.graph.explain import describe, explain
from nvisy_dagster.graph.json_text import parse_json
from nvisy_dagster.graph.model import ID_PATTERN
from nvisy_dagster.graph.nvisy_format import is_published_connection, translate_connection
from nvisy_dagster.graph.places import Places, Step, Steps
from nvisy_dagster.graph.policies import ConnectionPolicies
from nvisy_dagster.graph.reading import read_bytes
from nvisy_dagster.graph.secret_references import (
    BadReferenceError,
    fill,
    is_secret,
    parse_reference,
    references,
    texts,
    url_passwords,
)
from nvisy_dagster.sdk.params import camel

FILE_NAME = "connections.json"
_NAME = re.compile(ID_PATTERN)


@dataclass(frozen=True)
class NamedConnection:
    """A connection as it is written; its values may be secrets, so they are not shown.

    Args:
        name: What nodes call it.
        type: Name of the connector or model provider it is for.
        fields: What that connector's connection model takes; secrets may be references.
        params: What a published connection says that our nodes say: model, collection.
        context: The resumption cursor of a published connection, as it came.
        policies: What holds for all who use it: `rate_limit`, `concurrency`.
    """

    name: str
    type: str
    fields: Mapping[str, Any] = field(repr=False)
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    context: Any = field(default=None, repr=False)
    policies: ConnectionPolicies = field(default_factory=ConnectionPolicies)


@dataclass(frozen=True)
class ResolvedConnection:
    """A connection whose references are replaced by what they stand for. Never write it anywhere.

    Args:
        name: What nodes call it.
        type: Name of the connector or model provider it is for.
        fields: Input of that connector's connection model.
        secrets: Values in `fields` that must not be shown.
    """

    name: str
    type: str
    fields: Mapping[str, Any] = field(repr=False)
    secrets: frozenset[str] = field(repr=False)


class Connections(Mapping[str, NamedConnection]):
    """Connections by name.

    Args:
        named: The connections.
        places: Where their author wrote what.
        file: Name of the file they came from.
    """

    def __init__(
        self,
        named: Iterable[NamedConnection] = (),
        *,
        places: Places | None = None,
        file: str | None = None,
    ) -> None:
        self._named = {one.name: one for one in named}
        self._places = places or Places()
        self.file = file

    def __getitem__(self, name: str) -> NamedConnection:
        return self._named[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._named)

    def __len__(self) -> int:
        return len(self._named)

    @property
    def places(self) -> Places:
        """Where their author wrote what."""
        return self._places

    def path(self, name: str, *steps: Step) -> str:
        """JSON path, in the document as it was written, of a field of a connection."""
        return self._places.path((name, *steps))


def find_connections(graph: Path, root: Path | None = None) -> Path | None:
    """The `connections.json` that holds for a graph file, if there is one.

    Args:
        graph: The graph file.
        root: Folder to stop at. Its own file and those of the folders between it and the graph
            count, the nearest first; without it, or when the graph is not below it, only the
            graph's own folder does.
    """
    # Unlike `Path.resolve`, it takes links that lead in a circle; reading will tell of them.
    folder = Path(os.path.realpath(graph)).parent
    top = root.resolve() if root is not None else folder
    folders = [folder, *folder.parents]
    last = folders.index(top) if top in folders else 0
    candidates = (one / FILE_NAME for one in folders[: last + 1])
    return next((path for path in candidates if path.is_file()), None)


def load_connections(path: Path) -> Connections:
    """Read a connections file, ours or a published Nvisy one.

    Raises:
        GraphErrors: Everything that is wrong with it; never a value out of it.
    """
    return parse_connections(read_bytes(path, what="connections"), file=path.name)


def parse_connections(data: bytes | str, *, file: str | None = None) -> Connections:
    """The connections that a JSON text defines.

    Raises:
        GraphErrors: Everything that is wrong with it; never a value out of it.
    """
    document = parse_json(data, what="connections", file=file)
    return build_connections(document, file=file)


def build_connections(document: Any, *, file: str | None = None) -> Connections:  # noqa: ANN401
    """The connections that a JSON value defines.

    Raises:
        GraphErrors: Everything that is wrong with it; never a value out of it.
    """
    if not isinstance(document, dict):
        message = f"connections should be an object, not {describe(document)}"
        remedy = 'write {"name": {"type": "qdrant", ...}}'
        raise GraphErrors([GraphError("$", message, remedy)], what="connections", file=file)
    written = cast("dict[str, Any]", document)
    moved: dict[Steps, Steps] = {}
    errors: list[GraphError] = []
    named: list[NamedConnection] = []
    for name, entry in written.items():
        if name == "$schema":
            continue
        one = _connection(name, entry, moved, errors)
        if one is not None:
            named.append(one)
    connections = Connections(named, places=Places(written, moved), file=file)
    errors.extend(_bad_references(connections))
    if errors:
        raise GraphErrors(errors, what="connections", file=file)
    return connections


def _connection(
    name: str,
    entry: Any,  # noqa: ANN401 - any JSON
    moved: dict[Steps, Steps],
    errors: list[GraphError],
) -> NamedConnection | None:
    path = Places().path((name,))
    if not _NAME.fullmatch(name) or len(name) > 128:  # noqa: PLR2004 - as the model's `Id`
        remedy = "use letters, digits, _, - and ., at most 128 of them"
        errors.append(GraphError(path, f"{shown(name)} cannot name a connection", remedy))
    if not isinstance(entry, dict):
        message = f"should be an object, not {describe(entry)}"
        errors.append(GraphError(path, message, 'write {"type": "qdrant", ...}'))
        return None
    fields = dict(cast("dict[str, Any]", entry))
    kind = fields.pop("type", None)
    if not isinstance(kind, str) or not kind:
        message = '"type" is missing' if kind is None else f'"type" is {describe(kind)}'
        errors.append(GraphError(path, message, 'name the connector, as in "type": "qdrant"'))
        return None
    policies = _policies(name, fields, errors)
    if not is_published_connection(fields):
        return NamedConnection(name, kind, fields, policies=policies)
    found = translate_connection(name, kind, fields)
    moved.update(found.moved)
    errors.extend(found.errors)
    return NamedConnection(name, found.type, found.fields, found.params, found.context, policies)


def _policies(name: str, fields: dict[str, Any], errors: list[GraphError]) -> ConnectionPolicies:
    """What is said beside the fields of the connector, which are left."""
    spellings = [key for one in ConnectionPolicies.model_fields for key in {one, camel(one)}]
    said = {key: fields.pop(key) for key in spellings if key in fields}
    try:
        return ConnectionPolicies.model_validate(said)
    except ValidationError as error:
        errors.extend(explain(error, ConnectionPolicies, Places(), (name,)))
        return ConnectionPolicies()


def _bad_references(connections: Connections) -> Iterator[GraphError]:
    for one in connections.values():
        for steps, text in texts(dict(one.fields)):
            for body in references(text):
                try:
                    parse_reference(body)
                except BadReferenceError as problem:
                    yield GraphError(connections.path(one.name, *steps), *problem.args)


def resolve_secrets(
    connections: Connections, environ: Mapping[str, str], names: Iterable[str] | None = None
) -> dict[str, ResolvedConnection]:
    """Connections with every reference replaced by what it stands for.

    Args:
        connections: As they were loaded.
        environ: Where `${env:NAME}` looks.
        names: Those that are used; all by default. Names that are not defined are left out.

    Raises:
        GraphErrors: Variables are missing or stores not available: all of them, each with its
            connection, its field and its name, never with a value.
    """
    resolved, errors = resolve_what_is_set(connections, environ, names)
    if errors:
        raise GraphErrors(errors, what="connections", file=connections.file)
    return resolved


def resolve_what_is_set(
    connections: Connections, environ: Mapping[str, str], names: Iterable[str] | None = None
) -> tuple[dict[str, ResolvedConnection], list[GraphError]]:
    """As `resolve_secrets`, but a reference to what is not there is left as it is.

    Returns:
        The connections, and what is not there, each with its place.
    """
    resolved: dict[str, ResolvedConnection] = {}
    errors: list[GraphError] = []
    for name in connections if names is None else dict.fromkeys(names):
        if name in connections:
            resolver = _Resolver(connections, name, environ)
            resolved[name] = resolver.resolve()
            errors.extend(resolver.errors)
    return resolved, errors


class _Resolver:
    def __init__(self, connections: Connections, name: str, environ: Mapping[str, str]) -> None:
        self._connections = connections
        self._connection = connections[name]
        self._environ = environ
        self._secrets: set[str] = set()
        self.errors: list[GraphError] = []

    def resolve(self) -> ResolvedConnection:
        one = self._connection
        fields = self._filled(dict(one.fields), ())
        return ResolvedConnection(one.name, one.type, fields, frozenset(self._secrets))

    def _filled(self, value: Any, steps: Steps) -> Any:  # noqa: ANN401 - any JSON
        if isinstance(value, dict):
            entries = cast("dict[str, Any]", value).items()
            return {key: self._filled(child, (*steps, key)) for key, child in entries}
        if isinstance(value, list):
            children = enumerate(cast("list[Any]", value))
            return [self._filled(child, (*steps, index)) for index, child in children]
        return self._text(value, steps) if isinstance(value, str) else value

    def _text(self, text: str, steps: Steps) -> str:
        try:
            filled = fill(text, self._environ, self._secrets)
        except BadReferenceError as problem:
            message, remedy = problem.args
            name = self._connection.name
            field_name = ".".join(map(str, steps))
            self.errors.append(
                GraphError(
                    self._connections.path(name, *steps),
                    f"connection {shown(name)}, field {shown(field_name)}: {message}",
                    remedy,
                )
            )
            return text
        if is_secret(steps):
            self._secrets.add(filled)
        self._secrets.update(url_passwords(filled))
        return filled
