"""Which attempt chain a run belongs to: whether it goes on from an earlier one or begins anew.

A run that failed or was killed leaves its chain incomplete; the next run of the same graph goes on
from there, stage by stage. A run that executes a part of an earlier one again belongs to that run's
chain. A stage whose nodes (or whose upstream's nodes) changed in the meantime begins anew, because
its folder is named by the hash of what it computes.
"""

import fcntl
from collections.abc import Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from nvisy_dagster.compiler import Plan, Stage
from nvisy_dagster.engine.checkpoint import CheckpointStore
from nvisy_dagster.engine.failure import RunConflictError
from nvisy_dagster.engine.lock import StageLock
from nvisy_dagster.engine.storage import (
    read_model,
    remove_folder,
    safe_name,
    write_json,
)
from nvisy_dagster.sdk import NvisyError
from nvisy_dagster.sdk.identity import format_ulid, ids_to_array, ulids


class ProgressLostError(NvisyError):
    """A part of a run is to be executed again, but what the run left behind is gone."""

    default_tag = "progress_lost"


class _Chain(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    complete: bool
    runs: list[str]
    redo: list[str] = []
    """Stages whose state is discarded before they run again."""


class _State(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    current: str
    """The chain that a plain run goes on with, unless it is complete."""
    chains: dict[str, _Chain]

    def with_chain(self, progress: str, chain: _Chain) -> "_State":
        return _State(current=progress, chains={**self.chains, progress: chain})


@dataclass(frozen=True)
class Reexecution:
    """A run that executes a part of an earlier run again."""

    of: str
    """The earlier run."""
    redo: Collection[str] = ()
    """Stages to be done again although the earlier run completed them."""


@dataclass(frozen=True)
class StageFolders:
    """Where one stage of one attempt chain keeps its state."""

    state: Path
    dead_letters: Path


class ProgressStore:
    """The attempt chains of one graph.

    Args:
        storage: Root folder of all state.
        graph: Name of the graph.
    """

    def __init__(self, storage: Path, graph: str) -> None:
        self._folder = storage / "graphs" / safe_name(graph)

    def begin(
        self,
        run_id: str,
        *,
        fresh: bool = False,
        reexecution: Reexecution | None = None,
        plan: Plan | None = None,
    ) -> str:
        """The attempt chain that this run belongs to.

        Args:
            run_id: The run; asked again, it gets the same answer.
            fresh: Begin anew even if the last run left off half way.
            reexecution: The run executes a part of an earlier one, and goes on with its chain.
            plan: Needed with `reexecution`: stages behind one that is done again are done again
                too, whenever they run next.

        Raises:
            ProgressLostError: The earlier run's chain is gone.
        """
        with self._locked():
            state = self._read()
            for progress, chain in state.chains.items() if state else ():
                if run_id in chain.runs:
                    return progress
            if reexecution is not None:
                return self._rejoin(state, run_id, reexecution, plan)
            if state is not None and not fresh:
                chain = state.chains[state.current]
                if not chain.complete:
                    joined = chain.model_copy(update={"runs": [*chain.runs, run_id]})
                    self._write(state.with_chain(state.current, joined))
                    return state.current
            progress = format_ulid(ids_to_array(ulids(1))[0].as_py())
            others = state or _State(current=progress, chains={})
            self._write(others.with_chain(progress, _Chain(complete=False, runs=[run_id])))
            return progress

    def _rejoin(
        self, state: _State | None, run_id: str, reexecution: Reexecution, plan: Plan | None
    ) -> str:
        for progress, chain in state.chains.items() if state else ():
            if state is not None and reexecution.of in chain.runs:
                again = _with_those_behind(plan, reexecution.redo) if plan else reexecution.redo
                rejoined = _Chain(
                    complete=chain.complete and not again,
                    runs=[*chain.runs, run_id],
                    redo=list(dict.fromkeys([*chain.redo, *again])),
                )
                self._write(state.with_chain(progress, rejoined))
                return progress
        raise ProgressLostError(
            f"what run {reexecution.of} left behind is gone: a later run completed the graph, "
            "or the storage was cleared",
            remedy="launch the whole graph instead of a part of that run",
        )

    def open_stage(self, progress: str, stage: Stage, run_id: str) -> StageFolders:
        """Where the stage keeps its state; discarded first if the stage is to be done again.

        Raises:
            RunConflictError: It is to be discarded, and another live run holds it.
        """
        folders = self.folders(progress, stage)
        with self._locked():
            state = self._read()
            chain = state.chains.get(progress) if state else None
            if state is not None and chain is not None and stage.id in chain.redo:
                with StageLock(folders.state, run_id):
                    # The checkpoint first: without it, a crash here leaves nothing to go on from.
                    (folders.state / "checkpoint.json").unlink(missing_ok=True)
                    remove_folder(folders.state / "edges")
                left = [stage_id for stage_id in chain.redo if stage_id != stage.id]
                chains = {**state.chains, progress: chain.model_copy(update={"redo": left})}
                self._write(state.model_copy(update={"chains": chains}))
        return folders

    def folders(self, progress: str, stage: Stage) -> StageFolders:
        """Where the stage keeps its state."""
        name = f"{safe_name(stage.id)[:80]}-{stage.hash[:12]}"
        return StageFolders(
            state=self._folder / progress / name,
            dead_letters=self._folder / "dead_letters" / progress,
        )

    def stage_ended(self, progress: str, plan: Plan) -> bool:
        """Mark the chain complete if its every stage is; other chains' data is removed then.

        Returns:
            Whether it is complete.
        """
        with self._locked():
            state = self._read()
            chain = state.chains.get(progress) if state else None
            if state is None or chain is None:
                return False
            for stage in plan.stages:
                path = self.folders(progress, stage).state / "checkpoint.json"
                if not CheckpointStore(path).read().complete:
                    return False
            done = chain.model_copy(update={"complete": True})
            chains = {**state.chains, progress: done}
            if progress == state.current:
                live = {name for name in chains if name == progress or self._is_live(name)}
                chains = {name: chain for name, chain in chains.items() if name in live}
            self._write(state.model_copy(update={"chains": chains}))
            self._remove_all_but(chains)
            return True

    def _remove_all_but(self, chains: Collection[str]) -> None:
        for folder in self._folder.iterdir():
            if folder.is_dir() and folder.name not in {*chains, "dead_letters"}:
                remove_folder(folder)

    def _is_live(self, progress: str) -> bool:
        """Whether some process is running a stage of the chain."""
        for lock in (self._folder / progress).glob("*/lock"):
            try:
                with StageLock(lock.parent, ""):
                    pass
            except RunConflictError:
                return True
        return False

    def _read(self) -> _State | None:
        path = self._folder / "chains.json"
        return read_model(path, _State, "delete the file; the next run then begins anew")

    def _write(self, state: _State) -> None:
        write_json(self._folder / "chains.json", state.model_dump(mode="json"))

    @contextmanager
    def _locked(self) -> Generator[None, None, None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _with_those_behind(plan: Plan, stages: Collection[str]) -> Sequence[str]:
    """The stages and all that read, directly or not, what they make, in the plan's order."""
    found: dict[str, None] = {}
    for stage in plan.stages:
        before = {plan.stage_of[output.node].id for output in stage.inputs}
        if stage.id in stages or before & found.keys():
            found[stage.id] = None
    return list(found)
