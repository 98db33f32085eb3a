"""How much is sent at once, by how long the nodes take."""

from collections.abc import Callable

import pytest

from nvisy_dagster.engine import pace as module
from nvisy_dagster.engine.pace import Pace
from nvisy_dagster.graph.policies import Checkpoint as Interval

SECONDS = 4.0
"""The interval: a node should be at work for 1 second at most, and is quick below 0.25."""


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def work(clock: Clock) -> Callable[..., None]:
    def at_work(pace: Pace, seconds: float, *, calls: int = 1, concurrency: int = 1) -> None:
        with pace.at_work("node", concurrency) as work:
            work.calls = calls
            clock.now += seconds

    return at_work


def interval(rows: int | None = None) -> Interval:
    return Interval(interval_seconds=SECONDS, interval_rows=rows)


def test_all_at_once_until_a_node_is_slow(work: Callable[..., None]) -> None:
    pace = Pace(interval())
    pace.begin_with([])
    pace.sent(60_000, requested=0, written=0)
    assert pace.most_rows is None
    work(pace, 20.0, calls=1000)
    pace.sent(60_000, requested=0, written=0)
    assert pace.most_rows == 3_000


def test_begins_with_all_calls_in_flight_once() -> None:
    pace = Pace(interval())
    pace.begin_with([(16, 4), (None, 2)])
    assert pace.most_rows == 128
    pace.begin_with([(100, 4), (None, 2)])
    assert pace.most_rows == 400


def test_grows_while_all_are_quick(work: Callable[..., None]) -> None:
    pace = Pace(interval())
    pace.begin_with([(16, 4)])
    sizes: list[int | None] = []
    for _ in range(4):
        work(pace, 0.01, calls=4, concurrency=4)
        pace.sent(pace.most_rows or 0, requested=0, written=0)
        sizes.append(pace.most_rows)
    assert sizes == [128, 256, 512, 1024]
    work(pace, 0.5, calls=4, concurrency=4)
    pace.sent(1024, requested=0, written=0)
    assert pace.most_rows == 1024


def test_does_not_grow_while_a_node_is_still_at_it(work: Callable[..., None]) -> None:
    pace = Pace(interval())
    pace.begin_with([(16, 4)])
    work(pace, 0.01)
    with pace.at_work("another", 1):
        pace.sent(64, requested=0, written=0)
    assert pace.most_rows == 64


def test_never_so_little_that_calls_stay_unused(work: Callable[..., None]) -> None:
    pace = Pace(interval())
    pace.begin_with([(1, 8)])
    work(pace, 30.0, calls=8, concurrency=8)
    pace.sent(8, requested=0, written=0)
    assert pace.most_rows == 8
    work(pace, 60.0, calls=16, concurrency=8)
    pace.sent(16, requested=0, written=0)
    assert pace.most_rows == 8


def test_grows_while_calls_are_unused(work: Callable[..., None]) -> None:
    """A filter before it leaves little: however slow a call is, more of them could be made."""
    pace = Pace(interval())
    pace.begin_with([(1, 8)])
    work(pace, 5.0, calls=1, concurrency=8)
    pace.sent(8, requested=0, written=0)
    assert pace.most_rows == 16


def test_what_was_sent_before_it_shrank_shrinks_it_no_more(work: Callable[..., None]) -> None:
    pace = Pace(interval())
    pace.begin_with([])
    work(pace, 10.0, calls=1000)
    pace.sent(10_000, requested=3, written=3)
    assert pace.most_rows == 1_000
    work(pace, 10.0, calls=1000)  # of the same size: it was under way
    pace.sent(1_000, requested=4, written=3)
    assert pace.most_rows == 1_000
    work(pace, 2.0, calls=100)
    pace.sent(1_000, requested=4, written=4)
    assert pace.most_rows == 500


def test_rows_of_an_interval_are_a_limit(work: Callable[..., None]) -> None:
    pace = Pace(interval(rows=100))
    pace.begin_with([])
    assert pace.most_rows == 100
    pace.begin_with([(16, 4)])
    for _ in range(3):
        work(pace, 0.01, calls=4, concurrency=4)
        pace.sent(pace.most_rows or 0, requested=0, written=0)
    assert pace.most_rows == 100


def test_without_barriers_there_is_no_limit(work: Callable[..., None]) -> None:
    pace = Pace(None)
    pace.begin_with([(16, 4)])
    work(pace, 100.0, calls=1000)
    pace.sent(1000, requested=0, written=0)
    assert pace.most_rows is None


def test_no_less_than_a_node_gathers_at_once(work: Callable[..., None]) -> None:
    """It would only come together again, and take as long."""
    pace = Pace(interval())
    pace.begin_with([(16, 1)], groups=[500, 20])
    assert pace.most_rows == 500
    for epoch in range(3):
        work(pace, 20.0, calls=10)
        pace.sent(500, requested=epoch, written=epoch)
        assert pace.most_rows == 500
    work(pace, 0.01)
    pace.sent(500, requested=4, written=4)
    assert pace.most_rows == 1000
