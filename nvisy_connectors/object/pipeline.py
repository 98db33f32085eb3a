"""Keeping a few calls in flight ahead of whoever consumes their results.

obstore's calls are futures of asyncio, and a generator may not yield inside a task group: hence
tasks of our own, which are cancelled and awaited before the generator ends.
"""

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator
from contextlib import aclosing
from typing import Any, TypeVar

import anyio
from anyio import to_thread

T = TypeVar("T")
R = TypeVar("R")


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
                    result = await pending[0]
                    pending.popleft()
                    yield result
            while pending:
                result = await pending[0]
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
        return [await task for task in tasks]
    finally:
        await _cancel(tasks)


async def in_thread(items: Iterator[T]) -> AsyncGenerator[T, None]:
    """Items of an iterator that blocks, made in a worker thread, one ahead of the consumer."""
    end = object()

    async def advance() -> T | object:
        return await to_thread.run_sync(next, items, end)

    pending = asyncio.ensure_future(advance())
    try:
        while (item := await pending) is not end:
            pending = asyncio.ensure_future(advance())
            yield item  # pyright: ignore[reportReturnType] - only `end` is no T
    finally:
        await _cancel([pending])
        close = getattr(items, "close", None)
        if close is not None:
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(close)


async def _cancel(tasks: "deque[asyncio.Future[R]] | list[asyncio.Future[R]]") -> None:
    for task in tasks:
        task.cancel()
    # A thread cannot be interrupted; what it works on is only released once it is done.
    with anyio.CancelScope(shield=True):
        await asyncio.gather(*tasks, return_exceptions=True)
    tasks.clear()  # a cancelled task keeps what its frames held, answers of a server too
