"""Rate limits: nothing beyond them in any span of time, nothing held for ever; in virtual time."""

from collections.abc import Sequence

import anyio
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import BACKEND, VirtualTimeLoop

from nvisy_dagster.engine.calls import Caller
from nvisy_dagster.engine.gate import Gate
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.engine.rate_limit import BURST, SPAN_SECONDS, Cost, RateLimiter
from nvisy_dagster.graph.policies import Policies, RateLimit

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return BACKEND


Taken = list[tuple[float, int]]


async def take_all(limiter: RateLimiter, costs: Sequence[Cost], workers: int = 8) -> Taken:
    taken: Taken = []
    waiting = list(reversed(costs))

    async def worker() -> None:
        while waiting:
            cost = waiting.pop()
            await limiter.take(cost)
            taken.append((anyio.current_time(), cost.requests or cost.records or cost.tokens))

    async with anyio.create_task_group() as tasks:
        for _ in range(workers):
            tasks.start_soon(worker)
    return taken


def most_within(taken: Taken, span: float) -> int:
    """The most that was taken within any span that is open at its end."""
    return max(
        sum(amount for moment, amount in taken if start <= moment < start + span - 1e-6)
        for start, _ in taken
    )


@given(
    limit=st.integers(1, 500),
    per=st.sampled_from(["second", "minute"]),
    calls=st.integers(1, 300),
    workers=st.integers(1, 20),
)
@settings(max_examples=60, deadline=None)
def test_never_more_requests_than_the_limit_in_any_span(limit, per, calls, workers) -> None:
    async def scenario() -> Taken:
        limiter = RateLimiter(RateLimit(requests=limit, per=per))
        return await take_all(limiter, [Cost(requests=1)] * calls, workers)

    taken = anyio.run(scenario, backend_options={"loop_factory": VirtualTimeLoop})
    assert len(taken) == calls
    span = SPAN_SECONDS[per]
    assert most_within(taken, span) <= limit
    # And not much less: the tail of the time is used to nine tenths.
    assert taken[-1][0] <= calls / limit * span * 1.1 + span / limit


@given(
    limit=st.integers(20, 10_000),
    amounts=st.lists(st.integers(1, 30_000), min_size=1, max_size=60),
)
@settings(max_examples=60, deadline=None)
def test_over_time_the_limit_is_kept_whatever_calls_take(limit, amounts) -> None:
    async def scenario() -> Taken:
        limiter = RateLimiter(RateLimit(tokens=limit, per="minute"))
        return await take_all(limiter, [Cost(tokens=amount) for amount in amounts])

    taken = anyio.run(scenario, backend_options={"loop_factory": VirtualTimeLoop})
    # First come, first served: a large call is not passed by small ones for ever.
    assert [amount for _, amount in taken] == amounts
    # What was taken before a call had flowed in by then, but for the bucket itself.
    before = 0
    for moment, amount in taken:
        size = max(1.0, limit / BURST)
        assert before <= moment * limit / 60 + size - min(amount, size) + 1e-3
        before += amount


async def test_a_call_larger_than_the_limit_waits_for_a_full_bucket_not_for_ever() -> None:
    limiter = RateLimiter(RateLimit(tokens=1000, per="second"))
    taken = await take_all(limiter, [Cost(tokens=5000)] * 3, workers=1)
    moments = [moment for moment, _ in taken]
    assert moments[0] == 0
    # 950 and a bit a second flow in.
    assert moments[1] == pytest.approx(5000 / 951)
    assert moments[2] == pytest.approx(2 * 5000 / 951)


async def test_the_scarcest_of_several_limits_rules() -> None:
    limiter = RateLimiter(RateLimit(requests=100, records=20, per="second"))
    started = anyio.current_time()
    for _ in range(10):
        await limiter.take(Cost(requests=1, records=10))
    assert anyio.current_time() - started == pytest.approx(90 / 20, rel=0.05)


async def test_what_is_not_limited_does_not_wait() -> None:
    limiter = RateLimiter(RateLimit(tokens=1, per="minute"))
    for _ in range(1000):
        await limiter.take(Cost(requests=1, records=50))
    assert anyio.current_time() == 0
    assert limiter.counts_tokens


async def test_calls_of_all_nodes_of_a_gate_share_and_the_wait_is_counted() -> None:
    shared = RateLimiter(RateLimit(requests=10, records=1000, per="second"))
    batch = pa.record_batch({"n": list(range(10))})
    metrics = [NodeMetrics("a", "action"), NodeMetrics("b", "sink")]
    moments: list[float] = []

    async def call(_: pa.RecordBatch) -> None:
        moments.append(anyio.current_time())

    async def work(one: NodeMetrics) -> None:
        caller = Caller(Policies(), one, gate=Gate(limiters=[shared]))
        for _ in range(20):
            await caller.call(call, batch)

    async with anyio.create_task_group() as tasks:
        for one in metrics:
            tasks.start_soon(work, one)
    assert len(moments) == 40
    assert max(moments) == pytest.approx(39 / 10)
    waited = [one.counts.rate_limit_wait_seconds for one in metrics]
    assert waited == pytest.approx([3.8, 3.9], abs=0.11)


async def test_tokens_are_asked_for_only_where_they_count() -> None:
    asked: list[int] = []

    def tokens(batch: pa.RecordBatch) -> int:
        asked.append(batch.num_rows)
        return 100

    async def call(_: pa.RecordBatch) -> None:
        pass

    batch = pa.record_batch({"n": [1, 2]})
    for limit in (RateLimit(requests=1), RateLimit(tokens=100, per="second")):
        gate = Gate(limiters=[RateLimiter(limit)])
        caller = Caller(Policies(), NodeMetrics("n", "action"), gate=gate)
        await caller.call(call, batch, tokens)
    assert asked == [2]
    await caller.call(call, batch, tokens)
    # A bucket of 5 had gone to -95, and 96 flow in a second.
    assert anyio.current_time() == pytest.approx(100 / 96)


async def test_every_attempt_counts_for_the_limit() -> None:
    from nvisy_dagster.sdk import TransientError

    moments: list[float] = []

    async def call(_: int) -> None:
        moments.append(anyio.current_time())
        if len(moments) < 4:
            raise TransientError("no", tag="refused")

    gate = Gate(limiters=[RateLimiter(RateLimit(requests=1, per="minute"))])
    await Caller(Policies(), NodeMetrics("n", "action"), gate=gate).call(call, 1)
    assert moments == [0, 60, 120, 180]


async def test_batches_of_a_source_count_as_requests() -> None:
    async def read():
        for number in range(4):
            yield number

    gate = Gate(limiters=[RateLimiter(RateLimit(requests=60, records=40, per="minute"))])
    caller = Caller(Policies(), NodeMetrics("n", "source"), gate=gate)
    moments = [anyio.current_time() async for _ in caller.read_on(read, lambda _: 10)]
    # A bucket of 2 records, and 39 more each minute.
    assert moments == pytest.approx([0, 600 / 39, 1200 / 39, 1800 / 39])
