"""What to do after a run that did not succeed: run again, correct something first, begin anew."""

from pathlib import Path

from nvisy_dagster.cli.interruption import InterruptedRunError
from nvisy_dagster.compiler import Plan
from nvisy_dagster.engine.accounting import totals
from nvisy_dagster.engine.checkpoint import Checkpoint, CheckpointStore
from nvisy_dagster.engine.failure import BEGIN_ANEW, NodeError, RunConflictError
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.engine.progress import ProgressStore
from nvisy_dagster.engine.storage import read_json, safe_name
from nvisy_dagster.engine.storage_place import store_of
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.sdk import NvisyError

GOES_ON = "it goes on from the last checkpoint"
LOST = {"changed", "progress_lost"}
"""Tags of errors that leave nothing to go on from, unless they may pass."""
PASSING = {"bug", "crash", "timeout"}
"""Tags of errors after which the next run may get further, though nothing was corrected."""


def next_step(error: Exception, plan: Plan, storage: Path, command: str) -> str | None:
    """What to do next, if there is more to say than the error's own remedy.

    Args:
        error: Why the run ended.
        plan: What was run.
        storage: Root folder of run state.
        command: Runs it again.
    """
    if isinstance(error, GraphErrors | RunConflictError):
        return None
    passing = _may_pass(error)
    if not passing and _is_lost(error):
        return f"begin anew ({command} --fresh)"
    goes_on = f": {GOES_ON}" if has_checkpoint(plan, storage) else ""
    if isinstance(error, NvisyError) and error.tag == "error_limit":
        # Those that failed count for the run that goes on, too.
        return f"begin anew ({command} --fresh), or with a higher limit go on ({command})"
    if passing:
        return f"run it again{goes_on} ({command})"
    return f"correct it and run again{goes_on} ({command})" if goes_on else None


def _may_pass(error: Exception) -> bool:
    if isinstance(error, InterruptedRunError) or not isinstance(error, NvisyError):
        return True
    return error.tag in PASSING or (isinstance(error, NodeError) and error.retryable)


def _is_lost(error: Exception) -> bool:
    return isinstance(error, NvisyError) and (error.tag in LOST or error.remedy == BEGIN_ANEW)


def has_checkpoint(plan: Plan, storage: Path) -> bool:
    """Whether the next run of the graph has something to go on from."""
    return any(one.epoch > 0 for one in _checkpoints(plan, storage))


def after_stop(plan: Plan, storage: Path, command: str) -> str:
    """How far a run came that is stopped at once, and what to do next.

    Told amid anything, so it asks nobody but this machine's disk.

    Args:
        plan: What was run.
        storage: Root folder of run state.
        command: Runs it again.
    """
    if store_of(storage) is not None:
        return f"what was committed stays\n  next: run it again: {GOES_ON} ({command})"
    found = _checkpoints(plan, storage)
    sums = totals(
        NodeMetrics.from_json(node, plan.nodes[node].kind, counts)
        for one in found
        for node, counts in one.counts.items()
    )
    if not any(one.epoch > 0 for one in found):
        return f"nothing was committed yet\n  next: run it again ({command})"
    words = ", ".join(f"{count:,} {name}" for name, count in sums.items() if count)
    committed = f"committed: {words or 'no record'}"
    return f"{committed}\n  next: run it again: {GOES_ON} ({command})"


def _checkpoints(plan: Plan, storage: Path) -> list[Checkpoint]:
    store = ProgressStore(storage, plan.name)
    try:
        chains = read_json(storage / "graphs" / safe_name(plan.name) / "chains.json")
        if chains is None or chains["chains"][chains["current"]]["complete"]:
            return []
        folders = (store.folders(chains["current"], stage).state for stage in plan.stages)
        return [CheckpointStore(one / "checkpoint.json").read() for one in folders]
    except (OSError, ValueError, LookupError, TypeError, NvisyError):
        # What cannot be read is told by the run that needs it.
        return []
