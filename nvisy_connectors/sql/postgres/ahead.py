"""Fetching one piece while the one before it is worked on."""

import asyncio
from collections.abc import AsyncGenerator
from typing import TypeVar

import anyio

T = TypeVar("T")


async def one_ahead(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The items of a generator, each asked for before the one before it is consumed.

    A task of its own, not of a group: a generator may not yield inside of one. It is shielded from
    what cancels the consumer, so that it is cancelled once and can close what it has open.
    """
    pending = asyncio.ensure_future(_next(items))
    try:
        while (item := await asyncio.shield(pending)) is not None:
            pending = asyncio.ensure_future(_next(items))
            yield item
    finally:
        pending.cancel()
        with anyio.CancelScope(shield=True):
            await asyncio.gather(pending, return_exceptions=True)
            await items.aclose()


async def _next(items: AsyncGenerator[T, None]) -> T | None:
    return await anext(items, None)
