"""Replaying dead letters for `nvisy dead-letters replay`: choose, run, show, tell how it ended."""

import json
import os
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nvisy_dagster.cli.dead_letters_view import choose_open
from nvisy_dagster.cli.exit_codes import ExitCode
from nvisy_dagster.cli.failures import describe, error_lines, exit_code
from nvisy_dagster.cli.interruption import InterruptedRunError, Interruption
from nvisy_dagster.cli.loading import FileErrors, LoadedGraph, load
from nvisy_dagster.cli.run_record import RunRecord
from nvisy_dagster.cli.run_view import View, choose_view, print_table
from nvisy_dagster.cli.running import raised
from nvisy_dagster.compiler import Plan
from nvisy_dagster.engine.connections import open_connections
from nvisy_dagster.engine.dead_letter_box import DeadLetterBox
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.engine.replay import begin_anew, refused_in_words
from nvisy_dagster.engine.replay_selection import Selection, select_letters, unfinished
from nvisy_dagster.engine.storage_place import storage_root
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.translator.storage_folder import writable_storage

if TYPE_CHECKING:
    from nvisy_dagster.engine.replay import ReplayResult
    from nvisy_dagster.translator.replay import ReplayExecution


@dataclass(frozen=True)
class ReplayRequest:
    """What `nvisy dead-letters replay` was asked to do."""

    graph: Path
    letters: Sequence[str] = ()
    chosen: Mapping[str, str | None] | None = None
    connections_file: Path | None = None
    storage: Path | None = None
    fresh: bool = False
    quiet: bool = False
    as_json: bool = False
    debug: bool = False

    @property
    def names_some(self) -> bool:
        """Whether it says which letters are meant."""
        return bool(self.letters) or any((self.chosen or {}).values())

    @property
    def state_folder(self) -> Path:
        """Root folder of run state."""
        return storage_root(self.storage)


class _LateView:
    """Shows a replay as soon as it is known what is run."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._stack = ExitStack()
        self._view: View | None = None
        self.record: RunRecord | None = None

    def planned(self, plan: Plan) -> None:
        if self.record is None:
            self.record = RunRecord(plan)
            self._view = self._stack.enter_context(choose_view(self.record, quiet=self._quiet))

    def observe(self, metrics: Sequence[NodeMetrics]) -> None:
        if self._view is not None:
            self._view.observe(metrics)

    def stopping(self) -> None:
        if self.record is not None:
            self.record.stopping = True

    def close(self) -> None:
        self._stack.close()


def replay(request: ReplayRequest) -> ExitCode:
    """Replay dead letters and tell how it went.

    Raises:
        ConfigError: The graph, its connections or the letters are wrong; nothing was run.
        RunConflictError: A replay is going on that should be forgotten.
    """
    loaded = load(request.graph, request.connections_file)
    try:
        connections = open_connections(loaded.plan, loaded.connections, os.environ)
    except GraphErrors as errors:
        raise FileErrors(errors, loaded.connections_path or loaded.path) from errors
    with writable_storage(request.state_folder):
        selection, made = _selection(request, loaded)
        if selection is None:
            return _nothing(request)
        view = _LateView(quiet=request.quiet)
        try:
            done, error = _execute(request, loaded, selection, view)
        finally:
            view.close()
        if made and error is not None and exit_code(error) is ExitCode.CONFLICT:
            # It was not begun: the next one may choose others.
            selection.remove()
    _tell(request, view.record, done, error, connections.redactor.scrub)
    if isinstance(error, InterruptedRunError):
        return ExitCode.INTERRUPTED
    if error is not None:
        return exit_code(error)
    return ExitCode.FAILED if _fell_short(request, done) else ExitCode.SUCCESS


def _fell_short(request: ReplayRequest, done: "ReplayExecution | None") -> bool:
    """Whether a letter that was asked for is not where it belongs, or none is.

    Where all that are open were meant, what failed again is a dead letter as after a run; but a
    replay that brought nothing through has done nothing.
    """
    result = done.result if done is not None else None
    if result is None:
        return False
    if request.names_some and (result.failed or result.refused):
        return True
    return result.letters > 0 and result.through == 0


def _selection(request: ReplayRequest, loaded: LoadedGraph) -> tuple[Selection | None, bool]:
    """What to replay, and whether that was chosen just now."""
    storage, graph = request.state_folder, loaded.plan.name
    if request.fresh:
        begin_anew(storage, graph)
    pending = unfinished(storage, graph)
    if pending:
        click.echo("going on with a replay that was cut off; --fresh forgets it", err=True)
        return pending[0], False
    box = DeadLetterBox(storage, graph)
    chosen = choose_open(box, graph, request.letters, request.chosen or {})
    return (select_letters(storage, graph, chosen), True) if chosen.num_rows else (None, False)


def _nothing(request: ReplayRequest) -> ExitCode:
    document = {"success": True, "letters": 0, "through": 0, "left": 0, "refused": 0}
    click.echo(json.dumps(document, indent=2) if request.as_json else "no open dead letters")
    return ExitCode.SUCCESS


def _execute(
    request: ReplayRequest, loaded: LoadedGraph, selection: Selection, view: _LateView
) -> tuple["ReplayExecution | None", Exception | None]:
    # Imported here: only a replay pays for importing Dagster.
    import dagster as dg

    from nvisy_dagster.translator.replay import execute_replay

    interruption = Interruption(view.stopping, lambda: "the next replay goes on")

    def listen_and_observe(metrics: Sequence[NodeMetrics]) -> None:
        interruption.listen()
        view.observe(metrics)

    try:
        done = execute_replay(
            loaded.plan,
            loaded.connections,
            storage=request.state_folder,
            selection=selection.id,
            observe=listen_and_observe,
            planned=view.planned,
        )
    except (KeyboardInterrupt, dg.DagsterExecutionInterruptedError):
        return None, InterruptedRunError()
    except Exception as error:  # noqa: BLE001 - told to the user, whatever it is
        return None, error
    if done.success:
        return done, None
    if done.failure is None or interruption.received:
        return done, InterruptedRunError()
    return done, raised(done.failure)


def _tell(
    request: ReplayRequest,
    record: RunRecord | None,
    done: "ReplayExecution | None",
    error: Exception | None,
    scrub: Callable[[str], str],
) -> None:
    result = done.result if done is not None else None
    if record is not None and result is not None:
        record.succeed(list(result.metrics.values()))
    elif record is not None:
        record.fail(getattr(error, "node", None))
    if request.debug and error is not None:
        click.echo(scrub("".join(traceback.format_exception(error))), err=True)
    if request.as_json:
        click.echo(json.dumps(_to_json(request, record, done, error, scrub), indent=2))
        return
    if record is not None and not request.quiet:
        print_table(record)
    if result is not None and not request.quiet:
        through = click.style(f"{result.through:,} got through", fg="green")
        left = f", {counted(result.failed)} left of them" if result.failed else ""
        click.echo(f"{counted(result.letters)} replayed: {through}{left}")
    _tell_what_is_left_to_runs(result, scrub)
    if isinstance(error, InterruptedRunError):
        click.echo("interrupted: every client is closed, and the next replay goes on", err=True)
    elif error is not None:
        for line in error_lines(error, scrub):
            click.echo(line, err=True)


def _tell_what_is_left_to_runs(result: "ReplayResult | None", scrub: Callable[[str], str]) -> None:
    refused = result.refused if result is not None else ()
    told = refused_in_words([one for one in refused if one.read_again])
    if told is not None:
        click.echo(scrub(told), err=True)


def counted(letters: int) -> str:
    """A number of letters in words."""
    return f"{letters:,} {'letter' if letters == 1 else 'letters'}"


def _to_json(
    request: ReplayRequest,
    record: RunRecord | None,
    done: "ReplayExecution | None",
    error: Exception | None,
    scrub: Callable[[str], str],
) -> dict[str, Any]:
    result = done.result if done is not None else None
    failure: dict[str, Any] | None = None
    if isinstance(error, InterruptedRunError):
        failure = {"kind": "interrupted", "message": "a signal ended the replay", "remedy": None}
    elif error is not None:
        failure = describe(error, scrub)
    return {
        "success": error is None and not _fell_short(request, done),
        "file": str(request.graph),
        "run_id": done.run_id if done is not None else None,
        "letters": result.letters if result else 0,
        "through": result.through if result else 0,
        "left": result.failed if result else 0,
        "refused": sum(one.letters for one in result.refused) if result else 0,
        "left_to_runs": (
            sum(one.letters for one in result.refused if one.read_again) if result else 0
        ),
        "nodes": [node.to_json() for node in record.nodes.values()] if record else [],
        "error": failure,
    }
