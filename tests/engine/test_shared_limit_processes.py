"""Several processes that call one API keep its limit together, whatever happens to one of them."""

import json
import signal
import sys
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process
from servers.openai_stub import OpenAIStub

pytestmark = pytest.mark.anyio

TARGET = Path(__file__).parent / "limit_target.py"
LIMIT = 40
UNEVEN_SECONDS = 0.15
"""What the ways of requests to the stub differ by, where a machine has more to do."""


async def start(folder: Path, name: str, stub: OpenAIStub, count: int) -> Process:
    lines = [json.dumps({"text": f"{name} {number}"}) for number in range(count)]
    (folder / f"{name}.jsonl").write_text("\n".join(lines))
    command = [sys.executable, str(TARGET), str(folder), name, stub.url, str(LIMIT)]
    return await anyio.open_process(command, stdout=None, stderr=None)


async def end(process: Process) -> None:
    assert await process.wait() == 0


def came(stub: OpenAIStub, *names: str) -> list[float]:
    """When the requests of these processes came."""
    return [moment for moment, text in stub.moments if not names or text.split()[0] in names]


def most_in_a_second(moments: Sequence[float]) -> int:
    seconds = 1 - UNEVEN_SECONDS
    return max(bisect_left(moments, m + seconds) - n for n, m in enumerate(moments))


async def test_two_processes_stay_within_the_limit_of_their_connection(tmp_path: Path) -> None:
    stub = OpenAIStub(dimensions=16, watch=True)
    async with stub.serve():
        processes = [await start(tmp_path, name, stub, 80) for name in ("one", "two")]
        for process in processes:
            await end(process)
    moments = came(stub)
    assert len(moments) == 160
    assert most_in_a_second(moments) <= LIMIT
    both = [m for m in moments if max(came(stub, "one")[0], came(stub, "two")[0]) <= m]
    both = [m for m in both if m <= min(came(stub, "one")[-1], came(stub, "two")[-1])]
    # And together they use it.
    assert len(both) >= 0.75 * LIMIT * (both[-1] - both[0])


async def test_one_of_three_is_killed_and_the_others_go_on_within_the_limit(tmp_path: Path) -> None:
    stub = OpenAIStub(dimensions=16, watch=True)
    async with stub.serve():
        names = ("one", "two", "three")
        one, two, three = [await start(tmp_path, name, stub, 90) for name in names]
        with anyio.fail_after(60):
            while min(len(came(stub, name)) for name in names) < 6:  # noqa: ASYNC110 - time passes
                await anyio.sleep(0.02)
        three.send_signal(signal.SIGKILL)
        await three.wait()
        killed_at = anyio.current_time()
        await end(one)
        await end(two)
    moments = came(stub)
    assert most_in_a_second(moments) <= LIMIT
    assert (len(came(stub, "one")), len(came(stub, "two"))) == (90, 90)
    assert len(came(stub, "three")) < 90
    ends = min(came(stub, "one")[-1], came(stub, "two")[-1])
    assert ends - killed_at > 1
    after = [moment for moment in moments if killed_at <= moment <= ends]
    assert len(after) >= 0.75 * LIMIT * (ends - killed_at)
