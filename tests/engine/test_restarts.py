"""A stage that begins again after its sink lost an epoch, and is asked to stop meanwhile."""

from collections.abc import Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import anyio
import pyarrow as pa
import pytest

from nvisy_dagster.compiler import Plan, compile_graph
from nvisy_dagster.engine.drain import RunStoppedError, StopRequest
from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.engine.run import run_plan
from nvisy_dagster.graph.load import build_graph
from nvisy_dagster.registry import Registry
from nvisy_dagster.sdk import Capabilities, EpochLostError, Params, Sink

pytestmark = pytest.mark.anyio

LOST = "the session is gone"


class NoParams(Params):
    pass


class LosingSink(Sink[NoParams]):
    """Takes whatever it is given, and then loses it."""

    name = "losing"
    capabilities = Capabilities(write_mode="upsert")
    written = 0

    async def write(self, batch: pa.RecordBatch) -> None:
        type(self).written += 1

    async def commit(self, epoch: int) -> None:
        raise EpochLostError(LOST)


def plan(retry: Mapping[str, Any]) -> Plan:
    components = {
        "counter": EntryPoint("counter", "counting", "nvisy.connectors"),
        "losing": EntryPoint("losing", __name__, "nvisy.connectors"),
    }
    document = {
        "name": "restarts",
        "retry": retry,
        "nodes": [
            {"id": "count", "type": "source", "connector": "counter", "params": {"rows": 10}},
            {"id": "out", "type": "sink", "connector": "losing", "params": {}},
        ],
        "edges": [{"from": "count", "to": "out"}],
    }
    return compile_graph(build_graph(document), registry=Registry(components, {}))


@pytest.fixture(autouse=True)
def nothing_written() -> None:
    LosingSink.written = 0


async def test_a_stop_ends_the_pause_before_a_restart(tmp_path: Path) -> None:
    stop = StopRequest()
    slow = {"initial_delay_seconds": 60, "max_delay_seconds": 60, "backoff": "fixed"}

    async def ask() -> None:
        while not LosingSink.written:  # noqa: ASYNC110 - by a sink in another task
            await anyio.sleep(0.01)
        await anyio.sleep(0.3)
        stop.request()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            with pytest.raises(RunStoppedError) as caught:
                await run_plan(plan(slow), {}, storage=tmp_path, stop=stop)
    assert LOST in str(caught.value)
    assert not caught.value.drained
    assert LosingSink.written == 1


async def test_a_cancelled_run_ends_in_the_pause_too(tmp_path: Path) -> None:
    slow = {"initial_delay_seconds": 60, "max_delay_seconds": 60, "backoff": "fixed"}
    with anyio.move_on_after(0.5) as scope:
        await run_plan(plan(slow), {}, storage=tmp_path, stop=StopRequest())
    assert scope.cancelled_caught
    assert LosingSink.written == 1


async def test_restarts_are_as_many_as_the_retries(tmp_path: Path) -> None:
    quick = {"max_retries": 2, "initial_delay_seconds": 0.01}
    for stop in (None, StopRequest()):
        LosingSink.written = 0
        with pytest.raises(NodeError, match=LOST):
            await run_plan(plan(quick), {}, storage=tmp_path, stop=stop)
        assert LosingSink.written == 3
