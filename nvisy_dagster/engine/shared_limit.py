"""Rate limits that hold over all processes of a machine.

Per limit there is one small file that says when each of its buckets will be full again. A process
that wants to make a call moves those moments on, under the file's lock, and learns when its call
may start: whoever asks next stands behind it, so that processes are served in the order in which
they ask, and nobody polls. The lock is held for some ten microseconds.

What is reserved must be spent within a moment of grace, or it is void. The buckets fill slower by
that grace: however processes are delayed or stopped, no span of time sees more than the limit. A
process that dies takes with it what it has reserved, one call, and nothing else: the system frees
its lock.

The clock is the monotonic one, which on one machine is the same for all and never set; so each
machine, and each boot of it, has a file of its own. A bucket of which nothing is known is full: it
would have filled while the machine booted. One whose file is damaged is empty.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from functools import cache
from math import isfinite
from pathlib import Path
from typing import Any, TypeVar

import anyio

from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.engine.rate_limit import SPAN_SECONDS, Cost, bucket_size, limits_of
from nvisy_dagster.engine.storage import safe_name, told
from nvisy_dagster.graph.policies import RateLimit

T = TypeVar("T")

GRACE_SECONDS = {"second": 0.05, "minute": 0.5}
"""How long what is reserved may be spent."""
LONGEST_GRACE_SECONDS = 10.0
AHEAD = 0.5
"""How much of the grace a process may reserve ahead, at the pace at which it makes calls."""

_BYTES = 512
"""Of the file; always the same, so that it is written whole."""
_LOCK_SECONDS = 30.0
_LOCK_PAUSE_SECONDS = 0.0005
_KEPT_SECONDS = 7 * 24 * 3600.0
_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True)
class _Bucket:
    size: float
    per_second: float


@dataclass(frozen=True)
class _Reserved:
    """Calls that may be made from `start` on, and how the buckets stood before and after."""

    start: float
    calls: int
    before: Mapping[str, float]
    after: Mapping[str, float]


class SharedRateLimiter:
    """Holds calls so that a limit is kept by all processes of the machine that name one file.

    It promises what `RateLimiter` does, and sustains a twentieth less of a limit per second, a
    hundredth less of one per minute.

    Args:
        policy: The limit. Where processes have different ones for one file, each keeps its own,
            and all count for it.
        folder: Where the file is.
        name: What the processes call the limit.
    """

    def __init__(self, policy: RateLimit, folder: Path, name: str) -> None:
        span, self._grace = SPAN_SECONDS[policy.per], GRACE_SECONDS[policy.per]
        self._buckets = {
            name: _bucket(limit, span + self._grace) for name, limit in limits_of(policy).items()
        }
        self._file = _LockedFile(folder, name)
        self._turn = anyio.Lock()
        forget_old(folder)
        self._left: dict[str, int] = {}
        self._left_until = 0.0
        self._calls = 0
        self._asked: float | None = None

    @property
    def counts_tokens(self) -> bool:
        """Whether it needs to know the tokens of a call."""
        return "tokens" in self._buckets

    async def take(self, cost: Cost) -> None:
        """Wait until a call may be made.

        Raises:
            StorageError: The file cannot be written, or another process keeps it locked.
        """
        amounts = {name: getattr(cost, name) for name in self._buckets}
        amounts = {name: amount for name, amount in amounts.items() if amount > 0}
        if not amounts:
            return
        async with self._turn:
            if not self._spend(amounts):
                await self._wait(amounts)
            self._calls += 1

    def _spend(self, amounts: Mapping[str, int]) -> bool:
        """Take it from what is reserved already, if that is enough."""
        left = self._left
        if anyio.current_time() >= self._left_until or any(
            left.get(name, 0) < amount for name, amount in amounts.items()
        ):
            return False
        for name, amount in amounts.items():
            left[name] -= amount
        return True

    async def _wait(self, amounts: Mapping[str, int]) -> None:
        ahead, grace = self._calls_ahead(), self._grace
        while True:
            reserved = await self._file.locked(
                lambda file, grace=grace: self._reserve(file, amounts, ahead, grace)
            )
            try:
                while (wait := reserved.start - anyio.current_time()) > 0:  # noqa: ASYNC110 - time
                    await anyio.sleep(wait)
            except BaseException:
                self._give_back(reserved)
                raise
            if anyio.current_time() < reserved.start + grace:
                break
            # Woken too late: this process is busy. It pays for a longer grace, to get its turn.
            grace = min(2 * grace, LONGEST_GRACE_SECONDS)
        self._left = {name: amount * (reserved.calls - 1) for name, amount in amounts.items()}
        self._left_until = reserved.start + self._grace

    def _calls_ahead(self) -> int:
        """Calls that it will make within a part of the grace, at the pace of late."""
        now, before, calls = anyio.current_time(), self._asked, self._calls
        self._asked, self._calls = now, 0
        if before is None or now <= before:
            return 0
        return int(calls / (now - before) * self._grace * AHEAD)

    def _reserve(
        self, file: "_Open", amounts: Mapping[str, int], ahead: int, grace: float
    ) -> _Reserved:
        now = anyio.current_time()
        before = self._full_at(file, now)
        start = now
        for name, amount in amounts.items():
            bucket = self._buckets[name]
            # A larger call than the bucket holds needs a full one, and leaves a debt.
            rest = bucket.size - min(amount, bucket.size)
            start = max(start, before.get(name, now) - rest / bucket.per_second)
        calls = 1 if start > now else 1 + min(ahead, self._room(before, amounts, now))
        after = dict(before)
        for name, amount in amounts.items():
            seconds = amount * calls / self._buckets[name].per_second + grace - self._grace
            after[name] = max(before.get(name, now), start) + seconds
        file.write({"at": now, "full_at": after})
        return _Reserved(start, calls, before, after)

    def _room(self, full_at: Mapping[str, float], amounts: Mapping[str, int], now: float) -> int:
        """How many such calls there is room for now beside the first one."""
        found: list[int] = []
        for name, amount in amounts.items():
            bucket = self._buckets[name]
            level = bucket.size - max(0.0, full_at.get(name, now) - now) * bucket.per_second
            found.append(max(0, int(level / amount) - 1))
        return min(found)

    def _full_at(self, file: "_Open", now: float) -> dict[str, float]:
        """When each bucket is full, if nothing is taken of it."""
        try:
            said: Any = file.read()
            if said is None:
                return {}
            full_at = {str(name): float(moment) for name, moment in said["full_at"].items()}
            # A clock that goes back is another one than the file was written by.
            valid = now >= float(said["at"]) and all(map(isfinite, full_at.values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            valid, full_at = False, {}
        if valid:
            return full_at
        return {n: now + bucket.size / bucket.per_second for n, bucket in self._buckets.items()}

    def _give_back(self, reserved: _Reserved) -> None:
        """Undo a reservation that is not needed, if nobody stands behind it."""

        def undo(file: _Open) -> None:
            now = anyio.current_time()
            if self._full_at(file, now) == reserved.after:
                file.write({"at": now, "full_at": reserved.before})

        # Otherwise it is as if the call had been made.
        with suppress(OSError, StorageError):
            self._file.try_locked(undo)


class _Open:
    """The file while it is open and locked."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> object:
        """What it says; `None` if it is new.

        Raises:
            ValueError: It is damaged.
        """
        data = os.pread(self._descriptor, 2 * _BYTES, 0)
        if data and len(data) != _BYTES:
            raise ValueError(len(data))
        return json.loads(data) if data else None

    def write(self, document: Mapping[str, object]) -> None:
        """Replace what it says."""
        data = json.dumps(document).encode().ljust(_BYTES)
        os.pwrite(self._descriptor, data, 0)
        if os.fstat(self._descriptor).st_size != len(data):
            os.ftruncate(self._descriptor, len(data))


class _LockedFile:
    """The file, opened anew for each use: it may be removed at any time, and processes fork."""

    def __init__(self, folder: Path, name: str) -> None:
        self._path = folder / f"{safe_name(name)}@{_machine()}.json"

    async def locked(self, use: Callable[[_Open], T]) -> T:
        """Use it while no other process does.

        Raises:
            StorageError: It cannot be written, or another process keeps it locked.
        """
        deadline = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                return self.try_locked(use)
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise StorageError(
                        f"another process keeps {self._path} locked",
                        remedy="a run may have been stopped at that place: continue or kill it",
                    ) from error
            except OSError:
                with told(self._path):
                    raise
            await anyio.sleep(_LOCK_PAUSE_SECONDS)

    def try_locked(self, use: Callable[[_Open], T]) -> T:
        """The same, at once.

        Raises:
            BlockingIOError: Another process uses it.
            OSError: It cannot be written.
        """
        with self._opened() as descriptor:
            flock(descriptor, LOCK_EX | LOCK_NB)
            return use(_Open(descriptor))

    @contextmanager
    def _opened(self) -> Generator[int]:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            descriptor = os.open(self._path, flags, 0o666)
        except FileNotFoundError:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._path, flags, 0o666)
        try:
            yield descriptor
        finally:
            os.close(descriptor)


def _bucket(limit: int, span_seconds: float) -> _Bucket:
    size = bucket_size(limit)
    return _Bucket(size, (limit - size + 1.0) / span_seconds)


def forget_old(folder: Path) -> None:
    """Remove the files of earlier boots, and of machines that are gone."""
    for file in folder.glob("*@*.json"):
        with suppress(OSError):
            old = time.time() - file.stat().st_mtime > _KEPT_SECONDS
            if old and not file.stem.endswith(f"@{_machine()}"):
                file.unlink()


@cache
def _machine() -> str:
    """Names the clock that this process shares with others."""
    try:
        return _BOOT.read_text().strip()
    except OSError:
        return socket.gethostname()
