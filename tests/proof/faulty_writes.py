"""The N-th write of the checkpoint code fails or is its last: `faulty_writes.py FOLDER kill|error`.

For N = 1..200, a child process writes checkpoint after checkpoint under a lease, and its N-th call
of the operating system that changes a disk (open to write, write, flush, fsync, rename, link,
unlink, mkdir) is cut short. Prints, as JSON, for each N what the child had begun and ended, and
what a reader finds.
"""

import io
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from nvisy_dagster.engine.checkpoint import Checkpoint, CheckpointStore, SourcePosition
from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.engine.lease import Lease

CALLS = 200
EPOCHS = 60
GO_ON = 3
"""Checkpoints that are written after the fault."""
_write = os.write


class Fault:
    """Counts calls, and strikes at one of them."""

    def __init__(self, number: int, kind: str) -> None:
        self.left = number
        self.kind = kind

    def step(self, before: Callable[[], object] = lambda: None) -> None:
        """One call; what it still gets done, if it is the one, is `before`."""
        self.left -= 1
        if self.left == 0:
            before()
            if self.kind == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(28, "No space left on device")

    def around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            self.step()
            return real(*args, **options)

        return call


class FaultyFile:
    """A file whose writes are counted; the one that fails writes half."""

    def __init__(self, file: Any, fault: Fault) -> None:
        self._file = file
        self._fault = fault

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, data: Any) -> int:
        def half() -> None:
            self._file.write(data[: len(data) // 2])
            self._file.flush()

        self._fault.step(half)
        return self._file.write(data)

    def flush(self) -> None:
        self._fault.step()
        self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def install(fault: Fault) -> None:
    real = io.open

    def opened(file: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        if not set(mode) & set("wax+"):
            return real(file, mode, *args, **options)
        fault.step()
        return FaultyFile(real(file, mode, *args, **options), fault)

    io.open = opened
    for name in ("fsync", "rename", "replace", "link", "unlink", "mkdir"):
        setattr(os, name, fault.around(getattr(os, name)))


def checkpoint(epoch: int) -> Checkpoint:
    """One that is a few kilobytes long, and torn if it is not read whole."""
    cursor = {"epoch": epoch, "padding": f"{epoch:04d}" * 500}
    return Checkpoint(generation="g", epoch=epoch, sources={"rows": SourcePosition(cursor=cursor)})


def child(folder: Path, number: int, kind: str, told: int) -> None:
    """Write checkpoints; tell what was begun (`b`), ended (`e`), refused (`r`)."""
    fault = Fault(number, kind)
    install(fault)
    after = 0
    try:
        with Lease(folder, "run", 1) as lease:
            store = CheckpointStore(folder / "checkpoint.json", lease)
            store.claim()
            for epoch in range(1, EPOCHS):
                _write(told, f"b{epoch} ".encode())
                try:
                    store.write(checkpoint(epoch))
                    _write(told, f"e{epoch} ".encode())
                except StorageError:
                    _write(told, f"r{epoch} ".encode())
                after += fault.left <= 0
                if after == GO_ON:
                    return
    except StorageError:
        _write(told, b"lease ")


def one(folder: Path, number: int, kind: str) -> dict[str, Any]:
    """What came of a fault at this call."""
    folder.mkdir()
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        code = 3
        try:
            child(folder, number, kind, writer)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader) as told:
        events = told.read().split()
    _, status = os.waitpid(process, 0)
    found = CheckpointStore(folder / "checkpoint.json").read()
    whole = found.model_copy(update={"token": 0}) == checkpoint(found.epoch)
    with Lease(folder, "another", 2) as lease:
        CheckpointStore(folder / "checkpoint.json", lease).write(checkpoint(EPOCHS))
    mended = CheckpointStore(folder / "checkpoint.json").read().epoch == EPOCHS
    return {
        "n": number,
        "exit": os.waitstatus_to_exitcode(status),
        "events": events,
        "found": found.epoch,
        "whole": found.epoch == 0 or whole,
        "mended": mended,
    }


if __name__ == "__main__":
    base = Path(sys.argv[1])
    # What a process has written survives it; a real fsync would only take its time.
    os.fsync = lambda _: None
    # A holder that is killed is known to be dead at once: its process is gone.
    results = [one(base / str(n), n, sys.argv[2]) for n in range(1, CALLS + 1)]
    print(json.dumps(results))  # noqa: T201
