"""Keeping a few calls in flight ahead of whoever consumes their results.

obstore's calls are futures of asyncio, and a generator may not yield inside a task group: hence
tasks of our own, which are cancelled and awaited before the generator ends. They are shielded from
what cancels the consumer, so that each is cancelled once and can wait for its thread.
"""

import asyncio
from collections import deque
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    MutableSequence,
)
from contextlib import aclosing
from itertools import islice
from typing import Any, TypeVar

import anyio
from anyio import to_thread

T = TypeVar("T")
R = TypeVar("R")

FINISH_SECONDS = 5.0
"""How long a cancelled task waits for a call that should not be left alone."""


async def ordered_map(
    items: AsyncGenerator[T, None], call: Callable[[T], Awaitable[R]], limit: int
) -> AsyncGenerator[R, None]:
    """Results of `call` in the order of the items, up to `limit` calls ahead."""
    pending: deque[asyncio.Future[R]] = deque()
    async with aclosing(items):
        try:
            async for item in items:
                pending.append(asyncio.ensure_future(call(item)))
                if len(pending) >= limit:
                    result = await asyncio.shield(pending[0])
                    pending.popleft()
                    yield result
            while pending:
                result = await asyncio.shield(pending[0])
                pending.popleft()
                yield result
        finally:
            await _cancel(pending)


async def together(calls: Iterable[Coroutine[Any, Any, R]]) -> list[R]:
    """Results of calls that run at once; when one fails, the others are cancelled.

    A task group would do, were it not for the reference cycles that its cancelled tasks leave: they
    hold the client, and so its connections, until the garbage collector comes.
    """
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return [await asyncio.shield(task) for task in tasks]
    finally:
        await _cancel(tasks)


async def in_thread(function: Callable[..., R], *args: object) -> R:
    """Run a function in a worker thread; cancelled, wait until the thread is done with it.

    `to_thread` alone does so only for cancel scopes, not for a task that is cancelled.
    """
    work = asyncio.ensure_future(to_thread.run_sync(function, *args))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        with anyio.CancelScope(shield=True):
            await asyncio.wait([work])
        # Asked for, so that nobody is told of a failure that is of no use any more.
        _ = work.cancelled() or work.exception()
        raise


async def uncancelled(call: asyncio.Future[R], owner: object) -> R:
    """Await a call that must come to its end before its owner may be dropped.

    Cancelled, wait `FINISH_SECONDS` for it; a call that takes longer ends in the background, and
    its owner lives until then.
    """
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        call.add_done_callback(lambda done: (owner, done.cancelled() or done.exception()))
        with anyio.CancelScope(shield=True):
            await asyncio.wait([call], timeout=FINISH_SECONDS)
        raise


async def iterate_in_thread(
    items: Generator[T, None, None], *, ahead: bool = True
) -> AsyncGenerator[T, None]:
    """Items of a generator that blocks, made in a worker thread.

    Args:
        items: The generator; it is closed at the end.
        ahead: Make the next item, and hold it, while the consumer is busy with one.
    """

    def advance() -> list[T]:
        return list(islice(items, 1))

    def begin() -> asyncio.Future[list[T]]:
        return asyncio.ensure_future(in_thread(advance))

    pending = begin()
    try:
        while item := await asyncio.shield(pending):
            if ahead:
                pending = begin()
            yield item.pop()
            if not ahead:
                pending = begin()
    finally:
        await _cancel([pending])
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(items.close)


async def _cancel(tasks: MutableSequence[Any]) -> None:
    for task in tasks:
        task.cancel()
    # A thread cannot be interrupted; what it works on is only released once it is done.
    with anyio.CancelScope(shield=True):
        await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()  # a cancelled task keeps what its frames held, answers of a server too
