"""Watching what a component does beside its results: I/O, blocking, leaks, slowness."""

import asyncio
import gc
import sys
import time
import warnings
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from threading import local
from typing import Any

import anyio

PROMPT_SECONDS = 10.0
"""Longest time that closing and cancelling may take: long enough for a busy machine, short enough
to catch what waits for a server."""

SETTLE_SECONDS = 5.0
"""Time that closed sockets and finished tasks have to disappear."""

_IO_EVENTS = frozenset({
    "open",
    "os.listdir",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.scandir",
    "socket.bind",
    "socket.connect",
    "socket.getaddrinfo",
    "sqlite3.connect",
    "subprocess.Popen",
})


class _Watched(local):
    events: list[str] | None = None


_watched = _Watched()
_hooked: list[bool] = []


@contextmanager
def no_io() -> Generator[None]:
    """Refuse files, sockets and processes to this thread, as far as Python's audit events tell.

    Raises:
        AssertionError: At exit, when there was I/O inside.
    """
    if not _hooked:
        sys.addaudithook(_note)  # cannot be removed again, hence once
        _hooked.append(True)
    _watched.events = events = []
    try:
        yield
    finally:
        _watched.events = None
    assert not events, f"pure methods must do no I/O; this one did: {'; '.join(events)}"


def _note(event: str, args: tuple[Any, ...]) -> None:
    if event in _IO_EVENTS and _watched.events is not None:
        _watched.events.append(f"{event}({args[0] if args else ''!r})")


@contextmanager
def no_blocking(allowed: Sequence[tuple[str, Sequence[str]]]) -> Generator[None]:
    """Make calls that block the event loop raise, when `blockbuster` is installed.

    Args:
        allowed: Endings of file names, each with the functions in which blocking is forgiven.
    """
    try:
        from blockbuster import BlockBuster
    except ImportError:
        yield
        return
    guard = BlockBuster()
    for function in guard.functions.values():
        for file_name, names in allowed:
            function.can_block_in(file_name, names)
    guard.activate()
    try:
        yield
    finally:
        guard.deactivate()


@contextmanager
def promptly(what: str) -> Generator[None]:
    """Demand that the block takes less than `PROMPT_SECONDS`.

    Raises:
        AssertionError: It took longer.
    """
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert took < PROMPT_SECONDS, f"{what} took {took:.1f} s, more than {PROMPT_SECONDS} s"


@asynccontextmanager
async def no_leaks() -> AsyncGenerator[list[object]]:
    """Demand that tasks, files and sockets opened inside are gone soon after.

    Gives a list: what is put there is kept alive until all is counted, so that the garbage
    collector closes nothing in the component's stead.

    Raises:
        AssertionError: At exit, when something is left, or only the garbage collector closed it.
    """
    loop = asyncio.get_running_loop()
    complaints: list[str] = []
    previous = loop.get_exception_handler()
    gc.collect()
    tasks, files = asyncio.all_tasks(), _open_files()
    loop.set_exception_handler(lambda _, context: complaints.append(str(context["message"])))
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ResourceWarning)
            alive: list[object] = []
            yield alive
            left = await _left(tasks, files)
            alive.clear()
            gc.collect()
    finally:
        loop.set_exception_handler(previous)
    complaints += [str(w.message) for w in caught if w.category is ResourceWarning]
    assert not left, f"left open after the component was closed: {'; '.join(left)}"
    assert not complaints, f"not closed by the component: {'; '.join(complaints)}"


async def _left(tasks: set[asyncio.Task[Any]], files: dict[int, str]) -> list[str]:
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        left = [repr(task) for task in asyncio.all_tasks() - tasks]
        left += [name for number, name in _open_files().items() if files.get(number) != name]
        if not left or time.monotonic() > deadline:
            return left
        await anyio.sleep(0.02)


def _open_files() -> dict[int, str]:
    """Open descriptors of this process and what each is; none where there is no `/proc`."""
    found: dict[int, str] = {}
    for entry in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):  # the descriptor of the listing itself is gone by now
            found[int(entry.name)] = str(entry.readlink())
    return found
