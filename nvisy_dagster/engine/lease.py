"""One live run at a time in a stage's folder: a lease that is renewed, and can be lost.

<stage>/lease/0000000001.json, 0000000002.json, ...: one file per holder, the last one holds it. A
file is made only if there is none of its number, so of two that take over at once one wins. There
is no lock: a process that is stopped at any line keeps nobody waiting for longer than its lease.

A holder that was stopped and revived finds the next file, and may write nothing any more. What it
has half written cannot appear either: its temporary files are made before it looks, and removed by
the one that took over, after its own file was there.
"""

import os
import re
import threading
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from anyio import to_thread
from pydantic import ValidationError

from nvisy_dagster.engine import storage
from nvisy_dagster.engine.failpoint import failpoint
from nvisy_dagster.engine.failure import RunConflictError, StorageError
from nvisy_dagster.engine.processes import Process, this_process, uptime
from nvisy_dagster.sdk import NvisyError

P = TypeVar("P")
T = TypeVar("T")

LEASE_VARIABLE = "NVISY_LEASE_SECONDS"
DEFAULT_SECONDS = 30.0
RENEWALS = 6
"""Per lease: some may fail, and it is still held."""
FOLDER = "lease"
_NUMBER = re.compile(r"(\d{10})\.json")
_left: set[Path] = set()
"""Leases that this process came to the end of, and could not give back."""


class FencedError(NvisyError):
    """This run was stopped for so long that it lost its lease: it may not write any more."""

    default_tag = "conflict"


def lease_seconds() -> float:
    """How long a lease holds that is not renewed: `$NVISY_LEASE_SECONDS`, else 30."""
    return float(os.environ.get(LEASE_VARIABLE) or DEFAULT_SECONDS)


class LeaseRecord(Process):
    """What a lease file says: who holds it, and when that was last confirmed."""

    run_id: str
    token: int
    """Higher than that of every earlier holder."""
    seconds: float
    """Without renewal it is lost after so long."""
    renewed_at: float
    """Unix time."""
    renewed_uptime: float
    """The same by the clock of the holder's machine that cannot be set."""
    released: bool = False
    """Whether its holder came to an end and let go."""

    @property
    def remaining_seconds(self) -> float:
        """How long it still holds; by the clock of its own machine if that is this one."""
        if self.is_here:
            return self.renewed_uptime + self.seconds - uptime()
        return self.renewed_at + self.seconds - time.time()

    def is_of(self, process: Process) -> bool:
        """Whether this process holds it."""
        return self.model_dump(include=set(Process.model_fields)) == process.model_dump()

    @property
    def is_live(self) -> bool:
        """Whether somebody may still be at work under it."""
        return not (self.released or self.is_known_dead) and self.remaining_seconds > 0


def read_lease(folder: Path) -> LeaseRecord | None:
    """The last lease of a stage's folder; `None` if it never had one."""
    return _last(folder / FOLDER)[1]


class Lease:
    """The right to work in a stage's folder, until it is left or somebody else takes it over.

    Args:
        folder: The stage's folder.
        run_id: Who works there.
        token: Least fencing token; it becomes higher if an earlier holder had it.

    Raises:
        RunConflictError: On entry, if another live run holds it.
    """

    def __init__(self, folder: Path, run_id: str, token: int = 1) -> None:
        self._stage = folder
        self._folder = folder / FOLDER
        self._number = 0
        self._seconds = lease_seconds()
        self._process = this_process()
        self._run_id = run_id
        self.token = token
        """Higher than that of every earlier holder; known on entry."""
        self.taken_from: LeaseRecord | None = None
        """The dead or silent holder before, if it was not given back."""
        self._renewed = 0.0
        self._lost = False
        self._turn = threading.Lock()
        self._ended = threading.Event()
        self._heart: threading.Thread | None = None

    def __enter__(self) -> Self:
        self._acquire()
        # A process that stood still right here must not take away what its successor writes.
        self._confirm()
        storage.remove_temporary(self._stage)
        self._heart = threading.Thread(target=self._beat, name="nvisy-lease", daemon=True)
        self._heart.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._heart is not None:
            self._heart.join()
        # There may be nothing to give back, or nowhere to say so: it runs out by itself. Here it is
        # known all the same, and a retry in this process need not wait for that.
        _left.add(self._path)
        with suppress(FencedError, StorageError):
            self._renew(released=True)
            _left.discard(self._path)

    async def __aenter__(self) -> Self:
        return await to_thread.run_sync(self.__enter__)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Not in a thread: in a cancelled task it would not be called at all.
        self.__exit__(exc_type, exc, traceback)

    def check(self) -> None:
        """Return only if this run still holds the lease; called right before anything is committed.

        Raises:
            FencedError: Another run took over, or it ran out and cannot be renewed.
            StorageError: It cannot be read.
        """
        expired = uptime() - self._renewed > self._seconds
        try:
            if expired:
                self._renew()
            self._confirm()
        except StorageError as error:
            if not expired:
                raise
            raise FencedError(
                f"the lease of run {self._run_id} ran out, and cannot be renewed: {error.message}",
                remedy="run it again: it goes on from the checkpoint",
            ) from error

    def guarded(self, call: Callable[[P], Awaitable[T]]) -> Callable[[P], Awaitable[T]]:
        """The call, refused with `FencedError` once another run took over."""

        async def checked(argument: P) -> T:
            await to_thread.run_sync(self.check)
            return await call(argument)

        return checked

    def _acquire(self) -> None:
        number, last = _last(self._folder)
        if last is not None and last.is_live and self._folder / _name(number) not in _left:
            raise _conflict(last.run_id)
        if last is not None and not (last.released or last.is_here):
            self._watch(number, last)
        if last is not None:
            self.token = max(self.token, last.token + 1)
            self.taken_from = None if last.released else last
        self._number = number + 1
        self._renewed = uptime()
        failpoint("lease.before_create")
        if not storage.create_json(self._path, self._record().model_dump(mode="json")):
            raise _conflict("another" if (now := read_lease(self._stage)) is None else now.run_id)
        failpoint("lease.after_create")
        for older in _numbers(self._folder):
            if older < number:
                storage.remove_file(self._folder / _name(older))

    def _watch(self, number: int, last: LeaseRecord) -> None:
        """See that the holder on another machine is silent: the two clocks may differ."""
        for _ in range(RENEWALS // 2):
            time.sleep(last.seconds / RENEWALS)
            if _last(self._folder) != (number, last):
                raise _conflict(last.run_id)

    @property
    def _path(self) -> Path:
        return self._folder / _name(self._number)

    def _record(self, *, released: bool = False) -> LeaseRecord:
        return LeaseRecord(
            **self._process.model_dump(),
            run_id=self._run_id,
            token=self.token,
            seconds=self._seconds,
            renewed_at=time.time(),
            renewed_uptime=uptime(),
            released=released,
        )

    def _beat(self) -> None:
        while not self._ended.wait(self._seconds / RENEWALS):
            try:
                self._renew()
            except FencedError:
                return
            except StorageError:
                continue

    def _renew(self, *, released: bool = False) -> None:
        with self._turn:
            self._confirm()
            record = self._record(released=released)
            storage.replace_json(self._path, record.model_dump(mode="json"))
            self._renewed = record.renewed_uptime

    def _confirm(self) -> None:
        """Raises `FencedError` if there is a later lease, or this one was removed."""
        numbers = [] if self._lost else _numbers(self._folder)
        if numbers and numbers[-1] == self._number:
            return
        self._lost = True
        record = read_lease(self._stage)
        other = f"run {record.run_id}" if record else "another run"
        raise FencedError(
            f"{other} took over from run {self._run_id}, which was silent for too long",
            remedy="nothing: the other run goes on from the checkpoint",
        )


def _conflict(holder: str) -> RunConflictError:
    return RunConflictError(
        f"run {holder} is running this graph now",
        remedy="wait until it ends, or terminate it; then launch again",
    )


def _name(number: int) -> str:
    return f"{number:010d}.json"


def _numbers(folder: Path) -> list[int]:
    names = map(_NUMBER.fullmatch, storage.names(folder))
    return sorted(int(found[1]) for found in names if found)


def _last(folder: Path) -> tuple[int, LeaseRecord | None]:
    numbers = _numbers(folder)
    if not numbers:
        return 0, None
    path = folder / _name(numbers[-1])
    try:
        document = storage.read_json(path)
        return numbers[-1], None if document is None else LeaseRecord.model_validate(document)
    except (ValueError, ValidationError) as error:
        raise StorageError(
            f"{path} is damaged, or another version of nvisy-dagster wrote it",
            remedy="see that no run of the graph is going on, remove the file, and run again",
        ) from error
