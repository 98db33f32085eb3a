import anyio
import pyarrow as pa
import pytest

from nvisy_dagster.engine.channel import Channel, Inlet, Outlet
from nvisy_dagster.engine.message import END, Barrier

pytestmark = pytest.mark.anyio


def batch(n: int, rows: int = 8) -> pa.RecordBatch:
    return pa.record_batch({"n": pa.array([n] * rows, pa.int64())})


async def drain(inlet: Inlet) -> list[object]:
    return [m if isinstance(m, Barrier) else m["n"][0].as_py() async for m in inlet.messages()]


async def test_a_full_channel_holds_its_sender_back() -> None:
    channel = Channel(limit_bytes=3 * batch(0).nbytes)
    sent: list[int] = []

    async def send() -> None:
        for n in range(10):
            await channel.send(batch(n))
            sent.append(n)
        await channel.send(END)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        await anyio.wait_all_tasks_blocked()
        assert sent == [0, 1, 2]
        assert await drain(Inlet([channel])) == list(range(10))
    assert channel.peak_bytes <= 3 * batch(0).nbytes


async def test_a_message_larger_than_the_limit_passes_alone() -> None:
    channel = Channel(limit_bytes=1)

    async def send() -> None:
        for n in range(3):
            await channel.send(batch(n, rows=1000))
        await channel.send(END)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        assert await drain(Inlet([channel])) == [0, 1, 2]
    assert channel.peak_bytes == batch(0, rows=1000).nbytes


async def test_no_more_than_the_limit_is_held() -> None:
    channel, size = Channel(limit_bytes=3 * batch(0).nbytes), batch(0).nbytes
    sent: list[int] = []

    async def send() -> None:
        for rows in (16, 16, 8, 8):
            await channel.send(batch(0, rows))
            await channel.send(Barrier(1))
            sent.append(rows)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(send)
        await anyio.wait_all_tasks_blocked()
        assert sent == [16]
        channel.pop()
        await anyio.wait_all_tasks_blocked()
        assert sent == [16, 16, 8]
        tasks.cancel_scope.cancel()
    assert channel.peak_bytes == 3 * size


async def test_barriers_are_aligned_and_passed_on_once() -> None:
    one, two = Channel(), Channel()
    for message in (batch(1), Barrier(1), batch(11), Barrier(2), END):
        await one.send(message)
    for message in (Barrier(1), batch(21), batch(22), Barrier(2), batch(31), END):
        await two.send(message)
    got = await drain(Inlet([one, two]))
    first, second = got.index(Barrier(1)), got.index(Barrier(2))
    assert got[:first] == [1]
    assert sorted(map(str, got[first + 1 : second])) == ["11", "21", "22"]
    assert got[second + 1 :] == [31]


async def test_an_ended_channel_does_not_hold_a_barrier_back() -> None:
    one, two = Channel(), Channel()
    for message in (batch(1), END):
        await one.send(message)
    for message in (batch(2), Barrier(1), batch(3), END):
        await two.send(message)
    got = await drain(Inlet([one, two]))
    assert sorted(map(str, got[:2])) == ["1", "2"]
    assert got[2:] == [Barrier(1), 3]


async def test_a_channel_behind_its_barrier_waits_for_the_others() -> None:
    one, two = Channel(), Channel()
    got: list[object] = []

    async def read() -> None:
        async for message in Inlet([one, two]).messages():
            shown = message if isinstance(message, Barrier) else message["n"][0].as_py()
            got.append(shown)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read)
        for message in (Barrier(1), batch(5)):
            await one.send(message)
        await anyio.wait_all_tasks_blocked()
        assert got == []
        await two.send(Barrier(1))
        await anyio.wait_all_tasks_blocked()
        assert got == [Barrier(1), 5]
        await one.send(END)
        await two.send(END)


async def test_an_outlet_gives_every_reader_every_message() -> None:
    channels = [Channel(), Channel(), Channel()]
    outlet = Outlet(channels)
    await outlet.send(batch(1))
    await outlet.send(Barrier(1))
    await outlet.end()
    for channel in channels:
        assert await drain(Inlet([channel])) == [1, Barrier(1)]


class Clock:
    """Time that passes when told to."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


async def test_what_a_slow_reader_does_not_take_in_time_is_not_let_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    monkeypatch.setattr("nvisy_dagster.engine.channel.time", clock)
    size = batch(0).nbytes
    channel = Channel(limit_bytes=20 * size, patience_seconds=1.0)
    held = 0

    async def fill() -> None:
        nonlocal held
        while True:
            await channel.send(batch(0))
            held += 1

    async def take(seconds: float) -> int:
        """Take a message each so many seconds until none is left; how many it then takes."""
        nonlocal held
        while channel:
            clock.now += seconds
            channel.pop()
        held = 0
        await anyio.wait_all_tasks_blocked()
        return held

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fill)
        await anyio.wait_all_tasks_blocked()
        assert held == 1, "before it is known how long it waits, one message is enough"
        assert [await take(0.01) for _ in range(4)] == [2, 8, 20, 20]
        assert await take(0.5) <= 2
        await take(0.01)
        assert await take(0.01) >= 4
        tasks.cancel_scope.cancel()
