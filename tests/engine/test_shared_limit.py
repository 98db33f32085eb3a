"""Rate limits shared by processes: here each limiter stands for one, in virtual time."""

import asyncio
import json
import random
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import BACKEND, VirtualTimeLoop

from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.engine.gate import limits_folder
from nvisy_dagster.engine.rate_limit import SPAN_SECONDS, Cost
from nvisy_dagster.engine.shared_limit import SharedRateLimiter
from nvisy_dagster.graph.policies import RateLimit

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return BACKEND


def most_within(taken: list[tuple[float, int]], span: float) -> int:
    """The most that was taken within any span that is open at its end."""
    return max(
        sum(amount for moment, amount in taken if start <= moment < start + span - 1e-6)
        for start, _ in taken
    )


@given(
    limit=st.integers(1, 400),
    per=st.sampled_from(["second", "minute"]),
    shares=st.lists(st.integers(1, 150), min_size=1, max_size=4),
    workers=st.integers(1, 5),
    # Busy processes: they look at their clock late, by up to this part of the span.
    lag=st.sampled_from([0.0, 0.001, 0.04, 0.2]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_all_together_never_more_than_the_limit_in_any_span(
    limit, per, shares, workers, lag, seed
) -> None:
    span = SPAN_SECONDS[per]
    delays = random.Random(seed)
    taken: list[tuple[float, int]] = []

    async def process(folder: Path, calls: int) -> None:
        limiter = SharedRateLimiter(RateLimit(requests=limit, per=per), folder, "one")
        left = [1] * calls

        async def worker() -> None:
            while left:
                left.pop()
                await limiter.take(Cost(requests=1))
                taken.append((anyio.current_time(), 1))

        async with anyio.create_task_group() as tasks:
            for _ in range(workers):
                tasks.start_soon(worker)

    async def scenario(folder: Path) -> None:
        loop: Any = asyncio.get_running_loop()
        loop.lag = lambda: delays.random() * lag * span
        async with anyio.create_task_group() as tasks:
            for calls in shares:
                tasks.start_soon(process, folder, calls)

    with TemporaryDirectory() as folder:
        anyio.run(scenario, Path(folder), backend_options={"loop_factory": VirtualTimeLoop})
    assert len(taken) == sum(shares)
    assert most_within(taken, span) <= limit
    if lag == 0:
        # And not much less, though nobody knows of the others.
        assert taken[-1][0] <= len(taken) / limit * span * 1.16 + span / limit


async def test_processes_are_served_in_the_order_in_which_they_ask(tmp_path: Path) -> None:
    """A large call is not passed by small ones for ever."""
    policy = RateLimit(tokens=1000, per="second")
    small, large = (SharedRateLimiter(policy, tmp_path, "one") for _ in range(2))
    moments: dict[str, float] = {}

    async def hammer() -> None:
        while "large" not in moments:
            await small.take(Cost(tokens=20))

    async def once() -> None:
        await anyio.sleep(0.1)
        await large.take(Cost(tokens=2000))
        moments["large"] = anyio.current_time()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(hammer)
        tasks.start_soon(once)
    assert moments["large"] < 0.3
    # The small one that came after it waited for its debt.
    assert anyio.current_time() - moments["large"] == pytest.approx(2, rel=0.2)


async def test_a_quick_process_reserves_ahead_and_what_it_leaves_is_void(tmp_path: Path) -> None:
    limiter = SharedRateLimiter(RateLimit(requests=10_000, per="second"), tmp_path, "one")
    uses = 0
    file = limiter._file
    locked = file.locked

    async def counted(use):
        nonlocal uses
        uses += 1
        return await locked(use)

    file.locked = counted
    for _ in range(1000):
        await limiter.take(Cost(requests=1))
        await anyio.sleep(0.0002)
    assert uses < 50
    await anyio.sleep(0.051)
    assert not limiter._spend({"requests": 1})


async def test_a_slow_process_reserves_nothing_ahead(tmp_path: Path) -> None:
    slow, other = (
        SharedRateLimiter(RateLimit(requests=100, per="second"), tmp_path, "one") for _ in range(2)
    )
    await slow.take(Cost(requests=1))
    await anyio.sleep(1)
    await slow.take(Cost(requests=1))
    for _ in range(4):
        await other.take(Cost(requests=1))
    assert anyio.current_time() == pytest.approx(1)


@pytest.mark.parametrize(
    "damage",
    [
        b"{",
        b"x" * 512,
        b"[1]".ljust(512),
        b'{"at": 0, "full_at": {"requests": Infinity}}'.ljust(512),
    ],
)
async def test_a_damaged_file_is_an_empty_bucket(tmp_path: Path, damage: bytes) -> None:
    policy = RateLimit(requests=60, per="minute")
    await SharedRateLimiter(policy, tmp_path, "one").take(Cost(requests=1))
    (file,) = tmp_path.iterdir()  # noqa: ASYNC240 - nothing else runs
    file.write_bytes(damage)
    assert anyio.current_time() == 0
    await SharedRateLimiter(policy, tmp_path, "one").take(Cost(requests=1))
    assert anyio.current_time() == pytest.approx(60 / 58, rel=0.02)
    json.loads(file.read_bytes())


async def test_another_clock_is_an_empty_bucket(tmp_path: Path) -> None:
    policy = RateLimit(requests=60, per="minute")
    await SharedRateLimiter(policy, tmp_path, "one").take(Cost(requests=1))
    (file,) = tmp_path.iterdir()  # noqa: ASYNC240 - nothing else runs
    file.write_bytes(b'{"at": 1e9, "full_at": {"requests": 1e9}}'.ljust(512))
    await SharedRateLimiter(policy, tmp_path, "one").take(Cost(requests=1))
    assert anyio.current_time() == pytest.approx(60 / 58, rel=0.02)


async def test_who_gives_up_gives_back_what_it_waited_for(tmp_path: Path) -> None:
    one, other = (
        SharedRateLimiter(RateLimit(requests=1, per="minute"), tmp_path, "one") for _ in range(2)
    )
    await one.take(Cost(requests=1))
    with anyio.move_on_after(10):
        await one.take(Cost(requests=1))
    await other.take(Cost(requests=1))
    assert anyio.current_time() == pytest.approx(60.5)


async def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "limits").write_text("in the way")
    limiter = SharedRateLimiter(RateLimit(requests=1), tmp_path / "limits", "one")
    with pytest.raises(StorageError, match="one@"):
        await limiter.take(Cost(requests=1))


def test_a_replay_keeps_to_the_limits_of_the_runs(tmp_path: Path) -> None:
    assert limits_folder(tmp_path) == tmp_path / "limits"
    assert limits_folder(tmp_path / "replays" / "graph" / "01ABC") == tmp_path / "limits"
