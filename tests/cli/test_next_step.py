"""What `nvisy run` recommends after a run that did not succeed."""

import pytest
from cli.conftest import counter, table, write_graph

from nvisy_dagster.cli.interruption import InterruptedRunError
from nvisy_dagster.cli.next_step import next_step
from nvisy_dagster.compiler import compile_file
from nvisy_dagster.engine.failure import BEGIN_ANEW, NodeError, RunConflictError, StorageError
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.sdk import NvisyError

AGAIN = "run it again: it goes on from the last checkpoint (nvisy run g.json)"
CORRECT = "correct it and run again: it goes on from the last checkpoint (nvisy run g.json)"
HIGHER = "begin anew (nvisy run g.json --fresh), or with a higher limit go on (nvisy run g.json)"
ANEW = "begin anew (nvisy run g.json --fresh)"


def node_error(*, retryable: bool, tag: str | None = None) -> NodeError:
    return NodeError("table", "it failed", retryable=retryable, tag=tag)


ERRORS = [
    (InterruptedRunError(), AGAIN),
    (node_error(retryable=True, tag="connection"), AGAIN),
    (node_error(retryable=True, tag="changed"), AGAIN),
    (node_error(retryable=False, tag="bug"), AGAIN),
    (NvisyError("the run took longer than 1 s", tag="timeout"), AGAIN),
    (NvisyError("the process died", tag="crash"), AGAIN),
    (KeyError("x"), AGAIN),
    (node_error(retryable=False, tag="validation"), CORRECT),
    (StorageError("no space left"), CORRECT),
    (node_error(retryable=False, tag="changed"), ANEW),
    (StorageError("a part is damaged", remedy=BEGIN_ANEW), ANEW),
    (NvisyError("made by another attempt", tag="progress_lost"), ANEW),
    (node_error(retryable=False, tag="error_limit"), HIGHER),
    (RunConflictError("another run holds it"), None),
    (GraphErrors([]), None),
]


@pytest.fixture
def graph(counting, nvisy, here):
    """Refuses its last records."""
    nodes = [counter(rows=300, batch_rows=10, pause_seconds=0.01), table(here, refuse=[290])]
    every_batch = {"interval_rows": 10, "interval_seconds": 0.05}
    return write_graph(here / "g.json", nodes, checkpoint=every_batch)


def test_the_step_fits_the_error(nvisy, here, graph):
    assert nvisy("run", graph, "--engine-only").exit_code == 1
    plan = compile_file(graph)
    for error, step in ERRORS:
        assert next_step(error, plan, here / ".nvisy", "nvisy run g.json") == step, repr(error)


def test_without_a_checkpoint_nothing_is_said_to_go_on(nvisy, here, graph):
    plan = compile_file(graph)
    storage = here / ".nvisy"
    for error, step in ERRORS:
        alone = {AGAIN: "run it again (nvisy run g.json)", CORRECT: None}.get(step, step)
        assert next_step(error, plan, storage, "nvisy run g.json") == alone, repr(error)


def test_a_complete_run_leaves_nothing_to_go_on_from(nvisy, here, graph):
    graph.write_text(graph.read_text().replace("290", "1000"))
    assert nvisy("run", graph, "--engine-only").exit_code == 0
    step = next_step(InterruptedRunError(), compile_file(graph), here / ".nvisy", "nvisy run")
    assert step == "run it again (nvisy run)"


def test_the_command_is_the_one_that_was_given(nvisy, graph):
    told = nvisy("run", graph, "--engine-only", "--storage", "my state").stderr
    assert f"last checkpoint (nvisy run {graph} --storage 'my state')\n" in told
