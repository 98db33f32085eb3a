"""The media types of documents that are parsed, and what else they are called."""

_OFFICE = "application/vnd.openxmlformats-officedocument"

PDF = "application/pdf"
HTML = "text/html"
EMAIL = "message/rfc822"
MARKDOWN = "text/markdown"
PLAIN = "text/plain"

TEXTS = frozenset({HTML, MARKDOWN, PLAIN})
"""Types whose content is text in some encoding."""

IMAGES = frozenset({"image/png", "image/jpeg", "image/tiff"})
"""Types whose text is read by optical character recognition only."""

DOCUMENTS = TEXTS | {
    PDF,
    EMAIL,
    f"{_OFFICE}.wordprocessingml.document",
    f"{_OFFICE}.presentationml.presentation",
    f"{_OFFICE}.spreadsheetml.sheet",
    "application/vnd.oasis.opendocument.text",
    "application/epub+zip",
    "application/rtf",
}
"""Types that are parsed without it."""

_ALIASES = {
    "application/x-pdf": PDF,
    "application/xhtml+xml": HTML,
    "text/rtf": "application/rtf",
    "text/x-markdown": MARKDOWN,
    "image/jpg": "image/jpeg",
}


def plain_name(mime_type: str | None) -> str | None:
    """A media type without parameters, by the name used here."""
    if mime_type is None:
        return None
    name = mime_type.partition(";")[0].strip().lower()
    return _ALIASES.get(name, name)
