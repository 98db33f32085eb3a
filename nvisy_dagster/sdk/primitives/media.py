"""Primitives of images and sound."""

from typing import Annotated, ClassVar

import pyarrow as pa
from pydantic import Field

from nvisy_dagster.sdk.primitives.base import Record
from nvisy_dagster.sdk.primitives.types import Arrow, Bytes, MimeType, Seconds

_Positive = Annotated[int, Field(ge=1, le=2**31 - 1), Arrow(pa.int32())]


class Image(Record):
    """A picture."""

    primitive: ClassVar[str] = "image"

    data: Bytes
    """The encoded picture."""
    mime_type: MimeType
    """Media type of the encoding, such as `image/png`."""
    width: _Positive | None = None
    """Width in pixels."""
    height: _Positive | None = None
    """Height in pixels."""
    caption: str | None = None
    """What the picture shows."""


class Audio(Record):
    """A recording."""

    primitive: ClassVar[str] = "audio"

    data: Bytes
    """The encoded recording."""
    mime_type: MimeType
    """Media type of the encoding, such as `audio/wav`."""
    sample_rate: _Positive | None = None
    """Samples per second."""
    channels: _Positive | None = None
    """Number of channels."""
    duration_seconds: Seconds | None = None
    """Length."""
    transcript: str | None = None
    """What is said."""
