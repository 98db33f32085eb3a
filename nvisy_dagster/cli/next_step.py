"""What to do after a run that did not succeed: run again, correct something first, begin anew."""

from pathlib import Path

from nvisy_dagster.cli.interruption import InterruptedRunError
from nvisy_dagster.compiler import Plan
from nvisy_dagster.engine.checkpoint import CheckpointStore
from nvisy_dagster.engine.failure import BEGIN_ANEW, NodeError, RunConflictError
from nvisy_dagster.engine.progress import ProgressStore
from nvisy_dagster.engine.storage import read_json, safe_name
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
    store = ProgressStore(storage, plan.name)
    try:
        chains = read_json(storage / "graphs" / safe_name(plan.name) / "chains.json")
        if chains is None or chains["chains"][chains["current"]]["complete"]:
            return False
        folders = (store.folders(chains["current"], stage).state for stage in plan.stages)
        return any(CheckpointStore(one / "checkpoint.json").read().epoch > 0 for one in folders)
    except (OSError, ValueError, LookupError, TypeError, NvisyError):
        # What cannot be read is told by the run that needs it.
        return False
