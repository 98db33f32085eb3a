"""Graphs -> Dagster definitions, to be loaded as they are or merged into those of a deployment."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from nvisy_dagster.compiler import Plan, compile_graph, connections_beside
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.engine.storage_place import storage_root
from nvisy_dagster.graph.connections import FILE_NAME, NamedConnection
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.graph.load import load_graph
from nvisy_dagster.registry import Registry
from nvisy_dagster.sdk import ConfigError
from nvisy_dagster.translator.assets import GraphAssets
from nvisy_dagster.translator.checks import check_definitions
from nvisy_dagster.translator.dead_runs import dead_runs_sensor
from nvisy_dagster.translator.io_manager import IO_MANAGER_KEY, manifest_io_manager
from nvisy_dagster.translator.jobs import graph_job
from nvisy_dagster.translator.locations import LocationAssets, find_locations
from nvisy_dagster.translator.names import dagster_name
from nvisy_dagster.translator.replay import replay_job, replay_job_name
from nvisy_dagster.translator.resources import ConnectionSource, NvisyConnection, named_connections
from nvisy_dagster.translator.runtime import Runtime
from nvisy_dagster.translator.schedules import graph_schedules


@dataclass(frozen=True)
class LoadedGraph:
    """A compiled graph with the connections that hold for it, as they are written."""

    plan: Plan
    connections: Mapping[str, NamedConnection]
    file: str | None = None


def build_definitions(  # noqa: PLR0913 - each is an independent choice, all but one have a default
    graphs: Path | str | Sequence[Path | str],
    *,
    connections: ConnectionSource | None = None,
    storage: Path | str | None = None,
    preview: bool = True,
    observe: Callable[[Sequence[NodeMetrics]], None] | None = None,
    registry: Registry | None = None,
) -> dg.Definitions:
    """Dagster definitions of graph files: assets, a job per graph, schedules.

    Args:
        graphs: A graph file, a folder (every `*.json` in it but `connections.json`), or several of
            them.
        connections: Definitions that go before those of the `connections.json` beside each graph:
            a file, or connections by name, which may be `NvisyConnection` resources.
        storage: Root folder of run state, or the URL of an object store; by default
            `$NVISY_STORAGE`, else `.nvisy`.
        preview: Whether the nodes' pages show a few records; `NVISY_PREVIEW=off` forbids it too.
        observe: Called a few times a second with the metrics of a running stage.
        registry: Which components there are; by default those that are installed.

    Raises:
        ConfigError: Everything that is wrong with any of the files, each with its place.
    """
    named, resources = named_connections(connections)
    loaded = load_graphs(graph_files(graphs), connections=named, registry=registry)
    runtimes = [make_runtime(one, storage, preview=preview, observe=observe) for one in loaded]
    return translate(runtimes, runtimes, resources)


def graph_files(graphs: Path | str | Sequence[Path | str]) -> list[Path]:
    """The graph files that are meant, sorted within each folder.

    Raises:
        ConfigError: A file or folder is not there, or a folder holds no graph.
    """
    given = [graphs] if isinstance(graphs, Path | str) else graphs
    files: list[Path] = []
    for path in map(Path, given):
        if not path.is_dir():
            files.append(path)
            continue
        found = sorted(file for file in path.glob("*.json") if file.name != FILE_NAME)
        if not found:
            raise ConfigError(
                f"there is no graph in the folder {path.resolve()}",
                remedy="put a graph there, as a .json file, or name another folder",
            )
        files.extend(found)
    return list(dict.fromkeys(file.resolve() for file in files))


def load_graphs(
    files: Iterable[Path],
    *,
    connections: Mapping[str, NamedConnection] | None = None,
    registry: Registry | None = None,
) -> list[LoadedGraph]:
    """Compile graph files.

    Raises:
        ConfigError: Everything that is wrong with any of them.
    """
    loaded: list[LoadedGraph] = []
    problems: list[str] = []
    for file in files:
        try:
            loaded.append(load_one(file, connections=connections, registry=registry))
        except GraphErrors as error:
            problems.append(f"{file}\n{error}")
    problems.extend(_clashes(loaded))
    if problems:
        raise ConfigError("\n\n".join(problems), tag="graph")
    return loaded


def load_one(
    file: Path,
    *,
    connections: Mapping[str, NamedConnection] | None = None,
    registry: Registry | None = None,
) -> LoadedGraph:
    """Compile one graph file with the `connections.json` beside it.

    Raises:
        GraphErrors: Every mistake in it, or in its connections.
    """
    beside = connections_beside(file)
    defined = {**beside, **(connections or {})}
    plan = compile_graph(
        load_graph(file, connections=beside),
        connections=defined,
        registry=registry,
        folder=file.resolve().parent,
        file=file.name,
    )
    return LoadedGraph(plan, defined, str(file))


def make_runtime(
    loaded: LoadedGraph,
    storage: Path | str | None = None,
    *,
    preview: bool = True,
    observe: Callable[[Sequence[NodeMetrics]], None] | None = None,
) -> Runtime:
    """What the ops of a compiled graph share; arguments as in `build_definitions`."""
    return Runtime(
        plan=loaded.plan,
        connections=loaded.connections,
        locations=find_locations(loaded.plan, loaded.connections),
        storage=storage_root(storage),
        preview=preview,
        observe=observe,
    )


def translate(
    runtimes: Sequence[Runtime],
    together: Sequence[Runtime],
    resources: Mapping[str, NvisyConnection] | None = None,
) -> dg.Definitions:
    """The definitions of compiled graphs.

    Args:
        runtimes: The graphs.
        together: All graphs that are loaded with them, themselves included: they decide which
            assets lead to a location, and the first of them that has a location defines it.
            Definitions that are built apart merge if this is the same.
        resources: Connections that are Dagster resources, to show them.
    """
    assets: list[dg.AssetsDefinition | dg.AssetSpec] = []
    jobs: list[Any] = []
    schedules: list[dg.ScheduleDefinition] = []
    checks: list[dg.AssetChecksDefinition] = []
    for runtime in runtimes:
        graph = GraphAssets(runtime)
        job = graph_job(runtime.plan, graph)
        assets.extend(graph.definitions())
        checks.extend(check_definitions(runtime.plan, graph.names))
        jobs.extend((job, replay_job(runtime)))
        schedules.extend(graph_schedules(runtime.plan, job.name))
    locations = LocationAssets((one.plan, one.locations) for one in together)
    assets.extend(locations.specs(runtime.plan.name for runtime in runtimes))
    # Under a key of our own: the `io_manager` of a deployment is never asked to keep what is ours.
    (storage,) = {one.storage for one in runtimes}
    # Dagster takes the same sensor of two components for two.
    first = min(together, key=lambda one: one.plan.name)
    return dg.Definitions(
        assets=assets,
        asset_checks=checks,
        jobs=jobs,
        schedules=schedules,
        sensors=[dead_runs_sensor(storage)] if first in runtimes else [],
        resources={**(resources or {}), IO_MANAGER_KEY: manifest_io_manager(storage)},
    )


def job_names(loaded: LoadedGraph) -> list[str]:
    """Names of the jobs of a graph."""
    job = dagster_name(loaded.plan.name)
    return [job, replay_job_name(job)]


def name_clash(one: LoadedGraph, taken: Mapping[str, LoadedGraph]) -> str | None:
    """What is wrong if a job of the graph would be named like one of another.

    Args:
        one: The graph.
        taken: Name of a job -> the graph that has it.
    """
    for name in job_names(one):
        if name in taken:
            return (
                f"$.name: a job of graph {one.plan.name!r} would be named {name!r}, as one of "
                f"graph {taken[name].plan.name!r} in {taken[name].file} "
                '(give one of them another "name")'
            )
    return None


def _clashes(loaded: Iterable[LoadedGraph]) -> Iterable[str]:
    taken: dict[str, LoadedGraph] = {}
    for one in loaded:
        clash = name_clash(one, taken)
        if clash is not None:
            yield f"{one.file}\n{clash}"
        taken |= {name: one for name in job_names(one) if name not in taken}
