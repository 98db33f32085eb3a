"""Primitives of text."""

from typing import ClassVar

from nvisy_dagster.sdk.primitives.base import Record
from nvisy_dagster.sdk.primitives.types import Count, Offset


class Document(Record):
    """A text as a whole: a file, a page, an article."""

    primitive: ClassVar[str] = "document"

    text: str
    """The text."""
    title: str | None = None
    """What the document is called."""
    mime_type: str | None = None
    """Media type of the object that the text came from."""
    language: str | None = None
    """Language of the text, a BCP 47 tag such as `en`."""


class Chunk(Record):
    """A piece of a document, small enough to embed."""

    primitive: ClassVar[str] = "chunk"

    text: str
    """The piece of text."""
    index: Count
    """Which piece of its document it is, from 0."""
    start: Offset | None = None
    """Where it begins in the document, in characters."""
    end: Offset | None = None
    """Where it ends in the document, in characters, exclusive."""
    tokens: Count | None = None
    """Its length in tokens of the model it is meant for."""
