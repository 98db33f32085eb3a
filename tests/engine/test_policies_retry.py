"""When a failed call is made again: to the second, in virtual time."""

import random

import anyio
import pytest
from virtual_time import BACKEND

from nvisy_dagster.engine.attempts import patience, retry_delay
from nvisy_dagster.engine.calls import Caller
from nvisy_dagster.engine.metrics import NodeMetrics
from nvisy_dagster.graph.policies import Policies, Retry, Timeout
from nvisy_dagster.sdk import ConfigError, DataError, NvisyError, TransientError

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    return BACKEND


class Flaky:
    """Fails as it is told to, and remembers when it was called."""

    def __init__(self, *errors: Exception | None) -> None:
        self.errors = list(errors)
        self.times: list[float] = []

    async def __call__(self, argument: str) -> str:
        self.times.append(round(anyio.current_time(), 6))
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        return argument


def caller(metrics: NodeMetrics | None = None, **retry: object) -> Caller:
    policies = Policies(retry=Retry.model_validate(retry))
    return Caller(policies, metrics or NodeMetrics("n", "action"))


def refused(**details: object) -> TransientError:
    return TransientError("refused", tag="refused", **details)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("retry", "times"),
    [
        ({"backoff": "fixed", "initial_delay_seconds": 2, "max_retries": 4}, [0, 2, 4, 6, 8]),
        ({"backoff": "exponential", "max_retries": 4}, [0, 1, 3, 7, 15]),
        (
            {"backoff": "exponential", "max_retries": 5, "max_delay_seconds": 3},
            [0, 1, 3, 6, 9, 12],
        ),
        ({"max_retries": 0}, [0]),
    ],
)
async def test_the_pauses_are_those_of_the_policy(retry, times) -> None:
    flaky = Flaky(*[refused()] * 10)
    metrics = NodeMetrics("n", "action")
    with pytest.raises(TransientError, match="refused"):
        await caller(metrics, **retry).call(flaky, "x")
    assert flaky.times == times
    assert metrics.counts.retries == len(times) - 1
    assert metrics.counts.calls == len(times)
    assert metrics.counts.retry_wait_seconds == pytest.approx(times[-1])


async def test_jitter_is_any_part_of_the_exponential_pause(monkeypatch) -> None:
    drawn: list[tuple[float, float]] = []

    def uniform(low: float, high: float) -> float:
        drawn.append((low, high))
        return high / 4

    retry = Retry(backoff="jitter", max_retries=4, initial_delay_seconds=1, max_delay_seconds=6)
    assert [retry_delay(retry, n, None, uniform) for n in (1, 2, 3, 4)] == [0.25, 0.5, 1, 1.5]
    assert drawn == [(0, 1), (0, 2), (0, 4), (0, 6)]
    numbers = random.Random(5)
    delays = [retry_delay(retry, 4, None, numbers.uniform) for _ in range(10_000)]
    assert sum(delays) / len(delays) == pytest.approx(3, rel=0.02)


def test_patience_is_the_sum_of_the_pauses() -> None:
    assert patience(Retry()) == 1 + 2 + 4
    assert patience(Retry(backoff="jitter", max_retries=6)) == 1 + 2 + 4 + 8 + 16 + 30
    assert patience(Retry(backoff="fixed", max_retries=9, initial_delay_seconds=3)) == 27
    assert patience(Retry(max_retries=0)) == 0


async def test_a_call_that_succeeds_in_the_end_returns_what_it_got() -> None:
    flaky = Flaky(refused(), refused())
    assert await caller().call(flaky, "x") == "x"
    assert flaky.times == [0, 1, 3]


async def test_retry_after_goes_before_a_shorter_pause_and_not_before_a_longer_one() -> None:
    flaky = Flaky(refused(retry_after=40), refused(retry_after=0.5))
    await caller().call(flaky, "x")
    assert flaky.times == [0, 40, 42]


async def test_a_pause_that_no_run_should_sit_through_is_not_waited_for() -> None:
    flaky = Flaky(refused(retry_after=601))
    with pytest.raises(TransientError, match="asks to be called again after 601 s"):
        await caller().call(flaky, "x")
    assert anyio.current_time() == 0


@pytest.mark.parametrize("error", [ConfigError("key"), DataError("bad", rows={}), ValueError()])
async def test_what_is_not_transient_is_not_retried(error) -> None:
    flaky = Flaky(error)
    with pytest.raises(type(error)):
        await caller().call(flaky, "x")
    assert flaky.times == [0]


async def test_only_the_tags_that_are_named_are_retried() -> None:
    limited = TransientError("slow down", tag="rate_limit")
    flaky = Flaky(limited, limited, refused(remedy="do"))
    with pytest.raises(NvisyError, match="refused") as caught:
        await caller(on=["rate_limit"]).call(flaky, "x")
    assert flaky.times == [0, 1, 3]
    # Not transient any more: Dagster does not start the stage again for it.
    assert not isinstance(caught.value, TransientError)
    assert (caught.value.tag, caught.value.remedy) == ("refused", "do")


async def test_a_call_that_takes_too_long_is_retried() -> None:
    times: list[float] = []

    async def slow(argument: str) -> None:
        times.append(anyio.current_time())
        await anyio.sleep(100)

    policies = Policies(retry=Retry(max_retries=2), timeout=Timeout(call_seconds=5))
    with pytest.raises(TransientError, match="longer than 5"):
        await Caller(policies, NodeMetrics("n", "action")).call(slow, "x")
    assert times == [0, 6, 13]


async def test_a_reader_reads_on_and_its_retries_are_counted_anew_after_each_item() -> None:
    position, times = 0, []

    async def read():
        times.append(anyio.current_time())
        for number in range(position, 6):
            if len(times) < 8 and number in {1, 4} and times.count(number) < 9:
                fails[number] -= 1
                if fails[number] >= 0:
                    raise TransientError("broken", tag="server")
            yield number

    fails = {1: 2, 4: 3}
    got: list[int] = []
    reading = caller().read_on(read, lambda _: 1)
    async for number in reading:
        got.append(number)
        position = number + 1
    assert got == list(range(6))
    assert times == [0, 1, 3, 4, 6, 10]


async def test_a_reader_gives_up() -> None:
    async def read():
        yield 1
        raise TransientError("broken", tag="format")

    with pytest.raises(TransientError, match="broken"):
        async for _ in caller(max_retries=0).read_on(read, lambda _: 1):
            pass
