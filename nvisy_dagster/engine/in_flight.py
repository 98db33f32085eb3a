"""Which records were being worked on when a process died, and whether it died of itself.

Every process that runs a stage has a folder of its own on the local disk. For each call that is in
flight it holds a file with the ids of the call's records; nothing is synced: what a process wrote
outlives it, and only the death of the machine is not told. The files of a process that ended in an
orderly way are removed.
"""

import faulthandler
import inspect
import mmap
import os
import shutil
import struct
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from nvisy_dagster.engine.lease import FencedError, read_lease
from nvisy_dagster.engine.processes import this_process
from nvisy_dagster.engine.storage import safe_name, told

ID_BYTES = 16
_HEADER = struct.Struct("<qq")
_NONE = _HEADER.pack(0, 0)
_PAGE = 1 << 14
_NOTE = "note"
_SHOWN = 600
_ON_PURPOSE = ("nvisy_dagster.", "dagster.", "multiprocessing.", "concurrent.")
"""Modules that end a process because they were asked to."""


@dataclass(frozen=True)
class Call:
    """A call that was in flight when a process died."""

    node: str
    """File name of the node."""
    ids: bytes
    alone: bool
    """Whether nothing else of the stage was in flight."""

    @property
    def count(self) -> int:
        """How many records it had."""
        return len(self.ids) // ID_BYTES


@dataclass(frozen=True)
class Death:
    """What a process left behind that did not end in an orderly way."""

    process: str
    calls: list[Call]
    note: str
    """What it said of its own end: a fatal signal, or a call of `os._exit`. Empty for one that was
    killed from without."""


class Slot:
    """The file of one call at a time, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with told(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(self._file, 0, _PAGE)
                self._map = mmap.mmap(self._file, _PAGE)
            except OSError:
                os.close(self._file)
                raise

    def put(self, records: pa.RecordBatch, *, alone: bool) -> None:
        """A call of these records begins.

        Raises:
            StorageError: The disk is full or refuses.
        """
        ids = records.column("_id")
        size = len(ids) * ID_BYTES
        end = _HEADER.size + size
        if end > len(self._map):
            self._grow(-(-end // _PAGE) * _PAGE)
        first = ids.offset * ID_BYTES
        self._map[_HEADER.size : end] = memoryview(ids.buffers()[1])[first : first + size]
        # The header last: without it, ids that were written in part count for nothing.
        _HEADER.pack_into(self._map, 0, len(ids), alone)

    def clear(self) -> None:
        """The call has returned."""
        self._map[: _HEADER.size] = _NONE

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()
        os.close(self._file)

    def _grow(self, size: int) -> None:
        # Never sparse: a full disk must be told here, not by a fatal signal at the first write.
        with told(self._path):
            os.posix_fallocate(self._file, 0, size)
            self._map.resize(size)


class Recorder:
    """The folder of this process.

    Args:
        folder: Where the folders of all processes are that ran the stage.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / uuid.uuid4().hex
        self._slots: list[Slot] = []
        self._note = -1
        self._had_handler = False
        self._exit: Callable[[int], Any] = os._exit

    def __enter__(self) -> Self:
        with told(self._folder):
            self._folder.mkdir(parents=True)
            self._note = os.open(
                self._folder / _NOTE, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
            )
        # There is one handler in a process: what it wrote is told by whoever comes next.
        self._had_handler = faulthandler.is_enabled()
        faulthandler.enable(self._note, all_threads=False)
        self._exit, os._exit = os._exit, self._noted_exit()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        os._exit = self._exit
        faulthandler.disable()
        if self._had_handler and sys.__stderr__ is not None:
            faulthandler.enable(sys.__stderr__)
        for slot in self._slots:
            slot.close()
        os.close(self._note)
        shutil.rmtree(self._folder, ignore_errors=True)

    def slot(self, node: str) -> Slot:
        """A file more, for calls of a node."""
        slot = Slot(self._folder / f"{safe_name(node)}.{len(self._slots)}.call")
        self._slots.append(slot)
        return slot

    def _noted_exit(self) -> Callable[[int], Any]:
        leave, note, process = self._exit, self._note, os.getpid()

        def noted_exit(status: int) -> Any:  # noqa: ANN401 - it does not return
            frame = inspect.currentframe()
            asks = frame.f_back if frame else None
            caller = str(asks.f_globals.get("__name__", "")) if asks else ""
            if os.getpid() == process and not caller.startswith(_ON_PURPOSE):
                os.write(note, f"os._exit({status}), called by {caller}\n".encode())
            leave(status)

        return noted_exit


def deaths(folder: Path) -> list[Death]:
    """What the processes left behind that ran the stage before, and did not end in an orderly way.

    Only to be asked by whoever holds the stage's lease.

    Args:
        folder: Where the folders of all processes are, in that of the stage.

    Raises:
        FencedError: Another run took over: what is there may be its own.
        StorageError: It cannot be read.
    """
    if not folder.is_dir():
        return []
    with told(folder):
        # Listed first: what a later holder makes after the question is not among them.
        found = [left for left in sorted(folder.iterdir()) if left.is_dir()]
        _check_held(folder.parent)
        return [_death(left) for left in found]


def _check_held(stage: Path) -> None:
    lease = read_lease(stage)
    if lease is not None and not lease.is_of(this_process()):
        raise FencedError(
            f"run {lease.run_id} took over from this one, which was silent for too long",
            remedy="nothing: the other run goes on from the checkpoint",
        )


def bury(folder: Path, death: Death) -> None:
    """Remove what a process left behind."""
    shutil.rmtree(folder / death.process, ignore_errors=True)


def _death(folder: Path) -> Death:
    calls: list[Call] = []
    for file in sorted(folder.glob("*.call")):
        data = file.read_bytes()
        count, alone = _HEADER.unpack_from(data) if len(data) >= _HEADER.size else (0, 0)
        ids = data[_HEADER.size :][: count * ID_BYTES]
        if count and len(ids) == count * ID_BYTES:
            calls.append(Call(file.name.rsplit(".", 2)[0], ids, bool(alone)))
    note = folder / _NOTE
    said = note.read_text(errors="replace").strip() if note.exists() else ""
    return Death(folder.name, calls, " ".join(said.split())[:_SHOWN])
