"""One process that parses, seen from its parent."""

import fcntl
import json
import os
import signal
import sys
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TypeVar, cast

import anyio
import pyarrow as pa
from anyio import to_thread
from anyio.abc import ByteSendStream, Process
from anyio.streams.buffered import BufferedByteReceiveStream

from nvisy_connectors.documents.child import ANSWER, DOCUMENT, REQUEST
from nvisy_connectors.documents.extract import Settings
from nvisy_connectors.documents.recognition import data_folder
from nvisy_dagster.sdk import ConfigError, TransientError

START_SECONDS = 60.0
"""Longest time that a process may take to be ready."""

WATCH_SECONDS = 0.05
"""How often the memory of a process is looked at."""

END_SECONDS = 1.0
"""Longest time between the end of a process's answers and its own."""

MESSAGE_BYTES = 4096
NAMES_BYTES = 1 << 20
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")

S = TypeVar("S")

_OUT_OF_MEMORY = (b"memory allocation of", b"MemoryError", b"bad_alloc", b"out of memory")

_ENVIRONMENT = ("LANG", "LC_ALL", "PATH", "TMPDIR", "TZ")
"""What a process gets of its parent's environment: no credentials."""


@dataclass(frozen=True)
class Limits:
    """What one document may take."""

    document_seconds: float
    memory_bytes: int
    parser: Settings

    @property
    def answer_bytes(self) -> int:
        """Longest answer: the text, its tables once more, escapes and names."""
        return 4 * self.parser.max_text_bytes + NAMES_BYTES


@dataclass(frozen=True)
class Parsed:
    """A document that was parsed: its JSON."""

    answer: bytes


@dataclass(frozen=True)
class Failed:
    """A document that cannot be parsed, and why."""

    tag: str
    reason: str


@dataclass(frozen=True)
class Crashed:
    """The process is dead, of the document or of anything else."""

    reason: str


class Worker:
    """A process that parses one document after another.

    Args:
        limits: What one document may take.
        process: The process.
        messages: File that it writes its messages to.
    """

    module = "nvisy_connectors.documents.child"

    def __init__(self, limits: Limits, process: Process, messages: IO[bytes]) -> None:
        self._limits = limits
        self._process = process
        self._messages = messages
        self._input: ByteSendStream = _there(process.stdin)
        self._output = BufferedByteReceiveStream(_there(process.stdout))
        self._memory = _open_memory(process.pid)
        self._fit = True
        self._over = False

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    @classmethod
    async def start(cls, limits: Limits) -> "Worker":
        """Start a process and wait until it can parse.

        Raises:
            ConfigError: It cannot work here, nor ever will.
            TransientError: It did not become ready in time, or was killed.
        """
        settings = {
            "parent": os.getpid(),
            "memory_bytes": limits.memory_bytes,
            "answer_bytes": limits.answer_bytes,
            "parser": asdict(limits.parser),
        }
        messages = await to_thread.run_sync(_messages_file)
        try:
            process = await anyio.open_process(
                [sys.executable, "-P", "-m", cls.module, json.dumps(settings)],
                stderr=messages,
                cwd="/",
                env=_environment(limits.parser),
                # So that an interrupt from the keyboard reaches the parent alone.
                start_new_session=True,
            )
        except BaseException:
            messages.close()
            raise
        worker = cls(limits, process, messages)
        try:
            await worker._wait_ready()
        except BaseException:
            await worker.stop()
            raise
        return worker

    async def parse(self, data: pa.Buffer, mime_type: str | None) -> Parsed | Failed | Crashed:
        """Parse one document; if it takes too long or too much memory, the process is spent."""
        self._fit = self._over = False
        outcome: Parsed | Failed | Crashed = Crashed("the parser was not asked")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            outcome = await self._attempt(data, mime_type)
            tasks.cancel_scope.cancel()
        return outcome

    def is_fit(self) -> bool:
        """Whether it can take another document: it lives, and holds little memory."""
        alive = self._fit and self._process.returncode is None
        return alive and self._used() <= self._limits.memory_bytes // 2

    async def stop(self) -> None:
        """Kill the process and wait for its end."""
        with anyio.CancelScope(shield=True):
            self._kill()
            await self._process.wait()
            await self._process.aclose()
            self._messages.close()
            if self._memory is not None:
                os.close(self._memory)
                self._memory = None

    async def _wait_ready(self) -> None:
        try:
            with anyio.fail_after(START_SECONDS):
                await self._answer()
        except TimeoutError as error:
            message = f"a parser was not ready after {START_SECONDS:g} s"
            raise TransientError(message, tag="timeout") from error
        except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.IncompleteRead) as error:
            ended = await self._ending()
            told = self._told().decode("utf-8", "replace").strip().rpartition("\n")[2]
            message = f"a parser {ended} before it was ready: {told or 'it said nothing'}"
            if (self._process.returncode or 0) < 0:
                raise TransientError(message, tag="crash") from error
            raise ConfigError(
                message,
                remedy="check that kreuzberg works in this Python, and that programs may be run "
                "from the folder for temporary files (TMPDIR)",
                tag="install",
            ) from error

    async def _attempt(self, data: pa.Buffer, mime_type: str | None) -> Parsed | Failed | Crashed:
        os.ftruncate(self._messages.fileno(), 0)
        seconds = self._limits.document_seconds
        try:
            with anyio.fail_after(seconds):
                outcome = await self._asked(data, mime_type)
        except TimeoutError:
            return Failed("timeout", f"took longer than `document_seconds`, {seconds:g} s")
        except (anyio.BrokenResourceError, anyio.EndOfStream, anyio.IncompleteRead):
            ended = await self._ending()
            if self._over or any(word in self._told() for word in _OUT_OF_MEMORY):
                allowed = self._limits.memory_bytes
                return Failed("too_large", f"takes more memory than `memory_bytes`, {allowed}")
            return Crashed(f"the parser {ended}")
        self._fit = True
        return outcome

    async def _asked(self, data: pa.Buffer, mime_type: str | None) -> Parsed | Failed:
        head = json.dumps({"mime_type": mime_type}).encode()
        await self._input.send(REQUEST.pack(len(head), len(data)) + head)
        await self._input.send(cast("bytes", memoryview(data)))  # not copied
        kind, text = await self._answer()
        if kind == DOCUMENT:
            return Parsed(text)
        told = json.loads(text)
        return Failed(told["tag"], told["reason"])

    async def _answer(self) -> tuple[bytes, bytes]:
        """An answer's kind and JSON; one that is longer than it may be is none."""
        kind, size = ANSWER.unpack(await self._output.receive_exactly(ANSWER.size))
        if size > self._limits.answer_bytes:
            raise anyio.BrokenResourceError
        return kind, await self._output.receive_exactly(size)

    async def _watch(self) -> None:
        """End the process when it takes too much memory."""
        while self._used() <= self._limits.memory_bytes:  # noqa: ASYNC110 - nobody tells
            await anyio.sleep(WATCH_SECONDS)
        self._over = True
        self._kill()

    async def _ending(self) -> str:
        """How the process ended; one that only fell silent is ended."""
        with anyio.move_on_after(END_SECONDS):
            await self._process.wait()
        code = self._process.returncode
        if code is None:
            self._kill()
            return "broke off its answer"
        if code >= 0:
            return f"exited with status {code}"
        with suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
        return f"was ended by signal {-code}"

    def _told(self) -> bytes:
        """The end of its messages about the last document."""
        file = self._messages.fileno()
        end = os.fstat(file).st_size
        start = max(0, end - MESSAGE_BYTES)
        return os.pread(file, end - start, start)

    def _used(self) -> int:
        """Bytes of memory that the process holds; 0 when nobody tells."""
        if self._memory is None:
            return 0
        try:
            return int(os.pread(self._memory, 256, 0).split()[1]) * PAGE_BYTES
        except (OSError, IndexError):  # it is gone
            return 0

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            # All of its session: what it may have started too.
            os.killpg(self._process.pid, signal.SIGKILL)


def _there(stream: S | None) -> S:
    assert stream is not None, "pipes were asked for"  # noqa: S101 - narrows the type
    return stream


def _messages_file() -> IO[bytes]:
    """A file that can be emptied while another process writes to it."""
    file = tempfile.TemporaryFile()  # noqa: SIM115 - its worker closes it
    fcntl.fcntl(file, fcntl.F_SETFL, fcntl.fcntl(file, fcntl.F_GETFL) | os.O_APPEND)
    return file


def _open_memory(pid: int) -> int | None:
    """What tells the memory of a process, where there is such a thing."""
    try:
        return os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _environment(parser: Settings) -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    if parser.ocr and (folder := data_folder(parser.ocr_language)) is not None:
        kept["TESSDATA_PREFIX"] = str(folder)
    return kept | {
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path),
    }
