"""Media types of objects, by the endings of their keys and by their content."""

from mimetypes import MimeTypes
from pathlib import PurePosixPath

_OFFICE = "application/vnd.openxmlformats-officedocument"

# Python's own table only: the machine's files would give other types on other machines.
_TYPES = MimeTypes()
for _suffix, _type in (
    (".docx", f"{_OFFICE}.wordprocessingml.document"),
    (".epub", "application/epub+zip"),
    (".flac", "audio/flac"),
    (".heic", "image/heic"),
    (".jsonl", "application/jsonl"),
    (".m4a", "audio/mp4"),
    (".md", "text/markdown"),
    (".msg", "application/vnd.ms-outlook"),
    (".odt", "application/vnd.oasis.opendocument.text"),
    (".ogg", "audio/ogg"),
    (".parquet", "application/vnd.apache.parquet"),
    (".pptx", f"{_OFFICE}.presentationml.presentation"),
    (".rst", "text/x-rst"),
    (".rtf", "application/rtf"),
    (".webp", "image/webp"),
    (".xlsx", f"{_OFFICE}.spreadsheetml.sheet"),
    (".yaml", "text/yaml"),
):
    _TYPES.add_type(_type, _suffix)


def type_of_name(key: str) -> str | None:
    """What the ending of a key says."""
    kind, coding = _TYPES.guess_type(PurePosixPath(key).name)
    if coding is None:
        return kind
    return f"application/{coding}" if coding == "gzip" else f"application/x-{coding}"


def type_of(key: str, data: bytes) -> str | None:
    """What the ending of a key says; of one that says nothing, what the content begins with."""
    import filetype

    return type_of_name(key) or filetype.guess_mime(data)
