"""Rate limits: token buckets that calls wait for."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import anyio

from nvisy_dagster.graph.policies import RateLimit

SPAN_SECONDS = {"second": 1.0, "minute": 60.0}
BURST = 20
"""A twentieth of a limit may be spent at once."""

_ALMOST = 1e-9


@dataclass(frozen=True)
class Cost:
    """What a call takes of a rate limit."""

    requests: int = 0
    records: int = 0
    tokens: int = 0


class Limiter(Protocol):
    """Holds calls so that a limit is kept; first come, first served."""

    @property
    def counts_tokens(self) -> bool:
        """Whether it needs to know the tokens of a call."""
        ...

    async def take(self, cost: Cost) -> None:
        """Wait until a call may be made."""
        ...


def limits_of(policy: RateLimit) -> dict[str, int]:
    """What is limited, named as in `Cost`."""
    given = {"requests": policy.requests, "records": policy.records, "tokens": policy.tokens}
    return {name: limit for name, limit in given.items() if limit is not None}


def bucket_size(limit: int) -> float:
    """How much of a limit may be spent at once."""
    return max(1.0, limit / BURST)


class _Bucket:
    """Fills steadily.

    What is taken of it within any one span, by calls that fit it, is at most the limit: what it
    holds and what flows in during a span add up to that.
    """

    def __init__(self, limit: int, span_seconds: float) -> None:
        self._size = bucket_size(limit)
        self._per_second = (limit - self._size + 1.0) / span_seconds
        self._level = self._size
        self._then: float | None = None

    def seconds_until(self, amount: int, now: float) -> float:
        """How long until this much may be taken; more than the bucket holds needs a full one."""
        passed, self._then = now - (now if self._then is None else self._then), now
        self._level = min(self._size, self._level + passed * self._per_second)
        lacking = min(float(amount), self._size) - self._level
        return lacking / self._per_second if lacking > _ALMOST else 0.0

    def take(self, amount: int) -> None:
        """Take it. What is more than there is stays a debt, and whoever comes next waits for it."""
        self._level -= amount


class RateLimiter:
    """Holds the calls of one process so that a limit is kept; first come, first served.

    Calls that fit the buckets, a twentieth of the limit, never take more than the limit in any
    second or minute. A larger one waits until its bucket is full and leaves a debt: over time the
    limit is kept, and no call waits for ever.

    Args:
        policy: The limit.
    """

    def __init__(self, policy: RateLimit) -> None:
        span = SPAN_SECONDS[policy.per]
        self._buckets = {name: _Bucket(limit, span) for name, limit in limits_of(policy).items()}
        self._turn = anyio.Lock()

    @property
    def counts_tokens(self) -> bool:
        """Whether it needs to know the tokens of a call."""
        return "tokens" in self._buckets

    async def take(self, cost: Cost) -> None:
        """Wait until a call may be made."""
        taken = list(self._taken(cost))
        if not taken:
            return
        async with self._turn:
            while wait := self._wait(taken):  # noqa: ASYNC110 - for time to pass
                await anyio.sleep(wait)
            for bucket, amount in taken:
                bucket.take(amount)

    def _taken(self, cost: Cost) -> Iterator[tuple[_Bucket, int]]:
        for name, bucket in self._buckets.items():
            amount: int = getattr(cost, name)
            if amount > 0:
                yield bucket, amount

    @staticmethod
    def _wait(taken: list[tuple[_Bucket, int]]) -> float:
        now = anyio.current_time()
        return max(bucket.seconds_until(amount, now) for bucket, amount in taken)
