"""One call's way through failures: when it is made again, how long it waits, when it gives up."""

import random
from collections.abc import Callable, Generator
from contextlib import contextmanager

import anyio

from nvisy_dagster.engine.gate import Gate
from nvisy_dagster.engine.metrics import Counts
from nvisy_dagster.engine.rate_limit import Cost
from nvisy_dagster.graph.policies import Retry
from nvisy_dagster.sdk import NvisyError, TransientError

LONGEST_RETRY_AFTER_SECONDS = 600.0
"""Longest pause that a system may ask for; beyond it the stage fails, saying so."""

NO_COST = Cost()


def retry_delay(
    retry: Retry,
    attempt: int,
    retry_after: float | None,
    uniform: Callable[[float, float], float] = random.uniform,  # noqa: S311 - guards nothing
) -> float:
    """Seconds to wait before the next attempt.

    `exponential` doubles from the initial delay up to the longest one; `jitter` draws evenly
    between nothing and that ("full jitter", AWS Architecture Blog, 2015). A delay that the system
    asked for is never shortened.

    Args:
        retry: The policy.
        attempt: Attempts made so far, from 1.
        retry_after: Seconds that the system asked for.
        uniform: Draws a number between two others.
    """
    longest = longest_delay(retry, attempt)
    delay = uniform(0.0, longest) if retry.backoff == "jitter" else longest
    return max(delay, retry_after or 0.0)


def longest_delay(retry: Retry, attempt: int) -> float:
    """The pause after so many attempts; of `jitter`, the longest it may draw."""
    if retry.backoff == "fixed":
        return retry.initial_delay_seconds
    # Beyond 2**32 every allowed delay has reached its cap, and floats stay finite.
    grown = retry.initial_delay_seconds * 2.0 ** min(attempt - 1, 32)
    return min(retry.max_delay_seconds, grown)


def patience(retry: Retry) -> float:
    """Seconds that a call may spend waiting in an outage: the pauses of all its retries together.

    Three retries with an exponential pause from one second on are 1 + 2 + 4 = 7 s.
    """
    return sum(longest_delay(retry, attempt) for attempt in range(1, retry.max_retries + 1))


class Attempts:
    """The attempts of one call.

    `begin` before each; afterwards one of `succeeded`, `failed` or `abandoned`. What happens in
    between failures:

    - A transient error whose tag the policy retries uses up an attempt and is followed by the
      policy's pause, and never by less than the system asked for.
    - While the breaker is open the call is held. That uses up no attempt, and neither does a probe
      that fails. But pauses and holds together last at most `patience`: then the call fails with
      the last error that there was.
    - A retry takes one from the retry budget, and waits for it if need be; a probe does not, nor
      does one that the system itself put off (`rate_limit` with a Retry-After).
    - Every attempt takes what it costs of the rate limits.

    Args:
        retry: The policy.
        gate: What the calls of the system share.
        counts: Where retries and waits are counted.
    """

    def __init__(self, retry: Retry, gate: Gate, counts: Counts) -> None:
        self._retry = retry
        self._gate = gate
        self._counts = counts
        self._patience = patience(retry)
        self._made = 0
        self._spent = 0.0
        self._first = True
        self._pays = False
        self._probe = False

    async def begin(self, cost: Cost = NO_COST) -> None:
        """Wait until the next attempt may be made.

        Args:
            cost: What it takes of the rate limits.

        Raises:
            TransientError: The system is down, and the call has waited for it long enough.
        """
        try:
            await self._enter()
            if self._pays and not self._probe:
                with waiting(self._counts, "retry_wait_seconds"):
                    await self._gate.budget.withdraw()
            await self.take(cost)
            if not self._probe:
                # It may have opened in the meantime.
                await self._enter()
        except BaseException:
            self.abandoned()
            raise
        if self._first:
            self._gate.budget.deposit()
        self._first = self._pays = False

    async def take(self, cost: Cost) -> None:
        """Wait until the rate limits allow this much."""
        if cost == NO_COST or not self._gate.limiters:
            return
        with waiting(self._counts, "rate_limit_wait_seconds"):
            for limiter in self._gate.limiters:
                await limiter.take(cost)

    def succeeded(self) -> None:
        """The attempt succeeded; a next one is the first of another call."""
        self._gate.breaker.answered()
        self._made, self._spent, self._probe = 0, 0.0, False
        self._first, self._pays = True, False

    def abandoned(self) -> None:
        """The attempt ended in a way that tells nothing about the system."""
        if self._probe:
            self._probe = False
            self._gate.breaker.abandoned()

    async def failed(self, error: TransientError) -> None:
        """The attempt failed: pause before the next one.

        Raises:
            TransientError: The retries are spent; or the system asks for a pause that no run
                should sit through.
            NvisyError: The policy does not retry such errors.
        """
        probe, self._probe = self._probe, False
        self._gate.breaker.failed(error, probe=probe)
        for_all = probe and self._gate.breaker.is_open
        self._made += not for_all
        self._check(error)
        self._counts.retries += 1
        self._pays = error.tag != "rate_limit" or error.retry_after is None
        asked = error.retry_after or 0.0
        own = 0.0 if for_all else retry_delay(self._retry, self._made, None)
        self._spent += own
        with waiting(self._counts, "retry_wait_seconds"):
            await anyio.sleep(max(own, asked))

    def _check(self, error: TransientError) -> None:
        if self._retry.on is not None and error.tag not in self._retry.on:
            # Not transient for this node: Dagster must not start the stage again either.
            raise NvisyError(error.message, remedy=error.remedy, tag=error.tag) from error
        if self._made > self._retry.max_retries:
            raise error
        if (error.retry_after or 0.0) > LONGEST_RETRY_AFTER_SECONDS:
            raise TransientError(
                f"{error.message}; it asks to be called again after {error.retry_after:,.0f} s",
                retry_after=error.retry_after,
                remedy="run it again then: it goes on from its checkpoint",
                tag=error.tag,
            ) from error

    async def _enter(self) -> None:
        breaker = self._gate.breaker
        if not breaker.is_open:
            return
        started = anyio.current_time()
        with waiting(self._counts, "breaker_wait_seconds"):
            entry = await breaker.enter(started + self._patience - self._spent)
        self._spent += anyio.current_time() - started
        self._probe = entry == "probe"
        if entry == "late" and breaker.error is not None:
            last = breaker.error
            # A copy: several calls may end with the same error, and each has a trace of its own.
            raise TransientError(last.message, remedy=last.remedy, tag=last.tag) from last


@contextmanager
def waiting(counts: Counts, name: str) -> Generator[None]:
    """Add the seconds that the block takes to one of the counts."""
    started = anyio.current_time()
    try:
        yield
    finally:
        setattr(counts, name, getattr(counts, name) + anyio.current_time() - started)
