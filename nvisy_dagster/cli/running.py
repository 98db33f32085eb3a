"""Running a graph for `nvisy run`: compile, connect, run, show, tell how it ended."""

import json
import os
import shlex
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nvisy_dagster.cli.exit_codes import ExitCode
from nvisy_dagster.cli.failures import describe, error_lines, exit_code
from nvisy_dagster.cli.interruption import (
    InterruptedRunError,
    Interruption,
    run_interruptible,
)
from nvisy_dagster.cli.loading import FileErrors, LoadedGraph, load
from nvisy_dagster.cli.next_step import after_stop, next_step
from nvisy_dagster.cli.run_record import RunRecord
from nvisy_dagster.cli.run_view import choose_view, print_table
from nvisy_dagster.engine.accounting import totals
from nvisy_dagster.engine.connections import OpenConnections, open_connections
from nvisy_dagster.engine.drain import StopRequest
from nvisy_dagster.engine.failure import NodeError, RunConflictError
from nvisy_dagster.engine.found import found_in_words
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.engine.run import RunResult, run_plan
from nvisy_dagster.engine.storage_place import storage_root
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.sdk import NvisyError
from nvisy_dagster.translator.storage_folder import writable_storage

if TYPE_CHECKING:
    from nvisy_dagster.translator.failure import ToldFailure


MOST_FINDINGS = 10
"""Of one node that are told at the end of a run; all are in the JSON."""


@dataclass(frozen=True)
class RunRequest:
    """What `nvisy run` was asked to do."""

    graph: Path
    connections_file: Path | None = None
    storage: Path | None = None
    fresh: bool = False
    engine_only: bool = False
    quiet: bool = False
    as_json: bool = False
    debug: bool = False

    @property
    def state_folder(self) -> Path:
        """Root folder of run state."""
        return storage_root(self.storage)

    @property
    def command(self) -> str:
        """Runs the same graph with the same state again."""
        words = ["nvisy", "run", str(self.graph)]
        if self.connections_file:
            words += ["--connections", str(self.connections_file)]
        if self.storage:
            words += ["--storage", str(self.storage)]
        return shlex.join(words)


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    run_id: str | None = None
    resumed: bool = False
    metrics: Sequence[NodeMetrics] = ()
    error: Exception | None = None

    @property
    def exit_code(self) -> ExitCode:
        """What the process exits with."""
        if self.error is None:
            return ExitCode.SUCCESS
        if isinstance(self.error, InterruptedRunError):
            return ExitCode.INTERRUPTED
        return exit_code(self.error)


def run_graph(request: RunRequest) -> ExitCode:
    """Run a graph and tell how it went.

    Raises:
        ConfigError: The graph, its connections or the storage folder are wrong; nothing was run.
    """
    loaded = load(request.graph, request.connections_file)
    try:
        connections = open_connections(loaded.plan, loaded.connections, os.environ)
    except GraphErrors as errors:
        raise FileErrors(errors, loaded.connections_path or loaded.path) from errors
    record = RunRecord(loaded.plan)
    run = _engine_only if request.engine_only else _in_dagster
    with (
        writable_storage(request.state_folder),
        choose_view(record, quiet=request.quiet) as view,
    ):
        outcome = run(request, loaded, connections, record, view.observe)
    if outcome.error is None:
        record.succeed(outcome.metrics)
    else:
        record.fail(outcome.error.node if isinstance(outcome.error, NodeError) else None)
    _tell(request, record, outcome, connections.redactor.scrub)
    return outcome.exit_code


Observe = Callable[[Sequence[NodeMetrics]], None]


def _engine_only(
    request: RunRequest,
    loaded: LoadedGraph,
    connections: OpenConnections,
    record: RunRecord,
    observe: Observe,
) -> Outcome:
    async def call(stop: StopRequest) -> RunResult:
        return await run_plan(
            loaded.plan,
            connections.by_name,
            storage=request.state_folder,
            fresh=request.fresh,
            observe=observe,
            stop=stop,
        )

    words = partial(after_stop, loaded.plan, request.state_folder, request.command)
    try:
        with writable_storage(request.state_folder):
            result = run_interruptible(call, partial(_stopping, record), words)
    except Exception as error:  # noqa: BLE001 - told to the user, whatever it is
        return Outcome(error=error)
    return Outcome(result.run_id, result.resumed, list(result.metrics.values()))


def _in_dagster(
    request: RunRequest,
    loaded: LoadedGraph,
    _connections: OpenConnections,
    record: RunRecord,
    observe: Observe,
) -> Outcome:
    # Imported here: only a run in Dagster pays for importing it.
    import dagster as dg

    from nvisy_dagster.translator.execute import execute_plan

    words = partial(after_stop, loaded.plan, request.state_folder, request.command)
    interruption = Interruption(partial(_stopping, record), words)

    def listen_and_observe(metrics: Sequence[NodeMetrics]) -> None:
        # While a stage runs the translator has handlers of its own, which stop it in order; these
        # come on top of them.
        interruption.listen()
        observe(metrics)

    try:
        result = execute_plan(
            loaded.plan,
            loaded.connections,
            storage=request.state_folder,
            observe=listen_and_observe,
            fresh=request.fresh,
        )
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        return Outcome(error=InterruptedRunError())
    except Exception as error:  # noqa: BLE001 - told to the user, whatever it is
        return Outcome(error=error)
    error = InterruptedRunError() if result.interrupted or interruption.received else None
    if error is None and result.failure is not None:
        error = raised(result.failure)
    if result.success:
        error = None
    return Outcome(result.run_id, result.resumed, result.metrics, error)


def raised(failure: "ToldFailure") -> NvisyError:
    """The error that the failure of a run in Dagster tells of."""
    if failure.tag == RunConflictError.default_tag:
        return RunConflictError(failure.message, remedy=failure.remedy)
    if failure.node is None:
        return NvisyError(failure.message, remedy=failure.remedy, tag=failure.tag)
    error = NodeError(
        failure.node,
        failure.message,
        retryable=failure.retryable,
        remedy=failure.remedy,
        tag=failure.tag,
    )
    # Its message names the node already.
    error.message = failure.message
    return error


def _stopping(record: RunRecord) -> None:
    record.stopping = True


def _tell(
    request: RunRequest, record: RunRecord, outcome: Outcome, scrub: Callable[[str], str]
) -> None:
    error = outcome.error
    if request.debug and error is not None:
        click.echo(scrub("".join(traceback.format_exception(error))), err=True)
    if request.as_json:
        click.echo(json.dumps(_to_json(request, record, outcome, scrub), indent=2))
        return
    if not request.quiet:
        print_table(record)
        for line in _findings(record):
            click.echo(line)
    if error is None:
        if not request.quiet:
            click.echo(_summary(record, outcome))
        return
    for line in _failure_lines(error, scrub):
        click.echo(line, err=True)
    step = next_step(error, record.plan, request.state_folder, request.command)
    if step is not None:
        click.echo(f"  next: {step}", err=True)


def _failure_lines(error: Exception, scrub: Callable[[str], str]) -> Iterator[str]:
    if isinstance(error, InterruptedRunError):
        told = [f"  {scrub(str(error))}"] if str(error) else []
        return iter(["interrupted: every client is closed, and what was committed stays", *told])
    return error_lines(error, scrub)


def _findings(record: RunRecord) -> Iterator[str]:
    """For each node that found something in its records: what, the most frequent first."""
    for node in record.nodes.values():
        found = Counter({what: count for what, count in node.findings.items() if count})
        words = [f"{count:,} broke {what}" for what, count in found.most_common(MOST_FINDINGS)]
        if len(found) > MOST_FINDINGS:
            words.append(f"and {len(found) - MOST_FINDINGS} more")
        if words:
            yield f"{node.node}: {', '.join(words)}"


def _summary(record: RunRecord, outcome: Outcome) -> str:
    sums = totals(record.nodes.values())
    words = [f"{sums['read']:,} records read", f"{sums['written']:,} written"]
    if sums["dropped"]:
        words.append(f"{sums['dropped']:,} dropped")
    if sums["dead"]:
        words.append(click.style(f"{sums['dead']:,} dead", fg="red"))
    found = found_in_words(node.counts for node in record.nodes.values())
    if found is not None:
        words.append(f"incremental: {found}")
    went_on = ", going on from an earlier run's checkpoint" if outcome.resumed else ""
    succeeded = click.style("succeeded", fg="green")
    return f"{succeeded} in {record.seconds:.1f} s{went_on}: {', '.join(words)}"


def _to_json(
    request: RunRequest, record: RunRecord, outcome: Outcome, scrub: Callable[[str], str]
) -> dict[str, Any]:
    error = outcome.error
    step: str | None = None
    failure: dict[str, Any] | None = None
    if isinstance(error, InterruptedRunError):
        told = scrub(str(error)) or "a signal ended the run"
        failure = {"kind": "interrupted", "message": told, "remedy": None}
    elif error is not None:
        failure = describe(error, scrub)
    if error is not None:
        step = next_step(error, record.plan, request.state_folder, request.command)
    return {
        "success": error is None,
        "graph": record.plan.name,
        "file": str(request.graph),
        "run_id": outcome.run_id,
        "resumed": outcome.resumed,
        "seconds": record.seconds,
        "nodes": [node.to_json() for node in record.nodes.values()],
        "error": failure,
        "next": step,
    }
