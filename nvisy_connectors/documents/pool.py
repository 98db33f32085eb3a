"""The processes that parse, as many as asked for."""

from types import TracebackType
from typing import Self

import anyio
import pyarrow as pa

from nvisy_connectors.documents.worker import Crashed, Failed, Limits, Parsed, Worker

ATTEMPTS = 2
"""Processes that may die with a document before it is taken for the cause: the first may have died
of something else."""


class Pool:
    """Processes that each parse one document at a time; made when needed, and replaced.

    Args:
        limits: What one document may take.
        size: Most processes at once.
    """

    def __init__(self, limits: Limits, size: int) -> None:
        self._limits = limits
        self._turns = anyio.Semaphore(size)
        self._idle: list[Worker] = []

    async def __aenter__(self) -> Self:
        """Start the first process, so that what cannot work is told at once."""
        self._idle.append(await Worker.start(self._limits))
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        while self._idle:
            await self._idle.pop().stop()

    async def parse(self, data: pa.Buffer, mime_type: str | None) -> Parsed | Failed:
        """Parse one document.

        Raises:
            ConfigError: No process can be started.
            TransientError: None can be started now.
        """
        async with self._turns:
            reason = ""
            for _ in range(ATTEMPTS):
                outcome = await self._attempt(data, mime_type)
                if not isinstance(outcome, Crashed):
                    return outcome
                reason = outcome.reason
            return Failed("crash", f"crashes the parser: {ATTEMPTS} times of {ATTEMPTS}, {reason}")

    async def _attempt(self, data: pa.Buffer, mime_type: str | None) -> Parsed | Failed | Crashed:
        worker = await self._take()
        try:
            return await worker.parse(data, mime_type)
        finally:
            if worker.is_fit():
                self._idle.append(worker)
            else:
                await worker.stop()

    async def _take(self) -> Worker:
        while self._idle:
            worker = self._idle.pop()
            if worker.is_fit():
                return worker
            await worker.stop()
        return await Worker.start(self._limits)
