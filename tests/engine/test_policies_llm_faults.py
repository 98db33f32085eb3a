"""A run that embeds over HTTP while the provider has a bad day, or is gone altogether.

Everything is real but the provider: files, the `embed` action, its HTTP client, the engine.
`NVISY_TEST_SEED` repeats a storm.
"""

import json
import os
import random
import resource
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from pydantic import SecretStr
from servers.openai_stub import LLM_FAULTS, OpenAIStub

from nvisy_connectors.ai.openai_connection import OpenAIConnection
from nvisy_dagster.compiler import Plan, compile_document
from nvisy_dagster.engine.failure import NodeError
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.engine.run import RunResult, run_plan
from nvisy_dagster.graph.connections import build_connections

pytestmark = pytest.mark.anyio

DIMENSIONS = 16
AT_ONCE = 12
PAGE_BYTES = resource.getpagesize()


@pytest.fixture
def seed() -> int:
    chosen = int(os.environ.get("NVISY_TEST_SEED") or random.randrange(10**6))
    print(f"NVISY_TEST_SEED={chosen}")  # noqa: T201
    return chosen


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def write_texts(folder: Path, count: int, size: int = 0) -> list[str]:
    texts = [f"text {number} ".ljust(size, "x") for number in range(count)]
    lines = [json.dumps({"text": text}) for text in texts]
    (folder / "texts.jsonl").write_text("\n".join(lines))
    return texts


def plan(folder: Path, batch_rows: int, limits: dict[str, Any], **policies: Any) -> Plan:
    read = {"path": str(folder / "texts.jsonl"), "format": "jsonl"}
    write = {"path": str(folder / "out"), "format": "jsonl"}
    embed = {"model": "stub", "dimensions": DIMENSIONS, "batch_rows": batch_rows}
    document = {
        "name": "faults",
        "nodes": [
            {"id": "read", "type": "source", "connector": "local", "params": read},
            {
                "id": "embed",
                "type": "action",
                "action": "embed",
                "connection": "models",
                "params": embed,
                "concurrency": {"max_per_node": AT_ONCE},
                **policies,
            },
            {"id": "write", "type": "sink", "connector": "local", "params": write},
        ],
        "edges": [{"from": "read", "to": "embed"}, {"from": "embed", "to": "write"}],
    }
    connections = build_connections({"models": {"type": "openai", **limits}})
    return compile_document(document, connections=connections)


async def run(plan: Plan, stub: OpenAIStub, folder: Path, **options: Any) -> RunResult:
    models = OpenAIConnection(api_key=SecretStr("k"), base_url=stub.url)
    return await run_plan(plan, {"models": models}, storage=folder / "state", **options)


def check_written(folder: Path, texts: list[str], stub: OpenAIStub) -> None:
    lines = [
        json.loads(line)
        for file in sorted((folder / "out").rglob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    assert sorted(line["text"] for line in lines) == sorted(texts)
    for line in lines[:: max(1, len(lines) // 200)]:
        assert line["vector"] == pytest.approx(stub.vectors.of(line["text"]).tolist(), abs=1e-5)


async def test_a_bad_day(tmp_path: Path, seed: int) -> None:
    texts = write_texts(tmp_path, 1000)
    stub = OpenAIStub(
        dimensions=DIMENSIONS, request_seconds=0.03, rates=LLM_FAULTS, watch=True, seed=seed
    )
    graph = plan(
        tmp_path,
        4,
        {},
        retry={"max_retries": 8, "initial_delay_seconds": 0.05, "backoff": "jitter"},
        timeout={"call_seconds": 0.6},
    )
    async with stub.serve():
        result = await run(graph, stub, tmp_path)
    check_written(tmp_path, texts, stub)
    print(dict(stub.faulty), stub.counts, result.metrics["embed"].counts)  # noqa: T201
    # Every kind of fault was met, but perhaps the rarest.
    assert set(stub.faulty) >= {str(fault) for rate, fault in LLM_FAULTS if rate > 0.01}
    assert sum(stub.attempts.values()) <= 1.5 * len(texts)
    assert set(stub.attempts) == set(texts)
    assert stub.counts["early"] == 0
    # All at once are met by chance, and not on a slow machine; more of them never.
    assert AT_ONCE // 2 < stub.counts["most_in_flight"] <= AT_ONCE
    counts = result.metrics["embed"].counts
    assert counts.records_in == counts.records_out == len(texts)
    assert counts.retries == counts.calls - 250
    assert counts.retry_wait_seconds > 1


async def test_the_limit_of_a_connection_holds_for_all_its_attempts(
    tmp_path: Path, seed: int
) -> None:
    texts = write_texts(tmp_path, 200)
    stub = OpenAIStub(dimensions=DIMENSIONS, rates=[(0.1, "reset")], watch=True, seed=seed)
    moments: list[float] = []
    note = stub._note

    def noting(some: list[str]) -> None:
        moments.append(time.monotonic())
        note(some)

    stub._note = noting
    limits = {"rate_limit": {"requests": 20, "per": "second"}}
    async with stub.serve():
        graph = plan(tmp_path, 5, limits, retry={"initial_delay_seconds": 0.01})
        result = await run(graph, stub, tmp_path)
    check_written(tmp_path, texts, stub)
    assert len(moments) >= 40
    for start in moments:
        # One more than the limit: what the client's own clock and the network shift.
        assert sum(start <= moment < start + 0.98 for moment in moments) <= 21
    assert result.metrics["embed"].counts.rate_limit_wait_seconds > 1


async def outage(tmp_path: Path, seconds: float, records: int) -> None:
    texts = write_texts(tmp_path, records, size=2000)
    stub = OpenAIStub(dimensions=DIMENSIONS, request_seconds=0.005, watch=True)
    graph = plan(
        tmp_path,
        20,
        {},
        retry={"max_retries": 8, "initial_delay_seconds": 0.5},
        timeout={"call_seconds": 5},
    )
    moments: list[float] = []
    note = stub._note

    def noting(some: list[str]) -> None:
        moments.append(time.monotonic())
        note(some)

    stub._note = noting
    memory: list[int] = []
    finished = anyio.Event()
    seen: dict[str, NodeMetrics] = {}

    def observe(metrics: Sequence[NodeMetrics]) -> None:
        seen.update({one.node: one for one in metrics})

    results: list[RunResult] = []

    async def work() -> None:
        results.append(await run(graph, stub, tmp_path, observe=observe))
        finished.set()

    async with anyio.create_task_group() as tasks, AsyncExitStack() as stack:
        up = await stack.enter_async_context(AsyncExitStack())
        await up.enter_async_context(stub.serve())
        tasks.start_soon(work)
        while stub.counts["requests"] < records / 20 / 4:  # noqa: ASYNC110 - the stub tells nobody
            await anyio.sleep(0.01)
        port = int(stub.url.rpartition(":")[2].partition("/")[0])
        await up.aclose()
        before, calls_before = len(moments), seen["embed"].counts.calls
        ends = time.monotonic() + seconds
        await anyio.sleep(0.5)
        while time.monotonic() < ends:
            memory.append(resident_bytes())
            await anyio.sleep(0.1)
        assert len(moments) == before
        assert not finished.is_set()
        calls = seen["embed"].counts.calls - calls_before
        back = time.monotonic()
        async with stub.serve(port):
            await finished.wait()
    check_written(tmp_path, texts, stub)
    print(f"grown by {max(memory) - memory[0]:,} bytes, {calls} calls while it was down")  # noqa: T201
    print(f"recovered after {moments[before] - back:.2f} s")  # noqa: T201
    assert max(memory) - memory[0] < 32 * 1024 * 1024
    # Those that were under way, their first retries and one probe at a time.
    assert calls <= 3 * AT_ONCE + seconds / 5 + 6
    assert moments[before] - back < 10
    # All of them go on, not the probe alone.
    assert len([m for m in moments if m < moments[before] + 1]) - before > 2 * AT_ONCE
    counts = results[0].metrics["embed"].counts
    assert counts.breaker_wait_seconds > (seconds - 3) * (AT_ONCE - 1)
    assert sum(stub.attempts.values()) <= 1.1 * len(texts)


async def test_an_outage_is_ridden_out(tmp_path: Path) -> None:
    await outage(tmp_path, 5, 20_000)


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_a_long_outage_is_ridden_out(tmp_path: Path) -> None:
    await outage(tmp_path, 30, 60_000)


async def test_an_outage_ends_a_run_whose_policy_is_short(tmp_path: Path) -> None:
    write_texts(tmp_path, 2000)
    stub = OpenAIStub(dimensions=DIMENSIONS)
    async with stub.serve():
        pass
    graph = plan(tmp_path, 5, {}, retry={"max_retries": 2, "initial_delay_seconds": 0.5})
    started = time.monotonic()
    with pytest.raises(NodeError, match="cannot be reached") as caught:
        await run(graph, stub, tmp_path)
    assert (caught.value.tag, caught.value.retryable) == ("connection", True)
    assert 1.5 <= time.monotonic() - started < 30
