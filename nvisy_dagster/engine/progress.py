"""Which attempt chain a run belongs to: whether it goes on from an earlier one or begins anew.

A run that failed or was killed leaves its chain incomplete; the next run of the same graph goes on
from there, stage by stage. A run that executes a part of an earlier one again belongs to that run's
chain. A stage whose nodes (or whose upstream's nodes) changed in the meantime begins anew, because
its folder is named by the hash of what it computes.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict

from nvisy_dagster.compiler import Plan, Stage
from nvisy_dagster.engine.bookmark import FOLDER as BOOKMARKS
from nvisy_dagster.engine.bookmark import promote, read_all_again
from nvisy_dagster.engine.checkpoint import Checkpoint, CheckpointStore
from nvisy_dagster.engine.dead_letter_listing import keep_listing
from nvisy_dagster.engine.documents import update_model
from nvisy_dagster.engine.lease import Lease, read_lease
from nvisy_dagster.engine.storage import is_file, names, read_model, remove_folder, safe_name
from nvisy_dagster.sdk import NvisyError
from nvisy_dagster.sdk.identity import format_ulid, ids_to_array, ulids

T = TypeVar("T")

_REMEDY = "delete the file; the next run then begins anew"
_TOKENS_PER_RUN = 1000
"""Fencing tokens of a run's attempts at a stage; those of a later run are higher."""


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

    def with_done(self, progress: str, stage: str) -> "_State":
        """The state once what the stage is to do again is discarded."""
        chain = self.chains[progress]
        left = [stage_id for stage_id in chain.redo if stage_id != stage]
        chains = {**self.chains, progress: chain.model_copy(update={"redo": left})}
        return self.model_copy(update={"chains": chains})


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
    token: int = 1
    """Least fencing token of the lease under which the stage is run."""


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

        def joined(state: _State | None) -> tuple[_State | None, str]:
            for progress, chain in state.chains.items() if state else ():
                if run_id in chain.runs:
                    return None, progress
            if reexecution is not None:
                return _rejoined(state, run_id, reexecution, plan)
            if state is not None and not fresh:
                chain = state.chains[state.current]
                if not chain.complete:
                    longer = chain.model_copy(update={"runs": [*chain.runs, run_id]})
                    return state.with_chain(state.current, longer), state.current
            progress = format_ulid(ids_to_array(ulids(1))[0].as_py())
            others = state or _State(current=progress, chains={})
            return others.with_chain(progress, _Chain(complete=False, runs=[run_id])), progress

        if fresh:
            read_all_again(self._folder)
        return self._update(joined)

    def open_stage(self, progress: str, stage: Stage, run_id: str) -> StageFolders:
        """Where the stage keeps its state; discarded first if the stage is to be done again.

        Raises:
            RunConflictError: It is to be discarded, and another live run holds it.
        """
        folders = self.folders(progress, stage)
        state = self._read()
        chain = state.chains.get(progress) if state else None
        if chain is None:
            return folders
        token = (chain.runs.index(run_id) + 1) * _TOKENS_PER_RUN if run_id in chain.runs else 1
        if stage.id in chain.redo:
            with Lease(folders.state, run_id, token) as lease:
                # The checkpoint first: without it, a crash here leaves nothing to go on from.
                CheckpointStore(folders.state / "checkpoint.json", lease).discard()
                remove_folder(folders.state / "edges")
            self._update(lambda state: (state and state.with_done(progress, stage.id), None))
        return replace(folders, token=token)

    def folders(self, progress: str, stage: Stage) -> StageFolders:
        """Where the stage keeps its state."""
        name = f"{safe_name(stage.id)[:80]}-{stage.hash[:12]}"
        return StageFolders(
            state=self._folder / progress / name,
            dead_letters=self._folder / "dead_letters" / progress,
        )

    def stage_folders(self, run_id: str) -> list[Path]:
        """The state folders of the stages that the run's attempt chain has begun."""
        state = self._read()
        return [
            self._folder / progress / name
            for progress, chain in (state.chains.items() if state else ())
            if run_id in chain.runs
            for name in names(self._folder / progress)
        ]

    def stage_ended(self, progress: str, plan: Plan) -> bool:
        """Mark the chain complete if its every stage is; other chains' data is removed then.

        Returns:
            Whether it is complete.
        """
        state = self._read()
        if state is None or progress not in state.chains:
            return False
        for stage in plan.stages:
            path = self.folders(progress, stage).state / "checkpoint.json"
            if not CheckpointStore(path).read().complete:
                return False

        if progress == state.current:
            promote(self._folder, progress, plan, lambda stage: self._completed(progress, stage))

        def ended(state: _State | None) -> tuple[_State | None, None]:
            chain = state.chains.get(progress) if state else None
            if state is None or chain is None:
                return None, None
            done = chain.model_copy(update={"complete": True})
            chains = {**state.chains, progress: done}
            if progress == state.current:
                live = {name for name in chains if name == progress or self._is_live(name)}
                chains = {name: chain for name, chain in chains.items() if name in live}
            return state.model_copy(update={"chains": chains}), None

        self._update(ended)
        self._remove_lost()
        return True

    def _completed(self, progress: str, stage: Stage) -> tuple[Path, Checkpoint]:
        folder = self.folders(progress, stage).state
        return folder, CheckpointStore(folder / "checkpoint.json").read()

    def _remove_lost(self) -> None:
        # Listed before the chains are read: a chain is there before its folder is.
        found = names(self._folder)
        state = self._read()
        kept = {*(state.chains if state else ()), "dead_letters", BOOKMARKS}
        for name in found if state else ():
            if name not in kept and not is_file(self._folder / name):
                keep_listing(self._folder, name)
                remove_folder(self._folder / name)

    def _is_live(self, progress: str) -> bool:
        """Whether some process is running a stage of the chain."""
        folder = self._folder / progress
        leases = (read_lease(folder / stage) for stage in names(folder))
        return any(lease is not None and lease.is_live for lease in leases)

    def _read(self) -> _State | None:
        return read_model(self._folder / "chains.json", _State, _REMEDY)

    def _update(
        self,
        change: Callable[[_State | None], tuple[_State | None, T]],
    ) -> T:
        return update_model(self._folder / "chains.json", _State, change, _REMEDY)


def _rejoined(
    state: _State | None, run_id: str, reexecution: Reexecution, plan: Plan | None
) -> tuple[_State, str]:
    for progress, chain in state.chains.items() if state else ():
        if state is not None and reexecution.of in chain.runs:
            again = _with_those_behind(plan, reexecution.redo) if plan else reexecution.redo
            rejoined = _Chain(
                complete=chain.complete and not again,
                runs=[*chain.runs, run_id],
                redo=list(dict.fromkeys([*chain.redo, *again])),
            )
            return state.with_chain(progress, rejoined), progress
    raise ProgressLostError(
        f"what run {reexecution.of} left behind is gone: a later run completed the graph, "
        "or the storage was cleared",
        remedy="launch the whole graph instead of a part of that run",
    )


def _with_those_behind(plan: Plan, stages: Collection[str]) -> Sequence[str]:
    """The stages and all that read, directly or not, what they make, in the plan's order."""
    found: dict[str, None] = {}
    for stage in plan.stages:
        before = {plan.stage_of[output.node].id for output in stage.inputs}
        if stage.id in stages or before & found.keys():
            found[stage.id] = None
    return list(found)
