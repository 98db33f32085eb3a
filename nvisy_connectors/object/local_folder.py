"""A folder of a local or mounted disk."""

import datetime as dt
import os
import re
import shutil
import stat
from collections.abc import AsyncGenerator, Generator, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
from anyio import to_thread

from nvisy_connectors.object.errors import changed, disk_error
from nvisy_connectors.object.folder import Folder, ObjectInfo, Span
from nvisy_connectors.object.pipeline import in_thread
from nvisy_connectors.object.read_memory import Bytes, Piece, ReadMemory
from nvisy_dagster.sdk import ConfigError

PAGE_OBJECTS = 1000


class LocalFolder(Folder):
    """Files below one folder; nothing outside of it can be reached, by links neither.

    Files and folders whose name begins with a dot are not listed, linked folders not entered.
    Plain file calls in threads: they cost a fifth of an object store client's per small file.

    Args:
        root: Absolute path of the folder, as the user means it.
        only: Name of the one file to see.
    """

    def __init__(self, root: Path, *, only: str | None = None) -> None:
        self.root = root
        self._real = root.resolve()
        self._only = only
        self.whole_names = only is None  # who names a file means it, whatever its name
        self._uri = root.as_uri().rstrip("/")
        self._unsynced: set[Path] = set()
        """Folders whose names are not durable yet."""

    def uri(self, key: str) -> str:
        """`file:///absolute/path`."""
        return f"{self._uri}/{quote(key)}" if key else self._uri

    async def listing(self, after: str | None = None) -> AsyncGenerator[Sequence[ObjectInfo], None]:
        """Files sorted by key."""
        files = self._one_file(after) if self._only else self._walk(self.root, "", after)
        while page := await to_thread.run_sync(lambda: list(islice(files, PAGE_OBJECTS))):
            yield page

    async def head(self, key: str) -> ObjectInfo | None:
        """The file as it is now."""
        return await to_thread.run_sync(self._head, key)

    async def fetch(self, spans: Sequence[Span], memory: ReadMemory | None = None) -> list[Bytes]:
        """One thread reads one span after the other: a disk gains nothing from more."""
        return await in_thread(lambda: [self._read(span, memory) for span in spans])

    def open(self, info: ObjectInfo) -> pa.NativeFile:
        """Open the file if it is the version that was listed."""
        with self._errors(info.key):
            if self._info(info.key, self._path(info.key).stat()) != info:
                raise changed(self.uri(info.key))
            return pa.OSFile(str(self._path(info.key)))

    def read_on(self, info: ObjectInfo, start: int, size: int) -> Iterator[Piece]:
        """From a place to the end of the file if it is the version that was listed."""
        for at in range(start, info.size, size):
            yield self._read(Span(info, at, min(at + size, info.size)), None)

    async def make_spool(self, writer: str, holder: int) -> Path:
        """A hidden folder beside the files, so that publishing is a rename."""
        spool = self.root / f".nvisy-{writer}.{holder}"

        def make() -> None:
            with self._errors(spool.name, writing=True):
                # Of this writer alone: the name of another may begin with its name and a dot.
                own = re.compile(rf"\.nvisy-{re.escape(writer)}\.\d+")
                for left in self.root.glob(".nvisy-*"):
                    if own.fullmatch(left.name):
                        shutil.rmtree(left, ignore_errors=True)
                spool.mkdir(parents=True)

        await to_thread.run_sync(make)
        return spool

    async def publish(self, file: Path, key: str) -> None:
        """Rename into place, once the content is on the disk."""
        # Not `to_thread`: given up while it waits for the disk, it would rename later all the same.
        await in_thread(self._publish, file, key)

    async def flush(self) -> None:
        """Make names durable."""
        await to_thread.run_sync(self._sync_all)

    async def delete(self, keys: Sequence[str]) -> None:
        """Unlink files."""

        def unlink() -> None:
            for key in keys:
                with self._errors(key, writing=True):
                    self._path(key).unlink(missing_ok=True)
                self._unsynced.add(self._path(key).parent)

        await to_thread.run_sync(unlink)

    @contextmanager
    def _errors(self, key: str, *, writing: bool = False) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise disk_error(error, self.uri(key), writing=writing) from error

    def _path(self, key: str) -> Path:
        return self.root / key

    def _info(self, key: str, found: os.stat_result) -> ObjectInfo:
        moment = dt.datetime.fromtimestamp(found.st_mtime_ns // 10**9, dt.UTC)
        modified = moment.replace(microsecond=found.st_mtime_ns // 1000 % 10**6)
        return ObjectInfo(key, found.st_size, f"{found.st_size:x}-{found.st_mtime_ns:x}", modified)

    def _head(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise disk_error(error, self.uri(key)) from error
        self._check_inside(path)
        return self._info(key, found) if stat.S_ISREG(found.st_mode) else None

    def _one_file(self, after: str | None) -> Iterator[ObjectInfo]:
        name = self._only or ""
        if (after is None or name > after) and (info := self._head(name)):
            yield info

    def _walk(self, folder: Path, prefix: str, after: str | None) -> Iterator[ObjectInfo]:
        with self._errors(prefix), os.scandir(folder) as entries:
            # A folder sorts as if its name ended in "/", which makes this the order of whole keys.
            found = sorted(
                (_name(entry, self.uri(prefix)), entry)
                for entry in entries
                if not entry.name.startswith(".")
            )
        for name, entry in found:
            key = prefix + name
            if name.endswith("/"):
                if after is None or after < key or after.startswith(key):
                    yield from self._walk(folder / name, key, after)
            elif after is None or key > after:
                info = self._entry(key, entry)
                if info is not None:
                    yield info

    def _entry(self, key: str, entry: os.DirEntry[str]) -> ObjectInfo | None:
        try:
            found = entry.stat()
        except FileNotFoundError:  # deleted since, or a link to nothing
            return None
        except OSError as error:
            raise disk_error(error, self.uri(key)) from error
        if not stat.S_ISREG(found.st_mode):
            return None
        if entry.is_symlink():
            self._check_inside(Path(entry.path))
        return self._info(key, found)

    def _check_inside(self, path: Path) -> None:
        if not path.resolve().is_relative_to(self._real):
            raise ConfigError(
                f"{path} leads outside of {self.root}",
                remedy="copy what it links to into the folder, or leave it out with `glob`",
                tag="path",
            )

    def _read(self, span: Span, memory: ReadMemory | None) -> Bytes:
        info = span.info
        with self._errors(info.key), self._path(info.key).open("rb") as file:
            if self._info(info.key, os.fstat(file.fileno())) != info:
                raise changed(self.uri(info.key))
            file.seek(span.start)
            if memory is None:
                data = file.read(span.size)
                read = len(data)
            else:
                data = memory.take(span.size)
                read = file.readinto(data)
            if read < span.size:
                raise changed(self.uri(info.key))
            if self._info(info.key, os.fstat(file.fileno())) != info:
                raise changed(self.uri(info.key))
        return data

    def _publish(self, file: Path, key: str) -> None:
        with self._errors(key, writing=True):
            if not file.exists() and self._path(key).exists():
                return  # an earlier call came this far
            with file.open("rb") as written:
                os.fsync(written.fileno())
            self._make_parents(key)
            file.rename(self._path(key))

    def _make_parents(self, key: str) -> None:
        """Make the folders of a partition; a link in the place of one leads elsewhere."""
        folder = self.root
        for name in key.split("/")[:-1]:
            self._unsynced.add(folder)
            folder /= name
            folder.mkdir(exist_ok=True)
            if folder.is_symlink():
                raise ConfigError(
                    f"{folder} is a link, in the place of a partition's folder",
                    remedy="put a folder in its place",
                    tag="path",
                )
        self._unsynced.add(folder)

    def _sync_all(self) -> None:
        for folder in sorted(self._unsynced | {self.root}):
            if folder == self.root or folder.exists():
                self._sync(folder)
        self._unsynced.clear()

    def _sync(self, folder: Path) -> None:
        with self._errors("", writing=True):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _name(entry: os.DirEntry[str], where: str) -> str:
    try:
        entry.name.encode()
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"a file name in {where} is not UTF-8: {entry.name!r}",
            remedy="rename the file",
            tag="path",
        ) from error
    return f"{entry.name}/" if entry.is_dir(follow_symlinks=False) else entry.name
