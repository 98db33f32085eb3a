"""From a graph to its plan, or to everything that is wrong with it."""

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from croniter import CroniterBadDateError, croniter

from nvisy_dagster.compiler.bad_records import check_bad_records
from nvisy_dagster.compiler.blocking import check_blocking
from nvisy_dagster.compiler.destinations import check_destinations
from nvisy_dagster.compiler.edge_types import EdgeTypes
from nvisy_dagster.compiler.incremental import check_incremental
from nvisy_dagster.compiler.inputs import check_inputs
from nvisy_dagster.compiler.limits import check_rate_limits, stage_pools
from nvisy_dagster.compiler.plan import Node, Plan
from nvisy_dagster.compiler.problems import Problems
from nvisy_dagster.compiler.push_down import with_hints
from nvisy_dagster.compiler.resolve import Resolved, Resolver
from nvisy_dagster.compiler.stages import plan_edges, plan_stages
from nvisy_dagster.compiler.structure import Shape, check_structure
from nvisy_dagster.graph.connections import (
    Connections,
    NamedConnection,
    find_connections,
    load_connections,
)
from nvisy_dagster.graph.errors import GraphError, GraphErrors, shown
from nvisy_dagster.graph.load import (
    UnsoundGraphErrors,
    build_graph,
    contradictions,
    load_graph,
)
from nvisy_dagster.graph.model import BranchNode, Graph, SourceNode
from nvisy_dagster.graph.policies import ConnectionPolicies, Policies
from nvisy_dagster.graph.salvage import without_echoes
from nvisy_dagster.graph.secret_references import STORES, references, texts
from nvisy_dagster.registry import Registry, installed
from nvisy_dagster.sdk import Component, EdgeType, Params

CRON_FIELDS = 5


def compile_graph(
    graph: Graph,
    *,
    connections: Mapping[str, NamedConnection] | None = None,
    registry: Registry | None = None,
    folder: Path | None = None,
    file: str | None = None,
) -> Plan:
    """Compile a graph; pure.

    Args:
        graph: The document.
        connections: The connections that are defined; `None` when that is not known yet.
        registry: What is installed; by default what this process finds.
        folder: Folder that relative paths in params are resolved against.
        file: Name of the graph's file, for messages.

    Raises:
        GraphErrors: Every mistake, each with its JSON path.
    """
    problems = Problems(graph)
    shape = check_structure(graph, problems)
    resolver = Resolver(graph, registry or installed(), connections, problems)
    resolved = resolver.resolve()
    _prepare(resolved.values())
    named = check_inputs(resolved, shape, problems)
    types = EdgeTypes(resolved, shape, named, problems).check()
    check_destinations(resolved.values(), connections, folder, problems)
    _check_references(graph, problems)
    check_incremental(graph, resolved, shape, problems)
    check_blocking(graph, resolved, shape, problems)
    _check_policies(graph, problems)
    _check_error_limits(graph, problems)
    check_rate_limits(graph, list(resolved.values()), problems)
    check_bad_records(graph, resolved.values(), problems)
    _check_schedule(graph, problems)
    _raise(problems, file)
    plan = with_hints(_plan(graph, resolved, shape, types, folder))
    pools = stage_pools(graph, resolved, connections, plan.stages, problems)
    _raise(problems, file)
    return replace(plan, pools=pools, connections=_policies_of(plan, connections or {}))


def _raise(problems: Problems, file: str | None) -> None:
    if problems.errors:
        # One cause may be found at several nodes.
        raise GraphErrors(list(dict.fromkeys(problems.errors)), file=file)


def _policies_of(
    plan: Plan, connections: Mapping[str, NamedConnection]
) -> dict[str, ConnectionPolicies]:
    used = {node.connection for node in plan.nodes.values()}
    nothing = ConnectionPolicies()
    return {
        name: one.policies
        for name, one in connections.items()
        if name in used and one.policies != nothing
    }


def compile_file(
    path: Path,
    *,
    connections: Mapping[str, NamedConnection] | None = None,
    beside: Connections | None = None,
    registry: Registry | None = None,
) -> Plan:
    """Compile a graph file with the `connections.json` beside it.

    Args:
        path: The graph file.
        connections: Definitions that go before those of the file.
        beside: Definitions to use instead of the file beside the graph.
        registry: What is installed.

    Raises:
        GraphErrors: Every mistake in the graph, or in its connections.
    """
    defined = connections_beside(path) if beside is None else beside
    return _compile(
        lambda: load_graph(path, connections=defined),
        {**defined, **(connections or {})},
        registry,
        Path(os.path.realpath(path)).parent,
        path.name,
    )


def compile_document(
    document: Any,  # noqa: ANN401 - any JSON
    *,
    connections: Connections | None = None,
    registry: Registry | None = None,
    name: str | None = None,
    folder: Path | None = None,
) -> Plan:
    """Compile a graph that is a JSON value already.

    Args:
        document: The graph as a person would write it.
        connections: The connections that are defined; `None` when that is not known yet.
        registry: What is installed.
        name: Name of a graph that does not say its own.
        folder: Folder that relative paths in params are resolved against.

    Raises:
        GraphErrors: Every mistake in the graph.
    """
    return _compile(
        lambda: build_graph(document, name=name, connections=connections),
        connections,
        registry,
        folder,
        None,
    )


def _compile(
    load: Callable[[], Graph],
    connections: Mapping[str, NamedConnection] | None,
    registry: Registry | None,
    folder: Path | None,
    file: str | None,
) -> Plan:
    unfit: list[GraphError] = []
    try:
        graph = load()
    except UnsoundGraphErrors as errors:
        if errors.rest is None:
            raise
        # What fits the model is still looked at, so that all mistakes are told at once.
        graph, unfit = errors.rest, list(errors.errors)
    try:
        plan = compile_graph(
            graph, connections=connections, registry=registry, folder=folder, file=file
        )
    except GraphErrors as errors:
        if not unfit:
            raise
        raise GraphErrors([*unfit, *without_echoes(errors.errors, unfit)], file=file) from None
    if unfit:
        raise GraphErrors(unfit, file=file)
    return plan


def connections_beside(path: Path) -> Connections:
    """The connections that are defined beside a graph file; none if there is no such file.

    Raises:
        GraphErrors: The file is wrong.
    """
    found = find_connections(path)
    return Connections() if found is None else load_connections(found)


def _prepare(nodes: Iterable[Resolved]) -> None:
    params: defaultdict[type[Component[Any]], list[Params]] = defaultdict(list)
    for node in nodes:
        params[node.component].append(node.params)
    for component, some in params.items():
        component.prepare(some)


def _check_references(graph: Graph, problems: Problems) -> None:
    """References in params stay as they are: they would become names of folders and tables."""
    for index, node in enumerate(graph.nodes):
        if isinstance(node, BranchNode):
            continue
        for steps, text in texts(node.params):
            for body in references(text) if "${" in text else ():
                if body.partition(":")[0] in STORES:
                    problems.add(
                        "nodes",
                        index,
                        "params",
                        *steps,
                        message=f"{shown('${' + body + '}')} is not replaced in params",
                        remedy="references belong in connections.json; write the value itself here",
                    )


def _check_policies(graph: Graph, problems: Problems) -> None:
    problems.errors.extend(contradictions(graph).values())
    for index, node in enumerate(graph.nodes):
        if node.type == "sink" and node.materialize:
            message = "a sink has no output to materialize"
            problems.add("nodes", index, "materialize", message=message, remedy="remove it")


def _check_error_limits(graph: Graph, problems: Problems) -> None:
    remedy = 'set "on_error" to "dead_letter" or "drop", or remove the limit'
    for index, node in enumerate(graph.nodes):
        if node.error_limit is not None and graph.policies(node).on_error == "fail":
            message = 'with "on_error" "fail" the first record that fails ends the run already'
            problems.add("nodes", index, "error_limit", message=message, remedy=remedy)
    if graph.error_limit is not None and graph.on_error == "fail":
        own = any(node.on_error not in {None, "fail"} for node in graph.nodes)
        if not own:
            message = 'no node has another "on_error" than "fail", which ends the run already'
            problems.add("error_limit", message=message, remedy=remedy)


def _check_schedule(graph: Graph, problems: Problems) -> None:
    if graph.schedule is None:
        return
    cron = graph.schedule.cron
    shortcut = cron.startswith("@")
    if (not shortcut and len(cron.split()) != CRON_FIELDS) or not croniter.is_valid(cron):
        problems.add(
            "schedule",
            "cron",
            message=f'"{cron}" is not a cron expression',
            remedy="five fields: minute hour day month weekday, such as 0 3 * * *",
        )
        return
    try:
        croniter(cron).get_next()
    except CroniterBadDateError:
        message = f'"{cron}" never fires: no such day ever comes'
        remedy = "choose a day that the month has"
        problems.add("schedule", "cron", message=message, remedy=remedy)


def _plan(
    graph: Graph,
    resolved: Mapping[str, Resolved],
    shape: Shape,
    types: Mapping[str, EdgeType],
    folder: Path | None,
) -> Plan:
    nodes = {node.id: node for node in _nodes(graph, resolved, types)}
    edges = plan_edges(graph, nodes, shape.order)
    return Plan(
        name=graph.name,
        nodes=nodes,
        edges=edges,
        stages=plan_stages(nodes, edges, shape.order),
        checkpoint=graph.checkpoint,
        defaults=Policies.model_construct(
            retry=graph.retry,
            timeout=graph.timeout,
            concurrency=graph.concurrency,
            rate_limit=graph.rate_limit,
            on_error=graph.on_error,
            error_limit=graph.error_limit,
        ),
        folder=folder,
        description=graph.description,
        schedule=graph.schedule,
        execution=graph.execution,
        owners=graph.owners,
        tags=graph.tags,
    )


def _nodes(
    graph: Graph, resolved: Mapping[str, Resolved], types: Mapping[str, EdgeType]
) -> Iterable[Node]:
    for node in graph.nodes:
        found = resolved[node.id]
        yield Node(
            id=node.id,
            kind=found.kind,
            component_name=found.component_name,
            component=found.component,
            params=found.params,
            connection=found.connection,
            policies=graph.policies(node),
            output=types.get(node.id),
            description=node.description,
            owners=node.owners,
            tags=node.tags,
            metadata=node.metadata,
            incremental=isinstance(node, SourceNode) and node.incremental,
            on_removed=node.on_removed if isinstance(node, SourceNode) else "remove",
        )
