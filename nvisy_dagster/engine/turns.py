"""Calls that overlap, and calls that must be alone."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio


class Turns:
    """Many may be under way at once, or one that is alone; those that wait to be alone go first."""

    def __init__(self) -> None:
        self._changed = anyio.Condition()
        self._together = 0
        self._alone = False
        self._waiting = 0

    @asynccontextmanager
    async def together(self) -> AsyncGenerator[None]:
        """Be under way beside others."""
        async with self._changed:
            while self._alone or self._waiting:
                await self._changed.wait()
            self._together += 1
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                async with self._changed:
                    self._together -= 1
                    self._changed.notify_all()

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[None]:
        """Be under way while nothing else is."""
        async with self._changed:
            self._waiting += 1
            try:
                while self._alone or self._together:
                    await self._changed.wait()
                self._alone = True
            finally:
                self._waiting -= 1
                self._changed.notify_all()
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                async with self._changed:
                    self._alone = False
                    self._changed.notify_all()
