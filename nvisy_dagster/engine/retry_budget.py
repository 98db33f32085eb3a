"""How much of the traffic may be retries, so that they do not load a failing system further."""

import anyio

DEPOSIT = 0.1
"""What a first attempt puts in: retries are a tenth of the traffic."""
RESERVE = 10.0
"""Retries that are there at first, and come back by themselves when there is no traffic."""
MOST = 100.0
"""Retries that are kept of a long time without trouble."""
TRICKLE_PER_SECOND = 1.0
"""Retries that come back by themselves: all callers may be waiting for one."""

_ALMOST = 1e-9


class RetryBudget:
    """A token bucket of retries, shared by all that call one system.

    Of `n` first attempts within `t` seconds, at most `n / 10 + t + 10` retries are made. A retry
    beyond that is not refused: it waits, in the order of arrival.
    """

    def __init__(self) -> None:
        self._tokens = RESERVE
        self._then: float | None = None
        self._turn = anyio.Lock()
        self._deposited = anyio.Event()

    def deposit(self) -> None:
        """A first attempt is made."""
        self._tokens = min(MOST, self._tokens + DEPOSIT)
        self._deposited.set()

    async def withdraw(self) -> None:
        """Wait until a retry may be made."""
        async with self._turn:
            while (lacking := 1.0 - self._refilled()) > _ALMOST:
                self._deposited = anyio.Event()
                with anyio.move_on_after(lacking / TRICKLE_PER_SECOND):
                    await self._deposited.wait()
            self._tokens -= 1.0

    def _refilled(self) -> float:
        now = anyio.current_time()
        passed, self._then = now - (now if self._then is None else self._then), now
        if self._tokens < RESERVE:
            self._tokens = min(RESERVE, self._tokens + passed * TRICKLE_PER_SECOND)
        return self._tokens
