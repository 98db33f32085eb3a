"""Runs whose process is gone, and that Dagster would take for running for ever.

Dagster learns of a run's end from the process that runs it, or from the code server that watches
it. If both are killed nobody tells. We know better: every op leaves a note of the process that runs
it, and every stage holds a lease that is renewed while it lives.
"""

from functools import cache
from multiprocessing import parent_process
from pathlib import Path

import dagster as dg
from pydantic import BaseModel, ConfigDict

from nvisy_dagster.engine.failure import RunConflictError
from nvisy_dagster.engine.lease import Lease, read_lease
from nvisy_dagster.engine.processes import Process, process_of, this_process
from nvisy_dagster.engine.progress import ProgressStore
from nvisy_dagster.engine.storage import (
    names,
    read_json,
    read_model,
    remove_file,
    safe_name,
    write_json,
)
from nvisy_dagster.sdk import NvisyError

SENSOR = "nvisy_dead_runs"
INTERVAL_SECONDS = 30
FOLDER = "runs"
"""Below the storage folder; holds a note per run that goes on."""
_UNFINISHED = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


class _Note(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    graph: str
    worker: Process
    """Runs the ops, or starts the processes that do."""


def note_worker(storage: Path, run_id: str, graph: str, *, multiprocess: bool) -> None:
    """Note which process runs this run; called by each of its ops.

    Args:
        storage: Root folder of run state.
        run_id: The run.
        graph: Name of its graph.
        multiprocess: Whether each op has a process of its own.
    """
    parent = parent_process() if multiprocess else None
    worker = this_process() if parent is None or parent.pid is None else process_of(parent.pid)
    note = _Note(graph=graph, worker=worker).model_dump(mode="json")
    path = _path(storage, run_id)
    if read_json(path) != note:
        write_json(path, note)


def forget_worker(storage: Path, run_id: str) -> None:
    """Remove the note of a run that is over."""
    remove_file(_path(storage, run_id))


def report_dead_runs(
    instance: dg.DagsterInstance, storage: Path, graph: str | None = None, *, but: str = ""
) -> list[str]:
    """Report runs as failed that Dagster takes for running and whose process is gone.

    What they held is taken from them first, so that none of them can write any more. Every run has
    left a note; what Dagster does not know, or knows to be over, is left alone.

    Args:
        instance: Where they are reported.
        storage: Root folder of run state.
        graph: Name of a graph; by default runs of all graphs are looked at.
        but: A run that is left alone.

    Returns:
        Ids of the runs that were reported.
    """
    reported: list[str] = []
    for name in names(storage / FOLDER):
        run_id = name.removesuffix(".json")
        note = read_model(storage / FOLDER / name, _Note, "remove the file")
        if note is None or run_id == but or graph not in {None, note.graph}:
            continue
        found = _why_dead(storage, note, run_id) if _unfinished(instance, run_id) else None
        # It may have ended while we looked.
        run = _unfinished(instance, run_id) if found else None
        if run is not None:
            text = f"{found}; the next launch of the graph goes on from its last checkpoint"
            instance.report_run_failed(run, text)
            reported.append(run_id)
    return reported


def _unfinished(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRun | None:
    run = instance.get_run_by_id(run_id)
    return run if run is not None and run.status in _UNFINISHED else None


def _why_dead(storage: Path, note: _Note, run_id: str) -> str | None:
    """What shows that a run is dead; its leases are taken from it then."""
    folders = ProgressStore(storage, note.graph).stage_folders(run_id)
    leases = [(folder, lease) for folder in folders if (lease := read_lease(folder)) is not None]
    held = [found for found in leases if found[1].run_id == run_id and not found[1].released]
    if any(lease.is_live for _, lease in held):
        return None
    worker = note.worker
    silent = [lease for _, lease in held if not lease.is_known_dead]
    if worker.is_known_dead:
        found = f"the process {worker.pid} on {worker.host}, which ran it, is gone"
    elif silent:
        found = (
            f"its process {silent[0].pid} on {silent[0].host} has been silent for more than "
            f"{silent[0].seconds:g} s"
        )
    else:
        # Between two ops; or the process that starts those of the ops will find a dead one itself.
        return None
    return found if all(_take(folder, run_id) for folder, _ in held) else None


def _take(folder: Path, run_id: str) -> bool:
    try:
        with Lease(folder, run_id):
            return True
    except RunConflictError:
        return False


def _path(storage: Path, run_id: str) -> Path:
    return storage / FOLDER / f"{safe_name(run_id)}.json"


def _forget_ended(instance: dg.DagsterInstance, storage: Path) -> None:
    for name in names(storage / FOLDER):
        run = instance.get_run_by_id(name.removesuffix(".json"))
        # One that is not known here may go on under another instance.
        if run is not None and run.is_finished:
            remove_file(storage / FOLDER / name)


@cache
def dead_runs_sensor(storage: Path) -> dg.SensorDefinition:
    """The sensor of a storage: always the same object, so that definitions merge."""

    @dg.sensor(
        name=SENSOR,
        description=(
            "Finds runs of Nvisy graphs whose process is gone, and reports them as failed. Their "
            "next launch goes on from the last checkpoint."
        ),
        minimum_interval_seconds=INTERVAL_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING,
    )
    def watch(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        try:
            reported = report_dead_runs(context.instance, storage)
            _forget_ended(context.instance, storage)
        except NvisyError as error:
            return dg.SkipReason(f"the state of the runs cannot be read: {error}")
        return dg.SkipReason(
            f"reported as failed: {', '.join(reported)}" if reported else "every run is alive"
        )

    return watch
