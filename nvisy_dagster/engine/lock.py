"""One live run at a time in a stage's folder."""

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from nvisy_dagster.engine.failure import RunConflictError


class StageLock:
    """An exclusive lock on a stage's folder; the system frees it when its process dies.

    Args:
        folder: The stage's folder.
        run_id: Written into the lock, for the message that a second run gets.

    Raises:
        RunConflictError: On entry, if another live run holds it.
    """

    def __init__(self, folder: Path, run_id: str) -> None:
        self._path = folder / "lock"
        self._run_id = run_id
        self._file = -1

    def __enter__(self) -> Self:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(self._file, 200).decode(errors="replace") or "another run"
            os.close(self._file)
            raise RunConflictError(
                f"run {holder} is running this graph now",
                remedy="wait until it ends, or terminate it; then launch again",
            ) from error
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, self._run_id.encode(), 0)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os.close(self._file)
