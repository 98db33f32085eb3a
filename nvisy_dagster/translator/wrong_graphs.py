"""A graph with mistakes, shown in Dagster beside those that are sound.

It becomes a job and an asset named like it, both with its mistakes as description. The job fails at
once, so that whoever launches it is told as well. It has no schedule.
"""

import json
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from nvisy_dagster.graph.reading import read_bytes
from nvisy_dagster.sdk import ConfigError, NvisyError
from nvisy_dagster.translator.names import dagster_name

GROUP = "wrong_graphs"
"""Group of the assets, which stands out on the lineage page; also the begin of their keys."""
LONGEST_TEXT = 20_000
_REMEDY = "correct the file, then press Reload on Dagster's page Deployment"


@dataclass(frozen=True)
class WrongGraph:
    """A graph file that cannot be loaded, and why."""

    file: Path
    mistakes: str

    @property
    def description(self) -> str:
        """What Dagster's pages say of it, as Markdown."""
        cut = self.mistakes[:LONGEST_TEXT]
        return (
            f"**{self.file.name} has mistakes and cannot run**; {_REMEDY}.\n\n"
            f"{textwrap.indent(cut, '    ')}"
        )

    @property
    def told(self) -> str:
        """What a log says of it."""
        return f"{self.file} is not loaded:\n{self.mistakes}\n({_REMEDY})"


def wrong_graph(file: Path, error: Exception) -> WrongGraph:
    """A file and what loading it raised."""
    if isinstance(error, NvisyError):
        return WrongGraph(file, str(error))
    return WrongGraph(
        file, f"unexpected {type(error).__name__}: {error} (this is a bug; report it)"
    )


def wrong_definitions(wrong: Iterable[WrongGraph], taken: Iterable[str]) -> dg.Definitions:
    """A job and an asset for each of them.

    Args:
        wrong: The graphs.
        taken: Names of jobs that there are already.
    """
    names = set(taken)
    assets: list[dg.AssetSpec] = []
    jobs: list[dg.JobDefinition] = []
    for one in wrong:
        name = _free_name(one.file, names)
        names.add(name)
        jobs.append(_failing_job(one, name))
        # Not of the job: whoever materializes all assets must not fail by this one.
        assets.append(
            dg.AssetSpec(dg.AssetKey([GROUP, name]), description=one.description, group_name=GROUP)
        )
    return dg.Definitions(assets=assets, jobs=jobs)


def _failing_job(one: WrongGraph, name: str) -> dg.JobDefinition:
    def fail() -> None:
        raise dg.Failure(one.told, metadata={"tag": "graph"}, allow_retries=False)

    op = dg.op(name=f"{name}__mistakes", description=one.description, out=dg.Out(dg.Nothing))(fail)
    graph = dg.GraphDefinition(name=name, node_defs=[op])
    return graph.to_job(name=name, description=one.description, executor_def=dg.in_process_executor)


def _free_name(file: Path, taken: set[str]) -> str:
    """The name that its job would have if it were sound, so that its runs are found there."""
    wanted = dagster_name(_said_name(file) or file.stem)
    name, number = wanted, 2
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    return name


def _said_name(file: Path) -> str | None:
    try:
        said = json.loads(read_bytes(file, what="graph"))["name"]
    except (ConfigError, ValueError, LookupError, TypeError, RecursionError):
        return None
    return said[:100] if isinstance(said, str) and said else None
