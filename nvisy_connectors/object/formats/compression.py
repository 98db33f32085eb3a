"""Streams of gzip, zstd and bz2: which objects are some, and their bytes piece by piece."""

import bz2
import zlib
from collections.abc import Generator
from importlib import import_module
from pathlib import Path
from typing import IO, Any, Literal, Protocol, cast

from nvisy_dagster.sdk import ConfigError

Codec = Literal["gzip", "zstd", "bz2"]
ReadCompression = Literal["auto", "none", "gzip", "zstd", "bz2"]
WriteCompression = Literal["none", "gzip", "zstd", "bz2"]

SUFFIXES: dict[str, Codec] = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Endings of keys."""

ENDINGS: dict[str, str] = {codec: suffix for suffix, codec in SUFFIXES.items()} | {"none": ""}

COMPRESSIBLE = frozenset({"text", "jsonl", "csv"})
"""Formats that have no compression of their own."""

PIECE = 64 << 10
"""Bytes that are decoded at once: as many may be lost before the place where a stream is found to
be broken."""

_LEVELS: dict[str, int] = {"gzip": 6, "bz2": 9}
_TOO_SHORT = "it ends too early"


class BrokenStreamError(ValueError):
    """The rest of a stream cannot be decoded."""


def codec_of(key: str, compression: ReadCompression) -> Codec | None:
    """How an object is compressed, `None` if it is not.

    Args:
        key: Its key.
        compression: What the source was told.
    """
    if compression != "auto":
        return None if compression == "none" else compression
    return next((codec for end, codec in SUFFIXES.items() if key.lower().endswith(end)), None)


def without_suffix(key: str, compression: ReadCompression) -> str:
    """The key of what an object holds: `a.md` of `a.md.gz`."""
    codec = codec_of(key, compression)
    suffix = ENDINGS[codec] if codec else ""
    return key[: -len(suffix)] if suffix and key.lower().endswith(suffix) else key


class _Member(Protocol):
    """A decoder of one gzip member, zstd frame or bz2 stream; an object may hold several."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _GzipMember:
    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)  # with the header and the checks of gzip
        self._full = False

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        # What fills the limit exactly may have left some of it within.
        return not self._inner.unconsumed_tail and not self._full

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        found = self._inner.decompress(self._inner.unconsumed_tail + data, max_length)
        self._full = len(found) == max_length
        return found


class StreamDecoder:
    """Decodes one object; all of it blocks, for threads.

    Args:
        codec: How it is compressed.

    Raises:
        ConfigError: What decodes it is not installed.
    """

    def __init__(self, codec: Codec) -> None:
        self._codec: Codec = codec
        self._member: _Member | None = None
        self._members = 0
        self._errors: tuple[type[Exception], ...] = (zlib.error, OSError, EOFError, ValueError)
        if codec == "zstd":
            self._errors = (*self._errors, zstd().ZstdError)

    def feed(self, data: bytes) -> Generator[bytes]:
        """Decode the next bytes into pieces of `PIECE` bytes at most.

        Raises:
            BrokenStreamError: What follows the pieces so far cannot be decoded.
        """
        for start in range(0, len(data), PIECE):
            yield from self._feed(data[start : start + PIECE])

    def finish(self) -> None:
        """Tell that these were all.

        Raises:
            BrokenStreamError: There should be more.
        """
        if self._member is not None:
            raise BrokenStreamError(_TOO_SHORT)

    def _feed(self, data: bytes) -> Generator[bytes]:
        while True:
            if self._member is None:
                # Tapes and disks fill the last block up.
                data = data.lstrip(b"\0") if self._codec == "gzip" and self._members else data
                if not data:
                    return
                self._member = self._begin()
            try:
                found = self._member.decompress(data, PIECE)
            except self._errors as error:
                raise BrokenStreamError(f"{error}") from error
            if found:
                yield found
            if self._member.eof:
                data = self._member.unused_data
                self._member, self._members = None, self._members + 1
            elif self._member.needs_input:
                return
            else:
                data = b""

    def _begin(self) -> _Member:
        if self._codec == "gzip":
            return _GzipMember()
        if self._codec == "bz2":
            return bz2.BZ2Decompressor()
        return cast("_Member", zstd().ZstdDecompressor())


class CompressedFile:
    """A file that is written compressed: the same bytes for the same content.

    Args:
        file: File to make, or one that is open and is closed with this.
        codec: How.

    Raises:
        ConfigError: What encodes it is not installed.
    """

    def __init__(self, file: Path | IO[bytes], codec: Codec) -> None:
        self._file = file.open("wb") if isinstance(file, Path) else file
        self._stream = _encoder(self._file, codec)

    def write(self, data: bytes | memoryview) -> object:
        """Add bytes."""
        return self._stream.write(data)

    def tell(self) -> int:
        """Compressed bytes so far, but for those that the encoder keeps."""
        return self._file.tell()

    def close(self) -> None:
        """Complete the stream; harmless when it is closed."""
        try:
            self._stream.close()
        finally:
            self._file.close()


def open_file(file: Path | IO[bytes], compression: WriteCompression) -> IO[bytes] | CompressedFile:
    """A file to write, compressed or not: one to make, or one that is open.

    Raises:
        ConfigError: What encodes it is not installed.
    """
    if compression != "none":
        return CompressedFile(file, compression)
    return file.open("wb") if isinstance(file, Path) else file


def _encoder(file: IO[bytes], codec: Codec) -> IO[bytes]:
    """What writes to another file, and leaves it open when it is closed."""
    if codec == "gzip":
        import gzip

        level = _LEVELS[codec]
        found = gzip.GzipFile(filename="", mode="wb", compresslevel=level, fileobj=file, mtime=0)
        return cast("IO[bytes]", found)
    if codec == "bz2":
        return cast("IO[bytes]", bz2.BZ2File(file, "wb", compresslevel=_LEVELS[codec]))
    # gzip and bz2 always have what tells a damaged file.
    options = {zstd().CompressionParameter.checksum_flag: 1}
    return cast("IO[bytes]", zstd().ZstdFile(file, "wb", options=options))


def zstd() -> Any:  # noqa: ANN401 - a module
    """The module for zstd, which Python itself has only from 3.14 on.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        return import_module("backports.zstd")
    except ImportError as error:
        raise ConfigError(
            "zstd needs the package backports.zstd, which is not installed",
            remedy='install it with `pip install "nvisy-dagster[object]"`',
            tag="install",
        ) from error
