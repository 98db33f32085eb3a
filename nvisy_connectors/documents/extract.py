"""What one document becomes; runs in the child process."""

import json
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nvisy_connectors.documents.languages import language_tag
from nvisy_connectors.documents.markup import structure
from nvisy_connectors.documents.media import (
    DOCUMENTS,
    EMAIL,
    HTML,
    IMAGES,
    PLAIN,
    TEXTS,
    plain_name,
)
from nvisy_connectors.documents.pages import find_starts, ranges, without_markers

METADATA = (
    "authors",
    "bcc_emails",
    "attachments",
    "cc_emails",
    "created_at",
    "created_by",
    "description",
    "from_email",
    "keywords",
    "message_id",
    "modified_at",
    "modified_by",
    "pdf_version",
    "producer",
    "sheet_names",
    "subject",
    "to_emails",
)
"""What is kept of what a document says about itself."""

METADATA_BYTES = 16 << 10
"""Longest value of those, as JSON."""

TITLE_CHARACTERS = 1000

_HEAD = re.compile(rb"<head\b", re.IGNORECASE)
_HEAD_END = re.compile(rb"</head\s*>", re.IGNORECASE)
_TITLE = re.compile(rb"<title\b", re.IGNORECASE)
_TITLE_END = re.compile(rb"</title\s*>", re.IGNORECASE)
_CHARSET = re.compile(rb"""charset\s*=\s*["']?([\w.:-]+)""", re.IGNORECASE)


class RefusedError(Exception):
    """A document that cannot be parsed.

    Args:
        tag: Kind of the failure.
        reason: What is wrong, in words that follow the document's name.
    """

    def __init__(self, tag: str, reason: str) -> None:
        super().__init__(reason)
        self.tag = tag
        self.reason = reason


@dataclass(frozen=True)
class Settings:
    """What the parser was told."""

    max_text_bytes: int
    detect_language: bool
    ocr: bool
    ocr_language: str


def extract(data: bytes, mime_type: str | None, settings: Settings) -> dict[str, Any]:
    """Parse one document.

    Raises:
        RefusedError: It cannot be parsed.
    """
    kind = _kind(data, mime_type, settings)
    if kind in TEXTS:
        data = _utf8(data, kind, mime_type)
    # Nobody who writes a document can know it, so no document can forge a page.
    marker = f"nvisy{secrets.token_hex(8)}"
    result, metadata = _parsed(data, kind, settings, marker)
    size = len(result.content.encode())
    if size > settings.max_text_bytes:
        raise RefusedError("too_large", f"has {size} bytes of text; {_limit(settings)}")
    found = (result.detected_languages or [None])[0]
    return {
        "title": _title(metadata, kind),
        "mime_type": kind,
        "language": language_tag(metadata.get("language")) or language_tag(found),
        "metadata": _kept(metadata),
        # As Markdown a plain text would get escapes, and headings that are none.
        **(_unmarked(data.decode()) if kind == PLAIN else _marked(result, metadata, marker)),
    }


def _unmarked(text: str) -> dict[str, Any]:
    return {"text": text, "pages": [], "headings": [], "tables": []}


def _marked(result: Any, metadata: dict[str, Any], marker: str) -> dict[str, Any]:  # noqa: ANN401
    text, starts = without_markers(result.content, marker)
    pages = metadata.get("pages") or {}
    if not starts:
        starts = find_starts(text, _blocks(result))
    headings, tables = structure(text)
    return {
        "text": text,
        "pages": ranges(starts, pages.get("total_count") or 0, len(text)),
        "headings": headings,
        "tables": tables,
    }


def _kind(data: bytes, mime_type: str | None, settings: Settings) -> str:
    """The declared type if that is parsed, else what the content looks like."""
    from kreuzberg import KreuzbergError, detect_mime_type

    wanted = DOCUMENTS | IMAGES if settings.ocr else DOCUMENTS
    declared = plain_name(mime_type)
    if declared in wanted:
        return declared
    try:
        found = plain_name(detect_mime_type(data))
    except (KreuzbergError, ValueError, RuntimeError):
        found = None
    # A text of any kind looks like a plain one: a declared one of another kind is not for us.
    if found in wanted and (found != PLAIN or declared in {None, "application/octet-stream"}):
        return found
    named = next(
        (n for n in (declared, found) if n not in {None, "application/octet-stream"}), None
    )
    if found in IMAGES and not settings.ocr:
        raise RefusedError("format", f'is {found}, which is read with "ocr": true only')
    raise RefusedError("format", f"is {named or 'of no known type'}, which is not parsed")


def _utf8(data: bytes, kind: str, mime_type: str | None) -> bytes:
    """The same text in UTF-8."""
    for mark, encoding in (
        (b"\xef\xbb\xbf", "utf-8-sig"),
        (b"\xff\xfe", "utf-16"),
        (b"\xfe\xff", "utf-16"),
    ):
        if data.startswith(mark):
            return _decoded(data, encoding).encode()
    try:
        data.decode()
    except UnicodeDecodeError:
        pass
    else:
        return data
    told = _CHARSET.search((mime_type or "").encode())
    if told is None and kind == HTML:
        told = _CHARSET.search(data[:4096])
    if told is not None:
        return _decoded(data, told[1].decode("ascii", "replace")).encode()
    from charset_normalizer import from_bytes

    best = from_bytes(data).best()
    if best is None:
        raise RefusedError("encoding", "is text in no known encoding")
    return _decoded(data, best.encoding).encode()


def _decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except (UnicodeDecodeError, LookupError) as error:
        raise RefusedError("encoding", f"is not text in {encoding!r}: {error}") from error


def _parsed(data: bytes, kind: str, settings: Settings, marker: str) -> tuple[Any, dict[str, Any]]:
    if kind != HTML:
        result = _call(data, kind, settings, marker)
        return result, dict(result.metadata)
    # The parser would put the head of a page into its text.
    head, body = _without_head(data)
    metadata = dict(_call(head, kind, settings, marker).metadata) if head else {}
    result = _call(body, kind, settings, marker)
    return result, {**result.metadata, **metadata}


def _without_head(data: bytes) -> tuple[bytes, bytes]:
    for begin, finish in ((_HEAD, _HEAD_END), (_TITLE, _TITLE_END)):
        start = begin.search(data)
        end = finish.search(data, start.end()) if start else None
        if start and end:
            return data[: end.end()], data[: start.start()] + data[end.end() :]
    return b"", data


def _call(data: bytes, kind: str, settings: Settings, marker: str) -> Any:  # noqa: ANN401
    import kreuzberg

    languages = kreuzberg.LanguageDetectionConfig(enabled=True)
    recognition = kreuzberg.OcrConfig(
        backend="tesseract",
        language=settings.ocr_language,
        # A cache would keep what documents hold.
        tesseract_config=kreuzberg.TesseractConfig(language=settings.ocr_language, use_cache=False),
    )
    make: Any = kreuzberg.ExtractionConfig  # its stubs lack some fields
    config = make(
        use_cache=False,
        output_format="markdown",
        include_document_structure=True,
        # It splits and joins words of texts by what it takes for better.
        enable_quality_processing=False,
        pages=kreuzberg.PageConfig(
            extract_pages=True,
            insert_page_markers=True,
            marker_format=f"\n\n{marker}{{page_num}}{marker}\n\n",
        ),
        language_detection=languages if settings.detect_language else None,
        ocr=recognition if settings.ocr else None,
        disable_ocr=not settings.ocr,
        # Grammars of programming languages would be downloaded.
        tree_sitter=kreuzberg.TreeSitterConfig(enabled=False),
        concurrency=kreuzberg.ConcurrencyConfig(max_threads=1),
    )
    try:
        return kreuzberg.extract_bytes_sync(data, kind, config)
    except (kreuzberg.KreuzbergError, ValueError, RuntimeError) as error:
        raise _refused(str(error), kind) from error


def _refused(text: str, kind: str) -> RefusedError:
    reason = " ".join(text.split())[:300]
    lowered = reason.lower()
    if "password" in lowered or "encrypted" in lowered:
        return RefusedError("format", "is encrypted: it can be read with a password only")
    if "security limit" in lowered or "exceeds limit" in lowered or "compression ratio" in lowered:
        return RefusedError("too_large", f"unpacks to more than it may: {reason}")
    return RefusedError("format", f"cannot be read as {kind}: {reason}")


def _blocks(result: Any) -> Iterator[tuple[int, str]]:  # noqa: ANN401
    """Page and text of what the parser found, in order."""
    nodes = (result.document or {}).get("nodes") or []
    if any(node.get("page") for node in nodes):
        for node in nodes:
            text = node["content"].get("text")
            if text and node.get("page"):
                yield node["page"], text
        return
    for page in result.pages or []:
        for line in page["content"].split("\n"):
            yield page["page_number"], line


def _title(metadata: dict[str, Any], kind: str) -> str | None:
    title = metadata.get("title") or (metadata.get("subject") if kind == EMAIL else None)
    if not isinstance(title, str):
        return None
    return " ".join(title.split())[:TITLE_CHARACTERS] or None


def _kept(metadata: dict[str, Any]) -> dict[str, Any]:
    return {
        name: metadata[name]
        for name in METADATA
        if metadata.get(name) not in (None, "", [], {})
        and len(json.dumps(metadata[name], ensure_ascii=False).encode()) <= METADATA_BYTES
    }


def _limit(settings: Settings) -> str:
    return f"`max_text_bytes` allows {settings.max_text_bytes}"
