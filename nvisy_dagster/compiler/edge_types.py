"""Which primitive and schema every edge carries, and whether its reader can take it."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from nvisy_dagster.compiler.inputs import Named, input_names
from nvisy_dagster.compiler.problems import Problems
from nvisy_dagster.compiler.resolve import Resolved
from nvisy_dagster.compiler.structure import Shape
from nvisy_dagster.sdk import (
    BaseAction,
    CombiningAction,
    Component,
    ConfigError,
    Connection,
    EdgeType,
    Router,
    Sink,
    Source,
)
from nvisy_dagster.sdk.errors import mistakes_in

Incoming = EdgeType | Mapping[str, EdgeType]
"""What reaches a node, by input if its inputs may differ."""


class EdgeTypes:
    """Types the edges of one graph, in topological order.

    Equal components with equal inputs are asked once, so that large generated graphs stay cheap.

    Args:
        nodes: The resolved nodes by id.
        shape: The graph's shape.
        named: What leads to the inputs of nodes whose inputs have names.
        problems: Where mistakes go.
    """

    def __init__(
        self, nodes: Mapping[str, Resolved], shape: Shape, named: Named, problems: Problems
    ) -> None:
        self._nodes = nodes
        self._shape = shape
        self._named = named
        self._problems = problems
        self._asked: dict[tuple[Any, ...], EdgeType | ConfigError | None] = {}
        self.outputs: dict[str, EdgeType] = {}

    def check(self) -> Mapping[str, EdgeType]:
        """The output type of every node whose inputs are sound, by node id."""
        for node_id in [*self._shape.order, *sorted(self._shape.cyclic)]:
            resolved = self._nodes.get(node_id)
            if resolved is not None:
                self._node(node_id, resolved)
        return self.outputs

    def _node(self, node_id: str, resolved: Resolved) -> None:
        if resolved.kind == "source":
            incoming = None
        else:
            incoming = self._incoming(node_id, resolved)
            if incoming is None or not all(
                self._accepted(resolved, one) for one in _each(incoming)
            ):
                self._check_alone(resolved)
                return
        made = self._ask(resolved, incoming)
        if isinstance(made, ConfigError):
            self._report(resolved, made)
            # Those after it are still checked: a branch changes no columns, whatever its routes
            # say; of an action what is left when the columns are not known.
            unknown = incoming and EdgeType(_each(incoming)[0].primitive)
            alone = resolved.kind == "branch" and isinstance(incoming, EdgeType)
            made = incoming if alone else self._ask(resolved, unknown)
        if isinstance(made, EdgeType):
            self.outputs[node_id] = made

    def _check_alone(self, resolved: Resolved) -> None:
        """Find mistakes in the params of a node of which nobody knows what reaches it."""
        accepts = getattr(resolved.component, "accepts", frozenset[str]())
        made = self._ask(resolved, EdgeType(min(accepts)))
        if isinstance(made, ConfigError):
            self._report(resolved, made)

    def _report(self, resolved: Resolved, error: ConfigError) -> None:
        for one in mistakes_in(error):
            # A branch says its params on the node itself; and what does not go together is of none.
            combines = issubclass(resolved.component, CombiningAction) and not one.place
            where = () if resolved.kind == "branch" or combines else ("params",)
            self._problems.add_refused(one, "nodes", resolved.index, *where)

    def _incoming(self, node_id: str, resolved: Resolved) -> Incoming | None:
        """What reaches the node; `None` when an input is unsound, which was reported there."""
        before = self._shape.predecessors[node_id]
        if not before or any(node not in self.outputs for node in before):
            return None
        if input_names(resolved.component):
            named = self._named.get(node_id)
            if named is None:
                return None
            return {name: self.outputs[node] for name, node in named.items()}
        first = self.outputs[before[0]]
        for node in before[1:]:
            other = self.outputs[node]
            if other.primitive != first.primitive:
                self._problems.add(
                    "nodes",
                    resolved.index,
                    message=f'"{before[0]}" brings {first.primitive} records and "{node}" '
                    f"{other.primitive} records",
                    remedy="edges that meet must carry the same primitive",
                )
                return None
        if issubclass(resolved.component, CombiningAction):
            return {node: self.outputs[node] for node in before}
        return self._alike(before, resolved)

    def _alike(self, before: Sequence[str], resolved: Resolved) -> EdgeType | None:
        """What all nodes bring that must bring the same."""
        first = self.outputs[before[0]]
        schemas = {node: self.outputs[node].schema for node in before}
        known = {name: schema for name, schema in schemas.items() if schema is not None}
        for name, schema in known.items():
            if first.schema is not None and not schema.equals(first.schema):
                self._problems.add(
                    "nodes",
                    resolved.index,
                    message=f'"{before[0]}" and "{name}" bring different columns: '
                    + _difference(before[0], first.schema, name, schema),
                    remedy='put a "union" before it, or make them equal with a "map"',
                )
                return None
        return first if len(known) == len(schemas) else EdgeType(first.primitive)

    def _accepted(self, resolved: Resolved, incoming: EdgeType) -> bool:
        accepts = getattr(resolved.component, "accepts", frozenset[str]())
        if incoming.primitive in accepts:
            return True
        self._problems.add(
            "nodes",
            resolved.index,
            message=f'"{resolved.component_name}" takes {_listed(accepts)} records, '
            f"not the {incoming.primitive} records that reach it",
            remedy=_REMEDIES.get((incoming.primitive, min(accepts, default=""))),
        )
        return False

    def _ask(self, resolved: Resolved, incoming: Incoming | None) -> EdgeType | ConfigError | None:
        key = (
            resolved.component,
            resolved.params.model_dump_json(),
            resolved.connection is None,
            *(incoming if isinstance(incoming, Mapping) else ()),
            *((one.primitive, one.schema) for one in _each(incoming)),
        )
        if key not in self._asked:
            component = resolved.component(
                resolved.params, _unresolved_connection(resolved), node_id=resolved.node.id
            )
            try:
                self._asked[key] = _output(component, incoming)
            except ConfigError as error:
                self._asked[key] = error
        return self._asked[key]


def _unresolved_connection(resolved: Resolved) -> Connection | None:
    """Tells a component that there will be a connection; its values are known when it runs."""
    kind = resolved.component.connection_type
    return kind.model_construct() if kind and resolved.connection is not None else None


def _each(incoming: Incoming | None) -> Sequence[EdgeType]:
    if isinstance(incoming, Mapping):
        return list(incoming.values())
    return [] if incoming is None else [incoming]


def _output(component: Component[Any], incoming: Incoming | None) -> EdgeType | None:
    if isinstance(component, Source):
        return component.output()
    assert incoming is not None  # noqa: S101 - only sources have no input
    if isinstance(incoming, Mapping):
        assert isinstance(component, CombiningAction)  # noqa: S101 - no other has several inputs
        return component.output_of(incoming)
    if isinstance(component, BaseAction):
        return component.output(incoming)
    if isinstance(component, Router):
        component.check(incoming)
        return incoming
    if isinstance(component, Sink):
        component.check(incoming)
    return None


def _difference(one: str, of_one: pa.Schema, other: str, of_other: pa.Schema) -> str:
    """Which columns of two schemas differ, and how."""
    parts = [
        f"only {node} has {_some(missing)}"
        for node, mine, theirs in ((f'"{one}"', of_one, of_other), (f'"{other}"', of_other, of_one))
        if (missing := [repr(name) for name in mine.names if name not in theirs.names])
    ]
    changed = [
        f"{field.name!r} is {_kind(field)} in one and {_kind(of_other.field(place))} in the other"
        for field in of_one
        if (place := of_other.get_field_index(field.name)) >= 0 and field != of_other.field(place)
    ]
    if changed:
        parts.append(_some(changed))
    return "; ".join(parts) or f"their order differs ({', '.join(of_other.names)[:200]})"


def _kind(field: pa.Field) -> str:
    return str(field.type)[:100] + ("" if field.nullable else " not null")


def _some(words: Sequence[str], few: int = 5) -> str:
    more = len(words) - few
    return ", ".join(words[:few]) + (f" and {more} more" if more > 0 else "")


def _listed(primitives: frozenset[str]) -> str:
    names = sorted(primitives)
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " or " + names[-1]


_REMEDIES = {
    ("document", "embedding"): 'put an "embed" between them',
    ("chunk", "embedding"): 'put an "embed" between them',
    ("row", "embedding"): 'put an "embed" between them',
}
