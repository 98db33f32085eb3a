"""Published Nvisy graphs and connections, rewritten into ours. Nothing else knows that format.

A graph may mix both. What is not understood is left as it is, for the model to complain about;
every place that moves is remembered, so that errors point into the author's document.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from nvisy_dagster.graph import nvisy_tables as tables
from nvisy_dagster.graph.errors import GraphError, shown, suggest
from nvisy_dagster.graph.explain import describe
from nvisy_dagster.graph.nvisy_edges import Links, links_of
from nvisy_dagster.graph.nvisy_params import ANYTHING, SHAPED_KEYS, shaped, where
from nvisy_dagster.graph.places import Steps, json_path

Object = dict[str, Any]


def snake(name: str) -> str:
    """`maxRetries` -> `max_retries`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"_\1", name).lower()


@dataclass
class Translation:
    """A document in our words.

    Args:
        document: The graph.
        moved: Places of it that stand elsewhere in the author's document.
        errors: What could not be said in our words.
    """

    document: Object
    moved: dict[Steps, Steps] = field(default_factory=dict[Steps, Steps])
    errors: list[GraphError] = field(default_factory=list[GraphError])


@dataclass
class TranslatedConnection:
    """A connection in our words; fields as in `connections.NamedConnection`."""

    type: str
    fields: Object = field(default_factory=dict[str, Any])
    params: Object = field(default_factory=dict[str, Any])
    context: Any = None
    moved: dict[Steps, Steps] = field(default_factory=dict[Steps, Steps])
    errors: list[GraphError] = field(default_factory=list[GraphError])


def is_published(document: Mapping[str, Any]) -> bool:
    """Whether any part of a graph is in the published format."""
    nodes = document.get("nodes")
    listed = cast("list[Any]", nodes) if isinstance(nodes, list) else []
    return (
        "id" in document
        or any(_has_durations(document.get(policy), policy) for policy in tables.POLICY_KEYS)
        or any(is_published_node(node) for node in listed)
    )


def is_published_node(node: Any) -> bool:  # noqa: ANN401 - any JSON
    """Whether a node is in the published format."""
    if not isinstance(node, dict):
        return False
    said = cast("Object", node)
    kind, action, provider = said.get("type"), said.get("action"), said.get("provider")
    return (
        kind == "target"
        or (isinstance(kind, str) and kind in tables.FAN_TYPES)
        or "stream" in said
        or isinstance(provider, str)
        or (isinstance(action, str) and "/" in action)
        or bool(_DEPENDENCIES & said.keys())
        or (kind == "branch" and _published_branch(said))
        or any(_has_durations(said.get(policy), policy) for policy in tables.POLICY_KEYS)
    )


_DEPENDENCIES = frozenset({"dependencies", "dependsOn", "depends_on"})


def _published_branch(node: Object) -> bool:
    routes = node.get("routes")
    listed = cast("list[Any]", routes) if isinstance(routes, list) else []
    return "defaultRoute" in node or any(isinstance(r, dict) and "predicate" in r for r in listed)


def _has_durations(policy: Any, name: str) -> bool:  # noqa: ANN401 - any JSON
    keys = tables.POLICY_KEYS[name]
    return isinstance(policy, dict) and any(snake(key) in keys for key in cast("Object", policy))


def translate_graph(document: Object, connections: Mapping[str, Mapping[str, Any]]) -> Translation:
    """A published graph in our words.

    Args:
        document: The author's document; stays as it is.
        connections: By connection, the params that published connections give to nodes.
    """
    made = Translation(dict(document))
    _graph_itself(made)
    written = document.get("nodes")
    if not isinstance(written, list):
        return made
    nodes = cast("list[Any]", written)
    links = links_of(document, nodes, made.errors)
    kept: list[Any] = []
    for index, node in enumerate(nodes):
        if index in links.dissolved:
            continue
        new = _Node(node, ("nodes", index), links, connections).translate()
        place = ("nodes", len(kept))
        if new.moved or len(kept) != index:
            made.moved[place] = ("nodes", index)
        made.moved.update({(*place, *ours): theirs for ours, theirs in new.moved.items()})
        made.errors.extend(new.errors)
        kept.append(new.document)
    made.document["nodes"] = kept
    if links.edges is not None:
        made.document["edges"] = [edge for edge, _ in links.edges]
        made.moved.update({("edges", i): place for i, (_, place) in enumerate(links.edges)})
    return made


def _graph_itself(made: Translation) -> None:
    graph = made.document
    metadata = graph.get("metadata", {})
    free: Object = dict(cast("Object", metadata)) if isinstance(metadata, dict) else {}
    if "id" in graph:
        free.setdefault("nvisy_id", graph.pop("id"))
    name = graph.get("name")
    if isinstance(name, str) and (slug := _slug(name)) != name:
        graph["name"] = slug
        free.setdefault("nvisy_name", name)
    if free and isinstance(metadata, dict):
        graph["metadata"] = free
    for policy in tables.POLICY_KEYS:
        _policy(graph, policy, (), made.moved)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_]+", "_", name).strip("_")[:128].lower() or "graph"


def _policy(holder: Object, name: str, base: Steps, moved: dict[Steps, Steps]) -> None:
    """Milliseconds as seconds; `base` is where the holder stands in the author's document."""
    policy = holder.get(name)
    if not _has_durations(policy, name):
        return
    keys, new = tables.POLICY_KEYS[name], Object()
    for key, value in cast("Object", policy).items():
        ours = keys.get(snake(key))
        new[ours or key] = _seconds(value) if ours else value
        if ours:
            moved[name, ours] = (*base, name, key)
    holder[name] = new


def _seconds(milliseconds: Any) -> Any:  # noqa: ANN401 - any JSON
    if isinstance(milliseconds, bool) or not isinstance(milliseconds, int | float):
        return milliseconds
    # No pause at all is said as the shortest one.
    return 0.001 if milliseconds == 0 else milliseconds / 1000


class _Node:
    """One node being rewritten. `moved` maps places in the new node to the author's document."""

    def __init__(
        self,
        node: Any,  # noqa: ANN401 - any JSON
        place: Steps,
        links: Links,
        connections: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.document = node
        self.moved: dict[Steps, Steps] = {}
        self.errors: list[GraphError] = []
        self._place = place
        self._links = links
        self._connections = connections

    def translate(self) -> "_Node":
        if not is_published_node(self.document):
            return self
        node = self.document = dict(cast("Object", self.document))
        for key in _DEPENDENCIES:
            node.pop(key, None)
        self._policies(node)
        kind = node.get("type")
        if kind in ("source", "target", "sink"):
            self._endpoint(node)
        elif kind == "action":
            self._action(node)
        elif kind == "branch":
            self._branch(node)
        return self

    def _policies(self, node: Object) -> None:
        for policy in tables.POLICY_KEYS:
            _policy(node, policy, self._place, self.moved)
        for policy, key in (("timeout", "graph_seconds"), ("concurrency", "max_global")):
            said = node.get(policy)
            if isinstance(said, dict):
                # There a node's policy has the graph's keys too, without effect.
                own = cast("Object", said)
                node[policy] = {k: v for k, v in own.items() if snake(k) != key}

    def _endpoint(self, node: Object) -> None:
        if "provider" not in node and "stream" not in node:
            node["type"] = "source" if node["type"] == "source" else "sink"
            return
        kind = node["type"] = "source" if node["type"] == "source" else "sink"
        provider = self._known(node, "provider", tables.PROVIDER_CONNECTORS)
        stream = self._known(node, "stream", tables.STREAMS)
        self._rename(node, "provider", "connector", tables.PROVIDER_CONNECTORS.get(provider or ""))
        node.pop("stream", None)
        if stream is None:
            self._params_unknown("stream")
            return
        if tables.STREAMS[stream] != kind:
            fitting = [name for name, fits in tables.STREAMS.items() if fits == kind]
            self._report(("stream",), f'"{stream}" is no stream of a {kind}', suggest("", fitting))
            self._params_unknown("stream")
            return
        if provider is not None and provider.partition("/")[0] != stream.partition("/")[0]:
            message = f'"{provider}" has no stream "{stream}"'
            self._report(("stream",), message, "use a stream of its own module")
            self._params_unknown("stream")
            return
        params = self._params(node, tables.STREAM_PARAMS[stream], stream)
        if params is not None and stream.startswith("object/"):
            params["format"] = self._format(stream)
            self.moved["params", "format"] = (*self._place, "stream")
            before = self._links.place_before(self._place[1])
            if stream == "object/write" and params["format"] == "binary" and before:
                # It writes what is read there: one mistake, told where it begins.
                self.moved["params", "format"] = (*before, "stream")

    def _params_unknown(self, key: str) -> None:
        """Nobody can tell which params are right: what is said about them is about this key."""
        self.moved["params",] = (*self._place, key)

    def _format(self, stream: str) -> str:
        if stream == "object/read":
            following = self._links.after(self._place[1])
            text = any(name in tables.TAKES_DOCUMENTS for name in following)
            return "text" if text else "binary"
        preceding = self._links.before(self._place[1])
        return "binary" if preceding and set(preceding) == {"object/read"} else "jsonl"

    def _action(self, node: Object) -> None:
        name = node.get("action")
        if not isinstance(name, str) or "/" not in name:
            return
        action = self._known(node, "action", tables.ACTIONS)
        provider = self._known(node, "provider", tables.MODEL_PROVIDERS)
        if "provider" in node:
            del node["provider"]
        if action is None:
            return
        node["action"] = tables.ACTIONS[action]
        params = self._params(node, tables.ACTION_PARAMS[action], action)
        if params is not None and provider is not None:
            params["provider"] = tables.MODEL_PROVIDERS[provider]
            self.moved["params", "provider"] = (*self._place, "provider")

    def _known(self, node: Object, key: str, names: Mapping[str, Any]) -> str | None:
        """The published name, if it is one; reported if it is not."""
        name = node.get(key)
        if isinstance(name, str) and name in names:
            return name
        if isinstance(name, str):
            self._report((key,), f"unknown {key} {shown(name)}", suggest(name, names))
        elif key in node:
            self._report((key,), f"should be a string, not {describe(name)}", None)
        elif node["type"] != "action":
            self._report((), f'"{key}" is missing', f'add it, as in "{next(iter(names))}"')
        return None

    def _rename(self, node: Object, key: str, ours: str, value: Any) -> None:  # noqa: ANN401
        said = node.pop(key, None)
        # A wrong name is reported already; any word will do for the model.
        node.setdefault(
            ours, value or (said if isinstance(said, str) and said else "unknown")[:100]
        )
        self.moved[ours,] = (*self._place, key)

    def _params(
        self, node: Object, names: Mapping[str, str | None], published: str
    ) -> Object | None:
        """The node's params in our words; `None` when they are no object."""
        said = node.get("params", {})
        if not isinstance(said, dict):
            return None
        own = cast("Object", said)
        place = (*self._place, "params")
        new = node["params"] = Object()
        known = set(names) | SHAPED_KEYS.get(published, frozenset())
        for key, value in own.items():
            if snake(key) not in known:
                remedy = suggest(snake(key), known)
                self._report(("params", key), f'"{published}" has no param {shown(key)}', remedy)
            elif ours := names.get(snake(key)):
                new[ours] = value
                self.moved["params", ours] = (*place, key)
        for ours, value, origin in shaped(published, own, place, self.errors.append):
            new[ours] = value
            self.moved["params", ours] = (*place, origin)
        connection = node.get("connection")
        if isinstance(connection, str):
            new.update({
                k: v for k, v in self._connections.get(connection, {}).items() if k not in new
            })
        return new

    def _branch(self, node: Object) -> None:
        if "defaultRoute" in node:
            node["default"] = node.pop("defaultRoute")
            self.moved["default",] = (*self._place, "defaultRoute")
        routes = node.get("routes")
        if not isinstance(routes, list):
            return
        new = node["routes"] = list(cast("list[Any]", routes))
        for index, route in enumerate(new):
            if isinstance(route, dict) and "predicate" in route:
                said = dict(cast("Object", route))
                predicate = said.pop("predicate")
                place = (*self._place, "routes", index, "predicate")
                said["when"] = self._predicate(predicate, place)
                self.moved["routes", index, "when"] = place
                new[index] = said

    def _predicate(self, predicate: Any, place: Steps) -> Any:  # noqa: ANN401 - any JSON
        """An expression stays one; conditions, or one condition, become one."""
        if not isinstance(predicate, dict):
            return predicate
        said = cast("Object", predicate)
        if "conditions" not in said:
            said = {"conditions": [said]}
        return where(said, place, self.errors.append) or ANYTHING

    def _report(self, steps: Steps, message: str, remedy: str | None) -> None:
        self.errors.append(GraphError(json_path((*self._place, *steps)), message, remedy))


def is_published_connection(fields: Mapping[str, Any]) -> bool:
    """Whether a connection is in the published format."""
    return "credentials" in fields


def translate_connection(name: str, kind: str, fields: Mapping[str, Any]) -> TranslatedConnection:
    """A published connection in our words.

    Args:
        name: What nodes call it.
        kind: Its `type`, a provider's name, with or without its module.
        fields: The rest of it.
    """
    known = tables.CREDENTIALS.get(kind.rpartition("/")[2])
    made = TranslatedConnection(known.type if known else kind, context=fields.get("context"))

    def report(steps: Sequence[str], message: str, remedy: str | None) -> None:
        made.errors.append(GraphError(json_path((name, *steps)), message, remedy))

    for key in fields:
        if key not in {"credentials", "context"}:
            report((key,), f"unknown key {shown(key)}", "move it into credentials")
    if known is None:
        remedy = suggest(kind.rpartition("/")[2], tables.CREDENTIALS)
        report(("type",), f"unknown connection type {shown(kind)}", remedy)
        return made
    credentials = fields["credentials"]
    if not isinstance(credentials, dict):
        report(("credentials",), f"should be an object, not {describe(credentials)}", None)
        return made
    made.params.update(known.fixed)
    for key, value in cast("Object", credentials).items():
        word = snake(key)
        if word in known.fields:
            made.fields[known.fields[word]] = value
            made.moved[name, known.fields[word]] = (name, "credentials", key)
        elif word in known.params:
            made.params[known.params[word]] = value
        else:
            remedy = suggest(word, {*known.fields, *known.params})
            report(("credentials", key), f"{kind} has no credential {shown(key)}", remedy)
    return made
