import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvisy_dagster.engine.attempts import retry_delay
from nvisy_dagster.engine.calls import OrderedCalls
from nvisy_dagster.graph.policies import Retry

pytestmark = pytest.mark.anyio


@given(
    attempt=st.integers(1, 2000),
    initial=st.floats(0.001, 30),
    backoff=st.sampled_from(["fixed", "exponential", "jitter"]),
    retry_after=st.none() | st.floats(0, 100),
)
def test_delays_stay_within_what_was_asked(attempt, initial, backoff, retry_after) -> None:
    retry = Retry(backoff=backoff, initial_delay_seconds=initial, max_delay_seconds=30)
    delay = retry_delay(retry, attempt, retry_after)
    assert delay >= (retry_after or 0)
    assert delay <= max(30, retry_after or 0)


def test_exponential_doubles_up_to_its_cap() -> None:
    retry = Retry(backoff="exponential", initial_delay_seconds=1, max_delay_seconds=5)
    assert [retry_delay(retry, n, None) for n in (1, 2, 3, 4, 5)] == [1, 2, 4, 5, 5]


def test_fixed_stays_and_jitter_spreads() -> None:
    fixed = Retry(backoff="fixed", initial_delay_seconds=2)
    assert {retry_delay(fixed, n, None) for n in range(1, 9)} == {2}
    jitter = Retry(backoff="jitter", initial_delay_seconds=1, max_delay_seconds=8)
    delays = [retry_delay(jitter, 4, None) for _ in range(200)]
    assert min(delays) < 2
    assert max(delays) > 6


async def test_results_come_in_order_while_calls_overlap() -> None:
    running = peak = 0
    got: list[int] = []

    async def call(n: int) -> int:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        await anyio.sleep(0.01 if n % 5 == 0 else 0.001)
        running -= 1
        return n

    async def emit(n: int) -> None:
        got.append(n)

    async def mark() -> None:
        got.append(-1)

    async with OrderedCalls(limit=4, window=16) as calls:
        for n in range(40):
            await calls.submit(call, n, emit)
            if n == 19:
                await calls.in_order(mark)
    assert got == [*range(20), -1, *range(20, 40)]
    assert peak == 4


async def test_one_slow_call_does_not_idle_the_others() -> None:
    started: list[int] = []
    gate = anyio.Event()

    async def call(n: int) -> int:
        started.append(n)
        if n == 0:
            await gate.wait()
        return n

    async def emit(n: int) -> None:
        pass

    async with anyio.create_task_group() as tasks:

        async def submit() -> None:
            async with OrderedCalls(limit=2, window=8) as calls:
                for n in range(6):
                    await calls.submit(call, n, emit)

        tasks.start_soon(submit)
        await anyio.wait_all_tasks_blocked()
        assert started == list(range(6))
        gate.set()


async def test_a_failing_call_ends_them_all() -> None:
    cancelled: list[int] = []

    async def call(n: int) -> int:
        if n == 3:
            raise ValueError("three")
        try:
            await anyio.sleep(10)
        except anyio.get_cancelled_exc_class():
            cancelled.append(n)
            raise
        return n

    async def emit(n: int) -> None:
        pass

    async def submit() -> None:
        async with OrderedCalls(limit=4, window=8) as calls:
            for n in range(4):
                await calls.submit(call, n, emit)

    with pytest.raises(BaseExceptionGroup) as caught:
        await submit()
    assert caught.group_contains(ValueError, match="three")
    assert sorted(cancelled) == [0, 1, 2]
