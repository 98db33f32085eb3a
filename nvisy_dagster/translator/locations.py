"""Where sources read and sinks write, as external assets, so that graphs meet on the lineage page.

A location is a URI; its asset's key has one part for the system and one for each step of the path:
`s3://bucket/raw/docs` -> `["s3:bucket", "raw", "docs"]`. The colon keeps it apart from the assets
of graphs, whose names have none.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote, urlsplit, urlunsplit

import dagster as dg
from pydantic import SecretStr, ValidationError

from nvisy_dagster.compiler import Node, Plan
from nvisy_dagster.graph.connections import NamedConnection
from nvisy_dagster.graph.redaction import MASK
from nvisy_dagster.graph.secret_references import is_secret, url_passwords
from nvisy_dagster.sdk import Connection, Sink, Source
from nvisy_dagster.translator.names import dagster_name

LOCATION_GROUP = "locations"
"""Of locations that are no URIs; the others are grouped by their scheme."""
LONGEST_KIND = 60


def find_locations(plan: Plan, connections: Mapping[str, NamedConnection]) -> dict[str, str]:
    """Source or sink -> URI of the data that it reads or writes, for those that have one.

    Pure: references such as `${env:NAME}` stay as they are, secrets are left out.
    """
    found: dict[str, str] = {}
    for node in plan.nodes.values():
        if node.kind in {"source", "sink"}:
            uri = _location(node, plan, connections.get(node.connection or ""))
            if uri:
                found[node.id] = uri
    return found


def _location(node: Node, plan: Plan, named: NamedConnection | None) -> str | None:
    kind = node.component.connection_type
    connection = _shown_connection(kind, named, plan.folder) if kind and named else None
    component = cast("Source[Any, Any] | Sink[Any]", node.build(connection, plan.folder))
    try:
        uri = component.location()
    except Exception:  # noqa: BLE001 - with a reference in place of a value it may well not know
        return None
    return _without_credentials(uri) if uri else None


def _shown_connection(
    kind: type[Connection], named: NamedConnection, folder: Path | None
) -> Connection:
    fields = {
        name: MASK if is_secret((name,)) or _is_secret_field(kind, name) else _masked(value)
        for name, value in named.fields.items()
    }
    try:
        return kind.model_validate(fields, context={"folder": folder})
    except ValidationError:
        # A reference stands where a number should: take the fields as they are written.
        return kind.model_construct(None, **fields)


def _is_secret_field(kind: type[Connection], name: str) -> bool:
    field = kind.model_fields.get(name)
    return field is not None and SecretStr.__name__ in str(field.annotation)


def _masked(value: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        for password in url_passwords(value):
            value = value.replace(password, MASK)
    return value


def _without_credentials(uri: str) -> str:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri
    if not parts.netloc:
        return uri
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def location_key(uri: str) -> dg.AssetKey:
    """The key of a location's asset; URIs that differ only in slashes have the same."""
    scheme, separator, rest = uri.partition("://")
    if not separator:
        return dg.AssetKey([f"location:{uri.strip('/')}"])
    # Cut by hand: the text may hold references, whose braces and colons are no URI.
    host, _, path = rest.partition("/")
    parts = [unquote(part) if scheme == "file" else part for part in path.split("/") if part]
    return dg.AssetKey([f"{scheme}:{host}", *parts])


class LocationAssets:
    """The external assets of a set of graphs.

    A sink leads to the location that it writes, the location to the sources that read it. A graph
    that writes where it (or one behind it) reads would close a circle, which Dagster refuses: that
    last step is left out of the lineage.

    Args:
        located: Each plan with the locations of its nodes, see `find_locations`.
    """

    def __init__(self, located: Iterable[tuple[Plan, Mapping[str, str]]]) -> None:
        self._uris: dict[dg.AssetKey, tuple[str, str]] = {}
        self._writers: defaultdict[dg.AssetKey, dict[dg.AssetKey, None]] = defaultdict(dict)
        self._leads_to: defaultdict[dg.AssetKey, set[dg.AssetKey]] = defaultdict(set)
        for plan, uris in sorted(located, key=lambda one: one[0].name):
            self._add(plan, uris)

    def specs(self, graphs: Iterable[str]) -> list[dg.AssetSpec]:
        """The assets that these graphs define: those of locations that no graph before them has."""
        names = set(graphs)
        return [self._spec(key, uri) for key, (uri, owner) in self._uris.items() if owner in names]

    def _add(self, plan: Plan, uris: Mapping[str, str]) -> None:
        for uri in uris.values():
            self._uris.setdefault(location_key(uri), (uri, plan.name))
        behind = _sinks_behind(plan)
        for source, sinks in behind.items():
            for sink in sinks:
                if source in uris and sink in uris:
                    self._link(location_key(uris[source]), location_key(uris[sink]))
        for sink in (node for node in uris if plan.nodes[node].kind == "sink"):
            located = [s for s, sinks in behind.items() if sink in sinks and s in uris]
            if all(self._linked(uris[source], uris[sink]) for source in located):
                self._writers[location_key(uris[sink])][dg.AssetKey([plan.name, sink])] = None

    def _link(self, read: dg.AssetKey, written: dg.AssetKey) -> None:
        if read != written and not self._reaches(written, read):
            self._leads_to[read].add(written)

    def _linked(self, read: str, written: str) -> bool:
        return location_key(written) in self._leads_to[location_key(read)]

    def _reaches(self, start: dg.AssetKey, end: dg.AssetKey) -> bool:
        seen, queue = {start}, [start]
        while queue:
            for after in self._leads_to[queue.pop()] - seen:
                if after == end:
                    return True
                seen.add(after)
                queue.append(after)
        return False

    def _spec(self, key: dg.AssetKey, uri: str) -> dg.AssetSpec:
        scheme = uri.partition("://")[0]
        return dg.AssetSpec(
            key,
            deps=list(self._writers[key]),
            description=f"Data at `{uri}`, outside of Dagster.",
            metadata={"uri": uri},
            group_name=dagster_name(scheme) if scheme != uri else LOCATION_GROUP,
            kinds={kind_name(scheme)} if scheme != uri else None,
        )


def kind_name(name: str) -> str:
    """A name as a kind, which Dagster shows as a label or an icon."""
    return "".join(c if c.isalnum() or c in "_.-" else "_" for c in name)[:LONGEST_KIND]


def _sinks_behind(plan: Plan) -> dict[str, Sequence[str]]:
    """Source -> the sinks that its records may reach."""
    found: dict[str, Sequence[str]] = {}
    for node in plan.nodes.values():
        if node.kind != "source":
            continue
        seen, queue = {node.id}, [node.id]
        while queue:
            for edge in plan.edges_from[queue.pop()]:
                if edge.target not in seen:
                    seen.add(edge.target)
                    queue.append(edge.target)
        found[node.id] = [one for one in seen if plan.nodes[one].kind == "sink"]
    return found
