"""Primitives of data that is not text: rows, files, raw bytes."""

from typing import ClassVar

from nvisy_dagster.sdk.primitives.base import Record
from nvisy_dagster.sdk.primitives.types import Bytes, Offset


class Row(Record):
    """A row of a table or a JSON object; all of its columns are in `columns`."""

    primitive: ClassVar[str] = "row"


class Blob(Record):
    """A file as it is."""

    primitive: ClassVar[str] = "blob"

    data: Bytes
    """Content."""
    mime_type: str | None = None
    """Media type of the content."""
    size: Offset | None = None
    """Length of the content in bytes."""


class Raw(Record):
    """Bytes whose meaning nothing is claimed about, such as a response or a message."""

    primitive: ClassVar[str] = "raw"

    data: Bytes
    """Content."""
    encoding: str | None = None
    """Character encoding when the content is text, such as `utf-8`."""
