"""What calls do while their system is down: held, probing, giving up; in virtual time."""

from collections import Counter

import anyio
import pytest
from virtual_time import BACKEND

from nvisy_dagster.engine.breaker import FAILURES_TO_OPEN, Breaker
from nvisy_dagster.engine.calls import Caller
from nvisy_dagster.engine.gate import Gate
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.engine.rate_limit import Cost, RateLimiter
from nvisy_dagster.engine.retry_budget import RESERVE, RetryBudget
from nvisy_dagster.graph.policies import Policies, RateLimit, Retry
from nvisy_dagster.sdk import DataError, TransientError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return BACKEND


class System:
    """Is down from one moment to another; a call takes 0.1 s."""

    def __init__(self, down: float, up: float, tag: str = "connection") -> None:
        self.down, self.up, self.tag = down, up, tag
        self.calls: list[float] = []
        self.in_flight = self.most = 0

    async def __call__(self, number: int) -> int:
        now = anyio.current_time()
        self.calls.append(now)
        self.in_flight += 1
        self.most = max(self.most, self.in_flight)
        await anyio.sleep(0.1)
        self.in_flight -= 1
        if self.down <= now < self.up:
            raise TransientError(f"down at {now:.2f}", tag=self.tag)
        return number

    def within(self, start: float, end: float) -> int:
        return sum(start <= moment < end for moment in self.calls)


async def work(
    system: System, calls: int, workers: int, metrics: NodeMetrics, gate: Gate, **retry: object
) -> list[int]:
    """Make calls, so many at once; returns what succeeded."""
    waiting, done = list(range(calls)), []
    caller = Caller(Policies(retry=Retry.model_validate(retry)), metrics, gate=gate)

    async def worker() -> None:
        while waiting:
            done.append(await caller.call(system, waiting.pop()))

    async with anyio.create_task_group() as tasks:
        for _ in range(workers):
            tasks.start_soon(worker)
    return done


async def test_a_long_policy_rides_out_an_outage_and_recovers_soon() -> None:
    system, metrics = System(down=5, up=35), NodeMetrics("n", "action")
    done = await work(system, 2000, 8, metrics, Gate(), max_retries=6)
    assert sorted(done) == list(range(2000))
    # The first failures of the 8 workers, then one probe at a time, at most 5 s apart.
    assert system.within(5, 6) <= 8 + 2
    assert 6 <= system.within(6, 35) <= 10
    gaps = [b - a for a, b in zip(system.calls, system.calls[1:], strict=False)]
    assert max(gaps) <= 5.0 + 0.1 + 1e-6
    assert system.within(35, 45) > 8 * 10 * 4
    # 1.1x and the reserve: attempts against records.
    assert len(system.calls) <= 2000 * 1.1 + RESERVE
    assert metrics.counts.breaker_wait_seconds > 7 * 25
    assert metrics.counts.retries == len(system.calls) - 2000


async def test_a_short_policy_fails_soon_with_the_last_real_error() -> None:
    system, metrics = System(down=5, up=1e9), NodeMetrics("n", "action")
    with pytest.raises(BaseExceptionGroup) as caught:
        await work(system, 10_000, 8, metrics, Gate())
    error = next(leaf for leaf in caught.value.exceptions)
    assert isinstance(error, TransientError)
    assert error.tag == "connection"
    assert "down at" in error.message
    # Its patience is 1 + 2 + 4 s.
    assert 5 + 7 <= anyio.current_time() <= 5 + 7 + 1


async def test_a_policy_without_retries_fails_at_once() -> None:
    gate = Gate()
    system = System(down=0, up=1e9)
    for _ in range(FAILURES_TO_OPEN + 3):
        with pytest.raises(TransientError, match="down at"):
            await work_one(system, gate, max_retries=0)
    assert anyio.current_time() < 2
    # The last ones were not let through at all, but for a probe.
    assert len(system.calls) < FAILURES_TO_OPEN + 3


async def work_one(system: System, gate: Gate, **retry: object) -> int:
    policies = Policies(retry=Retry.model_validate(retry))
    return await Caller(policies, NodeMetrics("n", "action"), gate=gate).call(system, 1)


async def test_being_held_uses_up_no_attempts() -> None:
    # Two retries allow three attempts; probes at 0.25, 0.75, ... s fail five times and more.
    system = System(down=0, up=11.9)
    metrics = NodeMetrics("n", "action")
    done = await work(
        system, 6, 6, metrics, Gate(), max_retries=2, backoff="fixed", initial_delay_seconds=10
    )
    assert len(done) == 6


async def test_refusals_of_the_rate_do_not_open_the_breaker() -> None:
    system = System(down=0, up=3, tag="rate_limit")
    gate = Gate()
    done = await work(system, 50, 8, NodeMetrics("n", "action"), gate, max_retries=5)
    assert len(done) == 50
    assert not gate.breaker.is_open
    assert gate.breaker.error is None


async def test_a_probe_that_is_cancelled_leaves_the_place_to_another() -> None:
    gate = Gate()
    system = System(down=0, up=1)
    hung = anyio.Event()

    async def hang(_: int) -> None:
        hung.set()
        await anyio.sleep_forever()

    for _ in range(FAILURES_TO_OPEN):
        gate.breaker.failed(TransientError("down"), probe=False)
    assert gate.breaker.is_open
    caller = Caller(Policies(), NodeMetrics("n", "action"), gate=gate)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(caller.call, hang, 1)
        await hung.wait()
        tasks.cancel_scope.cancel()
    with anyio.fail_after(60):
        assert await caller.call(system, 3) == 3


async def test_a_probe_whose_record_is_bad_tells_nothing() -> None:
    gate = Gate()
    for _ in range(FAILURES_TO_OPEN):
        gate.breaker.failed(TransientError("down"), probe=False)

    async def bad(_: int) -> None:
        raise DataError("bad", rows={0: "bad"})

    caller = Caller(Policies(), NodeMetrics("n", "action"), gate=gate)
    with pytest.raises(DataError):
        await caller.call(bad, 1)
    assert gate.breaker.is_open
    assert await caller.call(System(down=0, up=0), 3) == 3
    assert not gate.breaker.is_open


async def test_probes_come_at_growing_intervals() -> None:
    breaker, moments = Breaker(), []
    for _ in range(FAILURES_TO_OPEN):
        breaker.failed(TransientError("down"), probe=False)
    for _ in range(8):
        assert await breaker.enter(1e9) == "probe"
        moments.append(anyio.current_time())
        breaker.failed(TransientError("down"), probe=True)
    assert moments == [0.25, 0.75, 1.75, 3.75, 7.75, 12.75, 17.75, 22.75]


async def test_a_success_in_between_keeps_it_closed() -> None:
    breaker = Breaker()
    for _ in range(20):
        for _ in range(FAILURES_TO_OPEN - 1):
            breaker.failed(TransientError("down", tag="server"), probe=False)
        breaker.answered()
    assert not breaker.is_open


async def test_retries_are_a_tenth_of_the_traffic() -> None:
    budget = RetryBudget()
    made = Counter[str]()

    async def retry_for_ever() -> None:
        while True:
            await budget.withdraw()
            made["retries"] += 1

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(retry_for_ever)
        for _ in range(10_000):
            budget.deposit()
            await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()
    # 10 s: a reserve of 10, a tenth of 10,000, and one a second.
    assert made["retries"] == pytest.approx(10 + 1000 + 10, abs=2)


async def test_what_was_saved_up_is_bounded() -> None:
    budget = RetryBudget()
    for _ in range(100_000):
        budget.deposit()
    with anyio.move_on_after(0.5):
        for made in range(1000):  # noqa: B007
            await budget.withdraw()
    assert made == 100


async def test_half_of_all_calls_failing_slows_the_run_down_but_ends_it() -> None:
    numbers = iter(range(10**9))
    calls: list[float] = []

    async def every_other(number: int) -> int:
        calls.append(anyio.current_time())
        await anyio.sleep(0.01)
        if next(numbers) % 2:
            raise TransientError("down", tag="server")
        return number

    gate = Gate()
    caller = Caller(
        Policies(retry=Retry(max_retries=20, backoff="fixed", initial_delay_seconds=0.01)),
        NodeMetrics("n", "action"),
        gate=gate,
    )
    async with anyio.create_task_group() as tasks:
        for _ in range(4):

            async def worker() -> None:
                for number in range(100):
                    await caller.call(every_other, number)

            tasks.start_soon(worker)
    seconds = anyio.current_time()
    assert len(calls) - 400 <= 10 + 40 + seconds + 1


def opened(**parts: object) -> Gate:
    gate = Gate(**parts)  # type: ignore[arg-type]
    for _ in range(FAILURES_TO_OPEN):
        gate.breaker.failed(TransientError("down"), probe=False)
    return gate


PATIENT = {"max_retries": 1, "backoff": "fixed", "initial_delay_seconds": 20}


async def test_one_call_may_probe_as_often_as_it_has_the_patience_to() -> None:
    system = System(down=0, up=9)
    assert await work_one(system, opened(), **PATIENT) == 1
    assert len(system.calls) == 6


async def test_a_call_that_probes_gives_up_when_its_patience_is_over() -> None:
    system = System(down=0, up=1e9)
    with pytest.raises(TransientError, match="down at"):
        await work_one(system, opened(), **PATIENT)
    # 20 s of waiting, and the tenth of a second that each probe took.
    assert anyio.current_time() == pytest.approx(20 + 0.1 * len(system.calls))
    assert len(system.calls) == 7


async def test_a_probe_that_is_cancelled_before_it_was_made_leaves_its_place_too() -> None:
    limiter = RateLimiter(RateLimit(requests=1, per="minute"))
    await limiter.take(Cost(requests=1))
    gate = opened(limiters=[limiter])
    system = System(down=0, up=0)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(work_one, system, gate)
        await anyio.sleep(1)
        assert system.calls == []
        tasks.cancel_scope.cancel()
    beside = Gate(gate.breaker, gate.budget)
    assert await work_one(system, beside) == 1
    assert system.calls == [pytest.approx(1)]


async def test_a_probe_takes_nothing_of_the_budget_and_a_refusal_with_a_time_neither() -> None:
    budget = RetryBudget()
    for _ in range(int(RESERVE)):
        await budget.withdraw()
    gate = opened(budget=budget)
    assert await work_one(System(down=0, up=0.5), gate, **PATIENT) == 1
    assert anyio.current_time() == pytest.approx(0.95)

    asked: list[float] = []

    async def limited(_: int) -> int:
        asked.append(anyio.current_time())
        if len(asked) < 4:
            raise TransientError("slow down", tag="rate_limit", retry_after=0.01)
        return 1

    policies = Policies(retry=Retry(initial_delay_seconds=0.001))
    drained = RetryBudget()
    for _ in range(int(RESERVE)):
        await drained.withdraw()
    caller = Caller(policies, NodeMetrics("n", "action"), gate=Gate(budget=drained))
    await caller.call(limited, 1)
    assert asked[-1] - asked[0] == pytest.approx(0.03)
